//! The scenarios `subscriptions` and `retained`: very many of each, and what they cost.
//!
//! Owns how they are made and how fast they are found again. The broker's
//! own limits must have room for them.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::link::Link;
use crate::process;
use crate::report::Format;
use crate::wire::{self, Connect, Version, first};

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Filters in one SUBSCRIBE.
const FILTERS_AT_ONCE: u64 = 100;

/// Subscriptions of one client.
const FILTERS_OF_CLIENT: u64 = 1_000;

/// Messages under way, while subscriptions are looked for and while messages are retained.
const WINDOW: u64 = 1_000;

/// Strides through the vehicles so that each is met once: prime, and no divisor of their number.
const STRIDE: u64 = 7_919;

/// The RETAIN flag of a PUBLISH.
const RETAIN: u8 = 0x01;

/// QoS 1 among the flags of a PUBLISH.
const QOS1: u8 = 0x02;

/// How many, and where.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address; it must speak MQTT 5
    #[arg(long)]
    target: SocketAddr,
    /// The broker's process, where it is on this machine
    #[arg(long)]
    pid: Option<u32>,
    /// How many; of subscriptions, a multiple of 1,000
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Bytes of each message
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Bind the load to this processor core
    #[arg(long)]
    core: Option<usize>,
    #[command(flatten)]
    format: Format,
}

/// One phase.
#[derive(Debug, Serialize)]
struct Figures {
    count: u64,
    seconds: f64,
    per_second: f64,
    broker_cpu_seconds_per_million: Option<f64>,
    /// What the broker's memory grew by, for each.
    broker_bytes_each: Option<f64>,
}

/// The broker before a phase.
struct Before {
    at: Instant,
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
}

impl Before {
    fn now(options: &Options) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            cpu_seconds: options.pid.map(process::cpu_seconds).transpose()?,
            resident_bytes: options.pid.map(process::resident_bytes).transpose()?,
        })
    }

    fn figures(&self, options: &Options, count: u64) -> Result<Figures> {
        let seconds = self.at.elapsed().as_secs_f64();
        let now = Self::now(options)?;
        let cpu = self.cpu_seconds.zip(now.cpu_seconds);
        let resident = self.resident_bytes.zip(now.resident_bytes);
        Ok(Figures {
            count,
            seconds,
            per_second: count as f64 / seconds,
            broker_cpu_seconds_per_million: cpu.map(|(before, after)| (after - before) * 1e6 / count as f64),
            broker_bytes_each: resident.map(|(before, after)| after.saturating_sub(before) as f64 / count as f64),
        })
    }
}

/// Makes subscriptions, a filter with a wildcard for each vehicle, and then meets each by a message.
///
/// # Errors
/// When the broker cannot be reached or refuses one.
pub(crate) async fn subscriptions(options: &Options) -> Result<()> {
    ensure!(options.count.is_multiple_of(FILTERS_OF_CLIENT), "not a multiple of {FILTERS_OF_CLIENT}");
    prepare(options)?;
    let before = Before::now(options)?;
    let mut links = Vec::new();
    for client in 0..options.count / FILTERS_OF_CLIENT {
        let mut link = open(options, &format!("subscriptions-{client}")).await?;
        let vehicles = client * FILTERS_OF_CLIENT..(client + 1) * FILTERS_OF_CLIENT;
        for (packet, from) in vehicles.clone().step_by(FILTERS_AT_ONCE as usize).enumerate() {
            let filters: Vec<String> = (from..vehicles.end.min(from + FILTERS_AT_ONCE))
                .map(|vehicle| format!("{}/+", topic(vehicle)))
                .collect();
            wire::subscribe_all(Version::V5, &mut link.outgoing, packet as u16 + 1, &filters, 0);
        }
        let mut granted = 0;
        while granted < FILTERS_OF_CLIENT {
            let Some((kind, body)) = link.incoming.next() else {
                timeout(PATIENCE, link.turn()).await.context("no SUBACK comes")??;
                continue;
            };
            ensure!(kind == first::SUBACK, "a packet {kind:#04x} instead of SUBACK");
            // Identifier, and no properties: what is left is a code for each.
            let codes = body.get(3..).context("a SUBACK cut short")?;
            ensure!(codes.iter().all(|code| *code == 0), "the broker refuses a subscription: {codes:?}");
            granted += codes.len() as u64;
        }
        links.push(link);
    }
    options.format.print("subscribed", &before.figures(options, options.count)?)?;
    let before = Before::now(options)?;
    LocalSet::new().run_until(meet_all(options, links)).await?;
    options.format.print("matched", &before.figures(options, options.count)?)
}

/// Sends each vehicle a message.
async fn meet_all(options: &Options, links: Vec<Link>) -> Result<()> {
    let (received, woken) = (Rc::new(Cell::new(0_u64)), Rc::new(Notify::new()));
    for mut link in links {
        let (received, woken) = (Rc::clone(&received), Rc::clone(&woken));
        tokio::task::spawn_local(async move {
            while link.turn().await.is_ok() {
                while let Some((kind, _)) = link.incoming.next() {
                    received.set(received.get() + u64::from(kind & 0xF0 == first::PUBLISH));
                }
                woken.notify_one();
            }
        });
    }
    let mut publisher = open(options, "subscriptions-publisher").await?;
    let payload = vec![0x5A; options.payload];
    let mut sent = 0;
    while received.get() < options.count {
        let until = options.count.min(received.get() + WINDOW);
        while sent < until {
            let topic = format!("{}/lock", topic(sent * STRIDE % options.count));
            wire::publish(Version::V5, &mut publisher.outgoing, 0, &topic, 0, &payload);
            sent += 1;
        }
        tokio::select! {
            // It never hears anything, but writes what it has to say.
            result = publisher.turn() => result?,
            () = woken.notified() => {}
            // A deadline: nobody has heard anything for so long.
            () = tokio::time::sleep(PATIENCE) => bail!("{} of {sent} messages came", received.get()),
        }
    }
    Ok(())
}

/// Retains messages, and then subscribes to all of them.
///
/// # Errors
/// When the broker cannot be reached or refuses one.
pub(crate) async fn retained(options: &Options) -> Result<()> {
    prepare(options)?;
    let before = Before::now(options)?;
    let mut publisher = open(options, "retained-publisher").await?;
    let payload = vec![0x5A; options.payload];
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < options.count {
        // Once half of the window is open it is filled, so that packets travel together.
        let until = if sent - acknowledged <= WINDOW / 2 { options.count.min(acknowledged + WINDOW) } else { sent };
        while sent < until {
            let id = (sent % WINDOW) as u16 + 1;
            wire::publish(Version::V5, &mut publisher.outgoing, QOS1 | RETAIN, &topic(sent), id, &payload);
            sent += 1;
        }
        timeout(PATIENCE, publisher.turn()).await.context("no PUBACK comes")??;
        while let Some((kind, body)) = publisher.incoming.next() {
            ensure!(kind == first::PUBACK, "a packet {kind:#04x} instead of PUBACK");
            let (_, reason) = wire::read_ack(body).context("a PUBACK cut short")?;
            ensure!(reason < 0x80, "the broker refuses to retain a message: {reason:#04x}");
            acknowledged += 1;
        }
    }
    options.format.print("retained", &before.figures(options, options.count)?)?;

    let mut subscriber = open(options, "retained-subscriber").await?;
    let before = Before::now(options)?;
    wire::subscribe(Version::V5, &mut subscriber.outgoing, "fleet/#", 0);
    let mut received = 0;
    while received < options.count {
        timeout(PATIENCE, subscriber.turn()).await.with_context(|| format!("only {received} messages came"))??;
        while let Some((kind, body)) = subscriber.incoming.next() {
            match kind {
                first::SUBACK => ensure!(body.last() == Some(&0), "the broker refuses to subscribe: {body:?}"),
                _ => received += u64::from(kind & 0xF0 == first::PUBLISH),
            }
        }
    }
    options.format.print("found", &before.figures(options, options.count)?)
}

fn prepare(options: &Options) -> Result<()> {
    process::open_all_files();
    options.core.map_or(Ok(()), process::bind_to_core)
}

async fn open(options: &Options, client_id: &str) -> Result<Link> {
    Ok(Link::open(options.target, &Connect { client_id, ..Connect::default() }).await?.0)
}

fn topic(vehicle: u64) -> String {
    format!("fleet/{:04}/{vehicle:08}/command", vehicle / 1_000)
}
