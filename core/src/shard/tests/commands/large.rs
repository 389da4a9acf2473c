//! Outcomes that are larger than their requesters accept.

use super::super::peers::Broker;
use super::*;
use crate::shard::State;

/// A backend that accepts packets of so many bytes.
fn small<'a>(name: &'a str, packet_bytes_max: u32) -> Connect<'a> {
    let mut terms = persistent(name);
    terms.properties.maximum_packet_size_bytes = Some(packet_bytes_max);
    terms
}

fn large() -> String {
    "x".repeat(1000)
}

/// Has the vehicle answer all it was asked, at length.
fn answer(world: &mut World, car: Client) {
    for got in world.gotten(car) {
        let correlation = got.correlation.as_deref().map(str::as_bytes);
        world.say(car, Said { correlation, ..to("status/x", &large()) });
    }
}

#[test]
fn a_reply_that_is_too_large_is_told() {
    for qos in 0..3 {
        let mut world = world();
        let car = drive(&mut world, VIN);
        let (backend, _) = world.dial_as(small("backend", 600), Principal::service("backend"));
        world.subscribe(backend, ANSWERS, options(qos));
        world.gotten(backend);
        world.say(backend, request(&full("cmd/x"), "one"));
        answer(&mut world, car);
        let told = world.gotten(backend);
        assert_eq!(outcomes(&told), pairs(&[("one", "too-large")]), "QoS {qos}");
        assert_eq!(told[0].qos, qos.min(1));
        let id = told[0].command();
        assert!(told[0].payload.contains(&format!("\"command\":\"{id}\"")), "{}", told[0].payload);
        assert!(told[0].payload.contains("\"bytes\":1000") && told[0].payload.contains("\"outcome\":\"too-large\""));
        assert_eq!(told[0].property("cw-origin"), format!("vehicle:{VIN}"));
        // The command has its reply.
        let counters = world.shard.counters();
        assert_eq!((counters.commands_ended[0], counters.outcomes_too_large), (1, 1));
        assert_eq!(counters.dropped_packet_too_large, 0);
        let kept = world.shard.commands.get(told[0].command().parse().unwrap()).unwrap();
        let State::Ended(ended) = &kept.state else { panic!("{kept:?}") };
        assert_eq!(ended.message.payload.len(), 1000);
        // And its requester can go on.
        world.say(backend, Said { expiry: Some(0), ..request(&full("cmd/x"), "two") });
        assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("two", "timed-out")]));
    }
}

/// What a client accepts is known when it is sent something, and not before.
#[test]
fn it_is_told_to_whoever_comes_back_smaller_and_not_to_whoever_comes_back_larger() {
    for on_disk in [false, true] {
        for (before, after, restarts, expected) in [
            (2000, 600, false, "too-large"),
            (2000, 600, true, "too-large"),
            (600, 2000, false, "replied"),
            (600, 2000, true, "replied"),
        ] {
            let mut world = world_with(|limits| limits.body_cache_bytes = 0);
            world = if on_disk { world.on_disk() } else { world };
            let car = drive(&mut world, VIN);
            let (backend, _) = world.dial_as(small("backend", before), Principal::service("backend"));
            world.subscribe(backend, ANSWERS, options(1));
            world.say(backend, request(&full("cmd/x"), "one"));
            world.heard(backend);
            world.hang_up(backend);
            answer(&mut world, car);
            if restarts {
                world.restart();
            }
            let backend = world.dial_silently(small("backend", after), Principal::service("backend"));
            assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", expected)]), "{before} {after}");
            // It was acknowledged.
            world.hang_up(backend);
            let backend = world.dial_silently(small("backend", after), Principal::service("backend"));
            assert_eq!(world.gotten(backend), []);
        }
    }
}

#[test]
fn what_was_not_acknowledged_comes_again_as_the_client_accepts_it_then() {
    let mut world = world();
    let car = drive(&mut world, VIN);
    let (backend, _) = world.dial_as(small("backend", 600), Principal::service("backend"));
    world.subscribe(backend, ANSWERS, options(1));
    world.say(backend, request(&full("cmd/x"), "one"));
    world.heard(backend);
    answer(&mut world, car);
    assert!(world.heard(backend).iter().any(|word| word.contains("too-large")));
    world.hang_up(backend);
    let backend = world.dial_silently(small("backend", 2000), Principal::service("backend"));
    let told = world.gotten(backend);
    assert_eq!((outcomes(&told), told[0].dup), (pairs(&[("one", "replied")]), true));
    let (other, _) = world.dial_as(small("other", 600), Principal::service("backend"));
    assert_eq!(world.gotten(other), []);
}

#[test]
fn only_what_is_in_the_way_is_left_out() {
    // First there is room for what it is called; then for nothing.
    for (bytes_max, expected) in [(150, pairs(&[("one", "too-large"), ("two", "timed-out")])), (60, vec![])] {
        let mut world = world();
        let car = drive(&mut world, VIN);
        let (backend, _) = world.dial_as(small("backend", bytes_max), Principal::service("backend"));
        world.subscribe(backend, ANSWERS, options(1));
        world.say(backend, request(&full("cmd/x"), "one"));
        world.gotten(backend);
        answer(&mut world, car);
        world.say(backend, Said { expiry: Some(0), ..request(&full("cmd/x"), "two") });
        let told = world.gotten(backend);
        assert_eq!(outcomes(&told), expected, "{bytes_max}");
        assert!(told.iter().all(|got| got.payload.is_empty()));
        assert_eq!(world.shard.counters().dropped_packet_too_large, 2 - told.len() as u64);
    }
}

#[test]
fn who_shares_the_answers_leaves_them_to_those_who_accept_them() {
    for (sizes, expected) in [([600, 2000], "replied"), ([2000, 600], "replied"), ([600, 600], "too-large")] {
        let mut world = world();
        let car = drive(&mut world, VIN);
        let shares = ["one", "two"].map(|name| {
            let at = usize::from(name == "two");
            let (client, _) = world.dial_as(small(name, sizes[at]), Principal::service("backend"));
            world.subscribe(client, "$share/workers/backend/answers", options(1));
            world.gotten(client);
            client
        });
        for round in 0..4 {
            world.say(shares[0], request(&full("cmd/x"), &round.to_string()));
            answer(&mut world, car);
            let told: Vec<Got> = shares.iter().flat_map(|client| world.gotten(*client)).collect();
            assert_eq!(outcomes(&told), pairs(&[(&round.to_string(), expected)]), "{sizes:?}");
        }
    }
}

#[test]
fn a_vehicle_that_asks_itself_is_told_too() {
    let mut world = world();
    let car = drive(&mut world, VIN);
    let hmi = format!("{VIN}/hmi");
    let (screen, _) = world.dial_as(small(&hmi, 600), vehicle(VIN));
    world.subscribe(screen, "answers", options(1));
    world.gotten(screen);
    world.say(screen, Said { response_topic: Some("answers"), ..to("cmd/warm", "21") });
    answer(&mut world, car);
    let told = world.gotten(screen);
    assert_eq!((told[0].topic.as_str(), told[0].outcome()), ("answers", "too-large"));
}

#[test]
fn it_is_told_on_the_requesters_shard() {
    let home = causeway_fleet::home_shard(VIN, 2) as usize;
    let mut broker = Broker::new(2);
    let car = drive(&mut broker.shards[home], VIN);
    let (backend, _) = broker.shards[1 - home].dial_as(small("backend", 600), Principal::service("backend"));
    broker.shards[1 - home].subscribe(backend, ANSWERS, options(1));
    broker.carry();
    broker.shards[1 - home].say(backend, request(&full("cmd/x"), "one"));
    broker.carry();
    answer(&mut broker.shards[home], car);
    broker.carry();
    assert_eq!(outcomes(&broker.shards[1 - home].gotten(backend)), pairs(&[("one", "too-large")]));
}

/// A vehicle that says so itself says nothing.
#[test]
fn a_message_that_is_no_outcome_is_dropped_as_ever() {
    let mut world = world();
    let car = drive(&mut world, VIN);
    let (backend, _) = world.dial_as(small("backend", 600), Principal::service("backend"));
    world.subscribe(backend, "vehicles/+/status/#", options(1));
    world.gotten(backend);
    let properties = &[("cw-outcome", "replied"), ("cw-command", "c000000000020")][..];
    world.say(car, Said { properties, ..to("status/x", &large()) });
    assert_eq!(world.gotten(backend), []);
    assert_eq!(world.shard.counters().dropped_packet_too_large, 1);
}
