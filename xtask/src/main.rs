//! The one toolbox of this repository: `cargo xtask <command>`.
//!
//! Owns the command line and nothing else; each command lives in its own
//! module. It never contains product code: it builds, starts and judges what
//! the other crates make.

// A command-line program talks to its user through standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench_check;
mod certificates;
mod conformance;
mod daemon;
mod fuzz;
mod interop;
mod process;
mod program;
mod prove;
mod sim;
mod suite;
mod table;
mod tidy;
mod walkthrough;
mod workspace;

use workspace::Workspace;

/// The toolbox of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the toolbox can do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check there is, with a summary at the end
    Test(suite::Options),
    /// Check the rules that no compiler knows: crate arrows, purity, file heads, links, citations
    Tidy,
    /// Judge a broker with the conformance suite
    Conformance(conformance::Options),
    /// Run foreign MQTT clients against a broker
    Interop(interop::Options),
    /// Fuzz one target with libFuzzer
    Fuzz(fuzz::Options),
    /// Show that a claim of the documentation holds, with figures
    Prove(prove::Options),
    /// Count the instructions of the hot paths, and compare with the committed figures
    BenchCheck(bench_check::Options),
    /// Play seeded runs of the durable broker on a faulty disk, and judge them
    Sim(sim::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let workspace = Workspace::find()?;
    match command {
        Command::Test(options) => suite::run(&workspace, &options),
        Command::Tidy => tidy::run(&workspace),
        Command::Conformance(options) => conformance::run(&workspace, &options),
        Command::Interop(options) => interop::run(&workspace, &options),
        Command::Fuzz(options) => fuzz::run(&workspace, &options),
        Command::Prove(options) => prove::run(&workspace, &options),
        Command::BenchCheck(options) => bench_check::run(&workspace, &options),
        Command::Sim(options) => sim::run(&workspace, &options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
