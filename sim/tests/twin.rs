//! Shadows in the simulation: real brokers tell everybody the truth, and broken ones are found out.
//!
//! Owns a few seeds for the ordinary test run; many are played by `cargo xtask prove shadow-converge`.

use std::sync::Arc;

use causeway_core::{Lsn, Millis, Shard};
use causeway_sim::{Broker, DurableBroker, Folded, Replayed, Setup, StartError, TwinOptions, run_twin, run_twin_with};
use causeway_storage::disk::Disk;
use causeway_storage::{LogError, Position};

/// Seeds until a defect must have been found.
const SEEDS_MAX: u64 = 30;

fn options(seed: u64) -> TwinOptions {
    TwinOptions { seed, steps: 700, shards: None }
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
    let failures = (1..=SEEDS_MAX).filter_map(|seed| run_twin_with(options(seed), &broker).err());
    failures.map(|failure| failure.why).next().unwrap_or_else(|| panic!("not found in {SEEDS_MAX} seeds"))
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
