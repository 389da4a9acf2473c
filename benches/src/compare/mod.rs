//! `compare`: brokers side by side, under the same load.
//!
//! Owns the order of runs, and what is made of their figures. Each run has a
//! broker of its own, on one core; the load is on another. Brokers take
//! turns, so that what disturbs the machine disturbs all of them.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;
use serde::Serialize;

use self::peer::{Identity, Peer, Running};
use crate::load::{Scenario, Target};
use crate::plot::{self, bars};
use crate::process;
use crate::spread::Spread;
use crate::wire::Version;

mod arrivals;
mod messages;
mod peer;

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A broker: causeway, mosquitto, flashmq or rumqttd, and perhaps =PATH of its program; `mosquitto-2.1=PATH` works, too, and
    /// `causeway:2` has two shards, on two cores
    #[arg(long = "broker", required = true, value_name = "NAME[=PATH]")]
    brokers: Vec<Peer>,
    /// A scenario of `load`, or connect, idle or storm; with its QoS and what carries it: tls, tls-resumed or ws
    #[arg(long = "scenario", value_name = "NAME[:QOS][:tls]", default_values = DEFAULT_SCENARIOS)]
    scenarios: Vec<Wanted>,
    /// How often each broker runs each scenario
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long to measure each
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long to work before measuring
    #[arg(long, default_value_t = 1.0)]
    warm_up_seconds: f64,
    /// Bytes of each message
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// How many clients connect, where that is the scenario
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// Messages a second of all publishers together, instead of as many as the windows let through
    #[arg(long)]
    rate: Option<u64>,
    /// Which MQTT to speak
    #[arg(long, value_enum, default_value_t = Version::V311)]
    version: Version,
    /// A folder with authority.pem, server.pem and server.key, for scenarios over TLS
    #[arg(long, value_name = "FOLDER")]
    certificates: Option<PathBuf>,
    /// Where brokers keep their data meanwhile; on a disk
    #[arg(long, default_value = "target/compare")]
    scratch: PathBuf,
    /// The brokers' processor core
    #[arg(long, default_value_t = 0)]
    broker_core: usize,
    /// The load's processor core
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Write each line of the table as a JSON object here, too
    #[arg(long, value_name = "FILE")]
    json_to: Option<PathBuf>,
    /// Draw the tables as bars, in an SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Those of the table that brokers are judged by.
const DEFAULT_SCENARIOS: [&str; 10] = [
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
];

/// A scenario as it is asked for.
#[derive(Debug, Clone)]
struct Wanted {
    /// As it was written.
    label: String,
    scenario: String,
    qos: u8,
    transport: Transport,
}

/// What MQTT is carried in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Transport {
    Tcp,
    /// With a full handshake each time.
    Tls,
    /// With sessions that are taken up again.
    TlsResumed,
    Ws,
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let scenario = parts.next().unwrap_or_default().to_owned();
        let mut wanted = Self { label: text.to_owned(), scenario, qos: 0, transport: Transport::Tcp };
        for part in parts {
            match part {
                "0" | "1" | "2" => wanted.qos = part.parse()?,
                "tls" => wanted.transport = Transport::Tls,
                "tls-resumed" => wanted.transport = Transport::TlsResumed,
                "ws" => wanted.transport = Transport::Ws,
                other => bail!("{other} instead of a QoS, tls, tls-resumed or ws"),
            }
        }
        let is_arrival = arrivals::NAMES.contains(&wanted.scenario.as_str());
        ensure!(
            wanted.transport != Transport::Ws || is_arrival,
            "load knows no WebSocket, but {:?} do",
            arrivals::NAMES
        );
        if !is_arrival {
            // Before any broker runs: a wrong name would be a row of failures.
            Scenario::named(&wanted.scenario).map_err(|error| anyhow!("{error}, {}", arrivals::NAMES.join(", ")))?;
        }
        Ok(wanted)
    }
}

impl Wanted {
    /// In words.
    fn title(&self) -> String {
        let mut name = self.scenario.replace('-', " ");
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let mut words = vec![name];
        if !self.is_arrival() {
            words.push(format!("QoS {}", self.qos));
        }
        words.extend(match self.transport {
            Transport::Tcp => None,
            Transport::Tls => Some("TLS".to_owned()),
            Transport::TlsResumed => Some("TLS, resumed".to_owned()),
            Transport::Ws => Some("WebSocket".to_owned()),
        });
        words.join(", ")
    }

    fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tls | Transport::TlsResumed)
    }

    fn is_arrival(&self) -> bool {
        arrivals::NAMES.contains(&self.scenario.as_str())
    }

    /// Where a broker is to be reached.
    fn target(&self, running: &Running, identity: Option<&Identity>) -> Result<Target> {
        match (self.transport, identity) {
            (Transport::Tcp, _) => Target::new(running.plain, None, false),
            (Transport::Ws, _) => Target::new(running.web_socket, None, false),
            (transport, Some(identity)) => {
                Target::new(running.tls, Some(&identity.authority()), transport == Transport::TlsResumed)
            }
            (_, None) => bail!("TLS needs --certificates"),
        }
    }
}

/// Runs everything and prints the tables.
///
/// # Errors
/// When TLS has no certificates, or a file cannot be written. What a broker fails at is in the tables.
pub(crate) fn run(options: &Options) -> Result<()> {
    process::bind_to_core(options.load_core)?;
    let identity = options.certificates.as_ref().map(|folder| folder.canonicalize().map(Identity)).transpose()?;
    let needs_identity = options.scenarios.iter().any(Wanted::is_tls);
    ensure!(!needs_identity || identity.is_some(), "TLS needs --certificates");
    std::fs::create_dir_all(&options.scratch)?;
    let mut json = options.json_to.as_ref().map(File::create).transpose().context("cannot write the JSON lines")?;
    let (arrivals, messages): (Vec<&Wanted>, Vec<&Wanted>) =
        options.scenarios.iter().partition(|wanted| wanted.is_arrival());
    let mut sections = Vec::new();
    for (scenarios, is_arrival) in [(messages, false), (arrivals, true)] {
        if scenarios.is_empty() {
            continue;
        }
        let bench = Bench { options, scenarios, identity: identity.as_ref() };
        let report = if is_arrival { arrivals::run(&bench)? } else { messages::run(&bench)? };
        if let Some(file) = &mut json {
            report.json.iter().try_for_each(|line| writeln!(file, "{line}"))?;
        }
        sections.push(report.section);
    }
    if let Some(path) = &options.plot {
        plot::write(path, &chart(options, sections).draw())?;
    }
    Ok(())
}

fn chart(options: &Options, sections: Vec<bars::Section>) -> bars::Chart {
    let mut subtitle = vec!["one core for each broker".to_owned()];
    if options.scenarios.iter().any(|wanted| !wanted.is_arrival()) {
        let bytes = options.payload;
        subtitle.push(match options.rate {
            Some(rate) => format!("{} messages of {bytes} bytes a second", plot::shown(rate as f64)),
            None => format!("messages of {bytes} bytes"),
        });
    }
    subtitle.push(match options.version {
        Version::V311 => "MQTT 3.1.1".to_owned(),
        Version::V5 => "MQTT 5.0".to_owned(),
    });
    subtitle.push(match options.rounds {
        1 => "one round".to_owned(),
        rounds => format!("medians of {rounds} rounds"),
    });
    bars::Chart { title: "MQTT brokers side by side".to_owned(), subtitle: subtitle.join("; "), sections }
}

/// What came of the scenarios of one kind.
struct Report {
    /// A line for each row of the tables.
    json: Vec<String>,
    /// The same, to be drawn.
    section: bars::Section,
}

/// What is needed to measure scenarios of one kind.
struct Bench<'a> {
    options: &'a Options,
    scenarios: Vec<&'a Wanted>,
    identity: Option<&'a Identity>,
}

/// The runs of one broker in one scenario.
struct Runs<'a, T> {
    wanted: &'a Wanted,
    peer: &'a Peer,
    runs: Vec<Result<T>>,
}

impl<'a> Bench<'a> {
    /// Lets the brokers take turns in every scenario, round by round; grouped by scenario.
    fn rounds<T>(
        &self,
        measure: impl Fn(&Wanted, &Running, Target) -> Result<T>,
        shown: impl Fn(&T) -> String,
    ) -> Vec<Vec<Runs<'a, T>>> {
        let runs_of = |wanted: &&'a Wanted| {
            let runs_of = |peer| Runs { wanted, peer, runs: Vec::new() };
            self.options.brokers.iter().map(runs_of).collect::<Vec<_>>()
        };
        let mut all: Vec<Vec<Runs<'a, T>>> = self.scenarios.iter().map(runs_of).collect();
        for round in 1..=self.options.rounds {
            for runs in all.iter_mut().flatten() {
                let result = self
                    .start(runs.peer)
                    .and_then(|running| measure(runs.wanted, &running, runs.wanted.target(&running, self.identity)?));
                let line = result.as_ref().map_or_else(|error| format!("{error:#}"), &shown);
                eprintln!("round {round}, {}, {}: {line}", runs.wanted.label, runs.peer.name);
                runs.runs.push(result);
            }
        }
        all
    }

    fn start(&self, peer: &Peer) -> Result<Running> {
        let options = self.options;
        Running::start(peer, &options.scratch, self.identity, options.broker_core, options.load_core)
    }
}

impl<T> Runs<'_, T> {
    fn good(&self) -> impl Iterator<Item = &T> {
        self.runs.iter().filter_map(|run| run.as_ref().ok())
    }

    fn spread(&self, figure: impl Fn(&T) -> f64) -> Spread {
        Spread::of(self.good().map(figure).collect())
    }

    /// The figures as bars; where every run failed, none.
    fn bars(&self, colour: usize, figures: Vec<Option<Spread>>, faults: u64) -> bars::Row {
        let mut notes: Vec<String> = self.failure().into_iter().collect();
        if faults > 0 {
            notes.push(format!("{faults} faults"));
        }
        let has_figures = self.good().next().is_some();
        bars::Row {
            name: self.peer.name.clone(),
            colour,
            is_own: self.peer.is_causeway(),
            figures: figures
                .into_iter()
                .map(|figure| figure.filter(|figure| has_figures && figure.median.is_finite()))
                .collect(),
            note: notes.join("; "),
        }
    }

    /// Why a run has no figures.
    fn failure(&self) -> Option<String> {
        self.runs.iter().find_map(|run| run.as_ref().err()).map(|error| format!("{error:#}"))
    }
}

/// A row's figure as a multiple of the least of the others in the scenario; none where there is no other.
fn to_best_peer(own: usize, figures: &[Option<f64>]) -> Option<f64> {
    let others = figures.iter().enumerate().filter(|(other, _)| *other != own);
    let best = others.filter_map(|(_, figure)| *figure).reduce(f64::min)?;
    Some((*figures.get(own)?)? / best)
}

fn shown_ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_may_have_a_qos_and_tls() {
        let wanted: Wanted = "fan-in:1:tls".parse().unwrap();
        assert_eq!((wanted.scenario.as_str(), wanted.qos, wanted.is_tls()), ("fan-in", 1, true));
        assert_eq!("fan-in".parse::<Wanted>().unwrap().qos, 0);
        assert!("fan-in:3".parse::<Wanted>().is_err());
        assert!("fan-in:ws".parse::<Wanted>().is_err());
        assert!("idle:ws".parse::<Wanted>().is_ok_and(|wanted| wanted.is_arrival()));
        assert!("fan-in:1:quick".parse::<Wanted>().is_err());
        assert!("fanin:1".parse::<Wanted>().is_err());
    }

    #[test]
    fn a_broker_is_related_to_the_best_of_the_others() {
        let figures = [Some(1.0), Some(2.0), None];
        assert_eq!(to_best_peer(0, &figures), Some(0.5));
        assert_eq!(to_best_peer(1, &figures), Some(2.0));
        assert_eq!(to_best_peer(2, &figures), None);
        assert_eq!(to_best_peer(0, &figures[..1]), None);
    }
}
