//! Owns the tests of section 3.3 about flags, topic names and what answers a PUBLISH. Retained messages, properties,
//! topic aliases and the delivery to subscribers have files of their own.

use anyhow::{Context, Result, bail, ensure};

use super::common::{ILL_FORMED, NUL, closes_on, each, nothing_but_marker, subscriber};
use crate::client::{Client, Event};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{self, Connect, Publish, frame, string};
use crate::wire::first;
use crate::wire::read::Packet;

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.3",
    title: "PUBLISH: flags, topic names, answers",
    tests: {
        qos1_is_sent_again_with_dup => ["MQTT-3.3.1-1", "MQTT-3.3.1-3"],
        qos2_is_sent_again_with_dup => ["MQTT-3.3.1-1", "MQTT-3.3.1-3"],
        queued_messages_are_first_sent_without_dup => ["MQTT-3.3.1-3"],
        dup_of_the_publisher_is_not_passed_on => ["MQTT-3.3.1-3"],
        dup_is_zero_after_a_downgrade_to_qos0 => ["MQTT-3.3.1-2", "MQTT-3.3.1-3"],
        qos0_with_dup_is_not_passed_on_so => ["MQTT-3.3.1-2"],
        qos3_closes => ["MQTT-3.3.1-4", "MQTT-4.13.1-1"],
        qos3_is_not_delivered => ["MQTT-3.3.1-4"],
        topic_arrives_byte_for_byte => ["MQTT-3.3.2-1"],
        longest_topic_arrives => ["MQTT-3.3.2-1"],
        ill_formed_topic_closes => ["MQTT-3.3.2-1", "MQTT-4.13.1-1"],
        topic_with_nul_closes => ["MQTT-3.3.2-1", "MQTT-4.13.1-1"],
        topic_longer_than_the_packet_closes => ["MQTT-3.3.2-1", "MQTT-4.13.1-1"],
        empty_topic_without_alias_closes => ["MQTT-3.3.2-1", "MQTT-4.13.1-1"],
        wildcard_in_a_topic_closes => ["MQTT-3.3.2-2", "MQTT-4.13.1-1"],
        wildcard_in_a_topic_is_not_delivered => ["MQTT-3.3.2-2"],
        topic_sent_is_the_published_one => ["MQTT-3.3.2-3"],
        only_matching_topics_are_sent => ["MQTT-3.3.2-3"],
        payload_arrives_byte_for_byte => ["MQTT-3.3.4-1"],
        large_payload_arrives => ["MQTT-3.3.4-1"],
        qos0_gets_no_answer => ["MQTT-3.3.4-1"],
        qos1_gets_puback => ["MQTT-3.3.4-1"],
        qos2_gets_pubrec => ["MQTT-3.3.4-1"],
        answers_do_not_depend_on_subscribers => ["MQTT-3.3.4-1"],
        pipelined_publishes_are_all_answered => ["MQTT-3.3.4-1"],
        publish_without_property_length_closes => ["MQTT-4.13.1-1"],
        publish_cut_before_its_identifier_closes => ["MQTT-4.13.1-1"],
    },
    unobservable: {},
};

/// Skips the test if the broker does not take messages of this QoS.
pub fn need_qos(ctx: &Ctx, qos: u8) -> Result<()> {
    let maximum = ctx.limits().maximum_qos;
    if maximum < qos { skip(format!("server announces Maximum QoS {maximum}")) } else { Ok(()) }
}

/// Leaves a session that expires after 30 s and has a subscription; returns the CONNECT that resumes it.
pub fn leave_session(ctx: &Ctx, tag: &str, topic: &str, qos: u8) -> Result<Connect> {
    let connect = ctx.v5(tag).session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(topic, qos)?;
    client.disconnect()?;
    Ok(connect.resume())
}

/// Resumes a session, and fails if there is none.
pub fn resumed(ctx: &Ctx, connect: &Connect) -> Result<Client> {
    let client = ctx.connect(connect)?;
    ensure!(client.connack.session_present, "the session is gone (session present 0)");
    Ok(client)
}

/// Removes the session of a client id.
pub fn end_session(ctx: &Ctx, tag: &str) -> Result<()> {
    ctx.client(tag)?.disconnect()
}

/// Receives a message without acknowledging it, loses the connection and expects it again.
fn sent_again(ctx: &Ctx, qos: u8) -> Result<()> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("again");
    let connect = ctx.v5("again").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, qos)?;
    ctx.client("publisher")?.publish(&topic, qos, "x")?;
    let message = client.expect_message(&topic, "x")?;
    ensure!(!message.dup, "DUP is 1 in the first transmission");
    client.cut()?;
    let mut client = resumed(ctx, &connect.resume())?;
    let message = client.expect_message(&topic, "x")?;
    ensure!(message.dup, "DUP is 0 although the message was sent before");
    client.acknowledge(&message)?;
    client.expect_silence()?;
    client.disconnect()?;
    end_session(ctx, "again")
}

fn qos1_is_sent_again_with_dup(ctx: &Ctx) -> Result<()> {
    sent_again(ctx, 1)
}

fn qos2_is_sent_again_with_dup(ctx: &Ctx) -> Result<()> {
    sent_again(ctx, 2)
}

fn queued_messages_are_first_sent_without_dup(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    let connect = leave_session(ctx, "queued", &topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish(&topic, 1, "one")?;
    publisher.publish(&topic, 1, "two")?;
    let mut client = resumed(ctx, &connect)?;
    for payload in ["one", "two"] {
        let message = client.expect_message(&topic, payload)?;
        ensure!(!message.dup, "DUP is 1 although the message was never sent before");
        client.acknowledge(&message)?;
    }
    client.disconnect()?;
    end_session(ctx, "queued")
}

/// Sends a QoS 1 or 2 message with DUP 1 whose first transmission the broker never got.
fn publish_with_dup(ctx: &Ctx, topic: &str, qos: u8) -> Result<()> {
    let mut publisher = ctx.client("publisher")?;
    publisher.send_publish(&Publish::new(topic, "x").qos(qos, 5).dup())?;
    let answer = if qos == 1 { first::PUBACK } else { first::PUBREC };
    publisher.expect_ack(answer, 5)?.successful()?;
    if qos == 2 {
        publisher.send(&build::ack(first::PUBREL, 5))?;
        publisher.expect_ack(first::PUBCOMP, 5)?;
    }
    publisher.disconnect()
}

fn dup_of_the_publisher_is_not_passed_on(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("dup");
    for qos in 1..=ctx.limits().maximum_qos {
        let mut client = subscriber(ctx, "receiver", &topic, qos)?;
        publish_with_dup(ctx, &topic, qos)?;
        let message = client.expect_message(&topic, "x")?;
        ensure!(!message.dup, "DUP is 1 in the first transmission to a subscriber (QoS {qos})");
        client.acknowledge(&message)?;
        client.disconnect()?;
    }
    Ok(())
}

/// The reader refuses QoS 0 with DUP.
fn dup_is_zero_after_a_downgrade_to_qos0(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("dup");
    let mut client = subscriber(ctx, "receiver", &topic, 0)?;
    for qos in 1..=ctx.limits().maximum_qos {
        publish_with_dup(ctx, &topic, qos)?;
        let message = client.expect_message(&topic, "x")?;
        ensure!(message.qos == 0 && !message.dup, "QoS {} and DUP {}", message.qos, message.dup);
    }
    Ok(())
}

/// Such a PUBLISH is the client's fault: the broker may close. If it takes the message, the reader looks at its DUP.
fn qos0_with_dup_is_not_passed_on_so(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("dup");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.send_publish(&Publish::new(&topic, "x").dup())?;
    publisher.send(&build::pingreq())?;
    match publisher.next_event()? {
        Event::Packet(Packet::Pingresp) => watcher.expect_message(&topic, "x").map(drop),
        Event::Packet(Packet::Disconnect(_)) => publisher.expect_closed().map(drop),
        Event::Closed => Ok(()),
        Event::Packet(other) => bail!("expected PINGRESP or the broker to close, got {other:02x?}"),
    }
}

fn qos3(topic: &str, more_flags: u8) -> Vec<u8> {
    let body = [string(topic), vec![0, 7, 0], b"x".to_vec()].concat();
    frame(first::PUBLISH | 0x06 | more_flags, &body)
}

fn qos3_closes(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("qos3");
    for flags in [0x00, 0x01, 0x08, 0x09] {
        closes_on(ctx, &qos3(&topic, flags)).with_context(|| format!("flags {:04b}", flags | 0x06))?;
    }
    Ok(())
}

fn qos3_is_not_delivered(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("qos3");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    closes_on(ctx, &qos3(&topic, 0))?;
    nothing_but_marker(&mut ctx.client("marker")?, &mut watcher, &topic)
}

fn topic_arrives_byte_for_byte(ctx: &Ctx) -> Result<()> {
    let base = ctx.topic("t");
    let mut client = ctx.client("both")?;
    for odd in ["", "/", "//", "/ /", "/\u{FEFF}", "/\u{1F697}\u{E9}e\u{301}", "/a b", "/UPPER/lower", "/$x/$"] {
        let topic = format!("{base}{odd}");
        client.subscribe(&topic, 0)?;
        client.send_publish(&Publish::new(&topic, "x"))?;
        client.expect_message(&topic, "x").with_context(|| format!("topic {topic:?}"))?;
        client.unsubscribe(&topic)?;
    }
    Ok(())
}

/// 65,535 bytes is the most that a string can have. A broker may set limits of its own, but not pass on another topic.
fn longest_topic_arrives(ctx: &Ctx) -> Result<()> {
    let base = ctx.topic("long/");
    let filter = format!("{base}#");
    let topic = format!("{base}{}", "x".repeat(65_535 - base.len()));
    let size = Publish::new(&topic, "").bytes(V5).len();
    if ctx.limits().packet_bytes_max.is_some_and(|max| size > max as usize) {
        return skip(format!("needs a PUBLISH of {size} bytes"));
    }
    let mut watcher = subscriber(ctx, "watcher", &filter, 0)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.send_publish(&Publish::new(&topic, ""))?;
    publisher.send(&build::pingreq())?;
    match publisher.next_event()? {
        Event::Packet(Packet::Pingresp) => watcher.expect_message(&topic, "").map(drop),
        Event::Packet(Packet::Disconnect(_)) | Event::Closed => skip("server has a lower limit for topics"),
        Event::Packet(other) => bail!("expected PINGRESP or the broker to close, got {other:02x?}"),
    }
}

fn publish_of_topic(topic: &[u8]) -> Vec<u8> {
    Publish::new(topic, "x").bytes(V5)
}

fn ill_formed_topic_closes(ctx: &Ctx) -> Result<()> {
    each(ILL_FORMED, |topic| closes_on(ctx, &publish_of_topic(topic)).map(drop))
}

fn topic_with_nul_closes(ctx: &Ctx) -> Result<()> {
    each(NUL, |topic| closes_on(ctx, &publish_of_topic(topic)).map(drop))
}

fn topic_longer_than_the_packet_closes(ctx: &Ctx) -> Result<()> {
    for body in [&[0, 9, b'a', 0][..], &[0xFF, 0xFF, b'a', b'b'], &[0], &[]] {
        closes_on(ctx, &frame(first::PUBLISH, body)).with_context(|| format!("body {body:02x?}"))?;
    }
    Ok(())
}

fn empty_topic_without_alias_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &publish_of_topic(b"")).map(drop)
}

const WILDCARDS: [&str; 5] = ["#", "+", "/+/x", "/#", "/a+"];

fn wildcard_in_a_topic_closes(ctx: &Ctx) -> Result<()> {
    let base = ctx.topic("wild");
    for wildcard in WILDCARDS {
        let topic = format!("{base}{wildcard}");
        closes_on(ctx, &publish_of_topic(topic.as_bytes())).with_context(|| format!("topic {topic:?}"))?;
    }
    Ok(())
}

fn wildcard_in_a_topic_is_not_delivered(ctx: &Ctx) -> Result<()> {
    let base = ctx.topic("wild");
    let mut plain = subscriber(ctx, "plain", &format!("{base}/a"), 0)?;
    let mut broad = ctx.client("broad")?;
    let marker = format!("{base}/a");
    broad.subscribe(if ctx.limits().wildcards { format!("{base}/#") } else { marker.clone() }, 0)?;
    for topic in [format!("{base}/+"), format!("{base}/#")] {
        let mut offender = ctx.client("offender")?;
        offender.send(&publish_of_topic(topic.as_bytes()))?;
        offender.cut()?;
    }
    let mut publisher = ctx.client("publisher")?;
    nothing_but_marker(&mut publisher, &mut plain, &marker)?;
    broad.expect_message(&marker, "marker")?;
    broad.expect_silence()
}

fn need_wildcards(ctx: &Ctx) -> Result<()> {
    if ctx.limits().wildcards { Ok(()) } else { skip("server announces Wildcard Subscription Available 0") }
}

fn topic_sent_is_the_published_one(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let topic = ctx.topic("a/b/c");
    for filter in [ctx.topic("a/b/c"), ctx.topic("#"), ctx.topic("a/+/c"), ctx.topic("+/+/+"), ctx.topic("a/b/c/#")] {
        let mut client = subscriber(ctx, "watcher", &filter, 0)?;
        client.send_publish(&Publish::new(&topic, &filter))?;
        client.expect_message(&topic, &filter).with_context(|| format!("filter {filter:?}"))?;
        client.disconnect()?;
    }
    Ok(())
}

fn only_matching_topics_are_sent(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let mut publisher = ctx.client("publisher")?;
    let rows = [
        ("a/+/c", "a/x/c", ["a/c", "a/x/y/c", "a/x/c/d", "A/x/c"]),
        ("a/#", "a", ["b", "ab", "b/a", "aa/a"]),
        ("+/b", "/b", ["b", "a/b/c", "a/bb", "a/B"]),
        ("a/b", "a/b", ["a/b/", "/a/b", "a//b", "a/"]),
    ];
    for (filter, matching, others) in rows {
        let mut client = subscriber(ctx, "watcher", &ctx.topic(filter), 0)?;
        for other in others {
            publisher.publish(ctx.topic(other), 0, "wrong")?;
        }
        let marker = ctx.topic(matching);
        nothing_but_marker(&mut publisher, &mut client, &marker).with_context(|| format!("filter {filter:?}"))?;
        client.disconnect()?;
    }
    Ok(())
}

fn round_trip(ctx: &Ctx, payload: &[u8]) -> Result<()> {
    let topic = ctx.topic("payload");
    for qos in 0..=ctx.limits().maximum_qos {
        let mut client = subscriber(ctx, "receiver", &topic, qos)?;
        ctx.client("publisher")?.publish(&topic, qos, payload)?;
        let message = client.expect_publish()?;
        ensure!(message.topic == topic, "topic {:?}, expected {topic:?}", message.topic);
        ensure!(message.payload == payload, "the payload of {} bytes (QoS {qos}) has changed", payload.len());
        client.acknowledge(&message)?;
        client.disconnect()?;
    }
    Ok(())
}

fn payload_arrives_byte_for_byte(ctx: &Ctx) -> Result<()> {
    let all: Vec<u8> = (0..=255).collect();
    round_trip(ctx, &all)?;
    round_trip(ctx, b"")
}

fn large_payload_arrives(ctx: &Ctx) -> Result<()> {
    let room = ctx.limits().packet_bytes_max.map_or(usize::MAX, |max| max as usize - 200);
    let payload: Vec<u8> = (0..300_000.min(room)).map(|index| (index % 251) as u8).collect();
    round_trip(ctx, &payload)
}

fn qos0_gets_no_answer(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("sender")?;
    client.publish(ctx.topic("zero"), 0, "x")?;
    client.expect_silence()
}

fn qos1_gets_puback(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let mut client = ctx.client("sender")?;
    client.send_publish(&Publish::new(ctx.topic("one"), "x").qos(1, 7))?;
    client.expect_ack(first::PUBACK, 7)?.successful()?;
    client.expect_silence()
}

fn qos2_gets_pubrec(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let mut client = ctx.client("sender")?;
    client.send_publish(&Publish::new(ctx.topic("two"), "x").qos(2, 7))?;
    client.expect_ack(first::PUBREC, 7)?.successful()?;
    client.expect_silence()?;
    client.send(&build::ack(first::PUBREL, 7))?;
    client.expect_ack(first::PUBCOMP, 7)?.successful()?;
    client.expect_silence()
}

fn answers_do_not_depend_on_subscribers(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("answers");
    let mut lazy = subscriber(ctx, "lazy", &topic, ctx.limits().maximum_qos)?;
    let mut client = ctx.client("sender")?;
    for qos in 0..=ctx.limits().maximum_qos {
        client.publish(&topic, qos, "x")?;
        client.expect_silence()?;
        lazy.expect_message(&topic, "x")?;
    }
    Ok(())
}

fn pipelined_publishes_are_all_answered(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("pipe");
    let count = ctx.limits().receive_maximum.min(20);
    let mut client = ctx.client("sender")?;
    let bytes: Vec<u8> = (1..=count).flat_map(|id| Publish::new(&topic, "x").qos(1, id).bytes(V5)).collect();
    client.send(&bytes)?;
    for id in 1..=count {
        client.expect_ack(first::PUBACK, id)?.successful()?;
    }
    client.expect_silence()
}

/// The last byte of the packet is the end of the topic: nothing is left to hold the property length.
fn publish_without_property_length_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::PUBLISH, &string(ctx.topic("a")))).map(drop)
}

fn publish_cut_before_its_identifier_closes(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    closes_on(ctx, &frame(first::PUBLISH | 0x02, &string(ctx.topic("a"))))?;
    closes_on(ctx, &frame(first::PUBLISH | 0x02, &[string(ctx.topic("a")), vec![0]].concat())).map(drop)
}
