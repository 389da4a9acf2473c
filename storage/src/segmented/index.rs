//! Where some of a segment's records lie, so that the others are found by a short look.
//!
//! Owns the choice of which. In memory only: recovery, appending, or the first read of a segment fills it.

use super::scan::Place;

/// A place is kept about every so many bytes.
const STEP_BYTES: u64 = 16 << 10;

/// Places of records, by number, about one in 16 KiB: 16 bytes each.
#[derive(Debug, Default)]
pub(crate) struct SparseIndex {
    places: Vec<Kept>,
}

/// A [`Place`] in a segment, whose offsets have 32 bits.
#[derive(Debug, Clone, Copy)]
struct Kept {
    lsn: u64,
    offset: u32,
    group_end: u32,
}

impl SparseIndex {
    /// Takes the place of the record that follows all noted so far, and keeps it if it is far enough from the last kept.
    pub(crate) fn note(&mut self, place: Place) {
        let due = self.places.last().is_none_or(|last| place.offset >= u64::from(last.offset) + STEP_BYTES);
        if due {
            let Place { lsn, offset, group_end } = place;
            self.places.push(Kept { lsn, offset: offset as u32, group_end: group_end as u32 });
        }
    }

    /// Forgets the records from `lsn` on.
    pub(crate) fn forget_from(&mut self, lsn: u64) {
        let keep = self.places.partition_point(|kept| kept.lsn < lsn);
        self.places.truncate(keep);
    }

    /// The last kept place at or before record `lsn`.
    pub(crate) fn nearest(&self, lsn: u64) -> Option<Place> {
        let behind = self.places.partition_point(|kept| kept.lsn <= lsn);
        let Kept { lsn, offset, group_end } = *self.places.get(behind.checked_sub(1)?)?;
        Some(Place { lsn, offset: u64::from(offset), group_end: u64::from(group_end) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lsn: u64, offset: u64) -> Place {
        Place { lsn, offset, group_end: offset + 5_000 }
    }

    #[test]
    fn a_place_is_kept_in_every_step_and_the_nearest_before_is_found() {
        let mut index = SparseIndex::default();
        for lsn in 10..110 {
            index.note(place(lsn, 4096 + (lsn - 10) * 4096));
        }
        assert_eq!(index.places.len(), 25);
        assert_eq!(index.nearest(9), None);
        assert_eq!(index.nearest(10), Some(place(10, 4096)));
        assert_eq!(index.nearest(13), Some(place(10, 4096)));
        assert_eq!(index.nearest(14), Some(place(14, 4096 * 5)));
        assert_eq!(index.nearest(1_000).map(|place| place.lsn), Some(106));
        index.forget_from(14);
        assert_eq!(index.nearest(1_000).map(|place| place.lsn), Some(10));
    }
}
