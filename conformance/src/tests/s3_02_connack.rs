//! Owns the tests of section 3.2, CONNACK. Never tests what the connection is used for afterwards.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};

use super::common::{GRACE, refused};
use crate::context::{Ctx, Limits, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{self, Connect, Props, Publish, Subscribe, Will};
use crate::wire::prop;
use crate::wire::read::{Connack, Packet, decode};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.2",
    title: "CONNACK",
    tests: {
        connack_comes_before_queued_messages => ["MQTT-3.2.0-1"],
        connack_comes_before_answers_to_early_packets => ["MQTT-3.2.0-1"],
        refusal_is_the_connack_alone => ["MQTT-3.2.0-1", "MQTT-3.2.2-7"],
        one_connack_only => ["MQTT-3.2.0-2"],
        reserved_flags_are_zero => ["MQTT-3.2.2-1"],
        session_present_is_zero_after_clean_start => ["MQTT-3.2.2-2"],
        session_present_tells_whether_there_was_a_session => ["MQTT-3.2.2-3"],
        session_present_is_zero_in_a_refusal => ["MQTT-3.2.2-6"],
        connection_is_closed_after_a_refusal => ["MQTT-3.2.2-7"],
        reason_codes_are_from_the_table => ["MQTT-3.2.2-8"],
        qos_not_ruled_out_is_supported => ["MQTT-3.2.2-9"],
        subscriptions_of_every_qos_are_accepted => ["MQTT-3.2.2-10"],
        will_above_maximum_qos_is_refused => ["MQTT-3.2.2-12"],
        retained_will_without_retain_support_is_refused => ["MQTT-3.2.2-13"],
        assigned_client_ids_are_unique => ["MQTT-3.2.2-16"],
        reason_string_is_left_out_of_a_small_connack => ["MQTT-3.2.2-19"],
        user_properties_are_left_out_of_a_small_connack => ["MQTT-3.2.2-20"],
        announced_keep_alive_or_the_clients_own_is_applied => ["MQTT-3.2.2-22"],
        publish_above_maximum_qos_closes => ["MQTT-3.2.2-11", "MQTT-4.13.1-1"],
    },
    unobservable: {},
};

/// The audit refuses any packet before CONNACK.
fn connack_comes_before_queued_messages(ctx: &Ctx) -> Result<()> {
    if ctx.limits().maximum_qos < 1 {
        return skip("server announces Maximum QoS 0");
    }
    let topic = ctx.topic("queue");
    let connect = ctx.v5("queue").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 1)?;
    client.disconnect()?;
    ctx.client("publisher")?.publish(&topic, 1, "queued")?;
    let mut client = ctx.connect(&ctx.v5("queue").resume())?;
    client.expect_message(&topic, "queued")?;
    client.disconnect()
}

fn connack_comes_before_answers_to_early_packets(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.open(V5)?;
    let subscribe = Subscribe::new(1).filter(ctx.topic("early"), 0).bytes(V5);
    client.send(&[ctx.v5("early").bytes(), build::pingreq(), subscribe].concat())?;
    client.expect_accepted()?;
    client.expect_pingresp()?;
    client.expect_suback(1).map(drop)
}

/// CONNECTs that every broker has to refuse, each in its own way. What brokers are known to let pass is judged in the
/// file of malformed CONNECTs, lest it spoils the tests here.
fn refusals(ctx: &Ctx, tag: &str) -> Vec<(&'static str, Connect)> {
    let with = |props: Props| ctx.v5(tag).props(props);
    vec![
        ("reserved flag", ctx.v5(tag).set_flags(0x01)),
        ("will QoS 3", ctx.v5(tag).will(Will::new("a", "x").qos(3))),
        ("Receive Maximum 0", with(Props::new().two(prop::RECEIVE_MAXIMUM, 0))),
        ("unknown method", with(Props::new().text(prop::AUTH_METHOD, "NO-SUCH-METHOD"))),
        ("unknown property", with(Props::new().byte(0x7F, 0))),
        ("duplicate property", with(Props::new().four(prop::SESSION_EXPIRY, 1).four(prop::SESSION_EXPIRY, 1))),
    ]
}

fn refusal_is_the_connack_alone(ctx: &Ctx) -> Result<()> {
    for (name, connect) in refusals(ctx, "refused") {
        let mut client = ctx.open(V5)?;
        client.send(&[connect.bytes(), build::pingreq()].concat())?;
        client.expect_refused().context(name)?;
    }
    Ok(())
}

fn one_connack_only(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("one")?;
    client.expect_silence()?;
    client.subscribe(ctx.topic("one"), 0)?;
    client.expect_quiet_for(GRACE)
}

/// The reader checks bits 7 to 1; here in the CONNACK of a new, a resumed and a refused connection.
fn reserved_flags_are_zero(ctx: &Ctx) -> Result<()> {
    let connect = ctx.v5("flags").session_expiry(30);
    ctx.connect(&connect)?.disconnect()?;
    ctx.connect(&connect.resume())?.disconnect()?;
    ctx.client("flags")?.disconnect()?;
    refused(ctx, &ctx.v5("flags").props(Props::new().two(prop::RECEIVE_MAXIMUM, 0))).map(drop)
}

fn session_present_is_zero_after_clean_start(ctx: &Ctx) -> Result<()> {
    let connect = ctx.v5("clean").session_expiry(30);
    for _ in 0..2 {
        let client = ctx.connect(&connect)?;
        ensure!(!client.connack.session_present, "session present is 1 after Clean Start 1");
        client.disconnect()?;
    }
    ctx.client("clean")?.disconnect()
}

fn session_present_tells_whether_there_was_a_session(ctx: &Ctx) -> Result<()> {
    let connect = ctx.v5("present").session_expiry(30).resume();
    for expected in [false, true, true] {
        let client = ctx.connect(&connect)?;
        let found = client.connack.session_present;
        ensure!(found == expected, "session present is {found}, expected {expected}");
        client.disconnect()?;
    }
    ctx.client("present")?.disconnect()?;
    let client = ctx.connect(&ctx.v5("present").resume())?;
    ensure!(!client.connack.session_present, "session present is 1 after a Clean Start ended the session");
    client.disconnect()
}

/// The reader checks the flag of every refusal; here there is a session that could be called present.
fn session_present_is_zero_in_a_refusal(ctx: &Ctx) -> Result<()> {
    ctx.connect(&ctx.v5("present").session_expiry(30))?.disconnect()?;
    for (name, connect) in refusals(ctx, "present") {
        refused(ctx, &connect.resume()).context(name)?;
    }
    ctx.client("present")?.disconnect()
}

fn connection_is_closed_after_a_refusal(ctx: &Ctx) -> Result<()> {
    for (name, connect) in refusals(ctx, "refused") {
        refused(ctx, &connect).context(name)?;
    }
    Ok(())
}

/// The reader checks the codes of all refusals.
fn reason_codes_are_from_the_table(ctx: &Ctx) -> Result<()> {
    for (name, connect) in refusals(ctx, "codes") {
        let refusal = refused(ctx, &connect).context(name)?;
        let reason = refusal.map_or(0x80, |connack| connack.reason);
        ensure!(reason >= 0x80, "{name}: CONNACK has reason code {reason:#04x}");
    }
    Ok(())
}

fn qos_not_ruled_out_is_supported(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("qos");
    let maximum = ctx.limits().maximum_qos;
    let mut client = ctx.client("qos")?;
    for qos in 0..=maximum {
        client.publish(&topic, qos, "x").with_context(|| format!("QoS {qos}, Maximum QoS {maximum}"))?;
    }
    client.expect_silence()
}

fn subscriptions_of_every_qos_are_accepted(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("qos")?;
    for qos in 0..=2 {
        let id = client.next_id();
        let answer = client.subscribe_packet(&Subscribe::new(id).filter(ctx.topic("qos"), qos))?;
        let granted = answer.reasons.first().copied().unwrap_or(0x80);
        ensure!(granted <= qos, "SUBACK has {granted:#04x} for a SUBSCRIBE of QoS {qos}");
    }
    Ok(())
}

fn will_above_maximum_qos_is_refused(ctx: &Ctx) -> Result<()> {
    let maximum = ctx.limits().maximum_qos;
    if maximum == 2 {
        return skip("server supports every QoS");
    }
    refused(ctx, &ctx.v5("will").will(Will::new(ctx.topic("will"), "x").qos(maximum + 1))).map(drop)
}

fn retained_will_without_retain_support_is_refused(ctx: &Ctx) -> Result<()> {
    if ctx.limits().retain {
        return skip("server supports retained messages");
    }
    refused(ctx, &ctx.v5("will").will(Will::new(ctx.topic("will"), "x").retain())).map(drop)
}

fn assigned_client_ids_are_unique(ctx: &Ctx) -> Result<()> {
    let mut seen = HashSet::new();
    let mut clients = Vec::new();
    let nameless = Connect { client_id: Vec::new(), ..ctx.v5("") };
    for _ in 0..20 {
        let mut client = ctx.open(V5)?;
        client.send_connect(&nameless)?;
        let connack = client.expect_connack()?;
        if connack.reason != 0 {
            return skip(format!("server refuses empty client ids with {:#04x}", connack.reason));
        }
        let id = connack.props.text(prop::ASSIGNED_CLIENT_ID).context("no Assigned Client Identifier")?.to_owned();
        ensure!(seen.insert(id.clone()), "the client id {id:?} was assigned twice");
        clients.push(client);
    }
    // A taken-over connection would be closed by now.
    clients.iter_mut().try_for_each(crate::client::Client::expect_silence)
}

/// Refusals and one acceptance, with a Maximum Packet Size in which a bare CONNACK fits and an explanation does not.
fn small_connacks(ctx: &Ctx) -> Result<()> {
    let small = |connect: Connect| {
        let props = connect.props.clone().four(prop::MAXIMUM_PACKET_SIZE, 8);
        connect.props(props)
    };
    for (name, connect) in refusals(ctx, "small") {
        let mut client = ctx.open(V5)?;
        client.send(&small(connect).bytes())?;
        let answer = client.read_to_end().context(name)?;
        ensure!(
            answer.len() <= 8,
            "{name}: a CONNACK of {} bytes for a client with Maximum Packet Size 8",
            answer.len()
        );
        if !answer.is_empty() {
            let packet = decode(V5, &answer)?;
            ensure!(
                matches!(&packet, Packet::Connack(Connack { reason, .. }) if *reason != 0),
                "{name}: got {packet:02x?}"
            );
        }
    }
    Ok(())
}

fn reason_string_is_left_out_of_a_small_connack(ctx: &Ctx) -> Result<()> {
    small_connacks(ctx)
}

/// An accepted CONNECT whose limits take more room than the client has may only be refused or closed; with 64 bytes,
/// more than the limits and a short assigned id need, it must not be larger.
fn user_properties_are_left_out_of_a_small_connack(ctx: &Ctx) -> Result<()> {
    small_connacks(ctx)?;
    let client = ctx.connect(&ctx.v5("small").props(Props::new().four(prop::MAXIMUM_PACKET_SIZE, 64)))?;
    client.disconnect()
}

/// Whatever keep alive is in force, a client that keeps to it stays connected: here one that asked for the longest.
fn announced_keep_alive_or_the_clients_own_is_applied(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.connect(&ctx.v5("keep").keep_alive(2))?;
    let seconds = client.connack.props.number(prop::SERVER_KEEP_ALIVE).unwrap_or(2);
    if seconds > 5 {
        return skip(format!("server imposes a keep alive of {seconds} s"));
    }
    let period = std::time::Duration::from_secs(seconds.into());
    client.expect_quiet_for(period).context("closed before the keep alive was over")?;
    client.expect_silence()?;
    client.expect_closed_within(ctx.timer(period * 3 / 2)).map(drop)
}

fn publish_above_maximum_qos_closes(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("above")?;
    let maximum = Limits::of(&client.connack).maximum_qos;
    if maximum == 2 {
        return skip("server supports every QoS");
    }
    client.send_publish(&Publish::new(ctx.topic("above"), "x").qos(maximum + 1, 1))?;
    client.expect_closed().map(drop)
}
