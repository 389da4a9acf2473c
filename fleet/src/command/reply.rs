//! Which request a vehicle's message answers.
//!
//! Owns the three ways to say it: the Correlation Data that came with the command, the last level of the topic, and a field of the payload. It
//! never knows whether there is such a request.

use std::borrow::Cow;

use serde_json::Value;

use super::CommandId;

/// The field of a request and of its reply.
const REQUEST_ID: &str = "request_id";
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Larger payloads are not looked into.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The command that a message names by its Correlation Data, or else by the last level of its topic. `may_be` says of a number whether there can be
/// such a command: others only look like one.
pub fn named_id(
    topic: &str,
    correlation_data: Option<&[u8]>,
    may_be: impl Fn(&CommandId) -> bool,
) -> Option<CommandId> {
    let of_topic = || CommandId::of_bytes(topic.rsplit('/').next()?.as_bytes());
    correlation_data.and_then(CommandId::of_bytes).filter(&may_be).or_else(|| of_topic().filter(&may_be))
}

/// The `request_id` of a payload that is a JSON object and has one: a text of up to 128 bytes, or a whole number.
pub fn request_id(payload: &[u8]) -> Option<String> {
    let starts = payload.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    // It is asked about every reply and request: what can't be one is not parsed.
    if !starts || payload.len() > PAYLOAD_BYTES_MAX || !has_word(payload) {
        return None;
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(payload) else { return None };
    let id: Cow<'_, str> = match fields.get(REQUEST_ID)? {
        Value::String(text) => text.into(),
        Value::Number(number) if !number.is_f64() => number.to_string().into(),
        _ => return None,
    };
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()).then(|| id.into_owned())
}

fn has_word(payload: &[u8]) -> bool {
    payload.windows(REQUEST_ID.len()).any(|window| window == REQUEST_ID.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "c00000000002d";

    #[test]
    fn correlation_data_goes_before_the_topic() {
        let (id, other) = (CommandId::new(77), CommandId::new(78));
        let last = "location/c00000000002d";
        for (topic, correlation, named) in [
            ("location", None, None),
            ("location", Some(ID), id),
            (last, None, id),
            (last, Some("c00000000002e"), other),
            (last, Some("their own"), id),
            ("c00000000002d/location", None, None),
            ("location", Some(""), None),
            (ID, None, id),
            ("", None, None),
        ] {
            assert_eq!(named_id(topic, correlation.map(str::as_bytes), |_| true), named, "{topic} {correlation:?}");
        }
        let is_other = |id: &CommandId| Some(*id) == other;
        assert_eq!(named_id(last, Some(b"c00000000002e"), is_other), other);
        assert_eq!(named_id(last, Some(b"their own"), is_other), None);
        let is_it = |named: &CommandId| Some(*named) == id;
        assert_eq!(named_id(last, Some(b"c00000000002e"), is_it), id);
    }

    #[test]
    fn a_payload_names_its_request_in_a_field() {
        let long = format!("{{\"request_id\":\"{}\"}}", "x".repeat(129));
        for (payload, id) in [
            (r#"{"request_id":"a7"}"#, Some("a7")),
            (r#" {"lat":1.5,"request_id":42}"#, Some("42")),
            (r#"{"request_id":-3}"#, Some("-3")),
            (r#"{"request_id":""}"#, None),
            (r#"{"request_id":1.5}"#, None),
            (r#"{"request_id":null}"#, None),
            (r#"{"nested":{"request_id":"a7"}}"#, None),
            (r#"["request_id"]"#, None),
            (r#"{"request_id":"a7""#, None),
            ("", None),
            (&long, None),
        ] {
            assert_eq!(request_id(payload.as_bytes()).as_deref(), id, "{payload}");
        }
        let deep = format!("{{\"request_id\":{}", "[".repeat(10_000));
        assert_eq!(request_id(deep.as_bytes()), None);
    }
}
