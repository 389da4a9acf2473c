//! A subscriber whose session outlives its connections.
//!
//! Owns what a correct client keeps of QoS 2, its pace, and the book of what
//! it got. It never judges the broker: its [`Ledger`] does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::ledger::{Ledger, Sent, Told};
use crate::link::Link;
use crate::sender::{HEAD_BYTES, SESSION_EXPIRY_SECONDS};
use crate::wire::{self, Connect, Version, first};

/// What all senders sent, once they are through; until then, nothing is known to be due.
pub(crate) type Due = watch::Receiver<Option<Rc<Vec<Sent>>>>;

/// How a receiver takes its messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// What is said of it in reports.
    pub(crate) name: &'static str,
    /// The QoS of its subscription.
    pub(crate) qos: u8,
    /// Whether it is connected while senders publish at full rate.
    pub(crate) is_online: bool,
    /// How long it rests after each reading while senders publish at full rate.
    pub(crate) rest: Duration,
    /// How many messages it takes at once.
    pub(crate) receive_maximum: u16,
}

/// A subscriber.
#[derive(Debug)]
pub(crate) struct Receiver {
    client_id: String,
    /// How it takes its messages.
    pub(crate) manner: Manner,
    /// What it got.
    pub(crate) ledger: Ledger,
    /// QoS 2 messages that it has and that are not released, by identifier: who sent them, and their number.
    unreleased: HashMap<u16, (u16, usize)>,
    pings_answered: u64,
}

impl Receiver {
    /// A receiver of the messages of so many senders.
    pub(crate) fn new(client_id: String, manner: Manner, senders: usize) -> Self {
        let ledger = Ledger::new(manner.qos, senders);
        Self { client_id, manner, ledger, unreleased: HashMap::new(), pings_answered: 0 }
    }

    /// Opens its next connection; `true` if the broker has its session.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub(crate) async fn connect(&mut self, target: SocketAddr, is_clean: bool) -> Result<(Link, bool)> {
        let connect = Connect {
            client_id: &self.client_id,
            is_clean,
            session_expiry_seconds: SESSION_EXPIRY_SECONDS,
            receive_maximum: self.manner.receive_maximum,
            ..Connect::default()
        };
        let (link, connack) = Link::open(target, &connect).await?;
        if !connack.is_session_present {
            self.unreleased.clear();
        }
        Ok((link, connack.is_session_present))
    }

    /// Receives until the connection ends.
    ///
    /// # Errors
    /// Always: when the connection ends, or when the broker sends what it must not.
    pub(crate) async fn run(&mut self, link: &mut Link) -> Result<()> {
        loop {
            self.take_all(link)?;
            if !self.manner.rest.is_zero() {
                sleep(self.manner.rest).await;
            }
            link.turn().await?;
        }
    }

    /// Receives until all that is due is there and nothing is behind it, or until nothing has come for `patience`:
    /// `false`, then.
    ///
    /// # Errors
    /// When the connection ends, or the broker sends what it must not.
    pub(crate) async fn drain(&mut self, link: &mut Link, mut due: Due, patience: Duration) -> Result<bool> {
        let mut sent = None;
        let mut least = 0;
        loop {
            self.take_all(link)?;
            if sent.is_none() {
                sent = due.borrow_and_update().clone();
                least = sent.iter().flat_map(|sent| sent.iter()).map(|sent| sent.count(Told::Acknowledged)).sum();
            }
            // Looking at every message is for the end only.
            if let Some(sent) = &sent
                && self.ledger.delivered() >= least
                && self.ledger.is_complete(sent)
            {
                break;
            }
            tokio::select! {
                turned = timeout(patience, link.turn()) => match turned {
                    Ok(turned) => turned?,
                    Err(_) if sent.is_some() => return Ok(false),
                    Err(_) => {}
                },
                changed = due.changed(), if sent.is_none() => changed.context("the senders gave up")?,
            }
        }
        let before = self.pings_answered;
        link.outgoing.extend(wire::PINGREQ);
        while self.pings_answered == before {
            link.turn().await?;
            self.take_all(link)?;
        }
        Ok(true)
    }

    fn take_all(&mut self, link: &mut Link) -> Result<()> {
        while let Some((kind, body)) = link.incoming.next() {
            self.on_packet(kind, body, &mut link.outgoing)?;
        }
        Ok(())
    }

    fn on_packet(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match kind {
            first::PUBREL => {
                let (id, _) = wire::read_ack(body).context("an empty PUBREL")?;
                self.unreleased.remove(&id);
                wire::ack(out, first::PUBCOMP, id);
            }
            first::PINGRESP => self.pings_answered += 1,
            first::DISCONNECT => bail!("the broker disconnects: {body:02x?}"),
            _ if kind & 0xF0 == first::PUBLISH => {
                let (id, payload) = wire::read_publish(Version::V5, kind, body).context("a PUBLISH cut short")?;
                let message = read_head(payload)?;
                match kind >> 1 & 3 {
                    1 => {
                        self.enter(message)?;
                        wire::ack(out, first::PUBACK, id);
                    }
                    2 => {
                        match self.unreleased.entry(id) {
                            Entry::Occupied(open) => ensure!(
                                *open.get() == message,
                                "identifier {id} is used for message {message:?} while {:?} is not released",
                                open.get()
                            ),
                            Entry::Vacant(free) => {
                                free.insert(message);
                                self.enter(message)?;
                            }
                        }
                        wire::ack(out, first::PUBREC, id);
                    }
                    qos => bail!("a message of QoS {qos}"),
                }
            }
            _ => bail!("an unexpected packet {kind:#04x}"),
        }
        Ok(())
    }

    fn enter(&mut self, (sender, number): (u16, usize)) -> Result<()> {
        ensure!(self.ledger.enter(sender.into(), number), "a message of an unknown sender");
        Ok(())
    }
}

/// Who sent the message, and its number.
fn read_head(payload: &[u8]) -> Result<(u16, usize)> {
    let (sender, rest) = payload.split_first_chunk::<2>().context("a payload cut short")?;
    let (number, _) = rest.split_first_chunk::<{ HEAD_BYTES - 2 }>().context("a payload cut short")?;
    Ok((u16::from_be_bytes(*sender), usize::try_from(u64::from_be_bytes(*number))?))
}
