//! Commands over HTTP: sent, waited for, and asked about later.
//!
//! Owns the status of each outcome, and what stands in headers. That there is exactly one outcome is the home shard's business.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use causeway_core::{Answer, Ask, CommandAsk, CommandProgress, CommandTold, Vin};
use causeway_fleet::command::{CommandId, KEY_BYTES_MAX, Outcome};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::super::api::{Problem, encoded};
use super::super::registry::{read_body, respond};
use super::{Visit, words};
use crate::audit::What;
use crate::registry::State;

/// The longest that anybody waits for an outcome in one request.
const WAIT_MAX: Duration = Duration::from_secs(60);
const COMMAND: HeaderName = HeaderName::from_static("causeway-command");
const OUTCOME: HeaderName = HeaderName::from_static("causeway-outcome");
/// No outcome yet.
const PENDING: &str = "pending";

/// A command, as its home knows it. None: it does not.
type Known = Option<Box<CommandTold>>;

pub(super) async fn send(visit: Visit, body: Body) -> Result<Response, Problem> {
    let (asked, wait) = request(&visit, body).await.inspect_err(|problem| {
        let detail = format!("{} {}", visit.parts.method, visit.parts.uri.path());
        visit.record::<()>(What::Command, &Err(problem.clone()), &detail);
    })?;
    let detail = format!("{} to {} with {} bytes", asked.name, asked.vin, asked.payload.len());
    if let Some(why) = barred(&visit, &asked.vin) {
        let problem = refusal(Outcome::Retired, None, &asked.vin, &asked.name, &why);
        visit.record::<()>(What::Command, &Err(problem.clone()), &detail);
        return Ok(with_outcome(respond(problem.into_answer()), None, Outcome::Retired.word()));
    }
    let until = Instant::now() + wait;
    let home = visit.asks()?.home(&asked.vin);
    let sent = ask(&visit, home, Ask::Command(Box::new(asked))).await.and_then(|told| {
        told.ok_or_else(|| Problem::new(503, "the command is not known any more: outcomes are forgotten too soon"))
    });
    let detail = sent.as_ref().map_or(detail.clone(), |told| format!("{detail}: {}", told.id));
    visit.record(What::Command, &sent, &detail);
    let sent = sent?;
    let known = match sent.progress {
        CommandProgress::Ended { .. } => Some(sent),
        _ => outcome(&visit, home, sent.id, until).await?,
    };
    shown(known)
}

pub(super) async fn show(visit: Visit) -> Result<Response, Problem> {
    let query = visit.query(&["wait"])?;
    let until = Instant::now() + wait_of(query.get("wait"))?;
    let name = visit.names.first().map_or("", String::as_str);
    let id = CommandId::of_bytes(name.as_bytes());
    let id = id.ok_or_else(|| {
        Problem::new(400, format!("{name:?} is no command: they begin with c and have 13 characters"))
    })?;
    if u32::from(id.shard()) >= visit.asks()?.shards() {
        return shown(None);
    }
    shown(outcome(&visit, id.shard().into(), id, until).await?)
}

/// A command once it is over, or as it is by then.
async fn outcome(visit: &Visit, home: u32, id: CommandId, until: Instant) -> Result<Known, Problem> {
    let state = |when_over| Ask::CommandState { id, when_over };
    if until > Instant::now() {
        let asks = visit.asks()?;
        if let Ok(answer) = timeout_at(until, asks.at(home, state(true))).await {
            return known(*answer.map_err(super::unanswered)?);
        }
    }
    ask(visit, home, state(false)).await
}

async fn ask(visit: &Visit, home: u32, ask: Ask) -> Result<Known, Problem> {
    known(*super::in_time(visit.asks()?.at(home, ask)).await?)
}

fn known(answer: Answer) -> Result<Known, Problem> {
    match answer {
        Answer::Command(known) => Ok(known),
        Answer::NoRoom => {
            Err(Problem::new(507, "the disk is nearly full: nothing was requested, it may be asked for again"))
        }
        _ => Err(super::confused()),
    }
}

/// What is asked for, and how long whoever asks waits.
async fn request(visit: &Visit, body: Body) -> Result<(CommandAsk, Duration), Problem> {
    check_kind(&visit.parts.headers)?;
    let query = visit.query(&["wait", "deadline", "online"])?;
    let wait = wait_of(query.get("wait"))?;
    let deadline = query.get("deadline").map(|text| words::duration("deadline", text)).transpose()?;
    let is_now_or_never = match query.get("online") {
        None | Some("false") => false,
        Some("" | "true") => true,
        Some(_) => return Err(Problem::new(400, "online has to be true or false")),
    };
    let key = words::text(&visit.parts.headers, "idempotency-key");
    if key.is_some_and(|key| !(1..=KEY_BYTES_MAX).contains(&key.len())) {
        return Err(Problem::new(400, format!("an Idempotency-Key has 1 to {KEY_BYTES_MAX} bytes")));
    }
    let (vin, name) = (visit.vin()?, visit.name(1)?);
    let payload = read_body(body, visit.told.config.commands.payload_bytes_max).await?;
    let content_type = words::text(&visit.parts.headers, header::CONTENT_TYPE).map(Into::into);
    // A part of a second is a second.
    let seconds = deadline.map(|it| u32::try_from(it.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
    let asked = CommandAsk {
        vin,
        name: name.into(),
        by: visit.principal(),
        payload,
        content_type,
        expires_seconds: seconds,
        is_now_or_never,
        key: key.map(Into::into),
        address: None,
    };
    Ok((asked, wait))
}

/// Payloads are of any type; but what a page in a browser may send anywhere without being asked is no command.
fn check_kind(headers: &HeaderMap) -> Result<(), Problem> {
    const SENT_BY_FORMS: [&str; 4] = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    let kind = words::media_type(headers, header::CONTENT_TYPE);
    match headers.contains_key(header::ORIGIN) && SENT_BY_FORMS.contains(&kind.as_str()) {
        true => Err(Problem::new(415, "with an Origin, the Content-Type has to be one that no form has")),
        false => Ok(()),
    }
}

fn wait_of(text: Option<&str>) -> Result<Duration, Problem> {
    let wait = text.map_or(Ok(Duration::ZERO), |text| words::duration("wait", text))?;
    match wait <= WAIT_MAX {
        true => Ok(wait),
        false => Err(Problem::new(400, format!("wait is {} s at most: ask again", WAIT_MAX.as_secs()))),
    }
}

/// Why no vehicle of this state gets commands. Its home does not know, where nothing of it was pending.
fn barred(visit: &Visit, vin: &Vin) -> Option<String> {
    let standing = visit.told.source.registry()?.standing(vin)?;
    matches!(standing.state, State::Retired | State::Suspended).then(|| format!("the vehicle is {}", standing.state))
}

/// A command as far as it is.
fn shown(known: Known) -> Result<Response, Problem> {
    let Some(told) = known else {
        return Err(Problem::new(404, "there is no such command, or its outcome is not kept any more"));
    };
    let CommandTold { id, vin, name, progress, deadline, .. } = *told;
    let (response, outcome) = match progress {
        CommandProgress::Ended { outcome: Outcome::Replied, payload, content_type, .. } => {
            (reply(payload, content_type.as_deref()), Outcome::Replied.word())
        }
        CommandProgress::Ended { outcome, payload, .. } => {
            let document: Value = serde_json::from_slice(&payload).unwrap_or_default();
            let detail = document["detail"].as_str().unwrap_or_default();
            (respond(refusal(outcome, Some(id), &vin, &name, detail).into_answer()), outcome.word())
        }
        CommandProgress::Waiting => (pending("waiting", id, &vin, &name, deadline.0), PENDING),
        CommandProgress::Sent => (pending("sent", id, &vin, &name, deadline.0), PENDING),
    };
    Ok(with_outcome(response, Some(id), outcome))
}

/// What a vehicle says is shown as it is, and never run: a browser is told so.
fn reply(payload: Bytes, content_type: Option<&str>) -> Response {
    let guessed = match serde_json::from_slice::<serde::de::IgnoredAny>(&payload) {
        Ok(_) => "application/json",
        Err(_) => "application/octet-stream",
    };
    let kind = content_type.and_then(|kind| HeaderValue::from_str(kind).ok());
    let headers = [
        (header::CONTENT_TYPE, kind.unwrap_or_else(|| HeaderValue::from_static(guessed))),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox")),
    ];
    (headers, payload).into_response()
}

fn pending(progress: &str, id: CommandId, vin: &Vin, name: &str, deadline_ms: u64) -> Response {
    let id = id.to_string();
    let location = format!("/v1/commands/{}", encoded(&id));
    let body = json!({
        "command": id, "outcome": PENDING, "progress": progress, "vehicle": vin.as_str(), "name": name, "deadline_ms": deadline_ms,
    });
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], super::json(&body)).into_response()
}

fn refusal(outcome: Outcome, id: Option<CommandId>, vin: &Vin, name: &str, detail: &str) -> Problem {
    let problem = Problem::new(status(outcome), detail).with("outcome", outcome.word());
    let problem = problem.with("vehicle", vin.as_str()).with("name", name);
    match id {
        Some(id) => problem.with("command", id.to_string()),
        None => problem,
    }
}

fn status(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Replied => 200,
        Outcome::TimedOut => 504,
        Outcome::Offline => 503,
        Outcome::Refused => 403,
        Outcome::QueueFull => 429,
        Outcome::Retired => 410,
        Outcome::Conflict => 409,
    }
}

fn with_outcome(mut response: Response, id: Option<CommandId>, outcome: &'static str) -> Response {
    let headers = response.headers_mut();
    if let Some(Ok(id)) = id.map(|id| HeaderValue::from_str(id.text().as_str())) {
        headers.insert(COMMAND, id);
    }
    headers.insert(OUTCOME, HeaderValue::from_static(outcome));
    response
}

#[cfg(test)]
mod tests {
    use causeway_core::{Millis, Principal};

    use super::*;

    fn told(progress: CommandProgress) -> Response {
        let vin = "1M8GDM9AXKP042788".parse().unwrap();
        let (id, by) = (CommandId::new(77).unwrap(), Principal::operator("ann"));
        let (requested_at, deadline) = (Millis(1), Millis(2));
        shown(Some(Box::new(CommandTold { id, vin, name: "x".into(), by, requested_at, deadline, progress }))).unwrap()
    }

    fn ended(outcome: Outcome, payload: &'static [u8], content_type: Option<&str>) -> Response {
        let (payload, content_type) = (Bytes::from_static(payload), content_type.map(Into::into));
        told(CommandProgress::Ended { outcome, at: Millis(2), payload, content_type })
    }

    fn header_of<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn each_outcome_has_its_status() {
        let expected = [200, 504, 503, 403, 429, 410, 409];
        for (outcome, status) in Outcome::ALL.into_iter().zip(expected) {
            let response = ended(outcome, b"{\"detail\":\"why\"}", None);
            assert_eq!(
                (response.status().as_u16(), header_of(&response, "causeway-outcome")),
                (status, outcome.word())
            );
            assert_eq!(header_of(&response, "causeway-command"), "c00000000002d");
            let is_problem = header_of(&response, "content-type") == "application/problem+json";
            assert_eq!(is_problem, outcome != Outcome::Replied);
        }
        let waiting = told(CommandProgress::Waiting);
        assert_eq!((waiting.status().as_u16(), header_of(&waiting, "location")), (202, "/v1/commands/c00000000002d"));
        assert_eq!(shown(None).unwrap_err().into_answer().status, 404);
    }

    #[test]
    fn a_reply_is_told_as_it_came() {
        let kind = |payload, content_type| {
            header_of(&ended(Outcome::Replied, payload, content_type), "content-type").to_owned()
        };
        assert_eq!(kind(b"{}", None), "application/json");
        assert_eq!(kind(b"\xFF", None), "application/octet-stream");
        assert_eq!(kind(b"{}", Some("text/html")), "text/html");
        assert_eq!(kind(b"{}", Some("a\nb")), "application/json");
    }

    #[test]
    fn no_form_of_a_page_sends_a_command() {
        let headers = |rows: &[(HeaderName, &str)]| {
            rows.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let origin = (header::ORIGIN, "http://evil.example");
        let plain = (header::CONTENT_TYPE, "text/plain;charset=utf-8");
        assert!(check_kind(&headers(std::slice::from_ref(&plain))).is_ok());
        assert!(check_kind(&headers(std::slice::from_ref(&origin))).is_err());
        assert!(check_kind(&headers(&[origin.clone(), plain])).is_err());
        assert!(check_kind(&headers(&[origin, (header::CONTENT_TYPE, "application/json")])).is_ok());
    }

    #[test]
    fn nobody_waits_for_longer_than_a_minute() {
        assert_eq!(wait_of(None).unwrap(), Duration::ZERO);
        assert_eq!(wait_of(Some("1m")).unwrap(), Duration::from_secs(60));
        assert!(wait_of(Some("61s")).is_err());
    }
}
