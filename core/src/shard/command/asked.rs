//! Commands that the rest of the broker requests, and asks about.
//!
//! Owns what becomes of those questions. Whoever asks is answered as soon as that is durable; what becomes of the command is another question.

use std::collections::HashSet;

use causeway_fleet::command::{CommandId, Wishes};
use causeway_protocol::{ForwardedBuilder, ForwardedProperties};

use super::State;
use super::request::Request;
use crate::shard::Shard;
use crate::shard::deliver::Origin;
use crate::{Answer, AskId, Bound, CommandAsk, CommandProgress, CommandTold, Lsn, Millis};

impl Shard {
    /// Requests a command. Whoever asks is told what became of it when they ask again.
    pub(in crate::shard) fn ask_command(&mut self, now: Millis, ask: AskId, asked: &CommandAsk) {
        let mut properties = ForwardedBuilder::new();
        if let Some(content_type) = &asked.content_type {
            properties = properties.content_type(content_type);
        }
        if let Some(address) = &asked.address {
            properties = properties.response_topic(&address.response_topic);
            if let Some(data) = &address.correlation_data {
                properties = properties.correlation_data(data);
            }
        }
        let properties = properties.build().unwrap_or_default();
        let request = Request {
            by: &asked.by,
            vin: asked.vin,
            name: &asked.name,
            forwarded: ForwardedProperties::from_forwarded_bytes(&properties).unwrap_or_default(),
            payload: &asked.payload,
            expires_at: asked.expires_seconds.map(|seconds| now.plus_seconds(seconds)),
            wishes: Wishes { key: asked.key.as_deref(), is_now_or_never: asked.is_now_or_never },
            origin: Origin::Broker,
            can_be_refused: false,
            is_asked_for: true,
        };
        // Whoever asks can ask again: a refusal that is kept, and told to all retries, would last longer than its reason.
        if self.storage_low && !self.is_known(&request) {
            self.counters.reached(Bound::FreeSpace);
            return self.answer_ask(now, ask, Lsn(0), Answer::NoRoom);
        }
        // Nobody but a client with a message can be refused.
        let Ok((id, routed)) = self.request_command(now, &request) else { return };
        let told = self.command_told(id).map(Box::new);
        self.answer_ask(now, ask, routed.durable_at, Answer::Command(told));
    }

    /// Tells how far a command is: at once, or when it is over.
    pub(in crate::shard) fn ask_progress(&mut self, now: Millis, ask: AskId, (id, when_over): (CommandId, bool)) {
        if when_over && !self.commands.is_over(id) {
            self.commands.waiters.entry(id).or_default().push(ask);
            return;
        }
        let after = self.commands.get(id).map_or(Lsn(0), |command| command.as_of);
        let told = self.command_told(id).map(Box::new);
        self.answer_ask(now, ask, after, Answer::Command(told));
    }

    /// Nobody waits for these answers any more: those that may be long in coming do not come.
    pub fn forget_asks(&mut self, gone: &HashSet<AskId>) {
        self.commands.waiters.retain(|_, waiters| {
            waiters.retain(|ask| !gone.contains(ask));
            !waiters.is_empty()
        });
    }

    /// A command as it is now, if it is known.
    pub(super) fn command_told(&self, id: CommandId) -> Option<CommandTold> {
        let command = self.commands.get(id)?;
        Some(CommandTold {
            id,
            vin: command.vin,
            name: command.name.clone(),
            by: command.by.clone(),
            requested_at: command.requested_at,
            deadline: command.deadline,
            progress: match &command.state {
                State::Waiting(_) => CommandProgress::Waiting,
                State::Sent => CommandProgress::Sent,
                State::Ended(ended) => CommandProgress::Ended {
                    outcome: ended.outcome,
                    at: ended.at,
                    payload: ended.message.payload.clone(),
                    content_type: ended.message.forwarded().content_type().map(Into::into),
                },
            },
        })
    }
}
