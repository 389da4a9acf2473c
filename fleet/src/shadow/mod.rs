//! Shadows: what is wanted of a vehicle, what it reports, and the difference.
//!
//! Owns the documents of one shadow and every rule about them: merging, versions, deltas and their sequence, what settles and releases a
//! desired leaf, times to live, and the answers. The semantics are those of the AWS IoT Device Shadow service, with additions that
//! `docs/shadows.md` names. It never knows a topic, a client or another shadow.

pub mod answer;
mod apply;
mod cbor;
mod change;
mod format;
mod limits;
mod merge;
mod record;
mod rejection;
mod request;
#[cfg(test)]
mod tests;
mod tree;

use serde_json::Map;
pub use serde_json::Value;

pub use apply::Transition;
pub use change::Change;
pub use format::{Format, read, write};
pub use limits::ShadowLimits;
pub use rejection::Rejection;
pub use request::{Request, Section};
pub use tree::same;
use tree::{Leaf, Node, Picked, Tree};

/// How long the version of a deleted shadow is remembered, milliseconds: 48 hours.
pub const VERSION_KEPT_MS: u64 = 48 * 3600 * 1000;

/// One shadow: of a vehicle as a whole, or a named one. The default is one that never existed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shadow {
    version: u64,
    /// Of the newest delta.
    sequence: u64,
    /// When the newest version was made, Unix milliseconds.
    at_ms: u64,
    /// Whether the newest version is there, and not a deletion.
    exists: bool,
    desired: Tree,
    reported: Tree,
}

impl Shadow {
    /// Whether there is one: it was made, and not deleted since.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// The version: one more with every change, deletions included. 0 for one that never existed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The sequence of the newest delta; 0 if there never was one.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When the newest version was made, Unix milliseconds.
    pub fn changed_at(&self) -> u64 {
        self.at_ms
    }

    /// When it was deleted, Unix milliseconds. What is left of it then are its version, which is forgotten after [`VERSION_KEPT_MS`], and the
    /// sequence of its deltas, which goes on for as long as somebody keeps the bytes.
    pub fn deleted_at(&self) -> Option<u64> {
        (!self.exists && self.version > 0).then_some(self.at_ms)
    }

    /// When the next desired leaf is to be dropped ([`Change::expire`]), Unix milliseconds.
    pub fn next_expiry(&self) -> Option<u64> {
        let mut next: Option<u64> = None;
        self.desired.each(&mut |leaf| next = next.into_iter().chain(leaf.expires_ms).min());
        next
    }

    /// Whether anything is wanted of the vehicle.
    pub fn is_pending(&self) -> bool {
        let mut any = false;
        self.desired.each(&mut |leaf| any |= leaf.pending.is_some());
        any
    }

    /// The document: `{"state": {"desired", "reported", "delta"}, "metadata": {"desired", "reported"}, "version", "timestamp"}`. What is empty
    /// is left out of `state` and `metadata`.
    pub fn document(&self, now_ms: u64) -> Value {
        let mut document = self.content();
        if let (Some(delta), Some(Value::Object(state))) = (self.pending(now_ms), document.get_mut("state")) {
            state.insert("delta".into(), delta.state.into());
        }
        document.insert("version".into(), self.version.into());
        document.insert("timestamp".into(), (now_ms / 1000).into());
        Value::Object(document)
    }

    /// `state` and `metadata` of both sections.
    fn content(&self) -> Map<String, Value> {
        let (mut state, mut metadata) = (Map::new(), Map::new());
        for (name, tree) in [("desired", &self.desired), ("reported", &self.reported)] {
            if !tree.is_empty() {
                state.insert(name.into(), tree.state());
                metadata.insert(name.into(), tree.metadata());
            }
        }
        let mut content = Map::new();
        content.insert("state".into(), state.into());
        content.insert("metadata".into(), metadata.into());
        content
    }

    /// What is wanted of the vehicle: the sequence, and the message `{"state", "metadata", "version", "timestamp", "sequence"}`. None where
    /// nothing is pending, or only what is to be dropped by now.
    pub fn delta(&self, now_ms: u64) -> Option<(u64, Value)> {
        let delta = self.pending(now_ms)?;
        let mut message = Map::new();
        message.insert("state".into(), delta.state.into());
        message.insert("metadata".into(), delta.metadata.into());
        message.insert("version".into(), self.version.into());
        message.insert("timestamp".into(), (now_ms / 1000).into());
        message.insert("sequence".into(), self.sequence.into());
        Some((self.sequence, Value::Object(message)))
    }

    /// The pending leaves, if there are any.
    fn pending(&self, now_ms: u64) -> Option<Picked> {
        let due = |leaf: &Leaf| leaf.expires_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let delta = self.desired.only(&|leaf| leaf.pending.is_some() && !due(leaf));
        (!delta.state.is_empty()).then_some(delta)
    }

    /// What a path leads to: `version`, `desired`, `reported.battery.soc`.
    pub fn value_at(&self, path: &str) -> Option<Value> {
        let (section, rest) = path.split_once('.').map_or((path, None), |(section, rest)| (section, Some(rest)));
        let tree = match section {
            "desired" => &self.desired,
            "reported" => &self.reported,
            "version" if rest.is_none() && self.version > 0 => return Some(self.version.into()),
            _ => return None,
        };
        match rest {
            None => (!tree.is_empty()).then(|| tree.state()),
            Some(rest) => tree.at(rest.split('.')).map(Node::value),
        }
    }

    /// What the vehicle reports at a path: `battery.soc`.
    pub fn reported_at(&self, path: &str) -> Option<Value> {
        self.reported.at(path.split('.')).map(Node::value)
    }
}
