//! A naive model of a shadow: leaves by their full paths, and the rules said once more.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

type Path = Vec<String>;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wish {
    value: Value,
    at_ms: u64,
    expires_ms: Option<u64>,
    /// The sequence it came with, while it is pending.
    pending: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) version: u64,
    pub(super) sequence: u64,
    pub(super) exists: bool,
    deleted_ms: Option<u64>,
    desired: BTreeMap<Path, Wish>,
    reported: BTreeMap<Path, (Value, u64)>,
}

/// What a patch says about one path.
enum Said {
    Gone,
    Branch,
    Value(Value),
}

#[derive(Debug, Default)]
pub(super) struct Dropped {
    pub(super) released: Value,
    pub(super) expired: Value,
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

fn forget<T>(leaves: &mut BTreeMap<Path, T>, path: &Path, said: &Said) {
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

fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.keys().eq(other.keys()) && one.iter().all(|(key, one)| equal(one, &other[key]))
        }
        _ => one == other || (one.is_number() && one.as_f64() == other.as_f64()),
    }
}

/// An object of leaves by their paths.
pub(super) fn nest<'a>(leaves: impl Iterator<Item = (&'a Path, Value)>) -> Value {
    let mut all = Value::Object(Map::new());
    for (path, value) in leaves {
        let mut at = &mut all;
        for key in path {
            if at.is_null() {
                *at = json!({});
            }
            at = &mut at[key];
        }
        *at = value;
    }
    all
}

fn stamp(value: &Value, at_ms: u64, expires_ms: Option<u64>) -> Value {
    match value {
        Value::Array(elements) => elements.iter().map(|element| stamp(element, at_ms, expires_ms)).collect(),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), stamp(value, at_ms, expires_ms))).collect())
        }
        _ => match expires_ms {
            Some(expires_ms) => json!({"timestamp": at_ms / 1000, "expires": expires_ms.div_ceil(1000)}),
            None => json!({"timestamp": at_ms / 1000}),
        },
    }
}

fn seconds(ttl: &Value, path: &[String]) -> Option<u64> {
    match (ttl, path) {
        (Value::Object(mirror), [key, rest @ ..]) => seconds(mirror.get(key)?, rest),
        (ttl, _) => ttl.as_u64(),
    }
}

impl Model {
    fn begin(&mut self, now_ms: u64) {
        if self.deleted_ms.is_some_and(|at_ms| now_ms > at_ms + 48 * 3_600_000) {
            self.version = 0;
        }
        self.version += 1;
    }

    pub(super) fn update(&mut self, now_ms: u64, document: &Value) -> Dropped {
        self.begin(now_ms);
        self.exists = true;
        self.deleted_ms = None;
        let expired = self.drop_due(now_ms);
        if let Some(handled) = document.get("delta").and_then(Value::as_u64).filter(|&n| n <= self.sequence) {
            let seen = self.desired.values_mut().filter(|wish| wish.pending.is_some_and(|n| n <= handled));
            seen.for_each(|wish| wish.pending = None);
        }
        let state = document.get("state").cloned().unwrap_or(json!({}));
        let section = |name| if state.is_null() { Some(&Value::Null) } else { state.get(name) };
        let mut released = BTreeMap::new();
        if let Some(patch) = section("reported") {
            self.report(now_ms, patch);
            released = self.released(patch);
        }
        if let Some(patch) = section("desired") {
            self.want(now_ms, patch, document.get("ttl").unwrap_or(&Value::Null));
        }
        Dropped { released: nest(released.iter().map(|(path, value)| (path, value.clone()))), expired }
    }

    fn report(&mut self, now_ms: u64, patch: &Value) {
        let mut said = Vec::new();
        flatten(patch, &Path::new(), &mut said);
        for (path, said) in said {
            forget(&mut self.reported, &path, &said);
            if let Said::Value(value) = said {
                self.reported.insert(path, (value, now_ms));
            }
        }
    }

    fn released(&mut self, patch: &Value) -> BTreeMap<Path, Value> {
        let mut released = BTreeMap::new();
        for (path, wish) in self.desired.iter_mut().filter(|(path, _)| touches(patch, path)) {
            if self.reported.get(path).is_some_and(|(value, _)| equal(value, &wish.value)) {
                wish.pending = None;
            } else if wish.pending.is_none() {
                released.insert(path.clone(), wish.value.clone());
            }
        }
        self.desired.retain(|path, _| !released.contains_key(path));
        released
    }

    fn want(&mut self, now_ms: u64, patch: &Value, ttl: &Value) {
        let (before, next) = (self.desired.clone(), self.sequence + 1);
        let mut said = Vec::new();
        flatten(patch, &Path::new(), &mut said);
        for (path, said) in said {
            forget(&mut self.desired, &path, &said);
            let Said::Value(value) = said else { continue };
            let settled = self.reported.get(&path).is_some_and(|(reported, _)| equal(reported, &value));
            let was = before.get(&path).filter(|was| equal(&was.value, &value)).and_then(|was| was.pending);
            let pending = (!settled).then_some(was.unwrap_or(next));
            if pending == Some(next) {
                self.sequence = next;
            }
            let expires_ms = seconds(ttl, &path).map(|seconds| now_ms + seconds * 1000);
            self.desired.insert(path, Wish { value, at_ms: now_ms, expires_ms, pending });
        }
    }

    fn drop_due(&mut self, now_ms: u64) -> Value {
        let due = |wish: &Wish| wish.expires_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let dropped = nest(self.desired.iter().filter(|(_, w)| due(w)).map(|(path, w)| (path, w.value.clone())));
        self.desired.retain(|_, wish| !due(wish));
        dropped
    }

    pub(super) fn expire(&mut self, now_ms: u64) -> Dropped {
        self.begin(now_ms);
        Dropped { released: json!({}), expired: self.drop_due(now_ms) }
    }

    pub(super) fn delete(&mut self, now_ms: u64) {
        self.begin(now_ms);
        self.exists = false;
        self.deleted_ms = Some(now_ms);
        self.desired.clear();
        self.reported.clear();
    }

    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.desired.values().filter_map(|wish| wish.expires_ms).min()
    }

    /// The leaves that are wanted, by their paths.
    pub(super) fn wanted(&self, now_ms: u64) -> BTreeMap<Path, Value> {
        let pending = |wish: &Wish| wish.pending.is_some() && wish.expires_ms.is_none_or(|at_ms| at_ms > now_ms);
        let wanted = self.desired.iter().filter(|(_, wish)| pending(wish));
        wanted.map(|(path, wish)| (path.clone(), wish.value.clone())).collect()
    }

    /// `desired` and `reported` alone.
    pub(super) fn sections(&self) -> Value {
        let mut sections = json!({});
        if !self.desired.is_empty() {
            sections["desired"] = nest(self.desired.iter().map(|(path, wish)| (path, wish.value.clone())));
        }
        if !self.reported.is_empty() {
            sections["reported"] = nest(self.reported.iter().map(|(path, (value, _))| (path, value.clone())));
        }
        sections
    }

    pub(super) fn document(&self, now_ms: u64) -> Value {
        let (mut state, mut metadata) = (self.sections(), json!({}));
        if !self.desired.is_empty() {
            let stamps = self.desired.iter().map(|(path, w)| (path, stamp(&w.value, w.at_ms, w.expires_ms)));
            metadata["desired"] = nest(stamps);
        }
        if !self.reported.is_empty() {
            let stamps = self.reported.iter().map(|(path, (value, at_ms))| (path, stamp(value, *at_ms, None)));
            metadata["reported"] = nest(stamps);
        }
        let wanted = self.wanted(now_ms);
        if !wanted.is_empty() {
            state["delta"] = nest(wanted.iter().map(|(path, value)| (path, value.clone())));
        }
        json!({"state": state, "metadata": metadata, "version": self.version, "timestamp": now_ms / 1000})
    }
}
