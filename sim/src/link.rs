//! One connection: bytes on their way in both directions.
//!
//! Owns their order, which never changes within a connection, and the places where it can break. Knows no packets but for
//! topic aliases.

use std::collections::BTreeMap;

use causeway_core::ConnectionId;
use causeway_protocol::{DecodeError, Frame, Packet, ProtocolVersion, frame};

use crate::oracle::state::ClientIndex;

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: ClientIndex,
    pub(crate) version: ProtocolVersion,
    /// What the broker calls it, once CONNECT was accepted.
    pub(crate) connection: Option<ConnectionId>,
    /// The session it was given.
    pub(crate) epoch: u64,
    /// From the client: on the way, and arrived.
    pub(crate) up: Vec<u8>,
    pub(crate) arrived: Vec<u8>,
    /// To the client: on the way, and arrived.
    pub(crate) down: Vec<u8>,
    pub(crate) received: Vec<u8>,
    /// Bytes of the outbox that were looked at and not taken.
    pub(crate) observed: usize,
    /// The outbox is not taken at once.
    pub(crate) is_slow: bool,
    /// Neither end can send any more; each learns of it once it has what is left.
    pub(crate) is_cut: bool,
    pub(crate) client_left: bool,
    pub(crate) broker_left: bool,
    /// The broker wants it closed.
    pub(crate) is_closing: bool,
    /// What the broker's aliases stand for, as seen at its outbox and at the client.
    pub(crate) aliases: [BTreeMap<u16, String>; 2],
}

impl Link {
    pub(crate) fn new(client: ClientIndex, version: ProtocolVersion, is_slow: bool) -> Link {
        Link {
            client,
            version,
            connection: None,
            epoch: 0,
            up: Vec::new(),
            arrived: Vec::new(),
            down: Vec::new(),
            received: Vec::new(),
            observed: 0,
            is_slow,
            is_cut: false,
            client_left: false,
            broker_left: false,
            is_closing: false,
            aliases: [BTreeMap::new(), BTreeMap::new()],
        }
    }

    /// The network fails: of what is on its way, only so many bytes arrive.
    pub(crate) fn cut(&mut self, up: usize, down: usize) {
        self.is_cut = true;
        self.up.truncate(up);
        self.down.truncate(down);
    }
}

/// The first whole packet of the bytes.
pub(crate) fn first_packet(bytes: &[u8]) -> Result<Option<Frame>, DecodeError> {
    Ok(frame(bytes, u32::MAX)?.filter(|head| bytes.len() >= head.total_bytes()))
}

/// The topic of a PUBLISH with its alias resolved; empty for other packets, and for an alias nobody gave.
pub(crate) fn resolve(aliases: &mut BTreeMap<u16, String>, packet: &Packet<'_>) -> String {
    let Packet::Publish(publish) = packet else { return String::new() };
    match publish.properties.topic_alias {
        Some(alias) if publish.topic.is_empty() => aliases.get(&alias.get()).cloned().unwrap_or_default(),
        Some(alias) => {
            aliases.insert(alias.get(), publish.topic.to_owned());
            publish.topic.to_owned()
        }
        None => publish.topic.to_owned(),
    }
}
