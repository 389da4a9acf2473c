//! How the broker of the simulation folds its state: one step each time the scheduler says so.
//!
//! Owns the order of a fold: slices, a commit once the log is durable far enough, bodies moved out of old segments, and only
//! then the log cut. Chance abandons some of them half done.

use std::sync::Arc;

use causeway_core::{Change, Lsn, Shard};
use causeway_storage::{
    BodyReader, Fold, FoldMark, Log, LogError, SegmentedLog, StateError, StateStore, plan_relocation,
};

/// What a fold did, to see that runs reach it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folded {
    /// Commits.
    pub folds: u64,
    /// Folds that were abandoned or failed.
    pub abandoned: u64,
    /// Bodies moved out of the log.
    pub moved: u64,
    /// Times the log was cut.
    pub cuts: u64,
    /// Bodies read back.
    pub fetched: u64,
}

enum Step {
    Idle,
    Slicing(Box<dyn Fold>),
    AwaitingLog(Box<dyn Fold>, FoldMark),
    Committed(FoldMark),
}

/// See the module.
pub(crate) struct Folding {
    pub(crate) state: Arc<dyn StateStore>,
    pub(crate) bodies: BodyReader,
    step: Step,
    /// Bodies found at the start that nobody is owed.
    pub(crate) dead: Vec<u64>,
    /// Bodies the shard asked for and did not get yet.
    waiting: Vec<Lsn>,
    pub(crate) folded: Folded,
}

impl Folding {
    pub(crate) fn new(state: Arc<dyn StateStore>, bodies: BodyReader) -> Folding {
        let (dead, waiting) = (Vec::new(), Vec::new());
        Folding { state, bodies, step: Step::Idle, dead, waiting, folded: Folded::default() }
    }

    /// The next body that is asked for, in any order, and what the disk has for it. None: nobody asks, or the device failed.
    pub(crate) fn fetch(&mut self, shard: &mut Shard, choice: u64) -> Option<(Lsn, Option<bytes::Bytes>)> {
        while let Some(lsn) = shard.poll_fetch() {
            self.waiting.push(lsn);
        }
        if self.waiting.is_empty() {
            return None;
        }
        let at = choice as usize % self.waiting.len();
        let record = self.bodies.read(self.waiting[at].0).ok()?;
        self.folded.fetched += 1;
        Some((self.waiting.swap_remove(at), record))
    }

    /// One step. The step after the last one of a fold begins the next.
    pub(crate) fn go_on(
        &mut self,
        shard: &mut Shard,
        log: &mut SegmentedLog,
        durable: u64,
        choice: u64,
    ) -> Result<(), LogError> {
        let is_abandoned = choice.is_multiple_of(23);
        self.step = match std::mem::replace(&mut self.step, Step::Idle) {
            Step::Idle if !shard.begin_checkpoint() => Step::Idle,
            Step::Idle => match self.begin() {
                Ok(fold) => Step::Slicing(fold),
                Err(_) => self.give_up(shard),
            },
            Step::Slicing(_) | Step::AwaitingLog(..) if is_abandoned => self.give_up(shard),
            Step::Slicing(fold) => self.slice(shard, fold, 1 + choice as usize % 6),
            Step::AwaitingLog(fold, mark) if durable < mark.through => Step::AwaitingLog(fold, mark),
            Step::AwaitingLog(fold, mark) => match fold.commit(mark) {
                Ok(()) => {
                    shard.checkpoint_ended(true);
                    self.folded.folds += 1;
                    self.dead.clear();
                    Step::Committed(mark)
                }
                Err(_) => self.give_up(shard),
            },
            Step::Committed(mark) => {
                self.make_room(shard, log, mark, choice)?;
                Step::Idle
            }
        };
        Ok(())
    }

    fn begin(&mut self) -> Result<Box<dyn Fold>, StateError> {
        let mut fold = self.state.fold()?;
        for lsn in &self.dead {
            fold.remove_body(*lsn)?;
        }
        Ok(fold)
    }

    fn give_up(&mut self, shard: &mut Shard) -> Step {
        shard.checkpoint_ended(false);
        self.folded.abandoned += 1;
        Step::Idle
    }

    fn slice(&mut self, shard: &mut Shard, mut fold: Box<dyn Fold>, work: usize) -> Step {
        let mut changes = Vec::new();
        let end = shard.poll_checkpoint(work, &mut changes);
        for change in changes {
            if Folding::change(fold.as_mut(), change).is_err() {
                drop(fold);
                return self.give_up(shard);
            }
        }
        match end {
            Some(end) => Step::AwaitingLog(fold, FoldMark { applied: end.applied.0, through: end.through.0 }),
            None => Step::Slicing(fold),
        }
    }

    fn change(fold: &mut dyn Fold, change: Change) -> Result<(), StateError> {
        match change {
            Change::Put { key, value } => fold.put(&key, &value),
            Change::Remove { key } => fold.remove(&key),
            Change::RemoveRange { from, to, entries_max } => fold.remove_range(&from, &to, entries_max).map(drop),
            Change::RemoveBody(lsn) => fold.remove_body(lsn.0),
        }
    }

    /// Gives up segments, in which nothing that lives is left.
    fn make_room(
        &mut self,
        shard: &mut Shard,
        log: &mut SegmentedLog,
        mark: FoldMark,
        choice: u64,
    ) -> Result<(), LogError> {
        let stats = log.stats();
        let Some(first) = stats.first else { return Ok(()) };
        let possible: Vec<u64> =
            stats.segments.iter().map(|segment| segment.next).take_while(|next| *next <= mark.applied + 1).collect();
        let live_bytes = |from: u64, to: u64| shard.live_bytes(Lsn(from), Lsn(to));
        let keep_from = if choice.is_multiple_of(3) {
            let wanted = plan_relocation(&stats, &live_bytes, live_bytes(0, first), 1.2, 0);
            wanted.filter(|wanted| possible.contains(wanted))
        } else {
            // More than is worth it, so that it happens often.
            possible.get((choice / 3) as usize % (possible.len() + 1)).copied()
        };
        let Some(keep_from) = keep_from.filter(|keep_from| *keep_from > first) else { return Ok(()) };
        if self.move_bodies(&shard.live_in(Lsn(first), Lsn(keep_from)), mark).is_err() {
            self.folded.abandoned += 1;
            return Ok(());
        }
        shard.bodies_moved(Lsn(keep_from));
        self.folded.cuts += 1;
        log.truncate_before(keep_from)
    }

    fn move_bodies(&mut self, messages: &[Lsn], mark: FoldMark) -> Result<(), StateError> {
        let mut fold = self.state.fold()?;
        for lsn in messages {
            let body = self.bodies.read(lsn.0).map_err(|error| StateError::Io(std::io::Error::other(error)))?;
            if let Some(body) = body {
                fold.put_body(lsn.0, &body)?;
                self.folded.moved += 1;
            }
        }
        fold.commit(mark)
    }
}
