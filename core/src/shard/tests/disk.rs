//! What waits on disk: bodies that are read when they are needed, lanes, full queues, a full disk, and folds.

use causeway_protocol::{Connect, Publish, PublishProperties};

use super::world::*;
use crate::Overflow;

fn sleeping(world: &mut World, client_id: &str, filter: &str, qos: u8) {
    let client = world.join(persistent(client_id));
    world.subscribe(client, filter, options(qos));
    world.hang_up(client);
}

#[test]
fn bodies_leave_memory_and_come_back_in_order() {
    let mut world = World::with(|limits| limits.body_cache_bytes = 0).on_disk();
    sleeping(&mut world, "sub", "t", 1);
    let publisher = world.join(connect("pub"));
    for number in 0..50u16 {
        world.publish(publisher, publish(1, number + 1, "t", &format!("message {number}")));
    }
    assert!(world.shard.gauges().body_bytes < 20, "only the newest is at hand");
    let mut connect = persistent("sub");
    connect.properties.receive_maximum = Some(3);
    let (client, mut said) = world.dial(connect);
    said.remove(0);
    let mut received = Vec::new();
    while !said.is_empty() {
        for word in std::mem::take(&mut said) {
            received.push(word);
            world.puback(client, received.len() as u16);
        }
        said = world.heard(client);
    }
    assert_eq!(received.len(), 50);
    assert!(received.iter().enumerate().all(|(at, word)| word.ends_with(&format!("=message {at}"))), "{received:?}");
    assert_eq!(world.shard.gauges().body_bytes, 0);
}

#[test]
fn what_was_in_flight_is_read_again_and_nothing_overtakes_it() {
    let mut world = World::with(|limits| limits.body_cache_bytes = 0).on_disk();
    let subscriber = world.join(persistent("sub"));
    world.subscribe(subscriber, "t", options(2));
    let publisher = world.join(connect("pub"));
    for number in 1..=3 {
        world.publish(publisher, publish(2, number, "t", &number.to_string()));
    }
    world.hang_up(subscriber);
    world.publish(publisher, publish(2, 4, "t", "4"));
    let (_, said) = world.dial(persistent("sub"));
    let expected =
        ["connack 0x00 present", "pub q2 p1 dup t=1", "pub q2 p2 dup t=2", "pub q2 p3 dup t=3", "pub q2 p4 t=4"];
    assert_eq!(said, expected);
}

#[test]
fn the_urgent_goes_first_also_after_a_crash() {
    let mut world = World::with(|limits| limits.urgent_topics = vec!["cmd/#".to_owned()]).on_disk();
    sleeping(&mut world, "vehicle", "#", 1);
    let publisher = world.join(connect("pub"));
    for (id, topic) in [(1, "bulk"), (2, "cmd/unlock"), (3, "bulk"), (4, "cmd/lock")] {
        world.publish(publisher, publish(1, id, topic, "x"));
    }
    world.fold(usize::MAX, true);
    world.restart();
    let (_, said) = world.dial(persistent("vehicle"));
    let topics: Vec<&str> = said[1..].iter().map(|word| word.rsplit(' ').next().unwrap()).collect();
    assert_eq!(topics, ["cmd/unlock=x", "cmd/lock=x", "bulk=x", "bulk=x"]);
}

#[test]
fn a_full_queue_may_give_up_its_oldest_and_says_so() {
    let mut world = World::with(|limits| limits.session_queue_messages_max = 3).on_disk();
    world.overflow = Overflow::DropOldest;
    sleeping(&mut world, "sub", "t", 1);
    let watcher = world.join(connect("watcher"));
    world.subscribe(watcher, "$SYS/broker/overflow/+", options(0));
    world.heard(watcher);
    let publisher = world.join(connect("pub"));
    for number in 1..=5 {
        world.publish(publisher, publish(1, number, "t", &number.to_string()));
        assert_eq!(world.heard(publisher), [format!("puback p{number}")]);
    }
    let told = world.heard(watcher);
    assert!(told.len() == 1 && told[0].contains("$SYS/broker/overflow/sub="), "{told:?}");
    assert_eq!(world.shard.counters().dropped_oldest, 2);
    for crash in [false, true] {
        if crash {
            world.restart();
        }
        let (client, said) = world.dial(persistent("sub"));
        let payloads: Vec<&str> = said[1..].iter().map(|word| word.rsplit('=').next().unwrap()).collect();
        assert_eq!(payloads, ["3", "4", "5"]);
        world.hang_up(client);
    }
}

#[test]
fn a_disk_that_is_nearly_full_refuses_the_new_and_goes_on_with_the_old() {
    let mut world = World::new().on_disk();
    let subscriber = world.join(persistent("sub"));
    world.subscribe(subscriber, "t", options(1));
    let publisher = world.join(connect("pub"));
    world.publish(publisher, publish(1, 1, "t", "before"));
    world.shard.storage_low(true);
    world.heard(publisher);
    world.publish(publisher, publish(1, 2, "t", "refused"));
    world.publish(publisher, publish(1, 3, "nobody", "needs no disk"));
    world.publish(publisher, publish(0, 0, "t", "needs no disk"));
    assert_eq!(world.heard(publisher), ["puback p2 0x97", "puback p3 0x10"]);
    world.subscribe(subscriber, "u", options(1));
    world.puback(subscriber, 1);
    assert_eq!(world.heard(subscriber), ["suback 01", "pub q1 p1 t=before", "pub q0 t=needs no disk", "suback 97"]);
    let (_, said) = world.dial(persistent("new"));
    assert_eq!(said, ["connack 0x97"]);
    assert_eq!(world.shard.counters().publish_refused_disk_full, 1);
    world.shard.storage_low(false);
    world.publish(publisher, publish(1, 4, "t", "after"));
    assert_eq!(world.heard(publisher), ["puback p4"]);
    assert_eq!(world.heard(subscriber), ["pub q1 p2 t=after"]);
}

#[test]
fn a_retained_qos_2_message_in_flight_is_sent_again_after_a_crash() {
    let mut world = World::new().on_disk();
    let publisher = world.join(connect("pub"));
    let retained = causeway_protocol::Publish { retain: true, ..publish(2, 1, "t", "state") };
    world.publish(publisher, retained);
    let subscriber = world.join(persistent("sub"));
    world.subscribe(subscriber, "t", options(2));
    assert_eq!(world.heard(subscriber), ["suback 02", "pub q2 p1 retain t=state"]);
    world.fold(usize::MAX, true);
    world.restart();
    let (subscriber, said) = world.dial(persistent("sub"));
    assert_eq!(said, ["connack 0x00 present", "pub q2 p1 dup retain t=state"]);
    assert!(world.heard(subscriber).is_empty());
}

#[test]
fn a_shared_qos_2_message_stays_with_its_member_after_a_crash() {
    let mut world = World::new().on_disk();
    let one = world.join(persistent("one"));
    world.subscribe(one, "$share/g/t", options(2));
    let publisher = world.join(connect("pub"));
    world.publish(publisher, publish(2, 1, "t", "x"));
    assert_eq!(world.heard(one), ["suback 02", "pub q2 p1 t=x"]);
    world.fold(usize::MAX, true);
    world.restart();
    let other = world.join(persistent("other"));
    world.subscribe(other, "$share/g/t", options(2));
    assert_eq!(world.heard(other), ["suback 02"]);
    let (_, said) = world.dial(persistent("one"));
    assert_eq!(said, ["connack 0x00 present", "pub q2 p1 dup t=x"]);
}

#[test]
fn a_fold_after_a_failed_one_is_whole() {
    let mut world = World::new().on_disk();
    sleeping(&mut world, "sub", "t", 1);
    let publisher = world.join(connect("pub"));
    for number in 1..=600 {
        world.publish(publisher, publish(1, number, "t", &number.to_string()));
        if number % 100 == 0 {
            world.fold(usize::MAX, number != 300);
        }
    }
    world.fold(usize::MAX, true);
    world.restart();
    assert_eq!(world.shard.gauges().queued_messages, 600);
    let client = world.dial(persistent("sub")).0;
    world.disconnect(client);
    assert_eq!(world.shard.live_in(crate::Lsn(0), crate::Lsn(10_000)).len(), 600);
}

#[test]
fn many_deliveries_between_two_records_never_share_an_identifier() {
    let mut world = World::with(|limits| limits.receive_maximum = 65_535);
    let subscriber = world.join(persistent("sub"));
    world.subscribe(subscriber, "t", options(1));
    let publisher = world.join(connect("pub"));
    for number in 0..30_000u32 {
        world.publish(publisher, publish(1, 1, "t", "x"));
        world.heard(publisher);
        world.heard(subscriber);
        world.puback(subscriber, (number % 24_576 + 1) as u16);
    }
    world.restart();
    assert!(world.shard.gauges().queued_messages < 1025, "progress is recorded in between");
}

#[test]
fn a_damaged_entry_is_an_error_or_harmless_and_never_a_panic() {
    let mut world = World::new().on_disk();
    let subscriber = world.join(with_will(persistent("sub"), "will", 60));
    world.subscribe_with(subscriber, "t", options(2), Some(7));
    world.subscribe(subscriber, "$share/g/s", options(2));
    let publisher = world.join(connect("pub"));
    for (id, topic) in [(1, "t"), (2, "s"), (3, "t")] {
        let retained = causeway_protocol::Publish { retain: true, ..publish(2, id, topic, "x") };
        world.publish(publisher, retained);
    }
    world.fold(usize::MAX, true);
    let entries = world.entries();
    assert!(entries.len() >= 5, "sessions, a queue, a group, retained messages, and what is the shard's");
    for (key, value) in &entries {
        for cut in 0..value.len() {
            let mut fresh = World::new().on_disk();
            let _ = fresh.shard.restore(key, &value[..cut]);
            for bit in 0..8 {
                let mut flipped = value.clone();
                flipped[cut] ^= 1 << bit;
                let mut fresh = World::new().on_disk();
                let _ = fresh.shard.restore(key, &flipped);
            }
        }
    }
}

#[test]
fn what_was_acknowledged_out_of_order_stays_done_however_often_it_is_folded() {
    for qos in 1..=2 {
        let mut world = World::new().on_disk();
        let subscriber = world.join(persistent("sub"));
        world.subscribe(subscriber, "t", options(2));
        let publisher = world.join(connect("pub"));
        for id in 1..=3 {
            world.publish(publisher, publish(qos, id, "t", &id.to_string()));
        }
        world.fold(usize::MAX, true);
        match qos {
            1 => world.puback(subscriber, 2),
            _ => {
                let ack = causeway_protocol::Ack::new(packet_id(2), causeway_protocol::ReasonCode::Success);
                world.send(subscriber, causeway_protocol::Packet::PubRec(ack.clone()));
                world.send(subscriber, causeway_protocol::Packet::PubComp(ack));
            }
        }
        world.hang_up(subscriber);
        for _ in 0..3 {
            world.restart();
            world.fold(usize::MAX, true);
        }
        let (_, said) = world.dial(persistent("sub"));
        assert_eq!(said[1..], [format!("pub q{qos} p1 dup t=1"), format!("pub q{qos} p3 dup t=3")]);
    }
}

#[test]
fn what_is_not_durable_yet_is_not_asked_for() {
    let mut world = World::with(|limits| limits.body_cache_bytes = 0).on_disk();
    let mut connect = persistent("sub");
    connect.properties.receive_maximum = Some(1);
    let subscriber = world.join(connect);
    world.subscribe(subscriber, "t", options(1));
    let publisher = world.join(super::world::connect("pub"));
    for id in 1..=3 {
        world.publish(publisher, publish(1, id, "t", &id.to_string()));
    }
    world.durable_at_once = false;
    world.publish(publisher, publish(1, 4, "t", "4"));
    world.publish(publisher, publish(1, 5, "t", "5"));
    world.heard(subscriber);
    let mut received = Vec::new();
    for id in 1..=5 {
        world.puback(subscriber, id);
        received.extend(world.heard(subscriber));
        if id == 3 {
            world.sync();
            received.extend(world.heard(subscriber));
        }
    }
    assert_eq!(received, ["pub q1 p2 t=2", "pub q1 p3 t=3", "pub q1 p4 t=4", "pub q1 p5 t=5"]);
    assert_eq!(world.shard.counters().bodies_lost, 0);
}

#[test]
fn what_is_finished_during_a_fold_stays_readable_until_the_next_one() {
    let all = |world: &World| world.shard.live_in(crate::Lsn(0), crate::Lsn(10_000)).len();
    let mut world = World::new().on_disk();
    let subscriber = world.join(persistent("sub"));
    world.subscribe(subscriber, "t", options(1));
    let publisher = world.join(connect("pub"));
    world.publish(publisher, publish(1, 1, "t", "x"));
    // The session has its turn, and the fold has not ended.
    world.fold(1, true);
    world.puback(subscriber, 1);
    world.fold(usize::MAX, true);
    assert_eq!(all(&world), 1, "the folded state says that it is owed");
    world.publish(publisher, publish(0, 0, "t", "x"));
    world.hang_up(subscriber);
    world.fold(usize::MAX, true);
    assert_eq!(all(&world), 0);
}

#[test]
fn a_queue_that_gives_up_its_oldest_keeps_what_is_in_flight_also_after_a_crash() {
    let mut world = World::with(|limits| limits.session_queue_messages_max = 2).on_disk();
    world.overflow = Overflow::DropOldest;
    let mut connect = persistent("sub");
    connect.properties.receive_maximum = Some(1);
    let subscriber = world.join(connect);
    world.subscribe(subscriber, "t", options(1));
    let publisher = world.join(super::world::connect("pub"));
    for id in 1..=5 {
        world.publish(publisher, publish(1, id, "t", &id.to_string()));
    }
    assert_eq!(world.heard(subscriber), ["suback 01", "pub q1 p1 t=1"]);
    for folds in [false, true] {
        if folds {
            world.fold(usize::MAX, true);
        }
        world.restart();
        let (client, said) = world.dial(persistent("sub"));
        assert_eq!(said[1..], ["pub q1 p1 dup t=1", "pub q1 p4 dup t=4", "pub q1 p5 dup t=5"]);
        world.hang_up(client);
    }
}

#[test]
fn a_group_that_begins_during_a_fold_gets_nothing_that_was_published_before() {
    let mut world = World::new().on_disk();
    sleeping(&mut world, "first", "t", 1);
    let member = world.join(persistent("member"));
    world.fold(1, true);
    let publisher = world.join(connect("pub"));
    world.publish(publisher, publish(1, 1, "t", "before"));
    world.subscribe(member, "$share/g/t", options(1));
    world.hang_up(member);
    world.publish(publisher, publish(1, 2, "t", "after"));
    world.fold(usize::MAX, true);
    world.restart();
    let (_, said) = world.dial(persistent("member"));
    assert_eq!(said[1..], ["pub q1 l1 t=after"]);
}

/// Whoever joins a group during a fold, after its own turn, is owed what waits there, however the others leave.
#[test]
fn what_waits_in_a_group_outlives_the_member_that_leaves_it_during_a_fold() {
    for (turns, ends) in (1..6).flat_map(|turns| [(turns, false), (turns, true)]) {
        let mut world = World::new().on_disk();
        let heir = world.join(persistent("heir"));
        sleeping(&mut world, "member", "$share/g/t", 1);
        let publisher = world.join(connect("pub"));
        world.publish(publisher, publish(1, 1, "t", "before"));
        world.fold(turns, true);
        world.publish(publisher, publish(1, 2, "t", "during"));
        world.subscribe(heir, "$share/g/t", options(1));
        world.hang_up(heir);
        let member = world.join(Connect { clean_start: ends, ..persistent("member") });
        world.unsubscribe(member, "$share/g/t");
        world.hang_up(member);
        world.fold(usize::MAX, true);
        world.restart();
        let (_, said) = world.dial(persistent("heir"));
        assert_eq!(said[1..], ["pub q1 l1 t=before", "pub q1 l2 t=during"], "{turns} turns, ends {ends}");
    }
}

#[test]
fn a_queue_gives_up_what_expired_before_what_lives() {
    let mut world = World::with(|limits| limits.session_queue_messages_max = 4).on_disk();
    world.overflow = Overflow::DropOldest;
    let publisher = world.join(connect("pub"));
    world.publish(publisher, Publish { retain: true, ..publish(1, 1, "t", "kept") });
    let subscriber = world.join(persistent("sub"));
    world.subscribe(subscriber, "u", options(1));
    world.durable_at_once = false;
    world.subscribe(subscriber, "t", options(1));
    world.hang_up(subscriber);
    world.sync();
    world.durable_at_once = true;
    world.publish(publisher, publish(1, 2, "u", "oldest"));
    let properties = PublishProperties { message_expiry_interval_seconds: Some(1), ..Default::default() };
    world.publish(publisher, Publish { properties, ..publish(1, 3, "u", "expires") });
    world.publish(publisher, publish(1, 4, "u", "middle"));
    world.wait(5000);
    // The retained message takes a place in the queue before what replaces it.
    world.publish(publisher, publish(1, 5, "t", "newest"));
    let (_, said) = world.dial(persistent("sub"));
    let texts: Vec<&str> = said[1..].iter().filter_map(|word| word.rsplit('=').next()).collect();
    assert_eq!(texts, ["oldest", "middle", "kept", "newest"]);
}
