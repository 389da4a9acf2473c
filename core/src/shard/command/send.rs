//! A command goes to its vehicle.
//!
//! Owns when it can, and by which name a client gets it. Once it is queued for a vehicle's session it goes the way of any message, but never
//! after the command is over.

use std::borrow::Cow;
use std::sync::Arc;

use causeway_fleet::command::{self, CommandId};
use causeway_fleet::{Principal, Vin};
use causeway_protocol::{ProtocolVersion, filter_matches, parse_shared};

use super::{Commands, State};
use crate::Millis;
use crate::index::Target;
use crate::message::{Message, Publication, Step};
use crate::session::SessionKey;
use crate::shard::Shard;
use crate::shard::deliver::Origin;
use crate::shared::{GroupKey, Groups};
use crate::subscriptions::Subscriptions;

impl Shard {
    /// Whether a client of the vehicle is connected that is subscribed to the command.
    pub(super) fn is_vehicle_here(&self, vin: &Vin, topic: &str, id: CommandId) -> bool {
        let is_client = |key: SessionKey| {
            let session = self.sessions.get(key as usize);
            session.is_some_and(|session| session.connection.is_some() && session.principal.vin() == Some(vin))
        };
        let mut is_here = false;
        for topic in [Cow::Borrowed(topic), Cow::Owned(command::topic_with_id(topic, id))] {
            self.index.matches(&topic, |target| {
                is_here = is_here
                    || match target {
                        Target::Session(key, _) => is_client(key),
                        Target::Group(group) => is_shared_by(&self.groups, group, is_client),
                    }
            });
        }
        is_here
    }

    /// A client of a vehicle came, or subscribed: it gets what waits for it.
    pub(in crate::shard) fn send_waiting(&mut self, now: Millis, key: SessionKey) {
        let vin = self.sessions.get(key as usize).and_then(|session| session.principal.vin());
        let Some(vin) = vin.filter(|vin| self.commands.any_waits_for(vin)).copied() else { return };
        for id in self.commands.pending_of(&vin).to_vec() {
            let Some(command) = self.commands.get(id).filter(|command| command.deadline > now) else { continue };
            let State::Waiting(message) = &command.state else { continue };
            let message = Arc::clone(message);
            if self.is_vehicle_here(&vin, &message.topic, id) {
                self.send_command(now, id, &message);
            }
        }
    }

    fn send_command(&mut self, now: Millis, id: CommandId, message: &Message) {
        let mut publication = Publication::of_message(message);
        publication.step = Step::Sent(id);
        let at = self.route_command(now, &mut publication, Origin::Broker);
        self.commands.sent(id, at);
        self.changed.command(id);
    }
}

/// Whether this, the message of a command, is not to go to its vehicle any more. Others who are subscribed may still be told of it.
pub(in crate::shard) fn is_too_late(
    commands: &Commands,
    who: &Principal,
    (message, id): (&Message, CommandId),
    now: Millis,
) -> bool {
    who.vin().is_some() && (message.is_expired(now) || commands.is_over(id))
}

fn is_shared_by(groups: &Groups, group: GroupKey, is_client: impl Fn(SessionKey) -> bool) -> bool {
    groups.get(group).is_some_and(|group| group.members().any(|(member, _)| is_client(member)))
}

/// The topic by which a client gets the message of a command: with its number where there are no properties to carry that, if its subscriptions
/// take it, and where they take nothing else.
pub(in crate::shard) fn topic_for<'t>(
    (who, subscriptions): (&Principal, &Subscriptions),
    version: ProtocolVersion,
    (topic, id): (&'t str, CommandId),
) -> Cow<'t, str> {
    if who.vin().is_none() {
        return Cow::Borrowed(topic);
    }
    let takes = |topic: &str| {
        subscriptions.iter().any(|(filter, _)| {
            let shared = parse_shared(filter).ok().flatten();
            filter_matches(shared.map_or(filter, |shared| shared.filter), topic)
        })
    };
    if version == ProtocolVersion::V5 && takes(topic) {
        return Cow::Borrowed(topic);
    }
    let with_id = command::topic_with_id(topic, id);
    if takes(&with_id) { Cow::Owned(with_id) } else { Cow::Borrowed(topic) }
}
