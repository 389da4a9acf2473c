//! TLS as a transformation of bytes.
//!
//! Owns one server-side rustls session. It never reads certificates (see [`crate::tls`]) nor touches a socket.

use std::io::{BufRead, ErrorKind, IoSlice, Write};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

use super::{Flow, LayerError};

/// What a client has proven to be its own.
pub(crate) struct PeerCertificates<'a> {
    /// Its certificate first, then those of authorities up to one that is trusted, as the client gave them.
    pub(crate) chain: &'a [CertificateDer<'static>],
    /// Whether the session goes on from an earlier one: then they were verified at that time, not now.
    pub(crate) resumed: bool,
}

/// The server's end of one TLS session.
pub(crate) struct TlsLayer {
    session: ServerConnection,
}

impl TlsLayer {
    /// A session that waits for its ClientHello.
    ///
    /// # Errors
    /// Where rustls refuses the configuration.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<TlsLayer, LayerError> {
        let mut session = ServerConnection::new(config)?;
        // What is sent is taken out at once, so the session's own buffer needs no bound.
        session.set_buffer_limit(None);
        Ok(TlsLayer { session })
    }

    /// See [`super::Layer::peer_certificates`].
    pub(crate) fn peer_certificates(&self) -> Option<PeerCertificates<'_>> {
        let chain = self.session.peer_certificates().filter(|chain| !chain.is_empty())?;
        let resumed = self.session.handshake_kind() == Some(HandshakeKind::Resumed);
        Some(PeerCertificates { chain, resumed })
    }

    /// See [`super::Layer::receive`].
    pub(crate) fn receive(
        &mut self,
        mut wire: &[u8],
        plain: &mut Vec<u8>,
        wire_out: &mut Vec<u8>,
    ) -> Result<Flow, LayerError> {
        let mut flow = Flow::Open;
        while !wire.is_empty() && flow == Flow::Open {
            let taken = self.session.read_tls(&mut wire).map_err(|error| rustls::Error::General(error.to_string()))?;
            let processed = self.session.process_new_packets();
            if processed.as_ref().is_ok_and(|state| state.peer_has_closed()) {
                flow = Flow::Ended;
            }
            self.take_plain(plain);
            if let Err(error) = processed {
                self.take_wire(wire_out);
                return Err(error.into());
            }
            if taken == 0 {
                break;
            }
        }
        self.take_wire(wire_out);
        Ok(flow)
    }

    /// See [`super::Layer::send`].
    pub(crate) fn send(&mut self, plain: &[IoSlice<'_>], wire_out: &mut Vec<u8>) -> Result<(), LayerError> {
        for slice in plain {
            self.session.writer().write_all(slice).map_err(|error| rustls::Error::General(error.to_string()))?;
        }
        self.take_wire(wire_out);
        Ok(())
    }

    /// See [`super::Layer::close`].
    pub(crate) fn close(&mut self, wire_out: &mut Vec<u8>) {
        self.session.send_close_notify();
        self.take_wire(wire_out);
    }

    fn take_plain(&mut self, plain: &mut Vec<u8>) {
        let mut reader = self.session.reader();
        loop {
            // WouldBlock means "no more yet"; an unexpected end is reported by the socket, too.
            let taken = match reader.fill_buf() {
                Ok(chunk) if !chunk.is_empty() => {
                    plain.extend_from_slice(chunk);
                    chunk.len()
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                _ => return,
            };
            reader.consume(taken);
        }
    }

    fn take_wire(&mut self, wire_out: &mut Vec<u8>) {
        while self.session.wants_write() {
            // Writing into memory does not fail.
            if self.session.write_tls(wire_out).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustls::crypto::ring;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

    use super::*;

    type Version = &'static SupportedProtocolVersion;

    fn pair(version: Version) -> (ClientConnection, TlsLayer) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(client), name).unwrap();
        (client, TlsLayer::new(Arc::new(server)).unwrap())
    }

    /// What the client has to say, and the server's answers, until both are silent. Bytes travel `step` at a time.
    fn talk(client: &mut ClientConnection, layer: &mut TlsLayer, step: usize) -> (Flow, Vec<u8>) {
        let (mut flow, mut plain) = (Flow::Open, Vec::new());
        while client.wants_write() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut answer = Vec::new();
            for piece in wire.chunks(step) {
                flow = layer.receive(piece, &mut plain, &mut answer).unwrap();
            }
            hear(client, &answer);
        }
        (flow, plain)
    }

    fn hear(client: &mut ClientConnection, mut wire: &[u8]) {
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets().unwrap();
        }
    }

    #[test]
    fn a_session_byte_by_byte_and_at_once() {
        let large: Vec<u8> = (0..100_000).map(|n| n as u8).collect();
        for (version, step) in [(&TLS12, 1), (&TLS13, 1), (&TLS12, usize::MAX), (&TLS13, usize::MAX)] {
            let (mut client, mut layer) = pair(version);
            talk(&mut client, &mut layer, step);
            assert!(!client.is_handshaking());

            client.set_buffer_limit(None);
            client.writer().write_all(&large).unwrap();
            assert_eq!(talk(&mut client, &mut layer, step), (Flow::Open, large.clone()));

            let mut wire = Vec::new();
            layer.send(&[IoSlice::new(b"to the "), IoSlice::new(b"client")], &mut wire).unwrap();
            hear(&mut client, &wire);
            let mut heard = [0; 13];
            client.reader().read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"to the client");

            client.writer().write_all(b"last").unwrap();
            client.send_close_notify();
            assert_eq!(talk(&mut client, &mut layer, step), (Flow::Ended, b"last".to_vec()));
        }
    }

    #[test]
    fn our_close_is_told_to_the_peer() {
        let (mut client, mut layer) = pair(&TLS13);
        talk(&mut client, &mut layer, usize::MAX);
        let mut wire = Vec::new();
        layer.close(&mut wire);
        client.read_tls(&mut wire.as_slice()).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }

    #[test]
    fn what_is_not_tls_is_answered_with_an_alert() {
        let (_, mut layer) = pair(&TLS13);
        let (mut plain, mut wire_out) = (Vec::new(), Vec::new());
        let outcome = layer.receive(b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x3c", &mut plain, &mut wire_out);
        assert!(matches!(outcome, Err(LayerError::Tls(_))));
        assert!(plain.is_empty());
        assert_eq!(wire_out[0], 0x15, "an alert");
    }
}
