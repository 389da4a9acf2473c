//! The packets of MQTT as values that borrow from the bytes they were read from.
//!
//! Owns the shapes only: what may stand where is checked by the decoder. Field names are the specification's; units
//! come last. `Default` of every packet is the one without options.

use crate::{ForwardedProperties, ReasonCode};

/// The protocol a connection speaks, as announced in its CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// MQTT 3.1 (protocol name `MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (level 4).
    V311,
    /// MQTT 5.0 (level 5).
    V5,
}

/// Quality of service of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// Fire and forget.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged by PUBACK; may arrive more than once.
    AtLeastOnce = 1,
    /// Acknowledged by PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The quality of service of two bits, or `None` for the forbidden value 3.
    pub const fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier; never zero.
pub type PacketId = std::num::NonZeroU16;

/// Pairs of user properties in the order of the wire.
pub type UserProperties<'a> = Vec<(&'a str, &'a str)>;

/// Any MQTT control packet.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Packet<'a> {
    Connect(Box<Connect<'a>>),
    ConnAck(Box<ConnAck<'a>>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq)]
pub struct Connect<'a> {
    /// Protocol name and level together.
    pub version: ProtocolVersion,
    /// Clean Start (5.0) or Clean Session (3.x).
    pub clean_start: bool,
    /// Keep Alive; zero means none.
    pub keep_alive_seconds: u16,
    /// May be empty where the version allows it.
    pub client_id: &'a str,
    /// The will, if the will flag is set.
    pub will: Option<Will<'a>>,
    /// User name, if its flag is set.
    pub username: Option<&'a str>,
    /// Password, if its flag is set.
    pub password: Option<&'a [u8]>,
    /// 5.0 properties; the default for 3.x.
    pub properties: ConnectProperties<'a>,
}

/// Properties of CONNECT; `None` means absent.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct ConnectProperties<'a> {
    pub session_expiry_interval_seconds: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_packet_size_bytes: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub user_properties: UserProperties<'a>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
}

/// The will inside a CONNECT.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Will<'a> {
    pub qos: QoS,
    pub retain: bool,
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// Will Delay Interval; `None` means zero.
    pub delay_interval_seconds: Option<u32>,
    pub message_expiry_interval_seconds: Option<u32>,
    /// Everything that travels on with the message: payload format, content type, response topic, correlation data,
    /// user properties.
    pub forwarded: ForwardedProperties<'a>,
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnAck<'a> {
    /// Session Present.
    pub session_present: bool,
    /// In 5.0 terms; the encoder translates for 3.x.
    pub reason: ReasonCode,
    /// 5.0 properties.
    pub properties: ConnAckProperties<'a>,
}

/// Properties of CONNACK; `None` means absent.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct ConnAckProperties<'a> {
    pub session_expiry_interval_seconds: Option<u32>,
    pub receive_maximum: Option<u16>,
    /// 0 or 1 where the server does not do QoS 2.
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size_bytes: Option<u32>,
    pub assigned_client_identifier: Option<&'a str>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive_seconds: Option<u16>,
    pub response_information: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Publish<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// Empty only where a topic alias stands for it.
    pub topic: &'a str,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    pub properties: PublishProperties<'a>,
    pub payload: &'a [u8],
}

/// Properties of PUBLISH.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PublishProperties<'a> {
    /// Message Expiry Interval.
    pub message_expiry_interval_seconds: Option<u32>,
    /// Topic Alias; never zero.
    pub topic_alias: Option<std::num::NonZeroU16>,
    /// Subscription Identifiers, in the order of the wire. Only a server sends them; the decoder accepts them, and who
    /// plays the server refuses them.
    pub subscription_identifiers: Vec<u32>,
    /// Everything that is forwarded unaltered.
    pub forwarded: ForwardedProperties<'a>,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Ack<'a> {
    pub packet_id: PacketId,
    /// Always `Success` from a 3.x peer.
    pub reason: ReasonCode,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
}

impl Ack<'_> {
    /// An acknowledgement with nothing but a reason.
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Ack { packet_id, reason, reason_string: None, user_properties: Vec::new() }
    }
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Subscribe<'a> {
    pub packet_id: PacketId,
    pub subscription_identifier: Option<u32>,
    pub user_properties: UserProperties<'a>,
    /// At least one.
    pub filters: Vec<(&'a str, SubscriptionOptions)>,
}

/// Options of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct SubscriptionOptions {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent at subscribe time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE (0).
    #[default]
    Always = 0,
    /// Only where the subscription did not exist (1).
    IfNew = 1,
    /// Never (2).
    Never = 2,
}

/// SUBACK: one reason for each filter, in 5.0 terms; the encoder translates for 3.x.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct SubAck<'a> {
    pub packet_id: PacketId,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Unsubscribe<'a> {
    pub packet_id: PacketId,
    pub user_properties: UserProperties<'a>,
    /// At least one.
    pub filters: Vec<&'a str>,
}

/// UNSUBACK: one reason for each filter; a 3.x UNSUBACK carries none.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct UnsubAck<'a> {
    pub packet_id: PacketId,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT. A server never sends one to a 3.x client.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Disconnect<'a> {
    pub reason: ReasonCode,
    pub session_expiry_interval_seconds: Option<u32>,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
    pub server_reference: Option<&'a str>,
}

/// AUTH (5.0 only).
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Auth<'a> {
    /// `Success`, `ContinueAuthentication` or `ReAuthenticate`.
    pub reason: ReasonCode,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
}
