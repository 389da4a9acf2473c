//! Vehicles over HTTP.
//!
//! Owns their JSON.

use causeway_fleet::{Groups, Vin};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Call, Outcome, Problem, page_of};
use crate::registry::{Filter, NewVehicle, Patch, State, Vehicle};

/// What a token is good for where nobody says: a day.
const TOKEN_SECONDS: u64 = 24 * 60 * 60;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    vin: String,
    state: Option<State>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    note: String,
}

/// Vehicles that are added together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Many {
    vehicles: Vec<New>,
    /// Those that are known stay as they are, instead of being an error.
    #[serde(default)]
    keep_known: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    state: Option<State>,
    groups: Option<Vec<String>>,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    vins: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lifetime {
    lifetime_seconds: Option<u64>,
}

pub(super) fn vin(text: &str) -> Result<Vin, Problem> {
    text.parse().map_err(|error| Problem::new(400, format!("{text:?}: {error}")))
}

pub(super) fn vins(texts: &[String]) -> Result<Vec<Vin>, Problem> {
    texts.iter().map(|text| vin(text)).collect()
}

fn groups(names: &[String]) -> Result<Groups, Problem> {
    Groups::new(names.iter().map(String::as_str)).map_err(|error| Problem::new(400, error.to_string()))
}

pub(super) fn shown(vehicle: &Vehicle) -> Value {
    let Vehicle { vin, state, groups, note, made_ms, changed_ms } = vehicle;
    json!({
        "vin": vin.as_str(),
        "state": state,
        "groups": groups.iter().collect::<Vec<_>>(),
        "note": note,
        "made_at_ms": made_ms,
        "changed_at_ms": changed_ms,
    })
}

pub(super) fn list(call: &Call<'_>) -> Outcome {
    let (query, page) = call.paged(&["state", "group"])?;
    let state = query.get("state").map(|state| state.parse::<State>().map_err(|error| Problem::new(400, error)));
    let filter = Filter { state: state.transpose()?, group: query.get("group").map(str::to_owned) };
    page_of("vehicles", call.registry.vehicles(&filter, &page)?, shown)
}

pub(super) fn add(call: &Call<'_>) -> Outcome {
    let new = |it: &New| {
        let (vin, state) = (vin(&it.vin)?, it.state.unwrap_or(State::Provisioned));
        Ok(NewVehicle { vin, state, groups: groups(&it.groups)?, note: it.note.clone() })
    };
    // One or many: which of them it is, the error is to be about.
    if call.body::<Value>()?.get("vehicles").is_none() {
        let one: NewVehicle = new(&call.body()?)?;
        call.registry.add(std::slice::from_ref(&one), false, call.now_ms())?;
        return Answer::with(201, shown(&call.registry.vehicle(&one.vin)?));
    }
    let Many { vehicles, keep_known } = call.body()?;
    let vehicles = vehicles.iter().map(new).collect::<Result<Vec<_>, Problem>>()?;
    let added = call.registry.add(&vehicles, keep_known, call.now_ms())?;
    Answer::with(201, json!({ "added": added.added, "known": added.known }))
}

pub(super) fn show(call: &Call<'_>) -> Outcome {
    let vin = vin(call.name(0))?;
    let mut body = shown(&call.registry.vehicle(&vin)?);
    if let Some(token) = call.registry.token(&vin)? {
        body["enrolment_token"] = json!({
            "made_at_ms": token.made_ms,
            "expires_at_ms": token.expires_ms,
            "used_at_ms": token.used_ms,
        });
    }
    Answer::ok(body)
}

pub(super) fn patch(call: &Call<'_>) -> Outcome {
    let Changes { state, groups: names, note } = call.body()?;
    let patch = Patch { state, groups: names.as_deref().map(groups).transpose()?, note };
    Answer::ok(shown(&call.registry.patch(&vin(call.name(0))?, &patch, call.now_ms())?))
}

pub(super) fn remove(call: &Call<'_>) -> Outcome {
    call.registry.remove(&vin(call.name(0))?)?;
    Answer::done()
}

fn set_one(call: &Call<'_>, state: State) -> Outcome {
    let vin = vin(call.name(0))?;
    call.registry.set_state(&[vin], state, call.now_ms())?;
    Answer::ok(shown(&call.registry.vehicle(&vin)?))
}

pub(super) fn activate(call: &Call<'_>) -> Outcome {
    set_one(call, State::Active)
}

pub(super) fn suspend(call: &Call<'_>) -> Outcome {
    set_one(call, State::Suspended)
}

pub(super) fn retire(call: &Call<'_>) -> Outcome {
    set_one(call, State::Retired)
}

fn set_all(call: &Call<'_>, state: State) -> Outcome {
    let named = vins(&call.body::<Named>()?.vins)?;
    call.registry.set_state(&named, state, call.now_ms())?;
    Answer::ok(json!({ "state": state, "vehicles": named.len() }))
}

pub(super) fn activate_all(call: &Call<'_>) -> Outcome {
    set_all(call, State::Active)
}

pub(super) fn suspend_all(call: &Call<'_>) -> Outcome {
    set_all(call, State::Suspended)
}

pub(super) fn retire_all(call: &Call<'_>) -> Outcome {
    set_all(call, State::Retired)
}

pub(super) fn token(call: &Call<'_>) -> Outcome {
    let seconds = call.body_or_default::<Lifetime>()?.lifetime_seconds.unwrap_or(TOKEN_SECONDS);
    let vin = vin(call.name(0))?;
    let issued = call.registry.issue_token(&vin, seconds.saturating_mul(1000), call.now_ms())?;
    Answer::with(201, json!({ "vin": vin.as_str(), "token": issued.token, "expires_at_ms": issued.expires_ms }))
}
