//! Who is connected.
//!
//! Owns the name under which everything is decided and logged. It never holds a secret.

use std::fmt;
use std::sync::Arc;

/// Who a connection speaks for, once that has been proven.
///
/// Cloning is cheap: the name is shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Principal {
    /// Nobody in particular: the listener lets clients in without credentials.
    Anonymous,
    /// The user of this name, who proved to know the password.
    User(Arc<str>),
    /// Another shard of this broker, by its number. No connection from outside ever has it.
    Shard(u16),
}

impl Principal {
    /// The user of this name.
    pub fn user(name: &str) -> Principal {
        Principal::User(Arc::from(name))
    }

    /// The user's name, where it is one.
    pub fn user_name(&self) -> Option<&str> {
        match self {
            Principal::Anonymous | Principal::Shard(_) => None,
            Principal::User(name) => Some(name),
        }
    }
}

/// `anonymous`, `user:NAME` or `shard:NUMBER`. Control characters of the name are escaped, so that one principal is one word of a log line.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Anonymous => f.write_str("anonymous"),
            Principal::User(name) => write!(f, "user:{}", name.escape_debug()),
            Principal::Shard(number) => write!(f, "shard:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_prints_as_one_word() {
        assert_eq!(Principal::Anonymous.to_string(), "anonymous");
        assert_eq!(Principal::user("alice").to_string(), "user:alice");
        assert_eq!(Principal::Shard(3).to_string(), "shard:3");
        assert_eq!(Principal::user("a\nb").to_string(), "user:a\\nb");
    }

    #[test]
    fn only_a_user_has_a_user_name() {
        assert_eq!(Principal::user("alice").user_name(), Some("alice"));
        assert_eq!(Principal::Anonymous.user_name(), None);
    }
}
