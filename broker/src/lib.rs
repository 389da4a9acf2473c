//! The broker's edges: listeners, connection drivers, shard threads, configuration, authentication, the administration
//! listener, the fleet's authority and enrolment, and the command line of `causewayd`.
//!
//! It shovels bytes and waits. What a packet means is decided in `causeway-protocol` and `causeway-core`; who may do what,
//! in `causeway-fleet`.

pub mod admin;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod config;
pub mod est;
pub mod identity;
pub mod jobs;
pub mod pki;
pub mod registry;
pub mod telemetry;

mod data_directory;
mod frontdoor;
mod home_shard;
mod https;
mod listener;
mod log_gate;
mod patience;
mod proxy;
pub mod server;
mod shard_loop;
mod shown;
mod tls;
mod transport;
mod turnstile;
mod watched;
