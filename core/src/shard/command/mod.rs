//! Commands to the vehicles that live here: each request has exactly one outcome.
//!
//! Owns the pending table, who is told what became of a command, and what of it outlives a crash. What the words mean is `fleet::command`'s; what
//! users may rely on is told in `docs/commands.md`.
//!
//! A command is *waiting* until its vehicle is connected with a subscription to it, then *sent*, then *over*; it may skip what is in between.
//! Each step is one record, and where something is published with it, that record is the publication's, too: a crash has both or neither, wherever
//! it cuts the log. Nobody sees either before it is durable.

mod asked;
mod barred;
mod large;
mod outcome;
mod recover;
mod reply;
mod request;
mod send;
mod table;

use causeway_fleet::command::CommandId;
use causeway_protocol::{ForwardedBuilder, ForwardedProperties};

use super::Shard;
use super::deliver::{Origin, Routed};
use super::timers::Timer;
use crate::message::Publication;
use crate::{Lsn, Millis};

pub use barred::Bar;
pub(super) use barred::Barred;
pub(super) use large::{Written, accepts_stub, write_publish, write_stub};
pub(super) use send::{is_too_late, topic_for};
use table::Load;
pub(crate) use table::{Address, Command, Commands, Ended, State};

/// So many commands end, or are forgotten, in one turn.
pub(super) const COMMANDS_AT_ONCE: usize = 1000;

impl Shard {
    /// Puts a command into the table, and sets when it is over at the latest.
    fn keep_command(&mut self, id: CommandId, command: Command) {
        if command.is_pending() {
            self.timers.set(command.deadline, Timer::Command(id));
        }
        self.commands.insert(id, command);
        self.changed.command(id);
    }

    /// Publishes what a command's step brings, by a record that stands for both.
    fn route_command(&mut self, now: Millis, publication: &mut Publication<'_>, cause: Origin) -> Lsn {
        // It is nobody's: what asked for it only stands in its record.
        let (session, packet_id) = match cause {
            Origin::Client { session, packet_id } => (session, packet_id),
            _ => (None, None),
        };
        let routed = self.route(now, publication, Origin::Command { session, packet_id });
        // Only a client can be refused.
        routed.map_or(Lsn(0), |routed| routed.durable_at)
    }

    /// The commands that are pending, and those that are over and known.
    pub(super) fn command_loads(&self) -> (Load, Load) {
        self.commands.loads()
    }
}

/// Nothing is to be sent, and this record must be durable first.
fn taken(durable_at: Lsn) -> Routed {
    Routed { durable_at, matched: true }
}

/// The properties of a message with others in their place: no Response Topic but this one, no Correlation Data but these, and more user properties.
fn rebuilt<'a>(
    forwarded: ForwardedProperties<'a>,
    (response_topic, correlation_data): (Option<&'a str>, Option<&'a [u8]>),
    is_left_out: impl Fn(&str) -> bool,
    more: &[(&'a str, &'a str)],
) -> Vec<u8> {
    let mut builder = ForwardedBuilder::new();
    if !forwarded.is_empty() {
        if let Some(indicator) = forwarded.payload_format_indicator() {
            builder = builder.payload_format_indicator(indicator == 1);
        }
        if let Some(content_type) = forwarded.content_type() {
            builder = builder.content_type(content_type);
        }
    }
    if let Some(topic) = response_topic {
        builder = builder.response_topic(topic);
    }
    if let Some(data) = correlation_data {
        builder = builder.correlation_data(data);
    }
    let own = (!forwarded.is_empty()).then(|| forwarded.user_properties()).into_iter().flatten();
    for (name, value) in own.filter(|(name, _)| !is_left_out(name)).chain(more.iter().copied()) {
        builder = builder.user_property(name, value);
    }
    // All of it came in properties, or is short.
    builder.build().unwrap_or_default()
}
