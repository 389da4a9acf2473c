//! The query and the names in a path.
//!
//! Owns percent encoding, there and back.

use std::fmt::Write as _;

use super::Problem;

/// What stands behind the question mark.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// # Errors
    /// A key is not one of those that are `known`, or there twice, or not UTF-8.
    pub(crate) fn parse(text: &str, known: &[&str]) -> Result<Query, Problem> {
        let mut query = Query::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // In queries, and only there, a space is often written so.
            let (key, value) = (decoded(&key.replace('+', " ")), decoded(&value.replace('+', " ")));
            let (Some(key), Some(value)) = (key, value) else {
                return Err(Problem::new(400, format!("the query has {pair:?}, which is not encoded well")));
            };
            if !known.contains(&key.as_str()) || query.get(&key).is_some() {
                let why = format!("the query has {key:?}, which is unknown here, or there twice");
                return Err(Problem::new(400, why));
            }
            query.0.push((key, value));
        }
        Ok(query)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

/// The text that was percent-encoded. None where it was not, or is not UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|it| it.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// A text as one word of a path, or a value of a query.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' => {
                encoded.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for text in ["client:a/b c", "ü%", "a+b", "", "x509:01@aa"] {
            assert_eq!(decoded(&encoded(text)).as_deref(), Some(text));
        }
        assert_eq!(encoded("client:a/b"), "client:a%2Fb");
        for wrong in ["%", "%1", "%zz", "%+1", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_query_has_known_keys_once() {
        let query = Query::parse("after=a%2Fb&limit=3&", &["after", "limit"]).unwrap();
        assert_eq!((query.get("after"), query.get("limit"), query.get("x")), (Some("a/b"), Some("3"), None));
        for wrong in ["x=1", "limit=1&limit=2", "limit=%"] {
            assert!(Query::parse(wrong, &["limit"]).is_err(), "{wrong}");
        }
    }
}
