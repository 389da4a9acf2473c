//! The world of one run: shards and their disks, the links between them, vehicles, consumers, and one clock.
//!
//! Owns how bytes get from one to the other. What happens next is decided in `schedule`, and who is right in `judge`.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_core::{ConnectionId, Effect, Limits, Millis, Shard};
use causeway_protocol::{Packet, ProtocolVersion, decode};
use causeway_storage::fault::{FaultyDisk, Random};

use super::PresenceTally;
use super::consumer::{Consumer, Habit};
use super::packets::answer;
use super::vehicle::{Client, WillState};
use crate::broker::Broker;
use crate::link::first_packet;
use crate::part::Outcome;
use crate::trace::{Event, Trace};
use crate::world::gather;

/// One shard, and its disk.
pub(super) struct Core<B> {
    pub(super) broker: B,
    pub(super) disk: FaultyDisk,
    /// Wills that their clients took back, which a crash undoes until the next sync.
    pub(super) withdrawn: Vec<u32>,
}

/// One direction of a link between two shards.
struct Wire {
    from: usize,
    to: usize,
    outgoing: ConnectionId,
    incoming: ConnectionId,
    bytes: Vec<u8>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A vehicle's client.
    Client(usize),
    /// A consumer.
    Consumer(usize),
}

/// See the module.
pub(super) struct World<B> {
    pub(super) cores: Vec<Core<B>>,
    pub(super) clients: Vec<Client>,
    pub(super) consumers: Vec<Consumer>,
    pub(super) vehicles: usize,
    /// By their numbers.
    pub(super) wills: Vec<WillState>,
    pub(super) limits: Arc<Limits>,
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) step: u32,
    /// All shards know what the others' clients want: clients may come.
    pub(super) is_listening: bool,
    pub(super) trace: Trace,
    pub(super) tally: PresenceTally,
    by_connection: BTreeMap<(usize, ConnectionId), Peer>,
    wires: Vec<Wire>,
}

impl<B: Broker> World<B> {
    pub(super) fn new(seed: u64, limits: Arc<Limits>, brokers: Vec<B>) -> World<B> {
        let mut random = Random::new(seed.wrapping_mul(2).wrapping_add(1));
        let core = |broker| Core { broker, disk: FaultyDisk::new(random.next()), withdrawn: Vec::new() };
        let cores: Vec<Core<B>> = brokers.into_iter().map(core).collect();
        let vehicles = 2 + random.below(9) as usize;
        let mut world = World {
            cores,
            clients: Vec::new(),
            consumers: Vec::new(),
            vehicles,
            wills: Vec::new(),
            limits,
            random,
            now: 1_700_000_000_000,
            step: 0,
            is_listening: false,
            trace: Trace::default(),
            tally: PresenceTally::default(),
            by_connection: BTreeMap::new(),
            wires: Vec::new(),
        };
        world.populate();
        world
    }

    pub(super) fn note(&mut self, what: &'static str, numbers: [u64; 3]) {
        self.trace.note(Event { step: self.step, now: self.now, what, numbers });
    }

    pub(super) fn millis(&self) -> Millis {
        Millis(self.now)
    }

    /// All clients of a vehicle live on one shard.
    pub(super) fn home(&self, vehicle: usize) -> usize {
        vehicle % self.cores.len()
    }

    pub(super) fn shard(&mut self, core: usize) -> &mut Shard {
        self.cores[core].broker.shard()
    }

    pub(super) fn connected(&mut self, core: usize, connection: ConnectionId, peer: Peer) {
        self.by_connection.insert((core, connection), peer);
    }

    /// The socket of a connection is gone.
    pub(super) fn close(&mut self, core: usize, connection: ConnectionId) {
        let now = self.millis();
        self.by_connection.remove(&(core, connection));
        self.shard(core).closed(now, connection, "simulated");
    }

    /// All connections are gone with the process.
    pub(super) fn forget_connections(&mut self) {
        self.by_connection.clear();
        self.wires.clear();
        self.is_listening = false;
    }

    /// Connects all shards with each other, as a broker does before it listens.
    pub(super) fn lay_wires(&mut self) {
        let (count, now) = (self.cores.len(), self.millis());
        let ends: Vec<(usize, usize)> =
            (0..count).flat_map(|at| (0..count).map(move |of| (at, of))).filter(|(at, of)| at != of).collect();
        let opened: BTreeMap<(usize, usize), ConnectionId> =
            ends.iter().map(|&(at, of)| ((at, of), self.shard(at).open_peer(now, of as u16))).collect();
        self.wires = ends
            .iter()
            .map(|&(from, to)| {
                let (outgoing, incoming) = (opened[&(from, to)], opened[&(to, from)]);
                Wire { from, to, outgoing, incoming, bytes: Vec::new() }
            })
            .collect();
        self.see_whether_all_know();
    }

    fn see_whether_all_know(&mut self) {
        self.is_listening = self.is_listening || self.cores.iter_mut().all(|core| core.broker.shard().peers_know_all());
    }

    pub(super) fn wires(&self) -> usize {
        self.wires.len()
    }

    /// Carries what one shard has for another, or only part of it. Whether there was anything.
    pub(super) fn carry(&mut self, at: usize, bytes_max: usize) -> Outcome<bool> {
        let now = self.millis();
        let Wire { from, to, outgoing, incoming, .. } = self.wires[at];
        let sent = self.take(from, outgoing, usize::MAX);
        let wire = &mut self.wires[at];
        wire.bytes.extend_from_slice(&sent);
        let mut budget = bytes_max;
        let mut any = !sent.is_empty();
        while let Ok(Some(head)) = first_packet(&self.wires[at].bytes) {
            let is_open = self.cores[to].broker.shard().wants_input(incoming);
            if head.total_bytes() > budget || !is_open || self.cores[to].broker.shard().is_corked(incoming) {
                break;
            }
            budget -= head.total_bytes();
            let rest = self.wires[at].bytes.split_off(head.total_bytes());
            let bytes = std::mem::replace(&mut self.wires[at].bytes, rest);
            let packet = decode(&head, &bytes[head.header_bytes..], ProtocolVersion::V5)
                .map_err(|error| format!("shard {from} sent shard {to} no packet: {error}"))?;
            self.shard(to).handle(now, incoming, &packet);
            any = true;
        }
        self.see_whether_all_know();
        Ok(any)
    }

    /// Takes bytes out of an outbox.
    fn take(&mut self, core: usize, connection: ConnectionId, bytes_max: usize) -> Vec<u8> {
        let now = self.millis();
        let Some(mut outbox) = self.shard(core).outbox(connection) else { return Vec::new() };
        let mut bytes = gather(outbox.as_ref());
        bytes.truncate(bytes_max);
        if bytes.is_empty() {
            return bytes;
        }
        outbox.advance(bytes.len());
        self.trace.wire(&bytes);
        self.shard(core).flushed(now, connection);
        bytes
    }

    /// Hands everybody what waits for them. Consumers may be slow, unless `all`. Whether there was anything.
    pub(super) fn drain(&mut self, all: bool) -> Outcome<bool> {
        let mut any = false;
        let peers: Vec<((usize, ConnectionId), Peer)> = self.by_connection.iter().map(|(at, of)| (*at, *of)).collect();
        for ((core, connection), peer) in peers {
            let is_slow = matches!(peer, Peer::Consumer(_)) && !all && self.random.chance(40);
            if is_slow {
                continue;
            }
            let bytes = self.take(core, connection, usize::MAX);
            any |= !bytes.is_empty();
            let mut rest = bytes.as_slice();
            while let Ok(Some(head)) = first_packet(rest) {
                let (packet, behind) = rest.split_at(head.total_bytes());
                rest = behind;
                let packet = decode(&head, &packet[head.header_bytes..], ProtocolVersion::V5)
                    .map_err(|error| format!("no packet: {error}"))?;
                self.received(core, connection, peer, &packet)?;
            }
            any |= self.send_answers(core, connection, peer);
        }
        self.close_what_should_be();
        Ok(any)
    }

    fn received(&mut self, core: usize, connection: ConnectionId, peer: Peer, packet: &Packet<'_>) -> Outcome<()> {
        match peer {
            Peer::Client(at) => {
                if let Packet::ConnAck(connack) = packet {
                    let is_its = self.clients[at].connection.as_ref().is_some_and(|open| open.id == connection);
                    if is_its && connack.reason.is_error() {
                        return Err(format!("{} is refused: {}", self.clients[at].client_id, connack.reason));
                    }
                    if is_its {
                        self.answered(at);
                    }
                }
                Ok(())
            }
            Peer::Consumer(at) => {
                if self.consumers[at].connection != Some(connection) {
                    return Ok(());
                }
                self.consumers[at].answers.extend(answer(packet));
                match packet {
                    Packet::ConnAck(connack) => self.welcomed(core, at, connack.session_present),
                    Packet::SubAck(_) => self.consumers[at].is_subscribed = true,
                    Packet::Publish(publish) if self.consumers[at].habit == Habit::Wills => {
                        return self.judge_will(publish.payload);
                    }
                    Packet::Publish(publish) => {
                        self.tally.events += 1;
                        return self.consumers[at].take(publish.topic, publish.payload);
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }

    /// Sends what a consumer has to say, as far as the broker listens.
    fn send_answers(&mut self, core: usize, connection: ConnectionId, peer: Peer) -> bool {
        let Peer::Consumer(at) = peer else { return false };
        let now = self.millis();
        let mut any = false;
        while self.consumers[at].connection == Some(connection)
            && self.shard(core).wants_input(connection)
            && let Some(bytes) = self.consumers[at].answers.pop_front()
        {
            let Ok(Some(head)) = first_packet(&bytes) else { continue };
            if let Ok(packet) = decode(&head, &bytes[head.header_bytes..], ProtocolVersion::V5) {
                self.shard(core).handle(now, connection, &packet);
            }
            any = true;
        }
        any
    }

    /// Closes the sockets that shards want closed.
    fn close_what_should_be(&mut self) {
        for core in 0..self.cores.len() {
            while let Some(effect) = self.shard(core).poll_effect() {
                if let Effect::Close { connection } = effect {
                    self.close(core, connection);
                    let is_its = |of: Option<ConnectionId>| of == Some(connection);
                    let gone = self.consumers.iter_mut().filter(|one| one.home == core && is_its(one.connection));
                    gone.for_each(Consumer::cut_off);
                }
            }
            while self.shard(core).poll_dirty().is_some() {}
        }
    }
}
