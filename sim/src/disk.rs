//! The faulty disk, watched: which writes have certainly reached the medium.
//!
//! Owns that one figure, so that the oracle need not believe what the broker says about durability. Changes nothing of
//! what the disk does.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_storage::disk::{Disk, DiskFile, FolderLock, LockError, ReadAt};
use causeway_storage::fault::FaultyDisk;

/// A write of no more bytes is a mark of the log, which nothing relies on.
const MARK_BYTES: usize = 40;

/// A [`FaultyDisk`] that counts.
#[derive(Debug, Clone)]
pub struct WatchedDisk {
    /// The disk itself, to plan its failures.
    pub faulty: FaultyDisk,
    watch: Arc<Mutex<Watch>>,
}

#[derive(Debug, Default)]
struct Watch {
    /// How many there were.
    writes: u64,
    /// Of each file with writes that were not synced, the first of them.
    unsynced: BTreeMap<String, u64>,
    /// The file of the newest write.
    newest: String,
}

/// A write, and the file it went to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    write: u64,
    file: String,
}

impl WatchedDisk {
    /// A disk with nothing on it.
    pub fn new(seed: u64) -> WatchedDisk {
        WatchedDisk { faulty: FaultyDisk::new(seed), watch: Arc::default() }
    }

    /// Names the newest write.
    pub fn newest(&self) -> Written {
        let watch = self.watch();
        Written { write: watch.writes, file: watch.newest.clone() }
    }

    /// Whether the write has reached the medium.
    pub fn has(&self, written: &Written) -> bool {
        self.watch().unsynced.get(&written.file).is_none_or(|first| *first > written.write)
    }

    /// What was not synced is forgotten with the process that wrote it: a start syncs what it relies on.
    pub fn forget(&self) {
        self.watch().unsynced.clear();
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(WatchedFile { disk: self.clone(), name: name.to_owned(), file })
    }
}

impl Disk for WatchedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.faulty.create(name).map(|file| self.file(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.faulty.open(name).map(|file| self.file(name, file))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.faulty.names()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.faulty.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.faulty.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.faulty.sync_folder()
    }

    fn lock(&self) -> Result<Box<dyn FolderLock>, LockError> {
        self.faulty.lock()
    }

    fn unguessable(&self) -> u64 {
        self.faulty.unguessable()
    }

    fn describe(&self, name: &str) -> String {
        self.faulty.describe(name)
    }
}

#[derive(Debug)]
struct WatchedFile {
    disk: WatchedDisk,
    name: String,
    file: Arc<dyn DiskFile>,
}

impl WatchedFile {
    fn synced(&self, outcome: io::Result<()>) -> io::Result<()> {
        if outcome.is_ok() {
            self.disk.watch().unsynced.remove(&self.name);
        }
        outcome
    }
}

impl ReadAt for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

impl DiskFile for WatchedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if bytes.len() > MARK_BYTES {
            let watch = &mut *self.disk.watch();
            watch.writes += 1;
            let write = watch.writes;
            watch.newest.clone_from(&self.name);
            watch.unsynced.entry(self.name.clone()).or_insert(write);
        }
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.file.allocate(size)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_size(size)
    }

    fn sync_data(&self) -> io::Result<()> {
        let outcome = self.file.sync_data();
        self.synced(outcome)
    }

    fn sync_all(&self) -> io::Result<()> {
        let outcome = self.file.sync_all();
        self.synced(outcome)
    }
}
