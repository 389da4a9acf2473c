//! Jobs: what is done to many vehicles, at a pace, each once, whatever happens to the broker in between.
//!
//! Owns the comparison with what the vehicles' shadows say afterwards. Nothing here waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_broker::config::Config;
use causeway_broker::jobs::{JobError, JobSpec, JobState, Jobs};
use causeway_broker::registry::{NewVehicle, State};
use causeway_broker::server::{ServerError, StorageError};
use causeway_core::{Answer, Ask, Groups, Principal, ShadowAsk, ShadowTold, ShadowWhat, Vin};
use serde_json::{Value, json};
use support::{Broker, DEADLINE, eventually, listener};

fn vin(number: u32) -> Vin {
    format!("WVWZZZ1JZ3W{number:06}").parse().unwrap()
}

fn start(data: Option<&Path>, shards: usize) -> Broker {
    launch(&config(data, shards))
}

fn config(data: Option<&Path>, shards: usize) -> Config {
    let mut config = Config { listener: vec![listener(Default::default())], ..Config::default() };
    config.storage.data_directory = data.map(Into::into);
    config.broker.shards = shards;
    config.shadow.index = vec!["reported.soc".to_owned()];
    config
}

fn launch(config: &Config) -> Broker {
    let mut broker = None;
    eventually("the broker of before has let go of its data", || {
        match Broker::try_with(config.clone()) {
            Ok(started) => broker = Some(started),
            Err(ServerError::Storage(StorageError::InUse { .. })) => {}
            Err(error) => panic!("{error}"),
        }
        broker.is_some()
    });
    broker.unwrap()
}

/// So many vehicles in the group `eu`.
fn register(broker: &Broker, vehicles: u32) {
    let registry = broker.running().registry();
    registry.put_group("eu", "", 1).unwrap();
    let groups = Groups::new(["eu"]).unwrap();
    let new =
        |number| NewVehicle { vin: vin(number), state: State::Active, groups: groups.clone(), note: String::new() };
    registry.add(&(0..vehicles).map(new).collect::<Vec<_>>(), false, 1).unwrap();
}

fn shadow(broker: &Broker, vin: Vin, what: ShadowWhat) -> Option<ShadowTold> {
    let ask = ShadowAsk { vin, name: None, by: Principal::Anonymous, what };
    match *broker.wait_for(broker.running().asks().of(&vin, Ask::Shadow(ask))).unwrap() {
        Answer::Shadow(told) => told.ok(),
        other => panic!("{other:?}"),
    }
}

fn report(broker: &Broker, vin: Vin, reported: &Value) {
    let payload = json!({ "state": { "reported": reported } }).to_string().into();
    let what = ShadowWhat::Update { payload, format: causeway_fleet::shadow::Format::Json, version: None };
    shadow(broker, vin, what).unwrap();
}

fn make(broker: &Broker, spec: &Value) -> String {
    let spec: JobSpec = serde_json::from_value(spec.clone()).unwrap();
    let made = broker.wait_for(broker.running().jobs().make(spec, "operator:ann".to_owned())).unwrap();
    assert_eq!(made["by"], "operator:ann");
    made["id"].as_str().unwrap().to_owned()
}

fn done(jobs: &Jobs, id: &str) -> u64 {
    jobs.show(id).unwrap()["done"].as_u64().unwrap()
}

fn finish(broker: &Broker, id: &str) -> Value {
    let jobs = broker.running().jobs();
    eventually("the job is over", || jobs.show(id).unwrap()["state"] == "done");
    jobs.show(id).unwrap()
}

/// All results, by vehicle: none twice.
fn results(broker: &Broker, id: &str) -> BTreeMap<String, Value> {
    let (jobs, mut from, mut all) = (broker.running().jobs(), 0, BTreeMap::new());
    loop {
        let (lines, next) = broker.wait_for(jobs.results(id, from)).unwrap();
        for line in lines {
            let line: Value = serde_json::from_slice(&line).unwrap();
            let before = all.insert(line["vin"].as_str().unwrap().to_owned(), line.clone());
            assert_eq!(before, None, "{line}");
        }
        match next {
            Some(next) => from = next,
            None => return all,
        }
    }
}

#[test]
fn what_is_wanted_of_a_group_is_wanted_of_each_of_its_vehicles() {
    let broker = start(None, 3);
    register(&broker, 250);
    report(&broker, vin(7), &json!({ "soc": 5 }));
    let spec = json!({
        "target": { "group": "eu" }, "desired": { "mode": "eco" }, "ttl": 3600, "rate_per_second": 2000, "note": "winter",
    });
    let id = make(&broker, &spec);
    let job = finish(&broker, &id);
    assert_eq!((&job["total"], &job["done"], &job["succeeded"]), (&json!(250), &json!(250), &json!(250)), "{job}");
    assert_eq!(
        (&job["failed"], &job["note"], &job["target"]),
        (&json!({}), &json!("winter"), &json!({ "group": "eu" }))
    );
    let results = results(&broker, &id);
    assert_eq!(results.len(), 250);
    for number in 0..250 {
        let told = shadow(&broker, vin(number), ShadowWhat::Get).unwrap();
        assert_eq!(told.version, if number == 7 { 2 } else { 1 });
        assert_eq!(results[vin(number).as_str()]["version"], told.version);
        assert!(String::from_utf8(told.document).unwrap().contains(r#""desired":{"mode":"eco"}"#));
    }
    // Of those of which something is true, and those that are named.
    let id = make(&broker, &json!({ "target": { "where": "reported.soc < 9" }, "desired": { "mode": "sport" } }));
    assert_eq!(finish(&broker, &id)["total"], 1);
    let vins = json!([vin(3).as_str(), vin(900).as_str(), vin(3).as_str()]);
    let id = make(&broker, &json!({ "target": { "vins": vins }, "desired": { "mode": null }, "shadow": "hvac" }));
    let job = finish(&broker, &id);
    assert_eq!((&job["total"], &job["target"]), (&json!(2), &json!({ "vins": 2 })));
    assert_eq!(broker.running().jobs().list(None, 10).len(), 3);
    assert_eq!(broker.running().jobs().list(None, 10)[0]["id"], id);
    let id = make(&broker, &json!({ "target": { "vins": [] }, "desired": { "mode": "x" } }));
    assert_eq!(finish(&broker, &id)["done"], 0);
}

#[test]
fn what_makes_no_sense_is_refused_and_says_why() {
    let broker = start(None, 1);
    register(&broker, 1);
    let desired = json!({ "a": 1 });
    for (spec, why) in [
        (json!({ "target": { "group": "eu" } }), "either"),
        (json!({ "target": { "group": "eu" }, "desired": desired, "command": { "name": "x" } }), "either"),
        (json!({ "target": { "group": "nowhere" }, "desired": desired }), "nowhere"),
        (json!({ "target": { "where": "reported.x = 1" }, "desired": desired }), "reported.x is not indexed"),
        (json!({ "target": { "vins": ["ABC"] }, "desired": desired }), "17 characters"),
        (json!({ "target": { "group": "eu" }, "desired": desired, "rate_per_second": 0 }), "rate_per_second"),
        (json!({ "target": { "group": "eu" }, "desired": { "a": [null] } }), "null"),
        (json!({ "target": { "group": "eu" }, "desired": desired, "ttl": "soon" }), "ttl"),
        (json!({ "target": { "group": "eu" }, "desired": desired, "shadow": "a/b" }), "shadow"),
        (json!({ "target": { "group": "eu" }, "command": { "name": "a b" } }), "command"),
    ] {
        let asked: JobSpec = serde_json::from_value(spec.clone()).unwrap();
        let error = broker.wait_for(broker.running().jobs().make(asked, String::new())).unwrap_err();
        assert!(error.to_string().contains(why), "{spec}: {error}");
    }
    assert!(serde_json::from_value::<JobSpec>(json!({ "target": { "group": "eu" }, "desire": {} })).is_err());
    assert!(matches!(broker.running().jobs().show("j1"), Err(JobError::Unknown(_))));
    assert!(broker.running().jobs().list(None, 10).is_empty());
}

#[test]
fn a_job_keeps_its_pace_and_is_paused_resumed_and_cancelled() {
    let broker = start(None, 1);
    register(&broker, 400);
    let started = Instant::now();
    let id = make(&broker, &json!({ "target": { "group": "eu" }, "desired": { "a": 1 }, "rate_per_second": 100 }));
    let jobs = broker.running().jobs().clone();
    eventually("it is under way", || done(&jobs, &id) >= 20);
    assert!(started.elapsed() >= Duration::from_millis(100), "twenty may go at once, and no more");
    let paused = broker.wait_for(jobs.set_state(&id, JobState::Paused)).unwrap();
    assert_eq!(paused["state"], "paused");
    // What was under way has ended once two looks at it are the same.
    let mut last = u64::MAX;
    eventually("nothing goes on", || {
        std::thread::park_timeout(Duration::from_millis(600));
        std::mem::replace(&mut last, done(&jobs, &id)) == last
    });
    assert!(last < 200);
    broker.wait_for(jobs.set_state(&id, JobState::Running)).unwrap();
    eventually("it goes on", || done(&jobs, &id) > last);
    let shown = jobs.show(&id).unwrap();
    assert!(shown["rate"].as_f64().unwrap() > 0.0 && shown["eta_seconds"].as_u64().unwrap() <= 60, "{shown}");
    broker.wait_for(jobs.set_state(&id, JobState::Cancelled)).unwrap();
    assert!(matches!(broker.wait_for(jobs.set_state(&id, JobState::Running)), Err(JobError::Over)));
    eventually("it has ended", || {
        let before = done(&jobs, &id);
        std::thread::park_timeout(Duration::from_millis(300));
        before == done(&jobs, &id)
    });
    let shown = jobs.show(&id).unwrap();
    assert!(shown["done"].as_u64().unwrap() < 400 && shown["ended_ms"].is_number(), "{shown}");
    assert!(started.elapsed() < DEADLINE);
}

#[test]
fn each_vehicle_has_its_turn_once_however_often_the_broker_ends_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = start(Some(folder.path()), 2);
    register(&broker, 3000);
    let spec = json!({ "target": { "group": "eu" }, "desired": { "mode": "eco" }, "rate_per_second": 3000 });
    let id = make(&broker, &spec);
    for life in 0..4 {
        let jobs = broker.running().jobs().clone();
        eventually("it gets on", || done(&jobs, &id) >= 300 * (life + 1));
        drop(jobs);
        // Without a farewell: whatever is under way stays so.
        drop(broker);
        broker = start(Some(folder.path()), 2);
    }
    let job = finish(&broker, &id);
    assert_eq!((&job["total"], &job["succeeded"]), (&json!(3000), &json!(3000)), "{job}");
    assert_eq!(results(&broker, &id).len(), 3000);
    for number in 0..3000 {
        assert_eq!(shadow(&broker, vin(number), ShadowWhat::Get).unwrap().version, 1, "vehicle {number}");
    }
    // What is over stays so.
    broker.stop()().unwrap();
    let broker = start(Some(folder.path()), 2);
    assert_eq!(broker.running().jobs().show(&id).unwrap()["state"], "done");
}

#[test]
fn a_command_to_a_group_has_one_outcome_for_each_vehicle() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = start(Some(folder.path()), 2);
    register(&broker, 120);
    let command = json!({ "name": "get_location", "payload": { "accuracy": "high" }, "now_or_never": true });
    let id = make(&broker, &json!({ "target": { "group": "eu" }, "command": command, "rate_per_second": 1000 }));
    let job = finish(&broker, &id);
    assert_eq!((&job["failed"], &job["succeeded"]), (&json!({ "offline": 120 }), &json!(0)), "{job}");
    let command = json!({ "name": "get_location", "deadline": 3 });
    let id = make(&broker, &json!({ "target": { "group": "eu" }, "command": command, "rate_per_second": 1000 }));
    let requested = |broker: &Broker| broker.running().jobs().show(&id).unwrap()["done"].as_u64().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(requested(&broker), 0, "nobody answers, and it is not over");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    drop(broker);
    broker = start(Some(folder.path()), 2);
    let job = finish(&broker, &id);
    assert_eq!(job["failed"], json!({ "timed-out": 120 }), "{job}");
    let results = results(&broker, &id);
    let commands: std::collections::BTreeSet<_> = results.values().map(|it| it["command"].as_str().unwrap()).collect();
    assert_eq!((results.len(), commands.len()), (120, 120));
}

#[test]
fn who_was_not_asked_before_a_pause_is_asked_after_it_however_long_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(Some(folder.path()), 2);
    // So short that nobody can tell after a start what became of a command that was under way.
    config.commands.outcomes_kept_seconds = 60;
    let broker = launch(&config);
    register(&broker, 300);
    let command = json!({ "name": "wink", "now_or_never": true });
    let id = make(&broker, &json!({ "target": { "group": "eu" }, "command": command, "rate_per_second": 200 }));
    let jobs = broker.running().jobs().clone();
    eventually("it is under way", || done(&jobs, &id) >= 20);
    broker.wait_for(jobs.set_state(&id, JobState::Paused)).unwrap();
    let mut last = u64::MAX;
    eventually("nothing goes on", || {
        std::thread::park_timeout(Duration::from_millis(600));
        std::mem::replace(&mut last, done(&jobs, &id)) == last
    });
    assert!(last < 300);
    drop((jobs, broker));
    let broker = launch(&config);
    broker.wait_for(broker.running().jobs().set_state(&id, JobState::Running)).unwrap();
    let job = finish(&broker, &id);
    assert_eq!(job["failed"], json!({ "offline": 300 }), "{job}");
}
