//! The file of tokens with which programs and people may use the administration listener.
//!
//! Owns its format and the comparison. Of a token only a hash is kept: tokens are random, so that a plain SHA-256 cannot be guessed back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

use crate::auth::hashing::random;

const HEADER: &str = "# Tokens of the administration listener. Written by causewayd admin-token.\n";
/// Bytes of the longest name.
const NAME_BYTES_MAX: usize = 64;
/// What a token begins with, so that it is known for one where it lies about.
const PREFIX: &str = "cwa_";

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Look and change.
    Write,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let found = [Role::Read, Role::Write].into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no role: there are read and write"))
    }
}

/// One of the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminToken {
    /// Whose it is.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    hash: [u8; 32],
}

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenFile {
    /// In the order of the file.
    pub tokens: Vec<AdminToken>,
}

impl TokenFile {
    /// Reads it.
    ///
    /// # Errors
    /// The system says no (with the file's name), or a line is none (with its number).
    pub fn load(path: &Path) -> io::Result<TokenFile> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(at)?;
        TokenFile::parse(&text).map_err(|(line, what)| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}:{line}: {what}", path.display()))
        })
    }

    fn parse(text: &str) -> Result<TokenFile, (usize, String)> {
        let mut file = TokenFile::default();
        for (index, line) in text.lines().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                let token = parse_line(line).map_err(|what| (index + 1, what))?;
                if file.tokens.iter().any(|known| known.name == token.name) {
                    return Err((index + 1, "the name stands in the file twice".to_owned()));
                }
                file.tokens.push(token);
            }
        }
        Ok(file)
    }

    /// Whose token this is. Takes as long for a wrong one as for a right one.
    pub fn find(&self, token: &str) -> Option<&AdminToken> {
        let hash = hash(token);
        self.tokens.iter().fold(None, |found, known| if same(&known.hash, &hash) { Some(known) } else { found })
    }

    /// Makes a token in the place of the one that the name may have, and returns it: it is known to nobody else.
    ///
    /// # Errors
    /// The name is none, or the system has no random numbers.
    pub fn add(&mut self, name: &str, role: Role) -> Result<String, String> {
        check_name(name)?;
        let token = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random::<32>()?));
        self.remove(name);
        self.tokens.push(AdminToken { name: name.to_owned(), role, hash: hash(&token) });
        Ok(token)
    }

    /// Removes a token; says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.tokens.len();
        self.tokens.retain(|token| token.name != name);
        self.tokens.len() < before
    }

    /// Replaces the file: a reader sees the old tokens or the new ones. It can be read by its owner only.
    ///
    /// # Errors
    /// The system said no; then the old file is still there.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(self.text().as_bytes())?;
        if let Ok(old) = fs::metadata(path) {
            use std::os::unix::fs::{MetadataExt, fchown};
            // The broker often runs as another user than the one who edits its tokens.
            fchown(new.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        new.as_file().sync_all()?;
        new.persist(path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    }

    fn text(&self) -> String {
        let lines = self.tokens.iter().map(|AdminToken { name, role, hash }| {
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{name}:{role}:{hash}\n")
        });
        HEADER.chars().chain(lines.collect::<String>().chars()).collect()
    }
}

fn parse_line(line: &str) -> Result<AdminToken, String> {
    let mut fields = line.split(':');
    let (Some(name), Some(role), Some(hash), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("not of the form NAME:ROLE:SHA256".to_owned());
    };
    check_name(name)?;
    Ok(AdminToken { name: name.to_owned(), role: role.parse()?, hash: parse_hash(hash).ok_or("the hash is none")? })
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(hash)
}

fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@');
    match (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        true => Ok(()),
        false => Err(format!("a token's name has 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ - @")),
    }
}

fn hash(token: &str) -> [u8; 32] {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().unwrap_or_default()
}

/// Compares all bytes, whatever the first ones say.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_file_and_are_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let mut file = TokenFile::default();
        let (ann, scraper) = (file.add("ann", Role::Write).unwrap(), file.add("scraper", Role::Read).unwrap());
        assert!(ann.starts_with("cwa_") && ann.len() > 40 && ann != scraper);
        file.store(&path).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains(&ann[4..]));
        let mut again = TokenFile::load(&path).unwrap();
        assert_eq!(again, file);
        assert_eq!(again.find(&ann).map(|token| (token.name.as_str(), token.role)), Some(("ann", Role::Write)));
        assert_eq!(again.find(&scraper).unwrap().role, Role::Read);
        assert!(again.find("").is_none() && again.find("cwa_x").is_none());
        let newer = again.add("ann", Role::Read).unwrap();
        assert!(again.find(&ann).is_none() && again.find(&newer).is_some());
        assert!(again.remove("ann") && !again.remove("ann"));
        assert!(again.add("a b", Role::Read).is_err());
    }

    #[test]
    fn wrong_lines_are_named() {
        let hash = "0".repeat(64);
        for (text, line) in [
            ("ann", 1),
            ("# x\n\nann:write", 3),
            (&format!("ann:admin:{hash}"), 1),
            ("ann:read:00", 1),
            (&format!("ann:read:{hash}\nann:write:{hash}"), 2),
            (&format!(":read:{hash}"), 1),
            (&format!("ann:read:{hash}:"), 1),
        ] {
            assert_eq!(TokenFile::parse(text).unwrap_err().0, line, "{text}");
        }
    }
}
