//! What the log of a shard says about itself, for whoever watches.
//!
//! Owns the numbers. The log's thread writes them, and anybody reads them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_storage::LogStats;
use prometheus::{Histogram, HistogramOpts};
use tokio::sync::Notify;

use super::Counter;

/// Upper bounds of the times of a sync, in seconds.
const SYNC_SECONDS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Upper bounds of how many records one sync made durable.
const COMMIT_RECORDS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 1000.0, 10_000.0];

/// Upper bounds of the times of a fold, in seconds.
const FOLD_SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0];

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module. All zero where nothing is kept on disk.
#[derive(Debug, Default)]
pub struct LogReport {
    /// The number of the shard.
    shard: u32,
    /// Bytes set aside on the disk.
    pub bytes: Gauge,
    /// Segments.
    pub segments: Gauge,
    /// Bytes of records that are not durable yet.
    pub unsynced_bytes: Gauge,
    /// Bytes of records that became durable.
    pub synced_bytes: Counter,
    /// The newest record that is durable.
    pub durable: Gauge,
    /// How often the disk was found to have no room.
    pub full_events: Counter,
    /// Messages that were asked of the disk.
    pub bodies_fetched: Counter,
    /// Messages that could not be read back, and are lost to their receivers.
    pub unreadable: Counter,
    /// Reads that failed and are tried again.
    pub read_failures: Counter,
    /// Folds of the state that became durable.
    pub folds: Counter,
    /// Folds of the state that failed; nothing is lost by that, but the log grows.
    pub fold_failures: Counter,
    /// When the last of them became durable, in seconds since 1970; zero before the first.
    pub folded_at_seconds: Gauge,
    /// Bytes that folds wrote, before what the store adds.
    pub fold_bytes: Counter,
    /// Whether new messages of QoS 1 and 2 are refused because the disk has too little room.
    pub refusing: Gauge,
    /// Bytes of the folded state on the disk.
    pub state_bytes: Gauge,
    /// Bytes of the disk that are free.
    pub free_bytes: Gauge,
    /// Told when there is room again.
    room: Notify,
    full: AtomicBool,
    histograms: OnceLock<[Histogram; 3]>,
}

impl LogReport {
    /// Nothing yet, of the shard with this number.
    pub(crate) fn of_shard(shard: u32) -> LogReport {
        LogReport { shard, ..LogReport::default() }
    }

    /// Notes that a sync took so long, and made so many records durable.
    pub(crate) fn synced(&self, took: Duration, records: u64, bytes: u64) {
        if let Some([seconds, commits, _]) = self.histograms() {
            seconds.observe(took.as_secs_f64());
            commits.observe(records as f64);
        }
        self.synced_bytes.add(bytes);
    }

    /// Notes that a fold became durable, which took so long from its first change on, and wrote so many bytes.
    pub(crate) fn folded(&self, took: Duration, bytes: u64) {
        if let Some([_, _, folds]) = self.histograms() {
            folds.observe(took.as_secs_f64());
        }
        self.folds.add(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.folded_at_seconds.set(now.as_secs());
        self.fold_bytes.add(bytes);
    }

    pub(crate) fn holds(&self, stats: &LogStats) {
        self.bytes.set(stats.bytes_on_disk);
        self.segments.set(stats.segments.len() as u64);
    }

    /// Notes whether new messages of QoS 1 and 2 are refused.
    pub(crate) fn set_refusing(&self, refusing: bool) {
        self.refusing.set(refusing.into());
        if !refusing {
            self.room.notify_waiters();
        }
    }

    /// Waits until they are not refused: at once, or when the shard finds that the disk has room again.
    pub(crate) async fn until_room(&self) {
        // Who listens before looking misses nothing.
        let room = self.room.notified();
        if self.refusing.get() != 0 {
            room.await;
        }
    }

    pub(crate) fn set_full(&self, full: bool) {
        if !self.full.swap(full, Ordering::Relaxed) && full {
            self.full_events.add(1);
        }
    }

    /// Whether records wait because the disk has no room for them.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// How long syncs took, how many records each made durable, and how long folds took. `None` only if they cannot be made, which would be a bug.
    pub(crate) fn histograms(&self) -> Option<&[Histogram; 3]> {
        if let Some(histograms) = self.histograms.get() {
            return Some(histograms);
        }
        let histogram = |name, help, bounds: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
            Histogram::with_opts(options.const_label("shard", self.shard.to_string()))
        };
        let help = "How long it took to make appended records durable.";
        let seconds = histogram("causeway_log_sync_seconds", help, &SYNC_SECONDS).ok()?;
        let help = "Records made durable by one sync.";
        let commits = histogram("causeway_log_commit_records", help, &COMMIT_RECORDS).ok()?;
        let help = "How long it took to fold what changed, from the first change to the commit.";
        let folds = histogram("causeway_fold_seconds", help, &FOLD_SECONDS).ok()?;
        Some(self.histograms.get_or_init(|| [seconds, commits, folds]))
    }
}
