//! Whether a configuration makes sense as a whole.
//!
//! Owns the rules that concern several keys, or the files that keys name. Each key alone has been checked against the schema.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use causeway_protocol::{check_topic_filter, parse_shared};
use causeway_storage::LayoutError;

use super::problem::{Place, Problem, Severity};
use super::schema::quoted;
use super::{ClientCertificate, Config, Durability, Listener, ProxyProtocol, Tls};
use crate::admin::token_file::TokenFile;
use crate::auth::{PasswordFile, TokenKeys};
use crate::data_directory::{StorageError, examine};
use crate::est;
use crate::tls::ListenerTls;

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// At the configuration only.
    Meaning,
    /// At the files it names, too.
    Files,
}

/// Something found, with the path of its key.
pub(super) struct Finding {
    severity: Severity,
    path: String,
    message: String,
}

impl Finding {
    pub(super) fn at(self, place: impl FnOnce(&str) -> Place) -> Problem {
        Problem { severity: self.severity, place: place(&self.path), message: self.message }
    }
}

fn error(path: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { severity: Severity::Error, path: path.into(), message: message.into() }
}

fn warning(path: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, path: path.into(), message: message.into() }
}

pub(super) fn check(config: &Config, depth: Depth) -> Vec<Finding> {
    let mut found = Vec::new();
    if config.listener.is_empty() {
        found.push(error("", "there is no [[listener]]: clients could not connect anywhere"));
    }
    check_names(config, &mut found);
    check_binds(config, &mut found);
    for (index, listener) in config.listener.iter().enumerate() {
        let path = format!("listener[{index}]");
        check_login(config, listener, &path, &mut found);
        check_proxy(listener, &path, &mut found);
        check_tls(listener, &path, depth, &mut found);
    }
    check_limits(config, &mut found);
    if let Err(wrong) = config.shadow.fields() {
        found.push(error("shadow.index", wrong.to_string()));
    }
    check_admin(config, depth, &mut found);
    check_enrolment(config, depth, &mut found);
    check_storage(config, depth, &mut found);
    check_audit(config, &mut found);
    if depth == Depth::Files {
        check_password_file(config, &mut found);
        check_policy_file(config, &mut found);
        check_token_keys(config, &mut found);
    }
    found
}

fn check_names(config: &Config, found: &mut Vec<Finding>) {
    let mut seen = BTreeMap::new();
    for (index, listener) in config.listener.iter().enumerate() {
        if let Some(first) = seen.insert(&listener.name, index) {
            let message = format!("listener[{first}] has the name {:?} already", listener.name);
            found.push(error(format!("listener[{index}].name"), message));
        }
    }
}

fn check_binds(config: &Config, found: &mut Vec<Finding>) {
    let listeners = config.listener.iter().enumerate();
    let mut binds: Vec<_> =
        listeners.map(|(index, listener)| (format!("listener[{index}].bind"), listener.bind)).collect();
    binds.extend(config.admin.bind.map(|bind| ("admin.bind".to_owned(), bind)));
    binds.extend(config.enrolment.bind.map(|bind| ("enrolment.bind".to_owned(), bind)));
    for (index, (path, bind)) in binds.iter().enumerate() {
        if let Some((first, other)) = binds[..index].iter().find(|(_, other)| overlap(*bind, *other)) {
            found.push(error(path, format!("{bind} cannot be bound together with {other} of {first}")));
        }
    }
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let same_address = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_family && same_address
}

/// Deny by default: who is let in has to be said, and somebody has to be.
fn check_login(config: &Config, listener: &Listener, path: &str, found: &mut Vec<Finding>) {
    let anonymous = listener.anonymous_allowed(&config.authentication);
    let users = config.authentication.password_file.is_some() || config.authentication.jwt.is_some();
    let name = &listener.name;
    let public = !listener.is_loopback();
    if !anonymous && !users && !listener.asks_for_certificates() {
        let scope = if public { ", which is not a loopback address" } else { "" };
        found.push(error(
            path,
            format!(
                "nobody could log in at the listener {name:?}: it is bound to {}{scope}, anonymous clients are not \
                 allowed, and there is no authentication.password_file. Set one (or authentication.jwt, or have clients show \
                 certificates), or allow everybody with anonymous = \"always\"",
                listener.bind
            ),
        ));
    }
    let required = listener.tls.as_ref().is_some_and(|tls| tls.client_certificate == ClientCertificate::Required);
    if public && anonymous && !required {
        let message =
            format!("the listener {name:?} lets everybody who reaches {} in, without credentials", listener.bind);
        found.push(warning(format!("{path}.anonymous"), message));
    }
    let in_the_clear = !listener.transport.is_encrypted() && listener.proxy_protocol == ProxyProtocol::Off;
    if public && users && in_the_clear {
        let message = format!("passwords travel unencrypted to the listener {name:?}: use the transport tls or wss");
        found.push(warning(format!("{path}.transport"), message));
    }
}

fn check_proxy(listener: &Listener, path: &str, found: &mut Vec<Finding>) {
    let on = listener.proxy_protocol != ProxyProtocol::Off;
    if !on && !listener.proxy_trusted.is_empty() {
        let message = "proxy_trusted has no effect while proxy_protocol is \"off\"";
        found.push(warning(format!("{path}.proxy_trusted"), message));
    }
    if on && listener.proxy_trusted.is_empty() && !listener.is_loopback() {
        let message = "without proxy_trusted, everybody can claim any address in a PROXY header";
        found.push(warning(format!("{path}.proxy_protocol"), message));
    }
}

fn check_tls(listener: &Listener, path: &str, depth: Depth, found: &mut Vec<Finding>) {
    let transport = listener.transport;
    match (&listener.tls, transport.is_encrypted()) {
        (None, false) => {}
        (None, true) => found.push(error(
            format!("{path}.transport"),
            format!("the transport {transport} needs a [listener.tls] with certificate_file and key_file"),
        )),
        (Some(_), false) => found.push(error(
            format!("{path}.tls"),
            format!("the transport {transport} has no TLS: use tls or wss, or remove [listener.tls]"),
        )),
        (Some(tls), true) => {
            let path = format!("{path}.tls");
            check_client_certificates(tls, &path, found);
            if depth == Depth::Files {
                check_certificates(tls, transport.is_websocket(), &path, found);
            }
        }
    }
}

fn check_client_certificates(tls: &Tls, path: &str, found: &mut Vec<Finding>) {
    let asked = tls.client_certificate != ClientCertificate::None;
    match &tls.client_ca_file {
        None if asked => {
            let message = "client certificates cannot be verified without client_ca_file";
            found.push(error(format!("{path}.client_certificate"), message));
        }
        Some(_) if !asked => {
            let message = "client_ca_file has no effect while client_certificate is \"none\"";
            found.push(warning(format!("{path}.client_ca_file"), message));
        }
        _ => {}
    }
    if tls.crl_file.is_some() && !asked {
        let message = "crl_file has no effect while client_certificate is \"none\"";
        found.push(warning(format!("{path}.crl_file"), message));
    }
}

/// First each file alone, so that the place is the key's; then all as the listener loads them.
fn check_certificates(tls: &Tls, websocket: bool, path: &str, found: &mut Vec<Finding>) {
    let certificate = ("certificate_file", Some(&tls.certificate_file));
    let authorities = ("client_ca_file", tls.client_ca_file.as_ref());
    let revoked = ("crl_file", tls.crl_file.as_ref());
    let mut readable = true;
    for (key, file) in [certificate, ("key_file", Some(&tls.key_file)), authorities, revoked] {
        if let Some((file, wrong)) = file.and_then(|file| Some((file, File::open(file).err()?))) {
            readable = false;
            found.push(error(format!("{path}.{key}"), format!("{}: {wrong}", file.display())));
        }
    }
    let complete = tls.client_certificate == ClientCertificate::None || tls.client_ca_file.is_some();
    if let (true, true, Err(wrong)) = (readable, complete, ListenerTls::load(tls.clone(), websocket)) {
        found.push(error(path, wrong.to_string()));
    }
}

fn check_limits(config: &Config, found: &mut Vec<Finding>) {
    let limits = &config.limits;
    let packet = limits.packet_bytes_max as usize;
    for (key, bytes) in
        [("session_queue_bytes_max", limits.session_queue_bytes_max), ("retained_bytes_max", limits.retained_bytes_max)]
    {
        if bytes < packet {
            let message = format!("a packet of packet_bytes_max = {packet} bytes would never fit into {key} = {bytes}");
            found.push(warning(format!("limits.{key}"), message));
        }
    }
    let shards = config.broker.shards;
    for (key, whole) in [("connections_max", limits.connections_max), ("sessions_max", limits.sessions_max)] {
        if whole < shards {
            let message =
                format!("each of {shards} shards needs at least one, and {key} = {whole} is divided among them");
            found.push(error(format!("limits.{key}"), message));
        }
    }
    for (index, filter) in limits.urgent_topics.iter().enumerate() {
        let why = match (check_topic_filter(filter, limits.topic_levels_max), parse_shared(filter)) {
            (Err(error), _) | (_, Err(error)) => error.to_string(),
            (Ok(()), Ok(Some(_))) => {
                "a shared subscription has messages of any topic: give the filter alone".to_owned()
            }
            (Ok(()), Ok(None)) => continue,
        };
        found.push(error(format!("limits.urgent_topics[{index}]"), format!("{filter:?} is no topic filter: {why}")));
    }
}

fn check_admin(config: &Config, depth: Depth, found: &mut Vec<Finding>) {
    let admin = &config.admin;
    let Some(bind) = admin.bind else {
        if admin.has_credentials() || admin.tls.is_some() {
            found.push(warning("admin", "token_file and tls have no effect without admin.bind"));
        }
        return;
    };
    if !bind.ip().to_canonical().is_loopback() {
        check_public_admin(config, bind, found);
    }
    if let Some(path) = admin.token_file.as_ref().filter(|_| depth == Depth::Files) {
        check_token_file(path, found);
    }
    if let Some(tls) = admin.tls.as_ref().filter(|_| depth == Depth::Files) {
        check_certificates(&tls.to_listener(), true, "admin.tls", found);
    }
}

fn check_public_admin(config: &Config, bind: SocketAddr, found: &mut Vec<Finding>) {
    found.push(warning("admin.bind", format!("everybody who reaches {bind} can read the metrics")));
    if !config.admin.has_credentials() {
        let message = format!(
            "{bind} is not a loopback address, and there is neither admin.token_file nor admin.tls.client_ca_file: backups and the \
             registry cannot be used there"
        );
        found.push(warning("admin.bind", message));
    }
    if config.admin.token_file.is_some() && config.admin.tls.is_none() {
        let message = format!("tokens travel unencrypted to {bind}: set [admin.tls]");
        found.push(warning("admin.token_file", message));
    }
}

fn check_token_file(path: &Path, found: &mut Vec<Finding>) {
    const PATH: &str = "admin.token_file";
    match TokenFile::load(path) {
        Err(wrong) if wrong.kind() == std::io::ErrorKind::NotFound => {
            let shown = path.display();
            let hint =
                format!("{wrong}. Make the first token with: causewayd admin-token {shown} add NAME --role write");
            found.push(error(PATH, hint));
        }
        Err(wrong) => found.push(error(PATH, wrong.to_string())),
        Ok(file) if file.tokens.is_empty() => {
            found.push(warning(PATH, format!("there is no token in {}", path.display())));
        }
        Ok(_) => {}
    }
}

fn check_enrolment(config: &Config, depth: Depth, found: &mut Vec<Finding>) {
    let enrolment = &config.enrolment;
    let files = [
        ("authority_directory", &enrolment.authority_directory),
        ("certificate_file", &enrolment.certificate_file),
        ("key_file", &enrolment.key_file),
    ];
    if enrolment.bind.is_none() {
        for (key, _) in files.iter().filter(|(_, file)| file.is_some()) {
            found.push(warning(format!("enrolment.{key}"), format!("{key} has no effect without enrolment.bind")));
        }
        return;
    }
    let missing: Vec<_> = files.iter().filter(|(_, file)| file.is_none()).map(|(key, _)| *key).collect();
    if !missing.is_empty() {
        found.push(error("enrolment.bind", format!("enrolment.bind needs {}, too", quoted(&missing))));
    } else if depth == Depth::Files
        && let Err(wrong) = est::open(enrolment)
    {
        found.push(error("enrolment", wrong.to_string()));
    }
    if !enrolment.known_vehicles_only {
        let message = "whoever has a claim certificate gets one for any VIN that the registry does not know";
        found.push(warning("enrolment.known_vehicles_only", message));
    }
}

fn check_storage(config: &Config, depth: Depth, found: &mut Vec<Finding>) {
    let storage = &config.storage;
    let Some(folder) = &storage.data_directory else {
        found.push(warning(
            "storage",
            "without storage.data_directory, nothing is kept on disk: sessions, queued and retained messages are lost when the \
             process ends, acknowledged or not",
        ));
        return;
    };
    if folder.exists() && !folder.is_dir() {
        found.push(error("storage.data_directory", format!("{} is not a folder", folder.display())));
    } else if depth == Depth::Files && folder.exists() {
        check_shards(config, folder, found);
    }
    if storage.durability == Durability::Os {
        found.push(warning(
            "storage.durability",
            "with durability = \"os\", messages that were acknowledged are lost when the machine crashes or loses power",
        ));
    }
}

fn check_audit(config: &Config, found: &mut Vec<Finding>) {
    let Some(folder) = &config.audit.directory else { return };
    if config.storage.data_directory.as_ref() == Some(folder) {
        let message = "the audit log needs a folder of its own; one in the data directory will do";
        found.push(error("audit.directory", message));
    } else if folder.exists() && !folder.is_dir() {
        found.push(error("audit.directory", format!("{} is not a folder", folder.display())));
    }
}

fn check_shards(config: &Config, folder: &Path, found: &mut Vec<Finding>) {
    match examine(folder, config.broker.shards as u32) {
        Ok(_) => {}
        // Whoever checks need not be who runs the broker, whose folder it is.
        Err(StorageError::Layout { source: LayoutError::Io(_), .. }) => {}
        Err(wrong) => found.push(error("storage.data_directory", wrong.to_string())),
    }
}

/// Only that there is one to read: what stands in it has places of its own.
fn check_policy_file(config: &Config, found: &mut Vec<Finding>) {
    let wrong = config.policy.file.as_ref().and_then(|file| Some((file, File::open(file).err()?)));
    if let Some((file, wrong)) = wrong {
        found.push(error("policy.file", format!("{}: {wrong}", file.display())));
    }
}

fn check_password_file(config: &Config, found: &mut Vec<Finding>) {
    const PATH: &str = "authentication.password_file";
    let Some(file) = &config.authentication.password_file else {
        return;
    };
    let shown = file.display();
    match PasswordFile::load(file) {
        Err(wrong) if wrong.is_not_found() => {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
            let folder = folder.map(|folder| format!("mkdir -p {} && ", folder.display())).unwrap_or_default();
            let hint = format!("{wrong}. Add the first user with: {folder}causewayd passwd {shown} add USER");
            found.push(error(PATH, hint));
        }
        Err(wrong) => found.push(error(PATH, wrong.to_string())),
        Ok(users) if users.users.is_empty() => found.push(warning(PATH, format!("there is no user in {shown}"))),
        Ok(_) => {}
    }
    if fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0) {
        found.push(warning(PATH, format!("everybody on this machine can read {shown}: chmod o-r {shown}")));
    }
}

fn check_token_keys(config: &Config, found: &mut Vec<Finding>) {
    if let Some(Err(wrong)) = config.authentication.jwt.as_ref().map(|jwt| TokenKeys::load(&jwt.keys_file)) {
        found.push(error("authentication.jwt.keys_file", wrong.to_string()));
    }
}
