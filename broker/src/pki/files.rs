//! Files of an authority, written whole or not at all.
//!
//! Owns who may read them, and that none is replaced by accident. It knows nothing of what is in them.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::PkiError;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner only.
    Owner,
    /// Everybody.
    Everybody,
}

/// What becomes of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It stays, and that is an error.
    Never,
    /// It is replaced: a reader sees the old one or the new one.
    Replace,
}

/// Writes a file, so that it survives a power cut. Its folder is made if it is missing.
///
/// # Errors
/// [`PkiError::Exists`], [`PkiError::Io`].
pub fn write(path: &Path, text: &[u8], access: Access, overwrite: Overwrite) -> Result<(), PkiError> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(at(folder))?;
    if overwrite == Overwrite::Never && path.symlink_metadata().is_ok() {
        return Err(PkiError::Exists { path: path.to_owned() });
    }
    // Readable by the owner only, from the first byte on.
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(at(folder))?;
    new.write_all(text).map_err(at(path))?;
    if access == Access::Everybody {
        new.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(at(path))?;
    }
    new.as_file().sync_all().map_err(at(path))?;
    let written = match overwrite {
        Overwrite::Replace => new.persist(path),
        Overwrite::Never => new.persist_noclobber(path),
    };
    written.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.to_owned() },
        _ => at(path)(error.error),
    })?;
    sync(folder)
}

/// Makes what was created or renamed in a folder durable.
pub(super) fn sync(folder: &Path) -> Result<(), PkiError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

/// Holds off other writers of the folder until the result is dropped.
pub(super) fn lock(folder: &Path) -> Result<File, PkiError> {
    let lock = File::open(folder).map_err(at(folder))?;
    lock.lock().map_err(at(folder))?;
    Ok(lock)
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_replaced_by_accident() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys").join("a.key");
        write(&path, b"one", Access::Owner, Overwrite::Never).unwrap();
        let error = write(&path, b"two", Access::Owner, Overwrite::Never).unwrap_err().to_string();
        assert!(error.ends_with("a.key is there already: give --force to replace it"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        write(&path, b"two", Access::Everybody, Overwrite::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left lying about");
    }
}
