//! The fleet as rows: of each vehicle with a classic shadow, the values of the indexed fields, and of each field, the vehicles in the order of
//! its values.
//!
//! Owns looking through them, a bounded number at a time. A row is what the shadow was when it was last changed here; what is in it is
//! chosen by the configuration, and groups are not among it: whoever asks knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use causeway_fleet::query::{Facts, Fields, Query, Scalar, Way};
use causeway_fleet::{Groups, Vin};

/// Rows that one question looks at: some milliseconds.
const LOOKED_AT_MAX: usize = 10_000;

/// A vehicle as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetRow {
    /// Which.
    pub vin: Vin,
    /// The version of its classic shadow.
    pub version: u64,
    /// The values of the indexed fields, in the order of the configuration.
    pub values: Box<[Option<Scalar>]>,
}

impl Facts for FleetRow {
    fn vin(&self) -> &Vin {
        &self.vin
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn value(&self, field: usize) -> Option<&Scalar> {
        self.values.get(field)?.as_ref()
    }

    fn groups(&self) -> Option<&Groups> {
        None
    }
}

/// A place in the order in which a question looks through the fleet: by value and VIN, or by VIN alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FleetPlace {
    /// The value of the field that orders. None where VINs do.
    pub value: Option<Scalar>,
    /// The vehicle.
    pub vin: Vin,
}

/// In which order vehicles are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetOrder {
    /// In that of the query's own [`way`](Query::way): the quickest.
    Own,
    /// In that of VINs: a vehicle that changes meanwhile is neither missed nor found twice.
    ByVin,
}

/// Part of what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetPage {
    /// What the query is true of, or may be true of, where that depends on groups. In the order in which it was looked at.
    pub rows: Vec<FleetRow>,
    /// There may be more behind this place. None: there is no more.
    pub next: Option<FleetPlace>,
}

#[derive(Debug)]
struct Row {
    version: u64,
    values: Box<[Option<Scalar>]>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Rows {
    fields: Fields,
    rows: BTreeMap<Vin, Row>,
    by_value: Vec<BTreeSet<(Scalar, Vin)>>,
}

impl Rows {
    pub(crate) fn new(fields: Fields) -> Rows {
        let by_value = fields.iter().map(|_| BTreeSet::new()).collect();
        Rows { fields, rows: BTreeMap::new(), by_value }
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.rows.len()
    }

    /// Puts a vehicle's row, or replaces it.
    pub(crate) fn set(&mut self, vin: Vin, version: u64, value_at: impl Fn(&str) -> Option<Scalar>) {
        let Rows { fields, rows, by_value } = self;
        let row = rows.entry(vin).or_insert_with(|| Row { version, values: vec![None; fields.len()].into() });
        row.version = version;
        for ((field, kept), ordered) in fields.iter().zip(&mut row.values).zip(by_value) {
            let value = value_at(field).map(|value| shared(value, ordered));
            if *kept == value {
                continue;
            }
            ordered.extend(value.clone().map(|value| (value, vin)));
            if let Some(before) = std::mem::replace(kept, value) {
                ordered.remove(&(before, vin));
            }
        }
    }

    /// Forgets a vehicle.
    pub(crate) fn remove(&mut self, vin: &Vin) {
        let Some(row) = self.rows.remove(vin) else { return };
        for (value, ordered) in row.values.into_iter().zip(&mut self.by_value) {
            if let Some(value) = value {
                ordered.remove(&(value, *vin));
            }
        }
    }

    /// Looks for what `query` is true of, behind a place, up to `limit` rows; fewer where it has looked long enough.
    pub(crate) fn ask(&self, query: &Query, order: FleetOrder, after: Option<&FleetPlace>, limit: usize) -> FleetPage {
        let way = match order {
            FleetOrder::Own => query.way(),
            FleetOrder::ByVin => Way::ByVin,
        };
        let mut page = FleetPage::default();
        match way {
            Way::ByField(field, from, to) => {
                let Some(ordered) = self.by_value.get(field) else { return page };
                let from = match after {
                    Some(FleetPlace { value: Some(value), vin }) => {
                        later(before_all(from), Bound::Excluded((value.clone(), *vin)))
                    }
                    _ => before_all(from),
                };
                let to = behind_all(to);
                if is_empty(&from, &to) {
                    return page;
                }
                for (looked_at, (value, vin)) in ordered.range((from, to)).enumerate() {
                    let place = || FleetPlace { value: Some(value.clone()), vin: *vin };
                    if !self.look(query, vin, looked_at, limit, &mut page, place) {
                        break;
                    }
                }
            }
            Way::ByVin => {
                let from = after.map_or(Bound::Unbounded, |place| Bound::Excluded(place.vin));
                for (looked_at, vin) in self.rows.range((from, Bound::Unbounded)).map(|(vin, _)| vin).enumerate() {
                    let place = || FleetPlace { value: None, vin: *vin };
                    if !self.look(query, vin, looked_at, limit, &mut page, place) {
                        break;
                    }
                }
            }
        }
        page
    }

    /// Which of these vehicles `query` is true of, in their order.
    pub(crate) fn ask_about(&self, query: &Query, vins: &[Vin]) -> FleetPage {
        let rows = vins.iter().filter_map(|vin| self.row(vin)).filter(|row| query.is_true_of(row) != Some(false));
        FleetPage { rows: rows.collect(), next: None }
    }

    /// Takes the row of a vehicle if it is wanted. False where that was enough: then the page has its end.
    fn look(
        &self,
        query: &Query,
        vin: &Vin,
        looked_at: usize,
        limit: usize,
        page: &mut FleetPage,
        place: impl Fn() -> FleetPlace,
    ) -> bool {
        if let Some(row) = self.rows.get(vin)
            && query.is_true_of(&Seen { vin, row }) != Some(false)
        {
            page.rows.push(FleetRow { vin: *vin, version: row.version, values: row.values.clone() });
        }
        let goes_on = page.rows.len() < limit && looked_at + 1 < LOOKED_AT_MAX;
        if !goes_on {
            page.next = Some(place());
        }
        goes_on
    }

    fn row(&self, vin: &Vin) -> Option<FleetRow> {
        let row = self.rows.get(vin)?;
        Some(FleetRow { vin: *vin, version: row.version, values: row.values.clone() })
    }
}

/// A row where it lies.
struct Seen<'a> {
    vin: &'a Vin,
    row: &'a Row,
}

impl Facts for Seen<'_> {
    fn vin(&self) -> &Vin {
        self.vin
    }

    fn version(&self) -> u64 {
        self.row.version
    }

    fn value(&self, field: usize) -> Option<&Scalar> {
        self.row.values.get(field)?.as_ref()
    }

    fn groups(&self) -> Option<&Groups> {
        None
    }
}

/// A text that another vehicle has, too, is kept once.
fn shared(value: Scalar, ordered: &BTreeSet<(Scalar, Vin)>) -> Scalar {
    if value.text().is_none() {
        return value;
    }
    let place = (value, Vin::FIRST);
    match ordered.range(&place..).next() {
        Some((known, _)) if *known == place.0 => known.clone(),
        _ => place.0,
    }
}

fn before_all(bound: Bound<Scalar>) -> Bound<(Scalar, Vin)> {
    match bound {
        Bound::Included(value) => Bound::Included((value, Vin::FIRST)),
        Bound::Excluded(value) => Bound::Excluded((value, Vin::LAST)),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn behind_all(bound: Bound<Scalar>) -> Bound<(Scalar, Vin)> {
    match bound {
        Bound::Included(value) => Bound::Included((value, Vin::LAST)),
        Bound::Excluded(value) => Bound::Excluded((value, Vin::FIRST)),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// The later of two beginnings; the second one has an end.
fn later(one: Bound<(Scalar, Vin)>, other: Bound<(Scalar, Vin)>) -> Bound<(Scalar, Vin)> {
    match (&one, &other) {
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(than) | Bound::Excluded(than))
            if from > than =>
        {
            one
        }
        _ => other,
    }
}

/// Whether there can be nothing between them, which a range does not take.
fn is_empty(from: &Bound<(Scalar, Vin)>, to: &Bound<(Scalar, Vin)>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields() -> Fields {
        Fields::new(["reported.soc", "reported.city", "desired.on"]).unwrap()
    }

    fn vin(number: u32) -> Vin {
        format!("{number:017}").parse().unwrap()
    }

    /// What a vehicle has, for whoever does not know of indexes.
    #[derive(Debug, Clone, Default)]
    struct Known {
        soc: Option<Scalar>,
        city: Option<Scalar>,
        on: Option<Scalar>,
    }

    impl Known {
        fn at(&self, path: &str) -> Option<Scalar> {
            match path {
                "reported.soc" => self.soc.clone(),
                "reported.city" => self.city.clone(),
                _ => self.on.clone(),
            }
        }
    }

    fn known() -> impl Strategy<Value = Known> {
        let number = || prop::option::of((0..8i32).prop_map(|number| Scalar::number(f64::from(number) / 2.0)));
        let text = || prop::option::of(prop::sample::select(vec!["", "Bonn", "Köln", "Ulm"]).prop_map(Scalar::from));
        let truth = || prop::option::of(any::<bool>().prop_map(Scalar::Bool));
        // Now and then, a value of a kind that others do not have there.
        (number(), text(), truth(), 0..9u8).prop_map(|(soc, city, on, odd)| match odd {
            0 => Known { soc: city.clone(), city, on },
            1 => Known { soc: on.clone(), city: soc, on },
            _ => Known { soc, city, on },
        })
    }

    fn condition() -> impl Strategy<Value = String> {
        let number = (0..8i32).prop_map(|number| (f64::from(number) / 2.0).to_string());
        let value = prop_oneof![
            number,
            prop::sample::select(vec!["''", "Bonn", "'Köln'", "Ulm", "true", "false"]).prop_map(String::from)
        ];
        let field = prop::sample::select(vec!["reported.soc", "reported.city", "desired.on"]);
        let sign = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
        prop_oneof![
            6 => (field.clone(), sign.clone(), value.clone()).prop_map(|(field, sign, value)| format!("{field} {sign} {value}")),
            2 => (field.clone(), prop::collection::vec(value, 1..4)).prop_map(|(field, values)| format!("{field} in ({})", values.join(","))),
            1 => field.prop_map(|field| format!("exists {field}")),
            1 => (sign, 0..5u8).prop_map(|(sign, version)| format!("version {sign} {version}")),
            1 => (0..12u32).prop_map(|number| format!("vin = {}", vin(number))),
        ]
    }

    fn query() -> impl Strategy<Value = String> {
        condition().prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}) and ({other})")),
                (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("{one} and {other}")),
                (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one} or {other})")),
                inner.prop_map(|one| format!("not ({one})")),
            ]
        })
    }

    proptest! {
        /// Changes in any order, and then questions in pages of any size: what is found is what a filter of all finds.
        #[test]
        fn what_is_found_is_what_a_filter_finds(
            changes in prop::collection::vec((0..12u32, 0..5u64, prop::option::weighted(0.85, known())), 0..60),
            asked in prop::collection::vec((query(), 1..8usize, any::<bool>()), 1..6),
        ) {
            let mut rows = Rows::new(fields());
            let mut model: BTreeMap<Vin, (u64, Known)> = BTreeMap::new();
            for (number, version, known) in changes {
                match known {
                    Some(known) => {
                        rows.set(vin(number), version, |path| known.at(path));
                        model.insert(vin(number), (version, known));
                    }
                    None => {
                        rows.remove(&vin(number));
                        model.remove(&vin(number));
                    }
                }
            }
            prop_assert_eq!(rows.len(), model.len());
            for (at, field) in fields().iter().enumerate() {
                let expected: BTreeSet<_> = model.iter().filter_map(|(vin, (_, known))| Some((known.at(field)?, *vin))).collect();
                prop_assert_eq!(&rows.by_value[at], &expected);
            }
            for (text, limit, by_vin) in asked {
                let query = Query::parse(&text, &fields()).unwrap();
                let fact = |vin: Vin, version, known: &Known| {
                    let values = fields().iter().map(|field| known.at(field)).collect();
                    FleetRow { vin, version, values }
                };
                let all = model.iter().map(|(vin, (version, known))| fact(*vin, *version, known));
                let mut expected: Vec<FleetRow> = all.filter(|row| query.is_true_of(row) == Some(true)).collect();
                let order = if by_vin { FleetOrder::ByVin } else { FleetOrder::Own };
                if let (Way::ByField(field, ..), FleetOrder::Own) = (query.way(), order) {
                    expected.sort_by_key(|row| (row.values[field].clone(), row.vin));
                }
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let page = rows.ask(&query, order, after.as_ref(), limit);
                    prop_assert!(page.rows.len() <= limit);
                    found.extend(page.rows);
                    let Some(next) = page.next else { break };
                    prop_assert!(after.is_none_or(|after| after < next));
                    after = Some(next);
                }
                prop_assert_eq!(&found, &expected, "{}", &text);
                let vins: Vec<Vin> = model.keys().copied().chain([vin(99)]).collect();
                let mut about = rows.ask_about(&query, &vins).rows;
                about.sort_by_key(|row| row.vin);
                expected.sort_by_key(|row| row.vin);
                prop_assert_eq!(about, expected);
            }
        }
    }

    #[test]
    fn a_question_looks_at_so_many_rows_and_no_place_makes_it_panic() {
        let mut rows = Rows::new(fields());
        for number in 0..25_000 {
            let value = Scalar::number(f64::from(number));
            rows.set(vin(number), 1, |path| (path == "reported.soc").then(|| value.clone()));
        }
        let query = Query::parse("version = 2", &fields()).unwrap();
        let page = rows.ask(&query, FleetOrder::Own, None, 100);
        assert_eq!((page.rows.len(), page.next), (0, Some(FleetPlace { value: None, vin: vin(9_999) })));
        let query = Query::parse("reported.soc >= 5 and reported.soc < 20000 and version = 2", &fields()).unwrap();
        let page = rows.ask(&query, FleetOrder::Own, None, 100);
        assert_eq!(page.next.unwrap().vin, vin(10_004));
        let query = Query::parse("reported.soc < 20", &fields()).unwrap();
        for value in [None, Some(Scalar::number(3.0)), Some(Scalar::number(20.0)), Some("x".into())] {
            let place = FleetPlace { value: value.clone(), vin: vin(3) };
            let rows = rows.ask(&query, FleetOrder::Own, Some(&place), 100).rows;
            assert_eq!(
                rows.len(),
                match value {
                    None => 20,
                    Some(Scalar::Number(3.0)) => 16,
                    _ => 0,
                }
            );
        }
    }

    /// `cargo test --release -p causeway-core -- --ignored --nocapture a_million`
    #[test]
    #[ignore = "says how long it takes; its memory is measured from outside"]
    fn a_million_rows() {
        let fields = Fields::new(["reported.soc", "reported.city", "reported.odometer", "desired.on"]).unwrap();
        let mut rows = Rows::new(fields.clone());
        let cities = ["Bonn", "Ulm", "Wolfsburg", "Stuttgart", "Reykjavik"];
        let mut random = 1u64;
        let started = std::time::Instant::now();
        for _ in 0..1_000_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (random >> 40) as u32;
            rows.set(vin(number), 1, |path| match path {
                "reported.soc" => Some(Scalar::number(f64::from(number % 101))),
                "reported.city" => Some(cities[number as usize % 5].into()),
                "reported.odometer" => Some(Scalar::number(f64::from(number))),
                _ => Some(Scalar::Bool(number.is_multiple_of(7))),
            });
        }
        println!("{} rows in {:?}", rows.len(), started.elapsed());
        let started = std::time::Instant::now();
        let query = Query::parse("reported.soc < 20 and reported.city = Ulm and desired.on = true", &fields).unwrap();
        let (mut found, mut asks, mut after) = (0, 0, None);
        loop {
            let page = rows.ask(&query, FleetOrder::Own, after.as_ref(), 1000);
            (found, asks, after) = (found + page.rows.len(), asks + 1, page.next);
            if after.is_none() {
                break;
            }
        }
        println!("{found} found with {asks} questions in {:?}", started.elapsed());
    }
}
