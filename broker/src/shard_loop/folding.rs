//! The folded state's own thread: writes down what the shard is, so that the log can be short.
//!
//! Owns the open transaction, the copying of messages out of segments that are to go, backups of the running shard, which are
//! made between folds, and the eye on the disk's free space. It decides nothing: what goes into a fold, and when the log may be cut, is said by whoever sends jobs. A fold that fails is dropped and
//! told; the state stays as it was.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use causeway_core::{Change, Lsn};
use causeway_storage::backup::{BackedUp, BackupError, RunningShard, backup};
use causeway_storage::{
    BodyReader, Fold, FoldMark, LOG_FOLDER, LogReader, ReadAhead, ReadError, ShardOptions, StateError, StateStore,
    free_bytes,
};

use super::reserve::Reserve;
use crate::server::{Backups, LogReport, NoBackup, Wanted};

/// Jobs that wait. Each is small: a slice of a checkpoint, or of the messages to copy.
const JOBS_MAX: usize = 4;
/// How often the free space is looked up.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// Once it was too little, it is enough again with this part of the floor more.
const FLOOR_MARGIN: u64 = 8;
/// But no more than this.
const FLOOR_MARGIN_BYTES_MAX: u64 = 64 << 20;

/// The device and the number of a folder.
type FolderIdentity = (u64, u64);

/// One step of a fold. The first step after a [`Job::Commit`] begins the next one.
#[derive(Debug)]
pub(super) enum Job {
    /// Entries and bodies that changed.
    Change(Vec<Change>),
    /// Copies these messages, so that the log may lose them. Those that are nowhere any more are left out.
    Keep(Vec<Lsn>),
    /// Makes the fold durable. Answered.
    Commit(FoldMark),
}

/// What is watched, and how.
pub(super) struct FoldParts {
    pub(super) state: Arc<dyn StateStore>,
    pub(super) bodies: BodyReader,
    pub(super) report: Arc<LogReport>,
    /// The number of the shard.
    pub(super) shard: u32,
    /// Where free space is looked up.
    pub(super) folder: PathBuf,
    pub(super) free_space_floor_bytes: u64,
    /// What is held back for folding on a full disk.
    pub(super) reserve: Reserve,
    /// What backups are made from; without it, there are none.
    pub(super) copying: Option<Copying>,
}

/// What backups are made from, beside the state.
pub(super) struct Copying {
    pub(super) log: LogReader,
    /// Those of the shard's store.
    pub(super) options: ShardOptions,
    pub(super) backups: Arc<Backups>,
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.backups.close();
    }
}

/// The shard's end of the thread. Dropping it ends the thread, drops a fold that is open, and waits for that: whoever opens the
/// folder next must be alone with it.
pub(super) struct Folding {
    /// There until dropped.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    /// Where backups are asked for.
    backups: Option<Arc<Backups>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Whether the shard has something to look at: an answer, room for jobs, or other free space.
    news: AtomicBool,
    is_low: AtomicBool,
    /// The folder is not the one it was at the start.
    is_gone: AtomicBool,
    abandoned: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct State {
    /// The outcome of the last commit, until it is taken.
    answer: Option<Result<(), FoldError>>,
    /// Whether a job did not fit since the last was taken.
    wants_room: bool,
}

/// Why a fold failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FoldError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("a message that is to be kept cannot be read: {0}")]
    Body(#[from] ReadError),
    #[error("the disk has no room; what was held back for that is given up: {0}")]
    ReserveGivenUp(StateError),
    #[error("the thread that folds the state is gone")]
    Gone,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.news.store(true, Ordering::Release);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            waker.wake_by_ref();
        }
    }
}

impl Folding {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives none.
    pub(super) fn start(parts: FoldParts) -> io::Result<Folding> {
        let (jobs, inbox) = sync_channel(JOBS_MAX);
        let shared = Arc::new(Shared::default());
        let backups = parts.copying.as_ref().map(|copying| copying.backups.clone());
        let folder = Folder { parts, shared: shared.clone(), fold: None, failed: None, begun: None, bytes: 0 };
        let span = tracing::Span::current();
        let thread = thread::Builder::new().name(format!("fold-{}", folder.parts.shard)).spawn(move || {
            let _named = span.entered();
            // Whatever ends the thread, the shard hears of it.
            let _farewell = Farewell(folder.shared.clone());
            folder.run(&inbox);
        })?;
        Ok(Folding { jobs: Some(jobs), thread: Some(thread), shared, backups })
    }

    /// Whom to wake from now on when there is news.
    pub(super) fn wakes(&self, waker: &Waker) {
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// Whether something changed since this was last asked.
    pub(super) fn take_news(&self) -> bool {
        self.shared.news.swap(false, Ordering::Acquire)
    }

    /// Whether there is news, which stays.
    pub(super) fn has_news(&self) -> bool {
        self.shared.news.load(Ordering::Acquire)
    }

    /// Whether the disk has less free space than the floor.
    pub(super) fn is_low(&self) -> bool {
        self.shared.is_low.load(Ordering::Relaxed)
    }

    /// Whether the data directory was removed, or another put in its place: what is written now, nobody will find.
    pub(super) fn is_gone(&self) -> bool {
        self.shared.is_gone.load(Ordering::Relaxed)
    }

    /// Hands a job over, or gives it back where too many wait; then there will be news.
    pub(super) fn submit(&self, job: Job) -> Result<(), Job> {
        let Some(jobs) = &self.jobs else { return Ok(()) };
        match jobs.try_send(job) {
            Ok(()) => Ok(()),
            // Its end was announced.
            Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(job)) => {
                self.shared.state().wants_room = true;
                // There may be room since: nobody would tell.
                match jobs.try_send(job) {
                    Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
                    Err(TrySendError::Full(job)) => Err(job),
                }
            }
        }
    }

    /// Makes no more backups, and gives the one up that is being made.
    pub(super) fn stop_copying(&self) {
        if let Some(backups) = &self.backups {
            backups.close();
        }
    }

    /// The outcome of the last commit, if there is one.
    pub(super) fn take_answer(&self) -> Option<Result<(), FoldError>> {
        self.shared.state().answer.take()
    }
}

impl Drop for Folding {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Relaxed);
        self.stop_copying();
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been told by then.
            let _ = thread.join();
        }
    }
}

struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.state().answer = Some(Err(FoldError::Gone));
        self.0.announce();
    }
}

/// The thread's end.
struct Folder {
    parts: FoldParts,
    shared: Arc<Shared>,
    fold: Option<Box<dyn Fold>>,
    /// Why the fold at hand cannot be committed any more.
    failed: Option<FoldError>,
    /// Since when there is a fold, and the bytes that went into it.
    begun: Option<Instant>,
    bytes: u64,
}

impl Folder {
    fn run(mut self, inbox: &Receiver<Job>) {
        let mut space_at = Instant::now();
        let folders = self.folders();
        loop {
            let now = Instant::now();
            if now >= space_at {
                space_at = now + SPACE_INTERVAL;
                self.look_for_space();
                self.keep_reserve(self.parts.report.free_bytes.get());
                if have_gone(&folders, &self.folders()) && !self.shared.is_gone.swap(true, Ordering::Relaxed) {
                    self.shared.announce();
                }
            }
            // Between folds. It waits for the next turn of this loop, at most a second.
            if self.begun.is_none() {
                self.back_up();
            }
            match inbox.recv_timeout(space_at.saturating_duration_since(now)) {
                Ok(_) if self.shared.abandoned.load(Ordering::Relaxed) => return,
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, job: Job) {
        let wants_room = std::mem::take(&mut self.shared.state().wants_room);
        if wants_room {
            self.shared.announce();
        }
        match job {
            Job::Commit(mark) => {
                let outcome = self.commit(mark).map_err(|error| self.relieve(error));
                let took = self.begun.take().map_or(Duration::ZERO, |begun| begun.elapsed());
                let bytes = std::mem::take(&mut self.bytes);
                match &outcome {
                    Ok(()) => self.parts.report.folded(took, bytes),
                    Err(_) => self.parts.report.fold_failures.add(1),
                }
                self.shared.state().answer = Some(outcome);
                self.shared.announce();
            }
            // What follows a failure is of no use.
            _ if self.failed.is_some() => {}
            Job::Change(changes) => {
                self.attempt(|fold, _| changes.iter().try_fold(0, |bytes, change| Ok(bytes + apply(fold, change)?)))
            }
            Job::Keep(messages) => self.attempt(|fold, parts| keep(fold, parts, &messages)),
        }
    }

    /// Does a step of the fold at hand, or of a new one.
    fn attempt(&mut self, step: impl FnOnce(&mut dyn Fold, &FoldParts) -> Result<u64, FoldError>) {
        self.begun.get_or_insert_with(Instant::now);
        let outcome = match self.fold.take().map_or_else(|| self.parts.state.fold(), Ok) {
            Ok(mut fold) => step(fold.as_mut(), &self.parts).map(|bytes| (fold, bytes)),
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok((fold, bytes)) => {
                self.fold = Some(fold);
                self.bytes += bytes;
            }
            // The fold is dropped: the store is as it was.
            Err(error) => self.failed = Some(error),
        }
    }

    fn commit(&mut self, mark: FoldMark) -> Result<(), FoldError> {
        // A fold without changes still moves the mark.
        self.attempt_to_begin();
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Some(fold) = self.fold.take() {
            fold.commit(mark)?;
        }
        self.parts.report.state_bytes.set(self.parts.state.bytes_on_disk().unwrap_or(0));
        Ok(())
    }

    /// A fold that found no room is worth another try where there is something to give up for it.
    fn relieve(&mut self, error: FoldError) -> FoldError {
        match error {
            FoldError::State(error) if error.is_full() && self.parts.reserve.release() => {
                FoldError::ReserveGivenUp(error)
            }
            error => error,
        }
    }

    fn attempt_to_begin(&mut self) {
        if self.failed.is_none() {
            self.attempt(|_, _| Ok(0));
        }
    }

    /// Makes the copy that is wanted, if one is. Meanwhile no fold is committed and, as that only follows a commit, no segment removed.
    fn back_up(&self) {
        let Some(copying) = &self.parts.copying else { return };
        let Some(wanted) = copying.backups.take() else { return };
        let outcome = self.copy(copying, &wanted);
        wanted.answer(outcome);
    }

    fn copy(&self, copying: &Copying, wanted: &Wanted) -> Result<BackedUp, NoBackup> {
        let shard = RunningShard {
            state: self.parts.state.clone(),
            log: copying.log.clone(),
            durable: self.parts.report.durable.get(),
            options: copying.options.clone(),
        };
        let takes_our_room = wanted.to.parent().is_none_or(|to| is_same_disk(to, &self.parts.folder));
        let mut space_at = Instant::now();
        let mut no_room = false;
        let outcome = backup(&shard, &wanted.to, &mut |_| {
            let now = Instant::now();
            if now >= space_at {
                space_at = now + SPACE_INTERVAL;
                self.look_for_space();
                no_room = takes_our_room && self.shared.is_low.load(Ordering::Relaxed);
            }
            !no_room && copying.backups.is_open()
        });
        outcome.map_err(|error| match error {
            BackupError::Abandoned if no_room => NoBackup::NoRoom,
            BackupError::Abandoned => NoBackup::NotServing,
            error => error.into(),
        })
    }

    /// What the shard's folder and the log's are now.
    fn folders(&self) -> [io::Result<FolderIdentity>; 2] {
        let identity = |folder: &Path| folder.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        [identity(&self.parts.folder), identity(&self.parts.folder.join(LOG_FOLDER))]
    }

    /// Holds room back while there is plenty, and gives it up for a log that found none: without its newest records, nothing can be
    /// folded.
    fn keep_reserve(&mut self, free: u64) {
        let FoldParts { reserve, report, free_space_floor_bytes, .. } = &mut self.parts;
        if report.is_full() {
            if reserve.release() {
                tracing::warn!(target: "causeway::log", "what was held back for a full disk is given up, to make room");
            }
        } else if let Err(error) = reserve.hold(free, *free_space_floor_bytes) {
            tracing::debug!(target: "causeway::log", %error, "no room can be held back");
        }
    }

    fn look_for_space(&self) {
        // A file system that does not say is not taken for full: writing will tell.
        let Ok(free) = free_bytes(&self.parts.folder) else { return };
        self.parts.report.free_bytes.set(free);
        let floor = self.parts.free_space_floor_bytes;
        let was_low = self.shared.is_low.load(Ordering::Relaxed);
        let margin = (floor / FLOOR_MARGIN).min(FLOOR_MARGIN_BYTES_MAX);
        let is_low = free < if was_low { floor + margin } else { floor };
        if is_low != was_low {
            self.shared.is_low.store(is_low, Ordering::Relaxed);
            self.shared.announce();
        }
    }
}

/// Whether a folder is missing now, or is another. A system that only does not answer says nothing of that.
fn have_gone(before: &[io::Result<FolderIdentity>; 2], now: &[io::Result<FolderIdentity>; 2]) -> bool {
    before.iter().zip(now).any(|pair| match pair {
        (Ok(before), Ok(now)) => before != now,
        (Ok(_), Err(error)) => error.kind() == io::ErrorKind::NotFound,
        (Err(_), _) => false,
    })
}

/// Whether both folders take room from the same file system. Where that cannot be told, they do.
fn is_same_disk(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => one.dev() == other.dev(),
        _ => true,
    }
}

/// Returns the bytes that this writes.
fn apply(fold: &mut dyn Fold, change: &Change) -> Result<u64, FoldError> {
    match change {
        Change::Put { key, value } => {
            fold.put(key, value)?;
            return Ok((key.len() + value.len()) as u64);
        }
        Change::Remove { key } => fold.remove(key)?,
        Change::RemoveRange { from, to, entries_max } => drop(fold.remove_range(from, to, *entries_max)?),
        Change::RemoveBody(lsn) => fold.remove_body(lsn.0)?,
    }
    Ok(0)
}

/// Returns the bytes that this writes.
fn keep(fold: &mut dyn Fold, parts: &FoldParts, messages: &[Lsn]) -> Result<u64, FoldError> {
    let (mut bytes, mut ahead) = (0, ReadAhead::default());
    for lsn in messages {
        match parts.bodies.read_near(lsn.0, &mut ahead) {
            Ok(Some(body)) => {
                fold.put_body(lsn.0, &body)?;
                bytes += body.len() as u64;
            }
            Ok(None) => {}
            // What is damaged stays so: it must not keep the log from ever becoming shorter.
            Err(error @ ReadError::Corrupt { .. }) => {
                parts.report.unreadable.add(1);
                tracing::error!(target: "causeway::log", record = lsn.0, "a message is lost: {error}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}
