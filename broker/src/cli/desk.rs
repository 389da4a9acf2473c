//! Where questions to the registry go: to the broker that runs, or to the data directory of one that does not.
//!
//! Owns the choice. What is asked and answered is the same: in a folder, this process answers as the broker would.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use causeway_storage::disk::{FileLock, LockError, lock_alone};
use clap::Args;
use serde_json::Value;

use super::http::{Client, Credentials};
use crate::admin::api::{self, Request};
use crate::config::{CONFIG_VARIABLE, Config, Depth, load_to};
use crate::data_directory::LOCK_NAME;
use crate::registry::{REGISTRY_FILE, Registry, now_ms};

/// Where the administration listener is in the sample configuration.
const ADMIN_URL_DEFAULT: &str = "http://127.0.0.1:9883";
/// Entries that are asked for at once.
const PAGE: usize = 1000;

/// Whom to ask.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    /// The administration listener of the broker that runs
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    admin: Option<String>,
    /// The data directory of a broker that is stopped
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The broker's configuration file: its data directory while it is stopped, its administration listener while it runs
    #[arg(long, short, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
    #[command(flatten)]
    credentials: Credentials,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Which broker, that runs.
#[derive(Debug, Clone, Args)]
pub(super) struct Running {
    /// The administration listener of the broker [default: that of --config, else http://127.0.0.1:9883]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The broker's configuration file, which says where its administration listener is
    #[arg(long, short, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
    #[command(flatten)]
    credentials: Credentials,
}

impl Running {
    /// Whoever answers there.
    ///
    /// # Errors
    /// The file is wrong, or names no listener.
    pub(super) fn client(&self, environment: Vec<(String, String)>) -> anyhow::Result<Client> {
        let url = match (&self.admin, &self.config) {
            (Some(url), _) => url.clone(),
            (None, None) => ADMIN_URL_DEFAULT.to_owned(),
            (None, Some(file)) => {
                let config = load_config(file, environment)?;
                admin_url(&config).with_context(|| format!("{} has no admin.bind to ask at", file.display()))?
            }
        };
        Client::new(&url, &self.credentials)
    }
}

/// Whoever answers.
pub(super) enum Desk {
    Broker(Client),
    Folder { registry: Box<Registry>, _lock: FileLock },
}

impl Desk {
    /// Finds out who answers.
    ///
    /// # Errors
    /// Nobody is named, or who is named does not answer.
    pub(super) fn open(target: &Target, environment: Vec<(String, String)>) -> anyhow::Result<Desk> {
        if let Some(url) = &target.admin {
            return Ok(Desk::Broker(Client::new(url, &target.credentials)?));
        }
        if let Some(data) = &target.data {
            if !data.is_dir() {
                bail!("{} is no folder", data.display());
            }
            return Desk::folder(data)?.map_err(|holder| {
                anyhow::anyhow!(
                    "{} is in use by {holder}: give --admin with the URL of its administration listener instead of --data",
                    data.display()
                )
            });
        }
        let Some(file) = &target.config else {
            bail!(
                "say whom to ask: --config FILE of the broker, --admin URL while it runs, or --data DIR while it is stopped"
            );
        };
        Desk::of(&load_config(file, environment)?, target)
    }

    /// The data directory where nobody has it; else the broker that has it.
    fn of(config: &Config, target: &Target) -> anyhow::Result<Desk> {
        let Some(data) = &config.storage.data_directory else {
            return match admin_url(config) {
                Some(url) => Ok(Desk::Broker(Client::new(&url, &target.credentials)?)),
                None => bail!("this broker has no storage.data_directory, and so no registry that stays"),
            };
        };
        match Desk::folder(data)? {
            Ok(desk) => Ok(desk),
            Err(holder) => match admin_url(config) {
                Some(url) => Ok(Desk::Broker(Client::new(&url, &target.credentials)?)),
                None => bail!(
                    "{} is in use by {holder}, which has no admin.bind to ask at: stop it first, or set admin.bind",
                    data.display()
                ),
            },
        }
    }

    /// The data directory; who has it, where somebody does.
    fn folder(data: &Path) -> anyhow::Result<Result<Desk, String>> {
        if !data.exists() {
            std::fs::create_dir_all(data).with_context(|| data.display().to_string())?;
        }
        let lock = match lock_alone(&data.join(LOCK_NAME)) {
            Ok(lock) => lock,
            Err(LockError::Held { holder, .. }) => return Ok(Err(holder)),
            Err(LockError::Io(error)) => return Err(error.into()),
        };
        let registry = Box::new(Registry::open(data)?);
        give_to_owner(data);
        Ok(Ok(Desk::Folder { registry, _lock: lock }))
    }

    /// What is answered.
    ///
    /// # Errors
    /// It does not go, and why; or nobody answers.
    pub(super) fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        if target.split(['?', '&']).next().is_some_and(|path| path.ends_with('/') || path.contains("//")) {
            bail!("a name is empty");
        }
        let body = body.map(Value::to_string);
        match self {
            Desk::Broker(client) => client.ask(method, target, body.as_deref())?.json(),
            Desk::Folder { registry, .. } => {
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let body = body.unwrap_or_default();
                let request = Request { method, path, query, body: body.as_bytes(), now_ms: now_ms() };
                let answer = api::handle(registry, &request);
                let said = answer.body.unwrap_or_default();
                match answer.status {
                    200..=299 => Ok(said),
                    _ => bail!("{}", said["detail"].as_str().unwrap_or("it does not go")),
                }
            }
        }
    }

    /// The entries of a list, page after page, until there are so many.
    ///
    /// # Errors
    /// As [`ask`](Desk::ask).
    pub(super) fn list(&self, path: &str, query: &str, name: &str, max: usize) -> anyhow::Result<Vec<Value>> {
        let (mut entries, mut after) = (Vec::new(), String::new());
        while entries.len() < max {
            let limit = PAGE.min(max - entries.len());
            let page = self.ask("GET", &format!("{path}?limit={limit}{query}{after}"), None)?;
            entries.extend(page[name].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={}", api::encoded(next)),
                None => break,
            }
        }
        Ok(entries)
    }
}

fn load_config(file: &Path, environment: Vec<(String, String)>) -> anyhow::Result<Config> {
    let loaded = load_to(file, environment, Depth::Meaning);
    let loaded = loaded.map_err(|problems| {
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("{}", first.trim_end())
    })?;
    Ok(loaded.config)
}

/// Where the broker of this configuration listens for operators, from this machine.
fn admin_url(config: &Config) -> Option<String> {
    let mut bind = config.admin.bind.filter(|bind| bind.port() != 0)?;
    if bind.ip().is_unspecified() {
        bind.set_ip(if bind.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let scheme = if config.admin.tls.is_some() { "https" } else { "http" };
    Some(format!("{scheme}://{bind}"))
}

/// Files that an administrator made in the broker's folder are the broker's.
fn give_to_owner(data: &Path) {
    let Ok(owner) = std::fs::metadata(data) else { return };
    for name in [REGISTRY_FILE, LOCK_NAME] {
        let file = data.join(name);
        if std::fs::metadata(&file).is_ok_and(|file| file.uid() != owner.uid()) {
            // Only who may give files away can have made one of another owner here.
            let _ = chown(&file, Some(owner.uid()), Some(owner.gid()));
        }
    }
}
