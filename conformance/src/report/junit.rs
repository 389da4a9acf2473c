//! Owns the JUnit XML report. Never decides an outcome.

use std::fmt::Write;
use std::time::Duration;

use super::escape;
use crate::runner::{Finished, Outcome};

/// The report as one XML document.
pub fn render(results: &[Finished], took: Duration) -> String {
    let failures = results.iter().filter(|finished| finished.outcome.is_bad()).count();
    let skipped = |outcome: &Outcome| matches!(outcome, Outcome::Skipped(_) | Outcome::KnownFailure(..));
    let skips = results.iter().filter(|finished| skipped(&finished.outcome)).count();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<testsuite name=\"mqtt-conformance\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skips}\" \
         time=\"{:.3}\">",
        results.len(),
        took.as_secs_f64()
    );
    for finished in results {
        let (section, name) = finished.test.name.split_once('/').unwrap_or(("", finished.test.name));
        let head = format!(
            "  <testcase classname=\"mqtt.{}\" name=\"{}\" time=\"{:.3}\"",
            escape(section),
            escape(name),
            finished.took.as_secs_f64()
        );
        let detail = escape(&finished.outcome.detail());
        let _ = match &finished.outcome {
            Outcome::Passed => writeln!(out, "{head}/>"),
            outcome if skipped(outcome) => {
                writeln!(out, "{head}><skipped message=\"{}: {detail}\"/></testcase>", outcome.word())
            }
            outcome => writeln!(
                out,
                "{head}><failure message=\"{}: {detail}\">{}\n{}</failure></testcase>",
                outcome.word(),
                finished.test.ids.join(" "),
                escape(&finished.transcript.join("\n"))
            ),
        };
    }
    out.push_str("</testsuite>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Test;

    #[test]
    fn hostile_text_is_escaped() {
        let test = Test { name: "3.1/x", ids: &["MQTT-3.1.0-2"], ending: None, run: |_| Ok(()) };
        let outcome = Outcome::Failed("<&\"\u{1}>".into());
        let finished = Finished { test, outcome, took: Duration::ZERO, transcript: vec!["a < b".into()] };
        let xml = render(&[finished], Duration::ZERO);
        assert!(xml.contains("failures=\"1\""));
        assert!(xml.contains("&lt;&amp;&quot;\u{FFFD}&gt;"));
        assert!(xml.contains("a &lt; b"));
    }
}
