//! Times as text.
//!
//! Owns one notation, that of RFC 3339 in UTC without fractions (`2026-11-22T01:20:00Z`), and the only look at the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use time::{Date, Month, OffsetDateTime, Time};

use super::PkiError;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// Seconds since 1970, as the system says. A clock before that counts as 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Seconds since 1970 as text.
pub fn stamp(seconds: i64) -> String {
    // Nothing that was issued is beyond the year 9999.
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// What [`stamp`] wrote.
pub(super) fn parse_stamp(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 20 || !text.is_ascii() || !text.ends_with('Z') {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u16>().ok();
    let small = |from: usize, to: usize| number(from, to).and_then(|number| u8::try_from(number).ok());
    let month = Month::try_from(small(5, 7)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(0, 4)?), month, small(8, 10)?).ok()?;
    let time = Time::from_hms(small(11, 13)?, small(14, 16)?, small(17, 19)?).ok()?;
    let seconds = date.with_time(time).assume_utc().unix_timestamp();
    // The separators, too.
    (stamp(seconds) == text).then_some(seconds)
}

/// The time as certificates want it.
///
/// # Errors
/// No calendar goes that far.
pub(super) fn moment(seconds: i64) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| PkiError::Name(format!("{seconds} seconds after 1970 is no time for a certificate")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_their_text() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_310_399, "2026-11-22T01:19:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(stamp(seconds), text);
            assert_eq!(parse_stamp(text), Some(seconds));
        }
        for wrong in ["", "2026-11-22 01:19:59Z", "2026-13-22T01:19:59Z", "2026-11-22T01:19:60Z", "é26-11-22T01:19:59Z"]
        {
            assert_eq!(parse_stamp(wrong), None, "{wrong}");
        }
    }
}
