//! Broken brokers: the simulation finds what is wrong with each, within a few seeds.
//!
//! Owns the defects. Each breaks one promise in one place and leaves the rest alone.

use std::sync::Arc;

use causeway_core::{Lsn, Millis, Shard};
use causeway_sim::{
    Broker, DurableBroker, Failure, Folded, KNOWN, Options, Replayed, Rule, Setup, StartError, run_with,
};
use causeway_storage::disk::Disk;
use causeway_storage::{LogError, Position};

/// Seeds until a defect must have been found.
const SEEDS_MAX: u64 = 40;

/// The first failure, and that it breaks one of the promises.
fn find<B: Broker>(rules: &[Rule], broker: impl Fn(Setup) -> B) -> Box<Failure> {
    for seed in 1..=SEEDS_MAX {
        let options = Options { seed, steps: 2000, damage: false, shards: None, tolerated: KNOWN };
        if let Err(failure) = run_with(options, &broker) {
            let found = failure.violations.first().map(|violation| violation.rule);
            assert!(found.is_some_and(|rule| rules.contains(&rule)), "{failure}");
            let text = failure.to_string();
            assert!(text.contains(&format!("cargo xtask sim --seed {seed} --steps 2000 --shards ")), "{text}");
            return failure;
        }
    }
    panic!("not found in {SEEDS_MAX} seeds");
}

/// Tells the shard that all is durable as soon as it is appended.
struct AcknowledgesBeforeSync(DurableBroker, u64);

impl Broker for AcknowledgesBeforeSync {
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
        self.1 = appended.unwrap_or(self.1);
        Ok(appended)
    }

    fn sync(&mut self) -> Result<u64, LogError> {
        self.0.sync()
    }

    fn tell(&mut self, now: Millis) {
        let appended = self.1;
        self.0.shard().persisted(now, Lsn(appended));
    }

    fn fetch(&mut self, now: Millis, choice: u64) -> bool {
        self.0.fetch(now, choice)
    }

    fn fold(&mut self, choice: u64) -> Result<(), LogError> {
        self.0.fold(choice)
    }

    fn folded(&self) -> Folded {
        self.0.folded()
    }

    fn positions(&self) -> &[(u64, Position)] {
        self.0.positions()
    }
}

#[test]
fn acknowledging_before_the_sync_is_found() {
    let early = [Rule::AckedBeforeDurable, Rule::DeliveredBeforeDurable];
    find(&early, |setup| AcknowledgesBeforeSync(DurableBroker::new(setup), 0));
}

/// Whether the record is that of a message a client published, at one of the levels.
fn is_publish(record: &[u8], levels: &[u8]) -> bool {
    let at = record.windows(4).position(|bytes| bytes.starts_with(b"SIM"));
    at.is_some_and(|at| levels.contains(&record[at + 3]))
}

#[test]
fn losing_the_last_record_is_found() {
    let last = |lsn, last, _: &[u8]| if lsn == last { Replayed::Never } else { Replayed::Once };
    find(&[Rule::Recovery, Rule::Lost, Rule::WrongDelivery, Rule::Connection], |setup| {
        DurableBroker::broken(setup, last)
    });
}

#[test]
fn dropping_a_message_on_replay_is_found() {
    let dropping = |lsn: u64, last: u64, record: &[u8]| {
        // Not the very last record, whose loss the log itself would notice.
        let is_recent = (last.saturating_sub(6)..last).contains(&lsn);
        if is_recent && is_publish(record, b"12") { Replayed::Never } else { Replayed::Once }
    };
    find(
        // Whoever published it at QoS 2 sends it again, and is told too early that it is known.
        &[
            Rule::Lost,
            Rule::Order,
            Rule::WrongDelivery,
            Rule::WrongAcknowledgement,
            Rule::AckedBeforeDurable,
            Rule::Connection,
            Rule::Bound,
        ],
        |setup| DurableBroker::broken(setup, dropping),
    );
}

#[test]
fn delivering_qos_2_twice_after_a_restart_is_found() {
    let twice = |_, _, record: &[u8]| if is_publish(record, b"2") { Replayed::Twice } else { Replayed::Once };
    let failure =
        find(&[Rule::Twice, Rule::WrongDelivery, Rule::Order, Rule::PacketIdentifier, Rule::Bound], |setup| {
            DurableBroker::broken(setup, twice)
        });
    assert!(failure.events.len() > 10);
}
