//! What `/proc` tells about a process.
//!
//! Owns the parsing of Linux's files about one process. It never starts or
//! stops anything.

use anyhow::{Context as _, Result};

/// Ticks per second in `/proc/PID/stat`: fixed by Linux's interface to user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory of a process, in bytes.
///
/// # Errors
/// When the process is gone.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_resident(&status).with_context(|| format!("{path} names no VmRSS"))
}

/// Processor time of a process so far, user and system, in seconds.
///
/// # Errors
/// When the process is gone.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu(&stat).with_context(|| format!("{path} holds no times"))
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn parse_cpu(stat: &str) -> Option<f64> {
    // The program's name is in parentheses and may itself hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_in_kibibytes() {
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12_288));
        assert_eq!(parse_resident("Name:\tx\n"), None);
    }

    #[test]
    fn the_name_of_a_program_may_hold_parentheses() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(parse_cpu(stat), Some(2.0));
    }

    #[test]
    fn this_process_can_be_read() {
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
        assert!(cpu_seconds(std::process::id()).unwrap() >= 0.0);
    }
}
