//! Requests for certificates (PKCS #10), as vehicles and `openssl req` make them.
//!
//! Owns their reading: that whoever asks has the private key, and that the key is one the broker can verify. What a request wishes for beside
//! its name and its key is not looked at.

use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// Bytes of the longest request: those for RSA keys of 4096 bits and a few extensions are below 4 KiB.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Bytes of the longest common name (RFC 5280, ub-common-name).
const NAME_BYTES_MAX: usize = 64;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is too large.
    #[error("the request has more than {REQUEST_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no text of the kinds that are understood.
    #[error("the request is neither Base64 nor PEM")]
    Text,
    /// It is not PKCS #10.
    #[error("the request is no PKCS #10 certification request")]
    Malformed,
    /// The signature does not go with the key, or is made in a way that is not allowed.
    #[error(
        "the request is not signed with its own key, or with an algorithm that is not known: ECDSA with P-256 and SHA-256 will do"
    )]
    Signature,
    /// A key that is too weak or cannot be verified with.
    #[error("keys of this kind are not signed: P-256, P-384, Ed25519, and RSA from 2048 bits will do")]
    Key,
    /// There is not exactly one common name.
    #[error("the subject of the request needs exactly one common name, of at most {NAME_BYTES_MAX} bytes")]
    CommonName,
}

/// A request whose signature was verified.
#[derive(Debug)]
pub struct Request {
    key: SubjectPublicKeyInfo,
    common_name: String,
}

impl Request {
    /// Reads what RFC 7030 sends (Base64), or PEM.
    ///
    /// # Errors
    /// Anything is wrong with it.
    pub fn from_text(text: &[u8]) -> Result<Request, RequestError> {
        if text.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge);
        }
        let text = std::str::from_utf8(text).map_err(|_| RequestError::Text)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
        let base64: String =
            lines.flat_map(|line| line.chars().filter(|character| !character.is_whitespace())).collect();
        Request::from_der(&BASE64_STANDARD.decode(base64).map_err(|_| RequestError::Text)?)
    }

    /// Reads and verifies a request.
    ///
    /// # Errors
    /// Anything is wrong with it.
    pub fn from_der(der: &[u8]) -> Result<Request, RequestError> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        if is_sha1(&request.signature_algorithm.algorithm.to_id_string()) || request.verify_signature().is_err() {
            return Err(RequestError::Signature);
        }
        let asked = &request.certification_request_info;
        let key = SubjectPublicKeyInfo::from_der(asked.subject_pki.raw).map_err(|_| RequestError::Key)?;
        let allowed = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
            // For signatures with SHA-1, excluded above, 1024 bits would have passed.
            &rcgen::PKCS_RSA_SHA256,
        ];
        if !allowed.contains(&key.algorithm()) {
            return Err(RequestError::Key);
        }
        let mut names = asked.subject.iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else { return Err(RequestError::CommonName) };
        let common_name = name.as_str().map_err(|_| RequestError::CommonName)?.to_owned();
        if common_name.len() > NAME_BYTES_MAX {
            return Err(RequestError::CommonName);
        }
        Ok(Request { key, common_name })
    }

    /// The key to certify.
    pub fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }

    /// Who it says it is for. Nothing of that is proven.
    pub fn common_name(&self) -> &str {
        &self.common_name
    }
}

/// Signatures that could be forged: RSA with SHA-1 by either name.
fn is_sha1(algorithm: &str) -> bool {
    matches!(algorithm, "1.2.840.113549.1.1.5" | "1.3.14.3.2.29")
}
