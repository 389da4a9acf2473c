//! Owns the tests of sections 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK. Never tests what another section owns.

use anyhow::{Context, Result, bail, ensure};

use super::common::{closes_on, nothing_but_marker, subscriber, user_property};
use super::flows::{forget, need_qos, need_shared, need_wildcards, small_client};
use crate::client::{Client, Event};
use crate::context::Ctx;
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{self, Props, Unsubscribe, frame};
use crate::wire::read::{Answer, Packet};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.10",
    title: "UNSUBSCRIBE and UNSUBACK",
    tests: {
        wrong_fixed_flags_close => ["MQTT-3.10.1-1"],
        unsubscribe_without_filters_closes => ["MQTT-4.13.1-1"],
        subscription_identifier_in_unsubscribe_closes => ["MQTT-4.13.1-1"],
        exact_filter_is_deleted => ["MQTT-3.10.4-1", "MQTT-3.10.4-2"],
        wildcard_filter_is_deleted => ["MQTT-3.10.4-1", "MQTT-3.10.4-2"],
        other_filters_stay => ["MQTT-3.10.4-1"],
        matching_wildcard_deletes_nothing => ["MQTT-3.10.4-1"],
        matched_topic_does_not_delete_a_wildcard => ["MQTT-3.10.4-1"],
        shared_subscription_is_deleted_by_its_whole_filter => ["MQTT-3.10.4-1", "MQTT-3.10.4-2"],
        shared_and_plain_subscriptions_are_deleted_apart => ["MQTT-3.10.4-1"],
        subscriptions_of_others_stay => ["MQTT-3.10.4-1"],
        nothing_new_is_delivered => ["MQTT-3.10.4-2"],
        nothing_new_is_queued => ["MQTT-3.10.4-2"],
        deleted_subscription_does_not_come_back_with_the_session => ["MQTT-3.10.4-2"],
        overlapping_subscription_still_delivers => ["MQTT-3.10.4-1"],
        begun_qos1_delivery_is_repeated_after_reconnecting => ["MQTT-3.10.4-3"],
        begun_qos2_delivery_is_completed => ["MQTT-3.10.4-3"],
        begun_qos2_delivery_is_completed_after_reconnecting => ["MQTT-3.10.4-3"],
        unsubscribe_is_answered => ["MQTT-3.10.4-4", "MQTT-3.10.4-5"],
        every_one_of_many_unsubscribes_is_answered => ["MQTT-3.10.4-4", "MQTT-3.10.4-5"],
        unsubscribe_that_deletes_nothing_is_answered => ["MQTT-3.10.4-5"],
        unsubscribe_with_user_properties_is_answered => ["MQTT-3.10.4-4"],
        all_of_several_filters_are_deleted => ["MQTT-3.10.4-6"],
        several_filters_get_one_unsuback => ["MQTT-3.10.4-6", "MQTT-3.11.3-2"],
        small_unsubacks_leave_out_the_reason_string => ["MQTT-3.11.2-1"],
        small_unsubacks_leave_out_user_properties => ["MQTT-3.11.2-2"],
        codes_are_in_the_order_of_the_filters => ["MQTT-3.11.3-1"],
        codes_are_of_the_table => ["MQTT-3.11.3-2"],
    },
    unobservable: {},
};

fn wrong_fixed_flags_close(ctx: &Ctx) -> Result<()> {
    let body = Unsubscribe::new(1).filter(ctx.topic("flags")).body(V5);
    for flags in [0x0, 0x1, 0x3, 0x6, 0xA, 0xF] {
        let packet = frame((first::UNSUBSCRIBE & 0xF0) | flags, &body);
        closes_on(ctx, &packet).with_context(|| format!("flags {flags:04b}"))?;
    }
    Ok(())
}

fn unsubscribe_without_filters_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &Unsubscribe::new(1).bytes(V5)).map(drop)
}

fn subscription_identifier_in_unsubscribe_closes(ctx: &Ctx) -> Result<()> {
    let props = Props::new().varint(prop::SUBSCRIPTION_ID, 1);
    closes_on(ctx, &Unsubscribe::new(1).props(props).filter(ctx.topic("a")).bytes(V5)).map(drop)
}

/// Unsubscribes from `filter`, which exists.
fn delete(client: &mut Client, filter: &str) -> Result<()> {
    let answer = client.unsubscribe(filter)?;
    ensure!(answer.reasons == [0], "UNSUBACK {:02x?} for an existing subscription", answer.reasons);
    Ok(())
}

/// Unsubscribes from `filter`, which does not exist: the broker must not say it failed.
fn delete_nothing(client: &mut Client, filter: &str) -> Result<Answer> {
    let answer = client.unsubscribe(filter)?;
    ensure!(matches!(answer.reasons[..], [0 | 0x11]), "UNSUBACK {:02x?} for no subscription", answer.reasons);
    Ok(answer)
}

/// A message to `topic` does not reach `client`, one to a subscription made now does.
fn topic_is_dead(ctx: &Ctx, client: &mut Client, topic: &str) -> Result<()> {
    let marker = ctx.topic("marker");
    client.subscribe(&marker, 0)?;
    let mut sender = ctx.client("sender")?;
    sender.publish(topic, ctx.limits().maximum_qos, "unwanted")?;
    nothing_but_marker(&mut sender, client, &marker)
}

fn topic_is_alive(ctx: &Ctx, client: &mut Client, topic: &str) -> Result<()> {
    nothing_but_marker(&mut ctx.client("sender")?, client, topic)
}

fn exact_filter_is_deleted(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("exact/Ünïcode 1");
    let mut client = subscriber(ctx, "exact", &topic, ctx.limits().maximum_qos)?;
    topic_is_alive(ctx, &mut client, &topic)?;
    delete(&mut client, &topic)?;
    topic_is_dead(ctx, &mut client, &topic)
}

fn wildcard_filter_is_deleted(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let topic = ctx.topic("wild/x");
    let mut client = ctx.client("wild")?;
    for filter in [ctx.topic("wild/#"), ctx.topic("wild/+"), ctx.topic("+/x")] {
        client.subscribe(&filter, 0)?;
        topic_is_alive(ctx, &mut client, &topic)?;
        delete(&mut client, &filter)?;
        topic_is_dead(ctx, &mut client, &topic).with_context(|| filter.clone())?;
    }
    Ok(())
}

fn other_filters_stay(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("stays");
    let mut client = subscriber(ctx, "stays", &topic, 0)?;
    for other in [ctx.topic("stays/"), ctx.topic("stay"), ctx.topic("Stays"), ctx.topic("stays/a"), ctx.topic("/stays")]
    {
        delete_nothing(&mut client, &other)?;
        topic_is_alive(ctx, &mut client, &topic).with_context(|| format!("after unsubscribing from {other:?}"))?;
    }
    Ok(())
}

fn matching_wildcard_deletes_nothing(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let topic = ctx.topic("stays/a");
    let mut client = subscriber(ctx, "stays", &topic, 0)?;
    for other in [ctx.topic("stays/+"), ctx.topic("stays/#"), ctx.topic("+/a"), "#".to_owned()] {
        delete_nothing(&mut client, &other)?;
        topic_is_alive(ctx, &mut client, &topic).with_context(|| format!("after unsubscribing from {other:?}"))?;
    }
    Ok(())
}

fn matched_topic_does_not_delete_a_wildcard(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let topic = ctx.topic("stays/a");
    for filter in [ctx.topic("stays/+"), ctx.topic("stays/#")] {
        let mut client = subscriber(ctx, "stays", &filter, 0)?;
        delete_nothing(&mut client, &topic)?;
        topic_is_alive(ctx, &mut client, &topic).with_context(|| filter.clone())?;
        client.disconnect()?;
    }
    Ok(())
}

fn shared_subscription_is_deleted_by_its_whole_filter(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    let topic = ctx.topic("shared");
    let filter = format!("$share/group/{topic}");
    let mut client = subscriber(ctx, "shared", &filter, 0)?;
    delete_nothing(&mut client, &format!("$share/another/{topic}"))?;
    topic_is_alive(ctx, &mut client, &topic)?;
    delete(&mut client, &filter)?;
    topic_is_dead(ctx, &mut client, &topic)
}

fn shared_and_plain_subscriptions_are_deleted_apart(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    let topic = ctx.topic("shared");
    let filter = format!("$share/group/{topic}");
    let mut client = subscriber(ctx, "shared", &filter, 0)?;
    delete_nothing(&mut client, &topic)?;
    topic_is_alive(ctx, &mut client, &topic)?;
    client.subscribe(&topic, 0)?;
    delete(&mut client, &filter)?;
    topic_is_alive(ctx, &mut client, &topic)?;
    delete(&mut client, &topic)?;
    topic_is_dead(ctx, &mut client, &topic)
}

fn subscriptions_of_others_stay(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("stays");
    let mut staying = subscriber(ctx, "staying", &topic, 0)?;
    let mut leaving = subscriber(ctx, "leaving", &topic, 0)?;
    delete(&mut leaving, &topic)?;
    topic_is_alive(ctx, &mut staying, &topic)
}

/// The UNSUBACK is the border; what was published before it may still come.
fn nothing_new_is_delivered(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("ended");
    let mut sender = ctx.client("early")?;
    let mut client = subscriber(ctx, "ended", &topic, 0)?;
    for qos in 0..=ctx.limits().maximum_qos {
        client.subscribe(&topic, qos)?;
        delete(&mut client, &topic)?;
        sender.publish(&topic, qos, "too late")?;
        // At QoS 0 nothing else says that the broker has it, and the next round subscribes again.
        sender.expect_silence()?;
    }
    topic_is_dead(ctx, &mut client, &topic)
}

fn nothing_new_is_queued(ctx: &Ctx) -> Result<()> {
    let qos = ctx.limits().maximum_qos;
    let (topic, kept) = (ctx.topic("ended"), ctx.topic("kept"));
    let connect = ctx.v5("queue").resume().session_expiry(60);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, qos)?;
    client.subscribe(&kept, qos)?;
    delete(&mut client, &topic)?;
    client.disconnect()?;
    ctx.client("sender")?.publish(&topic, qos, "too late")?;
    let mut client = ctx.connect(&connect)?;
    ensure!(client.connack.session_present, "the session is gone");
    topic_is_alive(ctx, &mut client, &kept)?;
    client.disconnect()?;
    forget(ctx, "queue")
}

fn deleted_subscription_does_not_come_back_with_the_session(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("ended");
    let connect = ctx.v5("back").resume().session_expiry(60);
    let mut client = ctx.connect(&connect)?;
    client.subscribe(&topic, 0)?;
    client.cut()?;
    let mut client = ctx.connect(&connect)?;
    delete(&mut client, &topic)?;
    client.cut()?;
    let mut client = ctx.connect(&connect)?;
    topic_is_dead(ctx, &mut client, &topic)?;
    client.disconnect()?;
    forget(ctx, "back")
}

fn overlapping_subscription_still_delivers(ctx: &Ctx) -> Result<()> {
    need_wildcards(ctx)?;
    let topic = ctx.topic("over/lap");
    let mut client = subscriber(ctx, "over", &topic, 0)?;
    client.subscribe(ctx.topic("over/+"), 0)?;
    client.subscribe(ctx.topic("over/#"), 0)?;
    delete(&mut client, &topic)?;
    delete(&mut client, &ctx.topic("over/+"))?;
    topic_is_alive(ctx, &mut client, &topic)
}

/// A client whose session outlives it and that has received, but not acknowledged, a message of `qos` (its id), and
/// whose subscription is deleted since.
fn begun(ctx: &Ctx, qos: u8) -> Result<(Client, String, u16)> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("begun");
    let mut client = ctx.connect(&ctx.v5("begun").session_expiry(60))?;
    client.subscribe(&topic, qos)?;
    ctx.client("sender")?.publish(&topic, qos, "begun")?;
    let id = client.expect_message(&topic, "begun")?.id;
    delete(&mut client, &topic)?;
    Ok((client, topic, id))
}

fn begun_qos1_delivery_is_repeated_after_reconnecting(ctx: &Ctx) -> Result<()> {
    let (client, topic, id) = begun(ctx, 1)?;
    client.cut()?;
    let mut client = ctx.connect(&ctx.v5("begun").resume())?;
    let message = client.expect_message(&topic, "begun")?;
    ensure!(message.id == id && message.qos == 1, "resent as {message:02x?}, its identifier was {id}");
    client.acknowledge(&message)?;
    client.expect_silence()
}

fn begun_qos2_delivery_is_completed(ctx: &Ctx) -> Result<()> {
    let (mut client, _, id) = begun(ctx, 2)?;
    client.send(&build::ack(first::PUBREC, id))?;
    client.expect_ack(first::PUBREL, id)?.successful()?;
    client.send(&build::ack(first::PUBCOMP, id))?;
    client.expect_silence()?;
    client.disconnect()?;
    forget(ctx, "begun")
}

fn begun_qos2_delivery_is_completed_after_reconnecting(ctx: &Ctx) -> Result<()> {
    let (mut client, _, id) = begun(ctx, 2)?;
    client.send(&build::ack(first::PUBREC, id))?;
    client.expect_ack(first::PUBREL, id)?.successful()?;
    client.cut()?;
    let mut client = ctx.connect(&ctx.v5("begun").resume())?;
    client.expect_ack(first::PUBREL, id)?.successful()?;
    client.send(&build::ack(first::PUBCOMP, id))?;
    client.expect_silence()
}

fn unsubscribe_is_answered(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("asks");
    let mut client = ctx.client("asks")?;
    for id in [1, 7, 256, 65_535] {
        client.subscribe(&topic, 0)?;
        client.send(&Unsubscribe::new(id).filter(&topic).bytes(V5))?;
        client.expect_unsuback(id)?;
    }
    client.expect_silence()
}

fn every_one_of_many_unsubscribes_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("asks")?;
    let packets: Vec<u8> =
        (1..=20).flat_map(|id| Unsubscribe::new(id).filter(ctx.topic(&format!("asks/{id}"))).bytes(V5)).collect();
    client.send(&packets)?;
    let mut open: Vec<u16> = (1..=20).collect();
    while !open.is_empty() {
        match client.next_event().with_context(|| format!("waiting for UNSUBACKs of {open:?}"))? {
            Event::Packet(Packet::Unsuback(answer)) => {
                let index = open.iter().position(|id| *id == answer.id);
                open.remove(index.with_context(|| format!("an UNSUBACK too many for {}", answer.id))?);
            }
            other => bail!("expected UNSUBACK, got {other:02x?}"),
        }
    }
    client.expect_silence()
}

fn unsubscribe_that_deletes_nothing_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("nothing")?;
    let answer = delete_nothing(&mut client, &ctx.topic("never"))?;
    ensure!(answer.reasons.len() == 1, "{:02x?}", answer.reasons);
    client.subscribe(ctx.topic("once"), 0)?;
    delete(&mut client, &ctx.topic("once"))?;
    delete_nothing(&mut client, &ctx.topic("once"))?;
    client.expect_silence()
}

fn unsubscribe_with_user_properties_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("asks")?;
    let props = user_property("a", "1").pair("a", "2").pair("", "");
    client.send(&Unsubscribe::new(1).props(props).filter(ctx.topic("asks")).bytes(V5))?;
    client.expect_unsuback(1).map(drop)
}

fn all_of_several_filters_are_deleted(ctx: &Ctx) -> Result<()> {
    let topics = [ctx.topic("a"), ctx.topic("b"), ctx.topic("c")];
    let mut client = ctx.client("three")?;
    for topic in &topics {
        client.subscribe(topic, 0)?;
    }
    let packet = topics.iter().fold(Unsubscribe::new(9), |packet, topic| packet.filter(topic));
    client.send(&packet.bytes(V5))?;
    client.expect_unsuback(9)?;
    topics.iter().try_for_each(|topic| topic_is_dead(ctx, &mut client, topic))
}

fn several_filters_get_one_unsuback(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("many")?;
    let packet = (0..40).fold(Unsubscribe::new(9), |packet, index| packet.filter(ctx.topic(&format!("many/{index}"))));
    client.send(&packet.bytes(V5))?;
    let answer = client.expect_unsuback(9)?;
    ensure!(answer.reasons.len() == 40, "{} codes for 40 filters", answer.reasons.len());
    client.expect_silence()
}

/// What brokers like to explain, on a connection that hardly has room for the code; the audit measures each answer.
fn small_unsubacks(ctx: &Ctx, props: &Props) -> Result<()> {
    for filter in ["a", "$share/g/a", "$share/a+b/c", "a/#/b"] {
        let mut client = small_client(ctx, "small")?;
        client.send(&Unsubscribe::new(1).props(props.clone()).filter(filter).bytes(V5))?;
        match client.next_event()? {
            Event::Closed | Event::Packet(Packet::Unsuback(_) | Packet::Disconnect(_)) => {}
            other => bail!("expected UNSUBACK, got {other:02x?}"),
        }
    }
    Ok(())
}

fn small_unsubacks_leave_out_the_reason_string(ctx: &Ctx) -> Result<()> {
    small_unsubacks(ctx, &Props::new())
}

/// A broker may give the client's own properties back.
fn small_unsubacks_leave_out_user_properties(ctx: &Ctx) -> Result<()> {
    small_unsubacks(ctx, &user_property("name of the property", "a value longer than the client can take"))
}

/// 0x11 is for a filter without subscription only.
fn codes_are_in_the_order_of_the_filters(ctx: &Ctx) -> Result<()> {
    let mut client = ctx.client("order")?;
    client.subscribe(ctx.topic("b"), 0)?;
    client.subscribe(ctx.topic("a"), 0)?;
    let packet = Unsubscribe::new(9).filter(ctx.topic("b")).filter(ctx.topic("x")).filter(ctx.topic("y"));
    client.send(&packet.filter(ctx.topic("a")).filter(ctx.topic("z")).bytes(V5))?;
    let reasons = client.expect_unsuback(9)?.reasons;
    ensure!(
        matches!(reasons[..], [0, 0 | 0x11, 0 | 0x11, 0, 0 | 0x11]),
        "codes {reasons:02x?}, the first and the fourth subscription existed"
    );
    Ok(())
}

/// The reader knows the table; these are requests that brokers answer with a variety of codes.
fn codes_are_of_the_table(ctx: &Ctx) -> Result<()> {
    for filter in ["$SYS/#", "$share/g/a", "$share/g+/a", "$share/g", "a/+b", "#/a", "/", " "] {
        let mut client = ctx.client("table")?;
        client.send(&Unsubscribe::new(1).filter(filter).bytes(V5))?;
        match client.next_event().with_context(|| format!("filter {filter:?}"))? {
            Event::Packet(Packet::Unsuback(answer)) => ensure!(answer.reasons.len() == 1, "{:02x?}", answer.reasons),
            Event::Closed | Event::Packet(Packet::Disconnect(_)) => {}
            Event::Packet(other) => bail!("expected UNSUBACK or the end, got {other:02x?}"),
        }
    }
    Ok(())
}
