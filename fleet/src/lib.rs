//! The vehicle domain: who somebody is, how they prove it, what they may do, and what a vehicle is called.
//!
//! Everything here is a pure decision over values. It never waits, and knows no sockets, disks, clocks or ambient
//! randomness: the caller brings nonces, salts and the time.

pub mod calls;
pub mod command;
mod home;
mod identity;
pub mod mount;
pub mod policy;
mod principal;
pub mod query;
pub mod scram;
pub mod shadow;
pub mod things;
mod vin;

pub use home::home_shard;
pub use identity::{GroupNameError, Groups, Identity};
pub use mount::{Mount, MountError};
pub use principal::Principal;
pub use vin::{Vin, VinError};
