//! The command line of `causewayd`.
//!
//! Owns commands, options and exit codes: 0 for success, 1 for failure, 2 for a wrong command line. Each command does its work in a
//! module of its own.

mod check;
mod dev;
mod passwd;
mod serve;

use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{CONFIG_VARIABLE, json_schema};

/// Causeway, an MQTT broker made for vehicle fleets
#[derive(Debug, Parser)]
#[command(
    name = "causewayd",
    version,
    after_help = "\
Examples:
  causewayd dev                                    try it on this machine, without a file
  causewayd check /etc/causeway/causeway.toml      find mistakes before a restart does
  causewayd passwd /etc/causeway/users add alice   let somebody in
  causewayd run --config /etc/causeway/causeway.toml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run for development: on loopback, everybody may connect, no file needed
    Dev(dev::Options),
    /// Run with a configuration file
    #[command(after_help = "\
Keys can be set by environment variables, too: CAUSEWAY_LOG__LEVEL=debug sets level in [log].

Signals:
  SIGTERM, SIGINT  stop: clients are told, and given time to leave; a second one stops at once
  SIGHUP           read the password file and the certificates again

Example:
  causewayd run --config /etc/causeway/causeway.toml")]
    Run {
        /// The configuration file
        #[arg(long, short, value_name = "FILE", env = CONFIG_VARIABLE)]
        config: PathBuf,
    },
    /// Check configuration files, and the files they name, without binding anything
    #[command(after_help = "\
Prints every error and warning with its place. Fails if there is an error.

Example:
  causewayd check config/causeway.toml")]
    Check {
        /// The configuration files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Add, remove, list and verify the users of a password file
    Passwd(passwd::Options),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
}

/// Does what the process was asked to.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to tell it to if this fails.
            let _ = writeln!(stderr(), "causewayd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        // Names and values that are not UTF-8 cannot be ours.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    match command {
        Command::Dev(options) => dev::run(&options, environment),
        Command::Run { config } => serve::run_file(&config, environment),
        Command::Check { files } => check::run(&files, environment.collect(), &mut stdout(), &mut stderr()),
        Command::Passwd(options) => passwd::run(&options, &mut stdout()),
        Command::Schema => {
            writeln!(stdout(), "{:#}", json_schema())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_understood() {
        for line in [
            "causewayd dev",
            "causewayd dev --port 0 --data d --ws-port 0 --admin-port 0",
            "causewayd dev --tls-port 8883 --tls-certificate c --tls-key k",
            "causewayd run --config c.toml",
            "causewayd check a.toml b.toml",
            "causewayd passwd users add alice --password-stdin",
            "causewayd passwd users list",
            "causewayd schema",
        ] {
            Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string()).unwrap();
        }
        for line in [
            "causewayd",
            "causewayd check",
            "causewayd dev --tls-port 8883",
            "causewayd dev --port x",
            "causewayd passwd users add",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
