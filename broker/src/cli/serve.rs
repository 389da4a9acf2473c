//! `causewayd run`: from a configuration to a broker that serves until it is told to stop.
//!
//! Owns the order of starting and stopping, and what signals mean. Serving itself is done elsewhere.

use std::io::{self, stderr};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Context;
use rustix::process::{getpriority_process, setpriority_process};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::check;
use crate::admin::{AdminCertificates, AdminServer, ListenerState, Source};
use crate::audit::{AuditCounts, AuditEvent, Decision, What};
use crate::auth::{Authenticator, Reloaded};
use crate::config::{Config, Problem, load};
use crate::est::{EnrolmentServer, Registered};
use crate::jobs::Jobs;
use crate::registry::Registry;
use crate::server::{self, Asks, Backups, EdgeCounters, Observed, ObservedShard, Running, Search, reload_keys};
use crate::telemetry;

/// How much nicer than messages handshakes are: with a processor to share, they get a quarter of it, and all that messages leave.
const GIVES_WAY_BY: i32 = 5;

/// Where a broker listens, now that it does.
pub(super) struct Started {
    /// In the order of the configuration.
    pub(super) listeners: Vec<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
}

/// Serves as a file says.
pub(super) fn run_file(
    file: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<ExitCode> {
    match load(file, environment) {
        Ok(loaded) => {
            let warnings = loaded.warnings;
            run(loaded.config, |_, _| {
                warn(&warnings);
                Ok(())
            })
        }
        Err(problems) => {
            check::print(&problems, &mut stderr())?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// One line each: the place is part of it, the picture of it is for terminals.
pub(super) fn warn(warnings: &[Problem]) {
    for warning in warnings {
        tracing::warn!(target: "causeway::config", "{}{}", warning.place, warning.message);
    }
}

/// Serves until a signal says stop. `started` is called once all listeners accept.
pub(super) fn run(
    config: Config,
    started: impl FnOnce(&Config, &Started) -> io::Result<()>,
) -> anyhow::Result<ExitCode> {
    telemetry::init(&config.log)?;
    // One thread greets, authenticates and answers scrapes; messages have threads of their own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let outcome = runtime.block_on(serve(Arc::new(config), started));
    // Verifications that still run are not waited for.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// From here on this thread, and those it starts, come behind the threads of messages where they share a processor: a storm of clients
/// delays those who are connected less, and its handshakes gather instead of interrupting for each.
fn give_way() {
    // Where the system refuses, nothing but that is lost.
    let _ = getpriority_process(None).and_then(|niceness| setpriority_process(None, (niceness + GIVES_WAY_BY).min(19)));
}

async fn serve(config: Arc<Config>, started: impl FnOnce(&Config, &Started) -> io::Result<()>) -> anyhow::Result<()> {
    // Before anything is bound: from here on, no signal kills the process unprepared.
    let mut signals = Signals::new().context("cannot receive signals")?;
    let authenticator = Authenticator::load(&config)?;
    let told = Arc::new(Told::new(authenticator.clone()));
    let admin = match config.admin.bind {
        Some(address) => Some(AdminTask::start(address, config.clone(), told.clone()).await?),
        None => None,
    };
    let mut running = tokio::select! {
        started = server::start(&config, authenticator.clone(), &told.observed) => started?,
        signal = signals.stop() => {
            tracing::info!(target: "causeway::server", "{signal}: not starting");
            return Ok(());
        }
    };
    let enrolment = EnrolmentTask::start(&config, &running).await?;
    give_way();
    told.phase.store(SERVING, Ordering::Relaxed);
    let listeners = running.addresses().into_iter().map(|(_, address)| address).collect();
    started(&config, &Started { listeners, admin: admin.as_ref().map(|admin| admin.address) })
        .context("cannot say that the broker has started")?;

    let outcome = loop {
        tokio::select! {
            outcome = running.failed() => break outcome,
            told_to = signals.next() => match told_to {
                ToldTo::Reload => {
                    reload(&config, &authenticator, &running).await;
                    running.reload_policy().await;
                    admin.iter().for_each(AdminTask::reload);
                }
                ToldTo::Stop(signal) => {
                    tracing::info!(target: "causeway::server", "{signal}: stopping");
                    told.phase.store(STOPPING, Ordering::Relaxed);
                    break tokio::select! {
                        outcome = running.stop() => outcome,
                        _ = signals.stop() => {
                            tracing::warn!(target: "causeway::server", "told to stop again: stopping at once");
                            Ok(())
                        }
                    };
                }
            }
        }
    };
    told.phase.store(STOPPING, Ordering::Relaxed);
    if let Some(enrolment) = enrolment {
        enrolment.stop().await;
    }
    if let Some(admin) = admin {
        admin.stop().await;
    }
    outcome?;
    tracing::info!(target: "causeway::server", "stopped");
    Ok(())
}

async fn reload(config: &Config, authenticator: &Authenticator, running: &Running) {
    if config.authentication.password_file.is_some() {
        match authenticator.reload() {
            Ok(Reloaded { users, gone }) => {
                tracing::info!(target: "causeway::server", users, gone = gone.len(), "read the password file again");
                let detail = format!("the password file was read again: {users} users");
                running.audit().record(AuditEvent::new(What::Credentials, Decision::Note, detail));
                running.revoke(gone, "the password is no longer valid").await;
            }
            Err(error) => {
                let event = AuditEvent::new(What::Credentials, Decision::Fail, error.to_string());
                running.audit().record(event);
                tracing::error!(target: "causeway::server", %error, "the password file is wrong, its users stay as they were");
            }
        }
    }
    reload_keys(authenticator);
    let errors = running.reload_certificates().await;
    for error in &errors {
        running.audit().record(AuditEvent::new(What::Certificates, Decision::Fail, error.to_string()));
        tracing::error!(target: "causeway::server", %error, "certificates are wrong, the old ones stay");
    }
    if errors.is_empty() && config.listener.iter().any(|listener| listener.tls.is_some()) {
        tracing::info!(target: "causeway::server", "read the certificates again");
        let event = AuditEvent::new(What::Certificates, Decision::Note, "the certificates were read again");
        running.audit().record(event);
    }
}

enum ToldTo {
    Reload,
    Stop(&'static str),
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let [terminate, interrupt, hangup] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        Ok(Signals { terminate: signal(terminate)?, interrupt: signal(interrupt)?, hangup: signal(hangup)? })
    }

    async fn next(&mut self) -> ToldTo {
        tokio::select! {
            _ = self.terminate.recv() => ToldTo::Stop("SIGTERM"),
            _ = self.interrupt.recv() => ToldTo::Stop("SIGINT"),
            _ = self.hangup.recv() => ToldTo::Reload,
        }
    }

    async fn stop(&mut self) -> &'static str {
        loop {
            if let ToldTo::Stop(signal) = self.next().await {
                return signal;
            }
        }
    }
}

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const STOPPING: u8 = 2;

/// What the administration listener tells.
struct Told {
    observed: Observed,
    authenticator: Authenticator,
    phase: AtomicU8,
}

impl Told {
    fn new(authenticator: Authenticator) -> Told {
        Told { observed: Observed::default(), authenticator, phase: AtomicU8::new(STARTING) }
    }
}

impl Source for Told {
    fn shards(&self) -> &[ObservedShard] {
        self.observed.shards()
    }

    fn edge(&self) -> EdgeCounters {
        self.observed.edge()
    }

    fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    fn listeners(&self) -> Vec<ListenerState> {
        self.observed.listeners()
    }

    fn audit(&self) -> Arc<AuditCounts> {
        self.observed.audit.clone()
    }

    fn backups(&self) -> Arc<Backups> {
        self.observed.backups.clone()
    }

    fn audit_log(&self) -> crate::audit::Audit {
        self.observed.audit_log()
    }

    fn jobs(&self) -> Option<Jobs> {
        self.observed.jobs().cloned()
    }

    fn search(&self) -> Option<Search> {
        self.observed.search().cloned()
    }

    fn asks(&self) -> Option<Asks> {
        self.observed.asks().cloned()
    }

    fn registry(&self) -> Option<Arc<Registry>> {
        self.observed.registry().cloned()
    }

    fn readiness(&self) -> Result<(), String> {
        match self.phase.load(Ordering::Relaxed) {
            SERVING => self.observed.respond(),
            STARTING => Err("starting".to_owned()),
            _ => Err("stopping".to_owned()),
        }
    }
}

/// The administration listener, while it serves.
struct AdminTask {
    address: SocketAddr,
    certificates: Option<AdminCertificates>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl AdminTask {
    fn reload(&self) {
        if let Some(Err(error)) = self.certificates.as_ref().map(AdminCertificates::reload) {
            tracing::error!(target: "causeway::admin", %error, "certificates are wrong, the old ones stay");
        }
    }

    async fn start(address: SocketAddr, config: Arc<Config>, source: Arc<Told>) -> anyhow::Result<AdminTask> {
        let bound = AdminServer::bind(address).await;
        let server = bound.with_context(|| format!("the administration listener cannot bind {address}"))?;
        let server = match &config.admin.tls {
            Some(tls) => server.with_tls(tls).context("admin.tls")?,
            None => server,
        };
        let certificates = server.certificates();
        let address = server.local_addr();
        tracing::info!(target: "causeway::admin", %address, "listening");
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // A dropped sender means the same.
            let _ = stopped.await;
        };
        Ok(AdminTask { address, certificates, stop, served: tokio::spawn(server.serve(config, source, shutdown)) })
    }

    async fn stop(self) {
        drop(self.stop);
        // A scraper that holds its connection must not hold the process.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.served).await;
    }
}

/// The enrolment listener, while it serves.
struct EnrolmentTask {
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl EnrolmentTask {
    async fn start(config: &Config, running: &Running) -> anyhow::Result<Option<EnrolmentTask>> {
        let settings = &config.enrolment;
        let enrolments = Arc::new(Registered::new(running.registry().clone(), settings.known_vehicles_only));
        let Some(server) = EnrolmentServer::bind(settings, enrolments, running.audit().clone()).await? else {
            return Ok(None);
        };
        tracing::info!(target: "causeway::enrolment", address = %server.local_addr(), "listening");
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // A dropped sender means the same.
            let _ = stopped.await;
        };
        Ok(Some(EnrolmentTask { stop, served: tokio::spawn(server.serve(shutdown)) }))
    }

    async fn stop(self) {
        drop(self.stop);
        // A vehicle that holds its connection must not hold the process.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.served).await;
    }
}
