//! Presence, simulated: vehicles that come, go and are taken over, on brokers that crash, and consumers who believe the largest epoch.
//!
//! Owns runs that need a world of their own: vehicles with several clients each, a broker of one to three shards, and consumers that were
//! there always, that come late, and that were away with their session. At every quiet moment each of them must be right about every
//! vehicle. It also judges that no will is published for a vehicle that went on with its session, or came back within the will's delay.

mod consumer;
mod judge;
pub(crate) mod packets;
mod schedule;
mod vehicle;
mod world;

use std::fmt;
use std::sync::Arc;

use causeway_core::Limits;
use causeway_storage::fault::Random;

use crate::broker::{Broker, DurableBroker, Keeping, Setup};
use world::World;

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceOptions {
    /// Everything follows from it.
    pub seed: u64,
    /// How many things happen.
    pub steps: u32,
    /// How many shards the broker has; none: as the seed says.
    pub shards: Option<usize>,
}

/// What came of one run, or of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PresenceTally {
    /// Connections of vehicles that the broker answered.
    pub connects: u64,
    /// Those that took another one's place.
    pub takeovers: u64,
    /// Connections that vehicles lost or closed.
    pub drops: u64,
    /// How often the broker was killed, and how often the power went.
    pub kills: u64,
    /// See `kills`.
    pub power_cuts: u64,
    /// Events that consumers were sent.
    pub events: u64,
    /// Quiet moments at which all consumers were judged, and single beliefs about a vehicle that were compared.
    pub quiet_moments: u64,
    /// See `quiet_moments`.
    pub beliefs: u64,
    /// Consumers that came late, and resumptions of sessions that were away.
    pub late_consumers: u64,
    /// See `late_consumers`.
    pub resumptions: u64,
    /// Wills that were published, and wills that a vehicle forestalled because it was back in time.
    pub wills: u64,
    /// See `wills`.
    pub wills_forestalled: u64,
}

impl PresenceTally {
    /// Adds another run's.
    pub fn add(&mut self, other: &PresenceTally) {
        self.connects += other.connects;
        self.takeovers += other.takeovers;
        self.drops += other.drops;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.events += other.events;
        self.quiet_moments += other.quiet_moments;
        self.beliefs += other.beliefs;
        self.late_consumers += other.late_consumers;
        self.resumptions += other.resumptions;
        self.wills += other.wills;
        self.wills_forestalled += other.wills_forestalled;
    }
}

/// A run in which all consumers were right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceReport {
    /// Of all bytes that were sent, and of all that happened.
    pub digest: u64,
    /// What came of it.
    pub tally: PresenceTally,
}

/// A run in which somebody was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceFailure {
    /// What was played.
    pub options: PresenceOptions,
    /// What was wrong.
    pub why: String,
    /// What happened before.
    pub events: Vec<String>,
}

impl fmt::Display for PresenceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        let PresenceOptions { seed, steps, .. } = self.options;
        let shards = shards(&self.options);
        write!(f, "{}\ncauseway-sim presence --seed {seed} --steps {steps} --shards {shards} --seeds 1", self.why)
    }
}

/// Bounds of a run: small, so that consumers miss events all the time.
fn limits(seed: u64) -> Limits {
    let mut random = Random::new(seed ^ 0x44);
    let mut any = |least: u64, most: u64| least + random.below(most - least + 1);
    Limits {
        receive_maximum: 8,
        inflight_max: any(1, 8) as u16,
        session_queue_messages_max: any(2, 24) as usize,
        session_queue_bytes_max: any(2000, 8000) as usize,
        // Of clients; presence takes none of them.
        retained_messages_max: any(0, 2) as usize,
        retained_bytes_max: 600,
        outbox_bytes_max: any(300, 4000) as usize,
        body_cache_bytes: any(0, 2000) as usize,
        sys_interval_seconds: 0,
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

fn shards(options: &PresenceOptions) -> usize {
    options.shards.unwrap_or(1 + (options.seed % 3) as usize)
}

/// Plays a run with the real broker.
///
/// # Errors
/// The first consumer that was wrong, or the first will that should not have been.
pub fn run_presence(options: PresenceOptions) -> Result<PresenceReport, Box<PresenceFailure>> {
    run_presence_with(options, DurableBroker::new)
}

/// Plays a run with a broker of the caller's.
///
/// # Errors
/// As [`run_presence`].
pub fn run_presence_with<B: Broker>(
    options: PresenceOptions,
    broker: impl Fn(Setup) -> B,
) -> Result<PresenceReport, Box<PresenceFailure>> {
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
        Ok(()) => Ok(PresenceReport { digest: world.trace.digest(), tally: world.tally }),
        Err(why) => Err(Box::new(PresenceFailure { options, why, events: world.trace.lines() })),
    }
}
