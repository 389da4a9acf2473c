//! Owns the suite's own view of MQTT bytes: `build` writes any packet, well formed or not, and `read` takes a
//! server's packets apart while checking the rules of the wire. Never opens a connection, and shares no code with a broker.

pub mod build;
pub mod codes;
pub mod read;

/// The protocol versions the suite can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1 (protocol name `MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (level 4).
    V311,
    /// MQTT 5.0 (level 5).
    V5,
}

impl Version {
    /// The protocol level byte of CONNECT.
    pub fn level(self) -> u8 {
        match self {
            Version::V31 => 3,
            Version::V311 => 4,
            Version::V5 => 5,
        }
    }

    /// The protocol name of CONNECT.
    pub fn name(self) -> &'static str {
        match self {
            Version::V31 => "MQIsdp",
            Version::V311 | Version::V5 => "MQTT",
        }
    }
}

/// First bytes (type and fixed flags) of the control packets.
pub mod first {
    /// CONNECT.
    pub const CONNECT: u8 = 0x10;
    /// CONNACK.
    pub const CONNACK: u8 = 0x20;
    /// PUBLISH, QoS 0, no DUP, no retain.
    pub const PUBLISH: u8 = 0x30;
    /// PUBACK.
    pub const PUBACK: u8 = 0x40;
    /// PUBREC.
    pub const PUBREC: u8 = 0x50;
    /// PUBREL.
    pub const PUBREL: u8 = 0x62;
    /// PUBCOMP.
    pub const PUBCOMP: u8 = 0x70;
    /// SUBSCRIBE.
    pub const SUBSCRIBE: u8 = 0x82;
    /// SUBACK.
    pub const SUBACK: u8 = 0x90;
    /// UNSUBSCRIBE.
    pub const UNSUBSCRIBE: u8 = 0xA2;
    /// UNSUBACK.
    pub const UNSUBACK: u8 = 0xB0;
    /// PINGREQ.
    pub const PINGREQ: u8 = 0xC0;
    /// PINGRESP.
    pub const PINGRESP: u8 = 0xD0;
    /// DISCONNECT.
    pub const DISCONNECT: u8 = 0xE0;
    /// AUTH.
    pub const AUTH: u8 = 0xF0;
}

/// Identifiers of the MQTT 5 properties.
pub mod prop {
    /// Payload Format Indicator (byte).
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    /// Message Expiry Interval (four bytes, seconds).
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    /// Content Type (string).
    pub const CONTENT_TYPE: u8 = 0x03;
    /// Response Topic (string).
    pub const RESPONSE_TOPIC: u8 = 0x08;
    /// Correlation Data (binary).
    pub const CORRELATION_DATA: u8 = 0x09;
    /// Subscription Identifier (variable byte integer).
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    /// Session Expiry Interval (four bytes, seconds).
    pub const SESSION_EXPIRY: u8 = 0x11;
    /// Assigned Client Identifier (string).
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    /// Server Keep Alive (two bytes, seconds).
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    /// Authentication Method (string).
    pub const AUTH_METHOD: u8 = 0x15;
    /// Authentication Data (binary).
    pub const AUTH_DATA: u8 = 0x16;
    /// Request Problem Information (byte).
    pub const REQUEST_PROBLEM_INFO: u8 = 0x17;
    /// Will Delay Interval (four bytes, seconds).
    pub const WILL_DELAY: u8 = 0x18;
    /// Request Response Information (byte).
    pub const REQUEST_RESPONSE_INFO: u8 = 0x19;
    /// Response Information (string).
    pub const RESPONSE_INFO: u8 = 0x1A;
    /// Server Reference (string).
    pub const SERVER_REFERENCE: u8 = 0x1C;
    /// Reason String (string).
    pub const REASON_STRING: u8 = 0x1F;
    /// Receive Maximum (two bytes).
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    /// Topic Alias Maximum (two bytes).
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    /// Topic Alias (two bytes).
    pub const TOPIC_ALIAS: u8 = 0x23;
    /// Maximum QoS (byte).
    pub const MAXIMUM_QOS: u8 = 0x24;
    /// Retain Available (byte).
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    /// User Property (string pair).
    pub const USER_PROPERTY: u8 = 0x26;
    /// Maximum Packet Size (four bytes).
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    /// Wildcard Subscription Available (byte).
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    /// Subscription Identifiers Available (byte).
    pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    /// Shared Subscription Available (byte).
    pub const SHARED_AVAILABLE: u8 = 0x2A;
}

/// One line of a transcript: who, which way (`>` to the broker), the packet types and the bytes in hex.
pub fn packet_line(who: &str, direction: char, bytes: &[u8], age: std::time::Duration) -> String {
    const SHOWN: usize = 96;
    let mut names = Vec::new();
    let mut rest = bytes;
    while let (Some(first_byte), Ok(Some(length))) = (rest.first(), read::frame_length(rest)) {
        names.push(read::packet_name(*first_byte));
        rest = rest.get(length..).unwrap_or_default();
    }
    if names.is_empty() {
        names.push("(bytes)");
    }
    let hex: Vec<String> = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > SHOWN { format!(" ... {} bytes", bytes.len()) } else { String::new() };
    let plain = |byte: &u8| {
        if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
    };
    let text: String = bytes.iter().take(SHOWN).map(plain).collect();
    format!("{:6} ms {who} {direction} {} [{}{more}] {text}", age.as_millis(), names.join("+"), hex.join(" "))
}

/// The first `max` characters of a line, with an ellipsis if there were more.
pub fn shorten(line: &str, max: usize) -> String {
    if line.chars().count() <= max {
        return line.to_owned();
    }
    line.chars().take(max).chain("…".chars()).collect()
}
