//! Many messages in flight on one connection.
//!
//! Owns the window and what became of the messages. What they say, and when they end, is the caller's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tokio::task::JoinSet;

use super::session::{Came, Session};
use crate::latency::Latencies;
use crate::wire::Connect;

/// How much is under way.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Windows {
    /// Connections that ask at the same time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) connections: u16,
    /// Messages that each of them has in flight
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) window: u16,
}

/// A message to be published.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    /// From PUBLISH to PUBACK.
    pub(super) latencies: Latencies,
}

/// Publishes over several connections at once. `writer` makes, for the connection of an index, what writes its next message, until that says false.
///
/// # Errors
/// When the broker cannot be reached or gives up a connection.
pub(super) async fn publish_all<W>(target: SocketAddr, windows: Windows, writer: impl Fn(u16) -> W) -> Result<Done>
where
    W: FnMut(&mut Draft) -> bool + 'static,
{
    let mut sessions = Vec::new();
    for index in 0..windows.connections {
        let client_id = format!("twin-{index}");
        sessions.push(Session::open(target, &Connect { client_id: &client_id, ..Connect::default() }).await?);
    }
    let mut lanes = JoinSet::new();
    for (index, session) in (0..).zip(sessions) {
        lanes.spawn_local(publish(session, windows.window, writer(index)));
    }
    let mut all = Done::default();
    while let Some(done) = lanes.join_next().await {
        let done = done?.context("a connection that publishes")?;
        all.acknowledged += done.acknowledged;
        all.refused += done.refused;
        all.latencies.merge(done.latencies);
    }
    Ok(all)
}

async fn publish(mut session: Session, window: u16, mut write: impl FnMut(&mut Draft) -> bool) -> Result<Done> {
    let (mut draft, mut done, mut in_flight) = (Draft::default(), Done::default(), VecDeque::new());
    let mut is_open = true;
    loop {
        while is_open && in_flight.len() < window.into() {
            is_open = write(&mut draft);
            if is_open {
                let id = session.publish(&draft.topic, ("", b""), &draft.payload);
                in_flight.push_back((id, Instant::now()));
            }
        }
        if in_flight.is_empty() {
            session.disconnect().await?;
            return Ok(done);
        }
        session.turn().await?;
        while let Some(came) = session.take()? {
            let Came::Acknowledged(id, is_taken) = came else { continue };
            // In the order in which they were sent (MQTT 5, 4.6).
            let (expected, sent_at) = in_flight.pop_front().context("an acknowledgement of nothing")?;
            ensure!(id == expected, "an acknowledgement of {id} instead of {expected}");
            done.latencies.add(sent_at.elapsed());
            match is_taken {
                true => done.acknowledged += 1,
                false => done.refused += 1,
            }
        }
    }
}
