//! Packets written down byte by byte, good and bad, with what they are. The fuzz crate makes its seeds from them.
//!
//! Notation, blanks between the parts: `0A1B` bytes in hexadecimal; `'ab'` the bytes of a text; `s'ab'` a string with its
//! two-byte length; `@` the remaining length of all that follows; `[ ... ]` a property section with its length.

use causeway_protocol::ProtocolVersion::{self, V5, V31, V311};

/// A packet to accept: version, notation, and how its debug output starts.
pub(crate) type Valid = (ProtocolVersion, &'static str, &'static str);

/// A packet to refuse: version, notation, and how the error's debug output starts.
pub(crate) type Invalid = (ProtocolVersion, &'static str, &'static str);

/// Turns notation into bytes.
pub(crate) fn bytes(notation: &str) -> Vec<u8> {
    let mut parts = notation.split(' ').filter(|part| !part.is_empty());
    let bytes = section(&mut parts);
    assert!(parts.next().is_none(), "unbalanced: {notation}");
    bytes
}

fn section<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(part) = parts.next() {
        match part {
            "]" => break,
            "[" | "@" => {
                let inner = section(parts);
                out.extend(variable_byte_integer(inner.len()));
                out.extend(inner);
                if part == "@" {
                    break;
                }
            }
            _ => out.extend(simple(part)),
        }
    }
    out
}

fn simple(part: &str) -> Vec<u8> {
    if let Some(text) = part.strip_prefix("s'") {
        let text = text.strip_suffix('\'').expect("closing quote");
        return [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    }
    if let Some(text) = part.strip_prefix('\'') {
        return text.strip_suffix('\'').expect("closing quote").as_bytes().to_vec();
    }
    assert!(part.len().is_multiple_of(2), "half a byte: {part}");
    (0..part.len()).step_by(2).map(|at| u8::from_str_radix(&part[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn variable_byte_integer(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7F {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// What has to be accepted, and is written in just these bytes.
#[rustfmt::skip]
pub(crate) const CANONICAL: &[Valid] = &[
    // CONNECT.
    (V31, "10 @ s'MQIsdp' 03 02 003C s'tcu'", "Connect(Connect { version: V31, clean_start: true, keep_alive_seconds: 60, client_id: \"tcu\", will: None"),
    (V311, "10 @ s'MQTT' 04 02 003C s'tcu'", "Connect(Connect { version: V311, clean_start: true"),
    (V311, "10 @ s'MQTT' 04 00 0000 0000", "Connect(Connect { version: V311, clean_start: false, keep_alive_seconds: 0, client_id: \"\""),
    //= test [MQTT-3.1.3-1]
    //= test [MQTT-3.1.3-3]
    //= test [MQTT-3.1.2-9]
    //= test [MQTT-3.1.2-17]
    //= test [MQTT-3.1.2-19]
    (V311, "10 @ s'MQTT' 04 F6 003C s'tcu' s'will' s'bye' s'user' s'pass'", "Connect(Connect { version: V311, clean_start: true, keep_alive_seconds: 60, client_id: \"tcu\", will: Some(Will { qos: ExactlyOnce, retain: true, topic: \"will\", payload: [98, 121, 101]"),
    (V5, "10 @ s'MQTT' 05 02 003C [ ] s'tcu'", "Connect(Connect { version: V5"),
    //= test [MQTT-3.1.2-16]
    //= test [MQTT-3.1.2-18]
    (V5, "10 @ s'MQTT' 05 40 003C [ ] s'tcu' s'pass'", "Connect(Connect { version: V5, clean_start: false, keep_alive_seconds: 60, client_id: \"tcu\", will: None, username: None, password: Some("),
    (V5, "10 @ s'MQTT' 05 80 003C [ ] s'tcu' s'user'", "Connect(Connect { version: V5, clean_start: false, keep_alive_seconds: 60, client_id: \"tcu\", will: None, username: Some(\"user\"), password: None"),
    (V5, "10 @ s'MQTT' 05 02 0000 [ 11 FFFFFFFF 21 0014 27 00010000 22 000A 19 01 17 00 15 s'SCRAM' 16 s'data' 26 s'k' s'v' 26 s'k' s'w' ] s'tcu'", "Connect(Connect { version: V5, clean_start: true, keep_alive_seconds: 0, client_id: \"tcu\", will: None, username: None, password: None, properties: ConnectProperties { session_expiry_interval_seconds: Some(4294967295), receive_maximum: Some(20), maximum_packet_size_bytes: Some(65536), topic_alias_maximum: Some(10), request_response_information: Some(true), request_problem_information: Some(false), user_properties: [(\"k\", \"v\"), (\"k\", \"w\")], authentication_method: Some(\"SCRAM\")"),
    //= test [MQTT-3.1.2-12]
    (V5, "10 @ s'MQTT' 05 0C 0000 [ ] s'tcu' [ 18 0000000A 02 0000000B 01 01 03 s'text' 08 s'reply' 09 s'id' 26 s'k' s'v' ] s'will' 0000", "Connect(Connect { version: V5, clean_start: false, keep_alive_seconds: 0, client_id: \"tcu\", will: Some(Will { qos: AtLeastOnce, retain: false, topic: \"will\", payload: [], delay_interval_seconds: Some(10), message_expiry_interval_seconds: Some(11)"),

    // CONNACK.
    (V311, "20 02 01 00", "ConnAck(ConnAck { session_present: true, reason: Success"),
    (V311, "20 02 00 01", "ConnAck(ConnAck { session_present: false, reason: UnsupportedProtocolVersion"),
    (V31, "20 02 00 05", "ConnAck(ConnAck { session_present: false, reason: NotAuthorized"),
    //= test [MQTT-2.2.2-1]
    (V5, "20 @ 00 00 [ ]", "ConnAck(ConnAck { session_present: false, reason: Success"),
    (V5, "20 @ 00 87 [ 1F s'no' ]", "ConnAck(ConnAck { session_present: false, reason: NotAuthorized"),
    (V5, "20 @ 01 00 [ 11 00000001 21 0001 24 01 25 00 27 00000400 12 s'id' 22 0005 28 01 29 00 2A 01 13 001E 1A s'info' 1C s'other' 15 s'm' 16 s'd' 1F s'why' 26 s'k' s'v' ]", "ConnAck(ConnAck { session_present: true, reason: Success, properties: ConnAckProperties { session_expiry_interval_seconds: Some(1), receive_maximum: Some(1), maximum_qos: Some(AtLeastOnce), retain_available: Some(false), maximum_packet_size_bytes: Some(1024), assigned_client_identifier: Some(\"id\"), topic_alias_maximum: Some(5), reason_string: Some(\"why\"), user_properties: [(\"k\", \"v\")], wildcard_subscription_available: Some(true), subscription_identifiers_available: Some(false), shared_subscription_available: Some(true), server_keep_alive_seconds: Some(30), response_information: Some(\"info\"), server_reference: Some(\"other\"), authentication_method: Some(\"m\")"),

    // PUBLISH.
    //= test [MQTT-2.2.1-2]
    //= test [MQTT-3.3.2-1]
    (V31, "30 @ s'a/b' 'hi'", "Publish(Publish { dup: false, qos: AtMostOnce, retain: false, topic: \"a/b\", packet_id: None"),
    (V311, "31 @ s'a/b'", "Publish(Publish { dup: false, qos: AtMostOnce, retain: true, topic: \"a/b\""),
    (V311, "3B @ s'a/b' 000A 'hi'", "Publish(Publish { dup: true, qos: AtLeastOnce, retain: true, topic: \"a/b\", packet_id: Some(10)"),
    (V311, "34 @ s'a' FFFF", "Publish(Publish { dup: false, qos: ExactlyOnce, retain: false, topic: \"a\", packet_id: Some(65535)"),
    (V5, "30 @ s'a/b' [ ] 'hi'", "Publish(Publish { dup: false, qos: AtMostOnce, retain: false, topic: \"a/b\", packet_id: None"),
    (V5, "32 @ s'a' 0001 [ 23 0001 ] 'hi'", "Publish(Publish { dup: false, qos: AtLeastOnce, retain: false, topic: \"a\", packet_id: Some(1), properties: PublishProperties { message_expiry_interval_seconds: None, topic_alias: Some(1)"),
    (V5, "30 @ s'' [ 23 FFFF ] 'hi'", "Publish(Publish { dup: false, qos: AtMostOnce, retain: false, topic: \"\""),
    (V5, "30 @ s'a' [ 02 00000000 0B 01 0B FFFFFF7F 01 00 03 s'' 08 s'r' 09 0000 26 s'' s'' 26 s'k' s'v' ]", "Publish(Publish { dup: false, qos: AtMostOnce, retain: false, topic: \"a\", packet_id: None, properties: PublishProperties { message_expiry_interval_seconds: Some(0), topic_alias: None, subscription_identifiers: [1, 268435455]"),
    //= test [MQTT-1.5.4-3]
    (V5, "30 @ 0004 EFBBBF 'a' [ ]", "Publish(Publish { dup: false, qos: AtMostOnce, retain: false, topic: \"\\u{feff}a\""),
    (V311, "30 @ s'$SYS/ä€🚗'", "Publish(Publish { dup: false, qos: AtMostOnce, retain: false, topic: \"$SYS/ä€🚗\""),

    // PUBACK, PUBREC, PUBREL, PUBCOMP.
    (V311, "40 02 0001", "PubAck(Ack { packet_id: 1, reason: Success"),
    (V311, "50 02 0001", "PubRec(Ack { packet_id: 1, reason: Success"),
    (V311, "62 02 0001", "PubRel(Ack { packet_id: 1, reason: Success"),
    (V31, "70 02 0001", "PubComp(Ack { packet_id: 1, reason: Success"),
    (V5, "40 02 FFFF", "PubAck(Ack { packet_id: 65535, reason: Success, reason_string: None"),
    (V5, "40 03 0001 10", "PubAck(Ack { packet_id: 1, reason: NoMatchingSubscribers"),
    (V5, "50 @ 0001 97 [ 1F s'full' 26 s'k' s'v' ]", "PubRec(Ack { packet_id: 1, reason: QuotaExceeded, reason_string: Some(\"full\"), user_properties: [(\"k\", \"v\")]"),
    (V5, "62 03 0001 92", "PubRel(Ack { packet_id: 1, reason: PacketIdentifierNotFound"),
    (V5, "70 @ 0001 00 [ 1F s'ok' ]", "PubComp(Ack { packet_id: 1, reason: Success, reason_string: Some(\"ok\")"),

    // SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.
    (V31, "82 @ 0001 s'a/#' 01", "Subscribe(Subscribe { packet_id: 1, subscription_identifier: None, user_properties: [], filters: [(\"a/#\", SubscriptionOptions { qos: AtLeastOnce"),
    (V311, "82 @ 0001 s'a' 00 s'b' 02", "Subscribe(Subscribe { packet_id: 1"),
    (V5, "82 @ 0001 [ 0B 8001 26 s'k' s'v' ] s'a/+' 2E", "Subscribe(Subscribe { packet_id: 1, subscription_identifier: Some(128), user_properties: [(\"k\", \"v\")], filters: [(\"a/+\", SubscriptionOptions { qos: ExactlyOnce, no_local: true, retain_as_published: true, retain_handling: Never"),
    (V5, "82 @ 0001 [ ] s'$share/g/a' 19", "Subscribe(Subscribe { packet_id: 1, subscription_identifier: None, user_properties: [], filters: [(\"$share/g/a\", SubscriptionOptions { qos: AtLeastOnce, no_local: false, retain_as_published: true, retain_handling: IfNew"),
    // The syntax of a filter is not the decoder's business: the SUBACK answers for each filter.
    (V5, "82 @ 0001 [ ] s'a#b' 00 s'' 00", "Subscribe(Subscribe { packet_id: 1"),
    (V311, "90 @ 0001 00010280", "SubAck(SubAck { packet_id: 1, reason_string: None, user_properties: [], reasons: [Success, GrantedQoS1, GrantedQoS2, UnspecifiedError]"),
    (V5, "90 @ 0001 [ 1F s'hm' ] 01 8F", "SubAck(SubAck { packet_id: 1, reason_string: Some(\"hm\"), user_properties: [], reasons: [GrantedQoS1, TopicFilterInvalid]"),
    (V311, "A2 @ 0001 s'a' s'b/#'", "Unsubscribe(Unsubscribe { packet_id: 1, user_properties: [], filters: [\"a\", \"b/#\"]"),
    (V5, "A2 @ 0001 [ 26 s'k' s'v' ] s'a'", "Unsubscribe(Unsubscribe { packet_id: 1, user_properties: [(\"k\", \"v\")], filters: [\"a\"]"),
    (V311, "B0 02 0001", "UnsubAck(UnsubAck { packet_id: 1, reason_string: None, user_properties: [], reasons: []"),
    (V5, "B0 @ 0001 [ ] 00 11 87", "UnsubAck(UnsubAck { packet_id: 1, reason_string: None, user_properties: [], reasons: [Success, NoSubscriptionExisted, NotAuthorized]"),

    // PINGREQ, PINGRESP, DISCONNECT, AUTH.
    (V311, "C0 00", "PingReq"),
    (V5, "D0 00", "PingResp"),
    (V311, "E0 00", "Disconnect(Disconnect { reason: Success"),
    (V5, "E0 00", "Disconnect(Disconnect { reason: Success"),
    (V5, "E0 01 04", "Disconnect(Disconnect { reason: DisconnectWithWill"),
    (V5, "E0 @ 9C [ 11 00000000 1F s'move' 1C s'other' 26 s'k' s'v' ]", "Disconnect(Disconnect { reason: UseAnotherServer, session_expiry_interval_seconds: Some(0), reason_string: Some(\"move\"), user_properties: [(\"k\", \"v\")], server_reference: Some(\"other\")"),
    (V5, "F0 00", "Auth(Auth { reason: Success, authentication_method: None"),
    (V5, "F0 @ 18 [ 15 s'SCRAM' 16 s'data' 1F s'more' 26 s'k' s'v' ]", "Auth(Auth { reason: ContinueAuthentication, authentication_method: Some(\"SCRAM\")"),
    (V5, "F0 @ 19 [ 15 s'SCRAM' ]", "Auth(Auth { reason: ReAuthenticate"),
];

/// What has to be accepted, but is written shorter or in another order by us.
#[rustfmt::skip]
pub(crate) const TOLERATED: &[Valid] = &[
    // MQTT 3.1: the remaining length wins over the flags for user name and password.
    (V31, "10 @ s'MQIsdp' 03 C2 003C s'tcu'", "Connect(Connect { version: V31, clean_start: true, keep_alive_seconds: 60, client_id: \"tcu\", will: None, username: None, password: None"),
    (V31, "10 @ s'MQIsdp' 03 C2 003C s'tcu' s'user'", "Connect(Connect { version: V31, clean_start: true, keep_alive_seconds: 60, client_id: \"tcu\", will: None, username: Some(\"user\"), password: None"),
    // MQTT 3.1: DUP on what is acknowledged, a reserved byte without a value in CONNACK.
    (V31, "8A @ 0001 s'a' 01", "Subscribe(Subscribe { packet_id: 1"),
    (V31, "AA @ 0001 s'a'", "Unsubscribe(Unsubscribe { packet_id: 1"),
    (V31, "6A 02 0001", "PubRel(Ack { packet_id: 1"),
    (V31, "20 02 FF 00", "ConnAck(ConnAck { session_present: false, reason: Success"),
    (V5, "40 03 0001 00", "PubAck(Ack { packet_id: 1, reason: Success"),
    (V5, "40 04 0001 00 00", "PubAck(Ack { packet_id: 1, reason: Success"),
    (V5, "62 04 0001 92 00", "PubRel(Ack { packet_id: 1, reason: PacketIdentifierNotFound"),
    (V5, "E0 01 00", "Disconnect(Disconnect { reason: Success"),
    (V5, "E0 02 00 00", "Disconnect(Disconnect { reason: Success"),
    (V5, "F0 02 00 00", "Auth(Auth { reason: Success"),
    // Properties in between that are not forwarded.
    (V5, "30 @ s'a' [ 26 s'k' s'v' 02 00000001 03 s'text' 23 0001 ]", "Publish(Publish { dup: false, qos: AtMostOnce, retain: false, topic: \"a\", packet_id: None, properties: PublishProperties { message_expiry_interval_seconds: Some(1), topic_alias: Some(1)"),
    (V5, "10 @ s'MQTT' 05 04 0000 [ ] s'tcu' [ 26 s'k' s'v' 18 00000001 01 00 02 00000002 ] s'will' 0000", "Connect(Connect { version: V5"),
];

/// What has to be refused.
#[rustfmt::skip]
pub(crate) const INVALID: &[Invalid] = &[
    // Fixed header.
    (V5, "00 00", "PacketTypeReserved"),
    (V5, "08", "PacketTypeReserved"),
    //= test [MQTT-2.1.3-1]
    (V5, "11", "ReservedFlagsSet { packet_type: 1, flags: 1 }"),
    (V5, "28", "ReservedFlagsSet { packet_type: 2, flags: 8 }"),
    (V5, "41", "ReservedFlagsSet { packet_type: 4, flags: 1 }"),
    (V5, "52", "ReservedFlagsSet { packet_type: 5, flags: 2 }"),
    //= test [MQTT-3.6.1-1]
    (V5, "60", "ReservedFlagsSet { packet_type: 6, flags: 0 }"),
    (V5, "63", "ReservedFlagsSet { packet_type: 6, flags: 3 }"),
    (V5, "6A 02 0001", "ReservedFlagsSet { packet_type: 6, flags: 10 }"),
    (V5, "72", "ReservedFlagsSet { packet_type: 7, flags: 2 }"),
    //= test [MQTT-3.8.1-1]
    (V5, "80", "ReservedFlagsSet { packet_type: 8, flags: 0 }"),
    (V311, "8A @ 0001 s'a' 01", "ReservedFlagsSet { packet_type: 8, flags: 10 }"),
    (V5, "91", "ReservedFlagsSet { packet_type: 9, flags: 1 }"),
    //= test [MQTT-3.10.1-1]
    (V5, "A0", "ReservedFlagsSet { packet_type: 10, flags: 0 }"),
    (V311, "AA @ 0001 s'a'", "ReservedFlagsSet { packet_type: 10, flags: 10 }"),
    (V5, "B2", "ReservedFlagsSet { packet_type: 11, flags: 2 }"),
    (V5, "C1", "ReservedFlagsSet { packet_type: 12, flags: 1 }"),
    (V5, "D8", "ReservedFlagsSet { packet_type: 13, flags: 8 }"),
    //= test [MQTT-3.14.1-1]
    (V5, "E1", "ReservedFlagsSet { packet_type: 14, flags: 1 }"),
    //= test [MQTT-3.15.1-1]
    (V5, "F1", "ReservedFlagsSet { packet_type: 15, flags: 1 }"),
    //= test [MQTT-3.3.1-4]
    (V5, "36", "PublishQoS3"),
    (V311, "3F", "PublishQoS3"),
    //= test [MQTT-3.3.1-2]
    (V5, "38", "PublishDupWithQoS0"),
    (V311, "39", "PublishDupWithQoS0"),
    (V5, "30 FFFFFFFF", "RemainingLengthTooLong"),
    (V5, "30 8080808001", "RemainingLengthTooLong"),
    //= test [MQTT-1.5.5-1]
    (V5, "C0 8000", "RemainingLengthNotMinimal"),
    (V5, "30 FFFFFF00", "RemainingLengthNotMinimal"),
    (V311, "F0 00", "AuthBeforeV5"),
    (V31, "F0 00", "AuthBeforeV5"),

    // CONNECT.
    //= test [MQTT-3.1.2-1]
    (V5, "10 @ s'MQTX' 05 02 003C [ ] s'tcu'", "ProtocolNameUnknown"),
    (V5, "10 @ s'mqtt' 04 02 003C s'tcu'", "ProtocolNameUnknown"),
    (V5, "10 @ 0002 FFFE 04", "ProtocolNameUnknown"),
    (V5, "10 @ 0000", "ProtocolNameUnknown"),
    //= test [MQTT-3.1.2-2]
    (V5, "10 @ s'MQTT' 06 FF", "ProtocolLevelUnknown { level: 6 }"),
    (V5, "10 @ s'MQTT' 03 02 003C s'tcu'", "ProtocolLevelUnknown { level: 3 }"),
    (V5, "10 @ s'MQTT' 84 02 003C s'tcu'", "ProtocolLevelUnknown { level: 132 }"),
    (V5, "10 @ s'MQIsdp' 04 02 003C s'tcu'", "ProtocolLevelUnknown { level: 4 }"),
    (V5, "10 00", "Truncated"),
    (V5, "10 @ 0004 'MQT'", "Truncated"),
    (V5, "10 @ s'MQTT'", "Truncated"),
    (V5, "10 @ s'MQTT' 04", "Truncated"),
    (V5, "10 @ s'MQTT' 04 02 00", "Truncated"),
    (V5, "10 @ s'MQTT' 04 02 003C", "Truncated"),
    (V5, "10 @ s'MQTT' 05 02 003C", "Truncated"),
    (V5, "10 @ s'MQTT' 05 02 003C 05 s'tcu'", "PropertyUnknown { id: 0 }"),
    (V5, "10 @ s'MQTT' 05 02 003C 7F", "Truncated"),
    (V5, "10 @ s'MQTT' 04 02 003C 0004 'tcu'", "Truncated"),
    (V5, "10 @ s'MQTT' 04 02 003C s'tcu' 00", "TrailingBytes { bytes: 1 }"),
    (V5, "10 @ s'MQTT' 04 02 003C s'tcu' s'user' s'pass'", "TrailingBytes { bytes: 12 }"),
    //= test [MQTT-3.1.2-3]
    (V5, "10 @ s'MQTT' 04 03 003C s'tcu'", "ConnectReservedFlagSet"),
    (V5, "10 @ s'MQTT' 05 01 003C [ ] s'tcu'", "ConnectReservedFlagSet"),
    //= test [MQTT-3.1.2-11]
    (V5, "10 @ s'MQTT' 05 08 003C [ ] s'tcu'", "WillFlagsWithoutWill"),
    (V5, "10 @ s'MQTT' 04 10 003C s'tcu'", "WillFlagsWithoutWill"),
    //= test [MQTT-3.1.2-13]
    (V5, "10 @ s'MQTT' 05 20 003C [ ] s'tcu'", "WillFlagsWithoutWill"),
    //= test [MQTT-3.1.2-12]
    (V5, "10 @ s'MQTT' 05 1C 003C [ ] s'tcu' [ ] s'will' 0000", "WillQoS3"),
    (V5, "10 @ s'MQTT' 04 1C 003C s'tcu' s'will' 0000", "WillQoS3"),
    (V5, "10 @ s'MQTT' 04 42 003C s'tcu' s'pass'", "PasswordWithoutUserName"),
    (V5, "10 @ s'MQIsdp' 03 42 003C s'tcu' s'pass'", "PasswordWithoutUserName"),
    (V5, "10 @ s'MQTT' 04 C2 003C s'tcu' s'user'", "Truncated"),
    (V5, "10 @ s'MQTT' 04 06 003C s'tcu' s'will'", "Truncated"),
    //= test [MQTT-4.7.3-1]
    (V5, "10 @ s'MQTT' 04 06 003C s'tcu' s'' s'bye'", "WillTopicEmpty"),
    //= test [MQTT-4.7.0-1]
    (V5, "10 @ s'MQTT' 04 06 003C s'tcu' s'a/+' s'bye'", "WillTopicWildcard"),
    (V5, "10 @ s'MQTT' 05 06 003C [ ] s'tcu' [ ] s'#' s'bye'", "WillTopicWildcard"),
    //= test [MQTT-3.1.3-11]
    (V5, "10 @ s'MQTT' 04 06 003C s'tcu' 0001 FF s'bye'", "StringNotUtf8"),
    //= test [MQTT-3.1.3-4]
    (V5, "10 @ s'MQTT' 04 02 003C 0001 C0", "StringNotUtf8"),
    (V5, "10 @ s'MQTT' 04 02 003C 0002 'a' 00", "StringContainsNul"),
    //= test [MQTT-3.1.3-12]
    (V5, "10 @ s'MQTT' 04 82 003C s'tcu' 0001 FF", "StringNotUtf8"),
    (V5, "10 @ s'MQTT' 05 02 003C [ 21 0000 ] s'tcu'", "ReceiveMaximumZero"),
    (V5, "10 @ s'MQTT' 05 02 003C [ 27 00000000 ] s'tcu'", "MaximumPacketSizeZero"),
    (V5, "10 @ s'MQTT' 05 02 003C [ 17 02 ] s'tcu'", "PropertyNotBoolean { property: RequestProblemInformation, value: 2 }"),
    (V5, "10 @ s'MQTT' 05 02 003C [ 19 FF ] s'tcu'", "PropertyNotBoolean { property: RequestResponseInformation, value: 255 }"),
    (V5, "10 @ s'MQTT' 05 02 003C [ 16 s'data' ] s'tcu'", "AuthenticationDataWithoutMethod"),
    (V5, "10 @ s'MQTT' 05 02 003C [ 11 00000001 11 00000001 ] s'tcu'", "PropertyRepeated(SessionExpiryInterval)"),
    (V5, "10 @ s'MQTT' 05 02 003C [ 1F s'x' ] s'tcu'", "PropertyNotAllowed { property: ReasonString, holder: Connect }"),
    (V5, "10 @ s'MQTT' 05 02 003C [ 18 00000001 ] s'tcu'", "PropertyNotAllowed { property: WillDelayInterval, holder: Connect }"),
    (V5, "10 @ s'MQTT' 05 06 003C [ ] s'tcu' [ 23 0001 ] s'will' 0000", "PropertyNotAllowed { property: TopicAlias, holder: Will }"),
    (V5, "10 @ s'MQTT' 05 06 003C [ ] s'tcu' [ 18 00000001 18 00000001 ] s'will' 0000", "PropertyRepeated(WillDelayInterval)"),
    (V5, "10 @ s'MQTT' 05 06 003C [ ] s'tcu' [ 01 02 ] s'will' 0000", "PropertyNotBoolean { property: PayloadFormatIndicator, value: 2 }"),
    (V5, "10 @ s'MQTT' 05 06 003C [ ] s'tcu' [ 08 s'a/#' ] s'will' 0000", "ResponseTopicWildcard"),

    // CONNACK.
    //= test [MQTT-3.2.2-1]
    (V5, "20 @ 02 00 [ ]", "ConnAckReservedFlagsSet"),
    (V311, "20 02 80 00", "ConnAckReservedFlagsSet"),
    //= test [MQTT-3.2.2-6]
    (V5, "20 @ 01 87 [ ]", "SessionPresentWithError"),
    (V311, "20 02 01 05", "SessionPresentWithError"),
    //= test [MQTT-3.2.2-8]
    (V5, "20 @ 00 01 [ ]", "ReasonCodeNotAllowed { reason: GrantedQoS1, packet_type: 2 }"),
    (V5, "20 @ 00 FF [ ]", "ReasonCodeUnknown { byte: 255 }"),
    (V311, "20 02 00 06", "ReasonCodeUnknown { byte: 6 }"),
    (V311, "20 01 00", "Truncated"),
    (V311, "20 03 00 00 00", "TrailingBytes { bytes: 1 }"),
    (V5, "20 02 00 00", "Truncated"),
    (V5, "20 @ 00 00 [ 24 02 ]", "PropertyNotBoolean { property: MaximumQoS, value: 2 }"),
    (V5, "20 @ 00 00 [ 25 02 ]", "PropertyNotBoolean { property: RetainAvailable, value: 2 }"),
    (V5, "20 @ 00 00 [ 28 02 ]", "PropertyNotBoolean { property: WildcardSubscriptionAvailable, value: 2 }"),
    (V5, "20 @ 00 00 [ 29 02 ]", "PropertyNotBoolean { property: SubscriptionIdentifierAvailable, value: 2 }"),
    (V5, "20 @ 00 00 [ 2A 02 ]", "PropertyNotBoolean { property: SharedSubscriptionAvailable, value: 2 }"),
    (V5, "20 @ 00 00 [ 21 0000 ]", "ReceiveMaximumZero"),
    (V5, "20 @ 00 00 [ 16 s'd' ]", "AuthenticationDataWithoutMethod"),
    (V5, "20 @ 00 00 [ 17 01 ]", "PropertyNotAllowed { property: RequestProblemInformation, holder: ConnAck }"),

    // PUBLISH.
    (V311, "30 00", "Truncated"),
    (V311, "30 @ 0003 'ab'", "Truncated"),
    (V311, "32 @ s'a'", "Truncated"),
    //= test [MQTT-2.2.1-3]
    (V311, "32 @ s'a' 0000", "PacketIdZero"),
    (V5, "34 @ s'a' 0000 [ ]", "PacketIdZero"),
    //= test [MQTT-3.3.2-2]
    (V311, "30 @ s'a/+/b' 'hi'", "PublishTopicWildcard"),
    (V5, "30 @ s'a/#' [ ] 'hi'", "PublishTopicWildcard"),
    (V5, "30 @ s'a#' [ 23 0001 ]", "PublishTopicWildcard"),
    //= test [MQTT-1.5.4-2]
    (V5, "30 @ 0003 'a' 00 '+' [ ]", "StringContainsNul"),
    //= test [MQTT-1.5.4-1]
    (V5, "30 @ 0003 EDA080 [ ]", "StringNotUtf8"),
    (V5, "30 @ 0003 EDBFBF [ ]", "StringNotUtf8"),
    (V5, "30 @ 0002 C080 [ ]", "StringNotUtf8"),
    (V5, "30 @ 0004 F4908080 [ ]", "StringNotUtf8"),
    (V311, "30 @ 0002 'a' E2", "StringNotUtf8"),
    //= test [MQTT-4.7.3-1]
    (V311, "30 @ s'' 'hi'", "PublishTopicMissing"),
    (V5, "30 @ s'' [ ] 'hi'", "PublishTopicMissing"),
    (V5, "30 @ s'' [ 02 00000001 ] 'hi'", "PublishTopicMissing"),
    (V5, "30 @ s'a'", "Truncated"),
    (V5, "30 @ s'a' 02 01", "Truncated"),
    (V5, "30 @ s'a' 8000", "VariableByteIntegerNotMinimal"),
    (V5, "30 @ s'a' FFFFFFFF 01", "VariableByteIntegerTooLong"),
    (V5, "30 @ s'a' FFFFFF7F", "Truncated"),
    (V5, "30 @ s'a' 80", "Truncated"),
    //= test [MQTT-3.3.2-8]
    (V5, "30 @ s'a' [ 23 0000 ]", "TopicAliasZero"),
    (V5, "30 @ s'a' [ 23 0001 23 0001 ]", "PropertyRepeated(TopicAlias)"),
    (V5, "30 @ s'a' [ 01 00 01 00 ]", "PropertyRepeated(PayloadFormatIndicator)"),
    (V5, "30 @ s'a' [ 02 00000001 02 00000001 ]", "PropertyRepeated(MessageExpiryInterval)"),
    (V5, "30 @ s'a' [ 03 s'a' 03 s'a' ]", "PropertyRepeated(ContentType)"),
    (V5, "30 @ s'a' [ 09 s'a' 09 s'a' ]", "PropertyRepeated(CorrelationData)"),
    (V5, "30 @ s'a' [ 01 02 ]", "PropertyNotBoolean { property: PayloadFormatIndicator, value: 2 }"),
    (V5, "30 @ s'a' [ 0B 00 ]", "SubscriptionIdentifierZero"),
    (V5, "30 @ s'a' [ 0B 8100 ]", "VariableByteIntegerNotMinimal"),
    //= test [MQTT-3.3.2-14]
    (V5, "30 @ s'a' [ 08 s'a/+' ]", "ResponseTopicWildcard"),
    (V5, "30 @ s'a' [ 08 s'' ]", "ResponseTopicEmpty"),
    //= test [MQTT-3.3.2-13]
    (V5, "30 @ s'a' [ 08 0001 FF ]", "StringNotUtf8"),
    //= test [MQTT-3.3.2-19]
    (V5, "30 @ s'a' [ 03 0001 FF ]", "StringNotUtf8"),
    //= test [MQTT-1.5.7-1]
    (V5, "30 @ s'a' [ 26 0001 FF s'v' ]", "StringNotUtf8"),
    (V5, "30 @ s'a' [ 26 s'k' 0001 00 ]", "StringContainsNul"),
    (V5, "30 @ s'a' [ 26 s'k' ]", "Truncated"),
    (V5, "30 @ s'a' [ 11 00000001 ]", "PropertyNotAllowed { property: SessionExpiryInterval, holder: Publish }"),
    (V5, "30 @ s'a' [ 18 00000001 ]", "PropertyNotAllowed { property: WillDelayInterval, holder: Publish }"),
    (V5, "30 @ s'a' [ 00 ]", "PropertyUnknown { id: 0 }"),
    (V5, "30 @ s'a' [ 2B ]", "PropertyUnknown { id: 43 }"),
    (V5, "30 @ s'a' [ 8102 ]", "PropertyUnknown { id: 257 }"),
    (V5, "30 @ s'a' [ 8100 ]", "VariableByteIntegerNotMinimal"),
    // A property that reaches behind its section, although the packet goes on.
    (V5, "30 @ s'a' [ 02 0000 ] 'payload'", "Truncated"),
    (V5, "30 @ s'a' [ 03 0005 'ab' ] 'payload'", "Truncated"),

    // PUBACK, PUBREC, PUBREL, PUBCOMP.
    (V311, "40 01 00", "Truncated"),
    (V311, "40 02 0000", "PacketIdZero"),
    (V5, "62 02 0000", "PacketIdZero"),
    (V311, "40 03 0001 00", "TrailingBytes { bytes: 1 }"),
    //= test [MQTT-3.4.2-1]
    (V5, "40 03 0001 92", "ReasonCodeNotAllowed { reason: PacketIdentifierNotFound, packet_type: 4 }"),
    (V5, "40 03 0001 03", "ReasonCodeUnknown { byte: 3 }"),
    //= test [MQTT-3.5.2-1]
    (V5, "50 03 0001 01", "ReasonCodeNotAllowed { reason: GrantedQoS1, packet_type: 5 }"),
    //= test [MQTT-3.6.2-1]
    (V5, "62 03 0001 80", "ReasonCodeNotAllowed { reason: UnspecifiedError, packet_type: 6 }"),
    //= test [MQTT-3.7.2-1]
    (V5, "70 03 0001 10", "ReasonCodeNotAllowed { reason: NoMatchingSubscribers, packet_type: 7 }"),
    (V5, "40 04 0001 00 01", "Truncated"),
    (V5, "40 @ 0001 00 [ ] 00", "TrailingBytes { bytes: 1 }"),
    (V5, "40 @ 0001 00 [ 1F s'a' 1F s'a' ]", "PropertyRepeated(ReasonString)"),
    (V5, "40 @ 0001 00 [ 1C s'a' ]", "PropertyNotAllowed { property: ServerReference, holder: PubAck }"),

    // SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.
    (V311, "82 @ 0000 s'a' 00", "PacketIdZero"),
    //= test [MQTT-3.8.3-2]
    (V311, "82 @ 0001", "SubscribeWithoutFilters"),
    (V5, "82 @ 0001 [ ]", "SubscribeWithoutFilters"),
    (V5, "82 @ 0001 [ ] s'a'", "Truncated"),
    (V5, "82 @ 0001 [ ] s'a' 00 00", "Truncated"),
    //= test [MQTT-3.8.3-1]
    (V5, "82 @ 0001 [ ] 0001 FF 00", "StringNotUtf8"),
    //= test [MQTT-3.8.3-5]
    (V5, "82 @ 0001 [ ] s'a' 40", "SubscriptionOptionsReservedBitsSet"),
    (V5, "82 @ 0001 [ ] s'a' 80", "SubscriptionOptionsReservedBitsSet"),
    (V311, "82 @ 0001 s'a' 04", "SubscriptionOptionsReservedBitsSet"),
    (V311, "82 @ 0001 s'a' 03", "SubscriptionQoS3"),
    (V5, "82 @ 0001 [ ] s'a' 03", "SubscriptionQoS3"),
    (V5, "82 @ 0001 [ ] s'a' 30", "RetainHandling3"),
    //= test [MQTT-3.8.3-4]
    (V5, "82 @ 0001 [ ] s'$share/g/a' 04", "NoLocalOnSharedSubscription"),
    (V5, "82 @ 0001 [ 0B 00 ] s'a' 00", "SubscriptionIdentifierZero"),
    (V5, "82 @ 0001 [ 0B 01 0B 01 ] s'a' 00", "PropertyRepeated(SubscriptionIdentifier)"),
    (V5, "82 @ 0001 [ 1F s'x' ] s'a' 00", "PropertyNotAllowed { property: ReasonString, holder: Subscribe }"),
    (V311, "90 @ 0001", "ReasonCodesMissing"),
    (V311, "90 @ 0001 03", "ReasonCodeUnknown { byte: 3 }"),
    (V311, "90 @ 0001 87", "ReasonCodeUnknown { byte: 135 }"),
    //= test [MQTT-3.9.3-2]
    (V5, "90 @ 0001 [ ] 11", "ReasonCodeNotAllowed { reason: NoSubscriptionExisted, packet_type: 9 }"),
    (V5, "90 @ 0001 [ ]", "ReasonCodesMissing"),
    (V311, "A2 @ 0000 s'a'", "PacketIdZero"),
    //= test [MQTT-3.10.3-2]
    (V311, "A2 @ 0001", "UnsubscribeWithoutFilters"),
    (V5, "A2 @ 0001 [ ]", "UnsubscribeWithoutFilters"),
    //= test [MQTT-3.10.3-1]
    (V5, "A2 @ 0001 [ ] 0001 FF", "StringNotUtf8"),
    (V5, "A2 @ 0001 [ 0B 01 ] s'a'", "PropertyNotAllowed { property: SubscriptionIdentifier, holder: Unsubscribe }"),
    (V5, "A2 @ 0001 [ 1F s'x' ] s'a'", "PropertyNotAllowed { property: ReasonString, holder: Unsubscribe }"),
    (V311, "B0 03 0001 00", "TrailingBytes { bytes: 1 }"),
    //= test [MQTT-3.11.3-2]
    (V5, "B0 @ 0001 [ ] 01", "ReasonCodeNotAllowed { reason: GrantedQoS1, packet_type: 11 }"),
    (V5, "B0 @ 0001 [ ]", "ReasonCodesMissing"),

    // PINGREQ, PINGRESP, DISCONNECT, AUTH.
    (V311, "C0 01 00", "TrailingBytes { bytes: 1 }"),
    (V5, "D0 02 0000", "TrailingBytes { bytes: 2 }"),
    (V311, "E0 01 00", "TrailingBytes { bytes: 1 }"),
    //= test [MQTT-3.14.2-1]
    (V5, "E0 01 01", "ReasonCodeNotAllowed { reason: GrantedQoS1, packet_type: 14 }"),
    (V5, "E0 01 05", "ReasonCodeUnknown { byte: 5 }"),
    (V5, "E0 02 00 01", "Truncated"),
    (V5, "E0 @ 00 [ 15 s'm' ]", "PropertyNotAllowed { property: AuthenticationMethod, holder: Disconnect }"),
    //= test [MQTT-3.15.2-1]
    (V5, "F0 @ 87 [ 15 s'm' ]", "ReasonCodeNotAllowed { reason: NotAuthorized, packet_type: 15 }"),
    (V5, "F0 @ 18 [ ]", "AuthenticationMethodMissing"),
    (V5, "F0 @ 00 [ 1F s'x' ]", "AuthenticationMethodMissing"),
    (V5, "F0 @ 18 [ 16 s'd' ]", "AuthenticationMethodMissing"),
    (V5, "F0 @ 18 [ 15 s'm' 15 s'm' ]", "PropertyRepeated(AuthenticationMethod)"),
    (V5, "F0 01 18", "Truncated"),
];
