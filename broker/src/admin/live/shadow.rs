//! Shadows over HTTP: read, merge, delete.
//!
//! Owns what stands in headers, and the status of each refusal. What a document may say is the shadow's business.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use causeway_core::{Answer, Ask, ShadowAsk, ShadowTold, ShadowWhat};
use causeway_fleet::shadow::{Format, Rejection, write};
use serde_json::json;

use super::super::api::Problem;
use super::super::registry::read_body;
use super::{Visit, words};
use crate::audit::What;

/// A document that is merged has fewer bytes, whatever the limit of a shadow is: this is for spaces and comments of programs.
const BODY_BYTES_MAX: usize = 1 << 20;
const JSON: &str = "application/json";
const CBOR: &str = "application/cbor";
/// A document says which members change, and how: it is a merge patch of the shadow.
const MERGE_PATCH: &str = "application/merge-patch+json";

pub(super) async fn list(visit: Visit) -> Result<Response, Problem> {
    visit.query(&[])?;
    let vin = visit.vin()?;
    match *super::in_time(visit.asks()?.of(&vin, Ask::Shadows(vin))).await? {
        Answer::Shadows(shadows) => {
            let shown = |(name, version)| json!({ "name": name, "version": version });
            let shadows: Vec<_> = shadows.into_iter().map(shown).collect();
            Ok(super::json(&json!({ "shadows": shadows })))
        }
        _ => Err(super::confused()),
    }
}

pub(super) async fn show(visit: Visit) -> Result<Response, Problem> {
    visit.query(&[])?;
    let told = ask(&visit, ShadowWhat::Get).await?;
    if words::has(&visit.parts.headers, told.version) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, words::etag(told.version))]).into_response());
    }
    document(&visit, told)
}

pub(super) async fn change(visit: Visit, body: Body) -> Result<Response, Problem> {
    let outcome = merge(&visit, body).await;
    let bytes = outcome.as_ref().map_or(0, |(_, bytes)| *bytes);
    let outcome = outcome.map(|(told, _)| told);
    record(&visit, &outcome, &format!(", {bytes} bytes"));
    document(&visit, outcome?)
}

/// Merges what somebody sent; with how many bytes that were.
async fn merge(visit: &Visit, body: Body) -> Result<(ShadowTold, usize), Problem> {
    let format = match words::media_type(&visit.parts.headers, header::CONTENT_TYPE).as_str() {
        JSON | MERGE_PATCH => Format::Json,
        CBOR => Format::Cbor,
        _ => return Err(Problem::new(415, format!("the Content-Type has to be {JSON}, {MERGE_PATCH} or {CBOR}"))),
    };
    // A name in the query would be meant for another shadow than this.
    visit.query(&[])?;
    let version = words::condition(&visit.parts.headers)?;
    let payload = read_body(body, BODY_BYTES_MAX).await?;
    let bytes = payload.len();
    Ok((ask(visit, ShadowWhat::Update { payload, format, version }).await?, bytes))
}

pub(super) async fn delete(visit: Visit) -> Result<Response, Problem> {
    let version = visit.query(&[]).and_then(|_| words::condition(&visit.parts.headers));
    let outcome = match version {
        Ok(version) => ask(&visit, ShadowWhat::Delete { version }).await,
        Err(problem) => Err(problem),
    };
    record(&visit, &outcome, "");
    let told = outcome?;
    Ok(([(header::CONTENT_TYPE, JSON)], told.document).into_response())
}

/// Notes who changed which shadow, and the version that came of it: what was changed is in the history, for as long as that is kept, and may be
/// about a person.
fn record(visit: &Visit, outcome: &Result<ShadowTold, Problem>, size: &str) {
    let made = outcome.as_ref().map_or_else(|_| String::new(), |told| format!(": version {}{size}", told.version));
    visit.record(What::Shadow, outcome, &format!("{} {}{made}", visit.parts.method, visit.parts.uri.path()));
}

async fn ask(visit: &Visit, what: ShadowWhat) -> Result<ShadowTold, Problem> {
    let (vin, name) = (visit.vin()?, visit.shadow_name()?.map(Into::into));
    let is_conditional = match &what {
        ShadowWhat::Get => false,
        ShadowWhat::Update { version, .. } | ShadowWhat::Delete { version } => version.is_some(),
    };
    let asked = ShadowAsk { vin, name, by: visit.principal(), what };
    match *super::in_time(visit.asks()?.of(&vin, Ask::Shadow(asked))).await? {
        Answer::Shadow(outcome) => outcome.map_err(|rejection| refused(&rejection, is_conditional)),
        _ => Err(super::confused()),
    }
}

/// The code is the shadow's, as it is over MQTT. Over HTTP, a condition that does not hold has a status of its own.
fn refused(rejection: &Rejection, is_conditional: bool) -> Problem {
    let status = if rejection.code == 409 && is_conditional { 412 } else { rejection.code };
    Problem::new(status, rejection.message.clone()).with("code", rejection.code)
}

/// The document as it is, in the form that whoever asks prefers.
fn document(visit: &Visit, told: ShadowTold) -> Result<Response, Problem> {
    let etag = words::etag(told.version);
    let wants_cbor = words::media_type(&visit.parts.headers, header::ACCEPT) == CBOR;
    let (kind, document) = match wants_cbor {
        false => (JSON, told.document),
        true => {
            let value = serde_json::from_slice(&told.document).map_err(|_| super::confused())?;
            (CBOR, write(&value, Format::Cbor))
        }
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::ETAG, etag.as_str()), (header::VARY, "accept")];
    Ok((headers, document).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_does_not_hold_is_told_as_that() {
        let conflict = Rejection { code: 409, message: "the version is 3".to_owned() };
        for (is_conditional, status) in [(false, 409), (true, 412)] {
            let answer = refused(&conflict, is_conditional).into_answer();
            let body = answer.body.unwrap_or_default();
            assert_eq!(
                (answer.status, &body["code"], &body["detail"]),
                (status, &409.into(), &"the version is 3".into())
            );
        }
    }
}
