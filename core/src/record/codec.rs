//! The parts that records are made of, as bytes.
//!
//! Owns how integers, texts, times and identities are written and read. It knows no record.

use bytes::{BufMut, BytesMut};
use causeway_fleet::{Principal, Vin};
use causeway_protocol::ForwardedProperties;

use super::RecordError;
use crate::Millis;
use crate::lane::{LaneName, LaneProgress};
use crate::session::Identifiers;

/// Topics, filters and identifiers came from MQTT, where a text has at most 65,535 bytes.
pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// A session has at most as many subscriptions as fit.
pub(crate) fn put_identifiers(out: &mut BytesMut, identifiers: &[u32]) {
    let count = identifiers.len().min(usize::from(u16::MAX));
    out.put_u16(count as u16);
    identifiers[..count].iter().for_each(|identifier| out.put_u32(*identifier));
}

/// Zero stands for none.
pub(crate) fn put_time(out: &mut BytesMut, time: Option<Millis>) {
    out.put_u64(time.map_or(0, |time| time.0));
}

pub(crate) fn put_forwarded(out: &mut BytesMut, forwarded: ForwardedProperties<'_>) {
    out.put_u32(forwarded.encoded_bytes() as u32);
    forwarded.append_to(out);
}

pub(crate) fn put_principal(out: &mut BytesMut, principal: &Principal) {
    match principal {
        Principal::Anonymous => out.put_u8(0),
        Principal::Service(name) => {
            out.put_u8(1);
            put_text(out, name);
        }
        Principal::Shard(number) => {
            out.put_u8(2);
            out.put_u16(*number);
        }
        Principal::Operator(name) => {
            out.put_u8(3);
            put_text(out, name);
        }
        Principal::Vehicle(vin) => {
            out.put_u8(4);
            out.put_slice(vin.as_str().as_bytes());
        }
    }
}

/// Takes values off the front; whatever is not there is damage.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RecordError::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        self.bytes(N)?.try_into().map_err(|_| RecordError::Damaged)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, RecordError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RecordError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Six bytes.
    pub(crate) fn u48(&mut self) -> Result<u64, RecordError> {
        Ok(self.array::<6>()?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub(crate) fn time(&mut self) -> Result<Option<Millis>, RecordError> {
        Ok(Some(Millis(self.u64()?)).filter(|time| time.0 != 0))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, RecordError> {
        let length = self.u16()?;
        std::str::from_utf8(self.bytes(usize::from(length))?).map_err(|_| RecordError::Damaged)
    }

    pub(crate) fn forwarded(&mut self) -> Result<ForwardedProperties<'a>, RecordError> {
        let length = self.u32()?;
        let bytes = self.bytes(length as usize)?;
        ForwardedProperties::from_forwarded_bytes(bytes).map_err(|_| RecordError::Damaged)
    }

    pub(crate) fn principal(&mut self) -> Result<Principal, RecordError> {
        match self.u8()? {
            0 => Ok(Principal::Anonymous),
            1 => Ok(Principal::service(self.text()?)),
            2 => Ok(Principal::Shard(self.u16()?)),
            3 => Ok(Principal::operator(self.text()?)),
            4 => self.vin().map(Principal::Vehicle),
            _ => Err(RecordError::Damaged),
        }
    }

    pub(crate) fn vin(&mut self) -> Result<Vin, RecordError> {
        let vin = std::str::from_utf8(self.bytes(Vin::LENGTH)?).ok().and_then(|vin| vin.parse().ok());
        vin.ok_or(RecordError::Damaged)
    }

    pub(crate) fn lane(&mut self) -> Result<LaneName, RecordError> {
        match self.u8()? {
            0 => Ok(LaneName::Urgent),
            1 => Ok(LaneName::Bulk),
            _ => Err(RecordError::Damaged),
        }
    }

    pub(crate) fn lane_progress(&mut self) -> Result<LaneProgress, RecordError> {
        let (next, sent_through) = (self.u64()?, self.u64()?);
        let mut open = Vec::new();
        for _ in 0..self.u32()? {
            open.push(self.u64()?);
        }
        Ok(LaneProgress { next, sent_through, open })
    }

    pub(crate) fn identifiers(&mut self) -> Result<Identifiers, RecordError> {
        (0..self.u16()?).map(|_| self.u32()).collect()
    }

    /// All that is left.
    pub(crate) fn sequences(&mut self) -> Result<Vec<u64>, RecordError> {
        let mut sequences = Vec::new();
        while !self.0.is_empty() {
            sequences.push(self.u64()?);
        }
        Ok(sequences)
    }
}
