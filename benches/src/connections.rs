//! The scenario `connections`: hold many idle ones, then make many new ones.
//!
//! Owns the two phases. While connections idle they ping, and a publisher and
//! a subscriber show that the broker still works. At the end of the hold each
//! connection must answer once more.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{interval, timeout};

use crate::client::{Client, VERSION};
use crate::latency::Latencies;
use crate::plot::curves::{Line, Spreads};
use crate::report::Format;
use crate::wire::{self, first};

/// How long the broker may take to answer anything.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Connections opened at the same time; more would only fill the accept queue.
const OPENING_AT_ONCE: usize = 64;

/// Idle connections ping this often; the keep-alive is twice that.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Keep-alive of idle connections, in seconds.
const KEEP_ALIVE_SECONDS: u16 = 20;

/// The publisher sends this often.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// How many idle connections share a source address.
const CONNECTIONS_PER_SOURCE: usize = 10_000;

/// Sources below this are for idle connections.
const FIRST_RATE_SOURCE: usize = 100;

/// What to hold and how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// Idle connections to hold
    #[arg(long, default_value_t = 1_000)]
    hold: usize,
    /// How long to hold them
    #[arg(long, default_value_t = 5)]
    hold_seconds: u64,
    /// How long to measure new connections; 0 leaves it out
    #[arg(long, default_value_t = 0)]
    rate_seconds: u64,
    /// New connections made at the same time
    #[arg(long, default_value_t = 32)]
    rate_clients: usize,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    spreads: Spreads,
}

#[derive(Debug, Serialize)]
struct Opened {
    opened: usize,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Held {
    alive: usize,
    pings_answered: u64,
    messages_sent: u64,
    messages_received: u64,
    latency_ms_p50: f64,
    latency_ms_max: f64,
}

#[derive(Debug, Serialize)]
struct Rate {
    connects: usize,
    failures: u64,
    per_second: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
}

/// Runs the phases and prints each as it ends.
///
/// # Errors
/// When the broker cannot be reached or gives up a connection.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut lines = Vec::new();
            if options.hold > 0 {
                lines.push(hold(options).await?);
            }
            if options.rate_seconds > 0 {
                let (rate, line) = measure_rate(options).await?;
                options.format.print("rate", &rate)?;
                lines.push(line);
            }
            let subtitle =
                format!("{} connections held; then {} made at the same time", options.hold, options.rate_clients);
            options.spreads.draw("Latency beside idle connections", &subtitle, lines)
        })
        .await
}

/// Returns the latencies of messages meanwhile.
async fn hold(options: &Options) -> Result<Line> {
    let began = Instant::now();
    let clients = open(options).await?;
    let opened = Opened { opened: clients.len(), seconds: began.elapsed().as_secs_f64() };
    options.format.print("opened", &opened)?;

    let (end, ended) = watch::channel(false);
    let mut idlers = JoinSet::new();
    for client in clients {
        idlers.spawn_local(idle(client, ended.clone()));
    }
    let mut traffic = exchange_messages(options).await?;
    end.send(true).context("nobody idles any more")?;
    let mut held = Held {
        alive: 0,
        pings_answered: 0,
        messages_sent: traffic.sent,
        messages_received: traffic.latencies.count() as u64,
        latency_ms_p50: traffic.latencies.percentile_ms(50),
        latency_ms_max: traffic.latencies.percentile_ms(100),
    };
    let mut first_error = None;
    while let Some(result) = idlers.join_next().await {
        match result.context("an idle connection's task failed")? {
            Ok(pings) => {
                held.alive += 1;
                held.pings_answered += pings;
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    if let Some(error) = first_error {
        eprintln!("the first idle connection that was lost: {error:#}");
    }
    options.format.print("held", &held)?;
    Ok(traffic.latencies.line("messages"))
}

/// Opens all connections, a few at a time, and fails with the first that fails.
async fn open(options: &Options) -> Result<Vec<Client>> {
    let opening = Rc::new(Semaphore::new(OPENING_AT_ONCE));
    let mut openers = JoinSet::new();
    for index in 0..options.hold {
        let opening = Rc::clone(&opening);
        let target = options.target;
        openers.spawn_local(async move {
            let _permit = opening.acquire().await?;
            let client_id = format!("idle-{}-{index}", std::process::id());
            let source = index / CONNECTIONS_PER_SOURCE;
            let connect = Client::connect(target, source, &client_id, KEEP_ALIVE_SECONDS);
            in_time(connect).await
        });
    }
    let mut clients = Vec::with_capacity(options.hold);
    while let Some(client) = openers.join_next().await {
        let client = client?.with_context(|| format!("after {} connections", clients.len()))?;
        clients.push(client);
    }
    Ok(clients)
}

/// Pings until the end, then once more, and returns how many were answered.
async fn idle(mut client: Client, mut ended: watch::Receiver<bool>) -> Result<u64> {
    let mut pings = 0;
    loop {
        // Nothing but answers to pings may come, so waiting reads nothing.
        let is_over = timeout(PING_EVERY, ended.wait_for(|over| *over)).await.is_ok();
        in_time(client.ping()).await?;
        pings += 1;
        if is_over {
            in_time(client.disconnect()).await?;
            return Ok(pings);
        }
    }
}

struct Traffic {
    sent: u64,
    latencies: Latencies,
}

/// Publishes for the time of the hold and receives every message.
async fn exchange_messages(options: &Options) -> Result<Traffic> {
    let topic = format!("bench/{}", std::process::id());
    let name = |role| format!("{role}-{}", std::process::id());
    let connect = |id: String| async move { in_time(Client::connect(options.target, 0, &id, 0)).await };
    let mut subscriber = connect(name("subscriber")).await?;
    in_time(subscriber.subscribe(&topic)).await?;
    let mut publisher = connect(name("publisher")).await?;

    let began = Instant::now();
    let until = began + Duration::from_secs(options.hold_seconds);
    let mut traffic = Traffic { sent: 0, latencies: Latencies::default() };
    let mut ticks = interval(PUBLISH_EVERY);
    let mut packet = Vec::new();
    while Instant::now() < until {
        ticks.tick().await;
        let number = traffic.sent.to_be_bytes();
        let sent_at = Instant::now();
        packet.clear();
        wire::publish(VERSION, &mut packet, 0, &topic, 0, &number);
        publisher.send(&packet).await?;
        traffic.sent += 1;
        match timeout(ANSWER_DEADLINE, subscriber.expect(first::PUBLISH)).await {
            Ok(body) => {
                ensure!(
                    wire::read_publish(VERSION, first::PUBLISH, &body?) == Some((0, &number[..])),
                    "the subscriber received another message than was sent"
                );
                traffic.latencies.add(sent_at.elapsed());
            }
            // Lost: the figures say so.
            Err(_) => break,
        }
    }
    in_time(publisher.disconnect()).await?;
    in_time(subscriber.disconnect()).await?;
    Ok(traffic)
}

/// Connects and disconnects as fast as the broker answers.
async fn measure_rate(options: &Options) -> Result<(Rate, Line)> {
    let began = Instant::now();
    let until = began + Duration::from_secs(options.rate_seconds);
    let mut tasks = JoinSet::new();
    for index in 0..options.rate_clients {
        tasks.spawn_local(connect_until(options.target, index, until));
    }
    let mut latencies = Latencies::default();
    let mut failures = 0;
    while let Some(result) = tasks.join_next().await {
        let (own_latencies, own_failures) = result?;
        latencies.merge(own_latencies);
        failures += own_failures;
    }
    let seconds = began.elapsed().as_secs_f64();
    if latencies.count() == 0 {
        bail!("not one connection was answered");
    }
    let rate = Rate {
        connects: latencies.count(),
        failures,
        per_second: latencies.count() as f64 / seconds,
        latency_ms_p50: latencies.percentile_ms(50),
        latency_ms_p99: latencies.percentile_ms(99),
    };
    Ok((rate, latencies.line("connects")))
}

async fn connect_until(target: SocketAddr, index: usize, until: Instant) -> (Latencies, u64) {
    let mut latencies = Latencies::default();
    let mut failures = 0;
    let client_id = format!("rate-{}-{index}", std::process::id());
    while Instant::now() < until {
        let began = Instant::now();
        match connect_once(target, index, &client_id).await {
            Ok(()) => latencies.add(began.elapsed()),
            Err(error) => {
                if failures == 0 {
                    eprintln!("the first failure of client {index}: {error:#}");
                }
                failures += 1;
            }
        }
    }
    (latencies, failures)
}

async fn connect_once(target: SocketAddr, index: usize, client_id: &str) -> Result<()> {
    let source = FIRST_RATE_SOURCE + index;
    let client = in_time(Client::connect(target, source, client_id, 60)).await?;
    in_time(client.disconnect()).await
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(ANSWER_DEADLINE, work).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {} s", ANSWER_DEADLINE.as_secs()),
    }
}
