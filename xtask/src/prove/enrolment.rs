//! The proof of `enrolment`: the walk-through of the documentation, run as it stands there.
//!
//! Owns its folder, its ports, the broker it starts and the verdict. What is done, and what has to come of it, stands in
//! `docs/enrolment.md`: only the numbers of ports are others, so that it can run beside anything.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::load::Folder;
use crate::program::Program;
use crate::table;
use crate::walkthrough::{Step, steps};
use crate::workspace::{Profile, Workspace};

/// What is run.
const DOCUMENT: &str = "docs/enrolment.md";
/// The ports it names: of vehicles, of enrolment, of administration.
const PORTS: [&str; 3] = ["8883", "8085", "9883"];
/// The programs it needs beside the broker.
pub(crate) const NEEDS: &[Program] = &[Program::MosquittoClients, Program::Curl, Program::OpenSsl];
/// How long the broker may take until all its ports accept.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// The step that begins with nothing but a VIN.
const MAKES_KEY: &str = "openssl ecparam";
/// The step in which the first message arrives.
const RECEIVES: &str = "mosquitto_pub";
/// What has to be shown, or the document has lost it: what is printed, and how often at least.
const SHOWN: [(&str, usize, &str); 4] = [
    ("first publish", 1, "the first publish arrives"),
    ("401", 1, "the used token is refused"),
    ("403", 1, "a request for another vehicle is refused"),
    (": OK", 2, "the first and the renewed certificate are good"),
];

/// Runs the document, and prints the figures.
///
/// # Errors
/// When a program is missing, a step fails, or prints something else than the document says.
pub(super) fn prove(workspace: &Workspace) -> Result<()> {
    for program in NEEDS {
        ensure!(program.is_present(), "a program is missing; install it with: {}", program.install_line());
    }
    let document = std::fs::read_to_string(workspace.root.join(DOCUMENT)).context(DOCUMENT)?;
    let steps = steps(&document)?;
    check_shown(&steps)?;
    let broker = workspace.build("causeway-broker", "causewayd", Profile::Dev)?;
    let folder = Folder::new(workspace)?;
    let log = workspace.scratch("daemon-logs")?.join("enrolment-causeway.log");
    let mut walk = Walk::new(folder.path(), broker.parent().context("causewayd has no folder")?, &log)?;
    let figures = walk.run(&steps);
    println!("broker log: {}\n", log.display());
    let figures = figures?;
    println!("{}", figures.render());
    println!("holds: from a key to the first publish with openssl, curl and mosquitto_pub alone, as {DOCUMENT} says");
    Ok(())
}

/// The document must not lose what it is there for.
fn check_shown(steps: &[Step]) -> Result<()> {
    for (text, times, what) in SHOWN {
        let found: usize =
            steps.iter().filter_map(|step| step.printed.as_deref()).map(|all| all.matches(text).count()).sum();
        ensure!(found >= times, "{DOCUMENT} does not show any more that {what}");
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Figures {
    steps: usize,
    compared: usize,
    key_to_publish: Duration,
}

impl Figures {
    fn render(&self) -> String {
        let rows = [
            ("steps of the document run", self.steps.to_string()),
            ("of them, with what they print compared", self.compared.to_string()),
            ("from the vehicle's key to its first publish received, ms", self.key_to_publish.as_millis().to_string()),
        ];
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        table::render(&["enrolment", "figure"], &rows)
    }
}

struct Walk<'a> {
    folder: &'a Path,
    path: std::ffi::OsString,
    ports: [u16; 3],
    log: &'a Path,
    broker: Option<Broker>,
}

/// A child that is killed and reaped.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        // Already ended is as good as killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Walk<'a> {
    fn new(folder: &'a Path, programs: &Path, log: &'a Path) -> Result<Self> {
        let held: Vec<TcpListener> =
            PORTS.iter().map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
        let mut ports = [0; PORTS.len()];
        for (port, listener) in ports.iter_mut().zip(&held) {
            *port = listener.local_addr()?.port();
        }
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([PathBuf::from(programs)].into_iter().chain(std::env::split_paths(&others)))?;
        File::create(log)?;
        Ok(Self { folder, path, ports, log, broker: None })
    }

    fn run(&mut self, steps: &[Step]) -> Result<Figures> {
        let mut figures = Figures::default();
        let mut began = None;
        for step in steps {
            if step.script.contains(MAKES_KEY) && began.is_none() {
                began = Some(Instant::now());
            }
            self.step(step).with_context(|| format!("{DOCUMENT}:{}", step.line))?;
            figures.steps += 1;
            figures.compared += usize::from(step.printed.is_some());
            if step.script.contains(RECEIVES) && figures.key_to_publish.is_zero() {
                figures.key_to_publish = began.context("there was a publish before there was a key")?.elapsed();
            }
        }
        ensure!(!figures.key_to_publish.is_zero(), "{DOCUMENT} publishes nothing");
        Ok(figures)
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        if step.is_beside {
            return self.start(step);
        }
        let output = self.shell(&step.script).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "failed ({}):\n{}{printed}{complained}", output.status, step.script);
        match &step.printed {
            Some(expected) if *expected != self.with_documents_ports(&printed) => {
                bail!("printed\n{printed}instead of\n{expected}for\n{}{complained}", step.script)
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, step: &Step) -> Result<()> {
        let output = File::options().append(true).open(self.log)?;
        // The shell is replaced, so that the process is the broker.
        let mut command = self.shell(&format!("exec {}", step.script));
        command.stdout(output.try_clone()?).stderr(output);
        let mut broker = Broker(command.spawn()?);
        let deadline = Instant::now() + START_DEADLINE;
        for port in self.ports {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            while TcpStream::connect(address).is_err() {
                let ended = broker.0.try_wait()?;
                ensure!(ended.is_none(), "the broker ended by itself; see {}", self.log.display());
                ensure!(Instant::now() < deadline, "nothing accepts at {address}; see {}", self.log.display());
                // Nothing announces an open port: ask again, gently.
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.broker = Some(broker);
        Ok(())
    }

    /// The commands in a shell that stops at the first failure, as if somebody had typed them in the folder.
    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-eu", "-c"]).arg(self.with_free_ports(script)).current_dir(self.folder).stdin(Stdio::null());
        command.env("PATH", &self.path);
        // What is set here is none of the reader's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAUSEWAY_")) {
            command.env_remove(name);
        }
        command
    }

    fn with_free_ports(&self, script: &str) -> String {
        PORTS
            .iter()
            .zip(self.ports)
            .fold(script.to_owned(), |script, (name, port)| script.replace(name, &port.to_string()))
    }

    fn with_documents_ports(&self, printed: &str) -> String {
        PORTS
            .iter()
            .zip(self.ports)
            .fold(printed.to_owned(), |text, (name, port)| text.replace(&port.to_string(), name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        std::fs::read_to_string(root.join(DOCUMENT)).unwrap()
    }

    #[test]
    fn the_document_shows_all_that_is_claimed() {
        let document = document();
        check_shown(&steps(&document).unwrap()).unwrap();
        for lost in ["401", "403", "first publish", ": OK"] {
            let text = document.replace(lost, "");
            assert!(check_shown(&steps(&text).unwrap()).is_err(), "{lost}");
        }
    }

    #[test]
    fn what_a_step_prints_is_compared() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut walk = Walk::new(folder.path(), folder.path(), &log).unwrap();
        let step = |script: &str, printed: Option<&str>| Step {
            line: 1,
            script: script.to_owned(),
            is_beside: false,
            printed: printed.map(str::to_owned),
        };
        walk.step(&step("echo a\n", Some("a\n"))).unwrap();
        walk.step(&step("echo localhost:8883\n", Some("localhost:8883\n"))).unwrap();
        assert!(walk.step(&step("echo a\n", Some("b\n"))).is_err());
        assert!(walk.step(&step("false\ntrue\n", None)).is_err(), "the first failure counts");
    }
}
