//! Durations gathered during a load.
//!
//! Owns the samples and their quantiles. It never reads a clock.

use std::time::Duration;

use crate::plot::curves::{self, Line};

/// Samples of one thing.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    samples: Vec<Duration>,
}

impl Latencies {
    /// Adds a sample.
    pub(crate) fn add(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    /// Adds the samples of another.
    pub(crate) fn merge(&mut self, other: Self) {
        self.samples.extend(other.samples);
    }

    /// How many samples there are.
    pub(crate) fn count(&self) -> usize {
        self.samples.len()
    }

    /// All of them as a curve, in milliseconds.
    pub(crate) fn line(&mut self, name: &str) -> Line {
        self.samples.sort_unstable();
        let last = self.samples.len().saturating_sub(1);
        let sample = |quantile: f64| self.samples.get((last as f64 * quantile).ceil() as usize);
        let milliseconds = |quantile| sample(quantile).map_or(0.0, |sample| sample.as_secs_f64() * 1e3);
        Line { name: name.to_owned(), points: curves::percentiles(self.samples.len() as u64, milliseconds) }
    }

    /// The sample below which `percent` of all lie, in milliseconds; 0 without samples.
    pub(crate) fn percentile_ms(&mut self, percent: usize) -> f64 {
        self.samples.sort_unstable();
        let last = self.samples.len().saturating_sub(1);
        let sample = self.samples.get((last * percent).div_ceil(100));
        sample.map_or(0.0, |sample| sample.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_ms(50), 0.0);
        for milliseconds in (0..=100).rev() {
            latencies.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(latencies.percentile_ms(50), 50.0);
        assert_eq!(latencies.percentile_ms(99), 99.0);
        assert_eq!(latencies.percentile_ms(100), 100.0);
        let line = latencies.line("all");
        assert_eq!(line.points[0], (2.0, 50.0));
        assert!(line.points.is_sorted());
    }
}
