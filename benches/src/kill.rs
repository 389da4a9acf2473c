//! The scenario `kill`: a broker is killed under full load, again and again.
//!
//! Owns the rounds. In each, senders publish as fast as they can, the broker
//! gets SIGKILL at a random time, comes back on the same data, all sessions
//! are resumed, and the books must agree.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use crate::broker::Broker;
use crate::latency::Latencies;
use crate::ledger::{Findings, Sent, Told};
use crate::link::Link;
use crate::receiver::{Due, Manner, Receiver};
use crate::report::Format;
use crate::sender::{Goal, Sender};

/// New messages of each sender after each restart: the broker must do its work, and nothing may hide behind the last of the old ones.
const MESSAGES_AFTERWARDS: u64 = 50;

/// The filter of every receiver.
const FILTER: &str = "kill/#";

/// How the receivers differ.
const MANNERS: [Manner; 6] = [
    Manner { name: "online, QoS 1", qos: 1, is_online: true, rest: Duration::ZERO, receive_maximum: 1_000 },
    Manner { name: "online, QoS 2", qos: 2, is_online: true, rest: Duration::ZERO, receive_maximum: 1_000 },
    Manner { name: "slow, QoS 1", qos: 1, is_online: true, rest: Duration::from_millis(20), receive_maximum: 100 },
    Manner { name: "slow, QoS 2", qos: 2, is_online: true, rest: Duration::from_millis(20), receive_maximum: 100 },
    Manner { name: "offline, QoS 1", qos: 1, is_online: false, rest: Duration::ZERO, receive_maximum: 1_000 },
    Manner { name: "offline, QoS 2", qos: 2, is_online: false, rest: Duration::ZERO, receive_maximum: 1_000 },
];

/// What to run, and how hard.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// Shell command that runs the broker in the foreground; it is killed and run again
    #[arg(long, value_name = "COMMAND")]
    broker_command: String,
    /// How often to kill it
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Publishers of QoS 1, and as many of QoS 2
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    publishers: u16,
    /// Messages that each publisher has in flight
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Bytes of each message
    #[arg(long, default_value_t = 128)]
    payload_bytes: usize,
    /// Shortest time under load before the broker is killed
    #[arg(long, value_name = "MS", default_value_t = 100)]
    load_ms_min: u64,
    /// Longest time under load before the broker is killed
    #[arg(long, value_name = "MS", default_value_t = 800)]
    load_ms_max: u64,
    /// How long nothing may come before what is missing counts as lost
    #[arg(long, default_value_t = 10)]
    patience_seconds: u64,
    /// Chooses the times of the kills; without it, the clock does
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    format: Format,
}

/// One round.
#[derive(Debug, Serialize)]
struct Round {
    round: u32,
    load_ms: u64,
    acknowledged: u64,
    recovery_ms: f64,
    sessions_lost: u64,
    lost: u64,
    duplicates_qos2: u64,
}

/// All rounds.
#[derive(Debug, Serialize)]
struct Summary {
    rounds: u32,
    seed: u64,
    acknowledged: u64,
    acknowledged_per_second: f64,
    refused: u64,
    #[serde(flatten)]
    findings: Findings,
    sessions_lost: u64,
    recovery_ms_p50: f64,
    recovery_ms_max: f64,
}

/// Runs the rounds and prints each, and the sum last. A broken promise ends it.
///
/// # Errors
/// When the broker cannot be run, or breaks a promise.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let local = LocalSet::new();
    local.run_until(run_rounds(options)).await
}

async fn run_rounds(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(clock_seed);
    let mut dice = Dice(seed.max(1));
    let mut trial = Trial::begin(options).await?;
    let mut recoveries = Latencies::default();
    let mut load_time = Duration::ZERO;
    let mut sessions_lost = 0;
    let mut under_load = 0;
    let mut rounds = 0;
    for round in 1..=options.rounds {
        let load = Duration::from_millis(dice.between(options.load_ms_min, options.load_ms_max));
        let before = trial.count(Told::Acknowledged);
        trial.load_and_kill(load).await.with_context(|| format!("round {round}, under load"))?;
        let acknowledged = trial.count(Told::Acknowledged) - before;
        let back = trial.recover().await.with_context(|| format!("round {round}, afterwards"))?;
        let findings = trial.findings();
        options.format.print(
            "round",
            &Round {
                round,
                load_ms: load.as_millis() as u64,
                acknowledged,
                recovery_ms: back.recovery.as_secs_f64() * 1e3,
                sessions_lost: back.sessions_lost,
                lost: findings.lost,
                duplicates_qos2: findings.duplicates_qos2,
            },
        )?;
        load_time += load;
        under_load += acknowledged;
        sessions_lost += back.sessions_lost;
        recoveries.add(back.recovery);
        rounds = round;
        if findings.is_bad() || sessions_lost > 0 {
            break;
        }
    }
    let findings = trial.findings();
    for receiver in &trial.receivers {
        let findings = receiver.0.ledger.audit(&trial.sent());
        if findings.is_bad() {
            eprintln!("the receiver {:?}: {findings:?}", receiver.0.manner.name);
        }
    }
    let summary = Summary {
        rounds,
        seed,
        acknowledged: trial.count(Told::Acknowledged),
        acknowledged_per_second: under_load as f64 / load_time.as_secs_f64().max(f64::MIN_POSITIVE),
        refused: trial.count(Told::Refused),
        findings,
        sessions_lost,
        recovery_ms_p50: recoveries.percentile_ms(50),
        recovery_ms_max: recoveries.percentile_ms(100),
    };
    options.format.print("all rounds", &summary)?;
    if findings.is_bad() || sessions_lost > 0 {
        bail!("the broker has broken its promises");
    }
    Ok(())
}

/// The broker, and all its clients with what they remember.
struct Trial<'a> {
    options: &'a Options,
    broker: Broker,
    senders: Vec<(Sender, Option<Link>)>,
    receivers: Vec<(Receiver, Option<Link>)>,
}

/// How a broker came back.
struct Back {
    recovery: Duration,
    sessions_lost: u64,
}

impl<'a> Trial<'a> {
    /// Starts the broker and makes all sessions.
    async fn begin(options: &'a Options) -> Result<Self> {
        let broker = Broker::start(&options.broker_command)?;
        let count = options.publishers * 2;
        let senders = (0..count).map(|index| {
            let name = format!("kill-sender-{index}");
            let topic = format!("kill/{index}");
            Sender::new(name, topic, index, 1 + (index % 2) as u8, options.window, options.payload_bytes)
        });
        let receivers = MANNERS
            .iter()
            .enumerate()
            .map(|(index, manner)| Receiver::new(format!("kill-receiver-{index}"), *manner, count.into()));
        let mut trial = Self {
            options,
            broker,
            senders: senders.map(|sender| (sender, None)).collect(),
            receivers: receivers.map(|receiver| (receiver, None)).collect(),
        };
        trial.broker.wait_until_ready(options.target).await?;
        for (receiver, link) in &mut trial.receivers {
            let (mut new, _) = receiver.connect(options.target, true).await?;
            new.subscribe(FILTER, receiver.manner.qos).await?;
            *link = Some(new);
        }
        for (sender, link) in &mut trial.senders {
            *link = Some(sender.connect(options.target, true).await?.0);
        }
        Ok(trial)
    }

    /// From the start of the process to an answer to CONNECT.
    /// Everybody who is to be online works until the broker is killed.
    async fn load_and_kill(&mut self, load: Duration) -> Result<()> {
        for (_, link) in self.receivers.iter_mut().filter(|(receiver, _)| !receiver.manner.is_online) {
            if let Some(link) = link.take() {
                link.disconnect().await?;
            }
        }
        let mut receiving = JoinSet::new();
        for (index, (mut receiver, link)) in self.receivers.drain(..).enumerate() {
            receiving.spawn_local(async move {
                if let Some(mut link) = link {
                    let why = receiver.run(&mut link).await;
                    return (index, receiver, why);
                }
                (index, receiver, Ok(()))
            });
        }
        let mut sending = JoinSet::new();
        for (index, (mut sender, link)) in self.senders.drain(..).enumerate() {
            sending.spawn_local(async move {
                let mut link = link.context("not connected")?;
                let why = sender.run(&mut link, Goal::Broken).await;
                anyhow::Ok((index, sender, why))
            });
        }
        // The moment of the kill is what is chosen; there is nothing to wait for.
        sleep(load).await;
        self.broker.kill()?;
        let mut senders = Vec::new();
        while let Some(result) = sending.join_next().await {
            let (index, sender, why) = result??;
            senders.push((index, sender));
            check_end(why)?;
        }
        let mut receivers = Vec::new();
        while let Some(result) = receiving.join_next().await {
            let (index, receiver, why) = result?;
            receivers.push((index, receiver));
            check_end(why)?;
        }
        self.senders = in_order(senders);
        self.receivers = in_order(receivers);
        Ok(())
    }

    /// Starts the broker again; all sessions are resumed, finish what they began, and receive what is due.
    async fn recover(&mut self) -> Result<Back> {
        self.broker.start_again()?;
        let recovery = self.broker.wait_until_ready(self.options.target).await?;
        let target = self.options.target;
        let mut sessions_lost = 0;
        let (due_sender, due) = watch::channel(None);
        let patience = Duration::from_secs(self.options.patience_seconds);
        let mut receiving = JoinSet::new();
        for (index, (mut receiver, _)) in self.receivers.drain(..).enumerate() {
            let (mut link, is_present) = receiver.connect(target, false).await?;
            sessions_lost += u64::from(!is_present);
            let due: Due = due.clone();
            receiving.spawn_local(async move {
                let drained = receiver.drain(&mut link, due, patience).await;
                (index, receiver, link, drained)
            });
        }
        let mut sending = JoinSet::new();
        for (index, (mut sender, _)) in self.senders.drain(..).enumerate() {
            let (mut link, is_present) = sender.connect(target, false).await?;
            sessions_lost += u64::from(!is_present);
            sending.spawn_local(async move {
                sender.run(&mut link, Goal::Count(MESSAGES_AFTERWARDS)).await?;
                anyhow::Ok((index, (sender, Some(link))))
            });
        }
        let mut senders = Vec::new();
        while let Some(result) = sending.join_next().await {
            senders.push(result?.context("a publisher")?);
        }
        senders.sort_by_key(|(index, _)| *index);
        self.senders = senders.into_iter().map(|(_, sender)| sender).collect();
        due_sender.send_replace(Some(Rc::new(self.sent())));
        let mut receivers = Vec::new();
        while let Some(result) = receiving.join_next().await {
            let (index, receiver, link, drained) = result?;
            if !drained.with_context(|| format!("the receiver {:?}", receiver.manner.name))? {
                eprintln!("the receiver {:?} waits in vain", receiver.manner.name);
            }
            receivers.push((index, (receiver, Some(link))));
        }
        receivers.sort_by_key(|(index, _)| *index);
        self.receivers = receivers.into_iter().map(|(_, receiver)| receiver).collect();
        self.broker.check_alive()?;
        Ok(Back { recovery, sessions_lost })
    }

    fn sent(&self) -> Vec<Sent> {
        self.senders.iter().map(|(sender, _)| sender.sent.clone()).collect()
    }

    fn count(&self, wanted: Told) -> u64 {
        self.senders.iter().map(|(sender, _)| sender.sent.count(wanted)).sum()
    }

    fn findings(&self) -> Findings {
        let sent = self.sent();
        let mut findings = Findings::default();
        for (receiver, _) in &self.receivers {
            findings.add(&receiver.ledger.audit(&sent));
        }
        findings
    }
}

/// Without their links, which are dead.
fn in_order<T>(mut clients: Vec<(usize, T)>) -> Vec<(T, Option<Link>)> {
    clients.sort_by_key(|(index, _)| *index);
    clients.into_iter().map(|(_, client)| (client, None)).collect()
}

/// The end of a connection is what was asked for; that the broker said something wrong before it is not.
fn check_end(why: Result<()>) -> Result<()> {
    match why {
        Err(error) if error.downcast_ref::<std::io::Error>().is_none() => Err(error),
        _ => Ok(()),
    }
}

fn clock_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64)
}

/// Numbers that look random, from a seed that is not 0 (xorshift).
struct Dice(u64);

impl Dice {
    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        least + self.0 % (most.saturating_sub(least) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_stay_within_their_bounds() {
        let mut dice = Dice(42);
        let throws: Vec<u64> = (0..1_000).map(|_| dice.between(3, 7)).collect();
        for wanted in 3..=7 {
            assert!(throws.contains(&wanted));
        }
        assert!(throws.iter().all(|throw| (3..=7).contains(throw)));
    }
}
