//! The log: append, sync, recover.
//!
//! Owns the order of records and what "durable" means; [`Log`] is the promise and [`VolatileLog`] the one that keeps
//! nothing. Records are opaque bytes: this crate never learns what a topic or a session is.

mod log;
mod volatile;

pub use log::{Log, LogError};
pub use volatile::VolatileLog;
