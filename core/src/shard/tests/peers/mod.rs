//! Several shards, each of them a client of the others.

mod mounting;
mod origin;
mod retained;
mod shared;

use causeway_protocol::{Ack, Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode, decode, frame};

use super::world::*;
use crate::{ConnectionId, Limits, Millis};

/// Shards with links that carry what each says, in pieces of any size.
pub(super) struct Broker {
    pub(super) shards: Vec<World>,
    /// The connection of shard `[at][of]`.
    pub(super) links: Vec<Vec<Option<ConnectionId>>>,
    /// Bytes on their way `[from][to]`.
    under_way: Vec<Vec<Vec<u8>>>,
    pub(super) cut: bool,
}

impl Broker {
    pub(super) fn new(count: usize) -> Broker {
        Broker::with(count, |_| {})
    }

    pub(super) fn with(count: usize, change: impl Fn(&mut Limits)) -> Broker {
        let mut shards: Vec<World> = (0..count).map(|_| World::with(&change)).collect();
        shards.iter_mut().enumerate().for_each(|(number, world)| world.shard.become_shard(number as u16, count as u16));
        let mut broker =
            Broker { shards, links: Vec::new(), under_way: vec![vec![Vec::new(); count]; count], cut: false };
        broker.link();
        broker
    }

    fn link(&mut self) {
        let count = self.shards.len();
        self.links = vec![vec![None; count]; count];
        self.under_way = vec![vec![Vec::new(); count]; count];
        for at in 0..count {
            for of in (0..count).filter(|of| *of != at) {
                let world = &mut self.shards[at];
                self.links[at][of] = Some(world.shard.open_peer(world.now, of as u16));
                world.settle();
            }
        }
        self.carry();
        assert!(self.shards.iter().all(|world| world.shard.peers_know_all()));
    }

    /// Moves everything between shards until nothing moves any more.
    pub(super) fn carry(&mut self) {
        let count = self.shards.len();
        let mut moved = !self.cut;
        while std::mem::take(&mut moved) {
            for from in 0..count {
                for to in (0..count).filter(|to| *to != from) {
                    let (Some(outgoing), Some(incoming)) = (self.links[from][to], self.links[to][from]) else {
                        continue;
                    };
                    let bytes = self.shards[from].taken(outgoing);
                    moved |= !bytes.is_empty();
                    self.under_way[from][to].extend_from_slice(&bytes);
                    let bytes = std::mem::take(&mut self.under_way[from][to]);
                    self.shards[to].fed(incoming, &bytes);
                }
            }
        }
    }

    pub(super) fn join(&mut self, shard: usize, connect: Connect<'_>) -> Client {
        self.shards[shard].join(connect)
    }

    pub(super) fn subscribe(&mut self, shard: usize, client: Client, filter: &str, qos: u8) {
        self.shards[shard].subscribe(client, filter, options(qos));
        self.carry();
    }

    pub(super) fn publish(&mut self, shard: usize, client: Client, qos: u8, topic: &str, payload: &str) {
        self.shards[shard].publish(client, publish(qos, u16::from(qos > 0), topic, payload));
        self.carry();
    }

    /// Everything stops, without a word, and starts again.
    pub(super) fn restart(&mut self) {
        let count = self.shards.len();
        self.shards.iter_mut().for_each(World::restart);
        self.shards
            .iter_mut()
            .enumerate()
            .for_each(|(number, world)| world.shard.become_shard(number as u16, count as u16));
        self.link();
    }
}

impl World {
    /// Packets that came for a connection.
    pub(super) fn fed(&mut self, id: ConnectionId, mut bytes: &[u8]) {
        while let Ok(Some(head)) = frame(bytes, u32::MAX) {
            let (packet, rest) = bytes.split_at(head.total_bytes());
            let packet: Packet<'_> = decode(&head, &packet[head.header_bytes..], ProtocolVersion::V5).unwrap();
            self.shard.handle(self.now, id, &packet);
            bytes = rest;
        }
        self.settle();
        assert!(!self.closes().contains(&id), "a peer broke the rules");
    }
}

#[test]
fn messages_reach_clients_of_other_shards_once() {
    for qos in 0..3u8 {
        let mut broker = Broker::new(3);
        let here = broker.join(0, connect("here"));
        let there = broker.join(1, connect("there"));
        let everywhere = broker.join(2, connect("everywhere"));
        broker.subscribe(0, here, "a/+", qos);
        broker.subscribe(1, there, "a/b", qos);
        broker.subscribe(2, everywhere, "#", qos);
        let publisher = broker.join(1, connect("publisher"));
        for (shard, client) in [(0, here), (1, there), (2, everywhere)] {
            broker.shards[shard].heard(client);
        }
        broker.publish(1, publisher, qos, "a/b", "x");
        let expected = if qos == 0 { "pub q0 a/b=x".to_owned() } else { format!("pub q{qos} p1 a/b=x") };
        for (shard, client) in [(0, here), (1, there), (2, everywhere)] {
            assert_eq!(broker.shards[shard].heard(client), [expected.as_str()], "QoS {qos}, shard {shard}");
        }
        let answer = [vec![], vec!["puback p1"], vec!["pubrec p1"]];
        assert_eq!(broker.shards[1].heard(publisher), answer[usize::from(qos)]);
    }
}

#[test]
fn suback_waits_until_all_shards_know() {
    let mut broker = Broker::new(3);
    let client = broker.join(0, connect("c"));
    broker.shards[0].subscribe(client, "t", options(1));
    assert_eq!(broker.shards[0].heard(client), [] as [&str; 0]);
    broker.carry();
    assert_eq!(broker.shards[0].heard(client), ["suback 01"]);
    // What others want already is known.
    let other = broker.join(0, connect("other"));
    broker.shards[0].subscribe(other, "t", options(0));
    assert_eq!(broker.shards[0].heard(other), ["suback 00"]);
}

#[test]
fn what_nobody_wants_any_more_is_not_sent() {
    let mut broker = Broker::new(2);
    let (one, other) = (broker.join(0, connect("one")), broker.join(0, connect("other")));
    broker.subscribe(0, one, "t", 1);
    broker.subscribe(0, other, "t", 1);
    let publisher = broker.join(1, connect("p"));
    broker.shards[0].unsubscribe(one, "t");
    broker.carry();
    broker.publish(1, publisher, 1, "t", "x");
    assert_eq!(broker.shards[1].heard(publisher), ["puback p1"]);
    broker.shards[0].disconnect(other);
    broker.carry();
    broker.publish(1, publisher, 1, "t", "y");
    assert_eq!(broker.shards[1].heard(publisher), ["puback p1 0x10"]);
}

#[test]
fn what_was_acknowledged_reaches_another_shard_after_a_crash() {
    for qos in 1..3u8 {
        let mut broker = Broker::new(2);
        let subscriber = broker.join(0, persistent("s"));
        broker.subscribe(0, subscriber, "t", qos);
        broker.shards[0].disconnect(subscriber);
        let publisher = broker.join(1, persistent("p"));
        // The links stand still: the message is on the disk of its publisher's shard, and nowhere else.
        broker.cut = true;
        broker.publish(1, publisher, qos, "t", "x");
        let answered = broker.shards[1].heard(publisher);
        assert_eq!(answered, [if qos == 1 { "puback p1" } else { "pubrec p1" }]);
        broker.cut = false;
        broker.restart();
        let (_, heard) = broker.shards[0].dial(persistent("s"));
        assert_eq!(heard, ["connack 0x00 present".to_owned(), format!("pub q{qos} p1 t=x")]);
    }
}

#[test]
fn qos_2_crosses_once_wherever_it_is_interrupted() {
    // Bytes that are carried before everything stops.
    for carried in 0..40 {
        let mut broker = Broker::new(2);
        let subscriber = broker.join(0, persistent("s"));
        broker.subscribe(0, subscriber, "t", 2);
        broker.shards[0].disconnect(subscriber);
        let publisher = broker.join(1, persistent("p"));
        broker.cut = true;
        broker.publish(1, publisher, 2, "t", "x");
        let (there, back) = (broker.links[1][0].unwrap(), broker.links[0][1].unwrap());
        for step in 0..carried {
            let (from, link, to, other) = if step % 2 == 0 { (1, there, 0, back) } else { (0, back, 1, there) };
            let bytes = broker.shards[from].taken(link);
            broker.shards[to].fed(other, &bytes);
        }
        broker.cut = false;
        broker.restart();
        let (_, heard) = broker.shards[0].dial(persistent("s"));
        assert_eq!(heard, ["connack 0x00 present", "pub q2 p1 t=x"], "after {carried} steps");
    }
}

#[test]
fn what_only_lasts_as_long_as_connections_needs_no_disk() {
    let mut broker = Broker::new(2);
    let subscriber = broker.join(0, connect("s"));
    broker.subscribe(0, subscriber, "t", 1);
    broker.shards[0].heard(subscriber);
    let publisher = broker.join(1, connect("p"));
    broker.shards.iter_mut().for_each(|world| world.durable_at_once = false);
    broker.publish(1, publisher, 1, "t", "x");
    assert_eq!(broker.shards[0].heard(subscriber), ["pub q1 p1 t=x"]);
    assert_eq!(broker.shards[1].heard(publisher), ["puback p1"]);
    // Once somebody wants it who may be away, it does.
    broker.shards.iter_mut().for_each(|world| world.durable_at_once = true);
    let lasting = broker.join(0, persistent("lasting"));
    broker.subscribe(0, lasting, "t", 1);
    broker.shards[1].durable_at_once = false;
    broker.publish(1, publisher, 1, "t", "y");
    assert_eq!(broker.shards[1].heard(publisher), [] as [&str; 0]);
    broker.shards[1].sync();
    assert_eq!(broker.shards[1].heard(publisher), ["puback p1"]);
}

fn retained<'a>(qos: u8, topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish { retain: true, ..publish(qos, u16::from(qos > 0), topic, payload) }
}

impl Broker {
    /// What each client got, QoS 1 and 2 acknowledged; words of messages only.
    fn take_all(&mut self, clients: &[(usize, Client)]) -> Vec<Vec<String>> {
        let mut all = vec![Vec::new(); clients.len()];
        loop {
            let mut quiet = true;
            for (got, (shard, client)) in all.iter_mut().zip(clients) {
                let heard = self.shards[*shard].heard(*client);
                for word in heard.into_iter().filter(|word| word.starts_with("pub q")) {
                    quiet = false;
                    let parts: Vec<&str> = word.split(' ').collect();
                    let id = parts.iter().find_map(|part| match part.split_at(1) {
                        ("p", id) => id.parse::<u16>().ok(),
                        ("l", id) => id.parse::<u16>().ok().map(loose),
                        _ => None,
                    });
                    match (parts[1], id) {
                        ("q1", Some(id)) => self.shards[*shard].puback(*client, id),
                        ("q2", Some(id)) => {
                            self.shards[*shard]
                                .send(*client, Packet::PubRec(Ack::new(packet_id(id), ReasonCode::Success)));
                            self.shards[*shard]
                                .send(*client, Packet::PubComp(Ack::new(packet_id(id), ReasonCode::Success)));
                        }
                        _ => {}
                    }
                    got.push(parts.last().copied().unwrap_or_default().to_owned());
                }
            }
            self.carry();
            if quiet {
                return all;
            }
        }
    }

    fn publish_numbered(&mut self, shard: usize, client: Client, qos: u8, numbers: std::ops::Range<u16>) {
        for number in numbers {
            let payload = number.to_string();
            self.shards[shard].publish(client, publish(qos, if qos > 0 { number + 1 } else { 0 }, "t", &payload));
            if qos == 2 {
                let pubrel = Packet::PubRel(Ack::new(packet_id(number + 1), ReasonCode::Success));
                self.shards[shard].send(client, pubrel);
            }
        }
        self.carry();
    }
}

#[test]
fn a_full_queue_refuses_publishers_on_other_shards_until_it_has_room() {
    for restarts in [false, true] {
        let mut broker = Broker::with(2, |limits| limits.session_queue_messages_max = 8);
        let member = broker.join(0, persistent("away"));
        broker.subscribe(0, member, "t", 1);
        broker.shards[0].disconnect(member);
        let mut publisher = broker.join(1, persistent("p"));
        broker.publish_numbered(1, publisher, 1, 0..8);
        let accepted: Vec<String> = (1..=8).map(|id| format!("puback p{id}")).collect();
        assert_eq!(broker.shards[1].heard(publisher), accepted);
        if restarts {
            broker.restart();
            publisher = broker.join(1, persistent("p"));
        }
        broker.publish_numbered(1, publisher, 1, 8..9);
        assert_eq!(broker.shards[1].heard(publisher), ["puback p9 0x97"]);
        // QoS 0 is nobody's debt.
        broker.publish_numbered(1, publisher, 0, 9..10);
        let (member, heard) = broker.shards[0].dial(persistent("away"));
        // What a link carries again after a crash is known by its identifier.
        let first: Vec<&str> = heard[1..].iter().filter_map(|word| word.split(' ').next_back()).collect();
        assert_eq!(first, (0..8).map(|number| format!("t={number}")).collect::<Vec<_>>());
        (1..=8).for_each(|id| broker.shards[0].puback(member, id));
        broker.shards[0].wait(2000);
        broker.carry();
        broker.publish_numbered(1, publisher, 1, 10..11);
        assert_eq!(broker.shards[1].heard(publisher), ["puback p11"]);
        assert_eq!(broker.take_all(&[(0, member)]), [["t=10"]]);
    }
}

#[test]
fn what_is_on_its_way_to_a_full_queue_is_not_lost() {
    let mut broker = Broker::with(2, |limits| limits.session_queue_messages_max = 8);
    let member = broker.join(0, persistent("away"));
    broker.subscribe(0, member, "t", 1);
    broker.shards[0].disconnect(member);
    let publisher = broker.join(1, persistent("p"));
    broker.cut = true;
    broker.publish_numbered(1, publisher, 1, 0..20);
    assert_eq!(broker.shards[1].heard(publisher).len(), 20);
    broker.cut = false;
    broker.restart();
    let (member, mut heard) = broker.shards[0].dial(persistent("away"));
    heard.remove(0);
    let mut got: Vec<String> = heard.iter().filter_map(|word| word.split(' ').next_back()).map(str::to_owned).collect();
    got.extend(broker.take_all(&[(0, member)]).concat());
    assert_eq!(got, (0..20).map(|number| format!("t={number}")).collect::<Vec<_>>());
}

/// Publishers that are faster than a link are to be held up, not refused, and only until the link has carried enough.
#[test]
fn a_shard_that_is_behind_is_waited_for() {
    let mut broker = Broker::new(2);
    let listener = broker.join(1, persistent("l"));
    broker.subscribe(1, listener, "t", 1);
    broker.shards[1].disconnect(listener);
    let publisher = broker.join(0, connect("p"));
    broker.shards[0].heard(publisher);
    broker.cut = true;
    let mut published = 0;
    while !broker.shards[0].shard.peers_are_behind() {
        published += 1;
        broker.shards[0].publish(publisher, publish(1, 1 + published % 1000, "t", "x"));
        assert!(published < 40_000, "it is never behind");
    }
    assert!(broker.shards[0].heard(publisher).iter().all(|word| !word.contains("0x")), "nobody is refused");
    assert!(!broker.shards[0].shard.peers_have_caught_up());
    broker.cut = false;
    broker.carry();
    assert!(broker.shards[0].shard.peers_have_caught_up() && !broker.shards[0].shard.peers_are_behind());
    assert!(published > 30_000, "a burst is no reason to wait");
}

#[test]
fn a_client_may_want_what_the_word_between_shards_is() {
    let mut broker = Broker::new(2);
    let listener = broker.join(0, persistent("l"));
    broker.subscribe(0, listener, "$shard/wishes", 1);
    broker.restart();
    let publisher = broker.join(1, connect("p"));
    broker.publish(1, publisher, 1, "$shard/wishes", "x");
    assert_eq!(broker.shards[1].heard(publisher), ["puback p1"]);
}

#[test]
fn what_was_wanted_before_a_crash_is_forgotten_after_it() {
    let mut broker = Broker::new(2);
    let (gone, stays) = (broker.join(0, connect("gone")), broker.join(0, persistent("stays")));
    broker.subscribe(0, gone, "gone", 1);
    broker.subscribe(0, stays, "stays", 1);
    broker.restart();
    let publisher = broker.join(1, connect("p"));
    for (topic, reason) in [("gone", " 0x10"), ("stays", "")] {
        broker.publish(1, publisher, 1, topic, "x");
        assert_eq!(broker.shards[1].heard(publisher), [format!("puback p1{reason}")], "{topic}");
    }
    broker.restart();
    assert_eq!(broker.shards[0].dial(persistent("stays")).1.len(), 2);
}

#[test]
fn what_needs_no_disk_takes_no_identifier_of_what_does() {
    for qos in 1..3u8 {
        let mut broker = Broker::new(2);
        let fleeting = broker.join(0, connect("f"));
        broker.subscribe(0, fleeting, "f", qos);
        let lasting = broker.join(0, persistent("l"));
        broker.subscribe(0, lasting, "t", qos);
        broker.shards[0].disconnect(lasting);
        let publisher = broker.join(1, persistent("p"));
        // Somebody on the other shard wants it for longer, which this one does not know yet: it is recorded only there.
        broker.cut = true;
        let newcomer = broker.join(0, persistent("n"));
        broker.subscribe(0, newcomer, "f", qos);
        let (there, back) = (broker.links[1][0].unwrap(), broker.links[0][1].unwrap());
        broker.publish(1, publisher, qos, "f", "x");
        let bytes = broker.shards[1].taken(there);
        broker.shards[0].fed(back, &bytes);
        broker.shards[1].publish(publisher, publish(qos, 2, "t", "y"));
        assert_eq!(broker.shards[1].heard(publisher).len(), 2);
        broker.cut = false;
        broker.restart();
        let (_, heard) = broker.shards[0].dial(persistent("l"));
        assert_eq!(heard, ["connack 0x00 present".to_owned(), format!("pub q{qos} p1 t=y")]);
    }
}

#[test]
fn a_full_disk_keeps_no_wish_from_other_shards() {
    let mut broker = Broker::new(2);
    let listener = broker.join(0, connect("l"));
    broker.shards.iter_mut().for_each(|world| world.shard.storage_low(true));
    broker.subscribe(0, listener, "t", 1);
    assert_eq!(broker.shards[0].heard(listener), ["suback 01"]);
    let publisher = broker.join(1, connect("p"));
    broker.publish(1, publisher, 1, "t", "x");
    assert_eq!(broker.shards[0].heard(listener), ["pub q1 p1 t=x"]);
}

#[test]
fn a_flood_of_qos_0_does_not_keep_others_from_crossing() {
    let mut broker = Broker::new(2);
    let (listener, member) = (broker.join(0, connect("l")), broker.join(0, connect("m")));
    broker.subscribe(0, listener, "#", 1);
    broker.subscribe(0, member, "$share/g/s", 1);
    let publisher = broker.join(1, connect("p"));
    broker.cut = true;
    let flood = "x".repeat(1 << 20);
    for _ in 0..100 {
        broker.publish(1, publisher, 0, "flood", &flood);
    }
    let link = broker.links[1][0].unwrap();
    let waiting = broker.shards[1].shard.outbox(link).unwrap().bytes();
    broker.publish(1, publisher, 1, "s", "urgent");
    let now_waiting = broker.shards[1].shard.outbox(link).unwrap().bytes();
    assert!(waiting > 60 << 20 && now_waiting > waiting + 20, "{waiting}, then {now_waiting}");
}

#[test]
fn a_shard_that_stops_first_does_not_make_others_fail() {
    let mut broker = Broker::new(2);
    let now = broker.shards[0].now;
    broker.shards[0].shard.shutdown(now);
    broker.shards[0].closes();
    // Here, the link is not closed as one that broke the rules.
    broker.carry();
    assert!(broker.shards[1].shard.is_open(broker.links[1][0].unwrap()));
}

#[test]
fn an_identifier_that_qos_1_had_a_round_ago_is_no_reason_to_lose_a_qos_2_message() {
    let mut broker = Broker::new(2);
    let listener = broker.join(0, persistent("l"));
    broker.subscribe(0, listener, "t", 2);
    let publisher = broker.join(1, connect("p"));
    broker.publish(1, publisher, 1, "t", "first");
    let (mut got, all) = (0, crate::lane::BULK_IDS + 10);
    for number in 0..all {
        broker.publish(1, publisher, 2, "t", "x");
        broker.shards[1].send(publisher, Packet::PubRel(Ack::new(packet_id(1), ReasonCode::Success)));
        if number % 500 == 0 || number + 1 == all {
            got += broker.take_all(&[(0, listener)])[0].len() as u64;
            broker.shards[1].heard(publisher);
        }
    }
    assert_eq!(got, 1 + all);
}

#[test]
fn a_full_queue_refuses_nothing_that_needs_no_room_in_it() {
    let mut broker = Broker::with(2, |limits| limits.session_queue_messages_max = 8);
    let full = broker.join(0, persistent("full"));
    broker.subscribe(0, full, "t", 1);
    broker.subscribe(0, full, "u", 0);
    broker.shards[0].disconnect(full);
    let other = broker.join(0, persistent("other"));
    broker.subscribe(0, other, "u", 1);
    let publisher = broker.join(1, connect("p"));
    broker.publish_numbered(1, publisher, 1, 0..8);
    broker.publish_numbered(1, publisher, 1, 8..9);
    assert_eq!(broker.shards[1].heard(publisher).last().unwrap(), "puback p9 0x97");
    broker.publish(1, publisher, 1, "u", "x");
    assert_eq!(broker.shards[1].heard(publisher), ["puback p1"]);
    // Once it has room again, all is as before.
    let (full, _) = broker.shards[0].dial(persistent("full"));
    (1..=8).for_each(|id| broker.shards[0].puback(full, id));
    broker.shards[0].wait(2000);
    broker.carry();
    broker.publish_numbered(1, publisher, 1, 9..10);
    assert_eq!(broker.shards[1].heard(publisher), ["puback p10"]);
}
