//! Jobs: the same for many vehicles, one after the other, at a pace: something is wanted of each, or each gets a command.
//!
//! Owns which jobs there are, and that each goes on where it was after a restart. It knows nothing of shadows and commands but how to ask
//! for them. What is kept of a job is in a file of its own, so that jobs of any size need little memory.

mod counts;
mod record;
mod requested;
mod requests;
mod room;
mod runner;
mod store;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_core::Vin;
use causeway_storage::StateError;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use counts::JobCounts;
pub use record::{CommandSpec, JobId, JobSpec, JobState, Record, Target, VINS_MAX};
use requested::Requested;
use room::Room;
pub use store::{JOBS_FILE, StoreError};
use store::{Kept, Store};
use work::{Task, Work};

use crate::registry::{Registry, RegistryError, now_ms};
use crate::server::{Asks, FoldedShard, LogReport, Search, SearchError};

/// Jobs that are not over: so many that were made over HTTP, and as many that messages requested. Neither keeps the others out.
const ACTIVE_MAX: usize = 100;
/// Jobs that are kept. Of more, those go that were over first.
const KEPT_MAX: usize = 1000;
/// Commands of one job that are under way: they wait for vehicles.
const COMMANDS_MAX: usize = 10_000;
/// Before outcomes of commands are forgotten, it counts as uncertain whether they are.
const OUTCOME_MARGIN_MS: u64 = 120_000;
/// Vehicles that are written down in one piece.
const TARGETS_PER_PART: usize = 1000;
/// Why a job waits that has nothing wrong with it.
const NO_ROOM: &str = "the disk is nearly full: the job goes on when it has room again";
/// Results that are read at a time: so many, and about so many bytes.
const RESULTS_PER_READ: (usize, usize) = (1000, 1 << 20);

/// See the module. Clones are the same jobs.
#[derive(Debug, Clone)]
pub struct Jobs(Arc<Inner>);

/// What jobs are done with.
#[derive(Debug)]
pub struct JobParts {
    /// Where shards are asked.
    pub asks: Asks,
    /// Where vehicles are found.
    pub search: Search,
    /// Which vehicles belong to groups.
    pub registry: Arc<Registry>,
    /// The folded states of the shards, by their numbers.
    pub folded: Vec<FoldedShard>,
    /// What their logs say about the disk, likewise.
    pub logs: Vec<Arc<LogReport>>,
    /// For so long it is known what became of a command, in seconds from its end.
    pub outcomes_kept_seconds: u32,
    /// Commands that one requester may have pending.
    pub commands_pending_max: usize,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    asks: Asks,
    search: Search,
    registry: Arc<Registry>,
    folded: Arc<[FoldedShard]>,
    room: Arc<Room>,
    outcomes_kept_ms: u64,
    commands_max: usize,
    jobs: Mutex<BTreeMap<JobId, Arc<Job>>>,
    /// Results that were written, by outcome.
    results: Mutex<BTreeMap<&'static str, u64>>,
    /// One change of the store after the other, so that the newest record is the one that is kept.
    turn: Arc<Mutex<()>>,
    /// None once the broker stops.
    running: Mutex<Option<JoinSet<()>>>,
    runtime: Handle,
}

/// A job in memory.
#[derive(Debug)]
struct Job {
    /// As it was written.
    record: Mutex<Record>,
    rate: Mutex<Option<f64>>,
    /// Why it does not get on now.
    trouble: Mutex<Option<String>>,
    changed: Notify,
}

/// Why something about a job does not go.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is none of that name.
    #[error("there is no job {0}")]
    Unknown(String),
    /// It is over.
    #[error("the job is over")]
    Over,
    /// There are enough.
    #[error("there are {ACTIVE_MAX} jobs already that are not over")]
    TooMany,
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopping,
    /// There is no such group.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// They cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a job does not get on.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("the broker is stopping")]
    Stopping,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(RegistryError),
    #[error(transparent)]
    Search(#[from] SearchError),
}

fn taken<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    fn new(record: Record) -> Arc<Job> {
        let (record, changed) = (Mutex::new(record), Notify::new());
        Arc::new(Job { record, rate: Mutex::default(), trouble: Mutex::default(), changed })
    }

    fn id(&self) -> JobId {
        taken(&self.record).id
    }

    fn record(&self) -> Record {
        taken(&self.record).clone()
    }

    fn note_rate(&self, rate: f64, weight: f64) {
        let mut known = taken(&self.rate);
        *known = Some(known.map_or(rate, |known| known + (rate - known) * weight));
    }

    fn note_trouble(&self, why: Option<String>) {
        *taken(&self.trouble) = why;
    }

    fn shown(&self, room: &Room) -> Value {
        let record = self.record();
        let rate = taken(&self.rate).filter(|_| record.state == JobState::Running);
        let mut shown = record.shown(rate);
        if let Some(why) = self.held_up(&record, room) {
            shown["held_up"] = why.into();
        }
        shown
    }

    /// Why it does not get on, though nobody has paused it.
    fn held_up(&self, record: &Record, room: &Room) -> Option<String> {
        let short = room.is_short().then(|| NO_ROOM.to_owned());
        taken(&self.trouble).clone().or(short).filter(|_| record.state == JobState::Running)
    }
}

impl Jobs {
    /// Opens the jobs of a data directory, and goes on with those that are not over. Reads from the disk. Must be called within the runtime that they
    /// are to run on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(data: Option<&Path>, parts: JobParts) -> Result<Jobs, StoreError> {
        let store = Arc::new(Store::open(data)?);
        let jobs = store.jobs()?.into_iter().map(|record| (record.id, Job::new(record))).collect();
        let JobParts { asks, search, registry, folded, logs, outcomes_kept_seconds, commands_pending_max } = parts;
        let outcomes_kept_ms = u64::from(outcomes_kept_seconds) * 1000;
        let commands_max = commands_pending_max.clamp(1, COMMANDS_MAX);
        let (jobs, turn, running) = (Mutex::new(jobs), Arc::default(), Mutex::new(Some(JoinSet::new())));
        let (folded, room, runtime) = (folded.into(), Arc::new(Room::new(logs)), Handle::current());
        let inner = Inner {
            store,
            asks,
            search,
            registry,
            folded,
            room,
            outcomes_kept_ms,
            commands_max,
            jobs,
            results: Mutex::default(),
            turn,
            running,
            runtime,
        };
        let jobs = Jobs(Arc::new(inner));
        let active: Vec<Arc<Job>> = taken(&jobs.0.jobs).values().cloned().collect();
        active.iter().filter(|job| taken(&job.record).is_open()).for_each(|job| jobs.start(job));
        Ok(jobs)
    }

    fn start(&self, job: &Arc<Job>) {
        if let Some(running) = &mut *taken(&self.0.running) {
            // Those that have ended are nobody's any more.
            while running.try_join_next().is_some() {}
            running.spawn_on(runner::run(self.0.clone(), job.clone()), &self.0.runtime);
        }
    }

    /// Makes a job, which begins at once.
    ///
    /// # Errors
    /// [`JobError`].
    pub async fn make(&self, spec: JobSpec, by: String) -> Result<Value, JobError> {
        spec.check().map_err(JobError::Invalid)?;
        let vins = spec.vins().map_err(JobError::Invalid)?;
        match &spec.target {
            Target::Where(text) => {
                self.0.search.parse(text).map_err(|error| JobError::Invalid(format!("where: {error}")))?;
            }
            Target::Group(group) => {
                let (registry, group) = (self.0.registry.clone(), group.clone());
                let found = tokio::task::spawn_blocking(move || registry.group(&group)).await;
                found.map_err(|_| JobError::Stopping)??;
            }
            Target::Vins(_) => {}
        }
        Ok(self.begin(spec, by, vins, None).await?.shown(&self.0.room))
    }

    /// Makes a job that makes sense. It is on the disk then.
    async fn begin(
        &self,
        spec: JobSpec,
        by: String,
        vins: Vec<Vin>,
        requested: Option<Box<Requested>>,
    ) -> Result<Arc<Job>, JobError> {
        self.forget_old().await?;
        let job = self.number(spec, by, &vins, requested)?;
        let id = job.id();
        let kept = self.0.change(&job, move |_, kept| {
            for (part, vins) in vins.chunks(TARGETS_PER_PART).enumerate() {
                kept.targets(id, (part * TARGETS_PER_PART) as u32, vins);
            }
        });
        if let Err(error) = kept.await {
            taken(&self.0.jobs).remove(&id);
            return Err(match error {
                RunError::Store(error) => JobError::Store(error),
                _ => JobError::Stopping,
            });
        }
        self.start(&job);
        Ok(job)
    }

    /// A job with a number of its own, which is not kept yet.
    fn number(
        &self,
        mut spec: JobSpec,
        by: String,
        vins: &[Vin],
        requested: Option<Box<Requested>>,
    ) -> Result<Arc<Job>, JobError> {
        let resolved = matches!(spec.target, Target::Vins(_));
        if resolved {
            spec.target = Target::Vins(Vec::new());
        }
        let (mut jobs, made_ms) = (taken(&self.0.jobs), now_ms());
        let is_like_it = |job: &&Arc<Job>| {
            let record = taken(&job.record);
            !record.state.is_over() && record.requested.is_some() == requested.is_some()
        };
        if jobs.values().filter(is_like_it).count() >= ACTIVE_MAX {
            return Err(JobError::TooMany);
        }
        let last = jobs.keys().next_back().map_or(0, |last| last.0);
        let record = Record {
            id: JobId(made_ms.max(last + 1)),
            spec,
            by,
            made_ms,
            ended_ms: None,
            state: JobState::Running,
            resolved,
            resolved_through: None,
            total: vins.len() as u32,
            next: 0,
            reserved: 0,
            saved_ms: made_ms,
            outcomes: BTreeMap::new(),
            requested,
        };
        let job = Job::new(record);
        jobs.insert(job.id(), job.clone());
        Ok(job)
    }

    /// Makes room for one more.
    async fn forget_old(&self) -> Result<(), JobError> {
        let old = {
            let jobs = taken(&self.0.jobs);
            let mut over: Vec<(Option<u64>, JobId)> = jobs
                .values()
                .map(|job| taken(&job.record))
                .filter(|record| !record.is_open())
                .map(|record| (record.ended_ms, record.id))
                .collect();
            over.sort_unstable();
            over.truncate((jobs.len() + 1).saturating_sub(KEPT_MAX));
            over
        };
        for (_, id) in old {
            self.0.read(move |store| store.remove(id)).await.map_err(|error| match error {
                RunError::Store(error) => JobError::Store(error),
                _ => JobError::Stopping,
            })?;
            taken(&self.0.jobs).remove(&id);
        }
        Ok(())
    }

    fn job(&self, id: &str) -> Result<Arc<Job>, JobError> {
        let unknown = || JobError::Unknown(id.to_owned());
        let number: JobId = id.parse().map_err(|()| unknown())?;
        taken(&self.0.jobs).get(&number).cloned().ok_or_else(unknown)
    }

    /// Jobs as they are, those that were made last first: up to `limit` that were made before `before`.
    pub fn list(&self, before: Option<JobId>, limit: usize) -> Vec<Value> {
        let jobs = taken(&self.0.jobs);
        let range = jobs.range(..before.unwrap_or(JobId(u64::MAX)));
        range.rev().take(limit).map(|(_, job)| job.shown(&self.0.room)).collect()
    }

    /// How many there are, and what became of their vehicles.
    pub fn counts(&self) -> JobCounts {
        let mut counts = JobCounts::new(taken(&self.0.results).clone());
        for job in taken(&self.0.jobs).values() {
            let record = taken(&job.record);
            counts.add(&record, job.held_up(&record, &self.0.room).is_some());
        }
        counts
    }

    /// A job as it is.
    ///
    /// # Errors
    /// [`JobError::Unknown`].
    pub fn show(&self, id: &str) -> Result<Value, JobError> {
        Ok(self.job(id)?.shown(&self.0.room))
    }

    /// Pauses it, goes on with it, or ends it.
    ///
    /// # Errors
    /// [`JobError`].
    pub async fn set_state(&self, id: &str, state: JobState) -> Result<Value, JobError> {
        let job = self.job(id)?;
        if job.record().state.is_over() {
            return Err(JobError::Over);
        }
        let changed = self.0.change(&job, move |record, _| {
            // It may be over since.
            if !record.state.is_over() {
                record.state = state;
                record.ended_ms = state.is_over().then(now_ms);
            }
        });
        changed.await.map_err(|error| match error {
            RunError::Store(error) => JobError::Store(error),
            _ => JobError::Stopping,
        })?;
        job.changed.notify_one();
        Ok(job.shown(&self.0.room))
    }

    /// Results from a place on, each a line of JSON, in the order of the vehicles; and the place to go on from. None there: that was all there is
    /// by now.
    ///
    /// # Errors
    /// [`JobError`].
    pub async fn results(&self, id: &str, from: u32) -> Result<(Vec<Vec<u8>>, Option<u32>), JobError> {
        let id = self.job(id)?.id();
        let results = self.0.read(move |store| store.results(id, from, RESULTS_PER_READ)).await;
        let results = results.map_err(|error| match error {
            RunError::Store(error) => JobError::Store(error),
            _ => JobError::Stopping,
        })?;
        let next = results.last().map(|(place, _)| place + 1);
        Ok((results.into_iter().map(|(_, line)| line).collect(), next))
    }

    /// Copies all that is kept of jobs, as it is at one moment; how many bytes.
    ///
    /// # Errors
    /// Those of reading here and of writing there.
    pub fn copy_to(&self, folder: &Path) -> Result<u64, StateError> {
        self.0.store.copy_to(folder)
    }

    /// Ends all that is under way, where it is: the broker stops.
    pub async fn close(&self) {
        let running = taken(&self.0.running).take();
        if let Some(mut running) = running {
            running.shutdown().await;
        }
    }
}

impl Inner {
    /// Reads from the store.
    async fn read<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, RunError> {
        let store = self.store.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&store)).await;
        Ok(answer.map_err(|_| RunError::Stopping)??)
    }

    /// Changes a job, and what is kept beside it. In memory it changes once that is durable.
    async fn change(
        &self,
        job: &Arc<Job>,
        apply: impl FnOnce(&mut Record, &mut Kept) + Send + 'static,
    ) -> Result<(), RunError> {
        let (store, turn, job) = (self.store.clone(), self.turn.clone(), job.clone());
        let changed = tokio::task::spawn_blocking(move || {
            let _turn = taken(&turn);
            let (mut record, mut kept) = (job.record(), Kept::default());
            record.saved_ms = now_ms();
            apply(&mut record, &mut kept);
            kept.job(&record)?;
            store.keep(kept)?;
            *taken(&job.record) = record;
            Ok::<(), StoreError>(())
        });
        Ok(changed.await.map_err(|_| RunError::Stopping)??)
    }

    /// Counts results that are written.
    fn count(&self, kinds: Vec<&'static str>) {
        let mut results = taken(&self.results);
        kinds.into_iter().for_each(|kind| *results.entry(kind).or_default() += 1);
    }

    fn work(&self, record: &Record) -> Work {
        let JobSpec { shadow, command, .. } = &record.spec;
        let task = match command {
            Some(command) => {
                // What was under way when it was written last may have ended a little before that.
                let known_until_ms = record.saved_ms + self.outcomes_kept_ms;
                let may_be_forgotten = now_ms() + OUTCOME_MARGIN_MS > known_until_ms;
                Task::Command { command: command.clone(), requested: record.requested.clone(), may_be_forgotten }
            }
            None => {
                let document = record.spec.document().unwrap_or_default();
                Task::Update(shadow.as_deref().map(Into::into), document)
            }
        };
        let (asks, folded, room) = (self.asks.clone(), self.folded.clone(), self.room.clone());
        Work { asks, folded, room, id: record.id, made_ms: record.made_ms, task }
    }
}
