//! What survives a connection: the session.
//!
//! Owns its subscriptions, the messages queued for and in flight to its client, packet identifiers, and the QoS 2
//! identifiers it has received. It never encodes a packet and never knows other sessions.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use causeway_fleet::Principal;
use causeway_protocol::{PacketId, QoS};
use foldhash::fast::FixedState;
use smallvec::SmallVec;

use crate::connection::ConnectionId;
use crate::index::Subscription;
use crate::message::Message;
use crate::shared::GroupKey;
use crate::{Bound, Limits, Lsn, Millis};

/// A dense key; reused after the session ended, so whoever keeps one across time keeps the epoch, too.
pub(crate) type SessionKey = u32;

/// Subscription Identifiers of one delivery; more than two are rare.
pub(crate) type Identifiers = SmallVec<[u32; 2]>;

/// A message as one session gets it.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    /// Never above the message's own.
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifiers: Identifiers,
    /// The shared subscription it came through, which gets it back if the session can't finish it, and its number there.
    pub(crate) group: Option<(GroupKey, u64)>,
}

/// A delivery that waits for its turn, and for its record to be durable.
#[derive(Debug)]
pub(crate) struct Queued {
    /// Its number in the session. The same after a replay of the log, and so is the packet identifier made of it.
    pub(crate) sequence: u64,
    pub(crate) delivery: Delivery,
    pub(crate) durable_at: Lsn,
}

/// Packet identifiers from 1 to this belong to the session's queue, in the order of its sequence; those above it to
/// what has no place there: shared subscriptions and retained messages that a subscription brought.
const OWN_IDS: u64 = 32_767;
const LOOSE_IDS: u64 = 65_535 - OWN_IDS;

/// What a packet identifier in flight was made of. Two numbers of a kind that are closer than there are identifiers of
/// that kind never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Own(u64),
    Loose(u64),
}

impl Number {
    fn packet_id(self) -> Option<PacketId> {
        match self {
            Number::Own(sequence) => PacketId::new((sequence % OWN_IDS + 1) as u16),
            Number::Loose(number) => PacketId::new((OWN_IDS + 1 + number % LOOSE_IDS) as u16),
        }
    }
}

/// How far an outgoing QoS 1 or 2 message got.
#[derive(Debug)]
pub(crate) enum Phase {
    /// PUBLISH: waits for PUBACK or PUBREC.
    Publish(Delivery),
    /// PUBREL: waits for PUBCOMP.
    Release,
}

/// An outgoing message that owns a packet identifier.
#[derive(Debug)]
pub(crate) struct Inflight {
    pub(crate) packet_id: PacketId,
    pub(crate) number: Number,
    pub(crate) phase: Phase,
    /// Whether it was sent on the present connection.
    pub(crate) sent: bool,
    /// Whether it takes a place in the present connection's window: a PUBREL that is only repeated takes none.
    pub(crate) counted: bool,
}

/// A will whose delay is running.
#[derive(Debug)]
pub(crate) struct DelayedWill {
    pub(crate) will: crate::connection::KeptWill,
    pub(crate) due: Millis,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client_id: Arc<str>,
    pub(crate) principal: Principal,
    /// Differs for every session there ever was.
    pub(crate) epoch: u64,
    pub(crate) connection: Option<ConnectionId>,
    /// Seconds the session outlives its connection; `u32::MAX` means for ever.
    pub(crate) expiry_seconds: u32,
    /// When it ends; set while there is no connection.
    pub(crate) expires_at: Option<Millis>,
    /// By filter; a shared subscription stands under its whole `$share/...` text.
    pub(crate) subscriptions: HashMap<Box<str>, Subscription, FixedState>,
    pub(crate) groups: Vec<GroupKey>,
    pub(crate) queue: VecDeque<Queued>,
    /// Bytes of all messages it holds, queued or in flight.
    pub(crate) held_bytes: usize,
    /// When the first queued message expires, if any does.
    first_expiry: Option<Millis>,
    /// Retained messages that are due because of a subscription.
    pub(crate) backlog: VecDeque<Delivery>,
    pub(crate) inflight: VecDeque<Inflight>,
    /// How many in flight were not yet sent on the present connection.
    pub(crate) unsent: usize,
    pub(crate) next_sequence: u64,
    next_loose: u64,
    /// What is below may have been sent by an earlier run of the broker, so it is sent with DUP.
    pub(crate) sent_through: u64,
    /// Whether the log knows the session.
    pub(crate) recorded: bool,
    /// Whether its progress changed since it was last recorded.
    pub(crate) progress_noted: bool,
    /// QoS 2 packet identifiers received and not yet released.
    pub(crate) received: BTreeSet<PacketId>,
    pub(crate) will: Option<DelayedWill>,
    /// The routing turn that saw the session last, and where it stands among that turn's matches.
    pub(crate) mark: (u64, u32),
    /// Whether a full queue was already reported since it last had room.
    pub(crate) full_reported: bool,
}

/// Whether a queue of so many messages and bytes takes one more.
pub(crate) fn queue_room(limits: &Limits, queued: (usize, usize), bytes: usize) -> Result<(), Bound> {
    if queued.0 >= limits.session_queue_messages_max {
        return Err(Bound::SessionQueueMessages);
    }
    if queued.1 + bytes > limits.session_queue_bytes_max {
        return Err(Bound::SessionQueueBytes);
    }
    Ok(())
}

/// The earlier of two times that may not be.
pub(crate) fn sooner(one: Option<Millis>, other: Option<Millis>) -> Option<Millis> {
    one.into_iter().chain(other).min()
}

impl Session {
    pub(crate) fn new(client_id: Arc<str>, principal: Principal, epoch: u64, hash_seed: u64) -> Self {
        Session {
            client_id,
            principal,
            epoch,
            connection: None,
            expiry_seconds: 0,
            expires_at: None,
            subscriptions: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            groups: Vec::new(),
            queue: VecDeque::new(),
            held_bytes: 0,
            first_expiry: None,
            backlog: VecDeque::new(),
            inflight: VecDeque::new(),
            unsent: 0,
            next_sequence: 0,
            next_loose: 0,
            sent_through: 0,
            recorded: false,
            progress_noted: false,
            received: BTreeSet::new(),
            will: None,
            mark: (0, 0),
            full_reported: false,
        }
    }

    /// Gives it a connection: all that is in flight is to be sent again.
    pub(crate) fn attach(&mut self, connection: ConnectionId) {
        self.connection = Some(connection);
        self.unsent = self.inflight.len();
        for inflight in &mut self.inflight {
            inflight.sent = false;
            inflight.counted = false;
        }
    }

    /// Whether it outlives its connection, so that what it is owed must be durable.
    pub(crate) fn is_persistent(&self) -> bool {
        self.expiry_seconds > 0
    }

    /// Whether a message of so many bytes may be queued, or which bound forbids it.
    pub(crate) fn room(&self, limits: &Limits, bytes: usize) -> Result<(), Bound> {
        queue_room(limits, (self.queue.len(), self.held_bytes), bytes)
    }

    /// Whether one more message may be put in flight that does not stand in the queue, whose bytes are bounded already.
    pub(crate) fn may_launch_loose(&self, limits: &Limits) -> bool {
        self.inflight.is_empty() || self.held_bytes <= limits.session_queue_bytes_max
    }

    pub(crate) fn enqueue(&mut self, delivery: Delivery, durable_at: Lsn) {
        self.held_bytes += delivery.message.bytes();
        self.first_expiry = sooner(self.first_expiry, delivery.message.expires_at);
        self.queue.push_back(Queued { sequence: self.next_sequence, delivery, durable_at });
        self.next_sequence += 1;
    }

    pub(crate) fn dequeue(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.held_bytes -= queued.delivery.message.bytes();
        if self.queue.is_empty() {
            self.first_expiry = None;
            // A drained queue gives its memory back: most sessions are idle.
            self.queue = VecDeque::new();
            self.full_reported = false;
        }
        Some(queued)
    }

    /// The packet identifier of a number, unless something in flight still has it.
    fn free_packet_id(&self, number: Number) -> Option<PacketId> {
        let packet_id = number.packet_id()?;
        let is_near = match number {
            Number::Own(sequence) => self.oldest(|number| match number {
                Number::Own(oldest) => Some(sequence.abs_diff(oldest) < OWN_IDS),
                Number::Loose(_) => None,
            }),
            Number::Loose(loose) => self.oldest(|number| match number {
                Number::Loose(oldest) => Some(loose.abs_diff(oldest) < LOOSE_IDS),
                Number::Own(_) => None,
            }),
        };
        // Only once the numbers went round can the identifier still be in use.
        let in_use = !is_near.unwrap_or(true) && self.inflight_at(packet_id).is_some();
        (!in_use).then_some(packet_id)
    }

    fn oldest(&self, choose: impl Fn(Number) -> Option<bool>) -> Option<bool> {
        self.inflight.iter().find_map(|inflight| choose(inflight.number))
    }

    /// Whether the delivery with this sequence could be put in flight now.
    pub(crate) fn can_launch(&self, sequence: u64) -> bool {
        self.free_packet_id(Number::Own(sequence)).is_some()
    }

    /// Puts a delivery in flight and returns its packet identifier: that of its place in the queue, or a loose one.
    pub(crate) fn launch(&mut self, delivery: Delivery, sequence: Option<u64>) -> Option<PacketId> {
        let (number, packet_id) = match sequence {
            Some(sequence) => (Number::Own(sequence), self.free_packet_id(Number::Own(sequence))?),
            None => self.free_loose()?,
        };
        self.held_bytes += delivery.message.bytes();
        let phase = Phase::Publish(delivery);
        self.insert_in_flight(Inflight { packet_id, number, phase, sent: true, counted: true });
        Some(packet_id)
    }

    /// Keeps what came from the queue in the order of the queue: what is sent again keeps its order, and the first is
    /// the oldest. Only after a replay does anything not belong at the end.
    fn insert_in_flight(&mut self, inflight: Inflight) {
        let mut at = self.inflight.len();
        if let Number::Own(sequence) = inflight.number {
            for (before, other) in self.inflight.iter().enumerate().rev() {
                match other.number {
                    Number::Own(later) if later > sequence => at = before,
                    Number::Own(_) => break,
                    Number::Loose(_) => {}
                }
            }
        }
        self.inflight.insert(at, inflight);
    }

    fn free_loose(&mut self) -> Option<(Number, PacketId)> {
        // One more than there are identifiers: then all are taken.
        for _ in 0..=LOOSE_IDS {
            let number = Number::Loose(self.next_loose);
            self.next_loose += 1;
            if let Some(packet_id) = self.free_packet_id(number) {
                return Some((number, packet_id));
            }
        }
        None
    }

    /// How far the session is: all of its sequence below the first number is done, but for the second; so many
    /// retained messages are still due.
    pub(crate) fn progress(&self) -> (u64, Vec<u64>, u32) {
        let next = self.queue.front().map_or(self.next_sequence, |queued| queued.sequence);
        let mut open = Vec::new();
        let mut loose = 0;
        for inflight in &self.inflight {
            match (inflight.number, &inflight.phase) {
                (Number::Own(sequence), _) => open.push(sequence),
                (Number::Loose(_), Phase::Publish(delivery)) if delivery.group.is_none() => loose += 1,
                (Number::Loose(_), _) => {}
            }
        }
        (next, open, self.backlog.len() as u32 + loose)
    }

    /// Takes the expired messages out of the queue; how many there were.
    pub(crate) fn drop_expired(&mut self, now: Millis) -> u64 {
        if self.first_expiry.is_none_or(|at| at > now) {
            return 0;
        }
        let before = self.queue.len();
        self.queue.retain(|queued| !queued.delivery.message.is_expired(now));
        self.first_expiry = None;
        for queued in &self.queue {
            self.first_expiry = sooner(self.first_expiry, queued.delivery.message.expires_at);
        }
        self.held_bytes = self.counted_bytes();
        (before - self.queue.len()) as u64
    }

    /// Takes the QoS 1 messages of a group out of flight, oldest first.
    pub(crate) fn surrender(&mut self, group_key: GroupKey) -> Vec<(Arc<Message>, u64)> {
        let mut back = Vec::new();
        self.inflight.retain(|inflight| match &inflight.phase {
            //= [MQTT-4.8.2-4] [MQTT-4.8.2-5] a QoS 2 message is finished with its member or not at all
            Phase::Publish(Delivery { group: Some((group, sequence)), qos: QoS::AtLeastOnce, message, .. })
                if *group == group_key =>
            {
                back.push((Arc::clone(message), *sequence));
                false
            }
            Phase::Publish(_) | Phase::Release => true,
        });
        self.held_bytes = self.counted_bytes();
        back
    }

    /// The groups whose messages are in flight; it may have left some of them.
    pub(crate) fn groups_in_flight(&self) -> Vec<GroupKey> {
        let mut groups = Vec::new();
        for inflight in &self.inflight {
            if let Phase::Publish(Delivery { group: Some((group, _)), .. }) = &inflight.phase
                && !groups.contains(group)
            {
                groups.push(*group);
            }
        }
        groups
    }

    /// What `held_bytes` must be.
    pub(crate) fn counted_bytes(&self) -> usize {
        let queued = self.queue.iter().map(|queued| queued.delivery.message.bytes());
        let in_flight = self.inflight.iter().map(|inflight| match &inflight.phase {
            Phase::Publish(delivery) => delivery.message.bytes(),
            Phase::Release => 0,
        });
        queued.chain(in_flight).sum()
    }

    /// Replays [`Session::progress`].
    pub(crate) fn advance(&mut self, next: u64, open: &[u64], backlog: u32) {
        let is_done = |sequence: u64| sequence < next && !open.contains(&sequence);
        self.inflight.retain(|inflight| !matches!(inflight.number, Number::Own(sequence) if is_done(sequence)));
        let queue = std::mem::take(&mut self.queue);
        self.queue = queue.into_iter().filter(|queued| !is_done(queued.sequence)).collect();
        self.held_bytes = self.counted_bytes();
        self.sent_through = self.sent_through.max(next);
        self.backlog.drain(..self.backlog.len().saturating_sub(backlog as usize));
    }

    /// Replays a PUBREC: the message of this sequence is with its client, and only PUBREL is left.
    pub(crate) fn replay_received(&mut self, sequence: u64) {
        let Some(at) = self.queue.iter().position(|queued| queued.sequence == sequence) else { return };
        let (Some(queued), Some(packet_id)) = (self.queue.remove(at), Number::Own(sequence).packet_id()) else {
            return;
        };
        self.held_bytes -= queued.delivery.message.bytes();
        let number = Number::Own(sequence);
        self.insert_in_flight(Inflight { packet_id, number, phase: Phase::Release, sent: false, counted: false });
    }

    /// Where the identifier stands in flight. Acknowledgements come mostly in order, so the look is short.
    pub(crate) fn inflight_at(&self, packet_id: PacketId) -> Option<usize> {
        self.inflight.iter().position(|inflight| inflight.packet_id == packet_id)
    }

    /// Where an identifier stands that was launched just now: at the end, but for what a replay left out of order.
    pub(crate) fn launched_at(&self, packet_id: PacketId) -> Option<usize> {
        self.inflight.iter().rposition(|inflight| inflight.packet_id == packet_id)
    }

    /// PUBLISH gives way to PUBREL, which is sent now. Returns the group the message came through, and its number if it
    /// was still a PUBLISH.
    pub(crate) fn release(&mut self, at: usize) -> (Option<(GroupKey, u64)>, Option<Number>) {
        let Some(inflight) = self.inflight.get_mut(at) else { return (None, None) };
        self.unsent -= usize::from(!std::mem::replace(&mut inflight.sent, true));
        match std::mem::replace(&mut inflight.phase, Phase::Release) {
            Phase::Publish(delivery) => {
                self.held_bytes -= delivery.message.bytes();
                (delivery.group, Some(inflight.number))
            }
            Phase::Release => (None, None),
        }
    }

    pub(crate) fn land(&mut self, at: usize) -> Option<Inflight> {
        let inflight = self.inflight.remove(at)?;
        self.unsent -= usize::from(!inflight.sent);
        if let Phase::Publish(delivery) = &inflight.phase {
            self.held_bytes -= delivery.message.bytes();
        }
        if self.inflight.is_empty() {
            self.inflight = VecDeque::new();
        }
        Some(inflight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publication;

    fn delivery() -> Delivery {
        let message = Publication::plain("t", b"p", QoS::AtLeastOnce).keep();
        Delivery { message, qos: QoS::AtLeastOnce, retain: false, identifiers: Identifiers::new(), group: None }
    }

    fn session() -> Session {
        Session::new("c".into(), Principal::Anonymous, 1, 0)
    }

    #[test]
    fn a_packet_identifier_is_never_given_twice_while_in_flight() {
        let mut session = session();
        let stuck = session.launch(delivery(), None).unwrap();
        for _ in 0..200_000 {
            let packet_id = session.launch(delivery(), None).unwrap();
            assert_ne!(packet_id, stuck);
            let at = session.inflight_at(packet_id).unwrap();
            session.land(at);
        }
        assert_eq!(session.inflight.len(), 1);
        session.launch(delivery(), Some(0)).unwrap();
        assert!(!session.can_launch(OWN_IDS), "it waits for the first to be acknowledged");
        assert!(session.can_launch(OWN_IDS + 1));
    }

    #[test]
    fn all_identifiers_in_flight_is_an_answer_not_a_loop() {
        let (mut own, mut loose) = (session(), session());
        let mut seen = BTreeSet::new();
        for sequence in 0..OWN_IDS {
            assert!(seen.insert(own.launch(delivery(), Some(sequence)).unwrap()));
        }
        for _ in 0..LOOSE_IDS {
            assert!(seen.insert(loose.launch(delivery(), None).unwrap()));
        }
        assert_eq!(seen.len(), 65_535);
        assert_eq!(own.launch(delivery(), Some(OWN_IDS)), None);
    }

    #[test]
    fn progress_replays_to_what_was_left() {
        let mut session = session();
        let mut replayed = self::session();
        for _ in 0..6 {
            session.enqueue(delivery(), Lsn(1));
            replayed.enqueue(delivery(), Lsn(1));
        }
        for _ in 0..4 {
            let queued = session.dequeue().unwrap();
            session.launch(queued.delivery, Some(queued.sequence)).unwrap();
        }
        session.land(2);
        session.land(0);
        let (next, open, backlog) = session.progress();
        assert_eq!((next, open.as_slice(), backlog), (4, &[1, 3][..], 0));
        replayed.advance(next, &open, backlog);
        let left: Vec<u64> = replayed.queue.iter().map(|queued| queued.sequence).collect();
        assert_eq!((left, replayed.sent_through), (vec![1, 3, 4, 5], 4));
        replayed.replay_received(3);
        assert_eq!((replayed.queue.len(), replayed.inflight.len()), (3, 1));
        replayed.advance(6, &[], 0);
        assert_eq!((replayed.queue.len(), replayed.inflight.len(), replayed.held_bytes), (0, 0, 0));
    }
}
