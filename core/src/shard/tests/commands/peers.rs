//! Requests from other shards than the vehicle's.

use super::super::peers::Broker;
use super::*;

/// The home of [`VIN`] among two shards.
fn home() -> usize {
    causeway_fleet::home_shard(VIN, 2) as usize
}

fn there(broker: &mut Broker, limits: &[(&str, u8)]) -> (Client, Client) {
    let (here, away) = (home(), 1 - home());
    let car = drive(&mut broker.shards[here], VIN);
    let backend = service(&mut broker.shards[away], "backend");
    for (filter, qos) in limits {
        broker.shards[away].subscribe(backend, filter, options(*qos));
    }
    broker.carry();
    broker.shards[here].gotten(car);
    broker.shards[away].gotten(backend);
    (car, backend)
}

#[test]
fn a_request_crosses_and_its_outcome_comes_back() {
    for qos in 0..3 {
        let mut broker = Broker::new(2);
        let (here, away) = (home(), 1 - home());
        let (car, backend) = there(&mut broker, &[]);
        broker.shards[away].say(backend, Said { qos, ..request(&full("cmd/lock"), "one") });
        broker.carry();
        let got = broker.shards[here].gotten(car);
        assert_eq!(got.len(), 1, "QoS {qos}");
        let correlation = got[0].correlation.as_deref().map(str::as_bytes);
        broker.shards[here].say(car, Said { correlation, ..to("status/x", "x") });
        broker.carry();
        let (told, said) = broker.shards[away].got(backend);
        assert_eq!(outcomes(&told), pairs(&[("one", "replied")]));
        assert_eq!(said, [vec![], vec!["puback 0x00"], vec!["pubrec 0x00"]][usize::from(qos)]);
        let shard = got[0].correlation.as_deref().unwrap().parse::<causeway_fleet::command::CommandId>().unwrap();
        assert_eq!(usize::from(shard.shard()), here);
    }
}

#[test]
fn what_is_refused_at_the_home_is_an_outcome() {
    let mut broker = Broker::with(2, |limits| limits.commands_per_vehicle_max = 1);
    let (here, away) = (home(), 1 - home());
    let (_, backend) = there(&mut broker, &[]);
    for correlation in ["one", "two"] {
        broker.shards[away].say(backend, request(&full("cmd/lock"), correlation));
        broker.carry();
    }
    let (told, said) = broker.shards[away].got(backend);
    assert_eq!(outcomes(&told), pairs(&[("two", "queue-full")]));
    assert_eq!(said, ["puback 0x00", "puback 0x00"]);
    broker.shards[here].wait(30_000);
    broker.carry();
    assert_eq!(outcomes(&broker.shards[away].gotten(backend)), pairs(&[("one", "timed-out")]));
}

#[test]
fn what_expires_on_its_way_is_told() {
    let mut broker = Broker::new(2);
    let away = 1 - home();
    let (car, backend) = there(&mut broker, &[]);
    broker.cut = true;
    broker.shards[away].say(backend, Said { expiry: Some(5), ..request(&full("cmd/lock"), "one") });
    assert_eq!(broker.shards[away].got(backend).1, ["puback 0x00"]);
    broker.shards.iter_mut().for_each(|world| world.wait(60_000));
    broker.cut = false;
    broker.restart();
    let backend = broker.shards[away].dial_silently(persistent("backend"), Principal::service("backend"));
    assert_eq!(outcomes(&broker.shards[away].gotten(backend)), pairs(&[("one", "timed-out")]));
    let _ = car;
}

#[test]
fn it_crosses_once_wherever_it_is_interrupted() {
    for qos in 1..3 {
        for carried in 0..24 {
            let mut broker = Broker::new(2);
            let (here, away) = (home(), 1 - home());
            let (_, backend) = there(&mut broker, &[]);
            broker.cut = true;
            broker.shards[away].say(backend, Said { qos, expiry: Some(1000), ..request(&full("cmd/lock"), "one") });
            let (out, back) = (broker.links[away][here].unwrap(), broker.links[here][away].unwrap());
            for step in 0..carried {
                let (from, link, to, other) =
                    if step % 2 == 0 { (away, out, here, back) } else { (here, back, away, out) };
                let bytes = broker.shards[from].taken(link);
                broker.shards[to].fed(other, &bytes);
            }
            broker.cut = false;
            broker.restart();
            assert_eq!(broker.shards[here].shard.gauges().commands_pending, 1, "QoS {qos} after {carried} steps");
            broker.shards[here].wait(1_000_000);
            broker.carry();
            let backend = broker.shards[away].dial_silently(persistent("backend"), Principal::service("backend"));
            assert_eq!(outcomes(&broker.shards[away].gotten(backend)), pairs(&[("one", "timed-out")]));
        }
    }
}

#[test]
fn whoever_follows_commands_elsewhere_sees_them_as_messages() {
    let mut broker = Broker::new(2);
    let (here, away) = (home(), 1 - home());
    let (car, backend) = there(&mut broker, &[("vehicles/+/cmd/#", 1)]);
    broker.shards[away].say(backend, request(&full("cmd/lock"), "one"));
    broker.carry();
    let got = broker.shards[here].gotten(car);
    let followed = broker.shards[away].gotten(backend);
    assert_eq!(followed.len(), 1);
    assert_eq!((followed[0].topic.clone(), &followed[0].correlation), (full("cmd/lock"), &got[0].correlation));
    assert_eq!(broker.shards[away].shard.gauges().commands_pending, 0);
}
