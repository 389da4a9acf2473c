//! Who may use the administration listener, and for what.
//!
//! Owns the rule: metrics, health and the API's description are open; all else under `/v1` needs a token or an operator's certificate, where
//! either is set up. Where neither is, it works on a loopback address, and nowhere else.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::http::{HeaderMap, header};

use super::api::{Needs, Problem};
use super::token_file::{Role, TokenFile};
use crate::config::Admin;

/// Who asks, in words, for the log.
pub(super) type Caller = String;

/// The caller where everybody on this machine may.
pub(super) const THIS_MACHINE: &str = "this machine";

/// See the module.
pub(super) struct Access {
    rule: Rule,
}

enum Rule {
    /// Everybody on this machine, but no page in a browser of it.
    Loopback,
    /// Nobody: there is no way to tell who it is.
    Closed,
    Credentials(Option<Tokens>),
}

/// The token file, read again when it has changed.
struct Tokens {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<TokenFile>)>>,
}

/// What shows that a file is another.
type Stamp = (Option<SystemTime>, u64, u64);

impl Access {
    pub(super) fn new(settings: &Admin, bind: SocketAddr) -> Access {
        let tokens = settings.token_file.clone().map(|path| Tokens { path, read: Mutex::default() });
        let rule = match (tokens, settings.has_operators()) {
            (None, false) if bind.ip().to_canonical().is_loopback() => Rule::Loopback,
            (None, false) => Rule::Closed,
            (tokens, _) => Rule::Credentials(tokens),
        };
        Access { rule }
    }

    /// Who asks, where they may. `operator` is who the client's certificate says it is. Reads a file now and then.
    ///
    /// # Errors
    /// They may not.
    pub(super) fn admit(&self, headers: &HeaderMap, operator: Option<&str>, needs: Needs) -> Result<Caller, Problem> {
        match &self.rule {
            Rule::Loopback if is_of_this_machine(headers) => Ok(THIS_MACHINE.to_owned()),
            Rule::Loopback => Err(Problem::new(403, "the Host is neither localhost nor an address")),
            Rule::Closed => {
                let why = "without admin.token_file or admin.tls.client_ca_file, this works on a loopback address only";
                Err(Problem::new(403, why))
            }
            Rule::Credentials(tokens) => {
                if let Some(operator) = operator {
                    return Ok(operator.to_owned());
                }
                let token = bearer(headers)
                    .ok_or_else(|| Problem::new(401, "a token or an operator's certificate is needed"))?;
                let tokens = tokens.as_ref().map(Tokens::current).transpose()?;
                let found = tokens.as_ref().and_then(|tokens| tokens.find(token));
                let found = found.ok_or_else(|| Problem::new(401, "the token is none of ours"))?;
                match needs == Needs::Read || found.role == Role::Write {
                    true => Ok(format!("token:{}", found.name)),
                    false => Err(Problem::new(403, format!("the token {} may only read", found.name))),
                }
            }
        }
    }
}

impl Tokens {
    fn current(&self) -> Result<Arc<TokenFile>, Problem> {
        let failed = |error: std::io::Error| {
            tracing::error!(target: "causeway::admin", %error, "the token file cannot be used");
            Problem::new(503, "the token file cannot be used")
        };
        let metadata = std::fs::metadata(&self.path).map_err(failed)?;
        let stamp = (metadata.modified().ok(), metadata.len(), std::os::unix::fs::MetadataExt::ino(&metadata));
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((known, file)) if *known == stamp => Ok(file.clone()),
            _ => {
                let file = Arc::new(TokenFile::load(&self.path).map_err(failed)?);
                *read = Some((stamp, file.clone()));
                Ok(file)
            }
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A page in a browser can have a name of its own mean this machine; it cannot have an address or localhost mean another.
fn is_of_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|it| it.is_ascii_digit())).map_or(host, |it| it.0);
    let name = name.trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(rows: &[(header::HeaderName, &str)]) -> HeaderMap {
        rows.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn status(outcome: Result<Caller, Problem>) -> Result<Caller, u16> {
        outcome.map_err(|problem| problem.into_answer().status)
    }

    #[test]
    fn without_credentials_only_this_machine_may() {
        let settings = Admin::default();
        let at = |bind: &str| Access::new(&settings, bind.parse().unwrap());
        let ask =
            |bind: &str, host: &str| status(at(bind).admit(&headers(&[(header::HOST, host)]), None, Needs::Write));
        for host in ["localhost", "localhost:9883", "127.0.0.1:9883", "[::1]:9883", "LOCALHOST"] {
            assert!(ask("127.0.0.1:9883", host).is_ok(), "{host}");
            assert_eq!(ask("0.0.0.0:9883", host), Err(403));
        }
        for host in ["evil.example", "evil.example:9883", "localhost.evil.example", ""] {
            assert_eq!(ask("[::1]:9883", host), Err(403), "{host}");
        }
        assert_eq!(status(at("127.0.0.1:1").admit(&HeaderMap::new(), None, Needs::Read)), Err(403));
    }

    #[test]
    fn a_token_may_what_its_role_says_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let mut file = TokenFile::default();
        let (write, read) = (file.add("ann", Role::Write).unwrap(), file.add("bob", Role::Read).unwrap());
        file.store(&path).unwrap();
        let settings = Admin { token_file: Some(path.clone()), ..Admin::default() };
        let access = Access::new(&settings, "0.0.0.0:1".parse().unwrap());
        let ask = |token: &str, needs| {
            let value = format!("Bearer {token}");
            status(access.admit(&headers(&[(header::AUTHORIZATION, &value)]), None, needs))
        };
        assert_eq!(ask(&write, Needs::Write), Ok("token:ann".to_owned()));
        assert_eq!(ask(&read, Needs::Read), Ok("token:bob".to_owned()));
        assert_eq!(ask(&read, Needs::Write), Err(403));
        assert_eq!(ask("cwa_wrong", Needs::Read), Err(401));
        assert_eq!(status(access.admit(&HeaderMap::new(), None, Needs::Read)), Err(401));
        file.remove("ann");
        file.store(&path).unwrap();
        assert_eq!(ask(&write, Needs::Read), Err(401));
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(ask(&read, Needs::Read), Err(503));
    }
}
