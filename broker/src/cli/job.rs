//! `causewayd job`: what is done to many vehicles, made, shown and ended.
//!
//! Owns the command's options and what people see. The broker that runs does it.

use std::io::{BufRead, Read, Write, stdin};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::desk::Running;
use super::http::Client;
use super::table::{print_fields, print_json, print_table, seconds, text, time};
use crate::admin::api::encoded;

#[derive(Debug, Args)]
#[command(after_help = "\
A job has either --desired or --command, for a group, for the vehicles of which a query is true, or for those that are listed, one on each
line, on standard input.

Exit codes: 0 it is done, 1 it is not, 2 the command line is wrong.

Examples:
  causewayd job make --group eu --desired '{\"mode\": \"eco\"}' --ttl 1h --rate 500
  causewayd job make --where 'reported.battery.soc < 20' --command warm_up --deadline 10m
  causewayd job list
  causewayd job pause j19c2f3a4b5d
  causewayd job results j19c2f3a4b5d > results.jsonl")]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a job, which begins at once
    Make {
        #[command(flatten)]
        what: Box<Plan>,
        #[command(flatten)]
        broker: Running,
    },
    /// List jobs, those that were made last first
    List {
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        broker: Running,
    },
    /// Show how far a job is
    Show(Which),
    /// Let no more vehicles have their turn until it is resumed
    Pause(Which),
    /// Go on
    Resume(Which),
    /// End it: vehicles that have had their turn keep what they have
    Cancel(Which),
    /// Print the result of each vehicle as JSON, a line for each, and counts at the end
    Results {
        /// The job
        id: String,
        #[command(flatten)]
        broker: Running,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The job
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: Running,
}

#[derive(Debug, Args)]
struct Plan {
    /// The vehicles of a group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// The vehicles of which this is true
    #[arg(long = "where", value_name = "QUERY", conflicts_with = "group")]
    query: Option<String>,
    /// The vehicles that are listed on standard input
    #[arg(long, conflicts_with_all = ["group", "query"])]
    vins: bool,
    /// What is wanted of each: a JSON object
    #[arg(long, value_name = "JSON", required_unless_present = "command")]
    desired: Option<String>,
    /// Of this named shadow
    #[arg(long, value_name = "NAME", requires = "desired")]
    shadow: Option<String>,
    /// How long it is wanted: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = seconds, requires = "desired")]
    ttl: Option<u64>,
    /// The command that each gets
    #[arg(long, value_name = "NAME", conflicts_with = "desired")]
    command: Option<String>,
    /// What it is told with that: JSON, else a text
    #[arg(long, requires = "command")]
    payload: Option<String>,
    /// How long the command may be carried out: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = seconds, requires = "command")]
    deadline: Option<u64>,
    /// Fail at once where a vehicle is not there
    #[arg(long, requires = "command")]
    online: bool,
    /// Vehicles that have their turn in a second, at most
    #[arg(long, value_name = "NUMBER")]
    rate: Option<u32>,
    /// What to remember of it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    options: &Options,
    environment: Vec<(String, String)>,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    match &options.action {
        Action::Make { what, broker } => {
            let body = what.body()?.to_string();
            let job = broker.client(environment)?.ask("POST", "/v1/jobs", Some(&body))?.json()?;
            print(&job, what.json, out)?;
        }
        Action::List { limit, json, broker } => {
            let listed = broker.client(environment)?.ask("GET", &format!("/v1/jobs?limit={limit}"), None)?.json()?;
            match json {
                true => print_json(&listed, out)?,
                false => print_list(&listed, out)?,
            }
        }
        Action::Show(which) => which.ask(environment, "GET", "", out)?,
        Action::Pause(which) => which.ask(environment, "POST", "/pause", out)?,
        Action::Resume(which) => which.ask(environment, "POST", "/resume", out)?,
        Action::Cancel(which) => which.ask(environment, "POST", "/cancel", out)?,
        Action::Results { id, broker } => results(&broker.client(environment)?, id, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Which {
    fn ask(
        &self,
        environment: Vec<(String, String)>,
        method: &str,
        action: &str,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let target = format!("/v1/jobs/{}{action}", encoded(&self.id));
        let body = (method == "POST").then_some("");
        let job = self.broker.client(environment)?.ask(method, &target, body)?.json()?;
        print(&job, self.json, out)
    }
}

impl Plan {
    fn body(&self) -> anyhow::Result<Value> {
        let mut body = Map::new();
        let target = match (&self.group, &self.query) {
            (Some(group), _) => json!({ "group": group }),
            (None, Some(query)) => json!({ "where": query }),
            (None, None) if self.vins => {
                let mut listed = String::new();
                stdin().lock().read_to_string(&mut listed).context("standard input")?;
                json!({ "vins": listed.split_whitespace().collect::<Vec<_>>() })
            }
            (None, None) => bail!("which vehicles? --group, --where or --vins says so"),
        };
        body.insert("target".to_owned(), target);
        if let Some(desired) = &self.desired {
            body.insert("desired".to_owned(), serde_json::from_str(desired).context("--desired is no JSON")?);
        }
        if let Some(name) = &self.command {
            let mut command = json!({ "name": name, "now_or_never": self.online });
            if let Some(payload) = &self.payload {
                command["payload"] = serde_json::from_str(payload).unwrap_or_else(|_| payload.as_str().into());
            }
            if let Some(deadline) = self.deadline {
                command["deadline"] = deadline.into();
            }
            body.insert("command".to_owned(), command);
        }
        let more: [(&str, Option<Value>); 4] = [
            ("shadow", self.shadow.as_deref().map(Into::into)),
            ("ttl", self.ttl.map(Into::into)),
            ("rate_per_second", self.rate.map(Into::into)),
            ("note", self.note.as_deref().map(Into::into)),
        ];
        body.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(Value::Object(body))
    }
}

fn results(client: &Client, id: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    match client.follow(&format!("/v1/jobs/{}/results", encoded(id)))? {
        Ok(lines) => {
            for line in lines.lines() {
                writeln!(out, "{}", line?)?;
            }
            Ok(())
        }
        Err(reply) => Err(reply.refusal()),
    }
}

fn print(job: &Value, as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if as_json {
        return Ok(print_json(job, out)?);
    }
    let mut fields = vec![
        ("id", text(&job["id"])),
        ("state", text(&job["state"])),
        ("vehicles", target(job)),
        ("what", what(job)),
        ("done", progress(job)),
        ("succeeded", text(&job["succeeded"])),
        ("failed", failed(job)),
        ("rate", format!("{} of {} a second", text(&job["rate"]), text(&job["rate_per_second"]))),
        ("made", format!("{} by {}", time(&job["made_ms"]), text(&job["by"]))),
    ];
    if job["held_up"].is_string() {
        fields.push(("held up", text(&job["held_up"])));
    }
    if job["eta_seconds"].is_number() {
        fields.push(("seconds left", text(&job["eta_seconds"])));
    }
    if job["ended_ms"].is_number() {
        fields.push(("ended", time(&job["ended_ms"])));
    }
    if job["note"].is_string() {
        fields.push(("note", text(&job["note"])));
    }
    Ok(print_fields(&fields, out)?)
}

fn print_list(listed: &Value, out: &mut dyn Write) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = listed["jobs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|job| {
            vec![
                text(&job["id"]),
                text(&job["state"]),
                progress(job),
                failed(job),
                target(job),
                what(job),
                time(&job["made_ms"]),
            ]
        })
        .collect();
    Ok(print_table(&["ID", "STATE", "DONE", "FAILED", "VEHICLES", "WHAT", "MADE"], &rows, out)?)
}

fn progress(job: &Value) -> String {
    format!("{} of {}", text(&job["done"]), text(&job["total"]))
}

fn failed(job: &Value) -> String {
    let failed = job["failed"].as_object().into_iter().flatten();
    let failed: Vec<String> = failed.map(|(kind, count)| format!("{count} {kind}")).collect();
    if failed.is_empty() { "0".to_owned() } else { failed.join(", ") }
}

fn target(job: &Value) -> String {
    let mut target = job["target"].as_object().into_iter().flatten();
    target.next().map_or_else(String::new, |(kind, value)| format!("{kind} {}", text(value)))
}

fn what(job: &Value) -> String {
    match job["command"]["name"].as_str() {
        Some(name) => format!("command {}", text(&name.into())),
        None => format!("desired {}", job["desired"]),
    }
}
