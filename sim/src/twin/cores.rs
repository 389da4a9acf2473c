//! The shards of a simulated broker, their disks, and the links between them.
//!
//! Owns starting, killing and the carrying of bytes between shards. It never knows a client.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_core::{ConnectionId, Millis, Shard};
use causeway_protocol::{ProtocolVersion, decode};
use causeway_storage::fault::{FaultyDisk, Random};

use super::Outcome;
use crate::broker::Broker;
use crate::link::first_packet;
use crate::world::gather;

/// One shard, and its disk.
struct Core<B> {
    broker: B,
    disk: FaultyDisk,
}

/// One direction of a link between two shards.
struct Wire {
    from: usize,
    to: usize,
    outgoing: ConnectionId,
    incoming: ConnectionId,
    bytes: Vec<u8>,
}

/// See the module.
pub(super) struct Cores<B> {
    cores: Vec<Core<B>>,
    wires: Vec<Wire>,
    /// All shards know what the others' clients want: clients may come.
    pub(super) is_listening: bool,
}

impl<B: Broker> Cores<B> {
    pub(super) fn new(brokers: Vec<B>, random: &mut Random) -> Cores<B> {
        let core = |broker| Core { broker, disk: FaultyDisk::new(random.next()) };
        Cores { cores: brokers.into_iter().map(core).collect(), wires: Vec::new(), is_listening: false }
    }

    pub(super) fn count(&self) -> usize {
        self.cores.len()
    }

    pub(super) fn wires(&self) -> usize {
        self.wires.len()
    }

    pub(super) fn shard(&mut self, at: usize) -> &mut Shard {
        self.cores[at].broker.shard()
    }

    pub(super) fn start(&mut self, now: u64) -> Outcome<()> {
        let now = Millis(now);
        for core in &mut self.cores {
            let disk = Arc::new(core.disk.clone());
            core.broker.start(disk, now).map_err(|error| format!("the broker does not start: {error}"))?;
        }
        self.lay_wires(now);
        self.cores.iter_mut().for_each(|core| core.broker.shard().tick(now));
        Ok(())
    }

    /// The process is gone, and what was not synced if the power is, too.
    pub(super) fn stop(&mut self, power_cut: Option<&mut Random>) {
        self.cores.iter_mut().for_each(|core| core.broker.stop());
        if let Some(random) = power_cut {
            self.cores.iter_mut().for_each(|core| core.disk.power_cut(random.next()));
        }
        self.wires.clear();
        self.is_listening = false;
    }

    /// Connects all shards with each other, as a broker does before it listens.
    fn lay_wires(&mut self, now: Millis) {
        let count = self.cores.len();
        let ends = || (0..count).flat_map(move |at| (0..count).map(move |of| (at, of))).filter(|(at, of)| at != of);
        let mut opened = BTreeMap::new();
        for (at, of) in ends() {
            opened.insert((at, of), self.shard(at).open_peer(now, of as u16));
        }
        let wire = |(from, to)| {
            let (outgoing, incoming) = (opened[&(from, to)], opened[&(to, from)]);
            Wire { from, to, outgoing, incoming, bytes: Vec::new() }
        };
        self.wires = ends().map(wire).collect();
        self.see_whether_all_know();
    }

    fn see_whether_all_know(&mut self) {
        self.is_listening = self.is_listening || self.cores.iter_mut().all(|core| core.broker.shard().peers_know_all());
    }

    /// Carries what one shard has for another, or only part of it. Whether there was anything.
    pub(super) fn carry(&mut self, now: u64, at: usize, bytes_max: usize) -> Outcome<bool> {
        let Wire { from, to, outgoing, incoming, .. } = self.wires[at];
        let sent = self.take(now, from, outgoing);
        self.wires[at].bytes.extend_from_slice(&sent);
        let mut budget = bytes_max;
        let mut any = !sent.is_empty();
        while let Ok(Some(head)) = first_packet(&self.wires[at].bytes) {
            let is_open = self.shard(to).wants_input(incoming) && !self.shard(to).is_corked(incoming);
            if head.total_bytes() > budget || !is_open {
                break;
            }
            budget -= head.total_bytes();
            let rest = self.wires[at].bytes.split_off(head.total_bytes());
            let bytes = std::mem::replace(&mut self.wires[at].bytes, rest);
            let packet = decode(&head, &bytes[head.header_bytes..], ProtocolVersion::V5)
                .map_err(|error| format!("shard {from} sent shard {to} no packet: {error}"))?;
            self.shard(to).handle(Millis(now), incoming, &packet);
            any = true;
        }
        self.see_whether_all_know();
        Ok(any)
    }

    /// Takes what is in an outbox.
    pub(super) fn take(&mut self, now: u64, core: usize, connection: ConnectionId) -> Vec<u8> {
        let Some(mut outbox) = self.shard(core).outbox(connection) else { return Vec::new() };
        let bytes = gather(outbox.as_ref());
        if !bytes.is_empty() {
            outbox.advance(bytes.len());
            self.shard(core).flushed(Millis(now), connection);
        }
        bytes
    }

    /// Time passes, with all that is due.
    pub(super) fn advance(&mut self, now: u64, until: u64) {
        for core in &mut self.cores {
            let shard = core.broker.shard();
            while let Some(due) = shard.next_deadline().filter(|due| due.0 <= until) {
                // Shards are not ordered among each other, but none ever sees time go back.
                shard.tick(Millis(due.0.max(now)));
            }
        }
    }

    /// Appends what gathered. Whether there was any.
    pub(super) fn append(&mut self, core: usize) -> Outcome<bool> {
        let appended = self.cores[core].broker.append().map_err(|error| format!("append: {error}"))?;
        Ok(appended.is_some())
    }

    pub(super) fn sync(&mut self, now: u64, core: usize) -> Outcome<()> {
        self.cores[core].broker.sync().map_err(|error| format!("sync: {error}"))?;
        self.cores[core].broker.tell(Millis(now));
        Ok(())
    }

    pub(super) fn fold(&mut self, core: usize, choice: u64) -> Outcome<()> {
        self.cores[core].broker.fold(choice).map_err(|error| format!("fold: {error}"))
    }

    /// Reads a body that is asked for. Whether there was any.
    pub(super) fn fetch(&mut self, now: u64, core: usize, choice: u64) -> bool {
        self.cores[core].broker.fetch(Millis(now), choice)
    }
}
