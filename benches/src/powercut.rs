//! Power cuts: what was acknowledged is there afterwards, wherever in the disk's work the power went.
//!
//! Owns the schedule of cuts. Each run plays the same broker with the same clients (`clients` has them, and the books) on a disk in
//! memory that loses its power before one certain operation: every write, sync and change of a name has its turn. What was not synced
//! survives sector by sector in any mixture. Then the broker starts again, is cut again while it starts, starts, and is asked
//! for all it owes. At last the end of the log is cut at each of its bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use causeway_core::{Limits, Millis};
use causeway_storage::fault::{Failure, FaultyDisk, Random};
use causeway_storage::{Durability, LogOptions, ShardOptions, ShardStore};
use clap::Args;
use serde::Serialize;

use crate::harness::Host;
use crate::report::Format;

mod clients;

use clients::{Clients, Tally};

/// The smallest segments there are, so that they come and go in every run.
const SEGMENT_BYTES: u64 = LogOptions::SEGMENT_BYTES_MIN;
/// Memory of the folded state: nearly all of it is read from the disk.
const STATE_CACHE_BYTES: usize = 256 << 10;
/// Steps of the clients before the cut that every operation has a turn for, and between the later ones.
const STEPS: u32 = 60;
const STEPS_AFTER: u32 = 12;
/// Operations of an opening, about: within these it is cut, too.
const OPENING_OPERATIONS: u64 = 12;
/// When all runs take place.
const NOW: Millis = Millis(1_800_000_000_000);

/// What to cut.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seed of the first pass; each pass has the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// No pass begins later than this
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Threads that play runs
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Acknowledge without waiting for the disk, which must lose messages
    #[arg(long)]
    unsynced: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    seed: u64,
    passes: u64,
    runs: u64,
    cuts: u64,
    cuts_at_bytes: u64,
    /// As they are looked for after each run: the runs that are cut at bytes share theirs.
    acknowledged_checked: u64,
    delivered_after_cut: u64,
    retained_acknowledged: u64,
    checkpoints: u64,
    relocations: u64,
    lost: u64,
    retained_lost: u64,
    sessions_lost: u64,
    duplicates_qos2: u64,
    unknown: u64,
    refusals: u64,
    first_failure: String,
}

/// Cuts, and prints the figures.
///
/// # Errors
/// When the broker fails where the power did not.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut figures = Figures { seed: options.seed, ..Figures::default() };
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    for seed in options.seed.. {
        pass(seed, options, &mut figures)?;
        figures.passes += 1;
        if Instant::now() >= deadline {
            break;
        }
    }
    options.format.print("power cuts", &figures)
}

/// One seed: a cut before every operation, then at every byte.
fn pass(seed: u64, options: &Options, figures: &mut Figures) -> Result<()> {
    let durability = if options.unsynced { Durability::Os } else { Durability::Fsync };
    let operations = Run::new(seed, durability).operations()?;
    let next = AtomicU64::new(0);
    let outcomes: Vec<Result<Figures>> = std::thread::scope(|scope| {
        let work = || {
            let mut figures = Figures::default();
            loop {
                let operation = next.fetch_add(1, Ordering::Relaxed);
                if operation >= operations {
                    return Ok(figures);
                }
                let outcome = Run::new(seed, durability).cut_at(operation, &mut figures);
                outcome.with_context(|| format!("seed {seed}, operation {operation}"))?;
            }
        };
        let threads: Vec<_> = (0..options.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a panic")))).collect()
    });
    for outcome in outcomes {
        figures.add(outcome?);
    }
    Run::new(seed, durability).cut_at_bytes(figures).with_context(|| format!("seed {seed}, at bytes"))
}

/// A broker, its disk and its clients, from the beginning.
struct Run {
    seed: u64,
    durability: Durability,
    disk: FaultyDisk,
    random: Random,
    clients: Clients,
}

impl Run {
    fn new(seed: u64, durability: Durability) -> Self {
        Self { seed, durability, disk: FaultyDisk::new(seed), random: Random::new(seed), clients: Clients::new() }
    }

    fn open(&self, disk: &FaultyDisk) -> Result<Host> {
        let log = LogOptions { durability: self.durability, segment_bytes: SEGMENT_BYTES, ..LogOptions::new(0) };
        let options = ShardOptions { log, state_cache_bytes: STATE_CACHE_BYTES, ..ShardOptions::new(0) };
        let store = ShardStore::open_on(Arc::new(disk.clone()), Arc::new(disk.clone()), options)?;
        let limits = Limits { sys_interval_seconds: 0, body_cache_bytes: 0, ..Limits::default() };
        Host::start(store, Arc::new(limits), NOW)
    }

    /// How many operations a run without a cut has.
    fn operations(mut self) -> Result<u64> {
        let mut host = self.open(&self.disk)?;
        self.clients.play(&mut host, &mut self.random, STEPS)?;
        Ok(self.disk.operations())
    }

    /// Plays until the power goes before this operation, then all that follows.
    fn cut_at(mut self, operation: u64, figures: &mut Figures) -> Result<()> {
        self.disk.fail_after(operation, Failure::PowerOff);
        let played = self.open(&self.disk).and_then(|mut host| self.clients.play(&mut host, &mut self.random, STEPS));
        if self.disk.is_powered() {
            played?;
        }
        figures.runs += 1;
        let mut cuts = Random::new(self.seed.wrapping_mul(1_000_003).wrapping_add(operation));
        self.cut(&mut cuts, figures);
        // A start is work on the disk, too: the power goes meanwhile.
        self.disk.fail_after(cuts.below(OPENING_OPERATIONS), Failure::PowerOff);
        let opened = self.open(&self.disk);
        if self.disk.is_powered() {
            // It needed fewer operations than that.
            self.disk.plan_nothing();
        }
        match opened {
            Err(error) if self.disk.is_powered() => {
                figures.refused(&error);
                return Ok(());
            }
            _ => self.cut(&mut cuts, figures),
        }
        // And while it goes on, at a time of which nobody keeps count.
        let Some(mut host) = self.open_again(figures) else { return Ok(()) };
        self.clients.leave();
        self.disk.fail_after(20 + cuts.below(100), Failure::PowerOff);
        let played = self.clients.play(&mut host, &mut self.random, STEPS_AFTER);
        if self.disk.is_powered() {
            played?;
        }
        drop(host);
        self.cut(&mut cuts, figures);
        let Some(host) = self.open_again(figures) else { return Ok(()) };
        figures.count(&self.clients.settle(host, &self.disk)?);
        Ok(())
    }

    fn cut(&self, cuts: &mut Random, figures: &mut Figures) {
        self.disk.power_cut(cuts.next());
        figures.cuts += 1;
    }

    fn open_again(&self, figures: &mut Figures) -> Option<Host> {
        self.open(&self.disk).map_err(|error| figures.refused(&error)).ok()
    }

    /// Leaves the end of the log unsynced, and has each of its bytes be the last that came to the disk; and the first.
    fn cut_at_bytes(mut self, figures: &mut Figures) -> Result<()> {
        let mut host = self.open(&self.disk)?;
        self.clients.play(&mut host, &mut self.random, STEPS)?;
        let (before, after) = loop {
            host.sync()?;
            self.clients.listen(&mut host)?;
            host.sync()?;
            let before = contents(&self.disk)?;
            for _ in 0..2 {
                self.clients.publish(&mut host, &mut self.random)?;
                host.append()?;
            }
            let after = contents(&self.disk)?;
            // Where a segment ended just there, the next group does it.
            if before.keys().eq(after.keys()) {
                break (before, after);
            }
        };
        drop(host);
        let differing: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
        let [name] = differing[..] else { anyhow::bail!("an append changed {differing:?}") };
        let (old, new) = (&before[name], &after[name]);
        ensure!(old.len() == new.len(), "segments are set aside as a whole");
        let differs = |index: &usize| old[*index] != new[*index];
        let first = (0..old.len()).find(differs).context("an append writes something")?;
        let last = (0..old.len()).rfind(differs).unwrap_or(first);
        for byte in first..=last + 1 {
            for (head, tail) in [(new, old), (old, new)] {
                let torn = [&head[..byte], &tail[byte..]].concat();
                let disk = FaultyDisk::new(self.seed);
                before.iter().filter(|(other, _)| *other != name).for_each(|(other, bytes)| disk.put(other, bytes));
                disk.put(name, &torn);
                figures.cuts_at_bytes += 1;
                match self.open(&disk) {
                    Ok(host) => {
                        let tally = self.clients.clone().settle(host, &disk)?;
                        figures.count(&Tally { checkpoints: 0, relocations: 0, ..tally });
                    }
                    Err(error) => figures.refused(&error),
                }
            }
        }
        Ok(())
    }
}

fn contents(disk: &FaultyDisk) -> Result<BTreeMap<String, Vec<u8>>> {
    use causeway_storage::disk::Disk as _;
    Ok(disk.names()?.into_iter().map(|name| (name.clone(), disk.content(&name))).collect())
}

impl Figures {
    fn refused(&mut self, error: &anyhow::Error) {
        self.refusals += 1;
        self.failed(|| format!("refused to start: {error:#}"));
    }

    fn failed(&mut self, what: impl FnOnce() -> String) {
        if self.first_failure.is_empty() {
            self.first_failure = what();
        }
    }

    fn count(&mut self, tally: &Tally) {
        self.acknowledged_checked += tally.acknowledged;
        self.delivered_after_cut += tally.delivered_at_the_end;
        self.retained_acknowledged += tally.retained_acknowledged;
        self.checkpoints += tally.checkpoints;
        self.relocations += tally.relocations;
        self.lost += tally.lost;
        self.retained_lost += tally.retained_lost;
        self.sessions_lost += tally.sessions_lost;
        self.duplicates_qos2 += tally.duplicates_qos2;
        self.unknown += tally.unknown;
        if tally.is_broken() {
            self.failed(|| format!("{tally:?}"));
        }
    }

    fn add(&mut self, other: Figures) {
        self.runs += other.runs;
        self.cuts += other.cuts;
        self.acknowledged_checked += other.acknowledged_checked;
        self.delivered_after_cut += other.delivered_after_cut;
        self.retained_acknowledged += other.retained_acknowledged;
        self.checkpoints += other.checkpoints;
        self.relocations += other.relocations;
        self.lost += other.lost;
        self.retained_lost += other.retained_lost;
        self.sessions_lost += other.sessions_lost;
        self.duplicates_qos2 += other.duplicates_qos2;
        self.unknown += other.unknown;
        self.refusals += other.refusals;
        self.failed(|| other.first_failure);
    }
}
