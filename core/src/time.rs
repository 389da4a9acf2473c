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
    /// As RFC 3339 has it, in UTC and with milliseconds: `2026-05-04T12:00:00.250Z`.
    pub fn rfc3339(self) -> String {
        let (days, of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil(days);
        let (seconds, milliseconds) = (of_day / 1000, of_day % 1000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
    }
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
    fn dates_are_the_calendars() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Millis(milliseconds).rfc3339(), text);
        }
    }
}
