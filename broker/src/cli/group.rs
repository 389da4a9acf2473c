//! `causewayd group`: the groups of the registry.
//!
//! Owns the command line and what is printed.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::desk::{Desk, Target};
use super::table::{print_fields, print_json, print_table, text, time};
use super::vehicle::print_list;
use crate::admin::api::encoded;

#[derive(Debug, Args)]
#[command(after_help = "\
A vehicle of the groups eu and ring-1 hears what is published below groups/eu and groups/ring-1.

Examples:
  causewayd group add ring-1 --description 'the first to get an update' --config causeway.toml
  causewayd vehicle group add ring-1 1M8GDM9AXKP042788 --config causeway.toml
  causewayd group members ring-1 --admin http://127.0.0.1:9883")]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a group, or change what is said about one
    Add {
        /// Its name, one level of a topic
        name: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        target: Target,
    },
    /// List groups
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a group
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// List the vehicles of a group
    Members {
        /// Its name
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Remove a group without members
    Remove {
        /// Its name
        name: String,
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
    let path = |name: &str| format!("/v1/groups/{}", encoded(name));
    match &options.action {
        Action::Add { name, description, target } => {
            let group = open(target)?.ask("PUT", &path(name), Some(&json!({ "description": description })))?;
            print(&group, target.json, out)?;
        }
        Action::List { target } => {
            let groups = open(target)?.list("/v1/groups", "", "groups", usize::MAX)?;
            if target.json {
                print_json(&json!({ "groups": groups }), out)?;
            } else {
                let row = |it: &Value| [&it["name"], &it["members"], &it["description"]].map(text).to_vec();
                print_table(&["NAME", "MEMBERS", "DESCRIPTION"], &groups.iter().map(row).collect::<Vec<_>>(), out)?;
            }
        }
        Action::Show { name, target } => print(&open(target)?.ask("GET", &path(name), None)?, target.json, out)?,
        Action::Members { name, target } => {
            let vehicles = open(target)?.list(&format!("{}/members", path(name)), "", "vehicles", usize::MAX)?;
            print_list(vehicles, target.json, out)?;
        }
        Action::Remove { name, target } => {
            open(target)?.ask("DELETE", &path(name), None)?;
            writeln!(out, "removed {name}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(group: &Value, as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if as_json {
        return Ok(print_json(group, out)?);
    }
    let fields = [
        ("name", text(&group["name"])),
        ("description", text(&group["description"])),
        ("members", text(&group["members"])),
        ("made", time(&group["made_at_ms"])),
    ];
    Ok(print_fields(&fields, out)?)
}
