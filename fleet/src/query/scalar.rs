//! Values that can be indexed and compared.
//!
//! Owns their order: truth before numbers before texts. Numbers are those of JSON as 64-bit floating point.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// Longer texts are not indexed.
pub(super) const TEXT_BYTES_MAX: usize = 128;

/// A value. It takes 16 bytes, and equal texts can share theirs.
#[derive(Debug, Clone)]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A number; never one that is none.
    Number(f64),
    /// A text.
    Text(Arc<Box<str>>),
}

impl Scalar {
    /// The value of a leaf of a shadow. None where it cannot be indexed: an object, a list, or a text of more than
    /// `TEXT_BYTES_MAX` bytes.
    pub fn of(value: &Value) -> Option<Scalar> {
        match value {
            Value::Bool(value) => Some(Scalar::Bool(*value)),
            Value::Number(number) => number.as_f64().map(Scalar::number),
            Value::String(text) => (text.len() <= TEXT_BYTES_MAX).then(|| Scalar::from(text.as_str())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// A number. Zero has no sign.
    pub fn number(number: f64) -> Scalar {
        Scalar::Number(number + 0.0)
    }

    /// As a value of JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Scalar::Bool(value) => Value::Bool(*value),
            // One without a fraction is written as it is in most documents.
            Scalar::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Value::from(*number as i64),
            Scalar::Number(number) => Value::from(*number),
            Scalar::Text(text) => Value::from(text.as_ref().as_ref()),
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Scalar::Text(text) => Some(text),
            Scalar::Bool(_) | Scalar::Number(_) => None,
        }
    }

    pub(super) fn is_same_kind(&self, other: &Scalar) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    fn rank(&self) -> u8 {
        match self {
            Scalar::Bool(_) => 0,
            Scalar::Number(_) => 1,
            Scalar::Text(_) => 2,
        }
    }
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Scalar {
        Scalar::Text(Arc::new(text.into()))
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Scalar) -> Ordering {
        match (self, other) {
            (Scalar::Bool(one), Scalar::Bool(other)) => one.cmp(other),
            (Scalar::Number(one), Scalar::Number(other)) => one.total_cmp(other),
            (Scalar::Text(one), Scalar::Text(other)) => match Arc::ptr_eq(one, other) {
                true => Ordering::Equal,
                false => one.cmp(other),
            },
            (one, other) => one.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Scalar) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Scalar) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scalar {}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_json())
    }
}
