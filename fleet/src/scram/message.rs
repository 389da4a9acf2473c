//! The grammar of RFC 5802, section 7.
//!
//! Owns cutting messages into attributes and back. It knows no keys.

use std::borrow::Cow;

use super::{MESSAGE_BYTES_MAX, ScramError, prepare};

/// The message as text.
pub(super) fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::Malformed("too long"));
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

/// The attributes of a message, one after the other.
pub(super) struct Attributes<'a>(std::str::Split<'a, char>);

impl<'a> Attributes<'a> {
    /// Starts at the first. The mandatory extension `m=` is refused here: none is known.
    pub(super) fn new(text: &'a str) -> Result<Attributes<'a>, ScramError> {
        match text.starts_with("m=") {
            true => Err(ScramError::Unsupported("a mandatory extension")),
            false => Ok(Attributes(text.split(','))),
        }
    }

    /// The value of the next attribute, which must have this name (such as `"r="`).
    pub(super) fn expect(&mut self, name: &str, error: &'static str) -> Result<&'a str, ScramError> {
        self.0.next().and_then(|attribute| attribute.strip_prefix(name)).ok_or(ScramError::Malformed(error))
    }
}

/// A nonce: printable ASCII without comma, at least one character.
pub(super) fn nonce(text: &str) -> Result<&str, ScramError> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    match printable && !text.is_empty() {
        true => Ok(text),
        false => Err(ScramError::Malformed("a nonce that is empty or not printable ASCII")),
    }
}

/// Undoes [`escape`], and checks that the name is fit to be one.
pub(super) fn unescape(text: &str) -> Result<String, ScramError> {
    let mut name = String::with_capacity(text.len());
    let mut parts = text.split('=');
    name.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => {
                return Err(ScramError::Malformed("an equals sign in the user name that is neither =2C nor =3D"));
            }
        };
        name.push(character);
        name.push_str(rest);
    }
    prepare(&name)?;
    Ok(name)
}

/// A name as it may stand in a message: without comma and equals sign.
pub(super) fn escape(name: &str) -> Cow<'_, str> {
    match name.contains([',', '=']) {
        true => Cow::Owned(name.replace('=', "=3D").replace(',', "=2C")),
        false => Cow::Borrowed(name),
    }
}
