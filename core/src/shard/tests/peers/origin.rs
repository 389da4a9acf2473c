//! Where a message comes from, told on another shard.

use super::super::origin::told;
use super::*;
use crate::Principal;

const VIN: &str = "1M8GDM9AXKP042788";

/// All that a service on the second shard is told about a vehicle on the first.
#[test]
fn it_is_the_same_on_every_shard() {
    for (qos, retain, shared) in (0..3).flat_map(|qos| [(qos, false, false), (qos, true, false), (qos, false, true)]) {
        let mut broker = Broker::new(2);
        let filter = if shared { "$share/g/vehicles/+/t" } else { "vehicles/+/t" };
        let mut services = Vec::new();
        for shard in 0..2 {
            let name = format!("s{shard}");
            let (service, _) = broker.shards[shard].dial_as(connect(&name), Principal::service(&name));
            if !shared || shard == 1 {
                broker.subscribe(shard, service, filter, qos);
            }
            broker.shards[shard].heard(service);
            services.push(service);
        }
        let (car, _) = broker.shards[0].dial_as(connect(VIN), Principal::Vehicle(VIN.parse().unwrap()));
        let message = Publish { retain, ..publish(qos, u16::from(qos > 0), "t", "a") };
        broker.shards[0].publish(car, message);
        // It takes a while.
        broker.shards[1].wait(5000);
        broker.carry();
        let said = told(&mut broker.shards[1], services[1]);
        let number = 1_000_001_u64 << 10;
        let expected = format!("a cw-origin=vehicle:{VIN} cw-received-at=1970-01-01T00:16:40.000Z cw-seq={number}");
        assert_eq!(said, [expected.as_str()], "QoS {qos}, retained: {retain}, shared: {shared}");
        if retain {
            let (late, _) = broker.shards[1].dial_as(connect("late"), Principal::operator("late"));
            broker.subscribe(1, late, filter, qos);
            assert_eq!(told(&mut broker.shards[1], late), [expected.as_str()], "QoS {qos}");
        }
        let plain = broker.join(1, connect("plain"));
        broker.subscribe(1, plain, "vehicles/#", 1);
        broker.shards[1].heard(plain);
        broker.shards[0].publish(car, publish(1, 7, "t", "b"));
        broker.carry();
        assert_eq!(told(&mut broker.shards[1], plain), ["b"], "nothing of the link is left");
    }
}
