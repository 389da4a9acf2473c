//! By what right a connection goes on, and how it loses it.
//!
//! Owns the end of a connection whose proof of identity ends, or is revoked while it is open. Who revokes, and why, is the edge's.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use causeway_fleet::policy::Policy;
use causeway_fleet::{Groups, Identity, Principal, Vin};
use causeway_protocol::ReasonCode;

use super::Shard;
use super::command::Bar;
use super::timers::Timer;
use crate::{ConnectRequest, ConnectionId, Millis};

/// So many notices are remembered for clients that were let in before them and come after them. Each is a few words.
const NOTICES_KEPT: usize = 1024;

/// What the rest of the broker tells a shard while it runs.
#[derive(Debug, Clone)]
pub enum Notice {
    /// Some connections have no right to go on.
    Revoke(Revocation),
    /// Vehicles are in these groups now.
    Groups(Vec<(Vin, Groups)>),
    /// This policy is in force.
    Policy(Arc<Policy>),
    /// Nobody is to wait for these vehicles, or may again: commands of them are over at once. Told at the start, too. Their connections are ended
    /// by a revocation.
    Bars(Vec<(Vin, Option<Bar>)>),
}

/// Which connections are to end, and what they are told.
#[derive(Clone)]
pub struct Revocation {
    /// Which.
    pub revoked: Revoked,
    /// What their clients are told.
    pub reason: ReasonCode,
    /// For clients and the log.
    pub why: Arc<str>,
    /// Whether their sessions end with them, with all that is queued; those without a connection, too. Only for a vehicle.
    pub ends_sessions: bool,
}

/// What lost its right.
#[derive(Clone)]
pub enum Revoked {
    /// All connections of a vehicle.
    Vehicle(Vin),
    /// All connections of somebody.
    Principal(Principal),
    /// All connections that were proven with one of these: see [`Identity::credential`].
    Credentials(Arc<HashSet<Arc<str>>>),
    /// All connections of which this says so.
    Whoever(Arc<dyn Fn(&Identity) -> bool + Send + Sync>),
}

impl Revoked {
    fn concerns(&self, identity: &Identity) -> bool {
        match self {
            Revoked::Vehicle(vin) => identity.principal.vin() == Some(vin),
            Revoked::Principal(principal) => identity.principal == *principal,
            Revoked::Credentials(credentials) => {
                identity.credential.as_ref().is_some_and(|credential| credentials.contains(credential))
            }
            Revoked::Whoever(concerns) => concerns(identity),
        }
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocation({})", self.why)
    }
}

/// The notices that a client may have missed which was let in before them: see [`crate::ConnectRequest::rights_as_of`].
#[derive(Debug, Default)]
pub(super) struct Noticed {
    /// With their numbers, oldest first.
    recent: VecDeque<(u64, Notice)>,
    /// The newest that is no longer among them.
    forgotten: u64,
}

impl Noticed {
    fn push(&mut self, number: u64, notice: Notice) {
        if self.recent.len() >= NOTICES_KEPT
            && let Some((forgotten, _)) = self.recent.pop_front()
        {
            self.forgotten = forgotten;
        }
        self.recent.push_back((number, notice));
    }

    fn since(&self, number: u64) -> impl Iterator<Item = &Notice> {
        self.recent.iter().rev().take_while(move |(of, _)| *of > number).map(|(_, notice)| notice)
    }
}

impl Shard {
    /// Takes what the rest of the broker tells. Notices are numbered from 1 in the order in which they are told.
    pub fn notice(&mut self, now: Millis, number: u64, notice: Notice) {
        match &notice {
            Notice::Revoke(revocation) => self.revoke(now, revocation),
            Notice::Groups(changed) => self.regroup(now, changed),
            Notice::Policy(policy) => self.change_policy(now, policy),
            // Nothing that a client which comes later may have missed.
            Notice::Bars(changed) => return self.bar(now, changed),
        }
        self.noticed.push(number, notice);
    }

    /// Whether what the edge has proven about a client still holds, when notices came since.
    pub(super) fn still_holds(&self, request: &ConnectRequest) -> Result<(), (ReasonCode, String)> {
        if request.rights_as_of < self.noticed.forgotten {
            return Err((ReasonCode::ServerBusy, "rights changed very often while the client connected".to_owned()));
        }
        for notice in self.noticed.since(request.rights_as_of) {
            match notice {
                Notice::Revoke(revocation) if revocation.revoked.concerns(&request.identity) => {
                    return Err((ReasonCode::NotAuthorized, revocation.why.to_string()));
                }
                // The policy in force is asked as a client comes.
                Notice::Revoke(_) | Notice::Groups(_) | Notice::Policy(_) | Notice::Bars(_) => {}
            }
        }
        Ok(())
    }

    /// The groups of a vehicle, if they were told since that notice.
    pub(super) fn groups_since(&self, number: u64, vin: &Vin) -> Option<Groups> {
        self.noticed.since(number).find_map(|notice| match notice {
            Notice::Groups(changed) => changed.iter().rev().find(|(of, _)| of == vin).map(|(_, groups)| groups.clone()),
            Notice::Revoke(_) | Notice::Policy(_) | Notice::Bars(_) => None,
        })
    }

    fn revoke(&mut self, now: Millis, revocation: &Revocation) {
        let concerned = |connection: &&crate::connection::Connection| {
            connection.session.is_some() && !connection.is_link() && revocation.revoked.concerns(&connection.identity)
        };
        let ids: Vec<ConnectionId> =
            self.connections.iter().map(|(_, connection)| connection).filter(concerned).map(|one| one.id).collect();
        for id in ids {
            self.disconnect(now, id, revocation.reason, &revocation.why);
        }
        self.retire_commands(now, &revocation.revoked, &revocation.why);
        if let (true, Revoked::Vehicle(vin)) = (revocation.ends_sessions, &revocation.revoked) {
            let of_vehicle = self.sessions.iter().filter(|(_, session)| session.principal.vin() == Some(vin));
            let keys: Vec<_> = of_vehicle.map(|(key, _)| key as crate::session::SessionKey).collect();
            keys.into_iter().for_each(|key| self.end_session(now, key));
        }
    }

    /// Notes when the right of a connection ends.
    pub(super) fn watch_authority(&mut self, id: ConnectionId) {
        if let Some(until) = self.connection(id).and_then(|connection| connection.identity.valid_until_ms) {
            self.timers.set(Millis(until), Timer::Authority(id));
        }
    }

    /// A connection is over, or its right ends at another time.
    pub(super) fn forget_authority(&mut self, id: ConnectionId) {
        if let Some(until) = self.connection(id).and_then(|connection| connection.identity.valid_until_ms) {
            self.timers.cancel(Millis(until), Timer::Authority(id));
        }
    }

    /// The client of an open connection proved again who it is.
    pub(super) fn extend_authority(&mut self, id: ConnectionId, identity: Identity) {
        self.forget_authority(id);
        if let Some(connection) = self.connection_mut(id) {
            connection.identity.credential = identity.credential;
            connection.identity.valid_until_ms = identity.valid_until_ms;
        }
        self.watch_authority(id);
    }

    pub(super) fn on_authority_ended(&mut self, now: Millis, id: ConnectionId) {
        self.disconnect(now, id, ReasonCode::NotAuthorized, "what proved the client's identity is no longer valid");
    }
}
