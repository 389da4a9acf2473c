//! Vehicles of the whole fleet of which something is true: `reported.battery.soc < 20 and group = eu`.
//!
//! Owns putting together what each shard finds, in one order, and asking for groups, which only the registry knows. A page is bounded in
//! work as well as in length: it may be shorter than was asked for, or empty, and go on all the same. It finds vehicles that have a classic shadow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use causeway_core::{Answer, Ask, FleetAsk, FleetOrder, FleetPage, FleetPlace, FleetRow, FleetWhich, Groups, Vin};
use causeway_fleet::query::{Facts, Fields, Query, QueryError, Scalar, Way};
use serde_json::{Value, json};

use super::{AskError, Asks};
use crate::home_shard::home_shard;
use crate::registry::{Page, Registry, RegistryError};

/// The longest page.
pub const FOUND_MAX: usize = 1000;
/// How often the shards are asked for one page.
const ROUNDS_MAX: usize = 10;
/// Up to so many members, it is quicker to look at each than at a field's values.
const MEMBERS_MAX: u64 = 20_000;
/// Members that are looked at in one round.
const MEMBERS_PER_ROUND: usize = 1000;

/// See the module. Clones search the same fleet.
#[derive(Debug, Clone)]
pub struct Search {
    asks: Asks,
    registry: Arc<Registry>,
    fields: Fields,
}

/// A vehicle that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What its shard says of it.
    pub row: FleetRow,
    /// Its groups.
    pub groups: Groups,
}

impl Facts for Found {
    fn vin(&self) -> &Vin {
        &self.row.vin
    }

    fn version(&self) -> u64 {
        self.row.version
    }

    fn value(&self, field: usize) -> Option<&Scalar> {
        self.row.value(field)
    }

    fn groups(&self) -> Option<&Groups> {
        Some(&self.groups)
    }
}

/// Part of what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundPage {
    /// In the order of the search.
    pub found: Vec<Found>,
    /// There may be more behind this place.
    pub next: Option<SearchPlace>,
}

/// Where a search goes on. Its text is for whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchPlace {
    /// Whether the members of groups are looked at, in the order of their VINs.
    of_members: bool,
    place: FleetPlace,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The shards do not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The registry does not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Search {
    /// Of the vehicles of these shards, of which these fields are indexed.
    pub fn new(asks: Asks, registry: Arc<Registry>, fields: Fields) -> Search {
        Search { asks, registry, fields }
    }

    /// The indexed fields.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Reads a question.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(&self, text: &str) -> Result<Arc<Query>, QueryError> {
        Query::parse(text, &self.fields).map(Arc::new)
    }

    /// Up to `limit` vehicles behind a place. In [`FleetOrder::Own`] a vehicle whose values change from one page to the next may be missed, or
    /// found twice; in that of VINs not.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn page(
        &self,
        query: &Arc<Query>,
        order: FleetOrder,
        after: Option<SearchPlace>,
        limit: usize,
    ) -> Result<FoundPage, SearchError> {
        let limit = limit.clamp(1, FOUND_MAX);
        let of_members = match &after {
            Some(after) => after.of_members,
            None => self.is_quicker_by_members(query, order).await?,
        };
        let (mut found, mut place) = (Vec::new(), after.map(|after| after.place));
        for _ in 0..ROUNDS_MAX {
            let round = match of_members {
                true => self.members_round(query, place.as_ref()).await?,
                false => self.fleet_round(query, order, place.as_ref(), limit).await?,
            };
            for row in round.rows {
                let groups = self.registry.standing(&row.vin).map(|standing| standing.groups).unwrap_or_default();
                let one = Found { row, groups };
                if query.is_true_of(&one) != Some(true) {
                    continue;
                }
                let place = place_of(&one.row, self.way_of(query, order, of_members));
                found.push(one);
                if found.len() == limit {
                    return Ok(FoundPage { found, next: Some(SearchPlace { of_members, place }) });
                }
            }
            place = round.next;
            if place.is_none() {
                break;
            }
        }
        Ok(FoundPage { found, next: place.map(|place| SearchPlace { of_members, place }) })
    }

    /// VINs of vehicles behind one, in their order, and the one to go on behind where there may be more. No vehicle is missed or found twice
    /// because others change.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn vins(
        &self,
        query: &Arc<Query>,
        after: Option<Vin>,
        limit: usize,
    ) -> Result<(Vec<Vin>, Option<Vin>), SearchError> {
        let of_members = self.is_quicker_by_members(query, FleetOrder::ByVin).await?;
        let after = after.map(|vin| SearchPlace { of_members, place: FleetPlace { value: None, vin } });
        let page = self.page(query, FleetOrder::ByVin, after, limit).await?;
        let vins = page.found.iter().map(|found| found.row.vin).collect();
        Ok((vins, page.next.map(|next| next.place.vin)))
    }

    /// The field that orders, if one does.
    fn way_of(&self, query: &Query, order: FleetOrder, of_members: bool) -> Option<usize> {
        match query.way() {
            Way::ByField(field, ..) if !of_members && order == FleetOrder::Own => Some(field),
            _ => None,
        }
    }

    async fn is_quicker_by_members(&self, query: &Query, order: FleetOrder) -> Result<bool, SearchError> {
        if query.vins_needed().is_some() {
            return Ok(true);
        }
        let Some(groups) = query.groups_needed() else { return Ok(false) };
        if order == FleetOrder::ByVin || query.way() == Way::ByVin {
            return Ok(true);
        }
        let (registry, groups) = (self.registry.clone(), groups.into_iter().map(str::to_owned).collect::<Vec<_>>());
        let members = blocking(move || {
            let members = groups.iter().map(|group| match registry.group(group) {
                Ok(group) => Ok(group.members),
                Err(RegistryError::Unknown(_)) => Ok(0),
                Err(error) => Err(error),
            });
            members.sum::<Result<u64, _>>()
        });
        Ok(members.await? <= MEMBERS_MAX)
    }

    /// What all shards find behind a place, as far as all of them have looked.
    async fn fleet_round(
        &self,
        query: &Arc<Query>,
        order: FleetOrder,
        after: Option<&FleetPlace>,
        limit: usize,
    ) -> Result<FleetPage, SearchError> {
        let which = FleetWhich::All { order, after: after.cloned() };
        let answers = self.asks.all(&Ask::Fleet(FleetAsk { query: query.clone(), which, limit })).await?;
        let pages: Vec<FleetPage> = answers.into_iter().filter_map(|answer| page_of(*answer)).collect();
        let next = pages.iter().filter_map(|page| page.next.clone()).min();
        let field = self.way_of(query, order, false);
        let rows = pages.into_iter().flat_map(|page| page.rows).map(|row| (place_of(&row, field), row));
        let looked_at = rows.filter(|(place, _)| next.as_ref().is_none_or(|next| place <= next));
        Ok(FleetPage { rows: looked_at.collect::<BTreeMap<_, _>>().into_values().collect(), next })
    }

    /// What is true of those of whom something has to be true at least: members of groups, or vehicles with these VINs.
    async fn members_round(&self, query: &Arc<Query>, after: Option<&FleetPlace>) -> Result<FleetPage, SearchError> {
        let after = after.map(|place| place.vin);
        let (vins, next) = match query.vins_needed() {
            Some(vins) => (vins.into_iter().filter(|vin| after.is_none_or(|after| *vin > after)).collect(), None),
            None => {
                let groups = query.groups_needed().unwrap_or_default();
                let groups = groups.into_iter().map(str::to_owned).collect();
                let registry = self.registry.clone();
                blocking(move || members_behind(&registry, groups, after)).await?
            }
        };
        let mut homes: BTreeMap<u32, Vec<Vin>> = BTreeMap::new();
        for vin in vins {
            homes.entry(home_shard(vin.as_str(), self.asks.shards())).or_default().push(vin);
        }
        let mut rows = BTreeMap::new();
        for (shard, vins) in homes {
            let which = FleetWhich::Among(vins.into());
            let ask = Ask::Fleet(FleetAsk { query: query.clone(), which, limit: usize::MAX });
            let page = page_of(*self.asks.at(shard, ask).await?);
            rows.extend(page.unwrap_or_default().rows.into_iter().map(|row| (row.vin, row)));
        }
        let next = next.map(|vin| FleetPlace { value: None, vin });
        Ok(FleetPage { rows: rows.into_values().collect(), next })
    }
}

fn page_of(answer: Answer) -> Option<FleetPage> {
    match answer {
        Answer::Fleet(page) => Some(page),
        _ => None,
    }
}

fn place_of(row: &FleetRow, field: Option<usize>) -> FleetPlace {
    FleetPlace { value: field.and_then(|field| row.value(field).cloned()), vin: row.vin }
}

async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// The next members of any of these groups in the order of their VINs, each once; and the last that was looked at, where there may be more.
fn members_behind(
    registry: &Registry,
    groups: Vec<String>,
    after: Option<Vin>,
) -> Result<(Vec<Vin>, Option<Vin>), RegistryError> {
    let (mut members, mut end) = (BTreeSet::new(), None);
    let after = after.map(|vin| vin.to_string());
    for group in groups {
        let page = Page { after: after.clone(), limit: MEMBERS_PER_ROUND };
        let (vins, next) = match registry.members(&group, &page) {
            // A group that is not there has no members.
            Err(RegistryError::Unknown(_)) => continue,
            listed => listed?,
        };
        if next.is_some() {
            end = end.into_iter().chain(vins.last().copied()).min();
        }
        members.extend(vins);
    }
    // Behind the end of one list, nothing is known of that group.
    let known = members.into_iter().filter(|vin| end.is_none_or(|end| *vin <= end));
    let known: Vec<Vin> = known.take(MEMBERS_PER_ROUND).collect();
    let is_full = known.len() == MEMBERS_PER_ROUND;
    let end = known.last().copied().filter(|_| is_full).or(end);
    Ok((known, end))
}

impl fmt::Display for SearchPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FleetPlace { value, vin } = &self.place;
        let place = json!([self.of_members, value.as_ref().map(Scalar::to_json), vin.as_str()]);
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(place.to_string()))
    }
}

/// A text is no [`SearchPlace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no place in a list: only what a page said at its end is")]
pub struct NoSuchPlace;

impl FromStr for SearchPlace {
    type Err = NoSuchPlace;

    fn from_str(text: &str) -> Result<SearchPlace, NoSuchPlace> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| NoSuchPlace)?;
        let (of_members, value, vin): (bool, Value, String) =
            serde_json::from_slice(&bytes).map_err(|_| NoSuchPlace)?;
        let place = FleetPlace { value: Scalar::of(&value), vin: vin.parse().map_err(|_| NoSuchPlace)? };
        Ok(SearchPlace { of_members, place })
    }
}
