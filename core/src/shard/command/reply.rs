//! A vehicle answers.
//!
//! Owns which of a vehicle's messages are replies, and what becomes of one that comes too late, again, or from a vehicle that was not asked. The
//! right to answer is given by the request: once, until its deadline, and to nobody else.

use causeway_fleet::Vin;
use causeway_fleet::command::{self, CommandId, Outcome};

use super::outcome::Ending;
use super::{State, taken};
use crate::message::Publication;
use crate::shard::Shard;
use crate::shard::calls::Requester;
use crate::shard::deliver::Routed;
use crate::{Lsn, Millis};

/// So far may the clock of another shard, or of an earlier run, have been ahead when it gave a number.
const AHEAD_MS: u64 = 24 * 3600 * 1000;

/// What a message is that names a command.
enum Verdict {
    /// The reply.
    Taken,
    /// To one that is over without a reply.
    Late,
    /// To one that has its reply.
    Duplicate,
    /// To one that the vehicle was not asked.
    Forged,
}

impl Shard {
    /// Takes a vehicle's message whose topic goes on like this behind `status/`, if it names a command.
    pub(in crate::shard) fn on_reply(
        &mut self,
        now: Millis,
        from: &Requester,
        (vin, rest): (Vin, &str),
        publication: &Publication<'_>,
    ) -> Option<Routed> {
        let id = self.command_named(now, &vin, rest, publication)?;
        match self.judge_reply(now, id, &vin) {
            Verdict::Taken => {
                let ending = Ending {
                    outcome: Outcome::Replied,
                    payload: publication.payload,
                    forwarded: publication.forwarded,
                    provenance: publication.provenance.clone().filter(|_| self.limits.stamps_origin),
                    cause: from.origin(),
                };
                return Some(taken(self.end_command(now, id, &ending)));
            }
            Verdict::Late => self.counters.replies_late += 1,
            Verdict::Duplicate => self.counters.replies_duplicate += 1,
            Verdict::Forged => self.counters.replies_forged += 1,
        }
        // Nobody gets it, and the acknowledgement says so. What it comes too late for is durable before that.
        Some(Routed { durable_at: self.commands.get(id).map_or(Lsn(0), |command| command.as_of), matched: false })
    }

    fn command_named(&self, now: Millis, vin: &Vin, rest: &str, publication: &Publication<'_>) -> Option<CommandId> {
        let forwarded = publication.forwarded;
        let correlation_data = if forwarded.is_empty() { None } else { forwarded.correlation_data() };
        if let Some(id) = command::named_id(rest, correlation_data, |id| self.may_be_ours(now, *id)) {
            return Some(id);
        }
        // Most messages are no replies, and most vehicles have nothing to reply to.
        if correlation_data.is_some() || !self.commands.any_has_request_id(vin) {
            return None;
        }
        self.commands.with_request_id(vin, &command::request_id(publication.payload)?)
    }

    /// Whether this broker can have given a number: else it only looks like one, and the message is none of the broker's business. Whatever may have been
    /// given is not published, for the reply to it would be read by others than who asked.
    fn may_be_ours(&self, now: Millis, id: CommandId) -> bool {
        let is_past = id.given_ms() <= now.0.saturating_add(AHEAD_MS);
        id.shard() < self.shards && (is_past || self.commands.ids.may_have_given(id))
    }

    fn judge_reply(&self, now: Millis, id: CommandId, vin: &Vin) -> Verdict {
        let Some(command) = self.commands.get(id) else {
            // What was over long ago is known no more.
            let was_given = id.shard() == self.number && self.commands.ids.may_have_given(id);
            return if was_given { Verdict::Late } else { Verdict::Forged };
        };
        if command.vin != *vin {
            return Verdict::Forged;
        }
        match &command.state {
            State::Waiting(_) => Verdict::Forged,
            State::Sent if command.deadline <= now => Verdict::Late,
            State::Sent => Verdict::Taken,
            State::Ended(ended) if ended.outcome == Outcome::Replied => Verdict::Duplicate,
            State::Ended(_) => Verdict::Late,
        }
    }
}
