//! Commands to groups over MQTT, with vehicles that answer, and a broker that is killed in between.
//!
//! Owns that one request is one job, and that its requester is told one outcome of each vehicle and the counts. The broker is the real program.
//! Nothing here waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::net::TcpStream;

use causeway_protocol::{Packet, ProtocolVersion, decode, frame};
use serde_json::{Value, json};
use support::causewayd::{Causewayd, JSON, add_users, report};
use support::{Client, dial, eventually, packet, subscribe};

const QUICK: &str = "WVWZZZ1JZ3W000001";
const TWICE: &str = "WVWZZZ1JZ3W000002";
const AWAY: &str = "WVWZZZ1JZ3W000003";
const ANSWERS: &str = "backend/answers";

/// A client whose session is there when it comes again.
fn client(broker: &Causewayd, id: &str, user: &str) -> Client<TcpStream> {
    let mut client = Client::new(dial(broker.address));
    let mut body = b"\x00\x04MQTT\x05\xC0\x00\x00\x05\x11\x00\x00\x0E\x10".to_vec();
    [id, user, "secret"].iter().for_each(|text| body.extend(string(text)));
    client.send(&packet(0x10, &body));
    client.expect_connack(0);
    client
}

fn vehicle(broker: &Causewayd, vin: &str) -> Client<TcpStream> {
    client(broker, vin, &format!("vehicle:{vin}"))
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// A request; `first` is the packet's first byte.
fn request(first: u8, id: u16, group: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut properties = [&b"\x08"[..], &string(ANSWERS), b"\x09", &string("4711"), b"\x02\x00\x00\x00\x0A"].concat();
    for (name, value) in more {
        properties.extend([&b"\x26"[..], &string(name), &string(value)].concat());
    }
    let mut body = string(&format!("groups/{group}/cmd/get_location"));
    body.extend(id.to_be_bytes());
    body.push(properties.len() as u8);
    body.extend(properties);
    body.extend(b"{\"accuracy\":1}");
    packet(first, &body)
}

/// What somebody got, acknowledged: whether it comes again, its Correlation Data, user properties and payload.
struct Got {
    is_again: bool,
    correlation: Vec<u8>,
    properties: BTreeMap<String, String>,
    payload: Vec<u8>,
}

/// The next message. Others go by.
fn next(client: &mut Client<TcpStream>) -> Got {
    loop {
        let (first, body) = client.read_packet();
        let bytes = packet(first, &body);
        let head = frame(&bytes, u32::MAX).unwrap().unwrap();
        let decoded = decode(&head, &bytes[head.header_bytes..], ProtocolVersion::V5).unwrap();
        if let Packet::Publish(publish) = decoded {
            let forwarded = publish.properties.forwarded;
            let got = Got {
                is_again: publish.dup,
                correlation: forwarded.correlation_data().unwrap_or_default().to_vec(),
                properties: forwarded.user_properties().map(|(name, value)| (name.into(), value.into())).collect(),
                payload: publish.payload.to_vec(),
            };
            client.send(&packet(0x40, &publish.packet_id.unwrap().get().to_be_bytes()));
            return got;
        }
    }
}

/// The number of the next command of a vehicle.
fn command(car: &mut Client<TcpStream>) -> String {
    String::from_utf8(next(car).correlation).unwrap()
}

/// The first byte and the reason of the next acknowledgement.
fn acknowledged(client: &mut Client<TcpStream>) -> (u8, u8) {
    let (first, body) = client.read_packet();
    (first, body.get(2).copied().unwrap_or(0))
}

fn jobs(broker: &Causewayd) -> Vec<Value> {
    broker.get("/v1/jobs")["jobs"].as_array().unwrap().clone()
}

fn start(folder: &std::path::Path) -> Causewayd {
    let vins = [QUICK, TWICE, AWAY].map(|vin| format!("vehicle:{vin}"));
    add_users(folder, &vins);
    add_users(folder, &["backend".to_owned()]);
    let broker = Causewayd::start(folder);
    broker.ask(JSON, "PUT", "/v1/groups/eu", json!({}), 201);
    let vehicles = [QUICK, TWICE, AWAY].map(|vin| json!({ "vin": vin, "state": "active", "groups": ["eu"] }));
    broker.ask(JSON, "POST", "/v1/vehicles", json!({ "vehicles": vehicles }), 201);
    broker
}

#[test]
fn a_request_to_a_group_is_one_job_whose_requester_is_told_of_each_vehicle_once() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path());
    let mut backend = client(&broker, "backend-1", "backend");
    backend.subscribe(ANSWERS, 1);
    backend.send(&request(0x32, 7, "eu", &[]));
    assert_eq!(acknowledged(&mut backend), (0x40, 0));
    assert_eq!(jobs(&broker).len(), 1, "it is there before it is acknowledged");
    // Without a word: SIGKILL. The client knows nothing of the acknowledgement, say, and sends it again.
    drop((backend, broker));
    let broker = Causewayd::start(folder.path());
    let mut backend = client(&broker, "backend-1", "backend");
    backend.send(&request(0x3A, 7, "eu", &[]));
    assert_eq!(acknowledged(&mut backend), (0x40, 0));
    let known = jobs(&broker);
    assert_eq!((known.len(), &known[0]["by"], &known[0]["total"]), (1, &json!("service:backend"), &json!(3)));

    let mut outcomes: Vec<Got> = Vec::new();
    let mut cars = [QUICK, TWICE].map(|vin| vehicle(&broker, vin));
    for car in &mut cars {
        car.send(&subscribe("cmd/#", 1));
    }
    let [quick, twice] = &mut cars;
    let commands = [command(quick), command(twice)];
    report(&mut cars[0], &format!("status/get_location/{}", commands[0]), &json!({ "lat": 1 }));
    outcomes.push(next(&mut backend));
    drop((backend, cars, broker));
    let broker = Causewayd::start(folder.path());
    let mut twice = vehicle(&broker, TWICE);
    for lat in [2, 3] {
        report(&mut twice, &format!("status/get_location/{}", commands[1]), &json!({ "lat": lat }));
    }
    let mut backend = client(&broker, "backend-1", "backend");
    let last = loop {
        let got = next(&mut backend);
        match got.properties.contains_key("cw-job") {
            true => break got,
            // What was not acknowledged before the end of the broker comes again, and says so.
            false => outcomes.extend(Some(got).filter(|got| !got.is_again)),
        }
    };
    let told: Vec<(&str, &str)> =
        outcomes.iter().map(|got| (&*got.properties["cw-vehicle"], &*got.properties["cw-outcome"])).collect();
    assert_eq!(told, [(QUICK, "replied"), (TWICE, "replied"), (AWAY, "timed-out")]);
    assert!(outcomes.iter().chain([&last]).all(|got| got.correlation == b"4711"));
    assert_eq!([0, 1].map(|index: usize| &outcomes[index].properties["cw-command"]), [&commands[0], &commands[1]]);
    assert_eq!([0, 1].map(|index: usize| &*outcomes[index].payload), [&b"{\"lat\":1}"[..], b"{\"lat\":2}"]);
    let counts: Value = serde_json::from_slice(&last.payload).unwrap();
    let id = known[0]["id"].clone();
    assert_eq!((&json!(last.properties["cw-job"]), &*last.properties["cw-outcome"]), (&id, "done"));
    let expected = json!({
        "job": id, "state": "done", "total": 3, "done": 3, "succeeded": 2, "failed": { "timed-out": 1 },
    });
    assert_eq!(counts, expected);
    eventually("it is over", || jobs(&broker)[0]["state"] == "done");
    assert_eq!(jobs(&broker).len(), 1);
}

#[test]
fn requests_are_told_apart_and_what_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path());
    let mut backend = client(&broker, "backend-1", "backend");
    let offline = ("wait", "0");
    let mut said = |bytes: &[u8]| {
        backend.send(bytes);
        acknowledged(&mut backend)
    };
    for known in 1..=2 {
        assert_eq!(said(&request(0x32, 7, "eu", &[offline])), (0x40, 0));
        assert_eq!(jobs(&broker).len(), known, "what is not sent again is another one");
    }
    let key = ("idempotency-key", "k");
    assert_eq!(said(&request(0x32, 8, "eu", &[offline, key])), (0x40, 0));
    assert_eq!(said(&request(0x32, 9, "eu", &[offline, key])), (0x40, 0));
    assert_eq!(jobs(&broker).len(), 3, "the same key, the same job");
    // QoS 2, twice before it is released.
    assert_eq!(said(&request(0x34, 10, "eu", &[offline])), (0x50, 0));
    assert_eq!(said(&request(0x3C, 10, "eu", &[offline])), (0x50, 0));
    assert_eq!(said(&packet(0x62, &[0, 10])), (0x70, 0));
    assert_eq!(jobs(&broker).len(), 4);
    assert_eq!(said(&request(0x32, 11, "nowhere", &[])), (0x40, 0x90));
    assert_eq!(said(&request(0x32, 12, "eu", &[("rate", "soon")])), (0x40, 0x83));
    assert_eq!(jobs(&broker).len(), 4);
    // Before the vehicle comes: none of these is for it any more.
    eventually("they are over", || jobs(&broker).iter().all(|job| job["state"] == "done"));
    // Nobody takes it for a broadcast.
    let mut car = vehicle(&broker, QUICK);
    car.send(&subscribe("cmd/#", 1));
    assert_eq!(car.read_packet().0, 0x90);
    backend.send(&request(0x32, 13, "eu", &[offline]));
    assert_eq!(acknowledged(&mut backend), (0x40, 0));
    assert_eq!(command(&mut car).len(), 13);
    // Cancelled, it says so, too.
    backend.subscribe(ANSWERS, 1);
    backend.send(&request(0x32, 14, "eu", &[("rate", "1")]));
    eventually("it is there", || jobs(&broker).len() == 6);
    let id = jobs(&broker)[0]["id"].as_str().unwrap().to_owned();
    broker.ask(JSON, "POST", &format!("/v1/jobs/{id}/cancel"), Value::Null, 200);
    loop {
        let got = next(&mut backend);
        if got.properties.get("cw-job") == Some(&id) {
            assert!(String::from_utf8(got.payload).unwrap().contains("\"state\":\"cancelled\""));
            break;
        }
    }
}

/// It began with the first message, whatever became of the group since.
#[test]
fn a_request_that_comes_again_is_its_job_also_when_the_group_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path());
    broker.ask(JSON, "PUT", "/v1/groups/us", json!({}), 201);
    let mut backend = client(&broker, "backend-1", "backend");
    backend.send(&request(0x32, 7, "us", &[]));
    assert_eq!(acknowledged(&mut backend), (0x40, 0));
    eventually("it is over", || jobs(&broker)[0]["state"] == "done");
    broker.ask(JSON, "DELETE", "/v1/groups/us", Value::Null, 204);
    for (first, reason) in [(0x3A, 0), (0x32, 0x90)] {
        backend.send(&request(first, 7, "us", &[]));
        assert_eq!(acknowledged(&mut backend), (0x40, reason));
    }
    assert_eq!(jobs(&broker).len(), 1);
}
