//! What the front door asks for, in memory.
//!
//! Owns the size of it: some fifty bytes a vehicle. All of it follows from the file, and is changed when that is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_fleet::{Groups, Vin};

use super::bans::Ban;
use super::subject::Subject;
use super::vehicle::{Standing, State};
use crate::config::Network;

/// With so many sets of groups beyond the number of vehicles, those that nobody has are forgotten.
const UNUSED_SETS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Index {
    vehicles: HashMap<Vin, Standing>,
    /// Vehicles with the same groups share them.
    sets: HashSet<Groups>,
    /// How many vehicles each group has.
    members: BTreeMap<Arc<str>, u64>,
    states: [u64; State::ALL.len()],
    revoked: HashSet<Arc<str>>,
    bans: HashMap<Subject, Ban>,
    networks: Vec<(Network, Subject)>,
}

/// What a change makes of the index.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Vehicle(Vin, Option<Standing>),
    /// A group that is there, or is not any more.
    Group(Arc<str>, bool),
    /// A credential, and whether it is revoked.
    Credential(Arc<str>, bool),
    Ban(Subject, Option<Ban>),
}

impl Index {
    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Vehicle(vin, standing) => self.set_vehicle(vin, standing),
            Effect::Group(name, true) => drop(self.members.entry(name).or_default()),
            Effect::Group(name, false) => drop(self.members.remove(&name)),
            Effect::Credential(name, true) => drop(self.revoked.insert(name)),
            Effect::Credential(name, false) => drop(self.revoked.remove(&name)),
            Effect::Ban(subject, ban) => self.set_ban(subject, ban),
        }
    }

    fn set_vehicle(&mut self, vin: Vin, standing: Option<Standing>) {
        let standing = standing.map(|it| Standing { groups: self.shared(it.groups), ..it });
        if let Some(now) = &standing {
            self.count(now, 1);
        }
        let before = match standing {
            Some(standing) => self.vehicles.insert(vin, standing),
            None => self.vehicles.remove(&vin),
        };
        if let Some(before) = &before {
            self.count(before, -1);
        }
    }

    fn shared(&mut self, groups: Groups) -> Groups {
        if let Some(known) = self.sets.get(&groups) {
            return known.clone();
        }
        if self.sets.len() > self.vehicles.len() + UNUSED_SETS_MAX {
            let used: HashSet<Groups> = self.vehicles.values().map(|standing| standing.groups.clone()).collect();
            self.sets = used;
        }
        self.sets.insert(groups.clone());
        groups
    }

    fn count(&mut self, standing: &Standing, by: i64) {
        let states = &mut self.states[standing.state as usize];
        *states = states.saturating_add_signed(by);
        for name in standing.groups.iter() {
            // Groups go when nobody is in them, and are loaded before vehicles: it is there.
            if let Some(members) = self.members.get_mut(name) {
                *members = members.saturating_add_signed(by);
            }
        }
    }

    fn set_ban(&mut self, subject: Subject, ban: Option<Ban>) {
        self.networks.retain(|(_, known)| *known != subject);
        match ban {
            Some(ban) => {
                self.networks.extend(subject.network().map(|network| (network, subject.clone())));
                self.bans.insert(subject, ban);
            }
            None => drop(self.bans.remove(&subject)),
        }
    }

    pub(super) fn standing(&self, vin: &Vin) -> Option<&Standing> {
        self.vehicles.get(vin)
    }

    pub(super) fn is_revoked(&self, credential: &str) -> bool {
        self.revoked.contains(credential)
    }

    pub(super) fn members(&self, group: &str) -> Option<u64> {
        self.members.get(group).copied()
    }

    pub(super) fn groups(&self) -> usize {
        self.members.len()
    }

    pub(super) fn in_state(&self, state: State) -> u64 {
        self.states[state as usize]
    }

    /// The ban that stands at this time, if there is one.
    pub(super) fn ban(&self, subject: &Subject, now_ms: u64) -> Option<&Ban> {
        self.bans.get(subject).filter(|ban| ban.stands(now_ms))
    }

    /// As [`ban`](Index::ban), with those of networks that the address belongs to.
    pub(super) fn address_ban(&self, address: IpAddr, now_ms: u64) -> Option<&Ban> {
        // Most brokers have no ban at all: then nothing is written down.
        if self.bans.is_empty() {
            return None;
        }
        self.ban(&Subject::address(address), now_ms).or_else(|| {
            let mut around = self.networks.iter().filter(|(network, _)| network.contains(address));
            around.find_map(|(_, subject)| self.ban(subject, now_ms))
        })
    }

    /// Vehicles in this state.
    pub(super) fn all_in(&self, state: State) -> impl Iterator<Item = Vin> {
        // Most brokers have none: then nobody is looked at.
        let vehicles = (self.in_state(state) > 0).then_some(&self.vehicles);
        let standings = vehicles.into_iter().flatten();
        standings.filter(move |(_, standing)| standing.state == state).map(|(vin, _)| *vin)
    }

    /// Whom bans that have not ended are about.
    pub(super) fn banned(&self, now_ms: u64) -> impl Iterator<Item = &Subject> {
        self.bans.iter().filter(move |(_, ban)| ban.stands(now_ms)).map(|(subject, _)| subject)
    }

    pub(super) fn bans(&self) -> usize {
        self.bans.len()
    }

    /// Subjects whose bans have ended.
    pub(super) fn ended_bans(&self, now_ms: u64) -> Vec<Subject> {
        self.bans.iter().filter(|(_, ban)| !ban.stands(now_ms)).map(|(subject, _)| subject.clone()).collect()
    }
}
