//! What differs from the folded state, and so must go into the next one.
//!
//! Owns names only, never state. Notes nothing where nothing is folded.

use std::collections::{BTreeSet, HashSet};

use causeway_fleet::Vin;
use causeway_fleet::command::CommandId;

use crate::lane::LaneName;
use crate::session::{Session, SessionKey};
use crate::shared::GroupKey;

/// A set of dense keys: a bit each.
#[derive(Debug, Default)]
pub(super) struct Keys {
    words: Vec<u64>,
}

impl Keys {
    pub(super) fn insert(&mut self, key: SessionKey) {
        let word = key as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (key % 64);
    }

    /// The first key from `from` on.
    pub(super) fn next(&self, from: SessionKey) -> Option<SessionKey> {
        let mut word = from as usize / 64;
        let mut bits = self.words.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.words.get(word)?;
        }
        Some((word * 64) as SessionKey + bits.trailing_zeros())
    }
}

/// A session that is gone, and the parts of its queues that the folded state may hold: from, and before.
#[derive(Debug)]
pub(super) struct EndedSession {
    pub(super) epoch: u64,
    pub(super) saved: [(u64, u64); 2],
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Whether anything is folded at all.
    pub(super) is_noted: bool,
    pub(super) sessions: Keys,
    pub(super) groups: BTreeSet<GroupKey>,
    /// Those among them that began since, or that a member left.
    pub(super) moved_groups: BTreeSet<GroupKey>,
    pub(super) topics: HashSet<Box<str>>,
    /// Shadows; the classic one has no name.
    pub(super) shadows: BTreeSet<(Vin, Option<Box<str>>)>,
    pub(super) commands: BTreeSet<CommandId>,
    pub(super) ended_sessions: Vec<EndedSession>,
    pub(super) ended_groups: Vec<(Box<str>, Box<str>)>,
}

impl Changed {
    pub(super) fn session(&mut self, key: SessionKey) {
        if self.is_noted {
            self.sessions.insert(key);
        }
    }

    pub(super) fn group(&mut self, key: GroupKey) {
        if self.is_noted {
            self.groups.insert(key);
        }
    }

    pub(super) fn group_moved(&mut self, key: GroupKey) {
        if self.is_noted {
            self.groups.insert(key);
            self.moved_groups.insert(key);
        }
    }

    pub(super) fn retained(&mut self, topic: &str) {
        if self.is_noted && !self.topics.contains(topic) {
            self.topics.insert(topic.into());
        }
    }

    pub(super) fn shadow(&mut self, vin: Vin, name: Option<&str>) {
        if self.is_noted {
            self.shadows.insert((vin, name.map(Into::into)));
        }
    }

    pub(super) fn command(&mut self, id: CommandId) {
        if self.is_noted {
            self.commands.insert(id);
        }
    }

    pub(super) fn session_ended(&mut self, session: &Session) {
        if self.is_noted {
            let saved = LaneName::ALL.map(|name| session.lane(name).saved);
            self.ended_sessions.push(EndedSession { epoch: session.epoch, saved });
        }
    }

    pub(super) fn group_ended(&mut self, share_name: &str, filter: &str) {
        if self.is_noted {
            self.ended_groups.push((share_name.into(), filter.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_order() {
        let mut keys = Keys::default();
        assert_eq!(keys.next(0), None);
        for key in [700, 3, 64, 0, 63] {
            keys.insert(key);
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(key) = keys.next(from) {
            found.push(key);
            from = key + 1;
        }
        assert_eq!(found, [0, 3, 63, 64, 700]);
    }
}
