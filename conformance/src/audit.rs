//! Owns the rules that hold for a whole connection whatever a test is about: no packet before CONNACK, none after
//! DISCONNECT, sizes, aliases, packet identifiers and windows. Every client of the suite runs one. Never sends anything.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, ensure};

use crate::wire::build::Connect;
use crate::wire::read::{Message, Notice, Packet, Properties, frame_length};
use crate::wire::{Version, first, prop};

/// What was agreed on a connection, and what is open on it.
#[derive(Debug)]
pub struct Audit {
    version: Version,
    packet_bytes_max: usize,
    receive_maximum: usize,
    alias_maximum: u32,
    problem_info: bool,
    response_info: bool,
    auth_method: Option<Vec<u8>>,
    connack_seen: bool,
    disconnect_seen: bool,
    aliases: HashMap<u32, String>,
    open: HashSet<u16>,
}

impl Audit {
    /// The state before any CONNECT.
    pub fn new(version: Version) -> Audit {
        Audit {
            version,
            packet_bytes_max: usize::MAX,
            receive_maximum: 65_535,
            alias_maximum: 0,
            problem_info: true,
            response_info: false,
            auth_method: None,
            connack_seen: false,
            disconnect_seen: false,
            aliases: HashMap::new(),
            open: HashSet::new(),
        }
    }

    /// Takes note of what the client asked for.
    pub fn on_connect(&mut self, connect: &Connect) {
        let number = |id| connect.props.number(id);
        self.packet_bytes_max = number(prop::MAXIMUM_PACKET_SIZE).map_or(usize::MAX, |bytes| bytes as usize);
        self.receive_maximum = number(prop::RECEIVE_MAXIMUM).unwrap_or(65_535) as usize;
        self.alias_maximum = number(prop::TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
        self.problem_info = number(prop::REQUEST_PROBLEM_INFO) != Some(0);
        self.response_info = number(prop::REQUEST_RESPONSE_INFO) == Some(1);
        self.auth_method = connect.props.value(prop::AUTH_METHOD).and_then(|value| value.get(2..)).map(<[u8]>::to_vec);
    }

    /// Takes note of acknowledgements that go out, which free packet identifiers and the server's window.
    pub fn on_sent(&mut self, mut bytes: &[u8]) {
        while let Ok(Some(length)) = frame_length(bytes) {
            let Some(packet) = bytes.get(..length) else {
                return;
            };
            if let [kind, _, high, low, rest @ ..] = packet {
                let failed = rest.first().is_some_and(|reason| *reason >= 0x80);
                if matches!(*kind, first::PUBACK | first::PUBCOMP) || (*kind == first::PUBREC && failed) {
                    self.open.remove(&u16::from_be_bytes([*high, *low]));
                }
            }
            bytes = &bytes[length..];
        }
    }

    /// Checks a received packet of `bytes` bytes; completes the topic of a PUBLISH sent by alias.
    pub fn on_received(&mut self, packet: &mut Packet, bytes: usize) -> Result<()> {
        ensure!(!self.disconnect_seen, "[MQTT-3.14.4-1] a packet after the server's DISCONNECT");
        ensure!(
            bytes <= self.packet_bytes_max,
            "[MQTT-3.1.2-24] a packet of {bytes} bytes; the client's Maximum Packet Size is {}",
            self.packet_bytes_max
        );
        match packet {
            Packet::Connack(connack) => {
                ensure!(!self.connack_seen, "[MQTT-3.2.0-2] a second CONNACK");
                self.connack_seen = true;
                ensure!(
                    self.response_info || !connack.props.has(prop::RESPONSE_INFO),
                    "[MQTT-3.1.2-28] Response Information although not requested"
                );
                if connack.reason == 0 && self.version == Version::V5 {
                    self.check_auth_method(&connack.props)?;
                }
                return Ok(());
            }
            Packet::Auth(auth) => return self.on_auth(auth),
            _ => {}
        }
        let by = if matches!(packet, Packet::Disconnect(_)) { "MQTT-3.14.0-1" } else { "MQTT-3.2.0-1" };
        ensure!(self.connack_seen, "[{by}] a packet other than AUTH before CONNACK");
        match packet {
            Packet::Publish(message) => self.on_publish(message),
            Packet::Disconnect(_) => {
                self.disconnect_seen = true;
                Ok(())
            }
            Packet::Ack(ack) => self.check_problem_info(&ack.props),
            Packet::Suback(answer) | Packet::Unsuback(answer) => self.check_problem_info(&answer.props),
            Packet::Pingresp | Packet::Connack(_) | Packet::Auth(_) => Ok(()),
        }
    }

    fn on_auth(&self, auth: &Notice) -> Result<()> {
        ensure!(self.auth_method.is_some(), "[MQTT-4.12.0-6] AUTH although CONNECT named no method");
        self.check_auth_method(&auth.props)?;
        self.check_problem_info(&auth.props)
    }

    fn check_auth_method(&self, props: &Properties) -> Result<()> {
        let sent = props.text(prop::AUTH_METHOD).map(str::as_bytes);
        let statement = if self.auth_method.is_some() { "MQTT-4.12.0-5" } else { "MQTT-4.12.0-6" };
        ensure!(
            sent == self.auth_method.as_deref(),
            "[{statement}] authentication method {:?} differs from the one in CONNECT",
            props.text(prop::AUTH_METHOD)
        );
        Ok(())
    }

    fn check_problem_info(&self, props: &Properties) -> Result<()> {
        let told = props.has(prop::REASON_STRING) || props.has(prop::USER_PROPERTY);
        ensure!(
            self.problem_info || !told,
            "[MQTT-3.1.2-29] reason string or user property although Request Problem Information is 0"
        );
        Ok(())
    }

    fn on_publish(&mut self, message: &mut Message) -> Result<()> {
        if let Some(alias) = message.props.number(prop::TOPIC_ALIAS) {
            let statement = if self.alias_maximum == 0 { "MQTT-3.1.2-27" } else { "MQTT-3.1.2-26" };
            ensure!(
                alias <= self.alias_maximum,
                "[{statement}] topic alias {alias}; the client's maximum is {}",
                self.alias_maximum
            );
            if message.topic.is_empty() {
                let topic = self.aliases.get(&alias);
                message.topic = topic.with_context(|| format!("topic alias {alias} has no topic yet"))?.clone();
            } else {
                self.aliases.insert(alias, message.topic.clone());
            }
        }
        if message.qos == 0 {
            return Ok(());
        }
        if self.open.contains(&message.id) {
            ensure!(message.dup, "[MQTT-2.2.1-4] packet identifier {} is in use", message.id);
            let resend_allowed = self.version != Version::V5;
            ensure!(resend_allowed, "[MQTT-4.4.0-1] PUBLISH {} is sent again on the same connection", message.id);
        }
        self.open.insert(message.id);
        ensure!(
            self.open.len() <= self.receive_maximum,
            "[MQTT-3.3.4-9] {} PUBLISH are open; the client's Receive Maximum is {}",
            self.open.len(),
            self.receive_maximum
        );
        Ok(())
    }
}
