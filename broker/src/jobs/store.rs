//! What is kept of jobs: one file of the data directory.
//!
//! Owns keys and values. A key is a letter, the job's number, and for vehicles and results the place of the first or only vehicle among the job's
//! vehicles; numbers are big-endian.
//!
//! | Key | Value |
//! |---|---|
//! | `!format` | `causeway jobs 1` |
//! | `j` job | the job, JSON |
//! | `t` job place | VINs, one behind the other: from this place on |
//! | `r` job place | the result of the vehicle there: JSON, one line |

use std::ops::ControlFlow;
use std::path::Path;

use causeway_core::Vin;
use causeway_storage::{DurableMap, MapChanges, StateError};

use super::record::{JobId, Record};

/// The file in the data directory.
pub const JOBS_FILE: &str = "jobs.redb";

const FORMAT_KEY: &[u8] = b"!format";
const FORMAT: &[u8] = b"causeway jobs 1";
const JOB: u8 = b'j';
const TARGETS: u8 = b't';
const RESULT: u8 = b'r';
/// What one change removes.
const REMOVED_MAX: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(super) struct Store(DurableMap);

/// Why jobs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read or written.
    #[error("the jobs cannot be read or written: {0}")]
    State(#[from] StateError),
    /// It makes no sense.
    #[error("{JOBS_FILE} is damaged: the entry \"{0}\" makes no sense")]
    Damaged(String),
}

fn damaged(key: &[u8]) -> StoreError {
    StoreError::Damaged(key.escape_ascii().to_string())
}

fn job_key(id: JobId) -> Vec<u8> {
    [&[JOB][..], &id.0.to_be_bytes()].concat()
}

fn place_key(kind: u8, id: JobId, place: u32) -> Vec<u8> {
    [&[kind][..], &id.0.to_be_bytes(), &place.to_be_bytes()].concat()
}

fn place_of(key: &[u8]) -> Result<u32, StoreError> {
    let place = key.get(9..).and_then(|place| place.try_into().ok());
    place.map(u32::from_be_bytes).ok_or_else(|| damaged(key))
}

/// Takes a key and its value, and says whether to go on.
type Take<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError> + 'a;

/// What is to be kept together.
#[derive(Debug, Default)]
pub(super) struct Kept(MapChanges);

impl Kept {
    pub(super) fn job(&mut self, record: &Record) -> Result<(), StoreError> {
        let key = job_key(record.id);
        let value = serde_json::to_vec(record).map_err(|_| damaged(&key))?;
        self.0.insert(key, Some(value));
        Ok(())
    }

    pub(super) fn targets(&mut self, id: JobId, place: u32, vins: &[Vin]) {
        let value = vins.iter().flat_map(|vin| vin.as_str().bytes()).collect();
        self.0.insert(place_key(TARGETS, id, place), Some(value));
    }

    pub(super) fn result(&mut self, id: JobId, place: u32, line: Vec<u8>) {
        self.0.insert(place_key(RESULT, id, place), Some(line));
    }
}

impl Store {
    /// Opens the file of a data directory, or begins one. Without a directory, all is gone with the process.
    pub(super) fn open(data: Option<&Path>) -> Result<Store, StoreError> {
        let map = match data {
            Some(data) => DurableMap::open(data, JOBS_FILE)?,
            None => DurableMap::in_memory(),
        };
        match map.get(FORMAT_KEY)? {
            Some(format) if format == FORMAT => {}
            None if map.revision()? == 0 => {
                map.change(&MapChanges::from([(FORMAT_KEY.to_vec(), Some(FORMAT.to_vec()))]))?;
            }
            _ => return Err(damaged(FORMAT_KEY)),
        }
        Ok(Store(map))
    }

    pub(super) fn keep(&self, kept: Kept) -> Result<(), StoreError> {
        self.0.change(&kept.0)?;
        Ok(())
    }

    /// All jobs, in the order in which they were made.
    pub(super) fn jobs(&self) -> Result<Vec<Record>, StoreError> {
        let mut jobs = Vec::new();
        self.visit(vec![JOB], &[JOB], &mut |key, value| {
            jobs.push(serde_json::from_slice(value).map_err(|_| damaged(key))?);
            Ok(true)
        })?;
        Ok(jobs)
    }

    /// The part of the vehicles that holds a place: where it begins, and the vehicles. None where the place is behind the last.
    pub(super) fn targets(&self, id: JobId, place: u32) -> Result<Option<(u32, Vec<Vin>)>, StoreError> {
        let mut found = None;
        let prefix = &place_key(TARGETS, id, 0)[..9];
        let mut take = |key: &[u8], value: &[u8]| {
            let begin = place_of(key)?;
            if place >= begin && place < begin + (value.len() / Vin::LENGTH) as u32 {
                found = Some((begin, vins(value).ok_or_else(|| damaged(key))?));
            }
            Ok(begin < place && found.is_none())
        };
        // Most are asked for in their order: then the part begins with the place.
        self.visit(place_key(TARGETS, id, place), prefix, &mut take)?;
        if found.is_none() && place > 0 {
            let mut take = |key: &[u8], value: &[u8]| {
                let begin = place_of(key)?;
                if place >= begin && place < begin + (value.len() / Vin::LENGTH) as u32 {
                    found = Some((begin, vins(value).ok_or_else(|| damaged(key))?));
                }
                Ok(found.is_none() && begin < place)
            };
            self.visit(prefix.to_vec(), prefix, &mut take)?;
        }
        Ok(found)
    }

    /// Results from a place on, in their order: up to so many, and about so many bytes.
    pub(super) fn results(
        &self,
        id: JobId,
        from: u32,
        (limit, bytes_max): (usize, usize),
    ) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        let (mut results, mut bytes) = (Vec::new(), 0);
        self.visit(place_key(RESULT, id, from), &place_key(RESULT, id, 0)[..9], &mut |key, value| {
            bytes += value.len();
            results.push((place_of(key)?, value.to_vec()));
            Ok(results.len() < limit && bytes < bytes_max)
        })?;
        Ok(results)
    }

    /// Forgets a job, and last of all that it was there.
    pub(super) fn remove(&self, id: JobId) -> Result<(), StoreError> {
        for kind in [TARGETS, RESULT] {
            let prefix = &place_key(kind, id, 0)[..9];
            loop {
                let mut gone = MapChanges::new();
                self.visit(prefix.to_vec(), prefix, &mut |key, _| {
                    gone.insert(key.to_vec(), None);
                    Ok(gone.len() < REMOVED_MAX)
                })?;
                if gone.is_empty() {
                    break;
                }
                self.0.change(&gone)?;
            }
        }
        self.0.change(&MapChanges::from([(job_key(id), None)]))?;
        Ok(())
    }

    /// Copies all of it, as it is at one moment, into the folder; how many bytes.
    pub(super) fn copy_to(&self, folder: &Path) -> Result<u64, StateError> {
        self.0.copy_to(folder, JOBS_FILE)
    }

    fn visit(&self, from: Vec<u8>, prefix: &[u8], take: &mut Take<'_>) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        self.0.visit_from(&from, &mut |key, value| {
            if !key.starts_with(prefix) {
                return ControlFlow::Break(());
            }
            match take(key, value) {
                Ok(true) => return ControlFlow::Continue(()),
                Ok(false) => {}
                Err(error) => outcome = Err(error),
            }
            ControlFlow::Break(())
        })?;
        outcome
    }
}

fn vins(bytes: &[u8]) -> Option<Vec<Vin>> {
    bytes.chunks(Vin::LENGTH).map(|vin| std::str::from_utf8(vin).ok()?.parse().ok()).collect()
}
