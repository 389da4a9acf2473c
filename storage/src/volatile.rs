//! A log that keeps nothing.
//!
//! Owns the numbering of records, so that a shard behaves as with a real log. It never touches a disk.

use crate::{Log, LogError};

/// Forgets every record at once and calls it durable: for tests, and for brokers whose state may die with the process.
#[derive(Debug, Default)]
pub struct VolatileLog {
    last: Option<u64>,
}

impl VolatileLog {
    /// An empty log. The first record appended may have any number.
    pub fn new() -> VolatileLog {
        VolatileLog::default()
    }
}

impl Log for VolatileLog {
    fn append(&mut self, first: u64, records: &mut dyn Iterator<Item = &[u8]>) -> Result<(), LogError> {
        if let Some(last) = self.last
            && first != last + 1
        {
            return Err(LogError::Gap { last, first });
        }
        let count = records.count() as u64;
        if count > 0 {
            self.last = Some(first + count - 1);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<u64, LogError> {
        Ok(self.last.unwrap_or(0))
    }

    fn describe(&self) -> &'static str {
        "no data is kept on disk: a restart loses every session, queued message and retained message"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: usize) -> impl Iterator<Item = &'static [u8]> {
        std::iter::repeat_n(&b"record"[..], count)
    }

    #[test]
    fn sync_reports_the_last_record_of_all_groups() {
        let mut log = VolatileLog::new();
        log.append(1, &mut records(3)).unwrap();
        log.append(4, &mut records(1)).unwrap();
        assert_eq!(log.sync().unwrap(), 4);
    }

    #[test]
    fn an_empty_group_changes_nothing() {
        let mut log = VolatileLog::new();
        log.append(7, &mut records(2)).unwrap();
        log.append(9, &mut records(0)).unwrap();
        assert_eq!(log.sync().unwrap(), 8);
    }

    #[test]
    fn a_gap_is_refused() {
        let mut log = VolatileLog::new();
        log.append(1, &mut records(1)).unwrap();
        assert!(matches!(log.append(3, &mut records(1)), Err(LogError::Gap { last: 1, first: 3 })));
    }
}
