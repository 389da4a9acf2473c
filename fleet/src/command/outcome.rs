//! What becomes of a command: one of these, once.
//!
//! Owns their words, and the document that stands in for a reply where there is none.

use super::CommandId;
use crate::Vin;

/// See the module. The numbers are those of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// The vehicle answered.
    Replied = 0,
    /// It did not, until the deadline.
    TimedOut = 1,
    /// It was away, and the request was not to wait.
    Offline = 2,
    /// The request is one that is not carried out.
    Refused = 3,
    /// Too many are pending.
    QueueFull = 4,
    /// The vehicle was retired, suspended or banned.
    Retired = 5,
    /// Another request has the same idempotency key.
    Conflict = 6,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Outcome; 7] = [
        Outcome::Replied,
        Outcome::TimedOut,
        Outcome::Offline,
        Outcome::Refused,
        Outcome::QueueFull,
        Outcome::Retired,
        Outcome::Conflict,
    ];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Replied => "replied",
            Outcome::TimedOut => "timed-out",
            Outcome::Offline => "offline",
            Outcome::Refused => "refused",
            Outcome::QueueFull => "queue-full",
            Outcome::Retired => "retired",
            Outcome::Conflict => "conflict",
        }
    }

    /// The outcome of a number.
    pub fn of_number(number: u8) -> Option<Outcome> {
        Outcome::ALL.get(usize::from(number)).copied()
    }
}

/// What a requester is sent where the vehicle did not answer: a JSON object.
pub fn document(outcome: Outcome, id: CommandId, vin: &Vin, name: &str, detail: &str) -> Vec<u8> {
    // Only the detail may hold what JSON escapes: the others are made of plain characters.
    let detail = serde_json::Value::from(detail).to_string();
    let (outcome, id, vin) = (outcome.word(), id.text(), vin.as_str());
    let parts = [
        "{\"outcome\":\"",
        outcome,
        "\",\"command\":\"",
        id.as_str(),
        "\",\"vehicle\":\"",
        vin,
        "\",\"name\":\"",
        name,
        "\",\"detail\":",
        &detail,
        "}",
    ];
    parts.concat().into_bytes()
}

/// What a requester is told in place of [`Outcome::Replied`] where it does not accept so large a packet. It is no outcome of its own: the command has
/// its reply, which others may read.
pub const TOO_LARGE: &str = "too-large";

/// What a requester is sent in place of a reply of so many bytes to the command of this number: a JSON object.
pub fn too_large_document(id: &str, payload_bytes: usize) -> Vec<u8> {
    let detail = format!(
        "the reply, of {payload_bytes} bytes, is larger than this client's Maximum Packet Size; GET /v1/commands/{id} tells it"
    );
    serde_json::json!({ "outcome": TOO_LARGE, "command": id, "bytes": payload_bytes, "detail": detail })
        .to_string()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_those_of_the_table() {
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
            assert_eq!(Outcome::of_number(at as u8), Some(outcome));
        }
        assert_eq!(Outcome::of_number(7), None);
    }

    #[test]
    fn what_stands_for_a_reply_is_json() {
        let read: serde_json::Value = serde_json::from_slice(&too_large_document("c00000000002d", 77)).unwrap();
        assert_eq!((&read["outcome"], &read["command"]), (&TOO_LARGE.into(), &"c00000000002d".into()));
        assert_eq!(read["bytes"], 77);
        assert!(Outcome::ALL.iter().all(|outcome| outcome.word() != TOO_LARGE));
    }

    #[test]
    fn the_document_is_json() {
        let vin = "1M8GDM9AXKP042788".parse().unwrap();
        let id = CommandId::new(77).unwrap();
        let document = document(Outcome::TimedOut, id, &vin, "get_location", "no \"reply\"");
        let read: serde_json::Value = serde_json::from_slice(&document).unwrap();
        let expected = serde_json::json!({
            "outcome": "timed-out", "command": "c00000000002d", "vehicle": "1M8GDM9AXKP042788",
            "name": "get_location", "detail": "no \"reply\"",
        });
        assert_eq!(read, expected);
    }
}
