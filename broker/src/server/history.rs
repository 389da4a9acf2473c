//! What became of a vehicle's shadow, read from where it is: what no fold has yet is the shard's, the rest is in its folded state.
//!
//! Owns the way into the folded state of a shard that runs, and putting both parts together. The shard is asked first: what is folded
//! in between then is in both, and never in neither. It changes nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use causeway_core::RecordError;
use causeway_core::history::{HistoryEntry, HistoryPlace, HistoryRange};
use causeway_storage::{RedbState, StateError, StateStore};

/// Entries of the folded state that are looked at for one page.
const VISITED_MAX: usize = 10_000;
/// A page ends with the entry that brings it to so many bytes.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// The folded state of one shard, for as long as the shard has it. Clones are the same.
#[derive(Debug, Clone)]
pub struct FoldedShard(Arc<Mutex<Weak<dyn StateStore>>>);

impl Default for FoldedShard {
    fn default() -> FoldedShard {
        let nothing: Weak<RedbState> = Weak::new();
        FoldedShard(Arc::new(Mutex::new(nothing)))
    }
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The disk fails, or what is there is damaged.
    #[error(transparent)]
    State(#[from] StateError),
    /// What is there makes no sense.
    #[error("an entry of the history cannot be read: {0}")]
    Entry(#[from] RecordError),
}

/// Part of a history.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// In the order in which things happened.
    pub entries: Vec<HistoryEntry>,
    /// There may be more behind this place, also where there are fewer entries than were asked for, or none.
    pub next: Option<HistoryPlace>,
}

impl FoldedShard {
    /// From now on it can be read. It is not kept from being closed.
    pub(crate) fn open(&self, state: &Arc<dyn StateStore>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(state);
    }

    /// What is asked for: `pending`, which the shard has just said, and what is folded of it. Reads from the disk, so call it where waiting
    /// harms nobody.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub fn history(&self, range: &HistoryRange, pending: Vec<HistoryEntry>) -> Result<HistoryPage, HistoryError> {
        // A shard without a data directory has none, and one that has ended none any more.
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let (mut found, stopped) = match state {
            Some(state) => read(state.as_ref(), range)?,
            None => Default::default(),
        };
        found.extend(pending.into_iter().map(|entry| (entry.place, entry)));
        let mut page = HistoryPage { next: stopped, ..HistoryPage::default() };
        let mut bytes = 0;
        for (place, entry) in found {
            if stopped.is_some_and(|stopped| place > stopped) {
                break;
            }
            if page.entries.len() == range.limit {
                break;
            }
            if bytes >= PAGE_BYTES_MAX {
                page.next = page.entries.last().map(|entry: &HistoryEntry| entry.place);
                break;
            }
            bytes += entry.json.len();
            page.entries.push(entry);
        }
        // The shard, too, says no more than it is asked for.
        if page.entries.len() == range.limit {
            page.next = page.entries.last().map(|entry| entry.place);
        }
        Ok(page)
    }
}

type Found = BTreeMap<HistoryPlace, HistoryEntry>;

/// What is folded, and behind which place it was not looked at any more, though there may be more.
fn read(state: &dyn StateStore, range: &HistoryRange) -> Result<(Found, Option<HistoryPlace>), HistoryError> {
    let (mut found, mut outcome, mut stopped) = (Found::new(), Ok(()), None);
    let (mut visited, mut bytes) = (0, 0);
    for (from, to) in range.days() {
        state.entries_from(&from, &mut |key, value| {
            if key >= &to[..] {
                return ControlFlow::Break(());
            }
            let entry = match HistoryEntry::decode(key, value) {
                Ok(entry) => entry,
                Err(error) => {
                    outcome = Err(error);
                    return ControlFlow::Break(());
                }
            };
            visited += 1;
            let place = entry.place;
            if range.includes(&entry) {
                bytes += entry.json.len();
                found.insert(place, entry);
            }
            // One more than is asked for says that there is more.
            if found.len() > range.limit || visited >= VISITED_MAX || bytes > PAGE_BYTES_MAX {
                stopped = Some(place);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        outcome?;
        outcome = Ok(());
        if stopped.is_some() {
            break;
        }
    }
    Ok((found, stopped))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use causeway_core::Millis;
    use causeway_core::history::HISTORY;
    use causeway_storage::{FoldMark, StateOptions};

    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;
    const VIN: &str = "1M8GDM9AXKP042788";

    fn range(limit: usize) -> HistoryRange {
        HistoryRange {
            vin: VIN.parse().unwrap(),
            name: String::new(),
            from: Millis(0),
            to: Millis(100 * DAY),
            after: None,
            limit,
        }
    }

    /// The bytes of an entry, as docs/storage-format.md has them.
    fn raw(vin: &str, version: u64, at: u64) -> (Vec<u8>, Vec<u8>) {
        let day = ((at / DAY) as u16).to_be_bytes();
        let key = [&[HISTORY], &day[..], vin.as_bytes(), &[0], &version.to_be_bytes()].concat();
        let value = [&[1], &at.to_be_bytes()[..], version.to_string().as_bytes()].concat();
        (key, value)
    }

    fn entry(version: u64, at: u64) -> HistoryEntry {
        let (key, value) = raw(VIN, version, at);
        HistoryEntry::decode(&key, &value).unwrap()
    }

    fn fold(state: &dyn StateStore, mark: u64, entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) {
        let mut fold = state.fold().unwrap();
        entries.for_each(|(key, value)| fold.put(&key, &value).unwrap());
        fold.commit(FoldMark { applied: mark, through: mark }).unwrap();
    }

    fn versions(page: &HistoryPage) -> Vec<u64> {
        page.entries.iter().map(|entry| String::from_utf8(entry.json.clone()).unwrap().parse().unwrap()).collect()
    }

    /// All pages, each of which is no longer than it may be.
    fn all(folded: &FoldedShard, mut range: HistoryRange, pending: &[HistoryEntry]) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let is_behind = |entry: &&HistoryEntry| range.after.is_none_or(|after| entry.place > after);
            let pending = pending.iter().filter(is_behind).take(range.limit).cloned().collect();
            let page = folded.history(&range, pending).unwrap();
            assert!(page.entries.len() <= range.limit);
            all.extend(versions(&page));
            let Some(next) = page.next else { return all };
            assert!(range.after < Some(next), "it goes on");
            range.after = Some(next);
        }
    }

    #[test]
    fn both_parts_are_one_history_in_pages_of_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let state: Arc<dyn StateStore> = Arc::new(RedbState::open(folder.path(), StateOptions::new(0)).unwrap());
        let folded = FoldedShard::default();
        let at = |version: u64| version * DAY / 7;
        let pending: Vec<HistoryEntry> = (40..=60).map(|version| entry(version, at(version))).collect();
        assert_eq!(all(&folded, range(9), &pending), (40..=60).collect::<Vec<u64>>(), "nothing is folded anywhere");
        folded.open(&state);
        fold(state.as_ref(), 1, (1..=50).map(|version| raw(VIN, version, at(version))));
        fold(state.as_ref(), 2, (1..=80).map(|version| raw("WVWZZZ1JZ3W386752", version, at(version))));
        for limit in [1, 2, 3, 7, 20, 59, 60, 61, 1000] {
            assert_eq!(all(&folded, range(limit), &pending), (1..=60).collect::<Vec<u64>>(), "pages of {limit}");
        }
        let few = HistoryRange { from: Millis(at(5)), to: Millis(at(9)), ..range(100) };
        assert_eq!(all(&folded, few, &[]), [5, 6, 7, 8, 9]);
        assert_eq!(
            folded.history(&HistoryRange { name: "other".into(), ..range(5) }, vec![]).unwrap(),
            HistoryPage::default()
        );
        drop(state);
        assert_eq!(all(&folded, range(100), &[]), [] as [u64; 0], "the shard has ended");
    }

    #[test]
    fn much_is_read_a_little_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let state: Arc<dyn StateStore> = Arc::new(RedbState::open(folder.path(), StateOptions::new(0)).unwrap());
        let folded = FoldedShard::default();
        folded.open(&state);
        fold(state.as_ref(), 1, (1..=25_000).map(|version| raw(VIN, version, version)));
        let last = HistoryRange { from: Millis(24_998), ..range(100) };
        let page = folded.history(&last, vec![]).unwrap();
        assert_eq!((page.entries.len(), page.next.unwrap().to_string()), (0, format!("0-{VISITED_MAX}")));
        assert_eq!(all(&folded, last, &[]), [24_998, 24_999, 25_000]);
        let large = |version: u64| {
            let (key, value) = raw(VIN, version, DAY + version);
            (key, [value, vec![b'0'; 300_000]].concat())
        };
        fold(state.as_ref(), 2, (1..=20).map(large));
        let page = folded.history(&HistoryRange { from: Millis(DAY), ..range(1000) }, vec![]).unwrap();
        assert_eq!(page.entries.len(), 4);
    }

    /// Whoever asks the shard first and then reads what is folded misses nothing and sees nothing twice, whenever the fold is committed.
    #[test]
    fn a_fold_under_way_hides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let state: Arc<dyn StateStore> = Arc::new(RedbState::open(folder.path(), StateOptions::new(0)).unwrap());
        let folded = FoldedShard::default();
        folded.open(&state);
        // What the shard has: from one version to another.
        let (pending, done) = (Mutex::new((1, 1)), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..60 {
                    let upto = pending.lock().unwrap().1;
                    let from = pending.lock().unwrap().0;
                    fold(state.as_ref(), round, (from..upto).map(|version| raw(VIN, version, version)));
                    let mut pending = pending.lock().unwrap();
                    *pending = (upto, upto + 7);
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let (from, to) = *pending.lock().unwrap();
                let asked = (from..to).map(|version| entry(version, version)).collect();
                let page = folded.history(&range(10_000), asked).unwrap();
                let found = versions(&page);
                assert_eq!(found, (1..found.len() as u64 + 1).collect::<Vec<u64>>());
                assert!(found.len() as u64 >= to - 1);
            }
        });
    }
}
