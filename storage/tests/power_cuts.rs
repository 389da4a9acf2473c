//! Thousands of lives of a log, each ended by the power going, a failing disk, or an orderly stop.
//!
//! Owns the promise: what was synced is there, what is there is a prefix of what was appended, and the log always opens again.
//! `CAUSEWAY_SEED=n cargo test -p causeway-storage --test power_cuts` replays one seed, `CAUSEWAY_SEEDS=n` tries so many.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use causeway_storage::fault::{Failure, FaultyDisk, Random};
use causeway_storage::{Log, LogError, LogOptions, Position, RecoverError, SegmentedLog};
use common::{append, options, record};

const SEEDS: u64 = 3000;
const LIVES: u64 = 6;

/// What must be true of the log, kept apart from it.
#[derive(Default)]
struct World {
    /// Length and position of each record appended, from record 1.
    appended: Vec<(usize, Option<Position>)>,
    durable: u64,
    /// Records below may be gone.
    truncated: u64,
}

#[test]
fn nothing_synced_is_lost_and_nothing_else_is_made_up() {
    let seeds = match std::env::var("CAUSEWAY_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..std::env::var("CAUSEWAY_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap()),
    };
    for seed in seeds {
        if catch_unwind(AssertUnwindSafe(|| run(seed))).is_err() {
            panic!("replay with: CAUSEWAY_SEED={seed} cargo test -p causeway-storage --test power_cuts");
        }
    }
}

fn run(seed: u64) {
    let random = &mut Random::new(seed);
    let disk = FaultyDisk::new(random.next());
    let options = LogOptions {
        keep_spare: random.chance(50),
        segment_bytes: LogOptions::SEGMENT_BYTES_MIN + random.below(4) * 4096,
        ..options()
    };
    let mut world = World::default();
    for _ in 0..LIVES {
        let mut log = reopen(&disk, &options, random);
        check(&mut world, &log);
        live(&mut world, &mut log, &disk, random);
        // Whatever the log was doing when it ended: the process is gone.
        drop(log);
        disk.plan_nothing();
        if !disk.is_powered() || random.chance(60) {
            disk.power_cut(random.next());
        }
    }
    disk.power_cut(random.next());
    check(&mut world, &reopen(&disk, &options, random));
}

/// Opens the log, and lets the power go now and then while it does.
fn reopen(disk: &FaultyDisk, options: &LogOptions, random: &mut Random) -> SegmentedLog {
    loop {
        if random.chance(40) {
            disk.fail_after(random.below(8), Failure::PowerOff);
        }
        let outcome = SegmentedLog::open_on(Arc::new(disk.clone()), options.clone());
        disk.plan_nothing();
        if !disk.is_powered() {
            drop(outcome);
            disk.power_cut(random.next());
            continue;
        }
        match outcome {
            Ok(log) => return log,
            Err(error) => panic!("a power cut must not keep the log from opening: {error}"),
        }
    }
}

fn check(world: &mut World, log: &SegmentedLog) {
    let next = log.next().unwrap_or(1);
    assert!(next > world.durable, "{} was durable, the log ends before {next}", world.durable);
    assert!(next <= world.appended.len() as u64 + 1, "{next} was never appended");
    let first = log.first().unwrap_or(1);
    assert!(first <= world.truncated.max(1), "{first} is the oldest, {} was to stay", world.truncated);
    world.appended.truncate(next as usize - 1);
    // The positions of lost records mean nothing any more; opening made the rest durable.
    world.durable = next - 1;
    let reader = log.reader().unwrap();
    let mut expected = first;
    let outcome = log.recover(first, |found| {
        let (length, position) = &mut world.appended[found.lsn as usize - 1];
        assert_eq!(found.lsn, expected);
        assert!(found.bytes == record(found.lsn, *length), "record {}", found.lsn);
        assert!(position.is_none_or(|position| position == found.position), "record {}", found.lsn);
        *position = Some(found.position);
        if found.lsn % 5 == 0 {
            let stored = reader.read(found.position).unwrap();
            assert!(stored.lsn == found.lsn && stored.bytes == found.bytes, "record {}", found.lsn);
            assert_eq!(reader.read_lsn(found.lsn).unwrap(), Some(stored));
        }
        expected += 1;
        Ok::<(), RecoverError>(())
    });
    outcome.unwrap();
    assert_eq!(expected, next);
    assert_eq!(reader.read_lsn(next).unwrap(), None);
}

/// Uses the log until its time is up or something fails.
fn live(world: &mut World, log: &mut SegmentedLog, disk: &FaultyDisk, random: &mut Random) {
    if random.chance(70) {
        let failure = match random.below(4) {
            0 => Failure::Io,
            1 => Failure::Full,
            _ => Failure::PowerOff,
        };
        disk.fail_after(random.below(60), failure);
    }
    for _ in 0..random.below(40) {
        let next = world.appended.len() as u64 + 1;
        let outcome = match random.below(20) {
            0..=10 => append_any(world, log, next, random),
            11..=17 => log.sync().map(|through| {
                assert_eq!(through, next - 1);
                world.durable = through;
            }),
            18 => {
                // What is given up may be gone, even if giving it up fails.
                let lsn = random.below(next + 1);
                world.truncated = world.truncated.max(lsn);
                log.truncate_before(lsn)
            }
            _ => log.close().map(|()| world.durable = next - 1),
        };
        match outcome {
            Ok(()) | Err(LogError::Full { .. }) => {}
            Err(LogError::Io(_) | LogError::Poisoned { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn append_any(world: &mut World, log: &mut SegmentedLog, next: u64, random: &mut Random) -> Result<(), LogError> {
    let count = 1 + random.below(5);
    let lengths: Vec<usize> = (0..count)
        .map(|_| match random.below(12) {
            0 => 0,
            1 => 3000 + random.below(9000),
            2..=5 => random.below(40),
            _ => random.below(700),
        } as usize)
        .collect();
    let outcome = append(log, next, &lengths);
    if matches!(outcome, Err(LogError::Full { .. })) {
        return Ok(());
    }
    // Even a failed write may have written all of it.
    world.appended.extend(lengths.iter().map(|length| (*length, None)));
    for (entry, position) in world.appended[next as usize - 1..].iter_mut().zip(outcome?) {
        entry.1 = Some(position);
    }
    Ok(())
}
