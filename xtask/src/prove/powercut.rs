//! The proof of `powercut`: what was acknowledged is kept, wherever in the disk's work the power goes.
//!
//! Owns the table and the verdict. The cuts and the books are `causeway-bench powercut`.

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use super::load;
use crate::table;
use crate::workspace::{Profile, Workspace};

/// How long new passes begin.
const QUICK_SECONDS: u64 = 20;
const FULL_SECONDS: u64 = 600;

#[derive(Debug, Clone, Default, Deserialize)]
struct Figures {
    seed: u64,
    passes: u64,
    cuts: u64,
    cuts_at_bytes: u64,
    acknowledged_checked: u64,
    delivered_after_cut: u64,
    retained_acknowledged: u64,
    checkpoints: u64,
    relocations: u64,
    lost: u64,
    retained_lost: u64,
    sessions_lost: u64,
    duplicates_qos2: u64,
    unknown: u64,
    refusals: u64,
    first_failure: String,
}

/// Cuts, and prints the figures. `unsynced` acknowledges without waiting for the disk, and the proof has to fail.
///
/// # Errors
/// When it cannot be run, or a promise is broken.
pub(super) fn prove(workspace: &Workspace, full: bool, unsynced: bool) -> Result<()> {
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let seconds = if full { FULL_SECONDS } else { QUICK_SECONDS };
    let mut words = load::words(&[&"powercut", &"--seconds", &seconds]);
    if unsynced {
        words.push("--unsynced".to_owned());
    }
    let figures: Figures = load::run(&bench, &words)?;
    println!("{}", render(&figures));
    verdict(&figures)
}

fn render(figures: &Figures) -> String {
    let rows = [
        ("first seed", figures.seed),
        ("passes, each with its seed", figures.passes),
        ("power cuts at operations of the disk", figures.cuts),
        ("power cuts at bytes of the log's end", figures.cuts_at_bytes),
        ("folds of the state under way or done", figures.checkpoints),
        ("times the log's old end was given up", figures.relocations),
        ("acknowledged messages looked for", figures.acknowledged_checked),
        ("of them retained", figures.retained_acknowledged),
        ("deliveries after the last cut", figures.delivered_after_cut),
        ("starts refused", figures.refusals),
        ("sessions lost", figures.sessions_lost),
        ("retained messages lost", figures.retained_lost),
        ("QoS 2 messages delivered twice", figures.duplicates_qos2),
        ("messages nobody sent", figures.unknown),
        ("acknowledged messages lost", figures.lost),
    ];
    let rows: Vec<Vec<String>> = rows.iter().map(|(name, value)| vec![(*name).to_owned(), value.to_string()]).collect();
    table::render(&["power cuts", "figure"], &rows)
}

fn verdict(figures: &Figures) -> Result<()> {
    let mut broken = Vec::new();
    for (count, what) in [
        (figures.lost, "acknowledged messages lost"),
        (figures.retained_lost, "retained messages lost"),
        (figures.sessions_lost, "sessions lost"),
        (figures.duplicates_qos2, "messages of QoS 2 delivered twice"),
        (figures.unknown, "messages nobody sent"),
        (figures.refusals, "starts refused"),
    ] {
        if count > 0 {
            broken.push(format!("{count} {what}"));
        }
    }
    if !broken.is_empty() {
        bail!("the promise is broken: {} (first: {})", broken.join("; "), figures.first_failure);
    }
    let did_its_work = figures.cuts > 0
        && figures.cuts_at_bytes > 0
        && figures.acknowledged_checked > 0
        && figures.delivered_after_cut > 0
        && figures.retained_acknowledged > 0
        && figures.checkpoints > 0
        && figures.relocations > 0;
    ensure!(did_its_work, "the load did not do its work");
    println!(
        "holds: {} power cuts, {} acknowledged messages looked for, none lost, no start refused",
        figures.cuts + figures.cuts_at_bytes,
        figures.acknowledged_checked
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            passes: 1,
            cuts: 1,
            cuts_at_bytes: 1,
            acknowledged_checked: 1,
            delivered_after_cut: 1,
            retained_acknowledged: 1,
            checkpoints: 1,
            relocations: 1,
            ..Figures::default()
        }
    }

    #[test]
    fn every_broken_promise_counts() {
        assert!(verdict(&figures()).is_ok());
        assert!(verdict(&Figures { lost: 1, ..figures() }).is_err());
        assert!(verdict(&Figures { retained_lost: 1, ..figures() }).is_err());
        assert!(verdict(&Figures { sessions_lost: 1, ..figures() }).is_err());
        assert!(verdict(&Figures { duplicates_qos2: 1, ..figures() }).is_err());
        assert!(verdict(&Figures { unknown: 1, ..figures() }).is_err());
        assert!(verdict(&Figures { refusals: 1, ..figures() }).is_err());
        assert!(verdict(&Figures { relocations: 0, ..figures() }).is_err(), "nothing was shown");
    }
}
