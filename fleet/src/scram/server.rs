//! The server's end: who says so, and do they know the password?
//!
//! Owns the two steps. It neither looks users up nor draws nonces.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::keys::{decode_key, hash, same, sign, xor};
use super::message::{self, Attributes};
use super::{Keys, ScramError};

/// What the client opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    user: String,
    /// What the client said about channel binding, comes back in its final message.
    gs2_header: String,
    /// The rest of its message, part of what is signed.
    bare: String,
    client_nonce: String,
}

/// What the server asked, and what the answer must prove.
#[derive(Debug, Clone)]
pub struct Challenge {
    keys: Keys,
    channel_binding: String,
    nonce: String,
    /// `client-first-message-bare "," server-first-message ","`
    signed: String,
}

impl Opening {
    /// Reads a `client-first-message`.
    ///
    /// # Errors
    /// It is malformed, wants channel binding or an extension, or wants to act as somebody else.
    pub fn parse(message: &[u8]) -> Result<Opening, ScramError> {
        let text = message::text(message)?;
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(acts_as), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ScramError::Malformed("no GS2 header"));
        };
        match flag {
            // "y" says that the client could bind channels and believes that we cannot, which is so.
            "n" | "y" => {}
            flag if flag.starts_with("p=") => {
                return Err(ScramError::Unsupported("channel binding"));
            }
            _ => return Err(ScramError::Malformed("an unknown channel binding flag")),
        }
        let mut attributes = Attributes::new(bare)?;
        let user = message::unescape(attributes.expect("n=", "no user name")?)?;
        let client_nonce = message::nonce(attributes.expect("r=", "no nonce")?)?.to_owned();
        match acts_as.strip_prefix("a=") {
            None if acts_as.is_empty() => {}
            Some(name) if message::unescape(name)? == user => {}
            _ => return Err(ScramError::Unsupported("acting as somebody else")),
        }
        let gs2_header = format!("{flag},{acts_as},");
        Ok(Opening { user, gs2_header, bare: bare.to_owned(), client_nonce })
    }

    /// Who the client claims to be.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The `server-first-message`, and the state that awaits its answer.
    ///
    /// `keys` are the user's, or [`Keys::mimic`] if there is no such user. `nonce` is printable ASCII without comma, fresh and
    /// unpredictable.
    pub fn challenge(self, keys: &Keys, nonce: &str) -> (Challenge, Vec<u8>) {
        let nonce = format!("{}{nonce}", self.client_nonce);
        let first = format!("r={nonce},s={},i={}", BASE64_STANDARD.encode(keys.salt()), keys.iterations());
        let challenge = Challenge {
            keys: keys.clone(),
            channel_binding: BASE64_STANDARD.encode(&self.gs2_header),
            nonce,
            signed: format!("{},{first},", self.bare),
        };
        (challenge, first.into_bytes())
    }
}

impl Challenge {
    /// Checks a `client-final-message`; the answer is the `server-final-message`, which proves to the client that the server
    /// knows the user, too.
    ///
    /// # Errors
    /// The message is malformed or belongs to another exchange, or the proof is wrong.
    pub fn verify(self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        let text = message::text(message)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof"))?;
        let mut attributes = Attributes::new(without_proof)?;
        if attributes.expect("c=", "no channel binding")? != self.channel_binding {
            return Err(ScramError::Malformed("another channel binding than in the first message"));
        }
        if attributes.expect("r=", "no nonce")? != self.nonce {
            return Err(ScramError::Malformed("the nonce of another exchange"));
        }
        let proof = decode_key(proof).ok_or(ScramError::Malformed("a proof that is not 32 bytes of Base64"))?;

        let signed = format!("{}{without_proof}", self.signed);
        let client_key = xor(&proof, &sign(&self.keys.stored_key, signed.as_bytes()));
        match same(&hash(&client_key), &self.keys.stored_key) {
            true => {
                let signature = sign(&self.keys.server_key, signed.as_bytes());
                Ok(format!("v={}", BASE64_STANDARD.encode(signature)).into_bytes())
            }
            false => Err(ScramError::WrongProof),
        }
    }
}
