//! The threads that verify passwords.
//!
//! Owns their queue and their memory: each thread has one block of it, used again for every password, so that a storm of
//! logins leaves nothing behind. It knows no users.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::hashing::{self, Memory};

/// What came of one verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Whether it is the password.
    Verified(bool),
    /// Not begun: too many wait.
    Busy,
    /// Not begun: it has waited for too long.
    Late,
    /// The threads are gone.
    Stopped,
}

/// Verifies passwords one after the other on each thread. Dropped, its threads end after what they are at.
pub(super) struct Verifier {
    queue: Arc<Queue>,
    /// Verifications that run or wait.
    admitted_max: usize,
    wait_max: Duration,
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    running: usize,
    stopped: bool,
}

struct Job {
    password: Vec<u8>,
    hash: String,
    begin_before: Instant,
    reply: oneshot::Sender<Outcome>,
}

impl Verifier {
    /// Starts the threads. Each takes its memory with its first password.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(threads: usize, waiting_max: usize, wait_max: Duration) -> std::io::Result<Verifier> {
        let queue = Arc::new(Queue { state: Mutex::default(), changed: Condvar::new() });
        // Made first: where a thread fails, dropping it ends the others.
        let verifier = Verifier { queue, admitted_max: threads + waiting_max, wait_max };
        for number in 0..threads {
            let queue = verifier.queue.clone();
            std::thread::Builder::new().name(format!("verify-{number}")).spawn(move || queue.work())?;
        }
        Ok(verifier)
    }

    /// Whether `hash` (a PHC string) is of this password. Dropping the future gives up the place in the queue; a
    /// verification that runs already runs to its end.
    pub(super) async fn verify(&self, password: &[u8], hash: &str) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let begin_before = Instant::now() + self.wait_max;
        let job = Job { password: password.to_vec(), hash: hash.to_owned(), begin_before, reply };
        {
            let mut state = self.queue.lock();
            if state.admitted() >= self.admitted_max {
                state.forget_the_gone();
            }
            if state.admitted() >= self.admitted_max {
                return Outcome::Busy;
            }
            state.waiting.push_back(job);
        }
        self.queue.changed.notify_one();
        outcome.await.unwrap_or(Outcome::Stopped)
    }

    /// Verifications that run or wait.
    pub(super) fn pending(&self) -> usize {
        let mut state = self.queue.lock();
        state.forget_the_gone();
        state.admitted()
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.stopped = true;
        // Whoever waits is told by the end of its channel.
        state.waiting.clear();
        self.queue.changed.notify_all();
    }
}

impl State {
    fn admitted(&self) -> usize {
        self.running + self.waiting.len()
    }

    /// Drops those nobody waits for any more.
    fn forget_the_gone(&mut self) {
        self.waiting.retain(|job| !job.reply.is_closed());
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn work(&self) {
        let mut memory = Memory::default();
        while let Some(job) = self.next() {
            let outcome = match job.begin_before > Instant::now() {
                true => Outcome::Verified(hashing::verify_in(&mut memory, &job.password, &job.hash)),
                false => Outcome::Late,
            };
            self.lock().running -= 1;
            // Nobody waits where the client went meanwhile.
            let _ = job.reply.send(outcome);
        }
    }

    /// The next one to verify, once there is one; counted as running. `None`: the end.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            match state.waiting.pop_front() {
                Some(job) if job.reply.is_closed() => {}
                Some(job) => {
                    state.running += 1;
                    return Some(job);
                }
                None if state.stopped => return None,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn hash() -> String {
        hashing::user("pencil", false).unwrap().argon2
    }

    #[tokio::test]
    async fn who_waited_for_too_long_is_not_verified() {
        let verifier = Verifier::start(1, 10, Duration::ZERO).unwrap();
        assert_eq!(verifier.verify(b"pencil", &hash()).await, Outcome::Late);
        assert_eq!(verifier.pending(), 0);
    }

    #[tokio::test]
    async fn a_place_in_the_queue_comes_back_when_nobody_waits_for_it() {
        let (verifier, hash) = (Verifier::start(0, 1, LONG).unwrap(), hash());
        {
            let mut first = std::pin::pin!(verifier.verify(b"pencil", &hash));
            let polled = std::future::poll_fn(|context| std::task::Poll::Ready(first.as_mut().poll(context))).await;
            assert!(polled.is_pending());
            assert_eq!(verifier.verify(b"pencil", &hash).await, Outcome::Busy);
            assert_eq!(verifier.pending(), 1);
        }
        assert_eq!(verifier.pending(), 0);
    }

    #[tokio::test]
    async fn many_are_verified_by_few() {
        let (verifier, hash) = (Verifier::start(2, 10, LONG).unwrap(), hash());
        let verify = |password: &'static str| verifier.verify(password.as_bytes(), &hash);
        let outcomes = tokio::join!(verify("pencil"), verify("eraser"), verify("pencil"), verify(""));
        let (right, wrong) = (Outcome::Verified(true), Outcome::Verified(false));
        assert_eq!(outcomes, (right, wrong, right, wrong));
    }
}
