//! An authority, a broker that believes it, and clients, for the proofs about identities.
//!
//! Owns the certificates, the configuration and the process of that broker, and the few packets of MQTT that those proofs need, over
//! every transport. They never serve anything but a proof on this machine.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::daemon::Transport;
use crate::workspace::Workspace;

/// No answer takes longer.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
/// A port that does not accept yet is asked again after this.
const AGAIN: Duration = Duration::from_millis(10);

/// Makes certificates and revocation lists.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Result<Authority> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named(name);
        let certificate = params.self_signed(&key)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Ok(Authority { issuer: Issuer::new(params, key), certificate: der, pem })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// A new certificate of the server with its key, in PEM form, and in the form in which clients see it.
    pub(super) fn server(&self) -> Result<(String, String, CertificateDer<'static>)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.distinguished_name = named("broker");
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem(), certificate.der().clone()))
    }

    /// A client with a certificate that has this URI. It believes servers of `of_server`, and resumes its TLS sessions.
    pub(super) fn client(&self, uri: &str, of_server: &Authority) -> Result<Certified> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named("client");
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        // 16 bytes, of which the first is neither zero nor has its highest bit set: so it is written.
        let serial: Vec<u8> = key.public_key_raw()[1..17].iter().map(|byte| byte & 0x7F | 1).collect();
        params.serial_number = Some(serial.clone().into());
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        let mut roots = RootCertStore::empty();
        roots.add(of_server.certificate.clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Certified { config: Arc::new(config), serial })
    }

    /// A list of the certificates of this authority that are revoked, in PEM form.
    pub(super) fn revocations(&self, serials: &[&[u8]]) -> Result<String> {
        let this_update = date_time_ymd(2026, 1, 1);
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: serial.to_vec().into(),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update,
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A client with a certificate.
#[derive(Clone)]
pub(super) struct Certified {
    config: Arc<ClientConfig>,
    pub(super) serial: Vec<u8>,
}

impl Certified {
    /// A client whose certificate and key are at `pair`, with `.crt` and `.key`, and who believes the authority in the file `authority`.
    pub(super) fn from_files(authority: &Path, pair: &Path) -> Result<Certified> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority)?)?;
        let chain = CertificateDer::pem_file_iter(pair.with_extension("crt"))?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(pair.with_extension("key"))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Certified { config: Arc::new(config), serial: Vec::new() })
    }

    /// A TLS connection to a broker that is called `localhost`.
    pub(super) fn dial(&self, port: u16) -> Result<Session> {
        let stream = connected(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        Ok(Session { wire: self.wire(stream)?, websocket: false, plain: Vec::new() })
    }

    fn wire(&self, stream: TcpStream) -> Result<Wire> {
        let session = ClientConnection::new(self.config.clone(), ServerName::try_from("localhost")?)?;
        Ok(Wire::Tls(Box::new(StreamOwned::new(session, stream))))
    }

    /// The same client, when it has lost what it needs to resume a TLS session.
    pub(super) fn forgetful(&self) -> Certified {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        Certified { config: Arc::new(config), serial: self.serial.clone() }
    }
}

/// A broker that runs until this value is dropped.
pub(super) struct Broker {
    child: Child,
    program: PathBuf,
    folder: TempDir,
    ports: Vec<(Transport, u16)>,
    log: PathBuf,
}

impl Broker {
    /// Starts `program` with a listener of each transport. Those with TLS require certificates; files are there before, made by `prepare`:
    /// `server.crt`, `server.key`, `ca.crt`, `crl.pem`, and `users` where `has_users`.
    pub(super) fn start(
        workspace: &Workspace,
        program: PathBuf,
        purpose: &str,
        transports: &[Transport],
        has_users: bool,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Broker> {
        let folder = TempDir::with_prefix_in("causeway-identity-", workspace.scratch("daemon-data")?)?;
        prepare(folder.path())?;
        let held: Vec<_> = transports
            .iter()
            .map(|transport| Ok((*transport, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)))
            .collect::<io::Result<_>>()?;
        let ports: Vec<_> = held
            .iter()
            .map(|(transport, listener)| Ok((*transport, listener.local_addr()?.port())))
            .collect::<io::Result<_>>()?;
        let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let admin_port = admin.local_addr()?.port();
        drop((held, admin));
        let config = folder.path().join("causeway.toml");
        fs::write(&config, configuration(&ports, admin_port, has_users))?;
        let log = workspace.scratch("daemon-logs")?.join(format!("{purpose}-causeway.log"));
        let output = File::create(&log)?;
        let child = crate::daemon::with_all_files(&program)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut broker = Broker { child, program, folder, ports, log };
        broker.wait_until_ready()?;
        Ok(broker)
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// A file that the broker reads: replaced as a whole.
    pub(super) fn replace(&self, name: &str, text: &str) -> Result<()> {
        let new = self.folder.path().join("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.folder.path().join(name))?)
    }

    /// Runs the broker's program on its folder, such as `passwd users remove eve`.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.program);
        let status = command.args(arguments).current_dir(self.folder.path()).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "causewayd {} failed: {status}", arguments.join(" "));
        Ok(())
    }

    /// [`Broker::run`], with a line to read.
    pub(super) fn run_with(&self, arguments: &[&str], line: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            writeln!(input, "{line}")?;
        }
        let status = child.wait()?;
        ensure!(status.success(), "causewayd {} failed: {status}", arguments.join(" "));
        Ok(())
    }

    /// SIGHUP.
    pub(super) fn hang_up(&self) -> Result<()> {
        let status = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "cannot send SIGHUP: {status}");
        Ok(())
    }

    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("the broker ended by itself ({status}): {}", fs::read_to_string(&self.log).unwrap_or_default())
            }
        }
    }

    fn address(&self, transport: Transport) -> Result<SocketAddr> {
        let found = self.ports.iter().find(|(of, _)| *of == transport).context("no such listener")?;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, found.1)))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        for (transport, _) in self.ports.clone() {
            let address = self.address(transport)?;
            while TcpStream::connect(address).is_err() {
                self.check_alive()?;
                ensure!(Instant::now() < deadline, "nothing accepts at {address}");
                thread::sleep(AGAIN);
            }
        }
        Ok(())
    }

    /// A connection, up to where MQTT begins; with TLS, as `client`.
    pub(super) fn dial(&self, transport: Transport, client: Option<&Certified>) -> Result<Session> {
        let stream = connected(self.address(transport)?)?;
        let wire = match (transport, client) {
            (Transport::Tcp | Transport::Ws, _) => Wire::Plain(stream),
            (Transport::Tls | Transport::Wss, client) => client.context("TLS needs a client")?.wire(stream)?,
        };
        let websocket = matches!(transport, Transport::Ws | Transport::Wss);
        let mut session = Session { wire, websocket, plain: Vec::new() };
        if websocket {
            session.upgrade()?;
        }
        Ok(session)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already ended is as good as killed; there is nobody to tell anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connected(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn configuration(ports: &[(Transport, u16)], admin_port: u16, has_users: bool) -> String {
    let mut config = String::new();
    for (transport, port) in ports {
        let word = transport.word();
        // Writing to a String cannot fail.
        let _ =
            write!(config, "[[listener]]\nname = \"{word}\"\nbind = \"127.0.0.1:{port}\"\ntransport = \"{word}\"\n");
        if matches!(transport, Transport::Tls | Transport::Wss) {
            config.push_str(
                "[listener.tls]\ncertificate_file = \"server.crt\"\nkey_file = \"server.key\"\n\
                 client_certificate = \"required\"\nclient_ca_file = \"ca.crt\"\ncrl_file = \"crl.pem\"\n",
            );
        }
    }
    let users = if has_users { "password_file = \"users\"\n" } else { "" };
    let _ = write!(
        config,
        "[authentication]\nanonymous = \"never\"\n{users}[registry]\nunknown_vehicles = \"register\"\n\
         [admin]\nbind = \"127.0.0.1:{admin_port}\"\n\
         [limits]\nsession_queue_messages_max = 1000000\nsession_queue_bytes_max = 1000000000\n"
    );
    config
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// What a client says of itself in a CONNECT.
#[derive(Clone, Copy)]
pub(super) struct Hello<'a> {
    pub(super) client_id: &'a str,
    /// Name and password.
    pub(super) user: Option<(&'a str, &'a str)>,
    /// 5, or 4 for MQTT 3.1.1.
    pub(super) level: u8,
}

/// What a client is told.
#[derive(Debug)]
pub(super) enum Heard {
    /// A message: its topic and payload.
    Message(String, Vec<u8>),
    /// PUBACK with its identifier and reason.
    Acknowledged(u16, u8),
    /// SUBACK of one filter, likewise.
    Granted(u16, u8),
}

/// One MQTT connection.
pub(super) struct Session {
    wire: Wire,
    websocket: bool,
    /// What came and was not read yet.
    plain: Vec<u8>,
}

impl Session {
    /// Sends CONNECT; returns the reason code of the CONNACK.
    pub(super) fn connect(&mut self, hello: Hello<'_>) -> Result<u8> {
        let flags = 2 | hello.user.map_or(0, |_| 0xC0);
        let mut body = [&b"\0\x04MQTT"[..], &[hello.level, flags, 0, 0]].concat();
        if hello.level == 5 {
            body.push(0);
        }
        let user = hello.user.into_iter().flat_map(|(name, password)| [name, password]);
        for text in [hello.client_id].into_iter().chain(user) {
            body.extend(string(text));
        }
        self.send(&packet(0x10, &body))?;
        match self.read_packet()? {
            (0x20, body) if body.len() >= 2 => Ok(body[1]),
            (first, _) => bail!("{first:#x} instead of CONNACK"),
        }
    }

    /// Connects as a 5.0 client whose session is kept for an hour, or begins and ends with this; whether there was one.
    pub(super) fn come_back(&mut self, client_id: &str, is_kept: bool) -> Result<bool> {
        let properties: &[u8] = if is_kept { &[5, 0x11, 0, 0, 0x0E, 0x10] } else { &[0] };
        let head = [&b"\0\x04MQTT\x05"[..], &[if is_kept { 0 } else { 2 }, 0, 0]].concat();
        self.send(&packet(0x10, &[&head, properties, &string(client_id)].concat()))?;
        match self.read_packet()? {
            (0x20, body) if body.get(1) == Some(&0) => Ok(body[0] == 1),
            (0x20, body) => bail!("{client_id}: CONNACK {body:x?}"),
            (first, _) => bail!("{first:#x} instead of CONNACK"),
        }
    }

    /// Asks for all of a filter with QoS 1; the answer is for [`Session::heard`].
    pub(super) fn ask_for(&mut self, filter: &str, packet_id: u16) -> Result<()> {
        Ok(self.send(&packet(0x82, &[&packet_id.to_be_bytes()[..], &[0], &string(filter), &[1]].concat()))?)
    }

    /// The next that a 5.0 client is told. Messages of QoS 1 are acknowledged.
    pub(super) fn heard(&mut self) -> Result<Heard> {
        let (first, body) = self.read_packet()?;
        let packet_id = || body.first_chunk().map(|id| u16::from_be_bytes(*id)).context("a packet is cut");
        match first & 0xF0 {
            0x30 => {
                let length = usize::from(packet_id()?);
                let (topic, mut rest) = body[2..].split_at_checked(length).context("a packet is cut")?;
                if let (2, Some(id)) = (first & 6, rest.first_chunk::<2>()) {
                    self.send(&[0x40, 2, id[0], id[1]])?;
                    rest = &rest[2..];
                }
                // Properties are shorter than 128 bytes here.
                let properties = 1 + usize::from(*rest.first().context("a packet is cut")?);
                let payload = rest.get(properties..).context("a packet is cut")?;
                Ok(Heard::Message(String::from_utf8(topic.to_vec())?, payload.to_vec()))
            }
            0x40 => Ok(Heard::Acknowledged(packet_id()?, body.get(2).copied().unwrap_or(0))),
            0x90 => Ok(Heard::Granted(packet_id()?, body.last().copied().unwrap_or(0))),
            _ => bail!("{first:#x} was not expected"),
        }
    }

    /// Asks for all of a filter with QoS 1.
    pub(super) fn subscribe(&mut self, filter: &str) -> Result<()> {
        self.send(&packet(0x82, &[&b"\0\x01\0"[..], &string(filter), &[1]].concat()))?;
        match self.read_packet()? {
            (0x90, body) if body.last() == Some(&1) => Ok(()),
            other => bail!("{other:x?} instead of SUBACK"),
        }
    }

    /// Publishes with QoS 1; the answer is for [`Session::acknowledged`].
    pub(super) fn publish(&mut self, topic: &str, packet_id: u16, payload: &[u8]) -> Result<()> {
        let body = [&string(topic)[..], &packet_id.to_be_bytes(), &[0], payload].concat();
        Ok(self.send(&packet(0x32, &body))?)
    }

    /// Waits for a PUBACK that takes the message.
    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Result<()> {
        match self.read_packet()? {
            (0x40, body)
                if body.starts_with(&packet_id.to_be_bytes()) && body.get(2).is_none_or(|reason| *reason < 0x80) =>
            {
                Ok(())
            }
            other => bail!("{other:x?} instead of PUBACK"),
        }
    }

    /// Takes a message of QoS 1, acknowledges it, and returns topic and payload. None: the connection is over.
    pub(super) fn message(&mut self) -> Result<(String, Vec<u8>)> {
        let (first, body) = self.read_packet()?;
        ensure!(first & 0xF6 == 0x32, "{first:#x} instead of a message");
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let (topic, rest) = body[2..].split_at(length);
        self.send(&[0x40, 2, rest[0], rest[1]])?;
        Ok((String::from_utf8(topic.to_vec())?, rest[3..].to_vec()))
    }

    /// Whether it answers.
    pub(super) fn ping(&mut self) -> Result<()> {
        self.send(&[0xC0, 0])?;
        match self.read_packet()? {
            (0xD0, _) => Ok(()),
            other => bail!("{other:x?} instead of PINGRESP"),
        }
    }

    /// Waits until the broker closes the connection, and returns the reason it gave, if any.
    pub(super) fn closed(&mut self) -> Result<Option<u8>> {
        match self.read_packet() {
            Ok((0xE0, body)) => Ok(Some(body.first().copied().unwrap_or(0))),
            Ok((first, _)) => bail!("{first:#x} instead of the end"),
            Err(error) if is_end(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the TLS session was one taken up again. Known once something was read.
    pub(super) fn is_resumed(&self) -> bool {
        matches!(&self.wire, Wire::Tls(stream) if stream.conn.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// The certificate of the server. Known once something was read.
    pub(super) fn server_certificate(&self) -> Option<&CertificateDer<'static>> {
        match &self.wire {
            Wire::Plain(_) => None,
            Wire::Tls(stream) => stream.conn.peer_certificates()?.first(),
        }
    }

    fn upgrade(&mut self) -> Result<()> {
        self.wire.write_all(
            b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            ensure!(self.wire.read(&mut byte)? == 1, "the upgrade to WebSocket was not answered");
            head.push(byte[0]);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101"), "the upgrade to WebSocket was refused");
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.websocket {
            return self.wire.write_all(bytes);
        }
        // Masked with zeros, which leaves the payload as it is.
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let head = match length {
            0..126 => vec![0x82, 0x80 | length as u8],
            _ => [&[0x82, 0x80 | 126][..], &length.to_be_bytes()].concat(),
        };
        self.wire.write_all(&[&head[..], &[0; 4], bytes].concat())
    }

    fn read_packet(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let first = self.byte()?;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 || shift > 21 {
                break;
            }
        }
        while self.plain.len() < length {
            self.read_more()?;
        }
        Ok((first, self.plain.drain(..length).collect()))
    }

    fn byte(&mut self) -> io::Result<u8> {
        while self.plain.is_empty() {
            self.read_more()?;
        }
        Ok(self.plain.remove(0))
    }

    fn read_more(&mut self) -> io::Result<()> {
        if !self.websocket {
            let mut buffer = [0; 4096];
            let bytes = self.wire.read(&mut buffer)?;
            self.plain.extend_from_slice(&buffer[..bytes]);
            return if bytes == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) };
        }
        let [first, length] = self.exactly::<2>()?;
        let length = match length {
            126 => usize::from(u16::from_be_bytes(self.exactly::<2>()?)),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.wire.read(&mut payload[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => filled += bytes,
            }
        }
        match first {
            0x82 => self.plain.extend(payload),
            0x88 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        Ok(())
    }

    fn exactly<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            match self.wire.read(&mut bytes[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => filled += more,
            }
        }
        Ok(bytes)
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
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

/// A VIN of a fleet of a million.
pub(super) fn vin(number: u32) -> String {
    format!("1M8GDM9AXKP{number:06}")
}
