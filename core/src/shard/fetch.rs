//! Bodies that are not in memory: asked for, awaited, and handed to whoever waits.
//!
//! Owns who waits for what. Each session asks for a little ahead of what it can send, so memory stays bounded however long
//! its queue is. It never reads the log itself.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::Shard;
use crate::effect::EventLevel;
use crate::lane::LaneName;
use crate::message::Message;
use crate::queue::Queues;
use crate::record::{Event, Record};
use crate::session::{Phase, SessionKey};
use crate::shared::GroupKey;
use crate::{Lsn, Millis};

/// A queue asks for this many messages ahead, or so many bytes of them.
const AHEAD_MESSAGES: usize = 64;
const AHEAD_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiter {
    Session { session: SessionKey, epoch: u64 },
    Group(GroupKey),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    waiting: HashMap<Lsn, SmallVec<[Waiter; 1]>, FixedState>,
    to_ask: VecDeque<Lsn>,
    /// Bodies that could not be had.
    lost: BTreeSet<Lsn>,
}

impl Fetches {
    fn want(&mut self, lsn: Lsn, waiter: Waiter) {
        let waiters = self.waiting.entry(lsn).or_default();
        if waiters.is_empty() {
            self.to_ask.push_back(lsn);
        }
        if !waiters.contains(&waiter) {
            waiters.push(waiter);
        }
    }

    fn is_wanted_by(&self, lsn: Lsn, waiter: Waiter) -> bool {
        self.waiting.get(&lsn).is_some_and(|waiters| waiters.contains(&waiter))
    }

    pub(super) fn is_lost(&self, lsn: Lsn) -> bool {
        !self.lost.is_empty() && self.lost.contains(&lsn)
    }
}

/// Those of the messages to come that must be asked for. What is not durable cannot be read yet.
fn missing(queues: &Queues, durable: Lsn, next: impl Iterator<Item = (Lsn, u32)>) -> Vec<Lsn> {
    let mut bytes = 0;
    let ahead = next.take(AHEAD_MESSAGES).take_while(|(lsn, _)| *lsn <= durable).take_while(|(_, size)| {
        let is_first = bytes == 0;
        bytes += *size as usize;
        is_first || bytes <= AHEAD_BYTES
    });
    ahead.map(|(lsn, _)| lsn).filter(|lsn| *lsn > Lsn(0) && queues.bodies.get(*lsn).is_none()).collect()
}

impl Shard {
    /// The next record whose body is needed. Answer each with [`Shard::fetched`], in any order.
    pub fn poll_fetch(&mut self) -> Option<Lsn> {
        self.fetches.to_ask.pop_front()
    }

    /// About how many bytes the record has that [`Shard::poll_fetch`] asks for.
    pub fn fetch_bytes(&self, lsn: Lsn) -> usize {
        self.queues.bodies.size(lsn) as usize
    }

    /// The record at `lsn` as it was appended, or `None` where it cannot be read: those who are owed it do without.
    pub fn fetched(&mut self, now: Millis, lsn: Lsn, record: Option<&[u8]>) {
        let waiters = self.fetches.waiting.remove(&lsn).unwrap_or_default();
        match record.and_then(|bytes| Record::decode(bytes).ok()).map(|record| record.event) {
            Some(Event::Publish(publish) | Event::Call(publish)) => {
                self.queues.bodies.put(lsn, Arc::new(Message::of_record(&publish)))
            }
            Some(Event::CommandRequested(requested)) if requested.is_sent => {
                let message = Message::of_command(requested.terms.id, &requested.message);
                self.queues.bodies.put(lsn, Arc::new(message));
            }
            Some(Event::CommandSent(id, message)) => {
                self.queues.bodies.put(lsn, Arc::new(Message::of_command(id, &message)));
            }
            Some(Event::CommandRefused(_, message)) => {
                self.queues.bodies.put(lsn, Arc::new(Message::of_record(&message)));
            }
            Some(Event::CommandEnded(ended)) => {
                self.queues.bodies.put(lsn, Arc::new(Message::of_record(&ended.message)));
            }
            Some(Event::Directed(directed)) => {
                self.queues.bodies.put(lsn, Arc::new(Message::of_record(&directed.message)));
            }
            Some(_) | None => {
                self.fetches.lost.insert(lsn);
                self.counters.bodies_lost += 1;
            }
        }
        for waiter in waiters {
            match waiter {
                Waiter::Session { session, epoch } => {
                    if self.sessions.get(session as usize).is_some_and(|session| session.epoch == epoch) {
                        if self.fetches.is_lost(lsn) {
                            self.session_event(EventLevel::Warn, session, "message lost", "its record is unreadable");
                        }
                        self.pump(now, session);
                    }
                }
                Waiter::Group(group) => self.pump_group(now, group),
            }
        }
    }

    /// Asks for the bodies at the front of a session's lane.
    pub(super) fn fetch_queued(&mut self, key: SessionKey, lane: LaneName) {
        let Some(session) = self.sessions.get(key as usize) else { return };
        let waiter = Waiter::Session { session: key, epoch: session.epoch };
        let queue = &session.lane(lane).queue;
        let front = self.queues.pool.front(queue);
        if front.is_some_and(|front| self.fetches.is_wanted_by(front.lsn, waiter)) {
            return;
        }
        let next = self.queues.pool.iter(queue).map(|peek| (peek.lsn, peek.bytes));
        for lsn in missing(&self.queues, self.durable, next) {
            self.fetches.want(lsn, waiter);
        }
    }

    /// Asks for the bodies of what a resume must repeat.
    pub(super) fn fetch_in_flight(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key as usize) else { return };
        let waiter = Waiter::Session { session: key, epoch: session.epoch };
        let next = session.inflight.iter().filter(|inflight| !inflight.sent).filter_map(|inflight| {
            let Phase::Publish(delivery) = &inflight.phase else { return None };
            delivery.message.is_none().then_some((delivery.lsn, delivery.bytes))
        });
        for lsn in missing(&self.queues, self.durable, next) {
            self.fetches.want(lsn, waiter);
        }
    }

    /// Asks for the bodies at the front of a shared subscription's queue.
    pub(super) fn fetch_for_group(&mut self, key: GroupKey) {
        let Some(group) = self.groups.get(key) else { return };
        let next = self.queues.pool.iter(&group.queue).map(|peek| (peek.lsn, peek.bytes));
        for lsn in missing(&self.queues, self.durable, next) {
            self.fetches.want(lsn, Waiter::Group(key));
        }
    }
}
