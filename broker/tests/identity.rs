//! Who connects, by certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of this is test code")]

mod support;

use causeway_broker::config::{CertificateVin, ClientCertificate, Config, IdentitySettings, Listener, Transport};
use rustls::version::{TLS12, TLS13};
use support::*;

const VIN: &str = "1M8GDM9AXKP042788";
const OTHER: &str = "WVWZZZ1JZ3W386752";
const ONLY_TLS12: Versions = &[&TLS12];
const ONLY_TLS13: Versions = &[&TLS13];

/// A listener of each transport with TLS that requires certificates, and one without TLS.
fn listeners(authority: &Authority) -> Vec<Listener> {
    let tls = authority.settings(ClientCertificate::Required);
    let secure = |name: &str, transport| Listener {
        name: name.to_owned(),
        tls: Some(tls.clone()),
        ..listener(transport)
    };
    vec![secure("tls", Transport::Tls), secure("wss", Transport::Wss), listener(Transport::Tcp)]
}

fn vehicle(authority: &Authority, vin: &str, versions: Versions) -> ClientOf {
    authority.client("TCU", &[&format!("urn:vin:{vin}")], versions)
}

#[test]
fn a_vehicle_is_who_its_certificate_says() {
    let authority = Authority::new();
    let broker = Broker::start(listeners(&authority));
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let tcu = vehicle(&authority, VIN, versions);
        for (id, reason) in [(VIN, 0), (&format!("{VIN}/hmi"), 0), (OTHER, 0x85), ("tcu-17", 0x85)] {
            let mut client = Client::new(tcu.dial(broker.addresses[0]));
            client.send(&connect(id, 0));
            client.expect_connack(reason);
            let mut client = Client::new(WebSocket::upgrade(tcu.dial(broker.addresses[1])));
            client.send(&connect(id, 0));
            client.expect_connack(reason);
        }
    }
}

#[test]
fn a_certificate_outranks_a_user_name() {
    let authority = Authority::new();
    let broker = Broker::start(listeners(&authority));
    let tcu = vehicle(&authority, VIN, ONLY_TLS13);
    let mut client = Client::new(tcu.dial(broker.addresses[0]));
    client.send(&connect_as(VIN, "?SDK=Python&Version=1.0", ""));
    client.expect_connack(0);

    // Without an identifier of its own, a vehicle gets one that is its own.
    let mut client = Client::new(tcu.dial(broker.addresses[0]));
    client.send(&connect("", 0));
    let (first, body) = client.read_packet();
    assert_eq!((first, body[1]), (0x20, 0));
    assert!(String::from_utf8_lossy(&body).contains(&format!("{VIN}/auto-")));
}

#[test]
fn identifiers_of_vehicles_are_theirs_alone() {
    let authority = Authority::new();
    let broker = Broker::start(listeners(&authority));
    let service = authority.client("x", &["urn:causeway:service:ota"], ONLY_TLS13);
    for (id, reason) in [("ota", 0), (VIN, 0x85), (&format!("{VIN}/x"), 0x85)] {
        let mut client = Client::new(service.dial(broker.addresses[0]));
        client.send(&connect(id, 0));
        client.expect_connack(reason);
        let mut client = Client::new(dial(broker.addresses[2]));
        client.send(&connect(if reason == 0 { "another" } else { id }, 0));
        client.expect_connack(reason);
    }
}

#[test]
fn who_is_nobody_is_refused() {
    let authority = Authority::new();
    let broker = Broker::start(listeners(&authority));
    for (common_name, uri) in
        [("claim:plant-7", "urn:causeway:claim:plant-7"), (OTHER, &format!("urn:vin:{VIN}")), ("", "https://a.example")]
    {
        let client = authority.client(common_name, &[uri], ONLY_TLS13);
        let mut client = Client::new(client.dial(broker.addresses[0]));
        client.send(&connect("x", 0));
        client.expect_connack(0x87);
        client.expect_end();
    }
}

#[test]
fn where_the_vin_stands_is_configured() {
    let authority = Authority::new();
    let identity = IdentitySettings { certificate_vin: CertificateVin::SanUri, ..IdentitySettings::default() };
    let broker = Broker::with(Config { listener: listeners(&authority), identity, ..Config::default() });
    let by_name = authority.client(VIN, &[], ONLY_TLS13);
    for (client, reason) in [(by_name, 0x87), (vehicle(&authority, VIN, ONLY_TLS13), 0)] {
        let mut client = Client::new(client.dial(broker.addresses[0]));
        client.send(&connect(VIN, 0));
        client.expect_connack(reason);
    }
}
