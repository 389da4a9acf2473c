//! One decision.
//!
//! Owns what is asked for each action, and the answer with its reason.

use super::rule::Rule;
use super::{Action, Policy, RuleId, Rules, Subject, is_the_brokers};
use crate::{Principal, things};

/// The highest QoS there is.
const QOS_MAX: u8 = 2;

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow(Grant),
    /// Refuse.
    Deny(Denial),
}

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The highest QoS, 0 to 2.
    pub qos_max: u8,
    /// The rule that allows it; none of an open policy.
    pub rule: Option<RuleId>,
}

impl Grant {
    const OPEN: Grant = Grant { qos_max: QOS_MAX, rule: None };
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The topic is the broker's own.
    Broker,
    /// No rule allows this action.
    NoRule(Action),
    /// This rule denies it.
    Rule(RuleId),
    /// The rule that allows it does so up to this QoS.
    QoS(RuleId, u8),
    /// A shared subscription to messages of which this one may receive only some. The others' would be lost with it.
    SharedInPart,
}

impl Decision {
    pub(super) const OPEN: Decision = Decision::Allow(Grant::OPEN);

    /// The one that allows less.
    fn lower(self, other: Decision) -> Decision {
        match (self, other) {
            (Decision::Allow(one), Decision::Allow(another)) if another.qos_max < one.qos_max => other,
            (Decision::Allow(_), Decision::Deny(_)) => other,
            _ => self,
        }
    }

    /// Whether the answer is yes.
    #[inline]
    pub fn is_allowed(self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// What is allowed, if it is.
    ///
    /// # Errors
    /// Why it is not.
    #[inline]
    pub fn granted(self) -> Result<Grant, Denial> {
        match self {
            Decision::Allow(grant) => Ok(grant),
            Decision::Deny(denial) => Err(denial),
        }
    }
}

/// What the rules say of an action and a topic, whatever the message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    denied: Option<RuleId>,
    allowed: Option<(u8, RuleId)>,
}

impl Outcome {
    const NOTHING: Outcome = Outcome { denied: None, allowed: None };

    #[inline]
    fn see(&mut self, rules: &Rules, id: RuleId, action: Action, subject: Subject<'_>) {
        let terms = rules.terms[usize::from(id.0)];
        let wanted = if terms.is_allow { action.bit() } else { action.denied_with() };
        if terms.actions & wanted == 0 || !subject.rights.has(terms.role) {
            return;
        }
        if !terms.is_allow {
            self.denied = Some(self.denied.map_or(id, |first| first.min(id)));
        } else if self.allowed.is_none_or(|(qos, first)| (terms.qos_max, first) > (qos, id)) {
            self.allowed = Some((terms.qos_max, id));
        }
    }

    #[inline]
    pub(super) fn of_qos(self, action: Action, qos: u8) -> Decision {
        match self {
            Outcome { denied: Some(rule), .. } => Decision::Deny(Denial::Rule(rule)),
            Outcome { allowed: None, .. } => Decision::Deny(Denial::NoRule(action)),
            Outcome { allowed: Some((qos_max, rule)), .. } if action.has_qos() && qos > qos_max => {
                Decision::Deny(Denial::QoS(rule, qos_max))
            }
            Outcome { allowed: Some((qos_max, rule)), .. } => Decision::Allow(Grant { qos_max, rule: Some(rule) }),
        }
    }
}

impl Rules {
    /// All rules about a topic name.
    pub(super) fn look_up(&self, subject: Subject<'_>, action: Action, topic: &str) -> Outcome {
        let mut outcome = Outcome::NOTHING;
        self.tree.find(subject, topic, &mut |id| outcome.see(self, id, action, subject));
        outcome
    }

    fn rules_of(&self, subject: Subject<'_>) -> impl Iterator<Item = (usize, &Rule)> {
        let ranges = subject.rights.roles().filter_map(|role| self.of_role.get(role).cloned());
        ranges.flatten().filter_map(|at| Some((at, self.rules.get(at)?)))
    }

    /// All rules about a filter: those that allow all of it, and those that deny all of it.
    fn look_up_filter(&self, subject: Subject<'_>, filter: &str) -> Outcome {
        let mut outcome = Outcome::NOTHING;
        for (at, rule) in self.rules_of(subject) {
            if rule.topics.iter().any(|(topic, _)| topic.holds(subject, filter)) {
                outcome.see(self, RuleId(at as u16), Action::Subscribe, subject);
            }
        }
        outcome
    }

    /// Whether somebody may subscribe to a filter that is not shared, and at which QoS.
    fn subscribe(&self, subject: Subject<'_>, filter: &str) -> Decision {
        if !things::is_below_aws(filter) {
            return self.look_up_filter(subject, filter).of_qos(Action::Subscribe, 0);
        }
        // All that it stands for has to be allowed, and each of it may be up to another QoS.
        let nothing = Decision::Deny(Denial::NoRule(Action::Subscribe));
        let ours = things::filters(filter);
        let decisions = ours.iter().map(|ours| self.look_up_filter(subject, ours).of_qos(Action::Subscribe, 0));
        decisions.reduce(Decision::lower).unwrap_or(nothing)
    }

    fn receives_all(&self, subject: Subject<'_>, filter: &str) -> bool {
        match things::is_below_aws(filter) {
            false => self.receives_all_of(subject, filter),
            true => things::filters(filter).iter().all(|ours| self.receives_all_of(subject, ours)),
        }
    }

    fn receives_all_of(&self, subject: Subject<'_>, filter: &str) -> bool {
        let mut is_allowed = false;
        for (_, rule) in self.rules_of(subject) {
            let mut topics = rule.topics.iter().map(|(topic, _)| topic);
            if rule.terms.is_allow {
                is_allowed |=
                    rule.terms.actions & Action::Receive.bit() != 0 && topics.any(|topic| topic.holds(subject, filter));
            } else if rule.terms.actions & Action::Receive.denied_with() != 0
                && topics.any(|topic| topic.meets(subject, filter))
            {
                return false;
            }
        }
        is_allowed
    }
}

/// A message with its topic, as far as it is decided about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent<'a> {
    /// [`Action::Publish`] or [`Action::Will`].
    pub(super) action: Action,
    pub(super) topic: &'a str,
    pub(super) qos: u8,
    pub(super) retain: bool,
}

impl Sent<'_> {
    /// The decision, where `look_up` says what the rules say.
    #[inline]
    pub(super) fn decide(self, mut look_up: impl FnMut(Action, &str) -> Outcome) -> Decision {
        let sent = look_up(self.action, self.topic).of_qos(self.action, self.qos);
        if !self.retain || !sent.is_allowed() {
            return sent;
        }
        match look_up(Action::Retain, self.topic).of_qos(Action::Retain, self.qos) {
            Decision::Allow(_) => sent,
            denied => denied,
        }
    }
}

impl Policy {
    /// The rules, unless there are none or they are none for this one.
    #[inline]
    pub(super) fn rules_for(&self, subject: Subject<'_>) -> Option<&Rules> {
        self.rules.as_deref().filter(|_| !matches!(subject.principal, Principal::Shard(_)))
    }

    /// The rules about what somebody sends to a topic, if there are any.
    ///
    /// # Errors
    /// Nobody may send there, whatever the rules. Shards are no client: they hand on what was decided.
    #[inline]
    pub(super) fn sends(&self, subject: Subject<'_>, topic: &str) -> Result<Option<&Rules>, Denial> {
        match is_the_brokers(topic) && !matches!(subject.principal, Principal::Shard(_)) {
            true => Err(Denial::Broker),
            false => Ok(self.rules_for(subject)),
        }
    }

    /// Whether somebody may publish such a message. Topics are whole names here and below: after mounting.
    pub fn publish(&self, subject: Subject<'_>, topic: &str, qos: u8, retain: bool) -> Decision {
        self.sent(subject, Sent { action: Action::Publish, topic, qos, retain })
    }

    /// Whether somebody may leave such a message to be published when the connection is lost.
    pub fn will(&self, subject: Subject<'_>, topic: &str, qos: u8, retain: bool) -> Decision {
        self.sent(subject, Sent { action: Action::Will, topic, qos, retain })
    }

    fn sent(&self, subject: Subject<'_>, sent: Sent<'_>) -> Decision {
        match self.sends(subject, sent.topic) {
            Ok(Some(rules)) => sent.decide(|action, topic| rules.look_up(subject, action, topic)),
            Ok(None) => Decision::OPEN,
            Err(denial) => Decision::Deny(denial),
        }
    }

    /// Whether somebody may subscribe to a filter, and at which QoS. `is_shared`: the filter of a shared subscription. What may be
    /// received because of it is another question, which [`Policy::receives_all`] may answer for all of it.
    pub fn subscribe(&self, subject: Subject<'_>, filter: &str, is_shared: bool) -> Decision {
        let Some(rules) = self.rules_for(subject) else { return Decision::OPEN };
        let decision = rules.subscribe(subject, filter);
        // A member of a group who may not receive a message would take it from those who may.
        if is_shared && decision.is_allowed() && !rules.receives_all(subject, filter) {
            return Decision::Deny(Denial::SharedInPart);
        }
        decision
    }

    /// Whether somebody may be sent a message of this topic. Of one below `$aws`, our name of it decides.
    pub fn receive(&self, subject: Subject<'_>, topic: &str) -> Decision {
        if !self.is_open() && things::is_below_aws(topic) {
            let nothing = Decision::Deny(Denial::NoRule(Action::Receive));
            return things::topic(topic).map_or(nothing, |ours| self.topic(subject, Action::Receive, &ours));
        }
        self.topic(subject, Action::Receive, topic)
    }

    /// Whether somebody may have the broker carry out a command with this topic.
    pub fn command(&self, subject: Subject<'_>, topic: &str) -> Decision {
        self.topic(subject, Action::Command, topic)
    }

    fn topic(&self, subject: Subject<'_>, action: Action, topic: &str) -> Decision {
        match self.rules_for(subject) {
            Some(rules) => rules.look_up(subject, action, topic).of_qos(action, 0),
            None => Decision::OPEN,
        }
    }

    /// Whether it is certain that [`Policy::receive`] allows every topic that matches the filter.
    pub fn receives_all(&self, subject: Subject<'_>, filter: &str) -> bool {
        self.rules_for(subject).is_none_or(|rules| rules.receives_all(subject, filter))
    }

    /// Why not, for the log: with the name of the rule, which is nothing for the client.
    pub fn why(&self, denial: Denial) -> String {
        let name = |id| self.rule(id).map_or_else(|| "a rule".to_owned(), |rule| rule.to_string());
        match denial {
            Denial::Broker => "the topic belongs to the broker".to_owned(),
            Denial::NoRule(action) => format!("no rule allows it to {action}"),
            Denial::Rule(id) => format!("denied by {}", name(id)),
            Denial::QoS(id, qos_max) => format!("{} allows it up to QoS {qos_max}", name(id)),
            Denial::SharedInPart => {
                "a shared subscription is for those who may receive all that matches its filter".to_owned()
            }
        }
    }
}
