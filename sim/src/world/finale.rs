//! The end of a run: nothing fails any more, everybody comes back, and all that is owed must come.
//!
//! Owns that part of the schedule, and the last look at what is retained.

use causeway_core::Gauges;
use causeway_protocol::{ProtocolVersion, RetainHandling};

use super::faults::Death;
use super::{BROKER_SLOT, Over, World};
use crate::broker::Broker;
use crate::message::FILTERS;
use crate::oracle::Rule;

/// Rounds until everything must have come.
const ROUNDS_MAX: usize = 3000;
/// Bodies read in one round.
const FETCHES_MAX: usize = 50;

impl<B: Broker> World<B> {
    pub(super) fn finish(&mut self) -> Result<(), Over> {
        self.is_healed = true;
        self.note("heals", [0, 0, 0]);
        self.cores.iter().for_each(|core| core.disk.faulty.plan_nothing());
        let probes = self.clients.len() - self.cores.len();
        for index in 0..probes {
            if let Some(id) = self.clients[index].link {
                self.leave_link(index, id, usize::MAX);
            }
            if self.clients[index].version < ProtocolVersion::V5 {
                // A full bound refuses a 3.1.1 client for ever, before it can acknowledge what fills the bound.
                self.clients[index].outgoing.retain(|one| one.released);
            }
        }
        self.settle(probes)?;
        // What was acknowledged is recorded within a second.
        self.advance(self.now + 2000)?;
        self.settle(probes)?;
        let gauges = self.gauges();
        self.oracle.settled(self.now, &gauges);
        self.check()?;
        self.look_at_retained(probes)?;
        self.restart_with_nothing_left()
    }

    /// Lets everything happen that can.
    fn settle(&mut self, connected: usize) -> Result<(), Over> {
        for _ in 0..ROUNDS_MAX {
            if self.round(connected)? {
                return Ok(());
            }
        }
        self.oracle.breach(Rule::Lost, "it never settles".to_owned());
        Err(Over)
    }

    /// Whether nothing moved.
    fn round(&mut self, connected: usize) -> Result<bool, Over> {
        let mut quiet = true;
        for index in 0..connected {
            if self.clients[index].link.is_none() {
                quiet = false;
                self.dial(index, true);
            }
            let Some(id) = self.clients[index].link else { continue };
            while !self.clients[index].replies.is_empty() {
                quiet = false;
                self.answer(index, id);
            }
            quiet &= self.clients[index].connected && self.clients[index].outgoing.is_empty();
        }
        let ids: Vec<_> = self.links.keys().copied().collect();
        for id in ids {
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.is_slow = false;
            let moves =
                !link.up.is_empty() || !link.down.is_empty() || link.observed > 0 || link.is_cut || link.is_closing;
            quiet &= !moves;
            self.carry_up(id, usize::MAX)?;
            self.carry_down(id, usize::MAX)?;
        }
        self.at(BROKER_SLOT)?;
        self.observe()?;
        quiet &= !self.carry_wires()?;
        for core in 0..self.cores.len() {
            for _ in 0..FETCHES_MAX {
                if !self.fetch(core)? {
                    break;
                }
                quiet = false;
            }
            self.fold(core)?;
            let before = self.cores[core].durable;
            self.append(core)?;
            self.sync(core)?;
            self.tell(core)?;
            quiet &= before == self.cores[core].durable;
        }
        Ok(quiet && self.is_listening)
    }

    fn gauges(&mut self) -> Vec<Gauges> {
        self.cores.iter_mut().map(|core| core.broker.shard().gauges()).collect()
    }

    /// A new subscriber on each shard finds what is retained.
    fn look_at_retained(&mut self, probes: usize) -> Result<(), Over> {
        self.settle(self.clients.len())?;
        let all = FILTERS.iter().position(|filter| *filter == "#").unwrap_or(0);
        for probe in probes..self.clients.len() {
            let Some(id) = self.clients[probe].link else { return Ok(()) };
            self.clients[probe].retained.clear();
            self.subscribe_to(probe, id, all, RetainHandling::Always);
        }
        let asked_at = self.now;
        let expected = self.oracle.retained(asked_at);
        self.settle(self.clients.len())?;
        let seen: Vec<_> = self.clients[probes..].iter().map(|probe| probe.retained.clone()).collect();
        self.oracle.judge_found((asked_at, self.now), expected, seen);
        self.check()
    }

    /// Once all is acknowledged and that is recorded, a restart owes nobody anything.
    fn restart_with_nothing_left(&mut self) -> Result<(), Over> {
        self.advance(self.now + 2000)?;
        self.settle(self.clients.len())?;
        let may_be_kept = self.oracle.may_keep_shared();
        self.crash(Death::Killed)?;
        while !self.is_listening {
            self.round(0)?;
        }
        let gauges = self.gauges();
        if gauges.iter().any(|one| one.queued_messages > 0 || one.inflight_messages > 0) {
            let detail = format!("after the last restart {gauges:?}");
            let rule = if may_be_kept { Rule::SharedAgain } else { Rule::Twice };
            self.oracle.breach(rule, detail);
        }
        self.check()
    }
}
