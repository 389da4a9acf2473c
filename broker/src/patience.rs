//! How long a connection of an HTTP listener may last while something is told on it.
//!
//! Owns the word between whoever answers a request and the connection that it came on. It closes nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A stream has something to say more often than this. One whose reader takes nothing for so long is cut off.
pub(crate) const STREAM_STALL_MAX: Duration = Duration::from_secs(60);

const NONE: u8 = 0;
const ANSWER: u8 = 1;
const STREAM: u8 = 2;

/// Keeps a connection open while its request takes long.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patience(Arc<AtomicU8>);

/// Keeps a connection open until it is dropped.
#[derive(Debug)]
pub(crate) struct Streaming(Patience);

impl Patience {
    /// Until the answer is written, the connection may last. Others may still displace it.
    pub(crate) fn begin(&self) {
        self.0.store(ANSWER, Ordering::Relaxed);
    }

    /// The connection may last for as long as there is a reader at its end, and nobody displaces it. There have to be few of them.
    pub(crate) fn stream(&self) -> Streaming {
        self.0.store(STREAM, Ordering::Relaxed);
        Streaming(self.clone())
    }

    /// Whether an answer is awaited.
    pub(crate) fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ANSWER
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.0.load(Ordering::Relaxed) == STREAM
    }

    /// The answer comes; whether it was awaited.
    pub(crate) fn end(&self) -> bool {
        self.0.compare_exchange(ANSWER, NONE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.0.store(NONE, Ordering::Relaxed);
    }
}
