//! What lies between a socket and MQTT: nothing, TLS, WebSocket, or WebSocket in TLS.
//!
//! Owns the translation of wire bytes to plain bytes and back, one [`Layer`] a connection. It never touches a socket, a
//! clock or a task: bytes go in, bytes come out, so every state is tested by feeding it byte by byte, and one driver
//! serves all transports.

pub(crate) mod socket;
mod tls;
mod websocket;

use std::io::IoSlice;
use std::sync::Arc;

pub(crate) use tls::{PeerCertificates, TlsLayer};
pub(crate) use websocket::WebSocketLayer;

/// Whether more may come from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The layer is open or still in its handshake.
    Open,
    /// The peer ended the layer in an orderly way (TLS close_notify, WebSocket close).
    Ended,
}

/// Why a layer cannot go on. What the peer should be told is already in `wire_out`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// The TLS peer misbehaved or refused us.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The request for an upgrade to WebSocket was not acceptable.
    #[error("WebSocket upgrade refused: {0}")]
    Upgrade(String),
    /// The WebSocket peer misbehaved.
    #[error("WebSocket: {0}")]
    WebSocket(String),
}

/// The transformation of one connection's bytes.
pub(crate) enum Layer {
    /// The wire carries MQTT itself.
    Plain,
    /// MQTT in TLS.
    Tls(Box<TlsLayer>),
    /// MQTT in WebSocket.
    Ws(Box<WebSocketLayer>),
    /// MQTT in WebSocket in TLS.
    Wss(Box<(TlsLayer, WebSocketLayer)>),
}

impl Layer {
    /// The layer of a new connection. `websocket` is the path of upgrade requests; `plain_bytes_max` bounds a WebSocket
    /// message until [`Layer::established`].
    ///
    /// # Errors
    /// Where rustls refuses its configuration.
    pub(crate) fn new(
        tls: Option<Arc<rustls::ServerConfig>>,
        websocket: Option<Arc<str>>,
        plain_bytes_max: usize,
    ) -> Result<Layer, LayerError> {
        let tls = tls.map(TlsLayer::new).transpose()?;
        let websocket = websocket.map(|path| WebSocketLayer::new(path, plain_bytes_max));
        Ok(match (tls, websocket) {
            (None, None) => Layer::Plain,
            (Some(tls), None) => Layer::Tls(Box::new(tls)),
            (None, Some(websocket)) => Layer::Ws(Box::new(websocket)),
            (Some(tls), Some(websocket)) => Layer::Wss(Box::new((tls, websocket))),
        })
    }

    /// Whether wire bytes and plain bytes are the same, so that callers may skip the copy.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Layer::Plain)
    }

    /// What the client has shown in its TLS handshake, once that is over. None where it was not asked, or has none.
    pub(crate) fn peer_certificates(&self) -> Option<PeerCertificates<'_>> {
        match self {
            Layer::Plain | Layer::Ws(_) => None,
            Layer::Tls(tls) => tls.peer_certificates(),
            Layer::Wss(both) => both.0.peer_certificates(),
        }
    }

    /// Takes all of `wire`, appends what it carries to `plain`, and appends what the layer itself owes the peer
    /// (handshake, pong, alert) to `wire_out`. Both may grow on an error, too: what came before it counts.
    ///
    /// # Errors
    /// Where the peer broke the layer's rules; send `wire_out`, then close.
    pub(crate) fn receive(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        wire_out: &mut Vec<u8>,
    ) -> Result<Flow, LayerError> {
        match self {
            Layer::Plain => {
                plain.extend_from_slice(wire);
                Ok(Flow::Open)
            }
            Layer::Tls(tls) => tls.receive(wire, plain, wire_out),
            Layer::Ws(websocket) => websocket.receive(wire, plain, wire_out),
            Layer::Wss(both) => {
                let (tls, websocket) = &mut **both;
                let mut decrypted = Vec::with_capacity(wire.len());
                let outer = tls.receive(wire, &mut decrypted, wire_out);
                let mut reply = Vec::new();
                let inner = websocket.receive(&decrypted, plain, &mut reply);
                if !reply.is_empty() {
                    tls.send(&[IoSlice::new(&reply)], wire_out)?;
                }
                match (outer?, inner?) {
                    (Flow::Open, Flow::Open) => Ok(Flow::Open),
                    _ => Ok(Flow::Ended),
                }
            }
        }
    }

    /// Appends the wire form of all of `plain` to `wire_out`.
    ///
    /// # Errors
    /// Where the layer is no longer able to send.
    pub(crate) fn send(&mut self, plain: &[IoSlice<'_>], wire_out: &mut Vec<u8>) -> Result<(), LayerError> {
        match self {
            Layer::Plain => {
                plain.iter().for_each(|slice| wire_out.extend_from_slice(slice));
                Ok(())
            }
            Layer::Tls(tls) => tls.send(plain, wire_out),
            Layer::Ws(websocket) => websocket.send(plain, wire_out),
            Layer::Wss(both) => {
                let (tls, websocket) = &mut **both;
                let bytes: usize = plain.iter().map(|slice| slice.len()).sum();
                let mut framed = Vec::with_capacity(bytes + websocket::FRAME_HEAD_BYTES_MAX);
                websocket.send(plain, &mut framed)?;
                tls.send(&[IoSlice::new(&framed)], wire_out)
            }
        }
    }

    /// Appends the layer's farewell to `wire_out` (WebSocket close, TLS close_notify).
    pub(crate) fn close(&mut self, wire_out: &mut Vec<u8>) {
        match self {
            Layer::Plain => {}
            Layer::Tls(tls) => tls.close(wire_out),
            Layer::Ws(websocket) => websocket.close(wire_out),
            Layer::Wss(both) => {
                let (tls, websocket) = &mut **both;
                let mut farewell = Vec::new();
                websocket.close(&mut farewell);
                // A peer we can no longer write to does not hear the farewell; there is nobody to tell.
                let _ = tls.send(&[IoSlice::new(&farewell)], wire_out);
                tls.close(wire_out);
            }
        }
    }

    /// The peer is authenticated: a WebSocket message may now have up to `plain_bytes_max` bytes.
    pub(crate) fn established(&mut self, plain_bytes_max: usize) {
        match self {
            Layer::Plain | Layer::Tls(_) => {}
            Layer::Ws(websocket) => websocket.set_message_bytes_max(plain_bytes_max),
            Layer::Wss(both) => both.1.set_message_bytes_max(plain_bytes_max),
        }
    }
}
