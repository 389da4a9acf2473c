//! Runs of one part of the broker, in a world of its own: see [`crate::presence`] and [`crate::twin`].
//!
//! Owns what such a run is asked for, the broker that it is played with, and the form of what comes of it. What happens in it is its world's.

use std::fmt;
use std::sync::Arc;

use causeway_core::Limits;

use crate::broker::{Broker, Keeping, Setup};
use crate::trace::Trace;

/// What went wrong.
pub(crate) type Outcome<T> = Result<T, String>;

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartOptions {
    /// Everything follows from it.
    pub seed: u64,
    /// How many things happen.
    pub steps: u32,
    /// How many shards the broker has; none: as the seed says.
    pub shards: Option<usize>,
}

impl PartOptions {
    fn shards(&self) -> usize {
        self.shards.unwrap_or(1 + (self.seed % 3) as usize)
    }
}

/// What came of one run, or of many.
pub trait PartTally: Default + fmt::Debug {
    /// Adds another run's.
    fn add(&mut self, other: &Self);
}

/// A run in which everybody was told the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartReport<T> {
    /// Of all bytes that were sent, and of all that happened.
    pub digest: u64,
    /// What came of it.
    pub tally: T,
}

/// A run in which somebody was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFailure {
    /// The part, by its word on the command line.
    pub part: &'static str,
    /// What was played.
    pub options: PartOptions,
    /// What was wrong.
    pub why: String,
    /// What happened before.
    pub events: Vec<String>,
}

impl fmt::Display for PartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        let (part, shards, PartOptions { seed, steps, .. }) = (self.part, self.options.shards(), self.options);
        write!(f, "{}\ncauseway-sim {part} --seed {seed} --steps {steps} --shards {shards} --seeds 1", self.why)
    }
}

fn keeping(seed: u64) -> Keeping {
    match seed % 16 {
        0 => Keeping::Redb,
        seed if seed % 4 == 1 => Keeping::Memory,
        _ => Keeping::Committed,
    }
}

/// Plays a run: makes the brokers and hands them to a world, which says what came of it.
///
/// # Errors
/// The first thing that was wrong.
pub(crate) fn play<B: Broker, T>(
    part: &'static str,
    options: PartOptions,
    limits: Limits,
    broker: impl Fn(Setup) -> B,
    world: impl FnOnce(Arc<Limits>, Vec<B>) -> (Outcome<()>, Trace, T),
) -> Result<PartReport<T>, Box<PartFailure>> {
    let (limits, log) = (Arc::new(limits), crate::log_options(options.seed));
    let (shards, keeping) = (options.shards() as u16, keeping(options.seed));
    let setup = |number| Setup { number, shards, limits: Arc::clone(&limits), log: log.clone(), keeping };
    let brokers = (0..shards).map(|number| broker(setup(number))).collect();
    let (outcome, trace, tally) = world(Arc::clone(&limits), brokers);
    match outcome {
        Ok(()) => Ok(PartReport { digest: trace.digest(), tally }),
        Err(why) => Err(Box::new(PartFailure { part, options, why, events: trace.lines() })),
    }
}
