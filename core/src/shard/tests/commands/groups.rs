//! What is requested of a group: who may, and when it is acknowledged.

use causeway_fleet::policy::Policy;

use super::*;
use crate::{Effect, GroupRequest};

const WINK: &str = "groups/eu/cmd/wink";

fn requests(world: &mut World) -> Vec<GroupRequest> {
    let effects = std::iter::from_fn(|| world.shard.poll_effect());
    effects
        .filter_map(|effect| if let Effect::GroupCommand(request) = effect { Some(*request) } else { None })
        .collect()
}

fn take(world: &mut World, request: &GroupRequest, taken: Result<(), (ReasonCode, String)>) {
    world.shard.group_command_taken(world.now, (request.connection, request.packet_id), taken);
}

#[test]
fn a_request_is_acknowledged_when_it_is_taken_and_nothing_overtakes_it() {
    let mut world = world();
    let backend = service(&mut world, "backend");
    let (other, _) = world.dial(persistent("other"));
    world.subscribe(other, "plain", options(1));
    world.hang_up(other);
    world.durable_at_once = false;
    // Behind one that waits for the log.
    world.say(backend, Said { id: 1, ..to("plain", "1") });
    world.say(backend, Said { qos: 1, id: 2, expiry: Some(9), ..request(WINK, "a") });
    world.say(backend, Said { id: 3, ..to("plain", "3") });
    world.say(
        backend,
        Said { qos: 2, id: 4, dup: true, properties: &[("rate", "7"), ("wait", "0")], ..request(WINK, "b") },
    );
    world.say(backend, Said { id: 5, ..to("plain", "5") });
    assert_eq!(requests(&mut world), [], "not before its turn");
    world.sync();
    assert_eq!(world.got(backend).1, ["puback 0x00"]);
    let handed = requests(&mut world);
    let said = |request: &GroupRequest| {
        (
            request.packet_id.get(),
            request.is_again,
            request.deadline.is_some(),
            request.is_now_or_never,
            request.rate.clone(),
        )
    };
    assert_eq!(
        handed.iter().map(said).collect::<Vec<_>>(),
        [(2, false, true, false, None), (4, true, false, true, Some("7".into())),]
    );
    assert_eq!((&*handed[0].group, &*handed[0].name, &*handed[0].response_topic), ("eu", "wink", ANSWERS));
    assert_eq!(handed[0].by, Principal::service("backend"));
    take(&mut world, &handed[1], Ok(()));
    assert_eq!(world.got(backend).1, [""; 0], "the first one is not");
    take(&mut world, &handed[0], Err((ReasonCode::TopicNameInvalid, "no such group".to_owned())));
    assert_eq!(world.got(backend).1, ["puback 0x90", "puback 0x00", "pubrec 0x00", "puback 0x00"]);
    // It is the same message until it is released.
    world.durable_at_once = true;
    world.say(backend, Said { qos: 2, id: 4, dup: true, ..request(WINK, "b") });
    assert_eq!((world.got(backend).1, requests(&mut world)), (vec!["pubrec 0x00".to_owned()], vec![]));
}

#[test]
fn who_is_gone_is_not_told_and_asks_again() {
    let mut world = world();
    let (backend, _) = world.dial_as(persistent("backend"), Principal::service("backend"));
    world.say(backend, request(WINK, "a"));
    let handed = requests(&mut world);
    world.hang_up(backend);
    take(&mut world, &handed[0], Ok(()));
    let (backend, _) = world.dial_as(persistent("backend"), Principal::service("backend"));
    world.say(backend, Said { dup: true, ..request(WINK, "a") });
    let again = requests(&mut world);
    assert!(
        again[0].is_again && again[0].packet_id == handed[0].packet_id && again[0].client_id == handed[0].client_id
    );
    // An answer that comes too late is nobody's.
    take(&mut world, &handed[0], Ok(()));
    assert_eq!(world.got(backend).1, [""; 0]);
    take(&mut world, &again[0], Ok(()));
    assert_eq!(world.got(backend).1, ["puback 0x00"]);
}

#[test]
fn nothing_is_kept_back_for_who_is_gone_and_what_is_sent_twice_is_released_once() {
    let mut world = world();
    let backend = service(&mut world, "backend");
    for dup in [false, true] {
        world.say(backend, Said { qos: 2, id: 4, dup, ..request(WINK, "a") });
    }
    for handed in requests(&mut world) {
        take(&mut world, &handed, Ok(()));
    }
    assert_eq!(world.got(backend).1, ["pubrec 0x00", "pubrec 0x00"]);
    let unreleased = |world: &World| world.shard.connection(backend.id).unwrap().unreleased;
    assert_eq!(unreleased(&world), 1);
    world.send(backend, Packet::PubRel(Ack::new(4.try_into().unwrap(), ReasonCode::Success)));
    assert_eq!(unreleased(&world), 0);
    world.say(backend, request(WINK, "b"));
    world.say(backend, to("plain", "behind it"));
    world.hang_up(backend);
    assert!(world.shard.kept_back.is_empty());
}

#[test]
fn what_is_no_request_of_a_group_is_a_message_or_refused() {
    let mut world = world();
    let backend = service(&mut world, "backend");
    world.subscribe(backend, "#", options(0));
    world.heard(backend);
    world.say(backend, to(WINK, "a broadcast"));
    world.say(backend, request("groups/eu/OTA_Update", "another"));
    let got = world.gotten(backend);
    assert_eq!(got.iter().map(|got| &*got.payload).collect::<Vec<_>>(), ["a broadcast", "{}"]);
    for (said, answer) in [
        (request("fleet/cmd/wink", "a"), vec!["puback 0x83"]),
        (Said { qos: 0, ..request(WINK, "a") }, vec![]),
        (Said { response_topic: Some("$SYS/x"), ..request(WINK, "a") }, vec!["puback 0x87"]),
    ] {
        world.say(backend, said);
        assert_eq!(world.got(backend), (vec![], answer.into_iter().map(str::to_owned).collect()), "{said:?}");
    }
    let policy = r##"
        [[role]]
        name = "backend"
        members = ["service:*"]
        [[role.rule]]
        name = "rest"
        effect = "allow"
        actions = ["publish", "subscribe", "receive"]
        topics = ["#"]
    "##;
    world.shard.set_policy(std::sync::Arc::new(Policy::parse(policy).unwrap().0));
    world.say(backend, request(WINK, "a"));
    assert_eq!(world.got(backend).1, ["puback 0x87"]);
    assert_eq!(requests(&mut world), []);
}
