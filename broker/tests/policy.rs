//! The policy of a running broker, and what `causewayd policy` says of one.
//!
//! Owns the file: read at the start, again when it changes, and explained. What rules mean is tested with them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of this is test code")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_broker::config::{Config, PolicySettings, Transport};
use support::{Broker, eventually, listener, publish, subscribe};

const VIN: &str = "1M8GDM9AXKP042788";

fn policy(topics: &str) -> String {
    format!(
        "[[role]]\nname = 'guest'\nmembers = ['anonymous']\n[[role.rule]]\nname = 'some'\neffect = 'allow'\n\
         actions = ['publish', 'subscribe', 'receive']\ntopics = [{topics}]\n"
    )
}

fn broker(file: &Path) -> Broker {
    let policy = PolicySettings { file: Some(file.to_owned()) };
    Broker::with(Config { listener: vec![listener(Transport::Tcp)], policy, ..Config::default() })
}

#[test]
fn the_file_is_in_force_and_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    fs::write(&file, policy("'a', 'b'")).unwrap();
    let broker = broker(&file);
    let mut client = broker.client("c");
    client.send(&subscribe("a", 1));
    assert_eq!(client.read_packet(), (0x90, vec![0, 1, 0, 1]));
    client.send(&subscribe("c", 1));
    assert_eq!(client.read_packet(), (0x90, vec![0, 1, 0, 0x87]));
    client.send(&publish("c", 1, b""));
    assert_eq!(client.read_packet(), (0x40, vec![0, 1, 0x87]));

    // A wrong one changes nothing, and one that is right ends what it does not allow.
    fs::write(&file, "nonsense").unwrap();
    broker.wait_for(broker.running().reload_policy());
    client.send(&publish("b", 1, b""));
    assert_eq!(client.read_packet(), (0x40, vec![0, 1, 0x10]));
    let new = folder.path().join("new");
    fs::write(&new, policy("'c'")).unwrap();
    fs::rename(&new, &file).unwrap();
    let (first, body) = client.read_packet();
    assert_eq!((first, body[0]), (0xE0, 0x87));
    assert!(String::from_utf8_lossy(&body).ends_with("not authorised to subscribe to \"a\" any more"));
    let mut client = broker.client("c");
    client.send(&subscribe("c", 1));
    assert_eq!(client.read_packet(), (0x90, vec![0, 1, 0, 1]));
    let refused = || broker.observed.shards()[0].report.latest().0.publish_refused_unauthorized;
    eventually("the shard has counted", || refused() == 1);
}

#[test]
fn a_broker_does_not_start_with_a_wrong_policy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    fs::write(&file, policy("'a/#/b'")).unwrap();
    let settings = PolicySettings { file: Some(file.clone()) };
    let config = Config { listener: vec![listener(Transport::Tcp)], policy: settings, ..Config::default() };
    let error = Broker::try_with(config).err().unwrap().to_string();
    assert!(error.contains("policy.toml:8:11: '#' stands alone in the last level"), "{error}");
}

fn causewayd(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_causewayd")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn sample() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config/policy.toml").display().to_string()
}

#[test]
fn a_decision_is_explained_with_its_rule_and_the_full_name() {
    let (file, car) = (sample(), format!("vehicle:{VIN}"));
    let grouped = format!("{car},group=eu");
    let rows: &[(&str, &[&str], i32, &str)] = &[
        (
            &car,
            &["publish", "telemetry/speed", "--qos", "1"],
            0,
            "  vehicles/1M8GDM9AXKP042788/telemetry/speed\n    allowed by rule \"reports\" of role \"vehicle\"",
        ),
        (
            &car,
            &["publish", "telemetry/speed", "--qos", "2"],
            1,
            "denied: rule \"reports\" of role \"vehicle\" allows it up to QoS 1 (",
        ),
        (&car, &["publish", "telemetry/speed", "--retain"], 1, "denied: no rule allows it to retain"),
        (&car, &["publish", "cmd/x"], 1, "no rule allows it to publish"),
        (&car, &["publish", "vehicles/WVWZZZ1JZ3W386752/telemetry/x", "--full"], 1, "no rule allows it to publish"),
        (&car, &["publish", "$shadow/x"], 1, "denied: topics that begin with $ belong to the broker"),
        (&car, &["will", "state", "--retain"], 0, "rule \"state\""),
        (&car, &["publish", "shadow/update"], 0, "rule \"own-shadows\""),
        (&car, &["publish", "shadow/delta"], 1, "denied: the topic belongs to the broker"),
        (&car, &["will", "shadow/state"], 1, "denied: the topic belongs to the broker"),
        (
            &car,
            &["publish", "$aws/things/1M8GDM9AXKP042788/shadow/update"],
            0,
            "  vehicles/1M8GDM9AXKP042788/shadow/update\n    allowed by rule \"own-shadows\"",
        ),
        (&car, &["publish", "$aws/things/WVWZZZ1JZ3W386752/shadow/update"], 1, "denied: topics that begin with $"),
        (&car, &["subscribe", "$aws/things/1M8GDM9AXKP042788/shadow/get/+"], 0, "rule \"own-shadows\""),
        (&car, &["subscribe", "$aws/things/+/shadow/#"], 1, "denied: below $aws, a vehicle has nothing but"),
        ("service:twins-1", &["publish", "$aws/things/1M8GDM9AXKP042788/shadow/get"], 0, "rule \"shadows\""),
        ("service:twins-1", &["subscribe", "$aws/things/+/shadow/update/delta"], 0, "all that matches may be received"),
        ("service:commands", &["subscribe", "$aws/things/+/shadow/update/delta"], 1, "no rule allows it to subscribe"),
        (&grouped, &["subscribe", "cmd/#"], 0, "  groups/eu/cmd/#\n    allowed by rule \"orders\""),
        (&grouped, &["subscribe", "$share/n/cmd/#"], 0, "  $share/n/vehicles/1M8GDM9AXKP042788/cmd/#\n    allowed"),
        (&car, &["subscribe", "#"], 1, "no rule allows it to subscribe"),
        (
            &format!("{car},group=quarantine"),
            &["publish", "state"],
            1,
            "\n    denied by rule \"silent\" of role \"quarantine\"",
        ),
        ("service:analytics", &["subscribe", "vehicles/+/telemetry/#"], 0, "each delivery is looked at"),
        ("service:analytics", &["subscribe", "vehicles/+/state"], 0, "all that matches may be received"),
        ("service:analytics", &["receive", "vehicles/1/telemetry/location/x"], 1, "denied by rule \"no-location\""),
        // What a request of a command needs: both actions, and a Response Topic that the service may subscribe to.
        ("service:commands", &["command", "vehicles/1/cmd/unlock"], 0, "rule \"commands\" of role \"commands\""),
        ("service:commands", &["publish", "vehicles/1/cmd/unlock", "--qos", "1"], 0, "rule \"commands\""),
        ("service:commands", &["subscribe", "services/commands/answers"], 0, "rule \"own-place\""),
        ("service:commands", &["publish", "groups/eu/cmd/unlock"], 0, "rule \"commands\" of role \"commands\""),
        ("service:commands", &["command", "groups/eu/cmd/unlock"], 0, "rule \"commands\" of role \"commands\""),
        ("service:commands", &["publish", "fleet/cmd/unlock"], 0, "rule \"orders\" of role \"commands\""),
        ("service:commands", &["command", "fleet/cmd/unlock"], 1, "no rule allows it to command"),
        ("service:analytics", &["command", "vehicles/1/cmd/unlock"], 1, "no rule allows it to command"),
        (&car, &["command", "cmd/unlock"], 1, "no rule allows it to command"),
        (&car, &["publish", "status/unlock"], 0, "rule \"status\" of role \"vehicle\""),
        ("operator:olga", &["subscribe", "$SYS/#"], 0, "rule \"looks\""),
        ("anonymous", &["publish", "a"], 1, "anonymous (no role)"),
        ("anonymous", &["publish", "a/#"], 2, "no topic name"),
        ("vehicle:1", &["publish", "a"], 2, "a VIN has 17 characters"),
    ];
    for (who, asked, code, part) in rows {
        let arguments = [&["policy", "explain", "--policy", &file, "--as", who], *asked].concat();
        let (ended, text) = causewayd(&arguments);
        assert!(ended == *code && text.contains(part), "{who} {asked:?}: {ended}\n{text}");
    }
    let (code, text) = causewayd(&["policy", "explain", "--policy", "nowhere", "--as", "anonymous", "publish", "a"]);
    assert!(code == 2 && text.contains("nowhere"), "{text}");
}

#[test]
fn checks_reject_rules_that_never_decide_anything() {
    assert_eq!(causewayd(&["policy", "check", &sample()]).0, 0);
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("policy.toml"), folder.path().join("c.toml"));
    fs::write(&config, "[[listener]]\n[policy]\nfile = 'policy.toml'\n").unwrap();
    let (file, config) = (file.display().to_string(), config.display().to_string());
    let explain = ["policy", "explain", "--config", &config, "--as", "anonymous", "publish", "a"];
    assert_eq!(causewayd(&explain).0, 2, "there is no file");
    let (code, text) = causewayd(&["check", &config]);
    assert!(code == 1 && text.contains("c.toml:3:8: "), "{text}");
    fs::write(&file, policy("'a', '{vin}/b'")).unwrap();
    for arguments in [&["check", &config], &["policy", "check", &file][..]] {
        let (code, text) = causewayd(arguments);
        assert!(code == 1 && text.contains("policy.toml:8:16: \"{vin}/b\" never decides anything"), "{text}");
        assert_eq!(text.matches("never decides").count(), 1, "{text}");
    }
    fs::write(&file, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
    for arguments in [&["check", &config], &["policy", "check", &file][..]] {
        let (code, text) = causewayd(arguments);
        assert!(code == 1 && text.contains("is no policy") && !text.contains("c2VjcmV0"), "{text}");
    }
    fs::write(&file, policy("'a'")).unwrap();
    let (code, text) = causewayd(&["check", &config]);
    assert!(code == 0 && text.contains("  policy: ") && text.contains("policy.toml\n"), "{text}");
    assert_eq!(causewayd(&explain).0, 0);
}
