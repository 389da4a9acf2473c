//! Which vehicles are connected, told on `$presence/{vin}`.
//!
//! Owns the events, their epochs, and what becomes of them when the broker crashes or a consumer misses some. It never decides who may
//! read them. What consumers may rely on is told in `docs/presence.md`.
//!
//! An event is a retained message of QoS 1, recorded together with what it tells about, and nobody is sent it before it is durable. So
//! whatever a consumer has seen is in the log, and the retained message is all that has to be known of a vehicle: an event that a crash
//! loses was seen by nobody, and its number may be given again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use causeway_fleet::{Vin, command};
use causeway_protocol::{ForwardedProperties, QoS, ReasonCode, filter_matches};
use foldhash::fast::FixedState;

use super::command::is_too_late;
use super::deliver::Origin;
use super::{Release, Shard};
use crate::effect::EventLevel;
use crate::message::{Message, Publication};
use crate::session::{Identifiers, SessionKey};
use crate::shared::GroupKey;
use crate::time::decimal;
use crate::{ConnectionId, Millis};

/// Where the events stand.
pub(crate) const PREFIX: &str = "$presence/";
/// The clock in an epoch stands above so many bits: room for as many events of one vehicle in a millisecond, and none is lost in a
/// double (53 bits) for two hundred years.
const EPOCH_BITS: u32 = 10;
/// Payload Format Indicator 1 (UTF-8), and Content Type.
const PROPERTIES: &[u8] = b"\x01\x01\x03\x00\x10application/json";

/// Whether the topic is one of these events'.
pub(crate) fn is_presence(topic: &str) -> bool {
    topic.starts_with(PREFIX)
}

/// How many clients of each vehicle are connected; those of none are not in it.
#[derive(Debug)]
pub(super) struct Presence {
    clients: HashMap<Vin, u32, FixedState>,
}

impl Presence {
    pub(super) fn new(hash_seed: u64) -> Presence {
        Presence { clients: HashMap::with_hasher(FixedState::with_seed(hash_seed)) }
    }
}

/// A message of QoS 0 that waits for its record. Others do by themselves.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) message: Arc<Message>,
    pub(super) retain: bool,
    pub(super) identifiers: Identifiers,
}

/// Why a connection is no longer there: one word for a program.
pub(super) fn why(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::SessionTakenOver => TAKEN_OVER,
        ReasonCode::KeepAliveTimeout => "keep-alive-timeout",
        ReasonCode::ServerShuttingDown => "broker-stopped",
        ReasonCode::NotAuthorized => "not-authorized",
        ReasonCode::AdministrativeAction => "administrative-action",
        _ => "closed-by-broker",
    }
}

/// The connection went because another one of the same client came.
const TAKEN_OVER: &str = "taken-over";

/// What the newest event of a vehicle says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    online: bool,
    epoch: u64,
}

impl Known {
    /// Reads an event of [`payload_of`], which always begins with the same fields.
    fn of(message: &Message) -> Option<Known> {
        let text = message.payload.strip_prefix(BEGINS)?.get(Vin::LENGTH..)?.strip_prefix(ONLINE)?;
        let online = text.first()? == &b't';
        let (_, epoch) = text.split_at_checked(if online { 4 } else { 5 })?;
        let digits = epoch.strip_prefix(EPOCH)?.iter().take_while(|byte| byte.is_ascii_digit());
        let epoch = digits.fold(0_u64, |epoch, digit| epoch.wrapping_mul(10) + u64::from(digit - b'0'));
        Some(Known { online, epoch })
    }
}

impl Shard {
    /// A client of a vehicle has a connection.
    pub(super) fn vehicle_came(&mut self, now: Millis, id: ConnectionId) {
        let Some((vin, client_id)) = self.vehicle_at(id) else { return };
        *self.presence.clients.entry(vin).or_insert(0) += 1;
        // Another of its clients was there before, or this one took its own connection over.
        if !self.known_presence(&vin).is_some_and(|known| known.online) {
            self.tell_presence(now, &vin, true, &client_id, "connected");
        }
    }

    /// It has it no longer.
    pub(super) fn vehicle_left(&mut self, now: Millis, id: ConnectionId, reason: &'static str) {
        let Some((vin, client_id)) = self.vehicle_at(id) else { return };
        let Some(clients) = self.presence.clients.get_mut(&vin) else { return };
        *clients -= 1;
        if *clients > 0 {
            return;
        }
        self.presence.clients.remove(&vin);
        // Whoever took over is connected with the next step.
        if reason != TAKEN_OVER && self.known_presence(&vin).is_some_and(|known| known.online) {
            self.tell_presence(now, &vin, false, &client_id, reason);
        }
    }

    /// The broker starts again: nobody is connected, whatever was told last. Each shard says so of the vehicles that live on it.
    pub(super) fn presence_recovered(&mut self, now: Millis) {
        let told = self.retained.matching(now, "$presence/+", usize::MAX).unwrap_or_default();
        for (message, _) in told {
            let is_own = message.stamp == 0 || message.stamp as u16 == self.number;
            let vin = message.topic.strip_prefix(PREFIX).and_then(|vin| vin.parse::<Vin>().ok());
            let Some((vin, known)) = vin.filter(|_| is_own).zip(Known::of(&message)) else { continue };
            if !self.limits.presence {
                // What nobody keeps true is not to stand there.
                self.publish_presence(now, &message.topic, b"");
            } else if known.online {
                self.tell_presence(now, &vin, false, vin.as_str(), "broker-restarted");
            }
        }
    }

    fn vehicle_at(&self, id: ConnectionId) -> Option<(Vin, Arc<str>)> {
        let connection = self.connection(id).filter(|_| self.limits.presence)?;
        connection.identity.principal.vin().map(|vin| (*vin, Arc::clone(&connection.client_id)))
    }

    fn known_presence(&self, vin: &Vin) -> Option<Known> {
        Known::of(self.retained.get(&topic_of(vin))?)
    }

    fn tell_presence(&mut self, now: Millis, vin: &Vin, online: bool, client_id: &str, reason: &str) {
        let topic = topic_of(vin);
        let last = self.retained.get(&topic).and_then(|told| Known::of(told)).map_or(0, |known| known.epoch);
        let epoch = (last + 1).max(now.0 << EPOCH_BITS);
        let payload = payload_of(now, vin, Known { online, epoch }, (client_id, reason));
        self.publish_presence(now, &topic, &payload);
    }

    fn publish_presence(&mut self, now: Millis, topic: &str, payload: &[u8]) {
        let mut publication = Publication::plain(topic, payload, QoS::AtLeastOnce);
        publication.forwarded = ForwardedProperties::from_forwarded_bytes(PROPERTIES).unwrap_or_default();
        publication.retain = true;
        publication.provenance = self.own_origin(now);
        self.route_own(now, &mut publication, Origin::Presence);
    }

    /// What waited for its record goes to a subscriber of QoS 0.
    pub(super) fn deliver_late(&mut self, now: Millis, key: SessionKey, late: &Late) {
        let who = self.sessions.get(key as usize).map(|session| &session.principal);
        if let (Some(who), Some(id)) = (who, late.message.command)
            && is_too_late(&self.commands, who, (&late.message, id), now)
        {
            self.counters.dropped_expired += 1;
            return;
        }
        let mut publication = Publication::of_message(&late.message);
        let terms = (late.retain, &*late.identifiers);
        self.deliver_now(now, &mut publication, key, terms, &mut super::deliver::Forms::default());
    }

    /// Likewise to one of a shared subscription.
    pub(super) fn deliver_late_to_group(&mut self, now: Millis, key: GroupKey, message: &Message) {
        let is_of_group = |filter| {
            let with_id = message.command.map(|id| command::topic_with_id(&message.topic, id));
            filter_matches(filter, &message.topic) || with_id.is_some_and(|topic| filter_matches(filter, &topic))
        };
        if self.groups.get(key).is_some_and(|group| is_of_group(&group.filter)) {
            self.give_one_now(now, &mut Publication::of_message(message), key);
        }
    }

    /// A session that had no room for some events is sent where all vehicles are, once it has room again: as if it subscribed anew.
    pub(super) fn catch_up_with_presence(&mut self, now: Millis, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key as usize).filter(|session| session.missed_presence) else {
            return;
        };
        if session.connection.is_none() || !session.has_drained(&self.limits) || !session.backlog.is_empty() {
            return;
        }
        session.missed_presence = false;
        let epoch = session.epoch;
        let filters = session.subscriptions.iter().filter(|(filter, _)| is_presence(filter));
        let filters: Vec<_> = filters.map(|(filter, subscription)| (Box::<str>::from(filter), subscription)).collect();
        for (filter, subscription) in filters {
            match self.retained_due(now, key, &filter, 0) {
                Ok(due) => {
                    self.record_subscribed(now, key, &filter, subscription, true);
                    self.queue_retained(key, due, subscription);
                }
                Err((_, why)) => {
                    self.session_event(EventLevel::Warn, key, "presence events are missing", &why);
                    self.sessions[key as usize].missed_presence = true;
                }
            }
        }
        self.changed.session(key);
        if self.sessions.get(key as usize).is_some_and(|session| !session.backlog.is_empty()) {
            let last = self.recorder.last();
            self.when_durable(now, last, Release::Session { session: key, epoch });
        }
    }
}

fn topic_of(vin: &Vin) -> String {
    [PREFIX, vin.as_str()].concat()
}

/// How an event begins, and what stands between its first fields.
const BEGINS: &[u8] = b"{\"vin\":\"";
const ONLINE: &[u8] = b"\",\"online\":";
const EPOCH: &[u8] = b",\"epoch\":";

/// An event. Put together by hand, and not by a formatter: it is done for each vehicle of a storm.
fn payload_of(now: Millis, vin: &Vin, known: Known, (client_id, reason): (&str, &str)) -> Vec<u8> {
    let mut room = [0; 20];
    let online: &[u8] = if known.online { b"true" } else { b"false" };
    let (at, client) = (now.rfc3339(), escaped(client_id));
    [
        BEGINS,
        vin.as_str().as_bytes(),
        ONLINE,
        online,
        EPOCH,
        decimal(known.epoch, &mut room).as_bytes(),
        b",\"at\":\"",
        at.as_str().as_bytes(),
        b"\",\"client\":\"",
        client.as_bytes(),
        b"\",\"reason\":\"",
        reason.as_bytes(),
        b"\"}",
    ]
    .concat()
}

/// A text as it stands between the quotation marks of JSON.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            control if control < ' ' => escaped.push_str(&format!("\\u{:04x}", control as u32)),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_read_again() {
        let message = |payload: &'static str| {
            Message::of_record(&crate::record::PublishRecord {
                payload: payload.as_bytes(),
                ..Message::removal("$presence/x", 0).as_record()
            })
        };
        let online =
            r#"{"vin":"1M8GDM9AXKP042788","online":true,"epoch":17,"at":"x","client":"y","reason":"connected"}"#;
        assert_eq!(Known::of(&message(online)), Some(Known { online: true, epoch: 17 }));
        assert_eq!(Known::of(&message("{}")), None);
    }

    #[test]
    fn a_text_in_json_ends_where_it_should() {
        assert_eq!(escaped("a/\"b\\\n\u{e9}"), "a/\\\"b\\\\\\u000a\u{e9}");
    }

    #[test]
    fn epochs_fit_a_double() {
        let year_2200 = 7_258_118_400_000_u64;
        assert!(year_2200 << EPOCH_BITS < 1 << 53);
    }
}
