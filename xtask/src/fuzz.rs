//! `cargo xtask fuzz`: libFuzzer on the stable toolchain.
//!
//! Owns the flags that instrument a build and the folders of corpus and
//! artifacts. The targets themselves live in the fuzz crate, whose ordinary
//! tests replay the corpus.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::workspace::{self, Workspace};

/// Which target to fuzz, for how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The target: a binary of the fuzz crate
    target: String,
    /// How long to fuzz
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Arguments handed to libFuzzer
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Coverage feedback as libFuzzer wants it. No sanitizer, which would need a
/// nightly toolchain: this code is safe Rust, where a panic is the finding.
const COVERAGE_FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Merged code units lose the edges between them.
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Builds the target and fuzzes until the time is over or an input fails.
///
/// # Errors
/// When the build fails or an input fails; the input is kept in `target/fuzz-artifacts/`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let triple = host_triple()?;
    let target_dir = workspace.target.join("fuzz");
    let mut build = workspace.cargo();
    build
        .args(["build", "--release", "--package", "causeway-fuzz"])
        .args(["--features", "libfuzzer", "--bin", &options.target])
        // Naming the target keeps the flags away from build scripts and macros.
        .args(["--target", &triple])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE_FLAGS.join("\u{1f}"));
    workspace::run(&mut build)?;

    let corpus = workspace.root.join("fuzz/corpus").join(&options.target);
    ensure!(corpus.is_dir(), "no corpus at {}", corpus.display());
    // New inputs go to the first folder; the seeds in the repository stay as they are.
    let found = workspace.scratch(&format!("fuzz-corpus/{}", options.target))?;
    let artifacts = workspace.scratch(&format!("fuzz-artifacts/{}", options.target))?;
    let binary = target_dir.join(triple).join("release").join(&options.target);
    let mut fuzzer = Command::new(binary);
    fuzzer
        .arg(&found)
        .arg(&corpus)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={}", options.seconds))
        .arg("-print_final_stats=1")
        .args(&options.arguments);
    workspace::run(&mut fuzzer).with_context(|| {
        format!("an input fails; it is in {}. Copy it to {} and it stays a test", artifacts.display(), corpus.display())
    })
}

fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output()?;
    String::from_utf8(output.stdout)?
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc names no host")
}
