//! A disk in memory that loses power, fills up and fails, the same way for the same seed.
//!
//! Owns what tests and simulations may do to a log. Never used by a broker.
//!
//! It is nastier than a real disk: what was not synced survives a power cut sector by sector (512 bytes) in any mixture of
//! old and new, names made, changed or removed without a sync of the folder survive one without the other, and what a failed sync
//! was about is lost for good, though it can still be read until the power goes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod image;
mod random;

pub use random::Random;

use crate::disk::{Disk, DiskFile, FolderLock, LockError, ReadAt};
use image::{Image, Survival};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The device reports an error (`EIO`).
    Io,
    /// There is no space (`ENOSPC`).
    Full,
    /// The process has no descriptor left (`EMFILE`).
    NoFile,
    /// The power goes: this operation may be half done, and none follows.
    PowerOff,
}

/// A folder in memory. Clones are the same folder.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: Random,
    files: Vec<Image>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    /// Operations that change something, so far.
    operations: u64,
    failures: BTreeMap<u64, Failure>,
    capacity_bytes: u64,
    locked: bool,
    powered: bool,
    /// Whether the system lets nothing be read, for as long as that lasts.
    reads_fail: bool,
    /// Counts power cuts: whatever was open before one is dead.
    life: u64,
}

#[derive(Debug, Clone)]
enum NameChange {
    Add(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl FaultyDisk {
    /// An empty folder with no limit and no failures planned.
    pub fn new(seed: u64) -> FaultyDisk {
        let state = State {
            random: Random::new(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            operations: 0,
            failures: BTreeMap::new(),
            capacity_bytes: u64::MAX,
            locked: false,
            powered: true,
            reads_fail: false,
            life: 0,
        };
        FaultyDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Cuts the power and turns it on again. What was not synced survives in part, as `seed` has it; files opened before
    /// are dead.
    pub fn power_cut(&self, seed: u64) {
        let state = &mut *self.state();
        let random = &mut Random::new(seed);
        let survival = Survival::any(random);
        for file in &mut state.files {
            file.power_cut(survival, random);
        }
        for change in std::mem::take(&mut state.unsynced_names) {
            if survival.keeps(random) {
                apply(&mut state.durable_names, change);
            }
        }
        state.names = state.durable_names.clone();
        state.failures.clear();
        (state.locked, state.powered) = (false, true);
        state.life += 1;
    }

    /// Operations that change something (writes, syncs, names), so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Plans a failure `operations` operations from now; 0 is the next.
    pub fn fail_after(&self, operations: u64, failure: Failure) {
        let state = &mut *self.state();
        state.failures.insert(state.operations + operations, failure);
    }

    /// Forgets the failures planned and not come yet.
    pub fn plan_nothing(&self) {
        self.state().failures.clear();
    }

    /// Whether no planned failure has turned the power off since the last cut.
    pub fn is_powered(&self) -> bool {
        self.state().powered
    }

    /// From now on reads fail, or do so no more. Nothing is damaged.
    pub fn fail_reads(&self, fail: bool) {
        self.state().reads_fail = fail;
    }

    /// The room there is for all files together, in bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity_bytes = bytes;
    }

    /// Flips bits of a file, on the medium and in memory.
    ///
    /// # Panics
    /// Where there is no such file or byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        let state = &mut *self.state();
        state.files[state.names[name]].flip(offset as usize, mask);
    }

    /// The content of a file as a reader sees it.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].current().to_vec()
    }

    /// Puts a durable file into the folder, in place of one of that name.
    pub fn put(&self, name: &str, content: &[u8]) {
        let state = &mut *self.state();
        state.files.push(Image::durable(content));
        let file = state.files.len() - 1;
        state.names.insert(name.to_owned(), file);
        state.durable_names.insert(name.to_owned(), file);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, state: &State, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { disk: self.clone(), file, life: state.life })
    }

    fn change_names(&self, change: NameChange) -> io::Result<()> {
        let state = &mut *self.state();
        state.begin()?;
        state.unsynced_names.push(change.clone());
        apply(&mut state.names, change);
        Ok(())
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: NameChange) {
    match change {
        NameChange::Add(name, file) => {
            names.insert(name, file);
        }
        NameChange::Rename(from, to, file) => {
            names.remove(&from);
            names.insert(to, file);
        }
        NameChange::Remove(name) => {
            names.remove(&name);
        }
    }
}

impl State {
    /// Counts an operation that changes something, and fails it if that is planned.
    fn begin(&mut self) -> io::Result<()> {
        if !self.powered {
            return Err(dead());
        }
        let failure = self.failures.remove(&self.operations);
        self.operations += 1;
        match failure {
            None => Ok(()),
            Some(Failure::Io) => Err(io::Error::other("injected failure")),
            Some(Failure::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Failure::NoFile) => Err(rustix::io::Errno::MFILE.into()),
            Some(Failure::PowerOff) => {
                self.powered = false;
                Err(dead())
            }
        }
    }

    fn file_of(&self, name: &str) -> io::Result<usize> {
        if !self.powered {
            return Err(dead());
        }
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].current().len() as u64).sum()
    }
}

fn dead() -> io::Error {
    io::Error::other("the power is off")
}

impl Disk for FaultyDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        if self.state().names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = {
            let state = &mut *self.state();
            state.files.push(Image::default());
            state.files.len() - 1
        };
        self.change_names(NameChange::Add(name.to_owned(), file))?;
        Ok(self.file(&self.state(), file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        let file = state.file_of(name)?;
        Ok(self.file(&state, file))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.powered { Ok(state.names.keys().cloned().collect()) } else { Err(dead()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.state().file_of(from)?;
        self.change_names(NameChange::Rename(from.to_owned(), to.to_owned(), file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().file_of(name)?;
        self.change_names(NameChange::Remove(name.to_owned()))
    }

    fn sync_folder(&self) -> io::Result<()> {
        let state = &mut *self.state();
        state.begin()?;
        state.unsynced_names.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn FolderLock>, LockError> {
        let state = &mut *self.state();
        if std::mem::replace(&mut state.locked, true) {
            return Err(LockError::Held { path: self.describe("lock"), holder: "this process".to_owned() });
        }
        Ok(Box::new(FaultyLock { disk: self.clone(), life: state.life }))
    }

    fn unguessable(&self) -> u64 {
        self.state().random.next().max(1)
    }

    fn describe(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyDisk,
    life: u64,
}

impl FolderLock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let state = &mut *self.disk.state();
        if state.life == self.life {
            state.locked = false;
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    file: usize,
    life: u64,
}

impl FaultyFile {
    /// The state, if the power has been on since the file was opened.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.powered && state.life == self.life { Ok(state) } else { Err(dead()) }
    }

    fn resize(&self, size: u64, shrink: bool) -> io::Result<()> {
        let state = &mut *self.state()?;
        state.begin()?;
        let old = state.files[self.file].current().len() as u64;
        let new = if shrink { size } else { size.max(old) };
        if new > old && state.used_bytes() + (new - old) > state.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.files[self.file].resize(new as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let state = &mut *self.state()?;
        let outcome = state.begin();
        if outcome.is_ok() {
            state.files[self.file].sync();
        } else if state.powered {
            let survival = Survival::any(&mut state.random);
            state.files[self.file].fail_sync(survival, &mut state.random);
        }
        outcome
    }
}

impl ReadAt for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state()?;
        if state.reads_fail {
            return Err(io::Error::other("reads fail, as planned"));
        }
        state.files[self.file].current().read_at(buffer, offset)
    }
}

impl DiskFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.state()?.files[self.file].current().len() as u64)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.state()?;
        let outcome = state.begin();
        // A write that fails has written some of it.
        let count = if outcome.is_ok() { bytes.len() } else { state.random.below(bytes.len() as u64 + 1) as usize };
        state.files[self.file].write(&bytes[..count], offset as usize);
        outcome
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.resize(size, false)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.resize(size, true)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}
