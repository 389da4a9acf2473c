//! An MQTT 5 client that says what it is told to, right or wrong, and reports what comes back.

use std::collections::VecDeque;
use std::io::{Read, Write};

use causeway_protocol::{Packet, ProtocolVersion, decode, frame};

use crate::support::packet;

/// What came, in the words of the tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    ConnAck(u8),
    Publish {
        topic: String,
        response_topic: Option<String>,
        payload: Vec<u8>,
        packet_id: Option<u16>,
    },
    PubAck(u8),
    PubRec(u8),
    SubAck(u8),
    PingResp,
    Disconnect(u8),
    Other,
    /// The connection is over.
    End,
}

pub trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

pub struct Client {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
    /// Messages that came while something else was waited for.
    pub messages: VecDeque<Heard>,
    pub is_over: bool,
}

/// A PUBLISH to send.
#[derive(Debug, Clone, Default)]
pub struct Publish<'a> {
    pub topic: &'a str,
    pub qos: u8,
    pub retain: bool,
    pub alias: Option<u8>,
    pub response_topic: Option<&'a str>,
    pub payload: &'a [u8],
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn variable_length(mut length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (length & 0x7F) as u8;
        length >>= 7;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            return out;
        }
    }
}

impl Client {
    pub fn new(stream: Box<dyn Stream>) -> Client {
        Client { stream, unread: Vec::new(), messages: VecDeque::new(), is_over: false }
    }

    /// CONNECT with a clean start, perhaps with a will; the reason code of the answer.
    pub fn connect(&mut self, client_id: &str, will: Option<&Publish<'_>>) -> Heard {
        let mut body = b"\x00\x04MQTT\x05".to_vec();
        let will_flags = will.map_or(0, |will| 4 | (will.qos << 3) | (u8::from(will.retain) << 5));
        body.push(2 | will_flags);
        body.extend([0, 0, 0]);
        text(&mut body, client_id);
        if let Some(will) = will {
            body.push(0);
            text(&mut body, will.topic);
            body.extend((will.payload.len() as u16).to_be_bytes());
            body.extend(will.payload);
        }
        self.send(&packet(0x10, &body));
        self.next()
    }

    pub fn publish(&mut self, publish: &Publish<'_>) {
        let mut properties = Vec::new();
        if let Some(alias) = publish.alias {
            properties.extend([0x23, 0, alias]);
        }
        if let Some(topic) = publish.response_topic {
            properties.push(0x08);
            text(&mut properties, topic);
        }
        let mut body = Vec::new();
        text(&mut body, publish.topic);
        if publish.qos > 0 {
            body.extend([0, 1]);
        }
        body.extend(variable_length(properties.len()));
        body.extend(properties);
        body.extend(publish.payload);
        self.send(&packet(0x30 | (publish.qos << 1) | u8::from(publish.retain), &body));
    }

    /// SUBSCRIBE; what the answer is.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> Heard {
        let mut body = vec![0, 1, 0];
        text(&mut body, filter);
        body.push(qos);
        self.send(&packet(0x82, &body));
        self.answer()
    }

    pub fn unsubscribe(&mut self, filter: &str) -> Heard {
        let mut body = vec![0, 1, 0];
        text(&mut body, filter);
        self.send(&packet(0xA2, &body));
        self.answer()
    }

    /// Waits until the broker has handled what was sent, and what it had for this client is here; whether the connection is still there.
    pub fn fence(&mut self) -> bool {
        self.send(&packet(0xC0, &[]));
        loop {
            match self.answer() {
                Heard::PingResp => return true,
                Heard::End => return false,
                _ => {}
            }
        }
    }

    /// The next packet that is no message; those are kept, and acknowledged.
    pub fn answer(&mut self) -> Heard {
        loop {
            let heard = self.next();
            let Heard::Publish { packet_id, .. } = &heard else { return heard };
            if let Some(id) = *packet_id {
                self.send(&packet(0x40, &id.to_be_bytes()));
            }
            self.messages.push_back(heard);
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // Where the broker closed already, reading says so.
        let _ = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
    }

    fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.take() {
                self.is_over |= matches!(heard, Heard::Disconnect(_));
                return heard;
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => {
                    self.is_over = true;
                    return Heard::End;
                }
                Ok(count) => self.unread.extend(&bytes[..count]),
            }
        }
    }

    fn take(&mut self) -> Option<Heard> {
        let head = frame(&self.unread, u32::MAX).unwrap()?;
        if head.total_bytes() > self.unread.len() {
            return None;
        }
        let whole: Vec<u8> = self.unread.drain(..head.total_bytes()).collect();
        let packet = decode(&head, &whole[head.header_bytes..], ProtocolVersion::V5).unwrap();
        Some(match packet {
            Packet::ConnAck(connack) => Heard::ConnAck(connack.reason as u8),
            Packet::Publish(publish) => Heard::Publish {
                topic: publish.topic.to_owned(),
                response_topic: publish.properties.forwarded.response_topic().map(str::to_owned),
                payload: publish.payload.to_vec(),
                packet_id: publish.packet_id.map(|id| id.get()),
            },
            Packet::PubAck(ack) => Heard::PubAck(ack.reason as u8),
            Packet::PubRec(ack) => Heard::PubRec(ack.reason as u8),
            Packet::SubAck(suback) => Heard::SubAck(suback.reasons.first().map_or(0xFF, |reason| *reason as u8)),
            Packet::PingResp => Heard::PingResp,
            Packet::Disconnect(disconnect) => Heard::Disconnect(disconnect.reason as u8),
            _ => Heard::Other,
        })
    }
}
