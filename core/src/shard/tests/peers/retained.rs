//! Retained messages, which stand on every shard.

use super::*;

impl Broker {
    /// What a new client of each shard finds at a topic.
    fn found(&mut self, topic: &str) -> Vec<Vec<String>> {
        (0..self.shards.len())
            .map(|shard| {
                let client = self.join(shard, connect("reader"));
                self.subscribe(shard, client, topic, 0);
                let heard = self.shards[shard].heard(client);
                self.shards[shard].disconnect(client);
                self.carry();
                heard.into_iter().filter(|word| word.starts_with("pub")).collect()
            })
            .collect()
    }
}

#[test]
fn what_is_retained_is_found_on_every_shard() {
    for qos in 0..3u8 {
        let mut broker = Broker::new(3);
        let publisher = broker.join(1, persistent("p"));
        let listener = broker.join(2, connect("l"));
        broker.subscribe(2, listener, "t", 2);
        broker.shards[2].heard(listener);
        broker.shards[1].publish(publisher, retained(qos, "t", "x"));
        broker.carry();
        let live = if qos == 0 { "pub q0 t=x".to_owned() } else { format!("pub q{qos} p1 t=x") };
        assert_eq!(broker.shards[2].heard(listener), [live]);
        let found = vec![vec!["pub q0 retain t=x".to_owned()]; 3];
        assert_eq!(broker.found("t"), found);
        broker.restart();
        assert_eq!(broker.found("t"), found);
        let publisher = broker.join(0, connect("q"));
        broker.shards[0].publish(publisher, retained(qos, "t", ""));
        broker.carry();
        assert_eq!(broker.found("t"), vec![Vec::<String>::new(); 3], "QoS {qos}");
    }
}

#[test]
fn the_newest_retained_message_stands_everywhere_whichever_way_they_came() {
    for (payloads, expected) in [(["a", "b", "c"], "c"), (["a", "b", ""], ""), (["", "b", ""], "")] {
        for qos in 0..2u8 {
            let mut broker = Broker::new(3);
            broker.cut = true;
            // Nobody hears of the others' before all are published; the clocks of the shards are one.
            for (shard, payload) in payloads.into_iter().enumerate() {
                let publisher = broker.join(shard, connect("p"));
                broker.shards[shard].now = Millis(2_000_000 + shard as u64);
                broker.shards[shard].publish(publisher, retained(qos, "t", payload));
            }
            broker.cut = false;
            broker.carry();
            let found = if expected.is_empty() { vec![] } else { vec![format!("pub q0 retain t={expected}")] };
            assert_eq!(broker.found("t"), vec![found; 3], "{payloads:?} QoS {qos}");
        }
    }
}

#[test]
fn a_retained_qos_0_message_reaches_all_shards_though_all_crash() {
    let mut broker = Broker::new(2);
    let publisher = broker.join(0, connect("p"));
    broker.cut = true;
    broker.shards[0].publish(publisher, retained(0, "t", "x"));
    broker.cut = false;
    broker.restart();
    assert_eq!(broker.found("t"), vec![vec!["pub q0 retain t=x".to_owned()]; 2]);
}

#[test]
fn a_retained_qos_0_message_keeps_its_place_on_a_link() {
    let mut broker = Broker::new(2);
    let listener = broker.join(0, connect("l"));
    broker.subscribe(0, listener, "#", 0);
    broker.shards[0].heard(listener);
    let publisher = broker.join(1, connect("p"));
    // The disk is slow: what is to be kept waits for it, what is only to be heard does not.
    broker.shards[1].durable_at_once = false;
    broker.shards[1].publish(publisher, retained(0, "t", "first"));
    broker.publish(1, publisher, 0, "t", "second");
    assert_eq!(broker.shards[0].heard(listener), ["pub q0 t=first", "pub q0 t=second"]);
    broker.shards[1].durable_at_once = true;
    broker.shards[1].sync();
    broker.carry();
    assert_eq!(broker.shards[0].heard(listener), [] as [&str; 0], "once");
    assert_eq!(broker.found("t"), vec![vec!["pub q0 retain t=first".to_owned()]; 2]);
}

/// Whoever subscribes after a publish was answered finds what it left, on any shard, though what is kept waits for a slow disk.
#[test]
fn a_retained_qos_0_message_is_found_at_once_on_other_shards() {
    let mut broker = Broker::new(3);
    let (publisher, other) = (broker.join(1, connect("p")), broker.join(2, connect("o")));
    for (published, expected) in [
        (vec![(1, "first")], "first"),
        (vec![(1, "second"), (1, "third")], "third"),
        (vec![(1, "")], ""),
        (vec![(1, "fourth"), (1, "")], ""),
        // What another shard keeps meanwhile replaces what is on its way, or is replaced by it.
        (vec![(1, "fifth"), (2, "other")], "other"),
        (vec![(2, "another"), (1, "last")], "last"),
    ] {
        broker.shards[1].durable_at_once = false;
        for (shard, payload) in published {
            let client = if shard == 1 { publisher } else { other };
            broker.shards[shard].publish(client, retained(0, "t", payload));
            broker.carry();
        }
        let filters = ["t", "+", "#", "u"];
        let readers: Vec<(usize, &str, Client)> = [0, 2]
            .into_iter()
            .flat_map(|shard| filters.map(|filter| (shard, filter)))
            .map(|(shard, filter)| {
                let reader = broker.join(shard, connect(&format!("reader {filter}")));
                broker.shards[shard].subscribe(reader, filter, options(0));
                (shard, filter, reader)
            })
            .collect();
        broker.shards[1].durable_at_once = true;
        broker.shards[1].sync();
        broker.carry();
        for (shard, filter, reader) in readers {
            let mut heard = broker.shards[shard].heard(reader);
            assert_eq!(heard.remove(0), "suback 00");
            let finds = !expected.is_empty() && filter != "u";
            let expected: Vec<String> = finds.then(|| format!("pub q0 retain t={expected}")).into_iter().collect();
            assert_eq!(heard, expected, "{filter} on shard {shard}");
            broker.shards[shard].disconnect(reader);
        }
        broker.carry();
        let kept: Vec<String> =
            (!expected.is_empty()).then(|| format!("pub q0 retain t={expected}")).into_iter().collect();
        assert_eq!(broker.found("#"), vec![kept; 3]);
    }
    broker.restart();
    assert_eq!(broker.found("#"), vec![vec!["pub q0 retain t=last".to_owned()]; 3]);
}

#[test]
fn a_retained_will_of_before_a_crash_is_found_on_every_shard() {
    let mut broker = Broker::new(2);
    let mut connect = with_will(persistent("c"), "t", 0);
    connect.will.iter_mut().for_each(|will| will.retain = true);
    broker.join(1, connect);
    broker.carry();
    // It is published while the shard starts, and has no links yet.
    broker.restart();
    assert_eq!(broker.found("t"), vec![vec!["pub q0 retain t=gone".to_owned()]; 2]);
}

#[test]
fn a_retained_will_is_found_on_a_shard_where_somebody_has_no_room_for_it() {
    let mut broker = Broker::with(2, |limits| limits.session_queue_messages_max = 1);
    let lasting = broker.join(0, persistent("l"));
    broker.subscribe(0, lasting, "t", 1);
    broker.shards[0].disconnect(lasting);
    let publisher = broker.join(1, connect("p"));
    broker.publish(1, publisher, 1, "t", "x");
    let mut connect = with_will(connect("c"), "t", 0);
    connect.will.iter_mut().for_each(|will| will.retain = true);
    let client = broker.join(1, connect);
    broker.shards[1].hang_up(client);
    broker.carry();
    assert_eq!(broker.found("t"), vec![vec!["pub q0 retain t=gone".to_owned()]; 2]);
}

#[test]
fn a_will_that_finds_no_room_to_be_retained_crosses_once() {
    let mut broker = Broker::with(2, |limits| limits.retained_messages_max = 1);
    let publisher = broker.join(1, connect("p"));
    broker.shards[1].publish(publisher, retained(1, "other", "x"));
    let listener = broker.join(0, connect("l"));
    broker.subscribe(0, listener, "t", 1);
    broker.shards[0].heard(listener);
    let mut connect = with_will(connect("c"), "t", 0);
    connect.will.iter_mut().for_each(|will| (will.retain, will.qos) = (true, QoS::AtMostOnce));
    let client = broker.join(1, connect);
    broker.shards[1].hang_up(client);
    broker.carry();
    assert_eq!(broker.shards[0].heard(listener), ["pub q0 t=gone"]);
}

#[test]
fn a_retained_message_that_expires_on_its_way_takes_the_place_of_an_older_one() {
    let mut broker = Broker::new(2);
    let publisher = broker.join(1, connect("p"));
    broker.shards[1].publish(publisher, retained(1, "t", "x"));
    broker.carry();
    let listener = broker.join(0, connect("l"));
    broker.subscribe(0, listener, "t", 0);
    broker.shards[0].heard(listener);
    broker.shards.iter_mut().for_each(|world| world.durable_at_once = false);
    let mut newer = retained(1, "t", "y");
    newer.properties.message_expiry_interval_seconds = Some(5);
    broker.shards[1].publish(publisher, newer);
    // The disk is slow.
    broker.shards.iter_mut().for_each(|world| world.now = Millis(world.now.0 + 10_000));
    broker.shards.iter_mut().for_each(World::sync);
    broker.shards.iter_mut().for_each(|world| world.durable_at_once = true);
    broker.carry();
    broker.shards.iter_mut().for_each(|world| world.wait(1));
    assert_eq!(broker.shards[0].heard(listener), [] as [&str; 0]);
    assert_eq!(broker.found("t"), vec![Vec::<String>::new(); 2]);
}

#[test]
fn a_removal_stands_against_older_messages_of_other_shards_after_a_crash() {
    let mut broker = Broker::new(2);
    broker.shards = std::mem::take(&mut broker.shards).into_iter().map(World::on_disk).collect();
    let (older, newer) = (broker.join(1, connect("older")), broker.join(0, connect("newer")));
    broker.cut = true;
    broker.shards[1].publish(older, retained(1, "t", "x"));
    broker.shards[0].now = Millis(broker.shards[1].now.0 + 1000);
    broker.shards[0].publish(newer, retained(1, "t", ""));
    // What is not in the log any more is in the folded state.
    broker.shards[0].fold(usize::MAX, true);
    broker.cut = false;
    broker.restart();
    assert_eq!(broker.found("t"), vec![Vec::<String>::new(); 2]);
}

#[test]
fn a_link_carries_what_no_client_is_offered() {
    let mut broker = Broker::with(2, |limits| limits.maximum_qos = QoS::AtMostOnce);
    let publisher = broker.join(0, connect("p"));
    broker.shards[0].publish(publisher, retained(0, "t", "x"));
    broker.carry();
    assert_eq!(broker.found("t"), vec![vec!["pub q0 retain t=x".to_owned()]; 2]);
}
