//! How much somebody may do in a time.
//!
//! Owns the arithmetic. What is counted, and what follows, is the caller's.

/// Fills with time up to its size; whoever takes more than there is owes the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    /// Below zero: owed.
    level: f64,
    at_ms: u64,
}

/// How quickly a [`Bucket`] fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    per_ms: f64,
    size: f64,
}

impl Rate {
    /// So many in a second, and at once as many as in `burst_seconds`, one at least. None for 0: as many as there are.
    pub(crate) fn per_second(amount: u64, burst_seconds: u32) -> Option<Rate> {
        Rate::of(amount as f64 / 1000.0, amount as f64 * f64::from(burst_seconds))
    }

    /// So many in a minute, all of them at once if need be.
    pub(crate) fn per_minute(amount: u32) -> Option<Rate> {
        Rate::of(f64::from(amount) / 60_000.0, f64::from(amount))
    }

    fn of(per_ms: f64, size: f64) -> Option<Rate> {
        (per_ms > 0.0).then_some(Rate { per_ms, size: size.max(1.0) })
    }
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now_ms: u64) -> Bucket {
        Bucket { level: rate.size, at_ms: now_ms }
    }

    fn fill(&mut self, rate: Rate, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms) as f64;
        self.level = (self.level + passed * rate.per_ms).min(rate.size);
        self.at_ms = self.at_ms.max(now_ms);
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.fill(rate, now_ms);
        let is_there = self.level >= 1.0;
        if is_there {
            self.level -= 1.0;
        }
        is_there
    }

    /// Takes what was used already, whether it is there or not.
    pub(crate) fn spend(&mut self, rate: Rate, amount: u64, now_ms: u64) {
        self.fill(rate, now_ms);
        self.level -= amount as f64;
    }

    /// For how many milliseconds nothing more may be used.
    pub(crate) fn owed_ms(&mut self, rate: Rate, now_ms: u64) -> u64 {
        self.fill(rate, now_ms);
        if self.level >= 0.0 { 0 } else { (-self.level / rate.per_ms).ceil() as u64 }
    }

    /// How much there was when it was last looked at.
    pub(crate) fn left(&self) -> u64 {
        self.level as u64
    }

    /// Whether it is as if it had never been used.
    pub(crate) fn is_full(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.fill(rate, now_ms);
        self.level >= rate.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_at_once_and_comes_back_with_time() {
        let rate = Rate::per_second(10, 2).unwrap();
        let mut bucket = Bucket::full(rate, 0);
        assert_eq!((0..30).filter(|_| bucket.take(rate, 0)).count(), 20);
        assert!(!bucket.take(rate, 99) && bucket.take(rate, 100) && !bucket.take(rate, 100));
        assert_eq!((0..30).filter(|_| bucket.take(rate, 1_000_000)).count(), 20);
        assert!(bucket.is_full(rate, 2_000_000));
    }

    #[test]
    fn what_was_used_beyond_it_is_waited_for() {
        let rate = Rate::per_second(1000, 1).unwrap();
        let mut bucket = Bucket::full(rate, 0);
        bucket.spend(rate, 3000, 0);
        assert_eq!(bucket.owed_ms(rate, 0), 2000);
        assert_eq!(bucket.owed_ms(rate, 1500), 500);
        assert_eq!(bucket.owed_ms(rate, 2000), 0);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let rate = Rate::per_second(1, 1).unwrap();
        let mut bucket = Bucket::full(rate, 10_000);
        assert!(bucket.take(rate, 10_000) && !bucket.take(rate, 0) && !bucket.take(rate, 10_500));
        assert!(Rate::per_second(0, 1).is_none());
    }
}
