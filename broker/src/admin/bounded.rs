//! Connections of the administration listener, few and short.
//!
//! Owns their number and how long each may last, so that forgotten or hostile ones cost little and keep nobody out. It
//! knows no HTTP.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use crate::patience::{Patience, STREAM_STALL_MAX};

/// Connections open at the same time. One more, and the oldest that is no stream is closed: a health check always gets its answer.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may last, requests under way or not, unless there is [`Patience`]. Scrapers connect again.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// How long the first request may take to arrive: answers are immediate.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(5);

pub(super) struct Bounded {
    listener: TcpListener,
    /// The open ones, oldest first. Dropping a sender closes its connection.
    open: VecDeque<(oneshot::Sender<()>, Patience)>,
}

pub(super) struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    accepted: Instant,
    answered: bool,
    /// Whether the deadline is that of a stream.
    streams: bool,
    /// Resolves when the place is needed for somebody else.
    displaced: oneshot::Receiver<()>,
    patience: Patience,
}

impl Connected<IncomingStream<'_, Bounded>> for Patience {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Patience {
        stream.io().patience.clone()
    }
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Bounded {
        Bounded { listener, open: VecDeque::new() }
    }

    /// A place for one more connection.
    fn place(&mut self) -> (oneshot::Receiver<()>, Patience) {
        self.open.retain(|(connection, _)| !connection.is_closed());
        if self.open.len() >= CONNECTIONS_MAX {
            let oldest = self.open.iter().position(|(_, patience)| !patience.is_stream());
            self.open.remove(oldest.unwrap_or_default());
        }
        let ((connection, displaced), patience) = (oneshot::channel(), Patience::default());
        self.open.push_back((connection, patience.clone()));
        (displaced, patience)
    }
}

impl axum::serve::Listener for Bounded {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        // Waits a while where the system has no file descriptors left.
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        let deadline = Box::pin(sleep(FIRST_ANSWER_MAX));
        let (accepted, (displaced, patience)) = (Instant::now(), self.place());
        (BoundedStream { stream, deadline, accepted, answered: false, streams: false, displaced, patience }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl BoundedStream {
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let displaced = Pin::new(&mut self.displaced).poll(context).is_ready();
        let waits = self.patience.is_there() || (self.patience.is_stream() && !self.streams);
        let is_late = self.deadline.as_mut().poll(context).is_ready() && !waits;
        match displaced || is_late {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(context)?;
        if self.patience.end() {
            // As long again as a request may take.
            self.answered = true;
            self.deadline.as_mut().reset(Instant::now() + FIRST_ANSWER_MAX);
        } else if !self.answered {
            self.answered = true;
            let end = self.accepted + CONNECTION_MAX;
            self.deadline.as_mut().reset(end);
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if self.patience.is_stream() && (written.is_ready() || !self.streams) {
            self.streams = true;
            self.deadline.as_mut().reset(Instant::now() + STREAM_STALL_MAX);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
