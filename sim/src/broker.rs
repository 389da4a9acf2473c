//! The broker as the simulator drives it: a shard, and what stands between it and the disk.
//!
//! Owns the adapter to the real thing, [`DurableBroker`], and the trait behind which a test puts a broken one. Decides
//! nothing about when things happen: that is the scheduler's.

use std::ops::ControlFlow;
use std::sync::Arc;

use causeway_core::{Limits, Lsn, Millis, PendingGroup, Shard};
use causeway_storage::disk::Disk;
use causeway_storage::{
    Log, LogError, LogOptions, OpenError, Position, RecoverError, SegmentedLog, ShardOptions, ShardStore, StateError,
};

use crate::committed::CommittedState;
use crate::folding::{Folded, Folding};

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

    /// Reads a body that the shard asks for, which one as `choice` has it, and hands it over. Whether there was any.
    fn fetch(&mut self, now: Millis, choice: u64) -> bool;

    /// Does the next step of folding the state.
    ///
    /// # Errors
    /// The broker stops.
    fn fold(&mut self, choice: u64) -> Result<(), LogError>;

    /// What folding did so far.
    fn folded(&self) -> Folded;

    /// Where records lie that were appended since the start, with their numbers.
    fn positions(&self) -> &[(u64, Position)];
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be opened or read.
    #[error(transparent)]
    Log(#[from] RecoverError),
    /// The log and the folded state cannot be opened, or are not of one run.
    #[error(transparent)]
    Open(OpenError),
    /// The folded state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A record was read that the shard does not take.
    #[error("record {lsn}: {error}")]
    Record {
        /// Its number.
        lsn: u64,
        /// What the shard says.
        error: causeway_core::RecordError,
    },
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> StartError {
        match error {
            OpenError::Log(error) => StartError::Log(error),
            error => StartError::Open(error),
        }
    }
}

/// What a broker keeps besides its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Nothing: bodies stay in memory, and the log stays whole.
    Memory,
    /// A folded state whose commits are whole by nature, which is fast.
    Committed,
    /// A folded state of redb, on the same disk as the log.
    Redb,
}

/// What a broker is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which of the broker's shards it is.
    pub number: u16,
    /// How many there are.
    pub shards: u16,
    /// Its bounds.
    pub limits: Arc<Limits>,
    /// Its log.
    pub log: LogOptions,
    /// And what else.
    pub keeping: Keeping,
}

/// The shard of `causeway-core` on the log of `causeway-storage`.
pub struct DurableBroker {
    setup: Setup,
    run: Option<Run>,
    committed: Option<CommittedState>,
    folded: Folded,
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

struct Run {
    shard: Shard,
    log: SegmentedLog,
    folding: Option<Folding>,
    /// Taken from the shard and not yet in the log, because the disk was full.
    taken: Option<PendingGroup>,
    durable: u64,
}

/// A state that is folded, and what it was made of: applied, and through.
type FoldedSoFar = (Folding, Option<(u64, u64)>);

impl DurableBroker {
    /// A broker that is not running.
    pub fn new(setup: Setup) -> DurableBroker {
        DurableBroker::broken(setup, |_, _, _| Replayed::Once)
    }

    /// A broker whose replay goes wrong as `before_replay` has it, to prove that this is found.
    pub fn broken(setup: Setup, before_replay: BeforeReplay) -> DurableBroker {
        let (committed, folded) = (None, Folded::default());
        DurableBroker { setup, run: None, committed, folded, positions: Vec::new(), before_replay }
    }

    fn open(&mut self, disk: Arc<dyn Disk>) -> Result<(SegmentedLog, Option<FoldedSoFar>), StartError> {
        let options = self.setup.log.clone();
        let store = match self.setup.keeping {
            Keeping::Memory => return Ok((SegmentedLog::open_on(disk, options)?, None)),
            Keeping::Committed => {
                let log = SegmentedLog::open_on(Arc::clone(&disk), options)?;
                let before = self.committed.take();
                let state =
                    before.map_or_else(|| CommittedState::new(Arc::clone(&disk)), |state| state.on(Arc::clone(&disk)));
                self.committed = Some(state.clone());
                ShardStore::join(log, Arc::new(state))?
            }
            Keeping::Redb => {
                let options = ShardOptions { log: options, state_cache_bytes: 1 << 20, ..ShardOptions::new(0) };
                ShardStore::open_on(Arc::clone(&disk), disk, options)?
            }
        };
        let mark = store.mark.map(|mark| (mark.applied, mark.through));
        Ok((store.log, Some((Folding::new(store.state, store.bodies), mark))))
    }

    fn end_run(&mut self) {
        if let Some(Run { folding: Some(folding), .. }) = &self.run {
            let (all, one) = (&mut self.folded, folding.folded);
            all.folds += one.folds;
            all.abandoned += one.abandoned;
            all.moved += one.moved;
            all.cuts += one.cuts;
            all.fetched += one.fetched;
        }
        self.run = None;
    }

    fn run(&mut self) -> &mut Run {
        match &mut self.run {
            Some(run) => run,
            None => unreachable!("the scheduler uses a broker only between start and stop"),
        }
    }
}

/// Hands the shard all entries of the folded state.
fn restore(shard: &mut Shard, folding: &Folding) -> Result<(), StartError> {
    let mut outcome = Ok(());
    folding.state.entries(&mut |key, value| match shard.restore(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            outcome = Err(StartError::Record { lsn: 0, error });
            ControlFlow::Break(())
        }
    })?;
    outcome
}

/// Hard to guess is not needed here, the same in every run is.
const HASH_SEED: u64 = 42;

impl Broker for DurableBroker {
    fn start(&mut self, disk: Arc<dyn Disk>, now: Millis) -> Result<u64, StartError> {
        self.end_run();
        self.positions.clear();
        let (log, folding) = self.open(disk)?;
        let mut shard = Shard::new(now, Arc::clone(&self.setup.limits), "sim", HASH_SEED);
        shard.become_shard(self.setup.number, self.setup.shards);
        let last = log.next().map_or(0, |next| next - 1);
        let mut from = log.first().unwrap_or(1);
        if let Some((folding, mark)) = &folding {
            shard.read_bodies_from_log();
            restore(&mut shard, folding)?;
            if let Some((applied, through)) = *mark {
                shard.restored(Lsn(applied), Lsn(through));
                from = applied + 1;
            }
            shard.bodies_moved(Lsn(log.first().unwrap_or(1)));
        }
        let (positions, before_replay) = (&mut self.positions, self.before_replay);
        log.recover(from, |record| {
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
        let mut folding = folding.map(|(folding, _)| folding);
        if let Some(folding) = &mut folding {
            let mut dead = Vec::new();
            folding.state.bodies(&mut |lsn, _| {
                dead.extend((!shard.is_live(Lsn(lsn))).then_some(lsn));
                ControlFlow::Continue(())
            })?;
            folding.dead = dead;
        }
        self.run = Some(Run { shard, log, folding, taken: None, durable: last });
        Ok(last)
    }

    fn stop(&mut self) {
        self.end_run();
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

    fn fetch(&mut self, now: Millis, choice: u64) -> bool {
        let run = self.run();
        let Some(folding) = &mut run.folding else { return false };
        let Some((lsn, record)) = folding.fetch(&mut run.shard, choice) else { return false };
        run.shard.fetched(now, lsn, record.as_deref());
        true
    }

    fn fold(&mut self, choice: u64) -> Result<(), LogError> {
        let run = self.run();
        match &mut run.folding {
            Some(folding) => folding.go_on(&mut run.shard, &mut run.log, run.durable, choice),
            None => Ok(()),
        }
    }

    fn folded(&self) -> Folded {
        self.folded
    }

    fn positions(&self) -> &[(u64, Position)] {
        &self.positions
    }
}
