//! Making and checking password hashes: Argon2id for passwords that arrive in plain, SCRAM keys for those that do not.
//!
//! Owns the costs. All of it takes milliseconds of a processor: never call it on a thread that serves connections.

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Algorithm, Argon2, Block, Params, Version};
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

/// Kibibytes of memory that a hash may cost.
const MEMORY_KIBIBYTES_MAX: u32 = 1024 * 1024;
/// Passes that a hash may cost.
const PASSES_MAX: u32 = 16;
/// Blocks (of 1 KiB) that are kept for the next password; a larger memory goes back to the system.
const BLOCKS_KEPT: usize = 64 * 1024;

/// What Argon2 computes in; used for one password after the other.
#[derive(Default)]
pub(super) struct Memory(Vec<Block>);

/// Whether this is a hash (a PHC string) that [`verify`] can compare with, at a cost we are ready to pay.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(hash: &str) -> Result<(), &'static str> {
    let hash = PasswordHash::new(hash).map_err(|_| "the password hash is not a PHC string ($argon2id$...)")?;
    if Algorithm::try_from(hash.algorithm.as_str()).is_err() || hash.hash.is_none() || hash.salt.is_none() {
        return Err("the password hash is not one of Argon2");
    }
    let params = Params::try_from(&hash).map_err(|_| "the costs of the password hash (m, t, p) are not Argon2's")?;
    match (params.m_cost(), params.t_cost()) {
        (memory, _) if memory > MEMORY_KIBIBYTES_MAX => Err("the password hash costs more than 1 GiB of memory (m)"),
        (_, passes) if passes > PASSES_MAX => Err("the password hash costs more than 16 passes (t)"),
        _ => Ok(()),
    }
}

/// Whether this is the password behind the hash (a PHC string).
pub fn verify(password: &[u8], hash: &str) -> bool {
    verify_in(&mut Memory::default(), password, hash)
}

/// [`verify`], in memory that is there already.
pub(super) fn verify_in(memory: &mut Memory, password: &[u8], hash: &str) -> bool {
    let is_right = is_right(memory, password, hash).unwrap_or(false);
    if memory.0.len() > BLOCKS_KEPT {
        *memory = Memory::default();
    }
    is_right
}

/// `None` where the hash is none that passed [`check`].
fn is_right(memory: &mut Memory, password: &[u8], hash: &str) -> Option<bool> {
    check(hash).ok()?;
    let hash = PasswordHash::new(hash).ok()?;
    let (salt, expected) = (hash.salt.as_ref()?, hash.hash.as_ref()?);
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let argon2 = Argon2::new(algorithm, version, Params::try_from(&hash).ok()?);
    let blocks = argon2.params().block_count();
    if memory.0.len() < blocks {
        memory.0 = Vec::new();
        memory.0.try_reserve_exact(blocks).ok()?;
        memory.0.resize(blocks, Block::new());
    }
    let mut found = [0; Output::MAX_LENGTH];
    let found = &mut found[..expected.len()];
    argon2.hash_password_into_with_memory(password, salt, found, &mut memory.0[..blocks]).ok()?;
    // Compared in constant time.
    Some(Output::new(found).ok()? == *expected)
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
    fn memory_is_used_again() {
        let (mut memory, pencil) = (Memory::default(), user("pencil", false).unwrap().argon2);
        assert!(verify_in(&mut memory, b"pencil", &pencil));
        let blocks = memory.0.as_ptr();
        // What another password left there does not matter.
        assert!(!verify_in(&mut memory, b"eraser", &pencil));
        assert!(verify_in(&mut memory, b"pencil", &pencil));
        assert_eq!(memory.0.as_ptr(), blocks);
        let small = "$argon2id$v=19$m=16,t=1,p=1$c2FsdHNhbHQ$2WXVzmKnTzUYAhUGvdeCdA";
        assert!(!verify_in(&mut memory, b"pencil", small));
        assert_eq!(memory.0.len(), 19_456);
    }

    #[test]
    fn absurd_costs_are_refused() {
        let hash = |costs: &str| format!("$argon2id$v=19${costs}$c2FsdHNhbHQ$2WXVzmKnTzUYAhUGvdeCdA");
        assert_eq!(check(&hash("m=16,t=1,p=1")), Ok(()));
        assert_eq!(check(&hash("m=1048576,t=16,p=4")), Ok(()));
        assert!(check(&hash("m=1048577,t=1,p=1")).unwrap_err().contains("1 GiB"));
        assert!(check(&hash("m=4294967295,t=1,p=1")).unwrap_err().contains("1 GiB"));
        assert!(check(&hash("m=16,t=17,p=1")).unwrap_err().contains("16 passes"));
        assert!(check(&hash("m=16,t=1,p=100")).unwrap_err().contains("not Argon2's"));
        assert!(!verify(b"pencil", &hash("m=1048577,t=1,p=1")));
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
