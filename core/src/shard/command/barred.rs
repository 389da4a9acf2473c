//! Vehicles that may not be connected.
//!
//! Owns which of those that live on the shard are barred, as the rest of the broker tells it: nobody is to wait for them. It is told again after each
//! start, and recorded nowhere. It never decides who is barred.

use std::borrow::Cow;
use std::collections::HashMap;

use causeway_fleet::{Vin, home_shard};
use foldhash::fast::FixedState;

use crate::Millis;
use crate::shard::Shard;

/// Why a vehicle may not be connected, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// For requesters of commands.
    pub why: Cow<'static, str>,
    /// None: until something else is told.
    pub until: Option<Millis>,
}

/// See the module.
#[derive(Debug)]
pub(in crate::shard) struct Barred {
    bars: HashMap<Vin, Bar, FixedState>,
}

impl Barred {
    pub(in crate::shard) fn new(hash_seed: u64) -> Barred {
        Barred { bars: HashMap::with_hasher(FixedState::with_seed(hash_seed)) }
    }

    /// Why a vehicle is barred, if it is.
    pub(super) fn why(&self, now: Millis, vin: &Vin) -> Option<&str> {
        let bar = self.bars.get(vin).filter(|bar| bar.until.is_none_or(|until| until > now));
        bar.map(|bar| &*bar.why)
    }
}

impl Shard {
    /// Vehicles are barred, or are not any more. What is pending of those that are is over.
    pub(in crate::shard) fn bar(&mut self, now: Millis, changed: &[(Vin, Option<Bar>)]) {
        let (number, shards) = (u32::from(self.number), u32::from(self.shards));
        let lives_here = |vin: &Vin| home_shard(vin.as_str(), shards) == number;
        for (vin, bar) in changed.iter().filter(|(vin, _)| lives_here(vin)) {
            match bar {
                Some(bar) => drop(self.barred.bars.insert(*vin, bar.clone())),
                None => drop(self.barred.bars.remove(vin)),
            }
        }
        let barred: Vec<Vin> =
            changed.iter().map(|(vin, _)| *vin).filter(|vin| self.barred.why(now, vin).is_some()).collect();
        self.retire_barred(now, barred.into_iter());
    }
}
