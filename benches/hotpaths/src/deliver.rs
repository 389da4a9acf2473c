//! A message on its whole way through the shard: from the publisher's read buffer into the outboxes of its subscribers, and what they
//! acknowledge back.
//!
//! Owns who publishes and who listens. One in flight is a turn of its own for every message; a burst is 50 messages that came with one
//! read, and are written with one write. Where a session outlives its connection, the message is a record that is waited for.

use anyhow::Result;
use causeway_protocol::{Packet, ProtocolVersion, QoS};

use crate::HotPath;
use crate::broker::Broker;
use crate::client::{Input, bytes_of, payload, publish, vin};
use crate::codec::publish_v5_to;
use crate::measure::{Meter, Run};

const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;
/// Messages of one read.
const BURST: u16 = 50;
/// Subscribers of a fan-out.
const SUBSCRIBERS: u64 = 500;
/// Publishers of a fan-in.
const VEHICLES: usize = 200;
/// Members of a shared subscription.
const MEMBERS: usize = 4;
/// Bytes of a payload.
const SMALL: usize = 256;
/// From 2 KiB on, a payload is shared instead of copied.
const LARGE: usize = 4096;

pub(crate) const PATHS: &[HotPath] = &[
    HotPath {
        name: "deliver-qos0",
        operation: "one message of 256 B to one subscriber, QoS 0, one in flight",
        operations: 1,
        runs: 4000,
        prepare: || one_to_one(QoS::AtMostOnce, false, 1),
    },
    HotPath {
        name: "deliver-qos0-burst",
        operation: "the same, 50 in flight",
        operations: BURST as u64,
        runs: 100,
        prepare: || one_to_one(QoS::AtMostOnce, false, BURST),
    },
    HotPath {
        name: "deliver-qos0-v5",
        operation: "the same as deliver-qos0, 5.0 with five properties",
        operations: 1,
        runs: 4000,
        prepare: one_to_one_v5,
    },
    HotPath {
        name: "deliver-qos1",
        operation: "one message of 256 B to one subscriber, QoS 1, one in flight, no record: both PUBACKs",
        operations: 1,
        runs: 4000,
        prepare: || one_to_one(QoS::AtLeastOnce, false, 1),
    },
    HotPath {
        name: "deliver-qos1-burst",
        operation: "the same, 50 in flight",
        operations: BURST as u64,
        runs: 100,
        prepare: || one_to_one(QoS::AtLeastOnce, false, BURST),
    },
    HotPath {
        name: "deliver-qos1-durable",
        operation: "the same as deliver-qos1, to a session that outlives its connection: record taken, durable, both PUBACKs",
        operations: 1,
        runs: 4000,
        prepare: || one_to_one(QoS::AtLeastOnce, true, 1),
    },
    HotPath {
        name: "deliver-qos1-durable-burst",
        operation: "the same, 50 in flight",
        operations: BURST as u64,
        runs: 100,
        prepare: || one_to_one(QoS::AtLeastOnce, true, BURST),
    },
    HotPath {
        name: "deliver-qos2",
        operation: "one message of 256 B to one subscriber, QoS 2, one in flight, no record: all eight packets",
        operations: 1,
        runs: 2000,
        prepare: || one_to_one(QoS::ExactlyOnce, false, 1),
    },
    HotPath {
        name: "deliver-qos2-durable",
        operation: "the same, between sessions that outlive their connections: with all records",
        operations: 1,
        runs: 2000,
        prepare: || one_to_one(QoS::ExactlyOnce, true, 1),
    },
    HotPath {
        name: "fan-out-qos0",
        operation: "one of the 500 deliveries of a message of 256 B, QoS 0",
        operations: SUBSCRIBERS,
        runs: 10,
        prepare: || fan_out(QoS::AtMostOnce, SMALL),
    },
    HotPath {
        name: "fan-out-qos0-4k",
        operation: "the same with 4 KiB, which all outboxes share",
        operations: SUBSCRIBERS,
        runs: 10,
        prepare: || fan_out(QoS::AtMostOnce, LARGE),
    },
    HotPath {
        name: "fan-out-qos1",
        operation: "one of the 500 deliveries of a message of 256 B, QoS 1, with its PUBACK",
        operations: SUBSCRIBERS,
        runs: 10,
        prepare: || fan_out(QoS::AtLeastOnce, SMALL),
    },
    HotPath {
        name: "fan-in-qos0",
        operation: "one message of 256 B to a backend by a wildcard, QoS 0, from 200 vehicles with one each",
        operations: VEHICLES as u64,
        runs: 25,
        prepare: || fan_in(QoS::AtMostOnce),
    },
    HotPath {
        name: "fan-in-qos1",
        operation: "the same, QoS 1, no record: both PUBACKs",
        operations: VEHICLES as u64,
        runs: 25,
        prepare: || fan_in(QoS::AtLeastOnce),
    },
    HotPath {
        name: "fan-in-origin",
        operation: "the same, from vehicles in their own words to a service that speaks 5.0: with where each message comes from",
        operations: VEHICLES as u64,
        runs: 40,
        prepare: fan_in_with_origin,
    },
    HotPath {
        name: "share-qos1",
        operation: "one message of 256 B to one of 4 members of a shared subscription, QoS 1, from 200 vehicles with one each",
        operations: VEHICLES as u64,
        runs: 25,
        prepare: share,
    },
];

/// What is sent in one run, and the broker it is sent to. Returns the messages delivered.
fn exchanges(mut broker: Broker, inputs: Vec<Input>) -> Result<Run> {
    let run = move |meter: &Meter| {
        broker.exchange(meter, &inputs);
        broker.clients.take_delivered()
    };
    Ok(Box::new(run))
}

/// So many messages of 256 B to one topic, with identifiers from 1 on: all are acknowledged within a run.
fn messages(topic: &str, qos: QoS, count: u16, payload_bytes: usize) -> Result<Vec<u8>> {
    let payload = payload(payload_bytes);
    let mut bytes = Vec::new();
    for packet_id in 1..=count {
        bytes.extend(bytes_of(&Packet::Publish(publish(topic, qos, packet_id, &payload)), V311)?);
    }
    Ok(bytes)
}

fn one_to_one(qos: QoS, is_durable: bool, count: u16) -> Result<Run> {
    let mut broker = Broker::new();
    let topic = format!("vehicles/{}/cmd", vin(1));
    let subscriber = broker.connect("subscriber", V311, is_durable)?;
    broker.subscribe(subscriber, &topic, qos)?;
    let publisher = broker.connect("publisher", V311, is_durable)?;
    exchanges(broker, vec![(publisher, V311, messages(&topic, qos, count, SMALL)?)])
}

fn one_to_one_v5() -> Result<Run> {
    let mut broker = Broker::new();
    let topic = format!("vehicles/{}/cmd", vin(1));
    let subscriber = broker.connect("subscriber", V5, false)?;
    broker.subscribe(subscriber, &topic, QoS::AtMostOnce)?;
    let publisher = broker.connect("publisher", V5, false)?;
    exchanges(broker, vec![(publisher, V5, publish_v5_to(&topic, QoS::AtMostOnce)?)])
}

fn fan_out(qos: QoS, payload_bytes: usize) -> Result<Run> {
    let mut broker = Broker::new();
    for index in 0..SUBSCRIBERS {
        let subscriber = broker.connect(&format!("subscriber-{index}"), V311, false)?;
        broker.subscribe(subscriber, "fleet/notice", qos)?;
    }
    let publisher = broker.connect("publisher", V311, false)?;
    exchanges(broker, vec![(publisher, V311, messages("fleet/notice", qos, 1, payload_bytes)?)])
}

fn fan_in(qos: QoS) -> Result<Run> {
    let mut broker = Broker::new();
    let backend = broker.connect("backend", V311, false)?;
    broker.subscribe(backend, "vehicles/+/telemetry", qos)?;
    vehicles(broker, qos)
}

fn share() -> Result<Run> {
    let mut broker = Broker::new();
    for index in 0..MEMBERS {
        let member = broker.connect(&format!("member-{index}"), V311, false)?;
        broker.subscribe(member, "$share/backends/vehicles/+/telemetry", QoS::AtLeastOnce)?;
    }
    vehicles(broker, QoS::AtLeastOnce)
}

fn fan_in_with_origin() -> Result<Run> {
    let mut broker = Broker::new();
    broker.is_proven = true;
    let backend = broker.connect("backend", V5, false)?;
    broker.subscribe(backend, "vehicles/+/telemetry", QoS::AtLeastOnce)?;
    vehicles(broker, QoS::AtLeastOnce)
}

/// Each vehicle sends one message in a run.
fn vehicles(mut broker: Broker, qos: QoS) -> Result<Run> {
    let mut inputs = Vec::new();
    for index in 0..VEHICLES {
        let vehicle = broker.connect(&vin(index), V311, false)?;
        let mount = if broker.is_proven { String::new() } else { format!("vehicles/{}/", vin(index)) };
        inputs.push((vehicle, V311, messages(&format!("{mount}telemetry"), qos, 1, SMALL)?));
    }
    exchanges(broker, inputs)
}
