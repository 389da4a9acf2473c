//! Owns the tests of section 3.3 about delivery to subscribers: overlapping subscriptions, subscription identifiers and
//! the Receive Maximum. Never tests how subscriptions are made.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::common::subscriber;
use super::s3_03_publish::{end_session, need_qos, resumed};
use super::s3_03_retain::need_retain;
use crate::client::Client;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{self, Props, Publish, Subscribe, Unsubscribe};
use crate::wire::read::Message;
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.3-delivery",
    title: "PUBLISH: overlapping subscriptions, identifiers, windows",
    tests: {
        overlapping_subscriptions_deliver_at_the_highest_qos => ["MQTT-3.3.4-2"],
        overlapping_subscriptions_never_exceed_the_published_qos => ["MQTT-3.3.4-2"],
        subscription_identifier_is_sent => ["MQTT-3.3.4-3"],
        largest_subscription_identifier_is_sent => ["MQTT-3.3.4-3"],
        subscription_without_identifier_sends_none => ["MQTT-3.3.4-3", "MQTT-3.3.4-5"],
        identifiers_belong_to_their_client => ["MQTT-3.3.4-3"],
        identifier_counts_for_every_filter_of_its_packet => ["MQTT-3.3.4-3"],
        overlapping_subscriptions_send_all_identifiers => ["MQTT-3.3.4-3", "MQTT-3.3.4-4", "MQTT-3.3.4-5"],
        overlapping_subscription_without_identifier_adds_none => ["MQTT-3.3.4-4", "MQTT-3.3.4-5"],
        identifier_of_a_removed_subscription_is_not_sent => ["MQTT-3.3.4-4", "MQTT-3.3.4-5"],
        identifier_is_replaced_by_subscribing_again => ["MQTT-3.3.4-3"],
        identifier_is_sent_with_queued_messages => ["MQTT-3.3.4-3"],
        identifier_is_sent_with_retained_messages => ["MQTT-3.3.4-3"],
        window_limits_qos1 => ["MQTT-3.3.4-9"],
        window_limits_qos2_until_pubcomp => ["MQTT-3.3.4-9"],
        window_counts_qos1_and_qos2_together => ["MQTT-3.3.4-9"],
        window_limits_queued_messages => ["MQTT-3.3.4-9"],
        window_limits_resent_messages => ["MQTT-3.3.4-9"],
        window_is_freed_one_by_one => ["MQTT-3.3.4-9"],
        full_window_does_not_delay_pingresp => ["MQTT-3.3.4-10"],
        full_window_does_not_delay_suback_and_unsuback => ["MQTT-3.3.4-10"],
        full_window_does_not_delay_puback => ["MQTT-3.3.4-10"],
        full_window_does_not_delay_the_qos2_handshake => ["MQTT-3.3.4-10"],
        full_window_of_one_client_does_not_delay_another => ["MQTT-3.3.4-10"],
        more_than_the_receive_maximum_of_the_server_closes => ["MQTT-4.13.1-1"],
    },
    unobservable: {},
};

/// Publishes "x" and collects its copies (one, or one for each subscription), until a marker on a topic of its own
/// arrives behind them. Nothing is acknowledged, so that no PUBREL comes in between.
fn copies(ctx: &Ctx, client: &mut Client, topic: &str, qos: u8) -> Result<Vec<Message>> {
    let marker = ctx.topic("end-of-copies");
    client.subscribe(&marker, qos)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish(topic, qos, "x")?;
    publisher.publish(&marker, qos, "marker")?;
    publisher.disconnect()?;
    let mut found = Vec::new();
    loop {
        let message = client.expect_publish()?;
        if message.topic == marker {
            ensure!(!found.is_empty(), "the message was not delivered at all");
            return Ok(found);
        }
        ensure!(message.topic == topic, "a message on {:?}, which nobody published", message.topic);
        found.push(message);
    }
}

/// Two filters for one topic: the topic itself, and a wildcard.
fn overlapping(ctx: &Ctx) -> Result<(String, [String; 2])> {
    if !ctx.limits().wildcards {
        return skip("server announces Wildcard Subscription Available 0");
    }
    let topic = ctx.topic("over/lap");
    Ok((topic.clone(), [topic, ctx.topic("over/#")]))
}

fn overlapping_subscriptions_deliver_at_the_highest_qos(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let maximum = ctx.limits().maximum_qos;
    let (topic, [exact, broad]) = overlapping(ctx)?;
    for (exact_qos, broad_qos) in [(0, maximum), (maximum, 0), (1, maximum), (maximum, 1), (0, 1), (1, 0)] {
        let mut client = ctx.client("watcher")?;
        client.subscribe(&exact, exact_qos)?;
        client.subscribe(&broad, broad_qos)?;
        let found: Vec<u8> = copies(ctx, &mut client, &topic, maximum)?.iter().map(|message| message.qos).collect();
        let highest = exact_qos.max(broad_qos);
        ensure!(
            found.iter().max() == Some(&highest),
            "granted {exact_qos} and {broad_qos}, delivered with QoS {found:?}"
        );
        client.disconnect()?;
    }
    Ok(())
}

fn overlapping_subscriptions_never_exceed_the_published_qos(ctx: &Ctx) -> Result<()> {
    let maximum = ctx.limits().maximum_qos;
    let (topic, filters) = overlapping(ctx)?;
    let mut client = ctx.client("watcher")?;
    for filter in &filters {
        client.subscribe(filter, maximum)?;
    }
    for qos in 0..=maximum {
        let found: Vec<u8> = copies(ctx, &mut client, &topic, qos)?.iter().map(|message| message.qos).collect();
        ensure!(found.iter().all(|each| *each == qos), "published with QoS {qos}, delivered with {found:?}");
    }
    Ok(())
}

fn need_identifiers(ctx: &Ctx) -> Result<()> {
    if ctx.limits().subscription_ids { Ok(()) } else { skip("server announces Subscription Identifiers Available 0") }
}

fn identified(client: &mut Client, filters: &[&str], options: u8, identifier: u32) -> Result<()> {
    let props = Props::new().varint(prop::SUBSCRIPTION_ID, identifier);
    let empty = Subscribe::new(client.next_id()).props(props);
    let subscribe = filters.iter().fold(empty, |subscribe, filter| subscribe.filter(filter, options));
    let answer = client.subscribe_packet(&subscribe)?;
    ensure!(answer.reasons.iter().all(|reason| *reason < 0x80), "SUBACK reason codes {:02x?}", answer.reasons);
    Ok(())
}

fn identifiers(message: &Message) -> Vec<u32> {
    message.props.numbers(prop::SUBSCRIPTION_ID)
}

fn expect_identifiers(client: &mut Client, topic: &str, payload: &str, expected: &[u32]) -> Result<Message> {
    let message = client.expect_message(topic, payload)?;
    let found = identifiers(&message);
    ensure!(found == expected, "subscription identifiers {found:?}, expected {expected:?}");
    Ok(message)
}

fn subscription_identifier_is_sent(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let topic = ctx.topic("id");
    let mut client = ctx.client("watcher")?;
    for identifier in [1, 127, 128, 16_383, 16_384, 2_097_152] {
        identified(&mut client, &[&topic], 0, identifier)?;
        client.send_publish(&Publish::new(&topic, "x"))?;
        expect_identifiers(&mut client, &topic, "x", &[identifier])?;
        client.unsubscribe(&topic)?;
    }
    Ok(())
}

fn largest_subscription_identifier_is_sent(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let topic = ctx.topic("id");
    let mut client = ctx.client("watcher")?;
    identified(&mut client, &[&topic], 0, 268_435_455)?;
    client.send_publish(&Publish::new(&topic, "x"))?;
    expect_identifiers(&mut client, &topic, "x", &[268_435_455]).map(drop)
}

fn subscription_without_identifier_sends_none(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let [with, without] = ["with", "without"].map(|name| ctx.topic(name));
    let mut client = ctx.client("watcher")?;
    identified(&mut client, &[&with], 0, 7)?;
    client.subscribe(&without, 0)?;
    client.send_publish(&Publish::new(&without, "x"))?;
    expect_identifiers(&mut client, &without, "x", &[]).map(drop)
}

fn identifiers_belong_to_their_client(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let topic = ctx.topic("shared-topic");
    let mut clients = [ctx.client("one")?, ctx.client("two")?, ctx.client("none")?];
    identified(&mut clients[0], &[&topic], 0, 1)?;
    identified(&mut clients[1], &[&topic], 0, 2)?;
    clients[2].subscribe(&topic, 0)?;
    ctx.client("publisher")?.publish(&topic, 0, "x")?;
    for (client, expected) in clients.iter_mut().zip([&[1][..], &[2], &[]]) {
        expect_identifiers(client, &topic, "x", expected)?;
    }
    Ok(())
}

fn identifier_counts_for_every_filter_of_its_packet(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let topics = ["a", "b", "c"].map(|name| ctx.topic(name));
    let mut client = ctx.client("watcher")?;
    identified(&mut client, &[&topics[0], &topics[1], &topics[2]], 0, 42)?;
    for topic in &topics {
        client.send_publish(&Publish::new(topic, "x"))?;
        expect_identifiers(&mut client, topic, "x", &[42])?;
    }
    Ok(())
}

/// One copy with all identifiers, or one copy for each subscription: then each has its own.
fn check_copies(found: &[Message], expected: &[u32], subscriptions: usize) -> Result<()> {
    let lists: Vec<Vec<u32>> = found.iter().map(identifiers).collect();
    let all: BTreeSet<u32> = lists.iter().flatten().copied().collect();
    let wanted: BTreeSet<u32> = expected.iter().copied().collect();
    ensure!(all == wanted, "copies came with subscription identifiers {lists:?}, expected {expected:?}");
    ensure!(found.len() <= subscriptions, "{} copies for {subscriptions} subscriptions", found.len());
    if found.len() == subscriptions && subscriptions > 1 {
        ensure!(
            lists.iter().all(|list| list.len() <= 1) && lists.iter().flatten().count() == expected.len(),
            "with one copy per subscription each has only its own identifier, but they came with {lists:?}"
        );
    }
    Ok(())
}

fn overlapping_subscriptions_send_all_identifiers(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let (topic, [exact, broad]) = overlapping(ctx)?;
    for qos in 0..=ctx.limits().maximum_qos {
        let mut client = ctx.client("watcher")?;
        identified(&mut client, &[&exact], qos, 10)?;
        identified(&mut client, &[&broad], qos, 300)?;
        let found = copies(ctx, &mut client, &topic, qos)?;
        check_copies(&found, &[10, 300], 2).with_context(|| format!("QoS {qos}"))?;
        client.disconnect()?;
    }
    Ok(())
}

fn overlapping_subscription_without_identifier_adds_none(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let (topic, [exact, broad]) = overlapping(ctx)?;
    let mut client = ctx.client("watcher")?;
    identified(&mut client, &[&exact], 0, 10)?;
    client.subscribe(&broad, 0)?;
    check_copies(&copies(ctx, &mut client, &topic, 0)?, &[10], 2)
}

fn identifier_of_a_removed_subscription_is_not_sent(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let (topic, [exact, broad]) = overlapping(ctx)?;
    let mut client = ctx.client("watcher")?;
    identified(&mut client, &[&exact], 0, 10)?;
    identified(&mut client, &[&broad], 0, 300)?;
    client.unsubscribe(&exact)?;
    check_copies(&copies(ctx, &mut client, &topic, 0)?, &[300], 1)
}

fn identifier_is_replaced_by_subscribing_again(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    let topic = ctx.topic("again");
    let mut client = ctx.client("watcher")?;
    identified(&mut client, &[&topic], 0, 10)?;
    identified(&mut client, &[&topic], 0, 11)?;
    client.send_publish(&Publish::new(&topic, "one"))?;
    expect_identifiers(&mut client, &topic, "one", &[11])?;
    client.subscribe(&topic, 0)?;
    client.send_publish(&Publish::new(&topic, "two"))?;
    expect_identifiers(&mut client, &topic, "two", &[]).map(drop)
}

fn identifier_is_sent_with_queued_messages(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    let connect = ctx.v5("away").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    identified(&mut client, &[&topic], 1, 77)?;
    client.disconnect()?;
    ctx.client("publisher")?.publish(&topic, 1, "x")?;
    let mut client = resumed(ctx, &connect.resume())?;
    let message = expect_identifiers(&mut client, &topic, "x", &[77])?;
    client.acknowledge(&message)?;
    client.disconnect()?;
    end_session(ctx, "away")
}

fn identifier_is_sent_with_retained_messages(ctx: &Ctx) -> Result<()> {
    need_identifiers(ctx)?;
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut client = ctx.client("watcher")?;
    client.send_publish(&Publish::new(&topic, "kept").retain())?;
    client.expect_silence()?;
    identified(&mut client, &[&topic], 0, 77)?;
    expect_identifiers(&mut client, &topic, "kept", &[77])?;
    super::common::clear_retained(ctx, &topic)
}

/// A subscriber with this Receive Maximum; the audit fails on a message too many.
fn narrow(ctx: &Ctx, window: u16, topic: &str, qos: u8) -> Result<Client> {
    need_qos(ctx, qos)?;
    let mut client = ctx.connect(&ctx.v5("narrow").props(Props::new().two(prop::RECEIVE_MAXIMUM, window)))?;
    client.subscribe(topic, qos)?;
    Ok(client)
}

fn publish_numbers(ctx: &Ctx, topic: &str, qos: u8, count: u32) -> Result<()> {
    let mut publisher = ctx.client("publisher")?;
    (0..count).try_for_each(|number| publisher.publish(topic, qos, number.to_string()))?;
    publisher.disconnect()
}

/// Receives `window` messages at a time, and nothing more before they are acknowledged.
fn drain(client: &mut Client, topic: &str, window: u32, count: u32) -> Result<()> {
    let mut open = Vec::new();
    for number in 0..count {
        open.push(client.expect_message(topic, number.to_string())?);
        if open.len() as u32 == window {
            client.expect_silence().with_context(|| format!("{window} messages are open"))?;
            open.drain(..).try_for_each(|message| client.acknowledge(&message))?;
        }
    }
    open.drain(..).try_for_each(|message| client.acknowledge(&message))?;
    client.expect_silence()
}

fn window_limits_qos1(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("window");
    for window in [1, 2, 5] {
        let mut client = narrow(ctx, window, &topic, 1)?;
        publish_numbers(ctx, &topic, 1, 12)?;
        let mut open = Vec::new();
        for number in 0..window {
            open.push(client.expect_message(&topic, number.to_string())?);
        }
        client.expect_silence().with_context(|| format!("Receive Maximum {window}"))?;
        client.disconnect()?;
    }
    let mut client = narrow(ctx, 1, &topic, 1)?;
    publish_numbers(ctx, &topic, 1, 5)?;
    drain(&mut client, &topic, 1, 5)
}

fn window_limits_qos2_until_pubcomp(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("window");
    let mut client = narrow(ctx, 1, &topic, 2)?;
    publish_numbers(ctx, &topic, 2, 3)?;
    for number in 0..3 {
        let message = client.expect_message(&topic, number.to_string())?;
        client.send(&build::ack(first::PUBREC, message.id))?;
        client.expect_ack(first::PUBREL, message.id)?;
        client.expect_silence().context("PUBCOMP has not been sent yet")?;
        client.send(&build::ack(first::PUBCOMP, message.id))?;
    }
    client.expect_silence()
}

fn window_counts_qos1_and_qos2_together(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("mixed");
    let mut client = narrow(ctx, 2, &topic, 2)?;
    let mut publisher = ctx.client("publisher")?;
    for (qos, payload) in [(1, "a"), (2, "b"), (1, "c"), (2, "d")] {
        publisher.publish(&topic, qos, payload)?;
    }
    client.expect_message(&topic, "a")?;
    client.expect_message(&topic, "b")?;
    client.expect_silence().context("one message of QoS 1 and one of QoS 2 are open")
}

fn window_limits_queued_messages(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    let props = Props::new().two(prop::RECEIVE_MAXIMUM, 2).four(prop::SESSION_EXPIRY, 30);
    let connect = ctx.v5("narrow").props(props);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 1)?;
    client.disconnect()?;
    publish_numbers(ctx, &topic, 1, 7)?;
    let mut client = resumed(ctx, &connect.resume())?;
    let first_two = [client.expect_message(&topic, "0")?, client.expect_message(&topic, "1")?];
    client.expect_silence().context("two messages are open")?;
    first_two.iter().try_for_each(|message| client.acknowledge(message))?;
    for number in 2..7 {
        let message = client.expect_message(&topic, number.to_string())?;
        client.acknowledge(&message)?;
    }
    client.expect_silence()?;
    client.disconnect()?;
    end_session(ctx, "narrow")
}

/// Three messages are open when the connection is lost; the next connection allows one at a time.
fn window_limits_resent_messages(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("resent");
    let connect = ctx.v5("narrow").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 1)?;
    publish_numbers(ctx, &topic, 1, 3)?;
    for number in 0..3 {
        client.expect_message(&topic, number.to_string())?;
    }
    client.cut()?;
    let props = Props::new().two(prop::RECEIVE_MAXIMUM, 1).four(prop::SESSION_EXPIRY, 30);
    let mut client = resumed(ctx, &connect.props(props).resume())?;
    for number in 0..3 {
        let message = client.expect_message(&topic, number.to_string())?;
        client.expect_silence().context("one message is open")?;
        client.acknowledge(&message)?;
    }
    client.expect_silence()?;
    client.disconnect()?;
    end_session(ctx, "narrow")
}

fn window_is_freed_one_by_one(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("steps");
    let mut client = narrow(ctx, 3, &topic, 1)?;
    publish_numbers(ctx, &topic, 1, 6)?;
    let mut open = Vec::new();
    for number in 0..3 {
        open.push(client.expect_message(&topic, number.to_string())?);
    }
    for number in 3..6 {
        client.expect_silence()?;
        let oldest = open.remove(0);
        client.acknowledge(&oldest)?;
        open.push(client.expect_message(&topic, number.to_string())?);
    }
    Ok(())
}

/// A client whose window of one is full; more messages wait for it.
fn stuck(ctx: &Ctx) -> Result<Client> {
    let topic = ctx.topic("stuck");
    let mut client = narrow(ctx, 1, &topic, 1)?;
    publish_numbers(ctx, &topic, 1, 3)?;
    client.expect_message(&topic, "0")?;
    Ok(client)
}

fn full_window_does_not_delay_pingresp(ctx: &Ctx) -> Result<()> {
    let mut client = stuck(ctx)?;
    client.expect_silence()?;
    client.expect_silence()
}

fn full_window_does_not_delay_suback_and_unsuback(ctx: &Ctx) -> Result<()> {
    let mut client = stuck(ctx)?;
    let topic = ctx.topic("other");
    client.subscribe(&topic, 1)?;
    client.send(&Unsubscribe::new(9).filter(&topic).bytes(V5))?;
    client.expect_unsuback(9).map(drop)
}

fn full_window_does_not_delay_puback(ctx: &Ctx) -> Result<()> {
    let mut client = stuck(ctx)?;
    client.publish(ctx.topic("upstream"), 1, "x")
}

fn full_window_does_not_delay_the_qos2_handshake(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut client = stuck(ctx)?;
    client.publish(ctx.topic("upstream"), 2, "x")
}

fn full_window_of_one_client_does_not_delay_another(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("stuck");
    need_qos(ctx, 1)?;
    let mut other = subscriber(ctx, "other", &topic, 1)?;
    let mut client = stuck(ctx)?;
    for number in 0..3 {
        other.expect_message(&topic, number.to_string())?;
    }
    client.expect_silence()
}

/// QoS 2 messages stay open as long as no PUBREL is sent.
fn more_than_the_receive_maximum_of_the_server_closes(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let maximum = ctx.limits().receive_maximum;
    if maximum > 5000 {
        return skip(format!("server announces Receive Maximum {maximum}"));
    }
    let topic = ctx.topic("flood");
    let mut client = ctx.client("offender")?;
    for id in 1..=maximum {
        client.send_publish(&Publish::new(&topic, "x").qos(2, id))?;
        client.expect_ack(first::PUBREC, id)?.successful()?;
    }
    client.send_publish(&Publish::new(&topic, "x").qos(2, maximum + 1))?;
    client.expect_closed().map(drop)
}
