//! The promise every log makes to the shard that owns it, and the ways it can be broken.
//!
//! Owns the trait and its errors. It never writes anything itself.

use std::sync::Arc;

use crate::segmented::LogReader;

/// An append-only sequence of opaque records, numbered without gaps. One shard owns one log.
///
/// After [`LogError::Io`] the log is poisoned: the caller must acknowledge nothing more and stop. A failed sync is never
/// retried, because the kernel may have dropped the pages it could not write. The other errors left the log as it was.
pub trait Log: Send {
    /// Appends the records numbered `first`, `first + 1`, and so on, as one group: recovery finds all of it or nothing.
    /// Nothing is durable before [`sync`](Log::sync).
    ///
    /// # Errors
    /// [`LogError::Gap`] where `first` does not follow the last record; [`LogError::Full`] where the disk has no room for
    /// a group of this size, which may be offered again; [`LogError::TooLarge`]; [`LogError::Io`] where a write failed;
    /// [`LogError::Poisoned`] ever after.
    fn append(&mut self, first: u64, records: &mut dyn Iterator<Item = &[u8]>) -> Result<(), LogError>;

    /// Like [`append`](Log::append), and tells `place` where each record came to lie. It is told before the records
    /// are durable, and not at all by a log that cannot be read.
    ///
    /// # Errors
    /// Those of `append`; nothing was told then.
    fn append_placed(
        &mut self,
        first: u64,
        records: &mut dyn Iterator<Item = &[u8]>,
        place: &mut dyn FnMut(u64, Position),
    ) -> Result<(), LogError> {
        let _ = place;
        self.append(first, records)
    }

    /// Makes everything appended so far durable and returns the number of the last durable record.
    ///
    /// # Errors
    /// [`LogError::Io`] where the device refused; [`LogError::Poisoned`] ever after.
    fn sync(&mut self) -> Result<u64, LogError>;

    /// Gives up what is numbered below `lsn`, as far as whole segments allow.
    ///
    /// # Errors
    /// [`LogError::Io`] where the device refused; [`LogError::Poisoned`] ever after.
    fn truncate_before(&mut self, lsn: u64) -> Result<(), LogError> {
        let _ = lsn;
        Ok(())
    }

    /// Records by position, from any thread, while the log goes on. None where nothing is kept to be read.
    fn reader(&self) -> Option<LogReader> {
        None
    }

    /// Syncs, and writes down that it did, so that the next start can tell damage from an unfinished write
    /// everywhere. For an orderly end.
    ///
    /// # Errors
    /// Those of [`sync`](Log::sync).
    fn close(&mut self) -> Result<(), LogError> {
        self.sync().map(drop)
    }

    /// What this log survives, in one plain sentence for whoever starts the broker.
    fn describe(&self) -> &'static str;
}

/// Where a record lies: the segment's ordinal above, the offset of the record in it below. Stays true until the segment
/// is removed, across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    pub(crate) fn new(segment: u32, offset: u32) -> Position {
        Position(u64::from(segment) << 32 | u64::from(offset))
    }

    pub(crate) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn offset(self) -> u32 {
        self.0 as u32
    }
}

/// Why a log cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The caller skipped or repeated a record number.
    #[error("record {first} does not follow record {last}")]
    Gap {
        /// The last record appended.
        last: u64,
        /// The number the caller gave.
        first: u64,
    },
    /// The disk has no room for another segment, or the system no file to give for it. Nothing of the group was written and
    /// what was acknowledged stands: offer the group again later.
    #[error("{wanted} bytes could not be set aside for the log: {cause}")]
    Full {
        /// The size of the segment that could not be had, in bytes.
        wanted: u64,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The group is larger than the log takes at once. Nothing was written.
    #[error("a group of {bytes} bytes exceeds the {limit} bytes that one may have")]
    TooLarge {
        /// Size of the group in bytes, as far as it was read.
        bytes: u64,
        /// The largest group the log takes, in bytes.
        limit: u64,
    },
    /// The disk failed. The log is poisoned from here on.
    #[error("the log cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// The disk failed before, and nothing is tried a second time.
    #[error("the log has failed before and takes nothing more: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },
}
