//! Owns the running of tests side by side and what became of each. Never judges a broker itself, and never prints.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::context::{Ctx, Limits, Setup, Skipped, Transcript};
use crate::known::KnownFailures;
use crate::registry::Test;
use crate::restart::{Ending, Gathering};

const TRANSCRIPT_LINES: usize = 24;

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker behaved.
    Passed,
    /// The broker broke a rule: why.
    Failed(String),
    /// It failed as listed: why, and the explanation in the list.
    KnownFailure(String, String),
    /// It passed although listed: the explanation in the list.
    UnexpectedPass(String),
    /// It could not be run against this broker: why.
    Skipped(String),
}

impl Outcome {
    /// Whether this outcome makes the run fail.
    pub fn is_bad(&self) -> bool {
        matches!(self, Outcome::Failed(_) | Outcome::UnexpectedPass(_))
    }

    /// One word for reports.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed(_) => "failed",
            Outcome::KnownFailure(..) => "known failure",
            Outcome::UnexpectedPass(_) => "unexpected pass",
            Outcome::Skipped(_) => "skipped",
        }
    }

    /// The text behind the word.
    pub fn detail(&self) -> String {
        match self {
            Outcome::Passed => String::new(),
            Outcome::Failed(reason) | Outcome::Skipped(reason) => reason.clone(),
            Outcome::KnownFailure(reason, explanation) => format!("{explanation} ({reason})"),
            Outcome::UnexpectedPass(explanation) => {
                format!("listed as a known failure: {explanation}")
            }
        }
    }
}

/// A finished test.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The test.
    pub test: Test,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// Its last packets.
    pub transcript: Vec<String>,
}

/// Asks the broker for its limits with one ordinary connection; an error means there is no usable broker.
pub fn probe(setup: &Arc<Setup>) -> Result<Limits> {
    let ctx = Ctx::new(setup.clone(), None, 0, Transcript::default());
    let client = ctx.client("probe").context("the broker does not accept an ordinary MQTT 5 connection")?;
    let limits = Limits::of(&client.connack);
    client.disconnect()?;
    Ok(limits)
}

/// Runs the tests on `jobs` threads, then those that restart the broker, each way of ending it at once; `progress` is called after each with the number finished so far.
pub fn run(
    setup: &Arc<Setup>,
    limits: &Limits,
    tests: &[Test],
    known: &KnownFailures,
    jobs: usize,
    progress: &(dyn Fn(usize, &Finished) + Sync),
) -> Vec<Finished> {
    let done = Mutex::new(Vec::with_capacity(tests.len()));
    let numbered = |ending: Option<Ending>| {
        let all = tests.iter().enumerate().map(|(index, test)| (index + 1, *test));
        all.filter(|(_, test)| test.ending == ending).collect::<Vec<(usize, Test)>>()
    };
    let finish = |number: usize, test: Test, gathering: Option<&Arc<Gathering>>| {
        let ctx = Ctx::new(setup.clone(), Some(limits.clone()), number, Transcript::default());
        let ctx = match gathering {
            Some(gathering) => ctx.with_gathering(gathering.clone()),
            None => ctx,
        };
        let finished = run_one(test, &ctx, known);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push((number, finished));
        if let Some((_, finished)) = done.last() {
            progress(done.len(), finished);
        }
    };

    let plain = numbered(None);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, plain.len().max(1)) {
            scope.spawn(|| {
                while let Some((number, test)) = plain.get(next.fetch_add(1, Ordering::Relaxed)) {
                    finish(*number, *test, None);
                }
            });
        }
    });
    for ending in [Ending::Stop, Ending::Kill] {
        let together = numbered(Some(ending));
        let gathering = Arc::new(Gathering::new(ending, together.len()));
        std::thread::scope(|scope| {
            for (number, test) in together {
                let (gathering, setup, finish) = (&gathering, setup, &finish);
                scope.spawn(move || {
                    finish(number, test, Some(gathering));
                    gathering.leave(setup.broker.as_ref());
                });
            }
        });
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, finished)| finished).collect()
}

fn run_one(test: Test, ctx: &Ctx, known: &KnownFailures) -> Finished {
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (test.run)(ctx)))
        .unwrap_or_else(|_| Err(anyhow::anyhow!("the test itself panicked")));
    let explanation = known.explanation(test.name).map(str::to_owned);
    let outcome = match (result, explanation) {
        (Ok(()), None) => Outcome::Passed,
        (Ok(()), Some(explanation)) => Outcome::UnexpectedPass(explanation),
        (Err(error), explanation) => match (error.downcast_ref::<Skipped>(), explanation) {
            (Some(skipped), _) => Outcome::Skipped(skipped.0.clone()),
            (None, Some(explanation)) => Outcome::KnownFailure(format!("{error:#}"), explanation),
            (None, None) => Outcome::Failed(format!("{error:#}")),
        },
    };
    Finished { test, outcome, took: started.elapsed(), transcript: ctx.transcript().last(TRANSCRIPT_LINES) }
}
