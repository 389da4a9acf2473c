//! Users who log in, and others.

use std::path::Path;

use causeway_fleet::scram::ClientFirst;

use super::*;

fn settings(path: &Path) -> Authentication {
    Authentication { password_file: Some(path.to_owned()), ..Authentication::default() }
}

fn load(settings: &Authentication) -> Result<Authenticator, AuthenticatorError> {
    Authenticator::load(&Config { authentication: settings.clone(), ..Config::default() })
}

/// A file with one user, whose password is "pencil".
fn write_user(path: &Path, name: &str) {
    let mut file = PasswordFile { secret: vec![7; 32], ..PasswordFile::default() };
    file.users.insert(name.to_owned(), hashing::user("pencil", true).unwrap());
    file.store(path).unwrap();
}

fn one_user() -> (tempfile::TempDir, Authenticator) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    write_user(&path, "alice");
    let authenticator = load(&settings(&path)).unwrap();
    (folder, authenticator)
}

#[track_caller]
fn assert_denied(verdict: Verdict, expected: ReasonCode) {
    match verdict {
        Verdict::Deny { reason, why } => assert_eq!(reason, expected, "{why}"),
        Verdict::Allow { identity, .. } => panic!("{} was let in", identity.principal),
        Verdict::Continue { .. } => panic!("the exchange goes on"),
    }
}

#[track_caller]
fn assert_user(verdict: &Verdict, name: &str) {
    assert!(matches!(verdict, Verdict::Allow { identity, .. } if identity.principal == Principal::service(name)));
}

#[tokio::test]
async fn passwords_are_verified() {
    let (_folder, authenticator) = one_user();
    assert_user(&authenticator.verify("alice", b"pencil").await, "alice");
    for (name, password) in [("alice", "Pencil"), ("alice", ""), ("Alice", "pencil"), ("bob", "pencil"), ("", "")] {
        assert_denied(authenticator.verify(name, password.as_bytes()).await, ReasonCode::BadUserNameOrPassword);
    }
}

#[tokio::test]
async fn the_password_behind_the_decoy_opens_nothing() {
    // An unknown user's password is compared with alice's hash for its cost: the result must not count.
    let (_folder, authenticator) = one_user();
    assert_denied(authenticator.verify("bob", b"pencil").await, ReasonCode::BadUserNameOrPassword);
}

#[tokio::test]
async fn too_many_at_once_are_refused_as_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    write_user(&path, "alice");
    let settings = Authentication { verifications_concurrent_max: 1, verifications_pending_max: 1, ..settings(&path) };
    let authenticator = load(&settings).unwrap();

    let verify = || authenticator.verify("alice", b"pencil");
    let (first, second, third) = tokio::join!(verify(), verify(), verify());
    assert_user(&first, "alice");
    assert_user(&second, "alice");
    assert_denied(third, ReasonCode::ServerBusy);
    assert_user(&verify().await, "alice");
    let counts = authenticator.counts();
    assert_eq!((counts.password_accepted, counts.password_refused, counts.password_busy), (3, 0, 1));
}

#[tokio::test]
async fn users_are_read_again() {
    let (folder, authenticator) = one_user();
    let path = folder.path().join("users");
    let found = |users, gone: &[&str]| Reloaded { users, gone: gone.iter().map(|name| Arc::from(*name)).collect() };
    assert_eq!(authenticator.reload().unwrap(), found(1, &[]));
    write_user(&path, "alice");
    assert_eq!(authenticator.reload().unwrap(), found(1, &["password:alice"]), "another salt may be another password");
    write_user(&path, "bob");
    assert_eq!(authenticator.reload().unwrap(), found(1, &["password:alice"]));
    assert_user(&authenticator.clone().verify("bob", b"pencil").await, "bob");
    assert_denied(authenticator.verify("alice", b"pencil").await, ReasonCode::BadUserNameOrPassword);

    std::fs::write(folder.path().join("users"), "nonsense").unwrap();
    assert!(authenticator.reload().is_err());
    assert_user(&authenticator.verify("bob", b"pencil").await, "bob");
}

#[test]
fn a_listener_asks_what_it_is_told_to() {
    let (_folder, authenticator) = one_user();
    let loopback = Listener::default();
    let public = Listener { bind: "0.0.0.0:1883".parse().unwrap(), ..Listener::default() };
    assert!(authenticator.policy(&loopback).anonymous_allowed);
    assert!(!authenticator.policy(&public).anonymous_allowed);
    assert!(authenticator.policy(&public).password_allowed);
    assert_eq!(authenticator.policy(&public).methods, [scram::METHOD]);

    let nobody = load(&Authentication::default()).unwrap();
    assert!(!nobody.policy(&public).password_allowed);
    assert!(nobody.policy(&public).methods.is_empty());
}

fn log_in(exchange: &mut Exchange, user: &str, password: &str) -> Verdict {
    let client = ClientFirst::new(user, password, "nonce").unwrap();
    let data = match exchange.step(scram::METHOD, client.message()) {
        Verdict::Continue { data } => data,
        denied => return denied,
    };
    let client = client.answer(&data).unwrap();
    let verdict = exchange.step(scram::METHOD, client.message());
    if let Verdict::Allow { data, .. } = &verdict {
        client.verify(data).unwrap();
    }
    verdict
}

#[test]
fn scram_logs_in_and_again() {
    let (_folder, authenticator) = one_user();
    let mut exchange = authenticator.exchange(None);
    assert_user(&log_in(&mut exchange, "alice", "pencil"), "alice");
    assert_user(&log_in(&mut exchange, "alice", "pencil"), "alice");
    assert_denied(log_in(&mut exchange, "bob", "pencil"), ReasonCode::NotAuthorized);
}

#[test]
fn what_is_revoked_proves_nothing_again() {
    let (_folder, authenticator) = one_user();
    let registry = Arc::new(crate::registry::Registry::in_memory().unwrap());
    let admission = crate::identity::Admission::new(registry.clone(), crate::config::UnknownVehicles::Refuse);
    let mut exchange = authenticator.exchange(None).asking(admission);
    assert_user(&log_in(&mut exchange, "alice", "pencil"), "alice");
    registry.revoke(&["password:alice"], "stolen", 1).unwrap();
    assert_denied(log_in(&mut exchange, "alice", "pencil"), ReasonCode::NotAuthorized);
}

#[test]
fn scram_refuses_others() {
    let (_folder, authenticator) = one_user();
    for (user, password) in [("alice", "Pencil"), ("bob", "pencil")] {
        assert_denied(log_in(&mut authenticator.exchange(None), user, password), ReasonCode::BadUserNameOrPassword);
    }
    assert_denied(authenticator.exchange(None).step("PLAIN", b""), ReasonCode::BadAuthenticationMethod);
    assert_denied(authenticator.exchange(None).step(scram::METHOD, b"n,,"), ReasonCode::NotAuthorized);

    let nobody = load(&Authentication::default()).unwrap();
    assert_denied(nobody.exchange(None).step(scram::METHOD, b"n,,n=a,r=b"), ReasonCode::BadAuthenticationMethod);
}

#[test]
fn an_unknown_user_is_always_given_the_same_salt() {
    let (_folder, authenticator) = one_user();
    let salt = |user: &str| {
        let client = ClientFirst::new(user, "x", "nonce").unwrap();
        match authenticator.exchange(None).step(scram::METHOD, client.message()) {
            Verdict::Continue { data } => {
                let text = String::from_utf8(data).unwrap();
                text.split_once(",s=").unwrap().1.to_owned()
            }
            _ => panic!("an exchange goes on, whoever asks"),
        }
    };
    assert_eq!(salt("bob"), salt("bob"));
    assert_ne!(salt("bob"), salt("eve"));
    assert_eq!(salt("bob").len(), salt("alice").len());
}

#[tokio::test]
async fn a_long_name_does_not_fill_the_log() {
    let (_folder, authenticator) = one_user();
    for name in ["x".repeat(65_535), "é".repeat(30_000), "\n".repeat(100)] {
        match authenticator.verify(&name, b"").await {
            Verdict::Deny { why, .. } => assert!(why.chars().count() < 300 && !why.contains('\n'), "{why}"),
            _ => panic!("nobody has this name"),
        }
    }
}
