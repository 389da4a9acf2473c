//! Owns the byte stream to the broker: TCP, or TLS over it. Never interprets what flows.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

/// Where the broker is and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Target {
    address: SocketAddr,
    tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
}

impl Target {
    /// A plain TCP target, `HOST:PORT`.
    pub fn tcp(target: &str) -> Result<Target> {
        let mut addresses = target.to_socket_addrs().with_context(|| format!("{target:?} is no HOST:PORT"))?;
        let address = addresses.next().with_context(|| format!("{target:?} has no address"))?;
        Ok(Target { address, tls: None })
    }

    /// Adds TLS: certificates are checked against the PEM file `ca` and `server_name`.
    pub fn with_tls(self, ca: &Path, server_name: &str) -> Result<Target> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).with_context(|| format!("reading {}", ca.display()))? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(server_name.to_owned())?;
        Ok(Target { tls: Some((Arc::new(config), name)), ..self })
    }

    /// Opens a connection; `timeout` bounds the TCP handshake and each write.
    pub fn open(&self, timeout: Duration) -> Result<Stream> {
        let socket = TcpStream::connect_timeout(&self.address, timeout)
            .with_context(|| format!("connecting to {}", self.address))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        let Some((config, name)) = &self.tls else {
            return Ok(Stream::Tcp(socket));
        };
        let session = rustls::ClientConnection::new(config.clone(), name.clone())?;
        Ok(Stream::Tls(Box::new(rustls::StreamOwned::new(session, socket))))
    }
}

/// An open byte stream.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS.
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Tcp(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    /// Bounds the next reads; at least one millisecond.
    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket().set_read_timeout(Some(timeout.max(Duration::from_millis(1))))
    }

    /// Ends our side of the connection (TCP FIN, without a TLS farewell): to the broker, an abnormal end.
    pub fn finish_writing(&self) {
        // It fails only if the connection is already gone, which is just as good.
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    /// Reads what is there: `Ok(0)` means closed (in whatever way), `None` that the timeout passed.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        let result = match self {
            Stream::Tcp(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        };
        match result {
            Ok(count) => Ok(Some(count)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(None),
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
                | io::ErrorKind::UnexpectedEof => Ok(Some(0)),
                // A broker that misses the TLS farewell may complain with an alert; it has closed all the same.
                _ if is_alert(&error) => Ok(Some(0)),
                _ => Err(error).context("reading"),
            },
        }
    }

    /// Writes everything. A peer that has already closed is no error: the next read will tell.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let result = match self {
            Stream::Tcp(socket) => socket.write_all(bytes),
            Stream::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        };
        match result {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
                ) =>
            {
                Ok(())
            }
            other => other.context("writing"),
        }
    }
}

fn is_alert(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}
