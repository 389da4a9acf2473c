//! The HTTP listener for operators: `/metrics`, `/live`, `/ready`, and below `/v1` backups, the registry, shadows and commands.
//!
//! Owns what they answer, and who may ask. It learns what it tells from a [`Source`]; the registry's answers are made in `api`.

mod access;
pub(crate) mod api;
mod asker;
mod backup;
mod bounded;
mod exposition;
mod live;
mod process;
mod registry;
pub mod token_file;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::audit::Audit;
use crate::audit::AuditCounts;
use crate::auth::Authenticator;
use crate::config::{AdminTls, Config};
use crate::https::{Bounds, HttpsListener};
use crate::jobs::Jobs;
use crate::registry::Registry;
use crate::server::{Asks, Backups, EdgeCounters, ObservedShard, Search, which};
use crate::tls::{ListenerTls, TlsError};
use access::Access;
use asker::Asker;
use bounded::Bounded;

/// What can be asked for below `/v1`, as an OpenAPI document.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// Over TLS, a connection may last as long as a backup does: only who passes the handshake has one, and there are few.
const BOUNDS: Bounds = Bounds {
    connections_max: 64,
    connections_per_address_max: 32,
    handshake_max: Duration::from_secs(5),
    connection_max: Duration::from_secs(600),
};

/// What is told here, as it is now. Called for each request, so it must not wait.
pub trait Source: Send + Sync + 'static {
    /// What each shard says, by its number.
    fn shards(&self) -> &[ObservedShard];
    /// What listeners and connections counted.
    fn edge(&self) -> EdgeCounters;
    /// Who verifies credentials.
    fn authenticator(&self) -> &Authenticator;
    /// What the listeners hold.
    fn listeners(&self) -> Vec<ListenerState>;
    /// What the audit log counted.
    fn audit(&self) -> Arc<AuditCounts>;
    /// Where backups are asked for.
    fn backups(&self) -> Arc<Backups>;
    /// Which vehicles there are. None while the broker starts.
    fn registry(&self) -> Option<Arc<Registry>>;
    /// Where shards are asked. None while the broker starts.
    fn asks(&self) -> Option<Asks>;
    /// Where vehicles are found by what is true of them. None while the broker starts.
    fn search(&self) -> Option<Search>;
    /// What is done to many vehicles. None while the broker starts.
    fn jobs(&self) -> Option<Jobs>;
    /// Where changes are recorded.
    fn audit_log(&self) -> Audit;
    /// Whether clients can be served.
    ///
    /// # Errors
    /// Why not.
    fn readiness(&self) -> Result<(), String>;
}

/// What one listener holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerState {
    /// Its name.
    pub name: String,
    /// Connections that are open, handshakes included.
    pub connections_open: u64,
    /// Connections that have not completed their CONNECT.
    pub handshakes_pending: u64,
}

/// The bound listener.
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ListenerTls>>,
}

/// Reads the certificates of the listener again.
#[derive(Clone)]
pub struct AdminCertificates(Arc<ListenerTls>);

impl AdminCertificates {
    /// From now on, new connections see what the files hold now.
    ///
    /// # Errors
    /// A file is missing or wrong: what was in force stays in force.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.0.reload().map(drop)
    }
}

impl AdminServer {
    /// Binds it.
    ///
    /// # Errors
    /// The address is in use or not of this machine.
    pub async fn bind(address: SocketAddr) -> io::Result<AdminServer> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(AdminServer { listener, address, tls: None })
    }

    /// Has it speak HTTPS.
    ///
    /// # Errors
    /// A file is missing or wrong.
    pub fn with_tls(self, settings: &AdminTls) -> Result<AdminServer, TlsError> {
        let tls = ListenerTls::load(settings.to_listener(), true)?;
        Ok(AdminServer { tls: Some(Arc::new(tls)), ..self })
    }

    /// What reads its certificates again, where it has any.
    pub fn certificates(&self) -> Option<AdminCertificates> {
        self.tls.clone().map(AdminCertificates)
    }

    /// Where it is bound: the port, if the system chose it.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves. Requests under way are then answered.
    pub async fn serve(
        self,
        config: Arc<Config>,
        source: Arc<dyn Source>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        let access = Arc::new(Access::new(&config.admin, self.address));
        let streams = Arc::new(Semaphore::new(live::STREAMS_MAX));
        let told = Told { config, source, access, streams };
        let router = router(told).into_make_service_with_connect_info::<Asker>();
        let served = match self.tls {
            None => axum::serve(Bounded::new(self.listener), router).with_graceful_shutdown(shutdown).await,
            Some(tls) => {
                let listener = HttpsListener::new(self.listener, tls, BOUNDS);
                axum::serve(listener, router).with_graceful_shutdown(shutdown).await
            }
        };
        if let Err(error) = served {
            tracing::error!(target: "causeway::admin", %error, "the administration listener failed");
        }
    }
}

#[derive(Clone)]
struct Told {
    config: Arc<Config>,
    source: Arc<dyn Source>,
    access: Arc<Access>,
    /// Places for streams of events.
    streams: Arc<Semaphore>,
}

fn router(told: Told) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(async || "alive\n"))
        .route("/ready", get(ready))
        .route("/v1/openapi.json", get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI)))
        .route("/v1/backup", post(backup::make).layer(DefaultBodyLimit::max(backup::BODY_BYTES_MAX)))
        .route("/v1/{*rest}", any(registry::answer))
        .layer(DefaultBodyLimit::max(api::BODY_BYTES_MAX))
        .with_state(told)
}

async fn metrics(State(told): State<Told>) -> Response {
    match exposition::text(&told.config, told.source.as_ref()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(told): State<Told>) -> Response {
    match told.source.readiness() {
        Ok(()) => match degraded(told.source.shards()) {
            Some(why) => format!("ready, but degraded: {why}\n").into_response(),
            None => "ready\n".into_response(),
        },
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

/// What clients notice of the disk, and on which of several shards.
fn degraded(shards: &[ObservedShard]) -> Option<String> {
    let full = "the disk is full, so nothing that needs the log is acknowledged";
    let low = "the disk has too little room, so new messages of QoS 1 and 2 are refused";
    let is_full = which(shards, |shard| shard.log.is_full()).map(|which| (full, which));
    let is_low = || which(shards, |shard| shard.log.refusing.get() > 0).map(|which| (low, which));
    let (what, which) = is_full.or_else(is_low)?;
    Some(if shards.len() == 1 { what.to_owned() } else { format!("{what} ({which})") })
}

#[cfg(test)]
mod tests;
