//! All that one shard keeps on disk: its log, and the state folded from it.
//!
//! Owns that the two are of one run, and reading a body wherever it is. Never folds and never truncates: the shard's owner does.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, RealDisk};
use crate::state::{FoldMark, RedbState, StateError, StateOptions, StateStore};
use crate::{Log, LogError, LogOptions, LogReader, ReadAhead, ReadError, RecoverError, RunId, SegmentedLog};

/// Where, in the folder of a shard, its log is.
pub const LOG_FOLDER: &str = "log";
/// The state's file within the shard's folder.
const STATE_FILE: &str = "state.redb";

/// What can be chosen about a shard's store.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// For the log. Says the shard, too.
    pub log: LogOptions,
    /// Memory for the folded state, in bytes; see [`StateOptions::cache_bytes`].
    pub state_cache_bytes: usize,
    /// The run the shard begins with, and is refused with another. None: whatever it has.
    pub run: Option<RunId>,
    /// Whether it has begun: then it is refused without a log.
    pub begun: bool,
}

impl ShardOptions {
    /// The log's and the state's defaults.
    pub fn new(shard: u32) -> ShardOptions {
        let (log, state_cache_bytes) = (LogOptions::new(shard), StateOptions::new(shard).cache_bytes);
        ShardOptions { log, state_cache_bytes, run: None, begun: false }
    }
}

/// The log and the folded state of one shard, which belong together. Take it apart: each goes to a thread of its own.
#[derive(Debug)]
pub struct ShardStore {
    /// For the writer.
    pub log: SegmentedLog,
    /// For whoever folds.
    pub state: Arc<dyn StateStore>,
    /// For whoever reads bodies.
    pub bodies: BodyReader,
    /// What the folded state stands for: restore its entries, then replay behind `applied`. None before the first fold: replay all.
    pub mark: Option<FoldMark>,
}

impl ShardStore {
    /// Opens or begins what shard keeps in the folder `path`: `log/` and `state.redb`.
    ///
    /// # Errors
    /// [`OpenError::Log`] and [`OpenError::State`] where one of them does not open; [`OpenError::LogTooShort`],
    /// [`OpenError::LogTooLate`], [`OpenError::NoState`], [`OpenError::NoLog`] and [`OpenError::OtherRun`] where they are not of
    /// one run; [`OpenError::Gone`] and [`OpenError::Foreign`] where they are not what the options say.
    pub fn open(path: impl AsRef<Path>, options: ShardOptions) -> Result<ShardStore, OpenError> {
        let path = path.as_ref();
        let log_disk = RealDisk::new(path.join(LOG_FOLDER)).map_err(RecoverError::Io)?;
        let state_disk = RealDisk::new(path).map_err(StateError::Io)?;
        ShardStore::open_on(Arc::new(log_disk), Arc::new(state_disk), options)
    }

    /// Opens the log on one disk and the state on another, or both on the same.
    ///
    /// # Errors
    /// As [`open`](ShardStore::open).
    pub fn open_on(
        log_disk: Arc<dyn Disk>,
        state_disk: Arc<dyn Disk>,
        options: ShardOptions,
    ) -> Result<ShardStore, OpenError> {
        let shard = options.log.shard;
        // The log comes first: its lock covers the state, and it is begun before the state: a state without a log has lost it.
        let mut log = SegmentedLog::open_on(log_disk.clone(), options.log)?;
        let run = match log.run() {
            Some(run) => check_place(run, options.run)?,
            None if state_disk.names().map_err(StateError::Io)?.iter().any(|name| name == STATE_FILE) => {
                return Err(OpenError::NoLog { folder: log_disk.describe("") });
            }
            None if options.begun => return Err(OpenError::Gone { folder: log_disk.describe("") }),
            None => {
                let run = options.run.unwrap_or_else(|| RunId::new(log_disk.as_ref()));
                log.begin(1, run).map_err(begun)?;
                run
            }
        };
        let cache_bytes = options.state_cache_bytes;
        let state = RedbState::open_on(state_disk, StateOptions { shard, cache_bytes, run: Some(run) })?;
        ShardStore::join(log, Arc::new(state))
    }

    /// Joins a log and a state of any kind, if they are of one run.
    ///
    /// # Errors
    /// [`OpenError::State`] where the state cannot be read; [`OpenError::LogTooShort`], [`OpenError::LogTooLate`],
    /// [`OpenError::NoState`] and [`OpenError::OtherRun`].
    pub fn join(log: SegmentedLog, state: Arc<dyn StateStore>) -> Result<ShardStore, OpenError> {
        let mark = state.mark()?;
        if let (Some(log), Some(state)) = (log.run(), state.run()?)
            && log != state
        {
            return Err(OpenError::OtherRun { log, state });
        }
        check_one_run(mark, log.first(), log.next())?;
        let bodies = BodyReader { log: log.reader(), state: state.clone() };
        Ok(ShardStore { log, state, bodies, mark })
    }
}

/// The run of a log, which must be the one that is expected.
pub(crate) fn check_place(log: RunId, expected: Option<RunId>) -> Result<RunId, OpenError> {
    match expected {
        Some(expected) if expected != log => Err(OpenError::Foreign { log, expected }),
        _ => Ok(log),
    }
}

/// What keeps a log from being begun.
fn begun(error: LogError) -> RecoverError {
    match error {
        LogError::Io(error) | LogError::Full { cause: error, .. } => RecoverError::Io(error),
        error => RecoverError::Io(io::Error::other(error)),
    }
}

/// The log must reach as far as the state shows records, and back to where replay begins.
fn check_one_run(mark: Option<FoldMark>, first: Option<u64>, next: Option<u64>) -> Result<(), OpenError> {
    let (first, next) = (first.unwrap_or(1), next.unwrap_or(1));
    let Some(FoldMark { applied, through }) = mark else {
        return if first > 1 { Err(OpenError::NoState { first }) } else { Ok(()) };
    };
    if next <= through {
        return Err(OpenError::LogTooShort { through, last: next.saturating_sub(1) });
    }
    if first > applied + 1 {
        return Err(OpenError::LogTooLate { from: applied + 1, first });
    }
    Ok(())
}

/// Reads bodies of messages by the number of their record, from any thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BodyReader {
    log: Option<LogReader>,
    state: Arc<dyn StateStore>,
}

impl BodyReader {
    /// The record `lsn` as it was appended: from the log, or from where a fold has kept it. None where neither has it.
    ///
    /// # Errors
    /// Those of [`LogReader::read_lsn`]; [`ReadError::State`].
    pub fn read(&self, lsn: u64) -> Result<Option<Bytes>, ReadError> {
        self.read_near(lsn, &mut ReadAhead::default())
    }

    /// Likewise, with what an earlier read left: in the order of their numbers, records cost few reads.
    ///
    /// # Errors
    /// As [`BodyReader::read`].
    pub fn read_near(&self, lsn: u64, ahead: &mut ReadAhead) -> Result<Option<Bytes>, ReadError> {
        if let Some(log) = &self.log
            && let Some(record) = log.read_lsn_near(lsn, ahead)?
        {
            return Ok(Some(record.bytes));
        }
        // A segment goes only after a fold has kept what lives in it, so nothing falls between the two looks.
        Ok(self.state.body(lsn)?)
    }
}

/// Why a shard's store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log does not open.
    #[error(transparent)]
    Log(#[from] RecoverError),
    /// The folded state does not open.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is a state, and the log has no segment, though it has one from its beginning.
    #[error("the folded state is there, but {folder} holds no segment of the log")]
    NoLog {
        /// The log's folder.
        folder: String,
    },
    /// The shard has begun, and there is neither log nor state.
    #[error("{folder} holds no segment of the log, which was begun")]
    Gone {
        /// The log's folder.
        folder: String,
    },
    /// The shard is not the one that belongs here: it comes from another data directory.
    #[error(
        "the log belongs to run {log}, but the shard of this data directory to run {expected}: it comes from another broker"
    )]
    Foreign {
        /// The run of the log.
        log: RunId,
        /// The run the shard has here.
        expected: RunId,
    },
    /// Log and state were begun apart: one of them comes from another broker.
    #[error("the log belongs to run {log}, but the folded state to run {state}: they come from different brokers")]
    OtherRun {
        /// The run of the log.
        log: RunId,
        /// The run of the state.
        state: RunId,
    },
    /// The log ends before what the state shows: an older log, or a newer state, was put in its place.
    #[error(
        "the folded state shows records up to {through}, but the log ends with record {last}: they are not of one run"
    )]
    LogTooShort {
        /// The last record the state may show.
        through: u64,
        /// The last record of the log; zero where it has none.
        last: u64,
    },
    /// The log begins behind the record that replay needs: an older state, or a newer log, was put in its place.
    #[error(
        "the folded state needs the log from record {from} on, but it begins with {first}: they are not of one run"
    )]
    LogTooLate {
        /// Where replay begins.
        from: u64,
        /// The first record of the log.
        first: u64,
    },
    /// Records were removed from the log because a state had them, and there is no state.
    #[error("the log begins with record {first}, and the folded state that has what was before is missing")]
    NoState {
        /// The first record of the log.
        first: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mark: Option<(u64, u64)>, log: Option<(u64, u64)>) -> Result<(), OpenError> {
        let mark = mark.map(|(applied, through)| FoldMark { applied, through });
        check_one_run(mark, log.map(|(first, _)| first), log.map(|(_, next)| next))
    }

    #[test]
    fn log_and_state_must_meet() {
        assert!(check(None, None).is_ok());
        assert!(check(None, Some((1, 10))).is_ok());
        assert!(check(Some((0, 0)), None).is_ok());
        assert!(check(Some((5, 9)), Some((1, 10))).is_ok());
        assert!(check(Some((5, 9)), Some((6, 10))).is_ok());
        assert!(matches!(check(None, Some((2, 10))), Err(OpenError::NoState { first: 2 })));
        assert!(matches!(check(Some((5, 9)), Some((7, 10))), Err(OpenError::LogTooLate { from: 6, first: 7 })));
        assert!(matches!(check(Some((5, 9)), Some((1, 9))), Err(OpenError::LogTooShort { through: 9, last: 8 })));
        assert!(matches!(check(Some((5, 9)), None), Err(OpenError::LogTooShort { through: 9, last: 0 })));
    }
}
