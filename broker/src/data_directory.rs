//! The folder of everything that survives a restart.
//!
//! Owns who may use it, where each shard keeps what it has in it, and what is said where it cannot be used. It never looks into a
//! record.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_core::RecordError;
use causeway_storage::disk::{FileLock, LockError, RealDisk, lock_alone};
use causeway_storage::{
    Durability, Found, Layout, LayoutError, LogOptions, OpenError, RecoverError, ShardOptions, ShardStore, StateError,
    shard_folder,
};

use crate::config;

/// Held for as long as the process uses the folder.
pub(crate) const LOCK_NAME: &str = "causeway.lock";
/// Shards share the memory for folded state that one would have; but with less than this each, looking into it takes too long.
const STATE_CACHE_BYTES_MIN: usize = 8 << 20;

/// Why the folder cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process has it.
    #[error(
        "{} is in use by {holder}: stop that one first, or give this one a storage.data_directory of its own",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// Who has it, as far as it said.
        holder: String,
    },
    /// The system does not let us use it.
    #[error("storage.data_directory: {source}{}", remedy(source, folder))]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It does not have the shards that it should.
    #[error("{source}{}", layout_advice(source))]
    Layout {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and where.
        source: LayoutError,
    },
    /// It was made for another number of shards.
    #[error(
        "{} was made for {} and broker.shards is {wanted}: set broker.shards = {made}. The number of shards of a data directory cannot \
         be changed yet; with another number, the broker needs another storage.data_directory, and begins without sessions and messages",
        folder.display(), if *made == 1 { "1 shard".to_owned() } else { format!("{made} shards") }
    )]
    OtherShards {
        /// The folder.
        folder: PathBuf,
        /// How many shards it has.
        made: u32,
        /// How many the configuration says.
        wanted: u32,
    },
    /// The log in it cannot be read.
    #[error("{source}{}", advice(source, folder))]
    Log {
        /// The folder of the shard.
        folder: PathBuf,
        /// What is wrong, and where.
        source: RecoverError,
    },
    /// A record is intact, but does not follow from those before it.
    #[error(
        "record {lsn} of the log in {} cannot be replayed: {source}. It was probably written by another version of \
         Causeway: start that one, or move the whole data directory away to begin without sessions and messages",
        folder.display()
    )]
    Record {
        /// The folder of the shard.
        folder: PathBuf,
        /// The record's number.
        lsn: u64,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The folded state cannot be read.
    #[error("{source}{}", state_advice(source, folder))]
    State {
        /// The folder of the shard.
        folder: PathBuf,
        /// What is wrong, and where.
        source: StateError,
    },
    /// The log and the folded state are not of one run.
    #[error(
        "{}: {source}. Restore the whole data directory from one copy, or move it away to begin without sessions and messages",
        folder.display()
    )]
    NotOneRun {
        /// The folder of the shard.
        folder: PathBuf,
        /// What does not fit.
        source: OpenError,
    },
    /// An entry of the folded state is intact, but makes no sense.
    #[error(
        "the folded state in {} cannot be taken up: {source}. It was probably written by another version of Causeway: \
         start that one, or move the whole data directory away to begin without sessions and messages",
        folder.display()
    )]
    Entry {
        /// The folder of the shard.
        folder: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
    /// Whoever asked for the start does not want it any more.
    #[error("told to stop while the log was replayed")]
    Abandoned,
}

/// What to do about an error of the system.
fn remedy(error: &io::Error, folder: &Path) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            let (user, shown) = (rustix::process::geteuid().as_raw(), folder.display());
            format!(
                ". This process runs as user {user}, who must own the folder: mkdir -p {shown} && chown -R {user} {shown}"
            )
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ". Make room on this disk, and start again".to_owned(),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => ". It has to be a folder".to_owned(),
        ErrorKind::IsADirectory => {
            ". A folder is in the place of a file: move it away, and restore the file if it was one of \
             the broker's"
                .to_owned()
        }
        ErrorKind::ReadOnlyFilesystem => ". The file system is mounted read-only".to_owned(),
        _ => String::new(),
    }
}

/// What to do about a data directory that has other shards than it says.
fn layout_advice(error: &LayoutError) -> &'static str {
    match error {
        LayoutError::Io(_) => "",
        LayoutError::Version { .. } => ". Start the version that wrote it",
        LayoutError::Surplus { .. } => ". Move it away: nothing of this broker is in it",
        LayoutError::Damaged { .. } | LayoutError::Missing { .. } | LayoutError::Unknown { .. } => {
            ". Restore the whole data directory from one copy, or move it away to begin without sessions and messages"
        }
    }
}

/// What to do about a log that cannot be read. The shards of a data directory are of one moment, so it is restored as a whole.
fn advice(error: &RecoverError, folder: &Path) -> String {
    let shown = folder.parent().unwrap_or(folder).display();
    match error {
        RecoverError::Corrupt { .. } | RecoverError::Missing { .. } => format!(
            ". Messages that were acknowledged are there: the broker does not start rather than lose them silently. Check the \
             disk, then restore {shown} from a copy, or move it away to begin without sessions and messages"
        ),
        RecoverError::Version { .. } => {
            format!(". Start the version that wrote it, or move {shown} away to begin without sessions and messages")
        }
        RecoverError::Io(error) => remedy(error, folder),
        RecoverError::Locked(_) | RecoverError::Shard { .. } => String::new(),
    }
}

/// What to do about a folded state that cannot be read.
fn state_advice(error: &StateError, folder: &Path) -> String {
    let shown = folder.parent().unwrap_or(folder).display();
    match error {
        StateError::Io(error) => remedy(error, folder),
        StateError::Version { .. } => {
            format!(". Start the version that wrote it, or move {shown} away to begin without sessions and messages")
        }
        StateError::Corrupt { .. } | StateError::Shard { .. } | StateError::Busy | StateError::TooLarge { .. } => {
            format!(
                ". Messages that were acknowledged are there: the broker does not start rather than lose them silently. Check the \
             disk, then restore {shown} from a copy, or move it away to begin without sessions and messages"
            )
        }
    }
}

/// Looks whether the data directory `path` can be that of a broker with so many shards: whether it is new, or has them.
///
/// # Errors
/// [`StorageError::Layout`], [`StorageError::OtherShards`].
pub(crate) fn examine(path: &Path, shards: u32) -> Result<Found, StorageError> {
    let wrong = |source| StorageError::Layout { folder: path.to_owned(), source };
    let found = Found::in_folder(path).map_err(wrong)?;
    found.check().map_err(wrong)?;
    match found.shards() {
        Some(made) if made != shards => {
            Err(StorageError::OtherShards { folder: path.to_owned(), made, wanted: shards })
        }
        _ => Ok(found),
    }
}

/// The folder, taken for this process until this and all its shards' places are dropped.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    /// None where it was made when there was one shard only.
    layout: Option<Layout>,
    shards: u32,
    settings: config::Storage,
    lock: Arc<FileLock>,
}

impl DataDirectory {
    /// Makes the folder for so many shards if it is missing, and takes it.
    ///
    /// # Errors
    /// [`StorageError::InUse`], [`StorageError::Folder`], [`StorageError::Layout`], [`StorageError::OtherShards`].
    pub(crate) fn take(path: &Path, settings: &config::Storage, shards: u32) -> Result<DataDirectory, StorageError> {
        // What the disk says has the path in it.
        let refused = |source| StorageError::Folder { folder: path.to_owned(), source };
        let disk = RealDisk::new(path).map_err(refused)?;
        let lock = lock_alone(&path.join(LOCK_NAME)).map_err(|error| match error {
            LockError::Held { holder, .. } => StorageError::InUse { folder: path.to_owned(), holder },
            LockError::Io(source) => refused(source),
        })?;
        let found = examine(path, shards)?;
        let layout = match found.shards() {
            Some(_) => found.layout,
            None => {
                // Before any of them begins: each gets the run that stands here.
                let layout = Layout::new(&disk, shards);
                layout.write(&disk).map_err(refused)?;
                Some(layout)
            }
        };
        let (path, settings, lock) = (path.to_owned(), settings.clone(), Arc::new(lock));
        Ok(DataDirectory { path, layout, shards, settings, lock })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All shards have begun: from now on, one without a log has lost it.
    ///
    /// # Errors
    /// [`StorageError::Folder`].
    pub(crate) fn all_begun(&mut self) -> Result<(), StorageError> {
        let Some(layout) = self.layout.as_mut().filter(|layout| !layout.begun) else { return Ok(()) };
        layout.begun = true;
        let written = RealDisk::new(&self.path).and_then(|disk| layout.write(&disk));
        written.map_err(|source| StorageError::Folder { folder: self.path.clone(), source })
    }

    /// The place of one of the shards.
    pub(crate) fn shard(&self, number: u32) -> ShardDirectory {
        let config::Storage { segment_bytes, free_space_floor_bytes, disk_factor, .. } = self.settings;
        let durability = match self.settings.durability {
            config::Durability::Fsync => Durability::Fsync,
            config::Durability::Os => Durability::Os,
        };
        let defaults = ShardOptions::new(number);
        let share = defaults.state_cache_bytes / self.shards.max(1) as usize;
        let options = ShardOptions {
            log: LogOptions { segment_bytes, durability, ..LogOptions::new(number) },
            state_cache_bytes: share.max(STATE_CACHE_BYTES_MIN),
            run: self.layout.as_ref().and_then(|layout| layout.runs.get(number as usize).copied()),
            begun: self.layout.as_ref().is_some_and(|layout| layout.begun),
        };
        let (data, lock) = (self.path.clone(), self.lock.clone());
        ShardDirectory { data, options, free_space_floor_bytes, disk_factor, _lock: lock }
    }
}

/// What one shard has of a data directory. The whole of it stays taken until this is dropped.
#[derive(Debug)]
pub(crate) struct ShardDirectory {
    data: PathBuf,
    options: ShardOptions,
    free_space_floor_bytes: u64,
    disk_factor: f64,
    /// The kernel gives the lock free with the file, however the process ends.
    _lock: Arc<FileLock>,
}

impl ShardDirectory {
    /// The folder of the shard.
    pub(crate) fn folder(&self) -> PathBuf {
        shard_folder(&self.data, self.number())
    }

    /// The number of the shard.
    pub(crate) fn number(&self) -> u32 {
        self.options.log.shard
    }

    /// The whole data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// What the shard's store is opened with.
    pub(crate) fn shard_options(&self) -> ShardOptions {
        self.options.clone()
    }

    /// Bytes of one segment of the log.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.options.log.segment_bytes
    }

    /// Bytes of the disk that are left to others.
    pub(crate) fn free_space_floor_bytes(&self) -> u64 {
        self.free_space_floor_bytes
    }

    /// How many times what is needed the log may take.
    pub(crate) fn disk_factor(&self) -> f64 {
        self.disk_factor
    }

    /// Opens the shard's log and folded state, or begins them.
    ///
    /// # Errors
    /// [`StorageError::Log`], [`StorageError::State`], [`StorageError::NotOneRun`].
    pub(crate) fn open_store(&self) -> Result<ShardStore, StorageError> {
        let folder = self.folder();
        ShardStore::open(&folder, self.shard_options()).map_err(|error| match error {
            OpenError::Log(source) => StorageError::Log { folder, source },
            OpenError::State(source) => StorageError::State { folder, source },
            source => StorageError::NotOneRun { folder, source },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_shards(path: &Path, shards: u32) -> Result<DataDirectory, String> {
        DataDirectory::take(path, &config::Storage::default(), shards).map_err(|error| error.to_string())
    }

    fn taken(path: &Path) -> Result<DataDirectory, String> {
        of_shards(path, 1)
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let first = taken(&path).unwrap();
        let refusal = taken(&path).unwrap_err();
        let expected = format!("{} is in use by process {}: stop", path.display(), std::process::id());
        assert!(refusal.starts_with(&expected), "{refusal}");
        drop(first);
        taken(&path).unwrap();
    }

    #[test]
    fn what_is_no_folder_is_told_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let refusal = taken(&path.join("data")).unwrap_err();
        assert!(refusal.contains("It has to be a folder"), "{refusal}");
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_named() {
        for name in ["state.redb", "state.redb.new", "log/next.tmp", "log/lock", "log/00000000000000000009.log"] {
            let folder = tempfile::tempdir().unwrap();
            let directory = taken(folder.path()).unwrap().shard(0);
            let path = folder.path().join("shard-0").join(name);
            drop(directory.open_store().unwrap());
            if path.is_file() {
                std::fs::remove_file(&path).unwrap();
            }
            std::fs::create_dir(&path).unwrap();
            let refusal = directory.open_store().unwrap_err().to_string();
            assert!(refusal.contains(&format!("{}: Is a directory", path.display())), "{refusal}");
            assert!(refusal.contains("move it away"), "{refusal}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(LOCK_NAME)).unwrap();
        let refusal = taken(folder.path()).unwrap_err();
        assert!(refusal.contains("causeway.lock: Is a directory") && refusal.contains("move it away"), "{refusal}");
    }

    #[test]
    fn a_folded_state_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let directory = taken(folder.path()).unwrap().shard(0);
        drop(directory.open_store().unwrap());
        let path = folder.path().join("shard-0/state.redb");
        let intact = std::fs::read(&path).unwrap();
        let garbage: Vec<u8> = (0..20_000_u32).map(|at| (at * 7 % 251) as u8).collect();
        for damaged in [&intact[..intact.len() / 2], &intact[..100], &garbage, b"", &vec![0; intact.len()]] {
            std::fs::write(&path, damaged).unwrap();
            let refusal = directory.open_store().unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("{} is damaged: ", path.display())), "{refusal}");
            assert!(refusal.contains("from a copy"), "{refusal}");
        }
        std::fs::write(&path, &intact).unwrap();
        directory.open_store().unwrap();
    }

    #[test]
    fn a_folder_stays_taken_when_its_lock_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let directory = taken(folder.path()).unwrap().shard(0);
        let _store = directory.open_store().unwrap();
        for name in [LOCK_NAME, "shard-0/log/lock"] {
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        let refusal = taken(folder.path()).unwrap_err();
        assert!(refusal.contains("is in use by another process"), "{refusal}");
        assert!(matches!(directory.open_store(), Err(StorageError::Log { source: RecoverError::Locked(_), .. })));
    }

    #[test]
    fn damage_is_told_with_its_place_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let directory = taken(folder.path()).unwrap().shard(0);
        let mut log = directory.open_store().unwrap().log;
        let records = [b"record".as_slice(); 3];
        causeway_storage::Log::append(&mut log, 1, &mut records.iter().copied()).unwrap();
        causeway_storage::Log::close(&mut log).unwrap();
        drop(log);
        let segment = folder.path().join("shard-0/log/00000000000000000001.log");
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[4096 + 50] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        let refusal = directory.open_store().unwrap_err().to_string();
        assert!(refusal.contains("00000000000000000001.log is damaged at byte 4136"), "{refusal}");
        assert!(refusal.contains(&format!("restore {} from a copy", folder.path().display())), "{refusal}");
    }

    /// Has all shards begin.
    fn make(path: &Path, shards: u32) {
        let mut directory = of_shards(path, shards).unwrap();
        (0..shards).for_each(|shard| drop(directory.shard(shard).open_store().unwrap()));
        directory.all_begun().unwrap();
    }

    #[test]
    fn a_folder_has_its_number_of_shards_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), 3);
        for wrong in [1, 2, 4] {
            let refusal = of_shards(folder.path(), wrong).unwrap_err();
            let said = format!("was made for 3 shards and broker.shards is {wrong}: set broker.shards = 3");
            assert!(refusal.contains(&said) && refusal.contains("cannot be changed yet"), "{refusal}");
        }
        make(folder.path(), 3);
    }

    #[test]
    fn a_folder_without_a_layout_has_one_shard() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), 1);
        std::fs::remove_file(folder.path().join(causeway_storage::LAYOUT_FILE)).unwrap();
        let refusal = of_shards(folder.path(), 2).unwrap_err();
        assert!(refusal.contains("was made for 1 shard and broker.shards is 2"), "{refusal}");
        make(folder.path(), 1);
        assert!(!folder.path().join(causeway_storage::LAYOUT_FILE).exists(), "its run is known to nobody but its log");
        std::fs::create_dir(folder.path().join("shard-1")).unwrap();
        let refusal = taken(folder.path()).unwrap_err();
        assert!(refusal.contains("causeway.shards is missing") && refusal.contains("Restore the whole"), "{refusal}");
    }

    #[test]
    fn a_shard_that_is_missing_too_much_or_of_another_folder_is_refused() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(folder.path(), 2);
        make(other.path(), 2);
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("shard-2")).unwrap();
        let refusal = of_shards(folder.path(), 2).unwrap_err();
        assert!(refusal.contains("shard-2 is none of its shards") && refusal.contains("Move it away"), "{refusal}");
        std::fs::remove_dir(path("shard-2")).unwrap();

        std::fs::rename(path("shard-1"), path("kept")).unwrap();
        let refusal = of_shards(folder.path(), 2).unwrap_err();
        assert!(refusal.contains("shard-1 is missing") && refusal.contains("Restore the whole"), "{refusal}");
        std::fs::create_dir_all(path("shard-1/log")).unwrap();
        let open = || of_shards(folder.path(), 2).unwrap().shard(1).open_store().map_err(|error| error.to_string());
        let refusal = open().unwrap_err();
        assert!(refusal.contains("shard-1/log/ holds no segment of the log, which was begun"), "{refusal}");
        std::fs::remove_dir_all(path("shard-1")).unwrap();
        std::fs::rename(other.path().join("shard-1"), path("shard-1")).unwrap();
        let refusal = open().unwrap_err();
        assert!(refusal.contains("it comes from another broker. Restore the whole data directory"), "{refusal}");
        std::fs::remove_dir_all(path("shard-1")).unwrap();
        std::fs::rename(path("kept"), path("shard-1")).unwrap();
        open().unwrap();
    }

    #[test]
    fn a_folder_that_was_half_made_is_made() {
        let folder = tempfile::tempdir().unwrap();
        drop(of_shards(folder.path(), 2).unwrap().shard(1).open_store().unwrap());
        make(folder.path(), 2);
    }
}
