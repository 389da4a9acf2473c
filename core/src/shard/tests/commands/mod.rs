//! Commands as requesters and vehicles see them.

mod barred;
mod bounds;
mod crash;
mod crowd;
mod groups;
mod large;
mod many;
mod peers;
mod random;
mod replies;
mod room;
mod waiting;

use causeway_protocol::{
    Ack, Connect, ForwardedBuilder, ForwardedProperties, Packet, ProtocolVersion, Publish, ReasonCode, decode, frame,
};

use super::world::*;
use crate::{Identity, Limits, Principal};

const VIN: &str = "1M8GDM9AXKP042788";
const OTHER: &str = "WVWZZZ1JZ3W386752";
/// Where the backend is told.
const ANSWERS: &str = "backend/answers";

fn vehicle(vin: &str) -> Identity {
    Principal::Vehicle(vin.parse().unwrap()).into()
}

/// A PUBLISH that somebody got.
#[derive(Debug, Clone, PartialEq, Default)]
struct Got {
    topic: String,
    payload: String,
    qos: u8,
    dup: bool,
    id: u16,
    response_topic: Option<String>,
    correlation: Option<String>,
    expiry: Option<u32>,
    properties: Vec<(String, String)>,
}

impl Got {
    fn property(&self, name: &str) -> &str {
        self.properties.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The outcome it tells.
    fn outcome(&self) -> &str {
        self.property("cw-outcome")
    }

    fn command(&self) -> &str {
        self.property("cw-command")
    }
}

/// A request, or a reply.
#[derive(Debug, Clone, Copy)]
struct Said<'a> {
    topic: &'a str,
    payload: &'a str,
    qos: u8,
    id: u16,
    dup: bool,
    response_topic: Option<&'a str>,
    correlation: Option<&'a [u8]>,
    expiry: Option<u32>,
    properties: &'a [(&'a str, &'a str)],
}

fn to<'a>(topic: &'a str, payload: &'a str) -> Said<'a> {
    let (response_topic, correlation, expiry, properties) = (None, None, None, &[][..]);
    Said { topic, payload, qos: 1, id: 1, dup: false, response_topic, correlation, expiry, properties }
}

/// A request of the backend.
fn request<'a>(topic: &'a str, correlation: &'a str) -> Said<'a> {
    Said { response_topic: Some(ANSWERS), correlation: Some(correlation.as_bytes()), ..to(topic, "{}") }
}

fn full(said: &str) -> String {
    format!("vehicles/{VIN}/{said}")
}

impl World {
    fn say(&mut self, client: Client, said: Said<'_>) {
        let mut builder = ForwardedBuilder::new();
        if let Some(topic) = said.response_topic {
            builder = builder.response_topic(topic);
        }
        if let Some(data) = said.correlation {
            builder = builder.correlation_data(data);
        }
        for (name, value) in said.properties {
            builder = builder.user_property(name, value);
        }
        let bytes = builder.build().unwrap();
        let id = if said.qos == 0 { 0 } else { said.id };
        let mut packet = Publish { dup: said.dup, ..publish(said.qos, id, said.topic, said.payload) };
        packet.properties.message_expiry_interval_seconds = said.expiry;
        packet.properties.forwarded = ForwardedProperties::from_forwarded_bytes(&bytes).unwrap();
        self.publish(client, packet);
    }

    /// What a client got, all acknowledged, and the other words it heard.
    fn got(&mut self, client: Client) -> (Vec<Got>, Vec<String>) {
        let (mut got, mut others) = (Vec::new(), Vec::new());
        loop {
            self.shard_fetches();
            let bytes = self.taken(client.id);
            if bytes.is_empty() {
                return (got, others);
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let head = frame(rest, u32::MAX).unwrap().unwrap();
                let (packet, behind) = rest.split_at(head.total_bytes());
                rest = behind;
                let packet = decode(&head, &packet[head.header_bytes..], client.version).unwrap();
                match &packet {
                    Packet::Publish(publish) => {
                        got.push(of_publish(publish));
                        if let Some(id) = publish.packet_id {
                            self.send(client, Packet::PubAck(Ack::new(id, ReasonCode::Success)));
                        }
                    }
                    Packet::PubAck(ack) => others.push(format!("puback 0x{:02X}", ack.reason as u8)),
                    Packet::PubRec(ack) => others.push(format!("pubrec 0x{:02X}", ack.reason as u8)),
                    other => others.push(format!("{other:?}")),
                }
            }
        }
    }

    fn gotten(&mut self, client: Client) -> Vec<Got> {
        self.got(client).0
    }

    fn shard_fetches(&mut self) {
        self.shard.persisted(self.now, crate::Lsn(0));
        self.fetch_bodies();
    }
}

fn of_publish(publish: &Publish<'_>) -> Got {
    let forwarded = publish.properties.forwarded;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Got {
        topic: publish.topic.to_owned(),
        payload: text(publish.payload),
        qos: publish.qos as u8,
        dup: publish.dup,
        id: publish.packet_id.map_or(0, |id| id.get()),
        response_topic: forwarded.response_topic().map(str::to_owned),
        correlation: forwarded.correlation_data().map(text),
        expiry: publish.properties.message_expiry_interval_seconds,
        properties: forwarded.user_properties().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

/// A vehicle that takes commands, and a backend that is told about them; both resume.
fn pair(world: &mut World) -> (Client, Client) {
    (drive(world, VIN), service(world, "backend"))
}

fn drive(world: &mut World, vin: &str) -> Client {
    let (car, _) = world.dial_as(persistent(vin), vehicle(vin));
    world.subscribe(car, "cmd/#", options(1));
    world.gotten(car);
    car
}

fn service(world: &mut World, name: &str) -> Client {
    let (client, _) = world.dial_as(persistent(name), Principal::service(name));
    world.subscribe(client, ANSWERS, options(1));
    world.gotten(client);
    client
}

fn v311(client_id: &str) -> Connect<'_> {
    Connect { version: ProtocolVersion::V311, clean_start: false, ..connect(client_id) }
}

/// A world whose clock is that of our days: numbers of commands stand on it.
fn world() -> World {
    world_with(|_| {})
}

fn world_with(change: impl FnOnce(&mut Limits)) -> World {
    World::with(change)
}

/// The outcomes somebody got: Correlation Data and word.
fn outcomes(got: &[Got]) -> Vec<(String, String)> {
    let told = got.iter().filter(|got| !got.outcome().is_empty());
    told.map(|got| (got.correlation.clone().unwrap_or_default(), got.outcome().to_owned())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(correlation, outcome)| ((*correlation).to_owned(), (*outcome).to_owned())).collect()
}
