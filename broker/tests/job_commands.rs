//! Jobs that send commands, with vehicles that answer: some at once, some twice, some never, and a broker that is killed in between.
//!
//! Owns that there is one result for each vehicle, and that it is what the vehicle had to do with. The broker is the real program. Nothing here
//! waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};
use support::causewayd::{Causewayd, JSON, add_users, report, said};
use support::{Client, dial, eventually, packet, subscribe};

/// It answers before the broker is killed.
const QUICK: &str = "WVWZZZ1JZ3W000001";
/// It answers twice, after that.
const TWICE: &str = "WVWZZZ1JZ3W000002";
/// It gets the command, and says nothing.
const SILENT: &str = "WVWZZZ1JZ3W000003";
/// It gets the command, and is retired before it answers.
const REVOKED: &str = "WVWZZZ1JZ3W000004";
/// It comes when the broker is back.
const LATE: &str = "WVWZZZ1JZ3W000005";
/// It never comes.
const AWAY: &str = "WVWZZZ1JZ3W000006";
/// It was retired before the job was made.
const RETIRED: &str = "WVWZZZ1JZ3W000007";

/// A vehicle whose session is there when it comes again.
fn vehicle(broker: &Causewayd, vin: &str) -> Client<TcpStream> {
    let mut client = Client::new(dial(broker.address));
    let mut body = b"\x00\x04MQTT\x05\xC0\x00\x00\x05\x11\x00\x00\x0E\x10".to_vec();
    for text in [vin, &format!("vehicle:{vin}"), "secret"] {
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text.as_bytes());
    }
    client.send(&packet(0x10, &body));
    client.expect_connack(0);
    client
}

/// The number of the next command, and its packet identifier.
fn command(car: &mut Client<TcpStream>) -> (String, [u8; 2]) {
    loop {
        let (first, body) = car.read_packet();
        if first & 0xF0 == 0x30 {
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            // Correlation Data: 0x09, two bytes of length, the command.
            let at = body.windows(3).position(|bytes| bytes == [0x09, 0, 13]).unwrap();
            return (String::from_utf8(body[at + 3..at + 16].to_vec()).unwrap(), [body[2 + topic], body[3 + topic]]);
        }
    }
}

fn acknowledge(car: &mut Client<TcpStream>, packet_id: [u8; 2]) {
    car.send(&packet(0x40, &packet_id));
}

fn reply(car: &mut Client<TcpStream>, id: &str, lat: f64) {
    report(car, &format!("status/get_location/{id}"), &json!({ "lat": lat }));
}

fn register(broker: &Causewayd, vins: &[&str]) {
    broker.ask(JSON, "PUT", "/v1/groups/eu", json!({}), 201);
    let vehicles: Vec<Value> =
        vins.iter().map(|vin| json!({ "vin": vin, "state": "active", "groups": ["eu"] })).collect();
    broker.ask(JSON, "POST", "/v1/vehicles", json!({ "vehicles": vehicles }), 201);
}

/// The lines of a job, by vehicle, each of which has one, and the last.
fn results(text: &str) -> (BTreeMap<String, Value>, Value) {
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (counts, mut by_vehicle) = (lines.pop().unwrap(), BTreeMap::new());
    for line in lines {
        let before = by_vehicle.insert(line["vin"].as_str().unwrap().to_owned(), line.clone());
        assert_eq!(before, None, "{line}");
    }
    (by_vehicle, counts)
}

fn start(folder: &Path) -> Causewayd {
    Causewayd::start(folder)
}

#[test]
fn each_vehicle_has_one_outcome_whatever_it_does_and_whatever_happens_to_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let vins = [QUICK, TWICE, SILENT, REVOKED, LATE, AWAY, RETIRED];
    add_users(folder.path(), &vins.map(|vin| format!("vehicle:{vin}")));
    let broker = start(folder.path());
    register(&broker, &vins);
    broker.ask(JSON, "POST", &format!("/v1/vehicles/{RETIRED}/retire"), Value::Null, 200);
    let mut cars = [QUICK, TWICE, SILENT, REVOKED].map(|vin| vehicle(&broker, vin));
    for car in &mut cars {
        car.send(&subscribe("cmd/#", 1));
        assert_eq!(car.read_packet().0, 0x90);
    }
    let made = broker.cli(&[
        "job",
        "make",
        "--group",
        "eu",
        "--command",
        "get_location",
        "--payload",
        "{\"accuracy\":1}",
        "--deadline",
        "12s",
        "--rate",
        "50",
        "--json",
    ]);
    let made: Value = serde_json::from_str(&said(&made)).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let job = format!("/v1/jobs/{id}");
    let [quick, twice, silent, revoked] = &mut cars;
    let commands = [quick, twice, silent, revoked].map(command);
    assert!(broker.cli(&["job", "show", &id]).status.success());
    eventually("who may not come back is not waited for", || broker.get(&job)["failed"] == json!({ "retired": 1 }));
    // The others have the command, and do not say so yet.
    reply(&mut cars[0], &commands[0].0, 1.0);
    // Without a word: SIGKILL. The reply is durable, and perhaps nobody has made a result of it.
    drop(broker);

    let broker = start(folder.path());
    let mut cars = [TWICE, SILENT, REVOKED].map(|vin| vehicle(&broker, vin));
    let again = cars.each_mut().map(command);
    assert_eq!(again.each_ref().map(|(id, _)| id), [1, 2, 3].map(|index: usize| &commands[index].0), "the same ones");
    for (car, (_, packet_id)) in cars.iter_mut().zip(&again) {
        acknowledge(car, *packet_id);
    }
    reply(&mut cars[0], &again[0].0, 2.0);
    reply(&mut cars[0], &again[0].0, 2.5);
    broker.ask(JSON, "POST", &format!("/v1/vehicles/{REVOKED}/retire"), Value::Null, 200);
    let mut late = vehicle(&broker, LATE);
    late.send(&subscribe("cmd/#", 1));
    let (number, packet_id) = command(&mut late);
    acknowledge(&mut late, packet_id);
    reply(&mut late, &number, 3.0);
    eventually("what is said is counted", || {
        let job = broker.get(&job);
        (&job["succeeded"], &job["failed"]) == (&json!(3), &json!({ "retired": 2 }))
    });
    // Once more, while nothing but deadlines is left.
    drop((cars, late, broker));
    let broker = start(folder.path());
    eventually("the job is over", || broker.get(&job)["state"] == "done");

    let text = said(&broker.cli(&["job", "results", &id]));
    let over_http = broker.ask("", "GET", &format!("{job}/results"), Value::Null, 200);
    assert_eq!(over_http.body, text.as_bytes());
    let (by_vehicle, counts) = results(&text);
    let expected =
        json!({ "state": "done", "total": 7, "done": 7, "succeeded": 3, "failed": { "retired": 2, "timed-out": 2 } });
    assert_eq!(counts, expected);
    let outcomes = vins.map(|vin| by_vehicle[vin]["outcome"].as_str().unwrap());
    assert_eq!(outcomes, ["replied", "replied", "timed-out", "retired", "replied", "timed-out", "retired"]);
    for (vin, lat) in [(QUICK, 1.0), (TWICE, 2.0), (LATE, 3.0)] {
        assert_eq!(by_vehicle[vin]["payload"], json!({ "lat": lat }));
    }
    for (vin, (number, _)) in [QUICK, TWICE, SILENT, REVOKED].iter().zip(&commands) {
        assert_eq!(&by_vehicle[*vin]["command"], number, "it was asked once");
    }
    let metrics = broker.metrics();
    for line in [
        "causeway_jobs{state=\"done\"} 1",
        "causeway_jobs{state=\"running\"} 0",
        "causeway_jobs_held_up 0",
        "causeway_job_vehicles_left 0",
        // Since the last start.
        "causeway_job_results_total{outcome=\"timed-out\"} 2",
        "causeway_job_results_total{outcome=\"done\"} 0",
    ] {
        assert!(metrics.lines().any(|said| said == line), "no line {line}\n{metrics}");
    }
    let numbers: std::collections::BTreeSet<_> = by_vehicle.values().filter_map(|it| it["command"].as_str()).collect();
    assert_eq!(numbers.len(), 7, "no number is given twice");
}

#[test]
fn while_the_disk_is_nearly_full_a_job_waits_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let vins: Vec<String> = (0..20).map(|number| format!("WVWZZZ1JZ3W{number:06}")).collect();
    let free = causeway_storage::free_bytes(folder.path()).unwrap();
    // Much more than others on this disk take or give meanwhile.
    let margin = (4 << 30).min(free / 8);
    let floor = (free - margin).min(1 << 40).to_string();
    let broker = Causewayd::start_with(folder.path(), &[("CAUSEWAY_STORAGE__FREE_SPACE_FLOOR_BYTES", &floor)]);
    let ballast = std::fs::File::create(folder.path().join("ballast")).unwrap();
    rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, 2 * margin).unwrap();
    let is_short = |broker: &Causewayd| {
        (0..3).all(|shard| broker.metrics().contains(&format!("causeway_storage_low{{shard=\"{shard}\"}} 1")))
    };
    eventually("it is noticed", || is_short(&broker));
    let command = json!({ "name": "wink", "now_or_never": true });
    let spec = json!({ "target": { "vins": vins }, "command": command });
    let made = broker.ask(JSON, "POST", "/v1/jobs", spec, 201).json();
    let job = format!("/v1/jobs/{}", made["id"].as_str().unwrap());
    let desired = json!({ "target": { "vins": vins }, "desired": { "a": 1 } });
    let update = broker.ask(JSON, "POST", "/v1/jobs", desired, 201).json();
    let update = format!("/v1/jobs/{}", update["id"].as_str().unwrap());
    for job in [&job, &update] {
        let shown = broker.get(job);
        assert!(shown["held_up"].as_str().unwrap().contains("nearly full"), "{shown}");
        assert_eq!((&shown["state"], &shown["done"]), (&json!("running"), &json!(0)));
    }
    let shown = said(&broker.cli(&["job", "show", made["id"].as_str().unwrap()]));
    assert!(shown.contains("held up"), "{shown}");
    assert!(
        broker.metrics().contains("\ncauseway_jobs_held_up 2\n")
            && broker.metrics().contains("\ncauseway_job_vehicles_left 40\n")
    );
    let path = format!("/v1/vehicles/{}/commands/wink", vins[0]);
    let key = format!("{JSON}Idempotency-Key: 7f1a\r\n");
    let refused = broker.ask(&key, "POST", &path, json!({}), 507);
    assert_eq!(refused.header("causeway-outcome"), "", "nothing has become of what was not requested");

    drop(ballast);
    std::fs::remove_file(folder.path().join("ballast")).unwrap();
    for job in [&job, &update] {
        eventually("it goes on", || broker.get(job)["state"] == "done");
        assert_eq!(broker.get(job)["held_up"], Value::Null);
    }
    assert_eq!(broker.get(&job)["failed"], json!({ "offline": 20 }), "nobody was refused");
    assert_eq!(broker.get(&update)["succeeded"], 20);
    broker.ask(&key, "POST", &path, json!({}), 202);
}
