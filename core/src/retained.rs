//! The retained messages, one for each topic.
//!
//! Owns their bounds and the search by filter. It never delivers.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use causeway_protocol::filter_matches;

use crate::index::LevelTree;
use crate::message::Message;
use crate::shard::is_presence;
use crate::{Bound, Limits, Lsn, Millis};

/// A retained message, and where its record is.
pub(crate) type Due = (Arc<Message>, Lsn);

/// The store.
#[derive(Debug)]
pub(crate) struct Retained {
    tree: LevelTree<Slot>,
    messages: usize,
    bytes: usize,
    removals: Removals,
    /// What came from another shard ahead of the copy that is recorded, by topic; empty payloads remove. Found like what is
    /// kept, and lost with the process.
    ahead: HashMap<Box<str>, Arc<Message>>,
}

/// The stamps of messages that were removed, of late: an older one that comes from another shard is not to take their place.
#[derive(Debug, Default)]
struct Removals {
    by_topic: HashMap<Box<str>, u64>,
    in_order: VecDeque<(Box<str>, u64)>,
}

/// Removals remembered. What is on its way between shards is far less.
const REMOVALS_MAX: usize = 65_536;
/// Likewise of messages that came ahead. One that finds no room is found once its recorded copy is there.
const AHEAD_MAX: usize = 4096;

/// What stands at a topic. Empty only while it is being filled.
#[derive(Debug, Default)]
struct Slot(Option<(Arc<Message>, Lsn)>);

impl Retained {
    pub(crate) fn new(hash_seed: u64) -> Self {
        Retained {
            tree: LevelTree::new(hash_seed),
            messages: 0,
            bytes: 0,
            removals: Removals::default(),
            ahead: HashMap::new(),
        }
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.tree.get(topic)?.0.as_ref().map(|(message, _)| message)
    }

    /// What a subscription to the topic is sent now, if it is this message.
    pub(crate) fn is_current(&self, message: &Arc<Message>) -> bool {
        let current = self.ahead.get(&message.topic).or_else(|| self.get(&message.topic));
        current.is_some_and(|current| Arc::ptr_eq(current, message))
    }

    /// The message at a topic, and where its record is.
    pub(crate) fn get_recorded(&self, topic: &str) -> Option<&(Arc<Message>, Lsn)> {
        self.tree.get(topic)?.0.as_ref()
    }

    /// The stamp of the newest message at a topic, or of its removal; zero where none is known.
    pub(crate) fn stamp(&self, topic: &str) -> u64 {
        self.ahead.get(topic).map_or(0, |ahead| ahead.stamp).max(self.stamp_kept(topic))
    }

    fn stamp_kept(&self, topic: &str) -> u64 {
        let removed = self.removals.by_topic.get(topic).copied().unwrap_or(0);
        self.get(topic).map_or(removed, |message| message.stamp.max(removed))
    }

    /// Whether a message with this stamp takes the place of what is kept at its topic.
    pub(crate) fn is_newest(&self, topic: &str, stamp: u64) -> bool {
        stamp > self.stamp_kept(topic)
    }

    /// Has a message found until the copy comes that is kept.
    pub(crate) fn set_ahead(&mut self, now: Millis, message: Arc<Message>) {
        if message.stamp <= self.stamp(&message.topic) {
            return;
        }
        if self.ahead.len() >= AHEAD_MAX {
            // What expired is not found any more, whether or not the other copy has come.
            self.ahead.retain(|_, ahead| !ahead.is_expired(now));
        }
        if self.ahead.len() < AHEAD_MAX {
            self.ahead.insert(message.topic.clone(), message);
        } else {
            // An older one would hide what is kept.
            self.ahead.remove(&message.topic);
        }
    }

    /// What is kept at the topic is now at this stamp. The message that came ahead, if it was the same.
    pub(crate) fn take_ahead(&mut self, topic: &str, stamp: u64) -> Option<Arc<Message>> {
        if self.ahead.get(topic)?.stamp > stamp {
            return None;
        }
        self.ahead.remove(topic).filter(|ahead| ahead.stamp == stamp)
    }

    /// Remembers a removal for some time. The topic whose removal is not remembered any more for it, if there is one.
    pub(crate) fn note_removal(&mut self, topic: &str, stamp: u64) -> Option<Box<str>> {
        if stamp == 0 {
            return None;
        }
        let Removals { by_topic, in_order } = &mut self.removals;
        by_topic.insert(topic.into(), stamp);
        in_order.push_back((topic.into(), stamp));
        if in_order.len() > REMOVALS_MAX
            && let Some((topic, stamp)) = in_order.pop_front()
            && by_topic.get(&topic) == Some(&stamp)
        {
            by_topic.remove(&topic);
            return Some(topic);
        }
        None
    }

    /// The stamp of a removal that is remembered.
    pub(crate) fn removal(&self, topic: &str) -> Option<u64> {
        self.removals.by_topic.get(topic).copied()
    }

    /// Whether a message of so many bytes may stand at the topic, or which bound forbids it.
    pub(crate) fn room(&self, limits: &Limits, topic: &str, bytes: usize) -> Result<(), Bound> {
        if is_own(topic) {
            return Ok(());
        }
        let (old_messages, old_bytes) = self.get(topic).map_or((0, 0), |old| (1, old.bytes()));
        if self.messages - old_messages >= limits.retained_messages_max {
            return Err(Bound::RetainedMessages);
        }
        if self.bytes - old_bytes + bytes > limits.retained_bytes_max {
            return Err(Bound::RetainedBytes);
        }
        Ok(())
    }

    /// Puts a message at its topic; `lsn` is where its record is.
    pub(crate) fn set(&mut self, message: Arc<Message>, lsn: Lsn) {
        self.count(&message, true);
        let slot = self.tree.entry(&message.topic);
        if let Some((old, _)) = slot.0.replace((message, lsn)) {
            self.count(&old, false);
        }
    }

    /// Forgets the message at a topic; whether there was one.
    pub(crate) fn remove(&mut self, topic: &str) -> bool {
        let Some((old, _)) = self.tree.remove(topic).and_then(|slot| slot.0) else { return false };
        self.count(&old, false);
        true
    }

    fn count(&mut self, message: &Message, added: bool) {
        match (is_own(&message.topic), added) {
            (true, _) => {}
            (false, true) => {
                self.messages += 1;
                self.bytes += message.bytes();
            }
            (false, false) => {
                self.messages -= 1;
                self.bytes -= message.bytes();
            }
        }
    }

    fn is_overtaken(&self, topic: &str) -> bool {
        !self.ahead.is_empty() && self.ahead.contains_key(topic)
    }

    /// The topics of all recorded messages, and of the removals that are remembered.
    pub(crate) fn topics(&self) -> Vec<Box<str>> {
        let mut topics: Vec<Box<str>> = self.removals.by_topic.keys().cloned().collect();
        self.tree.all(&mut |slot: &Slot| {
            let recorded = slot.0.iter().filter(|(_, lsn)| *lsn > Lsn(0));
            topics.extend(recorded.map(|(message, _)| message.topic.clone()));
        });
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// All messages that the filter matches and that have not expired; `None` where they are more than `max`.
    pub(crate) fn matching(&self, now: Millis, filter: &str, max: usize) -> Option<Vec<Due>> {
        let mut found = Vec::new();
        let mut find = |message: &Arc<Message>, lsn| {
            if !message.is_expired(now) {
                if found.len() == max {
                    return ControlFlow::Break(());
                }
                found.push((Arc::clone(message), lsn));
            }
            ControlFlow::Continue(())
        };
        let mut walked = self.tree.topics_matching(filter, &mut |slot: &Slot| {
            let kept = slot.0.iter().filter(|(message, _)| !self.is_overtaken(&message.topic));
            kept.clone().try_for_each(|(message, lsn)| find(message, *lsn))
        });
        let ahead =
            self.ahead.values().filter(|ahead| !ahead.payload.is_empty() && filter_matches(filter, &ahead.topic));
        for message in ahead {
            if walked.is_continue() {
                walked = find(message, Lsn(0));
            }
        }
        // In the order in which they were published, so that a replay finds the same.
        found.sort_unstable_by_key(|(_, lsn)| *lsn);
        walked.is_continue().then_some(found)
    }
}

/// What the broker itself says takes nobody's room.
fn is_own(topic: &str) -> bool {
    topic.starts_with("$SYS/") || is_presence(topic)
}
