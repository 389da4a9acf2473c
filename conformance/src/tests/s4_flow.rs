//! Owns the tests of section 4.9: flow control by Receive Maximum, in both directions. Never tests Maximum Packet Size.

use anyhow::{Context, Result, ensure};

use super::common::GRACE;
use super::flows::{forget, need_qos, numbered, publish_all};
use crate::client::Client;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::build::{self, Connect, Props, Publish};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "4.9",
    title: "flow control",
    tests: {
        window_is_not_exceeded_with_qos1 => ["MQTT-4.9.0-1", "MQTT-4.9.0-2"],
        window_is_not_exceeded_with_qos2 => ["MQTT-4.9.0-1", "MQTT-4.9.0-2"],
        window_is_not_exceeded_with_mixed_qos => ["MQTT-4.9.0-2"],
        window_is_not_exceeded_after_reconnecting => ["MQTT-4.9.0-1", "MQTT-4.9.0-2"],
        window_is_full_again_after_reconnecting => ["MQTT-4.9.0-1"],
        pubrec_frees_nothing => ["MQTT-4.9.0-2"],
        rejecting_pubrec_frees_one => ["MQTT-4.9.0-2"],
        rejecting_puback_frees_one => ["MQTT-4.9.0-2"],
        qos0_is_sent_with_a_full_window => ["MQTT-4.9.0-3"],
        requests_are_answered_with_a_full_window => ["MQTT-4.9.0-3"],
        publishes_are_acknowledged_with_a_full_window => ["MQTT-4.9.0-3"],
        server_window_can_be_used_up => ["MQTT-4.9.0-1"],
        server_window_is_restored => ["MQTT-4.9.0-2"],
        server_window_is_restored_after_reconnecting => ["MQTT-4.9.0-1"],
        exceeding_the_server_window_closes => ["MQTT-4.13.1-1"],
    },
    unobservable: {},
};

fn narrow(ctx: &Ctx, window: u16) -> Connect {
    ctx.v5("narrow").props(Props::new().two(prop::RECEIVE_MAXIMUM, window).four(prop::SESSION_EXPIRY, 60))
}

/// A receiver with the given window, subscribed to the returned topic, for which ten messages of `qos` were published.
fn flooded(ctx: &Ctx, window: u16, qos: u8) -> Result<(Client, Client, String)> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("flood");
    let mut receiver = ctx.connect(&narrow(ctx, window))?;
    receiver.subscribe(&topic, qos)?;
    let mut sender = ctx.client("sender")?;
    publish_all(ctx, &mut sender, qos, numbered(&topic, 1..=10))?;
    Ok((receiver, sender, topic))
}

/// Expects the messages with these numbers and nothing behind them; returns their identifiers.
fn exactly(receiver: &mut Client, topic: &str, range: std::ops::RangeInclusive<usize>) -> Result<Vec<u16>> {
    let mut ids = Vec::new();
    for number in range {
        ids.push(receiver.expect_message(topic, number.to_string())?.id);
    }
    receiver.expect_silence().context("the window is full")?;
    receiver.expect_quiet_for(GRACE).context("the window is full")?;
    Ok(ids)
}

fn leave(ctx: &Ctx, receiver: Client) -> Result<()> {
    receiver.disconnect()?;
    forget(ctx, "narrow")
}

fn finish(receiver: &mut Client, qos: u8, id: u16) -> Result<()> {
    if qos == 1 {
        return receiver.send(&build::ack(first::PUBACK, id));
    }
    receiver.send(&build::ack(first::PUBREC, id))?;
    receiver.expect_ack(first::PUBREL, id)?.successful()?;
    receiver.send(&build::ack(first::PUBCOMP, id))
}

/// Fills the window, frees one place, and expects one more message.
fn not_exceeded(ctx: &Ctx, qos: u8) -> Result<()> {
    for window in [1, 3] {
        let (mut receiver, _sender, topic) = flooded(ctx, window, qos)?;
        let width = usize::from(window);
        let ids = exactly(&mut receiver, &topic, 1..=width)?;
        finish(&mut receiver, qos, ids[0])?;
        exactly(&mut receiver, &topic, width + 1..=width + 1).with_context(|| format!("window of {window}"))?;
        leave(ctx, receiver)?;
    }
    Ok(())
}

fn window_is_not_exceeded_with_qos1(ctx: &Ctx) -> Result<()> {
    not_exceeded(ctx, 1)
}

fn window_is_not_exceeded_with_qos2(ctx: &Ctx) -> Result<()> {
    not_exceeded(ctx, 2)
}

fn window_is_not_exceeded_with_mixed_qos(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("mixed");
    let mut receiver = ctx.connect(&narrow(ctx, 2))?;
    receiver.subscribe(&topic, 2)?;
    let mut sender = ctx.client("sender")?;
    for (index, publish) in numbered(&topic, 1..=6).into_iter().enumerate() {
        sender.publish_packet(publish, 1 + index as u8 % 2)?;
    }
    exactly(&mut receiver, &topic, 1..=2)?;
    leave(ctx, receiver)
}

/// The narrower window of the next connection counts; resent messages use it up as well (the audit counts them).
fn window_is_not_exceeded_after_reconnecting(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _sender, topic) = flooded(ctx, 4, 1)?;
    exactly(&mut receiver, &topic, 1..=4)?;
    receiver.cut()?;
    let mut receiver = ctx.connect(&narrow(ctx, 2).resume())?;
    exactly(&mut receiver, &topic, 1..=2)?;
    leave(ctx, receiver)
}

/// What was open on the old connection takes nothing from the quota of the new one but what is resent.
fn window_is_full_again_after_reconnecting(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _sender, topic) = flooded(ctx, 2, 1)?;
    exactly(&mut receiver, &topic, 1..=2)?;
    for _ in 0..2 {
        receiver.cut()?;
        receiver = ctx.connect(&narrow(ctx, 2).resume())?;
        exactly(&mut receiver, &topic, 1..=2)?;
    }
    receiver.cut()?;
    let mut receiver = ctx.connect(&narrow(ctx, 5).resume())?;
    exactly(&mut receiver, &topic, 1..=5)?;
    leave(ctx, receiver)
}

fn pubrec_frees_nothing(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _sender, topic) = flooded(ctx, 2, 2)?;
    let ids = exactly(&mut receiver, &topic, 1..=2)?;
    receiver.send(&build::ack(first::PUBREC, ids[0]))?;
    receiver.expect_ack(first::PUBREL, ids[0])?.successful()?;
    receiver.expect_silence()?;
    receiver.expect_quiet_for(GRACE).context("only PUBCOMP makes room")?;
    receiver.send(&build::ack(first::PUBCOMP, ids[0]))?;
    exactly(&mut receiver, &topic, 3..=3)?;
    leave(ctx, receiver)
}

fn rejection_frees_one(ctx: &Ctx, qos: u8, packet: u8) -> Result<()> {
    let (mut receiver, _sender, topic) = flooded(ctx, 1, qos)?;
    let ids = exactly(&mut receiver, &topic, 1..=1)?;
    receiver.send(&build::ack_with(packet, ids[0], 0x80, &Props::new()))?;
    exactly(&mut receiver, &topic, 2..=2)?;
    leave(ctx, receiver)
}

fn rejecting_pubrec_frees_one(ctx: &Ctx) -> Result<()> {
    rejection_frees_one(ctx, 2, first::PUBREC)
}

fn rejecting_puback_frees_one(ctx: &Ctx) -> Result<()> {
    rejection_frees_one(ctx, 1, first::PUBACK)
}

fn qos0_is_sent_with_a_full_window(ctx: &Ctx) -> Result<()> {
    let (mut receiver, mut sender, topic) = flooded(ctx, 1, 1)?;
    exactly(&mut receiver, &topic, 1..=1)?;
    let other = ctx.topic("other");
    receiver.subscribe(&other, 0)?;
    sender.publish(&other, 0, "needs no window")?;
    receiver.expect_message(&other, "needs no window")?;
    leave(ctx, receiver)
}

fn requests_are_answered_with_a_full_window(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _sender, topic) = flooded(ctx, 1, 1)?;
    exactly(&mut receiver, &topic, 1..=1)?;
    receiver.subscribe(ctx.topic("other"), 1)?;
    receiver.unsubscribe(ctx.topic("other"))?;
    receiver.expect_silence()?;
    leave(ctx, receiver)
}

fn publishes_are_acknowledged_with_a_full_window(ctx: &Ctx) -> Result<()> {
    let (mut receiver, _sender, topic) = flooded(ctx, 1, 1)?;
    exactly(&mut receiver, &topic, 1..=1)?;
    for qos in 0..=ctx.limits().maximum_qos {
        receiver.publish(ctx.topic("other"), qos, "x")?;
    }
    leave(ctx, receiver)
}

/// The server's window, if it is small enough to be filled.
fn server_window(ctx: &Ctx) -> Result<u16> {
    need_qos(ctx, 2)?;
    match ctx.limits().receive_maximum {
        large @ 5000.. => skip(format!("server announces a Receive Maximum of {large}")),
        small => Ok(small),
    }
}

/// Opens as many QoS 2 handshakes as the server takes, and leaves them open.
fn fill(ctx: &Ctx, client: &mut Client, window: u16) -> Result<()> {
    for id in 1..=window {
        client.send_publish(&Publish::new(ctx.topic("fill"), "x").qos(2, id))?;
        client.expect_ack(first::PUBREC, id)?.successful()?;
    }
    Ok(())
}

fn server_window_can_be_used_up(ctx: &Ctx) -> Result<()> {
    let window = server_window(ctx)?;
    let mut client = ctx.client("filler")?;
    fill(ctx, &mut client, window)?;
    client.publish(ctx.topic("fill"), 0, "needs no window")?;
    client.expect_silence()?;
    for id in 1..=window {
        client.send(&build::ack(first::PUBREL, id))?;
        client.expect_ack(first::PUBCOMP, id)?.successful()?;
    }
    Ok(())
}

/// More messages on one connection than any window, one after the other.
fn server_window_is_restored(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let mut client = ctx.client("steady")?;
    let topic = ctx.topic("steady");
    for qos in 1..=ctx.limits().maximum_qos {
        publish_all(ctx, &mut client, qos, numbered(&topic, 1..=1500)).with_context(|| format!("QoS {qos}"))?;
    }
    client.expect_silence()
}

fn server_window_is_restored_after_reconnecting(ctx: &Ctx) -> Result<()> {
    let window = server_window(ctx)?;
    for _ in 0..2 {
        let mut client = ctx.client("filler")?;
        fill(ctx, &mut client, window)?;
        client.cut()?;
    }
    Ok(())
}

fn exceeding_the_server_window_closes(ctx: &Ctx) -> Result<()> {
    let window = server_window(ctx)?;
    let mut client = ctx.client("filler")?;
    fill(ctx, &mut client, window)?;
    client.send_publish(&Publish::new(ctx.topic("fill"), "too many").qos(2, window + 1))?;
    if let Some(notice) = client.expect_closed().with_context(|| format!("{window} were open already"))? {
        ensure!(notice.reason == 0x93, "DISCONNECT {:#04x} instead of 0x93", notice.reason);
    }
    Ok(())
}
