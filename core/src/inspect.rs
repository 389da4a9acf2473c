//! What a shard's disk holds, for people: sessions, queues and totals of a broker that is not running.
//!
//! Owns plain values for it. The state is made by [`Shard`] itself, by the same restore and replay as at a start, and read back as it
//! would be folded: so this never shows anything a broker would not have. It changes nothing and never publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;

use crate::folded::{Folded, FoldedSession};
use crate::lane::LaneName;
use crate::queue::{Expiry, Queued};
use crate::record::{Event, PublishRecord, Record, WillRecord};
use crate::{Change, Limits, Lsn, Millis, RecordError, Shard};

/// What an entry of the folded state is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// Values of the whole shard.
    Meta,
    /// A session.
    Session,
    /// Part of a session's queue.
    Queue,
    /// A shared subscription.
    SharedSubscription,
    /// A retained message.
    Retained,
    /// A shadow.
    Shadow,
    /// What became of a shadow.
    History,
    /// A command, pending or over.
    Command,
}

impl EntryKind {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Meta => "meta",
            EntryKind::Session => "sessions",
            EntryKind::Queue => "queue parts",
            EntryKind::SharedSubscription => "shared subscriptions",
            EntryKind::Retained => "retained messages",
            EntryKind::Shadow => "shadows",
            EntryKind::History => "history",
            EntryKind::Command => "commands",
        }
    }
}

/// Reads one entry of the folded state and says what it is about.
///
/// # Errors
/// Where it is no entry.
pub fn check_entry(key: &[u8], value: &[u8]) -> Result<EntryKind, RecordError> {
    Ok(kind_of(&Folded::decode(key, value)?))
}

fn kind_of(entry: &Folded<'_>) -> EntryKind {
    match entry {
        Folded::Meta { .. } => EntryKind::Meta,
        Folded::Session(_) => EntryKind::Session,
        Folded::Queue { .. } => EntryKind::Queue,
        Folded::Group { .. } => EntryKind::SharedSubscription,
        Folded::Retained { .. } => EntryKind::Retained,
        Folded::Shadow { .. } => EntryKind::Shadow,
        Folded::History => EntryKind::History,
        Folded::Command(_) => EntryKind::Command,
    }
}

/// Reads one record of the log.
///
/// # Errors
/// Where the bytes are no record.
pub fn check_record(bytes: &[u8]) -> Result<(), RecordError> {
    Record::decode(bytes).map(drop)
}

/// The message that a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageView {
    /// Its topic.
    pub topic: String,
    /// Bytes of its payload.
    pub payload_bytes: usize,
}

/// The message of a record, if it has one.
///
/// # Errors
/// Where the bytes are no record.
pub fn message(bytes: &[u8]) -> Result<Option<MessageView>, RecordError> {
    let view = |publish: &PublishRecord<'_>| MessageView {
        topic: publish.topic.to_owned(),
        payload_bytes: publish.payload.len(),
    };
    Ok(match &Record::decode(bytes)?.event {
        Event::Publish(publish) | Event::Call(publish) => Some(view(publish)),
        Event::CommandRequested(requested) => Some(view(&requested.message)),
        Event::CommandSent(_, message) => Some(view(message)),
        Event::CommandRefused(_, message) => Some(view(message)).filter(|view| !view.topic.is_empty()),
        Event::CommandEnded(ended) => Some(view(&ended.message)).filter(|view| !view.topic.is_empty()),
        Event::Directed(directed) => Some(view(&directed.message)),
        _ => None,
    })
}

/// A will that a session has left with the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillView {
    /// Where it goes.
    pub topic: String,
    /// Bytes of its payload.
    pub payload_bytes: usize,
    /// Its QoS.
    pub qos: u8,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Seconds between the end of the connection and the will.
    pub delay_seconds: u32,
    /// When it is published, where the connection has ended.
    pub due: Option<Millis>,
}

impl WillView {
    fn of(will: &WillRecord<'_>, due: Option<Millis>) -> WillView {
        WillView {
            topic: will.topic.to_owned(),
            payload_bytes: will.payload.len(),
            qos: will.qos as u8,
            retain: will.retain,
            delay_seconds: will.delay_seconds,
            due,
        }
    }
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionView {
    /// Its filter; that of a shared one begins with `$share/`.
    pub filter: String,
    /// The highest QoS.
    pub qos: u8,
}

/// One queued message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryView {
    /// Its record.
    pub lsn: Lsn,
    /// What it counts against limits: topic, properties and payload.
    pub bytes: u32,
    /// With which it is delivered.
    pub qos: u8,
    /// Whether it is delivered with RETAIN.
    pub retain: bool,
    /// When it expires, in seconds since 1970.
    pub expires_at_seconds: Option<u32>,
    /// Whether the client may have got it: sent, or about to be, and not acknowledged.
    pub may_be_sent: bool,
}

/// One of a session's queues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneView {
    /// What waits in it, in order, what is in flight included.
    pub entries: Vec<EntryView>,
    /// QoS 2 messages that the client has and of which only the PUBREL is left.
    pub releases: usize,
}

impl LaneView {
    /// Bytes of all messages in it.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.bytes)).sum()
    }
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Its client.
    pub client_id: String,
    /// Whose it is; none for anonymous.
    pub principal: String,
    /// Whether it had a connection when the log ended.
    pub attached: bool,
    /// Seconds it outlives its connection; `u32::MAX` for ever.
    pub expiry_seconds: u32,
    /// When it ends, where it had no connection.
    pub expires_at: Option<Millis>,
    /// Ordered by filter.
    pub subscriptions: Vec<SubscriptionView>,
    /// What is sent first.
    pub urgent: LaneView,
    /// All else.
    pub bulk: LaneView,
    /// QoS 2 identifiers of its own messages that it has not released.
    pub received: usize,
    /// Retained messages that are due because it subscribed.
    pub retained_due: usize,
    /// Its will.
    pub will: Option<WillView>,
}

impl SessionView {
    /// Messages in both queues.
    pub fn messages(&self) -> usize {
        self.urgent.entries.len() + self.bulk.entries.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.urgent.bytes() + self.bulk.bytes()
    }
}

/// One shared subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedView {
    /// Its name.
    pub share_name: String,
    /// Its filter.
    pub filter: String,
    /// Messages that no member has yet.
    pub messages: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What there is besides sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Those with members or messages.
    pub shared: Vec<SharedView>,
    /// Retained messages.
    pub retained_messages: u64,
    /// Their bytes.
    pub retained_bytes: u64,
}

/// A shard that is looked at. Give it all entries of the folded state, then the log behind it, then [`Inspection::finish`].
#[derive(Debug)]
pub struct Inspection {
    shard: Shard,
    last: Lsn,
    /// Which sessions have a connection, as a replay knows it: with its will.
    attached: BTreeMap<u64, Option<WillView>>,
    /// What the folded state's sessions are true as of.
    as_of: BTreeMap<u64, Lsn>,
}

impl Inspection {
    /// Nothing yet.
    pub fn new(now: Millis) -> Inspection {
        let mut shard = Shard::new(now, Arc::new(Limits::default()), "", 0);
        shard.read_bodies_from_log();
        Inspection { shard, last: Lsn(0), attached: BTreeMap::new(), as_of: BTreeMap::new() }
    }

    /// Takes an entry of the folded state. All of them, in the order of their keys.
    ///
    /// # Errors
    /// Where it is no entry, or refers to one that did not come.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<EntryKind, RecordError> {
        let entry = Folded::decode(key, value)?;
        if let Folded::Session(session) = &entry {
            self.as_of.insert(session.epoch, session.as_of);
            if let Some(will) = &session.attached {
                self.attached.insert(session.epoch, will.as_ref().map(|will| WillView::of(will, None)));
            }
        }
        self.shard.restore(key, value)?;
        Ok(kind_of(&entry))
    }

    /// Ends the folded state, whose mark says this.
    pub fn restored(&mut self, applied: Lsn, through: Lsn) {
        self.shard.restored(applied, through);
        self.last = applied;
    }

    /// Takes a record of the log behind the folded state. All of them, in order.
    ///
    /// # Errors
    /// Where the bytes are no record, or do not follow from those before.
    pub fn replay(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), RecordError> {
        self.note_connection(at, &Record::decode(bytes)?.event);
        self.last = at;
        self.shard.replay(at, bytes)
    }

    fn note_connection(&mut self, at: Lsn, event: &Event<'_>) {
        let Some(epoch) = event.session() else { return };
        if self.as_of.get(&epoch).is_some_and(|as_of| at <= *as_of) {
            return;
        }
        match event {
            Event::SessionAttached { will, .. } => {
                self.attached.insert(epoch, will.as_ref().map(|will| WillView::of(will, None)));
            }
            Event::SessionDetached { .. } | Event::SessionEnded { .. } => drop(self.attached.remove(&epoch)),
            _ => {}
        }
    }

    /// Hands out every session, and says what else there is.
    ///
    /// # Errors
    /// None that the shard would not have told before.
    pub fn finish(mut self, visit: &mut dyn FnMut(SessionView)) -> Result<Totals, RecordError> {
        let gauges = self.shard.gauges();
        let mut totals = Totals {
            retained_messages: gauges.retained_messages,
            retained_bytes: gauges.retained_bytes,
            ..Totals::default()
        };
        // A fold begins only where something happened since the last, and after a failed one it is a whole one.
        self.shard.replay(Lsn(self.last.0 + 1), &nothing())?;
        self.shard.checkpoint_ended(false);
        if !self.shard.begin_checkpoint() {
            return Err(RecordError::OutOfPlace);
        }
        let mut lanes: [Vec<Queued>; 2] = Default::default();
        let mut ended = false;
        while !ended {
            let mut changes = Vec::new();
            ended = self.shard.poll_checkpoint(1, &mut changes).is_some();
            for change in &changes {
                let Change::Put { key, value } = change else { continue };
                match Folded::decode(key, value)? {
                    // A session comes behind its queues.
                    Folded::Queue { lane, entries, .. } => lanes[lane as usize].extend(entries),
                    Folded::Session(session) => visit(self.view(*session, std::mem::take(&mut lanes))),
                    Folded::Group { share_name, filter, entries, .. } => totals.shared.push(SharedView {
                        share_name: share_name.to_owned(),
                        filter: filter.to_owned(),
                        messages: entries.len(),
                        bytes: entries.iter().map(|entry| u64::from(entry.bytes)).sum(),
                    }),
                    Folded::Meta { .. }
                    | Folded::Retained { .. }
                    | Folded::Shadow { .. }
                    | Folded::Command(_)
                    | Folded::History => {}
                }
            }
        }
        totals.shared.sort_by(|one, other| (&one.share_name, &one.filter).cmp(&(&other.share_name, &other.filter)));
        Ok(totals)
    }

    fn view(&self, session: FoldedSession<'_>, mut queued: [Vec<Queued>; 2]) -> SessionView {
        let mut lane = |name: LaneName| {
            let terms = &session.lanes[name as usize];
            let released: BTreeSet<u64> = terms.released.iter().copied().collect();
            let mut entries = std::mem::take(&mut queued[name as usize]);
            entries.retain(|entry| !released.contains(&entry.sequence));
            entries.sort_by_key(|entry| entry.sequence);
            LaneView {
                entries: entries.iter().map(|entry| entry_view(entry, terms.sent_through)).collect(),
                releases: released.len(),
            }
        };
        let (urgent, bulk) = (lane(LaneName::Urgent), lane(LaneName::Bulk));
        let connection = self.attached.get(&session.epoch);
        let delayed = session.delayed_will.as_ref().map(|(due, will)| WillView::of(will, Some(*due)));
        let view = |(filter, subscription): &(&str, crate::index::Subscription)| SubscriptionView {
            filter: (*filter).to_owned(),
            qos: subscription.qos as u8,
        };
        let mut subscriptions: Vec<SubscriptionView> = session.subscriptions.iter().map(view).collect();
        subscriptions.sort_by(|one, other| one.filter.cmp(&other.filter));
        SessionView {
            client_id: session.client_id.to_owned(),
            principal: session.principal.to_string(),
            attached: connection.is_some(),
            expiry_seconds: session.expiry_seconds,
            expires_at: session.expires_at,
            subscriptions,
            urgent,
            bulk,
            received: session.received.len(),
            retained_due: session.backlog.len(),
            will: connection.cloned().flatten().or(delayed),
        }
    }
}

/// A record that changes nothing: it is about a shared subscription that cannot be.
fn nothing() -> BytesMut {
    let event = Event::GroupProgress { share_name: "", filter: "", next: 0, open: Vec::new() };
    let mut bytes = BytesMut::new();
    Record { now: Millis(0), event }.encode(&mut bytes);
    bytes
}

fn entry_view(queued: &Queued, sent_through: u64) -> EntryView {
    let delivery = &queued.delivery;
    EntryView {
        lsn: delivery.lsn,
        bytes: delivery.bytes,
        qos: delivery.qos as u8,
        retain: delivery.retain,
        expires_at_seconds: (delivery.expires != Expiry::NEVER).then_some(delivery.expires.0),
        may_be_sent: queued.sequence < sent_through,
    }
}

#[cfg(test)]
mod tests {
    use causeway_protocol::{ForwardedProperties, QoS};

    use super::*;
    use crate::index::Subscription;
    use crate::lane::LaneProgress;
    use crate::record::DirectedRecord;

    fn record(event: Event<'_>) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        Record { now: Millis(1000), event }.encode(&mut bytes);
        bytes.to_vec()
    }

    fn publish(topic: &'static str, urgent: bool, expires_at: Option<Millis>) -> PublishRecord<'static> {
        PublishRecord {
            qos: QoS::AtLeastOnce,
            retain: false,
            urgent,
            expires_at,
            publisher: None,
            packet_id: None,
            provenance: None,
            topic,
            forwarded: ForwardedProperties::default(),
            payload: b"payload",
            stamp: 0,
            skipped_sessions: Vec::new(),
            skipped_groups: Vec::new(),
        }
    }

    fn subscribed(filter: &'static str) -> Vec<u8> {
        let subscription = Subscription::at(QoS::AtLeastOnce);
        record(Event::Subscribed { session: 1, filter, subscription, sends_retained: false })
    }

    fn opened() -> Vec<Vec<u8>> {
        let will = WillRecord {
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_seconds: 5,
            expiry_seconds: None,
            topic: "gone",
            forwarded: ForwardedProperties::default(),
            payload: b"bye",
        };
        vec![
            record(Event::SessionOpened {
                session: 1,
                client_id: "c",
                principal: causeway_fleet::Principal::service("u"),
            }),
            record(Event::SessionAttached {
                session: 1,
                expiry_seconds: 60,
                overflow: crate::Overflow::RefuseNew,
                will: Some(will),
            }),
            subscribed("t/#"),
        ]
    }

    fn progress(next: u64, open: &[u64]) -> Vec<u8> {
        let bulk = LaneProgress { next, sent_through: next, open: open.to_vec() };
        record(Event::Progress { session: 1, backlog: 0, lanes: [LaneProgress::default(), bulk] })
    }

    type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

    fn replayed(entries: &Entries, applied: u64, records: &[Vec<u8>]) -> Inspection {
        let mut inspection = Inspection::new(Millis(2000));
        for (key, value) in entries {
            inspection.restore(key, value).unwrap();
        }
        if applied > 0 {
            inspection.restored(Lsn(applied), Lsn(applied));
        }
        for (at, record) in records.iter().enumerate().skip(applied as usize) {
            inspection.replay(Lsn(at as u64 + 1), record).unwrap();
        }
        inspection
    }

    fn seen(inspection: Inspection) -> (Vec<SessionView>, Totals) {
        let mut sessions = Vec::new();
        let totals = inspection.finish(&mut |session| sessions.push(session)).unwrap();
        (sessions, totals)
    }

    /// Folds all of `records`, onto what was folded of them up to `applied`.
    fn folded(entries: &Entries, applied: u64, records: &[Vec<u8>]) -> Entries {
        let mut shard = replayed(entries, applied, records).shard;
        let mut changes = Vec::new();
        assert!(shard.begin_checkpoint());
        while shard.poll_checkpoint(1, &mut changes).is_none() {}
        let mut entries = entries.clone();
        for change in changes {
            match change {
                Change::RemoveRange { from, to, .. } => entries.retain(|key, _| *key < from || *key >= to),
                Change::Put { key, value } => drop(entries.insert(key, value)),
                Change::Remove { key } => drop(entries.remove(&key)),
                Change::RemoveBody(_) => {}
            }
        }
        entries
    }

    #[test]
    fn a_session_is_shown_whole_from_the_log_and_from_the_folded_state() {
        let mut records = opened();
        records.extend([
            record(Event::Publish(publish("t/1", false, None))),
            record(Event::Publish(publish("t/2", true, Some(Millis(9000))))),
            record(Event::Directed(Box::new(DirectedRecord {
                session: 1,
                retained_at: Lsn(1),
                qos: QoS::AtLeastOnce,
                identifiers: Default::default(),
                message: publish("t/3", false, None),
            }))),
            progress(0, &[]),
        ]);
        let from_log = seen(replayed(&Entries::new(), 0, &records));
        let session = &from_log.0[0];
        assert_eq!(
            (session.client_id.as_str(), session.principal.as_str(), session.attached),
            ("c", "service:u", true)
        );
        assert_eq!(session.subscriptions, [SubscriptionView { filter: "t/#".to_owned(), qos: 1 }]);
        let lsns = |lane: &LaneView| lane.entries.iter().map(|entry| entry.lsn.0).collect::<Vec<_>>();
        assert_eq!((lsns(&session.urgent), lsns(&session.bulk)), (vec![5], vec![4, 6]));
        assert_eq!(session.urgent.entries[0].expires_at_seconds, Some(9));
        assert_eq!(session.bytes(), 3 * 10);
        let will = session.will.as_ref().unwrap();
        assert_eq!((will.topic.as_str(), will.payload_bytes, will.due), ("gone", 3, None));
        for applied in 1..=records.len() {
            let entries = folded(&Entries::new(), 0, &records[..applied]);
            let mut from_state = seen(replayed(&entries, applied as u64, &records));
            // A fold of a replay knows no connections: those of before are not ours to tell.
            from_state.0[0].attached = true;
            from_state.0[0].will = session.will.clone();
            assert_eq!(from_state, from_log, "folded up to {applied}");
        }
        let detached =
            record(Event::SessionDetached { session: 1, expires_at: Some(Millis(7)), will_due: Some(Millis(6)) });
        records.push(detached);
        let session = &seen(replayed(&Entries::new(), 0, &records)).0[0];
        assert_eq!((session.attached, session.expires_at), (false, Some(Millis(7))));
        assert_eq!(session.will.as_ref().unwrap().due, Some(Millis(6)));
    }

    #[test]
    fn what_is_done_between_what_is_open_is_not_shown() {
        let mut records = opened();
        records.extend((0..300).map(|_| record(Event::Publish(publish("t", false, None)))));
        let count = |entries: &Entries, applied: usize, records: &[Vec<u8>]| {
            seen(replayed(entries, applied as u64, records)).0[0].messages()
        };
        // Filter t/# matches t, too.
        let before = folded(&Entries::new(), 0, &records);
        assert_eq!(count(&before, records.len(), &records), 300);
        records.push(progress(10, &[0]));
        assert_eq!(count(&Entries::new(), 0, &records), 291);
        assert_eq!(count(&before, records.len() - 1, &records), 291);
    }

    #[test]
    fn messages_and_damage_are_told_apart() {
        let bytes = record(Event::Publish(publish("t", false, None)));
        assert_eq!(message(&bytes), Ok(Some(MessageView { topic: "t".to_owned(), payload_bytes: 7 })));
        assert_eq!(message(&progress(1, &[])), Ok(None));
        assert_eq!(check_record(&bytes[..5]), Err(RecordError::Damaged));
        let entries = folded(&Entries::new(), 0, &opened());
        let kinds: Vec<EntryKind> = entries.iter().map(|(key, value)| check_entry(key, value).unwrap()).collect();
        assert_eq!(kinds, [EntryKind::Meta, EntryKind::Session]);
        assert!(check_entry(&[9], &[1]).is_err());
    }
}
