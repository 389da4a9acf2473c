//! The proof that whoever believes the largest epoch is right about every vehicle.
//!
//! Owns how much is played. What is played and judged is in the sim crate, which prints the figures and the line that repeats a
//! failure.

use anyhow::{Context as _, Result};

use crate::workspace::{self, Workspace};

/// Connects of vehicles to play.
const CONNECTS: u64 = 40_000;
const CONNECTS_FULL: u64 = 500_000;

/// # Errors
/// When the simulator cannot be built, or somebody was wrong.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let connects = if full { CONNECTS_FULL } else { CONNECTS };
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--release", "--package", "causeway-sim", "--", "presence", "--connects"]);
    command.arg(connects.to_string());
    workspace::run(&mut command).context("a consumer was wrong, or the simulator could not be built")
}
