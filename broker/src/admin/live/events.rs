//! What happens to shadows, as server-sent events.
//!
//! Owns their form, and that a stream ends with the rights of whoever reads it. A reader that is too slow is told that it missed something.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use causeway_core::{TwinEvent, Vin};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::super::api::Problem;
use super::Visit;
use super::body::{Place, Teller};
use crate::server::{Heard, TwinWatch};

/// How often a stream says that it lives, and its reader is looked at anew.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that wait for the connection of one reader. More wait where all readers' do, or are missed.
const WAITING_MAX: usize = 16;
/// A comment, which tells the reader that it is heard, and how soon to come back where the connection breaks.
const BEGIN: &[u8] = b": follow\nretry: 3000\n\n";
const ALIVE: &[u8] = b": alive\n\n";

/// What is followed.
struct Which {
    /// None: the whole fleet.
    vin: Option<Vin>,
    /// Only this shadow; the classic one has no name. None: all of them.
    name: Option<String>,
}

impl Which {
    fn concerns(&self, event: &TwinEvent) -> bool {
        let is_named = |name: &String| event.name.as_deref().unwrap_or_default() == name;
        self.vin.is_none_or(|vin| vin == event.vin) && self.name.as_ref().is_none_or(is_named)
    }
}

/// Answers with a stream that lasts until the reader goes, may not read any more, or the broker stops.
pub(super) async fn follow(visit: Visit) -> Result<Response, Problem> {
    let query = visit.query(&["name"])?;
    let vin = visit.names.first().map(|_| visit.vin()).transpose()?;
    let which = Which { vin, name: query.get("name").map(str::to_owned) };
    let place = Place::take(&visit)?;
    let watch = super::in_time(visit.asks()?.watch()).await?;
    let (teller, body) = place.begin(&visit, WAITING_MAX);
    tokio::spawn(tell(visit, which, watch, teller));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that gather answers are not to.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, body).into_response())
}

async fn tell(visit: Visit, which: Which, mut watch: TwinWatch, teller: Teller) {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    heartbeat.tick().await;
    let mut next = Bytes::from_static(BEGIN);
    loop {
        if teller.send(Ok(next)).await.is_err() {
            return;
        }
        next = loop {
            tokio::select! {
                biased;
                () = teller.closed() => return,
                _ = heartbeat.tick() => {
                    if !visit.may_go_on() {
                        return;
                    }
                    break Bytes::from_static(ALIVE);
                }
                heard = watch.next() => match heard {
                    None => return,
                    Some(Heard::Missed(missed)) => break frame("missed", None, &json!({ "missed": missed })),
                    Some(Heard::Event(event)) if which.concerns(&event) => {
                        break frame("shadow", Some(event.version), &super::shown_event(&event));
                    }
                    Some(Heard::Event(_)) => {}
                },
            }
        };
    }
}

/// One event. JSON has no line breaks.
fn frame(kind: &str, version: Option<u64>, data: &serde_json::Value) -> Bytes {
    let id = version.map(|version| format!("id: {version}\n")).unwrap_or_default();
    Bytes::from(format!("event: {kind}\n{id}data: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_what_browsers_understand() {
        assert_eq!(
            frame("shadow", Some(17), &json!({ "a": "b\nc" })),
            "event: shadow\nid: 17\ndata: {\"a\":\"b\\nc\"}\n\n"
        );
        assert_eq!(frame("missed", None, &json!({ "missed": 3 })), "event: missed\ndata: {\"missed\":3}\n\n");
    }
}
