//! What must hold after each input, and when all is over.
//!
//! Owns the comparison of the model with what the broker says about itself, and the last reckoning.

use causeway_core::{Counters, Gauges};
use causeway_protocol::QoS;

use super::state::{Holder, LinkId, Phase};
use super::{Oracle, Rule, is_expired};

impl Oracle {
    /// All that an input brought has been seen. `dropped` says whether messages of QoS 0 were dropped for a slow client.
    pub(crate) fn end_input(&mut self, dropped: bool, counters: &Counters, gauges: Option<Gauges>) {
        self.came_to_groups.clear();
        for expected in std::mem::take(&mut self.expected) {
            let in_group = |group: &usize| {
                let members = self.live.groups.get(group).map(|group| group.members.keys());
                members.is_some_and(|mut members| {
                    members.any(|client| self.live.sessions[*client].as_ref().is_some_and(|one| one.link.is_some()))
                })
            };
            let somebody = expected.link.is_some_and(|link| self.conns.get(&link).is_some_and(|conn| conn.open))
                || expected.group.as_ref().is_some_and(in_group);
            if somebody && !dropped && !expected.optional {
                self.breach(Rule::Lost, format!("not delivered at QoS 0: {expected:?}"));
            }
        }
        self.note_candidates();
        let (is, must_be) = (std::mem::take(&mut self.dropped_lately), std::mem::take(&mut self.dropped_surely));
        let may_be_more = std::mem::take(&mut self.is_dropping_unsure);
        if is < must_be || (is > must_be && !may_be_more) {
            self.breach(Rule::Bound, format!("{is} were given up for newer ones, not {must_be}"));
        }
        if counters.wills_published != self.wills_published {
            let detail = format!("{} were published, {} were due", counters.wills_published, self.wills_published);
            self.wills_published = counters.wills_published;
            self.breach(Rule::Will, detail);
        }
        if let Some(gauges) = gauges {
            self.check_gauges(gauges);
        }
    }

    /// Notes who may have been given a shared message of QoS 2 by now.
    fn note_candidates(&mut self) {
        for (filter, group) in &mut self.live.groups {
            for entry in group.entries.iter_mut().filter(|entry| entry.holder != Holder::Done) {
                if entry.lsn == 0 || entry.lsn > self.durable || self.registry.get(entry.message).qos < QoS::ExactlyOnce
                {
                    continue;
                }
                for (client, sub) in &group.members {
                    let Some(session) = &self.live.sessions[*client] else { continue };
                    let may_have = session.link.is_some() && session.recorded && sub.qos == QoS::ExactlyOnce;
                    if !may_have || entry.candidates.contains(&(*client, session.epoch)) {
                        continue;
                    }
                    entry.candidates.push((*client, session.epoch));
                    if let Some(entry) = self.base.group_entry(*filter, entry.id) {
                        entry.candidates.push((*client, session.epoch));
                    }
                }
            }
        }
    }

    fn check_gauges(&mut self, gauges: Gauges) {
        let sessions = self.live.sessions.iter().flatten();
        let connections = sessions.clone().filter(|session| session.link.is_some()).count() as u64;
        let should_be = (connections, sessions.count() as u64, self.live.retained.len() as u64);
        let is = (gauges.connections, gauges.sessions, gauges.retained_messages);
        if is != should_be {
            let kept = &self.live.retained;
            let detail = format!("connections, sessions, retained messages are {is:?}, not {should_be:?}: {kept:?}");
            self.breach(Rule::Connection, detail);
        }
    }

    /// Whether the model says that the connection is open.
    pub(crate) fn is_open(&self, link: LinkId) -> bool {
        self.conns.get(&link).is_some_and(|conn| conn.open)
    }

    /// Everybody is connected, nothing is on its way, and nothing was left to do: nobody is owed anything any more.
    pub(crate) fn settled(&mut self, now: u64, gauges: Gauges) {
        let (mut lost, mut missed) = (Vec::new(), Vec::new());
        for (client, session) in self.live.sessions.iter().enumerate() {
            let Some(session) = session else { continue };
            let mut came_maybe = session.came_maybe.clone();
            for entry in &session.entries {
                let is_owed = match entry.phase {
                    Phase::Queued => !entry.optional && !is_expired(entry.expires_at, now),
                    Phase::Flying => true,
                    Phase::Released => !entry.optional,
                };
                let came = came_maybe.iter().position(|came| is_owed && *came == entry.message);
                // A copy of it came that was taken for one that need not have come.
                let came = came.map(|at| came_maybe.swap_remove(at)).is_some();
                if is_owed && !came {
                    lost.push(format!("client {client} is still owed {}: {entry:?}", self.describe(entry.message)));
                }
            }
            for due in &session.backlog {
                let kept = self.live.retained.get(&self.registry.get(due.message).topic);
                let is_current = kept.is_some_and(|kept| kept.stored == due.stored);
                if due.flying || (is_current && !due.optional && !is_expired(due.expires_at, now)) {
                    missed.push(format!("client {client} is still owed retained {}", self.describe(due.message)));
                }
            }
        }
        for (filter, group) in &self.live.groups {
            for entry in &group.entries {
                // Of a message that was published twice, nobody can tell which one came.
                let is_unclear = self.registry.get(entry.message).copies > 1;
                let may_be_gone = entry.optional || is_unclear || is_expired(entry.expires_at, now);
                if entry.holder != Holder::Done && !may_be_gone {
                    let message = self.describe(entry.message);
                    lost.push(format!("{} is still owed {message}: {entry:?}", Self::filter_text(*filter)));
                }
            }
        }
        for detail in missed {
            self.breach(Rule::RetainedLost, detail);
        }
        for detail in lost {
            self.breach(Rule::Lost, detail);
        }
        if (gauges.queued_messages, gauges.inflight_messages) != (0, 0) {
            let detail = format!("the broker still holds {} and {}", gauges.queued_messages, gauges.inflight_messages);
            self.breach(Rule::Lost, detail);
        }
    }

    /// What a client found that asked for everything retained, and what it had to when it asked.
    pub(crate) fn judge_found(&mut self, now: u64, mut expected: Vec<(u32, QoS)>, mut seen: Vec<(u32, QoS)>) {
        let later = self.retained(now);
        // It may have expired while it was on its way.
        expected.retain(|one| later.contains(one) || seen.contains(one));
        seen.sort_unstable();
        expected.sort_unstable();
        if seen != expected {
            self.breach(Rule::Retained, format!("a new subscriber got {seen:?}, not {expected:?}"));
        }
    }

    /// What a client that asks for everything retained must get.
    pub(crate) fn retained(&self, now: u64) -> Vec<(u32, QoS)> {
        let kept = self.live.retained.values().filter(|kept| !is_expired(kept.expires_at, now));
        kept.map(|kept| (kept.message, self.registry.get(kept.message).qos)).collect()
    }
}
