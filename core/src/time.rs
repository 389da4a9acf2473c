//! The one notion of time inside the middle. It never asks for the time: the edge hands it in.

/// Unix time in milliseconds, made monotonic by the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// This many seconds later; saturates.
    pub const fn plus_seconds(self, seconds: u32) -> Millis {
        Millis(self.0.saturating_add(seconds as u64 * 1000))
    }

    /// Whole seconds from `self` until `later`, rounded up; 0 when `later` is past.
    pub const fn seconds_until(self, later: Millis) -> u32 {
        let seconds = later.0.saturating_sub(self.0).div_ceil(1000);
        if seconds > u32::MAX as u64 { u32::MAX } else { seconds as u32 }
    }
}

impl Millis {
    /// As RFC 3339 has it, in UTC and with milliseconds: `2026-05-04T12:00:00.250Z`. Years have four digits.
    pub fn rfc3339(self) -> Rfc3339 {
        let (days, of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil(days);
        let (seconds, milliseconds) = (of_day / 1000, of_day % 1000);
        // By hand, and not by a formatter: it is done for messages.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        put_digits(&mut text[0..4], year);
        put_digits(&mut text[5..7], month);
        put_digits(&mut text[8..10], day);
        put_digits(&mut text[11..13], seconds / 3600);
        put_digits(&mut text[14..16], seconds / 60 % 60);
        put_digits(&mut text[17..19], seconds % 60);
        put_digits(&mut text[20..23], milliseconds);
        Rfc3339(text)
    }
}

/// A time as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rfc3339([u8; 24]);

impl Rfc3339 {
    /// The text.
    pub fn as_str(&self) -> &str {
        // It is made of ASCII, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Fills the text with the last digits of a number.
fn put_digits(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A number as text, without a formatter: it is done for messages.
pub(crate) fn decimal(number: u64, room: &mut [u8; 20]) -> &str {
    put_digits(room, number);
    let first = room.iter().position(|digit| *digit != b'0').unwrap_or(room.len() - 1);
    std::str::from_utf8(&room[first..]).unwrap_or_default()
}

/// Year, month and day so many days after 1 January 1970, in the Gregorian calendar. Years are counted from March, so that the day a
/// leap year has more is its last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From 1 March of the year 0.
    let days = days + 719_468;
    let (era, of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_zeros_in_front() {
        for (number, text) in [(0, "0"), (7, "7"), (10, "10"), (u64::MAX, "18446744073709551615")] {
            assert_eq!(decimal(number, &mut [0; 20]), text);
        }
    }

    #[test]
    fn dates_are_the_calendars() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Millis(milliseconds).rfc3339().as_str(), text);
        }
    }
}
