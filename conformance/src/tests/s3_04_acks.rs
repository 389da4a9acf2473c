//! Owns the tests of sections 3.4 to 3.7: the content of PUBACK, PUBREC, PUBREL and PUBCOMP in both directions. Never
//! tests the order of the QoS handshakes, which is section 4.3's.

use anyhow::{Context, Result, bail, ensure};

use super::common::{closes_on, subscriber};
use super::s3_03_publish::need_qos;
use crate::client::{Client, Event};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::build::{self, Props, Publish, ack, ack_with, frame};
use crate::wire::read::{Ack, Packet};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.4",
    title: "PUBACK, PUBREC, PUBREL, PUBCOMP",
    tests: {
        puback_reason_is_of_its_table => ["MQTT-3.4.2-1"],
        puback_does_not_deny_a_subscriber => ["MQTT-3.4.2-1"],
        puback_for_a_system_topic_is_of_its_table => ["MQTT-3.4.2-1"],
        puback_fits_into_the_packet_size => ["MQTT-3.4.2-2", "MQTT-3.4.2-3"],
        pubrec_reason_is_of_its_table => ["MQTT-3.5.2-1"],
        pubrec_does_not_deny_a_subscriber => ["MQTT-3.5.2-1"],
        pubrec_for_a_system_topic_is_of_its_table => ["MQTT-3.5.2-1"],
        pubrec_fits_into_the_packet_size => ["MQTT-3.5.2-2", "MQTT-3.5.2-3"],
        pubrel_flags_are_0010 => ["MQTT-3.6.1-1"],
        pubrel_with_any_other_flags_closes => ["MQTT-3.6.1-1"],
        pubrel_reason_is_of_its_table => ["MQTT-3.6.2-1"],
        pubrel_for_an_unknown_identifier_is_of_its_table => ["MQTT-3.6.2-1"],
        pubrel_fits_into_the_packet_size => ["MQTT-3.6.2-2", "MQTT-3.6.2-3"],
        pubcomp_reason_is_of_its_table => ["MQTT-3.7.2-1"],
        pubcomp_for_an_unknown_identifier_is_of_its_table => ["MQTT-3.7.2-1"],
        pubcomp_fits_into_the_packet_size => ["MQTT-3.7.2-2", "MQTT-3.7.2-3"],
        every_form_of_puback_is_accepted => ["MQTT-4.3.2-3"],
        every_form_of_pubrec_is_accepted => ["MQTT-4.3.3-4"],
        every_form_of_pubrel_is_accepted => ["MQTT-4.3.3-11"],
        every_form_of_pubcomp_is_accepted => ["MQTT-4.3.3-5"],
        failing_puback_frees_the_window => ["MQTT-3.3.4-9", "MQTT-4.4.0-2"],
        failing_pubrec_ends_the_exchange => ["MQTT-3.3.4-9", "MQTT-4.4.0-2"],
        short_acknowledgements_close => ["MQTT-4.13.1-1"],
        reason_of_another_packet_closes => ["MQTT-4.13.1-1"],
        reason_string_given_twice_closes => ["MQTT-4.13.1-1"],
        property_of_another_packet_closes => ["MQTT-4.13.1-1"],
        property_length_beyond_the_packet_closes => ["MQTT-4.13.1-1"],
    },
    unobservable: {},
};

/// Publishes one message of QoS 1 or 2 and returns its PUBACK or PUBREC; the reader holds the reason to the table.
fn answer_to(client: &mut Client, topic: &str, qos: u8) -> Result<Ack> {
    let id = client.next_id();
    client.send_publish(&Publish::new(topic, "x").qos(qos, id))?;
    client.expect_ack(if qos == 1 { first::PUBACK } else { first::PUBREC }, id)
}

fn reasons_without_and_with_subscriber(ctx: &Ctx, qos: u8) -> Result<()> {
    need_qos(ctx, qos)?;
    let mut client = ctx.client("sender")?;
    let topic = ctx.topic("answered");
    answer_to(&mut client, &topic, qos)?.successful().context("without a subscriber")?;
    let _watcher = subscriber(ctx, "watcher", &topic, 0)?;
    answer_to(&mut client, &topic, qos)?.successful().context("with a subscriber")
}

/// Reason code 0x10 says that there is no matching subscriber.
fn does_not_deny_a_subscriber(ctx: &Ctx, qos: u8) -> Result<()> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("heard");
    for granted in 0..=ctx.limits().maximum_qos {
        let _watcher = subscriber(ctx, "watcher", &topic, granted)?;
        let answer = answer_to(&mut ctx.client("sender")?, &topic, qos)?;
        ensure!(answer.reason == 0, "reason code {:#04x} although there is a subscriber", answer.reason);
    }
    Ok(())
}

/// Many brokers refuse such a topic; the reader judges how. Closing the connection is as good.
fn system_topic(ctx: &Ctx, qos: u8) -> Result<()> {
    need_qos(ctx, qos)?;
    let mut client = ctx.client("sender")?;
    client.send_publish(&Publish::new("$SYS/conformance", "x").qos(qos, 5))?;
    match client.next_event()? {
        Event::Closed => Ok(()),
        Event::Packet(Packet::Disconnect(_)) => client.expect_closed().map(drop),
        Event::Packet(Packet::Ack(answer)) => {
            ensure!(answer.id == 5, "identifier {} instead of 5", answer.id);
            Ok(())
        }
        Event::Packet(other) => bail!("expected an acknowledgement or the broker to close, got {other:02x?}"),
    }
}

fn puback_reason_is_of_its_table(ctx: &Ctx) -> Result<()> {
    reasons_without_and_with_subscriber(ctx, 1)
}

fn puback_does_not_deny_a_subscriber(ctx: &Ctx) -> Result<()> {
    does_not_deny_a_subscriber(ctx, 1)
}

fn puback_for_a_system_topic_is_of_its_table(ctx: &Ctx) -> Result<()> {
    system_topic(ctx, 1)
}

fn pubrec_reason_is_of_its_table(ctx: &Ctx) -> Result<()> {
    reasons_without_and_with_subscriber(ctx, 2)
}

fn pubrec_does_not_deny_a_subscriber(ctx: &Ctx) -> Result<()> {
    does_not_deny_a_subscriber(ctx, 2)
}

fn pubrec_for_a_system_topic_is_of_its_table(ctx: &Ctx) -> Result<()> {
    system_topic(ctx, 2)
}

/// A client with the smallest Maximum Packet Size into which the broker's CONNACK fits; the audit measures every packet.
fn tiny(ctx: &Ctx, tag: &str) -> Result<Client> {
    for size in [16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 256] {
        let connect = ctx.v5(tag).props(Props::new().four(prop::MAXIMUM_PACKET_SIZE, size));
        let mut client = ctx.open(connect.version)?;
        client.send_connect(&connect)?;
        match client.next_event()? {
            Event::Packet(Packet::Connack(connack)) if connack.reason == 0 => return Ok(client),
            _ => drop(client),
        }
    }
    skip("the broker's CONNACK has more than 256 bytes")
}

/// Sends what brokers like to explain: nobody listens, a system topic.
fn answers_fit(ctx: &Ctx, qos: u8) -> Result<()> {
    need_qos(ctx, qos)?;
    let mut client = tiny(ctx, "tiny")?;
    answer_to(&mut client, &ctx.topic("nobody"), qos)?;
    client.send_publish(&Publish::new("$SYS/conformance", "x").qos(qos, 99))?;
    match client.next_event()? {
        Event::Packet(Packet::Ack(_) | Packet::Disconnect(_)) | Event::Closed => Ok(()),
        Event::Packet(other) => bail!("expected an acknowledgement or the broker to close, got {other:02x?}"),
    }
}

fn puback_fits_into_the_packet_size(ctx: &Ctx) -> Result<()> {
    answers_fit(ctx, 1)
}

fn pubrec_fits_into_the_packet_size(ctx: &Ctx) -> Result<()> {
    answers_fit(ctx, 2)
}

/// The topic is short so that the message fits into the packet size as well.
fn pubrel_fits_into_the_packet_size(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut client = tiny(ctx, "tiny")?;
    let topic = ctx.client_id("");
    client.subscribe(&topic, 2)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish(&topic, 2, "")?;
    client.send(&build::pingreq())?;
    match client.next_event()? {
        Event::Packet(Packet::Publish(message)) => {
            client.send(&ack(first::PUBREC, message.id))?;
            loop {
                match client.next_event()? {
                    Event::Packet(Packet::Ack(_)) => return Ok(()),
                    Event::Packet(Packet::Pingresp) => {}
                    other => bail!("expected PUBREL, got {other:02x?}"),
                }
            }
        }
        Event::Packet(Packet::Pingresp) => skip("the shortest message does not fit into the packet size"),
        other => bail!("expected PUBLISH, got {other:02x?}"),
    }
}

fn pubcomp_fits_into_the_packet_size(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut client = tiny(ctx, "tiny")?;
    client.send(&ack(first::PUBREL, 77))?;
    client.expect_ack(first::PUBCOMP, 77).map(drop)
}

/// A subscriber that has got one QoS 2 message and answered PUBREC, and the broker's PUBREL.
fn pubrel_of_the_server(ctx: &Ctx) -> Result<(Client, Ack)> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("two");
    let mut client = subscriber(ctx, "receiver", &topic, 2)?;
    ctx.client("publisher")?.publish(&topic, 2, "x")?;
    let message = client.expect_message(&topic, "x")?;
    client.send(&ack(first::PUBREC, message.id))?;
    let pubrel = client.expect_ack(first::PUBREL, message.id)?;
    Ok((client, pubrel))
}

/// The reader refuses a PUBREL with other flags.
fn pubrel_flags_are_0010(ctx: &Ctx) -> Result<()> {
    let (_, pubrel) = pubrel_of_the_server(ctx)?;
    ensure!(pubrel.first == first::PUBREL, "PUBREL begins with {:#04x}", pubrel.first);
    Ok(())
}

fn pubrel_with_any_other_flags_closes(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    for flags in (0..16).filter(|flags| *flags != 2) {
        let mut client = ctx.client("offender")?;
        answer_to(&mut client, &ctx.topic("flags"), 2)?;
        client.send(&frame(0x60 | flags, &[0, 1]))?;
        client.expect_closed().with_context(|| format!("flags {flags:04b}"))?;
    }
    Ok(())
}

fn pubrel_reason_is_of_its_table(ctx: &Ctx) -> Result<()> {
    let (mut client, pubrel) = pubrel_of_the_server(ctx)?;
    ensure!(pubrel.reason == 0, "PUBREL of a known identifier has reason code {:#04x}", pubrel.reason);
    client.send(&ack(first::PUBCOMP, pubrel.id))?;
    client.expect_silence()
}

/// Whatever the broker does about it, a PUBREL has its identifier and a reason code of its table, and a closure is complete.
fn pubrel_for_an_unknown_identifier_is_of_its_table(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("confused")?;
    client.send(&ack(first::PUBREC, 77))?;
    client.send(&build::pingreq())?;
    loop {
        match client.next_event()? {
            Event::Closed | Event::Packet(Packet::Pingresp) => return Ok(()),
            Event::Packet(Packet::Disconnect(_)) => return client.expect_closed().map(drop),
            Event::Packet(Packet::Ack(answer)) if answer.first == first::PUBREL => {
                ensure!(answer.id == 77, "PUBREL has identifier {}, expected 77", answer.id);
            }
            Event::Packet(other) => bail!("expected PUBREL, PINGRESP or the broker to close, got {other:02x?}"),
        }
    }
}

fn pubcomp_reason_is_of_its_table(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut client = ctx.client("sender")?;
    let id = answer_to(&mut client, &ctx.topic("two"), 2)?.id;
    client.send(&ack(first::PUBREL, id))?;
    let pubcomp = client.expect_ack(first::PUBCOMP, id)?;
    ensure!(pubcomp.reason == 0, "PUBCOMP of a known identifier has reason code {:#04x}", pubcomp.reason);
    Ok(())
}

/// 0x92 is meant for this, but 0x00 is in the table as well.
fn pubcomp_for_an_unknown_identifier_is_of_its_table(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut client = ctx.client("confused")?;
    client.send(&ack(first::PUBREL, 77))?;
    client.expect_ack(first::PUBCOMP, 77)?;
    client.expect_silence()
}

/// An acknowledgement with reason 0 in every form the specification allows.
fn forms(kind: u8, id: u16) -> [(&'static str, Vec<u8>); 5] {
    let [high, low] = id.to_be_bytes();
    let props = Props::new().text(prop::REASON_STRING, "because").pair("name", "value").pair("name", "value");
    [
        ("identifier only", ack(kind, id)),
        ("without property length", frame(kind, &[high, low, 0])),
        ("with property length 0", ack_with(kind, id, 0, &Props::new())),
        ("with a reason string", ack_with(kind, id, 0, &Props::new().text(prop::REASON_STRING, ""))),
        ("with reason string and user properties", ack_with(kind, id, 0, &props)),
    ]
}

/// Has the broker send five messages one after the other, its window being one; `answer` completes the nth.
fn one_at_a_time(ctx: &Ctx, qos: u8, answer: impl Fn(&mut Client, u16, usize) -> Result<()>) -> Result<()> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("forms");
    let mut client = ctx.connect(&ctx.v5("receiver").props(Props::new().two(prop::RECEIVE_MAXIMUM, 1)))?;
    client.subscribe(&topic, qos)?;
    let mut publisher = ctx.client("publisher")?;
    for index in 0..5 {
        publisher.publish(&topic, qos, index.to_string())?;
    }
    for index in 0..5 {
        let name = if index > 0 { forms(0, 1)[index - 1].0 } else { "none" };
        let message = client.expect_message(&topic, index.to_string());
        let id = message.with_context(|| format!("the form before was: {name}"))?.id;
        answer(&mut client, id, index)?;
    }
    client.expect_silence()
}

fn every_form_of_puback_is_accepted(ctx: &Ctx) -> Result<()> {
    one_at_a_time(ctx, 1, |client, id, index| client.send(&forms(first::PUBACK, id)[index].1))
}

fn every_form_of_pubrec_is_accepted(ctx: &Ctx) -> Result<()> {
    one_at_a_time(ctx, 2, |client, id, index| {
        client.send(&forms(first::PUBREC, id)[index].1)?;
        client.expect_ack(first::PUBREL, id)?.successful()?;
        client.send(&ack(first::PUBCOMP, id))
    })
}

fn every_form_of_pubrel_is_accepted(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("forms");
    let mut client = ctx.client("sender")?;
    for index in 0..5 {
        let id = answer_to(&mut client, &topic, 2)?.id;
        let (name, bytes) = &forms(first::PUBREL, id)[index];
        client.send(bytes)?;
        client.expect_ack(first::PUBCOMP, id).context(*name)?.successful()?;
    }
    Ok(())
}

fn every_form_of_pubcomp_is_accepted(ctx: &Ctx) -> Result<()> {
    one_at_a_time(ctx, 2, |client, id, index| {
        client.send(&ack(first::PUBREC, id))?;
        client.expect_ack(first::PUBREL, id)?.successful()?;
        client.send(&forms(first::PUBCOMP, id)[index].1)
    })
}

const FAILURES: [u8; 8] = [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99, 0x80];

/// Refuses each message with another code; the next one comes, and the refused ones never again.
fn failing(ctx: &Ctx, qos: u8, kind: u8) -> Result<()> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("refused");
    let props = Props::new().two(prop::RECEIVE_MAXIMUM, 1).four(prop::SESSION_EXPIRY, 30);
    let connect = ctx.v5("refuser").props(props);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, qos)?;
    let mut publisher = ctx.client("publisher")?;
    for index in 0..FAILURES.len() {
        publisher.publish(&topic, qos, index.to_string())?;
    }
    for (index, reason) in FAILURES.into_iter().enumerate() {
        let message = client.expect_message(&topic, index.to_string());
        let id = message.with_context(|| format!("before answering {reason:#04x}"))?.id;
        client.send(&ack_with(kind, id, reason, &Props::new()))?;
    }
    client.expect_silence()?;
    client.cut()?;
    let mut client = ctx.connect(&connect.resume())?;
    client.expect_silence().context("refused messages must not be sent again")?;
    client.disconnect()?;
    ctx.client("refuser")?.disconnect()
}

fn failing_puback_frees_the_window(ctx: &Ctx) -> Result<()> {
    failing(ctx, 1, first::PUBACK)
}

fn failing_pubrec_ends_the_exchange(ctx: &Ctx) -> Result<()> {
    failing(ctx, 2, first::PUBREC)
}

const KINDS: [(&str, u8); 4] =
    [("PUBACK", first::PUBACK), ("PUBREC", first::PUBREC), ("PUBREL", first::PUBREL), ("PUBCOMP", first::PUBCOMP)];

/// Sends a bad acknowledgement of each kind, on a connection of its own each time.
fn each_kind_closes(ctx: &Ctx, bytes: impl Fn(u8) -> Vec<u8>) -> Result<()> {
    KINDS.into_iter().try_for_each(|(name, kind)| closes_on(ctx, &bytes(kind)).map(drop).context(name))
}

fn short_acknowledgements_close(ctx: &Ctx) -> Result<()> {
    each_kind_closes(ctx, |kind| frame(kind, &[]))?;
    each_kind_closes(ctx, |kind| frame(kind, &[1]))
}

/// 0x01 is a SUBACK's, 0x8E a DISCONNECT's, 0xFF nobody's.
fn reason_of_another_packet_closes(ctx: &Ctx) -> Result<()> {
    for reason in [0x01, 0x8E, 0xFF] {
        each_kind_closes(ctx, |kind| ack_with(kind, 1, reason, &Props::new()))
            .with_context(|| format!("reason code {reason:#04x}"))?;
    }
    Ok(())
}

fn reason_string_given_twice_closes(ctx: &Ctx) -> Result<()> {
    let props = Props::new().text(prop::REASON_STRING, "a").text(prop::REASON_STRING, "b");
    each_kind_closes(ctx, |kind| ack_with(kind, 1, 0, &props))
}

fn property_of_another_packet_closes(ctx: &Ctx) -> Result<()> {
    let props = Props::new().four(prop::MESSAGE_EXPIRY, 9);
    each_kind_closes(ctx, |kind| ack_with(kind, 1, 0, &props))
}

fn property_length_beyond_the_packet_closes(ctx: &Ctx) -> Result<()> {
    each_kind_closes(ctx, |kind| frame(kind, &[0, 1, 0, 5, prop::REASON_STRING]))
}
