//! Tokens by which the load says who its clients are.
//!
//! Owns a key that protects nothing: everybody can read it here. It is for brokers that a proof starts for itself, because a token costs
//! thousands of clients less than a certificate each.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const SEED: [u8; 32] = *b"this key protects nothing at all";
const VALID_SECONDS: u64 = 24 * 3600;

/// Signs tokens.
pub(super) struct Issuer(Ed25519KeyPair);

impl Issuer {
    pub(super) fn new() -> Result<Issuer> {
        Ed25519KeyPair::from_seed_unchecked(&SEED).map(Issuer).map_err(|error| anyhow!("no key: {error}"))
    }

    /// The public key, as a JSON Web Key Set.
    pub(super) fn key_set(&self) -> String {
        let public = URL_SAFE_NO_PAD.encode(self.0.public_key());
        format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"load","x":"{public}"}}]}}"#)
    }

    /// The token of a principal, such as `service:backend`.
    pub(super) fn token(&self, principal: &str) -> Result<String> {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + VALID_SECONDS;
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"JWT","kid":"load"}"#);
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{principal}","exp":{expires}}}"#));
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        Ok(format!("{signed}.{signature}"))
    }
}
