//! The vehicles of a run: what they say, and the full names it stands for.
//!
//! Owns the table of it, written out, so that the broker is not judged by its own rules. It never asks the broker.

use crate::message::{FILTERS, PLAIN_FILTERS, PLAIN_TOPICS, TOPICS};

/// Who the vehicles are. Several clients may be of one.
pub(crate) const VINS: [&str; 2] = ["1M8GDM9AXKP042788", "WVWZZZ1JZ3W386752"];

/// The groups there are; a vehicle is in those whose bits are set.
pub(crate) const GROUPS: [&str; 2] = ["g", "h"];

/// Sets of groups.
pub(crate) const GROUP_SETS: u64 = 1 << GROUPS.len();

/// Which vehicle a client is of, by its place in [`VINS`].
pub(crate) type Vehicle = usize;

/// What vehicles publish to, in their words.
const SAID_TOPICS: [&str; 2] = ["a", "b/c"];

/// What they subscribe to; the last is shared, and only for their own topics.
const SAID_FILTERS: [&str; 5] = ["a", "#", "+", "b/#", "$share/g/#"];
const ALONE: usize = SAID_FILTERS.len() - 1;

/// Mounts in the tables of topics and filters: both vehicles, both groups, and the fleet.
const MOUNTS: usize = VINS.len() + GROUPS.len() + 1;

/// Where filters begin that only a backend has.
const BACKEND_FILTERS: usize = PLAIN_FILTERS + ALONE * MOUNTS + VINS.len();

/// So many topics are behind mounts.
pub(crate) const MOUNTED_TOPICS: usize = TOPICS.len() - PLAIN_TOPICS;
/// So many filters are a backend's.
pub(crate) const FILTERS_OF_BACKENDS: usize = FILTERS.len() - BACKEND_FILTERS;
/// So many different filters a vehicle says.
pub(crate) const FILTERS_SAID: usize = SAID_FILTERS.len();

/// One of the filters over mounts that only a backend has.
pub(crate) fn filter_of_backend(number: usize) -> usize {
    BACKEND_FILTERS + number
}

/// The topic that a vehicle means.
pub(crate) fn topic_of(vehicle: Vehicle, said: usize) -> usize {
    PLAIN_TOPICS + vehicle * SAID_TOPICS.len() + said % SAID_TOPICS.len()
}

/// The topic as vehicles know it, and whoever sends it or gets it.
pub(crate) fn said_topic(topic: usize) -> &'static str {
    match topic.checked_sub(PLAIN_TOPICS) {
        Some(mounted) => SAID_TOPICS[mounted % SAID_TOPICS.len()],
        None => TOPICS[topic],
    }
}

/// The vehicle's own filter among those that it means.
pub(crate) fn own_filter(vehicle: Vehicle, said: usize) -> usize {
    match said {
        ALONE => PLAIN_FILTERS + ALONE * MOUNTS + vehicle,
        _ => PLAIN_FILTERS + said * MOUNTS + vehicle,
    }
}

/// What the vehicle said, by its own filter or in its words.
pub(crate) fn said(vehicle: Vehicle, filter: usize) -> Option<&'static str> {
    SAID_FILTERS.iter().enumerate().find(|(said, _)| own_filter(vehicle, *said) == filter).map(|(_, text)| *text)
}

/// The vehicle's own filter for what it said.
pub(crate) fn filter_said(vehicle: Vehicle, text: &str) -> usize {
    let said = SAID_FILTERS.iter().position(|said| *said == text);
    own_filter(vehicle, said.unwrap_or_default())
}

/// What the subscription of a vehicle in these groups to its own filter is for beside it.
pub(crate) fn follows(own: usize, groups: u64) -> Vec<usize> {
    let Some(at) = own.checked_sub(PLAIN_FILTERS).filter(|at| *at < ALONE * MOUNTS) else { return Vec::new() };
    let first = own - at % MOUNTS + VINS.len();
    let of_groups = (0..GROUPS.len()).filter(|group| groups & (1 << group) != 0).map(|group| first + group);
    of_groups.chain([first + GROUPS.len()]).collect()
}

/// The names of a set of groups.
pub(crate) fn names(groups: u64) -> impl Iterator<Item = &'static str> {
    GROUPS.into_iter().enumerate().filter(move |(at, _)| groups & (1 << at) != 0).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_fit_together() {
        assert_eq!((MOUNTED_TOPICS, FILTERS_OF_BACKENDS), (10, 5));
        for (vehicle, vin) in VINS.into_iter().enumerate() {
            for (said, text) in SAID_TOPICS.into_iter().enumerate() {
                let topic = topic_of(vehicle, said);
                assert_eq!((TOPICS[topic], said_topic(topic)), (&*format!("vehicles/{vin}/{text}"), text));
            }
            for (number, text) in SAID_FILTERS.into_iter().enumerate() {
                let own = own_filter(vehicle, number);
                assert_eq!((said(vehicle, own), filter_said(vehicle, text)), (Some(text), own));
                let full: Vec<&str> = follows(own, 0b11).into_iter().map(|filter| FILTERS[filter]).collect();
                if number == ALONE {
                    assert_eq!((FILTERS[own], full.len()), (&*format!("$share/g/vehicles/{vin}/#"), 0));
                } else {
                    assert_eq!(FILTERS[own], format!("vehicles/{vin}/{text}"));
                    assert_eq!(full, [format!("groups/g/{text}"), format!("groups/h/{text}"), format!("fleet/{text}")]);
                    assert_eq!(FILTERS[follows(own, 0b10)[0]], format!("groups/h/{text}"));
                }
            }
        }
        for (topic, full) in TOPICS.iter().enumerate().skip(PLAIN_TOPICS) {
            assert!(full.ends_with(&format!("/{}", said_topic(topic))));
        }
    }
}
