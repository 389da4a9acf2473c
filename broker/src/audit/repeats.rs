//! The same again and again is one line.
//!
//! Owns what counts as the same, and for how long. The first is told at once; how often it came again, at the end of its window.
//! What a flood of different strangers may have told is bounded, too.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use causeway_protocol::ReasonCode;

use super::event::{AuditEvent, Decision, What};

/// For so long, the same is counted.
pub(super) const WINDOW: Duration = Duration::from_secs(5);
/// So many different refusals are told in one window. The others are one line for each kind.
const KINDS_MAX: usize = 500;

/// What makes two refusals the same. What each was about in particular, the first one tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    what: What,
    who: String,
    client: String,
    address: Option<IpAddr>,
    reason: Option<ReasonCode>,
    rule: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// When the window ends, if one has begun.
    ends: Option<Instant>,
    /// How many came after the first.
    again: HashMap<Kind, (u64, AuditEvent)>,
    /// Those beyond [`KINDS_MAX`].
    others: HashMap<(What, Option<ReasonCode>), u64>,
}

impl Repeats {
    /// Whether the event is to be told now.
    pub(super) fn admit(&mut self, event: &AuditEvent, now: Instant) -> bool {
        if event.decision != Decision::Deny {
            return true;
        }
        self.ends.get_or_insert(now + WINDOW);
        let kind = Kind {
            what: event.what,
            who: event.who.clone(),
            client: event.client.clone(),
            address: event.peer.map(|peer| peer.ip()),
            reason: event.reason,
            rule: event.rule.clone(),
        };
        if let Some((count, last)) = self.again.get_mut(&kind) {
            *count += event.count;
            last.clone_from(event);
            return false;
        }
        if self.again.len() >= KINDS_MAX {
            *self.others.entry((event.what, event.reason)).or_default() += event.count;
            return false;
        }
        self.again.insert(kind, (0, event.clone()));
        true
    }

    /// When there may be something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ends
    }

    /// What was counted, at the end of the window, or now where nothing follows.
    pub(super) fn take(&mut self, now: Option<Instant>) -> Vec<AuditEvent> {
        if self.ends.is_none_or(|ends| now.is_some_and(|now| now < ends)) {
            return Vec::new();
        }
        self.ends = None;
        let again = self.again.drain().filter(|(_, (count, _))| *count > 0);
        let mut told: Vec<_> = again.map(|(_, (count, last))| AuditEvent { count, ..last }).collect();
        told.extend(self.others.drain().map(|((what, reason), count)| {
            let detail = "of many different clients";
            AuditEvent { reason, count, ..AuditEvent::new(what, Decision::Deny, detail) }
        }));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(client: &str) -> AuditEvent {
        AuditEvent { client: client.to_owned(), ..AuditEvent::new(What::Publish, Decision::Deny, "why") }
    }

    #[test]
    fn the_first_is_told_and_the_others_are_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!(repeats.admit(&refusal("a"), now) && repeats.admit(&refusal("b"), now));
        assert!(!repeats.admit(&refusal("a"), now) && !repeats.admit(&refusal("a"), now));
        assert_eq!(repeats.take(Some(now)), []);
        let told = repeats.take(Some(now + WINDOW));
        assert_eq!(told, [AuditEvent { count: 2, ..refusal("a") }]);
        assert!(repeats.due().is_none() && repeats.admit(&refusal("a"), now + WINDOW), "a window of its own");
    }

    #[test]
    fn a_flood_of_strangers_is_a_few_lines() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let told = (0..100_000).filter(|number| repeats.admit(&refusal(&number.to_string()), now)).count();
        assert_eq!(told, KINDS_MAX);
        let counted = repeats.take(None);
        assert_eq!((counted.len(), counted[0].count), (1, 100_000 - KINDS_MAX as u64));
    }

    #[test]
    fn what_is_no_refusal_is_always_told() {
        let mut repeats = Repeats::default();
        let change = AuditEvent::new(What::Registry, Decision::Allow, "");
        assert!((0..3).all(|_| repeats.admit(&change, Instant::now())) && repeats.due().is_none());
    }
}
