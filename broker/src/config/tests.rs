//! Configurations that are right, and wrong ones with what is said about them.

use super::*;

const NONE: [(String, String); 0] = [];

/// All that is said about a file, one message a line, without the lines shown.
fn said(content: &str) -> String {
    said_with(content, &[])
}

fn said_with(content: &str, environment: &[(&str, &str)]) -> String {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let problems = match parse("c.toml", content, environment) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    let first_line = |problem: &Problem| problem.to_string().lines().next().unwrap_or_default().to_owned();
    problems.iter().map(first_line).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn assert_said(content: &str, expected: &str) {
    let said = said(content);
    assert!(said.lines().any(|line| line == expected), "not said: {expected}\nbut:\n{said}");
}

#[track_caller]
fn assert_part_said(content: &str, start: &str, part: &str) {
    let said = said(content);
    assert!(said.lines().any(|line| line.starts_with(start) && line.contains(part)), "not said: {part}\nbut:\n{said}");
}

const MINIMAL: &str = "[[listener]]\n[storage]\ndata_directory = 'd'\n";

#[test]
fn the_minimal_file_is_right() {
    let config = parse("c.toml", MINIMAL, NONE).unwrap().config;
    let storage = Storage { data_directory: Some("d".into()), ..Storage::default() };
    assert_eq!(config, Config { listener: vec![Listener::default()], storage, ..Config::default() });
}

#[test]
fn every_wrong_key_and_value_is_reported_at_its_place() {
    let content = "\
[[lisener]]
bind = 1

[log]
format = \"jsn\"
levle = 'info'

[limits]
maximum_qos = 3
packet_bytes_max = \"1MB\"
retain_available = 1
receive_maximum = 99999999999999999999

[[listener]]
bind = \"localhost:1883\"
proxy_trusted = [\"10.0.0.0/8\", \"10.0.0.1/8\"]
websocket_path = \"mqtt\"
tls = { certificate_file = 'a' }
";
    let expected = [
        "c.toml:1:3: unknown key \"lisener\" in the file, did you mean \"listener\"?",
        "c.toml:5:10: log.format must be one of \"human\", \"json\", not \"jsn\", did you mean \"json\"?",
        "c.toml:6:1: unknown key \"levle\" in [log], did you mean \"level\"?",
        "c.toml:9:15: limits.maximum_qos must be an integer from 0 to 2, not 3",
        "c.toml:10:20: limits.packet_bytes_max must be an integer from 64 to 268435460, not \"1MB\"",
        "c.toml:11:20: limits.retain_available must be true or false, not an integer",
        "c.toml:12:19: limits.receive_maximum must be an integer from 1 to 65535, not so large a number",
        "c.toml:15:8: listener[0].bind must be an address and port such as \"127.0.0.1:1883\" or \"[::]:1883\", not \
         \"localhost:1883\"",
        "c.toml:16:32: listener[0].proxy_trusted[1] must be an address or network such as \"192.0.2.7\" or \
         \"10.0.0.0/8\", not \"10.0.0.1/8\"",
        "c.toml:17:18: listener[0].websocket_path must be a path that begins with a slash, such as \"/mqtt\", not \
         \"mqtt\"",
        "c.toml:18:1: [listener.tls] needs the key \"key_file\"",
    ];
    let said = said(content);
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn syntax_errors_have_places() {
    assert!(said("[log\nlevel = 'info'").starts_with("c.toml:1:"), "{}", said("[log\nlevel = 'info'"));
    assert_eq!(said("x=[["), "c.toml:1:5: unclosed array, expected `]`");
    assert!(said("a = 1\na = 2").starts_with("c.toml:2:1: duplicate key"), "{}", said("a = 1\na = 2"));
}

#[test]
fn tables_are_not_values() {
    assert_said("log = 1", "c.toml:1:7: log must be a table, not an integer");
    assert_said(
        "[listener]",
        "c.toml:1:1: listener must be an array of tables (each begins with its name in double brackets), not a table",
    );
}

#[test]
fn there_must_be_a_listener() {
    assert_said("", "c.toml: there is no [[listener]]: clients could not connect anywhere");
}

#[test]
fn a_listener_where_nobody_could_log_in_is_an_error() {
    let public = "[[listener]]\nbind = '0.0.0.0:1883'\n";
    assert_part_said(public, "c.toml:1:1: nobody could log in", "0.0.0.0:1883, which is not a loopback address");
    assert_part_said("[[listener]]\nanonymous = 'never'", "c.toml:1:1: nobody could log in", "\"mqtt\"");
    assert_part_said(
        &format!("{public}anonymous = 'always'"),
        "c.toml:3:13: warning:",
        "lets everybody who reaches 0.0.0.0:1883 in",
    );
    let users = format!("{public}[authentication]\npassword_file = 'users'");
    assert_part_said(&users, "c.toml:1:1: warning:", "passwords travel unencrypted");
    // Behind a proxy that ends TLS, they do not, as far as can be seen here.
    let proxied = users.replace("[auth", "proxy_protocol = 'v2'\nproxy_trusted = ['10.0.0.0/8']\n[auth");
    assert!(!said(&proxied).contains("unencrypted"), "{}", said(&proxied));
}

#[test]
fn names_and_binds_are_unique() {
    let content = "[[listener]]\n[[listener]]\nbind = '127.0.0.1:1884'";
    assert_said(content, "c.toml:2:1: listener[0] has the name \"mqtt\" already");
    let content = "[[listener]]\n[[listener]]\nname = 'b'\nbind = '0.0.0.0:1883'\nanonymous = 'always'";
    assert_said(content, "c.toml:4:8: 0.0.0.0:1883 cannot be bound together with 127.0.0.1:1883 of listener[0].bind");
    let content = "[[listener]]\n[admin]\nbind = '127.0.0.1:1883'";
    assert_said(content, "c.toml:3:8: 127.0.0.1:1883 cannot be bound together with 127.0.0.1:1883 of listener[0].bind");
    let content = "[[listener]]\nbind = '127.0.0.1:0'\n[[listener]]\nname = 'b'\nbind = '127.0.0.1:0'";
    assert!(!said(content).contains("cannot be bound"));
}

#[test]
fn tls_and_its_transports_go_together() {
    assert_part_said("[[listener]]\ntransport = 'wss'", "c.toml:2:13: the transport wss needs a [listener.tls]", "");
    let tls = "[[listener]]\n[listener.tls]\ncertificate_file = 'c'\nkey_file = 'k'\n";
    assert_part_said(tls, "c.toml:2:11: the transport tcp has no TLS", "");
    let tls = tls.replace("]]\n", "]]\ntransport = 'tls'\n");
    assert_part_said(&format!("{tls}client_certificate = 'required'"), "c.toml:6:22: ", "without client_ca_file");
    assert_part_said(&format!("{tls}client_ca_file = 'a'"), "c.toml:6:18: warning: client_ca_file has no effect", "");
    let both = format!("{tls}client_ca_file = 'a'\nclient_certificate = 'optional'\nmin_version = '1.3'");
    let config = parse("c.toml", &both, NONE).unwrap().config;
    let tls = config.listener[0].tls.as_ref().unwrap();
    assert_eq!((tls.client_certificate, tls.min_version), (ClientCertificate::Optional, TlsVersion::V1_3));
}

#[test]
fn doubtful_values_are_warned_about() {
    assert_part_said("[[listener]]", "c.toml: warning: without storage.data_directory", "");
    let content = "[[listener]]\n[admin]\nbind = '0.0.0.0:9883'";
    assert_said(content, "c.toml:3:8: warning: everybody who reaches 0.0.0.0:9883 can read the metrics");
    let content = "[[listener]]\nproxy_trusted = ['10.0.0.0/8']";
    assert_part_said(content, "c.toml:2:1: warning: proxy_trusted has no effect", "");
    let content = "[[listener]]\n[limits]\nretained_bytes_max = 10";
    assert_part_said(content, "c.toml:3:22: warning: a packet of packet_bytes_max", "never fit");
}

#[test]
fn the_environment_sets_keys() {
    let environment = [
        ("CAUSEWAY_LOG__LEVEL", "debug"),
        ("CAUSEWAY_LIMITS__PACKET_BYTES_MAX", "65536"),
        ("CAUSEWAY_LIMITS__RETAIN_AVAILABLE", "false"),
        ("CAUSEWAY_ADMIN__BIND", "127.0.0.1:9000"),
        ("CAUSEWAY_CONFIG", "elsewhere.toml"),
        ("PATH", "/bin"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let content = format!("{MINIMAL}[log]\nlevel = 'error'");
    let config = parse("c.toml", &content, environment).unwrap().config;
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.limits.packet_bytes_max, 65536);
    assert!(!config.limits.retain_available);
    assert_eq!(config.admin.bind, "127.0.0.1:9000".parse().ok());
    assert_eq!(config.storage.data_directory, Some("d".into()));
}

#[test]
fn wrong_variables_are_errors() {
    let rows = [
        ("CAUSEWAY_LOG__LEVL", "debug", "sets no key of the configuration, did you mean \"CAUSEWAY_LOG__LEVEL\"?"),
        ("CAUSEWAY_LOG_LEVEL", "debug", "sets no key of the configuration, did you mean \"CAUSEWAY_LOG__LEVEL\"?"),
        ("CAUSEWAY_NONSENSE", "1", "sets no key of the configuration"),
        (
            "CAUSEWAY_SHADOW__INDEX",
            "[]",
            "sets no key of the configuration, did you mean \"CAUSEWAY_SHADOW__NAMED_MAX\"?",
        ),
        ("CAUSEWAY_LIMITS__MAXIMUM_QOS", "3", "must be an integer from 0 to 2, not 3"),
        ("CAUSEWAY_LIMITS__MAXIMUM_QOS", "two", "must be an integer from 0 to 2, not \"two\""),
        ("CAUSEWAY_AUTHENTICATION__SCRAM", "yes", "must be true or false, not \"yes\""),
    ];
    for (name, value, expected) in rows {
        assert_eq!(said_with(MINIMAL, &[(name, value)]), format!("environment variable {name}: {expected}"));
    }
    // A problem with what a variable says is the variable's, not the file's.
    let said = said_with(MINIMAL, &[("CAUSEWAY_ADMIN__BIND", "0.0.0.0:1")]);
    let expected =
        "environment variable CAUSEWAY_ADMIN__BIND: warning: everybody who reaches 0.0.0.0:1 can read the metrics";
    assert!(said.lines().any(|line| line == expected), "{said}");
}

#[test]
fn named_files_are_looked_at_and_paths_are_relative_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("causeway.toml");
    let content = "\
[[listener]]
transport = 'tls'
[listener.tls]
certificate_file = 'server.crt'
key_file = 'server.key'
[authentication]
password_file = 'users'
";
    std::fs::write(&path, content).unwrap();
    let messages = || -> String {
        let problems = match load(&path, NONE) {
            Ok(loaded) => loaded.warnings,
            Err(problems) => problems,
        };
        problems.iter().map(|problem| format!("{problem}\n")).collect()
    };
    let said = messages();
    assert!(said.contains("causeway.toml:4:20: "), "{said}");
    assert!(said.contains("server.crt: No such file"), "{said}");
    assert!(said.contains("causeway.toml:5:12: "), "{said}");
    assert!(said.contains("add USER"), "{said}");

    let (certificate, key) = self_signed();
    std::fs::write(folder.path().join("server.crt"), &certificate).unwrap();
    std::fs::write(folder.path().join("server.key"), &certificate).unwrap();
    let said = messages();
    assert!(said.contains("causeway.toml:3:11: ") && said.contains("server.key holds no private key"), "{said}");

    std::fs::write(folder.path().join("server.key"), self_signed().1).unwrap();
    assert!(messages().contains("does not go with the key of"), "{}", messages());

    std::fs::write(folder.path().join("server.key"), key).unwrap();
    crate::auth::PasswordFile::default().store(&folder.path().join("users")).unwrap();
    let loaded = load(&path, NONE).unwrap();
    assert_eq!(loaded.config.authentication.password_file, Some(folder.path().join("users")));
    assert!(messages().contains("there is no user in"), "{}", messages());
}

/// A certificate and its key.
fn self_signed() -> (String, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

#[test]
fn a_missing_file_is_an_error() {
    let problems = load(std::path::Path::new("/nonexistent/causeway.toml"), NONE).unwrap_err();
    assert!(problems[0].to_string().starts_with("/nonexistent/causeway.toml: No such file"), "{}", problems[0]);
}

#[test]
fn the_defaults_obey_the_schema() {
    // Otherwise the sample would be refused: it has every key at its default.
    let loaded = parse("sample", &sample(), NONE).map_err(|problems| problems[0].to_string()).unwrap();
    assert_eq!(loaded.config, Config { listener: vec![Listener::default()], ..Config::default() });
}

#[test]
fn a_number_may_have_a_fraction_or_not() {
    let factor = |text: &str, environment: &[(&str, &str)]| {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loaded = parse("c.toml", &format!("{MINIMAL}disk_factor = {text}\n"), environment);
        loaded.map(|loaded| loaded.config.storage.disk_factor).map_err(|problems| problems[0].message.clone())
    };
    assert_eq!(factor("3", &[]), Ok(3.0));
    assert_eq!(factor("1.5", &[]), Ok(1.5));
    assert_eq!(factor("3", &[("CAUSEWAY_STORAGE__DISK_FACTOR", "2.5")]), Ok(2.5));
    for wrong in ["1.1", "101", "nan", "'2'"] {
        let message = factor(wrong, &[]).unwrap_err();
        assert!(message.contains("storage.disk_factor must be a number from 1.2 to 100, not "), "{message}");
    }
}

#[test]
fn what_may_be_lost_is_said() {
    let said = said(&format!("{MINIMAL}durability = 'os'\n"));
    assert!(said.contains("warning: with durability = \"os\", messages that were acknowledged are lost"), "{said}");
}

#[test]
fn urgent_topics_are_topic_filters() {
    for (filter, why) in
        [("a/#/b", "is no topic filter"), ("", "is no topic filter"), ("$share/g/x", "shared subscription")]
    {
        let text = format!("{MINIMAL}[limits]\nurgent_topics = ['a/+', '{filter}']\n");
        assert_part_said(&text, "c.toml:5:", why);
    }
}

#[test]
fn a_data_directory_has_a_name() {
    assert_part_said("[[listener]]\n[storage]\ndata_directory = ''\n", "c.toml:3:", "storage.data_directory must be");
}

#[test]
fn enrolment_is_whole_or_not_at_all() {
    let with = |keys: &str| format!("{MINIMAL}[enrolment]\n{keys}");
    assert_part_said(
        &with("bind = '127.0.0.1:0'\nkey_file = 'k'\n"),
        "c.toml:5:",
        "enrolment.bind needs \"authority_directory\", \"certificate_file\", too",
    );
    assert_part_said(&with("key_file = 'k'\n"), "c.toml:5:", "warning: key_file has no effect without enrolment.bind");
    let whole = "bind = '127.0.0.1:1883'\nkey_file = 'k'\ncertificate_file = 'c'\nauthority_directory = 'd'\n";
    assert_part_said(&with(whole), "c.toml:5:", "cannot be bound together with");
    let open = format!("{}known_vehicles_only = false\n", whole.replace("1883", "0"));
    assert_part_said(&with(&open), "c.toml:9:", "for any VIN that the registry does not know");
}
