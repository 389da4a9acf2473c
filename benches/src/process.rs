//! What the kernel tells about a process, and where a thread may run.
//!
//! Owns reading `/proc` and binding threads to processor cores. It never
//! starts or stops anything.

use std::ops::Range;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Processor time of all threads of a process that are still there, in seconds, to the nanosecond.
///
/// # Errors
/// When the process is gone.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let folder = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // A thread may have ended since the folder was listed.
        if let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) {
            nanoseconds += parse_schedstat(&text).context("the kernel accounts for no run time")?;
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// When the process is gone.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.with_context(|| format!("{path} names no VmRSS"))? * 1024)
}

/// Binds this thread, and what it starts from now on, to one core.
///
/// # Errors
/// When there is no such core.
pub(crate) fn bind_to_core(core: usize) -> Result<()> {
    bind_to_cores(core..core + 1)
}

/// Likewise to some cores.
///
/// # Errors
/// When there are none of them, or the system does not allow it.
pub(crate) fn bind_to_cores(cores: Range<usize>) -> Result<()> {
    let mut set = CpuSet::new();
    cores.clone().for_each(|core| set.set(core));
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on cores {cores:?}"))
}

/// Lets this process open as many files as the system grants.
pub(crate) fn open_all_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, the connection that is one too many will say so.
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many files this process may open, once [`open_all_files`] has been called.
pub(crate) fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX))
}

fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        assert!(cpu_seconds(std::process::id()).unwrap() > 0.0);
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
        assert_eq!(parse_schedstat("12 34 5\n"), Some(12));
    }
}
