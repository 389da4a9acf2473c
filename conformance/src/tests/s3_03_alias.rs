//! Owns the tests of section 3.3 about topic aliases in both directions. That a server uses none unasked is section 3.1's.

use anyhow::{Context, Result, ensure};

use super::common::{nothing_but_marker, subscriber};
use super::s3_03_publish::need_qos;
use crate::client::Client;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::build::{Props, Publish};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.3-alias",
    title: "PUBLISH: topic aliases",
    tests: {
        every_alias_up_to_the_maximum_is_accepted => ["MQTT-3.3.2-12"],
        alias_stands_for_its_topic => ["MQTT-3.3.2-12"],
        alias_works_at_every_qos => ["MQTT-3.3.2-12"],
        alias_can_be_given_another_topic => ["MQTT-3.3.2-12"],
        one_topic_can_have_two_aliases => ["MQTT-3.3.2-12"],
        alias_with_a_retained_message_stores_its_topic => ["MQTT-3.3.2-12", "MQTT-3.3.1-5"],
        alias_zero_closes => ["MQTT-3.3.2-8", "MQTT-4.13.1-1"],
        alias_above_the_maximum_closes => ["MQTT-4.13.1-1"],
        alias_without_a_topic_closes => ["MQTT-4.13.1-1"],
        alias_given_twice_closes => ["MQTT-4.13.1-1"],
        aliases_end_with_the_connection => ["MQTT-3.3.2-7"],
        aliases_end_with_the_connection_on_takeover => ["MQTT-3.3.2-7"],
        aliases_of_two_clients_are_apart => ["MQTT-3.3.2-7"],
        alias_of_the_publisher_is_not_passed_on => ["MQTT-3.3.2-11", "MQTT-3.3.2-7"],
        aliases_of_the_server_stay_within_the_maximum => ["MQTT-3.3.2-11", "MQTT-3.3.2-8"],
        aliases_of_the_server_start_anew_on_each_connection => ["MQTT-3.3.2-7"],
    },
    unobservable: {},
};

/// The server's Topic Alias Maximum; skips the test if it is less than `least`.
fn maximum(ctx: &Ctx, least: u16) -> Result<u16> {
    let maximum = ctx.limits().topic_alias_maximum;
    if maximum < least { skip(format!("server announces Topic Alias Maximum {maximum}")) } else { Ok(maximum) }
}

/// A QoS 0 message with an alias; an empty topic uses what the alias stands for.
fn aliased(topic: &str, alias: u16, payload: &str) -> Publish {
    Publish::new(topic, payload).props(Props::new().two(prop::TOPIC_ALIAS, alias))
}

fn send(client: &mut Client, topic: &str, alias: u16, payload: &str) -> Result<()> {
    client.send_publish(&aliased(topic, alias, payload))
}

/// All of the first 50, and then ever fewer; a broker may allow 65,535.
fn every_alias_up_to_the_maximum_is_accepted(ctx: &Ctx) -> Result<()> {
    let maximum = maximum(ctx, 1)?;
    let topic = ctx.topic("all");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let mut client = ctx.client("sender")?;
    let far = [127, 128, 255, 256, 1000, 32_767, 32_768, 65_534, maximum - 1];
    let chosen = (1..=50).chain(far).filter(|alias| (1..maximum).contains(alias)).chain([maximum]);
    for alias in chosen {
        send(&mut client, &topic, alias, "named")?;
        send(&mut client, "", alias, "by alias")?;
        client.expect_silence().with_context(|| format!("alias {alias}"))?;
        watcher.expect_message(&topic, "named")?;
        watcher.expect_message(&topic, "by alias").with_context(|| format!("alias {alias}"))?;
    }
    Ok(())
}

fn alias_stands_for_its_topic(ctx: &Ctx) -> Result<()> {
    let count = maximum(ctx, 2)?.min(5);
    let mut client = ctx.client("sender")?;
    let topics: Vec<String> = (1..=count).map(|alias| ctx.topic(&format!("alias{alias}"))).collect();
    for topic in &topics {
        client.subscribe(topic, 0)?;
    }
    for (alias, topic) in (1..).zip(&topics) {
        send(&mut client, topic, alias, "named")?;
        client.expect_message(topic, "named")?;
    }
    for (alias, topic) in (1..=count).zip(&topics).rev() {
        send(&mut client, "", alias, "by alias")?;
        client.expect_message(topic, "by alias")?;
    }
    Ok(())
}

fn alias_works_at_every_qos(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 1)?;
    let topic = ctx.topic("qos");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    for qos in 0..=ctx.limits().maximum_qos {
        let mut client = ctx.client("sender")?;
        client.publish_packet(aliased(&topic, 1, "named"), qos)?;
        client.publish_packet(aliased("", 1, "by alias"), qos)?;
        watcher.expect_message(&topic, "named")?;
        watcher.expect_message(&topic, "by alias").with_context(|| format!("QoS {qos}"))?;
        client.disconnect()?;
    }
    Ok(())
}

fn alias_can_be_given_another_topic(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 1)?;
    let topics = ["old", "new"].map(|name| ctx.topic(name));
    let mut client = ctx.client("sender")?;
    for topic in &topics {
        client.subscribe(topic, 0)?;
    }
    for topic in &topics {
        send(&mut client, topic, 1, "named")?;
        client.expect_message(topic, "named")?;
        send(&mut client, "", 1, "by alias")?;
        client.expect_message(topic, "by alias")?;
    }
    Ok(())
}

fn one_topic_can_have_two_aliases(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 2)?;
    let topic = ctx.topic("both");
    let mut client = subscriber(ctx, "sender", &topic, 0)?;
    for alias in [1, 2] {
        send(&mut client, &topic, alias, "named")?;
        client.expect_message(&topic, "named")?;
    }
    for alias in [1, 2] {
        send(&mut client, "", alias, "by alias")?;
        client.expect_message(&topic, "by alias")?;
    }
    Ok(())
}

fn alias_with_a_retained_message_stores_its_topic(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 1)?;
    super::s3_03_retain::need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut client = ctx.client("sender")?;
    send(&mut client, &topic, 1, "named")?;
    client.send_publish(&aliased("", 1, "kept").retain())?;
    client.expect_silence()?;
    subscriber(ctx, "late", &topic, 0)?.expect_message(&topic, "kept")?;
    super::common::clear_retained(ctx, &topic)
}

fn alias_zero_closes(ctx: &Ctx) -> Result<()> {
    for topic in [&ctx.topic("zero"), ""] {
        let mut client = ctx.client("offender")?;
        send(&mut client, topic, 0, "x")?;
        client.expect_closed()?;
    }
    Ok(())
}

fn alias_above_the_maximum_closes(ctx: &Ctx) -> Result<()> {
    let maximum = maximum(ctx, 0)?;
    let Some(next) = maximum.checked_add(1) else {
        return skip("server accepts every alias");
    };
    for alias in [next, u16::MAX] {
        let mut client = ctx.client("offender")?;
        send(&mut client, &ctx.topic("above"), alias, "x")?;
        client.expect_closed().with_context(|| format!("alias {alias}, maximum {maximum}"))?;
    }
    Ok(())
}

fn alias_without_a_topic_closes(ctx: &Ctx) -> Result<()> {
    let maximum = maximum(ctx, 1)?;
    let mut client = ctx.client("offender")?;
    send(&mut client, "", maximum, "x")?;
    client.expect_closed().map(drop)
}

fn alias_given_twice_closes(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 1)?;
    let props = Props::new().two(prop::TOPIC_ALIAS, 1).two(prop::TOPIC_ALIAS, 1);
    let mut client = ctx.client("offender")?;
    client.send_publish(&Publish::new(ctx.topic("twice"), "x").props(props))?;
    client.expect_closed().map(drop)
}

fn aliases_end_with_the_connection(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 1)?;
    let topic = ctx.topic("gone");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let connect = ctx.v5("sender").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    send(&mut client, &topic, 1, "named")?;
    client.expect_silence()?;
    watcher.expect_message(&topic, "named")?;
    client.cut()?;
    let mut client = ctx.connect(&connect.resume())?;
    send(&mut client, "", 1, "by alias")?;
    client.expect_closed().context("the alias was never set on this connection")?;
    nothing_but_marker(&mut ctx.client("marker")?, &mut watcher, &topic)?;
    ctx.client("sender")?.disconnect()
}

fn aliases_end_with_the_connection_on_takeover(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 1)?;
    let topic = ctx.topic("taken");
    let connect = ctx.v5("sender").session_expiry(30);
    let mut old = ctx.connect(&connect)?;
    send(&mut old, &topic, 1, "named")?;
    old.expect_silence()?;
    let mut new = ctx.connect(&connect.resume())?;
    send(&mut new, "", 1, "by alias")?;
    new.expect_closed().context("the alias was never set on this connection")?;
    ctx.client("sender")?.disconnect()
}

fn aliases_of_two_clients_are_apart(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 1)?;
    let topics = ["one", "two"].map(|name| ctx.topic(name));
    let mut one = subscriber(ctx, "one", &topics[0], 0)?;
    let mut two = subscriber(ctx, "two", &topics[1], 0)?;
    send(&mut one, &topics[0], 1, "named")?;
    one.expect_message(&topics[0], "named")?;
    send(&mut two, &topics[1], 1, "named")?;
    two.expect_message(&topics[1], "named")?;
    send(&mut one, "", 1, "by alias")?;
    one.expect_message(&topics[0], "by alias")?;
    send(&mut two, "", 1, "by alias")?;
    two.expect_message(&topics[1], "by alias")?;
    Ok(())
}

/// The audit refuses any alias towards a client that allowed none.
fn alias_of_the_publisher_is_not_passed_on(ctx: &Ctx) -> Result<()> {
    maximum(ctx, 1)?;
    let topic = ctx.topic("hidden");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let mut client = ctx.client("sender")?;
    send(&mut client, &topic, 1, "named")?;
    send(&mut client, "", 1, "by alias")?;
    for payload in ["named", "by alias"] {
        let message = watcher.expect_message(&topic, payload)?;
        ensure!(!message.props.has(prop::TOPIC_ALIAS), "the publisher's alias was passed on");
    }
    Ok(())
}

/// The audit checks every alias, and resolves it.
fn aliases_of_the_server_stay_within_the_maximum(ctx: &Ctx) -> Result<()> {
    for limit in [1, 2, u16::MAX] {
        let props = Props::new().two(prop::TOPIC_ALIAS_MAXIMUM, limit);
        let mut client = ctx.connect(&ctx.v5("receiver").props(props))?;
        let topics: Vec<String> = (0..4).map(|index| ctx.topic(&format!("server{index}"))).collect();
        for topic in &topics {
            client.subscribe(topic, 0)?;
        }
        for payload in ["one", "two", "three"] {
            for topic in &topics {
                client.publish(topic, 0, payload)?;
                client.expect_message(topic, payload)?;
            }
        }
        client.disconnect()?;
    }
    Ok(())
}

/// The second connection has an audit of its own, which knows no alias of the first.
fn aliases_of_the_server_start_anew_on_each_connection(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("anew");
    let props = Props::new().two(prop::TOPIC_ALIAS_MAXIMUM, 10).four(prop::SESSION_EXPIRY, 30);
    let connect = ctx.v5("receiver").props(props);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish(&topic, 1, "one")?;
    publisher.publish(&topic, 1, "two")?;
    let message = client.expect_message(&topic, "one")?;
    client.acknowledge(&message)?;
    client.expect_message(&topic, "two")?;
    client.cut()?;
    publisher.publish(&topic, 1, "three")?;
    let mut client = ctx.connect(&connect.resume())?;
    for payload in ["two", "three"] {
        let message = client.expect_message(&topic, payload)?;
        client.send(&crate::wire::build::ack(first::PUBACK, message.id))?;
    }
    client.disconnect()?;
    ctx.client("receiver")?.disconnect()
}
