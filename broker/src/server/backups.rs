//! Backups of the broker that runs: between whoever asks for one and the thread that folds, which copies.
//!
//! Owns that there is one at a time, and that it is checked before it gets its name. It never reads the log or the state itself.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use causeway_core::inspect::{check_entry, check_record};
use causeway_storage::backup::{BackedUp, BackupError, Destination, copy_layout};
use causeway_storage::inspect::{Decoder, verify};
use causeway_storage::{OpenError, shard_folder};
use serde::Serialize;

use crate::jobs::Jobs;
use crate::registry::Registry;

/// Where backups are made, the only shard there is.
const SHARD: u32 = 0;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum NoBackup {
    /// One at a time.
    #[error("another backup is under way")]
    UnderWay,
    /// The shards of the copy would be of different moments.
    #[error(
        "a broker of several shards cannot be backed up while it runs yet: stop it, and then copy its data directory with causewayd backup"
    )]
    SeveralShards,
    /// The broker starts, stops, or keeps nothing on disk.
    #[error("the broker is starting or stopping")]
    NotServing,
    /// The broker needs the room itself.
    #[error("the disk of the data directory has too little room left (storage.free_space_floor_bytes)")]
    NoRoom,
    /// It cannot be copied.
    #[error(transparent)]
    Copy(#[from] BackupError),
    /// The copy cannot be checked.
    #[error("the copy cannot be checked: {0}")]
    Unchecked(#[from] OpenError),
    /// The copy is damaged.
    #[error("the copy is damaged, and is removed: {0}")]
    Damaged(String),
}

/// A backup that was made. Its fields are the keys of the JSON.
#[derive(Debug, Serialize)]
pub struct Made {
    /// Records of the log.
    pub records: u64,
    /// Entries of the folded state.
    pub entries: u64,
    /// Messages in the folded state.
    pub bodies: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The oldest record of the log; zero where there is none.
    pub first_record: u64,
    /// The newest.
    pub last_record: u64,
    /// How long it took, checking included.
    pub milliseconds: u64,
}

/// See the module. Nobody answers before `open`.
#[derive(Debug, Default)]
pub struct Backups(Mutex<Desk>);

#[derive(Debug, Default)]
struct Desk {
    /// The data directory, while there is somebody to copy it.
    data: Option<PathBuf>,
    /// Whether there are several shards, so that nobody ever will.
    several: bool,
    under_way: bool,
    registry: Option<(Arc<Registry>, Jobs)>,
    wanted: Option<Wanted>,
}

/// A copy that is wanted.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The folder of the copy, which does not exist yet.
    pub(crate) to: PathBuf,
    answer: SyncSender<Result<BackedUp, NoBackup>>,
}

impl Wanted {
    /// Tells what became of it.
    pub(crate) fn answer(self, outcome: Result<BackedUp, NoBackup>) {
        // Whoever asked always waits for it.
        let _ = self.answer.send(outcome);
    }
}

impl Backups {
    /// Makes a backup in the folder `to`, checks it, and only then gives it its name. Waits for all of that, so call it where waiting
    /// harms nobody.
    ///
    /// # Errors
    /// See [`NoBackup`]. Then there is nothing called `to`.
    pub fn make(&self, to: &Path) -> Result<Made, NoBackup> {
        let started = Instant::now();
        // Dropped after the destination: the next one finds nothing of this one.
        let (_turn, data) = self.turn()?;
        let destination = Destination::begin(to, &data)?;
        let layout = copy_layout(&data, destination.folder())?;
        let folder = shard_folder(destination.folder(), SHARD);
        // Before the shards: what a job says it has done is in their copy.
        let jobs_bytes = self.copy_jobs(destination.folder())?;
        // No answer: the thread that copies has ended.
        let done = self.want(folder.clone())?.recv().unwrap_or(Err(NoBackup::NotServing))?;
        let checked = verify(&folder, SHARD, layout.and_then(|layout| layout.run(SHARD)), &mut Meaning)?;
        let bytes = done.bytes + jobs_bytes + self.copy_registry(destination.folder())?;
        if let Some(damage) = checked.damage.first() {
            return Err(NoBackup::Damaged(format!("{}: {}", damage.file, damage.detail)));
        }
        destination.finish()?;
        Ok(Made {
            records: checked.records,
            entries: checked.entries,
            bodies: checked.bodies,
            bytes,
            first_record: done.first,
            last_record: done.last,
            milliseconds: started.elapsed().as_millis() as u64,
        })
    }

    /// From now on, backups have the registry and the jobs, too.
    pub(crate) fn take_along(&self, registry: Arc<Registry>, jobs: Jobs) {
        self.desk().registry = Some((registry, jobs));
    }

    fn copy_jobs(&self, to: &Path) -> Result<u64, NoBackup> {
        let jobs = self.desk().registry.as_ref().map(|(_, jobs)| jobs.clone());
        Ok(jobs.map_or(Ok(0), |jobs| jobs.copy_to(to)).map_err(BackupError::from)?)
    }

    /// The registry as it is at one moment, copied and checked; how many bytes.
    fn copy_registry(&self, to: &Path) -> Result<u64, NoBackup> {
        let Some((registry, _)) = self.desk().registry.clone() else { return Ok(0) };
        let bytes = registry.copy_to(to).map_err(BackupError::from)?;
        match Registry::look(to) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(NoBackup::Damaged(error.to_string())),
        }
    }

    /// From now on, somebody [takes](Backups::take) what is wanted.
    pub(crate) fn open(&self, data: &Path) {
        self.desk().data = Some(data.to_owned());
    }

    /// There are several shards: no backups are made.
    pub(crate) fn refuse_several(&self) {
        self.desk().several = true;
    }

    /// From now on, nobody does. What is wanted is refused.
    pub(crate) fn close(&self) {
        let mut desk = self.desk();
        desk.data = None;
        desk.wanted = None;
    }

    /// Whether a copy that is being made is still of use.
    pub(crate) fn is_open(&self) -> bool {
        self.desk().data.is_some()
    }

    /// The copy that is wanted now, once.
    pub(crate) fn take(&self) -> Option<Wanted> {
        self.desk().wanted.take()
    }

    fn turn(&self) -> Result<(Turn<'_>, PathBuf), NoBackup> {
        let mut desk = self.desk();
        if desk.several {
            return Err(NoBackup::SeveralShards);
        }
        let data = desk.data.clone().ok_or(NoBackup::NotServing)?;
        match std::mem::replace(&mut desk.under_way, true) {
            true => Err(NoBackup::UnderWay),
            false => Ok((Turn(self), data)),
        }
    }

    fn want(&self, to: PathBuf) -> Result<Receiver<Result<BackedUp, NoBackup>>, NoBackup> {
        let (answer, outcome) = sync_channel(1);
        let mut desk = self.desk();
        if desk.data.is_none() {
            return Err(NoBackup::NotServing);
        }
        desk.wanted = Some(Wanted { to, answer });
        Ok(outcome)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose turn it is to make a backup, until dropped.
struct Turn<'a>(&'a Backups);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.desk().under_way = false;
    }
}

/// What records and entries have to mean.
struct Meaning;

impl Decoder for Meaning {
    fn record(&mut self, _lsn: u64, bytes: &[u8]) -> Result<(), String> {
        check_record(bytes).map_err(|error| error.to_string())
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        check_entry(key, value).map(drop).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_at_a_time_and_none_where_nobody_copies() {
        let (backups, folder) = (Backups::default(), tempfile::tempdir().unwrap());
        let [data, to] = ["data", "to"].map(|name| folder.path().join(name));
        fs::create_dir(&data).unwrap();
        assert!(matches!(backups.make(&to), Err(NoBackup::NotServing)));
        backups.open(&data);
        assert!(matches!(backups.make(&data.join("a/to")), Err(NoBackup::Copy(BackupError::Inside { .. }))));
        assert!(!data.join("a").exists());
        let turn = backups.turn().unwrap();
        assert!(matches!(backups.make(&to), Err(NoBackup::UnderWay)));
        drop(turn);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| backups.make(&to));
            while backups.desk().wanted.is_none() {
                std::thread::yield_now();
            }
            backups.close();
            assert!(matches!(asking.join().unwrap(), Err(NoBackup::NotServing)));
        });
        assert!(!to.exists() && !folder.path().join("to.partial").exists());
    }
}
