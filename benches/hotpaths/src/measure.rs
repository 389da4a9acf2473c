//! What is counted, and what is not.
//!
//! Owns [`counted`], the function that the counter of instructions knows by name: it counts inside of it and nowhere else. So what
//! clients do, and what is prepared, costs nothing.

use std::hint::black_box;

/// One run of a hot path. Returns how many operations it did, so that one that fails cannot pass for a fast one.
pub(crate) type Run = Box<dyn FnMut(&Meter) -> u64>;

/// Says whether this run is one of those that count.
#[derive(Debug)]
pub(crate) struct Meter {
    counts: bool,
}

impl Meter {
    /// Nothing counts: buffers and maps grow to their size first.
    pub(crate) const WARM_UP: Meter = Meter { counts: false };
    /// What is given to [`Meter::measure`] counts.
    pub(crate) const COUNTING: Meter = Meter { counts: true };

    /// Does the work, and counts it if this run counts.
    pub(crate) fn measure(&self, mut work: impl FnMut()) {
        if self.counts { counted(&mut work) } else { work() }
    }
}

/// It may neither be inlined nor have closures of its own, whose names would match, too; nor is the call its end, which would be a jump.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    black_box(());
}

/// Runs `run` so often; returns the operations done. With `slowed`, every tenth run is done twice and its operations are counted
/// once, which makes each operation cost a tenth more.
pub(crate) fn repeat(run: &mut dyn FnMut(&Meter) -> u64, runs: u32, slowed: bool) -> u64 {
    let mut operations = 0;
    for index in 0..runs {
        if slowed && index % 10 == 0 {
            run(&Meter::COUNTING);
        }
        operations += run(&Meter::COUNTING);
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slowed_repetition_does_more_and_says_the_same() {
        let mut done = 0;
        let mut run = |meter: &Meter| {
            meter.measure(|| done += 1);
            7
        };
        assert_eq!(repeat(&mut run, 20, true), 140);
        assert_eq!(done, 22);
    }
}
