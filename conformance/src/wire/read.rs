//! Owns the strict reading of server packets: every length, flag, string, property and reason code is checked, and an
//! error names the statement it breaks. Never forgives, and never looks beyond the one packet it was given.

use anyhow::{Context, Result, bail, ensure};

use super::codes::{Kind, allowed_properties, allowed_reasons, property_kind};
use super::{Version, first, prop};

/// One property value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Byte, two-byte, four-byte and variable byte integers.
    Number(u32),
    /// String.
    Text(String),
    /// Binary data.
    Binary(Vec<u8>),
    /// String pair.
    Pair(String, String),
}

/// The properties of a received packet, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(pub Vec<(u8, Value)>);

impl Properties {
    /// Whether the property is present.
    pub fn has(&self, id: u8) -> bool {
        self.0.iter().any(|(each, _)| *each == id)
    }

    /// The first integer value of the property.
    pub fn number(&self, id: u8) -> Option<u32> {
        self.numbers(id).first().copied()
    }

    /// All integer values of the property.
    pub fn numbers(&self, id: u8) -> Vec<u32> {
        let value = |(each, value): &(u8, Value)| match value {
            Value::Number(number) if *each == id => Some(*number),
            _ => None,
        };
        self.0.iter().filter_map(value).collect()
    }

    /// The string value of the property.
    pub fn text(&self, id: u8) -> Option<&str> {
        self.0.iter().find_map(|(each, value)| match value {
            Value::Text(text) if *each == id => Some(text.as_str()),
            _ => None,
        })
    }

    /// The binary value of the property.
    pub fn binary(&self, id: u8) -> Option<&[u8]> {
        self.0.iter().find_map(|(each, value)| match value {
            Value::Binary(bytes) if *each == id => Some(bytes.as_slice()),
            _ => None,
        })
    }

    /// The user properties, in order.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        let pairs = self.0.iter().filter_map(|(_, value)| match value {
            Value::Pair(name, value) => Some((name.as_str(), value.as_str())),
            _ => None,
        });
        pairs.collect()
    }
}

/// A received CONNACK.
#[derive(Clone, Debug, Default)]
pub struct Connack {
    /// Session Present.
    pub session_present: bool,
    /// Reason code (return code, in MQTT 3).
    pub reason: u8,
    /// Properties.
    pub props: Properties,
}

/// A received PUBLISH.
#[derive(Clone, Debug)]
pub struct Message {
    /// Topic name; the client fills it in when the server used an alias.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: u8,
    /// Packet identifier, 0 for QoS 0.
    pub id: u16,
    /// DUP.
    pub dup: bool,
    /// Retain.
    pub retain: bool,
    /// Properties.
    pub props: Properties,
}

/// A received PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug)]
pub struct Ack {
    /// First byte of the packet, see `wire::first`.
    pub first: u8,
    /// Packet identifier.
    pub id: u16,
    /// Reason code, 0 when left out.
    pub reason: u8,
    /// Properties.
    pub props: Properties,
}

/// A received SUBACK or UNSUBACK.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Packet identifier.
    pub id: u16,
    /// Reason codes, one per filter (none in an UNSUBACK of MQTT 3).
    pub reasons: Vec<u8>,
    /// Properties.
    pub props: Properties,
}

/// A received DISCONNECT or AUTH.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Reason code, 0 when left out.
    pub reason: u8,
    /// Properties.
    pub props: Properties,
}

/// Any packet a server may send.
#[derive(Clone, Debug)]
pub enum Packet {
    /// CONNACK.
    Connack(Connack),
    /// PUBLISH.
    Publish(Message),
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack(Ack),
    /// SUBACK.
    Suback(Answer),
    /// UNSUBACK.
    Unsuback(Answer),
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT (MQTT 5).
    Disconnect(Notice),
    /// AUTH (MQTT 5).
    Auth(Notice),
}

/// The name of a packet type by its first byte.
pub fn packet_name(first_byte: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "RESERVED(0)",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    NAMES[usize::from(first_byte >> 4)]
}

/// The length of the first packet in `bytes`, fixed header included; None while its length is not all there.
/// Fails if the remaining length is malformed or longer than it has to be.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(rest) = bytes.get(1..) else {
        return Ok(None);
    };
    match take_varint(rest) {
        Ok((value, used)) => Ok(Some(1 + used + value as usize)),
        Err(_) if rest.len() < 4 && rest.iter().all(|byte| byte & 0x80 != 0) => Ok(None),
        Err(error) => Err(error.context("remaining length")),
    }
}

/// Takes apart one whole packet sent by a server.
pub fn decode(version: Version, raw: &[u8]) -> Result<Packet> {
    let (first_byte, rest) = raw.split_first().context("empty packet")?;
    let (_, used) = take_varint(rest)?;
    let mut body = Body { version, first: *first_byte, rest: &rest[used..] };
    let packet = body.packet().with_context(|| format!("bad {} from the server", packet_name(*first_byte)))?;
    ensure!(body.rest.is_empty(), "{} has {} bytes too many", packet_name(*first_byte), body.rest.len());
    Ok(packet)
}

fn take_varint(bytes: &[u8]) -> Result<(u32, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            ensure!(index == 0 || *byte != 0, "[MQTT-1.5.5-1] variable byte integer {value} is longer than necessary");
            return Ok((value, index + 1));
        }
    }
    bail!("variable byte integer does not end")
}

struct Body<'a> {
    version: Version,
    first: u8,
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn packet(&mut self) -> Result<Packet> {
        let flags = self.first & 0x0F;
        let kind = self.first & 0xF0;
        if kind != first::PUBLISH {
            let fixed = if kind == 0x60 { 2 } else { 0 };
            ensure!(flags == fixed, "[MQTT-2.1.3-1] reserved flags are {flags:04b}, must be {fixed:04b}");
        }
        let v5 = self.version == Version::V5;
        match kind {
            first::CONNACK => self.connack(),
            first::PUBLISH => self.publish(),
            first::PUBACK | first::PUBREC | 0x60 | first::PUBCOMP => self.ack(),
            first::SUBACK => Ok(Packet::Suback(self.answer()?)),
            first::UNSUBACK => Ok(Packet::Unsuback(self.answer()?)),
            first::PINGRESP => Ok(Packet::Pingresp),
            first::DISCONNECT if v5 => Ok(Packet::Disconnect(self.notice()?)),
            first::AUTH if v5 => Ok(Packet::Auth(self.notice()?)),
            _ => bail!("a server never sends this packet in this version of the protocol"),
        }
    }

    fn connack(&mut self) -> Result<Packet> {
        let flags = self.byte()?;
        ensure!(flags & 0xFE == 0, "[MQTT-3.2.2-1] CONNACK flags are {flags:08b}, bits 7 to 1 must be 0");
        let reason = self.byte()?;
        if self.version == Version::V5 {
            self.check_reason(reason)?;
        } else {
            ensure!(reason <= 5, "return code {reason} is none of the CONNACK table of MQTT 3");
        }
        let session_present = flags == 1;
        ensure!(
            reason == 0 || !session_present,
            "[MQTT-3.2.2-6] session present is 1 although the reason code is {reason:#04x}"
        );
        Ok(Packet::Connack(Connack { session_present, reason, props: self.properties()? }))
    }

    fn publish(&mut self) -> Result<Packet> {
        let qos = self.first >> 1 & 3;
        let dup = self.first & 8 != 0;
        ensure!(qos < 3, "[MQTT-3.3.1-4] QoS bits are 11");
        ensure!(qos > 0 || !dup, "[MQTT-3.3.1-2] DUP is 1 in a QoS 0 PUBLISH");
        let topic = self.text().context("topic name")?;
        ensure!(!topic.contains(['+', '#']), "[MQTT-3.3.2-2] topic name {topic:?} has a wildcard");
        let id = if qos > 0 { self.two()? } else { 0 };
        ensure!(qos == 0 || id != 0, "[MQTT-2.2.1-4] packet identifier 0");
        let props = self.properties()?;
        ensure!(
            !topic.is_empty() || props.has(prop::TOPIC_ALIAS),
            "[MQTT-4.7.3-1] empty topic name without a topic alias"
        );
        if let Some(topic) = props.text(prop::RESPONSE_TOPIC) {
            ensure!(!topic.contains(['+', '#']), "[MQTT-3.3.2-14] response topic {topic:?} has a wildcard");
        }
        let payload = std::mem::take(&mut self.rest).to_vec();
        Ok(Packet::Publish(Message { topic, payload, qos, id, dup, retain: self.first & 1 != 0, props }))
    }

    fn ack(&mut self) -> Result<Packet> {
        let id = self.two()?;
        ensure!(id != 0, "packet identifier 0");
        let mut ack = Ack { first: self.first, id, reason: 0, props: Properties::default() };
        if self.version == Version::V5 && !self.rest.is_empty() {
            ack.reason = self.byte()?;
            self.check_reason(ack.reason)?;
            if !self.rest.is_empty() {
                ack.props = self.properties()?;
            }
        }
        Ok(Packet::Ack(ack))
    }

    fn answer(&mut self) -> Result<Answer> {
        let id = self.two()?;
        ensure!(id != 0, "packet identifier 0");
        let props = self.properties()?;
        let reasons = std::mem::take(&mut self.rest).to_vec();
        let is_suback = self.first == first::SUBACK;
        for reason in &reasons {
            if self.version == Version::V5 {
                self.check_reason(*reason)?;
            } else {
                ensure!(is_suback && matches!(reason, 0..=2 | 0x80), "return code {reason:#04x} is not allowed here");
            }
        }
        let expected = is_suback || self.version == Version::V5;
        ensure!(!expected || !reasons.is_empty(), "no reason code at all");
        Ok(Answer { id, reasons, props })
    }

    fn notice(&mut self) -> Result<Notice> {
        if self.rest.is_empty() {
            return Ok(Notice { reason: 0, props: Properties::default() });
        }
        let reason = self.byte()?;
        self.check_reason(reason)?;
        let props = if self.rest.is_empty() { Properties::default() } else { self.properties()? };
        Ok(Notice { reason, props })
    }

    fn check_reason(&self, reason: u8) -> Result<()> {
        let (allowed, statement) = allowed_reasons(self.first);
        ensure!(
            allowed.contains(&reason),
            "[{statement}] reason code {reason:#04x} is not in the table of this packet"
        );
        Ok(())
    }

    /// The property set of an MQTT 5 packet; empty, and nothing read, for the older versions.
    fn properties(&mut self) -> Result<Properties> {
        if self.version != Version::V5 {
            return Ok(Properties::default());
        }
        let length = self.varint().context("[MQTT-2.2.2-1] property length")? as usize;
        ensure!(length <= self.rest.len(), "property length {length} exceeds the packet");
        let (inside, behind) = self.rest.split_at(length);
        let mut part = Body { version: self.version, first: self.first, rest: inside };
        self.rest = behind;
        let mut found = Properties::default();
        while !part.rest.is_empty() {
            let (id, value) = part.property()?;
            ensure!(
                part.repeatable(id) || !found.has(id),
                "property {id:#04x} occurs twice, which is a protocol error"
            );
            found.0.push((id, value));
        }
        Ok(found)
    }

    fn repeatable(&self, id: u8) -> bool {
        id == prop::USER_PROPERTY || (id == prop::SUBSCRIPTION_ID && self.first & 0xF0 == first::PUBLISH)
    }

    fn property(&mut self) -> Result<(u8, Value)> {
        let id = self.byte()?;
        let kind = property_kind(id).with_context(|| format!("unknown property {id:#04x}"))?;
        let tag = if id == prop::SESSION_EXPIRY { "[MQTT-3.14.2-2] " } else { "" };
        let allowed = allowed_properties(self.first).contains(&id);
        ensure!(allowed, "{tag}property {id:#04x} is not allowed in {} from a server", packet_name(self.first));
        let value = match kind {
            Kind::Byte => Value::Number(self.byte()?.into()),
            Kind::Two => Value::Number(self.two()?.into()),
            Kind::Four => Value::Number(self.four()?),
            Kind::Varint => Value::Number(self.varint()?),
            Kind::Text => Value::Text(self.text()?),
            Kind::Binary => Value::Binary(self.binary()?.to_vec()),
            Kind::Pair => Value::Pair(self.pair_text()?, self.pair_text()?),
        };
        check_property_value(id, &value)?;
        Ok((id, value))
    }

    fn pair_text(&mut self) -> Result<String> {
        self.text().context("[MQTT-1.5.7-1] string pair")
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        ensure!(count <= self.rest.len(), "the packet ends too early");
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn two(&mut self) -> Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn four(&mut self) -> Result<u32> {
        Ok(u32::from(self.two()?) << 16 | u32::from(self.two()?))
    }

    fn varint(&mut self) -> Result<u32> {
        let (value, used) = take_varint(self.rest)?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    fn binary(&mut self) -> Result<&'a [u8]> {
        let length = self.two()?;
        self.take(length.into())
    }

    fn text(&mut self) -> Result<String> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes).context("[MQTT-1.5.4-1] ill-formed UTF-8")?;
        ensure!(!text.contains('\0'), "[MQTT-1.5.4-2] U+0000 in a string");
        Ok(text.to_owned())
    }
}

fn check_property_value(id: u8, value: &Value) -> Result<()> {
    let Value::Number(number) = value else {
        return Ok(());
    };
    let kind = property_kind(id);
    ensure!(kind != Some(Kind::Byte) || *number <= 1, "property {id:#04x} is {number}, only 0 and 1 are allowed");
    let non_zero = [prop::RECEIVE_MAXIMUM, prop::MAXIMUM_PACKET_SIZE, prop::SUBSCRIPTION_ID];
    ensure!(*number != 0 || !non_zero.contains(&id), "property {id:#04x} is 0, which is a protocol error");
    ensure!(*number != 0 || id != prop::TOPIC_ALIAS, "[MQTT-3.3.2-8] topic alias 0");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails_with(raw: &[u8], part: &str) {
        let error = decode(Version::V5, raw).expect_err("must be refused");
        assert!(format!("{error:#}").contains(part), "{error:#}");
    }

    #[test]
    fn good_packets_are_read() {
        let raw = [0x20, 0x06, 0x01, 0x00, 0x03, 0x21, 0x00, 0x0A];
        let Packet::Connack(connack) = decode(Version::V5, &raw).unwrap() else { panic!("not a CONNACK") };
        assert!(connack.session_present);
        assert_eq!(connack.props.number(prop::RECEIVE_MAXIMUM), Some(10));
        assert!(matches!(decode(Version::V311, &[0x20, 2, 0, 0]).unwrap(), Packet::Connack(_)));
    }

    #[test]
    fn broken_rules_are_named() {
        fails_with(&[0x21, 3, 0, 0, 0], "MQTT-2.1.3-1");
        fails_with(&[0x20, 3, 2, 0, 0], "MQTT-3.2.2-1");
        fails_with(&[0x20, 3, 1, 0x80, 0], "MQTT-3.2.2-6");
        fails_with(&[0x20, 3, 0, 0x10, 0], "MQTT-3.2.2-8");
        fails_with(&[0x20, 4, 0, 0, 0x80, 0x00], "MQTT-1.5.5-1");
        fails_with(&[0x20, 2, 0, 0], "MQTT-2.2.2-1");
        fails_with(&[0x30, 6, 0, 1, b'#', 0, b'x', b'y'], "MQTT-3.3.2-2");
        fails_with(&[0x30, 4, 0, 1, 0xFF, 0], "MQTT-1.5.4-1");
        fails_with(&[0x30, 3, 0, 0, 0], "MQTT-4.7.3-1");
        fails_with(&[0x38, 4, 0, 1, b'a', 0], "MQTT-3.3.1-2");
        fails_with(&[0x36, 6, 0, 1, b'a', 0, 1, 0], "MQTT-3.3.1-4");
        fails_with(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 1], "MQTT-3.14.2-2");
    }

    #[test]
    fn frame_lengths_wait_for_their_bytes() {
        assert_eq!(frame_length(&[0x30]).unwrap(), None);
        assert_eq!(frame_length(&[0x30, 0x80]).unwrap(), None);
        assert_eq!(frame_length(&[0x30, 0x80, 0x01]).unwrap(), Some(131));
        assert!(frame_length(&[0x30, 0x80, 0x00]).is_err());
        assert!(frame_length(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err());
    }
}
