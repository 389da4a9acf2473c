//! Several shards, each of them a client of the others.

use causeway_protocol::{Ack, Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode, decode, frame};

use super::world::*;
use crate::{ConnectionId, Limits, Millis};

/// Shards with links that carry what each says, in pieces of any size.
struct Broker {
    shards: Vec<World>,
    /// The connection of shard `[at][of]`.
    links: Vec<Vec<Option<ConnectionId>>>,
    /// Bytes on their way `[from][to]`.
    under_way: Vec<Vec<Vec<u8>>>,
    cut: bool,
}

impl Broker {
    fn new(count: usize) -> Broker {
        Broker::with(count, |_| {})
    }

    fn with(count: usize, change: impl Fn(&mut Limits)) -> Broker {
        let mut shards: Vec<World> = (0..count).map(|_| World::with(&change)).collect();
        shards.iter_mut().enumerate().for_each(|(number, world)| world.shard.become_shard(number as u16));
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
    fn carry(&mut self) {
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

    fn join(&mut self, shard: usize, connect: Connect<'_>) -> Client {
        self.shards[shard].join(connect)
    }

    fn subscribe(&mut self, shard: usize, client: Client, filter: &str, qos: u8) {
        self.shards[shard].subscribe(client, filter, options(qos));
        self.carry();
    }

    fn publish(&mut self, shard: usize, client: Client, qos: u8, topic: &str, payload: &str) {
        self.shards[shard].publish(client, publish(qos, u16::from(qos > 0), topic, payload));
        self.carry();
    }

    /// Everything stops, without a word, and starts again.
    fn restart(&mut self) {
        self.shards.iter_mut().for_each(World::restart);
        self.shards.iter_mut().enumerate().for_each(|(number, world)| world.shard.become_shard(number as u16));
        self.link();
    }
}

impl World {
    /// Packets that came for a connection.
    fn fed(&mut self, id: ConnectionId, mut bytes: &[u8]) {
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
