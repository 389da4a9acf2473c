//! What there is now, for whoever watches.
//!
//! Owns the sums over all sessions, which are too many to look at all of them at once.

use super::Shard;
use crate::counters::Gauges;
use crate::session::Session;

/// Sessions looked at for one report: about a millisecond.
const SURVEYED_MAX: usize = 20_000;

/// A walk through all sessions that goes on from report to report.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The key of the next session.
    next: usize,
    /// Those before, in this walk.
    so_far: Sums,
    /// All, in the walk before.
    last: Sums,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    queued_bytes: u64,
    inflight_messages: u64,
}

impl Sums {
    fn add(&mut self, session: &Session) {
        self.queued_bytes += session.held_bytes as u64;
        self.inflight_messages += session.inflight.len() as u64;
    }
}

impl Shard {
    /// What there is now. Walks all sessions: [`Shard::survey`] does not.
    pub fn gauges(&self) -> Gauges {
        let mut sums = Sums::default();
        self.sessions.iter().for_each(|(_, session)| sums.add(session));
        self.gauges_with(sums)
    }

    /// What there is now. Does a bounded amount of work: with many sessions, their queued bytes and messages in flight are those of
    /// the last whole walk, which takes a call for every 20,000 of them.
    pub fn survey(&mut self) -> Gauges {
        self.survey_of(SURVEYED_MAX)
    }

    /// [`Shard::survey`], with so many sessions a call.
    pub(super) fn survey_of(&mut self, sessions_max: usize) -> Gauges {
        if self.sessions.capacity() <= sessions_max {
            return self.gauges();
        }
        let survey = &mut self.survey;
        let end = survey.next + sessions_max;
        for key in survey.next..end.min(self.sessions.capacity()) {
            if let Some(session) = self.sessions.get(key) {
                survey.so_far.add(session);
            }
        }
        survey.next = end;
        if end >= self.sessions.capacity() {
            (survey.next, survey.last) = (0, std::mem::take(&mut survey.so_far));
        }
        let last = survey.last;
        self.gauges_with(last)
    }

    fn gauges_with(&self, sums: Sums) -> Gauges {
        let (pending, kept) = self.command_loads();
        let groups_bytes: usize = self.groups.iter().map(|(_, group)| group.queue.bytes()).sum();
        Gauges {
            connections: self.connected as u64,
            sessions: (self.sessions.len() - self.peer_sessions.len()) as u64,
            subscriptions: self.index.len() as u64,
            retained_messages: self.retained.messages() as u64,
            retained_bytes: self.retained.bytes() as u64,
            queued_messages: self.queues.pool.len() as u64,
            queued_bytes: sums.queued_bytes + groups_bytes as u64,
            inflight_messages: sums.inflight_messages,
            body_bytes: self.queues.bodies.here_bytes() as u64,
            shadow_vehicles: self.shadows.vehicles() as u64,
            commands_pending: pending.count as u64,
            commands_pending_bytes: pending.bytes as u64,
            command_outcomes: kept.count as u64,
            command_outcomes_bytes: kept.bytes as u64,
        }
    }
}
