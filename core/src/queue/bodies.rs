//! The bodies of recorded messages: who is still owed each, and which of them are in memory.
//!
//! Owns one count for each message that anybody is still owed, by its position in the log, and a bounded cache of bodies.
//! What is not in the cache is asked for and comes from the log. Where there is no log to read from, what is owed stays in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::Lsn;
use crate::message::Message;

/// Counts are kept together for this many neighbours in the log.
const CHUNK: u64 = 64;

#[derive(Debug)]
struct Chunk {
    /// How many deliveries each message is still owed to.
    owed: [u32; CHUNK as usize],
    /// The size of each live message: owed to somebody, or resting. Zero for the others.
    bytes: [u32; CHUNK as usize],
    live_bytes: u64,
    live: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Bodies {
    chunks: BTreeMap<u64, Box<Chunk>>,
    here: HashMap<u64, Arc<Message>, FixedState>,
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

impl Bodies {
    pub(super) fn new(hash_seed: u64) -> Bodies {
        Bodies {
            chunks: BTreeMap::new(),
            here: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            arrived: VecDeque::new(),
            here_bytes: 0,
            cache_bytes_max: None,
            moved_before: Lsn(0),
            freed: Vec::new(),
            resting: Vec::new(),
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
        self.chunks.get(&(lsn.0 / CHUNK)).map_or(0, |chunk| chunk.bytes[(lsn.0 % CHUNK) as usize])
    }

    /// Bytes of bodies in memory.
    pub(crate) fn here_bytes(&self) -> usize {
        self.here_bytes
    }

    pub(crate) fn get(&self, lsn: Lsn) -> Option<&Arc<Message>> {
        self.here.get(&lsn.0)
    }

    /// Keeps a body at hand. It may go again at any time where it can be read from the log.
    pub(crate) fn put(&mut self, lsn: Lsn, message: Arc<Message>) {
        self.here_bytes += message.bytes();
        if let Some(old) = self.here.insert(lsn.0, message) {
            self.here_bytes -= old.bytes();
        }
        let Some(max) = self.cache_bytes_max else { return };
        self.arrived.push_back(lsn.0);
        // The newest stays: somebody is about to take it.
        while (self.here_bytes > max || self.arrived.len() > ARRIVED_MAX) && self.arrived.len() > 1 {
            let Some(oldest) = self.arrived.pop_front() else { return };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, lsn: u64) {
        if let Some(message) = self.here.remove(&lsn) {
            self.here_bytes -= message.bytes();
        }
    }

    /// So many more deliveries are owed the message.
    pub(crate) fn owe(&mut self, lsn: Lsn, bytes: u32, deliveries: u32) {
        if lsn == Lsn(0) || deliveries == 0 {
            return;
        }
        let chunk = self.chunks.entry(lsn.0 / CHUNK).or_insert_with(|| {
            Box::new(Chunk { owed: [0; CHUNK as usize], bytes: [0; CHUNK as usize], live_bytes: 0, live: 0 })
        });
        let at = (lsn.0 % CHUNK) as usize;
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
        let Some(chunk) = self.chunks.get_mut(&(lsn.0 / CHUNK)) else { return };
        let at = (lsn.0 % CHUNK) as usize;
        if chunk.owed[at] != 1 {
            chunk.owed[at] = chunk.owed[at].saturating_sub(1);
            return;
        }
        chunk.owed[at] = 0;
        self.forget(lsn.0);
        if self.are_in_log() {
            self.resting.push(lsn);
        } else {
            self.bury(lsn);
        }
    }

    /// Nothing refers to the message any more, unless it became owed again.
    fn bury(&mut self, lsn: Lsn) {
        let Some(chunk) = self.chunks.get_mut(&(lsn.0 / CHUNK)) else { return };
        let at = (lsn.0 % CHUNK) as usize;
        if chunk.owed[at] > 0 || chunk.bytes[at] == 0 {
            return;
        }
        chunk.live -= 1;
        chunk.live_bytes -= u64::from(std::mem::take(&mut chunk.bytes[at]));
        if chunk.live == 0 {
            self.chunks.remove(&(lsn.0 / CHUNK));
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
        let chunks = self.chunks.range(from.0 / CHUNK..to.0.div_ceil(CHUNK).max(from.0 / CHUNK));
        chunks.map(|(_, chunk)| chunk.live_bytes).sum()
    }

    /// The messages from `from` to before `to` that anybody is owed, or would be after a crash.
    pub(crate) fn live(&self, from: Lsn, to: Lsn) -> impl Iterator<Item = Lsn> {
        let chunks = self.chunks.range(from.0 / CHUNK..to.0.div_ceil(CHUNK).max(from.0 / CHUNK));
        let all = chunks.flat_map(|(number, chunk)| {
            let live = chunk.bytes.iter().enumerate().filter(|(_, bytes)| **bytes > 0);
            live.map(move |(at, _)| Lsn(number * CHUNK + at as u64))
        });
        all.filter(move |lsn| (from..to).contains(lsn))
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
            .map(|lsn| (lsn.0, self.chunks[&(lsn.0 / CHUNK)].owed[(lsn.0 % CHUNK) as usize]))
            .filter(|(_, owed)| *owed > 0)
            .collect()
    }
}

/// More bodies than this are not kept at hand, however small.
const ARRIVED_MAX: usize = 1 << 16;
