//! Owns what the tests of subscriptions and delivery share: what a broker must offer, and ends that send and receive many
//! messages at once. Never a whole test.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};

use crate::client::{Client, Event};
use crate::context::{Ctx, skip};
use crate::wire::Version;
use crate::wire::build::{self, Props, Publish};
use crate::wire::read::{Message, Packet};
use crate::wire::{first, prop};

fn need(offered: bool, property: &str) -> Result<()> {
    if offered { Ok(()) } else { skip(format!("server announces {property} 0")) }
}

/// Skips unless the broker has `qos`.
pub fn need_qos(ctx: &Ctx, qos: u8) -> Result<()> {
    let maximum = ctx.limits().maximum_qos;
    if maximum < qos { skip(format!("server announces Maximum QoS {maximum}")) } else { Ok(()) }
}

/// Skips unless the broker retains messages.
pub fn need_retain(ctx: &Ctx) -> Result<()> {
    need(ctx.limits().retain, "Retain Available")
}

/// Skips unless the broker has wildcard subscriptions.
pub fn need_wildcards(ctx: &Ctx) -> Result<()> {
    need(ctx.limits().wildcards, "Wildcard Subscription Available")
}

/// Skips unless the broker has shared subscriptions.
pub fn need_shared(ctx: &Ctx) -> Result<()> {
    need(ctx.limits().shared, "Shared Subscription Available")
}

/// Skips unless the broker has subscription identifiers.
pub fn need_subscription_ids(ctx: &Ctx) -> Result<()> {
    need(ctx.limits().subscription_ids, "Subscription Identifiers Available")
}

/// A client with the smallest Maximum Packet Size the broker can answer at all; the audit holds the broker to it.
pub fn small_client(ctx: &Ctx, tag: &str) -> Result<Client> {
    for bytes in [12, 16, 20, 24, 32, 40, 48, 64] {
        let mut client = ctx.open(Version::V5)?;
        client.send_connect(&ctx.v5(tag).props(Props::new().four(prop::MAXIMUM_PACKET_SIZE, bytes)))?;
        match client.next_event()? {
            Event::Packet(Packet::Connack(connack)) if connack.reason == 0 => return Ok(client),
            Event::Packet(Packet::Connack(_)) | Event::Closed => {}
            Event::Packet(other) => bail!("expected CONNACK, got {other:02x?}"),
        }
    }
    skip("server accepts no client with a Maximum Packet Size of 64 or less")
}

/// How many QoS 1 and 2 messages may be on their way to the broker at once: at most `wanted`.
pub fn window(ctx: &Ctx, wanted: usize) -> usize {
    wanted.min(ctx.limits().receive_maximum.into())
}

/// Publishes all with `qos` and fresh identifiers, as many at once as the broker takes, and completes every handshake.
pub fn publish_all(ctx: &Ctx, client: &mut Client, qos: u8, messages: Vec<Publish>) -> Result<()> {
    for batch in messages.chunks(window(ctx, 20)) {
        let mut bytes = Vec::new();
        let mut open = HashSet::new();
        for message in batch {
            let id = if qos > 0 { client.next_id() } else { 0 };
            bytes.extend(message.clone().qos(qos, id).bytes(Version::V5));
            open.insert(id);
        }
        client.send(&bytes)?;
        while qos > 0 && !open.is_empty() {
            complete_one(client, &mut open)?;
        }
    }
    Ok(())
}

/// Takes one step of one of the publishing handshakes in `open`.
fn complete_one(client: &mut Client, open: &mut HashSet<u16>) -> Result<()> {
    match client.next_event().context("waiting for an acknowledgement")? {
        Event::Packet(Packet::Ack(ack)) if open.contains(&ack.id) => {
            ack.successful()?;
            if ack.first == first::PUBREC {
                return client.send(&build::ack(first::PUBREL, ack.id));
            }
            open.remove(&ack.id);
            Ok(())
        }
        other => bail!("expected an acknowledgement, got {other:02x?}"),
    }
}

/// Receives `count` messages and acknowledges each, in the order of their arrival, handshakes completed.
pub fn receive(client: &mut Client, count: usize) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    receive_while(client, |message| {
        messages.push(message);
        messages.len() < count
    })
    .with_context(|| format!("{count} messages are due"))?;
    Ok(messages)
}

/// Receives and acknowledges messages until one with the topic `marker` has come, which is not among those returned.
pub fn receive_until(client: &mut Client, marker: &str) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    receive_while(client, |message| {
        let go_on = message.topic != marker;
        if go_on {
            messages.push(message);
        }
        go_on
    })?;
    Ok(messages)
}

fn receive_while(client: &mut Client, mut keep: impl FnMut(Message) -> bool) -> Result<()> {
    let (mut go_on, mut open) = (true, HashSet::new());
    while go_on || !open.is_empty() {
        match client.next_event().context("waiting for messages")? {
            Event::Packet(Packet::Publish(message)) => {
                ensure!(go_on, "a message too many: {message:02x?}");
                match message.qos {
                    0 => {}
                    1 => client.send(&build::ack(first::PUBACK, message.id))?,
                    _ => {
                        client.send(&build::ack(first::PUBREC, message.id))?;
                        open.insert(message.id);
                    }
                }
                go_on = keep(message);
            }
            Event::Packet(Packet::Ack(ack)) if ack.first == first::PUBREL && open.remove(&ack.id) => {
                client.send(&build::ack(first::PUBCOMP, ack.id))?;
            }
            other => bail!("expected a message, got {other:02x?}"),
        }
    }
    Ok(())
}

/// The payloads as text.
pub fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

/// `first..=last` as text, which is what numbered messages have for payloads.
pub fn numbers(range: std::ops::RangeInclusive<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// One message to `topic` for each number.
pub fn numbered(topic: &str, range: std::ops::RangeInclusive<usize>) -> Vec<Publish> {
    numbers(range).iter().map(|number| Publish::new(topic, number)).collect()
}

/// Ends the session of the client id behind `tag`.
pub fn forget(ctx: &Ctx, tag: &str) -> Result<()> {
    ctx.client(tag)?.disconnect()
}
