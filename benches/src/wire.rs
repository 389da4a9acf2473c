//! The few MQTT 3.1.1 packets that load is made of, as bytes.
//!
//! Owns building requests and telling packets apart. It checks nothing that
//! a conformance suite would; a broker that answers wrongly fails the load.

/// Packet types, in the high half of the first byte.
pub(crate) const CONNACK: u8 = 2;
/// A message.
pub(crate) const PUBLISH: u8 = 3;
/// The answer to SUBSCRIBE.
pub(crate) const SUBACK: u8 = 9;
/// The answer to PINGREQ.
pub(crate) const PINGRESP: u8 = 13;

/// The whole PINGREQ packet.
pub(crate) const PINGREQ: &[u8] = &[0xC0, 0];
/// The whole DISCONNECT packet.
pub(crate) const DISCONNECT: &[u8] = &[0xE0, 0];

/// A CONNECT with a clean session and nothing optional.
pub(crate) fn connect(client_id: &str, keep_alive_seconds: u16) -> Vec<u8> {
    let mut body = Vec::with_capacity(16 + client_id.len());
    push_text(&mut body, "MQTT");
    body.extend([4, 0x02]);
    body.extend(keep_alive_seconds.to_be_bytes());
    push_text(&mut body, client_id);
    packet(0x10, &body)
}

/// A SUBSCRIBE to one filter with QoS 0.
pub(crate) fn subscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    push_text(&mut body, filter);
    body.push(0);
    packet(0x82, &body)
}

/// A PUBLISH with QoS 0.
pub(crate) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(2 + topic.len() + payload.len());
    push_text(&mut body, topic);
    body.extend(payload);
    packet(0x30, &body)
}

/// The payload of a QoS 0 PUBLISH's body, or `None` when it is cut short.
pub(crate) fn publish_payload(body: &[u8]) -> Option<&[u8]> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    rest.get(usize::from(u16::from_be_bytes(*length))..)
}

/// The length of the body and of the header before it, once enough bytes are
/// there. `None` asks for more.
pub(crate) fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let (body, used) = varint(bytes.get(1..)?)?;
    Some((body, 1 + used))
}

/// A variable byte integer, and how many bytes it takes. `None` asks for more.
pub(crate) fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + body.len());
    push_packet(&mut bytes, first, body);
    bytes
}

/// Appends a packet of this first byte and body.
pub(crate) fn push_packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    push_varint(out, body.len());
    out.extend(body);
}

/// Appends a variable byte integer.
pub(crate) fn push_varint(out: &mut Vec<u8>, mut rest: usize) {
    loop {
        // Seven bits at a time: the mask makes the cast exact.
        let low = (rest & 0x7F) as u8;
        rest >>= 7;
        if rest == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a text with its length; texts here are short by construction.
pub(crate) fn push_text(body: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    body.extend(length.to_be_bytes());
    body.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_is_the_specification_s() {
        assert_eq!(connect("ab", 60), [0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 2, b'a', b'b']);
    }

    #[test]
    fn a_header_reads_back() {
        let bytes = publish("t", &[7; 300]);
        assert_eq!(header(&bytes), Some((303, 3)));
        assert_eq!(header(&bytes[..2]), None);
        assert_eq!(publish_payload(&bytes[3..]), Some(&[7; 300][..]));
    }
}
