//! The proof of `commands`: each request has exactly one outcome, and none is somebody else's.
//!
//! Owns the configuration of the broker, how much is requested, the thresholds and the table. The vehicles, the requesters, the kills and
//! the books are `causeway-bench commands`.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::daemon::{Configured, Data, Product, Setup, Transport};
use crate::table;
use crate::workspace::{Profile, Workspace};

/// How much is requested, and for how long.
struct Scale {
    vehicles: u32,
    requests: u32,
    requesters: u32,
    kills: u32,
    deadline_seconds: u32,
}

const QUICK: Scale = Scale { vehicles: 200, requests: 2_000, requesters: 4, kills: 2, deadline_seconds: 12 };
const FULL: Scale = Scale { vehicles: 1_000, requests: 10_000, requesters: 8, kills: 4, deadline_seconds: 60 };

/// The last line of the load.
#[derive(Debug, Deserialize)]
struct Summary {
    vehicles: u32,
    kills: u32,
    pending_most: u64,
    recovery_ms_max: f64,
    seconds: f64,
    requests: u64,
    without_outcome: u64,
    with_several: u64,
    wrong: u64,
    outcomes: BTreeMap<String, u64>,
    delivered: u64,
    delivered_again: u64,
    replies: u64,
    replies_duplicate: u64,
    replies_forged: u64,
    replies_late: u64,
    repeated: u64,
    told_again: u64,
    too_slow: u64,
    sessions_lost: u64,
    reconnects: u64,
}

/// Commands very many vehicles at once, kills the broker meanwhile, and prints the figures.
///
/// # Errors
/// When something cannot be started, or a promise is broken.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let scale = if full { &FULL } else { &QUICK };
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let folder = TempDir::with_prefix_in("commands-", workspace.scratch("daemon-data")?)?;
    let keys = folder.path().join("keys.json");
    let key = Command::new(&bench).arg("commands-key").output().context("cannot run causeway-bench")?;
    ensure!(key.status.success(), "causeway-bench commands-key failed: {}", key.status);
    std::fs::write(&keys, key.stdout)?;
    let broker = Configured::new(
        workspace,
        &Setup {
            product: Product::Causeway,
            profile: Profile::Release,
            purpose: "commands",
            transports: &[Transport::Tcp],
            has_user: false,
            data: Data::Kept,
            limits: &sections(&keys.display().to_string()),
        },
    )?;
    let mut load = Command::new(bench);
    load.args(["commands", "--json", "--target", &broker.address(Transport::Tcp)?.to_string()]);
    load.args(["--broker-command", &broker.command()]);
    for (name, number) in [
        ("--vehicles", scale.vehicles),
        ("--requests", scale.requests),
        ("--requesters", scale.requesters),
        ("--kills", scale.kills),
        ("--deadline-seconds", scale.deadline_seconds),
    ] {
        load.args([name, &number.to_string()]);
    }
    let output = load.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run causeway-bench")?;
    println!("broker log: {}\n", broker.log().display());
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(summary) = said.lines().last().and_then(|line| serde_json::from_str::<Summary>(line).ok()) else {
        bail!("causeway-bench gave up: {}", output.status);
    };
    println!("{}", figures(&summary));
    verdict(&summary, scale)?;
    ensure!(output.status.success(), "causeway-bench failed: {}", output.status);
    Ok(())
}

/// Two shards, so that requests and outcomes cross between them; who clients are, tokens say.
fn sections(keys: &str) -> String {
    format!(
        "[broker]\nshards = 2\n[registry]\nunknown_vehicles = \"allow\"\n[authentication.jwt]\nkeys_file = \"{keys}\"\n"
    )
}

fn figures(summary: &Summary) -> String {
    let outcomes = summary.outcomes.iter().map(|(outcome, count)| (format!("outcome: {outcome}"), count.to_string()));
    let rows = [
        ("vehicles", summary.vehicles.to_string()),
        ("requests", summary.requests.to_string()),
        ("pending at the same time", summary.pending_most.to_string()),
        ("SIGKILLs", summary.kills.to_string()),
        ("recovery max, ms", format!("{:.0}", summary.recovery_ms_max)),
        ("connections made again", summary.reconnects.to_string()),
        ("commands delivered", summary.delivered.to_string()),
        ("delivered again, marked (allowed)", summary.delivered_again.to_string()),
        ("replies in time, in any order", summary.replies.to_string()),
        ("replies said twice", summary.replies_duplicate.to_string()),
        ("replies forged by other vehicles", summary.replies_forged.to_string()),
        ("replies after the deadline", summary.replies_late.to_string()),
        ("outcomes that came again, marked (allowed)", summary.repeated.to_string()),
        ("outcomes of requests that came again (allowed)", summary.told_again.to_string()),
        ("replies that a crash made late", summary.too_slow.to_string()),
        ("seconds", format!("{:.1}", summary.seconds)),
    ];
    let rows = rows.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(outcomes);
    let wrong = [
        ("sessions lost", summary.sessions_lost),
        ("requests without an outcome", summary.without_outcome),
        ("requests with several", summary.with_several),
        ("somebody else's outcomes, wrong replies, commands sent twice", summary.wrong),
    ];
    let rows = rows.chain(wrong.into_iter().map(|(name, count)| (name.to_owned(), count.to_string())));
    let rows: Vec<Vec<String>> = rows.map(|(name, value)| vec![name, value]).collect();
    table::render(&["commands", "figure"], &rows)
}

fn verdict(summary: &Summary, scale: &Scale) -> Result<()> {
    let broken = [
        (summary.without_outcome, "requests without an outcome"),
        (summary.with_several, "requests with several outcomes"),
        (summary.wrong, "outcomes or deliveries that are wrong"),
        (summary.sessions_lost, "sessions lost"),
    ];
    let broken: Vec<String> =
        broken.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !broken.is_empty() {
        bail!("the broker breaks its promise: {}", broken.join("; "));
    }
    let told: u64 = summary.outcomes.values().sum();
    ensure!(summary.requests == u64::from(scale.requests) && told == summary.requests, "not all was requested");
    let replied = summary.outcomes.get("replied").copied().unwrap_or(0);
    // Two in three are answered in time, unless the machine is so slow that hardly anything is shown.
    ensure!(replied * 2 > summary.requests, "only {replied} of {} requests were answered", summary.requests);
    ensure!(summary.pending_most * 20 > summary.requests * 19, "only {} were pending at once", summary.pending_most);
    println!(
        "holds: {} requests, {told} outcomes, none somebody else's, over {} SIGKILLs",
        summary.requests, scale.kills
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            vehicles: 1,
            kills: 2,
            pending_most: 2_000,
            recovery_ms_max: 1.0,
            seconds: 1.0,
            requests: 2_000,
            without_outcome: 0,
            with_several: 0,
            wrong: 0,
            outcomes: [("replied".to_owned(), 1_500), ("timed-out".to_owned(), 500)].into(),
            delivered: 2_000,
            delivered_again: 0,
            replies: 1_500,
            replies_duplicate: 0,
            replies_forged: 0,
            replies_late: 0,
            repeated: 0,
            told_again: 0,
            too_slow: 0,
            sessions_lost: 0,
            reconnects: 0,
        }
    }

    #[test]
    fn every_broken_promise_counts() {
        assert!(verdict(&summary(), &QUICK).is_ok());
        assert!(verdict(&Summary { without_outcome: 1, ..summary() }, &QUICK).is_err());
        assert!(verdict(&Summary { with_several: 1, ..summary() }, &QUICK).is_err());
        assert!(verdict(&Summary { wrong: 1, ..summary() }, &QUICK).is_err());
        assert!(verdict(&Summary { sessions_lost: 1, ..summary() }, &QUICK).is_err());
        assert!(verdict(&Summary { pending_most: 1_000, ..summary() }, &QUICK).is_err(), "not at the same time");
        assert!(verdict(&summary(), &FULL).is_err(), "not all was requested");
        let outcomes = [("timed-out".to_owned(), 2_000)].into();
        assert!(verdict(&Summary { outcomes, ..summary() }, &QUICK).is_err(), "nothing was shown");
    }
}
