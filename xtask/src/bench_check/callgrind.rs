//! Counting with callgrind.
//!
//! Owns how the hot paths are run so that the same code has the same figure
//! on every machine, and what is read from callgrind. It never judges.
//!
//! The program is small enough to need no benchmark library: gungraun would
//! bring a runner that has to be installed in the very version of the
//! library, and baselines that live under `target/` and not in the
//! repository. Callgrind itself counts inside one named function only, so
//! start and preparation cost nothing.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};

/// Nothing is counted outside of this function.
const COUNTED: &str = "*causeway_hotpaths::measure::counted";

/// The C library chooses its `memcpy` by what the processor can: with these
/// out of the way, it takes the one that every 64-bit x86 can run. It also
/// keeps it from `rep movsb`, of which callgrind counts every byte.
const GLIBC_TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

/// The allocator gives memory back by the clock, and places what is large by
/// the address of a thread: without both, it does the same in every run.
const MALLOC_CONF: &str =
    "narenas:1,dirty_decay_ms:-1,muzzy_decay_ms:-1,experimental_tcache_gc:false,cache_oblivious:false";

/// The hot paths there are, in order.
///
/// # Errors
/// When the program cannot be run.
pub(super) fn names(program: &Path) -> Result<Vec<String>> {
    let listed = text_of(Command::new(program).arg("list"))?;
    Ok(listed.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect())
}

/// Counts one path; its profile is left in `folder`. Instructions for one
/// operation.
///
/// # Errors
/// When valgrind or the path fails.
pub(super) fn count(program: &Path, name: &str, folder: &Path, slowed: bool) -> Result<f64> {
    let profile = folder.join(format!("{name}.out"));
    let mut command = Command::new("valgrind");
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.env("GLIBC_TUNABLES", GLIBC_TUNABLES).env("_RJEM_MALLOC_CONF", MALLOC_CONF);
    command.args(["--tool=callgrind", "--vgdb=no"]);
    command.arg(format!("--toggle-collect={COUNTED}"));
    command.arg(format!("--callgrind-out-file={}", profile.display()));
    command.arg(program).args(["run", name]).args(slowed.then_some("--slowed"));
    let said = text_of(&mut command).with_context(|| format!("cannot count {name}"))?;
    let operations: u64 = said.trim().parse().with_context(|| format!("{name} says {said:?}, and no number"))?;
    let text = std::fs::read_to_string(&profile).with_context(|| format!("cannot read {}", profile.display()))?;
    let instructions = total(&text).with_context(|| format!("{} has no total", profile.display()))?;
    ensure!(operations > 0 && instructions > 0, "{name}: {instructions} instructions for {operations} operations");
    Ok(instructions as f64 / operations as f64)
}

/// Name and version of all that has a say in the figures.
///
/// # Errors
/// When one of them cannot be asked.
pub(super) fn tools() -> Result<Vec<(String, String)>> {
    const ASKED: [(&str, &str, &str); 4] = [
        ("rustc", "rustc", "--version"),
        // It compiles the allocator.
        ("cc", "cc", "--version"),
        ("libc", "getconf", "GNU_LIBC_VERSION"),
        ("valgrind", "valgrind", "--version"),
    ];
    let mut tools = vec![("target".to_owned(), format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS))];
    for (tool, program, argument) in ASKED {
        let said = text_of(Command::new(program).arg(argument))?;
        tools.push((tool.to_owned(), said.lines().next().unwrap_or_default().trim().to_owned()));
    }
    Ok(tools)
}

/// All instructions of a profile.
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

fn text_of(command: &mut Command) -> Result<String> {
    let shown = crate::workspace::shown(command);
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot run {shown}"))?;
    ensure!(status.success(), "{shown} failed: {status}\n{}", String::from_utf8_lossy(&stderr).trim());
    Ok(String::from_utf8(stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_that_of_the_profile() {
        assert_eq!(total("events: Ir\nsummary: 12\n\nfn=(1) a\n3 12\n\ntotals: 123456\n"), Some(123_456));
        assert_eq!(total("events: Ir\nfn=(1) totals\n"), None);
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_words() {
        let error = text_of(Command::new("sh").args(["-c", "echo no such path >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("no such path"), "{error}");
    }
}
