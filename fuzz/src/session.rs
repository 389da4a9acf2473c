//! The target `session`: four clients send any packets in any order to one shard, while time passes, networks fail and
//! the log lags.
//!
//! What has to hold: nothing panics, and every byte the shard writes is a packet its client can decode and accepts in
//! size.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::BytesMut;
use causeway_core::{
    ConnectionId, Effect, Handshake, HandshakePolicy, Limits, Millis, Principal, Shard, Step, Verdict,
};
use causeway_protocol::{Packet, ProtocolVersion, decode, frame};

/// Clients at once.
const CLIENTS: usize = 4;

/// What a step does; the low two bits of its byte name the client, the next three the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
#[repr(u8)]
pub enum SessionStep {
    Send = 0,
    SendMore = 1,
    SendAgain = 2,
    Dial = 3,
    HangUp = 4,
    Wait = 5,
    Sync = 6,
    Read = 7,
}

/// One step as the bytes the target reads.
pub fn session_step(client: u8, step: SessionStep, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![(client & 3) | ((step as u8) << 2), bytes.len() as u8];
    out.extend_from_slice(bytes);
    out
}

struct Client {
    id: ConnectionId,
    version: ProtocolVersion,
    packet_bytes_max: u32,
    received: Vec<u8>,
}

struct World {
    shard: Shard,
    limits: Arc<Limits>,
    now: Millis,
    clients: [Option<Client>; CLIENTS],
}

/// Runs the bytes as steps.
pub fn session(mut data: &[u8]) {
    let limits = Arc::new(Limits {
        session_queue_messages_max: 8,
        retained_messages_max: 8,
        subscriptions_per_session_max: 8,
        outbox_bytes_max: 4096,
        receive_maximum: 4,
        topic_levels_max: 8,
        topic_alias_maximum: 4,
        sys_interval_seconds: 60,
        ..Limits::default()
    });
    let now = Millis(1_000_000_000);
    let shard = Shard::new(now, Arc::clone(&limits), "fuzz", 1);
    let mut world = World { shard, limits, now, clients: [const { None }; CLIENTS] };
    while let [step, length, rest @ ..] = data {
        let (bytes, next) = rest.split_at(usize::from(*length).min(rest.len()));
        world.step(usize::from(step & 3), (step >> 2) & 7, bytes);
        data = next;
    }
    for at in 0..CLIENTS {
        world.read(at);
        world.hang_up(at);
    }
    world.sync();
    assert_eq!(world.shard.gauges().connections, 0);
}

impl World {
    fn step(&mut self, at: usize, step: u8, bytes: &[u8]) {
        match step {
            3 => self.dial(at, bytes),
            4 => self.hang_up(at),
            5 => self.wait(bytes.first().copied().unwrap_or(1)),
            6 => self.sync(),
            7 => self.read(at),
            _ => self.send(at, bytes),
        }
        self.carry_out();
    }

    fn dial(&mut self, at: usize, bytes: &[u8]) {
        let policy = HandshakePolicy {
            anonymous_allowed: true,
            password_allowed: true,
            methods: vec!["M".to_owned()],
            ..HandshakePolicy::default()
        };
        let mut handshake = Handshake::new(Arc::clone(&self.limits), policy, format!("assigned-{at}"));
        let mut step = match frame(bytes, self.limits.packet_bytes_max) {
            Ok(Some(head)) => match bytes.get(head.header_bytes..head.total_bytes()) {
                Some(body) => match decode(&head, body, handshake.version()) {
                    Ok(packet) => {
                        let packet_bytes_max = match &packet {
                            Packet::Connect(connect) => connect.properties.maximum_packet_size_bytes,
                            _ => None,
                        };
                        let step = handshake.handle(&packet);
                        self.accept_with(at, &mut handshake, step, packet_bytes_max.unwrap_or(u32::MAX));
                        return;
                    }
                    Err(error) => handshake.malformed(error, bytes),
                },
                None => return,
            },
            Ok(None) => return,
            Err(error) => handshake.malformed(error, bytes),
        };
        if let Step::Refuse { bytes, .. } = &mut step {
            check_packets(bytes, handshake.version(), u32::MAX);
        }
    }

    fn accept_with(&mut self, at: usize, handshake: &mut Handshake, mut step: Step, packet_bytes_max: u32) {
        // A method of two rounds, the second of which is anything.
        for round in 0..3 {
            step = match step {
                Step::Verify(_) => {
                    handshake.verdict(Verdict::Allow { identity: Principal::Anonymous.into(), data: vec![] })
                }
                Step::Exchange { .. } if round == 0 => handshake.verdict(Verdict::Continue { data: vec![1, 2] }),
                Step::Exchange { .. } => {
                    handshake.verdict(Verdict::Allow { identity: Principal::Anonymous.into(), data: vec![3] })
                }
                Step::Send(bytes) => {
                    check_packets(&bytes, handshake.version(), u32::MAX);
                    handshake.handle(&Packet::Auth(causeway_protocol::Auth {
                        reason: causeway_protocol::ReasonCode::ContinueAuthentication,
                        authentication_method: Some("M"),
                        ..Default::default()
                    }))
                }
                step => step,
            };
        }
        match step {
            Step::Accept(request) => {
                self.hang_up(at);
                let version = request.version;
                let id = self.shard.open(self.now, *request);
                self.clients[at] = Some(Client { id, version, packet_bytes_max, received: Vec::new() });
            }
            Step::Refuse { bytes, .. } => check_packets(&bytes, handshake.version(), u32::MAX),
            Step::Verify(_) | Step::Confirm { .. } | Step::Exchange { .. } | Step::Send(_) => {}
        }
    }

    fn send(&mut self, at: usize, bytes: &[u8]) {
        let Some(client) = &mut self.clients[at] else { return };
        client.received.extend_from_slice(bytes);
        let mut rest = client.received.as_slice();
        while self.shard.is_open(client.id) && self.shard.wants_input(client.id) {
            let head = match frame(rest, self.limits.packet_bytes_max) {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(error) => {
                    self.shard.malformed(self.now, client.id, error);
                    break;
                }
            };
            let Some(body) = rest.get(head.header_bytes..head.total_bytes()) else { break };
            match decode(&head, body, client.version) {
                Ok(packet) => self.shard.handle(self.now, client.id, &packet),
                Err(error) => self.shard.malformed(self.now, client.id, error),
            }
            rest = &rest[head.total_bytes()..];
        }
        client.received = rest.to_vec();
    }

    fn hang_up(&mut self, at: usize) {
        if let Some(client) = self.clients[at].take() {
            self.shard.closed(self.now, client.id, "fuzz");
        }
    }

    fn wait(&mut self, amount: u8) {
        self.now = Millis(self.now.0 + u64::from(amount) * u64::from(amount) * 100);
        self.shard.tick(self.now);
    }

    fn sync(&mut self) {
        while let Some(group) = self.shard.take_group() {
            self.shard.persisted(self.now, group.last());
        }
    }

    /// What a client receives is packets, none larger than it accepts.
    fn read(&mut self, at: usize) {
        let Some(client) = &self.clients[at] else { return };
        for _ in 0..64 {
            let Some(mut outbox) = self.shard.outbox(client.id).filter(|outbox| !outbox.is_empty()) else { return };
            let mut bytes = BytesMut::new();
            while !outbox.is_empty() {
                let mut slices = [IoSlice::new(&[]); 4];
                let used = outbox.chunks(&mut slices);
                let length: usize = slices[..used].iter().map(|slice| slice.len()).sum();
                slices[..used].iter().for_each(|slice| bytes.extend_from_slice(slice));
                outbox.advance(length);
            }
            check_packets(&bytes, client.version, client.packet_bytes_max);
            self.shard.flushed(self.now, client.id);
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.shard.poll_effect() {
            match effect {
                Effect::Close { connection } => {
                    let named = |client: &Option<Client>| client.as_ref().is_some_and(|open| open.id == connection);
                    match self.clients.iter().position(named) {
                        Some(at) => {
                            self.read(at);
                            self.hang_up(at);
                        }
                        None => self.shard.closed(self.now, connection, "fuzz"),
                    }
                }
                Effect::Reauthenticate { connection, data, .. } => {
                    let verdict = if data.len() % 2 == 0 {
                        Verdict::Allow { identity: Principal::Anonymous.into(), data }
                    } else {
                        Verdict::Continue { data }
                    };
                    self.shard.reauthenticated(self.now, connection, verdict);
                }
                Effect::Event(event) => assert!(!event.to_string().is_empty()),
                Effect::GroupCommand(request) => {
                    let whose = (request.connection, request.packet_id);
                    self.shard.group_command_taken(self.now, whose, Ok(()));
                }
                Effect::Answer { .. } | Effect::Twin(_) => panic!("nobody asks"),
            }
        }
    }
}

fn check_packets(mut bytes: &[u8], version: ProtocolVersion, packet_bytes_max: u32) {
    while !bytes.is_empty() {
        let head = frame(bytes, packet_bytes_max);
        let Ok(Some(head)) = head else { panic!("the shard wrote no packet: {head:?}") };
        let Some(body) = bytes.get(head.header_bytes..head.total_bytes()) else {
            panic!("the shard wrote half a packet")
        };
        if let Err(error) = decode(&head, body, version) {
            panic!("the shard wrote what its client can't read: {error}");
        }
        bytes = &bytes[head.total_bytes()..];
    }
}
