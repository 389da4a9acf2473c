//! What clients want, and what they do with what they get.
//!
//! Owns their choices. What they must remember is in `client`.

use std::num::NonZeroU16;

use bytes::BytesMut;
use causeway_core::{Groups, Identity, Notice, Principal};
use causeway_protocol::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe, Will, decode, encode,
};

use super::{BROKER_SLOT, Over, World};
use crate::broker::Broker;
use crate::client::{Outgoing, Reaction};
use crate::fleet::{
    FILTERS_OF_BACKENDS, FILTERS_SAID, GROUP_SETS, MOUNTED_TOPICS, VINS, filter_of_backend, names, own_filter, said,
    topic_of,
};
use crate::link::{Link, first_packet, resolve};
use crate::message::{FILTERS, Message, MessageId, PLAIN_FILTERS, PLAIN_TOPICS, Registry, is_shared};
use crate::oracle::state::LinkId;
use crate::oracle::{AckKind, Rule};

impl<B: Broker> World<B> {
    pub(super) fn qos(&mut self) -> QoS {
        match self.random.below(10) {
            0..2 => QoS::AtMostOnce,
            2..6 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    pub(super) fn send(&mut self, id: LinkId, packet: &Packet<'_>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut bytes = BytesMut::new();
        if encode(packet, link.version, &mut bytes).is_ok() && !link.is_cut {
            self.trace.wire(&bytes);
            link.up.extend_from_slice(&bytes);
        }
    }

    /// A client dials. `plain`: with neither will nor keep alive, and with its session.
    pub(super) fn dial(&mut self, index: usize, plain: bool) {
        self.next_link += 1;
        let id = self.next_link;
        let is_slow = !plain && self.random.chance(15);
        let version = self.clients[index].version;
        let is_v5 = version == ProtocolVersion::V5;
        let is_persistent = self.clients[index].is_persistent;
        let clean = !is_persistent || (!plain && self.random.chance(8));
        let expiry = match (is_v5, is_persistent) {
            (true, true) if plain => 10_000,
            (true, true) => match self.random.below(20) {
                0 => 0,
                1..4 => u32::MAX,
                // No two clients have the same, so that they never end at the same time.
                _ => index as u32 + 1 + 20 * (1 + self.random.below(20)) as u32,
            },
            _ => 0,
        };
        let will = (!plain && self.random.chance(35)).then(|| {
            let message = self.new_message(index, true);
            let delay = (is_v5 && self.random.chance(60)).then(|| index as u32 + 1 + 20 * self.random.below(4) as u32);
            (message, delay)
        });
        let payload = will.map(|(message, _)| self.oracle.registry().payload(message)).unwrap_or_default();
        let client = &mut self.clients[index];
        client.cut_off(Some(id));
        client.expiry_at_connect = expiry;
        let name = client.name.clone();
        let properties = ConnectProperties {
            session_expiry_interval_seconds: (is_v5 && expiry > 0).then_some(expiry),
            receive_maximum: is_v5.then_some(client.receive_maximum),
            topic_alias_maximum: is_v5.then_some(client.alias_maximum),
            ..ConnectProperties::default()
        };
        let keep_alive_seconds = if plain { 0 } else { client.keep_alive_seconds };
        let registry = self.oracle.registry();
        let will = will.map(|(message, delay_interval_seconds)| {
            let message = registry.get(message);
            Will {
                qos: message.qos,
                retain: message.retain,
                topic: self.clients[index].says(message.topic),
                payload: &payload,
                delay_interval_seconds,
                message_expiry_interval_seconds: message.expiry_seconds,
                forwarded: Default::default(),
            }
        });
        let connect = Connect {
            version,
            clean_start: clean,
            keep_alive_seconds,
            client_id: &name,
            will,
            username: None,
            password: None,
            properties,
        };
        self.links.insert(id, Link::new(index, version, is_slow));
        self.note("dials link client clean", [u64::from(id), index as u64, u64::from(clean)]);
        self.send(id, &Packet::Connect(Box::new(connect)));
    }

    /// Somewhere the client may publish.
    fn any_topic(&mut self, client: usize) -> usize {
        match self.clients[client].vehicle {
            Some(vehicle) => topic_of(vehicle, self.random.below(2) as usize),
            None if self.has_vehicles && self.random.chance(50) => {
                PLAIN_TOPICS + self.random.below(MOUNTED_TOPICS as u64) as usize
            }
            None => self.random.below(PLAIN_TOPICS as u64) as usize,
        }
    }

    /// Something the client may subscribe to, by its full name.
    fn any_filter(&mut self, client: usize) -> usize {
        match self.clients[client].vehicle {
            Some(vehicle) => own_filter(vehicle, self.random.below(FILTERS_SAID as u64) as usize),
            None if self.has_vehicles && self.random.chance(40) => {
                filter_of_backend(self.random.below(FILTERS_OF_BACKENDS as u64) as usize)
            }
            None => self.random.below(PLAIN_FILTERS as u64) as usize,
        }
    }

    fn says_filter(&self, client: usize, filter: usize) -> &'static str {
        let said = self.clients[client].vehicle.and_then(|vehicle| said(vehicle, filter));
        said.unwrap_or(FILTERS[filter])
    }

    /// A vehicle joins or leaves groups, and all shards are told.
    pub(super) fn regroup(&mut self) -> Result<(), Over> {
        if !self.has_vehicles {
            return Ok(());
        }
        let vehicle = self.random.below(VINS.len() as u64) as usize;
        let mut groups = *self.grouped.last().unwrap_or(&[0; 2]);
        groups[vehicle] = self.random.below(GROUP_SETS);
        self.grouped.push(groups);
        self.note("vehicle is in groups", [vehicle as u64, groups[vehicle], 0]);
        let number = self.grouped.len() as u64 - 1;
        let Ok(vin) = VINS[vehicle].parse() else { return Ok(()) };
        for core in 0..self.cores.len() {
            self.at(BROKER_SLOT)?;
            let notice = Notice::Groups(vec![(vin, names_of(groups[vehicle]))]);
            self.input(core, |shard, now| shard.notice(now, number, notice));
            for client in (0..self.clients.len()).filter(|client| self.home(*client) == core).collect::<Vec<_>>() {
                if self.clients[client].vehicle == Some(vehicle) {
                    self.oracle.regroup(self.now, client, groups[vehicle]);
                }
            }
            self.observe()?;
        }
        Ok(())
    }

    /// Who a client is proven to be, as of a notice that may be older than the newest.
    pub(super) fn identity(&mut self, client: usize) -> (Identity, u64) {
        let Some(vehicle) = self.clients[client].vehicle else { return (Principal::Anonymous.into(), u64::MAX) };
        let newest = self.grouped.len() - 1;
        let known = if self.random.chance(30) { self.random.below(newest as u64 + 1) as usize } else { newest };
        let principal = Principal::of_user(&format!("vehicle:{}", VINS[vehicle]));
        (Identity { groups: names_of(self.grouped[known][vehicle]), ..principal.into() }, known as u64)
    }

    fn new_message(&mut self, client: usize, is_will: bool) -> MessageId {
        let topic = self.any_topic(client);
        let qos = self.qos();
        let retain = self.random.chance(15);
        // Without a payload, a vehicle that got it could not be asked by which full name.
        if retain && !is_will && topic < PLAIN_TOPICS && self.random.chance(25) {
            return Registry::clearing(topic);
        }
        let payload_bytes = match self.random.below(40) {
            0 => 2100,
            1..5 => 12 + self.random.below(300) as usize,
            _ => 12 + self.random.below(30) as usize,
        };
        let is_v5 = self.clients[client].version == ProtocolVersion::V5;
        let expiry_seconds = (is_v5 && self.random.chance(25)).then(|| 1 + self.random.below(60) as u32);
        let is_careful = self.clients[client].is_careful && !is_will;
        let accepted_from = Default::default();
        let message = Message {
            topic,
            qos,
            retain,
            payload_bytes,
            expiry_seconds,
            is_careful,
            is_will,
            accepted_from,
            copies: 0,
        };
        self.oracle.registry_mut().add(message)
    }

    /// A client does something of its own accord.
    pub(super) fn act(&mut self, index: usize) {
        let Some(id) = self.clients[index].link else {
            if self.random.chance(40) {
                self.dial(index, false);
            }
            return;
        };
        if !self.clients[index].connected {
            if self.random.chance(3) {
                // It gives up, and tries anew.
                self.dial(index, false);
            }
            return;
        }
        match self.random.below(100) {
            0..45 => {
                for _ in 0..1 + self.random.below(4) {
                    self.answer(index, id);
                }
            }
            45..78 => self.publish_something(index, id),
            78..88 => self.subscribe_something(index, id),
            88..91 => self.unsubscribe_something(index, id),
            91..93 => self.send(id, &Packet::PingReq),
            93..95 => self.leave(index, id),
            95 => self.dial(index, false),
            96 => self.vanish(index, id),
            _ if !self.clients[index].is_careful => self.be_sloppy(id),
            _ => self.answer(index, id),
        }
    }

    /// Sends one of the answers it owes.
    pub(super) fn answer(&mut self, index: usize, id: LinkId) {
        let waiting = self.clients[index].replies.len() as u64;
        let in_order = self.clients[index].is_careful || self.is_healed || waiting == 0;
        let at = if in_order { 0 } else { self.random.below(waiting) as usize };
        if let Some((kind, packet_id)) = self.clients[index].reply(at) {
            self.send_ack(id, kind, packet_id);
        }
    }

    fn send_ack(&mut self, id: LinkId, kind: AckKind, packet_id: u16) {
        let Some(packet_id) = PacketId::new(packet_id) else { return };
        let ack = Ack::new(packet_id, ReasonCode::Success);
        let packet = match kind {
            AckKind::PubAck => Packet::PubAck(ack),
            AckKind::PubRec => Packet::PubRec(ack),
            AckKind::PubRel => Packet::PubRel(ack),
            AckKind::PubComp => Packet::PubComp(ack),
        };
        self.send(id, &packet);
    }

    fn publish_something(&mut self, index: usize, id: LinkId) {
        let message = self.new_message(index, false);
        let qos = self.oracle.registry().get(message).qos;
        if qos == QoS::AtMostOnce {
            self.send_publish(id, message, 0, false);
            return;
        }
        if self.clients[index].outgoing.len() >= self.clients[index].window {
            return;
        }
        let packet_id = self.clients[index].packet_id();
        self.clients[index].outgoing.push_back(Outgoing { message, packet_id, qos, released: false });
        self.send_publish(id, message, packet_id, false);
    }

    fn send_publish(&mut self, id: LinkId, message: MessageId, packet_id: u16, dup: bool) {
        let payload = self.oracle.registry().payload(message);
        let one = self.oracle.registry().get(message);
        let message_expiry_interval_seconds = one.expiry_seconds;
        let Some(link) = self.links.get(&id) else { return };
        let says = self.clients[link.client].says(one.topic);
        let publish = Publish {
            dup,
            qos: one.qos,
            retain: one.retain,
            topic: says,
            packet_id: NonZeroU16::new(packet_id),
            properties: PublishProperties { message_expiry_interval_seconds, ..PublishProperties::default() },
            payload: &payload,
        };
        self.send(id, &Packet::Publish(publish));
    }

    pub(super) fn subscribe_something(&mut self, index: usize, id: LinkId) {
        let filter = self.any_filter(index);
        // One group at a time, so that it is clear through which a message came.
        let in_group = self.oracle.filters_of(index).into_iter().any(is_shared);
        if is_shared(filter) && (in_group || self.links[&id].up.len() > 2) {
            return;
        }
        let handling = match self.random.below(3) {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            _ => RetainHandling::Never,
        };
        self.subscribe_to(index, id, filter, handling);
    }

    pub(super) fn subscribe_to(&mut self, index: usize, id: LinkId, filter: usize, handling: RetainHandling) {
        let is_v5 = self.clients[index].version == ProtocolVersion::V5;
        let qos = if self.is_healed { QoS::ExactlyOnce } else { self.qos() };
        let options = SubscriptionOptions {
            qos,
            no_local: is_v5 && !is_shared(filter) && self.random.chance(10),
            retain_as_published: is_v5 && !is_shared(filter) && self.random.chance(30),
            retain_handling: if is_v5 { handling } else { RetainHandling::Always },
        };
        let identified = is_v5 && !is_shared(filter) && self.random.chance(40);
        let subscribe = Subscribe {
            packet_id: self.clients[index].request_id(),
            subscription_identifier: identified.then(|| 1 + self.random.below(9) as u32),
            user_properties: Vec::new(),
            filters: vec![(self.says_filter(index, filter), options)],
        };
        self.send(id, &Packet::Subscribe(subscribe));
    }

    fn unsubscribe_something(&mut self, index: usize, id: LinkId) {
        let subs = self.oracle.filters_of(index);
        let filter = if subs.is_empty() || self.random.chance(10) {
            self.any_filter(index)
        } else {
            subs[self.random.below(subs.len() as u64) as usize]
        };
        let filters = vec![self.says_filter(index, filter)];
        let packet_id = self.clients[index].request_id();
        self.send(id, &Packet::Unsubscribe(Unsubscribe { packet_id, user_properties: Vec::new(), filters }));
    }

    /// An orderly end, now and then with another session expiry, or with the will.
    fn leave(&mut self, index: usize, id: LinkId) {
        let is_v5 = self.clients[index].version == ProtocolVersion::V5;
        let may_change = is_v5 && self.clients[index].expiry_at_connect > 0;
        let changed =
            if self.random.chance(20) { 0 } else { index as u32 + 1 + 20 * (1 + self.random.below(9)) as u32 };
        let disconnect = Disconnect {
            reason: if is_v5 && self.random.chance(25) { ReasonCode::DisconnectWithWill } else { ReasonCode::Success },
            session_expiry_interval_seconds: (may_change && self.random.chance(40)).then_some(changed),
            ..Disconnect::default()
        };
        self.send(id, &Packet::Disconnect(disconnect));
        self.leave_link(index, id, usize::MAX);
    }

    /// It is gone without a word. What was on its way may still arrive, in part.
    fn vanish(&mut self, index: usize, id: LinkId) {
        let up = self.links.get(&id).map_or(0, |link| link.up.len());
        let arrives = self.random.below(up as u64 + 1) as usize;
        self.leave_link(index, id, arrives);
    }

    pub(super) fn leave_link(&mut self, index: usize, id: LinkId, arrives: usize) {
        self.note("client leaves link", [u64::from(id), index as u64, 0]);
        if let Some(link) = self.links.get_mut(&id) {
            link.cut(arrives, 0);
            link.client_left = true;
        }
        if self.clients[index].link == Some(id) {
            self.clients[index].cut_off(None);
            if !self.clients[index].is_careful && !self.is_healed && self.random.chance(30) {
                self.clients[index].forget();
            }
        }
        self.forget_link(id);
    }

    fn be_sloppy(&mut self, id: LinkId) {
        let packet_id = if self.random.chance(50) { 1 + self.random.below(8) } else { 32_768 + self.random.below(8) };
        let kinds = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];
        let kind = kinds[self.random.below(4) as usize];
        if kind == AckKind::PubRel {
            // Its own identifiers are few.
            return self.send_ack(id, kind, 1 + (packet_id % 40) as u16);
        }
        self.send_ack(id, kind, packet_id as u16);
    }

    /// A client takes what arrived.
    pub(super) fn receive(&mut self, id: LinkId) -> Result<(), Over> {
        loop {
            let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
            let index = link.client;
            if self.clients[index].link != Some(id) {
                link.received.clear();
                return Ok(());
            }
            let Ok(Some(head)) = first_packet(&link.received) else { return Ok(()) };
            let rest = link.received.split_off(head.total_bytes());
            let bytes = std::mem::replace(&mut link.received, rest);
            let Ok(packet) = decode(&head, &bytes[head.header_bytes..], link.version) else { return Ok(()) };
            let mut topic = resolve(&mut link.aliases[1], &packet);
            if let Packet::Publish(publish) = &packet {
                topic = self.clients[index].means(topic, publish.payload, self.oracle.registry());
            }
            let link_epoch = link.epoch;
            if matches!(packet, Packet::ConnAck(_)) {
                self.clients[index].given(link.epoch);
            }
            let taken = self.clients[index].taken;
            let reaction = self.clients[index].receive(&packet, &topic, self.oracle.registry());
            if let Packet::Publish(publish) = &packet {
                let is_new = self.clients[index].taken > taken;
                self.oracle.taken((index, link_epoch), publish, &topic, is_new);
            }
            match reaction {
                // What was released too early may come again.
                Err(violation) if violation.rule == Rule::Twice && self.oracle.is_tainted() => {
                    self.oracle.tally().tolerated += 1;
                }
                Err(violation) => self.oracle.breach(violation.rule, violation.detail),
                Ok(Reaction::Nothing) => {}
                Ok(Reaction::Resume) => self.resume(index, id),
                Ok(Reaction::Refused | Reaction::Leave) => self.leave_link(index, id, 0),
            }
            self.check()?;
        }
    }

    /// After CONNACK: what was not acknowledged is sent again, in order.
    fn resume(&mut self, index: usize, id: LinkId) {
        let outgoing: Vec<Outgoing> = self.clients[index].outgoing.iter().copied().collect();
        for one in outgoing {
            if one.released {
                self.send_ack(id, AckKind::PubRel, one.packet_id);
            } else {
                self.send_publish(id, one.message, one.packet_id, true);
            }
        }
    }
}

/// A set of groups as the broker has it.
fn names_of(groups: u64) -> Groups {
    Groups::new(names(groups)).unwrap_or_default()
}
