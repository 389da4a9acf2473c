//! Whether an audit log is whole.
//!
//! Owns the checks: every line's own sum, its place in the sequence, the hash of the line before, the names of the files, and what may be
//! missing at the beginning because the broker itself removed it. It trusts nothing but the files; what was cut off the end can only be
//! noticed by somebody who remembers a later head.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use super::folder::{LogFile, files};
use super::line::{Line, NO_LINE, sha256};

/// What is wrong first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The name of the file.
    pub file: String,
    /// The line, counted from 1; 0 where it is the file as a whole.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{}:{line}: {}", self.file, self.what),
        }
    }
}

/// What a log has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How many files.
    pub files: u64,
    /// How many lines.
    pub lines: u64,
    /// The sequence number of the first line; 0 where there is none.
    pub first: u64,
    /// The sequence number of the last line; 0 where there is none.
    pub last: u64,
    /// The hash of the last line.
    pub head: String,
    /// Events that the log says are missing.
    pub lost: u64,
    /// Places that a crash tore, each closed by a line.
    pub torn: u64,
    /// Whether one of the lines has the hash that was looked for.
    pub has_expected: bool,
}

struct Walk {
    checked: Checked,
    /// Of the oldest file that need be there, as the log says.
    oldest: u64,
}

/// Checks all files of a folder, in order; and whether a line has the hash `expected`, which was its head some time.
///
/// # Errors
/// The folder or a file cannot be read. What is wrong with the log itself is the answer.
pub fn verify(folder: &Path, expected: Option<&str>) -> io::Result<Result<Checked, Broken>> {
    let files = files(folder)?;
    let checked = Checked {
        files: files.len() as u64,
        lines: 0,
        first: files.first().map_or(0, |file| file.first),
        last: 0,
        head: NO_LINE.to_owned(),
        lost: 0,
        torn: 0,
        has_expected: expected.is_none_or(|expected| expected == NO_LINE),
    };
    let mut walk = Walk { checked, oldest: 1 };
    for (index, file) in files.iter().enumerate() {
        let bytes = fs::read(&file.path)?;
        if let Err(broken) = walk.file(file, index == 0, &bytes, expected) {
            return Ok(Err(broken));
        }
    }
    let first = walk.checked.first;
    if first > walk.oldest {
        let (file, oldest) = (files.first().map(LogFile::name).unwrap_or_default(), walk.oldest);
        let what = format!("files before it are missing: the log should begin with line {oldest}, not {first}");
        return Ok(Err(Broken { file, line: 0, what }));
    }
    Ok(Ok(walk.checked))
}

impl Walk {
    fn file(&mut self, file: &LogFile, is_first: bool, bytes: &[u8], expected: Option<&str>) -> Result<(), Broken> {
        let broken = |line: u64, what: String| Broken { file: file.name(), line, what };
        let next = self.checked.last + 1;
        if !is_first && file.first != next {
            let what = format!("lines {next} to {} are missing, with their file", file.first.saturating_sub(1));
            return Err(broken(
                0,
                if file.first > next { what } else { "its name fits no place in the sequence".into() },
            ));
        }
        // What is no line, since the last that was one: where it begins, the number of its first line, and why.
        let mut bad: Option<(usize, u64, String)> = None;
        let (mut at, mut number) = (0, 0);
        while at < bytes.len() {
            number += 1;
            let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') else {
                bad.get_or_insert((
                    at,
                    number,
                    "it is torn: the next start of the broker says so in a line".to_owned(),
                ));
                break;
            };
            let text = &bytes[at..at + length];
            match Line::decode(text) {
                Err(why) => _ = bad.get_or_insert((at, number, why)),
                Ok(line) => {
                    self.close(&line, bad.take(), &bytes[..at]).map_err(|(at, what)| broken(at, what))?;
                    let is_begin = is_first && self.checked.lines == 0;
                    self.line(&line, file, is_begin).map_err(|what| broken(number, what))?;
                    self.checked.head = sha256(text);
                    self.checked.has_expected |= expected == Some(&self.checked.head);
                }
            }
            at += length + 1;
        }
        bad.map_or(Ok(()), |(_, number, why)| Err(broken(number, why)))
    }

    /// What stands before a line and is none must be what the line says a crash left.
    fn close(&mut self, line: &Line, bad: Option<(usize, u64, String)>, before: &[u8]) -> Result<(), (u64, String)> {
        match (bad, &line.torn) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err((1, "what a crash left before a line is gone".to_owned())),
            (Some((_, number, why)), None) => Err((number, why)),
            (Some((start, number, why)), Some(torn)) => {
                let rest = before[start..].strip_suffix(b"\n").unwrap_or_default();
                let is_it = rest.len() as u64 == torn.bytes && sha256(rest) == torn.sha256;
                self.checked.torn += 1;
                is_it.then_some(()).ok_or((number, why))
            }
        }
    }

    fn line(&mut self, line: &Line, file: &LogFile, is_begin: bool) -> Result<(), String> {
        let checked = &mut self.checked;
        let seq = if is_begin { file.first } else { checked.last + 1 };
        if line.seq != seq {
            return Err(format!("line {seq} of the sequence is expected here, and this is {}", line.seq));
        }
        let follows = match is_begin && seq > 1 {
            // The file before it may have been removed in its time.
            true => line.prev != NO_LINE,
            false => line.prev == checked.head,
        };
        if !follows {
            return Err("it does not follow the line before it: one of the two was changed".to_owned());
        }
        checked.last = line.seq;
        checked.lines += 1;
        checked.lost += if line.what == "lost" { line.count } else { 0 };
        self.oldest = line.oldest.unwrap_or(self.oldest);
        Ok(())
    }
}

/// Calls `see` with each line in order; those that are none are counted, and left out.
///
/// # Errors
/// The folder or a file cannot be read, or `see` fails.
pub fn each_line(folder: &Path, mut see: impl FnMut(&Line) -> io::Result<()>) -> io::Result<u64> {
    let mut bad = 0;
    for file in files(folder)? {
        for text in fs::read(&file.path)?.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            match Line::decode(text) {
                Ok(line) => see(&line)?,
                Err(_) => bad += 1,
            }
        }
    }
    Ok(bad)
}
