//! Commands of vehicles that may not be connected.

use super::super::peers::Broker;
use super::*;
use crate::{Answer, Ask, AskId, Bar, CommandAsk, CommandProgress, Effect, Millis, Notice};

fn bars(vin: &str, why: Option<&'static str>, until: Option<Millis>) -> Notice {
    Notice::Bars(vec![(vin.parse().unwrap(), why.map(|why| Bar { why: why.into(), until }))])
}

const SUSPENDED: &str = "the vehicle is suspended";

#[test]
fn nobody_waits_for_a_vehicle_that_is_barred() {
    for qos in 0..3 {
        let mut world = world();
        let (car, backend) = pair(&mut world);
        world.hang_up(car);
        world.notice(bars(VIN, Some(SUSPENDED), None));
        world.say(backend, Said { qos, ..request(&full("cmd/lock"), "one") });
        let (told, said) = world.got(backend);
        assert_eq!(outcomes(&told), pairs(&[("one", "retired")]), "QoS {qos}");
        assert!(told[0].payload.contains(SUSPENDED), "{}", told[0].payload);
        assert_eq!(said, [vec![], vec!["puback 0x00"], vec!["pubrec 0x00"]][usize::from(qos)]);
        // Others are not meant.
        let other = format!("vehicles/{OTHER}/cmd/lock");
        world.say(backend, Said { id: 2, ..request(&other, "two") });
        assert_eq!(outcomes(&world.gotten(backend)), []);
        // It may be connected again.
        world.notice(bars(VIN, None, None));
        let car = world.dial_silently(persistent(VIN), vehicle(VIN));
        world.say(backend, Said { id: 3, ..request(&full("cmd/lock"), "three") });
        assert_eq!(world.gotten(car).len(), 1);
        assert_eq!(world.shard.gauges().commands_pending, 2);
    }
}

#[test]
fn what_is_pending_is_over_when_its_vehicle_is_barred() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.say(backend, request(&full("cmd/lock"), "sent"));
    world.gotten(car);
    world.hang_up(car);
    world.say(backend, Said { id: 2, ..request(&full("cmd/lock"), "waiting") });
    // The rest of the broker tells it at each start: the end may have come between.
    world.restart();
    let backend = world.dial_silently(persistent("backend"), Principal::service("backend"));
    assert_eq!(outcomes(&world.gotten(backend)), []);
    world.notice(bars(VIN, Some(SUSPENDED), None));
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("sent", "retired"), ("waiting", "retired")]));
    world.notice(bars(VIN, Some(SUSPENDED), None));
    world.wait(100_000);
    assert_eq!(outcomes(&world.gotten(backend)), []);
}

#[test]
fn a_bar_may_end_by_itself() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let until = Millis(world.now.0 + 5000);
    world.notice(bars(VIN, Some("banned"), Some(until)));
    world.say(backend, request(&full("cmd/lock"), "one"));
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "retired")]));
    world.wait(5000);
    world.say(backend, request(&full("cmd/lock"), "two"));
    assert_eq!((outcomes(&world.gotten(backend)), world.gotten(car).len()), (vec![], 1));
    // One that is over already ends nothing.
    world.notice(bars(VIN, Some("banned"), Some(until)));
    assert_eq!(outcomes(&world.gotten(backend)), []);
}

#[test]
fn a_retry_is_told_the_same_whatever_became_of_the_vehicle() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.notice(bars(VIN, Some(SUSPENDED), None));
    let lock = full("cmd/lock");
    let keyed = Said { properties: &[("idempotency-key", "k")], ..request(&lock, "one") };
    world.say(backend, keyed);
    world.notice(bars(VIN, None, None));
    world.restart();
    let backend2 = world.dial_silently(persistent("backend"), Principal::service("backend"));
    assert_eq!(outcomes(&world.gotten(backend2)), pairs(&[("one", "retired")]));
    world.say(backend2, Said { correlation: Some(b"again"), ..keyed });
    assert_eq!(outcomes(&world.gotten(backend2)), pairs(&[("again", "retired")]));
    let _ = (car, backend);
}

#[test]
fn who_asks_otherwise_is_told_too() {
    let mut world = world();
    world.notice(bars(VIN, Some(SUSPENDED), None));
    let asked = CommandAsk {
        vin: VIN.parse().unwrap(),
        name: "lock".into(),
        by: Principal::operator("olga"),
        payload: b"{}".as_slice().into(),
        content_type: None,
        expires_seconds: Some(10),
        is_now_or_never: false,
        key: None,
        address: None,
    };
    world.shard.ask(world.now, AskId(1), &Ask::Command(Box::new(asked)));
    world.sync();
    let answers: Vec<Answer> = std::iter::from_fn(|| world.shard.poll_effect())
        .filter_map(|effect| match effect {
            Effect::Answer { answer, .. } => Some(*answer),
            _ => None,
        })
        .collect();
    let [Answer::Command(Some(told))] = answers.as_slice() else { panic!("{answers:?}") };
    let CommandProgress::Ended { outcome, .. } = &told.progress else { panic!("{told:?}") };
    assert_eq!(outcome.word(), "retired");
}

#[test]
fn the_vehicles_own_shard_answers_whoever_asks_elsewhere() {
    let home = causeway_fleet::home_shard(VIN, 2) as usize;
    let mut broker = Broker::new(2);
    let backend = service(&mut broker.shards[1 - home], "backend");
    broker.carry();
    broker.shards[1 - home].got(backend);
    broker.shards.iter_mut().for_each(|world| world.notice(bars(VIN, Some(SUSPENDED), None)));
    broker.shards[1 - home].say(backend, request(&full("cmd/lock"), "one"));
    broker.carry();
    let (told, said) = broker.shards[1 - home].got(backend);
    assert_eq!((outcomes(&told), said), (pairs(&[("one", "retired")]), vec!["puback 0x00".to_owned()]));
}
