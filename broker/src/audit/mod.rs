//! The audit log: who did what, and what was decided, one JSON line each, each chained to the one before by its hash.
//!
//! Owns the lines, their files and the one thread that writes them. It decides nothing, and whoever has something to record never waits
//! for it: where the thread or the disk is behind, events are counted, and the chain says how many are missing.

mod event;
mod folder;
mod journal;
mod line;
mod repeats;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use causeway_fleet::Principal;
use causeway_storage::disk::{FileLock, LockError, lock_alone};

use crate::config::{self, AuditedConnects};
use journal::Journal;
use line::now_ms;
use repeats::Repeats;

pub use event::{AuditEvent, Decision, What};
pub use line::{Line, Torn};
pub use verify::{Broken, Checked, each_line, verify};

/// Held for as long as a broker writes there.
const LOCK_NAME: &str = "audit.lock";
/// Events that wait for the thread.
const WAITING_MAX: usize = 8192;
/// Lines that are made durable at once.
const BATCH_MAX: usize = 512;
/// After the disk failed, so long until the next try.
const RETRY: Duration = Duration::from_secs(1);
/// Whoever stops waits no longer than this for a disk that does not answer.
const FAREWELL: Duration = Duration::from_secs(5);

fn in_use_advice(error: &LockError) -> &'static str {
    match error {
        LockError::Held { .. } => ": stop that one first, or give this one a folder of its own",
        LockError::Io(_) => "",
    }
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Another process writes there.
    #[error("audit.directory: {}{}", .0, in_use_advice(.0))]
    InUse(#[from] LockError),
    /// What the system says.
    #[error("audit.directory {}: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What the log counted since the start.
#[derive(Debug, Default)]
pub struct AuditCounts {
    /// Lines that are on the disk.
    pub lines: AtomicU64,
    /// Events that were not written: no room, or the disk failed.
    pub lost: AtomicU64,
    /// Writes that failed.
    pub failures: AtomicU64,
}

/// Where events are recorded. Clones record in the same log.
#[derive(Clone, Default)]
pub struct Audit {
    /// None: there is no audit log.
    desk: Option<Arc<Desk>>,
}

struct Desk {
    connects: AuditedConnects,
    queue: SyncSender<Message>,
    counts: Arc<AuditCounts>,
    /// Lost, and not yet told in the chain.
    untold: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    /// With its time, in milliseconds since 1970.
    Event(Box<AuditEvent>, u64),
    /// Write all that came before, then answer; and end, where this says so.
    Flush(SyncSender<()>, bool),
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Audit({})", if self.desk.is_some() { "on" } else { "off" })
    }
}

impl Audit {
    /// Opens the log as configured; without a directory, there is none and nothing is recorded. What is counted stands in `counts`.
    ///
    /// # Errors
    /// The folder cannot be had. A log that is damaged is gone on with, and says so.
    pub fn open(settings: &config::Audit, counts: Arc<AuditCounts>) -> Result<Audit, AuditError> {
        let Some(folder) = settings.directory.clone() else { return Ok(Audit::default()) };
        let wrong = |source| AuditError::Folder { folder: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(wrong)?;
        let lock = lock_alone(&folder.join(LOCK_NAME))?;
        let journal = Journal::open(&folder, settings.file_bytes_max, settings.files_kept).map_err(wrong)?;
        let (queue, messages) = sync_channel(WAITING_MAX);
        let untold = Arc::new(AtomicU64::new(0));
        let repeats = Repeats::default();
        let (counted, settings_kept) = (counts.clone(), settings.clone());
        let writer = Writer {
            folder: folder.clone(),
            settings: settings_kept,
            messages,
            counts: counted,
            untold: untold.clone(),
            journal: Ok(journal),
            repeats,
            _lock: lock,
        };
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run()).map_err(wrong)?;
        let desk = Desk { connects: settings.connects, queue, counts, untold, writer: Mutex::new(Some(thread)) };
        Ok(Audit { desk: Some(Arc::new(desk)) })
    }

    /// Whether there is a log at all: where making an event costs something.
    pub fn is_on(&self) -> bool {
        self.desk.is_some()
    }

    /// Whether it is worth a line that this principal was let in.
    pub fn wants_connect(&self, principal: &Principal) -> bool {
        self.desk.as_ref().is_some_and(|desk| match desk.connects {
            AuditedConnects::All => !matches!(principal, Principal::Shard(_)),
            AuditedConnects::Refused => matches!(principal, Principal::Operator(_)),
        })
    }

    /// Records an event. Never waits.
    pub fn record(&self, event: AuditEvent) {
        let Some(desk) = &self.desk else { return };
        let count = event.count;
        if desk.queue.try_send(Message::Event(Box::new(event), now_ms())).is_err() {
            desk.counts.lost.fetch_add(count, Ordering::Relaxed);
            desk.untold.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Waits until all that was recorded before is on the disk, or for a few seconds.
    pub fn flush(&self) {
        self.tell(false);
    }

    /// Writes what is left and ends the log, for all clones. Waits a few seconds at most.
    pub fn close(&self) {
        let Some(desk) = &self.desk else { return };
        let thread = desk.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some() && self.tell(true) {
            // It has answered, and ends without waiting for anything.
            let _ = thread.map(JoinHandle::join);
        }
    }

    /// Whether it was done.
    fn tell(&self, and_end: bool) -> bool {
        let Some(desk) = &self.desk else { return false };
        let (done, told) = sync_channel(1);
        let deadline = Instant::now() + FAREWELL;
        let mut message = Message::Flush(done, and_end);
        loop {
            match desk.queue.try_send(message) {
                Ok(()) => return told.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok(),
                Err(TrySendError::Full(back)) if Instant::now() < deadline => message = back,
                Err(_) => return false,
            }
            std::thread::yield_now();
        }
    }
}

/// The thread.
struct Writer {
    folder: PathBuf,
    settings: config::Audit,
    messages: Receiver<Message>,
    counts: Arc<AuditCounts>,
    untold: Arc<AtomicU64>,
    /// Or when to try again.
    journal: Result<Journal, Instant>,
    repeats: Repeats,
    _lock: FileLock,
}

impl Writer {
    fn run(mut self) {
        loop {
            let (mut lines, mut answers, mut ended) = (Vec::new(), Vec::new(), false);
            let next = match self.patience() {
                Some(patience) => self.messages.recv_timeout(patience),
                None => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(message) => self.take(message, &mut lines, &mut answers, &mut ended),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => ended = true,
            }
            while lines.len() < BATCH_MAX
                && let Ok(message) = self.messages.try_recv()
            {
                self.take(message, &mut lines, &mut answers, &mut ended);
            }
            let counted = self.repeats.take(Some(Instant::now()).filter(|_| !ended && answers.is_empty()));
            lines.extend(counted.iter().map(|event| Line::of(event, now_ms())));
            self.write(lines, ended);
            for answer in answers {
                // Whoever asked may have lost patience.
                let _ = answer.try_send(());
            }
            if ended {
                return;
            }
        }
    }

    /// How long there is nothing to do unless something comes.
    fn patience(&self) -> Option<Duration> {
        let retry = self.journal.as_ref().err().copied();
        let told_later = Some(Instant::now() + RETRY).filter(|_| self.untold.load(Ordering::Relaxed) > 0);
        let due = [self.repeats.due(), retry, told_later].into_iter().flatten().min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn take(&mut self, message: Message, lines: &mut Vec<Line>, answers: &mut Vec<SyncSender<()>>, ended: &mut bool) {
        match message {
            Message::Event(event, at_ms) if self.repeats.admit(&event, Instant::now()) => {
                lines.push(Line::of(&event, at_ms));
            }
            Message::Event(..) => {}
            Message::Flush(answer, and_end) => {
                answers.push(answer);
                *ended |= and_end;
            }
        }
    }

    /// Appends the lines, and what is to be said of those that were lost. Where that fails, they are lost, too.
    fn write(&mut self, mut lines: Vec<Line>, at_once: bool) {
        if self.journal.as_ref().is_err_and(|retry| at_once || *retry <= Instant::now()) {
            self.journal = self.open();
        }
        let untold = self.untold.swap(0, Ordering::Relaxed);
        if untold > 0 {
            let event = AuditEvent { count: untold, ..AuditEvent::new(What::Lost, Decision::Fail, "not recorded") };
            lines.push(Line::of(&event, now_ms()));
        }
        if lines.is_empty() {
            return;
        }
        let count = lines.len() as u64;
        // The line that tells how many are missing is none of them.
        let events: u64 = lines.iter().map(|line| line.count).sum::<u64>() - untold;
        let failed = match &mut self.journal {
            Err(_) => None,
            Ok(journal) => match journal.append(lines) {
                Ok(()) => {
                    self.counts.lines.fetch_add(count, Ordering::Relaxed);
                    return;
                }
                Err(error) => Some(error),
            },
        };
        if let Some(error) = failed {
            self.fail(&error);
        }
        self.counts.lost.fetch_add(events, Ordering::Relaxed);
        self.untold.fetch_add(events + untold, Ordering::Relaxed);
    }

    fn open(&self) -> Result<Journal, Instant> {
        let journal = Journal::open(&self.folder, self.settings.file_bytes_max, self.settings.files_kept);
        journal.map_err(|error| {
            self.tell(&error);
            Instant::now() + RETRY
        })
    }

    fn fail(&mut self, error: &io::Error) {
        self.tell(error);
        self.journal = Err(Instant::now() + RETRY);
    }

    fn tell(&self, error: &io::Error) {
        // The first of a row says it all.
        if self.counts.failures.fetch_add(1, Ordering::Relaxed).is_power_of_two() || self.journal.is_ok() {
            tracing::error!(target: "causeway::audit", folder = %self.folder.display(), %error,
                "the audit log cannot be written: events are counted until it can");
        }
    }
}

/// Whether a broker writes there now.
pub fn is_in_use(folder: &Path) -> bool {
    matches!(causeway_storage::disk::lock_shared(&folder.join(LOCK_NAME)), Err(LockError::Held { .. }))
}

#[cfg(test)]
mod tests;
