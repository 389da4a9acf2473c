//! QoS 1 and 2, windows, queues and redelivery.

use causeway_protocol::{
    Ack, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, PublishProperties, ReasonCode,
};

use super::world::*;

fn ack(id: u16) -> Ack<'static> {
    Ack::new(packet_id(id), ReasonCode::Success)
}

fn windowed(client_id: &str, window: u16) -> Connect<'_> {
    let mut connect = persistent(client_id);
    connect.properties.receive_maximum = Some(window);
    connect
}

#[test]
fn exactly_once_inbound() {
    //= test [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12]
    let mut world = World::new();
    let client = world.join(connect("c"));
    world.subscribe(client, "t", options(0));
    world.heard(client);
    world.publish(client, publish(2, 5, "t", "once"));
    world.publish(client, publish(2, 5, "t", "once"));
    assert_eq!(world.heard(client), ["pub q0 t=once", "pubrec p5", "pubrec p5"]);
    world.send(client, Packet::PubRel(ack(5)));
    world.send(client, Packet::PubRel(ack(5)));
    assert_eq!(world.heard(client), ["pubcomp p5", "pubcomp p5 0x92"]);
    world.publish(client, publish(2, 5, "t", "new"));
    assert_eq!(world.heard(client), ["pub q0 t=new", "pubrec p5"]);
}

#[test]
fn exactly_once_inbound_survives_a_reconnect() {
    let mut world = World::new();
    let watcher = world.join(connect("w"));
    world.subscribe(watcher, "t", options(0));
    let client = world.join(persistent("c"));
    world.publish(client, publish(2, 5, "t", "once"));
    world.hang_up(client);
    let client = world.join(persistent("c"));
    world.publish(client, publish(2, 5, "t", "once"));
    assert_eq!(world.heard(client), ["pubrec p5"]);
    assert_eq!(world.heard(watcher), ["suback 00", "pub q0 t=once"]);
}

#[test]
fn exactly_once_outbound_and_what_a_resume_repeats() {
    //= test [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.4.0-1] [MQTT-4.6.0-1]
    let mut world = World::new();
    let subscriber = world.join(persistent("s"));
    world.subscribe(subscriber, "t", options(2));
    let publisher = world.join(connect("p"));
    for payload in ["a", "b", "c"] {
        world.publish(publisher, publish(2, 1, "t", payload));
        world.send(publisher, Packet::PubRel(ack(1)));
    }
    assert_eq!(world.heard(subscriber), ["suback 02", "pub q2 p1 t=a", "pub q2 p2 t=b", "pub q2 p3 t=c"]);
    world.send(subscriber, Packet::PubRec(ack(1)));
    world.send(subscriber, Packet::PubRec(ack(2)));
    world.send(subscriber, Packet::PubComp(ack(2)));
    assert_eq!(world.heard(subscriber), ["pubrel p1", "pubrel p2"]);
    world.hang_up(subscriber);
    let (subscriber, said) = world.dial(persistent("s"));
    assert_eq!(said, ["connack 0x00 present", "pubrel p1", "pub q2 p3 dup t=c"]);
    world.send(subscriber, Packet::PubComp(ack(1)));
    world.send(subscriber, Packet::PubRec(ack(3)));
    world.send(subscriber, Packet::PubComp(ack(3)));
    world.send(subscriber, Packet::PubComp(ack(3)));
    assert_eq!(world.heard(subscriber), ["pubrel p3"]);
    assert_eq!(world.shard.gauges().inflight_messages, 0);
}

#[test]
fn a_refused_pubrec_ends_the_exchange() {
    let mut world = World::new();
    let subscriber = world.join(connect("s"));
    world.subscribe(subscriber, "t", options(2));
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(2, 1, "t", "a"));
    world.send(subscriber, Packet::PubRec(Ack::new(packet_id(1), ReasonCode::QuotaExceeded)));
    assert_eq!(world.heard(subscriber), ["suback 02", "pub q2 p1 t=a"]);
    assert_eq!(world.shard.counters().refused_by_subscriber, 1);
    world.send(subscriber, Packet::PubRec(ack(9)));
    assert_eq!(world.heard(subscriber), ["pubrel p9 0x92"]);
}

#[test]
fn the_clients_window_is_never_overrun_and_always_refilled() {
    //= test [MQTT-3.3.4-9] [MQTT-4.9.0-2]
    let mut world = World::new();
    let subscriber = world.join(windowed("s", 2));
    world.subscribe(subscriber, "t", options(2));
    let publisher = world.join(connect("p"));
    for payload in ["1", "2", "3", "4"] {
        world.publish(publisher, publish(1, 1, "t", payload));
    }
    assert_eq!(world.heard(subscriber), ["suback 02", "pub q1 p1 t=1", "pub q1 p2 t=2"]);
    world.puback(subscriber, 2);
    assert_eq!(world.heard(subscriber), ["pub q1 p3 t=3"]);
    // A reconnect with a smaller window sends again no more than it allows.
    world.hang_up(subscriber);
    let (subscriber, said) = world.dial(windowed("s", 1));
    assert_eq!(said, ["connack 0x00 present", "pub q1 p1 dup t=1"]);
    world.puback(subscriber, 1);
    assert_eq!(world.heard(subscriber), ["pub q1 p3 dup t=3"]);
    world.puback(subscriber, 3);
    assert_eq!(world.heard(subscriber), ["pub q1 p4 t=4"]);
    // The quota is whole again on the next connection.
    world.hang_up(subscriber);
    let (_, said) = world.dial(windowed("s", 10));
    assert_eq!(said, ["connack 0x00 present", "pub q1 p4 dup t=4"]);
}

#[test]
fn a_repeated_pubrel_takes_no_place_in_the_window() {
    let mut world = World::new();
    let subscriber = world.join(windowed("s", 1));
    world.subscribe(subscriber, "t", options(2));
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(2, 1, "t", "1"));
    world.publish(publisher, publish(1, 2, "t", "2"));
    world.publish(publisher, publish(1, 3, "t", "3"));
    world.send(subscriber, Packet::PubRec(ack(1)));
    world.hang_up(subscriber);
    let (subscriber, said) = world.dial(windowed("s", 1));
    assert_eq!(said, ["connack 0x00 present", "pubrel p1", "pub q1 p2 t=2"]);
    // PUBCOMP of the old exchange does not make room for a second one.
    world.send(subscriber, Packet::PubComp(ack(1)));
    assert_eq!(world.heard(subscriber), Vec::<String>::new());
    world.puback(subscriber, 2);
    assert_eq!(world.heard(subscriber), ["pub q1 p3 t=3"]);
}

#[test]
fn a_client_that_overruns_our_receive_maximum_is_told() {
    //= test [MQTT-3.3.4-7]
    let mut world = World::with(|limits| limits.receive_maximum = 2);
    let client = world.join(connect("c"));
    for id in 1..=3 {
        world.publish(client, publish(2, id, "t", "x"));
    }
    assert_eq!(world.heard(client), ["pubrec p1 0x10", "pubrec p2 0x10", "disconnect 0x93"]);
}

#[test]
fn a_full_queue_refuses_and_nobody_gets_the_message() {
    let mut world = World::with(|limits| limits.session_queue_messages_max = 2);
    let offline = world.join(persistent("offline"));
    world.subscribe(offline, "t", options(1));
    world.disconnect(offline);
    let online = world.join(connect("online"));
    world.subscribe(online, "t", options(1));
    world.heard(online);
    let publisher = world.join(connect("p"));
    for id in 1..=3 {
        world.publish(publisher, publish(1, id, "t", "x"));
    }
    world.publish(publisher, publish(2, 4, "t", "x"));
    assert_eq!(world.heard(publisher), ["puback p1", "puback p2", "puback p3 0x97", "pubrec p4 0x97"]);
    assert_eq!(world.heard(online), ["pub q1 p1 t=x", "pub q1 p2 t=x"]);
    // QoS 0 needs no queue.
    world.publish(publisher, publish(0, 0, "t", "y"));
    assert_eq!(world.heard(online), ["pub q0 t=y"]);
    // A refused QoS 2 identifier is free again.
    world.publish(publisher, publish(2, 4, "other", "x"));
    assert_eq!(world.heard(publisher), ["pubrec p4 0x10"]);
    // Whoever speaks 3.1.1 keeps its message, because it gets no acknowledgement.
    let old = world.join(Connect { version: ProtocolVersion::V311, ..connect("old") });
    world.publish(old, publish(1, 1, "t", "x"));
    assert_eq!(world.heard(old), Vec::<String>::new());
    assert!(!world.shard.is_open(old.id));
    // Once there is room, all is well.
    let (_, said) = world.dial(persistent("offline"));
    assert_eq!(said, ["connack 0x00 present", "pub q1 p1 t=x", "pub q1 p2 t=x"]);
    world.publish(publisher, publish(1, 9, "t", "z"));
    assert_eq!(world.heard(publisher), ["puback p9"]);
}

#[test]
fn a_queue_is_bounded_in_bytes_too() {
    let mut world = World::with(|limits| limits.session_queue_bytes_max = 100);
    let offline = world.join(persistent("s"));
    world.subscribe(offline, "t", options(1));
    world.disconnect(offline);
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t", &"x".repeat(90)));
    world.publish(publisher, publish(1, 2, "t", &"x".repeat(90)));
    world.publish(publisher, publish(1, 3, "t", "x"));
    assert_eq!(world.heard(publisher), ["puback p1", "puback p2 0x97", "puback p3"]);
}

#[test]
fn a_slow_client_loses_only_qos_0_and_is_no_longer_listened_to() {
    let mut world = World::with(|limits| limits.outbox_bytes_max = 10_000);
    let slow = world.join(connect("slow"));
    world.subscribe(slow, "t", options(1));
    let publisher = world.join(connect("p"));
    let payload = "x".repeat(1000);
    for _ in 0..100 {
        world.publish(publisher, publish(0, 0, "t", &payload));
    }
    let dropped = world.shard.counters().dropped_slow_consumer;
    assert!((85..95).contains(&dropped), "{dropped}");
    assert!(world.shard.wants_input(slow.id), "deliveries alone stop nobody from talking");
    for _ in 0..10_000 {
        world.send(slow, Packet::PingReq);
    }
    assert!(!world.shard.wants_input(slow.id));
    for id in 1..=100 {
        world.publish(publisher, publish(1, id, "t", "kept"));
    }
    let heard = world.heard(slow);
    assert_eq!(heard.iter().filter(|word| word.ends_with("t=kept")).count(), 100);
    assert!(world.shard.wants_input(slow.id));
}

#[test]
fn stray_acknowledgements_harm_nobody() {
    let mut world = World::new();
    let client = world.join(connect("c"));
    world.puback(client, 1);
    world.send(client, Packet::PubComp(ack(2)));
    assert!(world.heard(client).is_empty());
    world.subscribe(client, "t", options(2));
    world.publish(client, publish(2, 1, "t", "x"));
    world.heard(client);
    // PUBACK can't end a QoS 2 exchange, and PUBCOMP can't skip PUBREC.
    world.puback(client, 1);
    world.send(client, Packet::PubComp(ack(1)));
    assert_eq!(world.shard.gauges().inflight_messages, 1);
    world.send(client, Packet::PubRec(ack(1)));
    assert_eq!(world.heard(client), ["pubrel p1"]);
}

#[test]
fn acknowledgement_properties_of_a_v5_client_reach_the_log_only() {
    let mut world = World::new();
    let properties = ConnectProperties { request_problem_information: Some(false), ..ConnectProperties::default() };
    let client = world.join(Connect { properties, ..connect("c") });
    world.publish(client, publish(1, 1, "nobody", "x"));
    assert_eq!(world.heard(client), ["puback p1 0x10"]);
}

#[test]
fn expired_messages_keep_no_live_ones_out() {
    for filter in ["t", "$share/g/t"] {
        let mut world = World::with(|limits| limits.session_queue_messages_max = 2);
        let offline = world.join(persistent("offline"));
        world.subscribe(offline, filter, options(1));
        world.disconnect(offline);
        let publisher = world.join(connect("p"));
        for id in 1..=2 {
            let properties = PublishProperties { message_expiry_interval_seconds: Some(1), ..Default::default() };
            world.publish(publisher, Publish { properties, ..publish(1, id, "t", "short") });
        }
        world.publish(publisher, publish(1, 3, "t", "refused"));
        world.wait(2000);
        world.publish(publisher, publish(1, 4, "t", "taken"));
        assert_eq!(world.heard(publisher), ["puback p1", "puback p2", "puback p3 0x97", "puback p4"], "{filter}");
        assert_eq!(world.shard.counters().dropped_expired, 2);
    }
}

#[test]
fn what_is_in_flight_counts_against_the_bytes_of_a_session() {
    let mut world = World::with(|limits| limits.session_queue_bytes_max = 250);
    let subscriber = world.join(connect("s"));
    world.subscribe(subscriber, "t", options(1));
    let publisher = world.join(connect("p"));
    let payload = "x".repeat(99);
    for id in 1..=3 {
        world.publish(publisher, publish(1, id, "t", &payload));
    }
    assert_eq!(world.heard(publisher), ["puback p1", "puback p2", "puback p3 0x97"]);
    world.puback(subscriber, 1);
    world.publish(publisher, publish(1, 4, "t", &payload));
    assert_eq!(world.heard(publisher), ["puback p4"]);
}

#[test]
fn what_an_earlier_connection_left_unreleased_does_not_count() {
    let mut world = World::with(|limits| limits.receive_maximum = 2);
    let client = world.join(persistent("c"));
    for id in 1..=2 {
        world.publish(client, publish(2, id, "x", "x"));
    }
    world.hang_up(client);
    let client = world.join(persistent("c"));
    world.publish(client, publish(2, 3, "x", "x"));
    assert_eq!(world.heard(client), ["pubrec p3 0x10"]);
}
