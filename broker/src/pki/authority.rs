//! The authority: makes certificates, revokes them, and says which it revoked.
//!
//! Owns its private key while it is open, and the rules for what it signs: P-256, nothing that outlives it, every serial number random and
//! written down before anybody has the certificate.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SerialNumber,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::files::{Access, Overwrite, at, lock, sync, write};
use super::index::{Entry, Event, HEADER, Index, Reason};
use super::stamp::{DAY, moment, stamp};
use super::{PkiError, Subject};
use crate::auth::hashing;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const INDEX: &str = "index";
const CRL: &str = "crl.pem";

/// Certificates are good from before they are made: clocks of vehicles differ.
const BACKDATED_SECONDS: i64 = 3600;
/// How long an expired certificate stays in the list of revoked ones: clocks differ, and RFC 5280 wants it in one list after its end.
const LISTED_AFTER_EXPIRY_SECONDS: i64 = 60 * DAY;
/// Bytes of a serial number: more random bits than RFC 5280 and the CA/Browser Forum ask for, fewer than the 20 bytes allowed.
const SERIAL_BYTES: usize = 16;
/// Bytes of the hash of an issuer's name that tell it from others.
const ISSUER_HASH_BYTES: usize = 8;

/// An authority whose key is at hand.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    key_identifier: KeyIdMethod,
    certificate: CertificateDer<'static>,
    /// Its name, as it stands in what it issues.
    name: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

/// A new certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Its serial number, in lower-case hexadecimal digits.
    pub serial: String,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The certificate in PEM form.
    pub pem: String,
    /// When it expires, in seconds since 1970.
    pub not_after: i64,
}

impl Authority {
    /// Makes a new authority called `name` in a folder, good for so many days, and its first, empty list of revoked certificates.
    ///
    /// # Errors
    /// There is one already, the name is empty or too long, or the system said no.
    pub fn init(folder: &Path, name: &str, days: u32, crl_days: u32, now: i64) -> Result<Authority, PkiError> {
        if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
            return Err(PkiError::Name(format!("{name:?} is no name for an authority: it needs 1 to 64 characters")));
        }
        let key_path = folder.join(KEY);
        for path in [folder.join(CERTIFICATE), key_path.clone()] {
            // No --force here: with the old key, all that was issued would be lost.
            if path.symlink_metadata().is_ok() {
                let why = "there is an authority in this folder already: use another folder, or move this one away"
                    .to_owned();
                return Err(PkiError::Unusable { path, why });
            }
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(random_serial()?);
        params.not_before = moment(now - BACKDATED_SECONDS)?;
        params.not_after = moment(now + i64::from(days) * DAY)?;
        // It signs certificates of servers and clients, never other authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;

        write(&folder.join(INDEX), HEADER.as_bytes(), Access::Owner, Overwrite::Never)?;
        write(&key_path, key.serialize_pem().as_bytes(), Access::Owner, Overwrite::Never)?;
        // Last: with it, the authority is complete.
        write(&folder.join(CERTIFICATE), certificate.pem().as_bytes(), Access::Everybody, Overwrite::Never)?;
        let authority = Authority::open(folder)?;
        authority.write_crl(crl_days, now)?;
        Ok(authority)
    }

    /// Opens what [`Authority::init`] made.
    ///
    /// # Errors
    /// There is none, or its files cannot be read or do not belong together.
    pub fn open(folder: &Path) -> Result<Authority, PkiError> {
        let (certificate_path, key_path) = (folder.join(CERTIFICATE), folder.join(KEY));
        if !certificate_path.exists() {
            return Err(PkiError::NoAuthority { folder: folder.to_owned() });
        }
        let unusable = |path: &Path, why: String| PkiError::Unusable { path: path.to_owned(), why };
        let pem = fs::read(&certificate_path).map_err(at(&certificate_path))?;
        let certificate =
            CertificateDer::from_pem_slice(&pem).map_err(|wrong| unusable(&certificate_path, wrong.to_string()))?;
        let key = fs::read_to_string(&key_path).map_err(at(&key_path))?;
        let key = KeyPair::from_pem(&key).map_err(|wrong| unusable(&key_path, wrong.to_string()))?;

        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|wrong| unusable(&certificate_path, wrong.to_string()))?;
        if !parsed.is_ca() {
            return Err(unusable(&certificate_path, "this is no certificate of an authority".to_owned()));
        }
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(unusable(&key_path, format!("this is not the key of {}", certificate_path.display())));
        }
        let (not_before, not_after) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let (key_identifier, name) = (key_identifier(&parsed), parsed.subject().as_raw().to_vec());
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Authority { folder: folder.to_owned(), issuer, key_identifier, certificate, name, not_before, not_after })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// When it expires, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The file of its certificate.
    pub fn certificate_path(folder: &Path) -> PathBuf {
        folder.join(CERTIFICATE)
    }

    /// The file of the list of what it revoked.
    pub fn crl_path(folder: &Path) -> PathBuf {
        folder.join(CRL)
    }

    /// Makes a certificate that is good for so many days, but not longer than the authority. It is in the index before this returns.
    ///
    /// # Errors
    /// The authority expired, or the index cannot be written.
    pub fn issue(&self, subject: &Subject, key: &impl PublicKeyData, days: u32, now: i64) -> Result<Issued, PkiError> {
        if self.not_after <= now {
            return Err(PkiError::Expired { folder: self.folder.clone(), at: stamp(self.not_after) });
        }
        let not_after = (now + i64::from(days) * DAY).min(self.not_after);
        let serial_number = random_serial()?;
        let serial = hex(serial_number.as_ref());
        let mut params = CertificateParams::default();
        params.distinguished_name = subject.distinguished_name();
        params.subject_alt_names = subject.alternative_names()?;
        params.serial_number = Some(serial_number);
        params.not_before = moment((now - BACKDATED_SECONDS).max(self.not_before))?;
        params.not_after = moment(not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![subject.extended_key_usage()];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;

        let subject = subject.to_string();
        self.append(now, &[Event::Issued { serial: &serial, subject: &subject, not_after }])?;
        Ok(Issued { serial, pem: certificate.pem(), certificate: certificate.into(), not_after })
    }

    /// Revokes the certificate with this serial number (hexadecimal, with or without colons), and lists it. One that was revoked before
    /// stays as it was.
    ///
    /// # Errors
    /// It was never issued, or the index or the list cannot be written.
    pub fn revoke_serial(&self, serial: &str, reason: Reason, crl_days: u32, now: i64) -> Result<Vec<Entry>, PkiError> {
        let wanted: String = serial.trim().replace(':', "").to_ascii_lowercase();
        self.revoke(serial, reason, crl_days, now, |entry| entry.serial == wanted)
    }

    /// Revokes every certificate of a subject that is good, and lists them.
    ///
    /// # Errors
    /// It has none, or the index or the list cannot be written.
    pub fn revoke_subject(
        &self,
        subject: &Subject,
        reason: Reason,
        crl_days: u32,
        now: i64,
    ) -> Result<Vec<Entry>, PkiError> {
        let wanted = subject.to_string();
        self.revoke(&wanted, reason, crl_days, now, |entry| entry.subject == wanted && entry.not_after > now)
    }

    fn revoke(
        &self,
        what: &str,
        reason: Reason,
        crl_days: u32,
        now: i64,
        is_meant: impl Fn(&Entry) -> bool,
    ) -> Result<Vec<Entry>, PkiError> {
        let _lock = lock(&self.folder)?;
        let index = self.index()?;
        let meant: Vec<Entry> = index.entries().iter().filter(|entry| is_meant(entry)).cloned().collect();
        if meant.is_empty() {
            return Err(PkiError::NothingToRevoke { folder: self.folder.clone(), what: what.to_owned() });
        }
        let events: Vec<_> = meant
            .iter()
            .filter(|entry| entry.revoked.is_none())
            .map(|entry| Event::Revoked { serial: &entry.serial, reason })
            .collect();
        Index::append(&self.index_path(), now, &events)?;
        self.write_crl_locked(crl_days, now)?;
        Ok(meant)
    }

    /// Writes the list of revoked certificates anew, good for so many days. Returns its number.
    ///
    /// # Errors
    /// The index cannot be read, or one of the files not written.
    pub fn write_crl(&self, days: u32, now: i64) -> Result<u64, PkiError> {
        let _lock = lock(&self.folder)?;
        self.write_crl_locked(days, now)
    }

    fn write_crl_locked(&self, days: u32, now: i64) -> Result<u64, PkiError> {
        let index = self.index()?;
        let number = index.crl_number + 1;
        let mut revoked_certs = Vec::new();
        for entry in index.entries().iter().filter(|entry| entry.not_after + LISTED_AFTER_EXPIRY_SECONDS > now) {
            let Some(revoked) = entry.revoked else { continue };
            revoked_certs.push(RevokedCertParams {
                serial_number: self.serial_number(&entry.serial)?,
                revocation_time: moment(revoked.at)?,
                reason_code: Some(revoked.reason.code()),
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: moment(now)?,
            next_update: moment(now + i64::from(days) * DAY)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: self.key_identifier.clone(),
        };
        let list = params.signed_by(&self.issuer)?.pem()?;
        // A number is never used twice, even if the file cannot be written.
        Index::append(&self.index_path(), now, &[Event::Crl { number }])?;
        write(&self.folder.join(CRL), list.as_bytes(), Access::Everybody, Overwrite::Replace)?;
        Ok(number)
    }

    /// What it issued and revoked, as it is on disk now.
    ///
    /// # Errors
    /// The index cannot be read, or is damaged.
    pub fn index(&self) -> Result<Index, PkiError> {
        let mut index = Index::default();
        self.refresh(&mut index)?;
        Ok(index)
    }

    /// Brings what was known of the index up to date.
    ///
    /// # Errors
    /// As [`Authority::index`].
    pub fn refresh(&self, index: &mut Index) -> Result<(), PkiError> {
        index.refresh(&self.index_path())
    }

    /// What a certificate is called where it may be revoked: see [`causeway_fleet::Identity::credential`].
    pub fn credential(&self, serial: &str) -> String {
        let issuer = digest(&SHA256, &self.name);
        let issuer = issuer.as_ref().get(..ISSUER_HASH_BYTES).unwrap_or_default();
        format!("x509:{serial}@{}", hex(issuer))
    }

    fn index_path(&self) -> PathBuf {
        self.folder.join(INDEX)
    }

    fn append(&self, now: i64, events: &[Event<'_>]) -> Result<(), PkiError> {
        let _lock = lock(&self.folder)?;
        Index::append(&self.index_path(), now, events)?;
        sync(&self.folder)
    }

    fn serial_number(&self, hexadecimal: &str) -> Result<SerialNumber, PkiError> {
        let wrong =
            || PkiError::Unusable { path: self.index_path(), why: format!("{hexadecimal} is no serial number") };
        unhex(hexadecimal).map(SerialNumber::from).ok_or_else(wrong)
    }
}

/// How the authority's certificate names its key, so that lists name it alike.
fn key_identifier(certificate: &X509Certificate<'_>) -> KeyIdMethod {
    let named = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    });
    named.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}

/// The first bit is not set, so that it is positive, and the second is, so that it has no leading zeroes: it is the same text everywhere.
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = hashing::random::<SERIAL_BYTES>().map_err(|why| PkiError::Random(why.to_string()))?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|place| u8::from_str_radix(&text[place..place + 2], 16).ok()).collect()
}
