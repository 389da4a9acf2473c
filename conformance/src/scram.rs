//! Owns the client's side of SCRAM-SHA-256 (RFC 5802 and 7677), without channel binding. Never talks to the broker, and
//! is of no use for user names that need SASLprep.

use std::num::NonZeroU32;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

/// The authentication method's name in MQTT.
pub const METHOD: &str = "SCRAM-SHA-256";

/// One authentication in progress.
#[derive(Clone, Debug)]
pub struct Scram {
    password: String,
    nonce: String,
    first_bare: String,
}

/// The client's second message, and what the server has to answer to it.
#[derive(Clone, Debug)]
pub struct Proof {
    /// `client-final-message`.
    pub message: String,
    /// `server-final-message`.
    pub expected: String,
}

impl Scram {
    /// Begins an authentication with a nonce of the caller's.
    pub fn new(name: &str, password: &str, nonce: &str) -> Scram {
        let name = name.replace('=', "=3D").replace(',', "=2C");
        Scram { password: password.to_owned(), nonce: nonce.to_owned(), first_bare: format!("n={name},r={nonce}") }
    }

    /// `client-first-message`.
    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// Answers the `server-first-message`; fails if it breaks the rules of SCRAM.
    pub fn answer(&self, server_first: &[u8]) -> Result<Proof> {
        let server_first = std::str::from_utf8(server_first).context("server-first-message is not UTF-8")?;
        let field = |name: &str| {
            let mut fields = server_first.split(',');
            fields.find_map(|each| each.strip_prefix(name)).with_context(|| format!("no {name} in {server_first:?}"))
        };
        let (nonce, salt, rounds) = (field("r=")?, STANDARD.decode(field("s=")?)?, field("i=")?);
        let own =
            nonce.strip_prefix(&self.nonce).with_context(|| format!("{nonce:?} does not begin with our nonce"))?;
        ensure!(!own.is_empty(), "the server adds nothing to the nonce");
        let rounds = NonZeroU32::new(rounds.parse()?).context("no iterations")?;
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, self.password.as_bytes(), &mut salted);
        let client_key = mac(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={nonce}");
        let all = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = mac(digest::digest(&digest::SHA256, client_key.as_ref()).as_ref(), all.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        let verdict = mac(mac(&salted, b"Server Key").as_ref(), all.as_bytes());
        Ok(Proof {
            message: format!("{without_proof},p={}", STANDARD.encode(proof)),
            expected: format!("v={}", STANDARD.encode(verdict)),
        })
    }
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677() {
        let scram = Scram::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let first = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = scram.answer(first).unwrap();
        assert!(proof.message.ends_with("p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{}", proof.message);
        assert_eq!(proof.expected, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }
}
