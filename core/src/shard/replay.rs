//! From the log back to the state: each record is applied as it was decided, and nothing is decided anew.
//!
//! Owns replay, and what a restart means: every connection of the earlier run is gone, as if its network had failed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use causeway_fleet::Principal;
use causeway_fleet::shadow::Change;
use causeway_protocol::{PacketId, QoS};

use super::Shard;
use super::deliver::Origin;
use super::matching::Match;
use super::presence::is_presence;
use crate::connection::KeptWill;
use crate::crossing;
use crate::folded::FoldedLane;
use crate::index::Subscription;
use crate::lane::LaneName;
use crate::message::{CopyFor, Message, Publication};
use crate::queue::{Delivery, Expiry};
use crate::record::{DirectedRecord, Event, HandedRecord, PublishRecord, Record, RecordError, ShadowRecord};
use crate::session::{DelayedWill, Session, SessionKey};
use crate::shared::GroupKey;
use crate::{Lsn, Millis};

/// What is only known while the log is replayed.
#[derive(Debug, Default)]
pub(super) struct Replay {
    by_epoch: BTreeMap<u64, SessionKey>,
    /// Sessions that had a connection, with its will. Ordered, so that two replays do the same.
    pub(super) attached: BTreeMap<u64, Option<KeptWill>>,
    /// The folded state may have what happened up to here.
    pub(super) through: Lsn,
    /// The last record each session was made of, by its key.
    sessions_as_of: Vec<Lsn>,
    pub(super) groups_as_of: HashMap<GroupKey, Lsn>,
    /// The session restored last, whose queues come next.
    pub(super) lanes: Option<(SessionKey, [FoldedLane; 2])>,
}

impl Replay {
    pub(super) fn key(&self, epoch: u64) -> Option<SessionKey> {
        self.by_epoch.get(&epoch).copied()
    }

    /// Notes a session that is true as of a record.
    pub(super) fn session(&mut self, epoch: u64, key: SessionKey, as_of: Lsn) {
        self.by_epoch.insert(epoch, key);
        if self.sessions_as_of.len() <= key as usize {
            self.sessions_as_of.resize(key as usize + 1, Lsn(0));
        }
        self.sessions_as_of[key as usize] = as_of;
    }

    /// Whether the session already has what the record says.
    fn has(&self, key: SessionKey, at: Lsn) -> bool {
        self.sessions_as_of.get(key as usize).is_some_and(|as_of| at <= *as_of)
    }

    fn group_has(&self, key: GroupKey, at: Lsn) -> bool {
        self.groups_as_of.get(&key).is_some_and(|as_of| at <= *as_of)
    }

    /// The session a record speaks of, unless that has it already.
    ///
    /// # Errors
    /// Where there is none, though the log behind the folded state should have made it.
    fn session_at(&self, epoch: u64, at: Lsn) -> Result<Option<SessionKey>, RecordError> {
        match self.key(epoch) {
            Some(key) => Ok(Some(key).filter(|key| !self.has(*key, at))),
            // It ended before the fold came to it.
            None if at <= self.through => Ok(None),
            None => Err(RecordError::OutOfPlace),
        }
    }
}

impl Shard {
    /// Applies one record of an earlier run. Call in the order of the log, before anything else happens, and then
    /// [`Shard::recovered`].
    ///
    /// # Errors
    /// Where the bytes are no record, or do not follow from those before; the shard is then of no use.
    pub fn replay(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), RecordError> {
        let mut replay = self.replaying.take().unwrap_or_default();
        let record = Record::decode(bytes)?;
        self.newest = self.newest.max(record.now);
        if at > replay.through {
            self.end_empty_groups();
        }
        let applied = self.apply(&mut replay, at, record);
        self.replaying = Some(replay);
        self.recorder.resume_after(at);
        self.durable = at;
        applied
    }

    /// Ends the replay: sessions that had a connection lost it.
    pub fn recovered(&mut self, now: Millis) {
        let Some(replay) = self.replaying.take() else { return };
        self.numbers.begin_after(now.max(self.newest), 0);
        self.end_empty_groups();
        self.settle_backlogs();
        // What expired meanwhile must not take the place of a will that is to be retained.
        self.forget_expired_retained(now);
        let attached = replay.attached.into_iter();
        let attached: Vec<(SessionKey, Option<KeptWill>)> =
            attached.filter_map(|(epoch, will)| Some((*replay.by_epoch.get(&epoch)?, will))).collect();
        for (key, _) in &attached {
            let Some(session) = self.sessions.get_mut(*key as usize) else { continue };
            // Whatever waited may have been sent since its progress was last recorded. The wills that follow were not.
            for (_, lane) in session.used_lanes_mut() {
                lane.sent_through = lane.next_sequence;
            }
        }
        for (key, will) in attached {
            self.lose_connection(now, key, will);
        }
        self.presence_recovered(now);
        self.commands_recovered(now);
    }

    fn apply(&mut self, replay: &mut Replay, at: Lsn, record: Record<'_>) -> Result<(), RecordError> {
        match record.event {
            Event::Publish(publish) => {
                self.replay_publish(replay, at, &publish, Publication::of_record(&publish), false);
                Ok(())
            }
            Event::Call(call) => {
                let mut publication = Publication::of_record(&call);
                publication.copy = CopyFor::Home;
                self.replay_publish(replay, at, &call, publication, false);
                Ok(())
            }
            Event::CommandRequested(requested) => self.replay_requested(replay, at, record.now, &requested),
            Event::CommandSent(id, message) => {
                self.replay_sent(replay, at, (id, &message));
                Ok(())
            }
            Event::CommandEnded(ended) => {
                self.replay_ended(replay, at, record.now, &ended);
                Ok(())
            }
            Event::CommandRefused(refused, message) => {
                self.replay_refused(replay, at, record.now, (&refused, &message));
                Ok(())
            }
            Event::CommandRetried(retried) => {
                self.replay_retried(replay, at, &retried);
                Ok(())
            }
            Event::Shadow(shadow) => self.replay_shadow(replay, at, record.now, &shadow),
            Event::SessionOpened { session, client_id, principal } => {
                // The folded state may have it already, or even what came after its end.
                if replay.key(session).is_none() && !self.is_later_known(replay, at, client_id) {
                    self.replay_opened(replay, session, client_id, principal);
                }
                Ok(())
            }
            Event::GroupProgress { share_name, filter, next, open } => {
                let group = self.group_by_name.get(&(share_name.into(), filter.into())).copied();
                if let Some(key) = group.filter(|key| !replay.group_has(*key, at)) {
                    self.changed.group(key);
                    self.groups.get_mut(key).into_iter().for_each(|group| group.advance(&mut self.queues, next, &open));
                }
                Ok(())
            }
            Event::Handed(handed) => self.replay_handed(replay, at, &handed),
            event => self.apply_to_session(replay, at, record.now, event),
        }
    }

    /// Where the fold ended, whoever is a member is known, but for those that the log never knew.
    fn end_empty_groups(&mut self) {
        if !std::mem::take(&mut self.groups.keeps_empty) {
            return;
        }
        let empty: Vec<GroupKey> =
            self.groups.iter().filter(|(_, group)| !group.has_members()).map(|(key, _)| key).collect();
        empty.into_iter().for_each(|key| self.end_group(key));
    }

    /// Whether the client's session is one that began after this record.
    fn is_later_known(&self, replay: &Replay, at: Lsn, client_id: &str) -> bool {
        self.session_by_client.get(client_id).is_some_and(|key| replay.has(*key, at))
    }

    fn apply_to_session(
        &mut self,
        replay: &mut Replay,
        at: Lsn,
        now: Millis,
        event: Event<'_>,
    ) -> Result<(), RecordError> {
        let Some(epoch) = event.session() else { return Err(RecordError::OutOfPlace) };
        let Some(key) = replay.session_at(epoch, at)? else { return Ok(()) };
        self.changed.session(key);
        match event {
            Event::SessionAttached { expiry_seconds, overflow, will, .. } => {
                self.disarm_session(key);
                self.sessions[key as usize].expiry_seconds = expiry_seconds;
                self.sessions[key as usize].overflow = overflow;
                replay.attached.insert(epoch, will.as_ref().map(KeptWill::of_record));
            }
            Event::SessionDetached { expires_at, will_due, .. } => {
                let will = replay.attached.remove(&epoch).flatten();
                self.replay_detached(key, expires_at, will.zip(will_due));
            }
            Event::SessionEnded { .. } => {
                replay.by_epoch.remove(&epoch);
                replay.attached.remove(&epoch);
                // Its will, if it had one, has a record of its own.
                self.disarm_session(key);
                self.changed.session_ended(&self.sessions[key as usize]);
                self.forget_session(now, key);
            }
            Event::Subscribed { filter, subscription, sends_retained, .. } => {
                self.replay_subscribed(at, now, key, filter, (subscription, sends_retained))?;
            }
            Event::Unsubscribed { filter, .. } => {
                if let Some(subscription) = self.sessions[key as usize].subscriptions.remove(filter) {
                    self.drop_subscription(now, key, (filter, subscription), false);
                }
            }
            Event::Released { packet_id, .. } => {
                self.sessions[key as usize].received.remove(&packet_id);
            }
            Event::Received { lane, sequence, .. } => {
                self.sessions[key as usize].replay_received(&mut self.queues, lane, sequence);
            }
            Event::Progress { backlog, lanes, .. } => {
                let session = &mut self.sessions[key as usize];
                let before = session.backlog.len();
                session.advance(&mut self.queues, &lanes, backlog);
                self.backlog_messages -= before - session.backlog.len();
            }
            Event::Dropped { lane, from, through, .. } => {
                let session = &mut self.sessions[key as usize];
                session.replay_dropped(&mut self.queues, lane, from..through);
                session.misses_presence();
            }
            Event::Directed(directed) => self.replay_directed(key, at, &directed),
            Event::WillPublished { .. } => {
                self.disarm_will(key);
            }
            Event::Publish(_)
            | Event::Call(_)
            | Event::Shadow(_)
            | Event::CommandRequested(_)
            | Event::CommandSent(..)
            | Event::CommandEnded(_)
            | Event::CommandRetried(_)
            | Event::CommandRefused(..)
            | Event::SessionOpened { .. }
            | Event::GroupProgress { .. }
            | Event::Handed(_) => {}
        }
        Ok(())
    }

    fn replay_directed(&mut self, key: SessionKey, at: Lsn, directed: &DirectedRecord<'_>) {
        let session = &mut self.sessions[key as usize];
        // Another subscription may have brought the same message at another QoS.
        let is_it = |due: &Delivery| {
            (due.retained_at, due.qos, &due.identifiers) == (directed.retained_at, directed.qos, &directed.identifiers)
        };
        if let Some(place) = session.backlog.iter().position(is_it) {
            session.backlog.remove(place);
            self.backlog_messages -= 1;
        }
        let message = Message::of_record(&directed.message);
        let bytes = message.bytes() as u32;
        self.queues.bodies.owe(at, bytes, 1);
        if !self.queues.bodies.are_in_log() {
            self.queues.bodies.put(at, Arc::new(message));
        }
        let delivery = Delivery {
            lsn: at,
            message: None,
            bytes,
            expires: Expiry::new(directed.message.expires_at),
            qos: directed.qos,
            retain: true,
            identifiers: directed.identifiers.clone(),
            group: None,
            retained_at: Lsn(0),
        };
        session.enqueue(&mut self.queues, LaneName::of(directed.message.urgent), delivery);
    }

    fn replay_handed(&mut self, replay: &Replay, at: Lsn, handed: &HandedRecord<'_>) -> Result<(), RecordError> {
        let HandedRecord { lsn, bytes, expires, qos, retain, .. } = *handed;
        if let Some(key) = replay.session_at(handed.session, at)? {
            self.changed.session(key);
            self.queues.bodies.owe(lsn, bytes, 1);
            let identifiers = handed.identifiers.clone();
            let delivery = Delivery {
                lsn,
                message: None,
                bytes,
                expires,
                qos,
                retain,
                identifiers,
                group: None,
                retained_at: Lsn(0),
            };
            self.sessions[key as usize].enqueue(&mut self.queues, handed.lane, delivery);
        }
        let group = self.group_by_name.get(&(handed.share_name.into(), handed.filter.into())).copied();
        if let Some(key) = group.filter(|key| !replay.group_has(*key, at))
            && let Some(group) = self.groups.get_mut(key)
        {
            self.changed.group(key);
            self.queues.drop_where(&mut group.queue, |peek| peek.lsn == lsn);
        }
        Ok(())
    }

    fn replay_opened(&mut self, replay: &mut Replay, epoch: u64, client_id: &str, principal: Principal) {
        let client_id: Arc<str> = client_id.into();
        let mut session = Session::new(Arc::clone(&client_id), principal, epoch);
        session.recorded = true;
        let key = self.sessions.insert(session) as SessionKey;
        self.session_by_client.insert(client_id, key);
        self.note_peer_session(key);
        self.epoch = self.epoch.max(epoch);
        self.changed.session(key);
        replay.session(epoch, key, Lsn(0));
    }

    fn replay_detached(&mut self, key: SessionKey, expires_at: Option<Millis>, will: Option<(KeptWill, Millis)>) {
        if let Some(at) = expires_at {
            self.arm_session_expiry(key, at);
        }
        if let Some((will, due)) = will {
            self.arm_will(key, DelayedWill { will, due });
        }
    }

    fn replay_subscribed(
        &mut self,
        at: Lsn,
        now: Millis,
        key: SessionKey,
        filter: &str,
        (subscription, sends_retained): (Subscription, bool),
    ) -> Result<(), RecordError> {
        self.insert_subscription(key, filter, subscription).map_err(|_| RecordError::Damaged)?;
        if sends_retained {
            let mut due = self.retained_matching(now, key, filter, usize::MAX).unwrap_or_default();
            // What the folded state has from later comes to the session by its queue.
            due.retain(|(_, lsn)| *lsn <= at && *lsn > Lsn(0));
            self.queue_retained(key, due, subscription);
        }
        Ok(())
    }

    /// The publisher of a message is remembered to have sent it.
    pub(super) fn replay_received(&mut self, replay: &Replay, at: Lsn, publisher: Option<u64>, id: Option<PacketId>) {
        let publisher = publisher.and_then(|epoch| replay.key(epoch));
        let Some((key, packet_id)) = publisher.zip(id).filter(|(key, _)| !replay.has(*key, at)) else { return };
        self.changed.session(key);
        let session = &mut self.sessions[key as usize];
        match session.is_peer() {
            true => crossing::remember(&mut session.received, packet_id),
            false => drop(session.received.insert(packet_id)),
        }
    }

    fn replay_shadow(
        &mut self,
        replay: &Replay,
        at: Lsn,
        now: Millis,
        record: &ShadowRecord<'_>,
    ) -> Result<(), RecordError> {
        self.replay_received(replay, at, record.publisher, record.packet_id);
        let change = Change::decode(record.change).ok_or(RecordError::Damaged)?;
        let whose = (record.vin, record.name);
        if !self.shadows.knows(whose, at) {
            self.apply_shadow(now, at, whose, (&record.by, record.format), &change);
        }
        Ok(())
    }

    /// `is_own`: the broker published it itself, whoever made it do so.
    pub(super) fn replay_publish(
        &mut self,
        replay: &Replay,
        at: Lsn,
        record: &PublishRecord<'_>,
        mut publication: Publication<'_>,
        is_own: bool,
    ) {
        let given = publication.provenance.as_ref().map_or(0, |provenance| provenance.sequence);
        self.numbers.begin_after(Millis(0), given);
        let publisher = record.publisher.and_then(|epoch| replay.key(epoch));
        self.replay_received(replay, at, record.publisher, record.packet_id);
        let origin = match is_own {
            true => Origin::Command { session: None, packet_id: None },
            false => Origin::Client { session: publisher, packet_id: None },
        };
        self.collect_matches_of(&publication, origin);
        self.match_all_peers(&publication, origin);
        if record.retain {
            self.retain(&mut publication, at);
        }
        let before = self.queues.pool.len();
        for matched in std::mem::take(&mut self.matches) {
            if !replay.has(matched.session, at) {
                self.replay_delivery(&mut publication, record, matched, at);
            }
        }
        for key in std::mem::take(&mut self.matched_groups) {
            let Some(group) = self.groups.get_mut(key) else { continue };
            let skipped = record.skipped_groups.contains(&(&*group.share_name, &*group.filter));
            let qos = record.qos.min(group.qos_max());
            if qos > QoS::AtMostOnce && !skipped && !replay.group_has(key, at) {
                self.changed.group(key);
                group.enqueue(&mut self.queues, Delivery::of(&mut publication, at, record.qos, record.retain));
            }
        }
        let deliveries = (self.queues.pool.len() - before) as u32;
        self.queues.bodies.owe(at, publication.bytes() as u32, deliveries);
        if deliveries > 0 && !self.queues.bodies.are_in_log() {
            self.queues.bodies.put(at, publication.keep());
        }
    }

    fn replay_delivery(
        &mut self,
        publication: &mut Publication<'_>,
        record: &PublishRecord<'_>,
        matched: Match,
        at: Lsn,
    ) {
        let session = &mut self.sessions[matched.session as usize];
        let qos = matched.qos_of(record.qos);
        if qos == QoS::AtMostOnce {
            return;
        }
        if record.skipped_sessions.contains(&session.epoch) {
            session.missed_presence |= is_presence(record.topic);
            return;
        }
        let retain = record.retain && matched.retain_as_published;
        self.changed.session(matched.session);
        let delivery = Delivery::of(publication, at, qos, retain);
        let lane = LaneName::of(record.urgent);
        session.enqueue(&mut self.queues, lane, Delivery { identifiers: matched.identifiers, ..delivery });
    }
}
