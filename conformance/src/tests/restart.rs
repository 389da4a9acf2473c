//! Owns the tests of what outlives the broker's process, ended politely and by force: sessions, subscriptions, retained
//! messages and wills. Messages on their way are tested in `restart_messages`. Never tests how long a restart takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::common::{GRACE, clear_retained, nothing_but_marker, subscriber};
use super::flows::{forget, need_qos, need_retain, need_shared, need_subscription_ids, need_wildcards};
use super::restart_messages::{
    acknowledged_qos1_is_done, completed_qos2_is_done, in_flight_messages_come_before_the_queue,
    message_expiry_counts_meanwhile, message_properties_are_kept, qos1_in_flight_is_sent_again,
    qos2_identifier_is_new_after_pubcomp, qos2_in_flight_is_sent_again, qos2_pubrel_is_sent_again,
    qos2_release_is_answered_afterwards, qos2_repetition_is_not_delivered_twice, queued_messages_are_kept,
    queued_messages_outlive_two_restarts, retained_message_in_flight_is_sent_again,
    shared_qos2_in_flight_stays_with_its_member, shared_subscription_keeps_its_queue,
};
use crate::client::Client;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::restart::Ending;
use crate::wire::build::{self, Props, Publish, Subscribe, Will};
use crate::wire::prop;

macro_rules! restart_section {
    ($prefix:literal, $title:literal, $ending:expr) => {
        section! {
            prefix: $prefix,
            title: $title,
            ending: Some($ending),
            tests: {
                sessions_are_kept => ["MQTT-3.1.2-5", "MQTT-3.2.2-3", "MQTT-4.1.0-1"],
                sessions_of_older_clients_are_kept => ["MQTT311-3.1.2-4", "MQTT311-3.2.2-2"],
                session_that_ended_is_gone => ["MQTT-3.2.2-3", "MQTT-4.1.0-2"],
                session_expiry_counts_meanwhile => ["MQTT-4.1.0-2", "MQTT-3.2.2-3"],
                session_expiry_of_disconnect_counts => ["MQTT-4.1.0-2", "MQTT-3.2.2-3"],
                clean_start_ends_the_session => ["MQTT-3.1.2-4", "MQTT-3.2.2-2"],
                subscriptions_are_kept => ["MQTT-3.1.2-5", "MQTT-4.5.0-1"],
                subscription_options_are_kept => ["MQTT-3.1.2-5", "MQTT-3.8.3-3", "MQTT-3.3.1-13", "MQTT-3.3.4-3"],
                shared_subscriptions_are_kept => ["MQTT-3.1.2-5", "MQTT-4.8.2-3"],
                removed_subscriptions_stay_removed => ["MQTT-3.10.4-1", "MQTT-3.10.4-2"],
                retained_messages_are_kept => ["MQTT-3.3.1-5", "MQTT-3.3.1-9"],
                retained_message_stays_replaced => ["MQTT-3.3.1-5"],
                retained_message_stays_deleted => ["MQTT-3.3.1-6", "MQTT-3.3.1-7"],
                will_of_a_connected_client_is_sent => ["MQTT-3.1.2-7", "MQTT-3.1.2-8"],
                will_due_meanwhile_is_sent => ["MQTT-3.1.2-8"],
                will_due_later_is_sent_then => ["MQTT-3.1.2-8"],
                will_is_not_sent_after_reconnecting_in_time => ["MQTT-3.1.3-9", "MQTT-3.1.2-8"],
                will_of_a_polite_client_is_not_sent => ["MQTT-3.14.4-3", "MQTT-3.1.2-10"],
                queued_messages_are_kept => ["MQTT-4.5.0-1", "MQTT-4.6.0-5"],
                queued_messages_outlive_two_restarts => ["MQTT-4.5.0-1", "MQTT-4.6.0-5"],
                message_properties_are_kept =>
                    ["MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20"],
                message_expiry_counts_meanwhile => ["MQTT-3.3.2-5", "MQTT-3.3.2-6"],
                in_flight_messages_come_before_the_queue => ["MQTT-4.4.0-1", "MQTT-4.6.0-5"],
                qos1_in_flight_is_sent_again => ["MQTT-4.3.2-3", "MQTT-4.4.0-1", "MQTT-3.3.1-1"],
                acknowledged_qos1_is_done => ["MQTT-4.3.2-3", "MQTT-4.4.0-1"],
                qos2_in_flight_is_sent_again => ["MQTT-4.3.3-3", "MQTT-4.4.0-1", "MQTT-3.3.1-1"],
                qos2_pubrel_is_sent_again => ["MQTT-4.3.3-5", "MQTT-4.3.3-6", "MQTT-4.4.0-1"],
                completed_qos2_is_done => ["MQTT-4.3.3-6", "MQTT-4.4.0-1"],
                qos2_repetition_is_not_delivered_twice => ["MQTT-4.3.3-10"],
                qos2_release_is_answered_afterwards => ["MQTT-4.3.3-11"],
                qos2_identifier_is_new_after_pubcomp => ["MQTT-4.3.3-12"],
                retained_message_in_flight_is_sent_again => ["MQTT-4.4.0-1"],
                shared_subscription_keeps_its_queue => ["MQTT-4.5.0-1", "MQTT-4.8.2-3"],
                shared_qos2_in_flight_stays_with_its_member => ["MQTT-4.8.2-4"],
            },
            unobservable: {},
        }
    };
}

/// The broker is asked to end.
pub const STOPPED: Section = restart_section!("restart-stop", "the broker is stopped and started again", Ending::Stop);

/// The broker is killed.
pub const KILLED: Section = restart_section!("restart-kill", "the broker is killed and started again", Ending::Kill);

/// Long enough for every test, in seconds.
const KEPT_SECONDS: u32 = 300;

/// How long the broker is down where time has to pass: what is due within one second is due then.
pub(super) const DOWN: Duration = Duration::from_millis(1200);

/// A new session that outlives its connection and the broker.
pub(super) fn durable(ctx: &Ctx, tag: &str) -> Result<Client> {
    ctx.connect(&ctx.v5(tag).session_expiry(KEPT_SECONDS))
}

/// The same, subscribed.
pub(super) fn durable_subscriber(ctx: &Ctx, tag: &str, filter: &str, qos: u8) -> Result<Client> {
    let mut client = durable(ctx, tag)?;
    client.subscribe(filter, qos)?;
    Ok(client)
}

/// The next connection of such a session, which has to be there.
pub(super) fn back(ctx: &Ctx, tag: &str) -> Result<Client> {
    let client = ctx.connect(&ctx.v5(tag).resume().session_expiry(KEPT_SECONDS))?;
    ensure!(client.connack.session_present, "the session of {tag:?} is gone");
    Ok(client)
}

/// The client leaves, and its session ends.
pub(super) fn leave(ctx: &Ctx, tag: &str, client: Client) -> Result<()> {
    client.disconnect()?;
    forget(ctx, tag)
}

fn sessions_are_kept(ctx: &Ctx) -> Result<()> {
    durable(ctx, "polite")?.disconnect()?;
    durable(ctx, "lost")?.cut()?;
    let connected = durable(ctx, "connected")?;
    ctx.restart(Duration::ZERO)?;
    drop(connected);
    for tag in ["polite", "lost", "connected"] {
        let client = back(ctx, tag)?;
        leave(ctx, tag, client)?;
    }
    Ok(())
}

fn sessions_of_older_clients_are_kept(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("older");
    let mut client = ctx.connect(&ctx.v311("older").resume())?;
    client.subscribe(&topic, 1)?;
    client.disconnect()?;
    ctx.client("sender")?.publish(&topic, 1, "before")?;
    ctx.restart(Duration::ZERO)?;
    ctx.client("sender")?.publish(&topic, 1, "after")?;
    let mut client = ctx.connect(&ctx.v311("older").resume())?;
    ensure!(client.connack.session_present, "the session of an MQTT 3.1.1 client is gone");
    for payload in ["before", "after"] {
        let message = client.expect_message(&topic, payload)?;
        client.acknowledge(&message)?;
    }
    client.disconnect()?;
    ctx.connect(&ctx.v311("older"))?.disconnect()
}

/// The session is to end with its connection, and the connection has ended with the broker.
fn session_that_ended_is_gone(ctx: &Ctx) -> Result<()> {
    let connected = ctx.client("connected")?;
    ctx.client("gone")?.disconnect()?;
    ctx.restart(Duration::ZERO)?;
    drop(connected);
    for tag in ["connected", "gone"] {
        ensure_gone(ctx, tag)?;
    }
    Ok(())
}

fn ensure_gone(ctx: &Ctx, tag: &str) -> Result<()> {
    let client = ctx.connect(&ctx.v5(tag).resume())?;
    ensure!(!client.connack.session_present, "the session of {tag:?} has outlived its end");
    client.disconnect()
}

fn session_expiry_counts_meanwhile(ctx: &Ctx) -> Result<()> {
    ctx.connect(&ctx.v5("short").session_expiry(1))?.disconnect()?;
    ctx.connect(&ctx.v5("cut").session_expiry(1))?.cut()?;
    ctx.restart(DOWN)?;
    ensure_gone(ctx, "short")?;
    ensure_gone(ctx, "cut")
}

fn session_expiry_of_disconnect_counts(ctx: &Ctx) -> Result<()> {
    for (tag, before, after) in [("longer", 1, KEPT_SECONDS), ("shorter", KEPT_SECONDS, 1), ("ended", KEPT_SECONDS, 0)]
    {
        let mut client = ctx.connect(&ctx.v5(tag).session_expiry(before))?;
        client.send(&build::disconnect_with(0, &Props::new().four(prop::SESSION_EXPIRY, after)))?;
        client.cut()?;
    }
    ctx.restart(DOWN)?;
    let client = back(ctx, "longer")?;
    leave(ctx, "longer", client)?;
    ensure_gone(ctx, "shorter")?;
    ensure_gone(ctx, "ended")
}

fn clean_start_ends_the_session(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("clean");
    durable_subscriber(ctx, "clean", &topic, 1)?.disconnect()?;
    ctx.client("sender")?.publish(&topic, 1, "old")?;
    durable(ctx, "clean")?.disconnect()?;
    ctx.client("sender")?.publish(&topic, 1, "missed")?;
    ctx.restart(Duration::ZERO)?;
    let mut client = back(ctx, "clean")?;
    ctx.client("sender")?.publish(&topic, 1, "nobody's")?;
    client.expect_silence().context("the new session has no subscription and no messages")?;
    leave(ctx, "clean", client)
}

fn subscriptions_are_kept(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    need_wildcards(ctx)?;
    let mut client = durable(ctx, "client")?;
    for filter in ["plain", "one/+/level", "all/#"] {
        client.subscribe(ctx.topic(filter), 1)?;
    }
    ctx.restart(Duration::ZERO)?;
    drop(client);
    let mut sender = ctx.client("sender")?;
    sender.publish(ctx.topic("plain"), 1, "while away")?;
    let mut client = back(ctx, "client")?;
    let message = client.expect_message(&ctx.topic("plain"), "while away")?;
    client.acknowledge(&message)?;
    for topic in ["one/x/level", "all", "all/of/them", "plain"] {
        sender.publish(ctx.topic(topic), 1, "x")?;
        let message = client.expect_message(&ctx.topic(topic), "x")?;
        ensure!(message.qos == 1, "{topic} came with QoS {}", message.qos);
        client.acknowledge(&message)?;
    }
    sender.publish(ctx.topic("one/x/y/level"), 1, "x")?;
    client.expect_silence()?;
    leave(ctx, "client", client)
}

fn subscription_options_are_kept(ctx: &Ctx) -> Result<()> {
    const NO_LOCAL: u8 = 0x04;
    const RETAIN_AS_PUBLISHED: u8 = 0x08;
    need_retain(ctx)?;
    need_subscription_ids(ctx)?;
    let topic = ctx.topic("options");
    let mut client = durable(ctx, "client")?;
    let subscribe = Subscribe::new(1).props(Props::new().varint(prop::SUBSCRIPTION_ID, 268_435_455));
    client.subscribe_packet(&subscribe.filter(&topic, NO_LOCAL | RETAIN_AS_PUBLISHED))?;
    client.disconnect()?;
    ctx.restart(Duration::ZERO)?;
    let mut client = back(ctx, "client")?;
    client.publish(&topic, 0, "its own")?;
    ctx.client("sender")?.publish_packet(Publish::new(&topic, "x").retain(), 0)?;
    let message = client.expect_message(&topic, "x").context("No Local: its own message is not sent back")?;
    ensure!(message.retain, "Retain As Published is forgotten: {message:02x?}");
    let ids = message.props.numbers(prop::SUBSCRIPTION_ID);
    ensure!(ids == [268_435_455], "Subscription Identifiers are {ids:?}");
    clear_retained(ctx, &topic)?;
    client.expect_message(&topic, "")?;
    leave(ctx, "client", client)
}

fn shared_subscriptions_are_kept(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    need_qos(ctx, 1)?;
    let topic = ctx.topic("shared");
    durable_subscriber(ctx, "member", &format!("$share/group/{topic}"), 1)?.disconnect()?;
    ctx.restart(Duration::ZERO)?;
    let mut member = back(ctx, "member")?;
    ctx.client("sender")?.publish(&topic, 1, "x")?;
    let message = member.expect_message(&topic, "x")?;
    ensure!(message.qos == 1, "a message of QoS 1 came with QoS {}", message.qos);
    member.acknowledge(&message)?;
    leave(ctx, "member", member)
}

fn removed_subscriptions_stay_removed(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let (removed, marker) = (ctx.topic("removed"), ctx.topic("marker"));
    let mut client = durable_subscriber(ctx, "client", &removed, 1)?;
    client.subscribe(&marker, 0)?;
    client.unsubscribe(&removed)?;
    client.disconnect()?;
    ctx.restart(Duration::ZERO)?;
    let mut sender = ctx.client("sender")?;
    sender.publish(&removed, 1, "x")?;
    let mut client = back(ctx, "client")?;
    sender.publish(&removed, 1, "y")?;
    nothing_but_marker(&mut sender, &mut client, &marker)?;
    leave(ctx, "client", client)
}

/// Retains the payloads one after the other, and expects that only the last is found after the restart.
fn retained_afterwards(ctx: &Ctx, payloads: &[&str]) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("retained");
    let qos = ctx.limits().maximum_qos.min(1);
    let mut sender = ctx.client("sender")?;
    for payload in payloads {
        sender.publish_packet(Publish::new(&topic, payload).retain(), qos)?;
    }
    sender.disconnect()?;
    ctx.restart(Duration::ZERO)?;
    let mut late = subscriber(ctx, "late", &topic, qos)?;
    match payloads.last() {
        Some(&"") | None => {}
        Some(payload) => {
            let message = late.expect_message(&topic, payload)?;
            ensure!(message.retain && message.qos == qos, "the retained message came as {message:02x?}");
            late.acknowledge(&message)?;
        }
    }
    nothing_but_marker(&mut ctx.client("sender")?, &mut late, &topic)?;
    clear_retained(ctx, &topic)
}

fn retained_messages_are_kept(ctx: &Ctx) -> Result<()> {
    retained_afterwards(ctx, &["kept"])
}

fn retained_message_stays_replaced(ctx: &Ctx) -> Result<()> {
    retained_afterwards(ctx, &["first", "second", "third"])
}

fn retained_message_stays_deleted(ctx: &Ctx) -> Result<()> {
    retained_afterwards(ctx, &["first", ""])
}

/// The topic of a will, watched by a session that is away.
fn watched_will(ctx: &Ctx) -> Result<String> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("will");
    durable_subscriber(ctx, "watcher", &topic, 1)?.disconnect()?;
    Ok(topic)
}

fn will_comes(ctx: &Ctx, watcher: &mut Client, topic: &str) -> Result<()> {
    let message = watcher.patient(ctx.timer(Duration::ZERO)).expect_message(topic, "gone")?;
    watcher.acknowledge(&message)
}

fn ends_of_wills(ctx: &Ctx, watcher: Client) -> Result<()> {
    leave(ctx, "watcher", watcher)?;
    forget(ctx, "doomed")
}

/// The connection has ended without DISCONNECT, if only because the broker has; the will may wait until it is back.
fn will_of_a_connected_client_is_sent(ctx: &Ctx) -> Result<()> {
    let topic = watched_will(ctx)?;
    let doomed = ctx.connect(&ctx.v5("doomed").will(Will::new(&topic, "gone").qos(1)).session_expiry(KEPT_SECONDS))?;
    ctx.restart(Duration::ZERO)?;
    drop(doomed);
    let mut watcher = back(ctx, "watcher")?;
    will_comes(ctx, &mut watcher, &topic)?;
    nothing_but_marker(&mut ctx.client("marker")?, &mut watcher, &topic)?;
    ends_of_wills(ctx, watcher)
}

/// The client is lost `delay` seconds before its will is due.
fn lose(ctx: &Ctx, topic: &str, delay: u32) -> Result<Instant> {
    let will = Will::new(topic, "gone").qos(1).delay(delay);
    ctx.connect(&ctx.v5("doomed").will(will).session_expiry(KEPT_SECONDS))?.cut()?;
    Ok(Instant::now())
}

fn will_due_meanwhile_is_sent(ctx: &Ctx) -> Result<()> {
    let topic = watched_will(ctx)?;
    lose(ctx, &topic, 1)?;
    ctx.restart(DOWN)?;
    let mut watcher = back(ctx, "watcher")?;
    will_comes(ctx, &mut watcher, &topic)?;
    nothing_but_marker(&mut ctx.client("marker")?, &mut watcher, &topic)?;
    ends_of_wills(ctx, watcher)
}

/// The delay of wills that are not due yet when the broker is back, in seconds.
const LATER_SECONDS: u32 = 4;

fn will_due_later_is_sent_then(ctx: &Ctx) -> Result<()> {
    /// Brokers count in whole seconds.
    const EARLY: Duration = Duration::from_millis(1100);
    let topic = watched_will(ctx)?;
    let lost = lose(ctx, &topic, LATER_SECONDS)?;
    ctx.restart(Duration::ZERO)?;
    let due = Duration::from_secs(LATER_SECONDS.into());
    if lost.elapsed() + EARLY > due {
        return skip("the restart took longer than the will was to wait");
    }
    let mut watcher = back(ctx, "watcher")?;
    let message = watcher.patient(ctx.timer(due)).expect_message(&topic, "gone")?;
    // Whatever delays us on a busy machine only makes this later.
    ensure!(lost.elapsed() + EARLY >= due, "the will came too early: after {:?}, not {due:?}", lost.elapsed());
    watcher.acknowledge(&message)?;
    ends_of_wills(ctx, watcher)
}

fn will_is_not_sent_after_reconnecting_in_time(ctx: &Ctx) -> Result<()> {
    let topic = watched_will(ctx)?;
    let lost = lose(ctx, &topic, LATER_SECONDS)?;
    ctx.restart(Duration::ZERO)?;
    let doomed = back(ctx, "doomed")?;
    let due = Duration::from_secs(LATER_SECONDS.into());
    if lost.elapsed() + GRACE > due {
        return skip("the restart took longer than the will was to wait");
    }
    let mut watcher = back(ctx, "watcher")?;
    let quiet = (due + GRACE).saturating_sub(lost.elapsed());
    watcher.expect_quiet_for(quiet).context("the will was sent although the client was back")?;
    nothing_but_marker(&mut ctx.client("marker")?, &mut watcher, &topic)?;
    doomed.disconnect()?;
    ends_of_wills(ctx, watcher)
}

fn will_of_a_polite_client_is_not_sent(ctx: &Ctx) -> Result<()> {
    let topic = watched_will(ctx)?;
    let will = Will::new(&topic, "gone").qos(1);
    ctx.connect(&ctx.v5("doomed").will(will).session_expiry(KEPT_SECONDS))?.disconnect()?;
    ctx.restart(Duration::ZERO)?;
    let mut watcher = back(ctx, "watcher")?;
    nothing_but_marker(&mut ctx.client("marker")?, &mut watcher, &topic)?;
    ends_of_wills(ctx, watcher)
}
