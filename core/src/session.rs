//! What survives a connection: the session.
//!
//! Owns its subscriptions, the messages queued for and in flight to its client, packet identifiers, and the QoS 2
//! identifiers it has received. It never encodes a packet and never knows other sessions.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use causeway_fleet::Principal;
use causeway_protocol::{PacketId, QoS};
use smallvec::SmallVec;

use crate::connection::{ConnectionId, KeptWill};
use crate::folded::FoldedLane;
use crate::lane::{LOOSE_IDS, Lane, LaneName, LaneProgress, Lanes, Number};
use crate::limits::Overflow;
use crate::message::Message;
use crate::queue::{Delivery, Expiry, Peek, Queued, Queues};
use crate::shard::is_presence;
use crate::shared::GroupKey;
use crate::subscriptions::Subscriptions;
use crate::{Bound, Limits, Lsn, Millis};

/// A dense key; reused after the session ended, so whoever keeps one across time keeps the epoch, too.
pub(crate) type SessionKey = u32;

/// Subscription Identifiers of one delivery; more than two are rare.
pub(crate) type Identifiers = SmallVec<[u32; 2]>;

/// How far an outgoing QoS 1 or 2 message got.
#[derive(Debug)]
pub(crate) enum Phase {
    /// PUBLISH: waits for PUBACK or PUBREC.
    Publish(Delivery),
    /// PUBREL: waits for PUBCOMP. It may be sent once this record is durable.
    Release(Lsn),
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
    pub(crate) will: KeptWill,
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
    pub(crate) subscriptions: Subscriptions,
    pub(crate) groups: Vec<GroupKey>,
    lanes: Lanes,
    /// Bytes of all messages it holds, queued or in flight.
    pub(crate) held_bytes: usize,
    /// When the first queued message expires, if any does.
    first_expiry: Expiry,
    /// Retained messages that are due because of a subscription.
    pub(crate) backlog: VecDeque<Delivery>,
    pub(crate) inflight: VecDeque<Inflight>,
    /// How many in flight were not yet sent on the present connection.
    pub(crate) unsent: u32,
    pub(crate) next_loose: u64,
    /// Whether the log knows the session.
    pub(crate) recorded: bool,
    /// Whether its progress changed since it was last recorded.
    pub(crate) progress_noted: bool,
    /// How many deliveries ended since then.
    pub(crate) finished_since: u32,
    /// Nothing of the queues is sent before the record of the connection is durable: after a crash the messages would not be
    /// known to have been sent.
    pub(crate) attached_at: Lsn,
    /// The backlog waits until this record is durable.
    pub(crate) backlog_at: Lsn,
    /// What happens to messages its queue has no room for.
    pub(crate) overflow: Overflow,
    /// QoS 2 packet identifiers received and not yet released; of another shard, those of `crossing`, too.
    pub(crate) received: BTreeSet<PacketId>,
    pub(crate) will: Option<Box<DelayedWill>>,
    /// The routing turn that saw the session last, and where it stands among that turn's matches.
    pub(crate) mark: (u64, u32),
    /// Whether a full queue was already reported since it last had room.
    pub(crate) full_reported: bool,
    /// Whether other shards know that its queue is full.
    pub(crate) full_told: bool,
    /// Whether it had no room for an event of `$presence`.
    pub(crate) missed_presence: bool,
    /// Whether it is to be sent what its vehicle's shadows want of it.
    pub(crate) is_due_deltas: bool,
    /// How many of them were passed already when there was no more room.
    pub(crate) deltas_passed: u16,
}

/// What may wait for another shard: it is in the log, and a burst may be faster than the link.
const PEER_QUEUE_MESSAGES_MAX: usize = 1_000_000;
const PEER_QUEUE_BYTES_MAX: usize = 4 << 30;

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
    pub(crate) fn new(client_id: Arc<str>, principal: Principal, epoch: u64) -> Self {
        Session {
            client_id,
            principal,
            epoch,
            connection: None,
            expiry_seconds: 0,
            expires_at: None,
            subscriptions: Subscriptions::default(),
            groups: Vec::new(),
            lanes: Lanes::default(),
            held_bytes: 0,
            first_expiry: Expiry::NEVER,
            backlog: VecDeque::new(),
            inflight: VecDeque::new(),
            unsent: 0,
            next_loose: 0,
            recorded: false,
            progress_noted: false,
            finished_since: 0,
            attached_at: Lsn(0),
            backlog_at: Lsn(0),
            overflow: Overflow::RefuseNew,
            received: BTreeSet::new(),
            will: None,
            mark: (0, 0),
            full_reported: false,
            full_told: false,
            missed_presence: false,
            is_due_deltas: false,
            deltas_passed: 0,
        }
    }

    /// Messages that it was owed are dropped: one of them may have told where a vehicle is.
    pub(crate) fn misses_presence(&mut self) {
        self.missed_presence |= self.subscriptions.iter().any(|(filter, _)| is_presence(filter));
    }

    /// Whether it is owed something that stands in no queue.
    pub(crate) fn has_to_catch_up(&self) -> bool {
        self.missed_presence || self.is_due_deltas
    }

    /// Whether it is another shard's.
    pub(crate) fn is_peer(&self) -> bool {
        matches!(self.principal, Principal::Shard(_))
    }

    pub(crate) fn lane(&self, name: LaneName) -> &Lane {
        self.lanes.get(name)
    }

    pub(crate) fn lane_mut(&mut self, name: LaneName) -> &mut Lane {
        self.lanes.get_mut(name)
    }

    /// The lanes that messages went through.
    pub(crate) fn used_lanes_mut(&mut self) -> impl Iterator<Item = (LaneName, &mut Lane)> {
        self.lanes.used_mut()
    }

    /// Gives it a connection: all that is in flight is to be sent again.
    pub(crate) fn attach(&mut self, connection: ConnectionId) {
        self.connection = Some(connection);
        // There are never more than there are packet identifiers.
        self.unsent = self.inflight.len() as u32;
        for inflight in &mut self.inflight {
            inflight.sent = false;
            inflight.counted = false;
        }
    }

    /// Whether it outlives its connection, so that what it is owed must be durable.
    pub(crate) fn is_persistent(&self) -> bool {
        self.expiry_seconds > 0
    }

    /// Whether a queue that was full has room for more than a few again.
    pub(crate) fn has_drained(&self, limits: &Limits) -> bool {
        self.queued() <= limits.session_queue_messages_max / 4 * 3
            && self.held_bytes <= limits.session_queue_bytes_max / 4 * 3
    }

    /// Messages that wait for their turn.
    pub(crate) fn queued(&self) -> usize {
        self.lanes.used().map(|lane| lane.queue.len()).sum()
    }

    /// Whether a message of so many bytes may be queued, or which bound forbids it.
    pub(crate) fn room(&self, limits: &Limits, bytes: usize) -> Result<(), Bound> {
        if self.is_peer() {
            // It carries the messages of many, and is never away.
            return match self.queued() >= PEER_QUEUE_MESSAGES_MAX || self.held_bytes + bytes > PEER_QUEUE_BYTES_MAX {
                true => Err(Bound::SessionQueueBytes),
                false => Ok(()),
            };
        }
        queue_room(limits, (self.queued(), self.held_bytes), bytes)
    }

    /// Whether one more message may be put in flight that does not stand in the queue, whose bytes are bounded already.
    pub(crate) fn may_launch_loose(&self, limits: &Limits) -> bool {
        self.inflight.is_empty() || self.held_bytes <= limits.session_queue_bytes_max
    }

    pub(crate) fn enqueue(&mut self, queues: &mut Queues, name: LaneName, delivery: Delivery) {
        self.held_bytes += delivery.bytes as usize;
        self.first_expiry = self.first_expiry.min(delivery.expires);
        let lane = self.lanes.get_mut(name);
        let sequence = lane.next_sequence;
        lane.next_sequence += 1;
        queues.push(&mut lane.queue, Queued { sequence, delivery });
    }

    /// Whether anything waits for its client, or is on its way to it.
    pub(crate) fn holds_messages(&self) -> bool {
        self.queued() > 0 || !self.inflight.is_empty() || !self.backlog.is_empty()
    }

    /// The number of a message that need not wait in its lane, though it takes its place in it.
    pub(crate) fn pass_through(&mut self, name: LaneName) -> u64 {
        let lane = self.lanes.get_mut(name);
        let sequence = lane.next_sequence;
        lane.next_sequence += 1;
        sequence
    }

    /// Whether nothing waits that a message of this lane, which needs no record, would overtake.
    pub(crate) fn is_clear(&self, name: LaneName, durable: Lsn) -> bool {
        let next = self.lane(name).next_sequence;
        self.queued() == 0
            && self.unsent == 0
            && self.backlog.is_empty()
            && self.attached_at <= durable
            && !self.lane(name).is_gated(next, durable)
            && self.can_launch(Number::Own(name, next))
            && (!self.recorded || self.lane(name).would_be_safe(name, next, durable))
    }

    /// The message whose turn is next, of those that are durable.
    pub(crate) fn front(&self, queues: &Queues, durable: Lsn) -> Option<(LaneName, Peek)> {
        LaneName::ALL.into_iter().find_map(|name| {
            let front = queues.pool.front(&self.lane(name).queue)?;
            let is_ready = front.lsn <= durable && !self.lane(name).is_gated(front.sequence, durable);
            is_ready.then_some((name, front))
        })
    }

    /// Takes the first message of a lane; it is still owed.
    pub(crate) fn dequeue(&mut self, queues: &mut Queues, name: LaneName) -> Option<Queued> {
        let queued = queues.pop(&mut self.lanes.get_mut(name).queue)?;
        self.held_bytes -= queued.delivery.bytes as usize;
        self.noticed_room();
        Some(queued)
    }

    fn noticed_room(&mut self) {
        if self.queued() == 0 {
            self.first_expiry = Expiry::NEVER;
            self.full_reported = false;
        }
    }

    /// The packet identifier of a number, unless something in flight still has it.
    fn free_packet_id(&self, number: Number) -> Option<PacketId> {
        let packet_id = number.packet_id()?;
        let is_near = self.inflight.iter().find_map(|inflight| number.is_near(inflight.number));
        // Only once the numbers went round can the identifier still be in use.
        let in_use = !is_near.unwrap_or(true) && self.inflight_at(packet_id).is_some();
        (!in_use).then_some(packet_id)
    }

    /// Whether the delivery with this number could be put in flight now.
    pub(crate) fn can_launch(&self, number: Number) -> bool {
        self.free_packet_id(number).is_some()
    }

    /// Whether it may, so that no identifier would stand for two messages after a crash.
    pub(crate) fn is_safe(&mut self, lane: LaneName, sequence: u64, durable: Lsn) -> bool {
        !self.recorded || self.lane_mut(lane).is_safe(lane, sequence, durable)
    }

    /// Whether the oldest unfinished message of a lane is a later one than the newest record says.
    pub(crate) fn is_behind(&self, queues: &Queues, name: LaneName) -> bool {
        let lane = self.lane(name);
        let queued = queues.pool.front(&lane.queue).map_or(lane.next_sequence, |front| front.sequence);
        let in_flight = self.inflight.iter().filter_map(|inflight| match inflight.number {
            Number::Own(of, sequence) if of == name => Some(sequence),
            Number::Own(..) | Number::Loose(_) => None,
        });
        in_flight.chain([queued]).min() > Some(lane.recorded.0)
    }

    /// Queues a message that was another's before, once the record at `at` is durable.
    pub(crate) fn take_over(
        &mut self,
        queues: &mut Queues,
        name: LaneName,
        delivery: Delivery,
        (at, durable): (Lsn, Lsn),
    ) {
        let lane = self.lane_mut(name);
        lane.wait_for(lane.next_sequence, at, durable);
        self.enqueue(queues, name, delivery);
    }

    /// Whether giving up what is queued would make room for so many bytes.
    pub(crate) fn gives_room(&self, limits: &Limits, bytes: usize) -> bool {
        let queued: usize = self.lanes.used().map(|lane| lane.queue.bytes()).sum();
        queue_room(limits, (0, self.held_bytes - queued), bytes).is_ok()
    }

    /// Puts a delivery in flight and returns its packet identifier: that of its place in the queue, or a loose one.
    pub(crate) fn launch(&mut self, delivery: Delivery, own: Option<(LaneName, u64)>) -> Option<PacketId> {
        let (number, packet_id) = match own {
            Some((lane, sequence)) => {
                let number = Number::Own(lane, sequence);
                (number, self.free_packet_id(number)?)
            }
            None => self.free_loose()?,
        };
        self.held_bytes += delivery.bytes as usize;
        let phase = Phase::Publish(delivery);
        self.insert_in_flight(Inflight { packet_id, number, phase, sent: true, counted: true });
        Some(packet_id)
    }

    /// Keeps what came from one lane in the order of its queue: what is sent again keeps its order, and the first is the
    /// oldest. Only after a replay does anything not belong at the end.
    pub(crate) fn insert_in_flight(&mut self, inflight: Inflight) {
        let mut at = self.inflight.len();
        if let Number::Own(lane, sequence) = inflight.number {
            for (before, other) in self.inflight.iter().enumerate().rev() {
                match other.number {
                    Number::Own(of, later) if of == lane && later > sequence => at = before,
                    Number::Own(of, _) if of == lane => break,
                    Number::Own(..) | Number::Loose(_) => {}
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

    /// How far the session is in each lane, in the order of [`LaneName::ALL`], and how many retained messages are due.
    pub(crate) fn progress(&self, queues: &Queues) -> ([LaneProgress; 2], u32) {
        let mut progress: [LaneProgress; 2] = Default::default();
        for (of, name) in progress.iter_mut().zip(LaneName::ALL) {
            let lane = self.lane(name);
            of.next = queues.pool.front(&lane.queue).map_or(lane.next_sequence, |front| front.sequence);
            of.sent_through = lane.sent_through.max(of.next);
        }
        let mut loose = 0;
        for inflight in &self.inflight {
            match (inflight.number, &inflight.phase) {
                (Number::Own(lane, sequence), _) => progress[lane as usize].open.push(sequence),
                (Number::Loose(_), Phase::Publish(delivery)) if delivery.group.is_none() => loose += 1,
                (Number::Loose(_), _) => {}
            }
        }
        (progress, self.backlog.len() as u32 + loose)
    }

    /// Drops the messages that certainly expired from the queues; how many there were.
    pub(crate) fn drop_expired(&mut self, queues: &mut Queues, now: Millis) -> u64 {
        if !self.first_expiry.is_past(now) {
            return 0;
        }
        let mut dropped = 0;
        self.first_expiry = Expiry::NEVER;
        for (_, lane) in self.lanes.used_mut() {
            let first = queues.pool.front(&lane.queue).map_or(lane.next_sequence, |front| front.sequence);
            let (count, bytes) = queues.drop_where(&mut lane.queue, |peek| peek.is_expired(now));
            if count > 0 {
                lane.thinned(first);
            }
            dropped += count;
            self.held_bytes -= bytes;
            self.first_expiry =
                queues.pool.iter(&lane.queue).fold(self.first_expiry, |first, peek| first.min(peek.expires));
        }
        self.noticed_room();
        dropped
    }

    /// Drops the oldest messages of a lane until there is room for one of so many bytes, or none is left: how many, and
    /// their sequences, from the first to before the last.
    pub(crate) fn drop_oldest(
        &mut self,
        queues: &mut Queues,
        limits: &Limits,
        name: LaneName,
        bytes: usize,
    ) -> (u64, Range<u64>) {
        let (mut dropped, mut range) = (0, 0..0);
        while self.room(limits, bytes).is_err()
            && let Some(queued) = queues.pop(&mut self.lanes.get_mut(name).queue)
        {
            self.held_bytes -= queued.delivery.bytes as usize;
            queues.bodies.settle(queued.delivery.lsn);
            if dropped == 0 {
                range.start = queued.sequence;
            }
            dropped += 1;
            range.end = queued.sequence + 1;
        }
        (dropped, range)
    }

    /// Replays what [`Session::drop_oldest`] did. What was in flight then stands in the queue here, before the range.
    pub(crate) fn replay_dropped(&mut self, queues: &mut Queues, name: LaneName, range: Range<u64>) {
        let lane = self.lane_mut(name);
        lane.thinned(range.start);
        let (_, bytes) = queues.drop_below(&mut lane.queue, range.end, |peek| range.contains(&peek.sequence));
        self.held_bytes -= bytes;
        self.noticed_room();
    }

    /// Takes the QoS 1 messages of a group out of flight, oldest first; they are still owed.
    pub(crate) fn surrender(&mut self, group_key: GroupKey) -> Vec<Delivery> {
        let mut back = Vec::new();
        let kept = std::mem::take(&mut self.inflight).into_iter().filter_map(|mut inflight| match inflight.phase {
            //= [MQTT-4.8.2-4] [MQTT-4.8.2-5] a QoS 2 message is finished with its member or not at all
            Phase::Publish(delivery) if delivery.group == Some(group_key) && delivery.qos == QoS::AtLeastOnce => {
                back.push(delivery);
                None
            }
            phase => {
                inflight.phase = phase;
                Some(inflight)
            }
        });
        self.inflight = kept.collect();
        self.held_bytes -= back.iter().map(|delivery| delivery.bytes as usize).sum::<usize>();
        back
    }

    /// The groups whose messages are in flight; it may have left some of them.
    pub(crate) fn groups_in_flight(&self) -> Vec<GroupKey> {
        let mut groups = Vec::new();
        for inflight in &self.inflight {
            if let Phase::Publish(Delivery { group: Some(group), .. }) = &inflight.phase
                && !groups.contains(group)
            {
                groups.push(*group);
            }
        }
        groups
    }

    /// What `held_bytes` must be.
    #[cfg(test)]
    pub(crate) fn counted_bytes(&self) -> usize {
        let queued: usize = self.lanes.used().map(|lane| lane.queue.bytes()).sum();
        let in_flight = self.inflight.iter().map(|inflight| match &inflight.phase {
            Phase::Publish(delivery) => delivery.bytes as usize,
            Phase::Release(_) => 0,
        });
        queued + in_flight.sum::<usize>()
    }

    /// Replays [`Session::progress`].
    pub(crate) fn advance(&mut self, queues: &mut Queues, progress: &[LaneProgress; 2], backlog: u32) {
        for (name, LaneProgress { next, sent_through, open }) in LaneName::ALL.into_iter().zip(progress) {
            let is_done = |sequence: u64| sequence < *next && open.binary_search(&sequence).is_err();
            let done = |inflight: &Inflight| matches!(inflight.number, Number::Own(lane, sequence) if lane == name && is_done(sequence));
            self.inflight.retain(|inflight| !done(inflight));
            if *next == 0 && *sent_through == 0 && open.is_empty() {
                continue;
            }
            let lane = self.lanes.get_mut(name);
            let first = queues.pool.front(&lane.queue).map_or(lane.next_sequence, |front| front.sequence);
            let (count, bytes) = queues.drop_below(&mut lane.queue, *next, |peek| is_done(peek.sequence));
            // After a replay the open ones stand in the queue again, with those between them gone.
            if count > 0 && !open.is_empty() {
                lane.thinned(first);
            }
            lane.sent_through = lane.sent_through.max(*sent_through);
            let oldest = open.first().map_or(*next, |open| (*open).min(*next));
            lane.known = lane.known.max(oldest);
            self.held_bytes -= bytes;
        }
        self.noticed_room();
        self.backlog.drain(..self.backlog.len().saturating_sub(backlog as usize));
    }

    /// Takes a lane's numbers from the folded state.
    pub(crate) fn restore_lane(&mut self, name: LaneName, terms: &FoldedLane) {
        if terms.next_sequence == 0 {
            return;
        }
        let oldest = terms.open.first().map_or(terms.next, |open| (*open).min(terms.next));
        let lane = self.lane_mut(name);
        lane.next_sequence = terms.next_sequence;
        lane.sent_through = terms.sent_through.max(terms.next);
        lane.saved_through = terms.next_sequence;
        lane.saved = terms.saved;
        lane.known = oldest.min(terms.released.first().copied().unwrap_or(oldest));
    }

    /// Takes a message of a queue from the folded state.
    pub(crate) fn restore_queued(&mut self, queues: &mut Queues, name: LaneName, queued: Queued) {
        self.held_bytes += queued.delivery.bytes as usize;
        self.first_expiry = self.first_expiry.min(queued.delivery.expires);
        queues.push(&mut self.lanes.get_mut(name).queue, queued);
    }

    /// Replays a PUBREC: the message of this sequence is with its client, and only PUBREL is left.
    pub(crate) fn replay_received(&mut self, queues: &mut Queues, name: LaneName, sequence: u64) {
        let lane = self.lanes.get_mut(name);
        let (count, bytes) = queues.drop_one(&mut lane.queue, sequence);
        if count > 0 {
            lane.thinned(sequence);
        }
        self.held_bytes -= bytes;
        let number = Number::Own(name, sequence);
        if let Some(packet_id) = number.packet_id().filter(|_| count > 0) {
            self.insert_in_flight(Inflight {
                packet_id,
                number,
                phase: Phase::Release(Lsn(0)),
                sent: false,
                counted: false,
            });
        }
    }

    /// Where the identifier stands in flight. Acknowledgements come mostly in order, so the look is short.
    pub(crate) fn inflight_at(&self, packet_id: PacketId) -> Option<usize> {
        self.inflight.iter().position(|inflight| inflight.packet_id == packet_id)
    }

    /// Where an identifier stands that was launched just now: at the end, but for what a replay left out of order.
    pub(crate) fn launched_at(&self, packet_id: PacketId) -> Option<usize> {
        self.inflight.iter().rposition(|inflight| inflight.packet_id == packet_id)
    }

    /// PUBLISH gives way to PUBREL, which is sent once `durable_at` is durable. Returns the delivery if it was still a PUBLISH.
    pub(crate) fn release(&mut self, at: usize, durable_at: Lsn) -> Option<Delivery> {
        let inflight = self.inflight.get_mut(at)?;
        self.unsent -= u32::from(!std::mem::replace(&mut inflight.sent, true));
        match std::mem::replace(&mut inflight.phase, Phase::Release(durable_at)) {
            Phase::Publish(delivery) => {
                self.held_bytes -= delivery.bytes as usize;
                Some(delivery)
            }
            Phase::Release(_) => None,
        }
    }

    /// Takes it out of flight; a delivery in it is still owed.
    pub(crate) fn land(&mut self, at: usize) -> Option<Inflight> {
        let inflight = self.inflight.remove(at)?;
        self.unsent -= u32::from(!inflight.sent);
        if let Phase::Publish(delivery) = &inflight.phase {
            self.held_bytes -= delivery.bytes as usize;
        }
        if self.inflight.is_empty() {
            self.inflight = VecDeque::new();
        }
        Some(inflight)
    }

    /// Lets go of the bodies in flight: there is nobody to send them to, and the log has them.
    pub(crate) fn unload(&mut self) {
        for inflight in &mut self.inflight {
            if let Phase::Publish(delivery) = &mut inflight.phase
                && delivery.lsn > Lsn(0)
            {
                delivery.message = None;
            }
        }
    }
}

/// The body of a delivery in flight, if it is at hand.
pub(crate) fn body_of<'a>(queues: &'a Queues, delivery: &'a Delivery) -> Option<&'a Arc<Message>> {
    delivery.message.as_ref().or_else(|| queues.bodies.get(delivery.lsn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{BULK_IDS, URGENT_IDS};
    use crate::message::Publication;

    fn delivery() -> Delivery {
        Delivery::of(&mut Publication::plain("t", b"p", QoS::AtLeastOnce), Lsn(0), QoS::AtLeastOnce, false)
    }

    fn session() -> Session {
        Session::new("c".into(), Principal::Anonymous, 1)
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
        for (lane, ids) in [(LaneName::Bulk, BULK_IDS), (LaneName::Urgent, URGENT_IDS)] {
            session.launch(delivery(), Some((lane, 0))).unwrap();
            assert!(!session.can_launch(Number::Own(lane, ids)), "it waits for the first to be acknowledged");
            assert!(session.can_launch(Number::Own(lane, ids + 1)));
        }
    }

    #[test]
    fn all_identifiers_in_flight_is_an_answer_not_a_loop() {
        let (mut bulk, mut urgent, mut loose) = (session(), session(), session());
        let mut seen = BTreeSet::new();
        for sequence in 0..BULK_IDS {
            assert!(seen.insert(bulk.launch(delivery(), Some((LaneName::Bulk, sequence))).unwrap()));
        }
        for sequence in 0..URGENT_IDS {
            assert!(seen.insert(urgent.launch(delivery(), Some((LaneName::Urgent, sequence))).unwrap()));
        }
        for _ in 0..LOOSE_IDS {
            assert!(seen.insert(loose.launch(delivery(), None).unwrap()));
        }
        assert_eq!(seen.len(), 65_535);
        assert_eq!(bulk.launch(delivery(), Some((LaneName::Bulk, BULK_IDS))), None);
    }

    #[test]
    fn progress_replays_to_what_was_left() {
        let mut queues = Queues::new(1);
        let mut session = session();
        let mut replayed = self::session();
        let bulk = LaneName::Bulk;
        for _ in 0..6 {
            session.enqueue(&mut queues, bulk, delivery());
            replayed.enqueue(&mut queues, bulk, delivery());
        }
        for _ in 0..4 {
            let queued = session.dequeue(&mut queues, bulk).unwrap();
            session.launch(queued.delivery, Some((bulk, queued.sequence))).unwrap();
        }
        session.land(2);
        session.land(0);
        let (progress, backlog) = session.progress(&queues);
        assert_eq!((progress[1].next, progress[1].open.as_slice(), backlog), (4, &[1, 3][..], 0));
        replayed.advance(&mut queues, &progress, backlog);
        let left: Vec<u64> = queues.pool.iter(&replayed.lane(bulk).queue).map(|peek| peek.sequence).collect();
        assert_eq!((left, replayed.lane(bulk).sent_through), (vec![1, 3, 4, 5], 4));
        replayed.replay_received(&mut queues, bulk, 3);
        assert_eq!((replayed.queued(), replayed.inflight.len()), (3, 1));
        let end = LaneProgress { next: 6, sent_through: 6, open: Vec::new() };
        replayed.advance(&mut queues, &[LaneProgress::default(), end], 0);
        assert_eq!((replayed.queued(), replayed.inflight.len(), replayed.held_bytes), (0, 0, 0));
    }

    #[test]
    fn what_is_urgent_goes_first() {
        let mut queues = Queues::new(1);
        let mut session = session();
        session.enqueue(&mut queues, LaneName::Bulk, delivery());
        session.enqueue(&mut queues, LaneName::Urgent, delivery());
        assert_eq!(session.front(&queues, Lsn(0)).unwrap().0, LaneName::Urgent);
        session.dequeue(&mut queues, LaneName::Urgent).unwrap();
        assert_eq!(session.front(&queues, Lsn(0)).unwrap().0, LaneName::Bulk);
    }
}
