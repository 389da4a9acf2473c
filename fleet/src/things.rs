//! The shadow's names as AWS IoT has them: `$aws/things/{vin}/shadow/…` beside `vehicles/{vin}/shadow/…`.
//!
//! Owns which of these stand for which of ours, of topics and of filters: rules know ours alone. It never knows what is in a shadow,
//! nor who may have it.
//!
//! | AWS IoT | Here |
//! |---|---|
//! | `$aws/things/{vin}/shadow/update/delta` | `vehicles/{vin}/shadow/delta` |
//! | `$aws/things/{vin}/shadow/update/documents` | `vehicles/{vin}/shadow/documents` |
//! | `$aws/things/{vin}/shadow/…` | `vehicles/{vin}/shadow/…` |
//! | `$aws/things/{vin}/shadow/name/{n}/…` | `vehicles/{vin}/shadow/name/{n}/…`, likewise |

use crate::Vin;
use crate::calls::{Names, Told};
use crate::policy::overlaps;

const AWS: &str = "$aws";
const THINGS: &str = "$aws/things/";
const SHADOW: &str = "/shadow/";
const NAME: &str = "name/";
/// At which levels of a filter a thing stands, and a shadow's name.
const THING_LEVEL: usize = 2;
const NAME_LEVEL: usize = 5;

/// All that the broker ever tells of a shadow, as AWS IoT names it, and as we do.
fn told() -> impl Iterator<Item = (&'static str, &'static str)> {
    Told::ALL.into_iter().map(|told| (told.words(Names::Aws), told.words(Names::Own)))
}

/// Whether a topic, or a filter that is not a shared subscription's, is below `$aws`, where all topics are the broker's.
#[inline]
pub fn is_below_aws(topic: &str) -> bool {
    topic.strip_prefix(AWS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a filter is for the shadows of this vehicle and nothing else.
pub(crate) fn is_own_shadow(vin: &Vin, filter: &str) -> bool {
    let behind = filter.strip_prefix(THINGS).and_then(|rest| rest.strip_prefix(vin.as_str()));
    behind.and_then(|rest| rest.strip_prefix(SHADOW)).is_some_and(|rest| !rest.is_empty())
}

/// Our name of a topic below `$aws` that the broker publishes to. `None`: it is no such topic.
pub fn topic(topic: &str) -> Option<String> {
    let (thing, rest) = topic.strip_prefix(THINGS)?.split_once('/')?;
    let rest = rest.strip_prefix("shadow/")?;
    let (name, told) = match rest.strip_prefix(NAME) {
        Some(named) => named.split_once('/').map(|(name, told)| (Some(name), told))?,
        None => (None, rest),
    };
    let (_, ours) = self::told().find(|(aws, _)| *aws == told)?;
    Some(ours_of(thing, name, ours))
}

/// Our names, as filters, of all that the broker publishes and a filter below `$aws` matches. None: nothing ever matches it.
pub fn filters(filter: &str) -> Vec<String> {
    let levels: Vec<&str> = filter.split('/').collect();
    let level = |at: usize| levels.get(at).copied().filter(|level| *level != "#").unwrap_or("+");
    let (thing, name) = (level(THING_LEVEL), level(NAME_LEVEL));
    let mut ours = Vec::new();
    for (aws, our) in told() {
        if overlaps(filter, &format!("{THINGS}{thing}{SHADOW}{aws}")) {
            ours.push(ours_of(thing, None, our));
        }
        if overlaps(filter, &format!("{THINGS}{thing}{SHADOW}{NAME}{name}/{aws}")) {
            ours.push(ours_of(thing, Some(name), our));
        }
    }
    ours
}

fn ours_of(thing: &str, name: Option<&str>, told: &str) -> String {
    match name {
        Some(name) => format!("vehicles/{thing}{SHADOW}{NAME}{name}/{told}"),
        None => format!("vehicles/{thing}{SHADOW}{told}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::contains;

    const VIN: &str = "1M8GDM9AXKP042788";

    #[test]
    fn topics_have_our_names() {
        for (aws, ours) in [
            ("$aws/things/V/shadow/update/delta", Some("vehicles/V/shadow/delta")),
            ("$aws/things/V/shadow/update/documents", Some("vehicles/V/shadow/documents")),
            ("$aws/things/V/shadow/get/accepted", Some("vehicles/V/shadow/get/accepted")),
            ("$aws/things/V/shadow/expired", Some("vehicles/V/shadow/expired")),
            ("$aws/things/V/shadow/name/n/update/delta", Some("vehicles/V/shadow/name/n/delta")),
            ("$aws/things/V/shadow/name/n/delete/rejected", Some("vehicles/V/shadow/name/n/delete/rejected")),
            ("$aws/things/V/shadow/name/update/delta", None),
            ("$aws/things/V/shadow/delta", None),
            ("$aws/things/V/shadow/get", None),
            ("$aws/things/V/shadow", None),
            ("$aws/things/V/jobs/get/accepted", None),
            ("$aws/things", None),
            ("vehicles/V/shadow/delta", None),
        ] {
            assert_eq!(topic(aws).as_deref(), ours, "{aws}");
        }
    }

    #[test]
    fn filters_are_what_they_match() {
        let unnamed = |rest: &[&str]| rest.iter().map(|rest| format!("vehicles/V/shadow/{rest}")).collect::<Vec<_>>();
        for (rest, ours) in [
            ("update/delta", &["delta"][..]),
            ("update/documents", &["documents"]),
            ("get/accepted", &["get/accepted"]),
            ("get/+", &["get/accepted", "get/rejected"]),
            ("update/+", &["update/accepted", "update/rejected", "delta", "documents"]),
            ("update/#", &["update/accepted", "update/rejected", "delta", "documents"]),
            ("+/rejected", &["get/rejected", "update/rejected", "delete/rejected"]),
            ("+/delta", &["delta"]),
            ("+", &["expired"]),
            ("name/n/update/delta", &["name/n/delta"]),
            ("name/+/+/delta", &["name/+/delta"]),
            ("+/n/get/+", &["name/n/get/accepted", "name/n/get/rejected"]),
            ("delta", &[]),
            ("get", &[]),
            ("name/n", &[]),
            ("x/#", &[]),
        ] {
            assert_eq!(filters(&format!("$aws/things/V/shadow/{rest}")), unnamed(ours), "{rest}");
        }
        assert_eq!(filters("$aws/things/+/shadow/update/delta"), ["vehicles/+/shadow/delta"]);
        assert_eq!(filters("$aws/+/V/+/+/documents"), ["vehicles/V/shadow/documents"]);
        for all in ["$aws/#", "$aws/things/#", "$aws/things/+/shadow/#"] {
            assert_eq!(filters(all).len(), 2 * Told::ALL.len(), "{all}");
        }
        assert_eq!(filters("$aws/things/V/#").len(), 2 * Told::ALL.len());
        for nothing in ["$aws", "$aws/rules/#", "$aws/things/V/jobs/#", "#", "+/things/V/shadow/#", "$awsome/#"] {
            assert!(filters(nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn a_vehicle_has_its_own_shadows() {
        let vin: Vin = VIN.parse().unwrap();
        for (rest, is_own) in [
            ("1M8GDM9AXKP042788/shadow/#", true),
            ("1M8GDM9AXKP042788/shadow/get/+", true),
            ("1M8GDM9AXKP042788/shadow/name/+/update/delta", true),
            ("1M8GDM9AXKP042788/shadow/", false),
            ("1M8GDM9AXKP042788/shadow", false),
            ("1M8GDM9AXKP042788/#", false),
            ("1M8GDM9AXKP042788/+/get/accepted", false),
            ("1M8GDM9AXKP042788/jobs/#", false),
            ("1M8GDM9AXKP0427889/shadow/#", false),
            ("1m8gdm9axkp042788/shadow/#", false),
            ("WVWZZZ1JZ3W386752/shadow/#", false),
            ("+/shadow/#", false),
            ("#", false),
        ] {
            assert_eq!(is_own_shadow(&vin, &format!("$aws/things/{rest}")), is_own, "{rest}");
        }
    }

    /// All that is told of two vehicles' shadows, of two names.
    fn all() -> Vec<String> {
        let below = ["V/shadow/", "W/shadow/", "V/shadow/name/n/", "V/shadow/name/m/"];
        below.iter().flat_map(|below| told().map(move |(aws, _)| format!("{THINGS}{below}{aws}"))).collect()
    }

    proptest! {
        /// Whoever may have all of our names may have all that comes by the filter, and needs none that doesn't.
        #[test]
        fn a_filter_stands_for_exactly_what_it_matches(
            levels in prop::collection::vec(
                prop::sample::select(vec!["+", "things", "V", "shadow", "name", "n", "update", "delta", "get", "accepted"]), 0..8),
            is_wide in any::<bool>(),
        ) {
            let levels = ["$aws"].into_iter().chain(levels).chain(is_wide.then_some("#"));
            let filter = levels.collect::<Vec<_>>().join("/");
            let ours = filters(&filter);
            for aws in all() {
                let our = topic(&aws).unwrap();
                prop_assert_eq!(contains(&filter, &aws), ours.iter().any(|ours| contains(ours, &our)), "{} {}", filter, aws);
            }
        }
    }
}
