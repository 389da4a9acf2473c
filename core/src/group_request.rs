//! A command that a client requests of a group.
//!
//! Owns the words only. The rest of the broker makes it many commands; until it has it on the disk, the shard keeps the acknowledgement back.

use std::sync::Arc;

use bytes::Bytes;
use causeway_fleet::Principal;
use causeway_protocol::PacketId;

use crate::{ConnectionId, Millis};

/// A request that came in a message of QoS 1 or 2, from somebody who may. Answered by [`crate::Shard::group_command_taken`].
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRequest {
    /// The shard it came to.
    pub shard: u16,
    /// Whose message it is, for the answer.
    pub connection: ConnectionId,
    /// Which message it is, for the answer.
    pub packet_id: PacketId,
    /// The client identifier.
    pub client_id: Arc<str>,
    /// Whether the client says that it sent the message before.
    pub is_again: bool,
    /// Who requests it.
    pub by: Principal,
    /// The group.
    pub group: Box<str>,
    /// The command's name.
    pub name: Box<str>,
    /// What each vehicle is sent.
    pub payload: Bytes,
    /// What the payload is.
    pub content_type: Option<Box<str>>,
    /// Where outcomes go.
    pub response_topic: Box<str>,
    /// With which words.
    pub correlation_data: Option<Box<[u8]>>,
    /// When it is over for all vehicles.
    pub deadline: Option<Millis>,
    /// Requests with the same one are one.
    pub key: Option<Box<str>>,
    /// Whether it is over at once for a vehicle that can't have it at once.
    pub is_now_or_never: bool,
    /// The value of the user property `rate`.
    pub rate: Option<Box<str>>,
}
