//! A small ordered map of opaque keys to opaque values in one file, every change of which is durable when it returns.
//!
//! Owns the revision: the number of changes there ever were. It keeps what has no log: little, and seldom changed. What may go wrong
//! with the file, and opening it again after a failure, is the work of [`RedbState`]. It takes no lock: whoever has the folder does.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, RealDisk};
use crate::state::{FoldMark, RedbState, StateError, StateOptions, StateStore, VisitEntry};

/// What the file says instead of a shard's number: it belongs to none.
const NO_SHARD: u32 = u32::MAX;
/// Memory for what was read and what is to be written, in bytes.
const CACHE_BYTES: usize = 16 << 20;

/// Keys with their new values; without one, the key goes.
pub type MapChanges = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// See the module. May be used from any thread; readers see the last change that was made.
#[derive(Debug)]
pub struct DurableMap(Kept);

#[derive(Debug)]
enum Kept {
    OnDisk { state: RedbState, turn: Mutex<()> },
    InMemory(Mutex<InMemory>),
}

#[derive(Debug, Default)]
struct InMemory {
    revision: u64,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl DurableMap {
    /// Opens the map in the file `file` of the folder `folder`, or begins one. All of it is read once and checked.
    ///
    /// # Errors
    /// [`StateError::Version`], [`StateError::Shard`], [`StateError::Corrupt`], [`StateError::Io`].
    pub fn open(folder: &Path, file: &str) -> Result<DurableMap, StateError> {
        DurableMap::open_on(Arc::new(RealDisk::new(folder)?), file)
    }

    /// Opens the map on a disk of any kind.
    ///
    /// # Errors
    /// As [`open`](DurableMap::open).
    pub fn open_on(disk: Arc<dyn Disk>, file: &str) -> Result<DurableMap, StateError> {
        let options = StateOptions { shard: NO_SHARD, cache_bytes: CACHE_BYTES, run: None };
        let state = RedbState::open_named(disk, file, options)?;
        Ok(DurableMap(Kept::OnDisk { state, turn: Mutex::default() }))
    }

    /// One that is gone with the value.
    pub fn in_memory() -> DurableMap {
        DurableMap(Kept::InMemory(Mutex::default()))
    }

    /// How many changes there were. After a [`change`](DurableMap::change) that failed, it tells whether that one was made all the same.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`].
    pub fn revision(&self) -> Result<u64, StateError> {
        match &self.0 {
            Kept::OnDisk { state, .. } => Ok(state.mark()?.map_or(0, |mark| mark.applied)),
            Kept::InMemory(memory) => Ok(taken(memory).revision),
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        match &self.0 {
            Kept::OnDisk { state, .. } => state.entry(key),
            Kept::InMemory(memory) => Ok(taken(memory).entries.get(key).cloned()),
        }
    }

    /// Visits the entries from the first whose key is not before `from`, in the order of their keys, until `visit` breaks. All of them are
    /// of one moment. Do not change the map meanwhile.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`].
    pub fn visit_from(&self, from: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        match &self.0 {
            Kept::OnDisk { state, .. } => state.entries_from(from, visit),
            Kept::InMemory(memory) => {
                let memory = taken(memory);
                let mut rest = memory.entries.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
                let _ = rest.try_for_each(|(key, value)| visit(key, value));
                Ok(())
            }
        }
    }

    /// Makes all the changes or none, durably; returns the new revision.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Corrupt`], [`StateError::TooLarge`]. None was made, as far as can be told now; where even that
    /// cannot, [`revision`](DurableMap::revision) will tell.
    pub fn change(&self, changes: &MapChanges) -> Result<u64, StateError> {
        match &self.0 {
            Kept::OnDisk { state, turn } => {
                let _turn = taken(turn);
                let next = self.revision()? + 1;
                write(state, changes, next).or_else(|error| match state.mark() {
                    Ok(Some(mark)) if mark.applied == next => Ok(()),
                    _ => Err(error),
                })?;
                Ok(next)
            }
            Kept::InMemory(memory) => {
                let mut memory = taken(memory);
                for (key, value) in changes {
                    match value {
                        Some(value) => memory.entries.insert(key.clone(), value.clone()),
                        None => memory.entries.remove(key),
                    };
                }
                memory.revision += 1;
                Ok(memory.revision)
            }
        }
    }

    /// Copies all of it, as it is at one moment, into a new file of the folder `to`, durably. Others may change the map meanwhile. Returns the
    /// bytes of keys and values.
    ///
    /// # Errors
    /// Those of reading here and of writing there.
    pub fn copy_to(&self, to: &Path, file: &str) -> Result<u64, StateError> {
        let copy = DurableMap::open(to, file)?;
        let Kept::OnDisk { state, .. } = &copy.0 else { return Ok(0) };
        let revision = self.revision()?;
        let (mut fold, mut bytes, mut outcome) = (state.fold()?, 0, Ok(()));
        self.visit_from(&[], &mut |key, value| {
            bytes += (key.len() + value.len()) as u64;
            outcome = fold.put(key, value);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
        fold.commit(FoldMark { applied: revision, through: revision })?;
        Ok(bytes)
    }
}

fn write(state: &RedbState, changes: &MapChanges, revision: u64) -> Result<(), StateError> {
    let mut fold = state.fold()?;
    for (key, value) in changes {
        match value {
            Some(value) => fold.put(key, value)?,
            None => fold.remove(key)?,
        }
    }
    fold.commit(FoldMark { applied: revision, through: revision })
}

fn taken<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Failure, FaultyDisk, Random};

    fn change(key: &str, value: Option<&str>) -> MapChanges {
        MapChanges::from([(key.into(), value.map(Into::into))])
    }

    fn all(map: &DurableMap, from: &str) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut visit = |key: &[u8], value: &[u8]| {
            all.push((text(key), text(value)));
            ControlFlow::Continue(())
        };
        map.visit_from(from.as_bytes(), &mut visit).unwrap();
        all
    }

    #[test]
    fn on_disk_and_in_memory_it_is_the_same_map() {
        let folder = tempfile::tempdir().unwrap();
        for map in [DurableMap::in_memory(), DurableMap::open(folder.path(), "map.redb").unwrap()] {
            assert_eq!(map.revision().unwrap(), 0);
            for (revision, (key, value)) in
                (1..).zip([("b", Some("1")), ("a", Some("2")), ("c", Some("3")), ("b", None)])
            {
                assert_eq!(map.change(&change(key, value)).unwrap(), revision);
            }
            assert_eq!(map.get(b"a").unwrap().unwrap(), b"2");
            assert_eq!(map.get(b"b").unwrap(), None);
            assert_eq!(all(&map, ""), [("a".into(), "2".into()), ("c".into(), "3".into())]);
            assert_eq!(all(&map, "aa"), [("c".into(), "3".into())]);
            let copy = tempfile::tempdir().unwrap();
            assert_eq!(map.copy_to(copy.path(), "copy.redb").unwrap(), 4);
            let copy = DurableMap::open(copy.path(), "copy.redb").unwrap();
            assert_eq!((all(&copy, ""), copy.revision().unwrap()), (all(&map, ""), 4));
        }
        let again = DurableMap::open(folder.path(), "map.redb").unwrap();
        assert_eq!((all(&again, "").len(), again.revision().unwrap()), (2, 4));
    }

    #[test]
    fn a_state_of_a_shard_is_none() {
        let folder = tempfile::tempdir().unwrap();
        drop(RedbState::open(folder.path(), StateOptions::new(0)).unwrap());
        assert!(matches!(DurableMap::open(folder.path(), "state.redb"), Err(StateError::Shard { .. })));
    }

    /// The power goes, and disks fail: what a change said it made is there, and what failed was made whole or not at all.
    #[test]
    fn a_change_that_returned_is_there_after_the_power_went() {
        for seed in 0..60 {
            let random = &mut Random::new(seed);
            let disk = FaultyDisk::new(random.next());
            let (mut sure, mut maybe) = (0, 0);
            for life in 0..4 {
                let map = DurableMap::open_on(Arc::new(disk.clone()), "map.redb").unwrap();
                let found = map.revision().unwrap();
                assert!(found == sure || found == maybe, "seed {seed}, life {life}: {found}, not {sure} or {maybe}");
                let entries = all(&map, "");
                assert!(
                    entries.iter().all(|(_, value)| *value == found.to_string()),
                    "seed {seed}: {found} {entries:?}"
                );
                sure = found;
                disk.fail_after(random.below(60), if random.chance(50) { Failure::PowerOff } else { Failure::Io });
                for _ in 0..20 {
                    let value = (sure + 1).to_string();
                    maybe = sure + 1;
                    let changes = ["a", "b", "c"].map(|key| (key.into(), Some(value.clone().into())));
                    match map.change(&changes.into()) {
                        Ok(revision) => {
                            assert_eq!(revision, sure + 1);
                            sure = revision;
                        }
                        Err(_) => match map.revision() {
                            Ok(revision) => sure = revision,
                            Err(_) => break,
                        },
                    }
                }
                drop(map);
                disk.plan_nothing();
                disk.power_cut(random.next());
            }
        }
    }
}
