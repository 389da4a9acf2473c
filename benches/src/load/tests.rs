//! The whole load on a relay in the same process.

use std::net::{Ipv4Addr, SocketAddr};

use super::pipe::Target;
use super::{Shape, measure};
use crate::relay::Relay;
use crate::wire::Version;

/// A relay that runs as long as the process of the tests.
fn relay() -> SocketAddr {
    let mut relay = Relay::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = relay.address().unwrap();
    std::thread::spawn(move || while relay.turn().is_ok() {});
    address
}

fn shape(scenario: &str, version: Version) -> Shape {
    Shape {
        scenario: scenario.to_owned(),
        qos: 0,
        payload: 64,
        window: None,
        rate: None,
        publishers: None,
        subscribers: None,
        version,
        warm_up_seconds: 0.05,
        seconds: 0.1,
    }
}

#[test]
fn every_message_through_a_relay_is_checked() {
    let address = relay();
    for (scenario, version) in [
        ("one-to-one", Version::V311),
        ("fan-in", Version::V5),
        ("fan-out", Version::V311),
        ("one-in-flight", Version::V5),
    ] {
        let target = Target::new(address, None, false).unwrap();
        let figures = measure(&shape(scenario, version), target, Some(std::process::id())).unwrap();
        assert!(figures.checked > 0 && figures.is_faultless(), "{figures:?}");
        assert!(figures.checked >= figures.delivered, "{figures:?}");
    }
}

#[test]
fn at_a_rate_just_so_many_are_sent() {
    let shape =
        Shape { rate: Some(2_000), publishers: Some(7), subscribers: Some(7), ..shape("one-to-one", Version::V5) };
    let figures = measure(&shape, Target::new(relay(), None, false).unwrap(), None).unwrap();
    assert!(figures.is_faultless(), "{figures:?}");
    // However late this thread is woken, what was due is sent.
    let due = 2_000.0 * figures.seconds;
    assert!((figures.sent as f64 - due).abs() <= 2.0, "{figures:?}");
}
