//! How much room a disk has left.
//!
//! Owns one question to the system. Decides nothing about what is little.

use std::io;
use std::path::Path;

/// Bytes that may still be written to the file system that holds `path`, by a process without privileges.
///
/// # Errors
/// Whatever the file system says.
pub fn free_bytes(path: impl AsRef<Path>) -> io::Result<u64> {
    let stats = rustix::fs::statvfs(path.as_ref())?;
    Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temporary_folder_has_a_size_and_a_missing_one_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).unwrap() > 0);
        assert!(free_bytes(folder.path().join("missing")).is_err());
    }
}
