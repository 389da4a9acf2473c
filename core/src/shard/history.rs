//! History that is not in the folded state yet.
//!
//! Owns it from when a transition was decided until the fold that has it is committed, says what of the folded history is too old, and
//! which clients wait for a fold because they change shadows faster than their history is folded. A replay notes again what no committed
//! fold has. The layout is that of [`crate::history`].

use std::collections::BTreeMap;

use causeway_fleet::Vin;

use super::{Change, Shard, mark_dirty};
use crate::history::{self, HISTORY, HistoryEntry, HistoryRange};
use crate::session::SessionKey;
use crate::{ConnectionId, Millis};

/// What waits for folds takes no more memory than this, about. More changes are refused then.
const PENDING_BYTES_MAX: usize = 256 << 20;
/// From here on, whoever changes a shadow with a message is not listened to until a fold is committed: so a shard whose folds are slower
/// than its clients slows those down, and refuses nobody. What came in one turn of each client fits above.
const PENDING_BYTES_SLOW: usize = PENDING_BYTES_MAX / 2;
/// A fold does not wait for its time then.
const PENDING_BYTES_DUE: usize = PENDING_BYTES_SLOW / 4;
/// What an entry takes beside its key and value.
const ENTRY_BYTES: usize = 96;
/// Old entries that one fold removes at least, and for each entry that it puts: else history that comes fast would outgrow its days.
const PRUNED_PER_FOLD: usize = 100_000;
const PRUNED_PER_ENTRY: usize = 2;
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
    /// Clients that are not listened to until a fold ends.
    waiting: Vec<ConnectionId>,
    /// Of those that were noted, so many are still to be put a slice at a time, and there are so many rounds more of that.
    left: usize,
    rounds: u32,
}

impl Pending {
    fn note(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let key_bytes = key.len() + ENTRY_BYTES;
        self.bytes += key_bytes + value.len();
        if let Some(before) = self.noted.insert(key, value) {
            // A replay says the same again.
            self.bytes -= key_bytes + before.len();
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
        let bytes = |(key, value): (&Vec<u8>, &Vec<u8>)| key.len() + value.len() + ENTRY_BYTES;
        if committed {
            self.bytes -= folding.iter().map(bytes).sum::<usize>();
        } else {
            for (key, value) in folding {
                // What was noted again since is the same.
                let again = self.noted.insert(key.clone(), value);
                self.bytes -= again.map_or(0, |value| bytes((&key, &value)));
            }
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

    /// Whether there is room for more history. There is not only where folds fail for long, or where those who are not slowed down (other
    /// shards, and questions that do not come by MQTT) change very much.
    pub(super) fn has_room_for_history(&self) -> bool {
        self.history.bytes < PENDING_BYTES_MAX
    }

    /// Whether so much waits for a fold that the next is due at once.
    pub fn is_fold_due(&self) -> bool {
        self.history.bytes >= PENDING_BYTES_DUE && self.checkpoint.is_none() && self.folding.is_none()
    }

    /// Somebody changed a shadow with a message: a client is not listened to for a while where that is faster than folds are. Other shards
    /// are, whatever they send: two that did not listen to each other would wait for ever. And while folds fail nobody waits for one.
    pub(super) fn slow_down(&mut self, session: Option<SessionKey>) {
        if self.history.bytes < PENDING_BYTES_SLOW || self.fold_failed {
            return;
        }
        let connection = session.and_then(|key| self.sessions.get(key as usize)).and_then(|session| session.connection);
        let open = connection.and_then(|id| self.connections.get_mut(id.index()).filter(|open| open.id == id));
        if let Some(open) = open.filter(|open| !open.is_link() && !open.awaits_fold) {
            open.awaits_fold = true;
            self.history.waiting.push(open.id);
            self.counters.shadow_waits += 1;
        }
    }

    /// A fold ended. Whoever waited for it is listened to again.
    pub(super) fn history_ended(&mut self, committed: bool) {
        self.history.ended(committed);
        for id in std::mem::take(&mut self.history.waiting) {
            if let Some(open) = self.connections.get_mut(id.index()).filter(|open| open.id == id) {
                open.awaits_fold = false;
                mark_dirty(&mut self.dirty, open);
            }
        }
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

    /// What a fold that has all its entries removes of the history because it is too old. No more than a fold can be asked for at once: the next
    /// goes on.
    pub(super) fn fold_pruned(&self) -> Change {
        let oldest = u32::from(history::day(self.newest)).saturating_sub(self.limits.shadow_history_days);
        let to = history::first_of_day(oldest as u16);
        let entries_max = PRUNED_PER_FOLD.max(PRUNED_PER_ENTRY * self.history.folding.len());
        Change::RemoveRange { from: vec![HISTORY], to, entries_max }
    }
}
