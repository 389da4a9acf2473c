//! The proof of `twin-rate`: what shadows and commands cost, beside plain messages through the same broker.
//!
//! Owns the thresholds, the daemon and the table. Each part is measured by `causeway-bench twin`, all against one daemon whose data is
//! on the disk. Where a plain message can stand beside, the threshold is a ratio of the same run; absolute ones are several times what
//! a small machine needs, and say only that nothing is out of all proportion.

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::load::{self, Folder, Lines, Server};
use crate::daemon::PASSWORD;
use crate::workspace::{Profile, Workspace};
use crate::{process, table};

/// Updates a second, of those of plain messages that must be kept: the broker parses, merges and keeps a document, and folds it and its history
/// into its state as fast as they come.
const UPDATES_TO_PLAIN_MIN: f64 = 0.05;
/// One update, from PUBLISH to PUBACK, in plain messages: both wait for one write to the disk.
const ONE_UPDATE_TO_PLAIN_MAX: f64 = 2.0;
/// A command and its answer, in plain messages and theirs: both are two messages, and each waits for the disk.
const COMMAND_TO_PLAIN_MAX: f64 = 3.0;
/// On a machine with other work, one of the two may have to wait for a turn of it: so long is forgiven.
const TURN_MS: f64 = 5.0;
/// The broker's processor time for a command and its answer, many at a time, in plain ones.
const COMMAND_CPU_TO_PLAIN_MAX: f64 = 3.0;
/// Reading a shadow needs no disk. One request at a time, p50.
const READ_MAX_MS: f64 = 5.0;
/// A page of 1,000 vehicles, p99.
const PAGE_MAX_MS: f64 = 250.0;
/// What a publish waits at p99 while somebody goes through the fleet, beside what it waits else. Pages are made on another thread, in bounded parts.
const BESIDE_MAX_MS: f64 = 50.0;
/// Memory of a shadow with 300 bytes of state and one indexed field, right after a start.
const SHADOW_BYTES_MAX: f64 = 2_048.0;
/// From the start of a daemon that was killed under load to readiness: it reads all shadows, and replays what was not folded.
const READY_MAX: Duration = Duration::from_secs(60);
const READY_DEADLINE: Duration = Duration::from_secs(120);

/// How many, and how long.
struct Size {
    vehicles: u32,
    /// Vehicles that are updated where they are many.
    many: u32,
    rounds: u32,
    /// Of each rate, in seconds.
    rate: f64,
    /// Of one request at a time, in seconds.
    single: f64,
    /// Times to go through all pages of the query.
    queries: u32,
    pairs: u32,
}

const QUICK: Size =
    Size { vehicles: 100_000, many: 100_000, rounds: 2, rate: 1.0, single: 2.0, queries: 5, pairs: 100 };
const FULL: Size =
    Size { vehicles: 1_000_000, many: 100_000, rounds: 5, rate: 4.0, single: 10.0, queries: 5, pairs: 500 };
const FEW: u32 = 1_000;
const COMMANDED: u32 = 16;
const COMMAND_ROUNDS: u32 = 8;

/// Nothing is to be refused for want of room: rates are what is measured.
const LIMITS: &str = "session_queue_messages_max = 100000000\nsession_queue_bytes_max = 1000000000000\n";
const TABLES: &str = "[shadow]\nindex = [\"reported.battery.soc\"]\n[registry]\nunknown_vehicles = \"register\"\n";

#[derive(Debug, Default, Deserialize)]
struct Made {
    vehicles: u64,
    rejected: u64,
    seconds: f64,
    per_second: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Updates {
    plain: Rate,
    few: Rate,
    many: Rate,
    few_to_plain: f64,
    many_to_plain: f64,
    one_plain: Single,
    one_update: Single,
    one_update_answered: Single,
    versions: u64,
    wrong: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Rate {
    refused: u64,
    per_second: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    broker_cpu_us: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Single {
    latency_ms_p50: f64,
    latency_ms_p99: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Reads {
    mqtt_get: Asked,
    http_get: Asked,
    http_patch: Asked,
}

#[derive(Debug, Default, Deserialize)]
struct Asked {
    one_ms_p50: f64,
    one_ms_p99: f64,
    per_second: f64,
    broker_cpu_us: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Query {
    expected: u64,
    found: u64,
    wrong: u64,
    pages: u64,
    page_ms_p50: f64,
    page_ms_p99: f64,
    page_ms_max: f64,
    seconds: f64,
    broker_cpu_us_per_row: f64,
    publish_quiet_ms_p50: f64,
    publish_quiet_ms_p99: f64,
    publish_beside_ms_p50: f64,
    publish_beside_ms_p99: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Commands {
    plain: Pair,
    command: Pair,
    http_ms_p50: f64,
    http_ms_p99: f64,
    p50_to_plain: f64,
    p99_to_plain: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Pair {
    pairs: u64,
    one_ms_p50: f64,
    one_ms_p99: f64,
    per_second: f64,
    broker_cpu_us: f64,
}

/// The daemon's process.
#[derive(Debug, Default)]
struct Memory {
    empty: u64,
    filled: u64,
    restarted: u64,
    ready: Duration,
}

/// All that was measured.
#[derive(Debug, Default)]
struct Figures {
    made: Made,
    memory: Memory,
    query: Query,
    updates: Updates,
    reads: Reads,
    commands: Commands,
}

/// Measures all parts and prints the figures.
///
/// # Errors
/// When something cannot be run, or the figures fall short.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let size = if full { &FULL } else { &QUICK };
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let program = workspace.build("causeway-broker", "causewayd", Profile::Release)?;
    let folder = Folder::new(workspace)?;
    let users = folder.path().join("users");
    (0..COMMANDED).try_for_each(|number| add_vehicle(&program, &users, number))?;
    let figures = measure(workspace, &bench, (folder.path(), &users), size)?;
    println!("{}", render(&figures));
    verdict(size, &figures)
}

/// Makes a vehicle a user that can prove who it is.
fn add_vehicle(program: &Path, users: &Path, number: u32) -> Result<()> {
    let user = format!("vehicle:WVWZZZ1JZ3W{number:06}");
    let mut command = Command::new(program);
    command.arg("passwd").arg(users).args(["add", &user, "--password-stdin"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("cannot run causewayd")?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "{PASSWORD}")?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "causewayd passwd failed: {status}");
    Ok(())
}

fn measure(workspace: &Workspace, bench: &Path, (folder, users): (&Path, &Path), size: &Size) -> Result<Figures> {
    let data = folder.join("data");
    let authentication = format!("password_file = \"{}\"\n", users.display());
    let lines = Lines { authentication: &authentication, limits: LIMITS, tables: TABLES, ..Lines::default() };
    let start = || Server::start(workspace, "twin-rate", (folder, &data), &lines);
    let twin = |thing: &str, server: &Server, more: &[&dyn Display]| {
        let first: [&dyn Display; 4] = [&"twin", &thing, &"--target", &server.mqtt];
        load::words(&[&first[..], more].concat())
    };
    let mut server = start()?;
    server.wait_until_ready(READY_DEADLINE)?;
    let mut memory = Memory { empty: process::resident_bytes(server.pid())?, ..Memory::default() };
    let made: Made = load::run(bench, &twin("fill", &server, &[&"--vehicles", &size.vehicles]))?;
    memory.filled = process::resident_bytes(server.pid())?;
    // As hard as it can be: it is killed, and has to find again all that it acknowledged.
    drop(server);
    server = start()?;
    memory.ready = server.wait_until_ready(READY_DEADLINE)?;
    memory.restarted = process::resident_bytes(server.pid())?;
    let (admin, pid) = (server.admin, server.pid());
    let query: Query = load::run(
        bench,
        &twin(
            "query",
            &server,
            &[&"--admin", &admin, &"--pid", &pid, &"--vehicles", &size.vehicles, &"--times", &size.queries],
        ),
    )?;
    let updates: Updates = load::run(
        bench,
        &twin(
            "updates",
            &server,
            &[
                &"--pid",
                &pid,
                &"--few",
                &FEW,
                &"--many",
                &size.many,
                &"--rounds",
                &size.rounds,
                &"--seconds",
                &size.rate,
                &"--single-seconds",
                &size.single,
            ],
        ),
    )?;
    let reads: Reads = load::run(
        bench,
        &twin(
            "reads",
            &server,
            &[
                &"--admin",
                &admin,
                &"--pid",
                &pid,
                &"--vehicles",
                &size.vehicles,
                &"--seconds",
                &size.rate,
                &"--single-seconds",
                &size.single,
            ],
        ),
    )?;
    let commands: Commands = load::run(
        bench,
        &twin(
            "commands",
            &server,
            &[
                &"--admin",
                &admin,
                &"--pid",
                &pid,
                &"--vehicles",
                &COMMANDED,
                &"--password",
                &PASSWORD,
                &"--rounds",
                &COMMAND_ROUNDS,
                &"--pairs",
                &size.pairs,
            ],
        ),
    )?;
    server.check_alive()?;
    Ok(Figures { made, memory, query, updates, reads, commands })
}

/// Bytes of the process for each shadow, right after a start.
fn shadow_bytes(figures: &Figures) -> f64 {
    let Memory { empty, restarted, .. } = figures.memory;
    restarted.saturating_sub(empty) as f64 / figures.made.vehicles.max(1) as f64
}

fn render(figures: &Figures) -> String {
    let Figures { made, memory, query, updates, reads, commands } = figures;
    let mut lines = Vec::new();
    let mut add = |name: &str, figure: String| lines.push(vec![name.to_owned(), figure]);
    let two = |p50: f64, p99: f64| format!("{p50:.2} / {p99:.2}");
    let megabytes = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
    add("shadows", made.vehicles.to_string());
    add("reports that were rejected and made again", made.rejected.to_string());
    add("made in, s", format!("{:.1}", made.seconds));
    add("made per second", format!("{:.0}", made.per_second));
    add("broker resident: empty, MB", megabytes(memory.empty));
    add("broker resident: right after they were made, MB", megabytes(memory.filled));
    add("broker resident: after a start with them, MB", megabytes(memory.restarted));
    add("bytes of memory for each", format!("{:.0}", shadow_bytes(figures)));
    add("killed, then ready in, s", format!("{:.2}", memory.ready.as_secs_f64()));
    for (name, rate) in [
        ("plain messages that are kept", &updates.plain),
        ("updates, 1,000 vehicles", &updates.few),
        ("updates, many vehicles", &updates.many),
    ] {
        add(&format!("{name}: per second"), format!("{:.0}", rate.per_second));
        add(&format!("{name}: full windows p50 / p99, ms"), two(rate.latency_ms_p50, rate.latency_ms_p99));
        add(&format!("{name}: broker's CPU, us"), format!("{:.1}", rate.broker_cpu_us));
    }
    add("updates to plain messages, 1,000 vehicles", format!("{:.2}", updates.few_to_plain));
    add("updates to plain messages, many vehicles", format!("{:.2}", updates.many_to_plain));
    for (name, single) in [
        ("one plain message, acknowledged", &updates.one_plain),
        ("one update, acknowledged", &updates.one_update),
        ("one update, answered", &updates.one_update_answered),
    ] {
        add(&format!("{name}: p50 / p99, ms"), two(single.latency_ms_p50, single.latency_ms_p99));
    }
    add("versions made by acknowledged updates", updates.versions.to_string());
    add("acknowledged updates that are not exactly one version", updates.wrong.to_string());
    for (name, asked) in
        [("get over MQTT", &reads.mqtt_get), ("GET over HTTP", &reads.http_get), ("PATCH over HTTP", &reads.http_patch)]
    {
        add(&format!("{name}: one at a time p50 / p99, ms"), two(asked.one_ms_p50, asked.one_ms_p99));
        add(&format!("{name}: per second"), format!("{:.0}", asked.per_second));
        add(&format!("{name}: broker's CPU, us"), format!("{:.1}", asked.broker_cpu_us));
    }
    add("query: vehicles found", query.found.to_string());
    add("query: vehicles missing or found twice", query.wrong.to_string());
    add("query: all pages, s", format!("{:.2}", query.seconds));
    add("query: page of 1,000, p50 / p99, ms", two(query.page_ms_p50, query.page_ms_p99));
    add("query: longest page, ms", format!("{:.1} of {} pages", query.page_ms_max, query.pages));
    add("query: broker's CPU for a vehicle found, us", format!("{:.2}", query.broker_cpu_us_per_row));
    add("publish without it, p50 / p99, ms", two(query.publish_quiet_ms_p50, query.publish_quiet_ms_p99));
    add("publish beside it, p50 / p99, ms", two(query.publish_beside_ms_p50, query.publish_beside_ms_p99));
    for (name, pair) in [("plain pair", &commands.plain), ("command", &commands.command)] {
        add(&format!("{name}: one at a time p50 / p99, ms"), two(pair.one_ms_p50, pair.one_ms_p99));
        add(&format!("{name}: per second, 256 at a time"), format!("{:.0}", pair.per_second));
        add(&format!("{name}: broker's CPU, us"), format!("{:.1}", pair.broker_cpu_us));
    }
    add("command over HTTP: one at a time p50 / p99, ms", two(commands.http_ms_p50, commands.http_ms_p99));
    add("commands one at a time", commands.command.pairs.to_string());
    add("command to plain pair, p99", format!("{:.2}", commands.p99_to_plain));
    add("command to plain pair, p50", format!("{:.2}", commands.p50_to_plain));
    table::render(&["shadows and commands", "figure"], &lines)
}

fn verdict(size: &Size, figures: &Figures) -> Result<()> {
    let Figures { made, memory, query, updates, reads, commands } = figures;
    let mut shortfalls = Vec::new();
    let mut at_most = |what: &str, figure: f64, max: f64| {
        // Not a number is no figure, either.
        if figure.is_nan() || figure > max {
            shortfalls.push(format!("{what}: {figure:.2}, at most {max}"));
        }
    };
    at_most("vehicles without a shadow", f64::from(size.vehicles) - made.vehicles as f64, 0.0);
    at_most("reports rejected for want of room", made.rejected as f64, 0.0);
    at_most("messages refused", (updates.plain.refused + updates.few.refused + updates.many.refused) as f64, 0.0);
    at_most("acknowledged updates that are not one version", updates.wrong as f64, 0.0);
    at_most("vehicles not found", query.expected as f64 - query.found as f64, 0.0);
    at_most("vehicles missing or found twice", query.wrong as f64, 0.0);
    at_most("bytes of a shadow", shadow_bytes(figures), SHADOW_BYTES_MAX);
    at_most("start, s", memory.ready.as_secs_f64(), READY_MAX.as_secs_f64());
    at_most("plain messages to updates, 1,000 vehicles", 1.0 / updates.few_to_plain, 1.0 / UPDATES_TO_PLAIN_MIN);
    at_most("plain messages to updates, many vehicles", 1.0 / updates.many_to_plain, 1.0 / UPDATES_TO_PLAIN_MIN);
    let one_to_plain = updates.one_update.latency_ms_p50 / updates.one_plain.latency_ms_p50;
    at_most("one update in plain messages", one_to_plain, ONE_UPDATE_TO_PLAIN_MAX);
    at_most("get over MQTT, p50, ms", reads.mqtt_get.one_ms_p50, READ_MAX_MS);
    at_most("GET over HTTP, p50, ms", reads.http_get.one_ms_p50, READ_MAX_MS);
    at_most("page, p99, ms", query.page_ms_p99, PAGE_MAX_MS);
    at_most("publish beside a query, p99, ms", query.publish_beside_ms_p99, BESIDE_MAX_MS);
    let command_max = commands.plain.one_ms_p50 * COMMAND_TO_PLAIN_MAX + TURN_MS;
    at_most("command, p50, ms", commands.command.one_ms_p50, command_max);
    let command_cpu = commands.command.broker_cpu_us / commands.plain.broker_cpu_us;
    at_most("broker's CPU of a command in plain pairs", command_cpu, COMMAND_CPU_TO_PLAIN_MAX);
    if !shortfalls.is_empty() {
        bail!("falls short: {}", shortfalls.join("; "));
    }
    println!(
        "holds: updates reach {:.0}% and {:.0}% of plain messages (at least {:.0}%), a command takes {:.2} plain pairs (at most {COMMAND_TO_PLAIN_MAX}), \
         a page {:.1} ms at p99 (at most {PAGE_MAX_MS})",
        updates.few_to_plain * 100.0,
        updates.many_to_plain * 100.0,
        UPDATES_TO_PLAIN_MIN * 100.0,
        commands.p50_to_plain,
        query.page_ms_p99
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Just what is wanted.
    fn figures() -> Figures {
        let mut figures = Figures::default();
        figures.made.vehicles = QUICK.vehicles.into();
        figures.memory.ready = READY_MAX;
        figures.query = Query { expected: 7, found: 7, page_ms_p99: PAGE_MAX_MS, ..Query::default() };
        figures.query.publish_beside_ms_p99 = BESIDE_MAX_MS;
        figures.updates.few_to_plain = UPDATES_TO_PLAIN_MIN;
        figures.updates.many_to_plain = UPDATES_TO_PLAIN_MIN;
        figures.updates.one_plain.latency_ms_p50 = 1.0;
        figures.updates.one_update.latency_ms_p50 = ONE_UPDATE_TO_PLAIN_MAX;
        figures.reads.mqtt_get.one_ms_p50 = READ_MAX_MS;
        figures.reads.http_get.one_ms_p50 = READ_MAX_MS;
        figures.commands.plain = Pair { one_ms_p50: 1.0, broker_cpu_us: 1.0, ..Pair::default() };
        figures.commands.command.one_ms_p50 = COMMAND_TO_PLAIN_MAX + TURN_MS;
        figures.commands.command.broker_cpu_us = COMMAND_CPU_TO_PLAIN_MAX;
        figures
    }

    #[test]
    fn each_threshold_counts() {
        assert!(verdict(&QUICK, &figures()).is_ok());
        let falls_short: [fn(&mut Figures); 17] = [
            |figures| figures.made.vehicles -= 1,
            |figures| figures.made.rejected = 1,
            |figures| figures.memory.ready += Duration::from_millis(1),
            |figures| figures.memory.restarted = u64::from(QUICK.vehicles) * 2_049,
            |figures| figures.query.found -= 1,
            |figures| figures.query.wrong = 1,
            |figures| figures.query.page_ms_p99 += 1.0,
            |figures| figures.query.publish_beside_ms_p99 += 1.0,
            |figures| figures.updates.wrong = 1,
            |figures| figures.updates.many.refused = 1,
            |figures| figures.updates.few_to_plain -= 0.01,
            |figures| figures.updates.many_to_plain -= 0.01,
            |figures| figures.updates.one_update.latency_ms_p50 += 0.1,
            |figures| figures.reads.mqtt_get.one_ms_p50 += 0.1,
            |figures| figures.reads.http_get.one_ms_p50 += 0.1,
            |figures| figures.commands.command.one_ms_p50 += 0.1,
            |figures| figures.commands.plain.broker_cpu_us = f64::NAN,
        ];
        for (number, spoil) in falls_short.into_iter().enumerate() {
            let mut figures = figures();
            spoil(&mut figures);
            assert!(verdict(&QUICK, &figures).is_err(), "{number}");
        }
    }
}
