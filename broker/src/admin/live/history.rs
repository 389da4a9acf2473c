//! What happened to a shadow, over HTTP: a page of it, or all of it line by line.
//!
//! Owns pages and lines. Where entries are read from is [`FoldedShard`]'s business.

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use causeway_core::history::{HistoryPlace, HistoryRange};
use causeway_core::{Answer, Ask, Millis};
use serde_json::{Value, json};

use super::super::api::Problem;
use super::body::Place;
use super::{Visit, words};
use crate::registry::now_ms;
use crate::server::{FoldedShard, HistoryPage};

/// Entries of a page, where nobody says how many.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const LINES: &str = "application/x-ndjson";
/// Pages that wait for the connection of one reader.
const WAITING_MAX: usize = 2;

pub(super) async fn show(visit: Visit) -> Result<Response, Problem> {
    let (mut range, limit) = asked(&visit)?;
    if words::media_type(&visit.parts.headers, header::ACCEPT) == LINES {
        return lines(visit, range, limit).await;
    }
    range.limit = limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&range.limit) {
        return Err(Problem::new(400, format!("limit has to be a number from 1 to {PAGE_MAX}")));
    }
    let page = read(&visit, &range).await?;
    let entries: Result<Vec<Value>, _> = page.entries.iter().map(|entry| serde_json::from_slice(&entry.json)).collect();
    let mut body = json!({ "history": entries.map_err(|_| super::confused())? });
    if let Some(next) = page.next {
        body["next"] = next.to_string().into();
    }
    Ok(super::json(&body))
}

/// What is asked for, and how many entries of it.
fn asked(visit: &Visit) -> Result<(HistoryRange, Option<usize>), Problem> {
    let query = visit.query(&["from", "to", "cursor", "limit"])?;
    let moment = |key: &str| query.get(key).map(|text| words::moment_ms(key, text)).transpose();
    let limit =
        query.get("limit").map(|limit| limit.parse().map_err(|_| Problem::new(400, "limit has to be a number")));
    let after = query.get("cursor").map(|text| {
        text.parse::<HistoryPlace>().map_err(|_| Problem::new(400, "cursor has to be what a page gave as next"))
    });
    let (oldest, newest) = kept(visit);
    let range = HistoryRange {
        vin: visit.vin()?,
        name: visit.shadow_name()?.unwrap_or_default().to_owned(),
        from: Millis(moment("from")?.unwrap_or_default()).max(oldest),
        to: Millis(moment("to")?.unwrap_or(u64::MAX)).min(newest),
        after: after.transpose()?,
        limit: PAGE_MAX,
    };
    Ok((range, limit.transpose()?))
}

/// Between these times there may be any. Each day is looked for: no more of them than are kept, and not those to come. A day more, for clocks.
pub(super) fn kept(visit: &Visit) -> (Millis, Millis) {
    let (now, days) = (now_ms(), u64::from(visit.told.config.shadow.history_days) + 2);
    (Millis(now.saturating_sub(days * DAY_MS)), Millis(now + DAY_MS))
}

/// The shard says what it has not folded yet, and then the disk the rest.
pub(super) async fn read(visit: &Visit, range: &HistoryRange) -> Result<HistoryPage, Problem> {
    let asks = visit.asks()?;
    let home = asks.home(&range.vin);
    let Answer::History(pending) = *super::in_time(asks.at(home, Ask::History(range.clone()))).await? else {
        return Err(super::confused());
    };
    let folded: FoldedShard =
        visit.told.source.shards().get(home as usize).map(|shard| shard.folded.clone()).unwrap_or_default();
    let range = range.clone();
    let page = tokio::task::spawn_blocking(move || folded.history(&range, pending)).await;
    let page = page.map_err(|_| Problem::new(500, "the thread that read failed"))?;
    page.map_err(|error| {
        tracing::error!(target: "causeway::admin", %error, "a history cannot be read");
        Problem::new(500, error.to_string())
    })
}

/// All of it, page after page, for as long as the reader takes it.
async fn lines(visit: Visit, mut range: HistoryRange, limit: Option<usize>) -> Result<Response, Problem> {
    let place = Place::take(&visit)?;
    // What does not go at all has a status.
    let mut page = read(&visit, &range).await?;
    let (teller, body) = place.begin(&visit, WAITING_MAX);
    tokio::spawn(async move {
        let mut left = limit.unwrap_or(usize::MAX);
        loop {
            let entries = page.entries.iter().take(left);
            let text: Vec<u8> = entries.flat_map(|entry| entry.json.iter().copied().chain([b'\n'])).collect();
            left = left.saturating_sub(page.entries.len());
            if !text.is_empty() && teller.send(Ok(Bytes::from(text))).await.is_err() {
                return;
            }
            let Some(next) = page.next.filter(|_| left > 0) else { return };
            range.after = Some(next);
            match read(&visit, &range).await {
                Ok(next) => page = next,
                // The answer has begun: breaking it off is all that is left to say.
                Err(_) => return drop(teller.send(Err(std::io::ErrorKind::Other.into())).await),
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, LINES)], body).into_response())
}
