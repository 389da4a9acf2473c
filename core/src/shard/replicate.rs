//! Retained messages on several shards.
//!
//! Owns how a retained message comes to every shard and which of two is newer everywhere, whichever way they came. What is retained on
//! one shard is kept by `retained`; this only says what is to be kept.

use causeway_protocol::QoS;
use smallvec::smallvec;

use super::Shard;
use super::deliver::Origin;
use super::matching::Match;
use crate::Millis;
use crate::message::{CopyFor, Publication};
use crate::session::Identifiers;

/// Bits of a stamp in one identifier, which has 28 and is never zero.
const CHUNK_BITS: u32 = 27;
/// The first identifier of a message for a shared subscription; of a retained message it is 1 to 3.
const FOR_GROUP: u32 = 4;
/// The shard's number in a stamp, below the time.
const SHARD_BITS: u32 = 16;

/// A part of a number, as an identifier.
fn chunk(number: u64, at: u32) -> u32 {
    ((number >> (CHUNK_BITS * at)) & ((1 << CHUNK_BITS) - 1)) as u32 + 1
}

/// What a retained message is on a link, beside itself: the QoS of its publish, and its stamp. Between shards, subscription
/// identifiers carry it.
fn carried(qos: QoS, stamp: u64) -> Identifiers {
    smallvec![qos as u32 + 1, chunk(stamp, 0), chunk(stamp, 1), chunk(stamp, 2)]
}

/// What says on a link that a message is for one shared subscription, named by its number.
pub(super) fn carried_group(number: u64) -> Identifiers {
    smallvec![FOR_GROUP, chunk(number, 0), chunk(number, 1)]
}

/// That number.
fn uncarried_group(identifiers: &[u32]) -> Option<u64> {
    let &[FOR_GROUP, low, high] = identifiers else { return None };
    Some(u64::from(low.checked_sub(1)?) | u64::from(high.checked_sub(1)?) << CHUNK_BITS)
}

/// The QoS and the stamp, where a message carries them.
fn uncarried(identifiers: &[u32]) -> Option<(QoS, u64)> {
    let &[qos, ref chunks @ ..] = identifiers else { return None };
    let qos = QoS::from_bits(u8::try_from(qos.checked_sub(1)?).ok()?)?;
    let stamp = chunks.iter().enumerate().try_fold(0u64, |stamp, (at, chunk)| {
        let shift = CHUNK_BITS.checked_mul(u32::try_from(at).ok()?)?;
        Some(stamp | u64::from(chunk.checked_sub(1)?).checked_shl(shift)?)
    })?;
    Some((qos, stamp))
}

impl Shard {
    /// Says which of the broker's shards this is, and of how many. Call before anything else; a shard that is alone is the first of one.
    pub fn become_shard(&mut self, number: u16, shards: u16) {
        (self.number, self.shards) = (number, shards);
    }

    /// Takes what a message of another shard carries beside itself.
    pub(super) fn take_carried(&self, identifiers: &[u32], publication: &mut Publication<'_>) {
        if let Some(number) = uncarried_group(identifiers) {
            (publication.retain, publication.stamp) = (false, number);
        } else if let Some((qos, stamp)) = uncarried(identifiers)
            && publication.retain
        {
            publication.copy = match (qos, publication.qos) {
                (QoS::AtMostOnce, QoS::AtMostOnce) => CopyFor::Present,
                (QoS::AtMostOnce, QoS::AtLeastOnce | QoS::ExactlyOnce) => CopyFor::Later,
                (QoS::AtLeastOnce | QoS::ExactlyOnce, _) => CopyFor::Everybody,
            };
            (publication.qos, publication.stamp) = (qos, stamp);
        }
    }

    /// Gives a retained message of this shard its stamp: newer than what it replaces, and than all that was published before.
    pub(super) fn stamp(&self, now: Millis, publication: &mut Publication<'_>, origin: Origin) {
        // Wills of before a crash are published before there are links: sessions of other shards are there already.
        if !publication.retain || self.peer_sessions.is_empty() || origin == Origin::Broker || publication.stamp != 0 {
            return;
        }
        let known = self.retained.stamp(publication.topic) >> SHARD_BITS;
        publication.stamp = (now.0.max(known + 1) << SHARD_BITS) | u64::from(self.number);
    }

    /// Remembers that a retained message was removed, after a restart, too.
    pub(super) fn note_removal(&mut self, topic: &str, stamp: u64) {
        if let Some(forgotten) = self.retained.note_removal(topic, stamp) {
            self.changed.retained(&forgotten);
        }
    }

    /// Has every other shard get a retained message that was published here. One of QoS 0 goes to them twice: at once, in its order and
    /// perhaps lost, and by way of the log, to be kept there.
    pub(super) fn match_all_peers(&mut self, publication: &Publication<'_>, origin: Origin) {
        if publication.stamp == 0 || !publication.retain || self.is_from_peer(origin) {
            return;
        }
        for &key in &self.peer_sessions {
            let Some(session) = self.sessions.get_mut(key as usize) else { continue };
            let known = (session.mark.0 == self.turn).then_some(session.mark.1 as usize);
            let copy = |qos| Match {
                session: key,
                qos,
                retain_as_published: true,
                fleeting: false,
                full: known.is_some_and(|at| self.matches[at].full),
                replicates: qos > QoS::AtMostOnce,
                identifiers: carried(publication.qos, publication.stamp),
            };
            let kept = copy(QoS::ExactlyOnce);
            let at_once = (publication.qos == QoS::AtMostOnce).then(|| copy(QoS::AtMostOnce));
            match (known, at_once) {
                (Some(at), None) => self.matches[at] = kept,
                (Some(at), Some(at_once)) => {
                    self.matches[at] = at_once;
                    self.matches.push(kept);
                }
                (None, at_once) => {
                    self.matches.extend(at_once);
                    session.mark = (self.turn, self.matches.len() as u32);
                    self.matches.push(kept);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_comes_back() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for stamp in [1, 1 << 27, u64::MAX, 1_700_000_000_000 << 16 | 3] {
                let carried = carried(qos, stamp);
                assert!(carried.iter().all(|identifier| (1..=268_435_455).contains(identifier)));
                assert_eq!((uncarried(&carried), uncarried_group(&carried)), (Some((qos, stamp)), None));
            }
        }
        for number in [1, 1 << 27, (1 << 54) - 1] {
            assert_eq!(uncarried_group(&carried_group(number)), Some(number));
            assert_eq!(uncarried(&carried_group(number)), None);
        }
        for nonsense in [&[][..], &[0], &[5, 1, 1, 1], &[1, 0]] {
            assert_eq!(uncarried(nonsense), None);
        }
        assert!(uncarried(&[1; 100]).is_none());
    }
}
