//! What the rest of the broker asks a shard, about vehicles that live on it.
//!
//! Owns the words only. A question is [`crate::Shard::ask`]; its answer comes as [`crate::Effect::Answer`], once what it says is durable.

use std::sync::Arc;

use bytes::Bytes;
use causeway_fleet::command::{CommandId, Outcome};
use causeway_fleet::query::Query;
use causeway_fleet::shadow::{Format, Rejection};
use causeway_fleet::{Principal, Vin};

use crate::Millis;
use crate::history::{HistoryEntry, HistoryRange};
use crate::rows::{FleetOrder, FleetPage, FleetPlace};

/// Names one question until it is answered. Chosen by whoever asks; none is used twice at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// About one shadow.
    Shadow(ShadowAsk),
    /// The names of a vehicle's shadows.
    Shadows(Vin),
    /// What became of a shadow, as far as it is not in the folded state. What is there has to be read after the answer.
    History(HistoryRange),
    /// Which vehicles something is true of.
    Fleet(FleetAsk),
    /// To request a command.
    Command(Box<CommandAsk>),
    /// To publish a message.
    Publish(Box<PublishAsk>),
    /// How far a command is. Of the shard that its number names.
    CommandState {
        /// Which.
        id: CommandId,
        /// Whether the answer is to wait until it is over.
        when_over: bool,
    },
}

/// A command that is requested. What becomes of it is known to those who ask [`Ask::CommandState`].
#[derive(Debug, Clone, PartialEq)]
pub struct CommandAsk {
    /// The vehicle.
    pub vin: Vin,
    /// The command's name: see [`causeway_fleet::calls::is_name`].
    pub name: Box<str>,
    /// Who requests it.
    pub by: Principal,
    /// What the vehicle is sent.
    pub payload: Bytes,
    /// What the payload is.
    pub content_type: Option<Box<str>>,
    /// When it is over, whatever happens.
    pub expires_seconds: Option<u32>,
    /// Whether it is over at once where the vehicle can't have it at once.
    pub is_now_or_never: bool,
    /// Requests with the same one are one command.
    pub key: Option<Box<str>>,
    /// Where its outcome is published; nowhere where nobody is told by a message. Whoever asks again with the
    /// same key is answered, and no message comes again.
    pub address: Option<ReturnAddress>,
}

/// Where a requester wants to be told what became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnAddress {
    /// The topic.
    pub response_topic: Box<str>,
    /// The requester's own, which comes with it.
    pub correlation_data: Option<Box<[u8]>>,
}

/// A message of the broker's own, of QoS 1.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishAsk {
    /// Who gets it though the queue is full, within the bounds of outcomes.
    pub meant_for: Principal,
    /// Its topic, and which request it is about.
    pub to: ReturnAddress,
    /// What it says.
    pub payload: Bytes,
    /// What the payload is.
    pub content_type: &'static str,
    /// Names and values.
    pub user_properties: Vec<(&'static str, Box<str>)>,
}

/// What is wanted of a shadow.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowAsk {
    /// Whose.
    pub vin: Vin,
    /// Without a name, the classic one.
    pub name: Option<Box<str>>,
    /// Who asks: it stands in the history.
    pub by: Principal,
    /// What.
    pub what: ShadowWhat,
}

/// See [`ShadowAsk`].
#[derive(Debug, Clone, PartialEq)]
pub enum ShadowWhat {
    /// The document.
    Get,
    /// To merge an update document.
    Update {
        /// The document.
        payload: Bytes,
        /// In which form it is.
        format: Format,
        /// The version the shadow must have, beside what the document says of it.
        version: Option<u64>,
    },
    /// To delete it.
    Delete {
        /// The version it must have.
        version: Option<u64>,
    },
}

/// Of which vehicles with a classic shadow something is true.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetAsk {
    /// What.
    pub query: Arc<Query>,
    /// Where to look.
    pub which: FleetWhich,
    /// At most so many are wanted; not where vehicles are named.
    pub limit: usize,
}

/// Where a question about the fleet looks.
#[derive(Debug, Clone, PartialEq)]
pub enum FleetWhich {
    /// At all of them, a part at a time.
    All {
        /// In which order.
        order: FleetOrder,
        /// Only behind this place.
        after: Option<FleetPlace>,
    },
    /// At these, all at once: those that live elsewhere are not found.
    Among(Arc<[Vin]>),
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Of [`Ask::Shadow`].
    Shadow(Result<ShadowTold, Rejection>),
    /// Of [`Ask::Shadows`]: names and versions; the classic one has none.
    Shadows(Vec<(Option<Box<str>>, u64)>),
    /// Of [`Ask::History`]: in the order in which things happened.
    History(Vec<HistoryEntry>),
    /// Of [`Ask::Fleet`].
    Fleet(FleetPage),
    /// Of [`Ask::Command`] and [`Ask::CommandState`]. Nothing where the command is not known, or no longer.
    Command(Option<Box<CommandTold>>),
    /// Of [`Ask::Publish`].
    Published,
    /// Of [`Ask::Command`] and [`Ask::Publish`]: the disk is nearly full, and nothing was begun or kept. The same question may be asked again when
    /// it has room.
    NoRoom,
}

/// A command as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandTold {
    /// Its number.
    pub id: CommandId,
    /// The vehicle.
    pub vin: Vin,
    /// Its name.
    pub name: Box<str>,
    /// Who requested it.
    pub by: Principal,
    /// When it was requested.
    pub requested_at: Millis,
    /// When it is over at the latest.
    pub deadline: Millis,
    /// How far it is.
    pub progress: CommandProgress,
}

/// How far a command is.
#[derive(Debug, Clone, PartialEq)]
pub enum CommandProgress {
    /// It waits until its vehicle is connected, with a subscription to it.
    Waiting,
    /// It was queued for the vehicle, whose reply is awaited.
    Sent,
    /// It is over.
    Ended {
        /// What became of it.
        outcome: Outcome,
        /// When.
        at: Millis,
        /// The reply, or the document that stands in for it.
        payload: Bytes,
        /// What the payload is.
        content_type: Option<Box<str>>,
    },
}

/// A shadow as it is, or as it became.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowTold {
    /// Its version.
    pub version: u64,
    /// The document in JSON: the whole one; of a deletion, what AWS IoT answers.
    pub document: Vec<u8>,
}

/// A shadow changed. Told, once it is durable, while [`crate::Shard::tell_twins`] says that somebody listens.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinEvent {
    /// Whose.
    pub vin: Vin,
    /// Without a name, the classic one.
    pub name: Option<Box<str>>,
    /// What it has now.
    pub version: u64,
    /// When it changed.
    pub at: Millis,
    /// The entry of its history, in JSON: `version`, `at`, `by`, `from`, `to`, and `released` and `expired` where there are.
    pub entry: Arc<[u8]>,
}
