//! The shard's clock: Unix time that never goes back.
//!
//! Owns the translation between [`Millis`] and tokio's instants. It follows the system's clock only at the start: a
//! clock that is set later moves no timer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_core::Millis;
use tokio::time::Instant;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    started_unix_millis: u64,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), started_unix_millis: unix.as_millis() as u64 }
    }

    pub(crate) fn now(&self) -> Millis {
        Millis(self.started_unix_millis + self.started.elapsed().as_millis() as u64)
    }

    /// When it will be `at`; now, where that is past.
    pub(crate) fn instant(&self, at: Millis) -> Instant {
        self.started + Duration::from_millis(at.0.saturating_sub(self.started_unix_millis))
    }
}
