//! Commands: one request to a vehicle, and exactly one outcome.
//!
//! Owns the names of commands, what an outcome is and how it is written, and how a reply says which request it answers. It never knows which
//! commands are pending: that table is the vehicle's home shard's.

mod id;
mod outcome;
mod reply;
mod request;

pub use id::{CommandId, CommandIds};
pub use outcome::{Outcome, TOO_LARGE, document, too_large_document};
pub use reply::{named_id, request_id};
pub use request::{KEY_BYTES_MAX, Wishes, fingerprint};

use crate::Vin;

/// User property of a request: retries with the same value are one command.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// User property of a request: `0` where it is not to wait for a vehicle that is away.
pub const WAIT: &str = "wait";
/// User property of a request to a group: vehicles that are asked in a second, at most.
pub const RATE: &str = "rate";
/// User property of an outcome: the vehicle.
pub const VEHICLE: &str = "cw-vehicle";
/// User property of the last message about a request to a group: the job that it was.
pub const JOB: &str = "cw-job";
/// User property of an outcome: which it is.
pub const OUTCOME: &str = "cw-outcome";
/// User property of an outcome: whose it is.
pub const COMMAND: &str = "cw-command";

/// The topic by which a vehicle gets a command.
pub fn topic(vin: &Vin, name: &str) -> String {
    ["vehicles/", vin.as_str(), "/cmd/", name].concat()
}

/// Likewise, with the command's number: for connections without properties.
pub fn topic_with_id(topic: &str, id: CommandId) -> String {
    [topic, "/", id.text().as_str()].concat()
}

/// Where a vehicle that has no other wish answers.
pub fn reply_topic(vin: &Vin, name: &str) -> String {
    ["vehicles/", vin.as_str(), "/status/", name].concat()
}

/// The vehicle and the name, of a topic that [`topic`] made.
pub fn of_topic(topic: &str) -> Option<(Vin, &str)> {
    let (vin, said) = topic.strip_prefix("vehicles/")?.split_once('/')?;
    Some((vin.parse().ok()?, said.strip_prefix("cmd/")?))
}

/// Whether a message with these user properties is an outcome, or says that it is.
pub fn is_outcome<'a>(mut properties: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
    properties.any(|(name, _)| name == OUTCOME)
}

/// Whether outcomes may go to a topic at all. Nobody is to have the broker speak where only it, or the vehicle, does.
pub fn takes_outcomes(response_topic: &str) -> bool {
    if response_topic.is_empty() || response_topic.starts_with('$') {
        return false;
    }
    let of_some = ["vehicles/", "groups/"].iter().find_map(|mount| response_topic.strip_prefix(mount)?.split_once('/'));
    let behind_mount = of_some.map(|(_, said)| said).or_else(|| response_topic.strip_prefix("fleet/"));
    let first = behind_mount.map(|said| said.split('/').next().unwrap_or_default());
    !matches!(first, Some("shadow" | "cmd" | "status")) && !first.is_some_and(|first| first.starts_with('$'))
}

/// Whether vehicles are subscribed to such topics: who may only subscribe there may not have outcomes sent there.
pub fn is_heard_by_vehicles(response_topic: &str) -> bool {
    ["vehicles/", "groups/", "fleet/"].iter().any(|mount| response_topic.starts_with(mount))
        || response_topic == "fleet"
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";

    #[test]
    fn topics_follow_from_vehicle_and_name() {
        let vin: Vin = VIN.parse().unwrap();
        let full = topic(&vin, "get_location");
        assert_eq!(full, format!("vehicles/{VIN}/cmd/get_location"));
        assert_eq!(of_topic(&full), Some((vin, "get_location")));
        assert_eq!(reply_topic(&vin, "get_location"), format!("vehicles/{VIN}/status/get_location"));
        let id = CommandId::new(1).unwrap();
        assert_eq!(topic_with_id(&full, id), format!("{full}/c000000000001"));
        assert_eq!(of_topic("vehicles/x/cmd/y"), None);
    }

    #[test]
    fn nobody_has_the_broker_speak_for_others() {
        let forbidden = ["", "$SYS/x", "$aws/things/x", "$share/a/b"].map(str::to_owned);
        let of_vehicle = ["cmd/x", "status/x", "shadow/update", "shadow", "$x"];
        let of_vehicle = of_vehicle.iter().map(|said| format!("vehicles/{VIN}/{said}"));
        let of_many = ["groups/eu/cmd/x", "groups/eu/status", "groups/eu/$x", "fleet/cmd/x", "fleet/shadow/delta"];
        for topic in forbidden.into_iter().chain(of_vehicle).chain(of_many.map(str::to_owned)) {
            assert!(!takes_outcomes(&topic), "{topic}");
        }
        for (topic, heard) in [
            ("backend/answers", false),
            ("vehicles", false),
            (&format!("vehicles/{VIN}/answers/hmi"), true),
            ("fleet/OTA_Update", true),
            ("fleet", true),
            ("groups/eu/x", true),
            ("fleets/x", false),
        ] {
            assert!(takes_outcomes(topic), "{topic}");
            assert_eq!(is_heard_by_vehicles(topic), heard, "{topic}");
        }
    }
}
