//! What stands in `config/` and `docs/configuration.md` is what the broker says of itself.
//!
//! Owns the generated files: the schema, the sample and the tables of the reference. To renew them:
//!
//! ```text
//! UPDATE=1 cargo test -p causeway-broker --test configuration
//! ```

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use causeway_broker::config::{Config, Listener, json_schema, parse, read_policy, reference, sample};

const RENEW: &str = "UPDATE=1 cargo test -p causeway-broker --test configuration";
const TABLES_BEGIN: &str = "<!-- tables of all keys: generated -->\n";
const TABLES_END: &str = "<!-- end of the tables -->\n";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares a file with what it should be, or makes it so.
fn assert_current(name: &str, expected: &str) {
    if std::env::var_os("UPDATE").is_some() {
        // By way of another file: the tests beside this one never see half of it.
        let new = path(&format!("{name}.new"));
        fs::write(&new, expected).unwrap();
        fs::rename(&new, path(name)).unwrap();
    }
    let found = fs::read_to_string(path(name)).unwrap_or_default();
    let line = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    assert!(found == expected, "{name} is stale (line {:?}); renew it with: {RENEW}", line.map(|line| line + 1));
}

#[test]
fn the_schema_is_current() {
    assert_current("config/causeway.schema.json", &format!("{:#}\n", json_schema()));
}

#[test]
fn the_sample_is_current_and_every_key_is_in_it_at_its_default() {
    assert_current("config/causeway.toml", &sample());
    let text = read("config/causeway.toml");
    let loaded = parse("causeway.toml", &text, []).map_err(|problems| problems[0].to_string()).unwrap();
    assert_eq!(loaded.config, Config { listener: vec![Listener::default()], ..Config::default() });
    let mut keys = Vec::new();
    collect_keys(&json_schema(), &mut keys);
    assert!(keys.len() > 50, "{keys:?}");
    for key in keys {
        let is_key = |line: &str| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{key} = ")) || line.trim_matches(['[', ']']).split('.').any(|name| name == key)
        };
        assert!(text.lines().any(is_key), "{key} is not in the sample");
    }
}

/// The names of all keys and sections.
fn collect_keys(schema: &serde_json::Value, keys: &mut Vec<String>) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        keys.push(name.clone());
        let optional = schema["anyOf"].as_array().into_iter().flatten();
        for schema in [schema, &schema["items"]].into_iter().chain(optional) {
            collect_keys(schema, keys);
        }
    }
}

#[test]
fn the_sample_is_right_with_its_comments_removed() {
    // Optional keys stand in it as comments: they must be right, too.
    let text: String = read("config/causeway.toml")
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if (key.starts_with('[') && key.ends_with(']')) || key.split(' ').nth(1) == Some("=") => {
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let text = text.replace("transport = \"tcp\"", "transport = \"tls\"");
    let loaded = parse("causeway.toml", &text, []).map_err(|problems| problems[0].to_string()).unwrap();
    assert!(loaded.config.listener[0].tls.is_some());
    assert!(loaded.config.authentication.password_file.is_some());
    assert!(loaded.config.admin.tls.is_some());
}

#[test]
fn the_reference_is_current() {
    let name = "docs/configuration.md";
    let text = read(name);
    let (head, rest) = text.split_once(TABLES_BEGIN).expect("the beginning of the tables");
    let (_, tail) = rest.split_once(TABLES_END).expect("the end of the tables");
    assert_current(name, &format!("{head}{TABLES_BEGIN}\n{}{TABLES_END}{tail}", reference()));
}

#[test]
fn every_configuration_of_the_repository_is_right() {
    let mut checked = 0;
    for entry in fs::read_dir(path("config")).unwrap() {
        let file = entry.unwrap().path();
        let is_policy = file.file_name().is_some_and(|name| name == "policy.toml");
        if is_policy {
            let (policy, warnings) = read_policy(&file).map_err(|error| error.to_string()).unwrap();
            assert!(!policy.is_open() && warnings.is_empty(), "{warnings:?}");
        } else if file.extension().is_some_and(|extension| extension == "toml") {
            let name = file.display().to_string();
            let parsed = parse(&name, &fs::read_to_string(&file).unwrap(), []);
            parsed.map_err(|problems| problems[0].to_string()).unwrap();
            checked += 1;
        }
    }
    assert!(checked >= 3);
}

#[test]
fn every_example_of_the_documentation_is_right() {
    let text = read("docs/configuration.md");
    let examples: Vec<_> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        parse("docs/configuration.md", example, []).map_err(|problems| problems[0].to_string()).unwrap();
    }
}
