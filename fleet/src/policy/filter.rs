//! Sets of topics: what is within what, and what meets what.
//!
//! Owns the algebra of topic filters, and of filters with placeholders. It never knows whose they are: the caller says what a
//! placeholder stands for.

use super::template::Placeholder;

/// One level of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part<'a> {
    /// This name. That of nobody's wish is ever `+` or `#`.
    Name(&'a str),
    /// `+`
    One,
    /// `#`
    Rest,
    /// What stands for a name, or for any of several.
    Own(Placeholder),
}

impl Part<'_> {
    /// Whether a wildcard in front leaves it out.
    fn is_the_brokers(self) -> bool {
        matches!(self, Part::Name(name) if name.starts_with('$'))
    }
}

/// The levels of a valid filter without placeholders.
pub(super) fn parts(filter: &str) -> impl Iterator<Item = Part<'_>> {
    filter.split('/').map(|level| match level {
        "+" => Part::One,
        "#" => Part::Rest,
        name => Part::Name(name),
    })
}

/// Whether every topic name that matches `inner` matches `outer`, too. Both are valid filters, neither of them a shared subscription's.
///
/// ```
/// use causeway_fleet::policy::contains;
/// assert!(contains("a/#", "a/+/b") && contains("a/#", "a") && contains("+/#", "#"));
/// assert!(!contains("a/+", "a/#") && !contains("#", "$SYS/uptime"));
/// ```
pub fn contains(outer: &str, inner: &str) -> bool {
    holds(parts(outer), parts(inner), |_, _| false)
}

/// Whether some topic name matches both filters.
///
/// ```
/// use causeway_fleet::policy::overlaps;
/// assert!(overlaps("a/+", "+/b") && overlaps("a/#", "a"));
/// assert!(!overlaps("a/+", "a/b/c") && !overlaps("+/uptime", "$SYS/uptime"));
/// ```
pub fn overlaps(one: &str, other: &str) -> bool {
    meets(parts(one), parts(other), |_, _| false)
}

/// [`contains`] by levels. `owns`: whether a placeholder of `outer` stands for all that a level of `inner` does.
pub(super) fn holds<'a>(
    mut outer: impl Iterator<Item = Part<'a>>,
    inner: impl Iterator<Item = Part<'a>>,
    owns: impl Fn(Placeholder, Part<'a>) -> bool,
) -> bool {
    let mut inner = inner.peekable();
    // In front, "#" is what "+/#" is: no name is without a level.
    let in_front = (inner.peek() == Some(&Part::Rest)).then_some(Part::One);
    let mut inner = in_front.into_iter().chain(inner);
    let mut is_first = true;
    loop {
        let (out, within) = (outer.next(), inner.next());
        if is_first && out.is_some_and(|out| !matches!(out, Part::Name(_))) && within.is_some_and(Part::is_the_brokers)
        {
            return false;
        }
        is_first = false;
        let is_held = match (out, within) {
            // It matches the level above, too.
            (Some(Part::Rest), _) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) | (Some(_), Some(Part::Rest)) => return false,
            (Some(Part::One), Some(_)) => true,
            (Some(Part::Name(name)), Some(within)) => within == Part::Name(name),
            (Some(Part::Own(own)), Some(within)) => owns(own, within),
        };
        if !is_held {
            return false;
        }
    }
}

/// [`overlaps`] by levels. `meets`: whether a placeholder of `one` stands for something that a level of `other`, a name or `+`, does.
pub(super) fn meets<'a>(
    mut one: impl Iterator<Item = Part<'a>>,
    mut other: impl Iterator<Item = Part<'a>>,
    meets: impl Fn(Placeholder, Part<'a>) -> bool,
) -> bool {
    let mut is_first = true;
    loop {
        let (left, right) = (one.next(), other.next());
        let is_wild = |part: Option<Part<'_>>| part.is_some_and(|part| !matches!(part, Part::Name(_)));
        let is_the_brokers = |part: Option<Part<'_>>| part.is_some_and(Part::is_the_brokers);
        if is_first && (is_wild(left) && is_the_brokers(right) || is_the_brokers(left) && is_wild(right)) {
            return false;
        }
        is_first = false;
        let is_met = match (left, right) {
            (Some(Part::Rest), _) | (_, Some(Part::Rest)) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(Part::Own(own)), Some(part)) | (Some(part), Some(Part::Own(own))) => meets(own, part),
            (Some(Part::One), Some(_)) | (Some(_), Some(Part::One)) => true,
            (Some(Part::Name(name)), Some(Part::Name(same))) => name == same,
        };
        if !is_met {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// All texts of 1 to `levels` levels, each one of `alphabet`.
    fn all(alphabet: &[&str], levels: usize) -> Vec<String> {
        let mut texts: Vec<String> = alphabet.iter().map(|&level| level.to_owned()).collect();
        let mut longest = texts.clone();
        for _ in 1..levels {
            longest =
                longest.iter().flat_map(|text| alphabet.iter().map(move |level| format!("{text}/{level}"))).collect();
            texts.extend(longest.iter().cloned());
        }
        texts
    }

    /// The specification's words, level by level, and nothing clever.
    fn naive(filter: &[&str], name: &[&str]) -> bool {
        match (filter, name) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, name @ ..]) => naive(filter, name),
            ([level, filter @ ..], [same, name @ ..]) => level == same && naive(filter, name),
            _ => false,
        }
    }

    fn naive_match(filter: &str, name: &str) -> bool {
        let is_left_out = name.starts_with('$') && filter.starts_with(['+', '#']);
        !is_left_out && naive(&filter.split('/').collect::<Vec<_>>(), &name.split('/').collect::<Vec<_>>())
    }

    /// Every pair of filters up to three levels, against all names up to four. "z" stands for all names that no filter has.
    #[test]
    fn containment_and_overlap_are_what_all_names_say() {
        let names = all(&["a", "", "$s", "z"], 4);
        let is_filter = |text: &String| !text.contains("#/");
        let filters: Vec<String> = all(&["a", "", "$s", "+", "#"], 3).into_iter().filter(is_filter).collect();
        let matched: Vec<HashSet<usize>> = filters
            .iter()
            .map(|filter| (0..names.len()).filter(|&at| naive_match(filter, &names[at])).collect())
            .collect();
        for (outer, of_outer) in filters.iter().zip(&matched) {
            for (inner, of_inner) in filters.iter().zip(&matched) {
                assert_eq!(contains(outer, inner), of_inner.is_subset(of_outer), "{outer:?} contains {inner:?}");
                assert_eq!(overlaps(outer, inner), !of_inner.is_disjoint(of_outer), "{outer:?} meets {inner:?}");
            }
        }
    }

    #[test]
    fn no_wildcard_is_within_a_narrower_one() {
        for (outer, inner) in [
            ("a/+", "a/#"),
            ("a/b", "a/+"),
            ("+", "#"),
            ("a/+/c", "a/#"),
            ("+/a", "+/+"),
            ("#", "$SYS/#"),
            ("+/+", "+"),
        ] {
            assert!(!contains(outer, inner), "{outer} {inner}");
        }
    }
}
