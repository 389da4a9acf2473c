//! Other shards of the same broker: to this one, each is a client.
//!
//! Owns the peers' connections, what they are told about the wishes of this shard's clients, and the answers that wait until
//! they know. What they are sent and what they send goes the way of any client's messages
//! (`docs/adr/0006-shards-are-peers.md`).

use std::collections::{BTreeSet, HashSet, VecDeque};

use causeway_protocol::{Packet, PacketId, QoS, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe};
use slab::Slab;
use smallvec::SmallVec;

use super::deliver::Origin;
use super::{Release, Shard, mark_dirty};
use crate::connection::Connection;
use crate::handshake::ConnectRequest;
use crate::index::Subscription;
use crate::interest::{Interest, Wish};
use crate::lane::ring_of;
use crate::session::{Session, SessionKey};
use crate::shared::{Group, GroupKey};
use crate::{ConnectionId, Lsn, Millis, Overflow};

/// A peer's connection, and how much it was told.
#[derive(Debug)]
struct Peer {
    connection: ConnectionId,
    /// SUBSCRIBE and UNSUBSCRIBE packets it was sent, and those it answered: in their order.
    told: u64,
    answered: u64,
    /// Until it has said all it wants after a start: what it has said so far.
    wanted: Option<HashSet<Box<str>>>,
}

/// An answer to a client that waits until all peers know what it asked for.
#[derive(Debug)]
struct Waiting {
    /// For each peer, how many of its answers must be there.
    answered: SmallVec<[u64; 4]>,
    durable_at: Lsn,
    releases: [Release; 2],
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: Vec<Peer>,
    interest: Interest,
    waiting: VecDeque<Waiting>,
    /// Sessions that others know to be full, with their epochs.
    full: Vec<(SessionKey, u64)>,
    /// Groups that others know to be full.
    full_groups: BTreeSet<GroupKey>,
    /// Whether more waited for one of them than is to wait.
    behind: bool,
}

/// With so many messages or bytes waiting for another shard, clients are not read: the link is to carry some first.
const BEHIND_MESSAGES: usize = 32_768;
const BEHIND_BYTES: usize = 64 << 20;
/// So, too, with so many answers that wait for other shards.
const BEHIND_ANSWERS: usize = 16_384;

impl Peers {
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    fn know_all(&self) -> bool {
        self.peers.iter().all(|peer| peer.answered == peer.told)
    }
}

/// Unsubscribed from by a shard that has said all its clients want after a start: what else is known of its wishes is of before.
const THAT_IS_ALL: &str = "$shard/wishes";

/// What a subscription of a session is to others.
fn wish(filter: &str, subscription: Subscription, session: &Session) -> Wish {
    let away = is_shared(filter) && session.connection.is_none();
    // What is sent with QoS 0 needs no room.
    let full = session.full_told && !is_shared(filter) && subscription.qos > QoS::AtMostOnce;
    Wish { qos: subscription.qos, fleeting: !session.recorded, away, full }
}

/// A wish in the options of a subscription. Between shards, Retain As Published says that it is fleeting, and Retain Handling
/// that it is away or full: what they mean between client and server is always the same there.
fn as_options(wish: Wish) -> SubscriptionOptions {
    let retain_handling = match (wish.away, wish.full) {
        // Only what is shared can be away, and only what is not can be full.
        (true, _) => RetainHandling::IfNew,
        (false, true) => RetainHandling::Never,
        (false, false) => RetainHandling::Always,
    };
    SubscriptionOptions { qos: wish.qos, no_local: false, retain_as_published: wish.fleeting, retain_handling }
}

/// The subscription that [`as_options`] asks for.
pub(super) fn of_options(filter: &str, options: SubscriptionOptions) -> Subscription {
    Subscription {
        retain_as_published: !is_shared(filter),
        fleeting: options.retain_as_published,
        away: options.retain_handling == RetainHandling::IfNew,
        full: options.retain_handling == RetainHandling::Never,
        ..Subscription::at(options.qos)
    }
}

/// Whether the session is another shard's.
pub(super) fn is_peer_session(sessions: &Slab<Session>, key: SessionKey) -> bool {
    sessions.get(key as usize).is_some_and(Session::is_peer)
}

/// Whether more waits for a shard than this part of what may.
pub(super) fn is_behind(session: &Session, part: usize) -> bool {
    session.is_peer() && (session.queued() > BEHIND_MESSAGES / part || session.held_bytes > BEHIND_BYTES / part)
}

fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

impl Shard {
    /// Makes the connection of another shard, which never ends by itself: what is in its outbox is that shard's input, and what that
    /// shard's outbox for this one holds comes here. Call once for each other shard after [`Shard::recovered`], before there are clients.
    pub fn open_peer(&mut self, now: Millis, shard: u16) -> ConnectionId {
        if self.peers.is_empty() {
            self.begin_interest();
            if !self.peers.full.is_empty() || !self.peers.full_groups.is_empty() {
                self.set_progress_timer(now);
            }
        }
        let mut request = ConnectRequest::of_peer(shard);
        let id = self.insert_connection(now, &mut request);
        let before = self.recorder.last();
        let (key, _) = self.attach(now, id, &request);
        let after = self.recorder.last();
        self.connections[id.index()].corked = after > before;
        self.when_durable(now, after, Release::Uncork(id));
        let session = &mut self.sessions[key as usize];
        // What had no place in the other's queue is gone with it, and its identifiers come again.
        session.received.retain(|packet_id| ring_of(*packet_id).is_some());
        let epoch = session.epoch;
        self.changed.session(key);
        self.when_durable(now, after, Release::Session { session: key, epoch });
        self.peers.peers.push(Peer { connection: id, told: 0, answered: 0, wanted: Some(HashSet::new()) });
        let all: Vec<(Box<str>, Wish)> =
            self.peers.interest.all().map(|(filter, wish)| (filter.into(), wish)).collect();
        let at = self.peers.peers.len() - 1;
        all.iter().for_each(|(filter, wish)| self.tell_peer(at, filter, Some(*wish)));
        self.tell_peer(at, THAT_IS_ALL, None);
        id
    }

    /// Whether all peers know what the clients of this shard want. Before that, no client is to come.
    pub fn peers_know_all(&self) -> bool {
        self.peers.know_all()
    }

    /// Gathers what sessions want that were there before there were peers.
    fn begin_interest(&mut self) {
        let Shard { sessions, limits, .. } = self;
        for (key, session) in sessions.iter_mut().filter(|(_, session)| !session.is_peer()) {
            session.full_told = session.overflow == Overflow::RefuseNew && session.room(limits, 1).is_err();
            if session.full_told {
                self.peers.full.push((key as SessionKey, session.epoch));
            }
        }
        let mut interest = Interest::default();
        for (_, session) in self.sessions.iter().filter(|(_, session)| !session.is_peer()) {
            for (filter, subscription) in session.subscriptions.iter() {
                interest.add(filter, None, wish(filter, subscription, session));
            }
        }
        for (key, group) in self.groups.iter().filter(|(_, group)| group.room(&self.limits, 1).is_err()) {
            self.peers.full_groups.insert(key);
            interest.set_stuffed(&group.whole_filter(), true);
        }
        self.peers.interest = interest;
    }

    /// A session subscribed; it had `before` to the same filter.
    pub(super) fn note_wish(
        &mut self,
        key: SessionKey,
        filter: &str,
        before: Option<Subscription>,
        subscription: Subscription,
    ) {
        let Some(session) = self.wishing(key) else { return };
        let (before, now) = (before.map(|before| wish(filter, before, session)), wish(filter, subscription, session));
        if let Some(changed) = self.peers.interest.add(filter, before, now) {
            self.tell_peers(filter, Some(changed));
        }
    }

    /// It unsubscribed, or is gone.
    pub(super) fn forget_wish(&mut self, key: SessionKey, filter: &str, subscription: Subscription) {
        let Some(session) = self.wishing(key) else { return };
        let wish = wish(filter, subscription, session);
        if let Some(changed) = self.peers.interest.remove(filter, wish) {
            self.tell_peers(filter, changed);
        }
    }

    /// A session has a connection now, or no longer has one: of what it shares, others may have to know.
    pub(super) fn note_presence(&mut self, key: SessionKey) {
        if self.wishing(key).is_some_and(|session| !session.groups.is_empty()) {
            self.change_wishes(key, is_shared, |wish| Wish { away: !wish.away, ..wish });
        }
    }

    /// A message was queued for a session. Once that is full, publishers on other shards are to be refused, too.
    pub(super) fn note_queued(&mut self, now: Millis, key: SessionKey) {
        if self.peers.is_empty() {
            return;
        }
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        self.peers.behind |= is_behind(session, 1);
        let counts = !session.is_peer() && !session.full_told && session.overflow == Overflow::RefuseNew;
        if counts && session.room(&self.limits, 1).is_err() {
            session.full_told = true;
            self.peers.full.push((key, session.epoch));
            self.change_wishes(key, |filter| !is_shared(filter), |wish| Wish { full: false, ..wish });
            self.set_progress_timer(now);
        }
    }

    /// A message was queued for a group. Once that is full, other shards keep theirs, for which they can refuse publishers.
    pub(super) fn note_group_queued(&mut self, now: Millis, key: GroupKey) {
        let Some(group) = self.groups.get(key).filter(|_| !self.peers.is_empty()) else { return };
        if group.room(&self.limits, 1).is_ok() {
            return;
        }
        let filter = group.whole_filter();
        self.peers.full_groups.insert(key);
        if let Some(changed) = self.peers.interest.set_stuffed(&filter, true) {
            self.tell_peers(&filter, Some(changed));
        }
        self.set_progress_timer(now);
    }

    /// A message of a group was taken. Once there is room again, other shards give what they have.
    pub(super) fn note_group_taken(&mut self, key: GroupKey) {
        if !self.peers.full_groups.contains(&key) {
            return;
        }
        let group = self.groups.get(key);
        if group.is_some_and(|group| !group.has_drained(&self.limits)) {
            return;
        }
        let filter = group.map(Group::whole_filter);
        self.peers.full_groups.remove(&key);
        if let Some(filter) = filter
            && let Some(changed) = self.peers.interest.set_stuffed(&filter, false)
        {
            self.tell_peers(&filter, Some(changed));
        }
    }

    /// Whether other shards are too far behind for more from clients. What they send themselves is to be read all the same: two
    /// shards that did not listen to each other would wait for ever.
    pub fn peers_are_behind(&self) -> bool {
        self.peers.behind || self.peers.waiting.len() > BEHIND_ANSWERS
    }

    /// Looks whether they have caught up.
    pub fn peers_have_caught_up(&mut self) -> bool {
        let Shard { sessions, peer_sessions, peers, .. } = self;
        let mut all = peer_sessions.iter().filter_map(|key| sessions.get(*key as usize));
        peers.behind = peers.behind && all.any(|session| is_behind(session, 2));
        !peers.behind && peers.waiting.len() <= BEHIND_ANSWERS / 2
    }

    /// Tells others about sessions and groups that have room again.
    pub(super) fn look_for_room(&mut self, now: Millis) {
        for key in self.peers.full_groups.clone() {
            if let Some(group) = self.groups.get_mut(key) {
                self.counters.dropped_expired += group.drop_expired(&mut self.queues, now);
                self.changed.group(key);
            }
            self.note_group_taken(key);
        }
        for (key, epoch) in std::mem::take(&mut self.peers.full) {
            let Shard { sessions, queues, limits, counters, .. } = self;
            let Some(session) = sessions.get_mut(key as usize).filter(|session| session.epoch == epoch) else {
                continue;
            };
            counters.dropped_expired += session.drop_expired(queues, now);
            if session.has_drained(limits) || session.overflow == Overflow::DropOldest {
                session.full_told = false;
                let before = |wish: Wish| Wish { full: wish.qos > QoS::AtMostOnce, ..wish };
                self.change_wishes(key, |filter| !is_shared(filter), before);
            } else {
                self.peers.full.push((key, epoch));
            }
        }
        if !self.peers.full.is_empty() || !self.peers.full_groups.is_empty() {
            self.set_progress_timer(now);
        }
    }

    /// What a session wants of some filters changed; `before` says from what.
    fn change_wishes(&mut self, key: SessionKey, concerns: impl Fn(&str) -> bool, before: impl Fn(Wish) -> Wish) {
        let Some(session) = self.sessions.get(key as usize) else { return };
        let concerned = session.subscriptions.iter().filter(|(filter, _)| concerns(filter));
        let wishes: Vec<(Box<str>, Wish)> =
            concerned.map(|(filter, subscription)| (filter.into(), wish(filter, subscription, session))).collect();
        for (filter, now) in wishes {
            if let Some(changed) = self.peers.interest.add(&filter, Some(before(now)), now) {
                self.tell_peers(&filter, Some(changed));
            }
        }
    }

    /// The session, where others are to know what it wants.
    fn wishing(&self, key: SessionKey) -> Option<&Session> {
        if self.peers.is_empty() {
            return None;
        }
        self.sessions.get(key as usize).filter(|session| !session.is_peer())
    }

    /// A peer subscribed to a filter.
    pub(super) fn note_wanted(&mut self, id: ConnectionId, filter: &str) {
        let peer = self.peers.peers.iter_mut().find(|peer| peer.connection == id);
        if let Some(wanted) = peer.and_then(|peer| peer.wanted.as_mut()) {
            wanted.insert(filter.into());
        }
    }

    /// The filters that a peer wants no longer: of one that has just said all it wants, those of before a start.
    pub(super) fn unwanted(&mut self, id: ConnectionId, key: SessionKey, filters: &[&str]) -> Option<Vec<Box<str>>> {
        let peer = self.peers.peers.iter_mut().find(|peer| peer.connection == id && filters == [THAT_IS_ALL]);
        let wanted = peer.and_then(|peer| peer.wanted.take())?;
        let known = self.sessions.get(key as usize)?.subscriptions.iter().map(|(filter, _)| filter);
        Some(known.filter(|filter| !wanted.contains(*filter)).map(Box::from).collect())
    }

    fn tell_peers(&mut self, filter: &str, wish: Option<Wish>) {
        for at in 0..self.peers.peers.len() {
            self.tell_peer(at, filter, wish);
        }
    }

    /// SUBSCRIBE or UNSUBSCRIBE. Answers come in the order of what they answer, so the packet identifier only has to be valid.
    fn tell_peer(&mut self, at: usize, filter: &str, wish: Option<Wish>) {
        let peer = &mut self.peers.peers[at];
        let Some(connection) = self.connections.get_mut(peer.connection.index()) else { return };
        let packet_id = PacketId::MIN;
        match wish {
            Some(wish) => {
                let options = as_options(wish);
                let filters = vec![(filter, options)];
                let user_properties = Vec::new();
                connection.write(Packet::Subscribe(Subscribe {
                    packet_id,
                    subscription_identifier: None,
                    user_properties,
                    filters,
                }));
            }
            None => {
                let (filters, user_properties) = (vec![filter], Vec::new());
                connection.write(Packet::Unsubscribe(Unsubscribe { packet_id, user_properties, filters }));
            }
        }
        peer.told += 1;
        mark_dirty(&mut self.dirty, connection);
    }

    /// Does it once the record at `durable_at` is durable and all peers know what they were told.
    pub(super) fn when_known(&mut self, now: Millis, id: ConnectionId, durable_at: Lsn, releases: [Release; 2]) {
        // Two shards that waited for each other's answers would wait for ever.
        if self.is_peer(id) || (self.peers.know_all() && self.peers.waiting.is_empty()) {
            for release in releases {
                self.when_durable(now, durable_at, release);
            }
            return;
        }
        let answered = self.peers.peers.iter().map(|peer| peer.told).collect();
        self.peers.waiting.push_back(Waiting { answered, durable_at, releases });
    }

    /// A packet that only a server sends: a peer is both.
    pub(super) fn on_peer_answer(&mut self, now: Millis, id: ConnectionId) {
        let Some(peer) = self.peers.peers.iter_mut().find(|peer| peer.connection == id) else { return };
        peer.answered += 1;
        while let Some(first) = self.peers.waiting.front()
            && first.answered.iter().zip(&self.peers.peers).all(|(needed, peer)| peer.answered >= *needed)
        {
            let Some(Waiting { durable_at, releases, .. }) = self.peers.waiting.pop_front() else { return };
            for release in releases {
                self.when_durable(now, durable_at, release);
            }
        }
    }

    /// Notes a session that begins, or is there again, if it is another shard's.
    pub(super) fn note_peer_session(&mut self, key: SessionKey) {
        if is_peer_session(&self.sessions, key) {
            self.peer_sessions.push(key);
        }
    }

    /// Whether a message comes from another shard.
    pub(super) fn is_from_peer(&self, origin: Origin) -> bool {
        !self.peer_sessions.is_empty() && origin.publisher().is_some_and(|key| is_peer_session(&self.sessions, key))
    }

    /// Whether the connection is another shard's.
    pub fn is_peer(&self, id: ConnectionId) -> bool {
        !self.peers.is_empty() && self.connection(id).is_some_and(Connection::is_link)
    }
}
