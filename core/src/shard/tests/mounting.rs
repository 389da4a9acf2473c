//! What a vehicle says and a backend sees, and the other way round.

use std::num::NonZeroU16;

use causeway_protocol::{
    Connect, ConnectProperties, ForwardedBuilder, ForwardedProperties, Packet, ProtocolVersion, Publish,
    RetainHandling, SubscriptionOptions,
};

use super::world::*;
use crate::{Groups, Identity, Notice, Principal};

const VIN: &str = "1M8GDM9AXKP042788";
const OTHER: &str = "WVWZZZ1JZ3W386752";

fn vehicle(vin: &str, groups: &[&str]) -> Identity {
    let principal = Principal::Vehicle(vin.parse().unwrap());
    Identity { groups: Groups::new(groups.iter().copied()).unwrap(), ..principal.into() }
}

/// The vehicle, in the group `eu`, and a backend.
fn pair(world: &mut World) -> (Client, Client) {
    let (car, said) = world.dial_as(persistent(VIN), vehicle(VIN, &["eu"]));
    assert_eq!(said, ["connack 0x00"]);
    (car, world.join(connect("backend")))
}

fn regroup(world: &mut World, vin: &str, groups: &[&str]) {
    let groups = Groups::new(groups.iter().copied()).unwrap();
    world.notice(Notice::Groups(vec![(vin.parse().unwrap(), groups)]));
}

fn retained<'a>(topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish { retain: true, ..publish(1, 1, topic, payload) }
}

#[test]
fn a_backend_sees_full_names() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    world.subscribe(backend, "#", options(2));
    world.heard(backend);
    for (said, seen) in [
        ("ECU_Details", "vehicles/1M8GDM9AXKP042788/ECU_Details"),
        ("status/location", "vehicles/1M8GDM9AXKP042788/status/location"),
        ("/x", "vehicles/1M8GDM9AXKP042788//x"),
        ("x/", "vehicles/1M8GDM9AXKP042788/x/"),
        ("/", "vehicles/1M8GDM9AXKP042788//"),
        ("../WVWZZZ1JZ3W386752/x", "vehicles/1M8GDM9AXKP042788/../WVWZZZ1JZ3W386752/x"),
        ("vehicles/WVWZZZ1JZ3W386752/x", "vehicles/1M8GDM9AXKP042788/vehicles/WVWZZZ1JZ3W386752/x"),
        ("fleet/x", "vehicles/1M8GDM9AXKP042788/fleet/x"),
        ("groups/eu/x", "vehicles/1M8GDM9AXKP042788/groups/eu/x"),
        ("ｖehicles/ü", "vehicles/1M8GDM9AXKP042788/ｖehicles/ü"),
    ] {
        world.publish(car, publish(0, 0, said, "p"));
        assert_eq!(world.heard(backend), [format!("pub q0 {seen}=p")], "{said}");
        world.publish(car, publish(1, 1, said, "p"));
        assert_eq!(world.heard(car), ["puback p1"], "{said}");
        let heard = world.heard(backend);
        assert!(heard.len() == 1 && heard[0].ends_with(&format!(" {seen}=p")), "{said}: {heard:?}");
        let id: u16 = heard[0].split(' ').find_map(|word| word.strip_prefix('p')?.parse().ok()).unwrap();
        world.puback(backend, id);
    }
}

#[test]
fn a_vehicle_does_not_publish_the_brokers_word_and_nobody_does_behind_a_mount() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    for said in ["$SYS/x", "$SYS", "$share/n/x", "$shadow/x", "$"] {
        world.publish(car, publish(1, 1, said, "p"));
        assert_eq!(world.heard(car), ["puback p1 0x87"], "{said}");
    }
    for said in ["vehicles/1M8GDM9AXKP042788/$shadow/x", "groups/eu/$x", "fleet/$x", "$SYS/x"] {
        world.publish(backend, publish(1, 1, said, "p"));
        assert_eq!(world.heard(backend), ["puback p1 0x87"], "{said}");
    }
    let long = "x".repeat(65_535 - 26);
    world.publish(car, publish(1, 1, &long, "p"));
    assert_eq!(world.heard(car), ["puback p1 0x90"]);
    world.publish(car, publish(1, 1, &long[1..], "p"));
    assert_eq!(world.heard(car), ["puback p1 0x10"]);
    world.subscribe(car, &long, options(0));
    assert_eq!(world.heard(car), ["suback 8F"]);
    let deep = ["x"; 64].join("/");
    let levels = crate::Limits::default().topic_levels_max;
    let deep = if levels == 64 { deep } else { vec!["x"; levels].join("/") };
    world.subscribe(car, &deep, options(0));
    world.publish(car, publish(1, 1, &deep, "p"));
    assert_eq!(world.heard(car).len(), 3, "the limit counts what the vehicle says");
}

#[test]
fn a_vehicle_hears_local_names_whoever_is_meant() {
    for qos in 0..3 {
        let mut world = World::new();
        let (car, backend) = pair(&mut world);
        world.subscribe(car, "cmd/#", options(qos));
        assert_eq!(world.heard(car), [format!("suback {qos:02X}")], "one code for each filter as said");
        for (at, (topic, heard)) in [
            ("vehicles/1M8GDM9AXKP042788/cmd/lock", true),
            ("groups/eu/cmd/lock", true),
            ("fleet/cmd/lock", true),
            ("groups/us/cmd/lock", false),
            ("vehicles/WVWZZZ1JZ3W386752/cmd/lock", false),
            ("cmd/lock", false),
            ("vehicles/1M8GDM9AXKP042788", false),
        ]
        .into_iter()
        .enumerate()
        {
            world.publish(backend, publish(qos, if qos > 0 { at as u16 + 1 } else { 0 }, topic, "p"));
            let said = world.heard(car);
            assert_eq!(said.len(), usize::from(heard), "{topic}: {said:?}");
            assert!(said.iter().all(|said| said.ends_with(" cmd/lock=p")), "{topic}: {said:?}");
            world.heard(backend);
        }
    }
}

#[test]
fn a_wildcard_does_not_stand_for_the_mount_itself_nor_for_the_broker() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    for filter in ["#", "+/#", "+", "$share/n/#", "$SYS/#"] {
        world.subscribe(car, filter, options(1));
    }
    assert_eq!(world.heard(car), ["suback 01"; 5]);
    for topic in
        ["fleet", "fleet/", "groups/eu", "groups/eu/", "vehicles/1M8GDM9AXKP042788", "vehicles/1M8GDM9AXKP042788/"]
    {
        world.publish(backend, retained(topic, "p"));
        assert_eq!(world.heard(backend), ["puback p1 0x10"], "{topic}");
        assert_eq!(world.heard(car), [""; 0], "{topic}");
    }
    world.subscribe(car, "#", options(1));
    assert_eq!(world.heard(car), ["suback 01"], "nor what is retained there");
    let sys = world.join(connect("watcher"));
    world.subscribe(sys, "$SYS/#", options(0));
    world.shard.storage_low(false);
    assert_eq!(world.heard(car), [""; 0]);
}

#[test]
fn two_vehicles_never_hear_each_other() {
    let mut world = World::new();
    let (car, _) = pair(&mut world);
    let (other, _) = world.dial_as(persistent(OTHER), vehicle(OTHER, &["eu"]));
    for filter in
        ["#", "+/#", "vehicles/1M8GDM9AXKP042788/#", "../1M8GDM9AXKP042788/#", "$share/n/#", "/#", "groups/eu/#"]
    {
        world.subscribe(other, filter, options(2));
    }
    world.heard(other);
    for topic in
        ["a", "/a", "vehicles/WVWZZZ1JZ3W386752/a", "../WVWZZZ1JZ3W386752/a", "groups/eu/a", "fleet/a", "fleet"]
    {
        world.publish(car, retained(topic, "p"));
        assert_eq!(world.heard(car), ["puback p1 0x10"], "{topic}");
    }
    world.subscribe(other, "#", options(2));
    assert_eq!(world.heard(other), ["suback 02"]);
}

#[test]
fn a_retained_broadcast_reaches_who_subscribes_later() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    for topic in ["fleet/ota", "groups/eu/ota", "groups/us/ota", "vehicles/1M8GDM9AXKP042788/ota"] {
        world.publish(backend, retained(topic, topic));
    }
    world.subscribe_with(car, "ota", options(1), Some(7));
    let own = "vehicles/1M8GDM9AXKP042788/ota";
    assert_eq!(
        world.heard(car),
        [
            "suback 01".to_owned(),
            format!("pub q1 p1 retain s7 ota={own}"),
            "pub q1 p2 retain s7 ota=groups/eu/ota".to_owned(),
            "pub q1 p3 retain s7 ota=fleet/ota".to_owned(),
        ]
    );
    (1..4).for_each(|id| world.puback(car, id));
    let new_only = SubscriptionOptions { retain_handling: RetainHandling::IfNew, ..options(1) };
    world.subscribe(car, "ota", new_only);
    assert_eq!(world.heard(car), ["suback 01"]);
    world.subscribe(car, "+", new_only);
    assert_eq!(world.heard(car).len(), 4);
}

#[test]
fn a_vehicles_own_subscriptions_overlap_into_one_delivery() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    world.subscribe_with(car, "a/b", options(0), Some(1));
    world.subscribe_with(car, "a/#", options(1), Some(2));
    world.heard(car);
    for (at, topic) in ["vehicles/1M8GDM9AXKP042788/a/b", "groups/eu/a/b", "fleet/a/b"].into_iter().enumerate() {
        world.publish(backend, publish(2, 1, topic, "p"));
        let id = at as u16 + 1;
        assert_eq!(world.heard(car), [format!("pub q1 p{id} s1 s2 a/b=p")], "{topic}");
        world.puback(car, id);
        world.publish(backend, publish(2, 1, topic, "p"));
        world.send(
            backend,
            Packet::PubRel(causeway_protocol::Ack::new(packet_id(1), causeway_protocol::ReasonCode::Success)),
        );
    }
}

#[test]
fn no_local_is_for_all_that_a_filter_is_for() {
    let mut world = World::new();
    let (car, _) = pair(&mut world);
    let (second, _) = world.dial_as(connect("1M8GDM9AXKP042788/hmi"), vehicle(VIN, &["eu"]));
    for client in [car, second] {
        world.subscribe(client, "a", SubscriptionOptions { no_local: true, ..options(0) });
        world.heard(client);
    }
    world.publish(car, publish(0, 0, "a", "p"));
    assert_eq!((world.heard(car), world.heard(second)), (vec![], vec!["pub q0 a=p".to_owned()]));
}

#[test]
fn unsubscribing_ends_all_that_a_filter_was_for() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    world.subscribe(car, "a", options(0));
    world.subscribe(car, "$share/n/a", options(0));
    world.heard(car);
    for (filter, code) in [
        ("b", "11"),
        ("fleet/a", "11"),
        ("a", "00"),
        ("a", "11"),
        ("$share/n/a", "00"),
        ("$share/n", "8F"),
        ("a/#/b", "8F"),
    ] {
        world.unsubscribe(car, filter);
        assert_eq!(world.heard(car), [format!("unsuback {code}")], "{filter}");
    }
    for topic in ["vehicles/1M8GDM9AXKP042788/a", "groups/eu/a", "fleet/a"] {
        world.publish(backend, publish(0, 0, topic, "p"));
    }
    assert_eq!(world.heard(car), [""; 0]);
    assert_eq!(world.shard.gauges().subscriptions, 0);
}

#[test]
fn sharing_is_among_the_clients_of_one_vehicle() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    let (second, _) = world.dial_as(connect("1M8GDM9AXKP042788/hmi"), vehicle(VIN, &["eu"]));
    let (other, _) = world.dial_as(connect(OTHER), vehicle(OTHER, &["eu"]));
    for client in [car, second, other] {
        world.subscribe(client, "$share/n/+", options(1));
        assert_eq!(world.heard(client), ["suback 01"]);
    }
    for topic in ["vehicles/1M8GDM9AXKP042788/a", "vehicles/1M8GDM9AXKP042788/b", "fleet/a", "groups/eu/a"] {
        world.publish(backend, publish(1, 1, topic, "p"));
    }
    let heard = [world.heard(car), world.heard(second)].concat();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard.iter().any(|said| said.ends_with(" a=p")) && heard.iter().any(|said| said.ends_with(" b=p")));
    assert_eq!(world.heard(other), [""; 0]);
}

#[test]
fn of_aws_names_a_vehicle_has_its_own_shadows_by_their_full_names() {
    const OTHERS: &str = "$aws/things/WVWZZZ1JZ3W386752/shadow";
    let mut world = World::new();
    let (car, _) = pair(&mut world);
    let own = "$aws/things/1M8GDM9AXKP042788/shadow";
    let delta = format!("{own}/update/delta");
    for (filter, code) in [
        (&*delta, "01"),
        (&format!("$share/n/{own}/get/+"), "01"),
        ("$aws/things/WVWZZZ1JZ3W386752/shadow/update/delta", "87"),
        ("$share/n/$aws/things/WVWZZZ1JZ3W386752/shadow/#", "87"),
        ("$aws/things/+/shadow/#", "87"),
        ("$aws/#", "87"),
    ] {
        world.subscribe(car, filter, options(1));
        assert_eq!(world.heard(car), [format!("suback {code}")], "{filter}");
        assert_eq!(world.shard.gauges().subscriptions, 1 + u64::from(filter != delta), "it stands for itself alone");
    }
    regroup(&mut world, VIN, &["us"]);
    world.restart();
    let (car, said) = world.dial_as(persistent(VIN), vehicle(VIN, &["us"]));
    assert_eq!(said, ["connack 0x00 present"]);
    let backend = world.join(connect("backend"));
    for topic in [own, OTHERS] {
        let update = format!("{topic}/update");
        world.publish(backend, publish(1, 1, &update, r#"{"state":{"desired":{"a":1}}}"#));
        assert_eq!(world.heard(backend), ["puback p1"]);
    }
    let heard = world.heard(car);
    assert!(heard.len() == 1 && heard[0].starts_with(&format!("pub q0 {delta}=")), "{heard:?}");
    // Nobody publishes what the broker tells, and a vehicle asks about its own.
    world.publish(backend, publish(1, 1, &delta, "p"));
    assert_eq!(world.heard(backend), ["puback p1 0x87"]);
    for topic in [format!("{own}/x"), delta.clone(), format!("{OTHERS}/get")] {
        world.publish(car, publish(1, 1, &topic, "{}"));
        assert_eq!(world.heard(car), ["puback p1 0x87"], "{topic}");
    }
    for (filter, code) in [(&*delta, "00"), (&delta, "11"), (&format!("$share/n/{own}/get/+"), "00")] {
        world.unsubscribe(car, filter);
        assert_eq!(world.heard(car), [format!("unsuback {code}")], "{filter}");
    }
    assert_eq!(world.shard.gauges().subscriptions, 0);
}

#[test]
fn the_count_of_subscriptions_is_of_what_was_said() {
    let mut world = World::with(|limits| limits.subscriptions_per_session_max = 2);
    let (car, _) = pair(&mut world);
    for (filter, code) in [("a", "00"), ("b", "00"), ("c", "97"), ("a", "00")] {
        world.subscribe(car, filter, options(0));
        assert_eq!(world.heard(car), [format!("suback {code}")], "{filter}");
    }
}

#[test]
fn a_will_is_the_vehicles_own_now_or_later_and_across_a_restart() {
    for delay in [0, 30] {
        let mut world = World::new().on_disk();
        let backend = world.join(connect("backend"));
        world.subscribe(backend, "#", options(0));
        world.heard(backend);
        let (car, _) = world.dial_as(with_will(persistent(VIN), "fleet/gone", delay), vehicle(VIN, &[]));
        if delay > 0 {
            world.hang_up(car);
            world.fold(usize::MAX, true);
        }
        world.restart();
        let backend = world.join(connect("backend"));
        world.subscribe(backend, "#", options(0));
        world.subscribe(backend, "vehicles/+/fleet/gone", options(0));
        world.heard(backend);
        world.wait(31_000);
        let expected = if delay > 0 { vec!["pub q0 vehicles/1M8GDM9AXKP042788/fleet/gone=gone"] } else { vec![] };
        assert_eq!(world.heard(backend), expected);
    }
    let mut world = World::new();
    let backend = world.join(connect("backend"));
    world.subscribe(backend, "vehicles/#", options(0));
    world.heard(backend);
    let properties = ForwardedBuilder::new().response_topic("answer").build().unwrap();
    let mut dying = with_will(connect(VIN), "gone", 0);
    let forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap();
    dying.will.iter_mut().for_each(|will| will.forwarded = forwarded);
    let (car, _) = world.dial_as(dying, vehicle(VIN, &[]));
    world.hang_up(car);
    let own = "vehicles/1M8GDM9AXKP042788";
    assert_eq!(world.heard(backend), [format!("pub q0 r:{own}/answer {own}/gone=gone")]);
    let long = "x".repeat(65_535 - 26);
    for (topic, code) in [("$SYS/x", "0x87"), ("$share/n/x", "0x87"), (&*long, "0x90")] {
        let (_, said) = world.dial_as(with_will(connect(VIN), topic, 0), vehicle(VIN, &[]));
        assert_eq!(said, [format!("connack {code}")]);
    }
}

#[test]
fn aliases_are_of_local_names_in_both_directions() {
    let mut world = World::new();
    let mut takes_aliases = persistent(VIN);
    takes_aliases.properties.topic_alias_maximum = Some(2);
    let (car, _) = world.dial_as(takes_aliases, vehicle(VIN, &["eu"]));
    let backend = world.join(connect("backend"));
    world.subscribe(backend, "#", options(0));
    world.subscribe(car, "x", options(0));
    world.heard(car);
    world.heard(backend);
    for topic in ["a", "", ""] {
        let mut aliased = publish(0, 0, topic, "p");
        aliased.properties.topic_alias = NonZeroU16::new(1);
        world.publish(car, aliased);
        assert_eq!(world.heard(backend), ["pub q0 vehicles/1M8GDM9AXKP042788/a=p"]);
    }
    for (topic, heard) in [
        ("vehicles/1M8GDM9AXKP042788/x", "pub q0 a1 x=p"),
        ("groups/eu/x", "pub q0 a1 =p"),
        ("fleet/x", "pub q0 a1 =p"),
    ] {
        world.publish(backend, publish(0, 0, topic, "p"));
        assert_eq!(world.heard(car), [heard]);
    }
}

#[test]
fn a_response_topic_is_mounted_on_its_way_out_and_local_on_its_way_in() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    let (other, _) = world.dial_as(connect(OTHER), vehicle(OTHER, &["eu"]));
    world.subscribe(backend, "vehicles/#", options(0));
    for client in [car, other] {
        world.subscribe(client, "ask", options(1));
    }
    for client in [car, other, backend] {
        world.heard(client);
    }
    let asks = |topic: &'static str, response: &'static str, qos: u8| {
        let built = ForwardedBuilder::new().content_type("t").response_topic(response).correlation_data(b"7").build();
        (built.unwrap(), publish(qos, qos.into(), topic, "?"))
    };
    for (client, (properties, ask), heard) in [
        (
            car,
            asks("ask/it", "answer", 0),
            "pub q0 r:vehicles/1M8GDM9AXKP042788/answer vehicles/1M8GDM9AXKP042788/ask/it=?",
        ),
        (
            car,
            asks("ask/it", "answer", 1),
            "pub q0 r:vehicles/1M8GDM9AXKP042788/answer vehicles/1M8GDM9AXKP042788/ask/it=?",
        ),
    ] {
        let mut ask = ask;
        ask.properties.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap();
        world.publish(client, ask);
        assert_eq!(world.heard(backend), [heard]);
    }
    world.heard(car);
    for (response, to_car, to_other) in [
        ("vehicles/1M8GDM9AXKP042788/answer", "answer", "vehicles/1M8GDM9AXKP042788/answer"),
        ("backend/answers", "backend/answers", "backend/answers"),
    ] {
        for (qos, number) in [(0, ""), (1, " p1")] {
            let (properties, mut ask) = asks("fleet/ask", response, qos);
            ask.properties.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap();
            world.publish(backend, ask);
            let heard = world.heard(car);
            assert!(heard.len() == 1 && heard[0].ends_with(&format!(" r:{to_car} ask=?")), "{number} {heard:?}");
            let heard = world.heard(other);
            assert!(heard.len() == 1 && heard[0].ends_with(&format!(" r:{to_other} ask=?")), "{number} {heard:?}");
        }
    }
    let (properties, mut ask) = asks("ask/it", "$SYS/x", 1);
    ask.properties.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap();
    world.heard(car);
    world.publish(car, ask);
    assert_eq!(world.heard(car), ["puback p1 0x87"]);
}

#[test]
fn the_same_bytes_are_for_vehicles_and_others_for_those_who_are_none() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    let (other, _) = world.dial_as(connect(OTHER), vehicle(OTHER, &[]));
    let (old, _) = world
        .dial_as(Connect { version: ProtocolVersion::V311, ..connect("1M8GDM9AXKP042788/old") }, vehicle(VIN, &["eu"]));
    world.subscribe(backend, "fleet/#", options(0));
    for client in [car, other, old] {
        world.subscribe(client, "x/#", options(0));
    }
    for client in [car, other, old, backend] {
        world.heard(client);
    }
    world.publish(backend, publish(0, 0, "fleet/x/y", "p"));
    for client in [car, other, old] {
        assert_eq!(world.heard(client), ["pub q0 x/y=p"]);
    }
    assert_eq!(world.heard(backend), ["pub q0 fleet/x/y=p"]);
    world.publish(old, publish(1, 1, "$SYS/x", "p"));
    assert!(!world.shard.is_open(old.id), "a 3.1.1 client can only be told by closing");
}

#[test]
fn the_maximum_packet_size_is_of_what_is_sent() {
    let mut world = World::new();
    let properties = ConnectProperties { maximum_packet_size_bytes: Some(40), ..Default::default() };
    let (car, _) = world.dial_as(Connect { properties, ..connect(VIN) }, vehicle(VIN, &[]));
    let backend = world.join(connect("backend"));
    world.subscribe(car, "x", options(0));
    world.heard(car);
    // 2 bytes of header, 3 of topic, 1 of properties.
    for (bytes, heard) in [(34, 1), (35, 0)] {
        world.publish(backend, publish(0, 0, "vehicles/1M8GDM9AXKP042788/x", &"p".repeat(bytes)));
        assert_eq!(world.heard(car).len(), heard, "{bytes}");
    }
}

#[test]
fn joining_and_leaving_takes_effect_at_once() {
    let mut world = World::new().on_disk();
    let (car, backend) = pair(&mut world);
    world.publish(backend, retained("groups/us/x", "kept"));
    world.subscribe_with(car, "x", options(1), Some(3));
    let silent = SubscriptionOptions { retain_handling: RetainHandling::Never, ..options(1) };
    world.subscribe(car, "+", silent);
    world.subscribe(car, "$share/n/x", options(1));
    world.heard(car);
    regroup(&mut world, VIN, &["us"]);
    assert_eq!(world.heard(car), ["pub q1 p1 retain s3 x=kept"]);
    world.puback(car, 1);
    for (topic, heard) in
        [("groups/eu/x", vec![]), ("groups/us/x", vec!["pub q1 p2 s3 x=p"]), ("fleet/x", vec!["pub q1 p3 s3 x=p"])]
    {
        world.publish(backend, publish(1, 1, topic, "p"));
        assert_eq!(world.heard(car), heard, "{topic}");
    }
    world.puback(car, 2);
    world.puback(car, 3);
    regroup(&mut world, VIN, &["us"]);
    assert_eq!(world.heard(car), [""; 0], "nothing changed");
    regroup(&mut world, OTHER, &["us", "eu"]);
    world.unsubscribe(car, "x");
    world.unsubscribe(car, "+");
    world.unsubscribe(car, "$share/n/x");
    assert_eq!(world.heard(car), ["unsuback 00"; 3]);
    assert_eq!(world.shard.gauges().subscriptions, 0);
}

#[test]
fn who_is_away_is_in_its_groups_all_the_same() {
    for fold in [false, true] {
        let mut world = World::new().on_disk();
        let (car, backend) = pair(&mut world);
        world.subscribe(car, "x", options(1));
        world.disconnect(car);
        regroup(&mut world, VIN, &["us"]);
        if fold {
            world.fold(usize::MAX, true);
        }
        world.publish(backend, publish(1, 1, "groups/us/x", "1"));
        world.publish(backend, publish(1, 2, "groups/eu/x", "2"));
        world.restart();
        let backend = world.join(connect("backend"));
        world.publish(backend, publish(1, 1, "fleet/x", "3"));
        world.publish(backend, publish(1, 2, "groups/us/x", "4"));
        // What the registry says counts, whatever was told before.
        world.publish(backend, retained("groups/de/x", "5"));
        let (car, heard) = world.dial_as(persistent(VIN), vehicle(VIN, &["de"]));
        let said = ["connack 0x00 present", "pub q1 p1 x=1", "pub q1 p2 x=3", "pub q1 p3 x=4", "pub q1 p4 retain x=5"];
        let mut sorted = heard.clone();
        sorted.sort();
        let mut expected: Vec<&str> = said.to_vec();
        expected.sort_unstable();
        assert_eq!(heard.len(), said.len(), "{heard:?}");
        assert!(
            heard.iter().all(|one| said.iter().any(|other| one.rsplit(' ').next() == other.rsplit(' ').next())),
            "{heard:?}"
        );
        (1..5).for_each(|id| world.puback(car, id));
        world.publish(backend, publish(1, 1, "groups/us/x", "6"));
        assert_eq!(world.heard(car), [""; 0], "it left that group");
        world.publish(backend, publish(1, 1, "groups/de/x", "7"));
        assert_eq!(world.heard(car).len(), 1);
    }
}

#[test]
fn retain_handling_is_remembered_for_groups_to_come() {
    for fold in [false, true] {
        let mut world = World::new().on_disk();
        let (car, backend) = pair(&mut world);
        world.publish(backend, retained("groups/us/x", "kept"));
        let silent = SubscriptionOptions { retain_handling: RetainHandling::Never, ..options(1) };
        world.subscribe(car, "x", silent);
        if fold {
            world.fold(usize::MAX, true);
        }
        world.restart();
        let (car, heard) = world.dial_as(persistent(VIN), vehicle(VIN, &["us"]));
        assert_eq!(heard, ["connack 0x00 present"]);
        world.subscribe(car, "x", options(1));
        assert_eq!(world.heard(car).len(), 2);
    }
}

#[test]
fn who_was_let_in_before_its_groups_changed_has_the_new_ones() {
    let mut world = World::new();
    regroup(&mut world, VIN, &["us"]);
    regroup(&mut world, VIN, &["us", "de"]);
    regroup(&mut world, OTHER, &["eu"]);
    let backend = world.join(connect("backend"));
    for (known, hears) in [(0, vec!["us", "de"]), (1, vec!["us", "de"]), (2, vec!["eu"]), (3, vec!["eu"])] {
        let (car, _) = world.dial_late(connect(VIN), vehicle(VIN, &["eu"]), known);
        world.subscribe(car, "x", options(0));
        world.heard(car);
        for group in ["eu", "us", "de"] {
            world.publish(backend, publish(0, 0, &format!("groups/{group}/x"), "p"));
            assert_eq!(world.heard(car).len(), usize::from(hears.contains(&group)), "{known} {group}");
        }
    }
}
