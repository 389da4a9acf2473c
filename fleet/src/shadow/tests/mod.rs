//! Tests of shadows: documented examples, and properties against a model that knows nothing of trees.

mod formats;
mod model;
mod properties;
mod requests;
mod rules;

use serde_json::{Value, json};

use super::*;

/// A time, in milliseconds, and the same in seconds as documents say it.
pub(super) const NOW_MS: u64 = 1_700_000_000_123;
pub(super) const NOW: u64 = NOW_MS / 1000;

/// A request that must be readable.
pub(super) fn request(document: Value) -> Request {
    Request::parse(document.to_string().as_bytes(), Format::Json, Section::Whole).unwrap()
}

/// A shadow under test, and the time.
#[derive(Default)]
pub(super) struct Play {
    pub(super) shadow: Shadow,
    pub(super) later_ms: u64,
}

impl Play {
    pub(super) fn now_ms(&self) -> u64 {
        NOW_MS + self.later_ms
    }

    /// Checks and applies, through bytes.
    pub(super) fn send(&mut self, document: Value) -> Result<Transition, Rejection> {
        let request = request(document);
        self.shadow.check(&request, self.now_ms(), &ShadowLimits::default())?;
        Ok(self.apply(&request.change))
    }

    pub(super) fn apply(&mut self, change: &Change) -> Transition {
        let change = Change::decode(&change.encode()).unwrap();
        let transition = self.shadow.apply(self.now_ms(), &change);
        let decoded = Shadow::decode(&self.shadow.encode()).unwrap();
        assert_eq!(decoded, self.shadow);
        self.shadow = decoded;
        transition
    }

    pub(super) fn update(&mut self, state: Value) -> Transition {
        self.send(json!({ "state": state })).unwrap()
    }

    pub(super) fn state(&self) -> Value {
        self.shadow.document(self.now_ms())["state"].clone()
    }

    /// The sequence and the state of the delta.
    pub(super) fn delta(&self) -> Option<(u64, Value)> {
        self.shadow.delta(self.now_ms()).map(|(sequence, message)| (sequence, message["state"].clone()))
    }
}
