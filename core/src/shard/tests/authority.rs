//! Who may go on, and until when.

use std::collections::HashSet;
use std::sync::Arc;

use causeway_protocol::ReasonCode;

use super::world::{World, connect, options, persistent, publish, with_will};
use crate::{Identity, Notice, Principal, Revocation, Revoked};

const VIN: &str = "1M8GDM9AXKP042788";

fn vehicle() -> Identity {
    let vehicle = Principal::Vehicle(VIN.parse().unwrap());
    Identity { credential: Some(Arc::from("x509:01@ab")), ..vehicle.into() }
}

fn revoke(revoked: Revoked, ends_sessions: bool) -> Notice {
    Notice::Revoke(Revocation {
        revoked,
        reason: ReasonCode::NotAuthorized,
        why: Arc::from("suspended"),
        ends_sessions,
    })
}

#[test]
fn a_client_identifier_is_bound_to_its_vehicle() {
    let mut world = World::new();
    for (client_id, who, said) in [
        (VIN, vehicle(), "connack 0x00"),
        ("1M8GDM9AXKP042788/hmi", vehicle(), "connack 0x00"),
        ("1M8GDM9AXKP042788/", vehicle(), "connack 0x85"),
        ("1M8GDM9AXKP042788x", vehicle(), "connack 0x85"),
        ("1m8gdm9axkp042788", vehicle(), "connack 0x85"),
        ("WVWZZZ1JZ3W386752", vehicle(), "connack 0x85"),
        ("WVWZZZ1JZ3W386752/1M8GDM9AXKP042788", vehicle(), "connack 0x85"),
        ("backend", vehicle(), "connack 0x85"),
        ("WVWZZZ1JZ3W386752", Principal::service("s").into(), "connack 0x85"),
        ("WVWZZZ1JZ3W386752/x", Principal::Anonymous.into(), "connack 0x85"),
        ("$shard/1", Principal::operator("o").into(), "connack 0x85"),
        ("WVWZZZ1JZ3W38675", Principal::service("s").into(), "connack 0x00"),
    ] {
        let (_, heard) = world.dial_as(connect(client_id), who);
        assert_eq!(heard, [said], "{client_id}");
    }
    let (client, _) = world.dial_as(connect(""), vehicle());
    assert!(world.shard.is_open(client.id), "an assigned identifier begins with the VIN");
}

#[test]
fn a_revoked_credential_ends_its_connections_and_no_others() {
    let mut world = World::new();
    let (first, _) = world.dial_as(with_will(persistent(VIN), "will", 0), vehicle());
    let other = Identity { credential: Some(Arc::from("x509:02@ab")), ..vehicle() };
    let (second, _) = world.dial_as(connect("1M8GDM9AXKP042788/hmi"), other);
    let credentials = HashSet::from([Arc::from("x509:01@ab")]);
    world.notice(revoke(Revoked::Credentials(Arc::new(credentials)), false));
    assert_eq!(world.heard(first), ["disconnect 0x87"]);
    assert_eq!(world.closes(), [first.id]);
    assert!(world.shard.is_open(second.id));
    let (_, heard) = world.dial_as(persistent(VIN), vehicle());
    assert_eq!(heard, ["connack 0x00 present"], "the edge has looked again since");
}

#[test]
fn who_was_proven_before_a_revocation_does_not_come_in_after_it() {
    let mut world = World::new();
    world.notice(revoke(Revoked::Vehicle(VIN.parse().unwrap()), false));
    let (_, heard) = world.dial_late(connect(VIN), vehicle(), 0);
    assert_eq!(heard, ["connack 0x87"]);
    let (_, heard) = world.dial_late(connect(VIN), vehicle(), 1);
    assert_eq!(heard, ["connack 0x00"]);
    for _ in 0..2000 {
        world.notice(revoke(Revoked::Principal(Principal::service("nobody")), false));
    }
    let (_, heard) = world.dial_late(connect("b"), Principal::service("b"), 1);
    assert_eq!(heard, ["connack 0x89"], "too many to be sure of");
}

#[test]
fn a_retired_vehicle_leaves_nothing_behind() {
    let mut world = World::new();
    let (vehicle, _) = world.dial_as(persistent(VIN), vehicle());
    let backend = world.join(connect("backend"));
    world.subscribe(vehicle, "cmd", options(1));
    world.hang_up(vehicle);
    world.publish(backend, publish(1, 1, "vehicles/1M8GDM9AXKP042788/cmd", "x"));
    world.notice(revoke(Revoked::Vehicle(VIN.parse().unwrap()), true));
    assert_eq!(world.shard.gauges().sessions, 1);
    world.restart();
    assert_eq!(world.shard.gauges().sessions, 0);
}

#[test]
fn a_connection_ends_with_what_proved_it() {
    let mut world = World::new();
    let until = Identity { valid_until_ms: Some(world.now.0 + 5000), ..Principal::service("s").into() };
    let (client, _) = world.dial_as(connect("c"), until);
    world.wait(4999);
    assert!(world.shard.is_open(client.id));
    world.wait(2);
    assert_eq!(world.heard(client), ["disconnect 0x87"]);
    let until = Identity { valid_until_ms: Some(world.now.0 + 5000), ..Principal::service("s").into() };
    let (client, _) = world.dial_as(connect("c"), until);
    world.disconnect(client);
    world.wait(10_000);
    assert_eq!(world.heard(client), Vec::<String>::new());
}
