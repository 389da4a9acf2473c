//! One line: its fields, and what chains it to the line before.
//!
//! Owns the format. A line is one JSON object; `prev` is the SHA-256 of the whole line before it, without its end of line, and `sum` the
//! beginning of the SHA-256 of what stands before `sum` in the line itself, so that the last line is checked, too.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::event::AuditEvent;

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 256;
/// Bytes of a detail.
const DETAIL_BYTES_MAX: usize = 1024;
/// Hexadecimal digits of `sum`.
const SUM_DIGITS: usize = 16;
/// What stands before them, and after.
const SUM_BEGIN: &str = ",\"sum\":\"";
const SUM_END: &str = "\"}";

/// The SHA-256 of nothing that was ever written: what the first line of all follows.
pub(super) const NO_LINE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What stands in one line, except `sum`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counted from 1, over all files.
    pub seq: u64,
    /// When it happened: RFC 3339, UTC, in milliseconds.
    pub at: String,
    /// See [`super::What`].
    pub what: String,
    /// See [`super::Decision`].
    pub decision: String,
    /// The principal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub who: String,
    /// The client identifier.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// Address and port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// What the client was told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How many of these there were.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
    /// In a line that closes what a crash tore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn: Option<Torn>,
    /// In a line that begins a file: the sequence number of the oldest that is kept. Older files are removed after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u64>,
    /// The SHA-256 of the line before it, in hexadecimal digits.
    pub prev: String,
}

/// What stood before a line and was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    /// How long it was. An end of line was put behind it.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

fn one() -> u64 {
    1
}

fn is_one(count: &u64) -> bool {
    *count == 1
}

impl Line {
    /// The line of an event that happened so many milliseconds after 1970. Its place in the chain is still to be given.
    pub(super) fn of(event: &AuditEvent, at_ms: u64) -> Line {
        Line {
            seq: 0,
            at: rfc3339(at_ms),
            what: event.what.word().to_owned(),
            decision: event.decision.word().to_owned(),
            who: cut(&event.who, NAME_BYTES_MAX),
            client: cut(&event.client, NAME_BYTES_MAX),
            peer: event.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            reason: event.reason.map(|reason| reason.to_string()).unwrap_or_default(),
            rule: cut(&event.rule, NAME_BYTES_MAX),
            detail: cut(&event.detail, DETAIL_BYTES_MAX),
            count: event.count,
            torn: None,
            oldest: None,
            prev: String::new(),
        }
    }

    /// As it stands in the file, without the end of line.
    pub(super) fn encode(&self) -> String {
        // Numbers and texts always have a JSON form.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.pop();
        let sum = sum(text.as_bytes());
        text.push_str(SUM_BEGIN);
        text.push_str(&sum);
        text.push_str(SUM_END);
        text
    }

    /// What stands in the bytes between two ends of line.
    ///
    /// # Errors
    /// What keeps it from being a line.
    pub fn decode(bytes: &[u8]) -> Result<Line, String> {
        let tail = SUM_BEGIN.len() + SUM_DIGITS + SUM_END.len();
        let body = bytes.len().checked_sub(tail).map(|end| &bytes[..end]).ok_or("it is too short")?;
        let expected = [SUM_BEGIN.as_bytes(), sum(body).as_bytes(), SUM_END.as_bytes()].concat();
        if bytes[body.len()..] != expected {
            return Err("its sum is wrong: it was changed, or is torn".to_owned());
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

fn sum(bytes: &[u8]) -> String {
    let mut hash = sha256(bytes);
    hash.truncate(SUM_DIGITS);
    hash
}

/// The SHA-256 in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest(&SHA256, bytes).as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// At most so many bytes of a text, with a note of its length where that is less than all.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}… ({} bytes)", &text[..end], text.len())
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Such as `2026-01-31T23:59:59.123Z`. Texts of this form are in the order of their times.
fn rfc3339(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1000)
}

/// Year, month and day, so many days after 1970-01-01. Years are counted from March, so that the leap day is the last of one.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::super::event::{Decision, What};
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_001, "2000-03-01T00:00:00.001Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }

    #[test]
    fn a_line_says_what_it_was_made_of() {
        let event =
            AuditEvent { client: "a\n\"b\"".into(), ..AuditEvent::new(What::Ban, Decision::Deny, "é".repeat(600)) };
        let line = Line { seq: 7, prev: NO_LINE.into(), ..Line::of(&event, 0) };
        let text = line.encode();
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(Line::decode(text.as_bytes()), Ok(line.clone()));
        assert!(line.detail.ends_with("… (1200 bytes)") && line.detail.len() < 1060);
    }

    #[test]
    fn every_change_of_a_byte_is_noticed() {
        let event = AuditEvent::new(What::Start, Decision::Note, "x");
        let text = Line { seq: 1, prev: NO_LINE.into(), ..Line::of(&event, 0) }.encode().into_bytes();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.clone();
                changed[at] ^= 1 << bit;
                assert!(Line::decode(&changed).is_err(), "byte {at}, bit {bit}");
            }
        }
    }
}
