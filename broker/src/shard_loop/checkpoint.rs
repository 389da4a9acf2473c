//! When the state is folded, and what of the log may then go.
//!
//! Owns the order, without which messages would be lost: slices of the changes go to the fold's thread; the fold is committed once
//! the log is durable as far as the changes show it; then messages that live in segments to be given up are copied; and only when
//! that is committed, too, the log is cut. A failure at any step leaves everything as it was: it is tried again later, and the
//! log grows meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use causeway_core::{Change, Lsn, Millis};
use causeway_storage::{FoldMark, LogStats, SegmentStats, plan_relocation};

use super::folding::{FoldError, Folding, Job};

/// From the end of a checkpoint to the next, at most.
const INTERVAL_MILLISECONDS: u64 = 30_000;
/// From the start to the first, at most: what was replayed need not be replayed again.
const FIRST_MILLISECONDS: u64 = 2_000;
/// The next one comes before that where the log grew by one segment, or by this, or where the shard says that it is due.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// From the end of a checkpoint to the next, at least.
const GAP_MILLISECONDS: u64 = 100;
/// As long as the disk has too little room.
const LOW_INTERVAL_MILLISECONDS: u64 = 1_000;
/// After a checkpoint that failed.
const RETRY_MILLISECONDS: u64 = 10_000;
/// Entries of one slice, or messages to copy: what a turn of the shard's loop spends on it.
const SLICE: usize = 256;
/// Messages that are copied for one checkpoint, in bytes. At least one segment is given up all the same.
const MOVED_BYTES_MAX: u64 = 64 << 20;
/// With too little room, a segment is given up where no more than this part of it is needed, whatever else the log may take.
const DEAD_FACTOR: u64 = 4;
/// So many segments are no waste: the one that is written, the reserve, and what comes until the next checkpoint.
const SLACK_SEGMENTS: u64 = 4;

/// What is folded.
pub(super) trait Foldable {
    /// Notes what is to be folded. False where nothing changed since the last time.
    fn begin_checkpoint(&mut self) -> bool;
    /// The next changes. Says what the fold stands for, once it has all.
    fn poll_checkpoint(&mut self, work: usize, changes: &mut Vec<Change>) -> Option<FoldMark>;
    /// The fold is durable, or was dropped.
    fn checkpoint_ended(&mut self, committed: bool);
    /// Whether so much waits to be folded that it is due at once.
    fn is_fold_due(&self) -> bool;
    /// Bytes of the messages that are needed, of records `from` to `to` (exclusive).
    fn live_bytes(&self, from: Lsn, to: Lsn) -> u64;
    /// Whether a message is needed.
    fn is_live(&self, lsn: Lsn) -> bool;
    /// All messages that are needed and recorded before this are in the folded state.
    fn bodies_moved(&mut self, before: Lsn);
    /// Their records.
    fn live_in(&self, from: Lsn, to: Lsn) -> Vec<Lsn>;
}

/// What is known of the log.
pub(super) trait LogView {
    /// Everything up to here is durable.
    fn durable(&self) -> Lsn;
    /// Bytes appended since the start.
    fn appended_bytes(&self) -> u64;
    /// What it held a moment ago; it may have grown since.
    fn stats(&self) -> Arc<LogStats>;
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// More, as soon as others had their turn.
    Again,
    /// Nothing before there is news of the log or the fold, or before [`Checkpoint::due`].
    Wait,
    /// The log may give up what is numbered below this. Then as with `Wait`.
    Truncate(Lsn),
}

/// See the module.
pub(super) struct Checkpoint {
    step: Step,
    /// Jobs that are to be handed over before anything else.
    jobs: VecDeque<Job>,
    disk_factor: f64,
    segment_bytes: u64,
    failing: bool,
    /// Whether the disk has too little room.
    is_low: bool,
    /// Messages in the folded state that nobody needs, to be removed by the next fold that is committed.
    dead: Vec<Lsn>,
    /// What the log had when the last fold began.
    appended_bytes: u64,
    last: Last,
}

/// Whether the next fold is the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    No,
    Wanted,
    UnderWay,
    Over,
}

enum Step {
    Idle {
        not_before: Millis,
        at_latest: Millis,
    },
    /// Handing changes over.
    Slicing,
    /// All changes are handed over; the log may not be durable far enough.
    AwaitingLog {
        mark: FoldMark,
    },
    Committing {
        mark: FoldMark,
    },
    /// Copying messages out of what is below `keep_from`.
    Moving {
        messages: Vec<Lsn>,
        /// So many of them are handed over.
        done: usize,
        keep_from: Lsn,
        mark: FoldMark,
    },
    CommittingMoved {
        messages: Vec<Lsn>,
        keep_from: Lsn,
    },
}

impl Checkpoint {
    /// The first one is due a while after `now`. `dead` are messages in the folded state that nobody needs.
    pub(super) fn new(now: Millis, disk_factor: f64, segment_bytes: u64, dead: Vec<Lsn>) -> Checkpoint {
        Checkpoint {
            step: Step::Idle { not_before: now, at_latest: Millis(now.0 + FIRST_MILLISECONDS) },
            jobs: VecDeque::new(),
            disk_factor,
            segment_bytes,
            failing: false,
            is_low: false,
            dead,
            appended_bytes: 0,
            last: Last::No,
        }
    }

    /// Whether the disk has too little room. Then it does not wait with the next one: what is not needed any more is to go.
    pub(super) fn set_low(&mut self, now: Millis, is_low: bool) {
        self.is_low = is_low;
        if is_low && let Step::Idle { not_before, at_latest } = &mut self.step {
            *at_latest = (*not_before).max(now);
        }
    }

    /// Folds once more, and then never again.
    pub(super) fn fold_last(&mut self) {
        self.last = Last::Wanted;
    }

    /// Whether the last fold is over.
    pub(super) fn is_over(&self) -> bool {
        self.last == Last::Over
    }

    /// When something is to be done without news.
    pub(super) fn due(&self) -> Option<Millis> {
        match self.step {
            Step::Idle { at_latest, .. } if self.last == Last::No => Some(at_latest),
            _ => None,
        }
    }

    /// Does one step.
    pub(super) fn step(
        &mut self,
        now: Millis,
        shard: &mut impl Foldable,
        folding: &Folding,
        log: &impl LogView,
    ) -> Next {
        while let Some(job) = self.jobs.pop_front() {
            if let Err(job) = folding.submit(job) {
                self.jobs.push_front(job);
                return Next::Wait;
            }
        }
        match &mut self.step {
            Step::Idle { not_before, at_latest } => {
                let (not_before, at_latest) = (*not_before, *at_latest);
                self.begin(now, not_before, at_latest, shard, log.appended_bytes())
            }
            Step::Slicing => {
                let mut changes = Vec::new();
                let end = shard.poll_checkpoint(SLICE, &mut changes);
                self.dead.extend(changes.iter().filter_map(|change| match change {
                    Change::RemoveBody(lsn) => Some(*lsn),
                    _ => None,
                }));
                self.jobs.push_back(Job::Change(changes));
                match end {
                    Some(mark) => self.go_on(Step::AwaitingLog { mark }),
                    None => Next::Again,
                }
            }
            Step::AwaitingLog { mark } if log.durable().0 < mark.through => Next::Wait,
            Step::AwaitingLog { mark } => {
                let mark = *mark;
                self.jobs.push_back(Job::Commit(mark));
                self.go_on(Step::Committing { mark })
            }
            Step::Committing { mark } => {
                let mark = *mark;
                let Some(outcome) = folding.take_answer() else { return Next::Wait };
                shard.checkpoint_ended(outcome.is_ok());
                match outcome {
                    Ok(()) => {
                        self.dead.clear();
                        self.make_room(now, shard, mark, &log.stats())
                    }
                    Err(error) => self.fail(now, &error),
                }
            }
            Step::Moving { messages, done, .. } if *done < messages.len() => {
                let until = messages.len().min(*done + SLICE);
                self.jobs.push_back(Job::Keep(messages[*done..until].to_vec()));
                *done = until;
                Next::Again
            }
            Step::Moving { messages, keep_from, mark, .. } => {
                let (messages, keep_from) = (std::mem::take(messages), *keep_from);
                self.jobs.push_back(Job::Commit(*mark));
                self.go_on(Step::CommittingMoved { messages, keep_from })
            }
            Step::CommittingMoved { messages, keep_from } => {
                let keep_from = *keep_from;
                match folding.take_answer() {
                    None => Next::Wait,
                    Some(Ok(())) => {
                        // Those that were needed when this began, and are not any more.
                        self.dead.extend(messages.iter().filter(|lsn| !shard.is_live(**lsn)));
                        self.truncate(now, shard, keep_from)
                    }
                    Some(Err(error)) => self.fail(now, &error),
                }
            }
        }
    }

    fn begin(
        &mut self,
        now: Millis,
        not_before: Millis,
        at_latest: Millis,
        shard: &mut impl Foldable,
        appended_bytes: u64,
    ) -> Next {
        let has_grown =
            appended_bytes - self.appended_bytes >= self.segment_bytes.min(GROWTH_BYTES_MAX) || shard.is_fold_due();
        let is_due = match self.last {
            Last::No => now >= at_latest || (has_grown && now >= not_before),
            Last::Wanted => true,
            Last::UnderWay | Last::Over => false,
        };
        if !is_due {
            if has_grown && self.last == Last::No {
                // Nothing may come any more that has it looked at again.
                self.step = Step::Idle { not_before, at_latest: not_before };
            }
            return Next::Wait;
        }
        if self.last == Last::Wanted {
            self.last = Last::UnderWay;
        }
        if !shard.begin_checkpoint() {
            return self.rest(now, INTERVAL_MILLISECONDS);
        }
        self.appended_bytes = appended_bytes;
        if !self.dead.is_empty() {
            self.jobs.push_back(Job::Change(self.dead.iter().map(|lsn| Change::RemoveBody(*lsn)).collect()));
        }
        self.go_on(Step::Slicing)
    }

    /// After a commit: looks for segments to give up.
    fn make_room(&mut self, now: Millis, shard: &mut impl Foldable, mark: FoldMark, stats: &LogStats) -> Next {
        if std::mem::take(&mut self.failing) {
            tracing::info!(target: "causeway::log", "the state is folded again");
        }
        let Some(keep_from) = self.plan(shard, mark, stats) else {
            return self.rest(now, INTERVAL_MILLISECONDS);
        };
        let first = Lsn(stats.first.unwrap_or(0));
        let messages = shard.live_in(first, keep_from);
        match messages.is_empty() {
            true => self.truncate(now, shard, keep_from),
            false => self.go_on(Step::Moving { messages, done: 0, keep_from, mark }),
        }
    }

    /// The first record that the log is to keep, where that is not the first it has.
    fn plan(&self, shard: &impl Foldable, mark: FoldMark, stats: &LogStats) -> Option<Lsn> {
        let live_bytes = |from: u64, to: u64| shard.live_bytes(Lsn(from), Lsn(to));
        let relocated_bytes = live_bytes(0, stats.first?);
        let slack = SLACK_SEGMENTS * self.segment_bytes;
        let planned = plan_relocation(stats, &live_bytes, relocated_bytes, self.disk_factor, slack);
        let wanted = planned.max(self.is_low.then(|| mostly_dead(stats, &live_bytes)).flatten())?;
        // A start replays behind the mark: what is there stays.
        let possible = wanted.min(mark.applied + 1);
        let (mut keep_from, mut moved_bytes) = (stats.first?, 0);
        for segment in stats.segments.iter().take_while(|segment| segment.next <= possible) {
            let live_bytes = live_bytes(segment.first, segment.next);
            if moved_bytes > 0 && moved_bytes + live_bytes > MOVED_BYTES_MAX {
                break;
            }
            moved_bytes += live_bytes;
            keep_from = segment.next;
        }
        (keep_from > stats.first?).then_some(Lsn(keep_from))
    }

    fn go_on(&mut self, step: Step) -> Next {
        self.step = step;
        Next::Again
    }

    fn rest(&mut self, now: Millis, milliseconds: u64) -> Next {
        let milliseconds = if self.is_low { milliseconds.min(LOW_INTERVAL_MILLISECONDS) } else { milliseconds };
        let gap = milliseconds.min(GAP_MILLISECONDS);
        self.step = Step::Idle { not_before: Millis(now.0 + gap), at_latest: Millis(now.0 + milliseconds) };
        match self.last {
            Last::No | Last::Over => Next::Wait,
            Last::Wanted => Next::Again,
            Last::UnderWay => {
                self.last = Last::Over;
                Next::Wait
            }
        }
    }

    fn truncate(&mut self, now: Millis, shard: &mut impl Foldable, keep_from: Lsn) -> Next {
        shard.bodies_moved(keep_from);
        self.rest(now, INTERVAL_MILLISECONDS);
        Next::Truncate(keep_from)
    }

    fn fail(&mut self, now: Millis, error: &FoldError) -> Next {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(target: "causeway::log", %error,
                "the state cannot be folded: nothing is lost, but the log grows, and a start will take longer");
        }
        if matches!(error, FoldError::ReserveGivenUp(_)) {
            // There is room now, and others may take it.
            return self.rest(now, GAP_MILLISECONDS);
        }
        let next = self.rest(now, RETRY_MILLISECONDS);
        if let Step::Idle { not_before, at_latest } = &mut self.step {
            *not_before = *at_latest;
        }
        next
    }
}

/// The end of the oldest segments of which nearly nothing is needed: giving them up makes room at once, and copying takes little.
fn mostly_dead(stats: &LogStats, live_bytes: &dyn Fn(u64, u64) -> u64) -> Option<u64> {
    let is_dead = |segment: &&SegmentStats| live_bytes(segment.first, segment.next) * DEAD_FACTOR <= segment.bytes;
    stats.segments.iter().take_while(is_dead).last().map(|segment| segment.next)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use causeway_storage::fault::{Failure, FaultyDisk};
    use causeway_storage::{Log, LogOptions, SegmentedLog, ShardOptions, ShardStore, StateStore};

    use super::super::folding::FoldParts;
    use super::super::reserve::Reserve;
    use super::*;
    use crate::server::LogReport;

    const SEGMENT_BYTES: u64 = 64 << 10;
    const RECORD_BYTES: usize = 1000;

    /// Messages by record, and how many times the state changed.
    #[derive(Default)]
    struct Fake {
        live: BTreeMap<u64, u64>,
        last: u64,
        folded: u64,
        slices_left: usize,
        is_due: bool,
        ended: Vec<bool>,
        moved_before: u64,
    }

    impl Foldable for Fake {
        fn begin_checkpoint(&mut self) -> bool {
            self.slices_left = 10;
            self.last > self.folded
        }

        fn poll_checkpoint(&mut self, entries_max: usize, changes: &mut Vec<Change>) -> Option<FoldMark> {
            self.slices_left -= 1;
            let entry = |n: usize| Change::Put {
                key: format!("{}/{n}", self.slices_left).into(),
                value: self.last.to_le_bytes().into(),
            };
            changes.extend((0..entries_max).map(entry));
            (self.slices_left == 0).then_some(FoldMark { applied: self.last, through: self.last })
        }

        fn checkpoint_ended(&mut self, committed: bool) {
            self.ended.push(committed);
            if committed {
                self.folded = self.last;
            }
        }

        fn is_fold_due(&self) -> bool {
            self.is_due
        }

        fn live_bytes(&self, from: Lsn, to: Lsn) -> u64 {
            self.live.range(from.0..to.0).map(|(_, bytes)| bytes).sum()
        }

        fn is_live(&self, lsn: Lsn) -> bool {
            self.live.contains_key(&lsn.0)
        }

        fn bodies_moved(&mut self, before: Lsn) {
            self.moved_before = before.0;
        }

        fn live_in(&self, from: Lsn, to: Lsn) -> Vec<Lsn> {
            self.live.range(from.0..to.0).map(|(lsn, _)| Lsn(*lsn)).collect()
        }
    }

    impl LogView for SegmentedLog {
        fn durable(&self) -> Lsn {
            Lsn(SegmentedLog::stats(self).durable_before.saturating_sub(1))
        }

        fn appended_bytes(&self) -> u64 {
            0
        }

        fn stats(&self) -> Arc<LogStats> {
            Arc::new(SegmentedLog::stats(self))
        }
    }

    struct World {
        log: SegmentedLog,
        state: Arc<dyn StateStore>,
        folding: Folding,
        report: Arc<LogReport>,
        shard: Fake,
        checkpoint: Checkpoint,
        now: Millis,
    }

    fn options() -> ShardOptions {
        let log = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::new(0) };
        ShardOptions { log, ..ShardOptions::new(0) }
    }

    fn world(log_disk: &FaultyDisk, state_disk: &FaultyDisk) -> World {
        let store = ShardStore::open_on(Arc::new(log_disk.clone()), Arc::new(state_disk.clone()), options()).unwrap();
        let report = Arc::new(LogReport::default());
        let parts = FoldParts {
            state: store.state.clone(),
            bodies: store.bodies,
            report: report.clone(),
            shard: 0,
            folder: ".".into(),
            free_space_floor_bytes: 0,
            reserve: Reserve::new("missing".into(), 0),
            copying: None,
        };
        World {
            log: store.log,
            state: store.state,
            folding: Folding::start(parts).unwrap(),
            report,
            shard: Fake::default(),
            checkpoint: Checkpoint::new(Millis(0), 2.0, SEGMENT_BYTES, Vec::new()),
            now: Millis(0),
        }
    }

    impl World {
        /// Appends messages, every `every`th of which stays alive.
        fn append(&mut self, count: u64, every: u64) {
            for lsn in self.shard.last + 1..=self.shard.last + count {
                self.log.append(lsn, &mut std::iter::once(body(lsn).as_slice())).unwrap();
                if lsn % every == 0 {
                    self.shard.live.insert(lsn, RECORD_BYTES as u64);
                }
                self.shard.last = lsn;
            }
        }

        /// Until the next checkpoint is over.
        #[track_caller]
        fn checkpoint(&mut self) {
            let started = Instant::now();
            self.now = self.checkpoint.due().unwrap();
            loop {
                match self.checkpoint.step(self.now, &mut self.shard, &self.folding, &self.log) {
                    Next::Again => {}
                    Next::Wait if self.checkpoint.due().is_some() => return,
                    Next::Wait => {
                        assert!(started.elapsed() < Duration::from_secs(20), "it does not end");
                        self.log.sync().unwrap();
                        std::thread::yield_now();
                    }
                    Next::Truncate(lsn) => return self.log.truncate_before(lsn.0).unwrap(),
                }
            }
        }
    }

    fn body(lsn: u64) -> Vec<u8> {
        lsn.to_le_bytes().repeat(RECORD_BYTES / 8)
    }

    #[test]
    fn the_log_stays_short_and_nothing_that_lives_is_lost() {
        let (log_disk, state_disk) = (FaultyDisk::new(1), FaultyDisk::new(2));
        let mut world = world(&log_disk, &state_disk);
        for _ in 0..20 {
            world.append(200, 10);
            world.checkpoint();
        }
        let stats = world.log.stats();
        let budget = 2 * 400 * RECORD_BYTES as u64 + SLACK_SEGMENTS * SEGMENT_BYTES;
        assert!(stats.bytes_on_disk < budget, "{} of {budget}", stats.bytes_on_disk);
        assert!(stats.first > Some(1));
        assert_eq!(Some(world.shard.moved_before), stats.first);
        assert_eq!(world.report.fold_failures.get(), 0);
        assert_eq!(world.shard.ended, vec![true; 20]);

        let World { log, state, folding, shard, .. } = world;
        drop((log, state, folding));
        log_disk.power_cut(3);
        state_disk.power_cut(4);
        let store = ShardStore::open_on(Arc::new(log_disk), Arc::new(state_disk), options()).unwrap();
        assert_eq!(store.mark, Some(FoldMark { applied: 4000, through: 4000 }));
        for lsn in shard.live.keys() {
            assert_eq!(store.bodies.read(*lsn).unwrap().as_deref(), Some(&*body(*lsn)), "record {lsn}");
        }
    }

    #[test]
    fn a_fold_that_fails_is_dropped_and_tried_again() {
        let (log_disk, state_disk) = (FaultyDisk::new(1), FaultyDisk::new(2));
        let mut world = world(&log_disk, &state_disk);
        world.append(500, 10);
        state_disk.fail_after(0, Failure::Full);
        world.checkpoint();
        assert_eq!(world.shard.ended, [false]);
        assert_eq!((world.log.stats().first, world.state.mark().unwrap()), (Some(1), None));
        state_disk.plan_nothing();
        world.checkpoint();
        assert_eq!(world.shard.ended, [false, true]);
        assert!(world.state.mark().unwrap().is_some());
        assert!(world.log.stats().first > Some(1));
    }

    #[test]
    fn a_shard_that_has_much_to_fold_does_not_wait_for_its_time() {
        let mut world = world(&FaultyDisk::new(1), &FaultyDisk::new(2));
        world.append(1, 1);
        let now = Millis(GAP_MILLISECONDS);
        world.checkpoint.step(now, &mut world.shard, &world.folding, &world.log);
        assert!(world.checkpoint.due() > Some(now), "one small message is nothing to hurry for");
        world.shard.is_due = true;
        world.checkpoint.step(now, &mut world.shard, &world.folding, &world.log);
        assert_eq!(world.checkpoint.due(), None, "it has begun");
    }

    #[test]
    fn without_changes_there_is_nothing_to_fold() {
        let mut world = world(&FaultyDisk::new(1), &FaultyDisk::new(2));
        world.checkpoint();
        assert!(world.shard.ended.is_empty());
        assert_eq!(world.checkpoint.due(), Some(Millis(FIRST_MILLISECONDS + INTERVAL_MILLISECONDS)));
    }
}
