//! History: what is asked for is there once and in its order, whatever was folded, failed or lost in between.

use causeway_fleet::Vin;
use causeway_protocol::Publish;

use super::world::*;
use crate::history::{HISTORY, HistoryEntry, HistoryRange};
use crate::{Lsn, Millis};

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

/// Notes transitions as the shard would, each with a record of its own.
struct Twins {
    world: World,
    client: Client,
    /// The transitions with their records' positions, for the replay.
    noted: Vec<(Lsn, &'static str, u64, Millis)>,
    versions: [u64; 2],
}

impl Twins {
    fn new() -> Twins {
        let mut world = World::new().on_disk();
        let client = sleeper(&mut world);
        Twins { world, client, noted: Vec::new(), versions: [0; 2] }
    }

    fn change(&mut self, of: &'static str) {
        self.world.publish(self.client, Publish { retain: true, ..publish(1, 7, "t", "x") });
        let version = &mut self.versions[usize::from(of == OTHER)];
        *version += 1;
        let (at, now) = (self.world.shard.recorder.last(), self.world.now);
        self.noted.push((at, of, *version, now));
        note(&mut self.world, of, *version, now);
    }

    /// The power goes. Records behind the mark are replayed, and with them the shard notes again.
    fn restart(&mut self) {
        let from = self.world.applied();
        self.world.restart();
        for (lsn, of, version, at) in self.noted.clone() {
            if lsn > from {
                note(&mut self.world, of, version, at);
            }
        }
        self.client = self.world.join(connect("pub"));
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
        all.iter().map(|entry| String::from_utf8(entry.json.clone()).unwrap().parse().unwrap()).collect()
    }
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
            10 if next(20) == 0 => twins.restart(),
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
    let start = twins.noted[0].3.0;
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
