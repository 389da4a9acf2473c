//! Messages on several shards.
//!
//! Owns who is owed a message when it is accepted, and whether what a client is sent is owed to it or allowed.

use causeway_protocol::{Ack, Packet, ProtocolVersion, Publish, QoS, ReasonCode};

use super::{Accepted, AckDue, Kept, Owed, OwedToGroup, Several, Stay};
use crate::message::{FILTERS, MessageId, Registry, TOPICS, is_shared};
use crate::oracle::state::{ClientIndex, LinkId};
use crate::oracle::{AckKind, Rule};
use crate::world::UNDER_WAY_MAX;

/// The seconds that a message has left are told to another shard in whole ones, and nobody counts those on the way.
const EXPIRY_MAY_BE_LATE: u64 = 1000 + 2 * UNDER_WAY_MAX;

impl Several {
    /// A PUBLISH was handled; `packet_id` is zero at QoS 0.
    pub(super) fn publish(&mut self, now: u64, link: LinkId, message: MessageId, packet_id: u16, refused: bool) {
        self.turn += 1;
        let turn = self.turn;
        let published = self.registry.get(message).clone();
        let Some((client, session)) = self.session_of(link) else { return };
        let (epoch, may_be_new) = (session.epoch, session.may_be_new);
        let kind = if published.qos == QoS::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
        let known = session.received.get(&packet_id).copied().filter(|_| published.qos == QoS::ExactlyOnce);
        if known == Some(false) {
            let publish = self.accepted.iter().rposition(|one| one.message == message);
            return self.owe_ack(link, AckDue { kind, packet_id, publish });
        }
        self.tally.publishes += 1;
        if refused {
            self.tally.refused += 1;
            match self.conns.get(&link).map(|conn| conn.version) {
                _ if published.qos == QoS::AtMostOnce => {}
                Some(ProtocolVersion::V5) => self.owe_ack(link, AckDue { kind, packet_id, publish: None }),
                _ => self.detach(now, link, true),
            }
            return;
        }
        // A new session does not know what the one before took, and who lost the word that it is new publishes again.
        let is_again = may_be_new && known.is_some();
        self.registry.accepted(message, if is_again { u64::MAX - turn } else { epoch });
        self.published.entry(message).or_insert((client, turn, turn)).2 = turn;
        let publish = self.accepted.len();
        let expires_at = published.expiry_seconds.map(|seconds| now + u64::from(seconds) * 1000);
        self.accepted.push(Accepted { message, turn, expires_at, is_acked: false });
        // Where nobody can tell whether it was taken before the crash, it may have been, and who was owed it then got it.
        let is_unclear = known.is_some();
        self.owe_to_sessions(now, (client, message), publish, is_unclear);
        self.owe_to_groups(now, message, publish, is_unclear || !published.is_careful);
        if published.retain {
            self.kept.push(Kept {
                message,
                publish: Some(publish),
                at: now,
                expires_at,
                is_sure: !is_unclear,
                may_be_late: false,
            });
        }
        if let Some((_, session)) = self.session_of(link)
            && published.qos == QoS::ExactlyOnce
        {
            session.received.insert(packet_id, false);
        }
        if published.qos > QoS::AtMostOnce {
            self.owe_ack(link, AckDue { kind, packet_id, publish: Some(publish) });
        }
    }

    fn owe_ack(&mut self, link: LinkId, due: AckDue) {
        self.conns.get_mut(&link).into_iter().for_each(|conn| conn.acks.push_back(due));
    }

    pub(super) fn pubrel(&mut self, link: LinkId, packet_id: u16) {
        self.turn += 1;
        if let Some((_, session)) = self.session_of(link) {
            session.received.remove(&packet_id);
        }
    }

    /// Its publisher lost the connection, so it may be published some time.
    pub(super) fn may_publish_will(&mut self, client: ClientIndex, message: MessageId) {
        self.registry.accepted(message, 0);
        self.published.entry(message).or_insert((client, 0, 0));
        self.accepted.push(Accepted { message, turn: 0, expires_at: None, is_acked: false });
        if self.registry.get(message).retain {
            let (publish, at, expires_at) = (None, u64::MAX, None);
            self.kept.push(Kept { message, publish, at, expires_at, is_sure: false, may_be_late: false });
        }
    }

    /// Whose client takes what it is sent, and acknowledges nothing else.
    pub(super) fn is_reliable(&self, client: ClientIndex, qos: QoS) -> bool {
        self.careful[client] && !self.drops_oldest[client] && qos > QoS::AtMostOnce
    }

    fn owe_to_sessions(
        &mut self,
        now: u64,
        (from, message): (ClientIndex, MessageId),
        publish: usize,
        is_unclear: bool,
    ) {
        let published = self.registry.get(message);
        let mut owed = Vec::new();
        for (client, session) in self.sessions.iter().enumerate() {
            let Some(session) = session.as_ref().filter(|session| session.is_surely_there(now)) else { continue };
            let matching = session.stays.iter().filter(|stay| {
                !is_shared(stay.filter)
                    && !stay.is_gone
                    && self.registry.matches(stay.filter, published.topic)
                    && (!stay.sub.no_local || client != from)
            });
            let (sure, unsure): (Vec<&Stay>, Vec<&Stay>) =
                matching.partition(|stay| stay.acked.is_some() && stay.ended.is_none() && !stay.is_unsure);
            let Some(qos) = sure.iter().map(|stay| stay.sub.qos.min(published.qos)).max() else { continue };
            let mut identifiers: Vec<u32> = sure.iter().map(|stay| stay.sub.identifier).filter(|id| *id > 0).collect();
            identifiers.sort_unstable();
            // A sloppy client may have used the identifier for something else that was not released.
            let is_mistakable = published.qos == QoS::ExactlyOnce && !published.is_careful;
            let is_here = session.link.is_some();
            owed.push(Owed {
                client,
                epoch: session.epoch,
                message,
                publish,
                qos,
                retain: published.retain && sure.iter().any(|stay| stay.sub.retain_as_published),
                identifiers: identifiers.into_iter().collect(),
                expires_at: published.expiry_seconds.map(|seconds| now + u64::from(seconds) * 1000),
                is_local: client % self.shards == from % self.shards,
                is_loose: !unsure.is_empty(),
                is_optional: is_unclear || is_mistakable || (qos == QoS::AtMostOnce && !is_here),
                came: false,
            });
        }
        self.owed.extend(owed);
    }

    fn owe_to_groups(&mut self, now: u64, message: MessageId, publish: usize, is_unclear: bool) {
        let published = self.registry.get(message);
        if published.qos == QoS::AtMostOnce {
            return;
        }
        for filter in (0..FILTERS.len()).filter(|filter| is_shared(*filter)) {
            if !self.registry.matches(filter, published.topic) {
                continue;
            }
            let sessions = self.sessions.iter().enumerate();
            let sessions = sessions.filter_map(|(client, session)| Some((client, session.as_ref()?)));
            let stays = sessions
                .flat_map(|(client, session)| session.stays.iter().map(move |stay| (client, session.epoch, stay)));
            let all: Vec<_> = stays.filter(|(_, _, stay)| stay.filter == filter && !stay.is_gone).collect();
            let is_reliable = all.iter().all(|(client, _, stay)| self.is_reliable(*client, stay.sub.qos));
            let sure = all
                .iter()
                .filter(|(client, _, _)| self.sessions[*client].as_ref().is_some_and(|one| one.is_surely_there(now)))
                .filter(|(_, _, stay)| stay.acked.is_some() && stay.ended.is_none() && !stay.is_unsure)
                .map(|(client, epoch, stay)| (*client, *epoch, stay.asked));
            let members: Vec<(ClientIndex, u64, u64)> = sure.collect();
            self.owed_to_groups.push(OwedToGroup {
                filter,
                message,
                publish,
                members,
                expires_at: published.expiry_seconds.map(|seconds| now + u64::from(seconds) * 1000),
                is_optional: is_unclear || !is_reliable,
                came: false,
            });
        }
    }

    /// What goes at QoS 0 is lost with a connection, and where a client or a shard is slow.
    pub(super) fn forgive_qos_0(&mut self, concerns: impl Fn(&Owed) -> bool) {
        let lost = self.owed.iter_mut().filter(|owed| owed.qos == QoS::AtMostOnce && !owed.came);
        lost.filter(|owed| concerns(owed)).for_each(|owed| owed.is_optional = true);
    }

    /// A crash: what was not acknowledged may be gone.
    pub(super) fn lose_unacknowledged(&mut self) {
        self.forgive_qos_0(|_| true);
        let accepted = &self.accepted;
        for owed in &mut self.owed {
            owed.is_optional |= !accepted[owed.publish].is_acked;
        }
        for owed in &mut self.owed_to_groups {
            owed.is_optional |= !accepted[owed.publish].is_acked;
        }
        for kept in &mut self.kept {
            kept.may_be_late = true;
            kept.is_sure &= kept.publish.is_some_and(|publish| accepted[publish].is_acked);
        }
        // What a link sends again after a start says how long it lasts from then on, and is on its way for as long as the disk takes.
        self.accepted.iter_mut().for_each(|accepted| accepted.expires_at = None);
    }

    /// A packet entered the outbox of a connection; `topic` is that of a PUBLISH with its alias resolved.
    pub(super) fn emitted(&mut self, now: u64, link: LinkId, packet: &Packet<'_>, topic: &str) {
        let Some(conn) = self.conns.get(&link) else {
            return self.breach(Rule::Connection, format!("link {link} was sent something though it is closed"));
        };
        match packet {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => {
                self.connected(link, connack.session_present);
            }
            Packet::Publish(publish) => self.emitted_publish(now, link, publish, topic),
            Packet::PubAck(ack) => self.emitted_ack(link, AckKind::PubAck, ack),
            Packet::PubRec(ack) => self.emitted_ack(link, AckKind::PubRec, ack),
            Packet::SubAck(ack) => self.answered(link, ack.packet_id.get(), Some(&ack.reasons)),
            Packet::UnsubAck(ack) => self.answered(link, ack.packet_id.get(), None),
            Packet::PubRel(_) | Packet::PubComp(_) | Packet::PingResp => {}
            Packet::Disconnect(disconnect) => {
                let is_known = matches!(disconnect.reason, ReasonCode::SessionTakenOver | ReasonCode::KeepAliveTimeout);
                if conn.is_open || !is_known {
                    self.breach(Rule::Connection, format!("link {link} was closed: {disconnect:?}"));
                }
            }
            other => self.breach(Rule::Connection, format!("nobody waits for {other:?}")),
        }
    }

    fn emitted_ack(&mut self, link: LinkId, kind: AckKind, ack: &Ack<'_>) {
        let packet_id = ack.packet_id.get();
        let Some(conn) = self.conns.get_mut(&link).filter(|conn| conn.is_open) else { return };
        let (is_v5, due) = (conn.version == ProtocolVersion::V5, conn.acks.pop_front());
        let what = format!("link {link} got {kind:?} {ack:?}, and is owed {due:?}");
        let Some(due) = due.filter(|due| due.kind == kind && due.packet_id == packet_id) else {
            return self.breach(Rule::WrongAcknowledgement, what);
        };
        let Some(publish) = due.publish else {
            if is_v5 && ack.reason != ReasonCode::QuotaExceeded {
                self.breach(Rule::WrongAcknowledgement, what);
            }
            return;
        };
        let is_certain = |owed: &&Owed| {
            let is_there = self.is_current(owed.client, owed.epoch);
            owed.publish == publish && !owed.is_optional && !owed.is_loose && is_there
        };
        let owed = self.owed.iter().find(is_certain);
        let fits = match ack.reason {
            ReasonCode::Success => true,
            ReasonCode::NoMatchingSubscribers => owed.is_none(),
            _ => false,
        };
        if is_v5 && !fits {
            let owed = format!("{what}; the message is owed as {owed:?}");
            self.breach(Rule::WrongAcknowledgement, owed);
        }
        self.accepted[publish].is_acked = true;
    }

    fn emitted_publish(&mut self, now: u64, link: LinkId, publish: &Publish<'_>, topic: &str) {
        let Some(message) = self.recognise(topic, publish) else {
            return self.breach(Rule::Data, format!("link {link} was sent what nobody published, on {topic}"));
        };
        let Some((client, _)) = self.session_of(link) else {
            return self.breach(Rule::WrongDelivery, format!("link {link} got {message} without a session"));
        };
        self.tally.deliveries += 1;
        self.tally.redeliveries += u64::from(publish.dup);
        self.tally.retained_sent += u64::from(publish.retain);
        let what = format!("client {client} was sent {}, {:?}", self.describe(message), publish.qos);
        if self.registry.get(message).copies == 0 {
            return self.breach(Rule::WrongDelivery, format!("{what}: nobody published it, or it was refused"));
        }
        if publish.retain && !self.registry.get(message).retain {
            return self.breach(Rule::WrongDelivery, format!("{what}: it was not retained"));
        }
        self.judge_terms(client, message, publish, &what);
        let is_first = self.sessions[client].as_mut().is_some_and(|session| session.sent.insert(message));
        if is_first {
            // What was in flight once is finished, whenever that is.
            self.judge_expiry(now, message, &what);
        }
        // What a crash brought back comes before all that is sent again.
        if is_first || self.drops_oldest[client] {
            self.judge_order(client, message, publish, (is_first, &what));
        }
    }

    /// Whether the client may have the message, and as it comes.
    fn judge_terms(&mut self, client: ClientIndex, message: MessageId, publish: &Publish<'_>, what: &str) {
        let Some(session) = self.sessions[client].as_ref().filter(|session| !session.is_unknown) else { return };
        let published = self.registry.get(message);
        let matching: Vec<&Stay> =
            session.stays.iter().filter(|stay| self.registry.matches(stay.filter, published.topic)).collect();
        // What was published before the subscription ended may come after it did.
        let was_published_by = |turn| self.accepted.iter().any(|one| one.message == message && one.turn < turn);
        let may_have = |stay: &&&Stay| !stay.is_gone || publish.retain || stay.ended.is_some_and(was_published_by);
        let allowed = matching.iter().filter(may_have).map(|stay| stay.sub.qos.min(published.qos)).max();
        let is_in_group = matching.iter().any(|stay| is_shared(stay.filter));
        let epoch = session.epoch;
        let mut wrong = allowed.is_none_or(|allowed| allowed < publish.qos).then(|| format!("allowed by {matching:?}"));
        let mut identifiers = publish.properties.subscription_identifiers.clone();
        identifiers.sort_unstable();
        let mut owed: Vec<&mut Owed> = self
            .owed
            .iter_mut()
            .filter(|one| (one.client, one.epoch, one.message) == (client, epoch, message))
            .collect();
        let as_owed = |one: &Owed| {
            one.is_loose || (one.qos == publish.qos && one.retain == publish.retain && *one.identifiers == *identifiers)
        };
        // The live copy may be sent as retained, too, and the kept one comes for another subscription, made later.
        let brings_kept = |stay: &&Stay| owed.iter().all(|one| self.accepted[one.publish].turn < stay.asked);
        let is_kept_copy =
            publish.retain && (owed.iter().all(|one| !one.retain || one.came) || matching.iter().any(brings_kept));
        // Each time it was published, another subscription may have been there.
        let copies = self.accepted.iter().filter(|one| one.message == message).count();
        let is_clear = owed.len() == copies && owed.iter().any(|one| !one.is_optional) && !is_in_group && !is_kept_copy;
        if is_clear && !owed.iter().any(|one| as_owed(one)) {
            wrong = Some(format!("{publish:?}, owed as {owed:?}"));
        }
        for one in owed.iter_mut().filter(|one| publish.qos == QoS::AtMostOnce && as_owed(one)) {
            one.came = true;
        }
        if let Some(wrong) = wrong {
            self.breach(Rule::WrongDelivery, format!("{what}: {wrong}"));
        }
    }

    fn judge_expiry(&mut self, now: u64, message: MessageId, what: &str) {
        let lasts_until = self.expires_at(message).map(|at| at + EXPIRY_MAY_BE_LATE);
        if lasts_until.is_some_and(|at| at <= now) {
            self.breach(Rule::Expired, format!("{what}: expired at {lasts_until:?}, now it is {now}"));
        }
    }

    /// When the last copy of the message expires; none: never, or nobody can tell.
    fn expires_at(&self, message: MessageId) -> Option<u64> {
        let copies = self.accepted.iter().filter(|one| one.message == message).map(|one| one.expires_at);
        let (never, at): (Vec<_>, Vec<_>) = copies.partition(Option::is_none);
        if never.is_empty() { at.into_iter().max().flatten() } else { None }
    }

    /// Of one publisher and topic, messages come in the order in which they were accepted: those of QoS 0 among themselves, and the
    /// others. What is retained may come out of turn, and so may what a group handed from one member to another.
    fn judge_order(
        &mut self,
        client: ClientIndex,
        message: MessageId,
        publish: &Publish<'_>,
        (is_first, what): (bool, &str),
    ) {
        let Some(&(from, first, last)) = self.published.get(&message) else { return };
        let published = self.registry.get(message);
        let (topic, is_careful) = (published.topic, published.is_careful);
        let class = (from, topic, published.qos == QoS::AtMostOnce);
        let Some(session) = &mut self.sessions[client] else { return };
        let in_group =
            session.stays.iter().any(|stay| is_shared(stay.filter) && self.registry.matches(stay.filter, topic));
        // A link carries what the highest wish there asks for: once that changes, what needs no acknowledgement goes past what does.
        let is_lowered = publish.qos == QoS::AtMostOnce && published.qos > QoS::AtMostOnce;
        if in_group || is_lowered || published.retain || publish.retain || !is_careful {
            return;
        }
        let mut before = session.newest.get(&class).copied().unwrap_or_default();
        // A queue gives up its oldest messages at once, and what stood behind them is sent before the record that says so is durable. A
        // crash then brings them back at their place, before all that is sent again: as if they had been sent before it, with DUP.
        if !publish.dup {
            before = before.max(session.newest_before.get(&class).copied().unwrap_or_default());
        }
        // Published twice, it may be either that comes.
        if is_first && before.0 > last {
            return self.breach(Rule::Order, format!("{what}, after message {} of the same publisher", before.1));
        }
        let newest = session.newest.entry(class).or_default();
        *newest = (first, message).max(*newest);
    }

    /// A client got a message, in the session of this epoch.
    pub(super) fn taken(
        &mut self,
        (client, epoch): (ClientIndex, u64),
        publish: &Publish<'_>,
        topic: &str,
        is_new: bool,
    ) {
        let Some(message) = self.recognise(topic, publish) else { return };
        let came = self.owed.iter_mut().filter(|one| (one.client, one.epoch, one.message) == (client, epoch, message));
        came.filter(|one| one.is_loose || one.retain == publish.retain).for_each(|one| one.came = true);
        let Some(session) = self.sessions[client].as_ref().filter(|session| session.epoch == epoch) else { return };
        let published = self.registry.get(message);
        let matching = session.stays.iter().filter(|stay| self.registry.matches(stay.filter, published.topic));
        let (groups, plain): (Vec<&Stay>, Vec<&Stay>) = matching.partition(|stay| is_shared(stay.filter));
        for stay in &groups {
            let owed = self.owed_to_groups.iter_mut();
            owed.filter(|one| one.filter == stay.filter && one.message == message).for_each(|one| one.came = true);
        }
        let is_once = publish.qos == QoS::ExactlyOnce && published.is_careful && self.careful[client];
        if !is_new || !is_once || groups.is_empty() || !plain.is_empty() {
            return;
        }
        self.tally.shared += 1;
        let ways = self.registry.groups_of(published.topic) * published.accepted_from.len();
        let came = self.came_to_groups.entry(message).or_default();
        *came += 1;
        if *came > ways {
            let detail = format!("QoS 2 message {message} came {came} times to members of groups, and not {ways}");
            self.breach(Rule::Twice, detail);
        }
    }

    /// The message that a packet stands for.
    fn recognise(&self, topic: &str, publish: &Publish<'_>) -> Option<MessageId> {
        let clearing = || TOPICS.iter().position(|one| *one == topic).map(Registry::clearing);
        self.registry.recognise(topic, publish.payload).ok()?.or_else(clearing)
    }
}
