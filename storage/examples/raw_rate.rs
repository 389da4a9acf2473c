//! What the log makes of a disk: records per second, next to the same bytes written and synced without a log.
//!
//! Owns nothing that lasts: it works in a folder it removes. `cargo run --release -p causeway-storage --example raw_rate --
//! [FOLDER] [SECONDS]`; the folder decides which disk is measured. Short rounds of the three alternate, so that whatever else the machine
//! does slows all of them down; the rate is that of the median round.
#![allow(clippy::print_stdout, reason = "a measurement prints what it measured")]

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causeway_storage::disk::{Disk, RealDisk};
use causeway_storage::{Log, LogOptions, SegmentedLog};

type Outcome<T> = Result<T, Box<dyn Error>>;

const RECORD_BYTES: usize = 256;
const GROUPS: [usize; 3] = [1, 16, 256];
const ROUNDS: u32 = 21;
const RAW_BYTES_MAX: u64 = 1 << 30;

/// How long each commit took.
#[derive(Default)]
struct Commits {
    microseconds: Vec<f64>,
    /// Commits per second of each round.
    rounds: Vec<f64>,
}

impl Commits {
    /// Commits until the time is up.
    fn measure(&mut self, time: Duration, mut commit: impl FnMut(u64) -> Outcome<()>) -> Outcome<()> {
        let begin = Instant::now();
        let mut index = 0;
        while begin.elapsed() < time {
            let before = Instant::now();
            commit(index)?;
            self.microseconds.push(before.elapsed().as_secs_f64() * 1e6);
            index += 1;
        }
        self.rounds.push(index as f64 / begin.elapsed().as_secs_f64());
        Ok(())
    }

    fn records_per_second(&mut self, group: usize) -> f64 {
        self.rounds.sort_unstable_by(f64::total_cmp);
        self.rounds.get(self.rounds.len() / 2).copied().unwrap_or(f64::NAN) * group as f64
    }

    fn quantile(&mut self, share: f64) -> f64 {
        self.microseconds.sort_unstable_by(f64::total_cmp);
        let index = (self.microseconds.len() as f64 * share) as usize;
        self.microseconds.get(index).copied().unwrap_or(f64::NAN)
    }
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from).join("causeway-raw-rate");
    let seconds: f64 = arguments.next().map_or(Ok(8.0), |seconds| seconds.parse())?;
    let time = Duration::from_secs_f64(seconds) / ROUNDS;
    println!("records of {RECORD_BYTES} B; commits in microseconds; shares of the better raw loop");
    println!("{:>6} {:<22} {:>12} {:>8} {:>8} {:>7} {:>7}", "group", "", "records/s", "p50", "p99", "rate", "p50");
    for group in GROUPS {
        let mut commits = measure(&folder, group, time)?;
        let rates = commits.each_mut().map(|commits| commits.records_per_second(group));
        let medians = commits.each_mut().map(|commits| commits.quantile(0.5));
        let (best_rate, best_median) = (rates[0].max(rates[1]), medians[0].min(medians[1]));
        for (index, name) in ["raw, growing file", "raw, space set aside", "log"].into_iter().enumerate() {
            let (rate, p50, p99) = (rates[index], medians[index], commits[index].quantile(0.99));
            let (rate_share, p50_share) = (rate / best_rate * 100.0, p50 / best_median * 100.0);
            println!("{group:>6} {name:<22} {rate:>12.0} {p50:>8.1} {p99:>8.1} {rate_share:>6.0}% {p50_share:>6.0}%");
        }
    }
    Ok(())
}

/// A raw append, a raw write into space set aside, and the log.
fn measure(folder: &Path, group: usize, time: Duration) -> Outcome<[Commits; 3]> {
    let mut commits = [Commits::default(), Commits::default(), Commits::default()];
    for _ in 0..ROUNDS {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        let disk = RealDisk::new(folder)?;
        let bytes: Vec<u8> = (0..RECORD_BYTES * group).map(|at| (at * 131) as u8).collect();

        let growing = File::options().write(true).create(true).truncate(true).open(folder.join("growing"))?;
        commits[0].measure(time, |index| {
            growing.write_all_at(&bytes, index * bytes.len() as u64)?;
            Ok(growing.sync_data()?)
        })?;
        drop(growing);
        disk.remove("growing")?;

        let set_aside = disk.create("set-aside")?;
        set_aside.allocate(RAW_BYTES_MAX)?;
        set_aside.sync_all()?;
        commits[1].measure(time, |index| {
            set_aside.write_at(&bytes, index * bytes.len() as u64 % (RAW_BYTES_MAX - bytes.len() as u64))?;
            Ok(set_aside.sync_data()?)
        })?;
        drop(set_aside);
        disk.remove("set-aside")?;

        let mut log = SegmentedLog::open(folder, LogOptions::new(0))?;
        // The first group makes the first segment: the raw files have been made, too.
        log.append(1, &mut bytes.chunks(RECORD_BYTES))?;
        log.sync()?;
        commits[2].measure(time, |index| {
            let first = 1 + (index + 1) * group as u64;
            log.append(first, &mut bytes.chunks(RECORD_BYTES))?;
            log.sync()?;
            // As a broker would: what is consumed goes, so that beginning and removing segments is part of the measure.
            if index % 4096 == 4095 {
                log.truncate_before(first.saturating_sub(1 << 19))?;
            }
            Ok(())
        })?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(commits)
}
