//! Crashes, restarts and damage.
//!
//! Owns what a death of the broker takes with it, and what a start must find.

use std::sync::Arc;

use causeway_storage::RecoverError;
use causeway_storage::fault::Failure;

use super::core::Core;
use super::{Over, START_SLOT, World};
use crate::broker::{Broker, StartError};
use crate::oracle::Rule;
use crate::oracle::state::LinkId;

/// How a broker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The process is gone, the machine goes on.
    Killed,
    /// The power fails.
    PowerCut,
}

impl<B: Broker> World<B> {
    /// The broker dies and is started again.
    pub(super) fn crash(&mut self, death: Death) -> Result<(), Over> {
        self.die(death);
        self.start(death)
    }

    fn die(&mut self, death: Death) {
        self.note("crash", [death as u64, 0, 0]);
        for core in &mut self.cores {
            let power_cut = (death == Death::PowerCut).then(|| self.random.next());
            core.die(power_cut);
        }
        self.wires.clear();
        self.is_listening = false;
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let down = self.random.below(link.down.len() as u64 + 1) as usize;
            link.cut(0, down);
            link.arrived.clear();
            (link.connection, link.broker_left) = (None, true);
            self.forget_link(id);
        }
        self.by_connection.clear();
        if !self.is_healed {
            // It takes a while until somebody starts it again.
            self.now += if self.random.chance(30) { self.random.below(60_000) } else { self.random.below(2000) };
        }
    }

    /// Starts the broker, through any number of power cuts.
    pub(super) fn start(&mut self, death: Death) -> Result<(), Over> {
        self.now += (START_SLOT + super::SLOTS - self.now % super::SLOTS) % super::SLOTS;
        while self.oracle.would_collide(self.now) {
            self.now += super::SLOTS;
        }
        loop {
            if !self.is_healed && death == Death::PowerCut && self.random.chance(25) {
                let core = self.any_core();
                self.cores[core].disk.faulty.fail_after(self.random.below(8), Failure::PowerOff);
            }
            let now = self.millis();
            let start = |core: &mut Core<B>| {
                let outcome = core.broker.start(Arc::new(core.disk.clone()), now);
                core.disk.faulty.plan_nothing();
                outcome
            };
            let outcome: Result<Vec<u64>, StartError> = self.cores.iter_mut().map(start).collect();
            if !self.has_power() {
                for core in &mut self.cores {
                    core.broker.stop();
                    core.disk.faulty.power_cut(self.random.next());
                }
                continue;
            }
            return match outcome {
                Ok(through) => self.started(&through),
                Err(error) => {
                    self.oracle.breach(Rule::Recovery, format!("the broker does not start: {error}"));
                    Err(Over)
                }
            };
        }
    }

    /// All shards run, and found the records up to these.
    fn started(&mut self, through: &[u64]) -> Result<(), Over> {
        self.oracle.tally().starts += 1;
        // What was told before is forgotten, but not what the groups are.
        self.grouped.drain(..self.grouped.len() - 1);
        self.slow = 0;
        for (at, through) in through.iter().enumerate() {
            let core = &mut self.cores[at];
            let (durable, is_whole) = (core.durable, core.started(*through));
            if !is_whole {
                let detail = format!("the log ends at {through}: in the middle of a group, or before {durable}");
                self.oracle.breach(Rule::Recovery, detail);
            }
            let core = &mut self.cores[at];
            core.durable = *through;
            let last = core.last_record();
            let dropped = core.broker.shard().counters().dropped_oldest;
            self.note("started", [*through, last, at as u64]);
            // Several shards are judged together.
            if at == 0 {
                self.oracle.restarted(self.now, *through, last, dropped);
            }
        }
        self.lay_wires();
        self.see_whether_all_know();
        self.observe()?;
        (0..self.cores.len()).try_for_each(|core| self.tick(core))
    }

    /// Bits flip in what had been durable, of a broker of one shard. The start must say where, or find everything.
    pub(super) fn damage(&mut self) -> Result<(), Over> {
        let positions: Vec<(u64, u64)> =
            self.cores[0].broker.positions().iter().map(|(lsn, position)| (*lsn, position.0)).collect();
        let proven = positions.iter().filter(|(lsn, _)| *lsn <= self.cores[0].proven).count();
        if proven < 2 {
            return Ok(());
        }
        let death = if self.random.chance(50) { Death::PowerCut } else { Death::Killed };
        self.die(death);
        let at = self.random.below(proven as u64 - 1) as usize;
        let (from, to) = (positions[at].1, positions[at + 1].1);
        let (segment, offset) = (from >> 32, from & 0xFFFF_FFFF);
        let length = if to >> 32 == segment { (to & 0xFFFF_FFFF) - offset } else { 16 };
        let flipped = offset + self.random.below(length);
        let mut names: Vec<String> = causeway_storage::disk::Disk::names(&self.cores[0].disk).unwrap_or_default();
        names.retain(|name| name.ends_with(".log"));
        names.sort();
        let begins = positions.first().map_or(0, |(_, position)| position >> 32);
        // Where the power failed just before, nothing can be read: the start cuts it off and begins again.
        let Some(name) = names.get((segment - begins) as usize).cloned() else { return self.start(death) };
        let mask = 1 << self.random.below(8);
        self.note("a bit flips", [segment, flipped, mask]);
        self.cores[0].disk.faulty.flip(&name, flipped, mask as u8);
        self.now += START_SLOT + super::SLOTS - self.now % super::SLOTS;
        let now = self.millis();
        let core = &mut self.cores[0];
        match core.broker.start(Arc::new(core.disk.clone()), now) {
            Ok(through) => self.started(&[through]),
            Err(StartError::Log(RecoverError::Corrupt { file, offset, .. }))
                if file.ends_with(&name) && offset <= flipped =>
            {
                self.oracle.tally().refused_starts += 1;
                self.note("refused", [offset, 0, 0]);
                Err(Over)
            }
            Err(error) => {
                let detail = format!("bit flipped at {flipped} of {name}, and the start says: {error}");
                self.oracle.breach(Rule::Recovery, detail);
                Err(Over)
            }
        }
    }
}
