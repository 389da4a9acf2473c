//! Shadows of a broker that runs: over HTTP and MQTT together, followed, by the command line, and after a restart.
//!
//! Owns the real program as a child, and its administration listener. Nothing here waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Client, DEADLINE, connect_as, dial, eventually, publish, publish_body};

const A: &str = "1M8GDM9AXKP042788";
const B: &str = "WVWZZZ1JZ3W386752";
const JSON: &str = "Content-Type: application/json\r\n";

/// A running broker of several shards, with a data directory.
struct Causewayd {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

/// What was answered.
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn header(&self, name: &str) -> &str {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

impl Causewayd {
    fn start(folder: &Path) -> Causewayd {
        Causewayd::start_with(folder, &[])
    }

    fn start_with(folder: &Path, environment: &[(&str, &str)]) -> Causewayd {
        let users = users(folder);
        let mut command = program();
        command.args(["dev", "--port", "0", "--admin-port", "0", "--data"]).arg(folder.join("data"));
        command.env("CAUSEWAY_BROKER__SHARDS", "3").env("CAUSEWAY_AUTHENTICATION__PASSWORD_FILE", users);
        command.envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let source = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        // The thread reads on, so that there is somebody to print to.
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let after = |prefix: &str, suffix: &str| loop {
            let line = lines.recv_timeout(DEADLINE).expect("it starts");
            if let Some(said) = line.trim().strip_prefix(prefix).and_then(|said| said.strip_suffix(suffix)) {
                break said.parse().unwrap();
            }
        };
        let (address, admin) = (after("mqtt://", ""), after("http://", "/metrics"));
        Causewayd { child, address, admin }
    }

    fn terminate(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("it ends", || self.child.try_wait().unwrap().is_some());
    }

    fn send(&self, headers: &str, method: &str, target: &str, body: &[u8]) -> Reply {
        let mut stream = dial(self.admin);
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: answer[end + 4..].to_vec() }
    }

    #[track_caller]
    fn ask(&self, headers: &str, method: &str, target: &str, body: Value, status: u16) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = self.send(headers, method, target, body.as_bytes());
        assert_eq!(reply.status, status, "{method} {target}: {}", String::from_utf8_lossy(&reply.body));
        reply
    }

    #[track_caller]
    fn get(&self, target: &str) -> Value {
        self.ask("", "GET", target, Value::Null, 200).json()
    }

    /// A stream of events, once it has begun.
    fn follow(&self, target: &str) -> Events {
        let mut stream = dial(self.admin);
        write!(stream, "GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut events = Events(BufReader::new(stream));
        assert!(events.line().contains("200"), "{target}");
        while events.line() != "retry: 3000" {}
        events
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        program().args(arguments).args(["--admin", &format!("http://{}", self.admin)]).output().unwrap()
    }
}

impl Drop for Causewayd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Events(BufReader<TcpStream>);

impl Events {
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the stream goes on");
        line.trim_end().to_owned()
    }

    /// The next event: its id and its data.
    fn next(&mut self) -> (String, Value) {
        while self.line() != "event: shadow" {}
        let id = self.line().strip_prefix("id: ").unwrap().to_owned();
        let data = self.line();
        (id, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causewayd"));
    command.stdin(Stdio::null());
    command
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A password file in which both vehicles are users.
fn users(folder: &Path) -> String {
    let path = folder.join("users").display().to_string();
    for vin in [A, B].into_iter().filter(|_| !Path::new(&path).exists()).collect::<Vec<_>>() {
        let user = format!("vehicle:{vin}");
        let mut command = program();
        command.args(["passwd", &path, "add", &user, "--password-stdin", "--no-scram"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"secret").unwrap();
        assert!(child.wait().unwrap().success());
    }
    path
}

fn vehicle(broker: &Causewayd, vin: &str) -> Client<TcpStream> {
    let mut client = Client::new(dial(broker.address));
    client.send(&connect_as(vin, &format!("vehicle:{vin}"), "secret"));
    client.expect_connack(0);
    client
}

/// The payload of the next message on a topic. Others go by.
fn message(client: &mut Client<TcpStream>, topic: &str) -> Value {
    loop {
        let (first, body) = client.read_packet();
        let head = publish_body(topic, b"");
        if first & 0xF6 == 0x30 && body.starts_with(&head[..head.len() - 1]) {
            let begin = body.iter().position(|byte| *byte == b'{').unwrap();
            return serde_json::from_slice(&body[begin..]).unwrap();
        }
    }
}

/// Publishes with QoS 1, and waits for the acknowledgement.
fn report(client: &mut Client<TcpStream>, topic: &str, payload: &Value) {
    client.send(&publish(topic, 7, payload.to_string().as_bytes()));
    while client.read_packet().0 != 0x40 {}
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
        assert_eq!((id.as_str(), &event["vin"], &event["name"]), ("1", &json!(A), &Value::Null));
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
