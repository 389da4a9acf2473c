//! How many certificates a vehicle gets in an hour.
//!
//! Owns the counts. Each certificate is kept for good, here and in the registry: who has a good one must not fill the disk with others. It
//! reads no clock: `now` is in seconds.

use std::collections::HashMap;

use causeway_fleet::Vin;

const HOUR_SECONDS: i64 = 3600;

#[derive(Debug, Default)]
pub(super) struct Pace {
    hour: i64,
    issued: HashMap<Vin, u32>,
}

impl Pace {
    /// More than any client needs that tries again.
    pub(super) const MAX: u32 = 16;

    /// Whether one more is issued, which is counted then.
    pub(super) fn may_issue(&mut self, vin: Vin, now: i64) -> bool {
        let hour = now.div_euclid(HOUR_SECONDS);
        if hour != self.hour {
            *self = Pace { hour, issued: HashMap::new() };
        }
        let issued = self.issued.entry(vin).or_default();
        *issued += 1;
        *issued <= Pace::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vehicle_gets_so_many_in_an_hour() {
        let (mut pace, vin) = (Pace::default(), "1M8GDM9AXKP042788".parse().unwrap());
        assert!((0..Pace::MAX).all(|_| pace.may_issue(vin, 7200)));
        assert!(!pace.may_issue(vin, 10_799));
        assert!(pace.may_issue("5GZCZ43D13S812715".parse().unwrap(), 10_799), "another one");
        assert!(pace.may_issue(vin, 10_800), "the next hour");
    }
}
