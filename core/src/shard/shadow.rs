//! The shadows of the vehicles that live here: what is wanted of each, and what it last said.
//!
//! Owns where they are kept, their records, and who is told what of a change. What a change does to a document is
//! `fleet::shadow`'s. What users may rely on is told in `docs/shadows.md`.
//!
//! A change is one record, with the messages about it behind it in the same group. Nobody is told of it before it is durable.

use std::collections::HashMap;

use causeway_fleet::calls::{self, Names, Told, Verb, told_on};
use causeway_fleet::shadow::{
    Change, Format, Rejection, Request, Section, Shadow, ShadowLimits, Transition, VERSION_KEPT_MS, Value, answer,
    write,
};
use causeway_fleet::{Principal, Vin};
use causeway_protocol::{ForwardedBuilder, ForwardedProperties, ProtocolVersion, QoS, ReasonCode, filter_matches};
use foldhash::fast::FixedState;

use super::calls::Requester;
use super::deliver::{Forms, Origin, Routed};
use super::presence::Late;
use super::timers::Timer;
use super::{Release, Shard};
use crate::folded::FoldedShadow;
use crate::message::Publication;
use crate::session::{Identifiers, SessionKey};
use crate::{Bound, Lsn, Millis};

/// A vehicle, and which of its shadows: the classic one has no name.
pub(super) type Whose<'n> = (Vin, Option<&'n str>);

/// What a payload in CBOR says that it is.
const CBOR: &str = "application/cbor";
const JSON: &str = "application/json";
/// Named shadows of a vehicle that may have been deleted within the time for which their versions are remembered, for each that it may have.
const DELETED_PER_NAMED: usize = 4;
/// By which a vehicle says, beside its state, how far it has handled what was wanted of it.
const HANDLED: &str = "delta";
const BOTH: [Names; 2] = [Names::Own, Names::Aws];

/// All shadows of a shard.
#[derive(Debug)]
pub(super) struct Shadows {
    of: HashMap<Vin, Vec<Kept>, FixedState>,
}

/// One shadow, as it is kept: a million of them lie in memory.
#[derive(Debug)]
pub(super) struct Kept {
    name: Option<Box<str>>,
    bytes: Box<[u8]>,
    /// The record of its last change.
    lsn: Lsn,
    /// When something in it expires, if anything does.
    expires_at: Option<Millis>,
    /// Whether anything is wanted of the vehicle.
    is_pending: bool,
    /// In which form the vehicle is told.
    format: Format,
}

impl Kept {
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn lsn(&self) -> Lsn {
        self.lsn
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    pub(super) fn as_folded(&self) -> FoldedShadow<'_> {
        FoldedShadow { lsn: self.lsn, format: self.format, bytes: &self.bytes }
    }

    /// What was encoded here, or restored, where damage was noticed.
    pub(super) fn shadow(&self) -> Shadow {
        Shadow::decode(&self.bytes).unwrap_or_default()
    }
}

impl Shadows {
    pub(super) fn new(hash_seed: u64) -> Shadows {
        Shadows { of: HashMap::with_hasher(FixedState::with_seed(hash_seed)) }
    }

    /// How many vehicles have any.
    pub(super) fn vehicles(&self) -> usize {
        self.of.len()
    }

    pub(super) fn of(&self, vin: &Vin) -> &[Kept] {
        self.of.get(vin).map_or(&[], Vec::as_slice)
    }

    pub(super) fn get(&self, (vin, name): Whose<'_>) -> Option<&Kept> {
        self.of(&vin).iter().find(|kept| kept.name() == name)
    }

    /// Whether the record at `at` is in it already.
    pub(super) fn knows(&self, whose: Whose<'_>, at: Lsn) -> bool {
        self.get(whose).is_some_and(|kept| kept.lsn >= at)
    }

    fn all(&self) -> impl Iterator<Item = (Vin, &Kept)> {
        self.of.iter().flat_map(|(vin, kept)| kept.iter().map(|kept| (*vin, kept)))
    }

    /// The names of all of them.
    pub(super) fn names(&self) -> Vec<(Vin, Option<Box<str>>)> {
        self.all().map(|(vin, kept)| (vin, kept.name.clone())).collect()
    }
}

/// What the acknowledgement of a request can say, beside the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acknowledged {
    /// Nothing: there is none, or it is another shard's, which has said already that the request is taken.
    Nothing,
    /// That the request was taken. Else the connection is closed without one, and the request stays the client's.
    Taken,
    /// Why not, too.
    WithReason,
}

/// A question, as its message has it.
struct Asked<'a> {
    whose: Whose<'a>,
    verb: Verb,
    names: Names,
    qos: QoS,
    format: Format,
    /// Where the answer goes, and with which correlation data, if not where answers go.
    response: Option<(&'a str, Option<&'a [u8]>)>,
}

impl Shard {
    /// Somebody asks something of a shadow with a message.
    ///
    /// # Errors
    /// It can't be asked now.
    pub(super) fn on_shadow_call(
        &mut self,
        now: Millis,
        from: &Requester,
        whose: Whose<'_>,
        (verb, names): (Verb, Names),
        publication: &Publication<'_>,
    ) -> Result<Routed, (ReasonCode, String)> {
        let acknowledged = self.tells_by_acknowledgement(from, publication.qos);
        if verb != Verb::Get
            && acknowledged != Acknowledged::Nothing
            && let Err(why) = self.room_for_changes()
        {
            return Err((ReasonCode::QuotaExceeded, why.to_owned()));
        }
        let forwarded = publication.forwarded;
        let response = forwarded.response_topic().map(|topic| (topic, forwarded.correlation_data()));
        let (qos, format) = (publication.qos.min(QoS::AtLeastOnce), format_of(forwarded));
        let asked = Asked { whose, verb, names, qos, format, response };
        let done = match verb {
            Verb::Get => self.get_shadow(now, &asked, publication.payload),
            Verb::State | Verb::Update => {
                let section = if verb == Verb::State { Section::Reported } else { Section::Whole };
                self.parse_update(publication.payload, format, section).and_then(|request| {
                    let request = match handled_of(forwarded).filter(|_| verb == Verb::State) {
                        Some(handled) => request.handled(handled),
                        None => request,
                    };
                    let token = request.client_token.clone();
                    self.update_shadow(now, from, &asked, &request).map_err(|rejection| (rejection, token))
                })
            }
            Verb::Delete => self.delete_shadow(now, from, &asked, publication.payload),
        };
        let durable_at = match done {
            Ok(durable_at) => durable_at,
            Err((rejection, token)) => {
                self.counters.shadow_rejections += 1;
                let after = self.shadows.get(whose).map_or(Lsn(0), Kept::lsn);
                let told = || answer::rejected(&rejection, now.0, token.as_deref());
                self.answer_shadow(now, &asked, verb.rejected(), after, told);
                if verb == Verb::State && acknowledged == Acknowledged::WithReason {
                    return Err((reason_of(rejection.code), rejection.message));
                }
                Lsn(0)
            }
        };
        if verb != Verb::Get {
            self.slow_down(from.session);
        }
        Ok(Routed { durable_at, matched: true })
    }

    /// What the acknowledgement of a request can say.
    fn tells_by_acknowledgement(&self, from: &Requester, qos: QoS) -> Acknowledged {
        let session = from.session.and_then(|key| self.sessions.get(key as usize)).filter(|session| !session.is_peer());
        let Some(session) = session.filter(|_| qos > QoS::AtMostOnce) else { return Acknowledged::Nothing };
        let open = session.connection.and_then(|id| self.connections.get(id.index()));
        match open.is_some_and(|open| open.version == ProtocolVersion::V5) {
            true => Acknowledged::WithReason,
            false => Acknowledged::Taken,
        }
    }

    /// Whether there is room for changes at all.
    ///
    /// # Errors
    /// Why not.
    fn room_for_changes(&mut self) -> Result<(), &'static str> {
        if self.storage_low {
            self.counters.reached(Bound::FreeSpace);
            self.counters.publish_refused_disk_full += 1;
            return Err("the disk is nearly full");
        }
        match self.has_room_for_history() {
            true => Ok(()),
            false => Err("the state cannot be folded, so no more history can be kept"),
        }
    }

    fn get_shadow(&mut self, now: Millis, asked: &Asked<'_>, payload: &[u8]) -> Result<Lsn, Refusal> {
        self.shadow_limits().check_payload(payload.len()).map_err(|rejection| (rejection, None))?;
        let token = Request::parse_token(payload, asked.format);
        let kept = self.shadows.get(asked.whose);
        let Some((shadow, after)) = kept.map(|kept| (kept.shadow(), kept.lsn)).filter(|(shadow, _)| shadow.exists())
        else {
            return Err((no_shadow(asked.whose), token));
        };
        let told = || answer::accepted_get(&shadow, now.0, token.as_deref());
        self.answer_shadow(now, asked, Told::GetAccepted, after, told);
        Ok(after)
    }

    fn update_shadow(
        &mut self,
        now: Millis,
        from: &Requester,
        asked: &Asked<'_>,
        request: &Request,
    ) -> Result<Lsn, Rejection> {
        self.check_shadow(now, asked.whose, request)?;
        // Only the vehicle says in which form it wants to be told.
        let is_vehicle = from.principal.vin() == Some(&asked.whose.0);
        let format = Some(asked.format).filter(|_| is_vehicle);
        let (transition, at) =
            self.change_shadow(now, asked.whose, (&from.principal, from.origin()), (format, request));
        // A state that the vehicle says is answered by its acknowledgement.
        if asked.verb != Verb::State {
            let told = || answer::accepted_update(&request.change, &transition, now.0, request.client_token.as_deref());
            self.answer_shadow(now, asked, Told::UpdateAccepted, at, told);
        }
        Ok(self.recorder.last())
    }

    fn delete_shadow(
        &mut self,
        now: Millis,
        from: &Requester,
        asked: &Asked<'_>,
        payload: &[u8],
    ) -> Result<Lsn, Refusal> {
        self.shadow_limits().check_payload(payload.len()).map_err(|rejection| (rejection, None))?;
        let request = Request::parse_delete(payload, asked.format)?;
        let by = (&from.principal, from.origin());
        let (transition, at) = match self.check_shadow(now, asked.whose, &request) {
            Ok(()) => self.change_shadow(now, asked.whose, by, (None, &request)),
            Err(rejection) => return Err((rejection, request.client_token)),
        };
        let told = || answer::accepted_delete(transition.version, now.0, request.client_token.as_deref());
        self.answer_shadow(now, asked, Told::DeleteAccepted, at, told);
        Ok(self.recorder.last())
    }

    /// Whether a shadow may be changed so.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_shadow(&mut self, now: Millis, whose: Whose<'_>, request: &Request) -> Result<(), Rejection> {
        self.room_for_changes().map_err(|why| Rejection::new(507, why))?;
        let max = self.limits.shadow_vehicles_max;
        if self.shadows.vehicles() >= max && !request.change.is_delete() && self.shadows.of(&whose.0).is_empty() {
            self.counters.reached(Bound::ShadowVehicles);
            return Err(Rejection::new(413, format!("No more than {max} vehicles of a shard may have shadows")));
        }
        let kept = self.shadows.get(whose);
        if kept.is_none() && whose.1.is_some() {
            self.check_named(now, &whose.0)?;
        }
        if request.change.is_delete() && kept.is_none_or(|kept| !kept.shadow().exists()) {
            return Err(no_shadow(whose));
        }
        kept.map(Kept::shadow).unwrap_or_default().check(request, now.0, &self.shadow_limits())
    }

    /// Whether a vehicle may have one more named shadow. What was deleted is none, but it is remembered.
    fn check_named(&self, now: Millis, vin: &Vin) -> Result<(), Rejection> {
        let max = self.limits.shadows_named_max;
        let (mut named, mut remembered) = (0, 0);
        for shadow in self.shadows.of(vin).iter().filter(|kept| kept.name.is_some()).map(Kept::shadow) {
            named += usize::from(shadow.exists());
            let is_remembered = |at_ms| now.0.saturating_sub(at_ms) <= VERSION_KEPT_MS;
            remembered += usize::from(shadow.deleted_at().is_some_and(is_remembered));
        }
        if named >= max {
            return Err(Rejection::new(413, format!("A vehicle has at most {max} named shadows")));
        }
        if remembered >= max.saturating_mul(DELETED_PER_NAMED) {
            return Err(Rejection::new(
                413,
                "Too many named shadows of this vehicle were deleted in the last 48 hours",
            ));
        }
        Ok(())
    }

    /// Reads an update.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse_update(&self, payload: &[u8], format: Format, section: Section) -> Result<Request, Refusal> {
        self.shadow_limits().check_payload(payload.len()).map_err(|rejection| (rejection, None))?;
        Request::parse(payload, format, section)
    }

    fn shadow_limits(&self) -> ShadowLimits {
        let (state_bytes_max, depth_max) = (self.limits.shadow_state_bytes_max, self.limits.shadow_depth_max);
        ShadowLimits { state_bytes_max, depth_max, leaves_max: self.limits.shadow_leaves_max }
    }

    /// Changes a shadow, records it, and tells those who follow it. Returns what was done, and its record.
    pub(super) fn change_shadow(
        &mut self,
        now: Millis,
        whose: Whose<'_>,
        (by, origin): (&Principal, Origin),
        (format, request): (Option<Format>, &Request),
    ) -> (Transition, Lsn) {
        let kept = self.shadows.get(whose);
        let format = format.unwrap_or_else(|| kept.map_or(Format::Json, Kept::format));
        let documents = BOTH.map(|names| told_on(&whose.0, whose.1, Told::Documents, names));
        let before = documents.iter().any(|topic| self.is_followed(topic));
        let before = before.then(|| self.shadows.get(whose).map(Kept::shadow).unwrap_or_default());
        let at = self.record_shadow(now, whose, (by, origin), (format, &request.change.encode()));
        let transition = self.apply_shadow(now, at, whose, (by, format), &request.change);
        self.counters.shadow_updates += 1;
        self.tell_change(now, at, whose, &transition);
        if let Some(before) = before {
            let after = self.shadows.get(whose).map(Kept::shadow).unwrap_or_default();
            let told = answer::documents(&before, &after, &transition, now.0, request.client_token.as_deref());
            self.tell_all(now, whose, Told::Documents, (QoS::AtLeastOnce, Format::Json, at), || told.clone());
        }
        (transition, at)
    }

    /// What the record at `at` says becomes true.
    pub(super) fn apply_shadow(
        &mut self,
        now: Millis,
        at: Lsn,
        whose: Whose<'_>,
        (by, format): (&Principal, Format),
        change: &Change,
    ) -> Transition {
        let mut shadow = self.shadows.get(whose).map(Kept::shadow).unwrap_or_default();
        let transition = shadow.apply(now.0, change);
        self.keep_shadow(whose, &shadow, (at, format));
        self.note_transition((now, at), whose, by, &transition);
        transition
    }

    /// Puts a shadow where it is found, in place of what was there.
    pub(super) fn keep_shadow(&mut self, (vin, name): Whose<'_>, shadow: &Shadow, (lsn, format): (Lsn, Format)) {
        let (bytes, expires_at) = (shadow.encode().into_boxed_slice(), shadow.next_expiry().map(Millis));
        let kept = Kept { name: name.map(Into::into), bytes, lsn, expires_at, is_pending: shadow.is_pending(), format };
        let shadows = self.shadows.of.entry(vin).or_default();
        let timer = Timer::ShadowExpiry(vin, kept.name.clone());
        let before = match shadows.iter_mut().find(|other| other.name == kept.name) {
            Some(other) => std::mem::replace(other, kept).expires_at,
            None => {
                let gone =
                    name.is_some().then(|| forgettable(shadows, shadow.changed_at(), self.limits.shadows_named_max));
                if let Some(forgotten) = gone.flatten().map(|at| shadows.swap_remove(at)) {
                    self.changed.shadow(vin, forgotten.name());
                }
                // Most vehicles have one, and a million of them are kept: room for four would be most of what they take.
                shadows.reserve_exact(1);
                shadows.push(kept);
                None
            }
        };
        if before != expires_at {
            before.into_iter().for_each(|before| self.timers.cancel(before, timer.clone()));
            expires_at.into_iter().for_each(|at| self.timers.set(at, timer.clone()));
        }
        self.changed.shadow(vin, name);
        if name.is_none() {
            self.index_shadow(&vin, shadow);
        }
    }

    /// What was wanted of a vehicle for a time is wanted no longer.
    pub(super) fn on_shadow_expiry(&mut self, now: Millis, vin: Vin, name: Option<&str>) {
        let whose = (vin, name);
        let Some(shadow) = self.shadows.get(whose).map(Kept::shadow) else { return };
        if shadow.next_expiry().is_some_and(|at| at <= now.0) {
            let by = Principal::Shard(self.number);
            let request = Request { change: Change::expire(), ..Request::delete(None, None, Format::Json) };
            self.change_shadow(now, whose, (&by, Origin::Broker), (None, &request));
        }
    }

    /// Tells those who follow a shadow what became of it.
    fn tell_change(&mut self, now: Millis, at: Lsn, whose: Whose<'_>, transition: &Transition) {
        if let Some(expired) = answer::expired(transition, now.0) {
            self.tell_all(now, whose, Told::Expired, (QoS::AtLeastOnce, Format::Json, at), || expired.clone());
        }
        if transition.delta.is_some() {
            let format = self.shadows.get(whose).map_or(Format::Json, Kept::format);
            let delta = self.shadows.get(whose).and_then(|kept| kept.shadow().delta(now.0));
            if let Some((_, delta)) = delta {
                self.tell_all(now, whose, Told::Delta, (QoS::AtMostOnce, format, at), || delta.clone());
            }
        }
    }

    /// Whether anybody has subscribed to a topic.
    fn is_followed(&mut self, topic: &str) -> bool {
        self.collect_matches_of(&Publication::plain(topic, b"", QoS::AtMostOnce), Origin::Service { after: Lsn(0) });
        let found = !self.matches.is_empty() || !self.matched_groups.is_empty();
        self.matches.clear();
        self.matched_groups.clear();
        found
    }

    /// Publishes something about a shadow under both its names, where anybody is subscribed.
    fn tell_all(
        &mut self,
        now: Millis,
        (vin, name): Whose<'_>,
        told: Told,
        (qos, format, after): (QoS, Format, Lsn),
        say: impl Fn() -> Value,
    ) {
        for names in BOTH {
            let topic = told_on(&vin, name, told, names);
            if self.is_followed(&topic) {
                self.publish_service(now, (&topic, None), (qos, format, after), &write(&say(), format));
            }
        }
    }

    /// Answers whoever asked: where they said, or where answers about the shadow go.
    fn answer_shadow(&mut self, now: Millis, asked: &Asked<'_>, told: Told, after: Lsn, say: impl Fn() -> Value) {
        let terms = (asked.qos, asked.format, after);
        if let Some((topic, correlation)) = asked.response {
            self.publish_service(now, (topic, correlation), terms, &write(&say(), asked.format));
            return;
        }
        let is_event = matches!(told, Told::UpdateAccepted | Told::DeleteAccepted);
        for names in BOTH.into_iter().filter(|names| is_event || *names == asked.names) {
            let topic = told_on(&asked.whose.0, asked.whose.1, told, names);
            if self.is_followed(&topic) {
                self.publish_service(now, (&topic, None), terms, &write(&say(), asked.format));
            }
        }
    }

    /// Publishes what the broker says itself about a vehicle, to be seen once a record is durable.
    pub(super) fn publish_service(
        &mut self,
        now: Millis,
        (topic, correlation): (&str, Option<&[u8]>),
        (qos, format, after): (QoS, Format, Lsn),
        payload: &[u8],
    ) {
        let mut properties = ForwardedBuilder::new().content_type(if format == Format::Cbor { CBOR } else { JSON });
        if let Some(correlation) = correlation {
            properties = properties.correlation_data(correlation);
        }
        // They are a few short words, and the requester's own: they fit where they came from.
        let properties = properties.build().unwrap_or_default();
        let mut publication = Publication::plain(topic, payload, qos);
        publication.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap_or_default();
        publication.provenance = self.own_origin(now);
        self.route_own(now, &mut publication, Origin::Service { after });
    }

    /// A vehicle's client is due what its shadows want of it: it came, or subscribed.
    pub(super) fn owe_deltas(&mut self, key: SessionKey, filter: Option<&str>) {
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        let Some(vin) = session.principal.vin() else { return };
        let is_told = |kept: &Kept| {
            let tells = |names| {
                filter.is_none_or(|filter| filter_matches(filter, &told_on(vin, kept.name(), Told::Delta, names)))
            };
            kept.is_pending && BOTH.into_iter().any(tells)
        };
        if self.shadows.of(vin).iter().any(is_told) {
            (session.is_due_deltas, session.deltas_passed) = (true, 0);
        }
    }

    /// Sends it, once there is room: one delta of each shadow, however much happened meanwhile.
    #[cold]
    pub(super) fn catch_up_with_deltas(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key as usize).filter(|session| session.is_due_deltas) else { return };
        let (Some(id), Some(vin)) = (session.connection, session.principal.vin().copied()) else { return };
        let Some(connection) = self.connections.get(id.index()) else { return };
        if !connection.takes_more(&self.limits) {
            return;
        }
        session.is_due_deltas = false;
        let (epoch, passed) = (session.epoch, usize::from(std::mem::take(&mut session.deltas_passed)));
        let (mut due, mut later) = (Vec::new(), None);
        let topics = self.shadows.of(&vin).iter().flat_map(|kept| BOTH.map(|names| (kept, names)));
        for (place, (kept, names)) in topics.enumerate().skip(passed).filter(|(_, (kept, _))| kept.is_pending) {
            let topic = told_on(&vin, kept.name(), Told::Delta, names);
            let Some(identifiers) = self.identifiers_for(key, &topic) else { continue };
            if kept.lsn > self.durable {
                later = later.max(Some(kept.lsn));
            } else if let Some((_, delta)) = kept.shadow().delta(now.0) {
                due.push((place, topic, identifiers, kept.format, write(&delta, kept.format)));
            }
        }
        if !due.is_empty() {
            // What it is told now is newer than what was about to be told.
            let durable = self.durable;
            let is_its = |late: &Late, session| session == key && calls::is_delta(&late.message.topic);
            let is_older =
                |release: &Release| matches!(release, Release::Late { session, late, .. } if is_its(late, *session));
            self.releases.retain(|(lsn, release)| *lsn > durable || !is_older(release));
        }
        for (place, topic, identifiers, format, payload) in due {
            if !self.connections.get(id.index()).is_some_and(|connection| connection.takes_more(&self.limits)) {
                // The rest when there is room again; what was told is not told again, or there never would be.
                let session = &mut self.sessions[key as usize];
                (session.is_due_deltas, session.deltas_passed) = (true, u16::try_from(place).unwrap_or(u16::MAX));
                break;
            }
            let properties = ForwardedBuilder::new().content_type(if format == Format::Cbor { CBOR } else { JSON });
            let properties = properties.build().unwrap_or_default();
            let mut publication = Publication::plain(&topic, &payload, QoS::AtMostOnce);
            publication.forwarded = ForwardedProperties::from_forwarded_bytes(&properties).unwrap_or_default();
            publication.provenance = self.own_origin(now);
            self.counters.shadow_deltas_again += 1;
            self.deliver_now(now, &mut publication, key, (false, &identifiers), &mut Forms::default());
        }
        if let Some(lsn) = later {
            // What changed just now is told when that is durable, unless the subscription came between.
            let session = &mut self.sessions[key as usize];
            (session.is_due_deltas, session.deltas_passed) = (true, 0);
            self.releases.push_back((lsn, Release::Session { session: key, epoch }));
        }
    }

    /// The identifiers of a session's subscriptions to a topic, if it has any to it.
    fn identifiers_for(&self, key: SessionKey, topic: &str) -> Option<Identifiers> {
        let subscriptions = self.sessions.get(key as usize)?.subscriptions.iter();
        let mut matching = subscriptions.filter(|(filter, _)| filter_matches(filter, topic)).peekable();
        matching.peek()?;
        Some(matching.map(|(_, subscription)| subscription.identifier).filter(|identifier| *identifier != 0).collect())
    }
}

/// How an acknowledgement says what a rejection says.
fn reason_of(code: u16) -> ReasonCode {
    match code {
        400 | 415 => ReasonCode::PayloadFormatInvalid,
        401 | 403 => ReasonCode::NotAuthorized,
        413 | 429 | 507 => ReasonCode::QuotaExceeded,
        _ => ReasonCode::ImplementationSpecificError,
    }
}

/// Of very many named shadows of a vehicle that were deleted, the one that was deleted first, if its version need not be known any more: when
/// another is made at `now_ms`, it is forgotten altogether.
fn forgettable(shadows: &[Kept], now_ms: u64, named_max: usize) -> Option<usize> {
    if shadows.len() <= named_max.saturating_mul(DELETED_PER_NAMED) {
        return None;
    }
    let deleted = |(at, kept): (usize, &Kept)| {
        kept.name.as_ref()?;
        kept.shadow().deleted_at().map(|deleted_ms| (deleted_ms, at))
    };
    let first = shadows.iter().enumerate().filter_map(deleted).min();
    first.filter(|(deleted_ms, _)| now_ms.saturating_sub(*deleted_ms) > VERSION_KEPT_MS).map(|(_, at)| at)
}

/// Why not, and the token of who asked.
type Refusal = (Rejection, Option<String>);

pub(super) fn no_shadow((vin, name): Whose<'_>) -> Rejection {
    Rejection::not_found(&name.map_or_else(|| vin.to_string(), |name| format!("{vin}~{name}")))
}

fn format_of(forwarded: ForwardedProperties<'_>) -> Format {
    if forwarded.is_empty() { Format::Json } else { Format::of(forwarded.content_type()) }
}

/// The delta that a vehicle says it has handled.
fn handled_of(forwarded: ForwardedProperties<'_>) -> Option<u64> {
    if forwarded.is_empty() {
        return None;
    }
    forwarded.user_properties().find(|(name, _)| *name == HANDLED).and_then(|(_, value)| value.parse().ok())
}
