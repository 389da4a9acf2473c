//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! Owns the answer for each filter and the retained messages that follow. The index and the groups do the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_fleet::mount::MOUNT_LEVELS;
use causeway_protocol::{
    FilterError, Packet, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck,
    Unsubscribe, check_topic_filter, parse_shared,
};

use super::peers::of_options;
use super::{Release, Shard};
use crate::index::{Subscription, sends_retained};
use crate::queue::{Delivery, Expiry};
use crate::retained::Due;
use crate::session::{Identifiers, SessionKey};
use crate::{Bound, ConnectionId, Lsn, Millis};

/// The waiting retained messages of all sessions together are bounded by those of this many with a full share.
const BACKLOG_SESSIONS_FULL: usize = 4;

impl Shard {
    pub(super) fn on_subscribe(&mut self, now: Millis, id: ConnectionId, subscribe: &Subscribe<'_>) {
        if subscribe.subscription_identifier.is_some() && !self.limits.subscription_identifiers {
            self.counters.protocol_errors += 1;
            let reason = ReasonCode::SubscriptionIdentifiersNotSupported;
            self.disconnect(now, id, reason, "subscription identifiers are not on offer");
            return;
        }
        let Some((key, _)) = self.session_of(id) else {
            return;
        };
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut durable_at = Lsn(0);
        // Of a filter that stands there twice, the last one counts; only that one brings retained messages.
        let last: BTreeMap<&str, usize> =
            subscribe.filters.iter().enumerate().map(|(at, (filter, _))| (*filter, at)).collect();
        //= [MQTT-3.8.4-5] many filters are handled as if they came one by one
        for (at, &(filter, mut options)) in subscribe.filters.iter().enumerate() {
            if last.get(filter) != Some(&at) {
                options.retain_handling = RetainHandling::Never;
            }
            let mut subscription =
                Subscription::new(options, self.limits.maximum_qos, subscribe.subscription_identifier);
            if self.is_peer(id) {
                subscription = of_options(filter, options);
                self.note_wanted(id, filter);
                options.retain_handling = RetainHandling::Never;
            }
            match self.subscribe_one(now, id, key, filter, (options, subscription)) {
                Ok((at, qos)) => {
                    //= [MQTT-3.8.4-7] what is granted may be less than what was asked for
                    reasons.push(granted(qos));
                    durable_at = durable_at.max(at);
                }
                Err((reason, why)) => {
                    self.counters.subscriptions_refused += 1;
                    let detail = format!("{filter:?}: {why}");
                    self.tell_refusal(now, id, "refused subscription", reason, &detail);
                    reasons.push(reason);
                }
            }
        }
        //= [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-6] one SUBACK, same identifier, a reason for each filter in order
        let suback =
            SubAck { packet_id: subscribe.packet_id, reason_string: None, user_properties: Vec::new(), reasons };
        self.answer(now, id, key, Packet::SubAck(suback), durable_at);
        self.send_waiting(now, key);
    }

    /// Writes SUBACK or UNSUBACK once its records are durable, and then what the session is due.
    fn answer(&mut self, now: Millis, id: ConnectionId, key: SessionKey, packet: Packet<'_>, durable_at: Lsn) {
        let Some(connection) = self.connection(id) else { return };
        let bytes = connection.encoded(packet);
        if bytes.is_empty() {
            //= [MQTT-3.1.2-24] a client that can't be told what became of its subscriptions is told so
            let why = "the answer about its subscriptions is larger than the client's Maximum Packet Size";
            self.disconnect(now, id, ReasonCode::PacketTooLarge, why);
            return;
        }
        let Some(epoch) = self.sessions.get(key as usize).map(|session| session.epoch) else { return };
        let answers = [Release::Answer { connection: id, bytes }, Release::Session { session: key, epoch }];
        // A subscription that was acknowledged survives, so its record comes first; and who publishes elsewhere knows of it.
        self.when_known(now, id, durable_at, answers);
    }

    pub(super) fn on_unsubscribe(&mut self, now: Millis, id: ConnectionId, unsubscribe: &Unsubscribe<'_>) {
        let Some((key, _)) = self.session_of(id) else {
            return;
        };
        //= [MQTT-3.10.4-6] many filters are handled as if they came one by one
        let reasons = match self.unwanted(id, key, &unsubscribe.filters) {
            None => unsubscribe.filters.iter().map(|filter| self.unsubscribe_one(now, id, key, filter)).collect(),
            Some(unwanted) => {
                // The word for it is no filter of theirs, though a client may want just that.
                for filter in unwanted {
                    self.unsubscribe_named(now, key, &filter);
                }
                vec![ReasonCode::Success]
            }
        };
        let durable_at = if self.is_recorded(key) { self.recorder.last() } else { Lsn(0) };
        //= [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.11.3-1] one UNSUBACK, even where nothing was subscribed
        let unsuback =
            UnsubAck { packet_id: unsubscribe.packet_id, reason_string: None, user_properties: Vec::new(), reasons };
        self.answer(now, id, key, Packet::UnsubAck(unsuback), durable_at);
    }

    /// Makes or replaces one subscription, with the retained messages it is due; the record it is durable with, and its QoS.
    fn subscribe_one(
        &mut self,
        now: Millis,
        id: ConnectionId,
        key: SessionKey,
        filter: &str,
        (options, mut subscription): (SubscriptionOptions, Subscription),
    ) -> Result<(Lsn, QoS), (ReasonCode, String)> {
        self.check_filter(id, key, filter)?;
        if let Some(mounted) = self.mount_of(id) {
            return self.subscribe_mounted(now, id, key, filter, mounted, (options, subscription));
        }
        self.check_count(key, filter)?;
        subscription.qos = subscription.qos.min(self.may_subscribe(id, filter)?.qos_max);
        let before = self.sessions[key as usize].subscriptions.get(filter);
        if before == Some(subscription) && self.is_peer(id) {
            return Ok((self.recorder.last(), subscription.qos));
        }
        let existed = before.is_some();
        let sends_retained = wants_retained(filter, options, existed);
        // Found before anything changes, so that a refusal leaves no trace.
        let due = if sends_retained { self.retained_due(now, key, filter, 0)? } else { Vec::new() };
        let at = self.subscribe_named(now, key, filter, (subscription, sends_retained), due)?;
        Ok((at, subscription.qos))
    }

    /// Makes or replaces one subscription by its full filter; the record it is durable with.
    pub(super) fn subscribe_named(
        &mut self,
        now: Millis,
        key: SessionKey,
        filter: &str,
        (subscription, sends_retained): (Subscription, bool),
        due: Vec<Due>,
    ) -> Result<Lsn, (ReasonCode, String)> {
        self.insert_subscription(key, filter, subscription)
            .map_err(|error| (ReasonCode::TopicFilterInvalid, error.to_string()))?;
        let at = self.record_subscribed(now, key, filter, subscription, sends_retained);
        let at = if due.is_empty() { at } else { self.recorder.last() };
        self.queue_retained(key, due, subscription);
        // Like what is retained, what is wanted comes again for a client that subscribes again, unless it says that it should not.
        if sends_retained {
            self.owe_deltas(key, Some(filter));
        }
        Ok(at)
    }

    /// The retained messages that the filter matches, unless with `more` they are more than may wait for one session.
    pub(super) fn retained_due(
        &mut self,
        now: Millis,
        key: SessionKey,
        filter: &str,
        more: usize,
    ) -> Result<Vec<Due>, (ReasonCode, String)> {
        let waiting = self.sessions[key as usize].backlog.len() + more;
        let max = self.limits.retained_backlog_max;
        let room_of_all = max.saturating_mul(BACKLOG_SESSIONS_FULL).saturating_sub(self.backlog_messages + more);
        let room = max.saturating_sub(waiting).min(room_of_all);
        self.retained_matching(now, key, filter, room).ok_or_else(|| {
            self.counters.reached(Bound::RetainedBacklog);
            (ReasonCode::QuotaExceeded, "retained_backlog_max is reached".to_owned())
        })
    }

    /// Puts a subscription where messages find it; whether it existed.
    pub(super) fn insert_subscription(
        &mut self,
        key: SessionKey,
        filter: &str,
        subscription: Subscription,
    ) -> Result<bool, FilterError> {
        let shared = parse_shared(filter)?;
        let subscription = Subscription { wide: self.is_wide(key, filter), ..subscription };
        match shared {
            Some(shared) => {
                self.join_group(key, shared.share_name, shared.filter, subscription);
            }
            //= [MQTT-3.8.4-3] a subscription to the same filter replaces the older one
            None => {
                self.index.insert(filter, key, subscription);
            }
        }
        let subscriptions = &mut self.sessions[key as usize].subscriptions;
        let before = subscriptions.insert(filter, subscription, self.hash_seed);
        self.note_wish(key, filter, before, subscription);
        Ok(before.is_some())
    }

    fn check_filter(&mut self, id: ConnectionId, key: SessionKey, filter: &str) -> Result<(), (ReasonCode, String)> {
        let refuse = |reason, why: &str| Err((reason, why.to_owned()));
        // Another shard's wishes are its clients', whom it has refused or not.
        if self.storage_low && self.is_recorded(key) && !self.is_peer(id) {
            self.counters.reached(Bound::FreeSpace);
            return refuse(ReasonCode::QuotaExceeded, "the disk is nearly full");
        }
        let limits = Arc::clone(&self.limits);
        // What vehicles say there becomes longer.
        let mounted = if self.is_peer(id) { MOUNT_LEVELS } else { 0 };
        if let Err(error) = check_topic_filter(filter, limits.topic_levels_max + mounted) {
            if matches!(error, FilterError::TooManyLevels { .. }) {
                self.counters.reached(Bound::TopicLevels);
            }
            return Err((ReasonCode::TopicFilterInvalid, error.to_string()));
        }
        if filter.starts_with("$share/") && !limits.shared_subscriptions {
            return refuse(ReasonCode::SharedSubscriptionsNotSupported, "shared subscriptions are not on offer");
        }
        if filter.contains(['+', '#']) && !limits.wildcard_subscriptions {
            return refuse(ReasonCode::WildcardSubscriptionsNotSupported, "wildcards are not on offer");
        }
        Ok(())
    }

    /// Whether the session may have this subscription beside those it has.
    pub(super) fn check_count(&mut self, key: SessionKey, filter: &str) -> Result<(), (ReasonCode, String)> {
        let session = &self.sessions[key as usize];
        let is_new = !session.is_peer() && session.subscriptions.get(filter).is_none();
        let max = self.limits.subscriptions_per_session_max;
        if session.subscriptions.len() >= max && is_new && self.said_count(key) >= max {
            self.counters.reached(Bound::SubscriptionsPerSession);
            return Err((ReasonCode::QuotaExceeded, "subscriptions_per_session_max is reached".to_owned()));
        }
        Ok(())
    }

    fn unsubscribe_one(&mut self, now: Millis, id: ConnectionId, key: SessionKey, filter: &str) -> ReasonCode {
        if let Some(mounted) = self.mount_of(id) {
            return self.unsubscribe_mounted(now, key, filter, mounted);
        }
        if self.unsubscribe_named(now, key, filter) {
            return ReasonCode::Success;
        }
        match check_topic_filter(filter, self.limits.topic_levels_max) {
            Ok(()) => ReasonCode::NoSubscriptionExisted,
            Err(_) => ReasonCode::TopicFilterInvalid,
        }
    }

    /// Ends one subscription by its full filter; whether there was one.
    pub(super) fn unsubscribe_named(&mut self, now: Millis, key: SessionKey, filter: &str) -> bool {
        //= [MQTT-3.10.4-1] filters are compared character by character
        let session = self.sessions.get_mut(key as usize);
        let Some(subscription) = session.and_then(|session| session.subscriptions.remove(filter)) else {
            return false;
        };
        //= [MQTT-3.10.4-2] nothing new is delivered from here on
        self.record_unsubscribed(now, key, filter);
        self.drop_subscription(now, key, (filter, subscription), false);
        true
    }

    /// Takes a subscription out of the index or its group. `ended`: the session is gone for good.
    pub(super) fn drop_subscription(
        &mut self,
        now: Millis,
        key: SessionKey,
        (filter, subscription): (&str, Subscription),
        ended: bool,
    ) {
        self.forget_wish(key, filter, subscription);
        match parse_shared(filter) {
            Ok(Some(shared)) => {
                let name = (shared.share_name.into(), shared.filter.into());
                if let Some(&group) = self.group_by_name.get(&name) {
                    self.leave_group(now, key, group, ended);
                }
            }
            Ok(None) => self.index.remove(filter, key),
            Err(_) => {}
        }
    }

    /// Notes the retained messages a new subscription is due. The pump sends them as the client keeps up.
    pub(super) fn queue_retained(&mut self, key: SessionKey, due: Vec<Due>, subscription: Subscription) {
        //= [MQTT-3.3.1-9] [MQTT-3.8.4-4] the newest retained message of each matching topic
        let due = due.into_iter().map(|(message, retained_at)| Delivery {
            lsn: Lsn(0),
            bytes: message.bytes() as u32,
            expires: Expiry::new(message.expires_at),
            qos: message.qos.min(subscription.qos),
            //= [MQTT-3.3.1-8] sent because of a subscription: retain is 1
            retain: true,
            identifiers: Some(subscription.identifier).filter(|id| *id != 0).into_iter().collect::<Identifiers>(),
            group: None,
            retained_at,
            message: Some(message),
        });
        let session = &mut self.sessions[key as usize];
        let before = session.backlog.len();
        session.backlog.extend(due);
        self.backlog_messages += session.backlog.len() - before;
        if session.backlog.len() > before {
            // Neither the subscription nor what it brings is told before it is durable.
            session.backlog_at = self.recorder.last();
        }
    }
}

/// Whether a granted subscription is sent retained messages; a shared one never is.
pub(super) fn wants_retained(filter: &str, options: SubscriptionOptions, existed: bool) -> bool {
    //= [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] retain handling 0, 1 and 2
    !filter.starts_with("$share/") && sends_retained(options.retain_handling, existed)
}

const fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
