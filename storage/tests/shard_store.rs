//! A log and the state folded from it, together.
//!
//! Owns that bodies are found wherever they are, that a full disk costs nothing but time, and that two of different runs are refused.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use causeway_storage::disk::Disk;
use causeway_storage::fault::{Failure, FaultyDisk};
use causeway_storage::inspect::{Decoder, open_read_only, verify};
use causeway_storage::{
    FoldMark, Log, LogOptions, OpenError, RecoverError, RunId, ShardOptions, ShardStore, StateError, plan_relocation,
};
use common::{append, options, record};

fn shard_options() -> ShardOptions {
    ShardOptions { log: options(), state_cache_bytes: 64 << 10, ..ShardOptions::new(0) }
}

fn open_on(disk: &FaultyDisk) -> Result<ShardStore, OpenError> {
    ShardStore::open_on(Arc::new(disk.clone()), Arc::new(disk.clone()), shard_options())
}

/// Appends records of 300 bytes up to number `last`.
fn append_up_to(store: &mut ShardStore, last: u64) {
    for lsn in store.log.next().unwrap_or(1)..=last {
        append(&mut store.log, lsn, &[300]).unwrap();
    }
    store.log.sync().unwrap();
}

/// Moves the bodies of the odd records below `keep_from` into the state, and gives up the log before it.
fn relocate(store: &mut ShardStore, keep_from: u64) {
    let through = store.log.next().unwrap() - 1;
    let mut fold = store.state.fold().unwrap();
    for lsn in (store.log.first().unwrap()..keep_from).filter(|lsn| lsn % 2 == 1) {
        let body = store.bodies.read(lsn).unwrap().unwrap();
        fold.put_body(lsn, &body).unwrap();
    }
    fold.commit(FoldMark { applied: through, through }).unwrap();
    store.log.truncate_before(keep_from).unwrap();
}

#[test]
fn bodies_are_found_in_the_log_and_where_a_fold_has_moved_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard-7");
    let mut store = ShardStore::open(&path, shard_options()).unwrap();
    assert_eq!(store.mark, None);
    assert_eq!(store.bodies.read(1).unwrap(), None);
    append_up_to(&mut store, 200);
    let live = |first: u64, next: u64| (first..next).filter(|lsn| lsn % 2 == 1).count() as u64 * 300;
    let keep_from = plan_relocation(&store.log.stats(), &live, 0, 1.5, 0).unwrap();
    relocate(&mut store, keep_from);
    let first = store.log.first().unwrap();
    assert!(first > 100 && first == keep_from, "{first} {keep_from}");
    let check = |store: &ShardStore| {
        for lsn in 1..=200 {
            let expected = (lsn >= first || lsn % 2 == 1).then(|| record(lsn, 300));
            assert_eq!(store.bodies.read(lsn).unwrap().map(Vec::from), expected, "record {lsn}");
        }
        assert_eq!(store.bodies.read(201).unwrap(), None);
    };
    check(&store);
    let held = ShardStore::open(&path, shard_options()).unwrap_err();
    assert!(matches!(held, OpenError::Log(RecoverError::Locked(_))), "{held}");
    drop(store);
    assert!(path.join("log").is_dir() && path.join("state.redb").is_file());
    let store = ShardStore::open(&path, shard_options()).unwrap();
    assert_eq!(store.mark, Some(FoldMark { applied: 200, through: 200 }));
    assert_eq!(store.log.recover(201, |_| Ok::<(), RecoverError>(())).unwrap(), 0);
    check(&store);
}

#[test]
fn a_shard_is_the_one_that_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard-0");
    let runs = [RunId(1), RunId(2)];
    let options = |run: RunId, begun| ShardOptions { run: Some(run), begun, ..shard_options() };
    let open = |options| ShardStore::open(&path, options).map(|store| store.log.run());
    assert!(matches!(open(options(runs[0], true)), Err(OpenError::Gone { .. })));
    assert_eq!(open(options(runs[0], false)).unwrap(), Some(runs[0]));
    assert_eq!(open(options(runs[0], true)).unwrap(), Some(runs[0]));
    assert_eq!(open(shard_options()).unwrap(), Some(runs[0]), "where nothing is known, it is what it is");
    for begun in [false, true] {
        let refused = open(options(runs[1], begun));
        assert!(matches!(refused, Err(OpenError::Foreign { log, .. }) if log == runs[0]), "{refused:?}");
    }
    let damage = |run| verify(&path, 7, run, &mut Anything).unwrap().damage;
    assert_eq!((damage(None), damage(Some(runs[0]))), (vec![], vec![]));
    assert!(damage(Some(runs[1]))[0].detail.contains("it comes from another broker"));
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::create_dir_all(path.join("log")).unwrap();
    assert_eq!(damage(None), []);
    assert!(damage(Some(runs[0]))[0].detail.contains("holds no segment of the log, which was begun"));
    assert!(open_read_only(&path, 7, Some(runs[0])).is_err() && open_read_only(&path, 7, None).is_ok());
}

struct Anything;

impl Decoder for Anything {
    fn record(&mut self, _lsn: u64, _bytes: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn entry(&mut self, _key: &[u8], _value: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn a_log_and_a_state_of_different_runs_are_refused() {
    let disk = FaultyDisk::new(1);
    let mut store = open_on(&disk).unwrap();
    append_up_to(&mut store, 50);
    let early = disk.content("state.redb");
    relocate(&mut store, 40);
    drop(store);
    let late = disk.content("state.redb");
    let put_state = |content: &[u8]| {
        disk.remove("state.redb").unwrap();
        disk.put("state.redb", content);
    };
    put_state(&early);
    assert!(matches!(open_on(&disk).unwrap_err(), OpenError::NoState { .. }));
    disk.remove("state.redb").unwrap();
    assert!(matches!(open_on(&disk).unwrap_err(), OpenError::NoState { .. }));
    put_state(&late);
    assert!(open_on(&disk).is_ok());
    for name in disk.names().unwrap().into_iter().filter(|name| name.ends_with(".log")) {
        disk.remove(&name).unwrap();
    }
    let refused = open_on(&disk).unwrap_err();
    assert!(matches!(refused, OpenError::NoLog { .. }), "{refused}");
}

#[test]
fn a_log_and_a_state_of_different_brokers_are_refused() {
    let [one, other] = [1, 2].map(|seed| {
        let disk = FaultyDisk::new(seed);
        let mut store = open_on(&disk).unwrap();
        append_up_to(&mut store, 50);
        fold(&store, 30, 3).unwrap();
        assert_eq!(store.log.run(), store.state.run().unwrap());
        store.state.compact().unwrap();
        disk
    });
    one.put("state.redb", &other.content("state.redb"));
    let refused = open_on(&one).unwrap_err();
    assert!(matches!(refused, OpenError::OtherRun { .. }), "{refused}");
    open_on(&other).unwrap();
}

/// Whenever the power goes, the next start finds nothing, or all of it, and no log that seems lost.
#[test]
fn a_shard_is_begun_whatever_happens_meanwhile() {
    for operation in 0.. {
        for seed in 0..8 {
            let disk = FaultyDisk::new(seed);
            disk.fail_after(operation, Failure::PowerOff);
            drop(open_on(&disk));
            if disk.is_powered() {
                assert!(operation > 10, "it had only {operation} operations");
                return;
            }
            disk.power_cut(seed);
            let mut store = open_on(&disk).unwrap();
            assert_eq!(store.log.run(), store.state.run().unwrap());
            append_up_to(&mut store, 3);
        }
    }
}

/// What is there from the beginning cannot be taken for a new shard.
#[test]
fn a_log_that_is_lost_before_the_first_fold_is_missed() {
    let disk = FaultyDisk::new(1);
    let mut store = open_on(&disk).unwrap();
    append_up_to(&mut store, 5);
    drop(store);
    let log = disk.content("00000000000000000001.log");
    disk.remove("00000000000000000001.log").unwrap();
    let refused = open_on(&disk).unwrap_err();
    assert!(matches!(refused, OpenError::NoLog { .. }), "{refused}");
    for cut in [4096, 5000] {
        disk.put("00000000000000000001.log", &log[..cut]);
        let refused = open_on(&disk).unwrap_err();
        assert!(matches!(refused, OpenError::Log(RecoverError::Corrupt { .. })), "{refused}");
    }
}

#[test]
fn a_full_disk_stops_a_fold_and_nothing_else() {
    for bytes_left in [0, 5_000, 100_000] {
        let disk = FaultyDisk::new(1);
        let mut store = open_on(&disk).unwrap();
        append_up_to(&mut store, 20);
        let mut fold = store.state.fold().unwrap();
        fold.put(b"a", b"1").unwrap();
        fold.put_body(3, b"three").unwrap();
        fold.commit(FoldMark { applied: 5, through: 5 }).unwrap();
        let used: u64 = disk.names().unwrap().iter().map(|name| disk.content(name).len() as u64).sum();
        disk.set_capacity(used + bytes_left);
        for _ in 0..3 {
            let error = large_fold(&store).unwrap_err();
            assert!(error.is_full(), "{error}");
            // The log has its space set aside, and the old state is there.
            assert_eq!(store.bodies.read(20).unwrap().unwrap(), record(20, 300));
            check_first_fold(&store);
        }
        disk.set_capacity(u64::MAX);
        large_fold(&store).unwrap();
        assert_eq!(store.state.mark().unwrap(), Some(FoldMark { applied: 9, through: 9 }));
        assert_eq!(store.state.body(3).unwrap().unwrap(), &b"three"[..]);
    }
}

fn large_fold(store: &ShardStore) -> Result<(), StateError> {
    let mut fold = store.state.fold()?;
    for number in 0..3000_u64 {
        fold.put(&number.to_be_bytes(), &[1; 1000])?;
    }
    fold.commit(FoldMark { applied: 9, through: 9 })
}

fn check_first_fold(store: &ShardStore) {
    assert_eq!(store.state.mark().unwrap(), Some(FoldMark { applied: 5, through: 5 }));
    assert_eq!(store.state.body(3).unwrap().unwrap(), &b"three"[..]);
    let mut seen = 0;
    let visited = store.state.entries(&mut |key, value| {
        assert_eq!((key, value), (&b"a"[..], &b"1"[..]));
        seen += 1;
        ControlFlow::Continue(())
    });
    visited.unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn whatever_operation_of_a_fold_fails_the_next_fold_goes_through() {
    for failure in [Failure::Io, Failure::Full] {
        for operation in 0.. {
            let disk = FaultyDisk::new(operation);
            let store = open_on(&disk).unwrap();
            fold(&store, 5, 2).unwrap();
            disk.fail_after(operation, failure);
            let before = disk.operations();
            let outcome = fold(&store, 9, 100);
            if outcome.is_ok() && disk.operations() - before <= operation {
                assert!(operation > 20, "the fold had only {operation} operations");
                break;
            }
            // A failure in its last step may come too late to stop it.
            let entries = match store.state.mark().unwrap().unwrap().applied {
                5 => 2,
                _ => 100,
            };
            assert_eq!(count(&store), entries, "operation {operation}");
            fold(&store, 10, 150).unwrap();
            // What the failed sync was about is lost on the medium: it must not matter.
            drop(store);
            disk.power_cut(operation);
            let store = open_on(&disk).unwrap();
            assert_eq!(store.state.mark().unwrap().map(|mark| mark.applied), Some(10));
            assert_eq!(count(&store), 150, "operation {operation}");
        }
    }
}

/// Puts entries of 1000 bytes.
fn fold(store: &ShardStore, applied: u64, entries: u64) -> Result<(), StateError> {
    let mut fold = store.state.fold()?;
    for number in 0..entries {
        fold.put(&number.to_be_bytes(), &[applied as u8; 1000])?;
    }
    fold.commit(FoldMark { applied, through: 0 })
}

fn count(store: &ShardStore) -> u64 {
    let mut seen = 0;
    let visited = store.state.entries(&mut |_, _| {
        seen += 1;
        ControlFlow::Continue(())
    });
    visited.unwrap();
    seen
}

#[test]
fn while_a_failed_fold_is_held_readers_are_told_and_nobody_waits() {
    let disk = FaultyDisk::new(1);
    let store = open_on(&disk).unwrap();
    let mut fold = store.state.fold().unwrap();
    fold.put(b"a", b"1").unwrap();
    disk.fail_after(0, Failure::Io);
    let failed = loop {
        if let Err(error) = fold.put(b"b", &[0; 100_000]) {
            break error;
        }
    };
    assert!(matches!(failed, StateError::Io(_)), "{failed}");
    assert!(fold.put(b"c", b"").is_ok() || matches!(fold.put(b"c", b""), Err(StateError::Io(_))));
    assert!(matches!(store.state.mark(), Err(StateError::Io(_))));
    assert!(matches!(store.state.fold().err(), Some(StateError::Busy)));
    let refused = fold.commit(FoldMark { applied: 1, through: 1 });
    assert!(matches!(refused, Err(StateError::Io(_))));
    assert_eq!(store.state.mark().unwrap(), None);
    assert!(store.state.fold().is_ok());
}

#[test]
fn the_defaults_fit_together() {
    let options = ShardOptions::new(3);
    assert_eq!(options.log.shard, 3);
    assert_eq!(options.log.segment_bytes, LogOptions::new(3).segment_bytes);
    assert_eq!(options.state_cache_bytes, 64 << 20);
}
