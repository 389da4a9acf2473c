//! Signed tokens (JWT) that say who a client is, and until when.
//!
//! Owns which tokens are believed, and what their claims mean. A token never chooses how it is verified: its algorithm has to be that of a
//! key that is there, and what it brings along of keys or links to them is not looked at.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use causeway_fleet::{Groups, Identity, Principal};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, TokenData, Validation, decode, decode_header};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};

use super::token_keys::{TokenKeys, TokenKeysError};
use super::token_signature;
use crate::config::{Jwt, PrincipalKind};
use crate::identity::{check_name, check_vin};
use crate::shown::shown;
use crate::watched::Watched;

/// The method of enhanced authentication: the token is its data.
pub(super) const METHOD: &str = "JWT";
/// Bytes of the longest token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The end of a token that ends later: that of the year 9999.
const FOREVER_MS: u64 = 253_402_300_800_000;
/// Bytes of the longest `jti` that names a credential.
const ID_BYTES_MAX: usize = 128;

/// What verifies tokens.
pub(super) struct Tokens {
    settings: Jwt,
    vin_check_digit: bool,
    keys: ArcSwap<TokenKeys>,
    /// Held while it is read.
    file: Mutex<Watched>,
}

impl Tokens {
    /// Reads the keys.
    ///
    /// # Errors
    /// They cannot be read or used.
    pub(super) fn load(settings: &Jwt, vin_check_digit: bool) -> Result<Tokens, TokenKeysError> {
        token_signature::install();
        let file = Mutex::new(Watched::new([settings.keys_file.clone()]));
        let keys = ArcSwap::from_pointee(TokenKeys::load(&settings.keys_file)?);
        Ok(Tokens { settings: settings.clone(), vin_check_digit, keys, file })
    }

    /// Reads the keys again, and says how many there are. Connections that are open stay so.
    ///
    /// # Errors
    /// They cannot be read or used: those that were there stay.
    pub(super) fn reload(&self) -> Result<usize, TokenKeysError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.look();
        let keys = TokenKeys::load(&self.settings.keys_file)?;
        let count = keys.count();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }

    /// Whether the file is another than when it was read last. Asks the system.
    pub(super) fn file_changed(&self) -> bool {
        self.file.try_lock().is_ok_and(|file| file.changed())
    }

    /// Whether this may be meant as a token: three parts in the letters of base64url, the first of which begins an object.
    pub(super) fn looks_like_one(bytes: &[u8]) -> bool {
        let in_parts = bytes.split(|byte| *byte == b'.').count() == 3;
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        bytes.starts_with(b"ey") && in_parts && bytes.iter().all(allowed)
    }

    /// Who a token is for, if it is good now.
    ///
    /// # Errors
    /// Why it is not, for the log and the client.
    pub(super) fn verify(&self, token: &[u8]) -> Result<Identity, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!("the token is longer than {TOKEN_BYTES_MAX} bytes"));
        }
        let header = decode_header(token)
            .map_err(|_| "the token cannot be read, or its algorithm is none of EdDSA, ES256 and RS256".to_owned())?;
        //= RFC 7515 section 4.1.11: what is marked as critical must be understood, and nothing of the kind is here
        if header.crit.is_some() {
            return Err("the token has critical headers".to_owned());
        }
        let claims = self.verified(token, &header)?;
        let exp = number(claims.get("exp")).ok_or("the token has no end")?;
        let ends_seconds = exp.saturating_add(self.settings.leeway_seconds);
        Ok(Identity {
            principal: self.principal(&claims)?,
            groups: Groups::default(),
            credential: Some(credential(&claims, token)),
            valid_until_ms: Some(ends_seconds.saturating_mul(1000).min(FOREVER_MS)),
        })
    }

    /// The claims, when signature, times, issuer and audience are right.
    fn verified(&self, token: &[u8], header: &Header) -> Result<Map<String, Value>, String> {
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.settings.leeway_seconds;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.settings.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        for key in self.keys.load().candidates(header.alg, header.kid.as_deref()) {
            match decode(token, &key.key, &validation) {
                Ok(TokenData { claims, .. }) => return Ok(claims),
                // Another may be the one.
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) => return Err(format!("the token is not good: {error}")),
            }
        }
        Err(match header.kid.as_deref() {
            Some(id) => {
                format!("the token is signed with none of the keys ({:?}, its key is called {})", header.alg, shown(id))
            }
            None => format!("the token is signed with none of the keys ({:?})", header.alg),
        })
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, String> {
        if let Some(claim) = self.settings.vin_claim.as_ref().filter(|claim| claims.contains_key(*claim)) {
            return self.vehicle(text(claims, claim)?);
        }
        let name = text(claims, &self.settings.principal_claim)?;
        match self.settings.principal_kind {
            PrincipalKind::Vehicle => self.vehicle(name),
            PrincipalKind::Service => service(name),
            PrincipalKind::Operator => operator(name),
            PrincipalKind::Prefixed => match name.split_once(':') {
                Some(("vehicle", vin)) => self.vehicle(vin),
                Some(("service", name)) => service(name),
                Some(("operator", name)) => operator(name),
                _ => Err(format!(
                    "the token is for {}, which is none of vehicle:VIN, service:NAME and operator:NAME",
                    shown(name)
                )),
            },
        }
    }

    fn vehicle(&self, vin: &str) -> Result<Principal, String> {
        check_vin(vin, self.vin_check_digit).map(Principal::Vehicle)
    }
}

fn service(name: &str) -> Result<Principal, String> {
    check_name(name).map(|()| Principal::service(name))
}

fn operator(name: &str) -> Result<Principal, String> {
    check_name(name).map(|()| Principal::operator(name))
}

fn text<'a>(claims: &'a Map<String, Value>, claim: &str) -> Result<&'a str, String> {
    claims.get(claim).and_then(Value::as_str).ok_or_else(|| format!("the token has no text in the claim {claim:?}"))
}

/// A time, which may have a fraction.
fn number(claim: Option<&Value>) -> Option<u64> {
    let claim = claim?;
    // What is not finite is no JSON, and what is too large becomes the largest.
    claim.as_u64().or_else(|| claim.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

/// `jwt:` and the token's own name, or the beginning of its hash where it has none.
fn credential(claims: &Map<String, Value>, token: &[u8]) -> Arc<str> {
    let id = claims.get("jti").and_then(Value::as_str);
    let fit = |id: &&str| (1..=ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    match id.filter(fit) {
        Some(id) => Arc::from(format!("jwt:{id}")),
        None => {
            let digest = digest(&SHA256, token);
            let hex: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            Arc::from(format!("jwt:{hex}"))
        }
    }
}

#[cfg(test)]
mod tests;
