//! The log and the state folded from it: append, sync, fold, recover.
//!
//! Owns the order of records and what "durable" means. [`Log`] is the promise; [`SegmentedLog`] keeps it on disk and
//! [`VolatileLog`] keeps nothing. [`state`] holds what the log need not keep any more; a [`ShardStore`] is the two together,
//! and a [`Layout`] says which shards a data directory has. A [`DurableMap`] is a small store beside them, without a log.
//! Records, keys and values are opaque bytes: this crate never learns what a topic or a session is.
//!
//! All that touches a device goes through [`disk`], so that [`fault`] can play one that tears, fills up and fails.

pub mod backup;
pub mod disk;
mod durable_map;
pub mod fault;
pub mod inspect;
mod layout;
mod log;
mod relocation;
mod run;
pub mod segmented;
mod shard_store;
mod space;
pub mod state;
mod volatile;

pub use durable_map::{DurableMap, MapChanges};
pub use layout::{Found, LAYOUT_FILE, Layout, LayoutError, shard_folder};
pub use log::{Log, LogError, Position};
pub use relocation::plan_relocation;
pub use run::RunId;
pub use segmented::{
    Durability, LogOptions, LogReader, LogStats, ReadAhead, ReadError, Record, RecoverError, Repair, SegmentStats,
    SegmentedLog, StoredRecord,
};
pub use shard_store::{BodyReader, LOG_FOLDER, OpenError, ShardOptions, ShardStore};
pub use space::free_bytes;
pub use state::{Fold, FoldMark, RedbState, StateError, StateOptions, StateStore};
pub use volatile::VolatileLog;
