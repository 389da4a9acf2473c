//! Updates of shadows, beside plain messages of the same size.
//!
//! Owns the rounds, in which plain messages that must be kept, updates of few vehicles and updates of many take turns; and then one
//! of each at a time. All that was acknowledged must be found as versions of the shadows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::documents;
use super::fill::write_update;
use super::reads;
use super::session::{Message, Session, forget, keep_for_absent};
use super::window::{Draft, Windows, publish_all};
use crate::latency::Latencies;
use crate::process;
use crate::report::Format;
use crate::spread::Spread;
use crate::wire::Connect;

/// Somebody who is away, for whom plain messages must be kept.
const ABSENT: &str = "twin-absent";
const PLAIN_FILTER: &str = "plain/#";
const ANSWERS: &str = "answers/twin";

/// What load to make.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// The broker's process, for its processor time
    #[arg(long)]
    pid: u32,
    /// Vehicles that are few
    #[arg(long, default_value_t = 1_000)]
    few: u32,
    /// Vehicles that are many; all of them have a shadow
    #[arg(long, default_value_t = 100_000)]
    many: u32,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each of the three measures in each round
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// How long to measure one at a time
    #[arg(long, default_value_t = 3.0)]
    single_seconds: f64,
    #[command(flatten)]
    windows: Windows,
    #[command(flatten)]
    format: Format,
}

/// What is published.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Messages to nobody's shadow.
    Plain,
    /// Updates of the first so many vehicles.
    Updates(u32),
}

/// One kind of message, over all rounds.
#[derive(Debug, Default, Serialize)]
struct Rate {
    acknowledged: u64,
    refused: u64,
    per_second: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    broker_cpu_us: f64,
    #[serde(skip)]
    rounds: Vec<f64>,
    #[serde(skip)]
    cpu_seconds: f64,
    #[serde(skip)]
    latencies: Latencies,
}

#[derive(Debug, Serialize)]
struct Single {
    count: usize,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    plain: Rate,
    few: Rate,
    many: Rate,
    /// Updates for each plain message of the same round, the median of the rounds.
    few_to_plain: f64,
    many_to_plain: f64,
    one_plain: Single,
    one_update: Single,
    one_update_answered: Single,
    /// Versions that the shadows have more than before.
    versions: u64,
    /// Acknowledged updates that are no version, or versions of no acknowledged update.
    wrong: u64,
}

/// Measures and prints.
///
/// # Errors
/// When the broker cannot be reached or gives up a connection.
pub(super) async fn run(options: &Options) -> Result<()> {
    ensure!(options.few <= options.many, "few are more than many");
    let versions_before = reads::versions(options.target, options.many).await?;
    let (mut plain, mut few, mut many) = (Rate::default(), Rate::default(), Rate::default());
    let mut report = 1;
    for _ in 0..options.rounds {
        measure(options, Kind::Plain, &mut report, &mut plain).await?;
        measure(options, Kind::Updates(options.few), &mut report, &mut few).await?;
        measure(options, Kind::Updates(options.many), &mut report, &mut many).await?;
    }
    let [one_plain, one_update, one_update_answered] = one_at_a_time(options, report).await?;
    let versions = reads::versions(options.target, options.many).await? - versions_before;
    let updates = few.acknowledged + many.acknowledged + (one_update.count + one_update_answered.count) as u64;
    let to_plain = |rate: &Rate| {
        let shares = rate.rounds.iter().zip(&plain.rounds).map(|(updates, plain)| updates / plain);
        Spread::of(shares.collect()).median
    };
    let (few_to_plain, many_to_plain) = (to_plain(&few), to_plain(&many));
    let figures = Figures {
        plain: plain.finished(),
        few: few.finished(),
        many: many.finished(),
        few_to_plain,
        many_to_plain,
        one_plain,
        one_update,
        one_update_answered,
        versions,
        wrong: versions.abs_diff(updates),
    };
    options.format.print("updates", &figures)
}

async fn measure(options: &Options, kind: Kind, report: &mut u32, rate: &mut Rate) -> Result<()> {
    if matches!(kind, Kind::Plain) {
        keep_for_absent(options.target, ABSENT, PLAIN_FILTER).await?;
    }
    let cpu_before = process::cpu_seconds(options.pid)?;
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(options.seconds);
    let first = *report;
    let done = publish_all(options.target, options.windows, |index| {
        let (mut count, step) = (0u32, u32::from(options.windows.connections));
        move |draft: &mut Draft| {
            let number = count * step + u32::from(index);
            match kind {
                Kind::Plain => {
                    write_update(draft, number % 1_000, first);
                    draft.topic.clear();
                    draft.topic.push_str("plain/messages/about/vehicles/");
                    draft.topic.push_str(&documents::vin(number % 1_000));
                }
                Kind::Updates(vehicles) => write_update(draft, number % vehicles, first + number / vehicles),
            }
            count += 1;
            Instant::now() < until
        }
    })
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    rate.cpu_seconds += process::cpu_seconds(options.pid)? - cpu_before;
    ensure!(done.acknowledged > 0, "nothing was acknowledged");
    if matches!(kind, Kind::Plain) {
        forget(options.target, ABSENT).await?;
    }
    // No report is the same as one before.
    *report += 1 + u32::try_from(done.acknowledged / 1_000)?;
    rate.acknowledged += done.acknowledged;
    rate.refused += done.refused;
    rate.rounds.push(done.acknowledged as f64 / seconds);
    rate.latencies.merge(done.latencies);
    Ok(())
}

impl Rate {
    fn finished(mut self) -> Self {
        self.per_second = Spread::of(self.rounds.clone()).median;
        self.latency_ms_p50 = self.latencies.percentile_ms(50);
        self.latency_ms_p99 = self.latencies.percentile_ms(99);
        self.broker_cpu_us = self.cpu_seconds * 1e6 / self.acknowledged.max(1) as f64;
        self
    }
}

impl Single {
    fn of(mut latencies: Latencies) -> Self {
        let [latency_ms_p50, latency_ms_p99] = [50, 99].map(|percent| latencies.percentile_ms(percent));
        Self { count: latencies.count(), latency_ms_p50, latency_ms_p99 }
    }
}

/// A plain message, an update until it is acknowledged, and one until its answer is there, in turns, all by one client.
async fn one_at_a_time(options: &Options, first_report: u32) -> Result<[Single; 3]> {
    keep_for_absent(options.target, ABSENT, PLAIN_FILTER).await?;
    let connect = Connect { client_id: "twin-single", ..Connect::default() };
    let mut session = Session::open(options.target, &connect).await?;
    session.subscribe(ANSWERS).await?;
    let mut latencies: [Latencies; 3] = Default::default();
    let (mut draft, mut count) = (Draft::default(), 0u32);
    let until = Instant::now() + Duration::from_secs_f64(options.single_seconds);
    while Instant::now() < until {
        let vehicle = documents::mixed(count) % options.many;
        write_update(&mut draft, vehicle, first_report + count * 3);
        let began = Instant::now();
        let id = session.publish("plain/messages", ("", b""), &draft.payload);
        session.acknowledged(id).await?;
        latencies[0].add(began.elapsed());

        write_update(&mut draft, vehicle, first_report + count * 3 + 1);
        let began = Instant::now();
        let id = session.publish(&draft.topic, ("", b""), &draft.payload);
        session.acknowledged(id).await?;
        latencies[1].add(began.elapsed());

        write_update(&mut draft, vehicle, first_report + count * 3 + 2);
        let began = Instant::now();
        let correlation = count.to_be_bytes();
        session.publish(&draft.topic, (ANSWERS, &correlation), &draft.payload);
        let answer = session.answer(&correlation).await?;
        latencies[2].add(began.elapsed());
        check_accepted(&answer)?;
        count += 1;
    }
    session.disconnect().await?;
    forget(options.target, ABSENT).await?;
    Ok(latencies.map(Single::of))
}

fn check_accepted(answer: &Message) -> Result<()> {
    let is_accepted = serde_json::from_slice::<reads::Version>(&answer.payload).is_ok();
    ensure!(is_accepted, "an update was answered with {}", String::from_utf8_lossy(&answer.payload));
    Ok(())
}
