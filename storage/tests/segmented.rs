//! What the segmented log does while nothing breaks, and what it refuses.
//!
//! Owns segments, positions, truncation, the lock and a full disk. Damage and power cuts have files of their own.

mod common;

use std::sync::Arc;

use causeway_storage::disk::{Disk, RealDisk};
use causeway_storage::fault::{Failure, FaultyDisk};
use causeway_storage::{Durability, Log, LogError, LogOptions, Position, ReadError, RecoverError, RunId, SegmentedLog};
use common::{append, open, options, record, recovered, segment};

#[test]
fn what_was_appended_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data").join("shard-0");
    let mut log = SegmentedLog::open(&path, options()).unwrap();
    assert_eq!(log.sync().unwrap(), 0);
    append(&mut log, 1, &[10, 0, 700]).unwrap();
    append(&mut log, 4, &[1]).unwrap();
    assert_eq!(log.sync().unwrap(), 4);
    append(&mut log, 5, &[]).unwrap();
    append(&mut log, 5, &[3]).unwrap();
    drop(log);
    let mut log = SegmentedLog::open(&path, options()).unwrap();
    assert_eq!(log.repair(), None);
    assert_eq!((log.first(), log.next()), (Some(1), Some(6)));
    let expected = [record(1, 10), record(2, 0), record(3, 700), record(4, 1), record(5, 3)];
    assert_eq!(recovered(&log, 1).unwrap(), expected);
    assert_eq!(recovered(&log, 4).unwrap(), expected[3..]);
    assert_eq!(recovered(&log, 6).unwrap(), Vec::<Vec<u8>>::new());
    append(&mut log, 6, &[2]).unwrap();
    assert_eq!(log.sync().unwrap(), 6);
}

#[test]
fn the_first_record_may_have_any_number_and_then_there_is_no_gap() {
    let disk = FaultyDisk::new(1);
    let mut log = open(&disk).unwrap();
    assert_eq!(recovered(&log, 9).unwrap().len(), 0);
    append(&mut log, 50, &[1, 1]).unwrap();
    assert!(matches!(append(&mut log, 53, &[1]), Err(LogError::Gap { last: 51, first: 53 })));
    append(&mut log, 52, &[1]).unwrap();
    for from in [49, 54] {
        let refused = recovered(&log, from).unwrap_err();
        assert!(matches!(refused, RecoverError::Missing { first: 50, next: 53, .. }), "{refused}");
    }
}

#[test]
fn a_full_segment_is_followed_by_another_and_read_like_one() {
    let disk = FaultyDisk::new(2);
    let mut log = open(&disk).unwrap();
    for group in 0..40 {
        append(&mut log, 1 + group * 2, &[300, 200]).unwrap();
        assert_eq!(log.sync().unwrap(), 2 + group * 2);
    }
    let stats = log.stats();
    assert!(stats.segments.len() > 5, "{stats:?}");
    assert_eq!((stats.first, stats.next, stats.durable_before), (Some(1), Some(81), 81));
    assert_eq!(stats.bytes_on_disk, stats.segments.iter().map(|segment| segment.bytes).sum::<u64>());
    for pair in stats.segments.windows(2) {
        assert_eq!((pair[0].next, pair[0].ordinal + 1), (pair[1].first, pair[1].ordinal));
    }
    drop(log);
    let log = open(&disk).unwrap();
    let expected: Vec<Vec<u8>> = (1..81).map(|lsn| record(lsn, if lsn % 2 == 1 { 300 } else { 200 })).collect();
    for from in [1, 2, 40, 79] {
        assert_eq!(recovered(&log, from).unwrap(), expected[from as usize - 1..]);
    }
}

#[test]
fn a_group_larger_than_a_segment_has_one_to_itself() {
    let disk = FaultyDisk::new(3);
    let mut log = SegmentedLog::open_on(
        Arc::new(disk.clone()),
        LogOptions { group_bytes_max: 100_000, keep_spare: true, ..options() },
    )
    .unwrap();
    append(&mut log, 1, &[10]).unwrap();
    let position = append(&mut log, 2, &[90_000]).unwrap()[0];
    append(&mut log, 3, &[10]).unwrap();
    assert_eq!(log.sync().unwrap(), 3);
    assert_eq!(log.reader().unwrap().read(position).unwrap().bytes, record(2, 90_000));
    assert!(matches!(append(&mut log, 4, &[50_000, 50_000]), Err(LogError::TooLarge { limit: 100_000, .. })));
    append(&mut log, 4, &[10]).unwrap();
    assert_eq!(log.sync().unwrap(), 4);
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(recovered(&log, 1).unwrap()[1], record(2, 90_000));
}

#[test]
fn records_are_read_by_position_while_the_log_goes_on_and_after_reopening() {
    let disk = FaultyDisk::new(4);
    let mut log = open(&disk).unwrap();
    let reader = log.reader().unwrap();
    let mut placed: Vec<(u64, usize, Position)> = Vec::new();
    for first in (1..100).step_by(3) {
        let lengths = [first as usize * 11, 0, 1020];
        let positions = append(&mut log, first, &lengths).unwrap();
        placed.extend(
            positions.iter().zip(lengths).zip(first..).map(|((position, length), lsn)| (lsn, length, *position)),
        );
        for (lsn, length, position) in &placed {
            let stored = reader.read(*position).unwrap();
            assert_eq!((stored.lsn, stored.bytes.as_ref()), (*lsn, record(*lsn, *length).as_slice()));
        }
    }
    log.sync().unwrap();
    drop((log, reader));
    let mut log = open(&disk).unwrap();
    let reader = log.reader().unwrap();
    let mut index = 0;
    log.recover(1, |found| {
        assert_eq!((found.lsn, found.position), (placed[index].0, placed[index].2));
        assert_eq!(reader.read(found.position).unwrap().bytes, found.bytes);
        index += 1;
        Ok::<(), RecoverError>(())
    })
    .unwrap();
    assert_eq!(index, placed.len());
    log.truncate_before(50).unwrap();
    assert!(matches!(reader.read(placed[0].2), Err(ReadError::Gone { segment: 0 })));
    assert_eq!(reader.read(placed[60].2).unwrap().lsn, 61);
}

#[test]
fn no_other_position_holds_a_record() {
    let disk = FaultyDisk::new(5);
    let mut log = open(&disk).unwrap();
    let positions = append(&mut log, 1, &[40, 40]).unwrap();
    let reader = log.reader().unwrap();
    for offset in 0..9000 {
        let position = Position(positions[0].0 & !0xFFFF_FFFF | offset);
        let outcome = reader.read(position);
        assert_eq!(outcome.is_ok(), positions.contains(&position), "offset {offset}");
        assert!(matches!(outcome, Ok(_) | Err(ReadError::Corrupt { .. })));
    }
    assert!(matches!(reader.read(Position(u64::MAX)), Err(ReadError::Gone { segment: u32::MAX })));
}

#[test]
fn a_flipped_bit_is_never_read() {
    let disk = FaultyDisk::new(6);
    let mut log = open(&disk).unwrap();
    let position = append(&mut log, 1, &[2000]).unwrap()[0];
    log.sync().unwrap();
    let reader = log.reader().unwrap();
    let begin = position.0 & 0xFFFF_FFFF;
    for offset in begin..begin + 12 + 2000 {
        disk.flip(&segment(1), offset, 1 << (offset % 8));
        assert!(matches!(reader.read(position), Err(ReadError::Corrupt { .. })), "byte {offset}");
        disk.flip(&segment(1), offset, 1 << (offset % 8));
    }
    assert_eq!(reader.read(position).unwrap().bytes, record(1, 2000));
}

#[test]
fn truncation_removes_whole_segments_and_never_the_last() {
    let disk = FaultyDisk::new(7);
    let mut log = open(&disk).unwrap();
    for lsn in 1..=30 {
        append(&mut log, lsn, &[1000]).unwrap();
    }
    log.sync().unwrap();
    let before = log.stats();
    let second = before.segments[1];
    log.truncate_before(second.first - 1).unwrap();
    assert_eq!(log.stats(), before);
    log.truncate_before(second.next - 1).unwrap();
    assert_eq!(log.first(), Some(second.first));
    assert!(log.stats().bytes_on_disk < before.bytes_on_disk);
    log.truncate_before(u64::MAX).unwrap();
    assert_eq!(log.stats().segments, before.segments[before.segments.len() - 1..]);
    append(&mut log, 31, &[5]).unwrap();
    assert_eq!(log.sync().unwrap(), 31);
    drop(log);
    disk.power_cut(7);
    let log = open(&disk).unwrap();
    assert_eq!(log.next(), Some(32));
    let first = log.first().unwrap();
    assert_eq!(recovered(&log, first).unwrap().len() as u64, 32 - first);
}

#[test]
fn a_log_in_use_is_refused_and_says_by_whom() {
    let folder = tempfile::tempdir().unwrap();
    let log = SegmentedLog::open(folder.path(), options()).unwrap();
    let refused = SegmentedLog::open(folder.path(), options()).unwrap_err().to_string();
    assert!(refused.ends_with(&format!("lock is in use by process {}", std::process::id())), "{refused}");
    drop(log);
    SegmentedLog::open(folder.path(), options()).unwrap();
}

#[test]
fn a_log_of_another_shard_or_version_is_refused() {
    let disk = FaultyDisk::new(8);
    let mut log = open(&disk).unwrap();
    append(&mut log, 1, &[1]).unwrap();
    drop(log);
    let other = SegmentedLog::open_on(Arc::new(disk.clone()), LogOptions { shard: 8, ..options() });
    assert!(matches!(other, Err(RecoverError::Shard { found: 7, expected: 8, .. })));
    open(&disk).unwrap();
}

#[test]
fn a_missing_segment_is_noticed() {
    for missing in [1, 2] {
        let disk = FaultyDisk::new(9);
        let mut log = open(&disk).unwrap();
        for lsn in 1..=16 {
            append(&mut log, lsn, &[1000]).unwrap();
        }
        log.sync().unwrap();
        let name = segment(log.stats().segments[missing].first);
        drop(log);
        disk.remove(&name).unwrap();
        let refused = open(&disk).unwrap_err();
        assert!(matches!(refused, RecoverError::Corrupt { .. }), "{refused}");
    }
}

#[test]
fn a_full_disk_refuses_the_group_and_goes_on_when_there_is_room() {
    for keep_spare in [false, true] {
        let disk = FaultyDisk::new(10);
        disk.set_capacity(20 << 10);
        let options = LogOptions { keep_spare, ..options() };
        let mut log = SegmentedLog::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
        let mut next = 1;
        let refused = loop {
            match append(&mut log, next, &[900]) {
                Ok(_) => next += 1,
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused, LogError::Full { wanted: 8192, .. }), "{refused}");
        assert!(!log.stats().spare);
        assert_eq!(log.sync().unwrap(), next - 1);
        assert!(matches!(append(&mut log, next, &[900]), Err(LogError::Full { .. })));
        // What still fits is taken.
        append(&mut log, next, &[1]).unwrap();
        next += 1;
        log.truncate_before(next - 1).unwrap();
        append(&mut log, next, &[900]).unwrap();
        assert_eq!(log.sync().unwrap(), next);
        drop(log);
        disk.power_cut(10);
        let log = SegmentedLog::open_on(Arc::new(disk.clone()), options).unwrap();
        assert_eq!(log.next(), Some(next + 1));
        recovered(&log, log.first().unwrap()).unwrap();
    }
}

#[test]
fn where_there_is_no_room_for_a_segment_a_small_one_does() {
    let disk = FaultyDisk::new(12);
    let options = LogOptions { segment_bytes: 64 << 10, keep_spare: true, ..options() };
    let mut log = SegmentedLog::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
    append(&mut log, 1, &[50_000]).unwrap();
    assert!(log.has_spare());
    append(&mut log, 2, &[50_000]).unwrap();
    disk.set_capacity(log.stats().bytes_on_disk + (20 << 10));
    append(&mut log, 3, &[50_000]).unwrap();
    assert!(!log.has_spare());
    append(&mut log, 4, &[10_000]).unwrap();
    append(&mut log, 5, &[10_000]).unwrap();
    let small = log.stats().segments.last().unwrap().bytes;
    assert!((10_000..20_480).contains(&small), "{small}");
    disk.set_capacity(u64::MAX);
    append(&mut log, 6, &[10_000]).unwrap();
    assert_eq!(log.stats().segments.last().unwrap().bytes, 64 << 10);
    assert_eq!(log.sync().unwrap(), 6);
    drop(log);
    disk.power_cut(12);
    let log = SegmentedLog::open_on(Arc::new(disk), options).unwrap();
    assert_eq!(log.next(), Some(7));
    recovered(&log, 1).unwrap();
}

#[test]
fn a_full_disk_does_not_keep_the_log_from_opening() {
    let disk = FaultyDisk::new(11);
    let mut log = open(&disk).unwrap();
    append(&mut log, 1, &[700]).unwrap();
    log.sync().unwrap();
    append(&mut log, 2, &[700]).unwrap();
    drop(log);
    disk.set_capacity(0);
    disk.power_cut(3);
    let mut log = SegmentedLog::open_on(Arc::new(disk), LogOptions { keep_spare: true, ..options() }).unwrap();
    let next = log.next().unwrap();
    append(&mut log, next, &[700]).unwrap();
    assert_eq!(log.sync().unwrap(), next);
}

/// Any operation may fail at any time. What failed is never tried again, and what was durable by then stays.
#[test]
fn a_failure_poisons_the_log_for_good() {
    for failing in 0..60 {
        let disk = FaultyDisk::new(failing);
        let mut log = open(&disk).unwrap();
        disk.fail_after(failing, Failure::Io);
        let (mut next, mut durable) = (1, 0);
        let error = loop {
            let outcome = append(&mut log, next, &[500, 500]).and_then(|_| log.sync());
            match outcome {
                Ok(through) => (next, durable) = (next + 2, through),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, LogError::Io(_)), "operation {failing}: {error}");
        let operations = disk.operations();
        for _ in 0..2 {
            assert!(matches!(log.sync(), Err(LogError::Poisoned { .. })));
            assert!(matches!(append(&mut log, next, &[1]), Err(LogError::Poisoned { .. })));
            assert!(matches!(log.truncate_before(9), Err(LogError::Poisoned { .. })));
            assert!(matches!(log.close(), Err(LogError::Poisoned { .. })));
        }
        assert_eq!(disk.operations(), operations, "operation {failing}");
        drop(log);
        // A new process reads what the failed sync left in memory. From then on it must be durable.
        let log = open(&disk).unwrap();
        let reopened = log.next().unwrap_or(1);
        assert!(reopened > durable, "operation {failing}");
        drop(log);
        disk.power_cut(failing);
        let log = open(&disk).unwrap();
        assert_eq!(log.next().unwrap_or(1), reopened, "operation {failing}");
        let expected: Vec<Vec<u8>> = (1..reopened).map(|lsn| record(lsn, 500)).collect();
        assert_eq!(recovered(&log, 1).unwrap(), expected, "operation {failing}");
    }
}

#[test]
fn unfinished_segments_and_strange_files_are_no_segments() {
    let disk = FaultyDisk::new(12);
    disk.put("spare.tmp", b"half a header");
    disk.put("notes.txt", b"not ours");
    let mut log = open(&disk).unwrap();
    append(&mut log, 1, &[1]).unwrap();
    assert_eq!(disk.names().unwrap(), [segment(1), "notes.txt".to_owned()]);
}

#[test]
fn without_sync_the_log_still_opens_after_a_power_cut() {
    for seed in 0..200 {
        let disk = FaultyDisk::new(seed);
        let options = LogOptions { durability: Durability::Os, ..options() };
        let mut log = SegmentedLog::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
        assert!(log.describe().contains("loses"));
        for lsn in 1..=20 {
            append(&mut log, lsn, &[600]).unwrap();
            assert_eq!(log.sync().unwrap(), lsn);
        }
        drop(log);
        disk.power_cut(seed);
        let log = SegmentedLog::open_on(Arc::new(disk), options).unwrap();
        assert_eq!(recovered(&log, 1).unwrap().len() as u64, log.next().unwrap() - 1);
    }
}

#[test]
fn the_real_disk_keeps_to_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path()).unwrap();
    let file = disk.create("a.tmp").unwrap();
    assert!(disk.create("a.tmp").is_err());
    file.allocate(10_000).unwrap();
    assert_eq!(file.size().unwrap(), 10_000);
    file.allocate(5_000).unwrap();
    assert_eq!(file.size().unwrap(), 10_000);
    file.write_at(b"xyz", 9_998).unwrap();
    let mut buffer = [9; 8];
    assert_eq!(file.read_at(&mut buffer, 9_996).unwrap(), 5);
    assert_eq!(buffer, *b"\0\0xyz\x09\x09\x09");
    disk.rename("a.tmp", "b").unwrap();
    disk.sync_folder().unwrap();
    assert_eq!(disk.names().unwrap(), ["b"]);
    disk.open("b").unwrap().set_size(3).unwrap();
    disk.remove("b").unwrap();
    assert_eq!(disk.open("b").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_ne!(disk.unguessable(), disk.unguessable());
}

#[test]
fn without_a_descriptor_to_be_had_the_group_is_refused_and_comes_again() {
    let disk = FaultyDisk::new(13);
    let mut log = open(&disk).unwrap();
    append(&mut log, 1, &[5000]).unwrap();
    for _ in 0..3 {
        disk.fail_after(0, Failure::NoFile);
        let refused = append(&mut log, 2, &[5000]).unwrap_err();
        assert!(matches!(refused, LogError::Full { .. }), "{refused}");
    }
    assert_eq!(log.sync().unwrap(), 1);
    append(&mut log, 2, &[5000]).unwrap();
    assert_eq!(log.sync().unwrap(), 2);
    drop(log);
    assert_eq!(recovered(&open(&disk).unwrap(), 1).unwrap().len(), 2);
}

#[test]
fn names_are_synced_without_a_new_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path().join("log")).unwrap();
    // The folder can no longer be opened by its name.
    std::fs::rename(folder.path().join("log"), folder.path().join("moved")).unwrap();
    disk.sync_folder().unwrap();
}

#[test]
fn a_log_is_begun_where_and_as_what_it_is_told() {
    let disk = FaultyDisk::new(14);
    let mut log = open(&disk).unwrap();
    assert_eq!((log.run(), log.reader().unwrap().bounds()), (None, None));
    log.begin(70, RunId(5)).unwrap();
    assert_eq!((log.first(), log.next()), (Some(70), Some(70)));
    assert!(matches!(log.begin(70, RunId(5)), Err(LogError::Gap { .. })));
    drop(log);
    disk.power_cut(1);
    let mut log = open(&disk).unwrap();
    assert!(matches!(append(&mut log, 71, &[1]), Err(LogError::Gap { .. })));
    append(&mut log, 70, &[9000]).unwrap();
    append(&mut log, 71, &[9000]).unwrap();
    assert_eq!(log.reader().unwrap().bounds(), Some((RunId(5), 70, 72)));
    log.sync().unwrap();
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!((log.run(), log.stats().segments.len()), (Some(RunId(5)), 2));
}
