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

use std::fmt;
use std::sync::Arc;

use causeway_core::Limits;
use causeway_storage::fault::Random;

use crate::broker::{Broker, DurableBroker, Keeping, Setup};
use world::World;

/// What went wrong.
type Outcome<T> = Result<T, String>;

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwinOptions {
    /// Everything follows from it.
    pub seed: u64,
    /// How many things happen.
    pub steps: u32,
    /// How many shards the broker has; none: as the seed says.
    pub shards: Option<usize>,
}

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

impl TwinTally {
    /// Adds another run's.
    pub fn add(&mut self, other: &TwinTally) {
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

/// A run in which everybody was told the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwinReport {
    /// Of all bytes that were sent, and of all that happened.
    pub digest: u64,
    /// What came of it.
    pub tally: TwinTally,
}

/// A run in which somebody was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinFailure {
    /// What was played.
    pub options: TwinOptions,
    /// What was wrong.
    pub why: String,
    /// What happened before.
    pub events: Vec<String>,
}

impl fmt::Display for TwinFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        let TwinOptions { seed, steps, .. } = self.options;
        let shards = shards(&self.options);
        write!(f, "{}\ncauseway-sim twin --seed {seed} --steps {steps} --shards {shards} --seeds 1", self.why)
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

fn keeping(seed: u64) -> Keeping {
    match seed % 16 {
        0 => Keeping::Redb,
        seed if seed % 4 == 1 => Keeping::Memory,
        _ => Keeping::Committed,
    }
}

fn shards(options: &TwinOptions) -> usize {
    options.shards.unwrap_or(1 + (options.seed % 3) as usize)
}

/// Plays a run with the real broker.
///
/// # Errors
/// The first thing that was not as the model has it.
pub fn run_twin(options: TwinOptions) -> Result<TwinReport, Box<TwinFailure>> {
    run_twin_with(options, DurableBroker::new)
}

/// Plays a run with a broker of the caller's.
///
/// # Errors
/// As [`run_twin`].
pub fn run_twin_with<B: Broker>(
    options: TwinOptions,
    broker: impl Fn(Setup) -> B,
) -> Result<TwinReport, Box<TwinFailure>> {
    let limits = Arc::new(limits(options.seed));
    let keeping = keeping(options.seed);
    let log = crate::log_options(options.seed);
    let setup = |number| Setup {
        number,
        shards: shards(&options) as u16,
        limits: Arc::clone(&limits),
        log: log.clone(),
        keeping,
    };
    let brokers = (0..shards(&options)).map(|number| broker(setup(number as u16))).collect();
    let mut world = World::new(options.seed, Arc::clone(&limits), brokers);
    match world.run(options.steps) {
        Ok(()) => Ok(TwinReport { digest: world.trace.digest(), tally: world.tally }),
        Err(why) => Err(Box::new(TwinFailure { options, why, events: world.trace.lines() })),
    }
}
