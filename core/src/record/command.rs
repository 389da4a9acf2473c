//! The layout of the records of commands.
//!
//! Owns encoding and decoding. Where something is published because a command got further, the record of the one is the record of the other: a
//! crash has both or neither. It never knows what a command may become.

use bytes::{BufMut, BytesMut};
use causeway_fleet::command::{CommandId, Outcome};
use causeway_fleet::{Principal, Vin};
use causeway_protocol::PacketId;

use super::PublishRecord;
use super::RecordError;
use super::codec::{Reader, put_principal, put_text};

/// Where the outcome of a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AddressRecord<'a> {
    /// None where nobody is told by a message.
    pub(crate) response_topic: Option<&'a str>,
    pub(crate) correlation_data: Option<&'a [u8]>,
}

/// What is known of a request from its beginning.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TermsRecord<'a> {
    pub(crate) id: CommandId,
    pub(crate) by: Principal,
    pub(crate) address: AddressRecord<'a>,
    pub(crate) key: Option<&'a str>,
    /// By which a reply may name it.
    pub(crate) request_id: Option<&'a str>,
}

/// A command was requested. If it was sent, the record is that of the message, too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RequestedRecord<'a> {
    /// Behind a box, so that the records of plain messages, which are moved about as the same type, stay small.
    pub(crate) terms: Box<TermsRecord<'a>>,
    pub(crate) is_sent: bool,
    /// As the vehicle gets it. Publisher and packet identifier are those of the request; it expires at the deadline.
    pub(crate) message: PublishRecord<'a>,
}

/// It was requested again: the newer request is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RetriedRecord<'a> {
    pub(crate) id: CommandId,
    pub(crate) address: AddressRecord<'a>,
    /// Of the newer request, as in a [`PublishRecord`].
    pub(crate) publisher: Option<u64>,
    pub(crate) packet_id: Option<PacketId>,
}

/// It is over.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndedRecord<'a> {
    pub(crate) id: CommandId,
    pub(crate) outcome: Outcome,
    /// What its requester is told; without a topic where that is nobody. Publisher and packet identifier are those of what ended it.
    pub(crate) message: PublishRecord<'a>,
}

/// It was over before it began. Its message is what its requester is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RefusedRecord<'a> {
    pub(crate) terms: TermsRecord<'a>,
    pub(crate) vin: Vin,
    pub(crate) name: &'a str,
    pub(crate) fingerprint: u64,
    pub(crate) outcome: Outcome,
    /// Whether it is known from now on as others are that are over.
    pub(crate) is_kept: bool,
}

const HAS_RESPONSE_TOPIC: u8 = 1;
const HAS_CORRELATION_DATA: u8 = 2;
const HAS_KEY: u8 = 4;
const HAS_REQUEST_ID: u8 = 8;
const IS_SENT: u8 = 16;
const IS_KEPT: u8 = 16;
const HAS_PUBLISHER: u8 = 32;
const HAS_PACKET_ID: u8 = 64;

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// MQTT bounds it to 65,535 bytes.
fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

impl<'a> Reader<'a> {
    fn command(&mut self) -> Result<CommandId, RecordError> {
        CommandId::new(self.u64()?).ok_or(RecordError::Damaged)
    }

    fn optional<T>(
        &mut self,
        is_there: bool,
        read: impl FnOnce(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Option<T>, RecordError> {
        if is_there { read(self).map(Some) } else { Ok(None) }
    }
}

impl<'a> AddressRecord<'a> {
    fn flags(&self) -> u8 {
        flag(self.response_topic.is_some(), HAS_RESPONSE_TOPIC)
            | flag(self.correlation_data.is_some(), HAS_CORRELATION_DATA)
    }

    fn put(&self, out: &mut BytesMut) {
        self.response_topic.into_iter().for_each(|topic| put_text(out, topic));
        self.correlation_data.into_iter().for_each(|data| put_bytes(out, data));
    }

    fn read(flags: u8, reader: &mut Reader<'a>) -> Result<Self, RecordError> {
        Ok(AddressRecord {
            response_topic: reader.optional(flags & HAS_RESPONSE_TOPIC != 0, Reader::text)?,
            correlation_data: reader.optional(flags & HAS_CORRELATION_DATA != 0, |reader| {
                let length = reader.u16()?;
                reader.bytes(usize::from(length))
            })?,
        })
    }
}

impl<'a> TermsRecord<'a> {
    /// With `more` flags of whoever it is part of.
    pub(crate) fn encode(&self, more: u8, out: &mut BytesMut) {
        out.put_u64(self.id.number());
        let key = flag(self.key.is_some(), HAS_KEY);
        out.put_u8(self.address.flags() | key | flag(self.request_id.is_some(), HAS_REQUEST_ID) | more);
        put_principal(out, &self.by);
        self.address.put(out);
        self.key.into_iter().for_each(|key| put_text(out, key));
        self.request_id.into_iter().for_each(|id| put_text(out, id));
    }

    /// With all flags.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<(Self, u8), RecordError> {
        let (id, flags) = (reader.command()?, reader.u8()?);
        let terms = TermsRecord {
            id,
            by: reader.principal()?,
            address: AddressRecord::read(flags, reader)?,
            key: reader.optional(flags & HAS_KEY != 0, Reader::text)?,
            request_id: reader.optional(flags & HAS_REQUEST_ID != 0, Reader::text)?,
        };
        Ok((terms, flags))
    }
}

impl<'a> RequestedRecord<'a> {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        self.terms.encode(flag(self.is_sent, IS_SENT), out);
        self.message.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, RecordError> {
        let (terms, flags) = TermsRecord::decode(reader)?;
        Ok(RequestedRecord {
            terms: Box::new(terms),
            is_sent: flags & IS_SENT != 0,
            message: PublishRecord::decode(reader)?,
        })
    }
}

impl<'a> RetriedRecord<'a> {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.id.number());
        out.put_u8(
            self.address.flags()
                | flag(self.publisher.is_some(), HAS_PUBLISHER)
                | flag(self.packet_id.is_some(), HAS_PACKET_ID),
        );
        self.address.put(out);
        self.publisher.into_iter().for_each(|publisher| out.put_u64(publisher));
        self.packet_id.into_iter().for_each(|packet_id| out.put_u16(packet_id.get()));
    }

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, RecordError> {
        let (id, flags) = (reader.command()?, reader.u8()?);
        Ok(RetriedRecord {
            id,
            address: AddressRecord::read(flags, reader)?,
            publisher: reader.optional(flags & HAS_PUBLISHER != 0, Reader::u64)?,
            packet_id: reader.optional(flags & HAS_PACKET_ID != 0, |reader| {
                PacketId::new(reader.u16()?).ok_or(RecordError::Damaged)
            })?,
        })
    }
}

impl<'a> RefusedRecord<'a> {
    pub(super) fn encode(&self, message: &PublishRecord<'_>, out: &mut BytesMut) {
        self.terms.encode(flag(self.is_kept, IS_KEPT), out);
        out.put_slice(self.vin.as_str().as_bytes());
        put_text(out, self.name);
        out.put_u64(self.fingerprint);
        out.put_u8(self.outcome as u8);
        message.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<(Self, PublishRecord<'a>), RecordError> {
        let (terms, flags) = TermsRecord::decode(reader)?;
        let refused = RefusedRecord {
            terms,
            vin: reader.vin()?,
            name: reader.text()?,
            fingerprint: reader.u64()?,
            outcome: Outcome::of_number(reader.u8()?).ok_or(RecordError::Damaged)?,
            is_kept: flags & IS_KEPT != 0,
        };
        Ok((refused, PublishRecord::decode(reader)?))
    }
}

/// The message of a command that is sent.
pub(super) fn encode_sent(id: CommandId, message: &PublishRecord<'_>, out: &mut BytesMut) {
    out.put_u64(id.number());
    message.encode(out);
}

pub(super) fn decode_sent<'a>(reader: &mut Reader<'a>) -> Result<(CommandId, PublishRecord<'a>), RecordError> {
    Ok((reader.command()?, PublishRecord::decode(reader)?))
}

impl<'a> EndedRecord<'a> {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.id.number());
        out.put_u8(self.outcome as u8);
        self.message.encode(out);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, RecordError> {
        Ok(EndedRecord {
            id: reader.command()?,
            outcome: Outcome::of_number(reader.u8()?).ok_or(RecordError::Damaged)?,
            message: PublishRecord::decode(reader)?,
        })
    }
}
