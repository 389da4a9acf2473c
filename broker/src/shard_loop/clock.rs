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

    /// The same clock, or one that goes on from `newest`, where it is behind that.
    pub(crate) fn not_before(mut self, newest: Millis) -> Clock {
        let behind = newest.0.saturating_sub(self.now().0);
        self.started_unix_millis += behind;
        self
    }

    /// When it will be `at`; now, where that is past.
    pub(crate) fn instant(&self, at: Millis) -> Instant {
        self.started + Duration::from_millis(at.0.saturating_sub(self.started_unix_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_behind_what_was_recorded() {
        let clock = Clock::new();
        let (earlier, later) = (Millis(1), Millis(clock.now().0 + 1_000_000));
        assert!(clock.not_before(earlier).now() < later);
        assert!(clock.not_before(later).now() >= later);
    }
}
