//! Whether those who want a message have room for it.
//!
//! Owns whom a full queue refuses, who is passed over because nobody can be refused, and what a queue gives up for newer messages. It hands nothing out.

use causeway_fleet::{Principal, command};
use causeway_protocol::{QoS, ReasonCode};

use super::Shard;
use super::presence::is_presence;
use crate::effect::EventLevel;
use crate::lane::LaneName;
use crate::limits::Overflow;
use crate::message::{Publication, Step};
use crate::session::{Session, SessionKey};
use crate::shared::GroupKey;
use crate::{Bound, Limits, Millis};

/// Who matched a will and had no room for it.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    /// Epochs.
    pub(super) sessions: Vec<u64>,
    pub(super) groups: Vec<GroupKey>,
}

impl Shard {
    /// Whether everybody the message must be queued for can take it.
    pub(super) fn check_room(
        &mut self,
        now: Millis,
        publication: &Publication<'_>,
    ) -> Result<(), (ReasonCode, String)> {
        let refused = self.find_no_room(now, publication);
        if let Err((bound, why)) = refused {
            self.matches.clear();
            self.matched_groups.clear();
            self.counters.reached(bound);
            return Err((ReasonCode::QuotaExceeded, why));
        }
        Ok(())
    }

    /// Takes expired messages out of full queues: they must not keep live ones out.
    pub(super) fn make_room(&mut self, now: Millis, bytes: usize) {
        let Shard { sessions, groups, queues, limits, counters, changed, matches, matched_groups, .. } = self;
        for matched in matches.iter().filter(|matched| matched.qos > QoS::AtMostOnce) {
            if let Some(session) = sessions.get_mut(matched.session as usize)
                && session.room(limits, bytes).is_err()
            {
                counters.dropped_expired += session.drop_expired(queues, now);
                changed.session(matched.session);
            }
        }
        for key in matched_groups.iter() {
            if let Some(group) = groups.get_mut(*key)
                && group.room(limits, bytes).is_err()
            {
                counters.dropped_expired += group.drop_expired(queues, now);
                changed.group(*key);
            }
        }
    }

    pub(super) fn find_no_room(&mut self, now: Millis, publication: &Publication<'_>) -> Result<(), (Bound, String)> {
        let bytes = publication.bytes();
        self.make_room(now, bytes);
        if self.storage_low && self.is_owed(now, publication) {
            self.counters.publish_refused_disk_full += 1;
            return Err((Bound::FreeSpace, "the disk is nearly full".to_owned()));
        }
        if publication.retain
            && !publication.payload.is_empty()
            && let Err(bound) = self.retained.room(&self.limits, publication.topic, bytes)
        {
            self.counters.publish_refused_retained_full += 1;
            return Err((bound, "the store of retained messages is full".to_owned()));
        }
        if publication.qos == QoS::AtMostOnce {
            return Ok(());
        }
        let no_room = self.matches.iter().filter(|matched| matched.qos > QoS::AtMostOnce).find_map(|matched| {
            let session = self.sessions.get(matched.session as usize)?;
            if matched.full {
                return Some((matched.session, Bound::SessionQueueMessages));
            }
            if gives_way(session, &self.limits, bytes) {
                return None;
            }
            session.room(&self.limits, bytes).err().map(|bound| (matched.session, bound))
        });
        if let Some((session, bound)) = no_room {
            self.counters.publish_refused_queue_full += 1;
            self.report_full(session);
            return Err((bound, format!("the queue of {:?} is full", self.sessions[session as usize].client_id)));
        }
        let no_room = self.matched_groups.iter().find_map(|&key| {
            let group = self.groups.get(key).filter(|group| group.qos_max() > QoS::AtMostOnce)?;
            group.room(&self.limits, bytes).err().map(|bound| (group, bound))
        });
        if let Some((group, bound)) = no_room {
            self.counters.publish_refused_queue_full += 1;
            return Err((bound, format!("the queue of $share/{}/{} is full", group.share_name, group.filter)));
        }
        Ok(())
    }

    /// A message whose publisher can't be refused is not retained where there is no room for that, here nor elsewhere.
    pub(super) fn keep_if_there_is_room(&mut self, publication: &mut Publication<'_>) {
        if publication.retain
            && !publication.payload.is_empty()
            && let Err(bound) = self.retained.room(&self.limits, publication.topic, publication.bytes())
        {
            self.counters.reached(bound);
            self.counters.dropped_queue_full += 1;
            publication.retain = false;
        }
    }

    /// Takes those out of the matches who have no room; for messages whose publisher can't be refused.
    pub(super) fn skip_without_room(&mut self, now: Millis, publication: &Publication<'_>) -> Skipped {
        let mut skipped = Skipped::default();
        if publication.qos == QoS::AtMostOnce {
            return skipped;
        }
        let bytes = publication.bytes();
        self.make_room(now, bytes);
        let is_presence = is_presence(publication.topic);
        let (meant_for, most) = (self.meant_for(publication), self.queued_with_outcomes_max());
        let Shard { sessions, groups, limits, counters, matches, matched_groups, .. } = self;
        let mut drop_one = |bound| {
            counters.reached(bound);
            counters.dropped_queue_full += 1;
        };
        matches.retain(|matched| {
            let Some(session) = sessions.get_mut(matched.session as usize) else { return false };
            let is_meant = |principal: &Principal| {
                session.is_peer() || (session.principal == *principal && session.queued() < most)
            };
            if meant_for.as_ref().is_some_and(is_meant) {
                return true;
            }
            // What is retained stands on every shard, whoever there has no room.
            let is_full = matched.full && !matched.replicates;
            let room = if is_full { Err(Bound::SessionQueueMessages) } else { session.room(limits, bytes) };
            match room {
                Err(bound) if matched.qos > QoS::AtMostOnce && !gives_way(session, limits, bytes) => {
                    drop_one(bound);
                    skipped.sessions.push(session.epoch);
                    session.missed_presence |= is_presence;
                    false
                }
                Ok(()) | Err(_) => true,
            }
        });
        matched_groups.retain(|&key| {
            let Some(group) = groups.get(key) else { return false };
            let is_its = |principal: &Principal| {
                let mut members = group.members().filter_map(|(member, _)| sessions.get(member as usize));
                group.queue.len() < most && members.any(|member| member.principal == *principal)
            };
            match group.room(limits, bytes) {
                Err(_) if meant_for.as_ref().is_some_and(is_its) => true,
                Err(bound) if group.qos_max() > QoS::AtMostOnce => {
                    drop_one(bound);
                    skipped.groups.push(key);
                    false
                }
                Ok(()) | Err(_) => true,
            }
        });
        skipped
    }

    /// Takes those out of the matches of another shard's message that are beyond all bounds. Publishers there are refused before; only outcomes
    /// of commands come all the same.
    pub(super) fn skip_overfull(&mut self, publication: &Publication<'_>) -> Skipped {
        let (mut skipped, most) = (Skipped::default(), self.queued_with_outcomes_max());
        let Shard { sessions, groups, counters, matches, matched_groups, .. } = self;
        let is_over = |key: SessionKey| {
            let session = sessions.get(key as usize);
            session.is_some_and(|session| session.queued() >= most && session.overflow == Overflow::RefuseNew)
        };
        let group_is_over = |key: GroupKey| groups.get(key).is_some_and(|group| group.queue.len() >= most);
        let any = matches.iter().any(|matched| is_over(matched.session))
            || matched_groups.iter().any(|key| group_is_over(*key));
        if !any || publication.qos == QoS::AtMostOnce || !command::is_outcome(publication.forwarded.user_properties()) {
            return skipped;
        }
        matches.retain(|matched| {
            let stays = matched.qos == QoS::AtMostOnce || !is_over(matched.session);
            if !stays {
                counters.dropped_queue_full += 1;
                skipped.sessions.extend(sessions.get(matched.session as usize).map(|session| session.epoch));
            }
            stays
        });
        matched_groups.retain(|key| {
            let stays = !group_is_over(*key);
            if !stays {
                counters.dropped_queue_full += 1;
                skipped.groups.push(*key);
            }
            stays
        });
        skipped
    }

    /// So many may wait for one who is told of commands. At each request its requester has room for its outcome, so no more come on top than may be
    /// pending; but another client of the same principal may never read them.
    pub(super) fn queued_with_outcomes_max(&self) -> usize {
        let pending = self.limits.commands_per_requester_max.max(self.limits.commands_per_vehicle_max);
        self.limits.session_queue_messages_max + pending * usize::from(self.shards.max(1))
    }

    /// Whom a step of a command is about, who gets it though others would be refused. Others who are subscribed may be on other shards, as may
    /// the requester.
    pub(super) fn meant_for(&self, publication: &Publication<'_>) -> Option<Principal> {
        match publication.step {
            Step::None => None,
            Step::Refused(refused) => Some(refused.terms.by.clone()),
            Step::Told(requester) => Some(requester.clone()),
            Step::Requested(..) | Step::Sent(_) => {
                command::of_topic(publication.topic).map(|(vin, _)| Principal::Vehicle(vin))
            }
            Step::Ended(id, _) => self.commands.get(id).map(|command| command.by.clone()),
        }
    }

    /// Makes room in a queue that gives up its oldest messages for newer ones, and tells.
    pub(super) fn drop_oldest(&mut self, now: Millis, key: SessionKey, bytes: usize) {
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        if session.room(&self.limits, bytes).is_ok() {
            return;
        }
        // A retained message may have taken the last place just now: what expired goes before what lives.
        self.counters.dropped_expired += session.drop_expired(&mut self.queues, now);
        let Err(bound) = session.room(&self.limits, bytes) else { return };
        // What is urgent goes last.
        for lane in [LaneName::Bulk, LaneName::Urgent] {
            let Some(session) = self.sessions.get_mut(key as usize) else { return };
            let (dropped, range) = session.drop_oldest(&mut self.queues, &self.limits, lane, bytes);
            if dropped > 0 {
                self.counters.reached(bound);
                self.counters.dropped_oldest += dropped;
                session.misses_presence();
                self.record_dropped(now, key, lane, range);
                self.report_overflow(key, dropped);
            }
        }
    }

    /// Tells once that a queue is full, until it has drained.
    pub(super) fn report_full(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        if !std::mem::replace(&mut session.full_reported, true) {
            let detail = format!("{} messages, {} bytes", session.queued(), session.held_bytes);
            self.session_event(EventLevel::Warn, key, "queue is full", &detail);
        }
    }

    /// Tells on `$SYS` and in the log, once until the queue has drained, that a queue gives up its oldest messages.
    pub(super) fn report_overflow(&mut self, key: SessionKey, dropped: u64) {
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        if std::mem::replace(&mut session.full_reported, true) {
            return;
        }
        let topic = format!("overflow/{}", session.client_id.replace(['/', '+', '#'], "_"));
        let detail = format!("{dropped} dropped so far; {} messages, {} bytes", session.queued(), session.held_bytes);
        self.session_event(EventLevel::Warn, key, "queue drops its oldest messages", &detail);
        self.overflows.push((topic, detail));
    }
}

/// Whether a full queue gives up its oldest messages for one of so many bytes.
fn gives_way(session: &Session, limits: &Limits, bytes: usize) -> bool {
    session.overflow == Overflow::DropOldest && session.gives_room(limits, bytes)
}
