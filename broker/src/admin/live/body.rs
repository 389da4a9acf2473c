//! Bodies of answers that are told bit by bit.
//!
//! Owns that their connection lasts, and how many there are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use futures_core::Stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::super::api::Problem;
use super::Visit;
use crate::patience::Streaming;

/// Streams at the same time, of all readers.
pub(in crate::admin) const STREAMS_MAX: usize = 16;

/// Where a stream is told from. An error breaks it off.
pub(super) type Teller = mpsc::Sender<io::Result<Bytes>>;

/// A stream that waits for its place to be used.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// # Errors
    /// There is none left.
    pub(super) fn take(visit: &Visit) -> Result<Place, Problem> {
        visit
            .told
            .streams
            .clone()
            .try_acquire_owned()
            .map(|_permit| Place { _permit })
            .map_err(|_| Problem::new(429, format!("there are {STREAMS_MAX} streams already, as many as there may be")))
    }

    /// The body of the answer; so many pieces wait for its reader. It ends when the teller is dropped, which hears when the reader is gone.
    pub(super) fn begin(self, visit: &Visit, waiting_max: usize) -> (Teller, Body) {
        let (teller, waiting) = mpsc::channel(waiting_max);
        let streaming = visit.asker.patience.stream();
        (teller, Body::from_stream(Pieces { waiting, _streaming: streaming, _place: self }))
    }
}

struct Pieces {
    waiting: mpsc::Receiver<io::Result<Bytes>>,
    _streaming: Streaming,
    _place: Place,
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.waiting.poll_recv(context)
    }
}
