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

use causeway_core::Limits;
use causeway_storage::fault::Random;

use crate::broker::{Broker, DurableBroker, Setup};
use crate::part::{self, PartFailure, PartOptions, PartReport, PartTally};
use world::World;

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

impl PartTally for PresenceTally {
    fn add(&mut self, other: &PresenceTally) {
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

/// Plays a run with the real broker.
///
/// # Errors
/// The first consumer that was wrong, or the first will that should not have been.
pub fn run_presence(options: PartOptions) -> Result<PartReport<PresenceTally>, Box<PartFailure>> {
    run_presence_with(options, DurableBroker::new)
}

/// Plays a run with a broker of the caller's.
///
/// # Errors
/// As [`run_presence`].
pub fn run_presence_with<B: Broker>(
    options: PartOptions,
    broker: impl Fn(Setup) -> B,
) -> Result<PartReport<PresenceTally>, Box<PartFailure>> {
    part::play("presence", options, limits(options.seed), broker, |limits, brokers| {
        let mut world = World::new(options.seed, limits, brokers);
        let outcome = world.run(options.steps);
        (outcome, world.trace, world.tally)
    })
}
