//! The disk of this machine.
//!
//! Owns the system calls. Retries an interrupted call, never a failed one.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{Disk, DiskFile, FolderLock, LockError, ReadAt, lock_alone, named};

/// The file that is locked.
const LOCK_NAME: &str = "lock";
/// Zeros are written this many bytes at a time where the file system cannot set space aside.
const ZEROS_BYTES: usize = 1 << 20;

/// One folder of a file system.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    /// Open from the beginning: to sync names must not need a descriptor when there may be none.
    opened: File,
}

impl RealDisk {
    /// The folder at `path`. It is made if it is missing, and its name made durable.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let folder = path.into();
        make_folder(&folder)?;
        let opened = File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { &folder });
        let opened = opened.map_err(named(&folder))?;
        Ok(RealDisk { folder, opened })
    }
}

/// Makes the folder and those above it; each new name is made durable in the folder that holds it.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(named(folder)(error)),
        _ => File::open(parent).and_then(|parent| parent.sync_all()).map_err(named(parent)),
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(named(&path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(named(&path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.folder).map_err(named(&self.folder))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let to = self.folder.join(to);
        std::fs::rename(self.folder.join(from), &to).map_err(named(&to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.folder.join(name);
        std::fs::remove_file(&path).map_err(named(&path))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.opened.sync_all().map_err(named(&self.folder))
    }

    fn lock(&self) -> Result<Box<dyn FolderLock>, LockError> {
        lock_alone(&self.folder.join(LOCK_NAME)).map(|lock| Box::new(lock) as Box<dyn FolderLock>)
    }

    fn unguessable(&self) -> u64 {
        // A keyed hash whose keys come from the operating system's random source.
        RandomState::new().hash_one(std::process::id()).max(1)
    }

    fn describe(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl ReadAt for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(&self.0, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        loop {
            match fallocate(&self.0, FallocateFlags::empty(), 0, size) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return self.write_zeros(size),
                outcome => return Ok(outcome?),
            }
        }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl RealFile {
    /// Appends zeros up to `size`: the old way to set space aside.
    fn write_zeros(&self, size: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut offset = self.size()?;
        while offset < size {
            let count = usize::try_from(size - offset).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
            self.write_at(&zeros[..count], offset)?;
            offset += count as u64;
        }
        Ok(())
    }
}
