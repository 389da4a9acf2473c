//! The policy as a whole: decisions, and what is said about wrong texts.

use super::*;

const VIN: &str = "1M8GDM9AXKP042788";
const OTHER: &str = "5GZCZ43D13S812715";

const FLEET: &str = r##"
[[role]]
name = "vehicle"
members = ["vehicle:*"]
[[role.rule]]
name = "own-telemetry"
effect = "allow"
actions = ["publish", "retain"]
topics = ["vehicles/{vin}/telemetry/#"]
qos_max = 1
[[role.rule]]
name = "own-state"
effect = "allow"
actions = ["publish", "will", "retain"]
topics = ["vehicles/{vin}/state"]
[[role.rule]]
name = "orders"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["vehicles/{vin}/cmd/#", "groups/{group}/#", "fleet/+"]
[[role.rule]]
name = "no-secrets"
effect = "deny"
actions = ["publish", "receive"]
topics = ["vehicles/+/telemetry/secret/#", "groups/+/secret"]

[[role]]
name = "backend"
members = ["service:analytics", "service:ota-*"]
[[role.rule]]
name = "all-telemetry"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["vehicles/+/telemetry/#"]
qos_max = 1
[[role.rule]]
name = "own"
effect = "allow"
actions = ["publish", "subscribe", "receive"]
topics = ["services/{service}/#"]
[[role.rule]]
name = "orders-to-all"
effect = "allow"
actions = ["publish", "command"]
topics = ["vehicles/+/cmd/#"]

[[role]]
name = "operator"
members = ["operator:*"]
[[role.rule]]
name = "looks"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["#", "$SYS/#"]
[[role.rule]]
name = "not-private"
effect = "deny"
actions = ["receive"]
topics = ["vehicles/+/private/#"]

[[role]]
name = "suspects"
members = ["group:suspects"]
[[role.rule]]
name = "silent"
effect = "deny"
actions = ["publish"]
topics = ["#"]
"##;

fn policy(text: &str) -> Policy {
    match Policy::parse(text) {
        Ok((policy, warnings)) => {
            assert!(warnings.is_empty(), "{}", told(&warnings));
            policy
        }
        Err(problems) => panic!("{}", told(&problems)),
    }
}

fn told(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// `vehicle:VIN,group=NAME`.
fn somebody(text: &str) -> (Principal, Groups) {
    let mut parts = text.split(",group=");
    let principal = match parts.next().unwrap() {
        "anonymous" => Principal::Anonymous,
        "shard" => Principal::Shard(1),
        user => Principal::of_user(user),
    };
    (principal, Groups::new(parts).unwrap())
}

/// What is asked, as in `publish 1 retain TOPIC`.
fn decide(policy: &Policy, cache: &mut DecisionCache, who: &str, asked: &str) -> Decision {
    let (principal, groups) = somebody(who);
    let rights = policy.rights(&principal, &groups);
    let subject = Subject { principal: &principal, groups: &groups, rights: &rights };
    let words: Vec<&str> = asked.split(' ').collect();
    let (topic, qos, retain) = (words[words.len() - 1], words[1].parse().unwrap_or(0), words.contains(&"retain"));
    match words[0] {
        "publish" => {
            let decision = policy.publish(subject, topic, qos, retain);
            assert_eq!(cache.publish(policy, subject, topic, qos, retain), decision, "{who} {asked}");
            decision
        }
        "will" => policy.will(subject, topic, qos, retain),
        "subscribe" => policy.subscribe(subject, topic, false),
        "share" => policy.subscribe(subject, topic, true),
        "receive" => {
            let decision = policy.receive(subject, topic);
            assert_eq!(cache.receive(policy, subject, topic), decision, "{who} {asked}");
            decision
        }
        "command" => policy.command(subject, topic),
        other => panic!("{other}"),
    }
}

fn answer(policy: &Policy, decision: Decision) -> String {
    match decision {
        Decision::Allow(Grant { qos_max, rule }) => {
            format!("{} {qos_max}", rule.and_then(|id| policy.rule(id)).map_or("open", |rule| rule.name))
        }
        Decision::Deny(denial) => policy.why(denial),
    }
}

#[test]
fn decisions_are_made_by_the_rules() {
    let policy = policy(FLEET);
    let mut cache = DecisionCache::new(7);
    let car = format!("vehicle:{VIN}");
    let grouped = format!("vehicle:{VIN},group=eu");
    let suspect = format!("vehicle:{VIN},group=suspects");
    let none = |action: &str| format!("no rule allows it to {action}");
    let rows: &[(&str, String, String)] = &[
        (&car, format!("publish 1 vehicles/{VIN}/telemetry/speed"), "own-telemetry 1".into()),
        (&car, format!("publish 1 vehicles/{VIN}/telemetry"), "own-telemetry 1".into()),
        (
            &car,
            format!("publish 2 vehicles/{VIN}/telemetry/speed"),
            "rule \"own-telemetry\" of role \"vehicle\" allows it up to QoS 1".into(),
        ),
        (&car, format!("publish 1 retain vehicles/{VIN}/telemetry/speed"), "own-telemetry 1".into()),
        (&car, format!("publish 0 vehicles/{OTHER}/telemetry/speed"), none("publish")),
        (&car, format!("publish 0 vehicles/{VIN}/Telemetry/speed"), none("publish")),
        (&car, format!("publish 0 /vehicles/{VIN}/telemetry/speed"), none("publish")),
        (&car, format!("publish 0 vehicles//{VIN}/telemetry/speed"), none("publish")),
        (&car, format!("publish 0 vehicles/{VIN}/../{OTHER}/telemetry"), none("publish")),
        (
            &car,
            format!("publish 0 vehicles/{VIN}/telemetry/secret/key"),
            "denied by rule \"no-secrets\" of role \"vehicle\"".into(),
        ),
        (&car, "publish 0 $SYS/uptime".into(), "the topic belongs to the broker".into()),
        (&car, format!("will 1 retain vehicles/{VIN}/state"), "own-state 2".into()),
        (&car, format!("will 1 vehicles/{VIN}/telemetry/speed"), none("will")),
        (&car, format!("subscribe vehicles/{VIN}/cmd/#"), "orders 2".into()),
        (&car, format!("subscribe vehicles/{VIN}/cmd/+/x"), "orders 2".into()),
        (&car, format!("subscribe vehicles/{VIN}/#"), none("subscribe")),
        (&car, "subscribe vehicles/+/cmd/#".into(), none("subscribe")),
        (&car, "subscribe fleet/+".into(), "orders 2".into()),
        (&car, "subscribe fleet/#".into(), none("subscribe")),
        (&car, "subscribe groups/eu/ota".into(), none("subscribe")),
        (&grouped, "subscribe groups/eu/ota".into(), "orders 2".into()),
        (&grouped, "subscribe groups/us/ota".into(), none("subscribe")),
        (&grouped, "subscribe groups/+/ota".into(), none("subscribe")),
        (&grouped, "subscribe groups/eu/secret".into(), "denied by rule \"no-secrets\" of role \"vehicle\"".into()),
        (&grouped, "subscribe groups/eu/#".into(), "orders 2".into()),
        (
            &grouped,
            "share groups/eu/#".into(),
            "a shared subscription is for those who may receive all that matches its filter".into(),
        ),
        (&grouped, "share groups/eu/ota/#".into(), "orders 2".into()),
        (&grouped, "receive groups/eu/ota".into(), "orders 2".into()),
        (&grouped, "receive groups/eu/secret".into(), "denied by rule \"no-secrets\" of role \"vehicle\"".into()),
        (&suspect, format!("publish 0 vehicles/{VIN}/state"), "denied by rule \"silent\" of role \"suspects\"".into()),
        (&suspect, format!("will 0 vehicles/{VIN}/state"), "denied by rule \"silent\" of role \"suspects\"".into()),
        (&suspect, format!("subscribe vehicles/{VIN}/cmd/#"), "orders 2".into()),
        ("analytics", "subscribe vehicles/+/telemetry/#".into(), "all-telemetry 1".into()),
        ("analytics", "share vehicles/+/telemetry/#".into(), "all-telemetry 1".into()),
        ("analytics", "subscribe vehicles/#".into(), none("subscribe")),
        ("ota-1", "publish 2 services/ota-1/done".into(), "own 2".into()),
        ("ota-1", "publish 2 services/ota-2/done".into(), none("publish")),
        ("ota-1", format!("command vehicles/{VIN}/cmd/unlock"), "orders-to-all 2".into()),
        ("otto", format!("command vehicles/{VIN}/cmd/unlock"), none("command")),
        ("operator:olga", "subscribe #".into(), "looks 2".into()),
        ("operator:olga", "subscribe $SYS/#".into(), "looks 2".into()),
        ("operator:olga", "subscribe $other/#".into(), none("subscribe")),
        (
            "operator:olga",
            "receive vehicles/1/private/x".into(),
            "denied by rule \"not-private\" of role \"operator\"".into(),
        ),
        ("operator:olga", "receive vehicles/1/public/x".into(), "looks 2".into()),
        ("operator:olga", "receive $SYS/uptime".into(), "looks 2".into()),
        ("operator:olga", "publish 0 a".into(), none("publish")),
        ("anonymous", "publish 0 a".into(), none("publish")),
        ("shard", "publish 2 retain a".into(), "open 2".into()),
        ("shard", "subscribe #".into(), "open 2".into()),
    ];
    for (who, asked, expected) in rows {
        let decision = decide(&policy, &mut cache, who, asked);
        assert_eq!(&answer(&policy, decision), expected, "{who} {asked}");
        // From the cache, too.
        assert_eq!(decide(&policy, &mut cache, who, asked), decision);
    }
}

#[test]
fn an_open_policy_allows_all_but_the_brokers_word() {
    let policy = Policy::open();
    let mut cache = DecisionCache::new(7);
    for who in ["anonymous", "alice", "operator:olga", "shard"] {
        let says_the_brokers_word = who == "shard";
        for (asked, is_allowed) in [
            ("publish 2 retain vehicles/1/state", true),
            ("publish 0 $SYS", says_the_brokers_word),
            ("publish 0 vehicles/1/$shadow/get", says_the_brokers_word),
            ("publish 0 groups/g/$x", says_the_brokers_word),
            ("publish 0 fleet/$x", says_the_brokers_word),
            ("publish 0 $SYS/uptime", says_the_brokers_word),
            ("publish 0 $presence/1", says_the_brokers_word),
            ("publish 0 $aws/things/1/shadow/update/delta", says_the_brokers_word),
            ("publish 0 $SYSTEM/uptime", true),
            ("publish 0 a/$SYS/b", true),
            ("will 0 $SYS/uptime", says_the_brokers_word),
            ("subscribe $SYS/#", true),
            ("subscribe $aws/things/1/jobs/#", true),
            ("receive $aws/things/1/x", true),
            ("share #", true),
            ("receive $SYS/uptime", true),
        ] {
            assert_eq!(decide(&policy, &mut cache, who, asked).is_allowed(), is_allowed, "{who} {asked}");
        }
    }
}

#[test]
fn what_is_received_wholly_needs_no_second_look() {
    let policy = policy(FLEET);
    for (who, filter, expected) in [
        ("analytics", "vehicles/+/telemetry/#", true),
        ("analytics", "vehicles/1/telemetry/x", true),
        ("analytics", "vehicles/#", false),
        ("operator:olga", "vehicles/+/telemetry/#", true),
        ("operator:olga", "vehicles/#", false),
        ("operator:olga", "+/1/private", false),
        ("operator:olga", "$SYS/#", true),
        ("anonymous", "a", false),
    ] {
        let (principal, groups) = somebody(who);
        let rights = policy.rights(&principal, &groups);
        let subject = Subject { principal: &principal, groups: &groups, rights: &rights };
        assert_eq!(policy.receives_all(subject, filter), expected, "{who} {filter}");
    }
}

#[test]
fn shadows_are_decided_about_by_our_names() {
    let text = r#"
[[role]]
name = "twins"
members = ["service:twins"]
[[role.rule]]
name = "deltas"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["vehicles/+/shadow/delta", "vehicles/+/shadow/get/+", "vehicles/+/shadow/name/+/delta"]
qos_max = 1
[[role.rule]]
name = "documents"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["vehicles/+/shadow/documents"]
qos_max = 0
[[role.rule]]
name = "secret"
effect = "deny"
actions = ["receive"]
topics = ["vehicles/2/shadow/delta"]
[[role]]
name = "vehicle"
members = ["vehicle:*"]
[[role.rule]]
name = "own"
effect = "allow"
actions = ["subscribe", "receive"]
topics = ["vehicles/{vin}/shadow/#"]
"#;
    let policy = policy(text);
    let (own, others) = (format!("$aws/things/{VIN}/shadow"), format!("$aws/things/{OTHER}/shadow"));
    let vehicle = &*format!("vehicle:{VIN}");
    for (who, filter, qos_max, receives_all) in [
        ("twins", "$aws/things/1/shadow/update/delta", Some(1), true),
        ("twins", "$aws/things/1/shadow/get/+", Some(1), true),
        ("twins", "$aws/things/+/shadow/update/delta", Some(1), false),
        ("twins", "$aws/things/+/shadow/+/delta", Some(1), false),
        ("twins", "$aws/things/1/shadow/name/n/update/delta", Some(1), true),
        ("twins", "$aws/things/1/shadow/update/documents", Some(0), true),
        ("twins", "$aws/things/1/shadow/update/+", None, false),
        ("twins", "$aws/things/1/shadow/#", None, false),
        ("twins", "$aws/things/1/shadow/delta", None, true),
        ("twins", "$aws/#", None, false),
        (vehicle, &*format!("{own}/#"), Some(2), true),
        (vehicle, &*format!("{own}/name/+/#"), Some(2), true),
        (vehicle, &*format!("{others}/update/delta"), None, false),
    ] {
        let (principal, groups) = somebody(who);
        let rights = policy.rights(&principal, &groups);
        let subject = Subject { principal: &principal, groups: &groups, rights: &rights };
        let granted = policy.subscribe(subject, filter, false).granted().ok().map(|grant| grant.qos_max);
        assert_eq!(granted, qos_max, "{who} {filter}");
        assert_eq!(policy.receives_all(subject, filter), receives_all, "{who} {filter}");
    }
    let mut cache = DecisionCache::new(1);
    for (who, asked, is_allowed) in [
        ("twins", "receive $aws/things/1/shadow/update/delta", true),
        ("twins", "receive $aws/things/2/shadow/update/delta", false),
        ("twins", "receive $aws/things/1/shadow/update/accepted", false),
        ("twins", "receive $aws/things/1/x", false),
        ("twins", "share $aws/things/1/shadow/update/delta", true),
        ("twins", "share $aws/things/+/shadow/update/delta", false),
        (vehicle, &*format!("receive {own}/update/delta"), true),
        (vehicle, &*format!("receive {others}/update/delta"), false),
    ] {
        assert_eq!(decide(&policy, &mut cache, who, asked).is_allowed(), is_allowed, "{who} {asked}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_its_place() {
    let text = r#"colour = 1
[[role]]
name = "a b"
members = ["olga", "vehicle:*"]
[[role.rule]]
name = "x"
efect = "allow"
actions = ["publsh"]
topics = ["a/#/b", "{vni}"]
qos_max = 3
[[role]]
name = "empty"
members = []
[[role]]
name = "twice"
members = ["*"]
[[role.rule]]
name = "r"
effect = "deny"
actions = ["publish"]
topics = ["a"]
qos_max = 1
[[role.rule]]
name = "r"
effect = "maybe"
actions = ["receive"]
topics = "a"
[[role]]
name = "twice"
members = ["*"]
rule = 1
"#;
    let problems = Policy::parse(text).unwrap_err();
    let places: Vec<(usize, usize)> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
    let expected = [
        (1, 1),
        (3, 8),
        (4, 12),
        (5, 1),
        (7, 1),
        (8, 12),
        (9, 11),
        (9, 20),
        (10, 11),
        (11, 1),
        (13, 11),
        (22, 11),
        (24, 8),
        (25, 10),
        (27, 10),
        (29, 8),
        (31, 8),
    ];
    assert_eq!(places, expected, "{}", told(&problems));
    assert!(Policy::parse("").is_err());
    assert!(Policy::parse("[[role]\nname = ").unwrap_err()[0].line == 1);
    assert!(Policy::parse(&" ".repeat((1 << 20) + 1)).is_err());
}

/// Two roles with one rule each, of which the second is doubted.
fn doubted(first: [&str; 4], second: [&str; 4], more: &str) -> String {
    let role = |name: &str, [members, effect, actions, topics]: [&str; 4], more: &str| {
        format!(
            "[[role]]\nname = \"{name}\"\nmembers = [{members}]\n[[role.rule]]\nname = \"rule-{name}\"\neffect = \"{effect}\"\n\
             actions = [{actions}]\ntopics = [{topics}]\n{more}\n"
        )
    };
    match Policy::parse(&(role("a", first, "") + &role("b", second, more))) {
        Ok((_, warnings)) => told(&warnings),
        Err(problems) => format!("error: {}", told(&problems)),
    }
}

#[test]
fn rules_that_cannot_mean_what_they_say_are_found() {
    let (cars, publish) = ("'vehicle:*'", "'publish'");
    let rows: &[([&str; 4], [&str; 4], &str, &str)] = &[
        ([cars, "allow", publish, "'a/#'"], [cars, "allow", publish, "'b'"], "", ""),
        ([cars, "allow", publish, "'a/#'"], [cars, "deny", publish, "'a/b'"], "", ""),
        (
            [cars, "deny", publish, "'a/#'"],
            [cars, "allow", publish, "'a/b'"],
            "",
            "rule \"rule-b\" never decides anything: rule \"rule-a\" of role \"a\" in line 4 denies all of it",
        ),
        (
            ["'*'", "deny", publish, "'#'"],
            ["'group:eu'", "allow", "'publish', 'will'", "'x/{group}'"],
            "",
            "denies all of it",
        ),
        (["'group:eu'", "deny", publish, "'#'"], [cars, "allow", publish, "'a'"], "", ""),
        (
            [cars, "deny", publish, "'a/b'"],
            [cars, "allow", publish, "'a/b', 'c'"],
            "",
            "error: 17:11: contradiction: \"a/b\" is allowed here for publish",
        ),
        (
            [cars, "allow", publish, "'a/+'"],
            [cars, "deny", "'publish', 'will'", "'a/+'"],
            "",
            "error: 17:11: contradiction",
        ),
        (
            [cars, "deny", "'receive'", "'a/#'"],
            [cars, "allow", "'subscribe', 'receive'", "'a/b', 'c'"],
            "",
            "\"a/b\" never decides anything in rule \"rule-b\"",
        ),
        ([cars, "allow", publish, "'a/#'"], [cars, "allow", publish, "'a/b'"], "", "says the same already"),
        ([cars, "allow", publish, "'a/#'"], [cars, "allow", publish, "'a/b'"], "qos_max = 1", "says the same already"),
        ([cars, "allow", publish, "'a/b'"], [cars, "allow", publish, "'a/#'"], "qos_max = 1", ""),
        ([cars, "allow", publish, "'a', 'b'"], [cars, "allow", publish, "'b', 'c'"], "", "17:11: \"b\" never"),
        ([cars, "allow", publish, "'a/b'"], ["'*'", "allow", publish, "'a/#'"], "", "5:8: rule \"rule-a\" never"),
        (
            [cars, "allow", publish, "'a'"],
            ["'service:x'", "allow", publish, "'{vin}'"],
            "",
            "no member of role \"b\" has a value for {vin}",
        ),
        (
            [cars, "allow", publish, "'a'"],
            ["'service:x', 'group:eu'", "allow", publish, "'{vin}/{service}'"],
            "",
            "no member of role \"b\" has a value for {vin} and {service}",
        ),
        ([cars, "allow", publish, "'a'"], ["'*'", "allow", publish, "'$SYS/#'"], "", "belong to the broker"),
        (
            ["'*'", "deny", "'receive'", "'$aws/things/#'"],
            ["'*'", "allow", "'receive'", "'#'"],
            "",
            "shadows are decided about by their names",
        ),
        ([cars, "allow", publish, "'{vin}/a'"], [cars, "allow", publish, "'+/a'"], "", "5:8:"),
    ];
    for (first, second, more, expected) in rows {
        let told = doubted(*first, *second, more);
        assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{first:?} {second:?}: {told}");
        assert!(told.lines().count() < 2, "{told}");
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }

    fn topic(&mut self, levels: &[&str], last: &[&str]) -> String {
        let mut topic: Vec<&str> = (0..self.roll(3)).map(|_| self.pick(levels)).collect();
        topic.push(self.pick(last));
        topic.join("/")
    }
}

const MEMBERS: [&str; 7] = ["*", "anonymous", "vehicle:*", "vehicle:1M8*", "group:eu", "service:s*", "operator:o"];
const WHO: [&str; 8] = [
    "anonymous",
    "vehicle:1M8GDM9AXKP042788",
    "vehicle:1M8GDM9AXKP042788,group=eu,group=us",
    "vehicle:5GZCZ43D13S812715,group=eu",
    "s1",
    "+",
    "operator:o",
    "operator:s1",
];
const NAMES: [&str; 9] = ["a", "b", "", VIN, OTHER, "eu", "us", "s1", "+"];

/// A rule of a random policy, decided about by reading it and nothing else.
struct Naive {
    member: &'static str,
    is_allow: bool,
    actions: Vec<&'static str>,
    topic: String,
    qos_max: usize,
}

impl Naive {
    fn roll(dice: &mut Dice) -> Naive {
        let is_allow = dice.roll(3) > 0;
        let levels = ["a", "b", "", "+", "{vin}", "{group}", "{service}", "eu"];
        let last = ["a", "b", "", "+", "{vin}", "{group}", "{service}", "#", "#"];
        let words = ["publish", "subscribe", "receive", "retain", "will", "command"];
        let actions = words.into_iter().filter(|_| dice.roll(2) == 0).chain(["publish"]).collect();
        Naive {
            member: MEMBERS[dice.roll(MEMBERS.len())],
            is_allow,
            actions,
            topic: dice.topic(&levels, &last),
            qos_max: if is_allow { dice.roll(3) } else { 2 },
        }
    }

    fn is_for(&self, who: &str) -> bool {
        let (principal, groups) = somebody(who);
        let name = principal.to_string();
        match self.member.split_once(':') {
            None => self.member == "*" || self.member == name,
            Some(("group", group)) => groups.contains(group),
            Some(_) => self.member.strip_suffix('*').map_or(self.member == name, |prefix| name.starts_with(prefix)),
        }
    }

    fn has(&self, who: &str, topic: &str) -> bool {
        let (principal, groups) = somebody(who);
        let is = |level: &str, name: &str| match level {
            "{vin}" => principal.vin().is_some_and(|vin| vin.as_str() == name),
            "{group}" => groups.contains(name),
            "{service}" => matches!(principal, Principal::Service(_)) && principal.name() == Some(name),
            "+" => true,
            level => level == name,
        };
        let levels: Vec<&str> = self.topic.split('/').collect();
        let names: Vec<&str> = topic.split('/').collect();
        let fixed = levels.strip_suffix(&["#"]).unwrap_or(&levels);
        let is_long_enough =
            if fixed.len() < levels.len() { names.len() >= fixed.len() } else { names.len() == fixed.len() };
        is_long_enough && fixed.iter().zip(&names).all(|(level, name)| is(level, name))
    }
}

/// Whether rules allow `action`, which any of `denied_with` denies.
fn naive_qos(rules: &[Naive], who: &str, action: &str, denied_with: &[&str], topic: &str) -> Option<usize> {
    let about = |rule: &&Naive| rule.is_for(who) && rule.has(who, topic);
    let mut denies = rules.iter().filter(|rule| !rule.is_allow).filter(about);
    if denies.any(|rule| rule.actions.iter().any(|denied| denied_with.contains(denied))) {
        return None;
    }
    let allows = rules.iter().filter(|rule| rule.is_allow && rule.actions.contains(&action)).filter(about);
    allows.map(|rule| rule.qos_max).max()
}

fn random_policy(dice: &mut Dice) -> (Vec<Naive>, Option<Policy>) {
    let rules: Vec<Naive> = (0..1 + dice.roll(12)).map(|_| Naive::roll(dice)).collect();
    let text: String = rules
        .iter()
        .enumerate()
        .map(|(at, rule)| {
            let Naive { member, is_allow, actions, topic, qos_max } = rule;
            let effect = if *is_allow { "allow" } else { "deny" };
            let qos = if *is_allow { format!("qos_max = {qos_max}\n") } else { String::new() };
            format!(
                "[[role]]\nname = \"r{at}\"\nmembers = [{member:?}]\n[[role.rule]]\nname = \"x\"\neffect = {effect:?}\n\
                 actions = {actions:?}\ntopics = [{topic:?}]\n{qos}"
            )
        })
        .collect();
    // Some contradict themselves.
    let policy = Policy::parse(&text).map(|(policy, _)| policy);
    if let Err(problems) = &policy {
        assert!(
            problems
                .iter()
                .all(|problem| problem.message.contains("contradiction") || problem.message.contains("1 to")),
            "{}\n{text}",
            told(problems)
        );
    }
    (rules, policy.ok())
}

#[test]
fn decisions_are_those_of_reading_each_rule() {
    let mut dice = Dice(20);
    let mut checked = 0;
    while checked < 300 {
        let (rules, policy) = random_policy(&mut dice);
        let Some(policy) = policy else { continue };
        checked += 1;
        let mut cache = DecisionCache::new(9);
        for _ in 0..150 {
            let who = WHO[dice.roll(WHO.len())];
            let topic = dice.topic(&NAMES, &NAMES);
            if topic.is_empty() {
                continue;
            }
            let (qos, retain) = (dice.roll(3), dice.roll(2) == 0);
            let allows = |action: &str, denied_with: &[&str], qos: usize| {
                naive_qos(&rules, who, action, denied_with, &topic).is_some_and(|max| qos <= max)
            };
            let retains = !retain || allows("retain", &["retain"], qos);
            let word = if retain { "retain " } else { "" };
            for (asked, expected) in [
                (format!("publish {qos} {word}{topic}"), allows("publish", &["publish"], qos) && retains),
                (format!("will {qos} {word}{topic}"), allows("will", &["will", "publish"], qos) && retains),
                (format!("receive 0 {topic}"), allows("receive", &["receive", "subscribe"], 0)),
                (format!("command 0 {topic}"), allows("command", &["command"], 0)),
            ] {
                let decision = decide(&policy, &mut cache, who, &asked);
                assert_eq!(decision.is_allowed(), expected, "{who} {asked}");
            }
        }
    }
}

/// Whoever was granted a filter may receive what matches it, unless it is denied; and who receives all of it is denied nothing.
#[test]
fn filters_are_granted_only_where_their_topics_are() {
    let mut dice = Dice(21);
    let names: Vec<String> =
        (0..400).map(|_| dice.topic(&NAMES[..8], &NAMES[..8])).filter(|name| !name.is_empty()).collect();
    let mut granted = [0; 2];
    for _ in 0..1500 {
        let (rules, Some(policy)) = random_policy(&mut dice) else { continue };
        let who = WHO[dice.roll(WHO.len())];
        let filter = dice.topic(&["a", "+", VIN, "eu", "s1"], &["a", "+", "#", "b", VIN, "eu", "s1"]);
        let (principal, groups) = somebody(who);
        let rights = policy.rights(&principal, &groups);
        let subject = Subject { principal: &principal, groups: &groups, rights: &rights };
        let matching = || names.iter().filter(|name| contains(&filter, name));
        if policy.subscribe(subject, &filter, false).is_allowed() {
            granted[0] += 1;
            for name in matching() {
                let allowed = naive_qos(&rules, who, "subscribe", &[], name);
                assert!(allowed.is_some(), "{who} {filter} {name}");
            }
        }
        if policy.receives_all(subject, &filter) {
            granted[1] += 1;
            for name in matching() {
                assert!(policy.receive(subject, name).is_allowed(), "{who} {filter} {name}");
            }
        }
    }
    assert!(granted.iter().all(|count| *count > 50), "{granted:?}");
}

#[test]
fn the_same_roles_are_kept_once() {
    let policy = policy(FLEET);
    let mut roster = Roster::default();
    let [one, other] = [VIN, OTHER].map(|vin| {
        let (principal, groups) = somebody(&format!("vehicle:{vin}"));
        roster.rights(&policy, &principal, &groups)
    });
    assert!(Arc::ptr_eq(one.0.as_ref().unwrap(), other.0.as_ref().unwrap()));
    assert_eq!(policy.role_names(&one).collect::<Vec<_>>(), ["vehicle"]);
    assert_eq!(roster.rights(&policy, &Principal::Anonymous, &Groups::default()), Rights::default());
}
