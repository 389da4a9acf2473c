//! Owns the tests of sections 3.8 and 3.9: SUBSCRIBE and SUBACK. Never tests how filters match (4.7), nor what a PUBLISH
//! looks like (3.3).

use anyhow::{Context, Result, bail, ensure};

use super::common::{clear_retained, closes_on, nothing_but_marker, subscriber, user_property};
use super::flows::{
    forget, need_qos, need_retain, need_shared, need_subscription_ids, need_wildcards, numbered, numbers, payloads,
    small_client, window,
};
use crate::client::{Client, Event};
use crate::context::Ctx;
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{Props, Publish, Subscribe, frame};
use crate::wire::read::{Message, Packet};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.8",
    title: "SUBSCRIBE and SUBACK",
    tests: {
        wrong_fixed_flags_close => ["MQTT-3.8.1-1"],
        subscribe_without_filters_closes => ["MQTT-4.13.1-1"],
        filter_without_options_closes => ["MQTT-4.13.1-1"],
        maximum_qos_three_closes => ["MQTT-4.13.1-1", "MQTT-3.8.3-5"],
        retain_handling_three_closes => ["MQTT-4.13.1-1"],
        reserved_option_bits_close => ["MQTT-3.8.3-5"],
        reserved_bits_of_the_second_filter_close => ["MQTT-3.8.3-5"],
        subscription_identifier_zero_closes => ["MQTT-4.13.1-1"],
        two_subscription_identifiers_close => ["MQTT-4.13.1-1"],
        subscription_identifier_too_long_closes => ["MQTT-4.13.1-1"],
        no_local_keeps_own_messages_away => ["MQTT-3.8.3-3"],
        no_local_lets_the_messages_of_others_through => ["MQTT-3.8.4-5"],
        no_local_holds_for_qos1_and_qos2 => ["MQTT-3.8.3-3"],
        no_local_holds_for_wildcards => ["MQTT-3.8.3-3"],
        no_local_holds_after_reconnecting => ["MQTT-3.8.3-3"],
        no_local_is_per_filter => ["MQTT-3.8.3-3", "MQTT-3.8.4-5"],
        without_no_local_own_messages_come_back => ["MQTT-4.5.0-1"],
        no_local_on_a_shared_subscription_closes => ["MQTT-3.8.3-4"],
        subscribe_is_answered => ["MQTT-3.8.4-1", "MQTT-3.8.4-2"],
        every_one_of_many_subscribes_is_answered => ["MQTT-3.8.4-1", "MQTT-3.8.4-2"],
        repeated_subscribe_is_answered => ["MQTT-3.8.4-1", "MQTT-3.8.4-3"],
        subscribe_with_user_properties_is_answered => ["MQTT-3.8.4-1"],
        identical_filter_replaces_the_subscription => ["MQTT-3.8.4-3"],
        identical_filter_in_one_packet_replaces_the_subscription => ["MQTT-3.8.4-3", "MQTT-3.8.4-5"],
        replacement_raises_the_qos => ["MQTT-3.8.4-3"],
        replacement_lowers_the_qos => ["MQTT-3.8.4-3"],
        replacement_changes_no_local => ["MQTT-3.8.4-3"],
        replacement_changes_retain_as_published => ["MQTT-3.8.4-3"],
        replacement_changes_the_identifier => ["MQTT-3.8.4-3"],
        replacement_drops_the_identifier => ["MQTT-3.8.4-3"],
        replacement_after_reconnecting_leaves_one_subscription => ["MQTT-3.8.4-3"],
        shared_and_plain_subscriptions_do_not_replace_each_other => ["MQTT-3.8.4-3"],
        replacement_sends_retained_messages_again => ["MQTT-3.8.4-4"],
        replacement_sends_all_retained_messages_of_a_wildcard_again => ["MQTT-3.8.4-4"],
        no_message_is_lost_by_replacements => ["MQTT-3.8.4-4"],
        several_filters_get_one_suback => ["MQTT-3.8.4-5", "MQTT-3.8.4-6"],
        all_of_several_filters_are_subscribed => ["MQTT-3.8.4-5"],
        every_filter_of_a_packet_gets_its_retained_message => ["MQTT-3.8.4-5"],
        many_filters_get_as_many_codes => ["MQTT-3.8.4-6"],
        granted_qos_is_at_most_the_wanted => ["MQTT-3.8.4-7"],
        delivery_qos_is_the_lower_of_both => ["MQTT-3.8.4-8"],
        retained_message_has_the_lower_qos => ["MQTT-3.8.4-8"],
        queued_messages_have_the_lower_qos => ["MQTT-3.8.4-8"],
        small_subacks_leave_out_the_reason_string => ["MQTT-3.9.2-1"],
        small_subacks_leave_out_user_properties => ["MQTT-3.9.2-2"],
        codes_are_in_the_order_of_the_filters => ["MQTT-3.9.3-1", "MQTT-3.8.4-6"],
        a_refused_filter_keeps_its_place => ["MQTT-3.9.3-1"],
        codes_are_of_the_table => ["MQTT-3.9.3-2"],
    },
    unobservable: {},
};

const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_ONLY_IF_NEW: u8 = 0x10;

fn wrong_fixed_flags_close(ctx: &Ctx) -> Result<()> {
    let body = Subscribe::new(1).filter(ctx.topic("flags"), 0).body(V5);
    for flags in [0x0, 0x1, 0x3, 0x6, 0xA, 0xF] {
        closes_on(ctx, &frame((first::SUBSCRIBE & 0xF0) | flags, &body))
            .with_context(|| format!("flags {flags:04b}"))?;
    }
    Ok(())
}

fn subscribe_without_filters_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &Subscribe::new(1).bytes(V5)).map(drop)
}

fn filter_without_options_closes(ctx: &Ctx) -> Result<()> {
    let mut body = Subscribe::new(1).filter(ctx.topic("a"), 0).filter(ctx.topic("b"), 0).body(V5);
    body.pop();
    closes_on(ctx, &frame(first::SUBSCRIBE, &body)).map(drop)
}

/// Sends a SUBSCRIBE with each of the options, each on its own connection.
fn options_close(ctx: &Ctx, options: &[u8]) -> Result<()> {
    for option in options {
        let packet = Subscribe::new(1).filter(ctx.topic("options"), *option);
        closes_on(ctx, &packet.bytes(V5)).with_context(|| format!("options {option:08b}"))?;
    }
    Ok(())
}

fn maximum_qos_three_closes(ctx: &Ctx) -> Result<()> {
    options_close(ctx, &[0x03, 0x0F])
}

fn retain_handling_three_closes(ctx: &Ctx) -> Result<()> {
    options_close(ctx, &[0x30, 0x31])
}

fn reserved_option_bits_close(ctx: &Ctx) -> Result<()> {
    options_close(ctx, &[0x40, 0x80, 0xC0, 0x81])
}

fn reserved_bits_of_the_second_filter_close(ctx: &Ctx) -> Result<()> {
    let packet = Subscribe::new(1).filter(ctx.topic("good"), 0).filter(ctx.topic("bad"), 0x40);
    closes_on(ctx, &packet.bytes(V5)).map(drop)
}

fn with_id(id: u32) -> Props {
    Props::new().varint(prop::SUBSCRIPTION_ID, id)
}

fn props_close(ctx: &Ctx, props: Props) -> Result<()> {
    closes_on(ctx, &Subscribe::new(1).props(props).filter(ctx.topic("props"), 0).bytes(V5)).map(drop)
}

fn subscription_identifier_zero_closes(ctx: &Ctx) -> Result<()> {
    props_close(ctx, with_id(0))
}

fn two_subscription_identifiers_close(ctx: &Ctx) -> Result<()> {
    props_close(ctx, with_id(1).varint(prop::SUBSCRIPTION_ID, 2))
}

fn subscription_identifier_too_long_closes(ctx: &Ctx) -> Result<()> {
    props_close(ctx, Props::new().raw(prop::SUBSCRIPTION_ID, [0xFF, 0xFF, 0xFF, 0xFF, 0x01]))
}

/// Subscribes `client` to one filter with the given options byte, which has to be granted.
fn subscribe_with(client: &mut Client, filter: &str, options: u8) -> Result<()> {
    subscribe_props(client, filter, options, Props::new())
}

fn subscribe_props(client: &mut Client, filter: &str, options: u8, props: Props) -> Result<()> {
    let id = client.next_id();
    let answer = client.subscribe_packet(&Subscribe::new(id).props(props).filter(filter, options))?;
    ensure!(answer.reasons == [options & 3], "SUBACK reason codes {:02x?} for options {options:08b}", answer.reasons);
    Ok(())
}

/// `client` publishes to `topic`, subscribed with No Local, and must not get it back; somebody else's marker it must.
fn own_message_stays_away(ctx: &Ctx, client: &mut Client, topic: &str, qos: u8) -> Result<()> {
    client.publish(topic, qos, "own")?;
    nothing_but_marker(&mut ctx.client("other")?, client, topic)
}

fn no_local_keeps_own_messages_away(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("local");
    let mut client = ctx.client("local")?;
    subscribe_with(&mut client, &topic, NO_LOCAL)?;
    own_message_stays_away(ctx, &mut client, &topic, 0)
}

fn no_local_lets_the_messages_of_others_through(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("local");
    let mut client = ctx.client("local")?;
    subscribe_with(&mut client, &topic, NO_LOCAL)?;
    let mut other = ctx.client("other")?;
    for qos in 0..=ctx.limits().maximum_qos {
        other.publish(&topic, qos, "others")?;
        client.expect_message(&topic, "others")?;
    }
    Ok(())
}

fn no_local_holds_for_qos1_and_qos2(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("local");
    for qos in 1..=ctx.limits().maximum_qos {
        let mut client = ctx.client("local")?;
        subscribe_with(&mut client, &topic, NO_LOCAL | qos)?;
        own_message_stays_away(ctx, &mut client, &topic, qos)?;
        client.disconnect()?;
    }
    Ok(())
}

fn no_local_holds_for_wildcards(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    for filter in ["local/#", "local/+"] {
        let mut client = ctx.client("local")?;
        subscribe_with(&mut client, &ctx.topic(filter), NO_LOCAL)?;
        own_message_stays_away(ctx, &mut client, &ctx.topic("local/x"), 0)?;
        client.disconnect()?;
    }
    Ok(())
}

/// The client id counts, not the connection that subscribed.
fn no_local_holds_after_reconnecting(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("local");
    let connect = ctx.v5("local").resume().session_expiry(60);
    let mut client = ctx.connect(&connect)?;
    subscribe_with(&mut client, &topic, NO_LOCAL)?;
    client.cut()?;
    let mut client = ctx.connect(&connect)?;
    own_message_stays_away(ctx, &mut client, &topic, 0)?;
    client.disconnect()?;
    forget(ctx, "local")
}

fn no_local_is_per_filter(ctx: &Ctx) -> Result<()> {
    let (quiet, loud) = (ctx.topic("quiet"), ctx.topic("loud"));
    let mut client = ctx.client("local")?;
    client.subscribe_packet(&Subscribe::new(1).filter(&quiet, NO_LOCAL).filter(&loud, 0))?;
    client.send_publish(&Publish::new(&quiet, "own"))?;
    client.send_publish(&Publish::new(&loud, "own"))?;
    client.expect_message(&loud, "own")?;
    client.expect_silence()
}

fn without_no_local_own_messages_come_back(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("local");
    let mut client = subscriber(ctx, "local", &topic, 0)?;
    client.publish(&topic, 0, "own")?;
    client.expect_message(&topic, "own")?;
    client.expect_silence()
}

fn no_local_on_a_shared_subscription_closes(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    let filter = format!("$share/group/{}", ctx.topic("shared"));
    closes_on(ctx, &Subscribe::new(1).filter(&filter, NO_LOCAL).bytes(V5))?;
    let second = Subscribe::new(1).filter(ctx.topic("plain"), NO_LOCAL).filter(&filter, NO_LOCAL);
    closes_on(ctx, &second.bytes(V5)).map(drop)
}

fn subscribe_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("asks")?;
    for id in [1, 7, 256, 65_535] {
        client.subscribe_packet(&Subscribe::new(id).filter(ctx.topic("asks"), 0))?;
    }
    client.expect_silence()
}

/// The order of the SUBACKs is the broker's own affair.
fn every_one_of_many_subscribes_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("asks")?;
    let packets: Vec<u8> =
        (1..=20).flat_map(|id| Subscribe::new(id).filter(ctx.topic(&format!("asks/{id}")), 0).bytes(V5)).collect();
    client.send(&packets)?;
    let mut open: Vec<u16> = (1..=20).collect();
    while !open.is_empty() {
        match client.next_event().with_context(|| format!("waiting for SUBACKs of {open:?}"))? {
            Event::Packet(Packet::Suback(answer)) => {
                let index = open.iter().position(|id| *id == answer.id);
                open.remove(index.with_context(|| format!("a SUBACK too many for {}", answer.id))?);
            }
            other => bail!("expected SUBACK, got {other:02x?}"),
        }
    }
    client.expect_silence()
}

fn repeated_subscribe_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("again")?;
    for id in 1..=3 {
        let answer = client.subscribe_packet(&Subscribe::new(id).filter(ctx.topic("again"), 0))?;
        ensure!(answer.reasons == [0], "SUBACK reason codes {:02x?}", answer.reasons);
    }
    client.expect_silence()
}

fn subscribe_with_user_properties_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("asks")?;
    let props = user_property("a", "1").pair("a", "2").pair("", "");
    client.subscribe_packet(&Subscribe::new(1).props(props).filter(ctx.topic("asks"), 0)).map(drop)
}

fn identical_filter_replaces_the_subscription(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("same");
    let mut client = subscriber(ctx, "same", &topic, 0)?;
    for qos in [ctx.limits().maximum_qos, 0, 0] {
        client.subscribe(&topic, qos)?;
    }
    nothing_but_marker(&mut ctx.client("sender")?, &mut client, &topic)?;
    need_wildcards(ctx)?;
    let filter = ctx.topic("wild/+");
    client.subscribe(&filter, 0)?;
    client.subscribe(&filter, 0)?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut client, &ctx.topic("wild/x"))
}

fn identical_filter_in_one_packet_replaces_the_subscription(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("same");
    let mut client = ctx.client("same")?;
    let answer = client.subscribe_packet(&Subscribe::new(1).filter(&topic, 0).filter(&topic, 1))?;
    ensure!(answer.reasons == [0, 1], "SUBACK reason codes {:02x?}", answer.reasons);
    let mut sender = ctx.client("sender")?;
    sender.publish(&topic, 1, "x")?;
    let message = client.expect_message(&topic, "x")?;
    ensure!(message.qos == 1, "the second entry of the filter counts, but the message came with QoS {}", message.qos);
    client.acknowledge(&message)?;
    nothing_but_marker(&mut sender, &mut client, &topic)
}

/// Subscribes with `before`, then with `after`, and returns the one message published behind that (QoS 1, retain).
fn replaced(ctx: &Ctx, before: (u8, Props), after: (u8, Props)) -> Result<Message> {
    let topic = ctx.topic("replaced");
    let mut client = ctx.client("replaced")?;
    subscribe_props(&mut client, &topic, before.0, before.1)?;
    subscribe_props(&mut client, &topic, after.0, after.1)?;
    let mut sender = ctx.client("sender")?;
    let mut publish = Publish::new(&topic, "x");
    publish.retain = ctx.limits().retain;
    sender.publish_packet(publish, ctx.limits().maximum_qos.min(1))?;
    let message = client.expect_message(&topic, "x")?;
    client.acknowledge(&message)?;
    nothing_but_marker(&mut sender, &mut client, &topic)?;
    if ctx.limits().retain {
        clear_retained(ctx, &topic)?;
    }
    Ok(message)
}

fn replacement_raises_the_qos(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let message = replaced(ctx, (0, Props::new()), (1, Props::new()))?;
    ensure!(message.qos == 1, "after replacing QoS 0 by 1 a QoS 1 message came with QoS {}", message.qos);
    Ok(())
}

fn replacement_lowers_the_qos(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let message = replaced(ctx, (1, Props::new()), (0, Props::new()))?;
    ensure!(message.qos == 0, "after replacing QoS 1 by 0 a QoS 1 message came with QoS {}", message.qos);
    Ok(())
}

fn replacement_changes_no_local(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("local");
    let mut client = subscriber(ctx, "local", &topic, 0)?;
    subscribe_with(&mut client, &topic, NO_LOCAL)?;
    own_message_stays_away(ctx, &mut client, &topic, 0)?;
    subscribe_with(&mut client, &topic, 0)?;
    client.publish(&topic, 0, "own")?;
    client.expect_message(&topic, "own").map(drop)
}

fn replacement_changes_retain_as_published(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let message = replaced(ctx, (0, Props::new()), (RETAIN_AS_PUBLISHED, Props::new()))?;
    ensure!(message.retain, "after asking for Retain As Published, retain is 0");
    let message = replaced(ctx, (RETAIN_AS_PUBLISHED, Props::new()), (0, Props::new()))?;
    ensure!(!message.retain, "after giving up Retain As Published, retain is 1");
    Ok(())
}

fn replacement_changes_the_identifier(ctx: &Ctx) -> Result<()> {
    need_subscription_ids(ctx)?;
    let ids = replaced(ctx, (0, with_id(1)), (0, with_id(268_435_455)))?.props.numbers(prop::SUBSCRIPTION_ID);
    ensure!(ids == [268_435_455], "subscription identifiers {ids:?} instead of the new one");
    Ok(())
}

fn replacement_drops_the_identifier(ctx: &Ctx) -> Result<()> {
    need_subscription_ids(ctx)?;
    let ids = replaced(ctx, (0, with_id(7)), (0, Props::new()))?.props.numbers(prop::SUBSCRIPTION_ID);
    ensure!(ids.is_empty(), "subscription identifiers {ids:?} although the new subscription has none");
    Ok(())
}

fn replacement_after_reconnecting_leaves_one_subscription(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("same");
    let connect = ctx.v5("same").resume().session_expiry(60);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 0)?;
    client.cut()?;
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, ctx.limits().maximum_qos)?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut client, &topic)?;
    client.disconnect()?;
    forget(ctx, "same")
}

/// A copy for the plain subscription, and one for the group, of which the client is the only member.
fn shared_and_plain_subscriptions_do_not_replace_each_other(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    let topic = ctx.topic("both");
    let mut client = subscriber(ctx, "both", &topic, 0)?;
    client.subscribe(format!("$share/group/{topic}"), 0)?;
    ctx.client("sender")?.publish(&topic, 0, "x")?;
    client.expect_message(&topic, "x")?;
    client.expect_message(&topic, "x").context("the second of two copies")?;
    client.expect_silence()
}

fn replacement_sends_retained_messages_again(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("kept");
    ctx.client("sender")?.publish_packet(Publish::new(&topic, "kept").retain(), ctx.limits().maximum_qos.min(1))?;
    let mut client = ctx.client("again")?;
    for round in 1..=3 {
        client.subscribe(&topic, 0)?;
        let message = client.expect_message(&topic, "kept").with_context(|| format!("SUBSCRIBE number {round}"))?;
        ensure!(message.retain, "a retained message sent because of a SUBSCRIBE has retain 0");
    }
    client.expect_silence()?;
    subscribe_with(&mut client, &topic, RETAIN_ONLY_IF_NEW)?;
    client.expect_silence().context("retain handling 1, and the subscription existed")?;
    clear_retained(ctx, &topic)
}

fn replacement_sends_all_retained_messages_of_a_wildcard_again(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    need_wildcards(ctx)?;
    let topics: Vec<String> = (0..3).map(|index| ctx.topic(&format!("kept/{index}"))).collect();
    let mut sender = ctx.client("sender")?;
    for topic in &topics {
        sender.publish_packet(Publish::new(topic, "kept").retain(), 0)?;
    }
    sender.expect_silence()?;
    let mut client = ctx.client("again")?;
    for _ in 0..2 {
        client.subscribe(ctx.topic("kept/+"), 0)?;
        let mut found = Vec::new();
        for _ in &topics {
            found.push(client.expect_publish()?.topic);
        }
        found.sort();
        ensure!(found == topics, "retained messages of {found:?}");
        client.expect_silence()?;
    }
    topics.iter().try_for_each(|topic| clear_retained(ctx, topic))
}

/// Two ends at full speed: one publishes, the other replaces its subscription again and again.
fn no_message_is_lost_by_replacements(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("swap");
    let qos = ctx.limits().maximum_qos.min(1);
    let rounds = window(ctx, 20);
    let mut client = subscriber(ctx, "swap", &topic, qos)?;
    let mut sender = ctx.client("sender")?;
    for publish in numbered(&topic, 1..=rounds) {
        let id = client.next_id();
        sender.send_publish(&publish.qos(qos, id))?;
        client.send(&Subscribe::new(id).filter(&topic, qos).bytes(V5))?;
    }
    let (mut messages, mut answers) = (Vec::new(), 0);
    while messages.len() < rounds || answers < rounds {
        match client.next_event().with_context(|| format!("{} of {rounds} messages came", messages.len()))? {
            Event::Packet(Packet::Publish(message)) => {
                client.acknowledge(&message)?;
                messages.push(message);
            }
            Event::Packet(Packet::Suback(_)) => answers += 1,
            other => bail!("expected PUBLISH or SUBACK, got {other:02x?}"),
        }
    }
    let found = payloads(&messages);
    ensure!(found == numbers(1..=rounds), "got {found:?}");
    client.expect_silence()
}

fn several_filters_get_one_suback(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("three")?;
    let packet = Subscribe::new(5).filter(ctx.topic("a"), 0).filter(ctx.topic("b"), 0).filter(ctx.topic("c"), 0);
    let answer = client.subscribe_packet(&packet)?;
    ensure!(answer.reasons == [0, 0, 0], "SUBACK reason codes {:02x?} for three filters", answer.reasons);
    client.expect_silence()
}

fn all_of_several_filters_are_subscribed(ctx: &Ctx) -> Result<()> {
    let topics = [ctx.topic("a"), ctx.topic("b"), ctx.topic("c")];
    let mut client = ctx.client("three")?;
    let packet = topics.iter().fold(Subscribe::new(1), |packet, topic| packet.filter(topic, 0));
    client.subscribe_packet(&packet)?;
    let mut sender = ctx.client("sender")?;
    for topic in &topics {
        sender.publish(topic, 0, "x")?;
        client.expect_message(topic, "x")?;
    }
    client.expect_silence()
}

fn every_filter_of_a_packet_gets_its_retained_message(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topics = [ctx.topic("a"), ctx.topic("b"), ctx.topic("c")];
    let mut sender = ctx.client("sender")?;
    for topic in &topics {
        sender.publish_packet(Publish::new(topic, "kept").retain(), 0)?;
    }
    sender.expect_silence()?;
    let mut client = ctx.client("three")?;
    let packet = topics.iter().fold(Subscribe::new(1), |packet, topic| packet.filter(topic, 0));
    client.subscribe_packet(&packet)?;
    let mut found = Vec::new();
    for _ in &topics {
        found.push(client.expect_publish()?.topic);
    }
    found.sort();
    ensure!(found == topics, "retained messages of {found:?}");
    topics.iter().try_for_each(|topic| clear_retained(ctx, topic))
}

fn many_filters_get_as_many_codes(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("many")?;
    let packet =
        (0..40).fold(Subscribe::new(1), |packet, index| packet.filter(ctx.topic(&format!("many/{index}")), index % 2));
    let answer = client.subscribe_packet(&packet)?;
    ensure!(answer.reasons.len() == 40, "{} codes for 40 filters", answer.reasons.len());
    Ok(())
}

fn granted_qos_is_at_most_the_wanted(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("granted")?;
    for wanted in 0..=2 {
        let id = client.next_id();
        let answer = client.subscribe_packet(&Subscribe::new(id).filter(ctx.topic("granted"), wanted))?;
        let fits = |code: &u8| *code <= wanted || *code >= 0x80;
        ensure!(
            answer.reasons.len() == 1 && answer.reasons.iter().all(fits),
            "SUBACK {:02x?} for QoS {wanted}",
            answer.reasons
        );
    }
    Ok(())
}

fn delivery_qos_is_the_lower_of_both(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("lower");
    let mut sender = ctx.client("sender")?;
    for granted in 0..=ctx.limits().maximum_qos {
        let mut client = subscriber(ctx, "receiver", &topic, granted)?;
        for published in 0..=ctx.limits().maximum_qos {
            sender.publish(&topic, published, "x")?;
            let message = client.expect_message(&topic, "x")?;
            ensure!(
                message.qos == granted.min(published),
                "published with QoS {published}, granted {granted}, delivered with {}",
                message.qos
            );
            client.acknowledge(&message)?;
        }
        client.disconnect()?;
    }
    Ok(())
}

fn retained_message_has_the_lower_qos(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("lower");
    for published in 0..=ctx.limits().maximum_qos {
        ctx.client("sender")?.publish_packet(Publish::new(&topic, "kept").retain(), published)?;
        for granted in 0..=ctx.limits().maximum_qos {
            let mut client = subscriber(ctx, "receiver", &topic, granted)?;
            let qos = client.expect_message(&topic, "kept")?.qos;
            ensure!(
                qos == granted.min(published),
                "published {published}, granted {granted}, retained came with {qos}"
            );
        }
    }
    clear_retained(ctx, &topic)
}

fn queued_messages_have_the_lower_qos(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("lower");
    let connect = ctx.v5("queue").resume().session_expiry(60);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 1)?;
    client.disconnect()?;
    ctx.client("sender")?.publish(&topic, 2, "queued")?;
    let mut client = ctx.connect(&connect)?;
    let message = client.expect_message(&topic, "queued")?;
    ensure!(message.qos == 1, "published with QoS 2, granted 1, delivered from the queue with {}", message.qos);
    client.acknowledge(&message)?;
    client.disconnect()?;
    forget(ctx, "queue")
}

/// What brokers like to explain, on a connection that hardly has room for the code; the audit measures each answer.
fn small_subacks(ctx: &Ctx, props: &Props) -> Result<()> {
    for (filter, options) in
        [("a", 0), ("a", 2), ("$share/g/a", 0), ("$share/a+b/c", 0), ("a/#/b", 0), ("$SYS/#", 0x20)]
    {
        let mut client = small_client(ctx, "small")?;
        client.send(&Subscribe::new(1).props(props.clone()).filter(filter, options).bytes(V5))?;
        match client.next_event()? {
            Event::Closed | Event::Packet(Packet::Suback(_) | Packet::Disconnect(_) | Packet::Publish(_)) => {}
            other => bail!("expected SUBACK, got {other:02x?}"),
        }
    }
    Ok(())
}

fn small_subacks_leave_out_the_reason_string(ctx: &Ctx) -> Result<()> {
    small_subacks(ctx, &Props::new())
}

/// A broker may give the client's own properties back.
fn small_subacks_leave_out_user_properties(ctx: &Ctx) -> Result<()> {
    small_subacks(ctx, &user_property("name of the property", "a value longer than the client can take"))
}

fn codes_are_in_the_order_of_the_filters(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let mut client = ctx.client("order")?;
    let wanted: Vec<u8> = [1, 0, 0, 2, 1, 0].iter().map(|qos| ctx.limits().maximum_qos.min(*qos)).collect();
    let names = ["f", "e", "a", "c", "b", "d"];
    let packet =
        wanted.iter().zip(names).fold(Subscribe::new(1), |packet, (qos, name)| packet.filter(ctx.topic(name), *qos));
    let answer = client.subscribe_packet(&packet)?;
    ensure!(answer.reasons == wanted, "codes {:02x?} for {wanted:?}", answer.reasons);
    Ok(())
}

/// A broker may close on an invalid filter; if it answers, the failure stands in the filter's place, and the others hold.
fn a_refused_filter_keeps_its_place(ctx: &Ctx) -> Result<()> {
    let (good, also_good) = (ctx.topic("good"), ctx.topic("also"));
    let mut client = ctx.client("place")?;
    client.send(&Subscribe::new(1).filter(&good, 0).filter("a/#/b", 0).filter(&also_good, 0).bytes(V5))?;
    let answer = match client.next_event()? {
        Event::Closed | Event::Packet(Packet::Disconnect(_)) => return Ok(()),
        Event::Packet(Packet::Suback(answer)) => answer,
        other => bail!("expected SUBACK or the end, got {other:02x?}"),
    };
    ensure!(
        matches!(answer.reasons[..], [0, 0x80..=0xFF, 0]),
        "codes {:02x?}, expected [00, >=80, 00]",
        answer.reasons
    );
    let mut sender = ctx.client("sender")?;
    for topic in [&good, &also_good] {
        sender.publish(topic, 0, "x")?;
        client.expect_message(topic, "x")?;
    }
    Ok(())
}

/// The reader knows the table; these are requests that brokers answer with a variety of codes.
fn codes_are_of_the_table(ctx: &Ctx) -> Result<()> {
    let long = "x/".repeat(2_000);
    for filter in ["$SYS/#", "$share/g/a", "$share/g+/a", "$share/g", "a/+b", "#/a", "$queue/a", "/", " ", &long] {
        for options in [0x00, 0x02, 0x24, 0x2A] {
            let mut client = ctx.client("table")?;
            client.send(&Subscribe::new(1).filter(filter, options).bytes(V5))?;
            match client.next_event().with_context(|| format!("filter {filter:?}, options {options:#04x}"))? {
                Event::Packet(Packet::Suback(answer)) => ensure!(answer.reasons.len() == 1, "{:02x?}", answer.reasons),
                Event::Closed | Event::Packet(Packet::Disconnect(_) | Packet::Publish(_)) => {}
                Event::Packet(other) => bail!("expected SUBACK or the end, got {other:02x?}"),
            }
        }
    }
    Ok(())
}
