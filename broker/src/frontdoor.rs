//! From an accepted socket to an authenticated CONNECT.
//!
//! Owns the order: PROXY header, TLS and WebSocket, CONNECT, credentials; each connection in a task of its own, within a
//! deadline. Whoever passes is handed to its home shard with all that was read. It never judges a packet: that is
//! [`causeway_core::Handshake`]'s.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use causeway_core::{ConnectRequest, Handshake, Limits, Step, Verdict};
use causeway_fleet::Identity;
use causeway_protocol::{ReasonCode, decode, frame};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::audit::{Audit, AuditEvent, Decision, What};
use crate::auth::{Authenticator, Exchange, hashing};
use crate::config::{IdentitySettings, ProxyProtocol, Transport};
use crate::home_shard::home_shard;
use crate::identity::{Admission, identify};
use crate::listener::{Accepted, ConnectionPermit, Listener};
use crate::log_gate::LogGate;
use crate::proxy;
use crate::registry::now_ms;
use crate::server::{EdgeCounters, Notices};
use crate::shown::{Line, shown};
use crate::tls::{ListenerTls, TlsRules};
use crate::transport::socket::{NewSocket, linger, shut_down_write, write_all};
use crate::transport::{Flow, Layer, LayerError};
use crate::turnstile::{Class, Turnstile};

/// Until a client is known, it may make us hold this much: a CONNECT with every field at its longest is not larger.
const CONNECT_BYTES_MAX: u32 = 512 * 1024;
/// Together, clients that are not known may make us hold this much beside [`HANDSHAKE_BYTES_FREE`] for each.
const HANDSHAKES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What every handshake may need, whatever the others hold: far more than a CONNECT and a TLS handshake usually have.
const HANDSHAKE_BYTES_FREE: usize = 8 * 1024;
/// Read at a time before CONNECT, which rarely has more than 200 bytes.
const READ_BYTES: usize = 2048;
/// The first bytes of a connection tell what it speaks.
const FIRST_BYTES: usize = 4;
/// A refused client has this long to take its CONNACK.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What all handshakes share.
pub(crate) struct FrontDoor {
    pub(crate) limits: Arc<Limits>,
    pub(crate) authenticator: Authenticator,
    /// What certificates mean.
    pub(crate) identity: IdentitySettings,
    /// Who of those who have proven a name may come in.
    pub(crate) admission: Admission,
    /// By the number of the shard.
    pub(crate) shards: Vec<Inbox>,
    /// What the shards are told of rights.
    pub(crate) notices: Notices,
    pub(crate) counters: Arc<EdgeCounters>,
    /// Bytes that all handshakes hold beyond their [`HANDSHAKE_BYTES_FREE`].
    pub(crate) held: Arc<AtomicUsize>,
    /// For lines about those who are not let in.
    pub(crate) refusals: Arc<LogGate>,
    pub(crate) audit: Audit,
    /// Who has to wait, and who is banned. None: nobody.
    pub(crate) turnstile: Option<Arc<Turnstile>>,
}

impl FrontDoor {
    /// One that records nothing and lets everybody in who proves who it is.
    pub(crate) fn new(
        limits: Arc<Limits>,
        authenticator: Authenticator,
        identity: IdentitySettings,
        admission: Admission,
        shards: Vec<Inbox>,
        notices: Notices,
        counters: Arc<EdgeCounters>,
    ) -> FrontDoor {
        let refusals = Arc::new(LogGate::new("connections were refused"));
        let (held, audit, turnstile) = Default::default();
        FrontDoor {
            limits,
            authenticator,
            identity,
            admission,
            shards,
            notices,
            counters,
            held,
            refusals,
            audit,
            turnstile,
        }
    }
}

/// The bytes that one handshake has read and may still hold somewhere; given back when dropped.
struct Held {
    of_all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    fn charged(bytes: usize) -> usize {
        bytes.saturating_sub(HANDSHAKE_BYTES_FREE)
    }

    /// Adds bytes that were read; says whether there is room for them.
    fn add(&mut self, bytes: usize) -> bool {
        let before = Held::charged(self.bytes);
        self.bytes += bytes;
        let more = Held::charged(self.bytes) - before;
        let all = self.of_all.fetch_add(more, Ordering::Relaxed) + more;
        more == 0 || all <= HANDSHAKES_BYTES_MAX
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of_all.fetch_sub(Held::charged(self.bytes), Ordering::Relaxed);
    }
}

/// A connection on its way to its shard.
pub(crate) struct Arrival {
    pub(crate) socket: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) layer: Layer,
    /// MQTT bytes that came after CONNECT.
    pub(crate) unread: Vec<u8>,
    pub(crate) request: Box<ConnectRequest>,
    /// Where the client used enhanced authentication: it takes re-authentication, too.
    pub(crate) exchange: Option<Box<Exchange>>,
    /// The place in the listener's `connections_max`.
    pub(crate) permit: ConnectionPermit,
}

/// Where clients who were let in wait for a shard.
#[derive(Clone)]
pub(crate) struct Inbox {
    /// Those whose class goes first.
    pub(crate) first: mpsc::Sender<Box<Arrival>>,
    pub(crate) others: mpsc::Sender<Box<Arrival>>,
}

impl Inbox {
    fn of(&self, class: Class) -> &mpsc::Sender<Box<Arrival>> {
        if class.goes_first() { &self.first } else { &self.others }
    }
}

/// Why a connection ended before it was one.
enum End {
    /// The socket failed, or the peer closed it.
    Gone(io::Error),
    Layer(LayerError),
    /// Not worth an answer.
    Silent(String),
    /// No complete CONNECT in time.
    TooSlow,
    /// All handshakes together hold too much.
    NoRoom,
    /// Told in a CONNACK, where `bytes` has one.
    Refused {
        bytes: Vec<u8>,
        reason: ReasonCode,
        client_id: String,
        why: String,
    },
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Gone(error)
    }
}

/// Takes one connection through its handshake. Runs as a task of its own.
pub(crate) async fn greet(door: Arc<FrontDoor>, listener: Arc<Listener>, accepted: Accepted) {
    let Accepted { socket, peer, connection, handshake } = accepted;
    let connect_timeout = Duration::from_secs(listener.settings.connect_timeout_seconds);
    let mut greeting = match Greeting::new(door, listener, NewSocket::new(socket), peer) {
        Ok(greeting) => greeting,
        Err(error) => {
            tracing::error!(target: "causeway::listener", %peer, %error, "cannot begin a handshake");
            return;
        }
    };
    let outcome = greeting.run(Instant::now() + connect_timeout).await;
    drop(handshake);
    match outcome {
        Ok(request) => greeting.hand_over(request, connection, connect_timeout).await,
        Err(end) => greeting.refuse(end).await,
    }
}

struct Greeting {
    door: Arc<FrontDoor>,
    listener: Arc<Listener>,
    socket: NewSocket,
    peer: SocketAddr,
    /// What was in force when the TLS handshake began.
    tls: Option<Arc<TlsRules>>,
    layer: Layer,
    /// As read from the socket.
    wire: Vec<u8>,
    /// As the layer delivered it.
    plain: Vec<u8>,
    /// What the layer owes the peer.
    wire_out: Vec<u8>,
    exchange: Option<Box<Exchange>>,
    held: Held,
    /// The first bytes that were read, whatever they are.
    first_bytes: [u8; FIRST_BYTES],
}

impl Greeting {
    fn new(
        door: Arc<FrontDoor>,
        listener: Arc<Listener>,
        socket: NewSocket,
        peer: SocketAddr,
    ) -> Result<Greeting, LayerError> {
        let tls = listener.tls.as_ref().map(|tls| tls.current());
        let bytes_max = door.limits.packet_bytes_max.min(CONNECT_BYTES_MAX) as usize;
        let config = tls.as_ref().map(|rules| rules.config.clone());
        let layer = Layer::new(config, listener.websocket_path.clone(), bytes_max)?;
        let (wire, plain, wire_out) = Default::default();
        let held = Held { of_all: door.held.clone(), bytes: 0 };
        let first_bytes = [0; FIRST_BYTES];
        Ok(Greeting {
            door,
            listener,
            socket,
            peer,
            tls,
            layer,
            wire,
            plain,
            wire_out,
            exchange: None,
            held,
            first_bytes,
        })
    }

    /// Everything up to the decision to let the client in. What the client has to send must be there by `deadline`; how
    /// long its password is verified is not its fault, and has a bound of its own.
    async fn run(&mut self, deadline: Instant) -> Result<Box<ConnectRequest>, End> {
        in_time(deadline, self.read_proxy_header()).await?;
        // Before anything is computed for it.
        self.door.turnstile.as_ref().map_or(Ok(()), |it| it.knock(self.peer.ip())).map_err(End::Silent)?;
        let random: [u8; 16] = hashing::random().map_err(End::Silent)?;
        let assigned = format!("auto-{:032x}", u128::from_ne_bytes(random));
        let limits = self.door.limits.clone();
        let bytes_max = limits.packet_bytes_max.min(CONNECT_BYTES_MAX);
        in_time(deadline, self.pass_handshakes_below()).await?;
        let mut handshake = Handshake::new(limits, self.listener.policy.clone(), assigned);
        let required = self.listener.tls.as_ref().is_some_and(ListenerTls::requires_certificates);
        if required || self.layer.peer_certificates().is_some() {
            handshake = handshake.proven();
        }
        loop {
            let step = in_time(deadline, self.next_packet(&mut handshake, bytes_max)).await?;
            let rights_as_of = self.door.notices.told();
            if let Some(mut request) = self.carry_out(&mut handshake, step, deadline).await? {
                request.rights_as_of = rights_as_of;
                return Ok(request);
            }
        }
    }

    async fn read_proxy_header(&mut self) -> Result<(), End> {
        let accepted = self.listener.settings.proxy_protocol;
        if accepted == ProxyProtocol::Off {
            return Ok(());
        }
        let trusted = &self.listener.settings.proxy_trusted;
        if !trusted.is_empty() && !trusted.iter().any(|network| network.contains(self.peer.ip())) {
            return Err(End::Silent("not one of the trusted proxies".into()));
        }
        loop {
            match proxy::parse(&self.wire, accepted) {
                Err(error) => return Err(End::Silent(error.to_string())),
                Ok(proxy::Header::Incomplete) => self.read_wire().await?,
                Ok(proxy::Header::Complete { bytes, source }) => {
                    self.wire.drain(..bytes);
                    self.peer = source.unwrap_or(self.peer);
                    return self.pass_through_layer().await;
                }
            }
        }
    }

    /// Reads on until there is something of MQTT: TLS has told by then who the client is.
    async fn pass_handshakes_below(&mut self) -> Result<(), End> {
        while self.plain.is_empty() {
            self.read_wire().await?;
            self.pass_through_layer().await?;
        }
        Ok(())
    }

    /// Reads on until there is a packet, and lets `handshake` judge it.
    async fn next_packet(&mut self, handshake: &mut Handshake, bytes_max: u32) -> Result<Step, End> {
        loop {
            match frame(&self.plain, bytes_max) {
                Err(error) => return Ok(handshake.malformed(error, &self.plain)),
                Ok(Some(frame)) if frame.total_bytes() <= self.plain.len() => {
                    let body = &self.plain[frame.header_bytes..frame.total_bytes()];
                    let step = match decode(&frame, body, handshake.version()) {
                        Ok(packet) => handshake.handle(&packet),
                        Err(error) => handshake.malformed(error, &self.plain),
                    };
                    self.plain.drain(..frame.total_bytes());
                    return Ok(step);
                }
                Ok(_) => {
                    self.read_wire().await?;
                    self.pass_through_layer().await?;
                }
            }
        }
    }

    /// The request, once the client is let in; `None` where another packet must come first.
    async fn carry_out(
        &mut self,
        handshake: &mut Handshake,
        mut step: Step,
        deadline: Instant,
    ) -> Result<Option<Box<ConnectRequest>>, End> {
        loop {
            step = match step {
                Step::Accept(request) => match self.door.turnstile.as_ref().map_or(Ok(()), |it| it.admit(&request)) {
                    Ok(()) => return Ok(Some(request)),
                    Err(refusal) => handshake.decline(&request, refusal.reason, &refusal.why),
                },
                Step::Send(bytes) => {
                    self.layer.send(&[io::IoSlice::new(&bytes)], &mut self.wire_out).map_err(End::Layer)?;
                    in_time(deadline, self.write_wire()).await?;
                    return Ok(None);
                }
                Step::Refuse { bytes, reason, client_id, why, bound } => {
                    self.door.counters.reached(bound);
                    return Err(End::Refused { bytes: bytes.to_vec(), reason, client_id, why });
                }
                Step::Verify(credentials) => {
                    let verified = self.door.authenticator.verify(&credentials.username, &credentials.password);
                    tokio::select! {
                        verdict = verified => handshake.verdict(self.door.admission.settle(verdict).await),
                        error = gone(&mut self.socket) => return Err(End::Gone(error)),
                    }
                }
                Step::Confirm { .. } => {
                    let verdict = self.certified().map_or_else(not_authorized, allow);
                    handshake.verdict(self.door.admission.settle(verdict).await)
                }
                Step::Exchange { method, data, .. } => {
                    let verdict = self.exchange(&method, &data);
                    handshake.verdict(self.door.admission.settle(verdict).await)
                }
            };
        }
    }

    /// Who the client's certificate is for, where it is valid now.
    fn certified(&self) -> Result<Identity, String> {
        let (Some(shown), Some(tls), Some(began_with)) =
            (self.layer.peer_certificates(), &self.listener.tls, &self.tls)
        else {
            return Err("the client has shown no certificate".to_owned());
        };
        let own = shown.chain.first().ok_or("the client has shown no certificate")?;
        let identity = identify(own, &self.door.identity)?;
        let credential = identity.credential.as_deref().unwrap_or_default();
        tls.current().check(began_with, &shown, credential)?;
        match identity.valid_until_ms.is_some_and(|until| until <= now_ms()) {
            true => Err("the certificate has ended".to_owned()),
            false => Ok(identity),
        }
    }

    /// Takes the next step of a method. A client with a certificate must prove the same with both; that the certificate is valid is
    /// looked at with each step.
    fn exchange(&mut self, method: &str, data: &[u8]) -> Verdict {
        let has_certificate = self.layer.peer_certificates().is_some();
        let certified = match has_certificate.then(|| self.certified()).transpose() {
            Ok(certified) => certified,
            Err(why) => return not_authorized(why),
        };
        let door = &self.door;
        let begin = || Box::new(door.authenticator.exchange(certified).asking(door.admission.clone()));
        let exchange = self.exchange.get_or_insert_with(begin);
        exchange.step(method, data)
    }

    /// Appends at least one byte to `wire`.
    async fn read_wire(&mut self) -> Result<(), End> {
        loop {
            match self.socket.try_read::<READ_BYTES>(&mut self.wire) {
                Ok(0) => return Err(End::Gone(ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => {
                    self.door.counters.bytes_received.add(bytes as u64);
                    if self.held.bytes == 0 {
                        let first = bytes.min(FIRST_BYTES);
                        self.first_bytes[..first].copy_from_slice(&self.wire[..first]);
                    }
                    return match self.held.add(bytes) {
                        true => Ok(()),
                        false => Err(End::NoRoom),
                    };
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.socket.watched()?.readable().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn pass_through_layer(&mut self) -> Result<(), End> {
        let received = self.layer.receive(&self.wire, &mut self.plain, &mut self.wire_out);
        self.wire.clear();
        let written = self.write_wire().await;
        match received.map_err(End::Layer)? {
            Flow::Open => written,
            Flow::Ended => Err(End::Gone(ErrorKind::UnexpectedEof.into())),
        }
    }

    async fn write_wire(&mut self) -> Result<(), End> {
        if !self.wire_out.is_empty() {
            write_all(self.socket.watched()?, &self.wire_out).await?;
            self.door.counters.bytes_sent.add(self.wire_out.len() as u64);
            self.wire_out.clear();
        }
        Ok(())
    }

    async fn hand_over(mut self, request: Box<ConnectRequest>, permit: ConnectionPermit, patience: Duration) {
        self.layer.established(2 * (self.door.limits.packet_bytes_max as usize).max(64 * 1024));
        let client_id = request.client_id.clone();
        let Greeting { door, listener, socket, peer, layer, plain, exchange, .. } = self;
        let socket = match socket.into_unwatched() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(target: "causeway::listener", %peer, %error, "cannot hand a connection over");
                return;
            }
        };
        let unread = plain;
        let arrival = Arrival { socket, peer, layer, unread, request, exchange, permit };
        let home = home_shard(&client_id, door.shards.len() as u32) as usize;
        let class = Class::of(&arrival.request.identity.principal);
        let sent = door.shards[home].of(class).send_timeout(Box::new(arrival), patience).await;
        if sent.is_err() {
            door.counters.refused_handshake.add(1);
            if door.refusals.pass() {
                tracing::warn!(target: "causeway::refused", listener = listener.settings.name, %peer,
                    client = shown(&client_id), "connection closed: the shard is stopping or too busy to take it");
            }
        }
    }

    async fn refuse(&mut self, end: End) {
        match end {
            End::Gone(error) => {
                tracing::debug!(target: "causeway::refused", listener = self.listener.settings.name,
                    peer = %self.peer, %error, "connection lost before CONNACK");
                return;
            }
            End::TooSlow => {
                self.door.counters.handshake_timeouts.add(1);
                self.log_refusal("", None, "no complete CONNECT in time");
                return;
            }
            End::NoRoom => {
                self.door.counters.refused_handshake_bytes.add(1);
                self.log_refusal("", None, "all handshakes together hold 64 MiB, and this one needs more");
                return;
            }
            End::Silent(why) => {
                self.log_refusal("", None, &why);
                return;
            }
            End::Layer(error) => {
                match error {
                    LayerError::Tls(_) => self.door.counters.tls_failures.add(1),
                    LayerError::Upgrade(_) | LayerError::WebSocket(_) => {
                        self.door.counters.websocket_failures.add(1);
                    }
                }
                self.log_refusal("", None, &error.to_string());
            }
            End::Refused { bytes, reason, client_id, why } => {
                self.log_refusal(&client_id, Some(reason), &why);
                if !bytes.is_empty() && self.layer.send(&[io::IoSlice::new(&bytes)], &mut self.wire_out).is_err() {
                    return;
                }
                self.layer.close(&mut self.wire_out);
            }
        }
        let farewell = async {
            if self.write_wire().await.is_ok()
                && let Ok(stream) = self.socket.watched()
            {
                shut_down_write(stream);
                linger(stream).await;
            }
        };
        // Whoever does not take its refusal in time goes without.
        let _ = timeout(REFUSAL_TIMEOUT, farewell).await;
    }

    fn log_refusal(&self, client: &str, reason: Option<ReasonCode>, why: &str) {
        self.door.counters.refused_handshake.add(1);
        if self.door.audit.is_on() {
            let (client, peer) = (client.to_owned(), Some(self.peer));
            let event = AuditEvent::new(What::Connect, Decision::Deny, why);
            self.door.audit.record(AuditEvent { client, peer, reason, ..event });
        }
        if !self.door.refusals.pass() {
            return;
        }
        let reason = reason.map(tracing::field::display);
        let client = (!client.is_empty()).then(|| shown(client));
        let hint = looks_like(self.first_bytes, self.listener.settings.transport);
        tracing::info!(target: "causeway::refused", listener = self.listener.settings.name, peer = %self.peer,
            client, reason, "connection refused: {}{hint}", Line(why));
    }
}

/// What a client speaks that is at the wrong port, as an addition to what is wrong with it.
fn looks_like(first_bytes: [u8; FIRST_BYTES], transport: Transport) -> &'static str {
    let http = [*b"GET ", *b"POST", *b"HEAD", *b"PUT ", *b"OPTI", *b"CONN"].contains(&first_bytes);
    let tls = matches!(first_bytes, [0x16, 3, 0..=4, _]);
    match transport {
        Transport::Tcp if http => "; this looks like HTTP, and the listener speaks MQTT over TCP",
        Transport::Tcp | Transport::Ws if tls => "; this looks like a TLS handshake, and the listener has no TLS",
        Transport::Tls | Transport::Wss if http => "; this looks like HTTP without TLS, and the listener has TLS",
        Transport::Tls | Transport::Wss if first_bytes[0] == 0x10 => {
            "; this looks like MQTT without TLS, and the listener has TLS"
        }
        _ => "",
    }
}

fn allow(identity: Identity) -> Verdict {
    Verdict::Allow { identity, data: Vec::new() }
}

fn not_authorized(why: String) -> Verdict {
    Verdict::Deny { reason: ReasonCode::NotAuthorized, why }
}

/// What does not end by `deadline` is too slow.
async fn in_time<T>(deadline: Instant, future: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    timeout_at(deadline, future).await.unwrap_or(Err(End::TooSlow))
}

/// Completes when the client leaves without having sent anything more.
async fn gone(socket: &mut NewSocket) -> io::Error {
    let stream = match socket.watched() {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    match stream.peek(&mut [0]).await {
        Ok(0) => ErrorKind::UnexpectedEof.into(),
        Ok(_) => std::future::pending().await,
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_at_the_wrong_port_are_recognised() {
        let hello = [0x16, 3, 1, 2];
        assert!(looks_like(*b"GET ", Transport::Tcp).contains("looks like HTTP"));
        assert!(looks_like(hello, Transport::Tcp).contains("looks like a TLS handshake"));
        assert!(looks_like(hello, Transport::Ws).contains("looks like a TLS handshake"));
        assert!(looks_like([0x10, 14, 0, 4], Transport::Tls).contains("looks like MQTT without TLS"));
        assert_eq!(looks_like(*b"GET ", Transport::Ws), "");
        assert_eq!(looks_like(hello, Transport::Tls), "");
        assert_eq!(looks_like([0x10, 14, 0, 4], Transport::Tcp), "");
    }

    #[test]
    fn what_handshakes_hold_is_bounded_and_comes_back() {
        let of_all = Arc::new(AtomicUsize::new(0));
        let held = || Held { of_all: of_all.clone(), bytes: 0 };
        let mut usual = held();
        assert!(usual.add(HANDSHAKE_BYTES_FREE));
        assert_eq!(of_all.load(Ordering::Relaxed), 0);
        let mut greedy = held();
        assert!(greedy.add(HANDSHAKES_BYTES_MAX + HANDSHAKE_BYTES_FREE));
        assert!(!usual.add(1), "no room");
        assert!(held().add(HANDSHAKE_BYTES_FREE), "there is always room for a usual one");
        drop(greedy);
        assert_eq!(of_all.load(Ordering::Relaxed), 1);
        assert!(usual.add(1));
        drop(usual);
        assert_eq!(of_all.load(Ordering::Relaxed), 0);
    }
}
