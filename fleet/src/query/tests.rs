//! What questions mean, what is said about those that mean nothing, and where to look.

use super::*;

struct Car {
    vin: Vin,
    values: Vec<Option<Scalar>>,
    groups: Option<Groups>,
}

impl Facts for Car {
    fn vin(&self) -> &Vin {
        &self.vin
    }

    fn version(&self) -> u64 {
        7
    }

    fn value(&self, field: usize) -> Option<&Scalar> {
        self.values[field].as_ref()
    }

    fn groups(&self) -> Option<&Groups> {
        self.groups.as_ref()
    }
}

fn fields() -> Fields {
    Fields::new(["reported.battery.soc", "reported.city", "desired.locked", "reported.a-b"]).unwrap()
}

fn car() -> Car {
    let values = vec![Some(Scalar::number(17.5)), Some("Ulm".into()), Some(Scalar::Bool(true)), None];
    Car { vin: "11111111111111111".parse().unwrap(), values, groups: Some(Groups::new(["eu", "ring-1"]).unwrap()) }
}

#[test]
fn what_is_asked_is_true_or_not() {
    for (text, expected) in [
        ("reported.battery.soc < 20 and group = eu", true),
        ("reported.battery.soc<20 AND group=us", false),
        ("reported.battery.soc >= 17.5 and reported.battery.soc <= 1.75e1", true),
        ("reported.battery.soc > 17.5 or reported.battery.soc < -5", false),
        ("reported.battery.soc = \"17.5\"", false),
        ("reported.city = Ulm", true),
        ("reported.city == 'Ulm'", true),
        ("reported.city > Berlin and reported.city < \"Zwickau\"", true),
        ("reported.city < 5", false),
        ("reported.city in (Berlin, Ulm)", true),
        ("reported.city not in (Berlin, 5, true)", true),
        ("desired.locked = true and not desired.locked = \"true\"", true),
        ("desired.locked != false", true),
        ("exists reported.a-b", false),
        ("reported.a-b exists or exists(reported.city)", true),
        ("reported.a-b = 1", false),
        ("reported.a-b != 1", true),
        ("not reported.a-b < 1 and not reported.a-b >= 1", true),
        ("reported.a-b in (1)", false),
        ("group in (us, ring-1)", true),
        ("group != us and group != cn", true),
        ("group != eu", false),
        ("exists group", true),
        ("vin = 11111111111111111 and version = 7 and version < 8", true),
        ("vin in (1M8GDM9AXKP042788)", false),
        ("not (group = eu and not (reported.city = Ulm))", true),
        ("reported.city = a or reported.city = Ulm and reported.city = b", false),
        ("version exists and not not vin exists", true),
    ] {
        let query = Query::parse(text, &fields()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(query.is_true_of(&car()), Some(expected), "{text}");
    }
    assert_eq!(Query::everything().is_true_of(&car()), Some(true));
}

#[test]
fn where_groups_are_not_known_it_may_be_open() {
    let unknown = Car { groups: None, ..car() };
    for (text, expected) in [
        ("group = eu", None),
        ("group != eu", None),
        ("exists group", None),
        ("not group in (eu)", None),
        ("group = eu and reported.city = Ulm", None),
        ("group = eu and reported.city = Bonn", Some(false)),
        ("reported.city = Ulm or group = eu", Some(true)),
        ("not (group = eu or reported.city = Ulm)", Some(false)),
    ] {
        assert_eq!(Query::parse(text, &fields()).unwrap().is_true_of(&unknown), expected, "{text}");
    }
    let nowhere = Car { groups: Some(Groups::default()), ..car() };
    for (text, expected) in [("group != eu", true), ("group = eu", false), ("exists group", false)] {
        assert_eq!(Query::parse(text, &fields()).unwrap().is_true_of(&nowhere), Some(expected), "{text}");
    }
}

#[test]
fn an_error_says_what_and_where() {
    let long = "x".repeat(5000);
    let deep = format!("{}version = 1", "not ".repeat(40));
    for (text, position, part) in [
        ("", 1, "a field belongs here, not the end"),
        ("reported.battery.soc", 21, "one of = != < <= > >= in exists"),
        ("reported.battery.soc <", 23, "a value belongs here, not the end"),
        ("reported.range < 5", 1, "reported.range is not indexed: there are reported.battery.soc, reported.city,"),
        ("version = 1 and reported.x = 2", 17, "reported.x is not indexed"),
        ("version = eu", 11, "a version is a number, not \"eu\""),
        ("vin = ABC", 7, "a VIN has 17 characters"),
        ("group = 'e u'", 9, "a group's name"),
        ("group < eu", 7, "a vehicle is in a group or not"),
        ("(version = 1", 13, ") is missing"),
        ("version = 1)", 12, "comes after the end"),
        ("version = 1 version = 2", 13, "comes after the end"),
        ("reported.city = \"Ulm", 17, "does not end"),
        ("reported.city = Ülm", 17, "'Ü' has no place here"),
        ("reported.city in Ulm", 18, "a list belongs behind in"),
        ("reported.city in (Ulm", 22, "the list does not end"),
        ("reported.city in ()", 19, "a value belongs here, not \")\""),
        ("reported.city not Ulm", 19, "in belongs behind not"),
        ("and version = 1", 1, "a field belongs here, not \"and\""),
        ("\"reported.city\" = 1", 1, "a field belongs here, not the text"),
        (&long, 1, "4096 bytes at most"),
        (&deep, 133, "levels deep"),
    ] {
        let error = Query::parse(text, &fields()).unwrap_err();
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.message.contains(part), "{text}: {error}");
    }
    let none = Query::parse("reported.x = 1", &Fields::default()).unwrap_err();
    assert!(none.to_string().ends_with("there are vin, group and version (shadow.index adds fields)"), "{none}");
}

#[test]
fn the_way_leads_past_everything_that_it_is_true_of() {
    let way = |text: &str| Query::parse(text, &fields()).unwrap().way();
    let number = Scalar::number;
    use Bound::{Excluded, Included, Unbounded};
    assert_eq!(way("reported.battery.soc < 20 and group = eu"), Way::ByField(0, Unbounded, Excluded(number(20.0))));
    assert_eq!(way("reported.battery.soc > 5"), Way::ByField(0, Excluded(number(5.0)), Unbounded));
    assert_eq!(
        way("reported.battery.soc > 5 and exists reported.a-b and reported.city = Ulm"),
        Way::ByField(1, Included("Ulm".into()), Included("Ulm".into()))
    );
    assert_eq!(way("reported.battery.soc in (9, 3)"), Way::ByField(0, Included(number(3.0)), Included(number(9.0))));
    assert_eq!(
        way(
            "reported.battery.soc > 5 and reported.battery.soc >= 5 and reported.battery.soc <= 9 and reported.battery.soc < 12"
        ),
        Way::ByField(0, Excluded(number(5.0)), Included(number(9.0)))
    );
    for text in ["version = 1", "reported.city != a", "reported.city = a or version = 1", "not reported.city = a"] {
        assert_eq!(way(text), Way::ByVin, "{text}");
    }
    let query = Query::parse("group in (b, a) and version = 1", &fields()).unwrap();
    assert_eq!((query.groups_needed(), query.vins_needed()), (Some(vec!["a", "b"]), None));
    let query = Query::parse("vin = 11111111111111111 and group != a", &fields()).unwrap();
    assert_eq!((query.groups_needed(), query.vins_needed()), (None, Some(vec![car().vin])));
}

#[test]
fn fields_are_paths_into_a_shadow() {
    assert_eq!(fields().len(), 4);
    for path in
        ["", "reported", "reported.", "battery", "reported..a", "reported.a b", "version", "reported.a.", "desired.ü"]
    {
        assert!(Fields::new([path]).is_err(), "{path}");
    }
    assert!(Fields::new(["reported.a", "reported.a"]).is_err());
    let many: Vec<String> = (0..17).map(|number| format!("reported.f{number}")).collect();
    assert!(Fields::new(many.iter().map(String::as_str)).is_err());
    assert_eq!(size_of::<Option<Scalar>>(), 16);
}
