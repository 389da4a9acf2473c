//! A broker under test, as a child process.
//!
//! Owns its configuration, its free ports, its log file and its end: a
//! [`Daemon`] that is dropped is killed and reaped. Who has to restart the
//! broker runs [`Configured::command`] itself. It never speaks MQTT.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::program;
use crate::workspace::{self, Profile, Workspace};

/// How long a broker may take from its start until all its ports accept.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How many of the last lines of its log are shown when a broker fails to start.
const LOG_TAIL_LINES: usize = 20;

/// Which broker to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Product {
    /// This repository's `causewayd`.
    Causeway,
    /// The mosquitto installed on this machine.
    Mosquitto,
}

impl Product {
    /// Its name in file names and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Causeway => "causeway",
            Self::Mosquitto => "mosquitto",
        }
    }
}

/// What a listener carries MQTT in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// Every transport there is.
    pub(crate) const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// Its word in configuration files and on command lines.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }
}

/// What a broker keeps when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// Nothing: its state is in memory.
    Lost,
    /// Its state, in a folder under cargo's target folder.
    Kept,
}

/// How a broker is to be started.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// Which broker.
    pub(crate) product: Product,
    /// Which build of it, if it is ours.
    pub(crate) profile: Profile,
    /// What for: part of the log's name.
    pub(crate) purpose: &'a str,
    /// Its listeners, one each.
    pub(crate) transports: &'a [Transport],
    /// Whether it knows [`USER`]. Whoever names no user is welcome, too.
    pub(crate) has_user: bool,
    /// What it keeps over restarts.
    pub(crate) data: Data,
    /// Lines of `[limits]` for `causewayd`; empty for its defaults.
    pub(crate) limits: &'a str,
}

/// The name of the one user.
pub(crate) const USER: &str = "judge";

/// The password of [`USER`]; it protects nothing.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A broker that can be started as often as one likes.
#[derive(Debug)]
pub(crate) struct Configured {
    program: PathBuf,
    arguments: Vec<OsString>,
    certificates: Certificates,
    /// Holds the configuration, the keys and the data; removed with this.
    folder: TempDir,
    log: PathBuf,
    ports: BTreeMap<Transport, u16>,
}

impl Configured {
    /// Builds the product if it is ours, and configures it with the listeners
    /// asked for. Its output is to go to `target/daemon-logs/PURPOSE-PRODUCT.log`.
    ///
    /// # Errors
    /// When it cannot be built, or no port or folder is to be had.
    pub(crate) fn new(workspace: &Workspace, setup: &Setup<'_>) -> Result<Self> {
        let program = match setup.product {
            Product::Causeway => workspace.build("causeway-broker", "causewayd", setup.profile)?,
            Product::Mosquitto => PathBuf::from(program::mosquitto_path()),
        };
        // Not in the system's folder for temporary files, which may be in memory: data is to be on a disk.
        let folder = TempDir::with_prefix_in("causeway-daemon-", workspace.scratch("daemon-data")?)?;
        let certificates = Certificates::create(folder.path())?;
        let ports = free_ports(setup.transports)?;
        let users = folder.path().join("users");
        let users = setup.has_user.then_some(users.as_path());
        if let Some(users) = users {
            create_user(setup.product, &program, users)?;
        }
        let data = folder.path().join("data");
        workspace::create_dir(&data)?;
        let data = (setup.data == Data::Kept).then_some(data.as_path());
        let arguments = match setup.product {
            Product::Causeway => {
                let config = causeway_config(&ports, &certificates, users, data, setup.limits);
                let config = write(folder.path(), "causeway.toml", &config)?;
                vec!["run".into(), "--config".into(), config.into_os_string()]
            }
            Product::Mosquitto => {
                let config = mosquitto_config(&ports, &certificates, users, data);
                let config = write(folder.path(), "mosquitto.conf", &config)?;
                vec!["-c".into(), config.into_os_string()]
            }
        };
        let log = format!("{}-{}.log", setup.purpose, setup.product.name());
        let log = workspace.scratch("daemon-logs")?.join(log);
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self { program, arguments, certificates, folder, log, ports })
    }

    /// Where it is to listen for a transport.
    ///
    /// # Errors
    /// When it is configured without that transport.
    pub(crate) fn address(&self, transport: Transport) -> Result<SocketAddr> {
        let port = self
            .ports
            .get(&transport)
            .with_context(|| format!("configured without a {} listener", transport.word()))?;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))
    }

    /// The file that is to hold what it says.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// What runs it in the foreground, for a shell.
    pub(crate) fn command(&self) -> String {
        let words = std::iter::once(self.program.as_os_str()).chain(self.arguments.iter().map(OsString::as_os_str));
        let words: Vec<String> = words.map(quoted).collect();
        format!("{} >>{} 2>&1", words.join(" "), quoted(self.log.as_os_str()))
    }

    fn start(&self) -> Result<Child> {
        let output = File::options().append(true).open(&self.log)?;
        with_all_files(&self.program)
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }
}

/// A word as a shell reads it back.
fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))
}

/// A broker that runs until this value is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    configured: Configured,
}

impl Daemon {
    /// Configures a broker, starts it and waits until every port accepts.
    ///
    /// # Errors
    /// When it cannot be built, ends early or takes longer than 30 s.
    pub(crate) fn start(workspace: &Workspace, setup: &Setup<'_>) -> Result<Self> {
        let configured = Configured::new(workspace, setup)?;
        let mut daemon = Self { child: configured.start()?, configured };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens for a transport.
    ///
    /// # Errors
    /// When it was started without that transport.
    pub(crate) fn address(&self, transport: Transport) -> Result<SocketAddr> {
        self.configured.address(transport)
    }

    /// The certificate of the authority that its TLS clients must trust.
    pub(crate) fn authority(&self) -> &Path {
        &self.configured.certificates.authority
    }

    /// The file that holds what it said.
    pub(crate) fn log(&self) -> &Path {
        &self.configured.log
    }

    /// Fails when it has ended by itself, which no check asks of a broker.
    ///
    /// # Errors
    /// When it has ended; the error holds the end of its log.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the broker ended by itself ({status}){}", self.log_tail());
        }
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        let addresses: Vec<SocketAddr> =
            self.configured.ports.values().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).collect();
        for address in addresses {
            while TcpStream::connect(address).is_err() {
                self.check_alive()?;
                if Instant::now() > deadline {
                    bail!("nothing accepts at {address}{}", self.log_tail());
                }
                // Nothing announces an open port: ask again, gently.
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.configured.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        if tail.is_empty() {
            return "; it said nothing".to_owned();
        }
        format!("; it said:\n  {}", tail.join("\n  "))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already ended is as good as killed; there is nobody to tell anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command for `program` that may open as many files as the system grants,
/// not just the soft limit. The shell is replaced, so the process id is the program's.
pub(crate) fn with_all_files(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(r#"ulimit -n "$(ulimit -H -n)" 2>/dev/null; exec "$0" "$@""#).arg(program);
    command
}

/// Free ports, one for each transport. All are held until all are known, so
/// they differ. Another process may still be faster: then the start fails.
fn free_ports(transports: &[Transport]) -> Result<BTreeMap<Transport, u16>> {
    let held = transports
        .iter()
        .map(|transport| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            Ok((*transport, listener.local_addr()?.port(), listener))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(held.into_iter().map(|(transport, port, _listener)| (transport, port)).collect())
}

/// Makes a password file with [`USER`] in it, by the product's own program.
fn create_user(product: Product, program: &Path, file: &Path) -> Result<()> {
    let mut command = match product {
        Product::Causeway => {
            let mut command = Command::new(program);
            command.arg("passwd").arg(file).args(["add", USER, "--password-stdin"]);
            command
        }
        Product::Mosquitto => {
            let mut command = Command::new("mosquitto_passwd");
            command.args(["-b", "-c"]).arg(file).args([USER, PASSWORD]);
            command
        }
    };
    let shown = workspace::shown(&command);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().with_context(|| format!("cannot run {shown}"))?;
    if let Some(mut input) = child.stdin.take()
        && product == Product::Causeway
    {
        writeln!(input, "{PASSWORD}")?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{shown} failed: {status}");
    Ok(())
}

fn causeway_config(
    ports: &BTreeMap<Transport, u16>,
    certificates: &Certificates,
    users: Option<&Path>,
    data: Option<&Path>,
    limits: &str,
) -> String {
    let mut config = String::new();
    for (transport, port) in ports {
        let word = transport.word();
        let _ =
            write!(config, "[[listener]]\nname = \"{word}\"\nbind = \"127.0.0.1:{port}\"\ntransport = \"{word}\"\n");
        if transport.is_encrypted() {
            let _ = writeln!(
                config,
                "tls = {{ certificate_file = \"{}\", key_file = \"{}\" }}",
                certificates.server.display(),
                certificates.server_key.display()
            );
        }
    }
    config.push_str("[authentication]\nanonymous = \"loopback\"\n");
    if let Some(users) = users {
        let _ = writeln!(config, "password_file = \"{}\"", users.display());
    }
    if let Some(data) = data {
        let _ = writeln!(config, "[storage]\ndata_directory = \"{}\"", data.display());
    }
    let _ = writeln!(config, "[limits]\n{limits}");
    config
}

fn mosquitto_config(
    ports: &BTreeMap<Transport, u16>,
    certificates: &Certificates,
    users: Option<&Path>,
    data: Option<&Path>,
) -> String {
    // As root it would change to a user who may not read the key.
    let mut config = String::from("user root\nallow_anonymous true\nlog_dest stderr\n");
    // Its default of 20 messages in flight and 1000 queued is what users get; keep it.
    if let Some(data) = data {
        let _ = writeln!(config, "persistence true\npersistence_location {}/", data.display());
    }
    if let Some(users) = users {
        let _ = writeln!(config, "password_file {}", users.display());
    }
    for (transport, port) in ports {
        let _ = writeln!(config, "listener {port} 127.0.0.1");
        if matches!(transport, Transport::Ws | Transport::Wss) {
            config.push_str("protocol websockets\n");
        }
        if transport.is_encrypted() {
            let _ = writeln!(
                config,
                "certfile {}\nkeyfile {}",
                certificates.server.display(),
                certificates.server_key.display()
            );
        }
    }
    config
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ() {
        let ports = free_ports(&Transport::ALL).unwrap();
        let mut numbers: Vec<u16> = ports.values().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), Transport::ALL.len());
    }

    #[test]
    fn the_generated_configuration_is_toml() {
        let folder = TempDir::new().unwrap();
        let certificates = Certificates::create(folder.path()).unwrap();
        let ports = free_ports(&Transport::ALL).unwrap();
        let config: toml::Table = causeway_config(
            &ports,
            &certificates,
            Some(Path::new("users")),
            Some(Path::new("data")),
            "maximum_qos = 1",
        )
        .parse()
        .unwrap();
        assert_eq!(config["listener"].as_array().unwrap().len(), 4);
        assert_eq!(config["authentication"]["password_file"].as_str(), Some("users"));
        assert_eq!(config["authentication"]["anonymous"].as_str(), Some("loopback"));
        assert_eq!(config["storage"]["data_directory"].as_str(), Some("data"));
    }

    #[test]
    fn a_quoted_word_is_one_word() {
        assert_eq!(quoted(OsStr::new("it's one")), r"'it'\''s one'");
    }
}
