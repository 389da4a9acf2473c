//! What waits for the log, and in which order it is let go.

use causeway_protocol::{Ack, Connect, Packet, ProtocolVersion, Publish, PublishProperties, ReasonCode};

use super::world::*;
use crate::Lsn;

#[test]
fn nothing_owed_is_acknowledged_or_delivered_before_it_is_durable() {
    for qos in 1..=2 {
        let mut world = World::new();
        let keeper = world.join(persistent("keeper"));
        world.subscribe(keeper, "t", options(2));
        world.heard(keeper);
        world.durable_at_once = false;
        let publisher = world.join(connect("p"));
        world.publish(publisher, publish(qos, 1, "t", "x"));
        assert!(world.heard(publisher).is_empty(), "acknowledged before sync");
        assert!(world.heard(keeper).is_empty(), "delivered before sync");
        world.sync();
        assert_eq!(world.heard(publisher).len(), 1);
        assert_eq!(world.heard(keeper), [format!("pub q{qos} p1 t=x")]);
    }
}

#[test]
fn what_nobody_is_owed_is_acknowledged_at_once() {
    let mut world = World::new();
    world.durable_at_once = false;
    let subscriber = world.join(connect("s"));
    world.subscribe(subscriber, "t", options(1));
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t", "x"));
    assert_eq!(world.heard(publisher), ["puback p1"]);
    assert_eq!(world.heard(subscriber), ["suback 01", "pub q1 p1 t=x"]);
    assert!(world.shard.take_group().is_none());
}

#[test]
fn acknowledgements_keep_the_order_of_the_publishes() {
    //= test [MQTT-4.6.0-2]
    let mut world = World::new();
    let keeper = world.join(persistent("keeper"));
    world.subscribe(keeper, "owed", options(1));
    world.durable_at_once = false;
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "owed", "x"));
    world.publish(publisher, publish(1, 2, "nobody", "x"));
    world.publish(publisher, publish(2, 3, "nobody", "x"));
    world.send(publisher, Packet::PingReq);
    assert_eq!(world.heard(publisher), ["pingresp"]);
    world.sync();
    assert_eq!(world.heard(publisher), ["puback p1", "puback p2 0x10", "pubrec p3 0x10"]);
}

#[test]
fn one_record_whatever_the_fan_out() {
    let mut world = World::new();
    for number in 0..50 {
        let name = format!("s{number}");
        let client = world.join(persistent(&name));
        world.subscribe(client, "fleet/all", options(1));
    }
    world.durable_at_once = false;
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "fleet/all", "hello"));
    let group = world.shard.take_group().unwrap();
    assert_eq!(group.iter().count(), 1);
    assert_eq!(world.shard.gauges().queued_messages, 50);
    world.shard.persisted(world.now, group.last());
    assert_eq!(world.shard.gauges().queued_messages, 0);
}

#[test]
fn a_prefix_of_the_log_lets_go_a_prefix_of_the_acknowledgements() {
    let mut world = World::new();
    let keeper = world.join(persistent("keeper"));
    world.subscribe(keeper, "t", options(1));
    world.heard(keeper);
    world.durable_at_once = false;
    let publisher = world.join(connect("p"));
    for id in 1..=3 {
        world.publish(publisher, publish(1, id, "t", "x"));
    }
    let first = world.shard.take_group().unwrap().first();
    world.shard.persisted(world.now, Lsn(first.0 + 1));
    assert_eq!(world.heard(publisher), ["puback p1", "puback p2"]);
    assert_eq!(world.heard(keeper), ["pub q1 p1 t=x", "pub q1 p2 t=x"]);
    world.shard.persisted(world.now, Lsn(first.0 + 2));
    assert_eq!(world.heard(publisher), ["puback p3"]);
}

#[test]
fn a_log_that_lags_slows_a_3_1_1_publisher_and_disconnects_no_5_0_one() {
    for qos in 1..=2 {
        let mut world = World::with(|limits| limits.receive_maximum = 4);
        let keeper = world.join(persistent("keeper"));
        world.subscribe(keeper, "t", options(1));
        world.durable_at_once = false;
        let v5 = world.join(connect("v5"));
        for id in 1..=4 {
            world.publish(v5, publish(qos, id, "t", "x"));
        }
        assert!(world.shard.is_open(v5.id), "a whole Receive Maximum may wait for the log");
        world.publish(v5, publish(qos, 5, "t", "x"));
        assert_eq!(world.heard(v5), ["disconnect 0x93"]);
        let v311 = world.join(Connect { version: ProtocolVersion::V311, ..connect("v311") });
        for id in 1..=9 {
            world.publish(v311, publish(qos, id, "t", "x"));
        }
        assert!(world.shard.is_open(v311.id) && !world.shard.wants_input(v311.id));
        world.sync();
        assert_eq!(world.heard(v311).len(), 9);
        assert!(world.shard.wants_input(v311.id));
    }
}

#[test]
fn a_publisher_that_leaves_before_the_sync_is_not_written_to() {
    let mut world = World::new();
    let keeper = world.join(persistent("keeper"));
    world.subscribe(keeper, "t", options(1));
    world.durable_at_once = false;
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t", "x"));
    world.hang_up(publisher);
    let next = world.join(connect("p"));
    world.sync();
    assert!(world.heard(next).is_empty(), "the acknowledgement belongs to the connection before");
    assert_eq!(world.heard(keeper), ["suback 01", "pub q1 p1 t=x"]);
}

#[test]
fn a_restart_keeps_sessions_subscriptions_and_queues() {
    let mut world = World::new();
    let client = world.join(persistent("c"));
    world.subscribe_with(client, "t/+", options(2), Some(7));
    world.disconnect(client);
    let publisher = world.join(connect("p"));
    for payload in ["1", "2", "3"] {
        world.publish(publisher, publish(1, 1, "t/x", payload));
    }
    world.restart();
    let (client, said) = world.dial(persistent("c"));
    let expected = ["connack 0x00 present", "pub q1 p1 s7 t/x=1", "pub q1 p2 s7 t/x=2", "pub q1 p3 s7 t/x=3"];
    assert_eq!(said, expected);
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t/x", "4"));
    assert_eq!(world.heard(client), ["pub q1 p4 s7 t/x=4"]);
}

#[test]
fn a_restart_repeats_what_was_in_flight_and_nothing_that_is_done() {
    let mut world = World::new();
    let client = world.join(persistent("c"));
    world.subscribe(client, "t", options(2));
    let publisher = world.join(connect("p"));
    for payload in ["1", "2", "3"] {
        world.publish(publisher, publish(1, 1, "t", payload));
    }
    world.heard(client);
    world.puback(client, 2);
    world.wait(1500);
    world.restart();
    let (_, said) = world.dial(persistent("c"));
    assert_eq!(said, ["connack 0x00 present", "pub q1 p1 dup t=1", "pub q1 p3 dup t=3"]);
}

#[test]
fn exactly_once_holds_across_a_restart_at_every_step() {
    let ack = |id| Ack::new(packet_id(id), ReasonCode::Success);
    // Towards the subscriber: before PUBREC the message is repeated under the same identifier, after it only PUBREL is.
    for (received, expected) in [(false, "pub q2 p1 dup t=once"), (true, "pubrel p1")] {
        let mut world = World::new();
        let client = world.join(persistent("c"));
        world.subscribe(client, "t", options(2));
        let publisher = world.join(connect("p"));
        world.publish(publisher, publish(2, 9, "t", "once"));
        world.heard(client);
        if received {
            world.send(client, Packet::PubRec(ack(1)));
            assert_eq!(world.heard(client), ["pubrel p1"]);
        }
        world.restart();
        assert_eq!(world.dial(persistent("c")).1, ["connack 0x00 present", expected]);
    }
    // From the publisher: an identifier stays taken until its PUBREL.
    for released in [false, true] {
        let mut world = World::new();
        let keeper = world.join(persistent("keeper"));
        world.subscribe(keeper, "t", options(0));
        world.subscribe(keeper, "u", options(2));
        let client = world.join(persistent("c"));
        world.publish(client, publish(2, 5, "u", "once"));
        if released {
            world.send(client, Packet::PubRel(ack(5)));
        }
        world.restart();
        let client = world.join(persistent("c"));
        world.publish(client, publish(2, 5, "u", "once"));
        world.wait(1500);
        let queued = world.shard.gauges().queued_messages;
        assert_eq!(queued, if released { 2 } else { 1 });
    }
}

#[test]
fn pubcomp_and_pubrel_wait_for_the_log() {
    let ack = |id| Ack::new(packet_id(id), ReasonCode::Success);
    let mut world = World::new();
    let client = world.join(persistent("c"));
    world.subscribe(client, "t", options(2));
    world.heard(client);
    world.publish(client, publish(2, 5, "t", "x"));
    assert_eq!(world.heard(client), ["pub q2 p1 t=x", "pubrec p5"]);
    world.durable_at_once = false;
    world.send(client, Packet::PubRel(ack(5)));
    world.send(client, Packet::PubRec(ack(1)));
    assert!(world.heard(client).is_empty());
    world.sync();
    assert_eq!(world.heard(client), ["pubcomp p5", "pubrel p1"]);
}

#[test]
fn a_restart_keeps_retained_messages_wills_and_expiry() {
    let mut world = World::new();
    let publisher = world.join(connect("p"));
    let retained = |topic, payload, expiry| Publish {
        retain: true,
        properties: PublishProperties { message_expiry_interval_seconds: expiry, ..Default::default() },
        ..publish(1, 1, topic, payload)
    };
    world.publish(publisher, retained("r/kept", "x", None));
    world.publish(publisher, retained("r/gone", "x", None));
    world.publish(publisher, retained("r/gone", "", None));
    world.publish(publisher, retained("r/short", "x", Some(5)));
    let watcher = world.join(persistent("watcher"));
    world.subscribe(watcher, "will/+", options(1));
    let delayed = world.join(with_will(persistent("delayed"), "will/delayed", 20));
    world.hang_up(delayed);
    world.join(with_will(persistent("connected"), "will/connected", 0));
    let brief = world.join(Connect { clean_start: true, ..persistent("brief") });
    world.disconnect(brief);
    world.wait(10_000);
    world.restart();
    assert_eq!(world.shard.gauges().retained_messages, 1);
    let (watcher, said) = world.dial(persistent("watcher"));
    assert_eq!(said, ["connack 0x00 present", "pub q1 p1 will/connected=gone"]);
    world.wait(11_000);
    assert_eq!(world.heard(watcher), ["pub q1 p2 will/delayed=gone"]);
    world.wait(3_600_000);
    assert!(!world.shard.session_by_client.contains_key("brief"), "it expired although the broker was restarted");
}

#[test]
fn a_restart_keeps_shared_subscriptions() {
    let mut world = World::new();
    let a = world.join(persistent("a"));
    world.subscribe(a, "$share/g/t", options(1));
    world.heard(a);
    let publisher = world.join(connect("p"));
    for payload in ["1", "2", "3"] {
        world.publish(publisher, publish(1, 1, "t", payload));
    }
    assert_eq!(world.heard(a).len(), 3);
    world.puback(a, loose(1));
    world.wait(1500);
    world.restart();
    let (_, said) = world.dial(persistent("a"));
    assert_eq!(said, ["connack 0x00 present", "pub q1 l1 t=2", "pub q1 l2 t=3"]);
}

#[test]
fn messages_received_out_of_order_are_replayed_in_order() {
    let ack = |id| Ack::new(packet_id(id), ReasonCode::Success);
    let mut world = World::new();
    let client = world.join(persistent("c"));
    world.subscribe(client, "t", options(2));
    let publisher = world.join(connect("p"));
    for payload in ["1", "2", "3"] {
        world.publish(publisher, publish(2, 1, "t", payload));
        world.send(publisher, Packet::PubRel(ack(1)));
    }
    world.heard(client);
    world.send(client, Packet::PubRec(ack(3)));
    world.restart();
    let (client, said) = world.dial(persistent("c"));
    assert_eq!(said, ["connack 0x00 present", "pubrel p3", "pub q2 p1 dup t=1", "pub q2 p2 dup t=2"]);
    world.hang_up(client);
    assert_eq!(world.dial(persistent("c")).1[1..], ["pub q2 p1 dup t=1", "pub q2 p2 dup t=2", "pubrel p3"]);
}

#[test]
fn a_session_that_is_to_end_with_its_connection_ends_with_the_crash() {
    let mut world = World::new();
    let client = world.join(persistent("c"));
    world.disconnect(client);
    let mut brief = persistent("c");
    brief.properties.session_expiry_interval_seconds = None;
    world.join(brief);
    world.restart();
    assert_eq!(world.shard.gauges().sessions, 0);
}

#[test]
fn a_retained_message_that_expired_while_the_broker_was_down_makes_room_for_a_will() {
    for on_disk in [false, true] {
        let mut world = World::with(|limits| limits.retained_messages_max = 1);
        if on_disk {
            world = world.on_disk();
        }
        let publisher = world.join(connect("p"));
        let properties = PublishProperties { message_expiry_interval_seconds: Some(10), ..Default::default() };
        world.publish(publisher, Publish { retain: true, properties, ..publish(1, 1, "old", "x") });
        let mut connect = with_will(persistent("keeper"), "status", 0);
        connect.will.as_mut().unwrap().retain = true;
        world.join(connect);
        world.now.0 += 60_000;
        world.restart();
        let reader = world.join(persistent("reader"));
        world.subscribe(reader, "#", options(1));
        assert_eq!(world.heard(reader), ["suback 01", "pub q1 p1 retain status=gone"], "on disk: {on_disk}");
    }
}

#[test]
fn a_retained_message_that_two_subscriptions_brought_is_sent_as_often_after_a_crash() {
    let mut world = World::new();
    let publisher = world.join(connect("p"));
    world.publish(publisher, Publish { retain: true, ..publish(1, 1, "a/b", "old") });
    let reader = world.join(persistent("reader"));
    world.sync();
    world.durable_at_once = false;
    world.subscribe(reader, "a/+", options(0));
    world.subscribe(reader, "a/#", options(1));
    world.publish(publisher, publish(1, 2, "a/b", "new"));
    world.hang_up(reader);
    world.sync();
    world.restart();
    world.durable_at_once = true;
    let (_, said) = world.dial(persistent("reader"));
    let expected = ["pub q0 retain a/b=old", "pub q1 p1 retain a/b=old", "pub q1 p2 a/b=new"];
    assert_eq!(said[1..], expected);
}

#[test]
fn connack_says_what_is_true_after_a_crash() {
    let mut world = World::new();
    let old = world.join(persistent("c"));
    world.subscribe(old, "a", options(1));
    world.disconnect(old);
    world.durable_at_once = false;

    // The old session is given up: that is not said before it is true for good.
    let (new, said) = world.dial(Connect { clean_start: true, ..persistent("c") });
    assert!(said.is_empty() && world.shard.is_corked(new.id), "{said:?}");
    assert!(!world.shard.wants_input(new.id));
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(0, 0, "b", "live"));
    world.sync();
    assert!(world.shard.wants_input(new.id));
    assert_eq!(world.heard(new).len(), 1, "CONNACK alone");

    // Nothing is recorded about a session that nobody keeps.
    let (_, said) = world.dial(connect("d"));
    assert_eq!(said.len(), 1);
}

#[test]
fn what_comes_before_a_late_connack_waits_behind_it() {
    let mut world = World::new();
    let client = world.join(persistent("c"));
    world.subscribe(client, "a", options(0));
    world.disconnect(client);
    world.durable_at_once = false;
    let (client, said) = world.dial(persistent("c"));
    assert!(said.is_empty());
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(0, 0, "a", "live"));
    assert!(world.heard(client).is_empty());
    world.sync();
    let said = world.heard(client);
    assert!(said[0].starts_with("connack 0x00 present"), "{said:?}");
    assert_eq!(said[1..], ["pub q0 a=live"]);
}

#[test]
fn a_will_that_a_restart_publishes_was_never_sent_before() {
    let mut world = World::new();
    world.join(with_will(persistent("leaver"), "t", 0));
    let subscriber = world.join(persistent("sub"));
    world.subscribe(subscriber, "t", options(1));
    world.restart();
    let (_, said) = world.dial(persistent("sub"));
    assert_eq!(said[1..], ["pub q1 p1 t=gone"]);
}
