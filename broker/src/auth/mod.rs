//! Who is connecting, and can they prove it?
//!
//! Owns the users, and verifying what a client brings, without blocking the threads that serve connections. What a proven
//! user may do is decided elsewhere.

mod exchange;
pub mod hashing;
pub mod password_file;
mod token;
mod token_keys;
mod token_signature;
mod verifier;

pub use exchange::Exchange;
pub use password_file::{PasswordFile, PasswordFileError, User};
pub use token_keys::{TokenKeys, TokenKeysError};

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use causeway_core::{HandshakePolicy, Overflow, Principal, Verdict};
use causeway_fleet::{Identity, scram};
use causeway_protocol::ReasonCode;

use crate::config::{Authentication, Config, Listener, OverflowPolicy};
use crate::shown::shown;
use token::Tokens;
use verifier::{Outcome, Verifier};

/// Verifies credentials. Clones share the same users.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Authentication,
    users: ArcSwap<Users>,
    verifier: Verifier,
    /// Where tokens are believed.
    tokens: Option<Tokens>,
    counts: SharedCounts,
}

#[derive(Default)]
struct SharedCounts {
    password_accepted: AtomicU64,
    password_refused: AtomicU64,
    password_busy: AtomicU64,
    password_late: AtomicU64,
    scram_accepted: AtomicU64,
    scram_refused: AtomicU64,
    token_accepted: AtomicU64,
    token_refused: AtomicU64,
}

/// How verifications went since the start, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginCounts {
    /// Right passwords.
    pub password_accepted: u64,
    /// Wrong passwords, and users who do not exist.
    pub password_refused: u64,
    /// Not verified because too many waited.
    pub password_busy: u64,
    /// Not verified because they had waited for verification_timeout_seconds.
    pub password_late: u64,
    /// SCRAM exchanges that succeeded.
    pub scram_accepted: u64,
    /// SCRAM exchanges that failed.
    pub scram_refused: u64,
    /// Tokens that were good.
    pub token_accepted: u64,
    /// Tokens that were not.
    pub token_refused: u64,
    /// Passwords being verified or waiting for it, now.
    pub pending: u64,
}

/// Why nobody can be authenticated.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticatorError {
    /// The users cannot be had.
    #[error(transparent)]
    Users(#[from] PasswordFileError),
    /// The keys of tokens cannot be had.
    #[error("authentication.jwt: {0}")]
    Keys(#[from] TokenKeysError),
}

/// What a reload found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// How many users there are.
    pub users: usize,
    /// What proves nothing any more (see [`Identity::credential`]): users that were removed, or have another password.
    pub gone: HashSet<Arc<str>>,
}

/// The users, as of the last load.
struct Users {
    file: PasswordFile,
    /// What the salts of users who do not exist are made from.
    secret: Vec<u8>,
    /// What those users seem to have.
    scram_iterations: u32,
    /// What a password is compared with when there is no such user.
    decoy: String,
}

impl Authenticator {
    /// Reads the users. Reads a file: call it before serving.
    ///
    /// # Errors
    /// A file that `config` names cannot be read or is wrong.
    pub fn load(config: &Config) -> Result<Authenticator, AuthenticatorError> {
        let settings = &config.authentication;
        let check_digit = config.identity.vin_check_digit;
        let tokens = settings.jwt.as_ref().map(|jwt| Tokens::load(jwt, check_digit)).transpose()?;
        let users = load_users(settings.password_file.as_ref())?;
        // Where nobody has a password, none is verified.
        let threads = if settings.password_file.is_some() { settings.verifications_concurrent_max } else { 0 };
        let wait_max = Duration::from_secs(settings.verification_timeout_seconds);
        let verifier = Verifier::start(threads, settings.verifications_pending_max, wait_max)
            .map_err(|source| PasswordFileError::Threads { source })?;
        let shared = Shared {
            settings: settings.clone(),
            users: ArcSwap::from_pointee(users),
            verifier,
            tokens,
            counts: SharedCounts::default(),
        };
        Ok(Authenticator { shared: Arc::new(shared) })
    }

    /// Reads the users again. Whoever is connected with what is gone by then is for the caller to close.
    ///
    /// # Errors
    /// The file cannot be read or is wrong; the users stay as they were.
    pub fn reload(&self) -> Result<Reloaded, PasswordFileError> {
        let users = Arc::new(load_users(self.shared.settings.password_file.as_ref())?);
        let before = self.shared.users.swap(users.clone());
        let is_gone = |(name, user): &(&String, &User)| users.file.users.get(*name) != Some(user);
        let gone = before.file.users.iter().filter(is_gone).map(|(name, _)| credential_of(name)).collect();
        Ok(Reloaded { users: users.file.users.len(), gone })
    }

    /// Reads the keys of tokens again, where there are any, and says how many there are.
    ///
    /// # Errors
    /// They cannot be read or used; those that were there stay.
    pub fn reload_keys(&self) -> Result<Option<usize>, TokenKeysError> {
        self.shared.tokens.as_ref().map(Tokens::reload).transpose()
    }

    /// Whether the keys of tokens have changed since they were read. Asks the system.
    pub fn keys_changed(&self) -> bool {
        self.shared.tokens.as_ref().is_some_and(Tokens::file_changed)
    }

    /// Whether tokens are believed.
    pub fn has_tokens(&self) -> bool {
        self.shared.tokens.is_some()
    }

    /// What a listener asks of its clients.
    pub fn policy(&self, listener: &Listener) -> HandshakePolicy {
        let scram = self.offers_scram().then(|| scram::METHOD.to_owned());
        let tokens = self.has_tokens().then(|| token::METHOD.to_owned());
        let methods = scram.into_iter().chain(tokens).collect();
        HandshakePolicy {
            anonymous_allowed: listener.anonymous_allowed(&self.shared.settings),
            password_allowed: self.shared.settings.password_file.is_some() || self.has_tokens(),
            vehicle_ids_reserved: self.has_tokens() || self.knows_vehicles(),
            methods,
            overflow: match listener.overflow {
                OverflowPolicy::RefuseNew => Overflow::RefuseNew,
                OverflowPolicy::DropOldest => Overflow::DropOldest,
            },
        }
    }

    /// Verifies a user name and password. Takes as long for a user who does not exist as for a wrong password.
    ///
    /// Dropping the future gives up the place in the queue; a verification that runs already runs to its end.
    pub async fn verify(&self, username: &str, password: &[u8]) -> Verdict {
        if self.has_tokens() && Tokens::looks_like_one(password) {
            return self.verify_token(password);
        }
        let counts = &self.shared.counts;
        let users = self.users();
        let known = users.file.users.get(username);
        let hash = known.map_or(&users.decoy, |user| &user.argon2);
        if self.shared.settings.password_file.is_none() {
            count(&counts.password_refused);
            return deny(
                ReasonCode::BadUserNameOrPassword,
                format!("there are no users, not even {}", shown(username)),
            );
        }
        match self.shared.verifier.verify(password, hash).await {
            Outcome::Verified(true) if known.is_some() => {
                count(&counts.password_accepted);
                Verdict::Allow { identity: identity_of(username), data: Vec::new() }
            }
            Outcome::Verified(_) => {
                count(&counts.password_refused);
                deny(
                    ReasonCode::BadUserNameOrPassword,
                    format!("wrong user name or password, user {}", shown(username)),
                )
            }
            Outcome::Busy => {
                count(&counts.password_busy);
                deny(ReasonCode::ServerBusy, "verifications_pending_max passwords wait to be verified".to_owned())
            }
            Outcome::Late => {
                count(&counts.password_late);
                let why = "the password was not verified within verification_timeout_seconds";
                deny(ReasonCode::ServerBusy, why.to_owned())
            }
            Outcome::Stopped => deny(ReasonCode::ServerUnavailable, "stopping".to_owned()),
        }
    }

    /// Verifies a token: some 100 us of a processor.
    fn verify_token(&self, token: &[u8]) -> Verdict {
        let counts = &self.shared.counts;
        let verified =
            self.shared.tokens.as_ref().map_or(Err("there are no tokens".to_owned()), |tokens| tokens.verify(token));
        match verified {
            Ok(identity) => {
                count(&counts.token_accepted);
                Verdict::Allow { identity, data: Vec::new() }
            }
            Err(why) => {
                count(&counts.token_refused);
                deny(ReasonCode::BadUserNameOrPassword, why)
            }
        }
    }

    /// The state of one connection's extended authentication, of a client that may have proven by a certificate who it is.
    pub fn exchange(&self, certified: Option<Identity>) -> Exchange {
        Exchange::new(self.clone(), certified)
    }

    /// How verifications went so far.
    pub fn counts(&self) -> LoginCounts {
        let counts = &self.shared.counts;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LoginCounts {
            password_accepted: get(&counts.password_accepted),
            password_refused: get(&counts.password_refused),
            password_busy: get(&counts.password_busy),
            password_late: get(&counts.password_late),
            scram_accepted: get(&counts.scram_accepted),
            scram_refused: get(&counts.scram_refused),
            token_accepted: get(&counts.token_accepted),
            token_refused: get(&counts.token_refused),
            pending: self.shared.verifier.pending() as u64,
        }
    }

    fn offers_scram(&self) -> bool {
        self.shared.settings.scram && self.shared.settings.password_file.is_some()
    }

    /// Whether somebody can log in as a vehicle.
    fn knows_vehicles(&self) -> bool {
        self.users().file.users.keys().any(|user| Principal::of_user(user).vin().is_some())
    }

    fn users(&self) -> Arc<Users> {
        self.shared.users.load_full()
    }
}

fn load_users(path: Option<&PathBuf>) -> Result<Users, PasswordFileError> {
    let file = path.map(|path| PasswordFile::load(path)).transpose()?.unwrap_or_default();
    let secret = match file.secret.is_empty() {
        false => file.secret.clone(),
        // A file made by hand: until the next restart, users who do not exist look alike.
        true => hashing::random::<32>()
            .map_err(|why| PasswordFileError::Io {
                path: path.cloned().unwrap_or_default(),
                source: std::io::Error::other(why),
            })?
            .to_vec(),
    };
    let iterations = file.users.values().filter_map(|user| user.scram.as_ref()).map(scram::Keys::iterations);
    let scram_iterations = iterations.max().unwrap_or(hashing::SCRAM_ITERATIONS);
    let decoy = file.users.values().next().map_or_else(|| hashing::DECOY.to_owned(), |user| user.argon2.clone());
    Ok(Users { file, secret, scram_iterations, decoy })
}

/// Who a user of the password file is.
fn identity_of(user: &str) -> Identity {
    Identity { credential: Some(credential_of(user)), ..Principal::of_user(user).into() }
}

fn credential_of(user: &str) -> Arc<str> {
    Arc::from(format!("password:{user}"))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn deny(reason: ReasonCode, why: String) -> Verdict {
    Verdict::Deny { reason, why }
}

#[cfg(test)]
mod tests;
