//! Vehicles: added, changed, listed.
//!
//! Owns that what is said of many happens to all of them or to none.

use causeway_fleet::{Groups, Vin};

use super::codec::{self, Read, key, kind, name_of, pair_key};
use super::index::Effect;
use super::vehicle::{Standing, State, Vehicle};
use super::{BULK_MAX, Changed, Listed, Page, Registry, RegistryError, Staged, check_text};

/// Each group is one more subscription for every filter of the vehicle.
const GROUPS_MAX: usize = 32;
/// So many are named where something is wrong with many.
const NAMED_MAX: usize = 5;

/// A vehicle that is to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVehicle {
    /// Its identification number.
    pub vin: Vin,
    /// Provisioned or active, or suspended for one that is known to be stolen.
    pub state: State,
    /// Its groups, which are there.
    pub groups: Groups,
    /// See [`Vehicle::note`].
    pub note: String,
}

/// What became of vehicles that were to be added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// So many are new.
    pub added: usize,
    /// So many were known, and are as they were.
    pub known: usize,
}

/// What is to be another way. None: it stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// See [`Vehicle::state`].
    pub state: Option<State>,
    /// All of its groups.
    pub groups: Option<Groups>,
    /// See [`Vehicle::note`].
    pub note: Option<String>,
}

/// Which vehicles.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// Of this group.
    pub group: Option<String>,
}

impl Registry {
    /// All that is known of a vehicle.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn vehicle(&self, vin: &Vin) -> Result<Vehicle, RegistryError> {
        let key = key(kind::VEHICLE, vin.as_str());
        let value = self.map.get(&key)?.ok_or_else(|| unknown(&[*vin]))?;
        Vehicle::decode(*vin, &value).map_err(|detail| RegistryError::damaged(&key, detail))
    }

    /// Vehicles in the order of their VINs, and the VIN to go on behind. There may be fewer than the page has room for, and more to follow.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] where there is no such group; [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn vehicles(&self, filter: &Filter, page: &Page) -> Result<Listed<Vehicle>, RegistryError> {
        let is_wanted = |vehicle: &Vehicle| filter.state.is_none_or(|state| vehicle.state == state);
        let Some(group) = &filter.group else {
            return self.page(kind::VEHICLE, None, page, |name, value| {
                let vehicle = Vehicle::decode(codec::vin(name)?, value)?;
                Ok(is_wanted(&vehicle).then_some(vehicle))
            });
        };
        let (members, next) = self.members(group, page)?;
        let mut vehicles = Vec::with_capacity(members.len());
        for vin in members {
            match self.vehicle(&vin) {
                Ok(vehicle) if vehicle.groups.contains(group) && is_wanted(&vehicle) => vehicles.push(vehicle),
                // Changed since the page was read.
                Ok(_) | Err(RegistryError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((vehicles, next))
    }

    /// Vehicles of a group in the order of their VINs, and the VIN to go on behind.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] where there is no such group; [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn members(&self, group: &str, page: &Page) -> Result<Listed<Vin>, RegistryError> {
        self.check_groups(&Groups::new([group]).map_err(|error| RegistryError::Invalid(error.to_string()))?)?;
        self.page(kind::MEMBER, Some(group), page, |name, _| codec::vin(name).map(Some))
    }

    /// Adds vehicles, all or none. With `keep_known`, those that are known already stay as they are; else they are an error.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`], [`RegistryError::Unknown`] for a group, [`RegistryError::Invalid`], [`RegistryError::Storage`].
    pub fn add(&self, new: &[NewVehicle], keep_known: bool, now_ms: u64) -> Result<Added, RegistryError> {
        check_bulk(new.len())?;
        for vehicle in new {
            check_text("the note", &vehicle.note)?;
            if vehicle.state == State::Retired {
                return Err(RegistryError::Invalid(format!("{} cannot begin as retired", vehicle.vin)));
            }
        }
        self.write(|staged| {
            let (mut added, mut known, mut barred) = (Added::default(), Vec::new(), Vec::new());
            for NewVehicle { vin, state, groups, note } in new {
                if staged.read(&key(kind::VEHICLE, vin.as_str()))?.is_some() {
                    known.push(*vin);
                    continue;
                }
                self.check_groups(groups)?;
                let (made_ms, changed_ms) = (now_ms, now_ms);
                let (state, groups, note) = (*state, groups.clone(), note.clone());
                if state == State::Suspended {
                    // Where unknown vehicles are let in, it may be connected.
                    barred.push((*vin, Some(state)));
                }
                put(staged, None, Vehicle { vin: *vin, state, groups, note, made_ms, changed_ms });
                added.added += 1;
            }
            added.known = known.len();
            if !barred.is_empty() {
                staged.tell(Changed::Barred(barred));
            }
            match known.is_empty() || keep_known {
                true => Ok(added),
                false => Err(RegistryError::Conflict(format!("{} in the registry already", are(&known)))),
            }
        })
    }

    /// Brings vehicles into a state, all or none. Those that are in it stay as they are.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`]; [`RegistryError::Conflict`] where one of them cannot get there from where it is;
    /// [`RegistryError::Storage`].
    pub fn set_state(&self, vins: &[Vin], state: State, now_ms: u64) -> Result<(), RegistryError> {
        self.change_each(vins, now_ms, |vehicle| {
            vehicle.state = state;
            Ok(())
        })
    }

    /// Changes a vehicle.
    ///
    /// # Errors
    /// As [`set_state`](Registry::set_state); [`RegistryError::Unknown`] for a group, too.
    pub fn patch(&self, vin: &Vin, patch: &Patch, now_ms: u64) -> Result<Vehicle, RegistryError> {
        patch.note.as_deref().map_or(Ok(()), |note| check_text("the note", note))?;
        self.change_each(&[*vin], now_ms, |vehicle| {
            vehicle.state = patch.state.unwrap_or(vehicle.state);
            vehicle.groups = patch.groups.clone().unwrap_or_else(|| vehicle.groups.clone());
            vehicle.note = patch.note.clone().unwrap_or_else(|| std::mem::take(&mut vehicle.note));
            self.check_groups(&vehicle.groups)
        })?;
        self.vehicle(vin)
    }

    /// Puts vehicles into a group, or takes them out of it, all or none.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] for the group or a vehicle, [`RegistryError::Limit`], [`RegistryError::Storage`].
    pub fn set_members(&self, group: &str, vins: &[Vin], belong: bool, now_ms: u64) -> Result<(), RegistryError> {
        let group = Groups::new([group]).map_err(|error| RegistryError::Invalid(error.to_string()))?;
        self.change_each(vins, now_ms, |vehicle| {
            let others = vehicle.groups.iter().filter(|name| !group.contains(name));
            let groups = Groups::new(others.chain(group.iter().filter(|_| belong)));
            vehicle.groups = groups.map_err(|error| RegistryError::Invalid(error.to_string()))?;
            self.check_groups(&group).and_then(|()| self.check_groups(&vehicle.groups))
        })
    }

    /// Forgets a vehicle that never had a credential. All others are retired, so that nobody gets in with what they had.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Conflict`], [`RegistryError::Storage`].
    pub fn remove(&self, vin: &Vin) -> Result<(), RegistryError> {
        self.write(|staged| {
            let vehicle = get(staged, vin)?.ok_or_else(|| unknown(&[*vin]))?;
            if vehicle.state != State::Provisioned {
                let why =
                    format!("{vin} is {}: only a provisioned vehicle can be removed. Retire this one", vehicle.state);
                return Err(RegistryError::Conflict(why));
            }
            for group in vehicle.groups.iter() {
                staged.remove(pair_key(kind::MEMBER, group, vin.as_str()));
            }
            staged.remove(key(kind::VEHICLE, vin.as_str()));
            staged.remove(key(kind::TOKEN, vin.as_str()));
            staged.effect(Effect::Vehicle(*vin, None));
            staged.tell(Changed::Barred(vec![(*vin, None)]));
            Ok(())
        })
    }

    fn change_each(
        &self,
        vins: &[Vin],
        now_ms: u64,
        change: impl Fn(&mut Vehicle) -> Result<(), RegistryError>,
    ) -> Result<(), RegistryError> {
        check_bulk(vins.len())?;
        self.write(|staged| {
            let (mut missing, mut barred, mut unbarred, mut moved) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for vin in vins {
                let Some(before) = get(staged, vin)? else {
                    missing.push(*vin);
                    continue;
                };
                let mut after = before.clone();
                change(&mut after)?;
                if after == before {
                    continue;
                }
                if !before.state.may_become(after.state) {
                    return Err(RegistryError::Conflict(transition(&before, after.state)));
                }
                after.changed_ms = now_ms;
                match after.standing().may_connect() {
                    _ if before.state == after.state => {}
                    true => unbarred.push(*vin),
                    false => barred.push((*vin, Some(after.state))),
                }
                if before.groups != after.groups {
                    moved.push((*vin, after.groups.clone()));
                }
                put(staged, Some(&before), after);
            }
            if !missing.is_empty() {
                return Err(unknown(&missing));
            }
            if !moved.is_empty() {
                staged.tell(Changed::Groups(moved));
            }
            if !barred.is_empty() {
                staged.tell(Changed::Barred(barred));
            }
            if !unbarred.is_empty() {
                staged.tell(Changed::Unbarred(unbarred));
            }
            Ok(())
        })
    }

    /// Within a change, so that none of them goes before it is made.
    fn check_groups(&self, groups: &Groups) -> Result<(), RegistryError> {
        if groups.iter().count() > GROUPS_MAX {
            return Err(RegistryError::Limit(format!("a vehicle can be in {GROUPS_MAX} groups")));
        }
        let index = self.index();
        match groups.iter().find(|name| index.members(name).is_none()) {
            Some(name) => Err(RegistryError::Unknown(format!("there is no group {name:?}: add it first"))),
            None => Ok(()),
        }
    }
}

fn check_bulk(count: usize) -> Result<(), RegistryError> {
    match count {
        0 => Err(RegistryError::Invalid("no vehicle is named".to_owned())),
        1..=BULK_MAX => Ok(()),
        _ => Err(RegistryError::Limit(format!(
            "{count} vehicles are more than the {BULK_MAX} that can be changed at once"
        ))),
    }
}

fn transition(vehicle: &Vehicle, to: State) -> String {
    let Vehicle { vin, state, .. } = vehicle;
    match state {
        State::Retired => format!("{vin} is retired, which is final: it cannot become {to}"),
        state => format!("{vin} is {state}, and cannot become {to}"),
    }
}

fn unknown(vins: &[Vin]) -> RegistryError {
    RegistryError::Unknown(format!("{} not in the registry", are(vins)))
}

/// `A is`, `A and B are`, `A, B and 7 more are`.
fn are(vins: &[Vin]) -> String {
    let named: Vec<_> = vins.iter().take(NAMED_MAX).map(Vin::as_str).collect();
    match (vins.len() - named.len(), named.split_last()) {
        (0, Some((last, []))) => format!("{last} is"),
        (0, Some((last, others))) => format!("{} and {last} are", others.join(", ")),
        (more, _) => format!("{} and {more} more are", named.join(", ")),
    }
}

/// A vehicle as it will be.
pub(super) fn get(staged: &Staged<'_>, vin: &Vin) -> Result<Option<Vehicle>, RegistryError> {
    let key = key(kind::VEHICLE, vin.as_str());
    let value = staged.read(&key)?;
    value.map(|value| Vehicle::decode(*vin, &value).map_err(|detail| RegistryError::damaged(&key, detail))).transpose()
}

/// Writes a vehicle in the place of what it was, and its groups with it.
pub(super) fn put(staged: &mut Staged<'_>, before: Option<&Vehicle>, vehicle: Vehicle) {
    let vin = vehicle.vin;
    for group in before.iter().flat_map(|before| before.groups.iter()).filter(|group| !vehicle.groups.contains(group)) {
        staged.remove(pair_key(kind::MEMBER, group, vin.as_str()));
    }
    for group in vehicle.groups.iter().filter(|group| before.is_none_or(|before| !before.groups.contains(group))) {
        staged.put(pair_key(kind::MEMBER, group, vin.as_str()), Vec::new());
    }
    staged.put(key(kind::VEHICLE, vin.as_str()), vehicle.encode());
    staged.effect(Effect::Vehicle(vin, Some(vehicle.standing())));
}

/// What stands in the file, for the index.
pub(super) fn load(key: &[u8], value: &[u8]) -> Read<Effect> {
    let vin = codec::vin(name_of(key, None).unwrap_or_default())?;
    let Vehicle { state, groups, .. } = Vehicle::decode(vin, value)?;
    Ok(Effect::Vehicle(vin, Some(Standing { state, groups })))
}
