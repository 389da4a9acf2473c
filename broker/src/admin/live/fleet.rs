//! Which vehicles something is true of: `GET /v1/vehicles?where=…`.
//!
//! Owns the form of questions and answers. Who is found is [`Search`]'s business.

use std::sync::Arc;

use axum::response::Response;
use causeway_core::FleetOrder;
use causeway_fleet::query::{Facts, Fields, Query};
use serde_json::{Map, Value, json};

use super::super::api::Problem;
use super::Visit;
use crate::server::{AskError, FOUND_MAX, Found, SearchError, SearchPlace};

/// Vehicles of a page, where nobody says how many.
const PAGE_DEFAULT: usize = 100;

pub(super) async fn find(visit: Visit) -> Result<Response, Problem> {
    let asked = visit.query(&["where", "fields", "limit", "cursor"])?;
    let search = visit.told.source.search().ok_or_else(|| super::unanswered(AskError::Ended))?;
    let query = match asked.get("where") {
        None => Arc::new(Query::everything()),
        Some(text) => search.parse(text).map_err(|error| Problem::new(400, format!("where: {error}")))?,
    };
    let fields = search.fields();
    let shown_fields: Result<Vec<usize>, Problem> = match asked.get("fields") {
        None => Ok((0..fields.len()).collect()),
        Some(names) => names.split(',').filter(|name| !name.is_empty()).map(|name| place(fields, name)).collect(),
    };
    let shown_fields = shown_fields?;
    let limit = asked.get("limit").map_or(Ok(PAGE_DEFAULT), |limit| {
        let number = limit.parse().ok().filter(|number| (1..=FOUND_MAX).contains(number));
        number.ok_or_else(|| Problem::new(400, format!("limit has to be a number from 1 to {FOUND_MAX}")))
    })?;
    let after = asked.get("cursor").map(|text| text.parse::<SearchPlace>());
    let after = after.transpose().map_err(|error| Problem::new(400, format!("cursor: {error}")))?;
    let page = search.page(&query, FleetOrder::Own, after, limit).await.map_err(|error| match error {
        SearchError::Ask(error) => super::unanswered(error),
        SearchError::Registry(error) => error.into(),
    })?;
    let registry = visit.told.source.registry();
    let state =
        |found: &Found| registry.as_ref().and_then(|registry| registry.standing(found.vin())).map(|it| it.state);
    let vehicles: Vec<Value> =
        page.found.iter().map(|found| shown(found, state(found), fields, &shown_fields)).collect();
    let mut body = json!({ "vehicles": vehicles });
    if let Some(next) = page.next {
        body["next"] = next.to_string().into();
    }
    Ok(super::json(&body))
}

fn place(fields: &Fields, name: &str) -> Result<usize, Problem> {
    let unknown = || match fields.is_empty() {
        true => {
            Problem::new(400, format!("fields: {name:?} is not indexed, and neither is anything else (shadow.index)"))
        }
        false => {
            let indexed: Vec<&str> = fields.iter().collect();
            Problem::new(400, format!("fields: {name:?} is not indexed: {} are", indexed.join(", ")))
        }
    };
    fields.iter().position(|field| field == name).ok_or_else(unknown)
}

fn shown(found: &Found, state: Option<crate::registry::State>, fields: &Fields, shown: &[usize]) -> Value {
    let names: Vec<&str> = fields.iter().collect();
    let value = |field: &usize| Some(((*names.get(*field)?).to_owned(), found.value(*field)?.to_json()));
    let values: Map<String, Value> = shown.iter().filter_map(value).collect();
    let groups: Vec<&str> = found.groups.iter().collect();
    json!({ "vin": found.vin().as_str(), "state": state, "groups": groups, "version": found.version(), "fields": values })
}
