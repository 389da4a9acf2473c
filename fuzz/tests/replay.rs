//! Every file of every corpus, run through its target: what a fuzzer once found stays found.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use causeway_fuzz::{SessionStep, TARGETS, decoder_input, session_step};
use causeway_protocol::{
    Ack, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe,
    SubscriptionOptions, Will, encode,
};

#[path = "../../protocol/tests/vectors/mod.rs"]
mod vectors;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

#[test]
fn every_corpus_holds() {
    for (name, target) in TARGETS {
        let mut files = 0;
        for entry in fs::read_dir(corpus(name)).expect("each target has a corpus") {
            let path = entry.expect("readable").path();
            let data = fs::read(&path).expect("readable");
            // A panic names the file, which is what replays it.
            if std::panic::catch_unwind(|| target(&data)).is_err() {
                panic!("{name} fails on {}", path.display());
            }
            files += 1;
        }
        assert!(files > 0, "{name} has an empty corpus");
    }
}

/// The seeds of `decoder` are the codec's test vectors. With `CAUSEWAY_WRITE_SEEDS` set this writes them.
#[test]
fn the_seeds_of_the_decoder_are_the_vectors() {
    let folder = corpus("decoder");
    for (kind, table) in
        [("canonical", vectors::CANONICAL), ("tolerated", vectors::TOLERATED), ("invalid", vectors::INVALID)]
    {
        for (number, (version, notation, _)) in table.iter().enumerate() {
            let path = folder.join(format!("{kind}-{number:03}"));
            let seed = decoder_input(&vectors::bytes(notation), *version);
            write_or_compare(&path, &seed);
        }
    }
}

fn write_or_compare(path: &Path, seed: &[u8]) {
    if std::env::var_os("CAUSEWAY_WRITE_SEEDS").is_some() {
        fs::create_dir_all(path.parent().expect("in a folder")).expect("writable");
        fs::write(path, seed).expect("writable");
    } else {
        let stored = fs::read(path).unwrap_or_default();
        assert_eq!(stored, seed, "{}: run this with CAUSEWAY_WRITE_SEEDS=1", path.display());
    }
}

fn sent(client: u8, version: ProtocolVersion, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes).expect("encodes");
    let step = if matches!(packet, Packet::Connect(_)) { SessionStep::Dial } else { SessionStep::Send };
    session_step(client, step, &bytes)
}

/// The seeds of `session` are short stories: two clients, every QoS, one theme each.
#[test]
fn the_seeds_of_the_session_are_these_stories() {
    let folder = corpus("session");
    let versions = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];
    let filters = ["t/1", "t/+", "#", "$share/g/t/#"];
    for (number, (version, filter)) in
        versions.into_iter().flat_map(|version| filters.map(|filter| (version, filter))).enumerate()
    {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let path = folder.join(format!("story-{number:02}-{}", qos as u8));
            write_or_compare(&path, &story(version, filter, qos));
        }
    }
}

fn story(version: ProtocolVersion, filter: &str, qos: QoS) -> Vec<u8> {
    let id = |id| PacketId::new(id).expect("not zero");
    let ack = |number| Ack::new(id(number), ReasonCode::Success);
    let connect = |client_id| {
        let v5 = version == ProtocolVersion::V5;
        Packet::Connect(Box::new(Connect {
            version,
            clean_start: false,
            keep_alive_seconds: 10,
            client_id,
            will: Some(Will {
                qos,
                retain: true,
                topic: "t/will",
                payload: b"w",
                delay_interval_seconds: v5.then_some(5),
                message_expiry_interval_seconds: v5.then_some(9),
                forwarded: Default::default(),
            }),
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval_seconds: v5.then_some(100),
                receive_maximum: v5.then_some(2),
                topic_alias_maximum: v5.then_some(1),
                maximum_packet_size_bytes: v5.then_some(64),
                ..Default::default()
            },
        }))
    };
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: id(9),
        subscription_identifier: (version == ProtocolVersion::V5).then_some(3),
        user_properties: Vec::new(),
        filters: vec![(filter, SubscriptionOptions { qos, ..Default::default() })],
    });
    let publish = |number| {
        Packet::Publish(Publish {
            qos,
            retain: number == 2,
            packet_id: (qos != QoS::AtMostOnce).then(|| id(number)),
            topic: "t/1",
            payload: b"payload",
            ..Default::default()
        })
    };
    let mut data = Vec::new();
    data.extend(sent(0, version, &connect("a")));
    data.extend(sent(0, version, &subscribe));
    data.extend(sent(1, version, &connect("b")));
    for number in 1..=4 {
        data.extend(sent(1, version, &publish(number)));
    }
    data.extend(session_step(0, SessionStep::Sync, &[]));
    data.extend(session_step(0, SessionStep::Read, &[]));
    for packet in [Packet::PubAck(ack(1)), Packet::PubRec(ack(1)), Packet::PubComp(ack(1)), Packet::PingReq] {
        data.extend(sent(0, version, &packet));
    }
    data.extend(sent(1, version, &Packet::PubRel(ack(1))));
    data.extend(session_step(0, SessionStep::HangUp, &[]));
    data.extend(session_step(0, SessionStep::Wait, &[30]));
    data.extend(sent(0, version, &connect("a")));
    data.extend(session_step(0, SessionStep::Read, &[]));
    data.extend(sent(0, version, &Packet::Disconnect(Default::default())));
    data.extend(session_step(1, SessionStep::Wait, &[200]));
    data
}
