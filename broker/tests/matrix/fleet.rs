//! The broker of the matrix, and those who connect to it: the daemon, with certificates, registry and policy made by its own commands.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::client::Client;
use super::rows;
use crate::support::{dial, eventually};

pub const V1: &str = "WVWZZZ1JZ3W386752";
pub const V2: &str = "1M8GDM9AXKP042788";
/// Each vehicle, and its groups.
pub const VEHICLES: [(&str, &str, &[&str]); 2] = [("v1", V1, &["eu", "ring-1"]), ("v2", V2, &["us"])];

pub struct Fleet {
    folder: tempfile::TempDir,
    daemon: Child,
    tls: SocketAddr,
    plain: SocketAddr,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn causewayd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causewayd"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) {
    let output = causewayd(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "causewayd {}: {told}", arguments.join(" "));
}

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

impl Fleet {
    pub fn start() -> Fleet {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (pki, config) = (at("pki"), at("causeway.toml"));
        run(&["pki", "init", &pki]);
        run(&["pki", "server", &pki, "--name", "localhost"]);
        for service in ["analytics", "ota"] {
            run(&["pki", "service", &pki, service]);
        }
        run(&["pki", "operator", &pki, "olga"]);
        std::fs::copy(rows::path("policy.toml"), at("policy.toml")).unwrap();
        let (tls, plain) = (free_port(), free_port());
        std::fs::write(&config, settings(tls, plain)).unwrap();
        for (_, vin, groups) in VEHICLES {
            run(&["pki", "vehicle", &pki, vin]);
            groups.iter().for_each(|group| run(&["group", "add", group, "--config", &config]));
            let mut arguments = vec!["vehicle", "add", vin, "--state", "active", "--config", &config];
            groups.iter().for_each(|group| arguments.extend(["--group", group]));
            run(&arguments);
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let daemon = causewayd(&["run", "--config", &config]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let fleet = Fleet { folder, daemon, tls, plain };
        eventually("the daemon listens", || std::net::TcpStream::connect(fleet.plain).is_ok());
        fleet
    }

    /// The last lines of the daemon's log.
    pub fn log(&self) -> String {
        let log = BufReader::new(std::fs::File::open(self.folder.path().join("log")).unwrap());
        let lines: Vec<String> = log.lines().map_while(Result::ok).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// A client identifier that this one may have.
    pub fn client_id(&self, who: &str, suffix: &str) -> String {
        match VEHICLES.iter().find(|(name, ..)| *name == who) {
            Some((_, vin, _)) => format!("{vin}/{suffix}"),
            None => format!("{who}-{suffix}"),
        }
    }

    /// A new connection, proven by certificate but for a guest's.
    pub fn dial(&self, who: &str) -> Client {
        let vehicle = VEHICLES.iter().find(|(name, ..)| *name == who).map(|(_, vin, _)| ("vehicles", *vin));
        let (kind, name) = match who {
            "guest" => return Client::new(Box::new(dial(self.plain))),
            "olga" => ("operators", "olga"),
            service => vehicle.unwrap_or(("services", service)),
        };
        let pki = self.folder.path().join("pki");
        let config = client_config(&pki.join("ca.crt"), &pki.join(kind).join(name));
        let server = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::new(config), server).unwrap();
        Client::new(Box::new(StreamOwned::new(session, dial(self.tls))))
    }
}

/// Of a client whose certificate and key are at `pair`, with `.crt` and `.key`.
fn client_config(authority: &Path, pair: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let file = |ending: &str| PathBuf::from(format!("{}.{ending}", pair.display()));
    let chain = CertificateDer::pem_file_iter(file("crt")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap()
}

fn settings(tls: SocketAddr, plain: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"tls\"\nbind = \"{tls}\"\ntransport = \"tls\"\nanonymous = \"never\"\n\
         [listener.tls]\ncertificate_file = \"pki/servers/localhost.crt\"\nkey_file = \"pki/servers/localhost.key\"\n\
         client_ca_file = \"pki/ca.crt\"\nclient_certificate = \"required\"\n\
         [[listener]]\nname = \"guests\"\nbind = \"{plain}\"\ntransport = \"tcp\"\nanonymous = \"always\"\n\
         [policy]\nfile = \"policy.toml\"\n\
         [registry]\nunknown_vehicles = \"refuse\"\n\
         [storage]\ndata_directory = \"data\"\n"
    )
}
