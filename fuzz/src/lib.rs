//! What is fuzzed, as plain functions: a fuzzer and the replay of its corpus call the same.
//!
//! Owns the properties that have to hold for any bytes; a broken one panics. Each target is a function here, a file in
//! `targets/` that hands it to libFuzzer, a folder in `corpus/`, and a line in `TARGETS`. It never knows how bytes are
//! found.

mod decoder;
mod session;

pub use decoder::{decoder, decoder_input};
pub use session::{SessionStep, session, session_step};

/// A fuzz target: what panics if a property does not hold.
pub type Target = fn(&[u8]);

/// Every target by name, which is also the name of its binary and of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[("decoder", decoder), ("session", session)];
