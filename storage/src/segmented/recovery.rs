//! Opening a folder of segments: which there are, where the log ends, and what of the end has to be cleaned away.
//!
//! Owns the decision between a torn end and damage; the reasons stand in the head of [`segmented`](super). Writes zeros behind the
//! end of the last segment, writes its newest groups once more as they are, and removes unfinished segments; changes nothing else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::{HeaderFault, RecoverError};
use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment_name};
use super::index::SparseIndex;
use super::options::Repair;
use super::reader::{Segment, Segments, read_up_to};
use super::roll::UNFINISHED_SUFFIX;
use super::scan::{Cursor, Place, survey, walk};
use super::{Record, Tail};
use crate::disk::{Disk, DiskFile};
use crate::{Position, RunId};

const CHUNK_BYTES: usize = 256 << 10;

/// What a folder turned out to hold. Everything in it is durable.
pub(crate) struct Found {
    /// Oldest first.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) tail: Option<(Tail, Cursor)>,
    /// The run it belongs to, and from which record on it is whole.
    pub(crate) run: Option<RunId>,
    pub(crate) kept: u64,
    pub(crate) repair: Option<Repair>,
}

/// What a folder is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of the log.
    Whole,
    /// What is left of it without its last segment.
    Remainder,
}

/// Looks through the folder of a shard and leaves it ready for appending.
pub(crate) fn open_folder(disk: &dyn Disk, shard: u32, extent: Extent) -> Result<Found, RecoverError> {
    let mut firsts = Vec::new();
    for name in disk.names()? {
        if name.ends_with(UNFINISHED_SUFFIX) {
            disk.remove(&name)?;
        } else {
            firsts.extend(parse_segment_name(&name).map(|first| (first, name)));
        }
    }
    firsts.sort_unstable();
    let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(firsts.len());
    let mut last_file = None;
    for (first, name) in firsts {
        let file = disk.open(&name)?;
        let segment = open_segment(disk, file.as_ref(), first, &name, shard)?;
        if let Some(before) = segments.last()
            && segment.header.ordinal != before.header.ordinal.wrapping_add(1)
        {
            let detail = format!("a segment between {} and this one is missing", before.name);
            return Err(corrupt(disk, &name, 0, detail));
        }
        if let Some(before) = segments.last()
            && segment.header.run != before.header.run
        {
            let detail =
                format!("the segment belongs to run {}, that before to {}", segment.header.run, before.header.run);
            return Err(corrupt(disk, &name, 0, detail));
        }
        if let Some(before) = segments.last() {
            let size = before.size.load(Ordering::Acquire);
            if size < segment.header.before {
                let detail = format!("the file ends here, but had {} bytes: it was cut short", segment.header.before);
                return Err(corrupt(disk, &before.name, size, detail));
            }
            before.next.store(first, Ordering::Release);
        }
        segments.push(Arc::new(segment));
        last_file = Some(file);
    }
    let mut found = Found { segments, tail: None, run: None, kept: 0, repair: None };
    if let (Some(oldest), Some(segment), Some(file)) = (found.segments.first(), found.segments.last(), last_file) {
        let oldest = (extent == Extent::Whole).then_some(oldest.as_ref());
        let (cursor, kept, repair) = settle_end(disk, file.as_ref(), segment, oldest)?;
        (found.run, found.kept) = (Some(segment.header.run), kept);
        // A process that crashed may have left records and names behind that no sync has covered yet.
        file.sync_data()?;
        segment.readable.store(cursor.offset, Ordering::Release);
        segment.next.store(cursor.lsn, Ordering::Release);
        found.tail = Some((Tail { segment: segment.clone(), file, end: cursor.offset }, cursor));
        found.repair = repair;
    }
    disk.sync_folder()?;
    Ok(found)
}

fn open_segment(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    first: u64,
    name: &str,
    shard: u32,
) -> Result<Segment, RecoverError> {
    let mut page = vec![0; SEGMENT_HEADER_BYTES as usize];
    let count = read_up_to(file, &mut page, 0)?;
    let header = SegmentHeader::decode(&page[..count]).map_err(|fault| match fault {
        HeaderFault::Damaged(detail) => corrupt(disk, name, 0, detail.to_owned()),
        HeaderFault::Version(version) => RecoverError::Version { file: disk.describe(name), version },
    })?;
    if header.first != first {
        return Err(corrupt(disk, name, 0, format!("the segment was written to begin with record {}", header.first)));
    }
    if header.shard != shard {
        return Err(RecoverError::Shard { file: disk.describe(name), found: header.shard, expected: shard });
    }
    let size = file.size()?;
    Ok(Segment::new(header, size, size))
}

/// Finds the end of the last segment and makes everything behind it zero. Says, too, from which record on the log is whole, and
/// checks that it is where the oldest segment is given.
fn settle_end(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    segment: &Segment,
    oldest: Option<&Segment>,
) -> Result<(Cursor, u64, Option<Repair>), RecoverError> {
    let size = segment.size.load(Ordering::Acquire);
    if oldest.is_some() && size < segment.header.room {
        let detail = format!(
            "the file ends here, but was made with {} bytes: it was cut short, or the segment that followed it is missing",
            segment.header.room
        );
        return Err(corrupt(disk, &segment.name, size, detail));
    }
    let start = Cursor { offset: SEGMENT_HEADER_BYTES, lsn: segment.header.first };
    let mut index = SparseIndex::default();
    let mut note = |place: Place, _: &[u8]| {
        index.note(place);
        Ok::<(), io::Error>(())
    };
    let walk = walk(file, &segment.key, start, size, &mut note)?;
    let end = walk.end;
    segment.keep_index(index, end.lsn);
    let remains = survey(file, &segment.key, end, size)?;
    if let Some(proof) = remains.proof {
        let (at, what) = walk.fault.map_or((end.offset, "no group begins here"), |fault| (fault.offset, fault.detail));
        let detail = format!("{what}, though byte {proof} says that record {} was durable", end.lsn);
        return Err(corrupt(disk, &segment.name, at, detail));
    }
    let kept = walk.kept.unwrap_or(segment.header.kept);
    if let Some(oldest) = oldest.filter(|oldest| oldest.header.first > kept) {
        // A damaged note looks the same, but leaves something behind the end.
        if remains.dirty_end.is_some() {
            let detail = "no intact group begins here, though there was one that said what the log holds".to_owned();
            return Err(corrupt(disk, &segment.name, end.offset, detail));
        }
        let detail =
            format!("the segments before this one are missing: the log was to hold all records from {kept} on");
        return Err(corrupt(disk, &oldest.name, 0, detail));
    }
    // An fsync that failed before the last stop may have left pages that are called clean and are not on the disk. Written
    // again, they are synced again.
    write_again(file, walk.unproven, end.offset)?;
    let Some(dirty_end) = remains.dirty_end else { return Ok((end, kept, None)) };
    // What is left of a torn group could complete a later one that is torn in turn. It must be gone before that is written.
    write_zeros(file, end.offset, dirty_end)?;
    let bytes = dirty_end - end.offset;
    let repair = Repair { file: disk.describe(&segment.name), offset: end.offset, bytes, next: end.lsn };
    Ok((end, kept, Some(repair)))
}

fn write_again(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut offset = from;
    while offset < to {
        let wanted = chunk.len().min((to - offset) as usize);
        let count = read_up_to(file, &mut chunk[..wanted], offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(&chunk[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK_BYTES];
    let mut offset = from;
    while offset < to {
        let count = zeros.len().min((to - offset) as usize);
        file.write_at(&zeros[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// Hands every record from `from` on to `visit`, in order, up to `end` of the last segment. Returns how many there were.
pub(crate) fn replay<E: From<RecoverError>>(
    disk: &dyn Disk,
    segments: &Segments,
    from: u64,
    end: Cursor,
    visit: &mut dyn FnMut(Record<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let all = segments.all();
    let first = all.first().map_or(end.lsn, |segment| segment.header.first);
    if from < first || from > end.lsn {
        return Err(RecoverError::Missing { from, first, next: end.lsn }.into());
    }
    let mut records = 0;
    for (index, segment) in all.iter().enumerate() {
        let follower = all.get(index + 1);
        let behind = follower.map_or(end.lsn, |follower| follower.header.first);
        if behind <= from {
            continue;
        }
        let mut index = (!segment.has_index()).then(SparseIndex::default);
        let mut visit_from = |place: Place, bytes: &[u8]| {
            if let Some(index) = &mut index {
                index.note(place);
            }
            if place.lsn < from {
                return Ok(());
            }
            records += 1;
            let position = Position::new(segment.header.ordinal, place.offset as u32);
            visit(Record { lsn: place.lsn, position, bytes }).map_err(Stopped::Visitor)
        };
        let limit = if follower.is_some() { segment.size.load(Ordering::Acquire) } else { end.offset };
        let file = segments.file(segment).map_err(RecoverError::Io)?;
        let start = Cursor { offset: SEGMENT_HEADER_BYTES, lsn: segment.header.first };
        let walk = match walk(file.as_ref(), &segment.key, start, limit, &mut visit_from) {
            Ok(walk) => walk,
            Err(Stopped::Io(error)) => return Err(RecoverError::Io(error).into()),
            Err(Stopped::Visitor(error)) => return Err(error),
        };
        if walk.end.lsn != behind {
            let (at, what) =
                walk.fault.map_or((walk.end.offset, "the file ends"), |fault| (fault.offset, fault.detail));
            let detail = format!("{what}, but records up to {behind} (exclusive) were durable");
            return Err(corrupt(disk, &segment.name, at, detail).into());
        }
        if let Some(index) = index {
            segment.keep_index(index, behind);
        }
    }
    Ok(records)
}

/// Why a walk ended early.
enum Stopped<E> {
    Io(io::Error),
    Visitor(E),
}

impl<E> From<io::Error> for Stopped<E> {
    fn from(error: io::Error) -> Stopped<E> {
        Stopped::Io(error)
    }
}

fn corrupt(disk: &dyn Disk, name: &str, offset: u64, detail: String) -> RecoverError {
    RecoverError::Corrupt { file: disk.describe(name), offset, detail }
}
