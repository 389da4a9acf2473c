//! From the disk back to the shard, before anybody is served.
//!
//! Owns the order: open, take up the folded state, replay what the log has behind it, and what is said meanwhile. What an entry or a
//! record means is the shard's business.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_core::history::HISTORY;
use causeway_core::{Lsn, RecordError, Shard};
use causeway_storage::{BodyReader, Log, LogStats, RecoverError, SegmentedLog, ShardStore, StateError, StateStore};

use crate::data_directory::{ShardDirectory, StorageError};

/// A recovery that takes longer says so, this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// The clock is read once for so many records.
const RECORDS_PER_CHECK: u64 = 4096;
/// A folded state that takes more than this many times what is in it is copied at the start,
const COMPACT_FACTOR: u64 = 4;
/// if that gives more than this back.
const COMPACT_BYTES_MIN: u64 = 64 << 20;

/// What a shard has on disk, once it has been taken up.
pub(super) struct Recovered {
    pub(super) log: SegmentedLog,
    pub(super) state: Arc<dyn StateStore>,
    pub(super) bodies: BodyReader,
    /// Messages in the folded state that nobody is owed any more.
    pub(super) dead: Vec<Lsn>,
}

/// Opens what the shard has, and gives it back to it. `is_wanted` is asked now and then whether to go on.
///
/// # Errors
/// The log or the state cannot be read, or makes no sense; then the shard is of no use.
pub(super) fn recover(
    directory: &ShardDirectory,
    shard: &mut Shard,
    is_wanted: impl Fn() -> bool,
) -> Result<Recovered, StorageError> {
    let started = Instant::now();
    let ShardStore { log, state, bodies, mark } = directory.open_store()?;
    let (folder, stats) = (directory.folder(), log.stats());
    if let Some(repair) = log.repair() {
        tracing::warn!(target: "causeway::log", file = repair.file, offset = repair.offset, bytes = repair.bytes,
            "the end of the log was torn and is cleaned away: a crash or a power cut leaves it so, and nothing there says that any of it had \
             been acknowledged. After an orderly stop, it is damage");
    }
    let mut progress = Progress { stats: &stats, next_line: started + PROGRESS_INTERVAL, records: 0, entries: 0 };
    shard.read_bodies_from_log();
    let recovered = (|| {
        restore(shard, state.as_ref(), &mut progress, &is_wanted)?;
        if let Some(mark) = mark {
            shard.restored(Lsn(mark.applied), Lsn(mark.through));
        }
        let from = mark.map_or(1, |mark| mark.applied + 1);
        let records = log.recover(from, |record| {
            progress.records += 1;
            if progress.is_due() && !is_wanted() {
                return Err(Stopped::Abandoned);
            }
            shard.replay(Lsn(record.lsn), record.bytes).map_err(|error| Stopped::Record(record.lsn, error))
        })?;
        shard.bodies_moved(Lsn(stats.first.unwrap_or(0)));
        let (dead, body_bytes) = dead_bodies(shard, state.as_ref())?;
        compact(state.as_ref(), body_bytes)?;
        Ok((records, dead))
    })();
    let (records, dead) = recovered.map_err(|stopped| match stopped {
        Stopped::Log(source) => StorageError::Log { folder: folder.clone(), source },
        Stopped::State(source) => StorageError::State { folder: folder.clone(), source },
        Stopped::Record(lsn, source) => StorageError::Record { folder: folder.clone(), lsn, source },
        Stopped::Entry(source) => StorageError::Entry { folder: folder.clone(), source },
        Stopped::Abandoned => StorageError::Abandoned,
    })?;
    let (entries, milliseconds) = (progress.entries, started.elapsed().as_millis() as u64);
    tracing::info!(target: "causeway::log", folder = %folder.display(), entries, records, segments = stats.segments.len(),
        bytes = stats.bytes_on_disk, milliseconds, "the log is replayed; {}", log.describe());
    Ok(Recovered { log, state, bodies, dead })
}

/// Gives the shard its folded state back. History is no part of it, and stays where it is.
fn restore(
    shard: &mut Shard,
    state: &dyn StateStore,
    progress: &mut Progress<'_>,
    is_wanted: &impl Fn() -> bool,
) -> Result<(), Stopped> {
    let mut stopped = None;
    state.entries(&mut |key, value| {
        if key.first() >= Some(&HISTORY) {
            return ControlFlow::Break(());
        }
        progress.entries += 1;
        if progress.is_due() && !is_wanted() {
            stopped = Some(Stopped::Abandoned);
        } else if let Err(error) = shard.restore(key, value) {
            stopped = Some(Stopped::Entry(error));
        }
        if stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    stopped.map_or(Ok(()), Err)
}

/// The messages in the folded state that nobody is owed, and the bytes of all others.
fn dead_bodies(shard: &Shard, state: &dyn StateStore) -> Result<(Vec<Lsn>, u64), StateError> {
    let (mut dead, mut living_bytes) = (Vec::new(), 0);
    state.bodies(&mut |lsn, bytes| {
        match shard.is_live(Lsn(lsn)) {
            true => living_bytes += bytes,
            false => dead.push(Lsn(lsn)),
        }
        ControlFlow::Continue(())
    })?;
    Ok((dead, living_bytes))
}

/// Gives room back that the folded state once needed, if that is much.
fn compact(state: &dyn StateStore, body_bytes: u64) -> Result<(), StateError> {
    let bytes = state.bytes_on_disk()?;
    if bytes <= COMPACT_BYTES_MIN || bytes <= (state.entry_bytes()? + body_bytes) * COMPACT_FACTOR + COMPACT_BYTES_MIN {
        return Ok(());
    }
    match state.compact() {
        Ok(()) => {
            let now = state.bytes_on_disk()?;
            tracing::info!(target: "causeway::log", before = bytes, now, "the folded state was copied into a smaller file");
        }
        // It stays as it is.
        Err(error) => tracing::warn!(target: "causeway::log", %error, "the folded state could not be made smaller"),
    }
    Ok(())
}

/// Why a recovery ended early.
enum Stopped {
    Log(RecoverError),
    State(StateError),
    Record(u64, RecordError),
    Entry(RecordError),
    Abandoned,
}

impl From<RecoverError> for Stopped {
    fn from(error: RecoverError) -> Stopped {
        Stopped::Log(error)
    }
}

impl From<StateError> for Stopped {
    fn from(error: StateError) -> Stopped {
        Stopped::State(error)
    }
}

struct Progress<'a> {
    stats: &'a LogStats,
    next_line: Instant,
    records: u64,
    entries: u64,
}

impl Progress<'_> {
    /// True now and then. Says how far the recovery is, if it takes long.
    fn is_due(&mut self) -> bool {
        if !(self.records + self.entries).is_multiple_of(RECORDS_PER_CHECK) {
            return false;
        }
        let now = Instant::now();
        if now >= self.next_line {
            self.next_line = now + PROGRESS_INTERVAL;
            let of = self.stats.next.unwrap_or(0) - self.stats.first.unwrap_or(0);
            tracing::info!(target: "causeway::log", entries = self.entries, records = self.records, of, "replaying the log");
        }
        true
    }
}
