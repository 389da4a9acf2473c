//! Runs of the real broker: no promise is broken, and a seed is a run.
//!
//! Owns a fixed set of seeds. More of them are played by `cargo xtask sim`.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use causeway_sim::{KNOWN, Options, Tally, run};

fn options(seed: u64) -> Options {
    Options { seed, steps: 2000, damage: false, shards: None, tolerated: KNOWN }
}

fn play(options: impl Iterator<Item = Options>) -> Tally {
    let mut tally = Tally::default();
    for options in options {
        match run(options) {
            Ok(report) => tally.add(&report.tally),
            Err(failure) => panic!("{failure}"),
        }
    }
    tally
}

#[test]
fn all_promises_are_kept() {
    let tally = play((1..=250).map(options));
    // It reaches what it is for.
    for (what, count) in [
        ("refused", tally.refused),
        ("redeliveries", tally.redeliveries),
        ("shared", tally.shared),
        ("retained", tally.retained_sent),
        ("wills", tally.wills),
        ("expired sessions", tally.expired_sessions),
        ("takeovers", tally.takeovers),
        ("expired messages", tally.expired_messages),
        ("starts", tally.starts),
    ] {
        assert!(count > 100, "{what}: only {count} in {tally:?}");
    }
}

#[test]
fn damage_is_refused_or_does_no_harm() {
    let tally = play((1..=120).map(|seed| Options { damage: true, ..options(seed) }));
    assert!(tally.refused_starts > 60, "{tally:?}");
}

#[test]
fn a_seed_is_a_run() {
    for seed in [3, 30, 300] {
        let outcome = |seed| run(options(seed)).map_err(|failure| failure.to_string());
        assert_eq!(outcome(seed), outcome(seed));
        assert_ne!(outcome(seed), outcome(seed + 1));
    }
}
