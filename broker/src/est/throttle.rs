//! How often an address may be refused before it has to wait.
//!
//! Owns the counts, bounded in number and in time. It reads no clock: `now` is in seconds.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Failures that are answered in one window.
const FAILURES_MAX: u32 = 30;
/// Seconds of a window.
const WINDOW_SECONDS: i64 = 60;
/// Addresses that are counted at the same time. Tokens cannot be guessed, whoever tries: what is bounded here is work and log lines.
const ADDRESSES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    windows: HashMap<IpAddr, Window>,
}

#[derive(Debug)]
struct Window {
    began: i64,
    failures: u32,
}

impl Window {
    fn left(&self, now: i64) -> i64 {
        // Where the clock was set back, it is over.
        (self.began + WINDOW_SECONDS - now).clamp(0, WINDOW_SECONDS) * i64::from(now >= self.began)
    }
}

impl Throttle {
    /// For how many seconds an address has to wait. 0: it need not.
    pub(super) fn wait_seconds(&self, address: IpAddr, now: i64) -> i64 {
        match self.windows.get(&network(address)) {
            Some(window) if window.failures >= FAILURES_MAX => window.left(now),
            _ => 0,
        }
    }

    /// Counts a failure.
    pub(super) fn failed(&mut self, address: IpAddr, now: i64) {
        let address = network(address);
        if self.windows.len() >= ADDRESSES_MAX && !self.windows.contains_key(&address) {
            self.windows.retain(|_, window| window.left(now) > 0);
            if self.windows.len() >= ADDRESSES_MAX {
                return;
            }
        }
        let window = self.windows.entry(address).or_insert(Window { began: now, failures: 0 });
        if window.left(now) == 0 {
            *window = Window { began: now, failures: 0 };
        }
        window.failures += 1;
    }
}

/// Who has one IPv6 address usually has all of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_fails_often_waits_for_the_rest_of_the_minute() {
        let mut throttle = Throttle::default();
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..FAILURES_MAX {
            assert_eq!(throttle.wait_seconds(one, 1010), 0);
            throttle.failed(one, 1000);
        }
        assert_eq!(throttle.wait_seconds(one, 1010), 50);
        assert_eq!(throttle.wait_seconds(other, 1010), 0);
        assert_eq!(throttle.wait_seconds(one, 1060), 0);
        assert_eq!(throttle.wait_seconds(one, 0), 0, "the clock was set back");
        throttle.failed(one, 1060);
        assert_eq!(throttle.wait_seconds(one, 1061), 0, "a new window");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        assert_eq!(network(address("2001:db8::1")), network(address("2001:db8::ffff:1")));
        assert_ne!(network(address("2001:db8::1")), network(address("2001:db8:0:1::1")));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }

    #[test]
    fn addresses_are_bounded() {
        let mut throttle = Throttle::default();
        for number in 0..2 * ADDRESSES_MAX as u32 {
            throttle.failed(IpAddr::from(number.to_be_bytes()), 0);
        }
        assert_eq!(throttle.windows.len(), ADDRESSES_MAX);
        throttle.failed(address("192.0.2.1"), WINDOW_SECONDS);
        assert_eq!(throttle.windows.len(), 1);
    }
}
