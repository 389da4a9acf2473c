//! Who wants a message.
//!
//! Owns the share of each session in a message, overlapping subscriptions merged, and which shared subscriptions it is for. What becomes of them is said in
//! `deliver`; it hands nothing out.

use causeway_fleet::Vin;
use causeway_fleet::command::{self, CommandId};
use causeway_fleet::mount;
use causeway_protocol::{QoS, filter_matches};
use slab::Slab;

use super::Shard;
use super::deliver::Origin;
use super::peers::is_peer_session;
use crate::index::{Subscription, Target};
use crate::message::{CopyFor, Publication};
use crate::session::{Identifiers, Session, SessionKey};
use crate::shared::{GroupKey, Groups};

/// One session's share of a routed message, overlapping subscriptions merged.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) session: SessionKey,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    /// It need not outlive a crash for this one.
    pub(super) fleeting: bool,
    /// Of another shard: one of those there has no room.
    pub(super) full: bool,
    /// Another shard keeps what is retained, too: it gets the message whatever its QoS, and loses none.
    pub(super) replicates: bool,
    pub(super) identifiers: Identifiers,
}

impl Shard {
    /// Fills `matches` (each session once) and `matched_groups`. A message that another shard handed over for one group is for that alone.
    pub(super) fn collect_matches_of(&mut self, publication: &Publication<'_>, origin: Origin) {
        match publication.copy {
            CopyFor::Everybody | CopyFor::Present => {}
            CopyFor::Later => return,
            CopyFor::Home => return self.match_home(publication),
        }
        if publication.topic.is_empty() {
            // What became of a command, where nobody wants to be sent it.
            self.turn += 1;
            return;
        }
        if publication.stamp == 0 || publication.retain {
            self.collect_matches(publication.topic, origin);
            if let Some(id) = publication.command {
                self.collect_by_id(publication.topic, id);
            }
            return;
        }
        self.turn += 1;
        // Another group may have been given a name with the same number.
        let is_of_group = |key: &GroupKey| {
            let group = self.groups.get(*key);
            group.is_some_and(|group| filter_matches(&group.filter, publication.topic))
                && !is_hidden_from(&self.groups, *key, publication.topic)
        };
        self.matched_groups.extend(self.groups.numbered(publication.stamp).filter(is_of_group));
    }

    /// Likewise, of a topic's name alone.
    pub(super) fn collect_matches(&mut self, topic: &str, origin: Origin) {
        self.turn += 1;
        let publisher = origin.publisher();
        let is_from_peer = self.is_from_peer(origin);
        let Shard { index, sessions, groups, matches, matched_groups, turn, peer_sessions, .. } = self;
        // What comes from another shard goes no further, and each shard says its own word.
        let stays = is_from_peer || (origin == Origin::Broker && !peer_sessions.is_empty());
        index.matches(topic, |target| match target {
            Target::Session(session, _) if stays && is_peer_session(sessions, session) => {}
            // What another shard's clients share was given to one of them there, or comes by itself.
            Target::Group(_) if is_from_peer => {}
            Target::Group(group) if is_hidden_from(groups, group, topic) => {}
            Target::Group(group) => matched_groups.push(group),
            // A vehicle's wildcard does not stand for names of the broker.
            Target::Session(_, subscription) if subscription.wide && mount::is_hidden(topic) => {}
            //= [MQTT-3.8.3-3] No Local: not back to who published it
            Target::Session(session, subscription) if subscription.no_local && publisher == Some(session) => {}
            Target::Session(key, subscription) => {
                let Some(session) = sessions.get_mut(key as usize) else {
                    return;
                };
                if session.mark.0 == *turn {
                    merge(&mut matches[session.mark.1 as usize], subscription);
                    return;
                }
                session.mark = (*turn, matches.len() as u32);
                matches.push(first_match(key, subscription));
            }
        });
    }

    /// Adds those of a vehicle's clients that take the message of a command only by a topic with its number.
    fn collect_by_id(&mut self, topic: &str, id: CommandId) {
        let Some((vin, _)) = command::of_topic(topic) else { return };
        let Shard { index, sessions, groups, matches, matched_groups, turn, .. } = self;
        let known = matches.len();
        index.matches(&command::topic_with_id(topic, id), |target| match target {
            Target::Group(group) => {
                let mut members = groups.get(group).into_iter().flat_map(|group| group.members());
                let is_its = members.any(|(member, _)| is_of_vehicle(sessions, member, &vin));
                if is_its && !matched_groups.contains(&group) {
                    matched_groups.push(group);
                }
            }
            Target::Session(key, subscription) if is_of_vehicle(sessions, key, &vin) => {
                let Some(session) = sessions.get_mut(key as usize) else { return };
                if session.mark.0 != *turn {
                    session.mark = (*turn, matches.len() as u32);
                    matches.push(first_match(key, subscription));
                } else if session.mark.1 as usize >= known {
                    merge(&mut matches[session.mark.1 as usize], subscription);
                }
            }
            Target::Session(..) => {}
        });
    }
}

impl Match {
    /// At which QoS a message published with `qos` is delivered.
    pub(super) fn qos_of(&self, qos: QoS) -> QoS {
        //= [MQTT-3.3.4-2] [MQTT-3.8.4-8] QoS of the message, bounded by the highest of the matching subscriptions
        let qos = self.qos.min(qos);
        if self.replicates { qos.max(QoS::AtLeastOnce) } else { qos }
    }
}

fn first_match(session: SessionKey, subscription: Subscription) -> Match {
    let mut identifiers = Identifiers::new();
    if subscription.identifier != 0 {
        identifiers.push(subscription.identifier);
    }
    let Subscription { qos, retain_as_published, fleeting, full, .. } = subscription;
    Match { session, qos, retain_as_published, fleeting, full, replicates: false, identifiers }
}

/// Overlapping subscriptions make one delivery: the highest QoS, and all identifiers.
fn merge(matched: &mut Match, subscription: Subscription) {
    matched.qos = matched.qos.max(subscription.qos);
    matched.retain_as_published |= subscription.retain_as_published;
    matched.fleeting &= subscription.fleeting;
    matched.full |= subscription.full;
    //= [MQTT-3.3.4-4] one copy carries the identifiers of all subscriptions that asked for it
    if subscription.identifier != 0 {
        matched.identifiers.push(subscription.identifier);
    }
}

fn is_of_vehicle(sessions: &Slab<Session>, key: SessionKey, vin: &Vin) -> bool {
    sessions.get(key as usize).is_some_and(|session| session.principal.vin() == Some(vin))
}

/// Whether those who share are vehicles, whose wildcard does not stand for this topic.
fn is_hidden_from(groups: &Groups, key: GroupKey, topic: &str) -> bool {
    groups.get(key).is_some_and(|group| group.wide > 0) && mount::is_hidden(topic)
}
