//! Seeded deterministic simulation of a durable broker: core and log, with clients over lossy links and torn disks.
//!
//! Owns one world per seed, in which each shard of `causeway-core` writes to a log of `causeway-storage` on a disk that tears,
//! and an oracle that knows what must come of it. The same seed is the same run, byte for byte. It never reads a clock, opens a
//! socket or a file, and nothing of it is part of a broker.
//!
//! Of four seeds, three have one shard. The fourth has two or three with links between them, and is judged by what can be seen from
//! outside.
//!
//! Of four seeds, two fold their state into a map whose commits are whole by nature, one into redb on the same torn disk as the
//! log (which takes several times as long), and one folds nothing and keeps all bodies in memory.

mod broker;
mod client;
mod committed;
mod disk;
mod fleet;
mod folding;
mod link;
mod message;
mod oracle;
mod part;
mod presence;
mod trace;
mod twin;
mod world;

use std::fmt;
use std::sync::Arc;

use causeway_core::Limits;
use causeway_storage::LogOptions;
use causeway_storage::fault::Random;

pub use broker::{BeforeReplay, Broker, DurableBroker, Keeping, Replayed, Setup, StartError};
pub use disk::{WatchedDisk, Written};
pub use folding::Folded;
pub use oracle::{Rule, Tally, Violation};
pub use part::{PartFailure, PartOptions, PartReport, PartTally};
pub use presence::{PresenceTally, run_presence, run_presence_with};
pub use twin::{TwinTally, run_twin, run_twin_with};
use world::World;

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// How many things happen before everybody is healed.
    pub steps: u32,
    /// Whether bits flip in what is durable, some time.
    pub damage: bool,
    /// How many shards the broker has; none: as the seed says.
    pub shards: Option<usize>,
    /// Promises that are counted where they are broken, and fail nothing.
    pub tolerated: &'static [Rule],
}

/// Promises that are tolerated: a record of progress cannot say that a QoS 2 message is finished which stands behind older ones
/// that wait, so after two crashes its PUBREL may come again. A client answers that it knows no such identifier, and no harm is
/// done, since identifiers follow from places in the queue and no other message has it.
pub const KNOWN: &[Rule] = &[Rule::ReleasedAgain];

/// A run in which every promise was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Of all bytes on all links, and of all that happened.
    pub digest: u64,
    /// What came of it.
    pub tally: Tally,
}

/// How many of the last events a failure shows.
const EVENTS_SHOWN: usize = 1500;

/// A run in which a promise was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was played.
    pub options: Options,
    /// When.
    pub step: u32,
    /// What was broken; the first is the one to look at.
    pub violations: Vec<Violation>,
    /// What happened before.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events[self.events.len().saturating_sub(EVENTS_SHOWN)..] {
            writeln!(f, "{event}")?;
        }
        writeln!(f, "seed {}, step {}:", self.options.seed, self.step)?;
        for violation in self.violations.iter().take(5) {
            writeln!(f, "  {violation}")?;
        }
        let shards = shards(&self.options);
        let damage = if self.options.damage { " --damage" } else { "" };
        write!(
            f,
            "cargo xtask sim --seed {} --steps {} --shards {shards}{damage}",
            self.options.seed, self.options.steps
        )?;
        if self.options.tolerated.is_empty() {
            return write!(f, " --strict");
        }
        let mut judged = KNOWN.iter().filter(|rule| !self.options.tolerated.contains(rule));
        judged.try_for_each(|rule| write!(f, " --judge {rule:?}"))
    }
}

/// Bounds of a run: small, so that they are reached.
pub fn limits(seed: u64) -> Limits {
    let mut random = Random::new(seed ^ 0x11);
    let mut any = |least: u64, most: u64| least + random.below(most - least + 1);
    Limits {
        receive_maximum: any(2, 8) as u16,
        inflight_max: any(1, 8) as u16,
        topic_alias_outbound_max: any(0, 3) as u16,
        session_queue_messages_max: any(3, 24) as usize,
        session_queue_bytes_max: any(2500, 8000) as usize,
        subscriptions_per_session_max: any(2, 6) as usize,
        retained_messages_max: any(2, 8) as usize,
        retained_bytes_max: any(2300, 5000) as usize,
        outbox_bytes_max: any(200, 4000) as usize,
        body_cache_bytes: any(0, 400) as usize,
        urgent_topics: match any(0, 5) {
            0 => vec!["a/#".to_owned()],
            1 => vec!["w/+".to_owned(), "b".to_owned()],
            2 => vec!["fleet/#".to_owned(), "vehicles/+/a".to_owned()],
            _ => Vec::new(),
        },
        sys_interval_seconds: 0,
        // Played by itself: see `presence`.
        presence: false,
        ..Limits::default()
    }
}

/// A log of small segments.
pub fn log_options(seed: u64) -> LogOptions {
    let mut random = Random::new(seed ^ 0x22);
    let segment_bytes = LogOptions::SEGMENT_BYTES_MIN << random.below(3);
    LogOptions { segment_bytes, keep_spare: random.chance(50), ..LogOptions::new(0) }
}

/// What the broker keeps besides its log. Damage is found by a start only in what it replays, so that folds nothing.
pub fn keeping(options: &Options) -> Keeping {
    match options.seed % 4 {
        _ if options.damage => Keeping::Memory,
        0 => Keeping::Redb,
        1 => Keeping::Memory,
        _ => Keeping::Committed,
    }
}

/// How many shards the broker has: mostly one, which is judged more closely. Damage is about the log of a shard alone.
pub fn shards(options: &Options) -> usize {
    if options.damage {
        return 1;
    }
    let by_chance = || match Random::new(options.seed ^ 0x33).below(8) {
        0 => 2,
        1 => 3,
        _ => 1,
    };
    options.shards.unwrap_or_else(by_chance)
}

/// Plays a run with the real broker.
///
/// # Errors
/// The first promise that was broken.
pub fn run(options: Options) -> Result<Report, Box<Failure>> {
    run_with(options, DurableBroker::new)
}

/// Plays a run with a broker of the caller's.
///
/// # Errors
/// The first promise that was broken.
pub fn run_with<B: Broker>(options: Options, broker: impl Fn(Setup) -> B) -> Result<Report, Box<Failure>> {
    let limits = Arc::new(limits(options.seed));
    let keeping = keeping(&options);
    let setup = |number| Setup {
        number,
        shards: shards(&options) as u16,
        limits: Arc::clone(&limits),
        log: log_options(options.seed),
        keeping,
    };
    let brokers = (0..shards(&options)).map(|number| broker(setup(number as u16))).collect();
    let mut world = World::new(&options, Arc::clone(&limits), brokers);
    // A run that ends early without a violation met a damaged disk, and the broker refused it.
    let _ = world.run(options.steps);
    if world.oracle.violations().is_empty() {
        let mut tally = *world.oracle.tally();
        for core in &mut world.cores {
            core.broker.stop();
            tally.folded(core.broker.folded());
        }
        return Ok(Report { digest: world.digest(), tally });
    }
    Err(Box::new(Failure {
        options,
        step: world.step,
        violations: world.oracle.violations().to_vec(),
        events: world.trace.lines(),
    }))
}
