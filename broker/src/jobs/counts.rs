//! How many jobs there are, and what became of their vehicles.
//!
//! Owns the numbers for whoever watches. Results are counted from the start of the process on, once they are written.

use std::collections::BTreeMap;

use causeway_fleet::command::Outcome;

use super::record::Record;

/// What becomes of a vehicle beside the outcomes of commands.
const KINDS: [&str; 3] = ["done", "rejected", "unknown"];

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCounts {
    /// Jobs in each state, by its word.
    pub by_state: BTreeMap<&'static str, u64>,
    /// Jobs that do not get on, for whatever reason but that somebody paused them.
    pub held_up: u64,
    /// Vehicles that have no result yet, of all jobs that are not over.
    pub vehicles_left: u64,
    /// Results, by outcome.
    pub results: BTreeMap<&'static str, u64>,
}

impl JobCounts {
    pub(super) fn new(results: BTreeMap<&'static str, u64>) -> JobCounts {
        let by_state = Record::STATES.map(|state| (state, 0)).into();
        let mut counts = JobCounts { by_state, held_up: 0, vehicles_left: 0, results };
        for kind in Outcome::ALL.iter().map(|outcome| outcome.word()).chain(KINDS) {
            counts.results.entry(kind).or_default();
        }
        counts
    }

    pub(super) fn add(&mut self, record: &Record, is_held_up: bool) {
        *self.by_state.entry(record.state_word()).or_default() += 1;
        self.held_up += u64::from(is_held_up);
        if !record.state.is_over() {
            self.vehicles_left += u64::from(record.total.saturating_sub(record.done()));
        }
    }
}
