//! Who may use a folder.
//!
//! Owns the locks: on a lock file, which says for people who has it, and on the folder itself, which stays locked when somebody removes
//! that file. The kernel gives both free with the process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;

use super::{FolderLock, LockError, named};

/// A folder that is taken for writing, or kept from being taken.
#[derive(Debug)]
pub struct FileLock {
    _file: Option<File>,
    _folder: Option<File>,
}

impl FolderLock for FileLock {}

/// Takes the folder of the lock file `path` for this process alone. Makes the file.
///
/// # Errors
/// [`LockError::Held`] where another uses the folder.
pub fn lock_alone(path: &Path) -> Result<FileLock, LockError> {
    let folder = lock_folder(path, File::try_lock)?;
    // Not truncated on opening: it may say who holds it.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = file.map_err(named(path))?;
    taken(path, file.try_lock())?;
    // Who holds it is said for people only: a disk too full to say so does not keep the log from opening.
    let _ = file.set_len(0).and_then(|()| write!(file, "process {}", std::process::id()));
    Ok(FileLock { _file: Some(file), _folder: folder })
}

/// Keeps others from taking the folder of the lock file `path` for themselves, without making or changing the file: they may
/// do the same.
///
/// # Errors
/// [`LockError::Held`] where another has taken it.
pub fn lock_shared(path: &Path) -> Result<FileLock, LockError> {
    let folder = lock_folder(path, File::try_lock_shared)?;
    let file = match File::open(path) {
        Ok(file) => file,
        // Nobody ever locked it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileLock { _file: None, _folder: folder }),
        Err(error) => return Err(named(path)(error).into()),
    };
    taken(path, file.try_lock_shared())?;
    Ok(FileLock { _file: Some(file), _folder: folder })
}

/// None where the file system has no locks for folders: then the file has to do.
fn lock_folder(path: &Path, lock: impl FnOnce(&File) -> Result<(), TryLockError>) -> Result<Option<File>, LockError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let opened = File::open(folder).map_err(named(folder))?;
    match lock(&opened) {
        Ok(()) => Ok(Some(opened)),
        Err(TryLockError::WouldBlock) => Err(held(path)),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

fn taken(path: &Path, outcome: Result<(), TryLockError>) -> Result<(), LockError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(held(path)),
        Err(TryLockError::Error(error)) => Err(named(path)(error).into()),
    }
}

fn held(path: &Path) -> LockError {
    let mut holder = String::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_string(&mut holder));
    if !read.is_ok_and(|count| count > 0) {
        holder = "another process".to_owned();
    }
    LockError::Held { path: path.display().to_string(), holder }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stays_locked_when_its_lock_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = lock_alone(&path).unwrap();
        let held = lock_alone(&path).unwrap_err().to_string();
        assert!(held.ends_with(&format!("lock is in use by process {}", std::process::id())), "{held}");
        std::fs::remove_file(&path).unwrap();
        assert!(lock_alone(&path).unwrap_err().to_string().ends_with("in use by another process"));
        assert!(lock_shared(&path).is_err());
        drop(lock);
        let (one, other) = (lock_shared(&path).unwrap(), lock_shared(&path).unwrap());
        assert!(lock_alone(&path).is_err() && !path.exists());
        drop((one, other));
        lock_alone(&path).unwrap();
    }

    #[test]
    fn a_lock_file_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::create_dir(&path).unwrap();
        let refused = lock_alone(&path).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{}: ", path.display())), "{refused}");
    }
}
