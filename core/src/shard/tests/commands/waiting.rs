//! Commands to vehicles that are away.

use super::*;
use crate::{Notice, Revocation, Revoked};

#[test]
fn a_command_waits_for_its_vehicle_and_is_sent_once() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.hang_up(car);
    world.say(backend, request(&full("cmd/lock"), "one"));
    world.say(backend, Said { id: 2, ..request(&full("cmd/unlock"), "two") });
    assert_eq!(world.got(backend).1, ["puback 0x00", "puback 0x00"]);
    assert_eq!(world.shard.gauges().queued_messages, 0, "it waits in the table");
    world.wait(10_000);
    let (car, _) = world.dial_as(persistent(VIN), vehicle(VIN));
    let (car, _) = (car, ());
    world.hang_up(car);
    let (car, said) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[1].contains("dup e20 r:status/lock cmd/lock={}"), "sent before, and not acknowledged: {said:?}");
    world.puback(car, 1);
    world.puback(car, 2);
    let ids: Vec<String> = world.shard.commands.all_ids().map(|id| id.to_string()).collect();
    for id in &ids {
        world.say(car, Said { correlation: Some(id.as_bytes()), ..to("status/x", "x") });
    }
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "replied"), ("two", "replied")]));
}

#[test]
fn a_subscription_brings_what_waits() {
    let mut world = world();
    let backend = service(&mut world, "backend");
    let (car, _) = world.dial_as(persistent(VIN), vehicle(VIN));
    world.subscribe(car, "telemetry", options(1));
    world.gotten(car);
    world.say(backend, request(&full("cmd/lock"), "one"));
    assert_eq!(world.gotten(car), []);
    world.subscribe(car, "cmd/unlock", options(1));
    assert_eq!(world.gotten(car), []);
    world.subscribe(car, "cmd/lock", options(1));
    let heard = world.heard(car);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[1].ends_with("cmd/lock={}"), "{heard:?}");
}

#[test]
fn an_expired_command_is_never_delivered() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.hang_up(car);
    world.say(backend, Said { expiry: Some(5), ..request(&full("cmd/lock"), "one") });
    world.wait(4999);
    assert_eq!(outcomes(&world.gotten(backend)), []);
    world.wait(1);
    let told = world.gotten(backend);
    assert_eq!(outcomes(&told), pairs(&[("one", "timed-out")]));
    assert!(told[0].payload.contains("\"outcome\":\"timed-out\""), "{}", told[0].payload);
    let (_, said) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(said, ["connack 0x00 present"]);
}

#[test]
fn what_was_sent_and_not_acknowledged_is_not_sent_again_when_it_is_over() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.say(backend, Said { expiry: Some(5), ..request(&full("cmd/lock"), "one") });
    assert_eq!(world.heard(car).len(), 1, "not acknowledged");
    world.hang_up(car);
    world.wait(5000);
    let (car, said) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(said, ["connack 0x00 present"]);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "timed-out")]));
    // Its identifier is free.
    world.say(backend, request(&full("cmd/lock"), "two"));
    assert_eq!(world.gotten(car).len(), 1);
}

#[test]
fn who_does_not_wait_is_told_at_once() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let now = |correlation| Said { properties: &[("wait", "0")], ..request("", correlation) };
    let topic = full("cmd/lock");
    world.say(backend, Said { topic: &topic, ..now("one") });
    let got = world.gotten(car);
    assert_eq!((got.len(), got[0].properties.len()), (1, 0), "what is for the broker is not for the vehicle");
    world.hang_up(car);
    world.say(backend, Said { topic: &topic, id: 2, ..now("two") });
    let (told, said) = world.got(backend);
    assert_eq!((outcomes(&told), said), (pairs(&[("two", "offline")]), vec!["puback 0x00".to_owned(); 2]));
    let (_, said) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(said.len(), 1, "{said:?}");
    let nobody = "vehicles/WVWZZZ1JZ3W386752/cmd/x";
    world.say(backend, Said { topic: nobody, id: 3, ..now("three") });
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("three", "offline")]));
}

#[test]
fn commands_of_a_retired_vehicle_are_over() {
    for ends_sessions in [true, false] {
        let mut world = world();
        let (car, backend) = pair(&mut world);
        world.say(backend, request(&full("cmd/lock"), "sent"));
        world.gotten(car);
        world.unsubscribe(car, "cmd/#");
        world.say(backend, Said { id: 2, ..request(&full("cmd/lock"), "waiting") });
        let reason = ReasonCode::NotAuthorized;
        let revoked = match ends_sessions {
            true => Revoked::Vehicle(VIN.parse().unwrap()),
            false => Revoked::Whoever(std::sync::Arc::new(|identity: &Identity| {
                identity.principal.vin().is_some_and(|vin| vin.as_str() == VIN)
            })),
        };
        let why = crate::Bar { why: "vehicle x is retired".into(), until: None };
        world.notice(Notice::Bars(vec![(VIN.parse().unwrap(), Some(why).filter(|_| !ends_sessions))]));
        let notice = Revocation { revoked, reason, why: "vehicle x is retired".into(), ends_sessions };
        world.notice(Notice::Revoke(notice));
        let told = world.gotten(backend);
        assert_eq!(outcomes(&told), pairs(&[("sent", "retired"), ("waiting", "retired")]));
        assert!(told[0].payload.contains("vehicle x is retired"));
        world.wait(100_000);
        assert_eq!(outcomes(&world.gotten(backend)), []);
    }
}

#[test]
fn a_deadline_is_bounded_and_has_a_default() {
    let mut world = world_with(|limits| {
        limits.command_deadline_seconds = 7;
        limits.command_deadline_seconds_max = 20;
    });
    let (_, backend) = pair(&mut world);
    let car = drive(&mut world, OTHER);
    let topic = format!("vehicles/{OTHER}/cmd/x");
    for (expiry, left) in [(None, 7), (Some(3), 3), (Some(100), 20)] {
        world.say(backend, Said { expiry, ..request(&topic, "x") });
        assert_eq!(world.gotten(car)[0].expiry, Some(left));
    }
    world.gotten(backend);
    world.say(backend, Said { expiry: Some(0), ..request(&topic, "gone") });
    assert_eq!(world.gotten(car), []);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("gone", "timed-out")]));
}

#[test]
fn a_vehicles_second_client_may_answer() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let hmi = format!("{VIN}/hmi");
    let (screen, _) = world.dial_as(persistent(&hmi), vehicle(VIN));
    world.subscribe(screen, "cmd/#", options(1));
    world.gotten(screen);
    world.hang_up(car);
    world.say(backend, request(&full("cmd/ask_user"), "one"));
    let got = world.gotten(screen);
    world.say(screen, Said { correlation: got[0].correlation.as_deref().map(str::as_bytes), ..to("status/x", "yes") });
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "replied")]));
    // The other one, which was away, is not asked any more.
    let (_, said) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(said, ["connack 0x00 present"]);
}
