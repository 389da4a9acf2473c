//! Owns the tests of section 2: fixed header flags, packet types, packet identifiers, property lengths. Never tests what
//! another section owns.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};

use super::common::{closes_on, refused_bytes, subscriber};
use crate::client::Event;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{self, Props, Publish, Subscribe, Unsubscribe, frame, string};
use crate::wire::read::Packet;
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "2",
    title: "packet format",
    tests: {
        reserved_flags_in_connect_are_refused => ["MQTT-2.1.3-1", "MQTT-3.1.4-1"],
        reserved_flags_in_puback_close => ["MQTT-2.1.3-1"],
        reserved_flags_in_pubrec_close => ["MQTT-2.1.3-1"],
        reserved_flags_in_pubrel_close => ["MQTT-2.1.3-1"],
        reserved_flags_in_pubcomp_close => ["MQTT-2.1.3-1"],
        reserved_flags_in_subscribe_close => ["MQTT-2.1.3-1"],
        reserved_flags_in_unsubscribe_close => ["MQTT-2.1.3-1"],
        reserved_flags_in_pingreq_close => ["MQTT-2.1.3-1"],
        reserved_flags_in_disconnect_close => ["MQTT-2.1.3-1"],
        reserved_flags_in_auth_close => ["MQTT-2.1.3-1"],
        every_answer_has_its_fixed_flags => ["MQTT-2.1.3-1"],
        packet_type_zero_closes => ["MQTT-4.13.1-1"],
        connack_from_a_client_closes => ["MQTT-4.13.1-1"],
        suback_from_a_client_closes => ["MQTT-4.13.1-1"],
        unsuback_from_a_client_closes => ["MQTT-4.13.1-1"],
        pingresp_from_a_client_closes => ["MQTT-4.13.1-1"],
        qos0_publish_has_no_identifier => ["MQTT-2.2.1-2"],
        identifier_zero_in_publish_closes => ["MQTT-2.2.1-3", "MQTT-4.13.1-1"],
        identifier_zero_in_subscribe_closes => ["MQTT-2.2.1-3", "MQTT-4.13.1-1"],
        identifier_zero_in_unsubscribe_closes => ["MQTT-2.2.1-3", "MQTT-4.13.1-1"],
        server_identifiers_are_distinct_and_not_zero => ["MQTT-2.2.1-4"],
        server_identifiers_do_not_clash_with_client_identifiers => ["MQTT-2.2.1-4"],
        puback_echoes_the_identifier => ["MQTT-2.2.1-5"],
        pubrec_and_pubcomp_echo_the_identifier => ["MQTT-2.2.1-5"],
        pubrel_of_the_server_echoes_the_identifier => ["MQTT-2.2.1-5"],
        suback_echoes_the_identifier => ["MQTT-2.2.1-6"],
        unsuback_echoes_the_identifier => ["MQTT-2.2.1-6"],
        empty_property_sets_have_a_length => ["MQTT-2.2.2-1"],
        subscribe_without_property_length_closes => ["MQTT-2.2.2-1"],
        unsubscribe_without_property_length_closes => ["MQTT-2.2.2-1"],
        unknown_property_closes => ["MQTT-4.13.1-1"],
        foreign_property_closes => ["MQTT-4.13.1-1"],
        property_length_beyond_the_packet_closes => ["MQTT-4.13.1-1"],
        property_cut_by_its_length_closes => ["MQTT-4.13.1-1"],
        truncated_packets_close => ["MQTT-4.13.1-1"],
        pingreq_with_a_body_closes => ["MQTT-4.13.1-1"],
        packets_may_arrive_byte_by_byte => ["MQTT-4.2-1"],
        packets_may_arrive_in_one_piece => ["MQTT-4.2-1"],
    },
    unobservable: {},
};

fn reserved_flags_in_connect_are_refused(ctx: &Ctx) -> Result<()> {
    for flags in [0x01, 0x02, 0x04, 0x08, 0x0F] {
        refused_bytes(ctx, &frame(first::CONNECT | flags, &ctx.v5("flags").body()))
            .with_context(|| format!("flags {flags:04b}"))?;
    }
    Ok(())
}

/// Sends the packet with each wrong value of its flags, on a connection of its own each time.
fn wrong_flags_close(ctx: &Ctx, right: u8, body: &[u8]) -> Result<()> {
    let (kind, fixed) = (right & 0xF0, right & 0x0F);
    for flags in [0x0, 0x1, 0x2, 0x4, 0x8, 0xF].into_iter().filter(|flags| *flags != fixed) {
        closes_on(ctx, &frame(kind | flags, body)).with_context(|| format!("flags {flags:04b}"))?;
    }
    Ok(())
}

fn reserved_flags_in_puback_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::PUBACK, &[0, 1])
}

fn reserved_flags_in_pubrec_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::PUBREC, &[0, 1])
}

fn reserved_flags_in_pubrel_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::PUBREL, &[0, 1])
}

fn reserved_flags_in_pubcomp_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::PUBCOMP, &[0, 1])
}

fn reserved_flags_in_subscribe_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::SUBSCRIBE, &Subscribe::new(1).filter(ctx.topic("a"), 0).body(V5))
}

fn reserved_flags_in_unsubscribe_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::UNSUBSCRIBE, &Unsubscribe::new(1).filter(ctx.topic("a")).body(V5))
}

fn reserved_flags_in_pingreq_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::PINGREQ, &[])
}

/// A polite DISCONNECT would close as well, so the will tells whether the broker took it for one.
fn reserved_flags_in_disconnect_close(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("will");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let connect = ctx.v5("offender").will(build::Will::new(&topic, "malformed"));
    for flags in [1, 2, 4, 8, 15] {
        let mut client = ctx.connect(&connect)?;
        client.send(&frame(first::DISCONNECT | flags, &[]))?;
        client.expect_closed().with_context(|| format!("flags {flags:04b}"))?;
        let found = watcher.expect_message(&topic, "malformed");
        found.with_context(|| format!("DISCONNECT with flags {flags:04b} was taken for a normal one"))?;
    }
    Ok(())
}

fn reserved_flags_in_auth_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::AUTH, &[])
}

/// The reader checks the flags of all that comes back.
fn every_answer_has_its_fixed_flags(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("flags");
    let qos = ctx.limits().maximum_qos;
    let mut receiver = subscriber(ctx, "receiver", &topic, qos)?;
    let mut client = ctx.client("sender")?;
    for qos in 0..=qos {
        client.publish(&topic, qos, "x")?;
        let message = receiver.expect_publish()?;
        receiver.acknowledge(&message)?;
    }
    receiver.unsubscribe(&topic)?;
    receiver.expect_silence()
}

fn packet_type_zero_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(0x00, &[])).map(drop)
}

fn connack_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::CONNACK, &[0, 0, 0])).map(drop)
}

fn suback_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::SUBACK, &[0, 1, 0, 0])).map(drop)
}

fn unsuback_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::UNSUBACK, &[0, 1, 0, 0])).map(drop)
}

fn pingresp_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::PINGRESP, &[])).map(drop)
}

/// An identifier in either direction would show up as two more bytes of properties or payload.
fn qos0_publish_has_no_identifier(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("plain");
    let mut client = subscriber(ctx, "plain", &topic, 2.min(ctx.limits().maximum_qos))?;
    client.send_publish(&Publish::new(&topic, [0, 7, 0, 1, 2, 3]))?;
    client.expect_message(&topic, [0, 7, 0, 1, 2, 3])?;
    client.send_publish(&Publish::new(&topic, ""))?;
    client.expect_message(&topic, "")?;
    Ok(())
}

fn identifier_zero_in_publish_closes(ctx: &Ctx) -> Result<()> {
    for qos in 1..=ctx.limits().maximum_qos {
        closes_on(ctx, &Publish::new(ctx.topic("zero"), "x").qos(qos, 0).bytes(V5))?;
    }
    Ok(())
}

fn identifier_zero_in_subscribe_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &Subscribe::new(0).filter(ctx.topic("zero"), 0).bytes(V5)).map(drop)
}

fn identifier_zero_in_unsubscribe_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &Unsubscribe::new(0).filter(ctx.topic("zero")).bytes(V5)).map(drop)
}

fn need_qos(ctx: &Ctx, qos: u8) -> Result<()> {
    let maximum = ctx.limits().maximum_qos;
    if maximum < qos { skip(format!("server announces Maximum QoS {maximum}")) } else { Ok(()) }
}

/// Nothing is acknowledged, so that every identifier stays in use.
fn server_identifiers_are_distinct_and_not_zero(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("many");
    let qos = ctx.limits().maximum_qos;
    let mut receiver = subscriber(ctx, "receiver", &topic, qos)?;
    let mut sender = ctx.client("sender")?;
    let mut seen = HashSet::new();
    for index in 0..10 {
        sender.publish(&topic, 1 + index % qos, [index])?;
        let message = receiver.expect_publish()?;
        ensure!(seen.insert(message.id), "identifier {} is used twice", message.id);
    }
    Ok(())
}

/// Identifiers of the two directions are independent: the broker may use 1 while the client's own 1 is open, and vice versa.
fn server_identifiers_do_not_clash_with_client_identifiers(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("echo");
    let mut client = subscriber(ctx, "echo", &topic, 1)?;
    let mut sender = ctx.client("sender")?;
    sender.publish(&topic, 1, "from the other")?;
    let message = client.expect_publish()?;
    client.send_publish(&Publish::new(ctx.topic("elsewhere"), "own").qos(2, message.id))?;
    client.expect_ack(first::PUBREC, message.id)?.successful()?;
    client.send(&build::ack(first::PUBACK, message.id))?;
    client.send(&build::ack(first::PUBREL, message.id))?;
    client.expect_ack(first::PUBCOMP, message.id)?.successful()
}

fn puback_echoes_the_identifier(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let mut client = ctx.client("ids")?;
    for id in [1, 255, 256, 32_768, 65_535] {
        client.send_publish(&Publish::new(ctx.topic("ids"), "x").qos(1, id))?;
        client.expect_ack(first::PUBACK, id)?;
    }
    Ok(())
}

fn pubrec_and_pubcomp_echo_the_identifier(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut client = ctx.client("ids")?;
    for id in [1, 255, 256, 32_768, 65_535] {
        client.send_publish(&Publish::new(ctx.topic("ids"), "x").qos(2, id))?;
        client.expect_ack(first::PUBREC, id)?;
    }
    for id in [65_535, 256, 1, 32_768, 255] {
        client.send(&build::ack(first::PUBREL, id))?;
        client.expect_ack(first::PUBCOMP, id)?;
    }
    Ok(())
}

fn pubrel_of_the_server_echoes_the_identifier(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("rel");
    let mut receiver = subscriber(ctx, "receiver", &topic, 2)?;
    let mut sender = ctx.client("sender")?;
    let mut messages = Vec::new();
    for index in 0..3 {
        sender.publish(&topic, 2, [index])?;
        messages.push(receiver.expect_publish()?);
    }
    for message in &messages {
        receiver.acknowledge(message)?;
    }
    receiver.expect_silence()
}

fn suback_echoes_the_identifier(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("ids")?;
    for id in [1, 255, 256, 32_768, 65_535] {
        client.subscribe_packet(&Subscribe::new(id).filter(ctx.topic("ids"), 0))?;
    }
    Ok(())
}

fn unsuback_echoes_the_identifier(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("ids")?;
    for id in [1, 255, 256, 32_768, 65_535] {
        client.send(&Unsubscribe::new(id).filter(ctx.topic("ids")).bytes(V5))?;
        client.expect_unsuback(id)?;
    }
    Ok(())
}

/// CONNACK, SUBACK, PUBLISH and UNSUBACK are misread by the reader if their property length were left out.
fn empty_property_sets_have_a_length(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("bare");
    let mut client = subscriber(ctx, "bare", &topic, 0)?;
    client.send_publish(&Publish::new(&topic, ""))?;
    let message = client.expect_message(&topic, "")?;
    ensure!(message.props.0.is_empty(), "properties from nowhere: {:?}", message.props);
    let answer = client.unsubscribe(&topic)?;
    ensure!(answer.reasons == [0], "UNSUBACK reason codes {:02x?}", answer.reasons);
    Ok(())
}

/// Behind the identifier, the first byte of the filter's length (0) is read as an empty property set, and what follows
/// has a filter length far beyond the packet.
fn subscribe_without_property_length_closes(ctx: &Ctx) -> Result<()> {
    let body = [&[0, 1][..], &string("a/b"), &[0]].concat();
    closes_on(ctx, &frame(first::SUBSCRIBE, &body)).map(drop)
}

fn unsubscribe_without_property_length_closes(ctx: &Ctx) -> Result<()> {
    let body = [&[0, 1][..], &string("a/b")].concat();
    closes_on(ctx, &frame(first::UNSUBSCRIBE, &body)).map(drop)
}

fn unknown_property_closes(ctx: &Ctx) -> Result<()> {
    for id in [0x00, 0x04, 0x2B, 0x7F] {
        let publish = Publish::new(ctx.topic("unknown"), "x").props(Props::new().byte(id, 0));
        closes_on(ctx, &publish.bytes(V5)).with_context(|| format!("property {id:#04x}"))?;
    }
    Ok(())
}

fn foreign_property_closes(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("foreign");
    let expiry = Props::new().four(prop::SESSION_EXPIRY, 10);
    let reason = Props::new().text(prop::REASON_STRING, "no");
    let content = Props::new().text(prop::CONTENT_TYPE, "x");
    let rows = [
        ("Session Expiry Interval in PUBLISH", Publish::new(&topic, "x").props(expiry).bytes(V5)),
        ("Reason String in PUBLISH", Publish::new(&topic, "x").props(reason.clone()).bytes(V5)),
        ("Content Type in SUBSCRIBE", Subscribe::new(1).filter(&topic, 0).props(content.clone()).bytes(V5)),
        ("Reason String in SUBSCRIBE", Subscribe::new(1).filter(&topic, 0).props(reason).bytes(V5)),
        ("Content Type in UNSUBSCRIBE", Unsubscribe::new(1).filter(&topic).props(content).bytes(V5)),
    ];
    for (name, bytes) in rows {
        closes_on(ctx, &bytes).context(name)?;
    }
    Ok(())
}

fn property_length_beyond_the_packet_closes(ctx: &Ctx) -> Result<()> {
    let body = [&string(ctx.topic("long"))[..], &[50, prop::PAYLOAD_FORMAT, 1]].concat();
    closes_on(ctx, &frame(first::PUBLISH, &body)).map(drop)
}

/// The property length ends in the middle of a Message Expiry Interval.
fn property_cut_by_its_length_closes(ctx: &Ctx) -> Result<()> {
    let body = [&string(ctx.topic("cut"))[..], &[3, prop::MESSAGE_EXPIRY, 0, 0], b"payload"].concat();
    closes_on(ctx, &frame(first::PUBLISH, &body)).map(drop)
}

fn truncated_packets_close(ctx: &Ctx) -> Result<()> {
    let rows: &[(&str, u8, &[u8])] = &[
        ("PUBLISH whose topic is longer than the packet", first::PUBLISH, &[0, 9, b'a']),
        ("PUBLISH without topic", first::PUBLISH, &[]),
        ("QoS 1 PUBLISH without identifier", 0x32, &[0, 1, b'a']),
        ("PUBACK without identifier", first::PUBACK, &[]),
        ("PUBREL of one byte", first::PUBREL, &[0]),
        ("SUBSCRIBE without identifier", first::SUBSCRIBE, &[]),
        ("SUBSCRIBE whose filter has no options", first::SUBSCRIBE, &[0, 1, 0, 0, 1, b'a']),
        ("UNSUBSCRIBE of one byte", first::UNSUBSCRIBE, &[0]),
    ];
    for (name, first_byte, body) in rows {
        closes_on(ctx, &frame(*first_byte, body)).context(*name)?;
    }
    Ok(())
}

fn pingreq_with_a_body_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::PINGREQ, &[0])).map(drop)
}

fn packets_may_arrive_byte_by_byte(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("bytes");
    let mut client = subscriber(ctx, "bytes", &topic, 0)?;
    for byte in Publish::new(&topic, "slow").bytes(V5) {
        client.send(&[byte])?;
    }
    client.expect_message(&topic, "slow")?;
    Ok(())
}

fn packets_may_arrive_in_one_piece(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("one");
    let connect = ctx.v5("one");
    let mut client = ctx.open(V5)?;
    let subscribe = Subscribe::new(1).filter(&topic, 0).bytes(V5);
    let publish = Publish::new(&topic, "x").bytes(V5);
    client.send(&[connect.bytes(), subscribe, publish, build::pingreq()].concat())?;
    client.expect_accepted()?;
    // Section 3.8.4: messages may come before the SUBACK of their subscription.
    let (mut acknowledged, mut received, mut answered) = (false, false, false);
    while !(acknowledged && received && answered) {
        match client.next_event()? {
            Event::Packet(Packet::Suback(answer)) if answer.id == 1 => acknowledged = true,
            Event::Packet(Packet::Publish(message)) if message.topic == topic => received = true,
            Event::Packet(Packet::Pingresp) => answered = true,
            other => bail!("expected SUBACK, PUBLISH and PINGRESP, got {other:?}"),
        }
    }
    Ok(())
}
