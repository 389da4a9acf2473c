//! What the registry changes, told to the shards.
//!
//! Owns the words of it, and that changes are told in their order. What is told is durable by then, and the registry answers with it.

use std::collections::HashSet;
use std::sync::Arc;

use causeway_core::{Bar, Identity, Millis, Notice, Principal, Revocation, Revoked};
use causeway_fleet::Vin;
use causeway_protocol::ReasonCode;
use tokio::sync::mpsc;

use super::Notices;
use crate::registry::{Ban, Changed, Registry, State, Subject, now_ms};

/// Changes that wait to be told. Whoever makes more waits.
const WAITING_MAX: usize = 64;
/// Vehicles that are told of in one notice at the start.
const BARS_AT_ONCE: usize = 10_000;

/// From now on, all shards hear what the registry changes. Must be called within a tokio runtime.
pub(super) fn tell(registry: &Arc<Registry>, notices: Notices) {
    let (sender, mut changes) = mpsc::channel::<Changed>(WAITING_MAX);
    // It is the registry that says when there are no more.
    let known = Arc::downgrade(registry);
    tokio::spawn(async move {
        while let Some(changed) = changes.recv().await {
            // Nobody waits for a vehicle whose connection ends: this goes first.
            let bars = known.upgrade().and_then(|registry| bars_of(&registry, concerned(&changed)));
            for notice in bars.into_iter().chain(notices_of(changed)) {
                notices.tell(notice).await;
            }
        }
    });
    // Changes are made on threads that may wait. Nobody hears them when the broker has stopped.
    registry.subscribe(Box::new(move |changed| drop(sender.blocking_send(changed.clone()))));
}

/// Tells all shards which vehicles are barred now.
pub(super) async fn tell_bars(registry: &Registry, notices: &Notices) {
    for vins in registry.barred(now_ms()).chunks(BARS_AT_ONCE) {
        if let Some(notice) = bars_of(registry, vins.to_vec()) {
            notices.tell(notice).await;
        }
    }
}

/// The vehicles that may be barred by a change, or not be any more.
fn concerned(changed: &Changed) -> Vec<Vin> {
    match changed {
        Changed::Barred(vehicles) => vehicles.iter().map(|(vin, _)| *vin).collect(),
        Changed::Unbarred(vins) => vins.clone(),
        Changed::Banned(Subject::Vehicle(vin), _) | Changed::Unbanned(Subject::Vehicle(vin)) => vec![*vin],
        Changed::Banned(..) | Changed::Unbanned(_) | Changed::Groups(_) | Changed::Revoked(_) => Vec::new(),
    }
}

/// What holds for them now, whatever was changed: what is changed later is told later.
fn bars_of(registry: &Registry, vins: Vec<Vin>) -> Option<Notice> {
    let now_ms = now_ms();
    let bars: Vec<_> = vins.into_iter().map(|vin| (vin, bar_of(registry, vin, now_ms))).collect();
    (!bars.is_empty()).then_some(Notice::Bars(bars))
}

fn bar_of(registry: &Registry, vin: Vin, now_ms: u64) -> Option<Bar> {
    match registry.standing(&vin).map(|standing| standing.state) {
        Some(State::Retired) => Some(Bar { why: "the vehicle is retired".into(), until: None }),
        Some(State::Suspended) => Some(Bar { why: "the vehicle is suspended".into(), until: None }),
        Some(State::Provisioned | State::Active) | None => {
            let subject = Subject::Vehicle(vin);
            let ban = registry.is_banned(&subject, now_ms)?;
            Some(Bar { why: ban.told(&subject).into(), until: ban.until_ms.map(Millis) })
        }
    }
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
        // Whoever may come back comes back.
        Changed::Unbarred(_) | Changed::Unbanned(_) => Vec::new(),
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
