//! Clients that are slow, greedy, rude or gone, and what it costs the others: nothing.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use causeway_broker::config::{Authentication, Config, LimitSettings, Listener, Transport};
use support::*;

#[test]
fn a_slow_connect_is_closed_at_the_deadline() {
    let broker = Broker::start(vec![Listener { connect_timeout_seconds: 1, ..listener(Transport::Tcp) }]);
    let started = Instant::now();
    let mut silent = broker.dial();
    let mut slow = broker.dial();
    slow.send(&connect("slow", 0)[..5]);
    silent.expect_end();
    slow.expect_end();
    assert!(started.elapsed() >= Duration::from_millis(900));
    eventually("both are counted", || broker.observed.edge().handshake_timeouts.get() == 2);
}

#[test]
fn slow_handshakes_delay_nobody() {
    let broker = Broker::plain();
    let mut slow: Vec<_> = (0..200).map(|_| broker.dial()).collect();
    for client in &mut slow {
        client.send(&[0x10]);
    }
    let started = Instant::now();
    let mut client = broker.client("quick");
    check_round_trip(&mut client, b"payload");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn too_many_handshakes_and_connections_are_closed() {
    let limited = listener(Transport::Tcp);
    let broker = Broker::start(vec![
        Listener { connections_max: 2, ..limited.clone() },
        // What waits must wait longer than the test takes.
        Listener { handshakes_pending_max: 2, connect_timeout_seconds: 600, name: "second".into(), ..limited },
    ]);
    let refused = || broker.observed.edge().refused_limit.get();

    let first = broker.client("first");
    let mut second = broker.client("second");
    broker.dial().expect_end();
    eventually("the third is counted", || refused() == 1);
    drop(first);
    // The place comes back, once the broker noticed.
    eventually("a place is free", || {
        let mut client = broker.dial();
        let connected = client.stream.write_all(&connect("third", 0)).is_ok();
        connected && client.stream.read_exact(&mut [0; 4]).is_ok()
    });
    check_round_trip(&mut second, b"payload");

    let before = refused();
    let _two_pending_and_eight_waiting: Vec<_> = (0..10).map(|_| dial(broker.addresses[1])).collect();
    Client::new(dial(broker.addresses[1])).expect_end();
    eventually("one too many is counted", || refused() == before + 1);
}

#[test]
fn handshakes_wait_for_others_to_end() {
    let broker = Broker::start(vec![Listener { handshakes_pending_max: 2, ..listener(Transport::Tcp) }]);
    let mut clients: Vec<_> = (0..10).map(|_| broker.dial()).collect();
    // The last that came speak first: they are heard once the others are through.
    for (number, client) in clients.iter_mut().enumerate().rev() {
        client.send(&connect(&format!("of a storm {number}"), 0));
    }
    for client in &mut clients {
        client.stream.read_exact(&mut [0; 4]).unwrap();
    }
    assert_eq!(broker.observed.edge().refused_limit.get(), 0);
}

#[test]
fn garbage_gets_no_answer() {
    let broker = Broker::plain();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xFF; 64], b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut client = broker.dial();
        // The broker may be gone before all is written.
        let _ = client.stream.write_all(garbage);
        client.expect_end();
    }
    // Any other packet than CONNECT is none of ours, either.
    let mut client = broker.dial();
    client.send(&[0xC0, 0]);
    client.expect_end();
    eventually("all are counted", || broker.observed.edge().refused_handshake.get() == 5);
}

#[test]
fn a_packet_that_is_too_large_is_told_so() {
    let limits = LimitSettings { packet_bytes_max: 1000, ..LimitSettings::default() };
    let broker = Broker::with(Config { listener: vec![listener(Transport::Tcp)], limits, ..Config::default() });
    let mut client = broker.client("large");
    // Far more follows than the broker will read: its farewell must get through all the same.
    client.send(&publish("a", 0, &[0; 1001]));
    client.expect_disconnect(0x95);
}

#[test]
fn a_malformed_packet_is_told_so() {
    let broker = Broker::plain();
    let mut client = broker.client("malformed");
    client.send(&[0x36, 0]);
    client.expect_disconnect(0x81);
}

#[test]
fn a_second_connection_takes_over() {
    let broker = Broker::plain();
    let mut first = broker.client("same");
    let mut second = broker.client("same");
    first.expect_disconnect(0x8E);
    check_round_trip(&mut second, b"payload");
}

#[test]
fn a_peer_that_vanished_is_noticed_by_keep_alive() {
    let broker = Broker::plain();
    let mut watcher = broker.client("watcher");
    watcher.subscribe("will", 0);
    // A will is published, which shows that the broker knows the client is gone.
    let mut body = b"\x00\x04MQTT\x05\x06\x00\x01\x00\x00\x04gone\x00\x00\x04will\x00\x03bye".to_vec();
    body[7] = 0x06;
    let mut gone = broker.dial();
    gone.send(&packet(0x10, &body));
    gone.expect_connack(0);
    let started = Instant::now();
    gone.expect_disconnect(0x8D);
    assert!(started.elapsed() >= Duration::from_millis(1400));
    watcher.expect(0x30, &publish_body("will", b"bye"));
}

#[test]
fn a_packet_that_takes_longer_than_the_keep_alive_is_a_sign_of_life() {
    let broker = Broker::plain();
    let mut client = broker.dial();
    // Keep alive of one second: after one and a half without a byte, a client is given up.
    client.send(&connect("slow", 1));
    client.expect_connack(0);
    let packet = publish("a", 1, &[7; 30]);
    let (last, first) = packet.split_last().unwrap();
    let started = Instant::now();
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    for byte in first {
        client.send(&[*byte]);
        // Nothing comes, which takes a while.
        let error = client.stream.read(&mut [0]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }
    assert!(started.elapsed() > Duration::from_secs(3));
    client.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send(&[*last]);
    assert_eq!(client.read_packet().0, 0x40);
}

#[test]
fn a_peer_that_vanished_in_the_middle_of_a_packet_is_forgotten() {
    let broker = Broker::plain();
    let mut client = broker.client("cut");
    client.send(&publish("a", 0, &[0; 1000])[..500]);
    drop(client);
    let connections = || broker.observed.latest().1.connections;
    eventually("the connection is gone", || connections() == 0 && broker.observed.latest().0.connections_opened == 1);
}

#[test]
fn a_slow_reader_does_not_hurt_others() {
    const MESSAGES: u16 = 3000;
    let payload = vec![7u8; 10_000];
    let broker = Broker::plain();
    let mut slow = broker.client("slow");
    slow.subscribe("flood", 0);
    let mut fast = broker.client("fast");
    fast.subscribe("flood", 1);
    let mut publisher = broker.client("publisher");

    let expected = payload.len();
    let reading = thread::spawn(move || {
        for _ in 0..MESSAGES {
            let (first, body) = fast.read_packet();
            assert_eq!(first, 0x32);
            assert!(body.len() > expected);
            fast.send(&[0x40, 2, body[7], body[8]]);
        }
    });
    for packet_id in 1..=MESSAGES {
        publisher.send(&publish("flood", packet_id, &payload));
        let (first, body) = publisher.read_packet();
        assert_eq!((first, &body[..2]), (0x40, &packet_id.to_be_bytes()[..]));
    }
    reading.join().unwrap();

    // What the slow one missed was counted; what it did not miss, it still gets, and then it is served again.
    eventually("drops are counted", || broker.observed.latest().0.dropped_slow_consumer > 0);
    slow.send(&[0xC0, 0]);
    while slow.read_packet().0 != 0xD0 {}
}

#[test]
fn a_client_that_takes_no_answers_is_not_read_for_ever() {
    let broker = Broker::plain();
    let mut greedy = broker.client("greedy");
    greedy.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // Every PINGREQ is answered with as many bytes: when the way back is full, the way there must fill up, too.
    let sent = write_until_full(&mut greedy.stream, &[0xC0, 0].repeat(32 * 1024));
    // Others do not notice.
    check_round_trip(&mut broker.client("other"), b"payload");

    // Once it takes its answers, it gets all of them and is read again.
    let mut answers = vec![0; sent / 2 * 2];
    greedy.stream.read_exact(&mut answers).unwrap();
    assert!(answers.chunks(2).all(|answer| answer == [0xD0, 0]));
}

#[test]
fn a_websocket_that_takes_no_pongs_is_not_read_for_ever() {
    let broker = Broker::start(vec![listener(Transport::Ws)]);
    let mut websocket = WebSocket::upgrade(dial(broker.addresses[0]));
    websocket.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    websocket.write_all(&connect("greedy", 0)).unwrap();
    write_until_full(&mut websocket.stream, &websocket_frame(0x89, &[7; 125]).repeat(500));
}

/// Writes the same again and again until the broker reads no more; returns the bytes that were written for sure.
fn write_until_full(stream: &mut TcpStream, chunk: &[u8]) -> usize {
    let mut sent = 0;
    while stream.write_all(chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < 256 << 20, "the broker reads without end");
    }
    sent
}

#[test]
fn graceful_shutdown_says_farewell() {
    let broker = Broker::plain();
    let mut client = broker.client("v5");
    let mut pending = broker.dial();
    pending.send(&[0x10]);
    let address = broker.addresses[0];
    let wait = broker.stop();
    client.expect_disconnect(0x8B);
    drop(client);
    wait().unwrap();
    pending.expect_end();
    assert!(TcpStream::connect_timeout(&address, DEADLINE).is_err());
}

/// A broker with one user, whose password is verified slowly, and by one thread only.
fn slow_to_verify(authentication: Authentication) -> (tempfile::TempDir, Broker) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    let hash = "$argon2id$v=19$m=19456,t=4,p=1$c2FsdHNhbHQ$2WXVzmKnTzUYAhUGvdeCdA";
    std::fs::write(&file, format!("alice:{hash}\n")).unwrap();
    let authentication =
        Authentication { password_file: Some(file), verifications_concurrent_max: 1, ..authentication };
    let listener = Listener { connect_timeout_seconds: 1, ..listener(Transport::Tcp) };
    (folder, Broker::with(Config { listener: vec![listener], authentication, ..Config::default() }))
}

/// Connections that wait for the verification of a wrong password.
fn storm(broker: &Broker, version: u8, clients: usize) -> Vec<Client<TcpStream>> {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let head = [b"\x00\x04MQTT", [version, 0xC2, 0, 0].as_slice(), properties].concat();
    let connect = packet(0x10, &[&head, b"\x00\x01c\x00\x05alice\x00\x06eraser".as_slice()].concat());
    let dial = |_| {
        let mut client = broker.dial();
        client.send(&connect);
        client
    };
    (0..clients).map(dial).collect()
}

#[test]
fn a_client_is_not_blamed_for_a_password_that_waits_to_be_verified() {
    let settings = Authentication { verification_timeout_seconds: 600, ..Authentication::default() };
    let (_folder, broker) = slow_to_verify(settings);
    let (mut clients, mut waited) = (20, Duration::ZERO);
    // Until the last of them has waited for longer than a CONNECT may take.
    while waited < Duration::from_millis(1500) {
        let started = Instant::now();
        for client in &mut storm(&broker, 5, clients) {
            client.expect_connack(0x86);
        }
        waited = started.elapsed();
        clients *= 2;
    }
    assert_eq!(broker.observed.edge().handshake_timeouts.get(), 0);
}

#[test]
fn a_password_that_waits_for_too_long_is_answered() {
    let settings = Authentication { verification_timeout_seconds: 1, ..Authentication::default() };
    let (_folder, broker) = slow_to_verify(settings);
    for (version, wrong, busy) in [(5, 0x86, 0x89), (4, 4, 3)] {
        let mut seen = Vec::new();
        for client in &mut storm(&broker, version, 100) {
            let (first, body) = client.read_packet();
            assert_eq!(first, 0x20);
            seen.push(body[1]);
        }
        assert!(seen.iter().all(|code| [wrong, busy].contains(code)), "{seen:?}");
        assert!(seen.contains(&wrong) && seen.contains(&busy), "{seen:?}");
    }
    assert_eq!(broker.observed.edge().handshake_timeouts.get(), 0);
}
