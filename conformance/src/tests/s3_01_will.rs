//! Owns the tests of section 3.1 about wills: when they are sent, when not, and with what. Never tests their encoding.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::common::{GRACE, clear_retained, nothing_but_marker, subscriber};
use crate::client::Client;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::build::{self, Connect, Props, Publish, Will};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.1-will",
    title: "CONNECT: wills",
    tests: {
        will_is_sent_on_network_failure => ["MQTT-3.1.2-7", "MQTT-3.1.2-8"],
        will_is_sent_on_protocol_error => ["MQTT-3.1.2-8"],
        will_is_sent_on_disconnect_with_will => ["MQTT-3.1.2-8"],
        will_is_sent_on_disconnect_with_an_error => ["MQTT-3.1.2-8", "MQTT-3.1.2-10"],
        will_is_not_sent_on_normal_disconnect => ["MQTT-3.1.2-8", "MQTT-3.1.2-10"],
        will_is_sent_once => ["MQTT-3.1.2-10"],
        will_is_not_inherited_by_the_next_connection => ["MQTT-3.1.2-10"],
        will_without_delay_is_sent_on_takeover => ["MQTT-3.1.2-8"],
        will_is_sent_on_takeover_with_clean_start => ["MQTT-3.1.2-8", "MQTT-3.1.2-4"],
        will_waits_for_its_delay => ["MQTT-3.1.2-8"],
        will_is_sent_when_the_session_expires_before_the_delay => ["MQTT-3.1.2-8"],
        will_delay_is_void_without_session => ["MQTT-3.1.2-8"],
        will_is_not_sent_after_reconnecting_in_time => ["MQTT-3.1.3-9", "MQTT-3.1.2-8"],
        will_of_the_new_connection_counts => ["MQTT-3.1.2-7"],
        will_is_sent_with_its_qos => ["MQTT-3.1.2-7"],
        will_with_empty_payload_is_sent => ["MQTT-3.1.2-7"],
        will_without_retain_is_not_retained => ["MQTT-3.1.2-14"],
        will_with_retain_is_retained => ["MQTT-3.1.2-15"],
        will_properties_are_sent => ["MQTT-3.1.2-7"],
        will_user_properties_keep_their_order => ["MQTT-3.1.3-10"],
        will_delay_is_not_sent_to_subscribers => ["MQTT-3.1.2-7"],
    },
    unobservable: {},
};

/// A watcher of a fresh will topic, and that topic.
fn scene(ctx: &Ctx) -> Result<(Client, String)> {
    let topic = ctx.topic("will");
    let watcher = subscriber(ctx, "watcher", &topic, ctx.limits().maximum_qos)?;
    Ok((watcher, topic))
}

fn doomed(ctx: &Ctx, will: Will) -> Connect {
    ctx.v5("doomed").will(will)
}

/// No will has come and none comes.
fn no_will(ctx: &Ctx, watcher: &mut Client, topic: &str) -> Result<()> {
    watcher.expect_quiet_for(GRACE)?;
    nothing_but_marker(&mut ctx.client("marker")?, watcher, topic)
}

fn will_is_sent_on_network_failure(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone")))?.cut()?;
    watcher.expect_message(&topic, "gone")?;
    no_will(ctx, &mut watcher, &topic)
}

fn will_is_sent_on_protocol_error(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let mut client = ctx.connect(&doomed(ctx, Will::new(&topic, "gone")))?;
    client.send(&build::frame(first::PUBLISH | 0x06, &[0, 1, b'a', 0, 1, 0]))?;
    client.expect_closed()?;
    watcher.expect_message(&topic, "gone")?;
    Ok(())
}

fn leave_with(ctx: &Ctx, reason: u8) -> Result<(Client, String)> {
    let (watcher, topic) = scene(ctx)?;
    let mut client = ctx.connect(&doomed(ctx, Will::new(&topic, "gone")))?;
    client.send(&build::disconnect_with(reason, &Props::new()))?;
    client.cut()?;
    Ok((watcher, topic))
}

fn will_is_sent_on_disconnect_with_will(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = leave_with(ctx, 0x04)?;
    watcher.expect_message(&topic, "gone").map(drop)
}

fn will_is_sent_on_disconnect_with_an_error(ctx: &Ctx) -> Result<()> {
    for reason in [0x80, 0x81, 0x83, 0x93] {
        let (mut watcher, topic) = leave_with(ctx, reason)?;
        watcher.expect_message(&topic, "gone").with_context(|| format!("DISCONNECT {reason:#04x}"))?;
    }
    Ok(())
}

fn will_is_not_sent_on_normal_disconnect(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone")))?.disconnect()?;
    no_will(ctx, &mut watcher, &topic)?;
    drop(watcher);
    let (mut watcher, topic) = leave_with(ctx, 0x00)?;
    no_will(ctx, &mut watcher, &topic)
}

/// The session goes on after the will was sent; a second, polite end of it must not send the will again.
fn will_is_sent_once(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone")).session_expiry(1))?.cut()?;
    watcher.expect_message(&topic, "gone")?;
    watcher.expect_quiet_for(Duration::from_millis(1800))?;
    no_will(ctx, &mut watcher, &topic)
}

fn will_is_not_inherited_by_the_next_connection(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let connect = doomed(ctx, Will::new(&topic, "gone")).session_expiry(30);
    ctx.connect(&connect)?.disconnect()?;
    ctx.connect(&ctx.v5("doomed").resume())?.cut()?;
    no_will(ctx, &mut watcher, &topic)
}

fn will_without_delay_is_sent_on_takeover(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let mut old = ctx.connect(&doomed(ctx, Will::new(&topic, "gone")).session_expiry(30))?;
    let new = ctx.connect(&ctx.v5("doomed").resume())?;
    old.expect_closed()?;
    watcher.expect_message(&topic, "gone")?;
    new.disconnect()
}

fn will_is_sent_on_takeover_with_clean_start(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let mut old = ctx.connect(&doomed(ctx, Will::new(&topic, "gone")).session_expiry(30))?;
    let new = ctx.client("doomed")?;
    old.expect_closed()?;
    watcher.expect_message(&topic, "gone")?;
    new.disconnect()
}

/// Expects the will between `earliest` and `latest` from now.
fn will_within(watcher: &mut Client, topic: &str, earliest: Duration, latest: Duration) -> Result<()> {
    watcher.expect_quiet_for(earliest).context("the will came too early")?;
    watcher.patient(latest - earliest).expect_message(topic, "gone").map(drop)
}

fn will_waits_for_its_delay(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone").delay(2)).session_expiry(60))?.cut()?;
    will_within(&mut watcher, &topic, Duration::from_millis(900), ctx.timer(Duration::from_secs(2)))?;
    ctx.client("doomed")?.disconnect()
}

fn will_is_sent_when_the_session_expires_before_the_delay(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone").delay(60)).session_expiry(1))?.cut()?;
    will_within(&mut watcher, &topic, Duration::ZERO, ctx.timer(Duration::from_secs(1)))
}

/// The session ends with the connection (no Session Expiry Interval), and so does the delay.
fn will_delay_is_void_without_session(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone").delay(60)))?.cut()?;
    watcher.expect_message(&topic, "gone").map(drop)
}

fn will_is_not_sent_after_reconnecting_in_time(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let connect = doomed(ctx, Will::new(&topic, "gone").delay(2)).session_expiry(60);
    ctx.connect(&connect)?.cut()?;
    let back = ctx.connect(&ctx.v5("doomed").resume().session_expiry(60))?;
    watcher.expect_quiet_for(Duration::from_millis(3300)).context("the will was sent although the client was back")?;
    back.disconnect()?;
    no_will(ctx, &mut watcher, &topic)?;
    ctx.client("doomed")?.disconnect()
}

fn will_of_the_new_connection_counts(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let first = doomed(ctx, Will::new(&topic, "first")).session_expiry(30);
    ctx.connect(&first)?.disconnect()?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "second")).resume())?.cut()?;
    watcher.expect_message(&topic, "second")?;
    no_will(ctx, &mut watcher, &topic)
}

fn will_is_sent_with_its_qos(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    for qos in 0..=ctx.limits().maximum_qos {
        ctx.connect(&doomed(ctx, Will::new(&topic, "gone").qos(qos)))?.cut()?;
        let message = watcher.expect_message(&topic, "gone")?;
        ensure!(message.qos == qos, "a will of QoS {qos} came with QoS {}", message.qos);
        watcher.acknowledge(&message)?;
    }
    Ok(())
}

fn will_with_empty_payload_is_sent(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "")))?.cut()?;
    watcher.expect_message(&topic, "").map(drop)
}

fn need_retain(ctx: &Ctx) -> Result<()> {
    if ctx.limits().retain { Ok(()) } else { skip("server announces Retain Available 0") }
}

fn will_without_retain_is_not_retained(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone")))?.cut()?;
    watcher.expect_message(&topic, "gone")?;
    let mut late = subscriber(ctx, "late", &topic, 0)?;
    nothing_but_marker(&mut ctx.client("marker")?, &mut late, &topic)
}

fn will_with_retain_is_retained(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone").retain()))?.cut()?;
    watcher.expect_message(&topic, "gone")?;
    let mut late = subscriber(ctx, "late", &topic, 0)?;
    let message = late.expect_message(&topic, "gone")?;
    ensure!(message.retain, "a retained message sent for a new subscription has retain 0");
    clear_retained(ctx, &topic)
}

fn will_properties_are_sent(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let props = Props::new()
        .byte(prop::PAYLOAD_FORMAT, 1)
        .four(prop::MESSAGE_EXPIRY, 1000)
        .text(prop::CONTENT_TYPE, "text/plain")
        .text(prop::RESPONSE_TOPIC, "answers/here")
        .text(prop::CORRELATION_DATA, [0, 0xFF, 1]);
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone").props(props)))?.cut()?;
    let props = watcher.expect_message(&topic, "gone")?.props;
    ensure!(props.number(prop::PAYLOAD_FORMAT) == Some(1), "Payload Format Indicator is lost: {props:?}");
    ensure!(props.text(prop::CONTENT_TYPE) == Some("text/plain"), "Content Type is lost: {props:?}");
    ensure!(props.text(prop::RESPONSE_TOPIC) == Some("answers/here"), "Response Topic is lost: {props:?}");
    ensure!(props.binary(prop::CORRELATION_DATA) == Some(&[0, 0xFF, 1]), "Correlation Data is lost: {props:?}");
    let expiry = props.number(prop::MESSAGE_EXPIRY);
    ensure!(expiry.is_some_and(|seconds| (900..=1000).contains(&seconds)), "Message Expiry Interval is {expiry:?}");
    Ok(())
}

fn will_user_properties_keep_their_order(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("", ""), ("a", "2")];
    let props = pairs.iter().fold(Props::new(), |props, (name, value)| props.pair(name, value));
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone").props(props)))?.cut()?;
    let message = watcher.expect_message(&topic, "gone")?;
    ensure!(message.props.pairs() == pairs, "user properties came as {:?}", message.props.pairs());
    Ok(())
}

/// The reader refuses a PUBLISH with a Will Delay Interval.
fn will_delay_is_not_sent_to_subscribers(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, Will::new(&topic, "gone").delay(1)))?.cut()?;
    watcher.expect_message(&topic, "gone")?;
    watcher.send_publish(&Publish::new(&topic, "marker"))?;
    watcher.expect_message(&topic, "marker").map(drop)
}
