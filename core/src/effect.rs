//! What the edge must do that is rare: close, authenticate, tell a person. Deliveries and records are no effects.

use std::borrow::Cow;

use causeway_protocol::ReasonCode;

use crate::{Answer, AskId, ConnectionId, GroupRequest, TwinEvent};

/// Something for the edge to carry out.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write the connection's outbox within a bounded time, close its socket, then call [`crate::Shard::closed`].
    Close {
        /// Which one.
        connection: ConnectionId,
    },
    /// Take the next step of the connection's authentication method, then call [`crate::Shard::reauthenticated`].
    Reauthenticate {
        /// Which one.
        connection: ConnectionId,
        /// The method named in its CONNECT.
        method: String,
        /// What the client sent.
        data: Vec<u8>,
    },
    /// Tell whoever asked.
    Answer {
        /// What.
        ask: AskId,
        /// What came of it.
        answer: Box<Answer>,
    },
    /// Make it a command of each vehicle of the group, then call [`crate::Shard::group_command_taken`].
    GroupCommand(Box<GroupRequest>),
    /// Tell whoever follows shadows.
    Twin(Box<TwinEvent>),
    /// Tell whoever reads the log.
    Event(Event),
}

/// How loud an [`Event`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum EventLevel {
    Debug,
    Info,
    Warn,
}

/// Something worth one line in a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// How loud.
    pub level: EventLevel,
    /// The connection it happened on, if one was there.
    pub connection: Option<ConnectionId>,
    /// The client identifier.
    pub client: String,
    /// Who the client is known to be.
    pub principal: String,
    /// What happened, in a few fixed words.
    pub what: &'static str,
    /// The reason code the client was given, if any.
    pub reason: Option<ReasonCode>,
    /// Why; may be empty.
    pub detail: String,
}

impl Event {
    /// How loud the event is.
    pub const fn level(&self) -> EventLevel {
        self.level
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} client={:?} principal={}", self.what, shown(&self.client), shown(&self.principal))?;
        if let Some(reason) = self.reason {
            write!(f, " reason={reason}")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", shown(&self.detail))?;
        }
        Ok(())
    }
}

/// A text of a peer, cut to what a line of a log can bear.
fn shown(text: &str) -> Cow<'_, str> {
    const CHARS_MAX: usize = 256;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}… ({} bytes)", &text[..end], text.len())),
        None => Cow::Borrowed(text),
    }
}
