//! A command is over.
//!
//! Owns how its requester is told: once, whatever happens. And how long it is known afterwards.

use std::sync::Arc;

use causeway_fleet::command::{self, CommandId, Outcome, fingerprint};
use causeway_fleet::{Principal, Vin};
use causeway_protocol::{ForwardedProperties, QoS};

use super::request::{Refusal, Request};
use super::{Address, COMMANDS_AT_ONCE, Command, Ended, State, rebuilt};
use crate::message::{Message, Publication, Step};
use crate::provenance::Provenance;
use crate::record::{RefusedRecord, TermsRecord};
use crate::shard::Shard;
use crate::shard::authority::Revoked;
use crate::shard::deliver::Origin;
use crate::shard::timers::Timer;
use crate::{Answer, Bound, Lsn, Millis};

/// The properties of an outcome that the broker gives itself: UTF-8, and a Content Type.
const SYNTHESISED: &[u8] = b"\x01\x01\x03\x00\x10application/json";

/// How a command ends.
pub(super) struct Ending<'a> {
    pub(super) outcome: Outcome,
    pub(super) payload: &'a [u8],
    pub(super) forwarded: ForwardedProperties<'a>,
    pub(super) provenance: Option<Provenance>,
    /// The message that ended it, if one did.
    pub(super) cause: Origin,
}

impl Shard {
    /// Ends a pending command, and tells its requester. Returns the record of both.
    pub(super) fn end_command(&mut self, now: Millis, id: CommandId, ending: &Ending<'_>) -> Lsn {
        let pending = self.commands.get(id).filter(|command| command.is_pending());
        let Some((address, deadline)) = pending.map(|command| (command.address.clone(), command.deadline)) else {
            return Lsn(0);
        };
        let (at, message) = self.tell_outcome(now, id, &address, ending);
        self.timers.cancel(deadline, Timer::Command(id));
        self.commands.end(id, at, Ended { outcome: ending.outcome, at: now, message });
        self.changed.command(id);
        self.counters.commands_ended[ending.outcome as usize] += 1;
        self.answer_waiters(now, id, at);
        self.forget_outcomes(now);
        at
    }

    /// Ends a pending command that its vehicle did not answer.
    fn end_without_reply(&mut self, now: Millis, id: CommandId, outcome: Outcome, detail: &str) {
        let Some(command) = self.commands.get(id) else { return };
        let payload = command::document(outcome, id, &command.vin, &command.name, detail);
        let ending = self.synthesised(now, outcome, &payload, Origin::Broker);
        self.end_command(now, id, &ending);
    }

    fn synthesised<'a>(&self, now: Millis, outcome: Outcome, payload: &'a [u8], cause: Origin) -> Ending<'a> {
        let forwarded = ForwardedProperties::from_forwarded_bytes(SYNTHESISED).unwrap_or_default();
        Ending { outcome, payload, forwarded, provenance: self.own_origin(now), cause }
    }

    /// Publishes an outcome to where it is wanted, if it is anywhere.
    fn tell_outcome(
        &mut self,
        now: Millis,
        id: CommandId,
        address: &Address,
        ending: &Ending<'_>,
    ) -> (Lsn, Arc<Message>) {
        self.tell_step(now, (id, Step::Ended(id, ending.outcome)), address, ending)
    }

    fn tell_step(
        &mut self,
        now: Millis,
        (id, step): (CommandId, Step<'_>),
        address: &Address,
        ending: &Ending<'_>,
    ) -> (Lsn, Arc<Message>) {
        let text = id.text();
        let vin = match step {
            Step::Refused(refused) => Some(refused.vin),
            _ => self.commands.get(id).map(|command| command.vin),
        };
        let vehicle = vin.as_ref().map_or("", Vin::as_str);
        let told =
            [(command::OUTCOME, ending.outcome.word()), (command::COMMAND, text.as_str()), (command::VEHICLE, vehicle)];
        let is_told = |name: &str| told.iter().any(|(told, _)| *told == name);
        let properties = rebuilt(ending.forwarded, (None, address.correlation_data.as_deref()), is_told, &told);
        let topic = address.response_topic.as_deref().unwrap_or_default();
        let mut publication = Publication::plain(topic, ending.payload, QoS::AtLeastOnce);
        publication.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap_or_default();
        publication.provenance = ending.provenance.clone();
        publication.step = step;
        let at = self.route_command(now, &mut publication, ending.cause);
        (at, publication.keep())
    }

    /// The requester of a command that is over asked again: it is told again, where it wants it now. Returns the record of that, which is that of
    /// its question, too.
    pub(super) fn tell_again(&mut self, now: Millis, id: CommandId, address: &Address, cause: Origin) -> Lsn {
        let state = self.commands.get(id).map(|command| command.state.clone());
        let Some(State::Ended(Ended { outcome, at, message })) = state else { return Lsn(0) };
        let (payload, forwarded, provenance) = (&message.payload, message.forwarded(), message.provenance.clone());
        let ending = Ending { outcome, payload, forwarded, provenance, cause };
        let (as_of, message) = self.tell_outcome(now, id, address, &ending);
        self.commands.end(id, as_of, Ended { outcome, at, message });
        self.forget_outcomes(now);
        as_of
    }

    /// Tells whoever requested a command that never began.
    pub(super) fn tell_refusal_of_command(
        &mut self,
        now: Millis,
        id: CommandId,
        request: &Request<'_>,
        refusal: &Refusal,
    ) -> Lsn {
        let payload = command::document(refusal.outcome, id, &request.vin, request.name, &refusal.detail);
        let ending = self.synthesised(now, refusal.outcome, &payload, request.origin);
        let is_key_taken = match refusal.outcome {
            // It is another request's.
            Outcome::Conflict => false,
            // Nor is this one free: it is a retry, and the command goes on.
            Outcome::QueueFull if self.is_known(request) => false,
            // Whoever asks, and has nobody else told, is told to ask again, and that must not be told for longer than its reason lasts.
            Outcome::QueueFull => !request.is_asked_for || request.address().response_topic.is_some(),
            _ => true,
        };
        let key = request.wishes.key.filter(|_| is_key_taken);
        let refused = RefusedRecord {
            terms: TermsRecord { id, by: request.by.clone(), address: request.address(), key, request_id: None },
            vin: request.vin,
            name: request.name,
            fingerprint: fingerprint(request.name, request.payload),
            outcome: refusal.outcome,
            is_kept: key.is_some() || request.is_asked_for,
        };
        let (at, message) = self.tell_step(now, (id, Step::Refused(&refused)), &request.address().into(), &ending);
        if refused.is_kept {
            self.keep_command(id, Command::refused((at, now), &refused, message));
            self.forget_outcomes(now);
        }
        at
    }

    /// The deadline of a command is over.
    pub(in crate::shard) fn on_command_due(&mut self, now: Millis, id: CommandId) {
        let Some(command) = self.commands.get(id).filter(|command| command.is_pending()) else { return };
        if let Some(why) = self.barred.why(now, &command.vin).map(str::to_owned) {
            self.end_without_reply(now, id, Outcome::Retired, &why);
            return;
        }
        if command.deadline > now {
            // Its vehicle was barred, and is not any more.
            self.timers.set(command.deadline, Timer::Command(id));
            return;
        }
        let detail = match command.state {
            State::Waiting(_) => "until its deadline the vehicle was not connected, or had no subscription to it",
            State::Sent | State::Ended(_) => "the vehicle did not answer until its deadline",
        };
        self.end_without_reply(now, id, Outcome::TimedOut, detail);
    }

    /// A vehicle may not come back: nobody waits for it.
    pub(in crate::shard) fn retire_commands(&mut self, now: Millis, revoked: &Revoked, why: &str) {
        let vin = match revoked {
            Revoked::Vehicle(vin) | Revoked::Principal(Principal::Vehicle(vin)) => *vin,
            // Of many vehicles, those for whom nobody is to wait are barred: see there.
            Revoked::Principal(_) | Revoked::Credentials(_) | Revoked::Whoever(_) => return,
        };
        for id in self.commands.pending_of(&vin).to_vec() {
            self.end_without_reply(now, id, Outcome::Retired, why);
        }
    }

    /// Vehicles are barred: nobody waits for them. Those commands that are too many for this turn are due in the next ones.
    pub(super) fn retire_barred(&mut self, now: Millis, vins: impl Iterator<Item = Vin>) {
        let mut left = COMMANDS_AT_ONCE;
        for vin in vins {
            for id in self.commands.pending_of(&vin).to_vec() {
                if left > 0 {
                    left -= 1;
                    self.on_command_due(now, id);
                } else if let Some(command) = self.commands.get(id) {
                    self.timers.cancel(command.deadline, Timer::Command(id));
                    self.timers.set(now, Timer::Command(id));
                }
            }
        }
    }

    /// Forgets what was over long ago, and what is more than is kept. Returns how many that were; what is too much for one turn is due at once.
    pub(in crate::shard) fn forget_outcomes(&mut self, now: Millis) -> usize {
        let forgotten = self.forget_what_is_over(now);
        let kept_milliseconds = u64::from(self.limits.command_outcomes_kept_seconds) * 1000;
        if self.commands.forget_at.is_some_and(|at| at > now) {
            return forgotten;
        }
        let oldest = self.commands.oldest_ended();
        self.commands.forget_at = oldest.map(|oldest| Millis(oldest.0.saturating_add(kept_milliseconds)));
        self.commands.forget_at.into_iter().for_each(|at| self.timers.set(at, Timer::Outcomes));
        forgotten
    }

    /// Likewise, at any time: a replay forgets at each outcome what was forgotten when it was told.
    pub(super) fn forget_what_is_over(&mut self, now: Millis) -> usize {
        let kept_milliseconds = u64::from(self.limits.command_outcomes_kept_seconds) * 1000;
        let until = now.0.checked_sub(kept_milliseconds).map(Millis);
        let mut forgotten = 0;
        while forgotten < COMMANDS_AT_ONCE
            && let Some(id) = self.commands.forget_oldest(until)
        {
            forgotten += 1;
            self.changed.command(id);
        }
        // Each outcome takes the room of those that it drives out.
        while let Some(id) = self.commands.forget_spare(self.limits.command_outcomes_bytes_max) {
            self.counters.reached(Bound::CommandOutcomesBytes);
            self.changed.command(id);
        }
        forgotten
    }

    fn answer_waiters(&mut self, now: Millis, id: CommandId, at: Lsn) {
        let Some(waiters) = self.commands.waiters.remove(&id) else { return };
        let told = self.command_told(id);
        for ask in waiters {
            self.answer_ask(now, ask, at, Answer::Command(told.clone().map(Box::new)));
        }
    }
}
