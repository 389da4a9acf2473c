//! Who published what, as services are told it.

use causeway_protocol::{ForwardedBuilder, ForwardedProperties, Packet, Publish, PublishProperties, decode, frame};

use super::world::{Client, World, connect, options, persistent, publish, with_will};
use crate::{Identity, Principal};

const VIN: &str = "1M8GDM9AXKP042788";
const HMI: &str = "1M8GDM9AXKP042788/hmi";
/// The number of a vehicle's first message, in a world whose clock begins where it does.
const FIRST: u64 = 1_000_001 << 10;

fn vehicle() -> Identity {
    Principal::Vehicle(VIN.parse().unwrap()).into()
}

fn drive(world: &mut World, client_id: &str) -> Client {
    world.dial_as(connect(client_id), vehicle()).0
}

fn serve(world: &mut World, name: &str, filter: &str, qos: u8) -> Client {
    let (client, _) = world.dial_as(persistent(name), Principal::service(name));
    world.subscribe(client, filter, options(qos));
    world.heard(client);
    client
}

/// A message as its receiver has it: payload, and user properties in their order.
pub(super) fn told(world: &mut World, client: Client) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let bytes = world.taken(client.id);
        let mut rest = bytes.as_slice();
        if rest.is_empty() {
            return said;
        }
        while let Some(head) = frame(rest, u32::MAX).unwrap() {
            let (packet, behind) = rest.split_at(head.total_bytes());
            rest = behind;
            if let Packet::Publish(publish) = decode(&head, &packet[head.header_bytes..], client.version).unwrap() {
                let mut word = String::from_utf8_lossy(publish.payload).into_owned();
                for (name, value) in publish.properties.forwarded.user_properties() {
                    word += &format!(" {name}={value}");
                }
                said.push(word);
            }
        }
    }
}

/// What a service is told of a vehicle's message.
fn of_vehicle(payload: &str, milliseconds: u64, number: u64) -> String {
    format!(
        "{payload} cw-origin=vehicle:{VIN} cw-received-at=1970-01-01T00:16:{:02}.{:03}Z cw-seq={}",
        40 + milliseconds / 1000,
        milliseconds % 1000,
        FIRST + number
    )
}

/// A publish with user properties.
fn claiming<'a>(message: Publish<'a>, properties: &'a [u8]) -> Publish<'a> {
    let forwarded = ForwardedProperties::from_forwarded_bytes(properties).unwrap();
    Publish { properties: PublishProperties { forwarded, ..Default::default() }, ..message }
}

#[test]
fn a_service_is_told_who_when_and_which() {
    for qos in 0..3 {
        let mut world = World::new();
        let service = serve(&mut world, "s", "vehicles/+/t", qos);
        let (tcu, hmi) = (drive(&mut world, VIN), drive(&mut world, HMI));
        world.publish(tcu, publish(qos, u16::from(qos > 0), "t", "a"));
        world.wait(1250);
        world.publish(hmi, publish(qos, u16::from(qos > 0), "t", "b"));
        let said = told(&mut world, service);
        assert_eq!(said, [of_vehicle("a", 0, 0), of_vehicle("b", 1250, 1)], "QoS {qos}");
    }
}

#[test]
fn vehicles_anonymous_clients_and_those_of_mqtt_3_are_told_nothing() {
    for qos in 0..2 {
        let mut world = World::new();
        let car = drive(&mut world, HMI);
        world.subscribe(car, "t", options(qos));
        let plain = world.join(connect("plain"));
        world.subscribe(plain, "vehicles/+/t", options(qos));
        let old = causeway_protocol::Connect { version: causeway_protocol::ProtocolVersion::V311, ..connect("old") };
        let (old, _) = world.dial_as(old, Principal::service("old"));
        world.subscribe(old, "vehicles/+/t", options(qos));
        let (operator, _) = world.dial_as(connect("o"), Principal::operator("o"));
        world.subscribe(operator, "vehicles/+/t", options(qos));
        for client in [car, plain, old, operator] {
            world.heard(client);
        }
        let tcu = drive(&mut world, VIN);
        world.publish(tcu, publish(qos, u16::from(qos > 0), "t", "a"));
        for client in [car, plain, old] {
            assert_eq!(told(&mut world, client), ["a"], "QoS {qos}");
        }
        assert_eq!(told(&mut world, operator), [of_vehicle("a", 0, 0)], "QoS {qos}");
    }
}

#[test]
fn others_have_no_numbers() {
    let mut world = World::new();
    let service = serve(&mut world, "s", "t", 1);
    let plain = world.join(connect("plain"));
    world.publish(plain, publish(1, 1, "t", "a"));
    world.publish(service, publish(1, 1, "t", "b"));
    let at = "cw-received-at=1970-01-01T00:16:40.000Z";
    assert_eq!(
        told(&mut world, service),
        [format!("a cw-origin=anonymous {at}"), format!("b cw-origin=service:s {at}")]
    );
}

#[test]
fn what_clients_claim_is_not_passed_on() {
    let lies = ForwardedBuilder::new().user_property("cw-origin", "service:boss").user_property("k", "v");
    let lies = lies.user_property("CW-Seq", "1").build().unwrap();
    let mut world = World::new();
    let service = serve(&mut world, "s", "vehicles/+/t", 1);
    let plain = world.join(connect("plain"));
    world.subscribe(plain, "#", options(1));
    world.heard(plain);
    let car = drive(&mut world, VIN);
    world.publish(car, claiming(publish(1, 1, "t", "a"), &lies));
    assert_eq!(told(&mut world, service), [of_vehicle("a", 0, 0) + " k=v"]);
    assert_eq!(told(&mut world, plain), ["a k=v"]);
    let mut asked = with_will(connect(HMI), "t", 0);
    let forwarded = ForwardedProperties::from_forwarded_bytes(&lies).unwrap();
    asked.will = asked.will.map(|will| causeway_protocol::Will { forwarded, ..will });
    let (hmi, _) = world.dial_as(asked, vehicle());
    world.hang_up(hmi);
    assert_eq!(told(&mut world, service), [of_vehicle("gone", 0, 1) + " k=v"]);
}

#[test]
fn what_waits_says_the_same_after_a_crash() {
    for (folds, retain) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut world = World::new().on_disk();
        let service = serve(&mut world, "s", "vehicles/+/t", 1);
        let car = drive(&mut world, VIN);
        world.hang_up(service);
        world.publish(car, Publish { retain, ..publish(1, 1, "t", "a") });
        world.publish(car, publish(1, 2, "t", "b"));
        if folds {
            world.fold(usize::MAX, true);
        }
        world.wait(3000);
        world.restart();
        let request = world.dial_silently(persistent("s"), Principal::service("s"));
        assert_eq!(told(&mut world, request), [of_vehicle("a", 0, 0), of_vehicle("b", 0, 1)], "folded: {folds}");
        if retain {
            let late = world.dial_silently(connect("late"), Principal::service("late"));
            world.subscribe(late, "vehicles/#", options(1));
            assert_eq!(told(&mut world, late), [of_vehicle("a", 0, 0)], "folded: {folds}");
        }
    }
}

#[test]
fn numbers_grow_over_restarts_and_have_no_gaps_between() {
    let mut world = World::new();
    let mut last = 0;
    for restart in 0..3 {
        let service = serve(&mut world, "s", "vehicles/+/t", 0);
        let car = drive(&mut world, VIN);
        let mut first = None;
        for number in 0..3 {
            world.publish(car, publish(0, 0, "t", "a"));
            let said = told(&mut world, service).pop().unwrap();
            let given: u64 = said.split_once("cw-seq=").unwrap().1.parse().unwrap();
            assert_eq!(given, *first.get_or_insert(given) + number);
            assert!(given > last, "{restart}");
            last = given;
            if number == 1 {
                // Refused, so that it has no number.
                world.publish(car, publish(1, 1, "$x", "a"));
                world.heard(car);
            }
        }
        world.wait(1);
        world.restart();
    }
}

#[test]
fn a_will_is_its_vehicles_and_of_when_it_is_published() {
    for crashes in [false, true] {
        let mut world = World::new();
        let service = serve(&mut world, "s", "vehicles/+/w", 0);
        let mut asked = with_will(persistent(VIN), "w", 2);
        asked.clean_start = true;
        let (car, _) = world.dial_as(asked, vehicle());
        if crashes {
            world.restart();
            world.dial_silently(persistent("s"), Principal::service("s"));
            let service = serve(&mut world, "s", "vehicles/+/w", 0);
            world.wait(2000);
            let said = told(&mut world, service);
            assert!(said[0].starts_with(&format!("gone cw-origin=vehicle:{VIN} ")), "{said:?}");
            assert!(said[0].contains("00:16:42.000Z"), "{said:?}");
        } else {
            world.hang_up(car);
            world.wait(2000);
            assert_eq!(told(&mut world, service), [of_vehicle("gone", 2000, 0)]);
        }
    }
}

#[test]
fn who_shares_is_told_too() {
    for qos in 0..3 {
        let mut world = World::new();
        let service = serve(&mut world, "s", "$share/g/vehicles/+/t", qos);
        let car = drive(&mut world, VIN);
        world.publish(car, publish(qos, u16::from(qos > 0), "t", "a"));
        assert_eq!(told(&mut world, service), [of_vehicle("a", 0, 0)], "QoS {qos}");
    }
}

#[test]
fn what_the_broker_says_is_its_own() {
    let mut world = World::new();
    let service = serve(&mut world, "s", "$presence/+", 1);
    drive(&mut world, VIN);
    let said = told(&mut world, service).pop().unwrap();
    assert!(said.ends_with(" cw-origin=broker cw-received-at=1970-01-01T00:16:40.000Z"), "{said}");
}

#[test]
fn a_packet_too_large_with_its_stamps_is_not_sent() {
    let mut world = World::new();
    let mut asked = connect("s");
    asked.properties.maximum_packet_size_bytes = Some(150);
    let (service, _) = world.dial_as(asked, Principal::service("s"));
    world.subscribe(service, "vehicles/+/t", options(1));
    world.heard(service);
    let car = drive(&mut world, VIN);
    world.publish(car, publish(1, 1, "t", "a"));
    world.publish(car, publish(1, 2, "t", &"a".repeat(40)));
    assert_eq!(told(&mut world, service), [of_vehicle("a", 0, 0)]);
    assert_eq!(world.shard.counters().dropped_packet_too_large, 1);
}

#[test]
fn switched_off_nobody_is_told_and_nobody_may_claim() {
    let lies = ForwardedBuilder::new().user_property("cw-origin", "service:boss").build().unwrap();
    let mut world = World::with(|limits| limits.stamps_origin = false);
    let service = serve(&mut world, "s", "vehicles/+/t", 1);
    let car = drive(&mut world, VIN);
    world.publish(car, claiming(publish(1, 1, "t", "a"), &lies));
    assert_eq!(told(&mut world, service), ["a"]);
}
