//! What goes into the log: the records of one group commit, as opaque bytes with positions.
//!
//! Owns the layout of a record. It never writes one to a disk.

use bytes::{BufMut, BytesMut};

use crate::Millis;
use crate::message::Publication;

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
}

/// First byte of a record: what it is.
const RECORD_PUBLISH: u8 = 1;

impl Recorder {
    /// The position of the newest record.
    pub(crate) fn last(&self) -> Lsn {
        self.last
    }

    /// Appends one publish, once, whatever its fan-out.
    pub(crate) fn publish(&mut self, now: Millis, publication: &Publication<'_>) -> Lsn {
        let bytes = &mut self.group.bytes;
        bytes.reserve(32 + publication.topic.len() + publication.payload.len());
        bytes.put_u8(RECORD_PUBLISH);
        bytes.put_u8(publication.qos as u8 | (u8::from(publication.retain) << 2));
        bytes.put_u64(now.0);
        bytes.put_u64(publication.expires_at.map_or(0, |at| at.0));
        bytes.put_u16(publication.topic.len() as u16);
        bytes.put_slice(publication.topic.as_bytes());
        bytes.put_u32(publication.forwarded.encoded_bytes() as u32);
        publication.forwarded.append_to(bytes);
        bytes.put_slice(publication.payload);
        self.finish()
    }

    /// The gathered group, if there is any record in it.
    pub(crate) fn take(&mut self) -> Option<PendingGroup> {
        (!self.group.is_empty()).then(|| std::mem::take(&mut self.group))
    }

    fn finish(&mut self) -> Lsn {
        self.last = Lsn(self.last.0 + 1);
        if self.group.is_empty() {
            self.group.first = self.last;
        }
        self.group.ends.push(self.group.bytes.len());
        self.last
    }
}

#[cfg(test)]
mod tests {
    use causeway_protocol::QoS;

    use super::*;

    #[test]
    fn positions_and_bytes_stay_together() {
        let mut recorder = Recorder::default();
        assert!(recorder.take().is_none());
        let publication = Publication::plain("a/b", b"payload", QoS::AtLeastOnce);
        assert_eq!(recorder.publish(Millis(5), &publication), Lsn(1));
        assert_eq!(recorder.publish(Millis(6), &publication), Lsn(2));
        let group = recorder.take().unwrap();
        assert_eq!((group.first(), group.last()), (Lsn(1), Lsn(2)));
        let records: Vec<&[u8]> = group.iter().collect();
        assert_eq!(records.len(), 2);
        assert!(records.iter().all(|record| record.ends_with(b"payload")));
        assert_eq!(recorder.publish(Millis(7), &publication), Lsn(3));
        assert_eq!(recorder.take().unwrap().first(), Lsn(3));
    }
}
