//! What time and crashes bring about.
//!
//! Owns deadlines and the restart of the model. Reads no clock.

use super::state::{ClientIndex, Flight, LinkId};
use super::state::{FlightKind, GroupEntry, Holder, Op, Phase};
use super::{Oracle, Rule, is_expired};

/// Progress is recorded this often, in milliseconds.
const PROGRESS: u64 = 1000;

/// What is due, in the order in which it happens at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    SessionExpiry(ClientIndex),
    WillDelay(ClientIndex),
    RetainedExpiry(usize),
}

impl Oracle {
    /// The broker was told the time. `silent` are the connections it closed for want of packets.
    pub(crate) fn tick(&mut self, now: u64, silent: &[LinkId]) {
        for &link in silent {
            let conn = self.conns.get(&link).filter(|conn| conn.open);
            let is_due = conn.is_some_and(|conn| conn.silence_max > 0 && conn.last_received + conn.silence_max <= now);
            if !is_due {
                self.breach(Rule::Connection, format!("link {link} was closed, and is not silent"));
            }
            self.detach(now, link, true);
        }
        while let Some((_, deadline)) = self.first_deadline().filter(|(at, _)| *at <= now) {
            match deadline {
                Deadline::SessionExpiry(client) => {
                    self.tally.expired_sessions += 1;
                    self.end_session(now, client);
                }
                Deadline::WillDelay(client) => {
                    let Some(session) = &mut self.live.sessions[client] else { continue };
                    let (epoch, recorded) = (session.epoch, session.recorded);
                    if let Some((will, _)) = session.delayed.take() {
                        self.publish_will(now, client, will.message);
                        self.change(Op::WillPublished { client, epoch }, recorded);
                    }
                }
                Deadline::RetainedExpiry(topic) => {
                    self.live.retained.remove(&topic);
                }
            }
        }
        let last = self.last;
        for done in self.finished.iter_mut().filter(|done| done.lsn.is_none() && done.at + PROGRESS <= now) {
            done.lsn = Some(last);
        }
    }

    fn first_deadline(&self) -> Option<(u64, Deadline)> {
        let sessions = self.live.sessions.iter().enumerate().filter_map(|(at, session)| Some((at, session.as_ref()?)));
        let sessions = sessions.flat_map(|(client, session)| {
            let expiry = session.expires_at.map(|at| (at, Deadline::SessionExpiry(client)));
            let will = session.delayed.map(|(_, at)| (at, Deadline::WillDelay(client)));
            expiry.into_iter().chain(will)
        });
        let retained = self.live.retained.iter();
        let retained = retained.filter_map(|(topic, kept)| Some((kept.expires_at?, Deadline::RetainedExpiry(*topic))));
        sessions.chain(retained).min()
    }

    /// Whether a deadline falls together with one that would be set now, so that their order would be anybody's guess.
    pub(crate) fn would_collide(&self, now: u64) -> bool {
        let sessions = self.base.sessions.iter().flatten();
        let deadlines =
            sessions.flat_map(|session| session.expires_at.into_iter().chain(session.delayed.map(|(_, at)| at)));
        deadlines.filter(|at| *at >= now).any(|at| (at - now).is_multiple_of(1000))
    }

    /// The broker was killed and started again, and found the records up to `through`; `last` is the newest now, and so many
    /// messages were given up for newer ones.
    pub(crate) fn restarted(&mut self, now: u64, through: u64, last: u64, dropped: u64) {
        if through < self.durable {
            let detail = format!("record {} was durable, and the start found {through}", self.durable);
            self.breach(Rule::Recovery, detail);
        }
        self.durable = 0;
        self.set_durable(through);
        self.pending.clear();
        self.finished.clear();
        self.conns.clear();
        self.expected.clear();
        self.wills_published = 0;
        self.dropped_before = 0;
        self.begin(last, dropped);
        self.last_before = through;
        for (session, live) in self.base.sessions.iter_mut().zip(&mut self.live.sessions) {
            let Some(session) = session else { continue };
            session.crashed = true;
            if session.attached.is_some() {
                // Whatever waited may have been sent.
                session.entries.iter_mut().for_each(|entry| entry.was_sent = Some(true));
            }
            if let Some(live) = live.as_mut().filter(|live| live.epoch == session.epoch) {
                // What was mistaken is so still.
                session.mistakable = std::mem::take(&mut live.mistakable);
            }
        }
        self.keep_what_was_handed();
        self.base.groups.retain(|_, group| !group.members.is_empty());
        // The log does not say what expired; a start forgets that before it does anything else.
        self.base.retained.retain(|_, kept| !is_expired(kept.expires_at, now));
        self.live = self.base.clone();
        self.base.sessions.iter_mut().flatten().for_each(|session| session.mistakable.clear());
        for session in self.live.sessions.iter_mut().flatten() {
            for entry in &mut session.entries {
                if entry.phase == Phase::Released {
                    session.flights.push(Flight {
                        packet_id: entry.packet_id,
                        kind: FlightKind::Own(entry.id),
                        message: entry.message,
                        qos: entry.qos,
                        released: true,
                        received_lsn: 0,
                        link: LinkId::MAX,
                    });
                }
            }
        }
        for entry in self.live.groups.values_mut().flat_map(|group| &mut group.entries) {
            entry.holder = Holder::Nobody;
        }
        let mut attached: Vec<(u64, ClientIndex)> = Vec::new();
        for (client, session) in self.live.sessions.iter().enumerate() {
            attached.extend(session.iter().filter(|one| one.attached.is_some()).map(|one| (one.epoch, client)));
        }
        attached.sort_unstable();
        for (_, client) in attached {
            let will = self.live.sessions[client].as_mut().and_then(|session| session.attached.take()).flatten();
            self.lose_connection(now, client, will);
        }
    }

    /// What waited in a group before anybody joined it whom the log knows is in no group after a crash. But the log knows to whom it was
    /// handed since.
    fn keep_what_was_handed(&mut self) {
        let is_free = |entry: &GroupEntry| matches!(entry.holder, Holder::Nobody | Holder::Member { free: true, .. });
        for (filter, group) in &self.live.groups {
            for entry in group.entries.iter().filter(|entry| is_free(entry)) {
                if self.base.group_entry(*filter, entry.id).is_none() {
                    self.base.outlive_group(entry);
                }
            }
        }
    }
}
