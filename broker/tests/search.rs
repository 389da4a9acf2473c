//! Vehicles that are found by what is true of them, over several shards and with the registry's groups.
//!
//! Owns the comparison with a filter of all of them. Nothing here waits without a deadline.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;

use causeway_broker::config::Config;
use causeway_broker::registry::{NewVehicle, State};
use causeway_broker::server::SearchPlace;
use causeway_core::{Answer, Ask, FleetOrder, Groups, Principal, ShadowAsk, ShadowWhat, Vin};
use causeway_fleet::query::Facts;
use causeway_fleet::shadow::Format;
use support::{Broker, listener};

const CITIES: [&str; 4] = ["Bonn", "Köln", "Ulm", "Wolfsburg"];
const QUERIES: [&str; 14] = [
    "reported.soc < 20 and group = eu",
    "reported.soc >= 20 and reported.soc < 60 and reported.city = Ulm",
    "group = eu",
    "group != eu",
    "group != eu and reported.city in (Bonn, Ulm)",
    "group in (eu, ring-1, nowhere)",
    "group = nowhere",
    "not exists group",
    "exists group and not group = ring-1 and reported.soc > 90",
    "reported.city = 'Köln' or group = ring-1",
    "exists reported.soc",
    "not exists reported.soc and version >= 1",
    "vin in (WVWZZZ1JZ3W000007, WVWZZZ1JZ3W000005, WVWZZZ1JZ3W999999) and group = eu",
    "version > 5",
];

fn vin(number: u32) -> Vin {
    format!("WVWZZZ1JZ3W{number:06}").parse().unwrap()
}

#[test]
fn what_is_found_is_what_a_filter_finds_over_several_shards_and_in_any_pages() {
    let mut config = Config { listener: vec![listener(Default::default())], ..Config::default() };
    config.broker.shards = 3;
    config.shadow.index = ["reported.soc", "reported.city"].map(str::to_owned).to_vec();
    let broker = Broker::with(config);
    let registry = broker.running().registry();
    for group in ["eu", "ring-1"] {
        registry.put_group(group, "", 1).unwrap();
    }
    let mut all = BTreeMap::new();
    for number in 0..500 {
        let names =
            ["eu"].into_iter().filter(|_| number % 3 == 0).chain(["ring-1"].into_iter().filter(|_| number % 7 == 0));
        let (vin, groups) = (vin(number), Groups::new(names).unwrap());
        let note = String::new();
        // Some are not known to the registry, and some have no shadow.
        if number % 11 > 0 {
            registry.add(&[NewVehicle { vin, state: State::Active, groups: groups.clone(), note }], false, 1).unwrap();
        }
        if number % 13 > 0 {
            let soc = if number % 5 > 0 { format!("\"soc\":{},", number % 101) } else { String::new() };
            let city = CITIES[number as usize % 4];
            let document = format!(r#"{{"state":{{"reported":{{{soc}"city":"{city}"}}}}}}"#);
            let what = ShadowWhat::Update { payload: document.into(), format: Format::Json, version: None };
            let ask = ShadowAsk { vin, name: None, by: Principal::Anonymous, what };
            let answer = broker.wait_for(broker.running().asks().of(&vin, Ask::Shadow(ask))).unwrap();
            assert!(matches!(*answer, Answer::Shadow(Ok(_))), "{answer:?}");
            all.insert(vin, groups);
        }
    }
    let search = broker.running().search().clone();
    let page = |text: &str, order, after: Option<SearchPlace>, limit| {
        let query = search.parse(text).unwrap();
        broker.wait_for(search.page(&query, order, after, limit)).unwrap()
    };
    let mut everything = Vec::new();
    let mut after = None;
    loop {
        let found = page("version >= 1", FleetOrder::ByVin, after.take(), 1000);
        everything.extend(found.found);
        after = found.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(everything.len(), all.len());
    for found in &everything {
        let is_known = found.row.vin.as_str()[11..].parse::<u32>().unwrap() % 11 > 0;
        let groups = if is_known { all[&found.row.vin].clone() } else { Groups::default() };
        assert_eq!(found.groups, groups);
    }
    for text in QUERIES {
        let query = search.parse(text).unwrap();
        let expected: Vec<_> = everything.iter().filter(|found| query.is_true_of(*found) == Some(true)).collect();
        for (order, limit) in [FleetOrder::Own, FleetOrder::ByVin]
            .into_iter()
            .flat_map(|order| [1, 7, 100, 1000].map(|limit| (order, limit)))
        {
            if limit == 1 && expected.len() > 60 {
                continue;
            }
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let part = page(text, order, after.take(), limit);
                assert!(part.found.len() <= limit);
                found.extend(part.found);
                // As whoever asks over HTTP has it.
                after = part.next.map(|next| next.to_string().parse().unwrap());
                if after.is_none() {
                    break;
                }
            }
            if order == FleetOrder::Own && text == "exists reported.soc" {
                assert!(found.windows(2).all(|pair| pair[0].value(0) <= pair[1].value(0)), "{text}");
            }
            found.sort_by_key(|found| found.row.vin);
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{text}, pages of {limit}");
        }
    }
    assert!("nonsense".parse::<SearchPlace>().is_err());
}
