//! The layout of the folded state: keys and values of sessions, their queues, shared subscriptions and retained messages.
//!
//! Owns encoding and decoding. Keys are in an order in which what refers to something comes after it: each session and then its
//! queues, groups, retained messages, shadows, commands. A queue is kept in parts of [`PART`] sequence numbers, so that one that grows is not written
//! whole each time. Integers are big-endian.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use causeway_fleet::Vin;
use causeway_fleet::command::{CommandId, Outcome};
use causeway_fleet::shadow::Format;
use causeway_protocol::{PacketId, QoS};

use crate::connection::KeptWill;
use crate::history::{HISTORY, HistoryEntry};
use crate::index::Subscription;
use crate::lane::{LaneName, Number};
use crate::message::Message;
use crate::queue::{Delivery, Expiry, Queued, Queues};
use crate::record::{
    AddressRecord, PublishRecord, Reader, RecordError, TermsRecord, WillRecord, put_identifiers, put_principal,
    put_text, put_time,
};
use crate::session::{Identifiers, Phase, Session};
use crate::shard::{Change, Command, Ended, State};
use crate::shared::{Group, Note};
use crate::{Lsn, Millis, Overflow, Principal};

/// The layout below.
const VERSION: u8 = 2;
/// Sequence numbers in one part of a queue.
const PART: u64 = 256;

const META: u8 = 0;
const SESSION: u8 = 1;
const GROUP: u8 = 3;
const RETAINED: u8 = 4;
pub(crate) const SHADOW: u8 = 5;
const COMMAND: u8 = 6;

/// How far a command is.
const WAITING: u8 = 0;
const SENT: u8 = 1;
const ENDED: u8 = 2;

/// What of a session stands under a key.
const HEAD: u8 = 0;
const QUEUE: u8 = 1;

const IS_ATTACHED: u8 = 1;
const HAS_WILL: u8 = 2;
const HAS_DELAYED_WILL: u8 = 4;
const DROPS_OLDEST: u8 = 8;
const MISSED_PRESENCE: u8 = 16;

/// One entry of the folded state, read.
pub(crate) enum Folded<'a> {
    Meta {
        epoch: u64,
        /// The time of the newest record.
        newest: Millis,
    },
    Session(Box<FoldedSession<'a>>),
    /// Part of a queue; entries whose sequence is done are still in it.
    Queue {
        epoch: u64,
        lane: LaneName,
        entries: Vec<Queued>,
    },
    Group {
        share_name: &'a str,
        filter: &'a str,
        as_of: Lsn,
        entries: Vec<Delivery>,
    },
    Retained {
        lsn: Lsn,
        message: PublishRecord<'a>,
    },
    Shadow {
        vin: Vin,
        /// The classic one has none.
        name: Option<&'a str>,
        shadow: FoldedShadow<'a>,
    },
    /// What became of a shadow. No part of the shard's state.
    History,
    Command(Box<FoldedCommand<'a>>),
}

pub(crate) struct FoldedCommand<'a> {
    /// The last record it is made of.
    pub(crate) as_of: Lsn,
    pub(crate) vin: Vin,
    pub(crate) name: &'a str,
    pub(crate) requested_at: Millis,
    pub(crate) deadline: Millis,
    pub(crate) fingerprint: u64,
    pub(crate) terms: TermsRecord<'a>,
    pub(crate) state: FoldedState<'a>,
}

pub(crate) enum FoldedState<'a> {
    Waiting(PublishRecord<'a>),
    Sent,
    Ended { outcome: Outcome, at: Millis, message: PublishRecord<'a> },
}

/// A shadow as it was when the record at `lsn` had changed it.
pub(crate) struct FoldedShadow<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) format: Format,
    /// [`causeway_fleet::shadow::Shadow::encode`].
    pub(crate) bytes: &'a [u8],
}

pub(crate) struct FoldedSession<'a> {
    pub(crate) epoch: u64,
    /// The last record it is made of.
    pub(crate) as_of: Lsn,
    pub(crate) client_id: &'a str,
    pub(crate) principal: Principal,
    pub(crate) expiry_seconds: u32,
    pub(crate) expires_at: Option<Millis>,
    pub(crate) overflow: Overflow,
    pub(crate) missed_presence: bool,
    /// Whether it had a connection, and that connection's will.
    pub(crate) attached: Option<Option<WillRecord<'a>>>,
    pub(crate) delayed_will: Option<(Millis, WillRecord<'a>)>,
    pub(crate) received: Vec<PacketId>,
    pub(crate) subscriptions: Vec<(&'a str, Subscription)>,
    pub(crate) lanes: [FoldedLane; 2],
    /// Retained messages that are due: QoS, Subscription Identifiers, position, message.
    pub(crate) backlog: Vec<(QoS, Identifiers, Lsn, PublishRecord<'a>)>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FoldedLane {
    pub(crate) next_sequence: u64,
    pub(crate) sent_through: u64,
    /// Entries below this are done, but for `open`.
    pub(crate) next: u64,
    pub(crate) open: Vec<u64>,
    /// Only their PUBREL is left.
    pub(crate) released: Vec<u64>,
    /// The parts of its queue: from, and before.
    pub(crate) saved: (u64, u64),
}

fn key(kind: u8, rest: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    rest.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn session_key(epoch: u64) -> Vec<u8> {
    key(SESSION, &[&epoch.to_be_bytes(), &[HEAD]])
}

fn queue_key(epoch: u64, lane: LaneName, part: u64) -> Vec<u8> {
    key(SESSION, &[&epoch.to_be_bytes(), &[QUEUE, lane as u8], &part.to_be_bytes()])
}

fn group_key(share_name: &str, filter: &str) -> Vec<u8> {
    key(GROUP, &[&(share_name.len() as u16).to_be_bytes(), share_name.as_bytes(), filter.as_bytes()])
}

fn put(key: Vec<u8>, value: BytesMut) -> Change {
    Change::Put { key, value: value.to_vec() }
}

/// Values that are the whole shard's.
pub(crate) fn put_meta(epoch: u64, newest: Millis) -> Change {
    let mut value = BytesMut::new();
    value.put_u8(VERSION);
    value.put_u64(epoch);
    value.put_u64(newest.0);
    put(key(META, &[]), value)
}

pub(crate) fn remove_retained(topic: &str) -> Change {
    Change::Remove { key: key(RETAINED, &[topic.as_bytes()]) }
}

pub(crate) fn put_retained(message: &Message, lsn: Lsn) -> Change {
    let mut value = BytesMut::new();
    value.put_u8(VERSION);
    value.put_u64(lsn.0);
    message.as_record().encode(&mut value);
    put(key(RETAINED, &[message.topic.as_bytes()]), value)
}

fn shadow_key(vin: &Vin, name: Option<&str>) -> Vec<u8> {
    // No name is empty.
    key(SHADOW, &[vin.as_str().as_bytes(), name.unwrap_or_default().as_bytes()])
}

pub(crate) fn remove_shadow(vin: &Vin, name: Option<&str>) -> Change {
    Change::Remove { key: shadow_key(vin, name) }
}

pub(crate) fn put_shadow(vin: &Vin, name: Option<&str>, shadow: FoldedShadow<'_>) -> Change {
    let mut value = BytesMut::with_capacity(16 + shadow.bytes.len());
    value.put_u8(VERSION);
    value.put_u64(shadow.lsn.0);
    value.put_u8(u8::from(shadow.format == Format::Cbor));
    value.put_slice(shadow.bytes);
    put(shadow_key(vin, name), value)
}

pub(crate) fn remove_command(id: CommandId) -> Change {
    Change::Remove { key: key(COMMAND, &[&id.number().to_be_bytes()]) }
}

pub(crate) fn put_command(id: CommandId, command: &Command) -> Change {
    let Command { as_of, vin, name, by, requested_at, deadline, address, key: idempotency, fingerprint, .. } = command;
    let mut value = BytesMut::with_capacity(256);
    value.put_u8(VERSION);
    [as_of.0, requested_at.0, deadline.0, *fingerprint].into_iter().for_each(|number| value.put_u64(number));
    value.put_slice(vin.as_str().as_bytes());
    put_text(&mut value, name);
    let terms = TermsRecord {
        id,
        by: by.clone(),
        address: AddressRecord {
            response_topic: address.response_topic.as_deref(),
            correlation_data: address.correlation_data.as_deref(),
        },
        key: idempotency.as_deref(),
        request_id: command.request_id.as_deref(),
    };
    terms.encode(0, &mut value);
    match &command.state {
        State::Waiting(message) => {
            value.put_u8(WAITING);
            message.as_record().encode(&mut value);
        }
        State::Sent => value.put_u8(SENT),
        State::Ended(Ended { outcome, at, message }) => {
            value.put_u8(ENDED);
            value.put_u8(*outcome as u8);
            value.put_u64(at.0);
            message.as_record().encode(&mut value);
        }
    }
    put(key(COMMAND, &[&id.number().to_be_bytes()]), value)
}

/// A retained message was removed, which other shards' messages of before are not to undo. Of a message without a payload there is
/// nothing but that to keep.
pub(crate) fn put_removal(topic: &str, stamp: u64) -> Change {
    put_retained(&Message::removal(topic, stamp), Lsn(0))
}

pub(crate) fn remove_group(share_name: &str, filter: &str) -> Change {
    Change::Remove { key: group_key(share_name, filter) }
}

/// What is with a member counts as waiting, as it does in a replay.
pub(crate) fn put_group(group: &Group, queues: &Queues, as_of: Lsn) -> Change {
    let mut value = BytesMut::new();
    value.put_u8(VERSION);
    value.put_u64(as_of.0);
    let waiting =
        queues.pool.iter(&group.queue).filter(|peek| peek.lsn > Lsn(0)).map(|peek| {
            (peek.lsn, Note { bytes: peek.bytes, expires: peek.expires, qos: peek.qos, retain: peek.retain })
        });
    for (lsn, note) in group.open.iter().map(|(lsn, note)| (*lsn, *note)).chain(waiting) {
        value.put_u64(lsn.0);
        value.put_u32(note.bytes);
        value.put_u32(note.expires.0);
        value.put_u8(note.qos as u8 | (u8::from(note.retain) << 2));
    }
    put(group_key(&group.share_name, &group.filter), value)
}

pub(crate) fn remove_session(epoch: u64, saved: [(u64, u64); 2], changes: &mut Vec<Change>) {
    changes.push(Change::Remove { key: session_key(epoch) });
    for (lane, (from, to)) in LaneName::ALL.into_iter().zip(saved) {
        changes.extend((from..to).map(|part| Change::Remove { key: queue_key(epoch, lane, part) }));
    }
}

fn put_will(value: &mut BytesMut, will: &KeptWill) {
    let mut bytes = BytesMut::new();
    will.as_record().encode(&mut bytes);
    value.put_u32(bytes.len() as u32);
    value.put_slice(&bytes);
}

/// Writes a session and the parts of its queues that are new; how much work that was beyond the session itself.
pub(crate) fn put_session(
    session: &mut Session,
    queues: &Queues,
    attached: bool,
    will: Option<&KeptWill>,
    as_of: Lsn,
    changes: &mut Vec<Change>,
) -> usize {
    let mut value = BytesMut::with_capacity(128 + session.client_id.len());
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    value.put_u8(VERSION);
    value.put_u64(as_of.0);
    value.put_u8(
        flag(attached, IS_ATTACHED)
            | flag(will.is_some(), HAS_WILL)
            | flag(session.will.is_some(), HAS_DELAYED_WILL)
            | flag(session.overflow == Overflow::DropOldest, DROPS_OLDEST)
            | flag(session.missed_presence, MISSED_PRESENCE),
    );
    put_text(&mut value, &session.client_id);
    put_principal(&mut value, &session.principal);
    value.put_u32(session.expiry_seconds);
    put_time(&mut value, session.expires_at);
    will.into_iter().for_each(|will| put_will(&mut value, will));
    if let Some(delayed) = &session.will {
        value.put_u64(delayed.due.0);
        put_will(&mut value, &delayed.will);
    }
    value.put_u32(session.received.len() as u32);
    session.received.iter().for_each(|id| value.put_u16(id.get()));
    value.put_u32(session.subscriptions.len() as u32);
    for (filter, subscription) in session.subscriptions.iter() {
        let (bits, identifier) = subscription.coded();
        value.put_u8(bits);
        value.put_u32(identifier);
        put_text(&mut value, filter);
    }
    let (progress, _) = session.progress(queues);
    let mut work = 0;
    for (name, progress) in LaneName::ALL.into_iter().zip(&progress) {
        work += put_lane(session, queues, name, progress.next, &mut value, changes);
    }
    put_backlog(session, &mut value);
    changes.push(put(session_key(session.epoch), value));
    work
}

fn put_sequences(value: &mut BytesMut, sequences: &[u64]) {
    value.put_u32(sequences.len() as u32);
    sequences.iter().for_each(|sequence| value.put_u64(*sequence));
}

fn put_lane(
    session: &mut Session,
    queues: &Queues,
    name: LaneName,
    next: u64,
    value: &mut BytesMut,
    changes: &mut Vec<Change>,
) -> usize {
    let (mut open, mut released) = (BTreeMap::new(), Vec::new());
    for inflight in &session.inflight {
        match (inflight.number, &inflight.phase) {
            (Number::Own(lane, sequence), Phase::Publish(delivery)) if lane == name => {
                open.insert(sequence, delivery);
            }
            (Number::Own(lane, sequence), Phase::Release(_)) if lane == name => released.push(sequence),
            (Number::Own(..) | Number::Loose(_), _) => {}
        }
    }
    let lane = session.lane(name);
    let first = open.keys().next().map_or(next, |oldest| next.min(*oldest));
    let first_part = if first == lane.next_sequence { lane.next_sequence.div_ceil(PART) } else { first / PART };
    let rewritten_from = first_part.max(lane.saved_through / PART);
    let mut parts: BTreeMap<u64, BytesMut> = BTreeMap::new();
    let mut put_entry = |sequence: u64, delivery: EntryOf<'_>| {
        if sequence / PART >= rewritten_from && delivery.lsn > Lsn(0) {
            delivery.encode(sequence, parts.entry(sequence / PART).or_default());
        }
    };
    for (sequence, delivery) in &open {
        put_entry(*sequence, EntryOf::of(delivery));
    }
    let mut walked = 0;
    if lane.next_sequence > lane.saved_through {
        for peek in queues.pool.iter(&lane.queue) {
            walked += 1;
            let identifiers = queues.pool.identifiers(&peek);
            let (lsn, bytes, expires) = (peek.lsn, peek.bytes, peek.expires);
            put_entry(peek.sequence, EntryOf { lsn, bytes, expires, qos: peek.qos, retain: peek.retain, identifiers });
        }
    }
    let (saved_from, saved_to) = lane.saved;
    let remove = |part| Change::Remove { key: queue_key(session.epoch, name, part) };
    changes.extend((saved_from..first_part.min(saved_to)).map(remove));
    if lane.next_sequence > lane.saved_through {
        // A part that is written anew, and of which nothing is left, goes, too.
        let emptied = rewritten_from.max(saved_from)..saved_to;
        changes.extend(emptied.filter(|part| !parts.contains_key(part)).map(remove));
        for (part, entries) in parts {
            changes.push(put(queue_key(session.epoch, name, part), entries));
        }
    }
    value.put_u64(lane.next_sequence);
    value.put_u64(lane.sent_through);
    value.put_u64(next);
    put_sequences(value, &open.keys().copied().collect::<Vec<_>>());
    put_sequences(value, &released);
    let saved = (first_part, lane.next_sequence.div_ceil(PART).max(first_part));
    value.put_u64(saved.0);
    value.put_u64(saved.1);
    // Before the first message there is no lane, and nothing to note.
    if lane.next_sequence > 0 {
        let lane = session.lane_mut(name);
        lane.saved = saved;
        lane.saved_through = lane.next_sequence;
    }
    walked / 16
}

fn put_backlog(session: &Session, value: &mut BytesMut) {
    let loose = session.inflight.iter().filter_map(|inflight| match (&inflight.phase, inflight.number) {
        (Phase::Publish(delivery), Number::Loose(_)) if delivery.group.is_none() => Some(delivery),
        _ => None,
    });
    for delivery in loose.chain(&session.backlog) {
        let Some(message) = &delivery.message else { continue };
        let mut bytes = BytesMut::new();
        message.as_record().encode(&mut bytes);
        value.put_u8(delivery.qos as u8);
        put_identifiers(value, &delivery.identifiers);
        value.put_u64(delivery.retained_at.0);
        value.put_u32(bytes.len() as u32);
        value.put_slice(&bytes);
    }
}

/// An entry of a queue, as it is written.
struct EntryOf<'a> {
    lsn: Lsn,
    bytes: u32,
    expires: Expiry,
    qos: QoS,
    retain: bool,
    identifiers: &'a [u32],
}

impl<'a> EntryOf<'a> {
    fn of(delivery: &'a Delivery) -> Self {
        let Delivery { lsn, bytes, expires, qos, retain, identifiers, .. } = delivery;
        EntryOf { lsn: *lsn, bytes: *bytes, expires: *expires, qos: *qos, retain: *retain, identifiers }
    }

    fn encode(&self, sequence: u64, value: &mut BytesMut) {
        value.put_u64(sequence);
        value.put_u64(self.lsn.0);
        value.put_u32(self.bytes);
        value.put_u32(self.expires.0);
        value.put_u8(self.qos as u8 | (u8::from(self.retain) << 2));
        put_identifiers(value, self.identifiers);
    }
}

impl<'a> Folded<'a> {
    /// # Errors
    /// Where it is no entry of this layout.
    pub(crate) fn decode(key: &'a [u8], value: &'a [u8]) -> Result<Folded<'a>, RecordError> {
        if key.first() == Some(&HISTORY) {
            return HistoryEntry::decode(key, value).map(|_| Folded::History);
        }
        let (mut key, mut value) = (Reader(key), Reader(value));
        let kind = key.u8()?;
        let epoch = if kind == SESSION { key.u64()? } else { 0 };
        if kind == SESSION && key.u8()? == QUEUE {
            return Ok(Folded::Queue { epoch, lane: key.lane()?, entries: queue_entries(&mut value)? });
        }
        let version = value.u8()?;
        if version != VERSION {
            return Err(RecordError::UnknownVersion(version));
        }
        Ok(match kind {
            META => Folded::Meta { epoch: value.u64()?, newest: Millis(value.u64()?) },
            SESSION => Folded::Session(Box::new(FoldedSession::decode(epoch, &mut value)?)),
            GROUP => {
                let share_name = key.text()?;
                let filter = std::str::from_utf8(key.0).map_err(|_| RecordError::Damaged)?;
                Folded::Group { share_name, filter, as_of: Lsn(value.u64()?), entries: group_entries(&mut value)? }
            }
            RETAINED => Folded::Retained { lsn: Lsn(value.u64()?), message: PublishRecord::decode(&mut value)? },
            SHADOW => Folded::Shadow {
                vin: key.vin()?,
                name: Some(std::str::from_utf8(key.0).map_err(|_| RecordError::Damaged)?)
                    .filter(|name| !name.is_empty()),
                shadow: FoldedShadow {
                    lsn: Lsn(value.u64()?),
                    format: if value.u8()? == 0 { Format::Json } else { Format::Cbor },
                    bytes: value.0,
                },
            },
            COMMAND => Folded::Command(Box::new(FoldedCommand::decode(&mut value)?)),
            other => return Err(RecordError::UnknownKind(other)),
        })
    }
}

impl<'a> FoldedCommand<'a> {
    fn decode(value: &mut Reader<'a>) -> Result<Self, RecordError> {
        Ok(FoldedCommand {
            as_of: Lsn(value.u64()?),
            requested_at: Millis(value.u64()?),
            deadline: Millis(value.u64()?),
            fingerprint: value.u64()?,
            vin: value.vin()?,
            name: value.text()?,
            terms: TermsRecord::decode(value)?.0,
            state: match value.u8()? {
                WAITING => FoldedState::Waiting(PublishRecord::decode(value)?),
                SENT => FoldedState::Sent,
                ENDED => FoldedState::Ended {
                    outcome: Outcome::of_number(value.u8()?).ok_or(RecordError::Damaged)?,
                    at: Millis(value.u64()?),
                    message: PublishRecord::decode(value)?,
                },
                _ => return Err(RecordError::Damaged),
            },
        })
    }
}

fn note(value: &mut Reader<'_>) -> Result<(Lsn, Note), RecordError> {
    let (lsn, bytes, expires, flags) = (Lsn(value.u64()?), value.u32()?, Expiry(value.u32()?), value.u8()?);
    let qos = QoS::from_bits(flags & 3).ok_or(RecordError::Damaged)?;
    Ok((lsn, Note { bytes, expires, qos, retain: flags & 4 != 0 }))
}

fn delivery((lsn, note): (Lsn, Note), identifiers: Identifiers) -> Delivery {
    let Note { bytes, expires, qos, retain } = note;
    Delivery { lsn, message: None, bytes, expires, qos, retain, identifiers, group: None, retained_at: Lsn(0) }
}

fn queue_entries(value: &mut Reader<'_>) -> Result<Vec<Queued>, RecordError> {
    let mut entries = Vec::new();
    while !value.0.is_empty() {
        let sequence = value.u64()?;
        let note = note(value)?;
        entries.push(Queued { sequence, delivery: delivery(note, value.identifiers()?) });
    }
    Ok(entries)
}

fn group_entries(value: &mut Reader<'_>) -> Result<Vec<Delivery>, RecordError> {
    let mut entries = Vec::new();
    while !value.0.is_empty() {
        entries.push(delivery(note(value)?, Identifiers::new()));
    }
    Ok(entries)
}

fn will<'a>(value: &mut Reader<'a>) -> Result<WillRecord<'a>, RecordError> {
    let length = value.u32()?;
    WillRecord::decode(&mut Reader(value.bytes(length as usize)?))
}

impl<'a> FoldedSession<'a> {
    fn decode(epoch: u64, value: &mut Reader<'a>) -> Result<Self, RecordError> {
        let as_of = Lsn(value.u64()?);
        let flags = value.u8()?;
        let (client_id, principal) = (value.text()?, value.principal()?);
        let (expiry_seconds, expires_at) = (value.u32()?, value.time()?);
        let attached_will = if flags & HAS_WILL != 0 { Some(will(value)?) } else { None };
        let delayed_will =
            if flags & HAS_DELAYED_WILL != 0 { Some((Millis(value.u64()?), will(value)?)) } else { None };
        let mut received = Vec::new();
        for _ in 0..value.u32()? {
            received.push(PacketId::new(value.u16()?).ok_or(RecordError::Damaged)?);
        }
        let mut subscriptions = Vec::new();
        for _ in 0..value.u32()? {
            let (bits, identifier) = (value.u8()?, value.u32()?);
            let subscription = Subscription::from_coded(bits, identifier).ok_or(RecordError::Damaged)?;
            subscriptions.push((value.text()?, subscription));
        }
        let lanes = [FoldedLane::decode(value)?, FoldedLane::decode(value)?];
        let mut backlog = Vec::new();
        while !value.0.is_empty() {
            let qos = QoS::from_bits(value.u8()?).ok_or(RecordError::Damaged)?;
            let (identifiers, lsn, length) = (value.identifiers()?, Lsn(value.u64()?), value.u32()?);
            let message = PublishRecord::decode(&mut Reader(value.bytes(length as usize)?))?;
            backlog.push((qos, identifiers, lsn, message));
        }
        Ok(FoldedSession {
            epoch,
            as_of,
            client_id,
            principal,
            expiry_seconds,
            expires_at,
            overflow: if flags & DROPS_OLDEST != 0 { Overflow::DropOldest } else { Overflow::RefuseNew },
            missed_presence: flags & MISSED_PRESENCE != 0,
            attached: (flags & IS_ATTACHED != 0).then_some(attached_will),
            delayed_will,
            received,
            subscriptions,
            lanes,
            backlog,
        })
    }
}

impl FoldedLane {
    fn decode(value: &mut Reader<'_>) -> Result<Self, RecordError> {
        let (next_sequence, sent_through, next) = (value.u64()?, value.u64()?, value.u64()?);
        let mut sequences = || {
            let mut sequences = Vec::new();
            for _ in 0..value.u32()? {
                sequences.push(value.u64()?);
            }
            Ok(sequences)
        };
        let (open, released) = (sequences()?, sequences()?);
        let saved = (value.u64()?, value.u64()?);
        Ok(FoldedLane { next_sequence, sent_through, next, open, released, saved })
    }
}
