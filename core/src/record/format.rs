//! The layout of a record.
//!
//! Owns encoding and decoding. A record says what happened with every choice already made, so that replaying it
//! decides nothing. Integers are big-endian; the first byte is the version of this layout, the second what happened.

use bytes::{BufMut, BytesMut};
use causeway_fleet::command::CommandId;
use causeway_fleet::shadow::Format;
use causeway_fleet::{Principal, Vin};
use causeway_protocol::{ForwardedProperties, PacketId, QoS};

use super::codec::{Reader, put_forwarded, put_identifiers, put_principal, put_text, put_time};
use super::command::{self, EndedRecord, RefusedRecord, RequestedRecord, RetriedRecord};
use crate::index::Subscription;
use crate::lane::{LaneName, LaneProgress};
use crate::provenance::Provenance;
use crate::queue::Expiry;
use crate::session::Identifiers;
use crate::{Lsn, Millis, Overflow};

/// The layout below. A log with another one is refused, never guessed at.
const VERSION: u8 = 2;

/// Why bytes of the log are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by another version of Causeway.
    #[error("record has layout {0}, and this program knows layout {VERSION}")]
    UnknownVersion(u8),
    /// Likewise.
    #[error("record is of the unknown kind {0}")]
    UnknownKind(u8),
    /// Ends too early, or holds a value that can't be.
    #[error("record is damaged")]
    Damaged,
    /// Speaks of something that the log before it did not make.
    #[error("record does not follow from the log before it")]
    OutOfPlace,
}

/// One change of a shard's durable state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record<'a> {
    pub(crate) now: Millis,
    pub(crate) event: Event<'a>,
}

/// What happened. `session` is a session's epoch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event<'a> {
    Publish(PublishRecord<'a>),
    /// A message that asks the broker something, and is owed to the home shard of its vehicle alone.
    Call(PublishRecord<'a>),
    /// A shadow changed.
    Shadow(ShadowRecord<'a>),
    CommandRequested(RequestedRecord<'a>),
    /// The message of a command that waited was queued for its vehicle.
    CommandSent(CommandId, PublishRecord<'a>),
    CommandEnded(EndedRecord<'a>),
    CommandRetried(RetriedRecord<'a>),
    CommandRefused(Box<RefusedRecord<'a>>, PublishRecord<'a>),
    SessionOpened {
        session: u64,
        client_id: &'a str,
        principal: Principal,
    },
    /// A connection took the session.
    SessionAttached {
        session: u64,
        expiry_seconds: u32,
        overflow: Overflow,
        will: Option<WillRecord<'a>>,
    },
    /// It lost the session, which ends at `expires_at`; its will, if one is left, is due at `will_due`.
    SessionDetached {
        session: u64,
        expires_at: Option<Millis>,
        will_due: Option<Millis>,
    },
    SessionEnded {
        session: u64,
    },
    Subscribed {
        session: u64,
        filter: &'a str,
        subscription: Subscription,
        sends_retained: bool,
    },
    Unsubscribed {
        session: u64,
        filter: &'a str,
    },
    /// A QoS 2 identifier of the client is free again (PUBREL).
    Released {
        session: u64,
        packet_id: PacketId,
    },
    /// The client has a QoS 2 message for good (PUBREC).
    Received {
        session: u64,
        lane: LaneName,
        sequence: u64,
    },
    /// How far each lane is; of the retained messages due, `backlog` are left.
    Progress {
        session: u64,
        backlog: u32,
        lanes: [LaneProgress; 2],
    },
    /// A retained message that is due because of a subscription took its place in the session's queue.
    ///
    /// Behind a box, so that the records of other messages, which are moved about as the same type, stay small.
    Directed(Box<DirectedRecord<'a>>),
    /// A message of a shared subscription took its place in the queue of a member, which is to finish it.
    Handed(HandedRecord<'a>),
    /// A full queue gave up its oldest messages: those of the lane from `from` to before `through`. What was in flight then
    /// came before them, and stays.
    Dropped {
        session: u64,
        lane: LaneName,
        from: u64,
        through: u64,
    },
    /// How far a shared subscription is: all records below `next` are done, but for `open`.
    GroupProgress {
        share_name: &'a str,
        filter: &'a str,
        next: u64,
        open: Vec<u64>,
    },
    /// The delayed will of a session was published.
    WillPublished {
        session: u64,
    },
}

/// A message that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PublishRecord<'a> {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Whether it goes before others.
    pub(crate) urgent: bool,
    pub(crate) expires_at: Option<Millis>,
    /// Who published it, if that is a session that is recorded, for No Local.
    pub(crate) publisher: Option<u64>,
    /// The publisher's identifier of a QoS 2 message.
    pub(crate) packet_id: Option<PacketId>,
    /// Where there are several shards: of a retained message, which of two is newer; of one that another shard handed over for a
    /// shared subscription, the number of that; of a call, the number of the shard it is for, plus one. Zero for all others.
    pub(crate) stamp: u64,
    pub(crate) provenance: Option<Provenance>,
    pub(crate) topic: &'a str,
    pub(crate) forwarded: ForwardedProperties<'a>,
    pub(crate) payload: &'a [u8],
    /// Sessions that matched and had no room; only wills have them.
    pub(crate) skipped_sessions: Vec<u64>,
    /// Likewise shared subscriptions, by share name and filter.
    pub(crate) skipped_groups: Vec<(&'a str, &'a str)>,
}

/// See [`Event::Shadow`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShadowRecord<'a> {
    pub(crate) vin: Vin,
    /// The classic one has none.
    pub(crate) name: Option<&'a str>,
    pub(crate) by: Principal,
    /// As of a [`PublishRecord`], where a message asked for it.
    pub(crate) publisher: Option<u64>,
    pub(crate) packet_id: Option<PacketId>,
    /// The form in which the vehicle is told of it from now on.
    pub(crate) format: Format,
    /// A [`causeway_fleet::shadow::Change`].
    pub(crate) change: &'a [u8],
}

/// See [`Event::Directed`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DirectedRecord<'a> {
    pub(crate) session: u64,
    /// Where the record of the retained message is.
    pub(crate) retained_at: Lsn,
    pub(crate) qos: QoS,
    pub(crate) identifiers: Identifiers,
    pub(crate) message: PublishRecord<'a>,
}

/// See [`Event::Handed`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HandedRecord<'a> {
    pub(crate) session: u64,
    pub(crate) lane: LaneName,
    /// The record of the message.
    pub(crate) lsn: Lsn,
    pub(crate) bytes: u32,
    pub(crate) expires: Expiry,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifiers: Identifiers,
    pub(crate) share_name: &'a str,
    pub(crate) filter: &'a str,
}

/// A will as its connection left it with the broker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WillRecord<'a> {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) delay_seconds: u32,
    pub(crate) expiry_seconds: Option<u32>,
    pub(crate) topic: &'a str,
    pub(crate) forwarded: ForwardedProperties<'a>,
    pub(crate) payload: &'a [u8],
}

mod kind {
    pub(super) const PUBLISH: u8 = 1;
    pub(super) const SESSION_OPENED: u8 = 2;
    pub(super) const SESSION_ATTACHED: u8 = 3;
    pub(super) const SESSION_DETACHED: u8 = 4;
    pub(super) const SESSION_ENDED: u8 = 5;
    pub(super) const SUBSCRIBED: u8 = 6;
    pub(super) const UNSUBSCRIBED: u8 = 7;
    pub(super) const RELEASED: u8 = 8;
    pub(super) const RECEIVED: u8 = 9;
    pub(super) const PROGRESS: u8 = 10;
    pub(super) const GROUP_PROGRESS: u8 = 11;
    pub(super) const WILL_PUBLISHED: u8 = 12;
    pub(super) const DROPPED: u8 = 13;
    pub(super) const DIRECTED: u8 = 14;
    pub(super) const HANDED: u8 = 15;
    pub(super) const CALL: u8 = 16;
    pub(super) const SHADOW: u8 = 17;
    pub(super) const COMMAND_REQUESTED: u8 = 20;
    pub(super) const COMMAND_SENT: u8 = 21;
    pub(super) const COMMAND_ENDED: u8 = 22;
    pub(super) const COMMAND_RETRIED: u8 = 23;
    pub(super) const COMMAND_REFUSED: u8 = 24;
}

impl<'a> Record<'a> {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        let kind_at = out.len();
        out.put_u8(0);
        out.put_u64(self.now.0);
        out[kind_at] = self.event.encode(out);
    }

    /// # Errors
    /// Where the bytes are no record of this layout.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let mut reader = Reader(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(RecordError::UnknownVersion(version));
        }
        let kind = reader.u8()?;
        let now = Millis(reader.u64()?);
        let event = Event::decode(kind, &mut reader)?;
        if reader.0.is_empty() { Ok(Record { now, event }) } else { Err(RecordError::Damaged) }
    }
}

impl<'a> Event<'a> {
    /// The session it is about, where it is about one.
    pub(crate) fn session(&self) -> Option<u64> {
        match self {
            Event::SessionOpened { session, .. }
            | Event::SessionAttached { session, .. }
            | Event::SessionDetached { session, .. }
            | Event::SessionEnded { session }
            | Event::Subscribed { session, .. }
            | Event::Unsubscribed { session, .. }
            | Event::Released { session, .. }
            | Event::Received { session, .. }
            | Event::Progress { session, .. }
            | Event::Dropped { session, .. }
            | Event::WillPublished { session } => Some(*session),
            Event::Directed(directed) => Some(directed.session),
            Event::Handed(handed) => Some(handed.session),
            Event::Publish(_)
            | Event::Call(_)
            | Event::Shadow(_)
            | Event::CommandRequested(_)
            | Event::CommandSent(..)
            | Event::CommandEnded(_)
            | Event::CommandRetried(_)
            | Event::CommandRefused(..)
            | Event::GroupProgress { .. } => None,
        }
    }

    /// Appends all but its kind, which it returns.
    fn encode(&self, out: &mut BytesMut) -> u8 {
        match self {
            Event::Publish(publish) => {
                publish.encode(out);
                kind::PUBLISH
            }
            Event::Call(publish) => {
                publish.encode(out);
                kind::CALL
            }
            Event::Shadow(shadow) => {
                shadow.encode(out);
                kind::SHADOW
            }
            Event::CommandRequested(requested) => {
                requested.encode(out);
                kind::COMMAND_REQUESTED
            }
            Event::CommandSent(id, message) => {
                command::encode_sent(*id, message, out);
                kind::COMMAND_SENT
            }
            Event::CommandEnded(ended) => {
                ended.encode(out);
                kind::COMMAND_ENDED
            }
            Event::CommandRetried(retried) => {
                retried.encode(out);
                kind::COMMAND_RETRIED
            }
            Event::CommandRefused(refused, message) => {
                refused.encode(message, out);
                kind::COMMAND_REFUSED
            }
            Event::SessionOpened { session, client_id, principal } => {
                out.put_u64(*session);
                put_text(out, client_id);
                put_principal(out, principal);
                kind::SESSION_OPENED
            }
            Event::SessionAttached { session, expiry_seconds, overflow, will } => {
                out.put_u64(*session);
                out.put_u32(*expiry_seconds);
                out.put_u8(u8::from(*overflow == Overflow::DropOldest));
                if let Some(will) = will {
                    will.encode(out);
                }
                kind::SESSION_ATTACHED
            }
            Event::SessionDetached { session, expires_at, will_due } => {
                out.put_u64(*session);
                put_time(out, *expires_at);
                put_time(out, *will_due);
                kind::SESSION_DETACHED
            }
            Event::SessionEnded { session } => {
                out.put_u64(*session);
                kind::SESSION_ENDED
            }
            Event::Subscribed { session, filter, subscription, sends_retained } => {
                out.put_u64(*session);
                let (bits, identifier) = subscription.coded();
                out.put_u8(bits | (u8::from(*sends_retained) << 4));
                out.put_u32(identifier);
                put_text(out, filter);
                kind::SUBSCRIBED
            }
            Event::Unsubscribed { session, filter } => {
                out.put_u64(*session);
                put_text(out, filter);
                kind::UNSUBSCRIBED
            }
            Event::Released { session, packet_id } => {
                out.put_u64(*session);
                out.put_u16(packet_id.get());
                kind::RELEASED
            }
            Event::Received { session, lane, sequence } => {
                out.put_u64(*session);
                out.put_u8(*lane as u8);
                out.put_u64(*sequence);
                kind::RECEIVED
            }
            Event::Progress { session, backlog, lanes } => {
                out.put_u64(*session);
                out.put_u32(*backlog);
                for LaneProgress { next, sent_through, open } in lanes {
                    out.put_u64(*next);
                    out.put_u64(*sent_through);
                    out.put_u32(open.len() as u32);
                    open.iter().for_each(|sequence| out.put_u64(*sequence));
                }
                kind::PROGRESS
            }
            Event::Directed(directed) => {
                out.put_u64(directed.session);
                out.put_u64(directed.retained_at.0);
                out.put_u8(directed.qos as u8);
                put_identifiers(out, &directed.identifiers);
                directed.message.encode(out);
                kind::DIRECTED
            }
            Event::Handed(handed) => {
                out.put_u64(handed.session);
                out.put_u8(handed.lane as u8);
                out.put_u64(handed.lsn.0);
                out.put_u32(handed.bytes);
                out.put_u32(handed.expires.0);
                out.put_u8(handed.qos as u8 | (u8::from(handed.retain) << 2));
                put_identifiers(out, &handed.identifiers);
                put_text(out, handed.share_name);
                put_text(out, handed.filter);
                kind::HANDED
            }
            Event::Dropped { session, lane, from, through } => {
                out.put_u64(*session);
                out.put_u8(*lane as u8);
                out.put_u64(*from);
                out.put_u64(*through);
                kind::DROPPED
            }
            Event::GroupProgress { share_name, filter, next, open } => {
                put_text(out, share_name);
                put_text(out, filter);
                out.put_u64(*next);
                open.iter().for_each(|sequence| out.put_u64(*sequence));
                kind::GROUP_PROGRESS
            }
            Event::WillPublished { session } => {
                out.put_u64(*session);
                kind::WILL_PUBLISHED
            }
        }
    }

    fn decode(kind: u8, reader: &mut Reader<'a>) -> Result<Event<'a>, RecordError> {
        Ok(match kind {
            kind::PUBLISH => Event::Publish(PublishRecord::decode(reader)?),
            kind::CALL => Event::Call(PublishRecord::decode(reader)?),
            kind::SHADOW => Event::Shadow(ShadowRecord::decode(reader)?),
            kind::COMMAND_REQUESTED => Event::CommandRequested(RequestedRecord::decode(reader)?),
            kind::COMMAND_SENT => {
                let (id, message) = command::decode_sent(reader)?;
                Event::CommandSent(id, message)
            }
            kind::COMMAND_ENDED => Event::CommandEnded(EndedRecord::decode(reader)?),
            kind::COMMAND_RETRIED => Event::CommandRetried(RetriedRecord::decode(reader)?),
            kind::COMMAND_REFUSED => {
                let (refused, message) = RefusedRecord::decode(reader)?;
                Event::CommandRefused(Box::new(refused), message)
            }
            kind::SESSION_OPENED => Event::SessionOpened {
                session: reader.u64()?,
                client_id: reader.text()?,
                principal: reader.principal()?,
            },
            kind::SESSION_ATTACHED => Event::SessionAttached {
                session: reader.u64()?,
                expiry_seconds: reader.u32()?,
                overflow: if reader.u8()? == 0 { Overflow::RefuseNew } else { Overflow::DropOldest },
                will: if reader.0.is_empty() { None } else { Some(WillRecord::decode(reader)?) },
            },
            kind::SESSION_DETACHED => {
                Event::SessionDetached { session: reader.u64()?, expires_at: reader.time()?, will_due: reader.time()? }
            }
            kind::SESSION_ENDED => Event::SessionEnded { session: reader.u64()? },
            kind::SUBSCRIBED => {
                let session = reader.u64()?;
                let bits = reader.u8()?;
                let identifier = reader.u32()?;
                let subscription = Subscription::from_coded(bits & 0xEF, identifier).ok_or(RecordError::Damaged)?;
                Event::Subscribed { session, subscription, sends_retained: bits & 0x10 != 0, filter: reader.text()? }
            }
            kind::UNSUBSCRIBED => Event::Unsubscribed { session: reader.u64()?, filter: reader.text()? },
            kind::RELEASED => Event::Released {
                session: reader.u64()?,
                packet_id: PacketId::new(reader.u16()?).ok_or(RecordError::Damaged)?,
            },
            kind::RECEIVED => Event::Received { session: reader.u64()?, lane: reader.lane()?, sequence: reader.u64()? },
            kind::PROGRESS => Event::Progress {
                session: reader.u64()?,
                backlog: reader.u32()?,
                lanes: [reader.lane_progress()?, reader.lane_progress()?],
            },
            kind::DIRECTED => Event::Directed(Box::new(DirectedRecord {
                session: reader.u64()?,
                retained_at: Lsn(reader.u64()?),
                qos: QoS::from_bits(reader.u8()?).ok_or(RecordError::Damaged)?,
                identifiers: reader.identifiers()?,
                message: PublishRecord::decode(reader)?,
            })),
            kind::HANDED => {
                let (session, lane, lsn) = (reader.u64()?, reader.lane()?, Lsn(reader.u64()?));
                let (bytes, expires, flags) = (reader.u32()?, Expiry(reader.u32()?), reader.u8()?);
                Event::Handed(HandedRecord {
                    session,
                    lane,
                    lsn,
                    bytes,
                    expires,
                    qos: QoS::from_bits(flags & 3).ok_or(RecordError::Damaged)?,
                    retain: flags & 4 != 0,
                    identifiers: reader.identifiers()?,
                    share_name: reader.text()?,
                    filter: reader.text()?,
                })
            }
            kind::DROPPED => Event::Dropped {
                session: reader.u64()?,
                lane: reader.lane()?,
                from: reader.u64()?,
                through: reader.u64()?,
            },
            kind::GROUP_PROGRESS => Event::GroupProgress {
                share_name: reader.text()?,
                filter: reader.text()?,
                next: reader.u64()?,
                open: reader.sequences()?,
            },
            kind::WILL_PUBLISHED => Event::WillPublished { session: reader.u64()? },
            other => return Err(RecordError::UnknownKind(other)),
        })
    }
}

const HAS_PUBLISHER: u8 = 1 << 3;
const HAS_PACKET_ID: u8 = 1 << 4;
const HAS_SKIPPED: u8 = 1 << 5;
const HAS_STAMP: u8 = 1 << 7;
const IS_URGENT: u8 = 1 << 6;

impl<'a> PublishRecord<'a> {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.reserve(64 + self.topic.len() + self.payload.len());
        let skips = !self.skipped_sessions.is_empty() || !self.skipped_groups.is_empty();
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(
            self.qos as u8
                | flag(self.retain, 1 << 2)
                | flag(self.urgent, IS_URGENT)
                | flag(self.publisher.is_some(), HAS_PUBLISHER)
                | flag(self.packet_id.is_some(), HAS_PACKET_ID)
                | flag(skips, HAS_SKIPPED)
                | flag(self.stamp != 0, HAS_STAMP),
        );
        put_time(out, self.expires_at);
        if let Some(publisher) = self.publisher {
            out.put_u64(publisher);
        }
        if let Some(packet_id) = self.packet_id {
            out.put_u16(packet_id.get());
        }
        if self.stamp != 0 {
            out.put_u64(self.stamp);
        }
        Provenance::encode(self.provenance.as_ref(), self.topic, out);
        if skips {
            out.put_u32(self.skipped_sessions.len() as u32);
            self.skipped_sessions.iter().for_each(|session| out.put_u64(*session));
            out.put_u32(self.skipped_groups.len() as u32);
            for (share_name, filter) in &self.skipped_groups {
                put_text(out, share_name);
                put_text(out, filter);
            }
        }
        put_text(out, self.topic);
        put_forwarded(out, self.forwarded);
        out.put_slice(self.payload);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, RecordError> {
        let flags = reader.u8()?;
        let qos = QoS::from_bits(flags & 3).ok_or(RecordError::Damaged)?;
        let expires_at = reader.time()?;
        let publisher = if flags & HAS_PUBLISHER != 0 { Some(reader.u64()?) } else { None };
        let packet_id = if flags & HAS_PACKET_ID != 0 {
            Some(PacketId::new(reader.u16()?).ok_or(RecordError::Damaged)?)
        } else {
            None
        };
        let stamp = if flags & HAS_STAMP != 0 { reader.u64()? } else { 0 };
        let provenance = Provenance::decode(reader)?;
        let (mut skipped_sessions, mut skipped_groups) = (Vec::new(), Vec::new());
        if flags & HAS_SKIPPED != 0 {
            for _ in 0..reader.u32()? {
                skipped_sessions.push(reader.u64()?);
            }
            for _ in 0..reader.u32()? {
                skipped_groups.push((reader.text()?, reader.text()?));
            }
        }
        let topic = reader.text()?;
        Ok(PublishRecord {
            qos,
            retain: flags & (1 << 2) != 0,
            urgent: flags & IS_URGENT != 0,
            expires_at,
            publisher,
            packet_id,
            stamp,
            provenance: provenance.map(|provenance| provenance.of_topic(topic)).transpose()?,
            topic,
            forwarded: reader.forwarded()?,
            payload: std::mem::take(&mut reader.0),
            skipped_sessions,
            skipped_groups,
        })
    }
}

const IS_CBOR: u8 = 1;
const IS_NAMED: u8 = 2;

impl<'a> ShadowRecord<'a> {
    fn encode(&self, out: &mut BytesMut) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(
            flag(self.format == Format::Cbor, IS_CBOR)
                | flag(self.name.is_some(), IS_NAMED)
                | flag(self.publisher.is_some(), HAS_PUBLISHER)
                | flag(self.packet_id.is_some(), HAS_PACKET_ID),
        );
        out.put_slice(self.vin.as_str().as_bytes());
        self.name.into_iter().for_each(|name| put_text(out, name));
        put_principal(out, &self.by);
        self.publisher.into_iter().for_each(|publisher| out.put_u64(publisher));
        self.packet_id.into_iter().for_each(|packet_id| out.put_u16(packet_id.get()));
        out.put_slice(self.change);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, RecordError> {
        let flags = reader.u8()?;
        Ok(ShadowRecord {
            format: if flags & IS_CBOR != 0 { Format::Cbor } else { Format::Json },
            vin: reader.vin()?,
            name: if flags & IS_NAMED != 0 { Some(reader.text()?) } else { None },
            by: reader.principal()?,
            publisher: if flags & HAS_PUBLISHER != 0 { Some(reader.u64()?) } else { None },
            packet_id: match flags & HAS_PACKET_ID {
                0 => None,
                _ => Some(PacketId::new(reader.u16()?).ok_or(RecordError::Damaged)?),
            },
            change: std::mem::take(&mut reader.0),
        })
    }
}

impl<'a> WillRecord<'a> {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let has_expiry = u8::from(self.expiry_seconds.is_some()) << 3;
        out.put_u8(self.qos as u8 | (u8::from(self.retain) << 2) | has_expiry);
        out.put_u32(self.delay_seconds);
        out.put_u32(self.expiry_seconds.unwrap_or(0));
        put_text(out, self.topic);
        put_forwarded(out, self.forwarded);
        out.put_slice(self.payload);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, RecordError> {
        let flags = reader.u8()?;
        let delay_seconds = reader.u32()?;
        let expiry_seconds = reader.u32()?;
        Ok(WillRecord {
            qos: QoS::from_bits(flags & 3).ok_or(RecordError::Damaged)?,
            retain: flags & (1 << 2) != 0,
            delay_seconds,
            expiry_seconds: (flags & (1 << 3) != 0).then_some(expiry_seconds),
            topic: reader.text()?,
            forwarded: reader.forwarded()?,
            payload: std::mem::take(&mut reader.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use causeway_fleet::command::Outcome;

    use super::super::{AddressRecord, TermsRecord};
    use super::*;

    fn examples() -> Vec<Event<'static>> {
        let subscription = Subscription {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            fleeting: true,
            away: true,
            full: true,
            wide: false,
            unretained: true,
            identifier: 268_435_455,
        };
        let forwarded = ForwardedProperties::default();
        let publish = PublishRecord {
            qos: QoS::ExactlyOnce,
            retain: true,
            urgent: true,
            expires_at: Some(Millis(9)),
            publisher: Some(3),
            packet_id: PacketId::new(65_535),
            stamp: 77,
            provenance: Some(Provenance { by: Principal::service("s"), at: Millis(1_777_888_999_123), sequence: 0 }),
            topic: "a/b",
            forwarded,
            payload: b"payload",
            skipped_sessions: vec![1, 2],
            skipped_groups: vec![("g", "f/#")],
        };
        let will = WillRecord {
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_seconds: 5,
            expiry_seconds: Some(0),
            topic: "w",
            forwarded,
            payload: b"",
        };
        let terms = TermsRecord {
            id: CommandId::new(77).unwrap(),
            by: Principal::service("s"),
            address: AddressRecord { response_topic: Some("r"), correlation_data: Some(b"\0\xFF") },
            key: Some("k"),
            request_id: Some("42"),
        };
        vec![
            Event::Publish(publish.clone()),
            Event::Publish(PublishRecord {
                qos: QoS::AtMostOnce,
                retain: false,
                expires_at: None,
                publisher: None,
                packet_id: None,
                payload: b"",
                skipped_sessions: Vec::new(),
                skipped_groups: Vec::new(),
                ..publish.clone()
            }),
            Event::CommandRequested(RequestedRecord {
                terms: Box::new(terms.clone()),
                is_sent: true,
                message: publish.clone(),
            }),
            Event::CommandRequested(RequestedRecord {
                terms: Box::new(TermsRecord {
                    address: AddressRecord::default(),
                    key: None,
                    request_id: None,
                    ..terms.clone()
                }),
                is_sent: false,
                message: publish.clone(),
            }),
            Event::CommandSent(terms.id, publish.clone()),
            Event::CommandEnded(EndedRecord { id: terms.id, outcome: Outcome::Conflict, message: publish.clone() }),
            Event::CommandRefused(
                Box::new(RefusedRecord {
                    terms: terms.clone(),
                    vin: "1M8GDM9AXKP042788".parse().unwrap(),
                    name: "lock",
                    fingerprint: u64::MAX,
                    outcome: Outcome::Offline,
                    is_kept: true,
                }),
                publish.clone(),
            ),
            Event::CommandRetried(RetriedRecord {
                id: terms.id,
                address: terms.address,
                publisher: Some(3),
                packet_id: PacketId::new(7),
            }),
            Event::CommandRetried(RetriedRecord {
                id: terms.id,
                address: AddressRecord::default(),
                publisher: None,
                packet_id: None,
            }),
            Event::SessionOpened { session: 1, client_id: "c", principal: Principal::Anonymous },
            Event::SessionOpened { session: 1, client_id: "", principal: Principal::service("u") },
            Event::SessionOpened { session: 1, client_id: "o", principal: Principal::operator("o") },
            Event::SessionOpened {
                session: 1,
                client_id: "1M8GDM9AXKP042788/hmi",
                principal: Principal::Vehicle("1M8GDM9AXKP042788".parse().unwrap()),
            },
            Event::SessionAttached { session: 1, expiry_seconds: 7, overflow: Overflow::RefuseNew, will: None },
            Event::SessionAttached { session: 1, expiry_seconds: 7, overflow: Overflow::DropOldest, will: Some(will) },
            Event::SessionDetached { session: 1, expires_at: Some(Millis(1)), will_due: None },
            Event::SessionEnded { session: 1 },
            Event::Subscribed { session: 1, filter: "$share/g/#", subscription, sends_retained: true },
            Event::Unsubscribed { session: 1, filter: "+" },
            Event::Released { session: 1, packet_id: PacketId::MIN },
            Event::Received { session: 1, lane: LaneName::Urgent, sequence: 2 },
            Event::Progress {
                session: 1,
                backlog: 3,
                lanes: [LaneProgress::default(), LaneProgress { next: 9, sent_through: 12, open: vec![4, 7] }],
            },
            Event::Directed(Box::new(DirectedRecord {
                session: 1,
                retained_at: Lsn(5),
                qos: QoS::ExactlyOnce,
                identifiers: smallvec::smallvec![1, 2, 3],
                message: publish.clone(),
            })),
            Event::Handed(HandedRecord {
                session: 1,
                lane: LaneName::Bulk,
                lsn: Lsn(5),
                bytes: 6,
                expires: Expiry::NEVER,
                qos: QoS::ExactlyOnce,
                retain: true,
                identifiers: Identifiers::new(),
                share_name: "g",
                filter: "#",
            }),
            Event::Dropped { session: 1, lane: LaneName::Bulk, from: 7, through: 9 },
            Event::GroupProgress { share_name: "g", filter: "#", next: 9, open: vec![] },
            Event::WillPublished { session: 1 },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for event in examples() {
            let record = Record { now: Millis(1), event };
            let mut bytes = BytesMut::new();
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for event in examples() {
            let mut bytes = BytesMut::new();
            Record { now: Millis(1), event }.encode(&mut bytes);
            for cut in 0..bytes.len() {
                let _ = Record::decode(&bytes[..cut]);
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[cut] ^= 1 << bit;
                    let _ = Record::decode(&flipped);
                }
            }
        }
        assert_eq!(Record::decode(&[VERSION - 1, 1]), Err(RecordError::UnknownVersion(VERSION - 1)));
        assert_eq!(Record::decode(&[VERSION, 99, 0, 0, 0, 0, 0, 0, 0, 0]), Err(RecordError::UnknownKind(99)));
    }
}
