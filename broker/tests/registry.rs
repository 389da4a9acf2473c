//! The registry of a broker that runs: over HTTP, by the command line, and what connected vehicles notice.
//!
//! Owns the real program as a child, and its administration listener. Nothing here waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::causewayd::start_dev;
use support::{Client, DEADLINE, connect, dial, packet, publish, publish_body};

const A: &str = "1M8GDM9AXKP042788";
const B: &str = "WVWZZZ1JZ3W386752";
/// Revoked connections are to end within this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A running broker with a data directory.
struct Causewayd {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Causewayd {
    fn start(data: &Path, environment: &[(&str, &str)]) -> Causewayd {
        let mut command = program();
        command.envs(environment.iter().copied()).args(["dev", "--port", "0", "--admin-port", "0", "--data"]).arg(data);
        let (child, address, admin) = start_dev(command);
        Causewayd { child, address, admin }
    }

    fn terminate(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < DEADLINE, "it does not end");
            std::thread::yield_now();
        }
    }

    /// Status and body of what is answered.
    fn send(&self, request: &str) -> (u16, String) {
        let mut stream = dial(self.admin);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn ask_with(&self, headers: &str, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, said) = self.send(&format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        (status, serde_json::from_str(&said).unwrap_or_default())
    }

    #[track_caller]
    fn ask(&self, method: &str, target: &str, body: Value, status: u16) -> Value {
        let (found, said) = self.ask_with("Content-Type: application/json\r\n", method, target, &body);
        assert_eq!(found, status, "{method} {target}: {said}");
        said
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        let url = format!("http://{}", self.admin);
        program().args(arguments).args(["--admin", &url]).output().unwrap()
    }
}

impl Drop for Causewayd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causewayd"));
    command.stdin(Stdio::null());
    command
}

/// What a tool prints that must succeed.
#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a tool says that must fail.
#[track_caller]
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A password file in which both vehicles are users.
fn users(folder: &Path) -> String {
    let path = folder.join("users").display().to_string();
    for vin in [A, B] {
        let user = format!("vehicle:{vin}");
        let mut command = program();
        command.args(["passwd", &path, "add", &user, "--password-stdin", "--no-scram"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"secret").unwrap();
        assert!(child.wait().unwrap().success());
    }
    path
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// CONNECT of MQTT 5 as a vehicle.
fn login(vin: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\xC2\x00\x00\x00".to_vec();
    for text in [vin, &format!("vehicle:{vin}"), "secret"] {
        body.extend(string(text));
    }
    packet(0x10, &body)
}

fn vehicle(broker: &Causewayd, vin: &str, reason: u8) -> Client<TcpStream> {
    let mut client = Client::new(dial(broker.address));
    client.send(&login(vin));
    client.expect_connack(reason);
    client
}

/// What is published to the group comes, from some moment on: the answer does not wait for the shards.
fn hears_the_group(broker: &Causewayd, client: &mut Client<TcpStream>) {
    let mut backend = Client::new(dial(broker.address));
    backend.connect("backend");
    let start = Instant::now();
    client.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while client.stream.peek(&mut [0]).is_err() {
        assert!(start.elapsed() < DEADLINE, "it hears nothing");
        backend.send(&publish("groups/eu/news", 0, b"hello"));
    }
    client.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    client.expect(0x30, &publish_body("news", b"hello"));
    // The rest of what was published, if there is any, comes before the answer.
    client.send(&[0xC0, 0]);
    while client.read_packet().0 != 0xD0 {}
}

#[test]
fn what_is_changed_over_http_is_noticed_at_once_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (data, users) = (folder.path().join("data"), users(folder.path()));
    let environment = [("CAUSEWAY_AUTHENTICATION__PASSWORD_FILE", users.as_str())];
    let strict = [environment[0], ("CAUSEWAY_REGISTRY__UNKNOWN_VEHICLES", "refuse")];
    let broker = Causewayd::start(&data, &strict);
    vehicle(&broker, A, 0x87).expect_end();
    broker.ask("PUT", "/v1/groups/eu", json!({ "description": "Europe" }), 201);
    broker.ask("POST", "/v1/vehicles", json!({ "vin": A }), 201);
    vehicle(&broker, A, 0x87).expect_end();
    broker.ask("POST", &format!("/v1/vehicles/{A}/activate"), Value::Null, 200);
    let mut client = vehicle(&broker, A, 0);
    client.subscribe("news", 0);
    broker.ask("PUT", &format!("/v1/groups/eu/members/{A}"), Value::Null, 204);
    hears_the_group(&broker, &mut client);

    let start = Instant::now();
    broker.ask("POST", &format!("/v1/vehicles/{A}/suspend"), Value::Null, 200);
    client.expect_disconnect(0x87);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    vehicle(&broker, A, 0x87).expect_end();
    broker.ask("PATCH", &format!("/v1/vehicles/{A}"), json!({ "state": "active", "note": "found" }), 200);
    let mut client = vehicle(&broker, A, 0);

    let start = Instant::now();
    let subject = format!("vehicle:{A}");
    broker.ask("POST", "/v1/bans", json!({ "subject": subject, "for_seconds": 60, "why": "loud" }), 201);
    client.expect_disconnect(0x98);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    vehicle(&broker, A, 0x8A).expect_end();
    broker.ask("DELETE", &format!("/v1/bans/{subject}"), Value::Null, 204);
    broker.terminate();

    let broker = Causewayd::start(&data, &environment);
    let kept = broker.ask("GET", &format!("/v1/vehicles/{A}"), Value::Null, 200);
    assert_eq!((&kept["state"], &kept["groups"], &kept["note"]), (&json!("active"), &json!(["eu"]), &json!("found")));
    // This one registers whom it does not know.
    vehicle(&broker, B, 0);
    assert_eq!(broker.ask("GET", "/v1/registry", Value::Null, 200)["vehicles"]["active"], 2);
    broker.ask("POST", "/v1/bans", json!({ "subject": "client:x" }), 201);
    let mut client = Client::new(dial(broker.address));
    client.send(&connect("x", 0));
    client.expect_connack(0x8A);
    broker.ask("POST", "/v1/bans", json!({ "subject": "address:127.0.0.0/8" }), 201);
    Client::new(dial(broker.address)).expect_end();
}

#[test]
fn who_may_ask_is_who_shows_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens").display().to_string();
    let token = |name: &str, role: &str| {
        said(&program().args(["admin-token", &tokens, "add", name, "--role", role]).output().unwrap()).trim().to_owned()
    };
    let (write, read) = (token("ann", "write"), token("scraper", "read"));
    let environment = [("CAUSEWAY_ADMIN__TOKEN_FILE", tokens.as_str())];
    let broker = Causewayd::start(&folder.path().join("data"), &environment);
    let ask = |token: &str, method: &str, target: &str, body: Value| {
        let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        broker.ask_with(&headers, method, target, &body).0
    };
    assert_eq!(ask(&write, "POST", "/v1/vehicles", json!({ "vin": A })), 201);
    assert_eq!(ask(&read, "GET", "/v1/vehicles", Value::Null), 200);
    assert_eq!(ask(&read, "POST", "/v1/vehicles", json!({ "vin": B })), 403);
    assert_eq!(ask(&read, "POST", "/v1/backup", json!({ "to": "/nowhere" })), 403);
    assert_eq!(ask("cwa_guessed", "GET", "/v1/vehicles", Value::Null), 401);
    assert_eq!(ask("cwa_guessed", "GET", "/v1/nothing", Value::Null), 401);
    for open in ["/metrics", "/live", "/ready", "/v1/openapi.json"] {
        assert_eq!(broker.ask_with("", "GET", open, &Value::Null).0, 200, "{open}");
    }
    let (status, problem) = broker.ask_with("", "GET", "/v1/vehicles", &Value::Null);
    assert_eq!((status, &problem["status"], &problem["title"]), (401, &json!(401), &json!("Unauthorized")));

    let file = folder.path().join("ann.token");
    std::fs::write(&file, &write).unwrap();
    let with = ["vehicle", "list", "--token-file", file.to_str().unwrap()];
    assert!(said(&broker.cli(&with)).contains(A));
    assert!(refused(&broker.cli(&["vehicle", "list"])).contains("wants to know who asks"));
    said(&program().args(["admin-token", &tokens, "remove", "ann"]).output().unwrap());
    assert_eq!(ask(&write, "GET", "/v1/vehicles", Value::Null), 401, "at once");
}

#[test]
fn an_operators_certificate_is_as_good_as_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let pki = |arguments: &[&str]| {
        let mut command = program();
        said(&command.arg("pki").arg(arguments[0]).arg(path("pki")).args(&arguments[1..]).output().unwrap())
    };
    pki(&["init"]);
    pki(&["server", "--name", "localhost"]);
    pki(&["operator", "ann"]);
    pki(&["operator", "bob"]);
    pki(&["service", "telemetry"]);
    pki(&["crl"]);
    let config = "[[listener]]\nbind = '127.0.0.1:0'\n[admin]\nbind = '127.0.0.1:0'\n[admin.tls]\ncertificate_file = 'pki/servers/localhost.crt'\n\
         key_file = 'pki/servers/localhost.key'\nclient_ca_file = 'pki/ca.crt'\ncrl_file = 'pki/crl.pem'\n[log]\nformat = 'json'\n";
    std::fs::write(path("causeway.toml"), config).unwrap();
    let mut child = program().args(["run", "--config", &path("causeway.toml")]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let admin = lines.find_map(|line| {
        let line: Value = serde_json::from_str(&line).ok()?;
        let is_admin = line["target"] == "causeway::admin" && line.to_string().contains("listening");
        is_admin.then(|| line["address"].as_str().unwrap_or_default().to_owned())
    });
    let port = admin.unwrap().rsplit_once(':').unwrap().1.to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    let url = format!("https://localhost:{port}");
    let ask = |arguments: &[&str], who: Option<(&str, &str)>| {
        let mut command = program();
        command.args(arguments).args(["--admin", &url, "--ca", &path("pki/ca.crt")]);
        if let Some((kind, name)) = who {
            let file = |end: &str| path(&format!("pki/{kind}/{name}.{end}"));
            command.args(["--certificate", &file("crt"), "--key", &file("key")]);
        }
        command.output().unwrap()
    };
    let (ann, telemetry) = (Some(("operators", "ann")), Some(("services", "telemetry")));
    let start = Instant::now();
    while String::from_utf8_lossy(&ask(&["vehicle", "list"], ann).stderr).contains("starting") {
        assert!(start.elapsed() < DEADLINE);
    }
    assert_eq!(said(&ask(&["vehicle", "add", A], ann)), "added 1\n");
    assert!(said(&ask(&["vehicle", "list"], ann)).contains(A));
    for who in [None, telemetry] {
        assert!(refused(&ask(&["vehicle", "list"], who)).contains("wants to know who asks"));
    }
    let bob = Some(("operators", "bob"));
    said(&ask(&["vehicle", "list"], bob));
    pki(&["revoke", "--operator", "bob"]);
    assert!(refused(&ask(&["vehicle", "list"], bob)).contains("wants to know who asks"), "its certificate is revoked");
    said(&ask(&["ban", "add", "operator:ann"], ann));
    assert!(refused(&ask(&["vehicle", "list"], ann)).contains("wants to know who asks"), "at once");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_page_in_a_browser_of_this_machine_may_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(&folder.path().join("data"), &[]);
    let body = json!({ "vin": A }).to_string();
    let post = |host: &str, kind: &str| {
        let length = body.len();
        let head =
            format!("POST /v1/vehicles HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nConnection: close\r\n");
        broker.send(&format!("{head}Content-Length: {length}\r\n\r\n{body}")).0
    };
    assert_eq!(post("localhost", "text/plain"), 415);
    assert_eq!(post("rebound.example", "application/json"), 403);
    assert_eq!(post("localhost", "application/json"), 201);
    let long = format!("{{\"vin\":\"{}\"}}", "x".repeat(5 << 20));
    let head =
        "POST /v1/vehicles HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let mut stream = dial(broker.admin);
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", long.len()).as_bytes()).unwrap();
    // It need not take all of it to say no.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn the_command_line_asks_the_broker_or_opens_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let offline = |arguments: &[&str]| program().args(arguments).arg("--data").arg(&data).output().unwrap();
    // Before the broker's first start.
    said(&offline(&["group", "add", "eu", "--description", "Europe"]));
    let list = folder.path().join("vins");
    std::fs::write(&list, format!("# two\n{A}\n\n{B}\n")).unwrap();
    let list = list.to_str().unwrap();
    assert_eq!(said(&offline(&["vehicle", "add", "--from", list, "--group", "eu"])), "added 2\n");
    assert!(refused(&offline(&["vehicle", "add", A])).contains("is in the registry already"));
    assert_eq!(said(&offline(&["vehicle", "add", A, "--keep-known"])), "added 0, 1 were known\n");

    let broker = Causewayd::start(&data, &[]);
    let in_use = refused(&offline(&["vehicle", "list"]));
    assert!(in_use.contains("is in use by process") && in_use.contains("--admin"), "{in_use}");
    assert_eq!(said(&broker.cli(&["vehicle", "activate", A, B])), "active: 2\n");
    let shown = said(&broker.cli(&["vehicle", "list"]));
    let lines: Vec<_> = shown.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>()).collect();
    assert_eq!(lines, [["VIN", "STATE", "GROUPS"], [A, "active", "eu"], [B, "active", "eu"]]);
    assert_eq!(said(&broker.cli(&["vehicle", "group", "remove", "eu", B])), "members of eu: 1\n");
    let token = said(&broker.cli(&["vehicle", "token", A, "--for", "1h"]));
    assert!(token.starts_with(&format!("{A}.")), "{token}");
    said(&broker.cli(&["vehicle", "note", A, "test bench"]));
    let shown: Value = serde_json::from_str(&said(&broker.cli(&["vehicle", "show", A, "--json"]))).unwrap();
    assert_eq!((&shown["note"], shown["enrolment_token"]["used_at_ms"].is_null()), (&json!("test bench"), true));
    assert!(said(&broker.cli(&["vehicle", "show", A])).contains("not used, good until 20"));
    said(&broker.cli(&["ban", "add", "client:a/b", "--for", "1h", "--why", "flaps"]));
    assert!(said(&broker.cli(&["ban", "list"])).contains("flaps"));
    said(&broker.cli(&["ban", "remove", "client:a/b"]));
    assert!(refused(&broker.cli(&["vehicle", "show", "x"])).contains("a VIN has"));
    let said_no = refused(&broker.cli(&["group", "remove", "eu"]));
    assert!(said_no.contains("has a member"), "{said_no}");

    let backup = folder.path().join("backup");
    let url = format!("http://{}", broker.admin);
    let mut command = program();
    said(&command.arg("backup").args([&data, &backup]).args(["--admin", &url]).output().unwrap());
    said(&broker.cli(&["vehicle", "retire", A]));
    broker.terminate();

    assert!(refused(&offline(&["vehicle", "activate", A])).contains("is retired, which is final"));
    let restored = folder.path().join("restored");
    said(&program().arg("restore").args([&backup, &restored]).output().unwrap());
    let inspected = said(&program().arg("inspect").arg(&restored).output().unwrap());
    assert!(inspected.contains("2 active") && inspected.contains("1 groups"), "{inspected}");
    let shown = program().args(["vehicle", "show", A, "--data"]).arg(&restored).output().unwrap();
    assert!(said(&shown).contains("active"));
    let cold = folder.path().join("cold");
    said(&program().arg("backup").args([&data, &cold]).output().unwrap());
    assert!(said(&program().arg("inspect").arg(&cold).output().unwrap()).contains("1 retired"));

    // A damaged registry is neither backed up nor started on.
    let file = data.join("registry.redb");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let why = refused(&program().arg("backup").args([&data, &folder.path().join("no")]).output().unwrap());
    assert!(why.contains("registry.redb") && why.contains("no backup was made"), "{why}");
    let run = program().args(["dev", "--port", "0", "--data"]).arg(&data).output().unwrap();
    assert!(refused(&run).contains("The broker does not start without knowing who may connect"));
}
