//! The brokers that are compared.
//!
//! Owns how each is configured, from the files in `benches/peers/`, and its
//! process: bound to one core, and killed when dropped.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// How long a broker may take until it accepts.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How often to ask whether it accepts.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// A product, and how it is run.
#[derive(Debug)]
struct Product {
    name: &'static str,
    /// Its program, where none is given.
    program: &'static str,
    config_file: &'static str,
    config: &'static str,
    /// What comes before the configuration's path.
    arguments: &'static [&'static str],
}

const PRODUCTS: &[Product] = &[
    Product {
        name: "causeway",
        program: "causewayd",
        config_file: "causeway.toml",
        config: include_str!("../../peers/causeway.toml"),
        arguments: &["run", "--config"],
    },
    Product {
        name: "mosquitto",
        program: "mosquitto",
        config_file: "mosquitto.conf",
        config: include_str!("../../peers/mosquitto.conf"),
        arguments: &["-c"],
    },
    Product {
        name: "flashmq",
        program: "flashmq",
        config_file: "flashmq.conf",
        config: include_str!("../../peers/flashmq.conf"),
        arguments: &["--config-file"],
    },
    Product {
        name: "rumqttd",
        program: "rumqttd",
        config_file: "rumqttd.toml",
        config: include_str!("../../peers/rumqttd.toml"),
        arguments: &["--config"],
    },
];

/// A broker to compare: `NAME` or `NAME=PATH`; `causeway:2` is Causeway with two shards, on two cores.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its name in tables: the product's, perhaps followed by something that tells it apart.
    pub(crate) name: String,
    product: &'static Product,
    program: PathBuf,
    /// Of Causeway; each has a core.
    shards: usize,
}

impl Peer {
    /// Whether it is this repository's.
    pub(crate) fn is_causeway(&self) -> bool {
        self.product.name == "causeway"
    }
}

impl FromStr for Peer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').map_or((text, None), |(name, path)| (name, Some(path)));
        let product = PRODUCTS.iter().find(|product| name.starts_with(product.name));
        let names: Vec<&str> = PRODUCTS.iter().map(|product| product.name).collect();
        let product =
            product.with_context(|| format!("no broker's name begins like {name}; known are {}", names.join(", ")))?;
        let program = path.map_or_else(|| found(product.program), PathBuf::from);
        let shards = name.split_once(':').map_or(Ok(1), |(_, shards)| shards.parse());
        let shards = shards.with_context(|| format!("in {name}, a number of shards belongs behind the colon"))?;
        Ok(Self { name: name.to_owned(), product, program, shards })
    }
}

/// A program beside this one, among the system's, or else wherever the shell finds it.
fn found(program: &str) -> PathBuf {
    let own = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(program)));
    let system = Path::new("/usr/sbin").join(program);
    own.into_iter().chain([system]).find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(program))
}

/// What a broker needs for TLS: a folder with `server.pem` and `server.key`, and `authority.pem` for its clients.
#[derive(Debug, Clone)]
pub(crate) struct Identity(pub(crate) PathBuf);

impl Identity {
    /// The file that clients trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.0.join("authority.pem")
    }
}

/// A broker that runs; killed and reaped when dropped, and its folder removed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    folder: PathBuf,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) web_socket: SocketAddr,
}

impl Running {
    /// Starts a broker on one core, with a folder of its own in `scratch`, and waits until it accepts. This thread must
    /// be bound to `own_core`, and is so again afterwards.
    ///
    /// # Errors
    /// When it cannot be started, ends or accepts nobody within half a minute.
    pub(crate) fn start(
        peer: &Peer,
        scratch: &Path,
        identity: Option<&Identity>,
        core: usize,
        own_core: usize,
    ) -> Result<Self> {
        let folder = scratch.join(format!("{}-{}", peer.name.replace(':', "-"), std::process::id()));
        std::fs::create_dir_all(folder.join("data")).with_context(|| format!("cannot make {}", folder.display()))?;
        // Some programs read paths relative to somewhere else.
        let folder = folder.canonicalize()?;
        let [plain, tls, web_socket] = free_addresses()?;
        let ports = [plain, tls, web_socket].map(|address| address.port());
        let config = configured(peer.product.config, &folder.join("data"), ports, identity);
        let config_path = folder.join(peer.product.config_file);
        std::fs::write(&config_path, config)?;
        let log = File::create(folder.join("output.log"))?;
        process::open_all_files();
        // What is started inherits the core: all its threads stay there.
        process::bind_to_cores(core..core + peer.shards)?;
        // The folder it runs in is another than this one.
        let program = peer.program.canonicalize().unwrap_or_else(|_| peer.program.clone());
        let child = Command::new(&program)
            .args(peer.product.arguments)
            .arg(&config_path)
            .env("CAUSEWAY_BROKER__SHARDS", peer.shards.to_string())
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()));
        process::bind_to_core(own_core)?;
        let mut running = Self { child: child?, folder, plain, tls, web_socket };
        running.wait_until_it_accepts(identity.is_some())?;
        Ok(running)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_accepts(&mut self, has_tls: bool) -> Result<()> {
        let began = Instant::now();
        let addresses = [Some(self.plain), Some(self.web_socket), has_tls.then_some(self.tls)];
        while addresses.iter().flatten().any(|address| TcpStream::connect(address).is_err()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the broker has ended ({status}); it said: {}", self.said());
            }
            if began.elapsed() > START_DEADLINE {
                bail!("the broker accepts nobody; it said: {}", self.said());
            }
            // Nothing announces an open port: ask again, gently.
            std::thread::sleep(ASK_EVERY);
        }
        Ok(())
    }

    fn said(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("output.log")).unwrap_or_default();
        text.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is as good as killed; what cannot be removed is only in the way.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Addresses nobody listens on. All are held until all are known, so that they differ.
fn free_addresses() -> Result<[SocketAddr; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [bind()?, bind()?, bind()?];
    Ok([held[0].local_addr()?, held[1].local_addr()?, held[2].local_addr()?])
}

/// A configuration with its blanks filled in. Lines that begin with `{tls}` are for those who have an identity.
fn configured(text: &str, data: &Path, [port, tls_port, ws_port]: [u16; 3], identity: Option<&Identity>) -> String {
    let file = |name: &str| identity.map_or_else(String::new, |identity| identity.0.join(name).display().to_string());
    let lines = text.lines().filter(|line| identity.is_some() || !line.starts_with("{tls}"));
    let text: String = lines.map(|line| format!("{}\n", line.trim_start_matches("{tls}"))).collect();
    text.replace("{port}", &port.to_string())
        .replace("{tls_port}", &tls_port.to_string())
        .replace("{ws_port}", &ws_port.to_string())
        .replace("{data}", &data.display().to_string())
        .replace("{files}", &process::files_max().to_string())
        .replace("{certificate}", &file("server.pem"))
        .replace("{key}", &file("server.key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_blank_is_left() {
        for product in PRODUCTS {
            for identity in [None, Some(Identity(PathBuf::from("certificates")))] {
                let text = configured(product.config, Path::new("data"), [1, 2, 3], identity.as_ref());
                for blank in
                    ["{tls}", "{port}", "{tls_port}", "{ws_port}", "{data}", "{files}", "{certificate}", "{key}"]
                {
                    assert!(!text.contains(blank), "{blank} in {text}");
                }
                assert_eq!(text.contains("server.key"), identity.is_some());
            }
        }
    }

    #[test]
    fn a_name_may_tell_versions_apart() {
        let peer: Peer = "mosquitto-2.1=some/where".parse().unwrap();
        assert_eq!((peer.name.as_str(), peer.product.name), ("mosquitto-2.1", "mosquitto"));
        assert_eq!(peer.program, Path::new("some/where"));
        assert!("nobody".parse::<Peer>().is_err());
    }
}
