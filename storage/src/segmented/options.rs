//! What can be chosen about a log, and what it says about itself.
//!
//! Owns plain values. Decides nothing.

/// When a record counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Once the device has it (`fdatasync`): survives the power going.
    #[default]
    Fsync,
    /// Once the operating system has it: survives the process, not the machine. For measurements only.
    Os,
}

/// What can be chosen about a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Written into every segment. A log of another shard is refused.
    pub shard: u32,
    /// The size of a segment in bytes, set aside when it begins: at least [`LogOptions::SEGMENT_BYTES_MIN`]. A larger group
    /// has a segment to itself. May be changed between starts.
    pub segment_bytes: u64,
    /// The largest group in bytes, with its headers; at most [`LogOptions::GROUP_BYTES_LIMIT`].
    pub group_bytes_max: u64,
    /// When a record counts as durable.
    pub durability: Durability,
    /// Keep one more segment set aside, so that a disk that fills up leaves that much to write on.
    pub keep_spare: bool,
}

impl LogOptions {
    /// The smallest segment, in bytes.
    pub const SEGMENT_BYTES_MIN: u64 = 8 << 10;
    /// The largest segment and group, in bytes: an offset has 32 bits.
    pub const GROUP_BYTES_LIMIT: u64 = 2 << 30;

    /// Segments of 64 MiB and one to spare, groups of up to 512 MiB, `fdatasync`.
    pub fn new(shard: u32) -> LogOptions {
        LogOptions {
            shard,
            segment_bytes: 64 << 20,
            group_bytes_max: 512 << 20,
            durability: Durability::Fsync,
            keep_spare: true,
        }
    }

    /// The size of a segment in whole pages, within what the format can address.
    pub(crate) fn segment_size(&self) -> u64 {
        self.segment_bytes.clamp(LogOptions::SEGMENT_BYTES_MIN, LogOptions::GROUP_BYTES_LIMIT).next_multiple_of(4096)
    }

    pub(crate) fn group_limit(&self) -> u64 {
        self.group_bytes_max.min(LogOptions::GROUP_BYTES_LIMIT)
    }
}

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes set aside on the disk, the spare segment included.
    pub bytes_on_disk: u64,
    /// The oldest record's number, if any was ever appended.
    pub first: Option<u64>,
    /// The number that comes next, if any was ever appended.
    pub next: Option<u64>,
    /// Everything below this is durable.
    pub durable_before: u64,
    /// Whether a spare segment is set aside. If one is wanted and there is none, the disk is full.
    pub spare: bool,
    /// The segments, oldest first.
    pub segments: Vec<SegmentStats>,
}

/// One segment of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentStats {
    /// What the upper half of a [`Position`](crate::Position) in this segment says.
    pub ordinal: u32,
    /// The number of its first record.
    pub first: u64,
    /// The number behind its last record.
    pub next: u64,
    /// Bytes set aside on the disk.
    pub bytes: u64,
}

/// What opening a log had to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The segment.
    pub file: String,
    /// From this byte on it was made empty.
    pub offset: u64,
    /// How many bytes were not empty before, up to the last of them. They held nothing that had been durable.
    pub bytes: u64,
    /// The number that comes next.
    pub next: u64,
}
