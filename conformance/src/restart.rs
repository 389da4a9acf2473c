//! Owns the meeting of the tests that restart the broker: one restart serves all of them, as soon as each has asked for it or
//! ended. Never starts or ends a process itself.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::broker::Broker;

/// How a broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is asked to (SIGTERM) and may put things in order.
    Stop,
    /// It is killed (SIGKILL) and can do nothing any more.
    Kill,
}

/// Tests that run side by side and restart the broker together.
#[derive(Debug)]
pub struct Gathering {
    ending: Ending,
    state: Mutex<State>,
    restarted: Condvar,
}

#[derive(Debug)]
struct State {
    /// Tests that have not ended.
    running: usize,
    /// Tests among them that wait for the restart.
    waiting: usize,
    /// The longest time that one of those wants the broker to be down.
    down: Duration,
    /// Restarts so far.
    restarts: usize,
    /// Why the last restart failed, if it did.
    failure: Option<String>,
}

impl Gathering {
    /// For so many tests.
    pub fn new(ending: Ending, tests: usize) -> Gathering {
        let state = State { running: tests, waiting: 0, down: Duration::ZERO, restarts: 0, failure: None };
        Gathering { ending, state: Mutex::new(state), restarted: Condvar::new() }
    }

    /// How the broker ends.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Waits until every other test has asked for a restart or ended; returns when the broker accepts again.
    pub fn restart(&self, broker: &Broker, down: Duration) -> Result<()> {
        self.meet(down, |ending, down| broker.restart(ending, down))
    }

    /// To be called once for each test that has ended, in whatever way.
    pub fn leave(&self, broker: Option<&Broker>) {
        self.end_one(|ending, down| broker.map_or(Ok(()), |broker| broker.restart(ending, down)));
    }

    fn meet(&self, down: Duration, restart: impl FnOnce(Ending, Duration) -> Result<()>) -> Result<()> {
        let mut state = self.state();
        state.waiting += 1;
        state.down = state.down.max(down);
        let before = state.restarts;
        self.restart_if_all_wait(&mut state, restart);
        while state.restarts == before {
            state = self.restarted.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &state.failure {
            Some(why) => bail!("the restart failed: {why}"),
            None => Ok(()),
        }
    }

    fn end_one(&self, restart: impl FnOnce(Ending, Duration) -> Result<()>) {
        let mut state = self.state();
        state.running = state.running.saturating_sub(1);
        self.restart_if_all_wait(&mut state, restart);
    }

    /// The last to come restarts the broker; all others wait for it anyway, so the lock may be held meanwhile.
    fn restart_if_all_wait(&self, state: &mut State, restart: impl FnOnce(Ending, Duration) -> Result<()>) {
        if state.waiting == 0 || state.waiting < state.running {
            return;
        }
        state.failure = restart(self.ending, state.down).err().map(|error| format!("{error:#}"));
        state.waiting = 0;
        state.down = Duration::ZERO;
        state.restarts += 1;
        self.restarted.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_restart_serves_all_who_wait() {
        let gathering = Gathering::new(Ending::Kill, 3);
        let restarts = AtomicUsize::new(0);
        let restart = |_: Ending, down: Duration| {
            assert_eq!(down, Duration::from_millis(2));
            restarts.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        std::thread::scope(|scope| {
            scope.spawn(|| gathering.meet(Duration::from_millis(2), restart).unwrap());
            scope.spawn(|| gathering.meet(Duration::ZERO, restart).unwrap());
            // The third ends without ever asking for a restart.
            scope.spawn(|| gathering.end_one(restart));
        });
        assert_eq!(restarts.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_restart_fails_those_who_waited() {
        let gathering = Gathering::new(Ending::Stop, 1);
        assert!(gathering.meet(Duration::ZERO, |_, _| bail!("no")).is_err());
        assert!(gathering.meet(Duration::ZERO, |_, _| Ok(())).is_ok());
    }
}
