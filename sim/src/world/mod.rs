//! The world of one run: a broker of one or several shards, their disks, its clients, the links between them, and one clock.
//!
//! Owns how they meet. What happens next is decided in `schedule`, what clients want in `clients`, what goes wrong with the
//! disk in `faults`.

mod clients;
mod core;
mod faults;
mod finale;
mod schedule;
mod wires;

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use causeway_core::{ConnectionId, Effect, Handshake, HandshakePolicy, Limits, Millis, Overflow, Shard, Step, Verdict};
use causeway_protocol::{Packet, ProtocolVersion, QoS, RetainHandling, decode};
use causeway_storage::fault::Random;

use crate::broker::Broker;
use crate::client::Client;
use crate::fleet::{filter_said, follows};
use crate::link::{Link, first_packet, resolve};
use crate::message::{FILTERS, Registry, TOPICS};
use crate::oracle::input::{Asked, Wanted};
use crate::oracle::state::{ClientIndex, LinkId, Sub, WillModel};
use crate::oracle::{Judge, Rule};
use crate::trace::{Event, Trace};
use core::Core;
pub(crate) use wires::UNDER_WAY_MAX;
use wires::Wire;

/// The run is over before its time: a promise was broken, which the oracle has, or a damaged disk was refused.
pub(crate) struct Over;

/// Every client acts at a time of its own within this many milliseconds. A second is a multiple of it, so no two clients
/// ever have deadlines at the same time, whose order would be anybody's guess.
const SLOTS: u64 = 20;
const BROKER_SLOT: u64 = 18;
const START_SLOT: u64 = 19;

/// See the module.
pub(crate) struct World<B> {
    pub(crate) cores: Vec<Core<B>>,
    pub(crate) oracle: Box<dyn Judge>,
    pub(crate) trace: Trace,
    pub(crate) step: u32,
    random: Random,
    limits: Arc<Limits>,
    now: u64,
    clients: Vec<Client>,
    links: BTreeMap<LinkId, Link>,
    /// By the number of the shard, and what that calls it.
    by_connection: BTreeMap<(usize, ConnectionId), LinkId>,
    /// One for each direction between two shards.
    wires: Vec<Wire>,
    /// All shards know what the others' clients want: clients may come.
    is_listening: bool,
    next_link: LinkId,
    /// Whether some of the clients are vehicles; and the groups of each vehicle, as of each notice of theirs since the start.
    has_vehicles: bool,
    grouped: Vec<[u64; 2]>,
    slow: u64,
    /// An outbox was over its bound.
    was_full: bool,
    is_damaging: bool,
    /// Nothing goes wrong any more.
    is_healed: bool,
}

impl<B: Broker> World<B> {
    fn note(&mut self, what: &'static str, numbers: [u64; 3]) {
        self.trace.note(Event { step: self.step, now: self.now, what, numbers });
    }

    /// Whether the run goes on.
    fn check(&self) -> Result<(), Over> {
        if self.oracle.violations().is_empty() { Ok(()) } else { Err(Over) }
    }

    fn millis(&self) -> Millis {
        Millis(self.now)
    }

    /// The shard on which a client's session lives. Consecutive clients are on different ones.
    fn home(&self, client: ClientIndex) -> usize {
        client % self.cores.len()
    }

    fn shard(&mut self, core: usize) -> &mut Shard {
        self.cores[core].broker.shard()
    }

    /// The shard of a link that is there, and what it calls the link.
    fn connection(&self, id: LinkId) -> Option<(usize, ConnectionId)> {
        let link = self.links.get(&id)?;
        Some((self.home(link.client), link.connection?))
    }

    /// Lets a shard take an input, and the oracle know where the log stands after it.
    fn input<R>(&mut self, core: usize, take: impl FnOnce(&mut Shard, Millis) -> R) -> R {
        let now = self.millis();
        let taken = take(self.shard(core), now);
        let last = self.cores[core].last_record();
        let dropped = self.shard(core).counters().dropped_oldest;
        self.oracle.begin(last, dropped);
        taken
    }

    /// Looks at all that the shards put out, and carries it out.
    fn observe(&mut self) -> Result<(), Over> {
        let dropped_before = self.slow;
        // As it was when the input came: quick links are emptied below.
        self.was_full |= self.links.values().any(|link| link.observed > self.limits.outbox_bytes_max);
        loop {
            // Links between shards are written before those to clients.
            self.load_wires();
            for core in 0..self.cores.len() {
                while let Some(connection) = self.shard(core).poll_dirty() {
                    let Some(&id) = self.by_connection.get(&(core, connection)) else { continue };
                    self.look_at(id);
                }
            }
            self.look_behind_corks();
            if !self.drain_quick() {
                break;
            }
        }
        for core in 0..self.cores.len() {
            while let Some(effect) = self.shard(core).poll_effect() {
                let Effect::Close { connection } = effect else { continue };
                match self.by_connection.get(&(core, connection)) {
                    Some(id) => self.links.get_mut(id).into_iter().for_each(|link| link.is_closing = true),
                    None => self.judge_closed_wire(core, connection),
                }
            }
        }
        let counters = *self.shard(0).counters();
        self.slow = self.cores.iter_mut().map(|core| core.broker.shard().counters().dropped_slow_consumer).sum();
        let gauges = self.step.is_multiple_of(8).then(|| self.shard(0).gauges());
        let dropped = self.slow != dropped_before || std::mem::take(&mut self.was_full);
        self.oracle.end_input(dropped, &counters, gauges);
        let known: Vec<(LinkId, usize, ConnectionId)> =
            self.links.keys().filter_map(|id| self.connection(*id).map(|(core, one)| (*id, core, one))).collect();
        for (id, core, connection) in known {
            if self.shard(core).is_open(connection) != self.oracle.is_open(id) {
                let detail = format!("whether link {id} is open: the oracle says {}", self.oracle.is_open(id));
                self.oracle.breach(Rule::Connection, detail);
                break;
            }
        }
        self.check()
    }

    /// Looks at what waits behind a CONNACK that waits itself.
    fn look_behind_corks(&mut self) {
        let (cores, connections) = (&mut self.cores, self.by_connection.iter());
        let corked: smallvec::SmallVec<[LinkId; 4]> = connections
            .filter(|((core, connection), _)| cores[*core].broker.shard().is_corked(*connection))
            .map(|(_, id)| *id)
            .collect();
        corked.into_iter().for_each(|id| self.look_at(id));
    }

    /// Takes the outboxes of quick links. Whether there was anything.
    fn drain_quick(&mut self) -> bool {
        let mut any = false;
        let ids: smallvec::SmallVec<[LinkId; 8]> =
            self.links.iter().filter(|(_, link)| !link.is_slow && link.observed > 0).map(|(id, _)| *id).collect();
        for id in ids {
            any |= self.drain(id, usize::MAX);
        }
        any
    }

    /// Moves bytes from the outbox onto the link, as a socket would take them.
    fn drain(&mut self, id: LinkId, bytes_max: usize) -> bool {
        let Some((core, connection)) = self.connection(id) else { return false };
        let Some(link) = self.links.get_mut(&id) else { return false };
        let Some(mut outbox) = self.cores[core].broker.shard().outbox(connection) else { return false };
        let mut bytes = gather(outbox.as_ref());
        // What the oracle has not seen yet stays for the next time.
        bytes.truncate(bytes_max.min(link.observed));
        outbox.advance(bytes.len());
        let low = outbox.bytes() <= causeway_core::OUTBOX_LOW_BYTES;
        link.observed = link.observed.saturating_sub(bytes.len());
        if !link.is_cut {
            link.down.extend_from_slice(&bytes);
        }
        if !bytes.is_empty() {
            self.oracle.left(id);
        }
        if low {
            self.input(core, |shard, now| shard.flushed(now, connection));
        }
        true
    }

    /// Shows the oracle what is new in an outbox.
    fn look_at(&mut self, id: LinkId) {
        let Some((core, connection)) = self.connection(id) else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(outbox) = self.cores[core].broker.shard().waiting(connection) else { return };
        let all = gather(outbox);
        let mut rest = all.get(link.observed..).unwrap_or_default();
        link.observed = all.len();
        self.was_full |= link.observed > self.limits.outbox_bytes_max;
        self.trace.wire(rest);
        while let Ok(Some(head)) = first_packet(rest) {
            let (packet, behind) = rest.split_at(head.total_bytes());
            rest = behind;
            let Some(link) = self.links.get_mut(&id) else { return };
            match decode(&head, &packet[head.header_bytes..], link.version) {
                Ok(packet) => {
                    let client = link.client;
                    let mut topic = resolve(&mut link.aliases[0], &packet);
                    if let Packet::Publish(publish) = &packet {
                        topic = self.clients[client].means(topic, publish.payload, self.oracle.registry());
                        self.oracle.tally().to_vehicles += u64::from(self.clients[client].vehicle.is_some());
                    }
                    let numbers = numbers(id, &packet, self.oracle.registry(), &topic);
                    self.note(name(&packet, false), numbers);
                    self.oracle.emitted(self.now, id, &packet, &topic);
                }
                Err(error) => self.oracle.breach(Rule::Data, format!("link {id} was sent no packet: {error}")),
            }
        }
        if !rest.is_empty() {
            self.oracle.breach(Rule::Data, format!("link {id}: half a packet in the outbox"));
        }
    }

    /// The next time that belongs to a slot, with all that is due until then done.
    fn at(&mut self, slot: u64) -> Result<(), Over> {
        let behind = (slot + SLOTS - self.now % SLOTS) % SLOTS;
        self.advance(self.now + behind)
    }

    fn advance(&mut self, until: u64) -> Result<(), Over> {
        while let Some((due, core)) = self.first_deadline().filter(|(due, _)| *due <= until) {
            self.now = self.now.max(due);
            self.tick(core)?;
        }
        self.now = until;
        Ok(())
    }

    /// The next time that a shard waits for, and which.
    fn first_deadline(&mut self) -> Option<(u64, usize)> {
        let cores = self.cores.iter_mut().enumerate();
        cores.filter_map(|(at, core)| Some((core.broker.shard().next_deadline()?.0, at))).min()
    }

    fn tick(&mut self, core: usize) -> Result<(), Over> {
        let before = self.by_connection.iter().filter(|((at, _), _)| *at == core).map(|((_, one), id)| (*id, *one));
        let before: Vec<(LinkId, ConnectionId)> = before.collect();
        let before: Vec<_> = before.into_iter().filter(|(_, one)| self.shard(core).is_open(*one)).collect();
        self.input(core, |shard, now| shard.tick(now));
        let silent = before.into_iter().filter(|(_, one)| !self.shard(core).is_open(*one));
        let silent: Vec<LinkId> = silent.map(|(id, _)| id).collect();
        self.note("tick", [silent.len() as u64, 0, 0]);
        self.oracle.tick(self.now, &silent);
        self.observe()
    }

    /// Hands the broker what arrived on a link, as far as it wants it.
    fn read(&mut self, id: LinkId) -> Result<(), Over> {
        let Some(client) = self.links.get(&id).map(|link| link.client) else { return Ok(()) };
        self.at(client as u64)?;
        let core = self.home(client);
        if !self.is_listening {
            return Ok(());
        }
        loop {
            let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
            if let Some(connection) = link.connection {
                let shard = self.cores[core].broker.shard();
                if !shard.is_open(connection) {
                    link.arrived.clear();
                    return Ok(());
                }
                if !shard.wants_input(connection) {
                    return Ok(());
                }
            }
            let Ok(Some(head)) = first_packet(&link.arrived) else {
                if let Some(connection) = link.connection.filter(|_| !link.arrived.is_empty()) {
                    self.input(core, |shard, now| shard.heard(now, connection));
                    self.oracle.heard(self.now, id);
                }
                return Ok(());
            };
            let rest = link.arrived.split_off(head.total_bytes());
            let bytes = std::mem::replace(&mut link.arrived, rest);
            let version = link.version;
            let connection = link.connection;
            match (decode(&head, &bytes[head.header_bytes..], version), connection) {
                (Ok(packet), Some(connection)) => self.handle(id, (core, connection), &packet)?,
                (Ok(packet), None) => self.connect(id, &packet)?,
                (Err(error), _) => {
                    self.oracle.breach(Rule::Data, format!("the simulation sent no packet: {error}"));
                    return Err(Over);
                }
            }
        }
    }

    fn connect(&mut self, id: LinkId, packet: &Packet<'_>) -> Result<(), Over> {
        let drops = self.links.get(&id).is_some_and(|link| self.oracle.drops_oldest(link.client));
        let overflow = if drops { Overflow::DropOldest } else { Overflow::RefuseNew };
        let policy = HandshakePolicy { anonymous_allowed: true, overflow, ..HandshakePolicy::default() };
        let mut handshake = Handshake::new(Arc::clone(&self.limits), policy, "assigned".to_owned()).proven();
        let Some(client) = self.links.get(&id).map(|link| link.client) else { return Ok(()) };
        let (identity, rights_as_of) = self.identity(client);
        handshake.handle(packet);
        let step = handshake.verdict(Verdict::Allow { identity, data: Vec::new() });
        let (Step::Accept(mut request), Packet::Connect(connect)) = (step, packet) else {
            self.oracle.breach(Rule::Connection, format!("not accepted: {packet:?}"));
            return Err(Over);
        };
        request.rights_as_of = rights_as_of;
        let core = self.home(client);
        let connection = self.input(core, |shard, now| shard.open(now, *request));
        self.links.get_mut(&id).into_iter().for_each(|link| link.connection = Some(connection));
        self.by_connection.insert((core, connection), id);
        let will = connect.will.as_ref().and_then(|will| {
            let topic = self.clients[client].means(will.topic.to_owned(), will.payload, self.oracle.registry());
            let message = self.oracle.registry().recognise(&topic, will.payload).ok().flatten()?;
            Some(WillModel { message, delay_seconds: will.delay_interval_seconds.unwrap_or(0) })
        });
        let expiry_seconds = match (connect.version, connect.clean_start) {
            (ProtocolVersion::V5, _) => connect.properties.session_expiry_interval_seconds.unwrap_or(0),
            (_, true) => 0,
            (_, false) => self.limits.session_expiry_v3_seconds,
        };
        let asked = Asked {
            client,
            version: connect.version,
            clean: connect.clean_start,
            expiry_seconds,
            keep_alive_seconds: connect.keep_alive_seconds,
            will,
        };
        self.note("-> CONNECT link client expiry", [u64::from(id), client as u64, u64::from(expiry_seconds)]);
        self.oracle.open(self.now, id, asked);
        if let Some(vehicle) = self.clients[client].vehicle {
            let groups = self.grouped.last().map_or(0, |groups| groups[vehicle]);
            self.oracle.regroup(self.now, client, groups);
        }
        // Which session it is, CONNACK says.
        let observed = self.observe();
        let epoch = self.oracle.epoch_of(client);
        self.links.get_mut(&id).into_iter().for_each(|link| link.epoch = epoch);
        observed
    }

    fn handle(
        &mut self,
        id: LinkId,
        (core, connection): (usize, ConnectionId),
        packet: &Packet<'_>,
    ) -> Result<(), Over> {
        let refusals = |shard: &Shard| {
            let counters = shard.counters();
            counters.publish_refused_queue_full + counters.publish_refused_retained_full
        };
        let before = refusals(self.shard(core));
        self.input(core, |shard, now| shard.handle(now, connection, packet));
        let refused = refusals(self.shard(core)) != before;
        let Some(client) = self.links.get(&id).map(|link| link.client) else { return Ok(()) };
        let topic = match packet {
            Packet::Publish(publish) => {
                self.clients[client].means(publish.topic.to_owned(), publish.payload, self.oracle.registry())
            }
            _ => String::new(),
        };
        let numbers = numbers(id, packet, self.oracle.registry(), &topic);
        self.note(name(packet, true), numbers);
        let now = self.now;
        if self.oracle.heard(now, id).is_none() {
            return self.observe();
        }
        match packet {
            Packet::Publish(publish) => {
                let message = match self.oracle.registry().recognise(&topic, publish.payload) {
                    Ok(Some(message)) => message,
                    Ok(None) | Err(_) => Registry::clearing(TOPICS.iter().position(|one| *one == topic).unwrap_or(0)),
                };
                let packet_id = publish.packet_id.map_or(0, |packet_id| packet_id.get());
                self.oracle.publish(now, id, message, packet_id, refused);
            }
            Packet::PubAck(ack) => self.oracle.puback(now, id, ack.packet_id.get()),
            Packet::PubRec(ack) => self.oracle.pubrec(id, ack.packet_id.get()),
            Packet::PubRel(ack) => self.oracle.pubrel(id, ack.packet_id.get()),
            Packet::PubComp(ack) => self.oracle.pubcomp(now, id, ack.packet_id.get()),
            Packet::Subscribe(subscribe) => {
                let wanted = subscribe.filters.iter().flat_map(|(filter, options)| {
                    let sub = Sub {
                        qos: options.qos,
                        no_local: options.no_local,
                        retain_as_published: options.retain_as_published,
                        identifier: subscribe.subscription_identifier.unwrap_or(0),
                        follows: false,
                        unretained: options.retain_handling == RetainHandling::Never,
                    };
                    self.meant(client, filter).into_iter().enumerate().map(move |(at, filter)| Wanted {
                        filter,
                        sub: Sub { follows: at > 0, ..sub },
                        handling: options.retain_handling,
                    })
                });
                let wanted: Vec<Wanted> = wanted.collect();
                self.oracle.subscribe(now, id, subscribe.packet_id.get(), &wanted);
            }
            Packet::Unsubscribe(unsubscribe) => {
                let filters: Vec<usize> =
                    unsubscribe.filters.iter().flat_map(|filter| self.meant(client, filter)).collect();
                self.oracle.unsubscribe(id, unsubscribe.packet_id.get(), &filters);
            }
            Packet::Disconnect(disconnect) => {
                let with_will = disconnect.reason != causeway_protocol::ReasonCode::Success;
                self.oracle.disconnect(now, id, disconnect.session_expiry_interval_seconds, with_will);
            }
            _ => {}
        }
        self.observe()
    }

    /// All full filters that a client's is for, its own first.
    fn meant(&self, client: ClientIndex, filter: &str) -> Vec<usize> {
        let Some(vehicle) = self.clients[client].vehicle else { return vec![filter_number(filter)] };
        let groups = self.grouped.last().map_or(0, |groups| groups[vehicle]);
        let own = filter_said(vehicle, filter);
        [own].into_iter().chain(follows(own, groups)).collect()
    }

    /// The broker's end of a link is gone.
    fn close(&mut self, id: LinkId) -> Result<(), Over> {
        let Some(slot) = self.links.get(&id).map(|link| link.client as u64) else { return Ok(()) };
        self.at(slot)?;
        let core = self.home(slot as usize);
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.broker_left = true;
        link.is_cut = true;
        link.arrived.clear();
        link.up.clear();
        if let Some(connection) = link.connection.take() {
            self.note("broker closes link", [u64::from(id), 0, 0]);
            self.input(core, |shard, now| shard.closed(now, connection, "gone"));
            self.by_connection.remove(&(core, connection));
            self.oracle.closed(self.now, id);
            self.observe()?;
        }
        self.forget_link(id);
        Ok(())
    }

    fn forget_link(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| link.broker_left && link.client_left) {
            self.links.remove(&id);
        }
    }
}

/// All bytes of an outbox.
pub(crate) fn gather(outbox: causeway_core::OutboxRef<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut slices = [IoSlice::new(&[]); 512];
    let used = outbox.chunks(&mut slices);
    slices[..used].iter().for_each(|slice| bytes.extend_from_slice(slice));
    bytes
}

fn filter_number(filter: &str) -> usize {
    FILTERS.iter().position(|one| *one == filter).unwrap_or(0)
}

/// What a packet is called in a trace.
fn name(packet: &Packet<'_>, from_client: bool) -> &'static str {
    match (packet, from_client) {
        (Packet::Publish(publish), true) => match publish.qos {
            QoS::AtMostOnce => "-> PUBLISH 0",
            QoS::AtLeastOnce => "-> PUBLISH 1",
            QoS::ExactlyOnce => "-> PUBLISH 2",
        },
        (Packet::Publish(publish), false) => match publish.qos {
            QoS::AtMostOnce => "<- PUBLISH 0",
            QoS::AtLeastOnce => "<- PUBLISH 1",
            QoS::ExactlyOnce => "<- PUBLISH 2",
        },
        (Packet::PubAck(_), true) => "-> PUBACK",
        (Packet::PubAck(_), false) => "<- PUBACK",
        (Packet::PubRec(_), true) => "-> PUBREC",
        (Packet::PubRec(_), false) => "<- PUBREC",
        (Packet::PubRel(_), true) => "-> PUBREL",
        (Packet::PubRel(_), false) => "<- PUBREL",
        (Packet::PubComp(_), true) => "-> PUBCOMP",
        (Packet::PubComp(_), false) => "<- PUBCOMP",
        (Packet::Subscribe(_), _) => "-> SUBSCRIBE",
        (Packet::Unsubscribe(_), _) => "-> UNSUBSCRIBE",
        (Packet::SubAck(_), _) => "<- SUBACK",
        (Packet::UnsubAck(_), _) => "<- UNSUBACK",
        (Packet::ConnAck(_), _) => "<- CONNACK",
        (Packet::Disconnect(_), true) => "-> DISCONNECT",
        (Packet::Disconnect(_), false) => "<- DISCONNECT",
        _ => "other packet",
    }
}

/// Link, packet identifier and what else names the packet.
fn numbers(id: LinkId, packet: &Packet<'_>, registry: &Registry, topic: &str) -> [u64; 3] {
    let (packet_id, what) = match packet {
        Packet::Publish(publish) => {
            let message = registry.recognise(topic, publish.payload).ok().flatten();
            (publish.packet_id.map_or(0, |id| id.get()), message.map_or(u64::MAX, u64::from))
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            (ack.packet_id.get(), ack.reason as u64)
        }
        Packet::Subscribe(subscribe) => {
            (subscribe.packet_id.get(), subscribe.filters.first().map_or(0, |(filter, _)| filter_number(filter) as u64))
        }
        Packet::Unsubscribe(one) => {
            (one.packet_id.get(), one.filters.first().map_or(0, |filter| filter_number(filter) as u64))
        }
        Packet::ConnAck(connack) => (0, u64::from(connack.session_present)),
        _ => (0, 0),
    };
    [u64::from(id), u64::from(packet_id), what]
}
