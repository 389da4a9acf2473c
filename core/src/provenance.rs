//! Where a message comes from: who published it, when it was received, and the how manieth of its vehicle it is.
//!
//! Owns the forms in which that travels: in a record, on a link between shards, and as the user properties that services are sent. What a
//! client says about it itself is taken out of its messages here. Who is sent it is the connection's.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use causeway_fleet::Principal;
use causeway_protocol::ForwardedProperties;
use smallvec::SmallVec;

use crate::Millis;
use crate::record::{Reader, RecordError, put_principal};
use crate::time::decimal;

/// User properties whose names begin so are the broker's.
const PREFIX: &[u8] = b"cw-";
/// On a link between shards, all of it in one.
const LINK: &str = "cw-link";
/// The identifier of a user property.
const USER_PROPERTY: u8 = 0x26;
/// In a record.
const NONE: u8 = 0xFF;
/// Likewise: the vehicle below whose mount the topic lies.
const VEHICLE_OF_TOPIC: u8 = 0xFE;

/// User properties as they are sent.
pub(crate) type Stamps = SmallVec<[u8; 128]>;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// The broker itself is a shard.
    pub(crate) by: Principal,
    pub(crate) at: Millis,
    /// Of a vehicle's messages; zero for those of others, and until it is given.
    pub(crate) sequence: u64,
}

impl Provenance {
    /// What services and operators are told.
    pub(crate) fn stamps(&self) -> Stamps {
        let mut stamps = Stamps::new();
        match &self.by {
            Principal::Vehicle(vin) => put_user_property(&mut stamps, "cw-origin", &["vehicle:", vin.as_str()]),
            Principal::Anonymous => put_user_property(&mut stamps, "cw-origin", &["anonymous"]),
            Principal::Shard(_) => put_user_property(&mut stamps, "cw-origin", &["broker"]),
            named => put_user_property(&mut stamps, "cw-origin", &[&named.to_string()]),
        }
        put_user_property(&mut stamps, "cw-received-at", &[self.at.rfc3339().as_str()]);
        if self.sequence > 0 {
            put_user_property(&mut stamps, "cw-seq", &[decimal(self.sequence, &mut [0; 20])]);
        }
        stamps
    }

    /// What other shards are told.
    pub(crate) fn for_link(&self) -> Stamps {
        let (code, name): (&str, Cow<'_, str>) = match &self.by {
            Principal::Anonymous => ("a", "".into()),
            Principal::Vehicle(vin) => ("v", vin.as_str().into()),
            Principal::Service(name) => ("s", (&**name).into()),
            Principal::Operator(name) => ("o", (&**name).into()),
            Principal::Shard(number) => ("b", number.to_string().into()),
        };
        let mut stamps = Stamps::new();
        let (at, sequence) = (&mut [0; 20], &mut [0; 20]);
        let parts = [decimal(self.at.0, at), " ", decimal(self.sequence, sequence), " ", code, &name];
        put_user_property(&mut stamps, LINK, &parts);
        stamps
    }

    /// Takes what [`Provenance::for_link`] made off the front of a message's properties.
    pub(crate) fn of_link(forwarded: ForwardedProperties<'_>) -> (Option<Provenance>, ForwardedProperties<'_>) {
        match forwarded.split_user_property(LINK) {
            Some((text, rest)) => (Provenance::of_link_text(text), rest),
            None => (None, forwarded),
        }
    }

    fn of_link_text(text: &str) -> Option<Provenance> {
        let mut parts = text.splitn(3, ' ');
        let at = Millis(parts.next()?.parse().ok()?);
        let sequence = parts.next()?.parse().ok()?;
        let who = parts.next()?;
        let (code, name) = who.split_at_checked(1)?;
        let by = match code {
            "a" => Principal::Anonymous,
            "v" => Principal::Vehicle(name.parse().ok()?),
            "s" => Principal::service(name),
            "o" => Principal::operator(name),
            "b" => Principal::Shard(name.parse().ok()?),
            _ => return None,
        };
        Some(Provenance { by, at, sequence })
    }

    /// Appends it to a record of a message of this topic.
    pub(crate) fn encode(provenance: Option<&Provenance>, topic: &str, out: &mut BytesMut) {
        let Some(Provenance { by, at, sequence }) = provenance else {
            out.put_u8(NONE);
            return;
        };
        match by.vin() {
            Some(vin) if vehicle_of(topic) == Some(vin.as_str()) => out.put_u8(VEHICLE_OF_TOPIC),
            _ => put_principal(out, by),
        }
        if by.vin().is_some() {
            out.put_u64(*sequence);
        }
        out.put_uint(at.0, 6);
    }

    /// # Errors
    /// Where the bytes are none.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Option<EncodedProvenance>, RecordError> {
        let by = match reader.0.first() {
            Some(&NONE) => {
                reader.u8()?;
                return Ok(None);
            }
            Some(&VEHICLE_OF_TOPIC) => {
                reader.u8()?;
                None
            }
            _ => Some(reader.principal()?),
        };
        let is_vehicle = by.as_ref().is_none_or(|by| by.vin().is_some());
        let sequence = if is_vehicle { reader.u64()? } else { 0 };
        let at = Millis(reader.u48()?);
        Ok(Some(EncodedProvenance { by, at, sequence }))
    }
}

/// As it stands in a record, before the topic is known.
pub(crate) struct EncodedProvenance {
    by: Option<Principal>,
    at: Millis,
    sequence: u64,
}

impl EncodedProvenance {
    /// # Errors
    /// Where the topic is to say which vehicle, and does not.
    pub(crate) fn of_topic(self, topic: &str) -> Result<Provenance, RecordError> {
        let EncodedProvenance { by, at, sequence } = self;
        let of_topic = || Some(Principal::Vehicle(vehicle_of(topic)?.parse().ok()?));
        let by = by.or_else(of_topic).ok_or(RecordError::Damaged)?;
        Ok(Provenance { by, at, sequence })
    }
}

/// The second level of a topic below `vehicles/`.
fn vehicle_of(topic: &str) -> Option<&str> {
    topic.strip_prefix("vehicles/")?.split('/').next()
}

/// Adds a user property whose value is made of these parts.
fn put_user_property(out: &mut Stamps, name: &str, value: &[&str]) {
    // No name of anybody's is as long; if one were, nothing would be said rather than something wrong.
    let Ok(length) = u16::try_from(value.iter().map(|part| part.len()).sum::<usize>()) else { return };
    out.push(USER_PROPERTY);
    out.extend_from_slice(&(name.len() as u16).to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    value.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// Whether a user property of this name is one that only the broker adds. Names have no case for whoever reads them carelessly.
fn is_brokers(name: &[u8]) -> bool {
    name.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX))
}

/// What a client's message carries, without what only the broker says; `room` is for properties that are not as they came.
pub(crate) fn without_claims<'a>(forwarded: ForwardedProperties<'a>, room: &'a mut Vec<u8>) -> ForwardedProperties<'a> {
    if forwarded.is_empty() || !forwarded.any_user_property(is_brokers) {
        return forwarded;
    }
    room.clear();
    forwarded.append_without(is_brokers, room);
    ForwardedProperties::from_forwarded_bytes(room).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use causeway_protocol::ForwardedBuilder;

    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";

    fn everybody() -> Vec<Provenance> {
        let at = Millis(1_777_888_999_123);
        let vehicle = Principal::Vehicle(VIN.parse().unwrap());
        let others =
            [Principal::Anonymous, Principal::service("a b"), Principal::operator("\u{e9}"), Principal::Shard(3)];
        let others = others.into_iter().map(|by| Provenance { by, at, sequence: 0 });
        others.chain([Provenance { by: vehicle, at, sequence: u64::MAX }]).collect()
    }

    #[test]
    fn it_crosses_between_shards_and_leaves_the_rest_alone() {
        for provenance in everybody() {
            let own = ForwardedBuilder::new().content_type("t").user_property("k", "v").build().unwrap();
            for own in [own.as_slice(), &[]] {
                let mut bytes = provenance.for_link().to_vec();
                bytes.extend_from_slice(own);
                let forwarded = ForwardedProperties::from_forwarded_bytes(&bytes).unwrap();
                let (found, rest) = Provenance::of_link(forwarded);
                assert_eq!(found.as_ref(), Some(&provenance));
                assert_eq!(rest, ForwardedProperties::from_forwarded_bytes(own).unwrap());
            }
        }
    }

    #[test]
    fn it_is_in_a_record_as_it_was() {
        let own = format!("vehicles/{VIN}/a");
        for provenance in everybody().into_iter().map(Some).chain([None]) {
            for topic in [own.as_str(), "vehicles", "vehicles/WVWZZZ1JZ3W386752/a", "x"] {
                let mut bytes = BytesMut::new();
                Provenance::encode(provenance.as_ref(), topic, &mut bytes);
                let mut reader = Reader(&bytes);
                let found = Provenance::decode(&mut reader).unwrap().map(|found| found.of_topic(topic).unwrap());
                assert_eq!(found, provenance, "{topic}");
                assert!(reader.0.is_empty());
            }
        }
        let vehicle = everybody().pop();
        let mut bytes = BytesMut::new();
        Provenance::encode(vehicle.as_ref(), &own, &mut bytes);
        assert_eq!(bytes.len(), 15, "a vehicle below its own mount");
    }

    #[test]
    fn what_clients_claim_is_taken_out() {
        let build = |names: &[&str]| {
            let mut builder = ForwardedBuilder::new().content_type("t");
            for name in names {
                builder = builder.user_property(name, "v");
            }
            builder.build().unwrap()
        };
        for (said, kept) in [
            (&["a"][..], &["a"][..]),
            (&["cw-origin"], &[]),
            (&["b", "cw-", "Cw-Seq", "cw", "cwx-", "xcw-", "b"], &["b", "cw", "cwx-", "xcw-", "b"]),
            (&["c\u{e9}-"], &["c\u{e9}-"]),
        ] {
            let (said, kept) = (build(said), build(kept));
            let mut room = vec![1, 2, 3];
            let found = without_claims(ForwardedProperties::from_forwarded_bytes(&said).unwrap(), &mut room);
            assert_eq!(found, ForwardedProperties::from_forwarded_bytes(&kept).unwrap());
        }
    }

    #[test]
    fn services_are_told_in_words() {
        let told = |provenance: &Provenance| {
            let bytes = provenance.stamps();
            let stamps = ForwardedProperties::from_forwarded_bytes(&bytes).unwrap();
            stamps.user_properties().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let all = everybody();
        assert_eq!(
            told(&all[4]),
            [
                "cw-origin=vehicle:1M8GDM9AXKP042788",
                "cw-received-at=2026-05-04T10:03:19.123Z",
                "cw-seq=18446744073709551615"
            ]
        );
        assert_eq!(told(&all[1])[0], "cw-origin=service:a b");
        assert_eq!(told(&all[0])[0], "cw-origin=anonymous");
        assert_eq!(told(&all[3]).len(), 2);
        assert_eq!(told(&all[3])[0], "cw-origin=broker");
    }
}
