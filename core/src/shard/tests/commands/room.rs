//! How many bytes commands take, and who makes room for whom.

use super::*;
use crate::Bound;

fn answer(world: &mut World, car: Client) {
    for got in world.gotten(car) {
        let correlation = got.correlation.as_deref().map(str::as_bytes);
        world.say(car, Said { correlation, ..to("status/x", "done") });
    }
}

/// Counts and bytes of what is pending and of what is known.
fn loads(world: &World) -> [u64; 4] {
    let gauges = world.shard.gauges();
    world.shard.commands.check();
    [gauges.commands_pending, gauges.commands_pending_bytes, gauges.command_outcomes, gauges.command_outcomes_bytes]
}

/// The same after a restart, from the log and from a fold.
fn stay_over_restarts(world: &mut World) {
    let before = loads(world);
    world.sync();
    for folds in [0, 0, 50, 0] {
        (0..folds).for_each(|_| world.fold(20, true));
        world.restart();
        assert_eq!(loads(world), before, "{folds} folds");
    }
}

#[test]
fn what_is_pending_is_bounded_in_bytes() {
    for on_disk in [false, true] {
        let mut world = world_with(|limits| limits.commands_bytes_max = 10_000);
        world = if on_disk { world.on_disk() } else { world };
        let (car, backend) = pair(&mut world);
        world.hang_up(car);
        let (lock, payload) = (full("cmd/lock"), "x".repeat(1000));
        let asked = |correlation: &'static str| Said { payload: &payload, ..request(&lock, correlation) };
        let mut accepted = 0;
        loop {
            world.say(backend, asked("one"));
            match world.got(backend).1.remove(0).as_str() {
                "puback 0x00" => accepted += 1,
                answer => break assert_eq!(answer, "puback 0x97"),
            }
        }
        let [pending, bytes, ..] = loads(&world);
        assert_eq!(pending, accepted);
        assert!(
            (5..=9).contains(&accepted) && (accepted * 1000 + 1000..=10_000).contains(&bytes),
            "{accepted} {bytes}"
        );
        assert_eq!(world.shard.counters().bounds_reached[Bound::CommandsPendingBytes as usize], 1);
        stay_over_restarts(&mut world);
        // What the vehicle has does not wait here any more.
        let car = world.dial_silently(persistent(VIN), vehicle(VIN));
        let [_, sent, ..] = loads(&world);
        assert!(sent < accepted * 500, "{sent}");
        let backend = world.dial_silently(persistent("backend"), Principal::service("backend"));
        world.say(backend, asked("more"));
        assert_eq!(world.got(backend).1.pop().unwrap(), "puback 0x00");
        stay_over_restarts(&mut world);
        let _ = car;
        world.wait(30_000);
        let [pending, bytes, ..] = loads(&world);
        assert_eq!((pending, bytes), (0, 0));
    }
}

#[test]
fn outcomes_with_a_key_are_known_longer_than_others() {
    for on_disk in [false, true] {
        let mut world = world_with(|limits| limits.command_outcomes_bytes_max = 6000);
        world = if on_disk { world.on_disk() } else { world };
        let (car, backend) = pair(&mut world);
        let lock = full("cmd/lock");
        let keyed = Said { properties: &[("idempotency-key", "k")], ..request(&lock, "keyed") };
        world.say(backend, keyed);
        answer(&mut world, car);
        for number in 0..50 {
            world.say(backend, request(&lock, &number.to_string()));
            answer(&mut world, car);
            let [_, _, outcomes, bytes] = loads(&world);
            assert!(bytes <= 6000, "{bytes} of {outcomes}");
        }
        assert!(world.shard.counters().bounds_reached[Bound::CommandOutcomesBytes as usize] > 20);
        world.gotten(backend);
        stay_over_restarts(&mut world);
        let car = world.dial_silently(persistent(VIN), vehicle(VIN));
        let backend = world.dial_silently(persistent("backend"), Principal::service("backend"));
        world.gotten(car);
        world.gotten(backend);
        // Others were forgotten; this one is still the same command.
        world.say(backend, Said { correlation: Some(b"again"), id: 7, ..keyed });
        assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("again", "replied")]));
        assert_eq!(world.gotten(car), []);
    }
}

#[test]
fn no_outcome_with_a_key_is_forgotten_for_another() {
    let mut world = world_with(|limits| {
        limits.command_outcomes_bytes_max = 6000;
        limits.command_outcomes_kept_seconds = 100;
    });
    let (car, backend) = pair(&mut world);
    let lock = full("cmd/lock");
    let ask = |world: &mut World, qos: u8, key: &str| {
        let properties = &[("idempotency-key", key)][..];
        world.say(backend, Said { qos, properties, ..request(&lock, key) });
        answer(world, car);
        world.got(backend)
    };
    let mut accepted = 0;
    while ask(&mut world, 1, &format!("k{accepted}")).1 == ["puback 0x00"] {
        accepted += 1;
        assert!(accepted < 20);
    }
    assert!(accepted > 5);
    let held = loads(&world)[2];
    assert_eq!(held, accepted);
    // Whoever is told otherwise takes no room by that: what never began may begin another time.
    for _ in 0..20 {
        let (told, _) = ask(&mut world, 0, "too much");
        assert_eq!(outcomes(&told), pairs(&[("too much", "queue-full")]));
    }
    assert!(loads(&world)[3] <= 6000);
    for number in 0..accepted {
        let key = format!("k{number}");
        assert_eq!(outcomes(&ask(&mut world, 1, &key).0), pairs(&[(&key, "replied")]), "it is still known");
    }
    assert_eq!(world.shard.counters().commands_ended[0], accepted, "and was one command");
    // Without a key there is always room.
    world.say(backend, request(&lock, "plain"));
    answer(&mut world, car);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("plain", "replied")]));
    stay_over_restarts(&mut world);
    world.wait(100_000);
    let (car, backend) = pair(&mut world);
    world.say(backend, Said { properties: &[("idempotency-key", "later")], ..request(&lock, "later") });
    answer(&mut world, car);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("later", "replied")]));
}

#[test]
fn a_refusal_for_want_of_room_is_none_of_a_retry() {
    let mut world = world_with(|limits| limits.commands_per_vehicle_max = 1);
    let (car, backend) = pair(&mut world);
    let lock = full("cmd/lock");
    let keyed = Said { qos: 0, properties: &[("idempotency-key", "k")], ..request(&lock, "keyed") };
    world.say(backend, request(&lock, "first"));
    world.say(backend, keyed);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("keyed", "queue-full")]));
    // It is known for as long as there is room, and told again.
    answer(&mut world, car);
    world.gotten(backend);
    world.say(backend, keyed);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("keyed", "queue-full")]));
}

#[test]
fn a_retry_takes_no_more_room_than_there_is() {
    let mut world = world_with(|limits| limits.commands_bytes_max = 4000);
    let (car, backend) = pair(&mut world);
    world.hang_up(car);
    let (lock, long) = (full("cmd/lock"), "x".repeat(4000));
    let keyed = Said { properties: &[("idempotency-key", "k")], ..request(&lock, "short") };
    world.say(backend, keyed);
    world.say(backend, Said { id: 2, correlation: Some(long.as_bytes()), ..keyed });
    world.say(backend, Said { id: 3, correlation: Some(b"longer than short"), ..keyed });
    assert_eq!(world.got(backend).1, ["puback 0x00", "puback 0x97", "puback 0x00"]);
    assert!(loads(&world)[1] <= 4000);
    world.wait(30_000);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("longer than short", "timed-out")]));
}

/// A retry may bring more Correlation Data than the request had.
#[test]
fn what_retries_bring_is_bounded_too() {
    for on_disk in [false, true] {
        let mut world = world_with(|limits| limits.command_outcomes_bytes_max = 6000);
        world = if on_disk { world.on_disk() } else { world };
        let (car, backend) = pair(&mut world);
        let (lock, large) = (full("cmd/lock"), [b'x'; 5000]);
        let keyed = |key: &'static [(&'static str, &'static str)]| Said { properties: key, ..request(&lock, "keyed") };
        for key in [&[("idempotency-key", "a")], &[("idempotency-key", "b")]] {
            world.say(backend, keyed(key));
            answer(&mut world, car);
            world.gotten(backend);
        }
        let again = |key| Said { correlation: Some(&large), ..keyed(key) };
        world.say(backend, again(&[("idempotency-key", "a")]));
        let (told, acknowledged) = world.got(backend);
        assert_eq!((told.len(), acknowledged), (1, vec!["puback 0x00".to_owned()]));
        world.say(backend, again(&[("idempotency-key", "b")]));
        assert_eq!(world.got(backend), (vec![], vec!["puback 0x97".to_owned()]));
        let [_, _, outcomes, bytes] = loads(&world);
        assert!(outcomes == 2 && bytes <= 6000, "{bytes}");
        stay_over_restarts(&mut world);
        let backend = world.dial_silently(persistent("backend"), Principal::service("backend"));
        world.gotten(backend);
        world.say(backend, Said { id: 7, ..keyed(&[("idempotency-key", "b")]) });
        assert_eq!(outcomes_of(&mut world, backend), pairs(&[("keyed", "replied")]), "it is still the same command");
    }
}

fn outcomes_of(world: &mut World, client: Client) -> Vec<(String, String)> {
    outcomes(&world.gotten(client))
}
