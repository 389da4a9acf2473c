//! The proof of `stale-unlock`: a vehicle that was locked by hand is not unlocked again by a wish that was fulfilled before.
//!
//! Owns the stories, who plays the vehicle, the count of unlocks, and the table. The vehicle does what every delta says, the moment it comes,
//! and remembers nothing but its doors: whatever keeps it from unlocking twice is the broker's. Only in the story where its report is lost,
//! and it cannot have told anybody that it unlocked, it looks at the number of a delta.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::fleet::{DEADLINE, vin};
use super::garage::Garage;
use super::puppets::{Backend, Delta, OfSdk, Plain, Vehicle};
use super::shadow_aws::Sdk;
use crate::table;
use crate::workspace::Workspace;

const UNLOCKED: &str = "unlocked";
const LOCKED: &str = "locked";
/// A wish that is to be too old soon.
const TTL: Duration = Duration::from_secs(1);

/// Who plays the vehicle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Player {
    /// MQTT 5, with a session that is kept, or with none.
    Plain { is_kept: bool },
    /// The AWS IoT device SDK: version of its shadow client, and of MQTT.
    Sdk(&'static str, &'static str),
}

const PLAYERS: [Player; 4] = [
    Player::Plain { is_kept: true },
    Player::Plain { is_kept: false },
    Player::Sdk("1", "3.1.1"),
    Player::Sdk("2", "5"),
];

impl Player {
    fn name(self) -> String {
        match self {
            Player::Plain { is_kept: true } => "MQTT 5, session kept".to_owned(),
            Player::Plain { is_kept: false } => "MQTT 5, session new each time".to_owned(),
            Player::Sdk(client, mqtt) => format!("awsiotsdk, client v{client}, MQTT {mqtt}"),
        }
    }
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plot {
    /// Unlocked, reported, locked by hand, reported.
    Reported,
    /// The connection went with the report of the unlocking, but not with the word that the delta was handled.
    Acknowledged,
    /// It went with both.
    Lost,
    /// The vehicle was away while many things were wished.
    Away,
    /// It was away until the wish was too old.
    Expired,
    /// The broker was, too.
    ExpiredInTheDark,
    /// As the first, and it is the broker that goes, under an open connection.
    Killed,
    /// As the first, and then somebody wishes it once more.
    Again,
}

const PLOTS: [Plot; 8] = [
    Plot::Reported,
    Plot::Acknowledged,
    Plot::Lost,
    Plot::Away,
    Plot::Expired,
    Plot::ExpiredInTheDark,
    Plot::Killed,
    Plot::Again,
];

impl Plot {
    fn name(self) -> &'static str {
        match self {
            Plot::Reported => "unlocked, reported, locked by hand",
            Plot::Acknowledged => "report lost, delta acknowledged",
            Plot::Lost => "report and acknowledgement lost",
            Plot::Away => "wished thrice while away",
            Plot::Expired => "too old while away",
            Plot::ExpiredInTheDark => "too old while the broker was down",
            Plot::Killed => "broker killed under the connection",
            Plot::Again => "wished again after it was locked",
        }
    }

    /// How often the doors are to unlock.
    fn unlocks(self) -> u32 {
        match self {
            Plot::Expired | Plot::ExpiredInTheDark => 0,
            Plot::Reported | Plot::Acknowledged | Plot::Lost | Plot::Away | Plot::Killed => 1,
            Plot::Again => 2,
        }
    }

    /// Whether a vehicle can say in the SDK's words what it has to say here.
    fn is_for(self, player: Player) -> bool {
        !matches!((self, player), (Plot::Acknowledged | Plot::Lost, Player::Sdk(..)))
    }
}

/// What came of a story.
#[derive(Clone)]
struct Row {
    player: String,
    plot: Plot,
    /// How often the vehicle came back, and the broker was killed.
    flaps: u32,
    kills: u32,
    deltas: u32,
    unlocks: u32,
    /// Why it came to no end.
    broken: Option<String>,
}

/// Stories that are played one after the other, with a broker of their own: they kill it. Several are played at once.
struct Lane {
    player: Player,
    plots: Vec<Plot>,
}

/// Most of the time of some stories is the SDK's own patience before it connects again: they are not to keep others waiting.
fn lanes() -> Vec<Lane> {
    let waits = |player, plot| plot == Plot::Killed && matches!(player, Player::Sdk(..));
    let lanes = PLAYERS.into_iter().flat_map(|player| {
        let plots = PLOTS.into_iter().filter(|plot| plot.is_for(player));
        let (alone, plots) = plots.partition(|plot| waits(player, *plot));
        [plots, alone].map(|plots| Lane { player, plots })
    });
    lanes.filter(|lane| !lane.plots.is_empty()).collect()
}

/// Plays all stories, and prints the table. `full` has more of everything that may go wrong.
///
/// # Errors
/// When something cannot be installed or started, or doors unlock more or less often than somebody wanted.
pub(super) fn prove(workspace: &Workspace, full: bool) -> Result<()> {
    let sdk = Sdk::prepare(workspace)?;
    let program = Garage::build(workspace)?;
    // All are there before the first story: no other takes a port while its broker is down.
    let stages = lanes().into_iter().zip(1..).map(|(lane, number)| {
        let vins: Vec<String> = (1..).map(vin).take(lane.plots.len()).collect();
        let all: Vec<&str> = vins.iter().map(String::as_str).collect();
        let garage = Garage::start_built(workspace, program.clone(), &format!("stale-unlock-{number}"), &all, 1)?;
        Ok((lane, vins, garage))
    });
    let mut stages = stages.collect::<Result<Vec<_>>>()?;
    let played: Vec<Result<Vec<Row>>> = thread::scope(|scope| {
        let begun = stages.iter_mut().map(|(lane, vins, garage)| scope.spawn(|| play(&sdk, lane, vins, garage, full)));
        let threads: Vec<_> = begun.collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a story panicked"))).collect()
    });
    let rows = played.into_iter().collect::<Result<Vec<_>>>()?.concat();
    for (_, _, garage) in &stages {
        println!("broker log: {}", garage.log().display());
    }
    println!("\n{}", figures(&rows));
    verdict(&rows)
}

/// Plays the stories of one lane, each with a vehicle of its own.
fn play(sdk: &Sdk, lane: &Lane, vins: &[String], garage: &mut Garage, full: bool) -> Result<Vec<Row>> {
    let flaps = match (lane.player, full) {
        (Player::Plain { .. }, true) => 200,
        (Player::Plain { .. }, false) => 6,
        (Player::Sdk(..), true) => 10,
        // Each is a new program.
        (Player::Sdk(..), false) => 1,
    };
    let mut rows = Vec::new();
    for (plot, vin) in lane.plots.iter().copied().zip(vins) {
        let vehicle: Box<dyn Vehicle + '_> = match lane.player {
            Player::Plain { is_kept } => Box::new(Plain::new(vin, is_kept)),
            Player::Sdk(client, mqtt) => Box::new(OfSdk::new(sdk, vin, client, mqtt)),
        };
        let backend = Backend::connect(garage)?;
        let mut story = Story::new(garage, backend, vehicle, vin, flaps);
        let broken = story.play(plot).err().map(|error| format!("{error:#}"));
        story.garage.check_alive()?;
        let Story { came, kills, deltas, unlocks, .. } = story;
        rows.push(Row { player: lane.player.name(), plot, flaps: came, kills, deltas, unlocks, broken });
    }
    Ok(rows)
}

/// A vehicle, its owner, and those who wish things of it.
struct Story<'a> {
    garage: &'a mut Garage,
    backend: Backend,
    vehicle: Box<dyn Vehicle + 'a>,
    vin: &'a str,
    /// How often the connection is to flap.
    flaps: u32,
    doors: &'static str,
    /// The largest delta that the vehicle handled: only for a vehicle that looks at it.
    handled: Option<u64>,
    /// So many other things were wished.
    wishes: u32,
    came: u32,
    kills: u32,
    deltas: u32,
    unlocks: u32,
}

impl<'a> Story<'a> {
    fn new(
        garage: &'a mut Garage,
        backend: Backend,
        vehicle: Box<dyn Vehicle + 'a>,
        vin: &'a str,
        flaps: u32,
    ) -> Story<'a> {
        let (doors, handled) = (LOCKED, None);
        let (wishes, came, kills, deltas, unlocks) = (0, 0, 0, 0, 0);
        Story { garage, backend, vehicle, vin, flaps, doors, handled, wishes, came, kills, deltas, unlocks }
    }

    fn play(&mut self, plot: Plot) -> Result<()> {
        self.come()?;
        self.report()?;
        match plot {
            Plot::Reported => self.unlock_and_lock()?,
            Plot::Acknowledged => self.lose_report(true)?,
            Plot::Lost => self.lose_report(false)?,
            Plot::Away => self.wish_while_away()?,
            Plot::Expired => self.outlive_wish()?,
            Plot::ExpiredInTheDark => self.outlive_wish_in_the_dark()?,
            Plot::Killed => self.outlive_broker()?,
            Plot::Again => {
                self.unlock_and_lock()?;
                self.flap()?;
                self.unlock_and_lock()?;
            }
        }
        self.flap()?;
        self.conclude()
    }

    fn come(&mut self) -> Result<()> {
        self.vehicle.come(self.garage)?;
        self.came += 1;
        Ok(())
    }

    /// The vehicle says how its doors are.
    fn report(&mut self) -> Result<()> {
        self.vehicle.report(&json!({ "doors": self.doors }))
    }

    /// Does what the deltas say that came until now.
    fn obey(&mut self) -> Result<Vec<Delta>> {
        let deltas = self.vehicle.deltas()?;
        for delta in &deltas {
            self.deltas += 1;
            let is_known = self.handled.is_some_and(|handled| delta.sequence.is_some_and(|number| number <= handled));
            if delta.state.get("doors") == Some(&UNLOCKED.into()) && !is_known {
                self.doors = UNLOCKED;
                self.unlocks += 1;
            }
        }
        Ok(deltas)
    }

    /// Waits for what is wanted, and does it.
    fn obey_next(&mut self) -> Result<Delta> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut deltas = self.obey()?;
            ensure!(deltas.len() <= 1, "{deltas:?} instead of one delta");
            if let Some(delta) = deltas.pop() {
                return Ok(delta);
            }
            ensure!(Instant::now() < deadline, "no delta came");
        }
    }

    fn unlock_and_lock(&mut self) -> Result<()> {
        self.backend.desire(self.vin, &json!({ "doors": UNLOCKED }), None)?;
        self.obey_next()?;
        self.report()?;
        // Fulfilled wishes don't come again.
        self.flap()?;
        self.lock_by_hand()
    }

    fn lock_by_hand(&mut self) -> Result<()> {
        ensure!(self.doors == UNLOCKED, "the doors are not unlocked");
        self.doors = LOCKED;
        self.report()
    }

    /// The doors unlock, the connection goes before the vehicle could say so, and they are locked by hand meanwhile.
    fn lose_report(&mut self, is_acknowledged: bool) -> Result<()> {
        self.backend.desire(self.vin, &json!({ "doors": UNLOCKED }), None)?;
        let number = self.obey_next()?.sequence.context("a delta without a number")?;
        if is_acknowledged {
            self.vehicle.settle(None, number)?;
        } else {
            self.handled = Some(number);
        }
        self.vehicle.cut()?;
        self.doors = LOCKED;
        self.kill()?;
        self.come()?;
        if is_acknowledged {
            return self.report();
        }
        // It is sent again, and rightly so: nobody knows that it was handled.
        let again = self.obey_next()?;
        ensure!(again.sequence == Some(number), "{again:?} instead of delta {number}");
        self.vehicle.settle(Some(&json!({ "doors": self.doors })), number)?;
        // From here on, the vehicle does whatever it is told.
        self.handled = None;
        Ok(())
    }

    /// One delta with the newest of all that was wished.
    fn wish_while_away(&mut self) -> Result<()> {
        self.vehicle.cut()?;
        for (doors, heat) in [(UNLOCKED, 1), (LOCKED, 2), (UNLOCKED, 3)] {
            self.backend.desire(self.vin, &json!({ "doors": doors, "seat": { "heat": heat } }), None)?;
        }
        self.kill()?;
        self.come()?;
        let delta = self.obey_next()?;
        ensure!(delta.state == json!({ "doors": UNLOCKED, "seat": { "heat": 3 } }), "{delta:?}");
        self.vehicle.report(&json!({ "seat": { "heat": 3 } }))?;
        self.report()?;
        self.flap()?;
        self.lock_by_hand()
    }

    fn outlive_broker(&mut self) -> Result<()> {
        self.backend.desire(self.vin, &json!({ "doors": UNLOCKED }), None)?;
        self.obey_next()?;
        self.report()?;
        self.kill_under()?;
        self.lock_by_hand()?;
        self.kill_under()
    }

    /// The broker is killed and comes back, and it is for the vehicle to find out.
    fn kill_under(&mut self) -> Result<()> {
        self.kill()?;
        self.vehicle.recover(self.garage)?;
        self.came += 1;
        let deltas = self.obey()?;
        ensure!(deltas.is_empty(), "{deltas:?} came with a connection");
        Ok(())
    }

    fn outlive_wish(&mut self) -> Result<()> {
        self.vehicle.cut()?;
        self.backend.desire(self.vin, &json!({ "doors": UNLOCKED }), Some(TTL.as_secs()))?;
        let told = self.backend.expired(self.vin)?;
        ensure!(told["state"] == json!({ "doors": UNLOCKED }), "{told} expired");
        self.come()
    }

    fn outlive_wish_in_the_dark(&mut self) -> Result<()> {
        self.vehicle.cut()?;
        self.backend.desire(self.vin, &json!({ "doors": UNLOCKED }), Some(TTL.as_secs()))?;
        self.garage.kill()?;
        // Nobody is there who could tell when it is over.
        thread::sleep(TTL);
        self.kills += 1;
        self.garage.restart()?;
        self.come()?;
        self.backend = Backend::connect(self.garage)?;
        Ok(())
    }

    /// The broker is killed and comes back.
    fn kill(&mut self) -> Result<()> {
        self.kills += 1;
        self.garage.kill()?;
        self.garage.restart()?;
        self.backend = Backend::connect(self.garage)?;
        Ok(())
    }

    /// The connection goes and comes; in the middle, the broker is killed.
    fn flap(&mut self) -> Result<()> {
        for round in 0..self.flaps {
            self.vehicle.cut()?;
            if round == self.flaps / 2 {
                self.kill()?;
            }
            self.come()?;
            let deltas = self.obey()?;
            ensure!(deltas.is_empty(), "{deltas:?} came with a connection");
        }
        Ok(())
    }

    /// Whatever was on its way has come when something else that is wished has, and nothing of the doors is with it.
    fn conclude(&mut self) -> Result<()> {
        self.wishes += 1;
        let wish = json!({ "lights": self.wishes });
        self.backend.desire(self.vin, &wish, None)?;
        let delta = self.obey_next()?;
        ensure!(delta.state == wish, "{delta:?} instead of {wish}");
        self.vehicle.report(&wish)?;
        ensure!(self.doors == LOCKED, "the doors are {} in the end", self.doors);
        let state = self.backend.document(self.vin)?["state"].clone();
        ensure!(state["reported"]["doors"] == LOCKED, "{state} in the end");
        ensure!(state["desired"].get("doors").is_none() && state.get("delta").is_none(), "{state} in the end");
        Ok(())
    }
}

fn figures(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let found = match &row.broken {
            None if row.unlocks == row.plot.unlocks() => "ok".to_owned(),
            None => "WRONG".to_owned(),
            Some(why) => format!("BROKEN: {why}"),
        };
        let numbers = [row.flaps, row.kills, row.deltas, row.unlocks, row.plot.unlocks()];
        let words = [row.player.clone(), row.plot.name().to_owned()];
        words.into_iter().chain(numbers.map(|number| number.to_string())).chain([found]).collect()
    };
    let head = ["vehicle", "story", "connects", "SIGKILLs", "deltas", "unlocks", "wanted", ""];
    table::render(&head, &rows.iter().map(cells).collect::<Vec<Vec<String>>>())
}

fn verdict(rows: &[Row]) -> Result<()> {
    let is_good = |row: &&Row| row.broken.is_none() && row.unlocks == row.plot.unlocks();
    let good = rows.iter().filter(is_good).count();
    if good < rows.len() || rows.is_empty() {
        bail!("{} of {} stories end badly", rows.len() - good, rows.len());
    }
    let sum = |of: fn(&Row) -> u32| rows.iter().map(of).sum::<u32>();
    println!(
        "holds: {} stories, {} connects, {} SIGKILLs: {} unlocks, as many as were wanted",
        rows.len(),
        sum(|row| row.flaps),
        sum(|row| row.kills),
        sum(|row| row.unlocks)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(plot: Plot, unlocks: u32, broken: Option<&str>) -> Row {
        let broken = broken.map(str::to_owned);
        Row { player: String::new(), plot, flaps: 1, kills: 1, deltas: 1, unlocks, broken }
    }

    #[test]
    fn each_story_is_in_one_lane() {
        let lanes = lanes();
        for player in PLAYERS {
            for plot in PLOTS {
                let told = lanes.iter().filter(|lane| lane.player == player && lane.plots.contains(&plot)).count();
                assert_eq!(told, usize::from(plot.is_for(player)), "{}: {}", player.name(), plot.name());
            }
        }
    }

    #[test]
    fn one_unlock_too_many_or_too_few_fails() {
        assert!(verdict(&[row(Plot::Reported, 1, None), row(Plot::Expired, 0, None)]).is_ok());
        assert!(verdict(&[row(Plot::Reported, 2, None)]).is_err());
        assert!(verdict(&[row(Plot::Again, 1, None)]).is_err());
        assert!(verdict(&[row(Plot::Expired, 1, None)]).is_err());
        assert!(verdict(&[row(Plot::Reported, 1, Some("why"))]).is_err());
        assert!(verdict(&[]).is_err());
    }
}
