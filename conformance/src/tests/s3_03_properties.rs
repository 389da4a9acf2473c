//! Owns the tests of section 3.3 about the properties of messages: what passes through unchanged, and what expires.
//! Never tests topic aliases or subscription identifiers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::common::{ILL_FORMED, clear_retained, closes_on, each, nothing_but_marker, subscriber};
use super::s3_03_publish::{end_session, leave_session, need_qos, resumed};
use super::s3_03_retain::need_retain;
use crate::client::Event;
use crate::context::Ctx;
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{Props, Publish, Subscribe, frame, string};
use crate::wire::read::{Message, Packet, Properties};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.3-properties",
    title: "PUBLISH: properties and expiry",
    tests: {
        payload_format_is_passed_on => ["MQTT-3.3.2-4"],
        content_type_is_passed_on => ["MQTT-3.3.2-19", "MQTT-3.3.2-20"],
        response_topic_is_passed_on => ["MQTT-3.3.2-13", "MQTT-3.3.2-15"],
        correlation_data_is_passed_on => ["MQTT-3.3.2-16"],
        user_properties_are_passed_on => ["MQTT-3.3.2-17"],
        user_properties_keep_their_order => ["MQTT-3.3.2-18"],
        many_user_properties_are_passed_on => ["MQTT-3.3.2-17", "MQTT-3.3.2-18"],
        all_properties_pass_together =>
            ["MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-20"],
        properties_pass_to_every_subscriber =>
            ["MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-20"],
        properties_of_queued_messages_are_kept =>
            ["MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-20"],
        properties_of_retained_messages_are_kept =>
            ["MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-20"],
        properties_of_resent_messages_are_kept =>
            ["MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-20"],
        absent_properties_stay_absent => ["MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-20"],
        replaced_retained_message_loses_the_old_properties => ["MQTT-3.3.1-5", "MQTT-3.3.2-17"],
        ill_formed_content_type_is_not_passed_on => ["MQTT-3.3.2-19"],
        ill_formed_response_topic_is_not_passed_on => ["MQTT-3.3.2-13"],
        wildcard_in_a_response_topic_is_not_passed_on => ["MQTT-3.3.2-14"],
        wrong_payload_format_is_not_passed_on => ["MQTT-4.13.1-1"],
        property_given_twice_closes => ["MQTT-4.13.1-1"],
        property_of_another_packet_closes => ["MQTT-4.13.1-1"],
        subscription_identifier_from_a_client_closes => ["MQTT-4.13.1-1"],
        property_cut_short_closes => ["MQTT-4.13.1-1"],
        expiry_is_passed_on => ["MQTT-3.3.2-6"],
        expiry_of_a_queued_message_counts_down => ["MQTT-3.3.2-6"],
        expiry_of_a_retained_message_counts_down => ["MQTT-3.3.2-6"],
        longest_expiry_is_passed_on => ["MQTT-3.3.2-6"],
        expired_queued_message_is_not_sent => ["MQTT-3.3.2-5"],
        expired_retained_message_is_not_sent => ["MQTT-3.3.2-5"],
        expired_message_behind_a_full_window_is_not_sent => ["MQTT-3.3.2-5", "MQTT-4.5.0-1"],
        message_without_expiry_does_not_expire => ["MQTT-3.3.2-5"],
        message_is_sent_at_once_despite_a_short_expiry => ["MQTT-3.3.2-5", "MQTT-3.3.2-6"],
    },
    unobservable: {},
};

/// Sends a message with these properties through the broker at every QoS; `check` judges what arrives.
fn passes(ctx: &Ctx, props: &Props, check: impl Fn(&Properties) -> Result<()>) -> Result<()> {
    let topic = ctx.topic("props");
    for qos in 0..=ctx.limits().maximum_qos {
        let mut client = subscriber(ctx, "receiver", &topic, qos)?;
        let publish = Publish::new(&topic, "x").props(props.clone());
        ctx.client("publisher")?.publish_packet(publish, qos)?;
        let message = client.expect_message(&topic, "x")?;
        check(&message.props).with_context(|| format!("QoS {qos}, arrived with {:02x?}", message.props.0))?;
        client.acknowledge(&message)?;
        client.disconnect()?;
    }
    Ok(())
}

fn payload_format_is_passed_on(ctx: &Ctx) -> Result<()> {
    for value in [0, 1] {
        passes(ctx, &Props::new().byte(prop::PAYLOAD_FORMAT, value), |props| {
            let found = props.number(prop::PAYLOAD_FORMAT);
            ensure!(found == Some(value.into()), "Payload Format Indicator {value} became {found:?}");
            Ok(())
        })?;
    }
    Ok(())
}

const TEXTS: [&str; 5] = ["text/plain", "", " a b ", "\u{FEFF}bom", "\u{1F697}\u{E9}e\u{301}"];

fn content_type_is_passed_on(ctx: &Ctx) -> Result<()> {
    for value in TEXTS {
        passes(ctx, &Props::new().text(prop::CONTENT_TYPE, value), |props| {
            let found = props.text(prop::CONTENT_TYPE);
            ensure!(found == Some(value), "Content Type {value:?} became {found:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn response_topic_is_passed_on(ctx: &Ctx) -> Result<()> {
    for value in ["a", "/", "a/b/c", " a b ", "\u{FEFF}bom", "\u{1F697}\u{E9}e\u{301}", "$x/y"] {
        passes(ctx, &Props::new().text(prop::RESPONSE_TOPIC, value), |props| {
            let found = props.text(prop::RESPONSE_TOPIC);
            ensure!(found == Some(value), "Response Topic {value:?} became {found:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn correlation_data_is_passed_on(ctx: &Ctx) -> Result<()> {
    let all: Vec<u8> = (0..=255).collect();
    for value in [&b"x"[..], b"", b"\0", b"\xFF\xFE", b"+/#", &all] {
        passes(ctx, &Props::new().text(prop::CORRELATION_DATA, value), |props| {
            let found = props.binary(prop::CORRELATION_DATA);
            ensure!(found == Some(value), "Correlation Data {value:02x?} became {found:02x?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn pairs_pass(ctx: &Ctx, pairs: &[(&str, &str)]) -> Result<()> {
    let props = pairs.iter().fold(Props::new(), |props, (name, value)| props.pair(name, value));
    passes(ctx, &props, |props| {
        ensure!(props.pairs() == pairs, "user properties became {:?}", props.pairs());
        Ok(())
    })
}

fn user_properties_are_passed_on(ctx: &Ctx) -> Result<()> {
    for pair in [("name", "value"), ("", ""), ("name", ""), ("", "value"), ("\u{1F697}", "\u{FEFF}"), ("a b", "=;,\"")]
    {
        pairs_pass(ctx, &[pair])?;
    }
    Ok(())
}

fn user_properties_keep_their_order(ctx: &Ctx) -> Result<()> {
    pairs_pass(ctx, &[("b", "1"), ("a", "2"), ("b", "3"), ("a", "2"), ("", ""), ("A", "0"), ("b", "1")])
}

fn many_user_properties_are_passed_on(ctx: &Ctx) -> Result<()> {
    let texts: Vec<(String, String)> =
        (0..100).map(|index| (format!("n{}", index % 7), format!("{index:0>9}"))).collect();
    let pairs: Vec<(&str, &str)> = texts.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    pairs_pass(ctx, &pairs)
}

/// One of each, user properties spread between the others.
fn full() -> Props {
    Props::new()
        .pair("one", "1")
        .text(prop::CORRELATION_DATA, [0, 0xFF, 7])
        .byte(prop::PAYLOAD_FORMAT, 1)
        .pair("two", "2")
        .text(prop::RESPONSE_TOPIC, "answers/here")
        .text(prop::CONTENT_TYPE, "text/plain")
        .pair("one", "1")
}

fn check_full(props: &Properties) -> Result<()> {
    ensure!(props.number(prop::PAYLOAD_FORMAT) == Some(1), "Payload Format Indicator is not 1");
    ensure!(props.text(prop::RESPONSE_TOPIC) == Some("answers/here"), "Response Topic has changed");
    ensure!(props.binary(prop::CORRELATION_DATA) == Some(&[0, 0xFF, 7]), "Correlation Data has changed");
    ensure!(props.text(prop::CONTENT_TYPE) == Some("text/plain"), "Content Type has changed");
    ensure!(props.pairs() == [("one", "1"), ("two", "2"), ("one", "1")], "user properties have changed");
    Ok(())
}

fn is_full(message: &Message) -> Result<()> {
    check_full(&message.props).with_context(|| format!("arrived with {:02x?}", message.props.0))
}

fn all_properties_pass_together(ctx: &Ctx) -> Result<()> {
    passes(ctx, &full(), check_full)
}

fn properties_pass_to_every_subscriber(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("many");
    let mut clients = Vec::new();
    for tag in ["one", "two", "three"] {
        clients.push(subscriber(ctx, tag, &topic, 0)?);
    }
    ctx.client("publisher")?.publish_packet(Publish::new(&topic, "x").props(full()), 0)?;
    clients.iter_mut().try_for_each(|client| is_full(&client.expect_message(&topic, "x")?))
}

fn properties_of_queued_messages_are_kept(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    let connect = leave_session(ctx, "away", &topic, 1)?;
    ctx.client("publisher")?.publish_packet(Publish::new(&topic, "x").props(full()), 1)?;
    let mut client = resumed(ctx, &connect)?;
    let message = client.expect_message(&topic, "x")?;
    is_full(&message)?;
    client.acknowledge(&message)?;
    client.disconnect()?;
    end_session(ctx, "away")
}

fn properties_of_retained_messages_are_kept(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut publisher = ctx.client("publisher")?;
    publisher.publish_packet(Publish::new(&topic, "x").retain().props(full()), 0)?;
    publisher.expect_silence()?;
    is_full(&subscriber(ctx, "late", &topic, 0)?.expect_message(&topic, "x")?)?;
    clear_retained(ctx, &topic)
}

fn properties_of_resent_messages_are_kept(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("resent");
    let connect = ctx.v5("cut").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 1)?;
    ctx.client("publisher")?.publish_packet(Publish::new(&topic, "x").props(full()), 1)?;
    client.expect_message(&topic, "x")?;
    client.cut()?;
    let mut client = resumed(ctx, &connect.resume())?;
    let message = client.expect_message(&topic, "x")?;
    is_full(&message)?;
    client.acknowledge(&message)?;
    client.disconnect()?;
    end_session(ctx, "cut")
}

/// Payload Format Indicator 0 means the same as none and may be added.
fn absent_properties_stay_absent(ctx: &Ctx) -> Result<()> {
    passes(ctx, &Props::new(), |props| {
        for id in [prop::RESPONSE_TOPIC, prop::CORRELATION_DATA, prop::USER_PROPERTY, prop::CONTENT_TYPE] {
            ensure!(!props.has(id), "property {id:#04x} was added");
        }
        ensure!(props.number(prop::PAYLOAD_FORMAT).unwrap_or(0) == 0, "Payload Format Indicator 1 was added");
        Ok(())
    })
}

fn replaced_retained_message_loses_the_old_properties(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut publisher = ctx.client("publisher")?;
    publisher.publish_packet(Publish::new(&topic, "old").retain().props(full()), 0)?;
    publisher.publish_packet(Publish::new(&topic, "new").retain(), 0)?;
    publisher.expect_silence()?;
    let message = subscriber(ctx, "late", &topic, 0)?.expect_message(&topic, "new")?;
    ensure!(message.props.pairs().is_empty(), "user properties of the replaced message: {:?}", message.props.pairs());
    ensure!(!message.props.has(prop::CONTENT_TYPE), "Content Type of the replaced message");
    clear_retained(ctx, &topic)
}

/// Publishes with a property that no client may send. The broker may close or drop it; the reader judges what it passes on.
fn bad_is_not_passed_on(ctx: &Ctx, props: Props) -> Result<()> {
    let topic = ctx.topic("bad");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let mut offender = ctx.client("offender")?;
    offender.send_publish(&Publish::new(&topic, "bad").props(props))?;
    offender.cut()?;
    ctx.client("marker")?.publish(&topic, 0, "marker")?;
    let message = watcher.expect_publish()?;
    if message.payload == b"bad" {
        bail!("the message was passed on with properties {:02x?}", message.props.0);
    }
    watcher.disconnect()
}

fn ill_formed_content_type_is_not_passed_on(ctx: &Ctx) -> Result<()> {
    each(ILL_FORMED, |text| bad_is_not_passed_on(ctx, Props::new().text(prop::CONTENT_TYPE, text)))
}

fn ill_formed_response_topic_is_not_passed_on(ctx: &Ctx) -> Result<()> {
    each(ILL_FORMED, |text| bad_is_not_passed_on(ctx, Props::new().text(prop::RESPONSE_TOPIC, text)))
}

fn wildcard_in_a_response_topic_is_not_passed_on(ctx: &Ctx) -> Result<()> {
    for topic in ["#", "+", "a/#", "a/+/b"] {
        bad_is_not_passed_on(ctx, Props::new().text(prop::RESPONSE_TOPIC, topic))
            .with_context(|| format!("Response Topic {topic:?}"))?;
    }
    Ok(())
}

fn wrong_payload_format_is_not_passed_on(ctx: &Ctx) -> Result<()> {
    for value in [2, 0xFF] {
        bad_is_not_passed_on(ctx, Props::new().byte(prop::PAYLOAD_FORMAT, value))
            .with_context(|| format!("Payload Format Indicator {value}"))?;
    }
    Ok(())
}

fn property_given_twice_closes(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("twice");
    let rows = [
        ("Payload Format Indicator", Props::new().byte(prop::PAYLOAD_FORMAT, 0).byte(prop::PAYLOAD_FORMAT, 0)),
        ("Message Expiry Interval", Props::new().four(prop::MESSAGE_EXPIRY, 9).four(prop::MESSAGE_EXPIRY, 9)),
        ("Content Type", Props::new().text(prop::CONTENT_TYPE, "a").text(prop::CONTENT_TYPE, "a")),
        ("Response Topic", Props::new().text(prop::RESPONSE_TOPIC, "a").text(prop::RESPONSE_TOPIC, "a")),
        ("Correlation Data", Props::new().text(prop::CORRELATION_DATA, "a").text(prop::CORRELATION_DATA, "a")),
    ];
    for (name, props) in rows {
        closes_on(ctx, &Publish::new(&topic, "x").props(props).bytes(V5)).context(name)?;
    }
    Ok(())
}

fn property_of_another_packet_closes(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("foreign");
    let rows = [
        ("Session Expiry Interval", Props::new().four(prop::SESSION_EXPIRY, 9)),
        ("Receive Maximum", Props::new().two(prop::RECEIVE_MAXIMUM, 9)),
        ("Reason String", Props::new().text(prop::REASON_STRING, "x")),
        ("Will Delay Interval", Props::new().four(prop::WILL_DELAY, 9)),
        ("Retain Available", Props::new().byte(prop::RETAIN_AVAILABLE, 1)),
        ("an unknown identifier", Props::new().byte(0x7F, 1)),
    ];
    for (name, props) in rows {
        closes_on(ctx, &Publish::new(&topic, "x").props(props).bytes(V5)).context(name)?;
    }
    Ok(())
}

fn subscription_identifier_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    let props = Props::new().varint(prop::SUBSCRIPTION_ID, 1);
    closes_on(ctx, &Publish::new(ctx.topic("id"), "x").props(props).bytes(V5)).map(drop)
}

fn property_cut_short_closes(ctx: &Ctx) -> Result<()> {
    let topic = string(ctx.topic("cut"));
    for props in [&[4, prop::MESSAGE_EXPIRY, 0, 0, 0][..], &[1, prop::PAYLOAD_FORMAT], &[5, prop::CONTENT_TYPE, 0, 9]] {
        closes_on(ctx, &frame(first::PUBLISH, &[topic.clone(), props.to_vec()].concat()))
            .with_context(|| format!("property bytes {props:02x?}"))?;
    }
    Ok(())
}

fn expiring(topic: &str, payload: &str, seconds: u32) -> Publish {
    Publish::new(topic, payload).props(Props::new().four(prop::MESSAGE_EXPIRY, seconds))
}

fn expiry_between(message: &Message, least: u32, most: u32) -> Result<()> {
    let found = message.props.number(prop::MESSAGE_EXPIRY);
    ensure!(
        found.is_some_and(|seconds| (least..=most).contains(&seconds)),
        "Message Expiry Interval is {found:?}, expected {least} to {most}"
    );
    Ok(())
}

fn expiry_is_passed_on(ctx: &Ctx) -> Result<()> {
    passes(ctx, &Props::new().four(prop::MESSAGE_EXPIRY, 1000), |props| {
        let found = props.number(prop::MESSAGE_EXPIRY);
        ensure!(found.is_some_and(|seconds| (950..=1000).contains(&seconds)), "1000 s became {found:?}");
        Ok(())
    })
}

fn longest_expiry_is_passed_on(ctx: &Ctx) -> Result<()> {
    passes(ctx, &Props::new().four(prop::MESSAGE_EXPIRY, u32::MAX), |props| {
        let found = props.number(prop::MESSAGE_EXPIRY);
        ensure!(found.is_some_and(|seconds| seconds >= u32::MAX - 50), "{} s became {found:?}", u32::MAX);
        Ok(())
    })
}

/// A little more than two seconds: even a clock that counts whole seconds has then moved by two.
const TWO_SECONDS: Duration = Duration::from_millis(2300);

fn expiry_of_a_queued_message_counts_down(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    let connect = leave_session(ctx, "away", &topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish_packet(expiring(&topic, "x", 1000), 1)?;
    publisher.expect_quiet_for(TWO_SECONDS)?;
    let mut client = resumed(ctx, &connect)?;
    let message = client.expect_message(&topic, "x")?;
    expiry_between(&message, 950, 999)?;
    client.acknowledge(&message)?;
    client.disconnect()?;
    end_session(ctx, "away")
}

fn expiry_of_a_retained_message_counts_down(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut publisher = ctx.client("publisher")?;
    publisher.publish_packet(expiring(&topic, "x", 1000).retain(), 0)?;
    publisher.expect_quiet_for(TWO_SECONDS)?;
    let message = subscriber(ctx, "late", &topic, 0)?.expect_message(&topic, "x")?;
    expiry_between(&message, 950, 999)?;
    clear_retained(ctx, &topic)
}

fn expired_queued_message_is_not_sent(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    let connect = leave_session(ctx, "away", &topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish_packet(expiring(&topic, "expired", 1), 1)?;
    publisher.publish_packet(expiring(&topic, "lasting", 1000), 1)?;
    publisher.expect_quiet_for(TWO_SECONDS)?;
    let mut client = resumed(ctx, &connect)?;
    let message = client.expect_message(&topic, "lasting")?;
    client.acknowledge(&message)?;
    client.expect_silence()?;
    client.disconnect()?;
    end_session(ctx, "away")
}

/// Looks until the message is gone: a broker may clear its retained messages every few seconds only.
fn expired_retained_message_is_not_sent(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut client = ctx.client("late")?;
    client.publish_packet(expiring(&topic, "x", 1).retain(), 0)?;
    client.expect_quiet_for(TWO_SECONDS)?;
    let started = Instant::now();
    while started.elapsed() < ctx.timer(Duration::ZERO) {
        let id = client.next_id();
        client.subscribe_packet(&Subscribe::new(id).filter(&topic, 0))?;
        client.send(&crate::wire::build::pingreq())?;
        match client.next_event()? {
            Event::Packet(Packet::Pingresp) => {
                return nothing_but_marker(&mut ctx.client("marker")?, &mut client, &topic);
            }
            Event::Packet(Packet::Publish(_)) => client.expect_pingresp()?,
            other => bail!("expected PINGRESP, got {other:02x?}"),
        }
        client.unsubscribe(&topic)?;
        client.expect_quiet_for(Duration::from_secs(1))?;
    }
    bail!("the retained message is sent {} s after it should have expired", started.elapsed().as_secs() + 1)
}

fn expired_message_behind_a_full_window_is_not_sent(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("window");
    let mut client = ctx.connect(&ctx.v5("slow").props(Props::new().two(prop::RECEIVE_MAXIMUM, 1)))?;
    client.subscribe(&topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish(&topic, 1, "first")?;
    publisher.publish_packet(expiring(&topic, "expired", 1), 1)?;
    publisher.publish(&topic, 1, "last")?;
    let blocking = client.expect_message(&topic, "first")?;
    client.expect_quiet_for(TWO_SECONDS)?;
    client.acknowledge(&blocking)?;
    let message = client.expect_message(&topic, "last")?;
    client.acknowledge(&message)?;
    client.expect_silence()
}

fn message_without_expiry_does_not_expire(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("lasting");
    let connect = leave_session(ctx, "away", &topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish(&topic, 1, "x")?;
    publisher.expect_quiet_for(TWO_SECONDS)?;
    let mut client = resumed(ctx, &connect)?;
    let message = client.expect_message(&topic, "x")?;
    client.acknowledge(&message)?;
    client.disconnect()?;
    end_session(ctx, "away")
}

/// Two seconds to spare for the way through the broker.
fn message_is_sent_at_once_despite_a_short_expiry(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("short");
    let mut client = subscriber(ctx, "receiver", &topic, 0)?;
    ctx.client("publisher")?.publish_packet(expiring(&topic, "x", 2), 0)?;
    expiry_between(&client.expect_message(&topic, "x")?, 0, 2)
}
