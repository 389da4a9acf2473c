//! An MQTT client with a memory of its own.
//!
//! Owns what a client keeps over reconnects, and what it answers. A careful one keeps to the specification: it resends with
//! DUP what was not acknowledged, in order, and tells QoS 2 messages apart by their identifiers. A sloppy one forgets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use causeway_protocol::{Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

use crate::fleet::{VINS, Vehicle, said_topic};
use crate::message::{MessageId, Registry, TOPICS};
use crate::oracle::state::LinkId;
use crate::oracle::{AckKind, Rule, Violation};

/// A message on its way to the broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing {
    pub(crate) message: MessageId,
    pub(crate) packet_id: u16,
    pub(crate) qos: QoS,
    /// PUBREC came, PUBREL was sent.
    pub(crate) released: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: String,
    /// Whose client it is, where it is a vehicle's.
    pub(crate) vehicle: Option<Vehicle>,
    pub(crate) version: ProtocolVersion,
    pub(crate) is_persistent: bool,
    pub(crate) is_careful: bool,
    pub(crate) receive_maximum: u16,
    pub(crate) alias_maximum: u16,
    pub(crate) keep_alive_seconds: u16,
    /// Has its CONNACK.
    pub(crate) connected: bool,
    pub(crate) link: Option<LinkId>,
    pub(crate) outgoing: VecDeque<Outgoing>,
    next_packet_id: u16,
    next_request: u16,
    /// Receive Maximum of the broker.
    pub(crate) window: usize,
    /// What it will answer.
    pub(crate) replies: VecDeque<(AckKind, u16)>,
    incoming: BTreeMap<u16, Option<MessageId>>,
    /// The session all this belongs to.
    epoch: u64,
    /// Identifiers received on this connection and not acknowledged.
    unacknowledged: BTreeSet<u16>,
    /// How often a QoS 2 message came, in this session.
    counts: BTreeMap<MessageId, u32>,
    /// Retained messages it was sent because it subscribed.
    pub(crate) retained: Vec<(MessageId, QoS)>,
    /// Messages it took.
    pub(crate) taken: u64,
    pub(crate) expiry_at_connect: u32,
}

/// What a client does because of a packet.
pub(crate) enum Reaction {
    Nothing,
    /// It is connected: it sends what is left from before.
    Resume,
    Refused,
    /// The broker ended the connection.
    Leave,
}

impl Client {
    pub(crate) fn new(index: usize, version: ProtocolVersion) -> Client {
        Client {
            name: format!("c{index}"),
            vehicle: None,
            version,
            is_persistent: true,
            is_careful: true,
            receive_maximum: 8,
            alias_maximum: 0,
            keep_alive_seconds: 0,
            connected: false,
            link: None,
            outgoing: VecDeque::new(),
            next_packet_id: 0,
            next_request: 0,
            window: 0,
            replies: VecDeque::new(),
            incoming: BTreeMap::new(),
            epoch: 0,
            unacknowledged: BTreeSet::new(),
            counts: BTreeMap::new(),
            retained: Vec::new(),
            taken: 0,
            expiry_at_connect: 0,
        }
    }

    /// It is a client of this vehicle.
    pub(crate) fn be_of(&mut self, vehicle: Vehicle) {
        self.vehicle = Some(vehicle);
        self.name = format!("{}/{}", VINS[vehicle], self.name);
    }

    /// A topic as it says it.
    pub(crate) fn says(&self, topic: usize) -> &'static str {
        if self.vehicle.is_some() { said_topic(topic) } else { TOPICS[topic] }
    }

    /// The full topic of what it got.
    pub(crate) fn means(&self, topic: String, payload: &[u8], registry: &Registry) -> String {
        let full = self.vehicle.and_then(|_| registry.full_topic(&topic, payload));
        full.map_or(topic, str::to_owned)
    }

    /// The next identifier that is free.
    pub(crate) fn packet_id(&mut self) -> u16 {
        loop {
            // Few of them, so that they come again soon.
            self.next_packet_id = self.next_packet_id % 40 + 1;
            if self.outgoing.iter().all(|one| one.packet_id != self.next_packet_id) {
                return self.next_packet_id;
            }
        }
    }

    /// An identifier for a SUBSCRIBE or UNSUBSCRIBE, none of which waits for so long that it comes again.
    pub(crate) fn request_id(&mut self) -> PacketId {
        self.next_request = self.next_request % 1000 + 1;
        PacketId::MIN.saturating_add(100 + self.next_request)
    }

    /// A new connection begins, or the old one is gone.
    pub(crate) fn cut_off(&mut self, link: Option<LinkId>) {
        self.link = link;
        self.connected = false;
        self.replies.clear();
        self.unacknowledged.clear();
    }

    /// It is given a session. One that ended without its knowledge, because the CONNACK that said so was lost, left identifiers
    /// behind that mean something else now: no broker can help that.
    pub(crate) fn given(&mut self, epoch: u64) {
        if std::mem::replace(&mut self.epoch, epoch) != epoch {
            self.incoming.clear();
            self.counts.clear();
        }
    }

    /// What a sloppy client does now and then.
    pub(crate) fn forget(&mut self) {
        self.outgoing.clear();
        self.incoming.clear();
    }

    /// Takes the next answer it is due to give, as it is sent.
    pub(crate) fn reply(&mut self, at: usize) -> Option<(AckKind, u16)> {
        let (kind, packet_id) = self.replies.remove(at)?;
        if matches!(kind, AckKind::PubAck | AckKind::PubComp) {
            self.unacknowledged.remove(&packet_id);
        }
        Some((kind, packet_id))
    }

    /// Takes a packet; `topic` has any alias resolved.
    pub(crate) fn receive(
        &mut self,
        packet: &Packet<'_>,
        topic: &str,
        registry: &Registry,
    ) -> Result<Reaction, Violation> {
        match packet {
            Packet::ConnAck(connack) => {
                if connack.reason != ReasonCode::Success {
                    return Ok(Reaction::Refused);
                }
                self.connected = true;
                self.window = usize::from(connack.properties.receive_maximum.unwrap_or(8));
                if !connack.session_present {
                    // A new session: what was QoS 2 cannot be finished, what was QoS 1 is published anew.
                    self.outgoing.retain(|one| one.qos == QoS::AtLeastOnce);
                    self.incoming.clear();
                    self.counts.clear();
                }
                Ok(Reaction::Resume)
            }
            Packet::Publish(publish) => self.receive_publish(publish, topic, registry).map(|()| Reaction::Nothing),
            Packet::PubAck(ack) => {
                self.outgoing.retain(|one| one.packet_id != ack.packet_id.get() || one.qos != QoS::AtLeastOnce);
                Ok(Reaction::Nothing)
            }
            Packet::PubRec(ack) => {
                let packet_id = ack.packet_id.get();
                if ack.reason.is_error() {
                    self.outgoing.retain(|one| one.packet_id != packet_id);
                    return Ok(Reaction::Nothing);
                }
                for one in self.outgoing.iter_mut().filter(|one| one.packet_id == packet_id) {
                    one.released = true;
                }
                self.replies.push_back((AckKind::PubRel, packet_id));
                Ok(Reaction::Nothing)
            }
            Packet::PubComp(ack) => {
                self.outgoing.retain(|one| one.packet_id != ack.packet_id.get() || !one.released);
                Ok(Reaction::Nothing)
            }
            Packet::PubRel(ack) => {
                self.incoming.remove(&ack.packet_id.get());
                self.replies.push_back((AckKind::PubComp, ack.packet_id.get()));
                Ok(Reaction::Nothing)
            }
            Packet::Disconnect(_) => Ok(Reaction::Leave),
            _ => Ok(Reaction::Nothing),
        }
    }

    fn receive_publish(&mut self, publish: &Publish<'_>, topic: &str, registry: &Registry) -> Result<(), Violation> {
        let breach = |rule, detail| Err(Violation { rule, detail });
        let message = match registry.recognise(topic, publish.payload) {
            Ok(message) => message,
            Err(detail) => return breach(Rule::Data, detail),
        };
        if publish.retain {
            self.retained.extend(message.map(|message| (message, publish.qos)));
        }
        let Some(packet_id) = publish.packet_id.map(|packet_id| packet_id.get()) else { return Ok(()) };
        self.unacknowledged.insert(packet_id);
        if self.is_careful && self.unacknowledged.len() > usize::from(self.receive_maximum) {
            return breach(Rule::Window, format!("{} has {} unacknowledged", self.name, self.unacknowledged.len()));
        }
        if publish.qos == QoS::AtLeastOnce {
            self.taken += 1;
            self.replies.push_back((AckKind::PubAck, packet_id));
            return Ok(());
        }
        self.replies.push_back((AckKind::PubRec, packet_id));
        if let Some(before) = self.incoming.insert(packet_id, message) {
            // The same message again, which is not taken twice.
            if before != message && self.is_careful {
                let detail = format!("{} takes {message:?} for {before:?}, identifier {packet_id}", self.name);
                return breach(Rule::PacketIdentifier, detail);
            }
            return Ok(());
        }
        self.taken += 1;
        let Some(message) = message.filter(|message| registry.get(*message).is_careful) else {
            return Ok(());
        };
        if publish.retain {
            // Once for each subscription that brings it.
            return Ok(());
        }
        let count = self.counts.entry(message).or_default();
        *count += 1;
        let ways = 1 + registry.groups_of(registry.get(message).topic);
        if *count as usize > ways * registry.get(message).accepted_from.len() && self.is_careful {
            return breach(Rule::Twice, format!("{} got QoS 2 message {message} {count} times", self.name));
        }
        Ok(())
    }
}
