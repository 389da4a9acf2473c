//! Brokers side by side: messages.
//!
//! Owns the table of throughput, processor time and latency.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{Bench, Report, Runs, Transport, shown_ratio, to_best_peer};
use crate::load::{Figures, Shape, measure};
use crate::plot::bars::{Column, Group, Section};
use crate::spread::Spread;
use crate::table;

/// What a broker did in a scenario, over all rounds.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    qos: u8,
    transport: Transport,
    payload_bytes: usize,
    broker: String,
    is_causeway: bool,
    thousand_per_second: Spread,
    /// Broker's processor time, in seconds.
    cpu_per_million: Spread,
    resident_megabytes: Spread,
    latency_us_p50: Spread,
    latency_us_p90: Spread,
    latency_us_p99: Spread,
    latency_us_p999: Spread,
    /// Where subscribers were away: thousand messages a second when they came back.
    thousand_drained_per_second: Spread,
    /// The processor time of each message, as a multiple of what the best of the others needs.
    cpu_to_best_peer: Option<f64>,
    /// As [`Row::cpu_to_best_peer`], for latency.
    p99_to_best_peer: Option<f64>,
    /// Messages lost, duplicated or out of order, in all rounds.
    faults: u64,
    /// Why a round has no figures.
    failure: Option<String>,
}

/// Runs the scenarios and prints a table for each.
///
/// # Errors
/// When standard output is closed.
pub(super) fn run(bench: &Bench<'_>) -> Result<Report> {
    let options = bench.options;
    let all = bench.rounds(
        |wanted, running, target| {
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
            ensure!(figures.throughput() > 0.0, "nothing was delivered in the measured time");
            Ok(figures)
        },
        |figures| {
            let cpu = figures.broker_cpu_seconds_per_million.unwrap_or(f64::NAN);
            format!("{:.0} thousand/s, {cpu:.2} CPU-s per million", figures.throughput() / 1e3)
        },
    );
    let mut json = Vec::new();
    let mut groups = Vec::new();
    for (wanted, runs) in bench.scenarios.iter().zip(&all) {
        let mut rows: Vec<Row> = runs.iter().map(|runs| row(options.payload, runs)).collect();
        relate(&mut rows);
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        println!("{}, {} bytes, median and range of {}", wanted.label, options.payload, options.rounds);
        println!("{}", table::render(&HEAD, &cells));
        for row in &rows {
            json.push(serde_json::to_string(row)?);
        }
        groups.push(group(&wanted.title(), &rows, runs, options.rate.is_some()));
    }
    Ok(Report { json, section: Section { columns: columns(options.rate.is_some()), groups } })
}

/// Where the rate is given, what differs is how long messages wait.
fn columns(is_at_rate: bool) -> Vec<Column> {
    let column = |title: &str, hint| Column { title: title.to_owned(), hint };
    match is_at_rate {
        true => ["p50", "p90", "p99", "p99.9"].map(|name| column(&format!("{name}, µs"), "less is better")).to_vec(),
        false => vec![
            column("broker's CPU-seconds per million messages", "less is better"),
            column("thousand messages a second", "more is better"),
        ],
    }
}

fn group(title: &str, rows: &[Row], runs: &[Runs<'_, Figures>], is_at_rate: bool) -> Group {
    let bars = rows.iter().zip(runs).enumerate().map(|(colour, (row, runs))| {
        let figures = match is_at_rate {
            true => vec![row.latency_us_p50, row.latency_us_p90, row.latency_us_p99, row.latency_us_p999],
            false => vec![row.cpu_per_million, row.thousand_per_second],
        };
        let mut bars = runs.bars(colour, figures.into_iter().map(Some).collect(), row.faults);
        if bars.note.is_empty() && row.thousand_drained_per_second.median > 0.0 {
            bars.note = format!("drained at {} thousand/s", row.thousand_drained_per_second.shown(0));
        }
        bars
    });
    let own = rows.iter().find(|row| row.is_causeway);
    let note = own.and_then(|own| match is_at_rate {
        true => own.p99_to_best_peer.map(|ratio| format!("{}: p99 {ratio:.2} of the best peer's", own.broker)),
        false => own.cpu_to_best_peer.map(|ratio| format!("{}: {ratio:.2} of the best peer's CPU", own.broker)),
    });
    Group { title: title.to_owned(), note: note.unwrap_or_default(), rows: bars.collect() }
}

fn row(payload_bytes: usize, runs: &Runs<'_, Figures>) -> Row {
    let (wanted, peer) = (runs.wanted, runs.peer);
    Row {
        scenario: wanted.scenario.clone(),
        qos: wanted.qos,
        transport: wanted.transport,
        payload_bytes,
        broker: peer.name.clone(),
        is_causeway: peer.is_causeway(),
        thousand_per_second: runs.spread(|figures| figures.throughput() / 1e3),
        cpu_per_million: runs.spread(|figures| figures.broker_cpu_seconds_per_million.unwrap_or(f64::NAN)),
        resident_megabytes: runs.spread(|figures| figures.broker_resident_bytes.unwrap_or(0) as f64 / 1e6),
        latency_us_p50: runs.spread(|figures| figures.latency_us_p50),
        latency_us_p90: runs.spread(|figures| figures.latency_us_p90),
        latency_us_p99: runs.spread(|figures| figures.latency_us_p99),
        latency_us_p999: runs.spread(|figures| figures.latency_us_p999),
        thousand_drained_per_second: runs.spread(|figures| figures.drained_per_second.unwrap_or(0.0) / 1e3),
        cpu_to_best_peer: None,
        p99_to_best_peer: None,
        faults: runs.good().map(Figures::faults).sum(),
        failure: runs.failure(),
    }
}

/// Relates the brokers of one scenario to each other.
fn relate(rows: &mut [Row]) {
    let comparable = |figure: fn(&Row) -> f64| -> Vec<Option<f64>> {
        rows.iter().map(|row| Some(figure(row)).filter(|figure| row.is_comparable() && *figure > 0.0)).collect()
    };
    let (cpu, p99) = (comparable(|row| row.cpu_per_million.median), comparable(|row| row.latency_us_p99.median));
    for (index, row) in rows.iter_mut().enumerate() {
        row.cpu_to_best_peer = to_best_peer(index, &cpu);
        row.p99_to_best_peer = to_best_peer(index, &p99);
    }
}

impl Row {
    /// Whether it did what was asked for.
    fn is_comparable(&self) -> bool {
        self.faults == 0 && self.thousand_per_second.median > 0.0
    }

    fn cells(&self) -> Vec<String> {
        if self.thousand_per_second.median == 0.0 {
            return table::unmeasured(&HEAD, &self.broker, self.failure.as_deref().unwrap_or_default());
        }
        let mut notes = Vec::new();
        if self.faults > 0 {
            notes.push(format!("{} faults", self.faults));
        }
        if self.thousand_drained_per_second.median > 0.0 {
            notes.push(format!("drained at {} thousand/s", self.thousand_drained_per_second.shown(0)));
        }
        if let Some(failure) = &self.failure {
            notes.push(failure.clone());
        }
        vec![
            self.broker.clone(),
            self.thousand_per_second.shown(0),
            self.cpu_per_million.shown(2),
            shown_ratio(self.cpu_to_best_peer),
            format!("{:.1}", self.resident_megabytes.median),
            format!("{:.0}", self.latency_us_p50.median),
            format!("{:.0}", self.latency_us_p90.median),
            self.latency_us_p99.shown(0),
            shown_ratio(self.p99_to_best_peer),
            format!("{:.0}", self.latency_us_p999.median),
            notes.join("; "),
        ]
    }
}

const HEAD: [&str; 11] = [
    "broker",
    "thousand/s",
    "CPU-s/million",
    "to best peer",
    "RSS, MB",
    "p50, us",
    "p90, us",
    "p99, us",
    "to best peer",
    "p99.9, us",
    "",
];
