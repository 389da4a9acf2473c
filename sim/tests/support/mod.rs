//! What the tests of presence and of shadows have in common: a broken broker, and how it is found out.
//!
//! Owns no expectation of what is found.

use std::sync::Arc;

use causeway_core::{Lsn, Millis, Shard};
use causeway_sim::{Broker, DurableBroker, Folded, PartFailure, PartReport, StartError};
use causeway_storage::disk::Disk;
use causeway_storage::{LogError, Position};

/// Seeds until a defect must have been found.
const SEEDS_MAX: u64 = 30;

/// What is said of the first run that goes wrong.
pub(crate) fn find<T>(run: impl Fn(u64) -> Result<PartReport<T>, Box<PartFailure>>) -> String {
    let failures = (1..=SEEDS_MAX).filter_map(|seed| run(seed).err());
    failures.map(|failure| failure.why).next().unwrap_or_else(|| panic!("not found in {SEEDS_MAX} seeds"))
}

/// Tells the shard that all is durable as soon as it is appended.
pub(crate) struct TellsBeforeSync(pub(crate) DurableBroker, pub(crate) u64);

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
