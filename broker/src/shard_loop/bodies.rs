//! Reading messages back from the disk, beside the shard's thread.
//!
//! Owns the thread and the handover in both directions. It takes all requests that wait, reads each, and gives all answers back at
//! once. Whoever asks bounds how many are under way.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_core::Lsn;
use causeway_storage::{BodyReader, ReadAhead, ReadError};

use crate::server::LogReport;

/// Messages that cannot be read are told at most this often; all are counted.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Messages that could not be read are tried again after this,
const RETRY: Duration = Duration::from_millis(500);
/// so many of them at a time.
const RETRIED_AT_ONCE: usize = 16;

/// What was read ahead is dropped when nobody asks for so long.
const AHEAD_KEPT: Duration = Duration::from_secs(1);
/// What a record takes beside its bytes, while it is under way.
const OVERHEAD_BYTES: usize = 1024;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    lsn: Lsn,
    bytes: usize,
}

/// What was asked for, and the record where there is one.
#[derive(Debug, PartialEq)]
pub(super) struct Fetched {
    pub(super) lsn: Lsn,
    pub(super) record: Option<Bytes>,
    /// As it was asked for.
    bytes: usize,
}

/// The shard's end of the thread.
pub(super) struct Bodies {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Asked for since the last [`Bodies::submit`].
    asked: Vec<Asked>,
    bytes_under_way: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    has_answers: AtomicBool,
    /// Bytes of those that could not be read, and are tried again.
    put_off_bytes: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    answers: Vec<Fetched>,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bodies {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives none.
    pub(super) fn start(shard: u32, reader: BodyReader, report: Arc<LogReport>) -> io::Result<Bodies> {
        let shared = Arc::new(Shared::default());
        let reading = shared.clone();
        let span = tracing::Span::current();
        let thread = thread::Builder::new().name(format!("bodies-{shard}")).spawn(move || {
            let _named = span.entered();
            read_forever(&reader, &reading, &report);
        })?;
        Ok(Bodies { shared, thread: Some(thread), asked: Vec::new(), bytes_under_way: 0 })
    }

    /// Whom to wake from now on when there are answers.
    pub(super) fn wakes(&self, waker: &Waker) {
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// Asks for a record of about so many bytes. Nothing is read before [`Bodies::submit`].
    pub(super) fn ask(&mut self, lsn: Lsn, bytes: usize) {
        let bytes = bytes + OVERHEAD_BYTES;
        self.asked.push(Asked { lsn, bytes });
        self.bytes_under_way += bytes;
    }

    /// Hands over what was asked for.
    pub(super) fn submit(&mut self) {
        if !self.asked.is_empty() {
            self.shared.state().asked.append(&mut self.asked);
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Whether [`Bodies::take`] has something.
    pub(super) fn has_answers(&self) -> bool {
        self.shared.has_answers.load(Ordering::Acquire)
    }

    /// Bytes of records asked for and not yet answered, but for those that cannot be read now: they are to keep nobody else waiting.
    pub(super) fn bytes_under_way(&self) -> usize {
        self.bytes_under_way.saturating_sub(self.shared.put_off_bytes.load(Ordering::Acquire))
    }

    /// The answers there are.
    pub(super) fn take(&mut self) -> Vec<Fetched> {
        if !self.shared.has_answers.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        let answers = std::mem::take(&mut self.shared.state().answers);
        self.bytes_under_way -= answers.iter().map(|answer| answer.bytes).sum::<usize>();
        answers
    }
}

/// Whoever opens the folder next must be alone with it: it waits for the thread.
impl Drop for Bodies {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic has been told by then.
            let _ = thread.join();
        }
    }
}

/// The thread's end.
struct Reading<'a> {
    reader: &'a BodyReader,
    report: &'a LogReport,
    /// What could not be read, though nothing says that it is damaged, and when some of it is tried again.
    again: VecDeque<Asked>,
    again_at: Instant,
    /// The next line may be written then.
    line_at: Instant,
}

fn read_forever(reader: &BodyReader, shared: &Shared, report: &LogReport) {
    let now = Instant::now();
    let mut reading = Reading { reader, report, again: VecDeque::new(), again_at: now, line_at: now };
    let mut ahead = None;
    loop {
        let mut state = shared.state();
        let mut asked = std::mem::take(&mut state.asked);
        if state.ended {
            return;
        }
        drop(state);
        let wait = reading.again_at.saturating_duration_since(Instant::now());
        if !reading.again.is_empty() && wait.is_zero() {
            // A few at a time: a disk that fails may take long to say so, and others wait.
            asked.extend(reading.again.drain(..reading.again.len().min(RETRIED_AT_ONCE)));
            reading.again_at = Instant::now() + RETRY;
        }
        if asked.is_empty() {
            let (parked, most) = (Instant::now(), if reading.again.is_empty() { AHEAD_KEPT } else { wait });
            match reading.again.is_empty() && ahead.is_none() {
                true => thread::park(),
                false => thread::park_timeout(most),
            }
            if parked.elapsed() >= AHEAD_KEPT {
                ahead = None;
            }
            continue;
        }
        // In the order of the log, neighbours are read at once.
        asked.sort_unstable();
        let ahead: &mut ReadAhead = ahead.get_or_insert_default();
        let mut answers: Vec<Fetched> = asked.into_iter().filter_map(|asked| reading.read(asked, ahead)).collect();
        let put_off: usize = reading.again.iter().map(|asked| asked.bytes).sum();
        if shared.put_off_bytes.swap(put_off, Ordering::AcqRel) == put_off && answers.is_empty() {
            continue;
        }
        report.bodies_fetched.add(answers.len() as u64);
        shared.state().answers.append(&mut answers);
        shared.has_answers.store(true, Ordering::Release);
        if let Some(waker) = shared.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            waker.wake_by_ref();
        }
    }
}

impl Reading<'_> {
    /// The record, or none in its place where it is damaged or gone, and so lost to its receivers. Where the system only does not let it
    /// be read, nothing is lost: it is tried again, and whoever waits for it waits. All others are still served.
    fn read(&mut self, asked: Asked, ahead: &mut ReadAhead) -> Option<Fetched> {
        let Asked { lsn, bytes } = asked;
        let outcome = self.reader.read_near(lsn.0, ahead);
        if let Ok(record @ Some(_)) = outcome {
            return Some(Fetched { lsn, record, bytes });
        }
        let now = Instant::now();
        let (lost, why) = match outcome {
            Ok(_) => (true, "it is not kept any more".to_owned()),
            Err(error) => (matches!(error, ReadError::Corrupt { .. }), error.to_string()),
        };
        let may_tell = now >= self.line_at;
        if may_tell {
            self.line_at = now + LINE_INTERVAL;
        }
        if !lost {
            if self.again.is_empty() {
                self.again_at = now + RETRY;
            }
            self.again.push_back(asked);
            self.report.read_failures.add(1);
            if may_tell {
                tracing::error!(target: "causeway::log", record = lsn.0, waiting = self.again.len(),
                    "a message cannot be read from the disk now, so its receivers wait; it is tried again: {why}");
            }
            return None;
        }
        self.report.unreadable.add(1);
        if may_tell {
            tracing::error!(target: "causeway::log", record = lsn.0, unreadable = self.report.unreadable.get(),
                "a message cannot be read from the disk, so it is not delivered: {why}");
        }
        Some(Fetched { lsn, record: None, bytes })
    }
}

#[cfg(test)]
mod tests {
    use causeway_storage::fault::FaultyDisk;
    use causeway_storage::{Log, ShardOptions, ShardStore};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_asked_for_comes_and_what_is_gone_is_told() {
        let (log_disk, state_disk) = (FaultyDisk::new(1), FaultyDisk::new(2));
        let mut store = ShardStore::open_on(Arc::new(log_disk), Arc::new(state_disk), ShardOptions::new(0)).unwrap();
        let records: Vec<Vec<u8>> = (0..100).map(|number| vec![number; 50]).collect();
        store.log.append(1, &mut records.iter().map(Vec::as_slice)).unwrap();
        let report = Arc::new(LogReport::default());
        let mut bodies = Bodies::start(0, store.bodies, report.clone()).unwrap();
        let asked = [7, 100, 1, 101];
        asked.iter().for_each(|lsn| bodies.ask(Lsn(*lsn), 50));
        bodies.submit();
        assert_eq!(bodies.bytes_under_way(), 4 * (OVERHEAD_BYTES + 50));
        let (mut answers, started) = (Vec::new(), Instant::now());
        while bodies.bytes_under_way() > 0 {
            assert!(started.elapsed() < DEADLINE, "no answer");
            answers.extend(bodies.take().into_iter().map(|Fetched { lsn, record, .. }| (lsn.0, record)));
            thread::yield_now();
        }
        let expected = |lsn| (lsn, records.get(lsn as usize - 1).map(|record| Bytes::from(record.clone())));
        assert_eq!(answers, [1, 7, 100, 101].map(expected));
        assert_eq!(report.unreadable.get(), 1);
        assert!(!bodies.has_answers());
    }

    #[test]
    fn what_the_system_does_not_let_be_read_is_read_later_and_keeps_nobody_waiting() {
        const RECORDS: u64 = 40;
        let (log_disk, state_disk) = (FaultyDisk::new(1), FaultyDisk::new(2));
        let options = ShardOptions::new(0);
        let mut store = ShardStore::open_on(Arc::new(log_disk.clone()), Arc::new(state_disk), options).unwrap();
        store.log.append(1, &mut std::iter::repeat_n(b"record".as_slice(), RECORDS as usize)).unwrap();
        store.log.sync().unwrap();
        let report = Arc::new(LogReport::default());
        let mut bodies = Bodies::start(0, store.bodies, report.clone()).unwrap();
        log_disk.fail_reads(true);
        (1..=RECORDS).for_each(|lsn| bodies.ask(Lsn(lsn), 6));
        bodies.submit();
        let started = Instant::now();
        while bodies.bytes_under_way() > 0 {
            assert!(started.elapsed() < DEADLINE, "what cannot be read is in the way");
            thread::yield_now();
        }
        assert!(report.read_failures.get() >= RECORDS && bodies.take().is_empty());
        log_disk.fail_reads(false);
        let mut answers = Vec::new();
        while answers.len() < RECORDS as usize {
            assert!(started.elapsed() < DEADLINE, "they are not tried again");
            answers.extend(bodies.take().into_iter().map(|Fetched { lsn, record, .. }| (lsn.0, record)));
            thread::yield_now();
        }
        answers.sort_unstable();
        assert_eq!(answers, (1..=RECORDS).map(|lsn| (lsn, Some(Bytes::from_static(b"record")))).collect::<Vec<_>>());
        assert_eq!((report.unreadable.get(), bodies.bytes_under_way()), (0, 0));
    }
}
