//! How much of the log's old end to give up, so that little that lives does not hold much that is dead.
//!
//! Owns the arithmetic. Moves nothing itself.

use crate::LogStats;

/// Decides how many of the oldest segments to give up, their living bodies moved into the folded state, so that all together
/// takes at most `factor` times the living bytes and `slack` more: as few as do. Segments at the old end in which nothing lives
/// go in any case. The last segment stays.
///
/// `live_bytes` says how many bytes live in the records from its first argument up to, not including, its second.
/// `relocated_bytes` are those moved before; all count as living.
///
/// Where no number of segments is enough, as many go as leaves the least, provided that they free as much as is copied. Returns the
/// number of the first record to keep, or none where nothing is to go.
pub fn plan_relocation(
    stats: &LogStats,
    live_bytes: &dyn Fn(u64, u64) -> u64,
    relocated_bytes: u64,
    factor: f64,
    slack: u64,
) -> Option<u64> {
    let live: Vec<u64> = stats.segments.iter().map(|segment| live_bytes(segment.first, segment.next)).collect();
    let living = live.iter().sum::<u64>() + relocated_bytes;
    let budget = (living as f64 * factor) as u64 + slack;
    let mut used = stats.bytes_on_disk + relocated_bytes;
    let (mut freed, mut moved) = (0, 0);
    // The best of those that do not suffice: what it leaves, and how many segments go.
    let mut best = (used, 0);
    let mut enough = (used <= budget).then_some(0);
    let removable = stats.segments.len().saturating_sub(1);
    for (going, (segment, live)) in (1..).zip(stats.segments.iter().zip(&live).take(removable)) {
        if enough.is_some() && *live > 0 {
            break;
        }
        freed += segment.bytes;
        moved += live;
        used = (used + live).saturating_sub(segment.bytes);
        if enough.is_some() || used <= budget {
            enough = Some(going);
        }
        if used < best.0 && freed >= 2 * moved {
            best = (used, going);
        }
    }
    let going = enough.unwrap_or(best.1);
    (going > 0).then(|| stats.segments[going].first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SegmentStats;

    /// Segments of 100 bytes with ten records each, from record 1.
    fn stats(segments: usize) -> LogStats {
        let segments: Vec<SegmentStats> = (0..segments as u64)
            .map(|index| SegmentStats {
                ordinal: index as u32,
                first: 1 + index * 10,
                next: 11 + index * 10,
                bytes: 100,
            })
            .collect();
        LogStats {
            bytes_on_disk: segments.len() as u64 * 100,
            first: segments.first().map(|segment| segment.first),
            next: segments.last().map(|segment| segment.next),
            durable_before: 0,
            spare: false,
            segments,
        }
    }

    /// How many segments go, if so many bytes live in each.
    fn going(live: &[u64], relocated: u64, factor: f64, slack: u64) -> usize {
        let live_bytes = |first: u64, next: u64| {
            assert_eq!(next, first + 10);
            live[(first / 10) as usize]
        };
        let keep_from = plan_relocation(&stats(live.len()), &live_bytes, relocated, factor, slack);
        keep_from.map_or(0, |first| (first / 10) as usize)
    }

    #[test]
    fn within_its_budget_nothing_moves() {
        assert_eq!(going(&[], 0, 2.0, 0), 0);
        assert_eq!(going(&[0], 0, 2.0, 0), 0);
        assert_eq!(going(&[50, 50, 50, 50], 0, 2.0, 0), 0);
        assert_eq!(going(&[1, 50, 50, 50], 0, 2.0, 98), 0);
    }

    #[test]
    fn as_few_go_as_do() {
        assert_eq!(going(&[1, 50, 50, 50], 0, 2.0, 97), 1);
        assert_eq!(going(&[1, 1, 1, 99, 99], 0, 2.0, 0), 1);
        assert_eq!(going(&[10, 10, 10, 10, 10], 0, 2.0, 0), 4);
        assert_eq!(going(&[10, 10, 10, 10, 10], 0, 2.0, 150), 3);
    }

    #[test]
    fn dead_segments_at_the_old_end_go_in_any_case() {
        assert_eq!(going(&[0, 0, 90, 0, 90], 0, 3.0, 500), 2);
        assert_eq!(going(&[0, 0, 0], 0, 2.0, 1000), 2);
        // Also those behind the last that had to be moved.
        assert_eq!(going(&[1, 0, 0, 99, 99], 0, 2.0, 100), 3);
    }

    #[test]
    fn what_was_moved_before_counts_as_used_and_as_living() {
        assert_eq!(going(&[10, 100, 100], 0, 1.5, 0), 0);
        assert_eq!(going(&[10, 50, 50], 90, 1.5, 90), 0);
        assert_eq!(going(&[10, 50, 50], 90, 1.5, 80), 1);
    }

    #[test]
    fn where_nothing_suffices_only_what_frees_more_than_it_costs_moves() {
        assert_eq!(going(&[95, 95, 95, 95], 0, 1.0, 0), 0);
        assert_eq!(going(&[5, 95, 95, 95], 0, 1.0, 0), 2);
        assert_eq!(going(&[5, 5, 95, 95], 0, 1.0, 0), 3);
        // Only the last segment is too large, and it cannot go.
        assert_eq!(going(&[1], 0, 1.0, 0), 0);
    }

    #[test]
    fn the_budget_is_kept_wherever_it_can_be_and_never_overdone() {
        let mut random = crate::fault::Random::new(7);
        let mut moved = 0;
        for _ in 0..20_000 {
            let live: Vec<u64> =
                (0..1 + random.below(9)).map(|_| if random.chance(30) { 0 } else { random.below(101) }).collect();
            let relocated = random.below(300);
            let (factor, slack) = (1.0 + random.below(20) as f64 / 10.0, random.below(200));
            let going = going(&live, relocated, factor, slack);
            let living: u64 = live.iter().sum::<u64>() + relocated;
            let left = |going: usize| {
                live.len() as u64 * 100 + relocated + live[..going].iter().sum::<u64>() - going as u64 * 100
            };
            let fits = |going: usize| left(going) <= (living as f64 * factor) as u64 + slack;
            let possible = (0..live.len()).any(fits);
            assert_eq!(fits(going), possible, "{live:?} {relocated} {factor} {slack}: {going}");
            if possible && going > 0 {
                moved += 1;
                // One that still has something living goes only if it must.
                let needed = (0..=going).find(|going| fits(*going)).unwrap_or(going);
                assert!(live[needed..going].iter().all(|live| *live == 0), "{live:?}: {going}, {needed} would do");
            }
        }
        assert!(moved > 1000, "{moved}");
    }
}
