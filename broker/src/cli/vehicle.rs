//! `causewayd vehicle`: the vehicles of the registry.
//!
//! Owns the command line and what is printed. Many vehicles are changed in batches, each of which happens as a whole.

use std::io::{BufRead, BufReader, Write, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::desk::{Desk, Target};
use super::table::{print_fields, print_json, print_table, seconds, text, time};
use crate::admin::api::encoded;
use crate::registry::{BULK_MAX, State};

/// A list of VINs has no more bytes: ten million.
const LIST_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, Args)]
#[command(after_help = "\
A vehicle is provisioned (known, may enrol, may not connect yet), active, suspended, or retired, which is final.
While the broker runs it is asked at its administration listener; while it is stopped, its data directory is changed.

Examples:
  causewayd vehicle add 1M8GDM9AXKP042788 --group eu --config causeway.toml
  causewayd vehicle add --from vins.txt --state active --group ring-1 --config causeway.toml
  causewayd vehicle list --state suspended --admin http://127.0.0.1:9883
  causewayd vehicle suspend 1M8GDM9AXKP042788 --admin https://broker:9883 --ca ca.crt --token-file token
  causewayd vehicle token 1M8GDM9AXKP042788 --for 12h --config causeway.toml")]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make vehicles known
    Add {
        #[command(flatten)]
        vins: Vins,
        /// Their state: provisioned, active or suspended
        #[arg(long, default_value_t = State::Provisioned)]
        state: State,
        /// A group of theirs, which is there; may be given several times
        #[arg(long = "group", value_name = "NAME")]
        groups: Vec<String>,
        /// What to remember of them
        #[arg(long, default_value = "")]
        note: String,
        /// Those that are known stay as they are, instead of being an error
        #[arg(long)]
        keep_known: bool,
        #[command(flatten)]
        target: Target,
    },
    /// List vehicles
    List {
        /// Only those in this state
        #[arg(long)]
        state: Option<State>,
        /// Only those of this group
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Show all that is known of a vehicle
    Show {
        /// Its VIN
        vin: String,
        #[command(flatten)]
        target: Target,
    },
    /// Change what is remembered of a vehicle
    Note {
        /// Its VIN
        vin: String,
        /// What to remember
        note: String,
        #[command(flatten)]
        target: Target,
    },
    /// Let vehicles connect
    Activate(Many),
    /// Keep vehicles out, and end their connections, until they are active again
    Suspend(Many),
    /// Keep vehicles out for good, and end their connections and sessions
    Retire(Many),
    /// Forget a vehicle that is provisioned
    Remove {
        /// Its VIN
        vin: String,
        #[command(flatten)]
        target: Target,
    },
    /// Make a token with which a vehicle gets a certificate, once
    Token {
        /// Its VIN
        vin: String,
        /// How long it is good: a number and s, m, h or d
        #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = seconds)]
        lifetime_seconds: u64,
        #[command(flatten)]
        target: Target,
    },
    /// Put vehicles into a group, or take them out of it
    Group {
        #[command(subcommand)]
        action: GroupAction,
    },
}

#[derive(Debug, Subcommand)]
enum GroupAction {
    /// Put vehicles into a group, which is there
    Add {
        /// The group
        group: String,
        #[command(flatten)]
        many: Many,
    },
    /// Take vehicles out of a group
    Remove {
        /// The group
        group: String,
        #[command(flatten)]
        many: Many,
    },
}

#[derive(Debug, Args)]
struct Many {
    #[command(flatten)]
    vins: Vins,
    #[command(flatten)]
    target: Target,
}

/// Which vehicles.
#[derive(Debug, Args)]
struct Vins {
    /// Their VINs
    #[arg(value_name = "VIN", required_unless_present = "from")]
    vins: Vec<String>,
    /// A file with a VIN on each line; - is standard input. Empty lines and those that begin with # do not count
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

pub(super) fn run(
    options: &Options,
    environment: Vec<(String, String)>,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let open = |target: &Target| Desk::open(target, environment.clone());
    match &options.action {
        Action::Add { vins, state, groups, note, keep_known, target } => {
            let entry = |vin: &String| json!({ "vin": vin, "state": state, "groups": groups, "note": note });
            let (mut added, mut known) = (0, 0);
            let (desk, vins) = (open(target)?, vins.read()?);
            for batch in vins.chunks(BULK_MAX) {
                let body = json!({ "vehicles": batch.iter().map(entry).collect::<Vec<_>>(), "keep_known": keep_known });
                let said = desk.ask("POST", "/v1/vehicles", Some(&body)).with_context(|| so_far(added))?;
                added += said["added"].as_u64().unwrap_or(0);
                known += said["known"].as_u64().unwrap_or(0);
            }
            match target.json {
                true => print_json(&json!({ "added": added, "known": known }), out)?,
                false if known > 0 => writeln!(out, "added {added}, {known} were known")?,
                false => writeln!(out, "added {added}")?,
            }
        }
        Action::List { state, group, limit, target } => {
            let state = state.map(|state| format!("&state={state}")).unwrap_or_default();
            let group = group.as_deref().map(|group| format!("&group={}", encoded(group))).unwrap_or_default();
            let vehicles = open(target)?.list("/v1/vehicles", &(state + &group), "vehicles", *limit)?;
            print_list(vehicles, target.json, out)?;
        }
        Action::Show { vin, target } => {
            let desk = open(target)?;
            let mut vehicle = desk.ask("GET", &format!("/v1/vehicles/{}", encoded(vin)), None)?;
            let path = format!("/v1/vehicles/{}/credentials", encoded(vin));
            vehicle["credentials"] = desk.list(&path, "", "credentials", usize::MAX)?.into();
            print_vehicle(&vehicle, target.json, out)?;
        }
        Action::Note { vin, note, target } => {
            let path = format!("/v1/vehicles/{}", encoded(vin));
            let vehicle = open(target)?.ask("PATCH", &path, Some(&json!({ "note": note })))?;
            print_vehicle(&vehicle, target.json, out)?;
        }
        Action::Activate(many) => set_state(many, &open(&many.target)?, "activate", "active", out)?,
        Action::Suspend(many) => set_state(many, &open(&many.target)?, "suspend", "suspended", out)?,
        Action::Retire(many) => set_state(many, &open(&many.target)?, "retire", "retired", out)?,
        Action::Remove { vin, target } => {
            open(target)?.ask("DELETE", &format!("/v1/vehicles/{}", encoded(vin)), None)?;
            writeln!(out, "removed {vin}")?;
        }
        Action::Token { vin, lifetime_seconds, target } => {
            let path = format!("/v1/vehicles/{}/enrolment-token", encoded(vin));
            let said = open(target)?.ask("POST", &path, Some(&json!({ "lifetime_seconds": lifetime_seconds })))?;
            match target.json {
                true => print_json(&said, out)?,
                false => {
                    writeln!(out, "{}", text(&said["token"]))?;
                    let expires = time(&said["expires_at_ms"]);
                    writeln!(std::io::stderr(), "Good once, until {expires}. It is not shown again.")?;
                }
            }
        }
        Action::Group { action } => {
            let (group, many, key) = match action {
                GroupAction::Add { group, many } => (group, many, "add"),
                GroupAction::Remove { group, many } => (group, many, "remove"),
            };
            let (desk, vins) = (open(&many.target)?, many.vins.read()?);
            let path = format!("/v1/groups/{}/members", encoded(group));
            let mut done = 0;
            let mut said = Value::Null;
            for batch in vins.chunks(BULK_MAX) {
                said = desk.ask("POST", &path, Some(&json!({ key: batch }))).with_context(|| so_far(done))?;
                done += batch.len() as u64;
            }
            match many.target.json {
                true => print_json(&said, out)?,
                false => writeln!(out, "members of {group}: {}", text(&said["members"]))?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn set_state(many: &Many, desk: &Desk, verb: &str, state: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    let vins = many.vins.read()?;
    let mut done = 0;
    for batch in vins.chunks(BULK_MAX) {
        let body = json!({ "vins": batch });
        desk.ask("POST", &format!("/v1/vehicles/{verb}"), Some(&body)).with_context(|| so_far(done))?;
        done += batch.len() as u64;
    }
    match many.target.json {
        true => print_json(&json!({ "state": state, "vehicles": done }), out)?,
        false => writeln!(out, "{state}: {done}")?,
    }
    Ok(())
}

/// What is said before an error in the middle of many.
fn so_far(done: u64) -> String {
    if done == 0 { "nothing was changed".to_owned() } else { format!("the first {done} were changed, and no more") }
}

impl Vins {
    fn read(&self) -> anyhow::Result<Vec<String>> {
        let mut vins = self.vins.clone();
        match self.from.as_deref() {
            None => {}
            Some(path) if path == Path::new("-") => read_lines(stdin().lock(), &mut vins).context("standard input")?,
            Some(path) => {
                let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
                read_lines(BufReader::new(file), &mut vins).with_context(|| path.display().to_string())?;
            }
        }
        if vins.is_empty() {
            bail!("no vehicle is named");
        }
        Ok(vins)
    }
}

fn read_lines(source: impl BufRead, vins: &mut Vec<String>) -> anyhow::Result<()> {
    for line in source.take(LIST_BYTES_MAX).lines() {
        let line = line?;
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            vins.push(line.to_owned());
        }
    }
    Ok(())
}

pub(super) fn print_list(vehicles: Vec<Value>, as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if as_json {
        return Ok(print_json(&json!({ "vehicles": vehicles }), out)?);
    }
    let row = |it: &Value| {
        let columns = [&it["vin"], &it["state"], &it["groups"]].map(text);
        columns.into_iter().chain([time(&it["changed_at_ms"]), text(&it["note"])]).collect()
    };
    let rows: Vec<Vec<String>> = vehicles.iter().map(row).collect();
    Ok(print_table(&["VIN", "STATE", "GROUPS", "CHANGED", "NOTE"], &rows, out)?)
}

fn print_vehicle(vehicle: &Value, as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if as_json {
        return Ok(print_json(vehicle, out)?);
    }
    let mut fields = vec![
        ("VIN", text(&vehicle["vin"])),
        ("state", text(&vehicle["state"])),
        ("groups", text(&vehicle["groups"])),
        ("note", text(&vehicle["note"])),
        ("made", time(&vehicle["made_at_ms"])),
        ("changed", time(&vehicle["changed_at_ms"])),
    ];
    let token = &vehicle["enrolment_token"];
    if token.is_object() {
        let used = &token["used_at_ms"];
        let shown = match used.is_null() {
            true => format!("not used, good until {}", time(&token["expires_at_ms"])),
            false => format!("used {}", time(used)),
        };
        fields.push(("token", shown));
    }
    for credential in vehicle["credentials"].as_array().into_iter().flatten() {
        let shown = format!("{} ({})", text(&credential["credential"]), text(&credential["state"]));
        fields.push(("credential", shown));
    }
    Ok(print_fields(&fields, out)?)
}
