//! The proof of `kill`: what was acknowledged is kept, whenever the process dies.
//!
//! Owns the configuration of the broker that is killed, the thresholds and
//! the table. The load, the kills and the books are `causeway-bench kill`.

use std::io::{BufRead as _, BufReader};
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::daemon::{Configured, Data, Product, Setup, Transport};
use crate::table;
use crate::workspace::{Profile, Workspace};

const QUICK_ROUNDS: u32 = 5;
const FULL_ROUNDS: u32 = 50;

/// The load is to be bounded by what the broker can do, and not by what it may queue.
const LIMITS: &str = "session_queue_messages_max = 100000000\nsession_queue_bytes_max = 1000000000000\n";

/// A line of the load: one round.
#[derive(Debug, Deserialize)]
struct Round {
    round: u32,
    load_ms: u64,
    acknowledged: u64,
    recovery_ms: f64,
}

/// The last line of the load: all rounds.
#[derive(Debug, Deserialize)]
struct Summary {
    rounds: u32,
    seed: u64,
    acknowledged: u64,
    acknowledged_per_second: f64,
    refused: u64,
    delivered: u64,
    lost: u64,
    duplicates_qos1: u64,
    duplicates_qos2: u64,
    out_of_order: u64,
    unknown: u64,
    sessions_lost: u64,
    recovery_ms_p50: f64,
    recovery_ms_max: f64,
}

/// Kills the broker in each round and prints the figures. With `in_memory`,
/// the broker keeps nothing, and the proof has to fail.
///
/// # Errors
/// When something cannot be started, or a promise is broken.
pub(super) fn prove(workspace: &Workspace, against: Product, full: bool, in_memory: bool) -> Result<()> {
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let broker = Configured::new(
        workspace,
        &Setup {
            product: against,
            profile: Profile::Release,
            purpose: "kill",
            transports: &[Transport::Tcp],
            has_user: false,
            data: if in_memory { Data::Lost } else { Data::Kept },
            limits: LIMITS,
        },
    )?;
    let rounds = if full { FULL_ROUNDS } else { QUICK_ROUNDS };
    let mut load = Command::new(bench);
    load.args(["kill", "--json", "--rounds", &rounds.to_string()])
        .args(["--target", &broker.address(Transport::Tcp)?.to_string()])
        .args(["--broker-command", &broker.command()]);
    if in_memory {
        // Everything is lost: there is no use in waiting for it.
        load.args(["--patience-seconds", "1"]);
    }
    let mut load = load.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run causeway-bench")?;
    let summary = follow(load.stdout.take().context("causeway-bench has no output")?);
    let status = load.wait()?;
    println!("broker log: {}\n", broker.log().display());
    let summary = summary?.with_context(|| format!("causeway-bench gave up: {status}"))?;
    println!("{}", figures(against, &summary));
    verdict(&summary, rounds)?;
    ensure!(status.success(), "causeway-bench failed: {status}");
    Ok(())
}

/// Prints each round as it ends; the summary comes last, if at all.
fn follow(output: ChildStdout) -> Result<Option<Summary>> {
    for line in BufReader::new(output).lines() {
        let line = line?;
        match serde_json::from_str::<Round>(&line) {
            Ok(Round { round, load_ms, acknowledged, recovery_ms }) => println!(
                "round {round}: killed after {load_ms} ms and {acknowledged} acknowledgements, back in {recovery_ms:.0} ms"
            ),
            Err(_) => return serde_json::from_str(&line).with_context(|| format!("causeway-bench said {line}")),
        }
    }
    Ok(None)
}

fn figures(against: Product, summary: &Summary) -> String {
    let rows = [
        ("seed", summary.seed.to_string()),
        ("acknowledged per second under load", format!("{:.0}", summary.acknowledged_per_second)),
        ("refused", summary.refused.to_string()),
        ("rounds, each with a SIGKILL", summary.rounds.to_string()),
        ("messages acknowledged", summary.acknowledged.to_string()),
        ("messages delivered", summary.delivered.to_string()),
        ("duplicates, QoS 1 (allowed)", summary.duplicates_qos1.to_string()),
        ("duplicates, QoS 2", summary.duplicates_qos2.to_string()),
        ("out of order", summary.out_of_order.to_string()),
        ("delivered, but never sent", summary.unknown.to_string()),
        ("sessions lost", summary.sessions_lost.to_string()),
        ("messages lost", summary.lost.to_string()),
        ("recovery p50, ms", format!("{:.0}", summary.recovery_ms_p50)),
        ("recovery max, ms", format!("{:.0}", summary.recovery_ms_max)),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table::render(&[against.name(), "figure"], &rows)
}

fn verdict(summary: &Summary, rounds: u32) -> Result<()> {
    let mut broken = Vec::new();
    for (count, what) in [
        (summary.lost, "acknowledged messages lost"),
        (summary.duplicates_qos2, "messages of QoS 2 delivered twice"),
        (summary.out_of_order, "messages out of order"),
        (summary.unknown, "messages nobody sent"),
        (summary.sessions_lost, "sessions lost"),
    ] {
        if count > 0 {
            broken.push(format!("{count} {what}"));
        }
    }
    if !broken.is_empty() {
        bail!("the broker breaks its promise: {}", broken.join("; "));
    }
    ensure!(summary.rounds == rounds && summary.acknowledged > 0, "the load did not do its work");
    println!("holds: {} messages acknowledged, none lost in {rounds} crashes", summary.acknowledged);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            rounds: 5,
            seed: 1,
            acknowledged: 10,
            acknowledged_per_second: 1.0,
            refused: 0,
            delivered: 60,
            lost: 0,
            duplicates_qos1: 3,
            duplicates_qos2: 0,
            out_of_order: 0,
            unknown: 0,
            sessions_lost: 0,
            recovery_ms_p50: 1.0,
            recovery_ms_max: 2.0,
        }
    }

    #[test]
    fn every_broken_promise_counts() {
        assert!(verdict(&summary(), 5).is_ok());
        assert!(verdict(&Summary { lost: 1, ..summary() }, 5).is_err());
        assert!(verdict(&Summary { duplicates_qos2: 1, ..summary() }, 5).is_err());
        assert!(verdict(&Summary { out_of_order: 1, ..summary() }, 5).is_err());
        assert!(verdict(&Summary { unknown: 1, ..summary() }, 5).is_err());
        assert!(verdict(&Summary { sessions_lost: 1, ..summary() }, 5).is_err());
        assert!(verdict(&Summary { rounds: 4, ..summary() }, 5).is_err(), "a round is missing");
        assert!(verdict(&Summary { acknowledged: 0, ..summary() }, 5).is_err(), "nothing was shown");
    }
}
