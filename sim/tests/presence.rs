//! Presence in the simulation: real brokers keep everybody right, and broken ones are found out.
//!
//! Owns a few seeds for the ordinary test run; many are played by `cargo xtask prove presence`.

use std::sync::Arc;

use causeway_core::{Lsn, Millis, Shard};
use causeway_sim::{
    Broker, DurableBroker, Folded, PresenceOptions, Replayed, Setup, StartError, run_presence, run_presence_with,
};
use causeway_storage::disk::Disk;
use causeway_storage::{LogError, Position};

/// Seeds until a defect must have been found.
const SEEDS_MAX: u64 = 30;

fn options(seed: u64) -> PresenceOptions {
    PresenceOptions { seed, steps: 1500, shards: None }
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
    let failures = (1..=SEEDS_MAX).filter_map(|seed| run_presence_with(options(seed), &broker).err());
    failures.map(|failure| failure.why).next().unwrap_or_else(|| panic!("not found in {SEEDS_MAX} seeds"))
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

/// Tells the shard that all is durable as soon as it is appended.
struct TellsBeforeSync(DurableBroker, u64);

impl Broker for TellsBeforeSync {
    fn start(&mut self, disk: Arc<dyn Disk>, now: Millis) -> Result<u64, StartError> {
        self.1 = 0;
        self.0.start(disk, now)
    }

    fn stop(&mut self) {
        self.0.stop();
    }

    fn shard(&mut self) -> &mut Shard {
        self.0.shard()
    }

    fn append(&mut self) -> Result<Option<u64>, LogError> {
        let appended = self.0.append()?;
        if let Some(last) = appended {
            self.1 = last;
        }
        Ok(appended)
    }

    fn sync(&mut self) -> Result<u64, LogError> {
        // It says so, and leaves it to the disk.
        Ok(self.1)
    }

    fn tell(&mut self, now: Millis) {
        let appended = Lsn(self.1);
        self.0.shard().persisted(now, appended);
    }

    fn fetch(&mut self, now: Millis, choice: u64) -> bool {
        self.0.fetch(now, choice)
    }

    fn fold(&mut self, _choice: u64) -> Result<(), LogError> {
        Ok(())
    }

    fn folded(&self) -> Folded {
        self.0.folded()
    }

    fn positions(&self) -> &[(u64, Position)] {
        self.0.positions()
    }
}
