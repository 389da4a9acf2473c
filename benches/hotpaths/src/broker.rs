//! The core, driven as the broker's shard thread drives it, without sockets, clock, or disk.
//!
//! Owns the two halves of a turn: read what clients sent, then commit, write and carry out. The log is durable as soon as it is
//! asked, and time goes on by a millisecond each turn.
//!
//! What is counted is never inlined, so that a change elsewhere does not change what surrounds the core.

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use causeway_core::{
    ConnectionId, Effect, Handshake, HandshakePolicy, Limits, Lsn, Millis, OUTBOX_LOW_BYTES, OutboxMut, Overflow,
    PendingGroup, Principal, Shard, Step, Verdict, vehicle_of_client,
};
use causeway_protocol::{Disconnect, Packet, ProtocolVersion, QoS, decode, frame};

use crate::client::{self, Clients, Input};
use crate::measure::Meter;

/// Nobody attacks it, and it is to be the same in every run.
const HASH_SEED: u64 = 42;
/// As many slices as the broker gives to one system call.
const SLICES: usize = 32;
/// More than any outbox here has of them.
const PARTS_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) shard: Shard,
    pub(crate) clients: Clients,
    /// Records as they were made, where they are wanted.
    pub(crate) records: Option<Vec<Vec<u8>>>,
    wire: Wire,
    /// Who has something to hear.
    dirty: Vec<ConnectionId>,
    now: Millis,
    limits: Arc<Limits>,
    /// Clients have proven who they are: vehicles by their identifiers, and all others services. Else they are nobody.
    pub(crate) is_proven: bool,
}

/// Where sockets would be.
#[derive(Debug, Default)]
struct Wire {
    bytes: Vec<u8>,
    /// To whom, and where in `bytes` it ends.
    writes: Vec<(ConnectionId, usize)>,
}

impl Broker {
    pub(crate) fn new() -> Broker {
        // What the broker tells about itself is not what is measured.
        let limits = Arc::new(Limits { sys_interval_seconds: 0, ..Limits::default() });
        let now = Millis(1_000_000);
        let mut shard = Shard::new(now, Arc::clone(&limits), "hot paths", HASH_SEED);
        shard.read_bodies_from_log();
        Broker {
            shard,
            clients: Clients::default(),
            records: None,
            wire: Wire::default(),
            dirty: Vec::new(),
            now,
            limits,
            is_proven: false,
        }
    }

    /// The handshake of a client; `connect` is a whole CONNECT.
    ///
    /// # Errors
    /// When it is not let in.
    #[inline(never)]
    fn admit(&mut self, connect: &[u8], version: ProtocolVersion) -> Result<ConnectionId> {
        let policy = HandshakePolicy {
            anonymous_allowed: true,
            password_allowed: false,
            methods: Vec::new(),
            vehicle_ids_reserved: false,
            overflow: Overflow::RefuseNew,
        };
        let mut handshake = Handshake::new(Arc::clone(&self.limits), policy, String::new());
        let head = frame(connect, self.limits.packet_bytes_max)?.context("no whole CONNECT")?;
        if self.is_proven {
            handshake = handshake.proven();
        }
        let step = match handshake.handle(&decode(&head, &connect[head.header_bytes..], version)?) {
            Step::Confirm { client_id } => {
                let vehicle = vehicle_of_client(&client_id).map(Principal::Vehicle);
                let identity = vehicle.unwrap_or_else(|| Principal::service(&client_id)).into();
                handshake.verdict(Verdict::Allow { identity, data: Vec::new() })
            }
            step => step,
        };
        let Step::Accept(request) = step else { bail!("not let in: {step:?}") };
        Ok(self.shard.open(self.now, *request))
    }

    /// Lets a client in, by name. `is_kept`: its session outlives the connection.
    ///
    /// # Errors
    /// When it is not let in.
    pub(crate) fn connect(&mut self, client_id: &str, version: ProtocolVersion, is_kept: bool) -> Result<ConnectionId> {
        let connect = client::bytes_of(&client::connect(client_id, version, is_kept), version)?;
        self.come(&Meter::WARM_UP, &connect, version)
    }

    /// Likewise; `connect` is a whole CONNECT.
    ///
    /// # Errors
    /// When it is not let in.
    pub(crate) fn come(&mut self, meter: &Meter, connect: &[u8], version: ProtocolVersion) -> Result<ConnectionId> {
        let mut admitted = None;
        meter.measure(|| admitted = Some(self.admit(connect, version)));
        let id = admitted.context("what is measured is done")??;
        self.clients.add(id, version);
        self.settle(meter);
        self.answers(meter);
        Ok(id)
    }

    /// A client subscribes.
    ///
    /// # Errors
    /// When it is no filter.
    pub(crate) fn subscribe(&mut self, id: ConnectionId, filter: &str, qos: QoS) -> Result<()> {
        let version = self.clients.version(id);
        let subscribe = client::bytes_of(&client::subscribe(filter, qos), version)?;
        self.exchange(&Meter::WARM_UP, &[(id, version, subscribe)]);
        Ok(())
    }

    /// A client leaves.
    ///
    /// # Errors
    /// When it cannot say so.
    pub(crate) fn disconnect(&mut self, id: ConnectionId) -> Result<()> {
        let version = self.clients.version(id);
        let disconnect = client::bytes_of(&Packet::Disconnect(Disconnect::default()), version)?;
        self.exchange(&Meter::WARM_UP, &[(id, version, disconnect)]);
        Ok(())
    }

    /// One turn for what clients send, and more for what they answer, until all is said.
    pub(crate) fn exchange(&mut self, meter: &Meter, inputs: &[Input]) {
        meter.measure(|| self.read_all(inputs));
        self.settle(meter);
        self.answers(meter);
    }

    fn answers(&mut self, meter: &Meter) {
        loop {
            let answers = self.deliver_wire();
            if answers.is_empty() {
                return;
            }
            meter.measure(|| self.read_all(&answers));
            self.settle(meter);
        }
    }

    /// The clients get what was written. What they answer.
    fn deliver_wire(&mut self) -> Vec<Input> {
        let mut begin = 0;
        let mut answers = Vec::new();
        for &(to, end) in &self.wire.writes {
            answers.push(self.clients.hear(to, &self.wire.bytes[begin..end]));
            begin = end;
        }
        self.wire.bytes.clear();
        self.wire.writes.clear();
        answers.retain(|(_, _, bytes)| !bytes.is_empty());
        answers
    }

    fn read_all(&mut self, inputs: &[Input]) {
        for (id, version, bytes) in inputs {
            self.read(*id, *version, bytes);
        }
    }

    /// The first half of a turn: frames, decodes and hands over whole packets of a client.
    #[inline(never)]
    fn read(&mut self, id: ConnectionId, version: ProtocolVersion, bytes: &[u8]) {
        let (shard, now) = (&mut self.shard, self.now);
        let mut rest = bytes;
        while shard.is_open(id) && !rest.is_empty() && !shard.is_corked(id) {
            let head = match frame(rest, self.limits.packet_bytes_max) {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(error) => return shard.malformed(now, id, error),
            };
            let Some(packet) = rest.get(..head.total_bytes()) else { return };
            match decode(&head, &packet[head.header_bytes..], version) {
                Ok(packet) => shard.handle(now, id, &packet),
                Err(error) => return shard.malformed(now, id, error),
            }
            rest = &rest[head.total_bytes()..];
        }
    }

    /// The second half: what was read becomes durable, is written, and carried out, until nothing is left to do.
    fn settle(&mut self, meter: &Meter) {
        self.now = Millis(self.now.0 + 1);
        let mut is_quiet = false;
        while !is_quiet {
            meter.measure(|| is_quiet = self.step());
            self.copy_to_wire();
        }
    }

    /// Writes to who is known to have something to hear, carries out, commits, and looks who has something to hear now. Whether
    /// there was nothing to do, and is nothing.
    #[inline(never)]
    fn step(&mut self) -> bool {
        let now = self.now;
        if self.shard.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.shard.tick(now);
        }
        for at in 0..self.dirty.len() {
            self.write(self.dirty[at]);
        }
        self.dirty.clear();
        let mut is_quiet = true;
        while let Some(effect) = self.shard.poll_effect() {
            is_quiet = false;
            // Events are for the log, which is not at its most talkative.
            if let Effect::Close { connection } = black_box(effect) {
                self.shard.closed(now, connection, "closed");
            }
        }
        if let Some(group) = self.shard.take_group() {
            is_quiet = false;
            let last: Lsn = black_box(&group).last();
            self.keep(group);
            self.shard.persisted(now, last);
        }
        while let Some(id) = self.shard.poll_dirty() {
            self.dirty.push(id);
        }
        is_quiet && self.dirty.is_empty()
    }

    fn keep(&mut self, group: PendingGroup) {
        if let Some(records) = &mut self.records {
            records.extend(group.iter().map(<[u8]>::to_vec));
        }
    }

    /// What the clients will hear: sockets would copy it. It does not count.
    fn copy_to_wire(&mut self) {
        for &id in &self.dirty {
            let Some(outbox) = self.shard.waiting(id).filter(|_| !self.shard.is_corked(id)) else { continue };
            let mut slices = vec![IoSlice::new(&[]); PARTS_MAX];
            let used = outbox.chunks(&mut slices);
            slices[..used].iter().for_each(|slice| self.wire.bytes.extend_from_slice(slice));
            self.wire.writes.push((id, self.wire.bytes.len()));
        }
    }

    #[inline(never)]
    fn write(&mut self, id: ConnectionId) {
        let mut written = 0;
        while let Some(mut outbox) = self.shard.outbox(id).filter(|outbox| !outbox.is_empty()) {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = outbox.chunks(&mut slices);
            let bytes = black_box(&slices[..used]).iter().map(|slice| slice.len()).sum();
            outbox.advance(bytes);
            written += bytes;
        }
        let low = |outbox: OutboxMut<'_>| outbox.bytes() < OUTBOX_LOW_BYTES;
        if written > 0 && self.shard.outbox(id).is_some_and(low) {
            self.shard.flushed(self.now, id);
        }
    }
}
