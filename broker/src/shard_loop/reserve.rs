//! Room on the disk that is held back for the broker's own way out of a full disk.
//!
//! Owns one file without content. A piece of it is given up where a fold or the log found no room at all: then the state can be folded
//! once more, the log be cut, and what that frees is room again. It never decides whether messages are taken.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

/// The name of the file.
const NAME: &str = "reserve";
/// Pieces of a whole reserve.
const PIECES: u64 = 4;
/// It is made whole again once twice its size is free beyond what is left to others.
const ROOM_FACTOR: u64 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    piece_bytes: u64,
    /// How many are held.
    pieces: u64,
}

impl Reserve {
    /// The reserve of a folder, in pieces of so many bytes; with what is held already.
    pub(super) fn new(folder: PathBuf, piece_bytes: u64) -> Reserve {
        let path = folder.join(NAME);
        let held_bytes = path.metadata().map_or(0, |metadata| metadata.len());
        let pieces = held_bytes.checked_div(piece_bytes).unwrap_or(0).min(PIECES);
        Reserve { path, piece_bytes, pieces }
    }

    /// Makes it whole, if it is not and the disk has plenty of room: `free` bytes, of which `floor` belong to others.
    ///
    /// # Errors
    /// Whatever the file system says. What was held is held.
    pub(super) fn hold(&mut self, free: u64, floor: u64) -> io::Result<()> {
        let bytes = PIECES * self.piece_bytes;
        if self.pieces == PIECES || free < floor.saturating_add(bytes.saturating_mul(ROOM_FACTOR)) {
            return Ok(());
        }
        let file = File::options().write(true).create(true).truncate(false).open(&self.path)?;
        if let Err(error) = fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            file.set_len(self.pieces * self.piece_bytes)?;
            return Err(error.into());
        }
        self.pieces = PIECES;
        Ok(())
    }

    /// Gives a piece up. Whether there was one.
    pub(super) fn release(&mut self) -> bool {
        let Some(left) = self.pieces.checked_sub(1) else { return false };
        self.pieces = left;
        let outcome = match left {
            0 => fs::remove_file(&self.path),
            left => File::options().write(true).open(&self.path).and_then(|file| file.set_len(left * self.piece_bytes)),
        };
        // Where that fails there is nothing else to try.
        outcome.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const PIECE: u64 = 1 << 20;

    #[test]
    fn it_takes_room_until_it_is_given_up_piece_by_piece() {
        let folder = tempfile::tempdir().unwrap();
        let taken = || folder.path().join(NAME).metadata().map_or(0, |metadata| metadata.blocks() * 512);
        let mut reserve = Reserve::new(folder.path().to_owned(), PIECE);
        reserve.hold(8 * PIECE + 9, 10).unwrap();
        assert!(taken() == 0 && !reserve.release(), "too little room");
        reserve.hold(8 * PIECE + 10, 10).unwrap();
        assert!(taken() >= 4 * PIECE);
        assert!(reserve.release());
        assert!((3 * PIECE..4 * PIECE).contains(&taken()));

        let mut after_a_restart = Reserve::new(folder.path().to_owned(), PIECE);
        for _ in 0..3 {
            assert!(after_a_restart.release());
        }
        assert!(!after_a_restart.release(), "no more than was held");
        assert_eq!(taken(), 0);
        assert!(!Reserve::new(folder.path().to_owned(), PIECE).release(), "there is none");
        after_a_restart.hold(u64::MAX, 0).unwrap();
        assert!(taken() >= 4 * PIECE, "it is held again");
    }
}
