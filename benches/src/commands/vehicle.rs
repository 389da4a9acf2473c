//! A vehicle that is commanded, and answers as the plan of each command says.
//!
//! Owns what it was asked and what it has still to say. Some speak MQTT 3.1.1, and name the request in the topic or in the payload.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::book::{Book, Plan};
use crate::link::Link;
use crate::wire::{self, Connect, Published, Version, first};

const AGAIN: Duration = Duration::from_millis(20);
const SESSION_SECONDS: u32 = 3600;
/// A late reply comes so long after the deadline.
const LATE: Duration = Duration::from_secs(1);

/// The identification number of the vehicle of this number.
pub(super) fn vin(number: usize) -> String {
    format!("1M8GDM9AXKP{number:06}")
}

/// How a vehicle names the request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    CorrelationData,
    Topic,
    Payload,
}

/// A reply that is to be said, or what another vehicle is to forge.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    at: Instant,
    command: String,
    request: usize,
}

/// See the module.
pub(super) struct Vehicle {
    pub(super) number: usize,
    pub(super) target: SocketAddr,
    pub(super) token: String,
    pub(super) deadline: Duration,
    /// Replies come so long after their commands.
    pub(super) answers_within: (Duration, Duration),
    pub(super) book: Rc<RefCell<Book>>,
    /// What it is to forge.
    pub(super) to_forge: mpsc::UnboundedReceiver<Reply>,
    /// By which others forge.
    pub(super) forgers: Rc<Vec<mpsc::UnboundedSender<Reply>>>,
    /// Numbers of the commands that it was sent.
    asked: HashSet<String>,
    to_say: BTreeMap<(Instant, u64), Reply>,
    said: u64,
    unacknowledged: BTreeMap<u16, Reply>,
    last_id: u16,
}

impl Vehicle {
    #[allow(clippy::too_many_arguments, reason = "they are what a vehicle is")]
    pub(super) fn new(
        number: usize,
        target: SocketAddr,
        token: String,
        (deadline, answers_within): (Duration, (Duration, Duration)),
        book: Rc<RefCell<Book>>,
        (to_forge, forgers): (mpsc::UnboundedReceiver<Reply>, Rc<Vec<mpsc::UnboundedSender<Reply>>>),
    ) -> Vehicle {
        let (asked, to_say, unacknowledged) = (HashSet::new(), BTreeMap::new(), BTreeMap::new());
        let (said, last_id) = (0, 0);
        Vehicle {
            number,
            target,
            token,
            deadline,
            answers_within,
            book,
            to_forge,
            forgers,
            asked,
            to_say,
            said,
            unacknowledged,
            last_id,
        }
    }

    /// One in five is old, and of those every second has no way but the payload.
    fn naming(&self) -> Naming {
        match self.number % 10 {
            3 => Naming::Topic,
            7 => Naming::Payload,
            _ => Naming::CorrelationData,
        }
    }

    fn version(&self) -> Version {
        match self.naming() {
            Naming::CorrelationData => Version::V5,
            Naming::Topic | Naming::Payload => Version::V311,
        }
    }

    /// Connects, and subscribes where there was no session.
    pub(super) async fn connect(&self) -> Result<(Link, bool)> {
        let name = vin(self.number);
        let connect = Connect {
            version: self.version(),
            client_id: &name,
            is_clean: false,
            session_expiry_seconds: SESSION_SECONDS,
            login: Some(("", &self.token)),
            ..Connect::default()
        };
        let (mut link, connack) = Link::open(self.target, &connect).await?;
        if !connack.is_session_present {
            link.subscribe_as(self.version(), "cmd/#", 1).await?;
        }
        Ok((link, connack.is_session_present))
    }

    /// Answers, for ever. Every end of a connection is followed by another one.
    pub(super) async fn run(mut self, mut link: Link) -> Result<()> {
        loop {
            match self.work(&mut link).await {
                Err(error) if error.downcast_ref::<std::io::Error>().is_none() => return Err(error),
                Ok(()) | Err(_) => {}
            }
            drop(link);
            link = self.come_back().await;
        }
    }

    async fn come_back(&mut self) -> Link {
        let (mut link, is_present) = loop {
            match self.connect().await {
                Ok(link) => break link,
                // A broker that starts tells nobody when it listens: ask again.
                Err(_) => sleep(AGAIN).await,
            }
        };
        let mut book = self.book.borrow_mut();
        book.counts.reconnects += 1;
        book.counts.sessions_lost += u64::from(!is_present);
        drop(book);
        for (id, reply) in &self.unacknowledged {
            self.write(&mut link.outgoing, reply, *id, true);
        }
        link
    }

    async fn work(&mut self, link: &mut Link) -> Result<()> {
        loop {
            // Some may have come together with CONNACK.
            while let Some((kind, body)) = link.incoming.next() {
                let body = body.to_vec();
                self.take(&mut link.outgoing, kind, &body)?;
            }
            self.say_what_is_due(&mut link.outgoing);
            let next = self.to_say.keys().next().map(|(at, _)| *at);
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                turned = link.turn() => turned?,
                Some(forged) = self.to_forge.recv() => {
                    self.book.borrow_mut().counts.replies_forged += 1;
                    self.plan_reply(forged);
                }
                () = due => {}
            }
        }
    }

    fn say_what_is_due(&mut self, out: &mut Vec<u8>) {
        while let Some(entry) = self.to_say.first_entry()
            && entry.key().0 <= Instant::now()
        {
            let reply = entry.remove();
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            self.write(out, &reply, self.last_id, false);
            self.unacknowledged.insert(self.last_id, reply);
        }
    }

    fn plan_reply(&mut self, reply: Reply) {
        self.said += 1;
        self.to_say.insert((reply.at, self.said), reply);
    }

    fn take(&mut self, out: &mut Vec<u8>, kind: u8, body: &[u8]) -> Result<()> {
        match kind & 0xF0 {
            first::PUBLISH => {
                let published = Published::read(self.version(), kind, body).context("a command cut short")?;
                wire::ack(out, first::PUBACK, published.id);
                self.obey(&published);
            }
            first::PUBACK => {
                let (id, _) = wire::read_ack(body).context("an acknowledgement cut short")?;
                self.unacknowledged.remove(&id);
            }
            _ => {}
        }
        Ok(())
    }

    fn obey(&mut self, published: &Published<'_>) {
        let mut book = self.book.borrow_mut();
        let by_correlation = published.correlation().and_then(|data| std::str::from_utf8(data).ok());
        let by_topic = published.topic.strip_prefix("cmd/do/");
        let payload: Value = serde_json::from_slice(published.payload).unwrap_or_default();
        let request = payload["request_id"].as_u64().map(|number| number as usize);
        let plan = payload["plan"].as_u64();
        let plan = Plan::SHARES.iter().map(|(plan, _)| *plan).find(|known| Some(*known as u64) == plan);
        let (Some(command), Some(request), Some(plan)) = (by_correlation.or(by_topic), request, plan) else {
            book.wrong(format!("vehicle {} was sent {published:?}", self.number));
            return;
        };
        if book.requests.get(request).is_none_or(|request| request.vehicle != self.number) {
            book.wrong(format!("vehicle {} was sent somebody else's command: {request}", self.number));
        }
        if !self.asked.insert(command.to_owned()) {
            match published.is_dup {
                true => book.counts.delivered_again += 1,
                false => book.wrong(format!("command {command} was sent twice to vehicle {}", self.number)),
            }
            return;
        }
        book.counts.delivered += 1;
        let now = Instant::now();
        // Any order will do, as long as it is another one.
        let spread = (request as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let (start, end) = self.answers_within;
        let soon = start + (end - start).mul_f64(spread as f64 / f64::from(1 << 24));
        let reply = Reply { at: now + soon, command: command.to_owned(), request };
        let (counts, mut replies) = (&mut book.counts, Vec::new());
        match plan {
            Plan::Reply | Plan::Contested => {
                counts.replies += 1;
                replies.push(reply.clone());
            }
            Plan::Duplicate => {
                counts.replies += 1;
                counts.replies_duplicate += 1;
                replies.extend([reply.clone(), reply.clone()]);
            }
            Plan::Late => {
                counts.replies_late += 1;
                replies.push(Reply { at: now + self.deadline + LATE, ..reply.clone() });
            }
            Plan::Forged | Plan::Missing => {}
        }
        drop(book);
        replies.into_iter().for_each(|reply| self.plan_reply(reply));
        if matches!(plan, Plan::Contested | Plan::Forged) {
            let forger = &self.forgers[(self.number + 1) % self.forgers.len()];
            // It is there for as long as the run.
            let _ = forger.send(Reply { at: now, ..reply });
        }
    }

    fn write(&self, out: &mut Vec<u8>, reply: &Reply, id: u16, is_again: bool) {
        let by_payload = (self.naming() == Naming::Payload).then_some(reply.request);
        let payload = json!({"by": self.number, "about": reply.request, "request_id": by_payload}).to_string();
        let (mut topic, mut properties) = ("status/done".to_owned(), Vec::new());
        match self.naming() {
            Naming::CorrelationData => {
                properties.push(0x09);
                wire::push_text(&mut properties, &reply.command);
            }
            Naming::Topic => topic = format!("status/done/{}", reply.command),
            Naming::Payload => {}
        }
        let flags = 0x02 | if is_again { first::DUP } else { 0 };
        wire::publish_with(self.version(), out, flags, &topic, id, (&properties, payload.as_bytes()));
    }
}
