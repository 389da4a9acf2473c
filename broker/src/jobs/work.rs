//! What a job does to one vehicle.
//!
//! Owns that it is done once: a vehicle that may have had its turn before a crash is asked first whether it had. What comes of it is one line of
//! JSON.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_core::history::HistoryRange;
use causeway_core::{
    Answer, Ask, CommandAsk, CommandProgress, CommandTold, Millis, Principal, ShadowAsk, ShadowWhat, Vin,
};
use causeway_fleet::shadow::Format;
use serde_json::{Value, json};

use super::record::{CommandSpec, JobId};
use super::requested::Requested;
use super::room::Room;
use crate::registry::now_ms;
use crate::server::{AskError, Asks, FoldedShard};

/// Between two attempts, where too many questions wait for a shard, or much to be folded: nobody is told when there is less. Whoever asks again
/// sooner makes it more.
const AGAIN: Duration = Duration::from_millis(500);
/// Longer replies are not kept with the results.
const PAYLOAD_BYTES_MAX: usize = 4096;
/// Entries of a vehicle's history that are read at a time.
const HISTORY_PAGE: usize = 100;

/// What is to be done to each vehicle, and by which means.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) asks: Asks,
    /// The folded states of the shards, by their numbers.
    pub(super) folded: Arc<[FoldedShard]>,
    pub(super) room: Arc<Room>,
    pub(super) id: JobId,
    pub(super) made_ms: u64,
    pub(super) task: Task,
}

#[derive(Debug)]
pub(super) enum Task {
    /// A shadow is updated: which, and how.
    Update(Option<Box<str>>, Bytes),
    /// A command is requested.
    Command {
        command: CommandSpec,
        /// By whom, and how, where a message did it.
        requested: Option<Box<Requested>>,
        /// What was requested in an earlier run, shards may not know any more.
        may_be_forgotten: bool,
    },
}

/// What became of one vehicle: the kind, and the line that says so.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) kind: &'static str,
    pub(super) line: Vec<u8>,
}

fn outcome(vin: &Vin, kind: &'static str, more: Value) -> Outcome {
    let mut line = json!({ "vin": vin.as_str(), "outcome": kind });
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    Outcome { kind, line: line.to_string().into_bytes() }
}

impl Work {
    /// Does it. `may_be_done`: it may have been begun before. None where the broker stops: then it is not known what became of it.
    pub(super) async fn at(&self, vin: Vin, may_be_done: bool) -> Option<Outcome> {
        match &self.task {
            Task::Update(name, document) => self.update(vin, name.as_deref(), document, may_be_done).await,
            Task::Command { may_be_forgotten: true, .. } if may_be_done => {
                let why = "the broker was away for so long that outcomes of commands are forgotten";
                Some(outcome(&vin, "unknown", json!({ "detail": why })))
            }
            Task::Command { command, requested, .. } => self.command(vin, command, requested.as_deref()).await,
        }
    }

    /// Requests a command and waits for its outcome. Requested again, it is the same command.
    async fn command(&self, vin: Vin, command: &CommandSpec, requested: Option<&Requested>) -> Option<Outcome> {
        let (payload, content_type) = match (requested, &command.payload) {
            (Some(requested), _) => requested.payload(),
            (None, None) => (Bytes::new(), None),
            (None, Some(Value::String(text))) => (Bytes::from(text.clone()), None),
            (None, Some(value)) => (Bytes::from(value.to_string()), Some("application/json".into())),
        };
        // What is left of it when the vehicle has its turn: a part of a second is a second.
        let left = |until_ms: u64| until_ms.saturating_sub(now_ms()).div_ceil(1000).try_into().unwrap_or(u32::MAX);
        let until_ms = requested.and_then(|requested| requested.until_ms);
        let ask = CommandAsk {
            vin,
            name: command.name.as_str().into(),
            by: requested.map_or_else(|| self.id.principal(), Requested::principal),
            payload,
            content_type,
            expires_seconds: until_ms.map_or(command.deadline, |until_ms| Some(left(until_ms))),
            is_now_or_never: command.now_or_never,
            key: Some(self.id.to_string().into()),
            address: requested.map(Requested::address),
        };
        let home = self.asks.home(&vin);
        let mut told = self.ask_command(home, &Ask::Command(Box::new(ask))).await?;
        loop {
            let Some(command) = told else {
                return Some(outcome(&vin, "unknown", json!({ "detail": "the outcome is forgotten" })));
            };
            let (id, text) = (command.id, command.id.to_string());
            if let CommandProgress::Ended { outcome: ended, payload, .. } = &command.progress {
                return Some(outcome(&vin, ended.word(), json!({ "command": text, "payload": shown(payload) })));
            }
            // Answered when it is over: by its deadline at the latest.
            told = self.ask_command(home, &Ask::CommandState { id, when_over: true }).await?;
        }
    }

    /// None where the broker stops.
    async fn ask_command(&self, home: u32, ask: &Ask) -> Option<Option<Box<CommandTold>>> {
        loop {
            match self.asks.at(home, ask.clone()).await.map(|answer| *answer) {
                Ok(Answer::Command(told)) => return Some(told),
                Ok(Answer::NoRoom) => self.room.of(home).await,
                Ok(_) | Err(AskError::Ended) => return None,
                Err(AskError::Busy) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    async fn update(&self, vin: Vin, name: Option<&str>, document: &Bytes, may_be_done: bool) -> Option<Outcome> {
        if may_be_done && let Some(version) = self.earlier_version(vin, name).await? {
            return Some(outcome(&vin, "done", json!({ "version": version })));
        }
        loop {
            let what = ShadowWhat::Update { payload: document.clone(), format: Format::Json, version: None };
            let ask = ShadowAsk { vin, name: name.map(Into::into), by: self.id.principal(), what };
            match self.asks.of(&vin, Ask::Shadow(ask)).await.map(|answer| *answer) {
                Ok(Answer::Shadow(Ok(told))) => return Some(outcome(&vin, "done", json!({ "version": told.version }))),
                // The disk is full, or nearly, or folds are far behind, of whose end nobody is told: nobody has refused anything yet.
                Ok(Answer::Shadow(Err(rejection))) if rejection.code == 507 => {
                    self.room.of(self.asks.home(&vin)).await;
                    tokio::time::sleep(AGAIN).await;
                }
                Ok(Answer::Shadow(Err(rejection))) => {
                    let why = json!({ "code": rejection.code, "detail": rejection.message });
                    return Some(outcome(&vin, "rejected", why));
                }
                Ok(_) | Err(AskError::Ended) => return None,
                Err(AskError::Busy) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// The version that this job brought a shadow to, before the broker ended in between. The history says who did what. Outside: none where
    /// that cannot be known now.
    async fn earlier_version(&self, vin: Vin, name: Option<&str>) -> Option<Option<u64>> {
        let mut range = HistoryRange {
            vin,
            name: name.unwrap_or_default().to_owned(),
            from: Millis(self.made_ms),
            to: Millis(now_ms().max(self.made_ms) + 24 * 3600 * 1000),
            after: None,
            limit: HISTORY_PAGE,
        };
        let by = self.id.principal();
        let home = crate::home_shard::home_shard(vin.as_str(), self.asks.shards());
        loop {
            let pending = match self.asks.of(&vin, Ask::History(range.clone())).await.map(|answer| *answer) {
                Ok(Answer::History(pending)) => pending,
                Ok(_) | Err(AskError::Ended) => return None,
                Err(AskError::Busy) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let Some(folded) = self.folded.get(home as usize).cloned() else { return Some(None) };
            let asked = range.clone();
            let page = tokio::task::spawn_blocking(move || folded.history(&asked, pending)).await.ok()?;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(target: "causeway::jobs", %vin, %error, "a history cannot be read: the update is made, perhaps again");
                    return Some(None);
                }
            };
            if let Some(version) = page.entries.iter().find_map(|entry| version_by(&entry.json, &by)) {
                return Some(Some(version));
            }
            match page.next {
                Some(next) => range.after = Some(next),
                None => return Some(None),
            }
        }
    }
}

/// A payload in a line of JSON: as JSON where it is that, else as text.
fn shown(payload: &[u8]) -> Value {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Value::from(format!("{} bytes, which are too many to be kept here", payload.len()));
    }
    serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into())
}

/// The version that an entry of a history is about, where it is this one's doing.
fn version_by(entry: &[u8], by: &Principal) -> Option<u64> {
    let entry: Value = serde_json::from_slice(entry).ok()?;
    (entry["by"].as_str()? == by.to_string()).then(|| entry["version"].as_u64())?
}
