//! A publisher whose session outlives its connections.
//!
//! Owns the numbers it gives to its messages, its window, its packet
//! identifiers, and what it must send again on its next connection: what a
//! correct client keeps. It never judges the broker.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::latency::Latencies;
use crate::ledger::{Sent, Told};
use crate::link::Link;
use crate::wire::{self, Connect, Version, first};

/// Sessions are kept for so long without a connection: longer than any load.
pub(crate) const SESSION_EXPIRY_SECONDS: u32 = 3_600;

/// Reason codes from here on are refusals.
const REFUSED: u8 = 0x80;

/// The sender's index and the message's number are at the beginning of each payload.
pub(crate) const HEAD_BYTES: usize = 10;

/// When a sender stops.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// When the connection ends.
    Broken,
    /// After so many new messages, once everything is acknowledged.
    Count(u64),
    /// At this time, once everything is acknowledged.
    Until(Instant),
}

/// Where the exchange of one packet identifier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Published,
    Released,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    phase: Phase,
    number: usize,
    published_at: Instant,
}

/// A publisher.
#[derive(Debug)]
pub(crate) struct Sender {
    client_id: String,
    topic: String,
    /// What it published, and what it was told.
    pub(crate) sent: Sent,
    payload: Vec<u8>,
    /// By packet identifier less one. Few identifiers, used over and over: a broker that
    /// remembers one for too long takes a new message for an old one.
    slots: Vec<Slot>,
    free: VecDeque<u16>,
    /// From PUBLISH to the acknowledgement that makes the broker responsible.
    pub(crate) latencies: Latencies,
}

impl Sender {
    /// A sender whose messages say `index`. Its window is further bounded by the broker's Receive Maximum.
    pub(crate) fn new(
        client_id: String,
        topic: String,
        index: u16,
        qos: u8,
        window: u16,
        payload_bytes: usize,
    ) -> Self {
        let mut payload = vec![0; payload_bytes.max(HEAD_BYTES)];
        payload[..2].copy_from_slice(&index.to_be_bytes());
        let free = Slot { phase: Phase::Free, number: 0, published_at: Instant::now() };
        Self {
            client_id,
            topic,
            sent: Sent { qos, told: Vec::new() },
            payload,
            slots: vec![free; usize::from(window)],
            free: (1..=window).collect(),
            latencies: Latencies::default(),
        }
    }

    /// Opens its next connection; `true` if the broker has its session. What is
    /// unfinished is put into the outgoing bytes, in the order it was first sent.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub(crate) async fn connect(&mut self, target: SocketAddr, is_clean: bool) -> Result<(Link, bool)> {
        let connect = Connect {
            client_id: &self.client_id,
            is_clean,
            session_expiry_seconds: SESSION_EXPIRY_SECONDS,
            receive_maximum: u16::MAX,
            ..Connect::default()
        };
        let (mut link, connack) = Link::open(target, &connect).await?;
        if is_clean {
            self.begin(connack.receive_maximum);
        }
        ensure!(self.slots.len() <= connack.receive_maximum.into(), "the broker's Receive Maximum has shrunk");
        self.resume(&mut link.outgoing, connack.is_session_present);
        Ok((link, connack.is_session_present))
    }

    /// Nothing is open, and no more than `receive_maximum` will ever be.
    fn begin(&mut self, receive_maximum: u16) {
        self.slots.truncate(receive_maximum.into());
        self.slots.iter_mut().for_each(|slot| slot.phase = Phase::Free);
        self.free = (1..).take(self.slots.len()).collect();
    }

    /// Sends again what is unfinished. Without its session, the broker knows
    /// no open exchange: what it had taken over is finished, the rest is new.
    fn resume(&mut self, out: &mut Vec<u8>, is_session_present: bool) {
        let mut open: Vec<u16> = (1..).take(self.slots.len()).collect();
        open.retain(|id| self.slot(*id).is_some_and(|slot| slot.phase != Phase::Free));
        open.sort_by_key(|id| self.slot(*id).map(|slot| slot.number));
        for id in open {
            match self.slot(id).map(|slot| (slot.phase, slot.number)) {
                Some((Phase::Released, _)) if is_session_present => wire::ack(out, first::PUBREL, id),
                Some((Phase::Released, _)) => self.finish(id),
                Some((Phase::Published, number)) => {
                    self.write_publish(out, id, number, if is_session_present { first::DUP } else { 0 });
                }
                _ => {}
            }
        }
    }

    /// Publishes until the goal is reached, as fast as the window allows.
    ///
    /// # Errors
    /// When the connection ends before; the session can be resumed.
    pub(crate) async fn run(&mut self, link: &mut Link, goal: Goal) -> Result<()> {
        let first_new = self.sent.told.len() as u64;
        loop {
            while let Some((kind, body)) = link.incoming.next() {
                self.on_packet(kind, body, &mut link.outgoing)?;
            }
            let goes_on = match goal {
                Goal::Broken => true,
                Goal::Count(count) => (self.sent.told.len() as u64) < first_new + count,
                Goal::Until(end) => Instant::now() < end,
            };
            if goes_on {
                let left = match goal {
                    Goal::Count(count) => first_new + count - self.sent.told.len() as u64,
                    Goal::Broken | Goal::Until(_) => u64::MAX,
                };
                self.fill_window(&mut link.outgoing, left);
            } else if self.free.len() == self.slots.len() {
                return Ok(());
            }
            link.turn().await?;
        }
    }

    fn fill_window(&mut self, out: &mut Vec<u8>, left: u64) {
        let mut left = left;
        while left > 0
            && let Some(id) = self.free.pop_front()
        {
            let number = self.sent.told.len();
            self.sent.told.push(Told::Nothing);
            if let Some(slot) = self.slot_mut(id) {
                *slot = Slot { phase: Phase::Published, number, published_at: Instant::now() };
            }
            self.write_publish(out, id, number, 0);
            left -= 1;
        }
    }

    fn write_publish(&mut self, out: &mut Vec<u8>, id: u16, number: usize, dup: u8) {
        self.payload[2..HEAD_BYTES].copy_from_slice(&(number as u64).to_be_bytes());
        wire::publish(Version::V5, out, dup | self.sent.qos << 1, &self.topic, id, &self.payload);
    }

    fn on_packet(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (id, reason) = match kind {
            first::PUBACK | first::PUBREC | first::PUBCOMP => {
                wire::read_ack(body).context("an empty acknowledgement")?
            }
            first::DISCONNECT => bail!("the broker disconnects: {body:02x?}"),
            _ => bail!("an unexpected packet {kind:#04x}"),
        };
        let Some(slot) = self.slot(id).filter(|slot| slot.phase != Phase::Free) else {
            bail!("packet {kind:#04x} acknowledges {id}, which is not open");
        };
        match (kind, slot.phase) {
            (first::PUBACK, Phase::Published) => {
                self.on_answer(slot, reason);
                self.finish(id);
            }
            (first::PUBREC, Phase::Published) => {
                self.on_answer(slot, reason);
                if reason >= REFUSED {
                    self.finish(id);
                } else {
                    if let Some(slot) = self.slot_mut(id) {
                        slot.phase = Phase::Released;
                    }
                    wire::ack(out, first::PUBREL, id);
                }
            }
            (first::PUBCOMP, Phase::Released) => self.finish(id),
            (_, phase) => bail!("packet {kind:#04x} for {id}, which is {phase:?}"),
        }
        Ok(())
    }

    fn on_answer(&mut self, slot: Slot, reason: u8) {
        self.latencies.add(slot.published_at.elapsed());
        if let Some(told) = self.sent.told.get_mut(slot.number) {
            *told = if reason >= REFUSED { Told::Refused } else { Told::Acknowledged };
        }
    }

    fn finish(&mut self, id: u16) {
        if let Some(slot) = self.slot_mut(id) {
            slot.phase = Phase::Free;
            self.free.push_back(id);
        }
    }

    fn slot(&self, id: u16) -> Option<Slot> {
        self.slots.get(usize::from(id).checked_sub(1)?).copied()
    }

    fn slot_mut(&mut self, id: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(id).checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First bytes and identifiers of the packets.
    fn packets(mut bytes: &[u8]) -> Vec<(u8, u16)> {
        let mut found = Vec::new();
        while let Some((body, header)) = wire::header(bytes) {
            let content = &bytes[header..header + body];
            let id = match bytes[0] & 0xF0 {
                first::PUBLISH => wire::read_publish(Version::V5, bytes[0], content).unwrap().0,
                _ => wire::read_ack(content).unwrap().0,
            };
            found.push((bytes[0], id));
            bytes = &bytes[header + body..];
        }
        found
    }

    #[test]
    fn a_session_goes_on_where_it_was() {
        let mut sender = Sender::new("s".into(), "t".into(), 0, 2, 4, 16);
        let mut out = Vec::new();
        sender.fill_window(&mut out, 3);
        assert_eq!(packets(&out), [(0x34, 1), (0x34, 2), (0x34, 3)]);
        out.clear();
        sender.on_packet(first::PUBREC, &[0, 1], &mut out).unwrap();
        sender.on_packet(first::PUBCOMP, &[0, 1], &mut out).unwrap();
        sender.on_packet(first::PUBREC, &[0, 2, 0x97], &mut out).unwrap();
        sender.on_packet(first::PUBREC, &[0, 3], &mut out).unwrap();
        out.clear();
        sender.fill_window(&mut out, 2);
        assert_eq!(packets(&out), [(0x34, 4), (0x34, 1)], "the oldest free identifier is used first");
        out.clear();
        sender.resume(&mut out, true);
        assert_eq!(packets(&out), [(first::PUBREL, 3), (0x3C, 4), (0x3C, 1)]);
        let told = [Told::Acknowledged, Told::Refused, Told::Acknowledged, Told::Nothing, Told::Nothing];
        assert_eq!(sender.sent.told, told);
        out.clear();
        sender.resume(&mut out, false);
        assert_eq!(packets(&out), [(0x34, 4), (0x34, 1)]);
    }

    #[test]
    fn an_acknowledgement_of_nothing_is_an_error() {
        let mut sender = Sender::new("s".into(), "t".into(), 0, 1, 4, 16);
        assert!(sender.on_packet(first::PUBACK, &[0, 1], &mut Vec::new()).is_err());
        assert!(sender.on_packet(first::PUBACK, &[0, 9], &mut Vec::new()).is_err());
    }
}
