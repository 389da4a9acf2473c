//! Shared subscriptions inside the shard: who of a group gets a message, and what happens when a member leaves.
//!
//! A message waits in the group until a member can be sent it at once, so order holds and nothing is stranded.

use std::sync::Arc;

use causeway_protocol::{PacketId, QoS};
use slab::Slab;

use super::command::accepts_stub;
use super::deliver::{Forms, Origin};
use super::peers::{is_behind, is_peer_session};
use super::presence::is_presence;
use super::pump::outgoing;
use super::replicate::carried_group;
use super::{Release, Shard};
use crate::connection::{Connection, Outgoing};
use crate::index::Subscription;
use crate::lane::LaneName;
use crate::message::{Message, Publication};
use crate::queue::{Delivery, Expiry};
use crate::session::{Identifiers, Session, SessionKey};
use crate::shared::{Group, GroupKey};
use crate::{Limits, Lsn, Millis};

impl Shard {
    pub(super) fn deliver_to_group(
        &mut self,
        now: Millis,
        publication: &mut Publication<'_>,
        key: GroupKey,
        (durable_at, seen_after): (Lsn, Lsn),
    ) {
        let Some(group) = self.groups.get(key) else {
            return;
        };
        if publication.qos.min(group.qos_max()) == QoS::AtMostOnce {
            let seen_after = if is_presence(publication.topic) { durable_at } else { seen_after };
            if seen_after > self.durable {
                let message = publication.keep();
                self.releases.push_back((seen_after, Release::LateToGroup { group: key, message }));
                return;
            }
            self.give_one_now(now, publication, key);
            return;
        }
        self.queue_for_group(now, publication, key, durable_at);
    }

    /// QoS 0: to the member whose turn it is, if any takes it at once.
    pub(super) fn give_one_now(&mut self, now: Millis, publication: &mut Publication<'_>, key: GroupKey) {
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        let was_handed_over = publication.stamp != 0 && !publication.retain;
        let (sessions, connections, limits) = (&self.sessions, &self.connections, &self.limits);
        let next = group.next(|member, subscription| {
            let id = sessions.get(member as usize).and_then(|session| session.connection);
            let connection = id.and_then(|id| connections.get(id.index()));
            let is_left_out = subscription.away || (was_handed_over && is_peer_session(sessions, member));
            !is_left_out && connection.is_some_and(|connection| connection.takes_more(limits))
        });
        let Some((member, subscription)) = next else {
            return;
        };
        let retain = publication.retain && subscription.retain_as_published;
        let identifiers = match is_peer_session(&self.sessions, member) {
            true => carried_group(group.number()),
            false => identifiers(subscription),
        };
        self.deliver_now(now, publication, member, (retain, &identifiers), &mut Forms::default());
    }

    /// QoS 1 and 2: it waits for a member that can take it.
    fn queue_for_group(&mut self, now: Millis, publication: &mut Publication<'_>, key: GroupKey, durable_at: Lsn) {
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        let was_handed_over = publication.stamp != 0 && !publication.retain;
        let is_expired = publication.expires_at.is_some_and(|at| at <= now);
        if durable_at == Lsn(0) && group.queue.is_empty() && !was_handed_over && !is_expired {
            // Without a record, and with nothing before it, it waits for nothing but a member.
            let message = publication.keep();
            if let Some((member, subscription)) = self.next_member(now, key, &message, (false, Connection::accepts)) {
                let delivery = Delivery::of(publication, durable_at, publication.qos, publication.retain);
                self.give(now, key, (member, subscription), delivery, message);
                return;
            }
        }
        let Some(group) = self.groups.get_mut(key) else { return };
        let mut delivery = Delivery::of(publication, durable_at, publication.qos, publication.retain);
        if was_handed_over {
            delivery.identifiers.push(HANDED_OVER);
        }
        group.enqueue(&mut self.queues, delivery);
        self.changed.group(key);
        self.note_group_queued(now, key);
        if durable_at > self.durable {
            self.releases.push_back((durable_at, Release::Group(key)));
        } else {
            self.pump_group(now, key);
        }
    }

    /// Hands out what waits in a group, for as long as a member can take it.
    pub(super) fn pump_group(&mut self, now: Millis, key: GroupKey) {
        while let Some(group) = self.groups.get_mut(key)
            && let Some(front) = group.front(&self.queues)
            && front.lsn <= self.durable
        {
            let body = self.queues.body(&front).cloned();
            let is_over = |message: &Message| {
                let sessions = &self.sessions;
                let speaks_for = |member| sessions.get(member as usize).and_then(|session| session.principal.vin());
                message.command.is_some_and(|id| self.commands.is_over(id))
                    && group.members().any(|(member, _)| speaks_for(member).is_some())
            };
            let is_expired = front.is_expired(now)
                || body.as_ref().is_some_and(|message| message.is_expired(now) || is_over(message));
            if is_expired || (body.is_none() && self.fetches.is_lost(front.lsn)) {
                self.counters.dropped_expired += u64::from(is_expired);
                self.drop_from_group(now, key);
                continue;
            }
            let Some(message) = body else {
                // Not before a member can take it: it might have to leave memory again.
                let (sessions, connections, limits) = (&self.sessions, &self.connections, &self.limits);
                let is_ready = |member| ready(sessions, connections, limits, member).is_some();
                if group.members().any(|(member, subscription)| !subscription.away && is_ready(member)) {
                    self.fetch_for_group(key);
                }
                return;
            };
            // What another shard handed over is for this one's clients, for as long as any of them is here.
            let sessions = &self.sessions;
            let stays = !self.queues.pool.identifiers(&front).is_empty()
                && group.members().any(|(member, _)| is_here(sessions, member));
            let mut next = self.next_member(now, key, &message, (stays, Connection::accepts));
            if next.is_none() {
                if self.waits_for_member(now, key, &message, (stays, Connection::accepts)) {
                    return;
                }
                // Nobody who is here will ever take it. Of an outcome, somebody is told that.
                next = self.next_member(now, key, &message, (stays, accepts_stub));
                if next.is_none() && self.waits_for_member(now, key, &message, (stays, accepts_stub)) {
                    return;
                }
            }
            let Some((member, subscription)) = next else {
                self.counters.dropped_packet_too_large += 1;
                self.drop_from_group(now, key);
                continue;
            };
            let qos = message.qos.min(subscription.qos);
            let hands = qos == QoS::ExactlyOnce && front.lsn > Lsn(0) && self.is_recorded(member);
            let Some(group) = self.groups.get_mut(key) else { return };
            let Some(delivery) = group.dequeue(&mut self.queues, qos > QoS::AtMostOnce && !hands) else {
                return;
            };
            self.note_group_progress(now, key);
            self.note_group_taken(key);
            if hands {
                //= [MQTT-4.8.2-5] a QoS 2 message is finished with its member, also after a crash
                let delivery = self.as_given(key, (member, subscription), delivery, &message);
                let lane = self.lane_of_topic(&message.topic);
                self.hand_over(now, key, (member, lane), delivery);
                continue;
            }
            self.give(now, key, (member, subscription), delivery, message);
        }
    }

    /// Whether a message waits for a member that is only busy, or for anybody at all: with everybody away. `accepts`: who takes it then.
    fn waits_for_member(
        &self,
        now: Millis,
        key: GroupKey,
        message: &Message,
        (stays, accepts): (bool, Accepts),
    ) -> bool {
        let (sessions, connections) = (&self.sessions, &self.connections);
        let Some(group) = self.groups.get(key) else { return true };
        // Another shard takes a message of any size, but this one is not its: nobody is there, or somebody is here.
        let is_asked = |(member, subscription): &(SessionKey, Subscription)| {
            !(subscription.away || (stays && is_peer_session(sessions, *member)))
        };
        let fits = |(member, subscription): (SessionKey, Subscription)| {
            let delivery = sample(message, subscription);
            let id = sessions.get(member as usize).and_then(|session| session.connection);
            let open = id.and_then(|id| connections.get(id.index()));
            open.map(|open| accepts(open, now, &outgoing(message, &delivery, false, Some(PacketId::MIN))))
        };
        let mut here = group.members().filter(is_asked).filter_map(fits).peekable();
        here.peek().is_none() || here.any(|accepts| accepts)
    }

    /// The member whose turn it is among those who can be sent the message at once. `stays`: no other shard.
    fn next_member(
        &mut self,
        now: Millis,
        key: GroupKey,
        message: &Message,
        (stays, accepts): (bool, Accepts),
    ) -> Option<(SessionKey, Subscription)> {
        let Shard { groups, sessions, connections, limits, .. } = self;
        //= [MQTT-4.8.2-3] each member has its own flow control; who has no window is skipped
        groups.get_mut(key)?.next(|member, subscription| {
            if subscription.away || (stays && is_peer_session(sessions, member)) {
                return false;
            }
            // Whoever can't take so large a packet leaves it to others.
            let delivery = sample(message, subscription);
            let packet_id = (delivery.qos > QoS::AtMostOnce).then_some(PacketId::MIN);
            let open = ready(sessions, connections, limits, member);
            open.is_some_and(|open| accepts(open, now, &outgoing(message, &delivery, false, packet_id)))
        })
    }

    /// A message of the group as this member is sent it.
    fn as_given(
        &self,
        key: GroupKey,
        (member, subscription): (SessionKey, Subscription),
        delivery: Delivery,
        message: &Message,
    ) -> Delivery {
        let delivery = with_terms(delivery, message, subscription);
        if is_peer_session(&self.sessions, member)
            && let Some(group) = self.groups.get(key)
        {
            return Delivery { identifiers: carried_group(group.number()), ..delivery };
        }
        delivery
    }

    /// Sends a member a message of the group, which gets it back if the member can't finish it.
    fn give(
        &mut self,
        now: Millis,
        key: GroupKey,
        member: (SessionKey, Subscription),
        delivery: Delivery,
        message: Arc<Message>,
    ) {
        let delivery = Delivery { group: Some(key), ..self.as_given(key, member, delivery, &message) };
        self.send(now, member.0, message, delivery, None);
    }

    /// Gives a message a place in a member's own queue: from here on it is the member's.
    fn hand_over(&mut self, now: Millis, group: GroupKey, (member, lane): (SessionKey, LaneName), delivery: Delivery) {
        let at = self.record_handed(now, (member, lane), group, &delivery);
        let Some(session) = self.sessions.get_mut(member as usize) else { return };
        session.take_over(&mut self.queues, lane, delivery, (at, self.durable));
        self.releases.push_back((at, Release::Session { session: member, epoch: session.epoch }));
    }

    /// Takes the first message out for good.
    fn drop_from_group(&mut self, now: Millis, key: GroupKey) {
        let dropped = self.groups.get_mut(key).and_then(|group| group.dequeue(&mut self.queues, false));
        if let Some(delivery) = dropped {
            self.settle(&delivery);
        }
        self.note_group_progress(now, key);
        self.note_group_taken(key);
    }

    /// A session can take more: its groups may have something for it.
    pub(super) fn pump_groups_of(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.sessions.get(key as usize) else {
            return;
        };
        if session.groups.is_empty() || !is_free(session, &self.limits) {
            return;
        }
        for at in 0..session.groups.len() {
            let group = self.sessions.get(key as usize).and_then(|session| session.groups.get(at)).copied();
            if let Some(group) = group {
                self.pump_group(now, group);
            }
        }
    }

    pub(super) fn join_group(
        &mut self,
        key: SessionKey,
        share_name: &str,
        filter: &str,
        subscription: Subscription,
    ) -> GroupKey {
        let group = self.group_named(share_name, filter);
        if self.groups.get_mut(group).is_some_and(|group| !group.join(key, subscription)) {
            self.sessions[key as usize].groups.push(group);
        }
        group
    }

    /// The group, which begins here if there is none.
    pub(super) fn group_named(&mut self, share_name: &str, filter: &str) -> GroupKey {
        let name = (share_name.into(), filter.into());
        if let Some(&group) = self.group_by_name.get(&name) {
            return group;
        }
        let group = self.groups.insert(Group::new(share_name, filter));
        self.changed.group_moved(group);
        self.group_by_name.insert(name, group);
        self.index.insert_group(filter, group);
        group
    }

    /// Takes a session out of a group; the group ends with its last member. `ended`: the session is gone for good.
    pub(super) fn leave_group(&mut self, now: Millis, key: SessionKey, group_key: GroupKey, ended: bool) {
        self.give_back(key, group_key, ended);
        if let Some(session) = self.sessions.get_mut(key as usize) {
            session.groups.retain(|&group| group != group_key);
        }
        let Some(group) = self.groups.get_mut(group_key) else {
            return;
        };
        group.leave(key);
        if group.has_members() || self.groups.keeps_empty {
            self.changed.group_moved(group_key);
            self.pump_group(now, group_key);
            return;
        }
        self.end_group(group_key);
    }

    pub(super) fn end_group(&mut self, group_key: GroupKey) {
        let Some(mut group) = self.groups.remove(group_key) else {
            return;
        };
        self.changed.group_ended(&group.share_name, &group.filter);
        self.counters.dropped_session_ended += self.queues.clear(&mut group.queue);
        self.index.remove_group(&group.filter, group_key);
        self.group_by_name.remove(&(group.share_name, group.filter));
    }

    /// A member lost its connection: others that are connected get what it had not acknowledged.
    pub(super) fn reroute_groups_of(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.sessions.get(key as usize) else {
            return;
        };
        for group_key in session.groups_in_flight() {
            let Some(group) = self.groups.get(group_key) else {
                continue;
            };
            let someone_else = group.members().any(|(member, subscription)| {
                let other = self.sessions.get(member as usize);
                member != key && !subscription.away && other.is_some_and(|other| other.connection.is_some())
            });
            // Alone, it keeps them and gets them again with DUP when it is back.
            if someone_else {
                self.give_back(key, group_key, false);
                self.pump_group(now, group_key);
            }
        }
    }

    /// Moves a member's unfinished QoS 1 messages back to the group, in order.
    pub(super) fn give_back(&mut self, key: SessionKey, group_key: GroupKey, ended: bool) {
        let (Some(session), Some(group)) = (self.sessions.get_mut(key as usize), self.groups.get_mut(group_key)) else {
            return;
        };
        let connected = session.connection.is_some();
        if connected && !ended {
            // It unsubscribed but is still here: what it was sent, it will acknowledge.
            return;
        }
        // The session has no connection here, so what is left counts as unsent when it comes back.
        let back = session.surrender(group_key);
        group.take_back(&mut self.queues, back);
        self.changed.group(group_key);
    }

    /// A will or statistic to whoever wants it.
    pub(super) fn route_own(&mut self, now: Millis, publication: &mut Publication<'_>, origin: Origin) {
        // Only a client can be refused.
        let _ = self.route(now, publication, origin);
    }
}

/// Whether a client takes a message of this size.
type Accepts = fn(&Connection, Millis, &Outgoing<'_>) -> bool;

/// In a group's queue: another shard handed the message over.
const HANDED_OVER: u32 = 1;

/// Whether the member is a client of this shard, and connected.
fn is_here(sessions: &Slab<Session>, member: SessionKey) -> bool {
    sessions.get(member as usize).is_some_and(|session| session.connection.is_some() && !session.is_peer())
}

/// The connection of a member that can be sent a message at once.
fn ready<'a>(
    sessions: &Slab<Session>,
    connections: &'a Slab<Connection>,
    limits: &Limits,
    member: SessionKey,
) -> Option<&'a Connection> {
    let session = sessions.get(member as usize)?;
    let connection = session.connection.and_then(|id| connections.get(id.index()))?;
    (is_free(session, limits) && connection.has_window()).then_some(connection)
}

/// Whether nothing of its own keeps it from being sent a message that it shares.
fn is_free(session: &Session, limits: &Limits) -> bool {
    match session.is_peer() {
        // What waits for another shard is of all its clients, and under load always something: who shares there is none of them.
        true => !is_behind(session, 2),
        false => session.queued() == 0 && session.may_launch_loose(limits),
    }
}

/// The message as the member gets it.
fn with_terms(delivery: Delivery, message: &Message, subscription: Subscription) -> Delivery {
    let Delivery { lsn, bytes, expires, .. } = delivery;
    Delivery { lsn, bytes, expires, ..sample(message, subscription) }
}

/// How a member would get the message, as far as that decides about it.
fn sample(message: &Message, subscription: Subscription) -> Delivery {
    Delivery {
        lsn: Lsn(0),
        message: None,
        bytes: message.bytes() as u32,
        expires: Expiry::new(message.expires_at),
        qos: message.qos.min(subscription.qos),
        retain: message.retain && subscription.retain_as_published,
        identifiers: identifiers(subscription),
        group: None,
        retained_at: Lsn(0),
    }
}

fn identifiers(subscription: Subscription) -> Identifiers {
    Some(subscription.identifier).filter(|identifier| *identifier != 0).into_iter().collect()
}
