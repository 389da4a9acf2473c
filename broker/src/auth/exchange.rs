//! The extended authentication of one connection (MQTT 5, section 4.12).
//!
//! Owns the state between two AUTH packets. It is cheap: nothing here hashes a password.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use causeway_core::Verdict;
use causeway_fleet::Identity;
use causeway_fleet::scram::{self, Challenge, Keys, Opening, ScramError};
use causeway_protocol::ReasonCode;

use super::{Authenticator, count, deny, identity_of};
use super::{hashing, token};
use crate::identity::Admission;
use crate::shown::shown;

/// Where a connection's exchange stands. Keep it as long as the connection: it takes re-authentication, too.
pub struct Exchange {
    authenticator: Authenticator,
    state: State,
    /// Who the connection has proven to be: re-authentication must not make it somebody else.
    user: Option<Arc<str>>,
    /// Who its certificate is for, where it has one: what is proven here must be the same, and ends with the certificate, too.
    certified: Option<Identity>,
    /// Who knows what is revoked. None: nothing is.
    admission: Option<Admission>,
}

enum State {
    Idle,
    Challenged(Box<Challenge>, Arc<str>),
}

impl Exchange {
    pub(super) fn new(authenticator: Authenticator, certified: Option<Identity>) -> Exchange {
        Exchange { authenticator, state: State::Idle, user: None, certified, admission: None }
    }

    /// From now on, what is revoked there proves nothing: not at CONNECT, and not when the client proves again who it is.
    pub fn asking(self, admission: Admission) -> Exchange {
        Exchange { admission: Some(admission), ..self }
    }

    /// Takes what the client sent as Authentication Method and Authentication Data.
    pub fn step(&mut self, method: &str, data: &[u8]) -> Verdict {
        let offered = &self.authenticator;
        let verdict = match method {
            scram::METHOD if offered.offers_scram() => self.step_scram(data),
            token::METHOD if offered.has_tokens() => offered.verify_token(data),
            _ => {
                return deny(
                    ReasonCode::BadAuthenticationMethod,
                    format!("no authentication method {}", shown(method)),
                );
            }
        };
        self.as_certified(self.unless_revoked(verdict))
    }

    fn step_scram(&mut self, data: &[u8]) -> Verdict {
        let step = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => self.open(data),
            State::Challenged(challenge, user) => self.finish(*challenge, user, data),
        };
        let counts = &self.authenticator.shared.counts;
        match &step {
            Ok(Verdict::Allow { .. }) => count(&counts.scram_accepted),
            Ok(_) => {}
            Err(_) => count(&counts.scram_refused),
        }
        step.unwrap_or_else(|denial| denial)
    }

    /// Asked of a token that comes with a certificate, too, whose name its own gives way to.
    fn unless_revoked(&self, verdict: Verdict) -> Verdict {
        let (Verdict::Allow { identity, .. }, Some(admission)) = (&verdict, &self.admission) else { return verdict };
        match admission.check_credential(identity) {
            Ok(()) => verdict,
            Err(why) => deny(ReasonCode::NotAuthorized, why),
        }
    }

    /// The certificate is what can be revoked; of two ends the first counts.
    fn as_certified(&self, verdict: Verdict) -> Verdict {
        let (Verdict::Allow { identity, data }, Some(certified)) = (&verdict, &self.certified) else {
            return verdict;
        };
        if identity.principal != certified.principal {
            let why =
                format!("the certificate is for {}, and {} has logged in", certified.principal, identity.principal);
            return deny(ReasonCode::NotAuthorized, why);
        }
        let ends = [identity.valid_until_ms, certified.valid_until_ms];
        let identity = Identity { valid_until_ms: ends.into_iter().flatten().min(), ..certified.clone() };
        Verdict::Allow { identity, data: data.clone() }
    }

    fn open(&mut self, data: &[u8]) -> Result<Verdict, Verdict> {
        let opening = Opening::parse(data).map_err(|error| refuse(None, error))?;
        let user: Arc<str> = Arc::from(opening.user());
        if self.user.as_ref().is_some_and(|proven| *proven != user) {
            return Err(deny(
                ReasonCode::NotAuthorized,
                format!("re-authentication as somebody else, {}", shown(&user)),
            ));
        }
        let keys = self.keys(&user);
        let nonce: [u8; 24] = hashing::random().map_err(|why| deny(ReasonCode::ServerUnavailable, why))?;
        let (challenge, data) = opening.challenge(&keys, &BASE64_STANDARD.encode(nonce));
        self.state = State::Challenged(Box::new(challenge), user);
        Ok(Verdict::Continue { data })
    }

    fn keys(&self, user: &str) -> Keys {
        let users = self.authenticator.users();
        let known = users.file.users.get(user).and_then(|user| user.scram.clone());
        // Both are computed, so that both ways take the same time.
        let mimic = Keys::mimic(&users.secret, user, users.scram_iterations);
        known.unwrap_or(mimic)
    }

    fn finish(&mut self, challenge: Challenge, user: Arc<str>, data: &[u8]) -> Result<Verdict, Verdict> {
        let data = challenge.verify(data).map_err(|error| refuse(Some(&user), error))?;
        self.user = Some(user.clone());
        Ok(Verdict::Allow { identity: identity_of(&user), data })
    }
}

fn refuse(user: Option<&str>, error: ScramError) -> Verdict {
    let reason = match error {
        ScramError::WrongProof => ReasonCode::BadUserNameOrPassword,
        ScramError::Malformed(_) | ScramError::Unsupported(_) => ReasonCode::NotAuthorized,
    };
    match user {
        Some(user) => deny(reason, format!("{}, user {}: {error}", scram::METHOD, shown(user))),
        None => deny(reason, format!("{}: {error}", scram::METHOD)),
    }
}
