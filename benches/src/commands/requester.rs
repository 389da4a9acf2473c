//! Somebody who commands vehicles, and goes on with that whatever happens to the broker.
//!
//! Owns what it has requested and what is not acknowledged yet. What it is told goes into the books.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::book::{Book, Told};
use super::vehicle::vin;
use crate::link::Link;
use crate::wire::{self, Connect, Published, Version, first};

/// Requests that are not acknowledged.
const WINDOW: usize = 200;
/// A broker that is not there is asked again after this.
const AGAIN: Duration = Duration::from_millis(20);
const SESSION_SECONDS: u32 = 3600;
const REQUEST_TOPIC: &str = "cmd/do";

/// See the module.
pub(super) struct Requester {
    pub(super) number: usize,
    pub(super) target: SocketAddr,
    pub(super) token: String,
    /// Those that are to be made, last first.
    pub(super) to_request: Vec<usize>,
    /// Seconds until each is over.
    pub(super) deadline_seconds: u32,
    /// Once so many outcomes came, it goes, and comes back.
    pub(super) restarts_after: usize,
    pub(super) book: Rc<RefCell<Book>>,
    /// What is not acknowledged, by packet identifier: the request, and whether the broker has it for good (PUBREC).
    unacknowledged: BTreeMap<u16, (usize, bool)>,
    last_id: u16,
    told: usize,
}

impl Requester {
    pub(super) fn new(number: usize, target: SocketAddr, token: String, book: Rc<RefCell<Book>>) -> Requester {
        let (to_request, unacknowledged) = (Vec::new(), BTreeMap::new());
        let (deadline_seconds, restarts_after, last_id, told) = (30, usize::MAX, 0, 0);
        Requester {
            number,
            target,
            token,
            to_request,
            deadline_seconds,
            restarts_after,
            book,
            unacknowledged,
            last_id,
            told,
        }
    }

    fn name(&self) -> String {
        format!("backend-{}", self.number)
    }

    fn answers(&self) -> String {
        format!("backend-{}/answers", self.number)
    }

    /// Connects, and subscribes where there was no session.
    pub(super) async fn connect(&self) -> Result<(Link, bool)> {
        let name = self.name();
        let connect = Connect {
            client_id: &name,
            is_clean: false,
            session_expiry_seconds: SESSION_SECONDS,
            login: Some(("", &self.token)),
            ..Connect::default()
        };
        let (mut link, connack) = Link::open(self.target, &connect).await?;
        if !connack.is_session_present {
            link.subscribe(&self.answers(), 1).await?;
        }
        Ok((link, connack.is_session_present))
    }

    /// Requests and hears, for ever. Every end of a connection is followed by another one.
    pub(super) async fn run(mut self, mut link: Link) -> Result<()> {
        loop {
            let restarts = self.work(&mut link).await?;
            if restarts {
                self.restarts_after = usize::MAX;
            }
            drop(link);
            link = self.come_back().await?;
        }
    }

    async fn come_back(&mut self) -> Result<Link> {
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
        let unacknowledged: Vec<(u16, (usize, bool))> = self.unacknowledged.iter().map(|(id, of)| (*id, *of)).collect();
        for (id, (request, is_received)) in unacknowledged {
            match is_received {
                true => wire::ack(&mut link.outgoing, first::PUBREL, id),
                false => self.write(&mut link.outgoing, request, id, true),
            }
        }
        Ok(link)
    }

    /// Until the connection ends, or this is to: which.
    async fn work(&mut self, link: &mut Link) -> Result<bool> {
        loop {
            while self.unacknowledged.len() < WINDOW
                && let Some(request) = self.to_request.pop()
            {
                let id = self.free_id();
                self.unacknowledged.insert(id, (request, false));
                self.book.borrow_mut().requested();
                self.write(&mut link.outgoing, request, id, false);
            }
            // Some may have come together with CONNACK.
            while let Some((kind, body)) = link.incoming.next() {
                let body = body.to_vec();
                self.take(&mut link.outgoing, kind, &body)?;
            }
            if self.told >= self.restarts_after {
                return Ok(true);
            }
            match link.turn().await {
                Ok(()) => {}
                Err(error) if error.downcast_ref::<std::io::Error>().is_some() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.unacknowledged.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>, number: usize, id: u16, is_again: bool) {
        let book = self.book.borrow();
        let request = &book.requests[number];
        let mut properties = vec![0x02];
        properties.extend(self.deadline_seconds.to_be_bytes());
        properties.push(0x08);
        wire::push_text(&mut properties, &self.answers());
        properties.push(0x09);
        wire::push_text(&mut properties, &number.to_string());
        if request.qos == 1 {
            // At QoS 1 a request may come twice: by its key it is the same one.
            properties.push(0x26);
            wire::push_text(&mut properties, "idempotency-key");
            wire::push_text(&mut properties, &number.to_string());
        }
        let payload = json!({"request_id": number, "plan": request.plan as u8}).to_string();
        let topic = format!("vehicles/{}/{REQUEST_TOPIC}", vin(request.vehicle));
        let flags = request.qos << 1 | if is_again { first::DUP } else { 0 };
        wire::publish_with(Version::V5, out, flags, &topic, id, (&properties, payload.as_bytes()));
    }

    fn take(&mut self, out: &mut Vec<u8>, kind: u8, body: &[u8]) -> Result<()> {
        match kind & 0xF0 {
            first::PUBLISH => {
                let published = Published::read(Version::V5, kind, body).context("an outcome cut short")?;
                wire::ack(out, first::PUBACK, published.id);
                self.hear(&published);
            }
            first::PUBACK | first::PUBREC => {
                let (id, reason) = wire::read_ack(body).context("an acknowledgement cut short")?;
                if reason >= 0x80 {
                    if let Some((request, _)) = self.unacknowledged.remove(&id) {
                        self.book.borrow_mut().wrong(format!("request {request} is refused: {reason:#04x}"));
                    }
                } else if kind & 0xF0 == first::PUBACK {
                    self.unacknowledged.remove(&id);
                } else {
                    if let Some((_, is_received)) = self.unacknowledged.get_mut(&id) {
                        *is_received = true;
                    }
                    wire::ack(out, first::PUBREL, id);
                }
            }
            first::PUBCOMP => {
                let (id, _) = wire::read_ack(body).context("an acknowledgement cut short")?;
                self.unacknowledged.remove(&id);
            }
            _ => {}
        }
        Ok(())
    }

    fn hear(&mut self, published: &Published<'_>) {
        let number = published.correlation().and_then(|data| std::str::from_utf8(data).ok()?.parse().ok());
        let payload: Value = serde_json::from_slice(published.payload).unwrap_or_default();
        let field = |name: &str| payload[name].as_u64().map(|number| number as usize);
        let told = Told {
            outcome: published.user_property("cw-outcome").unwrap_or_default().to_owned(),
            command: published.user_property("cw-command").unwrap_or_default().to_owned(),
            by: field("by"),
            about: field("about"),
        };
        self.told += usize::from(!published.is_dup);
        let mut book = self.book.borrow_mut();
        match number {
            Some(number) => book.told(number, self.number, told, published.is_dup),
            None => book.wrong(format!("an outcome of nothing: {told:?}")),
        }
    }
}
