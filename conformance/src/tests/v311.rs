//! Owns the tests of MQTT 3.1.1 about all packets after CONNECT: publishing, subscribing, re-delivery, order, protocol
//! violations. CONNECT and the meeting of both versions have files of their own.

use anyhow::{Context, Result, bail, ensure};

use super::common::{ILL_FORMED, NUL, clear_retained, each};
use super::s3_03_publish::need_qos;
use super::s3_03_retain::need_retain;
use super::v311_connect::{client, end_session, leave_session, only_marker, resumed, watcher};
use crate::client::Event;
use crate::context::{Ctx, skip};
use crate::registry::{Section, section};
use crate::wire::Version::V311;
use crate::wire::build::{self, Publish, Subscribe, Unsubscribe, ack, frame, string};
use crate::wire::first;
use crate::wire::read::Packet;

/// The section.
pub const SECTION: Section = section! {
    prefix: "v311",
    title: "MQTT 3.1.1: publishing and subscribing",
    tests: {
        acknowledgements_have_two_bytes => ["MQTT311-3.3.4-1", "MQTT311-2.3.1-6"],
        pubrel_of_the_server_has_two_bytes_and_flags => ["MQTT311-3.6.1-1", "MQTT311-2.3.1-6"],
        suback_has_a_code_for_each_filter => ["MQTT311-3.8.4-1", "MQTT311-3.8.4-2", "MQTT311-3.8.4-5", "MQTT311-3.9.3-1"],
        suback_codes_are_qos_or_0x80 => ["MQTT311-3.9.3-2"],
        unsuback_has_no_payload => ["MQTT311-3.10.4-4", "MQTT311-3.10.4-5", "MQTT311-2.3.1-7"],
        unsubscribed_messages_stop => ["MQTT311-3.10.4-1", "MQTT311-3.10.4-2"],
        unsubscribing_several_filters_removes_each => ["MQTT311-3.10.4-6"],
        pingreq_is_answered => ["MQTT311-3.12.4-1"],
        qos_is_the_lower_of_both => ["MQTT311-3.8.4-6"],
        overlapping_subscriptions_deliver_at_the_highest_qos => ["MQTT311-3.3.5-1"],
        dup_is_not_passed_on => ["MQTT311-3.3.1-3"],
        retained_message_is_sent_with_retain => ["MQTT311-3.3.1-5", "MQTT311-3.3.1-6", "MQTT311-3.3.1-8"],
        live_message_is_sent_without_retain => ["MQTT311-3.3.1-9"],
        retained_message_is_replaced => ["MQTT311-3.3.1-5"],
        qos0_message_discards_the_older_retained_one => ["MQTT311-3.3.1-7"],
        empty_message_deletes_the_retained_one => ["MQTT311-3.3.1-10", "MQTT311-3.3.1-11"],
        message_without_retain_changes_nothing => ["MQTT311-3.3.1-12"],
        retained_message_is_sent_again_on_resubscribing => ["MQTT311-3.8.4-3"],
        resubscribing_replaces_the_subscription => ["MQTT311-3.8.4-3"],
        qos1_is_sent_again_on_reconnecting => ["MQTT311-3.3.1-1", "MQTT311-4.4.0-1"],
        qos2_is_sent_again_on_reconnecting => ["MQTT311-3.3.1-1", "MQTT311-4.4.0-1"],
        pubrel_is_sent_again_on_reconnecting => ["MQTT311-4.4.0-1"],
        acknowledged_messages_are_not_sent_again => ["MQTT311-4.4.0-1"],
        messages_are_sent_again_in_their_order => ["MQTT311-4.6.0-6"],
        qos2_message_sent_twice_is_delivered_once => ["MQTT311-4.3.3-2"],
        qos2_handshake_goes_on_after_reconnecting => ["MQTT311-4.3.3-2"],
        messages_keep_their_order => ["MQTT311-4.6.0-5", "MQTT311-4.6.0-6"],
        leading_wildcard_does_not_match_dollar_topics => ["MQTT311-4.7.2-1"],
        filters_match_by_character => ["MQTT311-4.7.3-4", "MQTT311-3.3.2-3"],
        qos3_closes => ["MQTT311-3.3.1-4"],
        reserved_flags_close => ["MQTT311-2.2.2-2"],
        reserved_flags_of_pubrel_close => ["MQTT311-3.6.1-1"],
        reserved_flags_of_subscribe_close => ["MQTT311-3.8.1-1"],
        reserved_flags_of_unsubscribe_close => ["MQTT311-3.10.1-1"],
        identifier_zero_closes => ["MQTT311-2.3.1-1", "MQTT311-4.8.0-1"],
        auth_closes => ["MQTT311-4.8.0-1"],
        packet_type_zero_closes => ["MQTT311-4.8.0-1"],
        connack_from_a_client_closes => ["MQTT311-4.8.0-1"],
        suback_from_a_client_closes => ["MQTT311-4.8.0-1"],
        unsuback_from_a_client_closes => ["MQTT311-4.8.0-1"],
        pingresp_from_a_client_closes => ["MQTT311-4.8.0-1"],
        subscribe_without_filter_closes => ["MQTT311-3.8.3-3", "MQTT311-4.8.0-1"],
        subscribe_with_qos3_closes => ["MQTT311-3.8.3-4"],
        subscribe_with_reserved_bits_closes => ["MQTT311-3.8.3-4"],
        unsubscribe_without_filter_closes => ["MQTT311-3.10.3-2", "MQTT311-4.8.0-1"],
        ill_formed_topic_closes => ["MQTT311-1.5.3-1"],
        topic_with_nul_closes => ["MQTT311-1.5.3-2", "MQTT311-4.7.3-2"],
        empty_topic_closes => ["MQTT311-4.7.3-1", "MQTT311-4.8.0-1"],
        wildcard_in_a_topic_closes => ["MQTT311-3.3.2-2", "MQTT311-4.8.0-1"],
        bad_filters_are_not_granted => ["MQTT311-4.7.1-2", "MQTT311-4.7.1-3"],
        payload_is_not_taken_for_properties => ["MQTT311-3.3.4-1"],
    },
    unobservable: {},
};

/// Sends `bytes` on an established MQTT 3.1.1 connection and expects the closure, without a DISCONNECT before it.
fn closes_on(ctx: &Ctx, bytes: &[u8]) -> Result<()> {
    let mut client = client(ctx, "offender")?;
    client.send(bytes)?;
    client.expect_closed().map(drop)
}

/// The reader refuses any byte beyond the identifier. Reason codes of MQTT 5 (no subscriber, unknown PUBREL) tempt most.
fn acknowledgements_have_two_bytes(ctx: &Ctx) -> Result<()> {
    let mut client = client(ctx, "sender")?;
    for qos in 0..=ctx.limits().maximum_qos {
        client.publish(ctx.topic("nobody"), qos, "x")?;
    }
    client.send(&ack(first::PUBREL, 77))?;
    client.expect_ack(first::PUBCOMP, 77).map(drop)
}

fn pubrel_of_the_server_has_two_bytes_and_flags(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("two");
    let mut receiver = watcher(ctx, "receiver", &topic, 2)?;
    client(ctx, "sender")?.publish(&topic, 2, "x")?;
    let message = receiver.expect_message(&topic, "x")?;
    receiver.acknowledge(&message)?;
    receiver.expect_silence()
}

fn suback_has_a_code_for_each_filter(ctx: &Ctx) -> Result<()> {
    let maximum = ctx.limits().maximum_qos;
    let mut client = client(ctx, "many")?;
    let wanted: Vec<u8> = [0, 1, 2, 2, 1, 0].map(|qos: u8| qos.min(maximum)).to_vec();
    let subscribe = wanted
        .iter()
        .enumerate()
        .fold(Subscribe::new(500), |subscribe, (index, qos)| subscribe.filter(ctx.topic(&index.to_string()), *qos));
    let codes = client.subscribe_packet(&subscribe)?.reasons;
    ensure!(codes == wanted, "return codes {codes:02x?}, expected {wanted:02x?}");
    Ok(())
}

/// The reader knows the four codes. A shared subscription and a system topic tempt to send those of MQTT 5.
fn suback_codes_are_qos_or_0x80(ctx: &Ctx) -> Result<()> {
    for filter in ["$SYS/conformance", "$share/group/x", "$conformance/x", "$share/group"] {
        let mut client = client(ctx, "curious")?;
        client.send(&Subscribe::new(3).filter(filter, 0).bytes(V311))?;
        match client.next_event()? {
            Event::Packet(Packet::Suback(answer)) => ensure!(answer.reasons.len() == 1, "{:02x?}", answer.reasons),
            Event::Closed => {}
            Event::Packet(other) => bail!("expected SUBACK for {filter:?}, got {other:02x?}"),
        }
    }
    Ok(())
}

/// The reader refuses a payload. The second one is for a filter that was never subscribed.
fn unsuback_has_no_payload(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("a");
    let mut client = watcher(ctx, "leaving", &topic, 0)?;
    client.unsubscribe(&topic)?;
    client.unsubscribe(ctx.topic("never")).map(drop)
}

fn unsubscribed_messages_stop(ctx: &Ctx) -> Result<()> {
    let [kept, left] = ["kept", "left"].map(|name| ctx.topic(name));
    let mut leaver = watcher(ctx, "leaver", &kept, 0)?;
    leaver.subscribe(&left, 0)?;
    leaver.unsubscribe(&left)?;
    client(ctx, "sender")?.publish(&left, 0, "x")?;
    leaver.publish(&left, 0, "x")?;
    only_marker(ctx, &mut leaver, &kept)
}

fn unsubscribing_several_filters_removes_each(ctx: &Ctx) -> Result<()> {
    let [kept, one, two] = ["kept", "one", "two"].map(|name| ctx.topic(name));
    let mut leaver = watcher(ctx, "leaver", &kept, 0)?;
    leaver.subscribe(&one, 0)?;
    leaver.subscribe(&two, 0)?;
    leaver.send(&Unsubscribe::new(9).filter(&one).filter(ctx.topic("never")).filter(&two).bytes(V311))?;
    leaver.expect_unsuback(9)?;
    leaver.publish(&one, 0, "x")?;
    leaver.publish(&two, 0, "x")?;
    only_marker(ctx, &mut leaver, &kept)
}

fn pingreq_is_answered(ctx: &Ctx) -> Result<()> {
    let mut client = client(ctx, "pinger")?;
    client.expect_silence()?;
    client.expect_silence()
}

fn qos_is_the_lower_of_both(ctx: &Ctx) -> Result<()> {
    let maximum = ctx.limits().maximum_qos;
    let topic = ctx.topic("lower");
    let mut publisher = client(ctx, "publisher")?;
    for granted in 0..=maximum {
        let mut receiver = watcher(ctx, "receiver", &topic, granted)?;
        for published in 0..=maximum {
            publisher.publish(&topic, published, "x")?;
            let message = receiver.expect_message(&topic, "x")?;
            ensure!(
                message.qos == published.min(granted),
                "published with QoS {published}, granted {granted}, delivered with {}",
                message.qos
            );
            receiver.acknowledge(&message)?;
        }
        receiver.disconnect()?;
    }
    Ok(())
}

/// One copy at the highest QoS, or one for each subscription.
fn overlapping_subscriptions_deliver_at_the_highest_qos(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let maximum = ctx.limits().maximum_qos;
    let [topic, marker] = ["over/lap", "marker"].map(|name| ctx.topic(name));
    let mut receiver = watcher(ctx, "receiver", &topic, 0)?;
    receiver.subscribe(ctx.topic("over/#"), maximum)?;
    receiver.subscribe(&marker, maximum)?;
    let mut publisher = client(ctx, "publisher")?;
    publisher.publish(&topic, maximum, "x")?;
    publisher.publish(&marker, maximum, "marker")?;
    let mut found = Vec::new();
    loop {
        let message = receiver.expect_publish()?;
        if message.topic == marker {
            ensure!(found.iter().max() == Some(&maximum), "delivered with QoS {found:?}, expected {maximum}");
            return Ok(());
        }
        found.push(message.qos);
    }
}

fn dup_is_not_passed_on(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("dup");
    let mut receiver = watcher(ctx, "receiver", &topic, 1)?;
    let mut sender = client(ctx, "sender")?;
    sender.send_publish(&Publish::new(&topic, "x").qos(1, 5).dup())?;
    sender.expect_ack(first::PUBACK, 5)?;
    ensure!(!receiver.expect_message(&topic, "x")?.dup, "DUP is 1 in the first transmission to a subscriber");
    Ok(())
}

fn retain(ctx: &Ctx, topic: &str, qos: u8, payload: &str) -> Result<()> {
    let mut client = client(ctx, "retainer")?;
    client.publish_packet(Publish::new(topic, payload).retain(), qos)?;
    client.expect_silence()?;
    client.disconnect()
}

/// MQTT 3.1.1 lets a server forget retained messages of QoS 0, so that this one is of a higher QoS.
fn retained(ctx: &Ctx) -> Result<String> {
    need_retain(ctx)?;
    need_qos(ctx, 1)?;
    let topic = ctx.topic("retained");
    retain(ctx, &topic, 1, "kept")?;
    Ok(topic)
}

fn finds(ctx: &Ctx, topic: &str, payload: &str) -> Result<()> {
    let mut finder = watcher(ctx, "finder", topic, 1)?;
    let message = finder.expect_message(topic, payload)?;
    ensure!(message.retain, "a retained message sent for a new subscription has retain 0");
    ensure!(message.qos == 1, "a retained message of QoS 1 is sent with QoS {}", message.qos);
    finder.acknowledge(&message)?;
    only_marker(ctx, &mut finder, topic)?;
    finder.disconnect()
}

fn retained_message_is_sent_with_retain(ctx: &Ctx) -> Result<()> {
    let topic = retained(ctx)?;
    finds(ctx, &topic, "kept")?;
    finds(ctx, &topic, "kept")?;
    clear_retained(ctx, &topic)
}

fn live_message_is_sent_without_retain(ctx: &Ctx) -> Result<()> {
    need_retain(ctx)?;
    let topic = ctx.topic("live");
    let mut watcher = watcher(ctx, "watcher", &topic, 0)?;
    retain(ctx, &topic, 0, "new")?;
    ensure!(!watcher.expect_message(&topic, "new")?.retain, "retain is 1 for an established subscription");
    clear_retained(ctx, &topic)
}

fn retained_message_is_replaced(ctx: &Ctx) -> Result<()> {
    let topic = retained(ctx)?;
    retain(ctx, &topic, 1, "newer")?;
    finds(ctx, &topic, "newer")?;
    clear_retained(ctx, &topic)
}

/// The new one may be stored or not; the old one is gone.
fn qos0_message_discards_the_older_retained_one(ctx: &Ctx) -> Result<()> {
    let topic = retained(ctx)?;
    retain(ctx, &topic, 0, "newer")?;
    let mut finder = watcher(ctx, "finder", &topic, 0)?;
    client(ctx, "marker")?.publish(&topic, 0, "marker")?;
    let message = finder.expect_publish()?;
    ensure!(message.payload != b"kept", "the retained message of QoS 1 is still there");
    clear_retained(ctx, &topic)
}

fn empty_message_deletes_the_retained_one(ctx: &Ctx) -> Result<()> {
    let topic = retained(ctx)?;
    let mut early = watcher(ctx, "early", &topic, 0)?;
    early.expect_message(&topic, "kept")?;
    retain(ctx, &topic, 1, "")?;
    early.expect_message(&topic, "").context("the empty message is delivered as any other")?;
    only_marker(ctx, &mut watcher(ctx, "late", &topic, 0)?, &topic)
}

fn message_without_retain_changes_nothing(ctx: &Ctx) -> Result<()> {
    let topic = retained(ctx)?;
    let mut client = client(ctx, "publisher")?;
    for payload in ["passing", ""] {
        client.publish(&topic, 1, payload)?;
    }
    finds(ctx, &topic, "kept")?;
    clear_retained(ctx, &topic)
}

fn retained_message_is_sent_again_on_resubscribing(ctx: &Ctx) -> Result<()> {
    let topic = retained(ctx)?;
    let mut client = watcher(ctx, "twice", &topic, 0)?;
    client.expect_message(&topic, "kept")?;
    client.subscribe(&topic, 0)?;
    let message = client.expect_message(&topic, "kept").context("after subscribing again")?;
    ensure!(message.retain, "retain is 0");
    client.expect_silence()?;
    clear_retained(ctx, &topic)
}

fn resubscribing_replaces_the_subscription(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("twice");
    let mut receiver = watcher(ctx, "receiver", &topic, 0)?;
    receiver.subscribe(&topic, 1)?;
    client(ctx, "sender")?.publish(&topic, 1, "x")?;
    let message = receiver.expect_message(&topic, "x")?;
    ensure!(message.qos == 1, "delivered with QoS {}, the new subscription is of QoS 1", message.qos);
    receiver.acknowledge(&message)?;
    only_marker(ctx, &mut receiver, &topic)
}

fn sent_again(ctx: &Ctx, qos: u8) -> Result<()> {
    need_qos(ctx, qos)?;
    let topic = ctx.topic("again");
    let connect = leave_session(ctx, "again", &topic, qos)?;
    let mut receiver = resumed(ctx, &connect)?;
    client(ctx, "publisher")?.publish(&topic, qos, "x")?;
    let lost = receiver.expect_message(&topic, "x")?;
    ensure!(!lost.dup, "DUP is 1 in the first transmission");
    receiver.cut()?;
    let mut receiver = resumed(ctx, &connect)?;
    let message = receiver.expect_message(&topic, "x")?;
    ensure!(message.dup, "DUP is 0 although the message was sent before");
    ensure!(message.id == lost.id, "sent again with identifier {}, it was {}", message.id, lost.id);
    receiver.acknowledge(&message)?;
    receiver.expect_silence()?;
    receiver.disconnect()?;
    end_session(ctx, "again")
}

fn qos1_is_sent_again_on_reconnecting(ctx: &Ctx) -> Result<()> {
    sent_again(ctx, 1)
}

fn qos2_is_sent_again_on_reconnecting(ctx: &Ctx) -> Result<()> {
    sent_again(ctx, 2)
}

fn pubrel_is_sent_again_on_reconnecting(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("pubrel");
    let connect = leave_session(ctx, "pubrel", &topic, 2)?;
    let mut receiver = resumed(ctx, &connect)?;
    client(ctx, "publisher")?.publish(&topic, 2, "x")?;
    let id = receiver.expect_message(&topic, "x")?.id;
    receiver.send(&ack(first::PUBREC, id))?;
    receiver.expect_ack(first::PUBREL, id)?;
    receiver.cut()?;
    let mut receiver = resumed(ctx, &connect)?;
    receiver.expect_ack(first::PUBREL, id).context("PUBREL was never answered")?;
    receiver.send(&ack(first::PUBCOMP, id))?;
    receiver.expect_silence()?;
    receiver.disconnect()?;
    end_session(ctx, "pubrel")
}

fn acknowledged_messages_are_not_sent_again(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("done");
    for qos in 1..=ctx.limits().maximum_qos {
        let connect = leave_session(ctx, "done", &topic, qos)?;
        let mut receiver = resumed(ctx, &connect)?;
        client(ctx, "publisher")?.publish(&topic, qos, "x")?;
        let message = receiver.expect_message(&topic, "x")?;
        receiver.acknowledge(&message)?;
        receiver.expect_silence()?;
        receiver.cut()?;
        let mut receiver = resumed(ctx, &connect)?;
        receiver.expect_silence().with_context(|| format!("QoS {qos}"))?;
        receiver.disconnect()?;
        end_session(ctx, "done")?;
    }
    Ok(())
}

fn messages_are_sent_again_in_their_order(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 1)?;
    let topic = ctx.topic("order");
    let connect = leave_session(ctx, "order", &topic, 1)?;
    let mut receiver = resumed(ctx, &connect)?;
    let mut publisher = client(ctx, "publisher")?;
    for payload in ["1", "2", "3"] {
        publisher.publish(&topic, 1, payload)?;
        receiver.expect_message(&topic, payload)?;
    }
    receiver.cut()?;
    publisher.publish(&topic, 1, "4")?;
    let mut receiver = resumed(ctx, &connect)?;
    for payload in ["1", "2", "3", "4"] {
        let message = receiver.expect_message(&topic, payload)?;
        receiver.acknowledge(&message)?;
    }
    receiver.disconnect()?;
    end_session(ctx, "order")
}

fn qos2_message_sent_twice_is_delivered_once(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("once");
    let mut receiver = watcher(ctx, "receiver", &topic, 0)?;
    let mut sender = client(ctx, "sender")?;
    let publish = Publish::new(&topic, "x").qos(2, 5);
    sender.send_publish(&publish)?;
    sender.expect_ack(first::PUBREC, 5)?;
    sender.send_publish(&publish.dup())?;
    sender.expect_ack(first::PUBREC, 5)?;
    sender.send(&ack(first::PUBREL, 5))?;
    sender.expect_ack(first::PUBCOMP, 5)?;
    receiver.expect_message(&topic, "x")?;
    only_marker(ctx, &mut receiver, &topic)
}

fn qos2_handshake_goes_on_after_reconnecting(ctx: &Ctx) -> Result<()> {
    need_qos(ctx, 2)?;
    let topic = ctx.topic("once");
    let mut receiver = watcher(ctx, "receiver", &topic, 0)?;
    let connect = ctx.v311("sender").resume();
    let mut sender = ctx.connect(&connect)?;
    let publish = Publish::new(&topic, "x").qos(2, 5);
    sender.send_publish(&publish)?;
    sender.expect_ack(first::PUBREC, 5)?;
    sender.cut()?;
    let mut sender = resumed(ctx, &connect)?;
    sender.send_publish(&publish.dup())?;
    sender.expect_ack(first::PUBREC, 5)?;
    sender.send(&ack(first::PUBREL, 5))?;
    sender.expect_ack(first::PUBCOMP, 5)?;
    receiver.expect_message(&topic, "x")?;
    only_marker(ctx, &mut receiver, &topic)?;
    sender.disconnect()?;
    end_session(ctx, "sender")
}

/// PUBREL and further messages may come in any order among each other.
fn messages_keep_their_order(ctx: &Ctx) -> Result<()> {
    const COUNT: usize = 15;
    let topic = ctx.topic("order");
    for qos in 0..=ctx.limits().maximum_qos {
        let mut receiver = watcher(ctx, "receiver", &topic, qos)?;
        let mut sender = client(ctx, "sender")?;
        for number in 0..COUNT {
            sender.publish(&topic, qos, number.to_string())?;
        }
        let (mut received, mut released) = (0, 0);
        while received < COUNT || (qos == 2 && released < COUNT) {
            match receiver.next_event()? {
                Event::Packet(Packet::Publish(message)) => {
                    let payload = String::from_utf8_lossy(&message.payload).into_owned();
                    ensure!(
                        payload == received.to_string(),
                        "message {payload} came in place of {received} (QoS {qos})"
                    );
                    received += 1;
                    match qos {
                        0 => {}
                        1 => receiver.send(&ack(first::PUBACK, message.id))?,
                        _ => receiver.send(&ack(first::PUBREC, message.id))?,
                    }
                }
                Event::Packet(Packet::Ack(pubrel)) if pubrel.first == first::PUBREL => {
                    released += 1;
                    receiver.send(&ack(first::PUBCOMP, pubrel.id))?;
                }
                other => bail!("expected PUBLISH or PUBREL, got {other:02x?}"),
            }
        }
        receiver.disconnect()?;
    }
    Ok(())
}

/// The first level of both topics differs only in the dollar sign.
fn leading_wildcard_does_not_match_dollar_topics(ctx: &Ctx) -> Result<()> {
    let unique = ctx.client_id("dollar");
    let marker = format!("conformance/{unique}");
    for filter in [format!("+/{unique}"), format!("+/{unique}/#")] {
        let mut receiver = client(ctx, "receiver")?;
        let codes = receiver.subscribe_packet(&Subscribe::new(1).filter(&filter, 0))?.reasons;
        if codes == [0x80] {
            return skip("server refuses filters that begin with a wildcard");
        }
        let mut sender = client(ctx, "sender")?;
        sender.publish(format!("$conformance/{unique}"), 0, "hidden")?;
        sender.cut()?;
        only_marker(ctx, &mut receiver, &marker).with_context(|| format!("filter {filter:?}"))?;
        receiver.disconnect()?;
    }
    Ok(())
}

fn filters_match_by_character(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("Ab/\u{E9}");
    let mut receiver = watcher(ctx, "receiver", &topic, 0)?;
    let mut sender = client(ctx, "sender")?;
    for other in ["ab/\u{E9}", "AB/\u{C9}", "Ab/e\u{301}", "Ab/e", "Ab/\u{E9}/", "/Ab/\u{E9}", "Ab//\u{E9}"] {
        sender.publish(ctx.topic(other), 0, other)?;
    }
    only_marker(ctx, &mut receiver, &topic)
}

fn qos3_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::PUBLISH | 0x06, &[string(ctx.topic("a")), vec![0, 1]].concat()))
}

fn wrong_flags_close(ctx: &Ctx, right: u8, body: &[u8]) -> Result<()> {
    for flags in [0x0, 0x1, 0x2, 0x4, 0x8, 0xF].into_iter().filter(|flags| *flags != right & 0x0F) {
        closes_on(ctx, &frame(right & 0xF0 | flags, body)).with_context(|| format!("flags {flags:04b}"))?;
    }
    Ok(())
}

/// DISCONNECT is left out: it closes in any case.
fn reserved_flags_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::PINGREQ, &[]).context("PINGREQ")?;
    wrong_flags_close(ctx, first::PUBACK, &[0, 1]).context("PUBACK")?;
    wrong_flags_close(ctx, first::PUBREC, &[0, 1]).context("PUBREC")?;
    wrong_flags_close(ctx, first::PUBCOMP, &[0, 1]).context("PUBCOMP")
}

fn reserved_flags_of_pubrel_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::PUBREL, &[0, 1])
}

fn reserved_flags_of_subscribe_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::SUBSCRIBE, &Subscribe::new(1).filter(ctx.topic("a"), 0).body(V311))
}

fn reserved_flags_of_unsubscribe_close(ctx: &Ctx) -> Result<()> {
    wrong_flags_close(ctx, first::UNSUBSCRIBE, &Unsubscribe::new(1).filter(ctx.topic("a")).body(V311))
}

fn identifier_zero_closes(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("zero");
    closes_on(ctx, &Subscribe::new(0).filter(&topic, 0).bytes(V311)).context("SUBSCRIBE")?;
    closes_on(ctx, &Unsubscribe::new(0).filter(&topic).bytes(V311)).context("UNSUBSCRIBE")?;
    need_qos(ctx, 1)?;
    closes_on(ctx, &Publish::new(&topic, "x").qos(1, 0).bytes(V311)).context("PUBLISH")
}

fn auth_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::AUTH, &[]))?;
    closes_on(ctx, &frame(first::AUTH, &[0x18, 0]))
}

fn packet_type_zero_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(0x00, &[]))
}

fn connack_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::CONNACK, &[0, 0]))
}

fn suback_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::SUBACK, &[0, 1, 0]))
}

fn unsuback_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::UNSUBACK, &[0, 1]))
}

fn pingresp_from_a_client_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame(first::PINGRESP, &[]))
}

fn subscribe_without_filter_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &Subscribe::new(1).bytes(V311))
}

fn subscribe_with_qos3_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &Subscribe::new(1).filter(ctx.topic("a"), 3).bytes(V311))
}

/// These bits are subscription options of MQTT 5.
fn subscribe_with_reserved_bits_closes(ctx: &Ctx) -> Result<()> {
    for bit in [0x04, 0x08, 0x10, 0x20, 0x40, 0x80] {
        closes_on(ctx, &Subscribe::new(1).filter(ctx.topic("a"), bit).bytes(V311))
            .with_context(|| format!("bit {bit:#04x}"))?;
    }
    Ok(())
}

fn unsubscribe_without_filter_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &Unsubscribe::new(1).bytes(V311))
}

fn ill_formed_topic_closes(ctx: &Ctx) -> Result<()> {
    each(ILL_FORMED, |topic| closes_on(ctx, &Publish::new(topic, "x").bytes(V311)))
}

fn topic_with_nul_closes(ctx: &Ctx) -> Result<()> {
    each(NUL, |topic| closes_on(ctx, &Publish::new(topic, "x").bytes(V311)))
}

fn empty_topic_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &Publish::new("", "x").bytes(V311))
}

fn wildcard_in_a_topic_closes(ctx: &Ctx) -> Result<()> {
    for wildcard in ["+", "#", "/+", "/#", "/+/a"] {
        let topic = format!("{}{wildcard}", ctx.topic("a"));
        closes_on(ctx, &Publish::new(&topic, "x").bytes(V311)).with_context(|| format!("topic {topic:?}"))?;
    }
    Ok(())
}

/// Closing is what a protocol violation calls for; return code 0x80 is taken for good as well.
fn bad_filters_are_not_granted(ctx: &Ctx) -> Result<()> {
    for filter in ["a/#/b", "a#", "a/b#", "#/a", "a+", "+a/b", "a/+b", "a/b+/c", ""] {
        let mut client = client(ctx, "offender")?;
        client.send(&Subscribe::new(1).filter(filter, 0).bytes(V311))?;
        match client.next_event()? {
            Event::Closed => {}
            Event::Packet(Packet::Suback(answer)) => {
                ensure!(answer.reasons == [0x80], "filter {filter:?} was granted: {:02x?}", answer.reasons);
            }
            Event::Packet(other) => bail!("expected SUBACK or the broker to close, got {other:02x?}"),
        }
    }
    Ok(())
}

/// A PUBLISH whose payload looks like an empty property set of MQTT 5: to MQTT 3.1.1 it is payload.
fn payload_is_not_taken_for_properties(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("payload");
    let mut both = watcher(ctx, "both", &topic, 0)?;
    for payload in [&[0][..], &[0, b'x'], &[2, 1, 1, b'x']] {
        both.send_publish(&Publish::new(&topic, payload))?;
        both.expect_message(&topic, payload)?;
    }
    both.send(&build::pingreq())?;
    both.expect_pingresp()
}
