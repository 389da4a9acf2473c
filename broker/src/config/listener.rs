//! One listener: where it binds, what it speaks, and what it accepts.
//!
//! Owns the keys of a `[[listener]]` and its `[listener.tls]`. It never opens a socket or a certificate.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Anonymous, Authentication, Network};

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// What logs and metrics call it. Each listener needs a name of its own.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// Address and port, such as `0.0.0.0:1883` or `[::]:1883`. Port 0 lets the system choose.
    #[schemars(with = "String", extend("format" = "socket-address"))]
    pub bind: SocketAddr,
    /// What is spoken below MQTT.
    pub transport: Transport,
    /// Certificates. Needed by, and only allowed with, the transports tls and wss.
    pub tls: Option<Tls>,
    /// Whether connections begin with a PROXY protocol header, which tells the client's real address.
    pub proxy_protocol: ProxyProtocol,
    /// Addresses or networks (such as "10.0.0.0/8") whose PROXY headers are believed; connections from elsewhere are closed.
    /// Empty: everybody's.
    #[schemars(extend("items" = {"type": "string", "format": "network"}))]
    pub proxy_trusted: Vec<Network>,
    /// The HTTP path of the transports ws and wss. The path "/" always works, too.
    #[schemars(extend("format" = "url-path"))]
    pub websocket_path: String,
    /// Connections open at the same time, handshakes included. More are closed at once.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_max: usize,
    /// Seconds from the TCP connection to a complete CONNECT (TLS and WebSocket handshakes included). Slower clients are closed.
    #[schemars(range(min = 1, max = 600))]
    pub connect_timeout_seconds: u64,
    /// Connections that have not completed their CONNECT at the same time. Four times as many wait for their turn, for
    /// connect_timeout_seconds at most; more are closed at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub handshakes_pending_max: usize,
    /// Whether handshakes here have a thread of their own, as quick as that of messages: they do not wait for those of other listeners. For
    /// services, so that a storm of vehicles at their listener does not keep services out.
    pub handshakes_ahead: bool,
    /// Who may connect here without credentials, if different from authentication.anonymous.
    #[schemars(example = &"never")]
    pub anonymous: Option<Anonymous>,
    /// What becomes of a message that the full queue of a session from here has no room for.
    pub overflow: OverflowPolicy,
}

/// What becomes of a message that a full queue has no room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OverflowPolicy {
    /// It is refused, and its publisher is told: 0x97 (quota exceeded).
    #[default]
    RefuseNew,
    /// The oldest messages of the queue are dropped, counted, and told on $SYS/broker/overflow/{client identifier}.
    DropOldest,
}

impl Default for Listener {
    fn default() -> Self {
        Listener {
            name: "mqtt".to_owned(),
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)),
            transport: Transport::Tcp,
            tls: None,
            proxy_protocol: ProxyProtocol::Off,
            proxy_trusted: Vec::new(),
            websocket_path: "/mqtt".to_owned(),
            connections_max: 1_000_000,
            connect_timeout_seconds: 10,
            handshakes_pending_max: 4096,
            handshakes_ahead: false,
            anonymous: None,
            overflow: OverflowPolicy::RefuseNew,
        }
    }
}

impl Listener {
    /// Whether clients may connect here without credentials.
    pub fn anonymous_allowed(&self, authentication: &Authentication) -> bool {
        self.anonymous.unwrap_or(authentication.anonymous).allows(self.bind)
    }

    /// Whether it asks clients for certificates, which say who they are.
    pub fn asks_for_certificates(&self) -> bool {
        self.transport.is_encrypted()
            && self.tls.as_ref().is_some_and(|tls| tls.client_certificate != ClientCertificate::None)
    }

    /// Whether it is bound to a loopback address, which only programs of the same machine reach.
    pub fn is_loopback(&self) -> bool {
        self.bind.ip().to_canonical().is_loopback()
    }
}

/// What is spoken below MQTT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// MQTT over TCP.
    #[default]
    Tcp,
    /// MQTT over TLS over TCP.
    Tls,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
}

impl Transport {
    /// Whether there is TLS in it.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// Whether there is WebSocket in it.
    pub fn is_websocket(self) -> bool {
        matches!(self, Transport::Ws | Transport::Wss)
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        })
    }
}

/// Certificates of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file: the listener's certificate, followed by its intermediates.
    #[schemars(example = "server.crt")]
    pub certificate_file: PathBuf,
    /// PEM file: the private key of the certificate.
    #[schemars(example = "server.key")]
    pub key_file: PathBuf,
    /// PEM file: the authorities whose client certificates are accepted. Needed unless client_certificate is "none".
    #[serde(default)]
    #[schemars(example = "vehicles-ca.crt")]
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients must show a certificate.
    #[serde(default)]
    pub client_certificate: ClientCertificate,
    /// PEM file: the certificate revocation lists of these authorities, and of those between. Who shows a certificate that is on one is
    /// refused, and who is connected with it is closed, within a second of the file's change.
    #[serde(default)]
    #[schemars(example = "vehicles-crl.pem")]
    pub crl_file: Option<PathBuf>,
    /// With a crl_file: what becomes of a client with a certificate of an authority that has no list in it.
    #[serde(default)]
    pub crl_unknown: CrlUnknown,
    /// The oldest version of TLS that is accepted.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// They are not asked for one.
    #[default]
    None,
    /// They are asked, and may have none; a wrong one is refused.
    Optional,
    /// Without a valid one, the TLS handshake fails.
    Required,
}

/// What becomes of a client of whose certificate nobody knows whether it is revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CrlUnknown {
    /// It is refused. So is one with a certificate of an authority between that has no list.
    #[default]
    Refuse,
    /// It is let in.
    Allow,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3
    #[serde(rename = "1.3")]
    V1_3,
}

/// Whether connections begin with a PROXY protocol header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// They do not.
    #[default]
    Off,
    /// They do, in version 1 (text).
    V1,
    /// They do, in version 2 (binary).
    V2,
    /// They do, in either version.
    Any,
}
