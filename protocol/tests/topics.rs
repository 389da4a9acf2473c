//! Topic names and filters: tables of what is valid and what matches, and the matcher against a naive one.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use causeway_protocol::*;
use proptest::prelude::*;

#[test]
fn topic_names() {
    let long = "a".repeat(65_536);
    for (name, expected) in [
        ("a", Ok(())),
        ("/", Ok(())),
        ("a//b/", Ok(())),
        ("$SYS/x", Ok(())),
        (" ", Ok(())),
        ("äöü/🚗", Ok(())),
        (&long[1..], Ok(())),
        //= test [MQTT-4.7.3-1]
        ("", Err(TopicError::Empty)),
        //= test [MQTT-4.7.3-3]
        (&long, Err(TopicError::TooLong)),
        //= test [MQTT-4.7.0-1]
        ("a/+", Err(TopicError::Wildcard)),
        ("a#", Err(TopicError::Wildcard)),
        //= test [MQTT-4.7.3-2]
        ("a\0", Err(TopicError::Nul)),
        ("1/2/3/4/5", Err(TopicError::TooManyLevels { levels: 5, levels_max: 4 })),
    ] {
        assert_eq!(check_topic_name(name, 4), expected, "{:.20}", name);
    }
}

#[test]
fn topic_filters() {
    let long = "a".repeat(65_536);
    for (filter, expected) in [
        ("a/b", Ok(())),
        ("#", Ok(())),
        ("+", Ok(())),
        ("/", Ok(())),
        ("+/+", Ok(())),
        ("+/#", Ok(())),
        ("/+", Ok(())),
        ("a/+/ä/#", Ok(())),
        ("$share", Ok(())),
        ("$shared/a", Ok(())),
        ("$SYS/#", Ok(())),
        //= test [MQTT-4.7.3-1]
        ("", Err(FilterError::Empty)),
        //= test [MQTT-4.7.3-3]
        (&long, Err(FilterError::TooLong)),
        //= test [MQTT-4.7.3-2]
        ("a\0", Err(FilterError::Nul)),
        //= test [MQTT-4.7.1-1]
        ("a#", Err(FilterError::MisplacedMultiLevel)),
        ("#/a", Err(FilterError::MisplacedMultiLevel)),
        ("a/#/b", Err(FilterError::MisplacedMultiLevel)),
        ("a/#/", Err(FilterError::MisplacedMultiLevel)),
        ("##", Err(FilterError::MisplacedMultiLevel)),
        ("#/#", Err(FilterError::MisplacedMultiLevel)),
        //= test [MQTT-4.7.1-2]
        ("a+", Err(FilterError::MisplacedSingleLevel)),
        ("+a/b", Err(FilterError::MisplacedSingleLevel)),
        ("++", Err(FilterError::MisplacedSingleLevel)),
        ("1/2/3/4/#", Err(FilterError::TooManyLevels { levels: 5, levels_max: 4 })),
        //= test [MQTT-4.8.2-1]
        //= test [MQTT-4.8.2-2]
        ("$share/g/a", Ok(())),
        ("$share/g/#", Ok(())),
        ("$share/g//", Ok(())),
        ("$share/g/1/2/3/4", Ok(())),
        ("$share/g/1/2/3/4/5", Err(FilterError::TooManyLevels { levels: 5, levels_max: 4 })),
        ("$share/", Err(FilterError::SharedIncomplete)),
        ("$share/g", Err(FilterError::SharedIncomplete)),
        ("$share/g/", Err(FilterError::SharedIncomplete)),
        ("$share//a", Err(FilterError::SharedIncomplete)),
        ("$share/g+/a", Err(FilterError::ShareNameWildcard)),
        ("$share/#/a", Err(FilterError::ShareNameWildcard)),
        ("$share/g/a#", Err(FilterError::MisplacedMultiLevel)),
    ] {
        assert_eq!(check_topic_filter(filter, 4), expected, "{:.20}", filter);
    }
}

#[test]
fn shared_subscriptions_are_taken_apart() {
    let shared = parse_shared("$share/group/a/+/b").expect("valid").expect("shared");
    assert_eq!((shared.share_name, shared.filter), ("group", "a/+/b"));
    assert_eq!(parse_shared("$share"), Ok(None));
    assert_eq!(parse_shared("a/$share/g/b"), Ok(None));
    assert_eq!(parse_shared("$share/g"), Err(FilterError::SharedIncomplete));
}

#[test]
fn matches_of_the_specification() {
    for (filter, name, expected) in [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/tennis/player1/#", "sport/tennis/player10", false),
        ("sport/#", "sport", true),
        ("#", "a/b/c", true),
        ("#", "/", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+", "finance", true),
        ("+", "/finance", false),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+/tennis/#", "sport/tennis", true),
        ("a/b", "a/b/", false),
        ("a/b/", "a/b", false),
        ("a", "A", false),
        ("ä/+", "ä/🚗", true),
        //= test [MQTT-4.7.2-1]
        ("#", "$SYS/x", false),
        ("+/x", "$SYS/x", false),
        ("+", "$SYS", false),
        ("$SYS/#", "$SYS/x", true),
        ("$SYS/+", "$SYS/x", true),
        ("$SYS/#", "$SYS", true),
        ("a/+", "a/$b", true),
        ("a/#", "a/$b", true),
        //= test [MQTT-4.7.3-4]
        ("a\u{0301}", "\u{00E1}", false),
    ] {
        assert_eq!(filter_matches(filter, name), expected, "{filter} {name}");
    }
}

/// Levels as lists, compared by recursion: slow and plain.
fn matches_naively(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", filter @ ..], [_, name @ ..]) => matches_naively(filter, name),
        ([level, filter @ ..], [other, name @ ..]) => level == other && matches_naively(filter, name),
        _ => false,
    }
}

/// Valid filters of one to five levels.
fn filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "", "+", "ä", "$", "ab"]);
    (prop::collection::vec(level, 1..5), any::<bool>()).prop_map(|(mut levels, has_multi_level)| {
        if has_multi_level {
            levels.push("#");
        }
        // One empty level would be no filter at all.
        if levels == [""] { "#".to_owned() } else { levels.join("/") }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_matcher_agrees_with_a_naive_one((filter, name) in (filter(), "[ab/$ä]{1,6}")) {
        prop_assert_eq!(check_topic_filter(&filter, 99), Ok(()));
        let levels: Vec<_> = filter.split('/').collect();
        let names: Vec<_> = name.split('/').collect();
        let hidden = name.starts_with('$') && filter.starts_with(['+', '#']);
        prop_assert_eq!(filter_matches(&filter, &name), !hidden && matches_naively(&levels, &names));
    }

    #[test]
    fn names_without_wildcards_match_themselves(name in "[ab/$ä🚗]{1,8}") {
        prop_assert_eq!(check_topic_name(&name, 99), Ok(()));
        prop_assert_eq!(check_topic_filter(&name, 99), Ok(()));
        prop_assert!(filter_matches(&name, &name));
    }

    #[test]
    fn levels_are_counted_as_slashes_are(name in "[/.0oa\u{af}\u{2f2f}]{1,40}", levels_max in 1..20usize) {
        let levels = name.matches('/').count() + 1;
        let expected = if levels > levels_max { Err(TopicError::TooManyLevels { levels, levels_max }) } else { Ok(()) };
        prop_assert_eq!(check_topic_levels(&name, levels_max), expected);
        prop_assert_eq!(check_topic_name(&name, levels_max), expected);
    }

    #[test]
    fn any_text_is_checked_without_panic((filter, name) in (".{0,20}", ".{0,20}")) {
        let _ = check_topic_name(&name, 3);
        let _ = check_topic_filter(&filter, 3);
        let _ = filter_matches(&filter, &name);
        let _ = parse_shared(&filter);
    }
}
