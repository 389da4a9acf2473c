//! From packets to bytes.
//!
//! Owns the bodies of all packets but PUBLISH (see `publish_head.rs`) and what 5.0 says that 3.x has no word for. A
//! body is written twice by the same code: once to be counted, once into the buffer, so lengths cannot disagree. It
//! never checks what the sender may say at this point of the conversation.

use bytes::BytesMut;

use crate::publish_head::{PublishHead, encode_publish_head};
use crate::wire::{Counter, Sink, VARINT_MAX, varint_bytes};
use crate::{
    Ack, Auth, ConnAck, Connect, Disconnect, EncodeError, Packet, PropertyId, ProtocolVersion, Publish, QoS,
    ReasonCode, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe, Will,
};

/// Appends `packet` to `out`. CONNECT is written in the version it names, all else in `version`: for 3.x, reason codes
/// become return codes or vanish, and properties are left out.
///
/// # Errors
/// A field or packet too long for MQTT, or something `version` cannot say. `out` is unchanged then.
pub fn encode(packet: &Packet<'_>, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet {
        encode_publish_head(&publish_head(publish), version, out)?;
        out.extend_from_slice(publish.payload);
        return Ok(());
    }
    let mut counter = Counter::default();
    body(packet, version, &mut counter)?;
    if counter.bytes > VARINT_MAX {
        return Err(EncodeError::PacketTooLong(counter.bytes));
    }
    out.reserve(1 + varint_bytes(counter.bytes) + counter.bytes);
    out.byte(first_byte(packet));
    out.variable_byte_integer(counter.bytes);
    body(packet, version, out)
}

fn publish_head<'a>(publish: &'a Publish<'a>) -> PublishHead<'a> {
    PublishHead {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic,
        packet_id: publish.packet_id,
        message_expiry_interval_seconds: publish.properties.message_expiry_interval_seconds,
        topic_alias: publish.properties.topic_alias,
        subscription_identifiers: &publish.properties.subscription_identifiers,
        stamps: &[],
        forwarded: publish.properties.forwarded,
        payload_bytes: publish.payload.len(),
    }
}

/// Packet type and flags. PUBLISH has flags of its own.
const fn first_byte(packet: &Packet<'_>) -> u8 {
    //= [MQTT-2.1.3-1] the one value of reserved flags
    match packet {
        Packet::Connect(_) => 0x10,
        Packet::ConnAck(_) => 0x20,
        Packet::Publish(_) => 0x30,
        Packet::PubAck(_) => 0x40,
        Packet::PubRec(_) => 0x50,
        Packet::PubRel(_) => 0x62,
        Packet::PubComp(_) => 0x70,
        Packet::Subscribe(_) => 0x82,
        Packet::SubAck(_) => 0x90,
        Packet::Unsubscribe(_) => 0xA2,
        Packet::UnsubAck(_) => 0xB0,
        Packet::PingReq => 0xC0,
        Packet::PingResp => 0xD0,
        Packet::Disconnect(_) => 0xE0,
        Packet::Auth(_) => 0xF0,
    }
}

fn body(packet: &Packet<'_>, version: ProtocolVersion, sink: &mut impl Sink) -> Result<(), EncodeError> {
    let is_v5 = version == ProtocolVersion::V5;
    match packet {
        Packet::Connect(connect) => connect_body(connect, sink),
        Packet::ConnAck(connack) => connack_body(connack, version, sink),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack_body(ack, is_v5, sink)
        }
        Packet::Subscribe(subscribe) => subscribe_body(subscribe, is_v5, sink),
        Packet::SubAck(suback) => suback_body(suback, is_v5, sink),
        Packet::Unsubscribe(unsubscribe) => unsubscribe_body(unsubscribe, is_v5, sink),
        Packet::UnsubAck(unsuback) => unsuback_body(unsuback, is_v5, sink),
        Packet::Disconnect(disconnect) if is_v5 => disconnect_body(disconnect, sink),
        Packet::Auth(auth) if is_v5 => auth_body(auth, sink),
        Packet::Auth(_) => Err(EncodeError::AuthBeforeV5),
        Packet::Disconnect(_) | Packet::PingReq | Packet::PingResp => Ok(()),
        // Written by encode_publish_head.
        Packet::Publish(_) => Ok(()),
    }
}

/// A property section: counted, then written behind its length.
//= [MQTT-2.2.2-1] an empty section has its length byte, too
fn section<S: Sink>(sink: &mut S, properties: &impl Section) -> Result<(), EncodeError> {
    let mut counter = PropertySink(Counter::default());
    properties.write(&mut counter)?;
    let bytes = counter.0.bytes;
    if bytes > VARINT_MAX {
        return Err(EncodeError::PacketTooLong(bytes));
    }
    sink.variable_byte_integer(bytes);
    properties.write(&mut PropertySink(Borrowed(sink)))
}

/// Something whose 5.0 properties can be written, in whatever order it likes.
trait Section {
    fn write<S: Sink>(&self, properties: &mut PropertySink<S>) -> Result<(), EncodeError>;
}

struct Borrowed<'a, S>(&'a mut S);

impl<S: Sink> Sink for Borrowed<'_, S> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.bytes(bytes);
    }
}

/// Writes properties that are there.
struct PropertySink<S>(S);

impl<S: Sink> PropertySink<S> {
    fn boolean(&mut self, id: PropertyId, value: Option<bool>) {
        if let Some(value) = value {
            self.0.bytes(&[id as u8, u8::from(value)]);
        }
    }

    fn two_byte(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.0.byte(id as u8);
            self.0.two_byte_integer(value);
        }
    }

    fn four_byte(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.0.byte(id as u8);
            self.0.four_byte_integer(value);
        }
    }

    fn string(&mut self, id: PropertyId, value: Option<&str>) -> Result<(), EncodeError> {
        self.binary(id, value.map(str::as_bytes))
    }

    fn binary(&mut self, id: PropertyId, value: Option<&[u8]>) -> Result<(), EncodeError> {
        let Some(value) = value else { return Ok(()) };
        self.0.byte(id as u8);
        self.0.binary(value)
    }

    fn user_properties(&mut self, pairs: &[(&str, &str)]) -> Result<(), EncodeError> {
        for (name, value) in pairs {
            self.0.byte(PropertyId::UserProperty as u8);
            self.0.string(name)?;
            self.0.string(value)?;
        }
        Ok(())
    }
}

fn connect_body(connect: &Connect<'_>, sink: &mut impl Sink) -> Result<(), EncodeError> {
    let (name, level) = match connect.version {
        ProtocolVersion::V31 => ("MQIsdp", 3),
        ProtocolVersion::V311 => ("MQTT", 4),
        ProtocolVersion::V5 => ("MQTT", 5),
    };
    let is_v5 = connect.version == ProtocolVersion::V5;
    if connect.password.is_some() && connect.username.is_none() && !is_v5 {
        return Err(EncodeError::PasswordWithoutUserName);
    }
    sink.string(name)?;
    sink.byte(level);
    sink.byte(connect_flags(connect));
    sink.two_byte_integer(connect.keep_alive_seconds);
    if is_v5 {
        section(sink, &connect.properties)?;
    }
    //= [MQTT-3.1.3-1] client id, will, user name, password
    sink.string(connect.client_id)?;
    if let Some(will) = &connect.will {
        if is_v5 {
            section(sink, will)?;
        }
        sink.string(will.topic)?;
        sink.binary(will.payload)?;
    }
    if let Some(username) = connect.username {
        sink.string(username)?;
    }
    if let Some(password) = connect.password {
        sink.binary(password)?;
    }
    Ok(())
}

fn connect_flags(connect: &Connect<'_>) -> u8 {
    let will = connect.will.as_ref();
    u8::from(connect.clean_start) << 1
        | u8::from(will.is_some()) << 2
        | will.map_or(0, |will| (will.qos as u8) << 3 | u8::from(will.retain) << 5)
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.username.is_some()) << 7
}

impl Section for crate::ConnectProperties<'_> {
    fn write<S: Sink>(&self, properties: &mut PropertySink<S>) -> Result<(), EncodeError> {
        properties.four_byte(PropertyId::SessionExpiryInterval, self.session_expiry_interval_seconds);
        properties.two_byte(PropertyId::ReceiveMaximum, self.receive_maximum);
        properties.four_byte(PropertyId::MaximumPacketSize, self.maximum_packet_size_bytes);
        properties.two_byte(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        properties.boolean(PropertyId::RequestResponseInformation, self.request_response_information);
        properties.boolean(PropertyId::RequestProblemInformation, self.request_problem_information);
        properties.string(PropertyId::AuthenticationMethod, self.authentication_method)?;
        properties.binary(PropertyId::AuthenticationData, self.authentication_data)?;
        properties.user_properties(&self.user_properties)
    }
}

impl Section for Will<'_> {
    fn write<S: Sink>(&self, properties: &mut PropertySink<S>) -> Result<(), EncodeError> {
        properties.four_byte(PropertyId::WillDelayInterval, self.delay_interval_seconds);
        properties.four_byte(PropertyId::MessageExpiryInterval, self.message_expiry_interval_seconds);
        self.forwarded.write_to(&mut properties.0);
        Ok(())
    }
}

fn connack_body(connack: &ConnAck<'_>, version: ProtocolVersion, sink: &mut impl Sink) -> Result<(), EncodeError> {
    // MQTT 3.1 has no session present: the byte is reserved.
    sink.byte(u8::from(connack.session_present && version != ProtocolVersion::V31));
    if version != ProtocolVersion::V5 {
        sink.byte(connack.reason.connect_return_code());
        return Ok(());
    }
    sink.byte(connack.reason as u8);
    section(sink, &connack.properties)
}

impl Section for crate::ConnAckProperties<'_> {
    fn write<S: Sink>(&self, properties: &mut PropertySink<S>) -> Result<(), EncodeError> {
        properties.four_byte(PropertyId::SessionExpiryInterval, self.session_expiry_interval_seconds);
        properties.two_byte(PropertyId::ReceiveMaximum, self.receive_maximum);
        // QoS 2 is what a server without the property does: the property has no value for it.
        let maximum_qos = self.maximum_qos.filter(|qos| *qos != QoS::ExactlyOnce);
        properties.boolean(PropertyId::MaximumQoS, maximum_qos.map(|qos| qos == QoS::AtLeastOnce));
        properties.boolean(PropertyId::RetainAvailable, self.retain_available);
        properties.four_byte(PropertyId::MaximumPacketSize, self.maximum_packet_size_bytes);
        properties.string(PropertyId::AssignedClientIdentifier, self.assigned_client_identifier)?;
        properties.two_byte(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        properties.boolean(PropertyId::WildcardSubscriptionAvailable, self.wildcard_subscription_available);
        properties.boolean(PropertyId::SubscriptionIdentifierAvailable, self.subscription_identifiers_available);
        properties.boolean(PropertyId::SharedSubscriptionAvailable, self.shared_subscription_available);
        properties.two_byte(PropertyId::ServerKeepAlive, self.server_keep_alive_seconds);
        properties.string(PropertyId::ResponseInformation, self.response_information)?;
        properties.string(PropertyId::ServerReference, self.server_reference)?;
        properties.string(PropertyId::AuthenticationMethod, self.authentication_method)?;
        properties.binary(PropertyId::AuthenticationData, self.authentication_data)?;
        properties.string(PropertyId::ReasonString, self.reason_string)?;
        properties.user_properties(&self.user_properties)
    }
}

/// The reason string and user properties of an acknowledgement.
struct Diagnosis<'a> {
    reason_string: Option<&'a str>,
    user_properties: &'a [(&'a str, &'a str)],
}

impl Diagnosis<'_> {
    const fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

impl Section for Diagnosis<'_> {
    fn write<S: Sink>(&self, properties: &mut PropertySink<S>) -> Result<(), EncodeError> {
        properties.string(PropertyId::ReasonString, self.reason_string)?;
        properties.user_properties(self.user_properties)
    }
}

fn ack_body(ack: &Ack<'_>, is_v5: bool, sink: &mut impl Sink) -> Result<(), EncodeError> {
    sink.two_byte_integer(ack.packet_id.get());
    let diagnosis = Diagnosis { reason_string: ack.reason_string, user_properties: &ack.user_properties };
    // Nothing behind the identifier means success, nothing behind the reason means no properties (3.4.2.1).
    if !is_v5 || ack.reason == ReasonCode::Success && diagnosis.is_empty() {
        return Ok(());
    }
    sink.byte(ack.reason as u8);
    if diagnosis.is_empty() { Ok(()) } else { section(sink, &diagnosis) }
}

fn subscribe_body(subscribe: &Subscribe<'_>, is_v5: bool, sink: &mut impl Sink) -> Result<(), EncodeError> {
    sink.two_byte_integer(subscribe.packet_id.get());
    if is_v5 {
        section(sink, subscribe)?;
    }
    for (filter, options) in &subscribe.filters {
        sink.string(filter)?;
        sink.byte(if is_v5 { options_byte(*options) } else { options.qos as u8 });
    }
    Ok(())
}

impl Section for Subscribe<'_> {
    fn write<S: Sink>(&self, properties: &mut PropertySink<S>) -> Result<(), EncodeError> {
        if let Some(identifier) = self.subscription_identifier {
            if identifier == 0 || identifier as usize > VARINT_MAX {
                return Err(EncodeError::SubscriptionIdentifierOutOfRange(identifier));
            }
            properties.0.byte(PropertyId::SubscriptionIdentifier as u8);
            properties.0.variable_byte_integer(identifier as usize);
        }
        properties.user_properties(&self.user_properties)
    }
}

fn options_byte(options: SubscriptionOptions) -> u8 {
    options.qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}

fn suback_body(suback: &SubAck<'_>, is_v5: bool, sink: &mut impl Sink) -> Result<(), EncodeError> {
    sink.two_byte_integer(suback.packet_id.get());
    if is_v5 {
        section(sink, &Diagnosis { reason_string: suback.reason_string, user_properties: &suback.user_properties })?;
    }
    for reason in &suback.reasons {
        sink.byte(match reason {
            _ if is_v5 => *reason as u8,
            ReasonCode::Success | ReasonCode::GrantedQoS1 | ReasonCode::GrantedQoS2 => *reason as u8,
            _ => 0x80,
        });
    }
    Ok(())
}

fn unsubscribe_body(unsubscribe: &Unsubscribe<'_>, is_v5: bool, sink: &mut impl Sink) -> Result<(), EncodeError> {
    sink.two_byte_integer(unsubscribe.packet_id.get());
    if is_v5 {
        section(sink, &Diagnosis { reason_string: None, user_properties: &unsubscribe.user_properties })?;
    }
    for filter in &unsubscribe.filters {
        sink.string(filter)?;
    }
    Ok(())
}

fn unsuback_body(unsuback: &UnsubAck<'_>, is_v5: bool, sink: &mut impl Sink) -> Result<(), EncodeError> {
    sink.two_byte_integer(unsuback.packet_id.get());
    if !is_v5 {
        return Ok(());
    }
    section(sink, &Diagnosis { reason_string: unsuback.reason_string, user_properties: &unsuback.user_properties })?;
    for reason in &unsuback.reasons {
        sink.byte(*reason as u8);
    }
    Ok(())
}

/// Nothing at all means success, nothing behind the reason means no properties (3.14.2).
fn disconnect_body(disconnect: &Disconnect<'_>, sink: &mut impl Sink) -> Result<(), EncodeError> {
    let without_properties = Disconnect { reason: disconnect.reason, ..Disconnect::default() };
    if *disconnect != without_properties {
        sink.byte(disconnect.reason as u8);
        return section(sink, disconnect);
    }
    if disconnect.reason != ReasonCode::Success {
        sink.byte(disconnect.reason as u8);
    }
    Ok(())
}

impl Section for Disconnect<'_> {
    fn write<S: Sink>(&self, properties: &mut PropertySink<S>) -> Result<(), EncodeError> {
        properties.four_byte(PropertyId::SessionExpiryInterval, self.session_expiry_interval_seconds);
        properties.string(PropertyId::ReasonString, self.reason_string)?;
        properties.string(PropertyId::ServerReference, self.server_reference)?;
        properties.user_properties(&self.user_properties)
    }
}

/// Nothing at all means success without properties (3.15.2.1).
fn auth_body(auth: &Auth<'_>, sink: &mut impl Sink) -> Result<(), EncodeError> {
    if *auth == Auth::default() {
        return Ok(());
    }
    sink.byte(auth.reason as u8);
    section(sink, auth)
}

impl Section for Auth<'_> {
    fn write<S: Sink>(&self, properties: &mut PropertySink<S>) -> Result<(), EncodeError> {
        properties.string(PropertyId::AuthenticationMethod, self.authentication_method)?;
        properties.binary(PropertyId::AuthenticationData, self.authentication_data)?;
        properties.string(PropertyId::ReasonString, self.reason_string)?;
        properties.user_properties(&self.user_properties)
    }
}
