//! The bytes waiting for one connection.
//!
//! Owns their order: small pieces gather in one buffer, large payloads are shared with every other outbox that sends
//! them. It never writes to a socket; the edge takes [`Outbox::chunks`] and reports with [`Outbox::advance`].

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes in the order they must reach the peer. An empty outbox owns no memory.
#[derive(Debug, Default)]
pub struct Outbox {
    parts: VecDeque<Bytes>,
    tail: BytesMut,
    parts_bytes: usize,
}

/// Payloads from this size on are shared instead of copied: a reference costs less than the copy.
pub(crate) const SHARE_BYTES_MIN: usize = 2048;

/// An outbox that gets its first bytes takes room for so many; packets come in bursts.
const FIRST_BYTES: usize = 1024;
/// With less room than this left, it takes more.
const ROOM_BYTES: usize = 64;

impl Outbox {
    /// Below this many bytes an outbox is worth refilling from its session's queue.
    pub const LOW_BYTES: usize = 16 * 1024;

    /// Up to this many bytes are taken from a session's queue ahead of the socket.
    pub(crate) const HIGH_BYTES: usize = 64 * 1024;

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.parts_bytes + self.tail.len()
    }

    /// Fills `slices` with the next bytes, in order, and returns how many slices were used.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let waiting = self.parts.iter().map(Bytes::as_ref).chain(std::iter::once(self.tail.as_ref()));
        let mut used = 0;
        for (slot, chunk) in slices.iter_mut().zip(waiting.filter(|chunk| !chunk.is_empty())) {
            *slot = IoSlice::new(chunk);
            used += 1;
        }
        used
    }

    /// Drops the first `bytes` bytes: they were written. More than there are empties it.
    pub fn advance(&mut self, mut bytes: usize) {
        while let Some(part) = self.parts.front_mut() {
            if bytes < part.len() {
                part.advance(bytes);
                self.parts_bytes -= bytes;
                return;
            }
            bytes -= part.len();
            self.parts_bytes -= part.len();
            self.parts.pop_front();
        }
        if bytes >= self.tail.len() {
            // An idle connection owns no buffers.
            self.tail = BytesMut::new();
            self.parts = VecDeque::new();
        } else {
            self.tail.advance(bytes);
        }
    }

    /// The buffer for what comes next, with room for a small packet.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        let (used, capacity) = (self.tail.len(), self.tail.capacity());
        if capacity - used < ROOM_BYTES {
            // Much at once: a burst of messages would grow it many times, and each time copy what is there.
            self.tail.reserve(FIRST_BYTES.max(2 * used));
        }
        &mut self.tail
    }

    /// Appends a payload that others hold, too, without copying it.
    pub(crate) fn push_shared(&mut self, payload: Bytes) {
        if !self.tail.is_empty() {
            let head = self.tail.split().freeze();
            self.parts_bytes += head.len();
            self.parts.push_back(head);
        }
        self.parts_bytes += payload.len();
        self.parts.push_back(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
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

    #[test]
    fn bytes_keep_their_order_whatever_the_step() {
        for step in 1..12 {
            let mut outbox = Outbox::default();
            outbox.tail().extend_from_slice(b"abc");
            outbox.push_shared(Bytes::from_static(b"defg"));
            outbox.push_shared(Bytes::from_static(b"h"));
            outbox.tail().extend_from_slice(b"ij");
            assert_eq!(outbox.bytes(), 10);
            assert_eq!(drain(&mut outbox, step), b"abcdefghij");
            assert_eq!(outbox.tail.capacity(), 0, "an empty outbox owns no memory");
        }
    }
}
