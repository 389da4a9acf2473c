//! Everything that can be wrong with bytes or packets, each with its own name, and the one place that maps each to the
//! reason code the specification asks for.
//!
//! It never says what becomes of a connection: that is decided by who reads the code.

use crate::{PropertyHolder, PropertyId, ReasonCode};

/// Why bytes are not a packet. See [`DecodeError::reason`] for what the peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A packet of more bytes than this end accepts.
    #[error("packet of {bytes} bytes is larger than the maximum of {bytes_max}")]
    PacketTooLarge {
        /// Fixed header included.
        bytes: u64,
        /// The limit it broke.
        bytes_max: u32,
    },
    /// The caller handed over a body that is not the one the frame describes. No peer can cause it.
    #[error("body of {actual} bytes given for a frame of {expected}")]
    BodyLengthMismatch {
        /// Bytes the frame announces.
        expected: usize,
        /// Bytes handed over.
        actual: usize,
    },

    // Fixed header.
    /// Packet type 0.
    #[error("packet type 0 is reserved")]
    PacketTypeReserved,
    /// Fixed-header flags other than the type prescribes.
    #[error("flags {flags:#06b} are not those of packet type {packet_type}")]
    ReservedFlagsSet {
        /// 1 (CONNECT) to 15 (AUTH).
        packet_type: u8,
        /// The lower half of the first byte.
        flags: u8,
    },
    /// QoS bits 11.
    #[error("PUBLISH has QoS 3")]
    PublishQoS3,
    /// A message without acknowledgement cannot be sent again.
    #[error("PUBLISH has DUP set with QoS 0")]
    PublishDupWithQoS0,
    /// More than four bytes.
    #[error("remaining length takes more than four bytes")]
    RemainingLengthTooLong,
    /// Padded with zeroes.
    #[error("remaining length is not in its shortest form")]
    RemainingLengthNotMinimal,
    /// AUTH exists from 5.0 on.
    #[error("AUTH on a connection older than MQTT 5.0")]
    AuthBeforeV5,

    // Fields.
    /// A field, or a length that was announced, reaches behind the end of the packet.
    #[error("packet ends inside a field")]
    Truncated,
    /// Something follows the last field.
    #[error("{bytes} bytes follow the last field")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// More than four bytes.
    #[error("variable byte integer takes more than four bytes")]
    VariableByteIntegerTooLong,
    /// Padded with zeroes.
    #[error("variable byte integer is not in its shortest form")]
    VariableByteIntegerNotMinimal,
    /// Not UTF-8 as in RFC 3629.
    #[error("string is not UTF-8")]
    StringNotUtf8,
    /// U+0000 in a string.
    #[error("string contains the character U+0000")]
    StringContainsNul,
    /// Packet identifier 0.
    #[error("packet identifier is zero")]
    PacketIdZero,

    // CONNECT.
    /// Neither `MQTT` nor `MQIsdp`.
    #[error("protocol name is not known")]
    ProtocolNameUnknown,
    /// A level that the protocol name does not have.
    #[error("protocol level {level} is not known")]
    ProtocolLevelUnknown {
        /// As sent.
        level: u8,
    },
    /// Bit 0 of the connect flags.
    #[error("reserved connect flag is set")]
    ConnectReservedFlagSet,
    /// Will QoS or will retain without the will flag.
    #[error("will QoS or will retain is set without the will flag")]
    WillFlagsWithoutWill,
    /// Will QoS bits 11.
    #[error("will has QoS 3")]
    WillQoS3,
    /// Forbidden before 5.0.
    #[error("password without a user name")]
    PasswordWithoutUserName,
    /// The will topic has no character.
    #[error("will topic is empty")]
    WillTopicEmpty,
    /// The will topic holds `+` or `#`.
    #[error("will topic contains a wildcard")]
    WillTopicWildcard,

    // CONNACK.
    /// Bits 7 to 1 of the acknowledge flags.
    #[error("reserved acknowledge flags are set")]
    ConnAckReservedFlagsSet,
    /// A refusal claims a session.
    #[error("session present together with a refusal")]
    SessionPresentWithError,

    // PUBLISH.
    /// The topic holds `+` or `#`.
    #[error("topic contains a wildcard")]
    PublishTopicWildcard,
    /// The topic is empty and no alias stands for it.
    #[error("topic is empty and there is no topic alias")]
    PublishTopicMissing,

    // SUBSCRIBE and what belongs to it.
    /// No filter at all.
    #[error("SUBSCRIBE without a filter")]
    SubscribeWithoutFilters,
    /// Reserved bits of the subscription options.
    #[error("reserved bits of the subscription options are set")]
    SubscriptionOptionsReservedBitsSet,
    /// Maximum QoS 3.
    #[error("subscription asks for QoS 3")]
    SubscriptionQoS3,
    /// Retain handling 3.
    #[error("retain handling is 3")]
    RetainHandling3,
    /// No Local on `$share/...`.
    #[error("no local on a shared subscription")]
    NoLocalOnSharedSubscription,
    /// No filter at all.
    #[error("UNSUBSCRIBE without a filter")]
    UnsubscribeWithoutFilters,
    /// SUBACK or UNSUBACK answers nothing.
    #[error("acknowledgement without a reason code")]
    ReasonCodesMissing,

    // Reason codes.
    /// A number that names no reason code (3.x: no return code).
    #[error("reason code {byte:#04x} is not known")]
    ReasonCodeUnknown {
        /// As sent.
        byte: u8,
    },
    /// A reason code of other packets.
    #[error("reason code {reason} does not belong in packet type {packet_type}")]
    ReasonCodeNotAllowed {
        /// As sent.
        reason: ReasonCode,
        /// 1 (CONNECT) to 15 (AUTH).
        packet_type: u8,
    },

    // Properties.
    /// A number that names no property.
    #[error("property {id:#04x} is not known")]
    PropertyUnknown {
        /// As sent.
        id: u32,
    },
    /// A property of other packets.
    #[error("property {property:?} does not belong in {holder:?}")]
    PropertyNotAllowed {
        /// As sent.
        property: PropertyId,
        /// Where it was found.
        holder: PropertyHolder,
    },
    /// A property that may occur once occurs twice.
    #[error("property {0:?} occurs twice")]
    PropertyRepeated(PropertyId),
    /// A property of one byte that has to be 0 or 1.
    #[error("property {property:?} is {value}, neither 0 nor 1")]
    PropertyNotBoolean {
        /// Which.
        property: PropertyId,
        /// As sent.
        value: u8,
    },
    /// Receive Maximum 0.
    #[error("receive maximum is zero")]
    ReceiveMaximumZero,
    /// Maximum Packet Size 0.
    #[error("maximum packet size is zero")]
    MaximumPacketSizeZero,
    /// Topic Alias 0.
    #[error("topic alias is zero")]
    TopicAliasZero,
    /// Subscription Identifier 0.
    #[error("subscription identifier is zero")]
    SubscriptionIdentifierZero,
    /// The response topic has no character.
    #[error("response topic is empty")]
    ResponseTopicEmpty,
    /// The response topic holds `+` or `#`.
    #[error("response topic contains a wildcard")]
    ResponseTopicWildcard,
    /// Authentication Data without Authentication Method.
    #[error("authentication data without an authentication method")]
    AuthenticationDataWithoutMethod,
    /// AUTH that says more than plain success has to name its method.
    #[error("AUTH without an authentication method")]
    AuthenticationMethodMissing,
}

impl DecodeError {
    /// What the peer is told, in 5.0 terms.
    pub const fn reason(self) -> ReasonCode {
        use DecodeError::*;
        match self {
            PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            BodyLengthMismatch { .. } => ReasonCode::ImplementationSpecificError,
            //= [MQTT-3.1.2-1] another protocol name is answered with 0x84
            //= [MQTT-3.1.2-2] so is another level
            ProtocolNameUnknown | ProtocolLevelUnknown { .. } => ReasonCode::UnsupportedProtocolVersion,
            PublishTopicWildcard | WillTopicEmpty | WillTopicWildcard => ReasonCode::TopicNameInvalid,
            TopicAliasZero => ReasonCode::TopicAliasInvalid,
            PacketTypeReserved
            | ReservedFlagsSet { .. }
            | PublishQoS3
            | PublishDupWithQoS0
            | RemainingLengthTooLong
            | RemainingLengthNotMinimal
            | Truncated
            | TrailingBytes { .. }
            | VariableByteIntegerTooLong
            | VariableByteIntegerNotMinimal
            | StringNotUtf8
            | StringContainsNul
            | ConnectReservedFlagSet
            | WillFlagsWithoutWill
            | WillQoS3
            | PasswordWithoutUserName
            | ConnAckReservedFlagsSet
            | SubscriptionOptionsReservedBitsSet
            | ReasonCodeUnknown { .. }
            | PropertyUnknown { .. }
            | PropertyNotAllowed { .. } => ReasonCode::MalformedPacket,
            AuthBeforeV5
            | PacketIdZero
            | SessionPresentWithError
            | PublishTopicMissing
            | SubscribeWithoutFilters
            | SubscriptionQoS3
            | RetainHandling3
            | NoLocalOnSharedSubscription
            | UnsubscribeWithoutFilters
            | ReasonCodesMissing
            | ReasonCodeNotAllowed { .. }
            | PropertyRepeated(_)
            | PropertyNotBoolean { .. }
            | ReceiveMaximumZero
            | MaximumPacketSizeZero
            | SubscriptionIdentifierZero
            | ResponseTopicEmpty
            | ResponseTopicWildcard
            | AuthenticationDataWithoutMethod
            | AuthenticationMethodMissing => ReasonCode::ProtocolError,
        }
    }
}

/// Why a packet cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string or binary field of more than 65,535 bytes.
    #[error("field of {0} bytes is longer than 65,535")]
    FieldTooLong(usize),
    /// A packet of more than 268,435,455 bytes.
    #[error("packet of {0} bytes is longer than MQTT can frame")]
    PacketTooLong(usize),
    /// A PUBLISH with QoS above 0 needs a packet identifier.
    #[error("PUBLISH with QoS above 0 has no packet identifier")]
    PacketIdMissing,
    /// A PUBLISH with QoS 0 has no place for a packet identifier.
    #[error("PUBLISH with QoS 0 has a packet identifier")]
    PacketIdUnexpected,
    /// Zero, or more than 268,435,455.
    #[error("subscription identifier {0} is out of range")]
    SubscriptionIdentifierOutOfRange(u32),
    /// AUTH exists from 5.0 on.
    #[error("AUTH cannot be sent before MQTT 5.0")]
    AuthBeforeV5,
    /// 3.x has no password without a user name.
    #[error("password without a user name cannot be sent before MQTT 5.0")]
    PasswordWithoutUserName,
    /// Fields given to be forwarded break a rule of properties.
    #[error("forwarded properties are not valid: {0}")]
    ForwardedInvalid(DecodeError),
}
