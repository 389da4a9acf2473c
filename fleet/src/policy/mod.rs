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

use std::ops::Range;
use std::sync::Arc;

use crate::{Groups, Principal, mount};
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
    /// In the order of the file, as [`RuleId`] counts: those of one role side by side.
    rules: Vec<Rule>,
    /// Where the rules of each role are.
    of_role: Vec<Range<usize>>,
    /// The same, and no more than decisions need.
    terms: Vec<Terms>,
    tree: Tree,
}

/// The roles of somebody under one policy. Cheap to clone; those of another policy are others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rights(Option<Arc<Roles>>);

/// A bit for each role. Behind a pointer of one word: everybody who is connected has one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Roles(Box<[u64]>);

impl Rights {
    #[inline]
    fn words(&self) -> &[u64] {
        self.0.as_deref().map(|roles| &*roles.0).unwrap_or_default()
    }

    #[inline]
    fn has(&self, role: u16) -> bool {
        let words = self.words();
        words.get(usize::from(role / 64)).is_some_and(|word| word >> (role % 64) & 1 != 0)
    }

    fn roles(&self) -> impl Iterator<Item = usize> {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 != 0);
        self.words().iter().enumerate().flat_map(move |(at, word)| bits(*word).map(move |bit| at * 64 + bit))
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
        Rights(words.iter().any(|word| *word != 0).then(|| Arc::new(Roles(words.into()))))
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
        let roles = rights.roles().filter_map(|role| self.rules.as_deref()?.roles.get(role));
        roles.map(|role| &*role.name)
    }
}

/// Whether a full topic name is for the broker alone to publish to.
#[inline]
pub fn is_the_brokers(topic: &str) -> bool {
    mount::is_brokers(topic)
}
