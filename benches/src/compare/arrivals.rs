//! Brokers side by side: clients that connect.
//!
//! Owns the table of connections a second, and of what each costs.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::peer::Running;
use super::{Bench, Report, Runs, Transport, Wanted, shown_ratio, to_best_peer};
use crate::arrive::{self, Figures, Shape};
use crate::load;
use crate::plot;
use crate::plot::bars::{Column, Group, Section};
use crate::spread::Spread;
use crate::table;

/// Clients that connect and leave; that stay; and that come all at once while others are at work.
pub(super) const NAMES: [&str; 3] = ["connect", "idle", "storm"];

/// Clients that connect at the same time, where it is no storm.
const AT_ONCE: usize = 64;

/// Messages a second of those who are at work when the storm comes, on 20 connections to 20 others.
const STEADY_RATE: u64 = 1_000;

/// How long they work before they are measured; the storm comes some time after that.
const STEADY_WARM_UP_SECONDS: f64 = 0.5;

/// What a broker did, over all rounds.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    transport: Transport,
    broker: String,
    is_causeway: bool,
    clients: usize,
    connects_per_second: Spread,
    cpu_ms_per_client: Spread,
    kibibytes_per_client: Spread,
    latency_ms_p99: Spread,
    /// Of a hundred clients, how many took a TLS session up again.
    resumed_percent: Spread,
    /// Latency of the messages of those who were at work meanwhile.
    steady_ms_p99: Spread,
    steady_ms_max: Spread,
    cpu_to_best_peer: Option<f64>,
    memory_to_best_peer: Option<f64>,
    /// Clients not let in, and messages of the others lost, in all rounds.
    faults: u64,
    failure: Option<String>,
}

/// One run: those who came, and those who were at work meanwhile.
struct Arrival {
    figures: Figures,
    steady: Option<load::Figures>,
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
                clients: options.clients,
                at_once: if wanted.scenario == "storm" { options.clients } else { AT_ONCE },
                leave: wanted.scenario == "connect",
                resume: wanted.transport == Transport::TlsResumed,
                web_socket: wanted.transport == Transport::Ws,
                version: options.version,
            };
            let steady = (wanted.scenario == "storm").then(|| Steady::start(running, options.seconds)).transpose()?;
            if steady.is_some() {
                // They connect and warm up first. Nothing tells when: what matters is only that they work by then.
                std::thread::sleep(std::time::Duration::from_secs_f64(2.0 * STEADY_WARM_UP_SECONDS));
            }
            let (figures, crowd) = arrive::measure(&shape, target, Some(running.pid()))?;
            let steady = steady.map(Steady::figures).transpose()?;
            drop(crowd);
            Ok(Arrival { figures, steady })
        },
        |arrival| {
            let cpu = arrival.figures.broker_cpu_ms_per_client.unwrap_or(f64::NAN);
            format!("{:.0} connects/s, {cpu:.3} CPU-ms each", arrival.figures.per_second)
        },
    );
    let mut json = Vec::new();
    let mut groups = Vec::new();
    for (wanted, runs) in bench.scenarios.iter().zip(&all) {
        let mut rows: Vec<Row> = runs.iter().map(|runs| row(wanted, options.clients, runs)).collect();
        relate(&mut rows);
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        println!("{}, {} clients, median and range of {}", wanted.label, options.clients, options.rounds);
        println!("{}", table::render(&HEAD, &cells));
        for row in &rows {
            json.push(serde_json::to_string(row)?);
        }
        groups.push(group(
            &format!("{}, {} clients", wanted.title(), plot::shown(options.clients as f64)),
            &rows,
            runs,
        ));
    }
    Ok(Report { json, section: Section { columns: columns(), groups } })
}

fn columns() -> Vec<Column> {
    let column = |title: &str, hint| Column { title: title.to_owned(), hint };
    vec![
        column("connects a second", "more is better"),
        column("CPU-ms each", "less is better"),
        column("KiB each", "less is better"),
        column("others' p99, ms", "messages meanwhile"),
    ]
}

fn group(title: &str, rows: &[Row], runs: &[Runs<'_, Arrival>]) -> Group {
    let bars = rows.iter().zip(runs).enumerate().map(|(colour, (row, runs))| {
        // Nobody stays, or nobody was there before: then these are not measured.
        let measured = |spread: Spread| Some(spread).filter(|spread| spread.max > 0.0);
        let figures = vec![
            Some(row.connects_per_second),
            Some(row.cpu_ms_per_client),
            measured(row.kibibytes_per_client),
            measured(row.steady_ms_p99),
        ];
        runs.bars(colour, figures, row.faults)
    });
    let own = rows.iter().find(|row| row.is_causeway);
    let ratios = own.into_iter().flat_map(|own| [(own.cpu_to_best_peer, "CPU"), (own.memory_to_best_peer, "memory")]);
    let ratios: Vec<String> =
        ratios.filter_map(|(ratio, of)| Some(format!("{:.2} of the best peer's {of}", ratio?))).collect();
    let note = own.filter(|_| !ratios.is_empty()).map(|own| format!("{}: {}", own.broker, ratios.join(", ")));
    Group { title: title.to_owned(), note: note.unwrap_or_default(), rows: bars.collect() }
}

fn row(wanted: &Wanted, clients: usize, runs: &Runs<'_, Arrival>) -> Row {
    let steady = |figure: fn(&load::Figures) -> f64| {
        Spread::of(runs.good().filter_map(|arrival| arrival.steady.as_ref().map(figure)).collect())
    };
    let lost = |arrival: &Arrival| arrival.steady.as_ref().map_or(0, load::Figures::faults);
    Row {
        scenario: wanted.scenario.clone(),
        transport: wanted.transport,
        broker: runs.peer.name.clone(),
        is_causeway: runs.peer.is_causeway(),
        clients,
        connects_per_second: runs.spread(|arrival| arrival.figures.per_second),
        cpu_ms_per_client: runs.spread(|arrival| arrival.figures.broker_cpu_ms_per_client.unwrap_or(f64::NAN)),
        kibibytes_per_client: runs.spread(|arrival| arrival.figures.broker_bytes_per_client.unwrap_or(0.0) / 1024.0),
        latency_ms_p99: runs.spread(|arrival| arrival.figures.latency_ms_p99),
        resumed_percent: runs.spread(|arrival| arrival.figures.resumed as f64 * 100.0 / clients as f64),
        steady_ms_p99: steady(|figures| figures.latency_us_p99 / 1e3),
        steady_ms_max: steady(|figures| figures.latency_us_max / 1e3),
        cpu_to_best_peer: None,
        memory_to_best_peer: None,
        faults: runs.good().map(|arrival| arrival.figures.failures as u64 + lost(arrival)).sum(),
        failure: runs.failure(),
    }
}

fn relate(rows: &mut [Row]) {
    let comparable = |figure: fn(&Row) -> f64| -> Vec<Option<f64>> {
        rows.iter().map(|row| Some(figure(row)).filter(|figure| row.faults == 0 && *figure > 0.0)).collect()
    };
    let cpu = comparable(|row| row.cpu_ms_per_client.median);
    let memory = comparable(|row| row.kibibytes_per_client.median);
    for (index, row) in rows.iter_mut().enumerate() {
        row.cpu_to_best_peer = to_best_peer(index, &cpu);
        row.memory_to_best_peer = to_best_peer(index, &memory);
    }
}

const HEAD: [&str; 10] = [
    "broker",
    "connects/s",
    "CPU-ms each",
    "to best peer",
    "KiB each",
    "to best peer",
    "p99, ms",
    "others' p99, ms",
    "others' max, ms",
    "",
];

impl Row {
    fn cells(&self) -> Vec<String> {
        if self.connects_per_second.median == 0.0 {
            return table::unmeasured(&HEAD, &self.broker, self.failure.as_deref().unwrap_or_default());
        }
        let measured = |spread: &Spread, decimals: usize| match spread.max {
            0.0 => "-".to_owned(),
            _ => spread.shown(decimals),
        };
        let mut notes: Vec<String> = self.failure.iter().cloned().collect();
        if self.transport == Transport::TlsResumed {
            notes.push(format!("{:.0}% resumed", self.resumed_percent.median));
        }
        if self.faults > 0 {
            notes.push(format!("{} faults", self.faults));
        }
        vec![
            self.broker.clone(),
            self.connects_per_second.shown(0),
            self.cpu_ms_per_client.shown(3),
            shown_ratio(self.cpu_to_best_peer),
            measured(&self.kibibytes_per_client, 2),
            shown_ratio(self.memory_to_best_peer),
            measured(&self.latency_ms_p99, 1),
            measured(&self.steady_ms_p99, 1),
            measured(&self.steady_ms_max, 1),
            notes.join("; "),
        ]
    }
}

/// Others that are at work while the storm comes: a process of their own. Ended and reaped when dropped.
struct Steady(Option<Child>);

impl Steady {
    fn start(running: &Running, seconds: f64) -> Result<Self> {
        let words = [
            ("--target", running.plain.to_string()),
            ("--publishers", "20".to_owned()),
            ("--subscribers", "20".to_owned()),
            ("--rate", STEADY_RATE.to_string()),
            ("--warm-up-seconds", STEADY_WARM_UP_SECONDS.to_string()),
            ("--seconds", seconds.to_string()),
        ];
        let child = Command::new(std::env::current_exe()?)
            .args(["load", "one-to-one", "--json"])
            .args(words.iter().flat_map(|(option, value)| [*option, value.as_str()]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start those who are at work")?;
        Ok(Self(Some(child)))
    }

    fn figures(mut self) -> Result<load::Figures> {
        let output = self.0.take().context("they have ended before")?.wait_with_output()?;
        ensure!(!output.stdout.is_empty(), "those who were at work failed: {}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Already ended is as good as killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
