//! Who may do what with which topics.
//!
//! Owns the decision and its reason: rules of roles over full topic names, where nothing is allowed that no rule allows, and a rule that
//! denies wins. It never knows sessions or packets, and keeps nothing about a connection but the set of its roles.

mod cache;
mod decide;
mod doubts;
mod filter;
mod member;
mod parse;
mod problem;
mod rule;
mod template;
#[cfg(test)]
mod tests;
mod tree;

use std::sync::Arc;

use crate::{Groups, Principal};
use member::Members;
use rule::{Role, Rule, Terms};
use tree::Tree;

pub use cache::{DecisionCache, Roster};
pub use decide::{Decision, Denial, Grant};
pub use filter::{contains, overlaps};
pub use problem::Problem;
pub use rule::{Action, RuleId, RuleName};

/// What everybody may do.
#[derive(Debug)]
pub struct Policy {
    /// `None`: everybody may do everything.
    rules: Option<Box<Rules>>,
}

/// Those of a file.
#[derive(Debug)]
struct Rules {
    roles: Vec<Role>,
    members: Members,
    /// In the order of the file, as [`RuleId`] counts.
    rules: Vec<Rule>,
    /// The same, and no more than decisions need.
    terms: Vec<Terms>,
    tree: Tree,
}

/// The roles of somebody under one policy. Cheap to clone; those of another policy are others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rights(Option<Arc<[u64]>>);

impl Rights {
    #[inline]
    fn has(&self, role: u16) -> bool {
        let words = self.0.as_deref().unwrap_or_default();
        words.get(usize::from(role / 64)).is_some_and(|word| word >> (role % 64) & 1 != 0)
    }
}

/// Whoever asks.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Who it is.
    pub principal: &'a Principal,
    /// The groups of a vehicle.
    pub groups: &'a Groups,
    /// What [`Policy::rights`] says of the two.
    pub rights: &'a Rights,
}

impl<'a> Subject<'a> {
    fn service(self) -> Option<&'a str> {
        match self.principal {
            Principal::Service(name) => Some(name),
            _ => None,
        }
    }
}

impl Policy {
    /// What is in force without a policy file: everybody who was let in may do everything, except publish what is the broker's own
    /// word (see [`is_the_brokers`]).
    pub const fn open() -> Policy {
        Policy { rules: None }
    }

    /// Whether it is [`Policy::open`].
    #[inline]
    pub fn is_open(&self) -> bool {
        self.rules.is_none()
    }

    /// The roles of somebody. See [`Roster`] for who asks often.
    pub fn rights(&self, principal: &Principal, groups: &Groups) -> Rights {
        let Some(rules) = &self.rules else { return Rights::default() };
        let mut words = vec![0u64; rules.roles.len().div_ceil(64)];
        rules.members.roles_of(principal, groups, |role| words[usize::from(role / 64)] |= 1 << (role % 64));
        Rights(words.iter().any(|word| *word != 0).then(|| words.into()))
    }

    /// A rule by its number.
    pub fn rule(&self, id: RuleId) -> Option<RuleName<'_>> {
        let rules = self.rules.as_deref()?;
        let rule = rules.rules.get(usize::from(id.0))?;
        let role = rules.roles.get(usize::from(rule.terms.role))?;
        Some(RuleName { role: &role.name, name: &rule.name, line: rule.line })
    }

    /// The names of somebody's roles, in the order of the file.
    pub fn role_names<'a>(&'a self, rights: &'a Rights) -> impl Iterator<Item = &'a str> {
        let roles = self.rules.iter().flat_map(|rules| &rules.roles).enumerate();
        roles.filter(|(role, _)| rights.has(*role as u16)).map(|(_, role)| &*role.name)
    }
}

/// Whether a topic name is for the broker alone to publish to.
#[inline]
pub fn is_the_brokers(topic: &str) -> bool {
    topic.starts_with('$') && ["$SYS", "$presence"].contains(&topic.split('/').next().unwrap_or_default())
}
