//! The few MQTT packets that load is made of, as bytes, for MQTT 3.1.1 and 5.0.
//!
//! Owns building requests behind others and reading the few fields that a
//! client must know. It checks nothing that a conformance suite would; a
//! broker that answers wrongly fails the load.

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    #[value(name = "3.1.1")]
    V311,
    /// MQTT 5.0.
    #[value(name = "5", alias = "5.0")]
    V5,
}

impl Version {
    /// Whether packets have properties.
    pub(crate) fn has_properties(self) -> bool {
        self == Self::V5
    }
}

/// First bytes of the packets that a session sends and receives.
pub(crate) mod first {
    /// CONNECT.
    pub(crate) const CONNECT: u8 = 0x10;
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
    /// SUBSCRIBE.
    pub(crate) const SUBSCRIBE: u8 = 0x82;
    /// PINGRESP.
    pub(crate) const PINGRESP: u8 = 0xD0;
    /// DISCONNECT.
    pub(crate) const DISCONNECT: u8 = 0xE0;
}

/// The whole PINGREQ packet.
pub(crate) const PINGREQ: &[u8] = &[0xC0, 0];
/// The whole DISCONNECT packet.
pub(crate) const DISCONNECT: &[u8] = &[0xE0, 0];

/// What a CONNECT asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connect<'a> {
    /// Which MQTT is to be spoken.
    pub(crate) version: Version,
    /// Whose session.
    pub(crate) client_id: &'a str,
    /// Whether an older session is to be forgotten.
    pub(crate) is_clean: bool,
    /// How long the session outlives the connection, in seconds. MQTT 3.1.1 knows no such time.
    pub(crate) session_expiry_seconds: u32,
    /// How many messages of QoS 1 and 2 it takes at once. MQTT 3.1.1 knows no such bound.
    pub(crate) receive_maximum: u16,
    /// How often the client will be heard of, in seconds; 0 where the load itself keeps the connection busy.
    pub(crate) keep_alive_seconds: u16,
    /// User name and password of whoever has to prove who it is. A token is a password, with any name.
    pub(crate) login: Option<(&'a str, &'a str)>,
}

impl Default for Connect<'_> {
    fn default() -> Self {
        Self {
            version: Version::V5,
            client_id: "",
            is_clean: true,
            session_expiry_seconds: 0,
            receive_maximum: u16::MAX,
            keep_alive_seconds: 0,
            login: None,
        }
    }
}

impl Connect<'_> {
    /// Writes the packet behind `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        const SESSION_EXPIRY: u8 = 0x11;
        const RECEIVE_MAXIMUM: u8 = 0x21;
        let mut body = Vec::with_capacity(32 + self.client_id.len());
        push_text(&mut body, "MQTT");
        let login_flags = if self.login.is_some() { 0xC0 } else { 0 };
        body.extend([if self.version == Version::V5 { 5 } else { 4 }, login_flags | u8::from(self.is_clean) << 1]);
        body.extend(self.keep_alive_seconds.to_be_bytes());
        if self.version.has_properties() {
            body.extend([8, SESSION_EXPIRY]);
            body.extend(self.session_expiry_seconds.to_be_bytes());
            body.push(RECEIVE_MAXIMUM);
            body.extend(self.receive_maximum.to_be_bytes());
        }
        push_text(&mut body, self.client_id);
        if let Some((name, password)) = self.login {
            push_text(&mut body, name);
            push_text(&mut body, password);
        }
        push_packet(out, first::CONNECT, &body);
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
    pub(crate) fn read(version: Version, body: &[u8]) -> Result<Self> {
        let [flags, reason, rest @ ..] = body else { anyhow::bail!("a CONNACK of {} bytes", body.len()) };
        ensure!(*reason == 0, "the broker refuses: CONNACK {reason:#04x}");
        let is_session_present = flags & 1 == 1;
        if !version.has_properties() {
            return Ok(Self { is_session_present, receive_maximum: u16::MAX });
        }
        let (length, used) = varint(rest).context("a CONNACK without properties")?;
        let properties = rest.get(used..used + length).context("a CONNACK cut short")?;
        let receive_maximum = receive_maximum(properties).context("a CONNACK with unknown properties")?;
        Ok(Self { is_session_present, receive_maximum: receive_maximum.unwrap_or(u16::MAX) })
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
pub(crate) fn subscribe(version: Version, out: &mut Vec<u8>, filter: &str, qos: u8) {
    subscribe_all(version, out, 1, &[filter], qos);
}

/// Writes a SUBSCRIBE to these filters behind `out`.
pub(crate) fn subscribe_all(version: Version, out: &mut Vec<u8>, id: u16, filters: &[impl AsRef<str>], qos: u8) {
    let mut body = id.to_be_bytes().to_vec();
    if version.has_properties() {
        body.push(0);
    }
    for filter in filters {
        push_text(&mut body, filter.as_ref());
        body.push(qos);
    }
    push_packet(out, first::SUBSCRIBE, &body);
}

/// Writes a PUBLISH without properties behind `out`. `flags` holds QoS and DUP; without a QoS there is no `id`.
pub(crate) fn publish(version: Version, out: &mut Vec<u8>, flags: u8, topic: &str, id: u16, payload: &[u8]) {
    let id_bytes = if has_id(flags) { 2 } else { 0 };
    out.push(first::PUBLISH | flags);
    push_varint(out, 2 + topic.len() + id_bytes + usize::from(version.has_properties()) + payload.len());
    push_text(out, topic);
    if has_id(flags) {
        out.extend(id.to_be_bytes());
    }
    if version.has_properties() {
        out.push(0);
    }
    out.extend(payload);
}

/// Writes a PUBLISH of QoS 1 or 2 with these properties, of MQTT 5 only, behind `out`.
pub(crate) fn publish_with(
    version: Version,
    out: &mut Vec<u8>,
    flags: u8,
    topic: &str,
    id: u16,
    (properties, payload): (&[u8], &[u8]),
) {
    let mut body = Vec::with_capacity(8 + topic.len() + properties.len() + payload.len());
    push_text(&mut body, topic);
    body.extend(id.to_be_bytes());
    if version.has_properties() {
        push_varint(&mut body, properties.len());
        body.extend(properties);
    }
    body.extend(payload);
    push_packet(out, first::PUBLISH | flags, &body);
}

/// A PUBLISH that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published<'a> {
    pub(crate) topic: &'a str,
    /// 0 for QoS 0.
    pub(crate) id: u16,
    pub(crate) is_dup: bool,
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Published<'a> {
    /// `None` where it is cut short.
    pub(crate) fn read(version: Version, first: u8, body: &'a [u8]) -> Option<Published<'a>> {
        let (topic, mut rest) = body.split_at_checked(text_bytes(body)?)?;
        let mut id = 0;
        if has_id(first) {
            let (bytes, behind) = rest.split_first_chunk::<2>()?;
            id = u16::from_be_bytes(*bytes);
            rest = behind;
        }
        let mut properties: &[u8] = &[];
        if version.has_properties() {
            let (length, used) = varint(rest)?;
            (properties, rest) = rest.get(used..)?.split_at_checked(length)?;
        }
        let topic = std::str::from_utf8(topic.get(2..)?).ok()?;
        Some(Published { topic, id, is_dup: first & self::first::DUP != 0, properties, payload: rest })
    }

    /// The Correlation Data.
    pub(crate) fn correlation(&self) -> Option<&'a [u8]> {
        const CORRELATION_DATA: u8 = 0x09;
        self.find(|id, value| (id == CORRELATION_DATA).then(|| value.get(2..)).flatten())
    }

    /// The value of a user property.
    pub(crate) fn user_property(&self, name: &str) -> Option<&'a str> {
        const USER_PROPERTY: u8 = 0x26;
        self.find(|id, value| {
            let (found, value) = value.split_at_checked(if id == USER_PROPERTY { text_bytes(value)? } else { 0 })?;
            let is_it = id == USER_PROPERTY && found.get(2..)? == name.as_bytes();
            is_it.then(|| std::str::from_utf8(value.get(2..)?).ok()).flatten()
        })
    }

    fn find<T>(&self, found: impl Fn(u8, &'a [u8]) -> Option<T>) -> Option<T> {
        let mut properties = self.properties;
        while let Some((id, rest)) = properties.split_first() {
            let length = match id {
                0x01 => 1,
                0x23 => 2,
                0x02 => 4,
                0x03 | 0x08 | 0x09 => text_bytes(rest)?,
                0x0B => varint(rest)?.1,
                0x26 => {
                    let name = text_bytes(rest)?;
                    name + text_bytes(rest.get(name..)?)?
                }
                _ => return None,
            };
            let (value, behind) = rest.split_at_checked(length)?;
            if let Some(found) = found(*id, value) {
                return Some(found);
            }
            properties = behind;
        }
        None
    }
}

/// Whether a PUBLISH with this first byte has a packet identifier.
fn has_id(first: u8) -> bool {
    first & 0x06 != 0
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
pub(crate) fn read_publish(version: Version, first: u8, body: &[u8]) -> Option<(u16, &[u8])> {
    let mut rest = body.get(text_bytes(body)?..)?;
    let mut id = 0;
    if has_id(first) {
        let (bytes, behind) = rest.split_first_chunk::<2>()?;
        id = u16::from_be_bytes(*bytes);
        rest = behind;
    }
    if version.has_properties() {
        let (length, used) = varint(rest)?;
        rest = rest.get(used + length..)?;
    }
    Some((id, rest))
}

/// The length of the body and of the fixed header before it, once enough bytes are
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
        let mut bytes = Vec::new();
        let connect = Connect { version: Version::V311, client_id: "ab", keep_alive_seconds: 60, ..Connect::default() };
        connect.write(&mut bytes);
        assert_eq!(bytes, [0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 2, b'a', b'b']);
    }

    #[test]
    fn a_publish_reads_back() {
        for version in [Version::V311, Version::V5] {
            for (flags, id) in [(0, 0), (0x04, 258)] {
                let mut bytes = Vec::new();
                publish(version, &mut bytes, flags, "a/b", id, &[7; 200]);
                let (body, header) = header(&bytes).unwrap();
                assert_eq!(bytes.len(), header + body);
                assert_eq!(read_publish(version, bytes[0], &bytes[header..]), Some((id, &[7; 200][..])));
            }
        }
    }

    #[test]
    fn properties_are_found() {
        let mut properties = vec![0x02, 0, 0, 0, 9, 0x26];
        push_text(&mut properties, "name");
        push_text(&mut properties, "value");
        properties.push(0x09);
        push_text(&mut properties, "data");
        let mut bytes = Vec::new();
        publish_with(Version::V5, &mut bytes, 0x0A, "a/b", 7, (&properties, b"payload"));
        let (_, header) = header(&bytes).unwrap();
        let published = Published::read(Version::V5, bytes[0], &bytes[header..]).unwrap();
        assert_eq!((published.topic, published.id, published.is_dup), ("a/b", 7, true));
        assert_eq!((published.payload, published.correlation()), (&b"payload"[..], Some(&b"data"[..])));
        assert_eq!((published.user_property("name"), published.user_property("other")), (Some("value"), None));
    }

    #[test]
    fn a_header_may_be_cut_short() {
        assert_eq!(header(&[0x30, 0xAF, 2]), Some((303, 3)));
        assert_eq!(header(&[0x30, 0xAF]), None);
    }

    #[test]
    fn a_connack_tells_its_window() {
        let read = |body: &[u8]| Connack::read(Version::V5, body);
        let body = [1, 0, 14, 0x22, 0, 64, 0x21, 4, 0, 0x26, 0, 1, b'a', 0, 1, b'b'];
        assert!(read(&body).is_err(), "its properties are longer than they say");
        let body = [1, 0, 6, 0x22, 0, 64, 0x21, 4, 0];
        assert_eq!(read(&body).unwrap(), Connack { is_session_present: true, receive_maximum: 1024 });
        assert_eq!(read(&[0, 0, 0]).unwrap().receive_maximum, u16::MAX);
        assert!(read(&[0, 0x97, 0]).is_err());
        assert!(Connack::read(Version::V311, &[0, 0]).is_ok());
    }
}
