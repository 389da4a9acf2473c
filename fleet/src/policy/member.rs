//! Who has a role.
//!
//! Owns the patterns of members, and finds the roles of somebody without looking at all of them.

use std::collections::HashMap;

use super::template::Placeholder;
use crate::{Groups, Principal, Vin};

/// What kind of principal a pattern is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Vehicle,
    Service,
    Operator,
}

/// Somebody, or some.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Member {
    /// `*`
    Everybody,
    /// `anonymous`
    Anonymous,
    /// `group:NAME`: the vehicles of a group.
    Group(Box<str>),
    /// `vehicle:VIN`, `service:NAME` or `operator:NAME`.
    One(Kind, Box<str>),
    /// Likewise, with a star at the end: all whose name begins so.
    Prefix(Kind, Box<str>),
}

impl Member {
    /// The longest, in bytes.
    const BYTES_MAX: usize = 256;

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(super) fn parse(text: &str) -> Result<Member, String> {
        if text.len() > Member::BYTES_MAX {
            return Err(format!("a member has at most {} bytes", Member::BYTES_MAX));
        }
        match text.split_once(':') {
            None if text == "*" => Ok(Member::Everybody),
            None if text == "anonymous" => Ok(Member::Anonymous),
            Some(("group", name)) => match Groups::check_name(name) {
                Ok(()) => Ok(Member::Group(name.into())),
                Err(error) => Err(format!("{name:?}: {error}")),
            },
            Some(("vehicle", name)) => named(Kind::Vehicle, name),
            Some(("service", name)) => named(Kind::Service, name),
            Some(("operator", name)) => named(Kind::Operator, name),
            _ => Err(format!(
                "{text:?} is nobody: a member is \"vehicle:VIN\", \"group:NAME\", \"service:NAME\" or \"operator:NAME\", where a name may \
                 end with a star, or \"anonymous\", or \"*\" for everybody"
            )),
        }
    }

    /// Whether all whom `other` means are meant.
    pub(super) fn covers(&self, other: &Member) -> bool {
        match (self, other) {
            (Member::Everybody, _) => true,
            (Member::Prefix(Kind::Vehicle, prefix), Member::Group(_)) => prefix.is_empty(),
            (Member::Prefix(kind, prefix), Member::One(of, name) | Member::Prefix(of, name)) => {
                kind == of && name.starts_with(&**prefix)
            }
            _ => self == other,
        }
    }

    /// Whether a placeholder stands for something of any whom it means.
    pub(super) fn has(&self, own: Placeholder) -> bool {
        match self {
            Member::Everybody => true,
            Member::Group(_) | Member::One(Kind::Vehicle, _) | Member::Prefix(Kind::Vehicle, _) => {
                matches!(own, Placeholder::Vin | Placeholder::Group)
            }
            Member::One(Kind::Service, _) | Member::Prefix(Kind::Service, _) => own == Placeholder::Service,
            Member::Anonymous | Member::One(Kind::Operator, _) | Member::Prefix(Kind::Operator, _) => false,
        }
    }
}

fn named(kind: Kind, text: &str) -> Result<Member, String> {
    let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
    if name.contains('*') {
        return Err(format!("{text:?}: a star stands at the end of a name"));
    }
    if name.is_empty() && !is_prefix {
        return Err("the name is missing".to_owned());
    }
    if kind == Kind::Vehicle {
        check_vin(name, is_prefix)?;
    }
    Ok(if is_prefix { Member::Prefix(kind, name.into()) } else { Member::One(kind, name.into()) })
}

fn check_vin(text: &str, is_prefix: bool) -> Result<(), String> {
    let padding = if is_prefix { Vin::LENGTH.saturating_sub(text.chars().count()) } else { 0 };
    let whole = format!("{text}{}", "0".repeat(padding));
    whole.parse::<Vin>().map(|_| ()).map_err(|error| format!("{text:?}: {error}"))
}

/// Roles by those who have them.
#[derive(Debug, Default)]
pub(super) struct Members {
    everybody: Vec<u16>,
    anonymous: Vec<u16>,
    groups: HashMap<Box<str>, Vec<u16>>,
    named: HashMap<(Kind, Box<str>), Vec<u16>>,
    prefixes: Vec<(Kind, Box<str>, u16)>,
}

impl Members {
    pub(super) fn add(&mut self, role: u16, member: &Member) {
        match member {
            Member::Everybody => self.everybody.push(role),
            Member::Anonymous => self.anonymous.push(role),
            Member::Group(name) => self.groups.entry(name.clone()).or_default().push(role),
            Member::One(kind, name) => self.named.entry((*kind, name.clone())).or_default().push(role),
            Member::Prefix(kind, name) => self.prefixes.push((*kind, name.clone(), role)),
        }
    }

    /// Calls for each role of somebody, for some perhaps more than once.
    pub(super) fn roles_of(&self, principal: &Principal, groups: &Groups, mut visit: impl FnMut(u16)) {
        let (kind, name) = match principal {
            Principal::Vehicle(vin) => (Kind::Vehicle, vin.as_str()),
            Principal::Service(name) => (Kind::Service, &**name),
            Principal::Operator(name) => (Kind::Operator, &**name),
            Principal::Anonymous => {
                self.everybody.iter().chain(&self.anonymous).copied().for_each(visit);
                return;
            }
            // It is no client.
            Principal::Shard(_) => return,
        };
        self.everybody.iter().copied().for_each(&mut visit);
        self.named.get(&(kind, name.into())).into_iter().flatten().copied().for_each(&mut visit);
        let of_prefix = self.prefixes.iter().filter(|(of, prefix, _)| *of == kind && name.starts_with(&**prefix));
        of_prefix.for_each(|(_, _, role)| visit(*role));
        if kind == Kind::Vehicle {
            groups.iter().filter_map(|group| self.groups.get(group)).flatten().copied().for_each(visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[&str] = &[
        "*",
        "anonymous",
        "group:eu",
        "vehicle:*",
        "vehicle:1M8*",
        "vehicle:1M8GDM9AXKP042788",
        "service:*",
        "service:ota-*",
        "service:ota-1",
        "operator:*",
        "operator:olga",
    ];

    #[test]
    fn syntax() {
        for text in ALL {
            assert!(Member::parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "olga",
            "shard:1",
            "group:",
            "group:*",
            "group:a/b",
            "vehicle:",
            "vehicle:x",
            "vehicle:1M8GDM9AXKP0427888*",
            "vehicle:I*",
            "service:",
            "service:a*b",
            "service:**",
            "operator:",
            "Anonymous",
            "user:a",
        ] {
            assert!(Member::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn members_are_found_and_nobody_else() {
        let mut members = Members::default();
        for (role, text) in ALL.iter().enumerate() {
            members.add(role as u16, &Member::parse(text).unwrap());
        }
        let check = |user: &Principal, groups: &[&str], expected: &[&str]| {
            let mut found = Vec::new();
            let groups = Groups::new(groups.iter().copied()).unwrap();
            members.roles_of(user, &groups, |role| found.push(ALL[usize::from(role)]));
            found.sort_by_key(|text| ALL.iter().position(|other| other == text));
            assert_eq!(found, expected, "{user}");
        };
        let car = |vin: &str| Principal::Vehicle(vin.parse().unwrap());
        check(&Principal::Anonymous, &[], &["*", "anonymous"]);
        check(&car("1M8GDM9AXKP042788"), &["eu"], &ALL[..1].iter().chain(&ALL[2..6]).copied().collect::<Vec<_>>());
        check(&car("5GZCZ43D13S812715"), &["us"], &["*", "vehicle:*"]);
        check(&Principal::service("ota-1"), &[], &["*", "service:*", "service:ota-*", "service:ota-1"]);
        check(&Principal::service("ota-2"), &["eu"], &["*", "service:*", "service:ota-*"]);
        check(&Principal::service("olga"), &[], &["*", "service:*"]);
        check(&Principal::operator("olga"), &[], &["*", "operator:*", "operator:olga"]);
        check(&Principal::Shard(1), &[], &[]);
    }

    #[test]
    fn wider_members_cover_narrower_ones() {
        let covered = |outer: &str, inner: &str| Member::parse(outer).unwrap().covers(&Member::parse(inner).unwrap());
        assert!(ALL.iter().all(|text| covered("*", text) && covered(text, text)));
        assert!(covered("vehicle:*", "group:eu") && !covered("vehicle:1M8*", "group:eu"));
        assert!(covered("service:ota-*", "service:ota-1") && !covered("service:ota-1", "service:ota-*"));
        assert!(!covered("operator:*", "service:ota-1") && !covered("group:eu", "vehicle:1M8*"));
    }
}
