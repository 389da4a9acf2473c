//! Roles and rules as they stand in the file.
//!
//! Owns what one rule says about an action, and how rules are named to people.

use std::fmt;
use std::ops::Range;

use super::member::Member;
use super::template::Template;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a message to a topic.
    Publish,
    /// Ask for the messages of a topic filter.
    Subscribe,
    /// Be sent a message of a topic, because of a subscription.
    Receive,
    /// Have a message stand at its topic for those who subscribe later. It is asked besides the action that sends the message.
    Retain,
    /// Leave a message that the broker sends to a topic when the connection is lost.
    Will,
    /// Have the broker carry out a command to a vehicle.
    Command,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 6] =
        [Action::Publish, Action::Subscribe, Action::Receive, Action::Retain, Action::Will, Action::Command];

    /// Its word in a policy.
    pub fn word(self) -> &'static str {
        match self {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
            Action::Receive => "receive",
            Action::Retain => "retain",
            Action::Will => "will",
            Action::Command => "command",
        }
    }

    /// The action of a word.
    pub fn of_word(word: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.word() == word)
    }

    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The actions of which each, denied, denies this one. A will is a message that is published later, and what may not be received
    /// need not be asked for.
    pub(super) const fn denied_with(self) -> u8 {
        match self {
            Action::Will => Action::Will.bit() | Action::Publish.bit(),
            Action::Subscribe | Action::Receive => Action::Subscribe.bit() | Action::Receive.bit(),
            Action::Publish | Action::Retain | Action::Command => self.bit(),
        }
    }

    /// Whether the QoS of a message, or of a subscription, has a say.
    pub(super) const fn has_qos(self) -> bool {
        matches!(self, Action::Publish | Action::Subscribe | Action::Retain | Action::Will)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which rule of a policy, in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub(super) u16);

/// A rule, as people know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleName<'a> {
    /// The role that has it.
    pub role: &'a str,
    /// Its own name.
    pub name: &'a str,
    /// Where it begins in the file, from 1.
    pub line: usize,
}

/// `rule "own-telemetry" of role "vehicle"`
impl fmt::Display for RuleName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?} of role {:?}", self.name, self.role)
    }
}

/// What is needed of a rule for each decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) role: u16,
    /// Bits of its actions.
    pub(super) actions: u8,
    pub(super) is_allow: bool,
    pub(super) qos_max: u8,
}

/// The rest of it.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Box<str>,
    pub(super) line: usize,
    /// Where its name stands, for problems.
    pub(super) place: Range<usize>,
    pub(super) terms: Terms,
    /// Each with its place.
    pub(super) topics: Vec<(Template, Range<usize>)>,
}

impl Rule {
    /// The actions that it has a word in, for those it allows or denies.
    pub(super) fn actions(&self) -> impl Iterator<Item = Action> {
        let bits = self.terms.actions;
        Action::ALL.into_iter().filter(move |action| bits & action.bit() != 0)
    }
}

#[derive(Debug)]
pub(super) struct Role {
    pub(super) name: Box<str>,
    pub(super) members: Vec<Member>,
}

impl Role {
    /// Whether all members of `other` are members of this one.
    pub(super) fn covers(&self, other: &Role) -> bool {
        other.members.iter().all(|inner| self.members.iter().any(|outer| outer.covers(inner)))
    }
}
