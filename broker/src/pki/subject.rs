//! Who a certificate is for.
//!
//! Owns the names in a certificate and what each kind may be used for. The broker's mapping from certificates to identities reads the same
//! names back.

use std::fmt;
use std::net::IpAddr;

use causeway_fleet::Vin;
use rcgen::{DistinguishedName, DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::DnsName;

use super::PkiError;

/// Characters of the longest name: what a common name has room for.
const NAME_BYTES_MAX: usize = 64;

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A broker, by the names and addresses that clients connect to. There is at least one.
    Server(Vec<String>),
    /// A vehicle.
    Vehicle(Vin),
    /// A backend application.
    Service(String),
    /// A person who operates the fleet.
    Operator(String),
    /// Who may have certificates made for new vehicles: a factory, a workshop.
    Claim(String),
}

impl Subject {
    /// A server with these names.
    ///
    /// # Errors
    /// There is none, or one is neither an address nor the name of a host.
    pub fn server(names: &[String]) -> Result<Subject, PkiError> {
        if names.is_empty() {
            return Err(PkiError::Name(
                "a server needs a name: give --name localhost, or what clients connect to".to_owned(),
            ));
        }
        for name in names {
            let host = name.strip_prefix("*.").unwrap_or(name);
            if name.parse::<IpAddr>().is_err() && DnsName::try_from(host).is_err() {
                return Err(PkiError::Name(format!("{name:?} is neither an address nor the name of a host")));
            }
        }
        Ok(Subject::Server(names.to_vec()))
    }

    /// A vehicle.
    ///
    /// # Errors
    /// What is wrong with its VIN.
    pub fn vehicle(vin: &str) -> Result<Subject, PkiError> {
        vin.parse().map(Subject::Vehicle).map_err(|wrong| PkiError::Name(format!("{vin:?}: {wrong}")))
    }

    /// A backend application.
    ///
    /// # Errors
    /// What is wrong with its name.
    pub fn service(name: &str) -> Result<Subject, PkiError> {
        check_name(name).map(Subject::Service)
    }

    /// A person.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn operator(name: &str) -> Result<Subject, PkiError> {
        check_name(name).map(Subject::Operator)
    }

    /// Who may enrol vehicles.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn claim(name: &str) -> Result<Subject, PkiError> {
        check_name(name).map(Subject::Claim)
    }

    /// The folder for its files, within the authority's.
    pub fn folder(&self) -> &'static str {
        match self {
            Subject::Server(_) => "servers",
            Subject::Vehicle(_) => "vehicles",
            Subject::Service(_) => "services",
            Subject::Operator(_) => "operators",
            Subject::Claim(_) => "claims",
        }
    }

    /// What its files are called.
    pub fn file_name(&self) -> String {
        match self {
            // A wildcard is no name for a file that shells see.
            Subject::Server(names) => names.first().map(|name| name.replace('*', "_")).unwrap_or_default(),
            Subject::Vehicle(vin) => vin.to_string(),
            Subject::Service(name) | Subject::Operator(name) | Subject::Claim(name) => name.clone(),
        }
    }

    /// The subject of its certificates: a common name.
    pub(super) fn distinguished_name(&self) -> DistinguishedName {
        let name = match self {
            Subject::Server(names) => names.first().cloned().unwrap_or_default(),
            Subject::Vehicle(vin) => vin.to_string(),
            Subject::Service(name) | Subject::Operator(name) => name.clone(),
            // No user, service or vehicle can be called so, whoever looks at the common name only.
            Subject::Claim(name) => format!("claim:{name}"),
        };
        // Long host names are in the alternative names, where they are looked for.
        let name = if name.len() > NAME_BYTES_MAX { "server".to_owned() } else { name };
        let mut distinguished = DistinguishedName::new();
        distinguished.push(DnType::CommonName, name);
        distinguished
    }

    pub(super) fn alternative_names(&self) -> Result<Vec<SanType>, PkiError> {
        let uri = |text: String| Ok(vec![SanType::URI(text.try_into()?)]);
        match self {
            Subject::Server(names) => names
                .iter()
                .map(|name| match name.parse() {
                    Ok(address) => Ok(SanType::IpAddress(address)),
                    Err(_) => Ok(SanType::DnsName(name.as_str().try_into()?)),
                })
                .collect(),
            Subject::Vehicle(vin) => uri(format!("urn:vin:{vin}")),
            Subject::Service(name) => uri(format!("urn:causeway:service:{name}")),
            Subject::Operator(name) => uri(format!("urn:causeway:operator:{name}")),
            Subject::Claim(name) => uri(format!("urn:causeway:claim:{name}")),
        }
    }

    pub(super) fn extended_key_usage(&self) -> ExtendedKeyUsagePurpose {
        match self {
            Subject::Server(_) => ExtendedKeyUsagePurpose::ServerAuth,
            Subject::Vehicle(_) | Subject::Service(_) | Subject::Operator(_) | Subject::Claim(_) => {
                ExtendedKeyUsagePurpose::ClientAuth
            }
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Server(names) => write!(f, "server:{}", names.first().map(String::as_str).unwrap_or_default()),
            Subject::Vehicle(vin) => write!(f, "vehicle:{vin}"),
            Subject::Service(name) => write!(f, "service:{name}"),
            Subject::Operator(name) => write!(f, "operator:{name}"),
            Subject::Claim(name) => write!(f, "claim:{name}"),
        }
    }
}

fn check_name(name: &str) -> Result<String, PkiError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) || name.starts_with(['.', '-']) {
        return Err(PkiError::Name(format!(
            "{name:?} is no name: it needs 1 to {NAME_BYTES_MAX} letters, digits, dots, underscores and hyphens, and begins with \
             neither a dot nor a hyphen"
        )));
    }
    // A certificate of a service must never be taken for a vehicle's.
    if name.parse::<Vin>().is_ok() {
        return Err(PkiError::Name(format!(
            "{name:?} is a VIN: vehicles have certificates of their own, see causewayd pki vehicle"
        )));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "telemetry", "ota-1", "a.b_c", &"x".repeat(64)] {
            assert!(Subject::service(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "a:b", "é", "../x", "1M8GDM9AXKP042788", &"x".repeat(65)] {
            assert!(Subject::service(bad).is_err(), "{bad}");
            assert!(Subject::operator(bad).is_err(), "{bad}");
            assert!(Subject::claim(bad).is_err(), "{bad}");
        }
        assert!(Subject::vehicle("1M8GDM9AXKP042788").is_ok());
        assert!(Subject::vehicle("1m8gdm9axkp042788").is_err());

        let server = |names: &[&str]| Subject::server(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert!(server(&["localhost", "10.0.0.1", "::1", "*.fleet.example"]).is_ok());
        for bad in [&[][..], &[""], &["a b"], &["localhost", "http://x"], &["*"], &["../x"]] {
            assert!(server(bad).is_err(), "{bad:?}");
        }
        assert_eq!(server(&["*.fleet.example"]).unwrap().file_name(), "_.fleet.example");
    }

    #[test]
    fn each_kind_has_its_words() {
        let rows = [
            (Subject::vehicle("1M8GDM9AXKP042788").unwrap(), "vehicle:1M8GDM9AXKP042788", "urn:vin:1M8GDM9AXKP042788"),
            (Subject::service("ota").unwrap(), "service:ota", "urn:causeway:service:ota"),
            (Subject::operator("alice").unwrap(), "operator:alice", "urn:causeway:operator:alice"),
            (Subject::claim("plant-7").unwrap(), "claim:plant-7", "urn:causeway:claim:plant-7"),
        ];
        for (subject, shown, uri) in rows {
            assert_eq!(subject.to_string(), shown);
            assert_eq!(subject.alternative_names().unwrap(), [SanType::URI(uri.try_into().unwrap())]);
        }
    }
}
