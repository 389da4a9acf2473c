//! The bytes waiting for one connection.
//!
//! Owns their order: small pieces gather in buffers of its own, large payloads are shared with every other outbox that sends
//! them, and what goes to many is a piece of [`Commons`]. It never writes to a socket; the edge takes [`OutboxMut::chunks`] and reports with
//! [`OutboxMut::advance`].

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::commons::{Commons, Span};

/// Below this many bytes an outbox is worth refilling from its session's queue.
pub const OUTBOX_LOW_BYTES: usize = 16 * 1024;

/// Up to this many bytes are taken from a session's queue ahead of the socket.
pub(crate) const HIGH_BYTES: usize = 64 * 1024;
/// What waits for another shard, for all its clients together: above it, messages of QoS 0 are dropped.
pub(crate) const LINK_BYTES_MAX: usize = 64 << 20;
/// Likewise to another shard. More than QoS 0 may take there: a flood of it must not keep back what is acknowledged.
pub(crate) const LINK_HIGH_BYTES: usize = LINK_BYTES_MAX + 16 * HIGH_BYTES;

/// Payloads from this size on are shared instead of copied: a reference costs less than the copy.
pub(crate) const SHARE_BYTES_MIN: usize = 2048;

/// An outbox that gets its first bytes takes room for so many; packets come in bursts.
const FIRST_BYTES: usize = 1024;
/// Each next buffer is larger, up to this: what is there is never copied to make room.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Room for any packet without a payload or long strings.
const SMALL_PACKET_BYTES: usize = 64;

#[derive(Debug)]
enum Part {
    Own(BytesMut),
    Shared(Bytes),
    Common(Span),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Part::Own(bytes) => bytes.len(),
            Part::Shared(bytes) => bytes.len(),
            Part::Common(span) => span.len(),
        }
    }
}

/// Bytes in the order they must reach the peer. An empty outbox owns no memory.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    parts: VecDeque<Part>,
    tail: BytesMut,
    parts_bytes: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.parts_bytes + self.tail.len()
    }

    /// The buffer for a small packet.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        self.tail_with_room(SMALL_PACKET_BYTES)
    }

    /// The buffer for what comes next, with room for so many bytes.
    pub(crate) fn tail_with_room(&mut self, bytes: usize) -> &mut BytesMut {
        let (used, capacity) = (self.tail.len(), self.tail.capacity());
        if capacity - used < bytes {
            let next = BytesMut::with_capacity((2 * capacity).clamp(FIRST_BYTES, BUFFER_BYTES_MAX).max(bytes));
            let full = std::mem::replace(&mut self.tail, next);
            if !full.is_empty() {
                self.parts_bytes += full.len();
                self.parts.push_back(Part::Own(full));
            }
        }
        &mut self.tail
    }

    /// Appends a payload that others hold, too, without copying it.
    pub(crate) fn push_shared(&mut self, payload: Bytes) {
        self.end_tail();
        self.parts_bytes += payload.len();
        self.parts.push_back(Part::Shared(payload));
    }

    /// Appends a piece of the commons, without copying it.
    pub(crate) fn push_common(&mut self, span: Span, commons: &mut Commons) {
        self.end_tail();
        self.parts_bytes += span.len();
        if let Some(Part::Common(last)) = self.parts.back_mut()
            && let Some(joined) = last.joined(span)
        {
            *last = joined;
            return;
        }
        commons.hold(span);
        self.parts.push_back(Part::Common(span));
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.parts_bytes += self.tail.len();
            // What room there is behind it is for what comes behind what follows.
            self.parts.push_back(Part::Own(self.tail.split()));
        }
    }

    /// Gives up all that waits.
    pub(crate) fn clear(&mut self, commons: &mut Commons) {
        for part in std::mem::take(self).parts {
            if let Part::Common(span) = part {
                commons.release(span);
            }
        }
    }
}

/// The bytes waiting for one connection, to look at.
#[derive(Debug, Clone, Copy)]
pub struct OutboxRef<'a> {
    outbox: &'a Outbox,
    commons: &'a Commons,
}

impl<'a> OutboxRef<'a> {
    pub(crate) fn new(outbox: &'a Outbox, commons: &'a Commons) -> OutboxRef<'a> {
        OutboxRef { outbox, commons }
    }

    /// Fills `slices` with the next bytes, in order, and returns how many slices were used.
    pub fn chunks(self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.outbox.parts.iter().map(|part| match part {
            Part::Own(bytes) => bytes.as_ref(),
            Part::Shared(bytes) => bytes.as_ref(),
            Part::Common(span) => self.commons.bytes(*span),
        });
        let waiting = parts.chain(std::iter::once(self.outbox.tail.as_ref()));
        let mut used = 0;
        for (slot, chunk) in slices.iter_mut().zip(waiting.filter(|chunk| !chunk.is_empty())) {
            *slot = IoSlice::new(chunk);
            used += 1;
        }
        used
    }
}

/// The bytes waiting for one connection, to be written.
#[derive(Debug)]
pub struct OutboxMut<'a> {
    outbox: &'a mut Outbox,
    commons: &'a mut Commons,
}

impl<'a> OutboxMut<'a> {
    pub(crate) fn new(outbox: &'a mut Outbox, commons: &'a mut Commons) -> OutboxMut<'a> {
        OutboxMut { outbox, commons }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// To look at.
    pub fn as_ref(&self) -> OutboxRef<'_> {
        OutboxRef { outbox: self.outbox, commons: self.commons }
    }

    /// Fills `slices` with the next bytes, in order, and returns how many slices were used.
    pub fn chunks<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> usize {
        self.as_ref().chunks(slices)
    }

    /// Drops the first `bytes` bytes: they were written. More than there are empties it.
    pub fn advance(&mut self, mut bytes: usize) {
        let Outbox { parts, tail, parts_bytes } = &mut *self.outbox;
        while let Some(part) = parts.front_mut() {
            let length = part.len();
            if bytes < length {
                match part {
                    Part::Own(part) => part.advance(bytes),
                    Part::Shared(part) => part.advance(bytes),
                    Part::Common(span) => *span = span.without(bytes),
                }
                *parts_bytes -= bytes;
                return;
            }
            bytes -= length;
            *parts_bytes -= length;
            if let Some(Part::Common(span)) = parts.pop_front() {
                self.commons.release(span);
            }
        }
        if bytes >= tail.len() {
            // An idle connection owns no buffers.
            *tail = BytesMut::new();
            *parts = VecDeque::new();
        } else {
            tail.advance(bytes);
        }
    }

    /// The peer takes nothing for now: what is held in common with others becomes its own.
    pub fn keep(&mut self) {
        let Outbox { parts, .. } = &mut *self.outbox;
        for part in parts.iter_mut() {
            if let Part::Common(span) = *part {
                *part = Part::Own(BytesMut::from(self.commons.bytes(span)));
                self.commons.release(span);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut OutboxMut<'_>, step: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let used = outbox.chunks(&mut slices);
            let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = step.min(all.len());
            seen.extend_from_slice(&all[..taken]);
            outbox.advance(taken);
        }
        seen
    }

    fn common(outbox: &mut Outbox, commons: &mut Commons, bytes: &[u8]) {
        let span = commons.write(bytes.len(), |out| out.extend_from_slice(bytes)).unwrap();
        outbox.push_common(span, commons);
    }

    #[test]
    fn bytes_keep_their_order_whatever_the_step() {
        for step in 1..12 {
            for kept in [false, true] {
                let (mut outbox, mut commons) = (Outbox::default(), Commons::default());
                outbox.tail().extend_from_slice(b"abc");
                outbox.push_shared(Bytes::from_static(b"defg"));
                outbox.push_shared(Bytes::from_static(b"h"));
                outbox.tail().extend_from_slice(b"ij");
                common(&mut outbox, &mut commons, b"klm");
                common(&mut outbox, &mut commons, b"nop");
                outbox.tail().extend_from_slice(b"q");
                assert_eq!(outbox.bytes(), 17);
                assert_eq!(outbox.parts.len(), 5, "what is side by side in the commons is one part");
                let mut view = OutboxMut::new(&mut outbox, &mut commons);
                view.advance(1);
                if kept {
                    view.keep();
                }
                assert_eq!(drain(&mut view, step), b"bcdefghijklmnopq");
                assert_eq!(outbox.tail.capacity(), 0, "an empty outbox owns no memory");
                // Nobody holds what was written: it is written over.
                let before = commons.write(3, |out| out.extend_from_slice(b"new")).unwrap();
                assert_eq!(commons.bytes(before.without(0)), b"new");
                assert_eq!(commons.write(0, |_| {}), None);
            }
        }
    }

    #[test]
    fn a_burst_is_never_copied_to_make_room() {
        let mut outbox = Outbox::default();
        let packet = [1; 300];
        for _ in 0..1000 {
            outbox.tail_with_room(packet.len()).extend_from_slice(&packet);
        }
        assert_eq!(outbox.bytes(), 300_000);
        assert!(outbox.parts.len() < 30, "{} parts", outbox.parts.len());
        let whole = outbox.parts.iter().all(|part| part.len() % 300 == 0);
        assert!(whole, "a packet that does not fit goes into the next buffer");
        let mut commons = Commons::default();
        assert_eq!(drain(&mut OutboxMut::new(&mut outbox, &mut commons), 100_000).len(), 300_000);
    }
}
