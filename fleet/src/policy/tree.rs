//! All rules by the topics they are about.
//!
//! Owns finding the rules of one topic name without looking at the others: a node for each level of their templates. Whether a rule
//! says anything about whoever asks, and what, is not its business.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::filter::Part;
use super::template::{Placeholder, Template};
use super::{RuleId, Subject};

/// So many names under one node are compared one by one: below it, that is cheaper than a hash.
const COMPARED_MAX: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Names and their nodes, while they are few; else all are in `by_hash`.
    few: Vec<(Box<str>, u32)>,
    by_hash: HashMap<Box<str>, u32, FixedState>,
    one: Option<u32>,
    own: [Option<u32>; 3],
    /// Whether there is any of `own`.
    has_own: bool,
    /// Rules whose template ends here.
    ends: Vec<RuleId>,
    /// Rules whose template goes on with `#`.
    rest: Vec<RuleId>,
}

impl Node {
    fn named(&self, name: &str) -> Option<u32> {
        if self.by_hash.is_empty() {
            return self.few.iter().find(|(known, _)| **known == *name).map(|(_, node)| *node);
        }
        self.by_hash.get(name).copied()
    }

    fn insert(&mut self, name: &str, node: u32) {
        if self.by_hash.is_empty() && self.few.len() < COMPARED_MAX {
            self.few.push((name.into(), node));
            return;
        }
        self.by_hash.extend(self.few.drain(..));
        self.by_hash.insert(name.into(), node);
    }
}

impl Tree {
    pub(super) fn insert(&mut self, template: &Template, rule: RuleId) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for part in template.parts() {
            let next = self.nodes.len() as u32;
            let node = &mut self.nodes[at];
            let known = match part {
                Part::Rest => {
                    node.rest.push(rule);
                    return;
                }
                Part::Name(name) => node.named(name),
                Part::One => node.one,
                Part::Own(own) => node.own[own as usize],
            };
            if known.is_none() {
                match part {
                    Part::Name(name) => node.insert(name, next),
                    Part::Own(own) => {
                        node.own[own as usize] = Some(next);
                        node.has_own = true;
                    }
                    Part::One | Part::Rest => node.one = Some(next),
                }
                self.nodes.push(Node::default());
            }
            at = known.unwrap_or(next) as usize;
        }
        self.nodes[at].ends.push(rule);
    }

    /// Calls for each rule with a template that has this topic name for whoever asks, for some perhaps more than once.
    #[inline]
    pub(super) fn find(&self, subject: Subject<'_>, topic: &str, visit: &mut impl FnMut(RuleId)) {
        let Some(root) = self.nodes.first() else { return };
        // Nothing but its own name matches what is the broker's.
        if topic.starts_with('$') {
            let (level, rest) = split(topic);
            if let Some(node) = root.named(level) {
                self.walk(node, subject, rest, visit);
            }
            return;
        }
        self.walk(0, subject, Some(topic), visit);
    }

    fn walk(&self, node: u32, subject: Subject<'_>, topic: Option<&str>, visit: &mut impl FnMut(RuleId)) {
        let node = &self.nodes[node as usize];
        node.rest.iter().copied().for_each(&mut *visit);
        let Some(topic) = topic else {
            node.ends.iter().copied().for_each(&mut *visit);
            return;
        };
        let (level, rest) = split(topic);
        if let Some(next) = node.named(level) {
            self.walk(next, subject, rest, visit);
        }
        if let Some(next) = node.one {
            self.walk(next, subject, rest, visit);
        }
        if !node.has_own {
            return;
        }
        for own in Placeholder::ALL {
            if let Some(next) = node.own[own as usize]
                && own.is(subject, level)
            {
                self.walk(next, subject, rest, visit);
            }
        }
    }
}

/// The first level, and what follows it. Levels are short: a look at each byte is the cheapest.
#[inline]
fn split(topic: &str) -> (&str, Option<&str>) {
    match topic.bytes().position(|byte| byte == b'/') {
        Some(at) => (&topic[..at], Some(&topic[at + 1..])),
        None => (topic, None),
    }
}
