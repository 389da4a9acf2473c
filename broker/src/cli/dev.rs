//! `causewayd dev`: a broker to try, without a file.
//!
//! Owns the configuration that the options mean, and the hints that are printed. It listens on loopback only.

use std::io::{self, Write, stderr, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::{check, serve};
use crate::config::{
    Admin, Anonymous, Authentication, Config, Listener, Registry, Storage, Tls, Transport, UnknownVehicles, parse,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Port 0 lets the system choose. Keys of the configuration can be set by environment variables: CAUSEWAY_LOG__LEVEL=debug.

Examples:
  causewayd dev
  causewayd dev --port 11883 --ws-port 18083
  causewayd dev --tls-port 8883 --tls-certificate server.crt --tls-key server.key")]
pub(super) struct Options {
    /// The port for MQTT over TCP
    #[arg(long, value_name = "PORT", default_value_t = 1883)]
    port: u16,
    /// The folder of everything that must survive a restart; without it, state is lost when the process ends
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A port for MQTT over WebSocket, too
    #[arg(long, value_name = "PORT")]
    ws_port: Option<u16>,
    /// A port for MQTT over TLS, too
    #[arg(long, value_name = "PORT", requires = "tls_certificate", requires = "tls_key")]
    tls_port: Option<u16>,
    /// The certificate for --tls-port, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// The key of the certificate, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// A port for metrics and health checks, too
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
}

pub(super) fn run(
    options: &Options,
    environment: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<ExitCode> {
    // By way of a file's text, so that the environment and the checks apply as they do to a file.
    let text = toml::to_string(&config(options)).context("cannot write the configuration down")?;
    match parse("causewayd dev", &text, environment) {
        Ok(loaded) => serve::run(loaded.config, |config, started| {
            serve::warn(&loaded.warnings);
            announce(config, started, &mut stdout())
        }),
        Err(problems) => {
            check::print(&problems, &mut stderr())?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn config(options: &Options) -> Config {
    let listener = |transport: Transport, port: u16| Listener {
        name: transport.to_string(),
        bind: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        transport,
        ..Listener::default()
    };
    let tls = match (&options.tls_certificate, &options.tls_key) {
        (Some(certificate_file), Some(key_file)) => Some(Tls {
            certificate_file: certificate_file.clone(),
            key_file: key_file.clone(),
            client_ca_file: None,
            client_certificate: Default::default(),
            crl_file: None,
            crl_unknown: Default::default(),
            min_version: Default::default(),
        }),
        _ => None,
    };
    let plain = Some(listener(Transport::Tcp, options.port));
    let encrypted = options.tls_port.map(|port| Listener { tls, ..listener(Transport::Tls, port) });
    let websocket = options.ws_port.map(|port| listener(Transport::Ws, port));
    Config {
        listener: [plain, encrypted, websocket].into_iter().flatten().collect(),
        authentication: Authentication { anonymous: Anonymous::Loopback, ..Authentication::default() },
        admin: Admin {
            bind: options.admin_port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            ..Admin::default()
        },
        registry: Registry { unknown_vehicles: UnknownVehicles::Register },
        storage: Storage { data_directory: options.data.clone(), ..Storage::default() },
        ..Config::default()
    }
}

fn announce(config: &Config, started: &serve::Started, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Causeway {} for development: everybody on this machine may connect.\n", env!("CARGO_PKG_VERSION"))?;
    for (listener, address) in config.listener.iter().zip(&started.listeners) {
        writeln!(out, "  {}", url(listener, *address))?;
    }
    if let Some(address) = started.admin {
        writeln!(out, "  http://{address}/metrics")?;
    }
    if let Some(port) = started.listeners.first().map(SocketAddr::port) {
        writeln!(out, "\nTry it:\n  mosquitto_sub -p {port} -t 'vehicles/#' -v")?;
        writeln!(out, "  mosquitto_pub -p {port} -t vehicles/1/status -m hello -q 1")?;
    }
    writeln!(out, "\nStop it with Ctrl-C.")?;
    out.flush()
}

fn url(listener: &Listener, address: SocketAddr) -> String {
    match listener.transport {
        Transport::Tcp => format!("mqtt://{address}"),
        Transport::Tls => format!("mqtts://{address}"),
        Transport::Ws => format!("ws://{address}{}", listener.websocket_path),
        Transport::Wss => format!("wss://{address}{}", listener.websocket_path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            port: 1883,
            data: None,
            ws_port: Some(8083),
            tls_port: Some(8883),
            tls_certificate: Some("c".into()),
            tls_key: Some("k".into()),
            admin_port: Some(9883),
        }
    }

    #[test]
    fn the_options_survive_their_text() {
        let config = config(&options());
        let text = toml::to_string(&config).unwrap();
        let loaded = parse("dev", &text, []).map_err(|problems| problems[0].to_string()).unwrap();
        assert_eq!(loaded.config, config);
        assert!(config.listener.iter().all(|listener| listener.anonymous_allowed(&config.authentication)));
    }

    #[test]
    fn it_says_where_it_listens() {
        let config = config(&options());
        let listeners = config.listener.iter().map(|listener| listener.bind).collect();
        let started = serve::Started { listeners, admin: config.admin.bind };
        let mut out = Vec::new();
        announce(&config, &started, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        for line in [
            "  mqtt://127.0.0.1:1883",
            "  mqtts://127.0.0.1:8883",
            "  ws://127.0.0.1:8083/mqtt",
            "  http://127.0.0.1:9883/metrics",
            "  mosquitto_sub -p 1883 -t 'vehicles/#' -v",
        ] {
            assert!(out.lines().any(|said| said == line), "{out}");
        }
    }
}
