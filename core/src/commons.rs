//! Bytes that many outboxes send, written once.
//!
//! Owns their memory, and for how long it is needed: a message for many is encoded here, and each outbox only notes from where to where.
//! What follows on each other here follows on each other in the outboxes of all who got both, so a burst for many is one piece
//! in each. It is meant for the length of a turn: a connection that takes nothing copies what it still needs ([`crate::OutboxMut::keep`]),
//! so that one slow reader holds no memory that belongs to all.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Bytes of a chunk: small enough to stay in the processor's cache while all who get it are written.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks at most. With all of them in use, outboxes get copies.
const CHUNKS_MAX: usize = 32;

/// A piece of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    chunk: u32,
    from: u32,
    to: u32,
}

impl Span {
    pub(crate) fn len(self) -> usize {
        (self.to - self.from) as usize
    }

    /// Both as one, where `next` begins in the place where this one ends.
    pub(crate) fn joined(self, next: Span) -> Option<Span> {
        (self.chunk == next.chunk && self.to == next.from).then_some(Span { to: next.to, ..self })
    }

    /// Without its first bytes, of which there are more than `bytes`.
    pub(crate) fn without(self, bytes: usize) -> Span {
        Span { from: self.from + bytes as u32, ..self }
    }
}

#[derive(Debug)]
struct Chunk {
    bytes: BytesMut,
    /// Pieces of outboxes that are in it.
    holders: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Commons {
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk. It wraps: far fewer are in use at any time than there are numbers.
    first: u32,
}

impl Commons {
    /// Has `write` append a packet of so many bytes. `None` where there is no room, or it wrote nothing.
    pub(crate) fn write(&mut self, bytes: usize, write: impl FnOnce(&mut BytesMut)) -> Option<Span> {
        let chunk = self.with_room(bytes)?;
        let from = chunk.bytes.len();
        write(&mut chunk.bytes);
        let to = chunk.bytes.len();
        debug_assert!(to <= CHUNK_BYTES, "it wrote more than it said");
        let number = self.first.wrapping_add(self.chunks.len() as u32 - 1);
        (to > from).then_some(Span { chunk: number, from: from as u32, to: to as u32 })
    }

    fn with_room(&mut self, bytes: usize) -> Option<&mut Chunk> {
        if bytes > CHUNK_BYTES {
            return None;
        }
        if let Some(last) = self.chunks.back_mut()
            && last.holders == 0
        {
            last.bytes.clear();
        }
        if self.chunks.back().is_none_or(|last| CHUNK_BYTES - last.bytes.len() < bytes) {
            if self.chunks.len() == CHUNKS_MAX {
                return None;
            }
            self.chunks.push_back(Chunk { bytes: BytesMut::with_capacity(CHUNK_BYTES), holders: 0 });
        }
        self.chunks.back_mut()
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        let chunk = self.chunks.get(self.place(span));
        chunk.and_then(|chunk| chunk.bytes.get(span.from as usize..span.to as usize)).unwrap_or_default()
    }

    /// An outbox has a piece in the chunk of `span`.
    pub(crate) fn hold(&mut self, span: Span) {
        let place = self.place(span);
        if let Some(chunk) = self.chunks.get_mut(place) {
            chunk.holders += 1;
        }
    }

    /// One outbox needs that piece no more.
    pub(crate) fn release(&mut self, span: Span) {
        let place = self.place(span);
        if let Some(chunk) = self.chunks.get_mut(place) {
            chunk.holders -= 1;
        }
        // The last one stays, for what comes next.
        while self.chunks.len() > 1 && self.chunks.front().is_some_and(|first| first.holders == 0) {
            self.chunks.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    fn place(&self, span: Span) -> usize {
        span.chunk.wrapping_sub(self.first) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(commons: &mut Commons, bytes: &[u8]) -> Option<Span> {
        commons.write(bytes.len(), |out| out.extend_from_slice(bytes))
    }

    #[test]
    fn neighbours_join_and_strangers_do_not() {
        let mut commons = Commons::default();
        let one = put(&mut commons, b"one").unwrap();
        commons.hold(one);
        let two = put(&mut commons, b"two").unwrap();
        let both = one.joined(two).unwrap();
        assert_eq!(commons.bytes(both), b"onetwo");
        assert_eq!(commons.bytes(both.without(2)), b"etwo");
        assert_eq!(two.joined(one), None);
        let large = put(&mut commons, &[7; CHUNK_BYTES]).unwrap();
        assert_eq!(two.joined(large), None);
        assert_eq!(put(&mut commons, &[7; CHUNK_BYTES + 1]), None);
    }

    #[test]
    fn chunks_go_with_their_last_holder_and_there_are_so_many_at_most() {
        let mut commons = Commons { first: u32::MAX - 2, ..Commons::default() };
        let held: Vec<Span> = std::iter::from_fn(|| {
            let span = put(&mut commons, &[1; CHUNK_BYTES])?;
            commons.hold(span);
            Some(span)
        })
        .collect();
        assert_eq!(held.len(), CHUNKS_MAX);
        for (at, span) in held.iter().enumerate() {
            assert_eq!(commons.bytes(*span).len(), CHUNK_BYTES);
            commons.release(*span);
            assert_eq!(commons.chunks.len(), (CHUNKS_MAX - at - 1).max(1));
        }
        // What nobody holds is written over.
        put(&mut commons, b"next").unwrap();
        assert_eq!(commons.chunks.len(), 1);
    }
}
