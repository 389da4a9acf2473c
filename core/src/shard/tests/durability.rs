//! What waits for the log, and in which order it is let go.

use causeway_protocol::{Connect, Packet, ProtocolVersion};

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
