//! From bytes to packets.
//!
//! Owns framing and the bodies of all packets; CONNECT and CONNACK are in `decode/connect.rs`. Everything the
//! specification lets a receiver check without knowing the session is checked here. It borrows from the caller's
//! buffer, allocates nothing for PUBLISH, and never trusts a length before the bytes are there.

mod connect;

use crate::forwarded::{ForwardedScan, is_forwarded};
use crate::property::{Properties, Property, PropertyHolder};
use crate::wire::{Reader, Varint};
use crate::{
    Ack, Auth, DecodeError, Disconnect, Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode,
    RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe, UserProperties, Will,
};

/// The fixed header of one packet: what it is and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Packet type and flags.
    pub first_byte: u8,
    /// Bytes of the fixed header itself, 2 to 5.
    pub header_bytes: usize,
    /// Bytes that follow the fixed header: the remaining length.
    pub body_bytes: usize,
}

impl Frame {
    /// Bytes of the whole packet.
    #[inline]
    pub const fn total_bytes(&self) -> usize {
        self.header_bytes + self.body_bytes
    }

    /// 1 (CONNECT) to 15 (AUTH).
    #[inline]
    pub const fn packet_type(&self) -> u8 {
        self.first_byte >> 4
    }

    #[inline]
    const fn flags(&self) -> u8 {
        self.first_byte & 0x0F
    }
}

/// The flag DUP, which MQTT 3.1 allows on SUBSCRIBE, UNSUBSCRIBE and PUBREL too.
const DUP: u8 = 0b1000;

/// Looks at the start of `buf` for a packet. `Ok(None)` means that more bytes are needed. The body need not be there:
/// its announced length is held against `packet_bytes_max` (a limit on the whole packet) before it arrives.
///
/// # Errors
/// A wrong packet type, wrong flags or a wrong length, each as soon as its byte is there.
#[inline]
pub fn frame(buf: &[u8], packet_bytes_max: u32) -> Result<Option<Frame>, DecodeError> {
    let Some((&first_byte, rest)) = buf.split_first() else {
        return Ok(None);
    };
    check_first_byte(first_byte, true)?;
    let (body_bytes, length_bytes) = match rest {
        [byte @ 0..=0x7F, ..] => (usize::from(*byte), 1),
        _ => match Varint::read(rest) {
            Varint::Value { value, bytes } => (value as usize, bytes),
            Varint::Incomplete => return Ok(None),
            Varint::TooLong => return Err(DecodeError::RemainingLengthTooLong),
            Varint::NotMinimal => return Err(DecodeError::RemainingLengthNotMinimal),
        },
    };
    let frame = Frame { first_byte, header_bytes: 1 + length_bytes, body_bytes };
    let bytes = frame.total_bytes() as u64;
    if bytes > u64::from(packet_bytes_max) {
        return Err(DecodeError::PacketTooLarge { bytes, bytes_max: packet_bytes_max });
    }
    Ok(Some(frame))
}

/// One bit for each value of the flags that a packet type may have, by type.
const FLAGS_ALLOWED: [u16; 16] = {
    const fn of(flags: u8) -> u16 {
        1 << flags
    }
    //= [MQTT-2.1.3-1] reserved flags have their one value
    //= [MQTT-3.14.1-1] DISCONNECT
    //= [MQTT-3.15.1-1] AUTH
    let mut allowed = [of(0); 16];
    //= [MQTT-3.3.1-2] QoS 0 is never sent again
    //= [MQTT-3.3.1-4] QoS bits 11 are malformed
    allowed[3] = of(0b0000) | of(0b0001) | of(0b0010) | of(0b0011) | of(0b0100) | of(0b0101);
    allowed[3] |= of(0b1010) | of(0b1011) | of(0b1100) | of(0b1101);
    //= [MQTT-3.6.1-1] PUBREL
    allowed[6] = of(0b0010);
    //= [MQTT-3.8.1-1] SUBSCRIBE
    allowed[8] = of(0b0010);
    //= [MQTT-3.10.1-1] UNSUBSCRIBE
    allowed[10] = of(0b0010);
    allowed[0] = 0;
    allowed
};

/// Packet type and flags. `may_be_v31` tolerates DUP where only MQTT 3.1 has it.
#[inline]
fn check_first_byte(first_byte: u8, may_be_v31: bool) -> Result<(), DecodeError> {
    let (packet_type, flags) = (first_byte >> 4, first_byte & 0x0F);
    if FLAGS_ALLOWED[usize::from(packet_type)] >> flags & 1 == 1 {
        return Ok(());
    }
    match packet_type {
        6 | 8 | 10 if may_be_v31 && flags == 0b0010 | DUP => Ok(()),
        0 => Err(DecodeError::PacketTypeReserved),
        3 if flags & 0b0110 == 0b0110 => Err(DecodeError::PublishQoS3),
        3 => Err(DecodeError::PublishDupWithQoS0),
        _ => Err(DecodeError::ReservedFlagsSet { packet_type, flags }),
    }
}

/// Reads the body of a packet that [`frame`] found. `body` is exactly `frame.body_bytes` long. CONNECT says its own
/// version, all else is read as `version`.
///
/// # Errors
/// Whatever is wrong with the packet; see [`DecodeError::reason`].
#[inline]
pub fn decode<'a>(frame: &Frame, body: &'a [u8], version: ProtocolVersion) -> Result<Packet<'a>, DecodeError> {
    if body.len() != frame.body_bytes {
        return Err(DecodeError::BodyLengthMismatch { expected: frame.body_bytes, actual: body.len() });
    }
    check_first_byte(frame.first_byte, version == ProtocolVersion::V31)?;
    if frame.packet_type() == 3 {
        return publish(frame.flags(), Reader::new(body), version).map(Packet::Publish);
    }
    control_packet(frame.packet_type(), Reader::new(body), version)
}

fn control_packet(packet_type: u8, body: Reader<'_>, version: ProtocolVersion) -> Result<Packet<'_>, DecodeError> {
    let mut rest = body;
    let reader = &mut rest;
    let packet = match packet_type {
        1 => Packet::Connect(Box::new(connect::connect(reader)?)),
        2 => Packet::ConnAck(Box::new(connect::connack(reader, version)?)),
        4 => Packet::PubAck(ack(reader, PropertyHolder::PubAck, version)?),
        5 => Packet::PubRec(ack(reader, PropertyHolder::PubRec, version)?),
        6 => Packet::PubRel(ack(reader, PropertyHolder::PubRel, version)?),
        7 => Packet::PubComp(ack(reader, PropertyHolder::PubComp, version)?),
        8 => Packet::Subscribe(subscribe(reader, version)?),
        9 => Packet::SubAck(suback(reader, version)?),
        10 => Packet::Unsubscribe(unsubscribe(reader, version)?),
        11 => Packet::UnsubAck(unsuback(reader, version)?),
        12 => Packet::PingReq,
        13 => Packet::PingResp,
        14 => Packet::Disconnect(disconnect(reader, version)?),
        15 => Packet::Auth(auth(reader, version)?),
        // 3 was handled before; 0 never passes the first byte's check.
        _ => return Err(DecodeError::PacketTypeReserved),
    };
    if rest.is_empty() { Ok(packet) } else { Err(DecodeError::TrailingBytes { bytes: rest.rest().len() }) }
}

#[inline]
fn publish(flags: u8, mut reader: Reader<'_>, version: ProtocolVersion) -> Result<Publish<'_>, DecodeError> {
    let qos = QoS::from_bits(flags >> 1 & 0b11).ok_or(DecodeError::PublishQoS3)?;
    //= [MQTT-3.3.2-1] the topic comes first
    //= [MQTT-3.3.2-2] it holds no wildcards
    //= [MQTT-4.7.0-1] nor does any topic name
    let topic = reader.topic_name().map_err(|error| error.with_wildcard_as(DecodeError::PublishTopicWildcard))?;
    //= [MQTT-2.2.1-2] QoS 0 has no packet identifier
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id()?) };
    let properties = match version {
        ProtocolVersion::V5 => publish_properties(&mut reader)?,
        ProtocolVersion::V31 | ProtocolVersion::V311 => PublishProperties::default(),
    };
    //= [MQTT-4.7.3-1] a topic has a character, unless an alias stands for it
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(DecodeError::PublishTopicMissing);
    }
    let (dup, retain) = (flags & DUP != 0, flags & 1 != 0);
    Ok(Publish { dup, qos, retain, topic, packet_id, properties, payload: reader.rest() })
}

#[inline]
fn publish_properties<'a>(reader: &mut Reader<'a>) -> Result<PublishProperties<'a>, DecodeError> {
    let mut found = PublishProperties::default();
    let mut section = Properties::section(reader, PropertyHolder::Publish)?;
    let mut scan = ForwardedScan::new();
    loop {
        let before = section.rest();
        let Some((id, property)) = section.next()? else { break };
        if is_forwarded(&property) {
            scan.forwarded(before, section.rest());
            continue;
        }
        scan.not_forwarded(before, section.rest());
        match property {
            Property::MessageExpiryInterval(seconds) => found.message_expiry_interval_seconds = Some(seconds),
            Property::TopicAlias(alias) => found.topic_alias = Some(alias),
            Property::SubscriptionIdentifier(identifier) => found.subscription_identifiers.push(identifier),
            _ => return Err(section.not_allowed(id)),
        }
    }
    found.forwarded = scan.finish();
    Ok(found)
}

/// What the properties of a will say: delay, expiry, and what is forwarded.
fn will_properties<'a>(reader: &mut Reader<'a>, will: &mut Will<'a>) -> Result<(), DecodeError> {
    let mut section = Properties::section(reader, PropertyHolder::Will)?;
    let mut scan = ForwardedScan::new();
    loop {
        let before = section.rest();
        let Some((id, property)) = section.next()? else { break };
        if is_forwarded(&property) {
            scan.forwarded(before, section.rest());
            continue;
        }
        scan.not_forwarded(before, section.rest());
        match property {
            Property::MessageExpiryInterval(seconds) => will.message_expiry_interval_seconds = Some(seconds),
            Property::WillDelayInterval(seconds) => will.delay_interval_seconds = Some(seconds),
            _ => return Err(section.not_allowed(id)),
        }
    }
    will.forwarded = scan.finish();
    Ok(())
}

/// A reason code that belongs into the packet.
fn reason(byte: u8, holder: PropertyHolder) -> Result<ReasonCode, DecodeError> {
    let reason = ReasonCode::from_byte(byte).ok_or(DecodeError::ReasonCodeUnknown { byte })?;
    if reason.is_allowed_in(holder) {
        Ok(reason)
    } else {
        Err(DecodeError::ReasonCodeNotAllowed { reason, packet_type: holder as u8 })
    }
}

/// The properties that most acknowledgements have and no others.
#[derive(Default)]
struct Diagnosis<'a> {
    reason_string: Option<&'a str>,
    user_properties: UserProperties<'a>,
}

fn diagnosis<'a>(reader: &mut Reader<'a>, holder: PropertyHolder) -> Result<Diagnosis<'a>, DecodeError> {
    let mut found = Diagnosis::default();
    let mut section = Properties::section(reader, holder)?;
    while let Some((id, property)) = section.next()? {
        match property {
            Property::ReasonString(text) => found.reason_string = Some(text),
            Property::User(name, value) => found.user_properties.push((name, value)),
            _ => return Err(section.not_allowed(id)),
        }
    }
    Ok(found)
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
//= [MQTT-3.4.2-1] each with codes from its own table
//= [MQTT-3.5.2-1] PUBREC
//= [MQTT-3.6.2-1] PUBREL
//= [MQTT-3.7.2-1] PUBCOMP
fn ack<'a>(reader: &mut Reader<'a>, holder: PropertyHolder, version: ProtocolVersion) -> Result<Ack<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut ack = Ack::new(packet_id, ReasonCode::Success);
    if version != ProtocolVersion::V5 || reader.is_empty() {
        return Ok(ack);
    }
    ack.reason = reason(reader.byte()?, holder)?;
    if !reader.is_empty() {
        let found = diagnosis(reader, holder)?;
        (ack.reason_string, ack.user_properties) = (found.reason_string, found.user_properties);
    }
    Ok(ack)
}

fn subscribe<'a>(reader: &mut Reader<'a>, version: ProtocolVersion) -> Result<Subscribe<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut subscription_identifier = None;
    let mut user_properties = Vec::new();
    if version == ProtocolVersion::V5 {
        let mut section = Properties::section(reader, PropertyHolder::Subscribe)?;
        while let Some((id, property)) = section.next()? {
            match property {
                Property::SubscriptionIdentifier(identifier) => subscription_identifier = Some(identifier),
                Property::User(name, value) => user_properties.push((name, value)),
                _ => return Err(section.not_allowed(id)),
            }
        }
    }
    //= [MQTT-3.8.3-2] at least one filter
    if reader.is_empty() {
        return Err(DecodeError::SubscribeWithoutFilters);
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        //= [MQTT-3.8.3-1] a filter is a string; its syntax is judged by who answers it with a reason code
        let filter = reader.string()?;
        let options = subscription_options(reader.byte()?, version)?;
        //= [MQTT-3.8.3-4] no local makes no sense on a shared subscription
        if options.no_local && filter.starts_with("$share/") {
            return Err(DecodeError::NoLocalOnSharedSubscription);
        }
        filters.push((filter, options));
    }
    Ok(Subscribe { packet_id, subscription_identifier, user_properties, filters })
}

fn subscription_options(byte: u8, version: ProtocolVersion) -> Result<SubscriptionOptions, DecodeError> {
    //= [MQTT-3.8.3-5] reserved bits are zero; in 3.x there are six of them
    let reserved = if version == ProtocolVersion::V5 { 0b1100_0000 } else { 0b1111_1100 };
    if byte & reserved != 0 {
        return Err(DecodeError::SubscriptionOptionsReservedBitsSet);
    }
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(byte & 0b11).ok_or(DecodeError::SubscriptionQoS3)?,
        no_local: byte & 0b100 != 0,
        retain_as_published: byte & 0b1000 != 0,
        retain_handling: match byte >> 4 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(DecodeError::RetainHandling3),
        },
    })
}

fn suback<'a>(reader: &mut Reader<'a>, version: ProtocolVersion) -> Result<SubAck<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let is_v5 = version == ProtocolVersion::V5;
    let found = if is_v5 { diagnosis(reader, PropertyHolder::SubAck)? } else { Diagnosis::default() };
    //= [MQTT-3.9.3-2] only subscribe reason codes
    let reasons = reasons(reader, |byte| match byte {
        _ if is_v5 => reason(byte, PropertyHolder::SubAck),
        0..=2 => reason(byte, PropertyHolder::SubAck),
        0x80 => Ok(ReasonCode::UnspecifiedError),
        _ => Err(DecodeError::ReasonCodeUnknown { byte }),
    })?;
    Ok(SubAck { packet_id, reason_string: found.reason_string, user_properties: found.user_properties, reasons })
}

fn unsubscribe<'a>(reader: &mut Reader<'a>, version: ProtocolVersion) -> Result<Unsubscribe<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let user_properties = match version {
        ProtocolVersion::V5 => diagnosis(reader, PropertyHolder::Unsubscribe)?.user_properties,
        ProtocolVersion::V31 | ProtocolVersion::V311 => Vec::new(),
    };
    //= [MQTT-3.10.3-2] at least one filter
    if reader.is_empty() {
        return Err(DecodeError::UnsubscribeWithoutFilters);
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        //= [MQTT-3.10.3-1] a filter is a string
        filters.push(reader.string()?);
    }
    Ok(Unsubscribe { packet_id, user_properties, filters })
}

fn unsuback<'a>(reader: &mut Reader<'a>, version: ProtocolVersion) -> Result<UnsubAck<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    if version != ProtocolVersion::V5 {
        return Ok(UnsubAck { packet_id, reason_string: None, user_properties: Vec::new(), reasons: Vec::new() });
    }
    let found = diagnosis(reader, PropertyHolder::UnsubAck)?;
    //= [MQTT-3.11.3-2] only unsubscribe reason codes
    let reasons = reasons(reader, |byte| reason(byte, PropertyHolder::UnsubAck))?;
    Ok(UnsubAck { packet_id, reason_string: found.reason_string, user_properties: found.user_properties, reasons })
}

/// All that is left, as reason codes.
fn reasons(
    reader: &mut Reader<'_>,
    reason: impl Fn(u8) -> Result<ReasonCode, DecodeError>,
) -> Result<Vec<ReasonCode>, DecodeError> {
    let bytes = reader.take(reader.rest().len())?;
    if bytes.is_empty() {
        return Err(DecodeError::ReasonCodesMissing);
    }
    bytes.iter().map(|&byte| reason(byte)).collect()
}

fn disconnect<'a>(reader: &mut Reader<'a>, version: ProtocolVersion) -> Result<Disconnect<'a>, DecodeError> {
    let mut disconnect = Disconnect::default();
    if version != ProtocolVersion::V5 || reader.is_empty() {
        return Ok(disconnect);
    }
    //= [MQTT-3.14.2-1] only disconnect reason codes
    disconnect.reason = reason(reader.byte()?, PropertyHolder::Disconnect)?;
    if reader.is_empty() {
        return Ok(disconnect);
    }
    let mut section = Properties::section(reader, PropertyHolder::Disconnect)?;
    while let Some((id, property)) = section.next()? {
        match property {
            Property::SessionExpiryInterval(seconds) => disconnect.session_expiry_interval_seconds = Some(seconds),
            Property::ReasonString(text) => disconnect.reason_string = Some(text),
            Property::User(name, value) => disconnect.user_properties.push((name, value)),
            Property::ServerReference(server) => disconnect.server_reference = Some(server),
            _ => return Err(section.not_allowed(id)),
        }
    }
    Ok(disconnect)
}

fn auth<'a>(reader: &mut Reader<'a>, version: ProtocolVersion) -> Result<Auth<'a>, DecodeError> {
    if version != ProtocolVersion::V5 {
        return Err(DecodeError::AuthBeforeV5);
    }
    let mut auth = Auth::default();
    if reader.is_empty() {
        return Ok(auth);
    }
    //= [MQTT-3.15.2-1] only authenticate reason codes
    auth.reason = reason(reader.byte()?, PropertyHolder::Auth)?;
    let mut section = Properties::section(reader, PropertyHolder::Auth)?;
    while let Some((id, property)) = section.next()? {
        match property {
            Property::AuthenticationMethod(method) => auth.authentication_method = Some(method),
            Property::AuthenticationData(data) => auth.authentication_data = Some(data),
            Property::ReasonString(text) => auth.reason_string = Some(text),
            Property::User(name, value) => auth.user_properties.push((name, value)),
            _ => return Err(section.not_allowed(id)),
        }
    }
    if auth.authentication_method.is_none() && auth != Auth::default() {
        return Err(DecodeError::AuthenticationMethodMissing);
    }
    Ok(auth)
}
