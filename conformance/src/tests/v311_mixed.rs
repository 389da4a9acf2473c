//! Owns the tests in which MQTT 5 and MQTT 3.1.1 (or 3.1) clients meet on one broker. What each hears has to be right in
//! its own version; the reader and the audit judge that on every connection.

use anyhow::{Context, Result, ensure};

use super::common::{clear_retained, subscriber};
use super::s3_03_publish::need_qos;
use super::s3_03_retain::need_retain;
use super::v311_connect::{client, end_session, leave_session, only_marker, resumed, watcher};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::{V5, V31, V311};
use crate::wire::build::{Props, Publish, Subscribe, Will};
use crate::wire::prop;

/// The section.
pub const SECTION: Section = section! {
    prefix: "v311-mixed",
    title: "MQTT 5 and MQTT 3.1.1 on one broker",
    tests: {
        every_version_hears_every_other => ["MQTT311-3.3.2-3", "MQTT311-4.5.0-1", "MQTT-3.3.2-3", "MQTT-4.5.0-1"],
        properties_do_not_reach_old_clients => ["MQTT311-3.3.2-1", "MQTT-3.3.2-1"],
        messages_of_old_clients_have_no_foreign_properties => ["MQTT-2.2.2-1"],
        alias_is_resolved_for_old_clients => ["MQTT-3.3.2-12", "MQTT311-3.3.2-3"],
        identifier_of_a_new_client_does_not_reach_an_old_one => ["MQTT311-3.3.2-1"],
        retained_message_crosses_from_new_to_old => ["MQTT311-3.3.1-6", "MQTT311-3.3.1-8"],
        retained_message_crosses_from_old_to_new => ["MQTT-3.3.1-5", "MQTT-3.3.1-9"],
        old_client_deletes_the_retained_message_of_a_new_one => ["MQTT311-3.3.1-10"],
        will_of_an_old_client_reaches_a_new_one => ["MQTT311-3.1.2-8"],
        will_of_a_new_client_reaches_an_old_one => ["MQTT-3.1.2-8"],
        queued_message_of_a_new_client_reaches_an_old_one => ["MQTT311-3.1.2-5"],
        retain_flag_follows_each_version => ["MQTT-3.3.1-13", "MQTT311-3.3.1-9"],
        new_client_takes_over_from_an_old_one => ["MQTT-3.1.4-3"],
        old_client_takes_over_from_a_new_one => ["MQTT311-3.1.4-2"],
    },
    unobservable: {},
};

fn every_version_hears_every_other(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("all");
    for qos in 0..=ctx.limits().maximum_qos {
        let mut receivers = Vec::new();
        for (version, tag) in [(V5, "r5"), (V311, "r311"), (V31, "r31")] {
            let mut receiver = ctx.connect(&ctx.connect_packet(version, tag))?;
            receiver.subscribe(&topic, qos)?;
            receivers.push((version, receiver));
        }
        for version in [V5, V311, V31] {
            let payload = format!("from {version:?}");
            ctx.connect(&ctx.connect_packet(version, "sender"))?.publish(&topic, qos, &payload)?;
            for (to, receiver) in &mut receivers {
                let message =
                    receiver.expect_message(&topic, &payload).with_context(|| format!("{payload} to {to:?}"))?;
                ensure!(message.qos == qos, "{payload} to {to:?}: QoS {} instead of {qos}", message.qos);
                receiver.acknowledge(&message)?;
            }
        }
        receivers.into_iter().try_for_each(|(_, receiver)| receiver.disconnect())?;
    }
    Ok(())
}

/// Properties would show up as additional payload.
fn properties_do_not_reach_old_clients(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("props");
    let props = Props::new()
        .byte(prop::PAYLOAD_FORMAT, 1)
        .four(prop::MESSAGE_EXPIRY, 1000)
        .text(prop::CONTENT_TYPE, "text/plain")
        .text(prop::RESPONSE_TOPIC, "answers/here")
        .text(prop::CORRELATION_DATA, "x")
        .pair("name", "value");
    for qos in 0..=ctx.limits().maximum_qos {
        let mut receiver = watcher(ctx, "receiver", &topic, qos)?;
        ctx.client("sender")?.publish_packet(Publish::new(&topic, "payload").props(props.clone()), qos)?;
        let message = receiver.expect_message(&topic, "payload")?;
        receiver.acknowledge(&message)?;
        receiver.expect_silence()?;
        receiver.disconnect()?;
    }
    Ok(())
}

fn messages_of_old_clients_have_no_foreign_properties(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("bare");
    for qos in 0..=ctx.limits().maximum_qos {
        let mut receiver = subscriber(ctx, "receiver", &topic, qos)?;
        client(ctx, "sender")?.publish(&topic, qos, [0, 1, 2])?;
        let message = receiver.expect_message(&topic, [0, 1, 2])?;
        for id in [prop::RESPONSE_TOPIC, prop::CORRELATION_DATA, prop::USER_PROPERTY, prop::CONTENT_TYPE] {
            ensure!(!message.props.has(id), "property {id:#04x} was added");
        }
        receiver.acknowledge(&message)?;
        receiver.disconnect()?;
    }
    Ok(())
}

fn alias_is_resolved_for_old_clients(ctx: &Ctx) -> Result<()> {
    if ctx.limits().topic_alias_maximum == 0 {
        return skip("server announces Topic Alias Maximum 0");
    }
    let topic = ctx.topic("alias");
    let mut receiver = watcher(ctx, "receiver", &topic, 0)?;
    let mut sender = ctx.client("sender")?;
    for (name, payload) in [(topic.as_str(), "named"), ("", "by alias")] {
        let props = Props::new().two(prop::TOPIC_ALIAS, 1);
        sender.send_publish(&Publish::new(name, payload).props(props))?;
        receiver.expect_message(&topic, payload)?;
    }
    Ok(())
}

fn identifier_of_a_new_client_does_not_reach_an_old_one(ctx: &Ctx) -> Result<()> {
    if !ctx.limits().subscription_ids {
        return skip("server announces Subscription Identifiers Available 0");
    }
    let topic = ctx.topic("id");
    let mut old = watcher(ctx, "old", &topic, 0)?;
    let mut new = ctx.client("new")?;
    new.subscribe_packet(&Subscribe::new(1).filter(&topic, 0).props(Props::new().varint(prop::SUBSCRIPTION_ID, 9)))?;
    new.publish(&topic, 0, "x")?;
    let message = new.expect_message(&topic, "x")?;
    ensure!(message.props.number(prop::SUBSCRIPTION_ID) == Some(9), "the new client lost its identifier");
    old.expect_message(&topic, "x").map(drop)
}

fn retained_message_crosses_from_new_to_old(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut sender = ctx.client("sender")?;
    let props = Props::new().pair("name", "value").four(prop::MESSAGE_EXPIRY, 1000);
    sender.publish_packet(Publish::new(&topic, "kept").retain().props(props), ctx.limits().maximum_qos)?;
    sender.expect_silence()?;
    let message = watcher(ctx, "late", &topic, 0)?.expect_message(&topic, "kept")?;
    ensure!(message.retain, "retain is 0");
    clear_retained(ctx, &topic)
}

fn retained_message_crosses_from_old_to_new(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut sender = client(ctx, "sender")?;
    sender.publish_packet(Publish::new(&topic, "kept").retain(), ctx.limits().maximum_qos)?;
    sender.expect_silence()?;
    let message = subscriber(ctx, "late", &topic, 0)?.expect_message(&topic, "kept")?;
    ensure!(message.retain, "retain is 0");
    clear_retained(ctx, &topic)
}

fn old_client_deletes_the_retained_message_of_a_new_one(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut new = ctx.client("new")?;
    new.send_publish(&Publish::new(&topic, "kept").retain())?;
    new.expect_silence()?;
    let mut old = client(ctx, "old")?;
    old.send_publish(&Publish::new(&topic, "").retain())?;
    old.expect_silence()?;
    only_marker(ctx, &mut subscriber(ctx, "late", &topic, 0)?, &topic)
}

fn will_of_an_old_client_reaches_a_new_one(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("will");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    ctx.connect(&ctx.v311("doomed").will(Will::new(&topic, "gone")))?.cut()?;
    watcher.expect_message(&topic, "gone").map(drop)
}

fn will_of_a_new_client_reaches_an_old_one(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("will");
    let mut watcher = watcher(ctx, "watcher", &topic, 0)?;
    let will = Will::new(&topic, "gone").props(Props::new().text(prop::CONTENT_TYPE, "text/plain").pair("a", "b"));
    ctx.connect(&ctx.v5("doomed").will(will))?.cut()?;
    watcher.expect_message(&topic, "gone").map(drop)
}

fn queued_message_of_a_new_client_reaches_an_old_one(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    let connect = leave_session(ctx, "away", &topic, 1)?;
    let props = Props::new().four(prop::MESSAGE_EXPIRY, 1000).pair("name", "value");
    ctx.client("sender")?.publish_packet(Publish::new(&topic, "x").props(props), 1)?;
    let mut receiver = resumed(ctx, &connect)?;
    let message = receiver.expect_message(&topic, "x")?;
    receiver.acknowledge(&message)?;
    receiver.disconnect()?;
    end_session(ctx, "away")
}

/// Retain As Published exists in MQTT 5 only.
fn retain_flag_follows_each_version(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("live");
    let mut old = watcher(ctx, "old", &topic, 0)?;
    let mut new = ctx.client("new")?;
    new.subscribe_packet(&Subscribe::new(1).filter(&topic, 0x08))?;
    client(ctx, "sender")?.publish_packet(Publish::new(&topic, "x").retain(), 0)?;
    ensure!(!old.expect_message(&topic, "x")?.retain, "the MQTT 3.1.1 client sees retain 1");
    ensure!(new.expect_message(&topic, "x")?.retain, "the MQTT 5 client with Retain As Published sees retain 0");
    clear_retained(ctx, &topic)
}

fn new_client_takes_over_from_an_old_one(ctx: &Ctx) -> Result<()> {
    let mut old = client(ctx, "same")?;
    let mut new = ctx.client("same")?;
    old.expect_closed()?;
    new.expect_silence()
}

fn old_client_takes_over_from_a_new_one(ctx: &Ctx) -> Result<()> {
    let mut old = ctx.client("same")?;
    let mut new = client(ctx, "same")?;
    old.expect_closed()?;
    new.expect_silence()
}
