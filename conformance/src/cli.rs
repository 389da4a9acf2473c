//! Owns the command line: options in, terminal summary and exit status out. Never talks to the broker itself.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::broker::Broker;
use crate::context::Setup;
use crate::known::{KnownFailures, selects};
use crate::registry::Test;
use crate::runner::{self, Finished, Outcome};
use crate::tests::SECTIONS;
use crate::transport::Target;
use crate::{report, wire};

/// Judges any MQTT broker by the normative statements of MQTT 5.0 and 3.1.1.
///
/// Exit status: 0 all as expected, 1 an unexpected failure or an unexpected pass, 2 the suite could not run.
#[derive(Debug, Parser)]
#[command(name = "causeway-conformance", version)]
pub struct Options {
    /// The broker's MQTT listener
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "list")]
    target: Option<String>,
    /// Shell command that runs the broker in the foreground: the suite starts it, restarts it for the tests of section
    /// `restart` (which are skipped without) and ends it
    #[arg(long, value_name = "COMMAND")]
    broker_command: Option<String>,
    /// The broker's WebSocket listener (tests of section 6 are skipped without)
    #[arg(long, value_name = "HOST:PORT")]
    ws_target: Option<String>,
    /// Run only tests whose name or statement id matches: a glob, or a part of it (repeatable)
    #[arg(long, value_name = "PATTERN")]
    filter: Vec<String>,
    /// Write report.html and junit.xml into this directory
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Failures that are expected, one `test-name # explanation` a line
    #[arg(long, value_name = "FILE")]
    known_failures: Option<PathBuf>,
    /// List the tests with their statements and stop
    #[arg(long)]
    list: bool,
    /// Tests run side by side
    #[arg(long, default_value_t = 16)]
    jobs: usize,
    /// How long one expected packet or closure may take
    #[arg(long, value_name = "MS", default_value_t = 4000)]
    timeout_ms: u64,
    /// How late the broker's timers may be (keep alive, will delay, expiry); some brokers look at them every few seconds
    #[arg(long, value_name = "MS", default_value_t = 8000)]
    timer_slack_ms: u64,
    /// How long one test may take
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    test_timeout_ms: u64,
    /// Speak TLS to --target
    #[arg(long, requires = "ca")]
    tls: bool,
    /// PEM file with the certificate authority of the broker
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Name to expect in the broker's certificate (default: the host of --target)
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// A valid user name, used by every connection
    #[arg(long, requires = "password")]
    username: Option<String>,
    /// Its password
    #[arg(long, requires = "username")]
    password: Option<String>,
    /// A valid user name for SCRAM-SHA-256
    #[arg(long, requires = "scram_password")]
    scram_username: Option<String>,
    /// Its password
    #[arg(long, requires = "scram_username")]
    scram_password: Option<String>,
}

/// Runs the command.
pub fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nothing is left to do if even standard error is closed.
            let _ = writeln!(std::io::stderr(), "causeway-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let all: Vec<Test> = SECTIONS.iter().flat_map(|section| section.tests).copied().collect();
    let chosen = |test: &&Test| options.filter.is_empty() || options.filter.iter().any(|filter| selects(filter, test));
    let tests: Vec<Test> = all.iter().filter(chosen).copied().collect();
    ensure!(!tests.is_empty(), "the filter selects no test");
    if options.list {
        return list(&tests).map(|()| true);
    }
    let known = options.known_failures.as_deref().map_or_else(|| Ok(KnownFailures::default()), KnownFailures::load)?;
    known.check_names(&all)?;
    let setup = Arc::new(setup(options)?);
    let limits = runner::probe(&setup)?;

    let started = Instant::now();
    let on_terminal = std::io::stderr().is_terminal();
    let progress = |count: usize, finished: &Finished| {
        if on_terminal {
            // A lost progress line is no reason to stop.
            let _ = write!(std::io::stderr(), "\r\x1b[K[{count}/{}] {}", tests.len(), finished.test.name);
        }
    };
    let results = runner::run(&setup, &limits, &tests, &known, options.jobs, &progress);
    if on_terminal {
        write!(std::io::stderr(), "\r\x1b[K")?;
    }
    let took = started.elapsed();
    if let Some(broker) = &setup.broker {
        broker.check_alive()?;
    }
    summarize(&results, took)?;
    if let Some(folder) = &options.report {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        std::fs::write(folder.join("junit.xml"), report::junit::render(&results, took))?;
        let target = options.target.as_deref().unwrap_or_default();
        std::fs::write(folder.join("report.html"), report::html::render(target, SECTIONS, &results, took))?;
        writeln!(std::io::stdout(), "Reports: {}", folder.join("report.html").display())?;
    }
    Ok(!results.iter().any(|finished| finished.outcome.is_bad()))
}

fn list(tests: &[Test]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for test in tests {
        writeln!(out, "{}\t{}", test.name, test.ids.join(" "))?;
    }
    Ok(())
}

fn setup(options: &Options) -> Result<Setup> {
    let address = options.target.as_deref().context("--target is missing")?;
    let mut target = Target::tcp(address)?;
    if let (true, Some(ca)) = (options.tls, &options.ca) {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host.trim_matches(['[', ']']));
        target = target.with_tls(ca, options.server_name.as_deref().unwrap_or(host))?;
    }
    let websocket = match &options.ws_target {
        Some(address) => Some((Target::tcp(address)?, address.clone())),
        None => None,
    };
    let listeners = [Some(target.clone()), websocket.as_ref().map(|(target, _)| target.clone())];
    let broker = match &options.broker_command {
        Some(command) => Some(Broker::start(command, listeners.into_iter().flatten().collect())?),
        None => None,
    };
    let pair = |name: &Option<String>, password: &Option<String>| name.clone().zip(password.clone());
    Ok(Setup {
        target,
        websocket,
        step: Duration::from_millis(options.timeout_ms),
        test_limit: Duration::from_millis(options.test_timeout_ms),
        timer_slack: Duration::from_millis(options.timer_slack_ms),
        credential: pair(&options.username, &options.password),
        scram: pair(&options.scram_username, &options.scram_password),
        broker,
        run: run_name(),
    })
}

/// Five letters and digits that differ from run to run.
fn run_name() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut number = clock.as_millis() as usize ^ (std::process::id() as usize) << 8;
    let mut name = String::new();
    for _ in 0..5 {
        name.push(char::from(DIGITS[number % DIGITS.len()]));
        number /= DIGITS.len();
    }
    name
}

fn summarize(results: &[Finished], took: Duration) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for finished in results.iter().filter(|finished| finished.outcome != Outcome::Passed) {
        let (name, word) = (finished.test.name, finished.outcome.word());
        writeln!(out, "{:<16}{name}: {}", word.to_uppercase(), finished.outcome.detail())?;
        if matches!(finished.outcome, Outcome::Failed(_)) {
            writeln!(out, "    statements: {}", finished.test.ids.join(" "))?;
            for line in &finished.transcript {
                writeln!(out, "    | {}", wire::shorten(line, 220))?;
            }
        }
    }
    let count = |word: &str| results.iter().filter(|finished| finished.outcome.word() == word).count();
    writeln!(
        out,
        "{} tests in {:.1} s: {} passed, {} failed, {} known failures, {} unexpected passes, {} skipped",
        results.len(),
        took.as_secs_f64(),
        count("passed"),
        count("failed"),
        count("known failure"),
        count("unexpected pass"),
        count("skipped")
    )?;
    if count("unexpected pass") > 0 {
        writeln!(out, "A listed known failure passes: delete its line from the known-failures file.")?;
    }
    Ok(())
}
