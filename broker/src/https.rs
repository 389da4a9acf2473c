//! TLS connections for an HTTP server, few and short.
//!
//! Owns their number, in all and of one address, how long each may last, and the handshakes, so that slow or hostile peers keep nobody
//! else out. It knows no HTTP: `axum::serve` does.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::log_gate::LogGate;
use crate::patience::{Patience, STREAM_STALL_MAX};
use crate::tls::ListenerTls;

/// How many connections there may be, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Open at the same time, handshakes included. More are closed at once.
    pub(crate) connections_max: usize,
    /// Of these, from one address.
    pub(crate) connections_per_address_max: usize,
    /// From the TCP connection to the end of the TLS handshake.
    pub(crate) handshake_max: Duration,
    /// From the TCP connection to its end, requests under way or not, unless it is a stream.
    pub(crate) connection_max: Duration,
}

/// A listener for `axum::serve`.
pub(crate) struct HttpsListener {
    listener: TcpListener,
    tls: Arc<ListenerTls>,
    bounds: Bounds,
    open: Arc<Open>,
    handshakes: JoinSet<Option<(HttpsStream, SocketAddr)>>,
    /// Whoever scans ports does not fill the log.
    failures: Arc<LogGate>,
}

/// One connection whose TLS handshake is done.
pub(crate) struct HttpsStream {
    stream: TlsStream<TcpStream>,
    deadline: Pin<Box<Sleep>>,
    tls: Arc<ListenerTls>,
    patience: Patience,
    _place: Place,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Where from.
    pub(crate) address: SocketAddr,
    /// The client certificate, verified when it was first shown, if there is one: the TLS session may go on from an earlier one.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    /// Keeps the connection open while it is a stream.
    pub(crate) patience: Patience,
    shown: Shown,
}

/// What a client has shown, and by what rules it is judged.
#[derive(Clone)]
struct Shown {
    chain: Arc<[CertificateDer<'static>]>,
    tls: Arc<ListenerTls>,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shown({})", self.chain.len())
    }
}

impl Peer {
    /// Whether its certificate is good by what the files hold now. Reads files where they have changed.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn check_now(&self) -> Result<(), String> {
        self.shown.tls.check_now(&self.shown.chain)
    }
}

impl Connected<IncomingStream<'_, HttpsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, HttpsListener>) -> Peer {
        let (_, session) = stream.io().stream.get_ref();
        let chain: Arc<[_]> = session.peer_certificates().unwrap_or_default().into();
        let shown = Shown { chain, tls: stream.io().tls.clone() };
        let patience = stream.io().patience.clone();
        Peer { address: *stream.remote_addr(), certificate: shown.chain.first().cloned(), patience, shown }
    }
}

impl HttpsListener {
    /// Takes connections from `listener`, with the certificates that `tls` has when each begins.
    pub(crate) fn new(listener: TcpListener, tls: Arc<ListenerTls>, bounds: Bounds) -> HttpsListener {
        let failures = Arc::new(LogGate::new("TLS handshakes failed"));
        HttpsListener { listener, tls, bounds, open: Arc::default(), handshakes: JoinSet::new(), failures }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some(place) = Open::take(&self.open, peer.ip(), &self.bounds) else {
            tracing::debug!(target: "causeway::https", %peer, "too many connections: closed");
            return;
        };
        let failures = self.failures.clone();
        let tls = self.tls.clone();
        let (acceptor, bounds) = (TlsAcceptor::from(self.tls.current().config.clone()), self.bounds);
        self.handshakes.spawn(async move {
            let deadline = Box::pin(sleep_until(Instant::now() + bounds.connection_max));
            let why = match timeout(bounds.handshake_max, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let patience = Patience::default();
                    return Some((HttpsStream { stream, deadline, tls, patience, _place: place }, peer));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it took too long".to_owned(),
            };
            if failures.pass() {
                tracing::info!(target: "causeway::https", %peer, why, "TLS handshake failed");
            }
            None
        });
    }
}

impl axum::serve::Listener for HttpsListener {
    type Io = HttpsStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (HttpsStream, SocketAddr) {
        loop {
            tokio::select! {
                // Waits a while where the system has no file descriptors left.
                (stream, peer) = axum::serve::Listener::accept(&mut self.listener) => self.begin(stream, peer),
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(accepted)) = done {
                        return accepted;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The connections that are open, by address.
#[derive(Debug, Default)]
struct Open {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Counts as a connection until it is dropped.
#[derive(Debug)]
struct Place {
    open: Arc<Open>,
    address: IpAddr,
}

impl Open {
    fn take(open: &Arc<Open>, address: IpAddr, bounds: &Bounds) -> Option<Place> {
        let address = address.to_canonical();
        let mut counts = open.counts();
        let own = counts.by_address.get(&address).copied().unwrap_or_default();
        if counts.all >= bounds.connections_max || own >= bounds.connections_per_address_max {
            return None;
        }
        counts.all += 1;
        counts.by_address.insert(address, own + 1);
        drop(counts);
        Some(Place { open: open.clone(), address })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.counts();
        counts.all -= 1;
        match counts.by_address.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

impl HttpsStream {
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context).is_ready() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for HttpsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for HttpsStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if self.patience.is_stream() && written.is_ready() {
            self.deadline.as_mut().reset(Instant::now() + STREAM_STALL_MAX);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_by_address() {
        let bounds = Bounds {
            connections_max: 3,
            connections_per_address_max: 2,
            handshake_max: Duration::ZERO,
            connection_max: Duration::ZERO,
        };
        let open = Arc::new(Open::default());
        let take = |address: &str| Open::take(&open, address.parse().unwrap(), &bounds);
        let first = take("192.0.2.1").unwrap();
        let second = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none(), "two of one address");
        let third = take("192.0.2.2").unwrap();
        assert!(take("192.0.2.3").is_none(), "three in all");
        drop(second);
        drop(take("192.0.2.1").unwrap());
        drop((first, third));
        assert_eq!(open.counts().all, 0);
        assert!(open.counts().by_address.is_empty());
    }
}
