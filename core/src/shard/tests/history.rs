//! History: what is asked for is there once and in its order, whatever was folded, failed or lost in between.

use causeway_fleet::Vin;

use super::world::*;
use crate::Millis;
use crate::history::{HISTORY, HistoryEntry, HistoryRange};

const DAY: u64 = 24 * 3600 * 1000;
const VIN: &str = "1M8GDM9AXKP042788";
const OTHER: &str = "WVWZZZ1JZ3W386752";

fn vin(text: &str) -> Vin {
    text.parse().unwrap()
}

fn range(of: &str, name: &str) -> HistoryRange {
    HistoryRange {
        vin: vin(of),
        name: name.to_owned(),
        from: Millis(0),
        to: Millis(100 * DAY),
        after: None,
        limit: usize::MAX,
    }
}

/// A backend that changes the shadows of two vehicles.
struct Twins {
    world: World,
    client: Client,
    /// What the shadows have come to, and when the classic one of the first did.
    versions: [u64; 2],
    times: Vec<Millis>,
}

impl Twins {
    fn new() -> Twins {
        let mut world = World::new().on_disk();
        let client = world.join(connect("backend"));
        Twins { world, client, versions: [0; 2], times: Vec::new() }
    }

    fn change(&mut self, of: &'static str) {
        let version = &mut self.versions[usize::from(of == OTHER)];
        *version += 1;
        let document = format!(r#"{{"state":{{"desired":{{"number":{version}}}}}}}"#);
        self.world.publish(self.client, publish(1, 7, &format!("vehicles/{of}/shadow/update"), &document));
        assert_eq!(self.world.heard(self.client), ["puback p7"]);
        if of == VIN {
            self.times.push(self.world.now);
        }
    }

    fn restart(&mut self) {
        self.world.restart();
        self.client = self.world.join(connect("backend"));
    }

    /// The versions that a question finds, each of which is there only once, in memory or folded.
    fn found(&self, range: &HistoryRange) -> Vec<u64> {
        let mut all = self.world.shard.history_pending(range);
        for (key, value) in self.world.entries().iter().filter(|(key, _)| key[0] == HISTORY) {
            let is_meant = range.days().any(|(from, to)| (&from..&to).contains(&key));
            let entry = HistoryEntry::decode(key, value).unwrap();
            if is_meant && range.includes(&entry) && !all.iter().any(|other| other.place == entry.place) {
                all.push(entry);
            }
        }
        all.sort_by_key(|entry| entry.place);
        all.truncate(range.limit);
        all.iter().map(|entry| version_of(&entry.json)).collect()
    }
}

/// What the shard wrote says what the shadow became.
fn version_of(json: &[u8]) -> u64 {
    let json = std::str::from_utf8(json).unwrap();
    let number = |name: &str| json.rsplit(name).next().unwrap().split([',', '}']).next().unwrap().parse().unwrap();
    let version = number("\"version\":");
    assert_eq!(version, number("\"number\":"), "{json}");
    assert!(json.contains("\"by\":\"") && json.contains("\"at\":\""), "{json}");
    version
}

fn sleeper(world: &mut World) -> Client {
    let subscriber = world.join(persistent("sub"));
    world.subscribe(subscriber, "t", options(1));
    world.join(connect("pub"))
}

fn note(world: &mut World, of: &str, version: u64, at: Millis) {
    world.shard.note_history(&vin(of), "", version, at, version.to_string().as_bytes());
}

#[test]
fn every_transition_is_found_once_whatever_happens_to_folds() {
    let mut random = 7u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut twins = Twins::new();
    for step in 0..1500 {
        match next(12) {
            0..=5 => twins.change(if next(2) == 0 { VIN } else { OTHER }),
            6..=9 => twins.world.fold(1 + next(9) as usize, next(3) > 0),
            10 if next(10) == 0 => twins.restart(),
            _ => twins.world.now.0 += next(DAY / 100),
        }
        if step % 16 > 0 {
            continue;
        }
        for (of, versions) in [VIN, OTHER].into_iter().zip(twins.versions) {
            assert_eq!(twins.found(&range(of, "")), (1..=versions).collect::<Vec<u64>>());
        }
        assert_eq!(twins.found(&range(VIN, "named")), [] as [u64; 0]);
    }
    twins.world.fold(usize::MAX, true);
    twins.world.fold(usize::MAX, true);
    assert_eq!(twins.world.shard.history_pending(&range(VIN, "")), []);
}

#[test]
fn what_is_noted_while_a_fold_is_made_is_in_it() {
    let mut twins = Twins::new();
    twins.change(VIN);
    twins.world.fold(1, true);
    twins.change(VIN);
    twins.world.fold(usize::MAX, true);
    let folded = twins.world.entries().iter().filter(|(key, _)| key[0] == HISTORY).count();
    assert_eq!(folded, 2, "a shadow that was folded late may show it");
    assert_eq!(twins.world.shard.history_pending(&range(VIN, "")), []);
}

#[test]
fn pages_follow_each_other_and_times_bound_them() {
    let mut twins = Twins::new();
    for number in 0..20 {
        twins.change(VIN);
        twins.world.now.0 += DAY / 4;
        if number == 9 {
            twins.world.fold(usize::MAX, true);
        }
    }
    let start = twins.times[0].0;
    let mut page = HistoryRange { limit: 3, ..range(VIN, "") };
    page.after = Some("0-4".parse().unwrap());
    let all = (1..=20).collect::<Vec<u64>>();
    assert_eq!(twins.found(&page), all[4..7]);
    let between = |from, to| HistoryRange { from: Millis(start + from), to: Millis(start + to), ..range(VIN, "") };
    assert_eq!(twins.found(&between(DAY / 2, DAY)), [3, 4, 5]);
    assert_eq!(twins.found(&between(DAY / 2 + 1, DAY - 1)), [4]);
    assert_eq!(twins.found(&between(9 * DAY, 10 * DAY)), [] as [u64; 0]);
}

#[test]
fn what_is_too_old_goes_and_a_whole_fold_spares_the_rest() {
    let mut world = World::with(|limits| limits.shadow_history_days = 2).on_disk();
    world.now = Millis(50 * DAY);
    let client = sleeper(&mut world);
    for day in 0..6u64 {
        let now = world.now;
        note(&mut world, VIN, day, now);
        world.publish(client, publish(1, 1, "t", "x"));
        // The third fold fails, so that the fourth is a whole one.
        world.fold(usize::MAX, day != 2);
        world.now.0 += DAY;
        let again = world.join(persistent("again"));
        world.hang_up(again);
    }
    world.fold(usize::MAX, true);
    let kept: Vec<Millis> = world
        .entries()
        .iter()
        .filter(|(key, _)| key[0] == HISTORY)
        .map(|(key, value)| HistoryEntry::decode(key, value).unwrap().at)
        .collect();
    assert_eq!(kept, [54, 55].map(|day| Millis(day * DAY)), "today is the 56th day");
}

#[test]
fn nothing_is_noted_where_nothing_is_kept() {
    let mut world = World::with(|limits| limits.shadow_history_days = 0).on_disk();
    note(&mut world, VIN, 1, Millis(DAY));
    assert_eq!(world.shard.history_pending(&range(VIN, "")), []);
    let mut world = World::new();
    note(&mut world, VIN, 1, Millis(DAY));
    assert_eq!(world.shard.history_pending(&range(VIN, "")), []);
    assert!(world.shard.has_room_for_history());
}
