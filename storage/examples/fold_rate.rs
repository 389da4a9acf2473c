//! What folding costs: rates, file sizes, and how long a state takes to open after an orderly stop and after a crash.
//!
//! Owns nothing that lasts: it works in a folder it removes. `cargo run --release -p causeway-storage --example fold_rate --
//! [FOLDER] [ENTRIES] [BODIES]`; the folder decides which disk is measured. With `--features sled` sled is measured, too. A crash is
//! played by copying the files of an open state: a killed process leaves just that.
#![allow(clippy::print_stdout, reason = "a measurement prints what it measured")]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use causeway_storage::fault::Random;
use causeway_storage::{FoldMark, RedbState, StateOptions, StateStore};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Open = fn(&Path) -> Outcome<Box<dyn StateStore>>;

const VALUE_BYTES: usize = 120;
const BODY_BYTES: usize = 1000;
/// Changed in one small fold, as a checkpoint would.
const CHANGES: u64 = 10_000;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from).join("causeway-fold-rate");
    let entries: u64 = arguments.next().map_or(Ok(1_000_000), |count| count.parse())?;
    let bodies: u64 = arguments.next().map_or(Ok(1_000_000), |count| count.parse())?;
    measure("redb", &folder, entries, bodies, |path| Ok(Box::new(RedbState::open(path, StateOptions::new(0))?)))?;
    #[cfg(feature = "sled")]
    measure("sled", &folder, entries, bodies, |path| {
        Ok(Box::new(causeway_storage::state::SledState::open(path, StateOptions::new(0))?))
    })?;
    Ok(())
}

/// 30 bytes, so that an entry has 150.
fn key(number: u64) -> Vec<u8> {
    format!("session/vehicle-{number:014}").into_bytes()
}

fn measure(name: &str, folder: &Path, entries: u64, bodies: u64, open: Open) -> Outcome<()> {
    let random = &mut Random::new(1);
    for order in ["in key order", "in random order"] {
        let state = fresh(folder, open)?;
        let mut numbers: Vec<u64> = (0..entries).collect();
        if order == "in random order" {
            for at in (1..numbers.len()).rev() {
                numbers.swap(at, random.below(at as u64 + 1) as usize);
            }
        }
        let begin = Instant::now();
        let mut fold = state.fold()?;
        for number in &numbers {
            fold.put(&key(*number), &[*number as u8; VALUE_BYTES])?;
        }
        let put = begin.elapsed();
        fold.commit(FoldMark { applied: 1, through: 1 })?;
        let all = begin.elapsed();
        println!(
            "{name}: {entries} entries of 150 B {order}: {:.0} entries/s ({:.2} s, {:.0} ms of it the commit), {} MiB",
            entries as f64 / all.as_secs_f64(),
            all.as_secs_f64(),
            (all - put).as_secs_f64() * 1e3,
            used_mib(folder)?,
        );
        small_folds(name, state.as_ref(), entries, random)?;
        openings(name, folder, state, open)?;
    }
    let state = fresh(folder, open)?;
    let begin = Instant::now();
    for part in 0..10 {
        let mut fold = state.fold()?;
        for lsn in part * bodies / 10..(part + 1) * bodies / 10 {
            fold.put_body(lsn, &[lsn as u8; BODY_BYTES])?;
        }
        fold.commit(FoldMark { applied: 1, through: 1 })?;
    }
    let rate = bodies as f64 / begin.elapsed().as_secs_f64();
    println!("{name}: {bodies} bodies of {BODY_BYTES} B in ten folds: {rate:.0} bodies/s, {} MiB", used_mib(folder)?);
    let begin = Instant::now();
    for _ in 0..10_000 {
        state.body(random.below(bodies))?.ok_or("a body is missing")?;
    }
    println!("{name}: a body read at random: {:.1} us", begin.elapsed().as_secs_f64() * 1e6 / 1e4);
    small_folds(name, state.as_ref(), entries, random)?;
    openings(name, folder, state, open)?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn fresh(folder: &Path, open: Open) -> Outcome<Box<dyn StateStore>> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    open(&folder.join("state"))
}

fn small_folds(name: &str, state: &dyn StateStore, entries: u64, random: &mut Random) -> Outcome<()> {
    for changes in [0, 100, CHANGES] {
        let mut milliseconds: Vec<f64> = Vec::new();
        let written = written_bytes();
        for _ in 0..5 {
            let begin = Instant::now();
            let mut fold = state.fold()?;
            for _ in 0..changes {
                fold.put(&key(random.below(entries)), &[random.next() as u8; VALUE_BYTES])?;
            }
            fold.commit(FoldMark { applied: 1, through: 1 })?;
            milliseconds.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        milliseconds.sort_by(f64::total_cmp);
        let kib = (written_bytes() - written) / 5 / 1024;
        println!("{name}:   a fold of {changes} changes at random: {:.1} ms, {kib} KiB written", milliseconds[2]);
    }
    Ok(())
}

fn openings(name: &str, folder: &Path, state: Box<dyn StateStore>, open: Open) -> Outcome<()> {
    let copy = folder.join("copy");
    copy_folder(&folder.join("state"), &copy)?;
    let begin = Instant::now();
    drop(state);
    let close = begin.elapsed().as_secs_f64() * 1e3;
    for (path, how) in [(folder.join("state"), "an orderly stop"), (copy.clone(), "a crash")] {
        let begin = Instant::now();
        let state = open(&path)?;
        let opened = begin.elapsed().as_secs_f64() * 1e3;
        let begin = Instant::now();
        let mut seen = 0_u64;
        state.entries(&mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })?;
        let visited = begin.elapsed().as_secs_f64() * 1e3;
        println!("{name}:   opened after {how}: {opened:.1} ms; all {seen} entries visited: {visited:.0} ms");
    }
    println!("{name}:   closing: {close:.0} ms");
    std::fs::remove_dir_all(copy)?;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Outcome<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            // Else opening would pay for the copy.
            std::fs::File::open(target)?.sync_all()?;
        }
    }
    Ok(())
}

/// What the files take on the disk, holes not counted.
fn used_mib(folder: &Path) -> Outcome<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { used_mib(&entry.path())? << 20 } else { meta.blocks() * 512 };
    }
    Ok(bytes >> 20)
}

/// What this process has written so far, in bytes; zero where the system does not say.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
