//! How much memory this process has.
//!
//! Owns reading `/proc/self`. Linux only: elsewhere it says so.

use anyhow::{Context as _, Result};

/// The largest resident memory since [`forget_peak`], or since the start, in bytes.
///
/// # Errors
/// When the system does not say.
pub(crate) fn peak_bytes() -> Result<u64> {
    line_bytes("VmHWM:")
}

/// Resident memory, in bytes.
///
/// # Errors
/// When the system does not say.
pub(crate) fn resident_bytes() -> Result<u64> {
    // The sum in `status` may be late by some pages for each thread; this one is exact.
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").context("cannot read /proc/self/smaps_rollup")?;
    parse(&rollup, "Rss:").context("/proc/self/smaps_rollup has no Rss")
}

/// Begins a new peak.
///
/// # Errors
/// When the system does not allow it.
pub(crate) fn forget_peak() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("cannot write /proc/self/clear_refs")
}

fn line_bytes(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    parse(&status, name).with_context(|| format!("/proc/self/status has no {name}"))
}

fn parse(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_kibibytes() {
        assert_eq!(parse("Name:\tx\nVmHWM:\t    12 kB\n", "VmHWM:"), Some(12_288));
        assert_eq!(parse("Name:\tx\n", "VmHWM:"), None);
    }

    #[test]
    fn this_process_has_some() {
        assert!(resident_bytes().unwrap() > 0);
        assert!(peak_bytes().unwrap() > 0);
    }
}
