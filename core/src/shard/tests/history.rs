//! History: what is asked for is there once and in its order, whatever was folded, failed or lost in between.

use causeway_fleet::Vin;
use causeway_protocol::ProtocolVersion;

use super::world::*;
use crate::history::{HISTORY, HistoryEntry, HistoryRange};
use crate::{Ask, AskId, Limits, Millis, Principal, ShadowAsk, ShadowWhat};

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
fn a_fold_removes_more_than_it_puts_where_so_much_is_too_old() {
    let mut world = World::with(|limits| limits.shadow_history_days = 2).on_disk();
    world.now = Millis(50 * DAY);
    let client = sleeper(&mut world);
    let mut puts = |first: u64, count: u64| {
        let now = world.now;
        (first..first + count).for_each(|version| note(&mut world, VIN, version, now));
        world.publish(client, publish(1, 1, "t", "x"));
        world.fold(usize::MAX, true);
        world.now.0 += 5 * DAY;
        let again = world.join(persistent("again"));
        world.hang_up(again);
        world.entries().iter().filter(|(key, _)| key[0] == HISTORY).count()
    };
    let found = [puts(0, 120_000), puts(120_000, 120_000), puts(240_000, 1), puts(240_001, 1)];
    assert_eq!(found, [120_000, 120_000, 20_001, 1]);
}

#[test]
fn what_was_kept_goes_with_its_day_where_nothing_is_kept_any_more() {
    let mut world = World::with(|limits| limits.shadow_history_days = 2).on_disk();
    world.now = Millis(50 * DAY);
    let client = sleeper(&mut world);
    let now = world.now;
    note(&mut world, VIN, 1, now);
    world.publish(client, publish(1, 1, "t", "x"));
    let kept = |world: &mut World| {
        world.fold(usize::MAX, true);
        world.entries().iter().filter(|(key, _)| key[0] == HISTORY).count()
    };
    assert_eq!(kept(&mut world), 1);
    let limits = Limits { shadow_history_days: 0, ..(*world.shard.limits).clone() };
    world.shard.limits = limits.into();
    for (later, expected) in [(DAY - 1, 1), (1, 0)] {
        world.now.0 += later;
        let again = world.join(persistent("again"));
        world.hang_up(again);
        assert_eq!(kept(&mut world), expected);
    }
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

/// So much history that was not folded, in pieces of a MiB.
fn flood(world: &mut World, mebibytes: u64) {
    let piece = vec![b'x'; 1 << 20];
    (0..mebibytes).for_each(|number| {
        world.shard.note_history(&vin(OTHER), "", 1_000 + number, Millis(DAY), &piece);
    });
}

fn update(world: &mut World, client: Client, qos: u8) -> Vec<String> {
    let topic = format!("vehicles/{VIN}/shadow/update");
    world.publish(client, publish(qos, u16::from(qos), &topic, r#"{"state":{"desired":{"number":1}}}"#));
    world.heard(client)
}

#[test]
fn whoever_changes_shadows_faster_than_they_are_folded_waits_for_the_fold_and_is_not_refused() {
    let mut world = World::new().on_disk();
    let (client, reader) = (world.join(connect("backend")), world.join(connect("reader")));
    assert_eq!(update(&mut world, client, 1), ["puback p1"]);
    assert!(world.shard.wants_input(client.id) && !world.shard.is_fold_due());
    flood(&mut world, 40);
    assert!(world.shard.is_fold_due());
    flood(&mut world, 130);
    assert_eq!(update(&mut world, client, 1), ["puback p1"]);
    assert!(!world.shard.wants_input(client.id), "it waits");
    world.publish(reader, publish(1, 1, &format!("vehicles/{VIN}/shadow/get"), ""));
    assert_eq!(world.heard(reader), ["puback p1"]);
    assert!(world.shard.wants_input(reader.id), "who reads does not");
    // Its silence is the broker's, and it is not judged by it.
    world.send(reader, causeway_protocol::Packet::PingReq);
    world.wait(100_000);
    assert!(!world.shard.is_open(reader.id) && world.shard.is_open(client.id));
    world.fold(usize::MAX, false);
    assert!(world.shard.wants_input(client.id), "a fold that failed is nothing to wait for");
    assert_eq!(update(&mut world, client, 1), ["puback p1"]);
    assert!(world.shard.wants_input(client.id), "nor is one as long as they fail");
    while world.shard.poll_dirty().is_some() {}
    assert_eq!(update(&mut world, client, 0), Vec::<String>::new());
    world.fold(1, true);
    assert_eq!(update(&mut world, client, 1), ["puback p1"]);
    assert!(!world.shard.wants_input(client.id) && !world.shard.is_fold_due(), "one is under way");
    world.fold(usize::MAX, true);
    assert!(
        world.shard.wants_input(client.id) && world.shard.has_dirty(),
        "whoever has folded sees that somebody waits"
    );
    let looked_at: Vec<_> = std::iter::from_fn(|| world.shard.poll_dirty()).collect();
    assert!(looked_at.contains(&client.id), "whoever waits is looked at again");
    assert_eq!((world.shard.counters().shadow_waits, world.shard.is_fold_due()), (2, false));
}

#[test]
fn where_nothing_can_be_folded_nothing_is_acknowledged_and_thrown_away() {
    let mut world = World::new().on_disk();
    let client = world.join(connect("backend"));
    world.subscribe(client, &format!("vehicles/{VIN}/shadow/update/#"), options(0));
    let old = world.join(causeway_protocol::Connect { version: ProtocolVersion::V311, ..connect("old") });
    world.heard(client);
    update(&mut world, client, 1);
    world.fold(usize::MAX, false);
    flood(&mut world, 256);
    assert_eq!(update(&mut world, client, 1), ["puback p1 0x97"]);
    assert_eq!(update(&mut world, client, 2), ["pubrec p2 0x97"]);
    // Without an acknowledgement only the answer can say it.
    let heard = update(&mut world, client, 0);
    assert!(heard.len() == 1 && heard[0].contains("/rejected=") && heard[0].contains("\"code\":507"), "{heard:?}");
    // It knows no reasons: what is not acknowledged stays its own.
    assert_eq!(update(&mut world, old, 1), Vec::<String>::new());
    assert_eq!(world.closes(), [old.id]);
    let (vin, by) = (vin(VIN), Principal::operator("o"));
    let what = ShadowWhat::Delete { version: None };
    world.shard.ask(world.now, AskId(1), &Ask::Shadow(ShadowAsk { vin, name: None, by, what }));
    world.settle();
    assert!(format!("{:?}", world.shard.poll_effect()).contains("507"));
    world.fold(usize::MAX, true);
    assert!(update(&mut world, client, 1).contains(&"puback p1".to_owned()));
}

#[test]
fn what_is_noted_again_takes_no_more_room() {
    let mut world = World::new().on_disk();
    let client = world.join(connect("backend"));
    update(&mut world, client, 1);
    for commits in [false, false, true] {
        (0..300).for_each(|_| flood(&mut world, 1));
        assert!(world.shard.has_room_for_history());
        world.fold(1, false);
        (0..300).for_each(|_| flood(&mut world, 1));
        world.fold(usize::MAX, commits);
        assert!(world.shard.has_room_for_history());
        update(&mut world, client, 1);
    }
}
