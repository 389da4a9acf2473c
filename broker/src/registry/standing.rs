//! What the front door asks at every CONNECT, and vehicles that become known by connecting.
//!
//! Owns that asking does not wait, and that many who arrive together are registered together: they share one wait for the disk.

use std::sync::PoisonError;

use causeway_fleet::{Groups, Vin};

use super::subject::Subject;
use super::vehicle::{Standing, State, Vehicle};
use super::{BULK_MAX, Registry, RegistryError, vehicles};

/// How many of everything there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Vehicles by their state, in the order of [`State::ALL`].
    pub vehicles: [u64; State::ALL.len()],
    /// Groups.
    pub groups: u64,
    /// Bans, those that ended a while ago included.
    pub bans: u64,
}

impl Registry {
    /// What a vehicle may do, and its groups. None: it is not known. Asks memory only, never the disk.
    pub fn standing(&self, vin: &Vin) -> Option<Standing> {
        self.index().standing(vin).cloned()
    }

    /// The vehicles that are suspended, retired or banned. Asks memory only.
    pub fn barred(&self, now_ms: u64) -> Vec<Vin> {
        let index = self.index();
        let banned = index.banned(now_ms).filter_map(|subject| match subject {
            Subject::Vehicle(vin) => Some(*vin),
            Subject::Service(_) | Subject::Operator(_) | Subject::Client(_) | Subject::Address(_) => None,
        });
        index.all_in(State::Suspended).chain(index.all_in(State::Retired)).chain(banned).collect()
    }

    /// How many of everything there are.
    pub fn counts(&self) -> Counts {
        let index = self.index();
        Counts {
            vehicles: State::ALL.map(|state| index.in_state(state)),
            groups: index.groups() as u64,
            bans: index.bans() as u64,
        }
    }

    /// Makes a vehicle known that proved its identity and is not yet: it is active, without groups. Where it is known, nothing changes.
    /// Waits for the disk.
    ///
    /// # Errors
    /// [`RegistryError::Storage`].
    pub fn register(&self, vin: &Vin, now_ms: u64) -> Result<Standing, RegistryError> {
        if let Some(known) = self.standing(vin) {
            return Ok(known);
        }
        let arriving = || self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving().push(*vin);
        let mut desk = self.desk();
        // Whoever had the desk before may have taken this one along.
        if let Some(known) = self.standing(vin) {
            return Ok(known);
        }
        let mut together = std::mem::take(&mut *arriving());
        let later = together.split_off(together.len().min(BULK_MAX));
        arriving().extend(later);
        if !together.contains(vin) {
            together.push(*vin);
        }
        self.write_at(&mut desk, |staged| {
            for vin in together {
                if vehicles::get(staged, &vin)?.is_none() {
                    let (state, groups, note) = (State::Active, Groups::default(), String::new());
                    let (made_ms, changed_ms) = (now_ms, now_ms);
                    vehicles::put(staged, None, Vehicle { vin, state, groups, note, made_ms, changed_ms });
                }
            }
            Ok(())
        })?;
        self.standing(vin).ok_or_else(|| RegistryError::Unknown(format!("{vin} is not in the registry")))
    }
}
