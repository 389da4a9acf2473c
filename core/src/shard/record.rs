//! What the shard writes into the log, and when.
//!
//! Owns the choice of what is recorded: only what outlives the process, so only for sessions that do. Acknowledgements by
//! subscribers are gathered and recorded lazily: a crash may deliver again, never lose.

use std::ops::Range;

use causeway_fleet::command::CommandId;
use causeway_fleet::shadow::Format;
use causeway_fleet::{Principal, Vin};
use causeway_protocol::{PacketId, QoS};

use super::Shard;
use super::deliver::Origin;
use super::matching::Match;
use super::room::Skipped;
use super::timers::Timer;
use crate::connection::KeptWill;
use crate::index::Subscription;
use crate::lane::LaneName;
use crate::message::{CopyFor, Message, Publication, Step};
use crate::queue::Delivery;
use crate::record::{
    AddressRecord, DirectedRecord, EndedRecord, Event, HandedRecord, PublishRecord, Record, RequestedRecord,
    RetriedRecord, ShadowRecord,
};
use crate::session::{Session, SessionKey};
use crate::shared::GroupKey;
use crate::{Lsn, Millis};

/// Progress of subscribers is recorded this often.
const PROGRESS_SECONDS: u32 = 1;
/// And after so many messages of one session. Far fewer than there are packet identifiers: two messages that a crash leaves
/// unfinished must not share one.
const PROGRESS_MESSAGES: u32 = 1024;

impl Shard {
    fn append(&mut self, now: Millis, event: Event<'_>) -> Lsn {
        self.newest = self.newest.max(now);
        self.counters.records_appended += 1;
        self.recorder.append(&Record { now, event })
    }

    /// One record for a publish, whatever its fan-out.
    pub(super) fn record_publish(
        &mut self,
        now: Millis,
        publication: &Publication<'_>,
        lane: LaneName,
        origin: Origin,
        skipped: Skipped,
    ) -> Lsn {
        let (publisher, packet_id) = self.publisher_of(origin);
        self.counters.records_appended += 1;
        let groups = &self.groups;
        let named = |key: &GroupKey| groups.get(*key).map(|group| (&*group.share_name, &*group.filter));
        let record = PublishRecord {
            qos: publication.qos,
            retain: publication.retain,
            urgent: lane == LaneName::Urgent,
            expires_at: publication.expires_at,
            publisher,
            packet_id,
            stamp: publication.stamp,
            provenance: publication.provenance.clone(),
            topic: publication.topic,
            forwarded: publication.forwarded,
            payload: publication.payload,
            skipped_sessions: skipped.sessions,
            skipped_groups: skipped.groups.iter().filter_map(named).collect(),
        };
        let event = match publication.step {
            Step::None if publication.copy == CopyFor::Home => Event::Call(record),
            Step::None | Step::Told(_) => Event::Publish(record),
            Step::Requested(terms, is_sent) => {
                Event::CommandRequested(RequestedRecord { terms: Box::new(terms.clone()), is_sent, message: record })
            }
            Step::Sent(id) => Event::CommandSent(id, record),
            Step::Refused(refused) => Event::CommandRefused(Box::new(refused.clone()), record),
            Step::Ended(id, outcome) => Event::CommandEnded(EndedRecord { id, outcome, message: record }),
        };
        self.newest = self.newest.max(now);
        self.recorder.append(&Record { now, event })
    }

    /// Likewise of a step of a command with which nothing is published.
    pub(super) fn record_step(&mut self, now: Millis, publication: &Publication<'_>, cause: Origin) -> Lsn {
        self.record_publish(now, publication, LaneName::Bulk, cause, Skipped::default())
    }

    /// A command is requested again.
    pub(super) fn record_retried(
        &mut self,
        now: Millis,
        id: CommandId,
        address: AddressRecord<'_>,
        cause: Origin,
    ) -> Lsn {
        let (publisher, packet_id) = self.publisher_of(cause);
        self.append(now, Event::CommandRetried(RetriedRecord { id, address, publisher, packet_id }))
    }

    /// Who published a message, and by which identifier it is known to have been, where the log knows them.
    fn publisher_of(&self, origin: Origin) -> (Option<u64>, Option<PacketId>) {
        match origin {
            Origin::Client { session, packet_id } | Origin::Command { session, packet_id } => {
                let publisher = session.and_then(|key| self.recorded_epoch(key));
                (publisher, packet_id.filter(|_| publisher.is_some()))
            }
            Origin::Will { session } => (self.recorded_epoch(session), None),
            Origin::Broker | Origin::Presence | Origin::Service { .. } => (None, None),
        }
    }

    /// A shadow changes, as somebody asked in a message or otherwise.
    pub(super) fn record_shadow(
        &mut self,
        now: Millis,
        (vin, name): (Vin, Option<&str>),
        (by, origin): (&Principal, Origin),
        (format, change): (Format, &[u8]),
    ) -> Lsn {
        let (publisher, packet_id) = self.publisher_of(origin);
        let record = ShadowRecord { vin, name, by: by.clone(), publisher, packet_id, format, change };
        self.append(now, Event::Shadow(record))
    }

    /// A session that outlives its connection is known to the log from its first connection on.
    pub(super) fn record_attached(&mut self, now: Millis, key: SessionKey, will: Option<&KeptWill>) {
        let known = |session: &&mut Session| session.recorded || session.is_persistent();
        let Some(session) = self.sessions.get_mut(key as usize).filter(known) else {
            return;
        };
        let (epoch, expiry_seconds, overflow) = (session.epoch, session.expiry_seconds, session.overflow);
        self.changed.session(key);
        let opens = !std::mem::replace(&mut session.recorded, true);
        let (client_id, principal) = (session.client_id.clone(), session.principal.clone());
        if opens {
            self.append(now, Event::SessionOpened { session: epoch, client_id: &client_id, principal });
        }
        let will = will.map(KeptWill::as_record);
        self.append(now, Event::SessionAttached { session: epoch, expiry_seconds, overflow, will });
    }

    pub(super) fn record_detached(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.recorded_epoch(key) else { return };
        self.record_progress_of(now, key);
        self.changed.session(key);
        let Some(detached) = self.sessions.get(key as usize) else { return };
        let expires_at = detached.expires_at;
        let will_due = detached.will.as_ref().map(|delayed| delayed.due);
        self.append(now, Event::SessionDetached { session, expires_at, will_due });
    }

    pub(super) fn record_ended(&mut self, now: Millis, key: SessionKey) {
        if let Some(session) = self.recorded_epoch(key) {
            if let Some(ended) = self.sessions.get(key as usize) {
                self.changed.session_ended(ended);
            }
            self.append(now, Event::SessionEnded { session });
        }
    }

    pub(super) fn record_will_published(&mut self, now: Millis, key: SessionKey) {
        if let Some(session) = self.recorded_epoch(key) {
            self.changed.session(key);
            self.append(now, Event::WillPublished { session });
        }
    }

    pub(super) fn record_subscribed(
        &mut self,
        now: Millis,
        key: SessionKey,
        filter: &str,
        subscription: Subscription,
        sends_retained: bool,
    ) -> Lsn {
        self.changed.session(key);
        match self.recorded_epoch(key) {
            Some(session) => self.append(now, Event::Subscribed { session, filter, subscription, sends_retained }),
            None => Lsn(0),
        }
    }

    pub(super) fn record_unsubscribed(&mut self, now: Millis, key: SessionKey, filter: &str) {
        if let Some(session) = self.recorded_epoch(key) {
            self.changed.session(key);
            self.append(now, Event::Unsubscribed { session, filter });
        }
    }

    pub(super) fn record_released(&mut self, now: Millis, key: SessionKey, packet_id: PacketId) -> Lsn {
        self.changed.session(key);
        match self.recorded_epoch(key) {
            Some(session) => self.append(now, Event::Released { session, packet_id }),
            None => Lsn(0),
        }
    }

    pub(super) fn record_received(&mut self, now: Millis, key: SessionKey, lane: LaneName, sequence: u64) -> Lsn {
        self.changed.session(key);
        match self.recorded_epoch(key) {
            Some(session) => self.append(now, Event::Received { session, lane, sequence }),
            None => Lsn(0),
        }
    }

    /// A retained message takes its place in a session's queue, where it is finished exactly like any other.
    pub(super) fn record_directed(
        &mut self,
        now: Millis,
        key: SessionKey,
        lane: LaneName,
        message: &Message,
        due: &Delivery,
    ) -> Lsn {
        self.changed.session(key);
        let Some(session) = self.recorded_epoch(key) else { return Lsn(0) };
        let identifiers = due.identifiers.clone();
        let urgent = lane == LaneName::Urgent;
        let message = PublishRecord { retain: true, urgent, ..message.as_record() };
        let (qos, retained_at) = (due.qos, due.retained_at);
        self.append(now, Event::Directed(Box::new(DirectedRecord { session, retained_at, qos, identifiers, message })))
    }

    /// A message of a shared subscription takes its place in a member's queue.
    pub(super) fn record_handed(
        &mut self,
        now: Millis,
        (key, lane): (SessionKey, LaneName),
        group: GroupKey,
        delivery: &Delivery,
    ) -> Lsn {
        self.changed.session(key);
        self.changed.group(group);
        let Some(session) = self.recorded_epoch(key) else { return Lsn(0) };
        let Some(group) = self.groups.get(group) else { return Lsn(0) };
        let (share_name, filter) = (group.share_name.clone(), group.filter.clone());
        let Delivery { lsn, bytes, expires, qos, retain, .. } = *delivery;
        let identifiers = delivery.identifiers.clone();
        let (share_name, filter) = (&*share_name, &*filter);
        let handed = HandedRecord { session, lane, lsn, bytes, expires, qos, retain, identifiers, share_name, filter };
        self.append(now, Event::Handed(handed))
    }

    pub(super) fn record_dropped(&mut self, now: Millis, key: SessionKey, lane: LaneName, range: Range<u64>) {
        self.changed.session(key);
        if let Some(session) = self.recorded_epoch(key) {
            self.append(now, Event::Dropped { session, lane, from: range.start, through: range.end });
        }
    }

    /// Notes that a session got further, to be recorded soon.
    pub(super) fn note_progress(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key as usize).filter(|session| session.recorded) else { return };
        self.changed.session(key);
        session.finished_since += 1;
        if session.finished_since >= PROGRESS_MESSAGES {
            self.record_progress_of(now, key);
            return;
        }
        if !std::mem::replace(&mut session.progress_noted, true) {
            self.progress.push((key, session.epoch));
            self.set_progress_timer(now);
        }
    }

    /// Likewise a shared subscription.
    pub(super) fn note_group_progress(&mut self, now: Millis, key: GroupKey) {
        let Some(group) = self.groups.get_mut(key) else { return };
        self.changed.group(key);
        if !std::mem::replace(&mut group.progress_noted, true) {
            self.group_progress.push(key);
            self.set_progress_timer(now);
        }
    }

    pub(super) fn finish_in_group(&mut self, now: Millis, key: GroupKey, lsn: Lsn) {
        if let Some(group) = self.groups.get_mut(key) {
            group.finish(lsn);
            self.note_group_progress(now, key);
        }
    }

    pub(super) fn set_progress_timer(&mut self, now: Millis) {
        if !std::mem::replace(&mut self.progress_timer_set, true) {
            self.timers.set(now.plus_seconds(PROGRESS_SECONDS), Timer::Progress);
        }
    }

    /// Records all progress that was noted.
    pub(super) fn on_progress(&mut self, now: Millis) {
        self.progress_timer_set = false;
        self.look_for_room(now);
        for (key, epoch) in std::mem::take(&mut self.progress) {
            if self.sessions.get(key as usize).is_some_and(|session| session.epoch == epoch) {
                self.record_progress_of(now, key);
            }
        }
        let last = self.recorder.last();
        for key in std::mem::take(&mut self.group_progress) {
            let Some(group) = self.groups.get_mut(key) else { continue };
            group.progress_noted = false;
            let (share_name, filter) = (group.share_name.clone(), group.filter.clone());
            let persistent = |member| self.sessions.get(member as usize).is_some_and(|session| session.recorded);
            if group.members().any(|(member, _)| persistent(member)) {
                let (next, open) = group.progress(&self.queues, last);
                self.append(now, Event::GroupProgress { share_name: &share_name, filter: &filter, next, open });
            }
        }
    }

    pub(super) fn record_progress_of(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key as usize).filter(|session| session.recorded) else { return };
        session.progress_noted = false;
        session.finished_since = 0;
        let (epoch, (lanes, backlog)) = (session.epoch, session.progress(&self.queues));
        let oldest = lanes.each_ref().map(|lane| lane.open.first().map_or(lane.next, |open| lane.next.min(*open)));
        let at = self.append(now, Event::Progress { session: epoch, backlog, lanes });
        if let Some(session) = self.sessions.get_mut(key as usize) {
            // There are both lanes or none.
            for ((_, lane), oldest) in session.used_lanes_mut().zip(oldest) {
                lane.progressed(oldest, at);
            }
        }
    }

    /// Whether the log knows the session.
    pub(super) fn is_recorded(&self, key: SessionKey) -> bool {
        self.recorded_epoch(key).is_some()
    }

    /// The epoch of a session, if the log knows it.
    fn recorded_epoch(&self, key: SessionKey) -> Option<u64> {
        self.sessions.get(key as usize).filter(|session| session.recorded).map(|session| session.epoch)
    }

    /// Whether the message needs a record: somebody is owed it beyond the life of the process, or it has to take a place in a queue
    /// whose places a crash must bring back as they were.
    pub(super) fn is_owed(&self, now: Millis, publication: &Publication<'_>) -> bool {
        if publication.retain && publication.copy != CopyFor::Present {
            return true;
        }
        let persistent = |key: SessionKey| self.sessions.get(key as usize).is_some_and(|s| s.is_persistent());
        let needs_record = |matched: &Match| {
            let is_lasting = matched.qos > QoS::AtMostOnce && persistent(matched.session);
            is_lasting
                && !(matched.fleeting && self.can_pass(now, publication, matched.session, self.lane_of(publication)))
        };
        publication.qos > QoS::AtMostOnce
            && (self.matches.iter().any(needs_record)
                || self.matched_groups.iter().any(|&group| {
                    let group = self.groups.get(group);
                    group.is_some_and(|group| {
                        group.members().any(|(member, subscription)| !subscription.fleeting && persistent(member))
                    })
                }))
    }
}
