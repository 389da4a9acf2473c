//! Owns the writing of client packets, byte by byte: every field can be given any value, right or wrong, and `frame`
//! and `frame_with_length` wrap bodies written by hand. Never checks anything: that is the broker's job.

use super::{Version, first, prop};

/// The shortest variable byte integer for `value`.
pub fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A two-byte length followed by the bytes: an MQTT string (valid or not) or binary field. Lengths wrap at 65,536.
pub fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// A packet of the given first byte and body, with the correct remaining length.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    frame_with_length(first, &varint(body.len() as u32), body)
}

/// A packet whose remaining length bytes are the caller's, for lies and for long forms.
pub fn frame_with_length(first: u8, length: &[u8], body: &[u8]) -> Vec<u8> {
    [&[first], length, body].concat()
}

/// Joins packets or fields so that they go out in one write.
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A property set: identifier and value bytes, in the order given, duplicates and nonsense included.
#[derive(Clone, Debug, Default)]
pub struct Props {
    items: Vec<(u8, Vec<u8>)>,
}

impl Props {
    /// An empty set.
    pub fn new() -> Props {
        Props::default()
    }

    /// Adds an identifier with arbitrary value bytes.
    pub fn raw(mut self, id: u8, value: impl Into<Vec<u8>>) -> Props {
        self.items.push((id, value.into()));
        self
    }

    /// Adds a one-byte property.
    pub fn byte(self, id: u8, value: u8) -> Props {
        self.raw(id, [value])
    }

    /// Adds a two-byte property.
    pub fn two(self, id: u8, value: u16) -> Props {
        self.raw(id, value.to_be_bytes())
    }

    /// Adds a four-byte property.
    pub fn four(self, id: u8, value: u32) -> Props {
        self.raw(id, value.to_be_bytes())
    }

    /// Adds a variable byte integer property.
    pub fn varint(self, id: u8, value: u32) -> Props {
        self.raw(id, varint(value))
    }

    /// Adds a string or binary property.
    pub fn text(self, id: u8, value: impl AsRef<[u8]>) -> Props {
        self.raw(id, string(value))
    }

    /// Adds a User Property.
    pub fn pair(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Props {
        self.raw(prop::USER_PROPERTY, [string(name), string(value)].concat())
    }

    /// The properties without their length.
    pub fn body(&self) -> Vec<u8> {
        self.items.iter().flat_map(|(id, value)| std::iter::once(*id).chain(value.iter().copied())).collect()
    }

    /// The properties behind their length, as they stand in a packet.
    pub fn bytes(&self) -> Vec<u8> {
        let body = self.body();
        [varint(body.len() as u32), body].concat()
    }

    /// The bytes of the first value of `id`.
    pub fn value(&self, id: u8) -> Option<&[u8]> {
        let (_, value) = self.items.iter().find(|(each, _)| *each == id)?;
        Some(value)
    }

    /// The first value of `id` read as a big-endian number (for the client's own bookkeeping).
    pub fn number(&self, id: u8) -> Option<u32> {
        Some(self.value(id)?.iter().take(4).fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// The will of a CONNECT.
#[derive(Clone, Debug)]
pub struct Will {
    /// Will topic.
    pub topic: Vec<u8>,
    /// Will payload.
    pub payload: Vec<u8>,
    /// Will QoS, 0 to 3 (3 is malformed).
    pub qos: u8,
    /// Will retain.
    pub retain: bool,
    /// Will properties (MQTT 5 only).
    pub props: Props,
}

impl Will {
    /// A QoS 0 will without properties.
    pub fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Will {
        Will {
            topic: topic.as_ref().into(),
            payload: payload.as_ref().into(),
            qos: 0,
            retain: false,
            props: Props::new(),
        }
    }

    /// Sets the QoS.
    pub fn qos(mut self, qos: u8) -> Will {
        self.qos = qos;
        self
    }

    /// Sets will retain.
    pub fn retain(mut self) -> Will {
        self.retain = true;
        self
    }

    /// Sets the will properties.
    pub fn props(mut self, props: Props) -> Will {
        self.props = props;
        self
    }

    /// Sets a Will Delay Interval in seconds, next to the properties already there.
    pub fn delay(mut self, seconds: u32) -> Will {
        self.props = self.props.four(prop::WILL_DELAY, seconds);
        self
    }
}

/// A CONNECT packet.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The version that decides the packet's layout.
    pub version: Version,
    /// Protocol name.
    pub name: Vec<u8>,
    /// Protocol level byte.
    pub level: u8,
    /// Clean Start (or Clean Session).
    pub clean: bool,
    /// Connect flag bits to set on top of the truthful ones.
    pub set_flags: u8,
    /// Connect flag bits to clear from the truthful ones.
    pub clear_flags: u8,
    /// Keep alive in seconds.
    pub keep_alive: u16,
    /// CONNECT properties (MQTT 5 only).
    pub props: Props,
    /// Client identifier.
    pub client_id: Vec<u8>,
    /// Will.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<Vec<u8>>,
    /// Password.
    pub password: Option<Vec<u8>>,
}

impl Connect {
    /// A clean CONNECT with keep alive 60 and nothing else.
    pub fn new(version: Version, client_id: impl AsRef<[u8]>) -> Connect {
        Connect {
            version,
            name: version.name().into(),
            level: version.level(),
            clean: true,
            set_flags: 0,
            clear_flags: 0,
            keep_alive: 60,
            props: Props::new(),
            client_id: client_id.as_ref().into(),
            will: None,
            username: None,
            password: None,
        }
    }

    /// Sets the protocol name and level, right or wrong.
    pub fn protocol(mut self, name: impl AsRef<[u8]>, level: u8) -> Connect {
        self.name = name.as_ref().into();
        self.level = level;
        self
    }

    /// Sets Clean Start to 0.
    pub fn resume(mut self) -> Connect {
        self.clean = false;
        self
    }

    /// Sets connect flag bits beyond the truthful ones.
    pub fn set_flags(mut self, bits: u8) -> Connect {
        self.set_flags = bits;
        self
    }

    /// Clears connect flag bits although the payload says otherwise.
    pub fn clear_flags(mut self, bits: u8) -> Connect {
        self.clear_flags = bits;
        self
    }

    /// Sets the keep alive in seconds.
    pub fn keep_alive(mut self, seconds: u16) -> Connect {
        self.keep_alive = seconds;
        self
    }

    /// Replaces the properties.
    pub fn props(mut self, props: Props) -> Connect {
        self.props = props;
        self
    }

    /// Adds a Session Expiry Interval in seconds.
    pub fn session_expiry(mut self, seconds: u32) -> Connect {
        self.props = self.props.four(prop::SESSION_EXPIRY, seconds);
        self
    }

    /// Sets the will.
    pub fn will(mut self, will: Will) -> Connect {
        self.will = Some(will);
        self
    }

    /// Sets the user name.
    pub fn username(mut self, name: impl AsRef<[u8]>) -> Connect {
        self.username = Some(name.as_ref().into());
        self
    }

    /// Sets the password.
    pub fn password(mut self, password: impl AsRef<[u8]>) -> Connect {
        self.password = Some(password.as_ref().into());
        self
    }

    /// The connect flags byte.
    pub fn flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | (will.qos & 3) << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.password.is_some()) << 6;
        flags |= u8::from(self.username.is_some()) << 7;
        (flags | self.set_flags) & !self.clear_flags
    }

    /// Variable header: name, level, flags, keep alive and, for MQTT 5, properties.
    pub fn header(&self) -> Vec<u8> {
        let mut out = string(&self.name);
        out.extend([self.level, self.flags()]);
        out.extend(self.keep_alive.to_be_bytes());
        if self.version == Version::V5 {
            out.extend(self.props.bytes());
        }
        out
    }

    /// Payload: client id, will, user name, password.
    pub fn payload(&self) -> Vec<u8> {
        let mut out = string(&self.client_id);
        if let Some(will) = &self.will {
            if self.version == Version::V5 {
                out.extend(will.props.bytes());
            }
            out.extend(string(&will.topic));
            out.extend(string(&will.payload));
        }
        out.extend(self.username.iter().flat_map(string));
        out.extend(self.password.iter().flat_map(string));
        out
    }

    /// Everything behind the fixed header.
    pub fn body(&self) -> Vec<u8> {
        [self.header(), self.payload()].concat()
    }

    /// The whole packet.
    pub fn bytes(&self) -> Vec<u8> {
        frame(first::CONNECT, &self.body())
    }
}

/// A PUBLISH packet.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Topic name, right or wrong.
    pub topic: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS bits, 0 to 3.
    pub qos: u8,
    /// Packet identifier, written whenever present.
    pub id: Option<u16>,
    /// DUP bit.
    pub dup: bool,
    /// Retain bit.
    pub retain: bool,
    /// Properties (MQTT 5 only).
    pub props: Props,
}

impl Publish {
    /// A QoS 0 message.
    pub fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Publish {
        Publish {
            topic: topic.as_ref().into(),
            payload: payload.as_ref().into(),
            qos: 0,
            id: None,
            dup: false,
            retain: false,
            props: Props::new(),
        }
    }

    /// Sets QoS and packet identifier.
    pub fn qos(mut self, qos: u8, id: u16) -> Publish {
        self.qos = qos;
        self.id = (qos > 0).then_some(id);
        self
    }

    /// Sets DUP.
    pub fn dup(mut self) -> Publish {
        self.dup = true;
        self
    }

    /// Sets retain.
    pub fn retain(mut self) -> Publish {
        self.retain = true;
        self
    }

    /// Sets the properties.
    pub fn props(mut self, props: Props) -> Publish {
        self.props = props;
        self
    }

    /// The whole packet in the layout of `version`.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let mut body = string(&self.topic);
        body.extend(self.id.iter().flat_map(|id| id.to_be_bytes()));
        if version == Version::V5 {
            body.extend(self.props.bytes());
        }
        body.extend_from_slice(&self.payload);
        let flags = u8::from(self.dup) << 3 | (self.qos & 3) << 1 | u8::from(self.retain);
        frame(first::PUBLISH | flags, &body)
    }
}

/// A SUBSCRIBE packet.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Packet identifier.
    pub id: u16,
    /// Properties (MQTT 5 only).
    pub props: Props,
    /// Filters with their options byte (the QoS, in MQTT 3).
    pub filters: Vec<(Vec<u8>, u8)>,
}

impl Subscribe {
    /// A SUBSCRIBE without filters yet.
    pub fn new(id: u16) -> Subscribe {
        Subscribe { id, props: Props::new(), filters: Vec::new() }
    }

    /// Adds a filter with its options byte: QoS, 0x04 No Local, 0x08 Retain As Published, 0x10 and 0x20 Retain Handling.
    pub fn filter(mut self, filter: impl AsRef<[u8]>, options: u8) -> Subscribe {
        self.filters.push((filter.as_ref().into(), options));
        self
    }

    /// Sets the properties.
    pub fn props(mut self, props: Props) -> Subscribe {
        self.props = props;
        self
    }

    /// Everything behind the fixed header.
    pub fn body(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version == Version::V5 {
            body.extend(self.props.bytes());
        }
        for (filter, options) in &self.filters {
            body.extend(string(filter));
            body.push(*options);
        }
        body
    }

    /// The whole packet.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        frame(first::SUBSCRIBE, &self.body(version))
    }
}

/// An UNSUBSCRIBE packet.
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub id: u16,
    /// Properties (MQTT 5 only).
    pub props: Props,
    /// Filters.
    pub filters: Vec<Vec<u8>>,
}

impl Unsubscribe {
    /// An UNSUBSCRIBE without filters yet.
    pub fn new(id: u16) -> Unsubscribe {
        Unsubscribe { id, props: Props::new(), filters: Vec::new() }
    }

    /// Adds a filter.
    pub fn filter(mut self, filter: impl AsRef<[u8]>) -> Unsubscribe {
        self.filters.push(filter.as_ref().into());
        self
    }

    /// Sets the properties.
    pub fn props(mut self, props: Props) -> Unsubscribe {
        self.props = props;
        self
    }

    /// Everything behind the fixed header.
    pub fn body(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version == Version::V5 {
            body.extend(self.props.bytes());
        }
        body.extend(self.filters.iter().flat_map(string));
        body
    }

    /// The whole packet.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        frame(first::UNSUBSCRIBE, &self.body(version))
    }
}

/// A PUBACK, PUBREC, PUBREL or PUBCOMP (chosen by `first`) in its short form: identifier only, reason 0.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    frame(first, &id.to_be_bytes())
}

/// An MQTT 5 acknowledgement with reason code and properties.
pub fn ack_with(first: u8, id: u16, reason: u8, props: &Props) -> Vec<u8> {
    frame(first, &[&id.to_be_bytes()[..], &[reason], &props.bytes()].concat())
}

/// PINGREQ.
pub fn pingreq() -> Vec<u8> {
    frame(first::PINGREQ, &[])
}

/// DISCONNECT in its short form (the only one of MQTT 3): a normal disconnection.
pub fn disconnect() -> Vec<u8> {
    frame(first::DISCONNECT, &[])
}

/// An MQTT 5 DISCONNECT with reason code and properties.
pub fn disconnect_with(reason: u8, props: &Props) -> Vec<u8> {
    frame(first::DISCONNECT, &[&[reason][..], &props.bytes()].concat())
}

/// An AUTH packet.
pub fn auth(reason: u8, props: &Props) -> Vec<u8> {
    frame(first::AUTH, &[&[reason][..], &props.bytes()].concat())
}
