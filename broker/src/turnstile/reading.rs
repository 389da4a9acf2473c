//! How quickly a connection may send.
//!
//! Owns what each connection of a shard has used, and how long it is not read for that. Nothing is dropped: what is not read waits in the
//! client.

use causeway_core::ConnectionId;
use causeway_fleet::Principal;

use super::Class;
use super::bucket::{Bucket, Rate};
use crate::config::LimitSettings;

/// Of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    messages: Option<Rate>,
    bytes: Option<Rate>,
}

/// What one connection has used.
#[derive(Debug)]
struct Allowance {
    id: ConnectionId,
    rates: Rates,
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Whether somebody will wake its task.
    is_waited_for: bool,
}

/// Of all connections of a shard that are limited.
#[derive(Debug)]
pub(crate) struct Allowances {
    /// In the order of [`Class::ALL`].
    rates: [Rates; 4],
    /// By [`ConnectionId::index`]; empty where no class is limited.
    connections: Vec<Option<Box<Allowance>>>,
}

impl Allowances {
    pub(crate) fn new(limits: &LimitSettings) -> Allowances {
        let rates = Class::ALL.map(|class| {
            let of = class.limits(limits);
            let rate = |amount| Rate::per_second(amount, of.burst_seconds);
            Rates { messages: rate(of.messages_per_second.into()), bytes: rate(of.bytes_per_second) }
        });
        Allowances { rates, connections: Vec::new() }
    }

    /// A connection of this principal begins.
    pub(crate) fn begin(&mut self, id: ConnectionId, principal: &Principal, now_ms: u64) {
        let rates = self.rates[Class::of(principal) as usize];
        if rates.messages.is_none() && rates.bytes.is_none() {
            return;
        }
        if self.connections.len() <= id.index() {
            self.connections.resize_with(id.index() + 1, || None);
        }
        let full = |rate: Option<Rate>| rate.map(|rate| Bucket::full(rate, now_ms));
        let (messages, bytes) = (full(rates.messages), full(rates.bytes));
        self.connections[id.index()] = Some(Box::new(Allowance { id, rates, messages, bytes, is_waited_for: false }));
    }

    pub(crate) fn end(&mut self, id: ConnectionId) {
        if self.get(id).is_some() {
            self.connections[id.index()] = None;
        }
    }

    /// Whether the connection is limited.
    pub(crate) fn concerns(&self, id: ConnectionId) -> bool {
        self.connections.get(id.index()).is_some_and(|slot| slot.as_ref().is_some_and(|one| one.id == id))
    }

    /// Counts what was read.
    pub(crate) fn spend(&mut self, id: ConnectionId, messages: u64, bytes: u64, now_ms: u64) {
        let Some(one) = self.get(id) else { return };
        if let (Some(bucket), Some(rate)) = (&mut one.messages, one.rates.messages) {
            bucket.spend(rate, messages, now_ms);
        }
        if let (Some(bucket), Some(rate)) = (&mut one.bytes, one.rates.bytes) {
            bucket.spend(rate, bytes, now_ms);
        }
    }

    /// For how many milliseconds it is not to be read, 0 if it is.
    pub(crate) fn owed_ms(&mut self, id: ConnectionId, now_ms: u64) -> u64 {
        let Some(one) = self.get(id) else { return 0 };
        let owed = |bucket: &mut Option<Bucket>, rate: Option<Rate>| match (bucket, rate) {
            (Some(bucket), Some(rate)) => bucket.owed_ms(rate, now_ms),
            _ => 0,
        };
        owed(&mut one.messages, one.rates.messages).max(owed(&mut one.bytes, one.rates.bytes))
    }

    /// How many messages it may send now, one at least.
    pub(crate) fn messages_left(&mut self, id: ConnectionId) -> u64 {
        let bucket = self.get(id).and_then(|one| one.messages);
        bucket.map_or(u64::MAX, |bucket| bucket.left().max(1))
    }

    /// Notes that somebody waits for its turn; whether nobody did yet.
    pub(crate) fn wait(&mut self, id: ConnectionId) -> bool {
        self.get(id).is_some_and(|one| !std::mem::replace(&mut one.is_waited_for, true))
    }

    /// The wait is over.
    pub(crate) fn waited(&mut self, id: ConnectionId) {
        self.get(id).into_iter().for_each(|one| one.is_waited_for = false);
    }

    fn get(&mut self, id: ConnectionId) -> Option<&mut Allowance> {
        self.connections.get_mut(id.index())?.as_deref_mut().filter(|one| one.id == id)
    }
}
