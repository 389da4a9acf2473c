//! How large and deep a shadow may be.
//!
//! Owns measuring, and the answer to a request against a shadow as it is. It never changes one.

use serde_json::{Map, Value};

use super::change::{Kind, Patch, Update};
use super::{Rejection, Request, Shadow};

/// The bounds of one shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShadowLimits {
    /// Of `desired` and `reported` together, as JSON without spaces and without metadata.
    pub state_bytes_max: usize,
    /// Levels of objects and arrays in a section: `{"desired":{"a":{"b":1}}}` has two.
    pub depth_max: usize,
    /// Leaves of both sections together, with each element of an array for one: documents have a timestamp for each, of which the state is no
    /// measure.
    pub leaves_max: usize,
}

impl Default for ShadowLimits {
    fn default() -> ShadowLimits {
        ShadowLimits { state_bytes_max: 8192, depth_max: 8, leaves_max: 1024 }
    }
}

impl ShadowLimits {
    /// Whether a request of so many bytes is worth reading: one that deletes all there may be, and sets all there may be.
    pub fn check_payload(&self, payload_bytes: usize) -> Result<(), Rejection> {
        let payload_bytes_max = self.state_bytes_max.saturating_mul(2).saturating_add(1024);
        if payload_bytes > payload_bytes_max { Err(Rejection::too_large()) } else { Ok(()) }
    }
}

impl Shadow {
    /// Whether a request can be granted: it means this version, there is a shadow if one is to be deleted, and the state that it makes is
    /// within the limits.
    pub fn check(&self, request: &Request, now_ms: u64, limits: &ShadowLimits) -> Result<(), Rejection> {
        if request.change.is_delete() && !self.exists {
            return Err(Rejection::not_found(""));
        }
        let version = if self.exists { self.version } else { 0 };
        if request.expected_version.is_some_and(|expected| expected != version) {
            return Err(Rejection::conflict());
        }
        match &request.change.0 {
            Kind::Update(update) => self.check_state(request, update, now_ms, limits),
            Kind::Delete | Kind::Expire => Ok(()),
        }
    }

    fn check_state(
        &self,
        request: &Request,
        update: &Update,
        now_ms: u64,
        limits: &ShadowLimits,
    ) -> Result<(), Rejection> {
        let (mut bytes_max, mut leaves_max) = (self.state_bytes(), self.leaves());
        for patch in [&update.desired, &update.reported] {
            let Patch::Merge(map) = patch else { continue };
            if depth(map.values()) > limits.depth_max {
                let message = format!("JSON contains too many levels of nesting; maximum is {}", limits.depth_max);
                return Err(Rejection::bad(message));
            }
            bytes_max += object_bytes(map);
            leaves_max += map.values().map(leaves).sum::<usize>();
        }
        // Only who comes near a bound pays for exactness.
        if bytes_max <= limits.state_bytes_max && leaves_max <= limits.leaves_max {
            return Ok(());
        }
        let mut after = self.clone();
        after.apply(now_ms, &request.change);
        if after.state_bytes() > limits.state_bytes_max {
            return Err(Rejection::too_large());
        }
        if after.leaves() > limits.leaves_max { Err(Rejection::too_many_leaves(limits.leaves_max)) } else { Ok(()) }
    }

    /// How many leaves there are, with each element of an array for one.
    fn leaves(&self) -> usize {
        let mut count = 0;
        for tree in [&self.desired, &self.reported] {
            tree.each(&mut |leaf| count += leaves(&leaf.value));
        }
        count
    }

    /// The size of the state as JSON without spaces, in bytes.
    pub fn state_bytes(&self) -> usize {
        // Braces and commas, and of each section its name, quotes and a colon.
        let sections = [("desired", &self.desired), ("reported", &self.reported)];
        let there = sections.iter().filter(|(_, tree)| !tree.is_empty());
        1 + there.map(|(name, tree)| name.len() + 4 + tree.bytes()).sum::<usize>().max(1)
    }
}

/// Levels of nesting of an object or array with these in it.
fn depth<'a>(values: impl Iterator<Item = &'a Value>) -> usize {
    let below = values.map(|value| match value {
        Value::Array(elements) => depth(elements.iter()),
        Value::Object(map) => depth(map.values()),
        _ => 0,
    });
    1 + below.max().unwrap_or(0)
}

/// How many timestamps the metadata of a value has, or places for one.
fn leaves(value: &Value) -> usize {
    match value {
        Value::Array(elements) => elements.iter().map(leaves).sum::<usize>().max(1),
        Value::Object(map) => map.values().map(leaves).sum::<usize>().max(1),
        _ => 1,
    }
}

/// The size of a value as JSON, in bytes.
pub(super) fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null => 4,
        Value::Bool(bool) => 5 - usize::from(*bool),
        Value::Number(number) => number_bytes(number),
        Value::String(text) => text_bytes(text),
        // Brackets, and one comma less than there are elements.
        Value::Array(elements) => {
            let elements = elements.iter().map(|element| value_bytes(element) + 1).sum::<usize>();
            1 + elements.max(1)
        }
        Value::Object(map) => object_bytes(map),
    }
}

fn object_bytes(map: &Map<String, Value>) -> usize {
    1 + map.iter().map(|(key, value)| text_bytes(key) + value_bytes(value) + 2).sum::<usize>().max(1)
}

fn number_bytes(number: &serde_json::Number) -> usize {
    match (number.as_u64(), number.as_i64()) {
        (Some(number), _) => number.checked_ilog10().unwrap_or(0) as usize + 1,
        (None, Some(number)) => number.unsigned_abs().ilog10() as usize + 2,
        (None, None) => number.to_string().len(),
    }
}

/// With quotes and what must be escaped.
pub(super) fn text_bytes(text: &str) -> usize {
    let escapes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 1,
        0x00..=0x1f => 5,
        _ => 0,
    });
    2 + text.len() + escapes.sum::<usize>()
}
