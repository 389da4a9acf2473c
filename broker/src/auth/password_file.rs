//! The file of users.
//!
//! Owns its format, reading and replacing. It never verifies a password, and holds none.
//!
//! One user a line, `NAME:ARGON2` or `NAME:ARGON2:SCRAM`, where ARGON2 is a PHC string (`$argon2id$...`) and SCRAM is what
//! [`Keys`] prints. A NAME may begin with `vehicle:`, `service:` or `operator:`. A line `:secret:BASE64` holds what the salts of users who do not exist are made from. Empty lines and
//! lines that begin with `#` are skipped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use causeway_fleet::Principal;
use causeway_fleet::scram::Keys;
use thiserror::Error;

use super::hashing;

const HEADER: &str = "# Users of causewayd. Change this file with `causewayd passwd`.\n";
const SECRET_PREFIX: &str = ":secret:";

/// Bytes of the longest user name.
pub const USER_BYTES_MAX: usize = 256;

/// What is known of one user.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The Argon2 hash of the password, as a PHC string.
    pub argon2: String,
    /// The keys for SCRAM-SHA-256, if the user may log in so.
    pub scram: Option<Keys>,
}

/// All users of a file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PasswordFile {
    /// By name.
    pub users: BTreeMap<String, User>,
    /// What the salts of users who do not exist are made from. Empty if the file has none.
    pub secret: Vec<u8>,
}

/// Why a file of users cannot be used.
#[derive(Debug, Error)]
pub enum PasswordFileError {
    /// The system said no.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing to verify passwords with.
    #[error("cannot start the threads that verify passwords: {source}")]
    Threads {
        /// What the system said.
        source: io::Error,
    },
    /// A line is wrong. It is not shown, because it holds a hash.
    #[error("{}:{line}: {what}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl PasswordFileError {
    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, PasswordFileError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl PasswordFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong.
    pub fn load(path: &Path) -> Result<PasswordFile, PasswordFileError> {
        let text = fs::read_to_string(path).map_err(at(path))?;
        let wrong = |(line, what)| PasswordFileError::Line { path: path.to_owned(), line, what };
        PasswordFile::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<PasswordFile, (usize, &'static str)> {
        let mut file = PasswordFile::default();
        for (index, line) in text.lines().enumerate() {
            file.add_line(line).map_err(|what| (index + 1, what))?;
        }
        Ok(file)
    }

    fn add_line(&mut self, line: &str) -> Result<(), &'static str> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(secret) = line.strip_prefix(SECRET_PREFIX) {
            self.secret = BASE64_STANDARD.decode(secret).map_err(|_| "the secret is not Base64")?;
            return Ok(());
        }
        const FORM: &str = "not of the form NAME:ARGON2 or NAME:ARGON2:SCRAM";
        let (name, hashes) = split_name(line).ok_or(FORM)?;
        let mut fields = hashes.splitn(2, ':');
        let argon2 = fields.next().ok_or(FORM)?;
        check_name(name)?;
        hashing::check(argon2)?;
        let scram = fields.next().map(|keys| keys.parse().map_err(|_| "the SCRAM keys are malformed")).transpose()?;
        match self.users.insert(name.to_owned(), User { argon2: argon2.to_owned(), scram }) {
            Some(_) => Err("the user stands in the file twice"),
            None => Ok(()),
        }
    }

    /// Replaces the file, so that a reader sees the old users or the new ones, and survives a power cut. The file can be read by its owner
    /// only; an existing file keeps its owner.
    ///
    /// # Errors
    /// The system said no; then the old file is still there.
    pub fn store(&self, path: &Path) -> Result<(), PasswordFileError> {
        // A symbolic link stays one: what it points to is replaced.
        let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = folder_of(path);
        // Readable by the owner only, from the first byte on.
        let mut new = tempfile::NamedTempFile::new_in(folder).map_err(at(folder))?;
        new.write_all(self.text().as_bytes()).map_err(at(new.path()))?;
        if let Ok(old) = fs::metadata(path) {
            keep_owner(new.as_file(), &old).map_err(at(path))?;
        }
        new.as_file().sync_all().map_err(at(path))?;
        new.persist(path).map_err(|error| at(path)(error.error))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
    }

    /// Holds off other writers of the same folder until the result is dropped.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn lock(path: &Path) -> Result<File, PasswordFileError> {
        let folder = folder_of(path);
        let lock = File::open(folder).map_err(at(folder))?;
        lock.lock().map_err(at(folder))?;
        Ok(lock)
    }

    fn text(&self) -> String {
        let mut text = HEADER.to_owned();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{SECRET_PREFIX}{}", BASE64_STANDARD.encode(&self.secret));
        for (name, user) in &self.users {
            let _ = match &user.scram {
                Some(keys) => writeln!(text, "{name}:{}:{keys}", user.argon2),
                None => writeln!(text, "{name}:{}", user.argon2),
            };
        }
        text
    }
}

/// What says of a name whose it is.
const KINDS: [&str; 3] = ["vehicle:", "service:", "operator:"];

/// The kind of a name, empty where it has none, and the rest. `operator` alone is a name like any other.
fn split_kind(text: &str) -> (&str, &str) {
    let kind = KINDS.into_iter().find(|kind| text.starts_with(kind)).map_or(0, str::len);
    match text.split_at(kind) {
        // A hash begins so, and no name.
        (_, rest) if rest.starts_with('$') => ("", text),
        split => split,
    }
}

/// A line's name, and what follows on it.
fn split_name(line: &str) -> Option<(&str, &str)> {
    let (kind, rest) = split_kind(line);
    let end = kind.len() + rest.find(':')?;
    Some((&line[..end], &line[end + 1..]))
}

/// Whether somebody can have this name.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("the user name is empty"),
        name if name.len() > USER_BYTES_MAX => Err("the user name is longer than 256 bytes"),
        name if split_kind(name).1.contains(':') => Err("the user name has a colon"),
        name if KINDS.contains(&name) => Err("the user name has nothing behind its colon"),
        name if name.starts_with("vehicle:") && Principal::of_user(name).vin().is_none() => {
            Err("the user name vehicle:VIN has no VIN: 17 of 0-9 and A-Z without I, O and Q")
        }
        name if name.starts_with('#') => Err("the user name begins with #"),
        name if name.chars().any(char::is_control) => Err("the user name has a control character"),
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The broker often runs as another user than the one who edits its users.
fn keep_owner(new: &File, old: &fs::Metadata) -> io::Result<()> {
    let now = new.metadata()?;
    match (now.uid(), now.gid()) == (old.uid(), old.gid()) {
        true => Ok(()),
        false => std::os::unix::fs::fchown(new, Some(old.uid()), Some(old.gid())),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PasswordFileError {
    let path = path.to_owned();
    move |source| PasswordFileError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ARGON2: &str = "$argon2id$v=19$m=16,t=1,p=1$c2FsdHNhbHQ$2WXVzmKnTzUYAhUGvdeCdA";

    fn file() -> PasswordFile {
        let mut file = PasswordFile { secret: b"secret".to_vec(), ..PasswordFile::default() };
        let keys = Keys::derive("pencil", b"salt", 4096).unwrap();
        file.users.insert("alice".to_owned(), User { argon2: ARGON2.to_owned(), scram: Some(keys) });
        file.users.insert("Zoë O'Neil".to_owned(), User { argon2: ARGON2.to_owned(), scram: None });
        file
    }

    #[test]
    fn users_survive_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        file().store(&path).unwrap();
        assert!(PasswordFile::load(&path).unwrap() == file());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        PasswordFile::default().store(&path).unwrap();
        assert!(PasswordFile::load(&path).unwrap().users.is_empty());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left lying about");
    }

    #[test]
    fn a_name_may_say_whose_it_is() {
        let mut users = PasswordFile::default();
        let names = ["operator", "operator:olga", "service", "service:ota", "vehicle:1M8GDM9AXKP042788", "vehicle"];
        for name in names {
            assert_eq!(check_name(name), Ok(()), "{name}");
            let user = file().users.remove("alice").unwrap();
            users.users.insert(name.to_owned(), User { scram: user.scram.filter(|_| name.len() % 2 == 0), ..user });
        }
        assert!(PasswordFile::parse(&users.text()).unwrap() == users);
        for name in ["operator:", "vehicle:x", "vehicle:1m8gdm9axkp042788", "operator:a:b", "admin:a", "operator:$x"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_symbolic_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("users"), folder.path().join("link"));
        file().store(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        PasswordFile::default().store(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(PasswordFile::load(&path).unwrap().users.is_empty());
    }

    #[test]
    fn wrong_lines_are_named_but_not_shown() {
        let twice = format!("a:{ARGON2}\na:{ARGON2}");
        let rows = [
            ("alice", 1),
            ("# users\n\nalice:pencil", 3),
            ("alice:$6$salt$hash", 1),
            ("alice:$argon2id$v=19$m=16,t=1,p=1$c2FsdHNhbHQ", 1),
            (":secret:?", 1),
            (&format!("alice:{ARGON2}:SCRAM-SHA-1$1"), 1),
            (&format!(":{ARGON2}"), 1),
            (&format!("a\tb:{ARGON2}"), 1),
            (&twice, 2),
        ];
        for (text, line) in rows {
            let (found, what) = PasswordFile::parse(text).err().expect(text);
            assert_eq!(found, line, "{text}: {what}");
            assert!(!what.contains("argon2id$v"));
        }
    }

    #[test]
    fn a_missing_file_is_told_from_a_wrong_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(PasswordFile::load(&folder.path().join("users")).err().unwrap().is_not_found());
        fs::write(folder.path().join("users"), "x").unwrap();
        let error = PasswordFile::load(&folder.path().join("users")).err().unwrap();
        assert!(!error.is_not_found());
        assert!(error.to_string().contains("users:1: not of the form"), "{error}");
    }
}
