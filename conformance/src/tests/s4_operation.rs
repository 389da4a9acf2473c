//! Owns the tests of sections 4.1, 4.2, 4.5, 4.6 and 4.13: session state, message receipt, ordering, errors. Never tests
//! QoS handshakes, topics, shared subscriptions or flow control, which have files of their own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::common::{closes_on, nothing_but_marker, subscriber};
use super::flows::{
    forget, need_qos, need_wildcards, numbered, numbers, payloads, publish_all, receive, receive_until, window,
};
use crate::client::Client;
use crate::context::Ctx;
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{Connect, Props, Publish, Subscribe, frame};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "4",
    title: "sessions, receipt, ordering, errors",
    tests: {
        session_lives_as_long_as_its_connection => ["MQTT-4.1.0-1"],
        clean_session_lives_as_long_as_its_connection => ["MQTT-4.1.0-1"],
        session_ends_after_its_expiry => ["MQTT-4.1.0-2"],
        session_without_expiry_ends_with_the_connection => ["MQTT-4.1.0-2"],
        several_connections_are_served_at_once => ["MQTT-4.2-1"],
        every_subscriber_gets_the_message => ["MQTT-4.5.0-1"],
        message_is_queued_for_absent_sessions => ["MQTT-4.5.0-1"],
        message_reaches_present_and_absent_sessions => ["MQTT-4.5.0-1"],
        order_is_kept_with_qos0 => ["MQTT-4.6.0-5", "MQTT-4.6.0-6"],
        order_is_kept_with_qos1 => ["MQTT-4.6.0-5", "MQTT-4.6.0-6"],
        order_is_kept_with_qos2 => ["MQTT-4.6.0-5", "MQTT-4.6.0-6"],
        order_is_kept_by_wildcard_subscriptions => ["MQTT-4.6.0-5", "MQTT-4.6.0-6"],
        order_is_kept_in_the_queue => ["MQTT-4.6.0-5", "MQTT-4.6.0-6"],
        order_is_kept_behind_a_narrow_window => ["MQTT-4.6.0-5", "MQTT-4.6.0-6"],
        resent_messages_come_before_queued_ones => ["MQTT-4.6.0-5", "MQTT-4.6.0-6"],
        each_of_two_publishers_keeps_its_order => ["MQTT-4.6.0-5"],
        protocol_errors_close => ["MQTT-4.13.1-1", "MQTT-4.13.2-1"],
        errors_close_nobody_elses_connection => ["MQTT-4.13.1-1"],
        errors_end_no_session => ["MQTT-4.1.0-1", "MQTT-4.13.2-1"],
        errors_close_clients_that_take_no_disconnect => ["MQTT-4.13.2-1"],
    },
    unobservable: {},
};

fn session_lives_as_long_as_its_connection(ctx: &Ctx) -> Result<()> {
    outlives_its_expiry(ctx, ctx.v5("open").session_expiry(1))
}

fn clean_session_lives_as_long_as_its_connection(ctx: &Ctx) -> Result<()> {
    outlives_its_expiry(ctx, ctx.v5("open"))
}

fn outlives_its_expiry(ctx: &Ctx, connect: Connect) -> Result<()> {
    let topic = ctx.topic("open");
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 0)?;
    client.expect_quiet_for(Duration::from_millis(2500))?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut client, &topic)
}

/// Comes back after twice the expiry, until the broker's timers had all the time they may take.
fn session_ends_after_its_expiry(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("expired");
    let connect = ctx.v5("expiring").resume().session_expiry(1);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, ctx.limits().maximum_qos)?;
    client.disconnect()?;
    let mut sender = ctx.client("sender")?;
    let until = Instant::now() + ctx.timer(Duration::from_secs(2));
    loop {
        sender.publish(&topic, ctx.limits().maximum_qos, "for nobody")?;
        sender.expect_quiet_for(Duration::from_secs(2))?;
        let mut client = ctx.connect(&connect)?;
        if !client.connack.session_present {
            client.expect_silence().context("something of the expired session was delivered")?;
            return client.disconnect();
        }
        ensure!(Instant::now() < until, "the session is still there 2 s after its end, though it expires after 1 s");
        client.cut()?;
    }
}

fn session_without_expiry_ends_with_the_connection(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("ending")?;
    client.subscribe(ctx.topic("ending"), 0)?;
    client.cut()?;
    let client = ctx.connect(&ctx.v5("ending").resume())?;
    ensure!(!client.connack.session_present, "a session without expiry outlived its connection");
    client.disconnect()
}

fn several_connections_are_served_at_once(ctx: &Ctx) -> Result<()> {
    let tags: Vec<String> = (0..20).map(|index| format!("many{index}")).collect();
    let mut clients = tags.iter().map(|tag| ctx.client(tag)).collect::<Result<Vec<Client>>>()?;
    clients.iter_mut().try_for_each(Client::expect_silence)
}

fn every_subscriber_gets_the_message(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("all");
    let tags = ["one", "two", "three", "four", "five"];
    let receivers: Result<Vec<Client>> = tags.iter().map(|tag| subscriber(ctx, tag, &topic, 0)).collect();
    let mut receivers = receivers?;
    let mut sender = ctx.client("sender")?;
    sender.publish(&topic, ctx.limits().maximum_qos, "x")?;
    for receiver in &mut receivers {
        receiver.expect_message(&topic, "x")?;
        receiver.expect_silence()?;
    }
    Ok(())
}

/// Leaves a session behind that is subscribed to `topic`; the CONNECT returned resumes it.
fn absent(ctx: &Ctx, tag: &str, topic: &str, qos: u8) -> Result<Connect> {
    let connect = ctx.v5(tag).resume().session_expiry(60);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(topic, qos)?;
    client.disconnect()?;
    Ok(connect)
}

fn message_is_queued_for_absent_sessions(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("queued");
    for qos in 1..=ctx.limits().maximum_qos {
        let resume = absent(ctx, "absent", &topic, qos)?;
        ctx.client("sender")?.publish(&topic, qos, "x")?;
        let mut client = ctx.connect(&resume)?;
        ensure!(client.connack.session_present, "the session is gone");
        let message = client.expect_message(&topic, "x")?;
        ensure!(message.qos == qos, "queued with QoS {qos}, delivered with {}", message.qos);
        client.acknowledge(&message)?;
        client.expect_silence()?;
        client.disconnect()?;
        forget(ctx, "absent")?;
    }
    Ok(())
}

fn message_reaches_present_and_absent_sessions(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("both");
    let resume = [absent(ctx, "one", &topic, 1)?, absent(ctx, "two", &topic, 1)?];
    let mut present = subscriber(ctx, "present", &topic, 1)?;
    publish_all(ctx, &mut ctx.client("sender")?, 1, numbered(&topic, 1..=5))?;
    ensure!(payloads(&receive(&mut present, 5)?) == numbers(1..=5), "the present session got something else");
    for connect in &resume {
        let mut client = ctx.connect(connect)?;
        ensure!(payloads(&receive(&mut client, 5)?) == numbers(1..=5), "an absent session got something else");
        client.disconnect()?;
    }
    forget(ctx, "one")?;
    forget(ctx, "two")
}

// Ordering.

const MANY: usize = 60;

fn in_order(messages: &[crate::wire::read::Message], last: usize) -> Result<()> {
    let found = payloads(messages);
    ensure!(found == numbers(1..=last), "order of arrival: {found:?}");
    Ok(())
}

fn order_is_kept(ctx: &Ctx, filter: &str, topic: &str, qos: u8) -> Result<()> {
    need_qos(ctx, qos)?;
    let mut receiver = subscriber(ctx, "receiver", filter, qos)?;
    publish_all(ctx, &mut ctx.client("sender")?, qos, numbered(topic, 1..=MANY))?;
    in_order(&receive(&mut receiver, MANY)?, MANY)?;
    receiver.disconnect()
}

fn order_is_kept_with_qos0(ctx: &Ctx) -> Result<()> {
    order_is_kept(ctx, &ctx.topic("order"), &ctx.topic("order"), 0)
}

fn order_is_kept_with_qos1(ctx: &Ctx) -> Result<()> {
    order_is_kept(ctx, &ctx.topic("order"), &ctx.topic("order"), 1)
}

fn order_is_kept_with_qos2(ctx: &Ctx) -> Result<()> {
    order_is_kept(ctx, &ctx.topic("order"), &ctx.topic("order"), 2)
}

fn order_is_kept_by_wildcard_subscriptions(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    for qos in 0..=ctx.limits().maximum_qos {
        order_is_kept(ctx, &ctx.topic("order/#"), &ctx.topic("order/a/b"), qos)?;
    }
    Ok(())
}

fn order_is_kept_in_the_queue(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    for qos in 1..=ctx.limits().maximum_qos {
        let topic = ctx.topic("order");
        let resume = absent(ctx, "queue", &topic, qos)?;
        publish_all(ctx, &mut ctx.client("sender")?, qos, numbered(&topic, 1..=MANY))?;
        let mut receiver = ctx.connect(&resume)?;
        in_order(&receive(&mut receiver, MANY)?, MANY)?;
        receiver.disconnect()?;
        forget(ctx, "queue")?;
    }
    Ok(())
}

fn order_is_kept_behind_a_narrow_window(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    for qos in 1..=ctx.limits().maximum_qos {
        let topic = ctx.topic("order");
        let narrow = ctx.v5("narrow").props(Props::new().two(prop::RECEIVE_MAXIMUM, 2));
        let mut receiver = ctx.connect(&narrow)?;
        receiver.subscribe(&topic, qos)?;
        publish_all(ctx, &mut ctx.client("sender")?, qos, numbered(&topic, 1..=20))?;
        in_order(&receive(&mut receiver, 20)?, 20)?;
        receiver.disconnect()?;
    }
    Ok(())
}

fn resent_messages_come_before_queued_ones(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("order");
    let mut receiver = ctx.connect(&ctx.v5("back").session_expiry(60))?;
    receiver.subscribe(&topic, 1)?;
    let mut sender = ctx.client("sender")?;
    publish_all(ctx, &mut sender, 1, numbered(&topic, 1..=5))?;
    for number in 1..=5 {
        receiver.expect_message(&topic, number.to_string())?;
    }
    receiver.cut()?;
    publish_all(ctx, &mut sender, 1, numbered(&topic, 6..=10))?;
    let mut receiver = ctx.connect(&ctx.v5("back").resume())?;
    in_order(&receive(&mut receiver, 10)?, 10)
}

/// How the two streams mix is the broker's affair.
fn each_of_two_publishers_keeps_its_order(ctx: &Ctx) -> Result<()> {
    let (topic, marker) = (ctx.topic("order"), ctx.topic("marker"));
    let qos = ctx.limits().maximum_qos.min(1);
    let mut receiver = subscriber(ctx, "receiver", &topic, qos)?;
    receiver.subscribe(&marker, 0)?;
    let (mut one, mut two) = (ctx.client("one")?, ctx.client("two")?);
    for start in (1..MANY).step_by(10) {
        let range = start..=start + 9;
        publish_all(ctx, &mut one, qos, numbered(&topic, range.clone()))?;
        let other: Vec<Publish> =
            numbers(range).iter().map(|number| Publish::new(&topic, format!("b{number}"))).collect();
        publish_all(ctx, &mut two, qos, other)?;
    }
    one.expect_silence()?;
    two.expect_silence()?;
    let mut messages = receive(&mut receiver, 2 * MANY)?;
    two.publish(&marker, 0, "")?;
    messages.extend(receive_until(&mut receiver, &marker)?);
    let found = payloads(&messages);
    let (of_two, of_one): (Vec<String>, Vec<String>) = found.into_iter().partition(|payload| payload.starts_with('b'));
    let expected = numbers(1..=MANY);
    ensure!(of_one == expected, "the first publisher's messages came as {of_one:?}");
    ensure!(of_two.iter().map(|payload| &payload[1..]).eq(expected.iter()), "the second's came as {of_two:?}");
    Ok(())
}

// Errors.

fn errors(ctx: &Ctx) -> Vec<(&'static str, Vec<u8>)> {
    let topic = ctx.topic("error");
    let publish = |props: Props| Publish::new(&topic, "x").props(props).bytes(V5);
    vec![
        ("second CONNECT", ctx.v5("again").bytes()),
        ("topic alias 0", publish(Props::new().two(prop::TOPIC_ALIAS, 0))),
        ("two content types", publish(Props::new().text(prop::CONTENT_TYPE, "a").text(prop::CONTENT_TYPE, "b"))),
        ("remaining length of five bytes", vec![first::PUBLISH, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
        ("QoS 3", frame(first::PUBLISH | 6, &[0, 1, b'a', 0, 1, 0])),
        ("PUBACK without identifier", frame(first::PUBACK, &[0])),
        ("SUBSCRIBE without filters", Subscribe::new(1).bytes(V5)),
        ("DISCONNECT with a cut property", frame(first::DISCONNECT, &[0, 5, prop::SESSION_EXPIRY, 0])),
    ]
}

fn protocol_errors_close(ctx: &Ctx) -> Result<()> {
    errors(ctx).iter().try_for_each(|(name, bytes)| closes_on(ctx, bytes).map(drop).context(*name))
}

fn errors_close_nobody_elses_connection(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("bystander");
    let mut bystander = subscriber(ctx, "bystander", &topic, 0)?;
    for (name, bytes) in errors(ctx) {
        ctx.client("offender")?.send(&bytes)?;
        nothing_but_marker(&mut ctx.client("sender")?, &mut bystander, &topic).context(name)?;
    }
    Ok(())
}

/// The connection ends, the session goes on.
fn errors_end_no_session(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("session");
    let connect = ctx.v5("offender").resume().session_expiry(60);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 0)?;
    client.send(&[0, 0])?;
    client.expect_closed()?;
    let mut client = ctx.connect(&connect)?;
    ensure!(client.connack.session_present, "the session ended with a malformed packet, its expiry was 60 s");
    nothing_but_marker(&mut ctx.client("sender")?, &mut client, &topic)?;
    client.disconnect()?;
    forget(ctx, "offender")
}

/// Whether a DISCONNECT can be sent or not: here the client reads nothing until long after its mistake.
fn errors_close_clients_that_take_no_disconnect(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("deaf");
    let mut client = ctx.client("deaf")?;
    let messages = Publish::new(&topic, "x").bytes(V5).repeat(window(ctx, 20));
    client.send(&[vec![0, 0], messages].concat())?;
    client.expect_closed().map(drop)
}
