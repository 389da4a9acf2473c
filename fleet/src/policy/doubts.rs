//! Rules that cannot mean what they say.
//!
//! Owns finding rules that contradict each other, and those that never decide anything. It never changes what is decided.

use std::cell::OnceCell;

use super::is_the_brokers;
use super::problem::Problem;
use super::rule::{Action, Role, Rule};
use super::template::Template;
use crate::things;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// The same allowed and denied to the same: nobody can mean that.
    pub(super) contradictions: Vec<Problem>,
    /// Rules, or topics of rules, that never decide anything.
    pub(super) warnings: Vec<Problem>,
}

/// Looks at each rule with each other.
pub(super) fn find(text: &str, roles: &[Role], rules: &[Rule]) -> Doubts {
    let known = vec![OnceCell::new(); roles.len() * roles.len()];
    let all = All { text, roles, rules, known };
    let mut doubts = Doubts::default();
    for at in 0..rules.len() {
        let before = doubts.contradictions.len();
        all.find_contradictions(at, &mut doubts.contradictions);
        // What contradicts is never reached, too: once is enough.
        if doubts.contradictions.len() == before {
            all.find_unreachable(at, &mut doubts.warnings);
        }
    }
    doubts
}

struct All<'a> {
    text: &'a str,
    roles: &'a [Role],
    rules: &'a [Rule],
    /// Whether a role has all members of another, once that was asked: it is asked for each two rules of theirs.
    known: Vec<OnceCell<bool>>,
}

impl All<'_> {
    fn role(&self, rule: &Rule) -> &Role {
        &self.roles[usize::from(rule.terms.role)]
    }

    /// Whether one rule is about all whom another is about.
    fn has_members_of(&self, outer: &Rule, inner: &Rule) -> bool {
        let (one, other) = (usize::from(outer.terms.role), usize::from(inner.terms.role));
        let covers = || self.roles[one].covers(&self.roles[other]);
        one == other
            || self.known.get(one * self.roles.len() + other).map_or_else(covers, |known| *known.get_or_init(covers))
    }

    fn told(&self, rule: &Rule) -> String {
        format!("rule {:?} of role {:?} in line {}", rule.name, self.role(rule).name, rule.line)
    }

    fn find_contradictions(&self, at: usize, problems: &mut Vec<Problem>) {
        let rule = &self.rules[at];
        for other in self.rules[..at].iter().filter(|other| other.terms.is_allow != rule.terms.is_allow) {
            let actions: Vec<&str> =
                rule.actions().filter(|action| other.terms.actions & action.bit() != 0).map(Action::word).collect();
            if actions.is_empty() || !self.has_members_of(rule, other) || !self.has_members_of(other, rule) {
                continue;
            }
            let same = rule.topics.iter().find(|(topic, _)| other.topics.iter().any(|(same, _)| is_same(topic, same)));
            if let Some((topic, bytes)) = same {
                let effect = if rule.terms.is_allow { "allowed" } else { "denied" };
                let message = format!(
                    "contradiction: {:?} is {effect} here for {}, and {} says the opposite for the same members: remove one of them",
                    topic.text(),
                    actions.join(", "),
                    self.told(other),
                );
                problems.push(Problem::at(self.text, bytes.clone(), message));
            }
        }
    }

    fn find_unreachable(&self, at: usize, warnings: &mut Vec<Problem>) {
        let rule = &self.rules[at];
        let dead: Vec<Option<String>> = rule.topics.iter().map(|(topic, _)| self.why_dead(at, topic)).collect();
        // Said of the rule where all of it is dead, for the same reason.
        if let Some(Some(why)) = dead.first()
            && dead.iter().all(|other| other.as_ref() == Some(why))
        {
            let message = format!("rule {:?} never decides anything: {why}", rule.name);
            warnings.push(Problem::at(self.text, rule.place.clone(), message));
            return;
        }
        for ((topic, bytes), why) in rule.topics.iter().zip(dead) {
            if let Some(why) = why {
                let message = format!("{:?} never decides anything in rule {:?}: {why}", topic.text(), rule.name);
                warnings.push(Problem::at(self.text, bytes.clone(), message));
            }
        }
    }

    /// Why a topic of a rule makes no difference, if so.
    fn why_dead(&self, at: usize, topic: &Template) -> Option<String> {
        let rule = &self.rules[at];
        let is_for = |member: &super::member::Member| topic.placeholders().all(|own| member.has(own));
        if !self.role(rule).members.iter().any(is_for) {
            let placeholders: Vec<&str> = topic.placeholders().map(|own| own.text()).collect();
            let name = &self.role(rule).name;
            return Some(format!("no member of role {name:?} has a value for {}", placeholders.join(" and ")));
        }
        if is_the_brokers(topic.text()) && rule.actions().all(|action| !has_broker_topics(action)) {
            return Some("these topics belong to the broker, whatever a policy says".to_owned());
        }
        if things::is_below_aws(topic.text()) {
            return Some(
                "shadows are decided about by their names vehicles/+/shadow/..., whatever they are called".to_owned(),
            );
        }
        let mut covering: Vec<&Rule> = Vec::new();
        for action in rule.actions() {
            covering.push(self.covers(at, topic, action)?);
        }
        let first = covering.first()?;
        let others = if covering.iter().all(|other| other.place == first.place) { "" } else { " and others" };
        Some(if first.terms.is_allow == rule.terms.is_allow {
            format!("{}{others} says the same already", self.told(first))
        } else {
            format!("{}{others} denies all of it", self.told(first))
        })
    }

    /// A rule that decides what this topic would decide about an action, so that it makes no difference.
    fn covers(&self, at: usize, topic: &Template, action: Action) -> Option<&Rule> {
        let rule = &self.rules[at];
        let covering = |other: &Rule| other.topics.iter().any(|(outer, _)| outer.covers(topic));
        let denies = |other: &&Rule| {
            !other.terms.is_allow
                && other.terms.actions & action.denied_with() != 0
                && self.has_members_of(other, rule)
                && covering(other)
        };
        let says_the_same = |(index, other): &(usize, &Rule)| {
            other.terms.is_allow == rule.terms.is_allow
                && other.terms.actions & action.bit() != 0
                && other.terms.qos_max >= rule.terms.qos_max
                && *index != at
                && self.has_members_of(other, rule)
                && covering(other)
                // Of two that say the same, the first one stays.
                && (*index < at || !self.says_as_much(rule, other, topic))
        };
        let denied = rule.terms.is_allow.then(|| self.rules.iter().find(denies)).flatten();
        denied.or_else(|| self.rules.iter().enumerate().find(says_the_same).map(|(_, other)| other))
    }

    /// Whether a rule says with one topic all that another one, which covers it, says about it.
    fn says_as_much(&self, rule: &Rule, other: &Rule, topic: &Template) -> bool {
        let mut covering = other.topics.iter().filter(|(outer, _)| outer.covers(topic));
        rule.terms.qos_max >= other.terms.qos_max
            && covering.all(|(outer, _)| topic.covers(outer))
            && self.has_members_of(rule, other)
    }
}

fn is_same(one: &Template, other: &Template) -> bool {
    one.covers(other) && other.covers(one)
}

fn has_broker_topics(action: Action) -> bool {
    matches!(action, Action::Subscribe | Action::Receive)
}
