//! From the folded state back to the shard.
//!
//! Owns what an entry of the folded state becomes. What it could not know, because it happened later, comes from the log:
//! see `replay`.

use std::sync::Arc;

use causeway_fleet::shadow::Shadow;

use super::Shard;
use super::replay::Replay;
use crate::Lsn;
use crate::connection::KeptWill;
use crate::folded::{Folded, FoldedSession, FoldedShadow};
use crate::lane::{LaneName, Number};
use crate::message::Message;
use crate::queue::{Delivery, Expiry, Queued};
use crate::record::RecordError;
use crate::session::{DelayedWill, Inflight, Phase, Session, SessionKey};

impl Shard {
    /// Takes one entry of the folded state. Call for all of them in the order of their keys, then [`Shard::restored`]. Those from
    /// [`HISTORY`](crate::history::HISTORY) on may be left out.
    ///
    /// # Errors
    /// Where it is no entry, or refers to one that did not come; the shard is then of no use.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        let mut replay = self.replaying.take().unwrap_or_default();
        let restored = self.restore_entry(&mut replay, Folded::decode(key, value)?);
        self.replaying = Some(replay);
        restored
    }

    /// Ends the folded state: replay goes on behind `applied`, and up to `through` knows what the state already has.
    pub fn restored(&mut self, applied: Lsn, through: Lsn) {
        let mut replay = self.replaying.take().unwrap_or_default();
        replay.through = through;
        self.groups.keeps_empty = true;
        self.replaying = Some(replay);
        self.recorder.resume_after(applied);
        self.durable = applied;
        self.folded = applied;
    }

    fn restore_entry(&mut self, replay: &mut Replay, entry: Folded<'_>) -> Result<(), RecordError> {
        match entry {
            Folded::Meta { epoch, newest } => {
                self.epoch = self.epoch.max(epoch);
                self.newest = self.newest.max(newest);
            }
            Folded::Session(session) => self.restore_session(replay, *session)?,
            Folded::Queue { epoch, lane, entries } => {
                let key = replay.key(epoch).ok_or(RecordError::OutOfPlace)?;
                let (of, lanes) = replay.lanes.as_ref().ok_or(RecordError::OutOfPlace)?;
                let terms = lanes.get(lane as usize).filter(|_| *of == key).ok_or(RecordError::OutOfPlace)?;
                for queued in entries {
                    let is_done = queued.sequence < terms.next && terms.open.binary_search(&queued.sequence).is_err();
                    if !is_done && terms.released.binary_search(&queued.sequence).is_err() {
                        self.restore_queued(key, lane, queued);
                    }
                }
            }
            Folded::Group { share_name, filter, as_of, entries } => {
                // Its members may be such as joined during the fold, after their own turn: only the log knows them.
                let key = self.group_named(share_name, filter);
                replay.groups_as_of.insert(key, as_of);
                for delivery in entries {
                    self.queues.bodies.owe(delivery.lsn, delivery.bytes, 1);
                    self.groups.get_mut(key).into_iter().for_each(|group| {
                        group.enqueue(&mut self.queues, delivery.clone());
                    });
                }
            }
            Folded::History => {}
            Folded::Retained { lsn, message } => {
                let message = Message::of_record(&message);
                let topic = message.topic.clone();
                if message.payload.is_empty() {
                    self.note_removal(&topic, message.stamp);
                    return Ok(());
                }
                self.set_retained(&topic, Some((Arc::new(message), lsn)));
            }
            Folded::Shadow { vin, name, shadow } => {
                let FoldedShadow { lsn, format, bytes } = shadow;
                let shadow = Shadow::decode(bytes).ok_or(RecordError::Damaged)?;
                self.keep_shadow((vin, name), &shadow, (lsn, format));
            }
            Folded::Command(command) => self.restore_command(*command),
        }
        Ok(())
    }

    fn restore_queued(&mut self, key: SessionKey, lane: LaneName, queued: Queued) {
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        self.queues.bodies.owe(queued.delivery.lsn, queued.delivery.bytes, 1);
        session.restore_queued(&mut self.queues, lane, queued);
    }

    fn restore_session(&mut self, replay: &mut Replay, folded: FoldedSession<'_>) -> Result<(), RecordError> {
        let client_id: Arc<str> = folded.client_id.into();
        let mut session = Session::new(Arc::clone(&client_id), folded.principal, folded.epoch);
        session.recorded = true;
        session.expiry_seconds = folded.expiry_seconds;
        session.overflow = folded.overflow;
        session.missed_presence = folded.missed_presence;
        session.received = folded.received.into_iter().collect();
        for (name, terms) in LaneName::ALL.into_iter().zip(&folded.lanes) {
            session.restore_lane(name, terms);
            for &sequence in &terms.released {
                let number = Number::Own(name, sequence);
                let Some(packet_id) = number.packet_id() else { continue };
                let phase = Phase::Release(Lsn(0));
                session.insert_in_flight(Inflight { packet_id, number, phase, sent: false, counted: false });
            }
        }
        for (qos, identifiers, retained_at, message) in folded.backlog {
            let message = Arc::new(Message::of_record(&message));
            session.backlog.push_back(Delivery {
                lsn: Lsn(0),
                bytes: message.bytes() as u32,
                expires: Expiry::new(message.expires_at),
                message: Some(message),
                qos,
                retain: true,
                identifiers,
                group: None,
                retained_at,
            });
        }
        self.backlog_messages += session.backlog.len();
        let key = self.sessions.insert(session) as SessionKey;
        self.session_by_client.insert(client_id, key);
        self.note_peer_session(key);
        self.epoch = self.epoch.max(folded.epoch);
        replay.session(folded.epoch, key, folded.as_of);
        replay.lanes = Some((key, folded.lanes));
        for (filter, subscription) in folded.subscriptions {
            self.insert_subscription(key, filter, subscription).map_err(|_| RecordError::Damaged)?;
        }
        if let Some(will) = folded.attached {
            replay.attached.insert(folded.epoch, will.as_ref().map(KeptWill::of_record));
        }
        if let Some(at) = folded.expires_at {
            self.arm_session_expiry(key, at);
        }
        if let Some((due, will)) = folded.delayed_will {
            self.arm_will(key, DelayedWill { will: KeptWill::of_record(&will), due });
        }
        Ok(())
    }

    /// Whether the body of a record is owed to anybody.
    pub fn is_live(&self, lsn: Lsn) -> bool {
        self.queues.bodies.live(lsn, Lsn(lsn.0 + 1)).next().is_some()
    }

    /// Backlogs refer to what is retained now, once all of that is known.
    pub(super) fn settle_backlogs(&mut self) {
        for (_, session) in &mut self.sessions {
            for delivery in &mut session.backlog {
                let Some(message) = &delivery.message else { continue };
                let current = self.retained.get_recorded(&message.topic);
                if let Some((current, _)) = current.filter(|(_, at)| *at == delivery.retained_at) {
                    delivery.message = Some(Arc::clone(current));
                }
            }
        }
    }
}
