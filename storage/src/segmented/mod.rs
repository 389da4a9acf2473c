//! The log on disk: a folder of segments, one log for each shard.
//!
//! Owns what is durable. `format` has the bytes (drawn in `docs/storage-format.md`), `scan` walks them, `recovery` opens a folder,
//! `roll` begins and removes segments, `reader` reads single records, `index` finds them by number, and `salvage` around damage. Never
//! looks into a record.
//!
//! # Writing
//! A group of records is one write and one `fdatasync`, into space that was set aside when the segment began, so that a
//! commit changes no file size and cannot run out of space. The disk can be full only when a segment begins, before a byte of the
//! group is written: that is [`LogError::Full`], and the group may be offered again. Any other failure poisons the log.
//!
//! # Telling a torn end from damage
//! After a power cut the end of the last segment may hold anything of what was written since the last sync: all of it, none, or
//! some sectors of it and not others, later ones without earlier ones included. That is normal and must be cleaned away. The same
//! sight among records that had been synced is damage, and must stop the start: they were acknowledged. So the log has to
//! know, of the first record that is not intact, whether it had been durable:
//!
//! - **Every group says which records were durable before a byte of it was written** (`durable_before`). A bad place where record `n`
//!   was expected, and anywhere behind it an intact group with `durable_before > n`: record `n` had been durable, so this is
//!   damage. No such group: nothing proves that it had been, and it is the torn end. A power cut alone never leaves such a proof
//!   behind, because what proves `n` durable is written only after `n` was, and what was durable stays intact.
//! - **After each sync an empty group is written behind the last one** (a *mark*, 40 bytes, not synced), to be overwritten by the
//!   next group. It is the proof for the newest records: without it, damage to the last group of a quiet log would look torn.
//!   What remains unproven is the time until the operating system writes the mark by itself, and only if the power goes then.
//! - **A segment begins only after everything before it was synced.** That it exists is the proof for all before it, so that any fault
//!   in a segment with a follower is damage.
//!
//! Behind a bad place it is unknown where groups begin, so every multiple of 8 is tried. Nothing else passes for a group: it
//! begins with the segment's salt, 64 bits nobody can guess, and has a checksum.
//!
//! # Telling what was removed from what is missing
//! Before segments are removed, a *note* is written and synced that says from which record on the log is whole: a group of its own
//! that stays, because a mark may be torn by the group that overwrites it. Each segment's header repeats it. A log that begins
//! behind its newest note has lost segments. At the other end, a segment becomes shorter than it was made only once it has a follower: a
//! last segment that is shorter has lost its follower, or its end.
//!
//! # Old bytes
//! Before anything is appended after a repair, all that lies behind the end is overwritten with zeros and synced. Without that, a
//! later group torn at the right place could be completed by what is left of an earlier one with the same numbers. The number
//! of a record and the salt of its segment are part of its checksum: bytes of another segment or place never pass.
//!
//! # After a failed sync
//! The kernel may call pages clean that it could not write: a new process would read them, sync nothing, and take them for durable. So
//! opening writes once more what no group proves durable, which is at most what one sync would have covered, and syncs that.
//!
//! # What is assumed of the disk
//! A sector of 512 bytes is written whole or not at all, `fdatasync` means what it says, and what was durable stays as it is, also
//! when the sector around it is written again. Where the disk breaks this, checksums say so.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

mod error;
mod format;
mod index;
mod options;
mod reader;
mod recovery;
mod roll;
mod salvage;
mod scan;

pub use error::{ReadError, RecoverError};
pub use options::{Durability, LogOptions, LogStats, Repair, SegmentStats};
pub(crate) use reader::read_up_to;
pub use reader::{LogReader, ReadAhead, StoredRecord};

use crate::disk::{Disk, DiskFile, FolderLock, RealDisk};
use crate::{Log, LogError, Position, RunId};
use format::{GROUP_HEADER_BYTES, GroupBuffer, GroupHeader, RECORD_HEADER_BYTES};
use reader::{Segment, Segments};
use recovery::Extent;
use roll::Prepared;
use scan::{Cursor, Place};

/// A mark, or a note.
const MARK_BYTES: u64 = GROUP_HEADER_BYTES as u64;
/// Room kept behind the last group: for the mark, and for notes before it, so that a full disk can be relieved.
const END_BYTES: u64 = 4 * MARK_BYTES;
/// The buffer of a larger group is given back.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// One record on its way out of recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub lsn: u64,
    /// Where [`LogReader::read`] finds it.
    pub position: Position,
    /// What was appended.
    pub bytes: &'a [u8],
}

/// The segment that is written to.
#[derive(Debug)]
struct Tail {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    /// The next group goes here.
    end: u64,
}

/// A log in a folder of segments. See the [module](self) for what it promises and why.
#[derive(Debug)]
pub struct SegmentedLog {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    segments: Arc<Segments>,
    tail: Option<Tail>,
    spare: Option<Prepared>,
    /// The number that comes next. None before the first record ever.
    next: Option<u64>,
    /// All records below this survive the power going.
    durable_before: u64,
    /// What the log belongs to. None before it is begun.
    run: Option<RunId>,
    /// All records from this one on are in the log, as the disk has it.
    kept: u64,
    buffer: GroupBuffer,
    poison: Option<Arc<str>>,
    repair: Option<Repair>,
    _lock: Box<dyn FolderLock>,
}

impl SegmentedLog {
    /// Opens the log in the folder at `path`, or begins one. Finds the end, cleans a torn one away, and makes all that is
    /// left durable. Older records are checked by [`recover`](SegmentedLog::recover).
    ///
    /// # Errors
    /// [`RecoverError::Locked`] where another process has it; [`RecoverError::Corrupt`] where durable records of the last
    /// segment, or any segment's header, are damaged; the other variants.
    pub fn open(path: impl Into<PathBuf>, options: LogOptions) -> Result<SegmentedLog, RecoverError> {
        SegmentedLog::open_on(Arc::new(RealDisk::new(path)?), options)
    }

    /// Opens the log on a disk of any kind.
    ///
    /// # Errors
    /// As [`open`](SegmentedLog::open).
    pub fn open_on(disk: Arc<dyn Disk>, options: LogOptions) -> Result<SegmentedLog, RecoverError> {
        SegmentedLog::open_as(disk, options, Extent::Whole)
    }

    /// Opens what is left of a log whose last segment is damaged and was taken away, for looking at it.
    pub(crate) fn open_remainder(disk: Arc<dyn Disk>, options: LogOptions) -> Result<SegmentedLog, RecoverError> {
        SegmentedLog::open_as(disk, options, Extent::Remainder)
    }

    fn open_as(disk: Arc<dyn Disk>, options: LogOptions, extent: Extent) -> Result<SegmentedLog, RecoverError> {
        let lock = disk.lock()?;
        let found = recovery::open_folder(disk.as_ref(), options.shard, extent)?;
        let (tail, next) = match found.tail {
            Some((tail, cursor)) => (Some(tail), Some(cursor.lsn)),
            None => (None, None),
        };
        let mut log = SegmentedLog {
            segments: Arc::new(Segments::new(disk.clone(), found.segments)),
            disk,
            options,
            tail,
            spare: None,
            next,
            durable_before: next.unwrap_or(0),
            run: found.run,
            kept: found.kept,
            buffer: GroupBuffer::default(),
            poison: None,
            repair: found.repair,
            _lock: lock,
        };
        log.write_mark()?;
        log.refill_spare();
        Ok(log)
    }

    /// Begins a log that has no record yet: the first will have the number `first`. A log that is not begun is begun by its first
    /// record, as a run of its own.
    ///
    /// # Errors
    /// [`LogError::Gap`] where it was begun before; [`LogError::Full`]; [`LogError::Io`].
    pub fn begin(&mut self, first: u64, run: RunId) -> Result<(), LogError> {
        self.check_usable()?;
        if let Some(next) = self.next {
            return Err(LogError::Gap { last: next.saturating_sub(1), first });
        }
        self.run = Some(run);
        self.make_room(first, END_BYTES)?;
        self.next = Some(first);
        Ok(())
    }

    /// What the log belongs to. None before it is begun.
    pub fn run(&self) -> Option<RunId> {
        self.run
    }

    /// Hands every record from number `from` on to `visit`, in order, with no more than the largest record in memory.
    /// Returns how many there were. A log to which nothing was ever appended has none, whatever `from` is.
    ///
    /// # Errors
    /// [`RecoverError::Missing`] where the log begins behind `from` or ends before it; [`RecoverError::Corrupt`]
    /// at the first damage: what was visited by then is intact; whatever `visit` returns.
    pub fn recover<E: From<RecoverError>>(
        &self,
        from: u64,
        mut visit: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let (Some(tail), Some(next)) = (&self.tail, self.next) else { return Ok(0) };
        let end = Cursor { offset: tail.end, lsn: next };
        recovery::replay(self.disk.as_ref(), &self.segments, from, end, &mut visit)
    }

    /// The number of the oldest record there is, or would be. None before the first record ever.
    pub fn first(&self) -> Option<u64> {
        self.segments.all().first().map(|segment| segment.header.first)
    }

    /// The number that comes next. None before the first record ever: it may have any.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// What opening had to clean away, for whoever watches the broker start.
    pub fn repair(&self) -> Option<&Repair> {
        self.repair.as_ref()
    }

    /// What the log holds.
    pub fn stats(&self) -> LogStats {
        let all = self.segments.all();
        let next = self.next.unwrap_or(0);
        let behind = |index: usize| all.get(index + 1).map_or(next, |follower| follower.header.first);
        let segments: Vec<SegmentStats> = all
            .iter()
            .enumerate()
            .map(|(index, segment)| SegmentStats {
                ordinal: segment.header.ordinal,
                first: segment.header.first,
                next: behind(index),
                bytes: segment.size.load(Ordering::Acquire),
            })
            .collect();
        let spare = self.spare.as_ref();
        LogStats {
            bytes_on_disk: segments.iter().map(|segment| segment.bytes).sum::<u64>()
                + spare.map_or(0, |spare| spare.size),
            first: segments.first().map(|segment| segment.first),
            next: self.next,
            durable_before: self.durable_before,
            spare: spare.is_some(),
            segments,
        }
    }

    /// Whether a spare segment is set aside, as in [`LogStats::spare`].
    pub fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    fn check_usable(&self) -> Result<(), LogError> {
        match &self.poison {
            Some(cause) => Err(LogError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Nothing is tried a second time after this.
    fn poison(&mut self, doing: &str, error: io::Error) -> LogError {
        let error = io::Error::new(error.kind(), format!("{doing}: {error}"));
        self.poison = Some(error.to_string().into());
        LogError::Io(error)
    }

    /// Gathers the group in memory. Says how many bytes it takes on disk, or that it is too large.
    fn gather(&mut self, first: u64, records: &mut dyn Iterator<Item = &[u8]>) -> Result<u64, LogError> {
        let limit = self.options.group_limit();
        self.buffer.start(first);
        for record in records {
            let bytes = self.buffer.padded_bytes() + RECORD_HEADER_BYTES as u64 + record.len() as u64;
            if bytes > limit {
                self.buffer.shrink(BUFFER_BYTES_MAX);
                return Err(LogError::TooLarge { bytes, limit });
            }
            self.buffer.push(record);
        }
        Ok(self.buffer.padded_bytes())
    }

    fn write_group(&mut self, place: &mut dyn FnMut(u64, Position)) -> Result<(), LogError> {
        let Some(tail) = &mut self.tail else { return Ok(()) };
        let key = tail.segment.key;
        let bytes = self.buffer.seal(&key, self.durable_before);
        if let Err(error) = tail.file.write_at(bytes, tail.end) {
            return Err(self.poison("writing a group", error));
        }
        let begin = tail.end;
        tail.end += bytes.len() as u64;
        tail.segment.readable.store(tail.end, Ordering::Release);
        let ordinal = tail.segment.header.ordinal;
        let group_end = begin + self.buffer.content_bytes();
        tail.segment.extend_index(|index| {
            self.buffer.places(|lsn, at| {
                let offset = begin + at as u64;
                index.note(Place { lsn, offset, group_end });
                place(lsn, Position::new(ordinal, offset as u32));
            });
        });
        // Comes last: whoever sees the number finds the record.
        tail.segment.next.store(self.buffer.next(), Ordering::Release);
        Ok(())
    }

    /// Writes down what is durable, where the next group will overwrite it.
    fn write_mark(&mut self) -> Result<(), io::Error> {
        let (Some(tail), Some(next)) = (&self.tail, self.next) else { return Ok(()) };
        if tail.end + MARK_BYTES > tail.segment.size.load(Ordering::Acquire) {
            return Ok(());
        }
        let durable_before = self.durable_before;
        let mark = GroupHeader { first: next, durable_before, records: 0, body_bytes: 0, kept: None };
        tail.file.write_at(&mark.encode(&tail.segment.key), tail.end)
    }

    /// Writes down, durably, that the log holds all records from `kept` on and that those before may go. False where there is no
    /// room to say so.
    fn write_note(&mut self, kept: u64) -> Result<bool, LogError> {
        let (Some(tail), Some(next)) = (&mut self.tail, self.next) else { return Ok(false) };
        if kept <= self.kept {
            return Ok(true);
        }
        if tail.end + 2 * MARK_BYTES > tail.segment.size.load(Ordering::Acquire) {
            return Ok(false);
        }
        if self.durable_before < next {
            tail.file.sync_data().map_err(|error| self.poison("syncing before a note", error))?;
            self.durable_before = next;
        }
        let Some(tail) = &mut self.tail else { return Ok(false) };
        let note = GroupHeader { first: next, durable_before: next, records: 0, body_bytes: 0, kept: Some(kept) };
        // The mark that may lie here is not needed any more: the note proves the same.
        let written =
            tail.file.write_at(&note.encode(&tail.segment.key), tail.end).and_then(|()| tail.file.sync_data());
        written.map_err(|error| self.poison("writing a note", error))?;
        self.kept = kept;
        if let Some(tail) = &mut self.tail {
            tail.end += MARK_BYTES;
            tail.segment.readable.store(tail.end, Ordering::Release);
        }
        self.write_mark().map_err(|error| self.poison("writing a mark", error))?;
        Ok(true)
    }

    /// Whether a group of so many bytes goes into the last segment, with room for what ends it.
    fn fits(&self, group_bytes: u64) -> bool {
        let fits = |tail: &Tail| tail.end + group_bytes + END_BYTES <= tail.segment.size.load(Ordering::Acquire);
        self.tail.as_ref().is_some_and(fits)
    }

    fn sync_tail(&mut self) -> Result<(), LogError> {
        let (Some(tail), Some(next)) = (&self.tail, self.next) else { return Ok(()) };
        if self.durable_before == next {
            return Ok(());
        }
        tail.file.sync_data().map_err(|error| self.poison("syncing", error))?;
        self.durable_before = next;
        self.write_mark().map_err(|error| self.poison("writing a mark", error))
    }
}

impl Log for SegmentedLog {
    fn append(&mut self, first: u64, records: &mut dyn Iterator<Item = &[u8]>) -> Result<(), LogError> {
        self.append_placed(first, records, &mut |_, _| {})
    }

    fn append_placed(
        &mut self,
        first: u64,
        records: &mut dyn Iterator<Item = &[u8]>,
        place: &mut dyn FnMut(u64, Position),
    ) -> Result<(), LogError> {
        self.check_usable()?;
        if let Some(next) = self.next
            && first != next
        {
            return Err(LogError::Gap { last: next.saturating_sub(1), first });
        }
        let bytes = self.gather(first, records)?;
        let count = u64::from(self.buffer.records());
        if count == 0 {
            return Ok(());
        }
        if !self.fits(bytes) {
            self.make_room(first, bytes + END_BYTES)?;
        }
        self.write_group(place)?;
        self.next = Some(first + count);
        self.buffer.shrink(BUFFER_BYTES_MAX);
        Ok(())
    }

    fn sync(&mut self) -> Result<u64, LogError> {
        self.check_usable()?;
        if self.options.durability == Durability::Fsync {
            self.sync_tail()?;
        }
        Ok(self.next.unwrap_or(0).saturating_sub(1))
    }

    fn truncate_before(&mut self, lsn: u64) -> Result<(), LogError> {
        self.check_usable()?;
        self.remove_before(lsn)
    }

    fn reader(&self) -> Option<LogReader> {
        Some(LogReader::new(self.segments.clone()))
    }

    fn close(&mut self) -> Result<(), LogError> {
        self.check_usable()?;
        self.sync_tail()?;
        let Some(tail) = &self.tail else { return Ok(()) };
        tail.file.sync_data().map_err(|error| self.poison("closing", error))
    }

    fn describe(&self) -> &'static str {
        match self.options.durability {
            Durability::Fsync => {
                "every acknowledged record is on disk: it survives a crash of the process, of the system, and the power going"
            }
            Durability::Os => {
                "records are not synced: a crash of the system or the power going loses messages that were acknowledged"
            }
        }
    }
}
