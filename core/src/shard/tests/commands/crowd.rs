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

#[test]
fn a_vehicles_clients_that_share_get_nothing_that_is_over() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let (hmi, _) = world.dial_as(persistent("1M8GDM9AXKP042788/hmi"), vehicle(VIN));
    world.subscribe(hmi, "$share/hmi/cmd/#", options(1));
    world.disconnect(hmi);
    world.say(backend, request(&full("cmd/x"), "one"));
    answer(&mut world, car);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "replied")]));
    let hmi = world.dial_silently(persistent("1M8GDM9AXKP042788/hmi"), vehicle(VIN));
    assert_eq!(world.gotten(hmi), []);
}

/// Requests from all shards, with links cut and everything killed at any place: each has one outcome.
#[test]
fn requests_from_any_shard_have_one_outcome_each_whatever_is_killed() {
    for shards in 1..4 {
        for seed in 0..20 {
            let mut random = seed * 3 + shards as u64;
            let mut next = |below: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % below
            };
            let mut broker = Broker::with(shards, |limits| limits.commands_per_vehicle_max = 3);
            let here = causeway_fleet::home_shard(VIN, shards as u32) as usize;
            let mut asked: Vec<(usize, bool)> = Vec::new();
            let mut told: Vec<Vec<(String, String)>> = Vec::new();
            let join = |broker: &mut Broker| {
                let car = broker.shards[here].dial_silently(persistent(VIN), vehicle(VIN));
                broker.shards[here].subscribe(car, "cmd/#", options(1));
                let services = (0..shards).map(|at| {
                    let name = format!("s{at}");
                    let client = broker.shards[at].dial_silently(persistent(&name), Principal::service(&name));
                    broker.shards[at].subscribe(client, &format!("s{at}/answers"), options(1));
                    client
                });
                (car, services.collect::<Vec<_>>())
            };
            let (mut car, mut services) = join(&mut broker);
            broker.carry();
            for _ in 0..40 {
                match next(8) {
                    0..3 => {
                        let at = next(shards as u64) as usize;
                        let (correlation, answers) = (asked.len().to_string(), format!("s{at}/answers"));
                        let (topic, id) = (full("cmd/x"), asked.len() as u16 + 1);
                        asked.push((at, false));
                        told.push(Vec::new());
                        let said = Said { response_topic: Some(&answers), id, ..request(&topic, &correlation) };
                        let said = Said { properties: &[("idempotency-key", &correlation)], qos: 1, ..said };
                        broker.shards[at].say(services[at], said);
                    }
                    3..5 => broker.carry(),
                    5 => answer(&mut broker.shards[here], car),
                    6 => broker.cut = next(2) == 0,
                    _ => {
                        if next(3) == 0 {
                            broker.cut = false;
                            broker.restart();
                            (car, services) = join(&mut broker);
                        }
                    }
                }
                read(&mut broker, &services, &mut asked, &mut told);
            }
            broker.cut = false;
            broker.carry();
            broker.shards.iter_mut().for_each(|world| world.wait(60_000));
            for _ in 0..3 {
                broker.carry();
                read(&mut broker, &services, &mut asked, &mut told);
            }
            for (number, told) in told.iter().enumerate() {
                let refused = usize::from(asked[number].1);
                assert_eq!(told.len() + refused, 1, "{shards} shards, seed {seed}: {number} of {asked:?} {told:?}");
            }
        }
    }
}

fn read(broker: &mut Broker, services: &[Client], asked: &mut [(usize, bool)], told: &mut [Vec<(String, String)>]) {
    for (at, client) in services.iter().enumerate() {
        let (got, said) = broker.shards[at].got(*client);
        // At most one request is acknowledged at a time here.
        if said.iter().any(|word| word.starts_with("puback 0x") && !word.ends_with("0x00")) {
            let last = asked.iter_mut().rev().find(|(by, _)| *by == at);
            last.into_iter().for_each(|(_, refused)| *refused = true);
        }
        for got in got.into_iter().filter(|got| !got.dup) {
            let correlation = got.correlation.clone().unwrap();
            told[correlation.parse::<usize>().unwrap()].push((got.outcome().to_owned(), got.command().to_owned()));
        }
    }
}
