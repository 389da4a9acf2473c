//! Crashes: the log may end behind any record.

use std::collections::BTreeSet;

use super::*;
use crate::Lsn;

/// What everybody has seen of a run, over all crashes.
#[derive(Debug, Default)]
struct Seen {
    /// Correlation Data, outcome, and the identifier of the message: a repetition has the same.
    outcomes: BTreeSet<(String, String, u16)>,
    /// Numbers of commands that the vehicle got, likewise.
    commands: BTreeSet<(String, u16)>,
}

impl Seen {
    fn look(&mut self, world: &mut World, car: Client, backend: Client) {
        let commands = world.gotten(car).into_iter().filter_map(|got| Some((got.correlation?, got.id)));
        self.commands.extend(commands);
        let told = world.gotten(backend).into_iter().filter(|got| !got.outcome().is_empty());
        self.outcomes.extend(told.map(|got| (got.correlation.clone().unwrap(), got.outcome().to_owned(), got.id)));
    }
}

/// Plays a request from its beginning to its end, and leaves nothing to the disk to do.
fn play(world: &mut World, qos: u8, waits: bool) {
    let (car, backend) = pair(world);
    if waits {
        world.hang_up(car);
    }
    let topic = full("cmd/lock");
    let key = &[("idempotency-key", "k")][..];
    let asked = Said { qos, expiry: Some(100), properties: key, ..request(&topic, "one") };
    world.say(backend, asked);
    let car = if waits { world.dial_as(persistent(VIN), vehicle(VIN)).0 } else { car };
    let id = world.shard.commands.all_ids().next().unwrap().to_string();
    world.say(car, Said { correlation: Some(id.as_bytes()), ..to("status/lock", "done") });
    world.hang_up(car);
    world.hang_up(backend);
}

#[test]
fn wherever_the_log_ends_there_is_one_outcome() {
    for on_disk in [false, true] {
        for (qos, waits) in [(1, false), (2, false), (1, true), (2, true)] {
            let whole = {
                let mut world = world();
                world = if on_disk { world.on_disk() } else { world };
                play(&mut world, qos, waits);
                world.record_count()
            };
            for records in 0..=whole {
                for folds in [0, 1, 3] {
                    let mut world = world();
                    world = if on_disk { world.on_disk() } else { world };
                    play(&mut world, qos, waits);
                    // A fold that was committed before may know any part of it.
                    world.cut(records);
                    let mut seen = Seen::default();
                    world.restart();
                    for _ in 0..folds {
                        world.fold(1, true);
                    }
                    goes_on(&mut world, &mut seen, qos);
                    assert_eq!(seen.outcomes.len(), 1, "{records} of {whole} records, QoS {qos}, {folds}: {seen:?}");
                    assert!(seen.commands.len() <= 1, "{records} of {whole} records, QoS {qos}: {seen:?}");
                }
            }
        }
    }
}

/// Both come back. Whoever has no acknowledgement says it again; the vehicle answers what it is asked.
fn goes_on(world: &mut World, seen: &mut Seen, qos: u8) {
    let (backend, _) = {
        let client = world.dial_silently(persistent("backend"), Principal::service("backend"));
        (client, ())
    };
    let car = world.dial_silently(persistent(VIN), vehicle(VIN));
    // A session that was lost with the log begins anew; its client knows by its CONNACK, and subscribes.
    world.subscribe(backend, ANSWERS, options(1));
    world.subscribe(car, "cmd/#", options(1));
    seen.look(world, car, backend);
    let topic = full("cmd/lock");
    let key = &[("idempotency-key", "k")][..];
    if seen.outcomes.is_empty() {
        let again = Said { qos, dup: true, expiry: Some(100), properties: key, ..request(&topic, "one") };
        world.say(backend, again);
    }
    seen.look(world, car, backend);
    let pending: Vec<String> = world.shard.commands.all_ids().map(|id| id.to_string()).collect();
    for id in pending {
        world.say(car, Said { id: 9, correlation: Some(id.as_bytes()), ..to("status/lock", "done") });
    }
    seen.look(world, car, backend);
    world.restart();
    let backend = world.dial_silently(persistent("backend"), Principal::service("backend"));
    let car = world.dial_silently(persistent(VIN), vehicle(VIN));
    world.wait(200_000);
    seen.look(world, car, backend);
}

#[test]
fn an_outcome_of_the_clock_survives_any_end_of_the_log() {
    let run = |cut: Option<usize>| {
        let mut world = world();
        let (car, backend) = pair(&mut world);
        world.hang_up(car);
        world.say(backend, Said { expiry: Some(5), ..request(&full("cmd/lock"), "one") });
        world.hang_up(backend);
        let requested = world.record_count();
        world.wait(6000);
        let count = world.record_count();
        if let Some(cut) = cut {
            world.cut(requested + cut);
            world.restart();
        }
        let backend = world.dial_silently(persistent("backend"), Principal::service("backend"));
        (outcomes(&world.gotten(backend)), count - requested)
    };
    let (expected, more) = run(None);
    assert_eq!(expected, pairs(&[("one", "timed-out")]));
    for cut in 0..=more {
        assert_eq!(run(Some(cut)).0, expected, "{cut} of {more}");
    }
}

#[test]
fn nothing_is_seen_before_it_is_durable() {
    for qos in 0..2 {
        let mut world = world();
        let car = drive(&mut world, VIN);
        world.subscribe(car, "cmd/#", options(qos));
        let (backend, _) = world.dial_as(connect("backend"), Principal::service("backend"));
        world.subscribe(backend, ANSWERS, options(qos));
        world.gotten(car);
        world.gotten(backend);
        world.durable_at_once = false;
        world.say(backend, request(&full("cmd/lock"), "one"));
        assert_eq!((world.gotten(car), world.got(backend)), (vec![], (vec![], vec![])));
        world.sync();
        assert_eq!(world.got(backend).1, ["puback 0x00"]);
        let got = world.gotten(car);
        assert_eq!(got.len(), 1);
        world.say(car, Said { correlation: got[0].correlation.as_deref().map(str::as_bytes), ..to("status/x", "x") });
        assert_eq!((world.got(car), world.gotten(backend)), ((vec![], vec![]), vec![]));
        world.sync();
        assert_eq!(world.got(car).1, ["puback 0x00"]);
        assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "replied")]));
    }
}

#[test]
fn one_sync_carries_request_and_delivery() {
    let mut world = world();
    let (_, backend) = pair(&mut world);
    world.durable_at_once = false;
    world.say(backend, request(&full("cmd/lock"), "one"));
    assert_eq!(world.shard.take_group().unwrap().iter().count(), 1, "and that in one record");
}

#[test]
fn a_fold_knows_commands_at_every_step() {
    for step in 0..4 {
        for folds in 1..4 {
            let mut world = world_with(|limits| limits.body_cache_bytes = 0).on_disk();
            let (car, backend) = pair(&mut world);
            world.hang_up(car);
            let topic = full("cmd/lock");
            let key = &[("idempotency-key", "k")][..];
            let asked = Said { properties: key, payload: "{\"request_id\":7}", ..request(&topic, "one") };
            let mut car = None;
            let at = |world: &mut World, now: usize| {
                if now == step {
                    (0..folds).for_each(|_| world.fold(20, true));
                    world.restart();
                }
            };
            at(&mut world, 0);
            let backend = match step {
                0 => world.dial_silently(persistent("backend"), Principal::service("backend")),
                _ => backend,
            };
            world.say(backend, asked);
            at(&mut world, 1);
            if step != 1 {
                world.gotten(backend);
            }
            car.replace(world.dial_silently(persistent(VIN), vehicle(VIN)));
            world.gotten(car.unwrap());
            at(&mut world, 2);
            if step == 2 {
                car.replace(world.dial_silently(persistent(VIN), vehicle(VIN)));
                world.gotten(car.unwrap());
            }
            world.say(car.unwrap(), to("status/x", "{\"request_id\":7}"));
            at(&mut world, 3);
            let backend = match step {
                0 => backend,
                _ => world.dial_silently(persistent("backend"), Principal::service("backend")),
            };
            let told = world.gotten(backend);
            assert_eq!(outcomes(&told), pairs(&[("one", "replied")]), "step {step}, {folds} folds");
            world.say(backend, Said { correlation: Some(b"again"), id: 5, ..asked });
            assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("again", "replied")]), "step {step}, {folds} folds");
            world.shard.commands.check();
        }
    }
}

#[test]
fn numbers_grow_over_restarts() {
    let mut world = world();
    let (_, backend) = pair(&mut world);
    let mut last = None;
    for run in 0..5 {
        let backend = match run {
            0 => backend,
            _ => world.dial_silently(persistent("backend"), Principal::service("backend")),
        };
        world.say(backend, request(&full("cmd/lock"), "one"));
        world.say(backend, Said { expiry: Some(0), ..request(&full("cmd/lock"), "refused") });
        let newest = world.shard.commands.all_ids().next_back();
        assert!(newest > last, "{newest:?} {last:?}");
        last = newest;
        world.restart();
    }
    assert_eq!(world.shard.durable, Lsn(world.record_count() as u64));
}
