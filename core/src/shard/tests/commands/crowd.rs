//! Outcomes where others than the requester's own session are told them.

use super::super::peers::Broker;
use super::*;

fn answer(world: &mut World, car: Client) {
    for got in world.gotten(car) {
        let correlation = got.correlation.as_deref().map(str::as_bytes);
        world.say(car, Said { correlation, ..to("status/x", "x") });
    }
}

#[test]
fn outcomes_do_not_fill_what_nobody_reads() {
    let mut world = world_with(|limits| {
        limits.session_queue_messages_max = 4;
        limits.commands_per_requester_max = 2;
        limits.commands_per_vehicle_max = 2;
    });
    let (car, _) = pair(&mut world);
    // Two clients of one service; the other one does not come back.
    let (reader, _) = world.dial_as(persistent("reader"), Principal::service("service"));
    let (gone, _) = world.dial_as(persistent("gone"), Principal::service("service"));
    world.subscribe(gone, ANSWERS, options(1));
    world.disconnect(gone);
    for correlation in 0..40 {
        world.say(reader, request(&full("cmd/x"), &correlation.to_string()));
        answer(&mut world, car);
    }
    let gone = world.dial_silently(persistent("gone"), Principal::service("service"));
    let told = outcomes(&world.gotten(gone)).len();
    assert!(told <= 6, "{told}");
}

#[test]
fn those_who_share_the_answers_lose_none() {
    let mut world = world_with(|limits| limits.session_queue_messages_max = 2);
    let (car, _) = pair(&mut world);
    let mut terms = persistent("slow");
    terms.properties.receive_maximum = Some(1);
    let (slow, _) = world.dial_as(terms, Principal::service("slow"));
    world.subscribe(slow, "$share/workers/slow/answers", options(1));
    world.heard(slow);
    for correlation in ["1", "2", "3", "4", "5"] {
        world.say(slow, Said { response_topic: Some("slow/answers"), ..request(&full("cmd/x"), correlation) });
    }
    let accepted = world.heard(slow).iter().filter(|word| word.starts_with("puback") && !word.contains("0x")).count();
    answer(&mut world, car);
    let mut told = Vec::new();
    for _ in 0..20 {
        told.extend(outcomes(&world.gotten(slow)));
    }
    assert_eq!(told.len(), accepted);
}

fn home() -> usize {
    causeway_fleet::home_shard(VIN, 2) as usize
}

#[test]
fn a_refusal_from_elsewhere_reaches_its_requester_past_others_that_are_full() {
    let mut broker = Broker::with(2, |limits| {
        limits.commands_per_vehicle_max = 1;
        limits.session_queue_messages_max = 2;
    });
    let away = 1 - home();
    let backend = service(&mut broker.shards[away], "backend");
    let (audit, _) = broker.shards[away].dial_as(persistent("audit"), Principal::service("audit"));
    broker.shards[away].subscribe(audit, "#", options(1));
    broker.shards[away].disconnect(audit);
    broker.carry();
    for noise in ["1", "2", "3"] {
        broker.shards[away].say(backend, to("noise", noise));
        broker.carry();
    }
    broker.shards[away].got(backend);
    for correlation in ["one", "two"] {
        broker.shards[away].say(backend, request(&full("cmd/lock"), correlation));
        broker.carry();
    }
    let (told, said) = broker.shards[away].got(backend);
    assert_eq!(said, ["puback 0x00", "puback 0x00"]);
    assert_eq!(outcomes(&told), pairs(&[("two", "queue-full")]));
}

#[test]
fn outcomes_from_elsewhere_do_not_fill_what_nobody_reads() {
    let mut broker = Broker::with(2, |limits| {
        limits.session_queue_messages_max = 4;
        limits.commands_per_requester_max = 2;
        limits.commands_per_vehicle_max = 2;
    });
    let (here, away) = (home(), 1 - home());
    let car = drive(&mut broker.shards[here], VIN);
    let backend = service(&mut broker.shards[away], "backend");
    let (audit, _) = broker.shards[away].dial_as(persistent("audit"), Principal::service("audit"));
    broker.shards[away].subscribe(audit, ANSWERS, options(1));
    broker.shards[away].disconnect(audit);
    broker.carry();
    for correlation in 0..40 {
        broker.shards[away].say(backend, request(&full("cmd/x"), &correlation.to_string()));
        broker.carry();
        answer(&mut broker.shards[here], car);
        broker.carry();
        assert_eq!(outcomes(&broker.shards[away].gotten(backend)).len(), 1);
    }
    let audit = broker.shards[away].dial_silently(persistent("audit"), Principal::service("audit"));
    let told = outcomes(&broker.shards[away].gotten(audit)).len();
    assert!(told <= 8, "{told}");
}
