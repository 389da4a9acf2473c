//! Very many commands that are over at the same time: others have their turn between.

use super::*;
use crate::shard::command::COMMANDS_AT_ONCE;
use crate::{Bar, Millis, Notice};

const MANY: usize = 2 * COMMANDS_AT_ONCE + 500;

/// So many vehicles that nobody has ever seen.
fn vin(number: usize) -> String {
    let text = format!("1M8GDM9A{:01}KP{number:06}", 'X');
    text.parse::<causeway_fleet::Vin>().unwrap();
    text
}

/// Requests that wait for their vehicles, ten of each.
fn waiting() -> (World, Client) {
    let mut world = world_with(|limits| limits.command_outcomes_kept_seconds = 100);
    let backend = service(&mut world, "backend");
    for number in 0..MANY {
        let topic = format!("vehicles/{}/cmd/x", vin(number / 10));
        world.say(backend, Said { expiry: Some(10), ..request(&topic, &number.to_string()) });
        world.taken(backend.id);
    }
    assert_eq!(world.shard.gauges().commands_pending, MANY as u64);
    (world, backend)
}

/// How many are pending after each turn, until nothing is due at this time.
fn turns(world: &mut World) -> Vec<u64> {
    let mut pending = Vec::new();
    while world.shard.next_deadline().is_some_and(|due| due <= world.now) {
        world.shard.tick(world.now);
        world.settle();
        pending.push(world.shard.gauges().commands_pending);
        world.shard.commands.check();
    }
    pending
}

fn later(world: &mut World, milliseconds: u64) {
    world.now = Millis(world.now.0 + milliseconds);
}

/// All that were told, each once.
fn told(world: &mut World, client: Client, outcome: &str) -> usize {
    let mut seen = std::collections::BTreeSet::new();
    for (correlation, word) in outcomes(&world.gotten(client)) {
        assert_eq!(word, outcome);
        assert!(seen.insert(correlation.clone()), "{correlation} twice");
    }
    seen.len()
}

#[test]
fn those_that_are_due_together_end_in_turns() {
    let (mut world, backend) = waiting();
    later(&mut world, 10_000);
    assert_eq!(turns(&mut world), [1500, 500, 0]);
    assert_eq!(told(&mut world, backend, "timed-out"), MANY);
    // So are they forgotten.
    assert_eq!(world.shard.gauges().command_outcomes, MANY as u64);
    later(&mut world, 100_000);
    assert_eq!(turns(&mut world).len(), 3);
    assert_eq!(world.shard.gauges().command_outcomes, 0);
}

#[test]
fn what_is_due_and_waits_for_its_turn_is_not_delivered_and_not_answered() {
    let (mut world, backend) = waiting();
    later(&mut world, 10_000);
    world.shard.tick(world.now);
    world.settle();
    let last = vin((MANY - 1) / 10);
    let car = world.dial_silently(persistent(&last), vehicle(&last));
    world.subscribe(car, "cmd/#", options(1));
    assert_eq!(world.gotten(car), []);
    let id = world.shard.commands.all_ids().next_back().unwrap().to_string();
    world.say(car, Said { correlation: Some(id.as_bytes()), ..to("status/x", "x") });
    assert_eq!(world.got(car).1, ["puback 0x10"]);
    turns(&mut world);
    assert_eq!(told(&mut world, backend, "timed-out"), MANY);
}

#[test]
fn vehicles_that_are_barred_together_end_theirs_in_turns() {
    let (mut world, backend) = waiting();
    let bar = |why: Option<&'static str>| {
        let bars = (0..MANY / 10)
            .map(|number| (vin(number).parse().unwrap(), why.map(|why| Bar { why: why.into(), until: None })));
        Notice::Bars(bars.collect())
    };
    world.notice(bar(Some("the vehicle is suspended")));
    assert_eq!(world.shard.gauges().commands_pending, 1500);
    world.shard.tick(world.now);
    world.settle();
    assert_eq!(world.shard.gauges().commands_pending, 500);
    assert_eq!(told(&mut world, backend, "retired"), 2000);
    // The rest have their vehicles back, and wait for them as before.
    world.notice(bar(None));
    assert_eq!(turns(&mut world), [500]);
    later(&mut world, 9_999);
    turns(&mut world);
    assert_eq!(world.shard.gauges().commands_pending, 500);
    later(&mut world, 1);
    assert_eq!(turns(&mut world), [0]);
    assert_eq!(told(&mut world, backend, "timed-out"), 500);
}

#[test]
fn a_start_after_a_long_time_goes_on_in_turns() {
    let (mut world, _) = waiting();
    world.now = Millis(world.now.0 + 20_000);
    world.restart();
    assert_eq!(world.shard.gauges().commands_pending, 1500);
    turns(&mut world);
    let backend = world.dial_silently(persistent("backend"), Principal::service("backend"));
    assert_eq!(told(&mut world, backend, "timed-out"), MANY);
}
