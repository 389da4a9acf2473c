//! The proof of `soak`: under everyday work, memory and disk level off.
//!
//! Owns the daemon's settings and the verdict. The work, the samples and the plot are `causeway-bench soak`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::load::{self, Folder, Lines, Server};
use crate::table;
use crate::workspace::{Profile, Workspace};

const QUICK_SECONDS: u64 = 45;
const FULL_SECONDS: u64 = 3_600;
/// Messages a second.
const RATE: u64 = 2_000;
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Small segments, so that many come and go.
const SEGMENT_BYTES: u64 = 1 << 20;

/// What the last third may have more of than the second, as a part and besides.
const GROWTH_PART: f64 = 0.10;
/// The system's memory comes in pieces, and a file keeps the room it once had.
const RESIDENT_SLACK_BYTES: f64 = 4e6;
const DISK_SLACK_BYTES: f64 = 4.0 * SEGMENT_BYTES as f64;

/// What the load counted.
#[derive(Debug, Clone, Default, Deserialize)]
struct Figures {
    seconds: f64,
    published: u64,
    acknowledged: u64,
    refused: u64,
    delivered: u64,
    visits: u64,
    visitors: u64,
}

/// One line of the samples.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sample {
    seconds: f64,
    resident_bytes: f64,
    log_bytes: f64,
    state_bytes: f64,
}

/// A quantity that must level off.
struct Watched {
    name: &'static str,
    value: fn(&Sample) -> f64,
    slack: f64,
}

const WATCHED: [Watched; 3] = [
    Watched { name: "resident memory", value: |sample| sample.resident_bytes, slack: RESIDENT_SLACK_BYTES },
    Watched { name: "log", value: |sample| sample.log_bytes, slack: DISK_SLACK_BYTES },
    Watched { name: "folded state", value: |sample| sample.state_bytes, slack: DISK_SLACK_BYTES },
];

/// Works for so long, and prints the figures.
///
/// # Errors
/// When something cannot be run, or memory or disk do not level off.
pub(super) fn prove(workspace: &Workspace, full: bool, seconds: Option<u64>, plot: Option<&Path>) -> Result<()> {
    let seconds = seconds.unwrap_or(if full { FULL_SECONDS } else { QUICK_SECONDS });
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let folder = Folder::new(workspace)?;
    let data = folder.path().join("data");
    let storage = format!("segment_bytes = {SEGMENT_BYTES}\n");
    let lines = Lines { storage: &storage, ..Lines::default() };
    let mut server = Server::start(workspace, "soak", (folder.path(), &data), &lines)?;
    server.wait_until_ready(READY_DEADLINE)?;
    let plot = match plot {
        Some(plot) => std::path::absolute(plot)?,
        None => workspace.scratch("soak")?.join("soak.svg"),
    };
    let csv: PathBuf = plot.with_extension("csv");
    let figures: Figures = load::run(
        &bench,
        &load::words(&[
            &"soak",
            &"--target",
            &server.mqtt,
            &"--admin",
            &server.admin,
            &"--pid",
            &server.pid(),
            &"--folder",
            &data.display(),
            &"--seconds",
            &seconds,
            &"--rate",
            &RATE,
            &"--csv",
            &csv.display(),
            &"--plot",
            &plot.display(),
        ]),
    )?;
    server.check_alive()?;
    let text = std::fs::read_to_string(&csv).with_context(|| format!("cannot read {}", csv.display()))?;
    let samples = parse(&text)?;
    println!("samples: {}\nplot: {}\n", csv.display(), plot.display());
    println!("{}", render(&figures, &samples));
    verdict(&figures, &samples, seconds)
}

fn parse(csv: &str) -> Result<Vec<Sample>> {
    csv.lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<f64> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
            let [seconds, resident_bytes, log_bytes, state_bytes, ..] = cells[..] else {
                bail!("a sample of {} cells", cells.len());
            };
            Ok(Sample { seconds, resident_bytes, log_bytes, state_bytes })
        })
        .collect()
}

/// The means of the second and of the last third.
fn thirds(samples: &[Sample], value: fn(&Sample) -> f64) -> (f64, f64) {
    let third = samples.len() / 3;
    let mean = |part: &[Sample]| part.iter().map(value).sum::<f64>() / part.len().max(1) as f64;
    let (before, last) = samples.split_at(samples.len() - third);
    (mean(&before[before.len() - third..]), mean(last))
}

fn render(figures: &Figures, samples: &[Sample]) -> String {
    let mut rows = vec![
        vec!["duration, s".to_owned(), format!("{:.0}", figures.seconds)],
        vec!["messages published".to_owned(), figures.published.to_string()],
        vec!["acknowledged".to_owned(), figures.acknowledged.to_string()],
        vec!["refused".to_owned(), figures.refused.to_string()],
        vec!["delivered".to_owned(), figures.delivered.to_string()],
        vec!["visits of vehicles, each draining its queue".to_owned(), figures.visits.to_string()],
        vec!["sessions that expired with their queues, about".to_owned(), figures.visitors.to_string()],
    ];
    for watched in &WATCHED {
        let (second, last) = thirds(samples, watched.value);
        let peak = samples.iter().map(watched.value).fold(0.0, f64::max);
        rows.push(vec![format!("{}, second third, MB", watched.name), format!("{:.1}", second / 1e6)]);
        rows.push(vec![format!("{}, last third, MB", watched.name), format!("{:.1}", last / 1e6)]);
        rows.push(vec![format!("{}, peak, MB", watched.name), format!("{:.1}", peak / 1e6)]);
    }
    table::render(&["soak", "figure"], &rows)
}

fn verdict(figures: &Figures, samples: &[Sample], seconds: u64) -> Result<()> {
    ensure!(samples.len() as u64 == seconds && seconds >= 3, "{} samples in {seconds} s", samples.len());
    ensure!(figures.delivered > 0 && figures.visits > 0 && figures.visitors > 0, "the load did not do its work");
    let mut shortfalls = Vec::new();
    if figures.refused > 0 {
        shortfalls.push(format!("{} messages refused", figures.refused));
    }
    // A broker that falls behind is not under the load that is claimed.
    if (figures.acknowledged as f64) < 0.9 * RATE as f64 * seconds as f64 {
        shortfalls.push(format!("{} messages acknowledged in {seconds} s", figures.acknowledged));
    }
    for watched in &WATCHED {
        let (second, last) = thirds(samples, watched.value);
        if last > second * (1.0 + GROWTH_PART) + watched.slack {
            shortfalls.push(format!("{} grows: {:.1} MB, then {:.1} MB", watched.name, second / 1e6, last / 1e6));
        }
    }
    if !shortfalls.is_empty() {
        bail!("falls short: {}", shortfalls.join("; "));
    }
    println!("holds: memory and disk have levelled off after {seconds} s at {RATE} messages a second");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(last: f64) -> Vec<Sample> {
        let sample = |seconds: u32| {
            let resident_bytes = if seconds > 6 { last } else { 100e6 };
            Sample { seconds: seconds.into(), resident_bytes, log_bytes: 9e6, ..Sample::default() }
        };
        (1..=9).map(sample).collect()
    }

    fn figures() -> Figures {
        Figures { acknowledged: 9 * RATE, delivered: 1, visits: 1, visitors: 1, ..Figures::default() }
    }

    #[test]
    fn growth_in_the_last_third_falls_short() {
        assert!(verdict(&figures(), &samples(113e6), 9).is_ok());
        assert!(verdict(&figures(), &samples(115e6), 9).is_err());
        assert!(verdict(&Figures { refused: 1, ..figures() }, &samples(100e6), 9).is_err());
        assert!(verdict(&Figures { acknowledged: 7 * RATE, ..figures() }, &samples(100e6), 9).is_err());
        assert!(verdict(&figures(), &samples(100e6), 10).is_err(), "a sample is missing");
    }

    #[test]
    fn samples_are_read_back() {
        let read = parse("head\n1,2,3,4,5,6,7,8\n").unwrap();
        assert_eq!(read[0].state_bytes, 4.0);
        assert!(parse("head\n1,2\n").is_err());
    }
}
