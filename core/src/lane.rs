//! The queues of one session, and the packet identifiers of what goes through them.
//!
//! Owns how a message's place in its lane becomes a packet identifier, and what keeps two messages from sharing one across a crash.
//! It never delivers anything.

use std::ops::Range;

use causeway_protocol::PacketId;

use crate::Lsn;
use crate::queue::Queue;

/// Which of a session's two queues a message waits in: what is urgent is sent before everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LaneName {
    Urgent,
    Bulk,
}

impl LaneName {
    /// In the order in which they are served.
    pub(crate) const ALL: [LaneName; 2] = [LaneName::Urgent, LaneName::Bulk];

    pub(crate) fn of(urgent: bool) -> LaneName {
        if urgent { LaneName::Urgent } else { LaneName::Bulk }
    }

    /// How many packet identifiers it has.
    pub(crate) fn identifiers(self) -> u64 {
        match self {
            LaneName::Urgent => URGENT_IDS,
            LaneName::Bulk => BULK_IDS,
        }
    }
}

/// Both lanes of a session. They are made with its first message: in a large fleet most sessions wait for one, and pay
/// for none.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Option<Box<[Lane; 2]>>);

impl Lanes {
    pub(crate) fn get(&self, name: LaneName) -> &Lane {
        self.0.as_ref().map_or(&UNUSED, |lanes| &lanes[name as usize])
    }

    /// Makes the lanes, where nothing went through them yet.
    pub(crate) fn get_mut(&mut self, name: LaneName) -> &mut Lane {
        &mut self.0.get_or_insert_default()[name as usize]
    }

    /// Both lanes, or none where nothing went through them yet.
    pub(crate) fn used(&self) -> impl Iterator<Item = &Lane> {
        self.0.iter().flat_map(|lanes| lanes.iter())
    }

    /// Likewise, with their names.
    pub(crate) fn used_mut(&mut self) -> impl Iterator<Item = (LaneName, &mut Lane)> {
        self.0.iter_mut().flat_map(|lanes| LaneName::ALL.into_iter().zip(lanes.iter_mut()))
    }
}

static UNUSED: Lane = Lane {
    queue: Queue::EMPTY,
    next_sequence: 0,
    sent_through: 0,
    saved_through: 0,
    saved: (0, 0),
    known: 0,
    recorded: (0, Lsn(0)),
    gate: (0, Lsn(0)),
};

/// A queue of a session, with the numbers of what went through it.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) queue: Queue,
    pub(crate) next_sequence: u64,
    /// What is below may have been sent by an earlier run of the broker, so it is sent with DUP.
    pub(crate) sent_through: u64,
    /// What is below stands in the folded state as it is, but for what is done.
    pub(crate) saved_through: u64,
    /// The parts of the queue that the folded state may hold: from, and before.
    pub(crate) saved: (u64, u64),
    /// The oldest unfinished message as of a record that is durable, and as of the newest record, with its position.
    pub(crate) known: u64,
    pub(crate) recorded: (u64, Lsn),
    /// From this number on, messages wait until this record is durable, besides their own.
    pub(crate) gate: (u64, Lsn),
}

impl Lane {
    /// The folded state has nothing of it.
    pub(crate) fn forget_saved(&mut self) {
        (self.saved, self.saved_through) = ((0, 0), 0);
    }

    /// Messages went from among those that stay: what the folded state has from `first` on is not as it is.
    pub(crate) fn thinned(&mut self, first: u64) {
        self.saved_through = self.saved_through.min(first);
    }

    /// Notes that the record at `at` says that `oldest` is the oldest unfinished message.
    pub(crate) fn progressed(&mut self, oldest: u64, at: Lsn) {
        self.recorded = (oldest, at);
    }

    /// Whether the message could be put in flight without sharing an identifier with one that a crash would bring
    /// back as unfinished.
    pub(crate) fn is_safe(&mut self, name: LaneName, sequence: u64, durable: Lsn) -> bool {
        if self.recorded.1 <= durable {
            self.known = self.known.max(self.recorded.0);
        }
        self.would_be_safe(name, sequence, durable)
    }

    /// Likewise, without noting what is known by now.
    pub(crate) fn would_be_safe(&self, name: LaneName, sequence: u64, durable: Lsn) -> bool {
        let recorded = if self.recorded.1 <= durable { self.recorded.0 } else { 0 };
        sequence.saturating_sub(self.known.max(recorded)) < name.identifiers()
    }

    /// What is queued from `sequence` on waits for the record at `at`, too.
    pub(crate) fn wait_for(&mut self, sequence: u64, at: Lsn, durable: Lsn) {
        self.gate = if self.gate.1 > durable { (self.gate.0, at) } else { (sequence, at) };
    }

    pub(crate) fn is_gated(&self, sequence: u64, durable: Lsn) -> bool {
        self.gate.1 > durable && sequence >= self.gate.0
    }
}

/// Packet identifiers from 1 on belong to the bulk lane, then come those of the urgent one, both in the order of its
/// sequence; the rest is for what has no place in a queue: shared subscriptions, and retained messages that a
/// subscription brought.
pub(crate) const BULK_IDS: u64 = 24_576;
pub(crate) const URGENT_IDS: u64 = 8_191;
pub(crate) const LOOSE_IDS: u64 = 65_535 - BULK_IDS - URGENT_IDS;

/// The identifiers of the lane that this one belongs to; none where it belongs to no lane.
pub(crate) fn ring_of(packet_id: PacketId) -> Option<Range<u16>> {
    let (bulk, urgent) = (1 + BULK_IDS as u16, 1 + (BULK_IDS + URGENT_IDS) as u16);
    match packet_id.get() {
        id if id < bulk => Some(1..bulk),
        id if id < urgent => Some(bulk..urgent),
        _ => None,
    }
}

/// What a packet identifier in flight was made of. Two numbers of a kind that are closer than there are identifiers of
/// that kind never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Own(LaneName, u64),
    Loose(u64),
}

impl Number {
    pub(crate) fn packet_id(self) -> Option<PacketId> {
        let (first, ids, number) = match self {
            Number::Own(LaneName::Bulk, sequence) => (1, BULK_IDS, sequence),
            Number::Own(LaneName::Urgent, sequence) => (1 + BULK_IDS, URGENT_IDS, sequence),
            Number::Loose(number) => (1 + BULK_IDS + URGENT_IDS, LOOSE_IDS, number),
        };
        PacketId::new((first + number % ids) as u16)
    }

    /// Whether both are of one kind, and if so, whether they are too close to share an identifier.
    pub(crate) fn is_near(self, other: Number) -> Option<bool> {
        match (self, other) {
            (Number::Own(LaneName::Bulk, one), Number::Own(LaneName::Bulk, other)) => {
                Some(one.abs_diff(other) < BULK_IDS)
            }
            (Number::Own(LaneName::Urgent, one), Number::Own(LaneName::Urgent, other)) => {
                Some(one.abs_diff(other) < URGENT_IDS)
            }
            (Number::Loose(one), Number::Loose(other)) => Some(one.abs_diff(other) < LOOSE_IDS),
            _ => None,
        }
    }
}

/// How far one lane is: all of its sequence below `next` is done, but for `open`, and what is below `sent_through` may
/// have been sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LaneProgress {
    pub(crate) next: u64,
    pub(crate) sent_through: u64,
    pub(crate) open: Vec<u64>,
}
