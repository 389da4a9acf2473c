//! What the edge counts: connections and bytes, before and below MQTT.
//!
//! Owns the numbers; whoever exports them reads them with [`Counter::get`]. What the shard counts is in
//! [`causeway_core::Counters`].

use std::sync::atomic::{AtomicU64, Ordering};

use causeway_core::Bound;

/// A number that any thread may raise.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises it.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Events since the start; they only grow.
#[derive(Debug, Default)]
pub struct EdgeCounters {
    /// Connections the listeners accepted.
    pub accepted: Counter,
    /// Accepts that failed for want of file descriptors or memory.
    pub accept_errors: Counter,
    /// Connections closed at once because a limit of their listener was reached.
    pub refused_limit: Counter,
    /// Connections refused before CONNACK 0x00: no CONNECT, no PROXY header, wrong credentials and the like.
    pub refused_handshake: Counter,
    /// Connections whose CONNECT was not complete in time.
    pub handshake_timeouts: Counter,
    /// Connections refused because all handshakes together held too many bytes.
    pub refused_handshake_bytes: Counter,
    /// TLS handshakes or sessions that failed.
    pub tls_failures: Counter,
    /// WebSocket upgrades or sessions that failed.
    pub websocket_failures: Counter,
    /// Connections closed because they took nothing for too long.
    pub write_stalls: Counter,
    /// Connections refused because a rate of connects was reached.
    pub refused_rate: Counter,
    /// Connections refused because of a ban.
    pub refused_banned: Counter,
    /// Bans because somebody connected too often.
    pub flapping_bans: Counter,
    /// Times that a client was not read for a while because it sent more than its rate.
    pub reads_paused: Counter,
    /// Bounds reached before CONNACK, in the order of [`Bound::ALL`].
    pub bounds_reached: [Counter; Bound::ALL.len()],
    /// Bytes read from sockets.
    pub bytes_received: Counter,
    /// Bytes written to sockets.
    pub bytes_sent: Counter,
}

impl EdgeCounters {
    /// What several counted, together.
    pub(crate) fn sum<'a>(all: impl IntoIterator<Item = &'a EdgeCounters>) -> EdgeCounters {
        let sum = EdgeCounters::default();
        all.into_iter().for_each(|counters| sum.take_in(counters));
        sum
    }

    fn take_in(&self, other: &EdgeCounters) {
        // Taken apart, so that none can be forgotten.
        let EdgeCounters {
            accepted,
            accept_errors,
            refused_limit,
            refused_handshake,
            handshake_timeouts,
            refused_handshake_bytes,
            tls_failures,
            websocket_failures,
            write_stalls,
            refused_rate,
            refused_banned,
            flapping_bans,
            reads_paused,
            bounds_reached,
            bytes_received,
            bytes_sent,
        } = other;
        self.accepted.add(accepted.get());
        self.accept_errors.add(accept_errors.get());
        self.refused_limit.add(refused_limit.get());
        self.refused_handshake.add(refused_handshake.get());
        self.handshake_timeouts.add(handshake_timeouts.get());
        self.refused_handshake_bytes.add(refused_handshake_bytes.get());
        self.tls_failures.add(tls_failures.get());
        self.websocket_failures.add(websocket_failures.get());
        self.write_stalls.add(write_stalls.get());
        self.refused_rate.add(refused_rate.get());
        self.refused_banned.add(refused_banned.get());
        self.flapping_bans.add(flapping_bans.get());
        self.reads_paused.add(reads_paused.get());
        self.bounds_reached.iter().zip(bounds_reached).for_each(|(sum, more)| sum.add(more.get()));
        self.bytes_received.add(bytes_received.get());
        self.bytes_sent.add(bytes_sent.get());
    }

    pub(crate) fn reached(&self, bound: Option<Bound>) {
        if let Some(bound) = bound {
            self.bounds_reached[bound as usize].add(1);
        }
    }
}
