//! Writing PUBLISH, the packet that is nearly all of the traffic.
//!
//! Owns everything in front of the payload. The payload is the caller's to append: a fan-out shares it, while this part
//! differs from subscriber to subscriber. It never allocates besides growing the caller's buffer once.

use std::num::NonZeroU16;

use bytes::BytesMut;

use crate::wire::{Sink, VARINT_MAX, varint_bytes, varint_encoded};
use crate::{EncodeError, ForwardedProperties, PacketId, PropertyId, ProtocolVersion, QoS};

/// A PUBLISH without its payload.
#[derive(Debug, Clone, Copy, Default)]
pub struct PublishHead<'a> {
    /// Sent before; ignored with QoS 0.
    pub dup: bool,
    /// Quality of service of this delivery.
    pub qos: QoS,
    /// Retain flag of this delivery.
    pub retain: bool,
    /// May be empty where `topic_alias` stands for it.
    pub topic: &'a str,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// What is left of the message expiry interval.
    pub message_expiry_interval_seconds: Option<u32>,
    /// An alias of this connection.
    pub topic_alias: Option<NonZeroU16>,
    /// 1 to 268,435,455 each.
    pub subscription_identifiers: &'a [u32],
    /// User properties of the server's own, encoded, in front of those of the publisher.
    pub stamps: &'a [u8],
    /// What the publisher's properties said.
    pub forwarded: ForwardedProperties<'a>,
    /// Length of the payload that the caller appends.
    pub payload_bytes: usize,
}

/// The lengths a head has to announce.
#[derive(Clone, Copy)]
struct Lengths {
    property_bytes: usize,
    body_bytes: usize,
}

impl PublishHead<'_> {
    /// Bytes of the whole packet, payload included.
    #[inline]
    pub fn packet_bytes(&self, version: ProtocolVersion) -> usize {
        let body_bytes = self.lengths(version).body_bytes;
        1 + varint_bytes(body_bytes) + body_bytes
    }

    #[inline]
    fn lengths(&self, version: ProtocolVersion) -> Lengths {
        let packet_id_bytes = if self.packet_id.is_some() { 2 } else { 0 };
        let body_bytes = 2 + self.topic.len() + packet_id_bytes + self.payload_bytes;
        if version != ProtocolVersion::V5 {
            return Lengths { property_bytes: 0, body_bytes };
        }
        let property_bytes = self.property_bytes();
        Lengths { property_bytes, body_bytes: body_bytes + varint_bytes(property_bytes) + property_bytes }
    }

    #[inline]
    fn property_bytes(&self) -> usize {
        let expiry_bytes = if self.message_expiry_interval_seconds.is_some() { 5 } else { 0 };
        let alias_bytes = if self.topic_alias.is_some() { 3 } else { 0 };
        let identifier_bytes: usize =
            self.subscription_identifiers.iter().map(|&identifier| 1 + varint_bytes(identifier as usize)).sum();
        expiry_bytes + alias_bytes + identifier_bytes + self.stamps.len() + self.forwarded.encoded_bytes()
    }

    fn check(&self, lengths: Lengths) -> Result<(), EncodeError> {
        if self.topic.len() > usize::from(u16::MAX) {
            return Err(EncodeError::FieldTooLong(self.topic.len()));
        }
        if lengths.body_bytes > VARINT_MAX {
            return Err(EncodeError::PacketTooLong(lengths.body_bytes));
        }
        match (self.qos, self.packet_id) {
            //= [MQTT-2.2.1-2] QoS 0 has no packet identifier
            (QoS::AtMostOnce, Some(_)) => return Err(EncodeError::PacketIdUnexpected),
            (QoS::AtLeastOnce | QoS::ExactlyOnce, None) => return Err(EncodeError::PacketIdMissing),
            (QoS::AtMostOnce, None) | (QoS::AtLeastOnce | QoS::ExactlyOnce, Some(_)) => {}
        }
        let out_of_range = |identifier: &&u32| **identifier == 0 || **identifier as usize > VARINT_MAX;
        match self.subscription_identifiers.iter().find(out_of_range) {
            Some(&identifier) => Err(EncodeError::SubscriptionIdentifierOutOfRange(identifier)),
            None => Ok(()),
        }
    }

    #[inline]
    fn first_byte(&self) -> u8 {
        //= [MQTT-3.3.1-2] QoS 0 is never sent again
        //= [MQTT-4.3.1-1] and has no DUP
        let dup = self.dup && self.qos != QoS::AtMostOnce;
        0x30 | u8::from(dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain)
    }
}

/// Appends all of a PUBLISH but its payload, which the caller appends. For 3.x the
/// properties are left out.
///
/// # Errors
/// A topic or packet too long for MQTT, a packet identifier that does not fit the QoS, or a subscription identifier out
/// of range. `out` is unchanged then.
#[inline]
pub fn encode_publish_head(
    head: &PublishHead<'_>,
    version: ProtocolVersion,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let lengths = head.lengths(version);
    head.check(lengths)?;
    out.reserve(1 + varint_bytes(lengths.body_bytes) + lengths.body_bytes - head.payload_bytes);

    // Small fields are gathered on the stack: one copy for each run of them, not one for each field.
    let (start, start_bytes) = start(head.first_byte(), lengths.body_bytes, head.topic.len() as u16);
    out.extend_from_slice(&start[..start_bytes]);
    out.extend_from_slice(head.topic.as_bytes());

    let mut middle = Gather::<14>::new();
    if let Some(packet_id) = head.packet_id {
        middle.bytes(&packet_id.get().to_be_bytes());
    }
    if version != ProtocolVersion::V5 {
        out.extend_from_slice(middle.as_slice());
        return Ok(());
    }
    middle.variable_byte_integer(lengths.property_bytes);
    if let Some(seconds) = head.message_expiry_interval_seconds {
        middle.byte(PropertyId::MessageExpiryInterval as u8);
        middle.bytes(&seconds.to_be_bytes());
    }
    if let Some(alias) = head.topic_alias {
        middle.byte(PropertyId::TopicAlias as u8);
        middle.bytes(&alias.get().to_be_bytes());
    }
    out.extend_from_slice(middle.as_slice());
    for &identifier in head.subscription_identifiers {
        let mut property = Gather::<5>::new();
        property.byte(PropertyId::SubscriptionIdentifier as u8);
        property.variable_byte_integer(identifier as usize);
        out.extend_from_slice(property.as_slice());
    }
    out.extend_from_slice(head.stamps);
    head.forwarded.write_to(out);
    Ok(())
}

/// First byte, remaining length and length of the topic. Spelled out for each length of the length: this is run for
/// every delivery, and so no index is computed.
#[inline]
fn start(first_byte: u8, body_bytes: usize, topic_bytes: u16) -> ([u8; 7], usize) {
    let [high, low] = topic_bytes.to_be_bytes();
    let last = |shift: u32| (body_bytes >> shift) as u8 & 0x7F;
    let more = |shift: u32| last(shift) | 0x80;
    match varint_bytes(body_bytes) {
        1 => ([first_byte, last(0), high, low, 0, 0, 0], 4),
        2 => ([first_byte, more(0), last(7), high, low, 0, 0], 5),
        3 => ([first_byte, more(0), more(7), last(14), high, low, 0], 6),
        _ => ([first_byte, more(0), more(7), more(14), last(21), high, low], 7),
    }
}

/// A few bytes on the stack. `N` is the most its user can put in.
struct Gather<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Gather<N> {
    #[inline]
    const fn new() -> Self {
        Gather { bytes: [0; N], length: 0 }
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> Sink for Gather<N> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    #[inline]
    fn variable_byte_integer(&mut self, value: usize) {
        let (encoded, bytes) = varint_encoded(value);
        self.bytes(&encoded[..bytes]);
    }
}
