//! The scenario `arrive`: very many clients connect, a few or all at the same time, and stay or leave.
//!
//! Owns connections a second, what each costs the broker in processor time
//! and memory, and how long each waits. Storms are all at once.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};
use serde::Serialize;

use crate::load::pipe::{Buffers, Pipe, Target};
use crate::plot::curves::{self, Line, Spreads};
use crate::process;
use crate::report::Format;
use crate::wire::{self, Connack, Connect, Version, first};

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// From the last answer to when the broker's memory is looked at: it may have something to put away.
const SETTLING_TIME: Duration = Duration::from_secs(2);

/// What every frame from a client has: a mask. This one changes nothing.
const MASK: [u8; 4] = [0; 4];

/// Who arrives, and where.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    shape: Shape,
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// The broker's process, where it is on this machine
    #[arg(long)]
    pid: Option<u32>,
    /// Stay so much longer, in seconds
    #[arg(long, default_value_t = 0)]
    stay_seconds: u64,
    /// Speak TLS, and trust the authority with the certificate in this file
    #[arg(long, value_name = "FILE")]
    tls: Option<PathBuf>,
    /// Bind the load to this processor core
    #[arg(long)]
    core: Option<usize>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    spreads: Spreads,
}

/// Who arrives, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// How many connect
    #[arg(long, default_value_t = 10_000)]
    pub(crate) clients: usize,
    /// How many of them do so at the same time
    #[arg(long, default_value_t = 64)]
    pub(crate) at_once: usize,
    /// Leave once connected; without it each subscribes to a filter of its own and stays until the last has come
    #[arg(long)]
    pub(crate) leave: bool,
    /// Resume TLS sessions where the broker lets a client
    #[arg(long)]
    pub(crate) resume: bool,
    /// Speak MQTT in WebSocket frames
    #[arg(long)]
    pub(crate) web_socket: bool,
    /// Which MQTT to speak
    #[arg(long, value_enum, default_value_t = Version::V311)]
    pub(crate) version: Version,
}

/// How it went.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) clients: usize,
    pub(crate) failures: usize,
    /// How many took a TLS session up again.
    pub(crate) resumed: usize,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// From when a client began to connect until all its answers had come.
    pub(crate) latency_ms_p50: f64,
    pub(crate) latency_ms_p99: f64,
    pub(crate) latency_ms_max: f64,
    pub(crate) broker_cpu_ms_per_client: Option<f64>,
    /// What the broker's memory grew by, for each client that stayed.
    pub(crate) broker_bytes_per_client: Option<f64>,
    pub(crate) load_cpu_seconds: f64,
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The end of the answer to its HTTP request.
    Upgrade,
    Connack,
    Suback,
    Done,
}

#[derive(Debug)]
struct Client {
    pipe: Option<Pipe>,
    stage: Stage,
    began: Instant,
}

/// Lets everybody arrive and prints the figures.
///
/// # Errors
/// When the broker cannot be reached, or does not answer everybody.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(core) = options.core {
        process::bind_to_core(core)?;
    }
    let target = Target::new(options.target, options.tls.as_deref(), options.shape.resume)?;
    let (figures, crowd) = measure(&options.shape, target, options.pid)?;
    options.format.print("arrived", &figures)?;
    let subtitle = format!(
        "{} clients, {} at a time: from when each began until it was answered",
        figures.clients, options.shape.at_once
    );
    options.spreads.draw("Latency of connects", &subtitle, vec![crowd.line()])?;
    // Somebody looks at the broker meanwhile.
    std::thread::sleep(Duration::from_secs(options.stay_seconds));
    drop(crowd);
    ensure!(figures.failures == 0, "{} clients were not let in", figures.failures);
    Ok(())
}

/// Lets everybody arrive. Those who stay do so until the crowd is dropped.
///
/// # Errors
/// When somebody waits in vain.
pub(crate) fn measure(shape: &Shape, target: Target, pid: Option<u32>) -> Result<(Figures, Crowd)> {
    ensure!(shape.at_once > 0, "nobody arrives");
    process::open_all_files();
    let mut crowd = Crowd::new(shape.clone(), target)?;
    let resident_before = pid.map(process::resident_bytes).transpose()?;
    let cpu_before = pid.map(process::cpu_seconds).transpose()?;
    let load_before = process::cpu_seconds(std::process::id())?;
    let began = Instant::now();
    crowd.gather()?;
    let seconds = began.elapsed().as_secs_f64();
    let load_cpu_seconds = process::cpu_seconds(std::process::id())? - load_before;
    let cpu_after = pid.map(process::cpu_seconds).transpose()?;
    let mut grown = None;
    if let (Some(pid), Some(before), false) = (pid, resident_before, shape.leave) {
        // The broker's allocator gives back what it does not need by the clock; nothing tells when it has.
        std::thread::sleep(SETTLING_TIME);
        grown = Some(process::resident_bytes(pid)?.saturating_sub(before));
    }
    let arrived = crowd.latencies.len() as f64;
    let latency = |quantile| crowd.latencies.value_at_quantile(quantile) as f64 / 1e6;
    let figures = Figures {
        clients: shape.clients,
        failures: crowd.failures,
        resumed: crowd.resumed,
        seconds,
        per_second: arrived / seconds,
        latency_ms_p50: latency(0.5),
        latency_ms_p99: latency(0.99),
        latency_ms_max: latency(1.0),
        broker_cpu_ms_per_client: cpu_before.zip(cpu_after).map(|(before, after)| (after - before) * 1e3 / arrived),
        broker_bytes_per_client: grown.map(|bytes| bytes as f64 / arrived),
        load_cpu_seconds,
    };
    Ok((figures, crowd))
}

/// Those who arrive.
#[derive(Debug)]
pub(crate) struct Crowd {
    shape: Shape,
    target: Target,
    poll: Poll,
    buffers: Buffers,
    clients: Vec<Client>,
    /// How many have begun and not been answered.
    under_way: usize,
    failures: usize,
    resumed: usize,
    /// In nanoseconds.
    latencies: Histogram<u64>,
}

impl Crowd {
    fn new(shape: Shape, target: Target) -> Result<Self> {
        Ok(Self {
            target,
            poll: Poll::new()?,
            buffers: Buffers::new(),
            clients: Vec::with_capacity(shape.clients),
            shape,
            under_way: 0,
            failures: 0,
            resumed: 0,
            latencies: Histogram::new_with_bounds(1_000, 600_000_000_000, 3)?,
        })
    }

    fn line(&self) -> Line {
        let milliseconds = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e6;
        Line { name: "connects".to_owned(), points: curves::percentiles(self.latencies.len(), milliseconds) }
    }

    /// Returns once everybody has been answered.
    fn gather(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(4_096);
        let mut last_progress = Instant::now();
        while self.under_way > 0 || self.clients.len() < self.shape.clients {
            while self.under_way < self.shape.at_once && self.clients.len() < self.shape.clients {
                self.begin()?;
            }
            match self.poll.poll(&mut events, Some(Duration::from_secs(1))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                let Token(index) = event.token();
                // The first failure says why, the others are counted.
                if let Err(error) = self.turn(index) {
                    if self.failures == 0 {
                        eprintln!("client {index}: {error:#}");
                    }
                    self.failures += 1;
                    self.under_way -= usize::from(self.clients[index].stage != Stage::Done);
                    self.clients[index].stage = Stage::Done;
                    self.clients[index].pipe = None;
                }
                last_progress = Instant::now();
            }
            ensure!(last_progress.elapsed() < PATIENCE, "{} clients wait in vain", self.under_way);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        let index = self.clients.len();
        let began = Instant::now();
        let mut pipe = Pipe::begin(&self.target)?;
        let stage = if self.shape.web_socket {
            let request = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Protocol: mqtt\r\n\r\n";
            pipe.outgoing.extend(request.as_bytes());
            Stage::Upgrade
        } else {
            Stage::Connack
        };
        pipe.register(self.poll.registry(), Token(index))?;
        self.clients.push(Client { pipe: Some(pipe), stage, began });
        self.under_way += 1;
        if stage == Stage::Connack {
            self.say_hello(index);
        }
        Ok(())
    }

    fn say_hello(&mut self, index: usize) {
        let name = format!("arrival-{}-{index}", std::process::id());
        let version = self.shape.version;
        let connect = Connect { version, client_id: &name, keep_alive_seconds: u16::MAX, ..Connect::default() };
        let mut packet = Vec::new();
        connect.write(&mut packet);
        self.send(index, &packet);
    }

    fn send(&mut self, index: usize, packet: &[u8]) {
        let Some(pipe) = &mut self.clients[index].pipe else { return };
        if self.shape.web_socket {
            // Packets here are shorter than 126 bytes: their length takes one byte.
            pipe.outgoing.extend([0x82, 0x80 | packet.len() as u8]);
            pipe.outgoing.extend(MASK);
        }
        pipe.outgoing.extend(packet);
    }

    /// Reads what has come, answers it, and writes.
    fn turn(&mut self, index: usize) -> Result<()> {
        let Some(pipe) = &mut self.clients[index].pipe else { return Ok(()) };
        let filled = match pipe.read(&mut self.buffers) {
            // Not open yet: another event will tell.
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
            result => result?,
        };
        let bytes = self.buffers.plain[..filled.length].to_vec();
        let mut rest = bytes.as_slice();
        while let Some(taken) = self.take(index, rest)? {
            rest = &rest[taken..];
        }
        let Some(pipe) = &mut self.clients[index].pipe else { return Ok(()) };
        pipe.keep(rest);
        match pipe.flush() {
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            result => Ok(result?),
        }
    }

    /// Handles what comes first in `bytes`, if it is there as a whole. How long it is.
    fn take(&mut self, index: usize, bytes: &[u8]) -> Result<Option<usize>> {
        if self.clients[index].stage == Stage::Upgrade {
            const END: &[u8] = b"\r\n\r\n";
            let Some(at) = bytes.windows(END.len()).position(|window| window == END) else { return Ok(None) };
            ensure!(bytes.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&bytes[..at]));
            self.clients[index].stage = Stage::Connack;
            self.say_hello(index);
            return Ok(Some(at + END.len()));
        }
        // A frame's two bytes: its kind, and its length below 126.
        let frame = if self.shape.web_socket { 2 } else { 0 };
        let Some((body, header)) = bytes.get(frame..).and_then(wire::header) else { return Ok(None) };
        let Some(packet) = bytes.get(frame..frame + header + body) else { return Ok(None) };
        let body = &packet[header..];
        match (self.clients[index].stage, packet[0]) {
            (Stage::Connack, first::CONNACK) => {
                Connack::read(self.shape.version, body)?;
                if self.shape.leave {
                    self.send(index, wire::DISCONNECT);
                    self.finish(index)?;
                    self.clients[index].pipe = None;
                } else {
                    let mut packet = Vec::new();
                    wire::subscribe(self.shape.version, &mut packet, &format!("arrivals/{index:05}/command"), 1);
                    self.send(index, &packet);
                    self.clients[index].stage = Stage::Suback;
                }
            }
            (Stage::Suback, first::SUBACK) => {
                ensure!(body.last() == Some(&1), "SUBACK {body:?}");
                self.finish(index)?;
            }
            (stage, other) => bail!("a packet {other:#04x} while waiting for {stage:?}"),
        }
        Ok(Some(frame + packet.len()))
    }

    fn finish(&mut self, index: usize) -> Result<()> {
        let client = &mut self.clients[index];
        client.stage = Stage::Done;
        self.latencies.saturating_record(client.began.elapsed().as_nanos() as u64);
        self.under_way -= 1;
        let pipe = client.pipe.as_mut().context("a client that has left is answered")?;
        self.resumed += usize::from(pipe.is_resumed());
        Ok(pipe.flush()?)
    }
}
