//! The MQTT 5 packets of load whose sessions last, as bytes.
//!
//! Owns writing them behind others and reading the few fields that a client
//! must know. It checks nothing else.

use anyhow::{Context as _, Result, ensure};

use crate::wire;

/// First bytes of the packets that a session sends and receives.
pub(crate) mod first {
    /// PUBLISH without flags.
    pub(crate) const PUBLISH: u8 = 0x30;
    /// The DUP flag of PUBLISH.
    pub(crate) const DUP: u8 = 0x08;
    /// PUBACK.
    pub(crate) const PUBACK: u8 = 0x40;
    /// PUBREC.
    pub(crate) const PUBREC: u8 = 0x50;
    /// PUBREL.
    pub(crate) const PUBREL: u8 = 0x62;
    /// PUBCOMP.
    pub(crate) const PUBCOMP: u8 = 0x70;
    /// CONNACK.
    pub(crate) const CONNACK: u8 = 0x20;
    /// SUBACK.
    pub(crate) const SUBACK: u8 = 0x90;
    /// PINGRESP.
    pub(crate) const PINGRESP: u8 = 0xD0;
    /// DISCONNECT.
    pub(crate) const DISCONNECT: u8 = 0xE0;
}

/// What a CONNECT asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connect<'a> {
    /// Whose session.
    pub(crate) client_id: &'a str,
    /// Whether an older session is to be forgotten.
    pub(crate) is_clean: bool,
    /// How long the session outlives the connection, in seconds.
    pub(crate) session_expiry_seconds: u32,
    /// How many messages of QoS 1 and 2 it takes at once.
    pub(crate) receive_maximum: u16,
}

impl Connect<'_> {
    /// Writes the packet behind `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        const SESSION_EXPIRY: u8 = 0x11;
        const RECEIVE_MAXIMUM: u8 = 0x21;
        let mut body = Vec::with_capacity(32 + self.client_id.len());
        wire::push_text(&mut body, "MQTT");
        // No keep alive: the load itself keeps the connection busy.
        body.extend([5, u8::from(self.is_clean) << 1, 0, 0, 8, SESSION_EXPIRY]);
        body.extend(self.session_expiry_seconds.to_be_bytes());
        body.push(RECEIVE_MAXIMUM);
        body.extend(self.receive_maximum.to_be_bytes());
        wire::push_text(&mut body, self.client_id);
        wire::push_packet(out, 0x10, &body);
    }
}

/// What a CONNACK says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connack {
    /// Whether the broker has kept the session.
    pub(crate) is_session_present: bool,
    /// How many messages of QoS 1 and 2 the broker takes at once.
    pub(crate) receive_maximum: u16,
}

impl Connack {
    /// Reads the body of a CONNACK.
    ///
    /// # Errors
    /// When the broker refuses, or the packet is cut short.
    pub(crate) fn read(body: &[u8]) -> Result<Self> {
        let [flags, reason, rest @ ..] = body else { anyhow::bail!("a CONNACK of {} bytes", body.len()) };
        ensure!(*reason == 0, "the broker refuses: CONNACK {reason:#04x}");
        let (length, used) = wire::varint(rest).context("a CONNACK without properties")?;
        let properties = rest.get(used..used + length).context("a CONNACK cut short")?;
        let receive_maximum = receive_maximum(properties).context("a CONNACK with unknown properties")?;
        Ok(Self { is_session_present: flags & 1 == 1, receive_maximum: receive_maximum.unwrap_or(u16::MAX) })
    }
}

/// Looks for Receive Maximum; the outer `None` says that the properties cannot be read.
fn receive_maximum(mut properties: &[u8]) -> Option<Option<u16>> {
    let mut found = None;
    while let Some((id, rest)) = properties.split_first() {
        let length = match id {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => text_bytes(rest)?,
            0x26 => {
                let name = text_bytes(rest)?;
                name + text_bytes(rest.get(name..)?)?
            }
            _ => return None,
        };
        let value = rest.get(..length)?;
        if let (0x21, [high, low]) = (*id, value) {
            found = Some(u16::from_be_bytes([*high, *low]));
        }
        properties = rest.get(length..)?;
    }
    Some(found)
}

/// The bytes of a text with its length.
fn text_bytes(bytes: &[u8]) -> Option<usize> {
    let (length, _) = bytes.split_first_chunk::<2>()?;
    Some(2 + usize::from(u16::from_be_bytes(*length)))
}

/// Writes a SUBSCRIBE to one filter behind `out`.
pub(crate) fn subscribe(out: &mut Vec<u8>, filter: &str, qos: u8) {
    let mut body = vec![0, 1, 0];
    wire::push_text(&mut body, filter);
    body.push(qos);
    wire::push_packet(out, 0x82, &body);
}

/// Writes a PUBLISH without properties behind `out`. `flags` holds QoS and DUP.
pub(crate) fn publish(out: &mut Vec<u8>, flags: u8, topic: &str, id: u16, payload: &[u8]) {
    out.push(first::PUBLISH | flags);
    wire::push_varint(out, 2 + topic.len() + 2 + 1 + payload.len());
    wire::push_text(out, topic);
    out.extend(id.to_be_bytes());
    out.push(0);
    out.extend(payload);
}

/// Writes a PUBACK, PUBREC, PUBREL or PUBCOMP behind `out`.
pub(crate) fn ack(out: &mut Vec<u8>, first: u8, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend([first, 2, high, low]);
}

/// Identifier and reason code of an acknowledgement's body.
pub(crate) fn read_ack(body: &[u8]) -> Option<(u16, u8)> {
    let (id, rest) = body.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*id), rest.first().copied().unwrap_or(0)))
}

/// Identifier (0 for QoS 0) and payload of a PUBLISH.
pub(crate) fn read_publish(first: u8, body: &[u8]) -> Option<(u16, &[u8])> {
    let mut rest = body.get(text_bytes(body)?..)?;
    let mut id = 0;
    if first & 0x06 != 0 {
        let (bytes, behind) = rest.split_first_chunk::<2>()?;
        id = u16::from_be_bytes(*bytes);
        rest = behind;
    }
    let (length, used) = wire::varint(rest)?;
    Some((id, rest.get(used + length..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_reads_back() {
        let mut bytes = Vec::new();
        publish(&mut bytes, 0x04, "a/b", 258, &[7; 200]);
        let (body, header) = wire::header(&bytes).unwrap();
        assert_eq!(bytes.len(), header + body);
        assert_eq!(read_publish(bytes[0], &bytes[header..]), Some((258, &[7; 200][..])));
    }

    #[test]
    fn a_connack_tells_its_window() {
        let body = [1, 0, 14, 0x22, 0, 64, 0x21, 4, 0, 0x26, 0, 1, b'a', 0, 1, b'b'];
        assert!(Connack::read(&body).is_err(), "its properties are longer than they say");
        let body = [1, 0, 6, 0x22, 0, 64, 0x21, 4, 0];
        assert_eq!(Connack::read(&body).unwrap(), Connack { is_session_present: true, receive_maximum: 1024 });
        assert_eq!(Connack::read(&[0, 0, 0]).unwrap().receive_maximum, u16::MAX);
        assert!(Connack::read(&[0, 0x97, 0]).is_err());
    }
}
