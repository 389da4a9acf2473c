//! Owns the tests of messages that are on their way when the broker's process ends: queued, in flight, in the middle of a
//! handshake. Their table is in `restart`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::common::{nothing_but_marker, user_property};
use super::flows::{
    need_qos, need_retain, need_shared, numbered, numbers, payloads, publish_all, receive, receive_until,
};
use super::restart::{DOWN, back, durable, durable_subscriber, leave};
use crate::client::{Client, Event};
use crate::context::Ctx;
use crate::wire::build::{self, Props, Publish};
use crate::wire::read::{Message, Packet};
use crate::wire::{first, prop};

/// Messages published in one go.
const MANY: usize = 30;

/// A receiver of a fresh topic, whose session is kept, and that topic.
fn receiver(ctx: &Ctx, qos: u8) -> Result<(Client, String)> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("kept");
    Ok((durable_subscriber(ctx, "receiver", &topic, qos)?, topic))
}

/// The same, with a message that has been sent to it and not acknowledged.
fn in_flight(ctx: &Ctx, qos: u8) -> Result<(Client, String, Message)> {
    let (mut receiver, topic) = receiver(ctx, qos)?;
    ctx.client("sender")?.publish(&topic, qos, "x")?;
    let message = receiver.expect_message(&topic, "x")?;
    Ok((receiver, topic, message))
}

/// The message comes as it came before, as a repetition.
fn comes_again(receiver: &mut Client, before: &Message) -> Result<Message> {
    let again = receiver.expect_publish()?;
    let is_same = again.topic == before.topic && again.payload == before.payload && again.qos == before.qos;
    ensure!(is_same && again.id == before.id, "sent as {before:02x?}, sent again as {again:02x?}");
    ensure!(again.dup, "sent again without DUP");
    Ok(again)
}

fn end(ctx: &Ctx, mut receiver: Client, topic: &str) -> Result<()> {
    nothing_but_marker(&mut ctx.client("marker")?, &mut receiver, topic)?;
    leave(ctx, "receiver", receiver)
}

pub(super) fn queued_messages_are_kept(ctx: &Ctx) -> Result<()> {
    queue_and_restart(ctx, 1)
}

pub(super) fn queued_messages_outlive_two_restarts(ctx: &Ctx) -> Result<()> {
    queue_and_restart(ctx, 2)
}

/// One receiver for each QoS, away while messages of that QoS are published before, between and after the restarts.
fn queue_and_restart(ctx: &Ctx, restarts: usize) -> Result<()> {
    need_qos(ctx, 1)?;
    let qos_all = 1..=ctx.limits().maximum_qos;
    let place = |qos: u8| (format!("away{qos}"), ctx.topic(&format!("queue/{qos}")));
    for qos in qos_all.clone() {
        let (tag, topic) = place(qos);
        durable_subscriber(ctx, &tag, &topic, qos)?.disconnect()?;
    }
    let send = |part: usize| {
        let mut sender = ctx.client("sender")?;
        for qos in qos_all.clone() {
            publish_all(ctx, &mut sender, qos, numbered(&place(qos).1, part * MANY + 1..=(part + 1) * MANY))?;
        }
        sender.disconnect()
    };
    for part in 0..restarts {
        send(part)?;
        ctx.restart(Duration::ZERO)?;
    }
    send(restarts)?;
    let due = MANY * (restarts + 1);
    for qos in qos_all.clone() {
        let (tag, topic) = place(qos);
        let mut client = back(ctx, &tag)?;
        let messages = receive(&mut client, due)?;
        let found = payloads(&messages);
        ensure!(found == numbers(1..=due), "QoS {qos}: {due} messages were queued, these came: {found:?}");
        ensure!(messages.iter().all(|message| message.qos == qos && !message.dup), "QoS {qos}: {messages:02x?}");
        nothing_but_marker(&mut ctx.client("marker")?, &mut client, &topic)?;
        leave(ctx, &tag, client)?;
    }
    Ok(())
}

pub(super) fn message_properties_are_kept(ctx: &Ctx) -> Result<()> {
    let (client, topic) = receiver(ctx, 1)?;
    client.disconnect()?;
    let props = user_property("b", "2")
        .pair("a", "1")
        .pair("b", "2")
        .byte(prop::PAYLOAD_FORMAT, 1)
        .text(prop::CONTENT_TYPE, "text/plain")
        .text(prop::RESPONSE_TOPIC, "answers/here")
        .text(prop::CORRELATION_DATA, [0, 0xFF, 1]);
    ctx.client("sender")?.publish_packet(Publish::new(&topic, "x").props(props), 1)?;
    ctx.restart(Duration::ZERO)?;
    let mut client = back(ctx, "receiver")?;
    let message = client.expect_message(&topic, "x")?;
    client.acknowledge(&message)?;
    let found = &message.props;
    ensure!(found.pairs() == [("b", "2"), ("a", "1"), ("b", "2")], "User Properties are {:?}", found.pairs());
    ensure!(found.number(prop::PAYLOAD_FORMAT) == Some(1), "Payload Format Indicator is lost");
    ensure!(found.text(prop::CONTENT_TYPE) == Some("text/plain"), "Content Type is lost");
    ensure!(found.text(prop::RESPONSE_TOPIC) == Some("answers/here"), "Response Topic is lost");
    ensure!(found.binary(prop::CORRELATION_DATA) == Some(&[0, 0xFF, 1]), "Correlation Data is lost");
    end(ctx, client, &topic)
}

pub(super) fn message_expiry_counts_meanwhile(ctx: &Ctx) -> Result<()> {
    const LONG: u32 = 1000;
    let (client, topic) = receiver(ctx, 1)?;
    client.disconnect()?;
    let mut sender = ctx.client("sender")?;
    for (payload, seconds) in [("short", 1), ("long", LONG)] {
        let props = Props::new().four(prop::MESSAGE_EXPIRY, seconds);
        sender.publish_packet(Publish::new(&topic, payload).props(props), 1)?;
    }
    ctx.restart(DOWN)?;
    let mut client = back(ctx, "receiver")?;
    let message = client.expect_message(&topic, "long").context("the other message has expired")?;
    client.acknowledge(&message)?;
    let left = message.props.number(prop::MESSAGE_EXPIRY).context("Message Expiry Interval is lost")?;
    let due = LONG - 60..LONG;
    ensure!(due.contains(&left), "{left} of {LONG} s are left of its expiry after more than a second");
    end(ctx, client, &topic)
}

/// A window of two is full, and more messages wait behind it.
pub(super) fn in_flight_messages_come_before_the_queue(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("kept");
    let window = Props::new().two(prop::RECEIVE_MAXIMUM, 2);
    let mut client = ctx.connect(&ctx.v5("receiver").props(window).session_expiry(300))?;
    client.subscribe(&topic, 1)?;
    publish_all(ctx, &mut ctx.client("sender")?, 1, numbered(&topic, 1..=6))?;
    let before = [client.expect_message(&topic, "1")?, client.expect_message(&topic, "2")?];
    ctx.restart(Duration::ZERO)?;
    drop(client);
    let mut client = back(ctx, "receiver")?;
    for message in &before {
        let again = comes_again(&mut client, message)?;
        client.acknowledge(&again)?;
    }
    let found = payloads(&receive(&mut client, 4)?);
    ensure!(found == numbers(3..=6), "behind the two in flight came {found:?}");
    end(ctx, client, &topic)
}

fn in_flight_is_sent_again(ctx: &Ctx, qos: u8) -> Result<()> {
    let (connected, topic, before) = in_flight(ctx, qos)?;
    ctx.restart(Duration::ZERO)?;
    drop(connected);
    let mut client = back(ctx, "receiver")?;
    let again = comes_again(&mut client, &before)?;
    client.acknowledge(&again)?;
    end(ctx, client, &topic)
}

pub(super) fn qos1_in_flight_is_sent_again(ctx: &Ctx) -> Result<()> {
    in_flight_is_sent_again(ctx, 1)
}

pub(super) fn qos2_in_flight_is_sent_again(ctx: &Ctx) -> Result<()> {
    in_flight_is_sent_again(ctx, 2)
}

/// After a crash the message may come again: at least once is what QoS 1 promises.
pub(super) fn acknowledged_qos1_is_done(ctx: &Ctx) -> Result<()> {
    let (mut client, topic, message) = in_flight(ctx, 1)?;
    client.acknowledge(&message)?;
    client.expect_silence()?;
    client.disconnect()?;
    ctx.restart(Duration::ZERO)?;
    let mut client = back(ctx, "receiver")?;
    let mut sender = ctx.client("marker")?;
    sender.publish(&topic, 0, "marker")?;
    let mut next = client.expect_publish()?;
    if ctx.is_crash() && next.dup {
        client.acknowledge(&next)?;
        next = client.expect_publish()?;
    }
    ensure!(next.payload == b"marker", "an acknowledged message was sent again: {next:02x?}");
    client.expect_silence()?;
    leave(ctx, "receiver", client)
}

pub(super) fn qos2_pubrel_is_sent_again(ctx: &Ctx) -> Result<()> {
    let (mut connected, topic, message) = in_flight(ctx, 2)?;
    connected.send(&build::ack(first::PUBREC, message.id))?;
    connected.expect_ack(first::PUBREL, message.id)?.successful()?;
    ctx.restart(Duration::ZERO)?;
    drop(connected);
    let mut client = back(ctx, "receiver")?;
    client.expect_ack(first::PUBREL, message.id)?.successful()?;
    client.send(&build::ack(first::PUBCOMP, message.id))?;
    end(ctx, client, &topic)
}

/// A repeated PUBREL does no harm, and a crash may have taken the PUBCOMP with it; a repeated PUBLISH would be taken for a new
/// message.
pub(super) fn completed_qos2_is_done(ctx: &Ctx) -> Result<()> {
    let (mut client, topic, message) = in_flight(ctx, 2)?;
    client.acknowledge(&message)?;
    client.expect_silence()?;
    client.disconnect()?;
    ctx.restart(Duration::ZERO)?;
    let mut client = back(ctx, "receiver")?;
    client.send(&build::pingreq())?;
    match client.next_event()? {
        Event::Packet(Packet::Ack(ack)) if ctx.is_crash() && ack.first == first::PUBREL && ack.id == message.id => {
            client.send(&build::ack(first::PUBCOMP, message.id))?;
            client.expect_pingresp()?;
        }
        Event::Packet(Packet::Pingresp) => {}
        other => anyhow::bail!("expected nothing of the completed exchange, got {other:02x?}"),
    }
    end(ctx, client, &topic)
}

/// A sender whose session is kept, with a message of QoS 2 that the broker has taken over and not released, and an
/// identifier for it. Its receiver is away.
fn received_qos2(ctx: &Ctx) -> Result<(Client, String, u16)> {
    const ID: u16 = 4321;
    let (receiver, topic) = receiver(ctx, 2)?;
    receiver.disconnect()?;
    let mut sender = durable(ctx, "sender")?;
    sender.send_publish(&Publish::new(&topic, "x").qos(2, ID))?;
    sender.expect_ack(first::PUBREC, ID)?.successful()?;
    Ok((sender, topic, ID))
}

/// Exactly the one message has reached the receiver; it and the sender leave.
fn delivered_once(ctx: &Ctx, sender: Client, topic: &str) -> Result<()> {
    leave(ctx, "sender", sender)?;
    let mut client = back(ctx, "receiver")?;
    let message = client.expect_message(topic, "x")?;
    client.acknowledge(&message)?;
    end(ctx, client, topic)
}

fn release(sender: &mut Client, id: u16) -> Result<()> {
    sender.send(&build::ack(first::PUBREL, id))?;
    sender.expect_ack(first::PUBCOMP, id)?.successful()
}

pub(super) fn qos2_repetition_is_not_delivered_twice(ctx: &Ctx) -> Result<()> {
    let (connected, topic, id) = received_qos2(ctx)?;
    ctx.restart(Duration::ZERO)?;
    drop(connected);
    let mut sender = back(ctx, "sender")?;
    sender.send_publish(&Publish::new(&topic, "x").qos(2, id).dup())?;
    sender.expect_ack(first::PUBREC, id)?.successful()?;
    release(&mut sender, id)?;
    delivered_once(ctx, sender, &topic)
}

pub(super) fn qos2_release_is_answered_afterwards(ctx: &Ctx) -> Result<()> {
    let (connected, topic, id) = received_qos2(ctx)?;
    ctx.restart(Duration::ZERO)?;
    drop(connected);
    let mut sender = back(ctx, "sender")?;
    release(&mut sender, id)?;
    delivered_once(ctx, sender, &topic)
}

pub(super) fn qos2_identifier_is_new_after_pubcomp(ctx: &Ctx) -> Result<()> {
    let (mut connected, topic, id) = received_qos2(ctx)?;
    release(&mut connected, id)?;
    ctx.restart(Duration::ZERO)?;
    drop(connected);
    let mut sender = back(ctx, "sender")?;
    sender.send_publish(&Publish::new(&topic, "y").qos(2, id))?;
    sender.expect_ack(first::PUBREC, id)?.successful()?;
    release(&mut sender, id)?;
    leave(ctx, "sender", sender)?;
    let mut client = back(ctx, "receiver")?;
    let found = payloads(&receive(&mut client, 2)?);
    ensure!(found == ["x", "y"], "two messages had the same identifier, one after the other; these came: {found:?}");
    end(ctx, client, &topic)
}

/// It was sent because of a new subscription, and the retained message itself is gone by now.
pub(super) fn retained_message_in_flight_is_sent_again(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    need_qos(ctx, 2)?;
    let topic = ctx.topic("kept");
    let mut sender = ctx.client("sender")?;
    sender.publish_packet(Publish::new(&topic, "x").retain(), 2)?;
    let mut connected = durable_subscriber(ctx, "receiver", &topic, 2)?;
    let before = connected.expect_message(&topic, "x")?;
    connected.unsubscribe(&topic)?;
    sender.publish_packet(Publish::new(&topic, "").retain(), 2)?;
    ctx.restart(Duration::ZERO)?;
    drop(connected);
    let mut client = back(ctx, "receiver")?;
    let again = comes_again(&mut client, &before)?;
    client.acknowledge(&again)?;
    client.expect_silence()?;
    leave(ctx, "receiver", client)
}

/// Nobody of the group is there when the messages come, and not all of it afterwards.
pub(super) fn shared_subscription_keeps_its_queue(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    need_qos(ctx, 1)?;
    let topic = ctx.topic("shared");
    let members = ["one", "two"];
    for tag in members {
        let mut member = durable_subscriber(ctx, tag, &format!("$share/group/{topic}"), 1)?;
        member.subscribe(ctx.topic(tag), 1)?;
        member.disconnect()?;
    }
    publish_all(ctx, &mut ctx.client("sender")?, 1, numbered(&topic, 1..=MANY))?;
    ctx.restart(Duration::ZERO)?;
    let mut found = Vec::new();
    for tag in members {
        let mut member = back(ctx, tag)?;
        ctx.client("sender")?.publish(ctx.topic(tag), 1, "marker")?;
        found.extend(payloads(&receive_until(&mut member, &ctx.topic(tag))?));
        leave(ctx, tag, member)?;
    }
    found.sort_by_key(|number| number.parse::<usize>().unwrap_or(0));
    ensure!(
        found == numbers(1..=MANY),
        "{MANY} messages were queued for the group; its members got, sorted, {found:?}"
    );
    Ok(())
}

pub(super) fn shared_qos2_in_flight_stays_with_its_member(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    need_qos(ctx, 2)?;
    let (topic, marker) = (ctx.topic("shared"), ctx.topic("marker"));
    let filter = format!("$share/group/{topic}");
    let mut chosen = durable_subscriber(ctx, "chosen", &filter, 2)?;
    ctx.client("sender")?.publish(&topic, 2, "x")?;
    let before = chosen.expect_message(&topic, "x")?;
    let mut other = durable_subscriber(ctx, "other", &filter, 2)?;
    other.subscribe(&marker, 0)?;
    ctx.restart(Duration::ZERO)?;
    drop((chosen, other));
    let mut other = back(ctx, "other")?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut other, &marker)
        .context("another member got what had been sent to the first")?;
    let mut chosen = back(ctx, "chosen")?;
    let again = comes_again(&mut chosen, &before)?;
    chosen.acknowledge(&again)?;
    chosen.expect_silence()?;
    leave(ctx, "chosen", chosen)?;
    leave(ctx, "other", other)
}
