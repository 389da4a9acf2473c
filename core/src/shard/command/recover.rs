//! Commands after a crash.
//!
//! Owns what the records and the folded entries of commands become, and what is folded. Nothing is decided anew: whatever was published has a record
//! that says so, and that record is the step of the command, too.

use std::sync::Arc;

use causeway_fleet::command::{self, CommandId, fingerprint};

use super::{Command, Ended, State};
use crate::folded::{FoldedCommand, FoldedState};
use crate::message::{Message, Publication};
use crate::record::{EndedRecord, PublishRecord, RecordError, RefusedRecord, RequestedRecord, RetriedRecord};
use crate::shard::Shard;
use crate::shard::replay::Replay;
use crate::shard::timers::Timer;
use crate::{Lsn, Millis};

impl Shard {
    pub(in crate::shard) fn replay_requested(
        &mut self,
        replay: &Replay,
        at: Lsn,
        now: Millis,
        record: &RequestedRecord<'_>,
    ) -> Result<(), RecordError> {
        let id = record.terms.id;
        let mut publication = Publication::of_record(&record.message);
        publication.command = Some(id);
        let message = (!record.is_sent).then(|| publication.keep());
        if record.is_sent {
            self.replay_publish(replay, at, &record.message, publication, true);
        } else {
            self.replay_received(replay, at, record.message.publisher, record.message.packet_id);
        }
        if self.commands.get(id).is_some() {
            // It was folded later.
            return Ok(());
        }
        let (vin, name) = command::of_topic(record.message.topic).ok_or(RecordError::Damaged)?;
        let terms = &record.terms;
        let command = Command {
            as_of: at,
            vin,
            name: name.into(),
            by: terms.by.clone(),
            requested_at: now,
            deadline: record.message.expires_at.ok_or(RecordError::Damaged)?,
            address: terms.address.into(),
            key: terms.key.map(Into::into),
            fingerprint: terms.key.map_or(0, |_| fingerprint(name, record.message.payload)),
            request_id: terms.request_id.map(Into::into),
            state: message.map_or(State::Sent, State::Waiting),
        };
        self.keep_command(id, command);
        Ok(())
    }

    pub(in crate::shard) fn replay_sent(
        &mut self,
        replay: &Replay,
        at: Lsn,
        (id, record): (CommandId, &PublishRecord<'_>),
    ) {
        let mut publication = Publication::of_record(record);
        publication.command = Some(id);
        self.replay_publish(replay, at, record, publication, true);
        if self.lacks(id, at) {
            self.commands.sent(id, at);
            self.changed.command(id);
        }
    }

    pub(in crate::shard) fn replay_retried(&mut self, replay: &Replay, at: Lsn, record: &RetriedRecord<'_>) {
        self.replay_received(replay, at, record.publisher, record.packet_id);
        if self.lacks(record.id, at) {
            self.commands.readdress(record.id, at, record.address.into());
            self.changed.command(record.id);
        }
    }

    pub(in crate::shard) fn replay_ended(&mut self, replay: &Replay, at: Lsn, now: Millis, record: &EndedRecord<'_>) {
        let EndedRecord { id, outcome, .. } = *record;
        let mut publication = Publication::of_record(&record.message);
        let message = publication.keep();
        self.replay_publish(replay, at, &record.message, publication, true);
        if !self.lacks(id, at) {
            return;
        }
        if let Some(deadline) = self.commands.get(id).map(|command| command.deadline) {
            self.timers.cancel(deadline, Timer::Command(id));
        }
        self.commands.end(id, at, Ended { outcome, at: now, message });
        self.changed.command(id);
        self.forget_what_is_over(now);
    }

    pub(in crate::shard) fn replay_refused(
        &mut self,
        replay: &Replay,
        at: Lsn,
        now: Millis,
        (refused, record): (&RefusedRecord<'_>, &PublishRecord<'_>),
    ) {
        let id = refused.terms.id;
        self.commands.ids.given(id);
        let mut publication = Publication::of_record(record);
        let message = publication.keep();
        self.replay_publish(replay, at, record, publication, true);
        if refused.is_kept && self.commands.get(id).is_none() {
            self.keep_command(id, Command::refused((at, now), refused, message));
            self.forget_what_is_over(now);
        }
    }

    /// Whether a command is there and does not have what the record at `at` says.
    fn lacks(&self, id: CommandId, at: Lsn) -> bool {
        self.commands.get(id).is_some_and(|command| command.as_of < at)
    }

    /// Ends the replay. What is due by now comes with the next tick.
    pub(in crate::shard) fn commands_recovered(&mut self, now: Millis) {
        // What was given and is nowhere, because a backup is older, was given by a clock that was behind this one.
        self.commands.ids.begin_after(now.0.max(self.newest.0));
        self.forget_outcomes(now);
    }

    pub(in crate::shard) fn restore_command(&mut self, folded: FoldedCommand<'_>) {
        let FoldedCommand { as_of, vin, name, requested_at, deadline, fingerprint, terms, state } = folded;
        let command = Command {
            as_of,
            vin,
            name: name.into(),
            by: terms.by,
            requested_at,
            deadline,
            address: terms.address.into(),
            key: terms.key.map(Into::into),
            fingerprint,
            request_id: terms.request_id.map(Into::into),
            state: match state {
                FoldedState::Waiting(message) => State::Waiting(Arc::new(Message::of_command(terms.id, &message))),
                FoldedState::Sent => State::Sent,
                FoldedState::Ended { outcome, at, message } => {
                    State::Ended(Ended { outcome, at, message: Arc::new(Message::of_record(&message)) })
                }
            },
        };
        self.keep_command(terms.id, command);
    }
}
