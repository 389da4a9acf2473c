//! Packets of the clients of this simulation, as bytes and back.
//!
//! Owns what a CONNECT of theirs says. Decides nothing.

use std::sync::Arc;

use bytes::BytesMut;
use causeway_core::{ConnectRequest, Handshake, HandshakePolicy, Identity, Limits, Overflow, Step, Verdict};
use causeway_protocol::{
    Ack, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, QoS, ReasonCode, Subscribe,
    SubscriptionOptions, Will, encode,
};

/// How a client connects. It speaks MQTT 5.
#[derive(Debug, Clone)]
pub(crate) struct Dial<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) clean_start: bool,
    pub(crate) expiry_seconds: u32,
    /// Topic, payload and delay in seconds.
    pub(crate) will: Option<(&'a str, &'a [u8], u32)>,
}

/// The request that the handshake makes of it, for who the client has proven to be.
pub(crate) fn request(
    dial: &Dial<'_>,
    who: Identity,
    limits: &Arc<Limits>,
    overflow: Overflow,
) -> Result<ConnectRequest, String> {
    let policy = HandshakePolicy { anonymous_allowed: true, overflow, ..HandshakePolicy::default() };
    let will = dial.will.map(|(topic, payload, delay)| Will {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
        payload,
        delay_interval_seconds: Some(delay),
        message_expiry_interval_seconds: None,
        forwarded: Default::default(),
    });
    let properties = ConnectProperties {
        session_expiry_interval_seconds: Some(dial.expiry_seconds),
        receive_maximum: Some(6),
        ..ConnectProperties::default()
    };
    let connect = Connect {
        version: ProtocolVersion::V5,
        clean_start: dial.clean_start,
        keep_alive_seconds: 0,
        client_id: dial.client_id,
        will,
        username: None,
        password: None,
        properties,
    };
    let mut handshake = Handshake::new(Arc::clone(limits), policy, "assigned".to_owned()).proven();
    let step = match handshake.handle(&Packet::Connect(Box::new(connect))) {
        Step::Confirm { .. } => handshake.verdict(Verdict::Allow { identity: who, data: Vec::new() }),
        other => other,
    };
    match step {
        Step::Accept(request) => Ok(*request),
        other => Err(format!("{} is not accepted: {other:?}", dial.client_id)),
    }
}

fn bytes(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    // What these clients say is always short and well formed.
    let encoded = encode(packet, ProtocolVersion::V5, &mut bytes);
    debug_assert!(encoded.is_ok(), "{packet:?}");
    bytes.to_vec()
}

pub(crate) fn subscribe(filter: &str, qos: QoS) -> Vec<u8> {
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    bytes(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::MIN,
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![(filter, options)],
    }))
}

/// What answers a packet that wants an answer.
pub(crate) fn answer(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let ack = |id| Ack::new(id, ReasonCode::Success);
    match packet {
        Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => Some(bytes(&Packet::PubAck(ack(id)))),
            (QoS::ExactlyOnce, Some(id)) => Some(bytes(&Packet::PubRec(ack(id)))),
            _ => None,
        },
        Packet::PubRel(release) => Some(bytes(&Packet::PubComp(ack(release.packet_id)))),
        _ => None,
    }
}
