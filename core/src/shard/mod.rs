//! The shard state machine: the one place where sessions, subscriptions, retained messages and connections meet.
//!
//! Owns the dispatch of inputs and the state they change; what each input means is in the files below. It never
//! waits: records gather in a group, deliveries in outboxes, rare things in effects, and the edge takes all three.

mod acknowledge;
mod ask;
mod authority;
mod calls;
mod changed;
mod checkpoint;
mod close;
mod command;
mod connect;
mod deliver;
mod fetch;
mod fleet;
mod gauges;
mod group_command;
mod history;
mod matching;
mod mounting;
mod origin;
mod peers;
mod policy;
mod presence;
mod publish;
mod pump;
mod reauthenticate;
mod record;
mod replay;
mod replicate;
mod restore;
mod room;
mod shadow;
mod share;
mod subscribe;
mod sys;
#[cfg(test)]
mod tests;
mod timers;
mod twins;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use causeway_protocol::{DecodeError, Packet, PacketId, ReasonCode};
use foldhash::fast::FixedState;
use slab::Slab;

use crate::commons::Commons;
use crate::connection::Connection;
use crate::crossing::LINK_WINDOW;
use crate::effect::{Effect, Event, EventLevel};
use crate::index::SubscriptionIndex;
use crate::message::Message;
use crate::queue::Queues;
use crate::record::{PendingGroup, Recorder};
use crate::retained::Retained;
use crate::rows::Rows;
use crate::session::{Session, SessionKey};
use crate::shared::{GroupKey, Groups};
use crate::{Bound, ConnectionId, Counters, Limits, Lsn, Millis, OutboxMut, OutboxRef};
use authority::Noticed;
use changed::Changed;
use checkpoint::Checkpoint;
use command::{Barred, Commands};
use fetch::Fetches;
use gauges::Survey;
use group_command::KeptBack;
use matching::Match;
use origin::Numbers;
use peers::Peers;
use policy::InForce;
use presence::{Late, Presence};
use shadow::Shadows;
use timers::Timers;

pub use authority::{Notice, Revocation, Revoked};
pub use checkpoint::{Change, CheckpointEnd};
pub use command::Bar;
pub(crate) use command::{Command, Ended, State};
pub(crate) use presence::is_presence;

/// What waits for records to become durable, in the order of the log.
#[derive(Debug)]
enum Release {
    /// The acknowledgement of a PUBLISH.
    Ack { connection: ConnectionId, packet_id: PacketId, kind: AckKind, reason: ReasonCode },
    /// The acknowledgement of a PUBLISH that the rest of the broker has to take first.
    KeepBack { connection: ConnectionId, packet_id: PacketId, kind: AckKind, effect: Box<Effect> },
    /// SUBACK or UNSUBACK, encoded.
    Answer { connection: ConnectionId, bytes: Bytes },
    /// What waits for a connection, CONNACK first.
    Uncork(ConnectionId),
    /// A session whose queue starts with a message that was not durable.
    Session { session: SessionKey, epoch: u64 },
    /// Likewise a shared subscription.
    Group(GroupKey),
    /// A message of QoS 0 that says something which a crash must not undo.
    Late { session: SessionKey, epoch: u64, late: Box<Late> },
    /// Likewise to a shared subscription.
    LateToGroup { group: GroupKey, message: Arc<Message> },
    /// An answer, or news, for the rest of the broker.
    Told(Box<Effect>),
}

/// Which packet answers once its record is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "the names are the specification's")]
enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

/// One shard. See the crate.
#[derive(Debug)]
pub struct Shard {
    limits: Arc<Limits>,
    hash_seed: u64,
    sys_version: String,
    started: Millis,
    connections: Slab<Connection>,
    /// What several outboxes send.
    commons: Commons,
    /// Generation of the next connection.
    generation: u32,
    /// Connections that have a session.
    connected: usize,
    sessions: Slab<Session>,
    session_by_client: HashMap<Arc<str>, SessionKey, FixedState>,
    /// Epoch of the next session.
    epoch: u64,
    index: SubscriptionIndex,
    groups: Groups,
    group_by_name: HashMap<(Box<str>, Box<str>), GroupKey, FixedState>,
    retained: Retained,
    queues: Queues,
    fetches: Fetches,
    /// What differs from the folded state.
    changed: Changed,
    checkpoint: Option<Checkpoint>,
    /// Its vehicles, by the values of indexed fields.
    rows: Rows,
    /// History that is not folded.
    history: history::Pending,
    /// Overflows to be told on `$SYS` once the message at hand is routed.
    overflows: Vec<(String, String)>,
    /// The record through which the state was folded, what the fold under way would make of it, and whether the last failed.
    folded: Lsn,
    folding: Option<(Lsn, Vec<Lsn>)>,
    fold_failed: bool,
    /// Acknowledgements that the rest of the broker has to allow first, and those behind them; hardly any connection has some.
    kept_back: HashMap<ConnectionId, VecDeque<KeptBack>, FixedState>,
    /// Whether the disk has hardly any room left.
    storage_low: bool,
    /// Retained messages noted for sessions and not yet sent, over all sessions.
    backlog_messages: usize,
    recorder: Recorder,
    /// Sessions and groups whose progress is to be recorded, and whether a timer is set for it.
    progress: Vec<(SessionKey, u64)>,
    group_progress: Vec<GroupKey>,
    progress_timer_set: bool,
    /// Only while the log is replayed.
    replaying: Option<replay::Replay>,
    durable: Lsn,
    /// The time of the newest record.
    newest: Millis,
    releases: VecDeque<(Lsn, Release)>,
    timers: Timers,
    noticed: Noticed,
    in_force: InForce,
    presence: Presence,
    numbers: Numbers,
    dirty: VecDeque<ConnectionId>,
    /// Which of the broker's shards this is.
    number: u16,
    /// How many there are.
    shards: u16,
    shadows: Shadows,
    commands: Commands,
    barred: Barred,
    peers: Peers,
    /// Sessions of other shards, also while the log is replayed.
    peer_sessions: Vec<SessionKey>,
    survey: Survey,
    effects: VecDeque<Effect>,
    tells_details: bool,
    tells_twins: bool,
    counters: Counters,
    /// What the message at hand matched; kept for its memory.
    matches: Vec<Match>,
    matched_groups: Vec<GroupKey>,
    /// Topic and properties of a vehicle's message in full words; kept for their memory.
    mounted: (String, Vec<u8>),
    /// Counts routing turns, to mark sessions that already matched.
    turn: u64,
}

impl Shard {
    /// An empty shard. `version_text` is what `$SYS/broker/version` says; `hash_seed` must be hard to guess, so that
    /// nobody can choose topics that collide.
    pub fn new(now: Millis, limits: Arc<Limits>, version_text: &str, hash_seed: u64) -> Shard {
        let hasher = FixedState::with_seed(hash_seed);
        let mut shard = Shard {
            hash_seed,
            sys_version: version_text.to_owned(),
            started: now,
            connections: Slab::new(),
            commons: Commons::default(),
            generation: 0,
            connected: 0,
            sessions: Slab::new(),
            session_by_client: HashMap::with_hasher(hasher.clone()),
            epoch: 0,
            index: SubscriptionIndex::new(hash_seed),
            groups: Groups::default(),
            group_by_name: HashMap::with_hasher(hasher),
            retained: Retained::new(hash_seed),
            queues: Queues::new(hash_seed),
            fetches: Fetches::default(),
            changed: Changed::default(),
            checkpoint: None,
            rows: Rows::new(limits.shadow_index.clone()),
            history: history::Pending::default(),
            overflows: Vec::new(),
            folded: Lsn(0),
            folding: None,
            fold_failed: false,
            kept_back: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            storage_low: false,
            backlog_messages: 0,
            recorder: Recorder::default(),
            progress: Vec::new(),
            group_progress: Vec::new(),
            progress_timer_set: false,
            replaying: None,
            durable: Lsn(0),
            newest: Millis(0),
            releases: VecDeque::new(),
            timers: Timers::default(),
            noticed: Noticed::default(),
            in_force: InForce::open(hash_seed),
            presence: Presence::new(hash_seed),
            numbers: Numbers::new(now, hash_seed),
            dirty: VecDeque::new(),
            number: 0,
            shards: 1,
            shadows: Shadows::new(hash_seed),
            commands: Commands::new(hash_seed),
            barred: Barred::new(hash_seed),
            peers: Peers::default(),
            peer_sessions: Vec::new(),
            survey: Survey::default(),
            effects: VecDeque::new(),
            tells_details: true,
            tells_twins: false,
            counters: Counters::default(),
            matches: Vec::new(),
            matched_groups: Vec::new(),
            mounted: Default::default(),
            turn: 0,
            limits,
        };
        shard.start_sys(now);
        shard
    }

    /// Takes a packet of an open connection.
    pub fn handle(&mut self, now: Millis, connection: ConnectionId, packet: &Packet<'_>) {
        let Some(open) = self.open_connection(connection) else {
            return;
        };
        open.last_received = now;
        match packet {
            Packet::Publish(publish) => self.on_publish(now, connection, publish),
            Packet::PubAck(ack) => self.on_puback(now, connection, ack),
            Packet::PubRec(ack) => self.on_pubrec(now, connection, ack),
            Packet::PubRel(ack) => self.on_pubrel(now, connection, ack),
            Packet::PubComp(ack) => self.on_pubcomp(now, connection, ack),
            Packet::Subscribe(subscribe) => self.on_subscribe(now, connection, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(now, connection, unsubscribe),
            //= [MQTT-3.12.4-1] a PINGREQ is answered
            Packet::PingReq => self.write(connection, Packet::PingResp),
            // Another shard that goes away closes the link, which is as good. Told of it first, this one would take it for the
            // end of a link that broke the rules.
            Packet::Disconnect(_) if self.is_peer(connection) => {}
            Packet::Disconnect(disconnect) => self.on_disconnect(now, connection, disconnect),
            Packet::Auth(auth) => self.on_auth(now, connection, auth),
            //= [MQTT-3.1.0-2] a second CONNECT is a protocol error
            Packet::Connect(_) => self.protocol_error(now, connection, "second CONNECT"),
            Packet::SubAck(_) | Packet::UnsubAck(_) if self.is_peer(connection) => self.on_peer_answer(now, connection),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.protocol_error(now, connection, "packet only a server may send")
            }
        }
    }

    /// Part of a packet came: a slow upload is no silence.
    pub fn heard(&mut self, now: Millis, connection: ConnectionId) {
        if let Some(open) = self.open_connection(connection) {
            open.last_received = now;
        }
    }

    /// The connection's bytes are no packet: it is told why and closed.
    pub fn malformed(&mut self, now: Millis, connection: ConnectionId, error: DecodeError) {
        //= [MQTT-4.13.1-1] a malformed packet or protocol error ends the connection, with its reason
        self.counters.protocol_errors += 1;
        if matches!(error, DecodeError::PacketTooLarge { .. }) {
            self.counters.reached(Bound::PacketBytes);
        }
        self.disconnect(now, connection, error.reason(), &error.to_string());
    }

    /// Whether the connection still takes packets. Once it does not, what it sends is dropped.
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.connection(connection).is_some_and(|connection| connection.session.is_some())
    }

    /// Whether the edge should read from the connection. A client that takes nothing, or whose publishes come faster
    /// than the log, is not listened to, so that what waits for it stays bounded. Ask again after [`Shard::flushed`].
    pub fn wants_input(&self, connection: ConnectionId) -> bool {
        let open = self.connection(connection).filter(|connection| connection.session.is_some());
        open.is_some_and(|connection| {
            !connection.corked
            && !connection.awaits_fold
            // Messages stop at the bound itself: what comes above it is answers to the client's own packets. Two shards
            // that did not listen to each other because of it would wait for ever.
            && (connection.outbox.bytes() <= 2 * self.limits.outbox_bytes_max
                || connection.is_link())
                && connection.withheld <= 2 * u32::from(self.receive_maximum(connection))
        })
    }

    /// How many messages of QoS 1 and 2 may come in unacknowledged.
    fn receive_maximum(&self, connection: &Connection) -> u16 {
        if connection.is_link() { LINK_WINDOW } else { self.limits.receive_maximum }
    }

    /// The outbox was written, wholly or below [`crate::OUTBOX_LOW_BYTES`]: more may follow from the session's queue.
    pub fn flushed(&mut self, now: Millis, connection: ConnectionId) {
        if let Some(session) = self.connection(connection).and_then(|connection| connection.session) {
            self.pump(now, session);
        }
    }

    /// Whether [`Shard::poll_dirty`] may have one.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The next connection whose outbox got bytes since it was last returned here, or that may be listened to again.
    pub fn poll_dirty(&mut self) -> Option<ConnectionId> {
        while let Some(id) = self.dirty.pop_front() {
            if let Some(connection) = self.connection_mut(id) {
                connection.dirty = false;
                return Some(id);
            }
        }
        None
    }

    /// Whether the connection's CONNACK waits for the log. Until it does not, hand the shard no packet of it.
    pub fn is_corked(&self, connection: ConnectionId) -> bool {
        self.connection(connection).is_some_and(|connection| connection.corked)
    }

    /// What waits for a connection, corked or not: for whoever watches.
    pub fn waiting(&self, connection: ConnectionId) -> Option<OutboxRef<'_>> {
        self.connection(connection).map(|connection| OutboxRef::new(&connection.outbox, &self.commons))
    }

    /// The bytes waiting for a connection; there until [`Shard::closed`], but not while it is corked.
    pub fn outbox(&mut self, connection: ConnectionId) -> Option<OutboxMut<'_>> {
        let open = self.connections.get_mut(connection.index()).filter(|open| open.id == connection);
        open.filter(|open| !open.corked).map(|open| OutboxMut::new(&mut open.outbox, &mut self.commons))
    }

    /// The records to append and sync next. Report them with [`Shard::persisted`], in order.
    pub fn take_group(&mut self) -> Option<PendingGroup> {
        self.recorder.take()
    }

    /// All records up to and including `through` are durable: what waited for them goes out.
    pub fn persisted(&mut self, now: Millis, through: Lsn) {
        self.durable = self.durable.max(through);
        while self.releases.front().is_some_and(|(at, _)| *at <= self.durable) {
            let Some((_, release)) = self.releases.pop_front() else { return };
            self.release(now, release);
        }
    }

    /// When the newest record was made, of those replayed, too. A clock that is behind this is wrong, and would make everything that
    /// expires last longer.
    pub fn newest_record(&self) -> Millis {
        self.newest
    }

    /// Does it once the record at `lsn`, which is the newest or durable, is durable.
    fn when_durable(&mut self, now: Millis, lsn: Lsn, release: Release) {
        if lsn > self.durable {
            self.releases.push_back((lsn, release));
        } else {
            self.release(now, release);
        }
    }

    /// The disk has hardly any room left, or has room again. While it has not, nothing new is accepted that would need it;
    /// what is there goes on to be delivered and acknowledged.
    pub fn storage_low(&mut self, low: bool) {
        self.storage_low = low;
    }

    /// From now on message bodies are read from the log when they are needed ([`Shard::poll_fetch`]), and only
    /// [`Limits::body_cache_bytes`] of them stay in memory; and what changes is noted for [`Shard::begin_checkpoint`]. Call
    /// before anything else.
    pub fn read_bodies_from_log(&mut self) {
        self.changed.is_noted = true;
        self.queues.bodies.read_from_log(self.limits.body_cache_bytes);
    }

    fn release(&mut self, now: Millis, release: Release) {
        match release {
            Release::Ack { connection, packet_id, kind, reason } => {
                self.release_ack(connection, packet_id, kind, reason);
            }
            Release::KeepBack { connection, packet_id, kind, effect } => {
                self.keep_back(connection, packet_id, kind, *effect);
            }
            Release::Answer { connection, bytes } => {
                let open = self.connections.get_mut(connection.index());
                //= [MQTT-3.14.4-1] nothing after a DISCONNECT
                if let Some(open) = open.filter(|open| open.id == connection && open.session.is_some()) {
                    open.write_encoded(&bytes);
                    mark_dirty(&mut self.dirty, open);
                }
            }
            Release::Uncork(id) => {
                if let Some(open) = self.connections.get_mut(id.index()).filter(|open| open.id == id) {
                    open.corked = false;
                    mark_dirty(&mut self.dirty, open);
                }
            }
            Release::Session { session, epoch } => {
                if self.sessions.get(session as usize).is_some_and(|session| session.epoch == epoch) {
                    self.pump(now, session);
                }
            }
            Release::Group(group) => self.pump_group(now, group),
            Release::Late { session, epoch, late } => {
                if self.sessions.get(session as usize).is_some_and(|session| session.epoch == epoch) {
                    self.deliver_late(now, session, &late);
                }
            }
            Release::Told(effect) => self.effects.push_back(*effect),
            Release::LateToGroup { group, message } => self.deliver_late_to_group(now, group, &message),
        }
    }

    /// Whether events of the level Debug have a reader. They are told unless this says otherwise.
    pub fn tell_details(&mut self, has_reader: bool) {
        self.tells_details = has_reader;
    }

    /// The next rare thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(id.index()).filter(|connection| connection.id == id)
    }

    fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id.index()).filter(|connection| connection.id == id)
    }

    fn open_connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connection_mut(id).filter(|connection| connection.session.is_some())
    }

    /// The session of an open connection.
    fn session_of(&mut self, id: ConnectionId) -> Option<(SessionKey, &mut Session)> {
        let key = self.connection(id)?.session?;
        Some((key, self.sessions.get_mut(key as usize)?))
    }

    /// Puts a packet other than PUBLISH into a connection's outbox.
    fn write(&mut self, id: ConnectionId, packet: Packet<'_>) {
        if let Some(connection) = self.connections.get_mut(id.index()).filter(|connection| connection.id == id) {
            connection.write(packet);
            mark_dirty(&mut self.dirty, connection);
        }
    }

    /// One line about a refusal, unless this connection already filled its share of the log.
    fn tell_refusal(&mut self, now: Millis, id: ConnectionId, what: &'static str, reason: ReasonCode, why: &str) {
        if self.connection_mut(id).is_some_and(|connection| connection.tells_refusal(now)) {
            self.event(EventLevel::Warn, id, what, Some(reason), why);
        }
    }

    fn event(
        &mut self,
        level: EventLevel,
        id: ConnectionId,
        what: &'static str,
        reason: Option<ReasonCode>,
        detail: &str,
    ) {
        if level == EventLevel::Debug && !self.tells_details {
            return;
        }
        let Some(connection) = self.connection(id) else {
            return;
        };
        let event = Event {
            level,
            connection: Some(id),
            client: connection.client_id.to_string(),
            principal: connection.identity.principal.to_string(),
            what,
            reason,
            detail: detail.to_owned(),
        };
        self.effects.push_back(Effect::Event(event));
    }
}

/// Notes that a connection has bytes to write.
fn mark_dirty(dirty: &mut VecDeque<ConnectionId>, connection: &mut Connection) {
    if !connection.dirty && !connection.corked {
        connection.dirty = true;
        if connection.is_link() {
            // Other shards hear of what happened before clients are told that it did.
            dirty.push_front(connection.id);
        } else {
            dirty.push_back(connection.id);
        }
    }
}
