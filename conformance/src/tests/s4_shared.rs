//! Owns the tests of section 4.8: shared subscriptions. Never tests No Local on them (3.8).

use anyhow::{Context, Result, bail, ensure};

use super::common::{GRACE, clear_retained, nothing_but_marker, subscriber};
use super::flows::{forget, need_qos, need_retain, need_shared, need_wildcards, numbered, payloads, publish_all};
use crate::client::{Client, Event};
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{self, Props, Publish, Subscribe};
use crate::wire::first;
use crate::wire::read::{Message, Packet};

/// The section.
pub const SECTION: Section = section! {
    prefix: "4.8",
    title: "shared subscriptions",
    tests: {
        empty_share_name_is_refused => ["MQTT-4.8.2-1"],
        wildcards_in_the_share_name_are_refused => ["MQTT-4.8.2-2"],
        share_without_filter_is_refused => ["MQTT-4.8.2-2"],
        each_message_goes_to_one_member => ["MQTT-4.8.2-1", "MQTT-4.8.2-2"],
        each_group_gets_each_message => ["MQTT-4.8.2-2"],
        groups_of_one_name_with_other_filters_are_others => ["MQTT-4.8.2-2"],
        plain_subscribers_get_each_message_too => ["MQTT-4.8.2-2"],
        shared_filters_may_have_wildcards => ["MQTT-4.8.2-2"],
        no_retained_message_on_subscribing => ["MQTT-4.8.2-1"],
        member_that_has_left_gets_nothing => ["MQTT-4.8.2-1"],
        delivery_has_the_qos_granted_to_the_member => ["MQTT-4.8.2-3"],
        qos1_goes_to_another_member_after_the_session => ["MQTT-4.8.2-3"],
        qos2_is_completed_with_the_same_member => ["MQTT-4.8.2-4"],
        qos2_before_pubrec_is_completed_with_the_same_member => ["MQTT-4.8.2-4"],
        qos2_goes_to_nobody_else_after_the_session => ["MQTT-4.8.2-5"],
        rejected_qos1_is_offered_to_nobody_else => ["MQTT-4.8.2-6"],
        rejected_qos2_is_offered_to_nobody_else => ["MQTT-4.8.2-6"],
    },
    unobservable: {},
};

fn refused(ctx: &Ctx, filters: &[&str]) -> Result<()> {
    need_shared(ctx)?;
    for filter in filters {
        let mut client = ctx.client("filter")?;
        client.send(&Subscribe::new(1).filter(filter, 0).bytes(V5))?;
        match client.next_event()? {
            Event::Packet(Packet::Suback(answer)) => {
                let refused = answer.reasons.len() == 1 && answer.reasons.iter().all(|reason| *reason >= 0x80);
                ensure!(refused, "filter {filter:?} is granted: {:02x?}", answer.reasons);
            }
            Event::Closed | Event::Packet(Packet::Disconnect(_)) => {}
            Event::Packet(other) => bail!("filter {filter:?} is answered with {other:02x?}"),
        }
    }
    Ok(())
}

fn empty_share_name_is_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &["$share//a", "$share//", "$share///a"])
}

fn wildcards_in_the_share_name_are_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &["$share/+/a", "$share/#", "$share/#/a", "$share/g+/a", "$share/+g/a", "$share/g#/a", "$share/g+h/#"])
}

fn share_without_filter_is_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &["$share/g", "$share/g/", "$share/g/a/#/b", "$share/g/a+"])
}

fn share(group: &str, filter: &str) -> String {
    format!("$share/{group}/{filter}")
}

/// Two members of a group for a fresh topic, each granted `qos`.
fn pair(ctx: &Ctx, qos: u8) -> Result<(Client, Client, String)> {
    need_shared(ctx)?;
    need_qos(ctx, qos)?;
    let topic = ctx.topic("shared");
    let filter = share("group", &topic);
    Ok((subscriber(ctx, "one", &filter, qos)?, subscriber(ctx, "two", &filter, qos)?, topic))
}

/// The messages that have reached `member`, which has another subscription to `marker`; QoS 1 is acknowledged.
fn reached(member: &mut Client, sender: &mut Client, marker: &str) -> Result<Vec<Message>> {
    sender.publish(marker, 0, "")?;
    super::flows::receive_until(member, marker)
}

fn each_message_goes_to_one_member(ctx: &Ctx) -> Result<()> {
    for qos in 0..=ctx.limits().maximum_qos {
        let (mut one, mut two, topic) = pair(ctx, qos)?;
        let (first, second) = (ctx.topic("first"), ctx.topic("second"));
        one.subscribe(&first, 0)?;
        two.subscribe(&second, 0)?;
        let mut sender = ctx.client("sender")?;
        publish_all(ctx, &mut sender, qos, numbered(&topic, 1..=20))?;
        sender.expect_silence()?;
        let mut all = payloads(&reached(&mut one, &mut sender, &first)?);
        all.extend(payloads(&reached(&mut two, &mut sender, &second)?));
        all.sort_by_key(|number| number.parse::<u32>().unwrap_or(0));
        let due = super::flows::numbers(1..=20);
        ensure!(all == due, "QoS {qos}: the two members got, sorted, {all:?}");
    }
    Ok(())
}

/// One message, and each of the receivers gets it once.
fn all_get(ctx: &Ctx, topic: &str, receivers: &mut [Client]) -> Result<()> {
    let mut sender = ctx.client("sender")?;
    sender.publish(topic, 0, "x")?;
    for receiver in &mut *receivers {
        receiver.expect_message(topic, "x")?;
    }
    sender.expect_silence()?;
    receivers.iter_mut().try_for_each(Client::expect_silence)
}

fn each_group_gets_each_message(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    let topic = ctx.topic("shared");
    let mut members = [
        subscriber(ctx, "one", &share("a", &topic), 0)?,
        subscriber(ctx, "two", &share("A", &topic), 0)?,
        subscriber(ctx, "three", &share("a b", &topic), 0)?,
    ];
    all_get(ctx, &topic, &mut members)
}

fn groups_of_one_name_with_other_filters_are_others(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    need_wildcards(ctx)?;
    let topic = ctx.topic("shared/x");
    let mut members = [
        subscriber(ctx, "one", &share("g", &topic), 0)?,
        subscriber(ctx, "two", &share("g", &ctx.topic("shared/+")), 0)?,
        subscriber(ctx, "three", &share("g", &ctx.topic("shared/#")), 0)?,
    ];
    all_get(ctx, &topic, &mut members)
}

fn plain_subscribers_get_each_message_too(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    let topic = ctx.topic("shared");
    let mut members = [
        subscriber(ctx, "plain", &topic, 0)?,
        subscriber(ctx, "member", &share("g", &topic), 0)?,
        subscriber(ctx, "another", &topic, 0)?,
    ];
    all_get(ctx, &topic, &mut members)
}

fn shared_filters_may_have_wildcards(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    need_wildcards(ctx)?;
    for filter in ["shared/#", "shared/+/c", "+/b/c"] {
        let mut members = [subscriber(ctx, "member", &share("g", &ctx.topic(filter)), 0)?];
        all_get(ctx, &ctx.topic("shared/b/c"), &mut members).context(filter)?;
    }
    Ok(())
}

fn no_retained_message_on_subscribing(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    need_retain(ctx)?;
    let topic = ctx.topic("shared");
    let mut sender = ctx.client("sender")?;
    sender.publish_packet(Publish::new(&topic, "kept").retain(), 0)?;
    sender.expect_silence()?;
    let mut member = subscriber(ctx, "member", &share("g", &topic), 0)?;
    member.expect_quiet_for(GRACE).context("a shared subscription gets no retained messages when it is made")?;
    nothing_but_marker(&mut sender, &mut member, &topic)?;
    clear_retained(ctx, &topic)
}

fn member_that_has_left_gets_nothing(ctx: &Ctx) -> Result<()> {
    let (mut one, mut two, topic) = pair(ctx, 0)?;
    one.unsubscribe(share("group", &topic))?;
    let mut sender = ctx.client("sender")?;
    for _ in 0..6 {
        sender.publish(&topic, 0, "x")?;
        two.expect_message(&topic, "x")?;
    }
    one.expect_silence()
}

fn delivery_has_the_qos_granted_to_the_member(ctx: &Ctx) -> Result<()> {
    need_shared(ctx)?;
    need_qos(ctx, 1)?;
    let topic = ctx.topic("shared");
    for granted in 0..=ctx.limits().maximum_qos {
        let mut member = subscriber(ctx, "member", &share("g", &topic), granted)?;
        for published in 0..=ctx.limits().maximum_qos {
            ctx.client("sender")?.publish(&topic, published, "x")?;
            let message = member.expect_message(&topic, "x")?;
            let qos = message.qos;
            ensure!(qos == granted.min(published), "published {published}, granted {granted}, delivered with {qos}");
            member.acknowledge(&message)?;
        }
        member.disconnect()?;
    }
    Ok(())
}

/// A member whose session lasts, with a message of `qos` it has not acknowledged, and a member that came after that.
fn chosen(ctx: &Ctx, qos: u8) -> Result<(Client, Client, String, Message)> {
    need_shared(ctx)?;
    need_qos(ctx, qos)?;
    let topic = ctx.topic("shared");
    let mut member = ctx.connect(&ctx.v5("chosen").session_expiry(60))?;
    member.subscribe(share("g", &topic), qos)?;
    ctx.client("sender")?.publish(&topic, qos, "x")?;
    let message = member.expect_message(&topic, "x")?;
    Ok((member, subscriber(ctx, "other", &share("g", &topic), qos)?, topic, message))
}

/// Only a SHOULD: whoever does it must do it once, and with the right QoS.
fn qos1_goes_to_another_member_after_the_session(ctx: &Ctx) -> Result<()> {
    let (member, mut other, topic, _) = chosen(ctx, 1)?;
    member.cut()?;
    forget(ctx, "chosen")?;
    let mut sender = ctx.client("sender")?;
    match other.next_within(GRACE * 3) {
        Ok(Event::Packet(Packet::Publish(message))) => {
            ensure!(message.payload == b"x" && message.qos == 1, "the other member got {message:02x?}");
            other.acknowledge(&message)?;
            nothing_but_marker(&mut sender, &mut other, &topic)
        }
        Ok(event) => bail!("expected the message or nothing, got {event:02x?}"),
        Err(_) => {
            nothing_but_marker(&mut sender, &mut other, &topic)?;
            skip("server does not pass the message on, which is only advised")
        }
    }
}

fn qos2_is_completed_with_the_same_member(ctx: &Ctx) -> Result<()> {
    let (mut member, mut other, _, message) = chosen(ctx, 2)?;
    member.send(&build::ack(first::PUBREC, message.id))?;
    member.expect_ack(first::PUBREL, message.id)?.successful()?;
    member.cut()?;
    let mut member = ctx.connect(&ctx.v5("chosen").resume().session_expiry(60))?;
    member.expect_ack(first::PUBREL, message.id)?.successful()?;
    member.send(&build::ack(first::PUBCOMP, message.id))?;
    other.expect_silence()?;
    member.disconnect()?;
    forget(ctx, "chosen")
}

fn qos2_before_pubrec_is_completed_with_the_same_member(ctx: &Ctx) -> Result<()> {
    let (member, mut other, topic, message) = chosen(ctx, 2)?;
    member.cut()?;
    other.expect_quiet_for(GRACE).context("another member got the message")?;
    let mut member = ctx.connect(&ctx.v5("chosen").resume().session_expiry(60))?;
    let again = member.expect_message(&topic, "x")?;
    ensure!(again.id == message.id && again.qos == 2, "sent as {message:02x?}, resent as {again:02x?}");
    member.acknowledge(&again)?;
    other.expect_silence()?;
    member.disconnect()?;
    forget(ctx, "chosen")
}

fn qos2_goes_to_nobody_else_after_the_session(ctx: &Ctx) -> Result<()> {
    let (member, mut other, topic, _) = chosen(ctx, 2)?;
    member.cut()?;
    forget(ctx, "chosen")?;
    other.expect_quiet_for(GRACE).context("another member got the message")?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut other, &topic)
}

/// The rejecting member leaves, so that only the other can get what comes next.
fn rejected(ctx: &Ctx, qos: u8, packet: u8) -> Result<()> {
    let (mut member, mut other, topic, message) = chosen(ctx, qos)?;
    member.send(&build::ack_with(packet, message.id, 0x80, &Props::new()))?;
    member.expect_silence()?;
    member.disconnect()?;
    forget(ctx, "chosen")?;
    other.expect_quiet_for(GRACE).context("another member got the rejected message")?;
    nothing_but_marker(&mut ctx.client("sender")?, &mut other, &topic)
}

fn rejected_qos1_is_offered_to_nobody_else(ctx: &Ctx) -> Result<()> {
    rejected(ctx, 1, first::PUBACK)
}

fn rejected_qos2_is_offered_to_nobody_else(ctx: &Ctx) -> Result<()> {
    rejected(ctx, 2, first::PUBREC)
}
