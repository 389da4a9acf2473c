//! `causewayd passwd`: the users of a password file.
//!
//! Owns asking for passwords, on the terminal or from standard input. They are never arguments, which others could see.

use std::io::{self, BufRead, IsTerminal, Write, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};

use crate::auth::{PasswordFile, PasswordFileError, hashing, password_file};

/// Bytes of the longest password: what an MQTT packet can carry.
const PASSWORD_BYTES_MAX: usize = 65_535;

#[derive(Debug, Args)]
#[command(after_help = "\
Passwords are stored as Argon2id hashes and SCRAM-SHA-256 keys, never in plain. A running broker reads the file again on SIGHUP.

Examples:
  causewayd passwd users add alice
  printf '%s' \"$PASSWORD\" | causewayd passwd users add alice --password-stdin
  causewayd passwd users list")]
pub(super) struct Options {
    /// The password file; add creates it
    file: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a user, or change the password of one
    Add {
        /// The user's name
        user: String,
        #[command(flatten)]
        source: Source,
        /// Store no SCRAM keys: the user can only log in by sending the password
        #[arg(long)]
        no_scram: bool,
    },
    /// Remove a user
    Remove {
        /// The user's name
        user: String,
    },
    /// Print the names of all users
    List,
    /// Check a user's password; fails if it is wrong
    Verify {
        /// The user's name
        user: String,
        #[command(flatten)]
        source: Source,
    },
}

#[derive(Debug, Args)]
struct Source {
    /// Read the password from the first line of standard input, instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

pub(super) fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let path = &options.file;
    match &options.action {
        Action::Add { user, source, no_scram } => {
            password_file::check_name(user).map_err(|what| anyhow!(what))?;
            // Before anybody types a password in vain.
            drop(PasswordFile::lock(path).map_err(|error| without_folder(path, error))?);
            let password = source.new_password(user)?;
            add(options, user, &password, !no_scram, out)?;
        }
        Action::Remove { user } => {
            let _lock = PasswordFile::lock(path)?;
            let mut file = PasswordFile::load(path)?;
            file.users.remove(user).with_context(|| format!("there is no user {user:?} in {}", path.display()))?;
            file.store(path)?;
            writeln!(out, "removed {user}")?;
        }
        Action::List => {
            for (name, user) in &PasswordFile::load(path)?.users {
                let note = if user.scram.is_some() { "" } else { "  (without SCRAM)" };
                writeln!(out, "{name}{note}")?;
            }
        }
        Action::Verify { user, source } => {
            let file = PasswordFile::load(path)?;
            let known =
                file.users.get(user).with_context(|| format!("there is no user {user:?} in {}", path.display()))?;
            if !hashing::verify(source.password(user)?.as_bytes(), &known.argon2) {
                bail!("that is not the password of {user:?}");
            }
            writeln!(out, "right")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what to do where the folder of the file is missing.
fn without_folder(path: &Path, error: PasswordFileError) -> anyhow::Error {
    match path.parent() {
        Some(folder) if error.is_not_found() => {
            anyhow!("there is no folder {}: make it with: mkdir -p {}", folder.display(), folder.display())
        }
        _ => error.into(),
    }
}

fn add(options: &Options, user: &str, password: &str, scram: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let path = &options.file;
    let _lock = PasswordFile::lock(path)?;
    let mut file = match PasswordFile::load(path) {
        Err(error) if error.is_not_found() => PasswordFile::default(),
        file => file?,
    };
    if file.secret.is_empty() {
        file.secret = hashing::random::<32>().map_err(|why| anyhow!(why))?.to_vec();
    }
    let hashed = hashing::user(password, scram).map_err(|why| anyhow!("the password cannot be used: {why}"))?;
    let changed = file.users.insert(user.to_owned(), hashed).is_some();
    file.store(path)?;
    writeln!(out, "{} {user}", if changed { "changed the password of" } else { "added" })?;
    Ok(())
}

impl Source {
    /// A password that is asked for twice.
    fn new_password(&self, user: &str) -> anyhow::Result<String> {
        let password = self.password(user)?;
        if !self.password_stdin && rpassword::prompt_password("Again: ")? != password {
            bail!("the two passwords differ");
        }
        Ok(password)
    }

    fn password(&self, user: &str) -> anyhow::Result<String> {
        if self.password_stdin {
            return read_line(&mut stdin().lock());
        }
        if !stdin().is_terminal() {
            bail!("standard input is not a terminal: give the password with --password-stdin");
        }
        Ok(rpassword::prompt_password(format!("Password of {user}: "))?)
    }
}

fn read_line(input: &mut dyn BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    // Two more, for the end of the line.
    io::Read::take(input, PASSWORD_BYTES_MAX as u64 + 2).read_line(&mut line).context("cannot read the password")?;
    let password = line.strip_suffix('\n').map_or(line.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    match password.len() {
        0 => bail!("the password is empty"),
        bytes if bytes > PASSWORD_BYTES_MAX => bail!("the password is longer than {PASSWORD_BYTES_MAX} bytes"),
        _ => Ok(password.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(file: PathBuf, action: Action) -> Options {
        Options { file, action }
    }

    fn said(options: &Options) -> Result<String, String> {
        let mut out = Vec::new();
        match run(options, &mut out) {
            Ok(_) => Ok(String::from_utf8(out).unwrap()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn users_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let list = options(path.clone(), Action::List);
        let remove = options(path.clone(), Action::Remove { user: "alice".to_owned() });
        assert!(said(&list).unwrap_err().contains("No such file"));

        let mut out = Vec::new();
        add(&list, "alice", "pencil", true, &mut out).unwrap();
        add(&list, "bob", "pencil", false, &mut out).unwrap();
        add(&list, "alice", "eraser", true, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "added alice\nadded bob\nchanged the password of alice\n");

        let file = PasswordFile::load(&path).unwrap();
        assert_eq!(file.secret.len(), 32);
        assert!(hashing::verify(b"eraser", &file.users["alice"].argon2));
        assert_eq!(said(&list).unwrap(), "alice\nbob  (without SCRAM)\n");

        assert_eq!(said(&remove).unwrap(), "removed alice\n");
        assert!(said(&remove).unwrap_err().contains("there is no user \"alice\""));
        assert_eq!(said(&list).unwrap(), "bob  (without SCRAM)\n");
        assert_eq!(PasswordFile::load(&path).unwrap().secret, file.secret, "salts of unknown users stay");
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        for user in ["", "a:b", "#a", "a\nb"] {
            let action =
                Action::Add { user: user.to_owned(), source: Source { password_stdin: true }, no_scram: false };
            assert!(said(&options(path.clone(), action)).is_err(), "{user:?}");
        }
        assert!(!path.exists());
    }

    #[test]
    fn a_missing_folder_is_told_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("causeway").join("users");
        let action = Action::Add { user: "alice".to_owned(), source: Source { password_stdin: true }, no_scram: false };
        let error = said(&options(path, action)).unwrap_err();
        assert!(error.ends_with(&format!("make it with: mkdir -p {}/causeway", folder.path().display())), "{error}");
    }

    #[test]
    fn one_line_is_the_password() {
        assert_eq!(read_line(&mut &b"pencil"[..]).unwrap(), "pencil");
        assert_eq!(read_line(&mut &b"pen cil \r\nmore"[..]).unwrap(), "pen cil ");
        assert!(read_line(&mut &b""[..]).is_err());
        assert!(read_line(&mut &b"\n"[..]).is_err());
        assert!(read_line(&mut &b"\xff"[..]).is_err());
        assert!(read_line(&mut vec![b'a'; PASSWORD_BYTES_MAX].as_slice()).is_ok());
        assert!(read_line(&mut vec![b'a'; PASSWORD_BYTES_MAX + 1].as_slice()).is_err());
    }
}
