//! What one session subscribed to.
//!
//! Owns the filters by name. A vehicle has a handful, which stand in a list of just that length; whoever has many gets a
//! table. It never matches a topic: that is the index's.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::index::Subscription;

/// Up to this many, a look along the list is as quick as a table.
const LISTED_MAX: usize = 16;

type Table = HashMap<Box<str>, Subscription, FixedState>;

/// By filter; a shared subscription stands under its whole `$share/...` text.
#[derive(Debug)]
pub(crate) enum Subscriptions {
    List(Vec<(Box<str>, Subscription)>),
    Table(Box<Table>),
}

impl Default for Subscriptions {
    fn default() -> Self {
        Subscriptions::List(Vec::new())
    }
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        match self {
            Subscriptions::List(list) => list.len(),
            Subscriptions::Table(table) => table.len(),
        }
    }

    pub(crate) fn get(&self, filter: &str) -> Option<Subscription> {
        match self {
            Subscriptions::List(list) => position(list, filter).map(|at| list[at].1),
            Subscriptions::Table(table) => table.get(filter).copied(),
        }
    }

    /// Adds one or replaces that to the same filter, which it returns. `hash_seed` must be hard to guess.
    pub(crate) fn insert(&mut self, filter: &str, subscription: Subscription, hash_seed: u64) -> Option<Subscription> {
        if let Subscriptions::List(list) = self {
            if let Some(at) = position(list, filter) {
                return Some(std::mem::replace(&mut list[at].1, subscription));
            }
            if list.len() < LISTED_MAX {
                // Lists grow rarely, and there is one for each session.
                list.reserve_exact(1);
                list.push((filter.into(), subscription));
                return None;
            }
            let mut table = Table::with_hasher(FixedState::with_seed(hash_seed));
            table.extend(list.drain(..));
            *self = Subscriptions::Table(Box::new(table));
        }
        let Subscriptions::Table(table) = self else { return None };
        table.insert(filter.into(), subscription)
    }

    /// Takes one away, if it is there.
    pub(crate) fn remove(&mut self, filter: &str) -> Option<Subscription> {
        match self {
            Subscriptions::Table(table) => table.remove(filter),
            Subscriptions::List(list) => position(list, filter).map(|at| list.swap_remove(at).1),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Subscription)> {
        let (list, table) = match self {
            Subscriptions::List(list) => (Some(list), None),
            Subscriptions::Table(table) => (None, Some(table)),
        };
        let listed = list.into_iter().flatten().map(|(filter, subscription)| (&**filter, *subscription));
        listed.chain(table.into_iter().flat_map(|table| table.iter()).map(|(filter, of)| (&**filter, *of)))
    }

    /// Takes all away.
    pub(crate) fn take(&mut self) -> Vec<(Box<str>, Subscription)> {
        match std::mem::take(self) {
            Subscriptions::List(list) => list,
            Subscriptions::Table(table) => table.into_iter().collect(),
        }
    }
}

fn position(list: &[(Box<str>, Subscription)], filter: &str) -> Option<usize> {
    list.iter().position(|(other, _)| **other == *filter)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use causeway_protocol::QoS;
    use proptest::prelude::*;

    use super::*;

    fn subscription(identifier: u32) -> Subscription {
        Subscription { identifier, ..Subscription::at(QoS::AtLeastOnce) }
    }

    proptest! {
        #[test]
        fn it_is_a_map_whatever_its_size(steps in prop::collection::vec((0u8..40, any::<bool>()), 0..200)) {
            let (mut subscriptions, mut expected) = (Subscriptions::default(), BTreeMap::new());
            for (number, (filter, adds)) in steps.into_iter().enumerate() {
                let (filter, subscription) = (format!("a/{filter}"), subscription(number as u32));
                let known = expected.get(&filter).copied();
                prop_assert_eq!(subscriptions.get(&filter), known);
                if adds {
                    prop_assert_eq!(subscriptions.insert(&filter, subscription, 7), known);
                    expected.insert(filter, subscription);
                } else {
                    prop_assert_eq!(subscriptions.remove(&filter), known);
                    expected.remove(&filter);
                }
                prop_assert_eq!(subscriptions.len(), expected.len());
            }
            let mut all: Vec<(String, Subscription)> =
                subscriptions.iter().map(|(filter, subscription)| (filter.to_owned(), subscription)).collect();
            all.sort_by(|one, other| one.0.cmp(&other.0));
            prop_assert_eq!(all, expected.clone().into_iter().collect::<Vec<_>>());
            let taken = subscriptions.take().into_iter().map(|(filter, subscription)| (filter.into_string(), subscription));
            prop_assert_eq!(taken.collect::<BTreeMap<_, _>>(), expected);
            prop_assert_eq!(subscriptions.len(), 0);
        }
    }
}
