//! `causeway-hotpaths`: one hot path of the broker, again and again, for a counter of instructions.
//!
//! Owns the command line and the list. Every path is the same in every run: no clock, no thread, no randomness. It measures
//! nothing itself: `cargo xtask bench-check` runs it under callgrind.

// A command-line program talks to its user through standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

mod broker;
mod client;
mod codec;
mod deliver;
mod matching;
mod measure;
mod policy;
mod session;

use measure::{Meter, Run, repeat};

/// The allocator of `causewayd`: what it costs is part of every path.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A hot path.
struct HotPath {
    name: &'static str,
    /// What one operation is.
    operation: &'static str,
    /// Operations of one run, for which the path answers.
    operations: u64,
    /// How many runs are counted.
    runs: u32,
    /// Does all that is not to be counted, and returns the run.
    prepare: fn() -> Result<Run>,
}

/// All of them, in the order of a message's way.
fn paths() -> impl Iterator<Item = &'static HotPath> {
    [codec::PATHS, policy::PATHS, matching::PATHS, deliver::PATHS, session::PATHS].into_iter().flatten()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["list"] => {
            paths().for_each(|path| println!("{}\t{}", path.name, path.operation));
            Ok(())
        }
        ["run", name] => run(name, false),
        ["run", name, "--slowed"] => run(name, true),
        _ => Err(anyhow::anyhow!("usage: causeway-hotpaths list | run NAME [--slowed]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a path, and prints how many operations were counted.
fn run(name: &str, slowed: bool) -> Result<()> {
    let path = paths().find(|path| path.name == name);
    let Some(path) = path else { bail!("there is no hot path {name}; see `causeway-hotpaths list`") };
    let mut run = (path.prepare)().with_context(|| format!("cannot prepare {name}"))?;
    for _ in 0..path.runs.div_ceil(4) {
        let operations = run(&Meter::WARM_UP);
        ensure!(operations == path.operations, "a run did {operations} operations, not {}", path.operations);
    }
    let operations = repeat(&mut *run, path.runs, slowed);
    let expected = path.operations * u64::from(path.runs);
    ensure!(operations == expected, "{operations} operations were done, not {expected}");
    println!("{operations}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_does_what_it_says_in_every_run() {
        for path in paths() {
            let mut run = (path.prepare)().unwrap();
            for _ in 0..3 {
                assert_eq!(run(&Meter::WARM_UP), path.operations, "{}", path.name);
            }
        }
    }

    #[test]
    fn names_are_unique_and_fit_a_table() {
        let mut names: Vec<&str> = paths().map(|path| path.name).collect();
        assert!(
            names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))
        );
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
