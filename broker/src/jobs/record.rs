//! What a job is: what is to be done, to whom, and how far it is.
//!
//! Owns the words, in JSON as they are asked for and as they are kept, and what of them makes sense. It does nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::requested::Requested;
use bytes::Bytes;
use causeway_core::{Principal, Vin};
use causeway_fleet::calls::is_name;
use causeway_fleet::shadow::{Format, Request, Section};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Vehicles that a job may name one by one.
pub const VINS_MAX: usize = 100_000;
/// The quickest job, and the one whose speed nobody says.
const RATE_MAX: u32 = 10_000;
pub(super) const RATE_DEFAULT: u32 = 100;
/// The longest note.
const NOTE_BYTES_MAX: usize = 1024;

/// The number of a job: the time when it was made in milliseconds, or one more than that of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub(super) u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "j{:x}", self.0)
    }
}

impl FromStr for JobId {
    type Err = ();

    fn from_str(text: &str) -> Result<JobId, ()> {
        let digits = text.strip_prefix('j').ok_or(())?;
        let id = JobId(u64::from_str_radix(digits, 16).map_err(|_| ())?);
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

impl JobId {
    /// Who changes shadows and requests commands for it.
    pub(super) fn principal(self) -> Principal {
        Principal::service(&format!("job-{self}"))
    }
}

/// Which vehicles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Those of a group, when the job is made.
    Group(String),
    /// Those of which this is true, when the job is made.
    Where(String),
    /// These.
    Vins(Vec<String>),
}

/// A command that each vehicle gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// Its name.
    pub name: String,
    /// A text is sent as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// Seconds until it is over for a vehicle that does not answer, counted from when that vehicle has its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u32>,
    /// Whether it is over at once for a vehicle that is away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now_or_never: bool,
}

/// What is to be done, as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// To whom.
    pub target: Target,
    /// What is wanted of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Map<String, Value>>,
    /// How long that is wanted: see `docs/shadows.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Value>,
    /// The named shadow that is meant. Without, the classic one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
    /// Or a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandSpec>,
    /// Vehicles that have their turn in a second, at most.
    #[serde(default = "rate_default")]
    pub rate_per_second: u32,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

fn rate_default() -> u32 {
    RATE_DEFAULT
}

impl JobSpec {
    /// Whether it makes sense as far as that can be told without the fleet.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        if self.desired.is_some() == self.command.is_some() {
            return Err("a job has either \"desired\" or \"command\"".to_owned());
        }
        if self.command.is_some() && (self.ttl.is_some() || self.shadow.is_some()) {
            return Err("\"ttl\" and \"shadow\" belong to \"desired\"".to_owned());
        }
        if !(1..=RATE_MAX).contains(&self.rate_per_second) {
            return Err(format!("\"rate_per_second\" is from 1 to {RATE_MAX}"));
        }
        if self.note.len() > NOTE_BYTES_MAX {
            return Err(format!("\"note\" has {NOTE_BYTES_MAX} bytes at most"));
        }
        for (what, name) in [("shadow", self.shadow.as_deref()), ("command", self.command.as_ref().map(|it| &*it.name))]
        {
            if name.is_some_and(|name| !is_name(name)) {
                return Err(format!("the name of the {what} is none: 1 to 64 of A-Z a-z 0-9 : _ - ."));
            }
        }
        if let Some(document) = self.document() {
            Request::parse(&document, Format::Json, Section::Whole).map_err(|(rejection, _)| rejection.to_string())?;
        }
        Ok(())
    }

    /// The update of each shadow, where that is what is to be done.
    pub(super) fn document(&self) -> Option<Bytes> {
        let mut document = json!({ "state": { "desired": self.desired.as_ref()? } });
        if let Some(ttl) = &self.ttl {
            document["ttl"] = ttl.clone();
        }
        Some(document.to_string().into())
    }

    /// The vehicles that are named, in order, each once.
    ///
    /// # Errors
    /// Which is none.
    pub(super) fn vins(&self) -> Result<Vec<Vin>, String> {
        let Target::Vins(texts) = &self.target else { return Ok(Vec::new()) };
        if texts.len() > VINS_MAX {
            return Err(format!("a job names {VINS_MAX} vehicles at most: make it for a group"));
        }
        let vin = |text: &String| text.parse::<Vin>().map_err(|error| format!("{text:?}: {error}"));
        let mut vins = texts.iter().map(vin).collect::<Result<Vec<_>, _>>()?;
        vins.sort_unstable();
        vins.dedup();
        Ok(vins)
    }
}

/// Whether a job goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It does.
    Running,
    /// Not until somebody resumes it. What has begun is finished.
    Paused,
    /// All vehicles have had their turn, and there is a result of each.
    Done,
    /// Somebody has ended it.
    Cancelled,
}

impl JobState {
    /// In a word.
    pub(super) fn word(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing comes any more.
    pub fn is_over(self) -> bool {
        matches!(self, JobState::Done | JobState::Cancelled)
    }
}

/// A job as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number.
    pub id: JobId,
    /// What is to be done. Vehicles that were named are kept elsewhere.
    pub spec: JobSpec,
    /// Who made it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub made_ms: u64,
    /// When it was over.
    pub ended_ms: Option<u64>,
    /// Whether it goes on.
    pub state: JobState,
    /// Whether all its vehicles are known.
    pub resolved: bool,
    /// The last that was looked at to find them.
    pub resolved_through: Option<String>,
    /// How many there are, as far as they are known.
    pub total: u32,
    /// All before this one have a result.
    pub(super) next: u32,
    /// Neither this one nor any behind it has had its turn.
    pub(super) reserved: u32,
    /// When this was written.
    pub(super) saved_ms: u64,
    /// How many had which outcome.
    pub outcomes: BTreeMap<String, u32>,
    /// The message that requested it, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Box<Requested>>,
}

impl Record {
    /// Whether something is still to be done for it.
    pub(super) fn is_open(&self) -> bool {
        !self.state.is_over() || self.requested.as_ref().is_some_and(|requested| !requested.is_told)
    }

    /// How many have a result.
    pub fn done(&self) -> u32 {
        self.outcomes.values().sum()
    }

    /// All that [`Record::state_word`] may say.
    pub(super) const STATES: [&str; 5] = ["resolving", "running", "paused", "done", "cancelled"];

    /// Its state, in a word.
    pub(super) fn state_word(&self) -> &'static str {
        match self.state {
            JobState::Running if !self.resolved => "resolving",
            state => state.word(),
        }
    }

    /// As it is shown.
    pub(super) fn shown(&self, rate: Option<f64>) -> Value {
        let (done, good) = (self.done(), ["done", "replied"]);
        let failed: BTreeMap<_, _> = self.outcomes.iter().filter(|(kind, _)| !good.contains(&kind.as_str())).collect();
        let mut spec = json!(self.spec);
        if let Target::Vins(_) = self.spec.target {
            spec["target"] = json!({ "vins": self.total });
        }
        let mut shown = json!({
            "id": self.id.to_string(), "state": self.state_word(), "made_ms": self.made_ms, "by": self.by,
            "total": self.total, "done": done, "succeeded": done - failed.values().copied().sum::<u32>(), "failed": failed,
        });
        if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
            shown["rate"] = json!((rate * 10.0).round() / 10.0);
            if self.resolved {
                shown["eta_seconds"] = json!((f64::from(self.total.saturating_sub(done)) / rate).ceil() as u64);
            }
        }
        if let Some(ended_ms) = self.ended_ms {
            shown["ended_ms"] = ended_ms.into();
        }
        if let (Some(shown), Value::Object(spec)) = (shown.as_object_mut(), spec) {
            shown.extend(spec);
        }
        shown
    }
}
