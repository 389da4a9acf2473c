//! The segments there are, and reading single records from them while the log goes on.
//!
//! Owns the table of segments and a few open files. Never writes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use super::error::ReadError;
use super::format::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKey, segment_name};
use super::index::SparseIndex;
use super::salvage;
use super::scan::{Cursor, Piece, Place, Window, seek};
use crate::disk::{Disk, DiskFile, ReadAt, is_short_of_resources};
use crate::{Position, RunId};

/// Files kept open for reading. More are opened as they are needed.
const OPEN_FILES_MAX: usize = 16;
/// Read at once, in the hope that the record is no longer.
const FIRST_READ_BYTES: usize = 1024;
/// A record is looked for in pieces of this size, and of that where the one before was not far.
const PIECE_BYTES: usize = 16 << 10;
const NEXT_PIECE_BYTES: usize = 128 << 10;
/// A larger piece, read for a large record, is not kept.
const PIECE_KEPT_BYTES_MAX: usize = 1 << 20;

/// One segment, as all sides know it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) header: SegmentHeader,
    pub(crate) key: SegmentKey,
    /// Bytes set aside on the disk.
    pub(crate) size: AtomicU64,
    /// Nothing is read from here on.
    pub(crate) readable: AtomicU64,
    /// The number behind the last record that can be read.
    pub(crate) next: AtomicU64,
    /// Where some of the records lie. None until somebody has walked the segment.
    index: RwLock<Option<SparseIndex>>,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, size: u64, readable: u64) -> Segment {
        Segment {
            name: segment_name(header.first),
            header,
            key: header.key(),
            size: AtomicU64::new(size),
            readable: AtomicU64::new(readable),
            next: AtomicU64::new(header.first),
            index: RwLock::new(None),
        }
    }

    pub(crate) fn has_index(&self) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Takes the index of a walk that found whole groups up to record `next`.
    pub(crate) fn keep_index(&self, mut index: SparseIndex, next: u64) {
        index.forget_from(next);
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Some(index);
    }

    /// Lets the writer add what it has written. The last segment always has an index.
    pub(crate) fn extend_index(&self, extend: impl FnOnce(&mut SparseIndex)) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        extend(index.get_or_insert_default());
    }

    /// The nearest known place at or before record `lsn`.
    fn nearest(&self, lsn: u64) -> Option<Place> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.as_ref().and_then(|index| index.nearest(lsn))
    }

    /// Where the first group lies.
    fn start(&self) -> Cursor {
        Cursor { offset: SEGMENT_HEADER_BYTES, lsn: self.header.first }
    }

    /// Walks the segment for its index, past what is damaged.
    fn build_index(&self, file: &dyn DiskFile) -> io::Result<()> {
        let mut index = SparseIndex::default();
        let limit = self.readable.load(Ordering::Acquire);
        salvage::places(file, &self.key, self.start(), limit, &mut |place| index.note(place))?;
        self.keep_index(index, self.next.load(Ordering::Acquire));
        Ok(())
    }
}

/// All segments. Shared by the writer, which alone changes it, and the readers.
#[derive(Debug)]
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    by_ordinal: RwLock<BTreeMap<u32, Arc<Segment>>>,
    open: Mutex<VecDeque<(u32, Arc<dyn DiskFile>)>>,
}

impl Segments {
    pub(crate) fn new(disk: Arc<dyn Disk>, segments: Vec<Arc<Segment>>) -> Segments {
        let by_ordinal = segments.into_iter().map(|segment| (segment.header.ordinal, segment)).collect();
        Segments { disk, by_ordinal: RwLock::new(by_ordinal), open: Mutex::default() }
    }

    /// Oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.by_ordinal.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn get(&self, ordinal: u32) -> Option<Arc<Segment>> {
        self.by_ordinal.read().unwrap_or_else(PoisonError::into_inner).get(&ordinal).cloned()
    }

    /// The segment that holds record `lsn`, if any does or could.
    fn holding(&self, lsn: u64) -> Option<Arc<Segment>> {
        let segments = self.by_ordinal.read().unwrap_or_else(PoisonError::into_inner);
        // Newest first: those are read most.
        segments.values().rev().find(|segment| segment.header.first <= lsn).cloned()
    }

    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        let ordinal = segment.header.ordinal;
        self.by_ordinal.write().unwrap_or_else(PoisonError::into_inner).insert(ordinal, segment);
    }

    pub(crate) fn remove(&self, ordinal: u32) {
        self.by_ordinal.write().unwrap_or_else(PoisonError::into_inner).remove(&ordinal);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _)| *of != ordinal);
    }

    /// The segment's file, opened if it is not.
    pub(crate) fn file(&self, segment: &Segment) -> io::Result<Arc<dyn DiskFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(ordinal, _)| *ordinal == segment.header.ordinal) {
            return Ok(file.clone());
        }
        let file = loop {
            match self.disk.open(&segment.name) {
                // One that is open makes room for this one.
                Err(error) if is_short_of_resources(&error) && open.pop_front().is_some() => {}
                outcome => break outcome?,
            }
        };
        if open.len() == OPEN_FILES_MAX {
            open.pop_front();
        }
        open.push_back((segment.header.ordinal, file.clone()));
        Ok(file)
    }
}

/// A record read by its position or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its number.
    pub lsn: u64,
    /// What was appended.
    pub bytes: Bytes,
}

/// What was read around the last record, in the hope that the next one is near: records that are read in the order of their numbers
/// cost far fewer reads.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// The segment, and the last record read.
    last: Option<(u32, Place)>,
    piece: Piece,
}

/// Reads records by position or number, from any thread, while the log goes on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogReader {
    segments: Arc<Segments>,
}

impl LogReader {
    pub(crate) fn new(segments: Arc<Segments>) -> LogReader {
        LogReader { segments }
    }

    /// The record that [`append_placed`](crate::Log::append_placed) or recovery said lies at `position`.
    ///
    /// # Errors
    /// [`ReadError::Gone`] where its segment was removed; [`ReadError::Corrupt`] where its checksum is wrong or no record
    /// begins there; [`ReadError::Missing`]; [`ReadError::Io`].
    pub fn read(&self, position: Position) -> Result<StoredRecord, ReadError> {
        let gone = ReadError::Gone { segment: position.segment() };
        let Some(segment) = self.segments.get(position.segment()) else { return Err(gone) };
        let Some(file) = self.file(&segment)? else { return Err(gone) };
        match read_record(file.as_ref(), &segment, u64::from(position.offset()))? {
            Some(record) => Ok(record),
            None => Err(self.corrupt(&segment, u64::from(position.offset()))),
        }
    }

    /// The record of that number, whether it is durable yet or not. None where the log does not hold it any more, or
    /// not yet.
    ///
    /// In a segment that was not walked since the log was opened, the first read walks it. Damage hides no other records
    /// than those that are damaged.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] where the record is not as it was written; [`ReadError::Missing`] where its segment is not
    /// there, though it was never removed; [`ReadError::Io`].
    pub fn read_lsn(&self, lsn: u64) -> Result<Option<StoredRecord>, ReadError> {
        self.read_lsn_near(lsn, &mut ReadAhead::default())
    }

    /// Likewise, with what an earlier read left.
    ///
    /// # Errors
    /// As [`LogReader::read_lsn`].
    pub fn read_lsn_near(&self, lsn: u64, ahead: &mut ReadAhead) -> Result<Option<StoredRecord>, ReadError> {
        let Some(segment) = self.segments.holding(lsn) else { return Ok(None) };
        if lsn >= segment.next.load(Ordering::Acquire) {
            return Ok(None);
        }
        let Some(file) = self.file(&segment)? else { return Ok(None) };
        if !segment.has_index() {
            segment.build_index(file.as_ref())?;
        }
        let limit = segment.readable.load(Ordering::Acquire);
        if let Some(from) = segment.nearest(lsn)
            && let Some(record) = read_from(file.as_ref(), &segment, (from, limit), lsn, ahead)?
        {
            return Ok(Some(record));
        }
        // The straight way leads into damage.
        match salvage::find(file.as_ref(), &segment.key, segment.start(), lsn, limit)? {
            Ok(offset) => match read_record(file.as_ref(), &segment, offset)? {
                Some(record) if record.lsn == lsn => Ok(Some(record)),
                _ => Err(self.corrupt(&segment, offset)),
            },
            Err(offset) => Err(self.corrupt(&segment, offset)),
        }
    }

    /// The run that the log belongs to, and the numbers of its oldest record and of the one that comes next. None before the
    /// log is begun.
    pub fn bounds(&self) -> Option<(RunId, u64, u64)> {
        let all = self.segments.all();
        let (first, last) = (all.first()?, all.last()?);
        Some((first.header.run, first.header.first, last.next.load(Ordering::Acquire)))
    }

    /// The segment's file. None where the segment was removed meanwhile.
    fn file(&self, segment: &Segment) -> Result<Option<Arc<dyn DiskFile>>, ReadError> {
        match self.segments.file(segment) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The log forgets a segment before it removes its file.
                if self.segments.get(segment.header.ordinal).is_none() {
                    return Ok(None);
                }
                Err(ReadError::Missing { file: self.segments.disk.describe(&segment.name) })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn corrupt(&self, segment: &Segment, offset: u64) -> ReadError {
        ReadError::Corrupt { file: self.segments.disk.describe(&segment.name), offset }
    }
}

/// The record `lsn`, found by walking on from `from` or the last one read, whichever is nearer. None where something on the way, or the
/// record, is not as it was written.
fn read_from(
    file: &dyn DiskFile,
    segment: &Segment,
    (from, limit): (Place, u64),
    lsn: u64,
    ahead: &mut ReadAhead,
) -> io::Result<Option<StoredRecord>> {
    let ordinal = segment.header.ordinal;
    let ReadAhead { last, piece } = std::mem::take(ahead);
    let last = last.filter(|(of, _)| *of == ordinal).map(|(_, place)| place);
    let piece = if last.is_some() { piece } else { Piece::default() };
    let from = last.filter(|place| (from.lsn..=lsn).contains(&place.lsn)).unwrap_or(from);
    let mut window = Window::with_piece(file, limit, (PIECE_BYTES, NEXT_PIECE_BYTES), piece);
    let Some(place) = seek(&mut window, &segment.key, from, lsn)? else { return Ok(None) };
    let body = place.offset + RECORD_HEADER_BYTES as u64;
    let Some(header) = window.get(place.offset, RECORD_HEADER_BYTES)?.map(RecordHeader::decode) else {
        return Ok(None);
    };
    let Some(bytes) = window.get(body, header.bytes as usize)? else { return Ok(None) };
    let record =
        header.fits(&segment.key, lsn, bytes).then(|| StoredRecord { lsn, bytes: Bytes::copy_from_slice(bytes) });
    let piece = window.into_piece();
    if record.is_some() && piece.capacity() <= PIECE_KEPT_BYTES_MAX {
        *ahead = ReadAhead { last: Some((ordinal, place)), piece };
    }
    Ok(record)
}

fn read_record(file: &dyn DiskFile, segment: &Segment, offset: u64) -> io::Result<Option<StoredRecord>> {
    let readable = segment.readable.load(Ordering::Acquire);
    if offset < SEGMENT_HEADER_BYTES || offset + RECORD_HEADER_BYTES as u64 > readable {
        return Ok(None);
    }
    let mut begin = [0; FIRST_READ_BYTES];
    let count = FIRST_READ_BYTES.min((readable - offset) as usize);
    let count = read_up_to(file, &mut begin[..count], offset)?;
    let Some((header, begin)) = begin[..count].split_at_checked(RECORD_HEADER_BYTES) else { return Ok(None) };
    let header = RecordHeader::decode(header);
    let body = offset + RECORD_HEADER_BYTES as u64;
    if body + u64::from(header.bytes) > readable {
        return Ok(None);
    }
    let length = header.bytes as usize;
    let bytes = match begin.get(..length) {
        Some(bytes) => Bytes::copy_from_slice(bytes),
        None => {
            let mut bytes = vec![0; length];
            bytes[..begin.len()].copy_from_slice(begin);
            let rest = read_up_to(file, &mut bytes[begin.len()..], body + begin.len() as u64)?;
            bytes.truncate(begin.len() + rest);
            Bytes::from(bytes)
        }
    };
    let lsn = segment.key.lsn(header.lsn_low);
    Ok(header.fits(&segment.key, lsn, &bytes).then_some(StoredRecord { lsn, bytes }))
}

/// Fills the buffer as far as the file reaches.
pub(crate) fn read_up_to<R: ReadAt + ?Sized>(source: &R, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}
