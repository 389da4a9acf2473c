//! What a registry of many vehicles costs: adding them, opening it, and asking it.
//!
//! ```text
//! cargo run --release -p causeway-broker --example registry_rate -- DIR [VEHICLES]
//! ```
//!
//! Owns nothing; it prints what it measures.

// A measurement ends where something is not as it should be, and says what it found.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use causeway_broker::registry::{BULK_MAX, NewVehicle, Registry, State, now_ms};
use causeway_fleet::{Groups, Vin};

const LOOKUPS: u64 = 2_000_000;
const GROUPS: usize = 50;

fn vin(number: u64) -> Vin {
    format!("WVWZZZ1JZ{number:08}").parse().unwrap()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap());
    let vehicles: u64 = arguments.next().map_or(1_000_000, |number| number.parse().unwrap());
    let registry = Registry::open(&folder).unwrap();
    let names: Vec<String> = (0..GROUPS).map(|number| format!("ring-{number}")).collect();
    names.iter().for_each(|name| drop(registry.put_group(name, "", 1).unwrap()));
    let start = Instant::now();
    let numbers: Vec<u64> = (0..vehicles).collect();
    for batch in numbers.chunks(BULK_MAX) {
        let new = |number: &u64| {
            let of = |step: usize| names[(*number as usize / step) % GROUPS].as_str();
            let groups = Groups::new([of(1), of(GROUPS)]).unwrap();
            NewVehicle { vin: vin(*number), state: State::Active, groups, note: String::new() }
        };
        registry.add(&batch.iter().map(new).collect::<Vec<_>>(), true, now_ms()).unwrap();
    }
    println!("added {vehicles} vehicles in {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    for number in 0..100 {
        let state = if number % 2 == 0 { State::Suspended } else { State::Active };
        registry.set_state(&[vin(number / 2)], state, now_ms()).unwrap();
    }
    println!("changed one in {:.2} ms", start.elapsed().as_secs_f64() * 10.0);
    drop(registry);
    drop(numbers);
    let before = resident_mib();
    let start = Instant::now();
    let registry = Registry::open(&folder).unwrap();
    println!("opened in {:.2} s", start.elapsed().as_secs_f64());
    println!("memory: {} MiB, {before} MiB before it was opened", resident_mib());
    let bytes = std::fs::metadata(folder.join(causeway_broker::registry::REGISTRY_FILE)).unwrap().len();
    println!("file: {} MiB", bytes >> 20);
    let vins: Vec<Vin> = (0..4096).map(|number| vin(number * 7919 % vehicles)).collect();
    let start = Instant::now();
    let found = (0..LOOKUPS).filter(|at| registry.standing(&vins[(*at % 4096) as usize]).is_some()).count();
    println!("asked in {} ns ({found} found)", start.elapsed().as_nanos() as u64 / LOOKUPS);
}
