//! The bytes of a segment. `docs/storage-format.md` draws them.
//!
//! Owns encoding and checking. Pure: never reads or writes a file.

use crate::run::RunId;
use crate::segmented::error::HeaderFault;

/// The first group of a segment lies here: the header has a page to itself, which is never written again.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 4096;
pub(crate) const GROUP_HEADER_BYTES: usize = 40;
pub(crate) const RECORD_HEADER_BYTES: usize = 12;
/// Groups begin at multiples of this, so that they can be looked for behind a damaged one.
pub(crate) const GROUP_ALIGNMENT: u64 = 8;

const MAGIC: [u8; 8] = *b"CAUSELOG";
const VERSION: u32 = 2;
const HEADER_CONTENT_BYTES: usize = 84;
/// Where the checksum of a header of version 1 lies.
const CRC_OFFSET_1: usize = 40;
/// A group header that is a note of what the log keeps.
const KIND_NOTE: u32 = 1;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) shard: u32,
    /// One more than that of the segment before.
    pub(crate) ordinal: u32,
    /// The number of its first record.
    pub(crate) first: u64,
    /// Begins every group of this segment and goes into every checksum. Nobody can guess it.
    pub(crate) salt: u64,
    /// The run the log belongs to.
    pub(crate) run: RunId,
    /// The log held all records from this one on when the segment began.
    pub(crate) kept: u64,
    /// Bytes that were set aside when the segment began. It becomes shorter only once it has a follower.
    pub(crate) room: u64,
    /// Bytes that the segment before it has used. Zero where there was none.
    pub(crate) before: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&self.shard.to_le_bytes());
        page.extend_from_slice(&self.ordinal.to_le_bytes());
        page.extend_from_slice(&0_u32.to_le_bytes());
        page.extend_from_slice(&self.first.to_le_bytes());
        page.extend_from_slice(&self.salt.to_le_bytes());
        page.extend_from_slice(&self.run.0.to_le_bytes());
        page.extend_from_slice(&self.kept.to_le_bytes());
        page.extend_from_slice(&self.room.to_le_bytes());
        page.extend_from_slice(&self.before.to_le_bytes());
        let crc = crc32c::crc32c(&page);
        page.extend_from_slice(&crc.to_le_bytes());
        page.resize(SEGMENT_HEADER_BYTES as usize, 0);
        page
    }

    pub(crate) fn decode(page: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        if page.len() != SEGMENT_HEADER_BYTES as usize {
            return Err(HeaderFault::Damaged("the file ends within its header"));
        }
        if page[..8] != MAGIC {
            return Err(HeaderFault::Damaged("this is no segment of a log"));
        }
        let version = u32_at(page, 8);
        let crc_fits = |at: usize| u32_at(page, at) == crc32c::crc32c(&page[..at]);
        let genuine = crc_fits(HEADER_CONTENT_BYTES - 4);
        if version != VERSION && (genuine || crc_fits(CRC_OFFSET_1)) {
            return Err(HeaderFault::Version(version));
        }
        if !genuine {
            return Err(HeaderFault::Damaged("the checksum of the segment's header is wrong"));
        }
        if page[HEADER_CONTENT_BYTES..].iter().any(|byte| *byte != 0) {
            return Err(HeaderFault::Damaged("the space behind the segment's header is not empty"));
        }
        Ok(SegmentHeader {
            shard: u32_at(page, 12),
            ordinal: u32_at(page, 16),
            first: u64_at(page, 24),
            salt: u64_at(page, 32),
            run: RunId(u128::from(u64_at(page, 40)) | u128::from(u64_at(page, 48)) << 64),
            kept: u64_at(page, 56),
            room: u64_at(page, 64),
            before: u64_at(page, 72),
        })
    }

    pub(crate) fn key(&self) -> SegmentKey {
        SegmentKey { first: self.first, salt: self.salt, seed: crc32c::crc32c(&self.salt.to_le_bytes()) }
    }
}

/// What it takes to write and check the groups of one segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentKey {
    pub(crate) first: u64,
    pub(crate) salt: u64,
    seed: u32,
}

impl SegmentKey {
    fn record_crc(&self, lsn: u64, bytes: &[u8]) -> u32 {
        let mut prefix = [0; 12];
        prefix[..8].copy_from_slice(&lsn.to_le_bytes());
        prefix[8..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(self.seed, &prefix), bytes)
    }

    /// The full number of a record whose lower half is known. A segment is too small for two records to share one.
    pub(crate) fn lsn(&self, low: u32) -> u64 {
        self.first + u64::from(low.wrapping_sub(self.first as u32))
    }
}

/// What precedes the records of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// The number of its first record, or of the next where it has none.
    pub(crate) first: u64,
    /// All records below this were durable before a byte of this group was written.
    pub(crate) durable_before: u64,
    pub(crate) records: u32,
    /// Bytes of the records with their headers, without the padding.
    pub(crate) body_bytes: u32,
    /// Only in a note, which has no records: the log holds all records from this one on, and all before the note were durable.
    pub(crate) kept: Option<u64>,
}

impl GroupHeader {
    pub(crate) fn encode(&self, key: &SegmentKey) -> [u8; GROUP_HEADER_BYTES] {
        let mut header = [0; GROUP_HEADER_BYTES];
        header[..8].copy_from_slice(&key.salt.to_le_bytes());
        header[8..16].copy_from_slice(&self.first.to_le_bytes());
        header[16..24].copy_from_slice(&self.kept.unwrap_or(self.durable_before).to_le_bytes());
        header[24..28].copy_from_slice(&self.records.to_le_bytes());
        header[28..32].copy_from_slice(&self.body_bytes.to_le_bytes());
        header[32..36].copy_from_slice(&self.kept.map_or(0, |_| KIND_NOTE).to_le_bytes());
        let crc = crc32c::crc32c(&header[..36]);
        header[36..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    pub(crate) fn decode(bytes: &[u8], key: &SegmentKey) -> Option<GroupHeader> {
        let genuine = bytes.len() == GROUP_HEADER_BYTES
            && u64_at(bytes, 0) == key.salt
            && u32_at(bytes, 32) <= KIND_NOTE
            && u32_at(bytes, 36) == crc32c::crc32c(&bytes[..36]);
        genuine.then(|| {
            let (first, number) = (u64_at(bytes, 8), u64_at(bytes, 16));
            let is_note = u32_at(bytes, 32) == KIND_NOTE;
            GroupHeader {
                first,
                durable_before: if is_note { first } else { number },
                records: u32_at(bytes, 24),
                body_bytes: u32_at(bytes, 28),
                kept: is_note.then_some(number),
            }
        })
    }
}

/// What precedes one record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordHeader {
    pub(crate) bytes: u32,
    /// The lower half of the record's number, so that a record found by position alone can say which it is.
    pub(crate) lsn_low: u32,
    crc: u32,
}

impl RecordHeader {
    /// Nothing is checked yet: the length may be anything.
    pub(crate) fn decode(header: &[u8]) -> RecordHeader {
        RecordHeader { bytes: u32_at(header, 0), lsn_low: u32_at(header, 4), crc: u32_at(header, 8) }
    }

    pub(crate) fn fits(&self, key: &SegmentKey, lsn: u64, bytes: &[u8]) -> bool {
        self.bytes as usize == bytes.len() && self.lsn_low == lsn as u32 && self.crc == key.record_crc(lsn, bytes)
    }
}

/// One group in the making. The segment it goes to is known only when its size is, so checksums come last.
#[derive(Debug, Default)]
pub(crate) struct GroupBuffer {
    bytes: Vec<u8>,
    first: u64,
    records: u32,
    /// Without the padding. Known once sealed.
    content_bytes: u64,
}

impl GroupBuffer {
    pub(crate) fn start(&mut self, first: u64) {
        self.bytes.clear();
        self.bytes.resize(GROUP_HEADER_BYTES, 0);
        self.first = first;
        self.records = 0;
    }

    pub(crate) fn push(&mut self, record: &[u8]) {
        let low = (self.first + u64::from(self.records)) as u32;
        self.bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&low.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(record);
        self.records += 1;
    }

    pub(crate) fn records(&self) -> u32 {
        self.records
    }

    /// The number behind the last record.
    pub(crate) fn next(&self) -> u64 {
        self.first + u64::from(self.records)
    }

    /// Bytes of the sealed group up to the end of its last record.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Bytes the group will have on disk once sealed.
    pub(crate) fn padded_bytes(&self) -> u64 {
        padded(self.bytes.len() as u64)
    }

    /// Fills in header and checksums.
    pub(crate) fn seal(&mut self, key: &SegmentKey, durable_before: u64) -> &[u8] {
        let body_bytes = (self.bytes.len() - GROUP_HEADER_BYTES) as u32;
        let header = GroupHeader { first: self.first, durable_before, records: self.records, body_bytes, kept: None };
        self.bytes[..GROUP_HEADER_BYTES].copy_from_slice(&header.encode(key));
        let mut at = GROUP_HEADER_BYTES;
        for lsn in self.first..self.first + u64::from(self.records) {
            let body = at + RECORD_HEADER_BYTES;
            let end = body + RecordHeader::decode(&self.bytes[at..body]).bytes as usize;
            let crc = key.record_crc(lsn, &self.bytes[body..end]);
            self.bytes[body - 4..body].copy_from_slice(&crc.to_le_bytes());
            at = end;
        }
        self.content_bytes = at as u64;
        self.bytes.resize(padded(at as u64) as usize, 0);
        &self.bytes
    }

    /// Says of each record at which offset within the group it begins.
    pub(crate) fn places(&self, mut place: impl FnMut(u64, usize)) {
        let mut at = GROUP_HEADER_BYTES;
        for lsn in self.first..self.first + u64::from(self.records) {
            place(lsn, at);
            let body = at + RECORD_HEADER_BYTES;
            at = body + RecordHeader::decode(&self.bytes[at..body]).bytes as usize;
        }
    }

    /// Gives memory back after a group that was much larger than usual.
    pub(crate) fn shrink(&mut self, bytes_max: usize) {
        if self.bytes.capacity() > bytes_max {
            self.bytes = Vec::new();
        }
    }
}

/// The next multiple of the alignment.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(GROUP_ALIGNMENT)
}

/// The name of the segment that begins with record `first`.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}

/// The first record of the segment of that name.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let first: u64 = name.strip_suffix(".log")?.parse().ok()?;
    (segment_name(first) == name).then_some(first)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        shard: 3,
        ordinal: 7,
        first: 1_000,
        salt: 0x1122_3344_5566_7788,
        run: RunId(0x0123_4567_89AB_CDEF_0011_2233_4455_6677),
        kept: 900,
        room: 65_536,
        before: 65_000,
    };

    #[test]
    fn a_segment_header_survives_the_round_trip_and_no_flip() {
        let page = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&page).unwrap(), HEADER);
        for at in 0..page.len() {
            let mut damaged = page.clone();
            damaged[at] ^= 0x10;
            assert!(SegmentHeader::decode(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut page = HEADER.encode();
        page[8] = 3;
        assert!(matches!(SegmentHeader::decode(&page), Err(HeaderFault::Damaged(_))));
        for (version, at) in [(3, 80), (1, 40)] {
            page[8] = version;
            let crc = crc32c::crc32c(&page[..at]);
            page[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            let found = SegmentHeader::decode(&page);
            assert!(matches!(found, Err(HeaderFault::Version(of)) if of == u32::from(version)), "{found:?}");
        }
    }

    #[test]
    fn a_group_is_laid_out_as_documented() {
        let mut group = GroupBuffer::default();
        group.start(1_005);
        group.push(b"one");
        group.push(b"");
        let mut placed = Vec::new();
        let bytes = group.seal(&HEADER.key(), 1_004).to_vec();
        group.places(|lsn, at| placed.push((lsn, at)));
        assert_eq!(placed, [(1_005, 40), (1_006, 55)]);
        assert_eq!(bytes.len(), 72);
        let header = GroupHeader::decode(&bytes[..40], &HEADER.key()).unwrap();
        assert_eq!(header, GroupHeader { first: 1_005, durable_before: 1_004, records: 2, body_bytes: 27, kept: None });
        assert_eq!(&bytes[52..55], b"one");
        let record = RecordHeader::decode(&bytes[40..52]);
        assert!(record.fits(&HEADER.key(), 1_005, b"one"));
        assert!(!record.fits(&HEADER.key(), 1_006, b"one"));
        let other_salt = SegmentHeader { salt: 1, ..HEADER }.key();
        assert!(!record.fits(&other_salt, 1_005, b"one"));
        assert!(GroupHeader::decode(&bytes[..40], &other_salt).is_none());
    }

    #[test]
    fn a_note_survives_the_round_trip() {
        let note = GroupHeader { first: 1_005, durable_before: 1_005, records: 0, body_bytes: 0, kept: Some(950) };
        assert_eq!(GroupHeader::decode(&note.encode(&HEADER.key()), &HEADER.key()), Some(note));
    }

    #[test]
    fn the_full_number_follows_from_its_lower_half() {
        let key = SegmentHeader { first: 0x1_FFFF_FFFE, ..HEADER }.key();
        assert_eq!(key.lsn(0xFFFF_FFFE), 0x1_FFFF_FFFE);
        assert_eq!(key.lsn(1), 0x2_0000_0001);
    }

    #[test]
    fn only_canonical_names_are_segments() {
        assert_eq!(parse_segment_name(&segment_name(42)), Some(42));
        for name in ["42.log", "lock", "+0000000000000000042.log", "00000000000000000042.log.bak"] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
    }
}
