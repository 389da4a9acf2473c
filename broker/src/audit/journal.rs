//! The end of the chain: where lines are appended.
//!
//! Owns the current file, the sequence and the hash of the last line, and their recovery after a crash. It decides nothing about events.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::event::{AuditEvent, Decision, What};
use super::folder::{self, LogFile};
use super::line::{Line, NO_LINE, Torn, now_ms, sha256};

/// Others than the broker's user and group have no business here.
const MODE: u32 = 0o640;

/// See the module. After an error it is of no use any more: open another one, which finds out what the disk has.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    file_bytes_max: u64,
    /// 0: all.
    files_kept: usize,
    file: File,
    /// Bytes of the current file.
    bytes: u64,
    /// The number of the next line.
    next: u64,
    /// The hash of the last one.
    head: String,
}

/// What the newest files say about where the chain ends.
struct End {
    next: u64,
    head: String,
    /// What follows the last line in the newest file, and is none.
    rest: Vec<u8>,
    /// Whether there is no line that the next one could follow, though there should be.
    lost: bool,
}

impl Journal {
    /// Goes on where the chain ends, or begins one. What a crash tore is closed with a line that says so.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(folder: &Path, file_bytes_max: u64, files_kept: usize) -> io::Result<Journal> {
        let files = folder::files(folder)?;
        let end = end_of_chain(&files)?;
        let newest = files.last().cloned().unwrap_or_else(|| LogFile::new(folder, 1));
        let file = append_to(&newest.path)?;
        folder::sync(folder)?;
        let bytes = file.metadata()?.len();
        let (folder, head) = (folder.to_owned(), end.head.clone());
        let mut journal = Journal { folder, file_bytes_max, files_kept, file, bytes, next: end.next, head };
        journal.close_torn(&end)?;
        Ok(journal)
    }

    /// Appends lines and makes them durable. Their places in the chain are given here.
    ///
    /// # Errors
    /// What the system says. Then nobody knows how much of it is on the disk.
    pub(super) fn append(&mut self, lines: impl IntoIterator<Item = Line>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for line in lines {
            if self.bytes + bytes.len() as u64 >= self.file_bytes_max {
                self.write(&std::mem::take(&mut bytes))?;
                self.begin_file()?;
            }
            self.push(line, &mut bytes);
        }
        self.write(&bytes)
    }

    /// Gives a line its place.
    fn push(&mut self, mut line: Line, bytes: &mut Vec<u8>) {
        line.seq = self.next;
        line.prev = std::mem::take(&mut self.head);
        let text = line.encode();
        self.next += 1;
        self.head = sha256(text.as_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        self.file.sync_data()
    }

    /// Begins the next file, and removes those that are too old once its first line says so.
    fn begin_file(&mut self) -> io::Result<()> {
        let new = LogFile::new(&self.folder, self.next);
        self.file = append_to(&new.path)?;
        self.bytes = 0;
        folder::sync(&self.folder)?;
        let files = folder::files(&self.folder)?;
        let too_many = if self.files_kept == 0 { 0 } else { files.len().saturating_sub(self.files_kept) };
        let event = AuditEvent::new(What::Rotate, Decision::Note, "");
        let oldest = files.get(too_many).map(|file| file.first);
        let mut bytes = Vec::new();
        self.push(Line { oldest, ..Line::of(&event, now_ms()) }, &mut bytes);
        self.write(&bytes)?;
        for file in &files[..too_many] {
            fs::remove_file(&file.path)?;
        }
        Ok(())
    }

    fn close_torn(&mut self, end: &End) -> io::Result<()> {
        let mut bytes = Vec::new();
        if !end.rest.is_empty() {
            bytes.push(b'\n');
            let detail = "what a crash left of the lines before this one";
            let torn = Some(Torn { bytes: end.rest.len() as u64, sha256: sha256(&end.rest) });
            let event = AuditEvent::new(What::Torn, Decision::Note, detail);
            self.push(Line { torn, ..Line::of(&event, now_ms()) }, &mut bytes);
        }
        if end.lost {
            let detail = "the lines that this one should follow are gone";
            let event = AuditEvent::new(What::Lost, Decision::Fail, detail);
            self.push(Line::of(&event, now_ms()), &mut bytes);
        }
        self.write(&bytes)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

/// The newest line of all, which is in the newest file unless that has only begun.
fn end_of_chain(files: &[LogFile]) -> io::Result<End> {
    let mut rest = None;
    for file in files.iter().rev().take(2) {
        let bytes = fs::read(&file.path)?;
        let found = last_line(&bytes);
        let end = found.as_ref().map_or(0, |(_, end)| *end);
        let rest = rest.get_or_insert_with(|| bytes[end..].to_vec());
        if let Some((line, _)) = found {
            let text = bytes[..end].trim_ascii_end();
            let start = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let head = sha256(&text[start..]);
            return Ok(End { next: line.seq + 1, head, rest: std::mem::take(rest), lost: false });
        }
    }
    let first = files.last().map_or(1, |file| file.first);
    Ok(End { next: first, head: NO_LINE.to_owned(), rest: rest.unwrap_or_default(), lost: first > 1 })
}

/// The last that is a line, and where it ends.
fn last_line(bytes: &[u8]) -> Option<(Line, usize)> {
    let mut end = bytes.iter().rposition(|byte| *byte == b'\n')?;
    loop {
        let start = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if let Ok(line) = Line::decode(&bytes[start..end]) {
            return Some((line, end + 1));
        }
        end = start.checked_sub(1)?;
    }
}
