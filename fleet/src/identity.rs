//! What has been proven about a connection.
//!
//! Owns the facts that decisions are made from. It never proves any of them.

use std::sync::Arc;

use thiserror::Error;

use crate::Principal;

/// Who a connection speaks for, by what right, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is.
    pub principal: Principal,
    /// The groups of a vehicle; none for all others.
    pub groups: Groups,
    /// What it was proven with, as far as that can be revoked: `x509:SERIAL@ISSUER`, `jwt:ID`, `password:NAME`.
    pub credential: Option<Arc<str>>,
    /// When the proof ends, and the connection with it: milliseconds since 1970.
    pub valid_until_ms: Option<u64>,
}

impl From<Principal> for Identity {
    fn from(principal: Principal) -> Identity {
        Identity { principal, groups: Groups::default(), credential: None, valid_until_ms: None }
    }
}

/// The names of the groups that a vehicle belongs to, such as its model, region or ring: sorted, each once. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Groups(Arc<[Arc<str>]>);

/// Why a text is no name of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a group's name has 1 to {} of the characters A-Z a-z 0-9 . _ -", Groups::NAME_BYTES_MAX)]
pub struct GroupNameError;

impl Groups {
    /// The longest name.
    pub const NAME_BYTES_MAX: usize = 64;

    /// Groups of these names.
    ///
    /// # Errors
    /// One of them is no name: it would not be one level of a topic.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Groups, GroupNameError> {
        let mut groups = Vec::new();
        for name in names {
            Groups::check_name(name)?;
            groups.push(Arc::from(name));
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(Groups(groups.into()))
    }

    /// Whether this may be the name of a group.
    ///
    /// # Errors
    /// It may not.
    pub fn check_name(name: &str) -> Result<(), GroupNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_name = (1..=Groups::NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed);
        is_name.then_some(()).ok_or(GroupNameError)
    }

    /// Their names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// Whether this is one of them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.binary_search_by(|known| (**known).cmp(name)).is_ok()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Groups {
    fn default() -> Self {
        Groups(Arc::from([]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_sorted_and_each_there_once() {
        let groups = Groups::new(["ring-1", "eu", "eu"]).unwrap();
        assert_eq!(groups.iter().collect::<Vec<_>>(), ["eu", "ring-1"]);
        assert!(groups.contains("eu") && !groups.contains("us") && !groups.is_empty());
    }

    #[test]
    fn a_name_is_one_level_of_a_topic() {
        let long = "g".repeat(65);
        for name in ["", "a/b", "+", "#", "a b", "ü", "$x", long.as_str()] {
            assert_eq!(Groups::new([name]), Err(GroupNameError), "{name:?}");
        }
    }
}
