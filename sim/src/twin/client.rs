//! A client of the simulation: its half of MQTT 5.
//!
//! Owns what it has still to send, what is not acknowledged, and how it goes on after a lost connection: it sends again. It never knows what a
//! message is about.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use causeway_core::{ConnectionId, Identity};
use causeway_protocol::{
    Ack, ForwardedBuilder, ForwardedProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, encode,
};

use crate::presence::packets::{answer, subscribe};

/// Messages that wait for an acknowledgement at a time.
const UNACKNOWLEDGED_MAX: usize = 4;

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A vehicle of this number.
    Vehicle(usize),
    /// Changes shadows, and goes and comes.
    Backend,
    /// Is told of all changes, with a session that lasts.
    Watcher,
}

/// A message to be sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Post {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: u8,
    pub(super) is_cbor: bool,
    pub(super) response_topic: Option<String>,
    pub(super) user_property: Option<(&'static str, String)>,
    /// By what the simulation knows it.
    pub(super) request: usize,
}

/// What a client was sent that it did not deal with itself.
#[derive(Debug)]
pub(super) enum Heard {
    /// A message.
    Message { topic: String, payload: Vec<u8>, is_cbor: bool },
    /// What was posted is the broker's now, or refused.
    Done { request: usize, is_refused: bool },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) identity: Identity,
    pub(super) role: Role,
    pub(super) home: usize,
    pub(super) is_persistent: bool,
    pub(super) filters: Vec<String>,
    pub(super) connection: Option<ConnectionId>,
    /// Filters the broker granted in the session that it has.
    granted: usize,
    is_welcome: bool,
    has_session: bool,
    /// Messages not yet sent.
    pub(super) posts: VecDeque<Post>,
    /// Sent, by packet identifier; whether PUBREC is there.
    unacknowledged: BTreeMap<u16, (Post, bool)>,
    last_id: u16,
    /// Packets that go before messages.
    answers: VecDeque<Vec<u8>>,
}

impl Client {
    pub(super) fn new(name: String, identity: Identity, role: Role, home: usize, filters: Vec<String>) -> Client {
        Client {
            name,
            identity,
            role,
            home,
            is_persistent: true,
            filters,
            connection: None,
            granted: 0,
            is_welcome: false,
            has_session: false,
            posts: VecDeque::new(),
            unacknowledged: BTreeMap::new(),
            last_id: 0,
            answers: VecDeque::new(),
        }
    }

    /// Whether it has all its subscriptions.
    pub(super) fn is_ready(&self) -> bool {
        self.is_welcome && self.granted == self.filters.len()
    }

    /// Whether it has nothing to say, nor waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.posts.is_empty() && self.unacknowledged.is_empty() && self.answers.is_empty()
    }

    /// The connection is gone, and what was on its way.
    pub(super) fn cut_off(&mut self) {
        self.connection = None;
        self.is_welcome = false;
        self.answers.clear();
    }

    /// The next packet it sends, if it has any.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if !self.is_ready() || self.unacknowledged.len() >= UNACKNOWLEDGED_MAX {
            return None;
        }
        let post = self.posts.pop_front()?;
        if post.qos == 0 {
            return Some(publish(&post, None, false));
        }
        loop {
            self.last_id = self.last_id % 1000 + 1;
            if !self.unacknowledged.contains_key(&self.last_id) {
                break;
            }
        }
        let bytes = publish(&post, Some(self.last_id), false);
        self.unacknowledged.insert(self.last_id, (post, false));
        Some(bytes)
    }

    /// Takes a packet.
    pub(super) fn take(&mut self, packet: &Packet<'_>) -> Result<Option<Heard>, String> {
        self.answers.extend(answer(packet));
        match packet {
            Packet::ConnAck(connack) if connack.reason.is_error() => {
                Err(format!("{} is refused: {}", self.name, connack.reason))
            }
            Packet::ConnAck(connack) => self.welcome(connack.session_present).map(|()| None),
            Packet::SubAck(suback) => match suback.reasons.iter().find(|reason| reason.is_error()) {
                Some(reason) => Err(format!("{} may not subscribe: {reason}", self.name)),
                None => {
                    self.granted += 1;
                    self.subscribe_next();
                    Ok(None)
                }
            },
            Packet::PubAck(ack) => Ok(self.done(ack, 1)),
            Packet::PubRec(ack) if ack.reason.is_error() => Ok(self.done(ack, 2)),
            Packet::PubRec(ack) => {
                if let Some((_, is_received)) = self.unacknowledged.get_mut(&ack.packet_id.get()) {
                    *is_received = true;
                }
                self.answers.push_back(release(ack.packet_id));
                Ok(None)
            }
            // Whatever it says: the broker took the message, and may have forgotten that since.
            Packet::PubComp(ack) => Ok(self.done(&Ack::new(ack.packet_id, ReasonCode::Success), 2)),
            Packet::Publish(publish) => {
                let is_cbor = publish.properties.forwarded.content_type() == Some("application/cbor");
                let (topic, payload) = (publish.topic.to_owned(), publish.payload.to_vec());
                Ok(Some(Heard::Message { topic, payload, is_cbor }))
            }
            Packet::Disconnect(disconnect) => Err(format!("{} is disconnected: {}", self.name, disconnect.reason)),
            _ => Ok(None),
        }
    }

    fn done(&mut self, ack: &Ack<'_>, qos: u8) -> Option<Heard> {
        let id = ack.packet_id.get();
        let (post, _) = self.unacknowledged.get(&id).filter(|(post, _)| post.qos == qos)?;
        let heard = Heard::Done { request: post.request, is_refused: ack.reason.is_error() };
        self.unacknowledged.remove(&id);
        Some(heard)
    }

    /// CONNACK is there: whatever is not acknowledged is sent again.
    fn welcome(&mut self, session_present: bool) -> Result<(), String> {
        if self.role == Role::Watcher && self.has_session && !session_present {
            return Err(format!("{} has lost its session", self.name));
        }
        self.is_welcome = true;
        if !session_present {
            self.granted = 0;
        }
        self.has_session = self.is_persistent && (self.granted == self.filters.len());
        self.subscribe_next();
        if session_present {
            for (&id, (post, is_received)) in &self.unacknowledged {
                let bytes = match (PacketId::new(id), is_received) {
                    (Some(id), true) => release(id),
                    _ => publish(post, Some(id), true),
                };
                self.answers.push_back(bytes);
            }
        } else {
            // The broker has what it has said that it received, and knows nothing of the rest.
            for (_, (post, is_received)) in std::mem::take(&mut self.unacknowledged).into_iter().rev() {
                if !is_received {
                    self.posts.push_front(post);
                }
            }
        }
        Ok(())
    }

    fn subscribe_next(&mut self) {
        if let Some(filter) = self.filters.get(self.granted) {
            self.answers.push_back(subscribe(filter, QoS::AtLeastOnce));
        } else {
            self.has_session = self.is_persistent;
        }
    }
}

fn release(id: PacketId) -> Vec<u8> {
    bytes(&Packet::PubRel(Ack::new(id, ReasonCode::Success)))
}

fn publish(post: &Post, id: Option<u16>, dup: bool) -> Vec<u8> {
    let mut forwarded = ForwardedBuilder::new();
    if post.is_cbor {
        forwarded = forwarded.content_type("application/cbor");
    }
    if let Some(topic) = &post.response_topic {
        forwarded = forwarded.response_topic(topic);
    }
    if let Some((name, value)) = &post.user_property {
        forwarded = forwarded.user_property(name, value);
    }
    let forwarded = forwarded.build().unwrap_or_default();
    let properties = PublishProperties {
        forwarded: ForwardedProperties::from_forwarded_bytes(&forwarded).unwrap_or_default(),
        ..PublishProperties::default()
    };
    let qos = match post.qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let packet_id = id.and_then(PacketId::new);
    let (topic, payload) = (post.topic.as_str(), post.payload.as_slice());
    bytes(&Packet::Publish(Publish { dup, qos, retain: false, topic, packet_id, properties, payload }))
}

fn bytes(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    // What these clients say is always short and well formed.
    let encoded = encode(packet, ProtocolVersion::V5, &mut bytes);
    debug_assert!(encoded.is_ok(), "{packet:?}");
    bytes.to_vec()
}
