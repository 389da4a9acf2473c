//! Everybody who subscribed to one filter.
//!
//! Owns dense iteration (a fan-out walks it for every message) and removal that stays cheap when a broadcast has
//! very many subscribers. Most filters are one vehicle's own, and cost no memory beside the index's entry.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{Subscription, Target};
use crate::session::SessionKey;
use crate::shared::GroupKey;

/// From this many subscribers on, positions are remembered; below it, a look along the list is cheaper.
const POSITIONS_FROM: usize = 32;

#[derive(Debug, Default)]
pub(crate) enum Subscribers {
    #[default]
    None,
    One(SessionKey, Subscription),
    Many(Box<Crowd>),
}

impl Subscribers {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Subscribers::None => true,
            Subscribers::One(..) => false,
            Subscribers::Many(crowd) => crowd.is_empty(),
        }
    }

    pub(crate) fn visit(&self, visit: &mut impl FnMut(Target)) {
        match self {
            Subscribers::None => {}
            Subscribers::One(session, subscription) => visit(Target::Session(*session, *subscription)),
            Subscribers::Many(crowd) => crowd.visit(visit),
        }
    }

    /// Adds or replaces; whether there was one.
    pub(crate) fn insert(&mut self, session: SessionKey, subscription: Subscription) -> bool {
        match self {
            Subscribers::None => {
                *self = Subscribers::One(session, subscription);
                false
            }
            Subscribers::One(one, of_one) if *one == session => {
                *of_one = subscription;
                true
            }
            Subscribers::One(one, of_one) => {
                let sessions = vec![(*one, *of_one), (session, subscription)];
                *self = Subscribers::Many(Box::new(Crowd { sessions, ..Crowd::default() }));
                false
            }
            Subscribers::Many(crowd) => crowd.insert(session, subscription),
        }
    }

    /// Removes; whether it was there.
    pub(crate) fn remove(&mut self, session: SessionKey) -> bool {
        match self {
            Subscribers::One(one, _) if *one == session => {
                *self = Subscribers::None;
                true
            }
            Subscribers::None | Subscribers::One(..) => false,
            Subscribers::Many(crowd) => crowd.remove(session),
        }
    }

    pub(crate) fn insert_group(&mut self, group: GroupKey) {
        let sessions = match self {
            Subscribers::None => Vec::new(),
            Subscribers::One(session, subscription) => vec![(*session, *subscription)],
            Subscribers::Many(crowd) => {
                crowd.groups.push(group);
                return;
            }
        };
        *self = Subscribers::Many(Box::new(Crowd { sessions, groups: vec![group], ..Crowd::default() }));
    }

    /// Removes; whether it was there.
    pub(crate) fn remove_group(&mut self, group: GroupKey) -> bool {
        let Subscribers::Many(crowd) = self else { return false };
        let before = crowd.groups.len();
        crowd.groups.retain(|&other| other != group);
        crowd.groups.len() < before
    }
}

/// More than one session, or groups; perhaps fewer again.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    sessions: Vec<(SessionKey, Subscription)>,
    positions: Option<HashMap<SessionKey, u32, FixedState>>,
    groups: Vec<GroupKey>,
}

impl Crowd {
    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.groups.is_empty()
    }

    fn visit(&self, visit: &mut impl FnMut(Target)) {
        for &(session, subscription) in &self.sessions {
            visit(Target::Session(session, subscription));
        }
        for &group in &self.groups {
            visit(Target::Group(group));
        }
    }

    fn insert(&mut self, session: SessionKey, subscription: Subscription) -> bool {
        if let Some(at) = self.position(session) {
            self.sessions[at].1 = subscription;
            return true;
        }
        let at = self.sessions.len();
        self.sessions.push((session, subscription));
        match &mut self.positions {
            Some(positions) => {
                positions.insert(session, at as u32);
            }
            None if at + 1 >= POSITIONS_FROM => {
                let positions = self.sessions.iter().enumerate().map(|(at, (session, _))| (*session, at as u32));
                self.positions = Some(positions.collect());
            }
            None => {}
        }
        false
    }

    fn remove(&mut self, session: SessionKey) -> bool {
        let Some(at) = self.position(session) else {
            return false;
        };
        self.sessions.swap_remove(at);
        if let Some(positions) = &mut self.positions {
            positions.remove(&session);
            if let Some((moved, _)) = self.sessions.get(at) {
                positions.insert(*moved, at as u32);
            }
        }
        if self.sessions.len() < POSITIONS_FROM / 2 {
            self.positions = None;
        }
        true
    }

    fn position(&self, session: SessionKey) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(&session).map(|&at| at as usize),
            None => self.sessions.iter().position(|(other, _)| *other == session),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_one_vehicle_costs_little() {
        assert_eq!(size_of::<Subscribers>(), 16);
    }
}
