//! Topic mounting: what a vehicle says, and what the broker means by it.
//!
//! Owns the names. A vehicle speaks of its own topics in short, local words, and there is no word it could say for another
//! vehicle's. It never decides who may do what with a full name: see [`crate::policy`].
//!
//! | The vehicle says | The broker means |
//! |---|---|
//! | publish `T` | `vehicles/{vin}/T` |
//! | subscribe `F` | `vehicles/{vin}/F`, `groups/{g}/F` for each of its groups, `fleet/F` |
//! | subscribe `$share/n/F` | `$share/n/vehicles/{vin}/F` |
//! | receives `T` | `T` behind any of these |
//! | subscribe `$aws/things/{vin}/shadow/F`, shared or not | just that, see [`crate::things`] |

use std::borrow::Cow;

use thiserror::Error;

use crate::{Groups, Principal, Vin, things};

const VEHICLES: &str = "vehicles/";
const GROUPS: &str = "groups/";
const FLEET: &str = "fleet/";
const SHARE: &str = "$share/";

/// The longest topic name or filter there is, in bytes.
const BYTES_MAX: usize = u16::MAX as usize;
/// What stands in front of a vehicle's own topics.
const OWN_BYTES: usize = VEHICLES.len() + Vin::LENGTH + 1;
/// The most that stands in front of a group's.
const GROUP_BYTES_MAX: usize = GROUPS.len() + Groups::NAME_BYTES_MAX + 1;

/// A full name has at most so many levels more than what the vehicle says: limits count what it says.
pub const MOUNT_LEVELS: usize = 2;

/// Where a vehicle's topics are. Nobody else has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount(Vin);

/// Why a vehicle can't say that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MountError {
    /// Behind its mount, too, a name whose first level begins with `$` is the broker's word.
    #[error("topics that begin with $ belong to the broker")]
    Brokers,
    /// Below `$aws`, a vehicle has its own shadows and nothing else.
    #[error("below $aws, a vehicle has nothing but $aws/things/{{its VIN}}/shadow/...")]
    NotItsShadow,
    /// The full name would have more than 65,535 bytes, or may have once the vehicle joins a group.
    #[error("the full name would be longer than 65,535 bytes")]
    TooLong,
    /// It begins like a shared subscription and is none.
    #[error("shared subscription needs $share/{{name}}/{{filter}}")]
    SharedIncomplete,
}

impl Mount {
    /// The mount of whoever has one.
    #[inline]
    pub fn of(principal: &Principal) -> Option<Mount> {
        match principal {
            Principal::Vehicle(vin) => Some(Mount(*vin)),
            Principal::Anonymous | Principal::Service(_) | Principal::Operator(_) | Principal::Shard(_) => None,
        }
    }

    /// Whose it is.
    pub fn vin(&self) -> &Vin {
        &self.0
    }

    /// The full name of a topic that the vehicle publishes to, or wants answers at. It is put into `name`, whose memory is used again.
    ///
    /// # Errors
    /// It can't publish there.
    pub fn publish<'n>(&self, topic: &str, name: &'n mut String) -> Result<&'n str, MountError> {
        if topic.starts_with('$') {
            return Err(MountError::Brokers);
        }
        if topic.len() > BYTES_MAX - OWN_BYTES {
            return Err(MountError::TooLong);
        }
        name.clear();
        for part in [VEHICLES, self.0.as_str(), "/", topic] {
            name.push_str(part);
        }
        Ok(name)
    }

    /// The full filter of the vehicle's own topics among those a subscription is for: under it the subscription is known.
    ///
    /// # Errors
    /// It can't subscribe to that.
    pub fn own(&self, filter: &str) -> Result<String, MountError> {
        if filter.len() > BYTES_MAX - GROUP_BYTES_MAX {
            return Err(MountError::TooLong);
        }
        let Some(shared) = filter.strip_prefix(SHARE) else {
            return self.own_alone(filter);
        };
        match shared.split_once('/') {
            Some((name, filter)) if !name.is_empty() && !filter.is_empty() => {
                Ok(format!("{SHARE}{name}/{}", self.own_alone(filter)?))
            }
            _ => Err(MountError::SharedIncomplete),
        }
    }

    fn own_alone(&self, filter: &str) -> Result<String, MountError> {
        let vin = &self.0;
        match things::is_below_aws(filter) {
            false => Ok(format!("{VEHICLES}{vin}/{filter}")),
            true if things::is_own_shadow(vin, filter) => Ok(filter.to_owned()),
            true => Err(MountError::NotItsShadow),
        }
    }

    /// All full filters that a subscription is for: the vehicle's own, its groups' and the fleet's. A shared one is for its own only.
    ///
    /// # Errors
    /// It can't subscribe to that.
    pub fn subscribe(&self, filter: &str, groups: &Groups) -> Result<Vec<String>, MountError> {
        let mut filters = vec![self.own(filter)?];
        if !filter.starts_with(SHARE) {
            filters.extend(broadcasts(filter, groups));
        }
        Ok(filters)
    }

    /// What the vehicle said, of a full filter that [`Mount::own`] made.
    pub fn said<'f>(&self, own: &'f str) -> Option<Cow<'f, str>> {
        if let Some(filter) = self.said_alone(own) {
            return Some(Cow::Borrowed(filter));
        }
        if things::is_own_shadow(&self.0, own) {
            return Some(Cow::Borrowed(own));
        }
        let (name, filter) = own.strip_prefix(SHARE)?.split_once('/')?;
        if things::is_own_shadow(&self.0, filter) {
            return Some(Cow::Borrowed(own));
        }
        Some(Cow::Owned(format!("{SHARE}{name}/{}", self.said_alone(filter)?)))
    }

    /// Likewise, but neither of a shared subscription nor of one below `$aws`: those filters that are for its groups and the fleet, too.
    pub fn said_alone<'f>(&self, own: &'f str) -> Option<&'f str> {
        own.strip_prefix(VEHICLES)?.strip_prefix(self.0.as_str())?.strip_prefix('/')
    }

    /// A Response Topic as the vehicle would say it, where it can: within its own mount.
    pub fn response<'t>(&self, topic: &'t str) -> Option<&'t str> {
        self.said_alone(topic).filter(|said| is_said(said))
    }
}

/// The full filters of groups and fleet that a vehicle's filter is for, beside its own: none below `$aws`.
pub fn broadcasts(filter: &str, groups: &Groups) -> impl Iterator<Item = String> {
    let groups = groups.iter().map(move |group| format!("{GROUPS}{group}/{filter}"));
    let all = groups.chain([format!("{FLEET}{filter}")]);
    (!things::is_below_aws(filter)).then_some(all).into_iter().flatten()
}

/// Whether a full filter of a vehicle is one of those that [`broadcasts`] makes, not one that the vehicle said.
pub fn is_broadcast(filter: &str) -> bool {
    filter.starts_with(FLEET) || filter.starts_with(GROUPS)
}

/// Whether a full name is one of this vehicle's own topics.
pub fn is_of(vin: &Vin, topic: &str) -> bool {
    topic
        .strip_prefix(VEHICLES)
        .and_then(|rest| rest.strip_prefix(vin.as_str()))
        .is_some_and(|rest| rest.starts_with('/'))
}

/// The name by which every vehicle that gets a message knows its topic.
#[inline]
pub fn received(topic: &str) -> &str {
    match behind_mount(topic) {
        Some(Some(name)) => name,
        Some(None) | None => topic,
    }
}

/// Whether the topic is the broker's own word: below `$SYS`, `$presence` and `$aws`, or below a mount with a next level that begins with `$`.
#[inline]
pub fn is_brokers(topic: &str) -> bool {
    // It is asked about every message, and hardly any has one.
    has_dollar(topic.as_bytes()) && is_brokers_by_level(topic)
}

fn is_brokers_by_level(topic: &str) -> bool {
    if topic.starts_with('$') {
        let first = topic.split_once('/').map_or(topic, |(first, _)| first);
        return first == "$SYS" || first == "$presence" || first == "$aws";
    }
    behind_mount(topic).flatten().is_some_and(|name| name.starts_with('$'))
}

/// Whether a vehicle's filter that begins with a wildcard is not for this topic: the vehicle would have to name it, or has no name for it.
pub fn is_hidden(topic: &str) -> bool {
    behind_mount(topic).is_some_and(|name| !name.is_some_and(is_said))
}

/// Whether a full filter of a vehicle begins with a wildcard behind its mount.
pub fn is_wide(filter: &str) -> bool {
    let shared = filter.strip_prefix(SHARE).and_then(|shared| shared.split_once('/'));
    let filter = shared.map_or(filter, |(_, filter)| filter);
    behind_mount(filter).flatten().is_some_and(|said| said.starts_with(['+', '#']))
}

/// Whether a vehicle may say the name by itself: there is one, and it is not the broker's.
fn is_said(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('$')
}

/// What stands behind the mount that a topic is in: nothing where it is the mount itself.
#[inline]
fn behind_mount(topic: &str) -> Option<Option<&str>> {
    let rest = match topic.as_bytes().first() {
        Some(b'v') => topic.strip_prefix(VEHICLES)?,
        Some(b'g') => topic.strip_prefix(GROUPS)?,
        Some(b'f') => {
            let rest = topic.strip_prefix("fleet")?;
            return if rest.is_empty() { Some(None) } else { rest.strip_prefix('/').map(Some) };
        }
        _ => return None,
    };
    Some(first_slash(rest.as_bytes()).and_then(|at| rest.get(at + 1..)))
}

/// Eight bytes at a time: this is asked about every delivery to a vehicle, and most have a VIN there.
#[inline]
fn first_slash(bytes: &[u8]) -> Option<usize> {
    const LOWEST: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        // A byte is zero now where it was a slash. The lowest of the highest bits that are set here is that of the first of them.
        let word = u64::from_le_bytes(*word) ^ u64::from_le_bytes([b'/'; 8]);
        let found = word.wrapping_sub(LOWEST) & !word & (LOWEST << 7);
        if found != 0 {
            return Some(at * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    rest.iter().position(|byte| *byte == b'/').map(|at| words.len() * 8 + at)
}

/// Eight bytes at a time: names are too short for what a search of the library sets up.
#[inline]
fn has_dollar(bytes: &[u8]) -> bool {
    const LOWEST: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes.as_chunks::<8>();
    let is_in = |word: &[u8; 8]| {
        // A byte is zero now where it was one.
        let word = u64::from_le_bytes(*word) ^ u64::from_le_bytes([b'$'; 8]);
        word.wrapping_sub(LOWEST) & !word & (LOWEST << 7) != 0
    };
    // The last eight cover the rest, where there are as many.
    words.iter().any(is_in) || bytes.last_chunk().map_or_else(|| rest.contains(&b'$'), is_in)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";
    const OTHER: &str = "WVWZZZ1JZ3W386752";

    fn mount() -> Mount {
        Mount::of(&Principal::Vehicle(VIN.parse().unwrap())).unwrap()
    }

    fn groups() -> Groups {
        Groups::new(["eu", "ring-1"]).unwrap()
    }

    #[test]
    fn only_vehicles_have_one() {
        for who in [Principal::Anonymous, Principal::service("s"), Principal::operator("o"), Principal::Shard(1)] {
            assert_eq!(Mount::of(&who), None);
        }
    }

    #[test]
    fn what_is_published_is_the_vehicles_own() {
        let mut name = String::from("left over");
        for (said, full) in [
            ("ECU_Details", Ok("vehicles/1M8GDM9AXKP042788/ECU_Details")),
            ("status/location", Ok("vehicles/1M8GDM9AXKP042788/status/location")),
            ("/x", Ok("vehicles/1M8GDM9AXKP042788//x")),
            ("../x", Ok("vehicles/1M8GDM9AXKP042788/../x")),
            ("vehicles/WVWZZZ1JZ3W386752/x", Ok("vehicles/1M8GDM9AXKP042788/vehicles/WVWZZZ1JZ3W386752/x")),
            ("fleet/x", Ok("vehicles/1M8GDM9AXKP042788/fleet/x")),
            ("a/$SYS", Ok("vehicles/1M8GDM9AXKP042788/a/$SYS")),
            ("$SYS/x", Err(MountError::Brokers)),
            ("$share/n/x", Err(MountError::Brokers)),
            ("$aws/things/1M8GDM9AXKP042788/shadow/get", Err(MountError::Brokers)),
            ("$", Err(MountError::Brokers)),
        ] {
            assert_eq!(mount().publish(said, &mut name), full, "{said}");
        }
        let longest = "x".repeat(BYTES_MAX - OWN_BYTES);
        assert_eq!(mount().publish(&longest, &mut name).map(str::len), Ok(BYTES_MAX));
        assert_eq!(mount().publish(&(longest + "x"), &mut name), Err(MountError::TooLong));
    }

    #[test]
    fn a_subscription_is_for_the_vehicle_its_groups_and_the_fleet() {
        let own = "vehicles/1M8GDM9AXKP042788";
        assert_eq!(
            mount().subscribe("cmd/#", &groups()).unwrap(),
            [&*format!("{own}/cmd/#"), "groups/eu/cmd/#", "groups/ring-1/cmd/#", "fleet/cmd/#"]
        );
        assert_eq!(mount().subscribe("+", &Groups::default()).unwrap(), [&*format!("{own}/+"), "fleet/+"]);
        assert_eq!(mount().subscribe("$share/n/a/+", &groups()).unwrap(), [format!("$share/n/{own}/a/+")]);
        assert_eq!(
            mount().subscribe("$share/n/$share/m/a", &groups()).unwrap(),
            [format!("$share/n/{own}/$share/m/a")]
        );
        for incomplete in ["$share/", "$share/n", "$share/n/", "$share//x"] {
            assert_eq!(mount().subscribe(incomplete, &groups()), Err(MountError::SharedIncomplete), "{incomplete}");
        }
        let longest = "x".repeat(BYTES_MAX - GROUP_BYTES_MAX);
        let group = Groups::new([&*"g".repeat(64)]).unwrap();
        assert_eq!(mount().subscribe(&longest, &group).unwrap()[1].len(), BYTES_MAX);
        assert_eq!(mount().subscribe(&(longest + "x"), &Groups::default()), Err(MountError::TooLong));
    }

    #[test]
    fn of_aws_names_it_has_those_of_its_own_shadows() {
        for own in [
            "$aws/things/1M8GDM9AXKP042788/shadow/update/delta",
            "$aws/things/1M8GDM9AXKP042788/shadow/#",
            "$share/n/$aws/things/1M8GDM9AXKP042788/shadow/get/+",
        ] {
            assert_eq!(mount().subscribe(own, &groups()).unwrap(), [own]);
            assert_eq!(mount().said(own).as_deref(), Some(own));
            assert_eq!((mount().said_alone(own), is_broadcast(own), is_wide(own)), (None, false, false));
        }
        for others in [
            "$aws",
            "$aws/#",
            "$aws/things/#",
            "$aws/things/+/shadow/#",
            "$aws/things/1M8GDM9AXKP042788/#",
            "$aws/things/1M8GDM9AXKP042788/jobs/#",
            "$aws/things/WVWZZZ1JZ3W386752/shadow/update/delta",
            "$share/n/$aws/things/WVWZZZ1JZ3W386752/shadow/#",
        ] {
            assert_eq!(mount().subscribe(others, &groups()), Err(MountError::NotItsShadow), "{others}");
            assert_eq!(mount().said(others), None);
        }
        let mounted = "vehicles/1M8GDM9AXKP042788/$awsome/x";
        assert_eq!(mount().subscribe("$awsome/x", &Groups::default()).unwrap()[0], mounted);
        let topic = "$aws/things/1M8GDM9AXKP042788/shadow/update/delta";
        assert_eq!(received(topic), topic);
    }

    #[test]
    fn names_of_the_broker_are_nobodys() {
        for (topic, brokers, hidden) in [
            ("$SYS", true, false),
            ("$SYS/x", true, false),
            ("$SYSTEM/x", false, false),
            ("$presence/X", true, false),
            ("$aws", true, false),
            ("$aws/things/X/shadow/get", true, false),
            ("$awsome/x", false, false),
            ("vehicles/X/$shadow/x", true, true),
            ("vehicles/X/$", true, true),
            ("groups/g/$x", true, true),
            ("fleet/$x", true, true),
            ("fleet", false, true),
            ("fleet/", false, true),
            ("fleets/$x", false, false),
            ("groups/g", false, true),
            ("vehicles/X", false, true),
            ("vehicles/X/", false, true),
            ("vehicles", false, false),
            ("vehicles/X//$x", false, false),
            ("vehicles/X/a/$x", false, false),
            ("vehicles/$x/y", false, false),
            ("a/vehicles/X/$x", false, false),
        ] {
            assert_eq!((is_brokers(topic), is_hidden(topic)), (brokers, hidden), "{topic}");
        }
    }

    #[test]
    fn a_response_topic_is_local_where_it_is_the_vehicles_own() {
        let own = format!("vehicles/{VIN}/reply");
        assert_eq!(mount().response(&own), Some("reply"));
        for topic in ["backend/reply", "vehicles/WVWZZZ1JZ3W386752/reply", "fleet/reply", "vehicles/1M8GDM9AXKP042788/"]
        {
            assert_eq!(mount().response(topic), None, "{topic}");
        }
        assert_eq!(mount().response(&format!("vehicles/{VIN}/$x")), None);
    }

    /// What a vehicle may say that wants out of its mount, and anything else.
    fn said() -> impl Strategy<Value = String> {
        let level = prop_oneof![
            Just(""),
            Just(".."),
            Just("."),
            Just("+"),
            Just("#"),
            Just("$share"),
            Just("$aws"),
            Just("$SYS"),
            Just("vehicles"),
            Just(VIN),
            Just(OTHER),
            Just("groups"),
            Just("eu"),
            Just("fleet"),
            Just("ｖehicles"),
            Just("ﬂeet"),
            Just("a"),
            Just("\u{202e}"),
        ];
        let of_levels = prop::collection::vec(level, 1..7).prop_map(|levels| levels.join("/"));
        prop_oneof![3 => of_levels, 1 => any::<String>()]
    }

    proptest! {
        #[test]
        fn whatever_is_published_lies_in_its_own_mount(said in said()) {
            let mut name = String::new();
            if let Ok(full) = mount().publish(&said, &mut name) {
                let own = format!("vehicles/{VIN}/");
                prop_assert!(full.starts_with(&own));
                prop_assert_eq!(received(full), &said);
                prop_assert!(!is_brokers(full));
            } else {
                prop_assert!(said.starts_with('$'));
            }
        }

        #[test]
        fn whatever_is_subscribed_to_lies_in_its_mounts(said in said()) {
            let shared = said.strip_prefix("$share/").and_then(|shared| shared.split_once('/'));
            let filters = match mount().subscribe(&said, &groups()) {
                Ok(filters) => filters,
                Err(MountError::NotItsShadow) => {
                    prop_assert!(shared.map_or(&*said, |(_, filter)| filter).starts_with("$aws"));
                    return Ok(());
                }
                Err(_) => {
                    prop_assert!(said.starts_with("$share/"));
                    return Ok(());
                }
            };
            let own = format!("vehicles/{VIN}/");
            if let Some((name, filter)) = shared {
                prop_assert_eq!(&filters, &[format!("$share/{name}/{own}{filter}")]);
            } else {
                let mounts = [&*own, "groups/eu/", "groups/ring-1/", "fleet/"];
                let full: Vec<String> = mounts.iter().map(|mount| format!("{mount}{said}")).collect();
                prop_assert_eq!(&filters, &full);
                prop_assert!(filters.iter().all(|filter| received(filter) == said));
            }
            let known = mount().said(&filters[0]);
            prop_assert_eq!(known.as_deref(), Some(&*said));
            prop_assert!(!is_broadcast(&filters[0]) && filters[1..].iter().all(|filter| is_broadcast(filter)));
            prop_assert!(filters[1..].iter().all(|filter| mount().said(filter).is_none()));
            let other = Mount::of(&Principal::Vehicle(OTHER.parse().unwrap())).unwrap();
            prop_assert!(filters.iter().all(|filter| other.said(filter).is_none()));
            let first = shared.map_or(&*said, |(_, filter)| filter);
            prop_assert!(filters.iter().all(|filter| is_wide(filter) == first.starts_with(['+', '#'])));
        }

        #[test]
        fn the_first_slash_is_the_first(text in "[./0aü]{0,30}") {
            prop_assert_eq!(first_slash(text.as_bytes()), text.find('/'));
        }

        #[test]
        fn a_dollar_is_found_wherever_it_is(text in "[#%\\$./0aü]{0,30}|[a-z]{0,20}\\$[a-z]{0,20}|[a-z/]{0,40}") {
            prop_assert_eq!(has_dollar(text.as_bytes()), text.contains('$'));
        }

        #[test]
        fn names_outside_of_mounts_stay_as_they_are(name in "[^vgf].*") {
            prop_assert_eq!(received(&name), &name);
        }
    }
}
