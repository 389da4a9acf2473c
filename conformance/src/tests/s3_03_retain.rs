//! Owns the tests of section 3.3 about retained messages: what is stored, who gets it, and with which flag. Never tests
//! the retained messages of wills.

use anyhow::{Context, Result, ensure};

use super::common::{clear_retained, nothing_but_marker, subscriber};
use super::s3_03_publish::{end_session, resumed};
use crate::client::Client;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::build::{Publish, Subscribe};

/// Retain As Published, in the subscription options.
const RETAIN_AS_PUBLISHED: u8 = 0x08;
/// Retain Handling 1: only for new subscriptions.
const ONLY_IF_NEW: u8 = 0x10;
/// Retain Handling 2: never.
const NEVER: u8 = 0x20;

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.3-retain",
    title: "PUBLISH: retained messages",
    tests: {
        retained_message_is_sent_to_new_subscribers => ["MQTT-3.3.1-5", "MQTT-3.3.1-9"],
        retained_message_outlives_its_publisher => ["MQTT-3.3.1-5"],
        retained_message_is_stored_without_subscribers => ["MQTT-3.3.1-5"],
        retained_message_is_replaced => ["MQTT-3.3.1-5"],
        retained_message_keeps_its_qos => ["MQTT-3.3.1-5"],
        retained_messages_are_kept_by_topic => ["MQTT-3.3.1-5"],
        retained_messages_match_wildcards => ["MQTT-3.3.1-9"],
        empty_payload_deletes_the_retained_message => ["MQTT-3.3.1-6"],
        empty_payload_deletes_at_every_qos => ["MQTT-3.3.1-6"],
        empty_retained_message_is_delivered => ["MQTT-3.3.1-6"],
        empty_payload_deletes_no_other_topic => ["MQTT-3.3.1-6"],
        empty_message_is_not_retained => ["MQTT-3.3.1-7"],
        message_without_retain_is_not_stored => ["MQTT-3.3.1-8"],
        message_without_retain_replaces_nothing => ["MQTT-3.3.1-8"],
        empty_message_without_retain_deletes_nothing => ["MQTT-3.3.1-8"],
        handling_0_sends_again_on_resubscribing => ["MQTT-3.3.1-9"],
        handling_0_has_retain_set => ["MQTT-3.3.1-9"],
        handling_1_sends_to_a_new_subscription => ["MQTT-3.3.1-10"],
        handling_1_is_silent_on_resubscribing => ["MQTT-3.3.1-10"],
        handling_1_is_silent_when_options_change => ["MQTT-3.3.1-10"],
        handling_1_sends_after_unsubscribing => ["MQTT-3.3.1-10"],
        handling_1_remembers_a_resumed_session => ["MQTT-3.3.1-10"],
        handling_2_is_silent => ["MQTT-3.3.1-11"],
        handling_2_still_gets_new_messages => ["MQTT-3.3.1-11", "MQTT-3.3.1-12"],
        handling_counts_for_each_filter => ["MQTT-3.3.1-9", "MQTT-3.3.1-11"],
        live_messages_have_retain_0 => ["MQTT-3.3.1-12"],
        retain_as_published_keeps_the_flag => ["MQTT-3.3.1-13"],
        retain_as_published_counts_for_each_client => ["MQTT-3.3.1-12", "MQTT-3.3.1-13"],
        queued_messages_have_retain_0 => ["MQTT-3.3.1-12"],
        queued_messages_keep_the_flag_as_published => ["MQTT-3.3.1-13"],
    },
    unobservable: {},
};

/// Skips the test if the broker retains nothing.
pub fn need_retain(ctx: &Ctx) -> Result<()> {
    if ctx.limits().retain { Ok(()) } else { skip("server announces Retain Available 0") }
}

/// Sends a retained message of the given QoS and leaves.
fn retain(ctx: &Ctx, topic: &str, qos: u8, payload: &str) -> Result<()> {
    let mut client = ctx.client("retainer")?;
    client.publish_packet(Publish::new(topic, payload).retain(), qos)?;
    client.expect_silence()?;
    client.disconnect()
}

/// A topic with the retained message "kept".
fn scene(ctx: &Ctx) -> Result<String> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    retain(ctx, &topic, 0, "kept")?;
    Ok(topic)
}

/// A new client subscribes with these options.
fn subscribe(ctx: &Ctx, tag: &str, filter: &str, options: u8) -> Result<Client> {
    let mut client = ctx.client(tag)?;
    resubscribe(&mut client, filter, options)?;
    Ok(client)
}

fn resubscribe(client: &mut Client, filter: &str, options: u8) -> Result<()> {
    let id = client.next_id();
    let answer = client.subscribe_packet(&Subscribe::new(id).filter(filter, options))?;
    ensure!(answer.reasons == [options & 3], "SUBACK reason codes {:02x?}", answer.reasons);
    Ok(())
}

/// A new subscriber gets exactly this retained message, with retain 1.
fn finds(ctx: &Ctx, topic: &str, payload: &str) -> Result<()> {
    let mut client = subscribe(ctx, "finder", topic, 0)?;
    let message = client.expect_message(topic, payload)?;
    ensure!(message.retain, "the retained message sent for a new subscription has retain 0");
    nothing_but_marker(&mut ctx.client("marker")?, &mut client, topic)?;
    client.disconnect()
}

/// A new subscriber gets nothing.
fn finds_nothing(ctx: &Ctx, topic: &str) -> Result<()> {
    let mut client = subscribe(ctx, "finder", topic, 0)?;
    only_marker(ctx, &mut client, topic)?;
    client.disconnect()
}

/// Nothing has come for the last SUBSCRIBE.
fn only_marker(ctx: &Ctx, client: &mut Client, topic: &str) -> Result<()> {
    nothing_but_marker(&mut ctx.client("marker")?, client, topic)
}

fn retained_message_is_sent_to_new_subscribers(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    finds(ctx, &topic, "kept")?;
    finds(ctx, &topic, "kept").context("the second subscriber")?;
    clear_retained(ctx, &topic)
}

fn retained_message_outlives_its_publisher(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("outlives");
    let mut client = ctx.client("brief")?;
    client.send_publish(&Publish::new(&topic, "kept").retain())?;
    client.expect_silence()?;
    client.cut()?;
    finds(ctx, &topic, "kept")?;
    clear_retained(ctx, &topic)
}

/// The same, with a subscriber that came and went before.
fn retained_message_is_stored_without_subscribers(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("lonely");
    subscriber(ctx, "early", &topic, 0)?.disconnect()?;
    retain(ctx, &topic, ctx.limits().maximum_qos, "kept")?;
    finds(ctx, &topic, "kept")?;
    clear_retained(ctx, &topic)
}

fn retained_message_is_replaced(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    for qos in (0..=ctx.limits().maximum_qos).rev() {
        let payload = format!("newer, QoS {qos}");
        retain(ctx, &topic, qos, &payload)?;
        finds(ctx, &topic, &payload)?;
    }
    clear_retained(ctx, &topic)
}

fn retained_message_keeps_its_qos(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("qos");
    for published in 0..=ctx.limits().maximum_qos {
        retain(ctx, &topic, published, "kept")?;
        for granted in 0..=ctx.limits().maximum_qos {
            let mut client = subscribe(ctx, "finder", &topic, granted)?;
            let message = client.expect_message(&topic, "kept")?;
            let expected = published.min(granted);
            ensure!(
                message.qos == expected,
                "published with QoS {published}, granted {granted}, sent with QoS {}",
                message.qos
            );
            client.acknowledge(&message)?;
            client.disconnect()?;
        }
    }
    clear_retained(ctx, &topic)
}

fn retained_messages_are_kept_by_topic(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topics = ["a", "A", "a/", "/a", "a/b"].map(|name| ctx.topic(name));
    for topic in &topics {
        retain(ctx, topic, 0, topic)?;
    }
    for topic in &topics {
        finds(ctx, topic, topic)?;
        clear_retained(ctx, topic)?;
    }
    Ok(())
}

fn retained_messages_match_wildcards(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    if !ctx.limits().wildcards {
        return skip("server announces Wildcard Subscription Available 0");
    }
    let topics = ["w/1/x", "w/2/x", "w/2/y", "w"].map(|name| ctx.topic(name));
    for topic in &topics {
        retain(ctx, topic, 0, topic)?;
    }
    for (filter, count) in [("w/#", 4), ("w/+/x", 2), ("w/2/+", 2), ("+", 1), ("w/+", 0), ("w/1/#", 1)] {
        let mut client = subscribe(ctx, "finder", &ctx.topic(filter), 0)?;
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(client.expect_publish().with_context(|| format!("filter {filter:?}"))?.topic);
        }
        client.expect_silence().with_context(|| format!("filter {filter:?}, after {found:?}"))?;
        found.sort();
        found.dedup();
        ensure!(found.len() == count, "filter {filter:?} found {found:?}");
        ensure!(found.iter().all(|topic| topics.contains(topic)), "filter {filter:?} found {found:?}");
        client.disconnect()?;
    }
    topics.iter().try_for_each(|topic| clear_retained(ctx, topic))
}

fn empty_payload_deletes_the_retained_message(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    retain(ctx, &topic, 0, "")?;
    finds_nothing(ctx, &topic)
}

fn empty_payload_deletes_at_every_qos(ctx: &Ctx) -> Result<()> {
    for qos in 0..=ctx.limits().maximum_qos {
        let topic = scene(ctx)?;
        retain(ctx, &topic, qos, "")?;
        finds_nothing(ctx, &topic).with_context(|| format!("QoS {qos}"))?;
    }
    Ok(())
}

fn empty_retained_message_is_delivered(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = subscribe(ctx, "watcher", &topic, NEVER)?;
    retain(ctx, &topic, 0, "")?;
    let message = client.expect_message(&topic, "")?;
    ensure!(!message.retain, "retain is 1 for an established subscription without Retain As Published");
    client.expect_silence()
}

fn empty_payload_deletes_no_other_topic(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    for other in [format!("{topic}/below"), ctx.topic("other"), format!("{topic}/"), ctx.topic("RETAINED")] {
        retain(ctx, &other, 0, "")?;
    }
    finds(ctx, &topic, "kept")?;
    clear_retained(ctx, &topic)
}

fn empty_message_is_not_retained(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("empty");
    for qos in 0..=ctx.limits().maximum_qos {
        retain(ctx, &topic, qos, "")?;
        finds_nothing(ctx, &topic)?;
    }
    Ok(())
}

fn message_without_retain_is_not_stored(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("passing");
    let mut client = ctx.client("publisher")?;
    for qos in 0..=ctx.limits().maximum_qos {
        client.publish(&topic, qos, "passing")?;
    }
    client.expect_silence()?;
    finds_nothing(ctx, &topic)
}

fn message_without_retain_replaces_nothing(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = ctx.client("publisher")?;
    for qos in 0..=ctx.limits().maximum_qos {
        client.publish(&topic, qos, "passing")?;
    }
    client.expect_silence()?;
    finds(ctx, &topic, "kept")?;
    clear_retained(ctx, &topic)
}

fn empty_message_without_retain_deletes_nothing(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = ctx.client("publisher")?;
    for qos in 0..=ctx.limits().maximum_qos {
        client.publish(&topic, qos, "")?;
    }
    client.expect_silence()?;
    finds(ctx, &topic, "kept")?;
    clear_retained(ctx, &topic)
}

fn handling_0_sends_again_on_resubscribing(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = subscribe(ctx, "twice", &topic, 0)?;
    client.expect_message(&topic, "kept")?;
    resubscribe(&mut client, &topic, 0)?;
    client.expect_message(&topic, "kept").context("after subscribing again")?;
    client.expect_silence()?;
    clear_retained(ctx, &topic)
}

fn handling_0_has_retain_set(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    for options in [0, RETAIN_AS_PUBLISHED] {
        let message = subscribe(ctx, "finder", &topic, options)?.expect_message(&topic, "kept")?;
        ensure!(message.retain, "retain is 0 in a retained message (options {options:#04x})");
    }
    clear_retained(ctx, &topic)
}

fn handling_1_sends_to_a_new_subscription(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = subscribe(ctx, "new", &topic, ONLY_IF_NEW)?;
    client.expect_message(&topic, "kept")?;
    client.expect_silence()?;
    clear_retained(ctx, &topic)
}

fn handling_1_is_silent_on_resubscribing(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = subscribe(ctx, "twice", &topic, ONLY_IF_NEW)?;
    client.expect_message(&topic, "kept")?;
    resubscribe(&mut client, &topic, ONLY_IF_NEW)?;
    only_marker(ctx, &mut client, &topic)?;
    clear_retained(ctx, &topic)
}

fn handling_1_is_silent_when_options_change(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = subscribe(ctx, "twice", &topic, 0)?;
    client.expect_message(&topic, "kept")?;
    resubscribe(&mut client, &topic, ONLY_IF_NEW | RETAIN_AS_PUBLISHED | ctx.limits().maximum_qos)?;
    only_marker(ctx, &mut client, &topic)?;
    clear_retained(ctx, &topic)
}

fn handling_1_sends_after_unsubscribing(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = subscribe(ctx, "again", &topic, ONLY_IF_NEW)?;
    client.expect_message(&topic, "kept")?;
    client.unsubscribe(&topic)?;
    resubscribe(&mut client, &topic, ONLY_IF_NEW)?;
    client.expect_message(&topic, "kept").context("the subscription was removed and is new")?;
    clear_retained(ctx, &topic)
}

fn handling_1_remembers_a_resumed_session(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let connect = ctx.v5("resumed").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    resubscribe(&mut client, &topic, NEVER)?;
    client.disconnect()?;
    let mut client = resumed(ctx, &connect.resume())?;
    resubscribe(&mut client, &topic, ONLY_IF_NEW)?;
    only_marker(ctx, &mut client, &topic)?;
    client.disconnect()?;
    end_session(ctx, "resumed")?;
    clear_retained(ctx, &topic)
}

fn handling_2_is_silent(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = subscribe(ctx, "never", &topic, NEVER)?;
    only_marker(ctx, &mut client, &topic)?;
    resubscribe(&mut client, &topic, NEVER)?;
    only_marker(ctx, &mut client, &topic)?;
    clear_retained(ctx, &topic)
}

fn handling_2_still_gets_new_messages(ctx: &Ctx) -> Result<()> {
    let topic = scene(ctx)?;
    let mut client = subscribe(ctx, "never", &topic, NEVER)?;
    retain(ctx, &topic, 0, "new")?;
    let message = client.expect_message(&topic, "new")?;
    ensure!(!message.retain, "retain is 1 for an established subscription without Retain As Published");
    clear_retained(ctx, &topic)
}

fn handling_counts_for_each_filter(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topics = ["zero", "one", "two"].map(|name| ctx.topic(name));
    for topic in &topics {
        retain(ctx, topic, 0, topic)?;
    }
    let mut client = ctx.client("mixed")?;
    let subscribe = Subscribe::new(9).filter(&topics[2], NEVER).filter(&topics[0], 0).filter(&topics[1], ONLY_IF_NEW);
    client.subscribe_packet(&subscribe)?;
    let mut found = vec![client.expect_publish()?.topic, client.expect_publish()?.topic];
    client.expect_silence()?;
    found.sort();
    ensure!(found == [topics[1].clone(), topics[0].clone()], "retained messages of {found:?} were sent");
    topics.iter().try_for_each(|topic| clear_retained(ctx, topic))
}

/// Sends a live message with and without retain and returns the flags a subscriber with these options sees.
fn live_flags(ctx: &Ctx, topic: &str, client: &mut Client) -> Result<[bool; 2]> {
    let mut publisher = ctx.client("publisher")?;
    publisher.publish_packet(Publish::new(topic, "with").retain(), 0)?;
    publisher.publish(topic, 0, "without")?;
    publisher.disconnect()?;
    Ok([client.expect_message(topic, "with")?.retain, client.expect_message(topic, "without")?.retain])
}

fn live_messages_have_retain_0(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("live");
    let mut client = subscribe(ctx, "watcher", &topic, 0)?;
    let flags = live_flags(ctx, &topic, &mut client)?;
    ensure!(flags == [false, false], "retain is {flags:?} for messages published with retain 1 and 0");
    clear_retained(ctx, &topic)
}

fn retain_as_published_keeps_the_flag(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("live");
    let mut client = subscribe(ctx, "watcher", &topic, RETAIN_AS_PUBLISHED)?;
    let flags = live_flags(ctx, &topic, &mut client)?;
    ensure!(flags == [true, false], "retain is {flags:?} for messages published with retain 1 and 0");
    clear_retained(ctx, &topic)
}

fn retain_as_published_counts_for_each_client(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("live");
    let mut plain = subscribe(ctx, "plain", &topic, 0)?;
    let mut keeping = subscribe(ctx, "keeping", &topic, RETAIN_AS_PUBLISHED)?;
    retain(ctx, &topic, 0, "new")?;
    ensure!(!plain.expect_message(&topic, "new")?.retain, "retain is 1 without Retain As Published");
    ensure!(keeping.expect_message(&topic, "new")?.retain, "retain is 0 with Retain As Published");
    clear_retained(ctx, &topic)
}

/// The retain flag of a message published with retain 1 while the subscriber was away.
fn queued_flag(ctx: &Ctx, options: u8) -> Result<bool> {
    need_retain(ctx)?;
    super::s3_03_publish::need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    let connect = ctx.v5("away").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    resubscribe(&mut client, &topic, options | 1)?;
    client.disconnect()?;
    retain(ctx, &topic, 1, "x")?;
    let mut client = resumed(ctx, &connect.resume())?;
    let message = client.expect_message(&topic, "x")?;
    client.acknowledge(&message)?;
    client.disconnect()?;
    end_session(ctx, "away")?;
    clear_retained(ctx, &topic)?;
    Ok(message.retain)
}

fn queued_messages_have_retain_0(ctx: &Ctx) -> Result<()> {
    ensure!(!queued_flag(ctx, 0)?, "retain is 1 without Retain As Published");
    Ok(())
}

fn queued_messages_keep_the_flag_as_published(ctx: &Ctx) -> Result<()> {
    ensure!(queued_flag(ctx, RETAIN_AS_PUBLISHED)?, "retain is 0 with Retain As Published");
    Ok(())
}
