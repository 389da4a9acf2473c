//! The command line of `causewayd`.
//!
//! Owns commands, options and exit codes: 0 for success, 1 for failure, 2 for a wrong command line; `command` has more. Each command does its work in a
//! module of its own.

mod admin_token;
mod audit;
mod backup;
mod ban;
mod check;
mod command;
mod desk;
mod dev;
mod group;
mod http;
mod inspect;
mod job;
mod leaves;
mod passwd;
mod pki;
mod policy;
mod serve;
mod shadow;
mod table;
mod vehicle;

use std::ffi::OsString;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};

use crate::config::{CONFIG_VARIABLE, Depth, ENVIRONMENT_PREFIX, json_schema};

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
  SIGHUP           read the password file, the policy and the certificates again

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
        /// Do not look at the certificates and password files that they name
        #[arg(long)]
        without_files: bool,
    },
    /// Add, remove, list and verify the users of a password file
    Passwd(passwd::Options),
    /// Explain what a policy decides, and check it
    Policy(policy::Options),
    /// Make, list and revoke the certificates of a fleet, with an authority of its own
    Pki(pki::Options),
    /// Add, list, activate, suspend and retire vehicles
    Vehicle(vehicle::Options),
    /// Add, list and remove groups of vehicles
    Group(group::Options),
    /// Ban somebody for a while, or for good
    Ban(ban::Options),
    /// Show, follow and change what is wanted of vehicles and what they report
    Shadow(shadow::Options),
    /// Have a vehicle do something, and tell what came of it
    #[command(name = "command")]
    Send(command::Options),
    /// Make, show, pause and end jobs: the same for many vehicles
    Job(job::Options),
    /// Make, remove and list the tokens of the administration listener
    AdminToken(admin_token::Options),
    /// Show what a data directory or a backup holds, and check it
    Inspect(inspect::Options),
    /// Copy a data directory, so that it can be restored
    Backup(backup::Options),
    /// Make a data directory of a backup
    Restore(backup::RestoreOptions),
    /// Verify an audit log, and show what is in it
    Audit(audit::Options),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
}

/// Does what the process was asked to.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to tell it to if this fails.
            let _ = writeln!(stderr(), "causewayd: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, without those that it says already.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |told, cause| if told.contains(&cause) { told } else { format!("{told}: {cause}") })
}

/// The variables that may set keys.
///
/// # Errors
/// One of them is not UTF-8.
fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> anyhow::Result<Vec<(String, String)>> {
    let mut environment = Vec::new();
    for (name, value) in variables {
        // A path may be anything.
        if !name.as_encoded_bytes().starts_with(ENVIRONMENT_PREFIX.as_bytes()) || name == CONFIG_VARIABLE {
            continue;
        }
        let shown = name.to_string_lossy().into_owned();
        let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) else {
            bail!("environment variable {shown}: must be UTF-8, name and value");
        };
        environment.push((name, value));
    }
    Ok(environment)
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let environment = || environment(std::env::vars_os());
    match command {
        Command::Dev(options) => dev::run(&options, environment()?),
        Command::Run { config } => serve::run_file(&config, environment()?),
        Command::Check { files, without_files } => {
            let depth = if without_files { Depth::Meaning } else { Depth::Files };
            check::run(&files, &environment()?, depth, &mut stdout(), &mut stderr())
        }
        Command::Passwd(options) => passwd::run(&options, &mut stdout()),
        Command::Policy(options) => policy::run(&options, &environment()?, &mut stdout(), &mut stderr()),
        Command::Pki(options) => pki::run(&options, &mut stdout()),
        Command::Vehicle(options) => vehicle::run(&options, environment()?, &mut stdout()),
        Command::Group(options) => group::run(&options, environment()?, &mut stdout()),
        Command::Ban(options) => ban::run(&options, environment()?, &mut stdout()),
        Command::Shadow(options) => shadow::run(&options, environment()?, &mut stdout()),
        Command::Job(options) => job::run(&options, environment()?, &mut stdout()),
        Command::Send(options) => command::run(&options, environment()?, &mut stdout()),
        Command::AdminToken(options) => admin_token::run(&options, &mut stdout()),
        Command::Inspect(options) => inspect::run(&options, &mut stdout()),
        Command::Backup(options) => backup::run(&options, &mut stdout()),
        Command::Restore(options) => backup::restore(&options, &mut stdout()),
        Command::Audit(options) => audit::run(&options, &mut stdout()),
        Command::Schema => {
            writeln!(stdout(), "{:#}", json_schema())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::ffi::OsStringExt;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = || io::Error::from(io::ErrorKind::NotFound);
        let error = anyhow::Error::new(cause()).context(format!("users: {}", cause())).context("cannot start");
        assert_eq!(told(&error), format!("cannot start: users: {}", cause()));
    }

    #[test]
    fn variables_of_ours_are_utf8() {
        let variable = |name: &[u8], value: &[u8]| {
            environment([(OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec()))])
        };
        assert_eq!(variable(b"CAUSEWAY_A", b"1").unwrap(), [("CAUSEWAY_A".to_owned(), "1".to_owned())]);
        assert!(variable(b"OTHER", b"\xff").unwrap().is_empty());
        assert!(variable(b"CAUSEWAY_CONFIG", b"\xff").unwrap().is_empty());
        let error = variable(b"CAUSEWAY_LOG__LEVEL", b"\xff").unwrap_err().to_string();
        assert!(error.starts_with("environment variable CAUSEWAY_LOG__LEVEL: "), "{error}");
        assert!(variable(b"CAUSEWAY_\xff", b"1").is_err());
    }

    #[test]
    fn commands_are_understood() {
        for line in [
            "causewayd dev",
            "causewayd dev --port 0 --data d --ws-port 0 --admin-port 0",
            "causewayd dev --tls-port 8883 --tls-certificate c --tls-key k",
            "causewayd run --config c.toml",
            "causewayd check a.toml b.toml",
            "causewayd check --without-files a.toml",
            "causewayd passwd users add alice --password-stdin",
            "causewayd passwd users list",
            "causewayd policy check a.toml",
            "causewayd policy explain --policy p.toml --as vehicle:1M8GDM9AXKP042788,group=eu publish a --qos 1 --retain",
            "causewayd policy explain --config c.toml --as anonymous subscribe a/#",
            "causewayd pki init pki --name fleet --days 9 --list-days 1",
            "causewayd pki server pki --name localhost --name 10.0.0.1",
            "causewayd pki revoke pki 5f --reason superseded",
            "causewayd inspect data",
            "causewayd inspect data --client c --limit 3 --verify --json",
            "causewayd backup data to",
            "causewayd backup data to --admin http://127.0.0.1:9883",
            "causewayd restore from data",
            "causewayd schema",
            "causewayd vehicle add V --state active --group a --group b --keep-known --data d",
            "causewayd vehicle add --from - --config c.toml",
            "causewayd vehicle list --state retired --limit 3 --json --admin http://a:1",
            "causewayd vehicle suspend V W --admin https://a:1 --ca f --token-file t",
            "causewayd vehicle retire V --admin https://a:1 --ca f --certificate c --key k",
            "causewayd vehicle token V --for 12h --data d",
            "causewayd vehicle group add eu V W --data d",
            "causewayd vehicle group remove eu --from f --data d",
            "causewayd group add eu --description d --data d",
            "causewayd group members eu --data d",
            "causewayd ban add client:x --for 1h --why w --data d",
            "causewayd ban list --data d",
            "causewayd admin-token f add ann --role write",
            "causewayd shadow show V --name n --json",
            "causewayd shadow watch V",
            "causewayd shadow watch --all --admin http://a:1",
            "causewayd shadow history V --from 2h --to 1h --limit 3",
            "causewayd shadow set V a.b=1 c=d --ttl 10m --if-version 3",
            "causewayd shadow delete V",
            "causewayd command V get_location",
            "causewayd command V unlock - --wait 10s --deadline 1m --idempotency-key k --online --json",
            "causewayd command --id c1 --wait 1s",
            "causewayd admin-token f list",
            "causewayd audit show d --what ban",
        ] {
            Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string()).unwrap();
        }
        for line in [
            "causewayd",
            "causewayd audit show d --what bans",
            "causewayd check",
            "causewayd dev --tls-port 8883",
            "causewayd dev --port x",
            "causewayd passwd users add",
            "causewayd policy explain --as anonymous publish a",
            "causewayd policy explain --policy p.toml --as olga publish a",
            "causewayd policy explain --policy p.toml --as vehicle:1 publish a",
            "causewayd policy explain --policy p.toml --as anonymous eat a",
            "causewayd pki server pki",
            "causewayd pki revoke pki 5f --vehicle 1M8GDM9AXKP042788",
            "causewayd inspect data --limit 3",
            "causewayd backup data",
            "causewayd vehicle add --data d",
            "causewayd vehicle list --state gone --data d",
            "causewayd vehicle list --data d --admin http://a:1",
            "causewayd vehicle token V --for 12 --data d",
            "causewayd ban add client:x --for 0s",
            "causewayd shadow show",
            "causewayd shadow watch",
            "causewayd shadow watch V --all",
            "causewayd shadow set V",
            "causewayd shadow set V a",
            "causewayd command V",
            "causewayd command V n --wait 5",
            "causewayd admin-token f add ann --role admin",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
