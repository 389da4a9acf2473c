//! Owns the tests of MQTT 3.1.1 and 3.1 about CONNECT and CONNACK: return codes, sessions, wills, keep alive, takeover.
//! Never tests what MQTT 5 has in the same form.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::common::{GRACE, ILL_FORMED, each};
use crate::client::Client;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::{V31, V311};
use crate::wire::build::{self, Connect, Publish, Will, frame};
use crate::wire::{Version, first};

/// The section.
pub const SECTION: Section = section! {
    prefix: "v311-connect",
    title: "MQTT 3.1.1 and 3.1: CONNECT",
    tests: {
        connack_is_two_bytes => ["MQTT311-3.2.0-1", "MQTT311-3.1.4-4"],
        mqisdp_level_3_connects => ["MQTT311-3.1.2-2"],
        mqisdp_client_publishes_and_subscribes => ["MQTT311-3.1.2-2"],
        unknown_level_is_refused_with_1 => ["MQTT311-3.1.2-2", "MQTT311-3.2.2-5"],
        unknown_protocol_name_is_not_served => ["MQTT311-3.1.2-1"],
        first_packet_must_be_connect => ["MQTT311-3.1.0-1"],
        second_connect_closes => ["MQTT311-3.1.0-2"],
        reserved_flag_closes_without_connack => ["MQTT311-3.1.2-3", "MQTT311-3.1.4-1"],
        will_qos_3_closes_without_connack => ["MQTT311-3.1.2-14", "MQTT311-3.1.4-1"],
        will_qos_without_will_closes_without_connack => ["MQTT311-3.1.2-13", "MQTT311-3.1.4-1"],
        will_retain_without_will_closes_without_connack => ["MQTT311-3.1.2-15", "MQTT311-3.1.4-1"],
        password_without_user_name_closes_without_connack => ["MQTT311-3.1.2-22", "MQTT311-3.1.4-1"],
        missing_user_name_closes_without_connack => ["MQTT311-3.1.2-19", "MQTT311-3.1.4-1"],
        missing_password_closes_without_connack => ["MQTT311-3.1.2-21", "MQTT311-3.1.4-1"],
        missing_will_closes_without_connack => ["MQTT311-3.1.2-9", "MQTT311-3.1.4-1"],
        missing_client_id_closes_without_connack => ["MQTT311-3.1.3-3", "MQTT311-3.1.4-1"],
        ill_formed_client_id_is_refused => ["MQTT311-3.1.3-4", "MQTT311-1.5.3-1"],
        client_ids_of_one_to_23_letters_and_digits_are_accepted => ["MQTT311-3.1.3-5"],
        empty_client_id_with_clean_session_is_served_or_refused_with_2 => ["MQTT311-3.1.3-6", "MQTT311-3.1.3-9"],
        empty_client_id_without_clean_session_is_refused_with_2 => ["MQTT311-3.1.3-8", "MQTT311-3.2.2-5"],
        wrong_credential_is_refused_with_4_or_5 => ["MQTT311-3.2.2-4", "MQTT311-3.2.2-5"],
        nothing_is_processed_after_a_refusal => ["MQTT311-3.1.4-5"],
        session_present_is_0_after_clean_session_1 => ["MQTT311-3.2.2-1", "MQTT311-3.1.2-6"],
        session_present_is_1_for_a_stored_session => ["MQTT311-3.2.2-2", "MQTT311-3.1.2-4"],
        session_present_is_0_without_a_stored_session => ["MQTT311-3.2.2-3"],
        clean_session_leaves_no_session => ["MQTT311-3.1.2-6", "MQTT311-3.2.2-3"],
        clean_session_discards_the_stored_session => ["MQTT311-3.1.2-6"],
        session_survives_disconnect_and_failure => ["MQTT311-3.1.2-4"],
        session_stores_messages_for_the_absent => ["MQTT311-3.1.2-5"],
        retained_messages_outlive_the_session => ["MQTT311-3.1.2-7"],
        takeover_closes_the_old_connection => ["MQTT311-3.1.4-2"],
        takeover_keeps_the_session => ["MQTT311-3.1.4-2", "MQTT311-3.1.4-3"],
        silent_client_is_closed_after_keep_alive => ["MQTT311-3.1.2-24"],
        will_is_sent_on_network_failure => ["MQTT311-3.1.2-8"],
        will_is_sent_on_protocol_violation => ["MQTT311-3.1.2-8"],
        will_is_sent_on_takeover => ["MQTT311-3.1.2-8", "MQTT311-3.1.4-2"],
        will_is_not_sent_on_disconnect => ["MQTT311-3.1.2-10", "MQTT311-3.14.4-3"],
        will_is_sent_with_its_qos => ["MQTT311-3.1.2-9"],
        will_without_retain_is_not_retained => ["MQTT311-3.1.2-16"],
        will_with_retain_is_retained => ["MQTT311-3.1.2-17"],
    },
    unobservable: {},
};

/// A connected MQTT 3.1.1 client.
pub fn client(ctx: &Ctx, tag: &str) -> Result<Client> {
    ctx.connect(&ctx.v311(tag))
}

/// A connected MQTT 3.1.1 client with a subscription.
pub fn watcher(ctx: &Ctx, tag: &str, filter: &str, qos: u8) -> Result<Client> {
    let mut client = client(ctx, tag)?;
    client.subscribe(filter, qos)?;
    Ok(client)
}

/// Leaves a session with a subscription; returns the CONNECT that resumes it.
pub fn leave_session(ctx: &Ctx, tag: &str, topic: &str, qos: u8) -> Result<Connect> {
    let connect = ctx.v311(tag).resume();
    let mut client = ctx.connect(&connect)?;
    client.subscribe(topic, qos)?;
    client.disconnect()?;
    Ok(connect)
}

/// Resumes a session, and fails if there is none.
pub fn resumed(ctx: &Ctx, connect: &Connect) -> Result<Client> {
    let client = ctx.connect(connect)?;
    ensure!(client.connack.session_present, "the session is gone (session present 0)");
    Ok(client)
}

/// Removes the session of a client id.
pub fn end_session(ctx: &Ctx, tag: &str) -> Result<()> {
    client(ctx, tag)?.disconnect()
}

/// Nothing has been sent to `watcher` and nothing comes before a marker.
pub fn only_marker(ctx: &Ctx, watcher: &mut Client, topic: &str) -> Result<()> {
    super::common::nothing_but_marker(&mut client(ctx, "marker")?, watcher, topic)
}

/// MQTT 3.1.1 leaves no choice here: the connection is closed, and no CONNACK sent.
fn closes_without_connack(ctx: &Ctx, bytes: &[u8]) -> Result<()> {
    let mut client = ctx.open(V311)?;
    client.send(bytes)?;
    let refusal = client.expect_refused()?;
    ensure!(refusal.is_none(), "a malformed CONNECT must be answered by closing alone, not by a CONNACK: {refusal:?}");
    Ok(())
}

fn connack_is_two_bytes(ctx: &Ctx) -> Result<()> {
    for connect in [ctx.v311("plain"), ctx.v311("plain").resume(), ctx.v311("plain").keep_alive(0)] {
        let mut client = ctx.connect(&connect)?;
        client.expect_silence()?;
        client.disconnect()?;
    }
    end_session(ctx, "plain")
}

fn mqisdp_level_3_connects(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.connect(&ctx.connect_packet(V31, "old"))?;
    client.expect_silence()?;
    client.disconnect()
}

fn mqisdp_client_publishes_and_subscribes(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("old");
    let mut client = ctx.connect(&ctx.connect_packet(V31, "old"))?;
    for qos in 0..=ctx.limits().maximum_qos {
        client.subscribe(&topic, qos)?;
        ctx.connect(&ctx.connect_packet(V31, "sender"))?.publish(&topic, qos, "x")?;
        let message = client.expect_message(&topic, "x")?;
        ensure!(message.qos == qos, "QoS {} instead of {qos}", message.qos);
        client.acknowledge(&message)?;
        client.unsubscribe(&topic)?;
    }
    client.disconnect()
}

/// The CONNACK may have the form of MQTT 3.1.1 or, from a broker that knows MQTT 5 too, that of MQTT 5 with code 0x84.
fn unknown_level_is_refused_with_1(ctx: &Ctx) -> Result<()> {
    for level in [0, 1, 2, 6, 7, 0x7F] {
        let mut client = ctx.open(V311)?;
        client.send(&ctx.v311("level").protocol("MQTT", level).bytes())?;
        let answer = client.read_to_end()?;
        let right = answer == [first::CONNACK, 2, 0, 1] || matches!(answer[..], [first::CONNACK, _, 0, 0x84, ..]);
        ensure!(right, "level {level} is answered {answer:02x?}, expected CONNACK with return code 1");
    }
    Ok(())
}

fn unknown_protocol_name_is_not_served(ctx: &Ctx) -> Result<()> {
    for (name, level) in [("MQTX", 4), ("mqtt", 4), ("MQISDP", 3), ("", 4), ("MQTTT", 4), ("HTTP", 4)] {
        let mut client = ctx.open(V311)?;
        client.send(&ctx.v311("name").protocol(name, level).bytes())?;
        let answer = client.read_to_end().with_context(|| format!("protocol name {name:?}"))?;
        ensure!(answer.get(3) != Some(&0), "protocol name {name:?} is served: {answer:02x?}");
    }
    Ok(())
}

fn first_packet_must_be_connect(ctx: &Ctx) -> Result<()> {
    for bytes in [build::pingreq(), Publish::new(ctx.topic("a"), "x").bytes(V311), build::disconnect()] {
        let mut client = ctx.open(V311)?;
        client.send(&bytes)?;
        client.expect_closed().with_context(|| format!("{bytes:02x?}"))?;
    }
    Ok(())
}

fn second_connect_closes(ctx: &Ctx) -> Result<()> {
    let connect = ctx.v311("twice");
    let mut client = ctx.connect(&connect)?;
    client.send(&connect.bytes())?;
    client.expect_closed().map(drop)
}

fn reserved_flag_closes_without_connack(ctx: &Ctx) -> Result<()> {
    closes_without_connack(ctx, &ctx.v311("reserved").set_flags(0x01).bytes())
}

fn will_qos_3_closes_without_connack(ctx: &Ctx) -> Result<()> {
    closes_without_connack(ctx, &ctx.v311("will").will(Will::new(ctx.topic("will"), "x").qos(3)).bytes())
}

fn will_qos_without_will_closes_without_connack(ctx: &Ctx) -> Result<()> {
    closes_without_connack(ctx, &ctx.v311("will").set_flags(0x08).bytes())
}

fn will_retain_without_will_closes_without_connack(ctx: &Ctx) -> Result<()> {
    closes_without_connack(ctx, &ctx.v311("will").set_flags(0x20).bytes())
}

fn password_without_user_name_closes_without_connack(ctx: &Ctx) -> Result<()> {
    let mut connect = ctx.v311("password").password("secret");
    connect.username = None;
    closes_without_connack(ctx, &connect.bytes())
}

/// A CONNECT that promises one more field with `flag` than it has.
fn lacking(ctx: &Ctx, flag: u8) -> Vec<u8> {
    Connect::new(V311, ctx.client_id("lacking")).set_flags(flag).bytes()
}

fn missing_user_name_closes_without_connack(ctx: &Ctx) -> Result<()> {
    closes_without_connack(ctx, &lacking(ctx, 0x80))
}

fn missing_password_closes_without_connack(ctx: &Ctx) -> Result<()> {
    let connect = Connect::new(V311, ctx.client_id("lacking")).username("name").set_flags(0x40);
    closes_without_connack(ctx, &connect.bytes())
}

fn missing_will_closes_without_connack(ctx: &Ctx) -> Result<()> {
    closes_without_connack(ctx, &lacking(ctx, 0x04))
}

fn missing_client_id_closes_without_connack(ctx: &Ctx) -> Result<()> {
    closes_without_connack(ctx, &frame(first::CONNECT, &ctx.v311("").header()))
}

fn refused(ctx: &Ctx, connect: &Connect) -> Result<Option<u8>> {
    let mut client = ctx.open(connect.version)?;
    client.send_connect(connect)?;
    Ok(client.expect_refused()?.map(|connack| connack.reason))
}

fn ill_formed_client_id_is_refused(ctx: &Ctx) -> Result<()> {
    each(ILL_FORMED, |id| {
        let mut connect = ctx.v311("");
        connect.client_id = id.into();
        refused(ctx, &connect).map(drop)
    })
}

fn client_ids_of_one_to_23_letters_and_digits_are_accepted(ctx: &Ctx) -> Result<()> {
    let long = format!("{:x<23}", ctx.client_id(""));
    for id in [&long[..23], &long[..22], "8", "yY", "0123456789ABCDEFGHIJKLM", "nopqrstuvwxyzNOPQRSTUVW"] {
        let mut connect = ctx.v311("");
        connect.client_id = id.into();
        ctx.connect(&connect).with_context(|| format!("client id {id:?}"))?.disconnect()?;
    }
    Ok(())
}

fn nameless(ctx: &Ctx) -> Connect {
    let mut connect = ctx.v311("");
    connect.client_id.clear();
    connect
}

/// Two such clients have different ids: they do not take each other's place.
fn empty_client_id_with_clean_session_is_served_or_refused_with_2(ctx: &Ctx) -> Result<()> {
    let mut one = ctx.open(V311)?;
    one.send_connect(&nameless(ctx))?;
    let connack = one.expect_connack()?;
    if connack.reason != 0 {
        ensure!(connack.reason == 2, "return code {}, expected 2 (identifier rejected)", connack.reason);
        return one.expect_closed().map(drop);
    }
    let mut two = ctx.connect(&nameless(ctx))?;
    two.expect_silence()?;
    one.expect_silence()
}

fn empty_client_id_without_clean_session_is_refused_with_2(ctx: &Ctx) -> Result<()> {
    let code = refused(ctx, &nameless(ctx).resume())?;
    ensure!(code == Some(2), "CONNACK return code {code:?}, expected 2 (identifier rejected)");
    Ok(())
}

fn wrong_credential_is_refused_with_4_or_5(ctx: &Ctx) -> Result<()> {
    let Some((name, password)) = &ctx.setup().credential else {
        return skip("needs --username and --password");
    };
    let connect = ctx.v311("auth").username(name).password(format!("{password}-wrong"));
    let code = refused(ctx, &connect)?;
    ensure!(matches!(code, None | Some(4 | 5)), "CONNACK return code {code:?}, expected 4 or 5");
    Ok(())
}

fn nothing_is_processed_after_a_refusal(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("sneaky");
    let mut watcher = watcher(ctx, "watcher", &topic, 0)?;
    let publish = Publish::new(&topic, "sneaked in").bytes(V311);
    for connect in [nameless(ctx).resume().bytes(), ctx.v311("sneaky").set_flags(0x01).bytes()] {
        let mut client = ctx.open(V311)?;
        client.send(&[connect, publish.clone()].concat())?;
        client.expect_refused()?;
    }
    watcher.expect_quiet_for(GRACE)?;
    only_marker(ctx, &mut watcher, &topic)
}

fn present(ctx: &Ctx, connect: &Connect) -> Result<bool> {
    let client = ctx.connect(connect)?;
    let present = client.connack.session_present;
    client.disconnect()?;
    Ok(present)
}

fn session_present_is_0_after_clean_session_1(ctx: &Ctx) -> Result<()> {
    leave_session(ctx, "clean", &ctx.topic("a"), 0)?;
    ensure!(!present(ctx, &ctx.v311("clean"))?, "session present is 1 after Clean Session 1");
    Ok(())
}

fn session_present_is_1_for_a_stored_session(ctx: &Ctx) -> Result<()> {
    let connect = leave_session(ctx, "kept", &ctx.topic("a"), 0)?;
    ensure!(present(ctx, &connect)?, "session present is 0 although the session is stored");
    end_session(ctx, "kept")
}

fn session_present_is_0_without_a_stored_session(ctx: &Ctx) -> Result<()> {
    ensure!(!present(ctx, &ctx.v311("fresh").resume())?, "session present is 1 for an id never seen");
    end_session(ctx, "fresh")
}

fn clean_session_leaves_no_session(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("brief");
    watcher(ctx, "brief", &topic, 0)?.disconnect()?;
    ensure!(!present(ctx, &ctx.v311("brief").resume())?, "a session of Clean Session 1 was kept");
    watcher(ctx, "brief", &topic, 0)?.cut()?;
    end_session(ctx, "brief")
}

fn clean_session_discards_the_stored_session(ctx: &Ctx) -> Result<()> {
    let [old, marker] = ["old", "marker"].map(|name| ctx.topic(name));
    let qos = ctx.limits().maximum_qos;
    leave_session(ctx, "clean", &old, qos)?;
    let mut publisher = client(ctx, "publisher")?;
    publisher.publish(&old, qos, "for the old session")?;
    let mut fresh = watcher(ctx, "clean", &marker, 0)?;
    publisher.publish(&old, qos, "for nobody")?;
    only_marker(ctx, &mut fresh, &marker)
}

fn session_survives_disconnect_and_failure(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("kept");
    let connect = leave_session(ctx, "kept", &topic, 0)?;
    resumed(ctx, &connect)?.cut()?;
    let mut client = resumed(ctx, &connect)?;
    client.publish(&topic, 0, "x")?;
    client.expect_message(&topic, "x")?;
    client.disconnect()?;
    end_session(ctx, "kept")
}

fn session_stores_messages_for_the_absent(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("absent");
    for qos in 1..=ctx.limits().maximum_qos {
        let connect = leave_session(ctx, "absent", &topic, qos)?;
        let mut publisher = client(ctx, "publisher")?;
        for payload in ["one", "two", "three"] {
            publisher.publish(&topic, qos, payload)?;
        }
        let mut client = resumed(ctx, &connect)?;
        let mut found = Vec::new();
        for payload in ["one", "two", "three"] {
            let message = client.expect_message(&topic, payload)?;
            ensure!(message.qos == qos && !message.dup, "QoS {} and DUP {}", message.qos, message.dup);
            found.push(message);
        }
        client.expect_silence()?;
        found.iter().try_for_each(|message| client.acknowledge(message))?;
        client.disconnect()?;
        end_session(ctx, "absent")?;
    }
    Ok(())
}

fn need_retain(ctx: &Ctx) -> Result<()> {
    super::s3_03_retain::need_retain(ctx)
}

fn retained_messages_outlive_the_session(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let mut brief = client(ctx, "brief")?;
    brief.publish_packet(Publish::new(&topic, "kept").retain(), ctx.limits().maximum_qos)?;
    brief.disconnect()?;
    end_session(ctx, "brief")?;
    watcher(ctx, "late", &topic, 0)?.expect_message(&topic, "kept")?;
    super::common::clear_retained(ctx, &topic)
}

/// The reader refuses a DISCONNECT, which no server sends in MQTT 3.1.1.
fn takeover_closes_the_old_connection(ctx: &Ctx) -> Result<()> {
    for version in [V311, V31] {
        let connect = ctx.connect_packet(version, "same");
        let mut old = ctx.connect(&connect)?;
        let mut new = ctx.connect(&connect)?;
        old.expect_closed()?;
        new.expect_silence()?;
        new.disconnect()?;
    }
    Ok(())
}

fn takeover_keeps_the_session(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("same");
    let connect = ctx.v311("same").resume();
    let mut old = ctx.connect(&connect)?;
    old.subscribe(&topic, 0)?;
    let mut new = resumed(ctx, &connect)?;
    old.expect_closed()?;
    new.publish(&topic, 0, "x")?;
    new.expect_message(&topic, "x")?;
    new.disconnect()?;
    end_session(ctx, "same")
}

/// MQTT 3.1.1 has no Server Keep Alive: what the client asks for counts.
fn silent_client_is_closed_after_keep_alive(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.connect(&ctx.v311("silent").keep_alive(1))?;
    client.expect_quiet_for(Duration::from_millis(900)).context("within the keep alive")?;
    client.expect_closed_within(ctx.timer(Duration::from_millis(600))).map(drop)
}

/// A watcher of a fresh will topic, and that topic.
fn scene(ctx: &Ctx) -> Result<(Client, String)> {
    let topic = ctx.topic("will");
    Ok((watcher(ctx, "watcher", &topic, ctx.limits().maximum_qos)?, topic))
}

fn doomed(ctx: &Ctx, version: Version, will: Will) -> Connect {
    ctx.connect_packet(version, "doomed").will(will)
}

fn will_is_sent_on_network_failure(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    for version in [V311, V31] {
        ctx.connect(&doomed(ctx, version, Will::new(&topic, "gone")))?.cut()?;
        watcher.expect_message(&topic, "gone").with_context(|| format!("{version:?}"))?;
    }
    Ok(())
}

fn will_is_sent_on_protocol_violation(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let mut client = ctx.connect(&doomed(ctx, V311, Will::new(&topic, "gone")))?;
    client.send(&frame(first::PUBLISH | 0x06, &[0, 1, b'a', 0, 1]))?;
    client.expect_closed()?;
    watcher.expect_message(&topic, "gone").map(drop)
}

fn will_is_sent_on_takeover(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    let mut old = ctx.connect(&doomed(ctx, V311, Will::new(&topic, "gone")))?;
    let new = client(ctx, "doomed")?;
    old.expect_closed()?;
    watcher.expect_message(&topic, "gone")?;
    new.disconnect()
}

fn will_is_not_sent_on_disconnect(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, V311, Will::new(&topic, "gone")))?.disconnect()?;
    watcher.expect_quiet_for(GRACE)?;
    only_marker(ctx, &mut watcher, &topic)
}

fn will_is_sent_with_its_qos(ctx: &Ctx) -> Result<()> {
    let (mut watcher, topic) = scene(ctx)?;
    for qos in 0..=ctx.limits().maximum_qos {
        ctx.connect(&doomed(ctx, V311, Will::new(&topic, "gone").qos(qos)))?.cut()?;
        let message = watcher.expect_message(&topic, "gone")?;
        ensure!(message.qos == qos, "a will of QoS {qos} came with QoS {}", message.qos);
        watcher.acknowledge(&message)?;
    }
    Ok(())
}

fn will_without_retain_is_not_retained(ctx: &Ctx) -> Result<()> {
    let (mut early, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, V311, Will::new(&topic, "gone")))?.cut()?;
    early.expect_message(&topic, "gone")?;
    only_marker(ctx, &mut watcher(ctx, "late", &topic, 0)?, &topic)
}

fn will_with_retain_is_retained(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let (mut early, topic) = scene(ctx)?;
    ctx.connect(&doomed(ctx, V311, Will::new(&topic, "gone").retain()))?.cut()?;
    ensure!(!early.expect_message(&topic, "gone")?.retain, "retain is 1 for an established subscription");
    let message = watcher(ctx, "late", &topic, 0)?.expect_message(&topic, "gone")?;
    ensure!(message.retain, "a retained message sent for a new subscription has retain 0");
    super::common::clear_retained(ctx, &topic)
}
