//! What must not allocate does not: PUBLISH in, PUBLISH out into a buffer with room, and topics.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "vectors/mod.rs"]
#[allow(dead_code)]
mod vectors;

use bytes::BytesMut;
use causeway_protocol::*;

fn allocations(run: impl FnOnce()) -> u64 {
    allocation_counter::measure(run).count_total
}

#[test]
fn a_publish_is_read_and_written_without_allocating() {
    let bytes = vectors::bytes(
        "32 @ s'vehicles/1/telemetry' 0001 [ 02 0000003C 23 0001 01 01 03 s'json' 09 s'id' 26 s'k' s'v' ] 'payload'",
    );
    let mut out = BytesMut::with_capacity(1_024);
    let count = allocations(|| {
        let frame = frame(&bytes, 1_024).expect("valid").expect("complete");
        let body = &bytes[frame.header_bytes..];
        let packet = decode(&frame, body, ProtocolVersion::V5).expect("valid");
        encode(&packet, ProtocolVersion::V5, &mut out).expect("it fits");
    });
    assert_eq!(count, 0);
    assert_eq!(out.len(), bytes.len());
}

#[test]
fn acknowledgements_are_read_and_written_without_allocating() {
    let mut out = BytesMut::with_capacity(1_024);
    let count = allocations(|| {
        for bytes in [[0x40, 2, 0, 1], [0x50, 2, 0, 1], [0x62, 2, 0, 1], [0x70, 2, 0, 1]] {
            let frame = frame(&bytes, 1_024).expect("valid").expect("complete");
            let packet = decode(&frame, &bytes[2..], ProtocolVersion::V5).expect("valid");
            encode(&packet, ProtocolVersion::V5, &mut out).expect("it fits");
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn claimed_lengths_allocate_nothing() {
    // Each claims more than it has: a packet of 256 MB, a string of 64 KB, properties of 256 MB.
    for notation in
        ["30 FFFFFF7F", "30 @ FFFF", "30 @ s'a' FFFFFF7F", "82 @ 0001 [ ] FFFF", "10 @ s'MQTT' 05 02 003C FFFFFF7F"]
    {
        let bytes = vectors::bytes(notation);
        let count = allocations(|| {
            if let Ok(Some(frame)) = frame(&bytes, u32::MAX)
                && let Some(body) = bytes.get(frame.header_bytes..frame.total_bytes())
            {
                assert!(decode(&frame, body, ProtocolVersion::V5).is_err());
            }
        });
        assert_eq!(count, 0, "{notation}");
    }
}

#[test]
fn topics_are_checked_without_allocating() {
    let count = allocations(|| {
        assert_eq!(check_topic_name("vehicles/1/telemetry", 8), Ok(()));
        assert_eq!(check_topic_filter("$share/g/vehicles/+/#", 8), Ok(()));
        assert!(filter_matches("vehicles/+/#", "vehicles/1/telemetry"));
    });
    assert_eq!(count, 0);
}
