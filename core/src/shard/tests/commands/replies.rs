//! Requests, and the replies to them.

use super::*;

#[test]
fn a_request_is_answered_by_correlation_data() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.say(backend, Said { expiry: Some(10), ..request(&full("cmd/get_location"), "mine") });
    assert_eq!(world.got(backend), (vec![], vec!["puback 0x00".to_owned()]));
    let got = world.gotten(car);
    assert_eq!(got.len(), 1);
    let id = got[0].correlation.clone().unwrap();
    assert_eq!(id.len(), 13);
    let expected = Got {
        topic: "cmd/get_location".to_owned(),
        payload: "{}".to_owned(),
        qos: 1,
        id: 1,
        response_topic: Some("status/get_location".to_owned()),
        correlation: Some(id.clone()),
        expiry: Some(10),
        ..Got::default()
    };
    assert_eq!(got[0], expected);
    // The literal form of the source documents: another name than the command's.
    let reply =
        Said { correlation: Some(id.as_bytes()), properties: &[("unit", "deg")], ..to("status/location", "here") };
    world.say(car, reply);
    assert_eq!(world.got(car), (vec![], vec!["puback 0x00".to_owned()]));
    let told = world.gotten(backend);
    assert_eq!(told.len(), 1);
    let told = &told[0];
    assert_eq!((told.topic.as_str(), told.payload.as_str(), told.qos), (ANSWERS, "here", 1));
    assert_eq!(told.correlation.as_deref(), Some("mine"));
    assert_eq!((told.outcome(), told.command(), told.property("unit")), ("replied", id.as_str(), "deg"));
    assert_eq!(told.property("cw-origin"), format!("vehicle:{VIN}"));
    assert_eq!((told.response_topic.as_deref(), told.expiry), (None, None));
    assert_eq!(world.shard.counters().commands_ended[0], 1);
}

#[test]
fn a_request_is_nobodys_message_and_neither_is_its_reply() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let (other, _) = world.dial_as(connect("other"), Principal::service("other"));
    world.subscribe(other, "vehicles/+/status/#", options(1));
    world.subscribe(other, "$share/g/vehicles/+/cmd/#", options(1));
    world.gotten(other);
    world.say(backend, request(&full("cmd/lock"), "mine"));
    let id = world.gotten(car)[0].correlation.clone().unwrap();
    world.say(car, Said { correlation: Some(id.as_bytes()), ..to("status/lock", "done") });
    world.say(car, Said { correlation: Some(b"theirs"), ..to("status/doors", "locked") });
    world.say(car, to("status/doors", "{\"request_id\":1}"));
    // Whoever follows commands sees what was sent, and whoever follows states sees those.
    let got: Vec<_> = world.gotten(other).iter().map(|got| (got.topic.clone(), got.payload.clone())).collect();
    let expected = [("cmd/lock", "{}"), ("status/doors", "locked"), ("status/doors", "{\"request_id\":1}")];
    assert_eq!(got, expected.map(|(said, payload)| (full(said), payload.to_owned())));
}

#[test]
fn without_a_response_topic_it_is_a_message() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.say(backend, Said { correlation: Some(b"mine"), ..to(&full("cmd/lock"), "x") });
    let got = world.gotten(car);
    assert_eq!((got.len(), got[0].correlation.as_deref(), got[0].response_topic.as_deref()), (1, Some("mine"), None));
    assert_eq!(world.shard.counters().commands_requested, 0);
}

#[test]
fn older_vehicles_answer_by_topic_or_by_payload() {
    let mut world = world();
    let backend = service(&mut world, "backend");
    let (car, _) = world.dial_as(v311(VIN), vehicle(VIN));
    world.subscribe(car, "cmd/#", options(1));
    world.gotten(car);
    world.say(backend, request(&full("cmd/lock"), "by topic"));
    let got = world.gotten(car);
    let id = got[0].topic.strip_prefix("cmd/lock/").unwrap().to_owned();
    assert_eq!(id.len(), 13);
    world.say(car, to(&format!("status/lock/{id}"), "done"));
    let told = world.gotten(backend);
    assert_eq!(outcomes(&told), pairs(&[("by topic", "replied")]));
    assert_eq!((told[0].payload.as_str(), told[0].command()), ("done", id.as_str()));
    let dim = full("cmd/dim");
    let asked = Said { payload: "{\"request_id\":\"a7\",\"level\":3}", ..request(&dim, "by payload") };
    world.say(backend, asked);
    world.gotten(car);
    world.say(car, to("status/dim", "{\"request_id\":\"other\"}"));
    assert_eq!(world.gotten(backend), []);
    world.say(car, to("status/light", "{\"request_id\":\"a7\",\"level\":3}"));
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("by payload", "replied")]));
}

#[test]
fn each_connection_gets_a_command_by_a_name_it_is_subscribed_to() {
    for (version, filter, expected) in [
        (ProtocolVersion::V5, "cmd/#", Some("cmd/lock")),
        (ProtocolVersion::V5, "cmd/+", Some("cmd/lock")),
        (ProtocolVersion::V5, "cmd/+/+", Some("cmd/lock/ID")),
        (ProtocolVersion::V5, "$share/g/cmd/#", Some("cmd/lock")),
        (ProtocolVersion::V311, "cmd/#", Some("cmd/lock/ID")),
        (ProtocolVersion::V311, "cmd/+/+", Some("cmd/lock/ID")),
        (ProtocolVersion::V311, "cmd/lock/#", Some("cmd/lock/ID")),
        (ProtocolVersion::V311, "cmd/lock", Some("cmd/lock")),
        (ProtocolVersion::V311, "$share/g/cmd/+/+", Some("cmd/lock/ID")),
        (ProtocolVersion::V311, "cmd/unlock/+", None),
        (ProtocolVersion::V5, "telemetry/#", None),
    ] {
        for qos in 0..3 {
            for on_disk in [false, true] {
                let mut world = world_with(|limits| limits.body_cache_bytes = 0);
                world = if on_disk { world.on_disk() } else { world };
                let backend = service(&mut world, "backend");
                let (car, _) = world.dial_as(Connect { version, ..persistent(VIN) }, vehicle(VIN));
                world.subscribe(car, filter, options(qos));
                world.gotten(car);
                world.say(backend, request(&full("cmd/lock"), "mine"));
                let got = world.gotten(car);
                let id = world.shard.commands.all_ids().next().unwrap().to_string();
                let named: Vec<String> = got.iter().map(|got| got.topic.replace(&id, "ID")).collect();
                assert_eq!(named, expected.into_iter().collect::<Vec<_>>(), "{version:?} {filter} QoS {qos}");
                let sent = world.shard.commands.get(id.parse().unwrap()).unwrap();
                assert_eq!(matches!(sent.state, crate::shard::State::Sent), expected.is_some());
            }
        }
    }
}

#[test]
fn late_duplicate_and_forged_replies_are_dropped() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let stranger = drive(&mut world, OTHER);
    let observer = service(&mut world, "observer");
    world.subscribe(observer, "vehicles/+/status/#", options(1));
    world.gotten(observer);
    world.say(backend, Said { expiry: Some(5), ..request(&full("cmd/lock"), "one") });
    let id = world.gotten(car)[0].correlation.clone().unwrap();
    let reply = |correlation| Said { correlation: Some(correlation), ..to("status/lock", "x") };
    world.say(stranger, reply(id.as_bytes()));
    assert_eq!(world.got(stranger).1, ["puback 0x10"]);
    world.say(car, reply(b"c000000000020"));
    let next = causeway_fleet::command::CommandIds::default().next(world.now.0 + 1000, 0).to_string();
    world.say(car, reply(next.as_bytes()));
    assert_eq!(world.shard.counters().replies_forged, 2, "what may be given soon is guessed");
    assert_eq!(world.shard.counters().replies_late, 1, "what was given long ago is forgotten");
    world.say(car, reply(id.as_bytes()));
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "replied")]));
    world.say(car, reply(id.as_bytes()));
    assert_eq!(world.shard.counters().replies_duplicate, 1);
    world.say(backend, Said { expiry: Some(5), ..request(&full("cmd/lock"), "two") });
    let id = world.gotten(car)[0].correlation.clone().unwrap();
    world.wait(5000);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("two", "timed-out")]));
    world.say(car, reply(id.as_bytes()));
    assert_eq!(world.shard.counters().replies_late, 2);
    assert_eq!(world.gotten(backend), []);
    assert!(world.gotten(observer).iter().all(|got| !got.topic.contains("status")), "nobody else gets them");
}

#[test]
fn a_reply_at_the_deadline_is_late_before_anybody_looked() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.say(backend, Said { expiry: Some(5), ..request(&full("cmd/lock"), "one") });
    let id = world.gotten(car)[0].correlation.clone().unwrap();
    world.now = crate::Millis(world.now.0 + 5000);
    world.say(car, Said { correlation: Some(id.as_bytes()), ..to("status/lock", "x") });
    world.shard.tick(world.now);
    world.settle();
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "timed-out")]));
}

#[test]
fn claims_of_a_vehicle_are_taken_out() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.say(backend, request(&full("cmd/lock"), "one"));
    let id = world.gotten(car)[0].correlation.clone().unwrap();
    let properties = &[("cw-outcome", "retired"), ("CW-Command", "x"), ("mine", "y")][..];
    world.say(car, Said { correlation: Some(id.as_bytes()), properties, ..to("status/lock", "x") });
    let told = world.gotten(backend);
    let names: Vec<&str> = told[0].properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cw-origin", "cw-received-at", "cw-seq", "mine", "cw-outcome", "cw-command", "cw-vehicle"]);
    assert_eq!(told[0].outcome(), "replied");
}

#[test]
fn a_vehicle_asks_itself_and_is_told_in_its_words() {
    let mut world = world();
    let (car, _) = pair(&mut world);
    let hmi = format!("{VIN}/hmi");
    let (screen, _) = world.dial_as(persistent(&hmi), vehicle(VIN));
    world.subscribe(screen, "answers", options(1));
    world.gotten(screen);
    world.say(screen, Said { response_topic: Some("answers"), ..to("cmd/warm", "21") });
    let got = world.gotten(car);
    assert_eq!((got[0].topic.as_str(), got[0].payload.as_str()), ("cmd/warm", "21"));
    world.say(car, Said { correlation: got[0].correlation.as_deref().map(str::as_bytes), ..to("status/warm", "ok") });
    let told = world.gotten(screen);
    assert_eq!((told[0].topic.as_str(), told[0].payload.as_str(), told[0].outcome()), ("answers", "ok", "replied"));
}

#[test]
fn answers_go_only_where_the_requester_may_have_them() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let forbidden = ["$SYS/x", "$aws/things/x/y"].map(str::to_owned).into_iter();
    let of_vehicle = ["cmd/lock", "status/x", "shadow/update", "$x"].map(full);
    for topic in forbidden.chain(of_vehicle) {
        world.say(backend, Said { response_topic: Some(&topic), ..to(&full("cmd/lock"), "x") });
        assert_eq!(world.got(backend).1, ["puback 0x87"], "{topic}");
    }
    let other = format!("vehicles/{OTHER}/x");
    world.say(backend, Said { response_topic: Some(&other), ..to(&full("cmd/lock"), "x") });
    assert_eq!(world.got(backend).1, ["puback 0x00"], "where it may publish, it may be answered");
    assert_eq!(world.gotten(car).len(), 1);
}

#[test]
fn a_request_id_is_each_requesters_own() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let (another, _) = world.dial_as(persistent("another"), Principal::service("another"));
    world.subscribe(another, "another/answers", options(1));
    let payload = r#"{"request_id":"7"}"#;
    let spy = full("cmd/spy");
    let theirs = Said { payload, response_topic: Some("another/answers"), ..request(&spy, "spy") };
    world.say(another, theirs);
    world.say(backend, Said { payload, ..request(&full("cmd/x"), "mine") });
    world.gotten(car);
    world.gotten(another);
    world.say(car, to("status/x", r#"{"request_id":"7","position":"secret"}"#));
    assert_eq!(world.gotten(another), [], "it was to another request");
}

/// A will goes out as any message: the vehicle would get a command that nobody keeps.
#[test]
fn no_will_is_a_command() {
    let answered = ForwardedBuilder::new().response_topic("answers").build().unwrap();
    let answered = ForwardedProperties::from_forwarded_bytes(&answered).unwrap();
    let lock = full("cmd/lock");
    let hmi = format!("{VIN}/hmi");
    for (who, client_id, topic, forwarded, expected) in [
        (Principal::service("backend"), "backend", lock.as_str(), answered, "connack 0x87"),
        (vehicle(VIN).principal, hmi.as_str(), "cmd/lock", answered, "connack 0x87"),
        (Principal::service("backend"), "backend", "groups/eu/cmd/lock", answered, "connack 0x87"),
        (Principal::service("backend"), "backend", "groups/eu/cmd/lock", Default::default(), "connack 0x00"),
        // A plain message is one, whoever leaves it.
        (Principal::service("backend"), "backend", lock.as_str(), Default::default(), "connack 0x00"),
        (vehicle(VIN).principal, hmi.as_str(), "cmd/lock", Default::default(), "connack 0x00"),
        (Principal::service("backend"), "backend", "vehicles/x/cmd/lock", answered, "connack 0x00"),
        (vehicle(VIN).principal, hmi.as_str(), "status/lock", answered, "connack 0x00"),
    ] {
        let mut world = world();
        let mut dying = with_will(connect(client_id), topic, 0);
        dying.will.iter_mut().for_each(|will| will.forwarded = forwarded);
        let (_, said) = world.dial_as(dying, who);
        assert!(said[0].starts_with(expected), "{topic} {said:?}");
    }
}

/// A vehicle's last word is none that it was asked for.
#[test]
fn no_will_is_a_reply() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.say(backend, request(&full("cmd/lock"), "one"));
    let id = world.gotten(car)[0].correlation.clone().unwrap();
    let named = ForwardedBuilder::new().correlation_data(id.as_bytes()).build().unwrap();
    let hmi = format!("{VIN}/hmi");
    let mut dying = with_will(connect(&hmi), "status/lock", 0);
    let named = ForwardedProperties::from_forwarded_bytes(&named).unwrap();
    dying.will.iter_mut().for_each(|will| will.forwarded = named);
    let (screen, _) = world.dial_as(dying, vehicle(VIN));
    world.hang_up(screen);
    assert_eq!(world.gotten(backend), []);
    assert_eq!(world.shard.gauges().commands_pending, 1);
}

/// What only looks like the number of a command is a message like any other; what may be one is never published.
#[test]
fn what_no_command_can_be_called_is_a_message() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    world.subscribe(backend, "vehicles/+/status/#", options(1));
    world.gotten(backend);
    // Of another shard, and of a year that is far away.
    let elsewhere = causeway_fleet::command::CommandIds::default().next(world.now.0, 1).to_string();
    let later = causeway_fleet::command::CommandIds::default().next(world.now.0 + 400_000_000, 0).to_string();
    let soon = causeway_fleet::command::CommandIds::default().next(world.now.0 + 80_000_000, 0).to_string();
    for (said, correlation, is_message) in [
        ("status/camera/czzzzzzzzzzzz", None, true),
        (&format!("status/camera/{elsewhere}"), None, true),
        (&format!("status/{later}"), None, true),
        ("status/camera", Some("czzzzzzzzzzzz"), true),
        ("status/camera", Some(elsewhere.as_str()), true),
        ("status/camera", Some(soon.as_str()), false),
        ("status/camera/c000000000020", None, false),
        ("status/camera/c000000000020", Some("czzzzzzzzzzzz"), false),
        ("status/camera/czzzzzzzzzzzz", Some("c000000000020"), false),
    ] {
        world.say(car, Said { correlation: correlation.map(str::as_bytes), ..to(said, "x") });
        let answer = if is_message { "puback 0x00" } else { "puback 0x10" };
        assert_eq!(world.got(car).1, [answer], "{said} {correlation:?}");
        let got = world.gotten(backend);
        assert_eq!(got.len(), usize::from(is_message), "{said} {correlation:?}");
        assert!(got.iter().all(|got| got.outcome().is_empty()));
    }
    assert_eq!(world.shard.counters().replies_forged + world.shard.counters().replies_late, 4);
    // It has a request's `request_id`, and is its reply: the other way to say so is none.
    world.say(backend, Said { payload: "{\"request_id\":7}", ..request(&full("cmd/x"), "mine") });
    world.gotten(car);
    world.say(car, to("status/camera/czzzzzzzzzzzz", "{\"request_id\":7}"));
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("mine", "replied")]));
}

/// The policy decides of a plain message, and not of a reply.
#[test]
fn what_is_no_reply_needs_the_right_to_publish() {
    let mut world = world();
    let text = "[[role]]\nname = \"vehicle\"\nmembers = [\"vehicle:*\"]\n[[role.rule]]\nname = \"commands\"\neffect = \"allow\"\n\
        actions = [\"subscribe\", \"receive\"]\ntopics = [\"vehicles/{vin}/cmd/#\"]\n";
    let (policy, _) = causeway_fleet::policy::Policy::parse(text).unwrap_or_else(|problems| panic!("{problems:?}"));
    world.shard.set_policy(std::sync::Arc::new(policy));
    let car = drive(&mut world, VIN);
    world.say(car, to("status/camera/czzzzzzzzzzzz", "x"));
    assert_eq!(world.got(car).1, ["puback 0x87"]);
    world.say(car, to("status/camera/c000000000020", "x"));
    assert_eq!(world.got(car).1, ["puback 0x10"]);
}

/// All clients of a vehicle have proven to be it. Which of them answers is its own affair.
#[test]
fn a_client_of_the_vehicle_that_did_not_get_the_command_may_answer() {
    let mut world = world();
    let (car, backend) = pair(&mut world);
    let hmi = format!("{VIN}/hmi");
    let (screen, _) = world.dial_as(persistent(&hmi), vehicle(VIN));
    world.say(backend, request(&full("cmd/ask_driver"), "one"));
    let id = world.gotten(car)[0].correlation.clone().unwrap();
    let reply = Said { correlation: Some(id.as_bytes()), ..to("status/x", "yes") };
    world.say(screen, reply);
    assert_eq!(outcomes(&world.gotten(backend)), pairs(&[("one", "replied")]));
    world.say(car, reply);
    assert_eq!(world.shard.counters().replies_duplicate, 1);
}
