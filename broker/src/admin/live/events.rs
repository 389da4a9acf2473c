//! What happens to shadows, as server-sent events.
//!
//! Owns their form, and that a stream ends with the rights of whoever reads it. A reader of one vehicle misses nothing without being told, also while it
//! was away; one of the fleet is told that it missed something.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use causeway_core::{Millis, TwinEvent};
use causeway_fleet::calls;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::super::api::Problem;
use super::Visit;
use super::body::{Place, Teller};
use super::followed::Followed;
use crate::registry::now_ms;
use crate::server::{Heard, TwinWatch};

/// How often a stream says that it lives, and its reader is looked at anew.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that wait for the connection of one reader. More wait where all readers' do, or are missed.
const WAITING_MAX: usize = 16;
/// What a reader that comes back says.
const LAST_EVENT_ID: &str = "last-event-id";
const NOT_REPEATED: &str =
    "what happened meanwhile to the shadows of the fleet is not repeated: read again what matters";
const ALIVE: &[u8] = b": alive\n\n";

/// What is followed, and how far it was told.
enum Following {
    /// The shadows of one vehicle.
    Vehicle(Followed),
    /// Those of all, or of all the one of this name; the classic one has none.
    Fleet(Option<String>),
}

impl Following {
    /// From now on, or from where the reader was: what it missed, is told first.
    async fn begin(visit: &Visit) -> Result<(Following, Vec<Bytes>), Problem> {
        let query = visit.query(&["name"])?;
        let name = query.get("name").map(str::to_owned);
        if let Some(wrong) = name.as_deref().filter(|name| !name.is_empty() && !calls::is_name(name)) {
            return Err(super::no_name(wrong));
        }
        // What is no text is no id of any stream, and is not passed over.
        let last = visit.parts.headers.get(LAST_EVENT_ID).map(|last| last.to_str().unwrap_or_default());
        let mut backlog = Vec::new();
        let following = if visit.names.is_empty() {
            let following = Following::Fleet(name);
            backlog.push(begin(&following.id(Millis(now_ms()))));
            backlog.extend(last.map(|last| frame("reset", None, &json!({ "reason": NOT_REPEATED, "last": last }))));
            following
        } else {
            let vin = visit.vin()?;
            let earlier = last.and_then(|last| Followed::from_id(vin, name.clone(), last, now_ms()));
            let is_back = earlier.is_some();
            let mut followed = match earlier {
                Some(followed) => followed,
                None => Followed::from_now(visit, vin, name).await?,
            };
            backlog.push(begin(&followed.to_string()));
            if is_back {
                backlog.extend(followed.tell_missed(visit).await?);
            } else if last.is_some() {
                backlog.push(followed.tell_unknown());
            }
            Following::Vehicle(followed)
        };
        Ok((following, backlog))
    }

    fn id(&self, at: Millis) -> String {
        match self {
            Following::Vehicle(followed) => followed.to_string(),
            // It is of no use but to say that there was one.
            Following::Fleet(_) => at.0.to_string(),
        }
    }

    /// An event, where it is to be told.
    fn tell(&mut self, event: &TwinEvent) -> Option<Bytes> {
        match self {
            Following::Vehicle(followed) => followed.tell(event),
            Following::Fleet(name) => {
                let is_it = name.as_deref().is_none_or(|name| event.name.as_deref().unwrap_or_default() == name);
                is_it.then(|| frame("shadow", Some(&event.at.0.to_string()), &super::shown_event(event)))
            }
        }
    }

    /// The reader was too slow.
    async fn tell_missed(&mut self, visit: &Visit, missed: u64) -> Result<Vec<Bytes>, Problem> {
        match self {
            Following::Vehicle(followed) => followed.tell_missed(visit).await,
            Following::Fleet(_) => Ok(vec![frame("missed", None, &json!({ "missed": missed }))]),
        }
    }
}

/// Answers with a stream that lasts until the reader goes, may not read any more, or the broker stops.
pub(super) async fn follow(visit: Visit) -> Result<Response, Problem> {
    let place = Place::take(&visit)?;
    // Before it is looked at what there is: nothing comes in between.
    let watch = super::in_time(visit.asks()?.watch()).await?;
    let (following, backlog) = Following::begin(&visit).await?;
    let (teller, body) = place.begin(&visit, WAITING_MAX);
    tokio::spawn(tell(visit, (following, backlog), watch, teller));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that gather answers are not to.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, body).into_response())
}

async fn tell(visit: Visit, (mut following, mut next): (Following, Vec<Bytes>), mut watch: TwinWatch, teller: Teller) {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    heartbeat.tick().await;
    loop {
        for frame in std::mem::take(&mut next) {
            if teller.send(Ok(frame)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            biased;
            () = teller.closed() => return,
            _ = heartbeat.tick() => {
                if !visit.may_go_on() {
                    return;
                }
                next.push(Bytes::from_static(ALIVE));
            }
            heard = watch.next() => match heard {
                None => return,
                Some(Heard::Missed(missed)) => match following.tell_missed(&visit, missed).await {
                    Ok(told) => next = told,
                    // The reader comes again, and says where it was.
                    Err(_) => return,
                },
                Some(Heard::Event(event)) => next.extend(following.tell(&event)),
            },
        }
    }
}

/// A comment, which tells the reader that it is heard, how soon to come back where the connection breaks, and what to say then.
fn begin(id: &str) -> Bytes {
    Bytes::from(format!(": follow\nretry: 3000\nid: {id}\n\n"))
}

/// One event. JSON has no line breaks.
pub(super) fn frame(kind: &str, id: Option<&str>, data: &serde_json::Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("event: {kind}\n{id}data: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_what_browsers_understand() {
        assert_eq!(
            frame("shadow", Some("20779-17"), &json!({ "a": "b\nc" })),
            "event: shadow\nid: 20779-17\ndata: {\"a\":\"b\\nc\"}\n\n"
        );
        assert_eq!(frame("missed", None, &json!({ "missed": 3 })), "event: missed\ndata: {\"missed\":3}\n\n");
    }
}
