//! The broker as the simulator drives it: a shard, and what stands between it and the disk.
//!
//! Owns the adapter to the real thing, [`DurableBroker`], and the trait behind which a test puts a broken one. Decides
//! nothing about when things happen: that is the scheduler's.

use std::sync::Arc;

use causeway_core::{Limits, Lsn, Millis, PendingGroup, Shard};
use causeway_storage::disk::Disk;
use causeway_storage::{Log, LogError, LogOptions, Position, RecoverError, SegmentedLog};

/// A broker that can be started on a disk, used, and killed at any time.
pub trait Broker {
    /// Starts on what the disk holds: opens the log, replays it, ends the connections of the earlier run. Returns the
    /// number of the last record that was found, zero where there is none.
    ///
    /// # Errors
    /// [`StartError`] where the broker refuses to start.
    fn start(&mut self, disk: Arc<dyn Disk>, now: Millis) -> Result<u64, StartError>;

    /// The process is gone, and all its memory with it.
    fn stop(&mut self);

    /// The state machine of a broker that was started.
    fn shard(&mut self) -> &mut Shard;

    /// Takes the records that gathered and appends them to the log. Returns the number of the last one appended, if
    /// there was any.
    ///
    /// # Errors
    /// [`LogError::Full`] where there was no room; call again later. Any other means that the broker stops.
    fn append(&mut self) -> Result<Option<u64>, LogError>;

    /// Syncs the log; the number of the last durable record.
    ///
    /// # Errors
    /// The broker stops.
    fn sync(&mut self) -> Result<u64, LogError>;

    /// Tells the shard what the last sync made durable.
    fn tell(&mut self, now: Millis);

    /// Where records lie that were appended since the start, with their numbers.
    fn positions(&self) -> &[(u64, Position)];
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be opened or read.
    #[error(transparent)]
    Log(#[from] RecoverError),
    /// A record was read that the shard does not take.
    #[error("record {lsn}: {error}")]
    Record {
        /// Its number.
        lsn: u64,
        /// What the shard says.
        error: causeway_core::RecordError,
    },
}

/// The shard of `causeway-core` on the log of `causeway-storage`.
#[derive(Debug)]
pub struct DurableBroker {
    limits: Arc<Limits>,
    options: LogOptions,
    run: Option<Run>,
    positions: Vec<(u64, Position)>,
    before_replay: BeforeReplay,
}

/// What [`DurableBroker::broken`] does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// What it should.
    Once,
    /// Applies it twice.
    Twice,
    /// Forgets it.
    Never,
}

/// Decides about a record from its number, that of the last one, and its bytes.
pub type BeforeReplay = fn(u64, u64, &[u8]) -> Replayed;

#[derive(Debug)]
struct Run {
    shard: Shard,
    log: SegmentedLog,
    /// Taken from the shard and not yet in the log, because the disk was full.
    taken: Option<PendingGroup>,
    durable: u64,
}

impl DurableBroker {
    /// A broker that is not running.
    pub fn new(limits: Arc<Limits>, options: LogOptions) -> DurableBroker {
        DurableBroker::broken(limits, options, |_, _, _| Replayed::Once)
    }

    /// A broker whose replay goes wrong as `before_replay` has it, to prove that this is found.
    pub fn broken(limits: Arc<Limits>, options: LogOptions, before_replay: BeforeReplay) -> DurableBroker {
        DurableBroker { limits, options, run: None, positions: Vec::new(), before_replay }
    }

    fn run(&mut self) -> &mut Run {
        match &mut self.run {
            Some(run) => run,
            None => unreachable!("the scheduler uses a broker only between start and stop"),
        }
    }
}

/// Hard to guess is not needed here, the same in every run is.
const HASH_SEED: u64 = 42;

impl Broker for DurableBroker {
    fn start(&mut self, disk: Arc<dyn Disk>, now: Millis) -> Result<u64, StartError> {
        self.run = None;
        self.positions.clear();
        let log = SegmentedLog::open_on(disk, self.options.clone())?;
        let mut shard = Shard::new(now, Arc::clone(&self.limits), "sim", HASH_SEED);
        let last = log.next().map_or(0, |next| next - 1);
        let (positions, before_replay) = (&mut self.positions, self.before_replay);
        log.recover(log.first().unwrap_or(1), |record| {
            positions.push((record.lsn, record.position));
            let times = match before_replay(record.lsn, last, record.bytes) {
                Replayed::Once => 1,
                Replayed::Twice => 2,
                Replayed::Never => 0,
            };
            for _ in 0..times {
                let applied = shard.replay(Lsn(record.lsn), record.bytes);
                applied.map_err(|error| StartError::Record { lsn: record.lsn, error })?;
            }
            Ok::<(), StartError>(())
        })?;
        shard.recovered(now);
        self.run = Some(Run { shard, log, taken: None, durable: last });
        Ok(last)
    }

    fn stop(&mut self) {
        self.run = None;
    }

    fn shard(&mut self) -> &mut Shard {
        &mut self.run().shard
    }

    fn append(&mut self) -> Result<Option<u64>, LogError> {
        let mut positions = std::mem::take(&mut self.positions);
        let run = self.run();
        if run.taken.is_none() {
            run.taken = run.shard.take_group();
        }
        let Some(group) = &run.taken else {
            self.positions = positions;
            return Ok(None);
        };
        let last = group.last().0;
        let place = &mut |lsn, position| positions.push((lsn, position));
        let outcome = run.log.append_placed(group.first().0, &mut group.iter(), place);
        if outcome.is_ok() {
            run.taken = None;
        }
        self.positions = positions;
        outcome.map(|()| Some(last))
    }

    fn sync(&mut self) -> Result<u64, LogError> {
        let run = self.run();
        run.durable = run.log.sync()?;
        Ok(run.durable)
    }

    fn tell(&mut self, now: Millis) {
        let run = self.run();
        run.shard.persisted(now, Lsn(run.durable));
    }

    fn positions(&self) -> &[(u64, Position)] {
        &self.positions
    }
}
