//! One message for every vehicle there is: what it costs while they are all away.
//!
//! Owns the sessions, the clock and the books. The sessions are made by real CONNECT and SUBSCRIBE packets, and the log is on the
//! real disk with `fdatasync`. It never says what is good enough: the proof does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use causeway_core::{ConnectionId, Limits};
use causeway_protocol::{Ack, Packet, Publish, QoS, ReasonCode, SubscriptionOptions};
use causeway_storage::{Log as _, ShardOptions, ShardStore};
use clap::Args;
use serde::Serialize;

use crate::harness::{Host, fleet, memory, packet_id};
use crate::report::Format;

/// The topic every vehicle listens to.
const TOPIC: &str = "fleet/all/notice";
/// What is said meanwhile to somebody else, so that no body stays in memory by chance.
const OTHER_TOPIC: &str = "fleet/other";
/// A notice of a usual size.
const PAYLOAD_BYTES: usize = 512;

/// How many are away, and how many of them come back.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// An empty folder on the disk to measure
    #[arg(long)]
    folder: PathBuf,
    /// Persistent sessions that are away
    #[arg(long, default_value_t = 100_000)]
    sessions: u64,
    /// Sessions that come back afterwards
    #[arg(long, default_value_t = 1_000)]
    returning: u64,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    sessions: u64,
    build_seconds: f64,
    resident_bytes_before: u64,
    bytes_per_session_before: f64,
    handle_ms: f64,
    sync_ms: f64,
    release_ms: f64,
    puback_ms: f64,
    records: u64,
    records_with_the_payload: u64,
    growth_bytes_per_session: f64,
    peak_growth_bytes_per_session: f64,
    checkpoint_seconds: f64,
    checkpoint_entries: u64,
    growth_with_checkpoint_bytes_per_session: f64,
    returned: u64,
    delivered: u64,
    wrong: u64,
    bodies_read: u64,
}

/// Makes the sessions, sends the message, and prints the figures.
///
/// # Errors
/// When the disk fails, or the core refuses.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.sessions > 0, "without sessions there is nothing to measure");
    let limits = Limits {
        sys_interval_seconds: 0,
        sessions_max: usize::MAX,
        // So that those who come back are served from the disk.
        body_cache_bytes: 0,
        ..Limits::default()
    };
    let store = ShardStore::open(options.folder.join("shard-0"), ShardOptions::new(0))?;
    let mut host = Host::start(store, Arc::new(limits), fleet::now())?;
    let mut figures = Figures { sessions: options.sessions, ..Figures::default() };

    let resident_empty = memory::resident_bytes()?;
    let begun = Instant::now();
    fleet::make(&mut host, options.sessions, &|_| TOPIC.to_owned())?;
    host.checkpoint()?;
    figures.build_seconds = begun.elapsed().as_secs_f64();
    let backend = host.connect("backend", true, 0)?;
    host.sync()?;
    host.hear(backend, |_| {})?;

    let per_session = |bytes: u64| bytes as f64 / options.sessions as f64;
    memory::forget_peak()?;
    let before = memory::resident_bytes()?;
    figures.resident_bytes_before = before;
    figures.bytes_per_session_before = per_session(before.saturating_sub(resident_empty));
    let payload = broadcast(&mut host, backend, &mut figures)?;
    figures.growth_bytes_per_session = per_session(memory::resident_bytes()?.saturating_sub(before));
    figures.peak_growth_bytes_per_session = per_session(memory::peak_bytes()?.saturating_sub(before));

    let begun = Instant::now();
    figures.checkpoint_entries = host.checkpoint()?;
    figures.checkpoint_seconds = begun.elapsed().as_secs_f64();
    figures.growth_with_checkpoint_bytes_per_session = per_session(memory::resident_bytes()?.saturating_sub(before));

    let other = host.connect("other", false, fleet::FOREVER)?;
    host.subscribe(other, OTHER_TOPIC, SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() })?;
    host.sync()?;
    host.disconnect(other)?;
    let read_before = host.bodies_read;
    let returning = options.returning.min(options.sessions);
    for index in 0..returning {
        publish(&mut host, backend, OTHER_TOPIC, b"other")?;
        host.sync()?;
        host.hear(backend, |_| {})?;
        come_back(&mut host, index * (options.sessions / returning), &payload, &mut figures)?;
    }
    figures.bodies_read = host.bodies_read - read_before;
    options.format.print("broadcast", &figures)
}

/// Sends it, and waits for its acknowledgement. The payload, which is in no other message.
fn broadcast(host: &mut Host, backend: ConnectionId, figures: &mut Figures) -> Result<Vec<u8>> {
    let payload: Vec<u8> = (0..PAYLOAD_BYTES).map(|index| (index * 7 % 251) as u8).collect();
    let first = host.log.next().unwrap_or(1);
    let begun = Instant::now();
    publish(host, backend, TOPIC, &payload)?;
    let handled = Instant::now();
    host.append()?;
    let durable = host.log.sync()?;
    let synced = Instant::now();
    host.shard.persisted(host.now, causeway_core::Lsn(durable));
    let mut answer = None;
    host.hear(backend, |packet| {
        if let Packet::PubAck(ack) = packet {
            answer = Some(ack.reason);
        }
    })?;
    let answered = Instant::now();
    ensure!(answer == Some(ReasonCode::Success), "the message is answered with {answer:?}");
    let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
    figures.handle_ms = milliseconds(begun, handled);
    figures.sync_ms = milliseconds(handled, synced);
    figures.release_ms = milliseconds(synced, answered);
    figures.puback_ms = milliseconds(begun, answered);
    figures.records = host.log.recover::<anyhow::Error>(first, |record| {
        let holds = record.bytes.windows(payload.len()).any(|window| window == payload);
        figures.records_with_the_payload += u64::from(holds);
        Ok(())
    })?;
    Ok(payload)
}

fn publish(host: &mut Host, backend: ConnectionId, topic: &str, payload: &[u8]) -> Result<()> {
    let packet_id = Some(packet_id(7)?);
    let publish = Publish { qos: QoS::AtLeastOnce, topic, packet_id, payload, ..Publish::default() };
    host.send(backend, &Packet::Publish(publish))
}

/// A vehicle is back: it has its session, and gets the message once.
fn come_back(host: &mut Host, index: u64, payload: &[u8], figures: &mut Figures) -> Result<()> {
    let client = host.connect(&fleet::client_id(index), false, fleet::FOREVER)?;
    host.sync()?;
    let mut is_present = false;
    let mut got = Vec::new();
    host.hear(client, |packet| match packet {
        Packet::ConnAck(connack) => is_present = connack.session_present,
        Packet::Publish(publish) => got.push((publish.packet_id, publish.payload == payload)),
        _ => {}
    })?;
    figures.returned += u64::from(is_present);
    match got[..] {
        [(Some(id), true)] => {
            figures.delivered += 1;
            host.send(client, &Packet::PubAck(Ack::new(id, ReasonCode::Success)))?;
        }
        _ => figures.wrong += 1,
    }
    host.disconnect(client)
}
