//! A program of the backend that wants to know which vehicles are connected.
//!
//! Owns what it believes: for each vehicle, the event with the largest epoch it was ever sent, in whatever order they came.

use std::collections::{BTreeMap, VecDeque};

use causeway_core::{ConnectionId, Overflow};
use causeway_protocol::QoS;

/// How it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// It is there whenever the broker is.
    Always,
    /// It goes away for some time, with its session.
    Away,
    /// It came once, to look.
    Late,
    /// It is sent the wills of vehicles.
    Wills,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) home: usize,
    pub(super) habit: Habit,
    pub(super) qos: QoS,
    pub(super) overflow: Overflow,
    pub(super) connection: Option<ConnectionId>,
    /// Whether the broker has said that it is subscribed, in the session that it has.
    pub(super) is_subscribed: bool,
    /// Answers not yet sent.
    pub(super) answers: VecDeque<Vec<u8>>,
    beliefs: BTreeMap<String, Belief>,
}

/// What it believes about one vehicle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Belief {
    pub(super) epoch: u64,
    pub(super) online: bool,
}

impl Consumer {
    pub(super) fn new(name: String, home: usize, habit: Habit, qos: QoS, overflow: Overflow) -> Consumer {
        let (connection, is_subscribed) = (None, false);
        let (answers, beliefs) = (VecDeque::new(), BTreeMap::new());
        Consumer { name, home, habit, qos, overflow, connection, is_subscribed, answers, beliefs }
    }

    pub(super) fn filter(&self) -> &'static str {
        if self.habit == Habit::Wills { "vehicles/+/wills/+" } else { "$presence/+" }
    }

    /// The connection is gone.
    pub(super) fn cut_off(&mut self) {
        self.connection = None;
        self.answers.clear();
        // What is not queued for it while it is away it has to ask for again.
        self.is_subscribed &= self.qos > QoS::AtMostOnce && self.habit != Habit::Always;
    }

    /// Whether its session outlives its connection.
    pub(super) fn is_persistent(&self) -> bool {
        matches!(self.habit, Habit::Away | Habit::Wills)
    }

    pub(super) fn belief(&self, vin: &str) -> Option<&Belief> {
        self.beliefs.get(vin)
    }

    /// Takes an event.
    ///
    /// # Errors
    /// Where it is none, or where two events have one number.
    pub(super) fn take(&mut self, topic: &str, payload: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(payload).map_err(|error| format!("{topic}: {error}"))?;
        let told = || format!("{} was sent {text:?} on {topic}", self.name);
        let vin = field(text, "vin").filter(|vin| topic.strip_prefix("$presence/") == Some(*vin)).ok_or_else(told)?;
        let epoch = field(text, "epoch").and_then(|epoch| epoch.parse().ok()).ok_or_else(told)?;
        let online = match field(text, "online") {
            Some("true") => true,
            Some("false") => false,
            _ => return Err(told()),
        };
        let belief = Belief { epoch, online };
        match self.beliefs.get_mut(vin) {
            Some(known) if known.epoch == epoch && *known != belief => {
                return Err(format!("{} knows another event of epoch {epoch}: {text}", self.name));
            }
            Some(known) if known.epoch >= epoch => {}
            Some(known) => *known = belief,
            None => {
                self.beliefs.insert(vin.to_owned(), belief);
            }
        }
        Ok(())
    }
}

/// The value of a key of flat JSON without escapes.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\"{key}\":"))?;
    rest.trim_start_matches('"').split(['"', ',', '}']).next()
}
