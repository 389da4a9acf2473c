//! Who connects, by certificates, tokens and passwords, and how it loses its right.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of this is test code")]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use causeway_broker::auth::{PasswordFile, hashing};
use causeway_broker::config::{
    Authentication, CertificateVin, ClientCertificate, Config, CrlUnknown, IdentitySettings, Jwt, Listener,
    PrincipalKind, Registry, Transport, UnknownVehicles,
};
use causeway_broker::registry::{State, now_ms};
use causeway_fleet::Vin;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use support::*;

const VIN: &str = "1M8GDM9AXKP042788";
const OTHER: &str = "WVWZZZ1JZ3W386752";
const ONLY_TLS12: Versions = &[&TLS12];
const ONLY_TLS13: Versions = &[&TLS13];

/// A listener of each transport with TLS that requires certificates, and one without TLS.
fn listeners(authority: &Authority) -> Vec<Listener> {
    let tls = authority.settings(ClientCertificate::Required);
    let secure =
        |name: &str, transport| Listener { name: name.to_owned(), tls: Some(tls.clone()), ..listener(transport) };
    vec![secure("tls", Transport::Tls), secure("wss", Transport::Wss), listener(Transport::Tcp)]
}

/// Vehicles need not be registered.
fn config(listener: Vec<Listener>) -> Config {
    let registry = Registry { unknown_vehicles: UnknownVehicles::Allow };
    Config { listener, registry, ..Config::default() }
}

fn start(listeners: Vec<Listener>) -> Broker {
    Broker::with(config(listeners))
}

fn vehicle(authority: &Authority, vin: &str, versions: Versions) -> ClientOf {
    authority.client("TCU", &[&format!("urn:vin:{vin}")], versions)
}

#[test]
fn a_vehicle_is_who_its_certificate_says() {
    let authority = Authority::new();
    let broker = start(listeners(&authority));
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
    let broker = start(listeners(&authority));
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
    let broker = start(listeners(&authority));
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
    let broker = start(listeners(&authority));
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
    let broker = Broker::with(Config { identity, ..config(listeners(&authority)) });
    let by_name = authority.client(VIN, &[], ONLY_TLS13);
    for (client, reason) in [(by_name, 0x87), (vehicle(&authority, VIN, ONLY_TLS13), 0)] {
        let mut client = Client::new(client.dial(broker.addresses[0]));
        client.send(&connect(VIN, 0));
        client.expect_connack(reason);
    }
}

/// As [`listeners`], with a list of revoked certificates.
fn with_revocations(authority: &Authority, revoked: &[&[u8]]) -> Vec<Listener> {
    let crl_file = authority.write("crl.pem", &authority.revocations(revoked));
    let mut listeners = listeners(authority);
    listeners.iter_mut().flat_map(|listener| &mut listener.tls).for_each(|tls| tls.crl_file = Some(crl_file.clone()));
    listeners
}

/// A TLS session that goes on from an earlier one of the same client, and its CONNACK.
fn resume(client: &ClientOf, address: SocketAddr, id: &str, reason: u8) {
    let mut resumed = Client::new(client.dial(address));
    resumed.send(&connect(id, 0));
    resumed.expect_connack(reason);
    assert_eq!(resumed.stream.conn.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn revoked_certificates_are_closed_at_once_and_refused() {
    let authority = Authority::new();
    let broker = start(with_revocations(&authority, &[]));
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        authority.write("crl.pem", &authority.revocations(&[]));
        let (stolen, other) = (vehicle(&authority, VIN, versions), vehicle(&authority, OTHER, versions));
        let mut tls = Client::new(stolen.dial(broker.addresses[0]));
        tls.connect(VIN);
        // Sessions are the listener's that they were begun at.
        let mut wss = Client::new(WebSocket::upgrade(stolen.without_sessions().dial(broker.addresses[1])));
        wss.connect(&format!("{VIN}/wss"));
        let mut untouched = Client::new(other.dial(broker.addresses[0]));
        untouched.connect(OTHER);

        // Nobody tells the broker: it looks.
        authority.write("crl.pem", &authority.revocations(&[&stolen.serial]));
        tls.expect_disconnect(0x87);
        wss.expect_disconnect(0x87);
        check_round_trip(&mut untouched, b"still here");

        resume(&stolen, broker.addresses[0], VIN, 0x87);
        resume(&other, broker.addresses[0], OTHER, 0);
        let again = vehicle(&authority, VIN, versions);
        Client::new(again.dial(broker.addresses[0])).connect(VIN);
        // Without an earlier session, it ends in TLS.
        let mut stranger = stolen.without_sessions().dial(broker.addresses[0]);
        let _ = stranger.write_all(&connect(VIN, 0));
        assert!(stranger.read(&mut [0]).is_err());
    }
}

#[test]
fn a_resumed_session_is_verified_by_the_authorities_of_now() {
    let (authority, other) = (Authority::new(), Authority::new());
    let broker = start(listeners(&authority));
    let tcu = vehicle(&authority, VIN, ONLY_TLS13);
    Client::new(tcu.dial(broker.addresses[0])).connect(VIN);
    resume(&tcu, broker.addresses[0], VIN, 0);

    let mut connected = Client::new(tcu.dial(broker.addresses[0]));
    connected.connect(VIN);
    authority.write("ca.pem", &other.pem());
    assert!(broker.wait_for(broker.running().reload_certificates()).is_empty());
    check_round_trip(&mut connected, b"a change of authorities closes nobody");
    resume(&tcu, broker.addresses[0], VIN, 0x87);

    authority.write("ca.pem", &format!("{}{}", authority.pem(), other.pem()));
    assert!(broker.wait_for(broker.running().reload_certificates()).is_empty());
    resume(&tcu, broker.addresses[0], VIN, 0);
}

#[test]
fn a_wrong_list_keeps_the_old_one() {
    let authority = Authority::new();
    let stolen = vehicle(&authority, VIN, ONLY_TLS13);
    let broker = start(with_revocations(&authority, &[&stolen.serial]));
    let mut connected = Client::new(vehicle(&authority, OTHER, ONLY_TLS13).dial(broker.addresses[0]));
    connected.connect(OTHER);
    for text in ["", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "-----BEGIN X509 CRL-----\n"] {
        authority.write("crl.pem", text);
        let errors = broker.wait_for(broker.running().reload_certificates());
        assert_eq!(errors.len(), 2, "{text:?}");
        assert!(errors[0].to_string().contains("crl.pem"), "{}", errors[0]);
        let mut refused = stolen.dial(broker.addresses[0]);
        let _ = refused.write_all(&connect(VIN, 0));
        assert!(refused.read(&mut [0]).is_err());
    }
    check_round_trip(&mut connected, b"still here");
}

#[test]
fn an_authority_without_a_list_is_a_matter_of_configuration() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (crl_unknown, accepted) in [(CrlUnknown::Refuse, false), (CrlUnknown::Allow, true)] {
        let mut listeners = listeners(&authority);
        let crl_file = authority.write("crl.pem", &other.revocations(&[]));
        let tls = listeners[0].tls.as_mut().unwrap();
        (tls.crl_file, tls.crl_unknown) = (Some(crl_file), crl_unknown);
        let broker = start(listeners);
        let mut client = vehicle(&authority, VIN, ONLY_TLS13).dial(broker.addresses[0]);
        let _ = client.write_all(&connect(VIN, 0));
        assert_eq!(client.read(&mut [0]).is_ok(), accepted);
    }
}

#[test]
fn a_suspended_vehicle_is_closed_at_once_and_refused() {
    let authority = Authority::new();
    let broker = start(listeners(&authority));
    let vins: [Vin; 2] = [VIN, OTHER].map(|vin| vin.parse().unwrap());
    let registry = broker.running().registry().clone();
    vins.iter().for_each(|vin| drop(registry.register(vin, 1).unwrap()));
    let tcu = vehicle(&authority, VIN, ONLY_TLS13);
    let mut tls = Client::new(tcu.dial(broker.addresses[0]));
    tls.connect(VIN);
    let mut wss = Client::new(WebSocket::upgrade(tcu.dial(broker.addresses[1])));
    wss.connect(&format!("{VIN}/wss"));
    let mut other = Client::new(vehicle(&authority, OTHER, ONLY_TLS13).dial(broker.addresses[0]));
    other.connect(OTHER);

    registry.set_state(&vins[..1], State::Suspended, 2).unwrap();
    tls.expect_disconnect(0x87);
    wss.expect_disconnect(0x87);
    check_round_trip(&mut other, b"still here");
    let mut refused = Client::new(tcu.without_sessions().dial(broker.addresses[0]));
    refused.send(&connect(VIN, 0));
    let (_, body) = refused.read_packet();
    assert_eq!(body[1], 0x87);
    assert!(String::from_utf8_lossy(&body).contains("is suspended"));

    registry.set_state(&vins[..1], State::Active, 3).unwrap();
    Client::new(tcu.dial(broker.addresses[0])).connect(VIN);
}

#[test]
fn a_vehicle_that_nobody_knows_is_refused() {
    let authority = Authority::new();
    let registry = Registry { unknown_vehicles: UnknownVehicles::Refuse };
    let broker = Broker::with(Config { registry, ..config(listeners(&authority)) });
    let mut refused = Client::new(vehicle(&authority, VIN, ONLY_TLS13).dial(broker.addresses[0]));
    refused.send(&connect(VIN, 0));
    refused.expect_connack(0x87);
}

#[test]
fn users_of_a_password_file_may_be_vehicles_and_lose_their_right_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    let vehicle = format!("vehicle:{VIN}");
    let mut users = PasswordFile::default();
    for name in [&vehicle, "operator:olga"] {
        users.users.insert(name.to_owned(), hashing::user("pencil", false).unwrap());
    }
    users.store(&path).unwrap();
    let authentication = Authentication { password_file: Some(path.clone()), ..Authentication::default() };
    let broker = Broker::with(Config { authentication, ..config(vec![listener(Transport::Tcp)]) });
    for (id, user, reason) in [(VIN, "operator:olga", 0x85), ("olga", &vehicle, 0x85), ("x", "?", 0x86)] {
        let mut client = broker.dial();
        client.send(&connect_as(id, user, "pencil"));
        client.expect_connack(reason);
    }
    let mut connected = [(VIN, vehicle.as_str()), ("olga", "operator:olga")].map(|(id, user)| {
        let mut client = broker.dial();
        client.send(&connect_as(id, user, "pencil"));
        client.expect_connack(0);
        client
    });
    users.users.remove(&vehicle);
    users.store(&path).unwrap();
    let gone = broker.authenticator.reload().unwrap().gone;
    broker.wait_for(broker.running().revoke(gone, "gone"));
    connected[0].expect_disconnect(0x87);
    check_round_trip(&mut connected[1], b"still here");
}

/// Signs tokens of which the broker knows the key.
struct Issuer {
    folder: tempfile::TempDir,
    pair: Ed25519KeyPair,
}

impl Issuer {
    fn new() -> Issuer {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Issuer { folder: tempfile::tempdir().unwrap(), pair: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap() }
    }

    fn settings(&self) -> Jwt {
        let key = BASE64_URL_SAFE_NO_PAD.encode(self.pair.public_key());
        let keys_file = self.folder.path().join("keys.json");
        let set = format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{key}"}}]}}"#);
        std::fs::write(&keys_file, set).unwrap();
        Jwt {
            keys_file,
            issuer: None,
            audience: None,
            leeway_seconds: 0,
            principal_claim: "sub".to_owned(),
            principal_kind: PrincipalKind::Prefixed,
            vin_claim: None,
        }
    }

    fn token(&self, subject: &str, seconds: u64) -> String {
        let exp = now_ms() / 1000 + seconds;
        let claims = format!(r#"{{"sub": "{subject}", "exp": {exp}}}"#);
        let [header, claims] = [r#"{"alg": "EdDSA"}"#, &claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{claims}");
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes())))
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// Properties of a CONNECT or AUTH that carries a token.
fn token_properties(token: &str) -> Vec<u8> {
    let properties = [&[0x15][..], &text("JWT"), &[0x16], &text(token)].concat();
    assert!((128..16_384).contains(&properties.len()));
    [&[(properties.len() & 0x7F | 0x80) as u8, (properties.len() >> 7) as u8][..], &properties].concat()
}

#[test]
fn a_token_is_a_password_and_ends_its_connection() {
    let issuer = Issuer::new();
    let authentication = Authentication { jwt: Some(issuer.settings()), ..Authentication::default() };
    let broker = Broker::with(Config { authentication, ..config(vec![listener(Transport::Tcp)]) });
    let vehicle = format!("vehicle:{VIN}");
    for (id, token, reason) in [
        (VIN, issuer.token(&vehicle, 60), 0),
        (OTHER, issuer.token(&vehicle, 60), 0x85),
        ("ota", issuer.token("service:ota", 60), 0),
        (VIN, issuer.token("service:ota", 60), 0x85),
        ("ota", Issuer::new().token("service:ota", 60), 0x86),
        ("ota", "pencil".to_owned(), 0x86),
    ] {
        let mut client = broker.dial();
        client.send(&connect_as(id, "anything", &token));
        client.expect_connack(reason);
        // With a password alone.
        let mut client = broker.dial();
        let body = [&b"\x00\x04MQTT\x05\x42\x00\x00\x00"[..], &text(id), &text(&token)].concat();
        client.send(&packet(0x10, &body));
        client.expect_connack(reason);
    }
    let mut short = broker.dial();
    short.send(&connect_as("short", "", &issuer.token("service:short", 2)));
    short.expect_connack(0);
    short.expect_disconnect(0x87);
}

#[test]
fn a_new_token_keeps_a_connection() {
    let issuer = Issuer::new();
    let authentication = Authentication { jwt: Some(issuer.settings()), ..Authentication::default() };
    let broker = Broker::with(Config { authentication, ..config(vec![listener(Transport::Tcp)]) });
    let open = |id: &str, token: &str| {
        let mut client = broker.dial();
        let body = [&b"\x00\x04MQTT\x05\x02\x00\x00"[..], &token_properties(token), &text(id)].concat();
        client.send(&packet(0x10, &body));
        client.expect_connack(0);
        client
    };
    let again = |token: &str| packet(0xF0, &[&[0x19][..], &token_properties(token)].concat());
    let mut client = open("ota", &issuer.token("service:ota", 2));
    client.send(&again(&issuer.token("service:ota", 60)));
    let (first, body) = client.read_packet();
    assert_eq!((first, body[0]), (0xF0, 0));
    let mut other = open("short", &issuer.token("service:short", 3));
    // By then the first token of the one would have ended, too.
    other.expect_disconnect(0x87);
    check_round_trip(&mut client, b"still here");
    client.send(&again(&issuer.token("service:eve", 60)));
    client.expect_disconnect(0x87);
}
