//! The proof of `shadow-aws`: the clients of the AWS IoT device SDK find what they expect of the AWS IoT Device Shadow service.
//!
//! Owns which of the SDK's clients run, and the table. What they do, and what they have to find, is said in `interop/aws/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::fleet::vin;
use super::garage::{Garage, SERVICE};
use crate::interop::{self, Outcome, Verdict};
use crate::program::Program;
use crate::table;
use crate::workspace::Workspace;

/// In the order in which they are played.
const SCENARIOS: [&str; 12] = [
    "connect",
    "missing",
    "update",
    "get",
    "delta",
    "documents",
    "conflict",
    "errors",
    "wrong-thing",
    "away",
    "two-at-once",
    "delete",
];

/// The versions of the SDK's shadow client, and of MQTT below them.
const CLIENTS: [(&str, &str); 4] = [("1", "3.1.1"), ("1", "5"), ("2", "3.1.1"), ("2", "5")];
/// The name of a shadow that has one.
const NAMED: &str = "doors";

/// The SDK, installed.
pub(super) struct Sdk {
    python: PathBuf,
    scripts: PathBuf,
}

impl Sdk {
    /// Installs it under the target folder, unless that was done before.
    pub(super) fn prepare(workspace: &Workspace) -> Result<Sdk> {
        let python = Program::Python;
        ensure!(python.is_present(), "a program is missing; install it with: {}", python.install_line());
        let scripts = workspace.root.join("interop/aws");
        let venv = workspace.scratch("interop")?.join("aws");
        Ok(Sdk { python: interop::python_with(&venv, &scripts.join("requirements.txt"))?, scripts })
    }

    /// What runs a script, up to where it finds the broker.
    pub(super) fn command(&self, script: &str, port: u16, pki: &Path) -> Command {
        let mut command = Command::new(&self.python);
        // Compiled files would litter the sources.
        command.arg("-B").arg(self.scripts.join(script));
        command.args(["--host", "localhost", "--port", &port.to_string(), "--pki"]).arg(pki);
        command
    }
}

/// One client with one shadow.
struct Row {
    title: String,
    verdicts: BTreeMap<String, Verdict>,
}

impl Row {
    fn has_passed(&self, scenario: &str) -> bool {
        self.verdicts.get(scenario).is_some_and(|found| found.verdict == Outcome::Pass)
    }

    fn cells(&self) -> Vec<String> {
        let verdict = |scenario| if self.has_passed(scenario) { "ok" } else { "FAILED" }.to_owned();
        [self.title.clone()].into_iter().chain(SCENARIOS.into_iter().map(verdict)).collect()
    }

    fn report_failures(&self) {
        for scenario in SCENARIOS.into_iter().filter(|scenario| !self.has_passed(scenario)) {
            let why = self.verdicts.get(scenario).map_or("no verdict", |found| found.detail.as_str());
            println!("{}: {scenario}: {why}", self.title);
        }
    }
}

/// Plays all scenarios with all clients, and prints the table. `full` does so with one shard, two and three.
///
/// # Errors
/// When something cannot be installed or started, or a client finds something else than it should.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let sdk = Sdk::prepare(workspace)?;
    let (one, other) = (vin(1), vin(2));
    let mut rows = Vec::new();
    for shards in if full { 1..=3 } else { 1..=1 } {
        let mut garage = Garage::start(workspace, "shadow-aws", &[&one, &other], shards)?;
        for (client, mqtt) in CLIENTS {
            for name in ["", NAMED] {
                let mut command = sdk.command("shadows.py", garage.port(), &garage.pki());
                command.args(["--vin", &one, "--other", &other, "--service", SERVICE]);
                command.args(["--client", client, "--mqtt", mqtt, "--name", name]);
                let kind = if name.is_empty() { "classic" } else { "named" };
                let title = format!("client v{client}, MQTT {mqtt}, {kind}, shards {shards}");
                let row = Row { title, verdicts: interop::collect(command)? };
                row.report_failures();
                garage.check_alive()?;
                rows.push(row);
            }
        }
        println!("broker log: {}", garage.log().display());
    }
    println!("\n{}", figures(&rows));
    verdict(&rows)
}

fn figures(rows: &[Row]) -> String {
    let head: Vec<&str> = ["awsiotsdk"].into_iter().chain(SCENARIOS).collect();
    table::render(&head, &rows.iter().map(Row::cells).collect::<Vec<_>>())
}

fn verdict(rows: &[Row]) -> Result<()> {
    let all = rows.len() * SCENARIOS.len();
    let passed: usize =
        rows.iter().map(|row| SCENARIOS.into_iter().filter(|scenario| row.has_passed(scenario)).count()).sum();
    if passed < all || all == 0 {
        bail!("{} of {all} scenarios of the AWS IoT device SDK failed", all - passed);
    }
    println!("holds: {all} scenarios of the AWS IoT device SDK, with only endpoint and certificates changed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(but: Option<&str>) -> Row {
        let verdicts = SCENARIOS.into_iter().filter(|scenario| but != Some(scenario)).map(|scenario| {
            let said = format!(r#"{{"scenario":"{scenario}","verdict":"pass"}}"#);
            (scenario.to_owned(), serde_json::from_str(&said).unwrap())
        });
        Row { title: "client".to_owned(), verdicts: verdicts.collect() }
    }

    #[test]
    fn silence_is_a_failure() {
        assert!(verdict(&[row(None)]).is_ok());
        assert!(verdict(&[row(None), row(Some("delete"))]).is_err());
        assert!(verdict(&[]).is_err());
    }

    #[test]
    fn the_scenarios_are_those_of_the_script() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let script = std::fs::read_to_string(root.join("interop/aws/shadows.py")).unwrap();
        for scenario in SCENARIOS {
            assert!(script.contains(&format!("\"{scenario}\"")), "{scenario}");
        }
    }
}
