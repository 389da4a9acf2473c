//! Owns the tests of section 3.1 about CONNECTs that break the format. Never sends a valid CONNECT but to compare.

use anyhow::{Context, Result, ensure};

use super::common::{refused, refused_bytes};
use crate::context::Ctx;
use crate::registry::{Section, section};
use crate::wire::build::{Connect, Props, Will, frame, frame_with_length, string};
use crate::wire::{first, prop};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.1-malformed",
    title: "CONNECT: format",
    tests: {
        other_protocol_names_are_refused => ["MQTT-3.1.2-1"],
        unknown_protocol_levels_are_refused => ["MQTT-3.1.2-2"],
        reserved_connect_flag_is_refused => ["MQTT-3.1.2-3"],
        will_flag_without_will_fields_is_refused => ["MQTT-3.1.2-9", "MQTT-3.1.4-1"],
        will_fields_without_will_flag_are_refused => ["MQTT-3.1.2-9", "MQTT-3.1.4-1"],
        will_qos_without_will_flag_is_refused => ["MQTT-3.1.2-11", "MQTT-3.1.4-1"],
        will_qos_three_is_refused => ["MQTT-3.1.2-12", "MQTT-3.1.4-1"],
        will_retain_without_will_flag_is_refused => ["MQTT-3.1.2-13", "MQTT-3.1.4-1"],
        user_name_without_flag_is_refused => ["MQTT-3.1.2-16", "MQTT-3.1.4-1"],
        user_name_flag_without_field_is_refused => ["MQTT-3.1.2-17", "MQTT-3.1.4-1"],
        password_without_flag_is_refused => ["MQTT-3.1.2-18", "MQTT-3.1.4-1"],
        password_flag_without_field_is_refused => ["MQTT-3.1.2-19", "MQTT-3.1.4-1"],
        missing_client_id_is_refused => ["MQTT-3.1.3-3", "MQTT-3.1.4-1"],
        bytes_behind_the_payload_are_refused => ["MQTT-3.1.4-1"],
        truncated_connects_are_refused => ["MQTT-3.1.4-1"],
        duplicate_properties_are_refused => ["MQTT-3.1.4-1"],
        foreign_properties_are_refused => ["MQTT-3.1.4-1"],
        unknown_properties_are_refused => ["MQTT-3.1.4-1"],
        receive_maximum_zero_is_refused => ["MQTT-3.1.4-1"],
        maximum_packet_size_zero_is_refused => ["MQTT-3.1.4-1"],
        request_response_information_two_is_refused => ["MQTT-3.1.4-1"],
        request_problem_information_two_is_refused => ["MQTT-3.1.4-1"],
        authentication_data_without_method_is_refused => ["MQTT-3.1.4-1"],
        property_length_beyond_the_packet_is_refused => ["MQTT-3.1.4-1"],
        property_cut_by_its_length_is_refused => ["MQTT-3.1.4-1"],
        missing_property_length_is_refused => ["MQTT-3.1.4-1", "MQTT-2.2.2-1"],
        foreign_will_properties_are_refused => ["MQTT-3.1.4-1"],
        duplicate_will_properties_are_refused => ["MQTT-3.1.4-1"],
        will_topic_with_wildcards_is_refused => ["MQTT-3.1.4-1", "MQTT-4.7.0-1"],
        empty_will_topic_is_refused => ["MQTT-3.1.4-1", "MQTT-4.7.3-1"],
        five_byte_remaining_length_is_refused => ["MQTT-3.1.4-1"],
    },
    unobservable: {},
};

/// Sends bytes in front of which the broker cannot know the version we speak: it has to close, whatever it says before,
/// as long as that is not an acceptance.
fn closes_without_accepting(ctx: &Ctx, connect: &Connect) -> Result<()> {
    let mut client = ctx.open(connect.version)?;
    client.send(&connect.bytes())?;
    let answer = client.read_to_end()?;
    let accepted = matches!(answer.as_slice(), [first::CONNACK, _, _, 0, ..]);
    ensure!(!accepted, "the CONNECT was accepted: {answer:02x?}");
    Ok(())
}

fn other_protocol_names_are_refused(ctx: &Ctx) -> Result<()> {
    for name in ["MQT", "mqtt", "MQTTX", "MQIsdp", "HTTP", ""] {
        closes_without_accepting(ctx, &ctx.v5("name").protocol(name, 5))
            .with_context(|| format!("protocol name {name:?}"))?;
    }
    Ok(())
}

fn unknown_protocol_levels_are_refused(ctx: &Ctx) -> Result<()> {
    for level in [0, 1, 2, 6, 0x7F, 0xFF] {
        closes_without_accepting(ctx, &ctx.v5("level").protocol("MQTT", level))
            .with_context(|| format!("protocol level {level}"))?;
    }
    Ok(())
}

fn reserved_connect_flag_is_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &ctx.v5("flag").set_flags(0x01)).map(drop)
}

fn will_flag_without_will_fields_is_refused(ctx: &Ctx) -> Result<()> {
    let bare = Connect { username: None, password: None, ..ctx.v5("will") };
    refused(ctx, &bare.set_flags(0x04)).map(drop)
}

fn will_fields_without_will_flag_are_refused(ctx: &Ctx) -> Result<()> {
    let bare = Connect { username: None, password: None, ..ctx.v5("will") };
    refused(ctx, &bare.will(Will::new(ctx.topic("will"), "x")).clear_flags(0x3C)).map(drop)
}

fn will_qos_without_will_flag_is_refused(ctx: &Ctx) -> Result<()> {
    [0x08, 0x10].into_iter().try_for_each(|bits| refused(ctx, &ctx.v5("will").set_flags(bits)).map(drop))
}

fn will_qos_three_is_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &ctx.v5("will").will(Will::new(ctx.topic("will"), "x").qos(3))).map(drop)
}

fn will_retain_without_will_flag_is_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &ctx.v5("will").set_flags(0x20)).map(drop)
}

fn user_name_without_flag_is_refused(ctx: &Ctx) -> Result<()> {
    let connect = Connect { password: None, ..ctx.v5("name") };
    refused(ctx, &connect.username("name").clear_flags(0x80)).map(drop)
}

fn user_name_flag_without_field_is_refused(ctx: &Ctx) -> Result<()> {
    let connect = Connect { username: None, password: None, ..ctx.v5("name") };
    refused(ctx, &connect.set_flags(0x80)).map(drop)
}

fn password_without_flag_is_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &ctx.v5("word").username("name").password("word").clear_flags(0x40)).map(drop)
}

fn password_flag_without_field_is_refused(ctx: &Ctx) -> Result<()> {
    let connect = Connect { password: None, ..ctx.v5("word") };
    refused(ctx, &connect.username("name").set_flags(0x40)).map(drop)
}

fn missing_client_id_is_refused(ctx: &Ctx) -> Result<()> {
    let bare = Connect { username: None, password: None, ..ctx.v5("none") };
    refused_bytes(ctx, &frame(first::CONNECT, &bare.header())).map(drop)
}

fn bytes_behind_the_payload_are_refused(ctx: &Ctx) -> Result<()> {
    let body = [ctx.v5("long").body(), vec![0]].concat();
    refused_bytes(ctx, &frame(first::CONNECT, &body)).map(drop)
}

/// Cuts a CONNECT with everything in it at each byte behind the version; the remaining length tells the truth.
fn truncated_connects_are_refused(ctx: &Ctx) -> Result<()> {
    let will = Will::new("t", "p").delay(1);
    let connect = ctx.v5("cut").session_expiry(0).will(will).username("n").password("w");
    let body = connect.body();
    let behind_version = 7;
    for length in (behind_version..body.len()).step_by(3) {
        refused_bytes(ctx, &frame(first::CONNECT, &body[..length]))
            .with_context(|| format!("cut to {length} of {} bytes", body.len()))?;
    }
    Ok(())
}

/// Each row is a property set that makes CONNECT a protocol error or malformed.
fn refused_with(ctx: &Ctx, rows: Vec<(&str, Props)>) -> Result<()> {
    for (name, props) in rows {
        refused(ctx, &ctx.v5("props").props(props)).context(name.to_owned())?;
    }
    Ok(())
}

fn duplicate_properties_are_refused(ctx: &Ctx) -> Result<()> {
    let twice = |id: u8, value: &[u8]| Props::new().raw(id, value).raw(id, value);
    refused_with(
        ctx,
        vec![
            ("Session Expiry Interval twice", twice(prop::SESSION_EXPIRY, &[0, 0, 0, 5])),
            ("Receive Maximum twice", twice(prop::RECEIVE_MAXIMUM, &[0, 5])),
            ("Maximum Packet Size twice", twice(prop::MAXIMUM_PACKET_SIZE, &[0, 0, 0xFF, 0xFF])),
            ("Topic Alias Maximum twice", twice(prop::TOPIC_ALIAS_MAXIMUM, &[0, 5])),
            ("Request Response Information twice", twice(prop::REQUEST_RESPONSE_INFO, &[1])),
            ("Request Problem Information twice", twice(prop::REQUEST_PROBLEM_INFO, &[1])),
            ("Authentication Method twice", twice(prop::AUTH_METHOD, &string("x"))),
        ],
    )
}

fn foreign_properties_are_refused(ctx: &Ctx) -> Result<()> {
    refused_with(
        ctx,
        vec![
            ("Topic Alias", Props::new().two(prop::TOPIC_ALIAS, 1)),
            ("Will Delay Interval", Props::new().four(prop::WILL_DELAY, 1)),
            ("Message Expiry Interval", Props::new().four(prop::MESSAGE_EXPIRY, 1)),
            ("Assigned Client Identifier", Props::new().text(prop::ASSIGNED_CLIENT_ID, "x")),
            ("Server Keep Alive", Props::new().two(prop::SERVER_KEEP_ALIVE, 1)),
            ("Reason String", Props::new().text(prop::REASON_STRING, "x")),
            ("Maximum QoS", Props::new().byte(prop::MAXIMUM_QOS, 1)),
            ("Subscription Identifier", Props::new().varint(prop::SUBSCRIPTION_ID, 1)),
        ],
    )
}

fn unknown_properties_are_refused(ctx: &Ctx) -> Result<()> {
    let rows = [0x00, 0x04, 0x2B, 0x7F].map(|id| ("unknown property", Props::new().byte(id, 0)));
    refused_with(ctx, rows.into())
}

fn receive_maximum_zero_is_refused(ctx: &Ctx) -> Result<()> {
    refused_with(ctx, vec![("Receive Maximum 0", Props::new().two(prop::RECEIVE_MAXIMUM, 0))])
}

fn maximum_packet_size_zero_is_refused(ctx: &Ctx) -> Result<()> {
    // Written by hand, so that the audit does not hold the broker to a size of 0 when it answers.
    let connect = ctx.v5("props").props(Props::new().four(prop::MAXIMUM_PACKET_SIZE, 0));
    refused_bytes(ctx, &connect.bytes()).map(drop)
}

fn request_response_information_two_is_refused(ctx: &Ctx) -> Result<()> {
    refused_with(ctx, vec![("value 2", Props::new().byte(prop::REQUEST_RESPONSE_INFO, 2))])
}

fn request_problem_information_two_is_refused(ctx: &Ctx) -> Result<()> {
    refused_with(ctx, vec![("value 2", Props::new().byte(prop::REQUEST_PROBLEM_INFO, 2))])
}

fn authentication_data_without_method_is_refused(ctx: &Ctx) -> Result<()> {
    refused_with(ctx, vec![("data alone", Props::new().text(prop::AUTH_DATA, "x"))])
}

/// Replaces the property set (an empty one: a single 0) by hand-made bytes.
fn with_property_bytes(ctx: &Ctx, bytes: &[u8]) -> Vec<u8> {
    let connect = ctx.v5("props");
    let header = connect.header();
    let body = [&header[..header.len() - 1], bytes, &connect.payload()].concat();
    frame(first::CONNECT, &body)
}

fn property_length_beyond_the_packet_is_refused(ctx: &Ctx) -> Result<()> {
    refused_bytes(ctx, &with_property_bytes(ctx, &[0xFF, 0x7F])).map(drop)
}

fn property_cut_by_its_length_is_refused(ctx: &Ctx) -> Result<()> {
    refused_bytes(ctx, &with_property_bytes(ctx, &[3, prop::SESSION_EXPIRY, 0, 0])).map(drop)
}

/// The high byte of the client id's length (0) is then taken for an empty property set, and the rest does not fit.
fn missing_property_length_is_refused(ctx: &Ctx) -> Result<()> {
    refused_bytes(ctx, &with_property_bytes(ctx, &[])).map(drop)
}

fn will_refused_with(ctx: &Ctx, rows: Vec<(&str, Props)>) -> Result<()> {
    for (name, props) in rows {
        refused(ctx, &ctx.v5("will").will(Will::new(ctx.topic("will"), "x").props(props))).context(name.to_owned())?;
    }
    Ok(())
}

fn foreign_will_properties_are_refused(ctx: &Ctx) -> Result<()> {
    will_refused_with(
        ctx,
        vec![
            ("Topic Alias", Props::new().two(prop::TOPIC_ALIAS, 1)),
            ("Session Expiry Interval", Props::new().four(prop::SESSION_EXPIRY, 1)),
            ("Subscription Identifier", Props::new().varint(prop::SUBSCRIPTION_ID, 1)),
            ("Reason String", Props::new().text(prop::REASON_STRING, "x")),
        ],
    )
}

fn duplicate_will_properties_are_refused(ctx: &Ctx) -> Result<()> {
    let twice = |id: u8, value: &[u8]| Props::new().raw(id, value).raw(id, value);
    will_refused_with(
        ctx,
        vec![
            ("Will Delay Interval twice", twice(prop::WILL_DELAY, &[0, 0, 0, 1])),
            ("Payload Format Indicator twice", twice(prop::PAYLOAD_FORMAT, &[0])),
            ("Content Type twice", twice(prop::CONTENT_TYPE, &string("x"))),
            ("Response Topic twice", twice(prop::RESPONSE_TOPIC, &string("x"))),
        ],
    )
}

fn will_topic_with_wildcards_is_refused(ctx: &Ctx) -> Result<()> {
    for topic in ["#", "+", "a/+/b", "a/#", "a+", "a#b"] {
        refused(ctx, &ctx.v5("will").will(Will::new(topic, "x"))).with_context(|| format!("will topic {topic:?}"))?;
    }
    Ok(())
}

fn empty_will_topic_is_refused(ctx: &Ctx) -> Result<()> {
    refused(ctx, &ctx.v5("will").will(Will::new("", "x"))).map(drop)
}

fn five_byte_remaining_length_is_refused(ctx: &Ctx) -> Result<()> {
    let connect = ctx.v5("length");
    let bytes = frame_with_length(first::CONNECT, &[0x80, 0x80, 0x80, 0x80, 0x01], &connect.body());
    refused_bytes(ctx, &bytes).map(drop)
}
