//! Owns the tests of section 1.5: UTF-8 strings, variable byte integers, string pairs. Never tests what another section owns.

use anyhow::{Result, ensure};

use super::common::{ILL_FORMED, NUL, SURROGATES, closes_on, each, refused, subscriber, user_property};
use crate::context::Ctx;
use crate::registry::{Section, section};
use crate::wire::Version::V5;
use crate::wire::build::{Props, Publish, Subscribe, Unsubscribe, Will, frame, frame_with_length};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "1.5",
    title: "data representation",
    tests: {
        ill_formed_client_id_is_refused => ["MQTT-1.5.4-1", "MQTT-3.1.3-4"],
        ill_formed_will_topic_is_refused => ["MQTT-1.5.4-1", "MQTT-3.1.3-11"],
        ill_formed_user_name_is_refused => ["MQTT-1.5.4-1", "MQTT-3.1.3-12"],
        ill_formed_topic_name_closes => ["MQTT-1.5.4-1"],
        ill_formed_subscribe_filter_closes => ["MQTT-1.5.4-1"],
        ill_formed_unsubscribe_filter_closes => ["MQTT-1.5.4-1"],
        ill_formed_content_type_closes => ["MQTT-1.5.4-1"],
        surrogate_in_client_id_is_refused => ["MQTT-1.5.4-1"],
        surrogate_in_topic_name_closes => ["MQTT-1.5.4-1"],
        surrogate_in_subscribe_filter_closes => ["MQTT-1.5.4-1"],
        nul_in_client_id_is_refused => ["MQTT-1.5.4-2"],
        nul_in_will_topic_is_refused => ["MQTT-1.5.4-2"],
        nul_in_user_name_is_refused => ["MQTT-1.5.4-2"],
        nul_in_topic_name_closes => ["MQTT-1.5.4-2"],
        nul_in_subscribe_filter_closes => ["MQTT-1.5.4-2"],
        nul_in_unsubscribe_filter_closes => ["MQTT-1.5.4-2"],
        multibyte_topics_are_delivered_unchanged => ["MQTT-1.5.4-1"],
        byte_order_mark_is_kept => ["MQTT-1.5.4-3"],
        byte_order_mark_counts_in_matching => ["MQTT-1.5.4-3"],
        variable_integers_of_every_length_are_minimal => ["MQTT-1.5.5-1"],
        five_byte_remaining_length_closes => ["MQTT-4.13.1-1"],
        five_byte_property_length_closes => ["MQTT-4.13.1-1"],
        ill_formed_user_property_name_closes => ["MQTT-1.5.7-1"],
        ill_formed_user_property_value_closes => ["MQTT-1.5.7-1"],
        nul_in_user_property_closes => ["MQTT-1.5.7-1"],
        ill_formed_user_property_in_connect_is_refused => ["MQTT-1.5.7-1"],
        half_a_user_property_closes => ["MQTT-4.13.1-1"],
    },
    unobservable: {},
};

fn client_id_refused(ctx: &Ctx, rows: &[(&str, &[u8])]) -> Result<()> {
    each(rows, |bad| {
        let mut connect = ctx.v5("");
        connect.client_id.extend_from_slice(bad);
        refused(ctx, &connect).map(drop)
    })
}

fn will_topic_refused(ctx: &Ctx, rows: &[(&str, &[u8])]) -> Result<()> {
    each(rows, |bad| refused(ctx, &ctx.v5("will").will(Will::new(bad, "x"))).map(drop))
}

fn user_name_refused(ctx: &Ctx, rows: &[(&str, &[u8])]) -> Result<()> {
    each(rows, |bad| refused(ctx, &ctx.v5("name").username(bad).password("x")).map(drop))
}

fn topic_name_closes(ctx: &Ctx, rows: &[(&str, &[u8])]) -> Result<()> {
    each(rows, |bad| closes_on(ctx, &Publish::new(bad, "x").bytes(V5)).map(drop))
}

fn subscribe_closes(ctx: &Ctx, rows: &[(&str, &[u8])]) -> Result<()> {
    each(rows, |bad| closes_on(ctx, &Subscribe::new(1).filter(bad, 0).bytes(V5)).map(drop))
}

fn unsubscribe_closes(ctx: &Ctx, rows: &[(&str, &[u8])]) -> Result<()> {
    each(rows, |bad| closes_on(ctx, &Unsubscribe::new(1).filter(bad).bytes(V5)).map(drop))
}

fn ill_formed_client_id_is_refused(ctx: &Ctx) -> Result<()> {
    client_id_refused(ctx, ILL_FORMED)
}

fn ill_formed_will_topic_is_refused(ctx: &Ctx) -> Result<()> {
    will_topic_refused(ctx, ILL_FORMED)
}

fn ill_formed_user_name_is_refused(ctx: &Ctx) -> Result<()> {
    user_name_refused(ctx, ILL_FORMED)
}

fn ill_formed_topic_name_closes(ctx: &Ctx) -> Result<()> {
    topic_name_closes(ctx, ILL_FORMED)
}

fn ill_formed_subscribe_filter_closes(ctx: &Ctx) -> Result<()> {
    subscribe_closes(ctx, ILL_FORMED)
}

fn ill_formed_unsubscribe_filter_closes(ctx: &Ctx) -> Result<()> {
    unsubscribe_closes(ctx, ILL_FORMED)
}

fn ill_formed_content_type_closes(ctx: &Ctx) -> Result<()> {
    let props = |bad: &[u8]| Props::new().text(prop::CONTENT_TYPE, bad);
    each(ILL_FORMED, |bad| closes_on(ctx, &Publish::new(ctx.topic("type"), "x").props(props(bad)).bytes(V5)).map(drop))
}

fn surrogate_in_client_id_is_refused(ctx: &Ctx) -> Result<()> {
    client_id_refused(ctx, SURROGATES)
}

fn surrogate_in_topic_name_closes(ctx: &Ctx) -> Result<()> {
    topic_name_closes(ctx, SURROGATES)
}

fn surrogate_in_subscribe_filter_closes(ctx: &Ctx) -> Result<()> {
    subscribe_closes(ctx, SURROGATES)
}

fn nul_in_client_id_is_refused(ctx: &Ctx) -> Result<()> {
    client_id_refused(ctx, NUL)
}

fn nul_in_will_topic_is_refused(ctx: &Ctx) -> Result<()> {
    will_topic_refused(ctx, NUL)
}

fn nul_in_user_name_is_refused(ctx: &Ctx) -> Result<()> {
    user_name_refused(ctx, NUL)
}

fn nul_in_topic_name_closes(ctx: &Ctx) -> Result<()> {
    topic_name_closes(ctx, NUL)
}

fn nul_in_subscribe_filter_closes(ctx: &Ctx) -> Result<()> {
    subscribe_closes(ctx, NUL)
}

fn nul_in_unsubscribe_filter_closes(ctx: &Ctx) -> Result<()> {
    unsubscribe_closes(ctx, NUL)
}

fn multibyte_topics_are_delivered_unchanged(ctx: &Ctx) -> Result<()> {
    for part in ["größe", "日本語", "🚗/Ω", "e\u{301}", "\u{7FF}\u{800}\u{E000}\u{10000}"] {
        let topic = ctx.topic(part);
        let mut client = subscriber(ctx, "multibyte", &topic, 0)?;
        client.send_publish(&Publish::new(&topic, "x"))?;
        client.expect_message(&topic, "x")?;
        client.disconnect()?;
    }
    Ok(())
}

fn byte_order_mark_is_kept(ctx: &Ctx) -> Result<()> {
    for topic in [format!("\u{FEFF}{}", ctx.topic("bom")), ctx.topic("a\u{FEFF}b")] {
        let mut client = subscriber(ctx, "bom", &topic, 0)?;
        client.send_publish(&Publish::new(&topic, "x"))?;
        client.expect_message(&topic, "x")?;
        client.disconnect()?;
    }
    Ok(())
}

fn byte_order_mark_counts_in_matching(ctx: &Ctx) -> Result<()> {
    let plain = ctx.topic("bom");
    let mut client = subscriber(ctx, "bom", &plain, 0)?;
    client.send_publish(&Publish::new(format!("\u{FEFF}{plain}"), "marked"))?;
    client.send_publish(&Publish::new(&plain, "plain"))?;
    client.expect_message(&plain, "plain")?;
    client.expect_silence()
}

/// Remaining lengths of one to four bytes and a property length of two; the reader refuses long forms.
fn variable_integers_of_every_length_are_minimal(ctx: &Ctx) -> Result<()> {
    let topic = ctx.topic("length");
    let mut client = subscriber(ctx, "length", &topic, 0)?;
    let room = ctx.limits().packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize);
    let header = topic.len() + 200;
    for size in [0, 60, 300, 20_000, 2_100_000] {
        if size + header > room {
            continue;
        }
        let value = "v".repeat(150);
        client.send_publish(&Publish::new(&topic, vec![b'p'; size]).props(user_property("name", &value)))?;
        let message = client.expect_publish()?;
        ensure!(message.payload.len() == size, "payload of {} bytes, expected {size}", message.payload.len());
        ensure!(message.props.pairs() == [("name", value.as_str())], "user property changed: {:?}", message.props);
    }
    Ok(())
}

fn five_byte_remaining_length_closes(ctx: &Ctx) -> Result<()> {
    closes_on(ctx, &frame_with_length(first::PINGREQ, &[0x80, 0x80, 0x80, 0x80, 0x00], &[])).map(drop)
}

fn five_byte_property_length_closes(ctx: &Ctx) -> Result<()> {
    let body = [&[0, 1, b'a'][..], &[0x80, 0x80, 0x80, 0x80, 0x00], b"payload"].concat();
    closes_on(ctx, &frame(first::PUBLISH, &body)).map(drop)
}

fn ill_formed_user_property_name_closes(ctx: &Ctx) -> Result<()> {
    each(ILL_FORMED, |bad| {
        let publish = Publish::new(ctx.topic("pair"), "x").props(user_property(bad, "value"));
        closes_on(ctx, &publish.bytes(V5)).map(drop)
    })
}

fn ill_formed_user_property_value_closes(ctx: &Ctx) -> Result<()> {
    each(ILL_FORMED, |bad| {
        let publish = Publish::new(ctx.topic("pair"), "x").props(user_property("name", bad));
        closes_on(ctx, &publish.bytes(V5)).map(drop)
    })
}

fn nul_in_user_property_closes(ctx: &Ctx) -> Result<()> {
    each(NUL, |bad| {
        for props in [user_property(bad, "value"), user_property("name", bad)] {
            closes_on(ctx, &Publish::new(ctx.topic("pair"), "x").props(props).bytes(V5))?;
        }
        Ok(())
    })
}

fn ill_formed_user_property_in_connect_is_refused(ctx: &Ctx) -> Result<()> {
    each(ILL_FORMED, |bad| refused(ctx, &ctx.v5("pair").props(user_property("name", bad))).map(drop))
}

fn half_a_user_property_closes(ctx: &Ctx) -> Result<()> {
    let half = Props::new().text(prop::USER_PROPERTY, "name without value");
    closes_on(ctx, &Publish::new(ctx.topic("pair"), "").props(half).bytes(V5)).map(drop)
}
