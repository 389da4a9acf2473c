//! What is too much, what comes again, and what is asked by others than clients.

use causeway_fleet::policy::Policy;

use super::*;
use crate::{Answer, Ask, AskId, Bound, CommandAsk, CommandProgress, CommandTold, Effect, ReturnAddress};

#[test]
fn bounds_are_answered() {
    let mut world = world_with(|limits| {
        limits.commands_per_vehicle_max = 2;
        limits.commands_per_requester_max = 3;
        limits.commands_max = 4;
        limits.command_payload_bytes_max = 10;
    });
    let (_, backend) = pair(&mut world);
    let another = service(&mut world, "another");
    let request_of = |world: &mut World, client, vin: &str, correlation| {
        world.say(client, request(&format!("vehicles/{vin}/cmd/x"), correlation));
        world.got(client).1.remove(0)
    };
    assert_eq!(request_of(&mut world, backend, VIN, "1"), "puback 0x00");
    assert_eq!(request_of(&mut world, backend, VIN, "2"), "puback 0x00");
    assert_eq!(request_of(&mut world, backend, VIN, "3"), "puback 0x97", "of the vehicle");
    assert_eq!(request_of(&mut world, backend, OTHER, "4"), "puback 0x00");
    assert_eq!(request_of(&mut world, backend, OTHER, "5"), "puback 0x97", "for the requester");
    assert_eq!(request_of(&mut world, another, OTHER, "6"), "puback 0x00");
    assert_eq!(request_of(&mut world, another, "WAUZZZ8K9AA123456", "7"), "puback 0x97", "of all");
    let reached = |bound: Bound| world.shard.counters().bounds_reached[bound as usize];
    let bounds = [Bound::CommandsPerVehicle, Bound::CommandsPerRequester, Bound::Commands];
    assert_eq!(bounds.map(reached), [1, 1, 1]);
    let large = Said { payload: "12345678901", ..request("vehicles/WAUZZZ8K9AA123456/cmd/x", "8") };
    world.say(backend, large);
    assert_eq!(world.got(backend).1, ["puback 0x97"]);
    // Whoever is not acknowledged is told otherwise.
    world.say(backend, Said { qos: 0, ..large });
    world.say(backend, Said { qos: 0, ..request(&full("cmd/x"), "9") });
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("8", "refused"), ("9", "queue-full")]));
    world.wait(30_000);
    let told = pairs(&[("1", "timed-out"), ("2", "timed-out"), ("4", "timed-out"), ("6", "timed-out")]);
    assert_eq!(outcomes(&world.gotten(backend)), told);
    assert_eq!(world.shard.gauges().commands_pending, 0);
}

#[test]
fn a_full_queue_stops_no_outcome_but_new_requests() {
    let mut world = world_with(|limits| limits.session_queue_messages_max = 2);
    let (car, _) = pair(&mut world);
    let mut terms = persistent("slow");
    terms.properties.receive_maximum = Some(1);
    let (slow, _) = world.dial_as(terms, Principal::service("slow"));
    let observer = service(&mut world, "observer");
    world.subscribe(slow, ANSWERS, options(1));
    world.subscribe(slow, "noise", options(1));
    world.subscribe(observer, "+/answers", options(1));
    world.heard(slow);
    for correlation in ["1", "2", "3"] {
        world.say(slow, request(&full("cmd/x"), correlation));
    }
    for _ in 0..3 {
        world.say(observer, to("noise", "x"));
    }
    world.gotten(observer);
    for got in world.gotten(car) {
        let correlation = got.correlation.unwrap();
        world.say(car, Said { correlation: Some(correlation.as_bytes()), ..to("status/x", "x") });
    }
    world.say(slow, request(&full("cmd/x"), "4"));
    let heard = world.heard(slow);
    assert_eq!(heard.iter().filter(|word| word.starts_with("puback")).count(), 4, "{heard:?}");
    assert!(heard.contains(&"puback p1 0x97".to_owned()), "{heard:?}");
    // Nothing that was heard is acknowledged: the outcomes wait behind it.
    world.puback(slow, 1);
    let told = outcomes(&world.gotten(slow));
    assert_eq!(told, pairs(&[("1", "replied"), ("2", "replied"), ("3", "replied")]));
}

#[test]
fn a_retry_is_the_same_command() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let topic = full("cmd/lock");
    let keyed =
        |correlation| Said { properties: &[("idempotency-key", "k1"), ("a", "b")], ..request(&topic, correlation) };
    world.say(backend, keyed("one"));
    let got = world.gotten(car);
    assert_eq!(got[0].properties, [("a".to_owned(), "b".to_owned())]);
    // Again while it is pending: whoever asked last is told.
    world.say(backend, Said { id: 2, ..keyed("again") });
    assert_eq!(world.gotten(car), []);
    world.say(car, Said { correlation: got[0].correlation.as_deref().map(str::as_bytes), ..to("status/x", "done") });
    let (told, said) = world.got(backend);
    assert_eq!((outcomes(&told), said.len()), (pairs(&[("again", "replied")]), 2));
    // And again when it is over.
    world.say(backend, keyed("later"));
    let told = world.gotten(backend);
    assert_eq!((outcomes(&told), told[0].payload.as_str()), (pairs(&[("later", "replied")]), "done"));
    assert_eq!(world.gotten(car), []);
    // Another request under the same key, and the same key of somebody else, or for another vehicle.
    world.say(backend, Said { payload: "other", ..keyed("other") });
    assert_eq!(world.got(backend).1, ["puback 0x83"]);
    world.say(backend, Said { payload: "other", qos: 0, ..keyed("other") });
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("other", "conflict")]));
    let another = service(&mut world, "another");
    world.say(another, keyed("theirs"));
    assert_eq!(world.gotten(car).len(), 1);
    let elsewhere = format!("vehicles/{OTHER}/cmd/lock");
    world.say(backend, Said { topic: &elsewhere, ..keyed("elsewhere") });
    assert_eq!(world.shard.gauges().commands_pending, 2);
    // It is not remembered for ever.
    world.wait(3_700_000);
    assert_eq!(world.shard.gauges().command_outcomes, 0);
    let (car, backend) = pair(&mut world);
    world.say(backend, keyed("anew"));
    assert_eq!(world.gotten(car).len(), 1);
    assert_eq!(world.shard.counters().commands_retried, 2);
}

const POLICY: &str = r#"
[[role]]
name = "vehicle"
members = ["vehicle:*"]

[[role.rule]]
name = "commands"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["vehicles/{vin}/cmd/#"]

[[role]]
name = "backend"
members = ["service:*"]

[[role.rule]]
name = "answers"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["{service}/#", "fleet/#"]

[[role.rule]]
name = "requests"
effect = "allow"
actions = ["publish"]
topics = ["vehicles/+/cmd/#"]

[[role]]
name = "orders"
members = ["service:backend"]

[[role.rule]]
name = "orders"
effect = "allow"
actions = ["command"]
topics = ["vehicles/+/cmd/lock"]
"#;

#[test]
fn policies_say_who_commands_and_where_answers_go() {
    let mut world = world();
    let (policy, _) = Policy::parse(POLICY).unwrap_or_else(|problems| panic!("{problems:?}"));
    world.shard.set_policy(std::sync::Arc::new(policy));
    let (car, backend) = pair(&mut world);
    let another = service(&mut world, "another");
    let lock = full("cmd/lock");
    for (client, topic, response_topic, answer) in [
        (backend, &lock, "backend/answers", "0x00"),
        (backend, &lock, "another/answers", "0x87"),
        (backend, &lock, "fleet/OTA_Update", "0x87"),
        (backend, &full("cmd/unlock"), "backend/answers", "0x87"),
        (another, &lock, "another/answers", "0x87"),
    ] {
        world.say(client, Said { response_topic: Some(response_topic), ..to(topic, "x") });
        assert_eq!(world.got(client).1, [format!("puback {answer}")], "{topic} {response_topic}");
    }
    // The request gives the right to answer it, and no other does.
    let got = world.gotten(car);
    assert_eq!(got.len(), 1);
    world.say(car, to("status/lock", "locked"));
    assert_eq!(world.got(car).1, ["puback 0x87"]);
    world.say(car, Said { correlation: got[0].correlation.as_deref().map(str::as_bytes), ..to("status/lock", "x") });
    assert_eq!(world.got(car).1, ["puback 0x00"]);
    assert_eq!(world.gotten(backend)[0].outcome(), "replied");
}

fn answers(world: &mut World) -> Vec<(u64, Option<CommandTold>)> {
    let effects = std::iter::from_fn(|| world.shard.poll_effect());
    let answers = effects.filter_map(|effect| match effect {
        Effect::Answer { ask, answer } => match *answer {
            Answer::Command(told) => Some((ask.0, told.map(|told| *told))),
            other => panic!("{other:?}"),
        },
        _ => None,
    });
    answers.collect()
}

fn asked() -> CommandAsk {
    CommandAsk {
        address: None,
        vin: VIN.parse().unwrap(),
        name: "lock".into(),
        by: Principal::operator("olga"),
        payload: b"{}".as_slice().into(),
        content_type: Some("application/json".into()),
        expires_seconds: Some(10),
        is_now_or_never: false,
        key: None,
    }
}

#[test]
fn the_rest_of_the_broker_asks_too() {
    let mut world = world();
    let (car, _) = pair(&mut world);
    world.durable_at_once = false;
    world.shard.ask(world.now, AskId(1), &Ask::Command(Box::new(asked())));
    assert_eq!(answers(&mut world), [], "not before it is durable");
    world.sync();
    let told = answers(&mut world).remove(0).1.unwrap();
    assert_eq!(told.progress, CommandProgress::Sent);
    let state = |when_over| Ask::CommandState { id: told.id, when_over };
    world.shard.ask(world.now, AskId(2), &state(true));
    world.shard.ask(world.now, AskId(3), &state(false));
    assert_eq!(answers(&mut world).iter().map(|(ask, _)| *ask).collect::<Vec<_>>(), [3]);
    world.durable_at_once = true;
    world.sync();
    let got = world.gotten(car);
    assert_eq!(got[0].correlation, Some(told.id.to_string()));
    world.say(car, Said { correlation: got[0].correlation.as_deref().map(str::as_bytes), ..to("status/x", "done") });
    let (ask, told) = answers(&mut world).remove(0);
    let told = told.unwrap();
    assert_eq!(ask, 2);
    let CommandProgress::Ended { outcome, payload, .. } = &told.progress else { panic!("{told:?}") };
    assert_eq!((outcome.word(), &payload[..]), ("replied", b"done".as_slice()));
    world.restart();
    world.shard.ask(world.now, AskId(4), &state(true));
    assert_eq!(answers(&mut world).remove(0).1.map(|told| told.progress), Some(told.progress.clone()));
    let unknown = Ask::CommandState { id: "c000000000001".parse().unwrap(), when_over: true };
    world.shard.ask(world.now, AskId(5), &unknown);
    assert_eq!(answers(&mut world), [(5, None)]);
}

#[test]
fn who_asks_is_told_of_refusals_and_of_time() {
    let mut world = world();
    world.shard.ask(world.now, AskId(1), &Ask::Command(Box::new(CommandAsk { is_now_or_never: true, ..asked() })));
    world.sync();
    let told = answers(&mut world).remove(0).1.unwrap();
    let CommandProgress::Ended { outcome, .. } = &told.progress else { panic!("{told:?}") };
    assert_eq!(outcome.word(), "offline");
    world.shard.ask(world.now, AskId(2), &Ask::Command(Box::new(asked())));
    world.sync();
    let told = answers(&mut world).remove(0).1.unwrap();
    assert_eq!(told.progress, CommandProgress::Waiting);
    world.shard.ask(world.now, AskId(3), &Ask::CommandState { id: told.id, when_over: true });
    world.wait(10_000);
    let told = answers(&mut world).remove(0).1.unwrap();
    let CommandProgress::Ended { outcome, .. } = &told.progress else { panic!("{told:?}") };
    assert_eq!(outcome.word(), "timed-out");
}

/// 429 means later.
#[test]
fn who_asks_and_finds_no_room_may_ask_again_with_the_same_key() {
    let mut world = world_with(|limits| limits.commands_per_vehicle_max = 1);
    let (car, _) = pair(&mut world);
    let ask = |world: &mut World, number: u64, key: &str| {
        let asked = CommandAsk { key: Some(key.into()), ..asked() };
        world.shard.ask(world.now, AskId(number), &Ask::Command(Box::new(asked)));
        world.sync();
        answers(world).remove(0).1.unwrap()
    };
    assert_eq!(ask(&mut world, 1, "first").progress, CommandProgress::Sent);
    for number in 2..4 {
        let told = ask(&mut world, number, "second");
        let CommandProgress::Ended { outcome, .. } = &told.progress else { panic!("{told:?}") };
        assert_eq!(outcome.word(), "queue-full");
        // It is known by its number.
        world.shard.ask(world.now, AskId(9), &Ask::CommandState { id: told.id, when_over: true });
        assert_eq!(answers(&mut world).remove(0).1, Some(told));
    }
    let got = world.gotten(car);
    world.say(car, Said { correlation: got[0].correlation.as_deref().map(str::as_bytes), ..to("status/x", "done") });
    world.restart();
    assert_eq!(ask(&mut world, 4, "second").progress, CommandProgress::Waiting);
}

/// Whoever was told with a message has had the outcome: a job that asks again after a crash does not bring another.
#[test]
fn there_was_no_room_is_told_once_where_it_is_told_with_a_message() {
    let mut world = world_with(|limits| limits.commands_per_vehicle_max = 1);
    let (car, backend) = pair(&mut world);
    world.say(backend, request(&full("cmd/lock"), "first"));
    let ask = |world: &mut World, number: u64| {
        let address = ReturnAddress { response_topic: ANSWERS.into(), correlation_data: Some(b"job"[..].into()) };
        let by = Principal::service("backend");
        let asked = CommandAsk { key: Some("j1".into()), address: Some(address), by, ..asked() };
        world.shard.ask(world.now, AskId(number), &Ask::Command(Box::new(asked)));
        world.sync();
        answers(world).remove(0).1.unwrap()
    };
    let told = ask(&mut world, 1);
    let got = world.gotten(car);
    world.say(car, Said { correlation: got[0].correlation.as_deref().map(str::as_bytes), ..to("status/x", "done") });
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("job", "queue-full"), ("first", "replied")]));
    world.restart();
    assert_eq!(ask(&mut world, 2), told);
    let car = world.dial_silently(persistent(VIN), vehicle(VIN));
    let backend = world.dial_silently(persistent("backend"), Principal::service("backend"));
    let is_news = |got: &Got| !got.dup;
    assert!(!world.gotten(car).iter().chain(&world.gotten(backend)).any(is_news));
}

#[test]
fn who_asks_no_more_is_not_answered() {
    let mut world = world();
    world.shard.ask(world.now, AskId(1), &Ask::Command(Box::new(asked())));
    world.sync();
    let id = answers(&mut world).remove(0).1.unwrap().id;
    for ask in [2, 3] {
        world.shard.ask(world.now, AskId(ask), &Ask::CommandState { id, when_over: true });
    }
    world.shard.forget_asks(&[AskId(2)].into());
    world.wait(10_000);
    assert_eq!(answers(&mut world).iter().map(|(ask, _)| *ask).collect::<Vec<_>>(), [3]);
}

#[test]
fn properties_are_bounded_as_the_payload_is() {
    let mut world = world();
    let backend = service(&mut world, "backend");
    let value = "x".repeat(60_000);
    let properties = [("a", value.as_str()), ("b", value.as_str())];
    world.say(backend, Said { properties: &properties, ..request(&full("cmd/x"), "1") });
    assert_eq!(world.got(backend).1, ["puback 0x97"]);
}
