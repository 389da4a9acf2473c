//! The proof of `identity`: what each identity may do with each topic is as the matrix says, by the rules alone and over real connections.
//!
//! Owns which forms are tried. The matrix, the daemon and the verdict are the test `matrix` of the broker.

use anyhow::{Context as _, Result, ensure};

use crate::table;
use crate::workspace::Workspace;

/// What the test prints before each of its figures.
const FIGURE: &str = "matrix: ";

/// Tries the whole matrix, in the full form with several shards, too.
///
/// # Errors
/// When a line of the matrix does not come true.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let mut rows = Vec::new();
    for shards in if full { &["1", "2", "3"][..] } else { &["1"][..] } {
        let mut cargo = workspace.cargo();
        cargo.args([
            "test",
            "--package",
            "causeway-broker",
            "--test",
            "matrix",
            "--",
            "--nocapture",
            "--test-threads=1",
        ]);
        let output = cargo.env("CAUSEWAY_BROKER__SHARDS", shards).output().context("cannot run cargo test")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            println!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        ensure!(output.status.success(), "with {shards} shards, lines of the matrix do not come true");
        let figures: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix(FIGURE)).collect();
        ensure!(figures.len() >= 2, "the test said nothing of what it tried");
        rows.extend(figures.into_iter().map(|figure| vec![(*shards).to_owned(), figure.to_owned()]));
    }
    println!("\n{}", table::render(&["shards", "tried"], &rows));
    Ok(())
}
