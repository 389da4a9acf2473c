//! Folded state in sled 0.34, behind the cargo feature `sled`.
//!
//! Owns the trees. **Not safe against the power going**: sled's `flush` writes and does not sync, so what a fold committed is safe
//! from the process ending, not from the system ending. Whoever truncates the log behind such a fold can lose what was acknowledged.
//! It is here to be compared, never to be chosen. A fold is kept in memory until it is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use sled::{Batch, Db, Tree};

use super::{Fold, FoldMark, StateError, StateOptions, StateStore, VisitBody, VisitEntry, count_entry_bytes};

const FOLDER_NAME: &str = "state.sled";
const FORMAT_KEY: &str = "format";
const FORMAT_VERSION: u64 = 1;
const SHARD_KEY: &str = "shard";
const MARK_KEY: &str = "mark";
/// sled needs some memory whatever it is told.
const CACHE_BYTES_MIN: u64 = 1 << 20;

/// Folded state in a folder `state.sled`. **Not safe against the power going**: see the module's head.
#[derive(Debug)]
pub struct SledState {
    store: Arc<Store>,
}

impl SledState {
    /// Opens the state in the folder at `path`, or begins one.
    ///
    /// # Errors
    /// [`StateError::Version`], [`StateError::Shard`], [`StateError::Corrupt`], [`StateError::Io`].
    pub fn open(path: impl Into<PathBuf>, options: StateOptions) -> Result<SledState, StateError> {
        let folder = path.into().join(FOLDER_NAME);
        let store = Store {
            folder,
            options,
            trees: RwLock::new(None),
            folding: AtomicBool::new(false),
            scans: RwLock::new(()),
        };
        store.trees()?;
        Ok(SledState { store: Arc::new(store) })
    }
}

#[derive(Debug)]
struct Store {
    folder: PathBuf,
    options: StateOptions,
    /// None after a failure, until the next call.
    trees: RwLock<Option<Trees>>,
    folding: AtomicBool,
    /// Held by scans, and alone by a commit: sled's iterators would see half of it.
    scans: RwLock<()>,
}

#[derive(Debug, Clone)]
struct Trees {
    db: Db,
    entries: Tree,
    /// By the number of the record, highest byte first: sled orders keys by their bytes.
    bodies: Tree,
    meta: Tree,
}

impl Store {
    /// The trees, opened if they are not.
    fn trees(&self) -> Result<Trees, StateError> {
        if let Some(trees) = &*self.trees.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(trees.clone());
        }
        let mut slot = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(trees) = &*slot {
            return Ok(trees.clone());
        }
        let trees = self.open()?;
        *slot = Some(trees.clone());
        Ok(trees)
    }

    fn open(&self) -> Result<Trees, StateError> {
        let cache_bytes = (self.options.cache_bytes as u64).max(CACHE_BYTES_MIN);
        let db = sled::Config::new().path(&self.folder).cache_capacity(cache_bytes).open();
        let db = db.map_err(|error| self.error(error))?;
        let tree = |name: &str| db.open_tree(name).map_err(|error| self.error(error));
        let trees = Trees { entries: tree("entries")?, bodies: tree("bodies")?, meta: tree("meta")?, db: db.clone() };
        let expected = self.options.shard;
        let number = |key, new: u64| -> Result<u64, StateError> {
            match trees.meta.get(key).map_err(|error| self.error(error))? {
                Some(bytes) => self.number(&bytes),
                None => {
                    trees.meta.insert(key, &new.to_be_bytes()).map_err(|error| self.error(error))?;
                    Ok(new)
                }
            }
        };
        let file = || self.folder.display().to_string();
        match number(FORMAT_KEY, FORMAT_VERSION)? {
            FORMAT_VERSION => {}
            version => return Err(StateError::Version { file: file(), version }),
        }
        match number(SHARD_KEY, u64::from(expected))? {
            found if found == u64::from(expected) => Ok(trees),
            found => Err(StateError::Shard { file: file(), found, expected }),
        }
    }

    fn number(&self, bytes: &[u8]) -> Result<u64, StateError> {
        bytes.try_into().map(u64::from_be_bytes).map_err(|_| self.corrupt("a number does not have eight bytes"))
    }

    fn corrupt(&self, detail: &str) -> StateError {
        StateError::Corrupt { file: self.folder.display().to_string(), detail: detail.to_owned() }
    }

    fn error(&self, error: sled::Error) -> StateError {
        match error {
            sled::Error::Io(error) => StateError::Io(error),
            error => self.corrupt(&error.to_string()),
        }
    }

    /// Closes sled after a failure; it is opened again when it is needed.
    fn check<T>(&self, outcome: Result<T, StateError>) -> Result<T, StateError> {
        if matches!(outcome, Err(StateError::Io(_) | StateError::Corrupt { .. })) {
            *self.trees.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        outcome
    }

    fn with_trees<T>(&self, ask: impl FnOnce(&Trees) -> Result<T, StateError>) -> Result<T, StateError> {
        let trees = self.trees()?;
        self.check(ask(&trees))
    }

    fn commit(&self, changes: &SledFold, mark: FoldMark) -> Result<(), StateError> {
        let mut bytes = mark.applied.to_be_bytes().to_vec();
        bytes.extend_from_slice(&mark.through.to_be_bytes());
        let mut entries = Batch::default();
        for (key, value) in &changes.entries {
            match value {
                Some(value) => entries.insert(key.as_slice(), value.as_slice()),
                None => entries.remove(key.as_slice()),
            }
        }
        let _alone = self.scans.write().unwrap_or_else(PoisonError::into_inner);
        self.with_trees(|trees| {
            let outcome = (&trees.entries, &trees.bodies, &trees.meta).transaction(|(tree, bodies, meta)| {
                tree.apply_batch(&entries)?;
                bodies.apply_batch(&changes.bodies)?;
                meta.insert(MARK_KEY, bytes.as_slice())?;
                Ok::<(), ConflictableTransactionError<()>>(())
            });
            outcome.map_err(|error: TransactionError<()>| match error {
                TransactionError::Storage(error) => self.error(error),
                TransactionError::Abort(()) => self.corrupt("a fold was aborted"),
            })?;
            trees.db.flush().map_err(|error| self.error(error))?;
            Ok(())
        })
    }
}

impl StateStore for SledState {
    fn mark(&self) -> Result<Option<FoldMark>, StateError> {
        let store = &self.store;
        store.with_trees(|trees| {
            let Some(bytes) = trees.meta.get(MARK_KEY).map_err(|error| store.error(error))? else { return Ok(None) };
            let Some((applied, through)) = bytes.split_at_checked(8) else {
                return Err(store.corrupt("half of its mark is missing"));
            };
            Ok(Some(FoldMark { applied: store.number(applied)?, through: store.number(through)? }))
        })
    }

    fn entry_bytes(&self) -> Result<u64, StateError> {
        count_entry_bytes(self)
    }

    fn entries_from(&self, from: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        let store = &self.store;
        store.with_trees(|trees| {
            let _scan = store.scans.read().unwrap_or_else(PoisonError::into_inner);
            for entry in trees.entries.range(from..) {
                let (key, value) = entry.map_err(|error| store.error(error))?;
                if visit(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn body(&self, lsn: u64) -> Result<Option<Bytes>, StateError> {
        let store = &self.store;
        store.with_trees(|trees| {
            let found = trees.bodies.get(lsn.to_be_bytes()).map_err(|error| store.error(error))?;
            Ok(found.map(|body| Bytes::copy_from_slice(&body)))
        })
    }

    fn bodies(&self, visit: &mut VisitBody<'_>) -> Result<(), StateError> {
        let store = &self.store;
        store.with_trees(|trees| {
            let _scan = store.scans.read().unwrap_or_else(PoisonError::into_inner);
            for entry in trees.bodies.iter() {
                let (lsn, body) = entry.map_err(|error| store.error(error))?;
                if visit(store.number(&lsn)?, body.len() as u64).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn fold(&self) -> Result<Box<dyn Fold>, StateError> {
        if self.store.folding.swap(true, Ordering::AcqRel) {
            return Err(StateError::Busy);
        }
        let fold = SledFold { store: self.store.clone(), entries: BTreeMap::new(), bodies: Batch::default() };
        self.store.trees()?;
        Ok(Box::new(fold))
    }

    fn bytes_on_disk(&self) -> Result<u64, StateError> {
        let store = &self.store;
        store.with_trees(|trees| trees.db.size_on_disk().map_err(|error| store.error(error)))
    }

    /// sled does it by itself, as it sees fit.
    fn compact(&self) -> Result<(), StateError> {
        Ok(())
    }

    fn describe(&self) -> &'static str {
        "folded state is not synced: a crash of the system or the power going loses messages that were acknowledged"
    }
}

struct SledFold {
    store: Arc<Store>,
    /// The new values of keys; without one, the key goes.
    entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bodies: Batch,
}

impl Drop for SledFold {
    fn drop(&mut self) {
        self.store.folding.store(false, Ordering::Release);
    }
}

impl Fold for SledFold {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.entries.insert(key.to_vec(), Some(value.to_vec()));
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.entries.insert(key.to_vec(), None);
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], entries_max: usize) -> Result<usize, StateError> {
        if from >= to {
            return Ok(0);
        }
        let (store, range) = (&self.store, from.to_vec()..to.to_vec());
        let is_put = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| value.is_some().then(|| key.clone());
        let mut keys: BTreeSet<Vec<u8>> = self.entries.range(range.clone()).filter_map(is_put).collect();
        store.with_trees(|trees| {
            let there = trees
                .entries
                .range(range)
                .keys()
                .filter(|key| !matches!(key, Ok(key) if matches!(self.entries.get(key.as_ref()), Some(None))));
            for key in there.take(entries_max) {
                keys.insert(key.map_err(|error| store.error(error))?.to_vec());
            }
            Ok(())
        })?;
        let removed = keys.len().min(entries_max);
        self.entries.extend(keys.into_iter().take(entries_max).map(|key| (key, None)));
        Ok(removed)
    }

    fn put_body(&mut self, lsn: u64, bytes: &[u8]) -> Result<(), StateError> {
        self.bodies.insert(&lsn.to_be_bytes(), bytes);
        Ok(())
    }

    fn remove_body(&mut self, lsn: u64) -> Result<(), StateError> {
        self.bodies.remove(&lsn.to_be_bytes());
        Ok(())
    }

    fn commit(self: Box<Self>, mark: FoldMark) -> Result<(), StateError> {
        self.store.commit(&self, mark)
    }
}
