//! Limits by what somebody is: rates, flapping and bans, over real connections.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use causeway_broker::config::{ClassLimits, Config, LimitSettings, Listener, Transport};
use support::*;

fn broker(anonymous: ClassLimits) -> Broker {
    let limits = LimitSettings { anonymous, ..LimitSettings::default() };
    let ahead = Listener { handshakes_ahead: true, name: "ahead".into(), ..listener(Transport::Tcp) };
    Broker::with(Config { listener: vec![listener(Transport::Tcp), ahead], limits, ..Config::default() })
}

#[test]
fn who_sends_more_than_its_rate_waits_and_loses_nothing() {
    let broker = broker(ClassLimits { messages_per_second: 100, burst_seconds: 1, ..ClassLimits::default() });
    let mut client = broker.client("quick");
    client.subscribe("t", 0);
    let started = Instant::now();
    let all: Vec<u8> = (0..200u16).flat_map(|number| publish("t", 0, &number.to_be_bytes())).collect();
    client.send(&all);
    for number in 0..200u16 {
        client.expect(0x30, &publish_body("t", &number.to_be_bytes()));
    }
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900), "100 at once, 100 in a second: {took:?}");
    assert!(broker.observed.edge().reads_paused.get() > 0);
    // What is no message costs nothing, once it is its turn.
    client.send(&[0xC0, 0]);
    client.expect(0xD0, &[]);
}

#[test]
fn bytes_have_a_rate_too_and_others_do_not_wait() {
    let broker = broker(ClassLimits { bytes_per_second: 20_000, burst_seconds: 1, ..ClassLimits::default() });
    let (mut client, mut other) = (broker.client("greedy"), broker.client("modest"));
    let started = Instant::now();
    client.send(&publish("t", 1, &[0; 50_000]));
    client.send(&[0xC0, 0]);
    check_round_trip(&mut other, b"payload");
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    let (first, _) = client.read_packet();
    assert_eq!(first, 0x40);
    client.expect(0xD0, &[]);
    client.send(&[0xC0, 0]);
    client.expect(0xD0, &[]);
    assert!(started.elapsed() > Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn who_flaps_is_banned_and_others_are_not() {
    let broker = broker(ClassLimits { flapping_connects: 3, ..ClassLimits::default() });
    (0..3).for_each(|_| drop(broker.client("flapping")));
    for address in [0, 1] {
        let mut client = Client::new(dial(broker.addresses[address]));
        client.send(&connect("flapping", 0));
        client.expect_connack(0x8A);
    }
    assert_eq!(broker.observed.edge().flapping_bans.get(), 1);
    eventually("it is in the registry", || {
        let page = Default::default();
        broker
            .running()
            .registry()
            .bans(&page, 0)
            .unwrap()
            .0
            .iter()
            .any(|(who, _)| who.to_string() == "client:anonymous/flapping")
    });
    broker.client("calm");
}

#[test]
fn one_class_may_connect_only_so_often() {
    let broker = broker(ClassLimits { own_connects_per_minute: 2, ..ClassLimits::default() });
    (0..2).for_each(|_| drop(broker.client("often")));
    let mut client = broker.dial();
    client.send(&connect("often", 0));
    client.expect_connack(0x9F);
    broker.client("seldom");
    assert_eq!(broker.observed.edge().refused_rate.get(), 1);
}

#[test]
fn a_banned_address_is_not_heard() {
    let broker = broker(ClassLimits::default());
    drop(broker.client("before"));
    broker.running().registry().ban(&"address:127.0.0.0/8".parse().unwrap(), None, "test", 1).unwrap();
    broker.dial().expect_end();
    assert_eq!(broker.observed.edge().refused_banned.get(), 1);
}

#[test]
fn a_listener_whose_handshakes_go_ahead_serves() {
    let broker = broker(ClassLimits::default());
    let mut client = Client::new(dial(broker.addresses[1]));
    client.connect("service");
    check_round_trip(&mut client, b"payload");
    broker.stop()().unwrap();
    client.expect_disconnect(0x8B);
}
