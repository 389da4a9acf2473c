//! Groups and their members over HTTP.
//!
//! Owns their JSON.

use serde::Deserialize;
use serde_json::{Value, json};

use super::vehicles::{self, vin, vins};
use super::{Answer, Call, Outcome, page_of};
use crate::registry::{Filter, Group};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
}

fn shown(group: &Group) -> Value {
    let Group { name, description, members, made_ms, changed_ms } = group;
    json!({
        "name": name,
        "description": description,
        "members": members,
        "made_at_ms": made_ms,
        "changed_at_ms": changed_ms,
    })
}

pub(super) fn list(call: &Call<'_>) -> Outcome {
    let (_, page) = call.paged(&[])?;
    page_of("groups", call.registry.groups(&page)?, shown)
}

pub(super) fn show(call: &Call<'_>) -> Outcome {
    Answer::ok(shown(&call.registry.group(call.name(0))?))
}

pub(super) fn put(call: &Call<'_>) -> Outcome {
    let description = call.body_or_default::<Described>()?.description.unwrap_or_default();
    let (group, is_new) = call.registry.put_group(call.name(0), &description, call.now_ms())?;
    Answer::with(if is_new { 201 } else { 200 }, shown(&group))
}

pub(super) fn remove(call: &Call<'_>) -> Outcome {
    call.registry.remove_group(call.name(0))?;
    Answer::done()
}

pub(super) fn members(call: &Call<'_>) -> Outcome {
    let (_, page) = call.paged(&[])?;
    let filter = Filter { state: None, group: Some(call.name(0).to_owned()) };
    page_of("vehicles", call.registry.vehicles(&filter, &page)?, vehicles::shown)
}

/// First those who go, then those who come; each of the two all together.
pub(super) fn change_members(call: &Call<'_>) -> Outcome {
    let Members { add, remove } = call.body()?;
    let (add, remove) = (vins(&add)?, vins(&remove)?);
    for (vins, belong) in [(&remove, false), (&add, true)] {
        if !vins.is_empty() {
            call.registry.set_members(call.name(0), vins, belong, call.now_ms())?;
        }
    }
    Answer::ok(shown(&call.registry.group(call.name(0))?))
}

pub(super) fn add_member(call: &Call<'_>) -> Outcome {
    call.registry.set_members(call.name(0), &[vin(call.name(1))?], true, call.now_ms())?;
    Answer::done()
}

pub(super) fn remove_member(call: &Call<'_>) -> Outcome {
    call.registry.set_members(call.name(0), &[vin(call.name(1))?], false, call.now_ms())?;
    Answer::done()
}
