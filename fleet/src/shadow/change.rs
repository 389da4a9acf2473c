//! A change of a shadow in its normal form, as it is recorded.
//!
//! Owns what a change can say, and its bytes. It never looks at a shadow.

use minicbor::{Decoder, Encoder};
use serde_json::{Map, Value};

use super::cbor;

/// What an update, a deletion or the end of a time to live does to a shadow. Applied the same way live and in a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Change(pub(super) Kind);

#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one for each request, and nearly all are updates")]
pub(super) enum Kind {
    Update(Update),
    Delete,
    Expire,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Update {
    pub(super) desired: Patch,
    pub(super) reported: Patch,
    pub(super) ttl: Ttl,
    /// The vehicle handled the delta of this sequence.
    pub(super) handled: Option<u64>,
}

/// What becomes of one section.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Patch {
    #[default]
    None,
    /// The section goes (`null`).
    Clear,
    Merge(Map<String, Value>),
}

/// How long desired leaves of an update live.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Ttl {
    #[default]
    None,
    /// All of them: seconds.
    All(u64),
    /// An object that mirrors the desired one, with seconds in place of values.
    Each(Map<String, Value>),
}

const UPDATE: u8 = 1;
const DELETE: u8 = 2;
const EXPIRE: u8 = 3;

impl Change {
    /// Deletes the shadow.
    pub fn delete() -> Change {
        Change(Kind::Delete)
    }

    /// Drops the desired leaves whose time is up.
    pub fn expire() -> Change {
        Change(Kind::Expire)
    }

    /// The vehicle handled the delta of this sequence.
    pub fn handled(mut self, sequence: u64) -> Change {
        if let Kind::Update(update) = &mut self.0 {
            update.handled = Some(sequence);
        }
        self
    }

    /// Whether it is an update.
    pub fn is_update(&self) -> bool {
        matches!(self.0, Kind::Update(_))
    }

    /// Whether it is a deletion.
    pub fn is_delete(&self) -> bool {
        matches!(self.0, Kind::Delete)
    }

    /// Whether it wants something of the vehicle (there is a `desired` in it, if only to delete).
    pub fn is_wish(&self) -> bool {
        matches!(&self.0, Kind::Update(update) if update.desired != Patch::None)
    }

    /// The bytes for the record.
    pub fn encode(&self) -> Vec<u8> {
        let update = match &self.0 {
            Kind::Delete => return vec![DELETE],
            Kind::Expire => return vec![EXPIRE],
            Kind::Update(update) => update,
        };
        let mut out = Encoder::new(vec![UPDATE]);
        patch_out(&mut out, &update.desired);
        patch_out(&mut out, &update.reported);
        match &update.ttl {
            Ttl::None => cbor::sure(out.null()),
            Ttl::All(seconds) => cbor::sure(out.u64(*seconds)),
            Ttl::Each(mirror) => cbor::map_out(&mut out, mirror),
        }
        match update.handled {
            None => cbor::sure(out.null()),
            Some(sequence) => cbor::sure(out.u64(sequence)),
        }
        out.into_writer()
    }

    /// From the bytes of [`Change::encode`]; nothing if they are damaged.
    pub fn decode(bytes: &[u8]) -> Option<Change> {
        match bytes {
            [DELETE] => Some(Change::delete()),
            [EXPIRE] => Some(Change::expire()),
            [UPDATE, rest @ ..] => {
                let mut input = Decoder::new(rest);
                let desired = patch_in(&mut input)?;
                let reported = patch_in(&mut input)?;
                let ttl = match cbor::read(&mut input, cbor::DEPTH_MAX).ok()? {
                    Value::Null => Ttl::None,
                    Value::Number(seconds) => Ttl::All(seconds.as_u64()?),
                    Value::Object(mirror) => Ttl::Each(mirror),
                    _ => return None,
                };
                let handled = match cbor::read(&mut input, cbor::DEPTH_MAX).ok()? {
                    Value::Null => None,
                    sequence => Some(sequence.as_u64()?),
                };
                let whole = input.position() == rest.len();
                whole.then_some(Change(Kind::Update(Update { desired, reported, ttl, handled })))
            }
            _ => None,
        }
    }
}

/// Nothing is `false`, clearing `null`, merging an object.
fn patch_out(out: &mut Encoder<Vec<u8>>, patch: &Patch) {
    match patch {
        Patch::None => cbor::sure(out.bool(false)),
        Patch::Clear => cbor::sure(out.null()),
        Patch::Merge(map) => cbor::map_out(out, map),
    }
}

fn patch_in(input: &mut Decoder<'_>) -> Option<Patch> {
    match cbor::read(input, cbor::DEPTH_MAX).ok()? {
        Value::Bool(false) => Some(Patch::None),
        Value::Null => Some(Patch::Clear),
        Value::Object(map) => Some(Patch::Merge(map)),
        _ => None,
    }
}
