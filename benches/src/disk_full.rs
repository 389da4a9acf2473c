//! The scenario `disk-full`: somebody else fills the broker's disk to the last byte.
//!
//! Owns the steps and the books: what must be refused, what must go on, and that nothing acknowledged is lost, over a kill and a
//! restart on the full disk. The disk is to be small and the broker's alone; its free-space floor is to be 0, so that it really gets
//! full.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::link::Link;
use crate::report::Format;
use crate::wire::{self, Connect, Version, first};

/// Sessions whose queues fill the disk.
const VEHICLES: u64 = 20;
const PAYLOAD_BYTES: usize = 1000;
/// Publishes that wait for their answers.
const WINDOW: usize = 100;
/// Acknowledged bytes before somebody else fills the disk.
const BEFORE_BYTES: u64 = 8 << 20;
/// Nothing may take longer than this.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is tried whether there is room again.
const RETRY: Duration = Duration::from_millis(100);
/// The reason of a refusal: Quota exceeded.
const QUOTA_EXCEEDED: u8 = 0x97;
const QOS1: u8 = 0x02;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// Shell command that runs the broker in the foreground; it is killed and run again
    #[arg(long, value_name = "COMMAND")]
    broker_command: String,
    /// A file to be made on the broker's disk, as large as it gets
    #[arg(long)]
    filler: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// Messages that were acknowledged, and what became of them.
#[derive(Debug, Default, Serialize)]
struct Figures {
    acknowledged: u64,
    acknowledged_on_the_full_disk: u64,
    refused: u64,
    unanswered: u64,
    refused_after_ms: u64,
    qos0_on_the_full_disk: u64,
    restart_on_the_full_disk_ms: u64,
    room_again_after_ms: u64,
    drained: u64,
    acknowledged_afterwards: u64,
    lost: u64,
    duplicates: u64,
    wrong: u64,
}

/// One message to a vehicle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nobody said anything: it may come or not.
    Unknown,
    Acknowledged,
    /// It must not come.
    Refused,
    Delivered,
}

/// Runs the steps.
///
/// # Errors
/// When the broker does not do what it must, or cannot be run.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let broker = Broker::start(&options.broker_command)?;
    let mut scene = Scene { options, broker, fates: Vec::new(), figures: Figures::default() };
    scene.play().await?;
    options.format.print("disk-full", &scene.figures)
}

struct Scene<'a> {
    options: &'a Options,
    broker: Broker,
    /// By number of the message; vehicle `number % VEHICLES` is to get it.
    fates: Vec<Fate>,
    figures: Figures,
}

impl Scene<'_> {
    async fn play(&mut self) -> Result<()> {
        self.broker.wait_until_ready(self.options.target).await?;
        for vehicle in 0..VEHICLES {
            let mut link = self.open(vehicle).await?;
            link.subscribe(&topic(vehicle), 1).await?;
            link.disconnect().await?;
        }
        let mut backend = self.backend().await?;
        while self.figures.acknowledged * (PAYLOAD_BYTES as u64) < BEFORE_BYTES {
            ensure!(!self.publish(&mut backend).await?, "refused before the disk is full");
        }
        fill(&self.options.filler)?;
        let since = Instant::now();
        let before = self.figures.acknowledged;
        while !self.publish(&mut backend).await? {
            ensure!(since.elapsed() < PATIENCE, "the disk is full, and messages are still acknowledged");
            // What others gave free meanwhile is not for the broker.
            fill(&self.options.filler)?;
        }
        self.figures.refused_after_ms = milliseconds(since);
        self.figures.acknowledged_on_the_full_disk = self.figures.acknowledged - before;
        self.needs_no_disk().await?;
        drop(backend);

        self.broker.kill()?;
        fill(&self.options.filler)?;
        self.broker.start_again()?;
        self.figures.restart_on_the_full_disk_ms =
            self.broker.wait_until_ready(self.options.target).await?.as_millis() as u64;
        let mut backend = self.backend().await?;
        ensure!(self.publish(&mut backend).await?, "a broker that restarts on a full disk takes messages");

        let since = Instant::now();
        for vehicle in 0..VEHICLES {
            self.drain(vehicle).await?;
        }
        self.figures.drained = self.count(Fate::Delivered);
        // The disk is as full as before, but for what the broker itself gave free.
        let waits = self.figures.acknowledged;
        while self.publish(&mut backend).await? {
            ensure!(since.elapsed() < PATIENCE, "all queues are drained, and messages are still refused");
            // A broker that refused tells nobody when it would not: ask again, as a publisher would.
            tokio::time::sleep(RETRY).await;
        }
        self.figures.room_again_after_ms = milliseconds(since);
        self.figures.acknowledged_afterwards = self.figures.acknowledged - waits;
        drop(backend);

        self.broker.kill()?;
        self.broker.start_again()?;
        self.broker.wait_until_ready(self.options.target).await?;
        for vehicle in 0..VEHICLES {
            self.drain(vehicle).await?;
        }
        self.figures.lost = self.count(Fate::Acknowledged);
        Ok(())
    }

    fn count(&self, fate: Fate) -> u64 {
        self.fates.iter().filter(|one| **one == fate).count() as u64
    }

    async fn open(&self, vehicle: u64) -> Result<Link> {
        let client_id = format!("disk-full-{vehicle}");
        let connect = Connect {
            client_id: &client_id,
            is_clean: false,
            session_expiry_seconds: u32::MAX,
            receive_maximum: 1_000,
            ..Connect::default()
        };
        let opened = timeout(PATIENCE, Link::open(self.options.target, &connect)).await;
        Ok(opened.with_context(|| format!("no CONNACK for {client_id}"))??.0)
    }

    async fn backend(&self) -> Result<Link> {
        let connect = Connect {
            client_id: "disk-full-backend",
            is_clean: true,
            session_expiry_seconds: 0,
            receive_maximum: 1_000,
            ..Connect::default()
        };
        Ok(timeout(PATIENCE, Link::open(self.options.target, &connect)).await.context("no CONNACK for the backend")??.0)
    }

    /// Publishes a window of messages and waits for all answers. Whether one was refused.
    async fn publish(&mut self, link: &mut Link) -> Result<bool> {
        let first_number = self.fates.len();
        let mut payload = vec![b'.'; PAYLOAD_BYTES];
        for index in 0..WINDOW {
            let number = (first_number + index) as u64;
            payload[..8].copy_from_slice(&number.to_be_bytes());
            wire::publish(Version::V5, &mut link.outgoing, QOS1, &topic(number % VEHICLES), index as u16 + 1, &payload);
        }
        self.fates.resize(first_number + WINDOW, Fate::Unknown);
        let (mut answered, mut is_refused) = (0, false);
        let since = Instant::now();
        while answered < WINDOW {
            while let Some((kind, body)) = link.incoming.next() {
                ensure!(kind == first::PUBACK, "a packet {kind:#04x} instead of PUBACK");
                let (id, reason) = wire::read_ack(body).context("a PUBACK cut short")?;
                let index =
                    usize::from(id).checked_sub(1).filter(|index| *index < WINDOW).context("a strange PUBACK")?;
                answered += 1;
                self.fates[first_number + index] = match reason {
                    reason if reason < 0x80 => Fate::Acknowledged,
                    QUOTA_EXCEEDED => Fate::Refused,
                    reason => bail!("refused with {reason:#04x} instead of 0x97"),
                };
                match reason {
                    QUOTA_EXCEEDED => (self.figures.refused, is_refused) = (self.figures.refused + 1, true),
                    _ => self.figures.acknowledged += 1,
                }
            }
            if answered < WINDOW {
                let Some(left) = PATIENCE.checked_sub(since.elapsed()) else {
                    self.figures.unanswered += (WINDOW - answered) as u64;
                    bail!("{} publishes are not answered within {PATIENCE:?}", WINDOW - answered);
                };
                // Whether something came is counted above.
                if let Ok(turn) = timeout(left, link.turn()).await {
                    turn?;
                }
            }
        }
        Ok(is_refused)
    }

    /// QoS 0 still finds its way, to somebody whose session is not kept.
    async fn needs_no_disk(&mut self) -> Result<()> {
        let mut link = self.backend().await?;
        timeout(PATIENCE, link.subscribe("disk-full/live", 0)).await.context("no SUBACK on the full disk")??;
        for _ in 0..WINDOW {
            let mut body = Vec::new();
            wire::push_text(&mut body, "disk-full/live");
            body.push(0);
            wire::push_packet(&mut link.outgoing, first::PUBLISH, &body);
        }
        while self.figures.qos0_on_the_full_disk < WINDOW as u64 {
            timeout(PATIENCE, link.turn()).await.context("no message of QoS 0 on the full disk")??;
            while let Some((kind, _)) = link.incoming.next() {
                self.figures.qos0_on_the_full_disk += u64::from(kind & 0xF0 == first::PUBLISH);
            }
        }
        link.disconnect().await
    }

    /// Takes all that waits for a vehicle, in order, until what was acknowledged has come or nothing comes any more.
    async fn drain(&mut self, vehicle: u64) -> Result<()> {
        let mut link = self.open(vehicle).await?;
        let mut last = None;
        loop {
            // Some may have come together with CONNACK.
            while let Some((kind, body)) = link.incoming.next() {
                if kind & 0xF0 != first::PUBLISH {
                    continue;
                }
                let (id, payload) = wire::read_publish(Version::V5, kind, body).context("a PUBLISH cut short")?;
                let number =
                    payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).context("a short payload")?;
                wire::ack(&mut link.outgoing, first::PUBACK, id);
                let known = usize::try_from(number).ok().and_then(|index| self.fates.get_mut(index));
                match known {
                    Some(fate) if number % VEHICLES == vehicle && *fate != Fate::Refused && last < Some(number) => {
                        self.figures.duplicates += u64::from(*fate == Fate::Delivered);
                        *fate = Fate::Delivered;
                    }
                    _ => self.figures.wrong += 1,
                }
                last = Some(number);
            }
            if !self.is_owed(vehicle) {
                break;
            }
            let Ok(turn) = timeout(PATIENCE, link.turn()).await else { break };
            turn?;
        }
        // What is not yet written are acknowledgements: the broker is to have them.
        link.disconnect().await
    }

    fn is_owed(&self, vehicle: u64) -> bool {
        let mut of_vehicle = self.fates.iter().skip(vehicle as usize).step_by(VEHICLES as usize);
        of_vehicle.any(|fate| *fate == Fate::Acknowledged)
    }
}

fn topic(vehicle: u64) -> String {
    format!("disk-full/{vehicle}/cmd")
}

fn milliseconds(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

/// Makes the file as large as the disk allows.
fn fill(path: &PathBuf) -> Result<()> {
    let mut file =
        File::options().append(true).create(true).open(path).context("cannot make the file that fills the disk")?;
    // Down to the last byte.
    for bytes in [1 << 20, 4096, 1] {
        let block = vec![0; bytes];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}
