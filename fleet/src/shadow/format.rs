//! The formats of documents on the wire.
//!
//! Owns reading either into the one form inside, and writing it. It never says what a document means.

use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Rejection, cbor};

/// How documents are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `application/json`, or no content type at all.
    #[default]
    Json,
    /// `application/cbor`.
    Cbor,
}

impl Format {
    /// The format of a content type: CBOR if it says so, and JSON otherwise.
    pub fn of(content_type: Option<&str>) -> Format {
        match content_type.map(|text| text.split(';').next().unwrap_or_default().trim()) {
            Some(text) if text.eq_ignore_ascii_case(Format::Cbor.content_type()) => Format::Cbor,
            _ => Format::Json,
        }
    }

    /// What a document of it says as its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Cbor => "application/cbor",
        }
    }
}

/// The document in a format.
pub fn write(value: &Value, format: Format) -> Vec<u8> {
    match format {
        // Values have only text keys, so this cannot fail.
        Format::Json => serde_json::to_vec(value).unwrap_or_default(),
        Format::Cbor => cbor::to_vec(value),
    }
}

/// Reads a document. A key that comes twice in one object is an error in either format, and so is an integer of more than 64 bits: it would
/// lose digits.
///
/// # Errors
/// 400 and 415: what is wrong with it.
pub fn read(payload: &[u8], format: Format) -> Result<Value, Rejection> {
    match format {
        Format::Json => {
            let text = std::str::from_utf8(payload).map_err(|_| Rejection::encoding())?;
            let mut input = serde_json::Deserializer::from_str(text);
            let value = Json(cbor::DEPTH_MAX).deserialize(&mut input).and_then(|value| input.end().map(|()| value));
            let value = value.map_err(|problem| Rejection::bad(format!("Invalid JSON: {problem}")))?;
            match has_wide_integer(text) {
                false => Ok(value),
                true => Err(Rejection::bad("Invalid JSON: an integer that takes more than 64 bits")),
            }
        }
        Format::Cbor => cbor::from_slice(payload).map_err(|problem| Rejection::bad(format!("Invalid CBOR: {problem}"))),
    }
}

/// Whether an integer of a JSON document takes more than 64 bits. Whoever reads values sees but the nearest float, as of a number that was
/// written as one.
fn has_wide_integer(json: &str) -> bool {
    let (bytes, mut at, mut in_text) = (json.as_bytes(), 0, false);
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            // What is escaped ends no text.
            b'\\' => 2,
            b'-' | b'0'..=b'9' if !in_text => {
                let is_of_number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = bytes[at..].iter().take_while(is_of_number).count();
                if is_wide(&json[at..at + length]) {
                    return true;
                }
                length
            }
            byte => {
                in_text ^= *byte == b'"';
                1
            }
        };
    }
    false
}

fn is_wide(number: &str) -> bool {
    !number.contains(['.', 'e', 'E']) && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

/// Reads a value that is at most so many levels deep.
#[derive(Clone, Copy)]
struct Json(usize);

impl Json {
    fn below<E: Error>(self) -> Result<Json, E> {
        self.0.checked_sub(1).map(Json).ok_or_else(|| E::custom("too many levels of nesting"))
    }
}

impl<'de> DeserializeSeed<'de> for Json {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Json {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut read = Vec::new();
        while let Some(element) = elements.next_element_seed(below)? {
            read.push(element);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut read = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(below)?;
            if read.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} twice")));
            }
            read.insert(key, value);
        }
        read.sort_keys();
        Ok(Value::Object(read))
    }
}
