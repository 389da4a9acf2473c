//! Owns the test's client: it sends any bytes, and waits with deadlines for packets, closures and silence. Every packet
//! received is read strictly and audited. Never reconnects, acknowledges or sends anything by itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::audit::Audit;
use crate::context::{Ctx, Transcript};
use crate::transport::Stream;
use crate::wire::build::{self, Connect, Publish, Subscribe, Unsubscribe};
use crate::wire::read::{Ack, Answer, Connack, Message, Notice, Packet, decode, frame_length, packet_name};
use crate::wire::{Version, first, packet_line};

/// What a wait ended with.
#[derive(Debug)]
pub enum Event {
    /// A packet.
    Packet(Packet),
    /// The broker closed the connection.
    Closed,
}

/// One connection to the broker.
#[derive(Debug)]
pub struct Client {
    /// The CONNACK of `Ctx::connect`.
    pub connack: Connack,
    stream: Stream,
    version: Version,
    label: String,
    step: Duration,
    deadline: Instant,
    opened: Instant,
    transcript: Transcript,
    audit: Audit,
    buffer: Vec<u8>,
    /// Messages that came before the SUBACK they were not asked for: section 3.8.4 allows it.
    early: VecDeque<Packet>,
    last_id: u16,
}

impl Client {
    /// Wraps an open stream; tests use `Ctx::open` or `Ctx::connect`.
    pub fn new(stream: Stream, version: Version, label: String, ctx: &Ctx) -> Client {
        Client {
            connack: Connack::default(),
            stream,
            version,
            label,
            step: ctx.setup().step,
            deadline: ctx.deadline(),
            opened: Instant::now(),
            transcript: ctx.transcript().clone(),
            audit: Audit::new(version),
            buffer: Vec::new(),
            early: VecDeque::new(),
            last_id: 0,
        }
    }

    /// A packet identifier this client has not used yet: 1, 2, 3...
    pub fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    fn note(&self, direction: char, bytes: &[u8]) {
        self.transcript.note(packet_line(&self.label, direction, bytes, self.opened.elapsed()));
    }

    // Sending.

    /// Sends any bytes. A peer that has closed already is no error here: the next read tells.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.note('>', bytes);
        self.audit.on_sent(bytes);
        self.stream.write_all(bytes)
    }

    /// Sends a CONNECT and remembers what it asks for, so that the audit can hold the broker to it.
    pub fn send_connect(&mut self, connect: &Connect) -> Result<()> {
        self.audit.on_connect(connect);
        self.send(&connect.bytes())
    }

    /// Sends a PUBLISH in the client's version, without waiting for anything.
    pub fn send_publish(&mut self, publish: &Publish) -> Result<()> {
        self.send(&publish.bytes(self.version))
    }

    /// Publishes and completes the handshake of its QoS. Packets other than the acknowledgements are a failure.
    pub fn publish(&mut self, topic: impl AsRef<[u8]>, qos: u8, payload: impl AsRef<[u8]>) -> Result<()> {
        self.publish_packet(Publish::new(topic, payload), qos)
    }

    /// The same for a prepared PUBLISH; gives it `qos` and a fresh identifier.
    pub fn publish_packet(&mut self, publish: Publish, qos: u8) -> Result<()> {
        let id = if qos > 0 { self.next_id() } else { 0 };
        self.send_publish(&publish.qos(qos, id))?;
        match qos {
            0 => Ok(()),
            1 => self.expect_ack(first::PUBACK, id)?.successful(),
            _ => {
                self.expect_ack(first::PUBREC, id)?.successful()?;
                self.send(&build::ack(first::PUBREL, id))?;
                self.expect_ack(first::PUBCOMP, id)?.successful()
            }
        }
    }

    /// Subscribes to one filter and expects that it is granted exactly `qos`.
    pub fn subscribe(&mut self, filter: impl AsRef<[u8]>, qos: u8) -> Result<()> {
        let id = self.next_id();
        let answer = self.subscribe_packet(&Subscribe::new(id).filter(filter, qos))?;
        ensure!(
            answer.reasons == [qos],
            "SUBACK reason codes {:02x?} for a filter asking for QoS {qos}",
            answer.reasons
        );
        Ok(())
    }

    /// Sends a SUBSCRIBE and returns the SUBACK with its identifier.
    pub fn subscribe_packet(&mut self, subscribe: &Subscribe) -> Result<Answer> {
        self.send(&subscribe.bytes(self.version))?;
        self.expect_suback(subscribe.id)
    }

    /// Sends an UNSUBSCRIBE for one filter and returns the UNSUBACK.
    pub fn unsubscribe(&mut self, filter: impl AsRef<[u8]>) -> Result<Answer> {
        let id = self.next_id();
        self.send(&Unsubscribe::new(id).filter(filter).bytes(self.version))?;
        self.expect_unsuback(id)
    }

    /// Acknowledges a received message as its QoS demands, handshake completed.
    pub fn acknowledge(&mut self, message: &Message) -> Result<()> {
        match message.qos {
            0 => Ok(()),
            1 => self.send(&build::ack(first::PUBACK, message.id)),
            _ => {
                self.send(&build::ack(first::PUBREC, message.id))?;
                self.expect_ack(first::PUBREL, message.id)?;
                self.send(&build::ack(first::PUBCOMP, message.id))
            }
        }
    }

    /// Leaves politely (DISCONNECT 0x00) and waits until the broker has closed its side.
    pub fn disconnect(mut self) -> Result<()> {
        self.send(&build::disconnect())?;
        self.cut()
    }

    /// Ends the connection without DISCONNECT, as a network failure would, and waits until the broker has noticed.
    pub fn cut(mut self) -> Result<()> {
        self.transcript.note(format!("{} > (end of stream)", self.label));
        self.stream.finish_writing();
        self.read_to_end().context("the broker did not close after the client ended the connection")?;
        Ok(())
    }

    // Waiting.

    /// Lets the expectations from now on take up to `limit`, for what a timer has to cause first.
    pub fn patient(&mut self, limit: Duration) -> &mut Client {
        self.step = self.step.max(limit);
        self
    }

    /// The next packet or the closure; fails when `limit` passes without either, or on any broken rule.
    pub fn next_within(&mut self, limit: Duration) -> Result<Event> {
        match self.poll(Instant::now() + limit)? {
            Some(event) => Ok(event),
            None => bail!("nothing arrived within {} ms", limit.as_millis()),
        }
    }

    /// The next packet or the closure, within the run's step timeout.
    pub fn next_event(&mut self) -> Result<Event> {
        self.next_within(self.step)
    }

    /// The next event, or None once `until` has passed.
    fn poll(&mut self, until: Instant) -> Result<Option<Event>> {
        if let Some(packet) = self.early.pop_front() {
            return Ok(Some(Event::Packet(packet)));
        }
        loop {
            if let Some(packet) = self.buffered()? {
                return Ok(Some(Event::Packet(packet)));
            }
            match self.fill(until)? {
                Some(0) => {
                    ensure!(self.buffer.is_empty(), "the connection ended within a packet: {:02x?}", self.buffer);
                    self.transcript.note(format!("{} < (closed)", self.label));
                    return Ok(Some(Event::Closed));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<Packet>> {
        let Some(length) = frame_length(&self.buffer)? else {
            return Ok(None);
        };
        if self.buffer.len() < length {
            return Ok(None);
        }
        let rest = self.buffer.split_off(length);
        let raw = std::mem::replace(&mut self.buffer, rest);
        self.note('<', &raw);
        let mut packet = decode(self.version, &raw)?;
        self.audit.on_received(&mut packet, raw.len())?;
        Ok(Some(packet))
    }

    /// Reads once more into the buffer: the count (0 = closed), or None once `until` has passed.
    fn fill(&mut self, until: Instant) -> Result<Option<usize>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let now = Instant::now();
            ensure!(now < self.deadline, "the test took longer than allowed");
            let left = until.min(self.deadline).saturating_duration_since(now);
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(left)?;
            if let Some(count) = self.stream.read_some(&mut chunk)? {
                self.buffer.extend_from_slice(&chunk[..count]);
                return Ok(Some(count));
            }
        }
    }

    /// Reads raw bytes until the broker closes, without looking at them: for brokers spoken to in unknown versions.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let until = Instant::now() + self.step;
        loop {
            match self.fill(until)? {
                Some(0) => {
                    let bytes = std::mem::take(&mut self.buffer);
                    if !bytes.is_empty() {
                        self.note('<', &bytes);
                    }
                    self.transcript.note(format!("{} < (closed)", self.label));
                    return Ok(bytes);
                }
                Some(_) => {}
                None => bail!("still open after {} ms", self.step.as_millis()),
            }
        }
    }

    fn expect<T>(&mut self, wanted: &str, pick: impl FnOnce(Packet) -> Result<T, Packet>) -> Result<T> {
        match self.next_event().with_context(|| format!("waiting for {wanted}"))? {
            Event::Closed => bail!("the broker closed the connection instead of sending {wanted}"),
            Event::Packet(packet) => pick(packet).or_else(|other| bail!("expected {wanted}, got {other:02x?}")),
        }
    }

    /// Expects a CONNACK of any reason.
    pub fn expect_connack(&mut self) -> Result<Connack> {
        self.expect("CONNACK", |packet| match packet {
            Packet::Connack(connack) => Ok(connack),
            other => Err(other),
        })
    }

    /// Expects CONNACK 0x00.
    pub fn expect_accepted(&mut self) -> Result<Connack> {
        let connack = self.expect_connack()?;
        ensure!(connack.reason == 0, "CONNECT was refused with {:#04x}", connack.reason);
        Ok(connack)
    }

    /// Expects a PUBLISH.
    pub fn expect_publish(&mut self) -> Result<Message> {
        self.expect("PUBLISH", |packet| match packet {
            Packet::Publish(message) => Ok(message),
            other => Err(other),
        })
    }

    /// Expects a PUBLISH with this topic and payload.
    pub fn expect_message(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Result<Message> {
        let message = self.expect_publish()?;
        let payload = payload.as_ref();
        ensure!(
            message.topic == topic && message.payload == payload,
            "expected the message {:?} on {topic:?}, got {:?} on {:?}",
            String::from_utf8_lossy(payload),
            String::from_utf8_lossy(&message.payload),
            message.topic
        );
        Ok(message)
    }

    /// Expects the PUBACK, PUBREC, PUBREL or PUBCOMP with this identifier; its reason code is the caller's to judge.
    pub fn expect_ack(&mut self, first_byte: u8, id: u16) -> Result<Ack> {
        let name = packet_name(first_byte);
        let ack = self.expect(name, |packet| match packet {
            Packet::Ack(ack) if ack.first == first_byte => Ok(ack),
            other => Err(other),
        })?;
        ensure!(ack.id == id, "[MQTT-2.2.1-5] {name} has identifier {}, expected {id}", ack.id);
        Ok(ack)
    }

    /// Expects the SUBACK with this identifier.
    pub fn expect_suback(&mut self, id: u16) -> Result<Answer> {
        let mut early = VecDeque::new();
        let answer = loop {
            let answer = self.expect("SUBACK", |packet| match packet {
                Packet::Suback(answer) => Ok(Ok(answer)),
                Packet::Publish(message) => Ok(Err(message)),
                other => Err(other),
            })?;
            match answer {
                Ok(answer) => break answer,
                Err(message) => early.push_back(Packet::Publish(message)),
            }
        };
        self.early = early;
        ensure!(answer.id == id, "[MQTT-2.2.1-6] SUBACK has identifier {}, expected {id}", answer.id);
        Ok(answer)
    }

    /// Expects the UNSUBACK with this identifier.
    pub fn expect_unsuback(&mut self, id: u16) -> Result<Answer> {
        let answer = self.expect("UNSUBACK", |packet| match packet {
            Packet::Unsuback(answer) => Ok(answer),
            other => Err(other),
        })?;
        ensure!(answer.id == id, "[MQTT-2.2.1-6] UNSUBACK has identifier {}, expected {id}", answer.id);
        Ok(answer)
    }

    /// Expects a DISCONNECT.
    pub fn expect_disconnect(&mut self) -> Result<Notice> {
        self.expect("DISCONNECT", |packet| match packet {
            Packet::Disconnect(notice) => Ok(notice),
            other => Err(other),
        })
    }

    /// Expects an AUTH.
    pub fn expect_auth(&mut self) -> Result<Notice> {
        self.expect("AUTH", |packet| match packet {
            Packet::Auth(notice) => Ok(notice),
            other => Err(other),
        })
    }

    /// Expects that the broker closes, at most a DISCONNECT >= 0x80 before it; returns that DISCONNECT.
    pub fn expect_closed(&mut self) -> Result<Option<Notice>> {
        self.expect_closed_within(self.step)
    }

    /// The same with another time limit.
    pub fn expect_closed_within(&mut self, limit: Duration) -> Result<Option<Notice>> {
        let mut notice = None;
        loop {
            match self.next_within(limit).context("waiting for the broker to close")? {
                Event::Closed => return Ok(notice),
                Event::Packet(Packet::Disconnect(found)) => {
                    ensure!(found.reason >= 0x80, "DISCONNECT for an error has reason code {:#04x}", found.reason);
                    notice = Some(found);
                }
                Event::Packet(other) => bail!("expected the broker to close, got {other:02x?}"),
            }
        }
    }

    /// Expects that a CONNECT is refused: an optional CONNACK >= 0x80 (1 to 5 in MQTT 3), and the connection closed.
    pub fn expect_refused(&mut self) -> Result<Option<Connack>> {
        let mut refusal = None;
        loop {
            match self.next_event().context("waiting for the broker to refuse the CONNECT and close")? {
                Event::Closed => return Ok(refusal),
                Event::Packet(Packet::Connack(connack)) => {
                    ensure!(connack.reason != 0, "the CONNECT was accepted");
                    refusal = Some(connack);
                }
                Event::Packet(other) => bail!("expected a refusal, got {other:02x?}"),
            }
        }
    }

    /// A PINGREQ and PINGRESP round trip during which nothing else may arrive: the connection is alive and silent.
    /// What another client caused may still be under way; publish a marker behind it when that matters.
    pub fn expect_silence(&mut self) -> Result<()> {
        self.send(&build::pingreq())?;
        self.expect_pingresp()
    }

    /// Expects a PINGRESP.
    pub fn expect_pingresp(&mut self) -> Result<()> {
        self.expect("PINGRESP and nothing else", |packet| match packet {
            Packet::Pingresp => Ok(()),
            other => Err(other),
        })
    }

    /// Expects that nothing arrives, closure included, until `duration` has passed. For timers; prefer `expect_silence`.
    pub fn expect_quiet_for(&mut self, duration: Duration) -> Result<()> {
        match self.poll(Instant::now() + duration)? {
            None => Ok(()),
            Some(Event::Closed) => bail!("the broker closed the connection"),
            Some(Event::Packet(packet)) => bail!("expected silence, got {packet:02x?}"),
        }
    }
}

impl Ack {
    /// Fails on a reason code >= 0x80.
    pub fn successful(&self) -> Result<()> {
        ensure!(self.reason < 0x80, "{} has reason code {:#04x}", packet_name(self.first), self.reason);
        Ok(())
    }
}
