//! The proof of `storm`: vehicles with certificates drop and come back all at once.
//!
//! Owns the vehicles' certificates, the order of events and the bounds. The load itself is `causeway-bench storm`, whose processes are
//! nicer than the broker and than `storm-control`, which measures: what is shown is the broker's, as far as one machine can.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::daemon::{Daemon, Data, Product, Setup, Transport};
use crate::process;
use crate::table;
use crate::workspace::{Profile, Workspace};

/// How large it is, and what must be reached.
struct Scale {
    vehicles: usize,
    /// Of them, so many do not come back, which shows that wills work.
    leavers: usize,
    processes: usize,
    will_delay_seconds: u64,
    quiet_seconds: u64,
}

const QUICK: Scale = Scale { vehicles: 500, leavers: 5, processes: 1, will_delay_seconds: 10, quiet_seconds: 4 };
const FULL: Scale = Scale { vehicles: 10_000, leavers: 50, processes: 2, will_delay_seconds: 90, quiet_seconds: 15 };

/// Vehicles that are connected all the time.
const CONTROL: usize = 20;
/// During a storm, p99 of those who are connected may be so many times what it is without one, or [`P99_MS_MAX`] where that is more.
const P99_FACTOR_MAX: f64 = 10.0;
/// What a person does not notice.
const P99_MS_MAX: f64 = 100.0;

/// A round of one load process.
#[derive(Debug, Deserialize)]
struct Round {
    vehicles: u64,
    refused: u64,
    broken: u64,
    lost: u64,
    seconds: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    latency_ms_max: f64,
}

/// What those noticed who were connected.
#[derive(Debug, Deserialize)]
struct Noticed {
    sent: u64,
    received: u64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    latency_ms_max: f64,
    wills_due: u64,
    wills_false: u64,
}

/// All that was measured.
struct Outcome {
    arrival: Vec<Round>,
    storm: Vec<Round>,
    takeover: Vec<Round>,
    quiet: Noticed,
    in_storm: Noticed,
    after_storm: Noticed,
    in_takeover: Noticed,
    after_takeover: Noticed,
    storm_cpu_seconds: f64,
    resident_bytes: u64,
}

/// Has them come, drop and come back, and come back while their old connections are still there; prints what that was for the others.
///
/// # Errors
/// When something cannot be started, or the figures fall short.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let scale = if full { &FULL } else { &QUICK };
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let folder = TempDir::with_prefix_in("storm-", workspace.scratch("daemon-data")?)?;
    let fleet = Fleet::create(folder.path(), scale)?;
    let target = free_address()?;
    let daemon = start(workspace, &fleet, target)?;
    let outcome = run(scale, &bench, &fleet, target, daemon)?;
    println!("{}", figures(scale, &outcome));
    verdict(scale, &outcome)
}

fn start(workspace: &Workspace, fleet: &Fleet, target: SocketAddr) -> Result<Daemon> {
    let (authority, server, key) = (fleet.authority.display(), fleet.server.display(), fleet.server_key.display());
    // The patience of vehicles; the default is for clients that are not so many.
    let sections = format!(
        "[registry]\nunknown_vehicles = \"allow\"\n[[listener]]\nname = \"vehicles\"\nbind = \"{target}\"\ntransport = \"tls\"\n\
         anonymous = \"never\"\nconnect_timeout_seconds = 60\n[listener.tls]\ncertificate_file = \"{server}\"\nkey_file = \"{key}\"\n\
         client_ca_file = \"{authority}\"\nclient_certificate = \"required\"\n"
    );
    let daemon = Daemon::start(
        workspace,
        &Setup {
            product: Product::Causeway,
            profile: Profile::Release,
            purpose: "storm",
            transports: &[Transport::Tcp],
            has_user: false,
            data: Data::Kept,
            limits: &sections,
        },
    )?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(target).is_err() {
        ensure!(Instant::now() < deadline, "nothing accepts at {target}");
        // Nothing announces an open port: ask again, gently.
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(daemon)
}

fn run(scale: &Scale, bench: &Path, fleet: &Fleet, target: SocketAddr, mut daemon: Daemon) -> Result<Outcome> {
    let backend = daemon.address(Transport::Tcp)?.to_string();
    let mut control = Load::start(bench, "storm-control", 0, fleet, &fleet.control, target, &["--backend", &backend])?;
    let _ready: Noticed = control.line()?;
    let delay = scale.will_delay_seconds.to_string();
    let starts = fleet
        .crowds
        .iter()
        .map(|crowd| Load::start(bench, "storm", 10, fleet, crowd, target, &["--will-delay-seconds", &delay]));
    let mut crowds = starts.collect::<Result<Vec<_>>>()?;

    let arrival = together(&mut crowds, "connect")?;
    let _arriving: Noticed = control.ask("arrival")?;
    pause(Duration::from_secs(scale.quiet_seconds));
    let quiet = control.ask("quiet")?;

    let (cpu_before, dropped) = (process::cpu_seconds(daemon.pid())?, Instant::now());
    let storm = together(&mut crowds, "storm")?;
    let storm_cpu_seconds = process::cpu_seconds(daemon.pid())? - cpu_before;
    let in_storm = control.ask("storm")?;
    let until_wills = Duration::from_secs(scale.will_delay_seconds + 2);
    pause(until_wills.saturating_sub(dropped.elapsed()));
    let after_storm = control.ask("after")?;

    let taken_over = Instant::now();
    let takeover = together(&mut crowds, "takeover")?;
    let in_takeover = control.ask("takeover")?;
    pause(until_wills.saturating_sub(taken_over.elapsed()));
    let after_takeover = control.ask("end")?;
    daemon.check_alive()?;
    let resident_bytes = process::resident_bytes(daemon.pid())?;
    crowds.into_iter().try_for_each(Load::finish)?;
    control.finish()?;
    Ok(Outcome {
        arrival,
        storm,
        takeover,
        quiet,
        in_storm,
        after_storm,
        in_takeover,
        after_takeover,
        storm_cpu_seconds,
        resident_bytes,
    })
}

/// What is measured here is a time.
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn figures(scale: &Scale, outcome: &Outcome) -> String {
    let came = scale.vehicles - scale.leavers;
    let mut rows = vec![
        ("vehicles, mutual TLS", scale.vehicles.to_string()),
        ("load processes, nice 10", scale.processes.to_string()),
        ("broker CPU in the storm, ms per vehicle", format!("{:.2}", outcome.storm_cpu_seconds * 1e3 / came as f64)),
        ("broker resident at the end, MB", format!("{:.1}", outcome.resident_bytes as f64 / 1e6)),
    ];
    let rounds =
        [("first arrival", &outcome.arrival), ("storm", &outcome.storm), ("takeover storm", &outcome.takeover)];
    let mut named = Vec::new();
    for (name, rounds) in rounds {
        let sum = |of: fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>();
        let max = |of: fn(&Round) -> f64| rounds.iter().map(of).fold(0.0, f64::max);
        named.push((format!("{name}: vehicles in"), sum(|round| round.vehicles).to_string()));
        named.push((format!("{name}: until all were in, s"), format!("{:.2}", max(|round| round.seconds))));
        let times = [max(|it| it.latency_ms_p50), max(|it| it.latency_ms_p99), max(|it| it.latency_ms_max)];
        named.push((format!("{name}: one's way in, p50/p99/max, ms"), shown(times)));
        let unlucky = [sum(|round| round.refused), sum(|round| round.broken), sum(|round| round.lost)];
        named.push((
            format!("{name}: refused/broken/lost connections"),
            unlucky.map(|count| count.to_string()).join("/"),
        ));
    }
    let noticed = [("quiet", &outcome.quiet), ("storm", &outcome.in_storm), ("takeover storm", &outcome.in_takeover)];
    for (name, noticed) in noticed {
        let times = [noticed.latency_ms_p50, noticed.latency_ms_p99, noticed.latency_ms_max];
        named.push((format!("those connected, {name}: messages"), noticed.received.to_string()));
        named.push((format!("those connected, {name}: latency p50/p99/max, ms"), shown(times)));
    }
    named.push(("wills of those who stayed away".to_owned(), outcome.wills_due().to_string()));
    named.push(("wills of those who came back or were taken over".to_owned(), outcome.wills_false().to_string()));
    let mut all: Vec<Vec<String>> = rows.drain(..).map(|(name, value)| vec![name.to_owned(), value]).collect();
    all.extend(named.into_iter().map(|(name, value)| vec![name, value]));
    table::render(&["storm", "figure"], &all)
}

fn shown(times: [f64; 3]) -> String {
    times.map(|time| format!("{time:.1}")).join(" / ")
}

impl Outcome {
    fn noticed(&self) -> [&Noticed; 5] {
        [&self.quiet, &self.in_storm, &self.after_storm, &self.in_takeover, &self.after_takeover]
    }

    fn wills_due(&self) -> u64 {
        self.noticed().iter().map(|noticed| noticed.wills_due).sum()
    }

    fn wills_false(&self) -> u64 {
        self.noticed().iter().map(|noticed| noticed.wills_false).sum()
    }
}

fn verdict(scale: &Scale, outcome: &Outcome) -> Result<()> {
    let mut shortfalls = Vec::new();
    let came = (scale.vehicles - scale.leavers) as u64;
    for (name, rounds) in [("the storm", &outcome.storm), ("the takeover storm", &outcome.takeover)] {
        let vehicles: u64 = rounds.iter().map(|round| round.vehicles).sum();
        if vehicles < came {
            shortfalls.push(format!("{vehicles} of {came} vehicles in after {name}"));
        }
    }
    let bound = (outcome.quiet.latency_ms_p99 * P99_FACTOR_MAX).max(P99_MS_MAX);
    for (name, noticed) in [("the storm", &outcome.in_storm), ("the takeover storm", &outcome.in_takeover)] {
        if noticed.latency_ms_p99 > bound {
            let p99 = noticed.latency_ms_p99;
            shortfalls.push(format!("p99 of those connected is {p99:.1} ms in {name}, and may be {bound:.1}"));
        }
    }
    let (sent, received) = outcome
        .noticed()
        .iter()
        .fold((0, 0), |(sent, received), noticed| (sent + noticed.sent, received + noticed.received));
    // What is on its way while it is asked counts in the next one.
    if received + 50 < sent {
        shortfalls.push(format!("{received} of {sent} messages of those connected received"));
    }
    if outcome.wills_false() > 0 {
        shortfalls.push(format!("{} wills of vehicles that came back", outcome.wills_false()));
    }
    if outcome.wills_due() != scale.leavers as u64 {
        shortfalls.push(format!("{} wills of {} vehicles that stayed away", outcome.wills_due(), scale.leavers));
    }
    if !shortfalls.is_empty() {
        bail!("falls short: {}", shortfalls.join("; "));
    }
    println!(
        "holds: {came} vehicles came back at once, twice; no false will; p99 of those connected within {bound:.0} ms"
    );
    Ok(())
}

/// The files of some vehicles.
struct Files {
    certificates: PathBuf,
    vins: PathBuf,
}

/// Everybody's certificates, in files.
struct Fleet {
    authority: PathBuf,
    server: PathBuf,
    server_key: PathBuf,
    /// The one key of all vehicles: what it costs to use it is the same.
    key: PathBuf,
    control: Files,
    crowds: Vec<Files>,
}

impl Fleet {
    fn create(folder: &Path, scale: &Scale) -> Result<Fleet> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.distinguished_name.push(DnType::CommonName, "Causeway test authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let mut server = CertificateParams::new(vec!["localhost".to_owned()])?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (server_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let server = server.signed_by(&server_key, &authority)?;
        let some = |name: &str, vins: Vec<String>| -> Result<Files> {
            let mut certificates = String::new();
            for vin in &vins {
                let mut vehicle = CertificateParams::new(Vec::new())?;
                vehicle.subject_alt_names = vec![SanType::URI(format!("urn:vin:{vin}").try_into()?)];
                vehicle.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                let _ = write!(certificates, "{}", vehicle.signed_by(&key, &authority)?.pem());
            }
            Ok(Files {
                certificates: file(folder, &format!("{name}.pem"), &certificates)?,
                vins: file(folder, &format!("{name}.vins"), &vins.join("\n"))?,
            })
        };
        let crowd = |process: usize| {
            let numbers = (0..scale.vehicles).filter(|number| number % scale.processes == process);
            // Those that stay away are named so.
            let vin = |number: usize| {
                let stays = number < scale.leavers;
                if stays { format!("CWLVR{number:012}") } else { format!("CWSTM{number:012}") }
            };
            some(&format!("crowd-{process}"), numbers.map(vin).collect())
        };
        Ok(Fleet {
            crowds: (0..scale.processes).map(crowd).collect::<Result<_>>()?,
            control: some("control", (0..CONTROL).map(|number| format!("CWCTR{number:012}")).collect())?,
            authority: file(folder, "authority.pem", &authority.pem())?,
            server: file(folder, "server.pem", &server.pem())?,
            server_key: file(folder, "server.key", &server_key.serialize_pem())?,
            key: file(folder, "vehicle.key", &key.serialize_pem())?,
        })
    }
}

fn file(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A load process; killed and reaped when dropped.
struct Load {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Load {
    fn start(
        bench: &Path,
        scenario: &str,
        niceness: u8,
        fleet: &Fleet,
        vehicles: &Files,
        target: SocketAddr,
        more: &[&str],
    ) -> Result<Load> {
        let script = r#"ulimit -n "$(ulimit -H -n)" 2>/dev/null; exec nice -n "$0" "$@""#;
        let mut child = Command::new("sh")
            .args(["-c", script, &niceness.to_string()])
            .arg(bench)
            .args([scenario, "--json", "--target", &target.to_string()])
            .arg("--tls")
            .arg(&fleet.authority)
            .arg("--key")
            .arg(&fleet.key)
            .arg("--certificates")
            .arg(&vehicles.certificates)
            .arg("--vins")
            .arg(&vehicles.vins)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start causeway-bench")?;
        let output = BufReader::new(child.stdout.take().context("causeway-bench has no output")?);
        Ok(Load { input: child.stdin.take(), child, output })
    }

    fn say(&mut self, command: &str) -> Result<()> {
        let input = self.input.as_mut().context("causeway-bench has no input")?;
        writeln!(input, "{command}").context("causeway-bench ended early")
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "causeway-bench ended early");
        serde_json::from_str(&line).with_context(|| format!("causeway-bench said {line}"))
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        self.say(command)?;
        self.line()
    }

    fn finish(mut self) -> Result<()> {
        self.input = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "causeway-bench failed: {status}");
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Already ended is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells all of them at once, and waits for all.
fn together(loads: &mut [Load], command: &str) -> Result<Vec<Round>> {
    loads.iter_mut().try_for_each(|load| load.say(command))?;
    loads.iter_mut().map(Load::line).collect()
}
