//! The fleet's rows follow the shadows, whatever happens to the shard.

use std::sync::Arc;

use causeway_fleet::Vin;
use causeway_fleet::query::{Fields, Query};

use super::world::*;
use crate::{Answer, Ask, AskId, Effect, FleetAsk, FleetOrder, FleetWhich};

const CARS: [&str; 3] = ["1M8GDM9AXKP042788", "5GZCZ43D13S812715", "WVWZZZ1JZ3W386752"];

fn fields() -> Fields {
    Fields::new(["reported.soc", "desired.mode"]).unwrap()
}

fn find(world: &mut World, text: &str) -> Vec<(Vin, u64)> {
    let query = Arc::new(Query::parse(text, &fields()).unwrap());
    let which = FleetWhich::All { order: FleetOrder::Own, after: None };
    let ask = Ask::Fleet(FleetAsk { query: query.clone(), which, limit: 10 });
    world.shard.ask(world.now, AskId(1), &ask);
    world.settle();
    let all: Vec<Vin> = CARS.iter().map(|vin| vin.parse().unwrap()).collect();
    let ask = Ask::Fleet(FleetAsk { query, which: FleetWhich::Among(all.into()), limit: 10 });
    world.shard.ask(world.now, AskId(2), &ask);
    world.settle();
    let answers = std::iter::from_fn(|| world.shard.poll_effect()).filter_map(|effect| match effect {
        Effect::Answer { answer, .. } => match *answer {
            Answer::Fleet(page) => Some(page.rows),
            _ => None,
        },
        _ => None,
    });
    let [found, mut among] = answers.collect::<Vec<_>>().try_into().unwrap();
    let mut sorted = found.clone();
    sorted.sort_by_key(|row| row.vin);
    among.sort_by_key(|row| row.vin);
    assert_eq!(sorted, among);
    found.iter().map(|row| (row.vin, row.version)).collect()
}

#[test]
fn a_row_follows_its_shadow_also_after_folds_and_restarts() {
    let mut world = World::with(|limits| limits.shadow_index = fields()).on_disk();
    let mut backend = world.join(connect("backend"));
    let change = |world: &mut World, backend, car: &str, state: &str| {
        let document = format!(r#"{{"state":{state}}}"#);
        world.publish(backend, publish(1, 7, &format!("vehicles/{car}/shadow/update"), &document));
        assert_eq!(world.heard(backend), ["puback p7"]);
    };
    let [one, two, three] = CARS.map(|vin| vin.parse::<Vin>().unwrap());
    change(&mut world, backend, CARS[0], r#"{"reported":{"soc":50,"other":1}}"#);
    change(&mut world, backend, CARS[1], r#"{"reported":{"soc":10},"desired":{"mode":"eco"}}"#);
    change(&mut world, backend, CARS[2], r#"{"reported":{"soc":"low"},"desired":{"mode":"eco"}}"#);
    // A named shadow is no row of its own.
    world.publish(
        backend,
        publish(1, 7, &format!("vehicles/{}/shadow/name/x/update", CARS[0]), r#"{"state":{"reported":{"soc":1}}}"#),
    );
    for turn in 0..3 {
        assert_eq!(find(&mut world, "reported.soc < 60"), [(two, 1), (one, 1)], "{turn}");
        assert_eq!(find(&mut world, "desired.mode = eco and reported.soc = low"), [(three, 1)]);
        assert_eq!(find(&mut world, "reported.soc != low"), [(one, 1), (two, 1)]);
        if turn == 1 {
            world.fold(usize::MAX, true);
        }
        world.restart();
    }
    backend = Client { id: world.join(connect("backend")).id, ..backend };
    change(&mut world, backend, CARS[0], r#"{"reported":{"soc":5}}"#);
    change(&mut world, backend, CARS[1], r#"{"desired":{"mode":null}}"#);
    world.publish(backend, publish(1, 7, &format!("vehicles/{}/shadow/delete", CARS[2]), ""));
    for turn in 0..2 {
        assert_eq!(find(&mut world, "exists reported.soc"), [(one, 2), (two, 2)], "{turn}");
        assert_eq!(find(&mut world, "exists desired.mode"), []);
        assert_eq!(find(&mut world, "version >= 1"), [(one, 2), (two, 2)]);
        world.restart();
    }
}
