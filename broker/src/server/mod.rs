//! The running broker: listeners, front door and shard, from start to farewell.
//!
//! Owns the order in which they start and stop. It never touches a packet.

mod backups;
mod counters;
mod log_report;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use causeway_core::{Counters, Gauges};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::Socket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::admin::ListenerState;
use crate::auth::{Authenticator, hashing};
use crate::config::Config;
use crate::data_directory::DataDirectory;
use crate::frontdoor::{Arrival, FrontDoor, greet};
use crate::listener::{Listener, Sockets, accept_all, bind, listen};
use crate::shard_loop::{self, ShardParts};
use crate::tls::ListenerTls;

pub use crate::data_directory::StorageError;
pub use crate::home_shard::home_shard;
pub use crate::shard_loop::ShardError;
pub use crate::tls::TlsError;
pub(crate) use backups::Wanted;
pub use backups::{Backups, Made, NoBackup};
pub use counters::{Counter, EdgeCounters};
pub use log_report::{Gauge, LogReport};

/// Descriptors that are not for clients: segments of the log being read, the state, backups, health checks.
const DESCRIPTORS_KEPT_BACK: u64 = 256;

/// Reports a shard may miss before it counts as stuck.
const REPORTS_MISSED_MAX: u32 = 5;

/// What the shard last said about itself; at most some seconds old.
#[derive(Debug, Default)]
pub struct ShardReport(Mutex<LatestReport>);

#[derive(Debug, Default)]
struct LatestReport {
    counters: Counters,
    gauges: Gauges,
    /// When the shard counts as stuck; `None` before its first report.
    overdue_at: Option<Instant>,
}

impl ShardReport {
    /// Notes a report, of which the next is due after `next`.
    pub(crate) fn renew(&self, counters: Counters, gauges: Gauges, next: Duration) {
        let overdue_at = Some(Instant::now() + next * REPORTS_MISSED_MAX);
        *self.lock() = LatestReport { counters, gauges, overdue_at };
    }

    /// The latest numbers.
    pub fn latest(&self) -> (Counters, Gauges) {
        let latest = self.lock();
        (latest.counters, latest.gauges)
    }

    /// Whether the shard's thread has not reported for much longer than it should have.
    pub fn is_overdue(&self) -> bool {
        self.lock().overdue_at.is_some_and(|at| at <= Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, LatestReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything the data plane counts, for whoever exports it.
#[derive(Debug, Default)]
pub struct Observed {
    /// Connections and bytes.
    pub edge: Arc<EdgeCounters>,
    /// Messages and sessions.
    pub shard: Arc<ShardReport>,
    /// The log on disk.
    pub log: Arc<LogReport>,
    /// Where backups of what is on disk are asked for.
    pub backups: Arc<Backups>,
    listeners: OnceLock<Vec<Arc<Listener>>>,
}

impl Observed {
    /// What each listener holds at this moment; none before the broker started.
    pub fn listeners(&self) -> Vec<ListenerState> {
        self.listeners.get().into_iter().flatten().map(|listener| listener.state()).collect()
    }
}

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
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The shard failed.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

/// A broker that serves. Dropping it stops it at once; [`Running::stop`] says farewell first.
pub struct Running {
    listeners: Vec<Arc<Listener>>,
    accepting: JoinSet<()>,
    _shard: mpsc::Sender<Box<Arrival>>,
    stop: oneshot::Sender<Duration>,
    ended: oneshot::Receiver<Result<(), ShardError>>,
    shutdown_timeout: Duration,
}

/// Starts a broker and serves until `shutdown` completes, then says farewell to its clients.
///
/// # Errors
/// Where it cannot start, or the shard fails.
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
/// Where the data directory or a listener cannot be had or the shard does not start; then nothing is left running.
pub async fn start(config: &Config, authenticator: Authenticator, observed: &Observed) -> Result<Running, ServerError> {
    let sockets = Arc::new(Sockets::new(sockets_max(raise_descriptor_limit(), config.limits.connections_max)));
    // First of all: where the same broker runs already, this says so best.
    let storage = &config.storage;
    let directory = storage.data_directory.as_ref().map(|path| DataDirectory::take(path, storage)).transpose()?;
    let bound = config
        .listener
        .iter()
        .map(|settings| bind_listener(settings, &authenticator, &sockets))
        .collect::<Result<Vec<_>, _>>()?;

    let limits = Arc::new(config.limits.to_core());
    let hash_seed = u64::from_ne_bytes(hashing::random().map_err(ServerError::Random)?);
    let shard = shard_loop::start(ShardParts {
        limits: limits.clone(),
        directory,
        counters: observed.edge.clone(),
        report: observed.shard.clone(),
        log_report: observed.log.clone(),
        backups: observed.backups.clone(),
        hash_seed,
    })?;
    if shard.ready.await.is_err() {
        return Err(outcome(shard.ended.await).err().unwrap_or(ServerError::Shard(ShardError::Panicked)));
    }

    let counters = observed.edge.clone();
    let door = Arc::new(FrontDoor::new(limits, authenticator, shard.inbox.clone(), counters));
    let mut accepting = JoinSet::new();
    let mut listeners = Vec::new();
    for (listener, socket) in bound {
        let settings = &listener.settings;
        let socket = listen(socket).map_err(|source| refused(settings, source))?;
        tracing::info!(target: "causeway::listener", listener = settings.name, address = %listener.address,
            transport = %settings.transport, "listening");
        let (greeted, door) = (listener.clone(), door.clone());
        let counters = door.counters.clone();
        accepting.spawn(accept_all(socket, listener.clone(), counters, move |accepted| {
            tokio::spawn(greet(door.clone(), greeted.clone(), accepted));
        }));
        listeners.push(listener);
    }
    // A second broker that reports to the same place would be a mistake of the caller's; the first one stays visible.
    let _ = observed.listeners.set(listeners.clone());
    Ok(Running {
        listeners,
        accepting,
        _shard: shard.inbox,
        stop: shard.stop,
        ended: shard.ended,
        shutdown_timeout: Duration::from_secs(config.broker.shutdown_timeout_seconds),
    })
}

impl Running {
    /// The name and address of each listener, in the order of the configuration. Ports are the real ones.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.listeners.iter().map(|listener| (listener.settings.name.clone(), listener.address)).collect()
    }

    /// Reads the certificates of all listeners again. Where they are wrong, the old ones stay, and the errors say which.
    pub fn reload_certificates(&self) -> Vec<ServerError> {
        let reload = |listener: &Arc<Listener>| {
            let source = Box::new(listener.tls.as_ref()?.reload().err()?);
            Some(ServerError::Tls { listener: listener.settings.name.clone(), source })
        };
        self.listeners.iter().filter_map(reload).collect()
    }

    /// Completes when the broker stops by itself, which is always a failure.
    pub async fn failed(&mut self) -> Result<(), ServerError> {
        outcome((&mut self.ended).await)
    }

    /// Stops accepting, tells all clients that the server is shutting down, gives them `shutdown_timeout_seconds` to take it, and ends.
    ///
    /// # Errors
    /// Where the shard failed.
    pub async fn stop(mut self) -> Result<(), ServerError> {
        self.accepting.shutdown().await;
        // A shard that ended already says why below.
        let _ = self.stop.send(self.shutdown_timeout);
        outcome(self.ended.await)
    }
}

fn outcome<E>(ended: Result<Result<(), ShardError>, E>) -> Result<(), ServerError> {
    ended.unwrap_or(Err(ShardError::Panicked)).map_err(ServerError::Shard)
}

fn bind_listener(
    settings: &crate::config::Listener,
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
    let policy = authenticator.policy(settings);
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

/// How many sockets may be open at the same time, with so many descriptors for the process.
fn sockets_max(descriptors: u64, connections_max: usize) -> usize {
    let kept_back = DESCRIPTORS_KEPT_BACK.min(descriptors / 2);
    let sockets = usize::try_from(descriptors - kept_back).unwrap_or(usize::MAX);
    if sockets < connections_max {
        tracing::warn!(target: "causeway::server", descriptors, connections_max,
            "the process may open too few files for limits.connections_max: {sockets} connections are taken at most. Raise its limit \
             (systemd: LimitNOFILE=, else ulimit -n)");
    }
    sockets
}
