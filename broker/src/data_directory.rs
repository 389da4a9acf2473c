//! The folder of everything that survives a restart.
//!
//! Owns who may use it, where each shard keeps what it has in it, and what is said where it cannot be used. It never looks into a
//! record.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use causeway_core::RecordError;
use causeway_storage::disk::{FileLock, LockError, RealDisk, lock_alone};
use causeway_storage::{Durability, LogOptions, OpenError, RecoverError, ShardOptions, ShardStore, StateError};

use crate::config;

/// Held for as long as the process uses the folder.
pub(crate) const LOCK_NAME: &str = "causeway.lock";

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
         Causeway: start that one, or move the folder away to begin without sessions and messages",
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
        "{}: {source}. Restore the whole folder from one copy, or move it away to begin without sessions and messages",
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
         start that one, or move the folder away to begin without sessions and messages",
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

/// What to do about a log that cannot be read.
fn advice(error: &RecoverError, folder: &Path) -> String {
    let shown = folder.display();
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
    let shown = folder.display();
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

/// The folder, taken for this process until dropped.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    options: LogOptions,
    free_space_floor_bytes: u64,
    disk_factor: f64,
    /// The kernel gives the lock free with the file, however the process ends.
    _lock: FileLock,
}

impl DataDirectory {
    /// Makes the folder if it is missing, and takes it.
    ///
    /// # Errors
    /// [`StorageError::InUse`], [`StorageError::Folder`].
    pub(crate) fn take(path: &Path, settings: &config::Storage) -> Result<DataDirectory, StorageError> {
        // What the disk says has the path in it.
        let refused = |source| StorageError::Folder { folder: path.to_owned(), source };
        RealDisk::new(path).map_err(refused)?;
        let lock = lock_alone(&path.join(LOCK_NAME)).map_err(|error| match error {
            LockError::Held { holder, .. } => StorageError::InUse { folder: path.to_owned(), holder },
            LockError::Io(source) => refused(source),
        })?;
        let durability = match settings.durability {
            config::Durability::Fsync => Durability::Fsync,
            config::Durability::Os => Durability::Os,
        };
        let options = LogOptions { segment_bytes: settings.segment_bytes, durability, ..LogOptions::new(0) };
        let config::Storage { free_space_floor_bytes, disk_factor, .. } = *settings;
        Ok(DataDirectory { path: path.to_owned(), options, free_space_floor_bytes, disk_factor, _lock: lock })
    }

    /// The folder of the shard.
    pub(crate) fn shard(&self) -> PathBuf {
        self.path.join(format!("shard-{}", self.options.shard))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the shard's store is opened with.
    pub(crate) fn shard_options(&self) -> ShardOptions {
        ShardOptions { log: self.options.clone(), ..ShardOptions::new(self.options.shard) }
    }

    /// Bytes of one segment of the log.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes
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
        let folder = self.shard();
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

    fn taken(path: &Path) -> Result<DataDirectory, String> {
        DataDirectory::take(path, &config::Storage::default()).map_err(|error| error.to_string())
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
            let directory = taken(folder.path()).unwrap();
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
        let directory = taken(folder.path()).unwrap();
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
        let directory = taken(folder.path()).unwrap();
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
        let directory = taken(folder.path()).unwrap();
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
        assert!(refusal.contains(&format!("restore {}/shard-0 from a copy", folder.path().display())), "{refusal}");
    }
}
