//! Running `causeway-bench`, and the daemon where a proof configures it itself.
//!
//! Owns those two processes. It never judges what they say.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;

use crate::daemon::with_all_files;
use crate::workspace::{Profile, Workspace};

/// From one question to the daemon to the next: the precision of its time to readiness.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Runs a load to its end; what its last line says.
///
/// # Errors
/// When it fails.
pub(super) fn run<T: DeserializeOwned>(bench: &Path, arguments: &[String]) -> Result<T> {
    let output = Command::new(bench)
        .args(arguments)
        .arg("--json")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run causeway-bench")?;
    ensure!(output.status.success(), "causeway-bench failed: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("causeway-bench said nothing")?;
    serde_json::from_str(line).with_context(|| format!("causeway-bench said {line}"))
}

/// The words of a load's command line.
pub(super) fn words(words: &[&dyn std::fmt::Display]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// A folder that is removed with this value.
#[derive(Debug)]
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    /// Makes one on the disk of cargo's target folder: the system's folder for temporary files may be in memory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn new(workspace: &Workspace) -> Result<Self> {
        Ok(Self(tempfile::TempDir::with_prefix_in("causeway-proof-", workspace.scratch("daemon-data")?)?))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What its configuration has beside addresses and the data folder, each ended by a line break.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lines<'a> {
    /// Of `[authentication]`.
    pub(super) authentication: &'a str,
    /// Of `[storage]`.
    pub(super) storage: &'a str,
    /// Of `[limits]`.
    pub(super) limits: &'a str,
    /// Other tables.
    pub(super) tables: &'a str,
}

/// The daemon on a data folder, with an administration listener; killed and reaped when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    started: Instant,
    log: PathBuf,
    /// Where it listens for MQTT over TCP.
    pub(super) mqtt: SocketAddr,
    /// Where it tells how it is.
    pub(super) admin: SocketAddr,
}

impl Server {
    /// Starts it on the data folder `data`, with these lines. `folder` takes its configuration.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub(super) fn start(
        workspace: &Workspace,
        purpose: &str,
        (folder, data): (&Path, &Path),
        lines: &Lines<'_>,
    ) -> Result<Self> {
        let program = workspace.build("causeway-broker", "causewayd", Profile::Release)?;
        // Both are held until both are known, so that they differ.
        let ports = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        let [mqtt, admin] = [ports[0].local_addr()?, ports[1].local_addr()?];
        drop(ports);
        let Lines { authentication, storage, limits, tables } = lines;
        let config = format!(
            "[[listener]]\nname = \"tcp\"\nbind = \"{mqtt}\"\ntransport = \"tcp\"\n[authentication]\nanonymous = \"loopback\"\n\
             {authentication}[admin]\nbind = \"{admin}\"\n[storage]\ndata_directory = \"{}\"\n{storage}[limits]\n{limits}{tables}",
            data.display()
        );
        let path = folder.join("causeway.toml");
        std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let log = workspace.scratch("daemon-logs")?.join(format!("{purpose}-causeway.log"));
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let started = Instant::now();
        let child = with_all_files(&program)
            .args(["run", "--config"])
            .arg(&path)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, started, log, mqtt, admin })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is ready; the time from its start.
    ///
    /// # Errors
    /// When it ends, or is not ready by then.
    pub(super) fn wait_until_ready(&mut self, deadline: Duration) -> Result<Duration> {
        loop {
            if is_ready(self.admin) {
                return Ok(self.started.elapsed());
            }
            self.check_alive()?;
            if self.started.elapsed() > deadline {
                bail!("the broker is not ready after {deadline:?}; see {}", self.log.display());
            }
            // Nothing announces readiness to who is outside: ask again, gently.
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// When it has.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the broker ended by itself ({status}); see {}", self.log.display()),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
