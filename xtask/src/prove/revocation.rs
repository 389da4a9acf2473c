//! The proof of `revocation`: who loses its right loses its connection within a second, on every transport, and gets no other.
//!
//! Owns who is connected, how each is revoked, the threshold and the table.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::fleet::{Authority, Broker, Certified, Hello, Session, vin};
use crate::daemon::Transport;
use crate::table;
use crate::workspace::{Profile, Workspace};

/// What is promised.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
const PASSWORD: &str = "correct horse battery staple";
/// What a client is told whose right has gone.
const NOT_AUTHORIZED: u8 = 0x87;
/// The same, and a wrong password, in either version.
const REFUSALS: [u8; 4] = [0x86, 0x87, 4, 5];

/// Somebody who is connected, and how to come back.
struct Client {
    transport: Transport,
    level: u8,
    client_id: String,
    /// With TLS.
    certified: Option<Certified>,
    /// Without.
    user: Option<String>,
}

/// What became of one of them.
struct Row {
    how: &'static str,
    transport: Transport,
    level: u8,
    closed_after: Duration,
    told: Option<u8>,
    next: String,
    resumed: String,
}

impl Client {
    fn hello(&self) -> Hello<'_> {
        let user = self.user.as_deref().map(|name| (name, PASSWORD));
        Hello { client_id: &self.client_id, user, level: self.level }
    }

    fn come(&self, broker: &Broker) -> Result<Session> {
        let mut session = broker.dial(self.transport, self.certified.as_ref())?;
        let reason = session.connect(self.hello())?;
        ensure!(reason == 0, "{} over {}: CONNACK {reason:#x}", self.client_id, self.transport.word());
        Ok(session)
    }

    /// How the next connection is refused that begins anew.
    fn come_again(&self, broker: &Broker) -> Result<String> {
        let certified = self.certified.as_ref().map(Certified::forgetful);
        let outcome =
            broker.dial(self.transport, certified.as_ref()).and_then(|mut session| session.connect(self.hello()));
        match outcome {
            Ok(reason) => {
                ensure!(REFUSALS.contains(&reason), "the next connection got CONNACK {reason:#x}");
                Ok(format!("CONNACK {reason:#04x}"))
            }
            Err(_) if self.certified.is_some() => Ok("TLS alert".to_owned()),
            Err(error) => Err(error),
        }
    }

    /// How the next connection is refused that resumes its TLS session.
    fn resume(&self, broker: &Broker) -> Result<String> {
        let Some(certified) = &self.certified else {
            return Ok("-".to_owned());
        };
        let mut session = broker.dial(self.transport, Some(certified))?;
        let reason = session.connect(self.hello()).context("a resumed session was not answered")?;
        ensure!(session.is_resumed(), "the TLS session was not resumed");
        ensure!(REFUSALS.contains(&reason), "a resumed session got CONNACK {reason:#x}");
        Ok(format!("resumed, CONNACK {reason:#04x}"))
    }
}

/// Revokes and prints the figures. `full` does so more often, with the release build.
///
/// # Errors
/// When something cannot be started, or the broker breaks the promise.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let (profile, rounds) = if full { (Profile::Release, 20) } else { (Profile::Dev, 2) };
    let program = workspace.build("causeway-broker", "causewayd", profile)?;
    let authority = Authority::new("fleet")?;
    let prepare = |folder: &Path| {
        let (certificate, key, _) = authority.server()?;
        std::fs::write(folder.join("server.crt"), certificate)?;
        std::fs::write(folder.join("server.key"), key)?;
        std::fs::write(folder.join("ca.crt"), authority.pem())?;
        std::fs::write(folder.join("crl.pem"), authority.revocations(&[])?)?;
        Ok(std::fs::write(folder.join("users"), "")?)
    };
    let mut broker = Broker::start(workspace, program, "revocation", &Transport::ALL, true, prepare)?;
    let mut rows = Vec::new();
    let mut revoked = Vec::new();
    for round in 0..rounds {
        rows.extend(by_list(&broker, &authority, round, &mut revoked)?);
        rows.extend(by_user(&broker, round)?);
        rows.extend(by_state(&broker, &authority, round)?);
        broker.check_alive()?;
    }
    println!("broker log: {}\n", broker.log().display());
    println!("{}", figures(&rows));
    verdict(&rows)
}

/// Certificates that come onto the revocation list.
fn by_list(broker: &Broker, authority: &Authority, round: u32, revoked: &mut Vec<Vec<u8>>) -> Result<Vec<Row>> {
    let mut clients = Vec::new();
    for (number, (transport, level)) in
        [(Transport::Tls, 5), (Transport::Tls, 4), (Transport::Wss, 5), (Transport::Wss, 4)].into_iter().enumerate()
    {
        let client_id = vin(round * 10 + number as u32);
        let certified = Some(authority.client(&format!("urn:vin:{client_id}"), authority)?);
        clients.push(Client { transport, level, client_id, certified, user: None });
    }
    let other = authority.client("urn:causeway:service:untouched", authority)?;
    let mut untouched = broker.dial(Transport::Tls, Some(&other))?;
    let hello = Hello { client_id: "untouched", user: None, level: 5 };
    ensure!(untouched.connect(hello)? == 0, "who is not revoked could not connect");
    revoked.extend(clients.iter().filter_map(|client| client.certified.as_ref()).map(|client| client.serial.clone()));
    let list = authority.revocations(&revoked.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let rows = revoke(broker, "revocation list", &clients, || broker.replace("crl.pem", &list))?;
    untouched.ping().context("who was not revoked is gone, too")?;
    Ok(rows)
}

/// Vehicles that are suspended in the registry.
fn by_state(broker: &Broker, authority: &Authority, round: u32) -> Result<Vec<Row>> {
    let mut clients = Vec::new();
    for (number, transport) in Transport::ALL.into_iter().enumerate() {
        let client_id = vin(200_000 + round * 10 + number as u32);
        let is_encrypted = matches!(transport, Transport::Tls | Transport::Wss);
        let certified =
            is_encrypted.then(|| authority.client(&format!("urn:vin:{client_id}"), authority)).transpose()?;
        let user = (!is_encrypted).then(|| format!("vehicle:{client_id}"));
        clients.push(Client { transport, level: 5, client_id, certified, user });
    }
    add_users(broker, &clients)?;
    revoke(broker, "vehicle suspended", &clients, || {
        clients
            .iter()
            .try_for_each(|client| broker.run(&["vehicle", "suspend", &client.client_id, "--config", "causeway.toml"]))
    })
}

/// Users who are removed from the password file, then SIGHUP.
fn by_user(broker: &Broker, round: u32) -> Result<Vec<Row>> {
    let mut clients = Vec::new();
    for (number, (transport, level)) in
        [(Transport::Tcp, 5), (Transport::Tcp, 4), (Transport::Ws, 5), (Transport::Ws, 4)].into_iter().enumerate()
    {
        let client_id = vin(100_000 + round * 10 + number as u32);
        let user = format!("vehicle:{client_id}");
        clients.push(Client { transport, level, client_id, certified: None, user: Some(user) });
    }
    add_users(broker, &clients)?;
    revoke(broker, "user removed", &clients, || {
        for user in clients.iter().filter_map(|client| client.user.as_deref()) {
            broker.run(&["passwd", "users", "remove", user])?;
        }
        broker.hang_up()
    })
}

/// Makes users of them. The broker reads its users in its own time.
fn add_users(broker: &Broker, clients: &[Client]) -> Result<()> {
    for user in clients.iter().filter_map(|client| client.user.as_deref()) {
        broker.run_with(&["passwd", "users", "add", user, "--no-scram", "--password-stdin"], PASSWORD)?;
    }
    broker.hang_up()?;
    let deadline = Instant::now() + super::fleet::DEADLINE;
    for client in clients {
        while client.come(broker).is_err() {
            ensure!(Instant::now() < deadline, "{} cannot log in", client.client_id);
        }
    }
    Ok(())
}

/// Connects all, revokes them, and sees what becomes of each.
fn revoke(
    broker: &Broker,
    how: &'static str,
    clients: &[Client],
    revoke: impl FnOnce() -> Result<()>,
) -> Result<Vec<Row>> {
    let sessions = clients.iter().map(|client| client.come(broker)).collect::<Result<Vec<_>>>()?;
    let waiting: Vec<_> = sessions
        .into_iter()
        .map(|mut session| thread::spawn(move || session.closed().map(|told| (told, Instant::now()))))
        .collect();
    let began = Instant::now();
    revoke()?;
    let mut rows = Vec::new();
    for (client, waiting) in clients.iter().zip(waiting) {
        let (told, closed) = waiting.join().ok().context("a client panicked")??;
        rows.push(Row {
            how,
            transport: client.transport,
            level: client.level,
            closed_after: closed.duration_since(began),
            told,
            next: client.come_again(broker)?,
            resumed: client.resume(broker)?,
        });
    }
    Ok(rows)
}

fn figures(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let told = row.told.map_or("-".to_owned(), |reason| format!("DISCONNECT {reason:#04x}"));
        let version = if row.level == 5 { "5.0" } else { "3.1.1" };
        let milliseconds = format!("{:.0}", row.closed_after.as_secs_f64() * 1000.0);
        let words = [row.how, row.transport.word(), version].map(str::to_owned);
        words.into_iter().chain([milliseconds, told, row.next.clone(), row.resumed.clone()]).collect()
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::render(
        &["revoked by", "transport", "MQTT", "closed after, ms", "told", "next connection", "TLS session resumed"],
        &rows,
    )
}

fn verdict(rows: &[Row]) -> Result<()> {
    let slowest = rows.iter().map(|row| row.closed_after).max().context("nobody was revoked")?;
    ensure!(slowest < CLOSED_WITHIN, "a revoked connection was open for {} ms", slowest.as_millis());
    let well_told = |row: &&Row| row.told == (row.level == 5).then_some(NOT_AUTHORIZED);
    let told = rows.iter().filter(well_told).count();
    ensure!(told == rows.len(), "{} of {} clients were not told 0x87", rows.len() - told, rows.len());
    println!(
        "holds: {} connections were closed at most {} ms after they were revoked, and got no other, resumed or not",
        rows.len(),
        slowest.as_millis()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(milliseconds: u64, level: u8, told: Option<u8>) -> Row {
        Row {
            how: "x",
            transport: Transport::Tls,
            level,
            closed_after: Duration::from_millis(milliseconds),
            told,
            next: String::new(),
            resumed: String::new(),
        }
    }

    #[test]
    fn late_and_silent_ends_fail() {
        assert!(verdict(&[row(999, 5, Some(0x87)), row(10, 4, None)]).is_ok());
        assert!(verdict(&[]).is_err());
        assert!(verdict(&[row(1000, 5, Some(0x87))]).is_err());
        assert!(verdict(&[row(10, 5, None)]).is_err());
        assert!(verdict(&[row(10, 5, Some(0x8B))]).is_err());
    }
}
