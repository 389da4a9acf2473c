//! `causewayd ban`: who is kept out for a while, or for good.
//!
//! Owns the command line and what is printed.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::desk::{Desk, Target};
use super::table::{print_json, print_table, seconds, text, time};
use crate::admin::api::encoded;

#[derive(Debug, Args)]
#[command(after_help = "\
A subject is vehicle:VIN, service:NAME, operator:NAME, client:ID, address:IP or address:NETWORK.

Examples:
  causewayd ban add address:192.0.2.7 --for 1h --why 'guesses passwords' --admin http://127.0.0.1:9883
  causewayd ban list --config causeway.toml
  causewayd ban remove address:192.0.2.7 --config causeway.toml")]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Ban somebody, in place of the ban there may be
    Add {
        /// Whom
        subject: String,
        /// For how long: a number and s, m, h or d; without it, for good
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        for_seconds: Option<u64>,
        /// Why
        #[arg(long, default_value = "")]
        why: String,
        #[command(flatten)]
        target: Target,
    },
    /// List the bans that stand
    List {
        #[command(flatten)]
        target: Target,
    },
    /// End a ban
    Remove {
        /// Whose
        subject: String,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn run(
    options: &Options,
    environment: Vec<(String, String)>,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let open = |target: &Target| Desk::open(target, environment.clone());
    match &options.action {
        Action::Add { subject, for_seconds, why, target } => {
            let mut body = json!({ "subject": subject, "why": why });
            if let Some(seconds) = for_seconds {
                body["for_seconds"] = (*seconds).into();
            }
            let ban = open(target)?.ask("POST", "/v1/bans", Some(&body))?;
            match target.json {
                true => print_json(&ban, out)?,
                false => print(&[ban], out)?,
            }
        }
        Action::List { target } => {
            let bans = open(target)?.list("/v1/bans", "", "bans", usize::MAX)?;
            match target.json {
                true => print_json(&json!({ "bans": bans }), out)?,
                false => print(&bans, out)?,
            }
        }
        Action::Remove { subject, target } => {
            open(target)?.ask("DELETE", &format!("/v1/bans/{}", encoded(subject)), None)?;
            writeln!(out, "removed the ban of {subject}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(bans: &[Value], out: &mut dyn Write) -> std::io::Result<()> {
    let row = |ban: &Value| {
        let until = if ban["until_ms"].is_null() { "for good".to_owned() } else { time(&ban["until_ms"]) };
        vec![text(&ban["subject"]), until, text(&ban["why"])]
    };
    print_table(&["SUBJECT", "UNTIL", "WHY"], &bans.iter().map(row).collect::<Vec<_>>(), out)
}
