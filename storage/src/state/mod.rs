//! The state folded from the log: what a shard would be after replaying it up to a mark.
//!
//! Owns the promise of a fold: all of it or nothing, durable with its mark when `commit` returns. Keys, values and bodies are opaque.
//! It holds no record's only copy before the log may lose it, and never decides what may be lost: whoever folds does.
//!
//! `redb_state` is what a broker uses. `sled_state` (cargo feature `sled`) is there for comparison, and not safe against the power going.

use std::fmt::Debug;
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::RunId;

mod backend;
mod redb_state;
#[cfg(feature = "sled")]
mod sled_state;

pub use redb_state::RedbState;
#[cfg(feature = "sled")]
pub use sled_state::SledState;

/// What part of the log a folded state stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FoldMark {
    /// Replay goes on behind this record.
    pub applied: u64,
    /// The state may already show records up to this one: a log that ends before it is not the one it was folded from.
    pub through: u64,
}

/// What can be chosen about a folded state.
#[derive(Debug, Clone)]
pub struct StateOptions {
    /// Written into the state. One of another shard is refused.
    pub shard: u32,
    /// Memory for what was read and what is to be written, in bytes. An open fold keeps up to one MiB beside it.
    pub cache_bytes: usize,
    /// Written into a state that is begun: the run of the log it belongs to. None: one of its own.
    pub run: Option<RunId>,
}

impl StateOptions {
    /// A cache of 64 MiB.
    pub fn new(shard: u32) -> StateOptions {
        StateOptions { shard, cache_bytes: 64 << 20, run: None }
    }
}

/// Takes a key and its value, and says whether to go on.
pub type VisitEntry<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;
/// Takes the number of a record and the size of its body in bytes, and says whether to go on.
pub type VisitBody<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// A folded state: entries by key, and bodies of messages by the number of their record.
///
/// May be used from any thread. Readers see the last committed fold; an open one changes nothing for them. After a failure
/// the store opens itself again on the next call, and has then what some fold committed, never one older than the last whose
/// `commit` returned.
pub trait StateStore: Send + Sync + Debug {
    /// The mark of the last committed fold. None before the first.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::Corrupt`].
    fn mark(&self) -> Result<Option<FoldMark>, StateError>;

    /// The run the state belongs to. None where it is not kept.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::Corrupt`].
    fn run(&self) -> Result<Option<RunId>, StateError> {
        Ok(None)
    }

    /// Visits all entries in the order of their keys, until `visit` breaks. A store that failed cannot be opened again
    /// meanwhile.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::Corrupt`]. What was visited by then is intact.
    fn entries(&self, visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        self.entries_from(&[], visit)
    }

    /// As [`entries`](StateStore::entries), from the first whose key is not before `from`. All of them are of one fold. What it does
    /// not visit is not read.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::Corrupt`]. What was visited by then is intact.
    fn entries_from(&self, from: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError>;

    /// Bytes of all entries with their keys. A store that does not count them reads them all.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::Corrupt`].
    fn entry_bytes(&self) -> Result<u64, StateError>;

    /// The body kept for record `lsn`.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::Corrupt`].
    fn body(&self, lsn: u64) -> Result<Option<Bytes>, StateError>;

    /// Visits the numbers of all bodies with their sizes in bytes, in ascending order, until `visit` breaks.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::Corrupt`].
    fn bodies(&self, visit: &mut VisitBody<'_>) -> Result<(), StateError>;

    /// Begins to change the state.
    ///
    /// # Errors
    /// [`StateError::Busy`] where another fold is open; [`StateError::Io`]; [`StateError::Corrupt`].
    fn fold(&self) -> Result<Box<dyn Fold>, StateError>;

    /// The size of the state's files in bytes. They may have holes, which take no room, and room that was used once and is
    /// kept for later.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn bytes_on_disk(&self) -> Result<u64, StateError>;

    /// Gives room that is kept for later back to the disk, by copying what there is: for that long both are there. Counts as a
    /// fold; readers go on.
    ///
    /// # Errors
    /// [`StateError::Busy`] where a fold is open; [`StateError::Io`], also where the copy finds no room: nothing is lost by it.
    fn compact(&self) -> Result<(), StateError>;

    /// What this store survives, in one plain sentence for whoever starts the broker.
    fn describe(&self) -> &'static str;
}

/// Changes that become durable together. Dropped, it leaves the state as it was. After an error only dropping it makes sense:
/// `commit` fails then.
pub trait Fold: Send {
    /// Sets the value of a key.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::TooLarge`].
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError>;

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn remove(&mut self, key: &[u8]) -> Result<(), StateError>;

    /// Removes the first `entries_max` entries whose keys are not before `from` and are before `to`, those of this fold among them.
    /// Returns how many there were.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn remove_range(&mut self, from: &[u8], to: &[u8], entries_max: usize) -> Result<usize, StateError>;

    /// Keeps the body of record `lsn`.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StateError::TooLarge`].
    fn put_body(&mut self, lsn: u64, bytes: &[u8]) -> Result<(), StateError>;

    /// Removes the body of record `lsn`, if it is there.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn remove_body(&mut self, lsn: u64) -> Result<(), StateError>;

    /// Makes all changes durable, with the mark that says what they stand for. The log must be durable up to
    /// `mark.through` before.
    ///
    /// # Errors
    /// [`StateError::Io`]. The fold may have been committed all the same: [`StateStore::mark`] tells, and folding the same
    /// changes once more does no harm.
    fn commit(self: Box<Self>, mark: FoldMark) -> Result<(), StateError>;
}

fn count_entry_bytes(state: &dyn StateStore) -> Result<u64, StateError> {
    let mut bytes = 0;
    state.entries(&mut |key, value| {
        bytes += (key.len() + value.len()) as u64;
        ControlFlow::Continue(())
    })?;
    Ok(bytes)
}

/// Why a folded state cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk failed or is full; nothing committed is lost.
    #[error("the folded state cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// What lies on the disk is not what was written.
    #[error("{file} is damaged: {detail}")]
    Corrupt {
        /// The file.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Written by a Causeway this one does not know.
    #[error("{file} has format version {version}, which this version of Causeway does not know")]
    Version {
        /// The file.
        file: String,
        /// The version it claims.
        version: u64,
    },
    /// The state belongs to another shard.
    #[error("{file} belongs to shard {found}, not to shard {expected}")]
    Shard {
        /// The file.
        file: String,
        /// The shard it was written for.
        found: u64,
        /// The shard it was opened for.
        expected: u32,
    },
    /// One fold at a time.
    #[error("another fold of the state is still open")]
    Busy,
    /// Nothing of that size is kept.
    #[error("{bytes} bytes are more than an entry may have")]
    TooLarge {
        /// The size in bytes.
        bytes: u64,
    },
}

impl StateError {
    /// Whether the disk has no room, as opposed to failing.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, StateError::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded))
    }
}
