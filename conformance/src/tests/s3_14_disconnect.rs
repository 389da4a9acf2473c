//! Owns the tests of section 3.14: DISCONNECT in both directions. Never tests wills beyond what a DISCONNECT does to them.

use anyhow::{Context, Result, bail, ensure};

use super::common::{GRACE, closes_on, nothing_but_marker, refused, refused_bytes, subscriber, user_property};
use super::flows::{forget, need_qos, small_client};
use crate::client::{Client, Event};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{self, Connect, Props, Publish, Subscribe, Will, frame};
use crate::wire::read::{Notice, Packet};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.14",
    title: "DISCONNECT",
    tests: {
        refused_connect_gets_no_disconnect => ["MQTT-3.14.0-1"],
        connection_without_connect_gets_no_disconnect => ["MQTT-3.14.0-1"],
        wrong_fixed_flags_are_malformed => ["MQTT-3.14.1-1"],
        servers_disconnects_are_of_the_table => ["MQTT-3.14.2-1"],
        unknown_reason_is_no_normal_disconnect => ["MQTT-3.14.2-1"],
        servers_disconnects_have_no_session_expiry => ["MQTT-3.14.2-2"],
        small_disconnects_leave_out_the_reason_string => ["MQTT-3.14.2-3"],
        small_disconnects_leave_out_user_properties => ["MQTT-3.14.2-4"],
        nothing_follows_the_servers_disconnect => ["MQTT-3.14.4-1"],
        nothing_follows_the_disconnect_of_a_taken_over_connection => ["MQTT-3.14.4-1", "MQTT-3.14.4-2"],
        server_closes_behind_its_disconnect => ["MQTT-3.14.4-2"],
        disconnect_cancels_the_will => ["MQTT-3.14.4-3"],
        disconnect_cancels_the_will_in_its_long_forms => ["MQTT-3.14.4-3"],
        disconnect_cancels_a_delayed_will => ["MQTT-3.14.4-3"],
        disconnect_behind_a_publish_cancels_the_will_but_not_the_message => ["MQTT-3.14.4-3"],
        disconnect_may_end_the_session => ["MQTT-4.1.0-2"],
        disconnect_may_prolong_the_session => ["MQTT-3.1.2-23"],
        session_expiry_may_not_be_raised_from_zero => ["MQTT-4.13.1-1"],
        reason_string_and_user_properties_are_taken => ["MQTT-3.14.4-3"],
        foreign_property_is_no_normal_disconnect => ["MQTT-4.13.1-1"],
        duplicate_session_expiry_is_no_normal_disconnect => ["MQTT-4.13.1-1"],
    },
    unobservable: {},
};

fn refused_connect_gets_no_disconnect(ctx: &Ctx) -> Result<()> {
    let bad: [(&str, Connect); 4] = [
        ("reserved connect flag", ctx.v5("bad").set_flags(0x01)),
        ("two session expiries", ctx.v5("bad").session_expiry(1).session_expiry(1)),
        ("will QoS 3", ctx.v5("bad").will(Will::new("a", "b").qos(3))),
        ("unknown method", ctx.v5("bad").props(Props::new().text(prop::AUTH_METHOD, "CONFORMANCE-NONE"))),
    ];
    bad.iter().try_for_each(|(name, connect)| refused(ctx, connect).map(drop).context(*name))
}

fn connection_without_connect_gets_no_disconnect(ctx: &Ctx) -> Result<()> {
    let packets = [
        build::pingreq(),
        Publish::new(ctx.topic("early"), "x").bytes(V5),
        Subscribe::new(1).filter("a", 0).bytes(V5),
        build::auth(0x18, &Props::new()),
        vec![0x00, 0x00],
    ];
    for packet in packets {
        let refusal = refused_bytes(ctx, &packet)?;
        ensure!(refusal.is_none_or(|connack| connack.reason >= 0x80), "accepted {packet:02x?}");
    }
    Ok(())
}

/// If the broker says why, it has to say 0x81.
fn wrong_fixed_flags_are_malformed(ctx: &Ctx) -> Result<()> {
    for flags in [1, 2, 4, 8, 15] {
        let notice = closes_on(ctx, &frame(first::DISCONNECT | flags, &[0, 0]))?;
        if let Some(notice) = notice {
            ensure!(notice.reason == 0x81, "flags {flags:04b}: DISCONNECT {:#04x} instead of 0x81", notice.reason);
        }
    }
    Ok(())
}

/// Mistakes of many kinds, each of which ends the connection, with a DISCONNECT or without.
fn mistakes(ctx: &Ctx) -> Vec<(&'static str, Vec<u8>)> {
    let topic = ctx.topic("mistake");
    vec![
        ("second CONNECT", ctx.v5("again").bytes()),
        ("wildcard in a topic name", Publish::new("a/#", "x").bytes(V5)),
        ("empty topic name", Publish::new("", "x").bytes(V5)),
        ("unknown topic alias", Publish::new("", "x").props(Props::new().two(prop::TOPIC_ALIAS, 65_535)).bytes(V5)),
        ("ill-formed topic name", Publish::new(b"a\xFF", "x").bytes(V5)),
        ("QoS 3", frame(first::PUBLISH | 6, &[0, 1, b'a', 0, 1, 0])),
        ("SUBSCRIBE without filters", Subscribe::new(1).bytes(V5)),
        ("reserved option bits", Subscribe::new(1).filter(&topic, 0xC0).bytes(V5)),
        ("packet type 0", vec![0, 0]),
        ("unknown property", Publish::new(&topic, "x").props(Props::new().raw(0x7F, [1])).bytes(V5)),
        ("AUTH without method", build::auth(0x19, &Props::new())),
    ]
}

fn notices(ctx: &Ctx) -> Result<Vec<(&'static str, Notice)>> {
    let mut found = Vec::new();
    for (name, bytes) in mistakes(ctx) {
        if let Some(notice) = closes_on(ctx, &bytes).context(name)? {
            found.push((name, notice));
        }
    }
    Ok(found)
}

/// The reader knows the table; `closes_on` refuses codes below 0x80, which would be none of an error.
fn servers_disconnects_are_of_the_table(ctx: &Ctx) -> Result<()> {
    notices(ctx).map(drop)
}

/// The reader refuses that property in a DISCONNECT from a server, also in that to a connection with an expiry.
fn servers_disconnects_have_no_session_expiry(ctx: &Ctx) -> Result<()> {
    for (name, notice) in notices(ctx)? {
        ensure!(!notice.props.has(prop::SESSION_EXPIRY), "{name}: Session Expiry Interval in {notice:02x?}");
    }
    let connect = ctx.v5("lasting").session_expiry(60);
    let mut old = ctx.connect(&connect)?;
    let new = ctx.connect(&connect)?;
    old.expect_closed()?;
    new.disconnect()?;
    forget(ctx, "lasting")
}

fn watched(ctx: &Ctx) -> Result<(Client, String)> {
    let topic = ctx.topic("will");
    Ok((subscriber(ctx, "watcher", &topic, 0)?, topic))
}

/// Whatever the broker takes it for, it is not reason 0x00, and so the will is due.
fn unknown_reason_is_no_normal_disconnect(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = watched(ctx)?;
    for reason in [0x01, 0x03, 0x7F, 0xFF] {
        let mut client = ctx.connect(&ctx.v5("leaving").will(Will::new(&topic, "gone")))?;
        client.send(&build::disconnect_with(reason, &Props::new()))?;
        client.expect_closed().with_context(|| format!("DISCONNECT {reason:#04x}"))?;
        watcher.expect_message(&topic, "gone").with_context(|| format!("DISCONNECT {reason:#04x}"))?;
    }
    Ok(())
}

fn small_disconnects(ctx: &Ctx) -> Result<()> {
    for (name, bytes) in mistakes(ctx) {
        let mut client = small_client(ctx, "small")?;
        client.send(&bytes)?;
        client.expect_closed().context(name)?;
    }
    let mut old = small_client(ctx, "taken")?;
    let new = ctx.client("taken")?;
    old.expect_closed().context("taken over")?;
    new.disconnect()
}

/// The audit measures each DISCONNECT.
fn small_disconnects_leave_out_the_reason_string(ctx: &Ctx) -> Result<()> {
    small_disconnects(ctx)
}

/// The client's own user properties are what a broker may give back.
fn small_disconnects_leave_out_user_properties(ctx: &Ctx) -> Result<()> {
    let props = user_property("name of the property", "a value longer than the client can take");
    let mut client = small_client(ctx, "small")?;
    client.send(&Publish::new("a/#", "x").props(props.clone()).bytes(V5))?;
    client.expect_closed()?;
    let mut client = small_client(ctx, "small")?;
    client.send(&Subscribe::new(1).props(props).filter(ctx.topic("small"), 0xC0).bytes(V5))?;
    client.expect_closed()?;
    small_disconnects(ctx)
}

/// Reads to the end and ignores messages before the DISCONNECT; the audit refuses any packet behind it.
fn ends_cleanly(client: &mut Client) -> Result<()> {
    loop {
        match client.next_event().context("waiting for the end")? {
            Event::Closed => return Ok(()),
            Event::Packet(Packet::Publish(_) | Packet::Disconnect(_)) => {}
            Event::Packet(other) => bail!("expected the end, got {other:02x?}"),
        }
    }
}

/// Others go on publishing to the offender, and it goes on asking.
fn nothing_follows_the_servers_disconnect(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("noise");
    let mut sender = ctx.client("sender")?;
    for (name, bytes) in mistakes(ctx) {
        let mut client = subscriber(ctx, "offender", &topic, 0)?;
        sender.send(&Publish::new(&topic, "noise").bytes(V5).repeat(20))?;
        client.send(&[bytes, build::pingreq().repeat(5)].concat())?;
        ends_cleanly(&mut client).context(name)?;
    }
    sender.expect_silence()
}

fn nothing_follows_the_disconnect_of_a_taken_over_connection(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("noise");
    let mut sender = ctx.client("sender")?;
    let mut old = subscriber(ctx, "taken", &topic, 0)?;
    sender.send(&Publish::new(&topic, "noise").bytes(V5).repeat(20))?;
    let new = ctx.client("taken")?;
    sender.send(&Publish::new(&topic, "noise").bytes(V5).repeat(20))?;
    ends_cleanly(&mut old)?;
    new.disconnect()?;
    sender.expect_silence()
}

fn server_closes_behind_its_disconnect(ctx: &Ctx) -> Result<()> {
    let found = notices(ctx)?;
    if found.is_empty() {
        return skip("server closes without any DISCONNECT, as it may");
    }
    Ok(())
}

/// Sends `farewell` with a will set; the will must not come.
fn will_is_cancelled(ctx: &Ctx, will: Will, farewell: &[u8]) -> Result<()> {
    let (mut watcher, topic) = watched(ctx)?;
    let mut client = ctx.connect(&ctx.v5("leaving").will(Will { topic: topic.clone().into(), ..will }))?;
    client.send(farewell)?;
    client.cut()?;
    watcher.expect_quiet_for(GRACE)?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut watcher, &topic)
}

fn disconnect_cancels_the_will(ctx: &Ctx) -> Result<()> {
    will_is_cancelled(ctx, Will::new("", "gone"), &build::disconnect())
}

fn disconnect_cancels_the_will_in_its_long_forms(ctx: &Ctx) -> Result<()> {
    will_is_cancelled(ctx, Will::new("", "gone"), &frame(first::DISCONNECT, &[0]))?;
    will_is_cancelled(ctx, Will::new("", "gone"), &frame(first::DISCONNECT, &[0, 0]))
}

fn disconnect_cancels_a_delayed_will(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = watched(ctx)?;
    let connect = ctx.v5("leaving").session_expiry(60).will(Will::new(&topic, "gone").delay(1));
    ctx.connect(&connect)?.disconnect()?;
    watcher.expect_quiet_for(std::time::Duration::from_secs(2))?;
    forget(ctx, "leaving")?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut watcher, &topic)
}

fn disconnect_behind_a_publish_cancels_the_will_but_not_the_message(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = watched(ctx)?;
    let mut client = ctx.connect(&ctx.v5("leaving").will(Will::new(&topic, "gone")))?;
    client.send(&[Publish::new(&topic, "last words").bytes(V5), build::disconnect()].concat())?;
    client.cut()?;
    watcher.expect_message(&topic, "last words")?;
    watcher.expect_quiet_for(GRACE)?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut watcher, &topic)
}

fn expiry(seconds: u32) -> Props {
    Props::new().four(prop::SESSION_EXPIRY, seconds)
}

fn disconnect_may_end_the_session(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.connect(&ctx.v5("ending").session_expiry(600))?;
    client.subscribe(ctx.topic("ending"), 0)?;
    client.send(&build::disconnect_with(0, &expiry(0)))?;
    client.cut()?;
    let client = ctx.connect(&ctx.v5("ending").resume())?;
    ensure!(!client.connack.session_present, "the session lives on after DISCONNECT with Session Expiry Interval 0");
    client.disconnect()
}

fn disconnect_may_prolong_the_session(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("lasting");
    let mut client = ctx.connect(&ctx.v5("lasting").session_expiry(1))?;
    client.subscribe(&topic, 1)?;
    client.send(&build::disconnect_with(0, &expiry(60)))?;
    client.cut()?;
    let mut sender = ctx.client("sender")?;
    sender.expect_quiet_for(std::time::Duration::from_millis(2500))?;
    sender.publish(&topic, 1, "queued")?;
    let mut client = ctx.connect(&ctx.v5("lasting").resume())?;
    ensure!(client.connack.session_present, "the session ended after the expiry of CONNECT, not that of DISCONNECT");
    let message = client.expect_message(&topic, "queued")?;
    client.acknowledge(&message)?;
    client.disconnect()
}

/// It is not a valid DISCONNECT then: nothing is kept, and the will is sent.
fn session_expiry_may_not_be_raised_from_zero(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = watched(ctx)?;
    let mut client = ctx.connect(&ctx.v5("raising").will(Will::new(&topic, "gone")))?;
    client.send(&build::disconnect_with(0, &expiry(60)))?;
    client.expect_closed()?;
    watcher.expect_message(&topic, "gone").context("an invalid DISCONNECT cancelled the will")?;
    let client = ctx.connect(&ctx.v5("raising").resume())?;
    ensure!(!client.connack.session_present, "the session is kept although CONNECT said expiry 0");
    client.disconnect()
}

fn reason_string_and_user_properties_are_taken(ctx: &Ctx) -> Result<()> {
    let props = user_property("a", "1").pair("a", "2").text(prop::REASON_STRING, "shift is over");
    will_is_cancelled(ctx, Will::new("", "gone"), &build::disconnect_with(0, &props))
}

/// A DISCONNECT with these properties is not well-formed, so it ends nothing politely: the will is due.
fn bad_farewell(ctx: &Ctx, props: &Props) -> Result<()> {
    let (mut watcher, topic) = watched(ctx)?;
    let connect = ctx.v5("leaving").session_expiry(1).will(Will::new(&topic, "gone"));
    let mut client = ctx.connect(&connect)?;
    client.send(&build::disconnect_with(0, props))?;
    client.expect_closed()?;
    watcher.expect_message(&topic, "gone").context("a malformed DISCONNECT was taken for a normal one").map(drop)
}

fn foreign_property_is_no_normal_disconnect(ctx: &Ctx) -> Result<()> {
    bad_farewell(ctx, &Props::new().two(prop::RECEIVE_MAXIMUM, 1))
}

fn duplicate_session_expiry_is_no_normal_disconnect(ctx: &Ctx) -> Result<()> {
    bad_farewell(ctx, &expiry(1).four(prop::SESSION_EXPIRY, 1))
}
