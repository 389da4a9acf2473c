//! `causewayd check`: is a configuration right?
//!
//! Owns what is printed about it. It binds nothing.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, Listener, Problem, load};

/// Checks the files, with the environment that `causewayd run` would have.
pub(super) fn run(
    files: &[PathBuf],
    environment: Vec<(String, String)>,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        match load(file, environment.clone()) {
            Ok(loaded) => {
                print(&loaded.warnings, errors)?;
                writeln!(out, "{}: ok", file.display())?;
                for listener in &loaded.config.listener {
                    writeln!(out, "  {}", summary(&loaded.config, listener))?;
                }
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
    let mut ways = Vec::new();
    if listener.anonymous_allowed(authentication) {
        ways.push("nobody has to log in");
    }
    if users {
        ways.push("passwords");
    }
    if users && authentication.scram {
        ways.push("SCRAM-SHA-256");
    }
    format!("{}: {} on {} ({})", listener.name, listener.transport, listener.bind, ways.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str) -> (ExitCode, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, content).unwrap();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = run(&[path], Vec::new(), &mut out, &mut errors).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
    }

    #[test]
    fn a_right_file_is_summed_up() {
        let (code, out, errors) = check("[[listener]]\n");
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(out.ends_with("c.toml: ok\n  mqtt: tcp on 127.0.0.1:1883 (nobody has to log in)\n"), "{out}");
        assert!(errors.contains("warning: "), "{errors}");
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
