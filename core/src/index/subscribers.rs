//! Everybody who subscribed to one filter.
//!
//! Owns dense iteration (a fan-out walks it for every message) and removal that stays cheap when a broadcast has
//! very many subscribers.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{Subscription, Target};
use crate::session::SessionKey;
use crate::shared::GroupKey;

/// From this many subscribers on, positions are remembered; below it, a look along the list is cheaper.
const POSITIONS_FROM: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    sessions: Vec<(SessionKey, Subscription)>,
    positions: Option<HashMap<SessionKey, u32, FixedState>>,
    groups: Vec<GroupKey>,
}

impl Subscribers {
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.groups.is_empty()
    }

    pub(crate) fn visit(&self, visit: &mut impl FnMut(Target)) {
        for &(session, subscription) in &self.sessions {
            visit(Target::Session(session, subscription));
        }
        for &group in &self.groups {
            visit(Target::Group(group));
        }
    }

    /// Adds or replaces; whether there was one.
    pub(crate) fn insert(&mut self, session: SessionKey, subscription: Subscription) -> bool {
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

    /// Removes; whether it was there.
    pub(crate) fn remove(&mut self, session: SessionKey) -> bool {
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

    pub(crate) fn insert_group(&mut self, group: GroupKey) {
        self.groups.push(group);
    }

    /// Removes; whether it was there.
    pub(crate) fn remove_group(&mut self, group: GroupKey) -> bool {
        let before = self.groups.len();
        self.groups.retain(|&other| other != group);
        self.groups.len() < before
    }

    fn position(&self, session: SessionKey) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(&session).map(|&at| at as usize),
            None => self.sessions.iter().position(|(other, _)| *other == session),
        }
    }
}
