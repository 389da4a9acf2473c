//! The proofs of `speed`, `latency`, `idle` and `storm-baseline`: Causeway beside others, each on one core.
//!
//! Owns the scenarios and the thresholds. The measuring is in
//! [`super::side_by_side`].

use anyhow::{Result, bail};

use super::side_by_side::{Lengths, Row, Rows, SideBySide};

/// The processor time of a message, as a multiple of what the best peer needs: at most this in every scenario.
const CPU_TO_BEST_PEER_MAX: f64 = 1.0;

/// And below this in half of them.
const CPU_TO_BEST_PEER_HALF: f64 = 0.7;

/// Messages acknowledged each second, synced, for sessions that are away; in thousands.
const ACKNOWLEDGED_MIN: f64 = 99.0;

/// Messages delivered each second when those who were away come back; in thousands.
const DRAINED_MIN: f64 = 400.0;

/// 99 of 100 messages may wait so much longer than with the best peer.
const P99_TO_BEST_PEER_MAX: f64 = 1.0;

/// Messages each second while latency is measured.
const LATENCY_RATE: &str = "20000";

/// The memory of an idle connection with one subscription, in KiB.
const IDLE_MEMORY_MAX: [(&str, f64); 2] = [("idle", 1.7), ("idle:tls", 15.0)];

/// So much worse a quick run may be.
const QUICK_TOLERANCE: f64 = 1.25;

/// And the p99 of a single round.
const QUICK_LATENCY_TOLERANCE: f64 = 3.0;

const SPEED_SCENARIOS: [&str; 13] = [
    "one-to-one:0",
    "one-to-one:1",
    "one-to-one:2",
    "fan-in:0",
    "fan-in:1",
    "shared:1",
    "fan-out:0",
    "fan-out:1",
    "one-in-flight:0",
    "one-in-flight:1",
    "one-to-one:0:tls",
    "one-in-flight:0:tls",
    "away:1",
];

const QUICK: Lengths = Lengths { rounds: 1, seconds: 0.8, warm_up_seconds: 0.3, clients: 2_000 };
/// Two thousand connects take a tenth of a second: one such round says little.
const QUICK_IDLE: Lengths = Lengths { rounds: 3, ..QUICK };
const QUICK_LATENCY: Lengths = Lengths { seconds: 1.2, ..QUICK };
const FULL: Lengths = Lengths { rounds: 3, seconds: 4.0, warm_up_seconds: 1.0, clients: 10_000 };
/// One wake-up of something else decides about the p99 of a short round, so there are many: half of them are of no account.
const FULL_LATENCY: Lengths = Lengths { rounds: 11, seconds: 2.0, warm_up_seconds: 0.5, ..FULL };

/// Shows what a message costs.
///
/// # Errors
/// When something cannot be run, or a scenario falls short.
pub(super) fn prove_speed(beside: &SideBySide<'_>, full: bool) -> Result<()> {
    judge_speed(&beside.run(&SPEED_SCENARIOS, if full { &FULL } else { &QUICK }, &[])?, full)
}

fn judge_speed(rows: &Rows, full: bool) -> Result<()> {
    let ratios: Vec<f64> = rows.own().filter_map(|row| row.cpu_to_best_peer).collect();
    let good = ratios.iter().filter(|ratio| **ratio < CPU_TO_BEST_PEER_HALF).count();
    let mut shortfalls = Shortfalls::beside_peers(rows);
    for row in rows.own() {
        let what = "of the best peer's processor time for each message";
        shortfalls.above_peers(row, what, row.cpu_to_best_peer, CPU_TO_BEST_PEER_MAX);
        // So short a time says little about a disk.
        if full && row.thousand_drained_per_second.median > 0.0 {
            shortfalls.below(row, "thousand/s acknowledged", row.thousand_per_second.median, ACKNOWLEDGED_MIN);
            shortfalls.below(row, "thousand/s drained", row.thousand_drained_per_second.median, DRAINED_MIN);
        }
    }
    if 2 * good < ratios.len() {
        shortfalls.0.push(format!("below {CPU_TO_BEST_PEER_HALF} of the best peer in only {good} of {}", ratios.len()));
    }
    shortfalls.judge(&format!("at or below the best peer in all {} scenarios, below 0.7 in {good}", ratios.len()))
}

/// Shows how long messages wait at a fixed rate.
///
/// # Errors
/// When something cannot be run, or a scenario falls short.
pub(super) fn prove_latency(beside: &SideBySide<'_>, full: bool) -> Result<()> {
    let (lengths, tolerance) = if full { (&FULL_LATENCY, 1.0) } else { (&QUICK_LATENCY, QUICK_LATENCY_TOLERANCE) };
    let scenarios = ["one-to-one:0", "one-to-one:1", "fan-in:0", "fan-in:1"];
    let rows = beside.run(&scenarios, lengths, &["--rate", LATENCY_RATE])?;
    let mut shortfalls = Shortfalls::beside_peers(&rows);
    for row in rows.own() {
        let most = tolerance * P99_TO_BEST_PEER_MAX;
        shortfalls.above_peers(row, "of the best peer's p99", row.p99_to_best_peer, most);
    }
    let most =
        if full { "at or below".to_owned() } else { format!("at most {tolerance} times (one round says no more)") };
    shortfalls.judge(&format!("p99 {most} the best peer's, at {LATENCY_RATE} messages a second"))
}

/// Shows what a connection costs that does nothing, and one that is made.
///
/// # Errors
/// When something cannot be run, or a scenario falls short.
pub(super) fn prove_idle(beside: &SideBySide<'_>, full: bool) -> Result<()> {
    let scenarios = ["idle", "idle:tls", "idle:ws", "connect", "connect:tls", "connect:tls-resumed"];
    let rows = beside.run(&scenarios, if full { &FULL } else { &QUICK_IDLE }, &[])?;
    // What is set up once weighs more on few clients, and in a short time noise does.
    let tolerance = if full { 1.0 } else { QUICK_TOLERANCE };
    let mut shortfalls = Shortfalls::beside_peers(&rows);
    for row in rows.own() {
        let label = row.label();
        if let Some((_, most)) = IDLE_MEMORY_MAX.iter().find(|(of, _)| *of == label) {
            let most = tolerance * most;
            shortfalls.above(row, "KiB for each connection", row.kibibytes_per_client.median, most);
        }
        if label.starts_with("connect") {
            let (what, most) = ("of the best peer's processor time for each", tolerance * CPU_TO_BEST_PEER_MAX);
            shortfalls.above_peers(row, what, row.cpu_to_best_peer, most);
            if let Some(most) = rows.most_connects_of_peers(&label) {
                shortfalls.below(row, "connects/s", row.connects_per_second.median, most / tolerance);
            }
        }
    }
    shortfalls.judge("idle connections in little memory, new ones for little processor time")
}

/// Shows a storm of clients who come at once, and what it does to others.
///
/// # Errors
/// When something cannot be run, or somebody is not let in, or a message of the others is lost.
pub(super) fn prove_storm(beside: &SideBySide<'_>, full: bool) -> Result<()> {
    let scenarios: &[&str] = if full { &["storm", "storm:tls"] } else { &["storm"] };
    let lengths = Lengths { seconds: 4.0, ..if full { FULL } else { QUICK } };
    let rows = beside.run(scenarios, &lengths, &[])?;
    Shortfalls::of(&rows).judge(&format!("{} clients at once are all let in; others lose nothing", lengths.clients))
}

/// What was not reached.
struct Shortfalls(Vec<String>);

impl Shortfalls {
    /// Runs that failed or lost something.
    fn of(rows: &Rows) -> Self {
        let unsound = rows.own().filter(|row| !row.is_sound());
        let shown = |row: &Row| {
            let failure = row.failure.as_deref().unwrap_or("messages or clients were lost");
            format!("{}: {} faults, {failure}", row.label(), row.faults)
        };
        Self(unsound.map(shown).collect())
    }

    /// Likewise, and peers that say nothing because they did nothing right. Where one is said to be the best, all had to be there.
    fn beside_peers(rows: &Rows) -> Self {
        let mut shortfalls = Self::of(rows);
        for name in rows.peers() {
            for row in rows.of_peer(name).filter(|row| !row.is_sound()) {
                let failure = row.failure.as_deref().unwrap_or("messages or clients were lost");
                println!("{name} in {}: {} faults, {failure}", row.label(), row.faults);
            }
            if !rows.of_peer(name).any(Row::is_sound) {
                shortfalls.0.push(format!("{name} did nothing right, so nothing is shown beside it"));
            }
        }
        shortfalls
    }

    /// A figure as a multiple of the best peer's. Where no peer has one, nothing is shown.
    fn above_peers(&mut self, row: &Row, what: &str, ratio: Option<f64>, most: f64) {
        match ratio {
            Some(ratio) => self.above(row, what, ratio, most),
            None => self.0.push(format!("{}: no peer has a figure to stand beside", row.label())),
        }
    }

    fn above(&mut self, row: &Row, what: &str, figure: f64, most: f64) {
        if figure > most {
            self.0.push(format!("{}: {figure:.2} {what}, at most {most:.2} wanted", row.label()));
        }
    }

    fn below(&mut self, row: &Row, what: &str, figure: f64, least: f64) {
        if figure < least {
            self.0.push(format!("{}: {figure:.0} {what}, at least {least:.0} wanted", row.label()));
        }
    }

    fn judge(self, holds: &str) -> Result<()> {
        if !self.0.is_empty() {
            bail!("falls short:\n  {}", self.0.join("\n  "));
        }
        println!("holds: {holds}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(own: &str, peer: &str) -> Rows {
        let row = |broker: &str, is_causeway: bool, more: &str| {
            format!(
                r#"{{"scenario":"fan-in","qos":1,"transport":"tcp","broker":"{broker}","is_causeway":{is_causeway},{more}}}"#
            )
        };
        Rows::read(&format!("{}\n{}", row("causeway", true, own), row("flashmq", false, peer))).unwrap()
    }

    #[test]
    fn nothing_is_shown_beside_a_peer_that_did_not_run() {
        let sound = r#""faults":0,"failure":null"#;
        let good = format!(r#""cpu_to_best_peer":0.5,{sound}"#);
        assert!(judge_speed(&rows(&good, sound), true).is_ok());
        let slow = format!(r#""cpu_to_best_peer":1.01,{sound}"#);
        assert!(judge_speed(&rows(&slow, sound), true).is_err());
        // It could not be started, or lost messages: then there is no ratio.
        for peer in [r#""faults":0,"failure":"cannot run flashmq""#, r#""faults":3,"failure":null"#] {
            let error = judge_speed(&rows(sound, peer), true).unwrap_err().to_string();
            assert!(error.contains("no peer") && error.contains("flashmq"), "{error}");
            // Another peer may have given one: it was not said which.
            assert!(judge_speed(&rows(&good, peer), true).is_err());
        }
    }
}
