//! History that is not in the folded state yet.
//!
//! Owns it from when a transition was decided until the fold that has it is committed, and says what of the folded history is too old. A replay
//! notes again what no committed fold has. The layout is that of [`crate::history`].

use std::collections::BTreeMap;

use causeway_fleet::Vin;

use super::{Change, Shard};
use crate::Millis;
use crate::history::{self, HISTORY, HistoryEntry, HistoryRange};

/// What waits for folds takes no more memory than this, about. It is more than comes between two folds, so it is reached only
/// where none can be committed.
const PENDING_BYTES_MAX: usize = 256 << 20;
/// What an entry takes beside its key and value.
const ENTRY_BYTES: usize = 96;
/// Old entries that one fold removes. They are far fewer than can be noted between two folds.
const PRUNED_PER_FOLD: usize = 100_000;
/// So often what came during a fold is put into it a slice at a time. What is left then is little.
const ROUNDS: u32 = 4;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Not in any fold.
    noted: Entries,
    /// In the fold that is under way.
    folding: Entries,
    bytes: usize,
    /// Of those that were noted, so many are still to be put a slice at a time, and there are so many rounds more of that.
    left: usize,
    rounds: u32,
}

impl Pending {
    fn note(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len() + ENTRY_BYTES;
        if let Some(before) = self.noted.insert(key, value) {
            // A replay says the same again.
            self.bytes -= before.len() + ENTRY_BYTES;
        }
    }

    pub(super) fn begin(&mut self) {
        self.left = self.noted.len();
        self.rounds = ROUNDS;
    }

    /// Puts the next entry into the fold. False where only those are left that [`Pending::finish`] puts.
    pub(super) fn fold_next(&mut self, changes: &mut Vec<Change>) -> bool {
        if self.left == 0 {
            self.rounds = self.rounds.saturating_sub(1);
            self.left = if self.rounds == 0 { 0 } else { self.noted.len() };
        }
        self.left = self.left.saturating_sub(1);
        self.rounds > 0 && self.fold_one(changes)
    }

    /// Puts all that is left. A shadow in the fold may show what was noted since the fold began, and a replay does not note that again.
    pub(super) fn finish(&mut self, changes: &mut Vec<Change>) {
        while self.fold_one(changes) {}
    }

    fn fold_one(&mut self, changes: &mut Vec<Change>) -> bool {
        let Some((key, value)) = self.noted.pop_first() else { return false };
        changes.push(Change::Put { key: key.clone(), value: value.clone() });
        self.folding.insert(key, value);
        true
    }

    pub(super) fn ended(&mut self, committed: bool) {
        let folding = std::mem::take(&mut self.folding);
        if committed {
            let bytes = |(key, value): (&Vec<u8>, &Vec<u8>)| key.len() + value.len() + ENTRY_BYTES;
            self.bytes = self.bytes.saturating_sub(folding.iter().map(bytes).sum());
        } else {
            self.noted.extend(folding);
        }
    }
}

impl Shard {
    /// Notes a transition: the vehicle's shadow of this name (the classic one has none) came to this version, and `json` says how. It
    /// must follow from the record alone, which is replayed where the fold does not have it.
    pub(super) fn note_history(&mut self, vin: &Vin, name: &str, version: u64, at: Millis, json: &[u8]) {
        if self.keeps_history() {
            self.history.note(history::key(history::day(at), vin, name, version), history::value(at, json));
        }
    }

    /// Whether history is kept at all.
    pub(super) fn keeps_history(&self) -> bool {
        self.changed.is_noted && self.limits.shadow_history_days > 0
    }

    /// Whether there is room for more history. There is not only where folds fail for long.
    pub(super) fn has_room_for_history(&self) -> bool {
        self.history.bytes < PENDING_BYTES_MAX
    }

    /// What is asked for, as far as no committed fold has it, in its order. It may be of records that are not durable yet.
    pub fn history_pending(&self, range: &HistoryRange) -> Vec<HistoryEntry> {
        let mut found = Vec::new();
        for (from, to) in range.days() {
            // What a fold has was noted before the rest.
            for entries in [&self.history.folding, &self.history.noted] {
                let entries = entries.range(from.clone()..to.clone());
                let entries = entries.filter_map(|(key, value)| HistoryEntry::decode(key, value).ok());
                found.extend(entries.filter(|entry| range.includes(entry)).take(range.limit - found.len()));
            }
        }
        found
    }

    /// What a fold removes of the history because it is too old. No more than a fold can be asked for at once: the next goes on.
    pub(super) fn fold_pruned(&self) -> Change {
        let oldest = u32::from(history::day(self.newest)).saturating_sub(self.limits.shadow_history_days);
        let to = history::first_of_day(oldest as u16);
        Change::RemoveRange { from: vec![HISTORY], to, entries_max: PRUNED_PER_FOLD }
    }
}
