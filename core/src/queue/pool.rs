//! The memory of all queues: one pool of small slots, linked into lists.
//!
//! Owns slots and their order. A slot has 24 bytes whatever the message, and a queue that grows or drains never asks the
//! allocator for anything of its own, so a broadcast to very many sessions costs each of them one slot. It never counts
//! references and never sees a body, but for messages that are in no log.

use std::collections::HashMap;
use std::sync::Arc;

use causeway_protocol::QoS;
use foldhash::fast::FixedState;
use slab::Slab;

use super::{Delivery, Expiry, Queued};
use crate::message::Message;
use crate::session::Identifiers;
use crate::{Lsn, Millis};

const NONE: u32 = u32::MAX;
/// Slots are allocated in blocks, so that growing never moves those there are.
const BLOCK_SLOTS: usize = 4096;
/// Bits of a slot's sequence; the rest follows from the slots before it.
const SEQUENCE_BITS: u32 = if cfg!(test) { 4 } else { 26 };
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

const IS_QOS2: u32 = 1;
const IS_RETAIN: u32 = 2;
const HAS_IDENTIFIERS: u32 = 4;
/// `content` names a message that is in no log.
const IS_KEPT: u32 = 8;
const FLAG_BITS: u32 = 6;

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// A position in the log, or an index into `kept`.
    content: u64,
    bytes: u32,
    expires: Expiry,
    next: u32,
    /// Low bits of the sequence above the flags.
    meta: u32,
}

/// One queue: where its slots begin and end.
#[derive(Debug)]
pub(crate) struct Queue {
    head: u32,
    tail: u32,
    len: u32,
    /// Sequence of the head.
    first: u64,
    bytes: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Queue::EMPTY
    }
}

impl Queue {
    /// Nothing waits.
    pub(crate) const EMPTY: Queue = Queue { head: NONE, tail: NONE, len: 0, first: 0, bytes: 0 };

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all messages in it, as limits count them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A queued message, looked at where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peek {
    pub(crate) sequence: u64,
    /// Zero where it is in no log.
    pub(crate) lsn: Lsn,
    pub(crate) bytes: u32,
    pub(crate) expires: Expiry,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    slot: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    blocks: Vec<Box<[Slot]>>,
    /// The first free slot.
    free: u32,
    used: usize,
    kept: Slab<Arc<Message>>,
    /// Subscription Identifiers by slot; most deliveries have none.
    identifiers: HashMap<u32, Identifiers, FixedState>,
}

impl Pool {
    pub(super) fn new(hash_seed: u64) -> Pool {
        Pool {
            blocks: Vec::new(),
            free: NONE,
            used: 0,
            kept: Slab::new(),
            identifiers: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
        }
    }

    /// Messages in all queues.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    fn slot(&self, at: u32) -> &Slot {
        &self.blocks[at as usize / BLOCK_SLOTS][at as usize % BLOCK_SLOTS]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.blocks[at as usize / BLOCK_SLOTS][at as usize % BLOCK_SLOTS]
    }

    fn take_slot(&mut self) -> u32 {
        if self.free == NONE {
            let base = (self.blocks.len() * BLOCK_SLOTS) as u32;
            let next = |at: usize| if at + 1 < BLOCK_SLOTS { base + at as u32 + 1 } else { NONE };
            let empty = |at| Slot { content: 0, bytes: 0, expires: Expiry::NEVER, next: next(at), meta: 0 };
            self.blocks.push((0..BLOCK_SLOTS).map(empty).collect());
            self.free = base;
        }
        let at = self.free;
        self.free = self.slot(at).next;
        self.used += 1;
        at
    }

    fn fill(&mut self, queued: Queued, next: u32) -> u32 {
        let at = self.take_slot();
        let Queued { sequence, delivery } = queued;
        let mut meta = ((sequence & SEQUENCE_MASK) as u32) << FLAG_BITS;
        meta |= if delivery.qos == QoS::ExactlyOnce { IS_QOS2 } else { 0 };
        meta |= if delivery.retain { IS_RETAIN } else { 0 };
        let content = match delivery.message {
            Some(message) if delivery.lsn == Lsn(0) => {
                meta |= IS_KEPT;
                self.kept.insert(message) as u64
            }
            Some(_) | None => delivery.lsn.0,
        };
        if !delivery.identifiers.is_empty() {
            meta |= HAS_IDENTIFIERS;
            self.identifiers.insert(at, delivery.identifiers);
        }
        *self.slot_mut(at) = Slot { content, bytes: delivery.bytes, expires: delivery.expires, next, meta };
        at
    }

    fn empty(&mut self, at: u32, sequence: u64) -> Queued {
        let slot = *self.slot(at);
        let identifiers = if slot.meta & HAS_IDENTIFIERS != 0 { self.identifiers.remove(&at) } else { None };
        let kept = if slot.meta & IS_KEPT != 0 { self.kept.try_remove(slot.content as usize) } else { None };
        self.slot_mut(at).next = self.free;
        self.free = at;
        self.used -= 1;
        let peek = peek(at, &slot, sequence);
        let delivery = Delivery {
            lsn: peek.lsn,
            message: kept,
            bytes: slot.bytes,
            expires: slot.expires,
            qos: peek.qos,
            retain: peek.retain,
            identifiers: identifiers.unwrap_or_default(),
            group: None,
            retained_at: Lsn(0),
        };
        Queued { sequence, delivery }
    }

    pub(super) fn push_back(&mut self, queue: &mut Queue, queued: Queued) {
        let (sequence, bytes) = (queued.sequence, queued.delivery.bytes);
        let at = self.fill(queued, NONE);
        if queue.is_empty() {
            (queue.head, queue.first) = (at, sequence);
        } else {
            self.slot_mut(queue.tail).next = at;
        }
        queue.tail = at;
        queue.len += 1;
        queue.bytes += bytes as usize;
    }

    pub(super) fn push_front(&mut self, queue: &mut Queue, queued: Queued) {
        if queue.is_empty() {
            self.push_back(queue, queued);
            return;
        }
        let (sequence, bytes) = (queued.sequence, queued.delivery.bytes);
        queue.head = self.fill(queued, queue.head);
        queue.first = sequence;
        queue.len += 1;
        queue.bytes += bytes as usize;
    }

    pub(super) fn pop_front(&mut self, queue: &mut Queue) -> Option<Queued> {
        let (at, sequence) = (queue.head, queue.first);
        if queue.is_empty() {
            return None;
        }
        let slot = *self.slot(at);
        queue.len -= 1;
        queue.bytes -= slot.bytes as usize;
        if queue.is_empty() {
            *queue = Queue::default();
        } else {
            queue.first = sequence_after(sequence, self.slot(slot.next));
            queue.head = slot.next;
        }
        Some(self.empty(at, sequence))
    }

    pub(crate) fn front(&self, queue: &Queue) -> Option<Peek> {
        (!queue.is_empty()).then(|| peek(queue.head, self.slot(queue.head), queue.first))
    }

    pub(crate) fn iter<'a>(&'a self, queue: &Queue) -> impl Iterator<Item = Peek> + use<'a> {
        let mut next = self.front(queue);
        std::iter::from_fn(move || {
            let this = next?;
            let after = self.slot(this.slot).next;
            next = (after != NONE).then(|| {
                let slot = self.slot(after);
                peek(after, slot, sequence_after(this.sequence, slot))
            });
            Some(this)
        })
    }

    /// The body of a queued message that is in no log.
    pub(super) fn kept(&self, peek: &Peek) -> Option<&Arc<Message>> {
        let slot = self.slot(peek.slot);
        if slot.meta & IS_KEPT != 0 { self.kept.get(slot.content as usize) } else { None }
    }

    /// Its Subscription Identifiers.
    pub(crate) fn identifiers(&self, peek: &Peek) -> &[u32] {
        self.identifiers.get(&peek.slot).map_or(&[], |identifiers| identifiers.as_slice())
    }

    /// Takes the one with this number out. Looks no further than it must.
    pub(super) fn take_one(&mut self, queue: &mut Queue, sequence: u64) -> Option<Queued> {
        let mut found = None;
        self.take_until(
            queue,
            |peek| peek.sequence == sequence,
            |peek| peek.sequence >= sequence,
            |one| found = Some(one),
        );
        found
    }

    /// Takes those out that `chosen` names, in order.
    pub(super) fn take_where(
        &mut self,
        queue: &mut Queue,
        chosen: impl FnMut(&Peek) -> bool,
        taken: impl FnMut(Queued),
    ) {
        self.take_until(queue, chosen, |_| false, taken);
    }

    /// Likewise of those numbered below `end`.
    pub(super) fn take_below(
        &mut self,
        queue: &mut Queue,
        end: u64,
        chosen: impl FnMut(&Peek) -> bool,
        taken: impl FnMut(Queued),
    ) {
        self.take_until(queue, chosen, |peek| peek.sequence + 1 >= end, taken);
    }

    /// Likewise up to the first that `is_last` names, inclusive.
    fn take_until(
        &mut self,
        queue: &mut Queue,
        mut chosen: impl FnMut(&Peek) -> bool,
        is_last: impl Fn(&Peek) -> bool,
        mut taken: impl FnMut(Queued),
    ) {
        let mut before: Option<Peek> = None;
        let mut next = self.front(queue);
        while let Some(this) = next {
            let after = self.slot(this.slot).next;
            next = (after != NONE).then(|| {
                let slot = self.slot(after);
                peek(after, slot, sequence_after(this.sequence, slot))
            });
            // Where the sequences around it would be too far apart to be told, it stays for now.
            let is_told = match (&before, &next) {
                (Some(before), Some(next)) => next.sequence - before.sequence <= SEQUENCE_MASK,
                // What is pushed next comes close behind the last.
                (Some(before), None) => this.sequence - before.sequence <= SEQUENCE_MASK / 2,
                (None, _) => true,
            };
            let ends = is_last(&this);
            if !is_told || !chosen(&this) {
                if ends {
                    return;
                }
                before = Some(this);
                continue;
            }
            match (&before, &next) {
                (None, None) => *queue = Queue { bytes: this.bytes as usize, len: 1, ..Queue::default() },
                (None, Some(next)) => (queue.head, queue.first) = (next.slot, next.sequence),
                (Some(before), _) => {
                    self.slot_mut(before.slot).next = after;
                    if next.is_none() {
                        queue.tail = before.slot;
                    }
                }
            }
            queue.len -= 1;
            queue.bytes -= this.bytes as usize;
            taken(self.empty(this.slot, this.sequence));
            if ends {
                return;
            }
        }
    }
}

fn sequence_after(before: u64, slot: &Slot) -> u64 {
    let low = u64::from(slot.meta >> FLAG_BITS);
    before + (low.wrapping_sub(before) & SEQUENCE_MASK)
}

fn peek(at: u32, slot: &Slot, sequence: u64) -> Peek {
    Peek {
        sequence,
        lsn: if slot.meta & IS_KEPT != 0 { Lsn(0) } else { Lsn(slot.content) },
        bytes: slot.bytes,
        expires: slot.expires,
        qos: if slot.meta & IS_QOS2 != 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce },
        retain: slot.meta & IS_RETAIN != 0,
        slot: at,
    }
}

impl Peek {
    /// Whether it has certainly expired.
    pub(crate) fn is_expired(&self, now: Millis) -> bool {
        self.expires.is_past(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Publication;

    fn queued(sequence: u64, lsn: u64) -> Queued {
        let mut publication = Publication::plain("t", b"p", QoS::AtLeastOnce);
        let delivery = Delivery {
            lsn: Lsn(lsn),
            message: (lsn == 0).then(|| publication.keep()),
            bytes: 2,
            expires: Expiry::NEVER,
            qos: if sequence.is_multiple_of(3) { QoS::ExactlyOnce } else { QoS::AtLeastOnce },
            retain: sequence.is_multiple_of(2),
            identifiers: if sequence.is_multiple_of(5) { smallvec::smallvec![7, 8] } else { Identifiers::new() },
            group: None,
            retained_at: Lsn(0),
        };
        Queued { sequence, delivery }
    }

    #[test]
    fn a_slot_is_small() {
        assert_eq!(std::mem::size_of::<Slot>(), 24);
    }

    proptest! {
        #[test]
        fn queues_are_lists(moves in prop::collection::vec((0..4usize, 0..6u8, 0..9u64), 0..300)) {
            let mut pool = Pool::new(1);
            let mut queues: [Queue; 4] = Default::default();
            let mut models: [Vec<(u64, u64)>; 4] = Default::default();
            let mut next = [0u64; 4];
            for (at, kind, number) in moves {
                let (queue, model) = (&mut queues[at], &mut models[at]);
                match kind {
                    0..=2 => {
                        next[at] += 1;
                        pool.push_back(queue, queued(next[at], number));
                        model.push((next[at], number));
                    }
                    3 => {
                        let popped = pool.pop_front(queue);
                        let expected = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(popped.as_ref().map(|q| (q.sequence, q.delivery.lsn.0)), expected);
                        if let Some(popped) = popped {
                            prop_assert_eq!(popped.delivery.retain, popped.sequence % 2 == 0);
                            prop_assert_eq!(popped.delivery.identifiers.len(), if popped.sequence % 5 == 0 { 2 } else { 0 });
                            prop_assert_eq!(popped.delivery.message.is_some(), popped.delivery.lsn == Lsn(0));
                        }
                    }
                    _ => {
                        let mut taken = Vec::new();
                        pool.take_where(queue, |peek| peek.lsn.0 == number, |q| taken.push(q.sequence));
                        model.retain(|(sequence, _)| !taken.contains(sequence));
                    }
                }
                for (queue, model) in queues.iter().zip(&models) {
                    let seen: Vec<(u64, u64)> = pool.iter(queue).map(|peek| (peek.sequence, peek.lsn.0)).collect();
                    prop_assert_eq!(&seen, model);
                    prop_assert_eq!((queue.len(), queue.bytes()), (model.len(), model.len() * 2));
                }
                prop_assert_eq!(pool.len(), models.iter().map(Vec::len).sum::<usize>());
            }
            for queue in &mut queues {
                while pool.pop_front(queue).is_some() {}
            }
            prop_assert!(pool.len() == 0 && pool.kept.is_empty() && pool.identifiers.is_empty());
        }
    }
}
