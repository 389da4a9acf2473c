//! One job on its way: first its vehicles are found and written down, then each has its turn.
//!
//! Owns the pace, and the order of what is written: a vehicle has its turn only after that is written, and its result is counted only once
//! it is. What is in memory is bounded by what is under way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use causeway_core::{Answer, Ask, Vin};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::record::{JobState, Target};
use super::work::{Outcome, Work};
use super::{Inner, Job, RunError, taken};
use crate::registry::{Page, RegistryError, now_ms};
use crate::server::AskError;

/// How long turns are gathered that may be had by now, where the rate allows for more than one in that time.
const TICK: Duration = Duration::from_millis(50);
/// Between two attempts, where the disk fails or the fleet cannot be searched. Nothing tells when that is over, so it is tried: seldom enough that a
/// hundred jobs are no load, and soon enough that nobody looks at a job in vain for long.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two attempts, where too many questions wait for a shard: nobody is told when there are fewer.
const BUSY: Duration = Duration::from_millis(500);
/// Results are written this often, or when there are so many.
const SAVE_INTERVAL: Duration = Duration::from_millis(250);
const UNSAVED_MAX: usize = 1000;
/// A job under way is written at least this often: how old that is, tells what may have been forgotten.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
/// Updates of one job that are under way.
const UPDATES_MAX: usize = 64;
/// So many vehicles are said to have their turn at once, before the first of them has: those of a second, and no more than these.
const RESERVED_MAX: u32 = 1000;
/// Vehicles that are found at a time.
const FOUND_PER_PAGE: usize = 1000;
/// The rate that is shown is that of the last so many seconds, about.
const RATE_SECONDS: f64 = 10.0;

/// Until the job is over, or the broker stops. What fails is tried again.
pub(super) async fn run(inner: Arc<Inner>, job: Arc<Job>) {
    loop {
        match attempt(&inner, &job).await {
            Ok(()) => return,
            Err(RunError::Stopping) => return,
            Err(error) => {
                tracing::warn!(target: "causeway::jobs", job = %job.id(), %error, "a job does not get on; it is tried again");
                job.note_trouble(Some(error.to_string()));
                // Whoever cancels it need not wait.
                let _ = timeout(AGAIN, job.changed.notified()).await;
                job.note_trouble(None);
            }
        }
    }
}

async fn attempt(inner: &Arc<Inner>, job: &Arc<Job>) -> Result<(), RunError> {
    while !taken(&job.record).resolved {
        if !goes_on(job).await {
            return inner.tell_last(job, JobState::Cancelled).await;
        }
        resolve(inner, job).await?;
    }
    work(inner, job).await
}

/// Waits while the job is paused. False where it is over.
async fn goes_on(job: &Job) -> bool {
    loop {
        let changed = job.changed.notified();
        let state = taken(&job.record).state;
        match state {
            JobState::Running => return true,
            JobState::Done | JobState::Cancelled => return false,
            JobState::Paused => changed.await,
        }
    }
}

/// Finds some more of its vehicles.
async fn resolve(inner: &Arc<Inner>, job: &Arc<Job>) -> Result<(), RunError> {
    let record = job.record();
    let after: Option<Vin> = record.resolved_through.as_deref().and_then(|vin| vin.parse().ok());
    let (vins, next) = match &record.spec.target {
        Target::Group(group) => {
            let (registry, group) = (inner.registry.clone(), group.clone());
            let page = Page { after: record.resolved_through.clone(), limit: FOUND_PER_PAGE };
            let listed = tokio::task::spawn_blocking(move || registry.members(&group, &page)).await;
            match listed.map_err(|_| RunError::Stopping)? {
                Ok((vins, next)) => (vins, next.and_then(|next| next.parse().ok())),
                // It was removed since.
                Err(RegistryError::Unknown(_)) => (Vec::new(), None),
                Err(error) => return Err(RunError::Registry(error)),
            }
        }
        Target::Where(text) => match inner.search.parse(text) {
            Ok(query) => inner.search.vins(&query, after, FOUND_PER_PAGE).await?,
            // The fields that are indexed are others now.
            Err(error) => {
                tracing::error!(target: "causeway::jobs", job = %job.id(), %error, "a job cannot find its vehicles any more, and is cancelled");
                return inner.end(job, JobState::Cancelled).await;
            }
        },
        Target::Vins(_) => (Vec::new(), None),
    };
    let id = job.id();
    inner
        .change(job, move |record, kept| {
            if !vins.is_empty() {
                kept.targets(id, record.total, &vins);
            }
            record.total += vins.len() as u32;
            record.resolved_through = next.map(|vin: Vin| vin.to_string());
            record.resolved = next.is_none();
        })
        .await
}

/// What is under way.
struct Turns {
    /// Vehicles that come next, with their places.
    waiting: VecDeque<(u32, Vin)>,
    /// The place behind the last of them.
    read: u32,
    /// All before this place have a result that is written.
    next: u32,
    /// So have these, and others before them have none.
    finished: BTreeSet<u32>,
    /// Those before this are written to have their turn.
    reserved: u32,
    /// Those before this may have had their turn in an earlier run.
    uncertain: u32,
    tasks: JoinSet<(u32, Option<Outcome>)>,
    unsaved: Vec<(u32, Outcome)>,
    saved_at: Instant,
    /// So many may have their turn now.
    allowance: f64,
    allowed_at: Instant,
}

async fn work(inner: &Arc<Inner>, job: &Arc<Job>) -> Result<(), RunError> {
    let record = job.record();
    let work = Arc::new(inner.work(&record));
    let window = if record.spec.command.is_some() { inner.commands_max } else { UPDATES_MAX };
    let now = Instant::now();
    let mut turns = Turns {
        waiting: VecDeque::new(),
        read: record.next,
        next: record.next,
        finished: finished(inner, job).await?,
        reserved: record.reserved,
        uncertain: record.reserved,
        tasks: JoinSet::new(),
        unsaved: Vec::new(),
        saved_at: now,
        allowance: 0.0,
        allowed_at: now,
    };
    let mut due = Some(now);
    loop {
        let is_busy = !turns.tasks.is_empty();
        let is_short = inner.room.is_short();
        tokio::select! {
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
            () = job.changed.notified() => {}
            () = inner.room.of_all(), if is_short => {}
            Some(ended) = turns.tasks.join_next(), if is_busy => turns.take(ended)?,
        }
        while let Some(ended) = turns.tasks.try_join_next() {
            turns.take(ended)?;
        }
        let state = taken(&job.record).state;
        let mut begin_at = None;
        // What has begun already waits for room, too.
        if state == JobState::Running && !inner.room.is_short() {
            begin_at = begin(inner, job, &work, &mut turns, window).await?;
        }
        let is_over = state.is_over();
        let is_idle = turns.tasks.is_empty() || is_over;
        let is_due = turns.saved_at.elapsed() >= SAVE_INTERVAL || turns.unsaved.len() >= UNSAVED_MAX || is_idle;
        let is_silent = turns.saved_at.elapsed() >= SIGN_OF_LIFE && !turns.tasks.is_empty();
        if is_silent || (!turns.unsaved.is_empty() && is_due) {
            save(inner, job, &mut turns).await?;
            // There may have been too many that were not.
            begin_at = begin_at.or(Some(now)).filter(|_| state == JobState::Running);
        }
        if is_over {
            return inner.tell_last(job, state).await;
        }
        if is_idle && begin_at.is_none() {
            release(inner, job, &mut turns).await?;
        }
        if is_idle && state == JobState::Running && all_have_results(job) {
            inner.tell_last(job, JobState::Done).await?;
            return inner.end(job, JobState::Done).await;
        }
        let save_at = (!turns.unsaved.is_empty()).then(|| turns.saved_at + SAVE_INTERVAL);
        let sign_at = (!turns.tasks.is_empty()).then(|| turns.saved_at + SIGN_OF_LIFE);
        due = [begin_at, save_at, sign_at].into_iter().flatten().min();
    }
}

fn all_have_results(job: &Job) -> bool {
    let record = taken(&job.record);
    record.next == record.total
}

/// The places behind the first without a result that have one.
async fn finished(inner: &Arc<Inner>, job: &Arc<Job>) -> Result<BTreeSet<u32>, RunError> {
    let (record, mut finished) = (job.record(), BTreeSet::new());
    let mut from = record.next;
    loop {
        let id = record.id;
        let results = inner.read(move |store| store.results(id, from, (UNSAVED_MAX, 1 << 20))).await?;
        let Some((last, _)) = results.last() else { return Ok(finished) };
        from = last + 1;
        finished.extend(results.into_iter().map(|(place, _)| place));
    }
}

/// Vehicles have their turn, as many as may. When the next may; none where that depends on what is under way, or where there is none.
async fn begin(
    inner: &Arc<Inner>,
    job: &Arc<Job>,
    work: &Arc<Work>,
    turns: &mut Turns,
    window: usize,
) -> Result<Option<Instant>, RunError> {
    let (per_second, total) = {
        let record = taken(&job.record);
        (record.spec.rate_per_second, record.total)
    };
    let (rate, now) = (f64::from(per_second), Instant::now());
    let earned = (now - turns.allowed_at).as_secs_f64() * rate;
    // What was not used is no credit for later, but for a moment.
    turns.allowance = (turns.allowance + earned).min((rate / 5.0).max(1.0));
    turns.allowed_at = now;
    while turns.allowance >= 1.0 && turns.tasks.len() < window && turns.unsaved.len() < UNSAVED_MAX {
        if turns.waiting.is_empty() && !refill(inner, job, turns).await? {
            return Ok(None);
        }
        let Some((place, vin)) = turns.waiting.pop_front() else { continue };
        if place < turns.next || turns.finished.contains(&place) {
            continue;
        }
        if place >= turns.reserved {
            let until = place.saturating_add(per_second.min(RESERVED_MAX)).min(total);
            inner.change(job, move |record, _| record.reserved = until).await?;
            turns.reserved = until;
        }
        turns.allowance -= 1.0;
        let (work, may_be_done) = (work.clone(), place < turns.uncertain);
        turns.tasks.spawn(async move { (place, work.at(vin, may_be_done).await) });
    }
    if turns.allowance >= 1.0 {
        // What ends, or is saved, makes room.
        return Ok(None);
    }
    let next = Duration::from_secs_f64((1.0 - turns.allowance) / rate);
    Ok(Some(now + next.max(TICK)))
}

/// Nothing is under way, and nothing begins for a while: those who were said to have their turn, and did not, are not uncertain.
async fn release(inner: &Arc<Inner>, job: &Arc<Job>, turns: &mut Turns) -> Result<(), RunError> {
    let next = turns.waiting.front().map_or(turns.read, |(place, _)| *place).max(turns.uncertain);
    if next < turns.reserved {
        inner.change(job, move |record, _| record.reserved = next).await?;
        turns.reserved = next;
    }
    Ok(())
}

/// Reads the next vehicles. False where there are none.
async fn refill(inner: &Arc<Inner>, job: &Arc<Job>, turns: &mut Turns) -> Result<bool, RunError> {
    let (id, from) = (job.id(), turns.read);
    let Some((begin, vins)) = inner.read(move |store| store.targets(id, from)).await? else { return Ok(false) };
    turns.waiting.extend((begin..).zip(vins).filter(|(place, _)| *place >= from));
    turns.read = turns.waiting.back().map_or(from, |(place, _)| place + 1);
    Ok(true)
}

async fn save(inner: &Arc<Inner>, job: &Arc<Job>, turns: &mut Turns) -> Result<(), RunError> {
    let (id, unsaved) = (job.id(), std::mem::take(&mut turns.unsaved));
    turns.finished.extend(unsaved.iter().map(|(place, _)| *place));
    while turns.finished.remove(&turns.next) {
        turns.next += 1;
    }
    let (next, count) = (turns.next, unsaved.len());
    let kinds = unsaved.iter().map(|(_, outcome)| outcome.kind).collect();
    inner
        .change(job, move |record, kept| {
            record.next = next;
            for (place, outcome) in unsaved {
                *record.outcomes.entry(outcome.kind.to_owned()).or_default() += 1;
                kept.result(id, place, outcome.line);
            }
        })
        .await?;
    inner.count(kinds);
    let seconds = turns.saved_at.elapsed().as_secs_f64().max(0.001);
    turns.saved_at = Instant::now();
    job.note_rate(count as f64 / seconds, (seconds / RATE_SECONDS).min(1.0));
    Ok(())
}

impl Turns {
    /// # Errors
    /// The broker stops: then the job does, too.
    fn take(&mut self, ended: Result<(u32, Option<Outcome>), tokio::task::JoinError>) -> Result<(), RunError> {
        let (place, outcome) = ended.map_err(|_| RunError::Stopping)?;
        self.unsaved.push((place, outcome.ok_or(RunError::Stopping)?));
        Ok(())
    }
}

impl Inner {
    /// Ends a job.
    pub(super) async fn end(self: &Arc<Self>, job: &Arc<Job>, state: JobState) -> Result<(), RunError> {
        self.change(job, move |record, _| {
            if !record.state.is_over() {
                record.state = state;
                record.ended_ms = Some(now_ms());
            }
        })
        .await
    }

    /// Publishes the last message about a job that a message requested, once. After a crash in between it comes again.
    async fn tell_last(self: &Arc<Self>, job: &Arc<Job>, state: JobState) -> Result<(), RunError> {
        let record = job.record();
        let Some(requested) = record.requested.as_ref().filter(|requested| !requested.is_told) else { return Ok(()) };
        let message = Box::new(requested.last_message(&record, state.word()));
        let shard = (record.id.0 % u64::from(self.asks.shards().max(1))) as u32;
        loop {
            match self.asks.at(shard, Ask::Publish(message.clone())).await.map(|answer| *answer) {
                Ok(Answer::NoRoom) => self.room.of(shard).await,
                Ok(_) => break,
                Err(AskError::Busy) => sleep(BUSY).await,
                Err(AskError::Ended) => return Err(RunError::Stopping),
            }
        }
        self.change(job, |record, _| {
            record.requested.as_mut().into_iter().for_each(|requested| requested.told());
        })
        .await
    }
}
