//! CONNECT and CONNACK, the two packets in which versions differ most.
//!
//! Owns reading them. It never decides whether a client is welcome.

use super::will_properties;
use crate::property::{Properties, Property, PropertyHolder};
use crate::wire::Reader;
use crate::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, DecodeError, ForwardedProperties, ProtocolVersion, QoS,
    ReasonCode, Will,
};

/// The connect flags, by bit.
mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_START: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_QOS: u8 = 0x18;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USER_NAME: u8 = 0x80;
}

pub(super) fn connect<'a>(reader: &mut Reader<'a>) -> Result<Connect<'a>, DecodeError> {
    let version = protocol_version(reader)?;
    let flags = reader.byte()?;
    check_flags(flags, version)?;
    let keep_alive_seconds = reader.two_byte_integer()?;
    let properties = match version {
        ProtocolVersion::V5 => connect_properties(reader)?,
        ProtocolVersion::V31 | ProtocolVersion::V311 => ConnectProperties::default(),
    };
    //= [MQTT-3.1.3-1] the order of the payload
    //= [MQTT-3.1.3-3] the client identifier is always there
    //= [MQTT-3.1.3-4] it is a string
    let client_id = reader.string()?;
    let will = if flags & flag::WILL != 0 { Some(will(reader, flags, version)?) } else { None };
    // MQTT 3.1 (section 3.1): the remaining length wins over these two flags.
    let is_there =
        |flag: u8, reader: &Reader<'_>| flags & flag != 0 && !(version == ProtocolVersion::V31 && reader.is_empty());
    //= [MQTT-3.1.2-16] no user name without its flag
    //= [MQTT-3.1.2-17] a user name with it
    //= [MQTT-3.1.3-12] which is a string
    let username = if is_there(flag::USER_NAME, reader) { Some(reader.string()?) } else { None };
    //= [MQTT-3.1.2-18] no password without its flag
    //= [MQTT-3.1.2-19] a password with it
    let password = if is_there(flag::PASSWORD, reader) { Some(reader.binary()?) } else { None };
    let clean_start = flags & flag::CLEAN_START != 0;
    Ok(Connect { version, clean_start, keep_alive_seconds, client_id, will, username, password, properties })
}

/// Nothing behind name and level is looked at if they are unknown: a later version may mean anything by it.
fn protocol_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name = reader.binary()?;
    if !matches!(name, b"MQTT" | b"MQIsdp") {
        return Err(DecodeError::ProtocolNameUnknown);
    }
    match (name, reader.byte()?) {
        (b"MQIsdp", 3) => Ok(ProtocolVersion::V31),
        (b"MQTT", 4) => Ok(ProtocolVersion::V311),
        (b"MQTT", 5) => Ok(ProtocolVersion::V5),
        (_, level) => Err(DecodeError::ProtocolLevelUnknown { level }),
    }
}

fn check_flags(flags: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    //= [MQTT-3.1.2-3] the reserved flag is zero
    if flags & flag::RESERVED != 0 {
        return Err(DecodeError::ConnectReservedFlagSet);
    }
    //= [MQTT-3.1.2-11] no will, no will QoS
    //= [MQTT-3.1.2-13] no will, no will retain
    if flags & flag::WILL == 0 && flags & (flag::WILL_QOS | flag::WILL_RETAIN) != 0 {
        return Err(DecodeError::WillFlagsWithoutWill);
    }
    let without_user_name = flags & (flag::USER_NAME | flag::PASSWORD) == flag::PASSWORD;
    if without_user_name && version != ProtocolVersion::V5 {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    Ok(())
}

fn connect_properties<'a>(reader: &mut Reader<'a>) -> Result<ConnectProperties<'a>, DecodeError> {
    let mut found = ConnectProperties::default();
    let mut section = Properties::section(reader, PropertyHolder::Connect)?;
    while let Some((id, property)) = section.next()? {
        match property {
            Property::SessionExpiryInterval(seconds) => found.session_expiry_interval_seconds = Some(seconds),
            Property::ReceiveMaximum(maximum) => found.receive_maximum = Some(maximum),
            Property::MaximumPacketSize(bytes) => found.maximum_packet_size_bytes = Some(bytes),
            Property::TopicAliasMaximum(maximum) => found.topic_alias_maximum = Some(maximum),
            Property::RequestResponseInformation(wanted) => found.request_response_information = Some(wanted),
            Property::RequestProblemInformation(wanted) => found.request_problem_information = Some(wanted),
            Property::User(name, value) => found.user_properties.push((name, value)),
            Property::AuthenticationMethod(method) => found.authentication_method = Some(method),
            Property::AuthenticationData(data) => found.authentication_data = Some(data),
            _ => return Err(section.not_allowed(id)),
        }
    }
    check_authentication(found.authentication_method, found.authentication_data)?;
    Ok(found)
}

const fn check_authentication(method: Option<&str>, data: Option<&[u8]>) -> Result<(), DecodeError> {
    if data.is_some() && method.is_none() {
        return Err(DecodeError::AuthenticationDataWithoutMethod);
    }
    Ok(())
}

//= [MQTT-3.1.2-9] will properties, topic and payload are all there
fn will<'a>(reader: &mut Reader<'a>, flags: u8, version: ProtocolVersion) -> Result<Will<'a>, DecodeError> {
    let mut will = Will {
        //= [MQTT-3.1.2-12] QoS 3 is malformed
        qos: QoS::from_bits((flags & flag::WILL_QOS) >> 3).ok_or(DecodeError::WillQoS3)?,
        retain: flags & flag::WILL_RETAIN != 0,
        topic: "",
        payload: &[],
        delay_interval_seconds: None,
        message_expiry_interval_seconds: None,
        forwarded: ForwardedProperties::default(),
    };
    if version == ProtocolVersion::V5 {
        will_properties(reader, &mut will)?;
    }
    //= [MQTT-3.1.3-11] the will topic is a string
    will.topic = reader.topic_name().map_err(|error| error.with_wildcard_as(DecodeError::WillTopicWildcard))?;
    //= [MQTT-4.7.3-1] and has a character
    if will.topic.is_empty() {
        return Err(DecodeError::WillTopicEmpty);
    }
    will.payload = reader.binary()?;
    Ok(will)
}

pub(super) fn connack<'a>(reader: &mut Reader<'a>, version: ProtocolVersion) -> Result<ConnAck<'a>, DecodeError> {
    let flags = reader.byte()?;
    let session_present = match version {
        // MQTT 3.1 reserves the whole byte and gives it no value.
        ProtocolVersion::V31 => false,
        //= [MQTT-3.2.2-1] bits 7 to 1 are zero
        _ if flags & 0xFE != 0 => return Err(DecodeError::ConnAckReservedFlagsSet),
        _ => flags == 1,
    };
    let byte = reader.byte()?;
    let reason = match version {
        //= [MQTT-3.2.2-8] only connect reason codes
        ProtocolVersion::V5 => super::reason(byte, PropertyHolder::ConnAck)?,
        ProtocolVersion::V31 | ProtocolVersion::V311 => {
            ReasonCode::from_connect_return_code(byte).ok_or(DecodeError::ReasonCodeUnknown { byte })?
        }
    };
    //= [MQTT-3.2.2-6] a refusal has no session
    if session_present && reason != ReasonCode::Success {
        return Err(DecodeError::SessionPresentWithError);
    }
    let properties = match version {
        ProtocolVersion::V5 => connack_properties(reader)?,
        ProtocolVersion::V31 | ProtocolVersion::V311 => ConnAckProperties::default(),
    };
    Ok(ConnAck { session_present, reason, properties })
}

fn connack_properties<'a>(reader: &mut Reader<'a>) -> Result<ConnAckProperties<'a>, DecodeError> {
    let mut found = ConnAckProperties::default();
    let mut section = Properties::section(reader, PropertyHolder::ConnAck)?;
    while let Some((id, property)) = section.next()? {
        match property {
            Property::SessionExpiryInterval(seconds) => found.session_expiry_interval_seconds = Some(seconds),
            Property::ReceiveMaximum(maximum) => found.receive_maximum = Some(maximum),
            Property::MaximumQoS(qos) => found.maximum_qos = Some(qos),
            Property::RetainAvailable(is) => found.retain_available = Some(is),
            Property::MaximumPacketSize(bytes) => found.maximum_packet_size_bytes = Some(bytes),
            Property::AssignedClientIdentifier(id) => found.assigned_client_identifier = Some(id),
            Property::TopicAliasMaximum(maximum) => found.topic_alias_maximum = Some(maximum),
            Property::ReasonString(text) => found.reason_string = Some(text),
            Property::User(name, value) => found.user_properties.push((name, value)),
            Property::WildcardSubscriptionAvailable(is) => found.wildcard_subscription_available = Some(is),
            Property::SubscriptionIdentifierAvailable(is) => found.subscription_identifiers_available = Some(is),
            Property::SharedSubscriptionAvailable(is) => found.shared_subscription_available = Some(is),
            Property::ServerKeepAlive(seconds) => found.server_keep_alive_seconds = Some(seconds),
            Property::ResponseInformation(text) => found.response_information = Some(text),
            Property::ServerReference(server) => found.server_reference = Some(server),
            Property::AuthenticationMethod(method) => found.authentication_method = Some(method),
            Property::AuthenticationData(data) => found.authentication_data = Some(data),
            _ => return Err(section.not_allowed(id)),
        }
    }
    check_authentication(found.authentication_method, found.authentication_data)?;
    Ok(found)
}
