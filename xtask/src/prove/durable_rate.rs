//! The proof of `durable-rate`: keeping a message costs little more than the disk asks for.
//!
//! Owns the thresholds and the table. The storage layer is measured by its
//! own example `raw_rate`, beside the same bytes written without it; the
//! whole broker by `causeway-bench durable`, on the same disk.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::daemon::{Daemon, Data, Product, Setup, Transport};
use crate::table;
use crate::workspace::{Profile, Workspace};

/// What the log must reach of the rate of raw appends, at every size of group.
const RATE_SHARE_MIN: f64 = 0.60;

/// What one record at a time may take, in raw appends of one record.
const SINGLE_SHARE_MAX: f64 = 1.30;

/// Nothing is to be refused for want of room: the rate is what is measured.
const LIMITS: &str = "session_queue_messages_max = 100000000\nsession_queue_bytes_max = 1000000000000\n";

/// How long to measure, in seconds.
struct Lengths {
    /// The log and the raw loops, for each size of group.
    storage: u64,
    /// The broker with full windows.
    rate: u64,
    /// The broker with one message at a time.
    single: u64,
}

const QUICK: Lengths = Lengths { storage: 4, rate: 3, single: 2 };
const FULL: Lengths = Lengths { storage: 20, rate: 20, single: 10 };

/// A row of `raw_rate`: the log, beside the better of the raw loops.
#[derive(Debug, PartialEq)]
struct Row {
    group: u64,
    records_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    rate_share: f64,
    p50_share: f64,
}

/// A line of `causeway-bench durable`.
#[derive(Debug, Deserialize)]
struct Figures {
    acknowledged: u64,
    refused: u64,
    per_second: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
}

/// Measures both and prints the figures.
///
/// # Errors
/// When something cannot be started or the figures fall short.
pub(super) fn prove(workspace: &Workspace, against: Product, full: bool) -> Result<()> {
    let lengths = if full { &FULL } else { &QUICK };
    let folder = workspace.scratch("durable-rate")?;
    let rows = measure_storage(workspace, &folder, lengths)?;
    let (rate, single) = measure_broker(workspace, against, lengths)?;
    println!("{}", figures(against, &rows, &rate, &single));
    verdict(&rows, &rate)
}

fn measure_storage(workspace: &Workspace, folder: &Path, lengths: &Lengths) -> Result<Vec<Row>> {
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "causeway-storage", "--example", "raw_rate", "--"]);
    cargo.arg(folder).arg(lengths.storage.to_string());
    let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the example raw_rate failed: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    println!("{text}");
    let rows: Vec<Row> = text.lines().filter_map(parse_row).collect();
    ensure!(rows.iter().any(|row| row.group == 1) && rows.len() > 1, "raw_rate printed no rows of the log");
    Ok(rows)
}

/// A line such as `  16 log   250000.0  60.1  98.0  85%  107%`; `None` for the others.
fn parse_row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace();
    let group = words.next()?.parse().ok()?;
    if words.next()? != "log" {
        return None;
    }
    let numbers: Vec<f64> = words.map(|word| word.trim_end_matches('%').parse()).collect::<Result<_, _>>().ok()?;
    let [records_per_second, p50_us, p99_us, rate_percent, p50_percent] = numbers[..] else {
        return None;
    };
    let (rate_share, p50_share) = (rate_percent / 100.0, p50_percent / 100.0);
    Some(Row { group, records_per_second, p50_us, p99_us, rate_share, p50_share })
}

fn measure_broker(workspace: &Workspace, against: Product, lengths: &Lengths) -> Result<(Figures, Figures)> {
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let mut daemon = Daemon::start(
        workspace,
        &Setup {
            product: against,
            profile: Profile::Release,
            purpose: "durable-rate",
            transports: &[Transport::Tcp],
            has_user: false,
            data: Data::Kept,
            limits: LIMITS,
        },
    )?;
    let output = Command::new(bench)
        .args(["durable", "--json", "--target", &daemon.address(Transport::Tcp)?.to_string()])
        .args(["--seconds", &lengths.rate.to_string(), "--single-seconds", &lengths.single.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run causeway-bench")?;
    daemon.check_alive()?;
    ensure!(output.status.success(), "causeway-bench failed: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines();
    Ok((read_line(lines.next())?, read_line(lines.next())?))
}

fn read_line<T: DeserializeOwned>(line: Option<&str>) -> Result<T> {
    let line = line.context("causeway-bench said too little")?;
    serde_json::from_str(line).with_context(|| format!("causeway-bench said {line}"))
}

fn figures(against: Product, rows: &[Row], rate: &Figures, single: &Figures) -> String {
    let mut lines = Vec::new();
    let mut add = |name: String, figure: String| lines.push(vec![name, figure]);
    for row in rows {
        let group = row.group;
        add(format!("log, groups of {group}: records per second"), format!("{:.0}", row.records_per_second));
        add(format!("log, groups of {group}: % of raw appends"), format!("{:.0}", row.rate_share * 100.0));
        add(format!("log, groups of {group}: commit p50, us"), format!("{:.0}", row.p50_us));
        add(format!("log, groups of {group}: commit p99, us"), format!("{:.0}", row.p99_us));
    }
    add("broker: messages acknowledged".into(), rate.acknowledged.to_string());
    add("broker: messages refused".into(), rate.refused.to_string());
    add("broker: full windows, p50, ms".into(), format!("{:.2}", rate.latency_ms_p50));
    add("broker: full windows, p99, ms".into(), format!("{:.2}", rate.latency_ms_p99));
    add("broker: one in flight, p50, ms".into(), format!("{:.3}", single.latency_ms_p50));
    add("broker: one in flight, p99, ms".into(), format!("{:.3}", single.latency_ms_p99));
    add("broker: acknowledged per second".into(), format!("{:.0}", rate.per_second));
    table::render(&[against.name(), "figure"], &lines)
}

fn verdict(rows: &[Row], rate: &Figures) -> Result<()> {
    let mut shortfalls = Vec::new();
    for row in rows {
        if row.rate_share < RATE_SHARE_MIN {
            shortfalls.push(format!("groups of {} reach {:.0}% of raw appends", row.group, row.rate_share * 100.0));
        }
        if row.group == 1 && row.p50_share > SINGLE_SHARE_MAX {
            shortfalls.push(format!("one record takes {:.2} raw appends", row.p50_share));
        }
    }
    if rate.refused > 0 {
        shortfalls.push(format!("{} messages refused", rate.refused));
    }
    if !shortfalls.is_empty() {
        bail!("falls short: {}", shortfalls.join("; "));
    }
    println!(
        "holds: at least {:.0}% of raw appends, one record in at most {SINGLE_SHARE_MAX} raw appends",
        RATE_SHARE_MIN * 100.0
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: u64, rate_share: f64, p50_share: f64) -> Row {
        Row { group, records_per_second: 1.0, p50_us: 1.0, p99_us: 1.0, rate_share, p50_share }
    }

    fn rate(refused: u64) -> Figures {
        Figures { acknowledged: 1, refused, per_second: 1.0, latency_ms_p50: 1.0, latency_ms_p99: 1.0 }
    }

    #[test]
    fn only_the_rows_of_the_log_are_read() {
        let line = "    16 log                          250000     60.1     98.0     85%    107%";
        let read = parse_row(line).unwrap();
        assert_eq!((read.group, read.records_per_second, read.p99_us), (16, 250_000.0, 98.0));
        assert_eq!((read.rate_share, read.p50_share), (0.85, 1.07));
        assert_eq!(parse_row("    16 raw, growing file             1     60.1     98.0     85%    107%"), None);
        assert_eq!(parse_row("records of 256 B; commits in microseconds"), None);
    }

    #[test]
    fn each_threshold_counts() {
        assert!(verdict(&[row(1, 0.6, 1.3), row(256, 0.6, 9.0)], &rate(0)).is_ok());
        assert!(verdict(&[row(1, 0.6, 1.31)], &rate(0)).is_err());
        assert!(verdict(&[row(1, 1.0, 1.0), row(256, 0.59, 1.0)], &rate(0)).is_err());
        assert!(verdict(&[row(1, 1.0, 1.0)], &rate(1)).is_err());
    }
}
