//! The ways in which opening, replaying and reading a log can go wrong.
//!
//! Owns the errors of reading. Those of writing are [`LogError`](crate::LogError).

use std::io;

use crate::disk::LockError;
use crate::state::StateError;

/// Why a log cannot be opened or replayed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Another process has the log open.
    #[error(transparent)]
    Locked(LockError),
    /// Records that were durable are damaged or missing. Nothing behind the damage was handed out.
    #[error("{file} is damaged at byte {offset}: {detail}")]
    Corrupt {
        /// The segment.
        file: String,
        /// Where the damage begins, in bytes from the segment's begin. Zero where it is about the file as a whole.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The segment was written by a Causeway this one does not know.
    #[error("{file} has format version {version}, which this version of Causeway does not know")]
    Version {
        /// The segment.
        file: String,
        /// The version it claims.
        version: u32,
    },
    /// The segment belongs to another shard.
    #[error("{file} belongs to shard {found}, not to shard {expected}")]
    Shard {
        /// The segment.
        file: String,
        /// The shard it was written for.
        found: u32,
        /// The shard it was opened for.
        expected: u32,
    },
    /// The log does not reach where replay was to begin.
    #[error("replay was to begin with record {from}, but the log holds records {first} to {next} (exclusive)")]
    Missing {
        /// Where replay was to begin.
        from: u64,
        /// The first record there is.
        first: u64,
        /// The number behind the last.
        next: u64,
    },
    /// The disk failed.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl From<LockError> for RecoverError {
    fn from(error: LockError) -> RecoverError {
        match error {
            LockError::Io(error) => RecoverError::Io(error),
            held @ LockError::Held { .. } => RecoverError::Locked(held),
        }
    }
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its segment was removed, or never existed.
    #[error("segment {segment} is no longer kept")]
    Gone {
        /// The ordinal of the segment.
        segment: u32,
    },
    /// What lies there is not a record as it was written.
    #[error("{file} holds no intact record at byte {offset}")]
    Corrupt {
        /// The segment.
        file: String,
        /// The offset in bytes.
        offset: u64,
    },
    /// Its segment is not there, though the log never gave it up.
    #[error("{file} is missing, though the log has not removed it")]
    Missing {
        /// The segment.
        file: String,
    },
    /// The disk failed.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The log does not hold it, and the folded state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What is wrong with a segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged(&'static str),
    Version(u32),
}
