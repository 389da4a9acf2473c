//! A folded state in memory, for runs in which redb would be too slow.
//!
//! Owns entries and bodies as the last commit left them. A commit is whole and durable as long as the disk has power; what a
//! device does to one half done is played with redb.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use causeway_storage::disk::Disk;
use causeway_storage::state::{VisitBody, VisitEntry};
use causeway_storage::{Fold, FoldMark, StateError, StateStore};

#[derive(Debug, Clone, Default)]
struct Content {
    mark: Option<FoldMark>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    bodies: BTreeMap<u64, Bytes>,
}

/// See the module. Clones are the same state.
#[derive(Clone)]
pub(crate) struct CommittedState {
    disk: Arc<dyn Disk>,
    content: Arc<Mutex<Content>>,
}

impl fmt::Debug for CommittedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommittedState").finish_non_exhaustive()
    }
}

impl CommittedState {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> CommittedState {
        CommittedState { disk, content: Arc::default() }
    }

    /// The same state in the next run of the broker.
    pub(crate) fn on(&self, disk: Arc<dyn Disk>) -> CommittedState {
        CommittedState { disk, content: Arc::clone(&self.content) }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for CommittedState {
    fn mark(&self) -> Result<Option<FoldMark>, StateError> {
        Ok(self.content().mark)
    }

    fn entry_bytes(&self) -> Result<u64, StateError> {
        let bytes = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.len() + value.len()) as u64;
        Ok(self.content().entries.iter().map(bytes).sum())
    }

    fn entries_from(&self, from: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        for (key, value) in self.content().entries.range(from.to_vec()..) {
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn body(&self, lsn: u64) -> Result<Option<Bytes>, StateError> {
        Ok(self.content().bodies.get(&lsn).cloned())
    }

    fn bodies(&self, visit: &mut VisitBody<'_>) -> Result<(), StateError> {
        for (lsn, body) in &self.content().bodies {
            if visit(*lsn, body.len() as u64) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn fold(&self) -> Result<Box<dyn Fold>, StateError> {
        let changed = self.content().clone();
        Ok(Box::new(OpenFold { state: self.clone(), changed }))
    }

    fn bytes_on_disk(&self) -> Result<u64, StateError> {
        Ok(0)
    }

    fn compact(&self) -> Result<(), StateError> {
        Ok(())
    }

    fn describe(&self) -> &'static str {
        "kept by the simulation"
    }
}

struct OpenFold {
    state: CommittedState,
    changed: Content,
}

impl Fold for OpenFold {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.changed.entries.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.changed.entries.remove(key);
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], entries_max: usize) -> Result<usize, StateError> {
        let range = self.changed.entries.range(from.to_vec()..to.to_vec());
        let keys: Vec<Vec<u8>> = range.take(entries_max).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| drop(self.changed.entries.remove(key)));
        Ok(keys.len())
    }

    fn put_body(&mut self, lsn: u64, bytes: &[u8]) -> Result<(), StateError> {
        self.changed.bodies.insert(lsn, Bytes::copy_from_slice(bytes));
        Ok(())
    }

    fn remove_body(&mut self, lsn: u64) -> Result<(), StateError> {
        self.changed.bodies.remove(&lsn);
        Ok(())
    }

    fn commit(self: Box<Self>, mark: FoldMark) -> Result<(), StateError> {
        // It needs the device, as anything durable does.
        self.state.disk.sync_folder().map_err(StateError::Io)?;
        let mut changed = self.changed;
        changed.mark = Some(mark);
        *self.state.content() = changed;
        Ok(())
    }
}
