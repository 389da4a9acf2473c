//! The running broker: listeners, front door and shards, from start to farewell.
//!
//! Owns the order in which they start and stop. It never touches a packet.

mod ahead;
mod asks;
mod backups;
mod certificates;
mod counters;
mod history;
mod links;
mod log_report;
mod notices;
mod observed;
mod policy;
mod rights;
mod search;
mod shards;
mod twins;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_core::{GroupRequest, Limits};
use causeway_fleet::policy::Policy;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::Socket;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::audit::{Audit, AuditError, AuditEvent, Decision, What};
use crate::auth::{Authenticator, hashing};
use crate::config::{Config, PolicyError};
use crate::data_directory::DataDirectory;
use crate::frontdoor::{FrontDoor, greet};
use crate::identity::Admission;
use crate::jobs::{JobParts, Jobs, StoreError};
use crate::listener::{Listener, Sockets, accept_all, bind, listen};
use crate::registry::{Registry, RegistryError};
use crate::shard_loop::ShardParts;
use crate::tls::ListenerTls;
use crate::turnstile::{Allowances, Turnstile};

pub use crate::data_directory::StorageError;
pub use crate::home_shard::home_shard;
pub use crate::shard_loop::ShardError;
pub use crate::tls::TlsError;
use ahead::Ahead;
pub use asks::{AskError, Asks};
pub(crate) use asks::{AskInbox, AskSender, Asked, ask_channel};
pub(crate) use backups::Wanted;
pub use backups::{Backups, Made, NoBackup};
use certificates::Certificates;
pub(crate) use certificates::reload_keys;
pub use counters::{Counter, EdgeCounters};
pub use history::{FoldedShard, HistoryError, HistoryPage};
pub use log_report::{Gauge, LogReport};
pub use notices::Notices;
pub(crate) use observed::which;
pub use observed::{Observed, ObservedShard, ShardReport};
use policy::PolicyKeeper;
pub use search::{FOUND_MAX, Found, FoundPage, NoSuchPlace, Search, SearchError, SearchPlace};
use shards::Shards;
pub(crate) use twins::Twins;
pub use twins::{Heard, TwinWatch};

/// Commands to groups that clients requested and that are not on the disk yet. More are refused.
const REQUESTS_MAX: usize = 1024;
/// Descriptors for each shard that are not for clients: segments of the log being read, the state, backups, health checks.
const DESCRIPTORS_KEPT_BACK: u64 = 256;

/// For so many descriptors the kernel's table is made at the start; it takes 8 bytes for each.
const DESCRIPTOR_TABLE_MAX: u64 = 256 * 1024;

/// Why the broker did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address could not be had.
    #[error("listener {listener:?} cannot bind {address}: {source}")]
    Bind {
        /// The listener's name.
        listener: String,
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A listener has no usable certificates.
    #[error("listener {listener:?}: {source}")]
    Tls {
        /// The listener's name.
        listener: String,
        /// What is wrong, and where.
        source: Box<TlsError>,
    },
    /// The system has no random numbers.
    #[error("{0}")]
    Random(String),
    /// The policy cannot be read, or is wrong.
    #[error("the policy: {0}")]
    Policy(#[from] PolicyError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The registry cannot be used.
    #[error("{source}{}", registry_advice(source))]
    Registry {
        /// What is wrong, and where.
        source: RegistryError,
    },
    /// The jobs cannot be used.
    #[error(transparent)]
    Jobs(#[from] StoreError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The shards could not be connected with each other.
    #[error("cannot connect the shards: {0}")]
    Links(io::Error),
    /// The system gives no thread for handshakes.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A shard failed.
    #[error("{}{source}", shard.map_or_else(String::new, |shard| format!("shard {shard}: ")))]
    Shard {
        /// Its number. None where there is only one.
        shard: Option<u32>,
        /// Why.
        source: ShardError,
    },
}

/// A broker that serves. Dropping it stops it at once; [`Running::stop`] says farewell first.
pub struct Running {
    listeners: Vec<Arc<Listener>>,
    /// What goes on until the farewell: new clients, and an eye on the policy.
    accepting: JoinSet<()>,
    shards: Shards,
    notices: Notices,
    asks: Asks,
    search: Search,
    jobs: Jobs,
    policy: Option<Arc<PolicyKeeper>>,
    registry: Arc<Registry>,
    certificates: Certificates,
    audit: Audit,
    /// For the shards, there is somebody who hands clients over.
    _door: Arc<FrontDoor>,
    _ahead: Option<Ahead>,
    shutdown_timeout: Duration,
}

/// Starts a broker and serves until `shutdown` completes, then says farewell to its clients.
///
/// # Errors
/// Where it cannot start, or a shard fails.
pub async fn run(
    config: &Config,
    authenticator: Authenticator,
    observed: &Observed,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let mut running = start(config, authenticator, observed).await?;
    tokio::select! {
        () = shutdown => running.stop().await,
        outcome = running.failed() => outcome,
    }
}

/// Starts a broker: when this returns, its state is back and all listeners accept. Must be called within a tokio runtime.
/// Dropping the future abandons the start.
///
/// # Errors
/// Where the data directory or a listener cannot be had or a shard does not start; then nothing is left running.
pub async fn start(config: &Config, authenticator: Authenticator, observed: &Observed) -> Result<Running, ServerError> {
    // The check of a configuration has its range.
    let count = u32::try_from(config.broker.shards).unwrap_or(u32::MAX).max(1);
    let descriptors = raise_descriptor_limit();
    let connections_max = sockets_max(descriptors, u64::from(count), config.limits.connections_max);
    make_descriptor_table(descriptors.min(connections_max as u64 + u64::from(count) * DESCRIPTORS_KEPT_BACK));
    let sockets = Arc::new(Sockets::new(connections_max));
    // First of all: where the same broker runs already, this says so best.
    let storage = &config.storage;
    let mut directory =
        storage.data_directory.as_ref().map(|path| DataDirectory::take(path, storage, count)).transpose()?;
    let registry = Arc::new(open_registry(directory.as_ref()).await?);
    let audit = Audit::open(&config.audit, observed.audit.clone())?;
    let bound = config
        .listener
        .iter()
        .map(|settings| bind_listener(settings, config, &authenticator, &sockets))
        .collect::<Result<Vec<_>, _>>()?;

    let (keeper, policy) = match config.policy.file.clone().map(|file| PolicyKeeper::start(file, &audit)).transpose()? {
        Some((keeper, policy)) => (Some(Arc::new(keeper)), policy),
        None => (None, Policy::open()),
    };
    let twins = Twins::new();
    let (requests, requested) = mpsc::channel(REQUESTS_MAX);
    let told = (&twins, &requests);
    let parts = shard_parts(config, count, directory.as_ref(), observed, &audit, Arc::new(policy), told)?;
    let (shards, inboxes, notices, asks) = Shards::start(parts, &audit, twins).await?;
    if let Some(directory) = &mut directory {
        directory.all_begun()?;
    }
    // Before anybody can change the registry, and before anybody can ask for a command.
    rights::tell_bars(&registry, &notices).await;
    rights::tell(&registry, notices.clone());
    observed.show_registry(registry.clone(), audit.clone());
    observed.show_asks(asks.clone());
    let fields = config.shadow.fields().unwrap_or_default();
    let search = Search::new(asks.clone(), registry.clone(), fields);
    observed.show_search(search.clone());
    let jobs = open_jobs(config, directory.as_ref(), observed, (&asks, &search, &registry)).await?;
    jobs.take(requested);
    observed.show_jobs(jobs.clone());
    observed.backups.take_along(registry.clone(), jobs.clone());

    let limits = Arc::new(config.limits.to_core());
    let identity = config.identity.clone();
    let for_keys = authenticator.clone();
    let door = FrontDoor::new(
        limits,
        authenticator,
        identity,
        Admission::new(registry.clone(), config.registry.unknown_vehicles),
        inboxes,
        notices.clone(),
        observed.door.clone(),
    );
    let turnstile = Turnstile::new(&config.limits, registry.clone(), audit.clone(), observed.door.clone());
    let door = Arc::new(FrontDoor { audit: audit.clone(), turnstile: Some(Arc::new(turnstile)), ..door });
    let mut accepting = JoinSet::new();
    let mut listeners = Vec::new();
    // Before this thread gives way to those of messages: it does not.
    let has_own = config.listener.iter().any(|listener| listener.handshakes_ahead);
    let ahead = has_own.then(Ahead::start).transpose().map_err(ServerError::Thread)?;
    for (listener, socket) in bound {
        let settings = &listener.settings;
        let own = ahead.as_ref().filter(|_| settings.handshakes_ahead).map(|ahead| ahead.runtime.clone());
        let runtime = own.unwrap_or_else(Handle::current);
        let _entered = runtime.enter();
        let socket = listen(socket).map_err(|source| refused(settings, source))?;
        tracing::info!(target: "causeway::listener", listener = settings.name, address = %listener.address,
            transport = %settings.transport, "listening");
        let (greeted, door) = (listener.clone(), door.clone());
        let counters = door.counters.clone();
        let greet_one = move |accepted| drop(tokio::spawn(greet(door.clone(), greeted.clone(), accepted)));
        accepting.spawn_on(accept_all(socket, listener.clone(), counters, greet_one), &runtime);
        listeners.push(listener);
    }
    if let Some(keeper) = &keeper {
        accepting.spawn(keeper.clone().watch(notices.clone()));
    }
    observed.watch_listeners(listeners.clone());
    let version = concat!("causewayd ", env!("CARGO_PKG_VERSION"));
    audit.record(AuditEvent::new(What::Start, Decision::Note, version));
    let shutdown_timeout = Duration::from_secs(config.broker.shutdown_timeout_seconds);
    let certificates = Certificates::new(&listeners, for_keys, notices.clone());
    let watching = certificates.clone();
    accepting.spawn(async move { watching.watch().await });
    let policy = keeper;
    Ok(Running {
        listeners,
        accepting,
        shards,
        notices,
        asks,
        search,
        jobs,
        policy,
        registry,
        certificates,
        audit,
        _door: door,
        _ahead: ahead,
        shutdown_timeout,
    })
}

/// What each of so many shards is made of.
fn shard_parts(
    config: &Config,
    count: u32,
    directory: Option<&DataDirectory>,
    observed: &Observed,
    audit: &Audit,
    policy: Arc<Policy>,
    (twins, requests): (&Twins, &mpsc::Sender<Box<GroupRequest>>),
) -> Result<Vec<ShardParts>, ServerError> {
    let hash_seed = u64::from_ne_bytes(hashing::random().map_err(ServerError::Random)?);
    let links = links::link(count).map_err(ServerError::Links)?;
    // The shards of one backup would be of different moments.
    let backups = (count == 1).then(|| observed.backups.clone());
    if backups.is_none() {
        observed.backups.refuse_several();
    }
    let shards = (0..).zip(links).zip(observed.watch_shards(count));
    let parts = shards.map(|((number, links), watched)| ShardParts {
        number,
        shards: count,
        links,
        limits: Arc::new(Limits {
            presence: config.presence.enabled,
            shadow_state_bytes_max: config.shadow.state_bytes_max,
            shadow_depth_max: config.shadow.depth_max,
            shadow_vehicles_max: config.shadow.vehicles_max,
            shadow_leaves_max: config.shadow.leaves_max,
            shadows_named_max: config.shadow.named_max,
            shadow_history_days: config.shadow.history_days,
            // The check of a configuration has found them fine.
            shadow_index: config.shadow.fields().unwrap_or_default(),
            command_deadline_seconds: config.commands.deadline_seconds,
            command_deadline_seconds_max: config.commands.deadline_seconds_max,
            command_payload_bytes_max: config.commands.payload_bytes_max,
            commands_per_vehicle_max: config.commands.pending_per_vehicle_max,
            commands_per_requester_max: config.commands.pending_per_requester_max,
            commands_max: config.commands.pending_max,
            commands_bytes_max: config.commands.pending_bytes_max,
            command_outcomes_kept_seconds: config.commands.outcomes_kept_seconds,
            command_outcomes_bytes_max: config.commands.outcomes_bytes_max,
            stamps_origin: config.stamps_origin(),
            ..config.limits.of_shard(number, count)
        }),
        directory: directory.map(|directory| directory.shard(number)),
        counters: watched.edge,
        report: watched.report,
        log_report: watched.log,
        folded: watched.folded,
        backups: backups.clone(),
        audit: audit.clone(),
        allowances: Allowances::new(&config.limits),
        hash_seed,
        policy: policy.clone(),
        twins: twins.clone(),
        requests: requests.clone(),
    });
    Ok(parts.collect())
}

impl Running {
    /// The name and address of each listener, in the order of the configuration. Ports are the real ones.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.listeners.iter().map(|listener| (listener.settings.name.clone(), listener.address)).collect()
    }

    /// Reads the certificates of all listeners again. Where they are wrong, the old ones stay, and the errors say which.
    pub async fn reload_certificates(&self) -> Vec<ServerError> {
        self.certificates.reload().await
    }

    /// Closes whoever is connected with one of these credentials (see [`causeway_fleet::Identity::credential`]).
    pub async fn revoke(&self, credentials: HashSet<Arc<str>>, why: &str) {
        self.notices.revoke(credentials, why).await;
    }

    /// Reads the policy again, if there is one. A wrong one changes nothing, which is logged.
    pub async fn reload_policy(&self) {
        if let Some(policy) = &self.policy {
            policy.reload(&self.notices).await;
        }
    }

    /// Where all shards are told what they are to know.
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Where shards are asked.
    pub fn asks(&self) -> &Asks {
        &self.asks
    }

    /// What is done to many vehicles.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Where vehicles are found by what is true of them.
    pub fn search(&self) -> &Search {
        &self.search
    }

    /// Which vehicles there are, and who is banned.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Where events are recorded.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Completes when the broker stops by itself, which is always a failure.
    pub async fn failed(&mut self) -> Result<(), ServerError> {
        self.shards.ended().await
    }

    /// Stops accepting, tells all clients that the server is shutting down, gives them `shutdown_timeout_seconds` to take it, and ends.
    ///
    /// # Errors
    /// Where a shard failed.
    pub async fn stop(mut self) -> Result<(), ServerError> {
        self.accepting.shutdown().await;
        self.jobs.close().await;
        self.asks.close();
        self.audit.record(AuditEvent::new(What::Stop, Decision::Note, ""));
        self.shards.stop(self.shutdown_timeout);
        let outcome = self.shards.ended().await;
        self.audit.close();
        outcome
    }
}

/// The registry of the data directory; without one, it is gone with the process. Reading it may take a second.
async fn open_registry(directory: Option<&DataDirectory>) -> Result<Registry, ServerError> {
    let opened = match directory.map(|directory| directory.path().to_owned()) {
        Some(path) => tokio::task::spawn_blocking(move || Registry::open(&path)).await,
        None => Ok(Registry::in_memory()),
    };
    match opened {
        Ok(opened) => opened.map_err(|source| ServerError::Registry { source }),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// The jobs of the data directory, which go on; without one, they are gone with the process.
async fn open_jobs(
    config: &Config,
    directory: Option<&DataDirectory>,
    observed: &Observed,
    (asks, search, registry): (&Asks, &Search, &Arc<Registry>),
) -> Result<Jobs, ServerError> {
    let parts = JobParts {
        asks: asks.clone(),
        search: search.clone(),
        registry: registry.clone(),
        folded: observed.shards().iter().map(|shard| shard.folded.clone()).collect(),
        logs: observed.shards().iter().map(|shard| shard.log.clone()).collect(),
        outcomes_kept_seconds: config.commands.outcomes_kept_seconds,
        commands_pending_max: config.commands.pending_per_requester_max,
    };
    let data = directory.map(|directory| directory.path().to_owned());
    match tokio::task::spawn_blocking(move || Jobs::open(data.as_deref(), parts)).await {
        Ok(opened) => Ok(opened?),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// What to do about a registry that cannot be read.
fn registry_advice(error: &RegistryError) -> &'static str {
    match error {
        RegistryError::Damaged { .. } | RegistryError::Missing(_) | RegistryError::Storage(_) => {
            ". The broker does not start without knowing who may connect. Check the disk, then restore the data directory from a copy"
        }
        _ => "",
    }
}

fn bind_listener(
    settings: &crate::config::Listener,
    config: &Config,
    authenticator: &Authenticator,
    sockets: &Arc<Sockets>,
) -> Result<(Arc<Listener>, Socket), ServerError> {
    let tls = match (&settings.tls, settings.transport.is_encrypted()) {
        (Some(tls), true) => Some(ListenerTls::load(tls.clone(), settings.transport.is_websocket())),
        _ => None,
    };
    let tls = tls
        .transpose()
        .map_err(|source| ServerError::Tls { listener: settings.name.clone(), source: Box::new(source) })?;
    let bound = bind(settings.bind).and_then(|socket| {
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok((socket, address))
    });
    let (socket, address) = bound.map_err(|source| refused(settings, source))?;
    let mut policy = authenticator.policy(settings);
    policy.vehicle_ids_reserved |= config.asks_for_certificates();
    Ok((Arc::new(Listener::new(settings.clone(), address, tls, policy, sockets.clone())), socket))
}

fn refused(settings: &crate::config::Listener, source: io::Error) -> ServerError {
    ServerError::Bind { listener: settings.name.clone(), address: settings.bind, source }
}

/// Every connection is a file descriptor: takes as many as the system allows, and returns how many those are.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(target: "causeway::server", %error, current = limit.current, "cannot raise the limit of open files");
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}

/// Has the kernel make its table of descriptors as large as it is going to be. It would grow by doubling, and in a process with threads
/// whoever opens the descriptor that makes it grow waits for tens of milliseconds: in the middle of a storm of clients.
fn make_descriptor_table(descriptors: u64) {
    let last = descriptors.min(DESCRIPTOR_TABLE_MAX).saturating_sub(1);
    // Where it cannot be had now, it grows later. The copy is closed at once.
    let _ = i32::try_from(last).map(|last| fcntl_dupfd_cloexec(io::stderr(), last));
}

/// How many sockets may be open at the same time, with so many descriptors for the process and so many shards.
fn sockets_max(descriptors: u64, shards: u64, connections_max: usize) -> usize {
    let kept_back = (shards * DESCRIPTORS_KEPT_BACK).min(descriptors / 2);
    let sockets = usize::try_from(descriptors - kept_back).unwrap_or(usize::MAX);
    if sockets < connections_max {
        tracing::warn!(target: "causeway::server", descriptors, connections_max,
            "the process may open too few files for limits.connections_max: {sockets} connections are taken at most. Raise its limit \
             (systemd: LimitNOFILE=, else ulimit -n)");
    }
    sockets
}
