//! What a folded state does, whichever store keeps it.
//!
//! Owns folds, readers beside them, marks and refusals. Power cuts and failing disks have a file of their own.
//! `cargo test -p causeway-storage --features sled` runs all of it over sled, too.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use causeway_storage::fault::FaultyDisk;
use causeway_storage::{Fold, FoldMark, RedbState, StateError, StateOptions, StateStore};

type Open = fn(&Path, StateOptions) -> Result<Box<dyn StateStore>, StateError>;

fn mark(applied: u64) -> FoldMark {
    FoldMark { applied, through: applied + 3 }
}

fn entries(state: &dyn StateStore) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    let visited = state.entries(&mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    visited.unwrap();
    entries
}

fn bodies(state: &dyn StateStore) -> Vec<(u64, u64)> {
    let mut bodies = Vec::new();
    let visited = state.bodies(&mut |lsn, bytes| {
        bodies.push((lsn, bytes));
        ControlFlow::Continue(())
    });
    visited.unwrap();
    bodies
}

fn fold(state: &dyn StateStore, mark: FoldMark, change: impl FnOnce(&mut dyn Fold)) {
    let mut fold = state.fold().unwrap();
    change(fold.as_mut());
    fold.commit(mark).unwrap();
}

fn an_empty_state_has_no_mark(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let state = open(folder.path(), StateOptions::new(3)).unwrap();
        assert_eq!(state.mark().unwrap(), None);
        assert_eq!(entries(state.as_ref()), []);
        assert_eq!(state.body(1).unwrap(), None);
    }
}

fn what_was_folded_is_there_in_key_order_after_opening_again(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path(), StateOptions::new(3)).unwrap();
    fold(state.as_ref(), mark(10), |fold| {
        fold.put(b"b", b"old").unwrap();
        fold.put(b"\xFF", b"last").unwrap();
        fold.put(b"a\0", b"").unwrap();
        fold.put(b"a", &[7; 100_000]).unwrap();
        fold.put(b"", b"no key at all").unwrap();
        fold.put_body(256, b"body").unwrap();
        fold.put_body(2, &[1; 50_000]).unwrap();
        fold.put_body(3, b"").unwrap();
    });
    fold(state.as_ref(), mark(11), |fold| {
        fold.put(b"b", b"new").unwrap();
        fold.remove(b"a").unwrap();
        fold.remove(b"never there").unwrap();
        fold.put(b"c", b"put").unwrap();
        fold.remove(b"c").unwrap();
        fold.remove_body(2).unwrap();
        fold.remove_body(99).unwrap();
    });
    let expected = [(&b""[..], &b"no key at all"[..]), (b"a\0", b""), (b"b", b"new"), (b"\xFF", b"last")];
    let check = |state: &dyn StateStore| {
        assert_eq!(state.mark().unwrap(), Some(mark(11)));
        assert_eq!(entries(state), expected.map(|(key, value)| (key.to_vec(), value.to_vec())));
        assert_eq!(state.body(256).unwrap().unwrap(), &b"body"[..]);
        assert_eq!(state.body(2).unwrap(), None);
        assert_eq!(bodies(state), [(3, 0), (256, 4)]);
    };
    check(state.as_ref());
    assert!(state.bytes_on_disk().unwrap() > 1000);
    drop(state);
    check(open(folder.path(), StateOptions::new(3)).unwrap().as_ref());
}

fn visitors_may_stop(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path(), StateOptions::new(3)).unwrap();
    fold(state.as_ref(), mark(1), |fold| {
        for number in 0..10 {
            fold.put(&[number], b"x").unwrap();
            fold.put_body(u64::from(number), b"x").unwrap();
        }
    });
    let mut seen = 0;
    let mut stop = || {
        seen += 1;
        if seen % 4 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    state.entries(&mut |_, _| stop()).unwrap();
    state.bodies(&mut |_, _| stop()).unwrap();
    assert_eq!(seen, 8);
}

fn a_range_is_visited_and_removed_and_what_is_beside_it_stays(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path(), StateOptions::new(3)).unwrap();
    let state = state.as_ref();
    fold(state, mark(1), |fold| (0..200_u8).for_each(|key| fold.put(&[key], &[key; 100]).unwrap()));
    assert_eq!(state.entry_bytes().unwrap(), 200 * 101);
    let mut seen = Vec::new();
    let visited = state.entries_from(&[120, 0], &mut |key, _| {
        if key >= &[128][..] {
            return ControlFlow::Break(());
        }
        seen.push(key[0]);
        ControlFlow::Continue(())
    });
    visited.unwrap();
    assert_eq!(seen, (121..128).collect::<Vec<u8>>());
    fold(state, mark(2), |fold| {
        fold.put(&[100, 7], b"put by the fold").unwrap();
        fold.remove(&[101]).unwrap();
        assert_eq!(fold.remove_range(&[200], &[100], 10).unwrap(), 0, "from is behind to");
        assert_eq!(fold.remove_range(&[100], &[110], 4).unwrap(), 4);
        assert_eq!(fold.remove_range(&[100], &[110], 100).unwrap(), 6);
        assert_eq!(fold.remove_range(&[100], &[110], 100).unwrap(), 0);
        fold.put(&[105], b"put again").unwrap();
    });
    let left: Vec<u8> = entries(state).iter().map(|(key, _)| key[0]).collect();
    assert_eq!(left, (0..100).chain([105]).chain(110..200).collect::<Vec<u8>>());
    assert_eq!(state.entry_bytes().unwrap(), 190 * 101 + 10);
    // Everything below a bound, as a whole fold does it, and then what there is now.
    fold(state, mark(3), |fold| {
        assert_eq!(fold.remove_range(&[], &[128], usize::MAX).unwrap(), 119);
        fold.put(&[3], b"").unwrap();
    });
    let left: Vec<u8> = entries(state).iter().map(|(key, _)| key[0]).collect();
    assert_eq!(left, [3].into_iter().chain(128..200).collect::<Vec<u8>>());
    drop(state.fold().unwrap().remove_range(&[], &[255], usize::MAX));
    assert_eq!(entries(state).len(), 73, "it was not committed");
    state.compact().unwrap();
    assert_eq!(state.entry_bytes().unwrap(), 72 * 101 + 1);
}

fn an_open_or_abandoned_fold_changes_nothing(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path(), StateOptions::new(3)).unwrap();
    fold(state.as_ref(), mark(1), |fold| fold.put(b"a", b"1").unwrap());
    let mut second = state.fold().unwrap();
    // Enough that the fold writes it down before it is committed.
    for number in 0..2000_u64 {
        second.put(&number.to_be_bytes(), &[2; 2000]).unwrap();
        second.put_body(number, &[3; 1000]).unwrap();
    }
    second.remove(b"a").unwrap();
    let check = || {
        assert_eq!(entries(state.as_ref()), [(b"a".to_vec(), b"1".to_vec())]);
        assert_eq!(state.body(7).unwrap(), None);
        assert_eq!(state.mark().unwrap(), Some(mark(1)));
    };
    check();
    assert!(matches!(state.fold().err(), Some(StateError::Busy)));
    drop(second);
    check();
    fold(state.as_ref(), mark(2), |_| {});
    assert_eq!(state.mark().unwrap(), Some(mark(2)));
    assert_eq!(entries(state.as_ref()).len(), 1);
}

fn compacting_keeps_everything(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path(), StateOptions::new(3)).unwrap();
    let state = state.as_ref();
    fold(state, mark(1), |fold| (0..3000).for_each(|lsn| fold.put_body(lsn, &[1; 1000]).unwrap()));
    fold(state, mark(2), |fold| (0..2990).for_each(|lsn| fold.remove_body(lsn).unwrap()));
    state.compact().unwrap();
    assert_eq!(bodies(state), (2990..3000).map(|lsn| (lsn, 1000)).collect::<Vec<_>>());
    assert_eq!(state.mark().unwrap(), Some(mark(2)));
    fold(state, mark(3), |_| {});
}

fn readers_see_whole_folds_while_they_are_made(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path(), StateOptions::new(3)).unwrap();
    let state = state.as_ref();
    fold(state, mark(0), |fold| (0..50_u8).for_each(|key| fold.put(&[key], &[0; 8]).unwrap()));
    std::thread::scope(|scope| {
        let folding = scope.spawn(|| {
            for round in 1..40_u64 {
                let round_bytes = round.to_be_bytes();
                fold(state, mark(round), |fold| (0..50_u8).for_each(|key| fold.put(&[key], &round_bytes).unwrap()));
            }
        });
        while !folding.is_finished() {
            let seen = entries(state);
            assert_eq!(seen.len(), 50);
            assert!(seen.iter().all(|(_, value)| *value == seen[0].1));
        }
    });
    assert_eq!(entries(state)[0].1, 39_u64.to_be_bytes());
}

fn a_state_of_another_shard_is_refused(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), StateOptions::new(3)).unwrap());
    let refused = open(folder.path(), StateOptions::new(4)).unwrap_err();
    assert!(matches!(refused, StateError::Shard { found: 3, expected: 4, .. }), "{refused}");
}

fn many_random_folds_agree_with_a_map(open: Open) {
    let folder = tempfile::tempdir().unwrap();
    let options = || StateOptions { cache_bytes: 1 << 20, ..StateOptions::new(3) };
    let mut random = causeway_storage::fault::Random::new(1);
    let mut state = open(folder.path(), options()).unwrap();
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for round in 0..60 {
        let mut fold = state.fold().unwrap();
        let mut next = model.clone();
        if random.chance(20) {
            let [from, to] = [random.below(3000), random.below(3000)].map(|at| format!("session/{at}").into_bytes());
            let entries_max = random.below(500) as usize;
            let range = next.range(from.clone()..to.clone().max(from.clone()));
            let gone: Vec<Vec<u8>> = range.take(entries_max).map(|(key, _)| key.clone()).collect();
            assert_eq!(fold.remove_range(&from, &to, entries_max).unwrap(), gone.len());
            gone.iter().for_each(|key| drop(next.remove(key)));
        }
        for _ in 0..random.below(400) {
            let key = format!("session/{}", random.below(3000)).into_bytes();
            if random.chance(30) {
                fold.remove(&key).unwrap();
                next.remove(&key);
            } else {
                let value = vec![random.next() as u8; random.below(900) as usize];
                fold.put(&key, &value).unwrap();
                next.insert(key, value);
            }
        }
        if random.chance(80) {
            fold.commit(mark(round)).unwrap();
            model = next;
        } else {
            drop(fold);
        }
        if random.chance(10) {
            drop(state);
            state = open(folder.path(), options()).unwrap();
        }
        assert!(entries(state.as_ref()).into_iter().eq(model.clone()), "round {round}");
        let bytes = model.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
        assert_eq!(state.entry_bytes().unwrap(), bytes, "round {round}");
    }
}

/// Every test over one store.
macro_rules! over {
    ($store:ident, $open:expr, $($test:ident),* $(,)?) => {
        mod $store {
            $(#[test]
            fn $test() {
                super::$test($open);
            })*
        }
    };
    ($store:ident, $open:expr) => {
        over!(
            $store,
            $open,
            an_empty_state_has_no_mark,
            what_was_folded_is_there_in_key_order_after_opening_again,
            visitors_may_stop,
            a_range_is_visited_and_removed_and_what_is_beside_it_stays,
            an_open_or_abandoned_fold_changes_nothing,
            compacting_keeps_everything,
            readers_see_whole_folds_while_they_are_made,
            a_state_of_another_shard_is_refused,
            many_random_folds_agree_with_a_map,
        );
    };
}

#[test]
fn redb_gives_room_back_when_it_is_compacted_and_not_while_a_fold_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let state = RedbState::open(folder.path(), StateOptions::new(3)).unwrap();
    fold(&state, mark(1), |fold| (0..20_000).for_each(|lsn| fold.put_body(lsn, &[1; 1000]).unwrap()));
    fold(&state, mark(2), |fold| (0..20_000).for_each(|lsn| fold.remove_body(lsn).unwrap()));
    let before = state.bytes_on_disk().unwrap();
    let open_fold = state.fold().unwrap();
    assert!(matches!(state.compact(), Err(StateError::Busy)));
    drop(open_fold);
    state.compact().unwrap();
    let after = state.bytes_on_disk().unwrap();
    assert!(before > 20_000_000 && after < before / 5, "{before} {after}");
}

#[test]
fn a_damaged_file_is_refused_or_does_no_harm() {
    let disk = FaultyDisk::new(1);
    let reopen = || RedbState::open_on(Arc::new(disk.clone()), StateOptions::new(3));
    let state = reopen().unwrap();
    for round in 1..4 {
        fold(&state, mark(round), |fold| {
            (0..40).for_each(|number| fold.put(&[number], &[round as u8; 300]).unwrap());
            (0..20).for_each(|lsn| fold.put_body(lsn, &[round as u8; 700]).unwrap());
        });
    }
    let expected = (entries(&state), bodies(&state));
    drop(state);
    let content = disk.content("state.redb");
    let (mut refused, mut random) = (0, causeway_storage::fault::Random::new(1));
    for _ in 0..1500 {
        disk.put("state.redb", &content);
        // Most of the file is empty.
        let mut offset = random.below(content.len() as u64);
        while content[offset as usize] == 0 {
            offset = random.below(content.len() as u64);
        }
        disk.flip("state.redb", offset, 1 << random.below(8));
        match reopen() {
            Ok(state) => {
                assert_eq!((entries(&state), bodies(&state)), expected, "byte {offset}");
                assert!((0..20).all(|lsn| state.body(lsn).unwrap().unwrap() == [3; 700][..]), "byte {offset}");
                assert_eq!(state.mark().unwrap(), Some(mark(3)), "byte {offset}");
            }
            Err(error) => {
                assert!(!matches!(error, StateError::Busy), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

fn open_redb(folder: &Path, options: StateOptions) -> Result<Box<dyn StateStore>, StateError> {
    Ok(Box::new(RedbState::open(folder, options)?))
}

#[cfg(feature = "sled")]
fn open_sled(folder: &Path, options: StateOptions) -> Result<Box<dyn StateStore>, StateError> {
    Ok(Box::new(causeway_storage::state::SledState::open(folder, options)?))
}

over!(redb, super::open_redb);
#[cfg(feature = "sled")]
over!(sled, super::open_sled);
