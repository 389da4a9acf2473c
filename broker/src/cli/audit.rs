//! `causewayd audit`: whether an audit log is whole, and what is in it.
//!
//! Owns what is printed, and the exit code. It changes nothing.

use std::io::{self, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use crate::audit::{Line, What, each_line, is_in_use, verify};
use crate::shown::shown;

#[derive(Debug, Args)]
#[command(after_help = "\
Verifying finds every line that was changed, removed, added or moved, and every file that is missing. Only what was cut off the end
cannot be seen in the files themselves: keep the head that verify prints somewhere else, and give it back with --expect-head.

Examples:
  causewayd audit verify /var/lib/causeway/audit
  causewayd audit verify /var/lib/causeway/audit --expect-head \"$(cat /elsewhere/head)\"
  causewayd audit show /var/lib/causeway/audit --who vehicle:1M8GDM9AXKP042788 --since 2026-01-31T08")]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check every line and file; fails with the first that is wrong
    Verify {
        /// The folder of the log
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// A head that was printed earlier: fail if the log does not have it any more
        #[arg(long, value_name = "HASH")]
        expect_head: Option<String>,
    },
    /// Print lines
    Show {
        /// The folder of the log
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Only of this principal or client identifier
        #[arg(long, value_name = "NAME")]
        who: Option<String>,
        /// Only of this kind, such as connect, publish, revoke or ban
        #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(What::ALL.map(What::word)), hide_possible_values = true)]
        what: Option<String>,
        /// Only from this time on: the beginning of a UTC time, such as 2026-01-31 or 2026-01-31T08:30
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Print the lines as they stand in the files
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match &options.action {
        Action::Verify { folder, expect_head } => check(folder, expect_head.as_deref(), out),
        Action::Show { folder, who, what, since, json } => {
            let since = since.as_deref().map(beginning_of_time).transpose()?;
            let is_wanted = |line: &Line| {
                who.as_ref().is_none_or(|who| line.who == *who || line.client == *who)
                    && what.as_ref().is_none_or(|what| line.what == *what)
                    && since.as_ref().is_none_or(|since| line.at >= *since)
            };
            show(folder, is_wanted, *json, out)
        }
    }
}

fn check(folder: &Path, expected: Option<&str>, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let checked = match verify(folder, expected).with_context(|| folder.display().to_string())? {
        Ok(checked) => checked,
        Err(broken) => {
            writeln!(out, "broken: {broken}")?;
            if is_in_use(folder) {
                writeln!(out, "a broker writes there now: a torn last line may be one that it is writing")?;
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    if checked.files == 0 {
        bail!("{}: there is no audit log", folder.display());
    }
    if !checked.has_expected {
        writeln!(
            out,
            "broken: no line has the hash {}: the end was cut off, or it is another log",
            expected.unwrap_or_default()
        )?;
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "whole: {} lines, {} to {}, in {} files", checked.lines, checked.first, checked.last, checked.files)?;
    if checked.first > 1 {
        writeln!(out, "lines before {} are in files that the broker removed, as it was told to", checked.first)?;
    }
    if checked.torn > 0 {
        writeln!(out, "{} places were torn by a crash, and closed by the next start", checked.torn)?;
    }
    if checked.lost > 0 {
        writeln!(out, "{} events are missing, as the log says itself", checked.lost)?;
    }
    writeln!(out, "head: {}", checked.head)?;
    Ok(ExitCode::SUCCESS)
}

fn show(folder: &Path, is_wanted: impl Fn(&Line) -> bool, json: bool, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let print = |line: &Line| match (is_wanted(line), json) {
        (false, _) => Ok(()),
        (true, true) => writeln!(out, "{}", serde_json::to_string(line).map_err(io::Error::other)?),
        (true, false) => writeln!(out, "{}", told(line)),
    };
    let bad = each_line(folder, print).with_context(|| folder.display().to_string())?;
    if bad > 0 {
        writeln!(stderr(), "{bad} lines are damaged and left out: see causewayd audit verify")?;
    }
    Ok(if bad > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A line for people.
fn told(line: &Line) -> String {
    let mut text = format!("{} {} {}", line.at, line.what, line.decision);
    for (name, value) in [("who", &line.who), ("client", &line.client), ("peer", &line.peer), ("rule", &line.rule)] {
        if !value.is_empty() {
            text.push_str(&format!(" {name}={}", shown(value)));
        }
    }
    if !line.reason.is_empty() {
        text.push_str(&format!(" {}", line.reason));
    }
    if line.count != 1 {
        text.push_str(&format!(" x{}", line.count));
    }
    if !line.detail.is_empty() {
        text.push_str(&format!(": {}", crate::shown::Line(&line.detail)));
    }
    text
}

/// Times are compared as texts, so that any beginning of one will do.
fn beginning_of_time(text: &str) -> anyhow::Result<String> {
    const SHAPE: &[u8] = b"dddd-dd-ddTdd:dd:dd.dddZ";
    let fits = |(given, wanted): (u8, &u8)| if *wanted == b'd' { given.is_ascii_digit() } else { given == *wanted };
    if text.len() < 4 || text.len() > SHAPE.len() || !text.bytes().zip(SHAPE).all(fits) {
        bail!("--since {text:?}: a UTC time, or the beginning of one, such as 2026-01-31T08:30");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_beginning_of_a_time_will_do() {
        for good in ["2026", "2026-01-31", "2026-01-31T08:30", "2026-01-31T08:30:00.123Z"] {
            assert_eq!(beginning_of_time(good).unwrap(), good);
        }
        for bad in ["", "26", "yesterday", "2026-01-31 08:30", "2026-01-31T08:30:00.123Z0"] {
            assert!(beginning_of_time(bad).is_err(), "{bad}");
        }
    }
}
