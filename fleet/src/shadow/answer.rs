//! The documents that answer a request, and tell of a change.
//!
//! Owns their fields. It never decides who gets them.

use serde_json::{Map, Value};

use super::change::{Kind, Patch};
use super::tree::metadata_of;
use super::{Change, Rejection, Shadow, Transition};

/// `get/accepted`: the document.
pub fn accepted_get(shadow: &Shadow, now_ms: u64, client_token: Option<&str>) -> Value {
    let mut answer = shadow.document(now_ms);
    if let (Value::Object(fields), Some(token)) = (&mut answer, client_token) {
        fields.insert("clientToken".into(), token.into());
    }
    answer
}

/// `update/accepted`: what was sent, with its metadata.
pub fn accepted_update(change: &Change, transition: &Transition, now_ms: u64, client_token: Option<&str>) -> Value {
    let (mut state, mut metadata) = (Map::new(), Map::new());
    if let Kind::Update(update) = &change.0 {
        for (name, patch) in [("desired", &update.desired), ("reported", &update.reported)] {
            let (value, about) = match patch {
                Patch::None => continue,
                Patch::Clear => (Value::Null, Value::Null),
                Patch::Merge(map) => {
                    let value = Value::Object(map.clone());
                    let about = metadata_of(&value, now_ms, None);
                    (value, about)
                }
            };
            state.insert(name.into(), value);
            metadata.insert(name.into(), about);
        }
    }
    let mut answer = Map::new();
    answer.insert("state".into(), state.into());
    answer.insert("metadata".into(), metadata.into());
    answer.insert("version".into(), transition.version.into());
    finish(answer, now_ms, client_token)
}

/// `delete/accepted`: the version that the deletion made.
pub fn accepted_delete(version: u64, now_ms: u64, client_token: Option<&str>) -> Value {
    let mut answer = Map::new();
    answer.insert("version".into(), version.into());
    finish(answer, now_ms, client_token)
}

/// `rejected`, of any request.
pub fn rejected(rejection: &Rejection, now_ms: u64, client_token: Option<&str>) -> Value {
    let mut answer = Map::new();
    answer.insert("code".into(), rejection.code.into());
    answer.insert("message".into(), rejection.message.as_str().into());
    finish(answer, now_ms, client_token)
}

/// `documents`: the shadow before and after a change, and what was released or expired with it.
pub fn documents(
    before: &Shadow,
    after: &Shadow,
    transition: &Transition,
    now_ms: u64,
    client_token: Option<&str>,
) -> Value {
    let side = |shadow: &Shadow| {
        let mut side = shadow.content();
        side.insert("version".into(), shadow.version.into());
        Value::Object(side)
    };
    let mut event = Map::new();
    event.insert("previous".into(), side(before));
    event.insert("current".into(), side(after));
    for (name, dropped) in [("released", &transition.released), ("expired", &transition.expired)] {
        if let Some(dropped) = dropped {
            event.insert(name.into(), dropped.clone());
        }
    }
    finish(event, now_ms, client_token)
}

/// `expired`: the desired leaves that were dropped because their time was up. None if there were none.
pub fn expired(transition: &Transition, now_ms: u64) -> Option<Value> {
    let mut event = Map::new();
    event.insert("state".into(), transition.expired.clone()?);
    event.insert("version".into(), transition.version.into());
    Some(finish(event, now_ms, None))
}

fn finish(mut answer: Map<String, Value>, now_ms: u64, client_token: Option<&str>) -> Value {
    answer.insert("timestamp".into(), (now_ms / 1000).into());
    if let Some(token) = client_token {
        answer.insert("clientToken".into(), token.into());
    }
    Value::Object(answer)
}
