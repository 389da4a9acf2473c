//! The retained messages, one for each topic.
//!
//! Owns their bounds and the search by filter. It never delivers.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::index::LevelTree;
use crate::message::Message;
use crate::{Bound, Limits, Millis};

/// The store.
#[derive(Debug)]
pub(crate) struct Retained {
    tree: LevelTree<Slot>,
    messages: usize,
    bytes: usize,
}

/// What stands at a topic. Empty only while it is being filled.
#[derive(Debug, Default)]
struct Slot(Option<Arc<Message>>);

impl Retained {
    pub(crate) fn new(hash_seed: u64) -> Self {
        Retained { tree: LevelTree::new(hash_seed), messages: 0, bytes: 0 }
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.tree.get(topic)?.0.as_ref()
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

    pub(crate) fn set(&mut self, message: Arc<Message>) {
        self.count(&message, true);
        let slot = self.tree.entry(&message.topic);
        if let Some(old) = slot.0.replace(message) {
            self.count(&old, false);
        }
    }

    /// Forgets the message at a topic; whether there was one.
    pub(crate) fn remove(&mut self, topic: &str) -> bool {
        let Some(old) = self.tree.remove(topic).and_then(|slot| slot.0) else { return false };
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

    /// All messages that the filter matches and that have not expired; `None` where they are more than `max`.
    pub(crate) fn matching(&self, now: Millis, filter: &str, max: usize) -> Option<Vec<Arc<Message>>> {
        let mut found = Vec::new();
        let walked = self.tree.topics_matching(filter, &mut |slot: &Slot| {
            for message in slot.0.iter().filter(|message| !message.is_expired(now)) {
                if found.len() == max {
                    return ControlFlow::Break(());
                }
                found.push(Arc::clone(message));
            }
            ControlFlow::Continue(())
        });
        walked.is_continue().then_some(found)
    }
}

/// The broker's own figures take nobody's room.
fn is_own(topic: &str) -> bool {
    topic.starts_with("$SYS/")
}
