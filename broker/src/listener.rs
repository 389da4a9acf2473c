//! Sockets that clients connect to.
//!
//! Owns binding, the options every connection inherits, the accept loop, and the counting of what is open. It never
//! waits for a client: whatever is accepted is handed on at once, or closed.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit as HandshakePermit, Semaphore};
use tokio::time::timeout;

use crate::admin::ListenerState;
use crate::config;
use crate::log_gate::LogGate;
use crate::server::EdgeCounters;
use crate::tls::ListenerTls;

/// Connections the kernel completes ahead of us; it takes the smaller of this and its own maximum.
const BACKLOG: i32 = 8192;
/// After an accept that failed for want of file descriptors or memory: trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Where as many handshakes as may be are pending, so many times as many clients wait for theirs, as sockets and no more. Left to the
/// kernel, a storm would overflow its queue, and lose seconds to what is sent again.
const WAITING_PER_PENDING: usize = 4;
/// Finds peers that vanished without a word on connections whose clients chose no keep alive.
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// What all connections of one listener share.
pub(crate) struct Listener {
    pub(crate) settings: config::Listener,
    /// The address that was bound, with the port the system chose where the settings have 0.
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<ListenerTls>,
    /// Where upgrade requests go, on a WebSocket listener.
    pub(crate) websocket_path: Option<Arc<str>>,
    pub(crate) policy: causeway_core::HandshakePolicy,
    open: Arc<Open>,
    handshakes: Arc<Semaphore>,
    /// Places to wait for one of them.
    waiting: Arc<Semaphore>,
}

/// Sockets of all listeners, within what the process may open: its log and its state need descriptors, too.
#[derive(Debug)]
pub(crate) struct Sockets {
    open: AtomicUsize,
    max: usize,
}

impl Sockets {
    pub(crate) fn new(max: usize) -> Sockets {
        Sockets { open: AtomicUsize::new(0), max }
    }
}

/// The open connections of one listener.
#[derive(Debug)]
struct Open {
    count: AtomicUsize,
    sockets: Arc<Sockets>,
}

/// The place of a connection in the bound of its listener, and in that of the process; given back when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<Open>);

impl ConnectionPermit {
    /// `None` where the listener has `max`, or the process has all it may have.
    fn take(open: &Arc<Open>, max: usize) -> Option<ConnectionPermit> {
        if !take(&open.count, max) {
            return None;
        }
        if !take(&open.sockets.open, open.sockets.max) {
            open.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(ConnectionPermit(open.clone()))
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.sockets.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one more, unless there are `max`.
fn take(taken: &AtomicUsize, max: usize) -> bool {
    let is_room = taken.fetch_add(1, Ordering::Relaxed) < max;
    if !is_room {
        taken.fetch_sub(1, Ordering::Relaxed);
    }
    is_room
}

#[cfg(test)]
impl ConnectionPermit {
    /// One of a bound of its own.
    pub(crate) fn unbounded() -> ConnectionPermit {
        let sockets = Arc::new(Sockets { open: AtomicUsize::new(1), max: 1 });
        ConnectionPermit(Arc::new(Open { count: AtomicUsize::new(1), sockets }))
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.settings.name)
    }
}

impl Listener {
    /// A listener bound to `address`.
    pub(crate) fn new(
        settings: config::Listener,
        address: SocketAddr,
        tls: Option<ListenerTls>,
        policy: causeway_core::HandshakePolicy,
        sockets: Arc<Sockets>,
    ) -> Listener {
        let websocket = settings.transport.is_websocket();
        let websocket_path = websocket.then(|| Arc::from(settings.websocket_path.as_str()));
        let open = Arc::new(Open { count: AtomicUsize::new(0), sockets });
        let handshakes = Arc::new(Semaphore::new(settings.handshakes_pending_max));
        let waiting = Arc::new(Semaphore::new(WAITING_PER_PENDING * settings.handshakes_pending_max));
        Listener { settings, address, tls, websocket_path, policy, open, handshakes, waiting }
    }

    /// What it holds now.
    pub(crate) fn state(&self) -> ListenerState {
        ListenerState {
            name: self.settings.name.clone(),
            connections_open: self.open.count.load(Ordering::Relaxed) as u64,
            handshakes_pending: self.handshakes_pending() as u64,
        }
    }

    /// The right to one more connection.
    fn connection_permit(&self) -> Option<ConnectionPermit> {
        ConnectionPermit::take(&self.open, self.settings.connections_max)
    }

    fn handshakes_pending(&self) -> usize {
        self.settings.handshakes_pending_max - self.handshakes.available_permits()
    }
}

/// Binds `address`. Nobody can connect before [`listen`]. Connections inherit TCP_NODELAY and keep alive.
///
/// # Errors
/// Where the address cannot be had.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(TCP_KEEPALIVE_IDLE).with_interval(TCP_KEEPALIVE_INTERVAL).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// From now on, clients can connect.
///
/// # Errors
/// Where another process listens there by now.
pub(crate) fn listen(socket: Socket) -> io::Result<Listening> {
    socket.listen(BACKLOG)?;
    Listening::new(socket)
}

/// A socket that listens. The runtime's own listener would have each connection watched at once, by the wrong thread; so this one is
/// to the runtime a stream of which nothing but readiness is asked.
pub(crate) struct Listening(tokio::net::TcpStream);

impl Listening {
    fn new(socket: Socket) -> io::Result<Listening> {
        Ok(Listening(tokio::net::TcpStream::from_std(socket.into())?))
    }

    /// The next connection. Nobody watches it, and it does not block.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accept = || Ok(acceptfrom_with(&self.0, flags)?);
        let (socket, peer) = self.0.async_io(Interest::READABLE, accept).await?;
        // Where the peer is gone already, there may be no address.
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
        Ok((TcpStream::from(socket), peer))
    }
}

/// A connection that was accepted within its listener's bounds.
pub(crate) struct Accepted {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) connection: ConnectionPermit,
    pub(crate) handshake: HandshakePermit,
}

/// Accepts until dropped; `greet` must return at once.
pub(crate) async fn accept_all(
    socket: Listening,
    listener: Arc<Listener>,
    counters: Arc<EdgeCounters>,
    greet: impl Fn(Accepted) + Clone + Send + 'static,
) {
    let failed = Arc::new(LogGate::new("accepts failed"));
    let gate = Arc::new(LogGate::new("connections were closed at a limit of their listener"));
    let refusals = Arc::new(Refusals { listener, counters, gate });
    let (listener, counters) = (&refusals.listener, &refusals.counters);
    loop {
        let (socket, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                counters.accept_errors.add(1);
                if failed.pass() {
                    let name = listener.settings.name.as_str();
                    tracing::error!(target: "causeway::listener", listener = name, %error, "cannot accept connections");
                }
                // Nothing announces a free descriptor, and trying again at once would only spin.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        counters.accepted.add(1);
        let Some(connection) = listener.connection_permit() else {
            refusals.add(peer);
            continue;
        };
        if let Ok(handshake) = listener.handshakes.clone().try_acquire_owned() {
            greet(Accepted { socket, peer, connection, handshake });
        } else if let Ok(place) = listener.waiting.clone().try_acquire_owned() {
            let (refusals, greet) = (refusals.clone(), greet.clone());
            tokio::spawn(async move {
                let listener = &refusals.listener;
                let patience = Duration::from_secs(listener.settings.connect_timeout_seconds);
                match timeout(patience, listener.handshakes.clone().acquire_owned()).await {
                    Ok(Ok(handshake)) => greet(Accepted { socket, peer, connection, handshake }),
                    Ok(Err(_)) | Err(_) => refusals.add(peer),
                }
                drop(place);
            });
        } else {
            refusals.add(peer);
        }
    }
}

/// Connections of a listener that were closed because one of its limits was reached.
struct Refusals {
    listener: Arc<Listener>,
    counters: Arc<EdgeCounters>,
    gate: Arc<LogGate>,
}

impl Refusals {
    fn add(&self, peer: SocketAddr) {
        self.counters.refused_limit.add(1);
        if self.gate.pass() {
            tracing::warn!(target: "causeway::refused", listener = self.listener.settings.name, %peer,
                "connection closed: connections_max or handshakes_pending_max of the listener, or the process's limit of open \
                 files, is reached");
        }
    }
}

/// Whether an accept failed because of the connection that was to be accepted, not because of us.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_a_place_of_its_listener_and_of_the_process() {
        let sockets = Arc::new(Sockets::new(2));
        let open = |sockets: &Arc<Sockets>| Arc::new(Open { count: AtomicUsize::new(0), sockets: sockets.clone() });
        let (one, other) = (open(&sockets), open(&sockets));
        let first = ConnectionPermit::take(&one, 1);
        assert!(first.is_some() && ConnectionPermit::take(&one, 1).is_none());
        let second = ConnectionPermit::take(&other, 9);
        assert!(second.is_some() && ConnectionPermit::take(&other, 9).is_none(), "the process has no more");
        drop(first);
        assert!(ConnectionPermit::take(&other, 9).is_some());
        drop(second);
        assert_eq!([&one, &other].map(|open| open.count.load(Ordering::Relaxed)), [0, 0]);
        assert_eq!(sockets.open.load(Ordering::Relaxed), 0);
    }
}
