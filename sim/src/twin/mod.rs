//! Shadows, simulated: vehicles and backends that change them over links that break, on brokers that crash, and a naive model.
//!
//! Owns runs that need a world of their own: a broker of one to three shards; backends that send updates with and without versions, times to
//! live, deletions and nonsense; vehicles that do what is wanted of them, or what their users want; and watchers, who are told of every
//! version. At every quiet moment the model is fed with the requests in the order of their versions, and must agree with all that anybody was ever
//! told: documents, deltas, answers. Versions have no gap, sequences do not go back, what was acknowledged was done, QoS 2 once, and a vehicle that was away is
//! sent one delta.

mod client;
mod cores;
mod judge;
mod ledger;
mod model;
mod schedule;
mod world;

use causeway_core::Limits;
use causeway_storage::fault::Random;

use crate::broker::{Broker, DurableBroker, Setup};
use crate::part::{self, Outcome, PartFailure, PartOptions, PartReport, PartTally};
use world::World;

/// What came of one run, or of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TwinTally {
    /// Messages to shadows that were posted, and those that the broker refused.
    pub requests: u64,
    /// See `requests`.
    pub refused: u64,
    /// Versions of shadows that were judged.
    pub versions: u64,
    /// Changes that watchers were told of, and deltas that anybody was sent.
    pub events: u64,
    /// See `events`.
    pub deltas: u64,
    /// Deltas that vehicles were sent when they came back, one for all that happened meanwhile.
    pub coalesced: u64,
    /// Connections made, those that took another one's place, and those that were lost or closed.
    pub connects: u64,
    /// See `connects`.
    pub takeovers: u64,
    /// See `connects`.
    pub drops: u64,
    /// How often the broker was killed, and how often the power went.
    pub kills: u64,
    /// See `kills`.
    pub power_cuts: u64,
    /// Quiet moments, and what readers knew at them that was compared.
    pub quiet_moments: u64,
    /// See `quiet_moments`.
    pub beliefs: u64,
}

impl PartTally for TwinTally {
    fn add(&mut self, other: &TwinTally) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.versions += other.versions;
        self.events += other.events;
        self.deltas += other.deltas;
        self.coalesced += other.coalesced;
        self.connects += other.connects;
        self.takeovers += other.takeovers;
        self.drops += other.drops;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.quiet_moments += other.quiet_moments;
        self.beliefs += other.beliefs;
    }
}

/// Bounds of a run: outboxes are small, so that deltas are dropped; queues take all that watchers miss.
fn limits(seed: u64) -> Limits {
    let mut random = Random::new(seed ^ 0x55);
    let mut any = |least: u64, most: u64| least + random.below(most - least + 1);
    Limits {
        receive_maximum: 8,
        inflight_max: any(1, 8) as u16,
        session_queue_messages_max: 1 << 20,
        session_queue_bytes_max: 1 << 30,
        outbox_bytes_max: any(400, 8000) as usize,
        body_cache_bytes: any(0, 4000) as usize,
        sys_interval_seconds: 0,
        presence: false,
        ..Limits::default()
    }
}

/// Plays a run with the real broker.
///
/// # Errors
/// The first thing that was not as the model has it.
pub fn run_twin(options: PartOptions) -> Result<PartReport<TwinTally>, Box<PartFailure>> {
    run_twin_with(options, DurableBroker::new)
}

/// Plays a run with a broker of the caller's.
///
/// # Errors
/// As [`run_twin`].
pub fn run_twin_with<B: Broker>(
    options: PartOptions,
    broker: impl Fn(Setup) -> B,
) -> Result<PartReport<TwinTally>, Box<PartFailure>> {
    part::play("twin", options, limits(options.seed), broker, |limits, brokers| {
        let mut world = World::new(options.seed, limits, brokers);
        let outcome = world.run(options.steps);
        (outcome, world.trace, world.tally)
    })
}
