//! Bans over HTTP.
//!
//! Owns their JSON.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Call, Outcome, Problem, page_of};
use crate::registry::{Ban, Subject};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    subject: String,
    /// None: for good.
    for_seconds: Option<u64>,
    #[serde(default)]
    why: String,
}

fn subject(text: &str) -> Result<Subject, Problem> {
    text.parse().map_err(|error: String| Problem::new(400, error))
}

fn shown(subject: &Subject, ban: &Ban) -> Value {
    json!({ "subject": subject.to_string(), "until_ms": ban.until_ms, "made_at_ms": ban.made_ms, "why": &*ban.why })
}

pub(super) fn list(call: &Call<'_>) -> Outcome {
    let (_, page) = call.paged(&[])?;
    page_of("bans", call.registry.bans(&page, call.now_ms())?, |(subject, ban)| shown(subject, ban))
}

pub(super) fn add(call: &Call<'_>) -> Outcome {
    let New { subject: text, for_seconds, why } = call.body()?;
    let subject = subject(&text)?;
    let until_ms = for_seconds.map(|seconds| call.now_ms().saturating_add(seconds.saturating_mul(1000)));
    let ban = call.registry.ban(&subject, until_ms, &why, call.now_ms())?;
    Answer::with(201, shown(&subject, &ban))
}

pub(super) fn show(call: &Call<'_>) -> Outcome {
    let subject = subject(call.name(0))?;
    match call.registry.is_banned(&subject, call.now_ms()) {
        Some(ban) => Answer::ok(shown(&subject, &ban)),
        None => Err(Problem::new(404, format!("there is no ban of {subject}"))),
    }
}

pub(super) fn remove(call: &Call<'_>) -> Outcome {
    call.registry.unban(&subject(call.name(0))?, call.now_ms())?;
    Answer::done()
}
