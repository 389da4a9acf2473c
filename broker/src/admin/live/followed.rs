//! How far somebody has followed the shadows of a vehicle, and what of it was not told.
//!
//! Owns the ids of events, and that a reader who comes back hears all that it missed, or that it has to read again. Versions of a shadow have no
//! gap: so it shows whether the history has all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use axum::body::Bytes;
use causeway_core::history::{HistoryEntry, HistoryRange};
use causeway_core::{Answer, Ask, Millis, TwinEvent, Vin};
use serde_json::json;

use super::super::api::Problem;
use super::events::frame;
use super::{Visit, history};
use crate::registry::now_ms;

/// Changes that one reader is told of at once. Whoever missed more is better off with the documents.
const TOLD_MAX: usize = 1000;
/// Shadows in an id that somebody says. Each event has all of them in its own id again, and each is looked for: whoever follows more reads again.
const NAMED_MAX: usize = 256;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The id where there is no shadow.
const NOTHING: &str = "0";

/// A place in the history of a shadow, as that has them: a day and a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    day: u64,
    version: u64,
}

impl Place {
    fn new(at_ms: u64, version: u64) -> Place {
        Place { day: at_ms / DAY_MS, version }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.day, self.version)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Place, ()> {
        let (day, version) = text.split_once('-').ok_or(())?;
        let place = Place { day: day.parse().map_err(drop)?, version: version.parse().map_err(drop)? };
        if place.to_string() == text { Ok(place) } else { Err(()) }
    }
}

/// See the module. Its text is the id of an event: the last place of each shadow that was told, such as `20779-7,hvac=20778-3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Followed {
    vin: Vin,
    /// Only this shadow.
    only: Option<String>,
    /// By name; the classic shadow's is empty.
    places: BTreeMap<String, Place>,
}

impl fmt::Display for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.places.is_empty() {
            return f.write_str(NOTHING);
        }
        for (index, (name, place)) in self.places.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            f.write_str(name)?;
            f.write_str(if name.is_empty() { "" } else { "=" })?;
            place.fmt(f)?;
        }
        Ok(())
    }
}

impl Followed {
    /// From now on.
    pub(super) async fn from_now(visit: &Visit, vin: Vin, only: Option<String>) -> Result<Followed, Problem> {
        let mut followed = Followed { vin, only, places: BTreeMap::new() };
        for (name, version) in followed.current(visit).await? {
            followed.places.insert(name, Place::new(now_ms(), version));
        }
        Ok(followed)
    }

    /// From where an id says. None: it is none of this stream, or of a time that is still to come.
    pub(super) fn from_id(vin: Vin, only: Option<String>, id: &str, now_ms: u64) -> Option<Followed> {
        let mut followed = Followed { vin, only, places: BTreeMap::new() };
        // A day more, for clocks.
        let newest = now_ms / DAY_MS + 1;
        for part in id.split(',').filter(|_| id != NOTHING) {
            let (name, place) = part.split_once('=').unwrap_or(("", part));
            if !followed.concerns(name) || (!name.is_empty() && !causeway_fleet::calls::is_name(name)) {
                return None;
            }
            let place = place.parse().ok().filter(|place: &Place| place.day <= newest)?;
            followed.places.insert(name.to_owned(), place);
            if followed.places.len() > NAMED_MAX {
                return None;
            }
        }
        Some(followed)
    }

    fn concerns(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }

    /// An event as it is told. None where it was, or is somebody else's.
    pub(super) fn tell(&mut self, event: &TwinEvent) -> Option<Bytes> {
        let name = event.name.as_deref().unwrap_or_default();
        if event.vin != self.vin || !self.concerns(name) {
            return None;
        }
        let place = Place::new(event.at.0, event.version);
        // A clock that was set back makes the day less, and a shadow that was forgotten the version, but not both.
        if self.places.get(name).is_some_and(|told| place <= *told && place.version <= told.version) {
            return None;
        }
        self.places.insert(name.to_owned(), place);
        Some(frame("shadow", Some(&self.to_string()), &super::shown_event(event)))
    }

    /// All that happened since then and is not told. One shadow after the other.
    ///
    /// # Errors
    /// A shard does not answer, or the disk cannot be read.
    pub(super) async fn tell_missed(&mut self, visit: &Visit) -> Result<Vec<Bytes>, Problem> {
        let (current, mut told) = (self.current(visit).await?, Vec::new());
        let names: BTreeSet<String> = current.keys().chain(self.places.keys()).cloned().collect();
        for name in names {
            let (known, version) = (self.places.get(&name).copied(), current.get(&name).copied());
            let found = self.read(visit, &name, known, TOLD_MAX - told.len().min(TOLD_MAX - 1)).await?;
            match found.filter(|entries| is_all(known, entries, version, self.is_kept(visit, known))) {
                Some(entries) => told.extend(entries.iter().filter_map(|entry| self.tell_entry(&name, entry))),
                None => told.push(self.tell_reset(
                    &name,
                    version,
                    "what happened since then is not known any more, or is too much",
                )),
            }
        }
        Ok(told)
    }

    /// Everything has to be read again: nobody knows what was told.
    pub(super) fn tell_unknown(&self) -> Bytes {
        let why = "the Last-Event-ID is none of this stream";
        frame("reset", Some(&self.to_string()), &json!({ "vin": self.vin.as_str(), "reason": why }))
    }

    fn tell_entry(&mut self, name: &str, entry: &HistoryEntry) -> Option<Bytes> {
        self.places.insert(name.to_owned(), entry.place.to_string().parse().ok()?);
        let shown = super::shown_entry(&self.vin, Some(name).filter(|name| !name.is_empty()), &entry.json);
        Some(frame("shadow", Some(&self.to_string()), &shown))
    }

    fn tell_reset(&mut self, name: &str, version: Option<u64>, why: &str) -> Bytes {
        match version {
            Some(version) => self.places.insert(name.to_owned(), Place::new(now_ms(), version)),
            None => self.places.remove(name),
        };
        let named = Some(name).filter(|name| !name.is_empty());
        let data = json!({ "vin": self.vin.as_str(), "name": named, "version": version, "reason": why });
        frame("reset", Some(&self.to_string()), &data)
    }

    /// The shadows that there are, and their versions.
    async fn current(&self, visit: &Visit) -> Result<BTreeMap<String, u64>, Problem> {
        match *super::in_time(visit.asks()?.of(&self.vin, Ask::Shadows(self.vin))).await? {
            Answer::Shadows(shadows) => {
                let named =
                    shadows.into_iter().map(|(name, version)| (name.map(String::from).unwrap_or_default(), version));
                Ok(named.filter(|(name, _)| self.concerns(name)).collect())
            }
            _ => Err(super::confused()),
        }
    }

    /// What the history has behind a place. None: too much.
    async fn read(
        &self,
        visit: &Visit,
        name: &str,
        known: Option<Place>,
        max: usize,
    ) -> Result<Option<Vec<HistoryEntry>>, Problem> {
        let (from, to) = history::kept(visit);
        let range = HistoryRange {
            vin: self.vin,
            name: name.to_owned(),
            from: Millis(from.0.max(known.map_or(0, |place| place.day.saturating_mul(DAY_MS)))),
            to,
            after: known.and_then(|place| place.to_string().parse().ok()),
            limit: max,
        };
        let page = history::read(visit, &range).await?;
        Ok(page.next.is_none().then_some(page.entries))
    }

    /// Whether the history has all that came behind a place.
    fn is_kept(&self, visit: &Visit, known: Option<Place>) -> bool {
        let config = &visit.told.config;
        let oldest = (now_ms() / DAY_MS).saturating_sub(config.shadow.history_days.into());
        config.storage.data_directory.is_some() && known.is_some_and(|place| place.day > oldest)
    }
}

/// Whether entries are all that came to a shadow which is at this version now, or later.
fn is_all(known: Option<Place>, entries: &[HistoryEntry], version: Option<u64>, is_kept: bool) -> bool {
    let first = known.map_or(0, |place| place.version);
    let mut last = first;
    for entry in entries {
        let Some(next) = version_of(entry) else { return false };
        // A shadow that was deleted long ago begins anew.
        if next != last + 1 && next != 1 {
            return false;
        }
        last = next;
    }
    match (entries, version) {
        ([], Some(version)) => version == first,
        // It was deleted when that was told. Or nobody knows when.
        ([], None) => is_kept,
        (_, Some(version)) => last >= version,
        (_, None) => true,
    }
}

fn version_of(entry: &HistoryEntry) -> Option<u64> {
    let place: Place = entry.place.to_string().parse().ok()?;
    Some(place.version)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";

    fn followed(id: &str) -> Option<Followed> {
        Followed::from_id(VIN.parse().unwrap(), None, id, 20_779 * DAY_MS)
    }

    fn event(name: Option<&str>, day: u64, version: u64) -> TwinEvent {
        let at = Millis(day * DAY_MS + 5);
        TwinEvent { vin: VIN.parse().unwrap(), name: name.map(Into::into), version, at, entry: Arc::from(&b"{}"[..]) }
    }

    #[test]
    fn an_id_says_how_far_each_shadow_was_told() {
        for id in ["0", "20779-7", "hvac=20779-3", "20779-7,doors=1-2,hvac=20779-3"] {
            assert_eq!(followed(id).unwrap().to_string(), id);
        }
        for wrong in ["", "7", "1-", "a/b=1-2", "hvac", "20779-07", "1-2,"] {
            assert_eq!(followed(wrong), None, "{wrong}");
        }
        assert!(followed("20780-1").is_some(), "another clock");
        for to_come in ["20781-1", "99999999-5", "18446744073709551615-18446744073709551615"] {
            assert_eq!(followed(to_come), None, "{to_come}");
        }
        let many = |count: usize| (0..count).map(|index| format!("s{index:03}=1-1")).collect::<Vec<_>>().join(",");
        assert!(followed(&many(NAMED_MAX)).is_some());
        assert_eq!(followed(&many(NAMED_MAX + 1)), None, "each event would say all of them again");
        let only = |id| Followed::from_id(VIN.parse().unwrap(), Some("hvac".to_owned()), id, 20_779 * DAY_MS);
        assert!(only("hvac=1-2").is_some() && only("1-2").is_none());
        let mut followed = followed("20779-7").unwrap();
        assert_eq!(followed.tell(&event(None, 20_779, 7)), None, "it was told");
        assert!(followed.tell(&event(None, 20_779, 8)).is_some());
        assert!(followed.tell(&event(Some("hvac"), 20_779, 1)).is_some());
        assert!(followed.tell(&event(None, 20_778, 9)).is_some(), "though the clock was set back");
        assert!(followed.tell(&event(None, 20_790, 1)).is_some(), "a new one of that name");
        assert_eq!(followed.to_string(), "20790-1,hvac=20779-1");
        let other = TwinEvent { vin: "WVWZZZ1JZ3W386752".parse().unwrap(), ..event(None, 20_791, 2) };
        assert_eq!(followed.tell(&other), None);
    }

    #[test]
    fn what_the_history_does_not_have_is_noticed() {
        let entry = |version: u64| {
            let place = Place { day: 5, version }.to_string().parse().unwrap();
            HistoryEntry { at: Millis(5 * DAY_MS), place, json: b"{}".to_vec() }
        };
        let known = |version| Some(Place { day: 5, version });
        assert!(is_all(known(7), &[], Some(7), false), "nothing happened");
        assert!(is_all(known(7), &[entry(8), entry(9)], Some(8), true), "one came later");
        assert!(is_all(known(7), &[entry(8)], None, true), "it was deleted");
        assert!(is_all(known(7), &[entry(8), entry(1)], Some(1), true), "and made again");
        assert!(is_all(None, &[entry(1)], Some(1), true));
        assert!(is_all(known(7), &[], None, true) && !is_all(known(7), &[], None, false));
        assert!(!is_all(known(7), &[], Some(8), true), "no history");
        assert!(!is_all(known(7), &[], Some(6), true), "restored from a backup");
        assert!(!is_all(known(7), &[entry(9)], Some(9), true), "a gap");
        assert!(!is_all(known(7), &[entry(8)], Some(9), true), "the end is missing");
        assert!(!is_all(None, &[entry(3)], Some(3), true), "the beginning is");
    }
}
