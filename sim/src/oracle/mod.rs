//! What the broker must and must not do, held against what it does.
//!
//! Owns the model and all rules. It hears every packet the broker handles and every packet it emits, at the moment it does,
//! and knows from the disk alone what is durable. Of the shard it reads counters and gauges only: whether a publish was refused,
//! how many records there are. It never looks at sessions or queues.

mod end;
pub(crate) mod input;
mod judge;
mod output;
mod place;
mod route;
mod several;
pub(crate) mod state;
mod time;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use causeway_core::Limits;
use causeway_protocol::{ProtocolVersion, ReasonCode};

use crate::folding::Folded;
use crate::message::Registry;
pub(crate) use judge::Judge;
pub(crate) use several::Several;
use state::{ClientIndex, Identifiers, LinkId, Op, State, WillModel};

/// A promise of the broker, or of a client of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// No acknowledgement before its record is durable.
    AckedBeforeDurable,
    /// No PUBREL or PUBCOMP before what it relies on is durable.
    ReleasedBeforeDurable,
    /// No delivery before its record is durable.
    DeliveredBeforeDurable,
    /// No retained message to a persistent session before the message is durable.
    RetainedBeforeDurable,
    /// Acknowledgements come in order, once, with the right reason.
    WrongAcknowledgement,
    /// A session gets what it subscribed to, and nothing else, as it asked for it.
    WrongDelivery,
    /// The order of publishing is the order of first deliveries.
    Order,
    /// Nothing is left out.
    Lost,
    /// QoS 2 is exactly once; what is acknowledged is not sent again.
    Twice,
    /// Nothing after it expired.
    Expired,
    /// DUP says whether it was sent before.
    Dup,
    /// A packet identifier in flight belongs to one message.
    PacketIdentifier,
    /// A bound is kept, and nothing is refused before it is reached.
    Bound,
    /// What is retained comes to who subscribed, whatever happens meanwhile.
    RetainedLost,
    /// A QoS 2 message that is finished is not released again.
    ReleasedAgain,
    /// A shared message that was lost with its member is not kept for ever.
    SharedAgain,
    /// On several shards, what waits for a shared subscription is not left out.
    SharedLost,
    /// On several shards, all of them have the same retained messages in the end, and the newest ones.
    RetainedElsewhere,
    /// Retained messages are the newest of their topics.
    Retained,
    /// A will is published when it is due, and only then.
    Will,
    /// Session Present, takeovers, closed connections.
    Connection,
    /// What must survive has a record.
    NotRecorded,
    /// A restart finds all that was durable, and whole groups.
    Recovery,
    /// The client's window is kept.
    Window,
    /// What comes is what was published, byte for byte.
    Data,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: Rule,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

/// An acknowledgement the broker owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "the names are the specification's")]
pub(crate) enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

#[derive(Debug, Clone, Copy)]
struct AckDue {
    kind: AckKind,
    packet_id: u16,
    reason: ReasonCode,
    lsn: u64,
    /// Nobody can tell which reason.
    any_reason: bool,
}

#[derive(Debug, Clone)]
struct AnswerDue {
    packet_id: u16,
    /// None is UNSUBACK.
    reasons: Option<Vec<ReasonCode>>,
    lsn: u64,
}

/// A QoS 0 delivery that must follow at once.
#[derive(Debug, Clone)]
struct Expected {
    /// None: any member of the group.
    link: Option<LinkId>,
    group: Option<usize>,
    message: u32,
    retain: bool,
    identifiers: Identifiers,
    /// It may follow, and need not.
    optional: bool,
}

#[derive(Debug)]
struct Conn {
    client: ClientIndex,
    version: ProtocolVersion,
    open: bool,
    connack: Option<bool>,
    /// The record that CONNACK relies on.
    connack_lsn: u64,
    acks: VecDeque<AckDue>,
    answers: VecDeque<AnswerDue>,
    /// PUBRECs nobody waited for: PUBREL 0x92 follows.
    strays: u32,
    /// Of each lane, the last packet identifier sent.
    last_ids: [u16; 2],
    will: Option<WillModel>,
    expiry_at_connect: u32,
    silence_max: u64,
    last_received: u64,
}

/// An entry that is finished, until the log surely says so.
#[derive(Debug)]
struct Finished {
    client: ClientIndex,
    epoch: u64,
    entry: u64,
    at: u64,
    lsn: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) registry: Registry,
    limits: Limits,
    /// The broker has a folded state besides its log.
    is_folding: bool,
    /// As the running broker has it.
    pub(crate) live: State,
    /// As it would be after a crash now.
    base: State,
    /// Recorded, and not yet durable.
    pending: VecDeque<(u64, Op)>,
    finished: VecDeque<Finished>,
    conns: BTreeMap<LinkId, Conn>,
    expected: Vec<Expected>,
    /// Of those that were for a group, which came during the input at hand, and to whom.
    came_to_groups: Vec<(ClientIndex, Expected)>,
    durable: u64,
    /// The newest record before and after the input at hand.
    last_before: u64,
    last: u64,
    next_id: u64,
    epoch: u64,
    /// Since the broker started.
    pub(crate) wills_published: u64,
    pub(crate) violations: Vec<Violation>,
    tolerated: &'static [Rule],
    /// Clients whose queues give up their oldest messages for newer ones.
    pub(crate) drops_oldest: Vec<bool>,
    /// How many were, as of the last input, and in this one.
    pub(crate) dropped_before: u64,
    pub(crate) dropped: u64,
    /// Since the oracle last compared them: how many were, how many had to be, and whether there may have been more.
    dropped_lately: u64,
    dropped_surely: u64,
    is_dropping_unsure: bool,
    /// A promise was broken and tolerated on which others rest.
    pub(crate) is_tainted: bool,
    pub(crate) tally: Tally,
}

/// What a run brought about, to see that it reaches what it should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Tally {
    pub publishes: u64,
    pub refused: u64,
    pub deliveries: u64,
    pub redeliveries: u64,
    pub shared: u64,
    pub retained_sent: u64,
    pub wills: u64,
    pub expired_sessions: u64,
    pub takeovers: u64,
    pub expired_messages: u64,
    pub starts: u64,
    pub refused_starts: u64,
    pub tolerated: u64,
    pub folds: u64,
    pub folds_abandoned: u64,
    pub bodies_moved: u64,
    pub log_cuts: u64,
    pub fetched: u64,
    pub dropped_oldest: u64,
    pub directed: u64,
    pub handed: u64,
    pub joined_groups: u64,
    pub left_groups: u64,
    pub to_vehicles: u64,
}

impl Tally {
    /// Adds up two runs.
    pub fn add(&mut self, other: &Tally) {
        self.publishes += other.publishes;
        self.refused += other.refused;
        self.deliveries += other.deliveries;
        self.redeliveries += other.redeliveries;
        self.shared += other.shared;
        self.retained_sent += other.retained_sent;
        self.wills += other.wills;
        self.expired_sessions += other.expired_sessions;
        self.takeovers += other.takeovers;
        self.expired_messages += other.expired_messages;
        self.starts += other.starts;
        self.refused_starts += other.refused_starts;
        self.tolerated += other.tolerated;
        self.folds += other.folds;
        self.folds_abandoned += other.folds_abandoned;
        self.bodies_moved += other.bodies_moved;
        self.log_cuts += other.log_cuts;
        self.fetched += other.fetched;
        self.dropped_oldest += other.dropped_oldest;
        self.directed += other.directed;
        self.handed += other.handed;
        self.joined_groups += other.joined_groups;
        self.left_groups += other.left_groups;
        self.to_vehicles += other.to_vehicles;
    }

    pub(crate) fn folded(&mut self, folded: Folded) {
        self.folds += folded.folds;
        self.folds_abandoned += folded.abandoned;
        self.bodies_moved += folded.moved;
        self.log_cuts += folded.cuts;
        self.fetched += folded.fetched;
    }
}

impl Oracle {
    pub(crate) fn new(limits: Limits, is_folding: bool, clients: usize, tolerated: &'static [Rule]) -> Oracle {
        Oracle {
            registry: Registry::new(),
            limits,
            is_folding,
            live: State::new(clients),
            base: State::new(clients),
            pending: VecDeque::new(),
            finished: VecDeque::new(),
            conns: BTreeMap::new(),
            expected: Vec::new(),
            came_to_groups: Vec::new(),
            durable: 0,
            last_before: 0,
            last: 0,
            next_id: 1,
            epoch: 0,
            wills_published: 0,
            violations: Vec::new(),
            tolerated,
            drops_oldest: vec![false; clients],
            dropped_before: 0,
            dropped: 0,
            dropped_lately: 0,
            dropped_surely: 0,
            is_dropping_unsure: false,
            is_tainted: false,
            tally: Tally::default(),
        }
    }

    pub(crate) fn breach(&mut self, rule: Rule, detail: impl Into<String>) {
        if self.tolerated.contains(&rule) {
            self.tally.tolerated += 1;
            self.is_tainted |= rule == Rule::ReleasedBeforeDurable;
            return;
        }
        self.violations.push(Violation { rule, detail: detail.into() });
    }

    /// An input was handled, after which `last` is the newest record.
    pub(crate) fn begin(&mut self, last: u64, dropped: u64) {
        (self.last_before, self.last) = (self.last, last);
        self.dropped = dropped - self.dropped_before;
        self.dropped_before = dropped;
        self.dropped_lately += self.dropped;
        self.tally.dropped_oldest += self.dropped;
    }

    /// Records up to here have reached the medium.
    pub(crate) fn set_durable(&mut self, through: u64) {
        self.durable = self.durable.max(through);
        while let Some((_, op)) = self.pending.pop_front_if(|(at, _)| *at <= self.durable) {
            self.apply_to_base(&op);
        }
        let (base, durable) = (&mut self.base, self.durable);
        self.finished.retain(|done| {
            let gone = done.lsn.is_some_and(|lsn| lsn <= durable);
            if gone && let Some(session) = base.session(done.client, done.epoch) {
                session.forget_entry(done.entry);
            }
            !gone
        });
    }

    /// Whether messages of the topic go before others.
    pub(super) fn is_urgent(&self, topic: usize) -> bool {
        let topic = crate::message::TOPICS[topic];
        self.limits.urgent_topics.iter().any(|filter| causeway_protocol::filter_matches(filter, topic))
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Applies a change; `recorded`: it must outlive the process.
    fn change(&mut self, op: Op, recorded: bool) {
        self.live.apply(&op);
        if !recorded {
            return;
        }
        if self.last == self.last_before {
            self.breach(Rule::NotRecorded, format!("{op:?}"));
        }
        self.note_for_base(op);
    }

    /// Something that a crash leaves, once the newest record is durable.
    fn note_for_base(&mut self, op: Op) {
        if self.last <= self.durable {
            self.apply_to_base(&op);
        } else {
            self.pending.push_back((self.last, op));
        }
    }

    /// A group whose members are all unknown to the log has no place in it. But whoever joins later gets what waits there, and a
    /// fold has that.
    fn apply_to_base(&mut self, op: &Op) {
        if let Op::Publish(publish) = op {
            for (group, _) in publish.group_entries.iter().filter(|_| self.is_folding) {
                if self.live.groups.contains_key(group) {
                    self.base.groups.entry(*group).or_default();
                }
            }
        }
        let is_leaving = matches!(op, Op::End { .. } | Op::Unsubscribe { .. });
        let before = (self.is_folding && is_leaving).then(|| self.base.groups.clone());
        self.base.apply(op);
        let (base, live) = (&mut self.base.groups, &self.live.groups);
        // Those who are left may all be unknown to the log.
        for (filter, mut group) in before.into_iter().flatten() {
            if !base.contains_key(&filter) && live.contains_key(&filter) {
                group.members.clear();
                group.entries.iter_mut().for_each(|entry| entry.optional = true);
                base.insert(filter, group);
            }
        }
        base.retain(|filter, group| !group.members.is_empty() || live.contains_key(filter));
    }
}

pub(crate) fn is_expired(expires_at: Option<u64>, now: u64) -> bool {
    expires_at.is_some_and(|at| at <= now)
}
