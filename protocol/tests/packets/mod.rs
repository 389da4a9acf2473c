//! Strategies for packets as a well-behaved peer sends them, and what 3.x leaves of them.
//!
//! Owns generation only. Strings are leaked so that packets can borrow them for as long as a test likes: a test process
//! is short. The fuzz crate's tests use this file, too.

use std::num::NonZeroU16;

use causeway_protocol::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) type Text = &'static str;

/// The versions, each as likely as the others.
pub(crate) fn version() -> impl Strategy<Value = ProtocolVersion> {
    select(vec![ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5])
}

/// Strings of up to 12 characters of one to four bytes, without U+0000.
pub(crate) fn text() -> impl Strategy<Value = Text> {
    "[a-c/+#$ \u{FEFF}äß€🚗]{0,12}".prop_map(|text| &*text.leak())
}

/// Topic names: no wildcards, not empty.
pub(crate) fn topic_name() -> impl Strategy<Value = Text> {
    "[a-c/$ \u{FEFF}äß€🚗]{1,12}".prop_map(|text| &*text.leak())
}

/// Filters, shared ones among them. Not all are valid: the decoder does not judge that.
pub(crate) fn filter() -> impl Strategy<Value = Text> {
    prop_oneof![
        4 => "[a-c/+#$ä🚗]{0,12}".prop_map(|text| &*text.leak()),
        1 => "\\$share/[a-c]{1,3}/[a-c/+#]{1,5}".prop_map(|text| &*text.leak()),
    ]
}

/// Binary fields, now and then longer than a length of one byte could say.
pub(crate) fn binary() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![9 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 200..400)].prop_map(|bytes| &*bytes.leak())
}

fn user_properties() -> impl Strategy<Value = UserProperties<'static>> {
    vec((text(), text()), 0..3)
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<PacketId>()
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

/// Intervals, with the two values that mean something special.
fn seconds() -> impl Strategy<Value = u32> {
    prop_oneof![8 => any::<u32>(), 1 => Just(0), 1 => Just(u32::MAX)]
}

fn identifier() -> impl Strategy<Value = u32> {
    prop_oneof![1..200u32, 1..=268_435_455u32]
}

/// A reason code of that packet's table.
pub(crate) fn reason(holder: PropertyHolder) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<_> =
        (0..=0xFF).filter_map(ReasonCode::from_byte).filter(|reason| reason.is_allowed_in(holder)).collect();
    select(codes)
}

pub(crate) fn forwarded() -> impl Strategy<Value = ForwardedProperties<'static>> {
    (of(any::<bool>()), of(text()), of(topic_name()), of(binary()), user_properties()).prop_map(
        |(format, content_type, response_topic, correlation_data, user_properties)| {
            let mut builder = ForwardedBuilder::new();
            if let Some(is_utf8) = format {
                builder = builder.payload_format_indicator(is_utf8);
            }
            if let Some(content_type) = content_type {
                builder = builder.content_type(content_type);
            }
            if let Some(topic) = response_topic {
                builder = builder.response_topic(topic);
            }
            if let Some(data) = correlation_data {
                builder = builder.correlation_data(data);
            }
            for (name, value) in user_properties {
                builder = builder.user_property(name, value);
            }
            let bytes = builder.build().expect("fields are short and valid").leak();
            ForwardedProperties::from_forwarded_bytes(bytes).expect("the builder's bytes are valid")
        },
    )
}

pub(crate) fn connect() -> impl Strategy<Value = Connect<'static>> {
    let credentials = (of(text()), of(binary()));
    (version(), any::<bool>(), any::<u16>(), text(), of(will()), credentials, connect_properties()).prop_map(
        |(version, clean_start, keep_alive_seconds, client_id, mut will, (username, mut password), mut properties)| {
            if version != ProtocolVersion::V5 {
                properties = ConnectProperties::default();
                password = password.filter(|_| username.is_some());
                if let Some(will) = &mut will {
                    will.delay_interval_seconds = None;
                    will.message_expiry_interval_seconds = None;
                    will.forwarded = ForwardedProperties::default();
                }
            }
            Connect { version, clean_start, keep_alive_seconds, client_id, will, username, password, properties }
        },
    )
}

fn will() -> impl Strategy<Value = Will<'static>> {
    (qos(), any::<bool>(), topic_name(), binary(), of(seconds()), of(seconds()), forwarded()).prop_map(
        |(qos, retain, topic, payload, delay_interval_seconds, message_expiry_interval_seconds, forwarded)| Will {
            qos,
            retain,
            topic,
            payload,
            delay_interval_seconds,
            message_expiry_interval_seconds,
            forwarded,
        },
    )
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties<'static>> {
    (
        of(seconds()),
        of(1..=u16::MAX),
        of(1..=u32::MAX),
        of(any::<u16>()),
        of(any::<bool>()),
        of(any::<bool>()),
        user_properties(),
        of((text(), of(binary()))),
    )
        .prop_map(|(expiry, receive, size, alias, response, problem, user_properties, authentication)| {
            ConnectProperties {
                session_expiry_interval_seconds: expiry,
                receive_maximum: receive,
                maximum_packet_size_bytes: size,
                topic_alias_maximum: alias,
                request_response_information: response,
                request_problem_information: problem,
                user_properties,
                authentication_method: authentication.map(|(method, _)| method),
                authentication_data: authentication.and_then(|(_, data)| data),
            }
        })
}

fn connack() -> impl Strategy<Value = ConnAck<'static>> {
    (any::<bool>(), reason(PropertyHolder::ConnAck), connack_properties()).prop_map(
        |(session_present, reason, properties)| ConnAck {
            session_present: session_present && reason == ReasonCode::Success,
            reason,
            properties,
        },
    )
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties<'static>> {
    let numbers = (
        of(seconds()),
        of(1..=u16::MAX),
        of(select(vec![QoS::AtMostOnce, QoS::AtLeastOnce])),
        of(1..=u32::MAX),
        of(any::<u16>()),
        of(any::<u16>()),
    );
    let flags = (of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<bool>()));
    let texts = (of(text()), of(text()), of(text()), of(text()));
    (numbers, flags, texts, user_properties(), of((text(), of(binary())))).prop_map(
        |(numbers, flags, texts, user_properties, authentication)| ConnAckProperties {
            session_expiry_interval_seconds: numbers.0,
            receive_maximum: numbers.1,
            maximum_qos: numbers.2,
            maximum_packet_size_bytes: numbers.3,
            topic_alias_maximum: numbers.4,
            server_keep_alive_seconds: numbers.5,
            retain_available: flags.0,
            wildcard_subscription_available: flags.1,
            subscription_identifiers_available: flags.2,
            shared_subscription_available: flags.3,
            assigned_client_identifier: texts.0,
            reason_string: texts.1,
            response_information: texts.2,
            server_reference: texts.3,
            user_properties,
            authentication_method: authentication.map(|(method, _)| method),
            authentication_data: authentication.and_then(|(_, data)| data),
        },
    )
}

pub(crate) fn publish() -> impl Strategy<Value = Publish<'static>> {
    let flags = (any::<bool>(), qos(), any::<bool>(), any::<bool>());
    let properties = (of(seconds()), of(any::<NonZeroU16>()), vec(identifier(), 0..3), forwarded());
    (flags, topic_name(), packet_id(), properties, binary()).prop_map(
        |((dup, qos, retain, by_alias), topic, packet_id, properties, payload)| Publish {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            topic: if by_alias && properties.1.is_some() { "" } else { topic },
            packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
            properties: PublishProperties {
                message_expiry_interval_seconds: properties.0,
                topic_alias: properties.1,
                subscription_identifiers: properties.2,
                forwarded: properties.3,
            },
            payload,
        },
    )
}

fn ack(holder: PropertyHolder) -> impl Strategy<Value = Ack<'static>> {
    (packet_id(), reason(holder), of(text()), user_properties()).prop_map(
        |(packet_id, reason, reason_string, user_properties)| Ack { packet_id, reason, reason_string, user_properties },
    )
}

fn options() -> impl Strategy<Value = SubscriptionOptions> {
    let handling = select(vec![RetainHandling::Always, RetainHandling::IfNew, RetainHandling::Never]);
    (qos(), any::<bool>(), any::<bool>(), handling).prop_map(|(qos, no_local, retain_as_published, retain_handling)| {
        SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
    })
}

fn subscribe() -> impl Strategy<Value = Subscribe<'static>> {
    (packet_id(), of(identifier()), user_properties(), vec((filter(), options()), 1..4)).prop_map(
        |(packet_id, subscription_identifier, user_properties, mut filters)| {
            for (filter, options) in &mut filters {
                options.no_local &= !filter.starts_with("$share/");
            }
            Subscribe { packet_id, subscription_identifier, user_properties, filters }
        },
    )
}

fn suback() -> impl Strategy<Value = SubAck<'static>> {
    (packet_id(), of(text()), user_properties(), vec(reason(PropertyHolder::SubAck), 1..4)).prop_map(
        |(packet_id, reason_string, user_properties, reasons)| SubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        },
    )
}

fn unsubscribe() -> impl Strategy<Value = Unsubscribe<'static>> {
    (packet_id(), user_properties(), vec(filter(), 1..4))
        .prop_map(|(packet_id, user_properties, filters)| Unsubscribe { packet_id, user_properties, filters })
}

fn unsuback() -> impl Strategy<Value = UnsubAck<'static>> {
    (packet_id(), of(text()), user_properties(), vec(reason(PropertyHolder::UnsubAck), 1..4)).prop_map(
        |(packet_id, reason_string, user_properties, reasons)| UnsubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        },
    )
}

fn disconnect() -> impl Strategy<Value = Disconnect<'static>> {
    (reason(PropertyHolder::Disconnect), of(seconds()), of(text()), user_properties(), of(text())).prop_map(
        |(reason, session_expiry_interval_seconds, reason_string, user_properties, server_reference)| Disconnect {
            reason,
            session_expiry_interval_seconds,
            reason_string,
            user_properties,
            server_reference,
        },
    )
}

fn auth() -> impl Strategy<Value = Auth<'static>> {
    let full = (reason(PropertyHolder::Auth), text(), of(binary()), of(text()), user_properties()).prop_map(
        |(reason, method, authentication_data, reason_string, user_properties)| Auth {
            reason,
            authentication_method: Some(method),
            authentication_data,
            reason_string,
            user_properties,
        },
    );
    prop_oneof![9 => full, 1 => Just(Auth::default())]
}

/// Any packet that 5.0 can say (a CONNECT may be of any version).
pub(crate) fn packet() -> impl Strategy<Value = Packet<'static>> {
    prop_oneof![
        2 => connect().prop_map(|connect| Packet::Connect(Box::new(connect))),
        2 => connack().prop_map(|connack| Packet::ConnAck(Box::new(connack))),
        4 => publish().prop_map(Packet::Publish),
        1 => ack(PropertyHolder::PubAck).prop_map(Packet::PubAck),
        1 => ack(PropertyHolder::PubRec).prop_map(Packet::PubRec),
        1 => ack(PropertyHolder::PubRel).prop_map(Packet::PubRel),
        1 => ack(PropertyHolder::PubComp).prop_map(Packet::PubComp),
        1 => subscribe().prop_map(Packet::Subscribe),
        1 => suback().prop_map(Packet::SubAck),
        1 => unsubscribe().prop_map(Packet::Unsubscribe),
        1 => unsuback().prop_map(Packet::UnsubAck),
        1 => Just(Packet::PingReq),
        1 => Just(Packet::PingResp),
        1 => disconnect().prop_map(Packet::Disconnect),
        1 => auth().prop_map(Packet::Auth),
    ]
}

/// What arrives of a packet that was sent in `version`; `None` if that version cannot say it at all.
pub(crate) fn as_received(packet: Packet<'static>, version: ProtocolVersion) -> Option<Packet<'static>> {
    if version == ProtocolVersion::V5 {
        return Some(packet);
    }
    Some(match packet {
        Packet::Connect(_) | Packet::PingReq | Packet::PingResp => packet,
        Packet::ConnAck(connack) => {
            let code = connack.reason.connect_return_code();
            Packet::ConnAck(Box::new(ConnAck {
                session_present: connack.session_present && version != ProtocolVersion::V31,
                reason: ReasonCode::from_connect_return_code(code).expect("every return code has its reason"),
                properties: ConnAckProperties::default(),
            }))
        }
        Packet::Publish(publish) if publish.topic.is_empty() => return None,
        Packet::Publish(publish) => Packet::Publish(Publish { properties: PublishProperties::default(), ..publish }),
        Packet::PubAck(ack) => Packet::PubAck(Ack::new(ack.packet_id, ReasonCode::Success)),
        Packet::PubRec(ack) => Packet::PubRec(Ack::new(ack.packet_id, ReasonCode::Success)),
        Packet::PubRel(ack) => Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)),
        Packet::PubComp(ack) => Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)),
        Packet::Subscribe(Subscribe { packet_id, filters, .. }) => Packet::Subscribe(Subscribe {
            packet_id,
            subscription_identifier: None,
            user_properties: Vec::new(),
            filters: filters
                .into_iter()
                .map(|(filter, options)| (filter, SubscriptionOptions { qos: options.qos, ..Default::default() }))
                .collect(),
        }),
        Packet::SubAck(SubAck { packet_id, reasons, .. }) => Packet::SubAck(SubAck {
            packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reasons: reasons
                .into_iter()
                .map(|reason| if reason.is_error() { ReasonCode::UnspecifiedError } else { reason })
                .collect(),
        }),
        Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe(Unsubscribe { user_properties: Vec::new(), ..unsubscribe })
        }
        Packet::UnsubAck(UnsubAck { packet_id, .. }) => Packet::UnsubAck(UnsubAck {
            packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reasons: Vec::new(),
        }),
        Packet::Disconnect(_) => Packet::Disconnect(Disconnect::default()),
        Packet::Auth(_) => return None,
    })
}
