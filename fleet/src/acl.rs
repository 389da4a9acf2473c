//! Who may do what.
//!
//! Owns the decision and its reason. It never knows sessions or packets; the caller answers the client.

use crate::{Principal, mount};

/// What somebody wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a message to a topic name.
    Publish,
    /// Receive the messages that match a topic filter.
    Subscribe,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Go ahead.
    Allow,
    /// Refuse, for this reason (a sentence for the log and for the client's operator).
    Deny(&'static str),
}

impl Decision {
    /// Whether the answer is yes.
    pub fn is_allowed(self) -> bool {
        self == Decision::Allow
    }
}

/// Whether `principal` may do `action` with `topic`, a topic name for publishing and a topic filter for subscribing.
///
/// Topics and filters are full ones: what a vehicle says is mounted before. Everybody who was let in may do everything, except publish the
/// broker's own word: below `$SYS/`, and behind a mount what begins with `$`.
pub fn decide(_principal: &Principal, action: Action, topic: &str) -> Decision {
    match action {
        Action::Publish if mount::is_brokers(topic) => Decision::Deny("the topic belongs to the broker"),
        Action::Publish | Action::Subscribe => Decision::Allow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_publishing_the_brokers_word_is_refused() {
        let everybody = [Principal::Anonymous, Principal::service("alice")];
        let rows = [
            (Action::Publish, "vehicles/1/state", true),
            (Action::Publish, "$SYS", false),
            (Action::Publish, "$SYS/uptime", false),
            (Action::Publish, "vehicles/1/$shadow/get", false),
            (Action::Publish, "groups/g/$x", false),
            (Action::Publish, "fleet/$x", false),
            (Action::Publish, "$SYSTEM/uptime", true),
            (Action::Publish, "$presence/1M8GDM9AXKP042788", false),
            (Action::Publish, "$presence", false),
            (Action::Publish, "$presences", true),
            (Action::Publish, "a/$SYS/b", true),
            (Action::Subscribe, "$SYS/#", true),
            (Action::Subscribe, "#", true),
        ];
        for principal in &everybody {
            for (action, topic, allowed) in rows {
                assert_eq!(decide(principal, action, topic).is_allowed(), allowed, "{principal} {action:?} {topic}");
            }
        }
    }
}
