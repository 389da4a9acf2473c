//! All shards of a broker, from their start to their end.
//!
//! Owns that they start, stop and fail together. What goes on in them is their own business.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::{Asks, Notices, ServerError, StorageError, Twins};
use crate::audit::Audit;
use crate::frontdoor::Inbox;
use crate::shard_loop::{self, ShardError, ShardHandle, ShardParts};

/// Once one has failed, the others have so long to write down what they have. A disk that does not answer must not keep the process.
const FAREWELL: Duration = Duration::from_secs(5);

/// What each of several shards has still to say, with its number.
type Awaited<T> = Vec<(u32, oneshot::Receiver<T>)>;

/// See the module. Dropped, they end at once.
pub(super) struct Shards {
    several: bool,
    stops: Vec<oneshot::Sender<Duration>>,
    running: Awaited<Result<(), ShardError>>,
    /// Why the first that failed did.
    failure: Option<ServerError>,
    /// Nobody is waited for any longer than this.
    deadline: Option<Instant>,
}

impl Shards {
    /// Starts them. When this returns, all have their state back; with where clients are handed to each, where all are told what they are to
    /// know, and where they are asked.
    ///
    /// # Errors
    /// [`ServerError::Shard`]. Then all have ended.
    pub(super) async fn start(
        parts: Vec<ShardParts>,
        audit: &Audit,
        twins: Twins,
    ) -> Result<(Shards, Vec<Inbox>, Notices, Asks), ServerError> {
        let (several, stops, running) = (parts.len() > 1, Vec::new(), Vec::new());
        let mut shards = Shards { several, stops, running, failure: None, deadline: None };
        let (mut inboxes, mut notices, mut asks, mut starting) = (Vec::new(), Vec::new(), Vec::new(), Awaited::new());
        for parts in parts {
            let number = parts.number;
            match shard_loop::start(parts) {
                Ok(ShardHandle { inbox, notices: noticed, asks: asked, stop, ready, ended }) => {
                    inboxes.push(inbox);
                    notices.push(noticed);
                    asks.push(asked);
                    shards.stops.push(stop);
                    starting.push((number, ready));
                    shards.running.push((number, ended));
                }
                Err(error) => shards.note(number, Ok(Err(error))),
            }
        }
        while shards.failure.is_none()
            && let Some((number, told)) = next(&mut starting).await
        {
            if told.is_err() {
                // It has ended; those that are told to end only now can wait for their turn to say why.
                let at = shards.running.iter().position(|running| running.0 == number);
                let outcome = match at.map(|at| shards.running.swap_remove(at)) {
                    Some((_, ended)) => ended.await,
                    None => Ok(Err(ShardError::Panicked)),
                };
                // One that ends without a reason before it is ready has none that is any good.
                shards.note(number, outcome.map(|outcome| outcome.and(Err(ShardError::Panicked))));
            }
        }
        if shards.failure.is_none() {
            return Ok((shards, inboxes, Notices::new(notices, audit.clone()), Asks::new(asks, twins)));
        }
        // Nobody wants the others to become ready any more.
        drop((starting, inboxes, notices, asks));
        shards.stops.clear();
        let lost = || ServerError::Shard { shard: None, source: ShardError::Panicked };
        Err(shards.ended().await.err().unwrap_or_else(lost))
    }

    /// Tells all of them to say farewell to their clients, who have `timeout` to take it.
    pub(super) fn stop(&mut self, timeout: Duration) {
        for stop in self.stops.drain(..) {
            // One that ended already says why elsewhere.
            let _ = stop.send(timeout);
        }
    }

    /// Completes once all have ended. Where one does unasked, the others are ended, too. May be dropped and called again.
    ///
    /// # Errors
    /// Why the first that failed did.
    pub(super) async fn ended(&mut self) -> Result<(), ServerError> {
        loop {
            let next = next(&mut self.running);
            let ended = match self.deadline {
                Some(deadline) => timeout_at(deadline, next).await.unwrap_or(None),
                None => next.await,
            };
            let Some((number, outcome)) = ended else { break };
            self.note(number, outcome);
            // Nobody hears a word of farewell any more where one is missing.
            self.stops.clear();
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn note(&mut self, number: u32, outcome: Result<Result<(), ShardError>, RecvError>) {
        let Err(source) = outcome.unwrap_or(Err(ShardError::Panicked)) else { return };
        let shard = self.several.then_some(number);
        if self.failure.is_some() && matches!(source, ShardError::Storage(StorageError::Abandoned)) {
            return;
        }
        if self.failure.is_some() {
            tracing::error!(target: "causeway::server", "{}", ServerError::Shard { shard, source });
            return;
        }
        self.failure = Some(ServerError::Shard { shard, source });
        self.deadline = Some(Instant::now() + FAREWELL);
    }
}

/// The next of them that has something to say, which then leaves the list. None where it is empty.
async fn next<T>(awaited: &mut Awaited<T>) -> Option<(u32, Result<T, RecvError>)> {
    poll_fn(|context| {
        for (at, (number, receiver)) in awaited.iter_mut().enumerate() {
            if let Poll::Ready(told) = Pin::new(receiver).poll(context) {
                let number = *number;
                awaited.swap_remove(at);
                return Poll::Ready(Some((number, told)));
            }
        }
        if awaited.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}
