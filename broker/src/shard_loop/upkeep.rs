//! What a shard with a data directory needs beside its log: messages read back, its state folded, and an eye on the room that is
//! left.
//!
//! Owns the threads for that and, once a turn, what the shard and they have to tell each other. It never waits for them.

use std::io;
use std::sync::Arc;
use std::task::Waker;

use causeway_core::{Change, Lsn, Millis, Shard};
use causeway_storage::{FoldMark, Log, LogStats};

use super::bodies::{Bodies, Fetched};
use super::checkpoint::{Checkpoint, Foldable, LogView, Next};
use super::folding::{Copying, FoldParts, Folding};
use super::recovery::Recovered;
use super::reserve::Reserve;
use super::writer::Writer;
use crate::data_directory::ShardDirectory;
use crate::server::{Backups, LogReport};

/// Bytes that are asked for at the same time. The rest is asked for when they have come: this bounds their memory.
const FETCH_BYTES_MAX: usize = 4 << 20;

/// See the module. Dropping it ends the threads, and waits for that.
pub(super) struct Upkeep {
    bodies: Bodies,
    folding: Folding,
    checkpoint: Checkpoint,
    is_low: bool,
    free_space_floor_bytes: u64,
    report: Arc<LogReport>,
}

impl Upkeep {
    /// Starts the threads, and returns the log beside.
    ///
    /// # Errors
    /// Where the system gives none.
    pub(super) fn start(
        now: Millis,
        recovered: Recovered,
        directory: ShardDirectory,
        report: Arc<LogReport>,
        backups: Option<Arc<Backups>>,
    ) -> io::Result<(Upkeep, Writer)> {
        let Recovered { log, state, bodies, dead } = recovered;
        let free_space_floor_bytes = directory.free_space_floor_bytes();
        // Known before the first backup can be asked for.
        report.durable.set(log.next().map_or(0, |next| next - 1));
        let copying = log.reader().zip(backups).map(|(log, backups)| {
            backups.open(directory.data());
            Copying { log, options: directory.shard_options(), backups }
        });
        let parts = FoldParts {
            state,
            bodies: bodies.clone(),
            report: report.clone(),
            shard: directory.number(),
            folder: directory.folder(),
            free_space_floor_bytes,
            // A piece is less than a segment, so that the log cannot take it for a spare one.
            reserve: Reserve::new(directory.folder(), directory.segment_bytes() / 2),
            copying,
        };
        let checkpoint = Checkpoint::new(now, directory.disk_factor(), directory.segment_bytes(), dead);
        let bodies = Bodies::start(directory.number(), bodies, report.clone())?;
        let folding = Folding::start(parts)?;
        let writer = Writer::start(log, Some(directory), report.clone())?;
        Ok((Upkeep { bodies, folding, checkpoint, is_low: false, free_space_floor_bytes, report }, writer))
    }

    /// Whom to wake from now on when there is news.
    pub(super) fn wakes(&self, waker: &Waker) {
        self.bodies.wakes(waker);
        self.folding.wakes(waker);
    }

    /// Whether a turn has something to do for it.
    pub(super) fn has_news(&self) -> bool {
        self.bodies.has_answers() || self.folding.has_news()
    }

    /// When a turn has something to do for it without news.
    pub(super) fn due(&self) -> Option<Millis> {
        self.checkpoint.due()
    }

    /// Gives the shard what was read, and asks for what it wants next. Whether there was anything.
    pub(super) fn fetch(&mut self, now: Millis, shard: &mut Shard) -> bool {
        let answers = self.bodies.take();
        for Fetched { lsn, record, .. } in &answers {
            shard.fetched(now, *lsn, record.as_deref());
        }
        while self.bodies.bytes_under_way() < FETCH_BYTES_MAX
            && let Some(lsn) = shard.poll_fetch()
        {
            self.bodies.ask(lsn, shard.fetch_bytes(lsn));
        }
        self.bodies.submit();
        !answers.is_empty()
    }

    /// Does a little of what is to be done. Whether there is more at once, as soon as others had their turn.
    pub(super) fn step(&mut self, now: Millis, shard: &mut Shard, writer: &Writer) -> bool {
        self.folding.take_news();
        self.look_for_room(now, shard, writer);
        match self.checkpoint.step(now, shard, &self.folding, writer) {
            Next::Again => true,
            Next::Wait => false,
            Next::Truncate(lsn) => {
                writer.truncate(lsn);
                false
            }
        }
    }

    /// Whether the data directory is not there any more.
    pub(super) fn is_gone(&self) -> bool {
        self.folding.is_gone()
    }

    /// Folds once more, and then never again. A backup that is being made is given up.
    pub(super) fn fold_last(&mut self) {
        self.folding.stop_copying();
        self.checkpoint.fold_last();
    }

    /// Whether the last fold is over.
    pub(super) fn is_over(&self) -> bool {
        self.checkpoint.is_over()
    }

    fn look_for_room(&mut self, now: Millis, shard: &mut Shard, writer: &Writer) {
        let is_low = self.folding.is_low() || writer.is_short();
        if is_low == self.is_low {
            return;
        }
        self.is_low = is_low;
        self.report.set_refusing(is_low);
        shard.storage_low(is_low);
        self.checkpoint.set_low(now, is_low);
        let (free_bytes, floor) = (self.report.free_bytes.get(), self.free_space_floor_bytes);
        if is_low {
            tracing::error!(target: "causeway::log", free_bytes, free_space_floor_bytes = floor,
                "the disk has too little room: new messages of QoS 1 and 2 are refused with 0x97 until there is more. \
                 What is queued goes on to be delivered");
        } else {
            tracing::warn!(target: "causeway::log", free_bytes, free_space_floor_bytes = floor,
                "the disk has room again: messages of QoS 1 and 2 are taken");
        }
    }
}

impl LogView for Writer {
    fn durable(&self) -> Lsn {
        Writer::durable(self)
    }

    fn appended_bytes(&self) -> u64 {
        self.submitted_bytes()
    }

    fn stats(&self) -> Arc<LogStats> {
        Writer::stats(self)
    }
}

impl Foldable for Shard {
    fn begin_checkpoint(&mut self) -> bool {
        Shard::begin_checkpoint(self)
    }

    fn poll_checkpoint(&mut self, work: usize, changes: &mut Vec<Change>) -> Option<FoldMark> {
        let end = Shard::poll_checkpoint(self, work, changes)?;
        Some(FoldMark { applied: end.applied.0, through: end.through.0 })
    }

    fn checkpoint_ended(&mut self, committed: bool) {
        Shard::checkpoint_ended(self, committed);
    }

    fn is_fold_due(&self) -> bool {
        Shard::is_fold_due(self)
    }

    fn live_bytes(&self, from: Lsn, to: Lsn) -> u64 {
        Shard::live_bytes(self, from, to)
    }

    fn live_in(&self, from: Lsn, to: Lsn) -> Vec<Lsn> {
        Shard::live_in(self, from, to)
    }

    fn is_live(&self, lsn: Lsn) -> bool {
        Shard::is_live(self, lsn)
    }

    fn bodies_moved(&mut self, before: Lsn) {
        Shard::bodies_moved(self, before);
    }
}
