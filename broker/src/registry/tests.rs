//! The registry as a whole: what is kept, what is told, what is refused, and what damage does.

use std::ops::ControlFlow;
use std::sync::Arc;

use causeway_fleet::Principal;

use super::*;

const NOW: u64 = 1_800_000_000_000;

fn vin(number: u32) -> Vin {
    format!("WVWZZZ1JZ3W{number:06}").parse().unwrap()
}

fn new(number: u32, state: State, groups: &[&str]) -> NewVehicle {
    let groups = Groups::new(groups.iter().copied()).unwrap();
    NewVehicle { vin: vin(number), state, groups, note: String::new() }
}

fn page(limit: usize) -> Page {
    Page { after: None, limit }
}

/// A registry in memory, and what it told.
fn registry() -> (Registry, Arc<Mutex<Vec<Changed>>>) {
    let registry = Registry::in_memory().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    registry.subscribe(Box::new(move |changed| heard.lock().unwrap().push(changed.clone())));
    (registry, told)
}

#[test]
fn everything_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Registry::open(folder.path()).unwrap();
    let registry = open();
    registry.put_group("eu", "Europe", NOW).unwrap();
    registry.add(&[new(1, State::Active, &["eu"]), new(2, State::Provisioned, &[])], false, NOW).unwrap();
    registry.patch(&vin(1), &Patch { note: Some("test bench".to_owned()), ..Patch::default() }, NOW + 1).unwrap();
    registry.set_state(&[vin(1)], State::Suspended, NOW + 2).unwrap();
    let token = registry.issue_token(&vin(2), 1000, NOW).unwrap();
    registry.issued("x509:01@aa", &Principal::Vehicle(vin(2)), Some(NOW + 9), NOW).unwrap();
    registry.revoke(&["x509:01@aa", "x509:02@aa"], "stolen", NOW).unwrap();
    registry.ban(&"client:x".parse().unwrap(), Some(NOW + 5), "flaps", NOW).unwrap();
    registry.ban(&"address:10.0.0.0/8".parse().unwrap(), None, "", NOW).unwrap();
    let before = registry.vehicle(&vin(1)).unwrap();
    drop(registry);

    let registry = open();
    assert_eq!(registry.vehicle(&vin(1)).unwrap(), before);
    assert_eq!((before.note.as_str(), before.made_ms, before.changed_ms), ("test bench", NOW, NOW + 2));
    let standing = registry.standing(&vin(1)).unwrap();
    assert_eq!((standing.state, standing.groups.contains("eu")), (State::Suspended, true));
    assert_eq!(registry.standing(&vin(2)).unwrap().state, State::Active, "it has its credential");
    assert_eq!(registry.standing(&vin(3)), None);
    assert_eq!(registry.group("eu").unwrap().members, 1);
    assert!(
        registry.is_revoked("x509:01@aa") && registry.is_revoked("x509:02@aa") && !registry.is_revoked("x509:03@aa")
    );
    assert_eq!(registry.credentials(Some(&format!("vehicle:{}", vin(2))), &page(9)).unwrap().0.len(), 1);
    assert_eq!(registry.check_token(&token.token, NOW + 1).unwrap(), vin(2));
    assert!(registry.is_banned(&"client:x".parse().unwrap(), NOW + 4).is_some());
    assert!(registry.is_banned(&"client:x".parse().unwrap(), NOW + 5).is_none());
    assert!(registry.is_address_banned("10.1.2.3".parse().unwrap(), NOW).is_some());
    assert!(registry.is_address_banned("::ffff:10.1.2.3".parse().unwrap(), NOW).is_some());
    assert!(registry.is_address_banned("11.1.2.3".parse().unwrap(), NOW).is_none());
    let counts = Counts { vehicles: [0, 1, 1, 0], groups: 1, bans: 2 };
    assert_eq!(registry.counts(), counts);
    let copy = tempfile::tempdir().unwrap();
    registry.copy_to(copy.path()).unwrap();
    let looked = Registry::look(copy.path()).unwrap().unwrap();
    assert_eq!((looked.counts(), Registry::open(copy.path()).unwrap().counts()), (counts, counts));
    assert!(Registry::look(tempfile::tempdir().unwrap().path()).unwrap().is_none());
}

#[test]
fn states_change_as_they_may_and_all_together() {
    let (registry, told) = registry();
    registry
        .add(&[new(1, State::Active, &[]), new(2, State::Active, &[]), new(3, State::Provisioned, &[])], false, NOW)
        .unwrap();
    let state = |number| registry.standing(&vin(number)).unwrap().state;
    registry.set_state(&[vin(1), vin(2)], State::Suspended, NOW).unwrap();
    assert_eq!(told.lock().unwrap().len(), 1, "one change");
    registry.set_state(&[vin(1)], State::Active, NOW).unwrap();
    registry.set_state(&[vin(1)], State::Retired, NOW).unwrap();
    let error = registry.set_state(&[vin(2), vin(1)], State::Active, NOW).unwrap_err().to_string();
    assert_eq!(error, format!("{} is retired, which is final: it cannot become active", vin(1)));
    assert_eq!(state(2), State::Suspended, "all or none");
    let error = registry.set_state(&[vin(3)], State::Provisioned, NOW);
    assert!(error.is_ok(), "it is provisioned");
    let error = registry.set_state(&[vin(2)], State::Provisioned, NOW).unwrap_err().to_string();
    assert_eq!(error, format!("{} is suspended, and cannot become provisioned", vin(2)));
    let error = registry.set_state(&[vin(7), vin(8), vin(2)], State::Active, NOW).unwrap_err().to_string();
    assert_eq!(error, format!("{} and {} are not in the registry", vin(7), vin(8)));
    let barred = |number, state| Changed::Barred(vec![(vin(number), Some(state))]);
    let expected = Changed::Barred([1, 2].map(|number| (vin(number), Some(State::Suspended))).to_vec());
    assert_eq!(*told.lock().unwrap(), [expected, Changed::Unbarred(vec![vin(1)]), barred(1, State::Retired)]);
    assert_eq!(registry.barred(NOW), [vin(2), vin(1)]);
    // One that is known to be stolen may be here already, where unknown vehicles are let in.
    registry.add(&[new(9, State::Suspended, &[])], false, NOW).unwrap();
    assert_eq!(told.lock().unwrap().last(), Some(&barred(9, State::Suspended)));

    assert!(matches!(registry.remove(&vin(1)), Err(RegistryError::Conflict(_))));
    registry.remove(&vin(3)).unwrap();
    assert_eq!(registry.standing(&vin(3)), None);
    let error = registry.add(&[new(1, State::Active, &[])], false, NOW).unwrap_err().to_string();
    assert!(error.ends_with("is in the registry already"), "{error}");
    let added = registry.add(&[new(1, State::Active, &[]), new(4, State::Active, &[])], true, NOW).unwrap();
    assert_eq!(added, Added { added: 1, known: 1 });
    assert_eq!(state(1), State::Retired);
}

#[test]
fn groups_are_there_before_their_members_and_after_them() {
    let (registry, told) = registry();
    let error = registry.add(&[new(1, State::Active, &["eu"])], false, NOW).unwrap_err().to_string();
    assert_eq!(error, "there is no group \"eu\": add it first");
    for name in ["eu", "ring-1"] {
        assert!(registry.put_group(name, "", NOW).unwrap().1);
    }
    assert!(!registry.put_group("eu", "Europe", NOW).unwrap().1);
    registry.add(&[new(1, State::Active, &["eu"]), new(2, State::Active, &[])], false, NOW).unwrap();
    registry.set_members("ring-1", &[vin(1), vin(2)], true, NOW).unwrap();
    registry.set_members("eu", &[vin(2)], false, NOW).unwrap();
    let of = |group: &str| Filter { group: Some(group.to_owned()), state: None };
    let names = |filter: &Filter| {
        let vehicles = registry.vehicles(filter, &page(10)).unwrap().0;
        vehicles.into_iter().map(|vehicle| vehicle.vin).collect::<Vec<_>>()
    };
    assert_eq!((names(&of("eu")), names(&of("ring-1"))), (vec![vin(1)], vec![vin(1), vin(2)]));
    let error = registry.remove_group("ring-1").unwrap_err().to_string();
    assert_eq!(error, "the group \"ring-1\" has 2 members: take them out first");
    registry.set_members("ring-1", &[vin(1), vin(2)], false, NOW).unwrap();
    registry.remove_group("ring-1").unwrap();
    assert!(matches!(registry.vehicles(&of("ring-1"), &page(1)), Err(RegistryError::Unknown(_))));
    let (eu, both) = (Groups::new(["eu"]).unwrap(), Groups::new(["eu", "ring-1"]).unwrap());
    let ring = Groups::new(["ring-1"]).unwrap();
    let expected = [
        Changed::Groups(vec![(vin(1), both), (vin(2), ring)]),
        Changed::Groups(vec![(vin(1), eu), (vin(2), Groups::default())]),
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
fn lists_have_pages() {
    let (registry, _) = registry();
    let many: Vec<_> = (0..25).map(|number| new(number, State::Active, &[])).collect();
    registry.add(&many, false, NOW).unwrap();
    registry.set_state(&[vin(3)], State::Suspended, NOW).unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let (vehicles, next) = registry.vehicles(&Filter::default(), &Page { after, limit: 10 }).unwrap();
        seen.extend(vehicles.iter().map(|vehicle| vehicle.vin));
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, many.iter().map(|vehicle| vehicle.vin).collect::<Vec<_>>());
    let suspended = Filter { state: Some(State::Suspended), group: None };
    let (vehicles, next) = registry.vehicles(&suspended, &page(10)).unwrap();
    assert_eq!((vehicles.len(), next), (1, None));
}

#[test]
fn a_token_is_good_once_and_for_a_while() {
    let (registry, _) = registry();
    registry.add(&[new(1, State::Provisioned, &[])], false, NOW).unwrap();
    let first = registry.issue_token(&vin(1), 1000, NOW).unwrap();
    let second = registry.issue_token(&vin(1), 1000, NOW).unwrap();
    assert!(second.token.starts_with(&format!("{}.", vin(1))), "{}", second.token);
    let good = |token: &str, now| registry.check_token(token, now).is_ok();
    assert!(!good(&first.token, NOW), "the second took its place");
    assert!(good(&second.token, NOW + 999) && !good(&second.token, NOW + 1000));
    for wrong in
        ["", "x", second.token.trim_end_matches(|_| true), &format!("{}.", vin(1)), &format!("{}x", second.token)]
    {
        assert!(!good(wrong, NOW), "{wrong}");
    }
    registry.set_state(&[vin(1)], State::Suspended, NOW).unwrap();
    assert!(!good(&second.token, NOW));
    assert!(matches!(registry.issue_token(&vin(1), 1000, NOW), Err(RegistryError::Conflict(_))));
    registry.set_state(&[vin(1)], State::Active, NOW).unwrap();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let redeem = || registry.redeem_token(&second.token, NOW + 1).is_ok();
        let trying: Vec<_> = (0..4).map(|_| scope.spawn(redeem)).collect();
        trying.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|done| **done).count(), 1);
    assert_eq!(registry.token(&vin(1)).unwrap().unwrap().used_ms, Some(NOW + 1));
    assert!(registry.issue_token(&vin(1), 0, NOW).is_err() && registry.issue_token(&vin(1), u64::MAX, NOW).is_err());
}

#[test]
fn credentials_are_issued_once_and_revoked_for_good() {
    let (registry, told) = registry();
    let service = Principal::service("telemetry");
    registry.issued("x509:01@aa", &service, None, NOW).unwrap();
    assert!(matches!(registry.issued("x509:01@aa", &service, None, NOW), Err(RegistryError::Conflict(_))));
    registry.revoke(&["x509:01@aa"], "left", NOW).unwrap();
    registry.revoke(&["x509:01@aa"], "left", NOW + 1).unwrap();
    let credential = registry.credential("x509:01@aa").unwrap();
    assert_eq!((credential.revoked, credential.revoked_ms, credential.why.as_str()), (true, Some(NOW), "left"));
    assert_eq!(*told.lock().unwrap(), [Changed::Revoked(vec!["x509:01@aa".into()])]);
    registry.add(&[new(1, State::Active, &[])], false, NOW).unwrap();
    registry.set_state(&[vin(1)], State::Retired, NOW).unwrap();
    let error = registry.issued("x509:03@aa", &Principal::Vehicle(vin(1)), None, NOW);
    assert!(matches!(error, Err(RegistryError::Conflict(_))));
    assert!(registry.revoke(&[""], "", NOW).is_err());
}

#[test]
fn bans_end() {
    let (registry, told) = registry();
    let client: Subject = "client:x".parse().unwrap();
    assert!(registry.ban(&client, Some(NOW), "", NOW).is_err());
    let ban = registry.ban(&client, Some(NOW + 5), "flaps", NOW).unwrap();
    assert_eq!(*told.lock().unwrap(), [Changed::Banned(client.clone(), ban)]);
    assert_eq!(registry.bans(&page(9), NOW).unwrap().0.len(), 1);
    assert_eq!(registry.bans(&page(9), NOW + 5).unwrap().0.len(), 0);
    assert!(matches!(registry.unban(&client, NOW + 5), Err(RegistryError::Unknown(_))));
    registry.ban(&"service:s".parse().unwrap(), None, "", NOW + 6).unwrap();
    assert_eq!(registry.counts().bans, 1, "what ended is gone");
    registry.unban(&"service:s".parse().unwrap(), NOW + 7).unwrap();
    assert_eq!(registry.counts().bans, 0);
    assert_eq!(told.lock().unwrap().last(), Some(&Changed::Unbanned("service:s".parse().unwrap())));
    let car = Subject::Vehicle(vin(1));
    registry.ban(&car, Some(NOW + 20), "", NOW + 8).unwrap();
    assert_eq!((registry.barred(NOW + 9), registry.barred(NOW + 20)), (vec![vin(1)], vec![]));
}

#[test]
fn those_who_arrive_together_are_registered_once() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(folder.path()).unwrap();
    std::thread::scope(|scope| {
        for number in 0..40 {
            let registry = &registry;
            scope.spawn(move || {
                let standing = registry.register(&vin(number % 20), NOW).unwrap();
                assert!(standing.may_connect());
            });
        }
    });
    assert_eq!(registry.counts().vehicles, [0, 20, 0, 0]);
    registry.set_state(&[vin(1)], State::Suspended, NOW).unwrap();
    assert!(!registry.register(&vin(1), NOW).unwrap().may_connect(), "it is known");
}

#[test]
fn a_registry_that_was_removed_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = causeway_storage::disk::RealDisk::new(folder.path()).unwrap();
    let mut layout = causeway_storage::Layout::new(&disk, 1);
    layout.write(&disk).unwrap();
    drop(Registry::open(folder.path()).unwrap());
    layout.begun = true;
    layout.write(&disk).unwrap();
    drop(Registry::open(folder.path()).unwrap());
    std::fs::remove_file(folder.path().join(REGISTRY_FILE)).unwrap();
    let expected = format!("{}: registry.redb is missing", folder.path().display());
    for error in [Registry::open(folder.path()).err(), Registry::look(folder.path()).err()] {
        assert!(error.unwrap().to_string().starts_with(&expected));
    }
    assert!(!folder.path().join(REGISTRY_FILE).exists(), "nobody makes another");
}

#[test]
fn damage_is_an_error_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(folder.path()).unwrap();
    registry.add(&[new(1, State::Active, &[])], false, NOW).unwrap();
    drop(registry);
    let file = folder.path().join(REGISTRY_FILE);
    let intact = std::fs::read(&file).unwrap();
    for damaged in [&intact[..100], &intact[..intact.len() / 2], b"no registry", b""] {
        std::fs::write(&file, damaged).unwrap();
        let error = Registry::open(folder.path()).err().unwrap().to_string();
        assert!(error.starts_with(&format!("{} is damaged: ", file.display())), "{error}");
    }
    std::fs::write(&file, &intact).unwrap();
    // Every byte that matters is checked.
    let at = intact.windows(17).position(|bytes| bytes == vin(1).as_str().as_bytes()).unwrap();
    let mut flipped = intact.clone();
    flipped[at + 20] ^= 0x40;
    std::fs::write(&file, &flipped).unwrap();
    assert!(Registry::open(folder.path()).is_err());
    std::fs::write(&file, &intact).unwrap();

    let with = |key: &[u8], value: Option<&[u8]>| {
        let map = DurableMap::in_memory();
        map.change(&MapChanges::from([(FORMAT_KEY.to_vec(), Some(FORMAT.to_vec()))])).unwrap();
        map.change(&MapChanges::from([(key.to_vec(), value.map(<[u8]>::to_vec))])).unwrap();
        Registry::with(map).err().unwrap().to_string()
    };
    assert_eq!(with(b"v1", Some(b"")), "registry.redb is damaged: the entry \"v1\": it has no VIN where one should be");
    let key = format!("v{}", vin(1));
    assert!(with(key.as_bytes(), Some(b"\x01\x01")).ends_with("it breaks off"));
    assert!(with(b"z", Some(b"")).ends_with("this version of Causeway knows nothing of that kind"));
    assert!(with(FORMAT_KEY, Some(b"2")).ends_with("this version of Causeway does not know the format"));
    assert!(with(FORMAT_KEY, None).ends_with("it is missing"));
}

/// The index follows from the file: whatever was done, opening it again gives the same.
#[test]
fn the_index_is_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(folder.path()).unwrap();
    for group in ["a", "b"] {
        registry.put_group(group, "", NOW).unwrap();
    }
    let mut random = causeway_storage::fault::Random::new(7);
    for step in 0..200 {
        let vin = vin(random.below(8) as u32);
        let group = if random.chance(50) { "a" } else { "b" };
        // Some of it is refused; that changes nothing.
        let _ = match random.below(6) {
            0 => registry.add(&[NewVehicle { vin, ..new(0, State::Provisioned, &[group]) }], true, NOW).map(drop),
            1 => registry.set_state(&[vin], State::ALL[random.below(3) as usize], NOW),
            2 => registry.set_members(group, &[vin], random.chance(50), NOW),
            3 => registry.remove(&vin),
            4 => registry.issued(&format!("x509:{step}@"), &Principal::Vehicle(vin), None, NOW),
            _ => registry.revoke(&[&format!("x509:{}@", random.below(200))], "", NOW),
        };
    }
    let mut all = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        all.push(key.to_vec());
        ControlFlow::Continue(())
    };
    registry.map.visit_from(&[], &mut visit).unwrap();
    let shown = |registry: &Registry| {
        let standings: Vec<_> = (0..8).map(|number| registry.standing(&vin(number))).collect();
        let groups = ["a", "b"].map(|group| registry.group(group).unwrap().members);
        let revoked: Vec<_> = (0..200).filter(|number| registry.is_revoked(&format!("x509:{number}@"))).collect();
        (standings, groups, revoked, registry.counts())
    };
    let before = shown(&registry);
    let members = all.iter().filter(|key| key.first() == Some(&kind::MEMBER)).count() as u64;
    assert_eq!(members, before.1.iter().sum::<u64>());
    drop(registry);
    assert_eq!(shown(&Registry::open(folder.path()).unwrap()), before);
}
