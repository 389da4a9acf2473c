//! Looking at data directories, backing them up and restoring them: the real program on real folders.
//!
//! Owns running it as a child. Nothing here waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use support::causewayd::start_dev;
use support::{Client, DEADLINE, dial, eventually, packet, publish};

/// A running broker with a data directory.
struct Causewayd {
    child: Child,
    address: SocketAddr,
    /// The URL of the administration listener.
    admin: String,
}

impl Causewayd {
    fn start(data: &Path) -> Causewayd {
        let mut command = program();
        command.args(["dev", "--port", "0", "--admin-port", "0", "--data"]).arg(data);
        let (child, address, admin) = start_dev(command);
        let admin = format!("http://{admin}");
        Causewayd { child, address, admin }
    }

    /// A client with a session that stays.
    fn client(&self, id: &str) -> Client<TcpStream> {
        let mut client = Client::new(dial(self.address));
        let mut body = b"\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x0e\x10".to_vec();
        body.extend((id.len() as u16).to_be_bytes());
        body.extend(id.as_bytes());
        client.send(&packet(0x10, &body));
        let (first, body) = client.read_packet();
        assert_eq!((first, body[1]), (0x20, 0));
        client
    }

    fn terminate(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < DEADLINE, "it does not end");
            std::thread::yield_now();
        }
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

fn run(arguments: &[&str], paths: &[&Path]) -> Output {
    let (command, options) = arguments.split_first().unwrap();
    program().arg(command).args(paths).args(options).output().unwrap()
}

/// Runs a tool that must succeed; what it says.
#[track_caller]
fn said(arguments: &[&str], paths: &[&Path]) -> String {
    let output = run(arguments, paths);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(arguments: &[&str], folder: &Path) -> serde_json::Value {
    serde_json::from_str(&said(arguments, &[folder])).unwrap()
}

/// Runs a tool that must fail; what it says, on both outputs.
#[track_caller]
fn refused(arguments: &[&str], paths: &[&Path]) -> String {
    let output = run(arguments, paths);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

const QUEUED: u16 = 30;

/// A broker that stopped with messages for a vehicle that is away, and one retained.
fn stopped_with_a_queue(data: &Path) {
    let broker = Causewayd::start(data);
    let mut vehicle = broker.client("vehicle");
    vehicle.subscribe("cmd/#", 1);
    drop(vehicle);
    let mut backend = broker.client("backend");
    for number in 1..=QUEUED {
        let mut message = publish("cmd/go", number, &number.to_be_bytes());
        // The first is retained, too.
        message[0] |= u8::from(number == 1);
        backend.send(&message);
        assert_eq!(backend.read_packet().0, 0x40);
    }
    broker.terminate();
}

/// A broker on the folder delivers the queue.
fn delivers_the_queue(data: &Path) {
    delivers(data, QUEUED);
}

/// A broker on the folder delivers messages 1 to `last`.
fn delivers(data: &Path, last: u16) {
    let broker = Causewayd::start(data);
    let mut vehicle = broker.client("vehicle");
    for number in 1..=last {
        let (first, body) = vehicle.read_packet();
        assert_eq!(first & 0xF6, 0x32, "{first:#x}");
        assert!(body.ends_with(&number.to_be_bytes()), "{number}: {body:?}");
        vehicle.send(&packet(0x40, &body[8..10]));
    }
    broker.terminate();
}

/// The bytes of all files but locks.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push((path.clone(), std::fs::read(&path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

fn last_segment(data: &Path) -> PathBuf {
    let entries = std::fs::read_dir(data.join("shard-0/log")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

#[test]
fn inspect_shows_the_queue_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    stopped_with_a_queue(&data);
    let before = files(&data);

    let report = json(&["inspect", "--json", "--verify", "--client", "vehicle", "--limit", "3"], &data);
    let shard = &report["shards"][0];
    assert_eq!(shard["verified"]["damage"], serde_json::json!([]));
    assert!(shard["verified"]["records"].as_u64().unwrap() >= u64::from(QUEUED), "{shard:#}");
    assert_eq!(shard["sessions"]["count"], 2);
    assert_eq!(shard["sessions"]["attached"], 0);
    assert_eq!(shard["sessions"]["queued_messages"], QUEUED);
    assert_eq!(shard["sessions"]["largest_queues"][0]["client"], "vehicle");
    assert_eq!(shard["retained"]["messages"], 1);
    let client = &shard["client"];
    assert_eq!(client["subscriptions"], serde_json::json!([{ "filter": "cmd/#", "qos": 1 }]));
    assert_eq!(client["bulk"]["messages"], QUEUED);
    assert_eq!(client["urgent"]["messages"], 0);
    let first = client["bulk"]["first"].as_array().unwrap();
    assert_eq!(first.len(), 3);
    for message in first {
        assert_eq!((&message["topic"], &message["bytes"], &message["qos"]), (&"cmd/go".into(), &8.into(), &1.into()));
    }

    let table = said(&["inspect", "--client", "vehicle"], &[&data]);
    assert!(table.contains("sessions: 2, of which 0 had a connection; 30 queued messages"), "{table}");
    assert!(table.contains("bulk queue: 30 messages") && table.contains("and 20 more"), "{table}");
    let missing = refused(&["inspect", "--client", "nobody"], &[&data]);
    assert!(missing.contains("no session of the client \"nobody\""), "{missing}");
    assert!(files(&data) == before, "a file has changed");
    delivers_the_queue(&data);
}

#[test]
fn a_crash_leaves_who_was_connected() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let mut client = broker.client("vehicle");
    client.subscribe("t", 1);
    // Dropped, it is killed.
    drop(broker);
    let report = json(&["inspect", "--json"], folder.path());
    assert_eq!(report["shards"][0]["sessions"]["attached"], 1, "{report:#}");
}

#[test]
fn a_damaged_byte_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    stopped_with_a_queue(&data);
    let segment = last_segment(&data);
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|window| window == b"cmd/go").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let output = run(&["inspect", "--verify", "--json"], &[&data]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let damage = &report["shards"][0]["verified"]["damage"][0];
    assert_eq!(damage["file"], segment.to_str().unwrap());
    // The record's header is before its content.
    let offset = damage["offset"].as_u64().unwrap() as usize;
    assert!(offset < at && at - offset < 200, "{offset} for {at}");
    let table = refused(&["inspect", "--verify"], &[&data]);
    assert!(table.contains(&format!("damage: {} at byte {offset}: ", segment.display())), "{table}");

    let to = folder.path().join("to");
    let refusal = refused(&["backup"], &[&data, &to]);
    assert!(refusal.contains("no backup was made of it"), "{refusal}");
    assert!(!to.exists() && !folder.path().join("to.partial").exists());
}

#[test]
fn a_backup_is_restored_and_delivers_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let [data, to, again] = ["data", "backup/monday", "again"].map(|name| folder.path().join(name));
    stopped_with_a_queue(&data);
    let told = said(&["backup"], &[&data, &to]);
    assert!(told.starts_with(&format!("backed up to {}: 1 segments with ", to.display())), "{told}");
    let report = json(&["inspect", "--json", "--verify"], &to);
    assert_eq!(report["shards"][0]["sessions"]["queued_messages"], QUEUED);
    let layout = |folder: &Path| std::fs::read(folder.join("causeway.shards")).unwrap();
    assert_eq!(layout(&to), layout(&data));

    let refusal = refused(&["backup"], &[&data, &to]);
    assert!(refusal.contains("is not empty"), "{refusal}");
    let refusal = refused(&["restore"], &[&to, &data]);
    assert!(refusal.contains("is not empty"), "{refusal}");

    let told = said(&["restore"], &[&to, &again]);
    assert!(told.starts_with(&format!("restored to {}: ", again.display())), "{told}");
    delivers_the_queue(&again);
    // The backup is as it was.
    assert_eq!(json(&["inspect", "--json", "--verify"], &to)["shards"], report["shards"]);

    let segment = last_segment(&to);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 60] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let third = folder.path().join("third");
    let refusal = refused(&["restore"], &[&to, &third]);
    assert!(refusal.contains("nothing was restored") && refusal.contains(segment.to_str().unwrap()), "{refusal}");
    assert!(!third.exists());
}

#[test]
fn a_running_broker_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let broker = Causewayd::start(&data);
    let expected = format!("{} is in use by process {}: stop that one first", data.display(), broker.child.id());
    let refusal = refused(&["inspect"], &[&data]);
    assert!(refusal.contains(&expected), "{refusal}");
    let refusal = refused(&["backup"], &[&data, &folder.path().join("to")]);
    assert!(refusal.contains(&expected) && refusal.contains("give --admin"), "{refusal}");
    broker.terminate();
    let refusal = refused(&["inspect"], &[folder.path()]);
    assert!(refusal.contains("is neither a data directory nor a backup"), "{refusal}");
}

/// Answers one request; what was asked.
fn answers(status: &'static str, body: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"}") {
            let mut chunk = [0; 1024];
            let count = stream.read(&mut chunk).unwrap();
            assert!(count > 0, "it is cut short");
            asked.extend_from_slice(&chunk[..count]);
        }
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}").unwrap();
        String::from_utf8(asked).unwrap()
    });
    (url, server)
}

#[test]
fn a_running_broker_is_asked_for_its_backup() {
    let (url, server) = answers("200 OK", "{\"records\":1}");
    let told = said(&["backup", "--admin", &url], &[Path::new("/data"), Path::new("/to")]);
    assert_eq!(told, "backed up to /to {\"records\":1}\n");
    let asked = server.join().unwrap();
    assert!(asked.starts_with("POST /v1/backup HTTP/1.1\r\n") && asked.ends_with("{\"to\":\"/to\"}"), "{asked}");

    let (url, server) = answers("404 Not Found", "");
    let refusal = refused(&["backup", "--admin", &url], &[Path::new("/data"), Path::new("/to")]);
    assert!(refusal.contains("makes no backups"), "{refusal}");
    server.join().unwrap();
    let (url, server) = answers("507 Insufficient Storage", "the disk is full");
    let refusal = refused(&["backup", "--admin", &url], &[Path::new("/data"), Path::new("/to")]);
    assert!(refusal.contains("status 507") && refusal.contains("the disk is full"), "{refusal}");
    server.join().unwrap();
}

#[test]
fn a_broker_is_backed_up_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let [data, to, again] = ["data", "backup/monday", "again"].map(|name| folder.path().join(name));
    let broker = Causewayd::start(&data);
    let mut vehicle = broker.client("vehicle");
    vehicle.subscribe("cmd/#", 1);
    drop(vehicle);
    let (acknowledged, stop) = (AtomicU16::new(0), AtomicBool::new(false));
    let before = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut backend = broker.client("backend");
            for number in 1.. {
                backend.send(&publish("cmd/go", number, &number.to_be_bytes()));
                assert_eq!(backend.read_packet().0, 0x40);
                acknowledged.store(number, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) || number == 50_000 {
                    break;
                }
            }
        });
        let reached = |count| {
            eventually("messages are acknowledged", || {
                acknowledged.load(Ordering::SeqCst) >= count || publisher.is_finished()
            });
            acknowledged.load(Ordering::SeqCst)
        };
        let before = reached(QUEUED);
        let told = said(&["backup", "--admin", &broker.admin], &[&data, &to]);
        // It went on meanwhile, and does so afterwards.
        assert!(reached(acknowledged.load(Ordering::SeqCst) + 1) > before, "{told}");
        stop.store(true, Ordering::SeqCst);
        assert!(told.starts_with(&format!("backed up to {} {{\"records\":", to.display())), "{told}");
        let refusal = refused(&["backup", "--admin", &broker.admin], &[&data, &to]);
        assert!(refusal.contains("status 409") && refusal.contains("is not empty"), "{refusal}");
        let refusal = refused(&["backup", "--admin", &broker.admin], &[&data, &data.join("to")]);
        assert!(refusal.contains("status 400") && refusal.contains("name a folder elsewhere"), "{refusal}");
        before
    });
    broker.terminate();

    said(&["restore"], &[&to, &again]);
    let layout = |folder: &Path| std::fs::read(folder.join("causeway.shards")).unwrap();
    assert_eq!(layout(&again), layout(&data));
    let report = json(&["inspect", "--json", "--verify"], &again);
    let queued = report["shards"][0]["sessions"]["queued_messages"].as_u64().unwrap();
    assert!(queued >= u64::from(before), "{queued} of {before}");
    delivers(&again, queued as u16);
}

/// One request to an administration listener; the status, and all that is answered.
fn asked(admin: &str, request: &str) -> (u16, String) {
    let mut stream = dial(admin.strip_prefix("http://").unwrap().parse().unwrap());
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[test]
fn what_is_no_request_for_a_backup_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(&folder.path().join("data"));
    let post = |kind: &str, body: &str| {
        let length = body.len();
        let head =
            format!("POST /v1/backup HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n");
        asked(&broker.admin, &format!("{head}Content-Length: {length}\r\n\r\n{body}"))
    };
    let to = folder.path().join("to");
    let good = serde_json::json!({ "to": to }).to_string();
    let long = format!("{{\"to\":\"/{}\"}}", "x".repeat(20_000));
    for (kind, body, status) in [
        ("text/plain", good.as_str(), 415),
        ("application/json", "", 400),
        ("application/json", "{\"to\":\"to\"}", 400),
        ("application/json", "{\"to\":\"/to\",\"from\":1}", 400),
        ("application/json", &long, 413),
    ] {
        let (answered, answer) = post(kind, body);
        assert_eq!(answered, status, "{answer}");
        assert!(!to.exists());
    }
    assert_eq!(asked(&broker.admin, "GET /v1/backup HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").0, 405);
    let (status, answer) = post("application/json", &good);
    assert_eq!(status, 200, "{answer}");
    let made: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(made["entries"], 0, "{made}");
    said(&["inspect", "--verify"], &[&to]);
}

#[test]
fn a_copy_is_not_made_in_what_it_is_a_copy_of() {
    let folder = tempfile::tempdir().unwrap();
    let [data, to] = ["data", "to"].map(|name| folder.path().join(name));
    stopped_with_a_queue(&data);
    let before = files(&data);
    for target in [data.join("in"), data.clone(), data.join("a/b/in")] {
        let refusal = refused(&["backup"], &[&data, &target]);
        assert!(refusal.contains("name a folder elsewhere"), "{refusal}");
    }
    assert!(files(&data) == before && !data.join("a").exists());
    said(&["backup"], &[&data, &to.join(".")]);
    let refusal = refused(&["restore"], &[&to, &to.join("in")]);
    assert!(refusal.contains("name a folder elsewhere"), "{refusal}");

    let broker = Causewayd::start(&data);
    let refusal = refused(&["backup", "--admin", &broker.admin], &[&data, &data.join("in")]);
    assert!(refusal.contains("status 400") && refusal.contains("name a folder elsewhere"), "{refusal}");
    said(&["backup", "--admin", &broker.admin], &[&data, &folder.path().join("other/.")]);
    broker.terminate();
    said(&["inspect", "--verify"], &[&folder.path().join("other")]);
}

/// A start, and every tool, says that what was acknowledged is not there.
#[track_caller]
fn nobody_takes_it(data: &Path, why: &str) {
    let told = refused(&["inspect", "--verify"], &[data]);
    assert!(told.contains(why), "{told}");
    let to = data.with_extension("to");
    let told = refused(&["backup"], &[data, &to]);
    assert!(told.contains(why) && !to.exists(), "{told}");
    let told = refused(&["dev", "--port", "0", "--admin-port", "0", "--data", data.to_str().unwrap()], &[]);
    assert!(told.contains(why) && told.contains("move it away"), "{told}");
}

#[test]
fn a_log_that_is_lost_or_cut_short_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    stopped_with_a_queue(&data);
    let segment = last_segment(&data);
    let intact = std::fs::read(&segment).unwrap();
    for cut in [4096, 5000] {
        std::fs::write(&segment, &intact[..cut]).unwrap();
        nobody_takes_it(&data, "was cut short");
    }
    std::fs::remove_file(&segment).unwrap();
    nobody_takes_it(&data, "holds no segment of the log");
    std::fs::write(&segment, &intact).unwrap();
    delivers_the_queue(&data);
}

#[test]
fn a_folded_state_of_another_broker_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [data, other] = ["data", "other"].map(|name| folder.path().join(name));
    stopped_with_a_queue(&data);
    stopped_with_a_queue(&other);
    let [ours, theirs] = [&data, &other].map(|folder| folder.join("shard-0/state.redb"));
    let intact = std::fs::read(&ours).unwrap();
    std::fs::copy(theirs, &ours).unwrap();
    nobody_takes_it(&data, "they come from different brokers");
    std::fs::write(&ours, intact).unwrap();
    delivers_the_queue(&data);
}
