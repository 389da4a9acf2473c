//! The clients of a hot path: what they send, and how they answer what they get.
//!
//! Owns the bytes in both directions and the number of messages that arrived. It is never part of what is counted.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use causeway_core::ConnectionId;
use causeway_protocol::{
    Ack, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe,
    SubscriptionOptions, decode, encode, frame,
};

/// Bytes to the broker: from whom, in which version.
pub(crate) type Input = (ConnectionId, ProtocolVersion, Vec<u8>);

/// All clients of a broker, by the index of their connection.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    known: Vec<(ConnectionId, ProtocolVersion)>,
    delivered: u64,
    /// What no client expects, such as bytes that are no packet, or a refusal.
    wrong: u64,
}

impl Clients {
    /// From now on, `id` is a client that speaks `version`.
    pub(crate) fn add(&mut self, id: ConnectionId, version: ProtocolVersion) {
        let missing = (id.index() + 1).saturating_sub(self.known.len());
        self.known.extend(std::iter::repeat_n((id, version), missing));
        self.known[id.index()] = (id, version);
    }

    /// What a client speaks.
    pub(crate) fn version(&self, id: ConnectionId) -> ProtocolVersion {
        self.known.get(id.index()).map_or(ProtocolVersion::V5, |(_, version)| *version)
    }

    /// A client gets bytes, which are whole packets. Its answer, which may be nothing.
    pub(crate) fn hear(&mut self, to: ConnectionId, bytes: &[u8]) -> Input {
        let version = self.version(to);
        let mut answer = BytesMut::new();
        if self.hear_packets(version, bytes, &mut answer).is_err() {
            self.wrong += 1;
        }
        (to, version, answer.to_vec())
    }

    /// How many messages arrived since this was last asked; none where anything was wrong.
    pub(crate) fn take_delivered(&mut self) -> u64 {
        let delivered = std::mem::take(&mut self.delivered);
        if self.wrong == 0 { delivered } else { 0 }
    }

    fn hear_packets(&mut self, version: ProtocolVersion, bytes: &[u8], answer: &mut BytesMut) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let head = frame(rest, u32::MAX)?.filter(|head| head.total_bytes() <= rest.len());
            let head = head.context("the broker writes whole packets")?;
            let (packet, behind) = rest.split_at(head.total_bytes());
            let packet = decode(&head, &packet[head.header_bytes..], version)?;
            self.delivered += u64::from(matches!(packet, Packet::Publish(_)));
            if let Some(said) = answer_to(&packet)? {
                encode(&said, version, answer)?;
            }
            rest = behind;
        }
        Ok(())
    }
}

/// What a client says to a packet of the broker.
fn answer_to(packet: &Packet<'_>) -> Result<Option<Packet<'static>>> {
    let ack = |packet_id| Ack::new(packet_id, ReasonCode::Success);
    let answer = match packet {
        Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => Some(Packet::PubAck(ack(packet_id))),
            (QoS::ExactlyOnce, Some(packet_id)) => Some(Packet::PubRec(ack(packet_id))),
            _ => None,
        },
        Packet::PubRec(received) => Some(Packet::PubRel(ack(received.packet_id))),
        Packet::PubRel(released) => Some(Packet::PubComp(ack(released.packet_id))),
        Packet::PubAck(done) | Packet::PubComp(done) => {
            ensure!(done.reason == ReasonCode::Success, "refused with {}", done.reason);
            None
        }
        Packet::ConnAck(connack) => {
            ensure!(connack.reason == ReasonCode::Success, "not let in: {}", connack.reason);
            None
        }
        Packet::SubAck(suback) => {
            ensure!(suback.reasons.iter().all(|reason| !reason.is_error()), "a subscription is refused");
            None
        }
        Packet::PingResp => None,
        other => bail!("unexpected {other:?}"),
    };
    Ok(answer)
}

/// A packet as bytes.
///
/// # Errors
/// When it is none that MQTT knows.
pub(crate) fn bytes_of(packet: &Packet<'_>, version: ProtocolVersion) -> Result<Vec<u8>> {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes)?;
    Ok(bytes.to_vec())
}

/// A CONNECT whose session ends with its connection, unless `is_kept`.
pub(crate) fn connect(client_id: &str, version: ProtocolVersion, is_kept: bool) -> Packet<'_> {
    let expiry = (is_kept && version == ProtocolVersion::V5).then_some(3600);
    Packet::Connect(Box::new(Connect {
        version,
        clean_start: !is_kept,
        keep_alive_seconds: 60,
        client_id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties { session_expiry_interval_seconds: expiry, ..ConnectProperties::default() },
    }))
}

/// A SUBSCRIBE for one filter.
pub(crate) fn subscribe(filter: &str, qos: QoS) -> Packet<'_> {
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::MIN,
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![(filter, SubscriptionOptions { qos, ..SubscriptionOptions::default() })],
    })
}

/// A PUBLISH without properties; above QoS 0 with this identifier.
pub(crate) fn publish<'a>(topic: &'a str, qos: QoS, packet_id: u16, payload: &'a [u8]) -> Publish<'a> {
    let packet_id = PacketId::new(packet_id).filter(|_| qos > QoS::AtMostOnce);
    Publish { qos, topic, packet_id, payload, ..Publish::default() }
}

/// The vehicle identification number of a made-up vehicle.
pub(crate) fn vin(index: usize) -> String {
    format!("WVWZZZ1KZ8W{index:06}")
}

/// A payload of so many bytes, the same in every run.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 7 % 251) as u8).collect()
}
