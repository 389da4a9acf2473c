//! The sections about vehicles: what programs of the backend are told of them, and of their messages.
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

/// Where messages come from, told to services and operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// Whether each message to a service or an operator that speaks MQTT 5 carries the user properties cw-origin, cw-received-at and, of
    /// vehicles, cw-seq. What clients say under such names is taken out of their messages in any case.
    pub stamp: bool,
}

impl Default for Origin {
    fn default() -> Self {
        Origin { stamp: true }
    }
}
