//! Owns what one test is given: the broker's address and announced limits, names nobody else uses, deadlines, and the
//! transcript. Never decides what a test means.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::broker::Broker;
use crate::client::Client;
use crate::restart::{Ending, Gathering};
use crate::transport::{Stream, Target};
use crate::wire::Version;
use crate::wire::build::Connect;
use crate::wire::prop;
use crate::wire::read::Connack;

/// What the whole run shares.
#[derive(Debug)]
pub struct Setup {
    /// The MQTT listener under test.
    pub target: Target,
    /// The WebSocket listener under test, and its `HOST:PORT` for the Host header.
    pub websocket: Option<(Target, String)>,
    /// How long one expectation may take.
    pub step: Duration,
    /// How long one test may take in all.
    pub test_limit: Duration,
    /// How late a broker's timers may be.
    pub timer_slack: Duration,
    /// A valid user name and password.
    pub credential: Option<(String, String)>,
    /// A valid SCRAM-SHA-256 user name and password.
    pub scram: Option<(String, String)>,
    /// The broker under test, if the suite runs it.
    pub broker: Option<Broker>,
    /// Part of every client id and topic, new for each run.
    pub run: String,
}

/// What the broker announced in a CONNACK, with the specification's defaults.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum QoS (2 when absent).
    pub maximum_qos: u8,
    /// Retain Available.
    pub retain: bool,
    /// Wildcard Subscription Available.
    pub wildcards: bool,
    /// Subscription Identifiers Available.
    pub subscription_ids: bool,
    /// Shared Subscription Available.
    pub shared: bool,
    /// Topic Alias Maximum of the server (0 when absent).
    pub topic_alias_maximum: u16,
    /// Receive Maximum of the server (65,535 when absent).
    pub receive_maximum: u16,
    /// Maximum Packet Size of the server in bytes, if it has one.
    pub packet_bytes_max: Option<u32>,
    /// Server Keep Alive in seconds, if the server imposes one on a client that asked for 60.
    pub server_keep_alive: Option<u16>,
}

impl Limits {
    /// Reads the limits out of a CONNACK.
    pub fn of(connack: &Connack) -> Limits {
        let number = |id| connack.props.number(id);
        let flag = |id| number(id) != Some(0);
        Limits {
            maximum_qos: number(prop::MAXIMUM_QOS).map_or(2, |qos| qos as u8),
            retain: flag(prop::RETAIN_AVAILABLE),
            wildcards: flag(prop::WILDCARD_AVAILABLE),
            subscription_ids: flag(prop::SUBSCRIPTION_ID_AVAILABLE),
            shared: flag(prop::SHARED_AVAILABLE),
            topic_alias_maximum: number(prop::TOPIC_ALIAS_MAXIMUM).unwrap_or(0) as u16,
            receive_maximum: number(prop::RECEIVE_MAXIMUM).unwrap_or(65_535) as u16,
            packet_bytes_max: number(prop::MAXIMUM_PACKET_SIZE),
            server_keep_alive: number(prop::SERVER_KEEP_ALIVE).map(|seconds| seconds as u16),
        }
    }
}

/// A test that cannot be run against this broker says so with this error; see [`skip`].
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skipped {}

/// The error by which a test is reported as skipped: `return skip("server announces Maximum QoS 1")`.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skipped(reason.into()).into())
}

/// The packets of one test, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Transcript(Arc<Mutex<Vec<String>>>);

impl Transcript {
    /// Adds a line.
    pub fn note(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// The newest `count` lines.
    pub fn last(&self, count: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines[lines.len().saturating_sub(count)..].to_vec()
    }
}

/// Everything a test needs.
#[derive(Debug)]
pub struct Ctx {
    setup: Arc<Setup>,
    limits: Option<Limits>,
    number: usize,
    clients: AtomicU32,
    started: Instant,
    transcript: Transcript,
    gathering: Option<Arc<Gathering>>,
}

impl Ctx {
    /// The context of test number `number`. Without `limits`, [`Ctx::limits`] is the specification's defaults.
    pub fn new(setup: Arc<Setup>, limits: Option<Limits>, number: usize, transcript: Transcript) -> Ctx {
        Ctx { setup, limits, number, clients: AtomicU32::new(0), started: Instant::now(), transcript, gathering: None }
    }

    /// The same for a test that restarts the broker together with the others of `gathering`.
    pub fn with_gathering(self, gathering: Arc<Gathering>) -> Ctx {
        Ctx { gathering: Some(gathering), ..self }
    }

    /// What the run was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What the broker announced.
    pub fn limits(&self) -> Limits {
        self.limits.clone().unwrap_or_else(|| Limits::of(&Connack::default()))
    }

    /// How long one expectation may take, within what is left of the test's time.
    pub fn step(&self) -> Duration {
        self.setup.step.min(self.deadline().saturating_duration_since(Instant::now()))
    }

    /// How long to wait for what a timer causes after `period`: coarse timers are no fault of the protocol.
    pub fn timer(&self, period: Duration) -> Duration {
        period + self.setup.timer_slack
    }

    /// When the test has to be over.
    pub fn deadline(&self) -> Instant {
        self.started + self.setup.test_limit
    }

    /// Ends the broker and starts it again, and returns when it accepts; every open connection is gone then. It is down for
    /// at least `down`, and for longer if another test wants so.
    pub fn restart(&self, down: Duration) -> Result<()> {
        let (Some(broker), Some(gathering)) = (&self.setup.broker, &self.gathering) else {
            return skip("the suite does not run the broker (see --broker-command), so it cannot restart it");
        };
        self.transcript.note("(the broker is restarted)".to_owned());
        gathering.restart(broker, down)
    }

    /// Whether [`Ctx::restart`] gives the broker no time to save anything.
    pub fn is_crash(&self) -> bool {
        self.gathering.as_ref().is_some_and(|gathering| gathering.ending() == Ending::Kill)
    }

    /// The test's transcript.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// A client id of at most 23 letters and digits (for tags of up to 12) that no other test or run uses.
    pub fn client_id(&self, tag: &str) -> String {
        format!("c{}{:03}{tag}", self.setup.run, self.number)
    }

    /// A topic that no other test or run uses.
    pub fn topic(&self, rest: &str) -> String {
        format!("conformance/{}/{:03}/{rest}", self.setup.run, self.number)
    }

    /// A truthful MQTT 5 CONNECT (Clean Start 1, keep alive 60) with a fresh client id and the valid credential, if one is known.
    pub fn v5(&self, tag: &str) -> Connect {
        self.connect_packet(Version::V5, tag)
    }

    /// The same for MQTT 3.1.1.
    pub fn v311(&self, tag: &str) -> Connect {
        self.connect_packet(Version::V311, tag)
    }

    /// The same for any version.
    pub fn connect_packet(&self, version: Version, tag: &str) -> Connect {
        let connect = Connect::new(version, self.client_id(tag));
        match &self.setup.credential {
            Some((name, password)) => connect.username(name).password(password),
            None => connect,
        }
    }

    /// Opens a connection without sending anything.
    pub fn open(&self, version: Version) -> Result<Client> {
        let label = self.clients.fetch_add(1, Ordering::Relaxed);
        Ok(Client::new(self.stream()?, version, format!("#{label}"), self))
    }

    /// Opens a bare stream to the MQTT listener.
    pub fn stream(&self) -> Result<Stream> {
        self.setup.target.open(self.step())
    }

    /// Opens a connection, sends `connect` and expects CONNACK 0x00, which is in `client.connack`.
    pub fn connect(&self, connect: &Connect) -> Result<Client> {
        let mut client = self.open(connect.version)?;
        client.send_connect(connect)?;
        client.connack = client.expect_accepted().context("connecting")?;
        Ok(client)
    }

    /// A connected MQTT 5 client with nothing special: `ctx.connect(&ctx.v5(tag))`.
    pub fn client(&self, tag: &str) -> Result<Client> {
        self.connect(&self.v5(tag))
    }
}
