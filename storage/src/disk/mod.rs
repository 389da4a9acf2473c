//! What the log asks of a disk: one folder of files, written and read by offset.
//!
//! Owns the traits. Decides nothing about segments or records, and promises nothing that a POSIX file system does not: what is
//! written may be lost or torn until its file is synced, and a name until its folder is.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

mod lock;
mod real;

pub use lock::{FileLock, lock_alone, lock_shared};
pub use real::RealDisk;

/// Bytes that can be read by offset.
pub trait ReadAt {
    /// Reads at `offset`, in bytes, and returns how many there were. Fewer than asked for means that the end is near, or
    /// nothing at all.
    ///
    /// # Errors
    /// Whatever the device says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let count = buffer.len().min(self.len() - from);
        buffer[..count].copy_from_slice(&self[from..from + count]);
        Ok(count)
    }
}

/// An open file. Shared by the writer and any number of readers.
pub trait DiskFile: ReadAt + Send + Sync + Debug {
    /// The size in bytes.
    ///
    /// # Errors
    /// Whatever the device says.
    fn size(&self) -> io::Result<u64>;

    /// Writes all of `bytes` at `offset`, or fails, having written any part of them.
    ///
    /// # Errors
    /// Whatever the device says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the size to `size` bytes and sets aside room for all of them, so that writing below it does not run out of space.
    /// What was not written reads as zero.
    ///
    /// # Errors
    /// `StorageFull` or `QuotaExceeded` where there is no room; whatever the device says.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Cuts the file to `size` bytes, or makes it that long without setting room aside.
    ///
    /// # Errors
    /// Whatever the device says.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Makes what was written durable (`fdatasync`).
    ///
    /// # Errors
    /// Whatever the device says. What was not yet durable may then never become so: do not try again.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes what was written and the file's own record of it durable (`fsync`).
    ///
    /// # Errors
    /// As [`sync_data`](DiskFile::sync_data).
    fn sync_all(&self) -> io::Result<()>;
}

/// One folder, which one log has to itself.
pub trait Disk: Send + Sync + Debug {
    /// Makes a new file.
    ///
    /// # Errors
    /// `AlreadyExists`; whatever the device says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`; whatever the device says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of all files, in any order.
    ///
    /// # Errors
    /// Whatever the device says.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Renames a file. Replaces nothing: the log never renames onto a name in use.
    ///
    /// # Errors
    /// Whatever the device says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Whoever has it open can go on reading.
    ///
    /// # Errors
    /// Whatever the device says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names created, renamed and removed durable.
    ///
    /// # Errors
    /// Whatever the device says.
    fn sync_folder(&self) -> io::Result<()>;

    /// Takes the folder for this process, until the value is dropped.
    ///
    /// # Errors
    /// [`LockError::Held`] where another has it.
    fn lock(&self) -> Result<Box<dyn FolderLock>, LockError>;

    /// A number nobody can guess, and never zero.
    fn unguessable(&self) -> u64;

    /// The file's name for people, with its folder.
    fn describe(&self, name: &str) -> String;
}

/// What the system says about a file, with the file's name.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
struct FileError {
    path: String,
    source: io::Error,
}

/// Puts the file's name before what the system says. The kind of the error stays.
pub(crate) fn named(path: &std::path::Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |source| io::Error::new(source.kind(), FileError { path, source })
}

/// Whether the system has no descriptor or memory to give now, as opposed to failing.
pub(crate) fn is_short_of_resources(error: &io::Error) -> bool {
    use rustix::io::Errno;
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<FileError>()) {
        return is_short_of_resources(&inner.source);
    }
    let codes = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// A folder that is taken. Dropping it gives the folder free.
pub trait FolderLock: Send + Debug {}

/// Why a folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another has it.
    #[error("{path} is in use by {holder}")]
    Held {
        /// The lock file.
        path: String,
        /// Who has it, as far as it said.
        holder: String,
    },
    /// The lock file could not be made or read.
    #[error(transparent)]
    Io(#[from] io::Error),
}
