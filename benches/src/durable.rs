//! The scenario `durable`: what a broker acknowledges when acknowledging means that a message is kept.
//!
//! Owns two phases: many messages in flight, for the rate; then one at a
//! time, for what a single message waits. Subscribers with persistent
//! sessions, connected and not, make every message one that must be kept.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::latency::Latencies;
use crate::ledger::{Sent, Told};
use crate::link::Link;
use crate::plot::curves::Spreads;
use crate::receiver::{Manner, Receiver};
use crate::report::Format;
use crate::sender::{Goal, Sender};

/// The filter of every receiver.
const FILTER: &str = "durable/#";

/// How long nothing may come before a message counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// What load to make.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// Publishers, each on a topic of its own
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    publishers: u16,
    /// Messages that each publisher has in flight
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Bytes of each message
    #[arg(long, default_value_t = 256)]
    payload_bytes: usize,
    /// QoS of messages and subscriptions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    qos: u8,
    /// Subscribers that are connected; each gets every message
    #[arg(long, default_value_t = 1)]
    online: u16,
    /// Subscribers that are not connected; every message waits for each
    #[arg(long, default_value_t = 1)]
    offline: u16,
    /// How long to measure the rate; 0 leaves it out
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How long to measure one message at a time; 0 leaves it out
    #[arg(long, default_value_t = 3)]
    single_seconds: u64,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    spreads: Spreads,
}

/// One phase.
#[derive(Debug, Serialize)]
struct Figures {
    acknowledged: u64,
    refused: u64,
    delivered: u64,
    seconds: f64,
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
            if options.seconds > 0 {
                let duration = Duration::from_secs(options.seconds);
                let (figures, mut latencies) = measure(options, options.publishers, options.window, duration).await?;
                options.format.print("rate", &figures)?;
                lines.push(latencies.line("as fast as it goes"));
            }
            if options.single_seconds > 0 {
                let duration = Duration::from_secs(options.single_seconds);
                let (figures, mut latencies) = measure(options, 1, 1, duration).await?;
                options.format.print("one in flight", &figures)?;
                lines.push(latencies.line("one in flight"));
            }
            let subtitle = format!(
                "QoS {}, {} bytes: from a message until it is acknowledged",
                options.qos, options.payload_bytes
            );
            options.spreads.draw("Latency of messages that must be kept", &subtitle, lines)
        })
        .await
}

async fn measure(options: &Options, publishers: u16, window: u16, duration: Duration) -> Result<(Figures, Latencies)> {
    for index in 0..options.offline {
        let (link, _) = subscribe(options, &offline_name(index), publishers).await?.1;
        link.disconnect().await?;
    }
    let (due_sender, due) = watch::channel(None);
    let mut receiving = JoinSet::new();
    for index in 0..options.online {
        let (mut receiver, (mut link, _)) = subscribe(options, &format!("durable-online-{index}"), publishers).await?;
        let due = due.clone();
        receiving.spawn_local(async move {
            let is_complete = receiver.drain(&mut link, due, PATIENCE).await?;
            link.disconnect().await?;
            anyhow::Ok((receiver, is_complete))
        });
    }
    let mut senders = Vec::new();
    for index in 0..publishers {
        let (name, topic) = (format!("durable-sender-{index}"), format!("durable/{index}"));
        let mut sender = Sender::new(name, topic, index, options.qos, window, options.payload_bytes);
        let (link, _) = sender.connect(options.target, true).await?;
        senders.push((sender, link));
    }
    let began = Instant::now();
    let mut sending = JoinSet::new();
    for (index, (mut sender, mut link)) in senders.into_iter().enumerate() {
        sending.spawn_local(async move {
            sender.run(&mut link, Goal::Until(began + duration)).await?;
            link.disconnect().await?;
            anyhow::Ok((index, sender))
        });
    }
    let mut senders = Vec::new();
    while let Some(sender) = sending.join_next().await {
        senders.push(sender?.context("a publisher")?);
    }
    let seconds = began.elapsed().as_secs_f64();
    senders.sort_by_key(|(index, _)| *index);
    let sent: Rc<Vec<Sent>> = Rc::new(senders.iter().map(|(_, sender)| sender.sent.clone()).collect());
    due_sender.send_replace(Some(Rc::clone(&sent)));
    let mut delivered = 0;
    while let Some(received) = receiving.join_next().await {
        let (receiver, is_complete) = received?.context("a subscriber")?;
        ensure!(is_complete, "a subscriber waits in vain: {:?}", receiver.ledger.audit(&sent));
        delivered += receiver.ledger.audit(&sent).delivered;
    }
    // What waits for those who never come is not to be found by the next run.
    for index in 0..options.offline {
        forget(options, &offline_name(index), publishers).await?;
    }
    let count = |wanted| sent.iter().map(|sent| sent.count(wanted)).sum::<u64>();
    let acknowledged = count(Told::Acknowledged);
    ensure!(acknowledged > 0, "not one message was acknowledged");
    let mut latencies = Latencies::default();
    for (_, sender) in senders {
        latencies.merge(sender.latencies);
    }
    let figures = Figures {
        acknowledged,
        refused: count(Told::Refused),
        delivered,
        seconds,
        per_second: acknowledged as f64 / seconds,
        latency_ms_p50: latencies.percentile_ms(50),
        latency_ms_p99: latencies.percentile_ms(99),
    };
    Ok((figures, latencies))
}

fn offline_name(index: u16) -> String {
    format!("durable-offline-{index}")
}

fn receiver(options: &Options, name: &str, senders: u16) -> Receiver {
    let manner = Manner { name: "", qos: options.qos, is_online: true, rest: Duration::ZERO, receive_maximum: 1_000 };
    Receiver::new(name.to_owned(), manner, senders.into())
}

/// A subscriber with a new session, and its connection.
async fn subscribe(options: &Options, name: &str, senders: u16) -> Result<(Receiver, (Link, bool))> {
    let mut receiver = receiver(options, name, senders);
    let mut connected = receiver.connect(options.target, true).await?;
    connected.0.subscribe(FILTER, options.qos).await?;
    Ok((receiver, connected))
}

/// Replaces a session by one with nothing in it.
async fn forget(options: &Options, name: &str, senders: u16) -> Result<()> {
    let (link, _) = receiver(options, name, senders).connect(options.target, true).await?;
    link.disconnect().await
}
