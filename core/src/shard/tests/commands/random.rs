//! Any moves of requesters, vehicles, clock and disk: each request has one outcome, and nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::robustness::{Owed, owed};
use super::*;
use crate::shard::command::{Command, State};

#[derive(Debug, Clone)]
enum Move {
    /// A vehicle connects, with or without a session that lasts.
    Drive {
        car: usize,
        clean: bool,
    },
    HangUp(usize),
    Subscribe {
        car: usize,
        filter: usize,
        qos: u8,
    },
    Request {
        service: usize,
        car: usize,
        qos: u8,
        expiry: u32,
        key: Option<u8>,
        now: bool,
    },
    /// A vehicle answers one of the last commands, whosever it is.
    Reply {
        car: usize,
        back: usize,
        qos: u8,
        long: bool,
    },
    /// It says something else: of its state, or of its shadow.
    Tell {
        car: usize,
        qos: u8,
        to_shadow: bool,
        number: u8,
    },
    /// A requester reads and acknowledges, or goes and comes back.
    Read(usize),
    Reconnect {
        service: usize,
        packet_bytes_max: Option<u32>,
    },
    /// A vehicle is barred, or is not any more.
    Bar {
        car: usize,
        barred: bool,
    },
    Wait(u64),
    Sync,
    Fold {
        work: usize,
        commits: bool,
    },
    Crash,
}

const CARS: [&str; 2] = [VIN, OTHER];
const SERVICES: [&str; 2] = ["backend", "another"];
const FILTERS: [&str; 3] = ["cmd/#", "cmd/x", "cmd/+/+"];

fn moves() -> impl Strategy<Value = Move> {
    let two = || 0..2usize;
    prop_oneof![
        2 => (two(), any::<bool>()).prop_map(|(car, clean)| Move::Drive { car, clean }),
        1 => two().prop_map(Move::HangUp),
        2 => (two(), 0..3usize, 0..2u8).prop_map(|(car, filter, qos)| Move::Subscribe { car, filter, qos }),
        6 => (two(), two(), 1..3u8, 1..40u32, prop::option::of(0..3u8), prop::bool::weighted(0.2)).prop_map(
            |(service, car, qos, expiry, key, now)| Move::Request { service, car, qos, expiry, key, now }),
        6 => (two(), 0..6usize, 0..3u8, prop::bool::weighted(0.2)).prop_map(
            |(car, back, qos, long)| Move::Reply { car, back, qos, long }),
        2 => (two(), 0..3u8, any::<bool>(), 0..3u8).prop_map(
            |(car, qos, to_shadow, number)| Move::Tell { car, qos, to_shadow, number }),
        3 => two().prop_map(Move::Read),
        1 => (two(), prop::option::of(250..400u32)).prop_map(
            |(service, packet_bytes_max)| Move::Reconnect { service, packet_bytes_max }),
        1 => (two(), prop::bool::weighted(0.4)).prop_map(|(car, barred)| Move::Bar { car, barred }),
        2 => (0..20_000u64).prop_map(Move::Wait),
        3 => Just(Move::Sync),
        1 => (1..6usize, prop::bool::weighted(0.8)).prop_map(|(work, commits)| Move::Fold { work, commits }),
        1 => Just(Move::Crash),
    ]
}

/// A request as its requester remembers it.
#[derive(Debug, Clone)]
struct Asked {
    service: usize,
    car: usize,
    qos: u8,
    key: Option<u8>,
    now: bool,
    expiry: u32,
    id: u16,
    is_acknowledged: bool,
    /// By the identifiers of their messages, which a repetition has again: outcome, and number of the command. A refusal has neither.
    outcomes: BTreeMap<u16, (String, String)>,
}

#[derive(Default)]
struct Fleet {
    cars: [Option<Client>; 2],
    services: [Option<Client>; 2],
    packet_bytes_max: [Option<u32>; 2],
    barred: [bool; 2],
    /// By Correlation Data.
    asked: BTreeMap<String, Asked>,
    /// What each vehicle was sent: number of the command, and identifier of the message.
    sent: Vec<(usize, String, u16)>,
    packet_id: u16,
}

impl Fleet {
    fn service(&mut self, world: &mut World, service: usize) -> Option<Client> {
        if self.services[service].is_none() {
            let name = SERVICES[service];
            let mut terms = persistent(name);
            terms.properties.maximum_packet_size_bytes = self.packet_bytes_max[service];
            let client = world.dial_silently(terms, Principal::service(name));
            self.services[service] = Some(client);
            if world.shard.is_corked(client.id) {
                world.sync();
            }
            let answers = format!("{name}/answers");
            world.subscribe(client, &answers, options(1));
            // Whatever was not acknowledged is said again.
            let again: Vec<(String, Asked)> = self
                .asked
                .iter()
                .filter(|(_, asked)| asked.service == service && !asked.is_acknowledged)
                .map(|(correlation, asked)| (correlation.clone(), asked.clone()))
                .collect();
            for (correlation, asked) in again {
                self.ask(world, client, &correlation, &asked, true);
            }
        }
        self.services[service]
    }

    fn ask(&mut self, world: &mut World, client: Client, correlation: &str, asked: &Asked, dup: bool) {
        let (topic, answers) =
            (format!("vehicles/{}/cmd/x", CARS[asked.car]), format!("{}/answers", SERVICES[asked.service]));
        let key = asked.key.map(|key| key.to_string()).unwrap_or_else(|| correlation.to_owned());
        let mut properties = vec![("idempotency-key", key.as_str())];
        properties.extend(asked.now.then_some(("wait", "0")));
        let said = Said {
            qos: asked.qos,
            id: asked.id,
            dup,
            response_topic: Some(&answers),
            correlation: Some(correlation.as_bytes()),
            expiry: Some(asked.expiry),
            properties: &properties,
            ..to(&topic, "{}")
        };
        world.say(client, said);
    }

    fn read(&mut self, world: &mut World, service: usize) {
        let Some(client) = self.services[service].filter(|client| !world.shard.is_corked(client.id)) else { return };
        let (mut got, mut bytes) = (Vec::new(), world.taken(client.id));
        while !bytes.is_empty() {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let head = frame(rest, u32::MAX).unwrap().unwrap();
                let (packet, behind) = rest.split_at(head.total_bytes());
                rest = behind;
                match decode(&head, &packet[head.header_bytes..], client.version).unwrap() {
                    Packet::Publish(publish) => {
                        got.push(of_publish(&publish));
                        let ack = Ack::new(publish.packet_id.unwrap(), ReasonCode::Success);
                        world.send(client, Packet::PubAck(ack));
                    }
                    Packet::PubAck(ack) | Packet::PubRec(ack) => self.acknowledged(world, client, service, &ack),
                    _ => {}
                }
            }
            world.shard_fetches();
            bytes = world.taken(client.id);
        }
        for got in got.into_iter().filter(|got| !got.outcome().is_empty()) {
            let correlation = got.correlation.clone().unwrap();
            let asked = self.asked.get_mut(&correlation).expect("somebody's");
            assert_eq!(asked.service, service, "somebody else's outcome");
            // That a reply is too large is another word for it.
            let outcome = if got.outcome() == "too-large" { "replied" } else { got.outcome() };
            asked.outcomes.insert(got.id, (outcome.to_owned(), got.command().to_owned()));
        }
    }

    fn acknowledged(&mut self, world: &mut World, client: Client, service: usize, ack: &Ack<'_>) {
        let id = ack.packet_id.get();
        let mut qos = 1;
        for asked in self.asked.values_mut().filter(|asked| asked.service == service && asked.id == id) {
            qos = asked.qos;
            asked.is_acknowledged = true;
            // A refusal is the outcome.
            asked.outcomes.extend((ack.reason as u8 >= 0x80).then(Default::default));
        }
        if qos == 2 && (ack.reason as u8) < 0x80 {
            world.send(client, Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)));
        }
    }

    fn drive_on(&mut self, world: &mut World, car: usize) {
        let Some(client) = self.cars[car].filter(|client| !world.shard.is_corked(client.id)) else { return };
        for got in world.gotten(client) {
            let of_topic = || got.topic.rsplit('/').next().unwrap_or_default().to_owned();
            let id = got.correlation.clone().unwrap_or_else(of_topic);
            let command = world.shard.commands.get(id.parse().unwrap());
            let is_pending = command.is_some_and(|command| command.deadline > world.now);
            assert!(is_pending, "{id} was over when it was sent");
            let before = self.sent.iter().find(|(to, of, _)| *to == car && *of == id).map(|(.., id)| *id);
            assert!(before.is_none_or(|before| got.dup && before == got.id), "{id} was sent twice");
            if before.is_none() {
                self.sent.push((car, id, got.id));
            }
        }
    }

    fn crash(&mut self, world: &mut World) {
        world.restart();
        (self.cars, self.services) = Default::default();
        // The rest of the broker tells it at each start.
        (0..2).for_each(|car| self.bar(world, car));
    }

    fn bar(&mut self, world: &mut World, car: usize) {
        let bar = self.barred[car].then_some(crate::Bar { why: "the vehicle is suspended".into(), until: None });
        world.notice(crate::Notice::Bars(vec![(CARS[car].parse().unwrap(), bar)]));
    }

    fn play(&mut self, world: &mut World, step: Move) {
        match step {
            Move::Drive { car, clean } => {
                let terms = if clean { connect(CARS[car]) } else { persistent(CARS[car]) };
                let old = self.cars[car].replace(world.dial_silently(terms, vehicle(CARS[car])));
                old.into_iter().for_each(|old| world.hang_up(old));
            }
            Move::HangUp(car) => self.cars[car].take().into_iter().for_each(|client| world.hang_up(client)),
            Move::Subscribe { car, filter, qos } => {
                if let Some(client) = self.cars[car].filter(|client| !world.shard.is_corked(client.id)) {
                    world.subscribe(client, FILTERS[filter], options(qos));
                }
            }
            Move::Request { service, car, qos, expiry, key, now } => {
                let Some(client) = self.service(world, service).filter(|client| !world.shard.is_corked(client.id))
                else {
                    return;
                };
                self.packet_id += 1;
                let asked = Asked {
                    service,
                    car,
                    qos,
                    key,
                    now,
                    expiry,
                    id: self.packet_id,
                    is_acknowledged: false,
                    outcomes: BTreeMap::new(),
                };
                let correlation = format!("r{}", self.packet_id);
                self.asked.insert(correlation.clone(), asked.clone());
                self.ask(world, client, &correlation, &asked, false);
            }
            Move::Reply { car, back, qos, long } => {
                let named = self.sent.iter().rev().nth(back).map(|(_, id, _)| id.clone());
                let client = self.cars[car].filter(|client| !world.shard.is_corked(client.id));
                if let (Some(client), Some(id)) = (client, named) {
                    self.packet_id += 1;
                    let payload = if long { "x".repeat(400) } else { "x".to_owned() };
                    let reply =
                        Said { correlation: Some(id.as_bytes()), id: self.packet_id, qos, ..to("status/x", &payload) };
                    world.say(client, reply);
                }
            }
            Move::Tell { car, qos, to_shadow, number } => {
                if let Some(client) = self.cars[car].filter(|client| !world.shard.is_corked(client.id)) {
                    self.packet_id += 1;
                    let topic = if to_shadow { "shadow/state" } else { "status/x" };
                    world.say(client, Said { id: self.packet_id, qos, ..to(topic, &format!("{{\"n\":{number}}}")) });
                }
            }
            Move::Read(service) => self.read(world, service),
            Move::Reconnect { service, packet_bytes_max } => {
                self.packet_bytes_max[service] = packet_bytes_max;
                self.services[service].take().into_iter().for_each(|client| world.hang_up(client));
            }
            Move::Bar { car, barred } => {
                self.barred[car] = barred;
                self.bar(world, car);
            }
            Move::Wait(milliseconds) => world.wait(milliseconds),
            Move::Sync => world.sync(),
            Move::Fold { work, commits } => world.fold(work, commits),
            Move::Crash => self.crash(world),
        }
        (0..2).for_each(|car| self.drive_on(world, car));
    }

    /// Everybody comes back, and all deadlines pass.
    fn end(&mut self, world: &mut World) {
        world.durable_at_once = true;
        world.sync();
        for _ in 0..3 {
            for service in 0..2 {
                self.services[service].take().into_iter().for_each(|client| world.hang_up(client));
                self.service(world, service);
            }
            world.wait(60_000);
            (0..2).for_each(|service| self.read(world, service));
        }
    }
}

/// All that a restart must bring back: commands, shadows, and what is owed.
fn lasting(world: &World) -> (Vec<String>, Vec<String>, Vec<Owed>) {
    let command = |id| {
        let command = world.shard.commands.get(id).unwrap();
        let state = match &command.state {
            State::Waiting(message) => format!("waiting {:?}", message.payload),
            State::Sent => "sent".to_owned(),
            State::Ended(ended) => format!("{:?} {:?} {:?}", ended.outcome, ended.at, ended.message.payload),
        };
        let Command { as_of, by, deadline, address, key, .. } = command;
        format!("{id} {as_of:?} {by} {deadline:?} {address:?} {key:?} {state}")
    };
    let of =
        |vin: &str| world.shard.shadows.of(&vin.parse().unwrap()).iter().map(|kept| format!("{:?}", kept.shadow()));
    let shadows = CARS.into_iter().flat_map(of).collect();
    (world.shard.commands.all_ids().map(command).collect(), shadows, owed(world))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn each_request_has_one_outcome(
        moves in prop::collection::vec(moves(), 0..100),
        on_disk in any::<bool>(),
        cache in 0..60usize,
        at_once in any::<bool>(),
        outcomes_bytes_max in prop_oneof![Just(256 << 20), Just(3000)],
    ) {
        let mut world = world_with(|limits| {
            limits.commands_per_vehicle_max = 4;
            limits.commands_per_requester_max = 6;
            limits.command_outcomes_kept_seconds = 600;
            limits.command_outcomes_bytes_max = outcomes_bytes_max;
            limits.body_cache_bytes = cache;
        });
        world = if on_disk { world.on_disk() } else { world };
        world.durable_at_once = at_once;
        let mut fleet = Fleet::default();
        for step in moves {
            fleet.play(&mut world, step);
            world.shard.commands.check();
        }
        world.sync();
        world.shard.on_progress(world.now);
        world.sync();
        let (before, loads) = (lasting(&world), world.shard.commands.loads());
        fleet.crash(&mut world);
        let after = lasting(&world);
        prop_assert_eq!((&before.0, &before.1), (&after.0, &after.1));
        prop_assert_eq!(loads, world.shard.commands.loads());
        for session in &after.2 {
            prop_assert!(before.2.contains(session), "{:?} in {:?}", session, before.2);
        }
        fleet.end(&mut world);
        let mut by_key: BTreeMap<(usize, usize, u8), usize> = BTreeMap::new();
        for (correlation, asked) in &fleet.asked {
            match asked.key {
                // Its own key is nobody else's: one request, one outcome. At QoS 1 it may come again, and is told the same again.
                None => {
                    let mut told: BTreeSet<&(String, String)> = asked.outcomes.values().collect();
                    // For what had no room none is kept; it may come again and find some.
                    if outcomes_bytes_max < 10_000 && told.len() > 1 {
                        told.retain(|(outcome, _)| outcome != "queue-full");
                    }
                    prop_assert!(told.len() == 1 || outcomes_bytes_max < 10_000, "{} {:?}", correlation, asked);
                    prop_assert!(told.len() <= 1 && !asked.outcomes.is_empty(), "{} {:?}", correlation, asked);
                    prop_assert!(asked.qos == 1 || asked.outcomes.len() == 1, "{} {:?}", correlation, asked);
                }
                // Requests of one key are one command, told to whoever asked last, and again to those who ask later.
                Some(key) => *by_key.entry((asked.service, asked.car, key)).or_insert(0) += asked.outcomes.len(),
            }
        }
        prop_assert!(by_key.values().all(|outcomes| *outcomes >= 1), "{:?}", by_key);
        world.wait(10_000_000);
        let gauges = world.shard.gauges();
        prop_assert_eq!((gauges.commands_pending, gauges.command_outcomes), (0, 0));
        for car in 0..2 {
            fleet.cars[car].take().into_iter().for_each(|client| world.hang_up(client));
            fleet.services[car].take().into_iter().for_each(|client| world.hang_up(client));
        }
        world.wait(10_000_000);
        prop_assert_eq!(world.shard.timers.len(), 0);
        prop_assert!(world.shard.releases.is_empty());
    }
}
