//! Bytes to packets and back.
//!
//! Owns the packets: a vehicle's telemetry of 256 bytes, with and without the properties of MQTT 5, and its acknowledgement. They
//! never reach a shard.

use std::hint::black_box;

use anyhow::Result;
use bytes::BytesMut;
use causeway_protocol::{
    Ack, ForwardedBuilder, ForwardedProperties, Packet, PacketId, ProtocolVersion, Publish, PublishHead,
    PublishProperties, QoS, ReasonCode, decode, encode, encode_publish_head, frame,
};

use crate::HotPath;
use crate::client::{bytes_of, payload, publish, vin};
use crate::measure::{Meter, Run};

/// Packets of one run: so many that what is around them is not seen.
const PACKETS: u64 = 100;
/// Bytes of the shard's read buffer.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Whole packets that fit in it, of the mixture below.
const READ_BUFFER_PACKETS: u64 = 600;
/// The default of `packet_bytes_max`.
const PACKET_BYTES_MAX: u32 = 1 << 20;

pub(crate) const PATHS: &[HotPath] = &[
    HotPath {
        name: "decode-publish-qos0",
        operation: "PUBLISH of 256 B, 3.1.1, framed and decoded",
        operations: PACKETS,
        runs: 200,
        prepare: || decodes(&publish_v311(QoS::AtMostOnce)?, ProtocolVersion::V311),
    },
    HotPath {
        name: "decode-publish-qos1-v5",
        operation: "PUBLISH of 256 B, QoS 1, 5.0 with five properties, framed and decoded",
        operations: PACKETS,
        runs: 200,
        prepare: || decodes(&publish_v5()?, ProtocolVersion::V5),
    },
    HotPath {
        name: "decode-puback",
        operation: "PUBACK, framed and decoded",
        operations: PACKETS,
        runs: 200,
        prepare: || decodes(&puback(7)?, ProtocolVersion::V5),
    },
    HotPath {
        name: "decode-read-buffer",
        operation: "one packet of 600 in a read buffer: PUBLISH of 64 B with QoS 0 and 1, and PUBACK",
        operations: READ_BUFFER_PACKETS,
        runs: 40,
        prepare: || decodes_all(read_buffer()?, ProtocolVersion::V311),
    },
    HotPath {
        name: "encode-publish",
        operation: "PUBLISH of 256 B, QoS 1, 3.1.1: head and payload into a warm buffer",
        operations: PACKETS,
        runs: 200,
        prepare: || encodes_publish(ProtocolVersion::V311),
    },
    HotPath {
        name: "encode-publish-v5",
        operation: "PUBLISH of 256 B, QoS 1, 5.0 with six properties: head and payload into a warm buffer",
        operations: PACKETS,
        runs: 200,
        prepare: || encodes_publish(ProtocolVersion::V5),
    },
    HotPath {
        name: "encode-puback",
        operation: "PUBACK into a warm buffer",
        operations: PACKETS,
        runs: 200,
        prepare: encodes_puback,
    },
];

/// A read buffer with the same packet `PACKETS` times.
fn decodes(packet: &[u8], version: ProtocolVersion) -> Result<Run> {
    decodes_all(packet.repeat(PACKETS as usize), version)
}

/// Decodes all packets in a read buffer.
fn decodes_all(bytes: Vec<u8>, version: ProtocolVersion) -> Result<Run> {
    let run = move |meter: &Meter| {
        let mut packets = 0;
        meter.measure(|| packets = decode_all(black_box(&bytes), version));
        packets
    };
    Ok(Box::new(run))
}

/// How many packets there are, up to what is none. Never inlined, so that nothing else can change what surrounds the decoder.
#[inline(never)]
fn decode_all(bytes: &[u8], version: ProtocolVersion) -> u64 {
    let (mut rest, mut packets) = (bytes, 0);
    while let Ok(Some(head)) = frame(rest, PACKET_BYTES_MAX) {
        let Some(packet) = rest.get(..head.total_bytes()) else { break };
        let Ok(decoded) = decode(&head, &packet[head.header_bytes..], version) else { break };
        black_box(&decoded);
        rest = &rest[head.total_bytes()..];
        packets += 1;
    }
    packets
}

fn encodes_publish(version: ProtocolVersion) -> Result<Run> {
    let (topic, payload, forwarded) = (telemetry_topic(), payload(256), forwarded()?);
    let mut out = BytesMut::new();
    let run = move |meter: &Meter| {
        out.clear();
        let forwarded = ForwardedProperties::from_forwarded_bytes(&forwarded).unwrap_or_default();
        let head = PublishHead {
            stamps: &[],
            qos: QoS::AtLeastOnce,
            topic: &topic,
            packet_id: Some(PacketId::MIN),
            message_expiry_interval_seconds: Some(60),
            subscription_identifiers: &[7],
            forwarded,
            payload_bytes: payload.len(),
            ..PublishHead::default()
        };
        let mut packets = 0;
        meter.measure(|| {
            for _ in 0..PACKETS {
                packets += u64::from(encode_publish_head(black_box(&head), version, &mut out).is_ok());
                out.extend_from_slice(black_box(&payload));
            }
        });
        packets
    };
    Ok(Box::new(run))
}

fn encodes_puback() -> Result<Run> {
    let mut out = BytesMut::new();
    let run = move |meter: &Meter| {
        out.clear();
        let ack = Packet::PubAck(Ack::new(PacketId::MIN, ReasonCode::Success));
        let mut packets = 0;
        meter.measure(|| {
            for _ in 0..PACKETS {
                packets += u64::from(encode(black_box(&ack), ProtocolVersion::V5, &mut out).is_ok());
            }
        });
        packets
    };
    Ok(Box::new(run))
}

fn telemetry_topic() -> String {
    format!("vehicles/{}/telemetry", vin(1))
}

/// What a publisher of the cloud says about a message.
fn forwarded() -> Result<Vec<u8>> {
    let properties = ForwardedBuilder::new().content_type("application/json").response_topic("backend/responses");
    Ok(properties.user_property("trace", "0af7651916cd43dd").user_property("schema", "4").build()?)
}

fn publish_v311(qos: QoS) -> Result<Vec<u8>> {
    let (topic, payload) = (telemetry_topic(), payload(256));
    bytes_of(&Packet::Publish(publish(&topic, qos, 7, &payload)), ProtocolVersion::V311)
}

/// The PUBLISH of 5.0 with all that a vehicle might say.
pub(crate) fn publish_v5_to(topic: &str, qos: QoS) -> Result<Vec<u8>> {
    let (payload, forwarded) = (payload(256), forwarded()?);
    let properties = PublishProperties {
        message_expiry_interval_seconds: Some(60),
        forwarded: ForwardedProperties::from_forwarded_bytes(&forwarded)?,
        ..PublishProperties::default()
    };
    let publish = Publish { properties, ..publish(topic, qos, 7, &payload) };
    bytes_of(&Packet::Publish(publish), ProtocolVersion::V5)
}

fn publish_v5() -> Result<Vec<u8>> {
    publish_v5_to(&telemetry_topic(), QoS::AtLeastOnce)
}

fn puback(packet_id: u16) -> Result<Vec<u8>> {
    let packet_id = PacketId::new(packet_id).unwrap_or(PacketId::MIN);
    bytes_of(&Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)), ProtocolVersion::V311)
}

fn read_buffer() -> Result<Vec<u8>> {
    let (topic, payload) = (telemetry_topic(), payload(64));
    let mut bytes = Vec::new();
    for index in 0..READ_BUFFER_PACKETS {
        let qos = if index % 3 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        bytes.extend(match index % 3 {
            2 => puback(index as u16)?,
            _ => bytes_of(&Packet::Publish(publish(&topic, qos, 7, &payload)), ProtocolVersion::V311)?,
        });
    }
    anyhow::ensure!(bytes.len() <= READ_BUFFER_BYTES, "{} bytes do not fit the read buffer", bytes.len());
    Ok(bytes)
}
