//! What a broker records in its audit log, and what `causewayd audit` says about it.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use causeway_broker::audit::{Line, each_line};
use causeway_broker::config::{Anonymous, Audit, AuditedConnects, Config, Listener, Transport};
use causeway_core::{Notice, Principal, Revocation, Revoked};
use causeway_protocol::ReasonCode;
use support::*;

fn broker(folder: &Path, connects: AuditedConnects) -> Broker {
    let nobody = Listener { anonymous: Some(Anonymous::Never), name: "closed".into(), ..listener(Transport::Tcp) };
    let audit = Audit { directory: Some(folder.to_owned()), connects, ..Audit::default() };
    Broker::with(Config { listener: vec![listener(Transport::Tcp), nobody], audit, ..Config::default() })
}

fn lines(folder: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    let bad = each_line(folder, |line| {
        lines.push(line.clone());
        Ok(())
    });
    assert_eq!(bad.unwrap(), 0);
    lines
}

/// `what decision reason` of each.
fn kinds(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| format!("{} {} {}", line.what, line.decision, line.reason).trim_end().to_owned()).collect()
}

fn causewayd(arguments: &[&str], folder: &Path) -> (bool, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_causewayd"));
    let Output { status, stdout, .. } = program.arg("audit").args(arguments).arg(folder).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap())
}

#[test]
fn what_is_refused_and_revoked_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path(), AuditedConnects::Refused);
    let mut client = broker.client("car");
    client.send(&publish("$SYS/lie", 1, b""));
    let (first, ack) = client.read_packet();
    assert_eq!((first, ack[2]), (0x40, 0x87));
    let mut stranger = Client::new(dial(broker.addresses[1]));
    stranger.send(&connect("stranger", 0));
    stranger.expect_connack(0x87);
    let revocation = Revocation {
        revoked: Revoked::Principal(Principal::Anonymous),
        reason: ReasonCode::AdministrativeAction,
        why: "they are many".into(),
        ends_sessions: false,
    };
    broker.block_on(broker.running().notices().tell(Notice::Revoke(revocation)));
    client.expect_disconnect(0x98);
    broker.stop()().unwrap();

    // Shards, front door and whoever revokes record on their own, so that only the first line has its place.
    let mut lines = lines(folder.path());
    lines[1..].sort_by(|a, b| a.what.cmp(&b.what));
    assert_eq!(
        kinds(&lines),
        [
            "start note",
            "connect deny NotAuthorized (0x87)",
            "disconnect deny AdministrativeAction (0x98)",
            "publish deny NotAuthorized (0x87)",
            "revoke note AdministrativeAction (0x98)",
            "stop note",
        ]
    );
    let [_, refused, ended, published, ..] = &lines[..] else { unreachable!() };
    assert!(published.detail.contains("$SYS/lie") && published.client == "car" && published.who == "anonymous");
    assert!(published.peer.starts_with("127.0.0.1:") && refused.client == "stranger");
    assert_eq!((&*ended.client, &*ended.detail), ("car", "they are many"));
}

#[test]
fn all_connections_are_recorded_where_that_is_wanted() {
    for (connects, count) in [(AuditedConnects::Refused, 0), (AuditedConnects::All, 3)] {
        let folder = tempfile::tempdir().unwrap();
        let broker = broker(folder.path(), connects);
        (0..3).for_each(|number| drop(broker.client(&format!("car-{number}"))));
        broker.stop()().unwrap();
        let lines = lines(folder.path());
        let allowed = lines.iter().filter(|line| line.what == "connect" && line.decision == "allow");
        assert_eq!(allowed.count(), count);
    }
}

#[test]
fn the_program_verifies_and_shows() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(folder.path(), AuditedConnects::All);
    drop(broker.client("car"));
    broker.stop()().unwrap();

    let (whole, said) = causewayd(&["verify"], folder.path());
    assert!(whole && said.starts_with("whole: 3 lines, 1 to 3, in 1 files\n"), "{said}");
    let head = said.lines().find_map(|line| line.strip_prefix("head: ")).unwrap();
    assert!(causewayd(&["verify", "--expect-head", head], folder.path()).0);
    let (_, shown) = causewayd(&["show", "--who", "car", "--since", "2020"], folder.path());
    assert!(shown.contains(" connect allow who=\"anonymous\" client=\"car\" peer=\"127.0.0.1:"), "{shown}");
    assert_eq!(shown.lines().count(), 1);

    let file = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|end| end == "jsonl")).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let shorter: String = text.lines().take(2).map(|line| format!("{line}\n")).collect();
    fs::write(&file, shorter).unwrap();
    assert!(causewayd(&["verify"], folder.path()).0, "it cannot be seen in the files");
    let (whole, said) = causewayd(&["verify", "--expect-head", head], folder.path());
    assert!(!whole && said.contains("the end was cut off"), "{said}");
    fs::write(&file, text.replace("\"car\"", "\"cat\"")).unwrap();
    let (whole, said) = causewayd(&["verify"], folder.path());
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(!whole && said.starts_with(&format!("broken: {name}:2: ")), "{said}");
}
