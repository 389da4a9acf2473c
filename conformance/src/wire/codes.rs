//! Owns the tables of the MQTT 5 specification: which reason codes and properties a server may put in which packet.
//! Never judges the moment of a packet, only its content.

use super::{first, prop};

/// How a property's value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One byte.
    Byte,
    /// Two bytes.
    Two,
    /// Four bytes.
    Four,
    /// Variable byte integer.
    Varint,
    /// UTF-8 string.
    Text,
    /// Binary data.
    Binary,
    /// String pair.
    Pair,
}

/// The encoding of a property, or None for an unknown identifier.
pub fn property_kind(id: u8) -> Option<Kind> {
    Some(match id {
        prop::PAYLOAD_FORMAT
        | prop::REQUEST_PROBLEM_INFO
        | prop::REQUEST_RESPONSE_INFO
        | prop::MAXIMUM_QOS
        | prop::RETAIN_AVAILABLE
        | prop::WILDCARD_AVAILABLE
        | prop::SUBSCRIPTION_ID_AVAILABLE
        | prop::SHARED_AVAILABLE => Kind::Byte,
        prop::SERVER_KEEP_ALIVE | prop::RECEIVE_MAXIMUM | prop::TOPIC_ALIAS_MAXIMUM | prop::TOPIC_ALIAS => Kind::Two,
        prop::MESSAGE_EXPIRY | prop::SESSION_EXPIRY | prop::WILL_DELAY | prop::MAXIMUM_PACKET_SIZE => Kind::Four,
        prop::SUBSCRIPTION_ID => Kind::Varint,
        prop::CONTENT_TYPE
        | prop::RESPONSE_TOPIC
        | prop::ASSIGNED_CLIENT_ID
        | prop::AUTH_METHOD
        | prop::RESPONSE_INFO
        | prop::SERVER_REFERENCE
        | prop::REASON_STRING => Kind::Text,
        prop::CORRELATION_DATA | prop::AUTH_DATA => Kind::Binary,
        prop::USER_PROPERTY => Kind::Pair,
        _ => return None,
    })
}

/// The properties a server may send in the packet with this first byte.
pub fn allowed_properties(first_byte: u8) -> &'static [u8] {
    match first_byte & 0xF0 {
        first::CONNACK => &[
            prop::SESSION_EXPIRY,
            prop::RECEIVE_MAXIMUM,
            prop::MAXIMUM_QOS,
            prop::RETAIN_AVAILABLE,
            prop::MAXIMUM_PACKET_SIZE,
            prop::ASSIGNED_CLIENT_ID,
            prop::TOPIC_ALIAS_MAXIMUM,
            prop::REASON_STRING,
            prop::USER_PROPERTY,
            prop::WILDCARD_AVAILABLE,
            prop::SUBSCRIPTION_ID_AVAILABLE,
            prop::SHARED_AVAILABLE,
            prop::SERVER_KEEP_ALIVE,
            prop::RESPONSE_INFO,
            prop::SERVER_REFERENCE,
            prop::AUTH_METHOD,
            prop::AUTH_DATA,
        ],
        first::PUBLISH => &[
            prop::PAYLOAD_FORMAT,
            prop::MESSAGE_EXPIRY,
            prop::TOPIC_ALIAS,
            prop::RESPONSE_TOPIC,
            prop::CORRELATION_DATA,
            prop::USER_PROPERTY,
            prop::SUBSCRIPTION_ID,
            prop::CONTENT_TYPE,
        ],
        first::DISCONNECT => &[prop::REASON_STRING, prop::USER_PROPERTY, prop::SERVER_REFERENCE],
        first::AUTH => &[prop::AUTH_METHOD, prop::AUTH_DATA, prop::REASON_STRING, prop::USER_PROPERTY],
        _ => &[prop::REASON_STRING, prop::USER_PROPERTY],
    }
}

/// The reason codes a server may send in a packet, with the statement that says so.
pub fn allowed_reasons(first_byte: u8) -> (&'static [u8], &'static str) {
    match first_byte & 0xF0 {
        first::CONNACK => (
            &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
                0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
            ],
            "MQTT-3.2.2-8",
        ),
        first::PUBACK => (&[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99], "MQTT-3.4.2-1"),
        first::PUBREC => (&[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99], "MQTT-3.5.2-1"),
        0x60 => (&[0x00, 0x92], "MQTT-3.6.2-1"),
        first::PUBCOMP => (&[0x00, 0x92], "MQTT-3.7.2-1"),
        first::SUBACK => (&[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2], "MQTT-3.9.3-2"),
        first::UNSUBACK => (&[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91], "MQTT-3.11.3-2"),
        // 0x04 (with will) is for clients. 0x8C is missing in the table of 3.14.2 but listed for DISCONNECT in 2.4.
        first::DISCONNECT => (
            &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
                0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
            ],
            "MQTT-3.14.2-1",
        ),
        first::AUTH => (&[0x00, 0x18], "MQTT-3.15.2-1"),
        _ => (&[], "MQTT-2.1.3-1"),
    }
}
