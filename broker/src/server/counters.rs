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
    /// Bounds reached before CONNACK, in the order of [`Bound::ALL`].
    pub bounds_reached: [Counter; Bound::ALL.len()],
    /// Bytes read from sockets.
    pub bytes_received: Counter,
    /// Bytes written to sockets.
    pub bytes_sent: Counter,
}

impl EdgeCounters {
    pub(crate) fn reached(&self, bound: Option<Bound>) {
        if let Some(bound) = bound {
            self.bounds_reached[bound as usize].add(1);
        }
    }
}
