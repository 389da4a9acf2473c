//! Those who are connected while the others storm.
//!
//! Owns a steady stream of messages from some vehicles to one backend, how long each took, and the wills that the backend is told of.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use mio::{Events, Poll, Token};
use serde::Serialize;

use super::{Fleet, commands};
use crate::latency::Latencies;
use crate::load::pipe::{Buffers, Pipe, Target};
use crate::process;
use crate::report::Format;
use crate::wire::{self, Connect, Version, first};

/// The token of the backend; vehicles have those after it.
const BACKEND: usize = 0;
/// VINs of vehicles whose wills are due begin with this.
const LEAVER: &str = "vehicles/CWLVR";

/// Who they are, and how much they say.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    fleet: Fleet,
    /// The broker's TCP listener, for the backend
    #[arg(long)]
    backend: SocketAddr,
    /// Messages a second, of all vehicles together
    #[arg(long, default_value_t = 500)]
    rate: u32,
    #[command(flatten)]
    format: Format,
}

/// What happened since the last time it was asked.
#[derive(Debug, Default, Serialize)]
struct Figures {
    sent: u64,
    received: u64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    latency_ms_max: f64,
    /// Wills of vehicles that stayed away.
    wills_due: u64,
    /// Wills of vehicles that came back.
    wills_false: u64,
}

struct Control {
    backend: Pipe,
    vehicles: Vec<Pipe>,
    poll: Poll,
    buffers: Buffers,
    began: Instant,
    latencies: Latencies,
    figures: Figures,
}

/// Sends and receives until its standard input ends. Each line of it is the name of what ends then, whose figures are printed.
///
/// # Errors
/// When the broker ends one of the connections.
pub(crate) fn run(options: &Options) -> Result<()> {
    process::open_all_files();
    ensure!(options.rate > 0, "nobody says anything");
    let mut control = Control::open(options)?;
    let commands = commands();
    let (pause, mut next, mut turn) = (Duration::from_secs(1) / options.rate, Instant::now(), 0);
    options.format.print("ready", &control.take_figures())?;
    loop {
        match commands.try_recv() {
            Ok(name) => options.format.print(&name, &control.take_figures())?,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        while next <= Instant::now() {
            control.send(turn)?;
            (turn, next) = (turn + 1, next + pause);
        }
        control.receive(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(5)))?;
    }
}

impl Control {
    fn open(options: &Options) -> Result<Control> {
        let poll = Poll::new()?;
        let plain = Target::new(options.backend, None, false)?;
        let (mut backend, _) = Pipe::open(&plain, &as_client("storm-backend"), Some(("vehicles/+/control", 0)))?;
        wire::subscribe(Version::V5, &mut backend.outgoing, "vehicles/+/will", 0);
        backend.flush()?;
        backend.register(poll.registry(), Token(BACKEND))?;
        let mut vehicles = Vec::new();
        for vehicle in options.fleet.vehicles()? {
            let (mut pipe, _) = Pipe::open(&vehicle.target, &as_client(&vehicle.vin), None)?;
            pipe.register(poll.registry(), Token(BACKEND + 1 + vehicles.len()))?;
            vehicles.push(pipe);
        }
        ensure!(!vehicles.is_empty(), "nobody is there");
        Ok(Control {
            backend,
            vehicles,
            poll,
            buffers: Buffers::new(),
            began: Instant::now(),
            latencies: Latencies::default(),
            figures: Figures::default(),
        })
    }

    fn take_figures(&mut self) -> Figures {
        let mut latencies = std::mem::take(&mut self.latencies);
        Figures {
            received: latencies.count() as u64,
            latency_ms_p50: latencies.percentile_ms(50),
            latency_ms_p99: latencies.percentile_ms(99),
            latency_ms_max: latencies.percentile_ms(100),
            ..std::mem::take(&mut self.figures)
        }
    }

    fn send(&mut self, turn: usize) -> Result<()> {
        let at = turn % self.vehicles.len();
        let stamp = (self.began.elapsed().as_nanos() as u64).to_be_bytes();
        wire::publish(Version::V5, &mut self.vehicles[at].outgoing, 0, "control", 0, &stamp);
        self.figures.sent += 1;
        Ok(self.vehicles[at].flush()?)
    }

    fn receive(&mut self, patience: Duration) -> Result<()> {
        let mut events = Events::with_capacity(256);
        match self.poll.poll(&mut events, Some(patience)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &events {
            match event.token() {
                Token(BACKEND) => self.hear()?,
                Token(token) => {
                    let vehicle = &mut self.vehicles[token - BACKEND - 1];
                    let filled = vehicle.read(&mut self.buffers)?;
                    ensure!(filled.length == 0, "the broker says something to a vehicle that asked for nothing");
                    vehicle.flush()?;
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        loop {
            let filled = self.backend.read(&mut self.buffers)?;
            let (mut start, end) = (0, filled.length);
            while let Some((body, header)) = wire::header(&self.buffers.plain[start..end])
                && start + header + body <= end
            {
                let kind = self.buffers.plain[start];
                let packet = start + header..start + header + body;
                start = packet.end;
                match kind & 0xF0 {
                    first::PUBLISH => self.note(kind, packet)?,
                    first::DISCONNECT => bail!("the broker ended the backend's connection"),
                    _ => {}
                }
            }
            let rest = self.buffers.plain[start..end].to_vec();
            self.backend.keep(&rest);
            if filled.is_drained {
                return Ok(());
            }
        }
    }

    fn note(&mut self, kind: u8, packet: std::ops::Range<usize>) -> Result<()> {
        let body = &self.buffers.plain[packet];
        let Some((_, payload)) = wire::read_publish(Version::V5, kind, body) else { bail!("a PUBLISH cut short") };
        match <[u8; 8]>::try_from(payload) {
            Ok(stamp) => {
                let sent = Duration::from_nanos(u64::from_be_bytes(stamp));
                self.latencies.add(self.began.elapsed().saturating_sub(sent));
            }
            Err(_) if body.get(2..).is_some_and(|topic| topic.starts_with(LEAVER.as_bytes())) => {
                self.figures.wills_due += 1;
            }
            Err(_) => self.figures.wills_false += 1,
        }
        Ok(())
    }
}

fn as_client(client_id: &str) -> Connect<'_> {
    Connect { client_id, ..Connect::default() }
}
