//! `cargo xtask interop`: foreign MQTT clients against a broker.
//!
//! Owns the matrix of client, protocol version and transport, the
//! installation of foreign libraries under the target folder, and the table of
//! results. What a scenario does is written in `interop/`, where each client
//! is a program that prints one verdict a line.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::daemon::{Daemon, Data, Product, Setup, Transport};
use crate::program::Program;
use crate::table;
use crate::workspace::{self, Profile, Workspace};

/// The foreign programs the whole matrix needs.
pub(crate) const NEEDS: &[Program] = &[Program::MosquittoClients, Program::Node, Program::Python];

/// How long one scenario may take. The scenarios have shorter deadlines of
/// their own; this one catches a client that hangs.
const SCENARIO_DEADLINE: Duration = Duration::from_secs(60);

/// What to run against which broker.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker
    #[arg(long, value_enum, default_value_t = Product::Causeway)]
    against: Product,
    /// Run only rows that contain this, such as `paho`, `v5` or `mqtt.js v5 wss`
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

impl Options {
    /// The whole matrix against a broker.
    pub(crate) fn whole(against: Product) -> Self {
        Self { against, only: None }
    }
}

/// A foreign client and what it speaks.
struct Client {
    name: &'static str,
    kind: Kind,
    transports: &'static [Transport],
}

enum Kind {
    /// A Python program, run in the virtual environment.
    Python(&'static str),
    /// A program for Node.js.
    Node(&'static str),
}

const CLIENTS: &[Client] = &[
    Client { name: "paho", kind: Kind::Python("paho_client.py"), transports: &Transport::ALL },
    Client { name: "gmqtt", kind: Kind::Python("gmqtt_client.py"), transports: &[Transport::Tcp, Transport::Tls] },
    Client {
        name: "mosquitto",
        kind: Kind::Python("mosquitto_client.py"),
        transports: &[Transport::Tcp, Transport::Tls],
    },
    Client { name: "mqtt.js", kind: Kind::Node("mqttjs_client.cjs"), transports: &Transport::ALL },
];

/// An MQTT version, by the protocol level clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V311,
    V5,
}

impl Version {
    const ALL: [Self; 2] = [Self::V311, Self::V5];

    fn level(self) -> &'static str {
        match self {
            Self::V311 => "4",
            Self::V5 => "5",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V311 => "v3.1.1",
            Self::V5 => "v5",
        }
    }
}

/// The scenarios, and whether they exist in MQTT 5 only. A client that gives
/// no verdict on one of them fails it: silence is no success.
const SCENARIOS: &[(&str, bool)] = &[
    ("qos0", false),
    ("qos1", false),
    ("qos2", false),
    ("retained", false),
    ("will", false),
    ("resume", false),
    ("user-properties", true),
    ("request-response", true),
    ("subscription-id", true),
    ("expiry", true),
    ("topic-alias", true),
    ("shared", true),
];

/// What a client says about one scenario, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Verdict {
    scenario: String,
    /// What came of it.
    pub(crate) verdict: Outcome,
    /// Why not.
    #[serde(default)]
    pub(crate) detail: String,
}

/// What came of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// All as it should be.
    Pass,
    /// Something was not.
    Fail,
    /// The client's library cannot do it.
    Unsupported,
}

/// One client with one version over one transport.
struct Row {
    title: String,
    verdicts: BTreeMap<String, Verdict>,
    version: Version,
}

/// Runs the matrix and prints it.
///
/// # Errors
/// When a client or the broker cannot be started, or a scenario fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let clients = Installation::prepare(workspace)?;
    let mut daemon = Daemon::start(
        workspace,
        &Setup {
            product: options.against,
            profile: Profile::Dev,
            purpose: "interop",
            transports: &Transport::ALL,
            has_user: false,
            data: Data::Lost,
            limits: "",
        },
    )?;
    let mut rows = Vec::new();
    for client in CLIENTS {
        for version in Version::ALL {
            for transport in client.transports {
                let title = format!("{} {} {}", client.name, version.name(), transport.word());
                if options.only.as_ref().is_some_and(|only| !title.contains(only)) {
                    continue;
                }
                let command = clients.command(client, version, *transport, &daemon)?;
                let verdicts = collect(command)?;
                let row = Row { title, verdicts, version };
                row.report_failures();
                daemon.check_alive()?;
                rows.push(row);
            }
        }
    }
    ensure!(!rows.is_empty(), "no row of the matrix matches");
    conclude(&rows, options.against, &daemon)
}

fn conclude(rows: &[Row], against: Product, daemon: &Daemon) -> Result<()> {
    let mut head = vec!["client"];
    head.extend(SCENARIOS.iter().map(|(name, _)| *name));
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    println!("\n{}", table::render(&head, &cells));
    let count = |cell: &str| cells.iter().flatten().filter(|found| *found == cell).count();
    let (passed, failed) = (count(PASSED), count(FAILED));
    println!(
        "{}: {passed} passed, {failed} failed, {} not possible with the client",
        against.name(),
        count(UNSUPPORTED)
    );
    println!("broker log: {}", daemon.log().display());
    if failed > 0 {
        bail!("{failed} of {} interoperability checks failed", passed + failed);
    }
    Ok(())
}

const PASSED: &str = "ok";
const FAILED: &str = "FAILED";
const UNSUPPORTED: &str = "n/a";
const NOT_IN_VERSION: &str = "-";

impl Row {
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.title.clone()];
        cells.extend(SCENARIOS.iter().map(|(name, _)| self.cell(name).to_owned()));
        cells
    }

    fn cell(&self, scenario: &str) -> &'static str {
        let needs_v5 = SCENARIOS.contains(&(scenario, true));
        match self.verdicts.get(scenario).map(|found| found.verdict) {
            _ if needs_v5 && self.version != Version::V5 => NOT_IN_VERSION,
            Some(Outcome::Pass) => PASSED,
            Some(Outcome::Unsupported) => UNSUPPORTED,
            Some(Outcome::Fail) | None => FAILED,
        }
    }

    fn report_failures(&self) {
        for (scenario, _) in SCENARIOS {
            let cell = self.cell(scenario);
            if cell == FAILED || cell == UNSUPPORTED {
                let detail = self.verdicts.get(*scenario);
                let detail = detail.map_or("no verdict", |found| found.detail.as_str());
                println!("{}: {scenario}: {cell}: {detail}", self.title);
            }
        }
        let passed = SCENARIOS.iter().filter(|(name, _)| self.cell(name) == PASSED);
        println!("{}: {} passed", self.title, passed.count());
    }
}

/// Runs one client to its end and returns its verdicts. A client that is
/// silent for too long is killed; what it said until then counts.
///
/// # Errors
/// When it cannot be run, or says what is no verdict.
pub(crate) fn collect(mut command: Command) -> Result<BTreeMap<String, Verdict>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", workspace::shown(&command)))?;
    let lines = lines_of(&mut child)?;
    let mut verdicts = BTreeMap::new();
    loop {
        match lines.recv_timeout(SCENARIO_DEADLINE) {
            Ok(line) => {
                let verdict: Verdict =
                    serde_json::from_str(&line).with_context(|| format!("a client printed no verdict: {line}"))?;
                verdicts.insert(verdict.scenario.clone(), verdict);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                println!("killed after {} s of silence", SCENARIO_DEADLINE.as_secs());
                child.kill()?;
                break;
            }
        }
    }
    child.wait()?;
    Ok(verdicts)
}

fn lines_of(child: &mut Child) -> Result<Receiver<String>> {
    let output = child.stdout.take().context("the client has no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The foreign libraries, installed under the target folder.
struct Installation {
    scripts: PathBuf,
    python: PathBuf,
    node_modules: PathBuf,
}

impl Installation {
    fn prepare(workspace: &Workspace) -> Result<Self> {
        let scripts = workspace.root.join("interop");
        let folder = workspace.scratch("interop")?;
        let venv = folder.join("venv");
        let requirements = scripts.join("requirements.txt");
        let python = python_with(&venv, &requirements)?;
        let npm = folder.join("npm");
        let inputs = ["package.json", "package-lock.json", ".npmrc"].map(|name| scripts.join(name));
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        once(&npm, &inputs, || {
            workspace::create_dir(&npm)?;
            for input in &inputs {
                let name = input.file_name().context("an input without a name")?;
                std::fs::copy(input, npm.join(name)).with_context(|| format!("cannot copy {}", input.display()))?;
            }
            workspace::run(Command::new("npm").args(["ci", "--silent"]).current_dir(&npm))
        })?;
        Ok(Self { python, node_modules: npm.join("node_modules"), scripts })
    }

    fn command(&self, client: &Client, version: Version, transport: Transport, daemon: &Daemon) -> Result<Command> {
        let mut command = match client.kind {
            Kind::Python(script) => {
                let mut command = Command::new(&self.python);
                // Compiled files would litter the sources.
                command.arg("-B").arg(self.scripts.join(script));
                command
            }
            Kind::Node(script) => {
                let mut command = Command::new("node");
                command.arg(self.scripts.join(script)).env("NODE_PATH", &self.node_modules);
                command
            }
        };
        let address = daemon.address(transport)?;
        command
            .args(["--host", &address.ip().to_string()])
            .args(["--port", &address.port().to_string()])
            .args(["--transport", transport.word()])
            .args(["--version", version.level()])
            .arg("--authority")
            .arg(daemon.authority());
        Ok(command)
    }
}

/// A Python with the libraries of a file of requirements, in a virtual environment of its own.
///
/// # Errors
/// When they cannot be installed.
pub(crate) fn python_with(venv: &Path, requirements: &Path) -> Result<PathBuf> {
    once(venv, &[requirements], || {
        workspace::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv))?;
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .arg("--requirement")
            .arg(requirements);
        workspace::run(&mut pip)
    })?;
    Ok(venv.join("bin/python"))
}

/// Installs into `folder` unless that was done with the same inputs before.
fn once(folder: &Path, inputs: &[&Path], install: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut wanted = String::new();
    for input in inputs {
        let text = std::fs::read_to_string(input).with_context(|| format!("cannot read {}", input.display()))?;
        wanted.push_str(&text);
    }
    let stamp = folder.join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    install()?;
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(version: Version, verdicts: &[(&str, Outcome)]) -> Row {
        let verdicts = verdicts.iter().map(|(scenario, verdict)| {
            let verdict = Verdict { scenario: (*scenario).to_owned(), verdict: *verdict, detail: String::new() };
            ((*scenario).to_owned(), verdict)
        });
        Row { title: "client".to_owned(), verdicts: verdicts.collect(), version }
    }

    #[test]
    fn silence_is_a_failure() {
        let row = row(Version::V5, &[("qos0", Outcome::Pass), ("qos1", Outcome::Unsupported)]);
        assert_eq!(row.cell("qos0"), PASSED);
        assert_eq!(row.cell("qos1"), UNSUPPORTED);
        assert_eq!(row.cell("qos2"), FAILED);
        assert_eq!(row.cell("expiry"), FAILED);
    }

    #[test]
    fn older_versions_owe_nothing_newer() {
        assert_eq!(row(Version::V311, &[]).cell("expiry"), NOT_IN_VERSION);
        assert_eq!(row(Version::V311, &[]).cell("will"), FAILED);
    }

    #[test]
    fn a_client_that_prints_nonsense_is_an_error() {
        let mut command = Command::new("echo");
        command.arg("nonsense");
        assert!(collect(command).is_err());
        let mut command = Command::new("echo");
        command.arg(r#"{"scenario":"qos0","verdict":"pass"}"#);
        assert_eq!(collect(command).unwrap()["qos0"].verdict, Outcome::Pass);
    }
}
