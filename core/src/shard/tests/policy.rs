//! What a policy allows and denies to clients, while it stands and when it changes.

use std::sync::Arc;

use causeway_fleet::policy::Policy;
use causeway_protocol::{Connect, ProtocolVersion, Publish};

use super::world::*;
use crate::{Effect, Groups, Identity, Notice, Principal};

const VIN: &str = "1M8GDM9AXKP042788";

/// What everybody may who is not tested.
const BACKEND: &str = r##"
[[role]]
name = "backend"
members = ["service:backend"]
[[role.rule]]
name = "all"
effect = "allow"
actions = ["publish", "subscribe", "receive", "retain", "will"]
topics = ["#"]
"##;

const FLEET: &str = r##"
[[role]]
name = "vehicle"
members = ["vehicle:*"]
[[role.rule]]
name = "telemetry"
effect = "allow"
actions = ["publish"]
topics = ["vehicles/{vin}/telemetry/#"]
qos_max = 1
[[role.rule]]
name = "state"
effect = "allow"
actions = ["publish", "retain", "will"]
topics = ["vehicles/{vin}/state"]
[[role.rule]]
name = "orders"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["vehicles/{vin}/cmd/#", "groups/{group}/cmd/#"]
qos_max = 1
[[role.rule]]
name = "no-secrets"
effect = "deny"
actions = ["receive"]
topics = ["+/+/cmd/secret"]

[[role]]
name = "analytics"
members = ["service:analytics"]
[[role.rule]]
name = "all-but-secrets"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["vehicles/#"]
[[role.rule]]
name = "secrets"
effect = "deny"
actions = ["receive"]
topics = ["vehicles/+/secret/#"]
"##;

fn policy(text: &str) -> Arc<Policy> {
    Arc::new(Policy::parse(&format!("{BACKEND}{text}")).unwrap().0)
}

fn world(text: &str) -> World {
    let mut world = World::new();
    world.shard.set_policy(policy(text));
    world
}

fn vehicle(groups: &[&str]) -> Identity {
    let principal = Principal::Vehicle(VIN.parse().unwrap());
    Identity { groups: Groups::new(groups.iter().copied()).unwrap(), ..principal.into() }
}

fn service(world: &mut World, name: &str) -> Client {
    let (client, said) = world.dial_as(persistent(name), Principal::service(name));
    assert!(said[0].starts_with("connack 0x00"), "{said:?}");
    client
}

fn car(world: &mut World) -> Client {
    let (car, said) = world.dial_as(persistent(VIN), vehicle(&["eu"]));
    assert!(said[0].starts_with("connack 0x00"), "{said:?}");
    car
}

/// What the log was told.
fn told(world: &mut World) -> Vec<String> {
    let effects = std::iter::from_fn(|| world.shard.poll_effect());
    effects
        .filter_map(|effect| match effect {
            Effect::Event(event) => Some(format!("{}: {}", event.what, event.detail)),
            _ => None,
        })
        .collect()
}

fn retained<'a>(qos: u8, topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish { retain: true, ..publish(qos, u16::from(qos > 0), topic, payload) }
}

#[test]
fn only_what_a_rule_allows_is_published() {
    let mut world = world(FLEET);
    let car = car(&mut world);
    for (publish, answer) in [
        (publish(1, 1, "telemetry/speed", "p"), "puback p1 0x10"),
        (publish(1, 1, "telemetrie/speed", "p"), "puback p1 0x87"),
        (publish(2, 1, "telemetry/speed", "p"), "pubrec p1 0x87"),
        (retained(1, "telemetry/speed", "p"), "puback p1 0x87"),
        (retained(1, "state", "p"), "puback p1 0x10"),
    ] {
        world.publish(car, publish);
        assert_eq!(world.heard(car), [answer]);
    }
    assert_eq!(world.shard.counters().publish_refused_unauthorized, 3);
    let told: Vec<String> = told(&mut world).into_iter().filter(|line| line.contains("refused publish")).collect();
    assert!(told[1].contains("rule \"telemetry\" of role \"vehicle\" allows it up to QoS 1"), "{told:?}");
    assert!(told[2].contains("no rule allows it to retain"), "{told:?}");
}

#[test]
fn a_will_is_left_only_where_a_rule_allows_it_and_still_does() {
    let mut world = world(FLEET);
    let (_, said) = world.dial_as(with_will(persistent(VIN), "telemetry/x", 0), vehicle(&[]));
    assert_eq!(said, ["connack 0x87"]);
    assert!(told(&mut world).iter().any(|line| line.contains("no rule allows it to will")));
    let backend = service(&mut world, "backend");
    world.subscribe(backend, "vehicles/+/state", options(0));
    for (text, heard) in [(FLEET.to_owned(), 1), (FLEET.replace("\"will\"", "\"command\""), 0)] {
        let (car, said) = world.dial_as(with_will(persistent(VIN), "state", 0), vehicle(&[]));
        assert_eq!(said[0].split(' ').nth(1), Some("0x00"), "{said:?}");
        world.heard(backend);
        world.notice(Notice::Policy(policy(&text)));
        world.hang_up(car);
        assert_eq!(world.heard(backend).len(), heard);
        world.notice(Notice::Policy(policy(FLEET)));
    }
}

#[test]
fn a_subscription_is_granted_as_far_as_the_rules_go() {
    let mut world = world(FLEET);
    let car = car(&mut world);
    let analytics = service(&mut world, "analytics");
    for (client, filter, answer) in [
        (car, "cmd/#", "suback 01"),
        (car, "cmd/+/x", "suback 01"),
        (car, "#", "suback 87"),
        (car, "telemetry/#", "suback 87"),
        (car, "$share/g/cmd/#", "suback 87"),
        (car, "$share/g/cmd/lock", "suback 01"),
        (analytics, "vehicles/#", "suback 02"),
        (analytics, "vehicles/+/telemetry", "suback 02"),
        (analytics, "vehicles/+/secret/#", "suback 87"),
        (analytics, "#", "suback 87"),
        (analytics, "+/#", "suback 87"),
        (analytics, "$SYS/#", "suback 87"),
        (analytics, "$share/g/vehicles/#", "suback 87"),
        (analytics, "$share/g/vehicles/+/telemetry", "suback 02"),
    ] {
        world.subscribe(client, filter, options(2));
        assert_eq!(world.heard(client), [answer], "{filter}");
    }
}

/// Every way in which a message comes to a client: none brings what may not be received, and all bring the rest.
#[test]
fn each_delivery_is_looked_at_where_not_all_may_be_received() {
    for qos in 0..3 {
        let mut world = world(FLEET);
        let backend = service(&mut world, "backend");
        let (good, bad) = ("vehicles/1/a", "vehicles/1/secret/a");
        let mut id = 0;
        let mut send = |world: &mut World, payload: &str, retain: bool| {
            for topic in [bad, good] {
                id += u16::from(qos > 0);
                world.publish(backend, Publish { retain, ..publish(qos, id, topic, payload) });
            }
        };
        send(&mut world, "retained", true);
        // Retained, then live, then queued while away, then what was in flight.
        let analytics = service(&mut world, "analytics");
        world.subscribe(analytics, "vehicles/#", options(qos));
        send(&mut world, "live", false);
        let mut heard = world.heard(analytics);
        world.hang_up(analytics);
        send(&mut world, "away", false);
        let analytics = service(&mut world, "analytics");
        heard.extend(world.heard(analytics));
        let heard: Vec<&String> = heard.iter().filter(|word| word.starts_with("pub q")).collect();
        assert!(heard.iter().all(|word| word.contains(" vehicles/1/a=")), "{heard:?}");
        for payload in ["retained", "live"] {
            assert!(heard.iter().any(|word| word.ends_with(payload)), "{payload}: {heard:?}");
        }
        assert!(world.shard.counters().dropped_unauthorized >= 2);
        assert!(told(&mut world).iter().any(|line| line.contains("denied by rule \"secrets\" of role \"analytics\"")));
    }
}

#[test]
fn a_vehicle_gets_of_a_broadcast_what_it_may_have() {
    let mut world = world(FLEET);
    let car = car(&mut world);
    let backend = service(&mut world, "backend");
    world.subscribe(car, "cmd/+", options(2));
    world.heard(car);
    for (topic, heard) in [
        ("vehicles/1M8GDM9AXKP042788/cmd/lock", true),
        ("vehicles/1M8GDM9AXKP042788/cmd/secret", false),
        ("groups/eu/cmd/lock", true),
        ("groups/eu/cmd/secret", false),
        ("fleet/cmd/lock", false),
    ] {
        world.publish(backend, publish(0, 0, topic, "p"));
        assert_eq!(world.heard(car).len(), usize::from(heard), "{topic}");
    }
}

#[test]
fn a_change_ends_what_is_no_longer_allowed_and_tells_who_is_there() {
    let mut world = world(FLEET);
    let car = car(&mut world);
    let backend = service(&mut world, "backend");
    world.subscribe(car, "cmd/#", options(1));
    world.heard(car);
    // Less, but still something: the subscription goes on at a lower QoS.
    world.notice(Notice::Policy(policy(
        &FLEET.replace("groups/{group}/cmd/#\"]\nqos_max = 1", "groups/{group}/cmd/#\"]\nqos_max = 0"),
    )));
    world.publish(backend, publish(1, 1, "vehicles/1M8GDM9AXKP042788/cmd/lock", "p"));
    world.publish(backend, publish(1, 1, "groups/eu/cmd/lock", "p"));
    assert_eq!(world.heard(car), ["pub q0 cmd/lock=p", "pub q0 cmd/lock=p"]);
    // Nothing at all.
    world.notice(Notice::Policy(policy(&FLEET.replace("/cmd/#", "/orders/#"))));
    let bytes = world.taken(car.id);
    let said = String::from_utf8_lossy(&bytes);
    assert!(said.ends_with("not authorised to subscribe to \"cmd/#\" any more"), "{said}");
    let log = told(&mut world);
    assert!(log.iter().any(|line| line.contains("no rule allows it to subscribe")), "{log:?}");
    world.hang_up(car);
    world.publish(backend, publish(1, 1, "vehicles/1M8GDM9AXKP042788/cmd/lock", "p"));
    // It may come back, and what it lost stays lost, after a crash, too.
    world.restart();
    world.shard.set_policy(policy(FLEET));
    let car = self::car(&mut world);
    assert!(world.heard(car).is_empty());
    let backend = service(&mut world, "backend");
    world.publish(backend, publish(1, 1, "vehicles/1M8GDM9AXKP042788/cmd/lock", "p"));
    assert!(world.heard(car).is_empty());
}

#[test]
fn who_was_away_gets_nothing_that_was_forbidden_meanwhile() {
    for qos in 1..3 {
        let mut world = world(FLEET);
        let car = car(&mut world);
        let backend = service(&mut world, "backend");
        world.subscribe(car, "cmd/#", options(2));
        world.heard(car);
        // One is in flight and unacknowledged, one waits.
        world.publish(backend, publish(qos, 1, "vehicles/1M8GDM9AXKP042788/cmd/lock", "flying"));
        assert_eq!(world.heard(car).len(), 1);
        world.hang_up(car);
        world.publish(backend, publish(qos, 2, "groups/eu/cmd/lock", "waiting"));
        world.notice(Notice::Policy(policy(&FLEET.replace("/cmd/#", "/orders/#"))));
        let car = self::car(&mut world);
        assert!(world.heard(car).is_empty(), "QoS {qos}");
        assert_eq!(world.shard.counters().dropped_unauthorized, 2);
        world.subscribe(car, "orders/#", options(1));
        world.publish(backend, publish(1, 3, "groups/eu/orders/x", "p"));
        assert_eq!(world.heard(car).len(), 2, "it goes on as if nothing had been");
    }
}

#[test]
fn a_role_of_a_group_comes_and_goes_with_the_group() {
    let text = FLEET.replace("members = [\"vehicle:*\"]", "members = [\"group:eu\"]");
    let mut world = world(&text);
    let car = car(&mut world);
    world.subscribe(car, "cmd/#", options(1));
    assert_eq!(world.heard(car), ["suback 01"]);
    let groups = |names: &[&str]| vec![(VIN.parse().unwrap(), Groups::new(names.iter().copied()).unwrap())];
    world.notice(Notice::Groups(groups(&["eu", "us"])));
    assert!(world.heard(car).is_empty());
    world.publish(car, publish(1, 1, "telemetry/x", "p"));
    assert_eq!(world.heard(car), ["puback p1 0x10"]);
    world.notice(Notice::Groups(groups(&["us"])));
    assert_eq!(world.heard(car), ["disconnect 0x87"]);
}

#[test]
fn what_a_member_may_not_have_any_more_goes_to_the_others() {
    let other = FLEET.replace("topics = [\"vehicles/#\"]", "topics = [\"other\"]");
    for (qos, away) in [(1, false), (1, true), (2, false), (2, true)] {
        let mut world = world(FLEET);
        let backend = service(&mut world, "backend");
        let analytics = service(&mut world, "analytics");
        world.subscribe(analytics, "$share/g/vehicles/+/a", options(2));
        assert_eq!(world.heard(analytics), ["suback 02"]);
        world.publish(backend, publish(qos, 1, "vehicles/1/a", "p"));
        assert_eq!(world.heard(analytics).len(), 1);
        world.subscribe(backend, "$share/g/vehicles/+/a", options(2));
        world.heard(backend);
        if away {
            world.hang_up(analytics);
        }
        world.notice(Notice::Policy(policy(&other)));
        if !away {
            assert_eq!(world.heard(analytics), ["disconnect 0x87"]);
            world.hang_up(analytics);
        }
        let (analytics, said) = world.dial_as(persistent("analytics"), Principal::service("analytics"));
        assert_eq!(said, ["connack 0x00 present"], "QoS {qos}");
        assert!(world.heard(analytics).is_empty());
        // A QoS 2 message is finished with its member, one way or another.
        let heard = world.heard(backend);
        assert_eq!(
            heard.iter().filter(|word| word.ends_with("vehicles/1/a=p")).count(),
            usize::from(qos == 1),
            "{heard:?}"
        );
        world.publish(backend, publish(qos, 2, "vehicles/1/a", "next"));
        assert!(world.heard(backend).iter().any(|word| word.ends_with("=next")));
    }
}

#[test]
fn an_old_client_is_refused_by_the_end_of_its_connection() {
    let mut world = world(FLEET);
    let connect = Connect { version: ProtocolVersion::V311, ..connect("analytics") };
    let (old, _) = world.dial_as(connect, Principal::service("analytics"));
    world.publish(old, publish(1, 1, "a", "p"));
    assert!(world.heard(old).is_empty() && !world.shard.is_open(old.id));
}
