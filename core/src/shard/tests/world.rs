//! A shard, its clock and its clients, for the tables of the other tests.
//!
//! Packets in both directions go through the codec, so what is asserted is what a client would see. Outgoing packets
//! become short words: `pub q1 p3 dup a/b=hello`, `puback p3`, `disconnect 0x8E`.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::BytesMut;
use causeway_protocol::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode,
    Subscribe, SubscriptionOptions, Unsubscribe, Will, decode, encode, frame,
};

use crate::{
    Change, ConnectionId, Effect, Handshake, HandshakePolicy, Identity, Limits, Lsn, Millis, Notice, Overflow,
    Principal, Shard, Step, Verdict,
};

pub(super) struct World {
    pub(super) shard: Shard,
    pub(super) now: Millis,
    /// Whether records become durable as soon as they are appended.
    pub(super) durable_at_once: bool,
    limits: Arc<Limits>,
    /// All records that are durable.
    records: Vec<(Lsn, Vec<u8>)>,
    /// Whether bodies are read from the log and the state is folded.
    on_disk: bool,
    /// The folded state, and the records it is made of: from which a replay goes on, and through which it may know.
    folded: BTreeMap<Vec<u8>, Vec<u8>>,
    mark: (Lsn, Lsn),
    /// A fold under way.
    changes: Vec<Change>,
    /// What the listener does with full queues.
    pub(super) overflow: Overflow,
    /// How many notices were told.
    pub(super) notices: u64,
}

/// The connection of a client that is refused before it has one.
const NOBODY: ConnectionId = ConnectionId { index: u32::MAX, generation: 0 };

/// A client and what it speaks.
#[derive(Clone, Copy)]
pub(super) struct Client {
    pub(super) id: ConnectionId,
    pub(super) version: ProtocolVersion,
}

pub(super) fn connect(client_id: &str) -> Connect<'_> {
    Connect {
        version: ProtocolVersion::V5,
        clean_start: true,
        keep_alive_seconds: 60,
        client_id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A 5.0 client that resumes and whose session lasts an hour.
pub(super) fn persistent(client_id: &str) -> Connect<'_> {
    let properties = ConnectProperties { session_expiry_interval_seconds: Some(3600), ..Default::default() };
    Connect { clean_start: false, properties, ..connect(client_id) }
}

pub(super) fn with_will<'a>(mut connect: Connect<'a>, topic: &'a str, delay_seconds: u32) -> Connect<'a> {
    connect.will = Some(Will {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
        payload: b"gone",
        delay_interval_seconds: Some(delay_seconds),
        message_expiry_interval_seconds: None,
        forwarded: Default::default(),
    });
    connect
}

pub(super) fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

pub(super) fn publish<'a>(qos: u8, id: u16, topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish {
        qos: QoS::from_bits(qos).unwrap(),
        packet_id: PacketId::new(id),
        topic,
        payload: payload.as_bytes(),
        ..Publish::default()
    }
}

pub(super) fn options(qos: u8) -> SubscriptionOptions {
    SubscriptionOptions { qos: QoS::from_bits(qos).unwrap(), ..Default::default() }
}

impl World {
    pub(super) fn new() -> World {
        World::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Limits)) -> World {
        let mut limits = Limits { sys_interval_seconds: 0, ..Limits::default() };
        change(&mut limits);
        let limits = Arc::new(limits);
        let now = Millis(1_000_000);
        let shard = Shard::new(now, Arc::clone(&limits), "test", 42);
        World {
            shard,
            now,
            durable_at_once: true,
            limits,
            records: Vec::new(),
            on_disk: false,
            folded: BTreeMap::new(),
            mark: (Lsn(0), Lsn(0)),
            changes: Vec::new(),
            overflow: Overflow::RefuseNew,
            notices: 0,
        }
    }

    /// Bodies are read from the log from now on, and the state can be folded.
    pub(super) fn on_disk(mut self) -> World {
        self.on_disk = true;
        self.shard.read_bodies_from_log();
        self
    }

    /// Goes on with a fold, or begins one; commits it at its end if `commits`.
    pub(super) fn fold(&mut self, work: usize, commits: bool) {
        if !self.on_disk {
            return;
        }
        self.shard.begin_checkpoint();
        let Some(end) = self.shard.poll_checkpoint(work, &mut self.changes) else { return };
        self.sync();
        let changes = std::mem::take(&mut self.changes);
        self.shard.checkpoint_ended(commits);
        if !commits {
            return;
        }
        for change in changes {
            match change {
                Change::RemoveRange { from, to, entries_max } => {
                    let keys: Vec<_> =
                        self.folded.range(from..to).take(entries_max).map(|(key, _)| key.clone()).collect();
                    keys.iter().for_each(|key| drop(self.folded.remove(key)));
                }
                Change::Put { key, value } => drop(self.folded.insert(key, value)),
                Change::Remove { key } => drop(self.folded.remove(&key)),
                Change::RemoveBody(_) => {}
            }
        }
        self.mark = (end.applied, end.through);
    }

    /// The folded state.
    pub(super) fn entries(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.folded.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// How many records are durable.
    pub(super) fn record_count(&self) -> usize {
        self.records.len()
    }

    /// The log ends behind so many records: the rest was torn. Restart before anything else.
    pub(super) fn cut(&mut self, records: usize) {
        self.records.truncate(records);
    }

    /// Answers what the shard asked of its log.
    pub(super) fn fetch_bodies(&mut self) {
        self.fetch();
    }

    fn fetch(&mut self) {
        while let Some(lsn) = self.shard.poll_fetch() {
            let record = self.records.iter().find(|(at, _)| *at == lsn).map(|(_, record)| record.clone());
            assert!(record.is_some(), "asked for {lsn:?}, which is not durable");
            self.shard.fetched(self.now, lsn, record.as_deref());
        }
    }

    /// Connects and swallows the CONNACK.
    pub(super) fn join(&mut self, connect: Connect<'_>) -> Client {
        let (client, said) = self.dial(connect);
        assert!(said.first().is_some_and(|word| word.starts_with("connack 0x00")), "{said:?}");
        client
    }

    /// Connects, and says all the client got.
    pub(super) fn dial(&mut self, connect: Connect<'_>) -> (Client, Vec<String>) {
        self.dial_as(connect, Principal::Anonymous)
    }

    /// Likewise, as somebody whom the transport has proven.
    pub(super) fn dial_as(&mut self, connect: Connect<'_>, who: impl Into<Identity>) -> (Client, Vec<String>) {
        let numbers = self.notices;
        self.dial_late(connect, who, numbers)
    }

    /// Likewise, with what the client is sent left to be taken.
    pub(super) fn dial_silently(&mut self, connect: Connect<'_>, who: impl Into<Identity>) -> Client {
        let notices = self.notices;
        self.accept(connect, who, notices).unwrap_or_else(|said| panic!("{said:?}"))
    }

    /// Likewise, proven when so many notices had been told.
    pub(super) fn dial_late(
        &mut self,
        connect: Connect<'_>,
        who: impl Into<Identity>,
        notices: u64,
    ) -> (Client, Vec<String>) {
        let version = connect.version;
        match self.accept(connect, who, notices) {
            Ok(client) => (client, self.heard(client)),
            Err(said) => (Client { id: NOBODY, version }, said),
        }
    }

    /// The connection of a client, or what one that has none was told.
    fn accept(&mut self, connect: Connect<'_>, who: impl Into<Identity>, notices: u64) -> Result<Client, Vec<String>> {
        let version = connect.version;
        let policy = HandshakePolicy {
            anonymous_allowed: true,
            password_allowed: true,
            methods: Vec::new(),
            vehicle_ids_reserved: true,
            overflow: self.overflow,
        };
        let mut handshake = Handshake::new(Arc::clone(&self.limits), policy, "assigned".to_owned()).proven();
        let step = match handshake.handle(&Packet::Connect(Box::new(connect))) {
            Step::Confirm { .. } => handshake.verdict(Verdict::Allow { identity: who.into(), data: Vec::new() }),
            step => step,
        };
        let mut request = match step {
            Step::Accept(request) => request,
            Step::Refuse { bytes, .. } => return Err(words(&bytes, version)),
            step => panic!("not accepted: {step:?}"),
        };
        request.rights_as_of = notices;
        let client = Client { id: self.shard.open(self.now, *request), version };
        self.settle();
        Ok(client)
    }

    /// Tells the shard.
    pub(super) fn notice(&mut self, notice: Notice) {
        self.notices += 1;
        self.shard.notice(self.now, self.notices, notice);
        self.settle();
    }

    /// Sends a packet through the codec.
    pub(super) fn send(&mut self, client: Client, packet: Packet<'_>) {
        let mut bytes = BytesMut::new();
        encode(&packet, client.version, &mut bytes).unwrap();
        let head = frame(&bytes, u32::MAX).unwrap().unwrap();
        let packet = decode(&head, &bytes[head.header_bytes..], client.version).unwrap();
        self.shard.handle(self.now, client.id, &packet);
        self.settle();
    }

    pub(super) fn publish(&mut self, client: Client, publish: Publish<'_>) {
        self.send(client, Packet::Publish(publish));
    }

    pub(super) fn subscribe(&mut self, client: Client, filter: &str, options: SubscriptionOptions) {
        self.subscribe_with(client, filter, options, None);
    }

    pub(super) fn subscribe_with(
        &mut self,
        client: Client,
        filter: &str,
        options: SubscriptionOptions,
        identifier: Option<u32>,
    ) {
        let subscribe = Subscribe {
            packet_id: packet_id(900),
            subscription_identifier: identifier,
            user_properties: Vec::new(),
            filters: vec![(filter, options)],
        };
        self.send(client, Packet::Subscribe(subscribe));
    }

    pub(super) fn unsubscribe(&mut self, client: Client, filter: &str) {
        let filters = vec![filter];
        self.send(
            client,
            Packet::Unsubscribe(Unsubscribe { packet_id: packet_id(901), user_properties: Vec::new(), filters }),
        );
    }

    pub(super) fn puback(&mut self, client: Client, id: u16) {
        self.send(client, Packet::PubAck(Ack::new(packet_id(id), ReasonCode::Success)));
    }

    pub(super) fn disconnect(&mut self, client: Client) {
        self.send(client, Packet::Disconnect(Disconnect::default()));
        self.hang_up(client);
    }

    /// The network fails.
    pub(super) fn hang_up(&mut self, client: Client) {
        self.shard.closed(self.now, client.id, "test");
        self.settle();
    }

    pub(super) fn wait(&mut self, milliseconds: u64) {
        let end = Millis(self.now.0 + milliseconds);
        while let Some(due) = self.shard.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.shard.tick(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// What the log does after a turn, where it is quick.
    pub(super) fn settle(&mut self) {
        if self.durable_at_once {
            self.sync();
        }
    }

    /// Makes all records durable.
    pub(super) fn sync(&mut self) {
        while let Some(group) = self.shard.take_group() {
            for (at, record) in group.iter().enumerate() {
                self.records.push((Lsn(group.first().0 + at as u64), record.to_vec()));
            }
            self.shard.persisted(self.now, group.last());
        }
        self.shard.persisted(self.now, Lsn(0));
        self.fetch();
    }

    /// The power fails: what is not durable is gone, and so are all connections.
    pub(super) fn restart(&mut self) {
        self.shard = Shard::new(self.now, Arc::clone(&self.limits), "test", 43);
        self.changes.clear();
        if self.on_disk {
            self.shard.read_bodies_from_log();
            for (key, value) in &self.folded {
                self.shard.restore(key, value).unwrap();
            }
            self.shard.restored(self.mark.0, self.mark.1);
        }
        for (at, record) in self.records.iter().filter(|(at, _)| *at > self.mark.0) {
            self.shard.replay(*at, record).unwrap();
        }
        self.shard.recovered(self.now);
        self.shard.tick(self.now);
        self.settle();
    }

    /// What waits for a connection, as bytes.
    pub(super) fn taken(&mut self, id: ConnectionId) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(mut outbox) = self.shard.outbox(id).filter(|outbox| !outbox.is_empty()) else { return bytes };
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let used = outbox.chunks(&mut slices);
            let begin = bytes.len();
            slices[..used].iter().for_each(|slice| bytes.extend_from_slice(slice));
            let count = bytes.len() - begin;
            outbox.advance(count);
        }
        self.shard.flushed(self.now, id);
        bytes
    }

    /// What the client received since it was last asked, as words.
    pub(super) fn heard(&mut self, client: Client) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            self.fetch();
            let bytes = self.taken(client.id);
            if bytes.is_empty() {
                return said;
            }
            said.extend(words(&bytes, client.version));
        }
    }

    /// The closes the shard asked for.
    pub(super) fn closes(&mut self) -> Vec<ConnectionId> {
        let effects = std::iter::from_fn(|| self.shard.poll_effect());
        effects
            .filter_map(|effect| match effect {
                Effect::Close { connection } => Some(connection),
                Effect::Event(_)
                | Effect::Reauthenticate { .. }
                | Effect::Answer { .. }
                | Effect::GroupCommand(_)
                | Effect::Twin(_) => None,
            })
            .collect()
    }
}

/// ` p3` for the third identifier of a session's queue, ` l3` for the third loose one.
fn number(id: PacketId) -> String {
    match id.get() {
        own @ ..=32_767 => format!(" p{own}"),
        loose => format!(" l{}", loose - 32_767),
    }
}

/// The n-th loose identifier.
pub(super) fn loose(number: u16) -> u16 {
    32_767 + number
}

fn words(mut bytes: &[u8], version: ProtocolVersion) -> Vec<String> {
    let mut said = Vec::new();
    while !bytes.is_empty() {
        let head = frame(bytes, u32::MAX).unwrap().expect("whole packets");
        let (packet, rest) = bytes.split_at(head.total_bytes());
        said.push(word(&decode(&head, &packet[head.header_bytes..], version).unwrap()));
        bytes = rest;
    }
    said
}

fn word(packet: &Packet<'_>) -> String {
    let ack = |name: &str, ack: &Ack<'_>| match ack.reason {
        ReasonCode::Success => format!("{name}{}", number(ack.packet_id)),
        reason => format!("{name}{} 0x{:02X}", number(ack.packet_id), reason as u8),
    };
    match packet {
        Packet::ConnAck(connack) => {
            let present = if connack.session_present { " present" } else { "" };
            format!("connack 0x{:02X}{present}", connack.reason as u8)
        }
        Packet::Publish(publish) => {
            let mut word = format!("pub q{}", publish.qos as u8);
            if let Some(id) = publish.packet_id {
                word += &number(id);
            }
            word += if publish.dup { " dup" } else { "" };
            word += if publish.retain { " retain" } else { "" };
            for identifier in &publish.properties.subscription_identifiers {
                word += &format!(" s{identifier}");
            }
            if let Some(seconds) = publish.properties.message_expiry_interval_seconds {
                word += &format!(" e{seconds}");
            }
            if let Some(alias) = publish.properties.topic_alias {
                word += &format!(" a{alias}");
            }
            if let Some(topic) = publish.properties.forwarded.response_topic() {
                word += &format!(" r:{topic}");
            }
            format!("{word} {}={}", publish.topic, String::from_utf8_lossy(publish.payload))
        }
        Packet::PubAck(packet) => ack("puback", packet),
        Packet::PubRec(packet) => ack("pubrec", packet),
        Packet::PubRel(packet) => ack("pubrel", packet),
        Packet::PubComp(packet) => ack("pubcomp", packet),
        Packet::SubAck(suback) => {
            let reasons: Vec<String> = suback.reasons.iter().map(|reason| format!("{:02X}", *reason as u8)).collect();
            format!("suback {}", reasons.join(","))
        }
        Packet::UnsubAck(unsuback) => {
            let reasons: Vec<String> = unsuback.reasons.iter().map(|reason| format!("{:02X}", *reason as u8)).collect();
            format!("unsuback {}", reasons.join(","))
        }
        Packet::Disconnect(disconnect) => format!("disconnect 0x{:02X}", disconnect.reason as u8),
        Packet::PingResp => "pingresp".to_owned(),
        other => format!("{other:?}"),
    }
}
