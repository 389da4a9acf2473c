//! Folding the state, so that old records can go: what changed since the last time, in slices, while everything goes on.
//!
//! Owns the order of a fold. A slice holds each session as it is when its turn comes, later than the fold began; so each
//! says up to which record it is true, and a replay skips what it already has. Nothing may be committed before the log is
//! durable that far. The layout of keys and values is in [`crate::folded`].

use causeway_fleet::Vin;
use causeway_fleet::command::CommandId;

use super::Shard;
use super::changed::{Changed, Keys};
use crate::Lsn;
use crate::folded;
use crate::history::HISTORY;
use crate::session::SessionKey;
use crate::shared::GroupKey;

/// One change of the folded state, to be made in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Puts or replaces.
    Put {
        /// Opaque.
        key: Vec<u8>,
        /// Opaque.
        value: Vec<u8>,
    },
    /// Removes, if it is there.
    Remove {
        /// Opaque.
        key: Vec<u8>,
    },
    /// Removes the first entries whose keys are not before one and are before the other, those that were put before this included.
    RemoveRange {
        /// Opaque.
        from: Vec<u8>,
        /// Opaque.
        to: Vec<u8>,
        /// No more than so many.
        entries_max: usize,
    },
    /// The body of this record is owed to nobody any more.
    RemoveBody(Lsn),
}

/// The end of a fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointEnd {
    /// A replay begins behind this record.
    pub applied: Lsn,
    /// The fold may be committed once the log is durable up to this record.
    pub through: Lsn,
}

#[derive(Debug)]
pub(super) struct Checkpoint {
    applied: Lsn,
    clears: bool,
    sessions: Keys,
    next_session: SessionKey,
    groups: Vec<GroupKey>,
    topics: Vec<Box<str>>,
    shadows: Vec<(Vin, Option<Box<str>>)>,
    commands: Vec<CommandId>,
    /// Messages that were owed to nobody when it began.
    resting: Vec<Lsn>,
}

impl Shard {
    /// Begins a fold of all that changed since the last one. False where nothing did, or one is under way.
    pub fn begin_checkpoint(&mut self) -> bool {
        if self.checkpoint.is_some() || self.recorder.last() <= self.folded || !self.changed.is_noted {
            return false;
        }
        let changed = std::mem::replace(&mut self.changed, Changed { is_noted: true, ..Changed::default() });
        // They are told at the end, together with those who end meanwhile.
        self.changed.ended_sessions = changed.ended_sessions;
        self.changed.ended_groups = changed.ended_groups;
        let mut topics: Vec<Box<str>> = changed.topics.into_iter().collect();
        topics.sort_unstable_by(|one, other| other.cmp(one));
        let mut checkpoint = Checkpoint {
            applied: self.recorder.last(),
            clears: self.fold_failed,
            sessions: changed.sessions,
            next_session: 0,
            groups: changed.groups.into_iter().collect(),
            topics,
            shadows: changed.shadows.into_iter().rev().collect(),
            commands: changed.commands.into_iter().rev().collect(),
            resting: self.queues.bodies.take_resting(),
        };
        if std::mem::take(&mut self.fold_failed) {
            self.change_everything(&mut checkpoint);
        }
        self.history.begin();
        self.checkpoint = Some(checkpoint);
        true
    }

    /// The folded state may be anything now: all of it is written again.
    fn change_everything(&mut self, checkpoint: &mut Checkpoint) {
        for (key, session) in &mut self.sessions {
            checkpoint.sessions.insert(key as SessionKey);
            session.used_lanes_mut().for_each(|(_, lane)| lane.forget_saved());
        }
        checkpoint.groups = self.groups.iter().map(|(key, _)| key).collect();
        checkpoint.topics = self.retained.topics();
        checkpoint.topics.reverse();
        checkpoint.shadows = self.shadows.names();
        checkpoint.shadows.sort_unstable_by(|one, other| other.cmp(one));
        checkpoint.commands = self.commands.all_ids().rev().collect();
    }

    /// The next changes of the fold, about `work` steps of them. The end comes once, with the last changes.
    pub fn poll_checkpoint(&mut self, work: usize, changes: &mut Vec<Change>) -> Option<CheckpointEnd> {
        let mut checkpoint = self.checkpoint.take()?;
        if std::mem::take(&mut checkpoint.clears) {
            // The fold is a whole one, but for the history, which is not the shard's to write again.
            changes.push(Change::RemoveRange { from: Vec::new(), to: vec![HISTORY], entries_max: usize::MAX });
        }
        let mut done = 0;
        while done < work {
            if let Some(key) = checkpoint.sessions.next(checkpoint.next_session) {
                checkpoint.next_session = key + 1;
                done += 1 + self.fold_session(key, changes);
            } else if let Some(key) = checkpoint.groups.pop() {
                done += 1 + self.fold_group(key, changes);
            } else if let Some(topic) = checkpoint.topics.pop() {
                done += 1;
                changes.push(match (self.retained.get_recorded(&topic), self.retained.removal(&topic)) {
                    (Some((message, lsn)), _) => folded::put_retained(message, *lsn),
                    (None, Some(stamp)) => folded::put_removal(&topic, stamp),
                    (None, None) => folded::remove_retained(&topic),
                });
            } else if let Some((vin, name)) = checkpoint.shadows.pop() {
                done += 1;
                changes.push(match self.shadows.get((vin, name.as_deref())) {
                    Some(kept) => folded::put_shadow(&vin, kept.name(), kept.as_folded()),
                    None => folded::remove_shadow(&vin, name.as_deref()),
                });
            } else if self.history.fold_next(changes) {
                done += 1;
            } else if let Some(id) = checkpoint.commands.pop() {
                done += 1;
                changes.push(match self.commands.get(id) {
                    Some(command) => folded::put_command(id, command),
                    None => folded::remove_command(id),
                });
            } else {
                self.fold_moved(changes);
                self.fold_ended(changes);
                self.history.finish(changes);
                changes.push(self.fold_pruned());
                changes.push(folded::put_meta(self.epoch, self.newest));
                let end = CheckpointEnd { applied: checkpoint.applied, through: self.recorder.last() };
                self.folding = Some((end.applied, checkpoint.resting));
                return Some(end);
            }
        }
        self.checkpoint = Some(checkpoint);
        None
    }

    /// The fold was committed, or failed and left what was before. After a failure the next one is a whole one.
    pub fn checkpoint_ended(&mut self, committed: bool) {
        if let Some(checkpoint) = self.checkpoint.take() {
            self.queues.bodies.rested(checkpoint.resting, false);
        }
        let (applied, resting) = self.folding.take().unzip();
        match applied.filter(|_| committed) {
            Some(applied) => self.folded = applied,
            None => self.fold_failed = true,
        }
        self.history_ended(committed);
        self.queues.bodies.rested(resting.unwrap_or_default(), committed);
    }

    fn fold_session(&mut self, key: SessionKey, changes: &mut Vec<Change>) -> usize {
        let as_of = self.recorder.last();
        let Some(session) = self.sessions.get_mut(key as usize).filter(|session| session.recorded) else { return 0 };
        let open = session.connection.and_then(|id| self.connections.get(id.index()));
        let will = open.and_then(|connection| connection.will.as_deref());
        folded::put_session(session, &self.queues, open.is_some(), will, as_of, changes)
    }

    fn fold_group(&mut self, key: GroupKey, changes: &mut Vec<Change>) -> usize {
        let Some(group) = self.groups.get(key) else { return 0 };
        changes.push(folded::put_group(group, &self.queues, self.recorder.last()));
        group.queue.len() / 16
    }

    /// Groups that began during the fold, or that a member left. A session in the fold may be a member, and without an entry of the
    /// group's own a replay would take it for one that was there all along, and give it what was published before it began. And
    /// of whoever left nothing may be in the fold, so that a replay would not know for whom a message waited there.
    fn fold_moved(&mut self, changes: &mut Vec<Change>) {
        for key in std::mem::take(&mut self.changed.moved_groups) {
            self.fold_group(key, changes);
        }
    }

    fn fold_ended(&mut self, changes: &mut Vec<Change>) {
        for ended in std::mem::take(&mut self.changed.ended_sessions) {
            folded::remove_session(ended.epoch, ended.saved, changes);
        }
        for (share_name, filter) in std::mem::take(&mut self.changed.ended_groups) {
            // It may have begun anew since.
            let name = (share_name, filter);
            match self.group_by_name.get(&name).and_then(|key| self.groups.get(*key)) {
                Some(group) => changes.push(folded::put_group(group, &self.queues, self.recorder.last())),
                None => changes.push(folded::remove_group(&name.0, &name.1)),
            }
        }
        changes.extend(self.queues.bodies.take_freed().into_iter().map(Change::RemoveBody));
    }

    /// Bytes of the messages recorded from `from` to before `to` that anybody is still owed, or would be again after a crash;
    /// about.
    pub fn live_bytes(&self, from: Lsn, to: Lsn) -> u64 {
        self.queues.bodies.live_bytes(from, to)
    }

    /// The messages recorded from `from` to before `to` that anybody is still owed, or would be again after a crash: a
    /// message that was finished stays among them until a fold that began later is committed.
    pub fn live_in(&self, from: Lsn, to: Lsn) -> Vec<Lsn> {
        self.queues.bodies.live(from, to).collect()
    }

    /// All bodies that are owed and recorded before this were moved out of the log.
    pub fn bodies_moved(&mut self, before: Lsn) {
        self.queues.bodies.moved_before(before);
    }
}
