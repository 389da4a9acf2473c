//! The scenario `twin`: shadows and commands of vehicles, against a running broker.
//!
//! Owns the list of things that are measured; each is a module and prints its own figures. Thresholds are not set here.

use anyhow::Result;
use clap::{Args, Subcommand};
use tokio::task::LocalSet;

mod commands;
mod documents;
mod fill;
mod http;
mod query;
mod reads;
mod session;
mod updates;
mod window;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    thing: Thing,
}

#[derive(Debug, Subcommand)]
enum Thing {
    /// Make a shadow for each of very many vehicles
    Fill(fill::Options),
    /// Update shadows as fast as the broker acknowledges, and one at a time, beside plain messages that must be kept
    Updates(updates::Options),
    /// Read and patch shadows over MQTT and HTTP, one at a time and as fast as it goes
    Reads(reads::Options),
    /// Look for vehicles by their shadows, a page at a time, while somebody publishes
    Query(query::Options),
    /// Send commands that are answered, in turns with plain messages that are answered
    Commands(commands::Options),
}

/// Measures one thing and prints the figures.
///
/// # Errors
/// When the broker cannot be reached, or does not do what it is asked.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let measuring = async {
        match &options.thing {
            Thing::Fill(options) => fill::run(options).await,
            Thing::Updates(options) => updates::run(options).await,
            Thing::Reads(options) => reads::run(options).await,
            Thing::Query(options) => query::run(options).await,
            Thing::Commands(options) => commands::run(options).await,
        }
    };
    LocalSet::new().run_until(measuring).await
}
