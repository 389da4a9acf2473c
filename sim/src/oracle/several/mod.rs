//! The oracle of a broker of several shards.
//!
//! Owns what can be promised and seen from outside, wherever a client's session lives. That of one shard knows the place of every
//! message in every queue; between shards there is a time in which a message is neither here nor there, so this one knows what each
//! client is owed, may get and must not get, and who has to hear of whose wishes. It believes a shard about nothing but whether it
//! refused a message.

mod end;
mod judge;
mod publishes;
mod sessions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use causeway_protocol::{ProtocolVersion, QoS};

use super::state::{ClientIndex, Identifiers, LinkId, Sub, WillModel};
use super::{AckKind, Rule, Tally, Violation};
use crate::message::{MessageId, Registry, TOPICS};

/// When something happened: inputs are counted.
type Turn = u64;

/// A subscription, from its SUBSCRIBE to its end.
#[derive(Debug, Clone, Copy)]
struct Stay {
    filter: usize,
    sub: Sub,
    /// SUBSCRIBE was handled.
    asked: Turn,
    /// SUBACK was sent: from here on, all shards know.
    acked: Option<Turn>,
    /// UNSUBSCRIBE was handled, or a SUBSCRIBE that replaced it, and answered.
    ended: Option<Turn>,
    is_gone: bool,
    /// A crash came before the answer: nobody can tell.
    is_unsure: bool,
}

#[derive(Debug, Clone)]
struct Session {
    epoch: u64,
    link: Option<LinkId>,
    expiry_seconds: u32,
    /// The least that a crash may leave of it.
    expiry_least: u32,
    left_at: Option<u64>,
    /// CONNACK was sent: it outlives a crash, if it is to.
    is_sure: bool,
    /// A crash left open whether it is still the one that it was, or one without any of that.
    may_be_new: bool,
    stays: Vec<Stay>,
    /// It is one of before a crash, of which nothing is known.
    is_unknown: bool,
    /// Identifiers of QoS 2 that were not released; and whether a crash came since: what nobody was owed has no record.
    received: BTreeMap<u16, bool>,
    /// Messages it was sent, and of each publisher, topic, and whether at QoS 0, the newest of them.
    sent: BTreeSet<MessageId>,
    newest: BTreeMap<(ClientIndex, usize, bool), (Turn, MessageId)>,
    /// Likewise, of before the last crash, where the queue gives up its oldest messages.
    newest_before: BTreeMap<(ClientIndex, usize, bool), (Turn, MessageId)>,
}

impl Session {
    /// Whether it cannot have expired, and no crash can have taken it.
    fn is_surely_there(&self, now: u64) -> bool {
        let lasts_until = |at| at + u64::from(self.expiry_least) * 1000;
        let lasts = self.link.is_some() || self.expiry_least == u32::MAX;
        self.is_sure && (lasts || self.left_at.is_some_and(|at| now < lasts_until(at)))
    }
}

/// An acknowledgement the broker owes, and the publish it is for.
#[derive(Debug, Clone, Copy)]
struct AckDue {
    kind: AckKind,
    packet_id: u16,
    publish: Option<usize>,
}

#[derive(Debug)]
struct AnswerDue {
    packet_id: u16,
    /// When it was asked for.
    asked: Turn,
    is_subscribe: bool,
    filters: Vec<usize>,
}

#[derive(Debug)]
struct Conn {
    client: ClientIndex,
    version: ProtocolVersion,
    is_open: bool,
    /// What CONNACK must say, where that is known; the outer one is gone with it.
    session_present: Option<Option<bool>>,
    has_left: bool,
    acks: VecDeque<AckDue>,
    answers: VecDeque<AnswerDue>,
    will: Option<WillModel>,
    silence_max: u64,
    last_received: u64,
}

/// A publish that was accepted.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    message: MessageId,
    turn: Turn,
    expires_at: Option<u64>,
    /// PUBACK or PUBREC was sent.
    is_acked: bool,
}

/// What a session must get.
#[derive(Debug, Clone)]
struct Owed {
    client: ClientIndex,
    epoch: u64,
    message: MessageId,
    publish: usize,
    qos: QoS,
    retain: bool,
    identifiers: Identifiers,
    expires_at: Option<u64>,
    /// Publisher and subscriber have one home: it is in its queue at once.
    is_local: bool,
    /// Its terms may have changed on the way.
    is_loose: bool,
    /// It may come, and need not.
    is_optional: bool,
    came: bool,
}

/// What one member of a group must get.
#[derive(Debug, Clone)]
struct OwedToGroup {
    filter: usize,
    message: MessageId,
    publish: usize,
    /// Sessions that were members, and since when.
    members: Vec<(ClientIndex, u64, Turn)>,
    expires_at: Option<u64>,
    is_optional: bool,
    came: bool,
}

/// A retained message that may be the newest of its topic.
#[derive(Debug, Clone, Copy)]
struct Kept {
    message: MessageId,
    publish: Option<usize>,
    at: u64,
    expires_at: Option<u64>,
    /// No crash can have lost it.
    is_sure: bool,
    /// Another shard may have got it only after a crash, with what was left of its interval when it was sent.
    may_be_late: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Several {
    registry: Registry,
    violations: Vec<Violation>,
    tolerated: &'static [Rule],
    tally: Tally,
    shards: usize,
    careful: Vec<bool>,
    drops_oldest: Vec<bool>,
    turn: Turn,
    epoch: u64,
    sessions: Vec<Option<Session>>,
    /// Sessions that ended, and are back if a crash comes before the disk knows.
    ended: Vec<Option<Session>>,
    conns: BTreeMap<LinkId, Conn>,
    accepted: Vec<Accepted>,
    /// A crash may have brought sessions back whose end it lost.
    has_crashed: bool,
    /// Wills that were withdrawn since the last start. A crash may undo that.
    withdrawn: Vec<(ClientIndex, MessageId)>,
    /// Of each message, who published it, and when it was accepted first, and last.
    published: BTreeMap<MessageId, (ClientIndex, Turn, Turn)>,
    owed: Vec<Owed>,
    owed_to_groups: Vec<OwedToGroup>,
    kept: Vec<Kept>,
    /// How often a QoS 2 message came to those who have it from groups alone.
    came_to_groups: BTreeMap<MessageId, usize>,
}

impl Several {
    pub(crate) fn new(
        shards: usize,
        careful: Vec<bool>,
        drops_oldest: Vec<bool>,
        tolerated: &'static [Rule],
    ) -> Several {
        let clients = careful.len();
        Several {
            registry: Registry::new(),
            violations: Vec::new(),
            tolerated,
            tally: Tally::default(),
            shards,
            careful,
            drops_oldest,
            turn: 1,
            epoch: 0,
            sessions: vec![None; clients],
            ended: vec![None; clients],
            conns: BTreeMap::new(),
            accepted: Vec::new(),
            has_crashed: false,
            withdrawn: Vec::new(),
            published: BTreeMap::new(),
            owed: Vec::new(),
            owed_to_groups: Vec::new(),
            kept: Vec::new(),
            came_to_groups: BTreeMap::new(),
        }
    }

    fn breach(&mut self, rule: Rule, detail: String) {
        if self.tolerated.contains(&rule) {
            self.tally.tolerated += 1;
            return;
        }
        self.violations.push(Violation { rule, detail });
    }

    fn session_of(&mut self, link: LinkId) -> Option<(ClientIndex, &mut Session)> {
        let client = self.conns.get(&link).filter(|conn| conn.is_open)?.client;
        self.sessions[client].as_mut().map(|session| (client, session))
    }

    fn describe(&self, message: MessageId) -> String {
        let one = self.registry.get(message);
        let what = if one.is_will { "will" } else { "message" };
        let (topic, qos, expiry) = (TOPICS[one.topic], one.qos as u8, one.expiry_seconds);
        format!("{what} {message} on {topic} at QoS {qos}, retain {}, expiry {expiry:?}", one.retain)
    }

    fn is_current(&self, client: ClientIndex, epoch: u64) -> bool {
        self.sessions[client].as_ref().is_some_and(|session| session.epoch == epoch)
    }
}
