//! Who wants a message: the index of subscriptions, at the sizes of a fleet.
//!
//! Owns the subscriptions and the order of the topics. Subscribers are away and the messages have QoS 0, so that the way of a message
//! ends with the match; what is before it is what [`PATHS`]'s first costs. Only the shared group has members who are there.

use anyhow::{Result, ensure};
use causeway_core::ConnectionId;
use causeway_protocol::{Packet, ProtocolVersion, QoS};

use crate::HotPath;
use crate::broker::Broker;
use crate::client::{bytes_of, payload, publish, vin};
use crate::measure::{Meter, Run};

const VERSION: ProtocolVersion = ProtocolVersion::V5;
/// Subscriptions of a shard's vehicles.
const VEHICLES: usize = 10_000;
/// Vehicles with a wildcard filter of their own.
const WILDCARD_VEHICLES: usize = 1_000;
/// Publishes of one run.
const PUBLISHES: u64 = 100;
/// What backends ask for.
const BROAD_FILTERS: [&str; 8] = [
    "vehicles/#",
    "vehicles/+/telemetry",
    "vehicles/+/status/#",
    "vehicles/+/status/+",
    "vehicles/+/ECU_Details",
    "groups/+/OTA_Update",
    "fleet/#",
    "+/+/status/location",
];

pub(crate) const PATHS: &[HotPath] = &[
    HotPath {
        name: "match-nobody",
        operation: "PUBLISH of QoS 0 that nobody wants, with no subscription at all: what the others have in front",
        operations: PUBLISHES,
        runs: 100,
        prepare: || run_of(Broker::new(), vec![topic_of(1, "cmd")]),
    },
    HotPath {
        name: "match-exact",
        operation: "the same, one exact filter matches",
        operations: PUBLISHES,
        runs: 100,
        prepare: || away(&[topic_of(1, "cmd")], &[topic_of(1, "cmd")]),
    },
    HotPath {
        name: "match-vehicles",
        operation: "the same, one of 10,000 filters matches, each another one",
        operations: VEHICLES as u64,
        runs: 10,
        prepare: || {
            let topics: Vec<String> = (0..VEHICLES).map(|index| topic_of(index, "cmd")).collect();
            away(&topics, &shuffled(&topics))
        },
    },
    HotPath {
        name: "match-wildcards",
        operation: "the same, 5 of 1,008 wildcard filters match: 1,000 vehicles/{vin}/# and 8 with + or # for all",
        operations: WILDCARD_VEHICLES as u64,
        runs: 10,
        prepare: || {
            let own = (0..WILDCARD_VEHICLES).map(|index| topic_of(index, "#"));
            let filters: Vec<String> = own.chain(BROAD_FILTERS.map(str::to_owned)).collect();
            let topics: Vec<String> = (0..WILDCARD_VEHICLES).map(|index| topic_of(index, "status/location")).collect();
            away(&filters, &shuffled(&topics))
        },
    },
    HotPath {
        name: "match-group",
        operation: "the same, a shared group of 10 matches by a wildcard, and one who is there gets it",
        operations: PUBLISHES,
        runs: 50,
        prepare: group,
    },
];

fn topic_of(vehicle: usize, rest: &str) -> String {
    format!("vehicles/{}/{rest}", vin(vehicle))
}

/// The same in every run, and no two neighbours side by side.
fn shuffled(topics: &[String]) -> Vec<String> {
    // Coprime to the numbers of topics here.
    const STRIDE: usize = 7_919;
    (0..topics.len()).map(|index| topics[index * STRIDE % topics.len()].clone()).collect()
}

/// One session for each filter. Each topic reaches somebody, which is seen while they are there; then they leave.
fn away(filters: &[String], topics: &[String]) -> Result<Run> {
    let mut broker = Broker::new();
    let mut subscribers: Vec<ConnectionId> = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        let subscriber = broker.connect(&format!("subscriber-{index}"), VERSION, true)?;
        broker.subscribe(subscriber, filter, QoS::AtLeastOnce)?;
        subscribers.push(subscriber);
    }
    let probe = broker.connect("probe", VERSION, false)?;
    broker.exchange(&Meter::WARM_UP, &[(probe, VERSION, publishes(&topics[..1])?)]);
    ensure!(broker.clients.take_delivered() > 0, "{} matches nothing", topics[0]);
    broker.disconnect(probe)?;
    for subscriber in subscribers {
        broker.disconnect(subscriber)?;
    }
    run_of(broker, topics.to_vec())
}

/// Publishes to each topic, and settles once.
fn run_of(mut broker: Broker, topics: Vec<String>) -> Result<Run> {
    let publisher = broker.connect("publisher", VERSION, false)?;
    let operations = if topics.len() == 1 { PUBLISHES } else { topics.len() as u64 };
    let topics: Vec<String> = topics.iter().cycle().take(operations as usize).cloned().collect();
    let inputs = [(publisher, VERSION, publishes(&topics)?)];
    let run = move |meter: &Meter| {
        let before = broker.shard.counters().publish_received[0];
        broker.exchange(meter, &inputs);
        broker.shard.counters().publish_received[0] - before
    };
    Ok(Box::new(run))
}

fn group() -> Result<Run> {
    let mut broker = Broker::new();
    for index in 0..10 {
        let member = broker.connect(&format!("member-{index}"), VERSION, false)?;
        broker.subscribe(member, "$share/backends/vehicles/+/telemetry", QoS::AtMostOnce)?;
    }
    let publisher = broker.connect("publisher", VERSION, false)?;
    let topics: Vec<String> = (0..PUBLISHES as usize).map(|index| topic_of(index, "telemetry")).collect();
    let inputs = [(publisher, VERSION, publishes(&topics)?)];
    let run = move |meter: &Meter| {
        broker.exchange(meter, &inputs);
        broker.clients.take_delivered()
    };
    Ok(Box::new(run))
}

/// A read buffer with a PUBLISH to each topic.
fn publishes(topics: &[String]) -> Result<Vec<u8>> {
    let payload = payload(256);
    let mut bytes = Vec::new();
    for topic in topics {
        bytes.extend(bytes_of(&Packet::Publish(publish(topic, QoS::AtMostOnce, 0, &payload)), VERSION)?);
    }
    Ok(bytes)
}
