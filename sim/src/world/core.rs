//! One shard of the broker, with its disk and what is known of that.
//!
//! Owns where its log stands: what was appended, what has reached the medium, where a crash may leave it.

use std::collections::VecDeque;

use crate::broker::Broker;
use crate::disk::{WatchedDisk, Written};

/// See the module.
pub(crate) struct Core<B> {
    pub(crate) broker: B,
    pub(super) disk: WatchedDisk,
    /// Records the running shard found when it started.
    pub(super) found: u64,
    /// Groups in the log, by their last record: with the write that wrote them.
    pub(super) appended: VecDeque<(u64, Written)>,
    /// Where the log may end after a crash.
    pub(super) ends: Vec<u64>,
    /// Of each group: its last record, and what was durable before it was written.
    pub(super) proofs: VecDeque<(u64, u64)>,
    /// A group that is durable proves that these records had been.
    pub(super) proven: u64,
    /// The last record that has surely reached the medium.
    pub(super) durable: u64,
}

impl<B: Broker> Core<B> {
    pub(super) fn new(broker: B, disk_seed: u64) -> Core<B> {
        Core {
            broker,
            disk: WatchedDisk::new(disk_seed),
            found: 0,
            appended: VecDeque::new(),
            ends: vec![0],
            proofs: VecDeque::new(),
            proven: 0,
            durable: 0,
        }
    }

    pub(super) fn last_record(&mut self) -> u64 {
        self.found + self.broker.shard().counters().records_appended
    }

    /// The process is gone; with the power also what the disk had not synced.
    pub(super) fn die(&mut self, power_cut: Option<u64>) {
        self.broker.stop();
        if let Some(choice) = power_cut {
            self.disk.faulty.power_cut(choice);
        }
        self.disk.faulty.plan_nothing();
        self.appended.clear();
        self.proofs.clear();
        self.disk.forget();
    }

    /// It runs again, and found the records up to `through`. Whether its log ends where it may.
    pub(super) fn started(&mut self, through: u64) -> bool {
        self.disk.forget();
        self.found = through;
        let may_end_here = self.ends.contains(&through) || through == self.durable;
        self.ends = vec![through];
        may_end_here && through >= self.durable
    }

    /// Groups that have reached the medium. Returns the last record of each.
    pub(super) fn synced(&mut self) -> Vec<u64> {
        let (disk, mut reached) = (&self.disk, Vec::new());
        while let Some((last, _)) = self.appended.pop_front_if(|(_, written)| disk.has(written)) {
            self.durable = self.durable.max(last);
            reached.push(last);
        }
        let durable = self.durable;
        while let Some((_, before)) = self.proofs.pop_front_if(|(last, _)| *last <= durable) {
            self.proven = self.proven.max(before);
        }
        reached
    }
}
