//! A black-box judge of MQTT brokers: it speaks raw bytes to any broker at a host and port, and says which normative
//! statements of MQTT 5.0 and 3.1.1 it saw broken.
//!
//! It depends on no other crate of this workspace and shares no code with a broker, so that both cannot be wrong in the
//! same way.

pub mod audit;
pub mod broker;
pub mod cli;
pub mod client;
pub mod context;
pub mod known;
pub mod registry;
pub mod report;
pub mod restart;
pub mod runner;
pub mod scram;
pub mod statements;
pub mod tests;
pub mod transport;
pub mod wire;
