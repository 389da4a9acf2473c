//! Any packets in any order: the shard never panics, stays within its bounds, and leaves nothing behind.

use std::collections::BTreeMap;

use causeway_protocol::{Packet, decode, encode, frame};
use proptest::prelude::*;

use super::world::*;
use crate::lane::{LaneName, Number};
use crate::session::Phase;

/// One step of a client gone wild.
#[derive(Debug, Clone)]
enum Move {
    Join { client: usize, clean: bool, window: u16 },
    HangUp(usize),
    Publish { client: usize, qos: u8, id: u16, topic: usize, retain: bool, payload: &'static str, expiry: Option<u32> },
    Subscribe { client: usize, filter: usize, qos: u8 },
    Unsubscribe { client: usize, filter: usize },
    Ack { client: usize, kind: u8, id: u16 },
    Wait(u64),
    Sync,
    Fold { work: usize, commits: bool },
    Crash,
    Read(usize),
}

const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&str; 4] = ["t", "t/1", "u", "$x"];
const FILTERS: [&str; 6] = ["t", "t/#", "+", "#", "$share/g/t/#", "$share/h/#"];

fn moves() -> impl Strategy<Value = Move> {
    let client = || 0..CLIENTS.len();
    prop_oneof![
        (client(), any::<bool>(), 1..4u16).prop_map(|(client, clean, window)| Move::Join { client, clean, window }),
        client().prop_map(Move::HangUp),
        (
            client(),
            0..3u8,
            1..5u16,
            0..TOPICS.len(),
            any::<bool>(),
            prop::bool::weighted(0.3),
            prop::option::of(1..4000u32)
        )
            .prop_map(|(client, qos, id, topic, retain, clears, expiry)| {
                let payload = if retain && clears { "" } else { "payload" };
                // What expires in a queue is dropped when somebody looks, and that differs after a restart.
                let expiry = expiry.filter(|_| retain && qos == 0);
                Move::Publish { client, qos, id, topic, retain, payload, expiry }
            }),
        (client(), 0..FILTERS.len(), 0..3u8).prop_map(|(client, filter, qos)| Move::Subscribe { client, filter, qos }),
        (client(), 0..FILTERS.len()).prop_map(|(client, filter)| Move::Unsubscribe { client, filter }),
        (client(), 0..4u8, 1..5u16).prop_map(|(client, kind, id)| Move::Ack { client, kind, id }),
        (0..5_000_000u64).prop_map(Move::Wait),
        Just(Move::Sync),
        (1..6usize, prop::bool::weighted(0.8)).prop_map(|(work, commits)| Move::Fold { work, commits }),
        prop::bool::weighted(0.1).prop_map(|crash| if crash { Move::Crash } else { Move::Sync }),
        client().prop_map(Move::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn any_moves_keep_the_invariants(
        moves in prop::collection::vec(moves(), 0..120),
        on_disk in any::<bool>(),
        drops in any::<bool>(),
        cache in 0..60usize,
    ) {
        let mut world = World::with(|limits| {
            limits.session_queue_messages_max = 5;
            limits.receive_maximum = 3;
            limits.body_cache_bytes = cache;
            limits.urgent_topics = vec!["u".to_owned()];
        });
        world = if on_disk { world.on_disk() } else { world };
        world.overflow = if drops { crate::Overflow::DropOldest } else { crate::Overflow::RefuseNew };
        world.durable_at_once = false;
        let mut clients: [Option<Client>; 4] = [None; 4];
        for step in moves {
            play(&mut world, &mut clients, step);
            check(&world);
        }
        restarted_is_the_same(&mut world);
        // When all is over, nothing is left.
        world.sync();
        world.wait(10_000_000);
        let gauges = world.shard.gauges();
        prop_assert_eq!((gauges.connections, gauges.sessions, gauges.subscriptions), (0, 0, 0));
        prop_assert_eq!((gauges.queued_messages, gauges.inflight_messages), (0, 0));
        prop_assert!(world.shard.groups.is_empty() && world.shard.session_by_client.is_empty());
        prop_assert!(world.shard.timers.len() == 0 && world.shard.releases.is_empty());
        prop_assert_eq!(world.shard.backlog_messages, 0);
    }

    #[test]
    fn any_bytes_that_decode_are_survived(bytes in prop::collection::vec(any::<u8>(), 2..60)) {
        let mut world = World::new();
        let client = world.join(connect("c"));
        if let Ok(Some(head)) = frame(&bytes, 1000)
            && let Some(body) = bytes.get(head.header_bytes..head.total_bytes())
            && let Ok(packet) = decode(&head, body, client.version)
        {
            world.shard.handle(world.now, client.id, &packet);
            world.sync();
            check(&world);
        }
    }
}

fn play(world: &mut World, clients: &mut [Option<Client>; 4], step: Move) {
    use causeway_protocol::{Ack, Publish, ReasonCode};
    match step {
        Move::Join { client, clean, window } => {
            let mut connect = if clean { connect(CLIENTS[client]) } else { persistent(CLIENTS[client]) };
            connect.properties.receive_maximum = Some(window);
            let old = clients[client].replace(world.dial(connect).0);
            if let Some(old) = old {
                world.hang_up(old);
            }
        }
        Move::HangUp(client) => {
            if let Some(client) = clients[client].take() {
                world.hang_up(client);
            }
        }
        Move::Publish { client, qos, id, topic, retain, payload, expiry } => {
            let id = if qos == 0 { 0 } else { id };
            let mut publish = Publish { retain, ..publish(qos, id, TOPICS[topic], payload) };
            publish.properties.message_expiry_interval_seconds = expiry;
            raw(world, clients[client], Packet::Publish(publish));
        }
        Move::Subscribe { client, filter, qos } => {
            if let Some(client) = clients[client] {
                world.subscribe(client, FILTERS[filter], options(qos));
            }
        }
        Move::Unsubscribe { client, filter } => {
            if let Some(client) = clients[client] {
                world.unsubscribe(client, FILTERS[filter]);
            }
        }
        Move::Ack { client, kind, id } => {
            let ack = Ack::new(packet_id(id), ReasonCode::Success);
            let packet = match kind {
                0 => Packet::PubAck(ack),
                1 => Packet::PubRec(ack),
                2 => Packet::PubRel(ack),
                _ => Packet::PubComp(ack),
            };
            raw(world, clients[client], packet);
        }
        Move::Wait(milliseconds) => world.wait(milliseconds),
        Move::Sync => world.sync(),
        Move::Fold { work, commits } => world.fold(work, commits),
        Move::Crash => {
            world.restart();
            *clients = [None; 4];
        }
        Move::Read(client) => {
            if let Some(client) = clients[client] {
                world.heard(client);
            }
        }
    }
}

fn raw(world: &mut World, client: Option<Client>, packet: Packet<'_>) {
    // The edge reads nothing of a client whose CONNACK waits for the log.
    let Some(client) = client.filter(|client| !world.shard.is_corked(client.id)) else { return };
    let mut bytes = bytes::BytesMut::new();
    encode(&packet, client.version, &mut bytes).unwrap();
    world.send(client, packet);
}

/// What must hold after every step.
fn check(world: &World) {
    let shard = &world.shard;
    for (_, connection) in &shard.connections {
        let Some(key) = connection.session else { continue };
        assert!(connection.unacknowledged <= connection.window, "window overrun");
        let session = &shard.sessions[key as usize];
        assert_eq!(session.connection, Some(connection.id));
        let counted = session.inflight.iter().filter(|inflight| inflight.counted).count();
        assert_eq!(counted, usize::from(connection.unacknowledged));
        let unsent = session.inflight.iter().filter(|inflight| !inflight.sent).count();
        assert_eq!(unsent, session.unsent as usize);
    }
    let backlog: usize = shard.sessions.iter().map(|(_, session)| session.backlog.len()).sum();
    assert_eq!(backlog, shard.backlog_messages);
    for (_, session) in &shard.sessions {
        assert!(session.queued() <= 5 + 64, "queue over its limit");
        assert_eq!(session.counted_bytes(), session.held_bytes);
        let mut identifiers: Vec<_> = session.inflight.iter().map(|inflight| inflight.packet_id).collect();
        identifiers.sort_unstable();
        identifiers.dedup();
        assert_eq!(identifiers.len(), session.inflight.len(), "a packet identifier twice in flight");
        assert!(session.connection.is_some() || session.is_persistent());
    }
    assert_eq!(shard.queues.bodies.owed(), owed_by_all(shard), "counts of what is owed");
}

/// How often each recorded message stands in a queue or in flight.
fn owed_by_all(shard: &crate::Shard) -> BTreeMap<u64, u32> {
    let mut owed = BTreeMap::new();
    let mut count = |lsn: crate::Lsn| {
        if lsn.0 > 0 {
            *owed.entry(lsn.0).or_insert(0) += 1;
        }
    };
    for (_, session) in &shard.sessions {
        for name in LaneName::ALL {
            shard.queues.pool.iter(&session.lane(name).queue).for_each(|peek| count(peek.lsn));
        }
        for inflight in &session.inflight {
            if let Phase::Publish(delivery) = &inflight.phase {
                count(delivery.lsn);
            }
        }
    }
    for (_, group) in shard.groups.iter() {
        shard.queues.pool.iter(&group.queue).for_each(|peek| count(peek.lsn));
    }
    owed
}

/// A session: its client, its subscriptions, and what it is still owed: the sequence, and whether only PUBREL is left.
pub(super) type Owed = (String, Vec<String>, Vec<(LaneName, u64, bool)>);

pub(super) fn owed(world: &World) -> Vec<Owed> {
    let mut all = Vec::new();
    for (_, session) in &world.shard.sessions {
        if !session.is_persistent() {
            continue;
        }
        let mut filters: Vec<String> = session.subscriptions.iter().map(|entry| format!("{entry:?}")).collect();
        filters.sort();
        let mut open: Vec<(LaneName, u64, bool)> = Vec::new();
        for name in LaneName::ALL {
            open.extend(
                world.shard.queues.pool.iter(&session.lane(name).queue).map(|peek| (name, peek.sequence, false)),
            );
        }
        for inflight in &session.inflight {
            if let Number::Own(lane, sequence) = inflight.number {
                open.push((lane, sequence, matches!(inflight.phase, Phase::Release(_))));
            }
        }
        open.sort_unstable();
        all.push((session.client_id.to_string(), filters, open));
    }
    all.sort();
    all
}

fn retained_topics(shard: &crate::Shard) -> Vec<Box<str>> {
    let mut topics = shard.retained.topics();
    topics.sort_unstable();
    topics
}

/// Replaying the log gives the same sessions, owed the same, and the same retained messages.
fn restarted_is_the_same(world: &mut World) {
    world.shard.on_progress(world.now);
    world.sync();
    let (before, retained) = (owed(world), retained_topics(&world.shard));
    world.durable_at_once = true;
    world.restart();
    let after = owed(world);
    // A restart is the end of all connections: what ends with them, or was due meanwhile, may add or remove.
    for session in &before {
        if let Some(same) = after.iter().find(|other| other.0 == session.0) {
            assert_eq!(same, session);
        }
    }
    assert!(after.len() <= before.len());
    assert_eq!(retained_topics(&world.shard), retained);
    check(world);
}
