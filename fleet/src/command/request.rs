//! What a request asks for beside the command itself.
//!
//! Owns the user properties of requests, and how a retry is known to be the same. They are for the broker, and vehicles do not see them.

use super::{IDEMPOTENCY_KEY, WAIT};

/// The longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes<'a> {
    /// Retries with the same one are one command.
    pub key: Option<&'a str>,
    /// Whether it is over at once where the vehicle can't have it at once.
    pub is_now_or_never: bool,
}

impl<'a> Wishes<'a> {
    /// Those of a request's user properties; of several of one name, the first counts.
    pub fn of(properties: impl Iterator<Item = (&'a str, &'a str)>) -> Wishes<'a> {
        let mut wishes = Wishes::default();
        let mut wait = None;
        for (name, value) in properties {
            match name {
                IDEMPOTENCY_KEY => wishes.key = wishes.key.or(Some(value)),
                WAIT => wait = wait.or(Some(value)),
                _ => {}
            }
        }
        wishes.is_now_or_never = wait == Some("0");
        wishes
    }

    /// Whether a user property of this name is one of them.
    pub fn has(name: &[u8]) -> bool {
        name == IDEMPOTENCY_KEY.as_bytes() || name == WAIT.as_bytes()
    }
}

/// What tells a retry from another request under the same idempotency key: the same after a restart. A requester can only deceive itself.
pub fn fingerprint(name: &str, payload: &[u8]) -> u64 {
    // FNV-1a.
    let bytes = name.bytes().chain([0]).chain(payload.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_user_properties() {
        let of = |properties: &[(&'static str, &'static str)]| Wishes::of(properties.iter().copied());
        assert_eq!(of(&[]), Wishes::default());
        let both = of(&[("a", "b"), ("idempotency-key", "k"), ("wait", "0"), ("idempotency-key", "later")]);
        assert_eq!(both, Wishes { key: Some("k"), is_now_or_never: true });
        assert!(!of(&[("wait", "5")]).is_now_or_never);
        assert!(!of(&[("wait", "5"), ("wait", "0")]).is_now_or_never);
        assert!(Wishes::has(b"wait") && Wishes::has(b"idempotency-key") && !Wishes::has(b"waiting"));
    }

    #[test]
    fn another_request_has_another_fingerprint() {
        assert_eq!(fingerprint("lock", b"x"), fingerprint("lock", b"x"));
        assert_ne!(fingerprint("lock", b"x"), fingerprint("lock", b"y"));
        assert_ne!(fingerprint("lockx", b""), fingerprint("lock", b"x"));
        // What is on disks stays.
        assert_eq!(fingerprint("", b""), 0xaf63_bd4c_8601_b7df);
    }
}
