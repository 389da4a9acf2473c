//! The history of shadows as it is kept: one entry of the folded state for each transition.
//!
//! Owns the layout of keys and values, and which keys a question is about. What a transition says is opaque here: JSON that whoever made
//! it wrote. It holds nothing: what is not folded yet is the shard's, the rest is the folded state's.
//!
//! A key is [`HISTORY`], the day since 1970 (`u16`), the VIN (17 bytes), the length of the shadow's name (`u8`), the name, the version
//! (`u64`); all big-endian. So what is too old is one range of keys, and of one shadow and day the versions are in their order. A value is the
//! version of its layout, the time in milliseconds (`u64`), and the JSON.

use std::fmt;
use std::str::FromStr;

use causeway_fleet::Vin;

use crate::Millis;
use crate::record::RecordError;

/// The first byte of each key. What a shard is made of again at a start has keys below it.
pub const HISTORY: u8 = 0x80;

/// The layout of values.
const VERSION: u8 = 1;
const DAY_MILLISECONDS: u64 = 24 * 3600 * 1000;
/// The version and the time.
const VALUE_HEAD_BYTES: usize = 9;

/// The day of a time, counted from 1970.
pub(crate) fn day(at: Millis) -> u16 {
    u16::try_from(at.0 / DAY_MILLISECONDS).unwrap_or(u16::MAX)
}

/// The first key of a day.
pub(crate) fn first_of_day(day: u16) -> Vec<u8> {
    let [above, below] = day.to_be_bytes();
    vec![HISTORY, above, below]
}

/// The key of a transition: the vehicle's shadow of this name (the classic one has none) came to this version at that time.
pub(crate) fn key(day: u16, vin: &Vin, name: &str, version: u64) -> Vec<u8> {
    let mut key = first_of_day(day);
    key.extend_from_slice(vin.as_str().as_bytes());
    // Names are 64 bytes at most.
    key.push(name.len() as u8);
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(&version.to_be_bytes());
    key
}

pub(crate) fn value(at: Millis, json: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_HEAD_BYTES + json.len());
    value.push(VERSION);
    value.extend_from_slice(&at.0.to_be_bytes());
    value.extend_from_slice(json);
    value
}

/// One transition, as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When it was.
    pub at: Millis,
    /// Where it stands among those of its shadow. A question goes on behind it.
    pub place: HistoryPlace,
    /// What it says.
    pub json: Vec<u8>,
}

impl HistoryEntry {
    /// Reads an entry of the folded state.
    ///
    /// # Errors
    /// Where it is none of a history.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<HistoryEntry, RecordError> {
        let (day, version) = decode_key(key).ok_or(RecordError::Damaged)?;
        let (head, json) = value.split_at_checked(VALUE_HEAD_BYTES).ok_or(RecordError::Damaged)?;
        let (&[layout], at) = head.split_first_chunk().ok_or(RecordError::Damaged)?;
        if layout != VERSION {
            return Err(RecordError::UnknownVersion(layout));
        }
        let at = Millis(u64::from_be_bytes(at.try_into().map_err(|_| RecordError::Damaged)?));
        Ok(HistoryEntry { at, place: HistoryPlace { day, version }, json: json.to_vec() })
    }
}

/// The day and the version, where everything between them makes sense.
fn decode_key(key: &[u8]) -> Option<(u16, u64)> {
    let (&[HISTORY, above, below], rest) = key.split_first_chunk()? else { return None };
    let (vin, rest) = rest.split_at_checked(Vin::LENGTH)?;
    Vin::from_str(std::str::from_utf8(vin).ok()?).ok()?;
    let (&length, rest) = rest.split_first()?;
    let (name, version) = rest.split_at_checked(length as usize)?;
    std::str::from_utf8(name).ok()?;
    Some((u16::from_be_bytes([above, below]), u64::from_be_bytes(version.try_into().ok()?)))
}

/// A place in the history of one shadow. Places are in the order in which things happened: a version may come again, but not on the same
/// day. Its text is for whoever asks for what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryPlace {
    day: u16,
    version: u64,
}

impl fmt::Display for HistoryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.day, self.version)
    }
}

/// A text is no [`HistoryPlace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no place in a history: only what a page said at its end is")]
pub struct NoPlace;

impl FromStr for HistoryPlace {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<HistoryPlace, NoPlace> {
        let (day, version) = text.split_once('-').ok_or(NoPlace)?;
        let place =
            HistoryPlace { day: day.parse().map_err(|_| NoPlace)?, version: version.parse().map_err(|_| NoPlace)? };
        if place.to_string() == text { Ok(place) } else { Err(NoPlace) }
    }
}

/// A question: what became of one shadow of a vehicle between two times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRange {
    /// The vehicle.
    pub vin: Vin,
    /// The shadow's name; empty for the classic one.
    pub name: String,
    /// Nothing before this.
    pub from: Millis,
    /// Nothing after this.
    pub to: Millis,
    /// Only what stands behind this place.
    pub after: Option<HistoryPlace>,
    /// At most so many entries.
    pub limit: usize,
}

impl HistoryRange {
    /// The ranges of keys that it is about, each from a key to before another, in their order: one for each day.
    pub fn days(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        let first = day(self.from).max(self.after.map_or(0, |place| place.day));
        (first..=day(self.to)).map(|day| {
            let from = match self.after.filter(|place| place.day == day) {
                Some(place) => place.version.saturating_add(1),
                None => 0,
            };
            let key = |version| key(day, &self.vin, &self.name, version);
            // No shadow comes to the last of all versions.
            (key(from), key(u64::MAX))
        })
    }

    /// Whether an entry of one of these keys is among what is asked for.
    pub fn includes(&self, entry: &HistoryEntry) -> bool {
        (self.from..=self.to).contains(&entry.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = DAY_MILLISECONDS;

    fn range(from: u64, to: u64) -> HistoryRange {
        let vin = "1M8GDM9AXKP042788".parse().unwrap();
        HistoryRange { vin, name: "hvac".to_owned(), from: Millis(from), to: Millis(to), after: None, limit: 100 }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let range = range(0, 0);
        let (key, value) = (key(20_000, &range.vin, "hvac", 7), value(Millis(5), b"{}"));
        let entry = HistoryEntry::decode(&key, &value).unwrap();
        assert_eq!((entry.at, entry.place.to_string(), entry.json), (Millis(5), "20000-7".to_owned(), b"{}".to_vec()));
        for cut in 0..key.len() {
            assert!(HistoryEntry::decode(&key[..cut], &value).is_err());
        }
        for cut in 0..VALUE_HEAD_BYTES {
            assert!(HistoryEntry::decode(&key, &value[..cut]).is_err());
        }
        assert!(HistoryEntry::decode(&[&key[..], &[0]].concat(), &value).is_err());
        assert_eq!(HistoryEntry::decode(&key, &[9; 12]), Err(RecordError::UnknownVersion(9)));
        for text in ["", "1", "1-", "-1", "1-x", "70000-1", "01-1", "+1-1", "1-1-1"] {
            assert_eq!(text.parse::<HistoryPlace>(), Err(NoPlace), "{text}");
        }
        assert_eq!("3-4".parse(), Ok(HistoryPlace { day: 3, version: 4 }));
    }

    #[test]
    fn a_question_is_about_each_of_its_days_from_its_place_on() {
        let mut range = range(3 * DAY + 5, 5 * DAY);
        let days: Vec<_> = range.days().collect();
        assert_eq!(days.len(), 3);
        let of = |day, version| key(day, &range.vin, "hvac", version);
        assert_eq!(days[0], (of(3, 0), of(3, u64::MAX)));
        assert!(days[0].1 < days[1].0 && days[0].1 > of(3, u64::MAX - 1));
        range.after = Some(HistoryPlace { day: 5, version: 9 });
        let days: Vec<_> = range.days().collect();
        assert_eq!(days, [(key(5, &range.vin, "hvac", 10), key(5, &range.vin, "hvac", u64::MAX))]);
    }
}
