//! Whom a ban concerns.
//!
//! Owns the notation.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use causeway_fleet::Vin;

use crate::config::Network;

/// Bytes of the longest name.
const NAME_BYTES_MAX: usize = 1024;

/// Whom a ban concerns. Prints as it is written: `vehicle:VIN`, `service:NAME`, `operator:NAME`, `client:ID`, `address:IP` or
/// `address:NETWORK`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A vehicle, whatever it connects with.
    Vehicle(Vin),
    /// A program of the backend.
    Service(String),
    /// A person, or a tool of theirs.
    Operator(String),
    /// A client identifier.
    Client(String),
    /// An address, or all of a network.
    Address(String),
}

impl Subject {
    /// One address. An IPv4 address is the same in its IPv6-mapped form.
    pub fn address(address: IpAddr) -> Subject {
        Subject::Address(address.to_canonical().to_string())
    }

    /// The network, where it is more than an address.
    pub(super) fn network(&self) -> Option<Network> {
        match self {
            Subject::Address(text) if text.contains('/') => text.parse().ok(),
            _ => None,
        }
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Subject, String> {
        let wrong = || {
            format!(
                "{text:?} is nobody to ban: it has to be vehicle:VIN, service:NAME, operator:NAME, client:ID or address:IP"
            )
        };
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
            return Err(format!("{text:?}: a name has 1 to {NAME_BYTES_MAX} bytes, and none of them is zero"));
        }
        match kind {
            "vehicle" => name.parse().map(Subject::Vehicle).map_err(|error| format!("{text:?}: {error}")),
            "service" => Ok(Subject::Service(name.to_owned())),
            "operator" => Ok(Subject::Operator(name.to_owned())),
            "client" => Ok(Subject::Client(name.to_owned())),
            "address" => match name.parse::<IpAddr>() {
                Ok(address) => Ok(Subject::address(address)),
                Err(_) => name.parse::<Network>().map(|network| Subject::Address(network.to_string())),
            },
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Vehicle(vin) => write!(f, "vehicle:{vin}"),
            Subject::Service(name) => write!(f, "service:{name}"),
            Subject::Operator(name) => write!(f, "operator:{name}"),
            Subject::Client(name) => write!(f, "client:{name}"),
            Subject::Address(name) => write!(f, "address:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_prints_as_it_is_written() {
        for text in [
            "vehicle:1M8GDM9AXKP042788",
            "service:telemetry",
            "operator:ann",
            "client:a:b/c",
            "address:192.0.2.7",
            "address:10.0.0.0/8",
            "address:fd00::/8",
        ] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        assert_eq!("address:::ffff:192.0.2.7".parse::<Subject>().unwrap().to_string(), "address:192.0.2.7");
        for text in
            ["", "vehicle", "vehicle:1", "client:", "address:300.1.1.1", "address:10.0.0.1/8", "user:ann", "client:a\0"]
        {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
