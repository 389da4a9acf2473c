//! Owns the tests of section 3.1 about sessions, limits and takeover. Malformed CONNECTs and wills have files of their own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::common::{GRACE, nothing_but_marker, refused, refused_bytes, subscriber};
use crate::client::{Client, Event};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{self, Connect, Props, Publish, Subscribe, Will};
use crate::wire::read::Packet;
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.1",
    title: "CONNECT: sessions, limits, takeover",
    tests: {
        other_first_packets_close => ["MQTT-3.1.0-1"],
        second_connect_closes => ["MQTT-3.1.0-2"],
        second_connect_is_not_answered => ["MQTT-3.1.0-2", "MQTT-3.2.0-2"],
        valid_connect_gets_connack_zero => ["MQTT-3.1.4-5"],
        connect_with_every_property_is_accepted => ["MQTT-3.1.4-5"],
        clean_start_discards_the_session => ["MQTT-3.1.2-4", "MQTT-3.1.4-4"],
        resumed_session_keeps_subscriptions => ["MQTT-3.1.2-5", "MQTT-3.1.2-23", "MQTT-3.1.4-4"],
        resumed_session_delivers_what_was_queued => ["MQTT-3.1.2-5", "MQTT-3.1.2-23"],
        session_survives_a_network_failure => ["MQTT-3.1.2-23"],
        session_resumed_without_a_stored_one_is_new => ["MQTT-3.1.2-6"],
        session_without_expiry_ends_with_the_connection => ["MQTT-3.1.2-6"],
        sessions_are_kept_by_client_id => ["MQTT-3.1.3-2"],
        client_ids_of_one_to_23_letters_and_digits_are_accepted => ["MQTT-3.1.3-5"],
        every_letter_and_digit_is_accepted_in_a_client_id => ["MQTT-3.1.3-5"],
        unusual_client_ids_are_accepted_or_refused_properly => ["MQTT-3.1.3-8"],
        empty_client_id_gets_an_assigned_one => ["MQTT-3.1.3-6", "MQTT-3.1.3-7"],
        assigned_client_id_is_the_session_key => ["MQTT-3.1.3-7"],
        takeover_closes_the_old_connection => ["MQTT-3.1.4-3"],
        takeover_tells_the_old_connection => ["MQTT-3.1.4-3"],
        takeover_keeps_the_session => ["MQTT-3.1.2-5"],
        silent_client_is_closed_after_keep_alive => ["MQTT-3.1.2-22", "MQTT-3.2.2-22"],
        pings_satisfy_keep_alive => ["MQTT-3.1.2-22"],
        other_packets_satisfy_keep_alive => ["MQTT-3.1.2-22"],
        packets_from_the_server_do_not_satisfy_keep_alive => ["MQTT-3.1.2-22"],
        keep_alive_zero_means_no_limit => ["MQTT-3.1.2-22"],
        larger_messages_are_not_sent => ["MQTT-3.1.2-24", "MQTT-3.1.2-25"],
        dropped_large_messages_do_not_use_up_the_window => ["MQTT-3.1.2-25"],
        message_of_exactly_the_maximum_size_is_sent => ["MQTT-3.1.2-24"],
        large_queued_messages_are_dropped_on_resumption => ["MQTT-3.1.2-24", "MQTT-3.1.2-25"],
        server_aliases_stay_within_the_maximum => ["MQTT-3.1.2-26"],
        server_uses_no_alias_unasked => ["MQTT-3.1.2-27"],
        server_uses_no_alias_with_maximum_zero => ["MQTT-3.1.2-27"],
        response_information_only_on_request => ["MQTT-3.1.2-28"],
        problem_information_only_on_request => ["MQTT-3.1.2-29"],
        user_properties_of_messages_are_kept_without_problem_information => ["MQTT-3.1.2-29"],
        failed_authentication_closes => ["MQTT-3.1.4-2"],
        unknown_authentication_method_closes => ["MQTT-3.1.4-2", "MQTT-4.12.0-1"],
        nothing_is_processed_after_a_refusal => ["MQTT-3.1.4-6"],
        packets_sent_along_with_connect_are_processed => ["MQTT-3.1.4-5"],
    },
    unobservable: {},
};

fn other_first_packets_close(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("early");
    let rows = [
        ("PINGREQ", build::pingreq()),
        ("PUBLISH", Publish::new(&topic, "x").bytes(V5)),
        ("QoS 1 PUBLISH", Publish::new(&topic, "x").qos(1, 1).bytes(V5)),
        ("SUBSCRIBE", Subscribe::new(1).filter(&topic, 0).bytes(V5)),
        ("PUBREL", build::ack(first::PUBREL, 1)),
        ("DISCONNECT", build::disconnect()),
        ("AUTH", build::auth(0x18, &Props::new().text(prop::AUTH_METHOD, "x"))),
    ];
    for (name, bytes) in rows {
        let mut client = ctx.open(V5)?;
        client.send(&bytes)?;
        client.expect_closed().with_context(|| format!("{name} before CONNECT"))?;
    }
    Ok(())
}

fn second_connect_closes(ctx: &Ctx) -> Result<()> {
    let connect = ctx.v5("twice");
    let mut client = ctx.connect(&connect)?;
    client.send(&connect.bytes())?;
    client.expect_closed().map(drop)
}

/// Both in one write; the reader refuses a second CONNACK.
fn second_connect_is_not_answered(ctx: &Ctx) -> Result<()> {
    let connect = ctx.v5("twice");
    let mut client = ctx.open(V5)?;
    client.send(&[connect.bytes(), connect.bytes()].concat())?;
    client.expect_accepted()?;
    client.expect_closed().map(drop)
}

fn valid_connect_gets_connack_zero(ctx: &Ctx) -> Result<()> {
    for connect in
        [ctx.v5("plain"), ctx.v5("plain").resume(), ctx.v5("plain").keep_alive(0), ctx.v5("plain").keep_alive(65_535)]
    {
        let mut client = ctx.connect(&connect)?;
        client.expect_silence()?;
        client.disconnect()?;
    }
    Ok(())
}

fn connect_with_every_property_is_accepted(ctx: &Ctx) -> Result<()> {
    let props = Props::new()
        .four(prop::SESSION_EXPIRY, 5)
        .two(prop::RECEIVE_MAXIMUM, 10)
        .four(prop::MAXIMUM_PACKET_SIZE, 10_000)
        .two(prop::TOPIC_ALIAS_MAXIMUM, 10)
        .byte(prop::REQUEST_RESPONSE_INFO, 1)
        .byte(prop::REQUEST_PROBLEM_INFO, 1)
        .pair("name", "value")
        .pair("name", "value")
        .pair("", "");
    let mut client = ctx.connect(&ctx.v5("all").props(props))?;
    client.expect_silence()?;
    client.disconnect()
}

fn clean_start_discards_the_session(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("old");
    let connect = ctx.v5("clean").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 0)?;
    client.disconnect()?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish(&topic, 0, "for the old session")?;

    let marker = ctx.topic("marker");
    let mut client = ctx.connect(&ctx.v5("clean"))?;
    ensure!(!client.connack.session_present, "session present is 1 after Clean Start 1");
    client.subscribe(&marker, 0)?;
    publisher.publish(&topic, 0, "for nobody")?;
    nothing_but_marker(&mut publisher, &mut client, &marker)
}

/// Leaves a session of client id `tag`, expiring after 30 s, with a subscription.
fn leave_session(ctx: &Ctx, tag: &str, topic: &str, qos: u8) -> Result<Connect> {
    let connect = ctx.v5(tag).session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(topic, qos)?;
    client.disconnect()?;
    Ok(connect.resume())
}

fn resumed(ctx: &Ctx, connect: &Connect) -> Result<Client> {
    let client = ctx.connect(connect)?;
    ensure!(client.connack.session_present, "the session is gone (session present 0)");
    Ok(client)
}

fn end_session(ctx: &Ctx, tag: &str) -> Result<()> {
    ctx.connect(&ctx.v5(tag))?.disconnect()
}

fn resumed_session_keeps_subscriptions(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("kept");
    let connect = leave_session(ctx, "kept", &topic, 0)?;
    let mut client = resumed(ctx, &connect)?;
    ctx.client("publisher")?.publish(&topic, 0, "x")?;
    client.expect_message(&topic, "x")?;
    client.disconnect()?;
    end_session(ctx, "kept")
}

fn resumed_session_delivers_what_was_queued(ctx: &Ctx) -> Result<()> {
    need_qos1(ctx)?;
    let topic = ctx.topic("queued");
    let connect = leave_session(ctx, "queued", &topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    for payload in ["one", "two", "three"] {
        publisher.publish(&topic, 1, payload)?;
    }
    let mut client = resumed(ctx, &connect)?;
    for payload in ["one", "two", "three"] {
        let message = client.expect_message(&topic, payload)?;
        client.acknowledge(&message)?;
    }
    client.expect_silence()?;
    client.disconnect()?;
    end_session(ctx, "queued")
}

fn session_survives_a_network_failure(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("cut");
    let connect = ctx.v5("cut").session_expiry(30);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 0)?;
    client.cut()?;
    let mut client = resumed(ctx, &connect.resume())?;
    client.send_publish(&Publish::new(&topic, "x"))?;
    client.expect_message(&topic, "x")?;
    client.disconnect()?;
    end_session(ctx, "cut")
}

fn session_resumed_without_a_stored_one_is_new(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("new");
    let mut client = ctx.connect(&ctx.v5("new").resume())?;
    ensure!(!client.connack.session_present, "session present is 1 for an id never seen");
    client.subscribe(&topic, 0)?;
    client.send_publish(&Publish::new(&topic, "x"))?;
    client.expect_message(&topic, "x")?;
    client.disconnect()
}

/// Without a Session Expiry Interval the session is over when the connection is.
fn session_without_expiry_ends_with_the_connection(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("brief")?;
    client.subscribe(ctx.topic("brief"), 0)?;
    client.disconnect()?;
    let client = ctx.connect(&ctx.v5("brief").resume())?;
    ensure!(!client.connack.session_present, "session present is 1 although the session's expiry interval was 0");
    client.disconnect()
}

fn sessions_are_kept_by_client_id(ctx: &Ctx) -> Result<()> {
    let connect = leave_session(ctx, "keyA", &ctx.topic("key"), 0)?;
    for other in ["keya", "keyB", "key"] {
        let client = ctx.connect(&ctx.v5(other).resume())?;
        ensure!(!client.connack.session_present, "client id with tag {other:?} found the session of \"keyA\"");
        client.disconnect()?;
    }
    resumed(ctx, &connect)?.disconnect()?;
    end_session(ctx, "keyA")
}

fn accepts_id(ctx: &Ctx, id: &str) -> Result<()> {
    let mut connect = ctx.v5("");
    connect.client_id = id.into();
    let mut client = ctx.connect(&connect).with_context(|| format!("client id {id:?}"))?;
    ensure!(!client.connack.props.has(prop::ASSIGNED_CLIENT_ID), "client id {id:?} was replaced by the broker");
    client.expect_silence()?;
    client.disconnect()
}

fn client_ids_of_one_to_23_letters_and_digits_are_accepted(ctx: &Ctx) -> Result<()> {
    let long = format!("{:x<23}", ctx.client_id(""));
    accepts_id(ctx, &long[..23])?;
    accepts_id(ctx, &long[..22])?;
    accepts_id(ctx, "7")?;
    accepts_id(ctx, "zZ")
}

fn every_letter_and_digit_is_accepted_in_a_client_id(ctx: &Ctx) -> Result<()> {
    ["0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"]
        .into_iter()
        .try_for_each(|id| accepts_id(ctx, id))
}

/// A broker may take or refuse these ids, but a refusal has to be complete.
fn unusual_client_ids_are_accepted_or_refused_properly(ctx: &Ctx) -> Result<()> {
    let unique = ctx.client_id("odd");
    for odd in ["/", "#", "+", " ", "\u{E9}", "$SYS/", "\\", "'\"", &"x".repeat(1000), &"x".repeat(65_000)] {
        let mut connect = ctx.v5("");
        connect.client_id = format!("{unique}{odd}").into();
        let mut client = ctx.open(V5)?;
        client.send_connect(&connect)?;
        match client.next_event()? {
            Event::Closed => {}
            Event::Packet(Packet::Connack(connack)) if connack.reason == 0 => {
                client.expect_silence()?;
                client.disconnect()?;
            }
            Event::Packet(_) => client.expect_closed().map(drop)?,
        }
    }
    Ok(())
}

/// Connects with an empty client id; skips the test if the broker does not admit that.
fn nameless(ctx: &Ctx, mut connect: Connect) -> Result<(Client, String)> {
    connect.client_id.clear();
    let mut client = ctx.open(V5)?;
    client.send_connect(&connect)?;
    client.connack = client.expect_connack()?;
    if client.connack.reason != 0 {
        return skip(format!("server refuses empty client ids with {:#04x}", client.connack.reason));
    }
    let id = client.connack.props.text(prop::ASSIGNED_CLIENT_ID);
    let id = id.context("no Assigned Client Identifier in CONNACK")?.to_owned();
    ensure!(!id.is_empty(), "the Assigned Client Identifier is empty");
    Ok((client, id))
}

fn empty_client_id_gets_an_assigned_one(ctx: &Ctx) -> Result<()> {
    let (mut one, first_id) = nameless(ctx, ctx.v5(""))?;
    let (mut two, second_id) = nameless(ctx, ctx.v5(""))?;
    ensure!(first_id != second_id, "two clients were assigned the same id {first_id:?}");
    one.expect_silence()?;
    two.expect_silence()
}

fn assigned_client_id_is_the_session_key(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("assigned");
    let (mut client, id) = nameless(ctx, ctx.v5("").session_expiry(30))?;
    client.subscribe(&topic, 0)?;
    client.disconnect()?;
    let mut connect = ctx.v5("");
    connect.client_id = id.into();
    let mut client = resumed(ctx, &connect.clone().resume().session_expiry(30))?;
    client.send_publish(&Publish::new(&topic, "x"))?;
    client.expect_message(&topic, "x")?;
    client.disconnect()?;
    ctx.connect(&connect)?.disconnect()
}

fn takeover_closes_the_old_connection(ctx: &Ctx) -> Result<()> {
    let mut old = ctx.client("same")?;
    let mut new = ctx.client("same")?;
    old.expect_closed()?;
    new.expect_silence()
}

fn takeover_tells_the_old_connection(ctx: &Ctx) -> Result<()> {
    let mut old = ctx.client("same")?;
    let mut new = ctx.client("same")?;
    let notice = old.expect_disconnect()?;
    ensure!(
        notice.reason == 0x8E,
        "DISCONNECT has reason code {:#04x}, expected 0x8e (session taken over)",
        notice.reason
    );
    old.expect_closed()?;
    new.expect_silence()
}

fn takeover_keeps_the_session(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("same");
    let connect = ctx.v5("same").session_expiry(30);
    let mut old = ctx.connect(&connect)?;
    old.subscribe(&topic, 0)?;
    let mut new = resumed(ctx, &connect.resume())?;
    old.expect_closed()?;
    new.send_publish(&Publish::new(&topic, "x"))?;
    new.expect_message(&topic, "x")?;
    new.disconnect()?;
    end_session(ctx, "same")
}

/// Asks for a keep alive of 1 s and returns the one in force, skipping the test if it is too long to wait for.
fn impatient(ctx: &Ctx, connect: Connect) -> Result<(Client, Duration)> {
    let client = ctx.connect(&connect.keep_alive(1))?;
    let seconds = client.connack.props.number(prop::SERVER_KEEP_ALIVE).unwrap_or(1);
    if seconds == 0 || seconds > 5 {
        return skip(format!("server imposes a keep alive of {seconds} s"));
    }
    Ok((client, Duration::from_secs(seconds.into())))
}

fn silent_client_is_closed_after_keep_alive(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("will");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let (mut client, keep_alive) = impatient(ctx, ctx.v5("silent").will(Will::new(&topic, "gone")))?;
    client.expect_closed_within(ctx.timer(keep_alive * 3 / 2))?;
    watcher.expect_message(&topic, "gone").context("the will, as after a network failure")?;
    Ok(())
}

/// Stays connected for three keep alive periods by sending something twice in each; `beat` sends it and reads the answer.
fn stays_alive_by(ctx: &Ctx, mut beat: impl FnMut(&mut Client) -> Result<()>) -> Result<()> {
    let (mut client, keep_alive) = impatient(ctx, ctx.v5("lively"))?;
    let started = Instant::now();
    while started.elapsed() < keep_alive * 3 {
        beat(&mut client)?;
        client.expect_quiet_for(keep_alive / 2)?;
    }
    client.expect_silence()
}

fn pings_satisfy_keep_alive(ctx: &Ctx) -> Result<()> {
    stays_alive_by(ctx, Client::expect_silence)
}

fn other_packets_satisfy_keep_alive(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("beat");
    stays_alive_by(ctx, |client| client.publish(&topic, 0, "x"))
}

fn packets_from_the_server_do_not_satisfy_keep_alive(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("downlink");
    let mut publisher = ctx.client("publisher")?;
    let (mut client, keep_alive) = impatient(ctx, ctx.v5("silent"))?;
    client.subscribe(&topic, 0)?;
    let started = Instant::now();
    while started.elapsed() < ctx.timer(keep_alive * 3 / 2) {
        publisher.publish(&topic, 0, "x")?;
        match client.next_event()? {
            Event::Closed => return Ok(()),
            Event::Packet(Packet::Disconnect(_)) => return client.expect_closed().map(drop),
            Event::Packet(_) => publisher.expect_quiet_for(keep_alive / 4)?,
        }
    }
    anyhow::bail!("still connected after {} ms without a packet from the client", started.elapsed().as_millis())
}

fn keep_alive_zero_means_no_limit(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.connect(&ctx.v5("patient").keep_alive(0))?;
    let imposed = client.connack.props.number(prop::SERVER_KEEP_ALIVE).unwrap_or(0);
    if (1..5).contains(&imposed) {
        return skip(format!("server imposes a keep alive of {imposed} s"));
    }
    client.expect_quiet_for(Duration::from_secs(3))?;
    client.expect_silence()
}

fn need_qos1(ctx: &Ctx) -> Result<()> {
    if ctx.limits().maximum_qos < 1 { skip("server announces Maximum QoS 0") } else { Ok(()) }
}

fn max_size(bytes: u32) -> Props {
    Props::new().four(prop::MAXIMUM_PACKET_SIZE, bytes)
}

/// A subscriber of `topic` with a Maximum Packet Size; the audit fails on anything larger.
fn small_subscriber(ctx: &Ctx, props: Props, topic: &str, qos: u8) -> Result<Client> {
    let mut client = ctx.connect(&ctx.v5("small").props(props))?;
    client.subscribe(topic, qos)?;
    Ok(client)
}

fn larger_messages_are_not_sent(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("size");
    for qos in 0..=ctx.limits().maximum_qos {
        let mut client = small_subscriber(ctx, max_size(200), &topic, qos)?;
        let mut publisher = ctx.client("publisher")?;
        publisher.publish(&topic, qos, [b'x'; 400])?;
        publisher.publish(&topic, qos, "small")?;
        let message = client.expect_message(&topic, "small").with_context(|| format!("QoS {qos}"))?;
        client.acknowledge(&message)?;
        client.expect_silence()?;
        client.disconnect()?;
    }
    Ok(())
}

fn dropped_large_messages_do_not_use_up_the_window(ctx: &Ctx) -> Result<()> {
    need_qos1(ctx)?;
    let topic = ctx.topic("window");
    let props = max_size(200).two(prop::RECEIVE_MAXIMUM, 2);
    let mut client = small_subscriber(ctx, props, &topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    for _ in 0..5 {
        publisher.publish(&topic, 1, [b'x'; 400])?;
    }
    publisher.publish(&topic, 1, "small")?;
    client.expect_message(&topic, "small")?;
    Ok(())
}

/// The packet's size is known: the broker adds no property to a bare QoS 0 message.
fn message_of_exactly_the_maximum_size_is_sent(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("exact");
    let size = 200;
    let payload = vec![b'x'; size - 2 - 1 - 2 - topic.len() - 1];
    let mut client = small_subscriber(ctx, max_size(size as u32), &topic, 0)?;
    let mut publisher = ctx.client("publisher")?;
    ensure!(Publish::new(&topic, &payload).bytes(V5).len() == size, "the test's own arithmetic is wrong");
    publisher.publish(&topic, 0, &payload)?;
    client.expect_message(&topic, &payload)?;
    client.expect_silence()
}

fn large_queued_messages_are_dropped_on_resumption(ctx: &Ctx) -> Result<()> {
    need_qos1(ctx)?;
    let topic = ctx.topic("queue");
    let connect = leave_session(ctx, "queue", &topic, 1)?;
    let mut publisher = ctx.client("publisher")?;
    publisher.publish(&topic, 1, [b'x'; 400])?;
    publisher.publish(&topic, 1, "small")?;
    let mut client = resumed(ctx, &connect.props(max_size(200).four(prop::SESSION_EXPIRY, 30)))?;
    let message = client.expect_message(&topic, "small")?;
    client.acknowledge(&message)?;
    client.expect_silence()?;
    client.disconnect()?;
    end_session(ctx, "queue")
}

/// The audit checks each alias; resolving them is checked by the topics.
fn alias_traffic(ctx: &Ctx, props: Props) -> Result<()> {
    let topics: Vec<String> = (0..6).map(|index| ctx.topic(&format!("alias/{index}"))).collect();
    let mut client = ctx.connect(&ctx.v5("aliases").props(props))?;
    for topic in &topics {
        client.subscribe(topic, 0)?;
    }
    let mut publisher = ctx.client("publisher")?;
    for round in ["one", "two", "three"] {
        for topic in &topics {
            publisher.publish(topic, 0, round)?;
            client.expect_message(topic, round)?;
        }
    }
    client.expect_silence()
}

fn server_aliases_stay_within_the_maximum(ctx: &Ctx) -> Result<()> {
    alias_traffic(ctx, Props::new().two(prop::TOPIC_ALIAS_MAXIMUM, 3))?;
    alias_traffic(ctx, Props::new().two(prop::TOPIC_ALIAS_MAXIMUM, 100))
}

fn server_uses_no_alias_unasked(ctx: &Ctx) -> Result<()> {
    alias_traffic(ctx, Props::new())
}

fn server_uses_no_alias_with_maximum_zero(ctx: &Ctx) -> Result<()> {
    alias_traffic(ctx, Props::new().two(prop::TOPIC_ALIAS_MAXIMUM, 0))
}

/// The audit of each connection looks at its CONNACK.
fn response_information_only_on_request(ctx: &Ctx) -> Result<()> {
    ctx.connect(&ctx.v5("info"))?.disconnect()?;
    ctx.connect(&ctx.v5("info").props(Props::new().byte(prop::REQUEST_RESPONSE_INFO, 0)))?.disconnect()
}

/// Provokes the answers in which a broker likes to explain itself: no subscriber, no subscription, nothing known.
fn problem_information_only_on_request(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.connect(&ctx.v5("terse").props(Props::new().byte(prop::REQUEST_PROBLEM_INFO, 0)))?;
    if ctx.limits().maximum_qos >= 1 {
        client.publish(ctx.topic("nobody"), 1, "x")?;
    }
    if ctx.limits().maximum_qos >= 2 {
        client.publish(ctx.topic("nobody"), 2, "x")?;
        client.send(&build::ack(first::PUBREL, 77))?;
        client.expect_ack(first::PUBCOMP, 77)?;
    }
    client.subscribe_packet(&Subscribe::new(10).filter(ctx.topic("a"), 0).filter("$SYS/secret", 0))?;
    client.unsubscribe(ctx.topic("never"))?;
    Ok(())
}

fn user_properties_of_messages_are_kept_without_problem_information(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("pairs");
    let mut client = ctx.connect(&ctx.v5("terse").props(Props::new().byte(prop::REQUEST_PROBLEM_INFO, 0)))?;
    client.subscribe(&topic, 0)?;
    client.send_publish(&Publish::new(&topic, "x").props(Props::new().pair("name", "value")))?;
    let message = client.expect_message(&topic, "x")?;
    ensure!(message.props.pairs() == [("name", "value")], "user properties are {:?}", message.props.pairs());
    Ok(())
}

fn failed_authentication_closes(ctx: &Ctx) -> Result<()> {
    let Some((name, password)) = &ctx.setup().credential else {
        return skip("needs --username and --password");
    };
    let wrong = format!("{password}-wrong");
    let stranger = format!("{name}-nobody");
    for connect in
        [ctx.v5("auth").username(name).password(&wrong), ctx.v5("auth").username(stranger).password(password)]
    {
        let refusal = refused(ctx, &connect)?;
        let reason = refusal.map_or(0x86, |connack| connack.reason);
        ensure!((0x80..=0x9F).contains(&reason), "CONNACK has reason code {reason:#04x}");
    }
    Ok(())
}

fn unknown_authentication_method_closes(ctx: &Ctx) -> Result<()> {
    let props = Props::new().text(prop::AUTH_METHOD, "NO-SUCH-METHOD").text(prop::AUTH_DATA, "x");
    refused(ctx, &ctx.v5("method").props(props)).map(drop)
}

/// A refused CONNECT and a PUBLISH in one write: the PUBLISH must have no effect.
fn nothing_is_processed_after_a_refusal(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("sneaky");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let publish = Publish::new(&topic, "sneaked in").bytes(V5);
    let malformed = ctx.v5("sneaky").set_flags(0x01).bytes();
    let method = Props::new().text(prop::AUTH_METHOD, "NO-SUCH-METHOD");
    let unauthenticated = ctx.v5("sneaky").props(method).bytes();
    for connect in [malformed, unauthenticated] {
        refused_bytes(ctx, &[connect, publish.clone()].concat())?;
    }
    watcher.expect_quiet_for(GRACE)?;
    nothing_but_marker(&mut ctx.client("publisher")?, &mut watcher, &topic)
}

fn packets_sent_along_with_connect_are_processed(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("eager");
    let mut watcher = subscriber(ctx, "watcher", &topic, 0)?;
    let mut client = ctx.open(V5)?;
    client.send(&[ctx.v5("eager").bytes(), Publish::new(&topic, "x").bytes(V5)].concat())?;
    client.expect_accepted()?;
    watcher.expect_message(&topic, "x")?;
    Ok(())
}
