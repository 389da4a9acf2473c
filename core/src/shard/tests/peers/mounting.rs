//! Vehicles and their groups where backends are on other shards.

use super::*;
use crate::{Groups, Identity, Notice, Principal};

const VIN: &str = "1M8GDM9AXKP042788";

fn vehicle(groups: &[&str]) -> Identity {
    let groups = Groups::new(groups.iter().copied()).unwrap();
    Identity { groups, ..Principal::Vehicle(VIN.parse().unwrap()).into() }
}

fn regroup(broker: &mut Broker, groups: &[&str]) {
    let groups = Groups::new(groups.iter().copied()).unwrap();
    for world in &mut broker.shards {
        world.notice(Notice::Groups(vec![(VIN.parse().unwrap(), groups.clone())]));
    }
    broker.carry();
}

#[test]
fn what_vehicles_say_and_hear_crosses_shards_by_full_names() {
    let mut broker = Broker::new(2);
    let (car, _) = broker.shards[0].dial_as(persistent(VIN), vehicle(&["eu"]));
    let backend = broker.shards[1].join(connect("backend"));
    broker.shards[1].subscribe(backend, "vehicles/+/#", options(1));
    broker.shards[0].subscribe(car, "x", options(1));
    broker.shards[0].subscribe(car, "$share/n/y", options(1));
    broker.carry();
    assert_eq!(broker.shards[0].heard(car), ["suback 01", "suback 01"]);
    broker.shards[1].heard(backend);
    broker.shards[0].publish(car, publish(1, 1, "x", "p"));
    broker.carry();
    assert_eq!(broker.shards[1].heard(backend), ["pub q1 p1 vehicles/1M8GDM9AXKP042788/x=p"]);
    broker.shards[0].puback(car, 1);
    broker.shards[0].heard(car);
    for (topic, name) in [
        ("groups/eu/x", "x"),
        ("fleet/x", "x"),
        ("vehicles/1M8GDM9AXKP042788/x", "x"),
        ("vehicles/1M8GDM9AXKP042788/y", "y"),
    ] {
        broker.shards[1].publish(backend, publish(1, 1, topic, "p"));
        broker.carry();
        let heard = broker.shards[0].heard(car);
        assert!(heard.len() == 1 && heard[0].ends_with(&format!(" {name}=p")), "{topic}: {heard:?}");
    }
}

#[test]
fn the_levels_of_a_filter_count_as_the_vehicle_says_them_on_every_shard() {
    let mut broker = Broker::with(2, |limits| limits.topic_levels_max = 3);
    let (car, _) = broker.shards[0].dial_as(persistent(VIN), vehicle(&[]));
    let backend = broker.shards[1].join(connect("backend"));
    broker.shards[0].subscribe(car, "+/b/#", options(0));
    broker.shards[0].subscribe(car, "a/b/c/d", options(0));
    broker.carry();
    assert_eq!(broker.shards[0].heard(car), ["suback 00", "suback 8F"]);
    broker.shards[1].publish(backend, publish(0, 0, "fleet/a/b", "p"));
    broker.carry();
    assert_eq!(broker.shards[0].heard(car), ["pub q0 a/b=p"]);
}

#[test]
fn other_shards_hear_of_groups_that_are_joined_and_left() {
    let mut broker = Broker::new(2);
    let (car, _) = broker.shards[0].dial_as(persistent(VIN), vehicle(&["eu"]));
    let backend = broker.shards[1].join(connect("backend"));
    let kept = Publish { retain: true, ..publish(1, 1, "groups/us/x", "kept") };
    broker.shards[1].publish(backend, kept);
    broker.shards[0].subscribe(car, "x", options(1));
    broker.carry();
    broker.shards[0].heard(car);
    regroup(&mut broker, &["us"]);
    assert_eq!(broker.shards[0].heard(car), ["pub q1 p1 retain x=kept"]);
    for (topic, heard) in [("groups/eu/x", 0), ("groups/us/x", 1)] {
        broker.shards[1].publish(backend, publish(1, 2, topic, "p"));
        broker.carry();
        assert_eq!(broker.shards[0].heard(car).len(), heard, "{topic}");
    }
    broker.shards[0].hang_up(car);
    regroup(&mut broker, &[]);
    broker.shards[1].publish(backend, publish(1, 3, "groups/us/x", "p"));
    broker.shards[1].publish(backend, publish(1, 4, "fleet/x", "p"));
    broker.carry();
    let (_, heard) = broker.shards[0].dial_as(persistent(VIN), vehicle(&[]));
    let new: Vec<&String> = heard.iter().filter(|word| !word.contains(" dup ")).collect();
    assert_eq!(new.len(), 2, "{heard:?}");
}
