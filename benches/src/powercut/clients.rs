//! The clients of a broker that loses its power, and the books about what it owes them.
//!
//! Owns what each client knows, which outlives the broker's power as a vehicle does. It never asks the broker what it knows:
//! only what came out as packets counts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use causeway_core::ConnectionId;
use causeway_protocol::{Ack, Packet, Publish, QoS, ReasonCode, SubscriptionOptions};
use causeway_storage::fault::{FaultyDisk, Random};

use crate::harness::{Host, packet_id};

/// Longer than any run.
const FOREVER: u32 = u32::MAX;
const RETAINED_TOPIC: &str = "state/one";
/// What a checkpoint leaves of the log, beyond what lives.
const SLACK_BYTES: u64 = 24 << 10;
/// Payloads from a few bytes to several sectors.
const PAYLOAD_BYTES_MAX: u64 = 1500;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) acknowledged: u64,
    pub(super) delivered_at_the_end: u64,
    pub(super) retained_acknowledged: u64,
    pub(super) checkpoints: u64,
    pub(super) relocations: u64,
    pub(super) lost: u64,
    pub(super) retained_lost: u64,
    pub(super) sessions_lost: u64,
    pub(super) duplicates_qos2: u64,
    pub(super) unknown: u64,
}

impl Tally {
    pub(super) fn is_broken(&self) -> bool {
        self.lost + self.retained_lost + self.sessions_lost + self.duplicates_qos2 + self.unknown > 0
    }
}

/// A persistent session's client.
#[derive(Debug, Clone)]
struct Subscriber {
    name: &'static str,
    filter: &'static str,
    connection: Option<ConnectionId>,
    /// Whether its SUBACK came.
    is_subscribed: bool,
    /// Messages acknowledged to their publisher after that.
    owed: BTreeSet<u64>,
    /// Messages it has, each once.
    received: BTreeSet<u64>,
    /// QoS 2 messages by packet identifier until they are released.
    unreleased: BTreeSet<u16>,
    /// Answers that are to be sent.
    answers: Vec<Packet<'static>>,
    duplicates_qos2: u64,
}

/// A message on its way to the broker.
#[derive(Debug, Clone)]
struct Sent {
    number: u64,
    /// The subscribers it is for.
    to: Vec<usize>,
    retain: bool,
}

/// All clients, and the books.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    subscribers: Vec<Subscriber>,
    publisher: Option<ConnectionId>,
    under_way: BTreeMap<u16, Sent>,
    last_number: u64,
    acknowledged: u64,
    retained_acknowledged: u64,
    newest_retained: u64,
    checkpoints: u64,
    relocations: u64,
}

impl Clients {
    pub(super) fn new() -> Self {
        let subscriber = |name, filter| Subscriber {
            name,
            filter,
            connection: None,
            is_subscribed: false,
            owed: BTreeSet::new(),
            received: BTreeSet::new(),
            unreleased: BTreeSet::new(),
            answers: Vec::new(),
            duplicates_qos2: 0,
        };
        Self {
            subscribers: vec![subscriber("vehicle-1", "cmd/#"), subscriber("vehicle-2", "cmd/all")],
            publisher: None,
            under_way: BTreeMap::new(),
            last_number: 0,
            acknowledged: 0,
            retained_acknowledged: 0,
            newest_retained: 0,
            checkpoints: 0,
            relocations: 0,
        }
    }

    /// So many steps of any kind, until one fails.
    pub(super) fn play(&mut self, host: &mut Host, random: &mut Random, steps: u32) -> Result<()> {
        self.join(host)?;
        for _ in 0..steps {
            match random.below(16) {
                0..8 => self.publish(host, random)?,
                8..11 => {
                    host.sync()?;
                    self.listen(host)?;
                }
                11 => host.append()?,
                12 | 13 => self.come_or_go(host, random)?,
                14 => {
                    self.checkpoints += u64::from(host.checkpoint()? > 0);
                    self.listen(host)?;
                }
                _ => self.relocations += u64::from(host.relocate(1.2, SLACK_BYTES)?),
            }
        }
        Ok(())
    }

    /// The connections are gone with the power, and the clients know it.
    pub(super) fn leave(&mut self) {
        self.publisher = None;
        // Whether these were taken, nobody told.
        self.under_way.clear();
        for subscriber in &mut self.subscribers {
            subscriber.connection = None;
            subscriber.answers.clear();
        }
    }

    /// Sends one message, which may be acknowledged at the next sync.
    pub(super) fn publish(&mut self, host: &mut Host, random: &mut Random) -> Result<()> {
        let publisher = self.publisher.context("there is a publisher")?;
        self.last_number += 1;
        let (number, id) = (self.last_number, (self.last_number % 500) as u16 + 1);
        let retain = random.chance(15);
        let topic = match retain {
            true => RETAINED_TOPIC,
            false if random.chance(50) => "cmd/all",
            false => "cmd/one",
        };
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(8 + random.below(PAYLOAD_BYTES_MAX) as usize, number as u8);
        let qos = if random.chance(50) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let takes = |subscriber: &&(usize, &Subscriber)| {
            let (_, subscriber) = subscriber;
            subscriber.is_subscribed && !retain && (subscriber.filter == topic || subscriber.filter == "cmd/#")
        };
        let to = self.subscribers.iter().enumerate().collect::<Vec<_>>();
        let to = to.iter().filter(takes).map(|(index, _)| *index).collect();
        self.under_way.insert(id, Sent { number, to, retain });
        let publish =
            Publish { qos, retain, topic, packet_id: Some(packet_id(id)?), payload: &payload, ..Publish::default() };
        host.send(publisher, &Packet::Publish(publish))
    }

    /// Takes what the broker says, and answers.
    pub(super) fn listen(&mut self, host: &mut Host) -> Result<()> {
        self.hear_publisher(host)?;
        for subscriber in &mut self.subscribers {
            subscriber.listen(host)?;
        }
        Ok(())
    }

    /// Connects again, takes all that is owed, and counts what is missing.
    pub(super) fn settle(&mut self, mut host: Host, disk: &FaultyDisk) -> Result<Tally> {
        self.leave();
        let mut tally = Tally {
            acknowledged: self.acknowledged,
            retained_acknowledged: self.retained_acknowledged,
            checkpoints: self.checkpoints,
            relocations: self.relocations,
            ..Tally::default()
        };
        for subscriber in &mut self.subscribers {
            let had = subscriber.received.len();
            let is_present = subscriber.resume(&mut host)?;
            while subscriber.listen(&mut host)? {
                host.sync()?;
            }
            tally.sessions_lost += u64::from(subscriber.is_subscribed && !is_present);
            tally.delivered_at_the_end += (subscriber.received.len() - had) as u64;
            tally.lost += subscriber.owed.difference(&subscriber.received).count() as u64;
            tally.duplicates_qos2 += subscriber.duplicates_qos2;
            tally.unknown += subscriber.received.range(self.last_number + 1..).count() as u64;
        }
        let retained = retained(&mut host)?;
        tally.retained_lost = u64::from(retained < self.newest_retained);
        tally.unknown += u64::from(retained > self.last_number);
        ensure!(disk.is_powered(), "the power went where no cut was planned");
        Ok(tally)
    }

    fn join(&mut self, host: &mut Host) -> Result<()> {
        for subscriber in &mut self.subscribers {
            subscriber.resume(host)?;
        }
        self.publisher = Some(host.connect("backend", true, 0)?);
        host.sync()
    }

    /// Acknowledgements are what binds the broker.
    fn hear_publisher(&mut self, host: &mut Host) -> Result<()> {
        let Some(publisher) = self.publisher else { return Ok(()) };
        let mut acknowledged = Vec::new();
        let mut releases = Vec::new();
        host.hear(publisher, |packet| match packet {
            Packet::PubAck(ack) if is_taken(ack.reason) => acknowledged.push(ack.packet_id),
            Packet::PubRec(ack) if is_taken(ack.reason) => {
                acknowledged.push(ack.packet_id);
                releases.push(ack.packet_id);
            }
            _ => {}
        })?;
        for id in acknowledged {
            let Some(sent) = self.under_way.remove(&id.get()) else { continue };
            self.acknowledged += u64::from(sent.retain || !sent.to.is_empty());
            if sent.retain {
                self.retained_acknowledged += 1;
                self.newest_retained = self.newest_retained.max(sent.number);
            }
            for to in sent.to {
                self.subscribers[to].owed.insert(sent.number);
            }
        }
        for id in releases {
            host.send(publisher, &Packet::PubRel(Ack::new(id, ReasonCode::Success)))?;
        }
        Ok(())
    }

    /// One of the vehicles loses its network, or has it again.
    fn come_or_go(&mut self, host: &mut Host, random: &mut Random) -> Result<()> {
        let which = random.below(self.subscribers.len() as u64) as usize;
        let subscriber = &mut self.subscribers[which];
        match subscriber.connection.take() {
            Some(connection) => {
                subscriber.answers.clear();
                host.hang_up(connection);
                Ok(())
            }
            None => subscriber.resume(host).map(drop),
        }
    }
}

impl Subscriber {
    /// Connects, and subscribes where it has not. Whether the broker has the session.
    fn resume(&mut self, host: &mut Host) -> Result<bool> {
        let connection = host.connect(self.name, false, FOREVER)?;
        self.connection = Some(connection);
        host.sync()?;
        let mut is_present = false;
        if !self.is_subscribed {
            let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
            host.subscribe(connection, self.filter, options)?;
            host.sync()?;
        }
        self.hear(host, &mut is_present)?;
        Ok(is_present)
    }

    /// Takes messages and answers them. Whether there was anything.
    fn listen(&mut self, host: &mut Host) -> Result<bool> {
        let Some(connection) = self.connection else { return Ok(false) };
        self.hear(host, &mut false)?;
        let answers = std::mem::take(&mut self.answers);
        for answer in &answers {
            host.send(connection, answer)?;
        }
        Ok(!answers.is_empty())
    }

    fn hear(&mut self, host: &mut Host, is_present: &mut bool) -> Result<()> {
        let Some(connection) = self.connection else { return Ok(()) };
        host.hear(connection, |packet| match packet {
            Packet::ConnAck(connack) => {
                *is_present = connack.session_present;
                if !connack.session_present {
                    self.unreleased.clear();
                }
            }
            Packet::SubAck(suback) => {
                self.is_subscribed |= suback.reasons.iter().all(|reason| (*reason as u8) < 0x80);
            }
            Packet::Publish(publish) => self.take(publish),
            Packet::PubRel(ack) => {
                self.unreleased.remove(&ack.packet_id.get());
                self.answers.push(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            _ => {}
        })
    }

    fn take(&mut self, publish: &Publish<'_>) {
        let number = publish.payload.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        let Some(id) = publish.packet_id else { return };
        if publish.qos == QoS::ExactlyOnce {
            self.answers.push(Packet::PubRec(Ack::new(id, ReasonCode::Success)));
            // What it already has, and has not released, is no new message.
            if self.unreleased.insert(id.get()) {
                self.duplicates_qos2 += u64::from(!self.received.insert(number));
            }
        } else {
            self.answers.push(Packet::PubAck(Ack::new(id, ReasonCode::Success)));
            self.received.insert(number);
        }
    }
}

/// The number of the retained message that a new client gets; zero where there is none.
fn retained(host: &mut Host) -> Result<u64> {
    let client = host.connect("newcomer", true, 0)?;
    host.subscribe(client, RETAINED_TOPIC, SubscriptionOptions::default())?;
    host.sync()?;
    let mut number = 0;
    host.hear(client, |packet| {
        if let Packet::Publish(publish) = packet {
            number = publish.payload.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        }
    })?;
    Ok(number)
}

/// Also where nobody is subscribed: a retained message is kept all the same.
fn is_taken(reason: ReasonCode) -> bool {
    matches!(reason, ReasonCode::Success | ReasonCode::NoMatchingSubscribers)
}
