//! The bodies of recorded messages: who is still owed each, and which of them are in memory.
//!
//! Owns one count for each message that anybody is still owed, by its position in the log, and a bounded cache of their bodies.
//! What is not in the cache is asked for and comes from the log. Where there is no log to read from, what is owed stays in memory.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use crate::Lsn;
use crate::message::Message;

/// What is known of neighbours in the log is kept together for this many.
const CHUNK: u64 = 64;

#[derive(Debug)]
struct Chunk {
    /// How many deliveries each message is still owed to.
    owed: [u32; CHUNK as usize],
    /// The size of each live message: owed to somebody, or resting. Zero for the others.
    bytes: [u32; CHUNK as usize],
    live_bytes: u64,
    live: u32,
    /// How many bodies are in memory.
    here: u32,
    /// Not there while there is none for long.
    bodies: Option<Box<[Option<Arc<Message>>; CHUNK as usize]>>,
}

impl Chunk {
    /// Gives up a body; how many bytes that were in memory.
    fn forget(&mut self, at: usize) -> usize {
        let Some(message) = self.bodies.as_mut().and_then(|bodies| bodies[at].take()) else { return 0 };
        self.here -= 1;
        message.bytes()
    }
}

/// Neighbours are wanted together: the chunks that were found last, by a remainder of their numbers.
const NEAR: usize = 61;

/// See the module.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// Where each chunk is, by the number of its first message.
    places: BTreeMap<u64, u32>,
    chunks: Slab<Box<Chunk>>,
    /// Some of `places`.
    near: [Cell<Option<(u64, u32)>>; NEAR],
    /// In the order in which they came; some have gone.
    arrived: VecDeque<u64>,
    here_bytes: usize,
    /// Set where bodies can be read from the log: so many bytes of them stay in memory.
    cache_bytes_max: Option<usize>,
    /// Messages below this were moved out of the log; what is owed to nobody any more is told.
    moved_before: Lsn,
    freed: Vec<Lsn>,
    /// Owed to nobody any more, but the folded state may still say so: after a crash it would ask for the body.
    resting: Vec<Lsn>,
}

/// In which chunk a message is, and where.
const fn split(lsn: u64) -> (u64, usize) {
    (lsn / CHUNK, (lsn % CHUNK) as usize)
}

impl Bodies {
    pub(super) fn new() -> Bodies {
        Bodies {
            places: BTreeMap::new(),
            chunks: Slab::new(),
            near: [const { Cell::new(None) }; NEAR],
            arrived: VecDeque::new(),
            here_bytes: 0,
            cache_bytes_max: None,
            moved_before: Lsn(0),
            freed: Vec::new(),
            resting: Vec::new(),
        }
    }

    fn place(&self, number: u64) -> Option<usize> {
        let near = &self.near[(number % NEAR as u64) as usize];
        if let Some((known, place)) = near.get()
            && known == number
        {
            return Some(place as usize);
        }
        let place = *self.places.get(&number)?;
        near.set(Some((number, place)));
        Some(place as usize)
    }

    fn chunk(&self, number: u64) -> Option<&Chunk> {
        self.place(number).and_then(|place| self.chunks.get(place)).map(|chunk| &**chunk)
    }

    fn chunk_mut(&mut self, number: u64) -> Option<&mut Chunk> {
        self.place(number).and_then(|place| self.chunks.get_mut(place)).map(|chunk| &mut **chunk)
    }

    /// Makes the place of a chunk, where there is none.
    fn make(&mut self, number: u64) {
        if self.place(number).is_none() {
            let place = self.chunks.insert(Box::new(Chunk {
                owed: [0; CHUNK as usize],
                bytes: [0; CHUNK as usize],
                live_bytes: 0,
                live: 0,
                here: 0,
                bodies: None,
            }));
            self.places.insert(number, place as u32);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(place) = self.places.remove(&number) {
            self.chunks.remove(place as usize);
            let near = &self.near[(number % NEAR as u64) as usize];
            near.set(near.get().filter(|(known, _)| *known != number));
        }
    }

    /// From now on only so many bytes stay in memory: the rest is in the log.
    pub(crate) fn read_from_log(&mut self, cache_bytes_max: usize) {
        self.cache_bytes_max = Some(cache_bytes_max);
    }

    /// Whether a body that is not in memory can be had.
    pub(crate) fn are_in_log(&self) -> bool {
        self.cache_bytes_max.is_some()
    }

    /// The size of a message that is owed to somebody; zero for others.
    pub(crate) fn size(&self, lsn: Lsn) -> u32 {
        let (number, at) = split(lsn.0);
        self.chunk(number).map_or(0, |chunk| chunk.bytes[at])
    }

    /// Bytes of bodies in memory.
    pub(crate) fn here_bytes(&self) -> usize {
        self.here_bytes
    }

    pub(crate) fn get(&self, lsn: Lsn) -> Option<&Arc<Message>> {
        let (number, at) = split(lsn.0);
        self.chunk(number)?.bodies.as_ref()?[at].as_ref()
    }

    /// Keeps the body of a message that is owed to somebody at hand. It may go again at any time where it can be read from the log.
    pub(crate) fn put(&mut self, lsn: Lsn, message: Arc<Message>) {
        let (number, at) = split(lsn.0);
        let Some(chunk) = self.chunk_mut(number).filter(|chunk| chunk.owed[at] > 0) else { return };
        let bytes = message.bytes();
        let bodies = chunk.bodies.get_or_insert_with(|| Box::new([const { None }; CHUNK as usize]));
        match bodies[at].replace(message) {
            Some(old) => self.here_bytes -= old.bytes(),
            None => chunk.here += 1,
        }
        self.here_bytes += bytes;
        let Some(max) = self.cache_bytes_max else { return };
        self.arrived.push_back(lsn.0);
        // The newest stays: somebody is about to take it.
        while (self.here_bytes > max || self.arrived.len() > ARRIVED_MAX) && self.arrived.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(lsn) = self.arrived.pop_front() else { return };
        let (number, at) = split(lsn);
        let Some(chunk) = self.chunk_mut(number) else {
            // Nor are its neighbours here.
            while self.arrived.len() > 1 && self.arrived.front().is_some_and(|next| split(*next).0 == number) {
                self.arrived.pop_front();
            }
            return;
        };
        let freed = chunk.forget(at);
        if chunk.here == 0 {
            // Until now, another would have taken its place.
            chunk.bodies = None;
        }
        self.here_bytes -= freed;
    }

    /// So many more deliveries are owed the message.
    pub(crate) fn owe(&mut self, lsn: Lsn, bytes: u32, deliveries: u32) {
        if lsn == Lsn(0) || deliveries == 0 {
            return;
        }
        let (number, at) = split(lsn.0);
        self.make(number);
        let Some(chunk) = self.chunk_mut(number) else { return };
        if chunk.bytes[at] == 0 {
            // No message is of no size: it has a topic.
            chunk.bytes[at] = bytes.max(1);
            chunk.live += 1;
            chunk.live_bytes += u64::from(chunk.bytes[at]);
        }
        chunk.owed[at] = chunk.owed[at].saturating_add(deliveries);
    }

    /// One delivery is done with the message.
    pub(crate) fn settle(&mut self, lsn: Lsn) {
        if lsn == Lsn(0) {
            return;
        }
        let (number, at) = split(lsn.0);
        let Some(chunk) = self.chunk_mut(number) else { return };
        if chunk.owed[at] != 1 {
            chunk.owed[at] = chunk.owed[at].saturating_sub(1);
            return;
        }
        chunk.owed[at] = 0;
        let freed = chunk.forget(at);
        self.here_bytes -= freed;
        if self.are_in_log() {
            self.resting.push(lsn);
        } else {
            self.bury(lsn);
        }
    }

    /// Nothing refers to the message any more, unless it became owed again.
    fn bury(&mut self, lsn: Lsn) {
        let (number, at) = split(lsn.0);
        let Some(chunk) = self.chunk_mut(number) else { return };
        if chunk.owed[at] > 0 || chunk.bytes[at] == 0 {
            return;
        }
        chunk.live -= 1;
        chunk.live_bytes -= u64::from(std::mem::take(&mut chunk.bytes[at]));
        if chunk.live == 0 {
            self.remove(number);
        }
        if lsn < self.moved_before {
            self.freed.push(lsn);
        }
    }

    /// What rests now: a fold that begins now will not refer to it.
    pub(crate) fn take_resting(&mut self) -> Vec<Lsn> {
        std::mem::take(&mut self.resting)
    }

    /// That fold was committed, or it was not.
    pub(crate) fn rested(&mut self, mut resting: Vec<Lsn>, committed: bool) {
        if committed {
            resting.into_iter().for_each(|lsn| self.bury(lsn));
        } else {
            self.resting.append(&mut resting);
        }
    }

    /// Bytes of the messages from `from` to before `to` that anybody is owed, or would be after a crash. Counts neighbours of
    /// the ends, too.
    pub(crate) fn live_bytes(&self, from: Lsn, to: Lsn) -> u64 {
        self.within(from, to).map(|(_, chunk)| chunk.live_bytes).sum()
    }

    /// The messages from `from` to before `to` that anybody is owed, or would be after a crash.
    pub(crate) fn live(&self, from: Lsn, to: Lsn) -> impl Iterator<Item = Lsn> {
        let all = self.within(from, to).flat_map(|(number, chunk)| {
            let live = chunk.bytes.iter().enumerate().filter(|(_, bytes)| **bytes > 0);
            live.map(move |(at, _)| Lsn(number * CHUNK + at as u64))
        });
        all.filter(move |lsn| (from..to).contains(lsn))
    }

    fn within(&self, from: Lsn, to: Lsn) -> impl Iterator<Item = (u64, &Chunk)> {
        let places = self.places.range(from.0 / CHUNK..to.0.div_ceil(CHUNK).max(from.0 / CHUNK));
        places.filter_map(|(number, place)| Some((*number, &**self.chunks.get(*place as usize)?)))
    }

    /// All below were moved out of the log, or are owed to nobody.
    pub(crate) fn moved_before(&mut self, lsn: Lsn) {
        self.moved_before = self.moved_before.max(lsn);
    }

    /// Moved messages that nobody is owed any more, since this was asked last.
    pub(crate) fn take_freed(&mut self) -> Vec<Lsn> {
        std::mem::take(&mut self.freed)
    }

    #[cfg(test)]
    pub(crate) fn owed(&self) -> BTreeMap<u64, u32> {
        self.live(Lsn(0), Lsn(u64::MAX - CHUNK))
            .map(|lsn| (lsn.0, self.chunk(lsn.0 / CHUNK).map_or(0, |chunk| chunk.owed[(lsn.0 % CHUNK) as usize])))
            .filter(|(_, owed)| *owed > 0)
            .collect()
    }
}

/// More bodies than this are not kept at hand, however small.
const ARRIVED_MAX: usize = 1 << 16;
