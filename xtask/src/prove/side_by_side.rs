//! Causeway beside other brokers, by `causeway-bench compare`.
//!
//! Owns which brokers there are, the call and the reading of what it wrote.
//! It never judges: the proofs do.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::certificates::Certificates;
use crate::program;
use crate::workspace::{Profile, Workspace};

/// How long and how often.
pub(super) struct Lengths {
    pub(super) rounds: u32,
    pub(super) seconds: f64,
    pub(super) warm_up_seconds: f64,
    pub(super) clients: u32,
}

/// A figure over all rounds.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Spread {
    pub(super) median: f64,
}

/// What Causeway did in a scenario. What was not measured there is zero, or missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    scenario: String,
    qos: u8,
    transport: String,
    broker: String,
    is_causeway: bool,
    pub(super) faults: u64,
    pub(super) failure: Option<String>,
    pub(super) thousand_per_second: Spread,
    pub(super) thousand_drained_per_second: Spread,
    pub(super) cpu_to_best_peer: Option<f64>,
    pub(super) p99_to_best_peer: Option<f64>,
    pub(super) connects_per_second: Spread,
    pub(super) kibibytes_per_client: Spread,
}

impl Row {
    /// The scenario as it was asked for.
    pub(super) fn label(&self) -> String {
        let label = match self.scenario.as_str() {
            "connect" | "idle" | "storm" => self.scenario.clone(),
            scenario => format!("{scenario}:{}", self.qos),
        };
        if self.transport == "tcp" { label } else { format!("{label}:{}", self.transport) }
    }

    /// Whether all rounds came to an end, and nothing was lost.
    pub(super) fn is_sound(&self) -> bool {
        self.faults == 0 && self.failure.is_none()
    }
}

/// The rows of a comparison.
pub(super) struct Rows(Vec<Row>);

impl Rows {
    /// What `causeway-bench compare --json-to` wrote.
    ///
    /// # Errors
    /// When a line is no row.
    pub(super) fn read(text: &str) -> Result<Self> {
        Ok(Self(text.lines().map(serde_json::from_str::<Row>).collect::<Result<Vec<_>, _>>()?))
    }

    /// Those of Causeway.
    pub(super) fn own(&self) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(|row| row.is_causeway)
    }

    /// The most connects a second of the others in a scenario.
    pub(super) fn most_connects_of_peers(&self, label: &str) -> Option<f64> {
        let others = self.0.iter().filter(|row| !row.is_causeway && row.is_sound() && row.label() == label);
        others.map(|row| row.connects_per_second.median).reduce(f64::max)
    }

    /// The names of the others, each once.
    pub(super) fn peers(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.0.iter().filter(|row| !row.is_causeway).map(|row| row.broker.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What another broker did in all scenarios.
    pub(super) fn of_peer(&self, name: &str) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(move |row| !row.is_causeway && row.broker == name)
    }
}

/// Who is compared, and what is drawn of it.
pub(super) struct SideBySide<'a> {
    pub(super) workspace: &'a Workspace,
    /// `NAME=PATH`; where there are none, Mosquitto as it is installed is the only one.
    pub(super) peers: &'a [String],
    /// Where the figures are drawn, as an SVG.
    pub(super) plot: Option<&'a Path>,
}

impl SideBySide<'_> {
    /// Compares, printing the tables.
    ///
    /// # Errors
    /// When something cannot be built or nothing can be measured.
    pub(super) fn run(&self, scenarios: &[&str], lengths: &Lengths, more: &[&str]) -> Result<Rows> {
        let Self { workspace, peers, plot } = *self;
        let broker = workspace.build("causeway-broker", "causewayd", Profile::Release)?;
        let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
        let scratch = tempfile::TempDir::with_prefix_in("compare-", workspace.scratch("daemon-data")?)?;
        let json = scratch.path().join("rows.jsonl");
        Certificates::create(scratch.path())?;
        let mut command = std::process::Command::new(bench);
        command.arg("compare").arg("--broker").arg(format!("causeway={}", broker.display()));
        let mosquitto = PathBuf::from(program::mosquitto_path());
        if peers.is_empty() {
            command.arg("--broker").arg(format!("mosquitto={}", mosquitto.display()));
        }
        command.args(peers.iter().flat_map(|peer| ["--broker", peer]));
        command.args(scenarios.iter().flat_map(|scenario| ["--scenario", scenario]));
        command.args(["--rounds", &lengths.rounds.to_string(), "--seconds", &lengths.seconds.to_string()]);
        command.args(["--warm-up-seconds", &lengths.warm_up_seconds.to_string()]);
        command.args(["--clients", &lengths.clients.to_string()]).args(more);
        command.arg("--scratch").arg(scratch.path().join("brokers")).arg("--certificates").arg(scratch.path());
        command.arg("--json-to").arg(&json);
        if let Some(plot) = plot {
            command.arg("--plot").arg(plot);
        }
        let status = command.stdin(Stdio::null()).status().context("cannot run causeway-bench")?;
        ensure!(status.success(), "causeway-bench failed: {status}");
        let text = std::fs::read_to_string(&json)?;
        let rows = Rows::read(&text)?;
        if peers.is_empty() {
            println!("beside Mosquitto only, as it is installed; name others by --peer NAME=PATH");
        } else {
            println!("beside {}", rows.peers().join(", "));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_kinds_are_read() {
        let message = r#"{"scenario":"fan-in","qos":1,"transport":"tls","payload_bytes":256,"broker":"causeway",
            "is_causeway":true,"cpu_per_million":{"median":1.0,"min":1.0,"max":1.0},"cpu_to_best_peer":0.5,"faults":0,
            "failure":null}"#;
        let row: Row = serde_json::from_str(message).unwrap();
        assert_eq!((row.label().as_str(), row.cpu_to_best_peer, row.is_sound()), ("fan-in:1:tls", Some(0.5), true));
        let arrival = r#"{"scenario":"idle","transport":"tcp","broker":"mosquitto","is_causeway":false,
            "kibibytes_per_client":{"median":1.5,"min":1.5,"max":1.5},"faults":3,"failure":null}"#;
        let row: Row = serde_json::from_str(arrival).unwrap();
        assert_eq!((row.label().as_str(), row.kibibytes_per_client.median), ("idle", 1.5));
        assert!(!row.is_sound());
    }
}
