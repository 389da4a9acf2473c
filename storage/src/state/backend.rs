//! A file of [`disk`](crate::disk) as redb wants to see it.
//!
//! Owns the translation. Takes no locks: the log's folder is locked, and the state belongs to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::DiskFile;
use crate::segmented::read_up_to;

#[derive(Debug)]
pub(super) struct DiskBackend {
    pub(super) file: Arc<dyn DiskFile>,
    /// Set once a sync failed.
    pub(super) sync_failed: Arc<AtomicBool>,
}

impl redb::StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if read_up_to(self.file.as_ref(), out, offset)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Sets no space aside: redb doubles its file, and would take twice what it needs.
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_size(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let outcome = self.file.sync_data();
        if outcome.is_err() {
            self.sync_failed.store(true, Ordering::Release);
        }
        outcome
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}
