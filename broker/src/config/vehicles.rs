//! The sections about vehicles: what consumers are told of them.
//!
//! Owns the keys and their defaults. It never reads a file, and nothing here decides about a message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which vehicles are connected, told on $presence/{vin}.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Presence {
    /// Whether it is told. Each vehicle that comes or goes is one small retained message in the log. Switched off, what was told before is
    /// removed at the next start.
    pub enabled: bool,
}

impl Default for Presence {
    fn default() -> Self {
        Presence { enabled: true }
    }
}
