//! MQTT 3.1, 3.1.1 and 5.0 on the wire.
//!
//! Owns the translation between bytes and [`Packet`]s, the names of everything that can be wrong with either, and the
//! rules of topic names and filters. It is incremental and borrows from the caller's buffer: decoding a PUBLISH
//! allocates nothing. It never knows sessions, vehicles, sockets, clocks or files, and never panics on bytes.

mod decode;
mod encode;
mod error;
mod forwarded;
mod packet;
mod property;
mod publish_head;
mod reason;
mod topic;
mod wire;

pub use decode::{Frame, decode, frame};
pub use encode::encode;
pub use error::{DecodeError, EncodeError};
pub use forwarded::{ForwardedBuilder, ForwardedProperties};
pub use packet::*;
pub use property::{PropertyHolder, PropertyId, PropertyType};
pub use publish_head::{PublishHead, encode_publish_head};
pub use reason::ReasonCode;
pub use topic::{
    FilterError, SharedFilter, TopicError, check_topic_filter, check_topic_levels, check_topic_name, filter_matches,
    parse_shared,
};
