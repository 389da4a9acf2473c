//! What the system says about this process.
//!
//! Owns reading `/proc/self`. What cannot be read is left out.

use std::fs;

/// The kernel counts processor time for `/proc` in hundredths of a second, on every machine this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is known of the process.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Process {
    /// Bytes of memory in use.
    pub(super) resident_bytes: Option<u64>,
    /// Bytes of address space in use.
    pub(super) virtual_bytes: Option<u64>,
    /// File descriptors open.
    pub(super) open_fds: Option<u64>,
    /// File descriptors that may be open.
    pub(super) max_fds: Option<u64>,
    /// Seconds of processor time, in user and system mode, of all threads.
    pub(super) cpu_seconds: Option<f64>,
    /// Threads.
    pub(super) threads: Option<u64>,
}

pub(super) fn read() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    Process {
        resident_bytes: kibibytes(&status, "VmRSS:"),
        virtual_bytes: kibibytes(&status, "VmSize:"),
        // Without the one that reads the folder.
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1)),
        max_fds: field(&limits, "Max open files", 0),
        cpu_seconds: cpu_seconds(&stat),
        threads: field(&status, "Threads:", 0),
    }
}

/// A number behind a name at the beginning of a line.
fn field(text: &str, name: &str, index: usize) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(index)?.parse().ok()
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    field(status, name, 0).map(|kibibytes| kibibytes * 1024)
}

/// Fields 14 and 15, counted from 1. The second is the program's name in parentheses, which may have spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let process = read();
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.virtual_bytes.unwrap() >= process.resident_bytes.unwrap());
        assert!(process.open_fds.unwrap() >= 3);
        assert!(process.max_fds.is_none_or(|max| max >= process.open_fds.unwrap()));
        assert!(process.cpu_seconds.unwrap() >= 0.0);
        assert!(process.threads.unwrap() >= 1);
    }

    #[test]
    fn names_with_spaces_do_not_shift_fields() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 93 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
    }
}
