//! Hours of everyday work, with a look at the broker's memory and disk each second.
//!
//! Owns the load, whose rate is bounded, and the samples. Vehicles come and go by turns, so that their queues fill and drain; some of
//! the messages expire before that; visitors' sessions expire with all that waits for them; retained messages are replaced. It never says
//! what is good enough: the proof does.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::link::Link;
use crate::plot;
use crate::plot::curves::{Line, Over, Panel};
use crate::report::Format;
use crate::wire::{self, Connect, Version, first};

/// Sessions that stay, and are away most of the time.
const VEHICLES: u64 = 200;
/// From one visit of a vehicle to its next.
const VISIT_INTERVAL: Duration = Duration::from_secs(10);
/// Vehicles that are there at the same time.
const AT_ONCE: u64 = 4;
/// No message for so long: the queue is drained.
const DRAINED_AFTER: Duration = Duration::from_millis(30);
/// A visitor's session lasts so long after it left.
const VISITOR_EXPIRY_SECONDS: u32 = 5;
/// One message in so many expires, and one is retained.
const EXPIRING_ONE_IN: u64 = 4;
const RETAINED_ONE_IN: u64 = 20;
const EXPIRY_SECONDS: u32 = 3;
/// Topics of retained messages.
const RETAINED_TOPICS: u64 = 500;
/// The publisher's clock.
const TICK: Duration = Duration::from_millis(10);
/// No more messages than this wait for their acknowledgement.
const WINDOW: u64 = 1_000;
const PAYLOAD_BYTES: usize = 300;

/// How long, how much, and what to look at.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the broker listens
    #[arg(long)]
    target: SocketAddr,
    /// Where it serves /metrics
    #[arg(long)]
    admin: SocketAddr,
    /// Its process
    #[arg(long)]
    pid: u32,
    /// Its data folder
    #[arg(long)]
    folder: PathBuf,
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Messages a second
    #[arg(long, default_value_t = 2_000)]
    rate: u64,
    /// Where the samples go
    #[arg(long)]
    csv: PathBuf,
    /// Where they are drawn, as an SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    seconds: f64,
    published: u64,
    acknowledged: u64,
    refused: u64,
    delivered: u64,
    visits: u64,
    visitors: u64,
    samples: u64,
}

/// One look at the broker.
#[derive(Debug)]
struct Sample {
    second: u64,
    resident_bytes: u64,
    log_bytes: u64,
    state_bytes: u64,
    segments: u64,
    queued_messages: u64,
}

/// What the tasks count.
#[derive(Debug, Default)]
struct Counts {
    published: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    delivered: AtomicU64,
    visits: AtomicU64,
    visitors: AtomicU64,
    is_over: AtomicBool,
}

impl Counts {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Works, and prints the figures.
///
/// # Errors
/// When the broker cannot be reached, or ends a connection.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let counts = Arc::new(Counts::default());
    let target = options.target;
    for vehicle in 0..VEHICLES {
        let (mut link, _) = open(target, &format!("soak-{vehicle}"), u32::MAX).await?;
        link.subscribe(&format!("soak/{vehicle}/#"), 1).await?;
        link.disconnect().await?;
    }
    let mut tasks = vec![
        tokio::spawn(publish(target, options.rate, counts.clone())),
        tokio::spawn(send_visitors(target, counts.clone())),
    ];
    for first in 0..AT_ONCE {
        tasks.push(tokio::spawn(drive(target, first, counts.clone())));
    }
    let begun = Instant::now();
    let samples = sample(options, &counts, &mut tasks).await?;
    counts.is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let figures = Figures {
        seconds: begun.elapsed().as_secs_f64(),
        published: count(&counts.published),
        acknowledged: count(&counts.acknowledged),
        refused: count(&counts.refused),
        delivered: count(&counts.delivered),
        visits: count(&counts.visits),
        visitors: count(&counts.visitors),
        samples: samples.len() as u64,
    };
    if let Some(path) = &options.plot {
        plot::write(path, &draw(&samples, options.rate))?;
    }
    options.format.print("soak", &figures)
}

/// Looks at the broker each second until the time is over, and writes a line for each look.
async fn sample(options: &Options, counts: &Counts, tasks: &mut [JoinHandle<Result<()>>]) -> Result<Vec<Sample>> {
    let mut csv = File::create(&options.csv).with_context(|| format!("cannot write {}", options.csv.display()))?;
    writeln!(csv, "seconds,rss_bytes,log_bytes,state_bytes,segments,queued_messages,published,delivered")?;
    let begun = Instant::now();
    let mut samples = Vec::new();
    for second in 1..=options.seconds {
        tokio::time::sleep_until((begun + Duration::from_secs(second)).into()).await;
        if let Some(task) = tasks.iter_mut().find(|task| task.is_finished()) {
            task.await??;
            anyhow::bail!("a part of the load has ended early");
        }
        let metrics = metrics(options.admin).await?;
        let shard = options.folder.join("shard-0");
        let sample = Sample {
            second,
            resident_bytes: resident_bytes(options.pid)?,
            log_bytes: folder_bytes(&shard.join("log"))?,
            state_bytes: folder_bytes(&shard)?,
            segments: metric(&metrics, "causeway_log_segments")?,
            queued_messages: metric(&metrics, "causeway_queued_messages")?,
        };
        writeln!(
            csv,
            "{second},{},{},{},{},{},{},{}",
            sample.resident_bytes,
            sample.log_bytes,
            sample.state_bytes,
            sample.segments,
            sample.queued_messages,
            counts.published.load(Ordering::Relaxed),
            counts.delivered.load(Ordering::Relaxed),
        )?;
        samples.push(sample);
    }
    csv.flush()?;
    Ok(samples)
}

fn draw(samples: &[Sample], rate: u64) -> String {
    let line = |name: &str, value: fn(&Sample) -> f64| Line {
        name: name.to_owned(),
        points: samples.iter().map(|sample| (sample.second as f64, value(sample))).collect(),
    };
    plot::curves::draw(
        "Memory and disk of the broker under everyday work",
        &format!("{} messages a second, for vehicles that come and go", plot::shown(rate as f64)),
        Over::Time,
        &[
            Panel { unit: "MB of memory", lines: vec![line("resident", |sample| sample.resident_bytes as f64 / 1e6)] },
            Panel {
                unit: "MB on disk",
                lines: vec![
                    line("log", |sample| sample.log_bytes as f64 / 1e6),
                    line("folded state", |sample| sample.state_bytes as f64 / 1e6),
                ],
            },
            Panel { unit: "segments of the log", lines: vec![line("segments", |sample| sample.segments as f64)] },
            Panel { unit: "messages that wait", lines: vec![line("queued", |sample| sample.queued_messages as f64)] },
        ],
    )
}

async fn open(target: SocketAddr, client_id: &str, expiry_seconds: u32) -> Result<(Link, wire::Connack)> {
    let connect = Connect {
        client_id,
        is_clean: false,
        session_expiry_seconds: expiry_seconds,
        receive_maximum: 1_000,
        ..Connect::default()
    };
    Link::open(target, &connect).await
}

/// Publishes at the rate, until the end.
async fn publish(target: SocketAddr, rate: u64, counts: Arc<Counts>) -> Result<()> {
    let (mut link, connack) = open(target, "soak-backend", 0).await?;
    let window = WINDOW.min(u64::from(connack.receive_maximum));
    let begun = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    let mut tick = tokio::time::interval(TICK);
    // What a busy machine has missed comes later, in order.
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !counts.is_over() {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due && sent - answered < window {
            sent += 1;
            write_message(&mut link.outgoing, sent);
            counts.published.fetch_add(1, Ordering::Relaxed);
        }
        tokio::select! {
            turn = link.turn() => turn?,
            _ = tick.tick() => {}
        }
        while let Some((kind, body)) = link.incoming.next() {
            ensure!(kind == first::PUBACK, "a packet {kind:#04x} instead of PUBACK");
            let (_, reason) = wire::read_ack(body).context("a PUBACK cut short")?;
            answered += 1;
            counts.acknowledged.fetch_add(1, Ordering::Relaxed);
            counts.refused.fetch_add(u64::from(reason >= 0x80), Ordering::Relaxed);
        }
    }
    link.disconnect().await
}

/// Message number `number`: what kind it is, and for whom, follows from that.
fn write_message(out: &mut Vec<u8>, number: u64) {
    const QOS1: u8 = 0x02;
    const RETAIN: u8 = 0x01;
    const MESSAGE_EXPIRY: u8 = 0x02;
    let is_retained = number.is_multiple_of(RETAINED_ONE_IN);
    let topic = match is_retained {
        true => format!("soak-state/{}", number / RETAINED_ONE_IN % RETAINED_TOPICS),
        // Far from its neighbours: a vehicle's queue grows message by message.
        false => format!("soak/{}/cmd", number * 7 % VEHICLES),
    };
    let mut body = Vec::with_capacity(topic.len() + 16 + PAYLOAD_BYTES);
    wire::push_text(&mut body, &topic);
    body.extend(((number % 60_000) as u16 + 1).to_be_bytes());
    if !is_retained && number.is_multiple_of(EXPIRING_ONE_IN) {
        body.extend([5, MESSAGE_EXPIRY]);
        body.extend(EXPIRY_SECONDS.to_be_bytes());
    } else {
        body.push(0);
    }
    body.extend(number.to_be_bytes());
    body.resize(body.len() + PAYLOAD_BYTES, b'.');
    wire::push_packet(out, first::PUBLISH | QOS1 | if is_retained { RETAIN } else { 0 }, &body);
}

/// Every `AT_ONCE`th vehicle from `first` on comes, drains its queue and leaves; again and again.
async fn drive(target: SocketAddr, first: u64, counts: Arc<Counts>) -> Result<()> {
    let mut tick = tokio::time::interval(VISIT_INTERVAL / (VEHICLES / AT_ONCE) as u32);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for vehicle in (first..VEHICLES).step_by(AT_ONCE as usize).cycle() {
        tick.tick().await;
        if counts.is_over() {
            break;
        }
        let (mut link, connack) = open(target, &format!("soak-{vehicle}"), u32::MAX).await?;
        ensure!(connack.is_session_present, "the session of vehicle {vehicle} is gone");
        drain(&mut link, &counts).await?;
        counts.visits.fetch_add(1, Ordering::Relaxed);
        link.disconnect().await?;
    }
    Ok(())
}

/// Takes and acknowledges messages until none comes any more.
async fn drain(link: &mut Link, counts: &Counts) -> Result<()> {
    loop {
        while let Some((kind, body)) = link.incoming.next() {
            if kind & 0xF0 != first::PUBLISH {
                continue;
            }
            let (id, _) = wire::read_publish(Version::V5, kind, body).context("a PUBLISH cut short")?;
            if id != 0 {
                wire::ack(&mut link.outgoing, first::PUBACK, id);
            }
            counts.delivered.fetch_add(1, Ordering::Relaxed);
        }
        match tokio::time::timeout(DRAINED_AFTER, link.turn()).await {
            Ok(turn) => turn?,
            Err(_) => return Ok(()),
        }
    }
}

/// Each second somebody subscribes to a vehicle's messages, leaves, and never comes back.
async fn send_visitors(target: SocketAddr, counts: Arc<Counts>) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for visitor in 0_u64.. {
        tick.tick().await;
        if counts.is_over() {
            break;
        }
        let (mut link, _) = open(target, &format!("soak-visitor-{visitor}"), VISITOR_EXPIRY_SECONDS).await?;
        link.subscribe(&format!("soak/{}/#", visitor % VEHICLES), 1).await?;
        link.disconnect().await?;
        counts.visitors.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn metrics(admin: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn metric(metrics: &str, name: &str) -> Result<u64> {
    let values = metrics.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with([' ', '{']));
    let mut values = values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.next().with_context(|| format!("/metrics has no {name}"))? as u64)
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.split_whitespace().next().context("an empty VmRSS")?.parse()?;
    Ok(kibibytes * 1024)
}

/// What the files of a folder take on the disk; those of folders in it aside.
fn folder_bytes(folder: &Path) -> Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        // A segment may go just now.
        let Ok(metadata) = entry?.metadata() else { continue };
        if metadata.is_file() {
            bytes += metadata.blocks() * BLOCK_BYTES;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_with_and_without_labels() {
        let text = "# TYPE causeway_a gauge\ncauseway_a_more 7\ncauseway_a{shard=\"0\"} 5\ncauseway_b 6\n";
        assert_eq!(metric(text, "causeway_a").unwrap(), 5);
        assert_eq!(metric(text, "causeway_b").unwrap(), 6);
        assert!(metric(text, "causeway_c").is_err());
    }

    #[test]
    fn messages_are_of_every_kind() {
        let mut bytes = Vec::new();
        write_message(&mut bytes, RETAINED_ONE_IN);
        assert_eq!(bytes[0], 0x33);
        bytes.clear();
        write_message(&mut bytes, EXPIRING_ONE_IN);
        let (body, header) = wire::header(&bytes).unwrap();
        assert_eq!((bytes[0], bytes.len()), (0x32, body + header));
        let (id, payload) = wire::read_publish(Version::V5, bytes[0], &bytes[header..]).unwrap();
        assert_eq!((id, payload[..8].to_vec()), (5, 4_u64.to_be_bytes().to_vec()));
    }
}
