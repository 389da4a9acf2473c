//! One thread that publishes on many connections and receives on many others.
//!
//! Owns the loop, the windows and the clock of a run. Packets are patched
//! copies of one that was made before; nothing is allocated for a message.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use super::check::{Check, Faults, Own, Shared};
use super::pipe::{Buffers, Pipe, Target};
use super::scenario::{Pattern, Scenario, Sessions};
use crate::process;
use crate::wire::{self, Connect, Version, first};

/// At the front of each payload: publisher and number (4 bytes each), and when it was due, in nanoseconds of the run.
pub(crate) const STAMP_BYTES: usize = 16;

/// Where more is waiting than this, nothing is added to it: what is due waits unwritten.
const OUTGOING_BYTES_MAX: usize = 1024 * 1024;

/// How long nothing may come, once no more is sent, before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keep-alive of all connections, in seconds: idle ones need no ping in any run.
const KEEP_ALIVE_SECONDS: u16 = u16::MAX;

/// How long the sessions of those who are away last.
const SESSION_SECONDS: u32 = 3_600;

/// The longest latency that is told apart.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// What to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) scenario: Scenario,
    pub(crate) qos: u8,
    pub(crate) version: Version,
    pub(crate) payload_bytes: usize,
    pub(crate) window: u32,
    /// Messages a second, of all publishers together.
    pub(crate) rate: Option<u64>,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    /// The broker's process, where it is on this machine.
    pub(crate) pid: Option<u32>,
}

/// What came of it. Counts are of the measured time, but for the faults, which are of the whole run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) checked: u64,
    pub(crate) refused: u64,
    pub(crate) faults: Faults,
    /// From when a message was due until it was there, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) load_cpu_seconds: f64,
    pub(crate) broker_cpu_seconds: Option<f64>,
    pub(crate) broker_resident_bytes: Option<u64>,
    pub(crate) acknowledged: u64,
    /// How those who were away got what waited for them.
    pub(crate) drain: Option<Drain>,
}

/// From when the first of those who were away came back, until the last had everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drain {
    pub(crate) seconds: f64,
    pub(crate) delivered: u64,
    pub(crate) broker_cpu_seconds: Option<f64>,
}

/// Connects everybody, runs the load and checks what came.
///
/// # Errors
/// When the broker refuses, or gives up a connection.
pub(crate) fn run(plan: &Plan) -> Result<Outcome> {
    let mut engine = Engine::connect(plan)?;
    engine.run()?;
    engine.outcome()
}

#[derive(Debug)]
struct Publisher {
    /// A whole PUBLISH; identifier and stamp are to be written over.
    template: Vec<u8>,
    id_at: usize,
    stamp_at: usize,
    window: u32,
    sent: u32,
    acknowledged: u32,
    /// Deliveries of its messages, to all subscribers together.
    delivered: u64,
    /// Whether it stands in the queue to be pumped.
    is_queued: bool,
}

/// Figures at one moment.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Duration,
    sent: u64,
    acknowledged: u64,
    delivered: u64,
    load_cpu_seconds: f64,
    broker_cpu_seconds: Option<f64>,
}

struct Engine<'a> {
    plan: &'a Plan,
    poll: Poll,
    /// First those of the publishers, then those of the subscribers, once they are there.
    pipes: Vec<Pipe>,
    publishers: Vec<Publisher>,
    check: Check,
    buffers: Buffers,
    began: Instant,
    /// Publishers that may have something to send.
    to_pump: Vec<usize>,
    /// Pipes with something to be written, and whether each is among them.
    to_flush: Vec<usize>,
    is_to_flush: Vec<bool>,
    /// Pipes with something left to be read.
    to_read: Vec<usize>,
    /// Messages whose time has come, of all publishers together.
    due: u64,
    is_sending: bool,
    delivered: u64,
    refused: u64,
    latencies: Histogram<u64>,
    marks: Vec<Mark>,
    broker_resident_bytes: Option<u64>,
    /// When those who were away came back, and the broker's processor time until then.
    woken: Option<(Duration, Option<f64>)>,
    drain: Option<Drain>,
}

impl<'a> Engine<'a> {
    fn connect(plan: &'a Plan) -> Result<Self> {
        process::open_all_files();
        let scenario = &plan.scenario;
        let poll = Poll::new()?;
        // Before the publishers, so that nothing is sent to nobody.
        let mut subscribers = Vec::new();
        for index in 0..scenario.subscribers {
            subscribers.push(open_subscriber(plan, index, true)?);
        }
        let mut pipes = Vec::new();
        let mut publishers = Vec::new();
        for index in 0..scenario.publishers {
            let filter = scenario.command_filter(index);
            let connect = connect(plan);
            let name = format!("publisher-{}-{index}", std::process::id());
            let connect = Connect { client_id: &name, ..connect };
            let subscription = filter.as_deref().map(|filter| (filter, plan.qos));
            let (pipe, connack) = Pipe::open(&plan.target, &connect, subscription).with_context(|| name.clone())?;
            pipes.push(pipe);
            publishers.push(Publisher::new(plan, index, connack.receive_maximum));
        }
        if scenario.is_away() {
            ensure!(plan.qos > 0, "nothing waits for those who are away with QoS 0");
            leave(&mut subscribers)?;
        } else {
            pipes.append(&mut subscribers);
        }
        for (index, pipe) in pipes.iter_mut().enumerate() {
            pipe.register(poll.registry(), Token(index))?;
        }
        let check = match scenario.pattern {
            Pattern::Shared => Check::Shared(Shared::new(scenario.publishers, scenario.subscribers)),
            _ => {
                let own = |subscriber| Own::new(scenario.publishers, |from| scenario.is_for(subscriber, from));
                Check::Own((0..scenario.subscribers).map(own).collect())
            }
        };
        Ok(Self {
            plan,
            poll,
            is_to_flush: vec![false; scenario.publishers + scenario.subscribers],
            to_flush: Vec::with_capacity(scenario.publishers + scenario.subscribers),
            to_read: Vec::with_capacity(scenario.publishers + scenario.subscribers),
            to_pump: Vec::with_capacity(publishers.len()),
            pipes,
            publishers,
            check,
            buffers: Buffers::new(),
            began: Instant::now(),
            due: 0,
            is_sending: true,
            delivered: 0,
            refused: 0,
            latencies: Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3)?,
            marks: Vec::with_capacity(2),
            broker_resident_bytes: None,
            woken: None,
            drain: None,
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(4_096);
        self.began = Instant::now();
        if self.plan.rate.is_none() {
            (0..self.publishers.len()).for_each(|publisher| self.queue_to_pump(publisher));
        }
        let mut last_progress = (0, Duration::ZERO);
        loop {
            let now = self.began.elapsed();
            self.note_due(now);
            while let Some(publisher) = self.to_pump.pop() {
                self.pump(publisher, now);
            }
            while let Some(index) = self.to_flush.pop() {
                self.is_to_flush[index] = false;
                self.pipes[index].flush().with_context(|| self.name(index))?;
            }
            // Once all is sent that is due by now.
            self.pass_marks(now)?;
            if !self.is_sending {
                let progress = self.progress();
                if self.plan.scenario.is_away() && self.woken.is_none() && self.is_acknowledged() {
                    self.wake(now)?;
                }
                if self.is_complete() || (last_progress.0 == progress && now - last_progress.1 > PATIENCE) {
                    return self.end(self.began.elapsed());
                }
                if last_progress.0 != progress {
                    last_progress = (progress, now);
                }
            }
            match self.poll.poll(&mut events, Some(self.patience(now))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for index in std::mem::take(&mut self.to_read) {
                self.read(index)?;
            }
            for event in &events {
                let Token(index) = event.token();
                if event.is_writable() && self.pipes[index].is_stuck() {
                    self.queue_to_flush(index);
                    if index < self.publishers.len() {
                        self.queue_to_pump(index);
                    }
                }
                if event.is_readable() {
                    self.read(index)?;
                    if event.is_read_closed() {
                        // Its end came along with its last bytes, and has no event of its own.
                        self.to_read.push(index);
                    }
                }
            }
        }
    }

    /// How long the poll may wait.
    fn patience(&self, now: Duration) -> Duration {
        if !self.to_read.is_empty() {
            return Duration::ZERO;
        }
        match self.plan.rate {
            // The poll's clock is a millisecond wide: closer than two to the next message this thread must not sleep.
            Some(rate) if self.is_sending => {
                let next = due_at(self.due, rate);
                next.saturating_sub(now + Duration::from_millis(2)).min(Duration::from_millis(50))
            }
            _ => Duration::from_millis(20),
        }
    }

    /// Takes the figures at both edges of the measured time, and ends the sending at the second.
    fn pass_marks(&mut self, now: Duration) -> Result<()> {
        let edges = [self.plan.warm_up, self.plan.warm_up + self.plan.duration];
        if edges.get(self.marks.len()).is_none_or(|edge| now < *edge) {
            return Ok(());
        }
        self.marks.push(Mark {
            at: now,
            sent: self.sent(),
            acknowledged: self.acknowledged(),
            delivered: self.delivered,
            load_cpu_seconds: process::cpu_seconds(std::process::id())?,
            broker_cpu_seconds: self.plan.pid.map(process::cpu_seconds).transpose()?,
        });
        if self.marks.len() == edges.len() {
            self.is_sending = false;
            self.broker_resident_bytes = self.plan.pid.map(process::resident_bytes).transpose()?;
        }
        Ok(())
    }

    /// Queues the publishers whose next message's time has come.
    fn note_due(&mut self, now: Duration) {
        let (Some(rate), true) = (self.plan.rate, self.is_sending) else { return };
        let due = (now.as_nanos() * u128::from(rate) / 1_000_000_000) as u64 + 1;
        let publishers = self.publishers.len() as u64;
        for message in self.due.max(due.saturating_sub(publishers))..due {
            self.queue_to_pump((message % publishers) as usize);
        }
        self.due = due;
    }

    /// Sends what a publisher may send now.
    fn pump(&mut self, index: usize, now: Duration) {
        self.publishers[index].is_queued = false;
        if !self.is_sending {
            return;
        }
        let count = self.publishers.len() as u64;
        let publisher = &mut self.publishers[index];
        let pipe = &mut self.pipes[index];
        let open = publisher.open_window(self.plan);
        let due = match self.plan.rate {
            // Its messages are number index, index + count, and so on.
            Some(_) => (self.due + count - 1 - index as u64) / count - u64::from(publisher.sent),
            None => u64::MAX,
        };
        let to_send = u64::from(open).min(due);
        for _ in 0..to_send {
            if pipe.outgoing.len() > OUTGOING_BYTES_MAX {
                break;
            }
            let due_at = match self.plan.rate {
                Some(rate) => due_at(u64::from(publisher.sent) * count + index as u64, rate),
                None => now,
            };
            publisher.write(&mut pipe.outgoing, index, due_at, self.plan.qos);
        }
        if !pipe.outgoing.is_empty() {
            self.queue_to_flush(index);
        }
    }

    /// Brings those back who were away.
    fn wake(&mut self, now: Duration) -> Result<()> {
        self.woken = Some((now, self.plan.pid.map(process::cpu_seconds).transpose()?));
        for index in 0..self.plan.scenario.subscribers {
            let mut pipe = open_subscriber(self.plan, index, false)?;
            pipe.register(self.poll.registry(), Token(self.pipes.len()))?;
            // In TLS, messages may have come along with the answer.
            self.to_read.push(self.pipes.len());
            self.pipes.push(pipe);
        }
        Ok(())
    }

    fn end(&mut self, now: Duration) -> Result<()> {
        if let Some((woken, cpu_seconds)) = self.woken {
            let cpu = cpu_seconds.zip(self.plan.pid.map(process::cpu_seconds).transpose()?);
            self.drain = Some(Drain {
                seconds: (now - woken).as_secs_f64(),
                delivered: self.delivered,
                broker_cpu_seconds: cpu.map(|(before, after)| after - before),
            });
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<()> {
        let filled = self.pipes[index].read(&mut self.buffers).with_context(|| self.name(index))?;
        if !filled.is_drained {
            self.to_read.push(index);
        }
        let now = self.began.elapsed();
        // Taken out while it is looked at, and put back.
        let plain = std::mem::take(&mut self.buffers.plain);
        let mut taken = 0;
        let bytes = &plain[..filled.length];
        while let Some((body, header)) = wire::header(&bytes[taken..]) {
            let Some(packet) = bytes.get(taken..taken + header + body) else { break };
            self.handle(index, packet[0], &packet[header..], now)?;
            taken += packet.len();
        }
        self.pipes[index].keep(&bytes[taken..]);
        self.buffers.plain = plain;
        if !self.pipes[index].outgoing.is_empty() {
            self.queue_to_flush(index);
        }
        Ok(())
    }

    fn handle(&mut self, index: usize, kind: u8, body: &[u8], now: Duration) -> Result<()> {
        match kind {
            _ if kind & 0xF0 == first::PUBLISH => {
                let (id, payload) = wire::read_publish(self.plan.version, kind, body).context("a PUBLISH cut short")?;
                self.receive(index, payload, now)?;
                match kind >> 1 & 3 {
                    0 => {}
                    1 => wire::ack(&mut self.pipes[index].outgoing, first::PUBACK, id),
                    _ => wire::ack(&mut self.pipes[index].outgoing, first::PUBREC, id),
                }
            }
            first::PUBACK | first::PUBCOMP => self.acknowledge(index, body)?,
            first::PUBREC => {
                let (id, reason) = wire::read_ack(body).context("an empty PUBREC")?;
                if reason >= 0x80 {
                    self.acknowledge(index, body)?;
                } else {
                    wire::ack(&mut self.pipes[index].outgoing, first::PUBREL, id);
                }
            }
            first::PUBREL => {
                let (id, _) = wire::read_ack(body).context("an empty PUBREL")?;
                wire::ack(&mut self.pipes[index].outgoing, first::PUBCOMP, id);
            }
            first::PINGRESP => {}
            first::DISCONNECT => bail!("{}: the broker says goodbye: {body:?}", self.name(index)),
            other => bail!("{}: a packet {other:#04x}", self.name(index)),
        }
        Ok(())
    }

    /// A message is there.
    fn receive(&mut self, index: usize, payload: &[u8], now: Duration) -> Result<()> {
        let stamp: &[u8; STAMP_BYTES] = payload.first_chunk().context("a payload without a stamp")?;
        ensure!(payload.len() == self.plan.payload_bytes, "a payload of {} bytes", payload.len());
        let subscriber = index.checked_sub(self.publishers.len());
        let subscriber = subscriber.with_context(|| format!("{} got a message", self.name(index)))?;
        let [p0, p1, p2, p3, s0, s1, s2, s3, due @ ..] = *stamp;
        let publisher = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
        let due = Duration::from_nanos(u64::from_le_bytes(due));
        self.check.note(subscriber, publisher, u32::from_le_bytes([s0, s1, s2, s3]));
        self.delivered += 1;
        let measured = self.plan.warm_up..self.plan.warm_up + self.plan.duration;
        if measured.contains(&due) && !self.plan.scenario.is_away() {
            self.latencies.saturating_record(now.saturating_sub(due).as_nanos() as u64);
        }
        if let Some(state) = self.publishers.get_mut(publisher) {
            state.delivered += 1;
            self.queue_to_pump(publisher);
        }
        Ok(())
    }

    fn acknowledge(&mut self, index: usize, body: &[u8]) -> Result<()> {
        let (_, reason) = wire::read_ack(body).context("an empty acknowledgement")?;
        self.refused += u64::from(reason >= 0x80);
        self.publishers.get_mut(index).context("a subscriber is acknowledged")?.acknowledged += 1;
        self.queue_to_pump(index);
        Ok(())
    }

    fn queue_to_pump(&mut self, publisher: usize) {
        if !std::mem::replace(&mut self.publishers[publisher].is_queued, true) {
            self.to_pump.push(publisher);
        }
    }

    fn queue_to_flush(&mut self, index: usize) {
        if !std::mem::replace(&mut self.is_to_flush[index], true) {
            self.to_flush.push(index);
        }
    }

    fn sent(&self) -> u64 {
        self.publishers.iter().map(|publisher| u64::from(publisher.sent)).sum()
    }

    fn acknowledged(&self) -> u64 {
        self.publishers.iter().map(|publisher| u64::from(publisher.acknowledged)).sum()
    }

    /// Grows with everything that comes.
    fn progress(&self) -> u64 {
        self.delivered + self.acknowledged()
    }

    fn is_acknowledged(&self) -> bool {
        self.plan.qos == 0 || self.publishers.iter().all(|publisher| publisher.acknowledged == publisher.sent)
    }

    fn is_complete(&self) -> bool {
        self.delivered >= self.sent() * self.plan.scenario.copies() && self.is_acknowledged()
    }

    fn name(&self, index: usize) -> String {
        match index.checked_sub(self.publishers.len()) {
            Some(subscriber) => format!("subscriber {subscriber}"),
            None => format!("publisher {index}"),
        }
    }

    fn outcome(mut self) -> Result<Outcome> {
        leave(&mut self.pipes)?;
        if self.plan.scenario.sessions != Sessions::Clean {
            forget(self.plan)?;
        }
        let [from, to] = self.marks[..] else { bail!("the run ended before it was measured") };
        let sent: Vec<u32> = self.publishers.iter().map(|publisher| publisher.sent).collect();
        let broker_cpu = from.broker_cpu_seconds.zip(to.broker_cpu_seconds);
        Ok(Outcome {
            seconds: (to.at - from.at).as_secs_f64(),
            sent: to.sent - from.sent,
            delivered: to.delivered - from.delivered,
            checked: self.delivered,
            refused: self.refused,
            faults: self.check.faults(&sent),
            latencies: self.latencies,
            load_cpu_seconds: to.load_cpu_seconds - from.load_cpu_seconds,
            broker_cpu_seconds: broker_cpu.map(|(from, to)| to - from),
            broker_resident_bytes: self.broker_resident_bytes,
            acknowledged: to.acknowledged - from.acknowledged,
            drain: self.drain,
        })
    }
}

impl Publisher {
    fn new(plan: &Plan, index: usize, receive_maximum: u16) -> Self {
        let topic = plan.scenario.topic(index);
        let mut template = Vec::new();
        wire::publish(plan.version, &mut template, plan.qos << 1, &topic, 1, &vec![0x5A; plan.payload_bytes]);
        let stamp_at = template.len() - plan.payload_bytes;
        let id_at = stamp_at - usize::from(plan.version.has_properties()) - 2;
        // Identifiers are 16 bits wide, and 0 is none.
        let bound = if plan.qos == 0 { u32::MAX } else { u32::from(receive_maximum).min(60_000) };
        let window = plan.window.min(bound);
        Self { template, id_at, stamp_at, window, sent: 0, acknowledged: 0, delivered: 0, is_queued: false }
    }

    /// How many messages it may send now.
    fn open_window(&self, plan: &Plan) -> u32 {
        let received = self.delivered / plan.scenario.copies();
        let acknowledged = u64::from(self.acknowledged);
        let done = match plan.qos {
            0 => received,
            _ if plan.scenario.is_away() => acknowledged,
            _ => received.min(acknowledged),
        };
        let under_way = u64::from(self.sent).saturating_sub(done);
        u64::from(self.window).saturating_sub(under_way) as u32
    }

    fn write(&mut self, out: &mut Vec<u8>, index: usize, due: Duration, qos: u8) {
        let at = out.len();
        out.extend_from_slice(&self.template);
        let packet = &mut out[at..];
        if qos > 0 {
            let id = (self.sent % u32::from(u16::MAX)) as u16 + 1;
            packet[self.id_at..self.id_at + 2].copy_from_slice(&id.to_be_bytes());
        }
        let stamp = &mut packet[self.stamp_at..self.stamp_at + STAMP_BYTES];
        stamp[..4].copy_from_slice(&(index as u32).to_le_bytes());
        stamp[4..8].copy_from_slice(&self.sent.to_le_bytes());
        stamp[8..].copy_from_slice(&(due.as_nanos() as u64).to_le_bytes());
        self.sent += 1;
    }
}

/// When a message is due, where so many are each second.
fn due_at(message: u64, rate: u64) -> Duration {
    Duration::from_nanos((u128::from(message) * 1_000_000_000 / u128::from(rate)) as u64)
}

fn connect(plan: &Plan) -> Connect<'static> {
    Connect { version: plan.version, keep_alive_seconds: KEEP_ALIVE_SECONDS, ..Connect::default() }
}

fn subscriber_name(index: usize) -> String {
    format!("subscriber-{}-{index}", std::process::id())
}

/// Ends the sessions that last, so that the next run does not send to them, too.
fn forget(plan: &Plan) -> Result<()> {
    for index in 0..plan.scenario.subscribers {
        let name = subscriber_name(index);
        let (pipe, _) = Pipe::open(&plan.target, &Connect { client_id: &name, ..connect(plan) }, None)?;
        leave(&mut vec![pipe])?;
    }
    Ok(())
}

/// A subscriber's connection; `is_first` where it has no session yet.
fn open_subscriber(plan: &Plan, index: usize, is_first: bool) -> Result<Pipe> {
    let scenario = &plan.scenario;
    let name = subscriber_name(index);
    let filter = scenario.filter(index);
    let is_clean = scenario.sessions == Sessions::Clean;
    let session_expiry_seconds = if is_clean { 0 } else { SESSION_SECONDS };
    let connect = Connect { client_id: &name, is_clean, session_expiry_seconds, ..connect(plan) };
    let subscription = is_first.then_some((filter.as_str(), plan.qos));
    let (pipe, connack) = Pipe::open(&plan.target, &connect, subscription).with_context(|| name.clone())?;
    ensure!(is_first || connack.is_session_present, "the broker has forgotten {name}");
    Ok(pipe)
}

/// Says goodbye.
fn leave(pipes: &mut Vec<Pipe>) -> Result<()> {
    for mut pipe in pipes.drain(..) {
        pipe.outgoing.extend(wire::DISCONNECT);
        pipe.flush()?;
    }
    Ok(())
}
