//! A broker on ports of its own, and clients that speak raw bytes to it.
//!
//! Owns starting and stopping within one test. Every wait has a deadline; nothing sleeps.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of this is test code")]

pub mod causewayd;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_broker::auth::Authenticator;
use causeway_broker::config::{ClientCertificate, Config, CrlUnknown, Listener, Tls, TlsVersion, Transport};
use causeway_broker::server::{self, Observed, Running, ServerError};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::runtime::Runtime;

/// No answer takes longer than this.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A listener on loopback with a port of the system's choice.
pub fn listener(transport: Transport) -> Listener {
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Listener { bind, transport, ..Listener::default() }
}

/// A running broker; stopped when dropped.
pub struct Broker {
    running: Option<Running>,
    runtime: Runtime,
    pub authenticator: Authenticator,
    pub observed: Observed,
    pub addresses: Vec<SocketAddr>,
}

impl Broker {
    pub fn start(listeners: Vec<Listener>) -> Broker {
        Broker::with(Config { listener: listeners, ..Config::default() })
    }

    pub fn plain() -> Broker {
        Broker::start(vec![listener(Transport::Tcp)])
    }

    pub fn with(config: Config) -> Broker {
        Broker::try_with(config).unwrap()
    }

    pub fn try_with(config: Config) -> Result<Broker, ServerError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let observed = Observed::default();
        let authenticator = Authenticator::load(&config).unwrap();
        let running = runtime.block_on(server::start(&config, authenticator.clone(), &observed))?;
        let addresses = running.addresses().into_iter().map(|(_, address)| address).collect();
        Ok(Broker { running: Some(running), runtime, authenticator, observed, addresses })
    }

    /// A TCP connection to the first listener.
    pub fn dial(&self) -> Client<TcpStream> {
        Client::new(dial(self.addresses[0]))
    }

    /// An MQTT 5 client of the first listener.
    pub fn client(&self, id: &str) -> Client<TcpStream> {
        let mut client = self.dial();
        client.connect(id);
        client
    }

    /// Runs something of the broker's to its end.
    pub fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await.expect("in time") })
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Runs what has to run within the broker's runtime.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Waits until the broker ends by itself, and for why.
    pub fn fails(mut self) -> ServerError {
        let mut running = self.running.take().unwrap();
        let failed = async { tokio::time::timeout(DEADLINE, running.failed()).await };
        self.runtime.block_on(failed).expect("it ends").expect_err("unasked")
    }

    /// Begins the graceful shutdown; call the result to wait for its end.
    pub fn stop(mut self) -> impl FnOnce() -> Result<(), ServerError> {
        let stopping = self.runtime.spawn(self.running.take().unwrap().stop());
        move || self.runtime.block_on(async { tokio::time::timeout(DEADLINE, stopping).await.unwrap().unwrap() })
    }
}

pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Polls `condition` until it holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// One packet: first byte and body.
pub type RawPacket = (u8, Vec<u8>);

/// Speaks MQTT in raw bytes over anything.
pub struct Client<S> {
    pub stream: S,
}

impl<S: Read + Write> Client<S> {
    pub fn new(stream: S) -> Client<S> {
        Client { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    pub fn read_packet(&mut self) -> RawPacket {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("a packet");
        let first = byte[0];
        let (mut length, mut shift) = (0usize, 0);
        loop {
            self.stream.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 0x7F) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (first, body)
    }

    pub fn expect(&mut self, first: u8, body: &[u8]) {
        let (seen_first, seen_body) = self.read_packet();
        assert_eq!((seen_first, seen_body.as_slice()), (first, body));
    }

    /// CONNECT of MQTT 5, and its CONNACK.
    pub fn connect(&mut self, id: &str) {
        self.send(&connect(id, 0));
        self.expect_connack(0);
    }

    pub fn expect_connack(&mut self, reason: u8) {
        let (first, body) = self.read_packet();
        assert_eq!((first, body[1]), (0x20, reason));
    }

    /// SUBSCRIBE to one filter, and its SUBACK.
    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        self.send(&subscribe(filter, qos));
        self.expect(0x90, &[0, 1, 0, qos]);
    }

    /// DISCONNECT of MQTT 5 with this reason, then the end.
    pub fn expect_disconnect(&mut self, reason: u8) {
        let (first, body) = self.read_packet();
        assert_eq!((first, body[0]), (0xE0, reason));
        self.expect_end();
    }

    /// Nothing more comes.
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {}
            Err(error) => panic!("{error}"),
        }
        assert_eq!(rest, b"", "more came than expected");
    }
}

/// A packet with the given first byte and body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let more = length > 0x7F;
        packet.push((length & 0x7F) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// CONNECT of MQTT 5 with Clean Start.
pub fn connect(id: &str, keep_alive_seconds: u16) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x02".to_vec();
    body.extend(keep_alive_seconds.to_be_bytes());
    body.push(0);
    body.extend(string(id));
    packet(0x10, &body)
}

/// CONNECT of MQTT 5 with Clean Start, a user name and a password.
pub fn connect_as(id: &str, username: &str, password: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\xC2\x00\x00\x00".to_vec();
    [id, username, password].iter().for_each(|text| body.extend(string(text)));
    packet(0x10, &body)
}

/// SUBSCRIBE with packet identifier 1.
pub fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    packet(0x82, &[b"\x00\x01\x00".as_slice(), &string(filter), &[qos]].concat())
}

/// PUBLISH; `packet_id` 0 means QoS 0, all else QoS 1.
pub fn publish(topic: &str, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    if packet_id != 0 {
        body.extend(packet_id.to_be_bytes());
    }
    body.push(0);
    body.extend(payload);
    packet(if packet_id == 0 { 0x30 } else { 0x32 }, &body)
}

/// Publishes to itself through the broker, with an answer of every kind on the way.
pub fn check_round_trip<S: Read + Write>(client: &mut Client<S>, payload: &[u8]) {
    client.subscribe("loop/back", 0);
    client.send(&publish("loop/back", 0, payload));
    client.expect(0x30, &publish_body("loop/back", payload));
    client.send(&[0xC0, 0]);
    client.expect(0xD0, &[]);
}

/// The body of a QoS 0 PUBLISH.
pub fn publish_body(topic: &str, payload: &[u8]) -> Vec<u8> {
    [&string(topic), &[0][..], payload].concat()
}

/// Certificates of a made-up authority, in files.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority of {}", folder.path().display()));
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("own.pem"), certificate.pem()).unwrap();
        let der = certificate.der().clone();
        Authority { folder, issuer: rcgen::Issuer::new(params, key), certificate: der }
    }

    /// A certificate for `name`, and its key, in PEM form.
    fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Settings of a listener with a certificate for localhost. Called again, it replaces the files.
    pub fn settings(&self, client_certificate: ClientCertificate) -> Tls {
        let (certificate, key) = self.issue("localhost");
        let write = |name: &str, text: String| -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        Tls {
            certificate_file: write("server.pem", certificate),
            key_file: write("server.key", key),
            client_ca_file: Some(self.folder.path().join("ca.pem")),
            client_certificate,
            crl_file: None,
            crl_unknown: CrlUnknown::Refuse,
            min_version: TlsVersion::V1_2,
        }
    }

    /// What a client needs to connect as whoever has a certificate with this common name and these URIs.
    pub fn client(&self, common_name: &str, uris: &[&str], versions: Versions) -> ClientOf {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
        // Of 16 bytes, the first of which is neither 0 nor has its highest bit set: this is how it is written.
        let serial: Vec<u8> = key.public_key_raw()[1..17].iter().map(|byte| byte & 0x7F | 1).collect();
        params.serial_number = Some(serial.clone().into());
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        ClientOf { config: Arc::new(config), serial }
    }

    /// A list of certificates of this authority that are revoked, in PEM form.
    pub fn revocations(&self, serials: &[&[u8]]) -> String {
        let (this_update, next_update) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2096, 1, 1));
        let revoked = |serial: &&[u8]| rcgen::RevokedCertParams {
            serial_number: serial.to_vec().into(),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("own.pem")).unwrap()
    }

    /// A file beside those of the authority.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A TLS session to `address`; with `certified`, as a client with a certificate.
    pub fn dial(&self, address: SocketAddr, versions: Versions, certified: bool) -> TlsStream {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match certified {
            false => builder.with_no_client_auth(),
            true => {
                let (certificate, key) = self.issue("client");
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), dial(address))
    }
}

/// A client with a certificate. It resumes its sessions.
pub struct ClientOf {
    pub config: Arc<ClientConfig>,
    pub serial: Vec<u8>,
}

impl ClientOf {
    /// The same client, when it has lost what it needs to resume a session.
    pub fn without_sessions(&self) -> ClientOf {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = rustls::client::Resumption::disabled();
        ClientOf { config: Arc::new(config), serial: self.serial.clone() }
    }

    pub fn dial(&self, address: SocketAddr) -> TlsStream {
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(self.config.clone(), name).unwrap(), dial(address))
    }
}

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;
pub type Versions = &'static [&'static rustls::SupportedProtocolVersion];

/// An upgrade request for the path /mqtt and the subprotocol `mqtt`.
pub const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A client's frame with the given first byte.
pub fn websocket_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        0..=125 => frame.push(0x80 | payload.len() as u8),
        126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let mask = [0x5A, 0xA5, 0x0F, 0xF0];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The head of an HTTP answer.
pub fn read_http_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// WebSocket over anything: what is written becomes a frame, what is read comes out of frames.
pub struct WebSocket<S> {
    pub stream: S,
    unread: Vec<u8>,
}

impl<S: Read + Write> WebSocket<S> {
    pub fn upgrade(mut stream: S) -> WebSocket<S> {
        stream.write_all(UPGRADE).unwrap();
        let head = read_http_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.to_ascii_lowercase().contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
        WebSocket { stream, unread: Vec::new() }
    }

    /// One frame of the server: first byte and payload.
    pub fn read_frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.stream.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }
}

impl<S: Read + Write> Read for WebSocket<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.unread.is_empty() {
            match self.read_frame()? {
                (0x82, payload) => self.unread = payload,
                (0x88, _) => return Ok(0),
                other => panic!("unexpected frame {other:?}"),
            }
        }
        let bytes = buffer.len().min(self.unread.len());
        buffer[..bytes].copy_from_slice(&self.unread[..bytes]);
        self.unread.drain(..bytes);
        Ok(bytes)
    }
}

impl<S: Read + Write> Write for WebSocket<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write_all(&websocket_frame(0x82, bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}
