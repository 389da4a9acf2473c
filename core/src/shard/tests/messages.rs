//! Routing: filters, QoS, retained messages, options, identifiers, aliases, expiry.

use std::num::NonZeroU16;

use causeway_protocol::{
    Connect, ConnectProperties, Packet, ProtocolVersion, Publish, PublishProperties, RetainHandling, Subscribe,
    SubscriptionOptions, Unsubscribe,
};

use super::world::*;

fn retained<'a>(qos: u8, id: u16, topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish { retain: true, ..publish(qos, id, topic, payload) }
}

#[test]
fn delivery_qos_is_the_lower_of_message_and_subscription() {
    //= test [MQTT-3.8.4-8]
    for published in 0..3u8 {
        for asked in 0..3u8 {
            let mut world = World::new();
            let subscriber = world.join(connect("s"));
            world.subscribe(subscriber, "t", options(asked));
            let publisher = world.join(connect("p"));
            world.publish(publisher, publish(published, u16::from(published > 0), "t", "x"));
            let expected = match published.min(asked) {
                0 => "pub q0 t=x".to_owned(),
                qos => format!("pub q{qos} p1 t=x"),
            };
            assert_eq!(world.heard(subscriber)[1..], [expected]);
        }
    }
}

#[test]
fn versions_meet_on_the_same_topics() {
    let mut world = World::new();
    let versions = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];
    let names = ["a", "b", "c"];
    let clients: Vec<Client> =
        versions.iter().zip(names).map(|(&version, name)| world.join(Connect { version, ..connect(name) })).collect();
    for &client in &clients {
        world.subscribe(client, "t/+", options(1));
        world.heard(client);
    }
    for &publisher in &clients {
        world.publish(publisher, publish(1, 7, "t/x", "m"));
        for &client in &clients {
            let heard = world.heard(client);
            assert!(heard.iter().any(|word| word.ends_with("t/x=m")), "{heard:?}");
        }
    }
}

#[test]
fn overlapping_subscriptions_make_one_delivery_with_all_identifiers() {
    //= test [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
    let mut world = World::new();
    let subscriber = world.join(connect("s"));
    world.subscribe_with(subscriber, "a/b", options(0), Some(1));
    world.subscribe_with(subscriber, "a/+", options(2), Some(2));
    world.subscribe_with(subscriber, "#", options(1), None);
    world.heard(subscriber);
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(2, 1, "a/b", "x"));
    assert_eq!(world.heard(subscriber), ["pub q2 p1 s1 s2 a/b=x"]);
}

#[test]
fn no_local_and_retain_as_published() {
    //= test [MQTT-3.8.3-3] [MQTT-3.3.1-12] [MQTT-3.3.1-13]
    let mut world = World::new();
    let (a, b) = (world.join(connect("a")), world.join(connect("b")));
    world.subscribe(a, "t", SubscriptionOptions { no_local: true, ..options(0) });
    world.subscribe(b, "t", SubscriptionOptions { retain_as_published: true, ..options(0) });
    world.publish(a, retained(0, 0, "t", "x"));
    assert_eq!(world.heard(a), ["suback 00"]);
    assert_eq!(world.heard(b), ["suback 00", "pub q0 retain t=x"]);
    world.publish(b, retained(0, 0, "t", "y"));
    assert_eq!(world.heard(a), ["pub q0 t=y"]);
}

#[test]
fn retained_messages_and_retain_handling() {
    //= test [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8] [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
    let mut world = World::new();
    let client = world.join(connect("c"));
    world.publish(client, retained(1, 1, "a/1", "old"));
    world.publish(client, retained(1, 1, "a/1", "new"));
    world.publish(client, retained(1, 1, "a/2", "gone"));
    world.publish(client, retained(1, 1, "a/2", ""));
    world.publish(client, retained(0, 0, "$x/1", "hidden"));
    world.heard(client);
    let handling = |retain_handling| SubscriptionOptions { retain_handling, ..options(1) };
    let rows = [
        ("a/+", RetainHandling::Always, vec!["suback 01", "pub q1 l1 retain a/1=new"]),
        ("a/+", RetainHandling::IfNew, vec!["suback 01"]),
        ("#", RetainHandling::IfNew, vec!["suback 01", "pub q1 l2 retain a/1=new"]),
        ("a/#", RetainHandling::Never, vec!["suback 01"]),
        ("$share/g/a/#", RetainHandling::Always, vec!["suback 01"]),
        ("$x/+", RetainHandling::Always, vec!["suback 01", "pub q0 retain $x/1=hidden"]),
    ];
    for (filter, retain_handling, expected) in rows {
        world.subscribe(client, filter, handling(retain_handling));
        assert_eq!(world.heard(client), expected, "{filter} {retain_handling:?}");
    }
}

#[test]
fn retained_messages_are_bounded_and_the_refusal_leaves_no_trace() {
    let mut world = World::with(|limits| limits.retained_messages_max = 1);
    let client = world.join(connect("c"));
    world.subscribe(client, "#", options(1));
    world.publish(client, retained(1, 1, "a", "x"));
    world.publish(client, retained(1, 2, "b", "y"));
    world.publish(client, retained(1, 3, "a", "z"));
    let heard = world.heard(client);
    assert_eq!(heard, ["suback 01", "pub q1 p1 a=x", "puback p1", "puback p2 0x97", "pub q1 p2 a=z", "puback p3"]);
}

#[test]
fn many_retained_messages_come_as_the_client_takes_them() {
    let mut world = World::new();
    let client = world.join(connect("c"));
    let payload = "x".repeat(500);
    let topics: Vec<String> = (0..1000).map(|number| format!("r/{number}")).collect();
    for topic in &topics {
        world.publish(client, retained(0, 0, topic, &payload));
    }
    world.subscribe(client, "r/#", options(0));
    let waiting = world.shard.outbox(client.id).unwrap().bytes();
    assert!(waiting < 100_000, "{waiting} bytes wait at once");
    // What is replaced before its turn is not sent twice, and never after its successor.
    world.publish(client, retained(0, 0, "r/999", "new"));
    let heard = world.heard(client);
    assert_eq!(heard.iter().filter(|word| word.starts_with("pub")).count(), 1000);
    assert_eq!(heard.iter().filter(|word| word.contains("r/999=")).collect::<Vec<_>>(), ["pub q0 r/999=new"]);
    assert_eq!(world.shard.backlog_messages, 0);
}

#[test]
fn expiry_counts_down_and_ends_messages() {
    //= test [MQTT-3.3.2-5] [MQTT-3.3.2-6]
    let expiring = |seconds, retain| Publish {
        retain,
        properties: PublishProperties { message_expiry_interval_seconds: Some(seconds), ..Default::default() },
        ..publish(1, 1, "t", "x")
    };
    let mut world = World::new();
    let subscriber = world.join(persistent("s"));
    world.subscribe(subscriber, "t", options(1));
    world.disconnect(subscriber);
    let publisher = world.join(connect("p"));
    world.publish(publisher, expiring(5, false));
    world.publish(publisher, expiring(20, true));
    world.wait(10_000);
    let (_, said) = world.dial(persistent("s"));
    assert_eq!(said, ["connack 0x00 present", "pub q1 p2 e10 t=x"]);
    assert_eq!(world.shard.counters().dropped_expired, 1);
    assert_eq!(world.shard.gauges().retained_messages, 1);
    world.wait(11_000);
    assert_eq!(world.shard.gauges().retained_messages, 0);
}

#[test]
fn aliases_in_both_directions() {
    //= test [MQTT-3.3.2-12]
    let mut world = World::with(|limits| limits.topic_alias_maximum = 2);
    let properties = ConnectProperties { topic_alias_maximum: Some(1), ..ConnectProperties::default() };
    let subscriber = world.join(Connect { properties, ..connect("s") });
    world.subscribe(subscriber, "#", options(0));
    let publisher = world.join(connect("p"));
    let aliased = |topic, alias| Publish {
        properties: PublishProperties { topic_alias: NonZeroU16::new(alias), ..Default::default() },
        ..publish(0, 0, topic, "x")
    };
    world.publish(publisher, aliased("a", 1));
    world.publish(publisher, aliased("", 1));
    world.publish(publisher, aliased("b", 1));
    world.publish(publisher, aliased("", 1));
    let heard = world.heard(subscriber);
    assert_eq!(heard, ["suback 00", "pub q0 a1 a=x", "pub q0 a1 =x", "pub q0 b=x", "pub q0 b=x"]);
    world.publish(publisher, aliased("", 2));
    assert_eq!(world.heard(publisher), ["disconnect 0x82"]);
    let publisher = world.join(connect("p"));
    world.publish(publisher, aliased("a", 3));
    assert_eq!(world.heard(publisher), ["disconnect 0x94"]);
}

#[test]
fn a_client_never_gets_more_than_it_accepts() {
    //= test [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    let mut world = World::new();
    let properties = ConnectProperties { maximum_packet_size_bytes: Some(40), ..ConnectProperties::default() };
    let subscriber = world.join(Connect { properties, ..connect("s") });
    world.subscribe(subscriber, "t", options(1));
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t", &"x".repeat(100)));
    world.publish(publisher, publish(1, 1, "t", "ok"));
    assert_eq!(world.heard(subscriber), ["suback 01", "pub q1 p2 t=ok"]);
    assert_eq!(world.shard.counters().dropped_packet_too_large, 1);
}

#[test]
fn a_client_that_cannot_be_sent_a_connack_is_closed() {
    let mut world = World::new();
    let properties = ConnectProperties { maximum_packet_size_bytes: Some(8), ..ConnectProperties::default() };
    let (client, said) = world.dial(Connect { properties, ..connect("c") });
    assert_eq!(said, ["connack 0x95"]);
    assert_eq!(world.closes(), [client.id]);
}

#[test]
fn sys_topics_are_told_and_nobody_else_may() {
    let mut world = World::with(|limits| limits.sys_interval_seconds = 10);
    let client = world.join(Connect { keep_alive_seconds: 0, ..connect("c") });
    world.subscribe(client, "$SYS/broker/uptime", options(0));
    world.wait(10_500);
    let heard = world.heard(client);
    assert_eq!(heard, ["suback 00", "pub q0 $SYS/broker/uptime=0 seconds", "pub q0 $SYS/broker/uptime=10 seconds"]);
    world.publish(client, publish(1, 1, "$SYS/broker/uptime", "lie"));
    assert_eq!(world.heard(client), ["puback p1 0x87"]);
    let old = world.join(Connect { version: ProtocolVersion::V311, ..connect("d") });
    world.publish(old, publish(1, 1, "$SYS/x", "lie"));
    assert!(!world.shard.is_open(old.id), "a 3.x client can only be told by closing");
}

#[test]
fn unsubscribe_answers_for_each_filter() {
    //= test [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-5]
    let mut world = World::new();
    let client = world.join(connect("c"));
    world.subscribe(client, "t", options(0));
    world.unsubscribe(client, "t");
    world.unsubscribe(client, "t");
    world.unsubscribe(client, "t/#/x");
    assert_eq!(world.heard(client), ["suback 00", "unsuback 00", "unsuback 11", "unsuback 8F"]);
    world.publish(client, publish(0, 0, "t", "x"));
    assert_eq!(world.heard(client), Vec::<String>::new());
}

#[test]
fn refused_subscriptions() {
    let mut world = World::with(|limits| {
        limits.subscriptions_per_session_max = 1;
        limits.topic_levels_max = 3;
    });
    let client = world.join(connect("c"));
    for (filter, expected) in
        [("a/#/b", "8F"), ("a+", "8F"), ("a/b/c/d", "8F"), ("$share/g", "8F"), ("$share/g+/t", "8F"), ("a", "00")]
    {
        world.subscribe(client, filter, options(0));
        assert_eq!(world.heard(client), [format!("suback {expected}")], "{filter}");
    }
    world.subscribe(client, "b", options(0));
    world.subscribe(client, "a", options(1));
    assert_eq!(world.heard(client), ["suback 97", "suback 01"]);
}

#[test]
fn a_packet_only_a_server_may_send_ends_the_connection() {
    let mut world = World::new();
    let client = world.join(connect("c"));
    world.send(client, Packet::PingResp);
    assert_eq!(world.heard(client), ["disconnect 0x82"]);
    assert_eq!(world.closes(), [client.id]);
}

#[test]
fn retained_messages_that_wait_are_bounded_for_each_session() {
    let mut world = World::with(|limits| limits.retained_backlog_max = 100);
    let publisher = world.join(connect("p"));
    let payload = "x".repeat(5000);
    for number in 0..60 {
        world.publish(publisher, retained(0, 0, &format!("r/{number}"), &payload));
    }
    let greedy = world.join(connect("greedy"));
    let filters = ["r/+", "r/#", "+/+", "other"];
    let filters = filters.map(|filter| (filter, options(0))).to_vec();
    let (packet_id, user_properties) = (packet_id(1), Vec::new());
    let subscribe = Subscribe { packet_id, subscription_identifier: None, user_properties, filters };
    world.send(greedy, Packet::Subscribe(subscribe));
    let heard = world.heard(greedy);
    assert_eq!(heard[0], "suback 00,97,97,00");
    assert_eq!(heard.len(), 61, "what was granted is sent");
    // Nobody else is refused meanwhile.
    let modest = world.join(connect("modest"));
    world.subscribe(modest, "r/1", options(0));
    assert_eq!(world.heard(modest).len(), 2);
}

#[test]
fn a_suback_that_does_not_fit_ends_the_connection() {
    let mut world = World::new();
    let properties = ConnectProperties { maximum_packet_size_bytes: Some(40), ..ConnectProperties::default() };
    let client = world.join(Connect { properties, ..connect("c") });
    let names: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    let filters = names.iter().map(|name| (name.as_str(), options(0))).collect();
    let (packet_id, user_properties) = (packet_id(1), Vec::new());
    let subscribe = Subscribe { packet_id, subscription_identifier: None, user_properties, filters };
    world.send(client, Packet::Subscribe(subscribe));
    assert_eq!(world.heard(client), ["disconnect 0x95"]);
}

#[test]
fn a_will_obeys_no_local() {
    let mut world = World::new();
    let client = world.join(with_will(persistent("c"), "will", 0));
    world.subscribe(client, "will", SubscriptionOptions { no_local: true, ..options(1) });
    world.hang_up(client);
    assert_eq!(world.dial(persistent("c")).1, ["connack 0x00 present"]);
}

#[test]
fn an_alias_never_makes_a_message_too_large() {
    let mut world = World::new();
    let properties = ConnectProperties {
        topic_alias_maximum: Some(10),
        maximum_packet_size_bytes: Some(64),
        ..ConnectProperties::default()
    };
    let client = world.join(Connect { properties, ..connect("c") });
    world.subscribe(client, "t", options(0));
    // Fixed header 2, topic 3, properties 1.
    world.publish(client, publish(0, 0, "t", &"x".repeat(58)));
    world.publish(client, publish(0, 0, "t", &"x".repeat(59)));
    let heard = world.heard(client);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[1].starts_with("pub q0 t=xx"));
}

#[test]
fn nothing_follows_a_disconnect() {
    //= test [MQTT-3.14.4-1]
    let mut world = World::new();
    let client = world.join(persistent("c"));
    world.durable_at_once = false;
    world.subscribe(client, "t", options(1));
    world.send(client, Packet::PingResp);
    world.sync();
    assert_eq!(world.heard(client), ["disconnect 0x82"]);
}

#[test]
fn suback_and_unsuback_keep_their_order_and_fit() {
    let mut world = World::new();
    let mut connect = persistent("c");
    connect.properties.maximum_packet_size_bytes = Some(40);
    let client = world.join(connect);
    world.durable_at_once = false;
    world.subscribe(client, "t", options(1));
    world.unsubscribe(client, "t");
    assert_eq!(world.heard(client), Vec::<String>::new());
    world.sync();
    assert_eq!(world.heard(client), ["suback 01", "unsuback 00"]);
    world.durable_at_once = true;
    let names: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    let filters = names.iter().map(String::as_str).collect();
    let (packet_id, user_properties) = (packet_id(1), Vec::new());
    world.send(client, Packet::Unsubscribe(Unsubscribe { packet_id, user_properties, filters }));
    assert_eq!(world.heard(client), ["disconnect 0x95"]);
}

#[test]
fn a_filter_that_stands_twice_in_one_packet_brings_retained_messages_once() {
    let mut world = World::new();
    let client = world.join(connect("c"));
    world.publish(client, retained(0, 0, "r", "x"));
    let filters = vec![("r", options(1)), ("r", options(0))];
    let (packet_id, user_properties) = (packet_id(1), Vec::new());
    let subscribe = Subscribe { packet_id, subscription_identifier: None, user_properties, filters };
    world.send(client, Packet::Subscribe(subscribe));
    assert_eq!(world.heard(client), ["suback 01,00", "pub q0 retain r=x"]);
}

#[test]
fn many_sessions_are_surveyed_in_a_few_calls() {
    let mut world = World::new();
    for number in 0..50 {
        let client = world.join(persistent(&format!("c{number}")));
        world.subscribe(client, "a", options(1));
        if number % 2 == 0 {
            world.disconnect(client);
        }
    }
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "a", "hello"));
    let all = world.shard.gauges();
    assert_eq!((all.inflight_messages, all.queued_messages), (25, 25));
    let calls = world.shard.gauges().sessions.div_ceil(10) + 20;
    let surveyed: Vec<_> = (0..calls).map(|_| world.shard.survey_of(10)).collect();
    assert_eq!(surveyed[0], crate::Gauges { queued_bytes: 0, inflight_messages: 0, ..all }, "not whole yet");
    assert_eq!(surveyed.last(), Some(&all));
    assert_eq!(world.shard.survey(), all);
}

#[test]
fn what_many_get_is_the_same_for_those_only_for_whom_it_can_be() {
    let mut world = World::new();
    let publisher = world.join(connect("p"));
    let old = Connect { version: ProtocolVersion::V311, ..connect("old") };
    let small = |mut connect: Connect<'static>| {
        connect.properties.maximum_packet_size_bytes = Some(40);
        connect
    };
    let aliased = |mut connect: Connect<'static>| {
        connect.properties.topic_alias_maximum = Some(4);
        connect
    };
    let clients = [
        (world.join(connect("plain")), options(0), None),
        (world.join(connect("other")), options(0), None),
        (world.join(old), options(0), None),
        (world.join(connect("published")), SubscriptionOptions { retain_as_published: true, ..options(0) }, None),
        (world.join(connect("named")), options(0), Some(7)),
        (world.join(small(connect("small"))), options(0), None),
        (world.join(aliased(connect("aliased"))), options(0), None),
    ];
    for (client, options, identifier) in clients {
        world.subscribe_with(client, "t", options, identifier);
        world.heard(client);
    }
    world.publish(publisher, publish(0, 0, "t", "one"));
    world.publish(publisher, retained(0, 0, "t", "two"));
    world.publish(publisher, publish(0, 0, "t", "and one that is larger than forty bytes, and by far"));
    let plain = ["pub q0 t=one", "pub q0 t=two", "pub q0 t=and one that is larger than forty bytes, and by far"];
    let expected = [
        plain.to_vec(),
        plain.to_vec(),
        plain.to_vec(),
        vec!["pub q0 t=one", "pub q0 retain t=two", plain[2]],
        vec!["pub q0 s7 t=one", "pub q0 s7 t=two", "pub q0 s7 t=and one that is larger than forty bytes, and by far"],
        plain[..2].to_vec(),
    ];
    for ((client, ..), expected) in clients.into_iter().zip(expected) {
        assert_eq!(world.heard(client), expected);
    }
    assert_eq!(world.heard(clients[6].0).len(), 3);
}
