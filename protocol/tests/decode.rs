//! The decoder against tables of bytes: each is accepted as what it is, or refused by name.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "vectors/mod.rs"]
mod vectors;

use bytes::BytesMut;
use causeway_protocol::*;
use vectors::{CANONICAL, INVALID, TOLERATED};

/// Frames and decodes; `None` if bytes are missing.
fn read(bytes: &[u8], version: ProtocolVersion) -> Result<Option<Packet<'_>>, DecodeError> {
    let Some(frame) = frame(bytes, u32::MAX)? else { return Ok(None) };
    match bytes.get(frame.header_bytes..frame.total_bytes()) {
        Some(body) => decode(&frame, body, version).map(Some),
        None => Ok(None),
    }
}

#[test]
fn valid_packets_are_what_they_are() {
    for (version, notation, expected) in CANONICAL.iter().chain(TOLERATED) {
        let bytes = vectors::bytes(notation);
        let packet = read(&bytes, *version).unwrap_or_else(|error| panic!("{notation}: {error:?}"));
        let packet = packet.unwrap_or_else(|| panic!("{notation}: incomplete"));
        let debug = format!("{packet:?}");
        assert!(debug.starts_with(expected), "{notation}: {debug}");
    }
}

#[test]
fn canonical_packets_are_written_as_they_were() {
    for (version, notation, _) in CANONICAL {
        let bytes = vectors::bytes(notation);
        let packet = read(&bytes, *version).expect("valid").expect("complete");
        let mut out = BytesMut::new();
        encode(&packet, *version, &mut out).expect("it fits");
        assert_eq!(out[..], bytes[..], "{notation}");
    }
}

#[test]
fn tolerated_packets_mean_the_same_when_written() {
    for (version, notation, _) in TOLERATED {
        let bytes = vectors::bytes(notation);
        let packet = read(&bytes, *version).expect("valid").expect("complete");
        let mut out = BytesMut::new();
        encode(&packet, *version, &mut out).expect("it fits");
        assert_eq!(read(&out, *version), Ok(Some(packet)), "{notation}");
    }
}

#[test]
fn invalid_packets_are_refused_by_name() {
    for (version, notation, expected) in INVALID {
        let bytes = vectors::bytes(notation);
        let error = read(&bytes, *version).expect_err(notation);
        assert_eq!(format!("{error:?}"), *expected, "{notation}");
        assert!(error.reason().is_error());
    }
}

#[test]
fn every_byte_fewer_is_incomplete_or_the_same_error() {
    for (version, notation, _) in CANONICAL.iter().chain(TOLERATED).chain(INVALID) {
        let bytes = vectors::bytes(notation);
        let whole = read(&bytes, *version);
        for cut in 0..bytes.len() {
            let part = read(&bytes[..cut], *version);
            assert!(part == Ok(None) || part == whole, "{notation} cut at {cut}: {part:?}");
        }
    }
}

#[test]
fn any_bytes_in_any_version_do_not_panic() {
    for (_, notation, _) in CANONICAL.iter().chain(TOLERATED).chain(INVALID) {
        for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
            let mut bytes = vectors::bytes(notation);
            for at in 0..bytes.len() {
                for flip in [0x01, 0x04, 0x40, 0x80, 0xFF] {
                    bytes[at] ^= flip;
                    let _ = read(&bytes, version);
                    bytes[at] ^= flip;
                }
            }
        }
    }
}

#[test]
fn the_limit_counts_the_whole_packet_and_is_held_before_it_arrives() {
    let header = [0x30, 0x80, 0x01];
    assert_eq!(frame(&header, 131).expect("fits").expect("complete").total_bytes(), 131);
    let too_large = DecodeError::PacketTooLarge { bytes: 131, bytes_max: 130 };
    assert_eq!(frame(&header, 130), Err(too_large));
    assert_eq!(too_large.reason(), ReasonCode::PacketTooLarge);
    assert_eq!(frame(&header[..2], 130), Ok(None));
}

#[test]
fn a_body_of_another_length_is_an_error() {
    let frame = frame(&[0xC0, 0x00], 10).expect("valid").expect("complete");
    let expected = DecodeError::BodyLengthMismatch { expected: 0, actual: 1 };
    assert_eq!(decode(&frame, &[0], ProtocolVersion::V5), Err(expected));
}

#[test]
fn a_frame_made_up_by_the_caller_is_checked() {
    for first_byte in 0..=0xFF {
        let made_up = Frame { first_byte, header_bytes: 2, body_bytes: 0 };
        if let Err(error) = frame(&[first_byte, 0], 10) {
            assert_eq!(decode(&made_up, &[], ProtocolVersion::V5), Err(error));
        }
    }
}

/// The reason codes that clients can see, for the errors whose code the specification names.
#[test]
fn errors_have_the_reason_code_of_the_specification() {
    for (error, reason) in [
        (DecodeError::ReservedFlagsSet { packet_type: 14, flags: 1 }, ReasonCode::MalformedPacket),
        (DecodeError::StringNotUtf8, ReasonCode::MalformedPacket),
        (DecodeError::ProtocolLevelUnknown { level: 6 }, ReasonCode::UnsupportedProtocolVersion),
        (DecodeError::ProtocolNameUnknown, ReasonCode::UnsupportedProtocolVersion),
        (DecodeError::PublishTopicWildcard, ReasonCode::TopicNameInvalid),
        (DecodeError::TopicAliasZero, ReasonCode::TopicAliasInvalid),
        (DecodeError::PropertyRepeated(PropertyId::TopicAlias), ReasonCode::ProtocolError),
        (DecodeError::ReceiveMaximumZero, ReasonCode::ProtocolError),
        (DecodeError::NoLocalOnSharedSubscription, ReasonCode::ProtocolError),
    ] {
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[test]
fn every_property_is_refused_where_it_does_not_belong() {
    use PropertyHolder::*;
    let before_and_behind: [(PropertyHolder, &str, &str); 14] = [
        (Connect, "10 @ s'MQTT' 05 02 003C [", "] s'tcu'"),
        (Will, "10 @ s'MQTT' 05 06 003C [ ] s'tcu' [", "] s'will' 0000"),
        (ConnAck, "20 @ 00 00 [", "]"),
        (Publish, "30 @ s'a' [", "]"),
        (PubAck, "40 @ 0001 00 [", "]"),
        (PubRec, "50 @ 0001 00 [", "]"),
        (PubRel, "62 @ 0001 00 [", "]"),
        (PubComp, "70 @ 0001 00 [", "]"),
        (Subscribe, "82 @ 0001 [", "] s'a' 00"),
        (SubAck, "90 @ 0001 [", "] 00"),
        (Unsubscribe, "A2 @ 0001 [", "] s'a'"),
        (UnsubAck, "B0 @ 0001 [", "] 00"),
        (Disconnect, "E0 @ 00 [", "]"),
        (Auth, "F0 @ 18 [", "15 s'm' ]"),
    ];
    for (holder, before, behind) in before_and_behind {
        for property in PropertyId::ALL {
            let value = match property.value_type() {
                PropertyType::Byte | PropertyType::VariableByteInteger => "01",
                PropertyType::TwoByteInteger => "0001",
                PropertyType::FourByteInteger => "00000001",
                PropertyType::Utf8String | PropertyType::BinaryData => "s'v'",
                PropertyType::Utf8StringPair => "s'k' s'v'",
            };
            let notation = format!("{before} {:02X} {value} {behind}", property as u8);
            let bytes = vectors::bytes(&notation);
            let result = read(&bytes, ProtocolVersion::V5);
            match result {
                Err(DecodeError::PropertyNotAllowed { property: refused, holder: by }) => {
                    assert!(!property.is_allowed_in(holder) && refused == property && by == holder, "{notation}");
                }
                // These need another property beside them, or are there already.
                Err(DecodeError::AuthenticationDataWithoutMethod | DecodeError::PropertyRepeated(_)) => {
                    assert!(property.is_allowed_in(holder), "{notation}");
                }
                other => {
                    assert!(matches!(other, Ok(Some(_))) && property.is_allowed_in(holder), "{notation}: {other:?}");
                }
            }
        }
    }
}

#[test]
fn identifiers_and_reasons_know_their_bytes() {
    for property in PropertyId::ALL {
        assert_eq!(PropertyId::from_byte(property as u8), Some(property));
    }
    assert_eq!((0..=0xFF).filter_map(PropertyId::from_byte).count(), PropertyId::ALL.len());
    for byte in 0..=0xFF {
        assert!(ReasonCode::from_byte(byte).is_none_or(|reason| reason as u8 == byte));
    }
    for code in 0..=5 {
        assert_eq!(ReasonCode::from_connect_return_code(code).map(ReasonCode::connect_return_code), Some(code));
    }
}

#[test]
fn what_lies_between_forwarded_properties_is_left_out() {
    let bytes = vectors::bytes("30 @ s'a' [ 02 00000001 26 s'k' s'v' 23 0001 01 01 0B 05 03 s'text' 0B 8001 ]");
    let Ok(Some(Packet::Publish(publish))) = read(&bytes, ProtocolVersion::V5) else { panic!("valid") };
    let mut stored = Vec::new();
    publish.properties.forwarded.append_to(&mut stored);
    let expected = vectors::bytes("26 s'k' s'v' 01 01 03 s'text'");
    assert_eq!(stored, expected);
    assert_eq!(publish.properties.forwarded.encoded_bytes(), expected.len());
    let read = ForwardedProperties::from_forwarded_bytes(&stored).expect("valid");
    assert_eq!(read, publish.properties.forwarded);
    assert_ne!(read, ForwardedProperties::default());
    assert_eq!(read.payload_format_indicator(), Some(1));
    assert_eq!(read.content_type(), Some("text"));
    assert_eq!(read.user_properties().collect::<Vec<_>>(), [("k", "v")]);
    assert_eq!((read.response_topic(), read.correlation_data()), (None, None));
}

#[test]
fn only_forwarded_properties_are_stored() {
    for (notation, expected) in [
        ("02 00000001", "PropertyNotAllowed { property: MessageExpiryInterval, holder: Forwarded }"),
        ("23 0001", "PropertyNotAllowed { property: TopicAlias, holder: Forwarded }"),
        ("03 s'a' 03 s'a'", "PropertyRepeated(ContentType)"),
        ("08 s'#'", "ResponseTopicWildcard"),
        ("26 s'a'", "Truncated"),
    ] {
        let bytes = vectors::bytes(notation);
        let error = ForwardedProperties::from_forwarded_bytes(&bytes).expect_err(notation);
        assert_eq!(format!("{error:?}"), expected);
    }
}
