//! What the data plane says about itself, for whoever exports it.
//!
//! Owns where it is kept, shard by shard, and the sums. Whoever is watched writes it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use causeway_core::{Counters, Gauges};

use super::{Asks, Backups, EdgeCounters, FoldedShard, LogReport, Search};
use crate::admin::ListenerState;
use crate::audit::{Audit, AuditCounts};
use crate::jobs::Jobs;
use crate::listener::Listener;
use crate::registry::Registry;

/// Reports a shard may miss before it counts as stuck.
const REPORTS_MISSED_MAX: u32 = 5;

/// What a shard last said about itself; at most some seconds old.
#[derive(Debug, Default)]
pub struct ShardReport(Mutex<LatestReport>);

#[derive(Debug, Default)]
struct LatestReport {
    counters: Counters,
    gauges: Gauges,
    /// `None` before the first one.
    renewed_at: Option<Instant>,
    /// When the shard counts as stuck; `None` before its first report.
    overdue_at: Option<Instant>,
}

impl ShardReport {
    /// Notes a report, of which the next is due after `next`.
    pub(crate) fn renew(&self, counters: Counters, gauges: Gauges, next: Duration) {
        let now = Instant::now();
        let overdue_at = Some(now + next * REPORTS_MISSED_MAX);
        *self.lock() = LatestReport { counters, gauges, renewed_at: Some(now), overdue_at };
    }

    /// The latest numbers.
    pub fn latest(&self) -> (Counters, Gauges) {
        let latest = self.lock();
        (latest.counters, latest.gauges)
    }

    /// How long ago the last report was; zero before the first one.
    pub fn age(&self) -> Duration {
        self.lock().renewed_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether the shard's thread has not reported for much longer than it should have.
    pub fn is_overdue(&self) -> bool {
        self.lock().overdue_at.is_some_and(|at| at <= Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, LatestReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one shard says about itself.
#[derive(Debug, Clone)]
pub struct ObservedShard {
    /// Its connections and bytes.
    pub edge: Arc<EdgeCounters>,
    /// Messages and sessions.
    pub report: Arc<ShardReport>,
    /// Its log on disk.
    pub log: Arc<LogReport>,
    /// Its folded state.
    pub folded: FoldedShard,
}

impl ObservedShard {
    /// Nothing yet, of the shard with this number.
    pub(crate) fn new(number: u32) -> ObservedShard {
        let (edge, report, folded) = Default::default();
        ObservedShard { edge, report, log: Arc::new(LogReport::of_shard(number)), folded }
    }

    /// The latest numbers of several, together.
    pub fn sum(shards: &[ObservedShard]) -> (Counters, Gauges) {
        let (mut counters, mut gauges) = <(Counters, Gauges)>::default();
        for shard in shards {
            let latest = shard.report.latest();
            counters += &latest.0;
            gauges += &latest.1;
        }
        (counters, gauges)
    }
}

/// Those of several shards of which something is true, in words. None where there is none.
pub(crate) fn which(shards: &[ObservedShard], is_so: impl Fn(&ObservedShard) -> bool) -> Option<String> {
    let numbers = shards.iter().enumerate().filter(|(_, shard)| is_so(shard)).map(|(number, _)| number.to_string());
    match &numbers.collect::<Vec<_>>()[..] {
        [] => None,
        [one] => Some(format!("shard {one}")),
        several => Some(format!("shards {}", several.join(", "))),
    }
}

/// Everything the data plane counts.
#[derive(Debug, Default)]
pub struct Observed {
    /// Connections and bytes before a shard has them.
    pub(super) door: Arc<EdgeCounters>,
    /// Where backups of what is on disk are asked for.
    pub backups: Arc<Backups>,
    registry: OnceLock<(Arc<Registry>, Audit)>,
    asks: OnceLock<Asks>,
    search: OnceLock<Search>,
    jobs: OnceLock<Jobs>,
    /// What the audit log counts.
    pub audit: Arc<AuditCounts>,
    shards: OnceLock<Vec<ObservedShard>>,
    listeners: OnceLock<Vec<Arc<Listener>>>,
}

impl Observed {
    /// What each shard says, by its number; empty before the broker starts.
    pub fn shards(&self) -> &[ObservedShard] {
        self.shards.get().map_or(&[], Vec::as_slice)
    }

    /// The latest numbers of all shards, together.
    pub fn latest(&self) -> (Counters, Gauges) {
        ObservedShard::sum(self.shards())
    }

    /// What the edge counts, before and below MQTT, altogether.
    pub fn edge(&self) -> EdgeCounters {
        EdgeCounters::sum(self.shards().iter().map(|shard| shard.edge.as_ref()).chain([self.door.as_ref()]))
    }

    /// Which vehicles there are. None before the broker has started.
    pub fn registry(&self) -> Option<&Arc<Registry>> {
        self.registry.get().map(|(registry, _)| registry)
    }

    /// Where what is done to the registry is recorded.
    pub fn audit_log(&self) -> Audit {
        self.registry.get().map(|(_, audit)| audit.clone()).unwrap_or_default()
    }

    /// Where shards are asked. None before the broker has started.
    pub fn asks(&self) -> Option<&Asks> {
        self.asks.get()
    }

    /// What is done to many vehicles. None before the broker has started.
    pub fn jobs(&self) -> Option<&Jobs> {
        self.jobs.get()
    }

    pub(super) fn show_jobs(&self, jobs: Jobs) {
        // One broker is observed once.
        let _ = self.jobs.set(jobs);
    }

    /// Where vehicles are found by what is true of them. None before the broker has started.
    pub fn search(&self) -> Option<&Search> {
        self.search.get()
    }

    pub(super) fn show_search(&self, search: Search) {
        // One broker is observed once.
        let _ = self.search.set(search);
    }

    pub(super) fn show_asks(&self, asks: Asks) {
        // One broker is observed once.
        let _ = self.asks.set(asks);
    }

    pub(super) fn show_registry(&self, registry: Arc<Registry>, audit: Audit) {
        // One broker is observed once.
        let _ = self.registry.set((registry, audit));
    }

    /// Whether all shards have reported lately.
    ///
    /// # Errors
    /// Which have not.
    pub fn respond(&self) -> Result<(), String> {
        match which(self.shards(), |shard| shard.report.is_overdue()) {
            None => Ok(()),
            Some(_) if self.shards().len() == 1 => Err("the shard does not respond".to_owned()),
            Some(which) => Err(format!("no response from {which}")),
        }
    }

    /// What each listener holds at this moment; none before the broker started.
    pub fn listeners(&self) -> Vec<ListenerState> {
        self.listeners.get().into_iter().flatten().map(|listener| listener.state()).collect()
    }

    /// From now on, so many shards are watched: where each of them reports to.
    pub(super) fn watch_shards(&self, count: u32) -> Vec<ObservedShard> {
        let shards: Vec<_> = (0..count).map(ObservedShard::new).collect();
        // A second broker that reports to the same place would be a mistake of the caller's; the first one stays visible.
        let _ = self.shards.set(shards.clone());
        shards
    }

    /// From now on, these listeners are watched.
    pub(super) fn watch_listeners(&self, listeners: Vec<Arc<Listener>>) {
        // As above.
        let _ = self.listeners.set(listeners);
    }
}
