//! What several runs of the same thing came to.
//!
//! Owns median and range. It never knows what was measured.

use serde::Serialize;

/// The middle, and how far the runs lie apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these runs; zeros where there are none.
    pub(crate) fn of(mut runs: Vec<f64>) -> Self {
        runs.sort_unstable_by(f64::total_cmp);
        let (Some(min), Some(max)) = (runs.first(), runs.last()) else { return Self::default() };
        let middle = (runs[(runs.len() - 1) / 2] + runs[runs.len() / 2]) / 2.0;
        Self { median: middle, min: *min, max: *max }
    }

    /// With so many decimals.
    pub(crate) fn shown(&self, decimals: usize) -> String {
        format!("{:.decimals$} [{:.decimals$}, {:.decimals$}]", self.median, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0]).median, 2.5);
        assert_eq!(Spread::of(Vec::new()).median, 0.0);
        assert_eq!(Spread::of(vec![1.0, 2.0]).shown(1), "1.5 [1.0, 2.0]");
    }
}
