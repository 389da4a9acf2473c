//! Finds the records around a damaged place.
//!
//! Owns the ways past damage: the length of a group whose header is intact, the next intact group header, the frame of the record
//! itself. It only says where something may lie: whoever reads there checks it like any other record. Never writes.

use std::io;

use super::format::{
    GROUP_ALIGNMENT, GROUP_HEADER_BYTES, GroupHeader, RECORD_HEADER_BYTES, RecordHeader, SegmentKey, padded, u64_at,
};
use super::scan::{Cursor, Place, Window};
use crate::disk::ReadAt;

const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of bodies that are checked in search of one record, at most: a message may be full of what looks like its frame.
const CHECKED_BYTES_MAX: u64 = 64 << 20;

/// Notes where records lie, in order, from `start` up to `limit`. What cannot be found by headers alone is left out.
pub(crate) fn places<R>(
    source: &R,
    key: &SegmentKey,
    start: Cursor,
    limit: u64,
    note: &mut dyn FnMut(Place),
) -> io::Result<()>
where
    R: ReadAt + ?Sized,
{
    let mut window = Window::new(source, limit, CHUNK_BYTES);
    let mut at = start;
    while let Some(group) = next_group(&mut window, key, at, limit)? {
        follow(&mut window, &group, u64::MAX, note)?;
        at = group.behind();
    }
    Ok(())
}

/// Where record `lsn` lies, or else where the damage begins that hides it.
pub(crate) fn find<R>(source: &R, key: &SegmentKey, start: Cursor, lsn: u64, limit: u64) -> io::Result<Result<u64, u64>>
where
    R: ReadAt + ?Sized,
{
    let mut window = Window::new(source, limit, CHUNK_BYTES);
    let mut at = start;
    loop {
        let group = next_group(&mut window, key, at, limit)?;
        let Some(group) = group.filter(|group| group.header.first <= lsn) else {
            // It lay where no group can be told any more.
            let until = group.map_or(limit, |group| group.offset);
            return Ok(frame(&mut window, key, lsn, at.offset, until)?.ok_or(at.offset));
        };
        if lsn < group.behind().lsn {
            let reached = follow(&mut window, &group, lsn, &mut |_| {})?;
            if fits(&mut window, key, lsn, reached.offset, group.body_end())? {
                return Ok(Ok(reached.offset));
            }
            // The length of a record before it may be wrong.
            let begin = group.offset + GROUP_HEADER_BYTES as u64;
            return Ok(frame(&mut window, key, lsn, begin, group.body_end())?.ok_or(reached.offset));
        }
        at = group.behind();
    }
}

#[derive(Debug, Clone, Copy)]
struct Group {
    header: GroupHeader,
    offset: u64,
}

impl Group {
    fn body_end(&self) -> u64 {
        self.offset + GROUP_HEADER_BYTES as u64 + u64::from(self.header.body_bytes)
    }

    fn behind(&self) -> Cursor {
        Cursor { offset: padded(self.body_end()), lsn: self.header.first + u64::from(self.header.records) }
    }
}

/// The group at `at`, or the next one behind it with an intact header.
fn next_group<R: ReadAt + ?Sized>(
    window: &mut Window<'_, R>,
    key: &SegmentKey,
    at: Cursor,
    limit: u64,
) -> io::Result<Option<Group>> {
    if let Some(header) = header(window, key, at.offset)?.filter(|header| header.first == at.lsn) {
        return Ok(Some(Group { header, offset: at.offset }));
    }
    let mut begin = at.offset;
    while begin < limit {
        let count = CHUNK_BYTES.min((limit - begin) as usize);
        let Some(chunk) = window.get(begin, count)? else { return Ok(None) };
        let words = chunk.chunks_exact(GROUP_ALIGNMENT as usize).enumerate();
        let suspects: Vec<u64> =
            words.filter(|(_, word)| u64_at(word, 0) == key.salt).map(|(index, _)| index as u64).collect();
        for index in suspects {
            let offset = begin + index * GROUP_ALIGNMENT;
            if let Some(header) = header(window, key, offset)?.filter(|header| header.first >= at.lsn) {
                return Ok(Some(Group { header, offset }));
            }
        }
        begin += count as u64;
    }
    Ok(None)
}

fn header<R: ReadAt + ?Sized>(
    window: &mut Window<'_, R>,
    key: &SegmentKey,
    offset: u64,
) -> io::Result<Option<GroupHeader>> {
    Ok(window.get(offset, GROUP_HEADER_BYTES)?.and_then(|bytes| GroupHeader::decode(bytes, key)))
}

/// Follows the lengths of a group's records up to record `lsn`, its end, or where they make no sense. Says how far that was.
fn follow<R: ReadAt + ?Sized>(
    window: &mut Window<'_, R>,
    group: &Group,
    lsn: u64,
    note: &mut dyn FnMut(Place),
) -> io::Result<Cursor> {
    let (group_end, behind) = (group.body_end(), group.behind().lsn);
    let mut at = Cursor { offset: group.offset + GROUP_HEADER_BYTES as u64, lsn: group.header.first };
    while at.lsn < behind {
        let record = window.get(at.offset, RECORD_HEADER_BYTES)?.map(RecordHeader::decode);
        let end = |record: &RecordHeader| at.offset + RECORD_HEADER_BYTES as u64 + u64::from(record.bytes);
        let record = record.filter(|record| record.lsn_low == at.lsn as u32 && end(record) <= group_end);
        let Some(record) = record else { break };
        note(Place { lsn: at.lsn, offset: at.offset, group_end });
        if at.lsn == lsn {
            break;
        }
        at = Cursor { offset: end(&record), lsn: at.lsn + 1 };
    }
    Ok(at)
}

/// Whether record `lsn` lies at `offset`, intact.
fn fits<R: ReadAt + ?Sized>(
    window: &mut Window<'_, R>,
    key: &SegmentKey,
    lsn: u64,
    offset: u64,
    until: u64,
) -> io::Result<bool> {
    let Some(record) = window.get(offset, RECORD_HEADER_BYTES)?.map(RecordHeader::decode) else { return Ok(false) };
    let body = offset + RECORD_HEADER_BYTES as u64;
    if record.lsn_low != lsn as u32 || body + u64::from(record.bytes) > until {
        return Ok(false);
    }
    Ok(window.get(body, record.bytes as usize)?.is_some_and(|bytes| record.fits(key, lsn, bytes)))
}

/// Looks for record `lsn` at every byte.
fn frame<R: ReadAt + ?Sized>(
    window: &mut Window<'_, R>,
    key: &SegmentKey,
    lsn: u64,
    from: u64,
    until: u64,
) -> io::Result<Option<u64>> {
    let low = (lsn as u32).to_le_bytes();
    let (mut begin, mut checked) = (from, 0);
    while begin + RECORD_HEADER_BYTES as u64 <= until {
        let count = CHUNK_BYTES.min((until - begin) as usize);
        let Some(chunk) = window.get(begin, count)? else { return Ok(None) };
        let headers = chunk.windows(RECORD_HEADER_BYTES).enumerate();
        let suspects = headers.filter(|(_, header)| header[4..8] == low);
        let suspects: Vec<(u64, u64)> = suspects
            .map(|(at, header)| (begin + at as u64, u64::from(RecordHeader::decode(header).bytes)))
            .filter(|(offset, bytes)| offset + RECORD_HEADER_BYTES as u64 + bytes <= until)
            .collect();
        for (offset, bytes) in suspects {
            checked += bytes;
            if checked > CHECKED_BYTES_MAX {
                return Ok(None);
            }
            if fits(window, key, lsn, offset, until)? {
                return Ok(Some(offset));
            }
        }
        if count < CHUNK_BYTES {
            break;
        }
        // A header may lie across the border.
        begin += (count - RECORD_HEADER_BYTES + 1) as u64;
    }
    Ok(None)
}
