//! Shadows of a broker that runs: over HTTP and MQTT together, followed, by the command line, and after a restart.
//!
//! Owns what they are to do. The broker is the real program, a child. Nothing here waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

/// Played here, too, for here serde_json keeps keys in the order in which they came.
#[path = "../../fleet/tests/key_order.rs"]
mod key_order;
mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::{Value, json};
use support::causewayd::{A, B, Causewayd, Events, JSON, Reply, message, program, report, said, vehicle};
use support::{Client, DEADLINE, dial, eventually, packet, subscribe};

#[test]
fn serde_json_keeps_keys_in_their_order() {
    let said = r#"{"b":1,"a":2}"#;
    assert_eq!(serde_json::from_str::<Value>(said).unwrap().to_string(), said);
}

#[test]
fn a_shadow_is_one_over_http_and_mqtt_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let path = format!("/v1/vehicles/{A}/shadow");
    let missing = broker.ask("", "GET", &path, Value::Null, 404);
    assert_eq!((missing.header("content-type"), &missing.json()["code"]), ("application/problem+json", &json!(404)));

    let mut car = vehicle(&broker, A);
    car.subscribe("shadow/delta", 0);
    let mut events = broker.follow(&format!("{path}/events"));
    let mut fleet = broker.follow("/v1/shadows/events");

    let wanted = json!({ "state": { "desired": { "climate": { "target": 21 } } } });
    let changed = broker.ask(JSON, "PATCH", &path, wanted.clone(), 200);
    assert_eq!((changed.header("etag"), &changed.json()["version"]), ("\"1\"", &json!(1)));
    let delta = message(&mut car, "shadow/delta");
    assert_eq!((&delta["state"], &delta["sequence"]), (&json!({ "climate": { "target": 21 } }), &json!(1)));
    for events in [&mut events, &mut fleet] {
        let (id, event) = events.next();
        assert_eq!((&event["version"], &event["vin"], &event["name"]), (&json!(1), &json!(A), &Value::Null));
        assert!(!id.is_empty());
        assert_eq!((&event["by"], &event["to"]), (&json!("operator:localhost"), &wanted["state"]));
    }

    report(&mut car, "shadow/state", &json!({ "climate": { "target": 21 }, "soc": 80 }));
    let shown = broker.ask("", "GET", &path, Value::Null, 200);
    assert_eq!((shown.header("etag"), &shown.json()["state"]["delta"]), ("\"2\"", &Value::Null));
    assert_eq!(shown.json()["state"]["reported"], json!({ "climate": { "target": 21 }, "soc": 80 }));
    assert_eq!(events.next().1["by"], json!(format!("vehicle:{A}")));
    // What happens to others, and under other names, is not told to all.
    broker.ask(JSON, "PATCH", &format!("/v1/vehicles/{B}/shadow/hvac"), wanted.clone(), 200);
    assert_eq!(fleet.next().1["vin"], A);
    assert_eq!(fleet.next().1["name"], "hvac");
    report(&mut car, "shadow/state", &json!({ "soc": 81 }));
    assert_eq!(events.next().1["version"], 3);
    let names = broker.get(&format!("/v1/vehicles/{B}/shadows"));
    assert_eq!(names, json!({ "shadows": [{ "name": "hvac", "version": 1 }] }));
    broker.terminate();

    let broker = Causewayd::start(folder.path());
    let kept = broker.ask("", "GET", &path, Value::Null, 200);
    let mut state = shown.json()["state"].clone();
    state["reported"]["soc"] = json!(81);
    assert_eq!((kept.header("etag"), &kept.json()["state"]), ("\"3\"", &state));
    let gone = broker.ask("", "DELETE", &path, Value::Null, 200);
    assert_eq!(gone.json()["version"], 4);
    broker.ask("", "GET", &path, Value::Null, 404);
    assert_eq!(broker.ask(JSON, "PATCH", &path, wanted, 200).header("etag"), "\"5\"");
}

#[test]
fn a_change_may_depend_on_the_version() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let path = format!("/v1/vehicles/{A}/shadow/hvac");
    let wanted = |value: u64| json!({ "state": { "desired": { "a": value } } });
    broker.ask(JSON, "PATCH", &path, wanted(1), 200);
    let tag = |version: u64| format!("{JSON}If-Match: \"{version}\"\r\n");
    broker.ask(&tag(1), "PATCH", &path, wanted(2), 200);
    let refused = broker.ask(&tag(1), "PATCH", &path, wanted(3), 412);
    assert_eq!((&refused.json()["code"], &refused.json()["status"]), (&json!(409), &json!(412)));
    let mut stale = wanted(3);
    stale["version"] = json!(1);
    broker.ask(JSON, "PATCH", &path, stale, 409);
    broker.ask(&tag(1), "DELETE", &path, Value::Null, 412);
    broker.ask("If-None-Match: \"2\"\r\n", "GET", &path, Value::Null, 304);
    assert_eq!(broker.get(&path)["state"]["desired"], json!({ "a": 2 }));

    broker.ask("Content-Type: text/plain\r\n", "PATCH", &path, wanted(3), 415);
    broker.ask(&JSON.replace("json", "merge-patch+json"), "PATCH", &path, wanted(3), 200);
    broker.ask(JSON, "PATCH", &path, json!({ "state": { "desired": [1] } }), 400);
    broker.ask("", "GET", "/v1/vehicles/x/shadow", Value::Null, 400);
    broker.ask("", "GET", &format!("{path}?x=1"), Value::Null, 400);
    let cbor = broker.ask("Accept: application/cbor\r\n", "GET", &path, Value::Null, 200);
    assert_eq!(cbor.header("content-type"), "application/cbor");
    // {"state": {"desired": {"a": 4}}}
    let patch = b"\xA1\x65state\xA1\x67desired\xA1\x61a\x04";
    assert_eq!(broker.send("Content-Type: application/cbor\r\n", "PATCH", &path, patch).status, 200);
    assert_eq!(broker.get(&path)["state"]["desired"], json!({ "a": 4 }));
}

#[test]
fn a_person_follows_a_twin() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let shown = said(&broker.cli(&["shadow", "set", A, "climate.target=21", "mode=eco", "--ttl", "10m"]));
    assert!(shown.contains("pending: 2 of 2, since 2"), "{shown}");
    let mut watching = program();
    watching.args(["shadow", "watch", A, "--admin", &format!("http://{}", broker.admin)]);
    let mut watching = watching.stdout(Stdio::piped()).spawn().unwrap();
    let mut watched = BufReader::new(watching.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut car = vehicle(&broker, A);
    // It is told what happens from some moment on.
    let line = std::thread::scope(|scope| {
        let line = scope.spawn(|| watched.next().unwrap());
        let mut soc = 0;
        while !line.is_finished() {
            soc += 1;
            report(&mut car, "shadow/state", &json!({ "climate": { "target": 21 }, "soc": soc }));
        }
        line.join().unwrap()
    });
    assert!(line.starts_with(A) && line.contains(&format!("vehicle:{A}  reported.")), "{line}");
    watching.kill().unwrap();
    watching.wait().unwrap();
    let shown = said(&broker.cli(&["shadow", "show", A]));
    assert!(shown.contains("pending: 1 of 2"), "{shown}");
    let row =
        |path: &str| shown.lines().find(|line| line.starts_with(path)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row("climate.target")[..4], ["climate.target", "21", "21", "same"]);
    assert_eq!(row("mode")[..3], ["mode", "\"eco\"", "pending"]);
    let document: Value = serde_json::from_str(&said(&broker.cli(&["shadow", "show", A, "--json"]))).unwrap();
    assert_eq!(document["state"]["delta"], json!({ "mode": "eco" }));
    let refused = broker.cli(&["shadow", "set", A, "mode=off", "--if-version", "1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&broker.cli(&["shadow", "delete", A])).contains("deleted"));
    let missing = broker.cli(&["shadow", "show", A]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("No shadow exists"), "{missing:?}");
}

#[test]
fn what_happened_is_told_by_time_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let path = format!("/v1/vehicles/{A}/shadow");
    for target in 1..=5 {
        broker.ask(JSON, "PATCH", &path, json!({ "state": { "desired": { "target": target } } }), 200);
    }
    let page = broker.get(&format!("{path}/history?limit=2"));
    let entries = page["history"].as_array().unwrap();
    assert_eq!(
        (entries.len(), &entries[1]["version"], &entries[1]["by"]),
        (2, &json!(2), &json!("operator:localhost"))
    );
    assert_eq!(entries[1]["from"], json!({ "desired": { "target": 1 } }));
    broker.terminate();

    let broker = Causewayd::start(folder.path());
    broker.ask(JSON, "PATCH", &path, json!({ "state": { "desired": { "target": 6 } } }), 200);
    let next = page["next"].as_str().unwrap();
    let rest = broker.get(&format!("{path}/history?cursor={next}"));
    let versions: Vec<u64> =
        rest["history"].as_array().unwrap().iter().map(|it| it["version"].as_u64().unwrap()).collect();
    assert_eq!((versions, &rest["next"]), (vec![3, 4, 5, 6], &Value::Null));
    let lines = broker.ask("Accept: application/x-ndjson\r\n", "GET", &format!("{path}/history"), Value::Null, 200);
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> =
        lines.body.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!((lines.len(), &lines[5]["to"]), (6, &json!({ "desired": { "target": 6 } })));
    let moment = lines[5]["at"].as_str().unwrap();
    let last = broker.get(&format!("{path}/history?from={moment}"));
    assert_eq!(last["history"][0]["version"], 6);
    assert_eq!(broker.get(&format!("{path}/history?to=2020-01-01T00:00:00Z"))["history"], json!([]));
    for wrong in ["from=yesterday", "cursor=x", "limit=0", "limit=x", "since=1"] {
        broker.ask("", "GET", &format!("{path}/history?{wrong}"), Value::Null, 400);
    }
    let shown = said(&broker.cli(&["shadow", "history", A, "--from", "1h", "--limit", "4"]));
    assert_eq!(shown.lines().count(), 4);
    assert!(shown.lines().nth(1).unwrap().ends_with("v2  operator:localhost  desired.target: 1 -> 2"), "{shown}");
}

#[test]
fn without_history_changes_are_told_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("/v1/vehicles/{A}/shadow");
    let wish = |target: u32| json!({ "state": { "desired": { "target": target } } });
    let broker = Causewayd::start(folder.path());
    broker.ask(JSON, "PATCH", &path, wish(1), 200);
    broker.terminate();

    let broker = Causewayd::start_with(folder.path(), &[("CAUSEWAY_SHADOW__HISTORY_DAYS", "0")]);
    let mut events = broker.follow(&format!("{path}/events"));
    broker.ask(JSON, "PATCH", &path, wish(2), 200);
    let (_, event) = events.next();
    assert_eq!((&event["version"], &event["to"]), (&json!(2), &json!({ "desired": { "target": 2 } })));
    let versions = |broker: &Causewayd| {
        let history = broker.get(&format!("{path}/history"))["history"].clone();
        history.as_array().unwrap().iter().map(|entry| entry["version"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(versions(&broker), [1], "what was kept before goes with its day");
    assert_eq!(said(&broker.cli(&["shadow", "history", A])).lines().count(), 1);
    broker.terminate();
    let broker = Causewayd::start_with(folder.path(), &[("CAUSEWAY_SHADOW__HISTORY_DAYS", "0")]);
    assert_eq!((versions(&broker), broker.get(&path)["version"].as_u64()), (vec![1], Some(2)));
}

#[test]
fn vehicles_are_found_by_what_they_report() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start_file(folder.path(), "[shadow]\nindex = ['reported.soc']\n[broker]\nshards = 3\n");
    broker.ask(JSON, "PUT", "/v1/groups/eu", Value::Null, 201);
    broker.ask(JSON, "POST", "/v1/vehicles", json!({ "vin": A, "groups": ["eu"], "state": "active" }), 201);
    for (vin, soc) in [(A, 15), (B, 10)] {
        let reported = json!({ "state": { "reported": { "soc": soc } } });
        broker.ask(JSON, "PATCH", &format!("/v1/vehicles/{vin}/shadow"), reported, 200);
    }
    let low = "/v1/vehicles?where=reported.soc%20%3C%2020";
    let found = broker.get(low);
    let vins: Vec<&str> = found["vehicles"].as_array().unwrap().iter().map(|it| it["vin"].as_str().unwrap()).collect();
    assert_eq!((vins, &found["next"]), (vec![B, A], &Value::Null));
    let one = json!({ "vin": A, "state": "active", "groups": ["eu"], "version": 1, "fields": { "reported.soc": 15 } });
    assert_eq!(broker.get(&format!("{low}%20and%20group=eu"))["vehicles"], json!([one]));
    let first = broker.get(&format!("{low}&limit=1&fields="));
    assert_eq!((&first["vehicles"][0]["vin"], &first["vehicles"][0]["fields"]), (&json!(B), &json!({})));
    let next = broker.get(&format!("{low}&limit=1&cursor={}", first["next"].as_str().unwrap()));
    assert_eq!(next["vehicles"][0]["vin"], A);
    // The registry's list is as it was.
    assert_eq!(broker.get("/v1/vehicles")["vehicles"].as_array().map(Vec::len), Some(1));
    let wrong = broker.ask("", "GET", "/v1/vehicles?where=reported.city=Ulm", Value::Null, 400);
    assert!(wrong.json()["detail"].as_str().unwrap().contains("reported.soc"), "{}", wrong.json());
    broker.ask("", "GET", "/v1/vehicles?where=version%3E0&state=active", Value::Null, 400);
}

/// What stands for the command in the next message that a vehicle gets for one.
fn command_id(car: &mut Client<TcpStream>) -> String {
    loop {
        let (first, body) = car.read_packet();
        if first & 0xF0 == 0x30 {
            // Correlation Data: 0x09, two bytes of length, the command.
            let at = body.windows(3).position(|bytes| bytes == [0x09, 0, 13]).unwrap();
            return String::from_utf8(body[at + 3..at + 16].to_vec()).unwrap();
        }
    }
}

#[test]
fn a_command_over_http_has_one_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let path = format!("/v1/vehicles/{A}/commands/get_location");
    let outcome = |reply: &Reply| reply.header("causeway-outcome").to_owned();
    let offline = broker.ask(JSON, "POST", &format!("{path}?online=true&wait=5s"), json!({}), 503);
    assert_eq!((outcome(&offline).as_str(), &offline.json()["outcome"]), ("offline", &json!("offline")));
    let late = broker.ask(JSON, "POST", &format!("{path}?deadline=1s&wait=20s"), json!({}), 504);
    assert_eq!((outcome(&late).as_str(), &late.json()["vehicle"]), ("timed-out", &json!(A)));

    // It waits for the vehicle, and whoever sent it does not.
    let with_key = format!("{JSON}Idempotency-Key: 7f1a\r\n");
    let sent = broker.ask(&with_key, "POST", &path, json!({ "accuracy": 1 }), 202);
    let (id, location) = (sent.header("causeway-command").to_owned(), sent.header("location").to_owned());
    assert_eq!(
        (outcome(&sent).as_str(), &sent.json()["command"], location.as_str()),
        ("pending", &json!(id), &*format!("/v1/commands/{id}"))
    );
    let again = broker.ask(&with_key, "POST", &path, json!({ "accuracy": 1 }), 202);
    assert_eq!(again.header("causeway-command"), id);
    assert_eq!(outcome(&broker.ask(&with_key, "POST", &path, json!({ "accuracy": 2 }), 409)), "conflict");
    let mut car = vehicle(&broker, A);
    // It may come before the subscription is acknowledged.
    car.send(&subscribe("cmd/#", 1));
    assert_eq!(command_id(&mut car), id);
    report(&mut car, &format!("status/get_location/{id}"), &json!({ "lat": 48.2 }));
    let replied = broker.ask("", "GET", &format!("{location}?wait=10s"), Value::Null, 200);
    assert_eq!((outcome(&replied).as_str(), replied.json()), ("replied", json!({ "lat": 48.2 })));

    // The caller is answered as soon as the vehicle has.
    let answered = std::thread::scope(|scope| {
        let asked = scope.spawn(|| broker.cli(&["command", A, "unlock", "{\"door\":1}", "--wait", "20s"]));
        let id = command_id(&mut car);
        report(&mut car, &format!("status/unlock/{id}"), &json!({ "done": true }));
        asked.join().unwrap()
    });
    assert_eq!(said(&answered), "{\"done\":true}\n");
    let pending = broker.cli(&["command", A, "wink", "--wait", "1s", "--deadline", "1h"]);
    assert_eq!(pending.status.code(), Some(4), "{pending:?}");

    broker.ask(JSON, "POST", &format!("/v1/vehicles/{A}/retire"), Value::Null, 200);
    assert_eq!(outcome(&broker.ask(JSON, "POST", &path, json!({}), 410)), "retired");
    let gone = broker.cli(&["command", A, "wink"]);
    assert_eq!(gone.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("retired: the vehicle is retired"), "{gone:?}");
    broker.terminate();

    let broker = Causewayd::start(folder.path());
    let kept = broker.ask("", "GET", &location, Value::Null, 200);
    assert_eq!((outcome(&kept).as_str(), kept.json()), ("replied", json!({ "lat": 48.2 })));
    broker.ask("", "GET", "/v1/commands/c000000000001", Value::Null, 404);
    broker.ask("", "GET", "/v1/commands/x", Value::Null, 400);
    broker.ask("Origin: http://evil.example\r\n", "POST", &path, json!({}), 415);
}

/// A request over MQTT, answered on `backend/answers`.
fn request(client: &mut Client<TcpStream>, vin: &str) {
    let answers = b"backend/answers";
    let properties = [b"\x02\x00\x00\x02\x58\x08\x00\x0f".as_slice(), answers].concat();
    let topic = format!("vehicles/{vin}/cmd/wink");
    let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
    let head = [&length[..], topic.as_bytes(), &[0, 9, u8::try_from(properties.len()).unwrap()]].concat();
    client.send(&packet(0x32, &[&head, properties.as_slice(), b"{}"].concat()));
}

/// Whoever does not accept the reply is told so; others read it.
#[test]
fn a_reply_that_its_requester_does_not_accept_is_read_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let mut car = vehicle(&broker, A);
    car.subscribe("cmd/#", 1);
    let mut client = Client::new(dial(broker.address));
    // Maximum Packet Size: 512.
    client.send(&packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x05\x27\x00\x00\x02\x00\x00\x05small"));
    client.expect_connack(0);
    client.subscribe("backend/answers", 0);
    request(&mut client, A);
    let id = command_id(&mut car);
    let reply = json!({ "log": "x".repeat(2000) });
    report(&mut car, &format!("status/wink/{id}"), &reply);
    let told = message(&mut client, "backend/answers");
    assert_eq!((&told["outcome"], &told["command"]), (&json!("too-large"), &json!(id)));
    let read = broker.ask("", "GET", &format!("/v1/commands/{id}"), Value::Null, 200);
    assert_eq!((read.header("causeway-outcome"), read.json()), ("replied", reply));
}

/// Two requesters, on whichever shard: the vehicle's own answers.
#[test]
fn nobody_waits_for_a_vehicle_that_is_barred() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Causewayd::start(folder.path());
    // The vehicle becomes known.
    drop(vehicle(&broker, A));
    let set = |broker: &Causewayd, state: &str| {
        broker.ask(JSON, "POST", &format!("/v1/vehicles/{A}/{state}"), Value::Null, 200);
    };
    let retired = |client: &mut Client<TcpStream>, why: &str| {
        let told = message(client, "backend/answers");
        assert_eq!(told["outcome"], "retired", "{told}");
        assert!(told["detail"].as_str().unwrap().contains(why), "{told}");
    };
    let requester = |broker: &Causewayd, name: &str| {
        let mut client = Client::new(dial(broker.address));
        client.connect(name);
        client.subscribe("backend/answers", 0);
        client
    };
    let path = |vin: &str| format!("/v1/vehicles/{vin}/commands/wink");
    // What is told comes a moment after the answer.
    let is_asked = |broker: &Causewayd, vin: &str| {
        eventually("it may be asked", || broker.send(JSON, "POST", &path(vin), b"{}").status == 202);
    };
    for name in ["backend", "another", "third"] {
        set(&broker, "activate");
        is_asked(&broker, A);
        let mut client = requester(&broker, name);
        request(&mut client, A);
        assert_eq!(client.read_packet().0, 0x40, "it is pending");
        set(&broker, "suspend");
        retired(&mut client, "the vehicle is suspended");
        // And at once from now on.
        request(&mut client, A);
        retired(&mut client, "the vehicle is suspended");
    }
    // It is known after a restart.
    broker.terminate();
    broker = Causewayd::start(folder.path());
    let mut client = requester(&broker, "later");
    request(&mut client, A);
    retired(&mut client, "the vehicle is suspended");
    // A ban, as well; over HTTP, too.
    broker.ask(JSON, "POST", "/v1/bans", json!({ "subject": format!("vehicle:{B}"), "why": "stolen" }), 201);
    request(&mut client, B);
    retired(&mut client, "stolen");
    assert_eq!(broker.ask(JSON, "POST", &path(B), json!({}), 410).header("causeway-outcome"), "retired");
    broker.ask("", "DELETE", &format!("/v1/bans/vehicle:{B}"), Value::Null, 204);
    is_asked(&broker, B);
}

#[test]
fn who_may_is_who_shows_a_token_and_what_is_changed_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let token = |name: &str, role: &str| {
        let made =
            said(&program().args(["admin-token", &path("tokens"), "add", name, "--role", role]).output().unwrap());
        format!("Authorization: Bearer {}\r\n", made.trim())
    };
    let (write, read) = (token("ann", "write"), token("bob", "read"));
    let (tokens, audit) = (path("tokens"), path("audit"));
    let environment = [("CAUSEWAY_ADMIN__TOKEN_FILE", &*tokens), ("CAUSEWAY_AUDIT__DIRECTORY", &*audit)];
    let broker = Causewayd::start_with(folder.path(), &environment);
    let (shadow, commands) =
        (format!("/v1/vehicles/{A}/shadow"), format!("/v1/vehicles/{A}/commands/wink?online=true"));
    let wanted = json!({ "state": { "desired": { "home": "Elm Street" } } });
    broker.ask(JSON, "PATCH", &shadow, wanted.clone(), 401);
    broker.ask("", "GET", "/v1/shadows/events", Value::Null, 401);
    broker.ask(&(read.clone() + JSON), "PATCH", &shadow, wanted.clone(), 403);
    broker.ask(&(read.clone() + JSON), "POST", &commands, json!({}), 403);
    broker.ask(&(write.clone() + JSON), "PATCH", &shadow, wanted.clone(), 200);
    broker.ask(&(write.clone() + JSON), "POST", &commands, json!({}), 503);
    // Whoever may, and is refused, is on record as well.
    let conditional = |tag: &str| format!("{write}{JSON}If-Match: {tag}\r\n");
    broker.ask(&conditional("\"9\""), "PATCH", &shadow, wanted.clone(), 412);
    broker.ask(&conditional("W/x"), "DELETE", &shadow, Value::Null, 400);
    broker.ask(&(write.clone() + JSON), "PATCH", &format!("{shadow}/x%20y"), wanted.clone(), 400);
    broker.ask(&write, "PATCH", &shadow, wanted, 415);
    let job = |what: Value| json!({ "target": { "vins": [A] }, "desired": { "home": what } });
    broker.ask(&(write.clone() + JSON), "POST", "/v1/jobs", job("Elm Street".into()), 201);
    broker.ask(&write, "POST", "/v1/jobs", job(1.into()), 415);
    let wide = job("WIDE".into()).to_string().replace("\"WIDE\"", "18446744073709551616");
    assert_eq!(broker.send(&(write.clone() + JSON), "POST", "/v1/jobs", wide.as_bytes()).status, 400);
    broker.ask(&(write.clone() + JSON), "POST", &format!("{commands}&wait=2m"), json!({}), 400);
    broker.ask(&write, "POST", "/v1/vehicles", json!({}), 415);
    let entry = broker.ask(&read, "GET", &format!("{shadow}/history"), Value::Null, 200).json();
    assert_eq!(entry["history"][0]["by"], "operator:token:ann");
    broker.terminate();
    let lines = said(&program().args(["audit", "show", &audit]).output().unwrap());
    let has = |words: &[&str]| lines.lines().any(|line| words.iter().all(|word| line.contains(word)));
    for words in [
        ["shadow", "deny", "", "PATCH"],
        ["command", "deny", "", "wink"],
        ["shadow", "allow", "token:ann", "/shadow: version 1, 43 bytes"],
        ["command", "allow", "token:ann", "wink"],
        ["shadow", "fail", "token:ann", "Version conflict"],
        ["shadow", "fail", "token:ann", "DELETE"],
        ["shadow", "fail", "token:ann", "is no name"],
        ["shadow", "fail", "token:ann", "Content-Type"],
        ["command", "fail", "token:ann", "wait is 60 s at most"],
        ["job", "allow", "token:ann", "desired, for {\"vins\":1}"],
        ["job", "fail", "token:ann", "Content-Type"],
        ["job", "fail", "token:ann", "takes more than 64 bits"],
        ["registry", "fail", "token:ann", "Content-Type"],
    ] {
        assert!(has(&words), "{words:?}: {lines}");
    }
    assert!(!lines.contains("Elm Street"), "where somebody lives is nobody's business here: {lines}");
}

#[test]
fn a_stream_lasts_has_its_place_and_ends_with_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let mut streams: Vec<Events> = (0..16).map(|_| broker.follow("/v1/shadows/events")).collect();
    broker.ask("", "GET", "/v1/shadows/events", Value::Null, 429);
    // Others come and go, more than there are places for.
    let others: Vec<TcpStream> = (0..100).map(|_| dial(broker.admin)).collect();
    assert_eq!(broker.send("", "GET", "/live", b"").status, 200);
    // Any other connection is over by then.
    let first = streams[0].0.get_mut();
    first.set_read_timeout(Some(std::time::Duration::from_secs(6))).unwrap();
    assert!(first.read(&mut [0]).is_err(), "nothing comes, and it does not end");
    first.set_read_timeout(Some(DEADLINE)).unwrap();
    drop(others);
    broker.ask(JSON, "PATCH", &format!("/v1/vehicles/{A}/shadow"), json!({ "state": { "desired": { "a": 1 } } }), 200);
    assert!(streams.iter_mut().all(|stream| stream.next().1["vin"] == A));
    broker.terminate();
    let mut rest = String::new();
    streams[1].0.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.trim(), "");
}

#[test]
fn a_reader_that_comes_back_hears_what_it_missed_or_that_it_has_to_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let (path, events) = (format!("/v1/vehicles/{A}/shadow"), format!("/v1/vehicles/{A}/shadow/events"));
    let change = |broker: &Causewayd, name: &str, value: u64| {
        let wanted = json!({ "state": { "desired": { "a": value } } });
        broker.ask(JSON, "PATCH", &format!("{path}{name}"), wanted, 200);
    };
    change(&broker, "", 1);
    change(&broker, "/hvac", 1);
    let mut stream = broker.follow(&events);
    let id = stream.line();
    change(&broker, "", 2);
    let (last, event) = stream.next();
    assert_eq!(event["version"], 2);
    let day = last.split('-').next().unwrap();
    assert_eq!((id, &last), (format!("id: {day}-1,hvac={day}-1"), &format!("{day}-2,hvac={day}-1")));
    drop(stream);
    change(&broker, "", 3);
    change(&broker, "/hvac", 2);
    broker.ask("", "DELETE", &format!("{path}/hvac"), Value::Null, 200);
    change(&broker, "/doors", 1);
    // Without a word: SIGKILL.
    drop(broker);

    let broker = Causewayd::start(folder.path());
    let mut stream = broker.follow_from(&events, &format!("Last-Event-ID: {last}\r\n"));
    let told: Vec<_> = (0..4).map(|_| stream.next_of_any_kind()).collect();
    let versions: Vec<_> =
        told.iter().map(|(kind, _, it)| (kind.as_str(), it["name"].as_str(), it["version"].as_u64())).collect();
    let expected = [(None, 3), (Some("doors"), 1), (Some("hvac"), 2), (Some("hvac"), 3)];
    assert_eq!(versions, expected.map(|(name, version)| ("shadow", name, Some(version))));
    assert_eq!(told[0].2["to"], json!({ "desired": { "a": 3 } }));
    change(&broker, "", 4);
    let (last, event) = stream.next();
    assert_eq!((event["version"].as_u64(), last), (Some(4), format!("{day}-4,doors={day}-1,hvac={day}-3")));
    // Of one shadow, and from the middle of what was missed.
    let mut one = broker.follow_from(&format!("{events}?name=hvac"), &format!("Last-Event-ID: hvac={day}-2\r\n"));
    assert_eq!(one.next_of_any_kind().2["version"], 3);
    // What nobody can know is said.
    broker.ask("", "GET", &format!("{events}?name=a/b"), Value::Null, 400);
    let many: Vec<String> = (0..300).map(|number| format!("s{number}=1-1")).collect();
    for nonsense in ["9999999-9".to_owned(), "\u{e9}".to_owned(), many.join(",")] {
        let mut stream = broker.follow_from(&events, &format!("Last-Event-ID: {nonsense}\r\n"));
        assert_eq!(stream.next_of_any_kind().0, "reset", "{nonsense}");
    }
    let mut other = broker.follow_from(&events, "Last-Event-ID: 17\r\n");
    assert_eq!(other.next_of_any_kind().0, "reset");
    let mut fleet = broker.follow_from("/v1/shadows/events", "Last-Event-ID: 17\r\n");
    let (kind, _, data) = fleet.next_of_any_kind();
    assert_eq!((kind.as_str(), &data["last"]), ("reset", &json!("17")));
    change(&broker, "", 5);
    for stream in [&mut stream, &mut other, &mut fleet] {
        assert_eq!(stream.next().1["version"], 5);
    }
    broker.terminate();

    // A broker that keeps no history.
    let broker = Causewayd::start_with(folder.path(), &[("CAUSEWAY_SHADOW__HISTORY_DAYS", "0")]);
    let of_one = format!("{events}?name=");
    let id = broker.follow(&of_one).line();
    let header = format!("Last-Event-ID: {}\r\n", id.strip_prefix("id: ").unwrap());
    let mut same = broker.follow_from(&of_one, &header);
    change(&broker, "", 6);
    assert_eq!(same.next_of_any_kind().0, "shadow", "nothing had happened");
    let (kind, id, data) = broker.follow_from(&of_one, &header).next_of_any_kind();
    assert_eq!((kind.as_str(), &data["version"], id), ("reset", &json!(6), format!("{day}-6")));
}

#[test]
fn a_job_goes_on_after_a_kill_and_is_watched_and_ended_by_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let vins: Vec<String> = (0..1500).map(|number| format!("WVWZZZ1JZ3W{number:06}")).collect();
    let spec = json!({ "target": { "vins": vins }, "desired": { "mode": "eco" }, "rate_per_second": 1000 });
    broker.ask("", "POST", "/v1/jobs", spec.clone(), 415);
    let made = broker.ask(JSON, "POST", "/v1/jobs", spec, 201).json();
    let job = format!("/v1/jobs/{}", made["id"].as_str().unwrap());
    eventually("it is under way", || broker.get(&job)["done"].as_u64() > Some(200));
    // Without a word: SIGKILL.
    drop(broker);
    let broker = Causewayd::start(folder.path());
    eventually("it is done", || broker.get(&job)["state"] == "done");
    let results = broker.ask("", "GET", &format!("{job}/results"), Value::Null, 200);
    assert_eq!(results.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = results.body.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let (counts, lines) = lines.split_last().unwrap();
    assert_eq!(counts, &json!({ "state": "done", "total": 1500, "done": 1500, "succeeded": 1500, "failed": {} }));
    let expected: Vec<Value> = vins.iter().map(|vin| json!({ "vin": vin, "outcome": "done", "version": 1 })).collect();
    assert_eq!(lines, expected, "each had its turn once");
    for (method, path, body, status) in [
        ("POST", format!("{job}/pause"), Value::Null, 409),
        ("POST", "/v1/jobs".to_owned(), json!({ "target": { "where": "soc < 5" }, "desired": {} }), 400),
        ("POST", "/v1/jobs".to_owned(), json!({ "target": { "group": "nowhere" }, "desired": { "a": 1 } }), 404),
        ("GET", "/v1/jobs/j1/results".to_owned(), Value::Null, 404),
    ] {
        broker.ask(JSON, method, &path, body, status);
    }
    let desired = r#"{"mode":"sport"}"#;
    let made = broker.cli(&["job", "make", "--where", "version = 1", "--desired", desired, "--rate", "5", "--json"]);
    let made: Value = serde_json::from_str(&said(&made)).unwrap();
    let id = made["id"].as_str().unwrap();
    assert!(said(&broker.cli(&["job", "pause", id])).contains("paused"));
    let list = said(&broker.cli(&["job", "list"]));
    assert!(list.contains("1500 of 1500") && list.contains("where version = 1"), "{list}");
    let resumed = said(&broker.cli(&["job", "resume", id]));
    assert!(["running", "resolving"].iter().any(|state| resumed.contains(state)), "{resumed}");
    assert!(said(&broker.cli(&["job", "cancel", id])).contains("cancelled"));
    let refused = broker.cli(&["job", "resume", id]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the job is over") && refused.status.code() == Some(1));
    let results = said(&broker.cli(&["job", "results", id]));
    assert!(results.lines().last().unwrap().contains(r#""state":"cancelled""#), "{results}");
    broker.terminate();
}
