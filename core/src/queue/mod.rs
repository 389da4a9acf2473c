//! What sessions and shared subscriptions are owed: queues of small entries, and the bodies they refer to.
//!
//! Owns the entry's shape and the rule that each entry, and each delivery taken out of a queue, counts as one that its message
//! is owed to. A recorded message is named by its position in the log, and its body need not be in memory.

mod bodies;
mod pool;

use std::sync::Arc;

use causeway_protocol::QoS;

pub(crate) use bodies::Bodies;
pub(crate) use pool::{Peek, Pool, Queue};

use crate::message::{CopyFor, Message, Publication};
use crate::session::Identifiers;
use crate::shared::GroupKey;
use crate::{Lsn, Millis};

/// When a message expires, in whole seconds rounded up: what is past has certainly expired. The body knows exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expiry(pub(crate) u32);

impl Expiry {
    pub(crate) const NEVER: Expiry = Expiry(u32::MAX);

    pub(crate) fn new(at: Option<Millis>) -> Expiry {
        at.map_or(Expiry::NEVER, |at| Expiry(at.0.div_ceil(1000).min(u64::from(u32::MAX - 1)) as u32))
    }

    pub(crate) fn is_past(self, now: Millis) -> bool {
        self != Expiry::NEVER && u64::from(self.0) <= now.0 / 1000
    }
}

/// A message as one session gets it. Whoever has one of a recorded message is owed it, until [`Bodies::settle`].
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// Where its record is; zero where it has none.
    pub(crate) lsn: Lsn,
    /// Always there where there is no record.
    pub(crate) message: Option<Arc<Message>>,
    /// What it counts against limits.
    pub(crate) bytes: u32,
    pub(crate) expires: Expiry,
    /// Never above the message's own.
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifiers: Identifiers,
    /// The shared subscription it came through, which gets it back if the session can't finish it.
    pub(crate) group: Option<GroupKey>,
    /// Of a retained message that is due because of a subscription: where its record is.
    pub(crate) retained_at: Lsn,
}

impl Delivery {
    /// What `publication`, recorded at `lsn`, becomes in a queue.
    pub(crate) fn of(publication: &mut Publication<'_>, lsn: Lsn, qos: QoS, retain: bool) -> Delivery {
        Delivery {
            lsn,
            message: (lsn == Lsn(0)).then(|| publication.keep()),
            bytes: publication.bytes() as u32,
            expires: match publication.copy {
                // A call is answered where it goes, if only that it came too late.
                CopyFor::Home => Expiry::NEVER,
                CopyFor::Everybody | CopyFor::Present | CopyFor::Later => Expiry::new(publication.expires_at),
            },
            qos,
            retain,
            identifiers: Identifiers::new(),
            group: None,
            retained_at: Lsn(0),
        }
    }
}

/// A delivery and its number in its queue.
#[derive(Debug)]
pub(crate) struct Queued {
    /// The same after a replay of the log, and so is the packet identifier made of it.
    pub(crate) sequence: u64,
    pub(crate) delivery: Delivery,
}

/// All queues of a shard.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) pool: Pool,
    pub(crate) bodies: Bodies,
}

impl Queues {
    pub(crate) fn new(hash_seed: u64) -> Queues {
        Queues { pool: Pool::new(hash_seed), bodies: Bodies::new() }
    }

    /// Appends. Where the message is recorded, the caller says how many deliveries it is owed to ([`Bodies::owe`]).
    pub(crate) fn push(&mut self, queue: &mut Queue, queued: Queued) {
        self.pool.push_back(queue, queued);
    }

    /// Puts back what was taken, and is still owed.
    pub(crate) fn push_front(&mut self, queue: &mut Queue, queued: Queued) {
        self.pool.push_front(queue, queued);
    }

    /// Takes the first; it is still owed.
    pub(crate) fn pop(&mut self, queue: &mut Queue) -> Option<Queued> {
        self.pool.pop_front(queue)
    }

    /// The body of a queued message, if it is at hand.
    pub(crate) fn body(&self, peek: &Peek) -> Option<&Arc<Message>> {
        if peek.lsn == Lsn(0) { self.pool.kept(peek) } else { self.bodies.get(peek.lsn) }
    }

    /// Drops those that `chosen` names; how many, and of how many bytes.
    pub(crate) fn drop_where(&mut self, queue: &mut Queue, chosen: impl FnMut(&Peek) -> bool) -> (u64, usize) {
        let (mut count, mut bytes) = (0, 0);
        let Queues { pool, bodies } = self;
        pool.take_where(queue, chosen, |queued| {
            bodies.settle(queued.delivery.lsn);
            count += 1;
            bytes += queued.delivery.bytes as usize;
        });
        (count, bytes)
    }

    /// Likewise of those numbered below `end`.
    pub(crate) fn drop_below(
        &mut self,
        queue: &mut Queue,
        end: u64,
        chosen: impl FnMut(&Peek) -> bool,
    ) -> (u64, usize) {
        let (mut count, mut bytes) = (0, 0);
        let Queues { pool, bodies } = self;
        pool.take_below(queue, end, chosen, |queued| {
            bodies.settle(queued.delivery.lsn);
            count += 1;
            bytes += queued.delivery.bytes as usize;
        });
        (count, bytes)
    }

    /// Drops the one with this number, which is near the front; how many there were, and of how many bytes.
    pub(crate) fn drop_one(&mut self, queue: &mut Queue, sequence: u64) -> (u64, usize) {
        let Queues { pool, bodies } = self;
        pool.take_one(queue, sequence).map_or((0, 0), |queued| {
            bodies.settle(queued.delivery.lsn);
            (1, queued.delivery.bytes as usize)
        })
    }

    /// Drops all; how many there were.
    pub(crate) fn clear(&mut self, queue: &mut Queue) -> u64 {
        let mut count = 0;
        while let Some(queued) = self.pool.pop_front(queue) {
            self.bodies.settle(queued.delivery.lsn);
            count += 1;
        }
        count
    }
}
