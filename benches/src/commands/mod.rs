//! The scenario `commands`: very many commands at the same time, to vehicles that answer in any way, while the broker is killed.
//!
//! Owns the run: who there is, when the broker is killed, and when it is over. Each request must have exactly one outcome, and none somebody
//! else's.

mod book;
mod requester;
mod token;
mod vehicle;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use self::book::{Book, Findings, Plan};
use self::requester::Requester;
use self::token::Issuer;
use self::vehicle::{Vehicle, vin};
use crate::broker::Broker;
use crate::process;
use crate::report::Format;

/// How long after the last deadline outcomes and late replies may come.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// How often it is looked how far all are.
const LOOK: Duration = Duration::from_millis(2);
/// How long the last outcome may take beyond that.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to run, and how hard.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// Shell command that runs the broker in the foreground; it is killed and run again
    #[arg(long, value_name = "COMMAND")]
    broker_command: String,
    /// Vehicles
    #[arg(long, default_value_t = 100)]
    vehicles: usize,
    /// Requests, all pending at the same time
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
    /// Requesters; each goes and comes back once
    #[arg(long, default_value_t = 4)]
    requesters: usize,
    /// How often to kill the broker
    #[arg(long, default_value_t = 1)]
    kills: u32,
    /// Seconds until a command is over
    #[arg(long, default_value_t = 8)]
    deadline_seconds: u32,
    /// Chooses vehicles and plans
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    format: Format,
}

/// All that came of it.
#[derive(Debug, Serialize)]
struct Summary {
    vehicles: usize,
    kills: u32,
    recovery_ms_max: f64,
    seconds: f64,
    #[serde(flatten)]
    findings: Findings,
}

/// Prints the public key of the tokens.
///
/// # Errors
/// None that is not a bug.
pub(crate) fn print_key() -> Result<()> {
    println!("{}", Issuer::new()?.key_set());
    Ok(())
}

/// Runs it and prints the figures last.
///
/// # Errors
/// When the broker cannot be run, or a promise is broken.
pub(crate) async fn run(options: &Options) -> Result<()> {
    process::open_all_files();
    LocalSet::new().run_until(run_here(options)).await
}

async fn run_here(options: &Options) -> Result<()> {
    let issuer = Issuer::new()?;
    let mut broker = Broker::start(&options.broker_command)?;
    broker.wait_until_ready(options.target).await?;
    let book = Rc::new(RefCell::new(plan(options)));
    let mut tasks = JoinSet::new();
    start_vehicles(options, &issuer, &book, &mut tasks).await?;
    let requesters = ready_requesters(options, &issuer, &book).await?;
    let all_told = Rc::clone(&book.borrow().all_told);
    let began = Instant::now();
    for (requester, link) in requesters {
        tasks.spawn_local(requester.run(link));
    }
    let deadline = Duration::from_secs(options.deadline_seconds.into());
    let mut recovery_max = Duration::ZERO;
    let told = async {
        // Asked before anybody can tell.
        let told = all_told.notified();
        if book.borrow().open > 0 {
            told.await;
        }
    };
    let disturbances = async {
        for kill in 1..=options.kills {
            let is_last = kill == options.kills && kill > 1;
            // All but the last while it is requested, and that one while it is answered.
            let share = (options.requests as f64) * f64::from(kill) / f64::from(options.kills + 1);
            let moment = began + deadline.mul_f64(0.4);
            while Instant::now() < moment && (is_last || (book.borrow().counts.delivered as f64) < share) {
                sleep(LOOK).await;
            }
            broker.kill()?;
            broker.start_again()?;
            recovery_max = recovery_max.max(broker.wait_until_ready(options.target).await?);
        }
        anyhow::Ok(())
    };
    let limit = deadline * 2 + PATIENCE;
    let run = async {
        let (_, disturbed) = tokio::join!(timeout(limit, told), disturbances);
        disturbed?;
        // Late replies, and outcomes that there must not be, may still come.
        sleep((deadline + AFTERWARDS).saturating_sub(began.elapsed()).max(Duration::from_secs(1))).await;
        anyhow::Ok(())
    };
    tokio::select! {
        ended = run => ended?,
        Some(task) = tasks.join_next() => task.context("a client")?.context("a client")?,
    }
    broker.check_alive()?;
    let book = book.borrow();
    book.complaints().for_each(|what| eprintln!("{what}"));
    let summary = Summary {
        vehicles: options.vehicles,
        kills: options.kills,
        recovery_ms_max: recovery_max.as_secs_f64() * 1e3,
        seconds: began.elapsed().as_secs_f64(),
        findings: book.findings(),
    };
    options.format.print("all requests", &summary)?;
    let Findings { without_outcome, with_several, wrong, .. } = summary.findings;
    if without_outcome + with_several + wrong > 0 {
        bail!("{without_outcome} requests without an outcome, {with_several} with several, {wrong} other things wrong");
    }
    Ok(())
}

/// Who commands whom, and what becomes of the reply.
fn plan(options: &Options) -> Book {
    let mut book = Book::default();
    let mut dice = options.seed.max(1);
    let mut roll = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % sides
    };
    for number in 0..options.requests {
        let mut left = roll(100);
        let share = Plan::SHARES.iter().find(|(_, share)| {
            let is_it = left < *share;
            left = left.saturating_sub(*share);
            is_it
        });
        let plan = share.map_or(Plan::Reply, |(plan, _)| *plan);
        // As many for each vehicle, in no order that means anything.
        let vehicle = (number % options.vehicles * 7919) % options.vehicles;
        book.add(number % options.requesters, vehicle, plan, 1 + roll(2) as u8);
    }
    book
}

async fn start_vehicles(
    options: &Options,
    issuer: &Issuer,
    book: &Rc<RefCell<Book>>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let (forgers, to_forge): (Vec<_>, Vec<_>) = (0..options.vehicles).map(|_| mpsc::unbounded_channel()).unzip();
    let forgers = Rc::new(forgers);
    let deadline = Duration::from_secs(options.deadline_seconds.into());
    // So late that all requests are pending at the same time, and some replies come while the broker is not there.
    let answers = (deadline.mul_f64(0.25), deadline.mul_f64(0.6));
    for (number, to_forge) in to_forge.into_iter().enumerate() {
        let token = issuer.token(&format!("vehicle:{}", vin(number)))?;
        let forging = (to_forge, Rc::clone(&forgers));
        let vehicle = Vehicle::new(number, options.target, token, (deadline, answers), Rc::clone(book), forging);
        let (link, _) = vehicle.connect().await.with_context(|| format!("vehicle {number}"))?;
        tasks.spawn_local(vehicle.run(link));
    }
    Ok(())
}

async fn ready_requesters(
    options: &Options,
    issuer: &Issuer,
    book: &Rc<RefCell<Book>>,
) -> Result<Vec<(Requester, crate::link::Link)>> {
    let mut requesters = Vec::new();
    for number in 0..options.requesters {
        let token = issuer.token(&format!("service:backend-{number}"))?;
        let mut requester = Requester::new(number, options.target, token, Rc::clone(book));
        requester.to_request = (0..options.requests).rev().filter(|of| of % options.requesters == number).collect();
        requester.deadline_seconds = options.deadline_seconds;
        requester.restarts_after = requester.to_request.len() / 3;
        let (link, _) = requester.connect().await.with_context(|| format!("requester {number}"))?;
        requesters.push((requester, link));
    }
    Ok(requesters)
}
