//! The properties of a message that travel on from publisher to subscriber without being touched.
//!
//! Owns the checked raw bytes of them, how to copy them on, and how to make them. It never knows topic aliases, expiry,
//! subscription identifiers or will delays: those belong to one hop or are counted by someone else.

use bytes::BufMut;

use crate::property::{Properties, Property, PropertyHolder, skip_checked};
use crate::wire::{Reader, Sink};
use crate::{DecodeError, EncodeError, PropertyId};

/// What of a PUBLISH or will is forwarded unaltered: payload format, content type, response topic, correlation data
/// and user properties, as the bytes they came in, already checked. Two are equal if the same would be forwarded.
//= [MQTT-3.3.2-4] payload format
//= [MQTT-3.3.2-15] response topic
//= [MQTT-3.3.2-16] correlation data
//= [MQTT-3.3.2-17] user properties
//= [MQTT-3.3.2-18] in their order
//= [MQTT-3.3.2-20] content type
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardedProperties<'a> {
    /// From the first forwarded property to the last one.
    bytes: &'a [u8],
    /// How many of `bytes` belong to properties in between that are not forwarded; nearly always zero.
    skipped_bytes: usize,
}

impl<'a> ForwardedProperties<'a> {
    /// Checks bytes that [`append_to`](Self::append_to) wrote, wherever they have been since.
    ///
    /// # Errors
    /// Anything that is not a row of forwarded properties.
    pub fn from_forwarded_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut properties = Properties::new(bytes, PropertyHolder::Forwarded);
        while properties.next()?.is_some() {}
        Ok(ForwardedProperties { bytes, skipped_bytes: 0 })
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes [`append_to`](Self::append_to) appends.
    #[inline]
    pub const fn encoded_bytes(&self) -> usize {
        self.bytes.len() - self.skipped_bytes
    }

    /// Appends the properties without a length in front.
    pub fn append_to(&self, out: &mut impl BufMut) {
        for piece in self.pieces() {
            out.put_slice(piece);
        }
    }

    /// Appends the properties with this in the place of their response topic. It must be a topic name.
    ///
    /// # Errors
    /// It is longer than 65,535 bytes.
    pub fn append_with_response_topic(&self, topic: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        for (id, property) in self.each() {
            if id == PropertyId::ResponseTopic {
                out.byte(id as u8);
                out.string(topic)?;
            } else {
                out.extend_from_slice(property);
            }
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn write_to(&self, sink: &mut impl Sink) {
        if self.skipped_bytes == 0 {
            return sink.bytes(self.bytes);
        }
        for piece in self.pieces() {
            sink.bytes(piece);
        }
    }

    /// 1 if the payload is said to be UTF-8.
    pub fn payload_format_indicator(&self) -> Option<u8> {
        self.value(PropertyId::PayloadFormatIndicator)?.first().copied()
    }

    /// The content type.
    pub fn content_type(&self) -> Option<&'a str> {
        Reader::new(self.value(PropertyId::ContentType)?).string().ok()
    }

    /// The response topic.
    pub fn response_topic(&self) -> Option<&'a str> {
        Reader::new(self.value(PropertyId::ResponseTopic)?).string().ok()
    }

    /// The correlation data.
    pub fn correlation_data(&self) -> Option<&'a [u8]> {
        Reader::new(self.value(PropertyId::CorrelationData)?).binary().ok()
    }

    /// The user properties, in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.each().filter(|(id, _)| *id == PropertyId::UserProperty).filter_map(|(_, property)| {
            let mut reader = Reader::new(property.get(1..)?);
            Some((reader.string().ok()?, reader.string().ok()?))
        })
    }

    /// Whether the name of any user property is such a one. Names are bytes here: they were checked when they came in.
    pub fn any_user_property(&self, is_it: impl Fn(&[u8]) -> bool) -> bool {
        self.each().any(|(id, property)| id == PropertyId::UserProperty && name_of(property).is_some_and(&is_it))
    }

    /// Appends the properties without the user properties of which this says so. Whether there were any.
    pub fn append_without(&self, unwanted: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) -> bool {
        let mut any = false;
        for (id, property) in self.each() {
            if id == PropertyId::UserProperty && name_of(property).is_some_and(&unwanted) {
                any = true;
            } else {
                out.extend_from_slice(property);
            }
        }
        any
    }

    /// The value of the first property and what follows it, if it is a user property of this name.
    pub fn split_user_property(&self, name: &str) -> Option<(&'a str, ForwardedProperties<'a>)> {
        let mut rest = self.bytes;
        let (id, property) = skip_checked(&mut rest)?;
        if id != PropertyId::UserProperty || name_of(property) != Some(name.as_bytes()) {
            return None;
        }
        let mut reader = Reader::new(property.get(1..)?);
        let _ = reader.string();
        Some((reader.string().ok()?, ForwardedProperties { bytes: rest, skipped_bytes: self.skipped_bytes }))
    }

    /// The value of the one property with this identifier.
    fn value(&self, wanted: PropertyId) -> Option<&'a [u8]> {
        self.each().find(|(id, _)| *id == wanted).and_then(|(_, property)| property.get(1..))
    }

    /// Each forwarded property with its identifier byte and value.
    fn each(&self) -> impl Iterator<Item = (PropertyId, &'a [u8])> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || skip_checked(&mut rest)).filter(|(id, _)| id.is_forwarded())
    }

    /// What is forwarded in as few pieces as is simple: all at once where nothing lies in between.
    fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (whole, rest) = if self.skipped_bytes == 0 { (Some(self.bytes), &[][..]) } else { (None, self.bytes) };
        let each = ForwardedProperties { bytes: rest, skipped_bytes: 0 }.each();
        whole.into_iter().chain(each.map(|(_, property)| property))
    }
}

impl PartialEq for ForwardedProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        if self.skipped_bytes == 0 && other.skipped_bytes == 0 {
            return self.bytes == other.bytes;
        }
        self.each().eq(other.each())
    }
}

impl Eq for ForwardedProperties<'_> {}

/// The name of a user property.
fn name_of(property: &[u8]) -> Option<&[u8]> {
    let length = property.get(1..)?.first_chunk::<2>()?;
    property.get(3..)?.get(..usize::from(u16::from_be_bytes(*length)))
}

/// Finds what is forwarded while the properties around it are being read.
pub(crate) struct ForwardedScan<'a> {
    /// The section from the first forwarded property on.
    from_first: Option<&'a [u8]>,
    /// What lay behind the last forwarded property.
    behind_last: usize,
    skipped_bytes: usize,
    /// Not forwarded, but skipped only if another forwarded one follows.
    pending_bytes: usize,
}

impl<'a> ForwardedScan<'a> {
    #[inline]
    pub(crate) const fn new() -> Self {
        ForwardedScan { from_first: None, behind_last: 0, skipped_bytes: 0, pending_bytes: 0 }
    }

    /// A forwarded property was read: `before` was left to read in front of it, `behind` is left after it.
    #[inline]
    pub(crate) fn forwarded(&mut self, before: &'a [u8], behind: &'a [u8]) {
        if self.from_first.is_none() {
            self.from_first = Some(before);
            self.pending_bytes = 0;
        }
        self.skipped_bytes += self.pending_bytes;
        self.pending_bytes = 0;
        self.behind_last = behind.len();
    }

    /// A property that is not forwarded was read.
    #[inline]
    pub(crate) const fn not_forwarded(&mut self, before: &'a [u8], behind: &'a [u8]) {
        self.pending_bytes += before.len() - behind.len();
    }

    #[inline]
    pub(crate) fn finish(self) -> ForwardedProperties<'a> {
        let Some(from_first) = self.from_first else {
            return ForwardedProperties::default();
        };
        let bytes = from_first.get(..from_first.len().saturating_sub(self.behind_last)).unwrap_or_default();
        ForwardedProperties { bytes, skipped_bytes: self.skipped_bytes }
    }
}

/// Makes the bytes of forwarded properties from their fields, for messages that come from no peer.
#[derive(Debug, Clone, Default)]
pub struct ForwardedBuilder<'a> {
    payload_is_utf8: Option<bool>,
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    correlation_data: Option<&'a [u8]>,
    user_properties: Vec<(&'a str, &'a str)>,
}

impl<'a> ForwardedBuilder<'a> {
    /// No property yet.
    pub const fn new() -> Self {
        ForwardedBuilder {
            payload_is_utf8: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        }
    }

    /// Says whether the payload is UTF-8.
    #[must_use]
    pub const fn payload_format_indicator(mut self, is_utf8: bool) -> Self {
        self.payload_is_utf8 = Some(is_utf8);
        self
    }

    /// Sets the content type.
    #[must_use]
    pub const fn content_type(mut self, content_type: &'a str) -> Self {
        self.content_type = Some(content_type);
        self
    }

    /// Sets the response topic.
    #[must_use]
    pub const fn response_topic(mut self, topic: &'a str) -> Self {
        self.response_topic = Some(topic);
        self
    }

    /// Sets the correlation data.
    #[must_use]
    pub const fn correlation_data(mut self, data: &'a [u8]) -> Self {
        self.correlation_data = Some(data);
        self
    }

    /// Adds one user property behind those there are.
    #[must_use]
    pub fn user_property(mut self, name: &'a str, value: &'a str) -> Self {
        self.user_properties.push((name, value));
        self
    }

    /// The bytes, for [`ForwardedProperties::from_forwarded_bytes`], which accepts them.
    ///
    /// # Errors
    /// A field longer than 65,535 bytes, a string with U+0000, or a response topic that is not a topic name.
    pub fn build(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        if let Some(is_utf8) = self.payload_is_utf8 {
            out.extend_from_slice(&[PropertyId::PayloadFormatIndicator as u8, u8::from(is_utf8)]);
        }
        for (id, text) in
            [(PropertyId::ContentType, self.content_type), (PropertyId::ResponseTopic, self.response_topic)]
        {
            if let Some(text) = text {
                out.byte(id as u8);
                out.string(text)?;
            }
        }
        if let Some(data) = self.correlation_data {
            out.byte(PropertyId::CorrelationData as u8);
            out.binary(data)?;
        }
        for (name, value) in &self.user_properties {
            out.byte(PropertyId::UserProperty as u8);
            out.string(name)?;
            out.string(value)?;
        }
        ForwardedProperties::from_forwarded_bytes(&out).map_err(EncodeError::ForwardedInvalid)?;
        Ok(out)
    }
}

/// Whether a property that was read belongs to what is forwarded.
#[inline]
pub(crate) const fn is_forwarded(property: &Property<'_>) -> bool {
    matches!(
        property,
        Property::PayloadFormatIndicator(_)
            | Property::ContentType(_)
            | Property::ResponseTopic(_)
            | Property::CorrelationData(_)
            | Property::User(..)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_response_topic_takes_the_place_of_the_first_and_all_else_stays() {
        let built = |topic| {
            let builder =
                ForwardedBuilder::new().payload_format_indicator(true).content_type("c").response_topic(topic);
            builder.correlation_data(b"7").user_property("a", "1").user_property("a", "2").build().unwrap()
        };
        let bytes = built("answer");
        let mut out = Vec::new();
        let forwarded = ForwardedProperties::from_forwarded_bytes(&bytes).unwrap();
        forwarded.append_with_response_topic("somewhere/else", &mut out).unwrap();
        assert_eq!(out, built("somewhere/else"));
        assert!(forwarded.append_with_response_topic(&"x".repeat(65_536), &mut out).is_err());
        out.clear();
        let without = ForwardedBuilder::new().content_type("c").build().unwrap();
        let forwarded = ForwardedProperties::from_forwarded_bytes(&without).unwrap();
        forwarded.append_with_response_topic("answer", &mut out).unwrap();
        assert_eq!(out, without, "where there is none, none comes");
    }
}
