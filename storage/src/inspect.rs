//! Looking at what a shard keeps on disk without changing a byte of it, and checking all of it.
//!
//! Owns [`ReadOnlyDisk`] and [`verify`]. Opening a log or a state writes: a torn end is cleaned away, headers are renewed. Here that happens in
//! memory only, so that what is seen is exactly what a start would see. It never learns what a record means: whoever asks decodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, FolderLock, LockError, ReadAt, lock_shared, named};
use crate::shard_store::{LOG_FOLDER, OpenError, check_place};
use crate::state::{RedbState, StateError, StateOptions};
use crate::{LogOptions, Record, RecoverError, RunId, SegmentedLog, ShardOptions, ShardStore, StateStore};

/// The state's file.
pub(crate) const STATE_FILE: &str = "state.redb";
const LOCK_NAME: &str = "lock";
const PAGE_BYTES: u64 = 4096;
/// More damage than this is not listed.
const DAMAGE_MAX: usize = 100;

/// A folder that is only read. What is written stays in memory and is gone with the value.
#[derive(Debug)]
pub struct ReadOnlyDisk {
    folder: PathBuf,
    changed: Mutex<Changed>,
}

/// How the folder differs from what is on the disk.
#[derive(Debug, Default)]
struct Changed {
    /// Files that were opened or made, under their present names.
    files: BTreeMap<String, Arc<Content>>,
    /// Names on the disk that do not count.
    hidden: BTreeSet<String>,
}

/// One file: pages that were written, over what the disk has.
#[derive(Debug)]
struct Content {
    base: Option<PathBuf>,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    size: u64,
    /// So much of the base shows.
    base_bytes: u64,
    written: BTreeMap<u64, Box<[u8]>>,
}

impl ReadOnlyDisk {
    /// The folder at `path`, which must be there.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; whatever the file system says.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<ReadOnlyDisk> {
        let folder = path.into();
        std::fs::read_dir(&folder).map_err(named(&folder))?;
        Ok(ReadOnlyDisk { folder, changed: Mutex::default() })
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_on_disk(&self, changed: &Changed, name: &str) -> bool {
        !changed.hidden.contains(name) && self.folder.join(name).exists()
    }

    /// The content that a name stands for.
    fn content(&self, changed: &mut Changed, name: &str) -> io::Result<Arc<Content>> {
        if let Some(content) = changed.files.get(name) {
            return Ok(content.clone());
        }
        if changed.hidden.contains(name) {
            return Err(ErrorKind::NotFound.into());
        }
        let path = self.folder.join(name);
        let metadata = std::fs::metadata(&path).map_err(named(&path))?;
        if metadata.is_dir() {
            return Err(named(&path)(ErrorKind::IsADirectory.into()));
        }
        let size = metadata.len();
        let pages = Pages { size, base_bytes: size, written: BTreeMap::new() };
        let content = Arc::new(Content { base: Some(path), pages: Mutex::new(pages) });
        changed.files.insert(name.to_owned(), content.clone());
        Ok(content)
    }
}

impl Disk for ReadOnlyDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut changed = self.changed();
        if changed.files.contains_key(name) || self.is_on_disk(&changed, name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let content = Arc::new(Content { base: None, pages: Mutex::default() });
        changed.files.insert(name.to_owned(), content.clone());
        Ok(Arc::new(ReadOnlyFile { base: None, content }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.content(&mut self.changed(), name)?;
        let open = |path: &PathBuf| File::open(path).map_err(named(path));
        let base = content.base.as_ref().map(open).transpose()?;
        Ok(Arc::new(ReadOnlyFile { base, content }))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let changed = self.changed();
        let mut names: BTreeSet<String> = changed.files.keys().cloned().collect();
        for entry in std::fs::read_dir(&self.folder).map_err(named(&self.folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !changed.hidden.contains(&name) {
                names.insert(name);
            }
        }
        Ok(names.into_iter().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut changed = self.changed();
        let content = self.content(&mut changed, from)?;
        changed.files.remove(from);
        changed.files.insert(to.to_owned(), content);
        changed.hidden.insert(from.to_owned());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut changed = self.changed();
        self.content(&mut changed, name)?;
        changed.files.remove(name);
        changed.hidden.insert(name.to_owned());
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    /// Keeps writers out, but not others that only read. A folder nobody ever locked needs no lock.
    fn lock(&self) -> Result<Box<dyn FolderLock>, LockError> {
        lock_shared(&self.folder.join(LOCK_NAME)).map(|lock| Box::new(lock) as Box<dyn FolderLock>)
    }

    fn unguessable(&self) -> u64 {
        RandomState::new().hash_one(std::process::id()).max(1)
    }

    fn describe(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

#[derive(Debug)]
struct ReadOnlyFile {
    base: Option<File>,
    content: Arc<Content>,
}

impl ReadOnlyFile {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.content.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the buffer with what the disk has there; zeros where it has nothing.
    fn read_base(&self, pages: &Pages, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let there = pages.base_bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut filled = 0;
        if let Some(base) = &self.base {
            while filled < there {
                match base.read_at(&mut buffer[filled..there], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        buffer[filled..].fill(0);
        Ok(())
    }
}

impl ReadAt for ReadOnlyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let pages = self.pages();
        let count = pages.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..count];
        self.read_base(&pages, buffer, offset)?;
        let end = offset + count as u64;
        for (number, page) in pages.written.range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)) {
            let begin = number * PAGE_BYTES;
            let (from, to) = (begin.max(offset), (begin + PAGE_BYTES).min(end));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - begin) as usize..(to - begin) as usize]);
        }
        Ok(count)
    }
}

impl DiskFile for ReadOnlyFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.pages().size)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut pages = self.pages();
        let end = offset + bytes.len() as u64;
        for number in offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            let begin = number * PAGE_BYTES;
            let mut page = match pages.written.remove(&number) {
                Some(page) => page,
                None => {
                    let mut page = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                    self.read_base(&pages, &mut page, begin)?;
                    page
                }
            };
            let (from, to) = (begin.max(offset), (begin + PAGE_BYTES).min(end));
            page[(from - begin) as usize..(to - begin) as usize]
                .copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
            pages.written.insert(number, page);
        }
        pages.size = pages.size.max(end);
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let mut pages = self.pages();
        pages.size = pages.size.max(size);
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut pages = self.pages();
        if size < pages.size {
            pages.base_bytes = pages.base_bytes.min(size);
            let _ = pages.written.split_off(&size.div_ceil(PAGE_BYTES));
            if let Some(last) = pages.written.get_mut(&(size / PAGE_BYTES)) {
                last[(size % PAGE_BYTES) as usize..].fill(0);
            }
        }
        pages.size = size;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what a shard keeps in the folder at `path`, for looking only: nothing on the disk changes. Keeps writers out meanwhile.
/// `run` is that of a shard that is known to have begun.
///
/// # Errors
/// As [`ShardStore::open`]; `NotFound` where there is no log.
pub fn open_read_only(path: &Path, shard: u32, run: Option<RunId>) -> Result<ShardStore, OpenError> {
    let log = ReadOnlyDisk::new(path.join(LOG_FOLDER)).map_err(RecoverError::Io)?;
    let state = ReadOnlyDisk::new(path).map_err(StateError::Io)?;
    let options = ShardOptions { run, begun: run.is_some(), ..options(shard) };
    ShardStore::open_on(Arc::new(log), Arc::new(state), options)
}

fn options(shard: u32) -> ShardOptions {
    let log = LogOptions { keep_spare: false, ..LogOptions::new(shard) };
    ShardOptions { log, ..ShardOptions::new(shard) }
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it, in bytes, as far as that can be told.
    pub offset: Option<u64>,
    /// What is wrong.
    pub detail: String,
}

/// What was checked, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Records of the log.
    pub records: u64,
    /// Their bytes.
    pub record_bytes: u64,
    /// Entries of the folded state.
    pub entries: u64,
    /// Bodies in it.
    pub bodies: u64,
    /// Their bytes.
    pub body_bytes: u64,
    /// Empty where all is well. At most a hundred of them.
    pub damage: Vec<Damage>,
}

impl Verified {
    fn note(&mut self, damage: Damage) {
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(damage);
        }
    }
}

/// Decodes what the storage cannot, and hears how far the work is.
pub trait Decoder {
    /// A record of the log, or a body kept of one.
    ///
    /// # Errors
    /// What is wrong with it.
    fn record(&mut self, lsn: u64, bytes: &[u8]) -> Result<(), String>;

    /// An entry of the folded state.
    ///
    /// # Errors
    /// What is wrong with it.
    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String>;
}

/// Reads all that a shard keeps in the folder at `path`, checks every checksum, and has everything decoded. Changes nothing. `run` is
/// that of a shard that is known to have begun.
///
/// # Errors
/// Only where it cannot be looked at: somebody writes to it, or the disk fails. Damage is part of the answer.
pub fn verify(path: &Path, shard: u32, run: Option<RunId>, decoder: &mut dyn Decoder) -> Result<Verified, OpenError> {
    let mut verified = Verified::default();
    let disk = ReadOnlyDisk::new(path.join(LOG_FOLDER)).map_err(RecoverError::Io)?;
    let (disk, has_state) = (Arc::new(disk), path.join(STATE_FILE).exists());
    let log = open_log(&disk, shard, &mut verified)?;
    if let Some(log) = &log {
        verify_log(log, disk.as_ref(), decoder, &mut verified)?;
        let folder = || disk.describe("");
        let wrong = match log.run() {
            Some(found) => check_place(found, run).err(),
            None if has_state => Some(OpenError::NoLog { folder: folder() }),
            None => run.map(|_| OpenError::Gone { folder: folder() }),
        };
        if let Some(wrong) = wrong.filter(|_| verified.damage.is_empty()) {
            verified.note(Damage { file: path.display().to_string(), offset: None, detail: wrong.to_string() });
        }
    }
    let disk = ReadOnlyDisk::new(path).map_err(StateError::Io)?;
    let file = disk.describe(STATE_FILE);
    let run = log.as_ref().and_then(SegmentedLog::run).or(run);
    let options = StateOptions { shard, cache_bytes: options(shard).state_cache_bytes, run };
    let state = match RedbState::open_on(Arc::new(disk), options) {
        Ok(state) => state,
        Err(StateError::Io(error)) => return Err(StateError::Io(error).into()),
        Err(error) => {
            let detail = match error {
                StateError::Corrupt { detail, .. } => detail,
                other => other.to_string(),
            };
            verified.note(Damage { file, offset: None, detail });
            return Ok(verified);
        }
    };
    verify_state(&state, &file, decoder, &mut verified)?;
    if let (Some(log), true) = (log, verified.damage.is_empty()) {
        match ShardStore::join(log, Arc::new(state)) {
            Ok(_) => {}
            Err(error @ (OpenError::Log(_) | OpenError::State(_))) => return Err(error),
            Err(error) => {
                let (file, detail) = (path.display().to_string(), error.to_string());
                verified.note(Damage { file, offset: None, detail });
            }
        }
    }
    Ok(verified)
}

/// Opens the log. Where segments are missing, or the last one is damaged, notes that and opens what there is besides.
fn open_log(disk: &Arc<ReadOnlyDisk>, shard: u32, to: &mut Verified) -> Result<Option<SegmentedLog>, OpenError> {
    let newest = disk.names().map_err(RecoverError::Io)?.into_iter().filter(|name| name.ends_with(".log")).max();
    for attempt in 0..3 {
        let opened = match attempt {
            0 => SegmentedLog::open_on(disk.clone(), options(shard).log),
            _ => SegmentedLog::open_remainder(disk.clone(), options(shard).log),
        };
        match opened {
            Ok(log) => return Ok(Some(log)),
            Err(RecoverError::Corrupt { file, offset, detail }) => {
                let is_newest = newest.as_ref().is_some_and(|newest| disk.describe(newest) == file);
                let damage = Damage { file, offset: Some(offset), detail };
                if to.damage.last() != Some(&damage) {
                    to.note(damage);
                }
                match &newest {
                    Some(newest) if attempt == 1 && is_newest => disk.remove(newest).map_err(RecoverError::Io)?,
                    _ if attempt == 0 => {}
                    _ => return Ok(None),
                }
            }
            Err(error @ (RecoverError::Version { .. } | RecoverError::Shard { .. })) => {
                to.note(Damage { file: disk.describe(""), offset: None, detail: error.to_string() });
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn verify_log(
    log: &SegmentedLog,
    disk: &ReadOnlyDisk,
    decoder: &mut dyn Decoder,
    to: &mut Verified,
) -> Result<(), OpenError> {
    let segments = log.stats().segments;
    let name = |first: u64| disk.describe(&format!("{first:020}.log"));
    let mut from = segments.first().map(|segment| segment.first);
    while let Some(begin) = from.take() {
        let outcome = log.recover(begin, |record: Record<'_>| {
            to.records += 1;
            to.record_bytes += record.bytes.len() as u64;
            if let Err(detail) = decoder.record(record.lsn, record.bytes) {
                let holds = |segment: &&crate::SegmentStats| segment.ordinal == record.position.segment();
                let file = segments.iter().find(holds).map_or_else(String::new, |segment| name(segment.first));
                let detail = format!("record {}: {detail}", record.lsn);
                to.note(Damage { file, offset: Some(u64::from(record.position.offset())), detail });
            }
            Ok::<(), RecoverError>(())
        });
        match outcome {
            Ok(_) => {}
            Err(RecoverError::Corrupt { file, offset, detail }) => {
                // What follows is looked at all the same.
                let at = segments.iter().position(|segment| name(segment.first) == file);
                from = at.and_then(|at| segments.get(at + 1)).map(|segment| segment.first);
                to.note(Damage { file, offset: Some(offset), detail });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn verify_state(
    state: &dyn StateStore,
    file: &str,
    decoder: &mut dyn Decoder,
    to: &mut Verified,
) -> Result<(), StateError> {
    state.entries(&mut |key, value| {
        to.entries += 1;
        if let Err(detail) = decoder.entry(key, value) {
            let detail = format!("entry {}: {detail}", key.escape_ascii());
            to.note(Damage { file: file.to_owned(), offset: None, detail });
        }
        ControlFlow::Continue(())
    })?;
    let mut bodies = Vec::new();
    state.bodies(&mut |lsn, bytes| {
        bodies.push(lsn);
        to.body_bytes += bytes;
        ControlFlow::Continue(())
    })?;
    for lsn in bodies {
        to.bodies += 1;
        let outcome = match state.body(lsn)? {
            Some(body) => decoder.record(lsn, &body),
            None => Err("it is listed and not there".to_owned()),
        };
        if let Err(detail) = outcome {
            let detail = format!("body of record {lsn}: {detail}");
            to.note(Damage { file: file.to_owned(), offset: None, detail });
        }
    }
    Ok(())
}
