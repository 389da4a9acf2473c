//! One connection of the load, plain or in TLS, that never blocks once it is open.
//!
//! Owns its socket, what is to be written and the piece of a packet whose
//! rest has not come. An idle one owns no buffer: all read into one that is
//! lent to them. It knows no message.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::sockopt::set_socket_linger;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

use super::tickets::Tickets;
use crate::wire::{self, Connack, Connect, first};

/// How long a broker may take to answer while a connection is opened.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Bytes that are lent for reading.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// Buffers that packets and what they are sealed in are read into; one for all connections.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Plain bytes: packets.
    pub(crate) plain: Vec<u8>,
    sealed: Vec<u8>,
}

impl Buffers {
    /// New ones.
    pub(crate) fn new() -> Self {
        // What was carried over comes before what is read.
        Self { plain: vec![0; 2 * READ_BYTES], sealed: vec![0; READ_BYTES] }
    }
}

/// Where to connect, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Target {
    /// A broker, over TLS where the certificate of an authority is given. `resumes` says whether TLS sessions are
    /// taken up again; otherwise each handshake is a full one.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub(crate) fn new(address: SocketAddr, authority: Option<&Path>, resumes: bool) -> anyhow::Result<Self> {
        let mut tls = authority.map(client_config).transpose()?;
        if let Some(config) = &mut tls {
            config.resumption =
                if resumes { Resumption::store(Arc::new(Tickets::default())) } else { Resumption::disabled() };
        }
        Ok(Self { address, tls: tls.map(Arc::new) })
    }
}

fn client_config(authority: &Path) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let context = || format!("cannot read {}", authority.display());
    for certificate in CertificateDer::pem_file_iter(authority).with_context(context)? {
        roots.add(certificate.with_context(context)?)?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

fn session(config: &Arc<ClientConfig>) -> anyhow::Result<Box<ClientConnection>> {
    let mut session = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
    session.set_buffer_limit(None);
    Ok(Box::new(session))
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Pipe {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    carry: Vec<u8>,
    /// What is to be written at the next [`Pipe::flush`].
    pub(crate) outgoing: Vec<u8>,
}

/// What a read brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    /// So many bytes at the beginning of [`Buffers::plain`].
    pub(crate) length: usize,
    /// Nothing is left in the socket: the next bytes bring an event of their own.
    pub(crate) is_drained: bool,
}

impl Pipe {
    /// Begins to open a connection; what is outgoing follows once it is open.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub(crate) fn begin(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.address)?;
        let tls = target.tls.as_ref().map(session).transpose()?;
        Ok(Self { stream, tls, carry: Vec::new(), outgoing: Vec::new() })
    }

    /// When it is dropped, the broker is told by a reset, and its port is free at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn reset_when_dropped(&self) -> Result<()> {
        Ok(set_socket_linger(&self.stream, Some(Duration::ZERO))?)
    }

    /// Opens a connection and a session, and subscribes, waiting for each answer.
    ///
    /// # Errors
    /// When the broker cannot be reached, refuses or takes longer than half a minute.
    pub(crate) fn open(
        target: &Target,
        connect: &Connect<'_>,
        subscription: Option<(&str, u8)>,
    ) -> anyhow::Result<(Self, Connack)> {
        let mut stream = std::net::TcpStream::connect(target.address).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        let mut tls = target.tls.as_ref().map(session).transpose()?;
        while let Some(session) = tls.as_mut().filter(|session| session.is_handshaking()) {
            session.complete_io(&mut stream).context("the TLS handshake failed")?;
        }
        let mut waiting = Waiting { stream, tls };
        let mut packet = Vec::new();
        connect.write(&mut packet);
        let connack = Connack::read(connect.version, &waiting.ask(&packet, first::CONNACK)?)?;
        if let Some((filter, qos)) = subscription {
            packet.clear();
            wire::subscribe(connect.version, &mut packet, filter, qos);
            let answer = waiting.ask(&packet, first::SUBACK)?;
            ensure!(answer.last() == Some(&qos), "SUBACK {answer:?} for QoS {qos} on {filter}");
        }
        waiting.stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(waiting.stream);
        Ok((Self { stream, tls: waiting.tls, carry: Vec::new(), outgoing: Vec::new() }, connack))
    }

    /// Asks for events.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Reads once. What [`Pipe::keep`] kept comes first.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] where the broker has closed; anything else where the connection is gone.
    pub(crate) fn read(&mut self, buffers: &mut Buffers) -> Result<Filled> {
        let mut length = self.carry.len();
        if length > 0 {
            buffers.plain[..length].copy_from_slice(&self.carry);
            self.carry.clear();
        }
        let Some(tls) = &mut self.tls else {
            let room = buffers.plain.len() - length;
            let read = read_some(&mut self.stream, &mut buffers.plain[length..])?;
            return Ok(Filled { length: length + read.unwrap_or(0), is_drained: read != Some(room) });
        };
        let read = read_some(&mut self.stream, &mut buffers.sealed)?;
        let mut sealed = &buffers.sealed[..read.unwrap_or(0)];
        loop {
            // Never more than was sealed, so there is room.
            while let Ok(opened @ 1..) = tls.reader().read(&mut buffers.plain[length..]) {
                length += opened;
            }
            if sealed.is_empty() {
                break;
            }
            tls.read_tls(&mut sealed)?;
            tls.process_new_packets().map_err(Error::other)?;
        }
        Ok(Filled { length, is_drained: read != Some(buffers.sealed.len()) })
    }

    /// Keeps the beginning of a packet for the next read.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        self.carry.extend_from_slice(rest);
    }

    /// Writes what is outgoing, as far as the socket takes it. The rest waits for an event and the next call.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if let Some(tls) = &mut self.tls {
            if !self.outgoing.is_empty() {
                tls.writer().write_all(&self.outgoing)?;
                self.outgoing.clear();
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    result => drop(result?),
                }
            }
            return Ok(());
        }
        let mut written = 0;
        while written < self.outgoing.len() {
            match self.stream.write(&self.outgoing[written..]) {
                Ok(length) => written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if written == self.outgoing.len() {
            self.outgoing.clear();
        } else {
            self.outgoing.drain(..written);
        }
        Ok(())
    }

    /// Whether its TLS session was one taken up again.
    pub(crate) fn is_resumed(&self) -> bool {
        let kind = self.tls.as_ref().and_then(|tls| tls.handshake_kind());
        kind == Some(HandshakeKind::Resumed)
    }

    /// Whether something waits to be written.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.outgoing.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }
}

/// `None` where nothing is there.
fn read_some(stream: &mut TcpStream, into: &mut [u8]) -> Result<Option<usize>> {
    match stream.read(into) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A connection while it is opened.
struct Waiting {
    stream: std::net::TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Waiting {
    /// Sends a packet; the body of the answer, which must be of this kind.
    fn ask(&mut self, packet: &[u8], kind: u8) -> anyhow::Result<Vec<u8>> {
        self.write(packet)?;
        let mut bytes = Vec::new();
        loop {
            // Byte by byte: what follows the answer stays where it is.
            let mut byte = [0];
            self.read(&mut byte)?;
            bytes.extend(byte);
            let Some((body, header)) = wire::header(&bytes) else { continue };
            bytes.resize(header + body, 0);
            self.read(&mut bytes[header..])?;
            if bytes[0] != kind {
                bail!("a packet {:#04x} instead of {kind:#04x}", bytes[0]);
            }
            return Ok(bytes.split_off(header));
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.tls {
            Some(tls) => {
                let mut stream = rustls::Stream::new(tls.as_mut(), &mut self.stream);
                stream.write_all(bytes)?;
                stream.flush()
            }
            None => self.stream.write_all(bytes),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.stream).read_exact(into),
            None => self.stream.read_exact(into),
        }
    }
}
