//! Calls: messages that the broker itself is asked something with.
//!
//! Owns whether a message is one, who may make it, and how it comes to the shard on which the vehicle lives. What is answered is said in
//! `shadow` and `command`. Which topics are calls is `fleet::calls`'.
//!
//! A call is authorised where it comes in. If the vehicle lives on another shard, that one is owed it like any message, and nobody else is: it is
//! recorded, sent over the link and acknowledged like any other.

use causeway_fleet::calls::{self, Call, What};
use causeway_fleet::{Principal, Vin, command, home_shard, mount};
use causeway_protocol::{ForwardedProperties, PacketId, Publish, QoS, ReasonCode};
use smallvec::SmallVec;

use super::Shard;
use super::deliver::{Origin, Routed};
use super::matching::Match;
use crate::connection::Connection;
use crate::message::{CopyFor, Publication};
use crate::provenance::{Provenance, without_claims};
use crate::session::SessionKey;
use crate::{Bound, ConnectionId, Millis, Overflow};

/// Who asks something with a message.
#[derive(Debug, Clone)]
pub(super) struct Requester {
    pub(super) principal: Principal,
    /// Whose message it is here, and the identifier by which it would be known if it came again: a replay is to know it, too.
    pub(super) session: Option<SessionKey>,
    pub(super) packet_id: Option<PacketId>,
}

impl Requester {
    pub(super) fn origin(&self) -> Origin {
        Origin::Client { session: self.session, packet_id: self.packet_id }
    }
}

impl Shard {
    /// Takes a message of this full topic, if it is a call.
    #[inline(never)]
    pub(super) fn accept_call(
        &mut self,
        now: Millis,
        id: ConnectionId,
        publish: &Publish<'_>,
        call: Call<'_>,
        (topic, forwarded): (&str, ForwardedProperties<'_>),
    ) -> Option<Result<Routed, (ReasonCode, String)>> {
        let is_peer = self.is_peer(id);
        match call.what {
            What::Command(_) if forwarded.response_topic().is_none() => return None,
            What::Reply(_) if !self.connection(id)?.identity.principal.vin().is_some_and(|vin| call.is_of(vin)) => {
                return None;
            }
            What::Reply(rest) => {
                let vin = call.vin()?;
                return self.accept_reply(now, id, publish, (vin, rest), (topic, forwarded)).map(Ok);
            }
            What::Shadow(..) | What::Command(_) | What::Brokers => {}
        }
        let vin = call.vin()?;
        let home = home_shard(vin.as_str(), u32::from(self.shards)) as u16;
        if is_peer && (home != self.number || call.what == What::Brokers) {
            // The broker's own word on another shard, for those who are subscribed here.
            return None;
        }
        let mut room = Vec::new();
        let (provenance, forwarded) = match is_peer {
            true => Provenance::of_link(forwarded),
            false => {
                let principal = self.connection(id)?.identity.principal.clone();
                if let Err(why) = self.may_call(id, publish.qos, &call, (topic, forwarded.response_topic())) {
                    self.counters.publish_refused_unauthorized += 1;
                    return Some(Err((ReasonCode::NotAuthorized, why)));
                }
                let by = Provenance { by: principal, at: now, sequence: 0 };
                (Some(by), without_claims(forwarded, &mut room))
            }
        };
        if let (What::Command(_), false) = (call.what, is_peer)
            && !self.has_room_for_outcomes(id)
        {
            self.counters.reached(Bound::SessionQueueMessages);
            self.counters.publish_refused_queue_full += 1;
            let why = "the requester's own queue is full: there is no room for what becomes of it";
            return Some(Err((ReasonCode::QuotaExceeded, why.to_owned())));
        }
        let principal = provenance.as_ref().map_or(Principal::Anonymous, |provenance| provenance.by.clone());
        let session = self.connection(id).and_then(|connection| connection.session);
        let packet_id = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce || is_peer);
        let mut publication = Publication::of_publish(now, publish, topic);
        (publication.provenance, publication.forwarded, publication.retain) = (provenance, forwarded, false);
        if home != self.number {
            (publication.copy, publication.stamp) = (CopyFor::Home, u64::from(home) + 1);
            return Some(self.route(now, &mut publication, Origin::Client { session, packet_id }));
        }
        let from = Requester { principal, session, packet_id };
        match call.what {
            What::Shadow(name, verb, names) => {
                Some(self.on_shadow_call(now, &from, (vin, name), (verb, names), &publication))
            }
            What::Command(name) => Some(self.on_command(now, &from, (vin, name), &publication)),
            What::Reply(_) => None,
            What::Brokers => Some(Err((ReasonCode::NotAuthorized, calls_are_the_brokers()))),
        }
    }

    /// Takes a message of a vehicle, if it is the reply to a command. The request gave the right to it.
    fn accept_reply(
        &mut self,
        now: Millis,
        id: ConnectionId,
        publish: &Publish<'_>,
        (vin, rest): (Vin, &str),
        (topic, forwarded): (&str, ForwardedProperties<'_>),
    ) -> Option<Routed> {
        let mut room = Vec::new();
        let session = self.connection(id).and_then(|connection| connection.session);
        let packet_id = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce);
        let mut publication = Publication::of_publish(now, publish, topic);
        publication.forwarded = without_claims(forwarded, &mut room);
        publication.provenance = Some(Provenance { by: Principal::Vehicle(vin), at: now, sequence: 0 });
        let from = Requester { principal: Principal::Vehicle(vin), session, packet_id };
        self.on_reply(now, &from, (vin, rest), &publication)
    }

    /// Whether what becomes of one more command could be queued for the client.
    pub(super) fn has_room_for_outcomes(&self, id: ConnectionId) -> bool {
        let key = self.connection(id).and_then(|connection| connection.session);
        let session = key.and_then(|key| self.sessions.get(key as usize));
        session.is_some_and(|session| session.overflow == Overflow::DropOldest || session.room(&self.limits, 1).is_ok())
    }

    /// Whether a client may make a call, and be answered where it wants.
    ///
    /// # Errors
    /// Why not, for the log.
    fn may_call(
        &mut self,
        id: ConnectionId,
        qos: QoS,
        call: &Call<'_>,
        (topic, response_topic): (&str, Option<&str>),
    ) -> Result<(), String> {
        let Some(connection) = self.connections.get(id.index()).filter(|connection| connection.id == id) else {
            return Err("not connected".to_owned());
        };
        if call.what == What::Brokers {
            return Err(calls_are_the_brokers());
        }
        self.in_force.may_publish(connection, &call.canonical(topic), qos, false)?;
        if let What::Command(_) = call.what {
            self.in_force.may_command(connection, topic)?;
        }
        match response_topic {
            // What a vehicle answers goes where its requester wanted.
            Some(response_topic) if !matches!(call.what, What::Reply(_)) => self.may_be_told_at(id, response_topic),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a client may have what becomes of its requests published there.
    ///
    /// # Errors
    /// Why not, for the log.
    pub(super) fn may_be_told_at(&mut self, id: ConnectionId, response_topic: &str) -> Result<(), String> {
        let connection = connection_of(&self.connections, id);
        // Where vehicles listen, whoever could only read would speak to them.
        if let Some(connection) = connection
            && command::is_heard_by_vehicles(response_topic)
        {
            self.in_force.may_publish(connection, response_topic, QoS::AtLeastOnce, false)?;
        }
        self.may_be_answered_at(connection, response_topic)
    }

    /// Whether the broker may publish an answer to a client there: only where that could read it, and nothing that the broker takes itself. Else it
    /// would publish for clients what they may not.
    ///
    /// # Errors
    /// Why not, for the log.
    fn may_be_answered_at(&self, connection: Option<&Connection>, topic: &str) -> Result<(), String> {
        if !command::takes_outcomes(topic) || mount::is_brokers(topic) || calls::of(topic).is_some() {
            return Err(format!("no answers are sent to {topic:?}"));
        }
        let connection = connection.ok_or_else(|| "not connected".to_owned())?;
        if let Some(vin) = connection.identity.principal.vin() {
            return match mount::is_of(vin, topic) {
                true => Ok(()),
                false => Err(format!("{topic:?} is not the vehicle's")),
            };
        }
        self.in_force.may_be_answered(connection, topic)
    }

    /// A call is for the shard on which its vehicle lives.
    pub(super) fn match_home(&mut self, publication: &Publication<'_>) {
        self.turn += 1;
        let home = publication.stamp.checked_sub(1).and_then(|home| u16::try_from(home).ok());
        let is_it = |key: &&SessionKey| {
            let session = self.sessions.get(**key as usize);
            session.is_some_and(|session| home.is_some_and(|home| session.principal == Principal::Shard(home)))
        };
        let Some(&session) = self.peer_sessions.iter().find(is_it) else { return };
        self.matches.push(Match {
            session,
            qos: QoS::ExactlyOnce,
            retain_as_published: false,
            fleeting: false,
            full: false,
            replicates: false,
            identifiers: SmallVec::new(),
        });
    }
}

fn connection_of(connections: &slab::Slab<Connection>, id: ConnectionId) -> Option<&Connection> {
    connections.get(id.index()).filter(|connection| connection.id == id)
}

fn calls_are_the_brokers() -> String {
    "what is below shadow/ is the broker's, but for state, get, update and delete".to_owned()
}
