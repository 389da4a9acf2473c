//! What must be true of a broker's durable state, as far as the promises of MQTT and of Causeway go.
//!
//! Owns sessions, groups, queues and retained messages of the model, and how a recorded change alters them. There are two
//! of these: one as the running broker has it, one as it would be after a crash now.

use std::collections::{BTreeMap, BTreeSet};

use causeway_protocol::QoS;
use smallvec::SmallVec;

use crate::message::MessageId;

/// Which client; a client has one session at a time.
pub(crate) type ClientIndex = usize;
/// Names a link for as long as the run lasts.
pub(crate) type LinkId = u32;
/// Subscription Identifiers, sorted.
pub(crate) type Identifiers = SmallVec<[u32; 2]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sub {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// Zero is none.
    pub(crate) identifier: u32,
    /// Of a vehicle: it was not asked for, but follows from one that was.
    pub(crate) follows: bool,
    /// It asked for nothing retained.
    pub(crate) unretained: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WillModel {
    pub(crate) message: MessageId,
    pub(crate) delay_seconds: u32,
}

/// How far an entry of a queue got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Queued,
    /// Sent, and not acknowledged.
    Flying,
    /// PUBREC came.
    Released,
}

/// A message that a session is owed because of its plain subscriptions.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) message: MessageId,
    pub(crate) expires_at: Option<u64>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifiers: Identifiers,
    /// The record it became durable with; zero where it has none.
    pub(crate) lsn: u64,
    /// Zero until it was sent.
    pub(crate) packet_id: u16,
    /// Whether the broker must take it for sent, so that it comes with DUP; none where it may do either.
    pub(crate) was_sent: Option<bool>,
    pub(crate) phase: Phase,
    /// May be delivered and need not be.
    pub(crate) optional: bool,
    /// Nobody can tell where in the queue it stands.
    pub(crate) anywhere: bool,
}

/// A message in flight to a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flight {
    pub(crate) packet_id: u16,
    pub(crate) kind: FlightKind,
    pub(crate) message: MessageId,
    pub(crate) qos: QoS,
    pub(crate) released: bool,
    pub(crate) received_lsn: u64,
    /// The link it was last sent on.
    pub(crate) link: LinkId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlightKind {
    Own(u64),
    /// The filter that stands for the group, and the entry.
    Group(usize, u64),
    /// The number in the backlog.
    Retained(u64),
}

/// A retained message due because of a subscription.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    pub(crate) id: u64,
    pub(crate) message: MessageId,
    pub(crate) expires_at: Option<u64>,
    /// Which store of the topic it was: a message may be stored twice.
    pub(crate) stored: u64,
    pub(crate) lsn: u64,
    pub(crate) qos: QoS,
    pub(crate) identifier: u32,
    pub(crate) flying: bool,
    pub(crate) optional: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) epoch: u64,
    pub(crate) expiry_seconds: u32,
    /// The log knows it.
    pub(crate) recorded: bool,
    pub(crate) link: Option<LinkId>,
    /// The log says that it has a connection, with this will.
    pub(crate) attached: Option<Option<WillModel>>,
    pub(crate) delayed: Option<(WillModel, u64)>,
    pub(crate) expires_at: Option<u64>,
    pub(crate) subs: BTreeMap<usize, Sub>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) backlog: Vec<Due>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) received: BTreeSet<u16>,
    /// Received without a record before a crash: a folded state may know of them all the same.
    pub(crate) maybe_received: BTreeSet<u16>,
    /// Identifiers given free, with the record that says so.
    pub(crate) freed: BTreeMap<u16, u64>,
    /// It was there when the broker last crashed.
    pub(crate) crashed: bool,
    /// By topic, the newest message that was sent from its queue, and when it came into it.
    pub(crate) newest: BTreeMap<usize, (u64, MessageId)>,
    /// Messages that came and were taken for entries that are optional: of several copies, nobody can tell which one it was.
    pub(crate) came_maybe: Vec<MessageId>,
    /// Entries that need not come, and that may have been what came when something was taken for another message that must.
    pub(crate) mistakable: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(crate) struct GroupEntry {
    pub(crate) id: u64,
    pub(crate) message: MessageId,
    pub(crate) expires_at: Option<u64>,
    pub(crate) lsn: u64,
    pub(crate) holder: Holder,
    pub(crate) optional: bool,
    /// Members that may have been given it for good, as QoS 2 goes, and not been sent it yet.
    pub(crate) candidates: Vec<(ClientIndex, u64)>,
}

/// Who has a message of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    Nobody,
    /// A member; `free`: others may have it, because the member left or lost its connection since it was sent.
    Member {
        client: ClientIndex,
        epoch: u64,
        free: bool,
    },
    Done,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) members: BTreeMap<ClientIndex, Sub>,
    pub(crate) entries: Vec<GroupEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) message: MessageId,
    pub(crate) expires_at: Option<u64>,
    pub(crate) stored: u64,
    pub(crate) lsn: u64,
}

/// A change that the log has.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Attach {
        client: ClientIndex,
        epoch: u64,
        expiry_seconds: u32,
        will: Option<WillModel>,
    },
    Detach {
        client: ClientIndex,
        epoch: u64,
        expires_at: Option<u64>,
        delayed: Option<(WillModel, u64)>,
    },
    End {
        client: ClientIndex,
        epoch: u64,
    },
    Subscribe {
        client: ClientIndex,
        epoch: u64,
        filter: usize,
        sub: Sub,
        backlog: Vec<Due>,
    },
    Unsubscribe {
        client: ClientIndex,
        epoch: u64,
        filter: usize,
    },
    Publish(Box<PublishOp>),
    Received {
        client: ClientIndex,
        epoch: u64,
        entry: u64,
    },
    Released {
        client: ClientIndex,
        epoch: u64,
        packet_id: u16,
        lsn: u64,
    },
    /// Without a record, so only a folded state may know it after a crash.
    MaybeReceived {
        client: ClientIndex,
        epoch: u64,
        packet_id: u16,
    },
    WillPublished {
        client: ClientIndex,
        epoch: u64,
    },
    /// Given up for newer ones.
    Dropped {
        client: ClientIndex,
        epoch: u64,
        entries: Vec<u64>,
    },
}

/// What a publish brought to whom.
#[derive(Debug, Clone, Default)]
pub(crate) struct PublishOp {
    pub(crate) entries: Vec<(ClientIndex, u64, Entry)>,
    pub(crate) group_entries: Vec<(usize, GroupEntry)>,
    pub(crate) retained: Option<(usize, Option<Kept>)>,
    pub(crate) received: Option<(ClientIndex, u64, u16)>,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) sessions: Vec<Option<Session>>,
    pub(crate) groups: BTreeMap<usize, Group>,
    pub(crate) retained: BTreeMap<usize, Kept>,
    /// Messages of groups that ended with the member who had them.
    pub(crate) lost_with_member: u64,
}

impl Session {
    pub(crate) fn new(epoch: u64) -> Session {
        Session {
            epoch,
            expiry_seconds: 0,
            recorded: false,
            link: None,
            attached: None,
            delayed: None,
            expires_at: None,
            subs: BTreeMap::new(),
            entries: Vec::new(),
            backlog: Vec::new(),
            flights: Vec::new(),
            received: BTreeSet::new(),
            maybe_received: BTreeSet::new(),
            freed: BTreeMap::new(),
            crashed: false,
            newest: BTreeMap::new(),
            came_maybe: Vec::new(),
            mistakable: Vec::new(),
        }
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.expiry_seconds > 0
    }

    pub(crate) fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Puts an entry that was sent, and of which nothing was known before, into its place in the queue.
    /// `in_lane` names those that stand in the same one.
    pub(crate) fn insert_sent(&mut self, entry: Entry, in_lane: impl Fn(&Entry) -> bool) {
        let is_before = |other: &Entry| (1..entry.packet_id).contains(&other.packet_id) && in_lane(other);
        let behind = self.entries.iter().rposition(is_before).map(|at| at + 1);
        let at = behind.or_else(|| self.entries.iter().position(&in_lane)).unwrap_or(self.entries.len());
        self.entries.insert(at, entry);
    }

    pub(crate) fn forget_entry(&mut self, id: u64) {
        self.entries.retain(|entry| entry.id != id);
    }
}

impl State {
    pub(crate) fn new(clients: usize) -> State {
        State { sessions: vec![None; clients], groups: BTreeMap::new(), retained: BTreeMap::new(), lost_with_member: 0 }
    }

    /// The session, if it is still this one.
    pub(crate) fn session(&mut self, client: ClientIndex, epoch: u64) -> Option<&mut Session> {
        self.sessions[client].as_mut().filter(|session| session.epoch == epoch)
    }

    pub(crate) fn group_entry(&mut self, group: usize, id: u64) -> Option<&mut GroupEntry> {
        self.groups.get_mut(&group)?.entries.iter_mut().find(|entry| entry.id == id)
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Attach { client, epoch, expiry_seconds, will } => {
                if self.session(*client, *epoch).is_none() {
                    self.sessions[*client] = Some(Session::new(*epoch));
                }
                let Some(session) = self.session(*client, *epoch) else { return };
                session.recorded |= *expiry_seconds > 0;
                session.expiry_seconds = *expiry_seconds;
                session.attached = Some(*will);
                (session.delayed, session.expires_at) = (None, None);
            }
            Op::Detach { client, epoch, expires_at, delayed } => {
                if let Some(session) = self.session(*client, *epoch) {
                    session.attached = None;
                    (session.delayed, session.expires_at) = (*delayed, *expires_at);
                }
            }
            Op::End { client, epoch } => self.end(*client, *epoch),
            Op::Subscribe { client, epoch, filter, sub, backlog } => {
                let Some(session) = self.session(*client, *epoch) else { return };
                session.subs.insert(*filter, *sub);
                session.backlog.extend(backlog.iter().cloned());
                if crate::message::is_shared(*filter) {
                    self.groups.entry(*filter).or_default().members.insert(*client, *sub);
                }
            }
            Op::Unsubscribe { client, epoch, filter } => {
                let Some(session) = self.session(*client, *epoch) else { return };
                session.subs.remove(filter);
                self.leave(*client, *filter);
            }
            Op::Publish(publish) => self.publish(publish),
            Op::Received { client, epoch, entry } => {
                if let Some(entry) = self.session(*client, *epoch).and_then(|session| session.entry(*entry)) {
                    entry.phase = Phase::Released;
                }
            }
            Op::Released { client, epoch, packet_id, lsn } => {
                if let Some(session) = self.session(*client, *epoch) {
                    session.received.remove(packet_id);
                    session.maybe_received.remove(packet_id);
                    session.freed.insert(*packet_id, *lsn);
                }
            }
            Op::Dropped { client, epoch, entries } => {
                if let Some(session) = self.session(*client, *epoch) {
                    session.entries.retain(|entry| !entries.contains(&entry.id));
                }
            }
            Op::MaybeReceived { client, epoch, packet_id } => {
                if let Some(session) = self.session(*client, *epoch) {
                    session.maybe_received.insert(*packet_id);
                }
            }
            Op::WillPublished { client, epoch } => {
                if let Some(session) = self.session(*client, *epoch) {
                    session.delayed = None;
                }
            }
        }
    }

    fn publish(&mut self, publish: &PublishOp) {
        for (client, epoch, entry) in &publish.entries {
            if let Some(session) = self.session(*client, *epoch) {
                session.entries.push(entry.clone());
            }
        }
        for (group, entry) in &publish.group_entries {
            if let Some(group) = self.groups.get_mut(group) {
                // What is long done need not be kept.
                group.entries.retain(|entry| entry.holder != Holder::Done);
                // A replay keeps it only if one of those who are recorded wants more than QoS 0.
                let is_wanted = group.members.values().any(|sub| sub.qos > QoS::AtMostOnce);
                group.entries.push(GroupEntry { optional: entry.optional || !is_wanted, ..entry.clone() });
            }
        }
        match publish.retained {
            Some((topic, Some(kept))) => {
                self.retained.insert(topic, kept);
            }
            Some((topic, None)) => {
                self.retained.remove(&topic);
            }
            None => {}
        }
        if let Some((client, epoch, packet_id)) = publish.received
            && let Some(session) = self.session(client, epoch)
        {
            session.received.insert(packet_id);
            session.maybe_received.remove(&packet_id);
            session.freed.remove(&packet_id);
        }
    }

    fn leave(&mut self, client: ClientIndex, filter: usize) {
        self.free_group_entries(client);
        let Some(group) = self.groups.get_mut(&filter) else { return };
        group.members.remove(&client);
        if group.members.is_empty()
            && let Some(group) = self.groups.remove(&filter)
        {
            group.entries.into_iter().for_each(|entry| self.outlive_group(&entry));
        }
    }

    /// Whoever was given the message keeps it, though the group is gone.
    pub(crate) fn outlive_group(&mut self, entry: &GroupEntry) {
        for (client, epoch) in entry.candidates.iter().filter(|_| entry.holder != Holder::Done) {
            let Some(session) = self.session(*client, *epoch) else { continue };
            session.entries.push(Entry {
                id: entry.id,
                message: entry.message,
                expires_at: entry.expires_at,
                qos: QoS::ExactlyOnce,
                retain: false,
                identifiers: Identifiers::new(),
                lsn: entry.lsn,
                packet_id: 0,
                was_sent: None,
                phase: Phase::Queued,
                optional: true,
                anywhere: true,
            });
        }
    }

    /// What the client holds of groups may go to others from now on.
    pub(crate) fn free_group_entries(&mut self, client: ClientIndex) {
        for entry in self.groups.values_mut().flat_map(|group| &mut group.entries) {
            if let Holder::Member { client: holder, free, .. } = &mut entry.holder
                && *holder == client
            {
                *free = true;
            }
        }
    }

    fn end(&mut self, client: ClientIndex, epoch: u64) {
        if self.session(client, epoch).is_none() {
            return;
        }
        let Some(session) = self.sessions[client].take() else { return };
        for flight in &session.flights {
            if let FlightKind::Group(group, id) = flight.kind
                && let Some(entry) = self.group_entry(group, id)
                && matches!(entry.holder, Holder::Member { client: holder, .. } if holder == client)
            {
                // A QoS 2 message is finished with its member or not at all.
                let is_lost = flight.qos == QoS::ExactlyOnce;
                entry.holder = if is_lost { Holder::Done } else { Holder::Nobody };
                self.lost_with_member += u64::from(is_lost);
            }
        }
        for entry in self.groups.values_mut().flat_map(|group| &mut group.entries) {
            if entry.holder != Holder::Done && entry.candidates.contains(&(client, epoch)) {
                // It may have ended with the member that had it.
                entry.optional = true;
            }
        }
        for filter in session.subs.keys() {
            self.leave(client, *filter);
        }
    }
}
