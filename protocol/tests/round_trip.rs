//! Properties of the codec over generated packets and bytes: what is written is read, nothing panics, a packet in parts
//! is never mistaken for another.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "packets/mod.rs"]
mod packets;

use bytes::{BufMut, BytesMut};
use causeway_protocol::*;
use packets::{as_received, forwarded, packet, publish, version};
use proptest::collection::vec;
use proptest::prelude::*;

fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::from(&b"before"[..]);
    let result = encode(packet, version, &mut out);
    assert!(out.starts_with(b"before"));
    assert!(result.is_ok() || out.len() == 6, "a refused packet leaves nothing behind");
    result.map(|()| out[6..].to_vec())
}

fn decoded(bytes: &[u8], version: ProtocolVersion) -> Result<Packet<'_>, DecodeError> {
    let frame = frame(bytes, u32::MAX)?.expect("all bytes are there");
    decode(&frame, &bytes[frame.header_bytes..frame.total_bytes()], version)
}

/// Whatever is accepted can be written, and reads the same then.
fn check_any_bytes(bytes: &[u8], version: ProtocolVersion) {
    let Ok(Some(frame)) = frame(bytes, u32::MAX) else { return };
    let Some(body) = bytes.get(frame.header_bytes..frame.total_bytes()) else { return };
    let Ok(packet) = decode(&frame, body, version) else { return };
    let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
    let again = encoded(&packet, version).expect("what was read can be written");
    assert_eq!(decoded(&again, version).as_ref(), Ok(&packet));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read((packet, version) in (packet(), version())) {
        match as_received(packet.clone(), version) {
            Some(expected) => {
                let bytes = encoded(&packet, version).expect("it fits");
                prop_assert_eq!(decoded(&bytes, version), Ok(expected));
            }
            None if matches!(packet, Packet::Auth(_)) => {
                prop_assert_eq!(encoded(&packet, version), Err(EncodeError::AuthBeforeV5));
            }
            None => {
                let bytes = encoded(&packet, version).expect("it fits");
                prop_assert_eq!(decoded(&bytes, version), Err(DecodeError::PublishTopicMissing));
            }
        }
    }

    #[test]
    fn a_part_of_a_packet_is_no_packet(packet in packet()) {
        let bytes = encoded(&packet, ProtocolVersion::V5).expect("it fits");
        let whole = frame(&bytes, u32::MAX).expect("valid").expect("complete");
        prop_assert_eq!(whole.total_bytes(), bytes.len());
        for cut in 0..bytes.len() {
            let part = frame(&bytes[..cut], u32::MAX).expect("a valid start");
            prop_assert_eq!(part, (cut >= whole.header_bytes).then_some(whole));
            if let Some(part) = part {
                let body = &bytes[part.header_bytes..cut];
                let mismatch =
                    DecodeError::BodyLengthMismatch { expected: part.body_bytes, actual: body.len() };
                prop_assert_eq!(decode(&part, body, ProtocolVersion::V5), Err(mismatch));
                // A body cut short under a header that fits it: no panic, and not the same packet.
                let shorter = Frame { body_bytes: body.len(), ..part };
                prop_assert_ne!(decode(&shorter, body, ProtocolVersion::V5), Ok(packet.clone()));
            }
        }
    }

    #[test]
    fn random_bytes_never_panic((bytes, version) in (vec(any::<u8>(), 0..80), version())) {
        check_any_bytes(&bytes, version);
    }

    #[test]
    fn random_bodies_never_panic((kind, mut body, version) in (0..=0xFFu8, vec(any::<u8>(), 0..80), version())) {
        body.insert(0, body.len() as u8);
        body.insert(0, kind);
        check_any_bytes(&body, version);
    }

    #[test]
    fn flipped_bytes_never_panic(
        (packet, version, read_as, at, flip) in (packet(), version(), version(), any::<prop::sample::Index>(), 1..=0xFFu8)
    ) {
        let Ok(mut bytes) = encoded(&packet, version) else { return Ok(()) };
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        check_any_bytes(&bytes, read_as);
    }

    #[test]
    fn packets_are_found_in_a_stream_however_it_is_cut(
        (packets, cuts) in (vec(packet(), 1..5), vec(1..50usize, 1..10))
    ) {
        let mut stream = Vec::new();
        for packet in &packets {
            stream.extend(encoded(packet, ProtocolVersion::V5).expect("it fits"));
        }
        let mut buffer = BytesMut::new();
        let mut read = 0;
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let bytes = cuts.next().unwrap_or(1).min(rest.len());
            buffer.put_slice(&rest[..bytes]);
            rest = &rest[bytes..];
            while let Some(frame) = frame(&buffer, u32::MAX).expect("valid") {
                if buffer.len() < frame.total_bytes() {
                    break;
                }
                let whole = buffer.split_to(frame.total_bytes());
                let packet = decode(&frame, &whole[frame.header_bytes..], ProtocolVersion::V5).expect("valid");
                prop_assert_eq!(&packet, &packets[read]);
                read += 1;
            }
        }
        prop_assert_eq!(read, packets.len());
    }

    #[test]
    fn a_head_knows_its_length((publish, version) in (publish(), version())) {
        let head = PublishHead {
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
        };
        let mut out = BytesMut::new();
        encode_publish_head(&head, version, &mut out).expect("it fits");
        out.put_slice(publish.payload);
        prop_assert_eq!(out.len(), head.packet_bytes(version));
        prop_assert_eq!(&out[..], &encoded(&Packet::Publish(publish), version).expect("it fits")[..]);
    }

    //= test [MQTT-3.3.2-4]
    //= test [MQTT-3.3.2-15]
    //= test [MQTT-3.3.2-16]
    //= test [MQTT-3.3.2-17]
    //= test [MQTT-3.3.2-18]
    //= test [MQTT-3.3.2-20]
    #[test]
    fn forwarded_properties_survive_being_stored(forwarded in forwarded()) {
        let mut stored = Vec::new();
        forwarded.append_to(&mut stored);
        prop_assert_eq!(stored.len(), forwarded.encoded_bytes());
        let read = ForwardedProperties::from_forwarded_bytes(&stored).expect("they are valid");
        prop_assert_eq!(read, forwarded);
        prop_assert_eq!(read.payload_format_indicator(), forwarded.payload_format_indicator());
        prop_assert_eq!(read.content_type(), forwarded.content_type());
        prop_assert_eq!(read.response_topic(), forwarded.response_topic());
        prop_assert_eq!(read.correlation_data(), forwarded.correlation_data());
        prop_assert!(read.user_properties().eq(forwarded.user_properties()));
    }

    #[test]
    fn stored_properties_are_checked(bytes in vec(any::<u8>(), 0..40)) {
        if let Ok(forwarded) = ForwardedProperties::from_forwarded_bytes(&bytes) {
            let mut again = Vec::new();
            forwarded.append_to(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}
