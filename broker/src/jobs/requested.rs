//! A job that a client requested with a message: a command to each vehicle of a group.
//!
//! Owns what is kept of the message: where outcomes go, and by what it is known if it comes again. What each vehicle is told is its home's
//! business.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use causeway_core::{GroupRequest, Principal, PublishAsk, ReturnAddress};
use causeway_fleet::command::{JOB, KEY_BYTES_MAX, OUTCOME, fingerprint};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::record::{CommandSpec, JobSpec, RATE_DEFAULT, Record, Target};

/// See the module. Bytes are in Base64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requested {
    /// Who, as [`Principal::of_user`] understands it; nothing where it is nobody in particular.
    by: Option<String>,
    /// Whose message it was, and which.
    client_id: String,
    packet_id: u16,
    /// Of all that the message says.
    message: u64,
    /// Requests of somebody to the same group with the same one are one.
    key: Option<String>,
    /// Of what vehicles are asked.
    asked: u64,
    /// How many vehicles were in the group when it came.
    pub(super) members: u32,
    response_topic: String,
    correlation_data: Option<String>,
    payload: String,
    content_type: Option<String>,
    /// When it is over for all vehicles, in milliseconds since 1970.
    pub(super) until_ms: Option<u64>,
    /// Whether the last message about it was published.
    pub(super) is_told: bool,
}

/// What a request asks for. How many vehicles are in the group is found later.
///
/// # Errors
/// What of it makes no sense.
pub(super) fn of(request: &GroupRequest) -> Result<(JobSpec, Requested), String> {
    if request.key.as_ref().is_some_and(|key| !(1..=KEY_BYTES_MAX).contains(&key.len())) {
        return Err(format!("an idempotency key has 1 to {KEY_BYTES_MAX} bytes"));
    }
    let rate = request.rate.as_ref().map_or(Ok(RATE_DEFAULT), |rate| rate.parse());
    let spec = JobSpec {
        target: Target::Group(request.group.to_string()),
        desired: None,
        ttl: None,
        shadow: None,
        command: Some(CommandSpec {
            name: request.name.to_string(),
            payload: None,
            deadline: None,
            now_or_never: request.is_now_or_never,
        }),
        rate_per_second: rate.map_err(|_| "the user property rate has to be a number".to_owned())?,
        note: "requested over MQTT".to_owned(),
    };
    spec.check()?;
    let by = match &request.by {
        Principal::Anonymous | Principal::Shard(_) => None,
        Principal::Vehicle(vin) => Some(format!("vehicle:{vin}")),
        Principal::Service(name) => Some(format!("service:{name}")),
        Principal::Operator(name) => Some(format!("operator:{name}")),
    };
    let correlation_data = request.correlation_data.as_deref().unwrap_or_default();
    let head = format!("{}\n{}\n{}", request.group, request.name, request.response_topic);
    let requested = Requested {
        by,
        client_id: request.client_id.to_string(),
        packet_id: request.packet_id.get(),
        message: fingerprint(&head, &[correlation_data, &[0], &request.payload[..]].concat()),
        key: request.key.as_deref().map(str::to_owned),
        asked: fingerprint(&request.name, &request.payload),
        members: 0,
        response_topic: request.response_topic.to_string(),
        correlation_data: request.correlation_data.as_ref().map(|data| STANDARD.encode(data)),
        payload: STANDARD.encode(&request.payload),
        content_type: request.content_type.as_deref().map(str::to_owned),
        until_ms: request.deadline.map(|deadline| deadline.0),
        is_told: false,
    };
    Ok((spec, requested))
}

impl Requested {
    /// The last message about it was published. From now on it is only to be known again: what it said is not kept as long as the job is.
    pub(super) fn told(&mut self) {
        self.is_told = true;
        (self.correlation_data, self.content_type) = (None, None);
        (self.response_topic, self.payload) = (String::new(), String::new());
    }

    /// Who requested it.
    pub(super) fn principal(&self) -> Principal {
        self.by.as_deref().map_or(Principal::Anonymous, Principal::of_user)
    }

    /// Whether another request is by the same one.
    pub(super) fn is_by_same(&self, other: &Requested) -> bool {
        self.by == other.by
    }

    /// Whether another message is this one, sent again.
    pub(super) fn is_same_message(&self, other: &Requested) -> bool {
        let origin = |it: &Requested| (it.packet_id, it.message);
        self.is_by_same(other) && self.client_id == other.client_id && origin(self) == origin(other)
    }

    /// Whether another request to the same group has the same idempotency key; and then whether it asks for the same.
    pub(super) fn has_key_of(&self, other: &Requested) -> Option<bool> {
        let has = self.key.is_some() && self.key == other.key && self.is_by_same(other);
        has.then_some(self.asked == other.asked)
    }

    /// What each vehicle is sent.
    pub(super) fn payload(&self) -> (Bytes, Option<Box<str>>) {
        let payload = STANDARD.decode(&self.payload).unwrap_or_default();
        (payload.into(), self.content_type.as_deref().map(Into::into))
    }

    /// Where outcomes go, and with which Correlation Data.
    pub(super) fn address(&self) -> ReturnAddress {
        let data = self.correlation_data.as_ref().map(|data| STANDARD.decode(data).unwrap_or_default().into());
        ReturnAddress { response_topic: self.response_topic.as_str().into(), correlation_data: data }
    }

    /// The last message about it: how many vehicles had which outcome.
    pub(super) fn last_message(&self, record: &Record, state: &str) -> PublishAsk {
        let id = record.id.to_string();
        let mut counts = json!({ "job": id, "state": state });
        // It is over with this message.
        let shown = record.shown(None);
        for name in ["total", "done", "succeeded", "failed"] {
            counts[name] = shown.get(name).cloned().unwrap_or(Value::Null);
        }
        PublishAsk {
            meant_for: self.principal(),
            to: self.address(),
            payload: counts.to_string().into(),
            content_type: "application/json",
            user_properties: vec![(OUTCOME, state.into()), (JOB, id.into())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_known_again_by_little() {
        let large = "A".repeat(80_000);
        let kept = json!({
            "by": "service:backend", "client_id": "backend-1", "packet_id": 7, "message": 1, "key": "k", "asked": 2,
            "members": 3, "response_topic": large, "correlation_data": large, "payload": large, "content_type": large,
            "until_ms": 4, "is_told": false,
        });
        let before: Requested = serde_json::from_value(kept).unwrap();
        let mut told = before.clone();
        told.told();
        assert!(told.is_told && json!(told).to_string().len() < 1000);
        assert!(told.is_same_message(&before) && told.has_key_of(&before) == Some(true));
    }
}
