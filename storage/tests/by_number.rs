//! Reading single records by their number.
//!
//! Owns that every record the log holds is found, and no other, however the index of its segment came to be.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_storage::disk::Disk;
use causeway_storage::fault::{FaultyDisk, Random};
use causeway_storage::{Log, LogOptions, LogReader, ReadAhead, ReadError, RecoverError, SegmentedLog};
use common::{append, open, options, record, segment};

/// What was appended, by length, from record 1.
fn fill(log: &mut SegmentedLog, records: usize, random: &mut Random) -> Vec<usize> {
    let mut lengths = Vec::new();
    while lengths.len() < records {
        let group: Vec<usize> = (0..1 + random.below(40))
            .map(|_| match random.below(30) {
                0 => 0,
                1 => 20_000 + random.below(30_000),
                2..=9 => random.below(3000),
                _ => random.below(60),
            } as usize)
            .collect();
        append(log, lengths.len() as u64 + 1, &group).unwrap();
        lengths.extend(group);
        if random.chance(30) {
            log.sync().unwrap();
        }
    }
    lengths
}

fn check_all(reader: &LogReader, first: u64, lengths: &[usize]) {
    for (lsn, length) in (1..).zip(lengths) {
        let found = reader.read_lsn(lsn).unwrap();
        if lsn < first {
            assert_eq!(found, None, "record {lsn}");
        } else {
            let found = found.unwrap_or_else(|| panic!("record {lsn}"));
            assert!(found.lsn == lsn && found.bytes == record(lsn, *length), "record {lsn}");
        }
    }
    // In order, back and forth, and with gaps, what one read leaves to the next changes nothing.
    let mut ahead = ReadAhead::default();
    let last = lengths.len() as u64;
    let strides = [1, 7, last / 3 + 1].into_iter().flat_map(|stride| (1..=last).step_by(stride as usize));
    for lsn in strides.chain((1..=last).rev().step_by(5)) {
        assert_eq!(reader.read_lsn_near(lsn, &mut ahead).unwrap(), reader.read_lsn(lsn).unwrap(), "record {lsn}");
    }
    let behind = lengths.len() as u64 + 1;
    for lsn in [0, behind, behind + 1, behind + 1000, u64::MAX] {
        assert_eq!(reader.read_lsn(lsn).unwrap(), None, "record {lsn}");
    }
}

#[test]
fn every_record_is_found_however_the_index_came_to_be() {
    for seed in 0..20 {
        let random = &mut Random::new(seed);
        let disk = FaultyDisk::new(seed);
        let options = LogOptions { segment_bytes: 8192 << random.below(7), ..options() };
        let reopen = || SegmentedLog::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
        let mut log = reopen();
        // Filled while appending.
        let mut lengths = fill(&mut log, 600, random);
        check_all(&log.reader().unwrap(), 1, &lengths);
        // By the first read of each segment but the last, which opening walks.
        drop(log);
        let log = reopen();
        check_all(&log.reader().unwrap(), 1, &lengths);
        drop(log);
        // By replay, from the middle on; and the last goes on being filled.
        let mut log = reopen();
        log.recover(lengths.len() as u64 / 2, |_| Ok::<(), RecoverError>(())).unwrap();
        check_all(&log.reader().unwrap(), 1, &lengths);
        append(&mut log, lengths.len() as u64 + 1, &[5, 700, 0]).unwrap();
        lengths.extend([5, 700, 0]);
        check_all(&log.reader().unwrap(), 1, &lengths);
        // What is given up is gone.
        log.truncate_before(lengths.len() as u64 / 2).unwrap();
        check_all(&log.reader().unwrap(), log.first().unwrap(), &lengths);
    }
}

#[test]
fn an_empty_log_holds_nothing() {
    let log = open(&FaultyDisk::new(1)).unwrap();
    assert_eq!(log.reader().unwrap().read_lsn(1).unwrap(), None);
}

#[test]
fn what_is_behind_a_torn_end_is_not_found() {
    let disk = FaultyDisk::new(1);
    let mut log = open(&disk).unwrap();
    append(&mut log, 1, &[100, 100]).unwrap();
    log.sync().unwrap();
    let place = append(&mut log, 3, &[100, 100]).unwrap();
    drop(log);
    // The last record of the group is torn: none of the group counts.
    disk.flip(&segment(1), (place[1].0 & 0xFFFF_FFFF) + 50, 1);
    let mut log = open(&disk).unwrap();
    let reader = log.reader().unwrap();
    assert_eq!(reader.read_lsn(2).unwrap().unwrap().bytes, record(2, 100));
    assert_eq!(reader.read_lsn(3).unwrap(), None);
    append(&mut log, 3, &[7]).unwrap();
    assert_eq!(reader.read_lsn(3).unwrap().unwrap().bytes, record(3, 7));
    assert_eq!(reader.read_lsn(4).unwrap(), None);
}

#[test]
fn a_damaged_record_is_never_served() {
    let disk = FaultyDisk::new(1);
    let mut log = open(&disk).unwrap();
    for lsn in 1..=60 {
        append(&mut log, lsn, &[300]).unwrap();
    }
    log.close().unwrap();
    let damaged_in_first = {
        let second = log.stats().segments[1].first;
        second - 1
    };
    let content = disk.content(&segment(1));
    let needle = record(damaged_in_first, 300);
    let at = content.windows(300).position(|window| window == needle).unwrap();
    disk.flip(&segment(1), at as u64 + 10, 1);
    // Whether the index is there or has to be made around the damage.
    for reopened in [false, true] {
        if reopened {
            drop(log);
            log = open(&disk).unwrap();
        }
        let reader = log.reader().unwrap();
        let mut ahead = ReadAhead::default();
        for lsn in 1..=60 {
            let found = reader.read_lsn_near(lsn, &mut ahead);
            if lsn == damaged_in_first {
                assert!(matches!(found, Err(ReadError::Corrupt { .. })), "record {lsn}: {found:?}");
            } else {
                assert_eq!(found.unwrap().unwrap().bytes, record(lsn, 300));
            }
        }
    }
}

#[test]
fn readers_keep_up_with_a_writer_that_appends_and_removes() {
    let disk = FaultyDisk::new(1);
    let mut log = open(&disk).unwrap();
    append(&mut log, 1, &[50]).unwrap();
    let reader = log.reader().unwrap();
    let (newest, given_up) = (AtomicU64::new(1), AtomicU64::new(1));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for lsn in 2..4000 {
                append(&mut log, lsn, &[50]).unwrap();
                newest.store(lsn, Ordering::SeqCst);
                if lsn % 500 == 0 {
                    given_up.store(lsn - 300, Ordering::SeqCst);
                    log.truncate_before(lsn - 300).unwrap();
                }
            }
        });
        let mut random = Random::new(1);
        let mut reads = 0;
        while !writing.is_finished() || reads < 100 {
            reads += 1;
            let newest = newest.load(Ordering::SeqCst);
            let lsn = newest - random.below(1000).min(newest - 1) * random.below(2);
            match reader.read_lsn(lsn).unwrap() {
                Some(found) => assert_eq!(found.bytes, record(lsn, 50)),
                None => assert!(given_up.load(Ordering::SeqCst) > lsn, "record {lsn}"),
            }
        }
    });
    assert!(reader.read_lsn(3999).unwrap().is_some());
}

/// Flips of every byte, one at a time: what is not in that byte is read all the same, and the place that is told is that of the record.
#[test]
fn damage_hides_no_other_record() {
    let groups: [&[usize]; 6] = [&[30, 0, 5], &[200, 40, 60, 50], &[9, 9], &[400, 20, 20], &[200; 5], &[100; 5]];
    let disk = FaultyDisk::new(1);
    let mut log = open(&disk).unwrap();
    let (mut places, mut next) = (Vec::new(), 1);
    for lengths in groups {
        let placed = append(&mut log, next, lengths).unwrap();
        next += lengths.len() as u64;
        places.extend(placed.into_iter().zip(lengths).map(|(position, length)| (position.0, *length)));
    }
    log.close().unwrap();
    // Damage in the last segment is for the start to refuse.
    append(&mut log, next, &[7000]).unwrap();
    log.sync().unwrap();
    assert_eq!(log.stats().segments.len(), 2);
    drop(log);
    let end = places.last().map(|(offset, length)| offset + 12 + *length as u64).unwrap();
    for at in 4096..end {
        for mask in [1, 0xFF] {
            disk.flip(&segment(1), at, mask);
            let log = open(&disk).unwrap();
            let reader = log.reader().unwrap();
            for (lsn, (offset, length)) in (1..).zip(&places) {
                let is_hit = (*offset..offset + 12 + *length as u64).contains(&at);
                match reader.read_lsn(lsn) {
                    Ok(found) => {
                        let found = found.unwrap();
                        assert!(!is_hit && found.bytes == record(lsn, *length), "byte {at}, record {lsn}");
                    }
                    Err(ReadError::Corrupt { offset: told, .. }) => {
                        assert!(is_hit && told == *offset, "byte {at}, record {lsn} at {offset}: {told}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            disk.flip(&segment(1), at, mask);
        }
    }
}

/// Two groups lost with their headers, and the one between them intact.
#[test]
fn what_lies_between_damage_is_found() {
    let disk = FaultyDisk::new(1);
    let mut log = open(&disk).unwrap();
    let places: Vec<u64> = (1..=12).map(|lsn| append(&mut log, lsn, &[400]).unwrap()[0].0).collect();
    append(&mut log, 13, &[7000]).unwrap();
    log.sync().unwrap();
    drop(log);
    for lost in [3, 4, 7] {
        (places[lost] - 40..places[lost] + 100).for_each(|at| disk.flip(&segment(1), at, 0x55));
    }
    let log = open(&disk).unwrap();
    let reader = log.reader().unwrap();
    for lsn in 1..=12 {
        match reader.read_lsn(lsn) {
            Ok(found) => assert_eq!(found.unwrap().bytes, record(lsn, 400)),
            Err(error) => assert!([4, 5, 8].contains(&lsn), "record {lsn}: {error}"),
        }
    }
}

#[test]
fn a_segment_that_is_missing_is_told_and_one_that_was_given_up_is_not_there() {
    let disk = FaultyDisk::new(1);
    let mut log = open(&disk).unwrap();
    for lsn in 1..=30 {
        append(&mut log, lsn, &[1000]).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let mut log = open(&disk).unwrap();
    let reader = log.reader().unwrap();
    let second = log.stats().segments[1].first;
    disk.remove(&segment(second)).unwrap();
    let missing = reader.read_lsn(second).unwrap_err();
    assert!(matches!(missing, ReadError::Missing { .. }), "{missing}");
    assert!(missing.to_string().contains(&segment(second)), "{missing}");
    disk.put(&segment(second), b"");
    log.truncate_before(second + 20).unwrap();
    assert_eq!(reader.read_lsn(second).unwrap(), None);
}
