//! Which messages of another shard have been taken.
//!
//! Owns the memory of their packet identifiers, so that what a link carries again after a crash is taken once. The identifiers of a lane
//! follow each other, so of each lane the last half round is remembered, and nothing needs to say that one may be forgotten. It never
//! knows a message.

use std::collections::BTreeSet;

use causeway_protocol::PacketId;

use crate::lane::{BULK_IDS, URGENT_IDS, ring_of};

/// How many messages may be unacknowledged on a link. All of them can come again, so of each lane more are remembered.
pub(crate) const LINK_WINDOW: u16 = 4000;

const _: () = assert!((LINK_WINDOW as u64) < URGENT_IDS / 2);
const _: () = assert!((LINK_WINDOW as u64) < BULK_IDS / 2);

/// Whether the identifier belongs to a lane, and so is known again.
pub(crate) fn is_remembered(packet_id: PacketId) -> bool {
    ring_of(packet_id).is_some()
}

/// Remembers one, and forgets what is far ahead of it in its lane: that is of an earlier round. What is not further ahead than a link's
/// window may have been taken before it: after a crash, one whose taking left no record is taken again, and others behind it are not.
pub(crate) fn remember(taken: &mut BTreeSet<PacketId>, packet_id: PacketId) {
    let Some(ring) = ring_of(packet_id) else { return };
    let (first, ids) = (u64::from(ring.start), u64::from(ring.end - ring.start));
    let next = u64::from(packet_id.get()) - first + 1;
    let begin = (next + u64::from(LINK_WINDOW)) % ids;
    let end = begin + ids / 2 - u64::from(LINK_WINDOW);
    for (from, to) in [(begin, end.min(ids)), (0, end.saturating_sub(ids))] {
        let bound = |at: u64| PacketId::new((first + at) as u16);
        let (Some(from), Some(to)) = (bound(from), bound(to)) else { continue };
        while let Some(old) = taken.range(from..to.max(from)).next().copied() {
            taken.remove(&old);
        }
    }
    taken.insert(packet_id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_round_is_remembered() {
        let mut taken = BTreeSet::new();
        let id = |number: u64| PacketId::new((1 + number % BULK_IDS) as u16).unwrap();
        for number in 0..2 * BULK_IDS + 100 {
            remember(&mut taken, id(number));
            assert!((0..1024.min(number)).step_by(97).all(|back| taken.contains(&id(number - back))));
            assert!((1..1025).step_by(93).all(|ahead| !taken.contains(&id(number + ahead))), "{number}");
        }
        assert!(taken.len() as u64 <= BULK_IDS / 2 + 1);
        let urgent = PacketId::new(BULK_IDS as u16 + 5).unwrap();
        remember(&mut taken, urgent);
        assert!(taken.contains(&urgent) && taken.contains(&id(2 * BULK_IDS)));
    }

    #[test]
    fn what_was_taken_before_an_older_one_came_again_stays() {
        let mut taken = BTreeSet::new();
        let id = |number: u64| PacketId::new((1 + number % BULK_IDS) as u16).unwrap();
        let last = BULK_IDS + 50;
        for number in BULK_IDS - 100..=last {
            remember(&mut taken, id(number));
        }
        taken.remove(&id(last - 120));
        remember(&mut taken, id(last - 120));
        assert!((0..150).all(|back| taken.contains(&id(last - back))));
    }

    #[test]
    fn what_belongs_to_no_lane_is_not_remembered() {
        let mut taken = BTreeSet::new();
        let loose = PacketId::new((1 + BULK_IDS + URGENT_IDS) as u16).unwrap();
        remember(&mut taken, loose);
        assert!(taken.is_empty() && !is_remembered(loose));
    }
}
