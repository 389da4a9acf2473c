//! The proof of `connections`: many idle vehicles, and many that arrive.
//!
//! Owns the thresholds, the split into load processes and the figures of the
//! broker's own process. The load itself is `causeway-bench connections`.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::daemon::{Daemon, Data, Product, Setup, Transport, with_all_files};
use crate::process;
use crate::table;
use crate::workspace::{Profile, Workspace};

/// What must be reached.
struct Threshold {
    /// Idle connections, all alive at the end.
    held: u64,
    /// How long they idle, in seconds.
    hold_seconds: u64,
    /// CONNECT to CONNACK to DISCONNECT, each on its own TCP connection, per second.
    connects_per_second: f64,
    /// How long that is measured, in seconds.
    rate_seconds: u64,
}

const QUICK: Threshold = Threshold { held: 2_000, hold_seconds: 5, connects_per_second: 1_000.0, rate_seconds: 3 };

const FULL: Threshold = Threshold { held: 10_000, hold_seconds: 30, connects_per_second: 5_000.0, rate_seconds: 10 };

/// A load process holds at most so many, well below common file limits.
const HELD_PER_PROCESS: u64 = 5_000;

/// The first line of a load process: all its connections are open.
#[derive(Debug, Deserialize)]
struct Opened {
    opened: u64,
    seconds: f64,
}

/// The line after the idle time.
#[derive(Debug, Deserialize)]
struct Held {
    alive: u64,
    pings_answered: u64,
    messages_sent: u64,
    messages_received: u64,
    latency_ms_p50: f64,
    latency_ms_max: f64,
}

/// The line of the connect rate.
#[derive(Debug, Deserialize)]
struct Rate {
    connects: u64,
    failures: u64,
    per_second: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
}

/// The broker's process, before and after the hold.
struct Cost {
    bytes_per_connection: f64,
    resident_bytes: u64,
    open_cpu_seconds: f64,
    hold_cpu_seconds: f64,
    rate_cpu_seconds: f64,
}

/// Holds the connections, then measures the rate, and prints the figures.
///
/// # Errors
/// When something cannot be started or the figures fall short.
pub(super) fn prove(workspace: &Workspace, against: Product, full: bool) -> Result<()> {
    let threshold = if full { &FULL } else { &QUICK };
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let mut daemon = Daemon::start(
        workspace,
        &Setup {
            product: against,
            profile: Profile::Release,
            purpose: "connections",
            transports: &[Transport::Tcp],
            has_user: false,
            data: Data::Lost,
            limits: "",
        },
    )?;
    let target = daemon.address(Transport::Tcp)?;
    let pid = daemon.pid();

    let resident_before = process::resident_bytes(pid)?;
    let cpu_before = process::cpu_seconds(pid)?;
    let mut holders = start_holders(&bench, target, threshold)?;
    let opened = lines::<Opened>(&mut holders)?;
    let resident_bytes = process::resident_bytes(pid)?;
    let cpu_open = process::cpu_seconds(pid)?;
    let held = lines::<Held>(&mut holders)?;
    let cpu_held = process::cpu_seconds(pid)?;
    finish(holders)?;
    daemon.check_alive()?;

    let mut racer =
        vec![Load::start(&bench, target, &["--hold", "0", "--rate-seconds", &threshold.rate_seconds.to_string()])?];
    let rate = lines::<Rate>(&mut racer)?.remove(0);
    let cpu_rate = process::cpu_seconds(pid)?;
    finish(racer)?;
    daemon.check_alive()?;

    let cost = Cost {
        bytes_per_connection: resident_bytes.saturating_sub(resident_before) as f64 / threshold.held as f64,
        resident_bytes,
        open_cpu_seconds: cpu_open - cpu_before,
        hold_cpu_seconds: cpu_held - cpu_open,
        rate_cpu_seconds: cpu_rate - cpu_held,
    };
    println!("{}", figures(against, &opened, &held, &rate, &cost));
    verdict(threshold, &held, &rate)
}

fn start_holders(bench: &Path, target: SocketAddr, threshold: &Threshold) -> Result<Vec<Load>> {
    let processes = threshold.held.div_ceil(HELD_PER_PROCESS);
    (0..processes)
        .map(|index| {
            // What does not divide evenly goes to the first ones.
            let share = threshold.held / processes + u64::from(index < threshold.held % processes);
            let hold_seconds = threshold.hold_seconds.to_string();
            Load::start(bench, target, &["--hold", &share.to_string(), "--hold-seconds", &hold_seconds])
        })
        .collect()
}

fn figures(against: Product, opened: &[Opened], held: &[Held], rate: &Rate, cost: &Cost) -> String {
    let sum = |field: fn(&Held) -> u64| held.iter().map(field).sum::<u64>();
    let max = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let rows = [
        ("load processes", held.len().to_string()),
        ("connections opened", opened.iter().map(|line| line.opened).sum::<u64>().to_string()),
        ("time to open them, s", format!("{:.2}", max(&mut opened.iter().map(|line| line.seconds)))),
        ("alive at the end", sum(|line| line.alive).to_string()),
        ("pings answered", sum(|line| line.pings_answered).to_string()),
        ("messages sent meanwhile", sum(|line| line.messages_sent).to_string()),
        ("messages received", sum(|line| line.messages_received).to_string()),
        ("message latency p50, ms", format!("{:.2}", max(&mut held.iter().map(|line| line.latency_ms_p50)))),
        ("message latency max, ms", format!("{:.2}", max(&mut held.iter().map(|line| line.latency_ms_max)))),
        ("broker resident, MB", format!("{:.1}", cost.resident_bytes as f64 / 1e6)),
        ("broker bytes per idle connection", format!("{:.0}", cost.bytes_per_connection)),
        ("broker CPU to open, s", format!("{:.2}", cost.open_cpu_seconds)),
        ("broker CPU while idle, s", format!("{:.2}", cost.hold_cpu_seconds)),
        ("connects in the rate test", rate.connects.to_string()),
        ("connects failed", rate.failures.to_string()),
        ("connect latency p50, ms", format!("{:.2}", rate.latency_ms_p50)),
        ("connect latency p99, ms", format!("{:.2}", rate.latency_ms_p99)),
        ("broker CPU in the rate test, s", format!("{:.2}", cost.rate_cpu_seconds)),
        ("connects per second", format!("{:.0}", rate.per_second)),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table::render(&[against.name(), "figure"], &rows)
}

fn verdict(threshold: &Threshold, held: &[Held], rate: &Rate) -> Result<()> {
    let alive: u64 = held.iter().map(|line| line.alive).sum();
    let mut shortfalls = Vec::new();
    if alive < threshold.held {
        shortfalls.push(format!("{alive} of {} connections alive", threshold.held));
    }
    for line in held {
        if line.messages_sent == 0 || line.messages_received != line.messages_sent {
            shortfalls.push(format!("{} of {} messages received", line.messages_received, line.messages_sent));
        }
    }
    if rate.failures > 0 {
        shortfalls.push(format!("{} connects failed", rate.failures));
    }
    if rate.per_second < threshold.connects_per_second {
        shortfalls
            .push(format!("{:.0} connects per second, {:.0} wanted", rate.per_second, threshold.connects_per_second));
    }
    if !shortfalls.is_empty() {
        bail!("falls short: {}", shortfalls.join("; "));
    }
    println!(
        "holds: {alive} connections, {:.0} connects per second (wanted {} and {:.0})",
        rate.per_second, threshold.held, threshold.connects_per_second
    );
    Ok(())
}

/// A load process; killed and reaped when dropped.
struct Load {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Load {
    fn start(bench: &Path, target: SocketAddr, arguments: &[&str]) -> Result<Self> {
        let mut child = with_all_files(bench)
            .args(["connections", "--json", "--target", &target.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start causeway-bench")?;
        let output = child.stdout.take().context("causeway-bench has no output")?;
        Ok(Self { child, output: BufReader::new(output) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Already ended is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next line of every load process.
fn lines<T: DeserializeOwned>(loads: &mut [Load]) -> Result<Vec<T>> {
    loads
        .iter_mut()
        .map(|load| {
            let mut line = String::new();
            load.output.read_line(&mut line)?;
            ensure!(!line.is_empty(), "causeway-bench ended early");
            serde_json::from_str(&line).with_context(|| format!("causeway-bench said {line}"))
        })
        .collect()
}

fn finish(loads: Vec<Load>) -> Result<()> {
    for mut load in loads {
        let status = load.child.wait()?;
        ensure!(status.success(), "causeway-bench failed: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(alive: u64, messages_received: u64) -> Held {
        Held {
            alive,
            pings_answered: alive,
            messages_sent: 10,
            messages_received,
            latency_ms_p50: 0.1,
            latency_ms_max: 0.2,
        }
    }

    fn rate(per_second: f64, failures: u64) -> Rate {
        Rate { connects: 1, failures, per_second, latency_ms_p50: 0.1, latency_ms_p99: 0.2 }
    }

    #[test]
    fn every_shortfall_fails() {
        assert!(verdict(&QUICK, &[held(2_000, 10)], &rate(1_500.0, 0)).is_ok());
        assert!(verdict(&QUICK, &[held(1_999, 10)], &rate(1_500.0, 0)).is_err());
        assert!(verdict(&QUICK, &[held(2_000, 9)], &rate(1_500.0, 0)).is_err());
        assert!(verdict(&QUICK, &[held(2_000, 10)], &rate(999.0, 0)).is_err());
        assert!(verdict(&QUICK, &[held(2_000, 10)], &rate(1_500.0, 1)).is_err());
    }
}
