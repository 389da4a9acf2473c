//! The properties of MQTT 5.0 (section 2.2.2): their numbers, types, homes and value ranges.
//!
//! Owns reading one property with all its checks. It never decides what a property does to a packet.

use std::num::NonZeroU16;

use crate::wire::Reader;
use crate::{DecodeError, QoS};

/// The identifier of a property, with the specification's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum PropertyId {
    PayloadFormatIndicator = 0x01,
    MessageExpiryInterval = 0x02,
    ContentType = 0x03,
    ResponseTopic = 0x08,
    CorrelationData = 0x09,
    SubscriptionIdentifier = 0x0B,
    SessionExpiryInterval = 0x11,
    AssignedClientIdentifier = 0x12,
    ServerKeepAlive = 0x13,
    AuthenticationMethod = 0x15,
    AuthenticationData = 0x16,
    RequestProblemInformation = 0x17,
    WillDelayInterval = 0x18,
    RequestResponseInformation = 0x19,
    ResponseInformation = 0x1A,
    ServerReference = 0x1C,
    ReasonString = 0x1F,
    ReceiveMaximum = 0x21,
    TopicAliasMaximum = 0x22,
    TopicAlias = 0x23,
    MaximumQoS = 0x24,
    RetainAvailable = 0x25,
    UserProperty = 0x26,
    MaximumPacketSize = 0x27,
    WildcardSubscriptionAvailable = 0x28,
    SubscriptionIdentifierAvailable = 0x29,
    SharedSubscriptionAvailable = 0x2A,
}

/// The data type of a property's value (section 1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum PropertyType {
    Byte,
    TwoByteInteger,
    FourByteInteger,
    VariableByteInteger,
    Utf8String,
    Utf8StringPair,
    BinaryData,
}

/// Where a set of properties stands: in a packet (numbered as its type), in the will of a CONNECT, or on its own as
/// what is forwarded of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum PropertyHolder {
    Will = 0,
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    Disconnect = 14,
    Auth = 15,
    Forwarded = 16,
}

impl PropertyId {
    /// All of them, by number.
    pub const ALL: [PropertyId; 27] = {
        use PropertyId::*;
        [
            PayloadFormatIndicator,
            MessageExpiryInterval,
            ContentType,
            ResponseTopic,
            CorrelationData,
            SubscriptionIdentifier,
            SessionExpiryInterval,
            AssignedClientIdentifier,
            ServerKeepAlive,
            AuthenticationMethod,
            AuthenticationData,
            RequestProblemInformation,
            WillDelayInterval,
            RequestResponseInformation,
            ResponseInformation,
            ServerReference,
            ReasonString,
            ReceiveMaximum,
            TopicAliasMaximum,
            TopicAlias,
            MaximumQoS,
            RetainAvailable,
            UserProperty,
            MaximumPacketSize,
            WildcardSubscriptionAvailable,
            SubscriptionIdentifierAvailable,
            SharedSubscriptionAvailable,
        ]
    };

    /// The property with this number, if there is one.
    #[inline]
    pub const fn from_byte(byte: u8) -> Option<PropertyId> {
        use PropertyId::*;
        Some(match byte {
            0x01 => PayloadFormatIndicator,
            0x02 => MessageExpiryInterval,
            0x03 => ContentType,
            0x08 => ResponseTopic,
            0x09 => CorrelationData,
            0x0B => SubscriptionIdentifier,
            0x11 => SessionExpiryInterval,
            0x12 => AssignedClientIdentifier,
            0x13 => ServerKeepAlive,
            0x15 => AuthenticationMethod,
            0x16 => AuthenticationData,
            0x17 => RequestProblemInformation,
            0x18 => WillDelayInterval,
            0x19 => RequestResponseInformation,
            0x1A => ResponseInformation,
            0x1C => ServerReference,
            0x1F => ReasonString,
            0x21 => ReceiveMaximum,
            0x22 => TopicAliasMaximum,
            0x23 => TopicAlias,
            0x24 => MaximumQoS,
            0x25 => RetainAvailable,
            0x26 => UserProperty,
            0x27 => MaximumPacketSize,
            0x28 => WildcardSubscriptionAvailable,
            0x29 => SubscriptionIdentifierAvailable,
            0x2A => SharedSubscriptionAvailable,
            _ => return None,
        })
    }

    /// The type of its value.
    #[inline]
    pub const fn value_type(self) -> PropertyType {
        use PropertyId::*;
        match self {
            PayloadFormatIndicator
            | RequestProblemInformation
            | RequestResponseInformation
            | MaximumQoS
            | RetainAvailable
            | WildcardSubscriptionAvailable
            | SubscriptionIdentifierAvailable
            | SharedSubscriptionAvailable => PropertyType::Byte,
            ServerKeepAlive | ReceiveMaximum | TopicAliasMaximum | TopicAlias => PropertyType::TwoByteInteger,
            MessageExpiryInterval | SessionExpiryInterval | WillDelayInterval | MaximumPacketSize => {
                PropertyType::FourByteInteger
            }
            SubscriptionIdentifier => PropertyType::VariableByteInteger,
            ContentType
            | ResponseTopic
            | AssignedClientIdentifier
            | AuthenticationMethod
            | ResponseInformation
            | ServerReference
            | ReasonString => PropertyType::Utf8String,
            UserProperty => PropertyType::Utf8StringPair,
            CorrelationData | AuthenticationData => PropertyType::BinaryData,
        }
    }

    /// One bit for each [`PropertyHolder`] that may hold it.
    const fn holders(self) -> u32 {
        use PropertyHolder::*;
        use PropertyId::*;
        const fn of<const N: usize>(holders: [PropertyHolder; N]) -> u32 {
            let mut bits = 0;
            let mut index = 0;
            while index < N {
                bits |= 1 << holders[index] as u32;
                index += 1;
            }
            bits
        }
        match self {
            PayloadFormatIndicator | ContentType | ResponseTopic | CorrelationData => of([Publish, Will, Forwarded]),
            MessageExpiryInterval => of([Publish, Will]),
            SubscriptionIdentifier => of([Publish, Subscribe]),
            SessionExpiryInterval => of([Connect, ConnAck, Disconnect]),
            AuthenticationMethod | AuthenticationData => of([Connect, ConnAck, Auth]),
            WillDelayInterval => of([Will]),
            RequestProblemInformation | RequestResponseInformation => of([Connect]),
            ServerReference => of([ConnAck, Disconnect]),
            ReasonString => {
                of([ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, PropertyHolder::Auth])
            }
            ReceiveMaximum | TopicAliasMaximum | MaximumPacketSize => of([Connect, ConnAck]),
            TopicAlias => of([Publish]),
            AssignedClientIdentifier
            | ServerKeepAlive
            | ResponseInformation
            | MaximumQoS
            | RetainAvailable
            | WildcardSubscriptionAvailable
            | SubscriptionIdentifierAvailable
            | SharedSubscriptionAvailable => of([ConnAck]),
            UserProperty => u32::MAX,
        }
    }

    /// Whether it may stand there (table 2-4 of the specification).
    #[inline]
    pub const fn is_allowed_in(self, holder: PropertyHolder) -> bool {
        self.holders() >> holder as u32 & 1 == 1
    }

    /// Whether it may occur more than once there.
    #[inline]
    pub const fn is_repeatable_in(self, holder: PropertyHolder) -> bool {
        match self {
            PropertyId::UserProperty => true,
            PropertyId::SubscriptionIdentifier => matches!(holder, PropertyHolder::Publish),
            _ => false,
        }
    }

    /// Whether it travels on with the message from publisher to subscriber, unaltered.
    #[inline]
    pub const fn is_forwarded(self) -> bool {
        self.is_allowed_in(PropertyHolder::Forwarded)
    }
}

/// One property, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Property<'a> {
    PayloadFormatIndicator(u8),
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(u32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// The properties of one holder, read one after the other.
pub(crate) struct Properties<'a> {
    reader: Reader<'a>,
    holder: PropertyHolder,
    seen: u64,
}

impl<'a> Properties<'a> {
    /// The property section (length and all) at the front of `reader`, which moves behind it.
    #[inline]
    pub(crate) fn section(reader: &mut Reader<'a>, holder: PropertyHolder) -> Result<Self, DecodeError> {
        let bytes = reader.variable_byte_integer()?;
        Ok(Properties::new(reader.take(bytes as usize)?, holder))
    }

    #[inline]
    pub(crate) const fn new(bytes: &'a [u8], holder: PropertyHolder) -> Self {
        Properties { reader: Reader::new(bytes), holder, seen: 0 }
    }

    /// Bytes not read yet.
    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(PropertyId, Property<'a>)>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.next_id()?;
        Ok(Some((id, read_value(&mut self.reader, id)?)))
    }

    /// The error for a property that its holder has no use for.
    #[cold]
    pub(crate) const fn not_allowed(&self, property: PropertyId) -> DecodeError {
        DecodeError::PropertyNotAllowed { property, holder: self.holder }
    }

    #[inline]
    fn next_id(&mut self) -> Result<PropertyId, DecodeError> {
        let number = self.reader.variable_byte_integer()?;
        let id = u8::try_from(number)
            .ok()
            .and_then(PropertyId::from_byte)
            .ok_or(DecodeError::PropertyUnknown { id: number })?;
        if !id.is_allowed_in(self.holder) {
            return Err(self.not_allowed(id));
        }
        let bit = 1 << id as u8;
        if self.seen & bit != 0 && !id.is_repeatable_in(self.holder) {
            return Err(DecodeError::PropertyRepeated(id));
        }
        self.seen |= bit;
        Ok(id)
    }
}

#[inline]
fn read_value<'a>(reader: &mut Reader<'a>, id: PropertyId) -> Result<Property<'a>, DecodeError> {
    use Property as P;
    Ok(match id {
        PropertyId::PayloadFormatIndicator => P::PayloadFormatIndicator(u8::from(boolean(reader, id)?)),
        PropertyId::MessageExpiryInterval => P::MessageExpiryInterval(reader.four_byte_integer()?),
        PropertyId::ContentType => P::ContentType(reader.string()?),
        PropertyId::ResponseTopic => P::ResponseTopic(response_topic(reader)?),
        PropertyId::CorrelationData => P::CorrelationData(reader.binary()?),
        PropertyId::SubscriptionIdentifier => match reader.variable_byte_integer()? {
            0 => return Err(DecodeError::SubscriptionIdentifierZero),
            identifier => P::SubscriptionIdentifier(identifier),
        },
        PropertyId::SessionExpiryInterval => P::SessionExpiryInterval(reader.four_byte_integer()?),
        PropertyId::AssignedClientIdentifier => P::AssignedClientIdentifier(reader.string()?),
        PropertyId::ServerKeepAlive => P::ServerKeepAlive(reader.two_byte_integer()?),
        PropertyId::AuthenticationMethod => P::AuthenticationMethod(reader.string()?),
        PropertyId::AuthenticationData => P::AuthenticationData(reader.binary()?),
        PropertyId::RequestProblemInformation => P::RequestProblemInformation(boolean(reader, id)?),
        PropertyId::WillDelayInterval => P::WillDelayInterval(reader.four_byte_integer()?),
        PropertyId::RequestResponseInformation => P::RequestResponseInformation(boolean(reader, id)?),
        PropertyId::ResponseInformation => P::ResponseInformation(reader.string()?),
        PropertyId::ServerReference => P::ServerReference(reader.string()?),
        PropertyId::ReasonString => P::ReasonString(reader.string()?),
        PropertyId::ReceiveMaximum => match reader.two_byte_integer()? {
            0 => return Err(DecodeError::ReceiveMaximumZero),
            maximum => P::ReceiveMaximum(maximum),
        },
        PropertyId::TopicAliasMaximum => P::TopicAliasMaximum(reader.two_byte_integer()?),
        //= [MQTT-3.3.2-8] topic alias 0 does not exist
        PropertyId::TopicAlias => {
            P::TopicAlias(NonZeroU16::new(reader.two_byte_integer()?).ok_or(DecodeError::TopicAliasZero)?)
        }
        PropertyId::MaximumQoS => P::MaximumQoS(if boolean(reader, id)? { QoS::AtLeastOnce } else { QoS::AtMostOnce }),
        PropertyId::RetainAvailable => P::RetainAvailable(boolean(reader, id)?),
        //= [MQTT-1.5.7-1] name and value are strings like any other
        PropertyId::UserProperty => P::User(reader.string()?, reader.string()?),
        PropertyId::MaximumPacketSize => match reader.four_byte_integer()? {
            0 => return Err(DecodeError::MaximumPacketSizeZero),
            bytes => P::MaximumPacketSize(bytes),
        },
        PropertyId::WildcardSubscriptionAvailable => P::WildcardSubscriptionAvailable(boolean(reader, id)?),
        PropertyId::SubscriptionIdentifierAvailable => P::SubscriptionIdentifierAvailable(boolean(reader, id)?),
        PropertyId::SharedSubscriptionAvailable => P::SharedSubscriptionAvailable(boolean(reader, id)?),
    })
}

#[inline]
fn boolean(reader: &mut Reader<'_>, property: PropertyId) -> Result<bool, DecodeError> {
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(DecodeError::PropertyNotBoolean { property, value }),
    }
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    //= [MQTT-3.3.2-13] a string
    //= [MQTT-3.3.2-14] without wildcards
    let topic = reader.topic_name().map_err(|error| error.with_wildcard_as(DecodeError::ResponseTopicWildcard))?;
    //= [MQTT-4.7.3-1] and, being a topic name, not empty
    if topic.is_empty() { Err(DecodeError::ResponseTopicEmpty) } else { Ok(topic) }
}

/// Moves over one property in bytes that were checked before; `None` at their end (or at anything unexpected).
pub(crate) fn skip_checked<'a>(rest: &mut &'a [u8]) -> Option<(PropertyId, &'a [u8])> {
    let all = *rest;
    let id = PropertyId::from_byte(*all.first()?)?;
    let two_byte_length = |at: usize| -> Option<usize> {
        let bytes = all.get(at..)?.first_chunk::<2>()?;
        Some(2 + usize::from(u16::from_be_bytes(*bytes)))
    };
    let bytes = 1 + match id.value_type() {
        PropertyType::Byte => 1,
        PropertyType::TwoByteInteger => 2,
        PropertyType::FourByteInteger => 4,
        PropertyType::VariableByteInteger => all.iter().skip(1).take_while(|&&byte| byte & 0x80 != 0).count() + 1,
        PropertyType::Utf8String | PropertyType::BinaryData => two_byte_length(1)?,
        PropertyType::Utf8StringPair => {
            let name = two_byte_length(1)?;
            name + two_byte_length(1 + name)?
        }
    };
    let (property, behind) = all.split_at_checked(bytes)?;
    *rest = behind;
    Some((id, property))
}
