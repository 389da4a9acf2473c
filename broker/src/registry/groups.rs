//! Groups of vehicles: a model, a region, a ring of a roll-out.
//!
//! Owns that a vehicle is only in groups that are there.

use causeway_fleet::Groups;

use super::codec::{Read, Reader, Writer, key, kind, name_of};
use super::index::Effect;
use super::{Listed, Page, Registry, RegistryError, check_text};

/// Every one has a counter in memory.
const GROUPS_MAX: usize = 100_000;

/// A group. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, one level of a topic.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// How many vehicles are in it.
    pub members: u64,
    /// When it was made.
    pub made_ms: u64,
    /// When its description was changed last.
    pub changed_ms: u64,
}

impl Group {
    fn encode(&self) -> Vec<u8> {
        Writer::new().number(self.made_ms).number(self.changed_ms).text(&self.description).done()
    }

    fn decode(name: &str, value: &[u8], members: u64) -> Read<Group> {
        Groups::check_name(name).map_err(|_| "its name is none")?;
        let mut reader = Reader::new(value)?;
        let (made_ms, changed_ms) = (reader.number()?, reader.number()?);
        let description = reader.text()?.to_owned();
        reader.end()?;
        Ok(Group { name: name.to_owned(), description, members, made_ms, changed_ms })
    }
}

impl Registry {
    /// Makes a group, or changes the description of one. Returns it, and whether it is new.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`], [`RegistryError::Limit`], [`RegistryError::Storage`].
    pub fn put_group(&self, name: &str, description: &str, now_ms: u64) -> Result<(Group, bool), RegistryError> {
        Groups::check_name(name).map_err(|error| RegistryError::Invalid(format!("{name:?}: {error}")))?;
        check_text("the description", description)?;
        self.write(|staged| {
            let key = key(kind::GROUP, name);
            let members = self.index().members(name).unwrap_or(0);
            let before = staged.read(&key)?.map(|value| Group::decode(name, &value, members));
            let before = before.transpose().map_err(|detail| RegistryError::damaged(&key, detail))?;
            if before.is_none() && self.index().groups() >= GROUPS_MAX {
                return Err(RegistryError::Limit(format!("there are {GROUPS_MAX} groups already")));
            }
            let made_ms = before.as_ref().map_or(now_ms, |before| before.made_ms);
            let (name, description, changed_ms) = (name.to_owned(), description.to_owned(), now_ms);
            let group = Group { name, description, members, made_ms, changed_ms };
            staged.put(key, group.encode());
            staged.effect(Effect::Group(group.name.as_str().into(), true));
            Ok((group, before.is_none()))
        })
    }

    /// A group.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn group(&self, name: &str) -> Result<Group, RegistryError> {
        let key = key(kind::GROUP, name);
        let value = self.map.get(&key)?.ok_or_else(|| unknown(name))?;
        let members = self.index().members(name).unwrap_or(0);
        Group::decode(name, &value, members).map_err(|detail| RegistryError::damaged(&key, detail))
    }

    /// Groups in the order of their names, and the name to go on behind.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], [`RegistryError::Storage`].
    pub fn groups(&self, page: &Page) -> Result<Listed<Group>, RegistryError> {
        self.page(kind::GROUP, None, page, |name, value| {
            Group::decode(name, value, self.index().members(name).unwrap_or(0)).map(Some)
        })
    }

    /// Removes a group that has no members.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Conflict`], [`RegistryError::Storage`].
    pub fn remove_group(&self, name: &str) -> Result<(), RegistryError> {
        self.write(|staged| {
            let key = key(kind::GROUP, name);
            staged.read(&key)?.ok_or_else(|| unknown(name))?;
            match self.index().members(name).unwrap_or(0) {
                0 => {}
                1 => {
                    return Err(RegistryError::Conflict(format!("the group {name:?} has a member: take it out first")));
                }
                members => {
                    let why = format!("the group {name:?} has {members} members: take them out first");
                    return Err(RegistryError::Conflict(why));
                }
            }
            staged.remove(key);
            staged.effect(Effect::Group(name.into(), false));
            Ok(())
        })
    }
}

fn unknown(name: &str) -> RegistryError {
    RegistryError::Unknown(format!("there is no group {name:?}"))
}

/// What stands in the file, for the index.
pub(super) fn load(key: &[u8], value: &[u8]) -> Read<Effect> {
    let name = name_of(key, None).ok_or("its key is not UTF-8")?;
    Group::decode(name, value, 0).map(|group| Effect::Group(group.name.into(), true))
}
