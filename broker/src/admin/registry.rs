//! What the listener does below `/v1`: between HTTP and [`super::api`], or [`super::live`].
//!
//! Owns the order: who asks, what for, and only then the body. What is changed is logged with who changed it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Told;
use super::api::{self, Answer, Does, Live, Needs, Problem, Route};
use super::asker::Asker;
use super::live::{self, Visit};
use crate::audit::{AuditEvent, Decision, What};
use crate::registry::now_ms;

/// A body has to be there by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn answer(
    State(told): State<Told>,
    ConnectInfo(asker): ConnectInfo<Asker>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    match ask(told, asker, parts, body).await {
        Ok(response) => response,
        Err(problem) => respond(problem.into_answer()),
    }
}

async fn ask(told: Told, asker: Asker, parts: Parts, body: Body) -> Result<Response, Problem> {
    let (path, method) = (parts.uri.path(), &parts.method);
    // Whoever may not look learns nothing of what there is.
    let found = api::route(method.as_str(), path);
    let needs = found.as_ref().map_or(Needs::Write, |(route, _)| route.needs);
    let what = found.as_ref().map_or(What::Registry, |(route, _)| what(route, path));
    let registry = told.source.registry();
    let operator = asker.operator(&told.config.identity, registry.as_deref());
    let caller = told.access.admit(&parts.headers, operator.as_deref(), needs).inspect_err(|_| {
        let detail = format!("{method} {path}");
        told.source.audit_log().record(AuditEvent::new(what, Decision::Deny, detail));
    })?;
    let (route, names) = found?;
    if let Some(live) = live(route, &parts) {
        asker.patience.begin();
        return live::answer(live, Visit { told, asker, parts: Arc::new(parts), caller, names }, body).await;
    }
    let audit = told.source.audit_log();
    let note_refusal = |problem: &Problem| {
        if needs == Needs::Write {
            let event = AuditEvent::new(what, Decision::Fail, format!("{method} {path}: {problem}"));
            audit.record(AuditEvent { who: caller.clone(), ..event });
        }
    };
    if is_change(method) {
        check_kind(&parts.headers).inspect_err(note_refusal)?;
    }
    // From here on it is somebody who may: the disk may take its time, and a long list on a thin line, too.
    asker.patience.begin();
    let registry = registry.ok_or_else(|| Problem::new(503, "the broker is starting or stopping"));
    let registry = registry.inspect_err(note_refusal)?;
    let body = read_body(body, api::BODY_BYTES_MAX).await.inspect_err(note_refusal)?;
    let (method, path) = (method.as_str().to_owned(), path.to_owned());
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let answered = tokio::task::spawn_blocking(move || {
        let request = api::Request { method: &method, path: &path, query: &query, body: &body, now_ms: now_ms() };
        let answer = api::handle(&registry, &request);
        if needs == Needs::Write {
            tracing::info!(target: "causeway::admin", caller, method, path, status = answer.status, "registry");
            let decision = if answer.status < 300 { Decision::Allow } else { Decision::Fail };
            let event = AuditEvent::new(what, decision, detail(&request, &answer));
            audit.record(AuditEvent { who: caller, ..event });
        }
        answer
    });
    let answered = answered.await.map_err(|_| Problem::new(500, "the thread that answered failed"))?;
    Ok(respond(answered))
}

/// All of a body, which has to be there in time.
pub(super) async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, bytes_max)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(Problem::new(413, format!("a body has {bytes_max} bytes at most"))),
        Err(_) => Err(Problem::new(408, "the body did not come in time")),
    }
}

/// Whether the shards of the broker answer.
fn live(route: &Route, parts: &Parts) -> Option<Live> {
    let is_question = |pair: &str| ["where", "fields", "cursor"].contains(&pair.split('=').next().unwrap_or_default());
    match route.does {
        Does::Live(live) => Some(live),
        Does::Registry(_) if (route.method, route.path) != ("GET", "/v1/vehicles") => None,
        // What is found by what vehicles report is no list of the registry's.
        Does::Registry(_) => parts.uri.query()?.split('&').any(is_question).then_some(Live::FindVehicles),
    }
}

fn what(route: &Route, path: &str) -> What {
    match route.does {
        Does::Live(Live::ChangeShadow | Live::DeleteShadow) => What::Shadow,
        Does::Live(Live::SendCommand) => What::Command,
        Does::Live(Live::MakeJob | Live::PauseJob | Live::ResumeJob | Live::CancelJob) => What::Job,
        _ if path.starts_with("/v1/bans") => What::Ban,
        _ if path.starts_with("/v1/credentials") => What::Revoke,
        _ => What::Registry,
    }
}

/// What was asked, and what came of it. Nothing in a request is a secret; an answer may hold one.
fn detail(request: &api::Request<'_>, answer: &Answer) -> String {
    let (method, path, body) = (request.method, request.path, String::from_utf8_lossy(request.body));
    format!("{method} {path} {} {body}", answer.status)
}

fn is_change(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// A page in a browser of this machine cannot send this type without being asked whether it may.
pub(super) fn check_kind(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    match kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        true => Ok(()),
        false => Err(Problem::new(415, "the Content-Type has to be application/json, with a body or without")),
    }
}

pub(super) fn respond(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let Some(body) = answer.body else { return status.into_response() };
    let kind = if answer.status < 400 { "application/json" } else { "application/problem+json" };
    let mut response = (status, [(header::CONTENT_TYPE, kind)], format!("{body}\n")).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response
}
