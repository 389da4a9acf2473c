//! The end of a run: nothing fails any more, everybody comes back, and all that is owed must come.
//!
//! Owns that part of the schedule, and the last look at what is retained.

use causeway_protocol::{ProtocolVersion, QoS, RetainHandling};

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
        self.disk.faulty.plan_nothing();
        let probe = self.clients.len() - 1;
        for index in 0..probe {
            if let Some(id) = self.clients[index].link {
                self.leave_link(index, id, usize::MAX);
            }
            if self.clients[index].version < ProtocolVersion::V5 {
                // A full bound refuses a 3.1.1 client for ever, before it can acknowledge what fills the bound.
                self.clients[index].outgoing.retain(|one| one.released);
            }
        }
        self.settle(probe)?;
        // What was acknowledged is recorded within a second.
        self.advance(self.now + 2000)?;
        self.settle(probe)?;
        let gauges = self.broker.shard().gauges();
        self.oracle.settled(self.now, gauges);
        self.check()?;
        self.look_at_retained(probe)?;
        self.restart_with_nothing_left()
    }

    /// Lets everything happen that can.
    fn settle(&mut self, connected: usize) -> Result<(), Over> {
        for _ in 0..ROUNDS_MAX {
            if self.round(connected)? {
                return Ok(());
            }
        }
        self.oracle.breach(Rule::Lost, "it never settles");
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
        for _ in 0..FETCHES_MAX {
            if !self.fetch()? {
                break;
            }
            quiet = false;
        }
        self.fold()?;
        let before = self.oracle.durable();
        self.append()?;
        self.sync()?;
        self.tell()?;
        Ok(quiet && before == self.oracle.durable())
    }

    fn look_at_retained(&mut self, probe: usize) -> Result<(), Over> {
        self.settle(probe + 1)?;
        let Some(id) = self.clients[probe].link else { return Ok(()) };
        let all = FILTERS.iter().position(|filter| *filter == "#").unwrap_or(0);
        self.clients[probe].retained.clear();
        self.subscribe_to(probe, id, all, RetainHandling::Always);
        let expected = self.oracle.retained(self.now);
        self.settle(probe + 1)?;
        let mut seen: Vec<(u32, QoS)> = self.clients[probe].retained.clone();
        let mut expected: Vec<(u32, QoS)> = expected;
        let later = self.oracle.retained(self.now);
        // It may have expired while it was on its way.
        expected.retain(|one| later.contains(one) || seen.contains(one));
        seen.sort_unstable();
        expected.sort_unstable();
        if seen != expected {
            self.oracle.breach(Rule::Retained, format!("a new subscriber got {seen:?}, not {expected:?}"));
        }
        self.check()
    }

    /// Once all is acknowledged and that is recorded, a restart owes nobody anything.
    fn restart_with_nothing_left(&mut self) -> Result<(), Over> {
        self.advance(self.now + 2000)?;
        self.settle(self.clients.len())?;
        let may_be_kept = self.oracle.live.lost_with_member > 0;
        self.crash(Death::Killed)?;
        let gauges = self.broker.shard().gauges();
        if gauges.queued_messages > 0 || gauges.inflight_messages > 0 {
            let detail = format!("after the last restart {gauges:?}");
            let rule = if may_be_kept { Rule::SharedAgain } else { Rule::Twice };
            self.oracle.breach(rule, detail);
        }
        self.check()
    }
}
