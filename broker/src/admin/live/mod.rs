//! What the administration listener answers about the shadows and commands of a broker that runs.
//!
//! Owns the way from a request to a question to a vehicle's home, and back. It decides nothing about shadows and commands, and holds no
//! thread while it waits.

mod body;
mod command;
mod events;
mod fleet;
mod followed;
mod history;
mod jobs;
mod shadow;
mod words;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use causeway_core::{Principal, TwinEvent, Vin};
use serde_json::{Value, json};

pub(super) use body::STREAMS_MAX;

use super::Told;
use super::access::{Caller, THIS_MACHINE};
use super::api::{Live, Needs, Problem, Query};
use super::asker::Asker;
use crate::audit::{AuditEvent, Decision, What};
use crate::jobs::JobState;
use crate::server::{AskError, Asks};

/// A shard that says nothing for so long is not waited for: clients are not read then, either.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A request of somebody who may.
pub(super) struct Visit {
    pub(super) told: Told,
    pub(super) asker: Asker,
    pub(super) parts: Arc<Parts>,
    pub(super) caller: Caller,
    /// Those in the path.
    pub(super) names: Vec<String>,
}

/// Answers.
///
/// # Errors
/// What does not go.
pub(super) async fn answer(live: Live, visit: Visit, body: Body) -> Result<Response, Problem> {
    match live {
        Live::ShadowEvents | Live::FleetEvents => events::follow(visit).await,
        Live::ListShadows => shadow::list(visit).await,
        Live::ShowShadow => shadow::show(visit).await,
        Live::ChangeShadow => shadow::change(visit, body).await,
        Live::DeleteShadow => shadow::delete(visit).await,
        Live::FindVehicles => fleet::find(visit).await,
        Live::ShadowHistory => history::show(visit).await,
        Live::SendCommand => command::send(visit, body).await,
        Live::ShowCommand => command::show(visit).await,
        Live::MakeJob => jobs::make(visit, body).await,
        Live::ListJobs => jobs::list(visit).await,
        Live::ShowJob => jobs::show(visit).await,
        Live::PauseJob => jobs::set_state(visit, JobState::Paused).await,
        Live::ResumeJob => jobs::set_state(visit, JobState::Running).await,
        Live::CancelJob => jobs::set_state(visit, JobState::Cancelled).await,
        Live::JobResults => jobs::results(visit).await,
    }
}

impl Visit {
    fn asks(&self) -> Result<Asks, Problem> {
        self.told.source.asks().ok_or_else(|| unanswered(AskError::Ended))
    }

    fn vin(&self) -> Result<Vin, Problem> {
        let text = self.names.first().map_or("", String::as_str);
        text.parse().map_err(|error| Problem::new(400, format!("{text:?}: {error}")))
    }

    /// The name of a shadow or a command that stands there in the path.
    fn name(&self, index: usize) -> Result<&str, Problem> {
        let name = self.names.get(index).map_or("", String::as_str);
        match causeway_fleet::calls::is_name(name) {
            true => Ok(name),
            false => Err(no_name(name)),
        }
    }

    /// None: the classic one.
    fn shadow_name(&self) -> Result<Option<&str>, Problem> {
        if self.names.len() > 1 { self.name(1).map(Some) } else { Ok(None) }
    }

    fn query(&self, known: &[&str]) -> Result<Query, Problem> {
        Query::parse(self.parts.uri.query().unwrap_or_default(), known)
    }

    /// Who changes something, for the history. A token is an operator's, too.
    fn principal(&self) -> Principal {
        match self.caller.strip_prefix("operator:") {
            Some(name) => Principal::operator(name),
            None if self.caller == THIS_MACHINE => Principal::operator("localhost"),
            None => Principal::operator(&self.caller),
        }
    }

    /// Notes who changed something, or could not.
    fn record<T>(&self, what: What, outcome: &Result<T, Problem>, detail: &str) {
        let (decision, detail) = match outcome {
            Ok(_) => (Decision::Allow, detail.to_owned()),
            Err(problem) => (Decision::Fail, format!("{detail}: {problem}")),
        };
        let (caller, method, path) = (&self.caller, self.parts.method.as_str(), self.parts.uri.path());
        tracing::info!(target: "causeway::admin", caller, method, path, decision = decision.word(), "{}", what.word());
        let event = AuditEvent::new(what, decision, detail);
        self.told.source.audit_log().record(AuditEvent { who: self.caller.clone(), ..event });
    }

    /// Whether whoever reads a stream would still be let in.
    fn may_go_on(&self) -> bool {
        let registry = self.told.source.registry();
        let operator = self.asker.operator(&self.told.config.identity, registry.as_deref());
        self.told.access.admit(&self.parts.headers, operator.as_deref(), Needs::Read).is_ok()
    }
}

/// What a shard says, which is soon, unless it waits for the disk.
async fn in_time<T>(answer: impl Future<Output = Result<T, AskError>>) -> Result<T, Problem> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer.map_err(unanswered),
        Err(_) => Err(Problem::new(503, "there is no answer in time: what was asked may be done all the same")),
    }
}

/// A text that no shadow and no command can be called.
fn no_name(text: &str) -> Problem {
    Problem::new(400, format!("{text:?} is no name: 1 to 64 of A-Z a-z 0-9 : _ - ."))
}

/// Why a shard says nothing.
fn unanswered(error: AskError) -> Problem {
    Problem::new(503, error.to_string())
}

/// 200, with this.
fn json(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

/// A shard answers something else than it was asked: a bug.
fn confused() -> Problem {
    Problem::new(500, "the answer makes no sense")
}

/// An event as JSON: whose it is, and its entry of the history.
fn shown_event(event: &TwinEvent) -> Value {
    shown_entry(&event.vin, event.name.as_deref(), &event.entry)
}

/// An entry of a history, and whose it is.
fn shown_entry(vin: &Vin, name: Option<&str>, entry: &[u8]) -> Value {
    let mut shown = json!({ "vin": vin.as_str(), "name": name });
    if let (Some(shown), Ok(Value::Object(entry))) = (shown.as_object_mut(), serde_json::from_slice(entry)) {
        shown.extend(entry);
    }
    shown
}
