//! Beginning and removing segments.
//!
//! Owns the order in which files are made, synced and named. Running out of space leaves everything as it was; any other
//! failure is the caller's to poison the log with.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use super::index::SparseIndex;
use super::reader::Segment;
use super::{SegmentedLog, Tail};
use crate::disk::{Disk, DiskFile, is_short_of_resources};
use crate::{LogError, RunId};

/// Files that are no segment yet are called so. Opening a log removes them.
pub(crate) const UNFINISHED_SUFFIX: &str = ".tmp";
const SPARE_NAME: &str = "spare.tmp";
const NEXT_NAME: &str = "next.tmp";
/// Where there is no room for a segment, one of this part of its size is tried.
const SMALLER: u64 = 8;

/// An empty file that will be a segment.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: Arc<dyn DiskFile>,
    name: &'static str,
    pub(crate) size: u64,
}

/// Makes a file of `size` bytes that are set aside and zero.
fn prepare(disk: &dyn Disk, name: &'static str, size: u64) -> io::Result<Prepared> {
    let file = match disk.create(name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(name)?;
            disk.create(name)?
        }
        outcome => outcome?,
    };
    if let Err(error) = file.allocate(size) {
        // It is in the way of nobody: the next attempt or the next start removes it.
        let _ = disk.remove(name);
        return Err(error);
    }
    Ok(Prepared { file, name, size })
}

/// Whether the disk has no room, as opposed to failing.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl SegmentedLog {
    /// Makes room for a group of `group_bytes` that begins with record `first` and does not fit the last segment.
    pub(super) fn make_room(&mut self, first: u64, group_bytes: u64) -> Result<(), LogError> {
        match &self.tail {
            Some(tail) if tail.segment.header.first == first => self.grow(tail.end + group_bytes),
            _ => self.roll(first, group_bytes),
        }
    }

    /// Makes the last segment larger. It has no record yet: another that begins with the same would take its name.
    fn grow(&mut self, bytes: u64) -> Result<(), LogError> {
        let Some(tail) = &self.tail else { return Ok(()) };
        let size = bytes.next_multiple_of(4096);
        match tail.file.allocate(size) {
            Ok(()) => {
                // The sync of the group covers the new size.
                tail.segment.size.store(size, Ordering::Release);
                Ok(())
            }
            Err(cause) if is_full(&cause) => Err(LogError::Full { wanted: size, cause }),
            Err(error) => Err(self.poison("growing a segment", error)),
        }
    }

    /// Makes a new segment the last one, with room for a group of `group_bytes`. Everything before it becomes durable first:
    /// that a segment has a follower proves that it is complete.
    fn roll(&mut self, first: u64, group_bytes: u64) -> Result<(), LogError> {
        let wanted = (SEGMENT_HEADER_BYTES + group_bytes).next_multiple_of(4096);
        let prepared = self.set_aside(wanted)?;
        if let Some(tail) = &self.tail
            && self.durable_before < first
        {
            tail.file.sync_data().map_err(|error| self.poison("syncing a full segment", error))?;
        }
        self.durable_before = first;
        self.begin_segment(first, prepared)?;
        self.refill_spare();
        Ok(())
    }

    /// An empty segment with room for `wanted` bytes at least: a whole one, or on a disk that has no room for that, a small one.
    fn set_aside(&mut self, wanted: u64) -> Result<Prepared, LogError> {
        let whole = self.options.segment_size().max(wanted);
        if let Some(spare) = self.spare.take_if(|spare| spare.size >= whole) {
            return Ok(spare);
        }
        let mut size = whole;
        loop {
            match prepare(self.disk.as_ref(), NEXT_NAME, size) {
                Ok(prepared) => return Ok(prepared),
                // What is still written then is what makes room: acknowledgements, and what lets the state be folded.
                Err(error) if is_full(&error) && size > wanted => {
                    size = (size / SMALLER).next_multiple_of(4096).max(wanted)
                }
                // Nothing was written yet, and nothing is lost: it may be had later.
                Err(cause) if is_full(&cause) || is_short_of_resources(&cause) => {
                    return Err(LogError::Full { wanted, cause });
                }
                Err(error) => return Err(self.poison("setting a segment aside", error)),
            }
        }
    }

    fn begin_segment(&mut self, first: u64, prepared: Prepared) -> Result<(), LogError> {
        let Prepared { file, name, size } = prepared;
        let ordinal = self.tail.as_ref().map_or(0, |tail| tail.segment.header.ordinal + 1);
        let run = *self.run.get_or_insert_with(|| RunId::new(self.disk.as_ref()));
        let kept = if self.tail.is_some() { self.kept } else { first };
        let salt = self.disk.unguessable();
        let (shard, before) = (self.options.shard, self.tail.as_ref().map_or(0, |tail| tail.end));
        let header = SegmentHeader { shard, ordinal, first, salt, run, kept, room: size, before };
        let segment = Arc::new(Segment::new(header, size, SEGMENT_HEADER_BYTES));
        segment.keep_index(SparseIndex::default(), first);
        // The name comes last: a file that has one has a header.
        let named = file
            .write_at(&header.encode(), 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| self.disk.rename(name, &segment_name(first)));
        match named {
            Ok(()) => {}
            Err(cause) if is_full(&cause) => {
                let _ = self.disk.remove(name);
                return Err(LogError::Full { wanted: size, cause });
            }
            Err(error) => return Err(self.poison("beginning a segment", error)),
        }
        self.disk.sync_folder().map_err(|error| self.poison("naming a segment", error))?;
        self.kept = kept;
        self.segments.insert(segment.clone());
        if let Some(full) = self.tail.replace(Tail { segment, file, end: SEGMENT_HEADER_BYTES }) {
            self.trim(&full)?;
        }
        Ok(())
    }

    /// Gives back what a full segment had set aside and did not use. If it is lost with the power, nothing is wrong.
    fn trim(&mut self, full: &Tail) -> Result<(), LogError> {
        full.file.set_size(full.end).map_err(|error| self.poison("trimming a full segment", error))?;
        full.segment.size.store(full.end, Ordering::Release);
        Ok(())
    }

    /// Sets a spare segment aside if one is wanted. That it cannot be had shows in the statistics; the next roll says why.
    pub(super) fn refill_spare(&mut self) {
        if self.options.keep_spare && self.spare.is_none() {
            self.spare = prepare(self.disk.as_ref(), SPARE_NAME, self.options.segment_size()).ok();
        }
    }

    /// Removes the segments that hold nothing from `lsn` on, oldest first. The last one stays.
    pub(super) fn remove_before(&mut self, lsn: u64) -> Result<(), LogError> {
        let segments = self.segments.all();
        let doomed = segments.windows(2).take_while(|pair| pair[1].header.first <= lsn).count();
        let Some(oldest) = segments.get(doomed).filter(|_| doomed > 0) else {
            self.refill_spare();
            return Ok(());
        };
        // Without the note they stay, until a later call finds room for it.
        if !self.write_note(oldest.header.first)? {
            self.refill_spare();
            return Ok(());
        }
        for segment in &segments[..doomed] {
            self.segments.remove(segment.header.ordinal);
            // Each on its own: of two removals the power may spare either, and the older must not outlive the newer.
            self.disk
                .remove(&segment.name)
                .and_then(|()| self.disk.sync_folder())
                .map_err(|error| self.poison("removing a segment", error))?;
        }
        self.refill_spare();
        Ok(())
    }
}
