//! What dies with the network connection.
//!
//! Owns the outbox, flow control in both directions, topic aliases, keep alive and the will, and the encoding of a
//! delivery for the version its client speaks. It never knows what is in the session beyond its key.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use causeway_fleet::policy::{Rights, Subject};
use causeway_fleet::{Identity, Mount, Principal, mount};
use causeway_protocol::{
    ForwardedProperties, Packet, PacketId, ProtocolVersion, PublishHead, QoS, encode, encode_publish_head,
};
use foldhash::fast::FixedState;

use crate::commons::{Commons, Span};
use crate::message::Message;
use crate::outbox::{HIGH_BYTES, LINK_BYTES_MAX, LINK_HIGH_BYTES, Outbox, SHARE_BYTES_MIN};
use crate::provenance::{Provenance, Stamps};
use crate::record::WillRecord;
use crate::session::SessionKey;
use crate::{Limits, Millis};

/// Names a connection for as long as it lives; never reused, though its index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ConnectionId {
    /// A dense index, reused after [`crate::Shard::closed`].
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// The will of a connection.
#[derive(Debug)]
pub(crate) struct KeptWill {
    pub(crate) message: Message,
    pub(crate) delay_seconds: u32,
    pub(crate) expiry_seconds: Option<u32>,
}

impl KeptWill {
    /// As a record.
    pub(crate) fn as_record(&self) -> WillRecord<'_> {
        WillRecord {
            qos: self.message.qos,
            retain: self.message.retain,
            delay_seconds: self.delay_seconds,
            expiry_seconds: self.expiry_seconds,
            topic: &self.message.topic,
            forwarded: self.message.forwarded(),
            payload: &self.message.payload,
        }
    }

    /// The will of a record.
    pub(crate) fn of_record(will: &WillRecord<'_>) -> KeptWill {
        KeptWill {
            message: Message::of_will_record(will),
            delay_seconds: will.delay_seconds,
            expiry_seconds: will.expiry_seconds,
        }
    }
}

/// What a delivery's payload is taken from.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    Borrowed(&'a [u8]),
    Shared(&'a Bytes),
}

impl Payload<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::Borrowed(payload) => payload.len(),
            Payload::Shared(payload) => payload.len(),
        }
    }
}

/// One PUBLISH to write; `topic_alias` is the connection's to choose, and a vehicle is told its own names.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) dup: bool,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) topic: &'a str,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) expires_at: Option<Millis>,
    pub(crate) identifiers: &'a [u32],
    /// Where the message comes from, and that as this client is told: empty until it is known who the client is.
    pub(crate) provenance: Option<&'a Provenance>,
    pub(crate) stamps: &'a [u8],
    pub(crate) forwarded: ForwardedProperties<'a>,
    pub(crate) payload: Payload<'a>,
}

impl Outgoing<'_> {
    /// In the words of a vehicle. `room` is for properties that are not those of others.
    fn mounted<'a>(&'a self, mount: Mount, room: &'a mut Vec<u8>) -> Outgoing<'a> {
        let mut forwarded = self.forwarded;
        if let Some(topic) = response_of(mount, &self.forwarded)
            && self.forwarded.append_with_response_topic(topic, room).is_ok()
        {
            forwarded = ForwardedProperties::from_forwarded_bytes(room).unwrap_or(forwarded);
        }
        Outgoing { topic: mount::received(self.topic), forwarded, ..*self }
    }
}

/// The Response Topic, where it is the vehicle's own: as the vehicle would say it.
fn response_of<'a>(mount: Mount, forwarded: &ForwardedProperties<'a>) -> Option<&'a str> {
    let topic = if forwarded.is_empty() { None } else { forwarded.response_topic() };
    topic.and_then(|topic| mount.response(topic))
}

/// In whose words a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// As it was published, and nothing else.
    Plain,
    /// With the vehicle's own names.
    Vehicle,
    /// With where it comes from.
    Backend,
    /// Likewise, for another shard.
    Shard,
}

/// The packet is larger than the client accepts.
#[derive(Debug)]
pub(crate) struct TooLarge;

/// See the module.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) version: ProtocolVersion,
    pub(crate) client_id: Arc<str>,
    pub(crate) identity: Identity,
    /// The roles of the identity.
    pub(crate) rights: Rights,
    /// Whether each delivery is looked at: not all that its subscriptions bring may be received.
    pub(crate) checks_deliveries: bool,
    /// `None` once the connection lost its session: it only waits for its socket to close.
    pub(crate) session: Option<SessionKey>,
    pub(crate) outbox: Outbox,
    /// Whether nothing may leave the outbox yet: its CONNACK waits for the log, and all else behind it.
    pub(crate) corked: bool,
    /// Whether it is not listened to until a fold ends: it changes shadows faster than those are folded.
    pub(crate) awaits_fold: bool,
    /// Whether it stands in the list of connections to flush.
    pub(crate) dirty: bool,
    /// One and a half keep alives; 0 means no timeout.
    pub(crate) silence_max_milliseconds: u32,
    pub(crate) last_received: Millis,
    /// When the silence is looked at next.
    pub(crate) keep_alive_check: Millis,
    pub(crate) will: Option<Box<KeptWill>>,
    /// Receive Maximum of the client, within our own bound.
    pub(crate) window: u16,
    /// QoS 1 and 2 messages sent on this connection and not yet acknowledged.
    pub(crate) unacknowledged: u16,
    /// Maximum Packet Size of the client.
    pub(crate) packet_bytes_max: u32,
    pub(crate) aliases_in: Vec<Option<Arc<str>>>,
    /// There where the client takes aliases.
    aliases_out: Option<Box<AliasesOut>>,
    pub(crate) problem_information: bool,
    pub(crate) authentication_method: Option<String>,
    /// Between AUTH 0x19 and its outcome.
    pub(crate) reauthenticating: bool,
    pub(crate) session_expiry_at_connect: u32,
    /// Publishes received whose acknowledgement waits for the log.
    pub(crate) withheld: u32,
    /// Those of them that wait for PUBACK; those of QoS 2 stand in the session.
    pub(crate) withheld_pubacks: u32,
    /// QoS 2 publishes received on this connection and not yet released.
    pub(crate) unreleased: u32,
    /// The second in which refusals were last told, and how many.
    refusals_told: (u32, u8),
}

/// Topic aliases towards the client: the first topics get them, for as long as the connection lives.
#[derive(Debug)]
struct AliasesOut {
    max: u16,
    by_topic: HashMap<Box<str>, NonZeroU16, FixedState>,
}

impl AliasesOut {
    /// `None` where the client takes none.
    fn new(max: u16, hash_seed: u64) -> Option<Box<AliasesOut>> {
        let by_topic = || HashMap::with_hasher(FixedState::with_seed(hash_seed));
        (max > 0).then(|| Box::new(AliasesOut { max, by_topic: by_topic() }))
    }

    /// The alias of the topic, and whether the client already knows it.
    fn choose(&self, topic: &str) -> Option<(NonZeroU16, bool)> {
        if let Some(&alias) = self.by_topic.get(topic) {
            return Some((alias, true));
        }
        let next = u16::try_from(self.by_topic.len() + 1).ok().filter(|next| *next <= self.max)?;
        NonZeroU16::new(next).map(|alias| (alias, false))
    }
}

/// What [`Connection::new`] needs beside the request's identity.
pub(crate) struct ConnectionTerms {
    pub(crate) rights: Rights,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) window: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) alias_outbound_max: u16,
    pub(crate) problem_information: bool,
    pub(crate) session_expiry_seconds: u32,
    pub(crate) authentication_method: Option<String>,
    pub(crate) will: Option<Box<KeptWill>>,
    pub(crate) hash_seed: u64,
}

impl Connection {
    pub(crate) fn new(
        now: Millis,
        id: ConnectionId,
        version: ProtocolVersion,
        client_id: Arc<str>,
        identity: Identity,
        terms: ConnectionTerms,
    ) -> Self {
        Connection {
            id,
            version,
            client_id,
            identity,
            rights: terms.rights,
            checks_deliveries: false,
            session: None,
            outbox: Outbox::default(),
            corked: false,
            awaits_fold: false,
            dirty: false,
            silence_max_milliseconds: u32::from(terms.keep_alive_seconds) * 1500,
            last_received: now,
            keep_alive_check: now,
            will: terms.will,
            window: terms.window,
            unacknowledged: 0,
            packet_bytes_max: terms.packet_bytes_max,
            aliases_in: Vec::new(),
            aliases_out: AliasesOut::new(terms.alias_outbound_max, terms.hash_seed),
            problem_information: terms.problem_information,
            authentication_method: terms.authentication_method,
            reauthenticating: false,
            session_expiry_at_connect: terms.session_expiry_seconds,
            withheld: 0,
            withheld_pubacks: 0,
            unreleased: 0,
            refusals_told: (0, 0),
        }
    }

    /// Whether QoS 1 and 2 messages may be sent at this moment.
    pub(crate) fn has_window(&self) -> bool {
        let bytes = self.outbox.bytes();
        self.unacknowledged < self.window && (bytes < HIGH_BYTES || bytes < self.high_bytes())
    }

    /// Whether one more message of QoS 0 may be written: beyond the bound, those are dropped.
    pub(crate) fn takes_more(&self, limits: &Limits) -> bool {
        self.outbox.bytes() <= if self.is_link() { LINK_BYTES_MAX } else { limits.outbox_bytes_max }
    }

    /// Who asks, when it is decided what the client may do.
    #[inline]
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { principal: &self.identity.principal, groups: &self.identity.groups, rights: &self.rights }
    }

    /// Whether it leads to another shard.
    pub(crate) fn is_link(&self) -> bool {
        matches!(self.identity.principal, Principal::Shard(_))
    }

    /// With so much to write, nothing is added from the queue. To another shard goes what many clients' outboxes would hold.
    fn high_bytes(&self) -> usize {
        if self.is_link() { LINK_HIGH_BYTES } else { HIGH_BYTES }
    }

    /// Whether one more refusal gets a line in the log: a client that is refused all the time must not drown it.
    pub(crate) fn tells_refusal(&mut self, now: Millis) -> bool {
        const PER_SECOND: u8 = 10;
        // Of the second, so much is enough to tell it from the one before.
        let second = (now.0 / 1000) as u32;
        let told = if self.refusals_told.0 == second { self.refusals_told.1 } else { 0 };
        self.refusals_told = (second, told.saturating_add(1));
        told < PER_SECOND
    }

    /// Writes a packet other than PUBLISH. One that is larger than the client accepts loses its reason string and user
    /// properties first.
    pub(crate) fn write(&mut self, packet: Packet<'_>) {
        encode_within(packet, self.version, self.packet_bytes_max as usize, self.outbox.tail());
    }

    /// A packet as [`Connection::write`] would write it.
    pub(crate) fn encoded(&self, packet: Packet<'_>) -> Bytes {
        let mut bytes = BytesMut::new();
        encode_within(packet, self.version, self.packet_bytes_max as usize, &mut bytes);
        bytes.freeze()
    }

    /// Writes what [`Connection::encoded`] made.
    pub(crate) fn write_encoded(&mut self, bytes: &[u8]) {
        self.outbox.tail().extend_from_slice(bytes);
    }

    /// Whether a PUBLISH is within the client's Maximum Packet Size, if it had to go without a topic alias.
    pub(crate) fn accepts(&self, now: Millis, outgoing: &Outgoing<'_>) -> bool {
        if self.packet_bytes_max == u32::MAX {
            return true;
        }
        let (mut room, stamps) = (Vec::new(), self.stamps(outgoing).unwrap_or_default());
        let outgoing = match self.mount() {
            Some(mount) => outgoing.mounted(mount, &mut room),
            None => Outgoing { stamps: &stamps, ..*outgoing },
        };
        self.head(now, &outgoing, None).packet_bytes(self.version) <= self.packet_bytes_max as usize
    }

    /// Where the client's topics are, if it is a vehicle.
    #[inline]
    pub(crate) fn mount(&self) -> Option<Mount> {
        Mount::of(&self.identity.principal)
    }

    /// In whose words the client is spoken to.
    #[inline]
    pub(crate) fn words(&self) -> Words {
        match &self.identity.principal {
            Principal::Vehicle(_) => Words::Vehicle,
            Principal::Shard(_) => Words::Shard,
            // Before 5.0 there are no properties.
            Principal::Service(_) | Principal::Operator(_) if self.version == ProtocolVersion::V5 => Words::Backend,
            Principal::Service(_) | Principal::Operator(_) | Principal::Anonymous => Words::Plain,
        }
    }

    /// Where a message comes from, as this client is told, if it is.
    #[inline]
    fn stamps(&self, outgoing: &Outgoing<'_>) -> Option<Stamps> {
        match self.words() {
            Words::Plain | Words::Vehicle => None,
            Words::Backend => outgoing.provenance.map(Provenance::stamps),
            Words::Shard => outgoing.provenance.map(Provenance::for_link),
        }
    }

    fn head<'a>(&self, now: Millis, outgoing: &Outgoing<'a>, alias: Option<(NonZeroU16, bool)>) -> PublishHead<'a> {
        let known = alias.is_some_and(|(_, known)| known);
        PublishHead {
            dup: outgoing.dup,
            qos: outgoing.qos,
            retain: outgoing.retain,
            topic: if known { "" } else { outgoing.topic },
            packet_id: outgoing.packet_id,
            //= [MQTT-3.3.2-6] the interval sent is what is left of it
            message_expiry_interval_seconds: outgoing.expires_at.map(|at| now.seconds_until(at)),
            topic_alias: alias.map(|(alias, _)| alias),
            subscription_identifiers: outgoing.identifiers,
            stamps: outgoing.stamps,
            forwarded: outgoing.forwarded,
            payload_bytes: outgoing.payload.len(),
        }
    }

    /// Writes a PUBLISH, with a topic alias where the client allows one.
    pub(crate) fn write_publish(&mut self, now: Millis, outgoing: &Outgoing<'_>) -> Result<(), TooLarge> {
        if let Some(mount) = self.mount() {
            return self.write_as_named(now, &outgoing.mounted(mount, &mut Vec::new()));
        }
        match self.stamps(outgoing) {
            None => self.write_as_named(now, outgoing),
            Some(stamps) => self.write_as_named(now, &Outgoing { stamps: &stamps, ..*outgoing }),
        }
    }

    fn write_as_named(&mut self, now: Millis, outgoing: &Outgoing<'_>) -> Result<(), TooLarge> {
        let payload: &[u8] = match outgoing.payload {
            Payload::Borrowed(payload) => payload,
            Payload::Shared(payload) => payload,
        };
        let mut alias = self.aliases_out.as_ref().and_then(|aliases| aliases.choose(outgoing.topic));
        let mut head = self.head(now, outgoing, alias);
        if matches!(alias, Some((_, false))) && head.packet_bytes(self.version) > self.packet_bytes_max as usize {
            // A new alias costs three bytes before it saves any.
            alias = None;
            head = self.head(now, outgoing, alias);
        }
        //= [MQTT-3.1.2-25] a message that is too large counts as delivered
        if head.packet_bytes(self.version) > self.packet_bytes_max as usize {
            return Err(TooLarge);
        }
        let shared = match outgoing.payload {
            Payload::Shared(payload) if payload.len() >= SHARE_BYTES_MIN => Some(payload),
            _ => None,
        };
        let own_bytes = head.packet_bytes(self.version) - shared.map_or(0, Bytes::len);
        let tail = self.outbox.tail_with_room(own_bytes);
        encode_publish_head(&head, self.version, tail).map_err(|_| TooLarge)?;
        match shared {
            Some(payload) => self.outbox.push_shared(payload.clone()),
            None => tail.extend_from_slice(payload),
        }
        if let (Some((alias, false)), Some(aliases)) = (alias, &mut self.aliases_out) {
            aliases.by_topic.insert(outgoing.topic.into(), alias);
        }
        Ok(())
    }

    /// Whether others may get the same bytes as this client, and it does not get them later than they do.
    pub(crate) fn takes_common(&self, outgoing: &Outgoing<'_>) -> bool {
        !self.corked
            && self.aliases_out.is_none()
            && outgoing.identifiers.is_empty()
            && self.mount().is_none_or(|mount| response_of(mount, &outgoing.forwarded).is_none())
    }

    /// The PUBLISH as every client of this version, vehicle or not, gets it who takes what is common; to be given to this one at once.
    /// `None` where the commons have no room.
    pub(crate) fn common(
        &self,
        now: Millis,
        outgoing: &Outgoing<'_>,
        commons: &mut Commons,
    ) -> Option<Result<Span, TooLarge>> {
        let payload: &[u8] = match outgoing.payload {
            Payload::Borrowed(payload) => payload,
            Payload::Shared(payload) => payload,
        };
        let topic = if self.mount().is_some() { mount::received(outgoing.topic) } else { outgoing.topic };
        let stamps = self.stamps(outgoing).unwrap_or_default();
        let head = self.head(now, &Outgoing { topic, stamps: &stamps, ..*outgoing }, None);
        let bytes = head.packet_bytes(self.version);
        if bytes > self.packet_bytes_max as usize {
            return Some(Err(TooLarge));
        }
        let span = commons.write(bytes, |out| {
            if encode_publish_head(&head, self.version, out).is_ok() {
                out.extend_from_slice(payload);
            }
        });
        span.map(Ok)
    }

    /// Writes what [`Connection::common`] made, for this client or another.
    pub(crate) fn write_common(&mut self, span: Span, commons: &mut Commons) -> Result<(), TooLarge> {
        //= [MQTT-3.1.2-25] a message that is too large counts as delivered
        if span.len() > self.packet_bytes_max as usize {
            return Err(TooLarge);
        }
        self.outbox.push_common(span, commons);
        Ok(())
    }
}

/// Appends a packet of at most so many bytes. Too large a one loses what only explains; if that is not enough, nothing
/// is appended.
fn encode_within(packet: Packet<'_>, version: ProtocolVersion, bytes_max: usize, out: &mut BytesMut) {
    let start = out.len();
    if encode(&packet, version, out).is_ok() && out.len() - start <= bytes_max {
        return;
    }
    //= [MQTT-3.1.2-24] never a packet larger than the client's Maximum Packet Size
    //= [MQTT-3.2.2-19] [MQTT-3.4.2-2] [MQTT-3.9.2-1] the reason string goes first
    out.truncate(start);
    let plain = without_problem_information(packet);
    if encode(&plain, version, out).is_err() || out.len() - start > bytes_max {
        out.truncate(start);
    }
}

/// The same packet with nothing that only explains.
fn without_problem_information(mut packet: Packet<'_>) -> Packet<'_> {
    match &mut packet {
        Packet::ConnAck(packet) => {
            packet.properties.reason_string = None;
            packet.properties.user_properties.clear();
        }
        Packet::PubAck(packet) | Packet::PubRec(packet) | Packet::PubRel(packet) | Packet::PubComp(packet) => {
            packet.reason_string = None;
            packet.user_properties.clear();
        }
        Packet::SubAck(packet) => packet.reason_string = None,
        Packet::UnsubAck(packet) => packet.reason_string = None,
        Packet::Disconnect(packet) => packet.reason_string = None,
        Packet::Auth(packet) => packet.reason_string = None,
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::PingReq
        | Packet::PingResp => {}
    }
    packet
}
