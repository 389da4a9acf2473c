//! What goes into the log: the records of one group commit, as opaque bytes with positions.
//!
//! Owns positions and the gathering of a group; the layout of a record is in `format`. It never writes one to a disk.

mod codec;
mod command;
mod format;

use bytes::BytesMut;

pub(crate) use codec::{Reader, put_identifiers, put_principal, put_text, put_time};
pub(crate) use command::{AddressRecord, EndedRecord, RefusedRecord, RequestedRecord, RetriedRecord, TermsRecord};
pub use format::RecordError;
pub(crate) use format::{DirectedRecord, Event, HandedRecord, PublishRecord, Record, ShadowRecord, WillRecord};

/// A position in the shard's log. Zero stands before the first record and is always durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// Records that wait to be appended together.
#[derive(Debug, Default)]
pub struct PendingGroup {
    first: Lsn,
    bytes: BytesMut,
    ends: Vec<usize>,
}

impl PendingGroup {
    /// The position of the first record.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// The position of the last record.
    pub fn last(&self) -> Lsn {
        Lsn((self.first.0 + self.ends.len() as u64).saturating_sub(1))
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Gives positions to records and gathers them until the edge takes the group.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    last: Lsn,
    group: PendingGroup,
    last_group_bytes: usize,
}

/// Room that a group takes with its first record.
const GROUP_BYTES_MIN: usize = 1024;
const GROUP_BYTES_MAX: usize = 256 * 1024;

impl Recorder {
    /// The position of the newest record.
    pub(crate) fn last(&self) -> Lsn {
        self.last
    }

    /// Notes that a record of an earlier run stands at this position.
    pub(crate) fn resume_after(&mut self, last: Lsn) {
        self.last = self.last.max(last);
    }

    /// Appends one record.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> Lsn {
        if self.group.bytes.capacity() == 0 {
            // As many bytes as the last group had, so that this one grows little: a turn is mostly like the one before.
            self.group.bytes.reserve(self.last_group_bytes.clamp(GROUP_BYTES_MIN, GROUP_BYTES_MAX));
        }
        record.encode(&mut self.group.bytes);
        self.last = Lsn(self.last.0 + 1);
        if self.group.is_empty() {
            self.group.first = self.last;
        }
        self.group.ends.push(self.group.bytes.len());
        self.last
    }

    /// The gathered group, if there is any record in it.
    pub(crate) fn take(&mut self) -> Option<PendingGroup> {
        if self.group.is_empty() {
            return None;
        }
        self.last_group_bytes = self.group.bytes.len();
        Some(std::mem::take(&mut self.group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Millis;

    #[test]
    fn positions_and_bytes_stay_together() {
        let mut recorder = Recorder::default();
        assert!(recorder.take().is_none());
        let record = |session| Record { now: Millis(7), event: Event::SessionEnded { session } };
        assert_eq!(recorder.append(&record(1)), Lsn(1));
        assert_eq!(recorder.append(&record(2)), Lsn(2));
        let group = recorder.take().unwrap();
        assert_eq!((group.first(), group.last()), (Lsn(1), Lsn(2)));
        let records: Vec<Record<'_>> = group.iter().map(|bytes| Record::decode(bytes).unwrap()).collect();
        assert_eq!(records, [record(1), record(2)]);
        recorder.resume_after(Lsn(10));
        assert_eq!(recorder.append(&record(3)), Lsn(11));
        assert_eq!(recorder.take().unwrap().first(), Lsn(11));
    }
}
