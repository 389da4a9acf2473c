//! The links between the shards of a broker.
//!
//! Owns what is on its way between two of them: in order, never lost, in pieces and as late as chance has it, and gone when the
//! broker dies. What it means is the shards' own business.

use causeway_core::ConnectionId;
use causeway_protocol::{ProtocolVersion, decode};

use super::{BROKER_SLOT, Over, World, gather};
use crate::broker::Broker;
use crate::link::first_packet;
use crate::oracle::Rule;

/// Milliseconds that something may be on its way.
pub(crate) const UNDER_WAY_MAX: u64 = 1000;

/// One direction of a link between two shards.
#[derive(Debug)]
pub(super) struct Wire {
    from: usize,
    to: usize,
    /// What either end calls the other.
    outgoing: ConnectionId,
    incoming: ConnectionId,
    under_way: Vec<u8>,
    arrived: Vec<u8>,
    /// Since when something has been under way.
    since: u64,
    /// For a while, nothing is carried.
    is_stuck: bool,
}

impl<B: Broker> World<B> {
    /// Connects all shards with each other, as a broker does before it listens.
    pub(super) fn lay_wires(&mut self) {
        let count = self.cores.len();
        self.wires.clear();
        let ends: Vec<(usize, usize)> =
            (0..count).flat_map(|at| (0..count).map(move |of| (at, of))).filter(|(at, of)| at != of).collect();
        let opened: Vec<ConnectionId> =
            ends.iter().map(|(at, of)| self.input(*at, |shard, now| shard.open_peer(now, *of as u16))).collect();
        let end = |at, of| ends.iter().position(|end| *end == (at, of)).map(|end| opened[end]);
        for (from, to) in &ends {
            let (Some(outgoing), Some(incoming)) = (end(*from, *to), end(*to, *from)) else { continue };
            let (under_way, arrived) = (Vec::new(), Vec::new());
            self.wires.push(Wire {
                from: *from,
                to: *to,
                outgoing,
                incoming,
                under_way,
                arrived,
                since: 0,
                is_stuck: false,
            });
        }
    }

    /// Takes what the shards have for each other.
    pub(super) fn load_wires(&mut self) {
        for at in 0..self.wires.len() {
            let (from, connection) = (self.wires[at].from, self.wires[at].outgoing);
            let Some(mut outbox) = self.cores[from].broker.shard().outbox(connection) else { continue };
            let bytes = gather(outbox.as_ref());
            if bytes.is_empty() {
                continue;
            }
            outbox.advance(bytes.len());
            self.trace.wire(&bytes);
            let wire = &mut self.wires[at];
            if wire.under_way.is_empty() {
                wire.since = self.now;
            }
            wire.under_way.extend_from_slice(&bytes);
            self.input(from, |shard, now| shard.flushed(now, connection));
        }
    }

    /// Something happens to one of the wires.
    pub(super) fn play_wire(&mut self) -> Result<(), Over> {
        let at = self.random.below(self.wires.len() as u64) as usize;
        if self.random.chance(5) {
            self.wires[at].is_stuck ^= true;
        }
        let bytes = self.how_many();
        if self.wires[at].is_stuck { Ok(()) } else { self.carry_wire(at, bytes) }
    }

    /// Nothing is on its way for long, in one process: carries what would be, so much later.
    pub(super) fn carry_overdue(&mut self, milliseconds: u64) -> Result<(), Over> {
        for at in 0..self.wires.len() {
            let wire = &self.wires[at];
            if !wire.under_way.is_empty() && wire.since + UNDER_WAY_MAX < self.now + milliseconds {
                self.carry_wire(at, usize::MAX)?;
            }
        }
        Ok(())
    }

    /// Carries everything that is on its way between shards. Whether there was anything.
    pub(super) fn carry_wires(&mut self) -> Result<bool, Over> {
        let mut any = false;
        for at in 0..self.wires.len() {
            self.wires[at].is_stuck = false;
            any |= !self.wires[at].under_way.is_empty();
            self.carry_wire(at, usize::MAX)?;
        }
        Ok(any)
    }

    /// Bytes of one shard reach another.
    fn carry_wire(&mut self, at: usize, bytes_max: usize) -> Result<(), Over> {
        self.at(BROKER_SLOT)?;
        let wire = &mut self.wires[at];
        let bytes = bytes_max.min(wire.under_way.len());
        let rest = wire.under_way.split_off(bytes);
        let bytes = std::mem::replace(&mut wire.under_way, rest);
        wire.arrived.extend_from_slice(&bytes);
        let (from, to, connection) = (wire.from, wire.to, wire.incoming);
        while self.shard(to).wants_input(connection)
            && let Ok(Some(head)) = first_packet(&self.wires[at].arrived)
        {
            let rest = self.wires[at].arrived.split_off(head.total_bytes());
            let bytes = std::mem::replace(&mut self.wires[at].arrived, rest);
            match decode(&head, &bytes[head.header_bytes..], ProtocolVersion::V5) {
                Ok(packet) => {
                    let numbers = super::numbers(0, &packet, self.oracle.registry(), topic_of(&packet));
                    self.note(super::name(&packet, true), [from as u64 * 10 + to as u64, numbers[1], numbers[2]]);
                    self.input(to, |shard, now| shard.handle(now, connection, &packet));
                }
                Err(error) => {
                    self.oracle.breach(Rule::Data, format!("shard {from} sent shard {to} no packet: {error}"));
                    return Err(Over);
                }
            }
            self.observe()?;
        }
        self.see_whether_all_know();
        Ok(())
    }

    /// A broker listens once all its shards know what the others' clients want.
    pub(super) fn see_whether_all_know(&mut self) {
        self.is_listening = self.is_listening || self.cores.iter_mut().all(|core| core.broker.shard().peers_know_all());
    }

    /// A shard gave a connection up that is not a client's.
    pub(super) fn judge_closed_wire(&mut self, core: usize, connection: ConnectionId) {
        if let Some(wire) = self.wires.iter().find(|wire| (wire.from, wire.outgoing) == (core, connection)) {
            let detail = format!("shard {core} closed its link to shard {}", wire.to);
            self.oracle.breach(Rule::Connection, detail);
        }
    }
}

fn topic_of<'a>(packet: &causeway_protocol::Packet<'a>) -> &'a str {
    if let causeway_protocol::Packet::Publish(publish) = packet { publish.topic } else { "" }
}
