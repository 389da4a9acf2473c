//! What was asked, and what was told.
//!
//! Owns both, for each shadow, as they came in. Who is right is found out in `judge`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Outcome;
use super::model::Model;

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// An update document, known by its token.
    Update(Value),
    /// A bare reported state, known by what it says under `n`; here as the update that it stands for.
    Report(Value),
    Delete,
    Get,
    /// Nothing that could be read.
    Broken,
}

/// A request, as it was posted.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) shadow: usize,
    pub(super) what: What,
    pub(super) qos: u8,
    /// It must be granted once it is acknowledged.
    pub(super) is_certain: bool,
    /// Its client's session lasts, so that QoS 2 means once.
    pub(super) is_lasting: bool,
    pub(super) is_acknowledged: bool,
    /// The versions it made.
    pub(super) made: Vec<u64>,
    /// It was answered, or its rejection was.
    pub(super) answers: u32,
}

/// A change, as `documents` tells of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) previous: Value,
    pub(super) current: Value,
    pub(super) released: Option<Value>,
    pub(super) expired: Option<Value>,
    pub(super) at_ms: u64,
    pub(super) token: Option<usize>,
}

/// A delta, as somebody was sent it.
#[derive(Debug, Clone)]
pub(super) struct Delta {
    pub(super) sequence: u64,
    pub(super) version: u64,
    pub(super) at_ms: u64,
    pub(super) state: Value,
}

/// All about one shadow.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// By version.
    pub(super) told: BTreeMap<u64, Told>,
    /// Which versions each watcher was told of.
    pub(super) seen: BTreeMap<usize, BTreeSet<u64>>,
    /// What it was after each version that was judged; the first is none.
    pub(super) states: Vec<Model>,
    /// Not yet judged.
    pub(super) deltas: Vec<Delta>,
    /// Answers to `get`, likewise.
    pub(super) documents: Vec<Value>,
    /// Versions and tokens of answers to updates, likewise.
    pub(super) accepted: Vec<(u64, usize)>,
    /// `expired`: versions and states.
    pub(super) expired: Vec<(u64, Value)>,
    /// The newest delta that each client was sent.
    pub(super) newest: BTreeMap<usize, Delta>,
    /// How many deltas each client was sent since it connected.
    pub(super) since_connected: BTreeMap<usize, u32>,
}

impl Book {
    /// The shadow as of the newest version that was judged.
    pub(super) fn now(&self) -> Model {
        self.states.last().cloned().unwrap_or_default()
    }

    /// A watcher is told of a change.
    pub(super) fn tell(&mut self, watcher: usize, event: &Value) -> Outcome<()> {
        let version = number(&event["current"], "version")?;
        let told = Told {
            previous: event["previous"].clone(),
            current: event["current"].clone(),
            released: event.get("released").cloned(),
            expired: event.get("expired").cloned(),
            at_ms: number(event, "timestamp")? * 1000,
            token: token_of(event),
        };
        self.seen.entry(watcher).or_default().insert(version);
        match self.told.insert(version, told.clone()) {
            Some(before) if before != told => Err(format!("version {version} is told twice: {before:?}, and {told:?}")),
            _ => Ok(()),
        }
    }

    /// A client is sent a delta: never an older one than before.
    pub(super) fn hear_delta(&mut self, client: usize, message: &Value) -> Outcome<Delta> {
        let (sequence, version) = (number(message, "sequence")?, number(message, "version")?);
        let at_ms = number(message, "timestamp")? * 1000;
        let delta = Delta { sequence, version, at_ms, state: message["state"].clone() };
        if let Some(before) = self.newest.insert(client, delta.clone())
            && (before.sequence > sequence || before.version > version)
        {
            return Err(format!("delta {sequence} of version {version} comes after {before:?}"));
        }
        *self.since_connected.entry(client).or_default() += 1;
        self.deltas.push(delta.clone());
        Ok(delta)
    }
}

/// A number of a document.
pub(super) fn number(document: &Value, key: &str) -> Outcome<u64> {
    document[key].as_u64().ok_or_else(|| format!("no {key} in {document}"))
}

/// The request that a document names by its token.
pub(super) fn token_of(document: &Value) -> Option<usize> {
    document["clientToken"].as_str()?.strip_prefix('t')?.parse().ok()
}
