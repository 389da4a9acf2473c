//! The configuration: what can be set, what it is by default, and whether what was written makes sense.
//!
//! Owns the types, the reading of files and environment, the checks, and the schema. It binds nothing and starts nothing.

mod check;
mod document;
mod enrolment;
mod environment;
mod identity;
mod limits;
mod listener;
mod load;
mod network;
mod policy;
mod problem;
mod reference;
mod schema;
mod settings;
mod vehicles;

pub use check::Depth;
pub use enrolment::Enrolment;
pub use environment::{CONFIG_VARIABLE, PREFIX as ENVIRONMENT_PREFIX};
pub use identity::{CertificateName, CertificateVin, IdentitySettings};
pub use limits::{ClassLimits, LimitSettings};
pub use listener::{
    ClientCertificate, CrlUnknown, Listener, OverflowPolicy, ProxyProtocol, Tls, TlsVersion, Transport,
};
pub use load::{Loaded, load, load_to, parse};
pub use network::Network;
pub use policy::{PolicyError, PolicySettings, read_policy};
pub use problem::{Place, Problem, Severity};
pub use reference::{reference, sample};
pub use schema::json_schema;
pub use settings::{
    Admin, AdminTls, Anonymous, Audit, AuditedConnects, Authentication, Broker, Config, Durability, Jwt, Log,
    LogFormat, LogLevel, PrincipalKind, Registry, Storage, UnknownVehicles,
};
pub use vehicles::{CommandSettings, Origin, Presence, ShadowSettings};

#[cfg(test)]
mod tests;
