//! Clients that come and go, and what waits for them meanwhile.
//!
//! Owns the comings and goings: by CONNECT and DISCONNECT as bytes, through the handshake. No password is checked and no TLS spoken:
//! both cost far more, and are not the core's.

use anyhow::{Result, ensure};
use causeway_core::{ConnectionId, Lsn};
use causeway_protocol::{Disconnect, Packet, ProtocolVersion, QoS};

use crate::HotPath;
use crate::broker::Broker;
use crate::client::{bytes_of, connect, payload, publish, vin};
use crate::measure::{Meter, Run};

const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;
/// Messages that wait for a client who is away.
const WAITING: u16 = 100;
/// Pings of one run.
const PINGS: u64 = 100;
/// Records of one run.
const RECORDS: u64 = 100;

pub(crate) const PATHS: &[HotPath] = &[
    HotPath {
        name: "connect",
        operation: "CONNECT and DISCONNECT of a client that leaves nothing",
        operations: 1,
        runs: 1000,
        prepare: || comes_and_goes(false),
    },
    HotPath {
        name: "connect-kept",
        operation: "the same, of a client whose session is kept: with its records",
        operations: 1,
        runs: 1000,
        prepare: || comes_and_goes(true),
    },
    HotPath {
        name: "connect-vehicle",
        operation: "the same as connect-kept, of a vehicle: with both events of presence",
        operations: 1,
        runs: 1000,
        prepare: vehicle_comes_and_goes,
    },
    HotPath { name: "ping", operation: "PINGREQ and PINGRESP", operations: PINGS, runs: 40, prepare: pings },
    HotPath {
        name: "away-qos1",
        operation: "one of 100 messages of 256 B that wait for a client, and are taken and acknowledged when it is back",
        operations: WAITING as u64,
        runs: 40,
        prepare: away,
    },
    HotPath {
        name: "replay",
        operation: "the record of a message of 256 B, QoS 1, for one session: replayed at a start",
        operations: RECORDS,
        runs: 40,
        prepare: replay,
    },
];

fn vehicle_comes_and_goes() -> Result<Run> {
    let mut broker = Broker::new();
    broker.is_proven = true;
    with_broker(broker, &vin(1), true)
}

fn comes_and_goes(is_kept: bool) -> Result<Run> {
    with_broker(Broker::new(), "vehicle", is_kept)
}

fn with_broker(mut broker: Broker, client_id: &str, is_kept: bool) -> Result<Run> {
    let connect = bytes_of(&connect(client_id, V5, is_kept), V5)?;
    let disconnect = bytes_of(&Packet::Disconnect(Disconnect::default()), V5)?;
    let run = move |meter: &Meter| {
        let Ok(client) = broker.come(meter, &connect, V5) else { return 0 };
        let is_in = broker.shard.is_open(client);
        broker.exchange(meter, &[(client, V5, disconnect.clone())]);
        u64::from(is_in && !broker.shard.is_open(client))
    };
    Ok(Box::new(run))
}

fn pings() -> Result<Run> {
    let mut broker = Broker::new();
    let client = broker.connect("vehicle", V311, false)?;
    let ping = [(client, V311, bytes_of(&Packet::PingReq, V311)?)];
    let run = move |meter: &Meter| {
        (0..PINGS).for_each(|_| broker.exchange(meter, &ping));
        if broker.shard.is_open(client) { PINGS } else { 0 }
    };
    Ok(Box::new(run))
}

/// A vehicle whose session outlives its connection, which is over: its topic, and a client that may publish there.
fn one_away(broker: &mut Broker) -> Result<(String, ConnectionId)> {
    let topic = format!("vehicles/{}/cmd", vin(1));
    let vehicle = broker.connect("vehicle", V5, true)?;
    broker.subscribe(vehicle, &topic, QoS::AtLeastOnce)?;
    broker.disconnect(vehicle)?;
    Ok((topic, broker.connect("backend", V311, false)?))
}

fn away() -> Result<Run> {
    let mut broker = Broker::new();
    let (topic, backend) = one_away(&mut broker)?;
    let payload = payload(256);
    let mut bytes = Vec::new();
    for packet_id in 1..=WAITING {
        let publish = publish(&topic, QoS::AtLeastOnce, packet_id, &payload);
        bytes.extend(bytes_of(&Packet::Publish(publish), V311)?);
    }
    let connect = bytes_of(&connect("vehicle", V5, true), V5)?;
    let disconnect = bytes_of(&Packet::Disconnect(Disconnect::default()), V5)?;
    let inputs = [(backend, V311, bytes)];
    let run = move |meter: &Meter| {
        broker.exchange(meter, &inputs);
        let Ok(vehicle) = broker.come(meter, &connect, V5) else { return 0 };
        broker.exchange(meter, &[(vehicle, V5, disconnect.clone())]);
        broker.clients.take_delivered()
    };
    Ok(Box::new(run))
}

/// The records of a session that is away, and of a message for it; then that message's again and again.
fn replay() -> Result<Run> {
    let mut broker = Broker::new();
    broker.records = Some(Vec::new());
    let (topic, backend) = one_away(&mut broker)?;
    let payload = payload(256);
    let message = bytes_of(&Packet::Publish(publish(&topic, QoS::AtLeastOnce, 1, &payload)), V311)?;
    broker.exchange(&Meter::WARM_UP, &[(backend, V311, message)]);
    let records = broker.records.take().unwrap_or_default();
    let record = records.last().cloned().unwrap_or_default();
    ensure!(record.windows(payload.len()).any(|window| window == payload), "the last record is not the message");

    let mut shard = Broker::new().shard;
    let mut last = 0;
    for bytes in &records {
        last += 1;
        shard.replay(Lsn(last), bytes)?;
    }
    let run = move |meter: &Meter| {
        let mut replayed = 0;
        meter.measure(|| {
            for _ in 0..RECORDS {
                last += 1;
                replayed += u64::from(shard.replay(Lsn(last), &record).is_ok());
            }
        });
        replayed
    };
    Ok(Box::new(run))
}
