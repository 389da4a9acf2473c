//! Which log and which folded state belong together.
//!
//! Owns the mark of belonging. Decides nothing: [`ShardStore`](crate::ShardStore) compares.

use std::fmt;

use crate::disk::Disk;

/// Made by chance when a shard's folder is begun, and kept in its log and in its folded state. Copies have that of the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunId(pub u128);

impl RunId {
    /// One that nothing else has.
    pub fn new(disk: &dyn Disk) -> RunId {
        RunId(u128::from(disk.unguessable()) << 64 | u128::from(disk.unguessable()))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
