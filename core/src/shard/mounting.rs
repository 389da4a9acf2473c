//! What vehicles subscribe to: their own topics, their groups' and the fleet's, all by full names.
//!
//! Owns the subscriptions that follow from those a vehicle made, and keeps them in line with its groups. In the index, the log and
//! on other shards they are like any others. Which name stands for which is `fleet::mount`'s.

use std::collections::{BTreeMap, HashMap};

use causeway_fleet::{Groups, Mount, MountError, Vin, mount};
use causeway_protocol::{QoS, ReasonCode, SubscriptionOptions, check_topic_filter, parse_shared};

use super::subscribe::wants_retained;
use super::{Release, Shard};
use crate::handshake::{ConnectRequest, refusal_of_name};
use crate::index::Subscription;
use crate::retained::Due;
use crate::session::{Session, SessionKey};
use crate::{ConnectionId, Lsn, Millis};

impl Shard {
    /// Where the client's topics are, if it is a vehicle, and its groups.
    pub(super) fn mount_of(&self, id: ConnectionId) -> Option<(Mount, Groups)> {
        let connection = self.connection(id)?;
        Some((connection.mount()?, connection.identity.groups.clone()))
    }

    /// Likewise of a session, which may have no connection.
    fn mount_of_session(&self, key: SessionKey) -> Option<Mount> {
        self.sessions.get(key as usize).and_then(|session| Mount::of(&session.principal))
    }

    /// Whether a full filter is one of a vehicle that begins with a wildcard behind its mount.
    pub(super) fn is_wide(&self, key: SessionKey, filter: &str) -> bool {
        self.mount_of_session(key).is_some() && mount::is_wide(filter)
    }

    /// The retained messages a new subscription is due, unless there are more than `max`.
    pub(super) fn retained_matching(&self, now: Millis, key: SessionKey, filter: &str, max: usize) -> Option<Vec<Due>> {
        let mut due = self.retained.matching(now, filter, max)?;
        if self.is_wide(key, filter) {
            due.retain(|(message, _)| !mount::is_hidden(&message.topic));
        }
        Some(due)
    }

    /// A vehicle subscribes: what it says is for several full filters, which it gets all or none of.
    pub(super) fn subscribe_mounted(
        &mut self,
        now: Millis,
        id: ConnectionId,
        key: SessionKey,
        filter: &str,
        (mount, groups): (Mount, Groups),
        (options, mut subscription): (SubscriptionOptions, Subscription),
    ) -> Result<(Lsn, QoS), (ReasonCode, String)> {
        let refused = |error: MountError| (of_filter(error), error.to_string());
        let own = mount.own(filter).map_err(refused)?;
        let own = own.as_str();
        self.check_count(key, own)?;
        subscription.qos = subscription.qos.min(self.may_subscribe(id, own)?.qos_max);
        // Of its groups' and the fleet's, it gets what it may have.
        let mut filters = vec![(own.to_owned(), subscription.qos)];
        if parse_shared(filter).is_ok_and(|shared| shared.is_none()) {
            for full in mount::broadcasts(filter, &groups) {
                let qos = self.qos_of_broadcast(key, &groups, &full);
                filters.extend(qos.map(|qos| (full, qos.min(subscription.qos))));
            }
        }
        subscription.unretained = options.retain_handling == causeway_protocol::RetainHandling::Never;
        let existed = self.sessions[key as usize].subscriptions.get(own).is_some();
        let sends_retained = wants_retained(own, options, existed);
        let mut due = Vec::with_capacity(filters.len());
        let mut taken = 0;
        // Found before anything changes, so that a refusal leaves no trace.
        for (full, _) in &filters {
            due.push(if sends_retained { self.retained_due(now, key, full, taken)? } else { Vec::new() });
            taken += due.last().map_or(0, Vec::len);
        }
        let mut durable_at = Lsn(0);
        for ((full, qos), due) in filters.iter().zip(due) {
            let subscription = Subscription { qos: *qos, ..subscription };
            let at = self.subscribe_named(now, key, full, (subscription, sends_retained), due)?;
            durable_at = durable_at.max(at);
        }
        Ok((durable_at, subscription.qos))
    }

    /// A vehicle unsubscribes.
    pub(super) fn unsubscribe_mounted(
        &mut self,
        now: Millis,
        key: SessionKey,
        filter: &str,
        (mount, groups): (Mount, Groups),
    ) -> ReasonCode {
        if check_topic_filter(filter, self.limits.topic_levels_max).is_err() {
            return ReasonCode::TopicFilterInvalid;
        }
        let filters = match mount.subscribe(filter, &groups) {
            Ok(filters) => filters,
            Err(error) => return of_filter(error),
        };
        let removed: Vec<bool> = filters.iter().map(|full| self.unsubscribe_named(now, key, full)).collect();
        if removed.first() == Some(&true) { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted }
    }

    /// Vehicles are in other groups now: their sessions get what follows from that, whether they are connected or not.
    pub(super) fn regroup(&mut self, now: Millis, changed: &[(Vin, Groups)]) {
        // One look at all sessions, however many vehicles changed.
        let changed: HashMap<Vin, &Groups> = changed.iter().map(|(vin, groups)| (*vin, groups)).collect();
        for (_, connection) in &mut self.connections {
            if let Some(groups) = connection.identity.principal.vin().and_then(|vin| changed.get(vin)) {
                connection.identity.groups = (*groups).clone();
            }
        }
        let of_vehicle = |session: &Session| session.principal.vin().and_then(|vin| changed.get(vin)).copied();
        let concerned: Vec<(SessionKey, &Groups)> =
            self.sessions.iter().filter_map(|(key, session)| Some((key as SessionKey, of_vehicle(session)?))).collect();
        for (key, groups) in concerned {
            self.align_broadcasts(now, key, groups);
            // Roles may be those of a group.
            if let Some(id) = self.sessions.get(key as usize).and_then(|session| session.connection) {
                self.review(now, id);
            }
            let Some(epoch) = self.sessions.get(key as usize).map(|session| session.epoch) else { continue };
            let last = self.recorder.last();
            self.when_durable(now, last, Release::Session { session: key, epoch });
        }
    }

    /// What was told about the client's groups since the edge looked.
    pub(super) fn learn_groups(&self, request: &mut ConnectRequest) {
        let Some(vin) = request.identity.principal.vin() else { return };
        if let Some(groups) = self.groups_since(request.rights_as_of, vin) {
            request.identity.groups = groups;
        }
    }

    /// Makes the subscriptions of a vehicle's session to its groups' and the fleet's topics what they are to be.
    pub(super) fn align_broadcasts(&mut self, now: Millis, key: SessionKey, groups: &Groups) {
        let Some(mount) = self.mount_of_session(key) else { return };
        let Some(session) = self.sessions.get(key as usize) else { return };
        let mut wanted: BTreeMap<String, Subscription> = BTreeMap::new();
        let mut unwanted: Vec<Box<str>> = Vec::new();
        for (filter, subscription) in session.subscriptions.iter() {
            if let Some(said) = mount.said_alone(filter) {
                wanted.extend(mount::broadcasts(said, groups).map(|full| (full, subscription)));
            } else if mount::is_broadcast(filter) {
                unwanted.push(filter.into());
            }
        }
        let wanted: BTreeMap<String, Subscription> = wanted
            .into_iter()
            .filter_map(|(filter, of)| {
                let qos = self.qos_of_broadcast(key, groups, &filter)?.min(of.qos);
                Some((filter, Subscription { qos, ..of }))
            })
            .collect();
        unwanted.retain(|filter| !wanted.contains_key(&**filter));
        // In an order that does not depend on a table's.
        unwanted.sort_unstable();
        for filter in unwanted {
            self.unsubscribe_named(now, key, &filter);
        }
        for (filter, subscription) in wanted {
            let has = self.sessions.get(key as usize).and_then(|session| session.subscriptions.get(&filter));
            // Only what a policy lowered differs from what it follows from.
            if has.is_some_and(|has| has.qos <= subscription.qos) {
                continue;
            }
            let sends_retained = !subscription.unretained && has.is_none();
            // There is nobody to refuse: what is more than may wait is not sent, counted.
            let due = if sends_retained { self.retained_due(now, key, &filter, 0).ok() } else { None };
            let (sends_retained, due) = (due.is_some(), due.unwrap_or_default());
            // What its session has was valid when it was made.
            let _ = self.subscribe_named(now, key, &filter, (subscription, sends_retained), due);
        }
    }

    /// How many subscriptions the client made, without those that follow from them.
    pub(super) fn said_count(&self, key: SessionKey) -> usize {
        let Some(session) = self.sessions.get(key as usize) else { return 0 };
        match Mount::of(&session.principal) {
            None => session.subscriptions.len(),
            Some(_) => session.subscriptions.iter().filter(|(filter, _)| !mount::is_broadcast(filter)).count(),
        }
    }
}

/// What a vehicle is told that subscribes to what it can't.
fn of_filter(error: MountError) -> ReasonCode {
    match refusal_of_name(error) {
        ReasonCode::TopicNameInvalid => ReasonCode::TopicFilterInvalid,
        reason => reason,
    }
}
