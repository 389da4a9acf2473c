//! What the registry changes, told to the shards.
//!
//! Owns the words of it, and that changes are told in their order. What is told is durable by then, and the registry answers with it.

use std::collections::HashSet;
use std::sync::Arc;

use causeway_core::{Identity, Notice, Principal, Revocation, Revoked};
use causeway_fleet::Vin;
use causeway_protocol::ReasonCode;
use tokio::sync::mpsc;

use super::Notices;
use crate::registry::{Ban, Changed, Registry, State, Subject};

/// Changes that wait to be told. Whoever makes more waits.
const WAITING_MAX: usize = 64;

/// From now on, all shards hear what the registry changes. Must be called within a tokio runtime.
pub(super) fn tell(registry: &Registry, notices: Notices) {
    let (sender, mut changes) = mpsc::channel::<Changed>(WAITING_MAX);
    tokio::spawn(async move {
        while let Some(changed) = changes.recv().await {
            for notice in notices_of(changed) {
                notices.tell(notice).await;
            }
        }
    });
    // Changes are made on threads that may wait. Nobody hears them when the broker has stopped.
    registry.subscribe(Box::new(move |changed| drop(sender.blocking_send(changed.clone()))));
}

fn notices_of(changed: Changed) -> Vec<Notice> {
    match changed {
        Changed::Groups(vehicles) => vec![Notice::Groups(vehicles)],
        Changed::Barred(vehicles) => barred(vehicles),
        Changed::Revoked(credentials) => {
            let revoked = Revoked::Credentials(Arc::new(credentials.into_iter().collect()));
            vec![revoke(revoked, "its credential is revoked", false)]
        }
        Changed::Banned(subject, ban) => banned(subject, &ban).into_iter().collect(),
    }
}

/// Of those who may come back, many are one notice. Nobody will ask for what waits for a retired vehicle: its session ends, too.
fn barred(vehicles: Vec<(Vin, Option<State>)>) -> Vec<Notice> {
    let (back, gone): (Vec<_>, Vec<_>) =
        vehicles.into_iter().partition(|(_, state)| !matches!(state, Some(State::Retired) | None));
    let mut notices: Vec<_> = gone
        .into_iter()
        .map(|(vin, state)| match state {
            Some(state) => revoke(Revoked::Vehicle(vin), &format!("vehicle {vin} is {state}"), true),
            None => revoke(Revoked::Vehicle(vin), &format!("vehicle {vin} is no longer in the registry"), true),
        })
        .collect();
    match back.as_slice() {
        [] => {}
        [(vin, state)] => {
            let state = state.map_or("barred", State::as_str);
            notices.push(revoke(Revoked::Vehicle(*vin), &format!("vehicle {vin} is {state}"), false));
        }
        _ => {
            let vins: HashSet<Vin> = back.into_iter().map(|(vin, _)| vin).collect();
            let concerns = move |identity: &Identity| identity.principal.vin().is_some_and(|vin| vins.contains(vin));
            notices.push(revoke(Revoked::Whoever(Arc::new(concerns)), "the vehicle is suspended", false));
        }
    }
    notices
}

/// Client identifiers and addresses are nobody's identity: their bans keep the next connection out.
fn banned(subject: Subject, ban: &Ban) -> Option<Notice> {
    let revoked = match &subject {
        Subject::Vehicle(vin) => Revoked::Vehicle(*vin),
        Subject::Service(name) => Revoked::Principal(Principal::service(name)),
        Subject::Operator(name) => Revoked::Principal(Principal::operator(name)),
        Subject::Client(_) | Subject::Address(_) => return None,
    };
    let why = ban.told(&subject);
    let reason = ReasonCode::AdministrativeAction;
    Some(Notice::Revoke(Revocation { revoked, reason, why: why.into(), ends_sessions: false }))
}

fn revoke(revoked: Revoked, why: &str, ends_sessions: bool) -> Notice {
    Notice::Revoke(Revocation { revoked, reason: ReasonCode::NotAuthorized, why: why.into(), ends_sessions })
}
