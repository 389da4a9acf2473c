//! What survives: the real program on a real folder, killed and started again.
//!
//! Owns running it as a child. Nothing here waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use support::{Client, DEADLINE, dial, packet, publish};

/// A running broker with a data directory.
struct Causewayd {
    child: Child,
    address: SocketAddr,
    admin: String,
    /// What it logs.
    lines: mpsc::Receiver<String>,
    /// Kept, so that there is somebody to print to.
    _said: mpsc::Receiver<String>,
}

impl Causewayd {
    fn start(data: &Path) -> Causewayd {
        Causewayd::start_with(data, &[])
    }

    /// Starts it and waits until it serves.
    fn start_with(data: &Path, variables: &[(&str, &str)]) -> Causewayd {
        let mut command = command(data);
        command.envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        let said = lines_of(child.stdout.take().unwrap());
        let find = |start: &str| loop {
            let line = said.recv_timeout(DEADLINE).expect("it starts");
            if let Some(rest) = line.trim().strip_prefix(start) {
                return rest.to_owned();
            }
        };
        let address = find("mqtt://").parse().unwrap();
        let admin = find("http://").replace("/metrics", "");
        Causewayd { child, address, admin, lines, _said: said }
    }

    /// A client with a session that stays, and whether there was one.
    fn client(&self, id: &str) -> (Client<TcpStream>, bool) {
        let mut client = Client::new(dial(self.address));
        client.send(&connect_to_stay(id));
        let (first, body) = client.read_packet();
        assert_eq!((first, body[1]), (0x20, 0));
        (client, body[0] == 1)
    }

    /// As the power button would end it, as far as the process is concerned.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as the system does at shutdown; returns the exit code.
    fn terminate(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        exit_code(&mut self.child)
    }

    /// Waits for a line of its log.
    fn logs(&self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("it does not log {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    fn get(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = dial(self.admin.parse().unwrap());
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// One with a label for the shard is that of the only one.
    fn metric(&self, name: &str) -> f64 {
        let page = self.get("metrics");
        let value =
            |rest: &str| rest.strip_prefix("{shard=\"0\"}").unwrap_or(rest).strip_prefix(' ').map(str::to_owned);
        let line = page.lines().find_map(|line| value(line.strip_prefix(name)?));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }
}

impl Drop for Causewayd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causewayd"));
    command.args(["dev", "--port", "0", "--admin-port", "0", "--data"]).arg(data).stdin(Stdio::null());
    command
}

/// Lines as they come. A thread reads them, so that nothing fills up.
fn lines_of(source: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[track_caller]
fn exit_code(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status.code(),
            None => assert!(start.elapsed() < DEADLINE, "it does not end"),
        }
        std::thread::yield_now();
    }
}

/// Starts it where it cannot start; returns what it says.
fn refusal(data: &Path) -> String {
    let output = command(data).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

/// CONNECT of MQTT 5 without Clean Start, for a session of an hour.
fn connect_to_stay(id: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x0e\x10".to_vec();
    body.extend((id.len() as u16).to_be_bytes());
    body.extend(id.as_bytes());
    packet(0x10, &body)
}

fn publish_kept(client: &mut Client<TcpStream>, topic: &str, packet_id: u16, payload: &[u8]) {
    client.send(&publish(topic, packet_id, payload));
    let (first, body) = client.read_packet();
    assert_eq!((first, &body[..2]), (0x40, &packet_id.to_be_bytes()[..]));
    assert!(body.get(2).is_none_or(|reason| *reason < 0x80), "{body:?}");
}

/// The payload of the next PUBLISH of QoS 1, which is acknowledged.
fn receive(client: &mut Client<TcpStream>, topic: &str) -> Vec<u8> {
    let (first, body) = client.read_packet();
    assert_eq!(first & 0xF6, 0x32, "{first:#x}");
    assert_eq!(&body[2..2 + topic.len()], topic.as_bytes());
    let rest = &body[2 + topic.len()..];
    client.send(&packet(0x40, &rest[..2]));
    assert_eq!(rest[2], 0, "no properties");
    rest[3..].to_vec()
}

#[test]
fn a_queue_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let broker = Causewayd::start(&data);
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(!known);
    vehicle.subscribe("cmd/#", 1);
    drop(vehicle);
    let (mut backend, _) = broker.client("backend");
    for number in 1..=100u16 {
        publish_kept(&mut backend, "cmd/go", number, &number.to_be_bytes());
    }
    broker.kill();

    let broker = Causewayd::start(&data);
    assert!(broker.logs("the log is replayed").contains("records=10"));
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(known);
    for number in 1..=100u16 {
        assert_eq!(receive(&mut vehicle, "cmd/go"), number.to_be_bytes());
    }
    // Once this is answered, all acknowledgements have been heard.
    vehicle.send(&[0xC0, 0]);
    vehicle.expect(0xD0, &[]);
    assert_eq!(broker.terminate(), Some(0));

    // What was acknowledged is not sent again.
    let broker = Causewayd::start(&data);
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(known);
    let (mut backend, known) = broker.client("backend");
    assert!(known);
    publish_kept(&mut backend, "cmd/go", 1, b"next");
    assert_eq!(receive(&mut vehicle, "cmd/go"), b"next");
}

#[test]
fn retained_messages_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let (mut client, _) = broker.client("publisher");
    let mut retained = publish("status/1", 1, b"online");
    retained[0] |= 1;
    client.send(&retained);
    assert_eq!(client.read_packet().0, 0x40);
    broker.kill();

    let broker = Causewayd::start(folder.path());
    let (mut client, _) = broker.client("subscriber");
    client.send(&support::subscribe("status/+", 1));
    let mut packets = [client.read_packet(), client.read_packet()];
    packets.sort();
    assert_eq!((packets[0].0, packets[1].0), (0x33, 0x90));
    assert!(packets[0].1.ends_with(b"online"));
}

#[test]
fn many_publishers_at_once_lose_nothing_that_was_acknowledged() {
    const PUBLISHERS: u16 = 8;
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let (mut vehicle, _) = broker.client("vehicle");
    vehicle.subscribe("t", 1);
    drop(vehicle);
    // Each goes on until the broker is gone, and knows how many were acknowledged.
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (mut client, _) = broker.client(&format!("publisher-{publisher}"));
            std::thread::spawn(move || {
                use std::io::{Read, Write};
                for number in 1..1000u16 {
                    let payload = [publisher.to_be_bytes(), number.to_be_bytes()].concat();
                    let sent = client.stream.write_all(&publish("t", number, &payload));
                    if sent.and_then(|()| client.stream.read_exact(&mut [0; 4])).is_err() {
                        return number - 1;
                    }
                }
                999
            })
        })
        .collect();
    let start = Instant::now();
    while broker.metric("causeway_log_records_total") < 200.0 {
        assert!(start.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
    broker.kill();
    let acknowledged: Vec<u16> = publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect();

    let broker = Causewayd::start(folder.path());
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(known);
    let mut next = vec![1u16; PUBLISHERS.into()];
    while next.iter().zip(&acknowledged).any(|(next, acknowledged)| next <= acknowledged) {
        let payload = receive(&mut vehicle, "t");
        let publisher = usize::from(u16::from_be_bytes([payload[0], payload[1]]));
        assert_eq!(u16::from_be_bytes([payload[2], payload[3]]), next[publisher], "in order and once");
        next[publisher] += 1;
    }
}

#[test]
fn a_second_broker_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let said = refusal(folder.path());
    let expected =
        format!("{} is in use by process {}: stop that one first", folder.path().display(), broker.child.id());
    assert!(said.contains(&expected), "{said}");
    broker.kill();
    // The lock goes with the process.
    assert_eq!(Causewayd::start(folder.path()).terminate(), Some(0));
}

#[test]
fn damage_stops_the_start_and_a_torn_end_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let (mut client, _) = broker.client("c");
    for number in 1..=3 {
        publish_kept_retained(&mut client, number);
    }
    broker.kill();
    let segment = folder.path().join("shard-0/log/00000000000000000001.log");
    let intact = std::fs::read(&segment).unwrap();

    let mut damaged = intact.clone();
    damaged[4096 + 60] ^= 0x40;
    std::fs::write(&segment, &damaged).unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("00000000000000000001.log is damaged at byte 4"), "{said}");
    assert!(said.contains("restore"), "{said}");

    // Bytes behind the last group, as a write that was cut off leaves them.
    let mut torn = intact;
    let end = torn.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    torn[end + 100..end + 200].fill(7);
    std::fs::write(&segment, &torn).unwrap();
    let broker = Causewayd::start(folder.path());
    broker.logs("the end of the log was torn");
    let (_, known) = broker.client("c");
    assert!(known);
}

fn publish_kept_retained(client: &mut Client<TcpStream>, number: u16) {
    let mut retained = publish("r", number, b"retained");
    retained[0] |= 1;
    client.send(&retained);
    assert_eq!(client.read_packet().0, 0x40);
}

#[test]
fn a_folder_that_cannot_be_had_is_told_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = refusal(&file.join("data"));
    assert!(said.contains("It has to be a folder"), "{said}");
}

#[test]
fn the_log_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start_with(folder.path(), &[("CAUSEWAY_STORAGE__SEGMENT_BYTES", "65536")]);
    let (mut client, _) = broker.client("c");
    for number in 1..=10 {
        publish_kept_retained(&mut client, number);
    }
    assert!(broker.metric("causeway_log_sync_seconds_count") >= 10.0);
    assert!(broker.metric("causeway_log_commit_records_sum") >= 10.0);
    assert_eq!(broker.metric("causeway_log_unsynced_bytes"), 0.0);
    assert_eq!(broker.metric("causeway_log_full"), 0.0);
    assert!(broker.metric("causeway_log_bytes") >= 2.0 * 65536.0);
    assert!(broker.metric("causeway_log_segments") >= 1.0);
    assert!(broker.get("ready").ends_with("ready\n"));
}

#[test]
fn without_fsync_it_says_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start_with(folder.path(), &[("CAUSEWAY_STORAGE__DURABILITY", "os")]);
    broker.logs("messages that were acknowledged are lost when the machine crashes or loses power");
    let (mut client, _) = broker.client("c");
    publish_kept_retained(&mut client, 1);
    broker.kill();
    let broker = Causewayd::start(folder.path());
    assert!(broker.client("c").1, "the system had it");
}

const TINY_SEGMENTS: (&str, &str) = ("CAUSEWAY_STORAGE__SEGMENT_BYTES", "65536");

/// Publishes numbered messages, many at a time, until all are acknowledged.
fn publish_numbers(client: &mut Client<TcpStream>, topic: &str, numbers: std::ops::Range<u32>, bytes: usize) {
    let numbers: Vec<u32> = numbers.collect();
    for some in numbers.chunks(200) {
        let one = |(packet_id, number): (u16, &u32)| publish(topic, packet_id, &numbered(*number, bytes));
        client.send(&(1..).zip(some).flat_map(one).collect::<Vec<u8>>());
        for packet_id in 1..=some.len() as u16 {
            let (first, body) = client.read_packet();
            assert_eq!((first, &body[..2]), (0x40, &packet_id.to_be_bytes()[..]));
            assert!(body.get(2).is_none_or(|reason| *reason < 0x80), "{body:?}");
        }
    }
}

/// A payload of so many bytes that begins with the number.
fn numbered(number: u32, bytes: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(bytes, number as u8);
    payload
}

fn receive_numbers(client: &mut Client<TcpStream>, topic: &str, numbers: std::ops::Range<u32>, bytes: usize) {
    for number in numbers {
        assert_eq!(receive(client, topic), numbered(number, bytes), "in order and once");
    }
}

/// Waits until all that was sent before has been heard.
fn ping(client: &mut Client<TcpStream>) {
    client.send(&[0xC0, 0]);
    client.expect(0xD0, &[]);
}

#[test]
fn what_was_folded_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start_with(folder.path(), &[TINY_SEGMENTS]);
    let (mut vehicle, _) = broker.client("vehicle");
    vehicle.subscribe("cmd/#", 1);
    vehicle.subscribe("once", 2);
    drop(vehicle);
    let (mut backend, _) = broker.client("backend");
    publish_kept_retained(&mut backend, 1);
    let mut once = publish("once", 7, b"once");
    once[0] = 0x34;
    backend.send(&once);
    assert_eq!(backend.read_packet().0, 0x50);
    let mut published = 0;
    support::eventually("three folds", || {
        publish_numbers(&mut backend, "cmd/go", published..published + 400, 300);
        published += 400;
        broker.metric("causeway_folds_total") >= 3.0
    });
    publish_numbers(&mut backend, "cmd/go", published..published + 10, 300);
    published += 10;
    broker.kill();

    let broker = Causewayd::start_with(folder.path(), &[TINY_SEGMENTS]);
    let line = broker.logs("the log is replayed");
    assert!(!line.contains("entries=0 "), "{line}");
    let (mut backend, known) = broker.client("backend");
    assert!(known);
    once[0] |= 8;
    backend.send(&once);
    assert_eq!(backend.read_packet().0, 0x50);
    backend.send(&packet(0x62, &[0, 7]));
    assert_eq!(backend.read_packet().0, 0x70);
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(known);
    // It was queued before all others.
    let (first, body) = vehicle.read_packet();
    assert_eq!((first & 0xF6, &body[2..6]), (0x34, &b"once"[..]));
    receive_numbers(&mut vehicle, "cmd/go", 0..published, 300);
    vehicle.send(&support::subscribe("r", 0));
    let packets = [vehicle.read_packet(), vehicle.read_packet()];
    assert!(packets.iter().any(|(_, body)| body.ends_with(b"retained")), "{packets:?}");
}

#[test]
fn an_orderly_stop_leaves_nothing_to_replay() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start(folder.path());
    let (mut vehicle, _) = broker.client("vehicle");
    vehicle.subscribe("t", 1);
    drop(vehicle);
    let (mut backend, _) = broker.client("backend");
    publish_numbers(&mut backend, "t", 0..100, 10);
    assert_eq!(broker.terminate(), Some(0));

    let broker = Causewayd::start(folder.path());
    let line = broker.logs("the log is replayed");
    assert!(line.contains("records=0 "), "{line}");
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(known);
    receive_numbers(&mut vehicle, "t", 0..100, 10);
}

#[test]
fn a_drained_queue_gives_its_room_back() {
    const COUNT: u32 = 3000;
    let folder = tempfile::tempdir().unwrap();
    let broker = Causewayd::start_with(folder.path(), &[TINY_SEGMENTS]);
    let (mut vehicle, _) = broker.client("vehicle");
    vehicle.subscribe("t", 1);
    drop(vehicle);
    let (mut backend, _) = broker.client("backend");
    publish_numbers(&mut backend, "t", 0..COUNT, 1000);
    support::eventually("the log is that long", || broker.metric("causeway_log_bytes") > 3e6);
    let (mut vehicle, _) = broker.client("vehicle");
    receive_numbers(&mut vehicle, "t", 0..COUNT, 1000);
    ping(&mut vehicle);
    support::eventually("the log is short", || {
        // What comes next has the next fold begin.
        publish_numbers(&mut backend, "nobody/listens", 0..10, 1000);
        publish_kept_retained(&mut backend, 1);
        broker.metric("causeway_log_bytes") < 1e6
    });
    assert!(folder_bytes(&folder.path().join("shard-0/log")) < 1_500_000);
    broker.kill();
    let broker = Causewayd::start_with(folder.path(), &[TINY_SEGMENTS]);
    assert!(broker.client("vehicle").1);
}

fn folder_bytes(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_long_queue_is_on_disk_and_not_in_memory() {
    const COUNT: u32 = 7000;
    const BYTES: usize = 8000;
    let folder = tempfile::tempdir().unwrap();
    let variables = [("CAUSEWAY_LIMITS__BODY_CACHE_BYTES", "65536"), ("CAUSEWAY_STORAGE__SEGMENT_BYTES", "4194304")];
    let broker = Causewayd::start_with(folder.path(), &variables);
    let (mut vehicle, _) = broker.client("vehicle");
    vehicle.subscribe("t", 1);
    drop(vehicle);
    let (mut backend, _) = broker.client("backend");
    publish_numbers(&mut backend, "t", 0..200, BYTES);
    let before = broker.metric("process_resident_memory_bytes");
    publish_numbers(&mut backend, "t", 200..COUNT, BYTES);
    let grown = broker.metric("process_resident_memory_bytes") - before;
    assert!(grown < 0.5 * f64::from(COUNT) * BYTES as f64, "{grown} bytes more");
    support::eventually("bodies leave the memory", || broker.metric("causeway_body_cache_bytes") <= 65536.0);
    broker.kill();

    let broker = Causewayd::start_with(folder.path(), &variables);
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(known);
    receive_numbers(&mut vehicle, "t", 0..COUNT, BYTES);
    assert!(broker.metric("causeway_bodies_fetched_total") >= f64::from(COUNT));
    assert_eq!(broker.metric("causeway_bodies_unreadable_total"), 0.0);
}

#[test]
fn with_too_little_room_new_messages_are_refused_and_all_else_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let free = causeway_storage::free_bytes(folder.path()).unwrap();
    // Much more than others on this disk take or give meanwhile.
    let margin = (4 << 30).min(free / 8);
    let floor = (free - margin).min(1 << 40).to_string();
    let broker =
        Causewayd::start_with(&folder.path().join("data"), &[("CAUSEWAY_STORAGE__FREE_SPACE_FLOOR_BYTES", &floor)]);
    let (mut vehicle, _) = broker.client("vehicle");
    vehicle.subscribe("t", 1);
    drop(vehicle);
    let (mut backend, _) = broker.client("backend");
    publish_numbers(&mut backend, "t", 0..50, 100);

    let ballast = std::fs::File::create(folder.path().join("ballast")).unwrap();
    rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, 2 * margin).unwrap();
    broker.logs("the disk has too little room");
    assert!(broker.get("ready").contains("ready, but degraded: the disk has too little room"));
    backend.send(&publish("t", 1, b"refused"));
    let (first, body) = backend.read_packet();
    assert_eq!((first, body[2]), (0x40, 0x97));
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(known);
    receive_numbers(&mut vehicle, "t", 0..50, 100);
    ping(&mut vehicle);
    backend.send(&publish("t", 0, b"of QoS 0"));
    assert!(vehicle.read_packet().1.ends_with(b"of QoS 0"));
    let refused = "causeway_publish_refused_total{reason=\"free_space_floor\"}";
    support::eventually("the refusal is counted", || broker.metric(refused) >= 1.0);

    drop(ballast);
    std::fs::remove_file(folder.path().join("ballast")).unwrap();
    broker.logs("the disk has room again");
    drop(vehicle);
    publish_numbers(&mut backend, "t", 50..100, 100);
    broker.kill();
    let broker = Causewayd::start(&folder.path().join("data"));
    let (mut vehicle, known) = broker.client("vehicle");
    assert!(known);
    receive_numbers(&mut vehicle, "t", 50..100, 100);
}
