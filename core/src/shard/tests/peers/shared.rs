//! Shared subscriptions whose members live on several shards.

use super::*;

#[test]
fn of_those_who_share_on_several_shards_one_gets_each_message() {
    for qos in 0..3u8 {
        let mut broker = Broker::new(3);
        let members =
            [(0, broker.join(0, connect("a"))), (1, broker.join(1, connect("b"))), (1, broker.join(1, connect("c")))];
        for (shard, client) in members {
            broker.subscribe(shard, client, "$share/g/t", qos);
        }
        let listener = broker.join(2, connect("plain"));
        broker.subscribe(2, listener, "t", 0);
        for from in 0..3 {
            let publisher = broker.join(from, connect("p"));
            broker.publish_numbered(from, publisher, qos, 0..12);
            let got = broker.take_all(&members);
            assert!(got.iter().all(|got| !got.is_empty()), "QoS {qos} from {from}: {got:?}");
            let mut all: Vec<String> = got.concat();
            all.sort_by_key(|word| word["t=".len()..].parse::<u16>().unwrap());
            let expected: Vec<String> = (0..12).map(|number| format!("t={number}")).collect();
            assert_eq!(all, expected, "QoS {qos} from {from}");
            assert_eq!(broker.take_all(&[(2, listener)])[0].len(), 12, "a plain subscription gets all, too");
        }
    }
}

#[test]
fn with_everybody_away_shared_messages_wait_and_go_to_whoever_comes() {
    for qos in 1..3u8 {
        for crashes in [false, true] {
            let mut broker = Broker::new(3);
            for (shard, name) in [(0, "a"), (1, "b")] {
                let member = broker.join(shard, persistent(name));
                broker.subscribe(shard, member, "$share/g/t", qos);
                broker.shards[shard].disconnect(member);
                broker.carry();
            }
            let publisher = broker.join(2, persistent("p"));
            broker.publish_numbered(2, publisher, qos, 0..6);
            if crashes {
                broker.restart();
            }
            let (member, mut heard) = broker.shards[1].dial(persistent("b"));
            broker.carry();
            heard.retain(|word| word.starts_with("pub"));
            assert!(heard.is_empty(), "nothing waited here: {heard:?}");
            let mut got = broker.take_all(&[(1, member)]).concat();
            got.sort();
            let expected: Vec<String> = (0..6).map(|number| format!("t={number}")).collect();
            assert_eq!(got, expected, "QoS {qos}, crashes {crashes}");
        }
    }
}

#[test]
fn what_was_handed_over_goes_on_when_the_last_who_shares_there_leaves() {
    let mut broker = Broker::new(2);
    let slow = broker.join(1, persistent("slow"));
    broker.subscribe(1, slow, "$share/g/t", 1);
    let publisher = broker.join(0, connect("p"));
    broker.publish_numbered(0, publisher, 1, 0..5);
    // It acknowledges nothing, and loses its connection; somebody comes on the other shard.
    broker.shards[1].heard(slow);
    broker.shards[1].hang_up(slow);
    broker.carry();
    let other = broker.join(0, connect("other"));
    broker.subscribe(0, other, "$share/g/t", 1);
    broker.publish_numbered(0, publisher, 1, 5..6);
    let got = broker.take_all(&[(0, other)]).concat();
    assert!(got.contains(&"t=5".to_owned()), "{got:?}");
    // What was on its way to one that may come back waits for it, as on one shard.
    let (slow, heard) = broker.shards[1].dial(persistent("slow"));
    let mut all: Vec<String> = heard.iter().filter_map(|word| word.split(' ').next_back()).map(str::to_owned).collect();
    all.extend(broker.take_all(&[(1, slow)]).concat());
    all.extend(got);
    for number in 0..6 {
        assert!(all.contains(&format!("t={number}")), "{number} is lost: {all:?}");
    }
}

#[test]
fn what_was_on_its_way_to_another_shard_whose_last_member_left_goes_to_others() {
    for (crashes, expires) in [(false, false), (true, false), (false, true)] {
        let mut broker = Broker::new(3);
        let away = broker.join(0, persistent("away"));
        broker.subscribe(0, away, "$share/g/t", 1);
        broker.shards[0].disconnect(away);
        let leaves = broker.join(1, connect("leaves"));
        broker.subscribe(1, leaves, "$share/g/t", 1);
        let publisher = broker.join(0, connect("p"));
        broker.cut = true;
        for number in ["0", "1"] {
            let mut message = publish(1, 1, "t", number);
            message.properties.message_expiry_interval_seconds = expires.then_some(60);
            broker.shards[0].publish(publisher, message);
        }
        assert_eq!(broker.shards[0].heard(publisher), ["puback p1", "puback p1"]);
        broker.shards[1].unsubscribe(leaves, "$share/g/t");
        broker.cut = false;
        broker.carry();
        if crashes {
            broker.restart();
        }
        let (away, mut heard) = broker.shards[0].dial(persistent("away"));
        broker.carry();
        heard.extend(broker.shards[0].heard(away));
        let payloads =
            ["0", "1"].map(|number| heard.iter().filter(|word| word.ends_with(&format!("t={number}"))).count());
        // A crash may bring what was under way again.
        let is_there = |count: &usize| if crashes { *count > 0 } else { *count == 1 };
        assert!(payloads.iter().all(is_there), "crashes {crashes}, expires {expires}: {heard:?}");
    }
}

#[test]
fn a_retained_qos_0_message_reaches_those_who_share_on_another_shard() {
    let mut broker = Broker::new(2);
    let member = broker.join(1, connect("m"));
    broker.subscribe(1, member, "$share/g/t", 1);
    broker.shards[1].heard(member);
    let publisher = broker.join(0, connect("p"));
    broker.shards[0].publish(publisher, retained(0, "t", "x"));
    broker.carry();
    assert_eq!(broker.shards[1].heard(member), ["pub q0 t=x"]);
}

#[test]
fn what_is_too_large_for_all_who_are_there_keeps_nothing_behind_it() {
    for from in [0, 1] {
        let mut broker = Broker::new(2);
        let away = broker.join(0, persistent("away"));
        broker.subscribe(0, away, "$share/g/t", 1);
        broker.shards[0].disconnect(away);
        broker.carry();
        let mut narrow = connect("narrow");
        narrow.properties.maximum_packet_size_bytes = Some(64);
        let narrow = broker.join(1, narrow);
        broker.subscribe(1, narrow, "$share/g/t", 1);
        broker.shards[1].heard(narrow);
        // From the other shard it is handed over.
        let publisher = broker.join(from, connect("p"));
        broker.publish(from, publisher, 1, "t", &"x".repeat(100));
        broker.shards[from].publish(publisher, publish(1, 2, "t", "small"));
        broker.carry();
        assert_eq!(broker.take_all(&[(1, narrow)]), [["t=small"]], "from shard {from}");
    }
}

#[test]
fn whoever_shares_alone_gets_it_again_though_others_are_away_elsewhere() {
    let mut broker = Broker::new(2);
    let away = broker.join(1, persistent("away"));
    broker.subscribe(1, away, "$share/g/t", 1);
    broker.shards[1].disconnect(away);
    broker.carry();
    let member = broker.join(0, persistent("m"));
    broker.subscribe(0, member, "$share/g/t", 1);
    let publisher = broker.join(0, connect("p"));
    broker.publish(0, publisher, 1, "t", "x");
    assert_eq!(broker.shards[0].heard(member)[1..], ["pub q1 l1 t=x"]);
    broker.shards[0].hang_up(member);
    broker.carry();
    let (_, heard) = broker.shards[0].dial(persistent("m"));
    assert_eq!(heard, ["connack 0x00 present", "pub q1 l1 dup t=x"]);
}

#[test]
fn who_shares_on_another_shard_does_not_wait_for_what_others_there_are_owed() {
    for qos in 0..3u8 {
        for lasts in [false, true] {
            let mut broker = Broker::with(2, |limits| limits.outbox_bytes_max = 1);
            let lasting = broker.join(0, persistent("l"));
            broker.subscribe(0, lasting, "t", 1);
            let member = broker.join(0, if lasts { persistent("m") } else { connect("m") });
            broker.subscribe(0, member, "$share/g/s", qos);
            broker.shards[0].heard(member);
            let publisher = broker.join(1, connect("p"));
            broker.shards[1].durable_at_once = false;
            let mut got = Vec::new();
            for round in 1..=10 {
                // While some is written to the disk, more comes: there is always something that waits for it, and for the link.
                broker.shards[1].publish(publisher, publish(1, 100 + round, "t", "x"));
                let group = broker.shards[1].shard.take_group().unwrap();
                broker.shards[1].publish(publisher, publish(1, 200 + round, "t", "x"));
                let now = broker.shards[1].now;
                broker.shards[1].shard.persisted(now, group.last());
                broker.shards[1].publish(publisher, publish(qos, u16::from(qos > 0) * round, "s", "x"));
                broker.carry();
                got.extend(broker.take_all(&[(0, member)]).concat());
            }
            assert!(got.len() >= 8, "QoS {qos}, lasts {lasts}: {got:?}");
        }
    }
}

#[test]
fn a_full_group_on_another_shard_refuses_publishers_until_it_has_room() {
    for lasts in [false, true] {
        let mut broker = Broker::with(2, |limits| limits.session_queue_messages_max = 8);
        // It acknowledges nothing, and takes one at a time.
        let mut slow = if lasts { persistent("slow") } else { connect("slow") };
        slow.properties.receive_maximum = Some(1);
        let member = broker.join(0, slow);
        broker.subscribe(0, member, "$share/g/t", 1);
        let publisher = broker.join(1, persistent("p"));
        let mut accepted = 0;
        for number in 0..60 {
            broker.publish_numbered(1, publisher, 1, number..number + 1);
            accepted += usize::from(broker.shards[1].heard(publisher) == [format!("puback p{}", number + 1)]);
        }
        // One is under way; of the others, each shard keeps as many as may wait.
        assert_eq!(accepted, 1 + 8 + 8, "lasts {lasts}");
        let mut got = broker.take_all(&[(0, member)]).concat();
        broker.shards[0].wait(2000);
        broker.carry();
        got.extend(broker.take_all(&[(0, member)]).concat());
        assert_eq!(got, (0..17).map(|number| format!("t={number}")).collect::<Vec<_>>());
        broker.publish_numbered(1, publisher, 1, 70..71);
        assert_eq!(broker.shards[1].heard(publisher), ["puback p71"]);
        assert_eq!(broker.take_all(&[(0, member)]), [["t=70"]]);
    }
}
