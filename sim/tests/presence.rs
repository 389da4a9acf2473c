//! Presence in the simulation: real brokers keep everybody right, and broken ones are found out.
//!
//! Owns a few seeds for the ordinary test run; many are played by `cargo xtask prove presence`.

mod support;

use causeway_sim::{Broker, DurableBroker, PartOptions, Replayed, Setup, run_presence, run_presence_with};
use support::TellsBeforeSync;

fn options(seed: u64) -> PartOptions {
    PartOptions { seed, steps: 1500, shards: None }
}

#[test]
fn consumers_are_right_at_every_quiet_moment() {
    for seed in 1..=9 {
        let report = run_presence(options(seed)).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.tally.connects > 50 && report.tally.beliefs > 50, "{report:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(run_presence(options(5)).unwrap(), run_presence(options(5)).unwrap());
}

/// What is said of the first run that goes wrong.
fn find<B: Broker>(broker: impl Fn(Setup) -> B) -> String {
    support::find(|seed| run_presence_with(options(seed), &broker))
}

#[test]
fn an_event_that_is_told_before_it_is_durable_is_found() {
    let why = find(|setup| TellsBeforeSync(DurableBroker::new(setup), 0));
    assert!(why.contains("is wrong about") || why.contains("another event of epoch"), "{why}");
}

#[test]
fn an_event_that_a_start_forgets_is_found() {
    let why = find(|setup| {
        DurableBroker::broken(setup, |lsn, last, record| {
            // One of the last, so that the log behind it still follows from the log before it.
            let is_event = record.windows(13).any(|bytes| bytes == b"\"online\":true");
            if lsn < last && lsn + 4 > last && is_event { Replayed::Never } else { Replayed::Once }
        })
    });
    assert!(why.contains("is wrong about"), "{why}");
}
