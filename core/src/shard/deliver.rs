//! From a message to the outboxes and queues of everybody who wants it.
//!
//! Owns routing: match, check room, record, hand out. How a session's queue moves into its connection is said in `pump`; shared
//! subscriptions continue in `share`.

use std::borrow::Cow;
use std::sync::Arc;

use causeway_fleet::command::{self, CommandId};
use causeway_fleet::{Principal, Vin, calls, mount};
use causeway_protocol::{PacketId, ProtocolVersion, QoS, ReasonCode, filter_matches};
use slab::Slab;
use smallvec::SmallVec;

use super::command::{Written, topic_for, write_publish, write_stub};
use super::peers::is_peer_session;
use super::presence::{Late, is_presence};
use super::pump::count_sent;
use super::{Release, Shard, mark_dirty};
use crate::commons::{Commons, Span};
use crate::connection::{Connection, Outgoing, Payload, TooLarge, Words};
use crate::effect::{Effect, Event, EventLevel};
use crate::index::{Subscription, Target};
use crate::lane::LaneName;
use crate::limits::Overflow;
use crate::message::{CopyFor, Message, Publication, Step};
use crate::queue::Delivery;
use crate::session::{Identifiers, Session, SessionKey};
use crate::shared::{GroupKey, Groups};
use crate::{Bound, Limits, Lsn, Millis};

/// Matches that fit into the memory kept from one message to the next.
const MATCHES_KEPT: usize = 4096;

/// One session's share of a routed message, overlapping subscriptions merged.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) session: SessionKey,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    /// It need not outlive a crash for this one.
    pub(super) fleeting: bool,
    /// Of another shard: one of those there has no room.
    pub(super) full: bool,
    /// Another shard keeps what is retained, too: it gets the message whatever its QoS, and loses none.
    pub(super) replicates: bool,
    pub(super) identifiers: Identifiers,
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client that can be refused; the identifier is that of a QoS 2 message.
    Client { session: Option<SessionKey>, packet_id: Option<PacketId> },
    /// A will: nobody can be refused, so a full queue loses it, counted.
    Will { session: SessionKey },
    /// The broker's own statistics: likewise, and never recorded.
    Broker,
    /// Which vehicles are connected: nobody can be refused, whoever has no room catches up later, and nobody sees it before it is durable.
    Presence,
    /// What came of something that the broker was asked: nobody can be refused, and nobody sees it before this record is durable.
    Service { after: Lsn },
    /// A step of a command, by the message that brought it about: its record is that of the step. Nobody can be refused, those whom it is about
    /// least of all, and nobody sees it before it is durable.
    Command { session: Option<SessionKey>, packet_id: Option<PacketId> },
}

impl Origin {
    /// Whose message it is, where a session published it.
    pub(super) fn publisher(self) -> Option<SessionKey> {
        match self {
            Origin::Client { session, .. } => session,
            Origin::Will { session } => Some(session),
            // What the broker says is meant for those who asked for it, too.
            Origin::Broker | Origin::Presence | Origin::Service { .. } | Origin::Command { .. } => None,
        }
    }
}

/// Who matched a will and had no room for it.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    /// Epochs.
    pub(super) sessions: Vec<u64>,
    pub(super) groups: Vec<GroupKey>,
}

/// What became of a routed message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Routed {
    /// The record it is durable with; zero where nothing needs to be.
    pub(super) durable_at: Lsn,
    pub(super) matched: bool,
}

/// A payload of more bytes is shared by itself: in the commons, few of them would leave no room for others.
const COMMON_BYTES_MAX: usize = 16 * 1024;

/// The forms in which a QoS 0 message is sent to those who all get the same bytes, each written once.
#[derive(Debug, Default)]
pub(super) struct Forms(SmallVec<[(Form, Span); 2]>);

/// What a form depends on: the version, the retain flag, and in whose words it is.
type Form = (ProtocolVersion, bool, Words);

impl Forms {
    /// Puts the message into an outbox as one of the forms. `None` where this client needs bytes of its own.
    fn write(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        outgoing: &Outgoing<'_>,
        commons: &mut Commons,
    ) -> Option<Result<(), TooLarge>> {
        if matches!(outgoing.payload, Payload::Shared(_)) || !connection.takes_common(outgoing) {
            return None;
        }
        let form = (connection.version, outgoing.retain, connection.words());
        let known = self.0.iter().find(|(known, _)| *known == form);
        let span = match known {
            Some((_, span)) => *span,
            None => match connection.common(now, outgoing, commons)? {
                Ok(span) => {
                    self.0.push((form, span));
                    span
                }
                Err(TooLarge) => return Some(Err(TooLarge)),
            },
        };
        Some(connection.write_common(span, commons))
    }
}

impl Shard {
    /// Hands a message to everybody who wants it, or to nobody: a refusal leaves no trace.
    pub(super) fn route(
        &mut self,
        now: Millis,
        publication: &mut Publication<'_>,
        origin: Origin,
    ) -> Result<Routed, (ReasonCode, String)> {
        self.collect_matches_of(publication, origin);
        if matches!(origin, Origin::Will { .. } | Origin::Broker) {
            self.keep_if_there_is_room(publication);
        }
        self.stamp(now, publication, origin);
        self.match_all_peers(publication, origin);
        let skipped = match origin {
            Origin::Client { .. } if self.is_from_peer(origin) => match is_presence(publication.topic) {
                true => self.skip_without_room(now, publication),
                // Its publisher was told that it is accepted, when its own shard had room for it.
                false => self.skip_overfull(publication),
            },
            Origin::Client { .. } => {
                self.check_room(now, publication)?;
                Skipped::default()
            }
            Origin::Will { .. }
            | Origin::Broker
            | Origin::Presence
            | Origin::Service { .. }
            | Origin::Command { .. } => self.skip_without_room(now, publication),
        };
        self.number(publication);
        let matched = !self.matches.is_empty() || !self.matched_groups.is_empty();
        let lane = self.lane_of(publication);
        let recorded = match origin {
            Origin::Broker => false,
            // Its record comes behind the one it waits for.
            Origin::Service { .. } => self.is_acknowledged(publication.qos) || self.is_owed(now, publication),
            Origin::Command { .. } => true,
            Origin::Client { .. } | Origin::Will { .. } | Origin::Presence => self.is_owed(now, publication),
        };
        self.direct_overtaken(now, publication);
        let durable_at = if recorded { self.record_publish(now, publication, lane, origin, skipped) } else { Lsn(0) };
        let seen_after = match origin {
            Origin::Presence | Origin::Command { .. } => durable_at,
            Origin::Service { after } => after.max(durable_at),
            Origin::Client { .. } | Origin::Will { .. } | Origin::Broker => Lsn(0),
        };
        self.owe_to_all(publication, durable_at);
        if publication.retain {
            if publication.copy == CopyFor::Present {
                self.retained.set_ahead(now, publication.keep());
            } else {
                self.retain(publication, durable_at);
            }
        }
        let mut matches = std::mem::take(&mut self.matches);
        let mut forms = Forms::default();
        for matched in matches.drain(..) {
            if seen_after > self.durable && matched.qos_of(publication.qos) == QoS::AtMostOnce {
                self.put_off(publication, matched, seen_after);
                continue;
            }
            self.deliver(now, publication, matched, (durable_at, lane), &mut forms);
        }
        // A broadcast to very many leaves no trace in memory.
        matches.shrink_to(MATCHES_KEPT);
        self.matches = matches;
        let mut groups = std::mem::take(&mut self.matched_groups);
        for group in groups.drain(..) {
            self.deliver_to_group(now, publication, group, (durable_at, seen_after));
        }
        self.matched_groups = groups;
        for (name, text) in std::mem::take(&mut self.overflows) {
            self.tell_sys(&name, &text, now);
        }
        Ok(Routed { durable_at, matched })
    }

    /// What of QoS 0 must not be seen before it is durable waits for that.
    fn put_off(&mut self, publication: &mut Publication<'_>, matched: Match, durable_at: Lsn) {
        let Some(session) = self.sessions.get(matched.session as usize) else { return };
        let (message, retain) = (publication.keep(), publication.retain && matched.retain_as_published);
        let late = Box::new(Late { message, retain, identifiers: matched.identifiers });
        let release = Release::Late { session: matched.session, epoch: session.epoch, late };
        self.releases.push_back((durable_at, release));
    }

    /// Whether the message goes before others.
    pub(super) fn lane_of(&self, publication: &Publication<'_>) -> LaneName {
        if publication.qos == QoS::AtMostOnce { LaneName::Bulk } else { self.lane_of_topic(publication.topic) }
    }

    pub(super) fn lane_of_topic(&self, topic: &str) -> LaneName {
        LaneName::of(self.limits.urgent_topics.iter().any(|filter| filter_matches(filter, topic)))
    }

    /// Whether anybody who matched acknowledges a message of this QoS.
    fn is_acknowledged(&self, qos: QoS) -> bool {
        let by_group = |key: &GroupKey| self.groups.get(*key).is_some_and(|group| group.qos_max() > QoS::AtMostOnce);
        qos > QoS::AtMostOnce
            && (self.matches.iter().any(|matched| matched.qos > QoS::AtMostOnce)
                || self.matched_groups.iter().any(by_group))
    }

    /// Counts to how many a recorded message is owed, and keeps its body at hand for those who are here.
    fn owe_to_all(&mut self, publication: &mut Publication<'_>, lsn: Lsn) {
        let qos = publication.qos;
        if lsn == Lsn(0) || (qos == QoS::AtMostOnce && publication.stamp == 0) {
            return;
        }
        let sessions = self.matches.iter().filter(|matched| matched.qos_of(qos) > QoS::AtMostOnce).count();
        let owed_by =
            |key: &&GroupKey| self.groups.get(**key).is_some_and(|group| group.qos_max().min(qos) > QoS::AtMostOnce);
        let deliveries = (sessions + self.matched_groups.iter().filter(owed_by).count()) as u32;
        if deliveries > 0 {
            self.queues.bodies.owe(lsn, publication.bytes() as u32, deliveries);
            self.queues.bodies.put(lsn, publication.keep());
        }
    }

    /// Likewise, but for a message that another shard handed over for one group: only that.
    pub(super) fn collect_matches_of(&mut self, publication: &Publication<'_>, origin: Origin) {
        match publication.copy {
            CopyFor::Everybody | CopyFor::Present => {}
            CopyFor::Later => return,
            CopyFor::Home => return self.match_home(publication),
        }
        if publication.topic.is_empty() {
            // What became of a command, where nobody wants to be sent it.
            self.turn += 1;
            return;
        }
        if publication.stamp == 0 || publication.retain {
            self.collect_matches(publication.topic, origin);
            if let Some(id) = publication.command {
                self.collect_by_id(publication.topic, id);
            }
            return;
        }
        self.turn += 1;
        // Another group may have been given a name with the same number.
        let is_of_group = |key: &GroupKey| {
            let group = self.groups.get(*key);
            group.is_some_and(|group| filter_matches(&group.filter, publication.topic))
                && !is_hidden_from(&self.groups, *key, publication.topic)
        };
        self.matched_groups.extend(self.groups.numbered(publication.stamp).filter(is_of_group));
    }

    /// Fills `matches` (each session once) and `matched_groups`.
    pub(super) fn collect_matches(&mut self, topic: &str, origin: Origin) {
        self.turn += 1;
        let publisher = origin.publisher();
        let is_from_peer = self.is_from_peer(origin);
        let Shard { index, sessions, groups, matches, matched_groups, turn, peer_sessions, .. } = self;
        // What comes from another shard goes no further, and each shard says its own word.
        let stays = is_from_peer || (origin == Origin::Broker && !peer_sessions.is_empty());
        index.matches(topic, |target| match target {
            Target::Session(session, _) if stays && is_peer_session(sessions, session) => {}
            // What another shard's clients share was given to one of them there, or comes by itself.
            Target::Group(_) if is_from_peer => {}
            Target::Group(group) if is_hidden_from(groups, group, topic) => {}
            Target::Group(group) => matched_groups.push(group),
            // A vehicle's wildcard does not stand for names of the broker.
            Target::Session(_, subscription) if subscription.wide && mount::is_hidden(topic) => {}
            //= [MQTT-3.8.3-3] No Local: not back to who published it
            Target::Session(session, subscription) if subscription.no_local && publisher == Some(session) => {}
            Target::Session(key, subscription) => {
                let Some(session) = sessions.get_mut(key as usize) else {
                    return;
                };
                if session.mark.0 == *turn {
                    merge(&mut matches[session.mark.1 as usize], subscription);
                    return;
                }
                session.mark = (*turn, matches.len() as u32);
                matches.push(first_match(key, subscription));
            }
        });
    }

    /// Adds those of a vehicle's clients that take the message of a command only by a topic with its number.
    fn collect_by_id(&mut self, topic: &str, id: CommandId) {
        let Some((vin, _)) = command::of_topic(topic) else { return };
        let Shard { index, sessions, groups, matches, matched_groups, turn, .. } = self;
        let known = matches.len();
        index.matches(&command::topic_with_id(topic, id), |target| match target {
            Target::Group(group) => {
                let mut members = groups.get(group).into_iter().flat_map(|group| group.members());
                let is_its = members.any(|(member, _)| is_of_vehicle(sessions, member, &vin));
                if is_its && !matched_groups.contains(&group) {
                    matched_groups.push(group);
                }
            }
            Target::Session(key, subscription) if is_of_vehicle(sessions, key, &vin) => {
                let Some(session) = sessions.get_mut(key as usize) else { return };
                if session.mark.0 != *turn {
                    session.mark = (*turn, matches.len() as u32);
                    matches.push(first_match(key, subscription));
                } else if session.mark.1 as usize >= known {
                    merge(&mut matches[session.mark.1 as usize], subscription);
                }
            }
            Target::Session(..) => {}
        });
    }

    /// Whether everybody the message must be queued for can take it.
    fn check_room(&mut self, now: Millis, publication: &Publication<'_>) -> Result<(), (ReasonCode, String)> {
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
    fn make_room(&mut self, now: Millis, bytes: usize) {
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

    fn find_no_room(&mut self, now: Millis, publication: &Publication<'_>) -> Result<(), (Bound, String)> {
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
    fn keep_if_there_is_room(&mut self, publication: &mut Publication<'_>) {
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
    fn skip_without_room(&mut self, now: Millis, publication: &Publication<'_>) -> Skipped {
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

    /// So many may wait for one who is told of commands. At each request its requester has room for its outcome, so no more come on top than may be
    /// pending; but another client of the same principal may never read them.
    fn queued_with_outcomes_max(&self) -> usize {
        let pending = self.limits.commands_per_requester_max.max(self.limits.commands_per_vehicle_max);
        self.limits.session_queue_messages_max + pending * usize::from(self.shards.max(1))
    }

    /// Takes those out of the matches of another shard's message that are beyond all bounds. Publishers there are refused before; only outcomes
    /// of commands come all the same.
    fn skip_overfull(&mut self, publication: &Publication<'_>) -> Skipped {
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

    /// Whom a step of a command is about, who gets it though others would be refused. Others who are subscribed may be on other shards, as may
    /// the requester.
    fn meant_for(&self, publication: &Publication<'_>) -> Option<Principal> {
        match publication.step {
            Step::None => None,
            Step::Refused(refused) => Some(refused.terms.by.clone()),
            Step::Requested(..) | Step::Sent(_) => {
                command::of_topic(publication.topic).map(|(vin, _)| Principal::Vehicle(vin))
            }
            Step::Ended(id, _) => self.commands.get(id).map(|command| command.by.clone()),
        }
    }

    pub(super) fn retain(&mut self, publication: &mut Publication<'_>, lsn: Lsn) {
        // Another shard's may have come first, and have been published later.
        let is_old = publication.stamp != 0 && !self.retained.is_newest(publication.topic, publication.stamp);
        if is_old {
            return;
        }
        let ahead = self.retained.take_ahead(publication.topic, publication.stamp);
        if lsn > Lsn(0) {
            self.changed.retained(publication.topic);
        }
        //= [MQTT-3.3.1-6] [MQTT-3.3.1-7] an empty retained message removes what is there and is not kept
        if publication.payload.is_empty() {
            self.note_removal(publication.topic, publication.stamp);
            self.set_retained(publication.topic, None);
            return;
        }
        //= [MQTT-3.3.1-5] the message replaces any retained one of its topic
        let message = ahead.unwrap_or_else(|| publication.keep());
        self.set_retained(publication.topic, Some((message, lsn)));
    }

    fn deliver(
        &mut self,
        now: Millis,
        publication: &mut Publication<'_>,
        matched: Match,
        (durable_at, lane): (Lsn, LaneName),
        forms: &mut Forms,
    ) {
        let qos = matched.qos_of(publication.qos);
        //= [MQTT-3.3.1-12] [MQTT-3.3.1-13] the retain flag only where the subscription asked for it as published
        let retain = publication.retain && matched.retain_as_published;
        if qos == QoS::AtMostOnce {
            // A retained message that expired on its way from another shard only takes the place of an older one.
            if publication.stamp == 0 || publication.expires_at.is_none_or(|at| at > now) {
                self.deliver_now(now, publication, matched.session, (retain, &matched.identifiers), forms);
            }
            return;
        }
        if self.sessions.get(matched.session as usize).is_some_and(|session| session.overflow == Overflow::DropOldest) {
            self.drop_oldest(now, matched.session, publication.bytes());
        }
        let delivery = Delivery::of(publication, durable_at, qos, retain);
        // Without a record it waits for nothing but its client.
        if durable_at == Lsn(0) && self.can_pass(now, publication, matched.session, lane) {
            let Some(session) = self.sessions.get_mut(matched.session as usize) else { return };
            // A crash brings the places in the queue for another shard back: what it does not bring back takes none of them.
            let place = (!session.is_peer()).then(|| (lane, session.pass_through(lane)));
            self.changed.session(matched.session);
            let delivery = Delivery { identifiers: matched.identifiers, ..delivery };
            self.send(now, matched.session, publication.keep(), delivery, place);
            return;
        }
        let Some(session) = self.sessions.get_mut(matched.session as usize) else { return };
        session.enqueue(&mut self.queues, lane, Delivery { identifiers: matched.identifiers, ..delivery });
        self.changed.session(matched.session);
        let (epoch, is_away) = (session.epoch, session.connection.is_none());
        self.note_queued(now, matched.session);
        if is_away {
            return;
        }
        if durable_at > self.durable {
            let release = Release::Session { session: matched.session, epoch };
            self.releases.push_back((durable_at, release));
        } else {
            self.pump(now, matched.session);
        }
    }

    /// Whether a message could go to a session at once, past its empty queue.
    pub(super) fn can_pass(&self, now: Millis, publication: &Publication<'_>, key: SessionKey, lane: LaneName) -> bool {
        let session = self.sessions.get(key as usize);
        let connection = session.and_then(|session| self.connections.get(session.connection?.index()));
        let has_window = connection.is_some_and(Connection::has_window);
        let is_alive = publication.expires_at.is_none_or(|at| at > now);
        is_alive && has_window && session.is_some_and(|session| session.is_clear(lane, self.durable))
    }

    /// Makes room in a queue that gives up its oldest messages for newer ones, and tells.
    fn drop_oldest(&mut self, now: Millis, key: SessionKey, bytes: usize) {
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

    /// QoS 0: straight into the outbox, or dropped where the client is away or too slow.
    pub(super) fn deliver_now(
        &mut self,
        now: Millis,
        publication: &mut Publication<'_>,
        key: SessionKey,
        (retain, identifiers): (bool, &[u32]),
        forms: &mut Forms,
    ) {
        let Some(id) = self.sessions.get(key as usize).and_then(|session| session.connection) else {
            return;
        };
        let kept = (publication.payload.len() > COMMON_BYTES_MAX).then(|| publication.keep());
        let Some(connection) = self.connections.get_mut(id.index()) else {
            return;
        };
        if connection.checks_deliveries
            && let Err(why) = self.in_force.may_receive(connection, publication.topic)
        {
            self.refused_delivery(now, id, publication.topic, &why);
            return;
        }
        if !connection.takes_more(&self.limits) {
            self.counters.reached(Bound::OutboxBytes);
            self.counters.dropped_slow_consumer += 1;
            let session = &mut self.sessions[key as usize];
            session.missed_presence |= is_presence(publication.topic);
            if calls::is_delta(publication.topic) {
                (session.is_due_deltas, session.deltas_passed) = (true, 0);
            }
            return;
        }
        let topic = match publication.command {
            Some(id) => {
                let session = &self.sessions[key as usize];
                let who = (&session.principal, &session.subscriptions);
                topic_for(who, connection.version, (publication.topic, id))
            }
            None => Cow::Borrowed(publication.topic),
        };
        let outgoing = Outgoing {
            dup: false,
            qos: QoS::AtMostOnce,
            retain,
            topic: &topic,
            packet_id: None,
            expires_at: publication.expires_at,
            identifiers,
            stamps: &[],
            provenance: publication.provenance.as_ref(),
            forwarded: publication.forwarded,
            payload: match &kept {
                Some(message) => Payload::Shared(&message.payload),
                None => Payload::Borrowed(publication.payload),
            },
        };
        // Of a command, not all get the same.
        let common = match publication.command {
            None => forms.write(now, connection, &outgoing, &mut self.commons),
            Some(_) => None,
        };
        let sent = match common {
            Some(Ok(())) => Ok(Written::Whole),
            Some(Err(TooLarge)) => write_stub(now, connection, &outgoing),
            None => write_publish(now, connection, &outgoing),
        };
        count_sent(&mut self.counters, QoS::AtMostOnce, publication.payload.len(), sent);
        mark_dirty(&mut self.dirty, connection);
    }

    /// A retained message that a session is still due goes into its queue before a newer message of its topic does.
    fn direct_overtaken(&mut self, now: Millis, publication: &Publication<'_>) {
        if publication.qos == QoS::AtMostOnce || self.backlog_messages == 0 {
            return;
        }
        let Some(retained) = self.retained.get(publication.topic).cloned() else { return };
        for at in 0..self.matches.len() {
            let key = self.matches[at].session;
            let waits =
                self.sessions.get(key as usize).filter(|session| session.recorded && !session.backlog.is_empty());
            let place = waits.and_then(|session| {
                session.backlog.iter().position(|due| {
                    due.qos > QoS::AtMostOnce
                        && due.message.as_ref().is_some_and(|message| Arc::ptr_eq(message, &retained))
                })
            });
            let due = place.and_then(|place| self.sessions.get_mut(key as usize)?.backlog.remove(place));
            if let Some(due) = due {
                self.backlog_messages -= 1;
                self.direct(now, key, &retained, due);
            }
        }
    }

    /// Gives a retained message a place in the queue of a session that outlives its connection.
    pub(super) fn direct(&mut self, now: Millis, key: SessionKey, message: &Arc<Message>, due: Delivery) {
        // Whatever replaces it comes by the same lane, so it never comes first.
        let lane = self.lane_of_topic(&message.topic);
        let lsn = self.record_directed(now, key, lane, message, &due);
        self.queues.bodies.owe(lsn, due.bytes, 1);
        self.queues.bodies.put(lsn, Arc::clone(message));
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        let delivery = Delivery { lsn, message: None, retained_at: Lsn(0), ..due };
        session.enqueue(&mut self.queues, lane, delivery);
        let release = Release::Session { session: key, epoch: session.epoch };
        self.releases.push_back((lsn, release));
    }

    /// Tells once that a queue is full, until it has drained.
    fn report_full(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        if !std::mem::replace(&mut session.full_reported, true) {
            let detail = format!("{} messages, {} bytes", session.queued(), session.held_bytes);
            self.session_event(EventLevel::Warn, key, "queue is full", &detail);
        }
    }

    /// Tells on `$SYS` and in the log, once until the queue has drained, that a queue gives up its oldest messages.
    fn report_overflow(&mut self, key: SessionKey, dropped: u64) {
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        if std::mem::replace(&mut session.full_reported, true) {
            return;
        }
        let topic = format!("overflow/{}", session.client_id.replace(['/', '+', '#'], "_"));
        let detail = format!("{dropped} dropped so far; {} messages, {} bytes", session.queued(), session.held_bytes);
        self.session_event(EventLevel::Warn, key, "queue drops its oldest messages", &detail);
        self.overflows.push((topic, detail));
    }

    pub(super) fn session_event(&mut self, level: EventLevel, key: SessionKey, what: &'static str, detail: &str) {
        let Some(session) = self.sessions.get(key as usize) else {
            return;
        };
        let event = Event {
            level,
            connection: session.connection,
            client: session.client_id.to_string(),
            principal: session.principal.to_string(),
            what,
            reason: None,
            detail: detail.to_owned(),
        };
        self.effects.push_back(Effect::Event(event));
    }
}

/// Whether a full queue gives up its oldest messages for one of so many bytes.
fn gives_way(session: &Session, limits: &Limits, bytes: usize) -> bool {
    session.overflow == Overflow::DropOldest && session.gives_room(limits, bytes)
}

fn first_match(session: SessionKey, subscription: Subscription) -> Match {
    let mut identifiers = Identifiers::new();
    if subscription.identifier != 0 {
        identifiers.push(subscription.identifier);
    }
    let Subscription { qos, retain_as_published, fleeting, full, .. } = subscription;
    Match { session, qos, retain_as_published, fleeting, full, replicates: false, identifiers }
}

impl Match {
    /// At which QoS a message published with `qos` is delivered.
    pub(super) fn qos_of(&self, qos: QoS) -> QoS {
        //= [MQTT-3.3.4-2] [MQTT-3.8.4-8] QoS of the message, bounded by the highest of the matching subscriptions
        let qos = self.qos.min(qos);
        if self.replicates { qos.max(QoS::AtLeastOnce) } else { qos }
    }
}

fn is_of_vehicle(sessions: &Slab<Session>, key: SessionKey, vin: &Vin) -> bool {
    sessions.get(key as usize).is_some_and(|session| session.principal.vin() == Some(vin))
}

/// Whether those who share are vehicles, whose wildcard does not stand for this topic.
fn is_hidden_from(groups: &Groups, key: GroupKey, topic: &str) -> bool {
    groups.get(key).is_some_and(|group| group.wide > 0) && mount::is_hidden(topic)
}

/// Overlapping subscriptions make one delivery: the highest QoS, and all identifiers.
fn merge(matched: &mut Match, subscription: Subscription) {
    matched.qos = matched.qos.max(subscription.qos);
    matched.retain_as_published |= subscription.retain_as_published;
    matched.fleeting &= subscription.fleeting;
    matched.full |= subscription.full;
    //= [MQTT-3.3.4-4] one copy carries the identifiers of all subscriptions that asked for it
    if subscription.identifier != 0 {
        matched.identifiers.push(subscription.identifier);
    }
}
