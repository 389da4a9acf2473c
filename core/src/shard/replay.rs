//! From the log back to the state: each record is applied as it was decided, and nothing is decided anew.
//!
//! Owns replay, and what a restart means: every connection of the earlier run is gone, as if its network had failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_fleet::Principal;
use causeway_protocol::QoS;

use super::Shard;
use super::deliver::{Match, Origin};
use crate::connection::KeptWill;
use crate::index::Subscription;
use crate::message::{Message, Publication};
use crate::record::{Event, PublishRecord, Record, RecordError, WillRecord};
use crate::session::{DelayedWill, Delivery, Session, SessionKey};
use crate::{Lsn, Millis};

/// What is only known while the log is replayed.
#[derive(Debug, Default)]
pub(super) struct Replay {
    by_epoch: BTreeMap<u64, SessionKey>,
    /// Sessions that had a connection, with its will. Ordered, so that two replays do the same.
    attached: BTreeMap<u64, Option<KeptWill>>,
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
        let applied = self.apply(&mut replay, at, record);
        self.replaying = Some(replay);
        self.recorder.resume_after(at);
        self.durable = at;
        applied
    }

    /// Ends the replay: sessions that had a connection lost it.
    pub fn recovered(&mut self, now: Millis) {
        let Some(replay) = self.replaying.take() else { return };
        for (epoch, will) in replay.attached {
            let Some(&key) = replay.by_epoch.get(&epoch) else { continue };
            let Some(session) = self.sessions.get_mut(key as usize) else { continue };
            // Whatever was in its window may have been sent.
            let window = usize::from(self.limits.inflight_max);
            session.sent_through =
                session.queue.iter().take(window).next_back().map_or(0, |queued| queued.sequence + 1);
            self.lose_connection(now, key, will);
        }
    }

    fn apply(&mut self, replay: &mut Replay, at: Lsn, record: Record<'_>) -> Result<(), RecordError> {
        let now = record.now;
        let session = |epoch: u64| replay.by_epoch.get(&epoch).copied().ok_or(RecordError::OutOfPlace);
        match record.event {
            Event::Publish(publish) => self.replay_publish(replay, at, &publish),
            Event::SessionOpened { session, client_id, principal } => {
                self.replay_opened(replay, session, client_id, principal);
            }
            Event::SessionAttached { session: epoch, expiry_seconds, will } => {
                let key = session(epoch)?;
                self.disarm_session(key);
                self.sessions[key as usize].expiry_seconds = expiry_seconds;
                replay.attached.insert(epoch, will.as_ref().map(kept_will));
            }
            Event::SessionDetached { session: epoch, expires_at, will_due } => {
                let key = session(epoch)?;
                let will = replay.attached.remove(&epoch).flatten();
                self.replay_detached(key, expires_at, will.zip(will_due));
            }
            Event::SessionEnded { session: epoch } => {
                let key = session(epoch)?;
                replay.by_epoch.remove(&epoch);
                replay.attached.remove(&epoch);
                // Its will, if it had one, has a record of its own.
                self.disarm_session(key);
                self.forget_session(now, key);
            }
            Event::Subscribed { session: epoch, filter, subscription, sends_retained } => {
                let key = session(epoch)?;
                self.replay_subscribed(now, key, filter, subscription, sends_retained)?;
            }
            Event::Unsubscribed { session: epoch, filter } => {
                let key = session(epoch)?;
                if self.sessions[key as usize].subscriptions.remove(filter).is_some() {
                    self.drop_subscription(now, key, filter, false);
                }
            }
            Event::Released { session: epoch, packet_id } => {
                self.sessions[session(epoch)? as usize].received.remove(&packet_id);
            }
            Event::Received { session: epoch, sequence } => {
                self.sessions[session(epoch)? as usize].replay_received(sequence);
            }
            Event::Progress { session: epoch, next, backlog, open } => {
                let session = &mut self.sessions[session(epoch)? as usize];
                let before = session.backlog.len();
                session.advance(next, &open, backlog);
                self.backlog_messages -= before - session.backlog.len();
            }
            Event::GroupProgress { share_name, filter, next, open } => {
                if let Some(&key) = self.group_by_name.get(&(share_name.into(), filter.into())) {
                    self.groups.get_mut(key).into_iter().for_each(|group| group.advance(next, &open));
                }
            }
            Event::WillPublished { session: epoch } => {
                self.disarm_will(session(epoch)?);
            }
        }
        Ok(())
    }

    fn replay_opened(&mut self, replay: &mut Replay, epoch: u64, client_id: &str, principal: Principal) {
        let client_id: Arc<str> = client_id.into();
        let mut session = Session::new(Arc::clone(&client_id), principal, epoch, self.hash_seed);
        session.recorded = true;
        let key = self.sessions.insert(session) as SessionKey;
        self.session_by_client.insert(client_id, key);
        self.epoch = self.epoch.max(epoch);
        replay.by_epoch.insert(epoch, key);
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
        now: Millis,
        key: SessionKey,
        filter: &str,
        subscription: Subscription,
        sends_retained: bool,
    ) -> Result<(), RecordError> {
        self.insert_subscription(key, filter, subscription).map_err(|_| RecordError::Damaged)?;
        if sends_retained {
            let due = self.retained.matching(now, filter, usize::MAX).unwrap_or_default();
            self.queue_retained(key, due, subscription);
        }
        Ok(())
    }

    fn replay_publish(&mut self, replay: &Replay, at: Lsn, record: &PublishRecord<'_>) {
        let message = Message::of_record(record);
        let mut publication = Publication::of_message(&message);
        let publisher = record.publisher.and_then(|epoch| replay.by_epoch.get(&epoch).copied());
        if let (Some(key), Some(packet_id)) = (publisher, record.packet_id) {
            self.sessions[key as usize].received.insert(packet_id);
        }
        self.collect_matches(record.topic, Origin::Client { session: publisher, packet_id: None });
        if record.retain {
            self.retain(&mut publication);
        }
        for matched in std::mem::take(&mut self.matches) {
            self.replay_delivery(&mut publication, record, matched, at);
        }
        for key in std::mem::take(&mut self.matched_groups) {
            let Some(group) = self.groups.get_mut(key) else { continue };
            let skipped = record.skipped_groups.contains(&(&*group.share_name, &*group.filter));
            if record.qos > QoS::AtMostOnce && !skipped {
                group.enqueue(publication.keep(), at);
            }
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
        let qos = matched.qos.min(record.qos);
        if qos == QoS::AtMostOnce || record.skipped_sessions.contains(&session.epoch) {
            return;
        }
        let retain = record.retain && matched.retain_as_published;
        let delivery =
            Delivery { message: publication.keep(), qos, retain, identifiers: matched.identifiers, group: None };
        session.enqueue(delivery, at);
    }
}

fn kept_will(will: &WillRecord<'_>) -> KeptWill {
    KeptWill {
        message: Message::of_will_record(will),
        delay_seconds: will.delay_seconds,
        expiry_seconds: will.expiry_seconds,
    }
}
