//! The keys of `[enrolment]`.
//!
//! Owns names, defaults and documentation. It never opens a file.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The HTTPS listener where vehicles get their certificates, by EST (RFC 7030): /.well-known/est/cacerts, simpleenroll and simplereenroll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Enrolment {
    /// Address and port, such as "0.0.0.0:8085". Without it, there is no such listener.
    #[schemars(with = "Option<String>", extend("format" = "socket-address"), example = "0.0.0.0:8085")]
    pub bind: Option<SocketAddr>,
    /// PEM file: the certificate of this listener, followed by its intermediates. Needed with bind; read again when it
    /// changes.
    #[schemars(example = "server.crt")]
    pub certificate_file: Option<PathBuf>,
    /// PEM file: the private key of the certificate. Needed with bind.
    #[schemars(example = "server.key")]
    pub key_file: Option<PathBuf>,
    /// The folder that `causewayd pki init` made: the authority that signs. Needed with bind. The broker writes into it what it issues.
    #[schemars(example = &"pki")]
    pub authority_directory: Option<PathBuf>,
    /// Days that a vehicle's certificate is good for. Vehicles renew it before that.
    #[schemars(range(min = 1, max = 36_500))]
    pub validity_days: u32,
    /// Whether only vehicles of the registry get certificates. Else, whoever has a claim certificate gets one for any VIN that the registry
    /// does not know. Of those that it knows, a claim certificate enrols the provisioned ones.
    pub known_vehicles_only: bool,
}

impl Default for Enrolment {
    fn default() -> Self {
        Enrolment {
            bind: None,
            certificate_file: None,
            key_file: None,
            authority_directory: None,
            validity_days: 90,
            known_vehicles_only: true,
        }
    }
}
