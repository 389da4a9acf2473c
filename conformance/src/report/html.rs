//! Owns the HTML report: one self-contained page with a row per normative statement. Never decides an outcome.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use super::escape;
use crate::registry::Section;
use crate::runner::{Finished, Outcome};
use crate::statements::{AppliesTo, Statement, mqtt5, mqtt311, tests_of, unobservable};

const STYLE: &str = "
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1c2330;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.4rem 0 1rem;color:#555}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.35rem .6rem;
border-top:1px solid #dde2ea}th{font-size:.8rem;color:#667}td:first-child{white-space:nowrap;font-family:ui-monospace,
monospace;font-size:.85rem}.tag{display:inline-block;padding:0 .5rem;border-radius:.7rem;font-size:.8rem;white-space:nowrap}
.passed{background:#d9f2e0;color:#125b2c}.failed,.unexpected{background:#fbdada;color:#8c1414}.known{background:#fdeccb;
color:#7a4b00}.skipped,.not{background:#e6e9ef;color:#445}.client{background:#eef3fb;color:#345}.untested{background:#f3e3fb;
color:#5b2080}ul{margin:0;padding:0;list-style:none}li{font-size:.85rem}code{font-size:.85rem}pre{background:#f5f6f8;
padding:.6rem;overflow-x:auto;font-size:.78rem;margin:.3rem 0}summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{background:#14181f;color:#d8dee9}td,th{border-color:#2b323d}p,th{color:#9aa5b5}
pre{background:#1d232c}}";

/// The report as one HTML document. Statements whose tests were not selected in this run are shown as not run.
pub fn render(target: &str, sections: &[Section], results: &[Finished], took: Duration) -> String {
    let by_name: HashMap<&str, &Finished> = results.iter().map(|finished| (finished.test.name, finished)).collect();
    let statements = mqtt5();
    let mut rows = String::new();
    let mut counts: Vec<(&str, usize)> = Vec::new();
    let mut heading = "";
    for statement in &statements {
        if statement.section != heading {
            heading = statement.section;
            let _ = write!(rows, "<tr><th colspan=\"4\">{}</th></tr>", escape(heading));
        }
        let status = status(statement, sections, &by_name);
        match counts.iter_mut().find(|(word, _)| *word == status) {
            Some((_, count)) => *count += 1,
            None => counts.push((status, 1)),
        }
        row(&mut rows, statement, status, sections, &by_name);
    }
    let summary: Vec<String> = counts.iter().map(|(word, count)| format!("{} {count}", tag(word))).collect();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>MQTT conformance of {target}</title><style>{STYLE}</style><h1>MQTT conformance of {target}</h1>\
         <p>{} tests in {:.1} s. Statements of MQTT 5.0: {}</p>\
         <table><tr><th>Statement</th><th>Status</th><th>What it says</th><th>Tests</th></tr>{rows}</table>{}{}</html>\n",
        results.len(),
        took.as_secs_f64(),
        summary.join(", "),
        older(sections, &by_name),
        everything(results),
        target = escape(target)
    )
}

fn tag(word: &str) -> String {
    let class = word.split(' ').next().unwrap_or(word);
    format!("<span class=\"tag {class}\">{word}</span>")
}

/// The worst outcome of the statement's tests, or why it has none.
fn status(statement: &Statement, sections: &[Section], by_name: &HashMap<&str, &Finished>) -> &'static str {
    let tests = tests_of(sections, statement.id);
    let outcomes: Vec<&Outcome> =
        tests.iter().filter_map(|test| by_name.get(test.name)).map(|finished| &finished.outcome).collect();
    let worst = ["failed", "unexpected pass", "known failure", "passed", "skipped"];
    if let Some(word) = worst.into_iter().find(|word| outcomes.iter().any(|outcome| outcome.word() == *word)) {
        return word;
    }
    if unobservable(sections, statement.id).is_some() {
        "not observable"
    } else if !tests.is_empty() {
        "not run"
    } else if statement.applies_to == AppliesTo::Client {
        "client"
    } else {
        "untested"
    }
}

fn row(
    out: &mut String,
    statement: &Statement,
    status: &str,
    sections: &[Section],
    by_name: &HashMap<&str, &Finished>,
) {
    let _ = write!(
        out,
        "<tr id=\"{id}\"><td>{id}</td><td>{}</td><td>{}",
        tag(status),
        escape(statement.paraphrase),
        id = statement.id
    );
    if let Some(reason) = unobservable(sections, statement.id) {
        let _ = write!(out, "<p>Not observable: {}</p>", escape(reason));
    }
    out.push_str("</td><td><ul>");
    for test in tests_of(sections, statement.id) {
        test_item(out, test.name, by_name);
    }
    out.push_str("</ul></td></tr>");
}

fn test_item(out: &mut String, name: &str, by_name: &HashMap<&str, &Finished>) {
    let mark = match by_name.get(name).map(|finished| &finished.outcome) {
        Some(Outcome::Passed) => "✓",
        Some(Outcome::Skipped(_)) => "–",
        Some(_) => "✗",
        None => "·",
    };
    let _ = write!(out, "<li>{mark} <a href=\"#{name}\">{name}</a></li>", name = escape(name));
}

/// The statements of MQTT 3.1.1 that have tests of their own.
fn older(sections: &[Section], by_name: &HashMap<&str, &Finished>) -> String {
    let mut out = String::from("<h2>MQTT 3.1.1</h2><p>Statements with tests of their own.</p><table>");
    for id in mqtt311() {
        let tests = tests_of(sections, &id);
        if tests.is_empty() {
            continue;
        }
        let _ = write!(out, "<tr><td>{id}</td><td><ul>");
        for test in tests {
            test_item(&mut out, test.name, by_name);
        }
        out.push_str("</ul></td></tr>");
    }
    out + "</table>"
}

fn everything(results: &[Finished]) -> String {
    let mut out = String::from("<h2>Tests</h2><table>");
    for finished in results {
        let _ = write!(
            out,
            "<tr id=\"{name}\"><td>{name}</td><td>{}</td><td>{}",
            tag(finished.outcome.word()),
            escape(&finished.outcome.detail()),
            name = escape(finished.test.name)
        );
        if !matches!(finished.outcome, Outcome::Passed | Outcome::Skipped(_)) {
            let lines = escape(&finished.transcript.join("\n"));
            let _ = write!(out, "<details><summary>last packets</summary><pre>{lines}</pre></details>");
        }
        let _ = write!(out, "</td><td>{} ms</td></tr>", finished.took.as_millis());
    }
    out + "</table>"
}
