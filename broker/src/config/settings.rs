//! The sections of the configuration, with their defaults.
//!
//! Owns names, units, ranges and documentation of the keys: the schema, the reference and the error messages are made
//! from what stands here. It never reads a file.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ClientCertificate, CommandSettings, Enrolment, IdentitySettings, LimitSettings, Listener, Origin, PolicySettings,
    Presence, ShadowSettings, Tls, TlsVersion,
};

/// Configuration of causewayd.
///
/// Relative paths are relative to the folder of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect. At least one is needed.
    pub listener: Vec<Listener>,
    /// How clients prove who they are.
    pub authentication: Authentication,
    /// Who may do what with which topics.
    pub policy: PolicySettings,
    /// Which vehicles there are.
    pub registry: Registry,
    /// What client certificates say about who a client is.
    pub identity: IdentitySettings,
    /// How much of everything there may be. Reaching a limit is counted, and answered to the client.
    pub limits: LimitSettings,
    /// Which vehicles are connected, told on $presence/{vin}.
    pub presence: Presence,
    /// The shadows of vehicles: what is wanted of each, and what it last said.
    pub shadow: ShadowSettings,
    /// Commands to vehicles: how many may be pending, and for how long.
    pub commands: CommandSettings,
    /// Where messages come from, told to services and operators.
    pub origin: Origin,
    /// The HTTP listener for metrics and health checks.
    pub admin: Admin,
    /// The HTTPS listener where vehicles get their certificates.
    pub enrolment: Enrolment,
    /// What is logged, to standard error.
    pub log: Log,
    /// Where state is kept.
    pub storage: Storage,
    /// Who did what, and what was decided: lines that are chained to each other.
    pub audit: Audit,
    /// The process itself.
    pub broker: Broker,
}

impl Config {
    /// Whether there is a listener where clients prove by a certificate who they are.
    pub fn asks_for_certificates(&self) -> bool {
        self.listener.iter().any(Listener::asks_for_certificates)
    }
}

/// How clients prove who they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Authentication {
    /// Who may connect without credentials. A listener can say otherwise.
    pub anonymous: Anonymous,
    /// File of users and password hashes, written by `causewayd passwd` and read again on SIGHUP, when those are closed who are not in it
    /// any more, or with another password. A user named vehicle:VIN or operator:NAME is that; all others are services. Without it, there
    /// are no users.
    #[schemars(example = &"users")]
    pub password_file: Option<PathBuf>,
    /// Whether MQTT 5 clients may log in with the authentication method SCRAM-SHA-256, which never sends the password.
    pub scram: bool,
    /// Passwords verified at the same time, each by a thread of its own. Each takes 19 MiB of memory, which the thread
    /// keeps, and some 20 ms of a processor.
    #[schemars(range(min = 1, max = 1024))]
    pub verifications_concurrent_max: usize,
    /// Passwords waiting to be verified. More are refused: CONNACK 0x89 (server busy; 3 in MQTT 3.x). The default is what
    /// two threads verify within five seconds.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub verifications_pending_max: usize,
    /// Seconds that a password may wait to be verified. After that: CONNACK 0x89 (server busy; 3 in MQTT 3.x). It
    /// counts from the complete CONNECT, where connect_timeout_seconds ends.
    #[schemars(range(min = 1, max = 600))]
    pub verification_timeout_seconds: u64,
    /// Signed tokens (JWT), instead of passwords: as the password of a CONNECT, with any user name or none, or by the authentication
    /// method JWT, which takes re-authentication with a new token. The connection ends with its token.
    pub jwt: Option<Jwt>,
}

impl Default for Authentication {
    fn default() -> Self {
        Authentication {
            anonymous: Anonymous::Loopback,
            password_file: None,
            scram: true,
            verifications_concurrent_max: 2,
            verifications_pending_max: 500,
            verification_timeout_seconds: 5,
            jwt: None,
        }
    }
}

/// Signed tokens. Their algorithms are EdDSA (Ed25519), ES256 and RS256, as their keys are; they need `exp`, and `nbf` is heeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// File of the public keys that tokens are signed with: PEM, or a JSON Web Key Set. Read again when it changes, and on SIGHUP.
    #[schemars(example = "token-keys.json")]
    pub keys_file: PathBuf,
    /// What `iss` of a token must be. Without it, whoever has one of the keys may have issued it.
    #[serde(default)]
    #[schemars(example = &"https://identity.example")]
    pub issuer: Option<String>,
    /// What `aud` of a token must have. Without it, tokens with `aud` are for others, and refused.
    #[serde(default)]
    #[schemars(example = &"mqtt")]
    pub audience: Option<String>,
    /// Seconds by which the clock of the issuer may differ.
    #[serde(default = "default_leeway")]
    #[schemars(range(min = 0, max = 600))]
    pub leeway_seconds: u64,
    /// The claim that says who the client is.
    #[serde(default = "default_claim")]
    #[schemars(length(min = 1, max = 64))]
    pub principal_claim: String,
    /// What stands in that claim.
    #[serde(default)]
    pub principal_kind: PrincipalKind,
    /// The claim with the VIN in tokens of vehicles: a token that has it is a vehicle's, whatever principal_claim says.
    #[serde(default)]
    #[schemars(example = &"vin")]
    pub vin_claim: Option<String>,
}

fn default_leeway() -> u64 {
    30
}

fn default_claim() -> String {
    "sub".to_owned()
}

/// What stands in the claim that says who a client is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// One of vehicle:VIN, service:NAME and operator:NAME.
    #[default]
    Prefixed,
    /// A VIN.
    Vehicle,
    /// The name of a service.
    Service,
    /// The name of an operator.
    Operator,
}

/// Who may connect without credentials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Nobody.
    Never,
    /// Clients of listeners that are bound to a loopback address.
    #[default]
    Loopback,
    /// Everybody who reaches the listener.
    Always,
}

impl Anonymous {
    /// Whether a listener bound to `bind` lets clients in without credentials.
    pub fn allows(self, bind: SocketAddr) -> bool {
        match self {
            Anonymous::Never => false,
            Anonymous::Loopback => bind.ip().to_canonical().is_loopback(),
            Anonymous::Always => true,
        }
    }
}

/// Which vehicles there are. They are kept in the data directory, and changed with `causewayd vehicle`, `causewayd group` and the
/// administration listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// What becomes of a vehicle that proves who it is, and is not in the registry.
    pub unknown_vehicles: UnknownVehicles,
}

/// What becomes of a vehicle that is not in the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownVehicles {
    /// It is not let in.
    #[default]
    Refuse,
    /// It is let in, without groups, and stays unknown.
    Allow,
    /// It is let in, and is in the registry from then on: active, without groups.
    Register,
}

/// The HTTP listener: /metrics, /live, /ready, and below /v1 backups and the registry (described at /v1/openapi.json). What stands below
/// /v1 needs a token or an operator's certificate where there is a token_file or a client_ca_file; where there is neither, it works on a
/// loopback address only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port, such as "127.0.0.1:9883". Without it, there is no such listener. Everybody who reaches it can read the metrics.
    #[schemars(with = "Option<String>", extend("format" = "socket-address"), example = "127.0.0.1:9883")]
    pub bind: Option<SocketAddr>,
    /// File of names, roles and hashes of tokens, written by `causewayd admin-token` and read again when it has changed.
    #[schemars(example = &"admin-tokens")]
    pub token_file: Option<PathBuf>,
    /// Certificates of the listener: with them, it speaks HTTPS only.
    pub tls: Option<AdminTls>,
}

impl Admin {
    /// Whether operators can prove who they are by a certificate.
    pub fn has_operators(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some())
    }

    /// Whether anybody can prove who they are.
    pub fn has_credentials(&self) -> bool {
        self.token_file.is_some() || self.has_operators()
    }
}

/// Certificates of the administration listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminTls {
    /// PEM file: the listener's certificate, followed by its intermediates.
    #[schemars(example = "admin.crt")]
    pub certificate_file: PathBuf,
    /// PEM file: the private key of the certificate.
    #[schemars(example = "admin.key")]
    pub key_file: PathBuf,
    /// PEM file: the authorities whose client certificates are taken for operators, where they say so.
    #[serde(default)]
    #[schemars(example = "operators-ca.crt")]
    pub client_ca_file: Option<PathBuf>,
    /// PEM file: the certificate revocation lists of these authorities, and of those between. An operator's certificate that is on one is good for
    /// nothing from the next request on.
    #[serde(default)]
    #[schemars(example = "crl.pem")]
    pub crl_file: Option<PathBuf>,
}

impl AdminTls {
    /// As a listener for clients has them: a client may have a certificate where there are authorities for them.
    pub(crate) fn to_listener(&self) -> Tls {
        let client_certificate =
            if self.client_ca_file.is_some() { ClientCertificate::Optional } else { ClientCertificate::None };
        Tls {
            certificate_file: self.certificate_file.clone(),
            key_file: self.key_file.clone(),
            client_ca_file: self.client_ca_file.clone(),
            client_certificate,
            crl_file: self.crl_file.clone(),
            crl_unknown: Default::default(),
            min_version: TlsVersion::default(),
        }
    }
}

/// What is logged, to standard error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// The least important level that is logged.
    pub level: LogLevel,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for eyes.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// The least important level that is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// The broker cannot do its work.
    Error,
    /// Something is wrong and was survived.
    Warn,
    /// Starting, stopping, and who connects, leaves or is refused.
    #[default]
    Info,
    /// What each connection does, without payloads.
    Debug,
    /// Everything.
    Trace,
}

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Folder of everything that must survive a restart: sessions, subscriptions, queued and retained messages. One process at a
    /// time can have it. Without it, all of that is lost when the process ends.
    #[schemars(length(min = 1), example = &"/var/lib/causeway")]
    pub data_directory: Option<PathBuf>,
    /// When a message counts as kept, so that it can be acknowledged.
    pub durability: Durability,
    /// Bytes of the disk that are left to others. With less free than that, new messages of QoS 1 and 2 are refused (PUBACK or PUBREC
    /// 0x97, quota exceeded), while acknowledgements, and with them room, go on.
    #[schemars(range(max = 1_099_511_627_776u64))]
    pub free_space_floor_bytes: u64,
    /// Bytes of one file of the log, set aside when it begins. One more is kept in reserve.
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub segment_bytes: u64,
    /// How many times the bytes of the messages that are still needed the log may take. A smaller factor has them copied more often.
    #[schemars(range(min = 1.2, max = 100.0))]
    pub disk_factor: f64,
}

impl Default for Storage {
    fn default() -> Self {
        Storage {
            data_directory: None,
            durability: Durability::Fsync,
            free_space_floor_bytes: 256 << 20,
            segment_bytes: 64 << 20,
            disk_factor: 2.0,
        }
    }
}

/// When a message counts as kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once the disk has it: acknowledged messages survive the power going.
    #[default]
    Fsync,
    /// Once the system has it: acknowledged messages survive the end of the process, not the power going.
    Os,
}

/// Who did what, and what was decided: lines that are chained to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Folder of the audit log, `audit-*.jsonl`, which `causewayd audit` verifies and shows. It must not be the data directory itself.
    /// Without it, there is none.
    #[schemars(length(min = 1), example = &"/var/lib/causeway/audit")]
    pub directory: Option<PathBuf>,
    /// Which connections that are let in have a line. Those that are refused always have.
    pub connects: AuditedConnects,
    /// Bytes of a file. Behind them, the next one begins.
    #[schemars(range(min = 4096, max = 1_073_741_824))]
    pub file_bytes_max: u64,
    /// Files that are kept; older ones are removed. 0 keeps all.
    #[schemars(range(max = 1_000_000))]
    pub files_kept: usize,
}

impl Default for Audit {
    fn default() -> Self {
        Audit { directory: None, connects: AuditedConnects::Refused, file_bytes_max: 16 << 20, files_kept: 64 }
    }
}

/// Which connections have a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditedConnects {
    /// Those that are refused, and those of operators.
    #[default]
    Refused,
    /// All, those of vehicles included.
    All,
}

/// The process itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Broker {
    /// Shards: threads that hold sessions, each with a log of its own. As many as there are processor cores for the broker. A data directory is
    /// made for one number of shards, and refused with another.
    #[schemars(range(min = 1, max = 64))]
    pub shards: usize,
    /// Seconds that clients are given to take their DISCONNECT when the process stops.
    #[schemars(range(min = 0, max = 600))]
    pub shutdown_timeout_seconds: u64,
}

impl Default for Broker {
    fn default() -> Self {
        Broker { shards: 1, shutdown_timeout_seconds: 10 }
    }
}
