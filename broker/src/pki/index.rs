//! What an authority issued and revoked.
//!
//! Owns the format of the index and its appending. A certificate is handed out, and a revocation answered, only after its line is on disk.
//! It makes no certificate and no list of revoked ones.
//!
//! One event a line, so that adding one costs the same however many there are:
//!
//! ```text
//! 2026-11-22T01:20:00Z issued 5f0c... vehicle:1M8GDM9AXKP042788 until 2027-02-20T01:20:00Z
//! 2026-11-23T08:00:00Z revoked 5f0c... key-compromise
//! 2026-11-23T08:00:00Z crl 1
//! ```
//!
//! Lines that begin with `#` are skipped. A last line without its end was cut by a crash: nobody was told of it, so it does not count.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use clap::ValueEnum;
use rcgen::RevocationReason;

use super::PkiError;
use super::files::at;
use super::stamp::{parse_stamp, stamp};

pub(super) const HEADER: &str = "# What this authority issued and revoked. Written by causewayd: do not edit.\n";

/// Why a certificate is revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Reason {
    /// Nothing is said
    #[default]
    Unspecified,
    /// Somebody else has the private key, or may have it
    KeyCompromise,
    /// The owner changed
    AffiliationChanged,
    /// Another certificate has taken its place
    Superseded,
    /// The vehicle or application is out of service
    CessationOfOperation,
    /// It may not connect any more
    PrivilegeWithdrawn,
}

impl Reason {
    /// Its word in the index and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Unspecified => "unspecified",
            Reason::KeyCompromise => "key-compromise",
            Reason::AffiliationChanged => "affiliation-changed",
            Reason::Superseded => "superseded",
            Reason::CessationOfOperation => "cessation-of-operation",
            Reason::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }

    pub(super) fn code(self) -> RevocationReason {
        match self {
            Reason::Unspecified => RevocationReason::Unspecified,
            Reason::KeyCompromise => RevocationReason::KeyCompromise,
            Reason::AffiliationChanged => RevocationReason::AffiliationChanged,
            Reason::Superseded => RevocationReason::Superseded,
            Reason::CessationOfOperation => RevocationReason::CessationOfOperation,
            Reason::PrivilegeWithdrawn => RevocationReason::PrivilegeWithdrawn,
        }
    }
}

/// When and why a certificate was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// Seconds since 1970.
    pub at: i64,
    /// Why.
    pub reason: Reason,
}

/// Whether a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is.
    Valid,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked(Revoked),
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its serial number, in lower-case hexadecimal digits.
    pub serial: String,
    /// Who it is for, such as `vehicle:1M8GDM9AXKP042788`.
    pub subject: String,
    /// When it was issued, in seconds since 1970.
    pub issued_at: i64,
    /// When it expires, in seconds since 1970.
    pub not_after: i64,
    /// If it was revoked.
    pub revoked: Option<Revoked>,
}

impl Entry {
    /// Whether it is good at this time.
    pub fn state(&self, now: i64) -> State {
        match self.revoked {
            Some(revoked) => State::Revoked(revoked),
            None if self.not_after <= now => State::Expired,
            None => State::Valid,
        }
    }
}

/// All certificates of an authority, in the order they were issued in.
#[derive(Debug, Default)]
pub struct Index {
    entries: Vec<Entry>,
    by_serial: HashMap<String, usize>,
    /// The number of the last list of revoked certificates.
    pub(super) crl_number: u64,
    /// How much of the file was read: whole lines.
    bytes: u64,
    lines: usize,
}

/// Something that happened.
pub(super) enum Event<'a> {
    Issued { serial: &'a str, subject: &'a str, not_after: i64 },
    Revoked { serial: &'a str, reason: Reason },
    Crl { number: u64 },
}

impl Index {
    /// Reads what was added to the file since the last time: at first, all of it.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong. What stands before that line is known then.
    pub(super) fn refresh(&mut self, path: &Path) -> Result<(), PkiError> {
        let mut file = File::open(path).map_err(at(path))?;
        if file.metadata().map_err(at(path))?.len() < self.bytes {
            // Another file is in its place.
            *self = Index::default();
        }
        let mut text = String::new();
        let read = file.seek(SeekFrom::Start(self.bytes)).and_then(|_| file.read_to_string(&mut text));
        read.map_err(at(path))?;
        self.add_lines(&text).map_err(|what| PkiError::Index { path: path.to_owned(), line: self.lines + 1, what })
    }

    fn add_lines(&mut self, text: &str) -> Result<(), &'static str> {
        for line in text.split_inclusive('\n') {
            let Some(whole) = line.strip_suffix('\n') else { break };
            if !whole.starts_with('#') {
                self.add(whole)?;
            }
            self.lines += 1;
            self.bytes += line.len() as u64;
        }
        Ok(())
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        let fields: Vec<&str> = line.split(' ').collect();
        let time = |text: &str| parse_stamp(text).ok_or("this is not a time such as 2026-11-22T01:20:00Z");
        match fields[..] {
            [at, "issued", serial, subject, "until", not_after] => {
                let (issued_at, not_after) = (time(at)?, time(not_after)?);
                let entry = Entry {
                    serial: serial.to_owned(),
                    subject: subject.to_owned(),
                    issued_at,
                    not_after,
                    revoked: None,
                };
                if self.by_serial.insert(serial.to_owned(), self.entries.len()).is_some() {
                    return Err("this serial number was issued before");
                }
                self.entries.push(entry);
            }
            [at, "revoked", serial, reason] => {
                let at = time(at)?;
                let reason =
                    Reason::from_str(reason, false).map_err(|_| "this is no reason to revoke a certificate")?;
                let entry = self.by_serial.get(serial).and_then(|&place| self.entries.get_mut(place));
                let entry = entry.ok_or("this serial number was never issued")?;
                entry.revoked.get_or_insert(Revoked { at, reason });
            }
            [_, "crl", number] => self.crl_number = number.parse().map_err(|_| "this is no number of a list")?,
            _ => return Err("this line is none that causewayd wrote"),
        }
        Ok(())
    }

    /// All certificates, in the order they were issued in.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The certificate with this serial number, in lower-case hexadecimal digits.
    pub fn get(&self, serial: &str) -> Option<&Entry> {
        self.entries.get(*self.by_serial.get(serial)?)
    }

    /// Adds lines, and waits until they are on disk. The caller holds the lock of the folder.
    pub(super) fn append(path: &Path, now: i64, events: &[Event<'_>]) -> Result<(), PkiError> {
        let lines: String = events.iter().map(|event| event.line(now)).collect();
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(at(path))?;
        let end = whole_bytes(&mut file).map_err(at(path))?;
        file.set_len(end).map_err(at(path))?;
        file.seek(SeekFrom::Start(end)).map_err(at(path))?;
        let written = file.write_all(lines.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|error| {
            // What cannot be promised is taken back; where that fails, too, it is a certificate that nobody was given.
            let _ = file.set_len(end);
            at(path)(error)
        })
    }
}

/// How much of the file is whole lines.
fn whole_bytes(file: &mut File) -> std::io::Result<u64> {
    /// More than the longest line.
    const LINE_BYTES_MAX: u64 = 4096;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(tail.iter().rposition(|&byte| byte == b'\n').map_or(from, |end| from + end as u64 + 1))
}

impl Event<'_> {
    fn line(&self, now: i64) -> String {
        let at = stamp(now);
        match self {
            Event::Issued { serial, subject, not_after } => {
                format!("{at} issued {serial} {subject} until {}\n", stamp(*not_after))
            }
            Event::Revoked { serial, reason } => format!("{at} revoked {serial} {}\n", reason.word()),
            Event::Crl { number } => format!("{at} crl {number}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parse(text: &str) -> Result<Index, (usize, &'static str)> {
        let mut index = Index::default();
        index.add_lines(text).map_err(|what| (index.lines + 1, what))?;
        Ok(index)
    }

    fn load(path: &Path) -> Index {
        let mut index = Index::default();
        index.refresh(path).unwrap();
        index
    }

    const LINES: &str = "# head\n\
        2026-11-22T01:20:00Z issued 5f vehicle:1M8GDM9AXKP042788 until 2027-02-20T01:20:00Z\n\
        2026-11-22T01:21:00Z issued 60 server:::1 until 2027-02-20T01:20:00Z\n\
        2026-11-23T08:00:00Z revoked 5f key-compromise\n\
        2026-11-23T08:00:00Z crl 7\n";

    #[test]
    fn lines_are_read_back() {
        let index = parse(LINES).unwrap();
        assert_eq!(index.crl_number, 7);
        assert_eq!(index.entries().len(), 2);
        let revoked = index.get("5f").unwrap();
        assert_eq!(revoked.subject, "vehicle:1M8GDM9AXKP042788");
        assert!(matches!(revoked.state(0), State::Revoked(Revoked { reason: Reason::KeyCompromise, .. })));
        let server = index.get("60").unwrap();
        assert_eq!(
            (server.state(server.not_after - 1), server.state(server.not_after)),
            (State::Valid, State::Expired)
        );
        for reason in Reason::value_variants() {
            assert_eq!(Reason::from_str(reason.word(), false).as_ref(), Ok(reason));
        }
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, line) in [
            ("x\n", 1),
            ("# a\n2026-11-22T01:20:00Z issued 5f a until never\n", 2),
            ("2026-11-23T08:00:00Z revoked 5f superseded\n", 1),
            (&format!("{LINES}{}\n", LINES.lines().nth(1).unwrap()), 6),
            (&format!("{LINES}2026-11-23T08:00:00Z revoked 60 boredom\n"), 6),
        ] {
            assert_eq!(parse(text).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn a_torn_line_does_not_count_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        for cut in 0..LINES.len() {
            fs::write(&path, &LINES[..cut]).unwrap();
            let before = load(&path).entries().len();
            Index::append(&path, 0, &[Event::Issued { serial: "aa", subject: "service:a", not_after: 9 }]).unwrap();
            let index = load(&path);
            assert_eq!(index.entries().len(), before + 1, "cut at {cut}");
            assert_eq!(index.entries().last().unwrap().serial, "aa");
        }
    }

    #[test]
    fn what_was_added_is_read_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let mut index = Index::default();
        for cut in 0..=LINES.len() {
            fs::write(&path, &LINES[..cut]).unwrap();
            index.refresh(&path).unwrap();
            assert_eq!(index.entries(), load(&path).entries(), "cut at {cut}");
        }
        fs::write(&path, "").unwrap();
        index.refresh(&path).unwrap();
        assert!(index.entries().is_empty());
    }
}
