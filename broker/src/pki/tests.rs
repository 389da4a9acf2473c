//! What the authority makes, judged by rustls, and by OpenSSL where it is installed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::*;

const VIN: &str = "1M8GDM9AXKP042788";
const LIST_DAYS: u32 = 30;

struct Pki {
    folder: tempfile::TempDir,
    authority: Authority,
}

/// A certificate and its key.
struct Pair {
    issued: Issued,
    key: KeyPair,
}

impl Pki {
    fn new() -> Pki {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(folder.path(), "Test fleet", 3650, LIST_DAYS, now()).unwrap();
        Pki { folder, authority }
    }

    fn issue(&self, subject: &Subject) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair { issued: self.authority.issue(subject, &key, 90, now()).unwrap(), key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).unwrap();
        roots
    }

    /// A TLS handshake between a server with the authority's list of revoked certificates, and this client.
    fn handshake(&self, server: &Pair, client: &Pair) -> Result<(), rustls::Error> {
        let provider = || Arc::new(ring::default_provider());
        let list = CertificateRevocationListDer::from_pem_file(Authority::crl_path(self.folder.path())).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider())
            .with_crls([list])
            .enforce_revocation_expiration()
            .build()
            .unwrap();
        let (certificates, key) = server.chain();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates, key)
            .unwrap();
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let (certificates, key) = client.chain();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(certificates, key)
            .unwrap();
        let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }
}

impl Pair {
    fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.issued.certificate.clone()], PrivatePkcs8KeyDer::from(self.key.serialize_der()).into())
    }
}

fn vehicle() -> Subject {
    Subject::vehicle(VIN).unwrap()
}

fn server() -> Subject {
    Subject::server(&["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]).unwrap()
}

#[test]
fn a_revoked_certificate_is_refused_and_others_are_not() {
    let pki = Pki::new();
    let (server, good, bad) = (pki.issue(&server()), pki.issue(&vehicle()), pki.issue(&vehicle()));
    for client in
        [&good, &bad, &pki.issue(&Subject::service("ota").unwrap()), &pki.issue(&Subject::claim("plant").unwrap())]
    {
        pki.handshake(&server, client).unwrap();
    }
    pki.authority.revoke_serial(&bad.issued.serial, Reason::KeyCompromise, LIST_DAYS, now()).unwrap();
    pki.handshake(&server, &good).unwrap();
    let error = pki.handshake(&server, &bad).unwrap_err();
    assert_eq!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked));

    pki.authority.revoke_subject(&vehicle(), Reason::Unspecified, LIST_DAYS, now()).unwrap();
    assert!(pki.handshake(&server, &good).is_err());
}

#[test]
fn a_server_is_no_client_and_a_vehicle_no_server() {
    let pki = Pki::new();
    let (server, vehicle) = (pki.issue(&server()), pki.issue(&vehicle()));
    assert!(pki.handshake(&server, &server).is_err());
    assert!(pki.handshake(&vehicle, &vehicle).is_err());
    let other = Pki::new();
    assert!(pki.handshake(&server, &other.issue(&self::vehicle())).is_err(), "of another authority");
}

#[test]
fn a_list_that_is_out_of_date_is_noticed() {
    let pki = Pki::new();
    let (server, vehicle) = (pki.issue(&server()), pki.issue(&vehicle()));
    pki.authority.write_crl(1, now() - 2 * DAY).unwrap();
    assert!(pki.handshake(&server, &vehicle).is_err());
    pki.authority.write_crl(1, now()).unwrap();
    pki.handshake(&server, &vehicle).unwrap();
}

#[test]
fn certificates_say_who_and_what_for() {
    let pki = Pki::new();
    let pair = pki.issue(&vehicle());
    let (_, certificate) = x509_parser::parse_x509_certificate(&pair.issued.certificate).unwrap();
    assert_eq!(certificate.subject().to_string(), format!("CN={VIN}"));
    assert_eq!(certificate.issuer().to_string(), "CN=Test fleet");
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].to_string(), format!("URI(urn:vin:{VIN})"));
    assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!certificate.is_ca());
    assert_eq!(authority::hex(certificate.raw_serial()), pair.issued.serial);
    assert_eq!(pair.issued.serial.len(), 32);
    certificate.verify_signature(None).unwrap_err();
    let (_, authority) = x509_parser::parse_x509_certificate(pki.authority.certificate()).unwrap();
    certificate.verify_signature(Some(authority.public_key())).unwrap();
}

#[test]
fn nothing_outlives_the_authority() {
    let folder = tempfile::tempdir().unwrap();
    let made = now();
    let authority = Authority::init(folder.path(), "Short", 10, LIST_DAYS, made).unwrap();
    let key = KeyPair::generate().unwrap();
    assert_eq!(authority.issue(&vehicle(), &key, 9, made).unwrap().not_after, made + 9 * DAY);
    assert_eq!(authority.issue(&vehicle(), &key, 99, made).unwrap().not_after, made + 10 * DAY);
    let error = authority.issue(&vehicle(), &key, 1, made + 10 * DAY).unwrap_err().to_string();
    assert!(error.contains("expired at"), "{error}");
}

#[test]
fn an_authority_whose_files_do_not_belong_together_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    fs::copy(other.folder.path().join("ca.key"), pki.folder.path().join("ca.key")).unwrap();
    let error = Authority::open(pki.folder.path()).err().unwrap().to_string();
    assert!(error.contains("ca.key: this is not the key of"), "{error}");
    fs::write(pki.folder.path().join("ca.key"), "x").unwrap();
    assert!(Authority::open(pki.folder.path()).is_err());
    fs::remove_file(pki.folder.path().join("ca.key")).unwrap();
    assert!(Authority::open(pki.folder.path()).err().unwrap().to_string().contains("ca.key: No such file"));
}

fn request(key: &KeyPair, names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in names {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn requests_prove_that_the_key_is_there() {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let key = KeyPair::generate().unwrap();
    let der = request(&key, &[VIN]);
    let read = Request::from_der(&der).unwrap();
    assert_eq!(read.common_name(), VIN);
    assert_eq!(read.key().der_bytes(), key.public_key_raw());
    assert!(Request::from_text(BASE64_STANDARD.encode(&der).as_bytes()).is_ok());
    let pem = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        BASE64_STANDARD.encode(&der)
    );
    assert!(Request::from_text(pem.as_bytes()).is_ok());

    for place in 0..der.len() {
        let mut flipped = der.clone();
        flipped[place] ^= 1;
        // What is not signed may be written differently, but says the same.
        if let Ok(other) = Request::from_der(&flipped) {
            assert_eq!((other.common_name(), other.key()), (VIN, read.key()), "byte {place}");
        }
        assert!(Request::from_der(&der[..place]).is_err());
    }
    assert_eq!(Request::from_der(&request(&key, &[])).err(), Some(RequestError::CommonName));
    assert_eq!(Request::from_text(b"?").err(), Some(RequestError::Text));
    assert_eq!(Request::from_text(&vec![b'A'; REQUEST_BYTES_MAX + 1]).err(), Some(RequestError::TooLarge));
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(Request::from_der(&request(&p384, &[VIN])).is_ok());
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert!(Request::from_der(&request(&ed25519, &[VIN])).is_ok());
}

fn openssl(folder: &Path, arguments: &str) -> Option<(bool, String)> {
    let output =
        Command::new("openssl").args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null()).output().ok()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some((output.status.success(), said))
}

#[test]
fn openssl_agrees() {
    let pki = Pki::new();
    let folder = pki.folder.path();
    // Nothing to compare with where it is not installed.
    if openssl(folder, "version").is_none() {
        return;
    }
    let (good, bad) = (pki.issue(&vehicle()), pki.issue(&vehicle()));
    fs::write(folder.join("good.crt"), &good.issued.pem).unwrap();
    fs::write(folder.join("bad.crt"), &bad.issued.pem).unwrap();
    fs::write(folder.join("server.crt"), pki.issue(&server()).issued.pem).unwrap();
    pki.authority.revoke_serial(&bad.issued.serial, Reason::KeyCompromise, LIST_DAYS, now()).unwrap();

    let run = |arguments: &str| openssl(folder, arguments).unwrap();
    let (fine, said) = run("crl -in crl.pem -CAfile ca.crt -noout -text");
    assert!(fine && said.contains("verify OK") && said.contains("Key Compromise"), "{said}");
    assert!(said.contains(&bad.issued.serial.to_uppercase()), "{said}");
    let verify = "verify -x509_strict -crl_check -CAfile ca.crt -CRLfile crl.pem";
    let (fine, said) = run(&format!("{verify} -purpose sslclient good.crt"));
    assert!(fine, "{said}");
    let (fine, said) = run(&format!("{verify} -purpose sslclient bad.crt"));
    assert!(!fine && said.contains("certificate revoked"), "{said}");
    let (fine, said) = run(&format!("{verify} -purpose sslserver -verify_hostname localhost server.crt"));
    assert!(fine, "{said}");
    assert!(!run(&format!("{verify} -purpose sslserver good.crt")).0);

    // What OpenSSL makes is read; with a curve that no listener verifies, or a hash that can be forged, it is refused.
    let new = |key: &str, more: &str| {
        let (fine, said) =
            run(&format!("req -new -newkey {key} -nodes -keyout k.key -subj /CN={VIN} -outform DER -out k.csr{more}"));
        assert!(fine, "{said}");
        Request::from_der(&fs::read(folder.join("k.csr")).unwrap())
    };
    for key in ["ec -pkeyopt ec_paramgen_curve:P-256", "ec -pkeyopt ec_paramgen_curve:P-384", "rsa:2048", "ed25519"] {
        let request = new(key, "").unwrap();
        let issued = pki.authority.issue(&vehicle(), request.key(), 1, now()).unwrap();
        fs::write(folder.join("k.crt"), issued.pem).unwrap();
        let (fine, said) = run("verify -x509_strict -CAfile ca.crt k.crt");
        assert!(fine, "{key}: {said}");
        let (_, of_certificate) = run("x509 -in k.crt -noout -pubkey");
        let (_, of_key) = run("pkey -in k.key -pubout");
        assert_eq!(of_certificate, of_key, "{key}");
    }
    assert!(new("ec -pkeyopt ec_paramgen_curve:P-521", "").is_err());
    assert!(new("rsa:1024", "").is_err());
    assert!(new("rsa:1024", " -sha1").is_err());
    assert!(new("rsa:2048", " -sha1").is_err());
    let extended = new(
        "ec -pkeyopt ec_paramgen_curve:P-256",
        " -addext subjectKeyIdentifier=hash -addext basicConstraints=CA:TRUE",
    );
    assert!(extended.is_ok(), "what it wishes for is not looked at: {extended:?}");
}
