//! `causewayd command`: has a vehicle do something, and tells what came of it.
//!
//! Owns the command's options, its exit codes, and what people see. The broker that runs sends the command, and has its outcome.

use std::io::{Read, Write, stderr, stdin};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use super::desk::Running;
use super::http::{Question, Reply};
use super::table::{print_json, seconds, text};
use crate::admin::api::encoded;

/// The command has an outcome, which is no reply.
const OUTCOME: u8 = 3;
/// The command has no outcome yet.
const PENDING: u8 = 4;
/// The most that is read of standard input.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Args)]
#[command(after_help = "\
The reply of the vehicle is printed as it is. A command has exactly one outcome: replied, timed-out, offline, refused, queue-full, retired or
conflict. While it has none, --id shows later what came of it.

Exit codes: 0 the vehicle replied, 1 nobody could be asked, 2 the command line is wrong, 3 there is another outcome, 4 there is none yet.

Examples:
  causewayd command 1M8GDM9AXKP042788 get_location
  causewayd command 1M8GDM9AXKP042788 unlock '{\"doors\": [1]}' --wait 10s --deadline 30s --idempotency-key 7f1a
  causewayd command 1M8GDM9AXKP042788 diagnose - --wait 1m < request.bin
  causewayd command --id c05kd9mq8w1x2 --wait 10s")]
pub(super) struct Options {
    /// The vehicle
    #[arg(required_unless_present = "id")]
    vin: Option<String>,
    /// What it is to do
    #[arg(required_unless_present = "id")]
    name: Option<String>,
    /// What it is told with that; - is standard input
    #[arg(default_value = "", hide_default_value = true)]
    payload: String,
    /// Show what came of a command that was sent before
    #[arg(long, value_name = "ID", conflicts_with = "vin")]
    id: Option<String>,
    /// How long to wait for the outcome: a number and s or m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = seconds)]
    wait: u64,
    /// How long the command may be carried out: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    deadline: Option<u64>,
    /// Fail at once where the vehicle is not there
    #[arg(long)]
    online: bool,
    /// A key that makes a command that is sent again the same command
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print JSON: the command, its outcome, and the reply
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: Running,
}

pub(super) fn run(
    options: &Options,
    environment: Vec<(String, String)>,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let client = options.broker.client(environment)?;
    let wait = format!("wait={}s", options.wait);
    let reply = match &options.id {
        Some(id) => client.ask("GET", &format!("/v1/commands/{}?{wait}", encoded(id)), None)?,
        None => {
            let [vin, name] = [&options.vin, &options.name].map(|it| encoded(it.as_deref().unwrap_or_default()));
            let deadline = options.deadline.map(|deadline| format!("&deadline={deadline}s")).unwrap_or_default();
            let online = if options.online { "&online=true" } else { "" };
            let target = format!("/v1/vehicles/{vin}/commands/{name}?{wait}{deadline}{online}");
            let payload = payload(&options.payload)?;
            let is_json = serde_json::from_slice::<Value>(&payload).is_ok();
            let kind = if is_json { "application/json" } else { "application/octet-stream" };
            let mut headers = vec![("Content-Type", kind)];
            headers.extend(options.idempotency_key.as_deref().map(|key| ("Idempotency-Key", key)));
            client.send(&Question { method: "POST", target: &target, headers: &headers, body: &payload })?
        }
    };
    print(&reply, options.json, out)
}

fn payload(given: &str) -> anyhow::Result<Vec<u8>> {
    if given != "-" {
        return Ok(given.as_bytes().to_vec());
    }
    let mut payload = Vec::new();
    stdin().lock().take(PAYLOAD_BYTES_MAX).read_to_end(&mut payload).context("standard input")?;
    Ok(payload)
}

fn print(reply: &Reply, as_json: bool, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let command = reply.header("Causeway-Command").unwrap_or_default();
    let Some(outcome) = reply.header("Causeway-Outcome") else { return Err(reply.refusal()) };
    if as_json {
        let said = serde_json::from_slice(&reply.bytes).unwrap_or_else(|_| Value::String(reply.body()));
        print_json(&serde_json::json!({ "command": command, "outcome": outcome, "reply": said }), out)?;
    }
    let code = match outcome {
        "replied" => {
            if !as_json {
                out.write_all(&reply.bytes)?;
                if !reply.bytes.ends_with(b"\n") {
                    writeln!(out)?;
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        "pending" => PENDING,
        _ => OUTCOME,
    };
    if !as_json {
        let detail = match outcome {
            "pending" => format!("causewayd command --id {command} shows later what came of it"),
            _ => text(&Value::String(reply.detail())),
        };
        writeln!(stderr(), "command {command} {outcome}: {detail}")?;
    }
    Ok(ExitCode::from(code))
}
