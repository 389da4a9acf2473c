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
    /// The shared subscription it came through, which gets it back if this session can't finish it.
    pub(crate) group: Option<GroupKey>,
}

/// A delivery that waits for its turn, and for its record to be durable.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) delivery: Delivery,
    pub(crate) durable_at: Lsn,
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
    /// Counts allocations: two that are fewer than 65,535 apart never share an identifier.
    sequence: u64,
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
    pub(crate) queue_bytes: usize,
    /// Retained messages that are due because of a subscription.
    pub(crate) backlog: VecDeque<Delivery>,
    pub(crate) inflight: VecDeque<Inflight>,
    /// How many in flight were not yet sent on the present connection.
    pub(crate) unsent: usize,
    next_sequence: u64,
    /// QoS 2 packet identifiers received and not yet released.
    pub(crate) received: BTreeSet<PacketId>,
    pub(crate) will: Option<DelayedWill>,
    /// The routing turn that saw this session last, and where it stands among that turn's matches.
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
            queue_bytes: 0,
            backlog: VecDeque::new(),
            inflight: VecDeque::new(),
            unsent: 0,
            next_sequence: 0,
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
        queue_room(limits, (self.queue.len(), self.queue_bytes), bytes)
    }

    pub(crate) fn enqueue(&mut self, delivery: Delivery, durable_at: Lsn) {
        self.queue_bytes += delivery.message.bytes();
        self.queue.push_back(Queued { delivery, durable_at });
    }

    pub(crate) fn dequeue(&mut self) -> Option<Delivery> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes -= queued.delivery.message.bytes();
        if self.queue.is_empty() {
            // A drained queue gives its memory back: most sessions are idle.
            self.queue = VecDeque::new();
            self.full_reported = false;
        }
        Some(queued.delivery)
    }

    /// A packet identifier that nothing in flight owns, or `None` when all 65,535 are taken.
    fn free_packet_id(&mut self) -> Option<(PacketId, u64)> {
        loop {
            let sequence = self.next_sequence;
            let packet_id = PacketId::new((sequence % 65_535) as u16 + 1)?;
            let oldest = self.inflight.front().map_or(sequence, |inflight| inflight.sequence);
            if self.inflight.len() >= 65_535 {
                return None;
            }
            self.next_sequence += 1;
            // Only once the numbers went round can the identifier still be in use.
            let in_use =
                sequence - oldest >= 65_535 && self.inflight.iter().any(|inflight| inflight.packet_id == packet_id);
            if !in_use {
                return Some((packet_id, sequence));
            }
        }
    }

    /// Puts a delivery in flight and returns its packet identifier.
    pub(crate) fn launch(&mut self, delivery: Delivery) -> Option<PacketId> {
        let (packet_id, sequence) = self.free_packet_id()?;
        self.inflight.push_back(Inflight {
            packet_id,
            sequence,
            phase: Phase::Publish(delivery),
            sent: true,
            counted: true,
        });
        Some(packet_id)
    }

    /// Where the identifier stands in flight. Acknowledgements come mostly in order, so the look is short.
    pub(crate) fn inflight_at(&self, packet_id: PacketId) -> Option<usize> {
        self.inflight.iter().position(|inflight| inflight.packet_id == packet_id)
    }

    /// PUBLISH gives way to PUBREL, which is sent now.
    pub(crate) fn release(&mut self, at: usize) {
        if let Some(inflight) = self.inflight.get_mut(at) {
            inflight.phase = Phase::Release;
            self.unsent -= usize::from(!std::mem::replace(&mut inflight.sent, true));
        }
    }

    pub(crate) fn land(&mut self, at: usize) -> Option<Inflight> {
        let inflight = self.inflight.remove(at)?;
        self.unsent -= usize::from(!inflight.sent);
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

    #[test]
    fn a_packet_identifier_is_never_given_twice_while_in_flight() {
        let mut session = Session::new("c".into(), Principal::Anonymous, 1, 0);
        let stuck = session.launch(delivery()).unwrap();
        for _ in 0..200_000 {
            let packet_id = session.launch(delivery()).unwrap();
            assert_ne!(packet_id, stuck);
            let at = session.inflight_at(packet_id).unwrap();
            session.land(at);
        }
        assert_eq!(session.inflight.len(), 1);
    }

    #[test]
    fn all_identifiers_in_flight_is_an_answer_not_a_loop() {
        let mut session = Session::new("c".into(), Principal::Anonymous, 1, 0);
        let mut seen = BTreeSet::new();
        for _ in 0..65_535 {
            assert!(seen.insert(session.launch(delivery()).unwrap()));
        }
        assert_eq!(session.launch(delivery()), None);
    }
}
