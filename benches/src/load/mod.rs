//! `load`: publishers and subscribers in one thread, and every message checked.
//!
//! Owns the command line and the figures. The loop is in [`engine`], the
//! scenarios are in [`scenario`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use self::engine::{Outcome, Plan, STAMP_BYTES};
pub(crate) use self::pipe::Target;
use self::scenario::SCENARIOS;
pub(crate) use self::scenario::Scenario;
use crate::plot;
use crate::plot::curves::{self, Line, Spreads};
use crate::process;
use crate::report::Format;
use crate::wire::Version;

mod check;
mod engine;
pub(crate) mod pipe;
mod scenario;
#[cfg(test)]
mod tests;
mod tickets;

/// What load to make, and on whom.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    shape: Shape,
    /// The broker's address
    #[arg(long)]
    target: Option<SocketAddr>,
    /// Speak TLS, and trust the authority with the certificate in this file
    #[arg(long, value_name = "FILE")]
    tls: Option<PathBuf>,
    /// The broker's process, where it is on this machine: its processor time and memory are then told, too
    #[arg(long)]
    pid: Option<u32>,
    /// Bind the load to this processor core
    #[arg(long)]
    core: Option<usize>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    spreads: Spreads,
}

/// What load to make.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// The scenario, or `list` to name them all
    pub(crate) scenario: String,
    /// QoS of messages and subscriptions
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Bytes of each message, 16 or more
    #[arg(long, default_value_t = 256)]
    pub(crate) payload: usize,
    /// Messages of each publisher under way: sent, and not yet both acknowledged and received [default: the scenario's]
    #[arg(long)]
    pub(crate) window: Option<u32>,
    /// Messages a second of all publishers together, each counted from when it was due [default: the scenario's; 0: as
    /// many as the windows let through]
    #[arg(long)]
    pub(crate) rate: Option<u64>,
    /// Publishers [default: the scenario's]
    #[arg(long)]
    pub(crate) publishers: Option<usize>,
    /// Subscribers [default: the scenario's]
    #[arg(long)]
    pub(crate) subscribers: Option<usize>,
    /// Which MQTT to speak
    #[arg(long, value_enum, default_value_t = Version::V311)]
    pub(crate) version: Version,
    /// How long to work before measuring
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warm_up_seconds: f64,
    /// How long to measure
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
}

/// The figures of a run. Counts and times are of the measured time; what was wrong is of the whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) scenario: String,
    pub(crate) qos: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) is_tls: bool,
    pub(crate) window: u32,
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) delivered_per_second: f64,
    /// From when a message was due until it was there.
    pub(crate) latency_us_p50: f64,
    pub(crate) latency_us_p90: f64,
    pub(crate) latency_us_p99: f64,
    pub(crate) latency_us_p999: f64,
    pub(crate) latency_us_max: f64,
    /// Messages whose number, order and uniqueness were checked.
    pub(crate) checked: u64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) misordered: u64,
    pub(crate) stray: u64,
    /// Processor time of the load: near 1 for each second, the load may be what bounds the figures.
    pub(crate) load_cpu_seconds: f64,
    pub(crate) broker_cpu_seconds: Option<f64>,
    /// For each million delivered; acknowledged, where subscribers are away.
    pub(crate) broker_cpu_seconds_per_million: Option<f64>,
    pub(crate) broker_resident_bytes: Option<u64>,
    pub(crate) acknowledged_per_second: f64,
    /// Where subscribers were away: how fast they got what waited, from the first to come back to the last to have it all.
    pub(crate) drained_per_second: Option<f64>,
    pub(crate) drain_broker_cpu_seconds_per_million: Option<f64>,
}

impl Figures {
    /// Whether every message came once and in order. Only QoS 1 may bring one again.
    pub(crate) fn is_faultless(&self) -> bool {
        self.faults() == 0
    }

    /// Messages delivered each second; acknowledged, where subscribers are away.
    pub(crate) fn throughput(&self) -> f64 {
        if self.drained_per_second.is_some() { self.acknowledged_per_second } else { self.delivered_per_second }
    }

    /// In words, for people.
    fn described(&self, plan: &Plan) -> String {
        let rate = match plan.rate {
            Some(rate) => format!("{} a second, each counted from when it was due", plot::shown(rate as f64)),
            None => {
                format!(
                    "{} a second, as many as {} under way let through",
                    plot::shown(self.delivered_per_second),
                    self.window
                )
            }
        };
        let carrier = if self.is_tls { "TLS" } else { "TCP" };
        format!("{}, QoS {}, {carrier}, {} bytes; {rate}", self.scenario, self.qos, self.payload_bytes)
    }

    /// All latencies; none where subscribers are away.
    fn line(&self, outcome: &Outcome) -> Line {
        let latencies = &outcome.latencies;
        let milliseconds = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        Line { name: self.scenario.clone(), points: curves::percentiles(latencies.len(), milliseconds) }
    }

    /// How many messages did not come once and in order.
    pub(crate) fn faults(&self) -> u64 {
        let duplicated = if self.qos == 1 { 0 } else { self.duplicated };
        self.refused + self.lost + duplicated + self.misordered + self.stray
    }
}

/// Runs a scenario and prints its figures.
///
/// # Errors
/// When the broker cannot be reached, refuses or gives up a connection, or a message was lost, came again or out of order.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.shape.scenario == "list" {
        for scenario in SCENARIOS {
            println!("{:<16} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    if let Some(core) = options.core {
        process::bind_to_core(core)?;
    }
    let target = Target::new(options.target.context("which broker? --target ADDRESS")?, options.tls.as_deref(), false)?;
    let plan = options.shape.plan(target, options.pid)?;
    let outcome = engine::run(&plan)?;
    let figures = figures(&plan, &outcome);
    options.format.print(&figures.scenario, &figures)?;
    options.spreads.draw("Latency of messages", &figures.described(&plan), vec![figures.line(&outcome)])?;
    ensure!(figures.is_faultless(), "not every message came once and in order");
    Ok(())
}

/// Runs a scenario.
///
/// # Errors
/// When the broker cannot be reached, refuses or gives up a connection.
pub(crate) fn measure(shape: &Shape, target: Target, pid: Option<u32>) -> Result<Figures> {
    let plan = shape.plan(target, pid)?;
    let outcome = engine::run(&plan)?;
    Ok(figures(&plan, &outcome))
}

impl Shape {
    fn plan(&self, target: Target, pid: Option<u32>) -> Result<Plan> {
        let mut scenario = Scenario::named(&self.scenario)?;
        scenario.publishers = self.publishers.unwrap_or(scenario.publishers);
        scenario.subscribers = self.subscribers.unwrap_or(scenario.subscribers);
        ensure!(scenario.publishers > 0 && scenario.subscribers > 0, "nobody is there");
        ensure!(self.payload >= STAMP_BYTES, "a payload holds {STAMP_BYTES} bytes at least");
        let rate = self.rate.or(scenario.rate).filter(|rate| *rate > 0);
        // At a rate, a window would only hide how late a broker is.
        let window = if rate.is_some() { u32::MAX } else { scenario.windows[usize::from(self.qos)] };
        let bound = scenario.windows[usize::from(self.qos)];
        ensure!(bound > 0, "{} has no QoS {}", scenario.name, self.qos);
        Ok(Plan {
            target,
            scenario,
            qos: self.qos,
            version: self.version,
            payload_bytes: self.payload,
            window: self.window.unwrap_or(window),
            rate,
            warm_up: Duration::try_from_secs_f64(self.warm_up_seconds)?,
            duration: Duration::try_from_secs_f64(self.seconds)?,
            pid,
        })
    }
}

fn figures(plan: &Plan, outcome: &Outcome) -> Figures {
    let delivered = outcome.delivered as f64;
    // Nothing is delivered to those who are away: there, what is acknowledged is counted.
    let done = if plan.scenario.is_away() { outcome.acknowledged as f64 } else { delivered };
    let drain_cpu = outcome.drain.and_then(|drain| Some(drain.broker_cpu_seconds? * 1e6 / drain.delivered as f64));
    let quantile = |quantile| outcome.latencies.value_at_quantile(quantile) as f64 / 1e3;
    Figures {
        scenario: plan.scenario.name.to_owned(),
        qos: plan.qos,
        payload_bytes: plan.payload_bytes,
        is_tls: plan.target.tls.is_some(),
        window: plan.window,
        seconds: outcome.seconds,
        sent: outcome.sent,
        delivered: outcome.delivered,
        delivered_per_second: delivered / outcome.seconds,
        latency_us_p50: quantile(0.5),
        latency_us_p90: quantile(0.9),
        latency_us_p99: quantile(0.99),
        latency_us_p999: quantile(0.999),
        latency_us_max: outcome.latencies.max() as f64 / 1e3,
        checked: outcome.checked,
        refused: outcome.refused,
        lost: outcome.faults.lost,
        duplicated: outcome.faults.duplicated,
        misordered: outcome.faults.misordered,
        stray: outcome.faults.stray,
        load_cpu_seconds: outcome.load_cpu_seconds,
        broker_cpu_seconds: outcome.broker_cpu_seconds,
        broker_cpu_seconds_per_million: outcome.broker_cpu_seconds.map(|seconds| seconds * 1e6 / done),
        broker_resident_bytes: outcome.broker_resident_bytes,
        acknowledged_per_second: outcome.acknowledged as f64 / outcome.seconds,
        drained_per_second: outcome.drain.map(|drain| drain.delivered as f64 / drain.seconds),
        drain_broker_cpu_seconds_per_million: drain_cpu,
    }
}
