//! Who published what, as the broker knows it: not as the message says.
//!
//! Owns which origin a message is given, and the numbers of vehicles' messages. Where it goes from there is the record's and the
//! connection's (`provenance`, `docs/origin.md`).

use std::collections::HashMap;

use causeway_fleet::{Principal, Vin};
use foldhash::fast::FixedState;

use super::Shard;
use crate::message::Publication;
use crate::provenance::Provenance;
use crate::session::SessionKey;
use crate::{ConnectionId, Millis};

/// The clock in the first number of a run stands above so many bits. No vehicle sends more messages in a millisecond, so those of a run never
/// reach the first number of the next.
const NUMBER_BITS: u32 = 10;

/// The numbers of vehicles' messages: each one more than the one before, from the start of this run on.
#[derive(Debug)]
pub(super) struct Numbers {
    last: HashMap<Vin, u64, FixedState>,
    /// The first one of this run.
    first: u64,
}

impl Numbers {
    pub(super) fn new(now: Millis, hash_seed: u64) -> Numbers {
        Numbers { last: HashMap::with_hasher(FixedState::with_seed(hash_seed)), first: first_at(now) }
    }

    /// The clock says this at the start, and some number was given before it.
    pub(super) fn begin_after(&mut self, now: Millis, given: u64) {
        self.first = self.first.max(first_at(now)).max(given + 1);
    }

    fn next(&mut self, vin: Vin) -> u64 {
        let first = self.first;
        *self.last.entry(vin).and_modify(|last| *last += 1).or_insert(first)
    }
}

fn first_at(now: Millis) -> u64 {
    (now.0 + 1) << NUMBER_BITS
}

impl Shard {
    /// The origin of what a client publishes now.
    pub(super) fn origin_of(&self, now: Millis, id: ConnectionId) -> Option<Provenance> {
        let connection = self.connection(id).filter(|_| self.limits.stamps_origin)?;
        Some(Provenance { by: connection.identity.principal.clone(), at: now, sequence: 0 })
    }

    /// The origin of a will: who left it, and when it is published.
    pub(super) fn origin_of_will(&self, now: Millis, key: SessionKey) -> Option<Provenance> {
        let session = self.sessions.get(key as usize).filter(|_| self.limits.stamps_origin)?;
        Some(Provenance { by: session.principal.clone(), at: now, sequence: 0 })
    }

    /// The origin of what the broker says itself.
    pub(super) fn own_origin(&self, now: Millis) -> Option<Provenance> {
        self.limits.stamps_origin.then_some(Provenance { by: Principal::Shard(self.number), at: now, sequence: 0 })
    }

    /// A message that was accepted gets its number, if it is a vehicle's and has none of another shard.
    #[inline]
    pub(super) fn number(&mut self, publication: &mut Publication<'_>) {
        if let Some(Provenance { by: Principal::Vehicle(vin), sequence: sequence @ 0, .. }) =
            &mut publication.provenance
        {
            *sequence = self.numbers.next(*vin);
        }
    }
}
