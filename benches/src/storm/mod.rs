//! The scenarios `storm` and `storm-control`: vehicles with certificates and wills that all drop and come back at once, and some beside them
//! who are connected all the time.
//!
//! Owns the packets and the identities of both. They are told what to do, line by line, on standard input, so that several processes
//! do it at the same moment, and end with it.

mod control;
mod crowd;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::load::pipe::Target;
use crate::wire;

pub(crate) use control::{Options as ControlOptions, run as run_control};
pub(crate) use crowd::{Options, run};

/// The broker keeps sessions for so long: longer than any storm.
const SESSION_EXPIRY_SECONDS: u32 = 900;
/// Nothing pings: a storm is shorter than this.
const KEEP_ALIVE_SECONDS: u16 = 900;

/// Who the vehicles are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Fleet {
    /// The broker's TLS listener
    #[arg(long)]
    target: SocketAddr,
    /// The certificate of the authority to trust
    #[arg(long, value_name = "FILE")]
    tls: PathBuf,
    /// The vehicles' certificates, in the order of their VINs
    #[arg(long, value_name = "FILE")]
    certificates: PathBuf,
    /// The key of all of them
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Their VINs, one a line
    #[arg(long, value_name = "FILE")]
    vins: PathBuf,
}

/// One vehicle.
#[derive(Debug)]
struct Vehicle {
    vin: String,
    target: Target,
}

impl Fleet {
    fn vehicles(&self) -> Result<Vec<Vehicle>> {
        let vins = std::fs::read_to_string(&self.vins).with_context(|| shown(&self.vins))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.tls)? {
            roots.add(certificate)?;
        }
        let (roots, chain) = (Arc::new(roots), certificates(&self.certificates)?);
        ensure!(chain.len() == vins.lines().count(), "each VIN needs a certificate");
        let key = PrivateKeyDer::from_pem_file(&self.key).with_context(|| shown(&self.key))?;
        let vehicle = |(vin, certificate): (&str, CertificateDer<'static>)| {
            let builder = ClientConfig::builder().with_root_certificates(Arc::clone(&roots));
            let mut config = builder.with_client_auth_cert(vec![certificate], key.clone_key())?;
            config.resumption = Resumption::disabled();
            let target = Target { address: self.target, tls: Some(Arc::new(config)) };
            Ok(Vehicle { vin: vin.to_owned(), target })
        };
        vins.lines().zip(chain).map(vehicle).collect()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).with_context(|| shown(path))?;
    read.collect::<Result<_, _>>().with_context(|| shown(path))
}

fn shown(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

/// CONNECT of MQTT 5 that goes on with its session, with a will that is sent after so many seconds.
fn connect_with_will(out: &mut Vec<u8>, client_id: &str, will_delay_seconds: u32) {
    const WITH_WILL: u8 = 0x04;
    let mut body = Vec::with_capacity(64);
    wire::push_text(&mut body, "MQTT");
    body.extend([5, WITH_WILL]);
    body.extend(KEEP_ALIVE_SECONDS.to_be_bytes());
    body.extend([5, 0x11]);
    body.extend(SESSION_EXPIRY_SECONDS.to_be_bytes());
    wire::push_text(&mut body, client_id);
    body.extend([5, 0x18]);
    body.extend(will_delay_seconds.to_be_bytes());
    wire::push_text(&mut body, "will");
    wire::push_text(&mut body, "gone");
    wire::push_packet(out, wire::first::CONNECT, &body);
}

/// The lines of standard input, as they come; it ends with them.
fn commands() -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
