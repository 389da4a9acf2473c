//! Making and checking password hashes: Argon2id for passwords that arrive in plain, SCRAM keys for those that do not.
//!
//! Owns the costs. All of it takes milliseconds of a processor: never call it on a thread that serves connections.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use causeway_fleet::scram::Keys;
use ring::rand::{SecureRandom, SystemRandom};

use super::password_file::User;

/// How often a password is hashed for SCRAM. The client pays for it at each login, the server only when the user is added.
pub const SCRAM_ITERATIONS: u32 = 100_000;

/// A hash that no password is known for, with the costs of the real ones: what a password is compared with when there is no such user.
pub(super) const DECOY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$Y2F1c2V3YXkgZGVjb3k$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The user who has this password.
///
/// # Errors
/// The password is empty or has control characters, or the system has no random numbers.
pub fn user(password: &str, scram: bool) -> Result<User, String> {
    // Checks the password, too, so it goes first; both forms must accept the same ones.
    let keys = Keys::derive(password, &random::<16>()?, SCRAM_ITERATIONS).map_err(|error| error.to_string())?;
    let argon2 = argon2().hash_password(password.as_bytes()).map_err(|error| error.to_string())?;
    Ok(User { argon2: argon2.to_string(), scram: scram.then_some(keys) })
}

/// Whether this is the password behind the hash (a PHC string).
pub fn verify(password: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| argon2().verify_password(password, &hash).is_ok())
}

/// Unpredictable bytes.
///
/// # Errors
/// The system has none.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random numbers".to_owned())?;
    Ok(bytes)
}

/// Argon2id with the crate's costs, which are those that OWASP recommends: 19 MiB, 2 passes, 1 lane.
fn argon2() -> Argon2<'static> {
    debug_assert_eq!((Params::DEFAULT_M_COST, Params::DEFAULT_T_COST, Params::DEFAULT_P_COST), (19_456, 2, 1));
    Argon2::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password() {
        let user = user("pencil", true).unwrap();
        assert!(user.argon2.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", user.argon2);
        assert!(verify(b"pencil", &user.argon2));
        assert!(!verify(b"pencils", &user.argon2));
        assert!(!verify(b"", &user.argon2));
        assert!(!verify(b"pencil", "nonsense"));
        let keys = user.scram.unwrap();
        assert_eq!(keys, Keys::derive("pencil", keys.salt(), SCRAM_ITERATIONS).unwrap());
    }

    #[test]
    fn scram_can_be_left_out_but_the_password_is_checked_alike() {
        assert!(user("pencil", false).unwrap().scram.is_none());
        assert!(user("", false).is_err());
        assert!(user("a\nb", false).is_err());
    }

    #[test]
    fn the_decoy_costs_what_a_user_costs() {
        let user = user("pencil", false).unwrap();
        let cost = |text: &str| text.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cost(DECOY), cost(&user.argon2));
        let (decoy, real) = (PasswordHash::new(DECOY).unwrap(), PasswordHash::new(&user.argon2).unwrap());
        assert_eq!(decoy.hash.unwrap().len(), real.hash.unwrap().len());
    }
}
