//! Reads of shadows over MQTT and HTTP, and changes over HTTP.
//!
//! Owns two phases: one request at a time, of each kind in turns; and as many as go. Each answer must be the shadow that was asked for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::documents;
use super::http::Http;
use super::session::{Came, Message, Session};
use super::window::Windows;
use crate::latency::Latencies;
use crate::process;
use crate::report::Format;
use crate::wire::Connect;

/// Reads in flight while versions are added up.
const ADDING_WINDOW: u16 = 256;

/// What load to make.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// The address of its administration listener
    #[arg(long)]
    admin: SocketAddr,
    /// The broker's process, for its processor time
    #[arg(long)]
    pid: u32,
    /// Vehicles; each has a shadow
    #[arg(long, default_value_t = 100_000)]
    vehicles: u32,
    /// How long to measure one request at a time
    #[arg(long, default_value_t = 3.0)]
    single_seconds: f64,
    /// How long to measure each rate
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[command(flatten)]
    windows: Windows,
    #[command(flatten)]
    format: Format,
}

/// What of a document is looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    version: u64,
}

#[derive(Debug, Serialize)]
struct Figures {
    mqtt_get: Asked,
    http_get: Asked,
    http_patch: Asked,
}

/// One kind of request.
#[derive(Debug, Serialize)]
struct Asked {
    one_ms_p50: f64,
    one_ms_p99: f64,
    per_second: f64,
    broker_cpu_us: f64,
}

/// Which kind.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    MqttGet,
    HttpGet,
    HttpPatch,
}

/// Measures and prints.
///
/// # Errors
/// When the broker cannot be reached, or answers wrongly.
pub(super) async fn run(options: &Options) -> Result<()> {
    let [mut mqtt, mut get, mut patch] = one_at_a_time(options).await?;
    let asked = [Kind::MqttGet, Kind::HttpGet, Kind::HttpPatch].into_iter().zip([&mut mqtt, &mut get, &mut patch]);
    let mut all = Vec::new();
    for (kind, latencies) in asked {
        let [one_ms_p50, one_ms_p99] = [50, 99].map(|percent| latencies.percentile_ms(percent));
        let cpu_before = process::cpu_seconds(options.pid)?;
        let began = Instant::now();
        let count = as_many_as_go(options, kind).await?;
        let seconds = began.elapsed().as_secs_f64();
        let broker_cpu_us = (process::cpu_seconds(options.pid)? - cpu_before) * 1e6 / count.max(1) as f64;
        all.push(Asked { one_ms_p50, one_ms_p99, per_second: count as f64 / seconds, broker_cpu_us });
    }
    let Ok([mqtt_get, http_get, http_patch]) = <[Asked; 3]>::try_from(all) else { anyhow::bail!("three kinds") };
    options.format.print("reads", &Figures { mqtt_get, http_get, http_patch })
}

/// The versions of the first so many vehicles' shadows, added up. Those without one count nothing.
///
/// # Errors
/// When the broker cannot be reached.
pub(super) async fn versions(target: SocketAddr, vehicles: u32) -> Result<u64> {
    let (mut sum, mut numbers) = (0, 0..vehicles);
    let add = |message: &Message| {
        sum += serde_json::from_slice(&message.payload).map_or(0, |Version { version }| version);
        Ok(())
    };
    get_all(target, "twin-versions", ADDING_WINDOW, || numbers.next(), add).await?;
    Ok(sum)
}

/// Those of these vehicles that have no shadow.
///
/// # Errors
/// When the broker cannot be reached.
pub(super) async fn without_shadow(target: SocketAddr, numbers: &[u32]) -> Result<Vec<u32>> {
    let (mut without, mut numbers) = (Vec::new(), numbers.iter().copied());
    let look = |message: &Message| {
        if serde_json::from_slice::<Version>(&message.payload).is_err() {
            without.push(u32::from_be_bytes(message.correlation[..].try_into()?));
        }
        Ok(())
    };
    get_all(target, "twin-missing", ADDING_WINDOW, || numbers.next(), look).await?;
    Ok(without)
}

/// Asks for the shadows of these vehicles over MQTT, so many at a time.
async fn get_all(
    target: SocketAddr,
    client_id: &str,
    window: u16,
    mut next: impl FnMut() -> Option<u32>,
    mut heard: impl FnMut(&Message) -> Result<()>,
) -> Result<()> {
    let mut session = Session::open(target, &Connect { client_id, ..Connect::default() }).await?;
    let answers = format!("answers/{client_id}");
    session.subscribe(&answers).await?;
    let (mut in_flight, mut is_open) = (0u16, true);
    loop {
        while is_open && in_flight < window {
            match next() {
                Some(number) => session.publish(&get_topic(number), (&answers, &number.to_be_bytes()), b""),
                None => {
                    is_open = false;
                    break;
                }
            };
            in_flight += 1;
        }
        if in_flight == 0 {
            return session.disconnect().await;
        }
        session.turn().await?;
        while let Some(came) = session.take()? {
            match came {
                Came::Acknowledged(_, is_taken) => ensure!(is_taken, "a question was refused"),
                Came::Message(message) => {
                    heard(&message)?;
                    in_flight -= 1;
                }
            }
        }
    }
}

fn get_topic(number: u32) -> String {
    format!("vehicles/{}/shadow/get", documents::vin(number))
}

fn shadow_path(number: u32) -> String {
    format!("/v1/vehicles/{}/shadow", documents::vin(number))
}

async fn one_at_a_time(options: &Options) -> Result<[Latencies; 3]> {
    let connect = Connect { client_id: "twin-reader", ..Connect::default() };
    let mut session = Session::open(options.target, &connect).await?;
    let answers = "answers/twin-reader";
    session.subscribe(answers).await?;
    let mut http = Http::new(options.admin);
    let mut latencies: [Latencies; 3] = Default::default();
    let (mut count, mut update) = (0u32, Vec::new());
    let until = Instant::now() + Duration::from_secs_f64(options.single_seconds);
    while Instant::now() < until {
        let number = documents::mixed(count) % options.vehicles;
        let (topic, path) = (get_topic(number), shadow_path(number));
        documents::update(&mut update, number, count ^ 1 << 30);

        let began = Instant::now();
        let correlation = number.to_be_bytes();
        session.publish(&topic, (answers, &correlation), b"");
        let answer = session.answer(&correlation).await?;
        latencies[0].add(began.elapsed());
        let version = version_of(&answer.payload)?;

        let began = Instant::now();
        let answer = http.ask("GET", &path, b"").await?;
        latencies[1].add(began.elapsed());
        ensure!(version_of(answer)? == version, "MQTT and HTTP say different versions");

        let began = Instant::now();
        let answer = http.ask("PATCH", &path, &update).await?;
        latencies[2].add(began.elapsed());
        ensure!(version_of(answer)? == version + 1, "a change is not one version more");
        count += 1;
    }
    session.disconnect().await?;
    Ok(latencies)
}

fn version_of(document: &[u8]) -> Result<u64> {
    let Version { version } = serde_json::from_slice(document)
        .with_context(|| format!("not a shadow: {}", String::from_utf8_lossy(document)))?;
    Ok(version)
}

/// How many requests of a kind were answered over several connections.
async fn as_many_as_go(options: &Options, kind: Kind) -> Result<u64> {
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let (target, admin, vehicles, window) = (options.target, options.admin, options.vehicles, options.windows.window);
    let mut lanes = JoinSet::new();
    for index in 0..u32::from(options.windows.connections) {
        lanes.spawn_local(async move {
            let (mut asked, mut answered) = (index << 24, 0u64);
            let mut next = move || {
                asked += 1;
                (Instant::now() < until).then(|| documents::mixed(asked) % vehicles)
            };
            if kind == Kind::MqttGet {
                let heard = |message: &Message| {
                    version_of(&message.payload)?;
                    answered += 1;
                    Ok(())
                };
                get_all(target, &format!("twin-reader-{index}"), window, next, heard).await?;
                return anyhow::Ok(answered);
            }
            let (mut http, mut update) = (Http::new(admin), Vec::new());
            while let Some(number) = next() {
                if kind == Kind::HttpGet {
                    http.ask("GET", &shadow_path(number), b"").await?;
                } else {
                    documents::update(&mut update, number, answered as u32 ^ 1 << 29);
                    http.ask("PATCH", &shadow_path(number), &update).await?;
                }
                answered += 1;
            }
            Ok(answered)
        });
    }
    let mut count = 0;
    while let Some(answered) = lanes.join_next().await {
        count += answered?.context("a connection that reads")?;
    }
    ensure!(count > 0, "{kind:?}: nothing was answered");
    Ok(count)
}
