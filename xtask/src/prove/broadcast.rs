//! The proof of `broadcast`: one message for all vehicles is one record and few bytes for each, however many are away.
//!
//! Owns the thresholds and the table. The sessions and the clock are `causeway-bench broadcast`.

use anyhow::{Result, bail};
use serde::Deserialize;

use super::load::{self, Folder};
use crate::table;
use crate::workspace::{Profile, Workspace};

const QUICK_SESSIONS: u64 = 100_000;
const FULL_SESSIONS: u64 = 1_000_000;
/// Those who come back afterwards.
const RETURNING: u64 = 1_000;

/// From the PUBLISH to its PUBACK, after the sync.
const PUBACK_MS_MAX: f64 = 1_000.0;
/// Resident memory that the message adds, for each session.
const GROWTH_BYTES_MAX: f64 = 32.0;

#[derive(Debug, Clone, Default, Deserialize)]
struct Figures {
    sessions: u64,
    build_seconds: f64,
    resident_bytes_before: u64,
    bytes_per_session_before: f64,
    handle_ms: f64,
    sync_ms: f64,
    puback_ms: f64,
    records: u64,
    records_with_the_payload: u64,
    growth_bytes_per_session: f64,
    peak_growth_bytes_per_session: f64,
    checkpoint_seconds: f64,
    growth_with_checkpoint_bytes_per_session: f64,
    returned: u64,
    delivered: u64,
    wrong: u64,
    bodies_read: u64,
}

/// Sends the message, and prints the figures.
///
/// # Errors
/// When it cannot be run, or the figures fall short.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let folder = Folder::new(workspace)?;
    let sessions = if full { FULL_SESSIONS } else { QUICK_SESSIONS };
    let folder_word = folder.path().display();
    let words =
        load::words(&[&"broadcast", &"--folder", &folder_word, &"--sessions", &sessions, &"--returning", &RETURNING]);
    let figures: Figures = load::run(&bench, &words)?;
    println!("{}", render(&figures));
    verdict(&figures, sessions)
}

fn render(figures: &Figures) -> String {
    let rows = [
        ("persistent sessions away", figures.sessions.to_string()),
        ("time to make them, s", format!("{:.1}", figures.build_seconds)),
        ("resident before, MB", format!("{:.0}", figures.resident_bytes_before as f64 / 1e6)),
        ("bytes per session before", format!("{:.0}", figures.bytes_per_session_before)),
        ("time to match and queue, ms", format!("{:.1}", figures.handle_ms)),
        ("time to append and sync, ms", format!("{:.1}", figures.sync_ms)),
        ("peak growth per session, bytes", format!("{:.1}", figures.peak_growth_bytes_per_session)),
        ("time to fold it afterwards, s", format!("{:.2}", figures.checkpoint_seconds)),
        (
            "growth with that fold and its cache, bytes",
            format!("{:.1}", figures.growth_with_checkpoint_bytes_per_session),
        ),
        ("sessions that came back", figures.returned.to_string()),
        ("of them got the message", figures.delivered.to_string()),
        ("bodies read from the log for them", figures.bodies_read.to_string()),
        ("records on disk for it", figures.records.to_string()),
        ("growth per session, bytes", format!("{:.1}", figures.growth_bytes_per_session)),
        ("PUBLISH to PUBACK, ms", format!("{:.1}", figures.puback_ms)),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table::render(&["broadcast", "figure"], &rows)
}

fn verdict(figures: &Figures, sessions: u64) -> Result<()> {
    let mut shortfalls = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            shortfalls.push(what);
        }
    };
    check(figures.sessions == sessions, format!("{} sessions of {sessions}", figures.sessions));
    check(
        figures.records == 1 && figures.records_with_the_payload == 1,
        format!("{} records, {} with the payload", figures.records, figures.records_with_the_payload),
    );
    check(figures.puback_ms < PUBACK_MS_MAX, format!("PUBACK after {:.0} ms", figures.puback_ms));
    check(
        figures.growth_bytes_per_session < GROWTH_BYTES_MAX,
        format!("{:.1} bytes per session", figures.growth_bytes_per_session),
    );
    check(figures.returned == RETURNING, format!("{} of {RETURNING} sessions came back", figures.returned));
    check(
        figures.delivered == RETURNING && figures.wrong == 0,
        format!("{} of {RETURNING} got the message", figures.delivered),
    );
    check(figures.bodies_read > 0, "no body was read from the log".to_owned());
    if !shortfalls.is_empty() {
        bail!("falls short: {}", shortfalls.join("; "));
    }
    println!(
        "holds: one record for {sessions} sessions, {:.1} bytes each, PUBACK after {:.0} ms (at most {GROWTH_BYTES_MAX} and {PUBACK_MS_MAX})",
        figures.growth_bytes_per_session, figures.puback_ms
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            sessions: 5,
            puback_ms: 999.0,
            records: 1,
            records_with_the_payload: 1,
            growth_bytes_per_session: 31.9,
            returned: RETURNING,
            delivered: RETURNING,
            bodies_read: 1,
            ..Figures::default()
        }
    }

    #[test]
    fn each_threshold_counts() {
        assert!(verdict(&figures(), 5).is_ok());
        assert!(verdict(&figures(), 6).is_err());
        assert!(verdict(&Figures { puback_ms: 1_000.0, ..figures() }, 5).is_err());
        assert!(verdict(&Figures { records: 2, ..figures() }, 5).is_err());
        assert!(verdict(&Figures { growth_bytes_per_session: 32.0, ..figures() }, 5).is_err());
        assert!(verdict(&Figures { returned: 999, ..figures() }, 5).is_err());
        assert!(verdict(&Figures { delivered: 999, ..figures() }, 5).is_err());
        assert!(verdict(&Figures { bodies_read: 0, ..figures() }, 5).is_err());
    }
}
