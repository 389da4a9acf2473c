//! From the log on disk back to the shard, before anybody is served.
//!
//! Owns the order: open, replay, and what is said meanwhile. What a record means is the shard's business.

use std::time::{Duration, Instant};

use causeway_core::{Lsn, Shard};
use causeway_storage::{Log, LogStats, RecoverError, SegmentedLog};

use crate::data_directory::{DataDirectory, StorageError};

/// A recovery that takes longer says so, this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// The clock is read once for so many records.
const RECORDS_PER_CHECK: u64 = 4096;

/// Opens the log and replays all of it. `is_wanted` is asked now and then whether to go on.
///
/// # Errors
/// The log cannot be read, or its records make no sense; then the shard is of no use.
pub(super) fn recover(
    directory: &DataDirectory,
    shard: &mut Shard,
    is_wanted: impl Fn() -> bool,
) -> Result<SegmentedLog, StorageError> {
    let started = Instant::now();
    let log = directory.open_log()?;
    let (folder, stats) = (directory.shard(), log.stats());
    if let Some(repair) = log.repair() {
        tracing::warn!(target: "causeway::log", file = repair.file, offset = repair.offset, bytes = repair.bytes,
            "the end of the log was torn, as a crash leaves it, and is cleaned away: nothing of it had been acknowledged");
    }
    let mut progress = Progress { stats: &stats, next_line: started + PROGRESS_INTERVAL, records: 0 };
    let replayed = log.recover(stats.first.unwrap_or(0), |record| {
        if progress.is_due() && !is_wanted() {
            return Err(Stopped::Abandoned);
        }
        shard.replay(Lsn(record.lsn), record.bytes).map_err(|error| Stopped::Record(record.lsn, error))
    });
    let records = replayed.map_err(|stopped| match stopped {
        Stopped::Log(source) => StorageError::Log { folder: folder.clone(), source },
        Stopped::Record(lsn, source) => StorageError::Record { folder: folder.clone(), lsn, source },
        Stopped::Abandoned => StorageError::Abandoned,
    })?;
    let milliseconds = started.elapsed().as_millis() as u64;
    tracing::info!(target: "causeway::log", folder = %folder.display(), records, segments = stats.segments.len(),
        bytes = stats.bytes_on_disk, milliseconds, "the log is replayed; {}", log.describe());
    Ok(log)
}

/// Why a replay ended early.
enum Stopped {
    Log(RecoverError),
    Record(u64, causeway_core::RecordError),
    Abandoned,
}

impl From<RecoverError> for Stopped {
    fn from(error: RecoverError) -> Stopped {
        Stopped::Log(error)
    }
}

struct Progress<'a> {
    stats: &'a LogStats,
    next_line: Instant,
    records: u64,
}

impl Progress<'_> {
    /// Counts a record; true now and then. Says how far the replay is, if it takes long.
    fn is_due(&mut self) -> bool {
        self.records += 1;
        if !self.records.is_multiple_of(RECORDS_PER_CHECK) {
            return false;
        }
        let now = Instant::now();
        if now >= self.next_line {
            self.next_line = now + PROGRESS_INTERVAL;
            let of = self.stats.next.unwrap_or(0) - self.stats.first.unwrap_or(0);
            tracing::info!(target: "causeway::log", records = self.records, of, "replaying the log");
        }
        true
    }
}
