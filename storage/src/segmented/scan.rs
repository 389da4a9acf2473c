//! Walks the groups of a segment, and looks over what lies behind the last intact one.
//!
//! Owns the judgement of what is intact. Reads by offset with bounded memory (a chunk, or the largest record); never writes, and
//! never decides what damage means: `recovery` does.

use std::io;

use super::format::{
    GROUP_ALIGNMENT, GROUP_HEADER_BYTES, GroupHeader, RECORD_HEADER_BYTES, RecordHeader, SegmentKey, padded, u64_at,
};
use crate::disk::ReadAt;

const CHUNK_BYTES: usize = 256 << 10;

/// A place between two groups, and the number that comes next there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) offset: u64,
    pub(crate) lsn: u64,
}

/// How far a walk came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Behind the last intact group.
    pub(crate) end: Cursor,
    /// No group says that what lies from this offset on was durable.
    pub(crate) unproven: u64,
    /// The newest note says that the log holds all records from this one on.
    pub(crate) kept: Option<u64>,
    /// What made the walk stop there; none at the end of the file.
    pub(crate) fault: Option<Fault>,
}

/// The first thing that is not as it was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) offset: u64,
    pub(crate) detail: &'static str,
}

/// Where a record was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lsn: u64,
    /// Where its header begins.
    pub(crate) offset: u64,
    /// Behind the last record of its group, before the padding.
    pub(crate) group_end: u64,
}

/// Takes a record's place and its bytes.
pub(crate) type Visit<'a, E> = dyn FnMut(Place, &[u8]) -> Result<(), E> + 'a;

/// Visits every record from `start` up to the first fault or `limit`, in bytes.
/// The records of a group that turns out torn may have been visited; `end` says that they do not count.
pub(crate) fn walk<R, E>(
    source: &R,
    key: &SegmentKey,
    start: Cursor,
    limit: u64,
    visit: &mut Visit<'_, E>,
) -> Result<Walk, E>
where
    R: ReadAt + ?Sized,
    E: From<io::Error>,
{
    let mut window = Window::new(source, limit, CHUNK_BYTES);
    let mut walk = Walk { end: start, unproven: start.offset, kept: None, fault: None };
    while walk.end.offset < limit {
        match walk_group(&mut window, key, walk.end, visit)? {
            Ok(Group { behind, proves, kept }) => {
                if proves {
                    walk.unproven = walk.end.offset;
                }
                walk.kept = kept.or(walk.kept);
                walk.end = behind;
            }
            Err(fault) => {
                walk.fault = Some(fault);
                break;
            }
        }
    }
    Ok(walk)
}

/// An intact group.
struct Group {
    behind: Cursor,
    /// It says that everything before it was durable: it is the first since a sync.
    proves: bool,
    /// It is a note of what the log holds.
    kept: Option<u64>,
}

fn walk_group<R, E>(
    window: &mut Window<'_, R>,
    key: &SegmentKey,
    at: Cursor,
    visit: &mut Visit<'_, E>,
) -> Result<Result<Group, Fault>, E>
where
    R: ReadAt + ?Sized,
    E: From<io::Error>,
{
    let fault = |offset, detail| Ok(Err(Fault { offset, detail }));
    let header = window.get(at.offset, GROUP_HEADER_BYTES)?.and_then(|bytes| GroupHeader::decode(bytes, key));
    let Some(header) = header else { return fault(at.offset, "no intact group begins here") };
    if header.first != at.lsn || header.durable_before > at.lsn || header.kept.is_some_and(|kept| kept > at.lsn) {
        return fault(at.offset, "the group that begins here is out of order");
    }
    let body_end = at.offset + GROUP_HEADER_BYTES as u64 + u64::from(header.body_bytes);
    let mut offset = at.offset + GROUP_HEADER_BYTES as u64;
    for lsn in at.lsn..at.lsn + u64::from(header.records) {
        let body = offset + RECORD_HEADER_BYTES as u64;
        let record = window.get(offset, RECORD_HEADER_BYTES)?.map(RecordHeader::decode);
        let record = record.filter(|record| body + u64::from(record.bytes) <= body_end);
        let Some(record) = record else { return fault(offset, "a record does not fit its group") };
        match window.get(body, record.bytes as usize)? {
            Some(bytes) if record.fits(key, lsn, bytes) => visit(Place { lsn, offset, group_end: body_end }, bytes)?,
            _ => return fault(offset, "the checksum of a record is wrong"),
        }
        offset = body + u64::from(record.bytes);
    }
    let behind = padded(offset);
    let padding = window.get(offset, (behind - offset) as usize)?;
    if offset != body_end || padding.is_none_or(|padding| padding.iter().any(|byte| *byte != 0)) {
        return fault(offset, "the end of a group is damaged");
    }
    let behind = Cursor { offset: behind, lsn: at.lsn + u64::from(header.records) };
    Ok(Ok(Group { behind, proves: header.durable_before == header.first, kept: header.kept }))
}

/// Where record `lsn` begins, counted on from a record known to lie at `from`. None where something on the way is not as it
/// was written. Looks at headers only: the record itself is not checked.
pub(super) fn seek<R>(window: &mut Window<'_, R>, key: &SegmentKey, from: Place, lsn: u64) -> io::Result<Option<Place>>
where
    R: ReadAt + ?Sized,
{
    let Place { lsn: mut at, mut offset, mut group_end } = from;
    while at <= lsn {
        if offset == group_end {
            let begin = padded(offset);
            let header = window.get(begin, GROUP_HEADER_BYTES)?.and_then(|bytes| GroupHeader::decode(bytes, key));
            let Some(header) = header.filter(|header| header.first == at) else { return Ok(None) };
            offset = begin + GROUP_HEADER_BYTES as u64;
            group_end = offset + u64::from(header.body_bytes);
            continue;
        }
        let record = window.get(offset, RECORD_HEADER_BYTES)?.map(RecordHeader::decode);
        let Some(record) = record.filter(|record| record.lsn_low == at as u32) else { return Ok(None) };
        if at == lsn {
            return Ok(Some(Place { lsn, offset, group_end }));
        }
        offset += RECORD_HEADER_BYTES as u64 + u64::from(record.bytes);
        at += 1;
        if offset > group_end {
            return Ok(None);
        }
    }
    Ok(None)
}

/// What lies behind the last intact group of the last segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    /// A group here says that records from the cursor on had been durable.
    pub(crate) proof: Option<u64>,
    /// Behind the last byte that is not zero, if there is one.
    pub(crate) dirty_end: Option<u64>,
}

/// Looks over everything from `from` to `limit`. The place of a group behind a torn one cannot be known, so every place is
/// tried. A stranger cannot plant a group in a message: it begins with the segment's salt.
pub(crate) fn survey<R>(source: &R, key: &SegmentKey, from: Cursor, limit: u64) -> io::Result<Remains>
where
    R: ReadAt + ?Sized,
{
    let mut window = Window::new(source, limit, CHUNK_BYTES);
    let mut remains = Remains { proof: None, dirty_end: None };
    let zeros = vec![0; CHUNK_BYTES];
    let mut offset = from.offset;
    while offset < limit {
        let count = CHUNK_BYTES.min((limit - offset) as usize);
        let mut suspects = Vec::new();
        {
            let Some(chunk) = window.get(offset, count)? else { break };
            // Most of it is space not used yet, and comparing it with zeros is one memcmp.
            if chunk != &zeros[..count]
                && let Some(last) = chunk.iter().rposition(|byte| *byte != 0)
            {
                remains.dirty_end = Some(offset + last as u64 + 1);
                let words = chunk.chunks_exact(GROUP_ALIGNMENT as usize).enumerate();
                suspects.extend(words.filter(|(_, word)| u64_at(word, 0) == key.salt).map(|(index, _)| index as u64));
            }
        }
        for index in suspects {
            let at = offset + index * GROUP_ALIGNMENT;
            let header = window.get(at, GROUP_HEADER_BYTES)?.and_then(|bytes| GroupHeader::decode(bytes, key));
            if remains.proof.is_none() && header.is_some_and(|header| header.durable_before > from.lsn) {
                remains.proof = Some(at);
            }
        }
        offset += count as u64;
    }
    Ok(remains)
}

/// Part of a file in memory. What lies in it is as it was when it was read.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    /// Only the first `filled` of them are the file's.
    bytes: Vec<u8>,
    filled: usize,
    start: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.filled as u64
    }

    /// Bytes of memory.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// A file, seen through a piece of it.
pub(super) struct Window<'a, R: ?Sized> {
    source: &'a R,
    piece: Piece,
    /// Nothing is read from here on.
    limit: u64,
    /// Read at once, at least: where the piece begins anew, and where it goes on.
    chunk_bytes: usize,
    next_bytes: usize,
}

impl<'a, R: ReadAt + ?Sized> Window<'a, R> {
    pub(super) fn new(source: &'a R, limit: u64, chunk_bytes: usize) -> Window<'a, R> {
        Window::with_piece(source, limit, (chunk_bytes, chunk_bytes), Piece::default())
    }

    /// A window that knows a piece of the same file already.
    pub(super) fn with_piece(
        source: &'a R,
        limit: u64,
        (chunk_bytes, next_bytes): (usize, usize),
        piece: Piece,
    ) -> Window<'a, R> {
        Window { source, piece, limit, chunk_bytes, next_bytes }
    }

    pub(super) fn into_piece(self) -> Piece {
        self.piece
    }

    /// The bytes at `offset`, or none where the file ends before they do.
    pub(super) fn get(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        if offset + count as u64 > self.limit {
            return Ok(None);
        }
        if offset < self.piece.start || offset + count as u64 > self.piece.end() {
            self.fill(offset, count)?;
        }
        let at = (offset - self.piece.start) as usize;
        Ok(self.piece.bytes[..self.piece.filled].get(at..at + count))
    }

    fn fill(&mut self, offset: u64, count: usize) -> io::Result<()> {
        let goes_on = (self.piece.start..=self.piece.end()).contains(&offset);
        let at_once = if goes_on { self.next_bytes } else { self.chunk_bytes };
        let wanted = count.max(at_once).min((self.limit - offset) as usize);
        let Piece { bytes, filled, start } = &mut self.piece;
        (*start, *filled) = (offset, 0);
        if bytes.len() < wanted {
            bytes.resize(wanted, 0);
        }
        while *filled < wanted {
            match self.source.read_at(&mut bytes[*filled..wanted], offset + *filled as u64)? {
                0 => break,
                more => *filled += more,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{GroupBuffer, SegmentHeader};
    use super::*;
    use crate::RunId;

    fn key() -> SegmentKey {
        let (run, salt) = (RunId(1), 0x0123_4567_89AB_CDEF);
        SegmentHeader { shard: 0, ordinal: 0, first: 1, salt, run, kept: 1, room: 0, before: 0 }.key()
    }

    /// Groups of the given sizes (records of the given lengths) from record 1, each after the ones before were durable.
    fn groups(key: &SegmentKey, groups: &[&[usize]]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut begins, mut lsn) = (Vec::new(), Vec::new(), 1);
        for lengths in groups {
            let mut group = GroupBuffer::default();
            group.start(lsn);
            lengths.iter().for_each(|length| group.push(&vec![*length as u8; *length]));
            begins.push(bytes.len());
            bytes.extend_from_slice(group.seal(key, lsn));
            lsn += lengths.len() as u64;
        }
        (bytes, begins)
    }

    fn run(bytes: &[u8], key: &SegmentKey) -> (Vec<u64>, Walk) {
        let mut seen = Vec::new();
        let start = Cursor { offset: 0, lsn: 1 };
        let mut visit = |place: Place, record: &[u8]| {
            assert!(record.iter().all(|byte| usize::from(*byte) == record.len()));
            seen.push(place.lsn);
            Ok::<(), io::Error>(())
        };
        let walk = walk(bytes, key, start, bytes.len() as u64, &mut visit).unwrap();
        (seen, walk)
    }

    #[test]
    fn whole_groups_are_walked_to_the_end_of_the_file() {
        let key = key();
        let (bytes, begins) = groups(&key, &[&[3, 0, 200], &[], &[7]]);
        let (seen, walk) = run(&bytes, &key);
        assert_eq!(seen, [1, 2, 3, 4]);
        let end = Cursor { offset: bytes.len() as u64, lsn: 5 };
        assert_eq!(walk, Walk { end, unproven: begins[2] as u64, kept: None, fault: None });
    }

    #[test]
    fn a_walk_stops_before_any_damage_and_the_groups_behind_are_found() {
        let key = key();
        let (bytes, begins) = groups(&key, &[&[3, 9], &[20], &[5]]);
        for at in begins[1]..begins[2] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let (_, walk) = run(&damaged, &key);
            assert_eq!(walk.end, Cursor { offset: begins[1] as u64, lsn: 3 }, "byte {at}");
            let remains = survey(damaged.as_slice(), &key, walk.end, bytes.len() as u64).unwrap();
            assert_eq!(remains.proof, Some(begins[2] as u64), "byte {at}");
        }
    }

    #[test]
    fn an_intact_group_in_the_wrong_place_is_a_fault() {
        let key = key();
        let (bytes, begins) = groups(&key, &[&[3], &[4]]);
        let twice = [&bytes[..], &bytes[begins[1]..]].concat();
        let (_, walk) = run(&twice, &key);
        assert_eq!(walk.end, Cursor { offset: bytes.len() as u64, lsn: 3 });
        assert_eq!(walk.fault.unwrap().detail, "the group that begins here is out of order");
    }

    #[test]
    fn a_group_behind_damage_that_was_not_durable_proves_nothing() {
        let key = key();
        let (mut bytes, begins) = groups(&key, &[&[3], &[20]]);
        bytes[0] ^= 1;
        // The second group follows the first; it says that record 1 was durable. Record 2 never was.
        let from = |lsn| Cursor { offset: 0, lsn };
        let limit = bytes.len() as u64;
        assert_eq!(survey(bytes.as_slice(), &key, from(1), limit).unwrap().proof, Some(begins[1] as u64));
        assert_eq!(survey(bytes.as_slice(), &key, from(2), limit).unwrap().proof, None);
    }

    #[test]
    fn nothing_but_zeros_is_clean() {
        let remains = survey(vec![0; 1000].as_slice(), &key(), Cursor { offset: 8, lsn: 1 }, 1000).unwrap();
        assert_eq!(remains, Remains { proof: None, dirty_end: None });
        let mut bytes = vec![0; 1000];
        bytes[999] = 1;
        let remains = survey(bytes.as_slice(), &key(), Cursor { offset: 8, lsn: 1 }, 1000).unwrap();
        assert_eq!(remains.dirty_end, Some(1000));
    }
}
