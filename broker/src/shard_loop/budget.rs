//! How long one connection may keep the shard to itself.
//!
//! Owns the measure, and how a task goes on behind the others. Bytes say little about work: a publish of 130 bytes may match thousands of subscriptions.

use std::future::Future;
use std::pin::pin;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

/// The time of one turn of a connection.
const TURN: Duration = Duration::from_millis(2);
/// The clock is read after the first packet, and then once for this many: most take less time than reading it a few times.
const PACKETS_PER_CHECK: u32 = 4;

/// Has the task of `context` polled again after the runtime has asked the system for ready sockets, and behind their
/// readers. Tasks that are merely woken run in a circle among themselves; the system is asked only every so many of them.
pub(super) fn after_next_io(context: &mut Context<'_>) {
    // Dropped at once: the runtime keeps the waker.
    let _ = pin!(yield_now()).poll(context);
}

/// What is left of a turn.
pub(super) struct TurnBudget {
    ends: Instant,
    unchecked: u32,
    packets_left: u64,
    spent: bool,
}

impl TurnBudget {
    /// A turn that begins now.
    pub(super) fn begin() -> TurnBudget {
        TurnBudget::until(Instant::now() + TURN)
    }

    /// A turn that ends then; it takes one packet at least, so that there is always progress.
    pub(super) fn until(ends: Instant) -> TurnBudget {
        TurnBudget { ends, unchecked: PACKETS_PER_CHECK - 1, packets_left: u64::MAX, spent: false }
    }

    /// The same, for at most so many packets; for one at least.
    pub(super) fn at_most(self, packets: u64) -> TurnBudget {
        TurnBudget { packets_left: packets, ..self }
    }

    /// Counts a packet that was handled.
    pub(super) fn packet(&mut self) {
        self.packets_left = self.packets_left.saturating_sub(1);
        self.spent = self.spent || self.packets_left == 0;
        self.unchecked += 1;
        if self.unchecked == PACKETS_PER_CHECK {
            self.unchecked = 0;
            self.spent = self.spent || Instant::now() >= self.ends;
        }
    }

    /// Whether others come first now.
    pub(super) fn is_spent(&self) -> bool {
        self.spent
    }
}
