//! The log's own thread: what makes records durable while the shard goes on.
//!
//! Owns the handover in both directions, the removal of old segments, and what happens when the disk has no room. It takes all groups that wait, appends them,
//! syncs once, and says how far the log is durable now; what came meanwhile is the next batch. Nobody polls, and no timer is
//! involved, but for a full disk. After a failure it ends, and nothing more is called durable.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use causeway_core::{Lsn, PendingGroup};
use causeway_storage::{Log, LogError, LogStats, SegmentedLog};

use crate::data_directory::ShardDirectory;
use crate::server::LogReport;

/// Groups are appended together up to this many bytes.
const APPEND_BYTES_MAX: u64 = 1 << 20;
/// How often a full disk is asked whether there is room now.
const FULL_RETRY: Duration = Duration::from_millis(250);
/// How often the log's size is looked up, while there are commits.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// The shard's end of the thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    submitted_bytes: u64,
    durable_bytes: u64,
    durable: Lsn,
}

/// What both sides see.
struct Shared {
    state: Mutex<State>,
    /// Whether the shard has not yet looked at the newest state.
    news: AtomicBool,
    /// Whether the disk has no room for the next segment.
    short: AtomicBool,
    /// Wakes the shard's flusher.
    waker: Mutex<Option<Waker>>,
    report: Arc<LogReport>,
}

struct State {
    waiting: Vec<Waiting>,
    told: Told,
    durable: Lsn,
    durable_bytes: u64,
    ended: Option<Result<(), LogError>>,
    /// What is numbered below may go.
    truncate_before: Lsn,
    stats: Arc<LogStats>,
}

struct Waiting {
    group: PendingGroup,
    bytes: u64,
}

/// What the thread is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Write,
    /// Write what waits, close the log, and end.
    Close,
    /// End at once.
    Abandon,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the shard look at the state.
    fn announce(&self) {
        self.news.store(true, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = waker.as_ref() {
            waker.wake_by_ref();
        }
    }
}

impl Writer {
    /// Starts the thread. It holds the data directory until it ends.
    ///
    /// # Errors
    /// Where the system gives none.
    pub(super) fn start(
        log: SegmentedLog,
        directory: Option<ShardDirectory>,
        report: Arc<LogReport>,
    ) -> io::Result<Writer> {
        let stats = Arc::new(log.stats());
        report.holds(&stats);
        let durable = Lsn(log.next().unwrap_or(1).saturating_sub(1));
        let (short, has_spare) = (AtomicBool::new(!stats.spare), stats.spare);
        let state = Mutex::new(State {
            waiting: Vec::new(),
            told: Told::Write,
            durable,
            durable_bytes: 0,
            ended: None,
            truncate_before: Lsn(0),
            stats,
        });
        let shared = Arc::new(Shared { state, news: AtomicBool::new(false), short, waker: Mutex::default(), report });
        let writing = Writing {
            log,
            shared: shared.clone(),
            groups: VecDeque::new(),
            taken: Vec::new(),
            full: false,
            has_spare,
            stats_at: Instant::now(),
            stats_stale: false,
            truncate_before: Lsn(0),
        };
        let name = format!("log-{}", directory.as_ref().map_or(0, ShardDirectory::number));
        let span = tracing::Span::current();
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _named = span.entered();
            let farewell = Farewell(writing.shared.clone());
            let outcome = writing.run();
            drop(directory);
            farewell.0.state().ended = Some(outcome);
        })?;
        Ok(Writer { shared, thread: Some(thread), submitted_bytes: 0, durable_bytes: 0, durable })
    }

    /// Whom to wake from now on when there is news.
    pub(super) fn wakes(&self, waker: &Waker) {
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// Whether [`Writer::poll_durable`] may have something to tell.
    pub(super) fn has_news(&self) -> bool {
        self.shared.news.load(Ordering::Acquire)
    }

    /// Hands a group over to be made durable.
    pub(super) fn submit(&mut self, group: PendingGroup) {
        let bytes = group.iter().map(<[u8]>::len).sum::<usize>() as u64;
        self.submitted_bytes += bytes;
        self.shared.state().waiting.push(Waiting { group, bytes });
        self.report_unsynced();
        self.unpark();
    }

    /// How far the log is durable, if that is news.
    ///
    /// # Errors
    /// The log failed, or its thread did.
    pub(super) fn poll_durable(&mut self) -> Result<Option<Lsn>, LogError> {
        if !self.shared.news.swap(false, Ordering::Acquire) {
            return Ok(None);
        }
        let mut state = self.shared.state();
        if let Some(Err(failure)) = state.ended.take_if(|ended| ended.is_err()) {
            return Err(failure);
        }
        let durable = state.durable;
        self.durable_bytes = state.durable_bytes;
        drop(state);
        self.durable = durable;
        self.report_unsynced();
        Ok(Some(durable))
    }

    /// How far the log is durable, as far as [`Writer::poll_durable`] told.
    pub(super) fn durable(&self) -> Lsn {
        self.durable
    }

    /// Bytes handed over since the start.
    pub(super) fn submitted_bytes(&self) -> u64 {
        self.submitted_bytes
    }

    /// What the log held some moment within the last second of its work.
    pub(super) fn stats(&self) -> Arc<LogStats> {
        self.shared.state().stats.clone()
    }

    /// Whether the disk has no room for the next segment. A change is news.
    pub(super) fn is_short(&self) -> bool {
        self.shared.short.load(Ordering::Relaxed)
    }

    /// Has the segments removed that hold nothing from `lsn` on.
    pub(super) fn truncate(&self, lsn: Lsn) {
        self.shared.state().truncate_before = lsn;
        self.unpark();
    }

    /// Bytes handed over and not known to be durable.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.submitted_bytes.saturating_sub(self.durable_bytes)
    }

    /// Writes what waits, closes the log and ends the thread. Waits for all of that.
    ///
    /// # Errors
    /// The log failed, or its thread did.
    pub(super) fn close(&mut self) -> Result<(), LogError> {
        self.tell(Told::Close);
        if let Some(thread) = self.thread.take() {
            // A panic is told by what it left behind.
            let _ = thread.join();
        }
        let ended = self.shared.state().ended.take();
        ended.unwrap_or(Ok(()))
    }

    fn report_unsynced(&self) {
        self.shared.report.unsynced_bytes.set(self.unsynced_bytes());
    }

    fn tell(&self, told: Told) {
        self.shared.state().told = told;
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.tell(Told::Abandon);
    }
}

/// However the thread ends, the shard hears of it.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let panicked = || Err(LogError::Io(io::Error::other("its thread panicked")));
        self.0.state().ended.get_or_insert_with(panicked);
        self.0.announce();
    }
}

/// The thread's end.
struct Writing {
    log: SegmentedLog,
    shared: Arc<Shared>,
    /// Taken over and not yet appended.
    groups: VecDeque<Waiting>,
    /// Kept for its memory.
    taken: Vec<Waiting>,
    full: bool,
    has_spare: bool,
    /// Not before this.
    stats_at: Instant,
    /// Whether there were commits since the size was looked up.
    stats_stale: bool,
    /// What is numbered below may go.
    truncate_before: Lsn,
}

impl Writing {
    fn run(mut self) -> Result<(), LogError> {
        loop {
            let told = self.take();
            // One at a time: groups do not wait for all of them.
            let truncates = told != Told::Abandon && self.truncate_one()?;
            match (told, self.groups.is_empty()) {
                (Told::Abandon, _) => return Ok(()),
                (Told::Write, true) if truncates => {}
                (Told::Write, true) => self.wait()?,
                (Told::Write, false) => {
                    if !self.commit()? {
                        self.wait_for_room();
                    }
                }
                (Told::Close, _) => {
                    if !self.commit()? {
                        let records: usize = self.groups.iter().map(|waiting| waiting.group.iter().count()).sum();
                        tracing::error!(target: "causeway::log", records,
                            "the disk is full: the newest records are not kept. Nothing of them was acknowledged");
                    }
                    return self.log.close();
                }
            }
        }
    }

    /// Waits for groups. Once after the last of them, the log's size is looked up; and again and again while there is no spare
    /// segment.
    fn wait(&mut self) -> Result<(), LogError> {
        if !self.stats_stale && self.has_spare {
            thread::park();
            return Ok(());
        }
        match self.stats_at.checked_duration_since(Instant::now()) {
            Some(left) => thread::park_timeout(left),
            None => self.tell_stats(Instant::now())?,
        }
        Ok(())
    }

    fn tell_stats(&mut self, now: Instant) -> Result<(), LogError> {
        self.stats_at = now + STATS_INTERVAL;
        self.stats_stale = false;
        let mut stats = self.log.stats();
        if !stats.spare {
            // Nothing goes by this: the log tries again to set a spare segment aside.
            self.log.truncate_before(0)?;
            stats = self.log.stats();
        }
        self.shared.report.holds(&stats);
        self.has_spare = stats.spare;
        self.shared.state().stats = Arc::new(stats);
        self.tell_short();
        Ok(())
    }

    /// The shard hears of it only where that changed.
    fn tell_short(&self) {
        let short = self.full || !self.has_spare;
        if self.shared.short.swap(short, Ordering::Relaxed) != short {
            self.shared.announce();
        }
    }

    /// Removes the oldest segment that may go. Whether there was one.
    fn truncate_one(&mut self) -> Result<bool, LogError> {
        if self.truncate_before == Lsn(0) {
            return Ok(false);
        }
        let oldest = self.shared.state().stats.segments.first().map(|segment| segment.next);
        let Some(next) = oldest.filter(|next| *next <= self.truncate_before.0) else {
            self.truncate_before = Lsn(0);
            return Ok(false);
        };
        let first = self.log.first();
        self.log.truncate_before(next)?;
        if self.log.first() == first {
            // The last one stays.
            self.truncate_before = Lsn(0);
        }
        self.tell_stats(Instant::now())?;
        Ok(true)
    }

    /// Takes all groups that wait.
    fn take(&mut self) -> Told {
        let mut state = self.shared.state();
        std::mem::swap(&mut state.waiting, &mut self.taken);
        let told = state.told;
        self.truncate_before = self.truncate_before.max(std::mem::take(&mut state.truncate_before));
        drop(state);
        self.groups.extend(self.taken.drain(..));
        told
    }

    /// Makes the groups durable. False where the disk has no room for all of them.
    fn commit(&mut self) -> Result<bool, LogError> {
        let (mut records, mut bytes) = (0, 0);
        let mut complete = true;
        // With the disk full, one at a time: a small one may fit where several do not.
        let mut bytes_max = if self.full { 0 } else { APPEND_BYTES_MAX };
        while !self.groups.is_empty() {
            let (count, together) = self.next_append(bytes_max);
            match append(&mut self.log, self.groups.iter().take(count)) {
                Ok(appended) => {
                    self.groups.drain(..count);
                    records += appended;
                    bytes += together;
                }
                Err(LogError::Full { .. }) if count > 1 => bytes_max = 0,
                Err(error @ LogError::Full { .. }) => {
                    self.note_full(&error);
                    complete = false;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if records > 0 {
            self.sync(records, bytes)?;
        }
        if complete {
            self.note_room();
        }
        Ok(complete)
    }

    /// How many groups to append together, and their bytes.
    fn next_append(&self, bytes_max: u64) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0);
        for waiting in &self.groups {
            if count > 0 && bytes + waiting.bytes > bytes_max {
                break;
            }
            (count, bytes) = (count + 1, bytes + waiting.bytes);
        }
        (count, bytes)
    }

    fn sync(&mut self, records: u64, bytes: u64) -> Result<(), LogError> {
        let started = Instant::now();
        let durable = Lsn(self.log.sync()?);
        let ended = Instant::now();
        let mut state = self.shared.state();
        // Before anybody can acknowledge what it is about: a backup that is asked for then has it.
        self.shared.report.durable.set(durable.0);
        state.durable = durable;
        state.durable_bytes += bytes;
        drop(state);
        self.shared.announce();
        // The shard is at work already; what follows delays nobody.
        self.shared.report.synced(ended - started, records, bytes);
        self.stats_stale = true;
        // Whoever takes messages hears at once that the spare segment is in use and there is no other: what is left is for
        // records that make room.
        if ended >= self.stats_at || (self.has_spare && !self.log.has_spare()) {
            self.tell_stats(ended)?;
        }
        Ok(())
    }

    fn note_full(&mut self, error: &LogError) {
        if !std::mem::replace(&mut self.full, true) {
            self.shared.report.set_full(true);
            self.tell_short();
            tracing::error!(target: "causeway::log", "{error}. What needs the log is not acknowledged until there is room; \
                all else goes on");
        }
    }

    fn note_room(&mut self) {
        if std::mem::replace(&mut self.full, false) {
            self.shared.report.set_full(false);
            self.tell_short();
            tracing::warn!(target: "causeway::log", "the disk has room again: all that waited is in the log");
        }
    }

    /// Waits for as long as asking the disk again is not worth it, or until told to end.
    fn wait_for_room(&self) {
        let ends = Instant::now() + FULL_RETRY;
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            let state = self.shared.state();
            if left.is_zero() || state.told != Told::Write || state.truncate_before > Lsn(0) {
                return;
            }
            drop(state);
            thread::park_timeout(left);
        }
    }
}

/// Appends these groups as one; returns how many records they have.
fn append<'a>(log: &mut SegmentedLog, groups: impl Iterator<Item = &'a Waiting> + Clone) -> Result<u64, LogError> {
    let Some(first) = groups.clone().next() else { return Ok(0) };
    let first = first.group.first();
    let mut records = 0;
    let counted = |_: &&[u8]| records += 1;
    log.append(first.0, &mut groups.flat_map(|waiting| waiting.group.iter()).inspect(counted))?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use causeway_core::{Handshake, HandshakePolicy, Millis, Overflow, Shard, Step};
    use causeway_protocol::{ProtocolVersion, decode, frame};
    use causeway_storage::LogOptions;
    use causeway_storage::fault::{Failure, FaultyDisk};

    use super::super::commit::{Commit, UNSYNCED_BYTES_MAX};
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);
    const SEGMENT_BYTES: u64 = 64 << 10;

    /// A shard that records retained messages.
    struct Source {
        shard: Shard,
        client: causeway_core::ConnectionId,
    }

    impl Source {
        fn new() -> Source {
            const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a";
            let mut shard = Shard::new(Millis(0), Arc::default(), "test", 1);
            let policy = HandshakePolicy {
                anonymous_allowed: true,
                password_allowed: false,
                methods: Vec::new(),
                vehicle_ids_reserved: false,
                overflow: Overflow::RefuseNew,
            };
            let mut handshake = Handshake::new(Arc::default(), policy, String::new());
            let framed = frame(CONNECT, 1000).unwrap().unwrap();
            let packet = decode(&framed, &CONNECT[framed.header_bytes..], ProtocolVersion::V5).unwrap();
            let Step::Accept(request) = handshake.handle(&packet) else { panic!("it is let in") };
            let client = shard.open(Millis(0), *request);
            Source { shard, client }
        }

        /// A group of one record.
        fn group(&mut self, bytes: usize) -> PendingGroup {
            let body = [b"\x00\x01t\x00\x01\x00".as_slice(), &vec![7; bytes]].concat();
            let mut publish = vec![0x33];
            let mut length = body.len();
            while length > 0x7F {
                publish.push(length as u8 | 0x80);
                length >>= 7;
            }
            publish.push(length as u8);
            publish.extend(body);
            let framed = frame(&publish, 100 << 20).unwrap().unwrap();
            let packet = decode(&framed, &publish[framed.header_bytes..], ProtocolVersion::V5).unwrap();
            self.shard.handle(Millis(0), self.client, &packet);
            self.shard.take_group().unwrap()
        }
    }

    fn options() -> LogOptions {
        LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::new(0) }
    }

    fn start(disk: &FaultyDisk) -> Writer {
        let log = SegmentedLog::open_on(Arc::new(disk.clone()), options()).unwrap();
        Writer::start(log, None, Arc::default()).unwrap()
    }

    /// Waits for news.
    #[track_caller]
    fn durable(writer: &mut Writer) -> Result<Lsn, LogError> {
        let started = Instant::now();
        loop {
            if let Some(durable) = writer.poll_durable()? {
                return Ok(durable);
            }
            assert!(started.elapsed() < DEADLINE, "no news");
            thread::yield_now();
        }
    }

    #[track_caller]
    fn durable_to(writer: &mut Writer, lsn: u64) {
        while durable(writer).unwrap() < Lsn(lsn) {}
    }

    fn records(disk: &FaultyDisk) -> u64 {
        let log = SegmentedLog::open_on(Arc::new(disk.clone()), options()).unwrap();
        log.recover(1, |_| Ok::<(), causeway_storage::RecoverError>(())).unwrap()
    }

    #[test]
    fn what_is_called_durable_survives_the_power_going() {
        let (disk, mut source) = (FaultyDisk::new(1), Source::new());
        let mut writer = start(&disk);
        for lsn in 1..=50 {
            writer.submit(source.group(100));
            if lsn % 7 == 0 {
                durable_to(&mut writer, lsn);
            }
        }
        durable_to(&mut writer, 50);
        assert_eq!(writer.unsynced_bytes(), 0);
        disk.power_cut(2);
        drop(writer);
        assert_eq!(records(&disk), 50);
    }

    #[test]
    fn closing_writes_what_waits() {
        let (disk, mut source) = (FaultyDisk::new(1), Source::new());
        let mut writer = start(&disk);
        (0..20).for_each(|_| writer.submit(source.group(10)));
        writer.close().unwrap();
        drop(writer);
        assert_eq!(records(&disk), 20);
    }

    #[test]
    fn a_full_disk_is_asked_again_and_nothing_is_lost() {
        let (disk, mut source) = (FaultyDisk::new(1), Source::new());
        disk.set_capacity(3 * SEGMENT_BYTES);
        let mut writer = start(&disk);
        let report = writer.shared.report.clone();
        for _ in 0..30 {
            writer.submit(source.group(10_000));
        }
        let started = Instant::now();
        while !report.is_full() {
            assert!(started.elapsed() < DEADLINE, "it is not full");
            thread::yield_now();
        }
        // What fits becomes durable. That the disk is full may be heard before that.
        let mut so_far = durable(&mut writer).unwrap();
        while so_far < Lsn(1) {
            assert!(started.elapsed() < DEADLINE, "nothing of it is durable");
            so_far = durable(&mut writer).unwrap();
        }
        assert!(so_far >= Lsn(1) && so_far < Lsn(30), "{so_far:?}");
        assert!(report.unsynced_bytes.get() >= 10_000);
        disk.set_capacity(30 * SEGMENT_BYTES);
        durable_to(&mut writer, 30);
        let started = Instant::now();
        while report.is_full() {
            assert!(started.elapsed() < DEADLINE, "it is still full");
            thread::yield_now();
        }
        assert_eq!(report.full_events.get(), 1);
        writer.close().unwrap();
        drop(writer);
        assert_eq!(records(&disk), 30);
    }

    #[test]
    fn a_full_disk_does_not_keep_it_from_closing() {
        let (disk, mut source) = (FaultyDisk::new(1), Source::new());
        let mut writer = start(&disk);
        disk.set_capacity(0);
        (0..30).for_each(|_| writer.submit(source.group(10_000)));
        writer.close().unwrap();
        drop(writer);
        let kept = records(&disk);
        assert!(kept < 30, "{kept}");
    }

    #[test]
    fn after_a_failed_sync_nothing_more_is_durable() {
        let (disk, mut source) = (FaultyDisk::new(1), Source::new());
        let mut writer = start(&disk);
        writer.submit(source.group(10));
        durable_to(&mut writer, 1);
        disk.fail_after(0, Failure::Io);
        writer.submit(source.group(10));
        assert!(matches!(durable(&mut writer), Err(LogError::Io(_))));
        writer.submit(source.group(10));
        assert!(matches!(writer.poll_durable(), Ok(None)));
    }

    #[test]
    fn too_much_that_waits_stops_the_reading() {
        let (disk, mut source) = (FaultyDisk::new(1), Source::new());
        let writer = start(&disk);
        disk.set_capacity(0);
        let mut commit = Commit::Beside(writer);
        assert!(!commit.is_behind(UNSYNCED_BYTES_MAX));
        assert!(commit.is_behind(UNSYNCED_BYTES_MAX + 1), "what was read counts");
        for _ in 0..17 {
            assert!(commit.submit(source.group(1 << 20)).unwrap().is_none());
        }
        assert!(commit.is_behind(0) && !commit.has_caught_up());
        disk.set_capacity(1 << 30);
        let started = Instant::now();
        while commit.poll_durable().unwrap() != Some(Lsn(17)) {
            assert!(started.elapsed() < DEADLINE, "it does not catch up");
            thread::yield_now();
        }
        assert!(!commit.is_behind(0) && commit.has_caught_up());
    }
}
