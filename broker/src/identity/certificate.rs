//! What a client certificate says about who shows it.
//!
//! Owns the mapping from names in a certificate to a principal, and the name of a certificate as a credential. It verifies nothing: the
//! certificates that come here passed the TLS handshake.
//!
//! A certificate that names two different principals, in whatever way, names nobody.

use std::sync::Arc;

use causeway_fleet::{Groups, Identity, Principal, Vin};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::names::{check_name, check_vin};
use crate::config::{CertificateName, CertificateVin, IdentitySettings};
use crate::shown::shown;

/// Bytes of the issuer's hash that stand in the name of a credential.
const ISSUER_HASH_BYTES: usize = 8;

/// Who a certificate is for, and until when.
///
/// # Errors
/// Why it is for nobody who may connect here, for the log and the client.
pub fn identify(certificate: &CertificateDer<'_>, settings: &IdentitySettings) -> Result<Identity, String> {
    let own = parse(certificate)?;
    let ends = own.validity().not_after.timestamp();
    Ok(Identity {
        principal: principal_of(&own, settings)?,
        groups: Groups::default(),
        credential: Some(credential_of(own.raw_serial(), own.issuer().as_raw())),
        // The second that stands there is the last one.
        valid_until_ms: Some(u64::try_from(ends).map_or(0, |seconds| seconds.saturating_add(1).saturating_mul(1000))),
    })
}

/// What this certificate is called where it is revoked: see [`credential_of`].
///
/// # Errors
/// It cannot be read.
pub fn credential_in(certificate: &CertificateDer<'_>) -> Result<Arc<str>, String> {
    let own = parse(certificate)?;
    Ok(credential_of(own.raw_serial(), own.issuer().as_raw()))
}

/// What a certificate is called where it is revoked: `x509:SERIAL@ISSUER`, the serial number in lower-case hexadecimal digits, two a byte
/// and without leading zero bytes, and the first 8 bytes of the SHA-256 of the issuer's name (DER).
pub fn credential_of(serial: &[u8], issuer: &[u8]) -> Arc<str> {
    let zeros = serial.iter().take(serial.len().saturating_sub(1)).take_while(|byte| **byte == 0).count();
    let issuer = digest(&SHA256, issuer);
    Arc::from(format!("x509:{}@{}", hex(&serial[zeros..]), hex(&issuer.as_ref()[..ISSUER_HASH_BYTES])))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err("the certificate cannot be read".to_owned()),
    }
}

fn principal_of(certificate: &X509Certificate<'_>, settings: &IdentitySettings) -> Result<Principal, String> {
    let by_uri = principal_by_uri(certificate, settings)?;
    let common_name = common_name(certificate)?;
    let vin: Option<Vin> = common_name.and_then(|name| name.parse().ok());
    match (by_uri, vin) {
        (Some(Principal::Vehicle(named)), Some(vin)) if vin == named => Ok(Principal::Vehicle(vin)),
        (Some(principal), Some(vin)) => {
            Err(format!("the certificate is for {principal}, and its common name is the VIN {vin}"))
        }
        (Some(principal), None) => Ok(principal),
        (None, Some(vin)) if settings.certificate_vin == CertificateVin::SanUri => Err(format!(
            "the VIN {vin} is only the common name of the certificate: it must stand in a SAN URI, urn:vin:{vin}"
        )),
        (None, Some(vin)) => check_vin(vin.as_str(), settings.vin_check_digit).map(Principal::Vehicle),
        (None, None) => principal_by_name(common_name, settings.certificate_name),
    }
}

/// The one that the URIs among the alternative names agree on.
fn principal_by_uri(
    certificate: &X509Certificate<'_>,
    settings: &IdentitySettings,
) -> Result<Option<Principal>, String> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| format!("the alternative names of the certificate cannot be read: {error}"))?;
    let mut found: Option<Principal> = None;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let principal = match name {
            GeneralName::URI(uri) => principal_of_uri(uri, settings)?,
            GeneralName::Invalid(..) => return Err("an alternative name of the certificate is malformed".to_owned()),
            _ => None,
        };
        match (&found, principal) {
            (_, None) => {}
            (Some(first), Some(other)) if *first != other => {
                return Err(format!("the certificate is for {first} and for {other}"));
            }
            (_, principal) => found = principal,
        }
    }
    Ok(found)
}

/// None where the URI is not about who the client is.
fn principal_of_uri(uri: &str, settings: &IdentitySettings) -> Result<Option<Principal>, String> {
    if let Some(vin) = without_prefix(uri, "urn:vin:") {
        if settings.certificate_vin == CertificateVin::Cn {
            return Ok(None);
        }
        return check_vin(vin, settings.vin_check_digit).map(|vin| Some(Principal::Vehicle(vin)));
    }
    let Some(rest) = without_prefix(uri, "urn:causeway:") else {
        return Ok(None);
    };
    match rest.split_once(':') {
        Some(("service", name)) => check_name(name).map(|()| Some(Principal::service(name))),
        Some(("operator", name)) => check_name(name).map(|()| Some(Principal::operator(name))),
        Some(("claim", name)) => {
            Err(format!("a claim certificate ({}) is for enrolment, not for messages", shown(name)))
        }
        _ => Err(format!("the certificate has a URI that says nothing known: {}", shown(uri))),
    }
}

/// What follows on the beginning of a URN, which may be of any case.
fn without_prefix<'a>(uri: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = uri.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Result<Option<&'a str>, String> {
    let mut names = certificate.subject().iter_common_name();
    let (first, second) = (names.next(), names.next());
    match (first, second) {
        (None, _) => Ok(None),
        (Some(name), None) => match name.as_str() {
            Ok(name) => Ok(Some(name)),
            Err(_) => Err("the common name of the certificate is no UTF-8 text".to_owned()),
        },
        (Some(_), Some(_)) => Err("the certificate has several common names".to_owned()),
    }
}

fn principal_by_name(name: Option<&str>, meaning: CertificateName) -> Result<Principal, String> {
    let name = name.ok_or("the certificate names nobody: it has neither a SAN URI nor a common name")?;
    check_name(name)?;
    // What the broker's own authority calls those who may only enrol.
    if name.starts_with("claim:") {
        return Err(format!("a claim certificate ({}) is for enrolment, not for messages", shown(name)));
    }
    match meaning {
        CertificateName::Service => Ok(Principal::service(name)),
        CertificateName::Operator => Ok(Principal::operator(name)),
        CertificateName::Nobody => Err(format!("the certificate names nobody: {} is no VIN", shown(name))),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber, date_time_ymd};

    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";
    const OTHER: &str = "WVWZZZ1JZ3W386752";

    fn certificate(common_names: &[&str], uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (index, name) in common_names.iter().enumerate() {
            // rcgen has each type once; the second is written with its number.
            let kind = if index == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
            params.distinguished_name.push(kind, *name);
        }
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.serial_number = Some(SerialNumber::from(vec![0, 0x8F, 0]));
        params.not_after = date_time_ymd(2040, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn found(common_names: &[&str], uris: &[&str], settings: &IdentitySettings) -> String {
        match identify(&certificate(common_names, uris), settings) {
            Ok(identity) => identity.principal.to_string(),
            Err(why) => format!("refused: {why}"),
        }
    }

    #[track_caller]
    fn check(settings: &IdentitySettings, rows: &[(&[&str], &[&str], &str)]) {
        for (common_names, uris, expected) in rows {
            let found = found(common_names, uris, settings);
            assert!(found.starts_with(expected), "{common_names:?} {uris:?}: {found}");
        }
    }

    #[test]
    fn a_certificate_is_for_whom_it_names() {
        let vin_uri = format!("urn:vin:{VIN}");
        let other_uri = format!("urn:vin:{OTHER}");
        let vehicle = format!("vehicle:{VIN}");
        check(
            &IdentitySettings::default(),
            &[
                (&[], &[&vin_uri], &vehicle),
                (&[VIN], &[], &vehicle),
                (&[VIN], &[&vin_uri], &vehicle),
                (&["TCU 17"], &["https://example.com/", &vin_uri, &vin_uri], &vehicle),
                (&[], &[&format!("URN:VIN:{VIN}")], &vehicle),
                (&["ota"], &[], "service:ota"),
                (&["x"], &["urn:causeway:service:ota"], "service:ota"),
                (&["x"], &["urn:causeway:operator:olga"], "operator:olga"),
                (&["operator:olga"], &[], "service:operator:olga"),
                (&[], &[], "refused: the certificate names nobody"),
                (&[""], &[], "refused: the name is empty"),
                (&["+"], &[], "refused: the name"),
                (&["a/b"], &[], "refused: the name"),
                (&["a", "b"], &[], "refused: the certificate has several common names"),
                (&[OTHER], &[&vin_uri], "refused: the certificate is for vehicle:"),
                (&[VIN], &["urn:causeway:service:ota"], "refused: the certificate is for service:ota"),
                (&[], &[&vin_uri, &other_uri], "refused: the certificate is for vehicle:"),
                (&[], &[&vin_uri, "urn:causeway:service:ota"], "refused: the certificate is for vehicle:"),
                (&[], &["urn:vin:1m8gdm9axkp042788"], "refused: \"1m8gdm9axkp042788\" is no VIN"),
                (&[], &["urn:vin:"], "refused: \"\" is no VIN"),
                (&[], &["urn:causeway:service:"], "refused: the name is empty"),
                (&[], &["urn:causeway:service:a/b"], "refused: the name"),
                (&[], &["urn:causeway:shard:1"], "refused: the certificate has a URI that says nothing known"),
                (&[], &["urn:causeway:claim:plant-7"], "refused: a claim certificate"),
                (&[], &[&vin_uri, "urn:causeway:claim:plant-7"], "refused: a claim certificate"),
                (&["claim:plant-7"], &[], "refused: a claim certificate"),
            ],
        );
    }

    #[test]
    fn the_mapping_is_configured() {
        let uri = format!("urn:vin:{VIN}");
        let vehicle = format!("vehicle:{VIN}");
        let settings = |certificate_vin| IdentitySettings { certificate_vin, ..IdentitySettings::default() };
        check(
            &settings(CertificateVin::SanUri),
            &[(&[], &[&uri], &vehicle), (&[VIN], &[], "refused: the VIN"), (&[VIN], &[&uri], &vehicle)],
        );
        check(
            &settings(CertificateVin::Cn),
            &[(&[VIN], &[], &vehicle), (&["ota"], &[&uri], "service:ota"), (&[OTHER], &[&uri], "vehicle:WVW")],
        );
        let operators = IdentitySettings { certificate_name: CertificateName::Operator, ..IdentitySettings::default() };
        check(&operators, &[(&["olga"], &[], "operator:olga")]);
        let nobody = IdentitySettings { certificate_name: CertificateName::Nobody, ..IdentitySettings::default() };
        check(&nobody, &[(&["olga"], &[], "refused: the certificate names nobody"), (&[VIN], &[], &vehicle)]);
        let digit = IdentitySettings { vin_check_digit: true, ..IdentitySettings::default() };
        check(&digit, &[(&[VIN], &[], &vehicle), (&[OTHER], &[], "refused: the check digit")]);
        check(&digit, &[(&[], &[&format!("urn:vin:{OTHER}")], "refused: the check digit")]);
    }

    #[test]
    fn a_certificate_ends_and_can_be_revoked() {
        let identity = identify(&certificate(&[VIN], &[]), &IdentitySettings::default()).unwrap();
        assert_eq!(identity.valid_until_ms, Some(2_208_988_801_000));
        let credential = identity.credential.unwrap();
        let (serial, issuer) = credential.split_once('@').unwrap();
        assert_eq!(serial, "x509:8f00");
        assert_eq!(issuer.len(), 16);
        assert_eq!(&*credential_of(&[0], b""), "x509:00@e3b0c44298fc1c14");
    }

    #[test]
    fn bytes_are_no_certificate() {
        let der = certificate(&[VIN], &[]);
        let settings = IdentitySettings::default();
        for length in 0..der.len() {
            assert!(identify(&CertificateDer::from(&der[..length]), &settings).is_err());
        }
        let longer = [&der[..], b"x"].concat();
        assert!(identify(&CertificateDer::from(longer), &settings).is_err());
    }
}
