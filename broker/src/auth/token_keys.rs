//! The public keys that tokens are signed with.
//!
//! Owns reading them from a file, and which of them a token may have been signed with. What is no public key of a known kind is not used; a
//! shared secret in the file is an error, because whoever can verify with one can sign with it.

use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Keys of a file. Each may have to be tried for a token.
const KEYS_MAX: usize = 64;
/// Bits of the shortest RSA key.
const RSA_BITS_MIN: usize = 2048;
/// Bytes of an uncompressed point of P-256.
const P256_POINT_BYTES: usize = 65;
/// Bytes of a key of Ed25519.
const ED25519_BYTES: usize = 32;

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeysError {
    /// The system said no.
    #[error("cannot read {}: {source}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is in it will not do.
    #[error("{}: {why}", .file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
}

/// The keys of a file.
pub struct TokenKeys(Vec<TokenKey>);

/// One key, for one algorithm.
pub(super) struct TokenKey {
    /// What tokens call it, if they may.
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl TokenKeys {
    /// Reads a file: a JSON Web Key Set, or public keys in PEM form.
    ///
    /// # Errors
    /// It cannot be read, or has no key that can be used.
    pub fn load(file: &Path) -> Result<TokenKeys, TokenKeysError> {
        let bytes = std::fs::read(file).map_err(|source| TokenKeysError::Read { file: file.to_owned(), source })?;
        TokenKeys::parse(&bytes).map_err(|why| TokenKeysError::Wrong { file: file.to_owned(), why })
    }

    fn parse(bytes: &[u8]) -> Result<TokenKeys, String> {
        let keys = match bytes.trim_ascii_start().first() {
            Some(b'{') => from_set(bytes)?,
            _ => from_pem(bytes)?,
        };
        match keys.len() {
            0 => Err("there is no public key in it of Ed25519, P-256 or RSA".to_owned()),
            count if count > KEYS_MAX => Err(format!("there are {count} keys in it, more than {KEYS_MAX}")),
            _ => Ok(TokenKeys(keys)),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that may have signed a token with this algorithm, which says that its key is called so. A key without a name may be called
    /// anything.
    pub(super) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &TokenKey> {
        self.0.iter().filter(move |key| {
            let may_be_called_so = key.id.is_none() || id.is_none() || key.id.as_deref() == id;
            key.algorithm == algorithm && may_be_called_so
        })
    }
}

fn from_set(bytes: &[u8]) -> Result<Vec<TokenKey>, String> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|error| format!("no JSON Web Key Set: {error}"))?;
    let keys = set.keys.iter().map(from_jwk).collect::<Result<Vec<_>, _>>()?;
    Ok(keys.into_iter().flatten().collect())
}

/// None where it is for something else.
fn from_jwk(jwk: &Jwk) -> Result<Option<TokenKey>, String> {
    let id = jwk.common.key_id.clone();
    let name = id.as_deref().unwrap_or("without a kid");
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::OctetKey(_) => {
            return Err(format!("the key {name} is a shared secret: whoever can verify with it can sign with it"));
        }
        _ => return Ok(None),
    };
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let for_it = jwk.common.key_algorithm.is_none_or(|of| Algorithm::try_from(of).is_ok_and(|of| of == algorithm));
    if !signs || !for_it {
        return Ok(None);
    }
    let wrong = |error: jsonwebtoken::errors::Error| format!("the key {name}: {error}");
    let key = DecodingKey::from_jwk(jwk).map_err(wrong)?;
    check_length(algorithm, &key).map_err(|why| format!("the key {name}: {why}"))?;
    Ok(Some(TokenKey { id, algorithm, key }))
}

fn from_pem(bytes: &[u8]) -> Result<Vec<TokenKey>, String> {
    let mut keys = Vec::new();
    for der in SubjectPublicKeyInfoDer::pem_slice_iter(bytes) {
        let der = der.map_err(|error| format!("no valid PEM: {error}"))?;
        keys.extend(from_der(&der)?);
    }
    Ok(keys)
}

/// None where it is of another kind.
fn from_der(der: &[u8]) -> Result<Option<TokenKey>, String> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|error| format!("no public key: {error}"))?;
    let bytes = &info.subject_public_key.data;
    let kind = &info.algorithm.algorithm;
    let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let (algorithm, key) = if *kind == OID_SIG_ED25519 {
        (Algorithm::EdDSA, DecodingKey::from_ed_der(bytes))
    } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) {
        (Algorithm::ES256, DecodingKey::from_ec_der(bytes))
    } else if *kind == OID_PKCS1_RSAENCRYPTION {
        let public = x509_parser::public_key::RSAPublicKey::from_der(bytes);
        let (_, public) = public.map_err(|error| format!("no RSA key: {error}"))?;
        let without_sign = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        let (modulus, exponent) = (without_sign(public.modulus), without_sign(public.exponent));
        (Algorithm::RS256, DecodingKey::from_rsa_raw_components(&modulus, &exponent))
    } else {
        return Ok(None);
    };
    check_length(algorithm, &key)?;
    Ok(Some(TokenKey { id: None, algorithm, key }))
}

fn check_length(algorithm: Algorithm, key: &DecodingKey) -> Result<(), String> {
    let fits = match (algorithm, key.kind()) {
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(bytes)) => bytes.len() == ED25519_BYTES,
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(bytes)) => {
            bytes.len() == P256_POINT_BYTES && bytes.first() == Some(&4)
        }
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => n.len() * 8 >= RSA_BITS_MIN,
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(format!("a key for {algorithm:?} has another length (RSA: {RSA_BITS_MIN} bits at least)")),
    }
}
