//! `compare`: brokers side by side, under the same load.
//!
//! Owns the order of runs, and what is made of their figures. Each run has a
//! broker of its own, on one core; the load is on another. Brokers take
//! turns, so that what disturbs the machine disturbs all of them.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use self::peer::{Identity, Peer, Running};
use self::spread::Spread;
use crate::load::{Figures, Shape, Target, measure};
use crate::process;
use crate::table;
use crate::wire::Version;

mod peer;
mod spread;

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A broker: causeway, mosquitto, flashmq or rumqttd, and perhaps =PATH of its program; `mosquitto-2.1=PATH` works, too
    #[arg(long = "broker", required = true, value_name = "NAME[=PATH]")]
    brokers: Vec<Peer>,
    /// A scenario, its QoS, and `tls` where it is to be measured over TLS
    #[arg(long = "scenario", value_name = "NAME[:QOS[:tls]]", default_values = DEFAULT_SCENARIOS)]
    scenarios: Vec<Wanted>,
    /// How often each broker runs each scenario
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long to measure each
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long to work before measuring
    #[arg(long, default_value_t = 1.0)]
    warm_up_seconds: f64,
    /// Bytes of each message
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Messages a second of all publishers together, instead of as many as the windows let through
    #[arg(long)]
    rate: Option<u64>,
    /// Which MQTT to speak
    #[arg(long, value_enum, default_value_t = Version::V311)]
    version: Version,
    /// A folder with authority.pem, server.pem and server.key, for scenarios over TLS
    #[arg(long, value_name = "FOLDER")]
    certificates: Option<PathBuf>,
    /// Where brokers keep their data meanwhile; on a disk
    #[arg(long, default_value = "target/compare")]
    scratch: PathBuf,
    /// The brokers' processor core
    #[arg(long, default_value_t = 0)]
    broker_core: usize,
    /// The load's processor core
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Write each line of the table as a JSON object here, too
    #[arg(long, value_name = "FILE")]
    json_to: Option<PathBuf>,
}

/// Those of the table that brokers are judged by.
const DEFAULT_SCENARIOS: [&str; 10] = [
    "one-to-one:0",
    "one-to-one:1",
    "one-to-one:2",
    "fan-in:0",
    "fan-in:1",
    "shared:1",
    "fan-out:0",
    "fan-out:1",
    "one-in-flight:0",
    "one-in-flight:1",
];

/// A scenario as it is asked for.
#[derive(Debug, Clone)]
struct Wanted {
    /// As it was written.
    label: String,
    scenario: String,
    qos: u8,
    is_tls: bool,
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let scenario = parts.next().unwrap_or_default().to_owned();
        let qos = parts.next().map_or(Ok(0), str::parse).context("the QoS is no number")?;
        ensure!(qos <= 2, "no QoS {qos}");
        let is_tls = match parts.next() {
            None => false,
            Some("tls") => true,
            Some(other) => bail!("{other} instead of tls"),
        };
        Ok(Self { label: text.to_owned(), scenario, qos, is_tls })
    }
}

/// What a broker did in a scenario, over all rounds.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    qos: u8,
    is_tls: bool,
    payload_bytes: usize,
    broker: String,
    is_causeway: bool,
    thousand_per_second: Spread,
    /// Broker's processor time, in seconds.
    cpu_per_million: Spread,
    resident_megabytes: Spread,
    latency_us_p50: Spread,
    latency_us_p99: Spread,
    latency_us_p999: Spread,
    /// The processor time of each message, as a multiple of what the best of the others needs.
    cpu_to_best_peer: Option<f64>,
    /// As [`Row::cpu_to_best_peer`], for latency.
    p99_to_best_peer: Option<f64>,
    /// Messages lost, duplicated or out of order, in all rounds.
    faults: u64,
    /// Why a round has no figures.
    failure: Option<String>,
}

/// Runs everything and prints the tables.
///
/// # Errors
/// When a scenario is unknown, or nothing could be measured.
pub(crate) fn run(options: &Options) -> Result<()> {
    process::bind_to_core(options.load_core)?;
    let identity = options.certificates.as_ref().map(|folder| folder.canonicalize().map(Identity)).transpose()?;
    let needs_identity = options.scenarios.iter().any(|wanted| wanted.is_tls);
    ensure!(!needs_identity || identity.is_some(), "TLS needs --certificates");
    std::fs::create_dir_all(&options.scratch)?;
    let count = options.scenarios.len() * options.brokers.len();
    let mut runs: Vec<Vec<Result<Figures>>> = (0..count).map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        for (index, runs) in runs.iter_mut().enumerate() {
            let (wanted, peer) = place(options, index);
            let figures = measure_once(options, wanted, peer, identity.as_ref());
            match &figures {
                Ok(figures) => eprintln!(
                    "round {}, {}, {}: {:.0} thousand/s, {:.2} CPU-s per million",
                    round + 1,
                    wanted.label,
                    peer.name,
                    figures.delivered_per_second / 1e3,
                    figures.broker_cpu_seconds_per_million.unwrap_or(0.0)
                ),
                Err(error) => eprintln!("round {}, {}, {}: {error:#}", round + 1, wanted.label, peer.name),
            }
            runs.push(figures);
        }
    }
    let mut rows: Vec<Row> = runs.iter().enumerate().map(|(index, runs)| row(options, index, runs)).collect();
    for rows in rows.chunks_mut(options.brokers.len()) {
        compare(rows);
    }
    print(options, &rows)
}

/// Scenario and broker of a number.
fn place(options: &Options, index: usize) -> (&Wanted, &Peer) {
    (&options.scenarios[index / options.brokers.len()], &options.brokers[index % options.brokers.len()])
}

fn measure_once(options: &Options, wanted: &Wanted, peer: &Peer, identity: Option<&Identity>) -> Result<Figures> {
    let running = Running::start(peer, &options.scratch, identity, options.broker_core, options.load_core)?;
    let target = match identity.filter(|_| wanted.is_tls) {
        Some(identity) => Target::new(running.tls, Some(&identity.authority()))?,
        None => Target::new(running.plain, None)?,
    };
    let shape = Shape {
        scenario: wanted.scenario.clone(),
        qos: wanted.qos,
        payload: options.payload,
        window: None,
        rate: options.rate,
        publishers: None,
        subscribers: None,
        version: options.version,
        warm_up_seconds: options.warm_up_seconds,
        seconds: options.seconds,
    };
    let figures = measure(&shape, target, Some(running.pid()))?;
    ensure!(figures.delivered > 0, "nothing was delivered in the measured time");
    Ok(figures)
}

fn row(options: &Options, index: usize, runs: &[Result<Figures>]) -> Row {
    let (wanted, peer) = place(options, index);
    let good: Vec<&Figures> = runs.iter().filter_map(|run| run.as_ref().ok()).collect();
    let spread = |figure: &dyn Fn(&Figures) -> f64| Spread::of(good.iter().map(|figures| figure(figures)).collect());
    let failure = runs.iter().find_map(|run| run.as_ref().err()).map(|error| format!("{error:#}"));
    Row {
        scenario: wanted.scenario.clone(),
        qos: wanted.qos,
        is_tls: wanted.is_tls,
        payload_bytes: options.payload,
        broker: peer.name.clone(),
        is_causeway: peer.is_causeway(),
        thousand_per_second: spread(&|figures| figures.delivered_per_second / 1e3),
        cpu_per_million: spread(&|figures| figures.broker_cpu_seconds_per_million.unwrap_or(f64::NAN)),
        resident_megabytes: spread(&|figures| figures.broker_resident_bytes.unwrap_or(0) as f64 / 1e6),
        latency_us_p50: spread(&|figures| figures.latency_us_p50),
        latency_us_p99: spread(&|figures| figures.latency_us_p99),
        latency_us_p999: spread(&|figures| figures.latency_us_p999),
        cpu_to_best_peer: None,
        p99_to_best_peer: None,
        faults: good.iter().map(|figures| figures.faults()).sum(),
        failure,
    }
}

/// Relates the brokers of one scenario to each other.
fn compare(rows: &mut [Row]) {
    let best = |own: usize, figure: fn(&Row) -> &Spread, rows: &[Row]| {
        let others = rows.iter().enumerate().filter(|(other, row)| *other != own && row.is_comparable());
        others.map(|(_, row)| figure(row).median).reduce(f64::min)
    };
    for index in 0..rows.len() {
        if rows[index].is_comparable() {
            let cpu = best(index, |row| &row.cpu_per_million, rows);
            let p99 = best(index, |row| &row.latency_us_p99, rows);
            rows[index].cpu_to_best_peer = cpu.map(|best| rows[index].cpu_per_million.median / best);
            rows[index].p99_to_best_peer = p99.map(|best| rows[index].latency_us_p99.median / best);
        }
    }
}

impl Row {
    /// Whether it did what was asked for.
    fn is_comparable(&self) -> bool {
        self.faults == 0 && self.thousand_per_second.median > 0.0
    }

    fn cells(&self) -> Vec<String> {
        if self.thousand_per_second.median == 0.0 {
            return vec![self.broker.clone(), self.failure.clone().unwrap_or_default()];
        }
        let mut notes = Vec::new();
        if self.faults > 0 {
            notes.push(format!("{} faults", self.faults));
        }
        if let Some(failure) = &self.failure {
            notes.push(failure.clone());
        }
        vec![
            self.broker.clone(),
            self.thousand_per_second.shown(0),
            self.cpu_per_million.shown(2),
            self.cpu_to_best_peer.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            format!("{:.1}", self.resident_megabytes.median),
            format!("{:.0}", self.latency_us_p50.median),
            self.latency_us_p99.shown(0),
            self.p99_to_best_peer.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            notes.join("; "),
        ]
    }
}

const HEAD: [&str; 9] =
    ["broker", "thousand/s", "CPU-s/million", "to best peer", "RSS, MB", "p50, us", "p99, us", "to best peer", ""];

fn print(options: &Options, rows: &[Row]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for (wanted, rows) in options.scenarios.iter().zip(rows.chunks(options.brokers.len())) {
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        writeln!(out, "{}, {} bytes, median and range of {}", wanted.label, options.payload, options.rounds)?;
        writeln!(out, "{}", table::render(&HEAD, &cells))?;
    }
    if let Some(path) = &options.json_to {
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        for row in rows {
            writeln!(file, "{}", serde_json::to_string(row)?)?;
        }
    }
    ensure!(rows.iter().any(Row::is_comparable), "nothing could be measured");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_may_have_a_qos_and_tls() {
        let wanted: Wanted = "fan-in:1:tls".parse().unwrap();
        assert_eq!((wanted.scenario.as_str(), wanted.qos, wanted.is_tls), ("fan-in", 1, true));
        assert_eq!("fan-in".parse::<Wanted>().unwrap().qos, 0);
        assert!("fan-in:3".parse::<Wanted>().is_err());
        assert!("fan-in:1:quick".parse::<Wanted>().is_err());
    }
}
