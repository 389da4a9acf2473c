//! The proof of `rotation`: certificates change under clients who publish, and none of them notices.
//!
//! Owns the load, what is changed while it runs, and the books. Clients are threads that publish for many connections in turn.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::CertificateDer;

use super::fleet::{Authority, Broker, DEADLINE, Hello, Session, vin};
use crate::daemon::Transport;
use crate::table;
use crate::workspace::{Profile, Workspace};

/// Threads of the load.
const WORKERS: usize = 4;
/// Between two messages of a client.
const PACE: Duration = Duration::from_millis(500);
/// Between two looks whether a new certificate is in force.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How much is done.
struct Size {
    profile: Profile,
    clients: u32,
    rotations: u32,
    /// Between two rotations.
    pause: Duration,
}

const QUICK: Size = Size { profile: Profile::Dev, clients: 1000, rotations: 5, pause: Duration::from_secs(1) };
const FULL: Size = Size { profile: Profile::Release, clients: 1000, rotations: 30, pause: Duration::from_secs(5) };

/// One client and what it has published.
struct Vehicle {
    vin: String,
    session: Session,
    acknowledged: u32,
}

/// What a thread of the load brings home.
struct Published {
    /// By VIN.
    acknowledged: HashMap<String, u32>,
    /// What went wrong: each is the end of a connection.
    lost: Vec<String>,
}

/// Rotates and prints the figures.
///
/// # Errors
/// When something cannot be started, or a client noticed.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let size = if full { FULL } else { QUICK };
    let program = workspace.build("causeway-broker", "causewayd", size.profile)?;
    let (first, second) = (Authority::new("fleet of last year")?, Authority::new("fleet of this year")?);
    let prepare = |folder: &Path| {
        let (certificate, key, _) = first.server()?;
        std::fs::write(folder.join("server.crt"), certificate)?;
        std::fs::write(folder.join("server.key"), key)?;
        std::fs::write(folder.join("ca.crt"), first.pem())?;
        Ok(std::fs::write(folder.join("crl.pem"), first.revocations(&[])? + &second.revocations(&[])?)?)
    };
    let mut broker = Broker::start(workspace, program, "rotation", &[Transport::Tls], false, prepare)?;

    let consumer = Consumer::start(&broker, &first)?;
    let stop = Arc::new(AtomicBool::new(false));
    let workers = start_load(&broker, &first, size.clients, &stop)?;
    let mut slowest = Duration::ZERO;
    let mut tried = 0;
    for round in 1..=size.rotations {
        let rotated = rotate(&broker, &first, &second, round).with_context(|| format!("rotation {round}"))?;
        slowest = slowest.max(rotated.in_force_after);
        tried += rotated.connections;
        broker.check_alive()?;
        thread::sleep(size.pause);
    }
    stop.store(true, Ordering::Relaxed);
    let mut published = Published { acknowledged: HashMap::new(), lost: Vec::new() };
    for worker in workers {
        let one = worker.join().ok().context("a thread of the load panicked")?;
        published.acknowledged.extend(one.acknowledged);
        published.lost.extend(one.lost);
    }
    let received = consumer.finish(&published.acknowledged)?;
    println!("broker log: {}\n", broker.log().display());
    verdict(&size, &published, &received, slowest, tried)
}

/// Connects all clients, and has threads publish for them.
fn start_load(
    broker: &Broker,
    authority: &Authority,
    clients: u32,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<JoinHandle<Published>>> {
    let mut shares: Vec<Vec<Vehicle>> = (0..WORKERS).map(|_| Vec::new()).collect();
    for number in 0..clients {
        let vin = vin(number);
        let certified = authority.client(&format!("urn:vin:{vin}"), authority)?;
        let mut session = broker.dial(Transport::Tls, Some(&certified))?;
        let reason = session.connect(Hello { client_id: &vin, user: None, level: 5 })?;
        ensure!(reason == 0, "vehicle {vin} got CONNACK {reason:#x}");
        shares[number as usize % WORKERS].push(Vehicle { vin, session, acknowledged: 0 });
    }
    let start = |vehicles| {
        let stop = stop.clone();
        thread::spawn(move || publish(vehicles, &stop))
    };
    Ok(shares.into_iter().map(start).collect())
}

fn publish(mut vehicles: Vec<Vehicle>, stop: &AtomicBool) -> Published {
    let mut published = Published { acknowledged: HashMap::new(), lost: Vec::new() };
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut alive = Vec::with_capacity(vehicles.len());
        let mut sent = Vec::with_capacity(vehicles.len());
        for mut vehicle in vehicles {
            let next = vehicle.acknowledged + 1;
            let id = (next % 0xFFFF) as u16 + 1;
            let outcome = vehicle.session.publish("telemetry", id, &next.to_be_bytes());
            sent.push((vehicle, id, outcome));
        }
        for (mut vehicle, id, outcome) in sent {
            match outcome.and_then(|()| vehicle.session.acknowledged(id)) {
                Ok(()) => {
                    vehicle.acknowledged += 1;
                    alive.push(vehicle);
                }
                Err(error) => {
                    published.lost.push(format!("{}: {error:#}", vehicle.vin));
                    published.acknowledged.insert(vehicle.vin, vehicle.acknowledged);
                }
            }
        }
        vehicles = alive;
        thread::sleep(PACE.saturating_sub(began.elapsed()));
    }
    published.acknowledged.extend(vehicles.into_iter().map(|vehicle| (vehicle.vin, vehicle.acknowledged)));
    published
}

/// The service that wants all telemetry.
struct Consumer {
    thread: JoinHandle<()>,
    messages: mpsc::Receiver<(String, u32)>,
}

impl Consumer {
    fn start(broker: &Broker, authority: &Authority) -> Result<Consumer> {
        let certified = authority.client("urn:causeway:service:telemetry", authority)?;
        let mut session = broker.dial(Transport::Tls, Some(&certified))?;
        let reason = session.connect(Hello { client_id: "telemetry", user: None, level: 5 })?;
        ensure!(reason == 0, "the service got CONNACK {reason:#x}");
        session.subscribe("vehicles/+/telemetry")?;
        let (sender, messages) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Its end is noticed by what is missing then.
            while let Ok((topic, payload)) = session.message() {
                let number = payload.try_into().map_or(0, u32::from_be_bytes);
                let vin = topic.split('/').nth(1).unwrap_or_default().to_owned();
                if sender.send((vin, number)).is_err() {
                    return;
                }
            }
        });
        Ok(Consumer { thread, messages })
    }

    /// How many different messages came of each vehicle, once all came that were acknowledged, or nothing more does.
    fn finish(self, acknowledged: &HashMap<String, u32>) -> Result<HashMap<String, u32>> {
        let mut received: HashMap<String, Vec<u32>> = HashMap::new();
        let wanted: u64 = acknowledged.values().map(|count| u64::from(*count)).sum();
        let mut came = 0;
        while came < wanted {
            let Ok((vin, number)) = self.messages.recv_timeout(DEADLINE / 4) else {
                break;
            };
            let numbers = received.entry(vin).or_default();
            if !numbers.contains(&number) {
                numbers.push(number);
                came += 1;
            }
        }
        drop(self.messages);
        drop(self.thread);
        Ok(received.into_iter().map(|(vin, numbers)| (vin, numbers.len() as u32)).collect())
    }
}

/// What came of one rotation.
struct Rotated {
    in_force_after: Duration,
    connections: u32,
}

/// Changes everything: the server's certificate, which authorities are trusted, and who is revoked. With every third, SIGHUP comes, too.
fn rotate(broker: &Broker, first: &Authority, second: &Authority, round: u32) -> Result<Rotated> {
    let (certificate, key, expected) = first.server()?;
    let began = Instant::now();
    // In any order: until both are there, they do not go together, and the old ones stay.
    let (earlier, later) =
        [(("server.key", &key), ("server.crt", &certificate)), (("server.crt", &certificate), ("server.key", &key))]
            [round as usize % 2];
    broker.replace(earlier.0, earlier.1)?;
    broker.replace(later.0, later.1)?;
    let is_of_both = round % 2 == 1;
    broker
        .replace("ca.crt", &if is_of_both { [first.pem(), second.pem()].concat() } else { first.pem().to_owned() })?;
    let stranger = first.client("urn:causeway:service:stranger", first)?;
    broker.replace("crl.pem", &(first.revocations(&[&stranger.serial])? + &second.revocations(&[])?))?;
    if round.is_multiple_of(3) {
        broker.hang_up()?;
    }
    let of_first = first.client("urn:causeway:service:first", first)?;
    let of_second = second.client("urn:causeway:service:second", first)?;
    let deadline = began + DEADLINE;
    let mut connections = 0;
    let in_force_after = loop {
        connections += 1;
        let (reason, shown) = visit(broker, &of_first, "first")?;
        ensure!(reason == 0, "a new connection got CONNACK {reason:#x}");
        if shown.as_ref() == Some(&expected) {
            break began.elapsed();
        }
        ensure!(Instant::now() < deadline, "the new certificate is not used");
        thread::sleep(LOOK_EVERY);
    };
    // All files are read together, but they were not written together.
    loop {
        connections += 2;
        let others = visit(broker, &of_second, "second").is_ok_and(|(reason, _)| reason == 0);
        let revoked = visit(broker, &stranger, "stranger").is_ok_and(|(reason, _)| reason == 0);
        if others == is_of_both && !revoked {
            return Ok(Rotated { in_force_after, connections });
        }
        ensure!(Instant::now() < deadline, "of the other authority: let in {others}; revoked: let in {revoked}");
        thread::sleep(LOOK_EVERY);
    }
}

/// A short visit with a TLS session of its own: the CONNACK, and the certificate that the server has shown.
fn visit(
    broker: &Broker,
    client: &super::fleet::Certified,
    client_id: &str,
) -> Result<(u8, Option<CertificateDer<'static>>)> {
    let mut session = broker.dial(Transport::Tls, Some(&client.forgetful()))?;
    let reason = session.connect(Hello { client_id, user: None, level: 5 })?;
    Ok((reason, session.server_certificate().cloned()))
}

fn verdict(
    size: &Size,
    published: &Published,
    received: &HashMap<String, u32>,
    slowest: Duration,
    tried: u32,
) -> Result<()> {
    let count = |of: &HashMap<String, u32>| of.values().map(|count| u64::from(*count)).sum::<u64>();
    let missing: u64 = published
        .acknowledged
        .iter()
        .map(|(vin, count)| u64::from(count.saturating_sub(received.get(vin).copied().unwrap_or(0))))
        .sum();
    let rows = [
        ("TLS clients that publish", size.clients.to_string()),
        ("rotations", size.rotations.to_string()),
        ("connections made meanwhile", tried.to_string()),
        ("a new certificate in force after, ms, max", format!("{:.0}", slowest.as_secs_f64() * 1000.0)),
        ("messages acknowledged", count(&published.acknowledged).to_string()),
        ("messages delivered", count(received).to_string()),
        ("messages lost", missing.to_string()),
        ("clients disconnected", published.lost.len().to_string()),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    println!("{}", table::render(&["causeway", "figure"], &rows));
    if let Some(first) = published.lost.first() {
        anyhow::bail!("{} clients were disconnected, such as {first}", published.lost.len());
    }
    ensure!(missing == 0, "{missing} acknowledged messages were not delivered");
    let quiet = published.acknowledged.values().filter(|count| **count == 0).count();
    ensure!(quiet == 0, "{quiet} clients published nothing");
    println!("holds: {} rotations, and no client noticed", size.rotations);
    Ok(())
}
