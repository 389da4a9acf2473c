//! A broker for vehicles with certificates, as somebody sets it up who reads the documentation.
//!
//! Owns its folder, with what `causewayd pki` and `causewayd vehicle` made in it, its configuration, and its process, which can be killed
//! and started again. It never speaks MQTT.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::fleet::DEADLINE;
use crate::workspace::{Profile, Workspace};

/// A service that may see all shadows.
pub(super) const SERVICE: &str = "twins";
/// A port that does not accept yet is asked again after this.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(10);

/// Vehicles have their own shadows, the service has all.
const POLICY: &str = r#"
[[role]]
name = "vehicle"
members = ["vehicle:*"]
[[role.rule]]
name = "own-shadows"
effect = "allow"
actions = ["publish", "subscribe", "receive"]
topics = ["vehicles/{vin}/shadow/#"]
[[role]]
name = "twins"
members = ["service:twins"]
[[role.rule]]
name = "all-shadows"
effect = "allow"
actions = ["publish", "subscribe", "receive"]
topics = ["vehicles/+/shadow/#"]
"#;

/// A broker, and all that belongs to it.
pub(super) struct Garage {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    shards: u8,
    log: PathBuf,
    child: Option<Child>,
}

impl Garage {
    /// Makes certificates for these vehicles and for [`SERVICE`], makes the vehicles known, and starts the broker.
    pub(super) fn start(workspace: &Workspace, purpose: &str, vins: &[&str], shards: u8) -> Result<Garage> {
        Garage::start_built(workspace, Garage::build(workspace)?, purpose, vins, shards)
    }

    /// The program that all garages run.
    pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
        workspace.build("causeway-broker", "causewayd", Profile::Dev)
    }

    /// As [`Garage::start`], with what [`Garage::build`] made: for those who start several.
    pub(super) fn start_built(
        workspace: &Workspace,
        program: PathBuf,
        purpose: &str,
        vins: &[&str],
        shards: u8,
    ) -> Result<Garage> {
        let folder = TempDir::with_prefix_in("causeway-garage-", workspace.scratch("daemon-data")?)?;
        let log = workspace.scratch("daemon-logs")?.join(format!("{purpose}-causeway.log"));
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut garage = Garage { program, folder, port: 0, shards, log, child: None };
        garage.furnish(vins)?;
        garage.restart()?;
        Ok(garage)
    }

    fn furnish(&mut self, vins: &[&str]) -> Result<()> {
        let held = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        self.port = held[0].local_addr()?.port();
        let config = configuration(self.port, held[1].local_addr()?.port(), self.shards);
        drop(held);
        fs::write(self.folder.path().join("causeway.toml"), config)?;
        fs::write(self.folder.path().join("policy.toml"), POLICY)?;
        self.run(&["pki", "init", "pki"])?;
        self.run(&["pki", "server", "pki", "--name", "localhost"])?;
        self.run(&["pki", "service", "pki", SERVICE])?;
        for vin in vins {
            self.run(&["pki", "vehicle", "pki", vin])?;
        }
        fs::write(self.folder.path().join("vins"), vins.join("\n") + "\n")?;
        self.run(&["vehicle", "add", "--from", "vins", "--state", "active", "--config", "causeway.toml"])
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.program);
        let status = command.args(arguments).current_dir(self.folder.path()).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "causewayd {} failed: {status}", arguments.join(" "));
        Ok(())
    }

    /// Starts the broker with what is on its disk, and waits until it accepts.
    pub(super) fn restart(&mut self) -> Result<()> {
        let output = File::options().append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(["run", "--config", "causeway.toml"]).current_dir(self.folder.path()).stdin(Stdio::null());
        let child = command.stdout(output.try_clone()?).stderr(output).spawn();
        self.child = Some(child.with_context(|| format!("cannot start {}", self.program.display()))?);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(address).is_err() {
            self.check_alive()?;
            ensure!(Instant::now() < deadline, "nothing accepts at {address}");
            // Nothing announces an open port: ask again, gently.
            thread::sleep(AGAIN);
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("there is no broker")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.child.as_mut().context("there is no broker")?.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the broker ended by itself ({status}); see {}", self.log.display()),
        }
    }

    /// Where clients with certificates are to connect, at `localhost`.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The authority's folder.
    pub(super) fn pki(&self) -> PathBuf {
        self.folder.path().join("pki")
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        // Already ended is as good as killed; there is nobody to tell anyway.
        let _ = self.kill();
    }
}

fn configuration(port: u16, admin_port: u16, shards: u8) -> String {
    format!(
        "[[listener]]\nname = \"vehicles\"\nbind = \"127.0.0.1:{port}\"\ntransport = \"tls\"\n\
         [listener.tls]\ncertificate_file = \"pki/servers/localhost.crt\"\nkey_file = \"pki/servers/localhost.key\"\n\
         client_certificate = \"required\"\nclient_ca_file = \"pki/ca.crt\"\n\
         [broker]\nshards = {shards}\n[policy]\nfile = \"policy.toml\"\n[storage]\ndata_directory = \"data\"\n\
         [admin]\nbind = \"127.0.0.1:{admin_port}\"\n"
    )
}
