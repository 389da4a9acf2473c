//! Shared subscriptions: fair, never stranded, nothing lost when a member leaves.

use causeway_protocol::{Ack, Connect, Packet, ReasonCode};

use super::world::*;

const FILTER: &str = "$share/g/t";

fn member(world: &mut World, connect: Connect<'_>, qos: u8) -> Client {
    let client = world.join(connect);
    world.subscribe(client, FILTER, options(qos));
    world.heard(client);
    client
}

fn publish_numbers(world: &mut World, publisher: Client, numbers: std::ops::Range<u16>) {
    for number in numbers {
        world.publish(publisher, publish(1, number + 1, "t", &number.to_string()));
    }
    world.heard(publisher);
}

#[test]
fn each_message_goes_to_one_member_in_turn() {
    //= test [MQTT-4.8.2-3]
    for qos in 0..=2u8 {
        let mut world = World::new();
        let members: Vec<Client> = ["a", "b", "c"].iter().map(|name| member(&mut world, connect(name), 2)).collect();
        let publisher = world.join(connect("p"));
        for number in 0..9 {
            world.publish(publisher, publish(qos, u16::from(qos > 0) * (number + 1), "t", "x"));
        }
        for client in members {
            assert_eq!(world.heard(client).len(), 3);
        }
    }
}

#[test]
fn a_shared_and_a_plain_subscription_of_one_client_are_two() {
    let mut world = World::new();
    let client = member(&mut world, connect("a"), 0);
    world.subscribe(client, "t", options(0));
    world.publish(client, publish(0, 0, "t", "x"));
    assert_eq!(world.heard(client), ["suback 00", "pub q0 t=x", "pub q0 t=x"]);
}

#[test]
fn offline_members_are_skipped() {
    let mut world = World::new();
    let away = member(&mut world, persistent("away"), 1);
    let here = member(&mut world, persistent("here"), 1);
    world.disconnect(away);
    let publisher = world.join(connect("p"));
    publish_numbers(&mut world, publisher, 0..4);
    assert_eq!(world.heard(here).len(), 4);
}

#[test]
fn with_everybody_away_messages_wait_for_whoever_comes_first() {
    let mut world = World::new();
    let a = member(&mut world, persistent("a"), 1);
    let b = member(&mut world, persistent("b"), 1);
    world.disconnect(a);
    world.disconnect(b);
    let publisher = world.join(connect("p"));
    publish_numbers(&mut world, publisher, 0..3);
    let (_, said) = world.dial(persistent("b"));
    assert_eq!(said, ["connack 0x00 present", "pub q1 l1 t=0", "pub q1 l2 t=1", "pub q1 l3 t=2"]);
}

#[test]
fn unacknowledged_messages_of_a_lost_member_go_to_another_in_order() {
    //= test [MQTT-4.8.2-6]
    let mut world = World::new();
    let a = member(&mut world, persistent("a"), 1);
    let publisher = world.join(connect("p"));
    publish_numbers(&mut world, publisher, 0..3);
    world.puback(a, loose(1));
    let b = member(&mut world, persistent("b"), 1);
    world.hang_up(a);
    assert_eq!(world.heard(b), ["pub q1 l1 t=1", "pub q1 l2 t=2"]);
    let (_, said) = world.dial(persistent("a"));
    assert_eq!(said, ["connack 0x00 present"]);
}

#[test]
fn the_only_member_gets_its_messages_again_with_dup() {
    let mut world = World::new();
    let a = member(&mut world, persistent("a"), 1);
    let publisher = world.join(connect("p"));
    publish_numbers(&mut world, publisher, 0..2);
    world.hang_up(a);
    let (_, said) = world.dial(persistent("a"));
    assert_eq!(said, ["connack 0x00 present", "pub q1 l1 dup t=0", "pub q1 l2 dup t=1"]);
}

#[test]
fn messages_of_an_ended_session_go_on_except_qos_2() {
    //= test [MQTT-4.8.2-5]
    let mut world = World::new();
    let a = member(&mut world, connect("a"), 2);
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t", "again"));
    world.publish(publisher, publish(2, 2, "t", "never"));
    assert_eq!(world.heard(a).len(), 2);
    let b = member(&mut world, connect("b"), 2);
    world.hang_up(a);
    assert_eq!(world.heard(b), ["pub q1 l1 t=again"]);
}

#[test]
fn a_full_window_is_skipped_and_refilled() {
    let mut world = World::new();
    let narrow = |name| {
        let mut connect = connect(name);
        connect.properties.receive_maximum = Some(1);
        connect
    };
    let a = member(&mut world, narrow("a"), 1);
    let b = member(&mut world, narrow("b"), 1);
    let publisher = world.join(connect("p"));
    publish_numbers(&mut world, publisher, 0..4);
    assert_eq!(world.heard(a), ["pub q1 l1 t=0"]);
    assert_eq!(world.heard(b), ["pub q1 l1 t=1"]);
    world.puback(b, loose(1));
    assert_eq!(world.heard(b), ["pub q1 l2 t=2"]);
    world.puback(b, loose(2));
    assert_eq!(world.heard(b), ["pub q1 l3 t=3"]);
}

#[test]
fn a_refused_message_is_not_sent_to_another_member() {
    //= test [MQTT-4.8.2-6]
    let mut world = World::new();
    let a = member(&mut world, connect("a"), 1);
    let b = member(&mut world, connect("b"), 1);
    let publisher = world.join(connect("p"));
    publish_numbers(&mut world, publisher, 0..1);
    world.send(a, Packet::PubAck(Ack::new(packet_id(loose(1)), ReasonCode::UnspecifiedError)));
    assert!(world.heard(b).is_empty());
    assert_eq!(world.shard.gauges().inflight_messages, 0);
}

#[test]
fn a_full_group_refuses_the_publisher() {
    let mut world = World::with(|limits| limits.session_queue_messages_max = 1);
    let a = member(&mut world, persistent("a"), 1);
    world.disconnect(a);
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t", "x"));
    world.publish(publisher, publish(1, 2, "t", "x"));
    assert_eq!(world.heard(publisher), ["puback p1", "puback p2 0x97"]);
}

#[test]
fn a_group_ends_with_its_last_member() {
    let mut world = World::new();
    let a = member(&mut world, persistent("a"), 1);
    let b = member(&mut world, connect("b"), 1);
    world.unsubscribe(a, FILTER);
    world.hang_up(b);
    assert_eq!(world.shard.gauges().subscriptions, 0);
    assert!(world.shard.groups.is_empty() && world.shard.group_by_name.is_empty());
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t", "x"));
    assert_eq!(world.heard(publisher), ["puback p1 0x10"]);
}

#[test]
fn a_message_never_finds_its_way_to_another_group() {
    let mut world = World::new();
    let leaver = member(&mut world, persistent("leaver"), 1);
    let publisher = world.join(connect("p"));
    publish_numbers(&mut world, publisher, 0..1);
    assert_eq!(world.heard(leaver), ["pub q1 l1 t=0"]);
    // The group ends with its only member, and another one is made.
    world.unsubscribe(leaver, FILTER);
    world.subscribe(leaver, "$share/h/other", options(1));
    let stranger = world.join(connect("stranger"));
    world.subscribe(stranger, "$share/h/other", options(1));
    world.hang_up(leaver);
    assert_eq!(world.heard(stranger), ["suback 01"]);
}

#[test]
fn a_member_that_takes_only_small_packets_leaves_the_large_ones_to_others() {
    let mut world = World::new();
    let mut small = connect("small");
    small.properties.maximum_packet_size_bytes = Some(40);
    let small = member(&mut world, small, 1);
    let publisher = world.join(connect("p"));
    let large = "x".repeat(100);
    world.publish(publisher, publish(1, 1, "t", &large));
    assert_eq!(world.shard.counters().dropped_packet_too_large, 1, "nobody can ever take it");
    let other = member(&mut world, connect("other"), 1);
    for id in 2..6 {
        world.publish(publisher, publish(1, id, "t", &large));
    }
    assert_eq!((world.heard(small).len(), world.heard(other).len()), (0, 4));
}

#[test]
fn a_member_that_unsubscribed_and_left_loses_nothing() {
    let mut world = World::new();
    let leaver = member(&mut world, connect("leaver"), 1);
    let publisher = world.join(connect("p"));
    publish_numbers(&mut world, publisher, 0..1);
    let other = member(&mut world, connect("other"), 1);
    world.unsubscribe(leaver, FILTER);
    assert_eq!(world.heard(other), Vec::<String>::new());
    world.disconnect(leaver);
    assert_eq!(world.heard(other), ["pub q1 l1 t=0"]);
}

#[test]
fn a_large_message_waits_for_the_member_that_can_take_it() {
    let mut world = World::new();
    let mut small = connect("small");
    small.properties.maximum_packet_size_bytes = Some(60);
    let small = member(&mut world, small, 1);
    let mut busy = connect("busy");
    busy.properties.receive_maximum = Some(1);
    let busy = member(&mut world, busy, 1);
    let publisher = world.join(connect("p"));
    for id in 1..=3 {
        world.publish(publisher, publish(1, id, "t", &"x".repeat(100)));
    }
    for number in 1..=3 {
        assert_eq!(world.heard(busy).len(), 1);
        world.puback(busy, loose(number));
    }
    assert_eq!(world.heard(small), Vec::<String>::new());
}
