//! What must hold when all is over.
//!
//! Owns the last reckoning: nobody is owed anything, and the newest retained message of each topic is found on every shard.

use std::collections::BTreeMap;

use causeway_core::Gauges;
use causeway_protocol::QoS;

use super::{Kept, OwedToGroup, Several};
use crate::message::{FILTERS, MessageId, TOPICS};
use crate::oracle::{Rule, is_expired};

/// Which of two retained messages is the newer one, shards tell by their clocks, and count on from the last one they know: so far
/// apart, all of them say the same.
const CLEARLY_NEWER: u64 = 40;

impl Several {
    /// Everybody is connected, nothing is on its way, and nothing was left to do: nobody is owed anything any more.
    pub(super) fn settled(&mut self, now: u64, gauges: &[Gauges]) {
        let (mut lost, mut shared) = (Vec::new(), Vec::new());
        for owed in self.owed.iter().filter(|owed| !owed.came && !owed.is_optional && !is_expired(owed.expires_at, now))
        {
            let is_reliable = self.careful[owed.client] && !self.drops_oldest[owed.client];
            if is_reliable && self.is_current(owed.client, owed.epoch) {
                lost.push(format!("client {} is still owed {}: {owed:?}", owed.client, self.describe(owed.message)));
            }
        }
        let groups = self.owed_to_groups.iter().filter(|owed| !owed.came && !owed.is_optional);
        for owed in groups.filter(|owed| !is_expired(owed.expires_at, now) && self.has_member_from_then(owed)) {
            shared.push(format!("{} is still owed {}: {owed:?}", FILTERS[owed.filter], self.describe(owed.message)));
        }
        for (shard, gauges) in gauges.iter().enumerate() {
            let held = (gauges.queued_messages, gauges.inflight_messages);
            if held != (0, 0) {
                lost.push(format!("shard {shard} still holds {held:?}"));
            }
        }
        lost.into_iter().for_each(|detail| self.breach(Rule::Lost, detail));
        shared.into_iter().for_each(|detail| self.breach(Rule::SharedLost, detail));
    }

    /// Whether somebody was a member of the group all the while.
    fn has_member_from_then(&self, owed: &OwedToGroup) -> bool {
        owed.members.iter().any(|(client, epoch, asked)| {
            let session = self.sessions[*client].as_ref().filter(|session| session.epoch == *epoch);
            let stays = session.into_iter().flat_map(|session| &session.stays);
            stays.into_iter().any(|stay| (stay.filter, stay.asked, stay.ended) == (owed.filter, *asked, None))
        })
    }

    /// What new subscribers found that asked for everything retained, one on each shard.
    pub(super) fn judge_found(&mut self, (asked_at, now): (u64, u64), seen: Vec<Vec<(MessageId, QoS)>>) {
        let found: Vec<BTreeMap<usize, MessageId>> = seen
            .iter()
            .map(|seen| seen.iter().map(|(message, _)| (self.registry.get(*message).topic, *message)).collect())
            .collect();
        for (topic, name) in TOPICS.iter().enumerate() {
            let (first, rest) = found.split_first().map_or((None, &[][..]), |(first, rest)| (first.get(&topic), rest));
            let kept: Vec<&Kept> =
                self.kept.iter().filter(|kept| self.registry.get(kept.message).topic == topic).collect();
            let may_expire = kept.iter().any(|kept| self.registry.get(kept.message).expiry_seconds.is_some());
            let mut wrong = Vec::new();
            if rest.iter().any(|other| other.get(&topic) != first) && !may_expire {
                wrong.push("shards differ".to_owned());
            }
            let newest = kept.iter().filter(|kept| kept.is_sure).map(|kept| kept.at).max().unwrap_or(0);
            let candidates = kept.iter().filter(|kept| kept.at.saturating_add(CLEARLY_NEWER) >= newest);
            let candidates: Vec<&&Kept> = candidates.collect();
            // Nothing is found of what was removed, or expired, or never survived.
            let may_be_none = newest == 0
                || candidates.iter().any(|kept| {
                    kept.message == crate::message::Registry::clearing(topic)
                        || is_expired(kept.expires_at, now)
                        || self.registry.get(kept.message).is_will
                });
            for one in found.iter().map(|found| found.get(&topic)) {
                let fits = match one {
                    None => may_be_none,
                    Some(message) => {
                        let mut fitting = candidates.iter().filter(|kept| kept.message == *message);
                        fitting
                            .any(|kept| kept.may_be_late || !is_expired(kept.expires_at, asked_at.saturating_sub(1000)))
                    }
                };
                if !fits {
                    wrong.push(format!("{one:?} is none of {candidates:?}"));
                }
            }
            if !wrong.is_empty() {
                let describe = |message: &MessageId| self.describe(*message);
                let all: Vec<_> = found.iter().map(|found| found.get(&topic).map(describe)).collect();
                let detail = format!("retained at {name}: {all:?}; {}", wrong.join(", "));
                self.breach(Rule::RetainedElsewhere, detail);
            }
        }
    }
}
