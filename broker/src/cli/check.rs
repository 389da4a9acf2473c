//! `causewayd check`: is a configuration right?
//!
//! Owns what is printed about it. It binds nothing.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, Depth, Durability, Listener, Place, Problem, Storage, load_to};

/// Checks the files, with the environment that `causewayd run` would have.
pub(super) fn run(
    files: &[PathBuf],
    environment: &[(String, String)],
    depth: Depth,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        match load_to(file, environment.to_vec(), depth) {
            Ok(loaded) => {
                let of_policy = |problem: &&Problem| !is_of_policy(problem, &loaded.config);
                let warnings: Vec<Problem> = loaded.warnings.iter().filter(of_policy).cloned().collect();
                print(&warnings, errors)?;
                // Who asks is to be told of rules that never decide anything, and a start goes on with them.
                let doubts = loaded.config.policy.file.as_deref().map(super::policy::doubts).unwrap_or_default();
                if depth == Depth::Files && !doubts.is_empty() {
                    print(&doubts, errors)?;
                    code = ExitCode::FAILURE;
                    continue;
                }
                writeln!(out, "{}: ok", file.display())?;
                for listener in &loaded.config.listener {
                    writeln!(out, "  {}", summary(&loaded.config, listener))?;
                }
                writeln!(out, "  {}", policy(&loaded.config))?;
                writeln!(out, "  {}", storage(&loaded.config.storage))?;
            }
            Err(problems) => {
                print(&problems, errors)?;
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// One problem after the other.
pub(super) fn print(problems: &[Problem], errors: &mut dyn Write) -> io::Result<()> {
    problems.iter().try_for_each(|problem| writeln!(errors, "{problem}"))
}

/// Who can log in where.
fn summary(config: &Config, listener: &Listener) -> String {
    let authentication = &config.authentication;
    let users = authentication.password_file.is_some();
    let ways: Vec<_> = [
        (listener.asks_for_certificates(), "certificate"),
        (authentication.jwt.is_some(), "token"),
        (users, "password"),
        (users && authentication.scram, "SCRAM-SHA-256"),
    ]
    .into_iter()
    .filter_map(|(is_there, way)| is_there.then_some(way))
    .collect();
    let who = match (listener.anonymous_allowed(authentication), ways.is_empty()) {
        (true, true) => "everybody may connect, without logging in",
        (true, false) => "everybody may connect, without logging in or as a user",
        (false, _) => "users only",
    };
    let how = match ways.split_last() {
        Some((last, [])) => format!(", by {last}"),
        Some((last, others)) => format!(", by {} or {last}", others.join(", ")),
        None => String::new(),
    };
    format!("{}: {} on {} ({who}{how})", listener.name, listener.transport, listener.bind)
}

/// Who may do what.
fn policy(config: &Config) -> String {
    match &config.policy.file {
        Some(file) => format!("policy: {}", file.display()),
        None => "policy: none, whoever is let in may do everything, a vehicle within its own topics".to_owned(),
    }
}

/// Whether it was found in the policy, of which more is said.
fn is_of_policy(problem: &Problem, config: &Config) -> bool {
    let Some(policy) = &config.policy.file else { return false };
    matches!(&problem.place, Place::Line { file, .. } if *file == policy.display().to_string())
}

/// What is kept, and where.
fn storage(storage: &Storage) -> String {
    let Some(folder) = &storage.data_directory else {
        return "storage: none, nothing survives the end of the process".to_owned();
    };
    let when = match storage.durability {
        Durability::Fsync => "once the disk has them",
        Durability::Os => "once the operating system has them",
    };
    let shown = folder.display();
    let state = match folder.exists() {
        true => "",
        false => ", which does not exist yet and will be made",
    };
    format!("storage: {shown}{state} (messages are acknowledged {when})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str) -> (ExitCode, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, content).unwrap();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = run(&[path], &[], Depth::Files, &mut out, &mut errors).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
    }

    #[test]
    fn a_right_file_is_summed_up() {
        let (code, out, errors) = check("[[listener]]\n");
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(
            out.ends_with(
                "c.toml: ok\n  mqtt: tcp on 127.0.0.1:1883 (everybody may connect, without logging in)\n  \
                 policy: none, whoever is let in may do everything, a vehicle within its own topics\n  \
                 storage: none, nothing survives the end of the process\n"
            ),
            "{out}"
        );
        assert!(errors.contains("warning: "), "{errors}");
    }

    #[test]
    fn it_says_what_is_kept() {
        let (_, out, errors) = check("[[listener]]\n[storage]\ndata_directory = 'data'\ndurability = 'os'\n");
        assert!(
            out.ends_with("/data, which does not exist yet and will be made (messages are acknowledged once the operating system has them)\n"),
            "{out}"
        );
        assert!(
            errors.contains("warning: with durability = \"os\", messages that were acknowledged are lost"),
            "{errors}"
        );
    }

    #[test]
    fn it_says_who_may_connect_and_how() {
        let summed_up = |authentication: &str| {
            let listener = Listener::default();
            let config = Config { authentication: toml::from_str(authentication).unwrap(), ..Config::default() };
            summary(&config, &listener).split_once('(').unwrap().1.trim_end_matches(')').to_owned()
        };
        let users = "password_file = 'users'\n";
        assert_eq!(
            summed_up(users),
            "everybody may connect, without logging in or as a user, by password or SCRAM-SHA-256"
        );
        assert_eq!(summed_up(&format!("{users}anonymous = 'never'\nscram = false")), "users only, by password");
        let token = "anonymous = 'never'\njwt.keys_file = 'keys'\n";
        assert_eq!(summed_up(token), "users only, by token");
        assert_eq!(summed_up(&format!("{users}{token}")), "users only, by token, password or SCRAM-SHA-256");
    }

    #[test]
    fn a_wrong_file_fails() {
        let (code, out, errors) = check("[[listener]]\nbnd = 1\n");
        assert_eq!(code, ExitCode::FAILURE);
        assert_eq!(out, "");
        assert!(
            errors.ends_with(
                "c.toml:2:1: unknown key \"bnd\" in [[listener]], did you mean \"bind\"?\n  2 | bnd = 1\n    | ^^^\n"
            ),
            "{errors}"
        );
    }
}
