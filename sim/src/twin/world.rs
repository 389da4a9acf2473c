//! The world of one run: the broker, its clients, and what they know of shadows.
//!
//! Owns how packets get from one to the other, and what clients make of what they are told. What happens next is decided in `schedule`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_core::{ConnectionId, Effect, Limits, Millis, Overflow, Principal, Vin};
use causeway_fleet::home_shard;
use causeway_fleet::shadow::{Format, read};
use causeway_protocol::{Disconnect, Packet, ProtocolVersion, decode};
use causeway_storage::fault::Random;
use serde_json::Value;

use super::client::{Client, Heard, Role};
use super::cores::Cores;
use super::judge::is_not_found;
use super::ledger::{Book, Request, number, token_of};
use super::{Outcome, TwinTally};
use crate::broker::Broker;
use crate::link::first_packet;
use crate::presence::packets::{Dial, request};
use crate::trace::{Event, Trace};

/// Each vehicle has a shadow of its own, and one of this name.
pub(super) const NAMED: &str = "extra";

/// See the module.
pub(super) struct World<B> {
    pub(super) cores: Cores<B>,
    pub(super) clients: Vec<Client>,
    pub(super) vins: Vec<Vin>,
    /// By vehicle times two; the named one is the second.
    pub(super) books: Vec<Book>,
    pub(super) requests: Vec<Request>,
    /// Requests that were judged.
    pub(super) judged: usize,
    /// Questions that were told that there is no shadow.
    pub(super) not_found: BTreeSet<usize>,
    /// The largest delta of each shadow that its vehicle has handled.
    pub(super) handled: Vec<u64>,
    /// Deltas that vehicles have yet to act on.
    pub(super) to_do: Vec<Option<(u64, Value)>>,
    /// The newest version of each shadow that backends know.
    pub(super) known: Vec<u64>,
    pub(super) limits: Arc<Limits>,
    pub(super) random: Random,
    /// Unix milliseconds; always a whole second.
    pub(super) now: u64,
    pub(super) step: u32,
    pub(super) trace: Trace,
    pub(super) tally: TwinTally,
    by_connection: BTreeMap<(usize, ConnectionId), usize>,
}

impl<B: Broker> World<B> {
    pub(super) fn new(seed: u64, limits: Arc<Limits>, brokers: Vec<B>) -> World<B> {
        let mut random = Random::new(seed.wrapping_mul(2).wrapping_add(1));
        let cores = Cores::new(brokers, &mut random);
        let vehicles = 1 + random.below(4) as usize;
        let mut world = World {
            cores,
            clients: Vec::new(),
            vins: (0..vehicles).map(vin).collect(),
            books: (0..vehicles * 2).map(|_| Book::default()).collect(),
            requests: Vec::new(),
            judged: 0,
            not_found: BTreeSet::new(),
            handled: vec![0; vehicles * 2],
            to_do: vec![None; vehicles * 2],
            known: vec![0; vehicles * 2],
            limits,
            random,
            now: 1_700_000_000_000,
            step: 0,
            trace: Trace::default(),
            tally: TwinTally::default(),
            by_connection: BTreeMap::new(),
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for number in 0..2 {
            let filters = match number {
                0 => ["documents", "expired"].iter().flat_map(|word| own_filters(word)).collect(),
                _ => vec![
                    "$aws/things/+/shadow/update/documents".to_owned(),
                    "$aws/things/+/shadow/name/+/update/documents".to_owned(),
                ],
            };
            self.add(format!("watcher-{number}"), None, Role::Watcher, filters);
        }
        for number in 0..2 + self.random.below(2) {
            let name = format!("backend-{number}");
            let mut filters = vec![format!("answers/{name}")];
            filters.extend(["get/+", "update/accepted", "delta"].iter().flat_map(|words| own_filters(words)));
            self.add(name, None, Role::Backend, filters);
        }
        for number in 0..self.vins.len() {
            let vin = self.vins[number];
            let filters = match speaks_aws(number) {
                true => ["", "name/extra/"]
                    .iter()
                    .flat_map(|name| {
                        ["update/delta", "get/+"].map(|words| format!("$aws/things/{vin}/shadow/{name}{words}"))
                    })
                    .collect(),
                false => ["", "name/extra/"]
                    .iter()
                    .flat_map(|name| ["delta", "get/+"].map(|words| format!("shadow/{name}{words}")))
                    .collect(),
            };
            self.add(vin.to_string(), Some(vin), Role::Vehicle(number), filters);
        }
    }

    fn add(&mut self, name: String, vin: Option<Vin>, role: Role, filters: Vec<String>) {
        let home = home_shard(&name, self.cores.count() as u32) as usize;
        let principal = vin.map_or_else(|| Principal::Service(Arc::from(name.as_str())), Principal::Vehicle);
        let mut client = Client::new(name, principal.into(), role, home, filters);
        client.is_persistent = matches!(role, Role::Watcher | Role::Backend) || self.random.chance(70);
        self.clients.push(client);
    }

    pub(super) fn note(&mut self, what: &'static str, numbers: [u64; 3]) {
        self.trace.note(Event { step: self.step, now: self.now, what, numbers });
    }

    /// The vehicle whose shadow it is, among the clients.
    pub(super) fn clients_of(&self, shadow: usize) -> Vec<usize> {
        let is_its = |client: &Client| client.role == Role::Vehicle(shadow / 2);
        (0..self.clients.len()).filter(|&at| is_its(&self.clients[at])).collect()
    }

    pub(super) fn dial(&mut self, at: usize) -> Outcome<()> {
        if !self.cores.is_listening {
            return Ok(());
        }
        if let Some(before) = self.clients[at].connection {
            // It is taken over, and the client does not look at it any more.
            self.by_connection.remove(&(self.clients[at].home, before));
            self.clients[at].cut_off();
            self.tally.takeovers += 1;
        }
        let client = &self.clients[at];
        let dial = Dial {
            client_id: &client.name,
            clean_start: !client.is_persistent,
            expiry_seconds: if client.is_persistent { u32::MAX } else { 0 },
            will: None,
        };
        let request = request(&dial, client.identity.clone(), &self.limits, Overflow::RefuseNew)?;
        let home = client.home;
        self.note("dials", [at as u64, home as u64, 0]);
        let id = self.cores.shard(home).open(Millis(self.now), request);
        self.clients[at].connection = Some(id);
        self.by_connection.insert((home, id), at);
        for book in &mut self.books {
            book.since_connected.remove(&at);
        }
        self.tally.connects += 1;
        Ok(())
    }

    /// A connection is lost, with what is on its way, or ends in peace.
    pub(super) fn hang_up(&mut self, at: usize, in_peace: bool) {
        let home = self.clients[at].home;
        let Some(id) = self.clients[at].connection else { return };
        self.note("hangs up", [at as u64, u64::from(in_peace), 0]);
        if in_peace && self.cores.shard(home).wants_input(id) {
            self.cores.shard(home).handle(Millis(self.now), id, &Packet::Disconnect(Disconnect::default()));
        }
        self.by_connection.remove(&(home, id));
        self.cores.shard(home).closed(Millis(self.now), id, "simulated");
        self.clients[at].cut_off();
        self.tally.drops += 1;
    }

    /// All connections are gone with the process.
    pub(super) fn forget_connections(&mut self) {
        self.by_connection.clear();
        self.clients.iter_mut().for_each(Client::cut_off);
    }

    /// A client is sent what waits for it. Whether there was anything.
    pub(super) fn deliver(&mut self, at: usize) -> Outcome<bool> {
        let home = self.clients[at].home;
        let Some(id) = self.clients[at].connection else { return Ok(false) };
        let bytes = self.cores.take(self.now, home, id);
        self.trace.wire(&bytes);
        let mut rest = bytes.as_slice();
        while let Ok(Some(head)) = first_packet(rest) {
            let (packet, behind) = rest.split_at(head.total_bytes());
            rest = behind;
            let packet = decode(&head, &packet[head.header_bytes..], ProtocolVersion::V5)
                .map_err(|error| format!("no packet: {error}"))?;
            if let Some(heard) = self.clients[at].take(&packet)? {
                self.hear(at, heard)?;
            }
        }
        self.close_what_should_be();
        Ok(!bytes.is_empty())
    }

    /// A client sends up to so many packets. Whether there was any.
    pub(super) fn send(&mut self, at: usize, packets_max: usize) -> bool {
        let home = self.clients[at].home;
        let mut any = false;
        for _ in 0..packets_max {
            let Some(id) = self.clients[at].connection.filter(|id| self.cores.shard(home).wants_input(*id)) else {
                break;
            };
            let Some(bytes) = self.clients[at].next() else { break };
            self.trace.wire(&bytes);
            let Ok(Some(head)) = first_packet(&bytes) else { continue };
            if let Ok(packet) = decode(&head, &bytes[head.header_bytes..], ProtocolVersion::V5) {
                self.cores.shard(home).handle(Millis(self.now), id, &packet);
            }
            any = true;
        }
        self.close_what_should_be();
        any
    }

    /// Closes the sockets that shards want closed.
    fn close_what_should_be(&mut self) {
        for core in 0..self.cores.count() {
            while let Some(effect) = self.cores.shard(core).poll_effect() {
                if let Effect::Close { connection } = effect {
                    self.cores.shard(core).closed(Millis(self.now), connection, "simulated");
                    if let Some(at) = self.by_connection.remove(&(core, connection)) {
                        self.clients[at].cut_off();
                    }
                }
            }
            while self.cores.shard(core).poll_dirty().is_some() {}
        }
    }

    fn hear(&mut self, at: usize, heard: Heard) -> Outcome<()> {
        match heard {
            Heard::Done { request, is_refused } => {
                self.tally.refused += u64::from(is_refused);
                self.requests[request].is_acknowledged = !is_refused;
                Ok(())
            }
            Heard::Message { topic, payload, is_cbor } => {
                let format = if is_cbor { Format::Cbor } else { Format::Json };
                let message = read(&payload, format).map_err(|error| format!("{topic}: {error}"))?;
                self.hear_message(at, &topic, &message)
                    .map_err(|why| format!("{}, {topic}: {why}", self.clients[at].name))
            }
        }
    }

    fn hear_message(&mut self, at: usize, topic: &str, message: &Value) -> Outcome<()> {
        if topic.starts_with("answers/") {
            return self.hear_get(message);
        }
        let (shadow, words) = self.told_of(at, topic).ok_or("nobody asked for this")?;
        match words.strip_prefix("update/").unwrap_or(words) {
            "documents" => {
                self.tally.events += 1;
                let version = number(&message["current"], "version")?;
                self.known[shadow] = self.known[shadow].max(version);
                self.books[shadow].tell(at, message)
            }
            "delta" => {
                self.tally.deltas += 1;
                let delta = self.books[shadow].hear_delta(at, message)?;
                if matches!(self.clients[at].role, Role::Vehicle(_)) && delta.sequence > self.handled[shadow] {
                    self.to_do[shadow] = Some((delta.sequence, delta.state));
                }
                Ok(())
            }
            "expired" => {
                let expired = (number(message, "version")?, message["state"].clone());
                self.books[shadow].expired.push(expired);
                Ok(())
            }
            "accepted" => {
                let token = token_of(message).ok_or("no token")?;
                self.books[shadow].accepted.push((number(message, "version")?, token));
                Ok(())
            }
            "get/accepted" | "get/rejected" => self.hear_get(message),
            _ => Err("nobody asked for this".to_owned()),
        }
    }

    /// An answer to `get`. Others see it, too, and it may come again: it counts once for who asked.
    fn hear_get(&mut self, message: &Value) -> Outcome<()> {
        let token = token_of(message).ok_or("no token")?;
        let request = self.requests.get_mut(token).ok_or("an unknown token")?;
        request.answers = 1;
        if is_not_found(message) {
            self.not_found.insert(token);
        } else {
            number(message, "version")?;
            self.books[request.shadow].documents.push(message.clone());
        }
        Ok(())
    }

    /// Which shadow a topic is about, and what is told.
    fn told_of<'t>(&self, at: usize, topic: &'t str) -> Option<(usize, &'t str)> {
        let (vehicle, rest) = match topic.strip_prefix("vehicles/").or_else(|| topic.strip_prefix("$aws/things/")) {
            Some(full) => {
                let (vin, rest) = full.split_once('/')?;
                (self.vins.iter().position(|own| own.as_str() == vin)?, rest)
            }
            None => match self.clients[at].role {
                Role::Vehicle(vehicle) => (vehicle, topic),
                _ => return None,
            },
        };
        let words = rest.strip_prefix("shadow/")?;
        Some(match words.strip_prefix("name/extra/") {
            Some(words) => (vehicle * 2 + 1, words),
            None => (vehicle * 2, words),
        })
    }
}

/// Every other vehicle uses the names of AWS.
pub(super) fn speaks_aws(vehicle: usize) -> bool {
    vehicle % 2 == 1
}

fn own_filters(words: &str) -> [String; 2] {
    [format!("vehicles/+/shadow/{words}"), format!("vehicles/+/shadow/name/+/{words}")]
}

/// The number of a vehicle is part of its VIN.
fn vin(number: usize) -> Vin {
    let text = format!("WVWZZZ1JZ3W{number:06}");
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a VIN"))
}
