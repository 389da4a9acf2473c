//! `cargo xtask sim`: seeded simulation of the durable broker.
//!
//! Owns how the simulator is built and called. What is played and judged is
//! in the sim crate, which prints the line that repeats a failure.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::workspace::{self, Workspace};

/// Which runs to play.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The first seed; the same seed is the same run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Things that happen in a run before everything is healed
    #[arg(long, default_value_t = 2000)]
    steps: u32,
    /// How many seeds to play, one after the other
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How many shards the broker has; as the seed says where this is not given
    #[arg(long)]
    shards: Option<u8>,
    /// Flip bits of what is durable: the start must refuse, or serve intact data
    #[arg(long)]
    damage: bool,
    /// Tolerate nothing, not even what is known to go wrong
    #[arg(long)]
    strict: bool,
    /// Judge one rule that is known to be broken; may be given several times
    #[arg(long)]
    judge: Vec<String>,
}

/// Builds the simulator for speed and plays.
///
/// # Errors
/// When the build fails or a promise is broken.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--release", "--package", "causeway-sim", "--"]);
    for (name, number) in [("--seed", options.seed), ("--steps", u64::from(options.steps)), ("--seeds", options.seeds)]
    {
        command.arg(name).arg(number.to_string());
    }
    command.args(options.shards.iter().flat_map(|shards| ["--shards".to_owned(), shards.to_string()]));
    command.args(options.damage.then_some("--damage"));
    command.args(options.strict.then_some("--strict"));
    command.args(options.judge.iter().flat_map(|rule| ["--judge", rule]));
    workspace::run(&mut command).context("a promise was broken, or the simulator could not be built")
}
