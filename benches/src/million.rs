//! A data folder with many sessions that are away and many messages that wait for them; and a look at the daemon that is started on it.
//!
//! Owns making the folder through the core's own input, and collecting some of the queues over TCP. Starting the daemon, and what is
//! good enough, are the proof's.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use causeway_core::{ConnectionId, Limits};
use causeway_protocol::{Packet, Publish, QoS, ReasonCode};
use causeway_storage::{ShardOptions, ShardStore};
use clap::Args;
use serde::Serialize;

use crate::harness::{Host, fleet, packet_id};
use crate::link::Link;
use crate::report::Format;
use crate::wire::{self, Connect, Version, first};

/// Payload of each message: number of the session, number of the message, and filling.
const PAYLOAD_BYTES: u64 = 1_000;
/// Messages that are under way at the same time, and share a sync.
const WINDOW: u64 = 16_000;
/// Of these, so many go into one group of the log.
const GROUP: u64 = 1_000;
/// So many of the messages come after the last fold, as with a daemon that is killed between two of them.
const UNFOLDED_MESSAGES: u64 = 50_000;
/// How long a queue may take to come.
const QUEUE_DEADLINE: Duration = Duration::from_secs(20);

/// What to make.
#[derive(Debug, Args)]
pub(crate) struct MakeOptions {
    /// The daemon's data folder, empty
    #[arg(long)]
    folder: PathBuf,
    /// Persistent sessions that are away
    #[arg(long, default_value_t = 100_000)]
    sessions: u64,
    /// Payload that waits for them, in bytes
    #[arg(long, default_value_t = 100_000_000)]
    queued_bytes: u64,
    #[command(flatten)]
    format: Format,
}

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct CollectOptions {
    /// Where the broker listens
    #[arg(long)]
    target: SocketAddr,
    /// Sessions that were made
    #[arg(long)]
    sessions: u64,
    /// Messages that were queued, over all sessions
    #[arg(long)]
    messages: u64,
    /// Sessions that come back
    #[arg(long, default_value_t = 50)]
    returning: u64,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Default, Serialize)]
struct Made {
    sessions: u64,
    messages: u64,
    queued_bytes: u64,
    sessions_seconds: f64,
    messages_seconds: f64,
    checkpoint_seconds: f64,
    checkpoint_entries: u64,
    log_bytes: u64,
    state_bytes: u64,
    records_to_replay: u64,
}

#[derive(Debug, Default, Serialize)]
struct Collected {
    sessions_present: u64,
    sessions_missing: u64,
    messages: u64,
    wrong: u64,
    seconds: f64,
    first_message_ms_max: f64,
}

/// Makes the folder, and prints what is in it.
///
/// # Errors
/// When the disk fails, or the core refuses.
pub(crate) fn make(options: &MakeOptions) -> Result<()> {
    let messages = options.queued_bytes / PAYLOAD_BYTES;
    let limits = Limits {
        sys_interval_seconds: 0,
        sessions_max: usize::MAX,
        receive_maximum: u16::MAX,
        session_queue_messages_max: usize::MAX,
        session_queue_bytes_max: usize::MAX,
        ..Limits::default()
    };
    let store = ShardStore::open(options.folder.join("shard-0"), ShardOptions::new(0))?;
    let mut host = Host::start(store, Arc::new(limits), fleet::now())?;
    let mut made = Made { sessions: options.sessions, messages, ..Made::default() };
    made.queued_bytes = messages * PAYLOAD_BYTES;

    let begun = Instant::now();
    fleet::make(&mut host, options.sessions, &|index| topic(index))?;
    made.sessions_seconds = begun.elapsed().as_secs_f64();

    let backend = host.connect("backend", true, 0)?;
    host.sync()?;
    host.hear(backend, |_| {})?;
    let folded = messages.saturating_sub(UNFOLDED_MESSAGES.min(messages / 10));
    let begun = Instant::now();
    publish(&mut host, backend, options.sessions, 0..folded)?;
    made.messages_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    made.checkpoint_entries = host.checkpoint()?;
    made.checkpoint_seconds = begun.elapsed().as_secs_f64();
    let folded_before = host.log.next().unwrap_or(1);
    let begun = Instant::now();
    publish(&mut host, backend, options.sessions, folded..messages)?;
    made.messages_seconds += begun.elapsed().as_secs_f64();
    made.records_to_replay = host.log.next().unwrap_or(1) - folded_before;
    made.log_bytes = host.log.stats().bytes_on_disk;
    made.state_bytes = host.state_bytes()?;
    options.format.print("made", &made)
}

/// Publishes messages, each for the session that its number has as remainder, and waits until all are acknowledged.
fn publish(host: &mut Host, backend: ConnectionId, sessions: u64, messages: Range<u64>) -> Result<()> {
    let mut payload = vec![0x5A; PAYLOAD_BYTES as usize];
    for first in messages.clone().step_by(WINDOW as usize) {
        let window = first..messages.end.min(first + WINDOW);
        for message in window.clone() {
            let (session, number) = (message % sessions, message / sessions);
            payload[..8].copy_from_slice(&session.to_le_bytes());
            payload[8..16].copy_from_slice(&number.to_le_bytes());
            let publish = Publish {
                qos: QoS::AtLeastOnce,
                topic: &topic(session),
                packet_id: Some(packet_id((message - first) as u16 + 1)?),
                payload: &payload,
                ..Publish::default()
            };
            host.send(backend, &Packet::Publish(publish))?;
            if message % GROUP == 0 {
                host.append()?;
            }
        }
        host.sync()?;
        let (mut acknowledged, mut refused) = (0, None);
        host.hear(backend, |packet| {
            if let Packet::PubAck(ack) = packet {
                acknowledged += 1;
                refused = refused.or((ack.reason != ReasonCode::Success).then_some(ack.reason));
            }
        })?;
        ensure!(refused.is_none(), "a message is refused: {refused:?}");
        ensure!(acknowledged == window.end - window.start, "{acknowledged} acknowledgements for {window:?}");
    }
    Ok(())
}

/// Connects some of the sessions, and checks that each gets all of its queue in order.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub(crate) async fn collect(options: &CollectOptions) -> Result<()> {
    let mut collected = Collected::default();
    let begun = Instant::now();
    let returning = options.returning.min(options.sessions).max(1);
    for index in 0..returning {
        // The first and the last are among them.
        let session = index * (options.sessions - 1) / (returning - 1).max(1);
        let owed = options.messages / options.sessions + u64::from(session < options.messages % options.sessions);
        let one = tokio::time::timeout(QUEUE_DEADLINE, collect_one(options.target, session, owed, &mut collected));
        one.await.with_context(|| format!("session {session} does not get its {owed} messages"))??;
    }
    collected.seconds = begun.elapsed().as_secs_f64();
    options.format.print("collected", &collected)
}

async fn collect_one(target: SocketAddr, session: u64, owed: u64, collected: &mut Collected) -> Result<()> {
    let client_id = fleet::client_id(session);
    let connect = Connect {
        client_id: &client_id,
        is_clean: false,
        session_expiry_seconds: fleet::FOREVER,
        receive_maximum: 100,
        ..Connect::default()
    };
    let begun = Instant::now();
    let (mut link, connack) = Link::open(target, &connect).await?;
    if !connack.is_session_present {
        collected.sessions_missing += 1;
        return link.disconnect().await;
    }
    collected.sessions_present += 1;
    let mut expected = 0;
    while expected < owed {
        while let Some((kind, body)) = link.incoming.next() {
            if kind & 0xF0 != first::PUBLISH {
                continue;
            }
            let (id, payload) = wire::read_publish(Version::V5, kind, body).context("a PUBLISH cut short")?;
            if expected == 0 {
                let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
                collected.first_message_ms_max = collected.first_message_ms_max.max(milliseconds);
            }
            let is_right = payload.len() as u64 == PAYLOAD_BYTES
                && payload[..8] == session.to_le_bytes()
                && payload[8..16] == expected.to_le_bytes();
            collected.messages += u64::from(is_right);
            collected.wrong += u64::from(!is_right);
            expected += 1;
            wire::ack(&mut link.outgoing, first::PUBACK, id);
        }
        if expected < owed {
            link.turn().await?;
        }
    }
    link.disconnect().await
}

fn topic(session: u64) -> String {
    format!("vehicles/{session:07}/cmd")
}
