//! `causewayd shadow`: what is wanted of a vehicle and what it reports, shown, followed and changed.
//!
//! Owns the command's options and what people see. What it does is done by the broker that runs.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use causeway_fleet::shadow::{Format, read, same};
use clap::{Args, Subcommand};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::desk::Running;
use super::http::{Client, Question};
use super::leaves::{at, difference, document, leaves, one_line, short};
use super::table::{print_fields, print_json, print_table, seconds, text};
use crate::admin::api::encoded;
use crate::pki::stamp;

/// Entries that are asked for at once.
const PAGE: usize = 1000;

#[derive(Debug, Args)]
#[command(after_help = "\
A path is the keys that lead to a value, with dots between them: climate.target. A value is JSON, else a text.

Exit codes: 0 it is done, 1 it is not, 2 the command line is wrong.

Examples:
  causewayd shadow show 1M8GDM9AXKP042788
  causewayd shadow set 1M8GDM9AXKP042788 climate.target=21 doors.locked=true --ttl 10m
  causewayd shadow watch 1M8GDM9AXKP042788
  causewayd shadow watch --all --json --admin https://broker:9883 --ca ca.crt --token-file token
  causewayd shadow history 1M8GDM9AXKP042788 --from 2026-11-22T05:00:00Z")]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show a shadow: what is wanted, what is reported, what is pending and since when
    Show {
        #[command(flatten)]
        which: Which,
        /// Print the document as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        broker: Running,
    },
    /// Follow what happens to shadows, a line for each change, until it is stopped
    Watch {
        /// The vehicle
        #[arg(required_unless_present = "all")]
        vin: Option<String>,
        /// Only this named shadow
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// All vehicles
        #[arg(long, conflicts_with = "vin")]
        all: bool,
        /// Print one JSON object on each line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        broker: Running,
    },
    /// Show what happened to a shadow, the oldest first
    History {
        #[command(flatten)]
        which: Which,
        /// Not what was before: a moment (2026-11-22T05:00:00Z), or how long ago (2h)
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Nor what was then or after
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
        /// Print one JSON object on each line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        broker: Running,
    },
    /// Change what is wanted of a vehicle
    Set {
        #[command(flatten)]
        which: Which,
        /// PATH=VALUE: null takes a value back
        #[arg(value_name = "PATH=VALUE", required = true, value_parser = assignment)]
        values: Vec<(String, Value)>,
        /// How long it is wanted: a number and s, m, h or d
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        ttl: Option<u64>,
        /// Only if the shadow has this version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
        /// Print the document as it becomes
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        broker: Running,
    },
    /// Delete a shadow
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        broker: Running,
    },
}

/// Which shadow.
#[derive(Debug, Args)]
struct Which {
    /// The vehicle
    vin: String,
    /// A named shadow of it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Which {
    fn path(&self) -> String {
        let name = self.name.as_deref().map(|name| format!("/{}", word(name))).unwrap_or_default();
        format!("/v1/vehicles/{}/shadow{name}", encoded(&self.vin))
    }
}

/// A name in a path. Two names are those of other things there, unless they are encoded.
fn word(name: &str) -> String {
    match name {
        "history" => "%68istory".to_owned(),
        "events" => "%65vents".to_owned(),
        _ => encoded(name),
    }
}

fn assignment(text: &str) -> Result<(String, Value), String> {
    let (path, value) = text.split_once('=').ok_or("it has to be PATH=VALUE, such as climate.target=21")?;
    let value = match serde_json::from_str::<IgnoredAny>(value) {
        Ok(_) => read(value.as_bytes(), Format::Json).map_err(|problem| problem.message)?,
        Err(_) => Value::String(value.to_owned()),
    };
    Ok((path.to_owned(), value))
}

pub(super) fn run(
    options: &Options,
    environment: Vec<(String, String)>,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let client = |broker: &Running| broker.client(environment.clone());
    match &options.action {
        Action::Show { which, json, broker } => {
            let shadow = client(broker)?.ask("GET", &which.path(), None)?.json()?;
            print_shadow(which, &shadow, *json, out)?;
        }
        Action::Watch { vin, name, json, broker, .. } => {
            watch(&client(broker)?, vin.as_deref(), name.as_deref(), *json, out)?
        }
        Action::History { which, from, to, limit, json, broker } => {
            let mut range = String::new();
            for (key, moment) in [("from", from), ("to", to)] {
                if let Some(moment) = moment {
                    range += &format!("&{key}={}", encoded(&absolute(moment)));
                }
            }
            history(&client(broker)?, which, &range, *limit, *json, out)?;
        }
        Action::Set { which, values, ttl, if_version, json, broker } => {
            let shadow = set(&client(broker)?, which, values, *ttl, *if_version)?;
            print_shadow(which, &shadow, *json, out)?;
        }
        Action::Delete { which, broker } => {
            client(broker)?.ask("DELETE", &which.path(), None)?.json()?;
            writeln!(out, "deleted")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn set(
    client: &Client,
    which: &Which,
    values: &[(String, Value)],
    ttl: Option<u64>,
    if_version: Option<u64>,
) -> anyhow::Result<Value> {
    let wrong = |path: String| anyhow::anyhow!("{path:?} leads nowhere, or is there twice");
    let desired = document(values.to_vec()).map_err(wrong)?;
    let mut body = json!({ "state": { "desired": desired } });
    if let Some(ttl) = ttl {
        body["ttl"] = ttl.into();
    }
    let tag = if_version.map(|version| format!("\"{version}\""));
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(tag.as_deref().map(|tag| ("If-Match", tag)));
    let (target, body) = (which.path(), body.to_string());
    client.send(&Question { method: "PATCH", target: &target, headers: &headers, body: body.as_bytes() })?.json()
}

fn print_shadow(which: &Which, shadow: &Value, as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if as_json {
        return Ok(print_json(shadow, out)?);
    }
    let (state, metadata) = (&shadow["state"], &shadow["metadata"]);
    let [desired, reported, delta] = ["desired", "reported", "delta"].map(|section| leaves(&state[section]));
    let since = |path: &str| changed(at(&metadata["desired"], path), u64::min);
    let oldest = delta.keys().filter_map(|path| since(path)).min();
    let pending = match (delta.len(), oldest) {
        (0, _) => "nothing".to_owned(),
        (count, None) => count.to_string(),
        (count, Some(oldest)) => format!("{count} of {}, since {}", desired.len(), shown(oldest)),
    };
    let named = which.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    let version = text(&shadow["version"]);
    print_fields(&[("vehicle", format!("{}{named}", which.vin)), ("version", version), ("pending", pending)], out)?;
    let mut paths: Vec<&String> =
        desired.keys().chain(reported.keys().filter(|it| !desired.contains_key(*it))).collect();
    paths.sort_unstable();
    let row = |path: &&String| {
        let value =
            |section: &std::collections::BTreeMap<String, Value>| section.get(*path).map(short).unwrap_or_default();
        let changed = ["desired", "reported"].map(|section| changed(at(&metadata[section], path), u64::max));
        let what = match (desired.get(*path), reported.get(*path)) {
            _ if delta.contains_key(*path) => "pending",
            (None, _) => "",
            (Some(desired), Some(reported)) if same(desired, reported) => "same",
            (Some(_), _) => "handled",
        };
        let changed = changed.into_iter().flatten().max().map(shown).unwrap_or_default();
        vec![one_line((*path).clone()), value(&desired), value(&reported), what.to_owned(), changed]
    };
    let rows: Vec<Vec<String>> = paths.iter().map(row).collect();
    if !rows.is_empty() {
        writeln!(out)?;
        print_table(&["PATH", "DESIRED", "REPORTED", "", "CHANGED"], &rows, out)?;
    }
    Ok(())
}

/// One of the timestamps of metadata, which arrays have for each element.
fn changed(metadata: &Value, which: fn(u64, u64) -> u64) -> Option<u64> {
    match metadata {
        Value::Object(fields) if fields.get("timestamp").is_some_and(Value::is_u64) => metadata["timestamp"].as_u64(),
        Value::Object(fields) => fields.values().filter_map(|it| changed(it, which)).reduce(which),
        Value::Array(elements) => elements.iter().filter_map(|it| changed(it, which)).reduce(which),
        _ => None,
    }
}

fn shown(seconds: u64) -> String {
    i64::try_from(seconds).map(stamp).unwrap_or_default()
}

/// A moment as the broker takes it: what is no time ago is given as it is.
fn absolute(moment: &str) -> String {
    match seconds(moment) {
        Ok(ago) => stamp(crate::pki::now().saturating_sub_unsigned(ago)),
        Err(_) => moment.to_owned(),
    }
}

fn history(
    client: &Client,
    which: &Which,
    range: &str,
    max: usize,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (mut left, mut cursor) = (max, String::new());
    while left > 0 {
        let target = format!("{}/history?limit={}{range}{cursor}", which.path(), PAGE.min(left));
        let page = client.ask("GET", &target, None)?.json()?;
        let entries = page["history"].as_array().cloned().unwrap_or_default();
        left = left.saturating_sub(entries.len());
        for entry in &entries {
            match as_json {
                true => writeln!(out, "{entry}")?,
                false => writeln!(out, "{}", line(entry))?,
            }
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => break,
        }
    }
    Ok(())
}

/// What happened, for people.
fn line(entry: &Value) -> String {
    let columns = [text(&entry["at"]), format!("v{}", text(&entry["version"])), text(&entry["by"])];
    let what = match difference(entry) {
        nothing if nothing.is_empty() => text(&entry["what"]),
        said => said,
    };
    format!("{}  {what}", columns.join("  ")).trim_end().to_owned()
}

fn watch(
    client: &Client,
    vin: Option<&str>,
    name: Option<&str>,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let path = match vin {
        Some(vin) => format!("/v1/vehicles/{}/shadow/events", encoded(vin)),
        None => "/v1/shadows/events".to_owned(),
    };
    let query = name.map(|name| format!("?name={}", encoded(name))).unwrap_or_default();
    let events = client.follow(&(path + &query))?.map_err(|reply| reply.refusal())?;
    let mut kind = String::new();
    for said in events.lines() {
        let said = said.context("the broker says nothing any more")?;
        match said.split_once(": ") {
            Some(("event", named)) => kind = named.to_owned(),
            Some(("data", data)) => {
                let event: Value = serde_json::from_str(data).context("the broker says what is no event")?;
                match (kind.as_str(), as_json) {
                    ("missed", _) => {
                        let missed = text(&event["missed"]);
                        writeln!(std::io::stderr(), "{missed} changes came too fast, and are not shown")?;
                    }
                    ("reset", _) => writeln!(std::io::stderr(), "changes are not shown: {}", text(&event["reason"]))?,
                    (_, true) => writeln!(out, "{event}")?,
                    (_, false) => {
                        let name = event["name"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
                        writeln!(out, "{}{name}  {}", text(&event["vin"]), line(&event))?;
                    }
                }
                out.flush()?;
            }
            _ => {}
        }
    }
    bail!("the broker ended the stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadow_is_shown_side_by_side() {
        let shadow = json!({
            "state": {
                "desired": { "climate": { "target": 21 }, "locked": true, "mode": "eco", "seat": 21 },
                "reported": { "climate": { "target": 19 }, "locked": true, "mode": "off", "seat": 21.0, "soc": [1, 2] },
                "delta": { "climate": { "target": 21 } },
            },
            "metadata": {
                "desired": { "climate": { "target": { "timestamp": 10 } }, "locked": { "timestamp": 20 }, "mode": { "timestamp": 1 }, "seat": { "timestamp": 2 } },
                "reported": { "locked": { "timestamp": 30 }, "soc": [{ "timestamp": 40 }, { "timestamp": 40 }] },
            },
            "version": 7,
            "timestamp": 99,
        });
        let which = Which { vin: "1M8GDM9AXKP042788".to_owned(), name: None };
        let mut out = Vec::new();
        print_shadow(&which, &shadow, false, &mut out).unwrap();
        let expected = "\
vehicle: 1M8GDM9AXKP042788
version: 7
pending: 1 of 4, since 1970-01-01T00:00:10Z

PATH            DESIRED  REPORTED           CHANGED
climate.target  21       19        pending  1970-01-01T00:00:10Z
locked          true     true      same     1970-01-01T00:00:30Z
mode            \"eco\"    \"off\"     handled  1970-01-01T00:00:01Z
seat            21       21.0      same     1970-01-01T00:00:02Z
soc                      [1,2]              1970-01-01T00:00:40Z
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn values_are_json_or_texts() {
        for (text, path, value) in [
            ("a.b=21", "a.b", json!(21)),
            ("a=true", "a", json!(true)),
            ("a=eco", "a", json!("eco")),
            ("a=null", "a", Value::Null),
            ("a={\"b\":1}", "a", json!({ "b": 1 })),
            ("a=b=c", "a", json!("b=c")),
        ] {
            assert_eq!(assignment(text), Ok((path.to_owned(), value)), "{text}");
        }
        assert!(assignment("a").is_err());
        assert!(assignment("a=18446744073709551616").is_err(), "it would lose digits");
    }

    #[test]
    fn a_change_is_told_with_who_and_when() {
        let entry = json!({ "version": 3, "at": "2026-11-22T05:00:00.000Z", "by": "operator:ann", "to": { "desired": { "a": 1 } } });
        assert_eq!(line(&entry), "2026-11-22T05:00:00.000Z  v3  operator:ann  desired.a: 1");
        assert_eq!(word("history"), "%68istory");
        assert_eq!(absolute("2026-11-22T05:00:00Z"), "2026-11-22T05:00:00Z");
    }
}
