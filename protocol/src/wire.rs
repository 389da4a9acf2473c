//! The data types of MQTT (5.0 section 1.5) on the wire: integers, strings, binary fields, variable byte integers.
//!
//! Owns reading them with every check and writing them into a [`Sink`]. It never knows which packet it is in, never
//! panics on bytes, and never allocates.

use bytes::{BufMut, BytesMut};

use crate::{DecodeError, EncodeError, PacketId};

/// The largest value of a variable byte integer.
pub(crate) const VARINT_MAX: usize = 268_435_455;

/// What is left to read of one packet (or of one property section).
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take_array::<1>()?[0])
    }

    #[inline]
    pub(crate) fn two_byte_integer(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.take_array()?))
    }

    #[inline]
    pub(crate) fn four_byte_integer(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.take_array()?))
    }

    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        //= [MQTT-2.2.1-3] a packet identifier is never zero
        PacketId::new(self.two_byte_integer()?).ok_or(DecodeError::PacketIdZero)
    }

    /// A variable byte integer inside a packet.
    #[inline]
    pub(crate) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        match self.rest {
            [byte @ 0..=0x7F, rest @ ..] => {
                self.rest = rest;
                Ok(u32::from(*byte))
            }
            _ => self.long_variable_byte_integer(),
        }
    }

    fn long_variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        match Varint::read(self.rest) {
            Varint::Value { value, bytes } => {
                self.take(bytes)?;
                Ok(value)
            }
            Varint::Incomplete => Err(DecodeError::Truncated),
            Varint::TooLong => Err(DecodeError::VariableByteIntegerTooLong),
            Varint::NotMinimal => Err(DecodeError::VariableByteIntegerNotMinimal),
        }
    }

    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let bytes = self.two_byte_integer()?;
        self.take(usize::from(bytes))
    }

    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        //= [MQTT-1.5.4-2] no text field holds U+0000
        if bytes.contains(&0) {
            return Err(DecodeError::StringContainsNul);
        }
        text(bytes)
    }

    /// A topic name: a string without wildcards. It may be empty here.
    #[inline]
    pub(crate) fn topic_name(&mut self) -> Result<&'a str, TopicNameError> {
        let bytes = self.binary().map_err(TopicNameError::Decode)?;
        // One branchless pass, which the compiler turns into vector instructions, for all three characters.
        let suspicious = bytes.iter().fold(false, |found, &byte| found | (byte == 0) | (byte == b'+') | (byte == b'#'));
        let name = text(bytes).map_err(TopicNameError::Decode)?;
        if !suspicious {
            return Ok(name);
        }
        if bytes.contains(&0) {
            return Err(TopicNameError::Decode(DecodeError::StringContainsNul));
        }
        Err(TopicNameError::Wildcard)
    }
}

/// Why a field is not a topic name: what a wildcard means depends on the field.
pub(crate) enum TopicNameError {
    Decode(DecodeError),
    Wildcard,
}

impl TopicNameError {
    #[inline]
    pub(crate) fn with_wildcard_as(self, wildcard: DecodeError) -> DecodeError {
        match self {
            TopicNameError::Decode(error) => error,
            TopicNameError::Wildcard => wildcard,
        }
    }
}

#[inline]
fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    //= [MQTT-1.5.4-1] strict UTF-8; Rust's check refuses surrogates
    //= [MQTT-1.5.4-3] U+FEFF is a character like any other
    std::str::from_utf8(bytes).map_err(|_| DecodeError::StringNotUtf8)
}

/// What the start of some bytes is as a variable byte integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Varint {
    Value { value: u32, bytes: usize },
    Incomplete,
    TooLong,
    NotMinimal,
}

impl Varint {
    pub(crate) fn read(buf: &[u8]) -> Varint {
        let mut value = 0;
        for (index, &byte) in buf.iter().enumerate().take(4) {
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                //= [MQTT-1.5.5-1] the shortest form only: a last byte of zero adds nothing
                if byte == 0 && index > 0 {
                    return Varint::NotMinimal;
                }
                return Varint::Value { value, bytes: index + 1 };
            }
        }
        if buf.len() < 4 { Varint::Incomplete } else { Varint::TooLong }
    }
}

/// How many bytes a variable byte integer takes. Values above [`VARINT_MAX`] are the caller's to refuse.
#[inline]
pub(crate) const fn varint_bytes(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Writes `value` at the front of four bytes and says how many it took.
#[inline]
pub(crate) const fn varint_encoded(mut value: usize) -> ([u8; 4], usize) {
    let mut encoded = [0; 4];
    let mut bytes = 0;
    while bytes < 3 && value > 0x7F {
        encoded[bytes] = (value & 0x7F) as u8 | 0x80;
        value >>= 7;
        bytes += 1;
    }
    encoded[bytes] = (value & 0x7F) as u8;
    (encoded, bytes + 1)
}

/// Where encoded bytes go: into a buffer, or nowhere to be counted first.
pub(crate) trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    #[inline]
    fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    #[inline]
    fn two_byte_integer(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline]
    fn four_byte_integer(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline]
    fn variable_byte_integer(&mut self, value: usize) {
        let (encoded, bytes) = varint_encoded(value);
        self.bytes(&encoded[..bytes]);
    }

    fn binary(&mut self, field: &[u8]) -> Result<(), EncodeError> {
        let length = u16::try_from(field.len()).map_err(|_| EncodeError::FieldTooLong(field.len()))?;
        self.two_byte_integer(length);
        self.bytes(field);
        Ok(())
    }

    fn string(&mut self, field: &str) -> Result<(), EncodeError> {
        self.binary(field.as_bytes())
    }
}

/// Counts what would be written.
#[derive(Default)]
pub(crate) struct Counter {
    pub(crate) bytes: usize,
}

impl Sink for Counter {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }
}

impl Sink for BytesMut {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test [MQTT-1.5.5-1]
    #[test]
    fn variable_byte_integers_at_their_borders() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (VARINT_MAX, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            let (encoded, length) = varint_encoded(value);
            assert_eq!(&encoded[..length], bytes);
            assert_eq!(length, varint_bytes(value));
            assert_eq!(Varint::read(bytes), Varint::Value { value: value as u32, bytes: length });
            for cut in 0..length {
                assert_eq!(Varint::read(&bytes[..cut]), Varint::Incomplete);
            }
        }
        assert_eq!(Varint::read(&[0x80, 0x00]), Varint::NotMinimal);
        assert_eq!(Varint::read(&[0xFF, 0xFF, 0xFF, 0x00]), Varint::NotMinimal);
        assert_eq!(Varint::read(&[0xFF, 0xFF, 0xFF, 0xFF]), Varint::TooLong);
        assert_eq!(Varint::read(&[0xFF, 0xFF, 0xFF, 0xFF, 0x01]), Varint::TooLong);
    }
}
