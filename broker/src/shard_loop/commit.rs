//! Where the shard's records go, and when they count as durable.
//!
//! Owns the choice: a log on disk has a thread of its own, one that keeps nothing is called in line. It also owns how much
//! may wait for the disk.

use std::task::Waker;

use causeway_core::{Lsn, PendingGroup};
use causeway_storage::{Log, LogError, VolatileLog};

use super::writer::Writer;

/// With so many bytes not yet durable, nothing more is read from clients: whatever the disk does, this is all that waits.
pub(super) const UNSYNCED_BYTES_MAX: u64 = 16 << 20;
/// Once no more than this is left, reading goes on.
const UNSYNCED_BYTES_LOW: u64 = UNSYNCED_BYTES_MAX / 2;

/// See the module.
pub(super) enum Commit {
    /// Nothing is kept.
    InLine(VolatileLog),
    /// The log is on disk.
    Beside(Writer),
}

impl Commit {
    /// Takes records. Returns how far the log is durable now, where that is known at once.
    ///
    /// # Errors
    /// The log failed.
    pub(super) fn submit(&mut self, group: PendingGroup) -> Result<Option<Lsn>, LogError> {
        match self {
            Commit::InLine(log) => {
                log.append(group.first().0, &mut group.iter())?;
                log.sync().map(|durable| Some(Lsn(durable)))
            }
            Commit::Beside(writer) => {
                writer.submit(group);
                Ok(None)
            }
        }
    }

    /// How far the log is durable, if that is news.
    ///
    /// # Errors
    /// The log failed.
    pub(super) fn poll_durable(&mut self) -> Result<Option<Lsn>, LogError> {
        match self {
            Commit::InLine(_) => Ok(None),
            Commit::Beside(writer) => writer.poll_durable(),
        }
    }

    /// Whether [`Commit::poll_durable`] may have something to tell.
    pub(super) fn has_news(&self) -> bool {
        matches!(self, Commit::Beside(writer) if writer.has_news())
    }

    /// Whom to wake from now on when there is news.
    pub(super) fn wakes(&self, waker: &Waker) {
        if let Commit::Beside(writer) = self {
            writer.wakes(waker);
        }
    }

    /// The thread of the log, where there is one.
    pub(super) fn writer(&self) -> Option<&Writer> {
        match self {
            Commit::InLine(_) => None,
            Commit::Beside(writer) => Some(writer),
        }
    }

    /// Whether the disk is too far behind for more. `coming` are bytes that were read and not yet handed over.
    pub(super) fn is_behind(&self, coming: u64) -> bool {
        matches!(self, Commit::Beside(writer) if writer.unsynced_bytes() + coming > UNSYNCED_BYTES_MAX)
    }

    /// Whether the disk, once behind, has caught up.
    pub(super) fn has_caught_up(&self) -> bool {
        !matches!(self, Commit::Beside(writer) if writer.unsynced_bytes() > UNSYNCED_BYTES_LOW)
    }

    /// Makes durable what waits, and closes the log.
    ///
    /// # Errors
    /// The log failed.
    pub(super) fn close(&mut self) -> Result<(), LogError> {
        match self {
            Commit::InLine(_) => Ok(()),
            Commit::Beside(writer) => writer.close(),
        }
    }
}
