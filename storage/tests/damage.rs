//! Ends cut off at every byte and bits flipped at every byte.
//!
//! Owns the line between a torn end, which is cleaned away, and damage, which is refused. Neither is ever served.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod common;

use causeway_storage::disk::Disk;
use causeway_storage::fault::FaultyDisk;
use causeway_storage::{Log, RecoverError};
use common::{append, open, record, recovered, segment};

/// The groups of the log under test: their records' lengths, and whether a sync follows.
const GROUPS: [(&[usize], bool); 6] =
    [(&[30, 0, 5], true), (&[200], true), (&[9, 9], false), (&[64, 1, 300], true), (&[17], false), (&[400, 2], false)];
/// A log of [`GROUPS`] as the operating system has it at the end, and where each group begins; last, where they end.
fn content() -> (Vec<u8>, Vec<usize>) {
    let disk = FaultyDisk::new(1);
    let mut log = open(&disk).unwrap();
    let mut begins = Vec::new();
    let mut next = 1;
    for (lengths, synced) in GROUPS {
        let positions = append(&mut log, next, lengths).unwrap();
        begins.push((positions[0].0 & 0xFFFF_FFFF) as usize - 40);
        next += lengths.len() as u64;
        if synced {
            assert_eq!(log.sync().unwrap(), next - 1);
        }
    }
    let content = disk.content(&segment(1));
    let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    begins.push(end.next_multiple_of(8));
    (content, begins)
}

/// What was appended, up to and including record `through`.
fn appended(through: u64) -> Vec<Vec<u8>> {
    let lengths = GROUPS.iter().flat_map(|(lengths, _)| lengths.iter());
    (1..=through).zip(lengths).map(|(lsn, length)| record(lsn, *length)).collect()
}

/// The last record of the groups that lie wholly before `offset`.
fn whole_before(begins: &[usize], offset: usize) -> u64 {
    let whole = begins[1..].iter().take_while(|end| **end <= offset).count();
    GROUPS[..whole].iter().map(|(lengths, _)| lengths.len() as u64).sum()
}

/// Opens a damaged copy of `content`, expects exactly the groups before the first difference, goes on, and expects the
/// same after a restart.
fn check_recovers(damaged: &[u8], content: &[u8], begins: &[usize], context: &str) {
    let end = *begins.last().unwrap();
    let difference = (0..end).find(|at| damaged.get(*at) != content.get(*at)).unwrap_or(end);
    let through = whole_before(begins, difference);
    let disk = FaultyDisk::new(2);
    disk.put(&segment(1), damaged);
    let mut log = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(recovered(&log, 1).unwrap(), appended(through), "{context}");
    let mut expected = appended(through);
    append(&mut log, through + 1, &[50]).unwrap();
    expected.push(record(through + 1, 50));
    assert_eq!(log.sync().unwrap(), through + 1);
    drop(log);
    disk.power_cut(9);
    let log = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(recovered(&log, 1).unwrap(), expected, "{context}");
}

#[test]
fn an_end_cut_off_at_any_byte_is_cleaned_away() {
    let (content, begins) = content();
    for cut in begins[4]..=*begins.last().unwrap() {
        let mut zeroed = content.clone();
        zeroed[cut..].fill(0);
        check_recovers(&zeroed, &content, &begins, &format!("zeros from byte {cut}"));
        let mut garbage = content.clone();
        garbage[cut..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 37 + 11) as u8 | 1);
        check_recovers(&garbage, &content, &begins, &format!("garbage from byte {cut}"));
    }
}

/// Every sync is the last once: what it covered stays, whatever is cut off behind.
#[test]
fn what_a_sync_covered_outlives_a_cut_at_any_byte_behind_it() {
    for synced in 0..GROUPS.len() {
        let disk = FaultyDisk::new(10);
        let mut log = open(&disk).unwrap();
        let (mut next, mut durable_end) = (1, 0);
        for (index, (lengths, _)) in GROUPS.into_iter().enumerate() {
            append(&mut log, next, lengths).unwrap();
            next += lengths.len() as u64;
            if index == synced {
                log.sync().unwrap();
                durable_end = disk.content(&segment(1)).iter().rposition(|byte| *byte != 0).unwrap() + 1 - 40;
            }
        }
        let durable = GROUPS[..=synced].iter().map(|(lengths, _)| lengths.len() as u64).sum();
        let content = disk.content(&segment(1));
        for cut in durable_end..content.len().min(durable_end + 1200) {
            let reopened = FaultyDisk::new(11);
            let mut zeroed = content.clone();
            zeroed[cut..].fill(0);
            reopened.put(&segment(1), &zeroed);
            let log = open(&reopened).unwrap();
            let records = recovered(&log, 1).unwrap();
            assert!(records.len() as u64 >= durable, "sync {synced}, cut at byte {cut}");
            assert_eq!(records, appended(records.len() as u64));
        }
    }
}

#[test]
fn any_lost_stretch_of_the_unsynced_end_loses_no_more_than_what_follows_it() {
    let (content, begins) = content();
    let end = *begins.last().unwrap();
    for from in begins[4]..end {
        for to in [from + 1, from + 100, end] {
            let mut torn = content.clone();
            torn[from..to.min(end)].fill(0);
            check_recovers(&torn, &content, &begins, &format!("bytes {from} to {to} lost"));
        }
    }
}

/// Every bit pattern of every byte: where it had been durable it is reported, else cleaned away, and never served.
#[test]
fn a_flip_anywhere_is_reported_or_cleaned_away() {
    let (content, begins) = content();
    let durable_end = begins[4];
    for at in 0..content.len() {
        for mask in [0x01, 0x80, 0xFF] {
            let mut flipped = content.clone();
            flipped[at] ^= mask;
            let context = format!("byte {at} ^ {mask:#x}");
            if at >= durable_end {
                check_recovers(&flipped, &content, &begins, &context);
                continue;
            }
            let disk = FaultyDisk::new(3);
            disk.put(&segment(1), &flipped);
            match open(&disk) {
                Err(RecoverError::Corrupt { file, offset, .. }) => {
                    assert!(file.ends_with(&segment(1)), "{context}");
                    let group = begins.iter().rev().find(|begin| **begin <= at).copied().unwrap_or(0);
                    assert!((group..=at).contains(&(offset as usize)), "{context}: reported at {offset}");
                }
                other => panic!("{context}: {:?}", other.map(|log| log.next())),
            }
        }
    }
}

/// After a sync the mark is the proof for the newest group, though no sync has covered it.
#[test]
fn a_flip_in_the_newest_durable_group_is_reported_too() {
    let disk = FaultyDisk::new(4);
    let mut log = open(&disk).unwrap();
    append(&mut log, 1, &[100, 100]).unwrap();
    log.sync().unwrap();
    let content = disk.content(&segment(1));
    for at in 4096..4096 + 40 + 2 * 112 {
        let damaged = FaultyDisk::new(5);
        let mut flipped = content.clone();
        flipped[at] ^= 4;
        damaged.put(&segment(1), &flipped);
        assert!(matches!(open(&damaged), Err(RecoverError::Corrupt { .. })), "byte {at}");
    }
}

#[test]
fn after_an_orderly_end_all_damage_is_reported_even_if_the_power_went() {
    for seed in 0..50 {
        let disk = FaultyDisk::new(seed);
        let mut log = open(&disk).unwrap();
        append(&mut log, 1, &[100, 100]).unwrap();
        log.close().unwrap();
        drop(log);
        disk.power_cut(seed);
        disk.flip(&segment(1), 4096 + seed * 5, 1);
        assert!(matches!(open(&disk), Err(RecoverError::Corrupt { .. })), "seed {seed}");
    }
}

#[test]
fn damage_in_an_older_segment_is_reported_by_replay_and_nothing_behind_it_is_served() {
    let disk = FaultyDisk::new(6);
    let mut log = open(&disk).unwrap();
    for lsn in 1..=9 {
        append(&mut log, lsn, &[1000]).unwrap();
    }
    log.sync().unwrap();
    let second = log.stats().segments[1].first;
    assert!(log.stats().segments.len() >= 3);
    drop(log);
    let size = disk.content(&segment(1)).len();
    for at in (4096..size as u64).step_by(3) {
        disk.flip(&segment(1), at, 2);
        let log = open(&disk).unwrap();
        let mut seen = 0;
        let outcome = log.recover(1, |found| {
            assert_eq!(found.bytes, record(found.lsn, 1000));
            seen = found.lsn;
            Ok::<(), RecoverError>(())
        });
        assert!(matches!(outcome, Err(RecoverError::Corrupt { .. })), "byte {at}: {outcome:?}");
        assert!(seen < second, "byte {at}");
        assert_eq!(recovered(&log, second).unwrap().len() as u64, 10 - second);
        drop(log);
        disk.flip(&segment(1), at, 2);
    }
}

/// A message that looks like a group, or like a whole log, stays a message.
#[test]
fn records_that_imitate_the_log_prove_nothing() {
    let (foreign, begins) = content();
    let disk = FaultyDisk::new(7);
    let mut log = open(&disk).unwrap();
    append(&mut log, 1, &[10]).unwrap();
    log.sync().unwrap();
    log.append(2, &mut std::iter::once(&foreign[begins[0]..begins[5]])).unwrap();
    drop(log);
    disk.flip(&segment(1), 4096 + 64 + 50, 1);
    let log = open(&disk).unwrap();
    assert_eq!(recovered(&log, 1).unwrap(), [record(1, 10)]);
    assert!(log.repair().is_some_and(|repair| repair.next == 2 && repair.bytes > 500));
}

/// Damage that proves itself only behind several chunks of the search.
#[test]
fn a_proof_is_found_far_behind_the_damage() {
    let disk = FaultyDisk::new(8);
    let options = causeway_storage::LogOptions { segment_bytes: 4 << 20, ..common::options() };
    let mut log = causeway_storage::SegmentedLog::open_on(std::sync::Arc::new(disk.clone()), options).unwrap();
    append(&mut log, 1, &[10]).unwrap();
    append(&mut log, 2, &[1_500_000]).unwrap();
    log.sync().unwrap();
    append(&mut log, 3, &[10]).unwrap();
    drop(log);
    disk.flip(&segment(1), 4100, 1);
    let refused = open(&disk).unwrap_err();
    assert!(matches!(refused, RecoverError::Corrupt { offset: 4096, .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.starts_with("memory/00000000000000000001.log is damaged at byte 4096: no intact group"), "{text}");
}

/// A segment keeps the size it is made with until it has a follower.
#[test]
fn a_last_segment_that_is_cut_short_is_refused() {
    let (content, begins) = content();
    for cut in (4096..content.len()).step_by(97).chain(begins) {
        let disk = FaultyDisk::new(9);
        disk.put(&segment(1), &content[..cut]);
        let refused = open(&disk).unwrap_err();
        let at_end = matches!(refused, RecoverError::Corrupt { offset, .. } if offset == cut as u64);
        assert!(at_end && refused.to_string().contains("was cut short"), "{refused}");
    }
}

/// A log of several segments; what it was given up to.
fn truncated(disk: &FaultyDisk, give_up: u64, more: u64) -> u64 {
    let mut log = open(disk).unwrap();
    for lsn in 1..=40 {
        append(&mut log, lsn, &[1000]).unwrap();
    }
    log.sync().unwrap();
    log.truncate_before(give_up).unwrap();
    for lsn in 41..41 + more {
        append(&mut log, lsn, &[1000]).unwrap();
    }
    log.close().unwrap();
    log.first().unwrap()
}

#[test]
fn missing_segments_at_either_end_are_refused() {
    for (give_up, more) in [(1, 0), (20, 0), (20, 1), (20, 30)] {
        let disk = FaultyDisk::new(1);
        let first = truncated(&disk, give_up, more);
        open(&disk).unwrap();
        let mut names: Vec<String> = disk.names().unwrap().into_iter().filter(|name| name.ends_with(".log")).collect();
        names.sort();
        let contents: Vec<Vec<u8>> = names.iter().map(|name| disk.content(name)).collect();
        for missing in 1..names.len() {
            for (from_the_end, lost) in [(false, &names[..missing]), (true, &names[missing..])] {
                lost.iter().for_each(|name| disk.remove(name).unwrap());
                let refused = open(&disk).unwrap_err().to_string();
                let expected = match from_the_end {
                    true => "the segment that followed it is missing".to_owned(),
                    false => format!("the log was to hold all records from {first} on"),
                };
                assert!(refused.contains(&expected), "{refused}");
                names.iter().zip(&contents).for_each(|(name, content)| disk.put(name, content));
            }
        }
        open(&disk).unwrap();
    }
}

/// What says that segments were given up is damaged: no reason to take them for lost, and none to go on.
#[test]
fn a_damaged_note_is_refused() {
    let disk = FaultyDisk::new(1);
    truncated(&disk, 20, 0);
    let mut names: Vec<String> = disk.names().unwrap().into_iter().filter(|name| name.ends_with(".log")).collect();
    names.sort();
    let last = names.last().unwrap();
    // The mark is last, the note before it.
    let end = disk.content(last).iter().rposition(|byte| *byte != 0).unwrap() as u64 / 8 * 8 + 8;
    for at in end - 80..end - 40 {
        disk.flip(last, at, 1);
        let refused = open(&disk).unwrap_err();
        let told = matches!(&refused, RecoverError::Corrupt { file, offset, .. } if file.ends_with(last) && *offset == end - 80);
        assert!(told, "byte {at}: {refused}");
        disk.flip(last, at, 1);
    }
    open(&disk).unwrap();
}

#[test]
fn a_segment_of_another_run_is_refused() {
    let [one, other] = [1, 2].map(|seed| {
        let disk = FaultyDisk::new(seed);
        truncated(&disk, 1, 0);
        disk
    });
    let second = open(&one).unwrap().stats().segments[1].first;
    one.put(&segment(second), &other.content(&segment(second)));
    let refused = open(&one).unwrap_err().to_string();
    assert!(refused.contains("belongs to run"), "{refused}");
}

#[test]
fn an_older_segment_that_is_cut_short_is_refused() {
    let disk = FaultyDisk::new(1);
    truncated(&disk, 1, 0);
    let content = disk.content(&segment(1));
    for cut in [4096, 5000, content.len() - 1] {
        disk.put(&segment(1), &content[..cut]);
        let refused = open(&disk).unwrap_err();
        let told = matches!(&refused, RecoverError::Corrupt { file, offset, .. }
            if file.ends_with(&segment(1)) && *offset == cut as u64);
        assert!(told && refused.to_string().contains("was cut short"), "{refused}");
    }
}
