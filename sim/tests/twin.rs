//! Shadows in the simulation: real brokers tell everybody the truth, and broken ones are found out.
//!
//! Owns a few seeds for the ordinary test run; many are played by `cargo xtask prove shadow-converge`.

mod support;

use causeway_sim::{Broker, DurableBroker, PartOptions, Replayed, Setup, run_twin, run_twin_with};
use support::TellsBeforeSync;

fn options(seed: u64) -> PartOptions {
    PartOptions { seed, steps: 700, shards: None }
}

#[test]
fn everybody_is_told_the_truth() {
    for seed in 1..=6 {
        let report = run_twin(options(seed)).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.tally.versions > 100 && report.tally.beliefs > 30, "{report:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(run_twin(options(5)).unwrap(), run_twin(options(5)).unwrap());
}

/// What is said of the first run that goes wrong.
fn find<B: Broker>(broker: impl Fn(Setup) -> B) -> String {
    support::find(|seed| run_twin_with(options(seed), &broker))
}

#[test]
fn a_change_that_is_told_before_it_is_durable_is_found() {
    let why = find(|setup| TellsBeforeSync(DurableBroker::new(setup), 0));
    assert!(why.contains("is told twice"), "{why}");
}

/// Kinds of records, which stand behind the number of their layout: a change of a shadow, and a request on its way to another shard.
const CHANGE: u8 = 17;
const CALL: u8 = 16;

/// Forgets records of a kind that are among the last, so that the log behind them still follows from the log before them.
fn forget<const KIND: u8>(lsn: u64, last: u64, record: &[u8]) -> Replayed {
    if lsn < last && lsn + 40 > last && record.get(1) == Some(&KIND) { Replayed::Never } else { Replayed::Once }
}

#[test]
fn a_change_that_a_start_forgets_is_found() {
    let why = find(|setup| DurableBroker::broken(setup, forget::<CHANGE>));
    assert!(why.contains("is told twice") || why.contains("was not done"), "{why}");
}

#[test]
fn a_request_that_a_start_forgets_is_found() {
    let why = find(|setup| DurableBroker::broken(setup, forget::<CALL>));
    // Its place in the queue is another's then, who is not told.
    assert!(why.contains("was not done") || why.contains("was not told"), "{why}");
}
