//! The client's end: proves to know the password, and that the server knows it.
//!
//! Owns the two steps. It draws no nonces.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::keys::{Key, decode_key, hash, salted_password, same, sign, xor};
use super::message::{self, Attributes};
use super::{ScramError, prepare};

const GS2_HEADER: &str = "n,,";

/// The client has introduced itself.
#[derive(Clone)]
pub struct ClientFirst {
    password: String,
    nonce: String,
    message: String,
}

/// The client has proven itself, and awaits the server's proof.
#[derive(Clone)]
pub struct ClientFinal {
    message: String,
    server_signature: Key,
}

impl ClientFirst {
    /// Introduces `user`. `nonce` is printable ASCII without comma, fresh and unpredictable.
    ///
    /// # Errors
    /// The name, password or nonce is empty or has characters that it may not have.
    pub fn new(user: &str, password: &str, nonce: &str) -> Result<ClientFirst, ScramError> {
        let nonce = message::nonce(nonce)?.to_owned();
        let message = format!("{GS2_HEADER}n={},r={nonce}", message::escape(prepare(user)?));
        Ok(ClientFirst { password: prepare(password)?.to_owned(), nonce, message })
    }

    /// The `client-first-message`.
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Answers the `server-first-message`. Takes time in proportion to the iterations that the server asks for.
    ///
    /// # Errors
    /// The message is malformed, belongs to another exchange, or asks for too few or too many iterations.
    pub fn answer(self, server_first: &[u8]) -> Result<ClientFinal, ScramError> {
        let server_first = message::text(server_first)?;
        let mut attributes = Attributes::new(server_first)?;
        let nonce = message::nonce(attributes.expect("r=", "no nonce")?)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Malformed("the nonce of another exchange"));
        }
        let salt = BASE64_STANDARD.decode(attributes.expect("s=", "no salt")?);
        let salt = salt.map_err(|_| ScramError::Malformed("a salt that is not Base64"))?;
        let iterations = attributes.expect("i=", "no iteration count")?.parse();
        let iterations = iterations.map_err(|_| ScramError::Malformed("an iteration count that is not a number"))?;

        let without_proof = format!("c={},r={nonce}", BASE64_STANDARD.encode(GS2_HEADER));
        let bare = &self.message[GS2_HEADER.len()..];
        let signed = format!("{bare},{server_first},{without_proof}");
        let salted = salted_password(&self.password, &salt, iterations)?;
        let client_key = sign(&salted, b"Client Key");
        let proof = xor(&client_key, &sign(&hash(&client_key), signed.as_bytes()));
        Ok(ClientFinal {
            message: format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)),
            server_signature: sign(&sign(&salted, b"Server Key"), signed.as_bytes()),
        })
    }
}

impl ClientFinal {
    /// The `client-final-message`.
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Checks the `server-final-message`.
    ///
    /// # Errors
    /// It is malformed, or the server does not know the user.
    pub fn verify(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::new(message::text(server_final)?)?;
        let signature = decode_key(attributes.expect("v=", "no signature")?);
        let signature = signature.ok_or(ScramError::WrongProof)?;
        match same(&signature, &self.server_signature) {
            true => Ok(()),
            false => Err(ScramError::WrongProof),
        }
    }
}
