//! Filters with placeholders: which topics a rule is about, for whoever asks.
//!
//! Owns their syntax, and what a placeholder stands for. A placeholder is one whole level, and so never more than one.

use super::Subject;
use super::filter::{Part, holds, meets, parts};

/// What stands for a name of whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Placeholder {
    /// `{vin}`: of a vehicle, its identification number.
    Vin,
    /// `{group}`: of a vehicle, any of its groups.
    Group,
    /// `{service}`: of a service, its name.
    Service,
}

impl Placeholder {
    pub(super) const ALL: [Placeholder; 3] = [Placeholder::Vin, Placeholder::Group, Placeholder::Service];

    pub(super) fn text(self) -> &'static str {
        match self {
            Placeholder::Vin => "{vin}",
            Placeholder::Group => "{group}",
            Placeholder::Service => "{service}",
        }
    }

    /// Whether it stands for this name.
    #[inline]
    pub(super) fn is(self, subject: Subject<'_>, name: &str) -> bool {
        match self {
            Placeholder::Vin => subject.principal.vin().is_some_and(|vin| vin.as_str() == name),
            Placeholder::Group => subject.groups.contains(name),
            Placeholder::Service => subject.service().is_some_and(|service| service == name),
        }
    }

    /// Whether it stands for anything.
    fn is_any(self, subject: Subject<'_>) -> bool {
        match self {
            Placeholder::Vin => subject.principal.vin().is_some(),
            Placeholder::Group => !subject.groups.is_empty(),
            Placeholder::Service => subject.service().is_some(),
        }
    }
}

/// A topic filter, of which whole levels may be placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Box<str>);

impl Template {
    /// The longest, in bytes.
    pub(super) const BYTES_MAX: usize = 1024;
    /// The most levels.
    pub(super) const LEVELS_MAX: usize = 64;

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        if text.is_empty() || text.len() > Template::BYTES_MAX {
            return Err(format!("a topic has 1 to {} bytes, not {}", Template::BYTES_MAX, text.len()));
        }
        if text.starts_with("$share/") {
            return Err("a shared subscription is decided by the filter inside: leave \"$share/NAME/\" out".to_owned());
        }
        if text.split('/').count() > Template::LEVELS_MAX {
            return Err(format!("a topic has at most {} levels", Template::LEVELS_MAX));
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            check_level(level, levels.peek().is_none())?;
        }
        Ok(Template(text.into()))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        parts(&self.0).map(|part| match part {
            Part::Name(name) => placeholder(name).map_or(part, Part::Own),
            _ => part,
        })
    }

    pub(super) fn placeholders(&self) -> impl Iterator<Item = Placeholder> {
        self.parts().filter_map(|part| match part {
            Part::Own(own) => Some(own),
            _ => None,
        })
    }

    /// Whether it has a topic for this one at all.
    fn is_for(&self, subject: Subject<'_>) -> bool {
        self.placeholders().all(|own| own.is_any(subject))
    }

    /// Whether all topics of a filter are among those it has for this one.
    pub(super) fn holds(&self, subject: Subject<'_>, filter: &str) -> bool {
        // A name that looks like a wildcard is a name: what is asked for by wildcard is never within it.
        holds(self.parts(), parts(filter), |own, part| matches!(part, Part::Name(name) if own.is(subject, name)))
    }

    /// Whether some topic of a filter is among those it has for this one.
    pub(super) fn meets(&self, subject: Subject<'_>, filter: &str) -> bool {
        let meet = |own: Placeholder, part: Part<'_>| match part {
            Part::Name(name) => own.is(subject, name),
            _ => own.is_any(subject),
        };
        self.is_for(subject) && meets(self.parts(), parts(filter), meet)
    }

    /// Whether it has all topics that another one has, whoever asks.
    pub(super) fn covers(&self, other: &Template) -> bool {
        holds(self.parts(), other.parts(), |own, part| part == Part::Own(own))
    }
}

fn placeholder(level: &str) -> Option<Placeholder> {
    if !level.starts_with('{') {
        return None;
    }
    Placeholder::ALL.into_iter().find(|own| own.text() == level)
}

fn check_level(level: &str, is_last: bool) -> Result<(), String> {
    if level.contains('\0') {
        return Err("a topic has no U+0000".to_owned());
    }
    if level.contains('#') && (level != "#" || !is_last) {
        return Err("'#' stands alone in the last level".to_owned());
    }
    if level.contains('+') && level != "+" {
        return Err("'+' stands alone in its level".to_owned());
    }
    if level.contains(['{', '}']) && placeholder(level).is_none() {
        return Err(format!(
            "{level:?} is no placeholder: {{vin}}, {{group}} and {{service}} are, each alone in its level"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rights;
    use crate::{Groups, Principal};

    #[test]
    fn syntax() {
        for text in ["a", "#", "+", "a/+/#", "vehicles/{vin}/#", "{group}", "/", "", "a//b", "$SYS/#"] {
            assert_eq!(Template::parse(text).is_ok(), !text.is_empty(), "{text:?}");
        }
        let long = "a".repeat(Template::BYTES_MAX + 1);
        let deep = "/".repeat(Template::LEVELS_MAX);
        for text in
            ["a/#/b", "a#", "a+/b", "{Vin}", "{vin", "x{vin}", "{vin}{vin}", "{}", "a\0b", "$share/g/a", &long, &deep]
        {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_placeholder_stands_for_one_level_of_whoever_asks() {
        let check = |principal: &str, groups: &[&str], template: &str, filter: &str, holds: bool, meets: bool| {
            let (principal, groups) = (Principal::of_user(principal), Groups::new(groups.iter().copied()).unwrap());
            let rights = Rights::default();
            let subject = Subject { principal: &principal, groups: &groups, rights: &rights };
            let template = Template::parse(template).unwrap();
            let told = format!("{principal} {} {filter}", template.text());
            assert_eq!(template.holds(subject, filter), holds, "{told}");
            assert_eq!(template.meets(subject, filter), meets, "{told}");
        };
        let car = "vehicle:1M8GDM9AXKP042788";
        check(car, &[], "v/{vin}/#", "v/1M8GDM9AXKP042788/a", true, true);
        check(car, &[], "v/{vin}/#", "v/+/a", false, true);
        check(car, &[], "v/{vin}/#", "v/1m8gdm9axkp042788/a", false, false);
        check(car, &["eu", "r1"], "g/{group}/x", "g/eu/x", true, true);
        check(car, &["eu", "r1"], "g/{group}/x", "g/us/x", false, false);
        check(car, &["eu", "r1"], "g/{group}/x", "g/#", false, true);
        check(car, &[], "g/{group}/x", "g/#", false, false);
        check(car, &[], "s/{service}/x", "#", false, false);
        check("maps", &[], "s/{service}/x", "s/maps/x", true, true);
        check("operator:maps", &[], "s/{service}/x", "s/maps/x", false, false);
        // Names that are no level, or look like something else, give nothing away.
        check("+", &[], "s/{service}/x", "s/+/x", false, true);
        check("#", &[], "s/{service}", "s/#", false, true);
        check("a/b", &[], "s/{service}/x", "s/a/b/x", false, false);
        check("$SYS", &[], "{service}/#", "$SYS/uptime", false, false);
        check("{vin}", &[], "s/{service}", "s/{vin}", true, true);
    }
}
