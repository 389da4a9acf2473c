//! What connections may do, by the policy in force.
//!
//! Owns the policy, what was decided by it before, and what becomes of sessions when it changes. The decision is `fleet::policy`'s;
//! where it is asked is said in `publish`, `subscribe`, `connect` and `pump`.

use std::sync::Arc;

use causeway_fleet::calls::{self, What};
use causeway_fleet::policy::{Decision, DecisionCache, Policy, Rights, Roster, Subject};
use causeway_fleet::{Identity, Mount, mount};
use causeway_protocol::{QoS, ReasonCode, parse_shared};

use super::Shard;
use crate::connection::{Connection, KeptWill};
use crate::effect::EventLevel;
use crate::index::Subscription;
use crate::message::Message;
use crate::session::SessionKey;
use crate::{ConnectionId, Millis};

/// All that a client is told of a refusal: rules are nobody's business but the operator's.
pub(super) const NOT_AUTHORISED: &str = "not authorised";

/// The policy, and what is remembered of its decisions.
#[derive(Debug)]
pub(super) struct InForce {
    policy: Arc<Policy>,
    cache: DecisionCache,
    roster: Roster,
}

impl InForce {
    pub(super) fn open(hash_seed: u64) -> InForce {
        InForce { policy: Arc::new(Policy::open()), cache: DecisionCache::new(hash_seed), roster: Roster::default() }
    }

    fn change(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
        self.cache.clear();
        self.roster.clear();
    }

    /// The roles of somebody.
    pub(super) fn rights(&mut self, identity: &Identity) -> Rights {
        match self.policy.is_open() {
            true => Rights::default(),
            false => self.roster.rights(&self.policy, &identity.principal, &identity.groups),
        }
    }

    /// Whether a client may publish to a full name.
    ///
    /// # Errors
    /// Why not, for the log.
    pub(super) fn may_publish(
        &mut self,
        connection: &Connection,
        topic: &str,
        qos: QoS,
        retain: bool,
    ) -> Result<(), String> {
        let decision = self.cache.publish(&self.policy, connection.subject(), topic, qos as u8, retain);
        self.granted(decision).map(|_| ())
    }

    /// Whether a client may leave a will.
    ///
    /// # Errors
    /// Why not, for the log.
    fn may_leave(&self, connection: &Connection, will: &KeptWill) -> Result<(), String> {
        let (topic, qos) = (&will.message.topic, will.message.qos as u8);
        self.granted(self.policy.will(connection.subject(), topic, qos, will.message.retain)).map(|_| ())
    }

    /// Whether a client may be sent a message of this topic, where that is not known already.
    ///
    /// # Errors
    /// Why not, for the log.
    pub(super) fn may_receive(&mut self, connection: &Connection, topic: &str) -> Result<(), String> {
        let decision = self.cache.receive(&self.policy, connection.subject(), topic);
        self.granted(decision).map(|_| ())
    }

    /// At which QoS somebody may subscribe to a full filter, and whether all that matches it may be received.
    ///
    /// # Errors
    /// Why not, for the log.
    fn may_subscribe(&self, subject: Subject<'_>, filter: &str) -> Result<Granted, String> {
        if self.policy.is_open() {
            return Ok(Granted { qos_max: QoS::ExactlyOnce, receives_all: true });
        }
        let shared = parse_shared(filter).map_err(|error| error.to_string())?;
        let plain = shared.map_or(filter, |shared| shared.filter);
        let qos_max = self.granted(self.policy.subscribe(subject, plain, shared.is_some()))?;
        Ok(Granted { qos_max, receives_all: self.policy.receives_all(subject, plain) })
    }

    /// Whether a client may have a vehicle carry out a command with this topic.
    ///
    /// # Errors
    /// Why not, for the log.
    pub(super) fn may_command(&self, connection: &Connection, topic: &str) -> Result<(), String> {
        self.granted(self.policy.command(connection.subject(), topic)).map(|_| ())
    }

    /// Whether a client may have answers sent to a topic: whoever could subscribe to it.
    ///
    /// # Errors
    /// Why not, for the log.
    pub(super) fn may_be_answered(&self, connection: &Connection, topic: &str) -> Result<(), String> {
        self.may_subscribe(connection.subject(), topic).map(|_| ())
    }

    fn granted(&self, decision: Decision) -> Result<QoS, String> {
        match decision {
            Decision::Allow(grant) => Ok(QoS::from_bits(grant.qos_max).unwrap_or(QoS::ExactlyOnce)),
            Decision::Deny(denial) => Err(self.policy.why(denial)),
        }
    }
}

/// What a subscription may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    pub(super) qos_max: QoS,
    /// Whether no delivery because of it needs a look of its own.
    receives_all: bool,
}

impl Shard {
    /// The policy from now on. Before anything is connected: later changes are [`crate::Notice::Policy`].
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        self.in_force.change(policy);
    }

    /// Another policy: whoever is connected loses what is no longer allowed. Sessions without a connection are looked at when they
    /// have one again, and are sent nothing until then.
    pub(super) fn change_policy(&mut self, now: Millis, policy: &Arc<Policy>) {
        self.in_force.change(Arc::clone(policy));
        let clients = self.connections.iter().map(|(_, connection)| connection);
        let clients: Vec<ConnectionId> =
            clients.filter(|one| one.session.is_some() && !one.is_link()).map(|one| one.id).collect();
        for id in clients {
            self.review(now, id);
        }
    }

    /// The rights of an open connection are others: what its session may not have any more ends, and its client is told.
    pub(super) fn review(&mut self, now: Millis, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.index()).filter(|one| one.id == id) else { return };
        let Some(key) = connection.session else { return };
        connection.rights = self.in_force.rights(&connection.identity);
        let (identity, mount) = (connection.identity.clone(), connection.mount());
        let lost = self.reconcile(now, key, &identity);
        self.note_checks(id, key);
        if let Some(lost) = lost {
            let said = mount.and_then(|mount| mount.said(&lost).map(|said| said.into_owned())).unwrap_or(lost);
            let why = format!("{NOT_AUTHORISED} to subscribe to {said:?} any more");
            self.disconnect(now, id, ReasonCode::NotAuthorized, &why);
        }
    }

    /// Makes the subscriptions of a session what somebody may have. Returns the first that ended.
    pub(super) fn reconcile(&mut self, now: Millis, key: SessionKey, identity: &Identity) -> Option<String> {
        if self.in_force.policy.is_open() {
            return None;
        }
        let rights = self.in_force.rights(identity);
        let subject = Subject { principal: &identity.principal, groups: &identity.groups, rights: &rights };
        let session = self.sessions.get(key as usize)?;
        // What follows from others is brought in line with them below.
        let is_vehicle = Mount::of(&identity.principal).is_some();
        let own = session.subscriptions.iter().filter(|(filter, _)| !(is_vehicle && mount::is_broadcast(filter)));
        let mut decided: Vec<(String, Subscription, Result<Granted, String>)> = own
            .map(|(filter, subscription)| {
                (filter.to_owned(), subscription, self.in_force.may_subscribe(subject, filter))
            })
            .filter(|(_, subscription, granted)| {
                granted.as_ref().map_or(true, |granted| granted.qos_max < subscription.qos)
            })
            .collect();
        // In an order that does not depend on a table's.
        decided.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut lost = None;
        for (filter, subscription, granted) in decided {
            match granted {
                Ok(Granted { qos_max, .. }) => {
                    let subscription = Subscription { qos: qos_max, ..subscription };
                    // What its session has was valid when it was made.
                    let _ = self.subscribe_named(now, key, &filter, (subscription, false), Vec::new());
                }
                Err(why) => {
                    self.unsubscribe_named(now, key, &filter);
                    let detail = format!("{filter:?}: {why}");
                    self.session_event(EventLevel::Warn, key, "subscription ended: not authorised", &detail);
                    lost.get_or_insert(filter);
                }
            }
        }
        if is_vehicle {
            self.align_broadcasts(now, key, &identity.groups);
        }
        lost
    }

    /// At which QoS the session's client, of these rights, may subscribe to a full filter.
    ///
    /// # Errors
    /// Why not, for the log.
    pub(super) fn may_subscribe(&mut self, id: ConnectionId, filter: &str) -> Result<Granted, (ReasonCode, String)> {
        let denied = |why| (ReasonCode::NotAuthorized, why);
        let Some(connection) = self.connections.get_mut(id.index()).filter(|connection| connection.id == id) else {
            return Err(denied("not connected".to_owned()));
        };
        let granted = self.in_force.may_subscribe(connection.subject(), filter).map_err(denied)?;
        connection.checks_deliveries |= !granted.receives_all;
        Ok(granted)
    }

    /// Likewise of a vehicle's session, which may have no connection.
    pub(super) fn qos_of_broadcast(
        &mut self,
        key: SessionKey,
        groups: &causeway_fleet::Groups,
        filter: &str,
    ) -> Option<QoS> {
        if self.in_force.policy.is_open() {
            return Some(QoS::ExactlyOnce);
        }
        let session = self.sessions.get(key as usize)?;
        let identity = Identity { groups: groups.clone(), ..session.principal.clone().into() };
        let connection = session.connection;
        let rights = self.in_force.rights(&identity);
        let subject = Subject { principal: &identity.principal, groups, rights: &rights };
        let granted = self.in_force.may_subscribe(subject, filter).ok()?;
        if let Some(connection) = connection.and_then(|id| self.connection_mut(id)) {
            connection.checks_deliveries |= !granted.receives_all;
        }
        Some(granted.qos_max)
    }

    /// Whether a will that a client brings may be left.
    ///
    /// # Errors
    /// Why not, for the log.
    pub(super) fn may_leave_will(&self, id: ConnectionId) -> Result<(), String> {
        match self.connection(id).map(|connection| (connection, connection.will.as_deref())) {
            Some((connection, Some(will))) => {
                may_be_will(&will.message).map_err(|why| format!("will: {why}"))?;
                self.in_force.may_leave(connection, will).map_err(|why| format!("will: {why}"))
            }
            Some((_, None)) | None => Ok(()),
        }
    }

    /// A client begins with a session that may have been made under another policy: what it may not have any more ends.
    pub(super) fn admit_session(&mut self, now: Millis, id: ConnectionId, key: SessionKey) {
        if self.in_force.policy.is_open() {
            return;
        }
        let Some(identity) = self.connection(id).map(|connection| connection.identity.clone()) else { return };
        self.reconcile(now, key, &identity);
        self.note_checks(id, key);
    }

    /// Notes whether each delivery to a connection is to be looked at.
    fn note_checks(&mut self, id: ConnectionId, key: SessionKey) {
        let (Some(connection), Some(session)) = (self.connection(id), self.sessions.get(key as usize)) else { return };
        let subject = connection.subject();
        let receives_all =
            |filter: &str| self.in_force.may_subscribe(subject, filter).is_ok_and(|granted| granted.receives_all);
        // What it holds may be there because of what was allowed before.
        let checks = !self.in_force.policy.is_open()
            && (session.holds_messages() || !session.subscriptions.iter().all(|(filter, _)| receives_all(filter)));
        if let Some(connection) = self.connection_mut(id) {
            connection.checks_deliveries = checks;
        }
    }

    /// Whether the will of a connection that ends may still be left.
    pub(super) fn keeps_will(&mut self, id: ConnectionId) -> bool {
        let Err(why) = self.may_leave_will(id) else { return true };
        self.event(EventLevel::Warn, id, "will not left: not authorised", None, &why);
        false
    }

    /// Tells that a client was not sent a message, which is over for it.
    pub(super) fn refused_delivery(&mut self, now: Millis, id: ConnectionId, topic: &str, why: &str) {
        self.counters.dropped_unauthorized += 1;
        self.tell_refusal(now, id, "refused delivery", ReasonCode::NotAuthorized, &format!("{topic:?}: {why}"));
    }
}

/// Whether a message can be a will at all. Wills go out as any message, and what is asked of the broker is no message: nobody would carry it out, and
/// a vehicle would get a command that has no number and no outcome.
///
/// # Errors
/// Why not, for the log.
fn may_be_will(message: &Message) -> Result<(), &'static str> {
    if calls::is_of_group(&message.topic) && message.forwarded().response_topic().is_some() {
        return Err("a command is not requested by a will");
    }
    let Some(call) = calls::of(&message.topic) else { return Ok(()) };
    match call.what {
        What::Shadow(..) | What::Brokers => Err("shadows are not told by wills: $presence says who is gone"),
        What::Command(_) if call.vin().is_some() && message.forwarded().response_topic().is_some() => {
            Err("a command is not requested by a will")
        }
        What::Command(_) | What::Reply(_) => Ok(()),
    }
}
