//! `causeway-bench`: load for any MQTT broker.
//!
//! Owns the command line; each scenario is a module. It speaks its own few
//! bytes of MQTT, so that a broker never measures itself against its own
//! codec, and one process is one thread: more load is more processes.

// A command-line program talks to its user through standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod arrive;
mod broadcast;
mod broker;
mod client;
mod commands;
mod compare;
mod connections;
mod disk_full;
mod durable;
mod harness;
mod kill;
mod latency;
mod ledger;
mod link;
mod load;
mod million;
mod plot;
mod policy;
mod population;
mod powercut;
mod process;
mod receiver;
mod relay;
mod report;
mod sender;
mod soak;
mod spread;
mod storm;
mod table;
mod twin;
mod wire;

/// Load for any MQTT broker.
#[derive(Debug, Parser)]
#[command(name = "causeway-bench")]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

/// What load to make.
#[derive(Debug, Subcommand)]
enum Scenario {
    /// Publish and receive as fast as the broker can, or at a rate, and check every message
    Load(load::Options),
    /// Put brokers side by side, each on one core, under the same load
    Compare(compare::Options),
    /// Let many clients connect, a few or all at the same time, and measure time, memory and processor time of each
    Arrive(arrive::Options),
    /// Make very many subscriptions, and find each again
    Subscriptions(population::Options),
    /// Retain very many messages, and subscribe to all of them
    Retained(population::Options),
    /// Copy bytes from publishers to subscribers, to show what the load itself can do
    Relay(relay::Options),
    /// Hold idle connections, and measure how many new ones a second are answered
    Connections(connections::Options),
    /// Measure how many messages a second are acknowledged when each must be kept, and how long one waits
    Durable(durable::Options),
    /// Kill a broker under full load, again and again, and check that it keeps every promise
    Kill(kill::Options),
    /// Fill a broker's disk to the last byte, and check that it refuses, recovers and loses nothing
    DiskFull(disk_full::Options),
    /// Cut the power of the core and its storage before every operation on a disk in memory, and look for what was acknowledged
    Powercut(powercut::Options),
    /// Send one message to very many sessions that are away, through the core and a log on the disk
    Broadcast(broadcast::Options),
    /// Make a data folder with very many sessions and messages that wait
    MakeSessions(million::MakeOptions),
    /// Connect some of those sessions to a daemon, and check what they get
    CollectSessions(million::CollectOptions),
    /// Command many vehicles at the same time, kill the broker meanwhile, and check that each request has one outcome
    Commands(commands::Options),
    /// Print the public key of the tokens by which the clients of `commands` say who they are, for the broker's configuration
    CommandsKey,
    /// Measure what a decision of the policy costs, among few and many rules
    Policy(policy::Options),
    /// Work a broker for long at a bounded rate, and sample its memory and its disk
    Soak(soak::Options),
    /// Let vehicles with certificates and wills drop and come back, all at once, as told on standard input
    Storm(storm::Options),
    /// Read, change and find shadows of vehicles, and send them commands
    Twin(twin::Options),
    /// Send and receive beside a storm, and count wills
    StormControl(storm::ControlOptions),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.scenario {
        Scenario::Load(options) => load::run(&options),
        Scenario::Compare(options) => compare::run(&options),
        Scenario::Arrive(options) => arrive::run(&options),
        Scenario::Subscriptions(options) => runtime.block_on(population::subscriptions(&options)),
        Scenario::Retained(options) => runtime.block_on(population::retained(&options)),
        Scenario::Relay(options) => relay::run(&options),
        Scenario::Connections(options) => runtime.block_on(connections::run(&options)),
        Scenario::Durable(options) => runtime.block_on(durable::run(&options)),
        Scenario::Kill(options) => runtime.block_on(kill::run(&options)),
        Scenario::DiskFull(options) => runtime.block_on(disk_full::run(&options)),
        Scenario::Powercut(options) => powercut::run(&options),
        Scenario::Broadcast(options) => broadcast::run(&options),
        Scenario::MakeSessions(options) => million::make(&options),
        Scenario::CollectSessions(options) => runtime.block_on(million::collect(&options)),
        Scenario::Commands(options) => runtime.block_on(commands::run(&options)),
        Scenario::CommandsKey => commands::print_key(),
        Scenario::Policy(options) => policy::run(&options),
        Scenario::Soak(options) => runtime.block_on(soak::run(&options)),
        Scenario::Storm(options) => storm::run(&options),
        Scenario::Twin(options) => runtime.block_on(twin::run(&options)),
        Scenario::StormControl(options) => storm::run_control(&options),
    }
}
