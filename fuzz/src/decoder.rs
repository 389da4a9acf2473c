//! The target `decoder`: bytes of a peer, read as one connection would read them.
//!
//! Owns the properties of the codec. It never knows what a packet does.

use bytes::BytesMut;
use causeway_protocol::{DecodeError, Packet, ProtocolVersion, decode, encode, frame};

/// The largest packet the target accepts.
const PACKET_BYTES_MAX: u32 = 1 << 20;

/// Reads packet after packet. The first byte chooses the version; a CONNECT changes it, as in a connection.
///
/// Nothing panics; what is cut short is never taken for a packet; and whatever is accepted can be written, and reads the
/// same then.
pub fn decoder(data: &[u8]) {
    let Some((choice, mut stream)) = data.split_first() else { return };
    let mut version = match choice % 3 {
        0 => ProtocolVersion::V5,
        1 => ProtocolVersion::V311,
        _ => ProtocolVersion::V31,
    };
    while let Ok(Some(frame)) = frame(stream, PACKET_BYTES_MAX) {
        let Some((packet, rest)) = stream.split_at_checked(frame.total_bytes()) else { break };
        let Some(body) = packet.get(frame.header_bytes..) else { break };
        check_length(&frame, body, version);
        let Ok(packet) = decode(&frame, body, version) else { break };
        if let Packet::Connect(connect) = &packet {
            version = connect.version;
        }
        check_round_trip(&packet, version);
        stream = rest;
    }
}

/// The bytes for [`decoder`] that make it read `packet` in `version`.
pub fn decoder_input(packet: &[u8], version: ProtocolVersion) -> Vec<u8> {
    let choice = match version {
        ProtocolVersion::V5 => 0,
        ProtocolVersion::V311 => 1,
        ProtocolVersion::V31 => 2,
    };
    [&[choice], packet].concat()
}

fn check_length(frame: &causeway_protocol::Frame, body: &[u8], version: ProtocolVersion) {
    if let Some((_, shorter)) = body.split_last() {
        let result = decode(frame, shorter, version);
        assert!(matches!(result, Err(DecodeError::BodyLengthMismatch { .. })), "{result:?}");
    }
}

fn check_round_trip(packet: &Packet<'_>, version: ProtocolVersion) {
    let mut out = BytesMut::new();
    let result = encode(packet, version, &mut out);
    assert_eq!(result, Ok(()), "what was read can be written: {packet:?}");
    let again = frame(&out, u32::MAX);
    let Ok(Some(frame)) = again else { panic!("what was written is a packet: {again:?}") };
    assert_eq!(frame.total_bytes(), out.len());
    let read = decode(&frame, &out[frame.header_bytes..], version);
    assert_eq!(read.as_ref(), Ok(packet));
}
