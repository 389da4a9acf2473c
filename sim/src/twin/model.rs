//! What a shadow must be: leaves by their full paths, and the rules of `docs/shadows.md` written out once more.
//!
//! Owns no line of the broker's: it would share its mistakes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

type Path = Vec<String>;

/// A desired leaf.
#[derive(Debug, Clone)]
struct Wish {
    value: Value,
    at_ms: u64,
    expires_ms: Option<u64>,
    /// The sequence it came with, while it is pending.
    pending: Option<u64>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) version: u64,
    pub(super) sequence: u64,
    pub(super) exists: bool,
    desired: BTreeMap<Path, Wish>,
    reported: BTreeMap<Path, (Value, u64)>,
}

/// What an update dropped from what is desired.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Dropped {
    pub(super) released: Option<Value>,
    pub(super) expired: Option<Value>,
}

/// What a patch says about one path.
enum Said {
    Gone,
    Branch,
    Value(Value),
}

fn flatten(patch: &Value, at: &Path, said: &mut Vec<(Path, Said)>) {
    match patch {
        Value::Object(map) => {
            said.push((at.clone(), Said::Branch));
            for (key, value) in map {
                flatten(value, &[at.clone(), vec![key.clone()]].concat(), said);
            }
        }
        Value::Null => said.push((at.clone(), Said::Gone)),
        value => said.push((at.clone(), Said::Value(value.clone()))),
    }
}

/// Takes out what is in the way of what is said about a path.
fn make_way<T>(leaves: &mut BTreeMap<Path, T>, path: &Path, said: &Said) {
    match said {
        Said::Branch => {
            leaves.remove(path);
        }
        Said::Gone => leaves.retain(|own, _| !own.starts_with(path)),
        Said::Value(_) => leaves.retain(|own, _| !own.starts_with(path) && !path.starts_with(own)),
    }
}

fn touches(patch: &Value, path: &[String]) -> bool {
    match (patch, path) {
        (Value::Object(map), [key, rest @ ..]) => map.get(key).is_some_and(|inner| touches(inner, rest)),
        _ => true,
    }
}

fn seconds(ttl: &Value, path: &[String]) -> Option<u64> {
    match (ttl, path) {
        (Value::Object(mirror), [key, rest @ ..]) => seconds(mirror.get(key)?, rest),
        (ttl, _) => ttl.as_u64(),
    }
}

fn stamp(value: &Value, at_ms: u64, expires_ms: Option<u64>) -> Value {
    match value {
        Value::Array(elements) => elements.iter().map(|element| stamp(element, at_ms, expires_ms)).collect(),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), stamp(value, at_ms, expires_ms))).collect())
        }
        _ => match expires_ms {
            Some(expires_ms) => json!({"timestamp": at_ms / 1000, "expires": expires_ms / 1000}),
            None => json!({"timestamp": at_ms / 1000}),
        },
    }
}

/// An object of leaves by their paths; none if there are no leaves.
fn nest(leaves: impl Iterator<Item = (Path, Value)>) -> Option<Value> {
    let mut all = None;
    for (path, value) in leaves {
        let mut at = all.get_or_insert_with(|| json!({}));
        for key in &path {
            if at.is_null() {
                *at = json!({});
            }
            at = &mut at[key.as_str()];
        }
        *at = value;
    }
    all
}

impl Model {
    /// An update at a time.
    pub(super) fn update(&mut self, now_ms: u64, document: &Value) -> Dropped {
        self.version += 1;
        self.exists = true;
        let expired = self.drop_due(now_ms);
        if let Some(handled) = document["delta"].as_u64().filter(|&number| number <= self.sequence) {
            let seen = self.desired.values_mut().filter(|wish| wish.pending.is_some_and(|number| number <= handled));
            seen.for_each(|wish| wish.pending = None);
        }
        let state = &document["state"];
        let section = |name: &str| if state.is_null() { Some(&Value::Null) } else { state.get(name) };
        let mut released = None;
        if let Some(patch) = section("reported") {
            let mut said = Vec::new();
            flatten(patch, &Path::new(), &mut said);
            for (path, said) in said {
                make_way(&mut self.reported, &path, &said);
                if let Said::Value(value) = said {
                    self.reported.insert(path, (value, now_ms));
                }
            }
            released = self.release(patch);
        }
        if let Some(patch) = section("desired") {
            self.want(now_ms, patch, &document["ttl"]);
        }
        Dropped { released, expired }
    }

    fn release(&mut self, patch: &Value) -> Option<Value> {
        let mut released = BTreeMap::new();
        for (path, wish) in self.desired.iter_mut().filter(|(path, _)| touches(patch, path)) {
            if self.reported.get(path).is_some_and(|(value, _)| *value == wish.value) {
                wish.pending = None;
            } else if wish.pending.is_none() {
                released.insert(path.clone(), wish.value.clone());
            }
        }
        self.desired.retain(|path, _| !released.contains_key(path));
        nest(released.into_iter())
    }

    fn want(&mut self, now_ms: u64, patch: &Value, ttl: &Value) {
        let (before, next) = (self.desired.clone(), self.sequence + 1);
        let mut said = Vec::new();
        flatten(patch, &Path::new(), &mut said);
        for (path, said) in said {
            make_way(&mut self.desired, &path, &said);
            let Said::Value(value) = said else { continue };
            let is_settled = self.reported.get(&path).is_some_and(|(reported, _)| *reported == value);
            let was = before.get(&path).filter(|was| was.value == value).and_then(|was| was.pending);
            let pending = (!is_settled).then_some(was.unwrap_or(next));
            if pending == Some(next) {
                self.sequence = next;
            }
            let expires_ms = seconds(ttl, &path).map(|seconds| now_ms + seconds * 1000);
            self.desired.insert(path, Wish { value, at_ms: now_ms, expires_ms, pending });
        }
    }

    /// What is desired until now is dropped.
    pub(super) fn expire(&mut self, now_ms: u64) -> Dropped {
        self.version += 1;
        Dropped { released: None, expired: self.drop_due(now_ms) }
    }

    fn drop_due(&mut self, now_ms: u64) -> Option<Value> {
        let due = |wish: &Wish| wish.expires_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let dropped =
            nest(self.desired.iter().filter(|(_, w)| due(w)).map(|(path, w)| (path.clone(), w.value.clone())));
        self.desired.retain(|_, wish| !due(wish));
        dropped
    }

    /// It is deleted.
    pub(super) fn delete(&mut self) -> Dropped {
        self.version += 1;
        self.exists = false;
        self.desired.clear();
        self.reported.clear();
        Dropped::default()
    }

    /// The state of the delta at a time, if there is one.
    pub(super) fn delta(&self, now_ms: u64) -> Option<Value> {
        let pending = |wish: &Wish| wish.pending.is_some() && wish.expires_ms.is_none_or(|at_ms| at_ms > now_ms);
        nest(self.desired.iter().filter(|(_, w)| pending(w)).map(|(path, w)| (path.clone(), w.value.clone())))
    }

    /// `state`, `metadata` and `version`, as `documents` has them.
    pub(super) fn content(&self) -> Value {
        let sections = |desired: Option<Value>, reported: Option<Value>| {
            let named = [("desired", desired), ("reported", reported)];
            let there = named.into_iter().filter_map(|(name, section)| Some((name.to_owned(), section?)));
            Value::Object(there.collect::<Map<_, _>>())
        };
        let state = sections(
            nest(self.desired.iter().map(|(path, wish)| (path.clone(), wish.value.clone()))),
            nest(self.reported.iter().map(|(path, (value, _))| (path.clone(), value.clone()))),
        );
        let metadata = sections(
            nest(self.desired.iter().map(|(path, w)| (path.clone(), stamp(&w.value, w.at_ms, w.expires_ms)))),
            nest(self.reported.iter().map(|(path, (value, at_ms))| (path.clone(), stamp(value, *at_ms, None)))),
        );
        json!({"state": state, "metadata": metadata, "version": self.version})
    }

    /// The document at a time, as `get` answers it.
    pub(super) fn document(&self, now_ms: u64) -> Value {
        let mut document = self.content();
        if let Some(delta) = self.delta(now_ms) {
            document["state"]["delta"] = delta;
        }
        document["timestamp"] = json!(now_ms / 1000);
        document
    }
}
