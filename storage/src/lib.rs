//! The log: append, sync, recover.
//!
//! Owns the order of records and what "durable" means. [`Log`] is the promise; [`SegmentedLog`] keeps it on disk and
//! [`VolatileLog`] keeps nothing. Records are opaque bytes: this crate never learns what a topic or a session is.
//!
//! All that touches a device goes through [`disk`], so that [`fault`] can play one that tears, fills up and fails.

pub mod disk;
pub mod fault;
mod log;
pub mod segmented;
mod volatile;

pub use log::{Log, LogError, Position};
pub use segmented::{
    Durability, LogOptions, LogReader, LogStats, ReadError, Record, RecoverError, Repair, SegmentStats, SegmentedLog,
    StoredRecord,
};
pub use volatile::VolatileLog;
