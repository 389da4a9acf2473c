//! Files that others write while the broker runs.
//!
//! Owns noticing that one was changed or replaced. It never reads one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a file has that another in its place has not: its inode, when it was written last, and its size. None: it cannot be had.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// Some files, and how they were at the last look.
pub(crate) struct Watched {
    files: Vec<(PathBuf, Stamp)>,
}

impl Watched {
    /// Looks at these files.
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>) -> Watched {
        let look = |path: PathBuf| {
            let stamp = stamp(&path);
            (path, stamp)
        };
        Watched { files: files.into_iter().map(look).collect() }
    }

    /// Remembers how they are now.
    pub(crate) fn look(&mut self) {
        self.files.iter_mut().for_each(|(path, seen)| *seen = stamp(path));
    }

    /// Whether one is not as it was.
    pub(crate) fn changed(&self) -> bool {
        self.files.iter().any(|(path, seen)| stamp(path) != *seen)
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut watched = Watched::new([path.clone()]);
        assert!(!watched.changed());
        let mut expect_change = || {
            assert!(watched.changed());
            watched.look();
            assert!(!watched.changed());
        };
        fs::write(&path, "1").unwrap();
        expect_change();
        fs::write(&path, "12").unwrap();
        expect_change();
        // Replaced by one of the same size.
        fs::write(folder.path().join("b"), "34").unwrap();
        fs::rename(folder.path().join("b"), &path).unwrap();
        expect_change();
        fs::remove_file(&path).unwrap();
        expect_change();
    }
}
