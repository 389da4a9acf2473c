//! Owns the tests of sections 4.3 and 4.4: the QoS handshakes and what is sent again. Never tests flow control (4.9).

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::common::{GRACE, nothing_but_marker, subscriber};
use super::flows::{forget, need_qos};
use crate::client::Client;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::build::{self, Props, Publish};
use crate::wire::read::Message;
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "4.3",
    title: "QoS flows and delivery retry",
    tests: {
        qos0_is_delivered_once => ["MQTT-4.3.1-1"],
        qos0_is_not_acknowledged => ["MQTT-4.3.1-1"],
        qos1_identifiers_are_unused_ones => ["MQTT-4.3.2-1"],
        qos1_is_first_sent_without_dup => ["MQTT-4.3.2-2"],
        qos1_is_pending_until_its_puback => ["MQTT-4.3.2-3", "MQTT-4.4.0-1"],
        qos1_is_done_after_its_puback => ["MQTT-4.3.2-3", "MQTT-4.4.0-1"],
        qos1_publish_gets_its_puback => ["MQTT-4.3.2-4"],
        qos1_publish_without_subscribers_gets_its_puback => ["MQTT-4.3.2-4"],
        qos1_identifier_is_new_after_puback => ["MQTT-4.3.2-5"],
        qos2_identifiers_are_unused_ones => ["MQTT-4.3.3-1"],
        qos2_is_first_sent_without_dup => ["MQTT-4.3.3-2"],
        qos2_is_pending_until_its_pubrec => ["MQTT-4.3.3-3", "MQTT-4.4.0-1"],
        qos2_pubrec_is_answered_with_pubrel => ["MQTT-4.3.3-4"],
        qos2_pubrel_is_pending_until_its_pubcomp => ["MQTT-4.3.3-5", "MQTT-4.4.0-1"],
        qos2_publish_is_not_sent_after_pubrel => ["MQTT-4.3.3-6"],
        qos2_is_done_after_its_pubcomp => ["MQTT-4.3.3-5", "MQTT-4.4.0-1"],
        qos2_expiry_ends_nothing_once_sent => ["MQTT-4.3.3-7"],
        qos2_expiry_ends_nothing_after_reconnecting => ["MQTT-4.3.3-7"],
        qos2_publish_gets_its_pubrec => ["MQTT-4.3.3-8"],
        qos2_identifier_is_new_after_a_refusal => ["MQTT-4.3.3-9"],
        qos2_repetition_is_not_delivered_twice => ["MQTT-4.3.3-10"],
        qos2_repetition_after_reconnecting_is_not_delivered_twice => ["MQTT-4.3.3-10"],
        qos2_pubrel_gets_its_pubcomp => ["MQTT-4.3.3-11"],
        qos2_repeated_pubrel_gets_its_pubcomp => ["MQTT-4.3.3-11"],
        qos2_pubrel_after_reconnecting_gets_its_pubcomp => ["MQTT-4.3.3-11"],
        qos2_identifier_is_new_after_pubcomp => ["MQTT-4.3.3-12"],
        qos2_handshake_is_completed_after_expiry => ["MQTT-4.3.3-13"],
        qos2_handshakes_may_overlap => ["MQTT-4.3.3-8", "MQTT-4.3.3-11"],
        nothing_is_sent_again_on_a_living_connection => ["MQTT-4.4.0-1"],
        nothing_is_sent_again_after_clean_start => ["MQTT-4.4.0-1"],
        resent_publish_keeps_its_identifier => ["MQTT-4.4.0-1"],
        unacknowledged_message_is_resent_each_time => ["MQTT-4.4.0-1"],
        resent_after_takeover => ["MQTT-4.4.0-1"],
        rejecting_puback_ends_the_exchange => ["MQTT-4.4.0-2"],
        rejecting_pubrec_ends_the_exchange => ["MQTT-4.4.0-2"],
    },
    unobservable: {},
};

fn qos0_is_delivered_once(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("zero");
    for granted in 0..=ctx.limits().maximum_qos {
        let mut receiver = subscriber(ctx, "receiver", &topic, granted)?;
        let mut sender = ctx.client("sender")?;
        sender.publish(&topic, 0, "x")?;
        let message = receiver.expect_message(&topic, "x")?;
        ensure!(message.qos == 0 && !message.dup, "a QoS 0 message came as {message:02x?}");
        nothing_but_marker(&mut sender, &mut receiver, &topic)?;
    }
    Ok(())
}

fn qos0_is_not_acknowledged(ctx: &Ctx) -> Result<()> {
    let mut sender = ctx.client("sender")?;
    sender.publish(ctx.topic("zero"), 0, "x")?;
    sender.expect_silence()
}

/// A receiver whose session outlives its connection, and a sender.
fn scene(ctx: &Ctx, qos: u8) -> Result<(Client, Client, String)> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("flow");
    let mut receiver = ctx.connect(&ctx.v5("receiver").session_expiry(60))?;
    receiver.subscribe(&topic, qos)?;
    Ok((receiver, ctx.client("sender")?, topic))
}

/// The receiver's next connection.
fn back(ctx: &Ctx) -> Result<Client> {
    let client = ctx.connect(&ctx.v5("receiver").resume().session_expiry(60))?;
    ensure!(client.connack.session_present, "the session is gone");
    Ok(client)
}

fn leave(ctx: &Ctx, receiver: Client) -> Result<()> {
    receiver.disconnect()?;
    forget(ctx, "receiver")
}

/// The third of three messages arrives while the first two are open; the first is open no more when the fourth comes.
fn identifiers_are_unused(ctx: &Ctx, qos: u8) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, qos)?;
    let mut open: Vec<Message> = Vec::new();
    for round in 0..12 {
        sender.publish(&topic, qos, [round])?;
        let message = receiver.expect_publish()?;
        ensure!(open.iter().all(|other| other.id != message.id), "identifier {} is in use", message.id);
        open.push(message);
        if round % 2 == 1 {
            let oldest = open.remove(0);
            receiver.acknowledge(&oldest)?;
        }
    }
    leave(ctx, receiver)
}

fn qos1_identifiers_are_unused_ones(ctx: &Ctx) -> Result<()> {
    identifiers_are_unused(ctx, 1)
}

fn qos2_identifiers_are_unused_ones(ctx: &Ctx) -> Result<()> {
    identifiers_are_unused(ctx, 2)
}

/// Also if the publisher itself has set DUP.
fn first_without_dup(ctx: &Ctx, qos: u8) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, qos)?;
    for publish in [Publish::new(&topic, "x"), Publish::new(&topic, "x").dup()] {
        sender.publish_packet(publish, qos)?;
        let message = receiver.expect_message(&topic, "x")?;
        ensure!(message.qos == qos && !message.dup && message.id != 0, "first sent as {message:02x?}");
        receiver.acknowledge(&message)?;
    }
    leave(ctx, receiver)
}

fn qos1_is_first_sent_without_dup(ctx: &Ctx) -> Result<()> {
    first_without_dup(ctx, 1)
}

fn qos2_is_first_sent_without_dup(ctx: &Ctx) -> Result<()> {
    first_without_dup(ctx, 2)
}

/// Not acknowledged, and the connection breaks: it comes again, with the same identifier and DUP.
fn pending_until_acknowledged(ctx: &Ctx, qos: u8) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, qos)?;
    sender.publish(&topic, qos, "x")?;
    let before = receiver.expect_message(&topic, "x")?;
    receiver.cut()?;
    let mut receiver = back(ctx)?;
    let again = receiver.expect_message(&topic, "x")?;
    ensure!(again.id == before.id && again.qos == qos, "sent as {before:02x?}, resent as {again:02x?}");
    ensure!(again.dup, "resent without DUP");
    receiver.acknowledge(&again)?;
    receiver.expect_silence()?;
    leave(ctx, receiver)
}

fn qos1_is_pending_until_its_puback(ctx: &Ctx) -> Result<()> {
    pending_until_acknowledged(ctx, 1)
}

fn qos2_is_pending_until_its_pubrec(ctx: &Ctx) -> Result<()> {
    pending_until_acknowledged(ctx, 2)
}

fn done_after_acknowledgement(ctx: &Ctx, qos: u8) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, qos)?;
    sender.publish(&topic, qos, "x")?;
    let message = receiver.expect_message(&topic, "x")?;
    receiver.acknowledge(&message)?;
    receiver.expect_silence()?;
    receiver.cut()?;
    let mut receiver = back(ctx)?;
    nothing_but_marker(&mut sender, &mut receiver, &topic)?;
    leave(ctx, receiver)
}

fn qos1_is_done_after_its_puback(ctx: &Ctx) -> Result<()> {
    done_after_acknowledgement(ctx, 1)
}

fn qos2_is_done_after_its_pubcomp(ctx: &Ctx) -> Result<()> {
    done_after_acknowledgement(ctx, 2)
}

fn qos1_publish_gets_its_puback(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, 1)?;
    sender.send_publish(&Publish::new(&topic, "x").qos(1, 321))?;
    sender.expect_ack(first::PUBACK, 321)?.successful()?;
    let message = receiver.expect_message(&topic, "x")?;
    receiver.acknowledge(&message)?;
    leave(ctx, receiver)
}

fn qos1_publish_without_subscribers_gets_its_puback(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let mut sender = ctx.client("sender")?;
    sender.send_publish(&Publish::new(ctx.topic("nobody"), "x").qos(1, 5))?;
    sender.expect_ack(first::PUBACK, 5)?.successful()
}

/// The same identifier again, with DUP and with the same payload: a new message all the same.
fn qos1_identifier_is_new_after_puback(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, 1)?;
    for round in 1..=3 {
        let publish = Publish::new(&topic, "same").qos(1, 9);
        sender.send_publish(&if round > 1 { publish.dup() } else { publish })?;
        sender.expect_ack(first::PUBACK, 9)?.successful()?;
        let message = receiver.expect_message(&topic, "same").with_context(|| format!("message number {round}"))?;
        receiver.acknowledge(&message)?;
    }
    leave(ctx, receiver)
}

fn qos2_pubrec_is_answered_with_pubrel(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, 2)?;
    for reason in [0x00, 0x10] {
        sender.publish(&topic, 2, "x")?;
        let id = receiver.expect_message(&topic, "x")?.id;
        receiver.send(&build::ack_with(first::PUBREC, id, reason, &Props::new()))?;
        receiver.expect_ack(first::PUBREL, id)?.successful()?;
        receiver.send(&build::ack(first::PUBCOMP, id))?;
    }
    leave(ctx, receiver)
}

/// A receiver that has sent PUBREC and got PUBREL for the message with the returned identifier.
fn released(ctx: &Ctx) -> Result<(Client, Client, String, u16)> {
    let (mut receiver, mut sender, topic) = scene(ctx, 2)?;
    sender.publish(&topic, 2, "x")?;
    let id = receiver.expect_message(&topic, "x")?.id;
    receiver.send(&build::ack(first::PUBREC, id))?;
    receiver.expect_ack(first::PUBREL, id)?.successful()?;
    Ok((receiver, sender, topic, id))
}

fn qos2_pubrel_is_pending_until_its_pubcomp(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _, _, id) = released(ctx)?;
    for _ in 0..2 {
        receiver.cut()?;
        receiver = back(ctx)?;
        receiver.expect_ack(first::PUBREL, id)?.successful()?;
    }
    receiver.send(&build::ack(first::PUBCOMP, id))?;
    receiver.expect_silence()?;
    leave(ctx, receiver)
}

fn qos2_publish_is_not_sent_after_pubrel(ctx: &Ctx) -> Result<()> {
    let (receiver, mut sender, topic, id) = released(ctx)?;
    receiver.cut()?;
    let mut receiver = back(ctx)?;
    receiver.expect_ack(first::PUBREL, id).context("PUBREL was sent before")?.successful()?;
    receiver.send(&build::ack(first::PUBCOMP, id))?;
    nothing_but_marker(&mut sender, &mut receiver, &topic)?;
    leave(ctx, receiver)
}

/// A receiver with an open QoS 2 message that has expired since it was sent.
fn expired_after_sending(ctx: &Ctx) -> Result<(Client, String, u16)> {
    let (mut receiver, mut sender, topic) = scene(ctx, 2)?;
    let publish = Publish::new(&topic, "x").props(Props::new().four(prop::MESSAGE_EXPIRY, 1));
    sender.publish_packet(publish, 2)?;
    let id = receiver.expect_message(&topic, "x")?.id;
    receiver.expect_quiet_for(Duration::from_millis(2300))?;
    Ok((receiver, topic, id))
}

fn complete(receiver: &mut Client, id: u16) -> Result<()> {
    receiver.send(&build::ack(first::PUBREC, id))?;
    receiver.expect_ack(first::PUBREL, id)?.successful()?;
    receiver.send(&build::ack(first::PUBCOMP, id))
}

fn qos2_expiry_ends_nothing_once_sent(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _, id) = expired_after_sending(ctx)?;
    complete(&mut receiver, id)?;
    leave(ctx, receiver)
}

fn qos2_expiry_ends_nothing_after_reconnecting(ctx: &Ctx) -> Result<()> {
    let (receiver, topic, id) = expired_after_sending(ctx)?;
    receiver.cut()?;
    let mut receiver = back(ctx)?;
    let again = receiver.expect_message(&topic, "x").context("the message was sent before it expired")?;
    ensure!(again.id == id, "identifier {} instead of {id}", again.id);
    complete(&mut receiver, id)?;
    leave(ctx, receiver)
}

fn qos2_publish_gets_its_pubrec(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut sender = ctx.client("sender")?;
    for topic in [ctx.topic("nobody"), ctx.topic("nobody/else")] {
        sender.send_publish(&Publish::new(topic, "x").qos(2, 321))?;
        sender.expect_ack(first::PUBREC, 321)?.successful()?;
        sender.send(&build::ack(first::PUBREL, 321))?;
        sender.expect_ack(first::PUBCOMP, 321)?.successful()?;
    }
    Ok(())
}

/// What a broker might refuse: a payload that is not the UTF-8 it claims to be, or a topic of the broker's own.
fn qos2_identifier_is_new_after_a_refusal(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _, topic) = scene(ctx, 2)?;
    let text = Props::new().byte(prop::PAYLOAD_FORMAT, 1);
    let dubious = [Publish::new(ctx.topic("text"), b"\xFF\xFE").props(text), Publish::new("$SYS/conformance", "x")];
    for publish in dubious {
        let mut sender = ctx.client("sender")?;
        sender.send_publish(&publish.qos(2, 9))?;
        let Ok(ack) = sender.expect_ack(first::PUBREC, 9) else {
            continue;
        };
        if ack.reason >= 0x80 {
            sender.send_publish(&Publish::new(&topic, "new").qos(2, 9))?;
            sender.expect_ack(first::PUBREC, 9)?.successful()?;
            sender.send(&build::ack(first::PUBREL, 9))?;
            sender.expect_ack(first::PUBCOMP, 9)?.successful()?;
            let message = receiver.expect_message(&topic, "new")?;
            receiver.acknowledge(&message)?;
            return leave(ctx, receiver);
        }
    }
    forget(ctx, "receiver")?;
    skip("server refuses no QoS 2 PUBLISH that was tried")
}

fn qos2_repetition_is_not_delivered_twice(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, 2)?;
    let publish = Publish::new(&topic, "x").qos(2, 9);
    for packet in [publish.clone(), publish.clone().dup(), publish.dup()] {
        sender.send_publish(&packet)?;
        sender.expect_ack(first::PUBREC, 9)?.successful()?;
    }
    sender.send(&build::ack(first::PUBREL, 9))?;
    sender.expect_ack(first::PUBCOMP, 9)?.successful()?;
    let message = receiver.expect_message(&topic, "x")?;
    receiver.acknowledge(&message)?;
    nothing_but_marker(&mut sender, &mut receiver, &topic)?;
    leave(ctx, receiver)
}

/// The sender's session lasts, and with it the identifiers the broker has received.
fn lasting_sender(ctx: &Ctx) -> Result<Client> {
    ctx.connect(&ctx.v5("lasting").resume().session_expiry(60))
}

fn qos2_repetition_after_reconnecting_is_not_delivered_twice(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _, topic) = scene(ctx, 2)?;
    let mut sender = lasting_sender(ctx)?;
    sender.send_publish(&Publish::new(&topic, "x").qos(2, 9))?;
    sender.expect_ack(first::PUBREC, 9)?.successful()?;
    sender.cut()?;
    let mut sender = lasting_sender(ctx)?;
    sender.send_publish(&Publish::new(&topic, "x").qos(2, 9).dup())?;
    sender.expect_ack(first::PUBREC, 9)?.successful()?;
    sender.send(&build::ack(first::PUBREL, 9))?;
    sender.expect_ack(first::PUBCOMP, 9)?.successful()?;
    let message = receiver.expect_message(&topic, "x")?;
    receiver.acknowledge(&message)?;
    nothing_but_marker(&mut sender, &mut receiver, &topic)?;
    sender.disconnect()?;
    forget(ctx, "lasting")?;
    leave(ctx, receiver)
}

fn qos2_pubrel_gets_its_pubcomp(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut sender = ctx.client("sender")?;
    for id in [1, 65_535] {
        sender.send_publish(&Publish::new(ctx.topic("nobody"), "x").qos(2, id))?;
        sender.expect_ack(first::PUBREC, id)?.successful()?;
        sender.send(&build::ack_with(first::PUBREL, id, 0, &Props::new()))?;
        sender.expect_ack(first::PUBCOMP, id)?.successful()?;
    }
    Ok(())
}

/// The second PUBREL is for an identifier the broker no longer knows: 0x92 is a fitting answer, 0x00 as well.
fn qos2_repeated_pubrel_gets_its_pubcomp(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut sender = ctx.client("sender")?;
    sender.publish(ctx.topic("nobody"), 2, "x")?;
    sender.send(&build::ack(first::PUBREL, 1))?;
    sender.expect_ack(first::PUBCOMP, 1).map(drop)
}

fn qos2_pubrel_after_reconnecting_gets_its_pubcomp(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _, topic) = scene(ctx, 2)?;
    let mut sender = lasting_sender(ctx)?;
    sender.send_publish(&Publish::new(&topic, "x").qos(2, 9))?;
    sender.expect_ack(first::PUBREC, 9)?.successful()?;
    sender.cut()?;
    let mut sender = lasting_sender(ctx)?;
    sender.send(&build::ack(first::PUBREL, 9))?;
    sender.expect_ack(first::PUBCOMP, 9)?.successful()?;
    let message = receiver.expect_message(&topic, "x")?;
    receiver.acknowledge(&message)?;
    sender.disconnect()?;
    forget(ctx, "lasting")?;
    leave(ctx, receiver)
}

fn qos2_identifier_is_new_after_pubcomp(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, 2)?;
    for round in 1..=3 {
        let publish = Publish::new(&topic, "same").qos(2, 9);
        sender.send_publish(&if round > 1 { publish.dup() } else { publish })?;
        sender.expect_ack(first::PUBREC, 9)?.successful()?;
        sender.send(&build::ack(first::PUBREL, 9))?;
        sender.expect_ack(first::PUBCOMP, 9)?.successful()?;
        let message = receiver.expect_message(&topic, "same").with_context(|| format!("message number {round}"))?;
        receiver.acknowledge(&message)?;
    }
    leave(ctx, receiver)
}

fn qos2_handshake_is_completed_after_expiry(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut sender = ctx.client("sender")?;
    let props = Props::new().four(prop::MESSAGE_EXPIRY, 1);
    sender.send_publish(&Publish::new(ctx.topic("short"), "x").props(props).qos(2, 9))?;
    sender.expect_ack(first::PUBREC, 9)?.successful()?;
    sender.expect_quiet_for(Duration::from_millis(2300))?;
    sender.send(&build::ack(first::PUBREL, 9))?;
    sender.expect_ack(first::PUBCOMP, 9)?.successful()
}

fn qos2_handshakes_may_overlap(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut sender = ctx.client("sender")?;
    let ids: Vec<u16> = (1..=super::flows::window(ctx, 5) as u16).collect();
    for id in &ids {
        sender.send_publish(&Publish::new(ctx.topic("overlap"), "x").qos(2, *id))?;
        sender.expect_ack(first::PUBREC, *id)?.successful()?;
    }
    for id in ids.iter().rev() {
        sender.send(&build::ack(first::PUBREL, *id))?;
        sender.expect_ack(first::PUBCOMP, *id)?.successful()?;
    }
    Ok(())
}

/// The audit of the connection refuses a repetition as well.
fn nothing_is_sent_again_on_a_living_connection(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let (mut receiver, mut sender, topic) = scene(ctx, ctx.limits().maximum_qos)?;
    for qos in 1..=ctx.limits().maximum_qos {
        sender.publish(&topic, qos, "x")?;
        receiver.expect_message(&topic, "x")?;
    }
    receiver.expect_quiet_for(Duration::from_secs(2))?;
    nothing_but_marker(&mut sender, &mut receiver, &topic)?;
    leave(ctx, receiver)
}

fn nothing_is_sent_again_after_clean_start(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, 1)?;
    sender.publish(&topic, 1, "x")?;
    receiver.expect_message(&topic, "x")?;
    receiver.cut()?;
    let mut receiver = ctx.client("receiver")?;
    receiver.expect_quiet_for(GRACE)?;
    receiver.subscribe(&topic, 1)?;
    nothing_but_marker(&mut sender, &mut receiver, &topic)
}

fn resent_publish_keeps_its_identifier(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, 1)?;
    let mut ids = Vec::new();
    for number in 0..5 {
        sender.publish(&topic, 1, [number])?;
        ids.push(receiver.expect_message(&topic, [number])?.id);
    }
    receiver.cut()?;
    let mut receiver = back(ctx)?;
    for _ in 0..5 {
        let message = receiver.expect_publish()?;
        let number = usize::from(message.payload.first().copied().unwrap_or(255));
        ensure!(
            ids.get(number) == Some(&message.id),
            "message {number} had another identifier: {ids:?}, {message:02x?}"
        );
        receiver.acknowledge(&message)?;
    }
    receiver.expect_silence()?;
    leave(ctx, receiver)
}

fn unacknowledged_message_is_resent_each_time(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, 1)?;
    sender.publish(&topic, 1, "x")?;
    let id = receiver.expect_message(&topic, "x")?.id;
    for round in 1..=4 {
        receiver.cut()?;
        receiver = back(ctx)?;
        let again = receiver.expect_message(&topic, "x").with_context(|| format!("connection number {round}"))?;
        ensure!(again.id == id && again.dup, "resent as {again:02x?}");
    }
    receiver.send(&build::ack(first::PUBACK, id))?;
    leave(ctx, receiver)
}

fn resent_after_takeover(ctx: &Ctx) -> Result<()> {
    let (mut old, mut sender, topic) = scene(ctx, 1)?;
    sender.publish(&topic, 1, "x")?;
    let id = old.expect_message(&topic, "x")?.id;
    let mut receiver = back(ctx)?;
    let again = receiver.expect_message(&topic, "x")?;
    ensure!(again.id == id && again.dup, "resent as {again:02x?}, the identifier was {id}");
    receiver.acknowledge(&again)?;
    old.expect_closed()?;
    leave(ctx, receiver)
}

/// Rejects a message with `packet` and each of a few codes; it must not come again, now or later.
fn rejection_is_final(ctx: &Ctx, qos: u8, packet: u8) -> Result<()> {
    let (mut receiver, mut sender, topic) = scene(ctx, qos)?;
    for reason in [0x80, 0x83, 0x97, 0x99] {
        sender.publish(&topic, qos, "x")?;
        let id = receiver.expect_message(&topic, "x")?.id;
        receiver.send(&build::ack_with(packet, id, reason, &Props::new()))?;
        receiver.expect_silence().with_context(|| format!("rejected with {reason:#04x}"))?;
        receiver.cut()?;
        receiver = back(ctx)?;
        nothing_but_marker(&mut sender, &mut receiver, &topic)
            .with_context(|| format!("rejected with {reason:#04x}"))?;
    }
    leave(ctx, receiver)
}

fn rejecting_puback_ends_the_exchange(ctx: &Ctx) -> Result<()> {
    rejection_is_final(ctx, 1, first::PUBACK)
}

fn rejecting_pubrec_ends_the_exchange(ctx: &Ctx) -> Result<()> {
    rejection_is_final(ctx, 2, first::PUBREC)
}
