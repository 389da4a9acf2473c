//! What a server stores of a password: enough to check a proof, too little to make one.
//!
//! Owns the key derivation and its textual form.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::{digest, hmac, pbkdf2};
use thiserror::Error;

use super::{ITERATIONS_MAX, ITERATIONS_MIN, METHOD, ScramError, prepare};

/// Bytes of SHA-256.
pub(super) const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;
const SALT_BYTES_MAX: usize = 256;

/// A 256-bit key or signature.
pub(super) type Key = [u8; KEY_BYTES];

/// What a server stores of one user's password.
///
/// As text: `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY`, with Base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    salt: Vec<u8>,
    iterations: u32,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

/// The text is not what [`Keys`] prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not of the form SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY")]
pub struct KeysError;

impl Keys {
    /// The keys of a password. Takes time in proportion to `iterations`.
    ///
    /// # Errors
    /// The password is empty or has control characters, the salt is empty or longer than 256 bytes, or `iterations` is outside
    /// [`ITERATIONS_MIN`] to [`ITERATIONS_MAX`].
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Result<Keys, ScramError> {
        let salted = salted_password(password, salt, iterations)?;
        Ok(Keys {
            salt: salt.to_vec(),
            iterations,
            stored_key: hash(&sign(&salted, b"Client Key")),
            server_key: sign(&salted, b"Server Key"),
        })
    }

    /// Keys that no password fits, for a user who does not exist: always the same for the same `secret` and `user`, so that
    /// an exchange does not tell whether there is such a user.
    pub fn mimic(secret: &[u8], user: &str, iterations: u32) -> Keys {
        let part = |purpose: &str| sign(secret, format!("{purpose}:{user}").as_bytes());
        Keys {
            salt: part("salt")[..16].to_vec(),
            iterations,
            stored_key: part("stored key"),
            server_key: part("server key"),
        }
    }

    /// The salt of the password.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// How often the password was hashed.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored_key), encode(&self.server_key));
        write!(f, "{METHOD}${}:{salt}${stored}:{server}", self.iterations)
    }
}

/// Without the keys: they let a server be impersonated, and a weak password be guessed.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl FromStr for Keys {
    type Err = KeysError;

    fn from_str(text: &str) -> Result<Keys, KeysError> {
        parse(text).ok_or(KeysError)
    }
}

fn parse(text: &str) -> Option<Keys> {
    let (iterations, rest) = text.strip_prefix(METHOD)?.strip_prefix('$')?.split_once(':')?;
    let (salt, keys) = rest.split_once('$')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    let iterations = iterations.parse().ok()?;
    let salt = BASE64_STANDARD.decode(salt).ok()?;
    check(&salt, iterations).ok()?;
    Some(Keys { salt, iterations, stored_key: decode_key(stored_key)?, server_key: decode_key(server_key)? })
}

/// 256 bits of Base64.
pub(super) fn decode_key(text: &str) -> Option<Key> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

fn check(salt: &[u8], iterations: u32) -> Result<NonZeroU32, ScramError> {
    if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
        return Err(ScramError::Malformed("a salt of 0 or of more than 256 bytes"));
    }
    NonZeroU32::new(iterations)
        .filter(|iterations| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations.get()))
        .ok_or(ScramError::Unsupported("this number of iterations"))
}

/// `SaltedPassword` of RFC 5802, section 3.
pub(super) fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Result<Key, ScramError> {
    let iterations = check(salt, iterations)?;
    let mut salted = [0; KEY_BYTES];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, prepare(password)?.as_bytes(), &mut salted);
    Ok(salted)
}

pub(super) fn hash(bytes: &[u8]) -> Key {
    fixed(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(super) fn sign(key: &[u8], message: &[u8]) -> Key {
    fixed(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref())
}

/// Copies what SHA-256 gave, which is always this long.
fn fixed(bytes: &[u8]) -> Key {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(bytes);
    key
}

pub(super) fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|index| left[index] ^ right[index])
}

/// Compares in a time that does not depend on where the two differ: by their signatures, which `ring` compares so.
pub(super) fn same(left: &Key, right: &Key) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, left);
    hmac::verify(&key, right, hmac::sign(&key, left).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_text() {
        let keys = Keys::derive("pencil", b"salt", ITERATIONS_MIN).unwrap();
        assert_eq!(keys.to_string().parse(), Ok(keys.clone()));
        assert!(!format!("{keys:?}").contains(&BASE64_STANDARD.encode(keys.stored_key)));
    }

    #[test]
    fn wrong_texts_are_refused() {
        let good = Keys::derive("pencil", b"salt", ITERATIONS_MIN).unwrap().to_string();
        let rows = [
            String::new(),
            good.replace("SCRAM-SHA-256", "SCRAM-SHA-1"),
            good.replace("$4096", "$4095"),
            good.replace("$4096", "$x"),
            good.replace("c2FsdA==", ""),
            good.replace("c2FsdA==", "c2FsdA"),
            good[..good.len() - 4].to_owned(),
        ];
        for text in rows {
            assert_eq!(text.parse::<Keys>(), Err(KeysError), "{text}");
        }
    }

    #[test]
    fn same_compares_whole_keys() {
        let key = hash(b"a");
        assert!(same(&key, &hash(b"a")));
        for index in 0..KEY_BYTES {
            let mut other = key;
            other[index] ^= 1;
            assert!(!same(&key, &other));
        }
    }

    #[test]
    fn passwords_and_iterations_have_bounds() {
        assert!(Keys::derive("", b"salt", ITERATIONS_MIN).is_err());
        assert!(Keys::derive("a\0b", b"salt", ITERATIONS_MIN).is_err());
        assert!(Keys::derive("a", b"", ITERATIONS_MIN).is_err());
        assert!(Keys::derive("a", b"salt", ITERATIONS_MIN - 1).is_err());
        assert!(Keys::derive("a", b"salt", ITERATIONS_MAX + 1).is_err());
    }
}
