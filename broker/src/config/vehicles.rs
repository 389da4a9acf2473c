//! The sections about vehicles: what programs of the backend are told of them, and of their messages.
//!
//! Owns the keys and their defaults. It never reads a file, and nothing here decides about a message.

use causeway_fleet::query::{FieldError, Fields};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;

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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// Whether each message to a service or an operator that speaks MQTT 5 carries the user properties cw-origin, cw-received-at and, of
    /// vehicles, cw-seq. Unless it is said here, they do where there is a policy: where nobody is restricted, MQTT is plain. What clients
    /// say under such names is taken out of their messages in any case.
    #[schemars(example = true)]
    pub stamp: Option<bool>,
}

/// The shadows of vehicles: what is wanted of each, and what it last said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShadowSettings {
    /// Bytes of one shadow's desired and reported state together, as JSON without white space. More: rejected with code 413.
    #[schemars(range(min = 256, max = 131_072))]
    pub state_bytes_max: usize,
    /// Levels of objects and lists in a shadow's desired or reported state. More: rejected with code 400.
    #[schemars(range(min = 1, max = 64))]
    pub depth_max: usize,
    /// Vehicles of each shard that may have shadows. What makes a shadow for one more is rejected with code 413. A vehicle's shadows take some
    /// 800 bytes of memory and twice what they say.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub vehicles_max: usize,
    /// Leaves of one shadow's desired and reported state together, with each element of a list for one: documents have a timestamp for
    /// each, so that a list of small numbers takes some fifteen times its own size. More: rejected with code 413.
    #[schemars(range(min = 1, max = 65_536))]
    pub leaves_max: usize,
    /// Named shadows of one vehicle, beside its classic one. More: rejected with code 413.
    #[schemars(range(max = 1_000))]
    pub named_max: usize,
    /// Days for which it is kept what became of each shadow. 0 keeps none of it: changes are told to whoever follows them, and to nobody who
    /// asks later. What was kept until then goes with its day.
    #[schemars(range(max = 3650))]
    pub history_days: u32,
    /// Fields of vehicles' classic shadows by which vehicles are found (`where`): paths that begin with reported. or with desired.
    /// Truths, numbers and texts of up to 128 bytes are found. Each field takes some 80 bytes of memory for a vehicle that has it.
    #[schemars(length(max = 16), example = &["reported.battery.soc"])]
    pub index: Vec<String>,
}

impl Default for ShadowSettings {
    fn default() -> Self {
        let limits = causeway_core::Limits::default();
        ShadowSettings {
            state_bytes_max: limits.shadow_state_bytes_max,
            depth_max: limits.shadow_depth_max,
            vehicles_max: limits.shadow_vehicles_max,
            leaves_max: limits.shadow_leaves_max,
            named_max: limits.shadows_named_max,
            history_days: limits.shadow_history_days,
            index: Vec::new(),
        }
    }
}

impl ShadowSettings {
    /// The indexed fields.
    ///
    /// # Errors
    /// Which of them cannot be indexed.
    pub fn fields(&self) -> Result<Fields, FieldError> {
        Fields::new(self.index.iter().map(String::as_str))
    }
}

/// Commands to vehicles: how many may be pending, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CommandSettings {
    /// Seconds until a command whose request has no Message Expiry Interval is over.
    #[schemars(range(min = 1, max = 604_800))]
    pub deadline_seconds: u32,
    /// Seconds until a command is over, whatever its request says.
    #[schemars(range(min = 1, max = 31_536_000))]
    pub deadline_seconds_max: u32,
    /// Bytes of a command's payload. More: refused.
    #[schemars(range(min = 256, max = 1_048_576))]
    pub payload_bytes_max: usize,
    /// Commands that are pending of one vehicle. More: the outcome is queue-full.
    #[schemars(range(min = 1, max = 10_000))]
    pub pending_per_vehicle_max: usize,
    /// Commands that are pending for one requester, in each shard. More: the outcome is queue-full.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub pending_per_requester_max: usize,
    /// Commands that are pending in each shard. More: the outcome is queue-full.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub pending_max: usize,
    /// Bytes of the commands that are pending in each shard: where they go and by what they are known, some 300 bytes, and the messages of those that
    /// wait for their vehicles. More: the outcome is queue-full.
    #[schemars(range(min = 4_194_304, max = 1_099_511_627_776u64))]
    pub pending_bytes_max: usize,
    /// Seconds for which it is known what became of a command: for retries with its idempotency key, and for who asks for it by its number.
    #[schemars(range(min = 1, max = 604_800))]
    pub outcomes_kept_seconds: u32,
    /// Bytes of the commands that are over and known in each shard, with what their requesters were told. Of more, the oldest without an idempotency key
    /// are forgotten earlier; if those with one take all of it, the outcome of a request with another one is queue-full.
    #[schemars(range(min = 4_194_304, max = 1_099_511_627_776u64))]
    pub outcomes_bytes_max: usize,
}

impl Default for CommandSettings {
    fn default() -> Self {
        let limits = causeway_core::Limits::default();
        CommandSettings {
            deadline_seconds: limits.command_deadline_seconds,
            deadline_seconds_max: limits.command_deadline_seconds_max,
            payload_bytes_max: limits.command_payload_bytes_max,
            pending_per_vehicle_max: limits.commands_per_vehicle_max,
            pending_per_requester_max: limits.commands_per_requester_max,
            pending_max: limits.commands_max,
            pending_bytes_max: limits.commands_bytes_max,
            outcomes_kept_seconds: limits.command_outcomes_kept_seconds,
            outcomes_bytes_max: limits.command_outcomes_bytes_max,
        }
    }
}

impl Config {
    /// Whether services and operators are told where messages come from.
    pub fn stamps_origin(&self) -> bool {
        self.origin.stamp.unwrap_or(self.policy.file.is_some())
    }
}
