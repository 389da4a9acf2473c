//! What the tests of the segmented log share: small logs on a faulty disk.
//!
//! Owns no assertions but that what is read back is what was appended.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use causeway_storage::fault::FaultyDisk;
use causeway_storage::{Log, LogError, LogOptions, Position, Record, RecoverError, SegmentedLog};

/// The file of the segment that begins with record `first`.
pub(crate) fn segment(first: u64) -> String {
    format!("{first:020}.log")
}

/// Small segments, and no spare unless a test wants one.
pub(crate) fn options() -> LogOptions {
    LogOptions { segment_bytes: LogOptions::SEGMENT_BYTES_MIN, keep_spare: false, ..LogOptions::new(7) }
}

pub(crate) fn open(disk: &FaultyDisk) -> Result<SegmentedLog, RecoverError> {
    SegmentedLog::open_on(Arc::new(disk.clone()), options())
}

/// A record that follows from its number and length, and is nowhere zero.
pub(crate) fn record(lsn: u64, length: usize) -> Vec<u8> {
    let seed = lsn << 20 ^ length as u64;
    let mut bytes = Vec::with_capacity(length + 8);
    for at in 0..length.div_ceil(8) as u64 {
        let word = (seed + at).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 0x0101_0101_0101_0101;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Appends one group of records of the given lengths.
pub(crate) fn append(log: &mut SegmentedLog, first: u64, lengths: &[usize]) -> Result<Vec<Position>, LogError> {
    let records: Vec<Vec<u8>> = lengths.iter().zip(first..).map(|(length, lsn)| record(lsn, *length)).collect();
    let mut positions = Vec::new();
    log.append_placed(first, &mut records.iter().map(Vec::as_slice), &mut |lsn, position| {
        assert_eq!(lsn, first + positions.len() as u64);
        positions.push(position);
    })?;
    Ok(positions)
}

/// All records, which must be numbered without gaps from `first`.
pub(crate) fn recovered(log: &SegmentedLog, first: u64) -> Result<Vec<Vec<u8>>, RecoverError> {
    let mut records = Vec::new();
    log.recover(first, |Record { lsn, bytes, .. }| {
        assert_eq!(lsn, first + records.len() as u64);
        records.push(bytes.to_vec());
        Ok::<(), RecoverError>(())
    })?;
    Ok(records)
}
