//! `cargo xtask test`: every check of this repository, in order.
//!
//! Owns the list of steps, their timing and the closing summary. A step
//! fails alone: the others still run, and the exit says whether all passed.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::daemon::Product;
use crate::program::Program;
use crate::workspace::{self, Workspace};
use crate::{bench_check, conformance, interop, prove, table, tidy};

/// Which steps to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run this step only; may be given several times
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Name the steps and end
    #[arg(long)]
    list: bool,
    /// Run only the steps that need no running broker
    #[arg(long)]
    quick: bool,
}

struct Step {
    name: &'static str,
    about: &'static str,
    needs: &'static [Program],
    is_quick: bool,
    run: fn(&Workspace) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "the code is formatted",
        needs: &[],
        is_quick: true,
        run: |workspace| workspace::run(workspace.cargo().args(["fmt", "--all", "--check"])),
    },
    Step {
        name: "clippy",
        about: "the compiler and clippy have nothing to say",
        needs: &[],
        is_quick: true,
        run: |workspace| {
            workspace::run(workspace.cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]))
        },
    },
    Step {
        name: "unit",
        about: "unit and property tests; every fuzz corpus is replayed",
        needs: &[],
        is_quick: true,
        run: |workspace| workspace::run(workspace.cargo().args(["test", "--workspace"])),
    },
    Step { name: "tidy", about: "the rules no compiler knows", needs: &[], is_quick: true, run: tidy::run },
    Step {
        name: "doc",
        about: "the documentation builds without a warning",
        needs: &[],
        is_quick: true,
        run: |workspace| {
            workspace::run(
                workspace
                    .cargo()
                    .args(["doc", "--workspace", "--no-deps", "--quiet"])
                    .env("RUSTDOCFLAGS", "-D warnings"),
            )
        },
    },
    Step {
        name: "conformance",
        about: "causewayd satisfies the conformance suite",
        needs: &[],
        is_quick: false,
        run: |workspace| conformance::run(workspace, &conformance::Options::whole(Product::Causeway)),
    },
    Step {
        name: "conformance-mosquitto",
        about: "the suite judges mosquitto as known: it is the suite that is tested",
        needs: &[Program::Mosquitto],
        is_quick: false,
        run: |workspace| conformance::run(workspace, &conformance::Options::whole(Product::Mosquitto)),
    },
    Step {
        name: "interop",
        about: "foreign clients get along with causewayd, those of AWS IoT's shadows among them",
        needs: interop::NEEDS,
        is_quick: false,
        run: |workspace| {
            interop::run(workspace, &interop::Options::whole(Product::Causeway))?;
            prove::quick(workspace, "shadow-aws")
        },
    },
    Step {
        name: "durability",
        about: "the quick proofs that nothing acknowledged is lost, and no command without an outcome: killed, and without power",
        needs: &[],
        is_quick: false,
        run: |workspace| ["kill", "commands", "powercut"].iter().try_for_each(|name| prove::quick(workspace, name)),
    },
    Step {
        name: "identities",
        about: "the quick proofs that who is revoked is gone at once, and that certificates rotate unnoticed",
        needs: &[],
        is_quick: false,
        run: |workspace| ["revocation", "rotation"].iter().try_for_each(|name| prove::quick(workspace, name)),
    },
    Step {
        name: "enrolment",
        about: "the walk-through of the documentation works, from a vehicle's key to its first publish",
        needs: prove::enrolment::NEEDS,
        is_quick: false,
        run: |workspace| prove::quick(workspace, "enrolment"),
    },
    Step {
        name: "bench-check",
        about: "no hot path takes more instructions than its committed figure and 5%",
        needs: &[Program::Valgrind],
        is_quick: false,
        run: bench_check::whole,
    },
];

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed(_) => "FAILED",
            Self::Skipped(_) => "skipped",
        })
    }
}

/// Runs the steps and prints the summary.
///
/// # Errors
/// When a step fails, or is skipped although the environment says `CI=true`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let steps = chosen(options)?;
    if options.list {
        for step in steps {
            println!("{:<22} {}", step.name, step.about);
        }
        return Ok(());
    }
    let workspace = &Workspace { shares_test_build: options.only.is_empty(), ..workspace.clone() };
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let began = Instant::now();
    let mut results = Vec::new();
    for step in steps {
        println!("\n=== {}: {}", step.name, step.about);
        let began = Instant::now();
        let outcome = run_step(workspace, step);
        if let Outcome::Skipped(why) = &outcome {
            println!("{outcome}: {why}");
        }
        results.push((step.name, outcome, began.elapsed()));
    }
    println!("\n{}", summary(&results, began.elapsed()));
    verdict(&results, in_ci)
}

fn chosen(options: &Options) -> Result<Vec<&'static Step>> {
    for name in &options.only {
        if !STEPS.iter().any(|step| step.name == name) {
            let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
            bail!("no step is called {name}; there are {}", names.join(", "));
        }
    }
    Ok(STEPS
        .iter()
        .filter(|step| options.only.is_empty() || options.only.iter().any(|name| name == step.name))
        .filter(|step| !options.quick || step.is_quick)
        .collect())
}

fn run_step(workspace: &Workspace, step: &Step) -> Outcome {
    let missing: Vec<&str> =
        step.needs.iter().filter(|program| !program.is_present()).map(|program| program.install_line()).collect();
    if !missing.is_empty() {
        return Outcome::Skipped(format!("first run: {}", missing.join(" && ")));
    }
    match (step.run)(workspace) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            // The summary has room for the outermost only.
            println!("{error:#}");
            Outcome::Failed(error.to_string())
        }
    }
}

fn summary(results: &[(&str, Outcome, Duration)], total: Duration) -> String {
    let mut rows: Vec<Vec<String>> = results
        .iter()
        .map(|(name, outcome, took)| {
            let why = match outcome {
                Outcome::Passed => String::new(),
                // An error may quote a whole log; its first line names it.
                Outcome::Failed(why) | Outcome::Skipped(why) => why.lines().next().unwrap_or_default().to_owned(),
            };
            let seconds = format!("{:.1}", took.as_secs_f64());
            vec![(*name).to_owned(), outcome.to_string(), seconds, why]
        })
        .collect();
    rows.push(vec!["total".to_owned(), String::new(), format!("{:.1}", total.as_secs_f64()), String::new()]);
    table::render(&["step", "result", "seconds", "why"], &rows)
}

fn verdict(results: &[(&str, Outcome, Duration)], in_ci: bool) -> Result<()> {
    let count = |wanted: fn(&Outcome) -> bool| results.iter().filter(|(_, outcome, _)| wanted(outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    println!("{} passed, {failed} failed, {skipped} skipped", results.len() - failed - skipped);
    if failed > 0 {
        bail!("{failed} of {} steps failed", results.len());
    }
    if skipped > 0 && in_ci {
        bail!("CI must skip nothing, and {skipped} steps were skipped");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(outcome: Outcome) -> [(&'static str, Outcome, Duration); 1] {
        [("step", outcome, Duration::ZERO)]
    }

    #[test]
    fn a_failed_step_fails_the_run() {
        assert!(verdict(&result(Outcome::Passed), true).is_ok());
        assert!(verdict(&result(Outcome::Failed("why".into())), false).is_err());
    }

    #[test]
    fn a_skipped_step_fails_in_ci_only() {
        assert!(verdict(&result(Outcome::Skipped("why".into())), false).is_ok());
        assert!(verdict(&result(Outcome::Skipped("why".into())), true).is_err());
    }

    #[test]
    fn an_unknown_step_is_refused() {
        let options = Options { only: vec!["nonsense".into()], list: false, quick: false };
        assert!(chosen(&options).is_err());
    }
}
