//! Jobs over HTTP: made, listed, shown, paused, resumed, cancelled, and their results line by line.
//!
//! Owns the form of questions and answers. What a job does is [`Jobs`]'s business.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use causeway_fleet::shadow::{Format, read};
use serde_json::{Value, json};

use super::super::api::{BODY_BYTES_MAX, Problem};
use super::super::registry::{check_kind, read_body};
use super::Visit;
use super::body::Place;
use crate::audit::What;
use crate::jobs::{JobError, JobId, JobState, Jobs};
use crate::server::AskError;

/// Jobs of a page, where nobody says how many.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
const LINES: &str = "application/x-ndjson";
/// Pieces that wait for the connection of one reader.
const WAITING_MAX: usize = 2;

fn jobs(visit: &Visit) -> Result<Jobs, Problem> {
    visit.told.source.jobs().ok_or_else(|| super::unanswered(AskError::Ended))
}

pub(super) async fn make(visit: Visit, body: Body) -> Result<Response, Problem> {
    let outcome = make_of(&visit, body).await;
    let detail = outcome.as_ref().map_or_else(|_| String::new(), |made| format!(": {}", told(made)));
    visit.record(What::Job, &outcome, &format!("POST /v1/jobs{detail}"));
    Ok((axum::http::StatusCode::CREATED, super::json(&outcome?)).into_response())
}

async fn make_of(visit: &Visit, body: Body) -> Result<Value, Problem> {
    check_kind(&visit.parts.headers)?;
    visit.query(&[])?;
    let body = read_body(body, BODY_BYTES_MAX).await?;
    let wrong = |error: String| Problem::new(400, format!("the body: {error}"));
    // As shadows are read: no number loses digits, and no key comes twice.
    let spec = read(&body, Format::Json).map_err(|rejection| wrong(rejection.message))?;
    let spec = serde_json::from_value(spec).map_err(|error| wrong(error.to_string()))?;
    jobs(visit)?.make(spec, visit.principal().to_string()).await.map_err(refused)
}

/// What of a job stands in the audit log: what is wanted, and which vehicles it is for by their VINs, is in the job.
fn told(made: &Value) -> String {
    let id = made["id"].as_str().unwrap_or_default();
    let what = made["command"]["name"].as_str().map_or("desired".to_owned(), |name| format!("command {name}"));
    format!("{id}, {what}, for {}", made["target"])
}

pub(super) async fn list(visit: Visit) -> Result<Response, Problem> {
    let query = visit.query(&["limit", "cursor"])?;
    let limit = query.get("limit").map_or(Ok(PAGE_DEFAULT), |limit| {
        let number = limit.parse().ok().filter(|number| (1..=PAGE_MAX).contains(number));
        number.ok_or_else(|| Problem::new(400, format!("limit has to be a number from 1 to {PAGE_MAX}")))
    })?;
    let before = query.get("cursor").map(|text| text.parse::<JobId>());
    let before = before.transpose().map_err(|()| Problem::new(400, "cursor has to be what a page gave as next"))?;
    let listed = jobs(&visit)?.list(before, limit);
    let next = listed.last().filter(|_| listed.len() == limit).map(|last| last["id"].clone());
    let mut body = json!({ "jobs": listed });
    if let Some(next) = next {
        body["next"] = next;
    }
    Ok(super::json(&body))
}

pub(super) async fn show(visit: Visit) -> Result<Response, Problem> {
    visit.query(&[])?;
    Ok(super::json(&jobs(&visit)?.show(id(&visit)).map_err(refused)?))
}

pub(super) async fn set_state(visit: Visit, state: JobState) -> Result<Response, Problem> {
    let outcome = match check_kind(&visit.parts.headers).and_then(|()| jobs(&visit)) {
        Ok(jobs) => jobs.set_state(id(&visit), state).await.map_err(refused),
        Err(problem) => Err(problem),
    };
    visit.record(What::Job, &outcome, &format!("{} {}", visit.parts.method, visit.parts.uri.path()));
    Ok(super::json(&outcome?))
}

/// All results that there are by now, a line for each vehicle, and at the end a line of what there is altogether.
pub(super) async fn results(visit: Visit) -> Result<Response, Problem> {
    visit.query(&[])?;
    let (jobs, name) = (jobs(&visit)?, id(&visit).to_owned());
    // What does not go at all has a status.
    let mut page = jobs.results(&name, 0).await.map_err(refused)?;
    let (teller, body) = Place::take(&visit)?.begin(&visit, WAITING_MAX);
    tokio::spawn(async move {
        loop {
            let text: Vec<u8> = page.0.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
            if !text.is_empty() && teller.send(Ok(Bytes::from(text))).await.is_err() {
                return;
            }
            let Some(next) = page.1 else { break };
            match jobs.results(&name, next).await {
                Ok(next) => page = next,
                // The answer has begun: breaking it off is all that is left to say.
                Err(_) => return drop(teller.send(Err(std::io::ErrorKind::Other.into())).await),
            }
        }
        if let Ok(job) = jobs.show(&name) {
            let counts = ["state", "total", "done", "succeeded", "failed"];
            let counts: serde_json::Map<String, Value> =
                counts.iter().map(|name| ((*name).to_owned(), job[*name].clone())).collect();
            let _ = teller.send(Ok(Bytes::from(format!("{}\n", Value::Object(counts))))).await;
        }
    });
    Ok(([(header::CONTENT_TYPE, LINES)], body).into_response())
}

fn id(visit: &Visit) -> &str {
    visit.names.first().map_or("", String::as_str)
}

fn refused(error: JobError) -> Problem {
    match error {
        JobError::Registry(error) => error.into(),
        JobError::Invalid(_) => Problem::new(400, error.to_string()),
        JobError::Unknown(_) => Problem::new(404, error.to_string()),
        JobError::Over => Problem::new(409, error.to_string()),
        JobError::TooMany => Problem::new(429, error.to_string()),
        JobError::Stopping => Problem::new(503, error.to_string()),
        JobError::Store(_) => Problem::new(500, error.to_string()),
    }
}
