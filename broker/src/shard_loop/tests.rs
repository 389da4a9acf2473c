//! One connection and its shard, without the loop around them.

use std::cell::Cell;
use std::time::Instant;

use causeway_core::{Handshake, HandshakePolicy, Overflow, Step};
use causeway_protocol::{decode, frame};
use tokio::net::TcpListener;

use super::*;
use crate::listener::ConnectionPermit;
use crate::transport::Layer;

const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a";
const PINGREQ: &[u8] = &[0xC0, 0];
const DISCONNECT: &[u8] = &[0xE0, 0];

/// An open connection with a socket that nobody speaks to.
async fn connected(shard: &mut Shard) -> Connection {
    let policy = HandshakePolicy {
        anonymous_allowed: true,
        password_allowed: false,
        methods: Vec::new(),
        vehicle_ids_reserved: false,
        overflow: Overflow::RefuseNew,
    };
    let mut handshake = Handshake::new(Arc::default(), policy, "auto".to_owned());
    let frame = frame(CONNECT, 1000).unwrap().unwrap();
    let packet = decode(&frame, &CONNECT[frame.header_bytes..], handshake.version()).unwrap();
    let Step::Accept(request) = handshake.handle(&packet) else { panic!("it is let in") };
    let version = request.version;
    let id = shard.open(Millis(0), *request);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let permit = Some(ConnectionPermit::unbounded());
    let peer = stream.local_addr().unwrap();
    Connection::new(id, version, stream, Layer::Plain, peer, None, permit)
}

fn answered(shard: &mut Shard, id: ConnectionId) -> usize {
    shard.outbox(id).unwrap().bytes()
}

#[tokio::test]
async fn a_long_turn_ends_between_two_packets_and_goes_on_where_it_ended() {
    let mut shard = Shard::new(Millis(0), Arc::default(), "test", 1);
    let mut connection = connected(&mut shard).await;
    let connack = answered(&mut shard, connection.id);
    let (turns, mut scratch) = (Cell::new(0), Scratch::new());
    let begin_turn = || {
        turns.set(turns.get() + 1);
        Millis(0)
    };
    let packets = 20;
    let mut bytes = [PINGREQ.repeat(packets).as_slice(), DISCONNECT, PINGREQ].concat();
    loop {
        let mut reading = Reading {
            begin_turn: &begin_turn,
            packet_bytes_max: 1000,
            // Its time is over already.
            budget: TurnBudget::until(Instant::now()),
            shard: &mut shard,
            scratch: &mut scratch,
        };
        match bytes.is_empty() {
            false => connection.feed_unread(&mut reading, std::mem::take(&mut bytes)),
            true => connection.feed_backlog(&mut reading).unwrap(),
        }
        if !connection.has_backlog() {
            break;
        }
        assert_eq!(answered(&mut shard, connection.id) - connack, 2 * turns.get(), "in turn {}", turns.get());
    }
    assert_eq!(turns.get(), packets + 1);
    assert_eq!(answered(&mut shard, connection.id) - connack, 2 * packets);
    assert!(!shard.is_open(connection.id), "DISCONNECT came through, and nothing behind it");
}

#[tokio::test]
async fn the_beginning_of_a_packet_is_no_backlog() {
    let mut shard = Shard::new(Millis(0), Arc::default(), "test", 1);
    let mut connection = connected(&mut shard).await;
    let mut scratch = Scratch::new();
    let mut reading = Reading {
        begin_turn: &|| Millis(0),
        packet_bytes_max: 1000,
        budget: TurnBudget::begin(),
        shard: &mut shard,
        scratch: &mut scratch,
    };
    connection.feed_unread(&mut reading, vec![0xC0]);
    assert!(!connection.has_backlog());
}

#[test]
fn only_a_timer_that_is_very_late_tells_of_a_pause() {
    assert!(!pause::happened(None, Millis(10_000)));
    assert!(!pause::happened(Some(Millis(10_000)), Millis(9_000)));
    assert!(!pause::happened(Some(Millis(10_000)), Millis(10_050)));
    assert!(pause::happened(Some(Millis(10_000)), Millis(11_000)));
}

#[test]
fn the_task_of_a_connection_costs_no_more_than_it_must() {
    // With up to 24 bytes, the runtime's task takes 128 of them; with more, it takes 256.
    assert!(size_of::<super::Reader>() <= 24);
}
