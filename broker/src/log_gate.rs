//! How many lines strangers may write into the log.
//!
//! Owns the bound, and telling how many lines there would have been beyond it. It never judges a line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind in one window.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Lets a few lines a second into the log. Those it holds back are told in one line at the end of the second.
pub(crate) struct LogGate {
    /// What was held back, as in "7 more connections were refused".
    what: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    window_began: Option<Instant>,
    lines: u32,
    held_back: u64,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Passes,
    HeldBack,
    /// And somebody has to tell, once the window is over.
    FirstHeldBack,
}

impl LogGate {
    pub(crate) fn new(what: &'static str) -> LogGate {
        LogGate { what, state: Mutex::default() }
    }

    /// Whether one more line may be logged. Must be called within a tokio runtime.
    pub(crate) fn pass(self: &Arc<Self>) -> bool {
        match self.admit(Instant::now()) {
            Admission::Passes => true,
            Admission::HeldBack => false,
            Admission::FirstHeldBack => {
                let gate = self.clone();
                tokio::spawn(async move {
                    // The window is a time, and its end is when to tell.
                    tokio::time::sleep(WINDOW).await;
                    let held_back = gate.take_held_back();
                    tracing::warn!(target: "causeway::refused", "{held_back} more {}", gate.what);
                });
                false
            }
        }
    }

    fn admit(&self, now: Instant) -> Admission {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.window_began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            state.window_began = Some(now);
            state.lines = 0;
        }
        if state.lines < LINES_MAX {
            state.lines += 1;
            return Admission::Passes;
        }
        state.held_back += 1;
        match state.held_back {
            1 => Admission::FirstHeldBack,
            _ => Admission::HeldBack,
        }
    }

    fn take_held_back(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_counts_what_it_holds_back() {
        let (gate, start) = (LogGate::new("lines"), Instant::now());
        for _ in 0..LINES_MAX {
            assert_eq!(gate.admit(start), Admission::Passes);
        }
        assert_eq!(gate.admit(start), Admission::FirstHeldBack);
        assert_eq!(gate.admit(start + WINDOW / 2), Admission::HeldBack);
        assert_eq!(gate.admit(start + WINDOW), Admission::Passes);
        assert_eq!(gate.take_held_back(), 2);
        for _ in 1..LINES_MAX {
            assert_eq!(gate.admit(start + WINDOW), Admission::Passes);
        }
        assert_eq!(gate.admit(start + WINDOW), Admission::FirstHeldBack);
    }
}
