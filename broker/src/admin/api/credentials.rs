//! Credentials over HTTP.
//!
//! Owns their JSON.

use serde::Deserialize;
use serde_json::{Value, json};

use super::vehicles::vin;
use super::{Answer, Call, Outcome, page_of};
use crate::registry::Credential;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    credentials: Vec<String>,
    #[serde(default)]
    why: String,
}

fn shown(credential: &Credential) -> Value {
    let Credential { name, principal, revoked, not_after_ms, made_ms, revoked_ms, why } = credential;
    json!({
        "credential": name,
        "principal": principal,
        "state": if *revoked { "revoked" } else { "active" },
        "not_after_ms": not_after_ms,
        "made_at_ms": made_ms,
        "revoked_at_ms": revoked_ms,
        "why": why,
    })
}

pub(super) fn list(call: &Call<'_>) -> Outcome {
    let (query, page) = call.paged(&["principal"])?;
    page_of("credentials", call.registry.credentials(query.get("principal"), &page)?, shown)
}

pub(super) fn of_vehicle(call: &Call<'_>) -> Outcome {
    let (_, page) = call.paged(&[])?;
    let principal = format!("vehicle:{}", vin(call.name(0))?);
    page_of("credentials", call.registry.credentials(Some(&principal), &page)?, shown)
}

pub(super) fn show(call: &Call<'_>) -> Outcome {
    Answer::ok(shown(&call.registry.credential(call.name(0))?))
}

pub(super) fn revoke(call: &Call<'_>) -> Outcome {
    let Revoke { credentials, why } = call.body()?;
    let names: Vec<_> = credentials.iter().map(String::as_str).collect();
    call.registry.revoke(&names, &why, call.now_ms())?;
    Answer::ok(json!({ "revoked": names.len() }))
}
