//! A broker of several shards: who lives where, and what they do together.
//!
//! Owns what the edge does for them. What is promised across shards is tested with the core's, and by the conformance suite.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use causeway_broker::config::{Broker as Process, Config, LimitSettings, Storage, Transport, parse};
use causeway_broker::server::{NoBackup, ServerError, ShardError, StorageError, home_shard};
use support::{Broker, Client, eventually, listener, packet, publish};

const VEHICLES: usize = 24;

fn config(data: &Path, shards: usize) -> Config {
    let storage = Storage { data_directory: Some(data.to_owned()), segment_bytes: 65_536, ..Storage::default() };
    let process = Process { shards, ..Process::default() };
    Config { listener: vec![listener(Transport::Tcp)], storage, broker: process, ..Config::default() }
}

fn start(data: &Path, shards: usize) -> Broker {
    Broker::with(config(data, shards))
}

#[track_caller]
fn refusal(data: &Path, shards: usize) -> String {
    match Broker::try_with(config(data, shards)) {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}

fn vehicle(number: usize) -> String {
    format!("vehicle-{number}")
}

/// A client identifier that lives on this shard.
fn resident(shard: u32, shards: u32) -> String {
    (0..).map(|number| format!("resident-{number}")).find(|id| home_shard(id, shards) == shard).unwrap()
}

/// A client with a session of an hour, and whether there was one.
fn stays(broker: &Broker, id: &str) -> (Client<TcpStream>, bool) {
    let mut body = b"\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x0e\x10".to_vec();
    body.extend((id.len() as u16).to_be_bytes());
    body.extend(id.as_bytes());
    let mut client = broker.dial();
    client.send(&packet(0x10, &body));
    let (first, body) = client.read_packet();
    assert_eq!((first, body[1]), (0x20, 0));
    (client, body[0] == 1)
}

/// Publishes with QoS 1 and waits for the acknowledgement.
fn publish_kept(client: &mut Client<TcpStream>, topic: &str, packet_id: u16, payload: &[u8]) {
    client.send(&publish(topic, packet_id, payload));
    let (first, body) = client.read_packet();
    assert_eq!((first, &body[..2]), (0x40, &packet_id.to_be_bytes()[..]));
    assert!(body.get(2).is_none_or(|reason| *reason < 0x10), "{body:?}");
}

/// The payload of the next message, of QoS 1 and without properties; it is acknowledged.
fn receive(client: &mut Client<TcpStream>, topic: &str) -> Vec<u8> {
    let (first, body) = client.read_packet();
    assert_eq!(first & 0xF6, 0x32, "{first:#x}");
    let (head, rest) = body.split_at(2 + topic.len());
    assert!(head.ends_with(topic.as_bytes()), "{body:?}");
    client.send(&packet(0x40, &rest[..2]));
    rest[rest.len() - "by 0".len()..].to_vec()
}

/// Messages that wait on each shard, as the shards report them.
fn queued(broker: &Broker) -> Vec<u64> {
    broker.observed.shards().iter().map(|shard| shard.report.latest().1.queued_messages).collect()
}

/// Sessions on each shard, as the shards report them.
fn sessions(broker: &Broker) -> Vec<u64> {
    broker.observed.shards().iter().map(|shard| shard.report.latest().1.sessions).collect()
}

fn tool(command: &str, paths: &[&Path], options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_causewayd")).arg(command).args(paths).args(options).output().unwrap()
}

#[track_caller]
fn inspected(data: &Path) -> serde_json::Value {
    let output = tool("inspect", &[data], &["--json", "--verify"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_configuration_file_asks_for_a_sensible_number() {
    for (shards, is_fine) in [(0, false), (1, true), (2, true), (64, true), (65, false)] {
        let text = format!("[[listener]]\nbind = \"127.0.0.1:1883\"\n[broker]\nshards = {shards}\n");
        let outcome = parse("causeway.toml", &text, []);
        match outcome {
            Ok(_) => assert!(is_fine, "{shards}"),
            Err(problems) => {
                assert!(!is_fine && problems.iter().any(|problem| problem.to_string().contains("shards")), "{shards}");
            }
        }
    }
}

#[test]
fn sessions_live_on_their_home_shards_and_are_there_again_after_a_restart() {
    for shards in [2, 3] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let broker = start(&data, shards);
        let homes: Vec<u32> = (0..VEHICLES).map(|number| home_shard(&vehicle(number), shards as u32)).collect();
        for number in 0..VEHICLES {
            let (mut client, known) = stays(&broker, &vehicle(number));
            assert!(!known);
            client.subscribe("cmd/#", 1);
        }
        for shard in 0..shards as u32 {
            let mut backend = Client::new(support::dial(broker.addresses[0]));
            backend.connect(&resident(shard, shards as u32));
            publish_kept(&mut backend, "cmd/go", 1, format!("by {shard}").as_bytes());
        }
        let counts: Vec<u64> =
            (0..shards as u32).map(|shard| homes.iter().filter(|home| **home == shard).count() as u64).collect();
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        let wanted: Vec<u64> = counts.iter().map(|count| count * shards as u64).collect();
        eventually("all messages wait where they belong", || queued(&broker) == wanted);
        broker.stop()().unwrap();

        let report = inspected(&data);
        for (shard, count) in counts.iter().enumerate() {
            let contents = &report["shards"][shard];
            assert_eq!(contents["shard"], shard);
            // Beside the clients' there is one for each other shard.
            assert_eq!(contents["sessions"]["count"], *count + shards as u64 - 1, "{report:#}");
            assert_eq!(contents["sessions"]["queued_messages"], *count * shards as u64, "{report:#}");
        }

        let broker = start(&data, shards);
        for number in 0..VEHICLES {
            let (mut client, known) = stays(&broker, &vehicle(number));
            assert!(known);
            let mut received: Vec<Vec<u8>> = (0..shards).map(|_| receive(&mut client, "cmd/go")).collect();
            received.sort();
            assert_eq!(received, (0..shards).map(|shard| format!("by {shard}").into_bytes()).collect::<Vec<_>>());
        }
        eventually("all shards report", || sessions(&broker) == counts);
        assert_eq!(broker.observed.latest().1.sessions, VEHICLES as u64);
    }
}

#[test]
fn a_newer_connection_takes_over_and_an_assigned_identifier_has_a_home() {
    let broker = Broker::with(Config { storage: Storage::default(), ..config(Path::new(""), 3) });
    for number in 0..VEHICLES {
        let mut first = broker.client(&vehicle(number));
        let _second = broker.client(&vehicle(number));
        first.expect_disconnect(0x8E);
    }
    let (mut client, mut ids) = (broker.dial(), Vec::new());
    for _ in 0..VEHICLES {
        client.send(&support::connect("", 0));
        let (first, body) = client.read_packet();
        assert_eq!((first, body[1]), (0x20, 0));
        let at = body.windows(5).position(|bytes| bytes == b"auto-").unwrap();
        ids.push(String::from_utf8(body[at..at + 37].to_vec()).unwrap());
        // A client of that name is the same session.
        let _newer = broker.client(ids.last().unwrap());
        client.expect_disconnect(0x8E);
        client = broker.dial();
    }
    let assigned = |shard| ids.iter().filter(|id| home_shard(id, 3) == shard).count();
    let named = |shard| (0..VEHICLES).filter(|number| home_shard(&vehicle(*number), 3) == shard).count();
    let takeovers = || broker.observed.shards().iter().map(|shard| shard.report.latest().0.takeovers as usize);
    eventually("each shard saw its own", || takeovers().eq((0..3).map(|shard| assigned(shard) + named(shard))));
}

#[test]
fn the_largest_packet_crosses_and_the_link_lives_on() {
    let limits = LimitSettings { packet_bytes_max: 2000, ..LimitSettings::default() };
    let broker = Broker::with(Config { storage: Storage::default(), limits, ..config(Path::new(""), 2) });
    let [mut publisher, mut subscriber] = [0, 1].map(|shard| broker.client(&resident(shard, 2)));
    subscriber.subscribe("t", 1);
    for round in 0..3 {
        let mut message = publish("t", 1, &[b'x'; 2000 - 3 - 6]);
        assert_eq!(message.len(), 2000);
        // Retained, it carries more on a link.
        message[0] |= 1;
        publisher.send(&message);
        let (first, body) = subscriber.read_packet();
        assert_eq!((first & 0xF0, body.len()), (0x30, message.len() - 3), "round {round}");
        subscriber.send(&packet(0x40, &body[3..5]));
        let (first, _) = publisher.read_packet();
        assert_eq!(first, 0x40);
    }
}

#[test]
fn numbers_of_all_shards_add_up() {
    let broker = Broker::with(Config { storage: Storage::default(), ..config(Path::new(""), 2) });
    let mut clients = [0, 1].map(|shard| broker.client(&resident(shard, 2)));
    for (client, count) in clients.iter_mut().zip([3, 5]) {
        for _ in 0..count {
            client.send(&publish("t", 0, b"1234"));
        }
        client.send(&[0xC0, 0]);
        client.expect(0xD0, &[]);
    }
    let received = || broker.observed.shards().iter().map(|shard| shard.report.latest().0.publish_received[0]);
    eventually("both report", || received().eq([3, 5]));
    let (counters, gauges) = broker.observed.latest();
    assert_eq!((counters.publish_received[0], counters.payload_bytes_received), (8, 32));
    assert_eq!((counters.connections_opened, gauges.connections), (2, 2));
    let edge = broker.observed.edge();
    let parts: u64 = broker.observed.shards().iter().map(|shard| shard.edge.bytes_received.get()).sum();
    assert!(parts > 0 && edge.bytes_received.get() > parts, "the CONNECTs came through the front door");
    assert_eq!(edge.accepted.get(), 2);
    assert_eq!(broker.observed.respond(), Ok(()));
}

#[test]
fn a_bound_of_the_broker_is_divided() {
    let limits = LimitSettings { connections_max: 3, ..LimitSettings::default() };
    let broker = Broker::with(Config { storage: Storage::default(), limits, ..config(Path::new(""), 2) });
    let ids = |shard| (0..).map(vehicle).filter(move |id| home_shard(id, 2) == shard);
    let mut held: Vec<_> = ids(0).take(2).chain(ids(1).take(1)).map(|id| broker.client(&id)).collect();
    for shard in [0, 1] {
        let mut surplus = broker.dial();
        surplus.send(&support::connect(&ids(shard).nth(5).unwrap(), 0));
        surplus.expect_connack(0x97);
    }
    held.pop();
    eventually("its place is free", || {
        let mut next = broker.dial();
        next.send(&support::connect(&ids(1).nth(1).unwrap(), 0));
        next.read_packet().1[1] == 0
    });
}

#[test]
fn another_number_of_shards_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    start(&data, 2).stop()().unwrap();
    for wrong in [1, 3] {
        let said = refusal(&data, wrong);
        assert!(
            said.contains(&format!("made for 2 shards and broker.shards is {wrong}: set broker.shards = 2")),
            "{said}"
        );
    }
    // As it was made before there could be several.
    let old = folder.path().join("old");
    start(&old, 1).stop()().unwrap();
    std::fs::remove_file(old.join("causeway.shards")).unwrap();
    assert!(refusal(&old, 2).contains("made for 1 shard and broker.shards is 2"));
    let (file, directory) = (folder.path().join("causeway.toml"), data.display());
    let text = format!("[[listener]]\nbind = \"127.0.0.1:0\"\n[storage]\ndata_directory = \"{directory}\"\n");
    std::fs::write(&file, text).unwrap();
    let checked = String::from_utf8(tool("check", &[&file], &[]).stderr).unwrap();
    assert!(checked.contains("causeway.toml:4") && checked.contains("was made for 2 shards"), "{checked}");
    start(&old, 1).stop()().unwrap();
    start(&data, 2).stop()().unwrap();
}

#[test]
fn one_that_cannot_start_is_named_and_nothing_is_left_running() {
    let folder = tempfile::tempdir().unwrap();
    start(folder.path(), 3).stop()().unwrap();
    let segment = folder.path().join("shard-1/log/00000000000000000001.log");
    let intact = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &intact[..5000]).unwrap();
    let said = refusal(folder.path(), 3);
    assert!(said.starts_with("shard 1: ") && said.contains("shard-1/log/00000000000000000001.log"), "{said}");
    let restore = format!("restore {} from a copy", folder.path().display());
    assert!(said.contains(&restore), "{said}");
    std::fs::write(&segment, &intact).unwrap();
    start(folder.path(), 3).stop()().unwrap();
}

#[test]
fn one_that_fails_ends_the_broker_and_says_which_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let [data, elsewhere] = ["data", "elsewhere"].map(|name| folder.path().join(name));
    let broker = start(&data, 3);
    let id = resident(0, 3);
    let (mut client, _) = stays(&broker, &id);
    client.subscribe("kept", 1);
    std::fs::rename(data.join("shard-2"), &elsewhere).unwrap();
    let failure = broker.fails();
    let of_two = matches!(&failure, ServerError::Shard { shard: Some(2), source: ShardError::Log(_) });
    assert!(of_two, "{failure:?}");
    let said = failure.to_string();
    assert!(said.starts_with("shard 2: the log failed") && said.contains("its folder was removed"), "{said}");
    // The others have ended, too, and kept what they had.
    // What it is told at the end is nothing, or DISCONNECT.
    let _ = client.stream.read_to_end(&mut Vec::new());
    std::fs::rename(&elsewhere, data.join("shard-2")).unwrap();
    let broker = start(&data, 3);
    assert!(stays(&broker, &id).1);
}

#[test]
fn all_say_farewell_within_the_one_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path(), 3);
    let mut clients: Vec<_> = (0..VEHICLES).map(|number| broker.client(&vehicle(number))).collect();
    let stopped = broker.stop();
    clients.iter_mut().for_each(|client| client.expect_disconnect(0x8B));
    stopped().unwrap();
}

#[test]
fn tools_work_on_all_shards() {
    let folder = tempfile::tempdir().unwrap();
    let [data, copy, again] = ["data", "copy", "again"].map(|name| folder.path().join(name));
    let broker = start(&data, 2);
    for number in 0..VEHICLES {
        stays(&broker, &vehicle(number)).0.subscribe("t", 1);
    }
    let live = broker.observed.backups.make(&copy);
    assert!(matches!(live, Err(NoBackup::SeveralShards)) && !copy.exists(), "{live:?}");
    broker.stop()().unwrap();

    for (command, from, to) in [("backup", &data, &copy), ("restore", &copy, &again)] {
        let output = tool(command, &[from, to], &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(inspected(&again)["shards"], inspected(&data)["shards"]);
    let broker = start(&again, 2);
    assert!((0..VEHICLES).all(|number| stays(&broker, &vehicle(number)).1));
    broker.stop()().unwrap();

    let said = |output: &Output| String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap();
    let shown = tool("inspect", &[&data], &["--client", &vehicle(1)]);
    assert!(shown.status.success() && said(&shown).contains("client vehicle-1 "), "{}", said(&shown));

    // A shard of another broker, and one that is missing.
    std::fs::rename(data.join("shard-1"), folder.path().join("kept")).unwrap();
    start(&folder.path().join("other"), 2).stop()().unwrap();
    std::fs::rename(folder.path().join("other/shard-1"), data.join("shard-1")).unwrap();
    let target = folder.path().join("target");
    for output in [tool("inspect", &[&data], &["--verify"]), tool("backup", &[&data, &target], &[])] {
        assert!(
            !output.status.success() && said(&output).contains("it comes from another broker"),
            "{}",
            said(&output)
        );
    }
    let start = refusal(&data, 2);
    assert!(start.starts_with("shard 1: ") && start.contains("it comes from another broker"), "{start}");
    std::fs::remove_dir_all(data.join("shard-1")).unwrap();
    let outputs = [
        tool("inspect", &[&data], &[]),
        tool("backup", &[&data, &target], &[]),
        tool("restore", &[&data, &target], &[]),
    ];
    for output in outputs {
        assert!(!output.status.success() && said(&output).contains("shard-1 is missing"), "{}", said(&output));
    }
    let refused = Broker::try_with(config(&data, 2)).map(drop).unwrap_err();
    assert!(matches!(refused, ServerError::Storage(StorageError::Layout { .. })), "{refused}");
    assert!(!target.exists());
}
