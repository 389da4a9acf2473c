//! Commands and their answers, in turns with plain messages and theirs.
//!
//! Owns both pairs: a service asks, a vehicle answers. The plain pair goes to ordinary topics, with sessions, QoS and payloads of the same
//! kind: what a service would do without commands. Vehicles prove who they are with a password.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use super::documents;
use super::http::Http;
use super::session::{Came, Session, forget, lasting};
use crate::latency::Latencies;
use crate::process;
use crate::report::Format;
use crate::spread::Spread;

const SERVICE: &str = "twin-service";
const ANSWERS: &str = "answers/twin-service";
const PAYLOAD: &[u8] = br#"{"accuracy_m":10}"#;
const ANSWER: &[u8] = br#"{"lat":52.4231,"lon":10.7865,"heading":113,"accuracy_m":8}"#;

/// What load to make.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// The address of its administration listener, to send commands over HTTP, too
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// The broker's process, for its processor time
    #[arg(long)]
    pid: u32,
    /// Vehicles; each is a user `vehicle:VIN` of the broker
    #[arg(long, default_value_t = 16)]
    vehicles: u32,
    /// The password of all of them
    #[arg(long)]
    password: String,
    /// Rounds
    #[arg(long, default_value_t = 8)]
    rounds: u32,
    /// Pairs of each kind in each round, one at a time
    #[arg(long, default_value_t = 250)]
    pairs: u32,
    /// Pairs of each kind in each round, many at a time
    #[arg(long, default_value_t = 4_000)]
    pairs_at_once: u32,
    /// How many are under way then
    #[arg(long, default_value_t = 256)]
    window: u32,
    #[command(flatten)]
    format: Format,
}

/// What a pair is made of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Command,
}

impl Kind {
    /// Where a request wants its answer. The plain one does not say.
    fn answered_on(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Command => ANSWERS,
        }
    }

    fn asked_on(self, number: u32) -> String {
        let word = match self {
            Self::Plain => "ask",
            Self::Command => "cmd",
        };
        format!("vehicles/{}/{word}/get_location", documents::vin(number))
    }
}

/// One kind, over all rounds.
#[derive(Debug, Default, Serialize)]
struct Pair {
    pairs: usize,
    one_ms_p50: f64,
    one_ms_p99: f64,
    one_broker_cpu_us: f64,
    per_second: f64,
    broker_cpu_us: f64,
    #[serde(skip)]
    latencies: Latencies,
    #[serde(skip)]
    one_cpu_seconds: f64,
    #[serde(skip)]
    cpu_seconds: f64,
    #[serde(skip)]
    rates: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Figures {
    plain: Pair,
    command: Pair,
    /// A command over HTTP, with the answer in the response; 0 where it was not measured.
    http_ms_p50: f64,
    http_ms_p99: f64,
    p50_to_plain: f64,
    p99_to_plain: f64,
}

/// Measures and prints.
///
/// # Errors
/// When the broker cannot be reached, or an answer is wrong or missing.
pub(super) async fn run(options: &Options) -> Result<()> {
    let mut vehicles = JoinSet::new();
    for number in 0..options.vehicles {
        let session = open_vehicle(options, number).await?;
        vehicles.spawn_local(answer_all(session));
    }
    forget(options.target, SERVICE).await?;
    let mut service = Session::open(options.target, &lasting(SERVICE)).await?;
    service.subscribe(ANSWERS).await?;
    service.subscribe("vehicles/+/told/#").await?;
    let (mut plain, mut command, mut over_http) = (Pair::default(), Pair::default(), Latencies::default());
    let measuring = async {
        one_at_a_time(options, &mut service, (&mut plain, &mut command, &mut over_http)).await?;
        for _ in 0..options.rounds {
            many_at_once(options, &mut service, Kind::Plain, &mut plain).await?;
            many_at_once(options, &mut service, Kind::Command, &mut command).await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        measured = measuring => measured?,
        ended = vehicles.join_next() => ended.context("no vehicles")??.context("a vehicle")?,
    }
    vehicles.shutdown().await;
    service.disconnect().await?;
    forget(options.target, SERVICE).await?;
    let (plain, command) = (plain.finished(options), command.finished(options));
    let (p50_to_plain, p99_to_plain) = (command.one_ms_p50 / plain.one_ms_p50, command.one_ms_p99 / plain.one_ms_p99);
    let [http_ms_p50, http_ms_p99] = [50, 99].map(|percent| over_http.percentile_ms(percent));
    options.format.print("commands", &Figures { plain, command, http_ms_p50, http_ms_p99, p50_to_plain, p99_to_plain })
}

async fn open_vehicle(options: &Options, number: u32) -> Result<Session> {
    let vin = documents::vin(number);
    let user = format!("vehicle:{vin}");
    let mut connect = lasting(&vin);
    connect.login = Some((&user, &options.password));
    let mut session = Session::open(options.target, &connect).await.context("a vehicle cannot connect")?;
    session.subscribe("cmd/#").await?;
    session.subscribe("ask/#").await?;
    Ok(session)
}

/// A vehicle answers whatever it is asked, until it is dropped.
async fn answer_all(mut session: Session) -> Result<()> {
    loop {
        while let Some(came) = session.take()? {
            match came {
                Came::Acknowledged(_, is_taken) => ensure!(is_taken, "an answer was refused"),
                Came::Message(asked) => {
                    // To the plain question, the vehicle answers where it may publish.
                    let topic = match asked.topic.starts_with("ask/") {
                        true => "told/get_location",
                        false => &asked.response_topic,
                    };
                    session.publish(topic, ("", &asked.correlation), ANSWER);
                }
            }
        }
        session.wait().await?;
    }
}

/// A plain pair, a command, and one over HTTP, in turns: whatever else the machine does, it does it to all of them.
async fn one_at_a_time(
    options: &Options,
    service: &mut Session,
    (plain, command, over_http): (&mut Pair, &mut Pair, &mut Latencies),
) -> Result<()> {
    let mut http = options.admin.map(Http::new);
    for number in 0..options.rounds * options.pairs {
        let vehicle = documents::mixed(number) % options.vehicles;
        for (kind, pair) in [(Kind::Plain, &mut *plain), (Kind::Command, &mut *command)] {
            let cpu_before = process::cpu_seconds(options.pid)?;
            let began = Instant::now();
            let correlation = number.to_be_bytes();
            service.publish(&kind.asked_on(vehicle), (kind.answered_on(), &correlation), PAYLOAD);
            let answer = service.answer(&correlation).await?;
            pair.latencies.add(began.elapsed());
            pair.one_cpu_seconds += process::cpu_seconds(options.pid)? - cpu_before;
            ensure!(answer.payload == ANSWER, "{kind:?}: {}", String::from_utf8_lossy(&answer.payload));
        }
        if let Some(http) = &mut http {
            let path = format!("/v1/vehicles/{}/commands/get_location?wait=5s", documents::vin(vehicle));
            let began = Instant::now();
            let answer = http.ask("POST", &path, PAYLOAD).await?;
            over_http.add(began.elapsed());
            ensure!(answer == ANSWER, "over HTTP: {}", String::from_utf8_lossy(answer));
        }
    }
    Ok(())
}

async fn many_at_once(options: &Options, service: &mut Session, kind: Kind, pair: &mut Pair) -> Result<()> {
    let cpu_before = process::cpu_seconds(options.pid)?;
    let began = Instant::now();
    let count = options.pairs_at_once;
    let mut is_answered = vec![false; count as usize];
    let (mut asked, mut answered, mut acknowledged) = (0, 0, 0);
    while answered < count || acknowledged < count {
        while asked < count && asked - answered < options.window && asked - acknowledged < options.window {
            let topic = kind.asked_on(asked % options.vehicles);
            service.publish(&topic, (kind.answered_on(), &asked.to_be_bytes()), PAYLOAD);
            asked += 1;
        }
        service.turn().await?;
        while let Some(came) = service.take()? {
            match came {
                Came::Acknowledged(_, is_taken) => {
                    ensure!(is_taken, "{kind:?}: a request was refused");
                    acknowledged += 1;
                }
                Came::Message(answer) => {
                    ensure!(answer.payload == ANSWER, "{kind:?}: {}", String::from_utf8_lossy(&answer.payload));
                    let number = <[u8; 4]>::try_from(&answer.correlation[..]).map(u32::from_be_bytes)?;
                    let seen = is_answered.get_mut(number as usize).context("an answer to nothing")?;
                    ensure!(!std::mem::replace(seen, true), "{kind:?}: request {number} was answered twice");
                    answered += 1;
                }
            }
        }
    }
    pair.rates.push(f64::from(count) / began.elapsed().as_secs_f64());
    pair.cpu_seconds += process::cpu_seconds(options.pid)? - cpu_before;
    Ok(())
}

impl Pair {
    fn finished(mut self, options: &Options) -> Self {
        self.pairs = self.latencies.count();
        self.one_ms_p50 = self.latencies.percentile_ms(50);
        self.one_ms_p99 = self.latencies.percentile_ms(99);
        self.one_broker_cpu_us = self.one_cpu_seconds * 1e6 / self.pairs.max(1) as f64;
        self.per_second = Spread::of(std::mem::take(&mut self.rates)).median;
        let at_once = f64::from(options.pairs_at_once) * f64::from(options.rounds);
        self.broker_cpu_us = self.cpu_seconds * 1e6 / at_once.max(1.0);
        self
    }
}
