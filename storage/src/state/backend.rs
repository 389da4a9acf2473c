//! A file of [`disk`](crate::disk) as redb wants to see it.
//!
//! Owns the translation. Takes no locks: the log's folder is locked, and the state belongs to it.

use std::io;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::segmented::read_up_to;

#[derive(Debug)]
pub(super) struct DiskBackend(pub(super) Arc<dyn DiskFile>);

impl redb::StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if read_up_to(self.0.as_ref(), out, offset)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Sets no space aside: redb doubles its file, and would take twice what it needs.
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_size(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}
