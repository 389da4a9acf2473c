//! Hundreds of lives of a folded state on redb, each ended by the power going, a failing disk, or an orderly stop.
//!
//! Owns the promise: the state is exactly what some fold committed, never one older than the last whose commit returned, and it
//! always opens again, in the same process after a failure, too.
//! `CAUSEWAY_SEED=n cargo test -p causeway-storage --test state_power_cuts` replays one seed, `CAUSEWAY_SEEDS=n` tries so many.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use causeway_storage::fault::{Failure, FaultyDisk, Random};
use causeway_storage::{FoldMark, RedbState, StateError, StateOptions, StateStore};

const SEEDS: u64 = 250;
const LIVES: u64 = 5;

/// Entries, and bodies by their number: a body's content follows from its length.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Content {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    bodies: BTreeMap<u64, u64>,
}

/// What must be true of the state, kept apart from it.
#[derive(Default)]
struct World {
    /// What the state may hold, by the `applied` of its mark; zero for none. The first is the newest whose commit returned.
    possible: BTreeMap<u64, Content>,
    folds: u64,
}

#[test]
fn the_state_is_always_one_that_was_committed_and_never_an_older_one() {
    let seeds = match std::env::var("CAUSEWAY_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..std::env::var("CAUSEWAY_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap()),
    };
    for seed in seeds {
        if catch_unwind(AssertUnwindSafe(|| run(seed))).is_err() {
            panic!("replay with: CAUSEWAY_SEED={seed} cargo test -p causeway-storage --test state_power_cuts");
        }
    }
}

fn run(seed: u64) {
    let random = &mut Random::new(seed);
    let disk = FaultyDisk::new(random.next());
    // Little memory: redb writes pages down in the middle of a fold.
    let options = StateOptions { cache_bytes: (16 << 10) << random.below(5), ..StateOptions::new(7) };
    let mut world = World::default();
    world.possible.insert(0, Content::default());
    for _ in 0..LIVES {
        let state = reopen(&disk, &options, random);
        settle(&mut world, &state);
        live(&mut world, &state, &disk, random);
        drop(state);
        disk.plan_nothing();
        disk.set_capacity(u64::MAX);
        if !disk.is_powered() || random.chance(60) {
            disk.power_cut(random.next());
        }
    }
    disk.power_cut(random.next());
    settle(&mut world, &reopen(&disk, &options, random));
}

/// Opens the state, and lets the power go now and then while it does.
fn reopen(disk: &FaultyDisk, options: &StateOptions, random: &mut Random) -> RedbState {
    loop {
        if random.chance(40) {
            disk.fail_after(random.below(12), Failure::PowerOff);
        }
        let outcome = RedbState::open_on(Arc::new(disk.clone()), options.clone());
        disk.plan_nothing();
        if !disk.is_powered() {
            drop(outcome);
            disk.power_cut(random.next());
            continue;
        }
        match outcome {
            Ok(state) => return state,
            Err(error) => panic!("a power cut must not keep the state from opening: {error}"),
        }
    }
}

/// What the state holds must be possible; from here on nothing older is.
fn settle(world: &mut World, state: &RedbState) {
    let applied = state.mark().unwrap().map_or(0, |mark| {
        assert_eq!(mark.through, mark.applied * 2);
        mark.applied
    });
    let mut content = Content::default();
    let visited = state.entries(&mut |key, value| {
        content.entries.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    });
    visited.unwrap();
    let visited = state.bodies(&mut |lsn, bytes| {
        content.bodies.insert(lsn, bytes);
        ControlFlow::Continue(())
    });
    visited.unwrap();
    for (lsn, bytes) in content.bodies.iter().take(5) {
        assert!(state.body(*lsn).unwrap().unwrap() == body(*lsn, *bytes));
    }
    let expected = world.possible.get(&applied);
    let oldest = world.possible.keys().next();
    assert!(expected == Some(&content), "fold {applied} is not what it was, or older than {oldest:?}");
    world.possible = BTreeMap::from([(applied, content)]);
}

fn body(lsn: u64, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| (lsn * 31 + at + bytes) as u8).collect()
}

/// Uses the state until its time is up or the power is off.
fn live(world: &mut World, state: &RedbState, disk: &FaultyDisk, random: &mut Random) {
    for _ in 0..random.below(8) {
        disk.plan_nothing();
        disk.set_capacity(u64::MAX);
        match random.below(6) {
            0 | 1 => disk.fail_after(random.below(60), Failure::PowerOff),
            2 => disk.fail_after(random.below(40), Failure::Io),
            3 => disk.fail_after(random.below(40), Failure::Full),
            4 => disk.set_capacity(disk.content("state.redb").len() as u64 + random.below(200_000)),
            _ => {}
        }
        let outcome = if random.chance(15) { state.compact() } else { fold_any(world, state, random) };
        if !disk.is_powered() {
            return;
        }
        disk.plan_nothing();
        disk.set_capacity(u64::MAX);
        match outcome {
            Ok(()) => {}
            Err(StateError::Io(_)) => settle(world, state),
            Err(error) => panic!("{error}"),
        }
    }
}

fn fold_any(world: &mut World, state: &RedbState, random: &mut Random) -> Result<(), StateError> {
    world.folds += 1;
    let mut content = world.possible.values().next_back().unwrap().clone();
    let mut fold = state.fold()?;
    for _ in 0..random.below(120) {
        let key = format!("session/{}", random.below(500)).into_bytes();
        let lsn = random.below(200);
        match random.below(10) {
            0..=1 => {
                fold.remove(&key)?;
                content.entries.remove(&key);
            }
            2 => {
                fold.remove_body(lsn)?;
                content.bodies.remove(&lsn);
            }
            3..=4 => {
                let bytes = if random.chance(10) { random.below(200_000) } else { random.below(3000) };
                fold.put_body(lsn, &body(lsn, bytes))?;
                content.bodies.insert(lsn, bytes);
            }
            _ => {
                let value = vec![random.next() as u8; random.below(1500) as usize];
                fold.put(&key, &value)?;
                content.entries.insert(key, value);
            }
        }
    }
    if random.chance(15) {
        return Ok(());
    }
    let applied = world.folds;
    // A commit that fails may have been one.
    world.possible.insert(applied, content);
    fold.commit(FoldMark { applied, through: applied * 2 })?;
    world.possible.retain(|other, _| *other >= applied);
    Ok(())
}
