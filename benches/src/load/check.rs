//! Whether everything that was sent came, once and in order.
//!
//! Owns what each subscriber has seen. As long as all is well, checking a
//! message allocates nothing.

use std::collections::HashMap;
use std::ops::Range;

/// What was wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Never came.
    pub(crate) lost: u64,
    /// Came again.
    pub(crate) duplicated: u64,
    /// Came after a later one of the same publisher.
    pub(crate) misordered: u64,
    /// Came to who had not asked for it, or was never sent.
    pub(crate) stray: u64,
}

impl Faults {
    fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.misordered += other.misordered;
        self.stray += other.stray;
    }
}

/// What one subscriber has seen that gets every message itself.
#[derive(Debug)]
pub(crate) struct Own {
    /// The number that comes next, of each publisher; `None` for those it must not hear.
    next: Vec<Option<u32>>,
    /// The gaps, by publisher.
    missing: HashMap<usize, Vec<Range<u32>>>,
    faults: Faults,
}

impl Own {
    /// A subscriber that listens to those publishers for whom `is_for` says so.
    pub(crate) fn new(publishers: usize, is_for: impl Fn(usize) -> bool) -> Self {
        let next = (0..publishers).map(|publisher| is_for(publisher).then_some(0)).collect();
        Self { next, missing: HashMap::new(), faults: Faults::default() }
    }

    /// Notes a message.
    pub(crate) fn note(&mut self, publisher: usize, sequence: u32) {
        match self.next.get_mut(publisher) {
            Some(Some(next)) if *next == sequence => *next += 1,
            Some(Some(next)) if *next < sequence => {
                self.missing.entry(publisher).or_default().push(*next..sequence);
                *next = sequence + 1;
            }
            Some(Some(_)) => self.note_late(publisher, sequence),
            _ => self.faults.stray += 1,
        }
    }

    fn note_late(&mut self, publisher: usize, sequence: u32) {
        let gaps = self.missing.entry(publisher).or_default();
        let Some(at) = gaps.iter().position(|gap| gap.contains(&sequence)) else {
            self.faults.duplicated += 1;
            return;
        };
        self.faults.misordered += 1;
        let gap = gaps.swap_remove(at);
        let parts = [gap.start..sequence, sequence + 1..gap.end];
        gaps.extend(parts.into_iter().filter(|part| !part.is_empty()));
    }

    /// What was wrong, where each publisher has sent so many.
    pub(crate) fn faults(&self, sent: &[u32]) -> Faults {
        let mut faults = self.faults;
        let gaps = self.missing.values().flatten();
        faults.lost += gaps.map(|gap| u64::from(gap.end - gap.start)).sum::<u64>();
        for (next, sent) in self.next.iter().zip(sent) {
            if let Some(next) = next {
                faults.lost += u64::from(sent.saturating_sub(*next));
                faults.stray += u64::from(next.saturating_sub(*sent));
            }
        }
        faults
    }
}

/// What subscribers have seen that share every message among them.
#[derive(Debug)]
pub(crate) struct Shared {
    /// A bit for each message of each publisher.
    seen: Vec<Vec<u64>>,
    /// The number that may come next at the least, of each publisher at each member.
    next: Vec<Vec<u32>>,
    faults: Faults,
}

impl Shared {
    /// A group of so many members.
    pub(crate) fn new(publishers: usize, members: usize) -> Self {
        Self { seen: vec![Vec::new(); publishers], next: vec![vec![0; publishers]; members], faults: Faults::default() }
    }

    /// Notes that a member got a message.
    pub(crate) fn note(&mut self, member: usize, publisher: usize, sequence: u32) {
        let Some(seen) = self.seen.get_mut(publisher) else {
            self.faults.stray += 1;
            return;
        };
        let (word, bit) = (sequence as usize / 64, 1 << (sequence % 64));
        if seen.len() <= word {
            // Grows by doubling: a handful of times in a run.
            seen.resize(word + 1, 0);
        }
        let next = &mut self.next[member][publisher];
        if seen[word] & bit != 0 {
            self.faults.duplicated += 1;
        } else if sequence < *next {
            self.faults.misordered += 1;
        }
        seen[word] |= bit;
        *next = (*next).max(sequence + 1);
    }

    /// What was wrong, where each publisher has sent so many.
    pub(crate) fn faults(&self, sent: &[u32]) -> Faults {
        let mut faults = self.faults;
        for (seen, sent) in self.seen.iter().zip(sent) {
            let came: u64 = seen.iter().map(|word| u64::from(word.count_ones())).sum();
            faults.lost += u64::from(*sent).saturating_sub(came);
            faults.stray += came.saturating_sub(u64::from(*sent));
        }
        faults
    }
}

/// What all subscribers have seen.
#[derive(Debug)]
pub(crate) enum Check {
    /// Each by itself.
    Own(Vec<Own>),
    /// Together.
    Shared(Shared),
}

impl Check {
    /// Notes that a subscriber got a message.
    pub(crate) fn note(&mut self, subscriber: usize, publisher: usize, sequence: u32) {
        match self {
            Self::Own(subscribers) => subscribers[subscriber].note(publisher, sequence),
            Self::Shared(group) => group.note(subscriber, publisher, sequence),
        }
    }

    /// What was wrong, where each publisher has sent so many.
    pub(crate) fn faults(&self, sent: &[u32]) -> Faults {
        match self {
            Self::Own(subscribers) => {
                let mut faults = Faults::default();
                subscribers.iter().for_each(|subscriber| faults.add(subscriber.faults(sent)));
                faults
            }
            Self::Shared(group) => group.faults(sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_is_told_apart() {
        let mut own = Own::new(2, |publisher| publisher == 0);
        for sequence in [0, 1, 4, 3, 3, 5] {
            own.note(0, sequence);
        }
        own.note(1, 0);
        own.note(9, 0);
        // 2 and 6 never came, 3 came late and again.
        assert_eq!(own.faults(&[7, 1]), Faults { lost: 2, duplicated: 1, misordered: 1, stray: 2 });
        assert_eq!(own.faults(&[5, 1]).stray, 3, "5 was never sent");
    }

    #[test]
    fn members_share_without_overlap() {
        let mut group = Shared::new(1, 2);
        for (member, sequence) in [(0, 0), (1, 1), (0, 70), (1, 3), (1, 2), (0, 1)] {
            group.note(member, 0, sequence);
        }
        assert_eq!(group.faults(&[5]), Faults { lost: 0, duplicated: 1, misordered: 1, stray: 0 });
        assert_eq!(group.faults(&[72]).lost, 67);
    }
}
