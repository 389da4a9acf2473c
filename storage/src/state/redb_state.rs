//! Folded state in one redb file.
//!
//! Owns the tables, the order in which the file comes to be, and opening it again after a failure. Never keeps a transaction open
//! longer than a call, but for the one fold.
//!
//! # What keeps it safe
//! - On the first opening every page is checked (about a second for a GB): redb checks none later, and may panic at a damaged one.
//! - Commits have two phases and save the allocator's state (redb calls it quick repair): opening again after a failure trusts what
//!   the first sync covered, and has nothing to walk. With one phase redb would take a commit whose sync failed for good if its pages
//!   can still be read, though they never came to the disk.
//! - After a sync that failed, the kernel may show what the disk does not have, the file's length included, and no later sync of that
//!   file need change that. So what it shows is copied into a new file, which is synced and takes the old one's place, before anything is
//!   written again.
//! - A file gets its name only once it is complete, and nothing is committed to it before the name is durable.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction,
};

use super::backend::DiskBackend;
use super::{Fold, FoldMark, StateError, StateOptions, StateStore, VisitBody, VisitEntry, count_entry_bytes};
use crate::RunId;
use crate::disk::{Disk, RealDisk, named};
use crate::segmented::read_up_to;

const FILE_NAME: &str = "state.redb";
/// Behind its name until the file is complete.
const UNFINISHED: &str = ".new";

const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
const BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bodies");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FORMAT_KEY: &str = "format";
const FORMAT_VERSION: u64 = 2;
const SHARD_KEY: &str = "shard";
/// The upper and the lower half.
const RUN_KEYS: [&str; 2] = ["run_above", "run_below"];
const APPLIED_KEY: &str = "applied";
const THROUGH_KEY: &str = "through";
/// Bytes of all entries with their keys. Missing in a file that no version which counts them has changed yet.
const ENTRY_BYTES_KEY: &str = "entry_bytes";

/// A file is copied in pieces of this many bytes.
const COPY_BYTES: usize = 1 << 20;
/// Changes are handed to redb in order, this many bytes at a time.
const BATCH_BYTES: usize = 1 << 20;
/// What a change costs beside its bytes.
const CHANGE_BYTES: usize = 64;
/// The largest key, value or body, in bytes.
const VALUE_BYTES_MAX: usize = 1 << 30;

/// Folded state in a file `state.redb`. See [`StateStore`] for what it promises.
#[derive(Debug)]
pub struct RedbState {
    store: Arc<Store>,
}

impl RedbState {
    /// Opens the state in the folder at `path`, or begins one. Takes no lock: the caller sees to it that nobody else
    /// has the folder.
    ///
    /// # Errors
    /// [`StateError::Version`], [`StateError::Shard`], [`StateError::Corrupt`], [`StateError::Io`].
    pub fn open(path: impl Into<PathBuf>, options: StateOptions) -> Result<RedbState, StateError> {
        RedbState::open_on(Arc::new(RealDisk::new(path)?), options)
    }

    /// Opens the state on a disk of any kind. The folder may hold other files, a log's among them.
    ///
    /// # Errors
    /// As [`open`](RedbState::open).
    pub fn open_on(disk: Arc<dyn Disk>, options: StateOptions) -> Result<RedbState, StateError> {
        RedbState::open_named(disk, FILE_NAME, options)
    }

    /// As [`open_on`](RedbState::open_on), in a file of another name.
    pub(crate) fn open_named(disk: Arc<dyn Disk>, file: &str, options: StateOptions) -> Result<RedbState, StateError> {
        let names = disk.names()?;
        let (opened, sync_failed, folding) = (RwLock::default(), Arc::default(), AtomicBool::new(false));
        let (file, unfinished) = (file.to_owned(), format!("{file}{UNFINISHED}"));
        let mut store = Store { disk, file, unfinished, options, opened, sync_failed, folding };
        if !names.contains(&store.file) {
            store.create()?;
        } else if names.contains(&store.unfinished) {
            store.disk.remove(&store.unfinished)?;
        }
        // What lay on the disk is checked whole; what this process wrote it trusts.
        let mut opened = Opened::default();
        store.open_into(&mut opened, true)?;
        store.opened = RwLock::new(opened);
        Ok(RedbState { store: Arc::new(store) })
    }

    /// The value of one entry.
    pub(crate) fn entry(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let store = &self.store;
        store.with_reader(|transaction| {
            let table = transaction.open_table(ENTRIES).map_err(|error| store.error(error))?;
            let found = table.get(key).map_err(|error| store.error(error))?;
            Ok(found.map(|value| value.value().to_vec()))
        })
    }
}

/// What a state and its open fold share.
#[derive(Debug)]
struct Store {
    disk: Arc<dyn Disk>,
    file: String,
    /// What the file is called until it is complete.
    unfinished: String,
    options: StateOptions,
    opened: RwLock<Opened>,
    /// A sync of the file failed: it is not to be written any more.
    sync_failed: Arc<AtomicBool>,
    /// A fold is open. It may outlive the database it began with, and must be gone before that is opened again.
    folding: AtomicBool,
}

#[derive(Debug, Default)]
struct Opened {
    database: Option<Database>,
    /// redb refuses everything after a failure.
    failed: AtomicBool,
}

impl Opened {
    fn usable(&self) -> Option<&Database> {
        self.database.as_ref().filter(|_| !self.failed.load(Ordering::Acquire))
    }
}

impl Store {
    /// Makes an empty state.
    fn create(&self) -> Result<(), StateError> {
        let fill = |to: &WriteTransaction| {
            let mut meta = to.open_table(META)?;
            meta.insert(FORMAT_KEY, FORMAT_VERSION)?;
            meta.insert(SHARD_KEY, u64::from(self.options.shard))?;
            let run = self.options.run.unwrap_or_else(|| RunId::new(self.disk.as_ref()));
            meta.insert(RUN_KEYS[0], (run.0 >> 64) as u64)?;
            meta.insert(RUN_KEYS[1], run.0 as u64)?;
            meta.insert(ENTRY_BYTES_KEY, 0)?;
            to.open_table(ENTRIES)?;
            to.open_table(BODIES)?;
            Ok(())
        };
        self.write_new(|to| fill(to).map_err(|error: TableError| self.error(error)))?;
        self.disk.rename(&self.unfinished, &self.file)?;
        Ok(())
    }

    /// Makes a new file, durable and closed, under a name that does not count.
    fn write_new(&self, fill: impl FnOnce(&WriteTransaction) -> Result<(), StateError>) -> Result<(), StateError> {
        if self.disk.names()?.contains(&self.unfinished) {
            self.disk.remove(&self.unfinished)?;
        }
        let file = self.disk.create(&self.unfinished)?;
        // If it fails, nobody uses it.
        let backend = DiskBackend { file, sync_failed: Arc::default() };
        let database = self.builder().create_with_backend(backend).map_err(|error| self.error(error))?;
        let transaction = self.begin(&database)?;
        fill(&transaction)?;
        transaction.commit().map_err(|error| self.error(error))
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder.set_cache_size(self.options.cache_bytes);
        builder
    }

    /// Opens the file, if it is not open and in order.
    fn reopen(&self) -> Result<(), StateError> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.usable().is_some() {
            return Ok(());
        }
        if self.folding.load(Ordering::Acquire) {
            return Err(io::Error::other("it failed, and the fold that was open then still is").into());
        }
        self.open_into(&mut opened, false)
    }

    /// Opens the file, every page of it checked or only as far as redb needs.
    fn open_into(&self, opened: &mut Opened, check: bool) -> Result<(), StateError> {
        // The old one goes first: they would write over each other.
        *opened = Opened::default();
        if self.sync_failed.load(Ordering::Acquire) {
            self.replace_file()?;
            self.sync_failed.store(false, Ordering::Release);
        }
        // The file may have got its name just now. What is committed to it must not go with the name.
        self.disk.sync_folder()?;
        let file = self.disk.open(&self.file)?;
        let mut builder = self.builder();
        builder.set_check_integrity_on_open(check);
        let backend = DiskBackend { file, sync_failed: self.sync_failed.clone() };
        let database = builder.create_with_backend(backend).map_err(|error| self.error(error))?;
        self.check_meta(&database)?;
        opened.database = Some(database);
        Ok(())
    }

    /// Puts a copy in the place of the file, byte by byte as it can be read now.
    fn replace_file(&self) -> Result<(), StateError> {
        if self.disk.names()?.contains(&self.unfinished) {
            self.disk.remove(&self.unfinished)?;
        }
        let (from, to) = (self.disk.open(&self.file)?, self.disk.create(&self.unfinished)?);
        let (size, mut offset, mut buffer) = (from.size()?, 0, vec![0; COPY_BYTES]);
        while offset < size {
            let read = read_up_to(from.as_ref(), &mut buffer, offset)?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            to.write_at(&buffer[..read], offset)?;
            offset += read as u64;
        }
        to.sync_all()?;
        self.disk.rename(&self.unfinished, &self.file)?;
        Ok(())
    }

    fn check_meta(&self, database: &Database) -> Result<(), StateError> {
        let transaction = database.begin_read().map_err(|error| self.error(error))?;
        let number = |key| self.meta(&transaction, key);
        let file = || self.disk.describe(&self.file);
        match number(FORMAT_KEY)? {
            Some(FORMAT_VERSION) => {}
            Some(version) => return Err(StateError::Version { file: file(), version }),
            None => return Err(self.corrupt("it does not say which format it has")),
        }
        match number(SHARD_KEY)? {
            Some(found) if found == u64::from(self.options.shard) => Ok(()),
            Some(found) => Err(StateError::Shard { file: file(), found, expected: self.options.shard }),
            None => Err(self.corrupt("it does not say which shard it belongs to")),
        }
    }

    fn meta(&self, transaction: &ReadTransaction, key: &str) -> Result<Option<u64>, StateError> {
        let table = transaction.open_table(META).map_err(|error| self.error(error))?;
        let found = table.get(key).map_err(|error| self.error(error))?;
        Ok(found.map(|number| number.value()))
    }

    fn begin(&self, database: &Database) -> Result<WriteTransaction, StateError> {
        let mut transaction = database.begin_write().map_err(|error| self.error(error))?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    /// Runs `ask` on the database, which is opened again if it had failed before.
    fn with_database<T>(&self, ask: impl FnOnce(&Database) -> Result<T, StateError>) -> Result<T, StateError> {
        if !self.is_usable() {
            self.reopen()?;
        }
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = opened.usable() else { return Err(io::Error::other("it failed just now").into()) };
        let outcome = ask(database);
        if let Err(StateError::Io(_) | StateError::Corrupt { .. }) = outcome {
            opened.failed.store(true, Ordering::Release);
        }
        outcome
    }

    fn with_reader<T>(&self, ask: impl FnOnce(&ReadTransaction) -> Result<T, StateError>) -> Result<T, StateError> {
        self.with_database(|database| ask(&database.begin_read().map_err(|error| self.error(error))?))
    }

    /// Copies what there is into a new file, which takes the place of the old. redb can compact its own file, but in our tests that
    /// did not survive a sync that failed before.
    fn compact(&self) -> Result<(), StateError> {
        let copied = self.with_reader(|transaction| self.copy(transaction));
        if copied.is_err() {
            // It is in nobody's way: the next attempt or the next start removes it.
            let _ = self.disk.remove(&self.unfinished);
            return copied;
        }
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        *opened = Opened::default();
        self.disk.rename(&self.unfinished, &self.file)?;
        self.open_into(&mut opened, false)
    }

    fn copy(&self, from: &ReadTransaction) -> Result<(), StateError> {
        self.write_new(|to| {
            copy_table(from, to, META)
                .and_then(|()| copy_table(from, to, ENTRIES))
                .and_then(|()| copy_table(from, to, BODIES))
                .map_err(|error| self.error(error))
        })
    }

    fn is_usable(&self) -> bool {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).usable().is_some()
    }

    fn fail(&self) {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).failed.store(true, Ordering::Release);
    }

    fn corrupt(&self, detail: &str) -> StateError {
        StateError::Corrupt { file: self.disk.describe(&self.file), detail: detail.to_owned() }
    }

    fn error(&self, error: impl Into<redb::Error>) -> StateError {
        match error.into() {
            // What redb reads is not what it wrote, or not all of it.
            redb::Error::Io(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                self.corrupt(&error.to_string())
            }
            redb::Error::Io(error) => StateError::Io(named(self.disk.describe(&self.file).as_ref())(error)),
            redb::Error::Corrupted(detail) => self.corrupt(&detail),
            redb::Error::ValueTooLarge(bytes) => StateError::TooLarge { bytes: bytes as u64 },
            error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => {
                StateError::Io(io::Error::other(error.to_string()))
            }
            error => self.corrupt(&error.to_string()),
        }
    }
}

impl StateStore for RedbState {
    fn mark(&self) -> Result<Option<FoldMark>, StateError> {
        let store = &self.store;
        store.with_reader(|transaction| {
            match (store.meta(transaction, APPLIED_KEY)?, store.meta(transaction, THROUGH_KEY)?) {
                (Some(applied), Some(through)) => Ok(Some(FoldMark { applied, through })),
                (None, None) => Ok(None),
                _ => Err(store.corrupt("half of its mark is missing")),
            }
        })
    }

    fn run(&self) -> Result<Option<RunId>, StateError> {
        let store = &self.store;
        store.with_reader(|transaction| {
            let [above, below] = [store.meta(transaction, RUN_KEYS[0])?, store.meta(transaction, RUN_KEYS[1])?];
            let (Some(above), Some(below)) = (above, below) else {
                return Err(store.corrupt("it does not say which run it belongs to"));
            };
            Ok(Some(RunId(u128::from(above) << 64 | u128::from(below))))
        })
    }

    fn entries_from(&self, from: &[u8], visit: &mut VisitEntry<'_>) -> Result<(), StateError> {
        let store = &self.store;
        store.with_reader(|transaction| {
            let table = transaction.open_table(ENTRIES).map_err(|error| store.error(error))?;
            for entry in table.range(from..).map_err(|error| store.error(error))? {
                let (key, value) = entry.map_err(|error| store.error(error))?;
                if visit(key.value(), value.value()).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn entry_bytes(&self) -> Result<u64, StateError> {
        let store = &self.store;
        let known = store.with_reader(|transaction| store.meta(transaction, ENTRY_BYTES_KEY))?;
        known.map_or_else(|| count_entry_bytes(self), Ok)
    }

    fn body(&self, lsn: u64) -> Result<Option<Bytes>, StateError> {
        let store = &self.store;
        store.with_reader(|transaction| {
            let table = transaction.open_table(BODIES).map_err(|error| store.error(error))?;
            let found = table.get(lsn).map_err(|error| store.error(error))?;
            Ok(found.map(|body| Bytes::copy_from_slice(body.value())))
        })
    }

    fn bodies(&self, visit: &mut VisitBody<'_>) -> Result<(), StateError> {
        let store = &self.store;
        store.with_reader(|transaction| {
            let table = transaction.open_table(BODIES).map_err(|error| store.error(error))?;
            for entry in table.iter().map_err(|error| store.error(error))? {
                let (lsn, body) = entry.map_err(|error| store.error(error))?;
                if visit(lsn.value(), body.value().len() as u64).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn fold(&self) -> Result<Box<dyn Fold>, StateError> {
        let turn = Turn::take(&self.store)?;
        let transaction = self.store.with_database(|database| self.store.begin(database))?;
        Ok(Box::new(RedbFold { transaction, batch: Batch::default(), grown: 0, failed: false, turn }))
    }

    fn bytes_on_disk(&self) -> Result<u64, StateError> {
        Ok(self.store.disk.open(&self.store.file)?.size()?)
    }

    fn compact(&self) -> Result<(), StateError> {
        let _turn = Turn::take(&self.store)?;
        self.store.compact()
    }

    fn describe(&self) -> &'static str {
        "folded state survives a crash of the process, of the system, and the power going"
    }
}

/// The right to change the state, until it is dropped. The store is in order when it is taken.
struct Turn(Arc<Store>);

impl Turn {
    fn take(store: &Arc<Store>) -> Result<Turn, StateError> {
        // While the turn is taken a store that failed stays closed: whoever has it may still hold on to what was open.
        if !store.folding.load(Ordering::Acquire) && !store.is_usable() {
            store.reopen()?;
        }
        // redb would wait for the other fold, and for ever if it is the caller's own.
        if store.folding.swap(true, Ordering::AcqRel) {
            return Err(StateError::Busy);
        }
        Ok(Turn(store.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.folding.store(false, Ordering::Release);
    }
}

/// Changes not yet handed to redb. The last of a key counts.
#[derive(Default)]
struct Batch {
    entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bodies: BTreeMap<u64, Option<Vec<u8>>>,
    bytes: usize,
}

struct RedbFold {
    transaction: WriteTransaction,
    batch: Batch,
    /// By how many bytes the entries became more.
    grown: i64,
    failed: bool,
    /// Dropped last: the transaction must be gone by then.
    turn: Turn,
}

impl RedbFold {
    fn change(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StateError> {
        let bytes = check_size(key.len() + value.map_or(0, <[u8]>::len))?;
        self.batch.entries.insert(key.to_vec(), value.map(<[u8]>::to_vec));
        self.changed(bytes)
    }

    fn change_body(&mut self, lsn: u64, body: Option<&[u8]>) -> Result<(), StateError> {
        let bytes = check_size(body.map_or(0, <[u8]>::len))?;
        self.batch.bodies.insert(lsn, body.map(<[u8]>::to_vec));
        self.changed(bytes)
    }

    fn changed(&mut self, bytes: usize) -> Result<(), StateError> {
        self.batch.bytes += bytes + CHANGE_BYTES;
        if self.batch.bytes > BATCH_BYTES { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), StateError> {
        let batch = std::mem::take(&mut self.batch);
        let mut grown = 0;
        self.guarded(|transaction| {
            if !batch.entries.is_empty() {
                let mut table = transaction.open_table(ENTRIES)?;
                for (key, value) in &batch.entries {
                    let before = match value {
                        Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                        None => table.remove(key.as_slice())?,
                    };
                    let size = |bytes: usize| (key.len() + bytes) as i64;
                    grown += value.as_ref().map_or(0, |value| size(value.len()));
                    grown -= before.map_or(0, |before| size(before.value().len()));
                }
            }
            if !batch.bodies.is_empty() {
                let mut table = transaction.open_table(BODIES)?;
                for (lsn, body) in &batch.bodies {
                    match body {
                        Some(body) => drop(table.insert(lsn, body.as_slice())?),
                        None => drop(table.remove(lsn)?),
                    }
                }
            }
            Ok(())
        })?;
        self.grown += grown;
        Ok(())
    }

    /// Once something has failed, nothing more is tried.
    fn guarded(&mut self, write: impl FnOnce(&WriteTransaction) -> Result<(), TableError>) -> Result<(), StateError> {
        if self.failed {
            return Err(io::Error::other("this fold has failed before").into());
        }
        write(&self.transaction).map_err(|error| {
            self.failed = true;
            self.turn.0.fail();
            self.turn.0.error(error)
        })
    }
}

/// Copies a table whole, in the order of its keys.
fn copy_table<K: redb::Key + 'static, V: redb::Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<(), redb::Error> {
    let (source, mut target) = (from.open_table(table)?, to.open_table(table)?);
    for entry in source.iter()? {
        let (key, value) = entry?;
        target.insert(key.value(), value.value())?;
    }
    Ok(())
}

fn table_bytes(table: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<u64, redb::StorageError> {
    table.iter()?.try_fold(0, |bytes, entry| {
        let (key, value) = entry?;
        Ok(bytes + (key.value().len() + value.value().len()) as u64)
    })
}

fn check_size(bytes: usize) -> Result<usize, StateError> {
    if bytes > VALUE_BYTES_MAX { Err(StateError::TooLarge { bytes: bytes as u64 }) } else { Ok(bytes) }
}

impl Fold for RedbFold {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.change(key, Some(value))
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.change(key, None)
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8], entries_max: usize) -> Result<usize, StateError> {
        // What was put before is among them.
        self.hand_over()?;
        let (mut removed, mut bytes) = (0, 0);
        self.guarded(|transaction| {
            let mut table = transaction.open_table(ENTRIES)?;
            if from < to {
                for entry in table.extract_from_if(from..to, |_, _| true)?.take(entries_max) {
                    let (key, value) = entry?;
                    removed += 1;
                    bytes += (key.value().len() + value.value().len()) as i64;
                }
            }
            Ok(())
        })?;
        self.grown -= bytes;
        Ok(removed)
    }

    fn put_body(&mut self, lsn: u64, bytes: &[u8]) -> Result<(), StateError> {
        self.change_body(lsn, Some(bytes))
    }

    fn remove_body(&mut self, lsn: u64) -> Result<(), StateError> {
        self.change_body(lsn, None)
    }

    fn commit(mut self: Box<Self>, mark: FoldMark) -> Result<(), StateError> {
        self.hand_over()?;
        let grown = self.grown;
        self.guarded(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let known = meta.get(ENTRY_BYTES_KEY)?.map(|bytes| bytes.value());
            let entry_bytes = match known {
                Some(bytes) => bytes.saturating_add_signed(grown),
                None => table_bytes(&transaction.open_table(ENTRIES)?)?,
            };
            meta.insert(ENTRY_BYTES_KEY, entry_bytes)?;
            meta.insert(APPLIED_KEY, mark.applied)?;
            meta.insert(THROUGH_KEY, mark.through)?;
            Ok(())
        })?;
        let RedbFold { transaction, turn, .. } = *self;
        transaction.commit().map_err(|error| {
            turn.0.fail();
            turn.0.error(error)
        })
    }
}
