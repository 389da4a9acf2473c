//! CONNECT, takeover, keep alive, session expiry and wills.

use causeway_protocol::{Auth, ConnectProperties, Disconnect, Packet, ProtocolVersion, ReasonCode};

use super::world::*;
use crate::{Handshake, HandshakePolicy, Limits, Principal, Step};

#[test]
fn a_session_is_present_only_where_it_was_kept() {
    //= test [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.2.2-2] [MQTT-3.2.2-3]
    let mut world = World::new();
    let (client, said) = world.dial(persistent("c"));
    assert_eq!(said, ["connack 0x00"]);
    world.disconnect(client);
    let (client, said) = world.dial(persistent("c"));
    assert_eq!(said, ["connack 0x00 present"]);
    world.disconnect(client);
    let (_, said) = world.dial(connect("c"));
    assert_eq!(said, ["connack 0x00"]);
}

#[test]
fn a_newer_connection_takes_the_session_over() {
    //= test [MQTT-3.1.4-3]
    let mut world = World::new();
    let old = world.join(persistent("c"));
    world.subscribe(old, "t", options(1));
    let (new, said) = world.dial(persistent("c"));
    assert_eq!(said, ["connack 0x00 present"]);
    assert_eq!(world.heard(old), ["suback 01", "disconnect 0x8E"]);
    assert_eq!(world.closes(), [old.id]);
    world.hang_up(old);
    let publisher = world.join(connect("p"));
    world.publish(publisher, publish(1, 1, "t", "x"));
    assert_eq!(world.heard(new), ["pub q1 p1 t=x"]);
    assert_eq!(world.shard.gauges().connections, 2);
}

#[test]
fn takeover_keeps_order_and_loses_nothing() {
    let mut world = World::new();
    let old = world.join(persistent("c"));
    world.subscribe(old, "t", options(1));
    let publisher = world.join(connect("p"));
    for payload in ["1", "2", "3"] {
        world.publish(publisher, publish(1, 1, "t", payload));
    }
    assert_eq!(world.heard(old), ["suback 01", "pub q1 p1 t=1", "pub q1 p2 t=2", "pub q1 p3 t=3"]);
    world.puback(old, 2);
    let (new, said) = world.dial(persistent("c"));
    assert_eq!(said, ["connack 0x00 present", "pub q1 p1 dup t=1", "pub q1 p3 dup t=3"]);
    world.publish(publisher, publish(1, 1, "t", "4"));
    assert_eq!(world.heard(new), ["pub q1 p4 t=4"]);
}

#[test]
fn a_session_belongs_to_who_made_it() {
    let mut world = World::new();
    let credentials = |mut connect: causeway_protocol::Connect<'static>| {
        connect.username = Some("u");
        connect
    };
    let (owner, said) = world.dial_as(credentials(persistent("c")), Principal::service("alice"));
    assert_eq!(said, ["connack 0x00"]);
    let (thief, said) = world.dial_as(credentials(connect("c")), Principal::service("mallory"));
    assert_eq!(said, ["connack 0x87"]);
    assert_eq!(world.closes(), [thief.id]);
    world.hang_up(thief);
    assert!(world.shard.is_open(owner.id));
}

#[test]
fn silence_of_one_and_a_half_keep_alives_ends_a_connection() {
    //= test [MQTT-3.1.2-22]
    let mut world = World::new();
    let client = world.join(with_will(connect("c"), "will", 0));
    let watcher = world.join(causeway_protocol::Connect { keep_alive_seconds: 0, ..connect("w") });
    world.subscribe(watcher, "will", options(0));
    world.wait(89_000);
    world.send(client, Packet::PingReq);
    world.wait(89_900);
    assert_eq!(world.heard(client), ["pingresp"]);
    world.wait(200);
    assert_eq!(world.heard(client), ["disconnect 0x8D"]);
    assert_eq!(world.heard(watcher), ["suback 00", "pub q0 will=gone"]);
    world.wait(10_000_000);
    assert!(world.shard.is_open(watcher.id), "keep alive 0 is no timeout");
}

#[test]
fn sessions_end_when_their_time_is_over() {
    //= test [MQTT-3.1.2-23]
    let mut world = World::new();
    let client = world.join(persistent("c"));
    world.disconnect(client);
    world.wait(3_599_000);
    let (client, said) = world.dial(persistent("c"));
    assert_eq!(said, ["connack 0x00 present"]);
    world.wait(3_700_000);
    world.hang_up(client);
    world.wait(3_601_000);
    assert_eq!(world.shard.gauges().sessions, 0);
    assert_eq!(world.dial(persistent("c")).1, ["connack 0x00"]);
}

#[test]
fn timers_do_not_pile_up() {
    let mut world = World::new();
    for _ in 0..100 {
        let client = world.join(with_will(persistent("c"), "w", 30));
        world.hang_up(client);
    }
    assert!(world.shard.timers.len() <= 2, "{}", world.shard.timers.len());
    world.wait(4_000_000);
    assert_eq!(world.shard.timers.len(), 0);
}

#[test]
fn disconnect_changes_the_expiry_but_not_from_zero() {
    //= test [MQTT-3.14.2-2]
    let mut world = World::new();
    let disconnect = |expiry| {
        Packet::Disconnect(Disconnect { session_expiry_interval_seconds: Some(expiry), ..Disconnect::default() })
    };
    let client = world.join(persistent("c"));
    world.send(client, disconnect(0));
    assert_eq!(world.shard.gauges().sessions, 0);
    let client = world.join(connect("c"));
    world.send(client, disconnect(10));
    assert_eq!(world.heard(client), ["disconnect 0x82"]);
}

#[test]
fn wills() {
    //= test [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.3-9]
    enum End {
        Normal,
        WithWill,
        Lost,
        LostAndBackSoon,
        LostAndBackClean,
        TakenOver,
    }
    // delay, session expiry, how it ends, seconds waited, whether the will is published by then
    let rows = [
        (0, 3600, End::Normal, 0, false),
        (0, 3600, End::WithWill, 0, true),
        (0, 3600, End::Lost, 0, true),
        (5, 3600, End::Lost, 4, false),
        (5, 3600, End::Lost, 6, true),
        (5, 3600, End::LostAndBackSoon, 10, false),
        (5, 3600, End::LostAndBackClean, 0, true),
        (50, 2, End::Lost, 1, false),
        (50, 2, End::Lost, 3, true),
        (50, 0, End::Lost, 0, true),
        (0, 3600, End::TakenOver, 0, true),
        (5, 3600, End::TakenOver, 10, false),
    ];
    for (row, (delay, expiry, end, waited, expected)) in rows.into_iter().enumerate() {
        let mut world = World::new();
        let watcher = world.join(connect("watcher"));
        world.subscribe(watcher, "will", options(1));
        world.heard(watcher);
        let dial = || {
            let properties =
                ConnectProperties { session_expiry_interval_seconds: Some(expiry), ..ConnectProperties::default() };
            causeway_protocol::Connect { clean_start: false, properties, ..connect("c") }
        };
        let client = world.join(with_will(dial(), "will", delay));
        match end {
            End::Normal => world.disconnect(client),
            End::WithWill => {
                let reason = ReasonCode::DisconnectWithWill;
                world.send(client, Packet::Disconnect(Disconnect { reason, ..Disconnect::default() }));
            }
            End::Lost => world.hang_up(client),
            End::LostAndBackSoon => {
                world.hang_up(client);
                world.wait(1000);
                world.join(dial());
            }
            End::LostAndBackClean => {
                world.hang_up(client);
                world.join(connect("c"));
            }
            End::TakenOver => {
                world.join(dial());
            }
        }
        world.wait(waited * 1000);
        let heard = world.heard(watcher);
        assert_eq!(heard.iter().any(|word| word.contains("will=gone")), expected, "row {row}: {heard:?}");
        assert!(heard.len() <= 1, "row {row}: {heard:?}");
    }
}

#[test]
fn bounds_of_connections_and_sessions_are_answered() {
    let mut world = World::with(|limits| {
        limits.connections_max = 1;
        limits.sessions_max = 2;
    });
    let first = world.join(persistent("a"));
    assert_eq!(world.dial(connect("b")).1, ["connack 0x97"]);
    world.disconnect(first);
    let second = world.join(persistent("b"));
    world.disconnect(second);
    assert_eq!(world.dial(connect("c")).1, ["connack 0x97"]);
    assert_eq!(world.shard.counters().connections_refused, 2);
}

#[test]
fn every_client_is_told_that_the_broker_goes_away() {
    let mut world = World::new();
    let v5 = world.join(connect("a"));
    let v311 = world.join(causeway_protocol::Connect { version: ProtocolVersion::V311, ..connect("b") });
    world.shard.shutdown(world.now);
    assert_eq!(world.heard(v5), ["disconnect 0x8B"]);
    assert_eq!(world.heard(v311), Vec::<String>::new());
    assert_eq!(world.closes(), [v5.id, v311.id]);
}

#[test]
fn handshake_refusals() {
    //= test [MQTT-3.1.0-1] [MQTT-3.1.3-8] [MQTT-4.12.0-1]
    let limits = std::sync::Arc::new(Limits { client_id_bytes_max: 8, ..Limits::default() });
    let refuse = |policy: &HandshakePolicy, packet: Packet<'_>| {
        let mut handshake = Handshake::new(limits.clone(), policy.clone(), "assigned".to_owned());
        match handshake.handle(&packet) {
            Step::Refuse { bytes, reason, .. } => (reason, bytes.is_empty()),
            step => panic!("not refused: {step:?}"),
        }
    };
    let open = HandshakePolicy { anonymous_allowed: true, ..HandshakePolicy::default() };
    let shut = HandshakePolicy::default();
    let boxed = |connect| Packet::Connect(Box::new(connect));
    let method = ConnectProperties { authentication_method: Some("X"), ..ConnectProperties::default() };
    let rows = [
        (&open, Packet::PingReq, ReasonCode::ProtocolError, true),
        (&open, Packet::Auth(Auth::default()), ReasonCode::ProtocolError, true),
        (&shut, boxed(connect("c")), ReasonCode::NotAuthorized, false),
        (&open, boxed(connect("123456789")), ReasonCode::ClientIdentifierNotValid, false),
        (
            &open,
            boxed(causeway_protocol::Connect { version: ProtocolVersion::V311, clean_start: false, ..connect("") }),
            ReasonCode::ClientIdentifierNotValid,
            false,
        ),
        (
            &open,
            boxed(causeway_protocol::Connect { version: ProtocolVersion::V31, ..connect("") }),
            ReasonCode::ClientIdentifierNotValid,
            false,
        ),
        (
            &open,
            boxed(causeway_protocol::Connect { properties: method, ..connect("c") }),
            ReasonCode::BadAuthenticationMethod,
            false,
        ),
    ];
    for (policy, packet, reason, silent) in rows {
        let text = format!("{packet:?}");
        assert_eq!(refuse(policy, packet), (reason, silent), "{text}");
    }
}

#[test]
fn a_client_we_do_not_listen_to_is_not_judged_by_its_silence() {
    let mut world = World::with(|limits| limits.outbox_bytes_max = 1000);
    let client = world.join(connect("c"));
    for _ in 0..2000 {
        world.send(client, Packet::PingReq);
    }
    assert!(!world.shard.wants_input(client.id));
    world.wait(300_000);
    assert!(world.shard.is_open(client.id));
    world.heard(client);
    world.wait(200_000);
    assert!(!world.shard.is_open(client.id));
}
