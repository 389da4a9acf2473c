//! The codec against two independent ones: `rmqtt-codec` and `mqttbytes`.
//!
//! A packet is written by us, read and written by them, and read by us: nothing may be lost or changed on the way. What
//! they are known to get wrong, or cannot say, is listed in a table for each, and each line of it is proven to be still
//! true, so that none outlives its reason. Names of fields are held against theirs where a swap could cancel itself out.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use bytes::BytesMut;
use causeway_protocol::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio_util::codec::{Decoder as _, Encoder as _};

#[path = "../../protocol/tests/packets/mod.rs"]
mod packets;

const V31: ProtocolVersion = ProtocolVersion::V31;
const V5: ProtocolVersion = ProtocolVersion::V5;

/// What becomes of our bytes when another codec has read and written them; an error is its own words.
type Echo = fn(BytesMut, ProtocolVersion) -> Result<BytesMut, String>;

/// Where another codec differs: why, and which packets in which version that concerns.
type Disagreement = (&'static str, fn(&Packet<'_>, ProtocolVersion) -> bool);

fn rmqtt(mut bytes: BytesMut, version: ProtocolVersion) -> Result<BytesMut, String> {
    let mut out = BytesMut::new();
    if version == V5 {
        let packet = rmqtt_codec::v5::Codec::default().decode(&mut bytes).map_err(|error| error.to_string())?;
        // Another one writes: after a CONNECT, the one that reads leaves out what the client does not want.
        let mut codec = rmqtt_codec::v5::Codec::default();
        codec.encode(packet.ok_or("incomplete")?.0, &mut out).map_err(|error| error.to_string())?;
    } else {
        let mut codec = rmqtt_codec::v3::Codec::default();
        let packet = codec.decode(&mut bytes).map_err(|error| error.to_string())?;
        codec.encode(packet.ok_or("incomplete")?.0, &mut out).map_err(|error| error.to_string())?;
    }
    Ok(out)
}

const RMQTT_DISAGREEMENTS: &[Disagreement] = &[
    ("writes a CONNECT of 3.1 with level 4", |packet, version| version == V31 && matches!(packet, Packet::Connect(_))),
    (
        "refuses an empty client identifier without Clean Start, which 5.0 allows and 3.1.1 answers",
        |packet, _| matches!(packet, Packet::Connect(connect) if connect.client_id.is_empty() && !connect.clean_start),
    ),
    ("refuses all of a 3.x SUBSCRIBE for one empty filter, instead of answering each", |packet, version| {
        version != V5
            && matches!(packet, Packet::Subscribe(subscribe) if subscribe.filters.iter().any(|(filter, _)| filter.is_empty()))
    }),
    ("refuses all of a 3.x UNSUBSCRIBE for one empty filter", |packet, version| {
        version != V5 && matches!(packet, Packet::Unsubscribe(unsubscribe) if unsubscribe.filters.contains(&""))
    }),
    ("refuses a message that expires at once", |packet, version| {
        version == V5
            && matches!(packet, Packet::Publish(publish) if publish.properties.message_expiry_interval_seconds == Some(0))
    }),
    (
        "refuses a will that expires at once",
        |packet, _| matches!(packet, Packet::Connect(connect) if connect.will.as_ref().is_some_and(|will| will.message_expiry_interval_seconds == Some(0))),
    ),
];

fn mqttbytes(mut bytes: BytesMut, version: ProtocolVersion) -> Result<BytesMut, String> {
    let mut out = BytesMut::new();
    let written = if version == V5 {
        use mqttbytes::v5::{Packet, PingReq, PingResp, read};
        match read(&mut bytes, 1 << 20).map_err(|error| format!("{error:?}"))? {
            Packet::Connect(packet) => packet.write(&mut out),
            Packet::ConnAck(packet) => packet.write(&mut out),
            Packet::Publish(packet) => packet.write(&mut out),
            Packet::PubAck(packet) => packet.write(&mut out),
            Packet::PubRec(packet) => packet.write(&mut out),
            Packet::PubRel(packet) => packet.write(&mut out),
            Packet::PubComp(packet) => packet.write(&mut out),
            Packet::Subscribe(packet) => packet.write(&mut out),
            Packet::SubAck(packet) => packet.write(&mut out),
            Packet::Unsubscribe(packet) => packet.write(&mut out),
            Packet::UnsubAck(packet) => packet.write(&mut out),
            Packet::PingReq => PingReq.write(&mut out),
            Packet::PingResp => PingResp.write(&mut out),
            Packet::Disconnect(packet) => packet.write(&mut out),
        }
    } else {
        use mqttbytes::v4::{Disconnect, Packet, PingReq, PingResp, read};
        match read(&mut bytes, 1 << 20).map_err(|error| format!("{error:?}"))? {
            Packet::Connect(packet) => packet.write(&mut out),
            Packet::ConnAck(packet) => packet.write(&mut out),
            Packet::Publish(packet) => packet.write(&mut out),
            Packet::PubAck(packet) => packet.write(&mut out),
            Packet::PubRec(packet) => packet.write(&mut out),
            Packet::PubRel(packet) => packet.write(&mut out),
            Packet::PubComp(packet) => packet.write(&mut out),
            Packet::Subscribe(packet) => packet.write(&mut out),
            Packet::SubAck(packet) => packet.write(&mut out),
            Packet::Unsubscribe(packet) => packet.write(&mut out),
            Packet::UnsubAck(packet) => packet.write(&mut out),
            Packet::PingReq => PingReq.write(&mut out),
            Packet::PingResp => PingResp.write(&mut out),
            Packet::Disconnect => Disconnect.write(&mut out),
        }
    };
    written.map_err(|error| format!("{error:?}"))?;
    Ok(out)
}

const MQTTBYTES_DISAGREEMENTS: &[Disagreement] = &[
    ("knows no 3.1", |packet, version| version == V31 && matches!(packet, Packet::Connect(_))),
    ("knows no AUTH", |packet, _| matches!(packet, Packet::Auth(_))),
    (
        "takes a password for text",
        |packet, _| matches!(packet, Packet::Connect(connect) if connect.password.is_some_and(|password| std::str::from_utf8(password).is_err())),
    ),
    (
        "takes an empty user name for none",
        |packet, _| matches!(packet, Packet::Connect(connect) if connect.username == Some("")),
    ),
    (
        "takes an empty password for none",
        |packet, _| matches!(packet, Packet::Connect(connect) if connect.password == Some(b"")),
    ),
    ("knows no DISCONNECT of one byte or none", |packet, version| {
        let short = |disconnect: &Disconnect<'_>| {
            *disconnect == Disconnect { reason: disconnect.reason, ..Disconnect::default() }
        };
        version == V5 && matches!(packet, Packet::Disconnect(disconnect) if short(disconnect))
    }),
    (
        "refuses DISCONNECT with Bad authentication method, which only one of the specification's tables has",
        |packet, version| {
            version == V5
                && matches!(packet, Packet::Disconnect(disconnect) if disconnect.reason == ReasonCode::BadAuthenticationMethod)
        },
    ),
    ("loses properties behind subscription identifiers: counts each one byte too long", |packet, version| {
        version == V5
            && matches!(packet, Packet::Publish(publish) if !publish.properties.subscription_identifiers.is_empty() && !publish.properties.forwarded.is_empty())
    }),
];

/// The same packet without properties whose value is their default, and with forwarded ones in one order: others leave
/// out or reorder what means the same.
fn normal(packet: Packet<'static>) -> Packet<'static> {
    match packet {
        Packet::Connect(mut connect) => {
            let properties = &mut connect.properties;
            properties.session_expiry_interval_seconds.take_if(|seconds| *seconds == 0);
            properties.topic_alias_maximum.take_if(|maximum| *maximum == 0);
            properties.request_problem_information.take_if(|wanted| *wanted);
            properties.request_response_information.take_if(|wanted| !*wanted);
            if let Some(will) = &mut connect.will {
                will.forwarded = normal_forwarded(will.forwarded);
            }
            Packet::Connect(connect)
        }
        Packet::ConnAck(mut connack) => {
            let properties = &mut connack.properties;
            properties.receive_maximum.take_if(|maximum| *maximum == u16::MAX);
            properties.topic_alias_maximum.take_if(|maximum| *maximum == 0);
            for available in [
                &mut properties.retain_available,
                &mut properties.wildcard_subscription_available,
                &mut properties.subscription_identifiers_available,
                &mut properties.shared_subscription_available,
            ] {
                available.take_if(|is| *is);
            }
            Packet::ConnAck(connack)
        }
        Packet::Publish(mut publish) => {
            publish.properties.forwarded = normal_forwarded(publish.properties.forwarded);
            Packet::Publish(publish)
        }
        _ => packet,
    }
}

fn normal_forwarded(forwarded: ForwardedProperties<'static>) -> ForwardedProperties<'static> {
    let mut builder = ForwardedBuilder::new();
    if forwarded.payload_format_indicator() == Some(1) {
        builder = builder.payload_format_indicator(true);
    }
    if let Some(content_type) = forwarded.content_type() {
        builder = builder.content_type(content_type);
    }
    if let Some(topic) = forwarded.response_topic() {
        builder = builder.response_topic(topic);
    }
    if let Some(data) = forwarded.correlation_data() {
        builder = builder.correlation_data(data);
    }
    for (name, value) in forwarded.user_properties() {
        builder = builder.user_property(name, value);
    }
    let bytes = builder.build().expect("they were valid before").leak();
    ForwardedProperties::from_forwarded_bytes(bytes).expect("just built")
}

/// Sends a packet through another codec. `None` if the version cannot say it, else whether it came back as it was.
fn exchange(echo: Echo, packet: &Packet<'static>, version: ProtocolVersion) -> Option<Result<(), String>> {
    let expected = normal(packets::as_received(packet.clone(), version)?);
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).expect("generated packets can be said");
    let returned = std::panic::catch_unwind(|| echo(out, version)).unwrap_or_else(|_| Err("panicked".to_owned()));
    Some(returned.and_then(|bytes| {
        let bytes: &'static [u8] = bytes.to_vec().leak();
        let frame = frame(bytes, u32::MAX).map_err(|error| error.to_string())?.ok_or("no packet")?;
        let body = bytes.get(frame.header_bytes..).ok_or("no packet")?;
        let read = decode(&frame, body, version).map(normal).map_err(|error| error.to_string())?;
        if read == expected { Ok(()) } else { Err(format!("came back as {read:?}")) }
    }))
}

/// A CONNECT is sent in the version it names.
fn version_of(packet: &Packet<'_>, version: ProtocolVersion) -> ProtocolVersion {
    if let Packet::Connect(connect) = packet { connect.version } else { version }
}

fn check(
    echo: Echo,
    disagreements: &[Disagreement],
    packet: &Packet<'static>,
    version: ProtocolVersion,
) -> Result<(), TestCaseError> {
    let version = version_of(packet, version);
    if disagreements.iter().any(|(_, concerns)| concerns(packet, version)) {
        return Ok(());
    }
    let result = exchange(echo, packet, version);
    prop_assert!(matches!(result, None | Some(Ok(()))), "{:?} {:?}: {:?}", version, packet, result);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rmqtt_agrees((packet, version) in (packets::packet(), packets::version())) {
        check(rmqtt, RMQTT_DISAGREEMENTS, &packet, version)?;
    }

    #[test]
    fn mqttbytes_agrees((packet, version) in (packets::packet(), packets::version())) {
        check(mqttbytes, MQTTBYTES_DISAGREEMENTS, &packet, version)?;
    }
}

#[test]
fn every_disagreement_is_still_true() {
    let mut runner = TestRunner::deterministic();
    for (echo, disagreements) in [(rmqtt as Echo, RMQTT_DISAGREEMENTS), (mqttbytes as Echo, MQTTBYTES_DISAGREEMENTS)] {
        let mut stale: Vec<_> = disagreements.iter().collect();
        for _ in 0..20_000 {
            let (packet, version) =
                (packets::packet(), packets::version()).new_tree(&mut runner).expect("generated").current();
            let version = version_of(&packet, version);
            stale.retain(|(_, concerns)| {
                !concerns(&packet, version) || !matches!(exchange(echo, &packet, version), Some(Err(_)))
            });
        }
        assert!(stale.is_empty(), "{:?}", stale.iter().map(|(why, _)| why).collect::<Vec<_>>());
    }
}

/// What `rmqtt-codec` reads of our bytes.
fn read_by_rmqtt(packet: &Packet<'_>) -> rmqtt_codec::v5::Packet {
    let mut out = BytesMut::new();
    encode(packet, V5, &mut out).expect("generated packets can be said");
    rmqtt_codec::v5::Codec::default().decode(&mut out).expect("valid").expect("complete").0
}

fn texts<T: AsRef<str>>(pairs: &[(T, T)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_global_rejects: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fields_of_publish_have_the_same_names(publish in packets::publish()) {
        prop_assume!(publish.properties.message_expiry_interval_seconds != Some(0));
        let rmqtt_codec::v5::Packet::Publish(theirs) = read_by_rmqtt(&Packet::Publish(publish.clone())) else {
            panic!("another packet");
        };
        prop_assert_eq!((theirs.dup, theirs.retain, theirs.qos.value()), (publish.dup, publish.retain, publish.qos as u8));
        prop_assert_eq!((&theirs.topic[..], theirs.packet_id), (publish.topic, publish.packet_id));
        prop_assert_eq!(&theirs.payload[..], publish.payload);
        let (theirs, ours) = (theirs.properties.expect("5.0 has them"), &publish.properties);
        prop_assert_eq!(theirs.topic_alias, ours.topic_alias);
        prop_assert_eq!(theirs.message_expiry_interval.map(|seconds| seconds.get()), ours.message_expiry_interval_seconds);
        let identifiers: Vec<u32> = theirs.subscription_ids.iter().map(|identifier| identifier.get()).collect();
        prop_assert_eq!(&identifiers, &ours.subscription_identifiers);
        prop_assert_eq!(theirs.is_utf8_payload, ours.forwarded.payload_format_indicator() == Some(1));
        prop_assert_eq!(theirs.content_type.as_deref(), ours.forwarded.content_type());
        prop_assert_eq!(theirs.response_topic.as_deref(), ours.forwarded.response_topic());
        prop_assert_eq!(theirs.correlation_data.as_deref(), ours.forwarded.correlation_data());
        prop_assert_eq!(texts(&theirs.user_properties), ours.forwarded.user_properties().collect::<Vec<_>>());
    }

    #[test]
    fn fields_of_connect_have_the_same_names(connect in packets::connect()) {
        let packet = Packet::Connect(Box::new(connect.clone()));
        prop_assume!(connect.version == V5 && !RMQTT_DISAGREEMENTS.iter().any(|(_, concerns)| concerns(&packet, V5)));
        let rmqtt_codec::v5::Packet::Connect(theirs) = read_by_rmqtt(&packet) else { panic!("another packet") };
        prop_assert_eq!((theirs.clean_start, theirs.keep_alive), (connect.clean_start, connect.keep_alive_seconds));
        prop_assert_eq!((&theirs.client_id[..], theirs.username.as_deref()), (connect.client_id, connect.username));
        prop_assert_eq!(theirs.password.as_deref(), connect.password);
        let ours = &connect.properties;
        prop_assert_eq!(theirs.session_expiry_interval_secs, ours.session_expiry_interval_seconds.unwrap_or(0));
        prop_assert_eq!(theirs.receive_max.map(|maximum| maximum.get()), ours.receive_maximum);
        prop_assert_eq!(theirs.max_packet_size.map(|bytes| bytes.get()), ours.maximum_packet_size_bytes);
        prop_assert_eq!(theirs.topic_alias_max, ours.topic_alias_maximum.unwrap_or(0));
        prop_assert_eq!(theirs.request_problem_info, ours.request_problem_information.unwrap_or(true));
        prop_assert_eq!(theirs.request_response_info, ours.request_response_information.unwrap_or(false));
        prop_assert_eq!(theirs.auth_method.as_deref(), ours.authentication_method);
        prop_assert_eq!(theirs.auth_data.as_deref(), ours.authentication_data);
        prop_assert_eq!(texts(&theirs.user_properties), ours.user_properties.clone());
        prop_assert_eq!(theirs.last_will.is_some(), connect.will.is_some());
        if let (Some(theirs), Some(ours)) = (&theirs.last_will, &connect.will) {
            prop_assert_eq!((theirs.qos.value(), theirs.retain), (ours.qos as u8, ours.retain));
            prop_assert_eq!((&theirs.topic[..], &theirs.message[..]), (ours.topic, ours.payload));
            prop_assert_eq!(theirs.will_delay_interval_sec, ours.delay_interval_seconds);
            let expiry = theirs.message_expiry_interval.map(|seconds| seconds.get());
            prop_assert_eq!(expiry, ours.message_expiry_interval_seconds);
            prop_assert_eq!(theirs.content_type.as_deref(), ours.forwarded.content_type());
            prop_assert_eq!(theirs.response_topic.as_deref(), ours.forwarded.response_topic());
            prop_assert_eq!(theirs.correlation_data.as_deref(), ours.forwarded.correlation_data());
            prop_assert_eq!(texts(&theirs.user_properties), ours.forwarded.user_properties().collect::<Vec<_>>());
        }
    }
}
