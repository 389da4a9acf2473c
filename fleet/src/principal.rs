//! Who is connected.
//!
//! Owns the name under which everything is decided and logged. It never holds a secret.

use std::fmt;
use std::sync::Arc;

use crate::Vin;

/// Who a connection speaks for, once that has been proven.
///
/// Cloning is cheap: the name is shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Principal {
    /// Nobody in particular: the listener lets clients in without credentials.
    Anonymous,
    /// The vehicle with this identification number. Its topics are mounted.
    Vehicle(Vin),
    /// A program of the backend.
    Service(Arc<str>),
    /// A person who runs the fleet or the broker, or a tool of theirs.
    Operator(Arc<str>),
    /// Another shard of this broker, by its number. No connection from outside ever has it.
    Shard(u16),
}

impl Principal {
    /// The service of this name.
    pub fn service(name: &str) -> Principal {
        Principal::Service(Arc::from(name))
    }

    /// The operator of this name.
    pub fn operator(name: &str) -> Principal {
        Principal::Operator(Arc::from(name))
    }

    /// The name, where it is a service's or an operator's.
    pub fn name(&self) -> Option<&str> {
        match self {
            Principal::Anonymous | Principal::Vehicle(_) | Principal::Shard(_) => None,
            Principal::Service(name) | Principal::Operator(name) => Some(name),
        }
    }

    /// The identification number, where it is a vehicle.
    pub fn vin(&self) -> Option<&Vin> {
        match self {
            Principal::Vehicle(vin) => Some(vin),
            Principal::Anonymous | Principal::Service(_) | Principal::Operator(_) | Principal::Shard(_) => None,
        }
    }

    /// Who a user of a password file is: `operator:NAME` and `vehicle:VIN` say so themselves, all others are services.
    pub fn of_user(user: &str) -> Principal {
        if let Some(Ok(vin)) = user.strip_prefix("vehicle:").map(str::parse) {
            return Principal::Vehicle(vin);
        }
        match user.strip_prefix("operator:").filter(|name| !name.is_empty()) {
            Some(name) => Principal::operator(name),
            None => Principal::service(user.strip_prefix("service:").filter(|name| !name.is_empty()).unwrap_or(user)),
        }
    }
}

/// `anonymous`, `vehicle:VIN`, `service:NAME`, `operator:NAME` or `shard:NUMBER`. Control characters of the name are escaped, so
/// that one principal is one word of a log line.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Anonymous => f.write_str("anonymous"),
            Principal::Vehicle(vin) => write!(f, "vehicle:{vin}"),
            Principal::Service(name) => write!(f, "service:{}", name.escape_debug()),
            Principal::Operator(name) => write!(f, "operator:{}", name.escape_debug()),
            Principal::Shard(number) => write!(f, "shard:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";

    #[test]
    fn a_principal_prints_as_one_word() {
        assert_eq!(Principal::Anonymous.to_string(), "anonymous");
        assert_eq!(Principal::Vehicle(VIN.parse().unwrap()).to_string(), "vehicle:1M8GDM9AXKP042788");
        assert_eq!(Principal::service("alice").to_string(), "service:alice");
        assert_eq!(Principal::operator("olga").to_string(), "operator:olga");
        assert_eq!(Principal::Shard(3).to_string(), "shard:3");
        assert_eq!(Principal::service("a\nb").to_string(), "service:a\\nb");
    }

    #[test]
    fn a_user_name_says_who_it_is() {
        for (user, principal) in [
            ("alice", Principal::service("alice")),
            ("service:alice", Principal::service("alice")),
            ("operator:olga", Principal::operator("olga")),
            ("vehicle:1M8GDM9AXKP042788", Principal::Vehicle(VIN.parse().unwrap())),
            ("vehicle:x", Principal::service("vehicle:x")),
            ("operator:", Principal::service("operator:")),
        ] {
            assert_eq!(Principal::of_user(user), principal, "{user}");
        }
    }

    #[test]
    fn only_services_and_operators_have_names() {
        assert_eq!(Principal::service("alice").name(), Some("alice"));
        assert_eq!(Principal::Anonymous.name(), None);
        assert_eq!(Principal::Vehicle(VIN.parse().unwrap()).vin().map(Vin::as_str), Some(VIN));
    }
}
