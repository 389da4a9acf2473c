//! Applying a change to a shadow.
//!
//! Owns the order in which one change works: times to live, what the vehicle handled and reports, what is wanted of it. The same change at the
//! same time makes the same of the same shadow, live and in a replay.

use serde_json::{Map, Value};

use super::change::{Change, Kind, Patch, Update};
use super::merge::{Changed, Lives, Setting, merge, settle};
use super::tree::Tree;
use super::{Shadow, VERSION_KEPT_MS};

/// What an applied change did.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The version that it made.
    pub version: u64,
    /// For the history: `{"from", "to", "released", "expired"}`, each an object with the sections or leaves that changed, left out where it is
    /// empty. `from` has what leaves were, `to` what they are, with `null` for those that went.
    pub history: Value,
    /// The sequence of the delta that is to be sent now, if one is.
    pub delta: Option<u64>,
    /// Desired leaves that were dropped because the vehicle reports something else than it had settled for.
    pub released: Option<Value>,
    /// Desired leaves that were dropped because their time was up.
    pub expired: Option<Value>,
}

impl Shadow {
    /// Makes the next version. Whether it may is [`Shadow::check`]'s matter.
    pub fn apply(&mut self, now_ms: u64, change: &Change) -> Transition {
        if self.deleted_at().is_some_and(|at_ms| now_ms.saturating_sub(at_ms) > VERSION_KEPT_MS) {
            self.version = 0;
        }
        self.version = self.version.saturating_add(1);
        self.at_ms = now_ms;
        match &change.0 {
            Kind::Update(update) => self.update(now_ms, update),
            Kind::Delete => self.delete(),
            Kind::Expire => {
                let expired = self.drop_due(now_ms);
                self.transition(History::default(), Map::new(), expired, false)
            }
        }
    }

    fn update(&mut self, now_ms: u64, update: &Update) -> Transition {
        self.exists = true;
        let expired = self.drop_due(now_ms);
        self.settle_handled(update.handled);
        let mut history = History::default();
        let setting = Setting { now_ms, beside: None, ttl: Lives::Forever, sequence: None };
        history.add("reported", patch(&mut self.reported, &update.reported, setting));
        let released = match &update.reported {
            Patch::None => Map::new(),
            Patch::Clear => settle(&mut self.desired, None, Some(&self.reported)),
            Patch::Merge(map) => settle(&mut self.desired, Some(map), Some(&self.reported)),
        };
        let next = self.sequence.saturating_add(1);
        let ttl = Lives::from(&update.ttl);
        let setting = Setting { now_ms, beside: Some(&self.reported), ttl, sequence: Some(next) };
        let changed = patch(&mut self.desired, &update.desired, setting);
        if changed.wanted {
            self.sequence = next;
        }
        history.add("desired", changed);
        self.transition(history, released, expired, update.desired != Patch::None)
    }

    fn delete(&mut self) -> Transition {
        let mut history = History::default();
        for (name, tree) in [("desired", &mut self.desired), ("reported", &mut self.reported)] {
            history.add(name, clear(tree));
        }
        self.exists = false;
        self.transition(history, Map::new(), Map::new(), false)
    }

    /// Drops the desired leaves whose time is up.
    fn drop_due(&mut self, now_ms: u64) -> Map<String, Value> {
        self.desired.extract(&|leaf| leaf.expires_ms.is_some_and(|at_ms| at_ms <= now_ms))
    }

    /// What the vehicle handled is settled, unless it changed since. A number that no delta had yet says nothing.
    fn settle_handled(&mut self, handled: Option<u64>) {
        if let Some(handled) = handled.filter(|&handled| handled <= self.sequence) {
            self.desired.each_mut(&mut |leaf| leaf.pending = leaf.pending.filter(|&sequence| sequence > handled));
        }
    }

    fn transition(
        &self,
        history: History,
        released: Map<String, Value>,
        expired: Map<String, Value>,
        wish: bool,
    ) -> Transition {
        let pending = wish && self.is_pending();
        let [released, expired] = [released, expired].map(|map| (!map.is_empty()).then_some(Value::Object(map)));
        Transition {
            version: self.version,
            history: history.into_value(&released, &expired),
            delta: pending.then_some(self.sequence),
            released,
            expired,
        }
    }
}

fn patch(tree: &mut Tree, patch: &Patch, setting: Setting<'_>) -> Changed {
    match patch {
        Patch::None => Changed::default(),
        Patch::Clear => clear(tree),
        Patch::Merge(map) => merge(tree, map, setting),
    }
}

fn clear(tree: &mut Tree) -> Changed {
    let from = std::mem::take(tree);
    let to = from.iter().map(|(key, _)| (key.to_owned(), Value::Null)).collect();
    let Value::Object(from) = from.state() else { return Changed::default() };
    Changed { from, to, wanted: false }
}

/// The leaves that changed, by section.
#[derive(Default)]
struct History {
    from: Map<String, Value>,
    to: Map<String, Value>,
}

impl History {
    fn add(&mut self, section: &str, changed: Changed) {
        for (all, changed) in [(&mut self.from, changed.from), (&mut self.to, changed.to)] {
            if !changed.is_empty() {
                all.insert(section.to_owned(), Value::Object(changed));
            }
        }
    }

    fn into_value(self, released: &Option<Value>, expired: &Option<Value>) -> Value {
        let sections = [self.from, self.to].map(|map| (!map.is_empty()).then_some(Value::Object(map)));
        let [from, to] = sections;
        let entries = [("from", from), ("to", to), ("released", released.clone()), ("expired", expired.clone())];
        Value::Object(entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}
