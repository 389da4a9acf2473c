//! What a load prints.
//!
//! Owns the two forms: JSON, one line a phase, for programs; and text for
//! people.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

/// A line for programs.
#[derive(Serialize)]
struct Line<'a, F> {
    phase: &'a str,
    #[serde(flatten)]
    figures: &'a F,
}

/// How to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct Format {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Format {
    /// Prints the figures of one phase, at once.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(crate) fn print(&self, phase: &str, figures: &impl Serialize) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&Line { phase, figures })?)?;
        } else {
            writeln!(out, "{phase}:")?;
            let value = serde_json::to_value(figures)?;
            let object = value.as_object().context("figures have names")?;
            for (name, figure) in object {
                writeln!(out, "  {:<20} {figure}", name.replace('_', " "))?;
            }
        }
        out.flush().context("cannot print")
    }
}
