//! Shadows as vehicles and backends see them.

use causeway_protocol::{ForwardedBuilder, ForwardedProperties, Packet, Publish, RetainHandling, SubscriptionOptions};

use super::peers::Broker;
use super::world::*;
use crate::{Answer, Ask, AskId, Effect, Identity, Principal, ShadowAsk, ShadowWhat};

const VIN: &str = "1M8GDM9AXKP042788";
const OTHER: &str = "WVWZZZ1JZ3W386752";
const DELTA: &str = "shadow/delta";

fn vehicle(vin: &str) -> Identity {
    Principal::Vehicle(vin.parse().unwrap()).into()
}

/// A vehicle that wants deltas, and a backend that follows all.
fn pair(world: &mut World) -> (Client, Client) {
    let (car, _) = world.dial_as(persistent(VIN), vehicle(VIN));
    world.subscribe(car, DELTA, options(1));
    let backend = world.join(connect("backend"));
    world.subscribe(backend, &full("shadow/#"), options(1));
    assert_eq!(world.heard(car), ["suback 01"]);
    world.heard(backend);
    (car, backend)
}

fn full(said: &str) -> String {
    format!("vehicles/{VIN}/{said}")
}

fn wish(world: &mut World, backend: Client, desired: &str) {
    let document = format!(r#"{{"state":{{"desired":{desired}}}}}"#);
    world.publish(backend, publish(1, 1, &full("shadow/update"), &document));
}

/// What was heard on topics that end so: their payloads.
fn told<'h>(heard: &'h [String], topic: &str) -> Vec<&'h str> {
    let on = format!("{topic}=");
    heard.iter().filter_map(|word| word.split_once(&on).map(|(_, payload)| payload)).collect()
}

fn sequence(delta: &str) -> u64 {
    let digits = delta.split("\"sequence\":").nth(1).unwrap();
    digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn a_state_is_merged_and_read_while_the_vehicle_sleeps() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    world.publish(car, publish(1, 1, "shadow/state", r#"{"battery":{"soc":80},"doors":"locked"}"#));
    world.publish(car, publish(1, 2, "shadow/state", r#"{"battery":{"soc":79}}"#));
    assert_eq!(world.heard(car), ["puback p1", "puback p2"]);
    let heard = world.heard(backend);
    assert_eq!(told(&heard, "shadow/documents").len(), 2, "{heard:?}");
    assert!(told(&heard, "shadow/state").is_empty(), "a call is nobody's message: {heard:?}");
    world.disconnect(car);
    world.publish(backend, publish(1, 1, &full("shadow/get"), ""));
    let heard = world.heard(backend);
    let document = told(&heard, "shadow/get/accepted");
    assert!(document[0].contains(r#""reported":{"battery":{"soc":79},"doors":"locked"}"#), "{document:?}");
    assert!(document[0].contains(r#""version":2"#), "{document:?}");
}

#[test]
fn a_vehicle_that_was_away_gets_one_delta() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    wish(&mut world, backend, r#"{"doors":"locked"}"#);
    let heard = world.heard(car);
    let delta = told(&heard, DELTA);
    assert!(delta.len() == 1 && delta[0].contains(r#""state":{"doors":"locked"}"#), "{delta:?}");
    let first = sequence(delta[0]);
    world.hang_up(car);
    wish(&mut world, backend, r#"{"climate":{"target":21}}"#);
    wish(&mut world, backend, r#"{"climate":{"target":22}}"#);
    let (car, heard) = world.dial_as(persistent(VIN), vehicle(VIN));
    let delta = told(&heard, DELTA);
    assert_eq!(delta.len(), 1, "{heard:?}");
    assert!(delta[0].contains(r#""state":{"climate":{"target":22},"doors":"locked"}"#), "{delta:?}");
    let second = sequence(delta[0]);
    assert!(second > first);
    // The same again keeps its number; what is reached is over.
    world.hang_up(car);
    let (car, heard) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(told(&heard, DELTA).into_iter().map(sequence).collect::<Vec<_>>(), [second]);
    world.publish(car, publish(1, 1, "shadow/state", r#"{"climate":{"target":22},"doors":"locked"}"#));
    world.hang_up(car);
    let (_, heard) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(heard, ["connack 0x00 present"]);
}

#[test]
fn who_subscribes_again_is_told_again_unless_it_says_otherwise() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    wish(&mut world, backend, r#"{"a":1}"#);
    assert_eq!(told(&world.heard(car), DELTA).len(), 1);
    for (retain_handling, times) in
        [(RetainHandling::Always, 1), (RetainHandling::IfNew, 0), (RetainHandling::Never, 0)]
    {
        world.subscribe(car, DELTA, SubscriptionOptions { retain_handling, ..options(1) });
        assert_eq!(told(&world.heard(car), DELTA).len(), times, "{retain_handling:?}");
    }
    world.unsubscribe(car, DELTA);
    world.heard(car);
    world.subscribe(car, DELTA, SubscriptionOptions { retain_handling: RetainHandling::IfNew, ..options(1) });
    assert_eq!(told(&world.heard(car), DELTA).len(), 1);
}

#[test]
fn deltas_that_do_not_fit_at_once_are_told_one_after_the_other() {
    let mut world = World::with(|limits| limits.outbox_bytes_max = 100);
    let (car, backend) = pair(&mut world);
    world.subscribe(car, "shadow/name/+/delta", options(0));
    world.hang_up(car);
    for name in ["a", "b", "c"] {
        let document = r#"{"state":{"desired":{"x":"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"}}}"#;
        world.publish(backend, publish(1, 1, &full(&format!("shadow/name/{name}/update")), document));
        world.heard(backend);
    }
    let (car, mut heard) = world.dial_as(persistent(VIN), vehicle(VIN));
    for _ in 0..10 {
        heard.extend(world.heard(car));
    }
    assert_eq!(["a", "b", "c"].map(|name| told(&heard, &format!("name/{name}/delta")).len()), [1, 1, 1], "{heard:?}");
}

#[test]
fn a_vehicle_that_comes_back_is_told_nothing_older_behind_what_is_newer() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    wish(&mut world, backend, r#"{"a":0}"#);
    world.hang_up(car);
    world.durable_at_once = false;
    let (car, heard) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(heard, [""; 0]);
    wish(&mut world, backend, r#"{"a":1}"#);
    wish(&mut world, backend, r#"{"a":2}"#);
    world.sync();
    let heard = world.heard(car);
    let sequences: Vec<u64> = told(&heard, DELTA).into_iter().map(sequence).collect();
    assert!(sequences.is_sorted() && sequences.last() == Some(&3), "{heard:?}");
}

/// A will goes out as any message: it would be a delta that nobody wished, retained if it says so.
#[test]
fn no_will_is_left_about_a_shadow() {
    let mut world = World::new();
    for topic in ["shadow/delta", "shadow/state", "shadow/name/n/update", "shadow/documents", "shadow"] {
        let (_, said) = world.dial_as(with_will(connect(VIN), topic, 0), vehicle(VIN));
        assert_eq!(said, ["connack 0x87"], "{topic}");
        let (_, said) = world.dial(with_will(connect("backend"), &full(topic), 0));
        assert_eq!(said, ["connack 0x87"], "{topic}");
    }
    let (_, said) = world.dial_as(with_will(connect(VIN), "status/gone", 0), vehicle(VIN));
    assert_eq!(said, ["connack 0x00"]);
}

#[test]
fn a_new_subscription_is_told_what_is_wanted() {
    let mut world = World::new();
    let backend = world.join(connect("backend"));
    wish(&mut world, backend, r#"{"a":1}"#);
    let (car, heard) = world.dial_as(connect(VIN), vehicle(VIN));
    assert_eq!(heard, ["connack 0x00"]);
    world.subscribe(car, "other/#", options(0));
    assert_eq!(world.heard(car), ["suback 00"]);
    world.subscribe(car, "shadow/#", options(0));
    let heard = world.heard(car);
    assert!(heard[0] == "suback 00" && told(&heard, DELTA).len() == 1, "{heard:?}");
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    world.durable_at_once = false;
    wish(&mut world, backend, r#"{"a":1}"#);
    world.publish(backend, publish(0, 0, &full("shadow/get"), ""));
    let ask = ShadowAsk { vin: VIN.parse().unwrap(), name: None, by: Principal::operator("o"), what: ShadowWhat::Get };
    world.shard.ask(world.now, AskId(7), &Ask::Shadow(ask));
    assert_eq!((world.heard(car), world.heard(backend)), (vec![], vec![]));
    let answered = |world: &mut World| {
        let effects: Vec<Effect> = std::iter::from_fn(|| world.shard.poll_effect()).collect();
        effects.into_iter().filter(|effect| matches!(effect, Effect::Answer { .. })).count()
    };
    assert_eq!(answered(&mut world), 0);
    world.sync();
    assert_eq!(told(&world.heard(car), DELTA).len(), 1);
    let heard = world.heard(backend);
    for topic in ["shadow/update/accepted", "shadow/delta", "shadow/documents", "shadow/get/accepted"] {
        assert_eq!(told(&heard, topic).len(), 1, "{topic}: {heard:?}");
    }
    assert_eq!(answered(&mut world), 1);
}

#[test]
fn errors_have_their_codes_and_nothing_changes() {
    let mut world = World::with(|limits| limits.shadows_named_max = 1);
    let (_, backend) = pair(&mut world);
    wish(&mut world, backend, r#"{"a":1}"#);
    world.heard(backend);
    for (said, payload, code) in [
        ("shadow/update", "{", "400"),
        ("shadow/update", r#"{"state":{"desired":{"a":2}},"version":7}"#, "409"),
        ("shadow/delete", r#"{"version":7}"#, "409"),
        ("shadow/name/x/get", "", "404"),
        ("shadow/name/x/delete", "", "404"),
        ("shadow/state", "[]", "400"),
    ] {
        world.publish(backend, publish(1, 1, &full(said), payload));
        let heard = world.heard(backend);
        let rejected =
            heard.iter().find(|word| word.contains("/rejected=")).unwrap_or_else(|| panic!("{said}: {heard:?}"));
        assert!(rejected.contains(&format!("\"code\":{code}")), "{said}: {rejected}");
    }
    for (name, accepted) in [("x", true), ("y", false), ("x", true)] {
        let topic = full(&format!("shadow/name/{name}/update"));
        world.publish(backend, publish(1, 1, &topic, r#"{"state":{"reported":{"b":1}}}"#));
        let heard = world.heard(backend);
        let found = heard.iter().any(|word| word.contains("/accepted="));
        assert_eq!(found, accepted, "{name}: {heard:?}");
    }
    for said in ["shadow/delta", "shadow/update/accepted", "shadow/name//get", "shadow"] {
        world.publish(backend, publish(1, 1, &full(said), "{}"));
        let heard = world.heard(backend);
        assert_eq!(heard, ["puback p1 0x87"], "{said}");
    }
}

#[test]
fn shadows_survive_crashes_and_folds() {
    for folds in [false, true] {
        let mut world = World::new().on_disk();
        let (car, backend) = pair(&mut world);
        wish(&mut world, backend, r#"{"a":1}"#);
        if folds {
            world.fold(1, true);
        }
        world.publish(car, publish(1, 1, "shadow/state", r#"{"a":0}"#));
        world.publish(car, publish(2, 2, "shadow/name/n/update", r#"{"state":{"reported":{"x":1}}}"#));
        world.restart();
        let (car, heard) = world.dial_as(persistent(VIN), vehicle(VIN));
        assert_eq!(told(&heard, DELTA).len(), 1, "{heard:?}");
        // The same QoS 2 message again is known.
        let again = Publish { dup: true, ..publish(2, 2, "shadow/name/n/update", r#"{"state":{"reported":{"x":1}}}"#) };
        world.publish(car, again);
        let backend = world.join(connect("backend"));
        world.subscribe(backend, &full("shadow/#"), options(1));
        world.publish(backend, publish(1, 1, &full("shadow/name/n/get"), ""));
        world.publish(backend, publish(1, 1, &full("shadow/get"), ""));
        let heard = world.heard(backend);
        let versions: Vec<bool> = told(&heard, "/get/accepted")
            .iter()
            .zip([1, 2])
            .map(|(said, version)| said.contains(&format!("\"version\":{version}")))
            .collect();
        assert_eq!(versions, [true, true], "{heard:?}");
    }
}

#[test]
fn what_is_wanted_for_a_time_expires() {
    let mut world = World::new().on_disk();
    let (car, backend) = pair(&mut world);
    world.hang_up(car);
    world.publish(
        backend,
        publish(1, 1, &full("shadow/update"), r#"{"state":{"desired":{"doors":"unlocked"}},"ttl":30}"#),
    );
    world.heard(backend);
    world.fold(1, true);
    world.restart();
    world.wait(31_000);
    let (_, heard) = world.dial_as(persistent(VIN), vehicle(VIN));
    assert_eq!(heard, ["connack 0x00 present"]);
    world.shard.ask(world.now, AskId(1), &ask_for(VIN));
    let document = answer_of(&mut world);
    assert!(document.contains(r#""version":2"#) && !document.contains("unlocked"), "{document}");
}

fn ask_for(vin: &str) -> Ask {
    let (vin, by) = (vin.parse().unwrap(), Principal::operator("o"));
    Ask::Shadow(ShadowAsk { vin, name: None, by, what: ShadowWhat::Get })
}

fn answer_of(world: &mut World) -> String {
    world.settle();
    let mut effects = std::iter::from_fn(|| world.shard.poll_effect());
    let answer =
        effects.find_map(|effect| if let Effect::Answer { answer, .. } = effect { Some(*answer) } else { None });
    match answer {
        Some(Answer::Shadow(Ok(told))) => String::from_utf8(told.document).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_goes_where_the_request_says() {
    let mut world = World::new();
    let (_, backend) = pair(&mut world);
    wish(&mut world, backend, r#"{"a":1}"#);
    let asker = world.join(connect("asker"));
    world.subscribe(asker, "answers/#", options(1));
    world.heard(asker);
    world.heard(backend);
    let properties = ForwardedBuilder::new().response_topic("answers/1").correlation_data(b"c7").build().unwrap();
    let mut ask = |topic: &str, properties: &[u8]| {
        let mut request = publish(1, 9, topic, "");
        request.properties.forwarded = ForwardedProperties::from_forwarded_bytes(properties).unwrap();
        world.send(asker, Packet::Publish(request));
        (world.heard(asker), world.heard(backend))
    };
    let (heard, elsewhere) = ask(&full("shadow/get"), &properties);
    assert_eq!(told(&heard, "answers/1").len(), 1, "{heard:?}");
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    // Not where the broker takes calls itself.
    let update = full("shadow/update");
    let properties = ForwardedBuilder::new().response_topic(&update).build().unwrap();
    assert_eq!(ask(&full("shadow/get"), &properties).0, ["puback p9 0x87"]);
}

#[test]
fn shadows_are_asked_for_on_any_shard() {
    for qos in 0..3 {
        let mut broker = Broker::new(3);
        let home = causeway_fleet::home_shard(VIN, 3) as usize;
        let (car, _) = broker.shards[home].dial_as(persistent(VIN), vehicle(VIN));
        broker.subscribe(home, car, DELTA, 1);
        broker.shards[home].heard(car);
        for shard in 0..3 {
            let backend = broker.join(shard, persistent("backend"));
            broker.subscribe(shard, backend, &full("shadow/#"), 1);
            broker.shards[shard].heard(backend);
            let document = format!(r#"{{"state":{{"desired":{{"a":{shard}}}}}}}"#);
            broker.publish(shard, backend, qos, &full("shadow/update"), &document);
            let heard = broker.shards[shard].heard(backend);
            assert_eq!(told(&heard, "shadow/update/accepted").len(), 1, "QoS {qos}, shard {shard}: {heard:?}");
            let heard = broker.shards[home].heard(car);
            assert_eq!(told(&heard, DELTA).len(), 1, "QoS {qos}, shard {shard}: {heard:?}");
        }
        broker.restart();
        let world = &mut broker.shards[home];
        world.shard.ask(world.now, AskId(1), &ask_for(VIN));
        assert!(answer_of(world).contains(r#""version":3"#));
    }
}

#[test]
fn a_call_that_was_acknowledged_reaches_the_home_shard_after_a_crash() {
    let mut broker = Broker::new(2);
    let home = causeway_fleet::home_shard(VIN, 2) as usize;
    let backend = broker.join(1 - home, persistent("backend"));
    broker.cut = true;
    broker.publish(1 - home, backend, 1, &full("shadow/update"), r#"{"state":{"desired":{"a":1}}}"#);
    assert_eq!(broker.shards[1 - home].heard(backend), ["puback p1"]);
    broker.cut = false;
    broker.restart();
    let world = &mut broker.shards[home];
    world.shard.ask(world.now, AskId(1), &ask_for(VIN));
    assert!(answer_of(world).contains(r#""version":1"#));
}

#[test]
fn what_another_shard_acknowledged_is_answered_where_it_cannot_be_done_at_home() {
    let mut broker = Broker::new(2);
    let home = causeway_fleet::home_shard(VIN, 2) as usize;
    let backend = broker.join(1 - home, persistent("backend"));
    broker.subscribe(1 - home, backend, &full("shadow/#"), 1);
    broker.shards[1 - home].heard(backend);
    broker.shards[home].shard.storage_low(true);
    let document = r#"{"state":{"desired":{"a":1}}}"#;
    broker.publish(1 - home, backend, 1, &full("shadow/update"), document);
    let heard = broker.shards[1 - home].heard(backend);
    let rejected = told(&heard, "shadow/update/rejected");
    assert!(heard.contains(&"puback p1".to_owned()) && rejected[0].contains("\"code\":507"), "{heard:?}");
    // Here it is not even taken.
    broker.shards.iter_mut().for_each(|world| world.shard.storage_low(true));
    broker.publish(1 - home, backend, 1, &full("shadow/update"), document);
    assert_eq!(broker.shards[1 - home].heard(backend), ["puback p1 0x97"]);
}

#[test]
fn a_vehicle_has_no_word_for_anothers_shadow() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    world.publish(car, publish(1, 1, &format!("vehicles/{OTHER}/shadow/state"), "{}"));
    world.publish(
        car,
        publish(1, 2, &format!("$aws/things/{OTHER}/shadow/update"), r#"{"state":{"reported":{"a":1}}}"#),
    );
    world.publish(car, publish(1, 3, &format!("$aws/things/{VIN}/shadow/update"), r#"{"state":{"reported":{"a":1}}}"#));
    assert_eq!(world.heard(car), ["puback p1 0x10", "puback p2 0x87", "puback p3"]);
    assert_eq!(told(&world.heard(backend), "shadow/update/accepted").len(), 1);
}

#[test]
fn a_deletion_whose_condition_cannot_be_read_deletes_nothing() {
    let mut world = World::new();
    let (_, backend) = pair(&mut world);
    wish(&mut world, backend, r#"{"climate":21}"#);
    world.heard(backend);
    for (id, wrong) in [r#"{"version":"1"}"#, r#"{"version":1.5}"#, r#"{"version":1"#, "[1]"].into_iter().enumerate() {
        world.publish(backend, publish(1, 2 + id as u16, &full("shadow/delete"), wrong));
        let heard = world.heard(backend);
        assert!(told(&heard, "delete/rejected").iter().all(|told| told.contains("\"code\":400")), "{heard:?}");
        assert_eq!(told(&heard, "delete/rejected").len(), 1, "{wrong}: {heard:?}");
    }
    world.publish(backend, publish(1, 9, &full("shadow/delete"), r#"{"version":1}"#));
    assert_eq!(told(&world.heard(backend), "delete/accepted").len(), 1);
}

#[test]
fn no_request_is_read_that_is_larger_than_any_state_needs() {
    let mut world = World::with(|limits| limits.shadow_state_bytes_max = 1000);
    let (car, backend) = pair(&mut world);
    wish(&mut world, backend, r#"{"climate":21}"#);
    world.heard(backend);
    for (payload_bytes, said) in [(3024, "accepted"), (3025, "rejected")] {
        for verb in ["get", "update", "delete"] {
            let payload = format!("{:payload_bytes$}", r#"{"state":{"desired":{"climate":20}}}"#);
            world.publish(backend, publish(1, 1, &full(&format!("shadow/{verb}")), &payload));
            let heard = world.heard(backend);
            let told = told(&heard, &format!("{verb}/{said}"));
            assert_eq!(told.len(), 1, "{verb} {said}: {heard:?}");
            assert_eq!(told[0].contains("\"code\":413"), said == "rejected", "{told:?}");
        }
        wish(&mut world, backend, r#"{"climate":21}"#);
        world.heard(backend);
    }
    world.publish(car, publish(1, 9, "shadow/state", &format!("{:3025}", "{}")));
    assert_eq!(told(&world.heard(backend), "update/rejected").len(), 1);
}

#[test]
fn a_content_type_may_have_parameters() {
    let mut world = World::new();
    let (car, backend) = pair(&mut world);
    world.heard(car);
    let properties = ForwardedBuilder::new().content_type("Application/CBOR; charset=binary").build().unwrap();
    let mut state = publish(1, 1, "shadow/state", "");
    state.payload = b"\xa1\x63soc\x18\x50";
    state.properties.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap();
    world.publish(car, state);
    assert!(told(&world.heard(backend), "shadow/documents")[0].contains(r#""soc":80"#));
}

#[test]
fn a_named_shadow_that_was_deleted_makes_room_for_another() {
    let mut world = World::new();
    let (_, backend) = pair(&mut world);
    let mut refused = Vec::new();
    for turn in 0..70 {
        let update = full(&format!("shadow/name/n{turn}/update"));
        world.publish(backend, publish(1, 1, &update, r#"{"state":{"reported":{"a":1}}}"#));
        if !told(&world.heard(backend), "update/rejected").is_empty() {
            refused.push(turn);
        }
        world.publish(backend, publish(1, 2, &full(&format!("shadow/name/n{turn}/delete")), ""));
        world.heard(backend);
    }
    assert_eq!(refused, [64, 65, 66, 67, 68, 69], "those that were deleted lately are remembered, and bounded");
    world.wait(49 * 3600 * 1000);
    let backend = world.join(connect("later"));
    world.subscribe(backend, &full("shadow/#"), options(1));
    world.heard(backend);
    world.publish(backend, publish(1, 1, &full("shadow/name/n70/update"), r#"{"state":{"reported":{"a":1}}}"#));
    assert_eq!(told(&world.heard(backend), "update/accepted").len(), 1);
}

#[test]
fn no_more_vehicles_have_shadows_than_may() {
    let mut world = World::with(|limits| limits.shadow_vehicles_max = 1).on_disk();
    let (car, backend) = pair(&mut world);
    world.publish(car, publish(1, 1, "shadow/state", r#"{"a":1}"#));
    assert_eq!(world.heard(car), ["puback p1"]);
    let (other, _) = world.dial_as(persistent(OTHER), vehicle(OTHER));
    for (said, payload) in [("shadow/state", "{}"), ("shadow/update", r#"{"state":{}}"#)] {
        world.subscribe(other, "shadow/update/rejected", options(0));
        world.heard(other);
        world.publish(other, publish(1, 1, said, payload));
        let heard = world.heard(other);
        assert!(heard.iter().any(|word| word.contains("\"code\":413")), "{said}: {heard:?}");
        // The short form's acknowledgement is its answer.
        let acknowledged = if said == "shadow/state" { "puback p1 0x97" } else { "puback p1" };
        assert!(heard.iter().any(|word| word == acknowledged), "{said}: {heard:?}");
    }
    wish(&mut world, backend, r#"{"a":2}"#);
    let name = full("shadow/name/x/update");
    world.publish(backend, publish(1, 2, &name, r#"{"state":{"desired":{"b":1}}}"#));
    let heard = world.heard(backend);
    assert_eq!(told(&heard, "/accepted").len(), 2, "the one that has them may change them: {heard:?}");
}

#[test]
fn a_state_that_is_rejected_is_acknowledged_with_the_reason() {
    let mut world = World::with(|limits| limits.shadow_state_bytes_max = 64);
    let (car, _) = pair(&mut world);
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(100));
    for (payload, said) in [("{", "puback p1 0x99"), (&long, "puback p1 0x97"), (r#"{"a":1}"#, "puback p1")] {
        world.publish(car, publish(1, 1, "shadow/state", payload));
        assert_eq!(world.heard(car), [said], "{payload}");
    }
    // What is asked with an answer has that.
    world.publish(car, publish(1, 1, "shadow/update", "{"));
    assert_eq!(world.heard(car), ["puback p1"]);
}

#[test]
fn named_shadows_that_were_deleted_long_ago_make_room_for_others() {
    let mut world = World::with(|limits| limits.shadows_named_max = 1).on_disk();
    let (_, backend) = pair(&mut world);
    let try_out = |world: &mut World, name: &str| {
        let made = r#"{"state":{"desired":{"b":1}}}"#;
        world.publish(backend, publish(1, 1, &full(&format!("shadow/name/{name}/update")), made));
        world.publish(backend, publish(1, 1, &full(&format!("shadow/name/{name}/delete")), ""));
        told(&world.heard(backend), "/accepted").len() == 2
    };
    let names = ["a", "b", "c", "d"];
    assert!(names.iter().all(|name| try_out(&mut world, name)));
    assert!(!try_out(&mut world, "e"), "their versions go on for 48 hours");
    world.now.0 += 48 * 3_600_000 + 1;
    for (day, name) in ["e", "f", "g", "h", "i", "j"].into_iter().enumerate() {
        assert!(try_out(&mut world, name), "{name}");
        world.now.0 += 48 * 3_600_000 + 1;
        world.fold(usize::MAX, day != 2);
        let folded = |world: &World| world.entries().iter().filter(|(key, _)| key[0] == crate::folded::SHADOW).count();
        assert!(folded(&world) <= 5, "{}", folded(&world));
        assert_eq!(world.shard.shadows.of(&VIN.parse().unwrap()).len(), 5, "no more are remembered");
    }
}
