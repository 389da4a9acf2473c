//! Who the fleet is: vehicles, groups, credentials, enrolment tokens and bans.
//!
//! Owns their file, `registry.redb` in the data directory, and that every change is durable before it is answered, and told to the broker
//! after that, in the order of the changes. It lets nobody in: the front door asks it, and decides.
//!
//! What is asked for at every CONNECT is in memory. Everything else is read from the file, and every change waits for the disk: call it
//! on threads that may wait.

mod bans;
mod codec;
mod credentials;
mod groups;
mod index;
mod standing;
mod subject;
mod tokens;
mod vehicle;
mod vehicles;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use causeway_fleet::{Groups, Vin};
use causeway_storage::inspect::ReadOnlyDisk;
use causeway_storage::{DurableMap, Layout, MapChanges, StateError};

pub use bans::Ban;
pub use credentials::Credential;
pub use groups::Group;
pub use standing::Counts;
pub use subject::Subject;
pub use tokens::{EnrolmentToken, IssuedToken};
pub use vehicle::{Standing, State, Vehicle};
pub use vehicles::{Added, Filter, NewVehicle, Patch};

use codec::{FORMAT, FORMAT_KEY, Read, kind, name_of};
use index::{Effect, Index};

/// The file, in the data directory.
pub const REGISTRY_FILE: &str = "registry.redb";
/// Vehicles that are changed together: one transaction, one answer.
pub const BULK_MAX: usize = 10_000;
/// Entries of a page.
pub const PAGE_MAX: usize = 1_000;
/// Entries that are looked at for a page, wanted or not.
const LOOKED_AT_MAX: usize = 100_000;
/// Bytes of a note, a description or a reason.
const TEXT_BYTES_MAX: usize = 1_024;

/// Why the registry does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What it is about is not there.
    #[error("{0}")]
    Unknown(String),
    /// It does not go with what is there.
    #[error("{0}")]
    Conflict(String),
    /// Whoever asks has no right to it.
    #[error("{0}")]
    Refused(&'static str),
    /// There is enough already.
    #[error("{0}")]
    Limit(String),
    /// An entry is not as it was written.
    #[error("{REGISTRY_FILE} is damaged: the entry \"{key}\": {detail}")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The data directory has begun, and its registry is gone.
    #[error("{}: {REGISTRY_FILE} is missing: it was removed, or not copied with the rest", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read or written.
    #[error("{}", storage_text(.0))]
    Storage(StateError),
}

// Without a source: its words are in the text, with other names for the same.
impl From<StateError> for RegistryError {
    fn from(error: StateError) -> RegistryError {
        RegistryError::Storage(error)
    }
}

/// The words of the store, without what it is otherwise used for.
fn storage_text(error: &StateError) -> String {
    match error {
        StateError::Io(error) => format!("the registry cannot be read or written: {error}"),
        StateError::Shard { file, .. } => format!("{file} is no registry"),
        error => error.to_string(),
    }
}

/// A broker makes its registry before its shards begin: a data directory whose shards have begun has one, or has lost it. Who was
/// banned or retired would be forgotten without a word.
fn check_not_lost(data: &Path) -> Result<(), RegistryError> {
    // What is wrong with the layout itself, others say better.
    let has_begun = matches!(Layout::read(data), Ok(Some(layout)) if layout.begun);
    match has_begun && !data.join(REGISTRY_FILE).exists() {
        true => Err(RegistryError::Missing(data.to_owned())),
        false => Ok(()),
    }
}

impl RegistryError {
    fn damaged(key: &[u8], detail: &'static str) -> RegistryError {
        RegistryError::Damaged { key: key.escape_ascii().to_string(), detail }
    }
}

/// What has changed, once it is durable and the registry answers with it.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed {
    /// Vehicles have other groups.
    Groups(Vec<(Vin, Groups)>),
    /// Vehicles may not be connected any more, because of the state they are in. None: they are not known any more.
    Barred(Vec<(Vin, Option<State>)>),
    /// Credentials are revoked.
    Revoked(Vec<Arc<str>>),
    /// Vehicles may be connected again, as far as their state goes.
    Unbarred(Vec<Vin>),
    /// Somebody is banned.
    Banned(Subject, Ban),
    /// Somebody is not banned any more.
    Unbanned(Subject),
}

/// Called with every change, in their order, while no other is made: it must not change the registry.
pub type Listener = Box<dyn Fn(&Changed) + Send + Sync>;

/// Which part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Begin behind this name.
    pub after: Option<String>,
    /// At most so many; [`PAGE_MAX`] at most.
    pub limit: usize,
}

/// A part of a list, in order, and the name to go on behind, where there may be more.
pub type Listed<T> = (Vec<T>, Option<String>);

/// See the module.
pub struct Registry {
    map: DurableMap,
    index: RwLock<Index>,
    /// One change after the other.
    desk: Mutex<Desk>,
    listeners: RwLock<Vec<Listener>>,
    /// Vehicles that wait to be registered together.
    arriving: Mutex<Vec<Vin>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Desk {
    /// A change of which is not known whether it was made: with the revision that would say so.
    unsettled: Option<(u64, Vec<Effect>, Vec<Changed>)>,
}

/// A change in the making.
struct Staged<'a> {
    map: &'a DurableMap,
    changes: MapChanges,
    effects: Vec<Effect>,
    told: Vec<Changed>,
}

impl Staged<'_> {
    /// A value as it will be.
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RegistryError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.map.get(key)?),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn tell(&mut self, changed: Changed) {
        self.told.push(changed);
    }
}

impl Registry {
    /// Opens the registry of a data directory, or begins one. Takes no lock: whoever calls has the directory.
    ///
    /// # Errors
    /// [`RegistryError::Storage`], [`RegistryError::Damaged`], [`RegistryError::Missing`].
    pub fn open(data: &Path) -> Result<Registry, RegistryError> {
        check_not_lost(data)?;
        Registry::with(DurableMap::open(data, REGISTRY_FILE)?)
    }

    /// The registry of a data directory or a backup, changing nothing there. None where there is none. All of it is read and checked.
    ///
    /// # Errors
    /// [`RegistryError::Storage`], [`RegistryError::Damaged`], [`RegistryError::Missing`].
    pub fn look(data: &Path) -> Result<Option<Registry>, RegistryError> {
        check_not_lost(data)?;
        if !data.join(REGISTRY_FILE).exists() {
            return Ok(None);
        }
        let disk = ReadOnlyDisk::new(data).map_err(StateError::from)?;
        Registry::with(DurableMap::open_on(Arc::new(disk), REGISTRY_FILE)?).map(Some)
    }

    /// One that is gone with the process.
    ///
    /// # Errors
    /// None, as things are.
    pub fn in_memory() -> Result<Registry, RegistryError> {
        Registry::with(DurableMap::in_memory())
    }

    /// The registry that a map holds. One that is empty becomes one.
    ///
    /// # Errors
    /// [`RegistryError::Storage`], [`RegistryError::Damaged`].
    pub fn with(map: DurableMap) -> Result<Registry, RegistryError> {
        match map.get(FORMAT_KEY)? {
            Some(format) if format == FORMAT => {}
            Some(_) => {
                return Err(RegistryError::damaged(FORMAT_KEY, "this version of Causeway does not know the format"));
            }
            None if map.revision()? == 0 => {
                map.change(&MapChanges::from([(FORMAT_KEY.to_vec(), Some(FORMAT.to_vec()))]))?;
            }
            None => return Err(RegistryError::damaged(FORMAT_KEY, "it is missing")),
        }
        let mut index = Index::default();
        check(&map, &mut |effect| index.apply(effect))?;
        let (index, desk) = (RwLock::new(index), Mutex::default());
        Ok(Registry { map, index, desk, listeners: RwLock::default(), arriving: Mutex::default() })
    }

    /// From now on, the listener hears of every change.
    pub fn subscribe(&self, listener: Listener) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Copies all of it, as it is at one moment, into a new file of a folder, durably. Returns the bytes of what was copied.
    ///
    /// # Errors
    /// Those of reading here and writing there.
    pub fn copy_to(&self, folder: &Path) -> Result<u64, StateError> {
        self.map.copy_to(folder, REGISTRY_FILE)
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change: all that `stage` says, or nothing.
    fn write<T>(&self, stage: impl FnOnce(&mut Staged<'_>) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        self.write_at(&mut self.desk(), stage)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_at<T>(
        &self,
        desk: &mut Desk,
        stage: impl FnOnce(&mut Staged<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.settle(desk)?;
        let (changes, effects, told) = Default::default();
        let mut staged = Staged { map: &self.map, changes, effects, told };
        let done = stage(&mut staged)?;
        let Staged { changes, effects, told, .. } = staged;
        if changes.is_empty() {
            return Ok(done);
        }
        let before = self.map.revision()?;
        match self.map.change(&changes) {
            Ok(_) => {
                self.show(effects, &told);
                Ok(done)
            }
            Err(error) => {
                // It was not made, or the disk does not even tell: then the next change finds out first.
                if self.map.revision().is_err() {
                    desk.unsettled = Some((before + 1, effects, told));
                }
                Err(error.into())
            }
        }
    }

    /// Whatever became of a change that failed, the index is what the file is.
    fn settle(&self, desk: &mut Desk) -> Result<(), RegistryError> {
        if let Some((made, effects, told)) = desk.unsettled.take() {
            match self.map.revision() {
                Ok(revision) if revision == made => self.show(effects, &told),
                Ok(_) => {}
                Err(error) => {
                    desk.unsettled = Some((made, effects, told));
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn show(&self, effects: Vec<Effect>, told: &[Changed]) {
        {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            effects.into_iter().for_each(|effect| index.apply(effect));
        }
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            told.iter().for_each(listener);
        }
    }

    /// A page of the entries of a kind; of those that belong to `first`, where it is given. `read` makes nothing of what is not wanted. With
    /// the name to go on behind, where there may be more.
    fn page<T>(
        &self,
        kind: u8,
        first: Option<&str>,
        page: &Page,
        mut read: impl FnMut(&str, &[u8]) -> Read<Option<T>>,
    ) -> Result<Listed<T>, RegistryError> {
        let prefix = first.map_or_else(|| vec![kind], |first| codec::pair_key(kind, first, ""));
        let mut from = prefix.clone();
        if let Some(after) = &page.after {
            from.extend(after.as_bytes());
            // The first key behind that one.
            from.push(0);
        }
        let limit = page.limit.clamp(1, PAGE_MAX);
        let (mut found, mut more, mut last, mut looked_at) = (Vec::new(), false, String::new(), 0);
        let mut wrong = None;
        self.map.visit_from(&from, &mut |key, value| {
            if !key.starts_with(&prefix) {
                return ControlFlow::Break(());
            }
            if found.len() >= limit || looked_at >= LOOKED_AT_MAX {
                more = true;
                return ControlFlow::Break(());
            }
            looked_at += 1;
            let read =
                name_of(key, first).ok_or("its key is not UTF-8").and_then(|name| Ok((name, read(name, value)?)));
            match read {
                Ok((name, wanted)) => {
                    name.clone_into(&mut last);
                    found.extend(wanted);
                    ControlFlow::Continue(())
                }
                Err(detail) => {
                    wrong = Some(RegistryError::damaged(key, detail));
                    ControlFlow::Break(())
                }
            }
        })?;
        match wrong {
            Some(wrong) => Err(wrong),
            None => Ok((found, more.then_some(last))),
        }
    }
}

/// Reads all of it; what makes no sense is an error.
fn check(map: &DurableMap, show: &mut dyn FnMut(Effect)) -> Result<(), RegistryError> {
    let mut wrong = None;
    map.visit_from(&[], &mut |key, value| match load(key, value) {
        Ok(effect) => {
            effect.into_iter().for_each(&mut *show);
            ControlFlow::Continue(())
        }
        Err(detail) => {
            wrong = Some(RegistryError::damaged(key, detail));
            ControlFlow::Break(())
        }
    })?;
    wrong.map_or(Ok(()), Err)
}

fn load(key: &[u8], value: &[u8]) -> Read<Option<Effect>> {
    match key.first() {
        Some(&kind::VEHICLE) => vehicles::load(key, value).map(Some),
        Some(&kind::GROUP) => groups::load(key, value).map(Some),
        Some(&kind::CREDENTIAL) => credentials::load(key, value),
        Some(&kind::BAN) => bans::load(key, value).map(Some),
        Some(&kind::TOKEN) => tokens::load(key, value).map(|()| None),
        Some(&(kind::MEMBER | kind::HOLDER)) => Ok(None),
        _ if key == FORMAT_KEY => Ok(None),
        _ => Err("this version of Causeway knows nothing of that kind"),
    }
}

/// Notes, descriptions and reasons.
fn check_text(what: &str, text: &str) -> Result<(), RegistryError> {
    match text.len() <= TEXT_BYTES_MAX && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        true => Ok(()),
        false => Err(RegistryError::Invalid(format!(
            "{what} may have {TEXT_BYTES_MAX} bytes, and no control characters but line feeds and tabs"
        ))),
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests;
