//! Which vehicles are connected, and who learns of it.

use causeway_protocol::{Connect, RetainHandling, SubscriptionOptions};

use super::world::{Client, World, connect, options, persistent, publish, with_will};
use crate::{Identity, Overflow, Principal};

const VIN: &str = "1M8GDM9AXKP042788";
const HMI: &str = "1M8GDM9AXKP042788/hmi";
const OTHER: &str = "WVWZZZ1JZ3W386752";

fn vehicle(vin: &str) -> Identity {
    Principal::Vehicle(vin.parse().unwrap()).into()
}

/// The connection of one of a vehicle's clients.
fn drive(world: &mut World, client_id: &str) -> Client {
    let (client, said) = world.dial_as(connect(client_id), vehicle(&client_id[..17]));
    assert_eq!(said, ["connack 0x00"]);
    client
}

/// A consumer of all events, and what it was sent because it subscribed.
fn watch(world: &mut World, client_id: &str, qos: u8) -> (Client, Vec<Event>) {
    let asked = Connect { keep_alive_seconds: 0, ..persistent(client_id) };
    let (client, _) = world.dial_as(asked, Principal::service(client_id));
    world.subscribe(client, "$presence/+", options(qos));
    let known = seen(world, client);
    (client, known)
}

/// One event, as a consumer understands it.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    vin: String,
    online: bool,
    epoch: u64,
    client: String,
    reason: String,
}

impl Event {
    /// Without the epoch.
    fn word(&self) -> String {
        format!("{} {} {} {}", self.vin, if self.online { "online" } else { "offline" }, self.client, self.reason)
    }
}

/// What follows a name in an event.
fn field(text: &str, name: &str) -> String {
    let (_, value) = text.split_once(&format!("\"{name}\":")).unwrap();
    value.trim_start_matches('"').split(['"', ',']).next().unwrap().to_owned()
}

/// The events a consumer got, all acknowledged.
fn seen(world: &mut World, client: Client) -> Vec<Event> {
    let heard = world.heard(client);
    seen_since(world, client, heard)
}

fn seen_since(world: &mut World, client: Client, mut heard: Vec<String>) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        if heard.is_empty() {
            return events;
        }
        for word in heard.iter().filter(|word| word.starts_with("pub ")) {
            let at = word.find("$presence/").unwrap();
            let (topic, payload) = word[at..].split_once('=').unwrap();
            let event = Event {
                vin: field(payload, "vin"),
                online: field(payload, "online") == "true",
                epoch: field(payload, "epoch").parse().unwrap(),
                client: field(payload, "client"),
                reason: field(payload, "reason"),
            };
            assert_eq!(topic, format!("$presence/{}", event.vin));
            events.push(event);
            if let Some(id) = word.split(' ').find_map(|part| part.strip_prefix('p')?.parse::<u16>().ok()) {
                world.puback(client, id);
            }
        }
        heard = world.heard(client);
    }
}

fn words(events: &[Event]) -> Vec<String> {
    events.iter().map(Event::word).collect()
}

#[test]
fn a_vehicle_comes_and_goes() {
    let mut world = World::new();
    let (consumer, _) = watch(&mut world, "backend", 1);
    let client = drive(&mut world, VIN);
    world.wait(250);
    world.disconnect(client);
    let events = seen(&mut world, consumer);
    assert_eq!(words(&events), [format!("{VIN} online {VIN} connected"), format!("{VIN} offline {VIN} disconnected")]);
    assert!(events[0].epoch < events[1].epoch);
    assert_eq!(events[0].epoch, 1_000_000 << 10, "the clock stands above the bits of one millisecond");
    let (_, late) = watch(&mut world, "late", 1);
    assert_eq!(late, [events[1].clone()], "retained");
}

#[test]
fn an_event_is_json_in_utf_8() {
    let mut world = World::new();
    let client = drive(&mut world, "1M8GDM9AXKP042788/a\"b");
    let (reader, _) = world.dial_as(connect("reader"), Principal::service("reader"));
    world.subscribe(reader, "$presence/#", options(0));
    assert_eq!(
        world.heard(reader),
        [
            "suback 00".to_owned(),
            format!(
                "pub q0 retain $presence/{VIN}={{\"vin\":\"{VIN}\",\"online\":true,\"epoch\":1024000000,\
                 \"at\":\"1970-01-01T00:16:40.000Z\",\"client\":\"{VIN}/a\\\"b\",\"reason\":\"connected\"}}"
            )
        ]
    );
    world.hang_up(client);
}

#[test]
fn it_is_online_while_one_of_its_clients_is() {
    let mut world = World::new();
    let (consumer, _) = watch(&mut world, "backend", 1);
    let first = drive(&mut world, VIN);
    let second = drive(&mut world, HMI);
    world.hang_up(first);
    assert_eq!(words(&seen(&mut world, consumer)), [format!("{VIN} online {VIN} connected")]);
    world.hang_up(second);
    assert_eq!(words(&seen(&mut world, consumer)), [format!("{VIN} offline {HMI} connection-lost")]);
}

#[test]
fn a_takeover_is_no_event() {
    let mut world = World::new();
    let (consumer, _) = watch(&mut world, "backend", 1);
    drive(&mut world, VIN);
    let again = drive(&mut world, VIN);
    assert_eq!(words(&seen(&mut world, consumer)), [format!("{VIN} online {VIN} connected")]);
    world.disconnect(again);
    assert_eq!(words(&seen(&mut world, consumer)), [format!("{VIN} offline {VIN} disconnected")]);
}

#[test]
fn a_will_waits_and_presence_does_not() {
    let mut world = World::new();
    let (consumer, _) = watch(&mut world, "backend", 1);
    let mut asked = with_will(persistent(VIN), "w", 10);
    asked.clean_start = true;
    let (client, _) = world.dial_as(asked, vehicle(VIN));
    world.hang_up(client);
    assert_eq!(words(&seen(&mut world, consumer)).len(), 2);
}

#[test]
fn why_it_went_is_told() {
    let mut world = World::new();
    let (consumer, _) = watch(&mut world, "backend", 1);
    drive(&mut world, VIN);
    world.wait(90_000);
    assert_eq!(seen(&mut world, consumer).pop().unwrap().reason, "keep-alive-timeout");
    drive(&mut world, VIN);
    world.shard.shutdown(world.now);
    world.settle();
    world.restart();
    let (_, late) = watch(&mut world, "late", 1);
    assert_eq!(late.last().unwrap().word(), format!("{VIN} offline {VIN} broker-stopped"));
}

#[test]
fn nobody_is_online_after_a_crash() {
    for folds in [false, true] {
        let mut world = World::new().on_disk();
        let (consumer, _) = watch(&mut world, "backend", 1);
        drive(&mut world, VIN);
        let gone = drive(&mut world, OTHER);
        world.disconnect(gone);
        let before = seen(&mut world, consumer);
        if folds {
            world.fold(usize::MAX, true);
        }
        world.restart();
        let (_, said) = world.dial_as(persistent("backend"), Principal::service("backend"));
        assert_eq!(said[0], "connack 0x00 present");
        assert!(said[1..].iter().any(|word| word.contains("broker-restarted")), "{said:?}");
        let (_, late) = watch(&mut world, "late", 1);
        assert_eq!(words(&late[1..]), [format!("{VIN} offline {VIN} broker-restarted")], "folded: {folds}");
        assert!(late[1].epoch > before[0].epoch);
        assert_eq!(late[0], before[2], "what was true before is told no anew");
    }
}

#[test]
fn nobody_sees_an_event_that_a_crash_could_undo() {
    for (filter, qos) in [("$presence/+", 0), ("$presence/+", 1), ("$share/g/$presence/+", 0)] {
        let mut world = World::new();
        let (reader, _) = world.dial_as(connect("reader"), Principal::service("reader"));
        world.subscribe(reader, filter, options(qos));
        world.heard(reader);
        world.durable_at_once = false;
        let (client, said) = world.dial_as(connect(VIN), vehicle(VIN));
        assert!(said.is_empty(), "CONNACK waits for the event");
        assert!(world.heard(reader).is_empty(), "{filter} {qos}");
        let (late, _) = world.dial_as(connect("late"), Principal::service("late"));
        world.subscribe(late, "$presence/+", options(0));
        assert!(!world.heard(late).iter().any(|word| word.starts_with("pub")));
        world.sync();
        assert_eq!(world.heard(client), ["connack 0x00"]);
        assert_eq!(world.heard(reader).len(), 1, "{filter} {qos}");
        assert_eq!(world.heard(late).len(), 2, "suback and the event");
    }
}

#[test]
fn an_event_that_was_lost_was_seen_by_nobody() {
    let mut world = World::new();
    drive(&mut world, VIN);
    world.durable_at_once = false;
    let lost = drive_unheard(&mut world, OTHER);
    world.restart();
    world.durable_at_once = true;
    assert!(!world.shard.is_open(lost.id));
    let (_, late) = watch(&mut world, "late", 1);
    assert_eq!(words(&late), [format!("{VIN} offline {VIN} broker-restarted")]);
}

/// The same, of whom nothing is durable.
fn drive_unheard(world: &mut World, client_id: &str) -> Client {
    world.dial_as(connect(client_id), vehicle(&client_id[..17])).0
}

#[test]
fn whoever_had_no_room_is_right_again_once_it_has() {
    for (overflow, crashes) in [
        (Overflow::RefuseNew, false),
        (Overflow::RefuseNew, true),
        (Overflow::DropOldest, false),
        (Overflow::DropOldest, true),
    ] {
        let mut world = World::with(|limits| limits.session_queue_messages_max = 4).on_disk();
        world.overflow = overflow;
        let (consumer, _) = watch(&mut world, "backend", 1);
        world.hang_up(consumer);
        let vins: Vec<String> = (0..9).map(|number| format!("WVWZZZ1JZ3W38675{number}")).collect();
        let mut clients: Vec<Client> = vins.iter().map(|vin| drive(&mut world, vin)).collect();
        world.hang_up(clients.remove(0));
        if crashes {
            world.fold(usize::MAX, true);
            drive(&mut world, "WVWZZZ1JZ3W386750");
            world.restart();
        }
        let (consumer, said) = world.dial_as(persistent("backend"), Principal::service("backend"));
        let mut newest = std::collections::BTreeMap::new();
        for event in seen_since(&mut world, consumer, said) {
            let known = newest.entry(event.vin.clone()).or_insert(event.clone());
            if event.epoch > known.epoch {
                *known = event;
            }
        }
        let online: Vec<bool> = newest.values().map(|event| event.online).collect();
        let expected: Vec<bool> = (0..9).map(|number| number > 0 && !crashes).collect();
        assert_eq!(online, expected, "{overflow:?}, crashes: {crashes}");
    }
}

#[test]
fn only_the_broker_says_it() {
    let mut world = World::new();
    let (service, _) = world.dial_as(connect("s"), Principal::service("s"));
    world.publish(service, publish(1, 1, &format!("$presence/{VIN}"), ""));
    assert_eq!(world.heard(service), ["puback p1 0x87"]);
    let (_, said) = world.dial_as(with_will(connect("t"), "$presence/x", 0), Principal::service("t"));
    assert_eq!(said, ["connack 0x87"]);
}

#[test]
fn it_takes_no_room_of_clients() {
    let mut world = World::with(|limits| limits.retained_messages_max = 0);
    drive(&mut world, VIN);
    let (_, late) = watch(&mut world, "late", 1);
    assert_eq!(late.len(), 1);
}

#[test]
fn those_who_are_no_vehicles_are_not_told_of() {
    let mut world = World::new();
    world.join(connect("somebody"));
    world.dial_as(connect("s"), Principal::service("s"));
    let (consumer, known) = watch(&mut world, "backend", 1);
    assert!(known.is_empty() && seen(&mut world, consumer).is_empty());
}

#[test]
fn switched_off_nothing_stays_that_is_not_true() {
    let mut world = World::with(|limits| limits.presence = false);
    drive(&mut world, VIN);
    let (_, known) = watch(&mut world, "backend", 1);
    assert!(known.is_empty());
}

#[test]
fn a_subscription_may_ask_for_news_only() {
    let mut world = World::new();
    let client = drive(&mut world, VIN);
    let (reader, _) = world.dial_as(connect("reader"), Principal::service("reader"));
    let options = SubscriptionOptions { retain_handling: RetainHandling::Never, ..options(1) };
    world.subscribe(reader, "$presence/+", options);
    assert!(seen(&mut world, reader).is_empty());
    world.hang_up(client);
    assert_eq!(seen(&mut world, reader).len(), 1);
}
