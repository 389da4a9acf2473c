//! What the shard must do at a time of its own.
//!
//! Owns the order of deadlines and what is done at each. Whoever sets a timer cancels it when its reason is gone, so
//! that there are never more timers than connections, sessions, retained messages, shadows and pending commands. It never reads a clock.

use std::collections::BTreeSet;
use std::sync::Arc;

use causeway_fleet::Vin;
use causeway_fleet::command::CommandId;
use causeway_protocol::ReasonCode;

use super::Shard;
use super::command::COMMANDS_AT_ONCE;
use crate::effect::EventLevel;
use crate::message::Message;
use crate::session::{DelayedWill, SessionKey};
use crate::{ConnectionId, Lsn, Millis};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    KeepAlive(ConnectionId),
    /// The proof of who a connection speaks for ends.
    Authority(ConnectionId),
    SessionExpiry {
        session: SessionKey,
        epoch: u64,
    },
    WillDelay {
        session: SessionKey,
        epoch: u64,
    },
    RetainedExpiry(Arc<str>),
    /// Something that is wanted of a vehicle is wanted no longer.
    ShadowExpiry(Vin, Option<Box<str>>),
    /// The deadline of a command.
    Command(CommandId),
    /// What became of commands is told no longer.
    Outcomes,
    Sys,
    Progress,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Of every connection, so these are kept apart and small.
    keep_alive: BTreeSet<(Millis, ConnectionId)>,
    /// All others.
    due: BTreeSet<(Millis, Timer)>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Millis, timer: Timer) {
        match timer {
            Timer::KeepAlive(connection) => self.keep_alive.insert((at, connection)),
            timer => self.due.insert((at, timer)),
        };
    }

    pub(super) fn cancel(&mut self, at: Millis, timer: Timer) {
        match timer {
            Timer::KeepAlive(connection) => self.keep_alive.remove(&(at, connection)),
            timer => self.due.remove(&(at, timer)),
        };
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keep_alive.len() + self.due.len()
    }

    fn next(&self) -> Option<Millis> {
        let keep_alive = self.keep_alive.first().map(|(at, _)| *at);
        let other = self.due.first().map(|(at, _)| *at);
        keep_alive.into_iter().chain(other).min()
    }

    /// Takes the topics whose retained messages have expired.
    fn pop_expired_retained(&mut self, now: Millis) -> Vec<Arc<str>> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        let expired = due.filter(|(_, timer)| matches!(timer, Timer::RetainedExpiry(_))).cloned();
        let expired: Vec<(Millis, Timer)> = expired.collect();
        for one in &expired {
            self.due.remove(one);
        }
        let topic = |(_, timer)| if let Timer::RetainedExpiry(topic) = timer { Some(topic) } else { None };
        expired.into_iter().filter_map(topic).collect()
    }

    fn pop_due(&mut self, now: Millis) -> Option<Timer> {
        let next = self.next().filter(|next| *next <= now)?;
        if self.keep_alive.first().is_some_and(|(at, _)| *at == next) {
            return self.keep_alive.pop_first().map(|(_, connection)| Timer::KeepAlive(connection));
        }
        self.due.pop_first().map(|(_, timer)| timer)
    }
}

impl Shard {
    /// When [`Shard::tick`] is due next.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.timers.next()
    }

    /// Does what is due; of commands a bounded number, so that others have their turn when very many are due together. Where that was not all,
    /// [`Shard::next_deadline`] is not later than now.
    pub fn tick(&mut self, now: Millis) {
        let mut left = COMMANDS_AT_ONCE;
        while left > 0
            && let Some(timer) = self.timers.pop_due(now)
        {
            match timer {
                Timer::KeepAlive(connection) => self.on_keep_alive(now, connection),
                Timer::Authority(connection) => self.on_authority_ended(now, connection),
                Timer::SessionExpiry { session, epoch } => self.on_session_expiry(now, session, epoch),
                Timer::WillDelay { session, epoch } => self.on_will_delay(now, session, epoch),
                Timer::RetainedExpiry(topic) => self.on_retained_expiry(now, &topic),
                Timer::ShadowExpiry(vin, name) => self.on_shadow_expiry(now, vin, name.as_deref()),
                Timer::Command(id) => {
                    left -= 1;
                    self.on_command_due(now, id);
                }
                Timer::Outcomes => left = left.saturating_sub(self.forget_outcomes(now)),
                Timer::Sys => self.on_sys(now),
                Timer::Progress => self.on_progress(now),
            }
        }
    }

    /// Looks at a connection's silence, now and again when it would be too long. Packets only note when they came.
    pub(super) fn on_keep_alive(&mut self, now: Millis, id: ConnectionId) {
        let is_heard = self.wants_input(id);
        let Some(connection) = self.open_connection(id) else {
            return;
        };
        if !is_heard {
            // We do not listen while it takes what it is owed: its silence is ours.
            connection.last_received = now;
        }
        if connection.silence_max_milliseconds == 0 {
            return;
        }
        let due = Millis(connection.last_received.0.saturating_add(u64::from(connection.silence_max_milliseconds)));
        if due > now {
            connection.keep_alive_check = due;
            self.timers.set(due, Timer::KeepAlive(id));
            return;
        }
        //= [MQTT-3.1.2-22] one and a half keep alives of silence close the connection as if the network had failed
        self.counters.keep_alive_timeouts += 1;
        self.disconnect(now, id, ReasonCode::KeepAliveTimeout, "nothing received for one and a half keep alives");
    }

    fn on_session_expiry(&mut self, now: Millis, key: SessionKey, epoch: u64) {
        let Some(session) = self.sessions.get(key as usize).filter(|session| session.epoch == epoch) else {
            return;
        };
        if session.expires_at.is_none_or(|at| at > now) {
            return;
        }
        self.counters.sessions_expired += 1;
        self.session_event(EventLevel::Debug, key, "session expired", "");
        self.end_session(now, key);
    }

    fn on_will_delay(&mut self, now: Millis, key: SessionKey, epoch: u64) {
        let Some(session) = self.sessions.get_mut(key as usize).filter(|session| session.epoch == epoch) else {
            return;
        };
        if let Some(delayed) = session.will.take_if(|delayed| delayed.due <= now) {
            self.publish_will(now, key, delayed.will);
            self.record_will_published(now, key);
        }
    }

    /// Forgets all retained messages that have expired, before anything else that is due.
    pub(super) fn forget_expired_retained(&mut self, now: Millis) {
        for topic in self.timers.pop_expired_retained(now) {
            self.on_retained_expiry(now, &topic);
        }
    }

    fn on_retained_expiry(&mut self, now: Millis, topic: &str) {
        if let Some(message) = self.retained.get(topic).filter(|message| message.is_expired(now)) {
            // What it replaced may come from another shard only now.
            let stamp = message.stamp;
            self.note_removal(topic, stamp);
            self.changed.retained(topic);
            self.retained.remove(topic);
        }
    }

    /// Sets when a session without a connection ends.
    pub(super) fn arm_session_expiry(&mut self, key: SessionKey, at: Millis) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        session.expires_at = Some(at);
        self.timers.set(at, Timer::SessionExpiry { session: key, epoch: session.epoch });
    }

    /// Forgets when a session ends and takes the will whose delay was running.
    pub(super) fn disarm_session(&mut self, key: SessionKey) -> Option<DelayedWill> {
        let session = self.sessions.get_mut(key as usize)?;
        let epoch = session.epoch;
        if let Some(at) = session.expires_at.take() {
            self.timers.cancel(at, Timer::SessionExpiry { session: key, epoch });
        }
        self.disarm_will(key)
    }

    /// Sets when the will of a session without a connection is published.
    pub(super) fn arm_will(&mut self, key: SessionKey, delayed: DelayedWill) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        self.timers.set(delayed.due, Timer::WillDelay { session: key, epoch: session.epoch });
        session.will = Some(Box::new(delayed));
    }

    /// Takes the will whose delay was running.
    pub(super) fn disarm_will(&mut self, key: SessionKey) -> Option<DelayedWill> {
        let session = self.sessions.get_mut(key as usize)?;
        let delayed = session.will.take()?;
        self.timers.cancel(delayed.due, Timer::WillDelay { session: key, epoch: session.epoch });
        Some(*delayed)
    }

    /// Keeps a retained message, or forgets it with `None`, together with the timer of its expiry.
    pub(super) fn set_retained(&mut self, topic: &str, message: Option<(Arc<Message>, Lsn)>) {
        if let Some(at) = self.retained.get(topic).and_then(|old| old.expires_at) {
            self.timers.cancel(at, Timer::RetainedExpiry(topic.into()));
        }
        let Some((message, lsn)) = message else {
            self.retained.remove(topic);
            return;
        };
        if let Some(at) = message.expires_at {
            self.timers.set(at, Timer::RetainedExpiry(topic.into()));
        }
        self.retained.set(message, lsn);
    }
}
