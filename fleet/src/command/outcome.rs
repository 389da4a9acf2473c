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
