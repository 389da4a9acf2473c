//! What the encoder refuses, and what it says to a 3.x peer instead of what 5.0 would say.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::num::NonZeroU16;

use bytes::BytesMut;
use causeway_protocol::*;

fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::from(&b"x"[..]);
    let result = encode(packet, version, &mut out);
    assert!(result.is_ok() || &out[..] == b"x", "out is unchanged");
    result.map(|()| out[1..].to_vec())
}

fn head_error(head: &PublishHead<'_>) -> EncodeError {
    let mut out = BytesMut::from(&b"x"[..]);
    let error = encode_publish_head(head, ProtocolVersion::V5, &mut out).expect_err("refused");
    assert_eq!(&out[..], b"x");
    error
}

#[test]
fn too_long_fields_and_packets_are_refused() {
    let long = "a".repeat(65_536);
    let disconnect = Disconnect { reason_string: Some(&long), ..Disconnect::default() };
    assert_eq!(encoded(&Packet::Disconnect(disconnect), ProtocolVersion::V5), Err(EncodeError::FieldTooLong(65_536)));
    let fits = &long[1..];
    let disconnect = Disconnect { reason_string: Some(fits), ..Disconnect::default() };
    assert!(encoded(&Packet::Disconnect(disconnect), ProtocolVersion::V5).is_ok());

    let many = vec![(fits, fits); 2_049];
    let auth = Auth { authentication_method: Some("m"), user_properties: many, ..Auth::default() };
    assert!(matches!(encoded(&Packet::Auth(auth), ProtocolVersion::V5), Err(EncodeError::PacketTooLong(_))));

    assert_eq!(head_error(&PublishHead { topic: &long, ..PublishHead::default() }), EncodeError::FieldTooLong(65_536));
    let head = PublishHead { topic: "a", payload_bytes: 268_435_455 - 3, ..PublishHead::default() };
    assert_eq!(head_error(&head), EncodeError::PacketTooLong(268_435_456));
    assert_eq!(head.packet_bytes(ProtocolVersion::V311), 268_435_455 + 5);
}

#[test]
fn heads_that_contradict_themselves_are_refused() {
    let id = NonZeroU16::new(7);
    let head = PublishHead { topic: "a", ..PublishHead::default() };
    //= test [MQTT-2.2.1-2]
    assert_eq!(head_error(&PublishHead { packet_id: id, ..head }), EncodeError::PacketIdUnexpected);
    assert_eq!(head_error(&PublishHead { qos: QoS::ExactlyOnce, ..head }), EncodeError::PacketIdMissing);
    for identifier in [0, 268_435_456] {
        let head = PublishHead { subscription_identifiers: &[1, identifier], ..head };
        assert_eq!(head_error(&head), EncodeError::SubscriptionIdentifierOutOfRange(identifier));
    }
    //= test [MQTT-3.3.1-2]
    //= test [MQTT-4.3.1-1]
    let mut out = BytesMut::new();
    encode_publish_head(&PublishHead { dup: true, ..head }, ProtocolVersion::V311, &mut out).expect("it fits");
    assert_eq!(out[0], 0x30);
}

#[test]
fn subscription_identifiers_of_subscribe_have_their_range() {
    let subscribe = Subscribe {
        packet_id: NonZeroU16::MIN,
        subscription_identifier: Some(0),
        user_properties: Vec::new(),
        filters: vec![("a", SubscriptionOptions::default())],
    };
    let error = Err(EncodeError::SubscriptionIdentifierOutOfRange(0));
    assert_eq!(encoded(&Packet::Subscribe(subscribe), ProtocolVersion::V5), error);
}

#[test]
fn older_versions_get_what_they_can_understand() {
    let v311 = |packet: &Packet<'_>| encoded(packet, ProtocolVersion::V311).expect("it can be said");
    let id = NonZeroU16::MIN;

    let properties = ConnAckProperties { reason_string: Some("no"), ..ConnAckProperties::default() };
    let refusal = ConnAck { session_present: false, reason: ReasonCode::Banned, properties };
    assert_eq!(v311(&Packet::ConnAck(Box::new(refusal))), [0x20, 2, 0, 5]);
    let resumed = ConnAck { session_present: true, ..ConnAck::default() };
    let resumed = Packet::ConnAck(Box::new(resumed));
    assert_eq!(v311(&resumed), [0x20, 2, 1, 0]);
    assert_eq!(encoded(&resumed, ProtocolVersion::V31), Ok(vec![0x20, 2, 0, 0]));

    let reasons = vec![ReasonCode::GrantedQoS2, ReasonCode::NotAuthorized, ReasonCode::Success];
    let suback = SubAck { packet_id: id, reason_string: Some("no"), user_properties: Vec::new(), reasons };
    assert_eq!(v311(&Packet::SubAck(suback)), [0x90, 5, 0, 1, 2, 0x80, 0]);

    let reasons = vec![ReasonCode::NoSubscriptionExisted];
    let unsuback = UnsubAck { packet_id: id, reason_string: None, user_properties: Vec::new(), reasons };
    assert_eq!(v311(&Packet::UnsubAck(unsuback)), [0xB0, 2, 0, 1]);

    let ack = Ack { reason_string: Some("full"), ..Ack::new(id, ReasonCode::QuotaExceeded) };
    assert_eq!(v311(&Packet::PubAck(ack)), [0x40, 2, 0, 1]);
    let disconnect = Disconnect { reason: ReasonCode::ServerShuttingDown, ..Disconnect::default() };
    assert_eq!(v311(&Packet::Disconnect(disconnect)), [0xE0, 0]);
    assert_eq!(encoded(&Packet::Auth(Auth::default()), ProtocolVersion::V31), Err(EncodeError::AuthBeforeV5));

    let bytes = ForwardedBuilder::new().content_type("text").build().expect("short");
    let head = PublishHead {
        topic: "a",
        message_expiry_interval_seconds: Some(1),
        subscription_identifiers: &[1],
        forwarded: ForwardedProperties::from_forwarded_bytes(&bytes).expect("valid"),
        ..PublishHead::default()
    };
    let mut out = BytesMut::new();
    encode_publish_head(&head, ProtocolVersion::V311, &mut out).expect("it fits");
    assert_eq!(out[..], [0x30, 3, 0, 1, b'a']);
}

#[test]
fn a_password_without_a_user_name_needs_v5() {
    let mut connect = Connect {
        version: ProtocolVersion::V311,
        clean_start: true,
        keep_alive_seconds: 0,
        client_id: "tcu",
        will: None,
        username: None,
        password: Some(b"secret"),
        properties: ConnectProperties::default(),
    };
    let refused = encoded(&Packet::Connect(Box::new(connect.clone())), ProtocolVersion::V311);
    assert_eq!(refused, Err(EncodeError::PasswordWithoutUserName));
    connect.version = ProtocolVersion::V5;
    assert!(encoded(&Packet::Connect(Box::new(connect)), ProtocolVersion::V311).is_ok());
}

#[test]
fn the_builder_refuses_what_could_not_be_read_again() {
    let long = "a".repeat(65_536);
    assert_eq!(ForwardedBuilder::new().content_type(&long).build(), Err(EncodeError::FieldTooLong(65_536)));
    for (builder, error) in [
        (ForwardedBuilder::new().response_topic("a/#"), DecodeError::ResponseTopicWildcard),
        (ForwardedBuilder::new().response_topic(""), DecodeError::ResponseTopicEmpty),
        (ForwardedBuilder::new().user_property("a\0", ""), DecodeError::StringContainsNul),
    ] {
        assert_eq!(builder.build(), Err(EncodeError::ForwardedInvalid(error)));
    }
    assert_eq!(ForwardedBuilder::new().build(), Ok(Vec::new()));
}
