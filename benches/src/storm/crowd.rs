//! The vehicles that drop and come back.
//!
//! Owns each one's way in, again and again until it is in, and how long that took. Those whose VIN says so do not come back.

use std::io::ErrorKind;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use mio::{Events, Poll, Token};
use serde::Serialize;

use super::{Fleet, Vehicle, commands, connect_with_will};
use crate::latency::Latencies;
use crate::load::pipe::{Buffers, Pipe};
use crate::process;
use crate::report::Format;
use crate::wire::{self, Version, first};

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who is refused, or loses its connection on the way in, tries again after this, and a little more each time.
const RETRY: Duration = Duration::from_millis(500);
/// VINs of vehicles that stay away after they dropped begin with this.
const LEAVER: &str = "CWLVR";

/// Who they are, and what they leave.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    fleet: Fleet,
    /// Their wills are sent so many seconds after they drop
    #[arg(long, default_value_t = 30)]
    will_delay_seconds: u32,
    #[command(flatten)]
    format: Format,
}

/// How a round went.
#[derive(Debug, Default, Serialize)]
struct Figures {
    vehicles: usize,
    refused: usize,
    broken: usize,
    /// Connections that ended though nobody wanted it, since the round before.
    lost: usize,
    seconds: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    latency_ms_max: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Away,
    Connack,
    Puback,
    In,
}

struct Member {
    vehicle: Vehicle,
    stage: Stage,
    pipe: Option<Pipe>,
    /// The connection that a newer one takes over: nobody reads it.
    old: Option<Pipe>,
    retry_at: Option<Instant>,
    attempts: u32,
}

struct Crowd {
    members: Vec<Member>,
    poll: Poll,
    buffers: Buffers,
    will_delay_seconds: u32,
    /// Attempts have tokens of their own: events of earlier ones concern nobody.
    tokens: Vec<usize>,
    began: Instant,
    latencies: Latencies,
    figures: Figures,
}

/// Does what it is told until its standard input ends.
///
/// # Errors
/// When somebody waits in vain, or what it is told makes no sense.
pub(crate) fn run(options: &Options) -> Result<()> {
    process::open_all_files();
    let mut crowd = Crowd::new(options)?;
    let commands = commands();
    loop {
        match commands.try_recv() {
            Ok(command) => {
                match command.as_str() {
                    "connect" => crowd.begin_round(false, |_| true)?,
                    "storm" => crowd.begin_round(true, |vin| !vin.starts_with(LEAVER))?,
                    "takeover" => crowd.begin_round(false, |vin| !vin.starts_with(LEAVER))?,
                    _ => bail!("what is {command:?}?"),
                }
                let figures = crowd.gather()?;
                options.format.print(&command, &figures)?;
            }
            Err(TryRecvError::Empty) => crowd.turn(Duration::from_millis(20))?,
            Err(TryRecvError::Disconnected) => return crowd.leave(),
        }
    }
}

impl Crowd {
    fn new(options: &Options) -> Result<Crowd> {
        let member =
            |vehicle| Member { vehicle, stage: Stage::Away, pipe: None, old: None, retry_at: None, attempts: 0 };
        Ok(Crowd {
            members: options.fleet.vehicles()?.into_iter().map(member).collect(),
            poll: Poll::new()?,
            buffers: Buffers::new(),
            will_delay_seconds: options.will_delay_seconds,
            tokens: Vec::new(),
            began: Instant::now(),
            latencies: Latencies::default(),
            figures: Figures::default(),
        })
    }

    /// All of those begin to connect now; where they drop, their connections end first, with a reset.
    fn begin_round(&mut self, drops: bool, comes: impl Fn(&str) -> bool) -> Result<()> {
        self.began = Instant::now();
        self.latencies = Latencies::default();
        self.figures = Figures { lost: self.figures.lost, ..Figures::default() };
        for member in &mut self.members {
            let pipe = member.pipe.take();
            member.old = pipe.filter(|_| !drops);
            (member.stage, member.attempts) = (Stage::Away, 0);
        }
        for at in 0..self.members.len() {
            if comes(&self.members[at].vehicle.vin) {
                self.figures.vehicles += 1;
                self.attempt(at)?;
            }
        }
        Ok(())
    }

    fn attempt(&mut self, at: usize) -> Result<()> {
        let member = &mut self.members[at];
        let mut pipe = Pipe::begin(&member.vehicle.target)?;
        pipe.reset_when_dropped()?;
        connect_with_will(&mut pipe.outgoing, &member.vehicle.vin, self.will_delay_seconds);
        pipe.register(self.poll.registry(), Token(self.tokens.len()))?;
        self.tokens.push(at);
        (member.pipe, member.stage, member.retry_at) = (Some(pipe), Stage::Connack, None);
        member.attempts += 1;
        Ok(())
    }

    /// Returns once all are in.
    fn gather(&mut self) -> Result<Figures> {
        let mut progress = (0, Instant::now());
        while self.latencies.count() < self.figures.vehicles {
            self.turn(Duration::from_millis(20))?;
            if self.latencies.count() > progress.0 {
                progress = (self.latencies.count(), Instant::now());
            }
            let missing = self.figures.vehicles - self.latencies.count();
            ensure!(progress.1.elapsed() < PATIENCE, "{missing} vehicles try in vain");
        }
        // What was taken over is closed by now, or not worth more.
        self.members.iter_mut().for_each(|member| member.old = None);
        Ok(Figures {
            seconds: self.began.elapsed().as_secs_f64(),
            latency_ms_p50: self.latencies.percentile_ms(50),
            latency_ms_p99: self.latencies.percentile_ms(99),
            latency_ms_max: self.latencies.percentile_ms(100),
            ..std::mem::take(&mut self.figures)
        })
    }

    /// Deals with what has come, and begins again where that is due.
    fn turn(&mut self, patience: Duration) -> Result<()> {
        let mut events = Events::with_capacity(4096);
        match self.poll.poll(&mut events, Some(patience)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let newest = |tokens: &[usize], token: usize| tokens.get(token).copied();
        for event in &events {
            let Token(token) = event.token();
            let Some(at) = newest(&self.tokens, token) else { continue };
            if self.members[at].pipe.is_some() && self.step(at).is_err() {
                self.give_up(at);
            }
        }
        let now = Instant::now();
        for at in 0..self.members.len() {
            if self.members[at].retry_at.is_some_and(|due| due <= now) {
                self.attempt(at)?;
            }
        }
        Ok(())
    }

    /// Its connection is no more.
    fn give_up(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.pipe = None;
        match member.stage {
            Stage::In => self.figures.lost += 1,
            Stage::Away => {}
            Stage::Connack | Stage::Puback => {
                self.figures.broken += 1;
                member.retry_at = Some(Instant::now() + RETRY * member.attempts);
            }
        }
        member.stage = Stage::Away;
    }

    fn step(&mut self, at: usize) -> Result<()> {
        let member = &mut self.members[at];
        let Some(pipe) = &mut member.pipe else { return Ok(()) };
        // Before the connection is open, nothing is there.
        let filled = match pipe.read(&mut self.buffers) {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
            filled => filled?,
        };
        let (mut start, end) = (0, filled.length);
        while let Some((body, header)) = wire::header(&self.buffers.plain[start..end])
            && start + header + body <= end
        {
            let (kind, body) = (self.buffers.plain[start], &self.buffers.plain[start + header..start + header + body]);
            start += header + body.len();
            match (member.stage, kind) {
                (Stage::Connack, first::CONNACK) if body.get(1) == Some(&0) => {
                    const QOS_1: u8 = 0x02;
                    wire::publish(Version::V5, &mut pipe.outgoing, QOS_1, "hello", 1, b"here");
                    member.stage = Stage::Puback;
                }
                (Stage::Connack, first::CONNACK) => {
                    self.figures.refused += 1;
                    bail!("refused");
                }
                (Stage::Puback, first::PUBACK) => {
                    member.stage = Stage::In;
                    self.latencies.add(self.began.elapsed());
                }
                (_, first::DISCONNECT) => bail!("disconnected"),
                _ => {}
            }
        }
        let rest = self.buffers.plain[start..end].to_vec();
        pipe.keep(&rest);
        pipe.flush()?;
        Ok(())
    }

    /// All leave as they should, so that nothing of them is left.
    fn leave(mut self) -> Result<()> {
        for member in &mut self.members {
            if let Some(pipe) = &mut member.pipe {
                pipe.outgoing.extend_from_slice(wire::DISCONNECT);
                // Whoever is gone already has left.
                let _ = pipe.flush();
            }
        }
        Ok(())
    }
}
