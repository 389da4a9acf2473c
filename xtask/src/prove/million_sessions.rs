//! The proof of `million-sessions`: a daemon with very many sessions and messages on its disk is ready soon.
//!
//! Owns the thresholds, the daemon and the table. The folder it is started on, and the clients that come back, are `causeway-bench`'s.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::load::{self, Folder, Lines, Server};
use crate::workspace::{Profile, Workspace};
use crate::{process, table};

/// From the start of the process to readiness.
const READY_MAX: Duration = Duration::from_secs(10);
/// A daemon that takes longer is not waited for.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// Clients that come back.
const RETURNING: u64 = 50;

struct Size {
    sessions: u64,
    queued_bytes_max: u64,
}

const QUICK: Size = Size { sessions: 100_000, queued_bytes_max: 100_000_000 };
const FULL: Size = Size { sessions: 1_000_000, queued_bytes_max: 10_000_000_000 };
/// The queues take at most this part of the free disk.
const FREE_PART: u64 = 4;

/// The bounds are not what is measured. Nothing is folded while the clients collect.
const LIMITS: &str = "sessions_max = 2000000\n";

#[derive(Debug, Clone, Default, Deserialize)]
struct Made {
    sessions: u64,
    messages: u64,
    queued_bytes: u64,
    sessions_seconds: f64,
    messages_seconds: f64,
    checkpoint_seconds: f64,
    log_bytes: u64,
    state_bytes: u64,
    records_to_replay: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Collected {
    sessions_present: u64,
    sessions_missing: u64,
    messages: u64,
    wrong: u64,
    first_message_ms_max: f64,
}

/// The daemon's process.
struct Started {
    ready: Duration,
    resident_bytes: u64,
    resident_bytes_later: u64,
    cpu_seconds: f64,
}

/// Makes the folder, starts the daemon on it, and prints the figures.
///
/// # Errors
/// When something cannot be run, or the figures fall short.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let size = if full { &FULL } else { &QUICK };
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    workspace.build("causeway-broker", "causewayd", Profile::Release)?;
    let folder = Folder::new(workspace)?;
    let data = folder.path().join("data");
    let queued_bytes = size.queued_bytes_max.min(free_bytes(folder.path())? / FREE_PART);
    let made: Made = load::run(
        &bench,
        &load::words(&[
            &"make-sessions",
            &"--folder",
            &data.display(),
            &"--sessions",
            &size.sessions,
            &"--queued-bytes",
            &queued_bytes,
        ]),
    )?;
    let lines = Lines { limits: LIMITS, ..Lines::default() };
    let mut server = Server::start(workspace, "million-sessions", (folder.path(), &data), &lines)?;
    let ready = server.wait_until_ready(READY_DEADLINE)?;
    let resident_bytes = process::resident_bytes(server.pid())?;
    let cpu_seconds = process::cpu_seconds(server.pid())?;
    let collected: Collected = load::run(
        &bench,
        &load::words(&[
            &"collect-sessions",
            &"--target",
            &server.mqtt,
            &"--sessions",
            &made.sessions,
            &"--messages",
            &made.messages,
            &"--returning",
            &RETURNING,
        ]),
    )?;
    server.check_alive()?;
    let resident_bytes_later = process::resident_bytes(server.pid())?;
    let started = Started { ready, resident_bytes, resident_bytes_later, cpu_seconds };
    println!("{}", render(&made, &started, &collected));
    verdict(size, &made, ready, &collected)
}

/// Free room of the disk that holds the folder, as `df` has it.
fn free_bytes(folder: &Path) -> Result<u64> {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(folder).output().context("cannot run df")?;
    let text = String::from_utf8(output.stdout)?;
    let number = text.lines().nth(1).context("df names no free space")?;
    Ok(number.trim().parse()?)
}

fn render(made: &Made, started: &Started, collected: &Collected) -> String {
    let megabytes = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
    let rows = [
        ("stored sessions", made.sessions.to_string()),
        ("messages that wait", made.messages.to_string()),
        ("payload that waits, MB", megabytes(made.queued_bytes)),
        ("log, MB", megabytes(made.log_bytes)),
        ("folded state, MB", megabytes(made.state_bytes)),
        ("records behind the last fold", made.records_to_replay.to_string()),
        ("time to make the sessions, s", format!("{:.1}", made.sessions_seconds)),
        ("time to make the messages, s", format!("{:.1}", made.messages_seconds)),
        ("time to fold them, s", format!("{:.1}", made.checkpoint_seconds)),
        ("sessions that came back", (collected.sessions_present + collected.sessions_missing).to_string()),
        ("of them known", collected.sessions_present.to_string()),
        ("messages they got", collected.messages.to_string()),
        ("messages that were wrong", collected.wrong.to_string()),
        ("CONNECT to the first message, max, ms", format!("{:.1}", collected.first_message_ms_max)),
        ("broker's CPU until ready, s", format!("{:.1}", started.cpu_seconds)),
        ("broker resident once ready, MB", megabytes(started.resident_bytes)),
        ("broker resident later, MB", megabytes(started.resident_bytes_later)),
        (
            "broker bytes per session and its queue",
            format!("{:.0}", started.resident_bytes as f64 / made.sessions.max(1) as f64),
        ),
        ("start to ready, s", format!("{:.2}", started.ready.as_secs_f64())),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table::render(&["stored sessions", "figure"], &rows)
}

fn verdict(size: &Size, made: &Made, ready: Duration, collected: &Collected) -> Result<()> {
    let mut shortfalls = Vec::new();
    if made.sessions != size.sessions || made.messages == 0 {
        shortfalls.push(format!("{} sessions and {} messages made", made.sessions, made.messages));
    }
    if ready > READY_MAX {
        shortfalls.push(format!("ready after {:.1} s", ready.as_secs_f64()));
    }
    if collected.sessions_present != RETURNING || collected.sessions_missing > 0 {
        shortfalls.push(format!("{} of {RETURNING} sessions are known", collected.sessions_present));
    }
    if collected.messages == 0 || collected.wrong > 0 {
        shortfalls.push(format!("{} messages right, {} wrong", collected.messages, collected.wrong));
    }
    if !shortfalls.is_empty() {
        bail!("falls short: {}", shortfalls.join("; "));
    }
    println!(
        "holds: ready after {:.2} s with {} sessions and {} messages (at most {} s)",
        ready.as_secs_f64(),
        made.sessions,
        made.messages,
        READY_MAX.as_secs()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_threshold_counts() {
        let made = Made { sessions: QUICK.sessions, messages: 1, ..Made::default() };
        let collected = Collected { sessions_present: RETURNING, messages: 1, ..Collected::default() };
        assert!(verdict(&QUICK, &made, READY_MAX, &collected).is_ok());
        assert!(verdict(&FULL, &made, READY_MAX, &collected).is_err());
        assert!(verdict(&QUICK, &made, READY_MAX + Duration::from_millis(1), &collected).is_err());
        let missing = Collected { sessions_present: RETURNING - 1, sessions_missing: 1, ..collected.clone() };
        assert!(verdict(&QUICK, &made, READY_MAX, &missing).is_err());
        assert!(verdict(&QUICK, &made, READY_MAX, &Collected { wrong: 1, ..collected.clone() }).is_err());
        assert!(verdict(&QUICK, &made, READY_MAX, &Collected { messages: 0, ..collected }).is_err());
    }
}
