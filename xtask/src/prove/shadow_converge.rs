//! The proof that everybody who looks at a shadow sees the same, and the truth.
//!
//! Owns how much is played. What is played and judged is in the sim crate, which prints the figures and the line that repeats a
//! failure.

use anyhow::{Context as _, Result};

use crate::workspace::{self, Workspace};

/// Versions of shadows to play.
const VERSIONS: u64 = 20_000;
const VERSIONS_FULL: u64 = 300_000;

/// # Errors
/// When the simulator cannot be built, or somebody was told what is not so.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let versions = if full { VERSIONS_FULL } else { VERSIONS };
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--release", "--package", "causeway-sim", "--", "twin", "--versions"]);
    command.arg(versions.to_string());
    workspace::run(&mut command).context("somebody was told what is not so, or the simulator could not be built")
}
