//! A command is requested.
//!
//! Owns what a request must be, the bounds of the pending table, and what a retry is. It never decides who may request: that is asked where the
//! requester is connected.

use causeway_fleet::command::{self, CommandId, KEY_BYTES_MAX, Outcome, Wishes, fingerprint};
use causeway_fleet::{Principal, Vin};
use causeway_protocol::{ForwardedProperties, QoS, ReasonCode};

use super::table::COMMAND_BYTES;
use super::{Address, Command, State, rebuilt, taken};
use crate::message::{Publication, Step};
use crate::provenance::Provenance;
use crate::record::{AddressRecord, TermsRecord};
use crate::shard::Shard;
use crate::shard::calls::Requester;
use crate::shard::deliver::{Origin, Routed};
use crate::shard::peers::is_peer_session;
use crate::{Bound, Lsn, Millis};

/// The properties of a request are kept as its payload is.
const PROPERTIES_BYTES_MAX: usize = 64 << 10;

/// What the rest of a command's topics, its number and its `request_id` take at most.
const TEXTS_BYTES: usize = 256;

/// A request, as it came in a message or otherwise.
pub(in crate::shard) struct Request<'a> {
    pub(in crate::shard) by: &'a Principal,
    pub(in crate::shard) vin: Vin,
    pub(in crate::shard) name: &'a str,
    pub(in crate::shard) forwarded: ForwardedProperties<'a>,
    pub(in crate::shard) payload: &'a [u8],
    pub(in crate::shard) expires_at: Option<Millis>,
    pub(in crate::shard) wishes: Wishes<'a>,
    /// What brought it: with a replay, that must not bring it again.
    pub(in crate::shard) origin: Origin,
    /// Whether a refusal can be told by the acknowledgement of the request.
    pub(in crate::shard) can_be_refused: bool,
    /// Whether somebody may ask for it by its number, whatever becomes of it.
    pub(in crate::shard) is_asked_for: bool,
}

/// Why a request is not carried out.
pub(super) struct Refusal {
    pub(super) outcome: Outcome,
    pub(super) detail: String,
}

impl<'a> Request<'a> {
    pub(super) fn address(&self) -> AddressRecord<'a> {
        if self.forwarded.is_empty() {
            return AddressRecord::default();
        }
        let (response_topic, correlation_data) = (self.forwarded.response_topic(), self.forwarded.correlation_data());
        AddressRecord { response_topic, correlation_data }
    }

    /// What it will count against limits in bytes at most, as long as it is pending.
    fn bytes(&self) -> usize {
        let address = Address::from(self.address()).bytes();
        let key = self.wishes.key.map_or(0, str::len);
        // The topics of command and reply have the name in them, too.
        let texts = 3 * self.name.len() + address + key + TEXTS_BYTES;
        COMMAND_BYTES + texts + self.forwarded.encoded_bytes() + self.payload.len()
    }
}

impl From<AddressRecord<'_>> for Address {
    fn from(record: AddressRecord<'_>) -> Address {
        Address {
            response_topic: record.response_topic.map(Into::into),
            correlation_data: record.correlation_data.map(Into::into),
        }
    }
}

impl Shard {
    /// Somebody requests a command with a message.
    ///
    /// # Errors
    /// It is not carried out, and its requester is told so by the acknowledgement.
    pub(in crate::shard) fn on_command(
        &mut self,
        now: Millis,
        from: &Requester,
        (vin, name): (Vin, &str),
        publication: &Publication<'_>,
    ) -> Result<Routed, (ReasonCode, String)> {
        let forwarded = publication.forwarded;
        let is_acknowledged = publication.qos > QoS::AtMostOnce;
        let request = Request {
            by: &from.principal,
            vin,
            name,
            forwarded,
            payload: publication.payload,
            expires_at: publication.expires_at,
            wishes: Wishes::of(forwarded.user_properties()),
            origin: from.origin(),
            can_be_refused: is_acknowledged
                && from.session.is_some_and(|session| !is_peer_session(&self.sessions, session)),
            is_asked_for: false,
        };
        self.request_command(now, &request).map(|(_, routed)| routed)
    }

    /// Takes a request, in one way or another: which command it is from now on.
    ///
    /// # Errors
    /// See [`Shard::on_command`].
    pub(in crate::shard) fn request_command(
        &mut self,
        now: Millis,
        request: &Request<'_>,
    ) -> Result<(CommandId, Routed), (ReasonCode, String)> {
        self.counters.commands_requested += 1;
        let known = request.wishes.key.and_then(|key| self.commands.with_key(request.by, &request.vin, key));
        if let Some(known) = known {
            if !self.is_same(known, request) {
                let detail = format!("command {known} has the same idempotency key, and is another request");
                return self.refuse_command(now, request, &Refusal { outcome: Outcome::Conflict, detail });
            }
            return match self.admit_retry(known, request) {
                Ok(()) => Ok((known, self.on_retry(now, known, request))),
                Err(refusal) => self.refuse_command(now, request, &refusal),
            };
        }
        match self.admit_command(now, request) {
            Ok(deadline) => Ok(self.begin_command(now, request, deadline)),
            Err(refusal) => self.refuse_command(now, request, &refusal),
        }
    }

    /// When a request is over at the latest, if it may begin.
    fn admit_command(&mut self, now: Millis, request: &Request<'_>) -> Result<Millis, Refusal> {
        let refused = |outcome, detail: String| Err(Refusal { outcome, detail });
        let limits = std::sync::Arc::clone(&self.limits);
        let longest = now.plus_seconds(limits.command_deadline_seconds_max);
        let by_default = now.plus_seconds(limits.command_deadline_seconds);
        let deadline = request.expires_at.unwrap_or(by_default).min(longest);
        // Also what is refused with a key is known to its retries.
        self.admit_outcome(now, request)?;
        if let Some(why) = self.barred.why(now, &request.vin) {
            return refused(Outcome::Retired, why.to_owned());
        }
        if deadline <= now {
            return refused(Outcome::TimedOut, "its deadline was over before it came here".to_owned());
        }
        if request.wishes.key.is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return refused(Outcome::Refused, format!("an idempotency key has 1 to {KEY_BYTES_MAX} bytes"));
        }
        let max = limits.command_payload_bytes_max;
        let properties = request.forwarded.encoded_bytes();
        let sizes = [("payload is", request.payload.len(), max), ("properties are", properties, PROPERTIES_BYTES_MAX)];
        if let Some((what, _, max)) = sizes.into_iter().find(|(_, bytes, max)| bytes > max) {
            self.counters.reached(Bound::CommandPayloadBytes);
            return refused(Outcome::Refused, format!("its {what} larger than {max} bytes"));
        }
        if self.storage_low {
            self.counters.reached(Bound::FreeSpace);
            self.counters.publish_refused_disk_full += 1;
            return refused(Outcome::Refused, "the disk is nearly full".to_owned());
        }
        self.admit_one_more(request)?;
        if request.wishes.is_now_or_never {
            let topic = command::topic(&request.vin, request.name);
            let id = self.commands.ids.clone().next(now.0, self.number);
            if !self.is_vehicle_here(&request.vin, &topic, id) {
                let detail = "the vehicle is not connected, or has no subscription to the command".to_owned();
                return refused(Outcome::Offline, detail);
            }
        }
        Ok(deadline)
    }

    /// Whether it can be known what becomes of one more command with a key for as long as is promised. Of one without, it is for as long as there is
    /// room.
    fn admit_outcome(&mut self, now: Millis, request: &Request<'_>) -> Result<(), Refusal> {
        if request.wishes.key.is_none() {
            return Ok(());
        }
        // What was over long ago keeps nobody out.
        self.forget_what_is_over(now);
        let (pending, kept) = self.commands.loads();
        let max = self.limits.command_outcomes_bytes_max;
        if kept.held_bytes + pending.held_bytes + request.bytes() > max {
            return Err(self.no_room(Bound::CommandOutcomesBytes, max));
        }
        Ok(())
    }

    /// Whether one more may be pending.
    fn admit_one_more(&mut self, request: &Request<'_>) -> Result<(), Refusal> {
        let limits = &self.limits;
        let (pending, _) = self.commands.loads();
        let bounds = [
            (
                self.commands.pending_of(&request.vin).len() + 1,
                limits.commands_per_vehicle_max,
                Bound::CommandsPerVehicle,
            ),
            (self.commands.pending_for(request.by) + 1, limits.commands_per_requester_max, Bound::CommandsPerRequester),
            (pending.count + 1, limits.commands_max, Bound::Commands),
            (pending.bytes + request.bytes(), limits.commands_bytes_max, Bound::CommandsPendingBytes),
        ];
        match bounds.into_iter().find(|(there, max, _)| there > max) {
            Some((_, max, bound)) => Err(self.no_room(bound, max)),
            None => Ok(()),
        }
    }

    /// Whether the outcome of a command may go where a retry wants it, with as much Correlation Data.
    fn admit_retry(&mut self, id: CommandId, request: &Request<'_>) -> Result<(), Refusal> {
        let growth = self.commands.growth(id, &request.address().into());
        let (pending, kept) = self.commands.loads();
        let (there, max, bound) = match self.commands.is_over(id) {
            true => {
                let held = kept.held_bytes + pending.held_bytes;
                (held, self.limits.command_outcomes_bytes_max, Bound::CommandOutcomesBytes)
            }
            false => (pending.bytes, self.limits.commands_bytes_max, Bound::CommandsPendingBytes),
        };
        if growth > 0 && there + growth > max {
            return Err(self.no_room(bound, max));
        }
        Ok(())
    }

    fn no_room(&mut self, bound: Bound, max: usize) -> Refusal {
        self.counters.reached(bound);
        Refusal { outcome: Outcome::QueueFull, detail: format!("{} is reached: {max}", bound.name()) }
    }

    fn begin_command(&mut self, now: Millis, request: &Request<'_>, deadline: Millis) -> (CommandId, Routed) {
        let Request { vin, name, payload, .. } = *request;
        let id = self.commands.ids.next(now.0, self.number);
        let (topic, text, reply_topic) = (command::topic(&vin, name), id.text(), command::reply_topic(&vin, name));
        let address = (Some(reply_topic.as_str()), Some(text.as_str().as_bytes()));
        let properties = rebuilt(request.forwarded, address, |name| Wishes::has(name.as_bytes()), &[]);
        let request_id = command::request_id(payload);
        let terms = TermsRecord {
            id,
            by: request.by.clone(),
            address: request.address(),
            key: request.wishes.key,
            request_id: request_id.as_deref(),
        };
        let is_sent = self.is_vehicle_here(&vin, &topic, id);
        let mut publication = Publication::plain(&topic, payload, QoS::AtLeastOnce);
        publication.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap_or_default();
        publication.expires_at = Some(deadline);
        publication.provenance = self.origin_of_request(now, request.by);
        publication.command = Some(id);
        publication.step = Step::Requested(&terms, is_sent);
        let (at, state) = if is_sent {
            (self.route_command(now, &mut publication, request.origin), State::Sent)
        } else {
            (self.record_step(now, &publication, request.origin), State::Waiting(publication.keep()))
        };
        let command = Command {
            as_of: at,
            vin,
            name: name.into(),
            by: request.by.clone(),
            requested_at: now,
            deadline,
            address: terms.address.into(),
            key: request.wishes.key.map(Into::into),
            fingerprint: request.wishes.key.map_or(0, |_| fingerprint(name, payload)),
            request_id: request_id.map(Into::into),
            state,
        };
        self.keep_command(id, command);
        (id, taken(at))
    }

    /// Whose message a vehicle's command is, for those who are told.
    fn origin_of_request(&self, now: Millis, by: &Principal) -> Option<Provenance> {
        self.limits.stamps_origin.then(|| Provenance { by: by.clone(), at: now, sequence: 0 })
    }

    /// Whether there is a command with the key of a request.
    pub(super) fn is_known(&self, request: &Request<'_>) -> bool {
        request.wishes.key.is_some_and(|key| self.commands.with_key(request.by, &request.vin, key).is_some())
    }

    /// Whether a request with the key of a command is that command again.
    fn is_same(&self, id: CommandId, request: &Request<'_>) -> bool {
        self.commands.get(id).is_some_and(|command| command.fingerprint == fingerprint(request.name, request.payload))
    }

    /// A request comes again: it is told what became of the command, or will be in place of the one before.
    fn on_retry(&mut self, now: Millis, id: CommandId, request: &Request<'_>) -> Routed {
        self.counters.commands_retried += 1;
        if request.is_asked_for {
            // The answer says how far it is. Whoever is told by a message was told, or will be.
            return taken(self.commands.get(id).map_or(Lsn(0), |command| command.as_of));
        }
        self.changed.command(id);
        let address = request.address();
        if self.commands.is_over(id) {
            return taken(self.tell_again(now, id, &address.into(), request.origin));
        }
        let at = self.record_retried(now, id, address, request.origin);
        self.commands.readdress(id, at, address.into());
        taken(at)
    }

    /// A request ends before it begins. What its acknowledgement says is not kept, and it may come again; what is told otherwise is what became of
    /// it, also of its retries.
    fn refuse_command(
        &mut self,
        now: Millis,
        request: &Request<'_>,
        refusal: &Refusal,
    ) -> Result<(CommandId, Routed), (ReasonCode, String)> {
        self.counters.commands_ended[refusal.outcome as usize] += 1;
        let reason = match refusal.outcome {
            Outcome::Conflict => ReasonCode::ImplementationSpecificError,
            _ => ReasonCode::QuotaExceeded,
        };
        // That it waited in vain, or would, is no refusal of its message.
        let is_refusal = !matches!(refusal.outcome, Outcome::TimedOut | Outcome::Offline | Outcome::Retired);
        if is_refusal && request.can_be_refused {
            return Err((reason, refusal.detail.clone()));
        }
        let id = self.commands.ids.next(now.0, self.number);
        let at = self.tell_refusal_of_command(now, id, request, refusal);
        Ok((id, taken(at)))
    }
}
